"""PyTorch's side, at its best: layouts, ``torch.compile``, fused SGD, in-place ReLUs and adds.

A variant is called "LAYOUT, MODE". Compiled inference has inductor's freezing, which folds batch norm into the
convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from benchmarks.workers.torch_models import get_model

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
EAGER = [f"{layout}, eager" for layout in LAYOUTS]
ALL = [*EAGER, *(f"{layout}, compile" for layout in LAYOUTS)]
OPTIMIZERS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


class Torch:
    """PyTorch on ``threads`` threads."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        """Return PyTorch's version."""
        return {"torch": torch.__version__}

    def variants(self, kind: str) -> list[str]:
        """Return PyTorch's ways of doing ``kind``."""
        few = {"conv2d": EAGER, "max_pool2d": EAGER, "cross_entropy": EAGER[:1], "optimizer_step": list(OPTIMIZERS)}
        return few.get(kind, ALL)

    def load(self, variant: str) -> None:
        """Import the compiler where the variant needs it, and forget what it compiled before."""
        if variant.endswith("compile"):
            import torch._inductor.compile_fx

            torch.compiler.reset()

    def build(self, kind: str, options: dict[str, Any], variant: str, weights: str | None) -> Problem:
        """Make a case of ``kind`` ready, with the weights that ours has written."""
        builders: dict[str, Callable[..., Problem]] = {
            "training": training,
            "inference": inference,
            "optimizer_step": optimizer_step,
            "conv2d": conv2d,
            "batch_norm_add_relu": batch_norm_add_relu,
            "max_pool2d": max_pool2d,
            "cross_entropy": cross_entropy,
        }
        arguments = options if weights is None else {**options, "weights": weights}
        return builders[kind](**arguments, variant=variant)


def training(model: str, batch: int, size: int, weights: str, variant: str) -> Problem:
    """Forward, cross entropy, backward and an SGD step."""
    _, optimizer, step = _training_step(model, batch, size, weights, variant, fused=True)

    def check() -> dict[str, list[float]]:
        losses = [step().item() for _ in range(CHECKED_STEPS)]
        # Timed steps do the same work without moving: a single batch is soon learnt by heart, and its gradients would
        # vanish into denormal numbers, which are slow.
        optimizer.param_groups[0]["lr"] = 0.0
        return {"losses": losses}

    return Problem(step, check)


def inference(model: str, batch: int, size: int, weights: str, variant: str) -> Problem:
    """Logits of a batch, without gradients."""
    net = _compiled(_net(model, weights, variant).eval(), variant, freezing=True)
    images, _ = _batch(model, batch, size, variant)

    def step() -> Tensor:
        with torch.no_grad():
            return net(images)

    return Problem(step, lambda: {"logits": digest(step().numpy())})


def optimizer_step(model: str, weights: str, variant: str) -> Problem:
    """SGD on all parameters of a model, with gradients as its backward pass leaves them."""
    net, optimizer, training_step = _training_step(model, 2, 64, weights, EAGER[0], **OPTIMIZERS[variant])
    training_step()

    def check() -> dict[str, list[float]]:
        optimizer.step()
        return {name: digest(parameter.detach().numpy()) for name, parameter in net.named_parameters()}

    return Problem(optimizer.step, check)


def conv2d(
    direction: str, input_shape: list[int], weight_shape: list[int], stride: int, padding: int, variant: str
) -> Problem:
    """One direction of a convolution."""
    x = _laid_out(normal(tuple(input_shape), seed=1), variant)
    w = _laid_out(normal(tuple(weight_shape), seed=2), variant)
    output_shape = F.conv2d(x, w, None, stride, padding).shape
    dy = _laid_out(normal(tuple(output_shape), seed=3), variant)

    def gradient(index: int) -> Callable[[], Tensor]:
        geometry = ([stride, stride], [padding, padding], [1, 1], False, [0, 0], 1)
        mask = [index == 0, index == 1, False]
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *geometry, mask)[index]

    step = {
        "forward": lambda: F.conv2d(x, w, None, stride, padding),
        "input-grad": gradient(0),
        "weight-grad": gradient(1),
    }[direction]
    return Problem(step, lambda: {direction: digest(step().numpy())})


def batch_norm_add_relu(direction: str, shape: list[int], variant: str) -> Problem:
    """relu(batch_norm(x) + residual) in training, the add and the ReLU in place."""
    x, residual, dy = (_laid_out(normal(tuple(shape), seed), variant) for seed in (1, 2, 3))
    weight, bias = (torch.from_numpy(normal((shape[1],), seed)) for seed in (4, 5))
    mean, var = torch.zeros(shape[1]), torch.ones(shape[1])
    inputs = [tensor.requires_grad_() for tensor in (x, residual, weight, bias)]

    def function(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = F.batch_norm(x, mean, var, weight, bias, training=True)
        out += residual
        return F.relu_(out)

    compiled = _compiled(function, variant)
    return _directions(direction, lambda: compiled(*inputs), inputs, dy)


def max_pool2d(direction: str, shape: list[int], variant: str) -> Problem:
    """The pooling of an ImageNet stem: 3x3 windows at stride 2."""
    n, c, h, w = shape
    x = _laid_out(normal((n, c, h, w), seed=1), variant).requires_grad_()
    dy = _laid_out(normal((n, c, h // 2, w // 2), seed=2), variant)
    return _directions(direction, lambda: F.max_pool2d(x, 3, 2, 1), [x], dy)


def cross_entropy(shape: list[int], variant: str) -> Problem:
    """The mean cross entropy of logits and the logits' gradient."""
    logits = torch.from_numpy(normal(tuple(shape), seed=1)).requires_grad_()
    target = torch.from_numpy(labels(*shape))

    def step() -> Tensor:
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, target), [logits])
        return gradient

    return Problem(step, lambda: {"gradient": digest(step().numpy())})


def _training_step(
    model: str, size: int, pixels: int, weights: str, variant: str, **optimizer_options: bool
) -> tuple[nn.Module, torch.optim.SGD, Callable[[], Tensor]]:
    net = _net(model, weights, variant)
    optimizer = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, **optimizer_options
    )
    compiled = _compiled(net, variant)
    images, target = _batch(model, size, pixels, variant)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(compiled(images), target)
        loss.backward()
        optimizer.step()
        return loss.detach()  # a loss kept with its graph would keep the activations

    return net, optimizer, step


def _net(model: str, weights: str, variant: str) -> nn.Module:
    net = get_model(model)
    net.load_state_dict(safetensors.torch.load_file(weights))
    return net.to(memory_format=_layout(variant))


def _batch(model: str, size: int, pixels: int, variant: str) -> tuple[Tensor, Tensor]:
    images, target = image_batch(size, pixels, classes_of(model))
    return _laid_out(images, variant), torch.from_numpy(target)


def _compiled(function: Callable[..., Tensor], variant: str, freezing: bool = False) -> Callable[..., Tensor]:
    if not variant.endswith("compile"):
        return function
    # The backward pass of a single op is run again and again on one graph, so its buffers must stay.
    torch._functorch.config.donated_buffer = isinstance(function, nn.Module)
    return torch.compile(function, options={"freezing": True} if freezing else None)


def _directions(direction: str, forward: Callable[[], Tensor], inputs: list[Tensor], dy: Tensor) -> Problem:
    """The forward pass of an op, or the backward pass alone."""
    if direction == "forward":
        return Problem(forward, lambda: {"output": digest(forward().detach().numpy())})
    y = forward()

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, inputs, dy, retain_graph=True)

    return Problem(backward, lambda: {str(i): digest(grad.numpy()) for i, grad in enumerate(backward())})


def _layout(variant: str) -> torch.memory_format:
    return LAYOUTS[variant.split(", ")[0]]


def _laid_out(array: np.ndarray, variant: str) -> Tensor:
    return torch.from_numpy(array).contiguous(memory_format=_layout(variant))


if __name__ == "__main__":
    serve(Torch)
