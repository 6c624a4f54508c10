"""The report: one page that needs nothing else, in a real browser too, and the command that writes it."""

from __future__ import annotations

import csv
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from study_nets import LinearBlock, Scaling, labels, matrix_layer, rows
from typer.testing import CliRunner

from minires import nn
from minires.cli import app
from minires.cli.study import INSTRUMENT_NAMES, QUICK_NAMES
from minires.data import Shapes
from minires.study import contestant, sections
from minires.study.report import ROWS_SHOWN, Picture, Report, Section, Table, write_report
from minires.study.sections import INSTRUMENTS, QUICK, run_instrument
from minires.study.shattering import Autocorrelation
from minires.study.subject import Subject, SurveyOptions, plain_twin
from minires.study.survey import survey
from minires.training import Checkpoint, Experiment, Recipe

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect id="a" width="40" height="20"/></svg>'
SMALL = ["--steps", "2", "--images", "64", "--test-images", "16", "--batch-size", "16", "--gradient-batch", "4"]


class Wrapped(nn.Module):
    """y = x + w x, where w x is a layer of its own."""

    def __init__(self, w):
        super().__init__()
        self.layer = matrix_layer([[w, 0.0], [0.0, w]])

    def forward(self, x):
        return x + self.layer(x)


def study(*arguments, status=0):
    result = CliRunner().invoke(app, ["study", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of a small net, by the command."""
    path = tmp_path_factory.mktemp("study")
    study(
        "residual-8", *SMALL, "--image-size", "8", "--out", path,
        "--instruments", "graph,decomposition,paths,lesions",
    )  # fmt: skip
    return path


class Outline(HTMLParser):
    """What the page says of its structure."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])


def test_findings_follow_the_run():
    """What flow, decomposition and paths say of nets whose gradients are known on paper."""

    class Known(Subject):
        def __init__(self, net):
            super().__init__(SurveyOptions(model="known"))
            self.net = net.double()

        names = ("known",)
        batch = (rows([1.0, 0.0]), labels(0))

        def fresh(self):
            return {"known": self.net}

        trained = fresh

    def findings(instrument, *layers):
        return INSTRUMENTS[instrument](Known(nn.Sequential(*layers))).findings

    first, logits = matrix_layer([[1.0, 0.0], [0.0, 1.0]]), matrix_layer([[1.0, 0.0], [0.0, 8.0]])
    # Two blocks x + 3 x: at the layer before them there is 16 times what there is behind them, whatever the logits do.
    (line,) = findings("flow", first, Wrapped(3.0), Wrapped(3.0), logits)
    assert "at 2.layer, where the blocks end" in line
    assert line.endswith("at 0, 16 times as much.")
    before, after = findings("decomposition", first, Scaling(0.0), Scaling(-2.0), logits)
    assert "the branch's part is 2 times the shortcut's, at an angle of 180 degrees" in before
    assert "nothing comes through the branch of 1 of the 2 blocks" in after
    (before, after) = findings("paths", first, Scaling(3.0), Scaling(3.0), logits)
    assert "those of at most 1, 75.0 % of all paths, bring 43.8 %" in before  # 1 + 2 x 3 of 16
    (zeros, values) = findings("jacobian", first, LinearBlock([[0.0, 0.0], [0.0, 3.0]]), logits)
    assert zeros == "known: of the singular values of a branch 50 % are zero, with the shortcut 0 %."
    assert "the median is 1.00 with the shortcut, the largest 4; the 90 % quantile of the branches alone is 3" in values
    (line,) = findings("hessian", first, logits)
    assert "the largest eigenvalue is at least" in line
    assert "the smallest at most" in line
    assert line.endswith("on 1 training image, in training mode.")
    problem = run_instrument("jacobian", Known(nn.Sequential(first, logits))).problem
    assert problem.startswith("this model has no residual block")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 0.8, 0.3], "falls below 1/2 after 16.0 % of the line"),
        ([1.0, 0.28, 0.0], "is 0.28 after one step, 10.00 % of the line"),
        ([1.0, 0.9, 0.8], "stays above 1/2 over 20.0 % of the line"),
    ],
)
def test_no_length_is_told_that_nobody_has_seen(values, said):
    assert sections._reach(Autocorrelation(np.array(values), 0.1)) == said


def test_names_offered_are_the_instruments():
    assert tuple(INSTRUMENTS) == INSTRUMENT_NAMES
    assert QUICK_NAMES == QUICK


def test_the_page_needs_nothing_else(folder):
    text = (folder / "report.html").read_text()
    outline = Outline(text)
    for tag, attributes in outline.tags:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href"):
            target = attributes.get(name, "data:")
            assert target.startswith(("data:", "#")) or (folder / target).is_file(), target
    assert "http://" not in re.sub(r"data:[^\"]*", "", text)
    assert "url(" not in text


def test_the_structure_of_the_page(folder):
    outline = Outline((folder / "report.html").read_text())
    tags = [tag for tag, _ in outline.tags]
    assert dict(outline.tags)["html"] == {"lang": "en"}
    assert [tags.count(tag) for tag in ("title", "h1", "main", "header", "nav", "footer")] == [1] * 6
    assert len(set(outline.ids)) == len(outline.ids)
    assert {"graph", "decomposition", "paths", "lesions"} <= set(outline.ids)
    assert all(len(attributes["alt"]) > 20 for tag, attributes in outline.tags if tag == "img")
    assert all(attributes["scope"] == "col" for tag, attributes in outline.tags if tag == "th")
    assert tags.count("caption") == tags.count("table") > 4


def test_the_numbers_are_beside_the_page(folder):
    with (folder / "paths-before-training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["length"], row["paths"]) for row in rows] == [("0", "1"), ("1", "3"), ("2", "3"), ("3", "1")]
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)


def test_text_is_escaped_and_tables_are_cut(tmp_path):
    rows = [{"a": index, "b": "<b>", "c": None, "d": True, "e": 1 / 3} for index in range(ROWS_SHOWN + 5)]
    section = Section("one", "One & two", ["A < B"], ["found"], [Picture(SVG, 'a "picture"')], [Table("numbers", rows)])
    empty = Section("two", "Two", [], problem="there is nothing")
    path = write_report(Report("Title", "Summary", "minires study", {"Seed": "0"}, [section, empty]), tmp_path / "new")
    text = path.read_text()
    assert "One &amp; two" in text
    assert "A &lt; B" in text
    assert "Not shown: there is nothing" in text
    assert f"<td>{ROWS_SHOWN - 1}</td>" in text
    assert f"<td>{ROWS_SHOWN}</td>" not in text
    assert "<td>&lt;b&gt;</td><td>-</td><td>yes</td><td>0.3333</td>" in text
    with (tmp_path / "new" / "numbers.csv").open() as file:
        assert len(list(csv.reader(file))) == ROWS_SHOWN + 6


def test_twins_share_their_weights_and_have_no_skips():
    net = contestant("residual-8")
    twin = plain_twin(net)
    state, other = net.state_dict(), twin.state_dict()
    assert list(state) == list(other)
    assert all((state[name].numpy() == other[name].numpy()).all() for name in state)
    assert [block.residual for stage in (twin.layer1, twin.layer2) for block in stage] == [False, False]
    assert net.layer1[0].residual
    assert plain_twin(contestant("fixup-8")) is None
    assert plain_twin(twin) is None


def test_sections_that_cannot_be_made_say_why():
    options = SurveyOptions(
        model="plain-8", image_size=8, images=32, test_images=8, steps=1, batch_size=16, gradient_batch=2
    )
    told = []
    report = survey(Subject(options), ["flow", "paths"], "command", lambda title, findings: told.append(findings))
    flow, paths = report.sections
    assert not flow.problem
    assert "no residual block" in paths.problem
    assert told[1] == [paths.problem]
    assert report.title == "The gradient in plain-8"  # which has no skip connections


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("MyOp has no second derivative"), "MyOp has no second derivative"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
def test_an_operation_that_an_instrument_cannot_go_through_ends_its_section_only(monkeypatch, error, problem):
    def no_second_derivative(subject):
        raise error

    monkeypatch.setitem(INSTRUMENTS, "hessian", no_second_derivative)
    subject = Subject(SurveyOptions(model="residual-8", image_size=8, images=32, test_images=8, steps=1, batch_size=16))
    hessian, graph = survey(subject, ["hessian", "graph"], "command").sections
    assert hessian.problem == problem
    assert not graph.problem


def test_a_net_whose_blocks_get_no_gradient_at_first(tmp_path):
    """Fixup's classifier starts at 0, so before training no gradient arrives at any block."""
    study("fixup-8", *SMALL, "--image-size", "8", "--instruments", "flow,decomposition,paths", "--out", tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "fixup-8 before training: nothing comes through the branches or the shortcuts: no gradient" in text
    assert "no gradient passes from layer3.0.downsample to conv1" in text
    assert "fixup-8 before training: no gradient arrives at the images" in text
    assert "Not shown" not in text


def test_a_batch_of_one(tmp_path):
    """Where batch norm has one value a channel, each instrument that trains says so, and the others still run."""
    study(
        "residual-8", *SMALL[:-1], "1", "--image-size", "4", "--instruments", "decomposition,jacobian,lesions",
        "--out", tmp_path,
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert text.count("Not shown: batch_norm in training needs more than one value per channel") == 1
    assert text.count('<ul class="findings">') == 2


@pytest.mark.slow
def test_a_line_between_images_does_not_need_a_batch_of_two(tmp_path):
    study("residual-8", *SMALL[:-1], "1", "--image-size", "8", "--instruments", "shattering", "--out", tmp_path)
    assert "Not shown" not in (tmp_path / "report.html").read_text()


def test_degradation_and_variants(tmp_path):
    study(
        "residual-8",
        *SMALL,
        "--image-size",
        "8",
        "--depths",
        "8",
        "--instruments",
        "degradation,variants",
        "--out",
        tmp_path,
    )
    text = (tmp_path / "report.html").read_text()
    for name in ("plain-8", "residual-8", "highway-8", "zero-init-8", "fixup-8"):
        assert f"{name}: training loss" in text
    assert (tmp_path / "variants-gates.csv").is_file()


def save_checkpoint(path, classifier_weight):
    """Save a resnet20 for shapes whose classifier has one value everywhere, as minires train would."""
    recipe = Recipe("test", steps=1)
    experiment = Experiment("shapes", "resnet20", recipe, Shapes(size=1).classes)
    net = experiment.build_model()
    net.fc.weight.data.fill_(classifier_weight)
    optimizer = recipe.optimizer(net.parameters())
    Checkpoint.capture(net, optimizer, recipe.scheduler(optimizer, 1), 0, None, experiment.to_json()).save(path)


def test_a_checkpoint_is_studied_as_it_is(tmp_path):
    """Trained and fresh nets differ, nothing is trained again, and the images keep their size."""
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, 0.25)
    subject = Subject(SurveyOptions(checkpoint=path, images=8, test_images=4, gradient_batch=2))
    (studied,) = subject.trained().values()
    (fresh,) = subject.fresh().values()
    assert subject.batch[0].shape == (2, 3, 32, 32)
    assert not studied.training
    assert (studied.fc.weight.detach().numpy() == 0.25).all()
    assert (fresh.fc.weight.detach().numpy() != 0.25).any()


def test_nan_in_a_checkpoint(tmp_path):
    """Every section that needs the trained net says where the NaN is."""
    path = tmp_path / "nan.safetensors"
    save_checkpoint(path, float("nan"))
    names = "graph,decomposition,paths,lesions,jacobian,hessian,landscape"
    study("--checkpoint", path, *SMALL, "--image-size", "4", "--instruments", names, "--out", tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count("a parameter of fc is NaN or infinite: was the training unstable?</p>") == 7


def test_a_training_that_diverges(tmp_path):
    names = "decomposition,lesions,degradation"
    study(
        "residual-8", *SMALL, "--lr", "1e20", "--image-size", "8", "--depths", "8", "--instruments", names,
        "--out", tmp_path,
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert "training stopped at step" in text
    assert text.count("Not shown: ") == 2


@pytest.mark.slow
def test_every_quick_instrument_has_its_section(tmp_path):
    study("resnet20", *SMALL, "--image-size", "8", "--out", tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "Not shown" not in text
    assert text.count("<figure>") == len(QUICK) + 3  # graph, shattering and landscape have two each
    assert text.count('<ul class="findings">') == len(QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet20", "--depth", "20"], "each say what to study"),
        (["--instruments", "flow,x-ray"], "'x-ray' is none of graph, flow"),
        (["--depths", "20;56", "--instruments", "flow"], "whole numbers with commas"),
        (["resnet21", *SMALL], "did you mean"),
        (["plain-21", *SMALL], "6n"),
        (["--image-size", "5", *SMALL], "choose a divisor"),
        (["--checkpoint", "nothing.safetensors", *SMALL], "nothing.safetensors"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, tmp_path):
    result = study(*arguments, "--out", tmp_path, status=2)
    (line,) = result.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize("kind", ["file", "below a file", "page is a folder", "proc"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("minires.study.subject.train_alike", lambda *arguments: pytest.fail("a net was trained"))
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    out = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "new",
        "page is a folder": tmp_path / "taken",
        "proc": "/proc/x",
    }[kind]
    if kind == "proc" and not os.path.isdir("/proc/self"):
        pytest.skip("needs Linux")
    (line,) = study("residual-8", *SMALL, "--image-size", "8", "--out", out, status=2).stderr.splitlines()
    assert str(out) in line


def test_a_report_is_written_over_an_older_one(tmp_path):
    (tmp_path / "report.html").write_text("an earlier page")
    study("residual-8", *SMALL, "--image-size", "8", "--instruments", "flow", "--out", tmp_path)
    assert "an earlier page" not in (tmp_path / "report.html").read_text()
    assert "none: these instruments look at fresh nets" in (tmp_path / "report.html").read_text()


# In a real browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as driver:
        if executable is None and not os.path.exists(driver.chromium.executable_path):
            pytest.skip("needs Chromium: install it, or run playwright install chromium")
        launched = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_report(browser, folder):
    """Open the report, offline, at a width; anything it asks the network for fails the test."""
    pages = []

    def open_at(width):
        page = browser.new_page(viewport={"width": width, "height": 900}, offline=True)
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto((folder / "report.html").as_uri())
        pages.append((page, faults))
        return page

    yield open_at
    for page, faults in pages:
        page.close()
        assert faults == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_its_figures_are_shown(open_report, width):
    page = open_report(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for image in page.query_selector_all("img"):
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert 100 < image.bounding_box()["width"] <= width
    page.get_by_role("link", name="Gradient by path length").click()
    assert page.url.endswith("#paths")
    page.locator("summary").first.click()
    assert page.locator("table").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll in their own box


def test_the_page_prints(open_report):
    page = open_report(1280)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("h1").is_visible()
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_accessibility(open_report, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = open_report(width)
    for summary in page.locator("summary").all():
        summary.click()
    violations = axe.Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"][:200]) for violation in violations] == []
