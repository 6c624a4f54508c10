"""Pooling: the maximum or the sum over windows of each plane.

Max pooling remembers where each maximum was. Its gradient sends dy back to those pixels, and the gradient of
that reads the same pixels again. Sums are linear, and their gradient is the transpose: every pixel collects
from the windows it lies in. Sums over windows are taken in double precision.
"""

from __future__ import annotations

from minires.device import Array, array_module
from minires.kernels.geometry import Pair, Pool2dGeometry
from minires.kernels.layout import from_nhwc, to_nhwc
from minires.kernels.reference.windows import Padding, channels_last, crop, pad, taps


def max_pool2d(x: Array, geometry: Pool2dGeometry) -> tuple[Array, Array]:
    """(N, C, H, W) -> the maximum of each window and where it was, both (N, C, P, Q).

    The indices are int64 positions in the flat H * W plane. Padding is never chosen. Among equals the first
    in row order wins; a NaN beats every number, and a later NaN an earlier one, as in PyTorch.
    """
    xp = array_module(x)
    rows, cols = (
        # (taps, outputs): the row (column) of x under each tap of each window, out of range in the padding
        xp.arange(kernel)[:, None] * dilation + xp.arange(outputs) * stride - padding
        for kernel, stride, padding, dilation, outputs in _per_axis(geometry)
    )
    return _window_max(x, rows, cols)


def adaptive_max_pool2d(x: Array, output_size: Pair) -> tuple[Array, Array]:
    """(N, C, H, W) -> maximum and flat index over P x Q windows that cover the plane; rules as in `max_pool2d`.

    The windows are those of `adaptive_avg_pool2d`.
    """
    xp = array_module(x)
    rows_and_cols = []
    for size, outputs in zip(x.shape[2:], output_size, strict=True):
        bounds = adaptive_bounds(size, outputs)
        start, end = xp.asarray(bounds).T
        longest = max(high - low for low, high in bounds)
        # A window shorter than the longest meets its last pixel again, which changes neither value nor index.
        rows_and_cols.append(xp.minimum(start + xp.arange(longest)[:, None], end - 1))
    return _window_max(x, *rows_and_cols)


def _window_max(x: Array, rows: Array, cols: Array) -> tuple[Array, Array]:
    """Maximum and flat index over windows whose taps lie at ``rows`` (R, P) and ``cols`` (S, Q) of each plane."""
    xp = array_module(x)
    n, c, h, w = x.shape
    (r, p), (s, q) = rows.shape, cols.shape
    rows_inside, cols_inside = (rows >= 0) & (rows < h), (cols >= 0) & (cols < w)
    rows, cols = xp.clip(rows, 0, h - 1), xp.clip(cols, 0, w - 1)
    # A window of nothing but -inf keeps the index of its first pixel that is not padding, or 0 if it has none.
    first_row = xp.take_along_axis(rows, rows_inside.argmax(axis=0)[None], axis=0)[0]
    first_col = xp.take_along_axis(cols, cols_inside.argmax(axis=0)[None], axis=0)[0]
    has_pixels = rows_inside.any(axis=0)[:, None] & cols_inside.any(axis=0)
    first = xp.where(has_pixels, first_row[:, None] * w + first_col, 0).astype(xp.int64)[:, :, None]
    index = xp.broadcast_to(first, (n, p, q, c))
    best = xp.full((n, p, q, c), -xp.inf, x.dtype)
    planes = x.transpose(0, 2, 3, 1)
    for i in range(r):
        for j in range(s):
            position = (rows[i][:, None] * w + cols[j]).astype(xp.int64)[:, :, None]  # (P, Q, 1)
            inside = (rows_inside[i][:, None] & cols_inside[j])[:, :, None]
            value = planes[:, rows[i][:, None], cols[j]]  # (N, P, Q, C)
            better = inside & ((value > best) | xp.isnan(value))
            best = xp.where(better, value, best)
            index = xp.where(better, position, index)
    return from_nhwc(best), from_nhwc(index)


def max_pool2d_input_grad(dy: Array, indices: Array, input_shape: tuple[int, int, int, int]) -> Array:
    """(N, C, P, Q) -> (N, C, H, W): add each output's gradient to the pixel its maximum came from.

    A pixel that wins in several overlapping windows collects all their gradients.
    """
    xp = array_module(dy)
    n, c, h, w = input_shape
    dx = xp.zeros(n * h * w * c, dy.dtype)
    xp.add.at(dx, _memory_positions(indices, input_shape).ravel(), to_nhwc(dy).ravel())
    return from_nhwc(dx.reshape(n, h, w, c))


def gather_planes(x: Array, indices: Array) -> Array:
    """(N, C, H, W), (N, C, P, Q) -> (N, C, P, Q): the pixels at flat indices, plane by plane.

    The transpose of `max_pool2d_input_grad`, and max pooling itself once the winners are known.
    """
    return from_nhwc(to_nhwc(x).ravel()[_memory_positions(indices, x.shape)])


def _memory_positions(indices: Array, input_shape: tuple[int, ...]) -> Array:
    """(N, P, Q, C): where the pixels at ``indices`` lie in the flat channels-last input, (n*H*W + index)*C + c."""
    xp = array_module(indices)
    n, c, h, w = input_shape
    image = xp.arange(n)[:, None, None, None]
    return (image * (h * w) + to_nhwc(indices)) * c + xp.arange(c)


def sum_pool2d(x: Array, geometry: Pool2dGeometry) -> Array:
    """(N, C, H, W) -> (N, C, P, Q): the sum over each window, with zeros for padding."""
    n, c, _, _ = geometry.input_shape
    p, q = geometry.output_size
    padded = pad(x, _window_padding(geometry))
    y = from_nhwc(array_module(x).zeros((n, p, q, c)))
    for _, _, rows, cols in taps(geometry.kernel_size, geometry.stride, geometry.dilation, (p, q)):
        y += padded[:, :, rows, cols]
    return y.astype(x.dtype)


def sum_pool2d_input_grad(dy: Array, geometry: Pool2dGeometry) -> Array:
    """(N, C, P, Q) -> (N, C, H, W): each pixel collects the gradients of the windows it lies in."""
    n, c, h, w = geometry.input_shape
    (top, bottom), (left, right) = padding = _window_padding(geometry)
    padded = from_nhwc(array_module(dy).zeros((n, top + h + bottom, left + w + right, c)))
    for _, _, rows, cols in taps(geometry.kernel_size, geometry.stride, geometry.dilation, geometry.output_size):
        padded[:, :, rows, cols] += dy
    return channels_last(crop(padded.astype(dy.dtype), padding, (h, w)))


def _per_axis(geometry: Pool2dGeometry) -> list[tuple[int, int, int, int, int]]:
    """(kernel, stride, padding, dilation, outputs) of the rows, then of the columns."""
    g = geometry
    return list(zip(g.kernel_size, g.stride, g.padding, g.dilation, g.output_size, strict=True))


def _window_padding(geometry: Pool2dGeometry) -> Padding:
    """The padding that every window fits into: with ``ceil_mode`` the last may reach past the padded edge."""
    rows, cols = (
        (padding, max(0, (outputs - 1) * stride + dilation * (kernel - 1) + 1 - padding - size))
        for size, (kernel, stride, padding, dilation, outputs) in zip(
            geometry.input_shape[2:], _per_axis(geometry), strict=True
        )
    )
    return rows, cols


def adaptive_avg_pool2d(x: Array, output_size: Pair) -> Array:
    """(N, C, H, W) -> (N, C, P, Q): the mean over rows floor(p*H/P) to ceil((p+1)*H/P), and columns alike."""
    n, c, h, w = x.shape
    p, q = output_size
    y = from_nhwc(array_module(x).empty((n, p, q, c), x.dtype))
    for i, (top, bottom) in enumerate(adaptive_bounds(h, p)):
        for j, (left, right) in enumerate(adaptive_bounds(w, q)):
            y[:, :, i, j] = x[:, :, top:bottom, left:right].mean(axis=(2, 3), dtype=array_module(x).float64)
    return y


def adaptive_avg_pool2d_input_grad(dy: Array, input_shape: tuple[int, int, int, int]) -> Array:
    """(N, C, P, Q) -> (N, C, H, W): each window spreads its gradient evenly over its pixels."""
    n, c, h, w = input_shape
    p, q = dy.shape[2:]
    dx = from_nhwc(array_module(dy).zeros((n, h, w, c)))
    for i, (top, bottom) in enumerate(adaptive_bounds(h, p)):
        for j, (left, right) in enumerate(adaptive_bounds(w, q)):
            share = dy[:, :, i, j] / ((bottom - top) * (right - left))
            dx[:, :, top:bottom, left:right] += share[:, :, None, None]
    return dx.astype(dy.dtype)


def adaptive_bounds(size: int, outputs: int) -> list[tuple[int, int]]:
    """Return the [start, end) of each of ``outputs`` windows over ``size`` pixels.

    They cover every pixel, and neighbours overlap where ``outputs`` does not divide ``size``.
    """
    return [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
