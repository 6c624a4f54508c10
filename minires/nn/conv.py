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
from minires.ops.geometry import Pair, checked_int, pair


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
        padding_mode: str,
    ):
        super().__init__()
        if padding_mode != "zeros":
            raise NotImplementedError(
                f'{type(self).__name__}: padding_mode must be "zeros", got {padding_mode!r}: pad the input before the '
                "layer, e.g. with F.pad, and give padding=0 here"
            )
        self.in_channels = self._checked("in_channels", in_channels)
        self.out_channels = self._checked("out_channels", out_channels)
        self.groups = checked_int(type(self).__name__, "groups", groups)
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels, got {groups} for {in_channels} and {out_channels}"
            )
        self.kernel_size = self._pair("kernel_size", kernel_size)
        self.stride = self._pair("stride", stride)
        self.dilation = self._pair("dilation", dilation)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f'padding must be "same", "valid" or numbers, got {padding!r}')
            if padding == "same" and self.stride != (1, 1):
                raise ValueError(f'padding="same" needs stride 1, got stride={stride}: give the padding in numbers')
        self.padding: Any = padding if isinstance(padding, str) else self._pair("padding", padding, least=0)
        self.padding_mode = padding_mode

    def _checked(self, name: str, value: Any) -> int:
        return checked_int(type(self).__name__, name, value, least=1)

    def _pair(self, name: str, value: Any, least: int = 1) -> Pair:
        return pair(type(self).__name__, name, value, least, lengths=(2,))

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
    """2-D convolution of (N, in_channels, H, W) to (N, out_channels, P, Q): see `minires.nn.functional.conv2d`.

    Raises
    ------
    TypeError, RuntimeError, ValueError
        If a size is no integer, out of range, or does not fit the others.
    NotImplementedError
        If ``padding_mode`` is not "zeros".
    """

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
        padding_mode: str = "zeros",
        *,
        device: DeviceLike = None,
        dtype: Any = None,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self._make_parameters(self.out_channels, self.in_channels // self.groups, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input``."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(_ConvNd):
    """Transposed 2-D convolution: see `minires.nn.functional.conv_transpose2d`.

    Raises
    ------
    TypeError, RuntimeError, ValueError
        If a size is no integer, out of range, or does not fit the others.
    NotImplementedError
        If ``padding_mode`` is not "zeros".
    """

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
        padding_mode: str = "zeros",
        *,
        device: DeviceLike = None,
        dtype: Any = None,
    ):
        if isinstance(padding, str):
            raise ValueError(f"a transposed convolution takes its padding as numbers, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.output_padding = self._pair("output_padding", output_padding, least=0)
        self._make_parameters(self.in_channels, self.out_channels // self.groups, bias, device, dtype)

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
