"""ResNets for ImageNet-sized images, with torchvision's names, shapes and parameter counts.

He et al. 2015, "Deep Residual Learning for Image Recognition", table 1; Xie et al. 2017 (ResNeXt); Zagoruyko and
Komodakis 2016 (wide ResNets). The builders take ``weights=None``, ``pretrained=False`` and ``progress`` too, as
torchvision's do.
"""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor
from minires.models.blocks import BasicBlock, Bottleneck
from minires.models.shortcuts import make_shortcut
from minires.models.stages import Stage
from minires.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, Module, init

Block = type[BasicBlock] | type[Bottleneck]


class ResNet(Module):
    """A 7x7 stem, four stages of residual blocks, global average pooling and a linear classifier.

    Parameters
    ----------
    block : BasicBlock or Bottleneck
    layers : how many blocks each of the four stages has
    num_classes : how many logits
    zero_init_residual : start the last batch norm of each block at weight 0, so that blocks begin as identities
        (Goyal et al. 2017, section 5.1)
    groups, width_per_group : those of the 3x3 convolutions (ResNeXt, wide ResNets)
    version : "v1.5" strides on the 3x3 convolution of a bottleneck, as torchvision does; "v1" on the first 1x1, as the
        paper does
    checkpoint : keep less for the backward pass and compute it again there: see `minires.models.stages`

    Raises
    ------
    ValueError
        If the version is unknown.
    """

    def __init__(
        self,
        block: Block,
        layers: tuple[int, int, int, int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        version: str = "v1.5",
        checkpoint: bool = False,
    ):
        super().__init__()
        if version not in ("v1", "v1.5"):
            raise ValueError(f'version must be "v1" or "v1.5", got {version!r}')
        self.conv1 = Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.maxpool = MaxPool2d(3, stride=2, padding=1)
        options = {"groups": groups, "base_width": width_per_group, "stride_on_1x1": version == "v1"}
        in_channels = 64
        for number, blocks in enumerate(layers):
            channels, stride = 64 * 2**number, 1 if number == 0 else 2
            stage = make_stage(block, in_channels, channels, blocks, stride, "B", checkpoint, **options)
            setattr(self, f"layer{number + 1}", stage)
            in_channels = channels * block.expansion
        self.avgpool = AdaptiveAvgPool2d((1, 1))
        self.fc = Linear(in_channels, num_classes)
        initialize(self, zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images, at least 32 x 32 -> (N, num_classes) logits."""
        out = self.maxpool(self.bn1(self.conv1(x), activation="relu"))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.fc(self.avgpool(out).flatten(1))


def make_stage(
    block: Block,
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
    shortcut: str,
    checkpoint: bool = False,
    **options: Any,
) -> Stage:
    """Return ``blocks`` residual blocks; the first takes ``in_channels`` and strides. ``shortcut`` is the option."""
    out_channels = channels * block.expansion
    stage = Stage()
    stage.checkpoint = checkpoint
    for index in range(blocks):
        source, step = (in_channels, stride) if index == 0 else (out_channels, 1)
        way = make_shortcut(shortcut, source, out_channels, step) if options.get("residual", True) else None
        stage.append(block(source, channels, step, way, **options))
    return stage


def initialize(net: Module, zero_init_residual: bool) -> None:
    """Draw the convolutions from N(0, 2 / fan_out) (He et al. 2015b); batch norms start as the identity."""
    for module in net.modules():
        if isinstance(module, Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual and isinstance(module, Bottleneck):
            init.zeros_(module.bn3.weight)
        elif zero_init_residual and isinstance(module, BasicBlock):
            init.zeros_(module.bn2.weight)


def untrained(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a builder without those of torchvision's that concern trained weights.

    Raises
    ------
    ValueError
        If weights are asked for, by ``weights`` or ``pretrained``.
    """
    for name, none in (("weights", None), ("pretrained", False)):
        if options.get(name):
            raise ValueError(
                f"{name} must be {none}, got {options[name]!r}: minires downloads nothing; build the model without, "
                "then give it weights of your own with load_state_dict"
            )
    return {name: value for name, value in options.items() if name not in ("weights", "pretrained", "progress")}


def resnet18(**options: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters. Options are those of `ResNet`."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **untrained(options))


def resnet34(**options: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters. Options are those of `ResNet`."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **untrained(options))


def resnet50(**options: Any) -> ResNet:
    """ResNet-50: 25,557,032 parameters. Options are those of `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **untrained(options))


def resnet101(**options: Any) -> ResNet:
    """ResNet-101: 44,549,160 parameters. Options are those of `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **untrained(options))


def resnet152(**options: Any) -> ResNet:
    """ResNet-152: 60,192,808 parameters. Options are those of `ResNet`."""
    return ResNet(Bottleneck, (3, 8, 36, 3), **untrained(options))


def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50, 32 groups of width 4: 25,028,904 parameters. Options are those of `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **{"groups": 32, "width_per_group": 4, **untrained(options)})


def resnext101_32x8d(**options: Any) -> ResNet:
    """ResNeXt-101, 32 groups of width 8: 88,791,336 parameters. Options are those of `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **{"groups": 32, "width_per_group": 8, **untrained(options)})


def wide_resnet50_2(**options: Any) -> ResNet:
    """ResNet-50 with 3x3 convolutions twice as wide: 68,883,240 parameters. Options are those of `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **{"width_per_group": 128, **untrained(options)})


def wide_resnet101_2(**options: Any) -> ResNet:
    """ResNet-101 with 3x3 convolutions twice as wide: 126,886,696 parameters. Options are those of `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **{"width_per_group": 128, **untrained(options)})
