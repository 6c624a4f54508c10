"""One program, run with minires and with PyTorch: both must return the same, or both refuse."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import minires

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


class Programs(list):
    """Functions of a library. An empty list of them serves as the decorator that collects a file's."""

    def __call__(self, program: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self.append(program)
        return program


def leaf(library: Any, *numbers: float, requires_grad: bool = True) -> Any:
    """Return a Tensor of float64."""
    return library.tensor(list(numbers), dtype=library.float64, requires_grad=requires_grad)


def fill(library: Any, module: Any) -> Any:
    """Give a module's parameters the same numbers in both libraries, in float64, and return it."""
    with library.no_grad():
        for index, parameter in enumerate(module.parameters()):
            numbers = np.random.default_rng(index).standard_normal(tuple(parameter.shape))
            parameter.copy_(library.from_numpy(numbers))
    return module.double()


def data(library: Any, *shape: int, seed: int = 9, requires_grad: bool = False) -> Any:
    """Return a Tensor of the same random numbers in both libraries."""
    return library.tensor(np.random.default_rng(seed).standard_normal(shape)).requires_grad_(requires_grad)


def small_net(library: Any) -> Any:
    """Return two linear layers with batch norm and ReLU between them, the same in both libraries."""
    nn = library.nn
    layers = OrderedDict(first=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), act=nn.ReLU(), last=nn.Linear(4, 2))
    return fill(library, nn.Sequential(layers))


def check(program: Callable[[Any], Any]) -> None:
    """Run ``program(library)`` for both: the results must be equal; both must refuse it if its name says "refuse"."""
    if program.__name__.startswith("refuse"):
        assert len(str(refusal(program))) > 15
    else:
        assert_twins(program)


def assert_twins(program: Callable[[Any], Any], tolerance: float = 1e-12) -> None:
    """Run ``program(library)`` for both and compare nested results of Tensors, numbers, strings and None."""
    ours, theirs = _outcome(program, minires), _outcome(program, torch)
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), f"PyTorch refuses ({theirs}), minires returns {ours}"
        assert len(str(ours)) > 15, f"the message says too little: {ours}"
    else:
        if isinstance(ours, Exception):
            raise AssertionError(f"minires refuses, PyTorch returns {theirs}") from ours
        _compare(ours, theirs, tolerance, "result")


def refusal(program: Callable[[Any], Any]) -> Exception:
    """Return the error with which minires refuses, having checked that PyTorch raises the same class."""
    ours, theirs = _outcome(program, minires), _outcome(program, torch)
    assert isinstance(theirs, Exception), f"PyTorch returns {theirs}"
    assert type(ours) is type(theirs), f"minires gives {ours!r}, PyTorch {theirs!r}"
    return ours


def _outcome(program: Callable[[Any], Any], library: Any) -> Any:
    with warnings.catch_warnings():
        if library is torch:
            warnings.simplefilter("ignore")
        try:
            return program(library)
        except REFUSALS as error:
            return error


def _compare(ours: Any, theirs: Any, tolerance: float, where: str) -> None:
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs), f"{where}: {len(ours)} items, PyTorch has {len(theirs)}"
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _compare(a, b, tolerance, f"{where}[{index}]")
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, minires.Tensor), f"{where}: {ours!r}, PyTorch has {theirs!r}"
        a, b = ours.detach().numpy(), theirs.detach().numpy()
        assert (a.shape, a.dtype) == (b.shape, b.dtype), where
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=where)
        assert ours.requires_grad == theirs.requires_grad, f"{where}: requires_grad is {ours.requires_grad}"
    else:
        assert ours == theirs, f"{where}: {ours!r}, PyTorch has {theirs!r}"
