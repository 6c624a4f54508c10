"""The shape arithmetic of convolution and pooling, worked out once and handed to ops and kernels alike.

A geometry holds checked integers only. The public ops build it (``minires.ops``) and raise on bad arguments; the
kernels trust it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

Pair = tuple[int, int]


@dataclass(frozen=True)
class Conv2dGeometry:
    """The shapes and strides of one 2-D convolution; pairs are (height, width).

    y[n, o, p, q] sums x[n, c, p * stride + r * dilation - top, q * stride + s * dilation - left] * w[o, c, r, s].
    """

    input_shape: tuple[int, int, int, int]  # (N, C, H, W)
    weight_shape: tuple[int, int, int, int]  # (O, C / groups, R, S)
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))  # ((top, bottom), (left, right))
    dilation: Pair = (1, 1)
    groups: int = 1

    @cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, O, P, Q), where P = (H + top + bottom - dilation * (R - 1) - 1) // stride + 1 and Q alike."""
        p, q = (
            (size + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                self.input_shape[2:], self.padding, self.dilation, self.weight_shape[2:], self.stride, strict=True
            )
        )
        return self.input_shape[0], self.weight_shape[0], p, q


@dataclass(frozen=True)
class Pool2dGeometry:
    """The shapes and strides of one 2-D pooling; pairs are (height, width), padding is the same on both sides.

    With ``ceil_mode`` the last window may reach beyond the padded input: ``output_size`` says how many there are.
    """

    input_shape: tuple[int, int, int, int]  # (N, C, H, W)
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    output_size: Pair  # (P, Q)
