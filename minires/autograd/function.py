"""Function: one operation, applied once, and the node it leaves in the graph.

    y = Exp()(x)        an instance is one application; if x requires a gradient, y.grad_fn is that instance

`forward` sees arrays. `backward` sees Tensors and is written with ops, so that the same text yields second derivatives
when a graph is recorded in the backward pass. Edges lead from a node to the nodes that made its inputs, never to its
outputs: no reference cycles, and a graph is freed when the last name for its result goes.
"""

from __future__ import annotations

import itertools
import time
import weakref
from typing import Any, NamedTuple, NoReturn

import numpy as np

from minires.autograd import anomaly
from minires.autograd.hooks import Hooks
from minires.autograd.modes import state
from minires.autograd.tensor import Tensor, Version
from minires.autograd.views import Strides, strides_of_view, view_of
from minires.device import Array, array_module, is_cuda_array

creation_numbers = itertools.count()
PLAIN = frozenset((int, float, bool, type(None)))


class Edge(NamedTuple):
    """Where the gradient of one input goes: to one output of the Function that made it."""

    function: Function
    output_index: int


class _Saved(NamedTuple):
    """One value kept for backward, with the version its memory had when it was kept."""

    value: Any  # an input that is a leaf itself; else an array, number or None
    kind: str = ""  # "input", "output" or a view of one; "" for numbers, and for memory that only this Function knows
    position: int = 0  # of the input or output
    version: Version | None = None
    version_number: int = 0
    made_by: Edge | None = None  # where an input that is no leaf stood in the graph, which a change in place changes


class _Remakable(NamedTuple):
    """A saved input that stays in memory only while others want it: `Function.remake` computes it again."""

    function: Function  # which made it
    kept: tuple[_Saved, ...]  # by that function, whose own may have been freed since

    @property
    def shape(self) -> tuple[int, ...]:
        return self.function.outputs[0].shape

    def array(self) -> Array:
        array = self.function.made()
        return self.function.remake(*map(self.function._unpack, self.kept)) if array is None else array


class _Output(NamedTuple):
    """What a backward pass must know of an output, which may be gone by then."""

    shape: tuple[int, ...]
    dtype: np.dtype
    has_gradient: bool


class Function:
    """An operation with a hand-written derivative. Subclass it, then call an instance on Tensors.

    ``forward(*arrays)`` gets each input's array (numbers and None pass through) and returns an array or a tuple of
    arrays; integer and boolean outputs carry no gradient. ``backward(*grads)`` gets one Tensor for each output, zeros
    where no gradient arrived (None for outputs that carry none), and returns one Tensor or None for each input.

    Options go to ``__init__``. In both methods ``self.needs_grad[i]`` tells whether input i wants a gradient; backward
    may return None where it does not. ``self.input_shapes[i]`` is the shape of input i (``()`` for a number).

    Values for backward are kept by ``self.save(...)`` in forward and come back as Tensors in ``self.saved``. Inputs and
    outputs of this Function come back connected to the graph; anything else comes back as a constant.

    A subclass that sets ``materialize_grads = False`` gets None in backward where others get zeros. One that returns
    the memory of its input, seen in another way, sets ``makes_views = True``: it is applied again (`anew`) when that
    memory was changed in place.

    An output that is cheaply had from what backward needs anyway need not stay in memory because the next Function
    saves it: where ``can_remake`` is true, ``remake(*saved)`` computes it once more, to the bit, from what `saved` was.

    Examples
    --------
    >>> class Cube(Function):
    ...     def forward(self, x):
    ...         self.save(x)
    ...         return x**3
    ...     def backward(self, dy):
    ...         (x,) = self.saved
    ...         return 3 * x**2 * dy
    >>> x = minires.tensor([2.0], requires_grad=True)
    >>> Cube()(x).backward()
    >>> x.grad.numpy()
    array([12.], dtype=float32)
    """

    materialize_grads = True
    makes_views = False
    can_remake = False
    needs_grad: tuple[bool, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()
    edges: tuple[Edge | Tensor | None, ...] = ()  # a leaf Tensor stands for itself
    outputs: tuple[_Output, ...] = ()
    creation_number: int = -1  # counts applications; -1 before this one's
    output_hooks: dict[int, Hooks]  # by output
    retaining: dict[int, weakref.ref[Tensor]]  # by output: the Tensor whose retain_grad() was called
    made: weakref.ref[Array]  # the output's array, where it can be remade
    watched: tuple[tuple[Version, int], ...] = ()  # of Tensors whose arrays are among its options, with their numbers
    forward_stack: str | None = None  # where it was called, under detect_anomaly
    _kept: tuple = ()
    _saved: tuple[_Saved, ...] | None = ()

    def forward(self, *inputs: Any) -> Any:
        """Compute the output arrays from the input arrays."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *grads: Any) -> Any:
        """Compute the gradients of the inputs, as Tensors, from those of the outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no backward: its gradient is not defined")

    def remake(self, *saved: Any) -> Array:
        """Compute the only output again from what was saved."""
        raise NotImplementedError(f"{type(self).__name__} has no remake")

    @property
    def name(self) -> str:
        """The operation's name for people: the class name."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"<{self.name}Backward>"

    @classmethod
    def apply(cls, *inputs: Any) -> NoReturn:
        """Refuse PyTorch's way of calling a Function, and tell this library's: ``MyFunction(options)(x)``."""
        raise TypeError(
            f"{cls.__name__}.apply: a minires Function is an instance, not a class: call {cls.__name__}()(x), with "
            "options in the first parentheses and Tensors in the second"
        )

    def view_strides(self, shape: tuple[int, ...], strides: Strides, output_index: int) -> Strides:
        """Return the strides, in elements, of the view that it makes of an array with others."""
        return strides_of_view(self, shape, strides, output_index)

    def anew(self) -> Function:
        """Return another instance with the same options, to be applied once more."""
        fresh = object.__new__(type(self))
        vars(fresh).update({name: value for name, value in vars(self).items() if name not in Function.__annotations__})
        return fresh

    def watching(self, *tensors: Any) -> Any:
        """Return the Function itself, having noted of which Tensors (or numbers, or None) its options hold the arrays.

        An index or a condition is no input, for it has no gradient; but backward needs it as it was.
        """
        self.watched = tuple([(t._version, t._version.number) for t in tensors if isinstance(t, Tensor)])
        return self

    def check_watched(self) -> None:
        """Raise RuntimeError if a Tensor that the options hold the array of was changed in place since."""
        if any(version.number != number for version, number in self.watched):
            raise RuntimeError(
                f"{self.name} needs its indices, condition or target for its backward pass, but their memory was "
                "changed in place after the forward pass. Change a copy instead: clone() first."
            )

    def save(self, *values: Array) -> None:
        """Keep arrays (inputs, outputs or intermediates), numbers or None for backward."""
        self._kept = values

    def __call__(self, *inputs: Any) -> Any:
        """Apply the operation to Tensors (or numbers, or None), and record it if a gradient will be wanted."""
        if self.creation_number >= 0:
            raise RuntimeError(f"this {self.name} has been applied already: make a new instance for each application")
        if state.outside is not None:  # inside a checkpointed function
            inputs = state.outside.take(inputs)
        arrays = [
            x.array if isinstance(x, Tensor) else x if type(x) in PLAIN else self._not_an_array(x) for x in inputs
        ]
        self.input_shapes = tuple([getattr(array, "shape", ()) for array in arrays])
        if state.grad_enabled:
            self.needs_grad = tuple(
                [isinstance(x, Tensor) and (x._requires_grad if x._view is None else _follows(x)) for x in inputs]
            )
        else:
            self.needs_grad = (False,) * len(inputs)
        self.creation_number = next(creation_numbers)  # after those of Functions that views among the inputs follow by
        recording = True in self.needs_grad
        observers = state.observers
        begin = time.perf_counter() if observers else 0.0
        with np.errstate(all="ignore"):  # NaN and Inf are values like others, as in PyTorch; anomaly mode finds them
            result = self.forward(*arrays)
        results = result if isinstance(result, tuple) else (result,)
        outputs = tuple([self._output_tensor(index, results, inputs) for index in range(len(results))])
        if recording:
            self._record(inputs, outputs, results)
        self._kept = ()
        if state.anomaly:
            anomaly.check_forward(self, inputs, outputs)
        if observers:
            seconds = time.perf_counter() - begin
            for observer in observers:
                observer.forward(self, inputs, outputs, seconds)
        return outputs if isinstance(result, tuple) else outputs[0]

    def _not_an_array(self, value: Any) -> Any:
        """Return an input that is no Tensor. Operations take no arrays; a Function of a user's may, as in PyTorch."""
        is_operation = type(self).__module__.startswith("minires.ops.")
        if is_operation and hasattr(value, "__array__") and not isinstance(value, np.generic):
            raise TypeError(f"{self.name}: inputs are Tensors, numbers or None, got {described(value)}")
        return value

    def _record(self, inputs: tuple, outputs: tuple[Tensor, ...], results: tuple) -> None:
        self.edges = tuple([edge_to(x) if needs else None for x, needs in zip(inputs, self.needs_grad, strict=True)])
        self.output_hooks, self.retaining = {}, {}
        for index, output in enumerate(outputs):
            if output.is_floating_point():
                output._requires_grad = True
                output._grad_fn, output.output_index = self, index
        self.outputs = tuple([_Output(o.array.shape, o.array.dtype, o._requires_grad) for o in outputs])
        self._saved = tuple([_pack(value, inputs, outputs, results) for value in self._kept])
        if self.can_remake:
            self.made = weakref.ref(outputs[0].array)
        if state.anomaly:
            self.forward_stack = anomaly.calling_stack()

    def _output_tensor(self, index: int, results: tuple, inputs: tuple) -> Tensor:
        """Wrap an output; one that lies in the memory of an input shares its version and is a view of it."""
        output = Tensor(results[index])
        shared = _first_sharing(output.array, inputs)
        if shared is not None:
            source = inputs[shared]
            output._version = source._version
            output._view = view_of(source, self, index, len(results))
        return output

    @property
    def saved(self) -> tuple:
        """What forward saved, as Tensors (numbers and None as they were).

        Raises
        ------
        RuntimeError
            If the graph was freed by an earlier backward pass, or if a saved Tensor was changed in place since.
        """
        if self._saved is None:
            raise RuntimeError(
                f"backward through {self.name} a second time: what it saved was freed by the first pass. "
                "Pass retain_graph=True to the first backward() if you need two."
            )
        return tuple([self._unpack(saved) for saved in self._saved])

    def _unpack(self, saved: _Saved) -> Any:
        value, version = saved.value, saved.version
        if version is None:
            return Tensor(value) if _is_array(value) else value
        if version.number != saved.version_number:
            raise RuntimeError(
                f"{self.name} needs {saved.kind} {saved.position} (shape {value.shape}) for its backward pass, but its "
                f"memory was changed in place after the forward pass (version {version.number}, expected "
                f"{saved.version_number}). Change a copy instead: x = x + y rather than x += y, or clone() first."
            )
        if isinstance(value, _Remakable):
            return output_of(value.function, 0, value.array(), version)
        if isinstance(value, Tensor):
            return value
        if saved.made_by is not None:
            return output_of(*saved.made_by, value, version)
        if saved.kind == "output" and self.outputs[saved.position].has_gradient:
            return output_of(self, saved.position, value, version)
        result = Tensor(value)
        result._version = version
        return result

    def output_hooks_at(self, index: int) -> Hooks:
        """Return the hooks on the gradient of output ``index``."""
        return self.output_hooks.setdefault(index, Hooks())

    def with_zeros(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        """Put zeros for the outputs that no gradient reached (one did); None stays for those that can have none."""
        xp = next(array_module(gradient.array) for gradient in gradients if gradient is not None)
        return [
            Tensor(xp.zeros(output.shape, output.dtype)) if gradient is None and output.has_gradient else gradient
            for gradient, output in zip(gradients, self.outputs, strict=True)
        ]

    def check_gradients(self, gradients: tuple, wanted: tuple[bool, ...]) -> None:
        """Raise RuntimeError unless backward returned one gradient an input, of its shape and dtype, or None."""
        if len(gradients) != len(self.edges):
            raise RuntimeError(f"{self.name}.backward returned {len(gradients)} gradients for {len(self.edges)} inputs")
        for index, (gradient, is_wanted, edge) in enumerate(zip(gradients, wanted, self.edges, strict=True)):
            if gradient is None or edge is None or not is_wanted:
                continue
            if not isinstance(gradient, Tensor):
                raise RuntimeError(
                    f"{self.name}.backward returned {type(gradient).__name__} for input {index}: "
                    "it must be a Tensor or None"
                )
            source = edge.function.outputs[edge.output_index] if isinstance(edge, Edge) else edge
            array = gradient.array
            if array.shape != self.input_shapes[index] or array.dtype != source.dtype:
                raise RuntimeError(
                    f"{self.name}.backward returned a gradient of shape {array.shape} and dtype {array.dtype} "
                    f"for input {index}, of shape {self.input_shapes[index]} and dtype {source.dtype}"
                )

    def store_output_in(self, tensor: Tensor, output: Tensor) -> None:
        """Take what was saved of ``output``, or as a view of it, for saved from ``tensor``, which has become it."""
        version = tensor._version
        self._saved = tuple(
            [
                saved._replace(
                    value=tensor.array if saved.value is output.array else saved.value,
                    version=version,
                    version_number=version.number,
                )
                if saved.version is output._version
                else saved
                for saved in self._saved or ()
            ]
        )

    def release(self) -> None:
        """Free what was saved: the walk calls this as it passes."""
        self._saved = None if self._saved else ()


def described(value: Any) -> str:
    """Return the type of what should be a Tensor, and how to make one of it."""
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"{name}: pass minires.from_numpy(array)"
    if is_cuda_array(value):
        return f"a CuPy {name}: pass minires.Tensor(array)"
    if type(value).__module__.partition(".")[0] == "torch":
        return f"torch.{name}: pass minires.from_numpy(tensor.numpy(force=True))"
    if isinstance(value, (list, tuple, bool, int, float, np.generic)):
        return f"{name}: pass minires.tensor(...) of it"
    return name


def edge_to(tensor: Tensor) -> Edge | Tensor:
    """Return where a gradient of ``tensor`` goes: the Function that made it, or a leaf itself."""
    function = tensor._grad_fn if tensor._view is None else tensor.grad_fn  # a view may have another place since
    return tensor if function is None else Edge(function, tensor.output_index)


def _memory(array: Array) -> Array:
    """Return the array that owns the memory of ``array``: the same one for all views of it."""
    while array.base is not None and _is_array(array.base):
        array = array.base
    return array


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_cuda_array(value)


def _first_sharing(array: Array, tensors: tuple) -> int | None:
    """Return the index of the first Tensor that lies in the same memory as ``array``."""
    memory = _memory(array)
    for index, tensor in enumerate(tensors):
        if isinstance(tensor, Tensor) and _memory(tensor.array) is memory:
            return index
    return None


def _follows(view: Tensor) -> bool:
    """Let a view take its present place in the graph; tell whether it needs a gradient there."""
    assert view._view is not None
    view._view.follow(view)
    return view._requires_grad


def output_of(function: Function, index: int, array: Array, version: Version) -> Tensor:
    """Wrap the array of an output once more, connected to the graph."""
    output = Tensor(array)
    output._version = version
    output.set_grad_fn(function, index)
    return output


def _is_remakable(tensor: Tensor) -> bool:
    """Tell whether what a Tensor holds is still what its Function made, and can be made again."""
    function = tensor._grad_fn
    if function is None or not function.can_remake or not function._saved:
        return False
    return function.made() is tensor.array and tensor._version.number == 0


def _pack(value: Any, inputs: tuple, outputs: tuple[Tensor, ...], results: tuple) -> _Saved:
    for index, tensor in enumerate(inputs):
        if isinstance(tensor, Tensor) and value is tensor.array:
            version, function = tensor._version, tensor._grad_fn
            if function is None:
                return _Saved(tensor, "input", index, version, version.number)
            if _is_remakable(tensor):
                return _Saved(_Remakable(function, function._saved), "input", index, version, version.number)
            return _Saved(value, "input", index, version, version.number, Edge(function, tensor.output_index))
    for index, (tensor, result) in enumerate(zip(outputs, results, strict=True)):
        if value is result:  # only the array is kept: holding the Tensor would close a reference cycle
            return _Saved(tensor.array, "output", index, tensor._version, tensor._version.number)
    if isinstance(value, np.generic):  # what NumPy makes of a 0-dimensional intermediate
        value = np.asarray(value)
    if not _is_array(value):
        return _Saved(value)
    for kind, tensors in (("a view of input", inputs), ("a view of output", outputs)):
        shared = _first_sharing(value, tensors)
        if shared is not None:  # such as the channels-last view of an input
            version = tensors[shared]._version
            return _Saved(value, kind, shared, version, version.number)
    return _Saved(value)
