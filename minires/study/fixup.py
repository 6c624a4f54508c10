"""Fixup: residual nets that train without batch norm, by their initialisation alone.

Zhang, Dauphin and Ma 2019, "Fixup Initialization: Residual Learning Without Normalization", section 3: with L branches
of m layers each, (1) the classifier and the last layer of every branch start at 0, (2) the other layers of a branch are
drawn by He's rule and scaled by L^(-1 / (2m - 2)), (3) every branch has a scalar multiplier, and scalar biases stand
before each convolution, linear layer and activation.
"""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor
from minires.autograd.creation import ones, zeros
from minires.models.shortcuts import PadShortcut
from minires.nn import AdaptiveAvgPool2d, Conv2d, Linear, Module, Parameter, Sequential, init
from minires.nn import functional as F


class FixupBlock(Module):
    """A basic block with scalars in place of batch norms (the paper's figure 1, right)."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (Parameter(zeros(1)) for _ in range(4))
        self.scale = Parameter(ones(1))
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != channels
        self.downsample = PadShortcut(in_channels, channels, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride)."""
        out = F.relu(self.conv1(x + self.bias1a) + self.bias1b)
        out = self.conv2(out + self.bias2a) * self.scale + self.bias2b
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class CifarFixup(Module):
    """The 6n + 2 net of `minires.models.CifarResNet` without batch norm, initialised by Fixup.

    Raises
    ------
    ValueError
        If the depth is not 6n + 2.
    """

    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"the depth of a CIFAR net is 6n + 2 (8, 14, 20, 32, ...), got {depth}")
        count = (depth - 2) // 6
        self.conv1 = Conv2d(3, 16, 3, padding=1, bias=False)
        self.bias1 = Parameter(zeros(1))
        self.layer1 = _stage(16, 16, count, 1)
        self.layer2 = _stage(16, 32, count, 2)
        self.layer3 = _stage(32, 64, count, 2)
        self.avgpool = AdaptiveAvgPool2d((1, 1))
        self.bias2 = Parameter(zeros(1))
        self.fc = Linear(64, num_classes)
        init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        init.zeros_(self.fc.weight)
        init.zeros_(self.fc.bias)
        blocks: list[Any] = [module for module in self.modules() if isinstance(module, FixupBlock)]
        for block in blocks:
            init.kaiming_normal_(block.conv1.weight, mode="fan_out", nonlinearity="relu")
            block.conv1.weight.data.mul_(len(blocks) ** -0.5)  # m = 2
            init.zeros_(block.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images -> (N, num_classes) logits."""
        out = F.relu(self.conv1(x) + self.bias1)
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(self.avgpool(out).flatten(1) + self.bias2)


def _stage(in_channels: int, channels: int, count: int, stride: int) -> Sequential:
    return Sequential(
        FixupBlock(in_channels, channels, stride), *(FixupBlock(channels, channels) for _ in range(count - 1))
    )
