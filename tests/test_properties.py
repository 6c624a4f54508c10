"""Identities that need no oracle, over random geometries: the backward map is the transpose of the forward map.

For a linear map A and its backward pass B, <A x, y> = <x, B y> for all x and y. Hypothesis draws shapes, strides,
paddings, dilations, groups, dtypes and memory layouts; the few examples of the default run are always the same.
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minires
from minires.autograd import Tensor, grad
from minires.nn import functional as F

few = settings(max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
dtypes = st.sampled_from(["float64", "float32"])
seeds = st.integers(0, 2**16)
sizes = st.integers(1, 3)


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values in another order in memory."""
    if layout == "contiguous":
        return np.ascontiguousarray(array)
    if layout == "reversed":
        return np.ascontiguousarray(array.T).T
    if layout == "channels last" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array[..., ::-1])[..., ::-1]


layouts = st.sampled_from(["contiguous", "reversed", "channels last", "backwards"])


def drawn(rng, shape, dtype, layout="contiguous", requires_grad=True):
    return Tensor(laid_out(rng.standard_normal(shape).astype(dtype), layout), requires_grad=requires_grad)


@st.composite
def convolutions(draw):
    """Shapes of image and filter, and options under which at least one window fits."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    n, inside, outside = draw(sizes), groups * draw(sizes), groups * draw(sizes)
    options = {"groups": groups}
    image, kernel = [], []
    for name, low in (("stride", 1), ("padding", 0), ("dilation", 1)):
        options[name] = (draw(st.integers(low, 3)), draw(st.integers(low, 3)))
    for axis in range(2):
        k = draw(st.integers(1, 4))
        least = options["dilation"][axis] * (k - 1) + 1 - 2 * options["padding"][axis]
        image.append(max(1, least) + draw(st.integers(0, 4)))
        kernel.append(k)
    return (n, inside, *image), (outside, inside // groups, *kernel), options


def assert_transposed(forward, x, rng, tolerance):
    """<A x, y> = <x, B y>."""
    y = forward(x)
    dy = Tensor(rng.standard_normal(y.shape).astype(y.dtype))
    (dx,) = grad(y, x, dy)
    left = float(np.vdot(y.detach().numpy().astype(float), dy.numpy().astype(float)))
    right = float(np.vdot(x.detach().numpy().astype(float), dx.numpy().astype(float)))
    size = np.linalg.norm(y.detach().numpy()) * np.linalg.norm(dy.numpy())
    assert abs(left - right) <= tolerance * max(size, 1e-3)


def assert_linear(forward, x, rng, tolerance):
    """A(x + 3 z) = A x + 3 A z."""
    z = Tensor(rng.standard_normal(x.shape).astype(x.dtype))
    with minires.no_grad():
        both, parts = forward(x + 3 * z).numpy(), forward(x).numpy() + 3 * forward(z).numpy()
    assert np.linalg.norm(both - parts) <= tolerance * max(np.linalg.norm(both), 1e-3)


@few
@given(convolutions(), dtypes, layouts, layouts, seeds)
def test_convolution_is_linear_and_its_gradients_are_transposes(geometry, dtype, of_x, of_w, seed):
    image, kernel, options = geometry
    rng, tolerance = np.random.default_rng(seed), TOLERANCE[dtype]
    x, w = drawn(rng, image, dtype, of_x), drawn(rng, kernel, dtype, of_w)
    assert_transposed(lambda x: F.conv2d(x, w.detach(), **options), x, rng, tolerance)
    assert_transposed(lambda w: F.conv2d(x.detach(), w, **options), w, rng, tolerance)
    assert_linear(lambda x: F.conv2d(x, w, **options), x, rng, tolerance)


@few
@given(convolutions(), layouts, seeds)
def test_convolution_and_its_gradients_equal_pytorch(geometry, layout, seed):
    image, kernel, options = geometry
    rng = np.random.default_rng(seed)
    x, w = drawn(rng, image, "float64", layout), drawn(rng, kernel, "float64", layout)
    y = F.conv2d(x, w, **options)
    dy = rng.standard_normal(y.shape)
    ours = grad(y, (x, w), Tensor(dy))
    tx, tw = (torch.from_numpy(t.detach().numpy().copy()).requires_grad_() for t in (x, w))
    ty = torch.nn.functional.conv2d(tx, tw, **options)
    theirs = torch.autograd.grad(ty, (tx, tw), torch.from_numpy(dy))
    for a, b in zip((y, *ours), (ty, *theirs), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9)


@few
@given(convolutions(), seeds)
def test_fold_is_the_transpose_of_unfold(geometry, seed):
    (n, c, h, w), (_, _, r, s), options = geometry
    rng = np.random.default_rng(seed)
    window = {name: options[name] for name in ("stride", "padding", "dilation")}
    x = drawn(rng, (n, c, h, w), "float64")
    columns = F.unfold(x, (r, s), **window)
    y = Tensor(rng.standard_normal(columns.shape))
    image = F.fold(y, (h, w), (r, s), **window)
    assert np.isclose(np.vdot(columns.detach().numpy(), y.numpy()), np.vdot(x.detach().numpy(), image.numpy()))


@few
@given(convolutions(), seeds)
def test_transposed_convolution_is_the_input_gradient_of_convolution(geometry, seed):
    image, kernel, options = geometry
    rng = np.random.default_rng(seed)
    x, w = drawn(rng, image, "float64"), drawn(rng, kernel, "float64", requires_grad=False)
    y = F.conv2d(x, w, **options)
    dy = Tensor(rng.standard_normal(y.shape))
    (dx,) = grad(y, x, dy)
    rest = [
        size - ((out - 1) * stride - 2 * padding + dilation * (k - 1) + 1)
        for size, out, stride, padding, dilation, k in zip(
            image[2:], y.shape[2:], options["stride"], options["padding"], options["dilation"], kernel[2:], strict=True
        )
    ]
    up = F.conv_transpose2d(dy, w, None, output_padding=tuple(rest), **options)
    np.testing.assert_allclose(up.numpy(), dx.numpy(), rtol=1e-10, atol=1e-10)


@few
@given(sizes, sizes, st.integers(4, 7), st.integers(1, 3), st.integers(0, 3), dtypes, seeds)
def test_convolution_commutes_with_translation(n, c, side, kernel, by, dtype, seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((n, c, side + 2 * kernel + by, side))
    image[:, :, kernel : kernel + side] = rng.standard_normal((n, c, side, side))
    w = drawn(rng, (2, c, kernel, 1), dtype, requires_grad=False)
    here, there = (F.conv2d(Tensor(np.roll(image, k, 2).astype(dtype)), w).numpy() for k in (0, by))
    np.testing.assert_array_equal(here[:, :, : here.shape[2] - by], there[:, :, by:])


@few
@given(sizes, sizes, st.integers(3, 8), st.integers(1, 3), st.integers(1, 3), layouts, dtypes, seeds)
def test_average_pooling_is_linear_and_its_gradient_the_transpose(n, c, side, kernel, stride, layout, dtype, seed):
    rng = np.random.default_rng(seed)
    x = drawn(rng, (n, c, side, side + 1), dtype, layout)
    for pool in (
        lambda x: F.avg_pool2d(x, kernel, stride, kernel // 2),
        lambda x: F.adaptive_avg_pool2d(x, (min(kernel, side), stride)),
    ):
        assert_transposed(pool, x, rng, TOLERANCE[dtype])
        assert_linear(pool, x, rng, TOLERANCE[dtype])


@few
@given(sizes, sizes, st.integers(3, 7), st.integers(2, 3), st.integers(1, 3), layouts, seeds)
def test_max_pooling_hands_on_all_of_the_gradient(n, c, side, kernel, stride, layout, seed):
    rng = np.random.default_rng(seed)
    x = Tensor(laid_out(rng.integers(0, 3, (n, c, side, side)).astype(float), layout), requires_grad=True)  # many ties
    y = F.max_pool2d(x, kernel, stride)
    dy = rng.standard_normal(y.shape)
    (dx,) = grad(y, x, Tensor(dy))
    np.testing.assert_allclose(dx.numpy().sum((2, 3)), dy.sum((2, 3)), rtol=1e-12, atol=1e-12)
    # Where the gradient went, the image is as large as some maximum.
    assert set(np.unique(x.detach().numpy()[dx.numpy() != 0])) <= set(np.unique(y.detach().numpy()))


@few
@given(st.integers(2, 4), sizes, st.integers(1, 4), st.booleans(), layouts, seeds)
def test_batch_norm_ignores_scale_and_shift_of_its_input(n, c, side, residual, layout, seed):
    rng = np.random.default_rng(seed)
    shape = (n, c, side, side + 1)
    x, weight, bias = drawn(rng, shape, "float64", layout), drawn(rng, c, "float64"), drawn(rng, c, "float64")
    skip = drawn(rng, shape, "float64") if residual else None

    def normalised(x):
        return F.batch_norm(x, None, None, weight, bias, True, eps=1e-14, residual=skip)

    y = normalised(x)
    np.testing.assert_allclose(y.detach().numpy(), normalised(x * 3 + 5).detach().numpy(), rtol=1e-7, atol=1e-7)
    dx, dbias = grad(y, (x, bias), dy := Tensor(rng.standard_normal(shape)))
    # Neither a shift nor a scaling of x changes anything, so the gradient is orthogonal to both.
    size = np.abs(dx.numpy()).sum() + 1e-9
    assert np.abs(dx.numpy().sum((0, 2, 3))).max() <= 1e-8 * size
    assert np.abs((dx.numpy() * x.detach().numpy()).sum((0, 2, 3))).max() <= 1e-8 * size
    np.testing.assert_allclose(dbias.numpy(), dy.numpy().sum((0, 2, 3)))


@few
@given(st.lists(sizes, min_size=1, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4), layouts, seeds)
def test_broadcasting_sums_what_was_repeated(shape, repeated, layout, seed):
    rng = np.random.default_rng(seed)
    small = [1 if again else size for size, again in zip(shape, repeated, strict=False)]
    a, b = drawn(rng, shape, "float64", layout), drawn(rng, small, "float64")
    dy = rng.standard_normal(shape)
    da, db = grad(a + b, (a, b), Tensor(dy))
    axes = tuple(k for k, size in enumerate(small) if size == 1)
    np.testing.assert_array_equal(da.numpy(), dy)
    np.testing.assert_allclose(db.numpy(), dy.sum(axes, keepdims=True), rtol=1e-12, atol=1e-12)


@few
@given(sizes, sizes, sizes, dtypes, layouts, seeds)
def test_linear_is_linear_and_its_gradients_are_transposes(n, inside, outside, dtype, layout, seed):
    rng, tolerance = np.random.default_rng(seed), TOLERANCE[dtype]
    x, w = drawn(rng, (n, inside), dtype, layout), drawn(rng, (outside, inside), dtype, layout)
    assert_transposed(lambda x: F.linear(x, w.detach()), x, rng, tolerance)
    assert_transposed(lambda w: F.linear(x.detach(), w), w, rng, tolerance)
    assert_linear(lambda x: F.linear(x, w), x, rng, tolerance)


BRANCHES = [
    lambda x: x.tanh(),
    lambda x: F.relu(x),
    lambda x: x * x,
    lambda x: F.softmax(x, 0),
    lambda x: x.exp(),
    lambda x: F.gelu(x),
    lambda x: x.clamp(-0.5, 0.5),
]


@few
@given(st.lists(st.sampled_from(BRANCHES), min_size=2, max_size=4), st.lists(sizes, min_size=1, max_size=3), seeds)
def test_the_gradient_of_a_sum_of_branches_is_the_sum_of_gradients(branches, shape, seed):
    rng = np.random.default_rng(seed)
    x, dy = drawn(rng, shape, "float64"), Tensor(rng.standard_normal(shape))
    (together,) = grad(sum((branch(x) for branch in branches[1:]), branches[0](x)), x, dy)
    apart = sum(grad(branch(x), x, dy)[0].numpy() for branch in branches)
    np.testing.assert_allclose(together.numpy(), apart, rtol=1e-12, atol=1e-12)
