"""Checkpoints: whole files only, exact values, and no trust in what a file says."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle

import numpy as np
import pytest
import safetensors.numpy
import torch

import minires
from minires import nn
from minires.amp import GradScaler
from minires.autograd import Tensor
from minires.device import generator, manual_seed
from minires.io.messages import LONGEST_MESSAGE
from minires.models import CifarResNet
from minires.optim.lr_scheduler import ConstantLR, MultiStepLR, OneCycleLR, SequentialLR
from minires.training import Checkpoint, CheckpointError, Experiment, load_model, recipe_for
from minires.training import checkpoint as module
from minires.training.packing import pack, unpack


def small_net(width=3):
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.safetensors"
    Checkpoint.capture(small_net(), step=7, best_accuracy=0.1 + 0.2, description={"words": ["ä", 1]}).save(path)
    return path


def arrays_of(checkpoint):
    return {name: value.numpy() for name, value in checkpoint.model.items()}


def test_what_is_saved_comes_back(tmp_path):
    net = CifarResNet(8)
    path = tmp_path / "net.safetensors"
    Checkpoint.capture(net, step=3, best_accuracy=0.1 + 0.2, description={"words": ["ä", 1]}).save(path)
    loaded = Checkpoint.load(path)
    assert (loaded.step, loaded.best_accuracy, loaded.description) == (3, 0.1 + 0.2, {"words": ["ä", 1]})
    fresh = CifarResNet(8)
    loaded.restore(fresh)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(fresh.state_dict()[name].numpy(), value.numpy(), strict=True)


def test_torch_reads_the_weights(tmp_path):
    from safetensors.torch import load_file

    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    Checkpoint.capture(net).save(tmp_path / "net.safetensors")
    weight = load_file(tmp_path / "net.safetensors")["model.0.weight"]
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    theirs = torch.nn.functional.conv2d(torch.from_numpy(x), weight, torch.from_numpy(net[0].bias.detach().numpy()))
    np.testing.assert_allclose(net(Tensor(x)).detach().numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_random_state_comes_back_with_the_optimizer(tmp_path):
    from minires.optim import SGD

    net = small_net()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    manual_seed(3)
    generator().random(5)
    Checkpoint.capture(net, optimizer).save(tmp_path / "net.safetensors")
    expected = generator().random(5)
    manual_seed(0)
    Checkpoint.load(tmp_path / "net.safetensors").restore(net, optimizer)
    np.testing.assert_array_equal(generator().random(5), expected)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {
            "state": {0: {"step": 3, "buffer": None}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "nesterov": True}],
        },
        {1: "one", "1": "another", (2, 3): [4, (5.5, "six")]},
        [float("inf"), 1e-300, 0.1 + 0.2, 2**127],
    ],
)
def test_packing_plain_data(state):
    packed, arrays = pack(state, "x")
    assert unpack(json.loads(json.dumps(packed)), arrays) == state
    assert arrays == {}


def test_packing_arrays():
    state = {"a": Tensor(np.arange(3)), "b": [np.ones(2)], "c": np.float32(0.5)}
    packed, arrays = pack(state, "x")
    back = unpack(json.loads(json.dumps(packed)), arrays)
    assert isinstance(back["a"], Tensor)
    np.testing.assert_array_equal(back["a"].numpy(), np.arange(3))
    np.testing.assert_array_equal(back["b"][0], np.ones(2))
    assert back["c"] == 0.5


def test_packing_refuses_what_no_file_can_hold():
    with pytest.raises(TypeError, match=r"x\.key is a function"):
        pack({"key": lambda: 0}, "x")


@pytest.mark.parametrize("packed", [{"dict": 3}, {"tensor": "missing"}, {"a": 1, "b": 2}, {"list": []}])
def test_unpacking_what_was_never_packed(packed):
    with pytest.raises((ValueError, TypeError)):
        unpack(packed, {})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:200],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: (2**40).to_bytes(8, "little") + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: np.random.default_rng(0).bytes(len(data)),
        lambda data: pickle.dumps({"model": list(data)}),
        lambda data: b"PK\x03\x04" + data,
        lambda data: data[:-4] + bytes(4),
    ],
    ids=[
        "empty", "8 bytes missing", "header cut", "last byte missing", "a byte too many", "header length huge",
        "header length beyond the file", "header is no JSON", "random bytes", "a pickle", "a zip file", "zeros at end",
    ],
)  # fmt: skip
def test_damaged_files(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_flipped_bit_goes_unnoticed(saved):
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * len(data), 400, replace=False):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        saved.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            Checkpoint.load(saved)


def write_signed(path, content, arrays=None):
    """A file whose checksum is right, whatever it says."""
    text = content if isinstance(content, str) else json.dumps(content)
    arrays = arrays or {"model.x": np.zeros(1, np.float32)}
    metadata = {"minires": text, "sha256": module._digest(text, arrays)}
    path.write_bytes(safetensors.numpy.save(arrays, metadata))


GOOD = {
    "version": 1, "step": 0, "best_accuracy": None, "random_state": None, "optimizer": None, "scheduler": None,
    "description": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[" * 100_000,
        [],
        {},
        {**GOOD, "version": 99},
        {**GOOD, "step": "many"},
        {**GOOD, "optimizer": {"tensor": "not there"}},
        {**GOOD, "scheduler": {"call": "os.system"}},
        {**GOOD, "optimizer": {"dict": [[[1], 2]]}},
        {**GOOD, "step": -1},
        {**GOOD, "step": 1.5},
        {**GOOD, "step": True},
        {**GOOD, "step": 2**70},
        {**GOOD, "step": None},
        {**GOOD, "best_accuracy": -0.1},
        {**GOOD, "best_accuracy": float("nan")},
        {**GOOD, "best_accuracy": float("inf")},
        {**GOOD, "best_accuracy": "0.5"},
        {**GOOD, "best_accuracy": [0.5]},
        {**GOOD, "random_state": 3},
        {**GOOD, "random_state": {}},
        {**GOOD, "random_state": {"bit_generator": "PCG64", "state": {"state": 2**200, "inc": 1}, "has_uint32": 0}},
        {**GOOD, "random_state": {"bit_generator": "PCG64", "state": 3, "has_uint32": 0, "uinteger": 0}},
        {**GOOD, "random_state": {"bit_generator": "MT19937", "state": {"key": [1], "pos": 2}}},
        {**GOOD, "optimizer": [1]},
        {**GOOD, "optimizer": "SGD"},
        {**GOOD, "scheduler": 0.1},
        {**GOOD, "scaler": 65536.0},
        {**GOOD, "scaler": ["scale"]},
        {**GOOD, "description": "resnet20"},
        {**GOOD, "description": ["resnet20"]},
        {**GOOD, "version": {"a" * 10**6: 1}},
        {**GOOD, "step": "\x1b[2J" * 10**5},
        {**GOOD, "optimizer": {"\x1b[2J": 1, "b": 2}},
        {**GOOD, "more": "x" * 5 * 2**20},
    ],
    ids=lambda content: str(content)[:40],
)
def test_hostile_contents(tmp_path, content):
    path = tmp_path / "net.safetensors"
    write_signed(path, content)
    with pytest.raises(CheckpointError, match=r"net\.safetensors") as caught:
        Checkpoint.load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= LONGEST_MESSAGE


def described(**changes):
    """A description of an experiment, with some of its values changed; those of the recipe as ``recipe__name``."""
    experiment = Experiment("cifar10", "resnet20", recipe_for("paper", "cifar10", "resnet20"), tuple("abcdefghij"))
    content = json.loads(json.dumps(experiment.to_json()))
    for name, value in changes.items():
        inner = content["recipe"] if name.startswith("recipe__") else content
        inner[name.removeprefix("recipe__")] = value
    return content


@pytest.mark.parametrize(
    "changes",
    [
        {"data": 3},
        {"data": ["cifar10"]},
        {"data": "x" * 10**6},
        {"model": None},
        {"model": {"resnet20": 1}},
        {"model": "resnet20\x1b[2J"},
        {"classes": "abcdefghij"},
        {"classes": 10},
        {"classes": []},
        {"classes": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]},
        {"classes": [str(number) for number in range(300_000)]},
        {"classes": ["a", "b", "c"]},
        {"channels": 7},
        {"channels": "3"},
        {"image_size": 0},
        {"image_size": 10**9},
        {"image_size": 32.5},
        {"image_size": "32"},
        {"seed": -1},
        {"seed": 0.5},
        {"seed": None},
        {"checkpoint": 1},
        {"amp": "float8"},
        {"amp": True},
        {"surprise": 1},
        {"recipe": None},
        {"recipe": []},
        *(
            {f"recipe__{name}": value}
            for name, values in {
                "epochs": [3, "3"],  # both lengths; a string
                "steps": [None, 0, -5, 1.5, "many", True, 10**400],
                "batch_size": [0, None, 2.5, "4", [4], 2**70],
                "learning_rate": [-0.1, 0, float("nan"), float("inf"), "0.1", None, True, 10**400],
                "momentum": [1, -0.1, "0.9", None, float("nan")],
                "weight_decay": [-1e-4, float("inf"), "0", None, [0]],
                "nesterov": [1, "no", None],
                "schedule": ["linear", 3, None, ["multi-step"]],
                "milestones": [3, [2.0], [-0.5], ["0.5"], [float("nan")], [[0.5]], None],
                "warmup_steps": [-1, 1.5, "0", None],
                "label_smoothing": [-0.1, 1.0, "0", None, float("nan")],
                "name": [3, None],
                "more": [1],
            }.items()
            for value in values
        ),
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_description_is_checked_before_a_model_is_built(tmp_path, changes, monkeypatch):
    net = CifarResNet(20)
    path = tmp_path / "net.safetensors"
    Checkpoint.capture(net, description=described(**changes)).save(path)
    monkeypatch.setattr(CifarResNet, "__init__", lambda *arguments, **options: pytest.fail("a model was built"))
    with pytest.raises(CheckpointError, match=r"net\.safetensors: does not describe") as caught:
        load_model(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_a_good_description_builds_its_model_and_draws_no_weights_first(tmp_path):
    net = CifarResNet(20)
    Checkpoint.capture(net, description=described()).save(tmp_path / "net.safetensors")
    state = generator().bit_generator.state
    loaded, experiment = load_model(tmp_path / "net.safetensors")
    assert experiment.classes == tuple("abcdefghij")
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), value.numpy())
    manual_seed(0)
    assert generator().bit_generator.state != state


def trained(schedule):
    from minires.optim import SGD

    net = small_net()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler, scaler = schedule(optimizer), GradScaler()
    for parameter in net.parameters():
        parameter.grad = minires.ones(*parameter.shape)
    optimizer.step()
    scheduler.step()
    return net, optimizer, scheduler, scaler


def one_cycle(optimizer):
    return OneCycleLR(optimizer, 0.1, 20, cycle_momentum=False)


def warmed_up(optimizer):
    return SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 4), MultiStepLR(optimizer, [5, 9])], [4])


WRONG_STATES = [
    (one_cycle, ("optimizer", "param_groups", 0, "lr"), [-0.1, "0.1", None, True, float("nan"), float("inf"), [0.1]]),
    (one_cycle, ("optimizer", "param_groups", 0, "initial_lr"), [-1, "x", None]),
    (one_cycle, ("optimizer", "param_groups", 0, "max_lr"), [-1, 10**400, None]),
    (one_cycle, ("optimizer", "param_groups", 0, "momentum"), [-0.9, "0.9", None, [0.9]]),
    (one_cycle, ("optimizer", "param_groups", 0, "dampening"), [-0.5, "0", None]),
    (one_cycle, ("optimizer", "param_groups", 0, "weight_decay"), [-1, None, float("inf")]),
    (one_cycle, ("optimizer", "param_groups", 0, "nesterov"), [0, "no", None]),
    (one_cycle, ("optimizer", "param_groups", 0, "params"), [None, 3, [0], ["0"], "012345", [[0]] * 6]),
    (one_cycle, ("optimizer", "param_groups", 0), [None, [], {}, 3]),
    (one_cycle, ("optimizer", "param_groups"), [None, [], {}, 3, "one"]),
    (one_cycle, ("optimizer", "state"), [None, [], 3, "s", {99: {}}, {0: 3}, {0: [1]}]),
    (one_cycle, ("optimizer", "state", 0, "momentum_buffer"), [3.0, "m", [1], {}, Tensor(np.zeros((3, 4), np.int64))]),
    (one_cycle, ("scheduler", "last_epoch"), [-5, "1", None, 0.5, True, 10**400]),
    (one_cycle, ("scheduler", "_step_count"), [-1, "1", None, [1]]),
    (one_cycle, ("scheduler", "base_lrs"), [None, [], 3, ["x"], [-1.0], [float("nan")], [0.1, 0.1]]),
    (one_cycle, ("scheduler", "total_steps"), [0, -1, "x", None, float("inf")]),
    (one_cycle, ("scheduler", "pct_start"), [-1, "x", None]),
    (one_cycle, ("scheduler", "anneal_strategy"), [3, None, ["cos"]]),
    (one_cycle, ("scheduler", "three_phase"), [0, None, "no"]),
    (warmed_up, ("scheduler", "milestones"), [None, ["x"], [-4], [[4]], 4]),
    (warmed_up, ("scheduler", "_schedulers"), [None, [], [{}, {}], 3, [1, 2]]),
    (warmed_up, ("scheduler", "_schedulers", 0, "factor"), [0, -1, "x", None]),
    (warmed_up, ("scheduler", "_schedulers", 0, "total_iters"), [-4, "x", None]),
    (warmed_up, ("scheduler", "_schedulers", 1, "gamma"), [0, -1, "x", None]),
    (warmed_up, ("scheduler", "_schedulers", 1, "milestones"), [3, ["x"], [-5], None]),
    (one_cycle, ("scaler", "scale"), [0, -1, "x", None, float("inf"), float("nan"), 10**400]),
    (one_cycle, ("scaler", "growth_interval"), [0, -1, "x", None, float("inf")]),
    (one_cycle, ("scaler", "_growth_tracker"), [-1, "x", None]),
    (one_cycle, ("scaler", "backoff_factor"), [0, -0.5, "x", None]),
]


@pytest.mark.parametrize(
    ("schedule", "place", "value"),
    [(schedule, place, value) for schedule, place, values in WRONG_STATES for value in values],
    ids=lambda part: str(part)[:50] if not callable(part) else part.__name__,
)
def test_a_state_of_the_wrong_form_is_refused(tmp_path, schedule, place, value):
    net, optimizer, scheduler, scaler = trained(schedule)
    whole = Checkpoint.capture(net, optimizer, scheduler, 1, scaler=scaler)
    states = copy.deepcopy({name: getattr(whole, name) for name in ("optimizer", "scheduler", "scaler")})
    part = states
    for key in place[:-1]:
        part = part[key]
    assert place[-1] in part if isinstance(part, dict) else place[-1] < len(part)
    part[place[-1]] = value
    try:
        dataclasses.replace(whole, **states).save(tmp_path / "net.safetensors")
        loaded = Checkpoint.load(tmp_path / "net.safetensors")
    except CheckpointError:
        return  # refused when it is loaded already
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        loaded.restore(*trained(schedule))


@pytest.mark.parametrize("schedule", [one_cycle, warmed_up])
def test_a_state_of_the_right_form_is_taken(tmp_path, schedule):
    parts = trained(schedule)
    Checkpoint.capture(*parts[:3], 1, scaler=parts[3]).save(tmp_path / "net.safetensors")
    fresh = trained(schedule)
    parts[2].step()
    Checkpoint.load(tmp_path / "net.safetensors").restore(*fresh)
    fresh[2].step()
    assert fresh[2].get_last_lr() == parts[2].get_last_lr()


@pytest.mark.parametrize(
    ("dtype", "fits"),
    [(np.float64, True), (np.float16, True), (np.int64, False), (np.bool_, False)],
)
def test_weights_of_another_kind_of_number_do_not_fit(tmp_path, dtype, fits):
    net = small_net()
    state = {**net.state_dict(), "0.weight": Tensor(np.ones((3, 4), dtype))}
    Checkpoint(state).save(tmp_path / "net.safetensors")
    loaded = Checkpoint.load(tmp_path / "net.safetensors")
    if fits:
        loaded.restore(net)
        return
    with pytest.raises(CheckpointError, match=f"0.weight is of {np.dtype(dtype)} instead of float32"):
        loaded.restore(net)


def test_a_model_in_bfloat16_comes_back(tmp_path):
    net = small_net().to(minires.bfloat16)
    Checkpoint.capture(net).save(tmp_path / "net.safetensors")
    loaded = Checkpoint.load(tmp_path / "net.safetensors").model["0.weight"]
    assert loaded.dtype == minires.bfloat16
    assert loaded.numpy().tobytes() == net[0].weight.detach().numpy().tobytes()


@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_special_files_are_not_opened(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CheckpointError, match=r"a plain file was expected here, but this is a (device|FIFO)"):
        Checkpoint.load(tmp_path / path)


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of minires"):
        Checkpoint.load(path)


def test_foreign_dtype(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors"):
        Checkpoint.load(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpoint.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="directory"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (small_net(5), r"0\.weight has shape \(3, 4\) instead of \(5, 4\) and 6 more"),
        (nn.Sequential(nn.Linear(4, 3)), r"has an unknown 1\.bias and 6 more"),
        (nn.Sequential(*small_net(), nn.Linear(2, 2)), r"lacks 3\.weight and 1 more"),
    ],
    ids=["shapes", "unknown", "missing"],
)
def test_a_model_that_does_not_fit(saved, net, message):
    before = [p.detach().numpy().copy() for p in net.parameters()]
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(saved).restore(net)
    assert all((p.detach().numpy() == old).all() for p, old in zip(net.parameters(), before, strict=True))


def test_weights_alone_do_not_resume(saved):
    from minires.optim import SGD

    net = small_net()
    with pytest.raises(CheckpointError, match="holds weights only"):
        Checkpoint.load(saved).restore(net, SGD(net.parameters(), lr=0.1))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch, failing, error):
    before = saved.read_bytes()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)):
        Checkpoint.capture(small_net(9)).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_save_overwrites_what_a_killed_one_left(saved):
    (saved.parent / f"{saved.name}.partial").write_bytes(b"half")
    Checkpoint.capture(small_net(9)).save(saved)
    assert arrays_of(Checkpoint.load(saved))["0.weight"].shape == (9, 4)
    assert os.listdir(saved.parent) == [saved.name]
