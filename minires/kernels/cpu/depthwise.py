"""Convolution of each channel with a filter of its own: groups of one channel in and one out.

There is nothing to share between channels, so no matrix product to make of it: plain loops over the taps of a pixel,
with all channels, which are neighbours in memory, in the innermost. The tables are those of `conv`.
"""

from __future__ import annotations

import numpy as np

from minires.device import Array
from minires.kernels.cpu.epilogue import BIAS, BIAS_AND_RESIDUAL, Epilogue, finish
from minires.kernels.cpu.launch import kernel, launch, launch_sum
from minires.kernels.threads import get_num_threads


def multiply(
    x: Array, filters: Array, images: int, sources: Array, targets: Array, y: Array, epilogue: Epilogue
) -> None:
    """Write the sums over taps of x (N, ..., C) times ``filters`` (taps, C) to the pixels ``targets`` of y (N, ..., C).

    A tile of ``images`` has its taps at ``sources`` (blocks, taps, ROWS) and its pixels at ``targets`` (blocks, ROWS).
    """
    tiles = len(x) // images
    arguments = x.reshape(tiles, -1), filters, sources, targets, y.reshape(tiles, -1)
    launch(_multiply, tiles * len(sources), y.size * len(filters), *arguments, *epilogue)


def weight_grad(x: Array, dy: Array, images: int, offsets: Array) -> Array:
    """Return (taps, C): the sums over pixels of x (N, ..., C) times dy (N, ..., C), taken in double precision.

    A tile of ``images`` has the taps of its pixels at ``offsets`` (pixels, taps).
    """
    tiles, channels = len(x) // images, dy.shape[-1]
    x, dy = x.reshape(tiles, -1), dy.reshape(tiles, -1)
    shape, work = (offsets.shape[1], channels), dy.size * offsets.shape[1]
    shares = min(tiles * len(offsets), get_num_threads())
    dtype = np.dtype(np.float64)
    return launch_sum(_sum_products, shares, shares, work, shape, dtype, x, dy, offsets).astype(x.dtype, copy=False)


@kernel
def _multiply(start, stop, x, filters, sources, targets, y, steps, bias, residual, floor):
    """Blocks ``start`` to ``stop``, counted through all tiles."""
    blocks, taps, rows = sources.shape
    channels = filters.shape[1]
    for item in range(start, stop):
        tile, block = divmod(item, blocks)
        for i in range(rows):
            target = targets[block, i]
            if target < 0:
                continue
            sums = y[tile, target : target + channels]
            sums[:] = 0
            for t in range(taps):
                source = sources[block, t, i]
                if source >= 0:
                    pixel, weights = x[tile, source : source + channels], filters[t]
                    for c in range(channels):
                        sums[c] += pixel[c] * weights[c]
            if steps == BIAS:
                for c in range(channels):
                    sums[c] = finish(sums[c], BIAS, bias[c], 0, floor)
            elif steps == BIAS_AND_RESIDUAL:
                added = residual[tile * y.shape[1] + target :]
                for c in range(channels):
                    sums[c] = finish(sums[c], BIAS_AND_RESIDUAL, bias[c], added[c], floor)


@kernel
def _sum_products(start, stop, x, dy, offsets, totals):
    """A work item is a share of all output pixels, summed to totals (shares, taps, C)."""
    pixels, taps = offsets.shape
    shares, _, channels = totals.shape
    for share in range(start, stop):
        total = totals[share]
        total[:] = 0
        for item in range(len(x) * pixels * share // shares, len(x) * pixels * (share + 1) // shares):
            tile, index = divmod(item, pixels)
            gradient = dy[tile, index * channels : (index + 1) * channels]
            for t in range(taps):
                source = offsets[index, t]
                if source >= 0:
                    pixel, sums = x[tile, source : source + channels], total[t]
                    for c in range(channels):
                        sums[c] += pixel[c] * gradient[c]
