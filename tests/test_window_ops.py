"""What the op table cannot say of convolution, pooling and resizing: memory layout, work left undone, identities."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from minires.autograd import Tensor, no_grad, observe
from minires.kernels import use_reference
from minires.ops.adaptive_pool2d import adaptive_avg_pool2d, adaptive_max_pool2d
from minires.ops.avg_pool2d import avg_pool2d
from minires.ops.conv2d import conv2d
from minires.ops.conv_transpose2d import conv_transpose2d
from minires.ops.interpolate import interpolate
from minires.ops.max_pool2d import max_pool2d
from minires.ops.unfold import fold, unfold


def normal(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


OPS = {
    "conv2d": lambda x: conv2d(x, normal(5, 3, 2, 3), normal(5)),
    "conv2d 1x1": lambda x: conv2d(x, normal(5, 3, 1, 1), normal(5), stride=2),
    "conv2d in groups": lambda x: conv2d(x, normal(3, 1, 3, 3), padding="same", groups=3),
    "conv_transpose2d": lambda x: conv_transpose2d(x, normal(3, 5, 2, 3), normal(5), stride=2),
    "max_pool2d": lambda x: max_pool2d(x, 2),
    "avg_pool2d": lambda x: avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive_avg_pool2d": lambda x: adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: adaptive_max_pool2d(x, 2),
    "nearest": lambda x: interpolate(x, 7),
    "bilinear": lambda x: interpolate(x, 7, mode="bilinear"),
}


def is_channels_last(array):
    return array.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_outputs_and_input_gradients_lie_channels_last(name, kernels, channels_last):
    array = np.random.default_rng(0).standard_normal((2, 6, 5, 3)).transpose(0, 3, 1, 2)
    x = Tensor(array if channels_last else np.ascontiguousarray(array), requires_grad=True)
    with use_reference() if kernels == "reference" else nullcontext():
        y = OPS[name](x)
        y.backward(Tensor(np.ones(y.shape)))
    assert is_channels_last(y.array)
    assert is_channels_last(x.grad.array)


class Names:
    """An observer that notes which operations ran."""

    def __init__(self):
        self.seen = []

    def forward(self, function, *rest):
        self.seen.append(function.name)

    def backward(self, *rest):
        pass


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("x", ["Conv2dInputGrad"]), ("w", ["Conv2dWeightGrad"]), ("xw", ["Conv2dInputGrad", "Conv2dWeightGrad"])],
)
def test_convolution_computes_only_the_gradients_asked_for(wanted, expected):
    x, w = normal(1, 2, 4, 4), normal(3, 2, 3, 3)
    x.requires_grad, w.requires_grad = "x" in wanted, "w" in wanted
    loss = conv2d(x, w).sum()
    names = Names()
    with observe(names):
        loss.backward()
    assert sorted(name for name in names.seen if name.startswith("Conv2d")) == expected


def test_nothing_is_recorded_under_no_grad():
    with no_grad():
        assert not conv2d(normal(1, 2, 4, 4), normal(3, 2, 3, 3)).requires_grad
        assert not max_pool2d(normal(1, 2, 4, 4), 2).requires_grad


def test_max_pooling_gives_indices_no_gradient():
    y, index = max_pool2d(normal(1, 2, 4, 4), 2, return_indices=True)
    assert y.requires_grad
    assert not index.requires_grad
    assert index.dtype == np.int64


def test_convolution_is_unfold_and_a_matrix_product():
    x, w = normal(2, 3, 6, 5), normal(4, 3, 3, 2)
    columns = unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=2)
    y = conv2d(x, w, dilation=(1, 2), padding=1, stride=2)
    np.testing.assert_allclose((w.array.reshape(4, -1) @ columns.array).reshape(y.shape), y.array, rtol=1e-12)


def test_fold_counts_each_pixel_once_for_every_patch_it_lies_in():
    counts = fold(unfold(Tensor(np.ones((1, 1, 3, 3))), 2), 3, 2)
    np.testing.assert_array_equal(counts.array[0, 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


def test_transposed_convolution_is_the_transpose():
    """<conv2d(x, w), y> = <x, conv_transpose2d(y, w)> for every x and y."""
    x, w = normal(2, 4, 7, 6), normal(6, 2, 3, 2)
    options = {"stride": (3, 2), "padding": 1, "dilation": (1, 2), "groups": 2}
    forward = conv2d(x, w, **options)
    y = normal(*forward.shape, seed=1)
    back = conv_transpose2d(y, w, output_padding=(0, 1), **options)
    assert back.shape == x.shape
    np.testing.assert_allclose((forward.array * y.array).sum(), (x.array * back.array).sum(), rtol=1e-12)


def test_infinity_stays_where_it_is_when_resized():
    x = np.zeros((1, 1, 1, 6))
    x[..., 0] = np.inf
    y = interpolate(Tensor(x), (1, 12), mode="bilinear").array[0, 0, 0]
    assert np.isfinite(y[3:]).all()


@pytest.mark.parametrize("size", [1, (2, 3), (9, 4)])
def test_adaptive_mean_covers_every_pixel_a_window_touches(size):
    """Window p spans rows floor(p * H / P) to ceil((p + 1) * H / P): a naive loop over it."""
    x = normal(1, 2, 7, 5)
    p, q = size if isinstance(size, tuple) else (size, size)
    expected = np.empty((1, 2, p, q))
    for i in range(p):
        for j in range(q):
            rows = [r for r in range(7) if r * p < (i + 1) * 7 and (r + 1) * p > i * 7]
            cols = [c for c in range(5) if c * q < (j + 1) * 5 and (c + 1) * q > j * 5]
            expected[:, :, i, j] = x.array[:, :, rows][:, :, :, cols].mean(axis=(2, 3))
    np.testing.assert_allclose(adaptive_avg_pool2d(x, size).array, expected, rtol=1e-12)
