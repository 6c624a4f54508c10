"""What a transform is: one method over a batch of arrays, called with one image or with many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from minires.autograd import Tensor
from minires.device import Array, is_cuda_array

MODES = ("L", "RGB", "RGBA")  # the PIL modes whose arrays are plain 8-bit channels


class Transform:
    """The base of all transforms: subclasses define :meth:`apply`, which maps a batch (N, H, W, C) to a batch.

    A transform takes, and gives back in kind,

    - a PIL image of mode L, RGB or RGBA,
    - one image as an array, (H, W, C), or (H, W) if grey,
    - a batch of images as an array (N, H, W, C), commonly uint8,
    - a Tensor (C, H, W) or (N, C, H, W), as ``ToTensor`` makes it.

    A random transform draws for each image of a batch by itself.
    """

    handles_batches: ClassVar[bool] = True

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> (N, H', W', C), leaving the input as it is."""
        raise NotImplementedError(f"{type(self).__name__} must define apply")

    def __call__(self, image: Any) -> Any:
        """Return the transformed image or images, of the kind that came in."""
        batch, give_back = as_batch(image, self)
        return give_back(self.apply(batch))


def as_batch(image: Any, transform: object) -> tuple[Array, Callable[[Array], Any]]:
    """Return ``image`` as a batch (N, H, W, C) and the function that turns such a batch back into its kind.

    Raises
    ------
    TypeError
        If it is no image, or lies on a GPU.
    ValueError
        If it has the wrong number of dimensions.
    """
    name = type(transform).__name__
    if isinstance(image, Image.Image):
        if image.mode not in MODES:
            raise ValueError(
                f'{name}: a PIL image of mode {image.mode} is not handled: call image.convert("RGB") first'
            )
        array = np.asarray(image)
        return array.reshape(1, *array.shape[:2], -1), _to_pil
    if isinstance(image, Tensor):
        if is_cuda_array(image.array):
            raise TypeError(f"{name} works on the CPU: transform the images before moving them to {image.device}")
        if len(image.shape) == 4:
            return image.array.transpose(0, 2, 3, 1), lambda batch: Tensor(batch.transpose(0, 3, 1, 2))
        if len(image.shape) == 3:
            return image.array.transpose(1, 2, 0)[None], lambda batch: Tensor(batch[0].transpose(2, 0, 1))
        raise ValueError(f"{name}: a Tensor must be (C, H, W) or (N, C, H, W), got shape {tuple(image.shape)}")
    if isinstance(image, np.ndarray):
        if image.ndim == 4:
            return image, lambda batch: batch
        if image.ndim == 3:
            return image[None], lambda batch: batch[0]
        if image.ndim == 2:
            return image[None, ..., None], lambda batch: batch[0, ..., 0]
        raise ValueError(f"{name}: an array must be (H, W), (H, W, C) or (N, H, W, C), got shape {image.shape}")
    raise TypeError(f"{name} takes a PIL image, a NumPy array or a Tensor, got {type(image).__name__}")


def _to_pil(batch: Array) -> Image.Image:
    return array_to_pil(batch[0])


def array_to_pil(image: Array) -> Image.Image:
    """(H, W, C) uint8 -> PIL image; C = 1 is grey."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def handles_batches(transform: Callable[[Any], Any] | None) -> bool:
    """Tell whether ``transform`` may be called with a whole batch: those here may, any other sees one image."""
    return getattr(transform, "handles_batches", False)


def pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return ``size`` as (height, width): an int counts for both."""
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    if len(sizes) == 1:
        sizes = sizes * 2
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"{name}: size must be a positive int or a pair (height, width) of them, got {size!r}")
    return sizes[0], sizes[1]


class Compose:
    """Transforms in a row: ``Compose([f, g])(image)`` is ``g(f(image))``. Any callable may be one of them."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    @property
    def handles_batches(self) -> bool:
        """Whether each of the transforms does."""
        return all(handles_batches(transform) for transform in self.transforms)

    def __call__(self, image: Any) -> Any:
        """Return the image after all transforms."""
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return "\n".join(["Compose(", *(f"    {transform}" for transform in self.transforms), ")"])
