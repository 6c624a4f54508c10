"""Batch norm with the residual add and the ReLU behind it.

x has any number of axes; axis 1 is the channel and statistics run over all the others.

    y = relu((x - mean) * invstd * weight + bias + residual)

Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1; residual and ReLU as in He et al., "Deep Residual
Learning for Image Recognition", 2015, equation 1.
"""

from __future__ import annotations

from minires.device import Array, array_module
from minires.kernels.reference.elementwise import relu_grad
from minires.kernels.reference.windows import channels_last


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """(N, C, ...) -> mean and biased variance of each channel, both (C,).

    In two passes and in double precision: the mean of squares less the square of the mean would lose every
    digit of a small variance about a large mean. An empty batch gives zeros.
    """
    xp = array_module(x)
    axes, count = _all_but_channel(x), _count(x)
    mean = x.sum(axis=axes, dtype=xp.float64) / count
    deviation = x - _per_channel(mean, x)
    var = (deviation * deviation).sum(axis=axes) / count
    return mean.astype(x.dtype), var.astype(x.dtype)


def batch_norm(
    x: Array,
    mean: Array,
    invstd: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    relu: bool,
) -> Array:
    """y = relu((x - mean) * invstd * weight + bias + residual); x, residual and y (N, C, ...), the rest (C,).

    ``invstd`` is 1 / sqrt(var + eps). A weight, bias or residual of None and ``relu=False`` leave that step out.
    """
    scale = invstd if weight is None else invstd * weight
    y = (x - _per_channel(mean, x)) * _per_channel(scale, x)
    if bias is not None:
        y = y + _per_channel(bias, x)
    if residual is not None:
        y = y + residual
    if relu:
        y = array_module(x).maximum(y, 0)
    return channels_last(y)


def batch_norm_grad(
    dy: Array,
    x: Array,
    y: Array | None,
    mean: Array,
    invstd: Array,
    weight: Array | None,
    bias: Array | None,
    relu: bool,
    training: bool,
    needs_residual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients of `batch_norm`: (dx, dweight, dbias, dresidual).

    ``y`` is the output; None will do where no ReLU was applied, and where no residual was added, because x tells then
    where the ReLU was open. With g = dy there, x_hat = (x - mean) * invstd and M values to a channel,

        dbias = sum(g),    dweight = sum(g * x_hat),    dresidual = g,
        dx = weight * invstd * g                                         if training is False (mean, invstd constants)
        dx = weight * invstd * (g - dbias / M - x_hat * dweight / M)     if training is True (statistics of x itself)

    The two extra terms take out of g what would only shift or stretch the whole channel, since the
    normalisation undoes that. dresidual is None unless ``needs_residual``, and may be dy itself where there
    was no ReLU.
    """
    xp = array_module(x)
    axes, count = _all_but_channel(x), _count(x)
    if relu and y is None:
        y = batch_norm(x, mean, invstd, weight, bias, None, relu)
    g = channels_last(relu_grad(dy, y)) if relu else dy
    x_hat = (x - _per_channel(mean, x)) * _per_channel(invstd, x)
    dbias = g.sum(axis=axes, dtype=xp.float64)
    dweight = (g * x_hat).sum(axis=axes, dtype=xp.float64)
    dx = g
    if training:
        shift, stretch = ((total / count).astype(x.dtype) for total in (dbias, dweight))
        dx = g - _per_channel(shift, x) - x_hat * _per_channel(stretch, x)
    dx = dx * _per_channel(invstd if weight is None else invstd * weight, x)
    return channels_last(dx), dweight.astype(x.dtype), dbias.astype(x.dtype), g if needs_residual else None


def _all_but_channel(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _count(x: Array) -> int:
    """Values to a channel, at least 1 so that an empty batch divides to zero."""
    return max(1, x.size // max(1, x.shape[1]))


def _per_channel(v: Array, x: Array) -> Array:
    """(C,) -> (C, 1, ...), which broadcasts against x."""
    return v.reshape(-1, *(1,) * (x.ndim - 2))
