"""What convolution, pooling and resizing say when they refuse: the shapes or values, and what to do about it."""

from __future__ import annotations

import numpy as np
import pytest

from minires.autograd import Tensor
from minires.ops.adaptive_pool2d import adaptive_avg_pool2d
from minires.ops.avg_pool2d import avg_pool2d
from minires.ops.conv2d import conv2d
from minires.ops.conv_transpose2d import conv_transpose2d
from minires.ops.interpolate import interpolate
from minires.ops.max_pool2d import max_pool2d
from minires.ops.unfold import fold, unfold


def ones(*shape, dtype=np.float64):
    return Tensor(np.ones(shape, dtype))


X = ones(2, 4, 6, 5)
W = ones(6, 4, 3, 3)

CASES = {
    "wrong channel count": (
        lambda: conv2d(X, ones(6, 3, 3, 3)),
        RuntimeError,
        ["conv2d", "(2, 4, 6, 5)", "4 channels", "(6, 3, 3, 3)", "takes 3", "change the input channels"],
    ),
    "wrong channel count in groups": (lambda: conv2d(X, W, groups=2), RuntimeError, ["groups=2", "takes 8"]),
    "groups that do not divide": (
        lambda: conv2d(X, ones(5, 2, 3, 3), groups=2),
        RuntimeError,
        ["groups=2", "5 channels", "choose groups that divide"],
    ),
    "no groups": (lambda: conv2d(X, W, groups=0), RuntimeError, ["groups must be positive", "0"]),
    "negative stride": (lambda: conv2d(X, W, stride=(1, -2)), RuntimeError, ["stride must be positive", "-2"]),
    "fractional stride": (lambda: conv2d(X, W, stride=0.5), TypeError, ["stride must be an integer", "0.5"]),
    "negative padding": (lambda: conv2d(X, W, padding=-1), RuntimeError, ["padding must be not negative", "-1"]),
    "three strides": (lambda: conv2d(X, W, stride=(1, 2, 3)), RuntimeError, ["stride", "(1, 2, 3)", "one integer"]),
    "unknown padding": (lambda: conv2d(X, W, padding="full"), RuntimeError, ['"same"', '"valid"', "'full'"]),
    "same with a stride": (
        lambda: conv2d(X, W, padding="same", stride=2),
        RuntimeError,
        ['"same" needs stride 1', "(2, 2)", "give the padding in numbers"],
    ),
    "kernel larger than the input": (
        lambda: conv2d(X, W, dilation=3, padding=(0, 1)),
        RuntimeError,
        ["3 x 3", "dilation (3, 3)", "7 x 7", "6 x 7", "(2, 4, 6, 5)", "more padding"],
    ),
    "mixed dtypes": (
        lambda: conv2d(X, ones(6, 4, 3, 3, dtype=np.float32)),
        RuntimeError,
        ["float64", "float32", "weight.to(input.dtype)"],
    ),
    "integers": (lambda: conv2d(ones(1, 1, 4, 4, dtype=np.int64), W), RuntimeError, ["int64", ".float()"]),
    "an array for a Tensor": (lambda: conv2d(np.ones((1, 4, 6, 5)), W), TypeError, ["ndarray", "from_numpy"]),
    "no weight": (lambda: conv2d(X, None), TypeError, ["weight", "NoneType"]),
    "a matrix": (lambda: conv2d(ones(6, 5), W), RuntimeError, ["(N, C, H, W)", "(6, 5)", "reshape"]),
    "wrong bias": (lambda: conv2d(X, W, ones(4)), RuntimeError, ["bias", "6 output channels", "(4,)"]),
    "no pixels left": (lambda: conv2d(ones(2, 4, 0, 5), W, padding=3), RuntimeError, ["(2, 4, 0, 5)", "no pixel"]),
    "transposed weight": (
        lambda: conv_transpose2d(X, W),
        RuntimeError,
        ["conv_transpose2d", "4 channels", "takes 6", "the other way round"],
    ),
    "output padding": (
        lambda: conv_transpose2d(X, ones(4, 3, 3, 3), stride=2, output_padding=2),
        RuntimeError,
        ["output_padding=(2, 2)", "(2, 2)", "smaller than"],
    ),
    "all cut off": (
        lambda: conv_transpose2d(X, ones(4, 3, 3, 3), padding=4),
        RuntimeError,
        ["padding=(4, 4)", "0 x -1", "less padding"],
    ),
    "pooling padded too far": (
        lambda: max_pool2d(X, 3, padding=2),
        RuntimeError,
        ["max_pool2d", "padding=(2, 2)", "kernel_size=(3, 3)", "half"],
    ),
    "window that meets no pixel": (  # PyTorch gives -inf, and an index outside the plane
        lambda: max_pool2d(ones(1, 1, 1, 4), 2, padding=1, dilation=2),
        RuntimeError,
        ["dilation=(2, 2)", "padding=(1, 1)", "(1, 1, 1, 4)", "nothing to choose from"],
    ),
    "window larger than the input": (
        lambda: avg_pool2d(X, 7),
        RuntimeError,
        ["avg_pool2d", "7 x 7", "6 x 5", "smaller kernel"],
    ),
    "divisor 0": (lambda: avg_pool2d(X, 2, divisor_override=0), RuntimeError, ["divisor_override", "leave it out"]),
    "one output size": (lambda: adaptive_avg_pool2d(X, [2]), RuntimeError, ["output_size", "[2]", "None"]),
    "not columns": (lambda: fold(ones(2, 15, 20), 5, 2), RuntimeError, ["15 rows", "2 x 2", "multiple of 4"]),
    "wrong number of columns": (
        lambda: fold(ones(2, 16, 19), (6, 5), 2),
        RuntimeError,
        ["6 x 5", "5 * 4 = 20", "19 columns", "the unfold that made them"],
    ),
    "unfold too large": (lambda: unfold(X, (7, 1)), RuntimeError, ["unfold", "7 x 1", "6 x 5"]),
    "size and scale": (lambda: interpolate(X, 3, 2), ValueError, ["size=3", "scale_factor=2", "either"]),
    "neither size nor scale": (lambda: interpolate(X), ValueError, ["either size or scale_factor", "neither"]),
    "aligned nearest": (lambda: interpolate(X, 3, align_corners=True), ValueError, ["align_corners", "bilinear"]),
    "unknown mode": (lambda: interpolate(X, 3, mode="cubic"), NotImplementedError, ['"nearest"', "'cubic'"]),
    "scaled to nothing": (lambda: interpolate(X, scale_factor=0.1), RuntimeError, ["0.1", "larger factor"]),
}


@pytest.mark.parametrize(("call", "error", "parts"), CASES.values(), ids=CASES)
def test_message_names_the_values_and_the_remedy(call, error, parts):
    with pytest.raises(error) as caught:
        call()
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert "\n" not in str(caught.value)
