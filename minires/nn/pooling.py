"""Pooling layers, and the layers that resample or cut images into patches."""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor
from minires.nn import functional as F
from minires.nn.module import Module


class _Options(Module):
    """A layer without parameters: its options go to the function as they are."""

    _shown: tuple[str, ...] | None = None  # the options in the repr; None for all

    def __init__(self, **options: Any):
        super().__init__()
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    @property
    def options(self) -> dict[str, Any]:
        """The options, by the names that the function gives them."""
        return {name: getattr(self, name) for name in self._options}

    def extra_repr(self) -> str:
        """Return the layer's options."""
        shown = self._options if self._shown is None else self._shown
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)


class MaxPool2d(_Options):
    """The maximum of each window: see `minires.nn.functional.max_pool2d`."""

    _shown = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__(
            kernel_size=kernel_size,
            stride=stride if stride is not None else kernel_size,
            padding=padding,
            dilation=dilation,
            return_indices=return_indices,
            ceil_mode=ceil_mode,
        )

    def forward(self, input: Tensor) -> Any:
        """Pool ``input``."""
        return F.max_pool2d(input, **self.options)


class AvgPool2d(_Options):
    """The mean of each window: see `minires.nn.functional.avg_pool2d`."""

    _shown = ("kernel_size", "stride", "padding")

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__(
            kernel_size=kernel_size,
            stride=stride if stride is not None else kernel_size,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Pool ``input``."""
        return F.avg_pool2d(input, **self.options)


class AdaptiveAvgPool2d(_Options):
    """The mean over windows chosen to give ``output_size``."""

    def __init__(self, output_size: Any):
        super().__init__(output_size=output_size)

    def forward(self, input: Tensor) -> Tensor:
        """Pool ``input``."""
        return F.adaptive_avg_pool2d(input, **self.options)


class AdaptiveMaxPool2d(_Options):
    """The maximum over windows chosen to give ``output_size``."""

    _shown = ("output_size",)

    def __init__(self, output_size: Any, return_indices: bool = False):
        super().__init__(output_size=output_size, return_indices=return_indices)

    def forward(self, input: Tensor) -> Any:
        """Pool ``input``."""
        return F.adaptive_max_pool2d(input, **self.options)


class Unfold(_Options):
    """Cut images into patches, one column each (im2col): see `minires.nn.functional.unfold`."""

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1):
        super().__init__(kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)

    def forward(self, input: Tensor) -> Tensor:
        """Unfold ``input``."""
        return F.unfold(input, **self.options)


class Fold(_Options):
    """Add patches back into images (col2im): see `minires.nn.functional.fold`."""

    def __init__(self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1):
        super().__init__(
            output_size=output_size, kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride
        )

    def forward(self, input: Tensor) -> Tensor:
        """Fold ``input``."""
        return F.fold(input, **self.options)


class Upsample(_Options):
    """Resample images to another size: see `minires.nn.functional.interpolate`."""

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ):
        super().__init__(
            size=size,
            scale_factor=_as_floats(scale_factor),
            mode=mode,
            align_corners=align_corners,
            recompute_scale_factor=recompute_scale_factor,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Resample ``input``."""
        return F.interpolate(input, **self.options)

    def extra_repr(self) -> str:
        """Return the layer's options."""
        size = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{size}, mode={self.mode!r}"


def _as_floats(factor: Any) -> Any:
    if factor is None:
        return None
    return tuple(float(part) for part in factor) if isinstance(factor, (tuple, list)) else float(factor)
