"""Recording a forward pass of inference as a program of kernels, where nothing else can have had a part in it.

A recording computes from another input what the model would, if each operation takes only what is known to be the same
or to be recorded itself: the input, results of recorded operations, parameters and buffers, and numbers. What comes
from anywhere else (a comparison, argmax, an index, numbers read by Python, a change in place) was computed from this
input alone. `record` then says so, and there is no recording.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minires.autograd import Function, Tensor
from minires.autograd.modes import observe, state, watching_reads
from minires.autograd.tensor import Version
from minires.device import Array
from minires.dtypes import float32, float64
from minires.nn import Module
from minires.ops.activation import ReLU
from minires.ops.batch_norm import BatchNorm
from minires.ops.broadcast import Expand
from minires.ops.conv2d_add_relu import Conv2dAddRelu
from minires.ops.indexing import GetItem
from minires.ops.interpolate import Resample
from minires.ops.max_pool2d import MaxPool2d
from minires.ops.shape import Permute, Reshape, Split

if TYPE_CHECKING:  # Numba takes longer to import than all of minires
    from minires.kernels.cpu.program import Program

RECORDED_DTYPES = float32, float64  # kernels compute others in float32, converted there and back

# Functions that do all their work by launching kernels, if the inputs named here, by position, lie in memory in one of
# these orders (see `memory_order`): from others they are copied first. All other inputs must be constants, for copies
# of them are kept.
_LAUNCHED: dict[type[Function], dict[int, tuple[str, ...]]] = {
    Conv2dAddRelu: {0: ("C", "channels last"), 3: ("channels last",)},
    MaxPool2d: {0: ("channels last",)},
    ReLU: {0: ("channels last",)},
}
# Functions whose options hold arrays that depend on constants and shapes alone.
_KNOWN_OPTIONS = *_LAUNCHED, Resample
# Functions with nothing to do where their outputs lie in the memory of their input.
_VIEWING = Reshape, Permute, Expand, GetItem, Split


def memory_order(x: Array) -> str:
    """Return in which order an array lies in memory: "C", "channels last" of four axes, or "other"."""
    if x.ndim == 4 and x.transpose(0, 2, 3, 1).flags.c_contiguous:
        return "channels last"
    return "C" if x.flags.c_contiguous else "other"


class Recording:
    """A forward pass to run again.

    Attributes
    ----------
    is_tried : whether it has given the model's output for another input than the one it was recorded with.
    """

    def __init__(self, program: Program, input: Array, output: Array):
        self._program = program
        self._input = input
        self._output = output
        self._has_first_input = True
        self.is_tried = False

    def is_first_input(self, array: Array) -> bool:
        """Tell whether an input is the one it was recorded with, if it has not been tried on another since."""
        return self._has_first_input and np.array_equal(self._input, array)

    def agrees(self, array: Array, expected: Any) -> bool:
        """Try the recording on an input, with the model's output for it."""
        self._has_first_input = False
        output = self.output_for(array)
        self.is_tried = isinstance(expected, Tensor) and np.array_equal(output, expected.array, equal_nan=True)
        self._program.give_back_idle()  # what the model has computed in
        return self.is_tried

    def output_for(self, array: Array) -> Array:
        """Return the output for an input, an array of its own."""
        self._input[...] = array
        self._program.run()
        return self._output.copy(order="K")


def record(model: Module, input: Tensor, constants: Iterable[Array]) -> tuple[Any, Recording | None, str]:
    """Run a model on an input, under `no_grad`; return its output and a recording, or None and why there is none.

    ``constants`` are the arrays that will be the same whenever the recording is run: of parameters and buffers.
    """
    from minires.kernels.cpu.program import Program

    program = Program()
    array = program.placed(input.array)
    view = array.view()
    stand_in = Tensor(view)
    version, seen = stand_in._version, weakref.ref(view)
    recorder = _Recorder(program, constants)
    recorder.know(stand_in)
    with program.recording(), observe(recorder), watching_reads(recorder.on_read):
        output = model(stand_in)
    if stand_in.array is not view:
        input.data = Tensor(stand_in.array.copy(order="K"))
        recorder.refuse("it gives its input other data")
    elif version.number:
        input.writable_array()[...] = array
        recorder.refuse("it changes its input in place")
    if isinstance(output, Tensor):
        recorder.check_output(output)
    else:
        recorder.refuse(f"its output is no Tensor, but {type(output).__name__}")
    if recorder.reason:
        return (Tensor(array.copy(order="K")) if output is stand_in else output), None, recorder.reason
    result = program.borrowed(output.array)  # from here on the pool lends nothing: its memory stays the output's
    del stand_in, view, output
    recorder.check_nothing_is_kept(seen)
    output = Tensor(result.copy(order="K"))
    return output, None if recorder.reason else Recording(program, array, result), recorder.reason


class _Known(NamedTuple):
    """An array that a recording will compute anew, and the version that its memory had then."""

    array: weakref.ref[Array]
    version: Version
    number: int


class _Recorder:
    """Puts each operation of a forward pass into a program, or notes why that cannot be.

    Attributes
    ----------
    reason : why there can be no recording; empty if nothing is against it.
    """

    def __init__(self, program: Program, constants: Iterable[Array]):
        self.program = program
        self.constants = {id(array): array for array in constants}
        self.known: dict[int, _Known] = {}
        self.reason = ""

    def refuse(self, reason: str) -> None:
        """Note a reason, the first of several."""
        self.reason = self.reason or reason

    def know(self, tensor: Tensor) -> None:
        """Take the numbers of a Tensor for such as will be computed anew."""
        version = tensor._version
        self.known[id(tensor.array)] = _Known(weakref.ref(tensor.array), version, version.number)

    def on_read(self) -> None:
        """Refuse what Python does with numbers."""
        self.refuse("it hands numbers of a Tensor to Python (by an if, item, numpy, tolist or float)")

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """Refuse gradients."""
        self.refuse("it computes gradients")

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        """Put a function that has been applied into the program."""
        if not self.reason:
            self.reason = self._reason_against(function, inputs, outputs)
        if self.reason:
            return
        arrays = [x.array if isinstance(x, Tensor) else x for x in inputs]
        if self._is_launched(function, arrays):
            self.program.take_launches()
        elif not isinstance(function, _VIEWING) or not all(np.may_share_memory(y.array, arrays[0]) for y in outputs):
            for output in outputs:  # what NumPy has made room for, too, is to lie where it will lie again
                output.array = self.program.placed(output.array)
            borrowed = [self.program.borrowed(x) if isinstance(x, np.ndarray) else x for x in arrays]
            places = [self.program.borrowed(output.array) for output in outputs]
            self.program.take_call(partial(_call, function, borrowed, places))
        for output in outputs:
            self.know(output)

    def check_output(self, output: Tensor) -> None:
        """Refuse an output that no recorded operation has made."""
        self.refuse(self._reason_against_operand("its output", output))

    def check_nothing_is_kept(self, input: weakref.ref[Array]) -> None:
        """Refuse a model that has kept a Tensor of this pass: it would change whenever the recording is run."""
        references = [input, *(known.array for known in self.known.values())]
        if self._are_kept(references):
            gc.collect()  # what is alive in a reference cycle only, nobody has kept
            if self._are_kept(references):
                self.refuse("it keeps its input or a result")

    def _are_kept(self, references: list[weakref.ref[Array]]) -> bool:
        """Tell whether any array is alive that a recording would change."""
        arrays = (reference() for reference in references)
        return any(array is not None and self.program.holds(array) for array in arrays)

    def _reason_against(self, function: Function, inputs: tuple, outputs: tuple) -> str:
        for x in inputs:
            if isinstance(x, Tensor):
                reason = self._reason_against_operand(f"an operand of {function.name}", x)
                if reason:
                    return reason
            elif isinstance(x, np.ndarray):
                return f"{function.name} takes a bare array"
        if any(not isinstance(y.array, np.ndarray) for y in outputs):
            return f"{function.name} does not compute on the CPU"
        if state.grad_enabled:
            return f"{function.name} is applied for gradients to be recorded"
        if isinstance(function, BatchNorm):  # computes its arrays anew, from these
            reasons = (self._reason_against_operand(f"a statistic of {function.name}", x) for x in function.copied)
            return next(filter(None, reasons), "")
        if type(function) not in _KNOWN_OPTIONS and self._has_unknown_arrays(list(vars(function).values())):
            return f"{function.name} looks at an array beside its operands (an index, a condition or random numbers)"
        return ""

    def _reason_against_operand(self, name: str, tensor: Tensor) -> str:
        array = tensor.array
        if id(array) in self.constants:
            return ""
        known = self.known.get(id(array))
        if known is None or known.array() is not array:
            return (
                f"{name}, of shape {tensor.shape}, was made neither by an operation that can be recorded nor is it a "
                "parameter or buffer (comparisons, argmax, sorting and new Tensors are not recorded)"
            )
        return "" if known.version.number == known.number else f"{name}, of shape {tensor.shape}, is changed in place"

    def _has_unknown_arrays(self, value: Any) -> bool:
        """Tell whether a value, or one within a value, is an array and no constant."""
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (tuple, list)):
            return any(self._has_unknown_arrays(each) for each in value)
        if isinstance(value, Tensor):
            value = value.array
        return isinstance(value, np.ndarray) and id(value) not in self.constants

    def _is_launched(self, function: Function, arrays: list) -> bool:
        """Tell whether the launches that wait are all that a function does."""
        orders = _LAUNCHED.get(type(function))
        if orders is None or not self.program.has_launches:
            return False
        for index, array in enumerate(arrays):
            if array is None:
                continue
            if array.dtype not in RECORDED_DTYPES:
                return False
            if index in orders and memory_order(array) not in orders[index]:
                return False
            if index not in orders and id(array) not in self.constants:
                return False
        return True


def _call(function: Function, arrays: list, places: list[Array]) -> None:
    """Compute a function's outputs once more."""
    with np.errstate(all="ignore"):
        result = function.forward(*arrays)
    function._kept = ()
    for place, array in zip(places, result if isinstance(result, tuple) else (result,), strict=True):
        if np.shape(array) != place.shape:
            raise RuntimeError(
                f"compile: {function.name} gives shape {np.shape(array)}, and gave {place.shape} when it was recorded"
            )
        place[...] = array
