"""Transforms of images, under torchvision's names: on one image, or on a whole batch at once.

>>> from minires.data import transforms
>>> train = transforms.Compose([
...     transforms.RandomCrop(32, padding=4),
...     transforms.RandomHorizontalFlip(),
...     transforms.ToTensor(),
...     transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
... ])

Given a PIL image, each does what torchvision's does; given a uint8 batch (N, H, W, C), the same to every image of it.
The loader makes use of that where a data set lies in memory.
"""

from minires.data.transforms.base import Compose, Transform, handles_batches
from minires.data.transforms.geometry import (
    CenterCrop,
    InterpolationMode,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from minires.data.transforms.values import Cutout, Normalize, ToTensor

__all__ = [
    "CenterCrop",
    "Compose",
    "Cutout",
    "InterpolationMode",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "Resize",
    "ToTensor",
    "Transform",
    "handles_batches",
]
