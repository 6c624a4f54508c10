"""What a shortcut does where a block changes the shape (He et al. 2015, section 3.3, options A, B and C)."""

from __future__ import annotations

from minires.autograd import Tensor
from minires.nn import BatchNorm2d, Conv2d, Module, Sequential
from minires.nn import functional as F


class PadShortcut(Module):
    """Option A: take every ``stride``-th pixel and append channels of zeros, without any parameter."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        missing = out_channels - in_channels
        self.channel_padding = (missing // 2, missing - missing // 2)  # half before, half after

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), rounded up."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, *self.channel_padding))

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return f"stride={self.stride}, channel_padding={self.channel_padding}"


def projection(in_channels: int, out_channels: int, stride: int) -> Sequential:
    """Return option B's shortcut: a 1x1 convolution with the block's stride, then batch norm."""
    return Sequential(Conv2d(in_channels, out_channels, 1, stride, bias=False), BatchNorm2d(out_channels))


def make_shortcut(option: str, in_channels: int, out_channels: int, stride: int) -> Module | None:
    """Return the shortcut of a block, or None for the identity.

    ``option`` is "A" (identity, zero padding where the shape changes), "B" (identity, projection where the shape
    changes) or "C" (projections everywhere).

    Raises
    ------
    ValueError
        If the option is none of these.
    """
    if option not in ("A", "B", "C"):
        raise ValueError(f'shortcut option must be "A", "B" or "C", got {option!r}')
    if stride == 1 and in_channels == out_channels and option != "C":
        return None
    if option == "A":
        return PadShortcut(in_channels, out_channels, stride)
    return projection(in_channels, out_channels, stride)
