"""Random programs of views, changes in place and ordinary operations, run with minires and with PyTorch.

After each step all Tensors must have the same values, and in the end all leaves the same gradients. Where PyTorch
refuses a step or the backward pass, minires must, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from twin import REFUSALS

import minires

Step = Callable[[Any, list], Any]  # of the library and the Tensors so far


class Writer:
    """Writes a program: steps with all their choices made."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.shapes: list[tuple[int, ...]] = []
        self.memory: list[int] = []  # where each Tensor lies
        self.kind = ""  # of the last step

    def choose(self, *items: Any) -> Any:
        return items[self.random.integers(len(items))]

    def any_tensor(self) -> int:
        return int(self.random.integers(len(self.shapes)))

    def operand(self, shape: tuple[int, ...], target: int) -> int | None:
        """A Tensor that can be broadcast to ``shape``: ``target`` itself, or one that lies elsewhere."""
        fitting = [
            index
            for index, other in enumerate(self.shapes)
            if (index == target or self.memory[index] != self.memory[target])
            if len(other) <= len(shape) and all(a in (1, b) for a, b in zip(other[::-1], shape[::-1], strict=False))
        ]
        return self.choose(*fitting) if fitting else None

    def constant(self, shape: tuple[int, ...]) -> Step:
        numbers, requires_grad = self.random.uniform(0.5, 1.5, shape), bool(self.random.integers(2))
        if len(shape) < 4:
            return lambda lib, tensors: lib.tensor(numbers).requires_grad_(requires_grad)
        weight = self.random.uniform(0.5, 1.5, (2, shape[1], 1, 1))

        def activation(lib, tensors):  # which lies channels-last here and row-major there
            return lib.nn.functional.conv2d(lib.tensor(numbers), lib.tensor(weight).requires_grad_(requires_grad))

        return activation

    def view(self) -> Step:
        index = self.any_tensor()
        shape = self.shapes[index]
        kinds = ["permute", "unsqueeze", "flatten", "detach", "expand"]
        kinds += ["row", "slice", "slice", "split", "narrow"] if shape and shape[0] > 1 else []
        kind = self.choose(*kinds)
        if kind == "permute":
            axes = tuple(int(axis) for axis in self.random.permutation(len(shape)))
            return lambda lib, tensors: tensors[index].permute(axes)
        if kind == "unsqueeze":
            axis = int(self.random.integers(len(shape) + 1))
            return lambda lib, tensors: tensors[index].unsqueeze(axis)
        if kind == "flatten":
            name = self.choose("view", "reshape")
            return lambda lib, tensors: getattr(tensors[index], name)(-1)
        if kind == "detach":
            return lambda lib, tensors: tensors[index].detach()
        if kind == "expand":
            return lambda lib, tensors: tensors[index].expand(2, *shape)
        if kind == "row":
            row = int(self.random.integers(shape[0]))
            return lambda lib, tensors: tensors[index][row]
        if kind == "slice":
            part = (self.choose(slice(1, None), slice(0, -1), slice(None, None, 2)),)
            part += (self.choose(slice(1, None), slice(None)),) if len(shape) > 1 and shape[1] > 1 else ()
            return lambda lib, tensors: tensors[index][part]
        if kind == "narrow":
            return lambda lib, tensors: tensors[index].narrow(0, 1, shape[0] - 1)
        which = int(self.random.integers(2))
        return lambda lib, tensors: tensors[index].split([1, shape[0] - 1])[which]

    def operation(self, in_place: bool) -> Step:
        index = self.any_tensor()
        kind = self.choose("unary", "number", "binary", "binary", "activation")
        end = "_" if in_place else ""
        if kind == "unary":
            name = self.choose("exp", "neg", "sqrt", "tanh", "sigmoid", "abs", "square", "sin", "floor")
            return lambda lib, tensors: getattr(tensors[index], name + end)()
        if kind == "number":
            name, number = self.choose("add", "mul", "sub", "div", "pow"), float(self.random.uniform(0.5, 2))
            return lambda lib, tensors: getattr(tensors[index], name + end)(number)
        if kind == "binary":
            name, other = self.choose("add", "mul", "sub", "div"), self.operand(self.shapes[index], index)
            return lambda lib, tensors: getattr(tensors[index], name + end)(tensors[other])
        name = self.choose("relu", "silu", "relu6")
        return lambda lib, tensors: getattr(lib.nn.functional, name)(tensors[index] - 1, inplace=in_place)

    def change(self) -> Step:
        index = self.any_tensor()
        shape = self.shapes[index]
        kinds = "operation", "operation", "activation", "row", "list", "copy", "fill", "mask", "clamp", "no_grad"
        kind = self.choose(*kinds)
        if kind == "operation":
            return self.operation(in_place=True)
        if kind == "activation":
            name = self.choose("relu", "silu", "relu6")
            return lambda lib, tensors: getattr(lib.nn.functional, name)(tensors[index], inplace=True)
        if kind == "fill":
            return lambda lib, tensors: tensors[index].fill_(0.75)
        if kind == "mask":
            mask = self.random.integers(0, 2, shape).astype(bool)
            return lambda lib, tensors: tensors[index].masked_fill_(lib.tensor(mask), 0.5)
        if kind == "clamp":
            return lambda lib, tensors: tensors[index].clamp_(0.6, 1.2)
        if kind == "no_grad":

            def unrecorded(lib, tensors):
                with lib.no_grad():
                    return tensors[index].mul_(1.25)

            return unrecorded
        if kind == "copy" or not shape or not shape[0]:
            other = self.operand(shape, index)
            return lambda lib, tensors: tensors[index].copy_(tensors[other])
        part: Any = int(self.random.integers(shape[0])) if kind == "row" else [shape[0] - 1, 0][: shape[0]]
        inner = shape[1:] if kind == "row" else (len(part), *shape[1:])
        source = self.operand(inner, index)
        number = float(self.random.uniform(0.5, 1.5))

        def assign(lib, tensors):
            tensors[index][part] = number if source is None else tensors[source]
            return tensors[index]

        return assign

    def step(self) -> Step:
        self.kind = "constant"
        if len(self.shapes) < 2:
            return self.constant(self.choose((3,), (2, 3), (3, 2), (2, 2, 2), (2, 3, 2, 2)))
        self.kind = self.choose("view", "view", "operation", "change", "change")
        return self.operation(in_place=False) if self.kind == "operation" else getattr(self, self.kind)()


def attempt(action: Callable, *arguments: Any) -> Any:
    with np.errstate(all="ignore"):
        try:
            return action(*arguments)
        except REFUSALS as error:
            return error


def compare(ours: list, theirs: list, what: str) -> None:
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert (a is None) == (b is None), f"{what} {index}: {a}, PyTorch has {b}"
        if a is not None:
            np.testing.assert_allclose(
                a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9, err_msg=f"{what} {index}"
            )


def run_both(seed: int, length: int = 12) -> str:
    writer = Writer(seed)
    ours: list = []
    theirs: list = []
    for _ in range(length):
        step = writer.step()
        a, b = attempt(step, minires, ours), attempt(step, torch, theirs)
        if "lies channels-last" in str(a):
            return "copied"  # where it could not be a view
        if "memory location" in str(b) or "is expanded" in str(a):
            return "overlap"  # PyTorch refuses some, and some it lets pass with a warning
        if isinstance(b, Exception) and writer.kind == "view" and any(a is tensor for tensor in ours):
            continue  # a view of all as it is, which here is the Tensor itself
        assert isinstance(a, Exception) == isinstance(b, Exception), f"minires: {a!r}, PyTorch: {b!r}"
        if isinstance(a, Exception):
            continue
        assert all(a is ours[index] for index, tensor in enumerate(theirs) if b is tensor)
        if any(a is ours[index] for index, tensor in enumerate(theirs) if b is not tensor):
            continue  # a view that shows all as it is, for PyTorch another Tensor
        ours.append(a)
        theirs.append(b)
        writer.shapes.append(tuple(b.shape))
        writer.memory.append(b.untyped_storage().data_ptr())
        compare(ours, theirs, "values of")
        flags = [[(t.requires_grad, attempt(getattr, t, "is_leaf") is True) for t in each] for each in (ours, theirs)]
        assert flags[0] == flags[1], f"requires_grad and is_leaf: {flags}"
    weights = [writer.random.uniform(0.5, 1.5, shape) for shape in writer.shapes]
    for tensor in (*ours, *theirs):
        attempt(tensor.retain_grad)

    def backward(lib, tensors):
        total = sum((tensor * lib.tensor(weight)).sum() for tensor, weight in zip(tensors, weights, strict=True))
        total.backward()

    a, b = attempt(backward, minires, ours), attempt(backward, torch, theirs)
    assert isinstance(a, Exception) == isinstance(b, Exception), f"minires: {a!r}, PyTorch: {b!r}"
    if isinstance(a, Exception):
        return "refused"
    # PyTorch forgets some retained gradients where a view was changed under no_grad.
    expected = [(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True) if b.is_leaf or b.grad is not None]
    compare(*map(list, zip(*expected, strict=True)), "gradient of")
    return "equal"


@pytest.mark.parametrize("seed", range(300))
@pytest.mark.filterwarnings("ignore")  # by PyTorch: of gradients that are not kept, of masks on expanded Tensors
def test_random_program(seed):
    run_both(seed)
