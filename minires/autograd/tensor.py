"""Tensor: an array that remembers how it was made.

Only what the engine itself needs lives here: the array, the graph, gradients, hooks, conversion. Operators and the
methods that compute (`x + y`, `x.sum()`, ...) are installed by `minires.ops`, one floor up.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd.hooks import Hooks, RemovableHandle
from minires.autograd.modes import state
from minires.device import Array, Device, device_of, is_cuda_array, owns_memory, to_device
from minires.dtypes import PLAIN_DTYPES, checked_dtype, is_floating

if TYPE_CHECKING:  # the installed methods, for type checkers and editors only
    from minires.autograd.views import View
    from minires.ops.tensor_methods import TensorMethods as _Methods
else:
    _Methods = object


class Version:
    """The number of changes in place of an array's memory; shared by all Tensors that see that memory.

    ``copies`` are the versions of memory that in PyTorch would be the same: see `minires.autograd.views.note_copy`.
    """

    number = 0
    copies: list[weakref.ref[Version]] | None = None


def _checked_array(array: Any) -> Array:
    """Return an array that a Tensor can wrap: of numbers, and not of a subclass such as matrix or masked array."""
    if not is_cuda_array(array):
        if not isinstance(array, (np.ndarray, np.generic)):  # the latter is NumPy's 0-dimensional result
            raise TypeError(
                f"Tensor wraps a NumPy or CuPy array, got {type(array).__name__}: use minires.tensor(...) for others"
            )
        array = np.asarray(array)
    checked_dtype(array.dtype)
    return array


class Tensor(_Methods):
    """An n-dimensional array with a gradient.

    ``Tensor(array)`` wraps a NumPy or CuPy array without copying it; `minires.tensor` makes one from numbers. It raises
    TypeError for anything else, and for arrays of complex or other than real numbers.

    Attributes
    ----------
    array : the NumPy or CuPy array. Changing it directly goes unnoticed by the graph: use the in-place methods.
    grad_fn : the Function that made it, or None for a leaf.
    """

    __array_ufunc__ = None  # numpy_array + tensor asks the Tensor first

    array: Array
    output_index = 0  # which output of grad_fn, once that has been asked for
    _grad_fn: Any = None
    _view: View | None = None  # what it is a view of
    _stands_for: weakref.ref[Tensor] | None = None  # the Tensor that becomes this one, or was it, by a change in place
    _version: Version
    _requires_grad = False
    _grad: Tensor | None = None
    _retains_grad = False
    _hooks: Hooks | None = None
    _accumulate_hooks: Hooks | None = None

    def __init__(self, array: Array, requires_grad: bool = False):
        if type(array) is not np.ndarray or array.dtype not in PLAIN_DTYPES:
            array = _checked_array(array)
        self.array = array
        self._version = Version()
        if requires_grad:
            self.requires_grad = True

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The length along each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of the elements."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def device(self) -> Device:
        """Where the array lies."""
        return device_of(self.array)

    @property
    def is_cuda(self) -> bool:
        """Whether the array lies on a GPU."""
        return is_cuda_array(self.array)

    def dim(self) -> int:
        """Return the number of axes."""
        return self.array.ndim

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the length along one axis."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Return the number of elements."""
        return self.array.size

    def is_floating_point(self) -> bool:
        """Tell whether the elements are floating-point numbers: only such a Tensor can have a gradient."""
        return is_floating(self.array.dtype)

    # The graph

    @property
    def grad_fn(self) -> Any:
        """The Function that made it, or None for a leaf."""
        if self._view is not None:
            self._view.follow(self)
        return self._grad_fn

    def set_grad_fn(self, function: Any, output_index: int) -> None:
        """Make the Tensor an output of ``function``; if its gradient is retained, that moves along."""
        if self._retains_grad:
            self._grad_fn.retaining.pop(self.output_index, None)
            function.retaining[output_index] = weakref.ref(self)
        self._requires_grad = True
        self._grad_fn, self.output_index = function, output_index

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it: gradients accumulate in leaves."""
        return self.grad_fn is None

    @property
    def requires_grad(self) -> bool:
        """Whether operations on it are recorded."""
        return self._requires_grad or (self._view is not None and self._view.is_behind(self))

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and not self.is_floating_point():
            raise RuntimeError(
                f"only floating-point Tensors can require gradients, this one is {self.dtype}: convert it with .float()"
            )
        if not self.is_leaf and not value:
            raise RuntimeError(
                "requires_grad can be changed on leaf Tensors only; detach() gives one that needs no gradient"
            )
        self._requires_grad = bool(value)

    @property
    def grad(self) -> Tensor | None:
        """The gradient accumulated so far; None until a backward pass reaches this leaf. May be set."""
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"grad must be a Tensor or None, got {type(value).__name__}")
            if (value.shape, value.dtype, value.device) != (self.shape, self.dtype, self.device):
                raise RuntimeError(
                    f"a grad of shape {value.shape}, {value.dtype} on {value.device} does not fit a Tensor of shape "
                    f"{self.shape}, {self.dtype} on {self.device}"
                )
        self._grad = value

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` in place and return the Tensor itself."""
        self.requires_grad = requires_grad
        return self

    def detach(self) -> Tensor:
        """Return a Tensor with the same memory and no graph. In-place changes of either are noticed by both."""
        result = Tensor(self.array)
        result._version = self._version
        return result

    @property
    def data(self) -> Tensor:
        """The same memory without a graph, as `detach` gives it. Assigning takes over the memory of another Tensor.

        Unlike in PyTorch, the graph notices both: an in-place change through ``data``, and its replacement between the
        forward and the backward pass, raise an error in a backward pass that needs the old values.
        """
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        if not isinstance(other, Tensor):
            raise TypeError(f"data must be a Tensor, got {type(other).__name__}")
        if self._requires_grad and not other.is_floating_point():
            raise RuntimeError(f"data of a Tensor that requires a gradient must be floating-point, got {other.dtype}")
        self._version.number += 1  # for whoever saved the old memory
        self.array, self._version, self._view = other.array, other._version, None

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Compute the gradients of the graph's leaves and add them to their ``grad``.

        Parameters
        ----------
        gradient : Tensor of this shape, the gradient of some scalar with respect to this Tensor; may be left out for
            a Tensor of one element.
        retain_graph : keep what the graph saved, for another backward; defaults to ``create_graph``.
        create_graph : record the backward pass itself, for second derivatives.
        inputs : accumulate into these leaves only.

        Raises
        ------
        RuntimeError
            If the Tensor requires no gradient, has more than one element and no ``gradient``, or its graph was freed.
        """
        from minires.autograd.engine import backward  # the engine is built on Tensors

        backward(self, gradient, retain_graph, create_graph, inputs)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook(grad)`` whenever the gradient of this Tensor is computed; it may return another gradient to use.

        Raises
        ------
        RuntimeError
            If the Tensor does not require a gradient.
        """
        self._check_hookable()
        if self.is_leaf:
            self._hooks = Hooks() if self._hooks is None else self._hooks
            return self._hooks.add(hook)
        return self.grad_fn.output_hooks_at(self.output_index).add(hook)  # found there after this Tensor is gone

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``hook(tensor)`` after a gradient was added to this leaf's ``grad``.

        Raises
        ------
        RuntimeError
            If the Tensor is not a leaf or does not require a gradient.
        """
        self._check_hookable()
        if not self.is_leaf:
            raise RuntimeError("post-accumulate-grad hooks belong on leaf Tensors; use register_hook on this one")
        self._accumulate_hooks = Hooks() if self._accumulate_hooks is None else self._accumulate_hooks
        return self._accumulate_hooks.add(hook)

    def _check_hookable(self) -> None:
        if not self.requires_grad:
            raise RuntimeError("a hook needs a Tensor that requires a gradient: call requires_grad_() first")

    def retain_grad(self) -> None:
        """Keep the gradient of this non-leaf Tensor in its ``grad`` too.

        Raises
        ------
        RuntimeError
            If the Tensor does not require a gradient.
        """
        self._check_hookable()
        if self.is_leaf or self._retains_grad:
            return
        self.grad_fn.retaining[self.output_index] = weakref.ref(self)  # the node must not keep its output alive
        self._retains_grad = True

    @property
    def retains_grad(self) -> bool:
        """Whether this is a non-leaf Tensor that keeps its gradient."""
        return self._retains_grad

    def writable_array(self) -> Array:
        """Return the array for a change in place outside the graph, which is counted so that backward can notice it.

        Raises
        ------
        RuntimeError
            If the Tensor requires a gradient and a graph is being recorded, or if its memory is read-only or shared by
            several of its elements.
        """
        if self.requires_grad and state.grad_enabled:
            raise RuntimeError(
                "the memory of a Tensor that requires a gradient was to be changed outside the graph: do it under "
                "minires.no_grad()"
            )
        self.check_writable()
        self._version.number += 1
        return self.array

    def check_writable(self) -> None:
        """Raise RuntimeError if the memory is read-only or shared by several elements of this Tensor."""
        array = self.array
        repeats = array.size and any(n > 1 and step == 0 for n, step in zip(array.shape, array.strides, strict=True))
        if repeats or not getattr(array.flags, "writeable", True):  # CuPy arrays have no such flag
            raise RuntimeError(
                f"this Tensor of shape {self.shape} is expanded or read-only and cannot be changed in place: "
                "clone() it first"
            )

    def is_alone(self) -> bool:
        """Tell whether nothing but this Tensor refers to its memory, neither a view nor a value saved for backward.

        In doubt something does.
        """
        # 2: the attribute and the argument of getrefcount. A name for the array would be one more.
        return getrefcount(self.array) <= 2 and owns_memory(self.array)

    # Out of it

    def _read(self) -> Array:
        """Return the array for use by others than operations; who watches for that is told."""
        if state.on_read is not None:
            state.on_read()
        return self.array

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Return the array as NumPy, sharing memory; with ``force``, a copy where it lies on a GPU.

        Raises
        ------
        RuntimeError
            If the Tensor requires a gradient, unless ``force``.
        TypeError
            If it lies on a GPU, unless ``force``.
        """
        if force:
            return to_device(self._read(), "cpu")
        if self.requires_grad:
            raise RuntimeError(
                "numpy() would lose the graph of a Tensor that requires a gradient: use .detach().numpy()"
            )
        if self.is_cuda:
            raise TypeError(f"numpy() needs a Tensor on the CPU, this one is on {self.device}: use .cpu().numpy()")
        return self._read()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> Any:
        """Return the only element as a Python number.

        Raises
        ------
        RuntimeError
            If there is not exactly one element.
        """
        if self.array.size != 1:
            raise RuntimeError(
                f"item() needs exactly one element, this Tensor has {self.array.size} (shape {self.shape})"
            )
        return self._read().item()

    def tolist(self) -> Any:
        """Return the elements as nested lists of Python numbers."""
        return self._read().tolist()

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("a 0-dimensional Tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.array.size != 1:
            raise RuntimeError(
                f"the truth value of a Tensor of shape {self.shape} is ambiguous: use .any(), .all() or .item()"
            )
        return bool(self._read().item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only an integer Tensor of one element can be an index, this one is {self.dtype}")
        return int(self.item())

    def __hash__(self) -> int:
        return id(self)  # == compares elements, so identity is all that can be hashed

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else format(str(self), spec)

    def __deepcopy__(self, memo: dict) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("only leaf Tensors can be deep-copied; detach() this one first")
        result = _rebuild(type(self), self.array.copy(order="K"), self._requires_grad)
        memo[id(self)] = result
        if self.grad is not None:
            result.grad = Tensor(self.grad.array.copy(order="K"))
        return result

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickle the array and requires_grad, as PyTorch does: no graph, gradient or hooks.

        Axes go in the order of their strides, because pickle would lose any layout but C's and Fortran's.
        """
        order = sorted(range(self.ndim), key=lambda axis: -abs(self.array.strides[axis]))
        back = tuple(order.index(axis) for axis in range(self.ndim))
        return _unpickle, (type(self), self.array.transpose(order), back, self._requires_grad)

    def __repr__(self) -> str:
        array = self._read()
        numbers = np.array2string(
            np.asarray(array.get() if self.is_cuda else array),
            separator=", ",
            precision=4,
            prefix="tensor(",
        )
        notes = ""
        if self.dtype not in (np.dtype("float32"), np.dtype("int64"), np.dtype("bool")):
            notes += f", dtype={self.dtype}"
        if self.is_cuda:
            notes += f", device={str(self.device)!r}"
        function = self._grad_fn if self._view is not None and self._view.obstacle else self.grad_fn
        if function is not None:
            notes += f", grad_fn={function!r}"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({numbers}{notes})"


def numel(input: Tensor) -> int:
    """Return the number of elements."""
    return input.numel()


def is_tensor(obj: Any) -> bool:
    """Tell whether ``obj`` is a Tensor."""
    return isinstance(obj, Tensor)


def _rebuild(kind: type[Tensor], array: Array, requires_grad: bool) -> Tensor:
    """Make a leaf of a subclass, such as Parameter, without calling its constructor."""
    result = kind.__new__(kind)
    Tensor.__init__(result, array, requires_grad)
    return result


def _unpickle(kind: type[Tensor], dense: Array, axes: tuple[int, ...], requires_grad: bool) -> Tensor:
    return _rebuild(kind, dense.transpose(axes), requires_grad)
