"""Operations that only rearrange: reshape, permute, cat, split and the like. Each backward rearranges back."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

from minires.autograd import Function, Tensor
from minires.autograd.variadic import as_sequence, takes_sequence
from minires.autograd.views import lies_as_in_pytorch, note_copy, reshaped_strides, row_major, strides_of
from minires.device import array_module, memory_axes
from minires.ops import broadcast
from minires.ops.aliases import takes_axis, takes_names
from minires.ops.axes import normalized_axes, normalized_axis
from minires.ops.cast import cast
from minires.ops.promotion import result_type


class Reshape(Function):
    """x -> the same elements, in order, in another shape."""

    makes_views = True

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, x):
        return x.reshape(self.shape)

    def view_strides(self, shape, strides, output_index):
        viewed = reshaped_strides(shape, strides, self.shape)
        return row_major(self.shape) if viewed is None else viewed  # then `reshape` makes a copy of this view

    def backward(self, dy):
        return Reshape(self.input_shapes[0])(dy)


class Permute(Function):
    """x -> a view with its axes in another order."""

    makes_views = True

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def forward(self, x):
        return x.transpose(self.axes)

    def backward(self, dy):
        return Permute(tuple(self.axes.index(axis) for axis in range(len(self.axes))))(dy)


class Clone(Function):
    """x -> a copy, in the memory layout of x ("K") or contiguous ("C")."""

    def __init__(self, order: str):
        self.order = order

    def forward(self, x):
        return x.copy(order=self.order)

    def backward(self, dy):
        return dy


class Flip(Function):
    """x -> a copy with ``axes`` in reverse; the gradient is reversed back."""

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes

    def forward(self, x):
        return array_module(x).flip(x, self.axes).copy(order="K")

    def backward(self, dy):
        return Flip(self.axes)(dy)


class Cat(Function):
    """Tensors -> one, joined along ``axis``; the gradient is split at the seams."""

    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, *parts):
        shape = list(parts[0].shape)
        shape[self.axis] = sum(part.shape[self.axis] for part in parts)
        xp = array_module(parts[0])
        return xp.concatenate(parts, axis=self.axis, out=xp.empty_like(parts[0], shape=shape))

    def backward(self, dy):
        return Split(self.axis, tuple(shape[self.axis] for shape in self.input_shapes))(dy)


class Split(Function):
    """x -> views of ``lengths`` along ``axis``, the transpose of Cat."""

    makes_views = True

    def __init__(self, axis: int, lengths: tuple[int, ...]):
        self.axis = axis
        self.lengths = lengths

    def forward(self, x):
        ends = itertools.accumulate(self.lengths)
        before = (slice(None),) * self.axis
        return tuple(x[(*before, slice(end - length, end))] for end, length in zip(ends, self.lengths, strict=True))

    def backward(self, *dys):
        return Cat(self.axis)(*dys)


@takes_sequence("shape", after=1)
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """Return the elements in another shape; one length may be -1 and is then worked out. A view where memory allows.

    Raises
    ------
    RuntimeError
        If the number of elements does not fit.
    """
    sizes = _resolved("reshape", input, shape)
    if sizes == input.shape:
        return input
    result = Reshape(sizes)(input)
    if lies_as_in_pytorch(input):
        return result
    is_view = reshaped_strides(input.shape, strides_of(input), sizes) is not None
    if is_view and result._view is None:
        note_copy(input, result)
    return result if is_view or result._view is None else Clone("C")(result)


def _resolved(name: str, input: Tensor, shape: tuple) -> tuple[int, ...]:
    """Check a new shape and work out a length of -1."""
    sizes = as_sequence(shape)
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    unknown = sizes.count(-1)
    fits = input.numel() == known if not unknown else known != 0 and input.numel() % known == 0
    if unknown > 1 or not fits or min(sizes, default=0) < -1:
        raise RuntimeError(f"{name}: {input.numel()} elements of shape {input.shape} do not fit shape {sizes}")
    return tuple(input.numel() // known if size == -1 else size for size in sizes)


@takes_sequence("size", after=1)
def view(input: Tensor, *shape: Any) -> Tensor:
    """Return the elements in another shape, in the same memory; one length may be -1 and is then worked out.

    Whether that can be is decided as in PyTorch, where each result of an operation lies in row-major order. Here
    activations lie channels-last, and what is a view there may be a copy: neither of the two can be changed in place
    as long as there is the other.

    Raises
    ------
    RuntimeError
        If the number of elements does not fit, or ``input`` is itself a view (transposed, sliced, expanded) whose
        elements cannot be had in that shape without a copy: `reshape` makes one.
    TypeError
        For a dtype: use ``to`` to convert.
    """
    sizes = _resolved("view", input, shape)
    if input._view is not None and reshaped_strides(input.shape, strides_of(input), sizes) is None:
        raise RuntimeError(
            f"view: this Tensor of shape {input.shape} is a view of another, with strides {strides_of(input)}, and "
            f"cannot be seen in shape {sizes} without a copy: use .reshape(...), which makes one"
        )
    return reshape(input, sizes)


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """Return the elements in the shape of ``other``, as `view`."""
    return view(input, other.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """Return the elements in the shape of ``other``, as `reshape`."""
    return reshape(input, other.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return the axes from ``start_dim`` to ``end_dim``, both included, joined into one.

    Raises
    ------
    IndexError
        If an axis is out of range.
    RuntimeError
        If start_dim lies behind end_dim.
    """
    start, end = (normalized_axis("flatten", dim, input.ndim or 1) for dim in (start_dim, end_dim))
    if start > end:
        raise RuntimeError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim} of shape {input.shape}")
    joined = 1
    for length in input.shape[start : end + 1]:
        joined *= length
    return reshape(input, (*input.shape[:start], joined, *input.shape[end + 1 :]))


@takes_axis
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Return a view without the axes of length 1, or without those among ``dim`` (an int or a tuple) that have it.

    Raises
    ------
    IndexError
        If an axis is out of range.
    """
    axes = () if dim == () else normalized_axes("squeeze", dim, input.ndim)
    return reshape(input, tuple(n for axis, n in enumerate(input.shape) if n != 1 or axis not in axes))


@takes_axis
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Return a view with a new axis of length 1 at ``dim``.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    """
    axis = normalized_axis("unsqueeze", dim, input.ndim + 1)
    return reshape(input, (*input.shape[:axis], 1, *input.shape[axis:]))


@takes_sequence("dims", after=1)
def permute(input: Tensor, *dims: Any) -> Tensor:
    """Return a view with the axes in the order ``dims``.

    Raises
    ------
    RuntimeError
        If ``dims`` does not name every axis once.
    IndexError
        If an axis is out of range.
    """
    named = as_sequence(dims)
    if len(named) != input.ndim:
        raise RuntimeError(f"permute: {named} does not name each of the {input.ndim} axes of shape {input.shape}")
    axes = tuple(normalized_axis("permute", axis, input.ndim) for axis in named)
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"permute: {named} names an axis twice")
    return Permute(axes)(input)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return a view with two axes exchanged.

    Raises
    ------
    IndexError
        If an axis is out of range.
    """
    first, second = (normalized_axis("transpose", dim, input.ndim or 1) for dim in (dim0, dim1))
    axes = list(range(input.ndim))
    if first != second:
        axes[first], axes[second] = axes[second], axes[first]
    return Permute(tuple(axes))(input)


@takes_names(axis0="dim0", axis1="dim1")
def swapaxes(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return ``input`` with two axes exchanged, as `transpose`, under NumPy's name."""
    return transpose(input, dim0, dim1)


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Return a view with the axes ``source`` moved to ``destination``; the others keep their order.

    Raises
    ------
    RuntimeError
        If the numbers of axes differ or one is named twice.
    IndexError
        If an axis is out of range.
    """
    sources, destinations = (
        [normalized_axis("movedim", dim, input.ndim) for dim in (dims if isinstance(dims, (tuple, list)) else (dims,))]
        for dims in (source, destination)
    )
    if len(sources) != len(destinations) or len(set(sources)) + len(set(destinations)) != 2 * len(sources):
        raise RuntimeError(f"movedim: {source} and {destination} must name equally many axes, each once")
    order = [axis for axis in range(input.ndim) if axis not in sources]
    for destination_axis, source_axis in sorted(zip(destinations, sources, strict=True)):
        order.insert(destination_axis, source_axis)
    return Permute(tuple(order))(input)


def t(input: Tensor) -> Tensor:
    """Return the transpose of a matrix; a vector or number is returned as it is.

    Raises
    ------
    RuntimeError
        If there are more than 2 axes: use `permute` or ``mT``.
    """
    if input.ndim > 2:
        raise RuntimeError(f"the transpose of shape {input.shape} is ambiguous: use .mT for matrices or .permute(...)")
    return transpose(input, 0, 1) if input.ndim == 2 else input


def matrix_transpose(input: Tensor) -> Tensor:
    """Return each matrix in the last two axes transposed.

    Raises
    ------
    RuntimeError
        If there are fewer than 2 axes.
    """
    if input.ndim < 2:
        raise RuntimeError(f"mT transposes matrices, a Tensor of shape {input.shape} holds none")
    return transpose(input, -2, -1)


@takes_sequence("size", after=1)
def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Return a read-only view stretched along axes of length 1 and new leading axes; -1 keeps a length.

    Raises
    ------
    RuntimeError
        If a length other than 1 is to change, or there are fewer sizes than axes.
    """
    wanted = as_sequence(sizes)
    added = len(wanted) - input.ndim
    if added < 0 or any(size == -1 for size in wanted[:added]) or min(wanted, default=0) < -1:
        raise RuntimeError(f"expand: shape {input.shape} cannot be stretched to {wanted}: -1 keeps an axis that exists")
    shape = (*wanted[:added], *(n if w == -1 else w for n, w in zip(input.shape, wanted[added:], strict=True)))
    return broadcast.broadcast_to(input, shape)


@takes_sequence("repeats", after=1)
def repeat(input: Tensor, *sizes: Any) -> Tensor:
    """Return a copy with the elements repeated ``sizes`` times along the axes; sizes in front make new axes.

    Raises
    ------
    RuntimeError
        If there are fewer sizes than axes, or one is negative.
    """
    times = as_sequence(sizes)
    added = len(times) - input.ndim
    if added < 0 or min(times, default=0) < 0:
        raise RuntimeError(
            f"repeat: {times} must hold a number, not negative, for each of the {input.ndim} axes of {input.shape}"
        )
    lengths = (1,) * added + input.shape
    tiled = expand(
        reshape(input, [m for n in lengths for m in (1, n)]),
        [m for pair in zip(times, lengths, strict=True) for m in pair],
    )
    return reshape(Clone("C")(tiled), [n * count for n, count in zip(lengths, times, strict=True)])


@takes_sequence("dims", after=1)
def flip(input: Tensor, *dims: Any) -> Tensor:
    """Return a copy with the axes ``dims`` in reverse.

    Raises
    ------
    RuntimeError
        If an axis is named twice.
    IndexError
        If an axis is out of range.
    """
    axes = normalized_axes("flip", named, input.ndim) if (named := as_sequence(dims)) else ()
    return Flip(axes)(input)


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """Return a read-only view stretched to the shape of ``other``."""
    return expand(input, other.shape)


def clone(input: Tensor) -> Tensor:
    """Return a copy in the same memory layout; the gradient passes through."""
    return Clone("K")(input)


def contiguous(input: Tensor) -> Tensor:
    """Return the elements in row-major memory: ``input`` itself if they lie so already.

    No operation needs it: each takes any layout.
    """
    if not is_contiguous(input):
        return Clone("C")(input)
    if input.array.flags.c_contiguous:
        return input
    result = Clone("C")(input)
    note_copy(input, result)
    return result


def is_contiguous(input: Tensor) -> bool:
    """Tell whether the elements lie in row-major order; activations, which lie channels-last, pass for it."""
    if input._view is None:
        return input.array.flags.c_contiguous or memory_axes(input.array) == (0, *range(2, input.ndim), 1)
    expected = zip(input.shape, strides_of(input), row_major(input.shape), strict=True)
    return not input.numel() or all(step == wanted for length, step, wanted in expected if length > 1)


@takes_axis
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return the Tensors joined along an existing axis; dtypes are promoted.

    Raises
    ------
    ValueError
        If there are none.
    RuntimeError
        If one is 0-dimensional, or shapes differ along another axis.
    IndexError
        If ``dim`` is out of range.
    """
    tensors = _tensors("cat", tensors)
    if any(not tensor.ndim for tensor in tensors):
        raise RuntimeError("cat joins along an existing axis, and a 0-dimensional Tensor has none: use stack")
    dtype = result_type(*tensors)
    first = next((tensor for tensor in tensors if tensor.shape != (0,)), tensors[0])
    axis = normalized_axis("cat", dim, first.ndim)
    nothing = (*first.shape[:axis], 0, *first.shape[axis + 1 :])
    tensors = [reshape(tensor, nothing) if tensor.shape == (0,) else tensor for tensor in tensors]  # joins anything
    for tensor in tensors:
        others = [(*shape[:axis], *shape[axis + 1 :]) for shape in (first.shape, tensor.shape)]
        if tensor.ndim != first.ndim or others[0] != others[1]:
            raise RuntimeError(f"cat: shapes {first.shape} and {tensor.shape} may differ only along dim {dim}")
    return Cat(axis)(*(cast(tensor, dtype) for tensor in tensors))


concat = cat


@takes_axis
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return Tensors of equal shape joined along a new axis.

    Raises
    ------
    ValueError
        If there are none.
    RuntimeError
        If the shapes differ.
    IndexError
        If ``dim`` is out of range.
    """
    tensors = _tensors("stack", tensors)
    for tensor in tensors:
        if tensor.shape != tensors[0].shape:
            raise RuntimeError(f"stack needs equal shapes, got {tensors[0].shape} and {tensor.shape}")
    axis = normalized_axis("stack", dim, tensors[0].ndim + 1)
    return cat([unsqueeze(tensor, axis) for tensor in tensors], axis)


def _tensors(name: str, tensors: Any) -> list[Tensor]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, (list, tuple)):
        raise TypeError(f"{name} needs a list or tuple of Tensors, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError(f"{name} needs at least one Tensor")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} joins Tensors, got {type(tensor).__name__}")
    return list(tensors)


@takes_names(tensor="input", split_size="split_size_or_sections", axis="dim")
def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of a given length along ``dim`` (the last may be shorter), or of each length in a list.

    Raises
    ------
    RuntimeError
        If a length is negative, or the lengths do not sum to that of the axis.
    IndexError
        If ``dim`` is out of range.
    """
    axis = normalized_axis("split", dim, input.ndim)
    total = input.shape[axis]
    if isinstance(split_size_or_sections, (list, tuple)):
        lengths = tuple(operator.index(length) for length in split_size_or_sections)
    else:
        size = operator.index(split_size_or_sections)
        if size < 0 or (size == 0 and total):
            raise RuntimeError(f"split: the length of a part must be positive, got {size}")
        lengths = tuple(min(size, total - start) for start in range(0, total, size or 1)) or (total,)
    if sum(lengths) != total or min(lengths, default=0) < 0:
        raise RuntimeError(f"split: lengths {lengths} must not be negative and must sum to the {total} of dim {dim}")
    return Split(axis, lengths)(input)


@takes_axis
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return at most ``chunks`` views of equal length along ``dim``; the last may be shorter.

    Raises
    ------
    RuntimeError
        If ``chunks`` is not positive.
    IndexError
        If ``dim`` is out of range.
    """
    if chunks < 1:
        raise RuntimeError(f"chunk: the number of chunks must be positive, got {chunks}")
    total = input.shape[normalized_axis("chunk", dim, input.ndim)]
    return split(input, -(-total // chunks) if total else [0] * chunks, dim)


@takes_axis
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the slices along ``dim``, without that axis.

    Raises
    ------
    IndexError
        If ``dim`` is out of range.
    """
    axis = normalized_axis("unbind", dim, input.ndim)
    if not input.shape[axis]:
        return ()
    return tuple(squeeze(part, axis) for part in split(input, 1, axis))


@takes_axis
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """Return a view of ``length`` elements along ``dim``, from ``start`` on.

    Raises
    ------
    RuntimeError
        If they do not lie within the axis.
    IndexError
        If ``dim`` or ``start`` is out of range.
    """
    axis = normalized_axis("narrow", dim, input.ndim)
    total = input.shape[axis]
    if not -total <= start <= total:
        raise IndexError(f"narrow: start {start} is out of range for dim {dim} of length {total}")
    start += total if start < 0 else 0
    if length < 0 or start + length > total:
        raise RuntimeError(f"narrow: {length} elements from {start} on do not lie within dim {dim} of length {total}")
    return input[(*[slice(None)] * axis, slice(start, start + length))]
