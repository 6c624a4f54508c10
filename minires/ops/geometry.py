"""The arguments of the ops that slide a window over a plane: checked before any work, and turned into a geometry.

The kernels trust a geometry, so whatever could read out of bounds or give a wrong answer is refused here. A message
names the op, the shapes or values, and the remedy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.kernels.geometry import Conv2dGeometry, Pair, Pool2dGeometry

__all__ = ["Conv2dGeometry", "IntOrPair", "Pair", "Pool2dGeometry", "Shape"]

IntOrPair = int | tuple[int, int]
Shape = tuple[int, ...]
Shape4 = tuple[int, int, int, int]


# Tensors


def check_operands(op: str, input: Tensor, bias: Tensor | None = None, **others: Tensor) -> None:
    """Refuse operands that are not floats, all of one dtype and on one device; bias may be None.

    Raises
    ------
    RuntimeError
        If dtypes or devices do not fit.
    """
    for name, operand in {"input": input, **others, "bias": bias}.items():
        if operand is None:
            continue
        if not operand.is_floating_point():
            raise RuntimeError(
                f"{op} needs floating-point numbers, but its {name} is {operand.dtype}: convert it with .float()"
            )
        if operand.dtype != input.dtype:
            raise RuntimeError(
                f"{op} needs one dtype, but its input is {input.dtype} and its {name} {operand.dtype}: "
                f"convert one of them, e.g. {name}.to(input.dtype)"
            )
        if type(operand.array) is type(input.array) is np.ndarray:
            continue  # on the CPU both
        if operand.device != input.device:
            raise RuntimeError(
                f"{op} needs its operands on one device, but its input is on {input.device} and its {name} on "
                f"{operand.device}: move one of them, e.g. {name}.to(input.device)"
            )


def as_batch(op: str, input: Tensor) -> Tensor:
    """Return ``input`` as (N, C, H, W); a single image (C, H, W) becomes a batch of one.

    Raises
    ------
    RuntimeError
        If it has another number of axes.
    """
    if input.ndim not in (3, 4):
        raise RuntimeError(
            f"{op} needs an input of shape (N, C, H, W) or (C, H, W), got shape {input.shape}: "
            "add or merge axes with reshape"
        )
    return input if input.ndim == 4 else input.reshape(1, *input.shape)


def unbatched(out: Tensor, input: Tensor) -> Tensor:
    """Take the batch axis off again where ``input`` came without one."""
    return out if input.ndim == 4 else out.reshape(out.shape[1:])


def checked_planes(op: str, input_shape: Shape, channels_may_be_zero: bool = False) -> Shape4:
    """Return the shape (N, C, H, W), of which N may be 0.

    Raises
    ------
    RuntimeError
        If an axis other than the batch is empty.
    """
    if 0 in input_shape[2 if channels_may_be_zero else 1 :]:
        raise RuntimeError(
            f"{op}: only the batch may be empty, got an input of shape (N, C, H, W) = {input_shape}: "
            "an earlier layer has left no pixel or channel"
        )
    n, c, h, w = input_shape
    return n, c, h, w


# Numbers


def checked_int(op: str, name: str, value: Any, least: int | None = None) -> int:
    """Return ``value`` as an int.

    Raises
    ------
    TypeError
        If it is not an integer.
    RuntimeError
        If it is less than ``least``.
    """
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}")
    number = value.__index__()
    if least is not None and number < least:
        raise RuntimeError(f"{op}: {name} must be {'positive' if least == 1 else 'not negative'}, got {number}")
    return number


def pair(op: str, name: str, value: Any, least: int = 1, lengths: tuple[int, ...] = (1, 2)) -> Pair:
    """Return (height, width) from one int for both, or from a sequence of one or two ints.

    ``lengths`` says which lengths of a sequence are accepted.

    Raises
    ------
    TypeError
        If a value is not an integer.
    RuntimeError
        If there are too few or too many, or one is less than ``least``.
    """
    if not isinstance(value, (tuple, list)):
        value = (value, value)
    elif len(value) not in lengths:
        raise RuntimeError(f"{op}: {name} must be one integer, or two for (height, width), got {value!r}")
    height, width = (checked_int(op, name, number, least) for number in (value if len(value) == 2 else value * 2))
    return height, width


# Convolution


def conv2d_geometry(
    input_shape: Shape, weight_shape: Shape, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Conv2dGeometry:
    """Return the geometry of ``conv2d`` of a batch (N, C, H, W).

    Raises
    ------
    TypeError
        If a number is not an integer.
    RuntimeError
        If the shapes and numbers do not fit together.
    """
    if all(_is_plain(number) for number in (stride, padding, dilation, groups)):
        return _known_conv2d_geometry(input_shape, weight_shape, stride, padding, dilation, groups)
    return _conv2d_geometry(input_shape, weight_shape, stride, padding, dilation, groups)


def _is_plain(value: Any) -> bool:
    """Tell whether a value equals only such as mean the same: 1.0 and True equal 1, but are refused where 1 is not."""
    return type(value) in (int, str) or (type(value) is tuple and all(type(number) is int for number in value))


def _conv2d_geometry(
    input_shape: Shape, weight_shape: Shape, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Conv2dGeometry:
    op = "conv2d"
    weight_shape, groups = _checked_weight(op, weight_shape, groups, "(out_channels, in_channels / groups, R, S)")
    stride = pair(op, "stride", stride)
    dilation = pair(op, "dilation", dilation)
    input_shape = checked_planes(op, input_shape)
    expected = weight_shape[1] * groups
    if input_shape[1] != expected:
        raise RuntimeError(
            f"conv2d: the input of shape {input_shape} has {input_shape[1]} channels, but a weight of shape "
            f"{weight_shape} with groups={groups} takes {expected}: change the input channels of the weight "
            "(its axis 1, times groups), or the output channels of the layer before"
        )
    sides = _padding_by_side(padding, weight_shape[2:], stride, dilation)
    _check_window_fits(op, input_shape, sides, weight_shape[2:], dilation)
    return Conv2dGeometry(input_shape, weight_shape, stride, sides, dilation, groups)


# A net asks for the same few geometries at every step, and working one out takes as long as a small kernel.
_known_conv2d_geometry = lru_cache(maxsize=1024)(_conv2d_geometry)


def _checked_weight(op: str, weight_shape: Shape, groups: Any, meaning: str) -> tuple[Shape4, int]:
    """Check what conv2d and its transpose ask of a weight alike; return its shape and ``groups``."""
    groups = checked_int(op, "groups", groups, least=1)
    if len(weight_shape) != 4:
        raise RuntimeError(f"{op} needs a weight of shape {meaning}, got shape {weight_shape}")
    if 0 in weight_shape:
        raise RuntimeError(f"{op}: the weight of shape {meaning} = {weight_shape} is empty: give it 1 or more of each")
    if weight_shape[0] % groups:
        raise RuntimeError(
            f"{op}: groups={groups} does not divide the {weight_shape[0]} channels on axis 0 of the weight of shape "
            f"{weight_shape}: choose groups that divide both the input and the output channels"
        )
    o, i, r, s = weight_shape
    return (o, i, r, s), groups


def _padding_by_side(padding: Any, kernel_size: Shape, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Return ((top, bottom), (left, right)) from an int, a pair, "valid" or "same"."""
    if not isinstance(padding, str):
        height, width = pair("conv2d", "padding", padding, least=0)
        return (height, height), (width, width)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise RuntimeError(f'conv2d: padding must be "same", "valid", an integer or two integers, got {padding!r}')
    if stride != (1, 1):
        raise RuntimeError(
            f'conv2d: padding="same" needs stride 1, got stride={stride}: give the padding in numbers, '
            "e.g. dilation * (kernel_size - 1) // 2"
        )
    rows, cols = (
        (missing // 2, missing - missing // 2)  # an odd pixel goes to the end, as in PyTorch
        for missing in (d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True))
    )
    return rows, cols


def _check_window_fits(
    op: str, input_shape: Shape, padding: tuple[Pair, Pair], kernel_size: Shape, dilation: Pair
) -> None:
    padded = tuple(size + sum(pad) for size, pad in zip(input_shape[2:], padding, strict=True))
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))
    if any(span > size for span, size in zip(spans, padded, strict=True)):
        raise RuntimeError(
            f"{op}: a kernel of {kernel_size[0]} x {kernel_size[1]} with dilation {dilation} spans "
            f"{spans[0]} x {spans[1]} pixels, but the padded input has {padded[0]} x {padded[1]} (input shape "
            f"{input_shape}): use a smaller kernel or dilation, more padding, or larger images"
        )


def conv_transpose2d_geometry(
    input_shape: Shape,
    weight_shape: Shape,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> Conv2dGeometry:
    """Return the geometry of the convolution that ``conv_transpose2d`` of a batch (N, C, H, W) is the transpose of.

    So its ``input_shape`` is the shape of the transposed convolution's result. Its ``output_shape`` is that of the
    input, but for ``output_padding // stride`` more rows and columns: an output padding as large as the stride leaves
    room for one more window, which the caller fills with zeros.

    Raises
    ------
    TypeError
        If a number is not an integer.
    RuntimeError
        If the shapes and numbers do not fit together.
    """
    op = "conv_transpose2d"
    weight_shape, groups = _checked_weight(op, weight_shape, groups, "(in_channels, out_channels / groups, R, S)")
    stride = pair(op, "stride", stride)
    padding = pair(op, "padding", padding, least=0)
    output_padding = pair(op, "output_padding", output_padding, least=0)
    dilation = pair(op, "dilation", dilation)
    input_shape = checked_planes(op, input_shape)
    if input_shape[1] != weight_shape[0]:
        raise RuntimeError(
            f"conv_transpose2d: the input of shape {input_shape} has {input_shape[1]} channels, but a weight of shape "
            f"{weight_shape} takes {weight_shape[0]}: the weight is (in_channels, out_channels / groups, R, S), "
            "the other way round than that of conv2d"
        )
    if any(extra >= max(s, d) for extra, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise RuntimeError(
            f"conv_transpose2d: output_padding={output_padding} must be smaller than the stride {stride} or the "
            f"dilation {dilation}: it only chooses among the sizes that a convolution would bring to the input's"
        )
    height, width = (
        (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for size, s, p, d, k, extra in zip(
            input_shape[2:], stride, padding, dilation, weight_shape[2:], output_padding, strict=True
        )
    )
    if height < 1 or width < 1:
        raise RuntimeError(
            f"conv_transpose2d: an input of shape {input_shape} with a weight of shape {weight_shape} and "
            f"padding={padding} gives an output of {height} x {width} pixels: use less padding, which is cut off here"
        )
    sides = (padding[0], padding[0]), (padding[1], padding[1])
    shape = (input_shape[0], weight_shape[1] * groups, height, width)
    return Conv2dGeometry(shape, weight_shape, stride, sides, dilation, groups)


def unfold_geometry(
    op: str, input_shape: Shape, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Conv2dGeometry:
    """Return the geometry of ``unfold`` of a batch (N, C, H, W): a convolution with a filter for each pixel of a patch.

    Raises
    ------
    TypeError
        If a number is not an integer.
    RuntimeError
        If the shapes and numbers do not fit together.
    """
    kernel_size = pair(op, "kernel_size", kernel_size, lengths=(2,))
    dilation = pair(op, "dilation", dilation, lengths=(2,))
    padding = pair(op, "padding", padding, least=0, lengths=(2,))
    stride = pair(op, "stride", stride, lengths=(2,))
    input_shape = checked_planes(op, input_shape)
    sides = (padding[0], padding[0]), (padding[1], padding[1])
    _check_window_fits(op, input_shape, sides, kernel_size, dilation)
    channels = input_shape[1]
    filters = (channels * kernel_size[0] * kernel_size[1], channels, *kernel_size)
    return Conv2dGeometry(input_shape, filters, stride, sides, dilation)


# Pooling


def pool2d_geometry(
    op: str, input_shape: Shape, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Pool2dGeometry:
    """Return the geometry of a pooling of a batch (N, C, H, W); a ``stride`` of None is the kernel size.

    With ``ceil_mode`` a last window that reaches beyond the padded input counts, if it starts inside the input or the
    padding before it.

    Raises
    ------
    TypeError
        If a number is not an integer.
    RuntimeError
        If the shapes and numbers do not fit together.
    """
    kernel_size = pair(op, "kernel_size", kernel_size)
    stride = kernel_size if stride is None or stride in ((), []) else pair(op, "stride", stride)
    padding = pair(op, "padding", padding, least=0)
    dilation = pair(op, "dilation", dilation)
    input_shape = checked_planes(op, input_shape)
    if any(2 * p > k for p, k in zip(padding, kernel_size, strict=True)):
        raise RuntimeError(
            f"{op}: padding={padding} must be at most half of kernel_size={kernel_size}, or a window could lie in the "
            "padding alone: use less padding or a larger kernel"
        )
    rows, cols = (
        _windows(size, k, s, p, d, ceil_mode)
        for size, k, s, p, d in zip(input_shape[2:], kernel_size, stride, padding, dilation, strict=True)
    )
    if rows < 1 or cols < 1:
        _check_window_fits(op, input_shape, ((padding[0],) * 2, (padding[1],) * 2), kernel_size, dilation)
    geometry = Pool2dGeometry(input_shape, kernel_size, stride, padding, dilation, (rows, cols))
    if any(_steps_over_all_pixels(geometry, axis) for axis in (0, 1)):
        raise RuntimeError(
            f"{op}: with dilation={dilation} and padding={padding} a window of kernel_size={kernel_size} steps over "
            f"every pixel of the input of shape {input_shape} and has nothing to choose from: "
            "use less dilation or padding"
        )
    return geometry


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Count the windows along one axis."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def _steps_over_all_pixels(geometry: Pool2dGeometry, axis: int) -> bool:
    """Whether some window has its taps on both sides of the plane and none inside. It takes a dilation.

    (PyTorch pools such a window to -inf and puts its index outside the plane.)
    """
    dilation = geometry.dilation[axis]
    if dilation == 1:
        return False
    starts = np.arange(geometry.output_size[axis])[:, None] * geometry.stride[axis] - geometry.padding[axis]
    taps = starts + np.arange(geometry.kernel_size[axis]) * dilation
    inside = (taps >= 0) & (taps < geometry.input_shape[2 + axis])
    return not inside.any(axis=1).all()


def adaptive_output_size(op: str, output_size: Any, input_shape: Shape) -> Pair:
    """Return (P, Q) from one int for both or a pair, in which None keeps the size of the input (N, C, H, W).

    Raises
    ------
    TypeError
        If a value is neither an integer nor None.
    RuntimeError
        If there are not two, or one is not positive.
    """
    if isinstance(output_size, (tuple, list)):
        if len(output_size) != 2:
            raise RuntimeError(
                f"{op}: output_size must be one integer, or two of integer or None for (height, width), "
                f"got {output_size!r}"
            )
        output_size = tuple(
            size if asked is None else asked for asked, size in zip(output_size, input_shape[2:], strict=True)
        )
    return pair(op, "output_size", output_size)
