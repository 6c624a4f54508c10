"""compile: a model for inference that runs its kernels one after another, without Python between them.

The kernels that a forward pass launches are recorded once for each shape of input, then run again as a whole. On one
image a ResNet-50 then takes four fifths of the time, a ResNet-20 less than half.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from typing import Any, NamedTuple

from minires.autograd import Tensor
from minires.autograd.modes import state
from minires.device import Array
from minires.kernels import get_num_threads, is_compiled_for
from minires.kernels.algorithm import chosen_algorithm
from minires.nn import Module
from minires.ops.fusion import is_fused
from minires.recording import RECORDED_DTYPES, Recording, memory_order, record

_OWN_ATTRIBUTES = {*Tensor.__annotations__, "output_index", "_requires_grad", "_retains_grad"}
MOST_SHAPES = 8  # of input that recordings are kept for: each takes about the memory of a forward pass


def compile(model: Module) -> CompiledModule:
    """Return ``model`` as a module that computes the same to the bit, in less time where kernels are short.

    The first call with a shape of input runs the model as it is written, the second does so and records which kernels
    it launches, and later ones run these. That is for inference: under `no_grad`, in eval mode, without hooks, on the
    CPU, with one Tensor of float32 or float64 as input and one as output. All other calls run the model as it is
    written. Fold batch norms first (`minires.fold_batch_norm`): few operations but those that are left then are
    recorded as kernels, the others are called between them.

    A model can be recorded if all that its output depends on are its input, its parameters and buffers, and operations
    with a gradient, of which a few are excepted (``logsumexp``, ``norm``, ``std``, indices and masks that are no
    buffers). Where it depends on anything else (comparisons, argmax, indices computed from the input, an if, a change
    in place, random numbers), a RuntimeWarning says on what, and the model runs as it is written: leave such steps to
    the caller. Parameters, buffers and submodules may change; the model is recorded anew then. What cannot be seen must
    stay as it was: numbers that ``forward`` or a layer reads from attributes (the ``stride`` of a layer, say), arrays
    that it reads through ``tensor.array``, and modules it calls that are none of its submodules. The output of a
    recording is always an array of its own, also where the model returns a view of its input. What ``forward`` does
    besides, such as counting its calls or printing, is not done when a recording is run.

    The state dict is the model's, with names that begin with "model.".

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
        if len(inputs) == 1 and not options and _is_recordable(inputs[0]):
            return self._recordings.output(self.model, inputs[0])
        return self.model(*inputs, **options)


def _is_recordable(input: Any) -> bool:
    """Tell whether a call with this input, in the modes in force, can be recorded."""
    if state.grad_enabled or state.observers or state.anomaly or state.autocast or state.outside is not None:
        return False
    if not isinstance(input, Tensor) or input.dtype not in RECORDED_DTYPES or not input.numel():
        return False
    if not vars(input).keys() <= _OWN_ATTRIBUTES:  # the model may look at others
        return False
    return is_compiled_for(input.array) and memory_order(input.array) != "other"


class _Conditions(NamedTuple):
    """What must be as it was for a recording to compute what the model does."""

    numbers: list[int | str]  # and names, that tell one state of the model from another; some are those of objects
    modules: list[Module]  # kept, as are the arrays, so that no other objects have their numbers
    arrays: list[Array]


class _Recordings:
    """Recordings of a model, by shape of input and what else they depend on. Copies and pickles of this are empty."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a recording computes in one place
        self._process = os.getpid()
        self._conditions = _Conditions([], [], [])
        self._found: OrderedDict[Any, Recording | None] = OrderedDict()  # None before it is recorded
        self._is_refused = False

    def __reduce__(self) -> tuple:
        return _Recordings, ()

    def output(self, model: Module, input: Tensor) -> Any:
        """Return ``model(input)``."""
        if self._process != os.getpid():  # forked: whichever thread had the lock is not here
            self._lock, self._process = threading.RLock(), os.getpid()
        lock: Any = self._lock
        if lock._is_owned():  # this thread computes here already, further out
            return model(input)
        try:
            return self._recorded_output(model, input) if lock.acquire(blocking=False) else model(input)
        finally:
            try:  # noqa: SIM105 - nothing else may be called here, where an interrupt could come in
                lock.release()
            except RuntimeError:
                pass  # another thread has it

    def _recorded_output(self, model: Module, input: Tensor) -> Any:
        conditions = _conditions_of(model)
        if conditions is None:
            return model(input)
        if conditions.numbers != self._conditions.numbers:
            self._found.clear()
            self._conditions, self._is_refused = conditions, False
        if self._is_refused:
            return model(input)
        order = memory_order(input.array)
        key = input.shape, input.dtype, order, get_num_threads(), chosen_algorithm(), is_fused()
        if key not in self._found:
            self._found[key] = None
            if len(self._found) > MOST_SHAPES:
                self._found.popitem(last=False)
            return model(input)
        self._found.move_to_end(key)
        recording = self._found[key]
        if recording is None:
            output, self._found[key], reason = record(model, input, conditions.arrays)
            if reason:
                self._refuse(model, reason)
            return output
        if recording.is_tried or recording.is_first_input(input.array):
            return Tensor(recording.output_for(input.array))
        expected = model(input)
        if not recording.agrees(input.array, expected):
            self._refuse(model, "a recording gives another output than the model. Does it compute with arrays?")
        return expected

    def _refuse(self, model: Module, reason: str) -> None:
        """Run the model as it is written from now on, and say why."""
        self._is_refused = True
        self._found.clear()
        message = f"compile: {type(model).__name__} runs as it is written, for {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=6)  # where the user called the module


def _conditions_of(model: Module) -> _Conditions | None:
    """Return the conditions as they are, None if some part of the model is in training mode or has hooks."""
    numbers: list[int | str] = []
    modules, arrays = [model], []
    known = {id(model)}
    for module in modules:  # which grows meanwhile; at each call: `Module.modules` takes five times as long
        if module.training or module._forward_pre_hooks or module._forward_hooks:
            return None
        for tensors in (module._parameters, module._buffers):
            numbers.append(len(tensors))
            for name, tensor in tensors.items():
                numbers += name, 0 if tensor is None else id(tensor.array)
                if tensor is not None:
                    numbers.append(tensor._version.number)
                    arrays.append(tensor.array)
        for name, child in module._modules.items():
            numbers += name, 0 if child is None else id(child)
            if child is not None and id(child) not in known:
                known.add(id(child))
                modules.append(child)
    return _Conditions(numbers, modules, arrays)
