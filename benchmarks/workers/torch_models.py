"""The same nets for PyTorch, with torchvision's names and its in-place ReLUs and adds, which save PyTorch memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Every second pixel, and channels of zeros before and after (option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        missing = out_channels - in_channels
        self.stride, self.padding = stride, (0, 0, 0, 0, missing // 2, missing - missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Module | None, **_: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu_(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride and the groups, 1x1."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        downsample: nn.Module | None,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        width = channels * base_width // 64 * groups
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.bn1(self.conv1(x)))
        out = F.relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu_(out)


Block = type[BasicBlock] | type[Bottleneck]


class ImageNetResNet(nn.Module):
    """A 7x7 stem, four stages, 1000 classes."""

    def __init__(self, block: Block, layers: tuple[int, ...], **options: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_channels = 64
        for index, blocks in enumerate(layers):
            channels = 64 * 2**index
            setattr(self, f"layer{index + 1}", _stage(block, in_channels, channels, blocks, index > 0, "B", **options))
            in_channels = channels * block.expansion
        self.fc = nn.Linear(in_channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu_(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class CifarResNet(nn.Module):
    """6n + 2 layers, shortcuts of option A, 10 classes."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(BasicBlock, 16, 16, blocks, False, "A")
        self.layer2 = _stage(BasicBlock, 16, 32, blocks, True, "A")
        self.layer3 = _stage(BasicBlock, 32, 64, blocks, True, "A")
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _stage(
    block: Block, in_channels: int, channels: int, blocks: int, halves: bool, option: str, **options: int
) -> nn.Sequential:
    out_channels, stride = channels * block.expansion, 2 if halves else 1
    downsample: nn.Module | None = None
    if stride == 2 or in_channels != out_channels:
        downsample = (
            PadShortcut(in_channels, out_channels, stride)
            if option == "A"
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )
    first = block(in_channels, channels, stride, downsample, **options)
    return nn.Sequential(first, *(block(out_channels, channels, 1, None, **options) for _ in range(blocks - 1)))


def get_model(name: str) -> nn.Module:
    """Return the net of that name, in float32.

    Raises
    ------
    ValueError
        If there is none.
    """
    match name:
        case "resnet18":
            return ImageNetResNet(BasicBlock, (2, 2, 2, 2))
        case "resnet34":
            return ImageNetResNet(BasicBlock, (3, 4, 6, 3))
        case "resnet50":
            return ImageNetResNet(Bottleneck, (3, 4, 6, 3))
        case "resnext50_32x4d":
            return ImageNetResNet(Bottleneck, (3, 4, 6, 3), groups=32, base_width=4)
        case "resnet20" | "resnet32" | "resnet44" | "resnet56" | "resnet110":
            return CifarResNet(int(name.removeprefix("resnet")))
    raise ValueError(f"the PyTorch side has no model {name!r}")
