"""The two compiled loops of convolution: copy patches out of an image (im2col), add them back (col2im).

Both work on one block of output rows at a time, counted through all images: row number image * P + p.
"""

from __future__ import annotations

from typing import NamedTuple

from minires.kernels.cpu.launch import kernel
from minires.kernels.geometry import Conv2dGeometry, Pair


class Windows(NamedTuple):
    """Where the patches of a plane lie: tap i of window p is row p * stride + i * dilation - padding; columns alike.

    ``padding`` (top, left) is negative where the first window begins inside the plane.
    """

    stride: Pair
    padding: Pair
    dilation: Pair
    kernel_size: Pair
    output_size: Pair

    @classmethod
    def of(cls, geometry: Conv2dGeometry) -> Windows:
        """Return the windows of a convolution."""
        (top, _), (left, _) = geometry.padding
        kernel_size, output_size = geometry.weight_shape[2:], geometry.output_shape[2:]
        return cls(geometry.stride, (top, left), geometry.dilation, kernel_size, output_size)

    def transposed(self, input_size: Pair) -> Windows:
        """Return the windows over y under which a stride-1 convolution from x to y becomes one from y to x."""
        top, left = (
            dilation * (kernel - 1) - padding
            for dilation, kernel, padding in zip(self.dilation, self.kernel_size, self.padding, strict=True)
        )
        return self._replace(padding=(top, left), output_size=input_size)

    def are_pixels(self, input_size: Pair) -> bool:
        """Tell whether window (p, q) is the pixel (p, q) and no more, so that the plane is its own patch matrix."""
        same = (1, 1), (0, 0), (1, 1), input_size
        return (self.stride, self.padding, self.kernel_size, self.output_size) == same

    def scalars(self) -> tuple[int, ...]:
        """Return what the compiled loops need besides the shapes of their arrays."""
        return (self.output_size[0], *self.stride, *self.padding, *self.dilation)


@kernel
def gather_patches(first, last, p, stride_h, stride_w, top, left, dilation_h, dilation_w, x, patches):
    """Copy the patches of output rows ``first`` to ``last`` of x (N, H, W, G, C/G) to (G, rows, Q, R, S, C/G)."""
    _, height, width, groups, depth = x.shape
    _, rows, outputs, taps_h, taps_w, _ = patches.shape
    # Where neighbouring taps are neighbours in memory, a kernel row is one run of S * C numbers; else S runs of C.
    joined = groups == 1 and dilation_w == 1
    runs, taps_in_run = (1, taps_w) if joined else (taps_w, 1)
    lines = x.reshape((-1, height, width * groups * depth))
    targets = patches.reshape((groups, rows, outputs, taps_h, runs, taps_in_run * depth))
    for row in range(first, last):
        image, window_row = divmod(row, p)
        for i in range(taps_h):
            y = window_row * stride_h + i * dilation_h - top
            line = lines[image, min(max(y, 0), height - 1)]
            for q in range(outputs):
                for j in range(runs):
                    z = q * stride_w + j * dilation_w - left
                    # Taps begin to end of the run lie inside the plane, the others in the padding.
                    begin = min(max(-z, 0), taps_in_run) * depth
                    end = max(min(width - z, taps_in_run), 0) * depth
                    if y < 0 or y >= height or begin >= end:
                        begin, end = taps_in_run * depth, taps_in_run * depth
                    for g in range(groups):
                        target = targets[g, row - first, q, i, j]
                        for c in range(begin):
                            target[c] = 0
                        inside = target[begin:end]
                        source = line[(z * groups + g) * depth + begin :]
                        for c in range(inside.size):
                            inside[c] = source[c]
                        for c in range(end, taps_in_run * depth):
                            target[c] = 0


@kernel
def scatter_patches(first, last, p, stride_h, stride_w, top, left, dilation_h, dilation_w, patches, x):
    """Add patches (G, rows, Q, R, S, C/G) of output rows ``first`` to ``last`` to x (N, H, W, G, C/G)."""
    _, height, width, groups, depth = x.shape
    _, _, outputs, taps_h, taps_w, _ = patches.shape
    for row in range(first, last):
        image, window_row = divmod(row, p)
        for i in range(taps_h):
            y = window_row * stride_h + i * dilation_h - top
            if 0 <= y < height:
                for g in range(groups):
                    for q in range(outputs):
                        for j in range(taps_w):
                            z = q * stride_w + j * dilation_w - left
                            if 0 <= z < width:
                                source = patches[g, row - first, q, i, j]
                                target = x[image, y, z, g]
                                for c in range(depth):
                                    target[c] += source[c]
