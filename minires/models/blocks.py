"""The two residual blocks: y = relu(F(x) + shortcut(x)) (He et al. 2015, "Deep Residual Learning", figure 5).

The gradient of a block is dL/dx = dL/dz (shortcut'(x) + F'(x)) with z the sum before the last ReLU: with an identity
shortcut, dL/dz reaches x unchanged beside whatever passes through F. That is the whole idea.
"""

from __future__ import annotations

from minires.autograd import Tensor
from minires.nn import BatchNorm2d, Conv2d, Module


class BasicBlock(Module):
    """Two 3x3 convolutions; the first may stride."""

    expansion = 1  # output channels over `channels`

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        shortcut: Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        stride_on_1x1: bool = False,
        residual: bool = True,
    ):
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"a BasicBlock has groups=1 and base_width=64, got {groups} and {base_width}: use Bottleneck"
            )
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.downsample = shortcut
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride)."""
        shortcut = _shortcut(self, x)
        out = self.bn1(self.conv1(x), activation="relu")
        return self.bn2(self.conv2(out), residual=shortcut, activation="relu")


class Bottleneck(Module):
    """1x1 down to a narrow width, 3x3, 1x1 up to 4 * channels.

    The stride is on the 3x3 convolution ("v1.5", as in torchvision); ``stride_on_1x1`` puts it on the first, as in the
    paper. ``groups`` and ``base_width`` make ResNeXt (Xie et al. 2017) and wide ResNets (Zagoruyko and Komodakis 2016).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        shortcut: Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        stride_on_1x1: bool = False,
        residual: bool = True,
    ):
        super().__init__()
        width = channels * base_width // 64 * groups
        first_stride, middle_stride = (stride, 1) if stride_on_1x1 else (1, stride)
        self.conv1 = Conv2d(in_channels, width, 1, first_stride, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, middle_stride, padding=1, groups=groups, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = Conv2d(width, channels * self.expansion, 1, bias=False)
        self.bn3 = BatchNorm2d(channels * self.expansion)
        self.downsample = shortcut
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 * channels, H/stride, W/stride)."""
        shortcut = _shortcut(self, x)
        out = self.bn1(self.conv1(x), activation="relu")
        out = self.bn2(self.conv2(out), activation="relu")
        return self.bn3(self.conv3(out), residual=shortcut, activation="relu")


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor | None:
    """What the skip connection brings to the sum; None in a plain net, which has no such sum."""
    if not block.residual:
        return None
    return x if block.downsample is None else block.downsample(x)
