"""Our side: each kind of case as a user of minires would write it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

import minires
from benchmarks.inputs import (
    CHECKED_STEPS,
    LEARNING_RATE,
    MOMENTUM,
    WEIGHT_DECAY,
    classes_of,
    digest,
    image_batch,
    labels,
    normal,
)
from benchmarks.workers.protocol import Problem, serve
from minires import Tensor
from minires.kernels import kernels_for
from minires.kernels.geometry import Conv2dGeometry
from minires.kernels.layout import from_nhwc, from_rsio, to_nhwc, to_rsio
from minires.nn import functional as F


class Minires:
    """minires, which has one variant: as it comes."""

    def __init__(self, threads: int) -> None:
        minires.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        """Return the versions of minires and what it compiles with."""
        return {"minires": minires.__version__, **{name: version(name) for name in ("numpy", "numba", "llvmlite")}}

    def variants(self, kind: str) -> list[str]:
        """Return the one way there is."""
        return ["default"]

    def load(self, variant: str) -> None:
        """Import Numba, which minires leaves until the first kernel runs."""
        import minires.kernels.cpu  # noqa: F401

    def build(self, kind: str, options: dict[str, Any], variant: str, weights: str | None) -> Problem:
        """Make a case of ``kind`` ready, and write the weights of its model to ``weights``."""
        builders: dict[str, Callable[..., Problem]] = {
            "training": training,
            "inference": inference,
            "optimizer_step": optimizer_step,
            "conv2d": conv2d,
            "batch_norm_add_relu": batch_norm_add_relu,
            "max_pool2d": max_pool2d,
            "cross_entropy": cross_entropy,
        }
        return builders[kind](**options) if weights is None else builders[kind](**options, weights=weights)


def training(model: str, batch: int, size: int, weights: str) -> Problem:
    """Forward, cross entropy, backward and an SGD step."""
    _, optimizer, step = _training_step(model, batch, size, weights)

    def check() -> dict[str, list[float]]:
        losses = [step().item() for _ in range(CHECKED_STEPS)]
        # Timed steps do the same work without moving: a single batch is soon learnt by heart, and its gradients would
        # vanish into denormal numbers, which are slow.
        optimizer.param_groups[0]["lr"] = 0.0
        return {"losses": losses}

    return Problem(step, check)


def inference(model: str, batch: int, size: int, weights: str) -> Problem:
    """Logits of a batch, without gradients, with batch norm folded and the kernels recorded; so do the rivals."""
    net = minires.compile(minires.fold_batch_norm(_net(model, weights).eval()))
    images, _ = _batch(model, batch, size)

    def step() -> Tensor:
        with minires.no_grad():
            return net(images)

    def check() -> dict[str, list[float]]:
        with minires.no_grad():
            for factor in (1.0, 0.5, 2.0):  # the second call records, the third tries the recording
                net(images * factor)
        return {"logits": digest(step().numpy())}

    return Problem(step, check)


def optimizer_step(model: str, weights: str) -> Problem:
    """SGD on all parameters of a model, with gradients as its backward pass leaves them."""
    net, optimizer, training_step = _training_step(model, 2, 64, weights)
    training_step()

    def check() -> dict[str, list[float]]:
        optimizer.step()
        return {name: digest(parameter.detach().numpy()) for name, parameter in net.named_parameters()}

    return Problem(optimizer.step, check)


def conv2d(direction: str, input_shape: list[int], weight_shape: list[int], stride: int, padding: int) -> Problem:
    """One direction of a convolution, on bare arrays."""
    geometry = Conv2dGeometry(
        tuple(input_shape), tuple(weight_shape), (stride, stride), ((padding, padding), (padding, padding))
    )
    x = _channels_last(normal(geometry.input_shape, seed=1))
    w = from_rsio(to_rsio(normal(geometry.weight_shape, seed=2)))
    dy = _channels_last(normal(geometry.output_shape, seed=3))
    kernels = kernels_for(x)
    step = {
        "forward": lambda: kernels.conv2d(x, w, geometry),
        "input-grad": lambda: kernels.conv2d_input_grad(dy, w, geometry),
        "weight-grad": lambda: kernels.conv2d_weight_grad(x, dy, geometry),
    }[direction]
    return Problem(step, lambda: {direction: digest(step())})


def batch_norm_add_relu(direction: str, shape: list[int]) -> Problem:
    """relu(batch_norm(x) + residual) in training, as one op."""
    x, residual, dy = (Tensor(_channels_last(normal(tuple(shape), seed))) for seed in (1, 2, 3))
    weight, bias = (Tensor(normal((shape[1],), seed)) for seed in (4, 5))
    mean, var = minires.zeros(shape[1]), minires.ones(shape[1])
    inputs = [tensor.requires_grad_() for tensor in (x, residual, weight, bias)]

    def forward() -> Tensor:
        return F.batch_norm(x, mean, var, weight, bias, training=True, residual=residual, activation="relu")

    return _directions(direction, forward, inputs, dy)


def max_pool2d(direction: str, shape: list[int]) -> Problem:
    """The pooling of an ImageNet stem: 3x3 windows at stride 2."""
    n, c, h, w = shape
    x = Tensor(_channels_last(normal((n, c, h, w), seed=1)), requires_grad=True)
    dy = Tensor(_channels_last(normal((n, c, h // 2, w // 2), seed=2)))
    return _directions(direction, lambda: F.max_pool2d(x, 3, 2, 1), [x], dy)


def cross_entropy(shape: list[int]) -> Problem:
    """The mean cross entropy of logits and the logits' gradient."""
    logits = Tensor(normal(tuple(shape), seed=1), requires_grad=True)
    target = Tensor(labels(*shape))

    def step() -> Tensor:
        (gradient,) = minires.autograd.grad(F.cross_entropy(logits, target), [logits])
        return gradient

    return Problem(step, lambda: {"gradient": digest(step().numpy())})


def _training_step(
    model: str, size: int, pixels: int, weights: str
) -> tuple[minires.nn.Module, minires.optim.SGD, Callable[[], Tensor]]:
    net = _net(model, weights)
    optimizer = minires.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    images, target = _batch(model, size, pixels)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), target)
        loss.backward()
        optimizer.step()
        return loss.detach()  # a loss kept with its graph would keep the activations

    return net, optimizer, step


def _net(model: str, weights: str) -> minires.nn.Module:
    minires.manual_seed(0)
    net = minires.models.get_model(model)
    minires.save(net.state_dict(), weights)
    return net


def _batch(model: str, size: int, pixels: int) -> tuple[Tensor, Tensor]:
    images, target = image_batch(size, pixels, classes_of(model))
    return Tensor(_channels_last(images)), Tensor(target)


def _directions(direction: str, forward: Callable[[], Tensor], inputs: list[Tensor], dy: Tensor) -> Problem:
    """The forward pass of an op, or the backward pass alone."""
    if direction == "forward":
        return Problem(forward, lambda: {"output": digest(forward().detach().numpy())})
    y = forward()

    def backward() -> tuple[Tensor | None, ...]:
        return minires.autograd.grad(y, inputs, dy, retain_graph=True)

    return Problem(backward, lambda: {str(i): digest(grad.numpy()) for i, grad in enumerate(backward())})


def _channels_last(array: np.ndarray) -> np.ndarray:
    return from_nhwc(to_nhwc(array))


if __name__ == "__main__":
    serve(Minires)
