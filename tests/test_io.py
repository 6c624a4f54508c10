"""Weights on disk: a round trip, other programs, damage, and an interrupted write."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minires
from minires import models
from minires.io import write_whole


def test_a_state_dict_comes_back_bit_for_bit(tmp_path):
    net = models.CifarResNet(8)
    minires.save(net.state_dict(), tmp_path / "net.safetensors")
    state = minires.load(tmp_path / "net.safetensors")
    assert set(state) == set(net.state_dict())
    other = models.CifarResNet(8)
    other.load_state_dict(state)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name].numpy(), value.numpy())
        assert other.state_dict()[name].dtype == value.dtype


def test_pytorch_reads_and_writes_the_same_files(tmp_path):
    linear = minires.nn.Linear(3, 2)
    minires.save(linear.state_dict(), tmp_path / "ours")
    theirs = torch.nn.Linear(3, 2)
    theirs.load_state_dict(load_file(tmp_path / "ours"))
    np.testing.assert_array_equal(theirs.weight.detach().numpy(), linear.weight.detach().numpy())
    save_file({name: value + 1 for name, value in theirs.state_dict().items()}, tmp_path / "theirs")
    linear.load_state_dict(minires.load(tmp_path / "theirs"))
    np.testing.assert_array_equal(linear.weight.detach().numpy(), theirs.weight.detach().numpy() + 1)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    for wrong in ([1], {"a": 1}, {1: minires.ones(2)}, {"nested": {"a": minires.ones(2)}}):
        with pytest.raises(TypeError, match="save takes"):
            minires.save(wrong, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_or_a_pickle_is_named(tmp_path):
    path = tmp_path / "net.safetensors"
    minires.save({"a": minires.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    torch.save({"a": torch.ones(2)}, tmp_path / "net.pth")
    for broken in (path, tmp_path / "net.pth"):
        with pytest.raises(ValueError, match=broken.name):
            minires.load(broken)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
