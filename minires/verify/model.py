"""Verifying the gradients of a whole net: each parameter by finite differences, and all of them against PyTorch.

For a parameter p with gradient g, the loss is evaluated at p + h v and p - h v along a random direction v of unit
length; (L+ - L-) / 2h must equal g . v. One direction a parameter instead of one an element: a whole ResNet in seconds.

Between the two points the loss must be smooth. If a ReLU opens or closes there, or another pixel wins a max pooling,
the difference is no derivative of anything: such a direction is noticed and another one drawn.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minires.autograd import Function, Tensor, no_grad, observe
from minires.nn import Module, Parameter
from minires.nn import functional as F
from minires.ops.activation import ReLU
from minires.ops.batch_norm import BatchNorm
from minires.ops.max_pool2d import MaxPool2d
from minires.verify.against_torch import torch_gradients

STEP = 1e-6  # rounding errs by about 1e-16 / STEP, curvature by STEP^2: both far below the tolerance
DRAWS = 30  # directions to try for one that crosses no kink
FINITE_DIFFERENCE_TOLERANCE = 1e-5
TORCH_TOLERANCE = 1e-9


@dataclass(frozen=True)
class GradientCheck:
    """What was found for one parameter; errors are relative, and ``None`` where that comparison was not made."""

    name: str
    shape: tuple[int, ...]
    gradient_norm: float
    finite_difference_error: float
    torch_error: float | None = None

    @property
    def passed(self) -> bool:
        """Whether both comparisons are within their tolerances; NaN is not."""
        agrees = self.finite_difference_error <= FINITE_DIFFERENCE_TOLERANCE
        return agrees and (self.torch_error is None or self.torch_error <= TORCH_TOLERANCE)

    @property
    def badness(self) -> float:
        """The larger error as a multiple of its tolerance: what tables are sorted by."""
        errors = [self.finite_difference_error / FINITE_DIFFERENCE_TOLERANCE]
        if self.torch_error is not None:
            errors.append(self.torch_error / TORCH_TOLERANCE)
        return max(np.inf if np.isnan(error) else error for error in errors)


def verify_model(
    model: Module,
    images: np.ndarray,
    labels: np.ndarray,
    against_torch: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[GradientCheck]:
    """Check the gradient of the mean cross entropy by every parameter of ``model``, in float64; worst first.

    The model itself is left as it is: a float64 copy is checked, in the mode (train or eval) that the model is in.

    Parameters
    ----------
    images : array (N, C, H, W)
    labels : int64 array (N,)
    against_torch : also compute the same net's gradients with PyTorch
    progress : called with (parameters done, parameters in all)

    Raises
    ------
    ImportError
        If PyTorch is asked for and not installed.
    NotImplementedError
        If PyTorch is asked for and the net uses an op that the comparison does not know.
    """
    net = copy.deepcopy(model).double()
    x, target = Tensor(images.astype(np.float64)), Tensor(labels)

    def loss() -> Tensor:
        return F.cross_entropy(net(x), target)

    net.zero_grad()
    loss().backward()
    theirs = torch_gradients(net, x, target) if against_torch else {}
    rng = np.random.default_rng(seed)
    parameters = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    checks = []
    for done, (name, parameter) in enumerate(parameters):
        gradient = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.cpu().numpy()
        direction, numerical = _directional_derivative(loss, parameter, rng)
        norm = float(np.linalg.norm(gradient))
        # A derivative along a random direction of n dimensions is about norm / sqrt(n): measure the error by that.
        scale = max(norm / np.sqrt(gradient.size), 1e-12)
        error = float(abs((gradient * direction).sum() - numerical) / scale)
        torch_error = None
        if against_torch:
            torch_error = float(np.linalg.norm(gradient - theirs[name])) / max(
                float(np.linalg.norm(theirs[name])), 1e-12
            )
        checks.append(GradientCheck(name, parameter.shape, norm, error, torch_error))
        if progress is not None:
            progress(done + 1, len(parameters))
    return sorted(checks, key=lambda check: -check.badness)


class _Branches:
    """A digest of which way every ReLU and every max pooling of a forward pass went."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b()

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        if isinstance(function, MaxPool2d):
            self.digest.update(outputs[1].cpu().numpy().tobytes())
        elif isinstance(function, ReLU) or (isinstance(function, BatchNorm) and function.activation == "relu"):
            self.digest.update(np.packbits(outputs[0].cpu().numpy() > 0).tobytes())

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """Only the forward pass takes branches."""


def _directional_derivative(
    loss: Callable[[], Tensor], parameter: Parameter, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return a random direction of unit length and the central difference of the loss along it.

    If every direction drawn crosses a kink, the last one stands, and its error shows in the table.
    """
    start = parameter.detach().clone()
    for _ in range(DRAWS):
        direction = rng.standard_normal(parameter.shape)
        direction /= np.linalg.norm(direction)
        shift = Tensor(direction).to(parameter.device) * STEP
        values, branches = [], []
        with no_grad():
            for moved in (start + shift, start - shift):
                parameter.copy_(moved)
                with observe(_Branches()) as watcher:
                    values.append(loss().item())
                branches.append(watcher.digest.digest())
            parameter.copy_(start)
        if branches[0] == branches[1]:
            break
    return direction, (values[0] - values[1]) / (2 * STEP)
