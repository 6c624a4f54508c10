"""Transforms that move pixels: resizing, cropping, flipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from minires.data.randomness import current_generator
from minires.data.transforms.base import Transform, array_to_pil, pair
from minires.device import Array


class InterpolationMode(StrEnum):
    """How pixels between pixels are found; a plain string of the same value does as well."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def _resize_with_pillow(transform: str, image: Array, size: tuple[int, int], interpolation: InterpolationMode) -> Array:
    """(H, W, C) uint8 -> (height, width, C), as PIL resizes: antialiased when it shrinks."""
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3, 4):
        raise TypeError(
            f"{transform} resizes uint8 images of 1, 3 or 4 channels, got {image.dtype} with {image.shape[-1]}: "
            "put it before ToTensor()"
        )
    filtering = Image.Resampling[interpolation.name]
    resized = np.asarray(array_to_pil(image).resize((size[1], size[0]), filtering))
    return resized.reshape(*size, -1)


class Resize(Transform):
    """Resize to ``size``: a pair is (height, width); an int is the shorter side, the other keeps the proportions.

    Parameters
    ----------
    size : int or (int, int)
    interpolation : InterpolationMode or str
    max_size : int, optional
        Bound of the longer side, where ``size`` is an int: an image that would exceed it is made smaller.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: InterpolationMode | str = InterpolationMode.BILINEAR,
        max_size: int | None = None,
    ) -> None:
        self.shorter = size if isinstance(size, int) else size[0] if len(size) == 1 else None
        self.size = pair("Resize", size)
        self.interpolation = InterpolationMode(interpolation)
        self.max_size = max_size
        if max_size is not None and (self.shorter is None or max_size <= self.shorter):
            raise ValueError(
                f"Resize: max_size bounds the longer side, so size must be one int below it; got size {size!r} and "
                f"max_size {max_size}"
            )

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of this size is resized to."""
        if self.shorter is None:
            return self.size
        short, long = self.shorter, int(self.shorter * max(height, width) / min(height, width))
        if self.max_size is not None and long > self.max_size:
            short, long = int(self.max_size * short / long), self.max_size
        return (short, long) if height <= width else (long, short)

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> (N, H', W', C), image by image."""
        n, height, width, c = batch.shape
        size = self.target_size(height, width)
        if size == (height, width):
            return batch
        out = np.empty((n, *size, c), batch.dtype)
        for image, resized in zip(batch, out, strict=True):
            resized[:] = _resize_with_pillow("Resize", image, size, self.interpolation)
        return out

    def __repr__(self) -> str:
        return f"Resize({self.shorter or self.size})"


class CenterCrop(Transform):
    """Cut the middle ``size`` = (height, width) out; an image that is too small is padded with 0."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = pair("CenterCrop", size)

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> (N, height, width, C)."""
        h, w = self.size
        missing_h, missing_w = max(h - batch.shape[1], 0), max(w - batch.shape[2], 0)
        batch = _pad(batch, (missing_w // 2, missing_h // 2, (missing_w + 1) // 2, (missing_h + 1) // 2))
        # round, like torchvision: halves go to the even neighbour
        top, left = round((batch.shape[1] - h) / 2), round((batch.shape[2] - w) / 2)
        return batch[:, top : top + h, left : left + w]

    def __repr__(self) -> str:
        return f"CenterCrop({self.size})"


PADDING_MODES = ("constant", "edge", "reflect", "symmetric")


def _pad(batch: Array, padding: tuple[int, int, int, int], mode: str = "constant", fill: float = 0) -> Array:
    """Pad a batch (N, H, W, C) by (left, top, right, bottom)."""
    left, top, right, bottom = padding
    if not any(padding):
        return batch
    if mode == "constant":
        n, h, w, c = batch.shape
        out = np.full((n, h + top + bottom, w + left + right, c), fill, batch.dtype)
        out[:, top : top + h, left : left + w] = batch
        return out
    return np.pad(batch, ((0, 0), (top, bottom), (left, right), (0, 0)), mode=mode)  # type: ignore[call-overload]


class RandomCrop(Transform):
    """Cut ``size`` = (height, width) out at a random place, after padding the image.

    Parameters
    ----------
    size : int or (int, int)
    padding : int, (int, int) or (int, int, int, int), optional
        All four sides; or (left and right, top and bottom); or (left, top, right, bottom).
    pad_if_needed : bool
        Pad an image that is smaller than ``size`` instead of refusing it.
    fill : int
        The value of the padding where ``padding_mode`` is "constant".
    padding_mode : "constant", "edge", "reflect" or "symmetric"

    Raises
    ------
    ValueError
        If the padded image is smaller than ``size``.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: float = 0,
        padding_mode: str = "constant",
    ) -> None:
        self.size = pair("RandomCrop", size)
        sides = (padding or 0,) if isinstance(padding, int | None) else tuple(padding)
        if len(sides) not in (1, 2, 4) or min(sides) < 0:
            raise ValueError(f"RandomCrop: padding must be 1, 2 or 4 ints, none negative, got {padding!r}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"RandomCrop: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}"
            )
        self.padding: tuple[int, int, int, int] = sides * (4 // len(sides))  # type: ignore[assignment]
        self.pad_if_needed, self.fill, self.padding_mode = pad_if_needed, fill, padding_mode

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> (N, height, width, C)."""
        h, w = self.size
        batch = _pad(batch, self.padding, self.padding_mode, self.fill)
        if self.pad_if_needed:
            missing_h, missing_w = max(h - batch.shape[1], 0), max(w - batch.shape[2], 0)
            batch = _pad(batch, (missing_w, missing_h, missing_w, missing_h), self.padding_mode, self.fill)
        n, height, width, c = batch.shape
        top, left = self.draw(n, height, width)
        # Windows over whole lines of width * C values, so that each row of a crop is one contiguous copy.
        lines = np.ascontiguousarray(batch).reshape(n, height, width * c)
        windows = sliding_window_view(lines, (h, w * c), axis=(1, 2))
        return windows[np.arange(n), top, left * c].reshape(n, h, w, c)

    def draw(self, n: int, height: int, width: int) -> tuple[Array, Array]:
        """Return where ``n`` images of this size, padding included, are cut: (top, left), both (N,)."""
        h, w = self.size
        if height < h or width < w:
            raise ValueError(
                f"RandomCrop: cannot cut {h}x{w} out of an image that is {height}x{width} with its padding: "
                "resize it first, or set padding or pad_if_needed=True"
            )
        rng = current_generator()
        return rng.integers(0, height - h + 1, n), rng.integers(0, width - w + 1, n)

    def __repr__(self) -> str:
        return f"RandomCrop({self.size}, padding={self.padding})"


class RandomHorizontalFlip(Transform):
    """Mirror left and right with probability ``p``."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"RandomHorizontalFlip: p must be a probability, got {p}")
        self.p = p

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> the same shape, some of the images mirrored."""
        flipped = self.draw(len(batch))
        out = batch.copy()
        out[flipped] = batch[flipped, :, ::-1]
        return out

    def draw(self, n: int) -> Array:
        """Return which of ``n`` images are mirrored, bool (N,)."""
        return current_generator().random(n) < self.p

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"


class RandomResizedCrop(Transform):
    """Cut a random part out and resize it to ``size``: the training crop of ImageNet nets (Szegedy et al., 2015).

    Parameters
    ----------
    size : int or (int, int)
    scale : (float, float)
        Range of the part's share of the image's area, drawn uniformly.
    ratio : (float, float)
        Range of the part's width / height, drawn uniformly on a log scale.
    interpolation : InterpolationMode or str

    A part that does not fit is drawn again, ten times at most; then the largest central part of a permitted ratio is
    taken.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: InterpolationMode | str = InterpolationMode.BILINEAR,
    ) -> None:
        self.size = pair("RandomResizedCrop", size)
        for name, (low, high) in {"scale": scale, "ratio": ratio}.items():
            if not 0 < low <= high:
                raise ValueError(f"RandomResizedCrop: {name} must be a range (low, high) above 0, got {(low, high)}")
        self.scale, self.ratio = (scale[0], scale[1]), (ratio[0], ratio[1])
        self.interpolation = InterpolationMode(interpolation)

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return a random part of an image of this size: (top, left, height, width)."""
        rng = current_generator()
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (height - h) // 2, (width - w) // 2, h, w

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> (N, height, width, C), image by image."""
        n, height, width, c = batch.shape
        out = np.empty((n, *self.size, c), batch.dtype)
        for image, resized in zip(batch, out, strict=True):
            top, left, h, w = self.draw_box(height, width)
            part = np.ascontiguousarray(image[top : top + h, left : left + w])
            resized[:] = _resize_with_pillow("RandomResizedCrop", part, self.size, self.interpolation)
        return out

    def __repr__(self) -> str:
        return f"RandomResizedCrop({self.size}, scale={self.scale}, ratio={self.ratio})"
