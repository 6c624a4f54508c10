"""Steps of SGD and Adam over many tensors in one launch and one pass over memory, in place.

A step of a small net is little work in many small arrays. Launched one by one, for each parameter and operation, it
takes longer than the net itself; of a large net, each operation by itself would pass over all of memory.

The arrays of one tensor must lie alike in memory without gaps, see `are_alike`. Float32 and float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from minires.device import Array, array_module
from minires.dtypes import wide_dtype
from minires.kernels import kernels_for
from minires.kernels.capture import CaptureError


def steps_together(array: Array) -> bool:
    """Tell whether the kernels for ``array`` have these steps: the readable ones have not."""
    return hasattr(kernels_for(array), "step_tensors")


def are_alike(*arrays: Array | None) -> bool:
    """Tell whether arrays have one dtype, float32 or float64, one shape and one order in memory, without gaps."""
    first, *others = [array for array in arrays if array is not None]
    dtype, shape, strides = first.dtype, first.shape, first.strides
    if dtype not in (np.float32, np.float64) or not _has_no_gaps(shape, strides, first.itemsize):
        return False
    return all(a.dtype == dtype and a.shape == shape and a.strides == strides for a in others)


@lru_cache(maxsize=4096)  # each step of an optimizer asks for every parameter again
def _has_no_gaps(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    expected = itemsize
    steps = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    for size, stride in sorted(steps, key=lambda step: step[1]):
        if stride != expected:
            return False
        expected *= size
    return True


def unscale(gradients: Sequence[Array], factor: float | Array) -> Array:
    """Multiply gradients by ``factor``, in place; return 1 if an element of any is Inf or NaN, else 0, as int32 (1,).

    On a GPU in one launch, if they lie in memory without gaps and have one dtype, float32 or float64. Only then may the
    factor be an array there, float64 (1,).

    Raises
    ------
    CaptureError
        If the factor is an array and the gradients are not like that.
    """
    given = [gradient for gradient in gradients if gradient.size] or list(gradients)
    first, kernels = given[0], kernels_for(given[0])
    if hasattr(kernels, "unscale") and all(are_alike(g) and g.dtype == first.dtype for g in given):
        return kernels.unscale(given, factor)
    if not isinstance(factor, float):
        found = ", ".join(sorted({str(g.dtype) for g in given}))
        raise CaptureError(
            f"a loss scale needs the loss and all gradients in float32, or all in float64, without gaps in memory; got "
            f"{found}"
        )
    xp = array_module(first)
    with np.errstate(over="ignore", invalid="ignore"):
        for gradient in given:
            xp.multiply(gradient, wide_dtype(gradient.dtype).type(factor), out=gradient, casting="unsafe")
    finite = xp.stack([xp.isfinite(gradient).all() for gradient in given]).all()
    return xp.asarray(~finite).astype(np.int32).reshape(1)


def sgd_step(
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    velocities: Sequence[Array] | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    is_first: bool,
) -> None:
    """Move parameters as `minires.optim.SGD` does. Without momentum ``velocities`` is None.

    In the first step, ``is_first``, velocities are written without being read.
    """
    options = [np.float64(option) for option in (lr, momentum, dampening, weight_decay)]
    lists = [parameters, gradients, velocities]
    kernels_for(parameters[0]).step_tensors("sgd", lists, *options, nesterov, maximize, is_first)


def adam_step(
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    means: Sequence[Array],
    squares: Sequence[Array],
    largest: Sequence[Array] | None,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """Move parameters as `minires.optim.Adam` does in its ``step``-th step, or with ``decoupled`` decay as AdamW.

    ``largest`` are the greatest squares so far, None without amsgrad.
    """
    beta1, beta2 = betas
    stride, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    decay, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    options = [np.float64(option) for option in (beta1, beta2, eps, decay, stride, root, shrink)]
    lists = [parameters, gradients, means, squares, largest]
    kernels_for(parameters[0]).step_tensors("adam", lists, *options, maximize)
