"""Batch-norm layers: the op of `minires.ops.batch_norm` with its parameters and running statistics."""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor, is_recomputing
from minires.autograd.creation import DeviceLike, ones, tensor, zeros
from minires.nn import functional as F
from minires.nn.module import Module, Parameter
from minires.ops.argument_types import takes_tensors
from minires.ops.geometry import checked_int


class _BatchNorm(Module):
    _axes: tuple[int, ...]  # how many axes an input may have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: DeviceLike = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        num_features = checked_int(type(self).__name__, "num_features", num_features, least=1)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.register_parameter("weight", Parameter(ones(num_features, **where)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(num_features, **where)) if affine and bias else None)
        self.register_buffer("running_mean", zeros(num_features, **where) if track_running_stats else None)
        self.register_buffer("running_var", ones(num_features, **where) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", tensor(0, device=device) if track_running_stats else None)

    @takes_tensors
    def forward(self, input: Tensor, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
        """Normalise ``input``; ``residual`` and ``activation`` are added to the same pass over memory."""
        if input.ndim not in self._axes:
            expected = " or ".join(f"{axes}-D" for axes in self._axes)
            raise ValueError(f"{type(self).__name__} needs a {expected} input, got shape {input.shape}")
        momentum = self.momentum
        if self.training and self.track_running_stats and not is_recomputing():
            count = self.num_batches_tracked.writable_array()
            count += 1
            if momentum is None:  # a plain average over all batches so far
                momentum = 1.0 / self.num_batches_tracked.item()
        use_batch = self.training or not self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            use_batch,
            momentum or 0.0,
            self.eps,
            residual=residual,
            activation=activation,
        )

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L): see `minires.nn.functional.batch_norm` (Ioffe and Szegedy 2015).

    Raises
    ------
    TypeError, RuntimeError
        If ``num_features`` is no positive integer.
    """

    _axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W): see `minires.nn.functional.batch_norm` (Ioffe and Szegedy 2015).

    ``bn(x, residual=shortcut, activation="relu")`` also adds the shortcut and applies ReLU, in one pass.

    Raises
    ------
    TypeError, RuntimeError
        If ``num_features`` is no positive integer.
    """

    _axes = (4,)
