"""``Shapes``: a synthetic set of coloured 32x32 images in ten classes, drawn from a seed.

It stands in for CIFAR-10 where there is no data at hand: same size, same number of classes, nothing to download. Each
image shows one shape at a random place, size, angle and colour, before a background with a gradient, stripes and noise,
among a few small discs that mean nothing. Shape and background change places in brightness from image to image, so no
fixed weighting of pixels tells the classes apart: a linear classifier stays far behind a small ResNet.

Shapes are drawn from signed distances. With d(u, v) the distance of a pixel to the outline, negative inside, and r the
size of the shape in pixels, a pixel is covered to the fraction clip(1/2 - r d, 0, 1), which is antialiasing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minires.data.datasets.images import ImageArrays

Plane = NDArray[np.floating[Any]]  # one number per pixel of a stack of images, (N, 32, 32)

SIZE = 32
BLOCK = 100  # images drawn together: small enough for the cache, and a set of n images begins any longer set


def _circle(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - 0.85


def _ring(u: Plane, v: Plane) -> Plane:
    return np.abs(np.hypot(u, v) - 0.72) - 0.2


def _semicircle(u: Plane, v: Plane) -> Plane:
    u = u + 0.4
    return np.maximum(np.hypot(u, v) - 0.95, -u)


def _crescent(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.hypot(u, v) - 0.9, 0.75 - np.hypot(u - 0.45, v))


def _square(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - 0.72


def _bar(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u) - 0.95, np.abs(v) - 0.22)


def _cross(u: Plane, v: Plane) -> Plane:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.24, v - 0.9), np.maximum(u - 0.9, v - 0.24))


def _triangle(u: Plane, v: Plane) -> Plane:
    slanted = np.abs(v) * math.sqrt(0.75) + u * 0.5
    return np.maximum(slanted, -u) - 0.5


def _star(u: Plane, v: Plane) -> Plane:
    """Five points at radius 1, notches at radius 0.4: one straight edge, repeated by folding the angle."""
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    sector = 2 * math.pi / 5
    from_notch = np.abs(np.mod(angle, sector) - sector / 2)  # 0 at a notch, sector / 2 at a point
    edge = (math.cos(sector / 2) - 0.4, math.sin(sector / 2))  # from the notch to the point
    x, y = radius * np.cos(from_notch) - 0.4, radius * np.sin(from_notch)
    return (x * edge[1] - y * edge[0]) / math.hypot(*edge)


def _heart(u: Plane, v: Plane) -> Plane:
    """A square on its corner with a disc on each upper side."""
    u, half = np.abs(u), 0.7
    diamond = (u + np.abs(v) - half) * math.sqrt(0.5)
    lobe = np.hypot(u - half / 2, v - half / 2) - half * math.sqrt(0.5)
    return np.minimum(diamond, lobe)


OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "bar": _bar,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "semicircle": _semicircle,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}


def _coverage(distance: Plane, radius: Plane) -> Plane:
    return np.clip(0.5 - distance * radius, 0, 1)


def _paint(image: Plane, cover: Plane, colour: Plane) -> None:
    """Lay ``colour`` (3, N, 1, 1) over ``image`` (3, N, 32, 32) where ``cover`` (N, 32, 32) says, in place."""
    image += cover * (colour - image)


def _backgrounds(rng: np.random.Generator, y: Plane, x: Plane) -> tuple[Plane, Plane]:
    """Return backgrounds (3, N, 32, 32) and the colour (3, N, 1, 1) that each of them varies around."""

    def uniform(low: float, high: float, *leading: int) -> Plane:
        return rng.uniform(low, high, (*leading, BLOCK, 1, 1)).astype(np.float32)

    colour = uniform(0.1, 0.9, 3)
    slope_y, slope_x = uniform(-0.2, 0.2, 3), uniform(-0.2, 0.2, 3)
    image = colour + slope_y * (y / SIZE) + slope_x * (x / SIZE)
    angle, wave = uniform(0, np.pi), uniform(0.3, 1.6)
    stripes = np.sin(wave * (np.cos(angle) * x + np.sin(angle) * y) + uniform(0, 2 * np.pi))
    image += uniform(-0.08, 0.08, 3) * stripes
    return image, colour


def _draw_block(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw ``BLOCK`` images, each class equally often: (N, 32, 32, 3) and (N,)."""

    def uniform(low: float, high: float, *leading: int) -> Plane:
        return rng.uniform(low, high, (*leading, BLOCK, 1, 1)).astype(np.float32)

    targets = rng.permutation(np.arange(BLOCK) % len(OUTLINES))
    centre = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    y, x = centre[:, None], centre[None, :]
    image, background = _backgrounds(rng, y, x)
    # At least a quarter of the range apart in every channel, brighter or darker: always visible, never predictable.
    colour = np.mod(background + uniform(0.25, 0.75, 3), 1)

    radius = uniform(7, 12)
    room = SIZE / 2 - 0.8 * radius
    top, left = uniform(-1, 1) * room, uniform(-1, 1) * room
    for _ in range(3):
        spot = np.hypot(y - uniform(-16, 16), x - uniform(-16, 16))
        _paint(image, np.clip(uniform(1, 2.2) - spot + 0.5, 0, 1), uniform(0, 1, 3))

    angle = uniform(-0.6, 0.6)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    u = cos * (x - left) + sin * (y - top)
    v = cos * (y - top) - sin * (x - left)
    cover = np.empty((BLOCK, SIZE, SIZE), np.float32)
    for label, outline in enumerate(OUTLINES.values()):
        members = targets == label
        cover[members] = _coverage(outline(u[members], v[members]), radius[members])
    _paint(image, cover, colour)

    image += uniform(0.01, 0.05) * rng.standard_normal(image.shape, np.float32)
    pixels = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 3, 0)), targets.astype(np.int64)


class Shapes(ImageArrays):
    """Ten classes of coloured shapes, 32x32 RGB, drawn on the spot (about a second for 10,000).

    Parameters
    ----------
    train : bool
        The training images or the held-out ones: separate random streams of the same seed.
    transform, target_transform : callable, optional
        Applied to the image and to the label.
    size : int, optional
        Number of images; 10,000 for training and 2,000 held out unless given. The first n images of a set do not
        depend on its size.
    seed : int
        The same seed draws the same images.

    Raises
    ------
    ValueError
        If ``size`` is not positive or ``seed`` is negative.
    """

    def __init__(
        self,
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        *,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        if size is None:
            size = 10_000 if train else 2_000
        if size < 1:
            raise ValueError(f"Shapes: size must be a positive number of images, got {size}")
        if seed < 0:
            raise ValueError(f"Shapes: seed must not be negative, got {seed}")
        blocks = -(-size // BLOCK)
        streams = [np.random.SeedSequence(seed, spawn_key=(int(train), block)) for block in range(blocks)]
        images, targets = zip(*(_draw_block(np.random.default_rng(stream)) for stream in streams), strict=True)
        super().__init__(
            np.concatenate(images)[:size], np.concatenate(targets)[:size], tuple(OUTLINES), transform, target_transform
        )
