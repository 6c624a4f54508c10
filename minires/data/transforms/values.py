"""Transforms of pixel values: to float tensors, to zero mean and unit deviation, and cut-out patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.data.randomness import current_generator
from minires.data.transforms.base import Transform, as_batch
from minires.device import Array


class ToTensor(Transform):
    """Images to a float32 Tensor: (H, W, C) to (C, H, W), a batch (N, H, W, C) to (N, C, H, W).

    uint8 values are divided by 255, so they end in [0, 1]; others are only converted. The memory stays as it lies,
    channels last, which is how minires wants it.
    """

    def __call__(self, image: Any) -> Tensor:
        """Return ``image``, of any kind that :class:`Transform` takes, as a Tensor."""
        if isinstance(image, Tensor):
            raise TypeError("ToTensor: the image is a Tensor already; drop one of the two ToTensor()")
        batch, _ = as_batch(image, self)
        floats = batch.astype(np.float32, order="C")
        if batch.dtype == np.uint8:
            floats /= 255
        single = not (isinstance(image, np.ndarray) and image.ndim == 4)
        return Tensor(floats[0].transpose(2, 0, 1) if single else floats.transpose(0, 3, 1, 2))

    def __repr__(self) -> str:
        return "ToTensor()"


class Normalize(Transform):
    """Channel c becomes (x - mean[c]) / std[c]; on the Tensor that ``ToTensor`` makes.

    Raises
    ------
    ValueError
        If a deviation is 0, or the lengths of ``mean``, ``std`` and the number of channels do not agree.
    TypeError
        If given anything but a Tensor of floats.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        if len(self.mean) != len(self.std):
            raise ValueError(f"Normalize: {len(self.mean)} means but {len(self.std)} standard deviations")
        if 0 in self.std:
            raise ValueError(f"Normalize: a standard deviation is 0 in {self.std}, which would divide by zero")

    def __call__(self, image: Any) -> Tensor:
        """Return a normalised copy of a Tensor (C, H, W) or (N, C, H, W)."""
        if not isinstance(image, Tensor):
            raise TypeError(f"Normalize takes a Tensor, got {type(image).__name__}: put ToTensor() before it")
        return super().__call__(image)

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> the same shape, normalised."""
        n, h, w, c = batch.shape
        if not np.issubdtype(batch.dtype, np.floating):
            raise TypeError(f"Normalize takes floats, got {batch.dtype}: put ToTensor() before it")
        if c != len(self.mean):
            raise ValueError(f"Normalize: the images have {c} channels, but mean and std have {len(self.mean)} values")
        # Rows of whole image lines: an inner loop over two or three channels would cost ten times as much.
        lines = np.ascontiguousarray(batch).reshape(n * h, w * c)
        normalised = lines - np.tile(np.asarray(self.mean, batch.dtype), w)
        normalised /= np.tile(np.asarray(self.std, batch.dtype), w)
        return normalised.reshape(n, h, w, c)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"


class Cutout(Transform):
    """Fill a square of side ``size`` around a random pixel with ``fill`` (DeVries & Taylor, 2017).

    The centre may be any pixel, so the square may hang over the border. After ``Normalize`` the fill 0 is the mean.
    """

    def __init__(self, size: int, fill: float = 0) -> None:
        if size < 1:
            raise ValueError(f"Cutout: size must be a positive number of pixels, got {size}")
        self.size, self.fill = size, fill

    def apply(self, batch: Array) -> Array:
        """(N, H, W, C) -> the same shape with a square of each image filled."""
        n, h, w, _ = batch.shape
        rng = current_generator()
        top = rng.integers(0, h, (n, 1)) - self.size // 2
        left = rng.integers(0, w, (n, 1)) - self.size // 2
        y, x = np.arange(h), np.arange(w)
        in_rows = (y >= top) & (y < top + self.size)
        in_columns = (x >= left) & (x < left + self.size)
        out = batch.copy()
        out[in_rows[:, :, None] & in_columns[:, None, :]] = self.fill
        return out

    def __repr__(self) -> str:
        return f"Cutout({self.size})"
