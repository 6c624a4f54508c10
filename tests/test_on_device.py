"""Batches that are copied to a GPU ahead of time, on a stand-in whose copies happen only when they are waited for."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
from fake_cupy import gpu_in_place_of_cupy
from kernel_cases import channels_last, normal

from minires import Tensor
from minires.data.on_device import on_device

Pair = namedtuple("Pair", "images targets")


def batches(count, size=3):
    return [[Tensor(channels_last(normal(size, 2, 4, 5, seed=n))), Tensor(np.arange(size) + n)] for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_batches_arrive_whole_and_in_order(monkeypatch, count):
    given = batches(count)
    with gpu_in_place_of_cupy(monkeypatch):
        kept = list(on_device(given, "cuda"))
        assert len(kept) == count
        for (images, targets), (there, labels) in zip(given, kept, strict=True):
            assert there.is_cuda
            assert labels.is_cuda
            assert there.array.strides == images.array.strides
            assert np.array_equal(there.cpu().numpy(), images.numpy())
            assert np.array_equal(labels.cpu().numpy(), targets.numpy())


def test_batches_of_different_sizes_share_page_locked_memory(monkeypatch):
    given = [batch for size in (4, 2, 5, 1) for batch in batches(2, size)]
    with gpu_in_place_of_cupy(monkeypatch):
        for batch, (there, _) in zip(given, on_device(iter(given), "cuda"), strict=True):
            assert np.array_equal(there.cpu().numpy(), batch[0].numpy())


def test_what_is_no_tensor_and_the_kind_of_a_batch_stay(monkeypatch):
    with gpu_in_place_of_cupy(monkeypatch):
        (pair,) = on_device([Pair(*batches(1)[0])], "cuda")
        assert isinstance(pair, Pair)
        assert pair.targets.is_cuda
        (mixed,) = on_device([(Tensor(np.ones(2)), "name", None, Tensor(np.ones(2)).to("cuda"))], "cuda")
        assert mixed[1:3] == ("name", None)
        assert mixed[0].is_cuda
        assert mixed[3].is_cuda
        (bare,) = on_device([Tensor(np.float32(3.0).reshape(()))], "cuda")
        assert bare.item() == 3.0


def test_an_error_in_the_loader_comes_out_and_leaving_early_ends_the_thread(monkeypatch):
    def failing():
        yield from batches(3)
        raise ZeroDivisionError("in the loader")

    with gpu_in_place_of_cupy(monkeypatch):
        seen = []
        with pytest.raises(ZeroDivisionError, match="in the loader"):
            seen.extend(targets.tolist() for _, targets in on_device(failing(), "cuda"))
        assert seen == [[0, 1, 2], [1, 2, 3]]
        moved = on_device(batches(9), "cuda")
        next(moved)
        moved.close()


@pytest.mark.parametrize("device", [None, "cpu"])
def test_on_the_cpu_batches_pass_through(device):
    given = batches(3)
    for batch, there in zip(given, on_device(given, device), strict=True):
        assert there[0] is batch[0]


def test_a_missing_gpu_is_an_error():
    with pytest.raises(RuntimeError, match='device "cuda"'):
        next(on_device(batches(1), "cuda"))
