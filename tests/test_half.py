"""float16 and bfloat16: every op computes in float32, forward and backward, and rounds its result once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as torch_F
from op_rows import ROWS
from op_table import Row, Sample, run_ours

import minires
import minires.nn.functional as F

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
halves = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)


def cases():
    return [
        pytest.param(row, sample, id=f"{row.name}-{index}") for row in ROWS for index, sample in enumerate(row.samples)
    ]


@halves
@pytest.mark.parametrize(("row", "sample"), cases())
def test_every_op_is_that_of_float32_rounded_once(row: Row, sample: Sample, half: np.dtype):
    ours = run_ours(row, sample, half, second=row.second_order, rounding=half)
    exact = run_ours(row, sample, np.float32, second=row.second_order, rounding=half)
    follows = run_ours(row, sample, np.float64, second=row.second_order)
    for name in ("outputs", "gradients", "second"):
        results = zip(getattr(ours, name), getattr(exact, name), getattr(follows, name), strict=True)
        for index, (mine, right, wide) in enumerate(results):
            expected = half if wide.dtype == np.float64 else wide.dtype
            assert mine.dtype == expected, f"{name} {index}: {mine.dtype}, not {expected}"
            if expected != half:
                continue
            # A second derivative is the sum of several gradients, each of which is rounded.
            assert_rounded(mine, right, name == "second", f"{name} {index}")


def assert_rounded(mine: np.ndarray, right: np.ndarray, several: bool, what: str) -> None:
    """A unit in the last place, but for float32's own rounding; at the largest number if there were several."""
    info = ml_dtypes.finfo(mine.dtype)
    with np.errstate(over="ignore"):
        rounded = right.astype(mine.dtype).astype(np.float64)
    mine, overflows = mine.astype(np.float64), ~np.isfinite(rounded)
    np.testing.assert_array_equal(mine[overflows], rounded[overflows], err_msg=what)
    mine, right = mine[~overflows], right[~overflows].astype(np.float64)
    if not right.size:
        return
    scale = np.abs(right).max()
    allowed = (4 * scale if several else np.abs(right)) * float(info.eps) + 1e-6 * scale
    excess = np.abs(mine - right) - allowed - float(info.smallest_subnormal)
    assert excess.max() <= 0, f"{what}: {mine[excess.argmax()]}, right {right[excess.argmax()]}"


# Numbers whose intermediate values 16 bits cannot hold, or lose


def full(number, *shape):
    return np.full(shape, number)


def classes(lib, *shape):
    return lib.zeros(*shape, dtype=lib.int64)


HOSTILE = {
    # sums, counts and squares beyond 65504
    "mean of a large sum": ([full(1000.0, 100)], lambda lib, F, x: x.mean()),
    "mean along the first axis": ([full(1000.0, 100, 2)], lambda lib, F, x: x.mean(0)),
    "mean of many": ([full(0.5, 100_000)], lambda lib, F, x: x.mean()),
    "global mean": ([full(30.0, 1, 2, 64, 64)], lambda lib, F, x: x.mean((2, 3))),
    "global average pooling": ([full(30.0, 1, 2, 64, 64)], lambda lib, F, x: F.adaptive_avg_pool2d(x, 1)),
    "average pooling": ([full(30000.0, 1, 2, 6, 6)], lambda lib, F, x: F.avg_pool2d(x, 3, 2)),
    "average pooling of a large plane": ([full(2.0, 1, 1, 260, 260)], lambda lib, F, x: F.avg_pool2d(x, 260)),
    "average pooling over the edge": ([full(9.0, 1, 1, 90, 90)], lambda lib, F, x: F.avg_pool2d(x, 90, 45, 45)),
    "variance": ([np.arange(5) * 40.0], lambda lib, F, x: x.var()),
    "variance of many": ([np.arange(70_000) % 2.0], lambda lib, F, x: x.var(0, False)),
    "standard deviation": ([np.array([0.0, 600.0, 100.0])], lambda lib, F, x: x.std()),
    "standard deviation of large numbers": ([60000.0 + np.arange(50) % 3 * 32], lambda lib, F, x: x.std(0)),
    "standard deviation of small numbers": ([np.arange(50) % 3 * 2.0**-14], lambda lib, F, x: x.std(0)),
    "norm": ([full(300.0, 1000)], lambda lib, F, x: x.norm()),
    "norm of small numbers": ([full(2.0**-14, 100)], lambda lib, F, x: x.norm()),
    "norm along an axis": ([full(300.0, 1000, 2)], lambda lib, F, x: x.norm(2, 0)),
    "norm of absolute values": ([full(2.0**-12, 4096)], lambda lib, F, x: x.norm(1)),
    "largest of many equal": ([full(3.0, 5000)], lambda lib, F, x: x.amax()),
    "product": ([np.array([1024.0, 1024.0, 2.0**-10, 2.0**-10])], lambda lib, F, x: x.prod()),
    # exponentials
    "softmax along the first axis": ([full(0.0, 4096, 2)], lambda lib, F, x: F.softmax(x, 0)),
    "softmax of 70000 classes": ([full(0.0, 1, 70_000)], lambda lib, F, x: F.softmax(x, 1)),
    "softmax of rows": ([np.linspace(-9, 9, 3000).reshape(3, 1000)], lambda lib, F, x: F.softmax(x, -1)),
    "log softmax": ([np.linspace(-9, 9, 3000).reshape(3, 1000)], lambda lib, F, x: F.log_softmax(x, 1)),
    "log of summed exponentials": ([full(0.0, 70_000)], lambda lib, F, x: lib.logsumexp(x, 0)),
    "cross entropy": ([full(0.0, 4, 1000)], lambda lib, F, x: F.cross_entropy(x, classes(lib, 4))),
    "cross entropy of many": ([full(0.0, 70_000, 3)], lambda lib, F, x: F.cross_entropy(x, classes(lib, 70_000))),
    "cross entropy of an image": (
        [full(0.0, 1, 4096, 2, 2)],
        lambda lib, F, x: F.cross_entropy(x, classes(lib, 1, 2, 2)),
    ),
    "cross entropy, smoothed": (
        [np.linspace(-9, 9, 2000).reshape(2, 1000)],
        lambda lib, F, x: F.cross_entropy(x, classes(lib, 2), label_smoothing=0.1),
    ),
    "cross entropy with weights": (
        [full(0.0, 5000, 3)],
        lambda lib, F, x: F.cross_entropy(x, classes(lib, 5000), lib.ones(3, dtype=x.dtype)),
    ),
    "cross entropy with probabilities": (
        [np.linspace(-9, 9, 3000).reshape(3, 1000), full(1 / 1024, 3, 1000)],
        lambda lib, F, x, y: F.cross_entropy(x, y),
    ),
    "negative log likelihood": ([full(-1.0, 70_000, 2)], lambda lib, F, x: F.nll_loss(x, classes(lib, 70_000))),
    "binary cross entropy": (
        [full(-20.0, 70_000), full(1.0, 70_000)],
        lambda lib, F, x, y: F.binary_cross_entropy_with_logits(x, y),
    ),
    "squared error of many": ([full(1.0, 70_000), full(0.0, 70_000)], lambda lib, F, x, y: F.mse_loss(x, y)),
    "squared error of large numbers": (
        [np.array([400.0, 0.0, 1.0]), full(0.0, 3)],
        lambda lib, F, x, y: F.mse_loss(x, y),
    ),
    "absolute error": ([full(1.0, 70_000), full(0.0, 70_000)], lambda lib, F, x, y: F.l1_loss(x, y)),
    "smooth absolute error": (
        [np.arange(70_000) % 400.0, full(0.5, 70_000)],
        lambda lib, F, x, y: F.smooth_l1_loss(x, y, beta=300.0),
    ),
    # activations
    "tanh-GELU": ([np.array([300.0, -300, 5, -5, 2.5, 40])], lambda lib, F, x: F.gelu(x, approximate="tanh")),
    "GELU": ([np.array([300.0, -300, 4, -4, 2.5])], lambda lib, F, x: F.gelu(x)),
    "SiLU": ([np.array([-13.0, 13, 300, -5])], lambda lib, F, x: F.silu(x)),
    "sigmoid": ([np.array([-13.0, 8, 5, -5])], lambda lib, F, x: x.sigmoid()),
    "tanh": ([np.array([4.0, -3.5, 0.01])], lambda lib, F, x: x.tanh()),
    "reciprocal square root": ([np.array([2.0**-14, 6e4])], lambda lib, F, x: x.rsqrt()),
    "error function": ([np.array([300.0, 2.5, -2.5])], lambda lib, F, x: x.erf()),
    "leaky ReLU": ([np.array([-60000.0, -3.0])], lambda lib, F, x: F.leaky_relu(x, 1e-4)),
    "exp(x) - 1": ([np.array([-8.0, 9.0])], lambda lib, F, x: x.expm1()),
    "cube": ([np.array([2.0**-5, 35.0])], lambda lib, F, x: x**3),
    # Python numbers beyond 16 bits
    "times a large number": ([np.array([2.0**-10])], lambda lib, F, x: x * 1e5),
    "times a small number": ([np.array([6e4])], lambda lib, F, x: x * 1e-9),
    "times a tenth": ([np.arange(1, 100) * 0.5], lambda lib, F, x: x * 0.1),
    "plus a large number": ([np.array([-60000.0])], lambda lib, F, x: x + 1e5),
    "a large number less": ([np.array([60000.0])], lambda lib, F, x: 1e5 - x),
    "plus a multiple": ([full(2.0**-10, 3), full(1.0, 3)], lambda lib, F, x, y: lib.add(y, x, alpha=100_000)),
    "over a large number": ([np.array([60000.0])], lambda lib, F, x: x / 1e5),
    "a large number over": ([np.array([60000.0])], lambda lib, F, x: 1e6 / x),
    "times a large 0-dimensional Tensor": (
        [np.array([2.0**-10])],
        lambda lib, F, x: x * lib.tensor(1e5, dtype=lib.float32),
    ),
    "quotient": ([np.array([2.0]), np.array([2.0**-12])], lambda lib, F, x, y: x / y),
    # gradients that gather
    "a scale for all": ([full(1.0, 70_000), full(0.5, 1)], lambda lib, F, x, y: x * y),
    "a shift for all": ([full(1.0, 70_000), full(0.5, 1)], lambda lib, F, x, y: x + y),
    "one taken often": ([full(1.0, 3)], lambda lib, F, x: x[lib.zeros(5000, dtype=lib.int64)]),
    "many added to one": (
        [full(0.0, 2), full(1.0, 5000)],
        lambda lib, F, x, y: lib.scatter_add(x, 0, lib.zeros(5000, dtype=lib.int64), y),
    ),
    "expanded": ([full(1.0, 1, 3)], lambda lib, F, x: x.expand(5000, 3)),
    "a shared factor of products": (
        [full(1.0, 5000, 1, 2), full(1.0, 2, 3)],
        lambda lib, F, x, y: lib.matmul(x, y),
    ),
    "nearest pixels": ([full(1.0, 1, 1, 1, 2)], lambda lib, F, x: F.interpolate(x, (50, 120))),
    "bilinear positions": (
        [np.sin(np.arange(1500.0)).reshape(1, 1, 1, 1500)],
        lambda lib, F, x: F.interpolate(x, (2, 3000), mode="bilinear"),
    ),
    "bilinear corners": (
        [np.sin(np.arange(1501.0)).reshape(1, 1, 1, 1501)],
        lambda lib, F, x: F.interpolate(x, (2, 3001), mode="bilinear", align_corners=True),
    ),
}


@pytest.mark.parametrize("in_autocast", [False, True], ids=["", "autocast"])
@halves
@pytest.mark.parametrize("name", HOSTILE)
def test_intermediate_values_need_not_fit(name, half, in_autocast):
    arrays, operation = HOSTILE[name]
    rounded = [array.astype(half) for array in arrays]
    xs = [minires.Tensor(array).requires_grad_() for array in rounded]
    with minires.autocast("cpu", half, enabled=in_autocast):
        y = operation(minires, F, *xs)
    dy = np.asarray((np.arange(y.numel()).reshape(y.shape) % 3 + 1.0) / 4)
    y.backward(minires.Tensor(dy.astype(y.dtype)))
    theirs = [torch.from_numpy(array.astype(np.float64)).requires_grad_() for array in rounded]
    z = operation(torch, torch_F, *theirs)
    z.backward(torch.from_numpy(dy))
    exact = [z.detach(), *(x.grad for x in theirs)]
    assert [x.grad.dtype for x in xs] == [half] * len(xs)
    for index, (mine, right) in enumerate(zip([y.detach(), *(x.grad for x in xs)], exact, strict=True)):
        if mine.dtype == half:
            assert_rounded(mine.numpy(), right.numpy(), False, f"{name} {index}")
        else:
            np.testing.assert_allclose(mine.numpy(), right.numpy(), rtol=1e-5, err_msg=f"{name} {index}")


@halves
@pytest.mark.parametrize("name", HOSTILE)
def test_nor_those_of_second_derivatives(name, half):
    arrays, operation = HOSTILE[name]
    rounded = [array.astype(half) for array in arrays]

    def second(lib, functional, leaves, tensor):
        y = operation(lib, functional, *leaves)
        dy = tensor((np.arange(y.numel()).reshape(y.shape) % 3 + 1) / 4)
        first = [g for g in lib.autograd.grad(y, leaves, dy, create_graph=True) if g.requires_grad]
        directions = [tensor((np.arange(g.numel()).reshape(g.shape) % 5 - 1.5) / 2) for g in first]
        if not first:  # the op is linear
            return [tensor(np.zeros(leaf.shape)) for leaf in leaves]
        return lib.autograd.grad(first, leaves, directions, allow_unused=True, materialize_grads=True)

    leaves = [minires.Tensor(array).requires_grad_() for array in rounded]
    ours = second(minires, F, leaves, lambda array: minires.Tensor(np.asarray(array, half)))
    leaves = [torch.from_numpy(array.astype(np.float64)).requires_grad_() for array in rounded]
    exact = second(torch, torch_F, leaves, lambda array: torch.from_numpy(np.asarray(array)))
    for mine, right in zip(ours, exact, strict=True):
        assert_rounded(mine.numpy(), right.numpy(force=True), True, name)


@halves
def test_a_dtype_says_what_is_computed(half):
    """The sum, 100000, fits into float32 and not into float16."""
    x = minires.Tensor(full(1000.0, 100).astype(half))
    assert x.sum(dtype=minires.float32).item() == 100_000
    assert x.sum(dtype=minires.float32).dtype == minires.float32
    wide = minires.Tensor(full(1000.0, 100))
    for function in (minires.mean, minires.sum, minires.prod):
        assert function(wide, dtype=half).dtype == half
    assert minires.mean(wide, dtype=half).item() == 1000
    assert F.softmax(wide, 0, dtype=half).dtype == half


@halves
def test_running_statistics_are_rounded_once(half):
    mean, var, x = np.array([0.3]), np.array([1.7]), np.linspace(-3, 4, 64).reshape(64, 1)
    running = [minires.Tensor(a.astype(half)) for a in (mean, var)]
    F.batch_norm(minires.Tensor(x.astype(half)), *running, training=True, momentum=0.3)
    rounded = [a.astype(half).astype(np.float64) for a in (x, mean, var)]
    exact = [0.7 * rounded[1] + 0.3 * rounded[0].mean(), 0.7 * rounded[2] + 0.3 * rounded[0].var(ddof=1)]
    for ours, right in zip(running, exact, strict=True):
        np.testing.assert_array_equal(ours.numpy().astype(np.float64), right.astype(half).astype(np.float64))


@halves
def test_a_loss_of_16_bits_is_scaled_in_float32(half):
    loss = minires.tensor(3.0, dtype=half).requires_grad_()
    scaled = minires.amp.GradScaler(init_scale=2.0**15).scale(loss)
    assert scaled.item() == 3 * 2**15
    scaled.backward()
    assert loss.grad.item() == 2**15


def test_gradients_of_bfloat16_are_unscaled_in_float32():
    numbers = np.linspace(1, 3, 64).astype(HALVES["bfloat16"])
    parameter = minires.zeros(64, dtype=minires.bfloat16).requires_grad_()
    parameter.grad = minires.Tensor(numbers.copy())
    scaler = minires.amp.GradScaler(init_scale=3.0)
    scaler.unscale_(minires.optim.SGD([parameter], lr=1.0))
    right = (numbers.astype(np.float64) / 3).astype(HALVES["bfloat16"])
    np.testing.assert_array_equal(parameter.grad.numpy().astype(np.float32), right.astype(np.float32))


def test_a_widened_copy_does_not_stay_in_memory():
    """SiLU computes in float32 and keeps its input in 16 bits, as it came."""
    x = minires.ones(1000, dtype=minires.float16).requires_grad_()
    y = F.silu(x)
    silu = y.grad_fn.edges[0].function
    assert silu.name == "SiLU"
    assert silu.edges[0].function.made() is None
