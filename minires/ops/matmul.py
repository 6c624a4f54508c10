"""Matrix product with batch broadcasting: da = dy b^T, db = a^T dy."""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.kernels import kernels_for
from minires.ops.autocast import computes_in_half, rounds_once
from minires.ops.broadcast import check_shapes_broadcast, sum_to


class MatMul(Function):
    """(..., n, k) x (..., k, m) -> (..., n, m); batch axes broadcast."""

    def forward(self, a, b):
        self.save(a if self.needs_grad[1] else None, b if self.needs_grad[0] else None)
        return kernels_for(a).matmul(a, b)

    def backward(self, dy):
        a, b = self.saved
        a_shape, b_shape = self.input_shapes
        batch = dy.shape[:-2]  # a factor that was repeated over it receives the sum of the products
        da = db = None
        if self.needs_grad[0]:
            b = b.transpose(-1, -2)
            da = MatMul()(dy, b) if a_shape[:-2] == batch else _summed_product(dy, b, a_shape)
        if self.needs_grad[1]:
            a = a.transpose(-1, -2)
            db = MatMul()(a, dy) if b_shape[:-2] == batch else _summed_product(a, dy, b_shape)
        return da, db


@rounds_once
def _summed_product(a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
    return sum_to(MatMul()(a, b), shape)


@computes_in_half
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product; a vector is a row on the left and a column on the right, as in ``torch.matmul``.

    Raises
    ------
    RuntimeError
        If the inner lengths or the dtypes differ, the batch axes do not broadcast, or an operand is 0-dimensional.
    """
    _check_dtypes("matmul", input, other)
    if not input.ndim or not other.ndim:
        raise RuntimeError("matmul needs at least 1 axis on both sides: multiply by a number with *")
    inner = other.shape[-2] if other.ndim > 1 else other.shape[0]
    if input.shape[-1] != inner:
        raise RuntimeError(
            f"matmul: shapes {input.shape} and {other.shape} do not fit: "
            f"the last axis of the first ({input.shape[-1]}) must equal the {inner} rows of the second"
        )
    a = input.unsqueeze(0) if input.ndim == 1 else input
    b = other.unsqueeze(1) if other.ndim == 1 else other
    check_shapes_broadcast("matmul", a.shape[:-2], b.shape[:-2])
    result = MatMul()(a, b)
    result = result.squeeze(-2) if input.ndim == 1 else result
    return result.squeeze(-1) if other.ndim == 1 else result


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the product of two matrices.

    Raises
    ------
    RuntimeError
        If an operand has other than 2 axes, or as `matmul` does.
    """
    return _with_axes("mm", 2, input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the products of two equally long batches of matrices.

    Raises
    ------
    RuntimeError
        If an operand has other than 3 axes, the batches differ, or as `matmul` does.
    """
    if input.shape[:1] != mat2.shape[:1]:
        raise RuntimeError(f"bmm: batches of different lengths: shapes {input.shape} and {mat2.shape}")
    return _with_axes("bmm", 3, input, mat2)


def _with_axes(name: str, axes: int, input: Tensor, other: Tensor) -> Tensor:
    _check_dtypes(name, input, other)
    if input.ndim != axes or other.ndim != axes:
        raise RuntimeError(f"{name} needs {axes} axes on both sides, got shapes {input.shape} and {other.shape}")
    return matmul(input, other)


def _check_dtypes(name: str, input: Tensor, other: Tensor) -> None:
    if input.dtype != other.dtype:
        raise RuntimeError(f"{name} needs equal dtypes, got {input.dtype} and {other.dtype}: convert one with .to()")
