"""ResNets for 32x32 images, 6n + 2 layers deep, and the same nets without skips (He et al. 2015, section 4.2)."""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor
from minires.models.blocks import BasicBlock
from minires.models.resnet import initialize, make_stage, untrained
from minires.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Linear, Module


class CifarResNet(Module):
    """A 3x3 stem, three stages of n basic blocks with 16, 32 and 64 channels, average pooling, a linear classifier.

    Parameters
    ----------
    depth : 6n + 2, the number of layers with weights
    num_classes : how many logits
    shortcut : "A" (zero padding, the paper's choice for CIFAR), "B" or "C": see `minires.models.shortcuts`
    residual : False gives the plain net, with neither skips nor shortcuts
    in_channels : 3 for colour images, 1 for grey ones
    zero_init_residual : start the last batch norm of each block at weight 0 (Goyal et al. 2017)
    checkpoint : keep less for the backward pass and compute it again there: see `minires.models.stages`

    Raises
    ------
    ValueError
        If the depth is not 6n + 2, or the shortcut unknown.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        shortcut: str = "A",
        residual: bool = True,
        in_channels: int = 3,
        zero_init_residual: bool = False,
        checkpoint: bool = False,
    ):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"the depth of a CIFAR ResNet is 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...), got {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(16)
        self.layer1 = make_stage(BasicBlock, 16, 16, blocks, 1, shortcut, checkpoint, residual=residual)
        self.layer2 = make_stage(BasicBlock, 16, 32, blocks, 2, shortcut, checkpoint, residual=residual)
        self.layer3 = make_stage(BasicBlock, 32, 64, blocks, 2, shortcut, checkpoint, residual=residual)
        self.avgpool = AdaptiveAvgPool2d((1, 1))
        self.fc = Linear(64, num_classes)
        initialize(self, zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) images -> (N, num_classes) logits."""
        out = self.bn1(self.conv1(x), activation="relu")
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(self.avgpool(out).flatten(1))


def resnet20(**options: Any) -> CifarResNet:
    """ResNet-20 for CIFAR: 269,722 parameters. Options are those of `CifarResNet`."""
    return CifarResNet(20, **untrained(options))


def resnet32(**options: Any) -> CifarResNet:
    """ResNet-32 for CIFAR: 464,154 parameters. Options are those of `CifarResNet`."""
    return CifarResNet(32, **untrained(options))


def resnet44(**options: Any) -> CifarResNet:
    """ResNet-44 for CIFAR: 658,586 parameters. Options are those of `CifarResNet`."""
    return CifarResNet(44, **untrained(options))


def resnet56(**options: Any) -> CifarResNet:
    """ResNet-56 for CIFAR: 853,018 parameters. Options are those of `CifarResNet`."""
    return CifarResNet(56, **untrained(options))


def resnet110(**options: Any) -> CifarResNet:
    """ResNet-110 for CIFAR: 1,727,962 parameters. Options are those of `CifarResNet`."""
    return CifarResNet(110, **untrained(options))


def resnet1202(**options: Any) -> CifarResNet:
    """ResNet-1202 for CIFAR: 19,421,274 parameters. Options are those of `CifarResNet`."""
    return CifarResNet(1202, **untrained(options))


def plain20(**options: Any) -> CifarResNet:
    """The 20-layer net without skips. Options are those of `CifarResNet`."""
    return CifarResNet(20, residual=False, **untrained(options))


def plain56(**options: Any) -> CifarResNet:
    """The 56-layer net without skips. Options are those of `CifarResNet`."""
    return CifarResNet(56, residual=False, **untrained(options))


def plain110(**options: Any) -> CifarResNet:
    """The 110-layer net without skips. Options are those of `CifarResNet`."""
    return CifarResNet(110, residual=False, **untrained(options))
