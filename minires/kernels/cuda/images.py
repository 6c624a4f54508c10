"""Images of bytes to floats in one pass over memory; bytes are a quarter of what would be copied to the GPU else."""

from __future__ import annotations

from minires.device import Array, array_module
from minires.kernels.cuda.launch import backend, launch_over, named, vector_width
from minires.kernels.geometry import Pair
from minires.kernels.layout import from_nhwc, to_nhwc


def crop_flip_normalize(images: Array, values: Array, crops: Array, size: Pair, fill: int) -> Array:
    """uint8 (N, C, H, W) -> (N, C, height, width); see the reference kernel of this name."""
    xp = array_module(images)
    n, c, h, w = images.shape
    images, values, crops = to_nhwc(images), xp.ascontiguousarray(values), xp.ascontiguousarray(crops)
    y = backend().empty((n, *size, c), values.dtype)
    line = size[1] * c
    width = vector_width(line, y)
    kernel = named("crop_flip_normalize", y, width)
    launch_over("images", kernel, y.size, width, images, values, crops, int(fill), y, h, w, c, size[0], line)
    return from_nhwc(y)
