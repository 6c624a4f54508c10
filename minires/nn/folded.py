"""A convolution with the batch norm after it folded in, for inference."""

from __future__ import annotations

import numpy as np

from minires.autograd import Tensor
from minires.device import Array
from minires.nn.conv import Conv2d, _ConvNd
from minires.nn.module import Parameter
from minires.nn.norm import BatchNorm2d
from minires.ops.conv2d_add_relu import conv2d_add_relu


class FoldedConv2d(_ConvNd):
    """What ``bn(conv(x), ...)`` computes in eval mode, as one convolution with a bias.

        w' = w * gamma / sqrt(var + eps)        b' = beta + (b - mean) * gamma / sqrt(var + eps)

    with w, b the filters and bias of the convolution, gamma, beta the weight and bias of the batch norm and mean, var
    its running statistics; a bias or beta that is missing counts as 0, a missing gamma as 1. They are computed in
    float64, then rounded to the dtype of w. Nothing here requires a gradient.

    Raises
    ------
    ValueError
        If the two do not fit together, or the batch norm keeps no running statistics.
    """

    inference_only = True

    def __init__(self, conv: Conv2d, bn: BatchNorm2d):
        if conv.out_channels != bn.num_features:
            raise ValueError(
                f"cannot fold a batch norm of {bn.num_features} channels into a convolution to {conv.out_channels}"
            )
        if bn.running_mean is None or bn.running_var is None:
            raise ValueError(
                "cannot fold a batch norm without running statistics: it normalises by those of each batch"
            )
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.padding_mode,
        )
        w = conv.weight.array
        scale = (bn.running_var.array.astype(np.float64) + bn.eps) ** -0.5
        if bn.weight is not None:
            scale = bn.weight.array * scale
        b = -bn.running_mean.array if conv.bias is None else conv.bias.array - bn.running_mean.array.astype(np.float64)
        b = b * scale if bn.bias is None else bn.bias.array + b * scale
        w_folded = (w * scale.reshape(-1, 1, 1, 1)).astype(w.dtype)  # in the memory order of w
        self.weight = Parameter(Tensor(w_folded), requires_grad=False)
        self.bias = Parameter(Tensor(b.astype(w.dtype)), requires_grad=False)
        self._kept = _Kept()
        self.training = False

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
        """Convolve ``input``; bias, ``residual`` and ``activation`` are added and applied to each sum at once.

        What the kernels make of the filters is kept for the next call, until they change: for 3x3 filters up to four
        times their memory.
        """
        return conv2d_add_relu(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            residual=residual,
            activation=activation,
            kept=self._kept.of(self.weight),
        )


class _Kept:
    """What kernels make of a weight, as long as it stays the same. Copies and pickles of this are empty."""

    def __init__(self) -> None:
        self.array: Array = None
        self.version = 0
        self.made: dict[str, Array] = {}

    def of(self, weight: Tensor) -> dict[str, Array]:
        """Return what was made of ``weight``, to be added to."""
        if self.array is not weight.array or self.version != weight._version.number:
            self.array, self.version, self.made = weight.array, weight._version.number, {}
        return self.made

    def __reduce__(self) -> tuple:
        return _Kept, ()
