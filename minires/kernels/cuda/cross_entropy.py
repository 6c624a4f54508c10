"""Cross entropy of logits and classes: one pass for the losses, one for the gradient."""

from __future__ import annotations

import numpy as np

from minires.device import Array, array_module
from minires.dtypes import wide_dtype
from minires.kernels.cuda.launch import backend, blocks, launch, launch_over, named

LANES, TEAMS = 32, 8  # of a block, as in loss.cu


def cross_entropy(
    z: Array, targets: Array, weight: Array | None, ignore_index: int, smoothing: float
) -> tuple[Array, Array, Array]:
    """(rows, C), int64 (rows,), (C,) or None -> the loss of each row, the weight of its class, its log(sum(exp(z))).

    All three (rows,); 16 bits give float32. An ignored row has loss and weight 0, one with a class that does not exist
    NaN.
    """
    rows, classes = z.shape
    losses, factors, logsums = (backend().empty((rows,), wide_dtype(z.dtype)) for _ in range(3))
    if rows:
        numbers = np.float64(smoothing), np.int64(ignore_index)
        arguments = z, targets, weight, *numbers, losses, factors, logsums, classes, np.int64(rows)
        launch("loss", named("cross_entropy", z), (blocks(rows, TEAMS),), (LANES, TEAMS), *arguments)
    return losses, factors, logsums


def cross_entropy_grad(
    z: Array,
    logsums: Array,
    targets: Array,
    weight: Array | None,
    ignore_index: int,
    smoothing: float,
    scale: Array,
) -> Array:
    """Gradient of the losses of `cross_entropy`, each times ``scale`` (rows,) or (1,): (rows, C)."""
    dz = backend().empty(z.shape, z.dtype)
    total = None
    if weight is not None:
        total = array_module(weight).asarray(weight.sum(dtype=wide_dtype(weight.dtype))).reshape(1)
    numbers = np.float64(smoothing), np.int64(ignore_index)
    arguments = z, logsums, targets, weight, total, *numbers, scale, int(scale.size > 1), dz, z.shape[1]
    launch_over("loss", named("cross_entropy_grad", z), dz.size, 1, *arguments)
    return dz
