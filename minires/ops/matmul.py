"""Matrix product with batch broadcasting: da = dy b^T, db = a^T dy."""

from __future__ import annotations

from minires.autograd import Function, Tensor
from minires.device import array_module
from minires.ops.broadcast import sum_to
from minires.ops.promotion import promote


class MatMul(Function):
    """(..., n, k) x (..., k, m) -> (..., n, m); batch axes broadcast."""

    def forward(self, a, b):
        self.save(a if self.needs_grad[1] else None, b if self.needs_grad[0] else None)
        return array_module(a).matmul(a, b)

    def backward(self, dy):
        a, b = self.saved
        da = sum_to(MatMul()(dy, b.transpose(-1, -2)), self.input_shapes[0]) if self.needs_grad[0] else None
        db = sum_to(MatMul()(a.transpose(-1, -2), dy), self.input_shapes[1]) if self.needs_grad[1] else None
        return da, db


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product; a vector is a row on the left and a column on the right, as in ``torch.matmul``.

    Raises
    ------
    RuntimeError
        If the inner lengths differ, the batch axes do not broadcast, or an operand is 0-dimensional.
    """
    if not input.ndim or not other.ndim:
        raise RuntimeError("matmul needs at least 1 axis on both sides: multiply by a number with *")
    if input.dtype != other.dtype:
        raise RuntimeError(f"matmul needs equal dtypes, got {input.dtype} and {other.dtype}: convert one with .to()")
    inner = other.shape[-2] if other.ndim > 1 else other.shape[0]
    if input.shape[-1] != inner:
        raise RuntimeError(
            f"matmul: shapes {input.shape} and {other.shape} do not fit: "
            f"the last axis of the first ({input.shape[-1]}) must equal the {inner} rows of the second"
        )
    a, b = promote(input, other)
    a = a.reshape(1, -1) if input.ndim == 1 else a
    b = b.reshape(-1, 1) if other.ndim == 1 else b
    result = MatMul()(a, b)
    if input.ndim == 1:
        result = result.reshape(*result.shape[:-2], result.shape[-1])
    return result.reshape(*result.shape[:-1]) if other.ndim == 1 else result
