"""Gradient flow: how large activations and gradients are at each layer, at one step or along a training run.

Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", section 4, plot
these very moments; He et al. 2015 look at gradient norms (section 4.1) and at the standard deviations of layers'
responses (section 4.2) to tell degradation from vanishing gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minires.autograd import Tensor, enable_grad, grad, is_grad_enabled, is_recomputing
from minires.device import Array, array_module
from minires.nn import Module
from minires.nn import functional as F
from minires.study.errors import StudyError
from minires.study.figure import check_results, legend_above, line_style, new_figure, whole_ticks
from minires.study.trace import LossFunction, check_batch, norm, scalar_loss, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Moments:
    """What an activation or a gradient looks like over a batch.

    Attributes
    ----------
    norm : Euclidean norm of all elements
    mean, variance : over all elements
    dead : the share of channels (axis 1) that are zero for every image and at every place
    """

    norm: float
    mean: float
    variance: float
    dead: float


@dataclass(frozen=True)
class LayerFlow:
    """One call of one layer: a module without submodules that returned a Tensor.

    ``depth`` counts such calls from 1. ``gradient`` is that of the loss by the layer's output; None if none reached it.
    """

    name: str
    type: str
    depth: int
    shape: tuple[int, ...]
    activation: Moments
    gradient: Moments | None


@dataclass(frozen=True)
class GradientFlow:
    """The layers of one step in the order in which they ran; ``step`` counts forward passes from 1."""

    step: int
    layers: tuple[LayerFlow, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a layer."""
        records = []
        for layer in self.layers:
            record: dict[str, Any] = {
                "step": self.step,
                "layer": layer.name,
                "type": layer.type,
                "depth": layer.depth,
                "shape": "x".join(map(str, layer.shape)),
            }
            for kind, moments in (("activation", layer.activation), ("gradient", layer.gradient)):
                for name in ("norm", "mean", "variance", "dead"):
                    record[f"{kind} {name}"] = None if moments is None else getattr(moments, name)
            records.append(record)
        return records


def gradient_flow(
    model: Module, images: Tensor, labels: Tensor, loss_fn: LossFunction = F.cross_entropy
) -> GradientFlow:
    """Run one forward and one backward pass and return the moments of every layer's output and of its gradient.

    Works on frozen models too. The model, its gradients and buffers are left as they were.

    Parameters
    ----------
    images : Tensor (N, ...), what the model takes
    labels : Tensor (N, ...), what ``loss_fn(output, labels)`` takes

    Raises
    ------
    StudyError
        If the batch is empty, the model returns no Tensor, has no layers, or the loss is not a finite number.
    """
    check_batch(images, labels)
    recorder = GradientFlowRecorder(model)
    x = images.detach().requires_grad_()  # then gradients go all the way, whatever is frozen
    with untouched(model), enable_grad(), recorder.recording():
        loss = scalar_loss(model, x, labels, loss_fn)
        if not loss.requires_grad:
            raise StudyError("the loss does not depend on the images: is the model's output detached?")
        grad(loss, x, allow_unused=True)
    (flow,) = recorder.history
    if not flow.layers:
        raise StudyError("this model has no layers to look at: none of its modules returned a Tensor")
    return flow


class GradientFlowRecorder:
    """Records the gradient flow of a training run, by hooks: in any loop, with any optimizer.

    Parameters
    ----------
    every : record the 1st, the (1 + every)-th, ... forward pass that has a graph; evaluation under ``no_grad`` does not
        count

    Examples
    --------
    >>> recorder = GradientFlowRecorder(model, every=50)
    >>> with recorder.recording():
    ...     trainer.fit()
    >>> recorder.history[-1].layers[0].gradient.norm
    """

    def __init__(self, model: Module, every: int = 1):
        if every < 1:
            raise StudyError(f"every must be at least 1, got {every}")
        self.model = model
        self.every = every
        self._steps = 0
        self._records: list[tuple[int, list[_Watched]]] = []

    @property
    def history(self) -> list[GradientFlow]:
        """The recorded steps; gradients of a pass whose backward has not run yet are None."""
        return [GradientFlow(step, tuple(layer.result() for layer in layers)) for step, layers in self._records]

    @contextmanager
    def recording(self) -> Iterator[GradientFlowRecorder]:
        """Hang hooks on the model inside the ``with`` block."""
        layers = [(name, module) for name, module in self.model.named_modules() if not list(module.children())]
        handles = [self.model.register_forward_pre_hook(self._begin)]
        handles += [module.register_forward_hook(self._watch(name)) for name, module in layers]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: Module, inputs: tuple) -> None:
        if is_grad_enabled():
            self._steps += 1
            if (self._steps - 1) % self.every == 0:
                self._records.append((self._steps, []))

    def _watch(self, name: str) -> Any:
        def look(module: Module, inputs: tuple, output: Any) -> None:
            if is_recomputing():
                raise StudyError(
                    "this model uses gradient checkpointing, which runs its layers twice: switch it off for the study "
                    "(checkpoint=False)"
                )
            if not is_grad_enabled() or not self._records or self._records[-1][0] != self._steps:
                return
            if isinstance(output, Tensor) and output.numel() and output.is_floating_point():
                layers = self._records[-1][1]
                layers.append(_Watched(name, type(module).__name__, len(layers) + 1, output))

        return look


class _Watched:
    """A layer's output, whose gradient may arrive later."""

    def __init__(self, name: str, type: str, depth: int, output: Tensor):
        self.name, self.type, self.depth, self.shape = name, type, depth, output.shape
        self.activation = moments(output.array)
        self.gradient: Moments | None = None
        if output.requires_grad:
            output.register_hook(self._take)

    def _take(self, gradient: Tensor) -> None:
        self.gradient = moments(gradient.array)

    def result(self) -> LayerFlow:
        return LayerFlow(self.name, self.type, self.depth, self.shape, self.activation, self.gradient)


def moments(array: Array) -> Moments:
    """Return norm, mean, variance and dead share of an array whose axis 1, if there is one, holds the channels."""
    xp = array_module(array)
    wide = array.astype(xp.float64)
    alive = wide != 0
    if wide.ndim > 1:
        alive = alive.any(axis=(0, *range(2, wide.ndim)))
    return Moments(
        norm=norm(wide),
        mean=float(wide.mean()),
        variance=float(wide.var()),
        dead=float(1 - alive.mean()),
    )


def draw_gradient_flow(results: Mapping[str, GradientFlow]) -> Figure:
    """Draw, for each named result, the norm of the gradient and the standard deviation of the activations by depth."""
    check_results(results)
    figure, (norms, deviations) = new_figure(2, height=2.8)
    for index, (label, flow) in enumerate(results.items()):
        with_gradient = [layer for layer in flow.layers if layer.gradient is not None and layer.gradient.norm > 0]
        norms.plot(
            [layer.depth for layer in with_gradient],
            [layer.gradient.norm for layer in with_gradient if layer.gradient is not None],
            label=label,
            **line_style(index),
        )
        alive = [layer for layer in flow.layers if layer.activation.variance > 0]
        deviations.plot(
            [layer.depth for layer in alive],
            [layer.activation.variance**0.5 for layer in alive],
            label=label,
            **line_style(index),
        )
    for axes, title in ((norms, "gradient norm"), (deviations, "std. of activations")):
        axes.set(yscale="log", ylabel=title, xlabel="layer, from the input")
        whole_ticks(axes)
    legend_above(figure, norms)
    return figure


def write_tensorboard(history: list[GradientFlow], folder: str | os.PathLike[str]) -> None:
    """Write recorded steps as TensorBoard scalars, one curve a layer: ``activation-norm/LAYER`` and so on.

    Raises
    ------
    ImportError
        If tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard logs need tensorboardX: pip install 'minires[tensorboard]'") from error
    with SummaryWriter(os.fspath(folder)) as writer:
        for flow in history:
            for layer in flow.layers:
                for kind, values in (("activation", layer.activation), ("gradient", layer.gradient)):
                    if values is None:
                        continue
                    for name in ("norm", "mean", "variance", "dead"):
                        writer.add_scalar(f"{kind}-{name}/{layer.name or 'model'}", getattr(values, name), flow.step)
