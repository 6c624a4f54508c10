"""GraphedStep: a whole training step, captured once as a CUDA graph and replayed.

Launching the few hundred kernels of a small net takes longer than running them. A graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from minires.amp import GradScaler
from minires.autograd import Tensor
from minires.autograd.modes import state
from minires.device import Array, cupy, refusing_random, watched_memory
from minires.kernels import get_float32_matmul_precision
from minires.kernels.capture import Capture, CaptureError, capturing, current_capture, skipping_where
from minires.kernels.optim import unscale
from minires.nn import Module
from minires.optim import Optimizer

EAGER_STEPS = 2  # the first compiles and begins the optimizer's state, the second takes the way of all later ones


Gradients = list[tuple[Tensor, Tensor]]  # parameters and theirs
SCALE, INVERSE = "loss scale", "inverse of the loss scale"  # tables of a captured step


class Results(NamedTuple):
    """What a step leaves: the loss, the model's output, and an int32 (1,) that is not 0 if the update was left out."""

    loss: Array
    output: Array
    found_inf: Array


class Captured(NamedTuple):
    """A step that can be replayed: its graph, the arrays it reads a batch from, its tables, and what it leaves."""

    graph: Any
    inputs: tuple[Array, Array]
    tables: Capture
    gradients: Gradients
    results: Results


class GraphedStep:
    """A training step on a GPU: gradients of ``loss(model(images), targets)``, then ``optimizer.step()``.

    The first two calls run the step as it is written, the third captures it, and from then on it is replayed, with the
    same results. Batches of another shape, and calls in another mode (``model.eval()``, other autocast, parameters
    frozen or their arrays replaced since), run as written. Learning rates and other options may change from step to
    step, so schedules work.

    A step whose loss or gradient is Inf or NaN leaves parameters and the optimizer's arrays as they are. With a
    ``scaler`` that is part of the plan: its factor is adapted after each step, for which the GPU is waited for.

    Parameters
    ----------
    model : Module on one GPU. Its forward pass must do the same at each call, and read nothing from the GPU.
    loss : (output, targets) -> scalar Tensor.
    optimizer : SGD, Adam or AdamW of `minires.optim`, over the model's float32 or float64 parameters.
    scaler : `minires.amp.GradScaler`, for float16; optional. The step scales the loss, unscales the gradients and calls
        the scaler's ``update``.

    Attributes
    ----------
    is_captured : whether there is a graph to replay.
    output : what the model returned in the last step, a Tensor of its own.
    found_inf : whether the last step was left out, an int32 array (1,) on the GPU.

    Raises
    ------
    ValueError
        If the model does not lie on one GPU.

    Examples
    --------
    >>> step = minires.cuda.GraphedStep(model, F.cross_entropy, optimizer)
    >>> for images, targets in loader:
    ...     loss = step(images.to("cuda"), targets.to("cuda"))
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
    ):
        self._parameters, self._buffers = list(model.parameters()), list(model.buffers())
        devices = {parameter.device for parameter in self._parameters}
        if len(devices) != 1 or next(iter(devices)).type != "cuda":
            found = ", ".join(sorted(map(str, devices))) or "no parameters"
            raise ValueError(f'GraphedStep needs a model on one GPU, this one has {found}: use model.to("cuda")')
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.output: Tensor | None = None
        self.found_inf: Array = None
        self._device = next(iter(devices))
        xp = cupy()
        with xp.cuda.Device(self._device.index):
            self._stream = xp.cuda.Stream(non_blocking=True)
            self._allocate = watched_memory(xp).private_pool()
        self._conditions: Any = None
        self._arrays: list[Array] = []  # of parameters and buffers under these conditions
        self._eager_steps = 0
        self._captured: Captured | None = None

    @property
    def is_captured(self) -> bool:
        """Whether there is a graph to replay."""
        return self._captured is not None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Make a step and return its loss, a Tensor of its own without a graph.

        Raises
        ------
        CaptureError
            If the step cannot be captured, or the optimizer does other things since; no parameter has changed then.
        """
        conditions = self._conditions_of(images, targets)
        state_before = {} if self.scaler is None else self._optimizer_state()
        is_written = conditions != self._conditions or (self._captured is None and self._eager_steps < EAGER_STEPS)
        with self._on_stream():
            if is_written:
                if self._captured is None and conditions != self._conditions:
                    self._eager_steps = 0
                    self._conditions, self._arrays = conditions, self._present_arrays()
                results = self._step(images, targets)
            else:
                if self._captured is None:
                    self._captured = self._capture(images, targets)
                else:
                    self._renew(self._captured)
                results = self._replay(self._captured, images, targets)
            loss, output, self.found_inf = (array.copy() for array in results)
        self.output = Tensor(output)
        found_inf = self.scaler is not None and bool(self.found_inf)
        if self.scaler is not None:
            if found_inf and not is_written:
                self._set_optimizer_state(state_before)  # it has counted a step that was left out
            self.scaler.after_step(self.optimizer, found_inf)
        if is_written and not found_inf and conditions == self._conditions:
            self._eager_steps += 1  # one that was left out may not have begun the optimizer's state
        return Tensor(loss)

    def _step(self, images: Tensor, targets: Tensor) -> Results:
        """Make a step as it is written."""
        self.optimizer.zero_grad()
        output = self.model(images)
        loss = self.loss(output, targets)
        scaled, inverse = self._scaled(loss)
        scaled.backward()
        gradients = [parameter.grad.array for parameter in self._parameters if parameter.grad is not None]
        found_inf = unscale([scaled.array, *gradients], inverse)
        if self.scaler is not None and current_capture() is None and bool(found_inf):
            self.optimizer.step_calls += 1  # for schedules, which count steps whether they change anything or not
        else:
            with skipping_where(found_inf):
                self.optimizer.step()
        return Results(loss.array, output.array, found_inf)

    def _scaled(self, loss: Tensor) -> tuple[Tensor, float | Array]:
        """Return the loss times the scaler's factor, and what to multiply gradients with."""
        if self.scaler is None:
            return loss, 1.0
        capture = current_capture()
        if capture is None:
            return self.scaler.scale(loss), 1 / self.scaler.get_scale()
        factor, inverse = (cupy().empty((1,), dtype) for dtype in (loss.dtype, np.float64))
        for (key, content), table in zip(self._scales(loss.dtype), (factor, inverse), strict=True):
            capture.add(key, table, content, 0)
        return loss * Tensor(factor.reshape(loss.shape)), inverse

    def _scales(self, dtype: np.dtype) -> list[tuple[tuple[str, np.dtype], np.ndarray]]:
        """Return the keys and the present contents of the tables that hold the loss scale and its inverse."""
        assert self.scaler is not None  # only a captured step with one has them
        scale = self.scaler.get_scale()
        return [((SCALE, dtype), np.array([scale], dtype)), ((INVERSE, dtype), np.array([1 / scale]))]

    def _capture(self, images: Tensor, targets: Tensor) -> Captured:
        """Capture a step; nothing of it is done yet, but that the optimizer counts it.

        Its arrays come from a pool that nothing else is given memory from: a replay writes to all of them, also to
        those that are not kept.
        """
        xp = cupy()
        watched_memory(xp).pool.free_all_blocks()  # what the steps before took is needed once more now
        tables = Capture(lambda table, content: table.set(content, self._stream))
        state_before = self._optimizer_state()
        calls_before = self.optimizer.step_calls
        with xp.cuda.using_allocator(self._allocate):
            inputs = xp.empty_like(images.array), xp.empty_like(targets.array)
            self._stream.begin_capture()
            try:
                graph, gradients, results = self._recorded(Tensor(inputs[0]), Tensor(inputs[1]), tables)
            except BaseException as error:
                with suppress(Exception):  # where the capture is broken, ending it is an error too
                    self._stream.end_capture()
                self._set_optimizer_state(state_before)
                self.optimizer.step_calls = calls_before
                self.optimizer.zero_grad()
                tables.fill()  # some of them are kept for later launches
                if not isinstance(error, Exception):
                    raise
                # CuPy refuses in many ways; whatever it is, the step can still be run as written
                raise CaptureError(f"the training step cannot be captured: {error}") from error
        tables.fill()
        return Captured(graph, inputs, tables, gradients, results)

    def _recorded(self, images: Tensor, targets: Tensor, tables: Capture) -> tuple[Any, Gradients, Results]:
        """Launch a step on the stream that is captured; return the graph, the gradients and what the step leaves."""
        with capturing(tables), refusing_random(self._device, "it draws random numbers, which a replay would repeat"):
            results = self._step(images, targets)
        gradients: Gradients = [(p, p.grad) for p in self._parameters if p.grad is not None]
        updated = sum(update.tensors for update in tables.updates)
        if updated != len(gradients):
            raise CaptureError(
                f"{type(self.optimizer).__name__} updates {len(gradients) - updated} of {len(gradients)} parameters by "
                "array code, whose options could not change any more: take SGD, Adam or AdamW, and parameters in "
                "float32 or float64"
            )
        return self._stream.end_capture(), gradients, results

    def _renew(self, captured: Captured) -> None:
        """Let the optimizer put the next step's learning rate and the like where the graph reads them."""
        for parameter, gradient in captured.gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient
        with captured.tables.renewing():
            if self.scaler is not None:
                for key, content in self._scales(captured.results.loss.dtype):
                    captured.tables.renew(key, content)
            self.optimizer.step()

    def _replay(self, captured: Captured, images: Tensor, targets: Tensor) -> Results:
        for place, batch in zip(captured.inputs, (images, targets), strict=True):
            place[...] = batch.array
        captured.graph.launch(self._stream)
        return captured.results

    def _conditions_of(self, images: Tensor, targets: Tensor) -> Any:
        """Return what has to be as it was for a captured step to be the same as a new one."""
        batch = tuple((x.shape, x.dtype, x.array.strides, x.device) for x in (images, targets))
        frozen = tuple(parameter.requires_grad for parameter in self._parameters)
        places = tuple(id(array) for array in self._present_arrays())
        return batch, places, self.model.training, frozen, dict(state.autocast), get_float32_matmul_precision()

    def _optimizer_state(self) -> dict[Tensor, dict[str, Any]]:
        return {parameter: dict(remembered) for parameter, remembered in self.optimizer.state.items()}

    def _set_optimizer_state(self, state: dict[Tensor, dict[str, Any]]) -> None:
        self.optimizer.state.clear()
        self.optimizer.state.update(state)

    def _present_arrays(self) -> list[Array]:
        return [tensor.array for tensor in (*self._parameters, *self._buffers)]

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Compute inside on this step's stream, after what was launched before and before what is launched later."""
        xp = cupy()
        with xp.cuda.Device(self._device.index):
            outside = xp.cuda.get_current_stream()
            self._stream.wait_event(outside.record())
            try:
                with self._stream:
                    yield
            finally:
                outside.wait_event(self._stream.record())
