"""Batch normalisation, with the residual add and the activation that follow it in a ResNet (Ioffe and Szegedy 2015).

    xhat = (x - mean) / sqrt(var + eps)        mean, var over every axis but the channels (axis 1), var biased
    z = xhat * weight + bias + residual        residual: what the skip connection brings, if anything
    y = relu(z) or z

and backward, with dz = dy where y > 0 (all of dy without the activation), n values a channel:

    dresidual = dz      dbias = sum dz      dweight = sum dz * xhat
    dx = weight / sqrt(var + eps) * (dz - dbias / n - xhat * dweight / n)      in training
    dx = weight / sqrt(var + eps) * dz                                         in evaluation: mean, var given

In training the mean and the variance depend on x as well: that is what the two subtracted terms are.
"""

from __future__ import annotations

from minires.autograd import Function, Tensor, is_grad_enabled, is_recomputing
from minires.device import Array, array_module
from minires.dtypes import wide_dtype
from minires.kernels import kernels_for
from minires.ops.activation import relu
from minires.ops.cast import cast
from minires.ops.fusion import is_fused
from minires.ops.where import where


class BatchNorm(Function):
    """(x, weight, bias, residual) -> y; all but x may be None. With ``mean`` and ``var`` given, they are constants.

    ``copied`` are the Tensors that these were copied from.
    """

    copied: tuple[Tensor, ...] = ()

    def __init__(self, eps: float, activation: str | None, mean: Array | None = None, var: Array | None = None):
        self.eps = eps
        self.activation = activation
        self.training = mean is None
        self.mean: Array = mean
        self.var: Array = var

    def forward(self, x, weight, bias, residual):
        kernels = kernels_for(x)
        if self.training:
            self.mean, self.var = kernels.batch_norm_statistics(x)
        self.invstd = 1 / array_module(x).sqrt(self.var + self.eps)  # in float32 where x has 16 bits, like all of (C,)
        y = kernels.batch_norm(x, self.mean, self.invstd, weight, bias, residual, self.activation == "relu")
        # Without a residual x tells all: where the ReLU was open, and y itself to the convolution that comes next.
        self.can_remake = residual is None
        self.save(x, weight, bias, y if self.activation and residual is not None else None)
        return y

    def remake(self, *saved):
        x, weight, bias = (None if tensor is None else tensor.array for tensor in saved[:3])
        return kernels_for(x).batch_norm(x, self.mean, self.invstd, weight, bias, None, self.activation == "relu")

    def backward(self, dy):
        x, weight, bias, y = self.saved
        if is_grad_enabled():
            if self.activation and y is None:
                y = Tensor(self.remake(x, weight, bias))
            return self._recorded_backward(dy, x, weight, y)
        x_array, weight_array, bias_array, y_array = (
            None if tensor is None else tensor.array for tensor in (x, weight, bias, y)
        )
        gradients = kernels_for(dy.array).batch_norm_grad(
            *(dy.array, x_array, y_array, self.mean, self.invstd, weight_array, bias_array),
            *(self.activation == "relu", self.training, self.needs_grad[3]),
        )
        return tuple(
            Tensor(gradient) if needed else None for gradient, needed in zip(gradients, self.needs_grad, strict=True)
        )

    def _recorded_backward(self, dy, x, weight, y):
        """Compute the same gradients from ops, as functions of dy, x and weight that can be differentiated again."""
        dtype, wide = x.dtype, wide_dtype(x.dtype)
        dy, x = cast(dy, wide), cast(x, wide)
        channels = (1, -1, *[1] * (x.ndim - 2))
        axes = (0, *range(2, x.ndim))
        dz = dy if y is None else where(y <= 0, 0.0, dy)
        if self.training:
            centred = x - x.mean(axes, keepdim=True)
            invstd = ((centred * centred).mean(axes, keepdim=True) + self.eps) ** -0.5
        else:
            centred = x - Tensor(self.mean.reshape(channels))
            invstd = Tensor(self.invstd.reshape(channels))
        xhat = centred * invstd
        dxhat = dz if weight is None else dz * weight.reshape(channels)
        dx = dxhat
        if self.training:
            dx = dx - dxhat.mean(axes, keepdim=True) - xhat * (dxhat * xhat).mean(axes, keepdim=True)
        gradients = (cast(dx * invstd, dtype), (dz * xhat).sum(axes), dz.sum(axes), cast(dz, dtype))
        return tuple(gradient if needed else None for gradient, needed in zip(gradients, self.needs_grad, strict=True))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Normalise each channel, then scale, shift, add ``residual`` and apply ``activation``, in one pass over memory.

    Parameters
    ----------
    input : Tensor (N, C) or (N, C, ...) of floats; 16 bits are computed in float32, and the output rounded to them.
    running_mean, running_var : Tensor (C,), optional. In training they are updated in place, as
        ``(1 - momentum) * running + momentum * batch`` with the unbiased batch variance; in evaluation they are used.
        A checkpointed function that is run again for the backward pass leaves them alone: once is enough.
    weight, bias : Tensor (C,), optional; like the running statistics of the dtype of ``input``, or in float32 if that
        has 16 bits
    training : whether to normalise by the statistics of the batch
    residual : Tensor of the shape of ``input``, optional
    activation : None or "relu"

    Returns
    -------
    Tensor of the shape of ``input``.

    Raises
    ------
    ValueError
        If training on one value a channel, or if a shape, dtype or the activation does not fit.
    """
    _check(input, running_mean, running_var, weight, bias, training, eps, residual, activation)
    wide = wide_dtype(input.dtype)
    weight, bias = (None if vector is None else cast(vector, wide) for vector in (weight, bias))
    if training:
        function = BatchNorm(eps, activation if is_fused() else None)
    else:
        assert running_mean is not None  # checked above
        assert running_var is not None
        # Copies: a training step between this forward pass and its backward changes the running statistics in place.
        mean, var = running_mean.array.astype(wide), running_var.array.astype(wide)
        function = BatchNorm(eps, activation if is_fused() else None, mean, var)
        function.copied = running_mean, running_var
    out = function(input, weight, bias, residual if is_fused() else None)
    if training and running_mean is not None and running_var is not None and not is_recomputing():
        n = input.numel() // max(input.shape[1], 1)
        if n == 0:  # an empty batch has no statistics: those of the batches before stand
            momentum, n = 0.0, 2
        for running, batch in ((running_mean, function.mean), (running_var, function.var * (n / (n - 1)))):
            array = running.detach().writable_array()
            array[...] = array.astype(wide, copy=False) * (1 - momentum) + momentum * batch
    if is_fused():
        return out
    if residual is not None:
        out = out + residual
    return relu(out) if activation == "relu" else out


def _check(input, running_mean, running_var, weight, bias, training, eps, residual, activation) -> None:
    if input.ndim < 2:
        raise ValueError(f"batch_norm needs an input (N, C) or (N, C, ...), got shape {input.shape}")
    if not input.is_floating_point():
        raise RuntimeError(f"batch_norm needs floating-point numbers, got {input.dtype}: convert with .float() first")
    channels = input.shape[1]
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in given.items():
        if tensor is None:
            continue
        if tensor.shape != (channels,):
            raise RuntimeError(
                f"batch_norm: {name} has shape {tensor.shape}, "
                f"but the input of shape {input.shape} has {channels} channels"
            )
        if tensor.dtype not in (input.dtype, wide_dtype(input.dtype)):
            raise RuntimeError(
                f"batch_norm: {name} is {tensor.dtype} and the input {input.dtype}: convert one of them, "
                "e.g. with model.to(...)"
            )
    if not training and (running_mean is None or running_var is None):
        raise RuntimeError(
            "batch_norm in evaluation needs running_mean and running_var: train first or pass training=True"
        )
    if (running_mean is None) != (running_var is None):
        raise RuntimeError("batch_norm needs both of running_mean and running_var, or neither")
    if training and input.numel() == channels > 0:
        raise ValueError(
            f"batch_norm in training needs more than one value per channel, got input shape {input.shape}: "
            "use a larger batch, or model.eval()"
        )
    if eps <= 0:
        raise ValueError(f"batch_norm: eps must be positive, got {eps}")
    if activation not in (None, "relu"):
        raise ValueError(f'batch_norm: activation must be None or "relu", got {activation!r}')
    if residual is not None:
        check_residual(input.shape, residual)
        if residual.dtype != input.dtype:
            raise RuntimeError(f"batch_norm: the residual is {residual.dtype} and the input {input.dtype}")


def check_residual(shape: tuple[int, ...], residual: Tensor) -> None:
    """Raise ValueError, with the usual remedy, if a shortcut does not have the shape of the branch it is added to."""
    if residual.shape == shape:
        return
    remedy = "the shortcut and the branch must have equal shapes"
    if len(shape) == len(residual.shape) == 4:
        strides = [a // b if b and a % b == 0 else None for a, b in zip(residual.shape[2:], shape[2:], strict=True)]
        stride = f"stride {strides[0]}" if strides[0] and strides[0] == strides[1] else "the branch's stride"
        remedy = (
            f"give the shortcut a 1x1 convolution from {residual.shape[1]} to {shape[1]} channels with {stride}, "
            "followed by a batch norm"
        )
    raise ValueError(
        f"residual add: the branch has shape {shape} and the shortcut {residual.shape}, which cannot be added: {remedy}"
    )
