"""Every public op takes PyTorch's arguments by PyTorch's names, or docs/pytorch.md says that it does not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minires
from minires import nn, optim

PAGE = (Path(__file__).parent.parent / "docs" / "pytorch.md").read_text()
PLACES: dict[str, tuple[Any, Any, list[str]]] = {
    "": (minires, torch, minires.__all__),
    "F.": (nn.functional, torch.nn.functional, nn.functional.__all__),
    "Tensor.": (minires.Tensor, torch.Tensor, [name for name in dir(minires.Tensor) if not name.startswith("_")]),
    "nn.": (nn, torch.nn, nn.__all__),
    "nn.init.": (nn.init, torch.nn.init, [name for name in dir(nn.init) if re.fullmatch(r"[a-z]\w*[a-z]_?", name)]),
    "optim.": (optim, torch.optim, optim.__all__),
    "lr_scheduler.": (optim.lr_scheduler, torch.optim.lr_scheduler, optim.lr_scheduler.__all__),
}
# Of another kind than PyTorch's of this name, or taking what has no name.
OTHERS = {"Tensor", "device", "compile", "load", "save", "result_type", "enable_grad", "no_grad", "set_grad_enabled"}
# What PyTorch's documentation calls an argument that PyTorch itself takes by the name behind.
WRITTEN_OTHERWISE = {
    "Tensor.bmm": {"batch2": "mat2"},
    "Tensor.copy_": {"src": "other"},
    "Tensor.div": {"value": "other"},
    "Tensor.div_": {"value": "other"},
    "Tensor.mul": {"value": "other"},
    "Tensor.mul_": {"value": "other"},
    "Tensor.floor_divide": {"value": "other"},
    "Tensor.expand": {"sizes": "size"},
    "Tensor.matmul": {"tensor2": "other"},
    "Tensor.narrow": {"dimension": "dim"},
    "Tensor.remainder": {"divisor": "other"},
    "Tensor.to": {"args": "tensor", "other": "tensor"},
    "Tensor.type_as": {"tensor": "other"},
    "Tensor.view": {"shape": "size"},
    "Tensor.where": {"y": "other"},
    "broadcast_to": {"shape": "size"},
    "remainder": {"a": "input"},
    # These PyTorch takes by position only.
    "set_default_dtype": {"d": "dtype"},
    "set_num_threads": {"int": "threads"},
    "from_numpy": {"ndarray": "array"},
}


def split(text: str) -> list[str]:
    """Arguments as documented, apart at the commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [
        re.sub(r"[=:].*", "", part.replace("\\", ""), flags=re.S).split()[-1].lstrip("*")
        for part in parts
        if part.strip("* \n")
    ]


def arguments_of_torch(name: str, function: Callable) -> set[str]:
    """The names in PyTorch's signature, or in all those that begin its documentation."""
    found: set[str] = set()
    for signature in re.finditer(
        rf"^\s*(?:\.\. (?:function|method):: )?(?:torch\.|Tensor\.)*{name}\((.*?)\) *(?:->|$)",
        function.__doc__ or "",
        re.MULTILINE,
    ):
        found |= {name for name in split(signature[1]) if name.isidentifier()}  # examples have numbers there
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # a builtin
        return found
    return found | {p.name for p in parameters if p.kind is not p.VAR_KEYWORD and not p.name.startswith("_")}


def arguments_of_minires(function: Callable) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} | set(getattr(function, "aliases", ()))
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # those of the creation functions
        names |= {"dtype", "device", "requires_grad"}
    return names


def nowhere_taken() -> set[str]:
    (sentence,) = re.findall(r"^Nowhere taken:(.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`(\w+)`", sentence)) - {"manual_seed"}


def listed() -> dict[str, set[str]]:
    """The table of the page: which arguments are not taken, by function."""
    table: dict[str, set[str]] = {}
    for functions, arguments in re.findall(r"^\| (`.*?) \| (`.*?) \|", PAGE, re.MULTILINE):
        for function in re.findall(r"`([\w.]+)`", functions):
            table[function] = set(re.findall(r"`(\w+)`", arguments))
    return table


def lacking() -> dict[str, set[str]]:
    """What PyTorch documents and minires does not take, by function."""
    found = {}
    for place, (ours, theirs, names) in PLACES.items():
        for name in names:
            function, other = getattr(ours, name), getattr(theirs, name, None)
            if other is None or name in OTHERS or not callable(function) or not callable(other):
                continue
            otherwise = WRITTEN_OTHERWISE.get(place + name, {})
            wanted = {otherwise.get(argument, argument) for argument in arguments_of_torch(name, other)}
            missing = wanted - arguments_of_minires(function) - nowhere_taken()
            missing -= {"self", "args", "kwargs"} | ({"input"} if place == "Tensor." else set())
            if missing:
                found[place + name] = missing
    return found


def test_the_page_lists_all_arguments_that_are_not_taken_and_no_others():
    assert lacking() == listed()


def test_signatures_of_pytorch_were_found():
    assert arguments_of_torch("sum", torch.sum) >= {"input", "dim", "keepdim", "dtype"}
    assert arguments_of_torch("flip", torch.Tensor.flip) == {"dims"}
    assert len(nowhere_taken()) == 12


X = np.arange(6.0).reshape(2, 3) - 2
CALLS: dict[str, Callable] = {
    "flip": lambda lib, x: x.flip(dims=(1,)),
    "torch.flip": lambda lib, x: lib.flip(input=x, dims=[0, 1]),
    "permute": lambda lib, x: x.permute(dims=(1, 0)),
    "torch.permute": lambda lib, x: lib.permute(x, dims=(1, 0)),
    "reshape": lambda lib, x: x.reshape(shape=(3, -1)),
    "torch.reshape": lambda lib, x: lib.reshape(x, shape=(3, 2)),
    "view": lambda lib, x: x.view(size=(3, 2)),
    "expand": lambda lib, x: x.expand(size=(2, 2, 3)),
    "repeat": lambda lib, x: x.repeat(repeats=(2, 1)),
    "broadcast_to": lambda lib, x: lib.broadcast_to(x, size=(2, 2, 3)),
    "split": lambda lib, x: lib.split(tensor=x, split_size_or_sections=1)[1],
    "Tensor.split": lambda lib, x: x.split(split_size=1)[1],
    "swapaxes": lambda lib, x: x.swapaxes(axis0=0, axis1=1),
    "round": lambda lib, x: (x / 7).round(decimals=2),
    "norm": lambda lib, x: lib.norm(x, p=3, dim=1, keepdim=True, dtype=lib.float64),
    "numpy": lambda lib, x: lib.from_numpy(x.requires_grad_().numpy(force=True)),
    "to": lambda lib, x: x.to(tensor=lib.zeros(1, dtype=lib.int32)),
    "copy_": lambda lib, x: x.copy_(other=lib.ones(3, dtype=x.dtype)),
    "div_": lambda lib, x: x.div_(other=2, rounding_mode="floor"),
    "gather": lambda lib, x: lib.gather(x, axis=1, index=lib.zeros(2, 1, dtype=lib.int32), sparse_grad=False),
    **{
        f"{name}, axis": lambda lib, x, name=name: getattr(lib, name)(x, axis=0)
        for name in ("sum", "mean", "std", "prod", "argmax", "argsort", "softmax", "logsumexp", "squeeze", "unsqueeze")
    },
    **{f"{name}, axis": lambda lib, x, name=name: getattr(lib, name)([x, x], axis=1) for name in ("cat", "stack")},
    **{
        f"{name}, axis": lambda lib, x, name=name: getattr(lib, name)(x, axis=1)[0]
        for name in ("sort", "max", "unbind")
    },
    "topk, axis": lambda lib, x: lib.topk(x, k=1, axis=0)[1],
    "chunk, axis": lambda lib, x: lib.chunk(x, 2, axis=1)[1],
    "narrow, axis": lambda lib, x: lib.narrow(x, axis=1, start=1, length=2),
    "where": lambda lib, x: lib.where(x > 0)[1],
    "keepdims": lambda lib, x: lib.sum(x, 1, keepdims=True),
    "zeros": lambda lib, x: lib.zeros(size=(2, 3), dtype=lib.float64, requires_grad=True),
    "full": lambda lib, x: lib.full(size=(2,), fill_value=3),
    "eye": lambda lib, x: lib.eye(n=2, m=3, requires_grad=True),
    "arange": lambda lib, x: lib.arange(start=1, end=7, step=2),
    "arange to": lambda lib, x: lib.arange(end=3),
    "linspace": lambda lib, x: lib.linspace(start=0, end=1, steps=3),
    "new_zeros": lambda lib, x: x.new_zeros(size=(2, 2)),
    "zeros_like": lambda lib, x: lib.zeros_like(x, dtype=lib.int64, device="cpu"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls_by_name_are_pytorchs(call):
    ours, theirs = (call(lib, lib.tensor(X)) for lib in (minires, torch))
    assert ours.requires_grad == theirs.requires_grad
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6)


def test_draws_take_pytorchs_names():
    for call in (
        lambda lib: lib.rand(size=(2, 3)),
        lambda lib: lib.randn(size=(2, 3), requires_grad=True),
        lambda lib: lib.randint(low=1, high=3, size=(2, 3)),
        lambda lib: lib.randint(high=3, size=(2, 3), dtype=lib.float32, requires_grad=True),
        lambda lib: lib.randperm(n=3, dtype=lib.int32),
        lambda lib: lib.rand_like(lib.ones(2), dtype=lib.float64, device="cpu"),
        lambda lib: lib.ones(3).uniform_(**{"from": 2, "to": 3}),
        lambda lib: lib.ones(3).normal_(mean=0, std=1),
    ):
        ours, theirs = call(minires), call(torch)
        assert ours.shape == tuple(theirs.shape)
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        assert ours.requires_grad == theirs.requires_grad


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum(dim=0, axis=0),
        lambda x: x.flip(0, dims=(0,)),
        lambda x: x.reshape(2, 3, shape=(2, 3)),
        lambda x: minires.zeros(2, size=(2,)),
        lambda x: minires.split(x, 1, dim=0, axis=0),
    ],
)
def test_an_argument_given_twice_is_refused(call):
    with pytest.raises(TypeError, match=r"by name|say the same"):
        call(minires.tensor(X))
