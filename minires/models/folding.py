"""Folding batch norm into the convolutions before it: fewer passes over memory in inference, equal outputs."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from typing import Any

from minires.models.blocks import BasicBlock, Bottleneck
from minires.models.cifar import CifarResNet
from minires.models.resnet import ResNet
from minires.nn import BatchNorm2d, Conv2d, Identity, Module, Sequential
from minires.nn.folded import FoldedConv2d

# Which batch norm a `forward` calls on the output of which convolution, and on nothing else.
_PAIRS: dict[Any, tuple[tuple[str, str], ...]] = {
    BasicBlock.forward: (("conv1", "bn1"), ("conv2", "bn2")),
    Bottleneck.forward: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    ResNet.forward: (("conv1", "bn1"),),
    CifarResNet.forward: (("conv1", "bn1"),),
}


def fold_batch_norm(model: Module) -> Module:
    """Return a copy of ``model`` for inference, with every batch norm that follows a convolution folded into it.

        w' = w * gamma / sqrt(var + eps)        b' = beta + (b - mean) * gamma / sqrt(var + eps)

    The copy computes the same outputs, up to rounding, in less time, and cannot be trained. A pair of ``Conv2d`` and
    ``BatchNorm2d`` is folded where it is certain that one follows the other: in the models of `minires.models` and
    their blocks, and where they are neighbours in a ``Sequential`` (which is to be called as a whole). What your own
    ``forward`` does cannot be known; its layers stay as they are. So do layers that are used in several places, layers
    with hooks, and batch norms without running statistics. In the copy an ``Identity`` takes the convolution's place
    and a `minires.nn.folded.FoldedConv2d` that of the batch norm, as it is the latter that adds the residual and
    applies the ReLU.

    Raises
    ------
    TypeError
        If ``model`` is no Module.
    RuntimeError
        If it, or a part of it, is in training mode.
    """
    if not isinstance(model, Module):
        raise TypeError(f"fold_batch_norm needs a Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if module.training:
            part = f"its {name} is" if name else "it is"
            raise RuntimeError(f"fold_batch_norm needs a model in eval mode, but {part} in training mode: call .eval()")
    uses = Counter(id(child) for module in model.modules() for child in module._modules.values())
    copies: dict[int, Any] = {}  # what stands for what in the copy; the weights folded away are not copied
    for module in model.modules():
        for conv_name, bn_name in _candidates(module):
            conv, bn = module._modules.get(conv_name), module._modules.get(bn_name)
            if not isinstance(conv, Conv2d) or not isinstance(bn, BatchNorm2d) or not _fit(conv, bn):
                continue
            if uses[id(conv)] == uses[id(bn)] == 1:
                copies[id(conv)] = Identity().eval()
                copies[id(bn)] = FoldedConv2d(conv, bn)
    return copy.deepcopy(model, copies)


def _candidates(module: Module) -> tuple[tuple[str, str], ...]:
    """Return the names of neighbours that may be a convolution and its batch norm."""
    forward = _forward(module)
    return tuple(pairwise(module._modules)) if forward is Sequential.forward else _PAIRS.get(forward, ())


def _fit(conv: Conv2d, bn: BatchNorm2d) -> bool:
    """Tell whether both compute what their class says, unobserved, and from values that are known before they run."""
    return (
        (_forward(conv), _forward(bn)) == (Conv2d.forward, BatchNorm2d.forward)
        and not any(m._forward_pre_hooks or m._forward_hooks or m._backward_hooks for m in (conv, bn))
        and bn.running_mean is not None
        and bn.num_features == conv.out_channels
        and bn.running_mean.dtype == conv.weight.dtype
    )


def _forward(module: Module) -> Any:
    """Return the function behind a module's forward: a subclass or the instance may have one of its own."""
    return getattr(module.forward, "__func__", None)
