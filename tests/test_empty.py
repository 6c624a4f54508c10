"""Empty batches, and axes of length 0: every op and layer goes forward and backward as PyTorch's does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from op_rows import ROWS
from op_table import ERRORS, Row, Sample, _map_arrays, assert_close, run_ours, run_torch

import minires
from minires import nn
from minires.kernels import use_reference

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch warns of what is asked here


class Emptied:
    """A row whose arrays have length 0 along an axis: the first of them only, or each that has this axis."""

    def __init__(self, row: Row, axis: int, first_only: bool):
        self.row, self.name, self.axis, self.first_only = row, row.name, axis, first_only
        self.ours, self.theirs = row.ours, row.theirs
        self.count = 0

    def _empty(self, values: Any) -> Any:
        self.count = 0

        def empty(array: np.ndarray) -> np.ndarray:
            if array.ndim <= self.axis or (self.first_only and self.count):
                return array
            self.count += 1
            shape = (*array.shape[: self.axis], 0, *array.shape[self.axis + 1 :])
            return np.zeros(shape, array.dtype)

        return _map_arrays(values, empty)

    def draw(self, sample: Sample) -> list[Any]:
        return self._empty(self.row.draw(sample))

    def draw_options(self, sample: Sample) -> dict[str, Any]:
        options = self.row.draw_options(sample)
        return options if self.first_only else self._empty(options)


# Where the libraries part: (row, axis). PyTorch gives a convolution of no channels a result without channels, whatever
# the weight says, and lets vectors of any length stand beside a batch norm of no channels.
REFUSED = {
    *(("conv2d", 1), ("conv2d_add_relu", 1), ("conv2d", 0), ("conv2d_add_relu", 0)),
    *(("batch_norm", 0), ("batch_norm", 1), ("batch_norm and its running statistics", 1)),
    *(
        ("conv_transpose2d", 3),
        ("conv_transpose2d", 2),
        ("conv_transpose2d", 1),
        ("adaptive_max_pool2d", 0),
        ("adaptive_max_pool2d", 1),
    ),
    *(("adaptive_avg_pool2d", 1), ("adaptive_avg_pool2d", 2), ("adaptive_avg_pool2d", 3)),
}
# PyTorch refuses these at a length of 0 in the batch or the channels; here they are empty.
TAKEN = ("pad_reflect", "pad_replicate", "pad_that_crops", "adaptive_avg_pool2d")


def attempt(run: Callable, *arguments: Any) -> Any:
    try:
        return run(*arguments)
    except ERRORS as error:
        assert str(error)  # noqa: PT017 - of either library
        return None


@pytest.mark.parametrize("kernels", ["default", "reference"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_op_of_nothing_is_as_in_pytorch(row, kernels):
    for sample in row.samples if kernels == "default" else row.samples[:2]:
        for axis, first_only in ((0, True), (0, False), (1, True), (1, False), (2, True), (3, True)):
            emptied = Emptied(row, axis, first_only)
            emptied.draw(sample)
            if not emptied.count:
                continue
            theirs = attempt(run_torch, emptied, sample)
            if kernels == "reference":
                with use_reference():
                    ours = attempt(run_ours, emptied, sample)
            else:
                ours = attempt(run_ours, emptied, sample)
            case = f"{row.name} {sample}, axis {axis}"
            if ours is None or theirs is None:
                assert ours is None or theirs is not None or row.name in TAKEN, f"{case}: PyTorch refuses"
                assert theirs is None or ours is not None or (row.name, axis) in REFUSED, f"{case}: refused here only"
                continue
            for name in ("outputs", "gradients"):
                pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
                for one, other in pairs:
                    assert_close(one, other, 1e-9, f"{case}: {name}")


LAYERS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "Linear": (lambda L: L.Linear(3, 2), (0, 3)),
    "Linear of vectors": (lambda L: L.Linear(3, 2), (2, 0, 3)),
    "Linear from nothing": (lambda L: L.Linear(0, 3), (2, 0)),
    "Linear to nothing": (lambda L: L.Linear(3, 0), (2, 3)),
    "Linear of nothing at all": (lambda L: L.Linear(0, 0), (0, 0)),
    "Linear without bias": (lambda L: L.Linear(0, 3, bias=False), (2, 0)),
    "Conv2d": (lambda L: L.Conv2d(3, 4, 3, padding=1), (0, 3, 6, 6)),
    "Conv2d, strided": (lambda L: L.Conv2d(4, 4, 3, stride=2), (0, 4, 7, 6)),
    "Conv2d, in groups": (lambda L: L.Conv2d(4, 4, 3, groups=4), (0, 4, 6, 6)),
    "Conv2d, 1x1": (lambda L: L.Conv2d(4, 8, 1), (0, 4, 6, 6)),
    "ConvTranspose2d": (lambda L: L.ConvTranspose2d(4, 3, 3, stride=2), (0, 4, 5, 5)),
    "BatchNorm1d": (lambda L: L.BatchNorm1d(3), (0, 3)),
    "BatchNorm1d, evaluating": (lambda L: L.BatchNorm1d(3).eval(), (0, 3)),
    "BatchNorm2d": (lambda L: L.BatchNorm2d(3), (0, 3, 4, 4)),
    "BatchNorm2d, evaluating": (lambda L: L.BatchNorm2d(3).eval(), (0, 3, 4, 4)),
    "BatchNorm2d, plain": (lambda L: L.BatchNorm2d(3, affine=False, track_running_stats=False), (0, 3, 4, 4)),
    "BatchNorm2d of no pixels": (lambda L: L.BatchNorm2d(3), (2, 3, 0, 4)),
    "MaxPool2d": (lambda L: L.MaxPool2d(3, 2, 1), (0, 3, 6, 6)),
    "AvgPool2d": (lambda L: L.AvgPool2d(2), (0, 3, 6, 6)),
    "AdaptiveAvgPool2d": (lambda L: L.AdaptiveAvgPool2d(1), (0, 3, 6, 6)),
    "AdaptiveAvgPool2d to 2": (lambda L: L.AdaptiveAvgPool2d(2), (0, 3, 5, 6)),
    "AdaptiveMaxPool2d": (lambda L: L.AdaptiveMaxPool2d((2, 3)), (0, 3, 6, 6)),
    "Upsample": (lambda L: L.Upsample(scale_factor=2), (0, 3, 4, 4)),
    "Upsample, bilinear": (lambda L: L.Upsample(scale_factor=2, mode="bilinear"), (0, 3, 4, 4)),
    "Unfold": (lambda L: L.Unfold(2), (0, 3, 4, 4)),
    "Fold": (lambda L: L.Fold((4, 4), 2), (0, 12, 9)),
    "Flatten": (lambda L: L.Flatten(), (0, 3, 4, 4)),
    "Flatten nothing": (lambda L: L.Flatten(), (2, 0, 4, 4)),
    "Dropout": (lambda L: L.Dropout(), (0, 3)),
    "Dropout2d": (lambda L: L.Dropout2d(), (0, 3, 4, 4)),
    "Softmax": (lambda L: L.Softmax(1), (0, 3)),
    "Softmax over nothing": (lambda L: L.Softmax(1), (3, 0)),
    "LogSoftmax": (lambda L: L.LogSoftmax(1), (0, 3)),
    "LogSoftmax over nothing": (lambda L: L.LogSoftmax(1), (3, 0)),
    **{
        name: (lambda L, name=name: getattr(L, name)(), (0, 3, 4, 4))
        for name in ("ReLU", "ReLU6", "LeakyReLU", "SiLU", "GELU", "Sigmoid", "Tanh", "Identity")
    },
    "a net": (
        lambda L: L.Sequential(
            L.Conv2d(3, 4, 3, bias=False),
            L.BatchNorm2d(4),
            L.ReLU(),
            L.AdaptiveAvgPool2d(1),
            L.Flatten(),
            L.Linear(4, 2),
        ),
        (0, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_of_nothing_is_as_in_pytorch(name):
    make, shape = LAYERS[name]
    results = []
    for lib in (minires, torch):
        layer = make(lib.nn)
        for parameter in layer.parameters():
            lib.nn.init.constant_(parameter, 0.5)
        x = lib.zeros(shape).requires_grad_()
        y = layer(x)
        y.sum().backward()
        buffers = {key: np.asarray(value.detach()) for key, value in layer.state_dict().items()}
        gradients = [parameter.grad for parameter in layer.parameters()]
        results.append([np.asarray(value.detach()) for value in (y, x.grad, *gradients)] + list(buffers.values()))
    ours, theirs = results
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


def test_every_layer_is_tried():
    others = {"Module", "ModuleDict", "ModuleList", "Parameter", "Sequential", "IncompatibleKeys"}
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)} - others
    assert {name for name in layers if not name.endswith("Loss")} <= {name.split(",")[0] for name in LAYERS}


LOSSES: dict[str, Callable] = {
    "cross entropy": lambda L, T, r: L.CrossEntropyLoss(reduction=r)(T(0, 3), T(0, kind=int)),
    "of no classes": lambda L, T, r: L.CrossEntropyLoss(reduction=r)(T(0, 0), T(0, kind=int)),
    "ignored": lambda L, T, r: L.CrossEntropyLoss(reduction=r, ignore_index=0)(T(2, 0), T(2, kind=int)),
    "out of range": lambda L, T, r: L.CrossEntropyLoss(reduction=r)(T(2, 0), T(2, kind=int)),
    "of images": lambda L, T, r: L.CrossEntropyLoss(reduction=r)(T(0, 3, 2, 2), T(0, 2, 2, kind=int)),
    "of probabilities": lambda L, T, r: L.CrossEntropyLoss(reduction=r, label_smoothing=0.1)(T(0, 3), T(0, 3)),
    "of no probabilities": lambda L, T, r: L.CrossEntropyLoss(reduction=r)(T(2, 0), T(2, 0)),
    "nll": lambda L, T, r: L.NLLLoss(reduction=r)(T(0, 3), T(0, kind=int)),
    "nll of no classes": lambda L, T, r: L.NLLLoss(reduction=r)(T(0, 0), T(0, kind=int)),
    "bce": lambda L, T, r: L.BCEWithLogitsLoss(reduction=r)(T(0, 3), T(0, 3)),
    "mse": lambda L, T, r: L.MSELoss(reduction=r)(T(0, 3), T(0, 3)),
    "l1": lambda L, T, r: L.L1Loss(reduction=r)(T(0, 3), T(0, 3)),
    "smooth l1": lambda L, T, r: L.SmoothL1Loss(reduction=r)(T(0, 3), T(0, 3)),
}


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_nothing_are_pytorchs(name, reduction):
    results = []
    for lib in (minires, torch):
        leaves: list[Any] = []

        def made(*shape, kind=float, lib=lib, leaves=leaves):
            if kind is int:
                return lib.zeros(shape, dtype=lib.int64)
            leaves.append(lib.zeros(shape, requires_grad=not leaves))
            return leaves[-1]

        try:
            loss = LOSSES[name](lib.nn, made, reduction)
            loss.sum().backward()
            results.append([np.asarray(loss.detach()), np.asarray(leaves[0].grad)])
        except ERRORS:
            results.append(None)
    assert (results[0] is None) == (results[1] is None)
    for one, other in zip(*(result or () for result in results), strict=True):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (0, 3, 3, 3)])
def test_weights_without_elements_are_filled(make, shape):
    assert getattr(nn.init, make)(minires.empty(shape)).shape == shape
