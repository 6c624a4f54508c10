"""Arrays as others make them: read-only, misaligned, backwards, repeated. Every op takes them, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import pytest
from op_rows import ROWS
from op_table import Row, Sample, _cotangent, _leaves, _map_arrays

import minires
from minires.autograd import Tensor
from minires.kernels.cpu.launch import launchers


def read_only(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


def misaligned(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(bytearray(b"-" + array.tobytes()), np.uint8)[1:].view(array.dtype).reshape(array.shape)


def channels_last_and_read_only(array: np.ndarray) -> np.ndarray:
    order = (0, *range(2, array.ndim), 1) if array.ndim > 1 else tuple(range(array.ndim))
    return read_only(array.transpose(order).copy()).transpose(np.argsort(order))


def backwards(array: np.ndarray) -> np.ndarray:
    return np.flip(np.flip(array).copy())


def repeated(array: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array[..., :1], array.shape) if array.ndim and array.size else array


FORMS = [read_only, misaligned, channels_last_and_read_only, backwards, repeated]


def run(row: Row, sample: Sample, form: Callable, seen: Callable) -> list[np.ndarray]:
    """The outputs and gradients of an op whose floating-point operands, and those of backward, have such a form."""

    def convert(array: np.ndarray) -> Tensor:
        floating = array.dtype.kind == "f"
        array = array.astype(np.float32) if floating else array
        return Tensor(seen(form(array)), requires_grad=floating)

    inputs = _map_arrays(row.draw(sample), convert)
    options = _map_arrays(
        row.draw_options(sample), lambda array: Tensor(array.astype(np.float32) if array.dtype.kind == "f" else array)
    )
    outputs = _leaves(row.ours(*inputs, **options), Tensor)
    leaves = [leaf for leaf in _leaves(inputs, Tensor) if leaf.requires_grad]
    recorded = [output for output in outputs if output.requires_grad]
    results = [output.detach() for output in outputs]
    if recorded and leaves:
        gradients = [Tensor(seen(form(_cotangent(o.shape, i, o.dtype)))) for i, o in enumerate(recorded)]
        results += minires.autograd.grad(recorded, leaves, gradients, allow_unused=True, materialize_grads=True)
    return [np.asarray(result) for result in results]


def in_own_memory(array: np.ndarray) -> np.ndarray:
    return array.copy(order="K")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_memory_of_any_form_gives_the_same_as_a_copy(row, form):
    for sample in row.samples[:4]:
        before = [array.copy() for array in _leaves(row.draw(sample), np.ndarray)]
        ours = run(row, sample, form, lambda array: array)
        expected = run(row, sample, form, in_own_memory)
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=f"{row.name} {sample}")
        for array, same in zip(before, _leaves(row.draw(sample), np.ndarray), strict=True):
            np.testing.assert_array_equal(array, same)


def test_kernels_are_compiled_for_one_form_of_memory_only():
    x = read_only(np.ones((2, 3, 4, 4), np.float32))
    minires.nn.functional.batch_norm(Tensor(x), None, None, training=True)
    assert launchers
    for launcher in launchers.values():
        for signature in launcher.nopython_signatures:
            for argument in signature.args[3]:
                if isinstance(argument, numba.types.Array):
                    assert argument.mutable, f"{launcher} for a read-only array"
                    assert argument.aligned, f"{launcher} for a misaligned array"


def test_a_read_only_parameter_is_refused_by_the_optimizers():
    parameter = Tensor(read_only(np.ones(4, np.float32)), requires_grad=True)
    parameter.grad = minires.ones(4)
    for optimizer in (minires.optim.SGD([parameter], lr=0.1), minires.optim.Adam([parameter])):
        with pytest.raises(RuntimeError, match="read-only"):
            optimizer.step()
