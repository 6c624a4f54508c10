"""The benchmarks' arithmetic, selection, files and workers; nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_twins import twin

sys.path.append(str(Path(__file__).resolve().parent.parent))  # benchmarks/ is no installed package

from benchmarks import cases, environment, inputs, measure, results
from benchmarks.__main__ import set_name
from benchmarks.process import Worker, WorkerError
from minires import models

TINY = {
    "training": {"model": "resnet20", "batch": 2, "size": 8},
    "inference": {"model": "resnet20", "batch": 2, "size": 8},
    "optimizer_step": {"model": "resnet20"},
    "conv2d": {
        "direction": "weight-grad",
        "input_shape": (2, 3, 7, 7),
        "weight_shape": (4, 3, 3, 3),
        "stride": 2,
        "padding": 1,
    },
    "batch_norm_add_relu": {"direction": "backward", "shape": (2, 3, 4, 4)},
    "max_pool2d": {"direction": "backward", "shape": (2, 3, 8, 8)},
    "cross_entropy": {"shape": (4, 10)},
}


@pytest.fixture(scope="module")
def sides():
    with Worker("minires_side", 1) as ours, Worker("torch_side", 1) as theirs:
        yield ours, theirs


@pytest.mark.parametrize("kind", TINY)
def test_both_sides_get_the_same_numbers(kind, sides, tmp_path):
    weights = str(tmp_path / "weights.safetensors") if "model" in TINY[kind] else None
    numbers = []
    for side in sides:
        variant = side.ask("variants", kind=kind)[0]
        side.ask("prepare", kind=kind, options=TINY[kind], variant=variant, weights=weights)
        numbers.append(side.ask("check"))
        assert side.ask("run", steps=2) > 0
    assert numbers[0]
    assert inputs.disagreement(*numbers) < 1e-3


def test_the_rivals_layouts_get_the_same_numbers(sides):
    numbers = []
    for variant in ("contiguous, eager", "channels-last, eager"):
        sides[1].ask("prepare", kind="conv2d", options=TINY["conv2d"], variant=variant, weights=None)
        numbers.append(sides[1].ask("check"))
    assert inputs.disagreement(*numbers) < 1e-4


def test_memory_counts_what_a_case_takes(sides, tmp_path):
    ours, _ = sides
    weights = str(tmp_path / "weights.safetensors")
    ours.ask("prepare", kind="training", options=TINY["training"], variant="default", weights=weights)
    ours.ask("check")
    memory = ours.ask("memory")
    assert 0 < memory["before"] <= memory["peak"] < 1 << 40


def test_a_failed_request_says_why_and_the_worker_goes_on(sides):
    with pytest.raises(WorkerError, match="there is no model 'resnet19'"):
        sides[0].ask(
            "prepare", kind="inference", options={"model": "resnet19", "batch": 1, "size": 8}, variant="", weights="w"
        )
    assert sides[0].ask("hello")["minires"]


def test_a_worker_that_dies_leaves_its_last_words():
    with Worker("no_such_side", 1) as worker, pytest.raises(WorkerError, match="no_such_side"):
        worker.ask("hello")


def test_a_case_measured_in_turns():
    case = cases.Case("tiny", cases.OPS, "conv2d", TINY["conv2d"], 1000, "FLOP", turn_seconds=1e-4)
    settings = measure.Settings(pairs=3, threads=1, pause=0)
    with measure.Workers(1) as workers:
        result = measure.measure(case, workers, settings, lambda line: None)
    assert set(result["variants_tried"]) == {"contiguous, eager", "channels-last, eager"}
    assert result["variant"] in result["variants_tried"]
    rival, ours = (np.array(result[side]["seconds_per_step"]["values"]) for side in ("theirs", "ours"))
    np.testing.assert_allclose(result["ratio"]["values"], rival / ours)
    json.dumps(result, allow_nan=False)


def test_spread_of_known_values():
    spread = measure.spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (spread["lower_quartile"], spread["median"], spread["upper_quartile"]) == (2.0, 3.0, 4.0)


def test_spread_of_one_value():
    spread = measure.spread([2.5])
    assert spread["lower_quartile"] == spread["median"] == spread["upper_quartile"] == 2.5


def test_the_fastest_variant_is_one_that_worked():
    assert measure.fastest({"a": {"error": "no compiler"}, "b": {"seconds": 2.0}, "c": {"seconds": 1.0}}) == "c"
    assert measure.fastest({"a": {"error": "no compiler"}}) is None


class Clock:
    """A worker whose first step takes a second more than the others."""

    def __init__(self, step):
        self.step, self.first = step, 1.0

    def ask(self, request, steps):
        seconds, self.first = self.first + self.step * steps, 0.0
        return seconds


@pytest.mark.parametrize(("step", "expected"), [(2.0, 1), (0.25, 2), (0.003, 167)])
def test_a_turn_has_enough_steps(step, expected):
    worker = Clock(step)
    worker.ask("run", steps=1)
    assert measure.steps_per_turn(worker, 0.5) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, 0.0),
        ({"a": [1.0, 2.0]}, {"a": [1.5, 2.0]}, 0.25),
        ({"a": [100.0], "b": [1.0]}, {"a": [100.0], "b": [1.1]}, 0.1),
        ({"a": [float("nan")]}, {"a": [float("nan")]}, float("inf")),
    ],
)
def test_disagreement(ours, theirs, expected):
    assert inputs.disagreement(ours, theirs) == pytest.approx(expected)


def test_disagreement_needs_the_same_names():
    with pytest.raises(ValueError, match="different things"):
        inputs.disagreement({"a": [1.0]}, {"b": [1.0]})


def test_a_digest_tells_a_permutation():
    array = inputs.normal((4, 5), seed=0)
    assert abs(inputs.digest(array)[1] - inputs.digest(array[::-1])[1]) > 1e-3


def test_names_are_unique_and_groups_known():
    names = [case.name for case in cases.all_cases()]
    assert len(names) == len(set(names))
    assert {case.group for case in cases.all_cases()} == set(cases.GROUPS)


def test_selection_by_default():
    assert {case.group for case in cases.select()} == {"training", "inference"}
    assert len(cases.select()) == 10


def test_selection_by_group_and_by_pattern():
    chosen = cases.select(["odd-shapes"], ["resnet18-inference-*"])
    assert [case.name for case in chosen] == [
        "resnet18-inference-b1-224",
        "resnet18-inference-b16-224",
        "resnet18-training-b1-224",
        "resnet18-training-b4-160",
        "resnet18-training-b2-288",
        "resnet18-training-b3-101",
    ]


@pytest.mark.parametrize(("groups", "patterns"), [(["trianing"], []), ([], ["resnet19-*"])])
def test_selection_refuses_what_does_not_exist(groups, patterns):
    with pytest.raises(ValueError, match=re.escape((groups + patterns)[0])):
        cases.select(groups, patterns)


@pytest.mark.parametrize(
    ("name", "convs", "size"),
    [
        ("resnet18", cases.resnet18_convs(1), 224),
        ("resnet50", cases.resnet50_convs(1), 224),
        ("resnet20", cases.resnet20_convs(1), 32),
    ],
)
def test_the_convolutions_are_those_of_the_net(name, convs, size):
    seen = set()

    def note(conv, inputs, output):
        (x,) = inputs
        seen.add((x.shape[1], x.shape[2], conv.out_channels, conv.kernel_size[0], conv.stride[0]))
        assert conv.padding[0] == conv.kernel_size[0] // 2

    net = twin(name).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        net(torch.zeros(1, 3, size, size, dtype=torch.float64))
    assert {(c.in_channels, c.size, c.out_channels, c.kernel, c.stride) for c in convs} == seen
    assert len(convs) == len(seen)


def test_operations_of_a_convolution():
    conv = cases.Conv(batch=2, in_channels=3, size=5, out_channels=4, kernel=3, stride=2)
    assert conv.flop == 2 * (2 * 3 * 3 * 4) * (3 * 3 * 3)  # 3x3 output pixels, each a sum of 27 products


@pytest.mark.parametrize("name", sorted({case.options["model"] for case in cases.select()}))
def test_the_rivals_nets_have_our_parameters(name):
    from benchmarks.workers.torch_models import get_model

    theirs = {key: tuple(value.shape) for key, value in get_model(name).state_dict().items()}
    assert theirs == {key: value.shape for key, value in models.get_model(name).state_dict().items()}


def test_results_are_written_whole(tmp_path):
    path = tmp_path / "folder" / "results.json"
    results.write({"cases": [1]}, path)
    with pytest.raises(ValueError, match="JSON"):
        results.write({"cases": [float("nan")]}, path)
    assert json.loads(path.read_text()) == {"cases": [1]}
    assert list(path.parent.iterdir()) == [path]


def test_the_name_of_a_result():
    path = results.default_path({"date": "2026-02-03T04:05:06+00:00", "cpu": "A(R) CPU @ 2.5GHz"}, "training")
    assert path.name == "2026-02-03-a-r-cpu-2-5ghz-training.json"


def test_a_run_against_another_rival_is_another_set():
    assert set_name(["training"], ["resnet20*"], "pytorch") == "training-resnet20*"
    assert set_name(["inference"], [], "openvino") == "inference-openvino"
    assert set_name([], [], "openvino") == "-".join([*cases.DEFAULT_GROUPS, "openvino"])


def test_the_environment_names_versions_and_threads():
    where = environment.environment(["minires_side"], 2, ["training", "--case", "a b"])
    assert where["command"] == "python -m benchmarks training --case 'a b'"
    assert where["threads"] == 2
    assert where["cpu"]
    assert {"python", "minires", "numpy", "numba", "llvmlite"} <= set(where["versions"])
