"""The usual transforms left to a kernel: images stay bytes until they are on the device that computes with them.

A quarter as many bytes go to the GPU, and the CPU only draws random numbers: the same, in the same order, as the
transforms themselves would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.data.transforms.base import Compose
from minires.data.transforms.geometry import RandomCrop, RandomHorizontalFlip
from minires.data.transforms.values import Normalize, ToTensor
from minires.device import Array
from minires.kernels import kernels_for


@dataclass(frozen=True)
class DeferredImages:
    """A batch of images as bytes, and what is to become of them; see the kernel `crop_flip_normalize`.

    Attributes
    ----------
    images : uint8 Tensor (N, C, H, W), channels-last in memory
    values : float32 Tensor (C, 256), what a byte becomes
    crops : int32 Tensor (N, 3): top, left, and 1 where the image is mirrored
    size : (height, width) of the crops
    fill : the byte outside the image
    """

    images: Tensor
    values: Tensor
    crops: Tensor
    size: tuple[int, int]
    fill: int

    def moved(self, move: Callable[[Tensor], Tensor]) -> DeferredImages:
        """Return the same with its Tensors where ``move`` puts them."""
        return replace(self, images=move(self.images), values=move(self.values), crops=move(self.crops))

    def floats(self) -> Tensor:
        """Return the images as the transforms would have made them: float32 (N, C, height, width)."""
        images, values, crops = self.images.array, self.values.array, self.crops.array
        return Tensor(kernels_for(images).crop_flip_normalize(images, values, crops, self.size, self.fill))


@dataclass(frozen=True)
class Deferred:
    """Transforms to be left to a kernel: a crop and a flip, each optional, then those of values."""

    crop: RandomCrop | None
    flip: RandomHorizontalFlip | None
    of_values: Compose

    def __call__(self, batch: Array) -> DeferredImages:
        """uint8 (N, H, W, C) -> the images with the random numbers drawn for them."""
        n, h, w, c = batch.shape
        crops, size = np.zeros((n, 3), np.int32), (h, w)
        if self.crop is not None:
            left, top, right, bottom = self.crop.padding
            tops, lefts = self.crop.draw(n, h + top + bottom, w + left + right)
            crops[:, 0], crops[:, 1], size = tops - top, lefts - left, self.crop.size
        if self.flip is not None:
            crops[:, 2] = self.flip.draw(n)
        every_byte = np.arange(256, dtype=np.uint8)[None, None, :, None].repeat(c, axis=3)  # (1, 1, 256, C)
        values = self.of_values(every_byte).array.reshape(c, 256)
        fill = 0 if self.crop is None else int(self.crop.fill)
        return DeferredImages(Tensor(batch.transpose(0, 3, 1, 2)), Tensor(values), Tensor(crops), size, fill)


def deferred(transform: Any) -> Deferred | None:
    """Return what does the same by a kernel, or None where there is none.

    There is for ``Compose([RandomCrop, RandomHorizontalFlip, ToTensor, Normalize])``, of which only ``ToTensor`` must
    be there, and where the crop pads with a constant byte.
    """
    if type(transform) is not Compose:
        return None
    steps: list[Any] = list(transform.transforms)
    crop = steps.pop(0) if steps and type(steps[0]) is RandomCrop else None
    flip = steps.pop(0) if steps and type(steps[0]) is RandomHorizontalFlip else None
    if [type(step) for step in steps] not in ([ToTensor], [ToTensor, Normalize]):
        return None
    if crop is not None and (crop.pad_if_needed or crop.padding_mode != "constant" or crop.fill not in range(256)):
        return None
    return Deferred(crop, flip, Compose(steps))
