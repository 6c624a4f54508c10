"""The same nets written for PyTorch, with torchvision's names: what the models are compared with."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class PadShortcut(nn.Module):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.stride, self.extra = stride, out_channels - in_channels

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


def shortcut(option, in_channels, out_channels, stride):
    same = stride == 1 and in_channels == out_channels
    if option == "A":
        return None if same else PadShortcut(in_channels, out_channels, stride)
    if same and option == "B":
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class Basic(nn.Module):
    expansion = 1

    def __init__(self, in_channels, channels, stride, downsample, residual, groups, base_width, version):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample, self.residual = downsample, residual

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        return F.relu(out)


class Bottle(nn.Module):
    expansion = 4

    def __init__(self, in_channels, channels, stride, downsample, residual, groups, base_width, version):
        super().__init__()
        width = int(channels * (base_width / 64.0)) * groups
        strides = (stride, 1) if version == "v1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides[1], 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * 4)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def stage(block, in_channels, channels, blocks, stride, option, residual=True, groups=1, base_width=64, version="v1.5"):
    layers = []
    for index in range(blocks):
        step = stride if index == 0 else 1
        way = shortcut(option, in_channels, channels * block.expansion, step) if residual else None
        layers.append(block(in_channels, channels, step, way, residual, groups, base_width, version))
        in_channels = channels * block.expansion
    return nn.Sequential(*layers)


class ImageNetTwin(nn.Module):
    def __init__(self, block, layers, groups=1, base_width=64, version="v1.5", num_classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        options = {"groups": groups, "base_width": base_width, "version": version}
        e = block.expansion
        self.layer1 = stage(block, 64, 64, layers[0], 1, "B", **options)
        self.layer2 = stage(block, 64 * e, 128, layers[1], 2, "B", **options)
        self.layer3 = stage(block, 128 * e, 256, layers[2], 2, "B", **options)
        self.layer4 = stage(block, 256 * e, 512, layers[3], 2, "B", **options)
        self.fc = nn.Linear(512 * e, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class CifarTwin(nn.Module):
    def __init__(self, depth, option="A", residual=True, num_classes=10):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(Basic, 16, 16, n, 1, option, residual)
        self.layer2 = stage(Basic, 16, 32, n, 2, option, residual)
        self.layer3 = stage(Basic, 32, 64, n, 2, option, residual)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


IMAGENET = {
    "resnet18": (Basic, (2, 2, 2, 2), {}),
    "resnet34": (Basic, (3, 4, 6, 3), {}),
    "resnet50": (Bottle, (3, 4, 6, 3), {}),
    "resnet101": (Bottle, (3, 4, 23, 3), {}),
    "resnet152": (Bottle, (3, 8, 36, 3), {}),
    "resnext50_32x4d": (Bottle, (3, 4, 6, 3), {"groups": 32, "base_width": 4}),
    "resnext101_32x8d": (Bottle, (3, 4, 23, 3), {"groups": 32, "base_width": 8}),
    "wide_resnet50_2": (Bottle, (3, 4, 6, 3), {"base_width": 128}),
    "wide_resnet101_2": (Bottle, (3, 4, 23, 3), {"base_width": 128}),
}


def twin(name, **options):
    """The PyTorch net of that name, in float64."""
    if name in IMAGENET:
        block, layers, fixed = IMAGENET[name]
        return ImageNetTwin(block, layers, **fixed, **options).double()
    kind, depth = ("plain", name[5:]) if name.startswith("plain") else ("resnet", name[6:])
    return CifarTwin(int(depth), residual=kind == "resnet", **options).double()


def randomized(net, seed=0, batch_norm_bias=0.0):
    """Give every parameter and buffer a value that is not its default, so that none can be forgotten unnoticed."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            shape = tuple(tensor.shape)
            if tensor.ndim > 1:
                drawn = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
            elif name.endswith(("running_var", "weight")):
                drawn = rng.uniform(0.5, 1.5, shape)
            else:
                drawn = rng.standard_normal(shape) * 0.1
                if name.endswith(".bias") and "bn" in name:
                    drawn += batch_norm_bias
            tensor.copy_(torch.from_numpy(drawn))
    return net
