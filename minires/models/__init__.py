"""ResNets and the plain nets they are compared with: torchvision's names for ImageNet, 6n + 2 layers for CIFAR."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from minires.models.blocks import BasicBlock, Bottleneck
from minires.models.cifar import (
    CifarResNet,
    plain20,
    plain56,
    plain110,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
)
from minires.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from minires.models.shortcuts import PadShortcut
from minires.nn import Module

_BUILDERS: dict[str, Callable[..., Module]] = {
    builder.__name__: builder
    for builder in (
        resnet18,
        resnet34,
        resnet50,
        resnet101,
        resnet152,
        resnext50_32x4d,
        resnext101_32x8d,
        wide_resnet50_2,
        wide_resnet101_2,
        resnet20,
        resnet32,
        resnet44,
        resnet56,
        resnet110,
        resnet1202,
        plain20,
        plain56,
        plain110,
    )
}


def list_models() -> list[str]:
    """Return the names that `get_model` knows."""
    return list(_BUILDERS)


def get_model(name: str, **options: Any) -> Module:
    """Build a model by name; options go to its builder.

    Raises
    ------
    ValueError
        If there is no such model; the message names the nearest ones.
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known models: {', '.join(_BUILDERS)}"
        raise ValueError(f"there is no model {name!r}: {hint}")
    return _BUILDERS[name](**options)


__all__ = [
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "PadShortcut",
    "ResNet",
    "get_model",
    "list_models",
    "plain20",
    "plain56",
    "plain110",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet1202",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
