"""Every op of the table: against PyTorch, against finite differences, and for manners."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
import torch
from op_rows import ROWS
from op_table import ERRORS, Row, Sample, assert_close, run_ours, run_torch

import minires
import minires.nn.functional as F
from minires.autograd import Tensor
from minires.kernels import use_reference


def cases(which: str = "samples", keep=lambda row, sample: True):
    return [
        pytest.param(row, sample, id=f"{row.name}-{index}")
        for row in ROWS
        for index, sample in enumerate(getattr(row, which))
        if keep(row, sample)
    ]


def test_names_of_rows_are_unique():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("row", "sample"), cases())
@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_value_and_gradient_equal_pytorch(row: Row, sample: Sample, kernels: str):
    if kernels == "reference":
        with use_reference():
            ours = run_ours(row, sample)
    else:
        ours = run_ours(row, sample)
    compare(ours, run_torch(row, sample), 1e-10)


@pytest.mark.parametrize(("row", "sample"), cases(keep=lambda row, sample: row.second_order))
def test_second_derivative_equals_pytorch(row: Row, sample: Sample):
    compare(run_ours(row, sample, second=True), run_torch(row, sample, second=True), 1e-8)


@pytest.mark.parametrize(("row", "sample"), cases())
def test_float32_is_as_close_as_float32_can_be(row: Row, sample: Sample):
    ours = run_ours(row, sample, dtype=np.float32)
    exact = run_torch(row, sample)
    for name in ("outputs", "gradients"):
        for index, (a, b) in enumerate(zip(getattr(ours, name), getattr(exact, name), strict=True)):
            assert a.dtype != np.float64 or b.dtype != np.float64, f"{name} {index}: float32 became float64"
            if a.dtype.kind == "f":
                assert_close(a.astype(np.float64), b.astype(np.float64), 2e-5, f"{name} {index}")


@pytest.mark.parametrize(("row", "sample"), cases(keep=lambda row, sample: not sample.kink))
def test_gradient_equals_finite_differences(row: Row, sample: Sample):
    """The derivative along a random direction, by central differences: no library but NumPy is asked."""
    step = 1e-6
    run = run_ours(row, sample)
    if not run.gradients:
        pytest.skip("the op has no gradient")
    weights = [np.random.default_rng(i).standard_normal(g.shape) for i, g in enumerate(float_arrays(run.outputs))]
    directions = [np.random.default_rng(50 + i).standard_normal(g.shape) for i, g in enumerate(run.gradients)]

    def weighted_sum(sign: int) -> float:
        moved = iter(directions)
        shifted = shifted_row(row, lambda array: array + sign * step * next(moved))
        outputs = float_arrays(run_ours(shifted, sample, gradients=False).outputs)
        return float(sum((w * o).sum() for w, o in zip(weights, outputs, strict=True)))

    numerical = (weighted_sum(+1) - weighted_sum(-1)) / (2 * step)
    analytical = sum((g * d).sum() for g, d in zip(run.gradients, directions, strict=True))
    scale = sum(np.linalg.norm(g) * np.linalg.norm(d) for g, d in zip(run.gradients, directions, strict=True))
    assert abs(numerical - analytical) <= 1e-6 * max(scale, 1.0)


def shifted_row(row: Row, shift) -> Row:
    """The same op with every floating-point input moved, in the order in which run_ours lists the gradients."""

    def move(value):
        if isinstance(value, Tensor) and value.is_floating_point():
            return Tensor(np.asarray(shift(value.array)))
        if isinstance(value, (list, tuple)):
            return type(value)(move(item) for item in value)
        return value

    def ours(*inputs, **options):
        return row.ours(*[move(i) for i in inputs], **{name: move(value) for name, value in options.items()})

    return Row(row.name, ours)


def float_arrays(arrays):
    return [array for array in arrays if array.dtype.kind == "f"]


@pytest.mark.parametrize(("row", "sample"), cases())
def test_repeats_bit_for_bit_and_leaves_inputs_alone(row: Row, sample: Sample):
    seen = []

    def watch(value):
        if isinstance(value, Tensor):
            seen.append((value.array, value.array.copy()))
        elif isinstance(value, (list, tuple)):
            for item in value:
                watch(item)

    def ours(*inputs, **options):
        watch([*inputs, *options.values()])
        return row.ours(*inputs, **options)

    first = run_ours(Row(row.name, ours), sample)
    again = run_ours(row, sample)
    for name in ("outputs", "gradients"):
        for a, b in zip(getattr(first, name), getattr(again, name), strict=True):
            np.testing.assert_array_equal(a, b)
    for now, before in seen:
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize(("row", "sample"), cases("bad"))
def test_bad_calls_are_refused_with_a_message(row: Row, sample: Sample):
    with pytest.raises(ERRORS):
        run_torch(row, sample)
    with pytest.raises(ERRORS) as caught:
        run_ours(row, sample)
    assert len(str(caught.value)) > 15, f"the message says too little: {caught.value}"


OTHER_ARRAYS = {
    "ndarray": lambda array: array,
    "list": lambda array: array.tolist(),
    "torch": lambda array: torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape),
}


@pytest.mark.parametrize("kind", OTHER_ARRAYS)
@pytest.mark.parametrize(
    ("row", "sample"), cases(keep=lambda row, sample: sample is row.samples[0] and row.ours.__module__[:7] == "minires")
)
def test_what_is_no_tensor_is_refused_with_what_to_do(row: Row, sample: Sample, kind: str):
    inputs, options = dict(enumerate(row.draw(sample))), row.draw_options(sample)
    tensors = {name: Tensor(v) if isinstance(v, np.ndarray) else v for name, v in {**inputs, **options}.items()}
    for name, value in {**inputs, **options}.items():
        if isinstance(value, np.ndarray):
            given = {**tensors, name: OTHER_ARRAYS[kind](value)}
            with pytest.raises(TypeError, match="Tensor"):
                row.ours(*(given[index] for index in inputs), **{option: given[option] for option in options})


def test_public_functions_can_be_pickled():
    for module in (minires, F):
        functions = [value for value in vars(module).values() if inspect.isfunction(value)]
        assert len(functions) > 20
        for function in functions:
            assert pickle.loads(pickle.dumps(function)) is function, function.__name__


@pytest.mark.gpu
@pytest.mark.parametrize(("row", "sample"), cases())
def test_cuda_equals_pytorch(row: Row, sample: Sample):
    ours = run_ours(row, sample, device="cuda", second=row.second_order)
    compare(ours, run_torch(row, sample, second=row.second_order), 1e-8)


def compare(ours, theirs, tolerance: float) -> None:
    for name in ("outputs", "gradients", "second"):
        mine, torchs = getattr(ours, name), getattr(theirs, name)
        assert len(mine) == len(torchs), f"{len(mine)} {name}, PyTorch has {len(torchs)}"
        for index, (a, b) in enumerate(zip(mine, torchs, strict=True)):
            assert_close(a, b, tolerance, f"{name} {index}")
