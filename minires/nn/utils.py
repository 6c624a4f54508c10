"""Gradient clipping, under the names of ``torch.nn.utils``."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minires.autograd import Tensor, no_grad
from minires.autograd.creation import get_default_dtype
from minires.autograd.function import described
from minires.device import Array, array_module, is_cuda_array
from minires.dtypes import wide_dtype
from minires.ops.squares import are_in_range, power_of_two


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale the gradients in place so that their norm, taken over all of them as one vector, is at most ``max_norm``.

    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.

    Parameters
    ----------
    parameters : Tensors whose ``grad`` is scaled; those without one are passed over.
    max_norm : the largest norm allowed.
    norm_type : the order p of the norm; ``float("inf")`` for the largest absolute value.
    error_if_nonfinite : raise rather than scale by a norm that is NaN or infinite.

    Returns
    -------
    Tensor () : the norm before clipping, in float32 for gradients of 16 bits.

    Raises
    ------
    ValueError
        If ``max_norm`` or ``norm_type`` is negative or NaN.
    RuntimeError
        If the norm is not finite and ``error_if_nonfinite`` is set.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be at least 0, got {max_norm}")
    if not norm_type >= 0:
        raise ValueError(f"norm_type must be at least 0, got {norm_type}")
    gradients = _gradients(parameters)
    if not gradients:
        return Tensor(np.zeros((), get_default_dtype()))
    xp = array_module(gradients[0].array)
    with np.errstate(over="ignore", invalid="ignore"):
        total = _norm(xp.stack([_norm(gradient.array, norm_type) for gradient in gradients]), norm_type)
    if error_if_nonfinite and not math.isfinite(float(total)):
        raise RuntimeError(
            f"the gradients have a norm of {float(total)} and cannot be clipped: look for a NaN or an overflow with "
            "minires.autograd.detect_anomaly(), or lower the learning rate"
        )
    with no_grad(), np.errstate(invalid="ignore"):  # a norm that is not finite makes every gradient NaN, as in PyTorch
        factor = xp.minimum(max_norm / (total + 1e-6), 1.0)  # stays on the device: reading it would make the GPU wait
        for gradient in gradients:
            array = gradient.writable_array()
            xp.multiply(array, factor.astype(wide_dtype(array.dtype)), out=array, casting="unsafe")
    return Tensor(total)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value], in place.

    Raises
    ------
    ValueError
        If ``clip_value`` is negative or NaN.
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_value must be at least 0, got {clip_value}")
    with no_grad(), np.errstate(over="ignore"):  # no limit at all where 16 bits do not reach that far
        for gradient in _gradients(parameters):
            array = gradient.writable_array()
            array_module(array).clip(array, -clip_value, clip_value, out=array)


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"gradients are clipped of Tensors, got {described(tensor)}")
    return [tensor.grad for tensor in tensors if tensor.grad is not None]


def _norm(array: Array, order: float) -> Array:
    """Return the norm of all elements as one vector, those of 16 bits in float32."""
    xp = array_module(array)
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    vector = array.transpose(axes).reshape(-1)  # in the order in which they lie in memory: no copy
    vector = vector.astype(wide_dtype(array.dtype), copy=False)
    if order == 0:
        return (vector != 0).sum().astype(vector.dtype)
    if order == 2:
        square = _sum_of_squares(vector)
        # On a GPU the host would have to wait for the answer.
        if is_cuda_array(vector) or are_in_range(square, vector.size):
            return xp.sqrt(square)
    magnitudes = xp.abs(vector)
    if order == math.inf:
        return magnitudes.max() if magnitudes.size else xp.zeros((), vector.dtype)
    scale = power_of_two(vector, (0,))[0]
    return ((magnitudes / scale) ** order).sum() ** (1 / order) * scale


def _sum_of_squares(vector: Array) -> Array:
    """Return the dot product of a vector with itself; on the CPU in blocks, so that rounding errors do not add up."""
    if is_cuda_array(vector):
        return vector @ vector
    whole = vector.size - vector.size % _BLOCK
    blocks, rest = vector[:whole].reshape(-1, _BLOCK), vector[whole:]
    return vector.dtype.type(np.vecdot(blocks, blocks).sum(dtype=np.float64) + rest @ rest)


_BLOCK = 4096
