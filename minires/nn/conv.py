"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

from minires.autograd import Tensor
from minires.autograd.creation import DeviceLike, empty
from minires.kernels.layout import from_rsio
from minires.nn import functional as F
from minires.nn import init
from minires.nn.module import Module, Parameter


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _ConvNd(Module):
    output_padding = (0, 0)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels, got {groups} for {in_channels} and {out_channels}"
            )
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f'padding must be "same", "valid" or numbers, got {padding!r}')
            if padding == "same" and _pair(stride) != (1, 1):
                raise ValueError(f'padding="same" needs stride 1, got stride={stride}: give the padding in numbers')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding: Any = padding if isinstance(padding, str) else _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups

    def _make_parameters(self, filters: int, depth: int, bias: bool, device: DeviceLike, dtype: Any) -> None:
        # Logical (filters, depth, R, S), in memory (R, S, depth, filters): as the kernels read it.
        memory = empty(*self.kernel_size, depth, filters, device=device, dtype=dtype)
        self.weight = Parameter(Tensor(from_rsio(memory.array)))
        self.register_parameter(
            "bias", Parameter(empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights again, from U(-b, b) with b = 1/sqrt(fan_in), as in PyTorch."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init.fan_in_and_fan_out(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """Return the layer's options, those at their defaults left out."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] if self.padding != (0, 0) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"output_padding={self.output_padding}"] if self.output_padding != (0, 0) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts)


class Conv2d(_ConvNd):
    """2-D convolution of (N, in_channels, H, W) to (N, out_channels, P, Q): see `minires.nn.functional.conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: DeviceLike = None,
        dtype: Any = None,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self._make_parameters(out_channels, in_channels // groups, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input``."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(_ConvNd):
    """Transposed 2-D convolution: see `minires.nn.functional.conv_transpose2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        device: DeviceLike = None,
        dtype: Any = None,
    ):
        if isinstance(padding, str):
            raise ValueError(f"a transposed convolution takes its padding as numbers, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.output_padding = _pair(output_padding)
        self._make_parameters(in_channels, out_channels // groups, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input``, transposed."""
        return F.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )
