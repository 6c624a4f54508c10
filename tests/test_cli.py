"""The command as users meet it: what it prints, what it leaves, and one line where something is wrong."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from typer.testing import CliRunner

from minires.cli import app
from minires.cli.compiling import announce_compilation
from minires.cli.options import CIFAR_MODELS, IMAGENET_MODELS, DataName, LogFormat, RecipeName
from minires.cli.progress import duration
from minires.data import available
from minires.device import cuda_is_available
from minires.models import list_models
from minires.training import Checkpoint, Experiment
from minires.training.log import LOG_FORMATS
from minires.training.recipe import RECIPES

COMMAND = [sys.executable, "-m", "minires.cli"]


def minires(*arguments, status=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result


def failure(*arguments):
    """Run the command, which must end with one line on stderr and status 2, and return the line."""
    result = minires(*arguments, status=2)
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("minires: ")
    return lines[0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of images: red and blue ones, easily told apart."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 60, (40, 48, 3), np.uint8)
                image[..., channel] += 180
                Image.fromarray(image).save(folder / f"{index}.png")
    return root


def train(pictures, out, *options):
    return minires(
        "train", "--data", "imagefolder", "--root", pictures, "--batch-size", 8, "--out", out, "--epochs", 2, *options
    )


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return out, train(pictures, out).stdout


def digits(root, train=12, test=6):
    """A miniature MNIST in the official format."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("t10k", test)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        (root / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes())
        (root / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
    return root


# Training


def test_train_prints_a_line_an_epoch_and_the_accuracy(run):
    lines = run[1].splitlines()
    assert "resnet20" in lines[0]
    assert "16 training and 8 held-out images, 4 steps in 2 epochs, cpu" in lines[0]
    epochs = [line for line in lines if line.startswith("epoch")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    for word in ("loss", "train", "test", "images/s"):
        assert all(word in line for line in epochs)
    assert lines[-2].startswith("test accuracy ")


def test_train_leaves_checkpoints_and_a_log(run):
    out = run[0]
    assert sorted(os.listdir(out)) == ["best.safetensors", "last.safetensors", "log.csv"]
    assert Checkpoint.load(out / "last.safetensors").step == 4
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(0 <= float(row["test_accuracy"]) <= 1 for row in rows)


def test_jsonl_log(pictures, tmp_path):
    train(pictures, tmp_path, "--log", "jsonl")
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_mixed_precision_is_kept_by_a_resumed_run(tmp_path):
    out, last = tmp_path / "out", tmp_path / "out" / "last.safetensors"
    options = "--data", "mnist", "--root", digits(tmp_path), "--batch-size", 4, "--out", out
    text = minires("train", "--amp", "float16", "--epochs", 1, *options).stdout
    assert text.count("mixed precision saves time on a GPU; on the CPU it takes more than float32 does") == 1
    saved = Checkpoint.load(last)
    assert saved.description["amp"] == "float16"
    assert saved.scaler["scale"] > 0
    assert saved.model["conv1.weight"].dtype == np.float32
    assert "nothing left to do" in minires("train", "--resume", last, "--root", tmp_path).stdout


def test_grey_images(tmp_path):
    out = tmp_path / "out"
    minires("train", "--data", "mnist", "--root", digits(tmp_path), "--steps", 1, "--batch-size", 4, "--out", out)
    assert Checkpoint.load(out / "last.safetensors").model["conv1.weight"].shape == (16, 1, 3, 3)
    assert "6 held-out images" in minires("eval", out / "best.safetensors", "--root", tmp_path).stdout
    image = tmp_path / "digit.png"
    Image.new("RGB", (50, 30)).save(image)
    assert "%" in minires("predict", image, "--checkpoint", out / "best.safetensors").stdout


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(run, pictures, tmp_path, monkeypatch):
    from minires.training import Trainer

    def interrupted(self):
        self.on_epoch(self._train_epoch())
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupted)
    options = ["--data", "imagefolder", "--root", pictures, "--batch-size", 8, "--out", tmp_path, "--epochs", 2]
    result = minires("train", *options, status=130)
    assert f"go on with: minires train --resume {tmp_path / 'last.safetensors'}" in result.stderr
    monkeypatch.undo()
    unbeaten = dataclasses.replace(Checkpoint.load(tmp_path / "last.safetensors"), best_accuracy=2.0)
    unbeaten.save(tmp_path / "unbeaten.safetensors")
    new = tmp_path / "new"
    ended = minires("train", "--resume", tmp_path / "unbeaten.safetensors", "--root", pictures, "--out", new)
    assert f"saved {new / 'last.safetensors'} and log.csv" in ended.stdout
    assert sorted(file.name for file in new.iterdir()) == ["last.safetensors", "log.csv"]
    resumed = minires("train", "--resume", tmp_path / "last.safetensors", "--root", pictures)
    assert "going on after step 2" in resumed.stdout
    ours, theirs = (Checkpoint.load(folder / "last.safetensors") for folder in (tmp_path, run[0]))
    for name, value in theirs.model.items():
        np.testing.assert_array_equal(ours.model[name].numpy(), value.numpy(), err_msg=name)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("option", ["--recompute", "--checkpoint"])  # the latter is its earlier name
def test_gradient_checkpointing_gives_the_same_weights_and_is_kept(run, pictures, tmp_path, option):
    result = train(pictures, tmp_path, option)
    assert ("--checkpoint is called --recompute now" in result.stderr) == (option == "--checkpoint")
    ours, plain = (Checkpoint.load(folder / "last.safetensors") for folder in (tmp_path, run[0]))
    for name, value in plain.model.items():
        np.testing.assert_array_equal(ours.model[name].numpy(), value.numpy(), err_msg=name)
    older = {name: value for name, value in plain.description.items() if name != "checkpoint"}
    for saved, expected in ((ours, True), (plain, False), (dataclasses.replace(plain, description=older), False)):
        experiment = Experiment.from_checkpoint(saved)
        assert (experiment.checkpoint, experiment.build_model().layer1.checkpoint) == (expected, expected)


def test_resuming_a_finished_run(run, pictures, tmp_path):
    before = (run[0] / "log.csv").read_text()
    last = run[0] / "last.safetensors"
    for out in (run[0], tmp_path / "new"):
        result = minires("train", "--resume", last, "--root", pictures, "--out", out)
        assert "nothing left to do" in result.stdout
        assert f"{last} holds the state" in result.stdout
    assert (run[0] / "log.csv").read_text() == before
    assert not (tmp_path / "new").exists()


def test_interrupted_before_its_first_checkpoint_a_resumed_run_names_the_one_it_began_with(
    run, pictures, tmp_path, monkeypatch
):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("minires.training.Trainer.fit", interrupted)
    options = ["--resume", run[0] / "last.safetensors", "--root", pictures, "--out", tmp_path / "new"]
    result = minires("train", *options, status=130)
    assert f"go on with: minires train --resume {run[0] / 'last.safetensors'}" in result.stderr


def test_a_killed_run_leaves_a_whole_checkpoint(pictures, tmp_path):
    options = ["--batch-size", "8", "--epochs", "100000", "--data", "imagefolder", "--root", str(pictures)]
    process = subprocess.Popen([*COMMAND, "train", *options, "--out", str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "last.safetensors").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.7)  # somewhere in a step or in a save
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    checkpoint = Checkpoint.load(tmp_path / "last.safetensors")
    assert checkpoint.step >= 2
    assert all(len(line.split(",")) == 9 for line in (tmp_path / "log.csv").read_text().splitlines())


def test_ctrl_c_says_what_was_saved(pictures, tmp_path, interruptible):
    options = ["--batch-size", "8", "--epochs", "100000", "--data", "imagefolder", "--root", str(pictures)]
    process = subprocess.Popen(
        [*COMMAND, "train", *options, "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not process.stdout.readline().startswith("epoch 1/"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "last.safetensors holds the state after step" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("*.partial"))
    Checkpoint.load(tmp_path / "last.safetensors")


def test_nan_stops_training_and_keeps_the_last_good_checkpoint(pictures, tmp_path, monkeypatch):
    from minires.training import RunFolder

    record = RunFolder.record

    def spoil_after_the_first(self, trainer, *arguments):
        record(self, trainer, *arguments)
        trainer.model.fc.weight.array[0, 0] = np.nan

    monkeypatch.setattr(RunFolder, "record", spoil_after_the_first)
    line = failure(
        *("train", "--data", "imagefolder", "--root", pictures, "--batch-size", 8, "--out", tmp_path, "--epochs", 2)
    )
    assert "step 3 (epoch 2)" in line
    assert "Linear" in line
    assert "last.safetensors holds the state after step 2" in line
    checkpoint = Checkpoint.load(tmp_path / "last.safetensors")
    assert all(np.isfinite(value.numpy()).all() for value in checkpoint.model.values())


def test_a_learning_rate_far_too_high(pictures, tmp_path):
    options = ["--batch-size", 8, "--epochs", 20, "--lr", 1e30, "--out", tmp_path]
    assert "lower the learning rate" in failure("train", "--data", "imagefolder", "--root", pictures, *options)


def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(pictures, tmp_path):
    options = ["--data", "imagefolder", "--root", pictures, "--batch-size", 8, "--epochs", 20, "--lr", 1e30]
    assert "no checkpoint had been saved" in failure("train", *options, "--out", tmp_path / "new" / "run")
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    failure("train", *options, "--out", tmp_path / "mine")
    assert os.listdir(tmp_path) == ["mine"]


def test_one_of_a_thing_is_not_called_many(pictures, tmp_path):
    options = ["--data", "imagefolder", "--root", pictures, "--batch-size", 16, "--steps", 1, "--out", tmp_path / "out"]
    output = minires("train", *options).stdout
    assert "1 step in 1 epoch, cpu" in output
    assert "% after 1 epoch (best" in output


# Using what was trained


def test_eval(run, pictures):
    output = minires("eval", run[0] / "best.safetensors", "--root", pictures).stdout
    assert output.startswith("resnet20 on imagefolder: accuracy ")
    best = max(float(row["test_accuracy"]) for row in csv.DictReader((run[0] / "log.csv").read_text().splitlines()))
    assert f"accuracy {100 * best:.2f} %" in output
    assert "8 held-out images" in output


def test_eval_on_other_data(run):
    line = failure("eval", run[0] / "best.safetensors", "--data", "shapes")
    assert "where the model knows 'blue'" in line


def test_predict(run, pictures):
    images = [pictures / "val" / "red" / "0.png", pictures / "val" / "blue" / "1.png"]
    lines = minires("predict", *images, "--checkpoint", run[0] / "best.safetensors").stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in images]
    assert all("red" in line and "blue" in line for line in lines)


def test_predict_json(run, pictures):
    image = pictures / "val" / "red" / "0.png"
    text = minires("predict", image, "--checkpoint", run[0] / "best.safetensors", "--json").stdout
    (answer,) = json.loads(text)
    assert answer["image"] == str(image)
    assert sum(each["probability"] for each in answer["predictions"]) == pytest.approx(1, abs=1e-5)
    probabilities = [each["probability"] for each in answer["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_predict_top(run, pictures):
    image = pictures / "val" / "red" / "0.png"
    text = minires("predict", image, "--checkpoint", run[0] / "best.safetensors", "--json", "--top", 1).stdout
    assert len(json.loads(text)[0]["predictions"]) == 1


@pytest.fixture
def mixed(pictures, tmp_path):
    """Pictures that can be read, and other things."""
    good = pictures / "val" / "red" / "0.png"
    odd = tmp_path / os.fsdecode(b"odd \xff\x1b[31m.png")
    odd.write_bytes(good.read_bytes())
    (tmp_path / "text.jpg").write_text("no image")
    os.mkfifo(tmp_path / "fifo.png")
    return [good, tmp_path / "text.jpg", odd, tmp_path / "fifo.png", tmp_path / "missing.png"]


def test_predict_answers_for_the_pictures_that_can_be_read(run, mixed):
    result = minires("predict", *mixed, "--checkpoint", run[0] / "best.safetensors", status=1)
    good, odd = result.stdout.splitlines()
    assert good.startswith(f"{mixed[0]}: ")
    assert odd.startswith(f"{mixed[2].parent}/odd \\udcff\\x1b[31m.png: ")
    errors = result.stderr.splitlines()
    assert [Path(line.split(": ")[1]).name for line in errors] == ["text.jpg", "fifo.png", "missing.png"]


def test_predict_json_with_pictures_that_cannot_be_read(run, mixed):
    result = minires("predict", *mixed, "--checkpoint", run[0] / "best.safetensors", "--json", status=1)
    answers = json.loads(result.stdout)
    assert [os.fsencode(answer["image"]) for answer in answers] == [os.fsencode(path) for path in mixed]
    assert ["error" in answer for answer in answers] == [False, True, False, True, True]
    for one, other in zip(answers[0]["predictions"], answers[2]["predictions"], strict=True):  # the same picture
        assert one["class"] == other["class"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_predict_of_nothing_that_can_be_read(run, mixed, options):
    result = minires("predict", *mixed[1::2], "--checkpoint", run[0] / "best.safetensors", *options, status=2)
    assert [set(answer) for answer in json.loads(result.stdout or "[]")] == [{"image", "error"}] * 2 * len(options)


def test_predict_of_a_name_that_is_not_utf8_from_a_shell(run, mixed):
    command = [*COMMAND, "predict", os.fsencode(mixed[2]), "--checkpoint", str(run[0] / "best.safetensors")]
    for locale in ("C", "C.UTF-8"):
        done = subprocess.run(command, capture_output=True, env={**os.environ, "LC_ALL": locale})
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"red" in done.stdout


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_predict_prints_no_number_that_is_none(run, pictures, tmp_path, spoilt):
    saved = Checkpoint.load(run[0] / "best.safetensors")
    saved.model["fc.bias"].array[:] = spoilt
    saved.save(tmp_path / "spoilt.safetensors")
    images = [pictures / "val" / "red" / f"{number}.png" for number in (0, 1)]
    for options in ([], ["--json"]):
        result = minires("predict", *images, "--checkpoint", tmp_path / "spoilt.safetensors", *options, status=2)
        assert "NaN" not in result.stdout
        assert "nan" not in result.stdout
        said = result.stderr.splitlines() if not options else [answer["error"] for answer in json.loads(result.stdout)]
        assert len(said) == 2
        assert all("answer is not finite" in line for line in said)


# Summary, data, help


def test_summary():
    output = minires("summary", "resnet20").stdout
    assert "269,722" in output
    assert "40,551,040" in output
    assert "64 x 8 x 8" in output


def test_summary_of_another_size():
    output = minires("summary", "resnet20", "--input-size", 16, "--num-classes", 5).stdout
    assert "16 x 16 x 16" in output
    assert f"{269_722 - 5 * 65:,}" in output


def test_summary_without_a_name_lists_the_models():
    assert minires("summary").stdout.split() == list_models()


def test_data_lists_the_sets():
    assert [line.split()[0] for line in minires("data").stdout.splitlines()] == list(available())


def test_data_of_one_set(tmp_path):
    output = minires("data", "mnist", "--root", digits(tmp_path), status=0).stdout
    assert "mnist train: 12 images, 10 classes" in output
    assert "t10k-labels-idx1-ubyte  14 bytes  sha256" in output


def test_data_that_are_damaged(tmp_path):
    digits(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    result = minires("data", "mnist", "--root", tmp_path, status=1)
    assert "mnist test: not usable" in result.stdout
    assert "truncated" in result.stderr


def test_data_of_a_folder_with_what_is_no_image(pictures, tmp_path):
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    assert "16 images" in minires("data", "imagefolder", "--root", root).stdout
    (root / "train" / "red" / "text.jpg").write_text("no image")
    result = minires("data", "imagefolder", "--root", root, status=1)
    assert "imagefolder train: 16 images, 2 classes" in result.stdout
    assert "1 of 17 images cannot be read" in result.stderr
    assert "text.jpg" in result.stderr


@pytest.mark.parametrize("command", ["", "train", "eval", "predict", "summary", "verify", "data"])
def test_help(command):
    output = minires(*([command] if command else []), "--help").stdout
    assert f"Usage: minires {command}".strip() in output.replace("root", "minires")


def test_offered_names_are_those_that_there_are():
    assert set(DataName) == set(available())
    assert {*CIFAR_MODELS, *IMAGENET_MODELS} == set(list_models())
    assert set(RecipeName) == set(RECIPES)
    assert set(LogFormat) == set(LOG_FORMATS)


def test_help_imports_nothing_heavy():
    script = "import sys, minires.cli; print([m for m in ('numba', 'rich.progress', 'PIL') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_version():
    assert subprocess.check_output([*COMMAND, "--version"], text=True).startswith("minires 0.")


# Errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--verison"], "--version"),
        (["trian"], "Did you mean 'train'?"),
        (["train", "--modle", "resnet20"], "--model"),
        (["train", "--data", "cifar"], "did you mean cifar10 or cifar100?"),
        (["train", "--data", "CIFAR10"], "did you mean cifar10"),
        (["train", "--amp", "fp16"], "did you mean float16"),
        (["train", "--recipe", "papre"], "'paper'"),
        (["train", "--epochs", "0"], "'--epochs': '0' should be greater than or equal to 1"),
        (["train", "--epochs", "three"], "'--epochs': 'three' should be a valid integer"),
        (["train", "--checkpoint", "last.safetensors"], "a checkpoint to go on from is given by --resume"),
        (["train", "--log", "tsv"], "did you mean csv?"),
        (["data", "cifar"], "did you mean cifar10"),
        (["eval", "x", "--data", "minst"], "did you mean mnist?"),
        (["predict", "x.png"], "--checkpoint"),
    ],
)
def test_wrong_arguments_say_what_would_be_right(arguments, words):
    text = failure(*arguments)
    assert words in text
    assert "Value error" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--model", "resnet2O"], "resnet20"),
        (["summary", "resnet21"], "did you mean"),
        (["verify", "resnet21"], "did you mean"),
        (["train", "--device", "tpu"], 'unknown device \'tpu\': use "cpu", "cuda"'),
        (["train", "--epochs", "1", "--steps", "2"], "not both"),
        (["train", "--lr", "-1"], "learning rate must be a positive number, got -1"),
        (["train", "--momentum", "2"], "momentum must be at least 0 and below 1, got 2"),
        (["train", "--data", "cifar10"], "--root"),
        (["train", "--data", "cifar10", "--root", "/nowhere"], "/nowhere"),
        (["eval", "/nowhere/x.safetensors"], "no such file"),
        (["train", "--resume", "/nowhere/x.safetensors"], "no such file"),
        (["train", "--resume", "x", "--model", "resnet20", "--lr", "1"], "--model, --lr: a resumed run keeps its own"),
        (["train", "--resume", "x", "--recompute"], "--recompute: a resumed run keeps its own"),
        (["train", "--resume", "x", "--checkpoint"], "--checkpoint: a resumed run keeps its own"),
        (["data", "cifar10"], "--root"),
        (["data", "cifar10", "--root", "/nowhere"], None),
    ],
)
def test_wrong_values_give_one_line(arguments, words):
    if words is None:
        assert "/nowhere" in minires(*arguments, status=1).stderr
    else:
        assert words in failure(*arguments)


def test_imagenet_nets_want_colour(tmp_path):
    assert "resnet20" in failure("train", "--data", "mnist", "--root", digits(tmp_path), "--model", "resnet18")


@pytest.mark.skipif(cuda_is_available(), reason="a GPU is there")
@pytest.mark.parametrize("arguments", [["train"], ["eval", "x"], ["predict", "x", "--checkpoint", "x"]])
def test_no_gpu(arguments):
    assert "pip install" in failure(*arguments, "--device", "cuda")


def test_unwritable_output_folder(pictures, tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    for out in (occupied, occupied / "deeper"):
        line = failure("train", "--data", "imagefolder", "--root", pictures, "--out", out)
        assert f"{out}: cannot be written to" in line


def test_a_folder_with_a_run_is_not_overwritten(run, pictures):
    before = (run[0] / "last.safetensors").read_bytes()
    line = failure("train", "--data", "imagefolder", "--root", pictures, "--out", run[0])
    assert "holds a run already" in line
    assert (run[0] / "last.safetensors").read_bytes() == before


def test_the_default_folder_is_a_new_one(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        minires("train", "--data", "imagefolder", "--root", pictures, "--batch-size", 8, "--steps", 1)
    assert sorted(os.listdir("runs")) == ["imagefolder-resnet20", "imagefolder-resnet20-2"]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"\x80\x04" + data, lambda data: data[:-4] + bytes(4)],
    ids=["truncated", "not safetensors", "flipped bits"],
)
@pytest.mark.parametrize("command", [["eval"], ["predict", "x.png", "--checkpoint"], ["train", "--resume"]])
def test_damaged_checkpoints(run, tmp_path, damage, command):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage((run[0] / "last.safetensors").read_bytes()))
    assert "damaged.safetensors" in failure(*command, path)


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    assert "no checkpoint of minires" in failure("eval", path)


def test_a_checkpoint_of_unknown_origin(tmp_path, run):
    good = Checkpoint.load(run[0] / "last.safetensors")
    for change in ({"model": "resnet21"}, {"classes": 3}, {"channels": 7}, {"surprise": 1}):
        Checkpoint(good.model, description={**good.description, **change}).save(tmp_path / "x.safetensors")
        failure("eval", tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "missing"])
def test_unreadable_images(run, tmp_path, content):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    assert "image.png" in failure("predict", path, "--checkpoint", run[0] / "best.safetensors")


def test_damaged_data(pictures, tmp_path):
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    victim = next(Path(root, "train", "red").iterdir())
    victim.write_bytes(victim.read_bytes()[:100])
    options = ["--batch-size", 8, "--out", tmp_path / "out", "--workers", 2]
    assert victim.name in failure("train", "--data", "imagefolder", "--root", root, *options)


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_says_at_its_start_which_images_cannot_be_read(pictures, tmp_path, split, monkeypatch):
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    (root / split / "blue" / "text.jpg").write_text("no image")
    cut = root / split / "red" / "1.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    monkeypatch.setattr("minires.training.Trainer.fit", lambda self: pytest.fail("training began"))
    line = failure("train", "--data", "imagefolder", "--root", root, "--out", tmp_path / "out")
    assert "2 of 25 images cannot be read" in line
    assert "text.jpg" in line
    assert str(cut) in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("first", [True, False], ids=["first save", "later save"])
def test_a_full_disk_is_one_line_that_says_what_was_saved(pictures, tmp_path, monkeypatch, first):
    fsync, calls = os.fsync, []

    def full_disk(descriptor):
        calls.append(descriptor)
        if first or len(calls) > 2:  # the best checkpoint and the last of the first epoch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    options = ["--batch-size", 8, "--out", tmp_path / "out", "--epochs", 3]
    line = failure("train", "--data", "imagefolder", "--root", pictures, *options)
    assert "safetensors: no space left on device" in line
    expected = "no checkpoint had been saved" if first else "last.safetensors holds the state after step 2"
    assert expected in line
    assert not list(tmp_path.rglob("*.partial"))


def test_a_second_run_in_a_folder_is_refused(pictures, run, tmp_path):
    from minires.training import RunFolder

    running = RunFolder(tmp_path)
    running.prepare()
    new = ["--data", "imagefolder", "--root", pictures, "--out", tmp_path]
    resumed = ["--resume", run[0] / "last.safetensors", "--root", pictures, "--out", tmp_path]
    for options in (new, resumed):
        assert f"{tmp_path}: another run is writing" in failure("train", *options)
    running.release()


def test_a_run_is_not_resumed_over_another_one(pictures, run, tmp_path):
    train(pictures, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    options = ["--resume", run[0] / "last.safetensors", "--root", pictures, "--out", tmp_path]
    assert "holds another run than" in failure("train", *options)
    assert (tmp_path / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "\x1b[31m" + "x" * 5000],
        ["predict", "a.png", "--checkpoint", "y" * 10_000],
        ["train", "--model", "z" * 100_000],
        ["train", "--model", "\x1b]0;title\x07"],
        ["train", "--data", "\x1b[2J" * 1000],
        ["data", "\x9b2J" * 1000],
        ["train", "--out", "n" * 300],
        ["data", "imagefolder", "--root", "\x1b[2J" * 2000],
    ],
    ids=range(8),
)
def test_errors_are_short_and_printable(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (1, 2)
    assert result.stderr
    for line in result.stderr.splitlines():
        assert len(line) < 1000
        assert line.isprintable()


def test_classes_with_escape_sequences_are_printed_as_text(run, pictures, tmp_path):
    saved = Checkpoint.load(run[0] / "best.safetensors")
    description = {**saved.description, "classes": ["\x1b[31mblue", "red\n\x07"]}
    dataclasses.replace(saved, description=description).save(tmp_path / "x.safetensors")
    image = pictures / "val" / "red" / "0.png"
    line, rest = minires("predict", image, "--checkpoint", tmp_path / "x.safetensors").stdout.split("\n")
    assert line.isprintable()
    assert (rest, r"red\n\x07" in line, r"\x1b[31mblue" in line) == ("", True, True)
    assert failure("eval", tmp_path / "x.safetensors", "--root", pictures).isprintable()


@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_special_files_are_no_checkpoints(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    for command in (["eval"], ["predict", "x.png", "--checkpoint"], ["train", "--resume"], ["study", "--checkpoint"]):
        assert "a plain file was expected here" in failure(*command, tmp_path / path)


def test_debug_shows_the_traceback(tmp_path):
    command = [*COMMAND, "eval", str(tmp_path / "none.safetensors")]
    plain = subprocess.run(command, capture_output=True, text=True)
    assert (plain.returncode, plain.stdout, len(plain.stderr.splitlines())) == (2, "", 1)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert "Traceback" in debug.stderr
    assert "CheckpointError" in debug.stderr


@pytest.mark.parametrize(
    ("pieces", "messages"),
    [([0.2], 1), ([0.06, 0.06, 0.06], 1), ([0.01], 0), ([], 0)],
    ids=["long", "sum", "short", "none"],
)
def test_long_compilations_are_announced_once(pieces, messages):
    from numba.core import event

    said = []
    with announce_compilation(said.append, after=0.1):
        for seconds in pieces:
            with event.trigger_event("numba:compile"):
                time.sleep(seconds)
    time.sleep(0.15)
    assert len(said) == messages


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.24, "8.2 s"), (59.97, "1 min 00 s"), (125, "2 min 05 s"), (3599.7, "1 h 00 min"), (12_000, "3 h 20 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_verify():
    output = minires("verify", "resnet20", "--image-size", 8, "--rows", 3, "--against", "nothing").stdout
    assert "0 wrong" in output


@pytest.mark.slow
def test_the_plain_command_reaches_its_accuracy_in_time(tmp_path):
    begin = time.monotonic()
    subprocess.run([*COMMAND, "train"], cwd=tmp_path, check=True)
    assert time.monotonic() - begin < 180
    assert Checkpoint.load(tmp_path / "runs/shapes-resnet20/last.safetensors").best_accuracy >= 0.95


def test_a_warning_is_one_line():
    program = (
        "import sys, warnings, minires.cli\n"
        "module = sys.modules['minires.cli.app']\n"
        "module.app = lambda: warnings.warn('this is slow', RuntimeWarning)\n"
        "minires.cli.main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == "minires: warning: this is slow\n"
