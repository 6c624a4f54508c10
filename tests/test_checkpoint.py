"""Checkpoints: whole files only, exact values, and no trust in what a file says."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import safetensors.numpy
import torch

from minires import nn
from minires.autograd import Tensor
from minires.device import generator, manual_seed
from minires.models import CifarResNet
from minires.training import Checkpoint, CheckpointError
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
    ],
    ids=lambda content: str(content)[:40],
)
def test_hostile_contents(tmp_path, content):
    path = tmp_path / "net.safetensors"
    write_signed(path, content)
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        Checkpoint.load(path)


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
