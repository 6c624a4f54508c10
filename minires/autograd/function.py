"""Function: one operation, applied once, and the node it leaves in the graph.

    y = Exp()(x)        an instance is one application; if x requires a gradient, y.grad_fn is that instance

`forward` sees arrays. `backward` sees Tensors and is written with ops, so that the same text yields second derivatives
when a graph is recorded in the backward pass. Edges lead from a node to the nodes that made its inputs, never to its
outputs: no reference cycles, and a graph is freed when the last name for its result goes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minires.autograd import anomaly
from minires.autograd.hooks import Hooks
from minires.autograd.modes import state
from minires.autograd.tensor import Tensor, Version
from minires.device import Array, array_module, is_cuda_array

_creation_numbers = itertools.count()


class Edge(NamedTuple):
    """Where the gradient of one input goes: to output ``index`` of the Function that made it."""

    function: Function
    index: int


class _Saved(NamedTuple):
    """One value kept for backward, with the version its memory had when it was kept."""

    value: Any  # the input Tensor itself; else an array, number or None
    output_index: int | None  # which output of this Function it is, if it is one
    version: Version | None
    version_number: int
    name: str


class Function:
    """An operation with a hand-written derivative. Subclass it, then call an instance on Tensors.

    ``forward(*arrays)`` gets each input's array (numbers and None pass through) and returns an array or a tuple of
    arrays; integer and boolean outputs carry no gradient. ``backward(*grads)`` gets one Tensor for each output, zeros where no
    gradient arrived (None for outputs that carry none), and returns one Tensor or None for each input.

    Options go to ``__init__``. In both methods ``self.needs_grad[i]`` tells whether input i wants a gradient; backward
    may return None where it does not. ``self.input_shapes[i]`` is the shape of input i (``()`` for a number).

    Values for backward are kept by ``self.save(...)`` in forward and come back as Tensors in ``self.saved``. Inputs and
    outputs of this Function come back connected to the graph; anything else comes back as a constant.

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

    needs_grad: tuple[bool, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()
    edges: tuple[Edge | Tensor | None, ...] = ()  # a leaf Tensor stands for itself
    creation_number = -1
    _kept: tuple | None = None
    _saved: tuple[_Saved, ...] | None = ()
    _input_dtypes: tuple
    _outputs: tuple[tuple, ...]  # (shape, dtype, array module, carries a gradient) of each output
    output_hooks: dict[int, Hooks]
    retain_hooks: dict[int, Callable]
    forward_stack: str | None = None

    def forward(self, *inputs: Any) -> Any:
        """Compute the output arrays from the input arrays."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *grads: Any) -> Any:
        """Compute the gradients of the inputs, as Tensors, from those of the outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no backward: its gradient is not defined")

    @property
    def name(self) -> str:
        """The operation's name for people: the class name."""
        return type(self).__name__

    @property
    def next_functions(self) -> tuple:
        """Where each input came from: an Edge, the leaf Tensor itself, or None."""
        return self.edges

    def __repr__(self) -> str:
        return f"<{self.name}Backward>"

    def save(self, *values: Array) -> None:
        """Keep arrays (inputs, outputs or intermediates), numbers or None for backward."""
        self._kept = values

    def __call__(self, *inputs: Any) -> Any:
        """Apply the operation to Tensors (or numbers, or None), and record it if a gradient will be wanted."""
        if self.creation_number >= 0:
            raise RuntimeError(f"this {self.name} has been applied already: make a new instance for each application")
        arrays = [x.array if isinstance(x, Tensor) else x for x in inputs]
        self.needs_grad = tuple(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        recording = state.grad_enabled and True in self.needs_grad
        if not recording:
            self.needs_grad = (False,) * len(inputs)
        self.input_shapes = tuple(getattr(a, "shape", ()) for a in arrays)
        begin = time.perf_counter() if state.observers else 0.0
        result = self.forward(*arrays)
        results = result if isinstance(result, tuple) else (result,)
        outputs = tuple(self._wrap(array, inputs, arrays) for array in results)
        if recording:
            self._record(inputs, arrays, outputs)
        self._kept = None
        if state.anomaly:
            anomaly.check_forward(self, inputs, outputs)
        if state.observers:
            seconds = time.perf_counter() - begin
            for observer in state.observers:
                observer.forward(self, inputs, outputs, seconds)
        return outputs if isinstance(result, tuple) else outputs[0]

    @staticmethod
    def _wrap(array: Array, inputs: tuple, arrays: list) -> Tensor:
        """Make the output Tensor; one that shares memory with an input also shares its version."""
        output = Tensor(array)
        memory = output.array if output.array.base is None else output.array.base
        for tensor, source in zip(inputs, arrays, strict=True):
            if isinstance(tensor, Tensor) and memory is (source if source.base is None else source.base):
                output._version = tensor._version
                break
        return output

    def _record(self, inputs: tuple, arrays: list, outputs: tuple[Tensor, ...]) -> None:
        self.creation_number = next(_creation_numbers)
        self.edges = tuple(edge_to(x) if needs else None for x, needs in zip(inputs, self.needs_grad, strict=True))
        self.output_hooks, self.retain_hooks = {}, {}
        self._input_dtypes = tuple(getattr(a, "dtype", None) for a in arrays)
        for index, output in enumerate(outputs):
            if output.is_floating_point():
                output._requires_grad = True
                output.grad_fn, output.output_index = self, index
        self._outputs = tuple((o.shape, o.dtype, array_module(o.array), o._requires_grad) for o in outputs)
        self._saved = tuple(self._pack(value, inputs, arrays, outputs) for value in self._kept or ())
        if state.anomaly:
            self.forward_stack = anomaly.calling_stack()

    @staticmethod
    def _pack(value: Any, inputs: tuple, arrays: list, outputs: tuple[Tensor, ...]) -> _Saved:
        for i, (tensor, array) in enumerate(zip(inputs, arrays, strict=True)):
            if isinstance(tensor, Tensor) and value is array:
                return _Saved(tensor, None, tensor._version, tensor._version.number, f"input {i}")
        for i, output in enumerate(outputs):
            if value is output.array:  # only the array: holding the Tensor would close a reference cycle
                return _Saved(value, i, output._version, output._version.number, f"output {i}")
        return _Saved(value, None, None, 0, "an intermediate value")

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
        return tuple(self._unpack(saved) for saved in self._saved)

    def _unpack(self, saved: _Saved) -> Any:
        if saved.version is not None and saved.version.number != saved.version_number:
            shape = tuple(saved.value.shape)
            raise RuntimeError(
                f"{self.name} needs {saved.name} (shape {shape}) for its backward pass, but it was changed in place "
                f"after the forward pass (version {saved.version.number}, expected {saved.version_number}). "
                "Change a copy instead: x = x + y rather than x += y, or clone() first."
            )
        if saved.output_index is not None:
            output = Tensor(saved.value)
            output._requires_grad = self._outputs[saved.output_index][3]
            output.grad_fn, output.output_index, output._version = self, saved.output_index, saved.version
            return output
        if isinstance(saved.value, np.ndarray) or is_cuda_array(saved.value):
            return Tensor(saved.value)
        return saved.value

    def output_hooks_at(self, index: int) -> Hooks:
        """Return the hooks on the gradient of output ``index``."""
        return self.output_hooks.setdefault(index, Hooks())

    def gradients_or_zeros(self, gradients: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
        """Return one gradient for each output: zeros where none arrived, None for an output that carries none."""
        return tuple(
            gradients[index] if index in gradients else Tensor(xp.zeros(shape, dtype)) if differentiable else None
            for index, (shape, dtype, xp, differentiable) in enumerate(self._outputs)
        )

    def checked_gradients(self, gradients: tuple, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        """Check what backward returned against the inputs: as many, of their shapes, in their dtypes."""
        if len(gradients) != len(self.edges):
            raise RuntimeError(f"{self.name}.backward returned {len(gradients)} gradients for {len(self.edges)} inputs")
        for index, (gradient, is_wanted) in enumerate(zip(gradients, wanted, strict=True)):
            if gradient is None or not is_wanted:
                continue
            if not isinstance(gradient, Tensor):
                raise RuntimeError(
                    f"{self.name}.backward returned {type(gradient).__name__} for input {index}: "
                    "it must be a Tensor or None"
                )
            if gradient.shape != self.input_shapes[index] or gradient.dtype != self._input_dtypes[index]:
                raise RuntimeError(
                    f"{self.name}.backward returned a gradient of shape {gradient.shape} and dtype {gradient.dtype} "
                    f"for input {index}, which has shape {self.input_shapes[index]} and dtype {self._input_dtypes[index]}"
                )
        return gradients

    def release(self) -> None:
        """Free what was saved: the walk calls this as it passes."""
        self._saved = None if self._saved else ()


def edge_to(tensor: Tensor) -> Edge | Tensor:
    """Return where a gradient of ``tensor`` goes: the Function that made it, or a leaf itself."""
    return tensor if tensor.grad_fn is None else Edge(tensor.grad_fn, tensor.output_index)
