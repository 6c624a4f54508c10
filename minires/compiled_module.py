"""compile: a model for inference that runs its kernels one after another, without Python between them.

The kernels that a forward pass launches are recorded once for each shape of input, then run again as a whole. On one
image a ResNet-50 then takes four fifths of the time, a ResNet-20 less than half.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minires.autograd import Function, Tensor, no_grad
from minires.autograd.modes import observe, state
from minires.device import Array
from minires.kernels import get_num_threads, is_compiled_for
from minires.kernels.algorithm import chosen_algorithm
from minires.kernels.layout import from_nhwc, to_nhwc
from minires.nn import Module
from minires.ops.activation import ReLU
from minires.ops.conv2d_add_relu import Conv2dAddRelu
from minires.ops.fusion import is_fused
from minires.ops.indexing import GetItem
from minires.ops.max_pool2d import MaxPool2d
from minires.ops.shape import Permute, Reshape, Split

SEED = 0x6D696E69  # of numbers to record with, which no input has
MOST_SHAPES = 8  # of input that recordings are kept for: each takes the memory of a forward pass

RECORDED_DTYPES = np.float32, np.float64  # kernels compute others in float32, converted there and back

# Which functions do all their work by launching kernels, and which of their inputs must lie in memory as the kernels
# take them, for otherwise they are copied first. The forward of any other function is called between kernels.
_LAUNCHED: dict[type[Function], tuple[int, ...]] = {Conv2dAddRelu: (0, 3), MaxPool2d: (0,), ReLU: (0,)}
_VIEWING = Reshape, Permute, GetItem, Split  # do nothing where their outputs lie in the memory of their input


def compile(model: Module) -> CompiledModule:
    """Return ``model`` as a module that computes the same to the bit, in less time where kernels are short.

    The first call with a shape of input runs the model as it is written; the second records which kernels it launches,
    and later ones run these. That is for inference: under `no_grad` (or without anything that requires a gradient), in
    eval mode and without hooks, on the CPU, with one Tensor of float32 or float64 as input and one as output. All other
    calls run the model as it is written. Fold batch norms first, for only what is left then is recorded as kernels.

    Parameters and buffers may change, by in-place methods or by assignment; the model is recorded anew then. What else
    its ``forward`` looks at must stay: like ``torch.jit.trace``, a recording has taken one way through its conditions.
    A recording is tried on other numbers before it is used. Where it fails, since ``forward`` computes with arrays
    beside minires's operations, a RuntimeWarning says so, and the model goes on running as it is written.

    Raises
    ------
    TypeError
        If ``model`` is no Module.

    Examples
    --------
    >>> net = minires.compile(minires.fold_batch_norm(minires.models.resnet20().eval()))
    >>> with minires.no_grad():
    ...     logits = net(minires.zeros(1, 3, 32, 32))
    """
    return CompiledModule(model)


class CompiledModule(Module):
    """What `compile` returns. ``model`` is the model it was made of, which it shares."""

    def __init__(self, model: Module):
        if not isinstance(model, Module):
            raise TypeError(f"compile needs a Module, got {type(model).__name__}")
        super().__init__()
        self.model = model
        self.training = model.training
        self._recordings = _Recordings()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return ``model(*inputs, **options)``."""
        if len(inputs) == 1 and not options and self._is_recordable(inputs[0]):
            return self._recordings.output(self.model, inputs[0])
        return self.model(*inputs, **options)

    def _is_recordable(self, input: Any) -> bool:
        if not isinstance(input, Tensor) or input.dtype not in RECORDED_DTYPES or not input.numel():
            return False
        if state.observers or state.anomaly or state.autocast or state.outside is not None:
            return False
        if not is_compiled_for(input.array):
            return False
        return not (state.grad_enabled and any(x.requires_grad for x in (input, *self.model.parameters())))


class _Conditions(NamedTuple):
    """What must be as it was for a recording to compute what the model does."""

    numbers: list[int]  # that tell one state of the model from another; some are those of objects
    objects: list[Any]  # kept, so that no other objects have their numbers


class _Recording(NamedTuple):
    """A forward pass to run again: the array it reads, the one it leaves, and what does it."""

    input: Array
    output: Array
    run: Callable[[], None]

    def output_for(self, array: Array) -> Array:
        """Return the output for an input, an array of its own."""
        self.input[...] = array
        self.run()
        return self.output.copy(order="K")


class _Recordings:
    """Recordings of a model, by shape of input and what else they depend on. Copies and pickles of this are empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a recording computes in one place
        self._conditions = _Conditions([], [])
        self._found: OrderedDict[Any, _Recording | None] = OrderedDict()  # None before it is recorded
        self._unsuitable = False

    def __reduce__(self) -> tuple:
        return _Recordings, ()

    def output(self, model: Module, input: Tensor) -> Tensor:
        """Return ``model(input)``."""
        if not self._lock.acquire(blocking=False):  # another thread computes here, or this one does further out
            return model(input)
        try:
            recording = self._recording_for(model, input)
            return model(input) if recording is None else Tensor(recording.output_for(input.array))
        finally:
            self._lock.release()

    def _recording_for(self, model: Module, input: Tensor) -> _Recording | None:
        """Return what there is to run again, None if the model is to be run as it is written this time."""
        conditions = _conditions_of(model)
        if conditions is None:
            return None
        if conditions.numbers != self._conditions.numbers:
            self._found.clear()
            self._conditions, self._unsuitable = conditions, False
        if self._unsuitable:
            return None
        key = input.shape, input.dtype, get_num_threads(), chosen_algorithm(), is_fused()
        if key not in self._found:
            self._found[key] = None
            if len(self._found) > MOST_SHAPES:
                self._found.popitem(last=False)
            return None
        self._found.move_to_end(key)
        if self._found[key] is None:
            self._found[key] = _tried_recording(model, input)
            self._unsuitable = self._found[key] is None
        return self._found[key]


def _conditions_of(model: Module) -> _Conditions | None:
    """Return the conditions as they are, None if some part of the model is in training mode or has hooks."""
    modules, versions, arrays = {id(model): model}, [], []
    waiting = [model]
    while waiting:  # at each call: `Module.modules` takes five times as long
        module = waiting.pop()
        if module.training or module._forward_pre_hooks or module._forward_hooks:
            return None
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    versions.append(tensor._version.number)
                    arrays.append(tensor.array)
        for child in module._modules.values():
            if child is not None and id(child) not in modules:
                modules[id(child)] = child
                waiting.append(child)
    return _Conditions([*modules, *map(id, arrays), *versions], [modules, arrays])


def _record(model: Module, input: Tensor) -> _Recording | None:
    """Record the model on numbers of no meaning, as many as ``input`` has; None if its output is no Tensor on the CPU.

    So the input itself is left to try the recording on.
    """
    from minires.kernels.cpu.program import Program

    program = Program()
    with no_grad(), program.recording(), observe(_Recorder(program)):
        numbers = np.random.default_rng(SEED).standard_normal(input.shape).astype(input.dtype)
        array = from_nhwc(to_nhwc(numbers)) if input.ndim == 4 else numbers
        output = model(Tensor(array))
    if not isinstance(output, Tensor) or not isinstance(output.array, np.ndarray):
        return None
    return _Recording(array, output.array, program.run)


def _tried_recording(model: Module, input: Tensor) -> _Recording | None:
    """Return a recording that gives the model's output for an input, None if there can be none."""
    expected = model(input)
    recording = _record(model, input)
    if recording is None:
        return None
    if np.array_equal(recording.output_for(input.array), expected.array, equal_nan=True):
        return recording
    warnings.warn(
        f"compile: a recording of {type(model).__name__} gives another output than the model, which goes on running as "
        "it is written. Does its forward compute with arrays, or change Tensors in place? Use operations, and "
        "x = x + y rather than x += y.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


class _Recorder:
    """Puts each operation of a forward pass into a program."""

    def __init__(self, program: Any):
        self.program = program

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        """Take the kernels that a function has launched, or if that is not all it does, a call of its forward."""
        arrays = [x.array if isinstance(x, Tensor) else x for x in inputs]
        results = [output.array for output in outputs]
        launched = _LAUNCHED.get(type(function))
        if launched is not None and all(_is_taken_as_it_is(arrays[index]) for index in launched):
            self.program.take_launches()
        elif not isinstance(function, _VIEWING) or not all(np.may_share_memory(y, arrays[0]) for y in results):
            self.program.take_call(partial(_call, function, arrays, results))

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """There is none without gradients."""


def _is_taken_as_it_is(x: Array | None) -> bool:
    """Tell whether kernels read an input, if it is given, where it lies: others are copied or converted first."""
    if x is None:
        return True
    return x.dtype in RECORDED_DTYPES and (x.transpose(0, 2, 3, 1) if x.ndim == 4 else x).flags.c_contiguous


def _call(function: Function, arrays: list, outputs: list[Array]) -> None:
    """Compute a function's outputs once more."""
    with np.errstate(all="ignore"):
        result = function.forward(*arrays)
    function._kept = ()
    for output, array in zip(outputs, result if isinstance(result, tuple) else (result,), strict=True):
        output[...] = array
