"""The convolution kernels against PyTorch, over geometries that differ in every parameter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_cases import (
    MEMORY_ORDERS,
    always_threaded,  # noqa: F401 (a fixture)
    every_module,
    lies_channels_last,
    normal,
    relative_error,
)

from minires.kernels import conv_algorithm, cpu, reference, set_num_threads
from minires.kernels.algorithm import chosen_algorithm
from minires.kernels.cpu import blocks, conv, winograd
from minires.kernels.geometry import Conv2dGeometry

# input (N, C, H, W), weight (O, C/G, R, S), stride, ((top, bottom), (left, right)), dilation, groups
GEOMETRIES = {
    "3x3": ((2, 4, 7, 9), (6, 4, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "3x3 stride 2": ((2, 4, 8, 9), (6, 4, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "1x1": ((2, 4, 5, 6), (3, 4, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 stride 2": ((2, 4, 5, 6), (3, 4, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 padded after": ((2, 4, 5, 6), (3, 4, 1, 1), (1, 1), ((0, 1), (0, 2)), (1, 1), 1),
    "1x1 padded before": ((2, 4, 5, 6), (3, 4, 1, 1), (1, 1), ((1, 0), (2, 0)), (1, 1), 1),
    "7x7 stride 2 stem": ((1, 3, 15, 17), (4, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    "even kernel": ((2, 3, 6, 7), (5, 3, 4, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "uneven everything": ((3, 4, 8, 7), (6, 2, 3, 2), (2, 1), ((0, 1), (3, 2)), (1, 2), 2),
    "dilated": ((2, 3, 9, 9), (4, 3, 3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "dilated stride 3": ((2, 3, 11, 10), (4, 3, 3, 2), (3, 3), ((2, 2), (3, 3)), (2, 3), 1),
    "padding beyond the kernel": ((1, 3, 5, 6), (2, 3, 2, 2), (3, 2), ((4, 4), (5, 5)), (2, 1), 1),
    "padding beyond, stride 1": ((1, 3, 5, 6), (2, 3, 2, 2), (1, 1), ((4, 3), (5, 6)), (2, 1), 1),
    "padding beyond the input": ((2, 2, 1, 1), (3, 2, 3, 3), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    "stride beyond the kernel": ((2, 2, 9, 9), (3, 2, 2, 2), (4, 3), ((0, 0), (0, 0)), (1, 1), 1),
    "grouped": ((2, 8, 6, 5), (12, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    "grouped 1x1": ((2, 6, 5, 5), (4, 3, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    "grouped stride 2": ((2, 8, 6, 5), (4, 2, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4),
    "depthwise": ((2, 5, 6, 7), (5, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 5),
    "depthwise, two filters, stride 2": ((2, 3, 6, 7), (6, 1, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 3),
    "depthwise, 16 channels": ((3, 16, 7, 8), (16, 1, 3, 2), (2, 1), ((1, 2), (1, 0)), (1, 2), 16),
    "whole-plane kernel": ((2, 3, 4, 5), (7, 3, 4, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one of everything": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 too deep for one portion": ((1, 1030, 3, 3), (40, 1030, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "3x3 too deep for one portion": ((1, 600, 3, 4), (17, 600, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "batch 0": ((0, 4, 6, 6), (6, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "batch 0, stride 2": ((0, 4, 6, 6), (6, 4, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "batch 0, 1x1": ((0, 4, 6, 6), (6, 4, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
}
over_geometries = pytest.mark.parametrize(
    "geometry", [Conv2dGeometry(*row) for row in GEOMETRIES.values()], ids=list(GEOMETRIES)
)
over_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)])


def arrays(geometry, dtype=np.float64):
    shapes = geometry.input_shape, geometry.weight_shape, geometry.output_shape
    return [normal(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]


def three_maps(kernels, x, w, dy, geometry):
    return (
        kernels.conv2d(x, w, geometry),
        kernels.conv2d_input_grad(dy, w, geometry),
        kernels.conv2d_weight_grad(x, dy, geometry),
    )


def torch_maps(x, w, dy, geometry):
    """y, dx and dw in double precision."""
    x, w, dy = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, w, dy))
    rows, cols = geometry.padding
    y = F.conv2d(F.pad(x, cols + rows), w, None, geometry.stride, 0, geometry.dilation, geometry.groups)
    return [a.detach().numpy() for a in (y, *torch.autograd.grad(y, (x, w), dy))]


@every_module
@over_dtypes
@over_geometries
def test_convolution_and_its_gradients_equal_torch(kernels, dtype, tolerance, geometry):
    x, w, dy = arrays(geometry, dtype)
    for actual, expected in zip(three_maps(kernels, x, w, dy, geometry), torch_maps(x, w, dy, geometry), strict=True):
        assert actual.dtype == dtype
        assert relative_error(actual, expected) < tolerance


@every_module
@over_dtypes
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("has_residual", [False, True], ids=["", "residual"])
@over_geometries
def test_what_follows_a_convolution(kernels, dtype, tolerance, relu, has_residual, geometry):
    (x, w, residual), bias = arrays(geometry, dtype), normal(geometry.weight_shape[0], seed=3, dtype=dtype)
    y, _, _ = torch_maps(x, w, residual, geometry)
    expected = y + bias.reshape(-1, 1, 1) + (residual if has_residual else 0)
    expected = np.maximum(expected, 0) if relu else expected
    kept = {}
    first, second = (
        kernels.conv2d_add_relu(x, w, bias, residual if has_residual else None, relu, geometry, kept) for _ in range(2)
    )
    assert first.dtype == dtype
    assert relative_error(first, expected) < tolerance
    assert np.array_equal(first, second)


@over_geometries
def test_blocks_and_threads_change_nothing_but_rounding(monkeypatch, always_threaded, geometry):  # noqa: F811
    for module, name in ((blocks, "SPAN_BYTES"), (conv, "CHUNK_PIXELS"), (conv, "PRIVATE_BYTES")):
        monkeypatch.setattr(module, name, 1)
    x, w, dy = arrays(geometry)
    for actual, expected in zip(three_maps(cpu, x, w, dy, geometry), torch_maps(x, w, dy, geometry), strict=True):
        assert relative_error(actual, expected) < 1e-12


@every_module
@pytest.mark.parametrize("order", MEMORY_ORDERS)
@pytest.mark.parametrize("name", ["3x3", "1x1", "uneven everything", "depthwise", "grouped stride 2"])
def test_memory_order_of_the_inputs_does_not_matter(kernels, order, name):
    geometry = Conv2dGeometry(*GEOMETRIES[name])
    x, w, dy = arrays(geometry)
    reordered = [MEMORY_ORDERS[order](a) for a in (x, w, dy)]
    results = three_maps(kernels, *reordered, geometry)
    for actual, expected in zip(results, torch_maps(x, w, dy, geometry), strict=True):
        assert relative_error(actual, expected) < 1e-12
    y, dx, dw = results
    assert lies_channels_last(y)
    assert lies_channels_last(dx)
    assert dw.transpose(2, 3, 1, 0).flags.c_contiguous
    for given, original in zip(reordered, (x, w, dy), strict=True):
        assert np.array_equal(given, original), "an input was written to"


@every_module
@over_geometries
def test_input_gradient_is_the_transpose(kernels, geometry):
    x, w, dy = arrays(geometry)
    y, dx, dw = three_maps(kernels, x, w, dy, geometry)
    inner = (y * dy).sum()
    assert np.isclose((x * dx).sum(), inner, rtol=1e-12, atol=1e-12)
    assert np.isclose((w * dw).sum(), inner, rtol=1e-12, atol=1e-12)


@every_module
def test_second_run_gives_the_same_bits(kernels, always_threaded):  # noqa: F811
    geometry = Conv2dGeometry((8, 16, 16, 16), (16, 16, 3, 3), padding=((1, 1), (1, 1)))
    x, w, dy = arrays(geometry, np.float32)
    first, second = (three_maps(kernels, x, w, dy, geometry) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@every_module
def test_nan_and_inf_reach_just_the_windows_they_lie_in(kernels, bad):
    geometry = Conv2dGeometry((1, 1, 6, 6), (1, 1, 3, 3), padding=((1, 1), (1, 1)))
    x, w = np.ones((1, 1, 6, 6)), np.ones((1, 1, 3, 3))
    x[0, 0, 2, 3] = bad
    finite = np.isfinite(kernels.conv2d(x, w, geometry)[0, 0])
    assert not finite[1:4, 2:5].any()
    assert finite.sum() == 36 - 9


UNFOLDS = {
    "3x3": ((2, 3, 5, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
    "uneven": ((1, 4, 7, 8), (2, 3), (2, 1), (0, 2), (1, 2)),
    "wide stride": ((2, 1, 9, 9), (2, 2), (3, 4), (1, 0), (2, 1)),
}


@every_module
@pytest.mark.parametrize("row", UNFOLDS.values(), ids=list(UNFOLDS))
def test_im2col_and_col2im_equal_unfold_and_fold(kernels, row):
    shape, kernel_size, stride, padding, dilation = row
    geometry = Conv2dGeometry(shape, (1, shape[1], *kernel_size), stride, tuple((p, p) for p in padding), dilation)
    x = normal(*shape)
    columns = F.unfold(torch.tensor(x), kernel_size, dilation, padding, stride)
    assert np.array_equal(kernels.im2col(x, geometry), columns.numpy())
    image = F.fold(columns, shape[2:], kernel_size, dilation, padding, stride)
    actual = kernels.col2im(columns.numpy(), geometry)
    assert relative_error(actual, image.numpy()) < 1e-14
    assert lies_channels_last(actual)


def test_reference_is_im2col_times_filters():
    geometry = Conv2dGeometry((2, 3, 5, 5), (4, 3, 3, 3), padding=((1, 1), (1, 1)))
    x, w, _ = arrays(geometry)
    y = np.einsum("ok,nkp->nop", w.reshape(4, -1), reference.im2col(x, geometry))
    assert relative_error(reference.conv2d(x, w, geometry), y.reshape(2, 4, 5, 5)) < 1e-14


WINOGRAD_GEOMETRIES = {
    "tiles that fit": ((2, 32, 8, 12), (48, 32, 3, 3), ((1, 1), (1, 1))),
    "tiles beyond the edge": ((3, 16, 9, 7), (80, 16, 3, 3), ((1, 1), (1, 1))),
    "no padding": ((1, 48, 7, 10), (16, 48, 3, 3), ((0, 0), (0, 0))),
    "uneven padding": ((2, 16, 5, 6), (32, 16, 3, 3), ((3, 0), (1, 4))),
    "one pixel": ((1, 16, 1, 1), (16, 16, 3, 3), ((1, 1), (1, 1))),
}


def winograd_case(name):
    input_shape, weight_shape, padding = WINOGRAD_GEOMETRIES[name]
    geometry = Conv2dGeometry(input_shape, weight_shape, padding=padding)
    return geometry, arrays(geometry, np.float32)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("private", [0, 1 << 20], ids=["one sum", "a sum for each thread"])
@pytest.mark.parametrize("name", WINOGRAD_GEOMETRIES)
def test_winograd_equals_torch(monkeypatch, always_threaded, name, private, threads):  # noqa: F811
    monkeypatch.setattr(winograd, "PRIVATE_BYTES", private)
    set_num_threads(threads)
    geometry, (x, w, dy) = winograd_case(name)
    with conv_algorithm("winograd"):
        assert winograd.suits(geometry, x.dtype)
        results = three_maps(cpu, x, w, dy, geometry)
    for actual, expected in zip(results, torch_maps(x, w, dy, geometry), strict=True):
        assert actual.dtype == np.float32
        assert relative_error(actual, expected) < 2e-5


@pytest.mark.parametrize("has_residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("name", WINOGRAD_GEOMETRIES)
def test_what_follows_a_convolution_by_winograd(always_threaded, name, has_residual):  # noqa: F811
    geometry, (x, w, residual) = winograd_case(name)
    bias = normal(geometry.weight_shape[0], seed=3, dtype=np.float32)
    y, _, _ = torch_maps(x, w, residual, geometry)
    added = residual if has_residual else 0
    kept = {}
    with conv_algorithm("winograd"):
        for _ in range(2):
            y_relu = cpu.conv2d_add_relu(x, w, bias, residual if has_residual else None, True, geometry, kept)
            assert relative_error(y_relu, np.maximum(y + bias.reshape(-1, 1, 1) + added, 0)) < 2e-5
    assert list(kept) == ["winograd"]


def test_winograd_takes_fewer_tiles_if_its_filters_are_kept():
    small = Conv2dGeometry((1, 64, 14, 14), (64, 64, 3, 3), padding=((1, 1), (1, 1)))
    assert winograd.suits(small, np.dtype(np.float32), filters_kept=True)
    assert not winograd.suits(small, np.dtype(np.float32))


def test_winograd_is_taken_where_it_was_asked_for_and_only_there():
    geometry, (x, w, dy) = winograd_case("tiles that fit")
    with conv_algorithm("im2col"):
        plain = three_maps(cpu, x, w, dy, geometry)
    with conv_algorithm("winograd"):
        fast = three_maps(cpu, x, w, dy, geometry)
    for a, b in zip(plain, fast, strict=True):
        assert not np.array_equal(a, b)
    doubles = [a.astype(np.float64) for a in (x, w, dy)]
    with conv_algorithm("winograd"):
        for actual, expected in zip(three_maps(cpu, *doubles, geometry), torch_maps(*doubles, geometry), strict=True):
            assert relative_error(actual, expected) < 1e-12


FAR = [np.nan, np.inf, -np.inf, 1e30, 1e8, 1e6]
PLACES = {
    "corner": (slice(0, 1), 0, 0),
    "within": (slice(3, 4), 4, 5),
    "edge": (slice(0, 1), -1, 3),
    "end": (slice(2, 3), -1, -1),
    "every channel": (slice(None), 2, 1),
    "a row": (slice(1, 2), 3, slice(None)),
    "a column": (slice(None), slice(None), 4),
}


def compare_where_hidden(actual, expected, sees, tolerance):
    """NaN and infinity are where they belong; outputs that do not see the far number are as if it were not there."""
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert np.array_equal(kind(actual), kind(expected))
    hidden = (sees == 0) & np.isfinite(expected)  # zeros around an image times infinity are NaN
    assert np.abs(actual[hidden] - expected[hidden]).max(initial=0) < tolerance


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize("which", [0, 2], ids=["x", "dy"])
@pytest.mark.parametrize(
    "shape", [((2, 32, 13, 14), 1), ((1, 16, 16, 9), 1), ((2, 16, 10, 11), 0), ((1, 32, 8, 8), 2)], ids=str
)
def test_winograd_keeps_far_numbers_where_they_are_seen(always_threaded, shape, which, place, far):  # noqa: F811
    input_shape, pad = shape
    geometry = Conv2dGeometry(input_shape, (32, input_shape[1], 3, 3), padding=((pad, pad), (pad, pad)))
    operands = arrays(geometry, np.float32)
    operands[1] *= np.float32(0.1)
    clean = torch_maps(*operands, geometry)
    operands[which][(0, *place)] = far
    with conv_algorithm("winograd"), np.errstate(invalid="ignore"):
        results = three_maps(cpu, *operands, geometry)
    exact = torch_maps(*operands, geometry)
    marks = [np.zeros(operand.shape) for operand in operands]
    marks[which][(0, *place)] = 1
    ones = [np.ones(operand.shape) for operand in operands]
    ones[which] = marks[which]
    for actual, expected, undisturbed, sees in zip(results, exact, clean, torch_maps(*ones, geometry), strict=True):
        compare_where_hidden(actual, expected, sees, 2e-5 * np.abs(undisturbed).max())


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("tap", [(0, 0), (2, 1), (1, 1)], ids=str)
def test_winograd_keeps_far_filters_where_they_are_seen(always_threaded, tap, far):  # noqa: F811
    geometry = Conv2dGeometry((1, 32, 8, 9), (32, 32, 3, 3), padding=((1, 1), (1, 1)))
    x, w, dy = arrays(geometry, np.float32)
    w[(3, 2, *tap)] = far
    with conv_algorithm("winograd"):
        results = three_maps(cpu, x, w, dy, geometry)
        kept = {}
        folded = [cpu.conv2d_add_relu(x, w, np.zeros(32, np.float32), None, False, geometry, kept) for _ in range(2)]
    y, dx, dw = torch_maps(x, w, dy, geometry)
    marks = np.zeros(w.shape)
    marks[(3, 2, *tap)] = 1
    y_sees, dx_sees, _ = torch_maps(np.ones(x.shape), marks, np.ones(dy.shape), geometry)
    for actual, expected, sees in [(results[0], y, y_sees), (folded[1], y, y_sees)]:
        compare_where_hidden(actual, expected, sees, 2e-4)
    # Zeros around dy times NaN are NaN, too; PyTorch has no such products.
    inside = np.s_[:, :, 1:-1, 1:-1] if not np.isfinite(far) else np.s_[:]
    compare_where_hidden(results[1][inside], dx[inside], dx_sees[inside], 2e-4)
    assert relative_error(results[2], dw) < 2e-5


def test_ordinary_numbers_are_even():
    # Zeros in whole images, as of padding or a ReLU, and images of unlike size of numbers are nothing to repair.
    geometry = Conv2dGeometry((6, 32, 14, 14), (32, 32, 3, 3), padding=((1, 1), (1, 1)))
    x, _, dy = arrays(geometry, np.float32)
    x = np.maximum(x, 0)
    x[0] = 0
    dy *= np.float32([0, 1e-6, 1, 1e6, 1e-3, 1]).reshape(-1, 1, 1, 1)
    nhwc = [np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, dy)]
    _, left_out = winograd.weight_grad(*nhwc, (1, 1))
    assert not left_out


def test_winograd_of_no_images():
    geometry = Conv2dGeometry((0, 16, 6, 6), (16, 16, 3, 3), padding=((1, 1), (1, 1)))
    with conv_algorithm("winograd"):
        y, dx, dw = three_maps(cpu, *arrays(geometry, np.float32), geometry)
    assert (y.shape, dx.shape) == (geometry.output_shape, geometry.input_shape)
    assert dw.shape == geometry.weight_shape
    assert not dw.any()


def test_an_algorithm_holds_until_the_with_statement_ends():
    assert chosen_algorithm() == "auto"
    with conv_algorithm("im2col"):
        with conv_algorithm("winograd"):
            assert chosen_algorithm() == "winograd"
        assert chosen_algorithm() == "im2col"
    assert chosen_algorithm() == "auto"
    with pytest.raises(ValueError, match="unknown convolution algorithm 'fft': choose one of auto, im2col, winograd"):
        conv_algorithm("fft")
    assert chosen_algorithm() == "auto"


@pytest.mark.parametrize("algorithm", ["im2col", "winograd"])
def test_each_algorithm_repeats_its_bits(always_threaded, algorithm):  # noqa: F811
    geometry, (x, w, dy) = winograd_case("tiles beyond the edge")
    with conv_algorithm(algorithm):
        first, second = (three_maps(cpu, x, w, dy, geometry) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_image_too_large_for_the_tables_is_refused_by_its_size():
    geometry = Conv2dGeometry((1, 1 << 11, 1 << 10, 1 << 10), (1, 1 << 11, 1, 1))
    with pytest.raises(ValueError, match="images of 2147483648 numbers are too large"):
        conv._output_windows(geometry)
