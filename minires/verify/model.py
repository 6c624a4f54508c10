"""Verifying the gradients of a whole net: each parameter by finite differences, and all of them against PyTorch.

For a parameter p with gradient g, the loss is differentiated numerically along a random direction v; it must equal
g . v. One direction a parameter instead of one an element: a whole ResNet in seconds. In a net of many parameters,
those whose derivatives are about as large share a direction, and are looked at one by one only where that is wrong.

Between the points where the loss is evaluated it must be smooth. If a ReLU opens or closes there, or another pixel wins
a max pooling, the difference is no derivative of anything. Among a million units some are always near 0, so the steps
shrink until no unit changes its side, and if none is small enough another direction is drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from minires.autograd import Tensor, no_grad
from minires.device import to_device
from minires.nn import Module
from minires.nn import functional as F
from minires.verify.against_torch import torch_gradients
from minires.verify.branches import watching
from minires.verify.differences import SAFETY, SHRINK, differentiate, estimate_noise
from minires.verify.jacobian import NOISE_STEP
from minires.verify.result import plain
from minires.verify.verdict import DIFFERENT, EQUAL, ORDER, Tolerance, Verdict, judge

STEP = 1e-4  # the largest, as a part of the size of a parameter
LEAST_FIRST_STEP = 4e-6  # the first that is tried, however little the last parameter could be moved
GROUPS = 16  # how many directions to begin with
DRAWS = 5  # directions to try for one that meets no kink
LEVELS = 2  # the steps are tiny, so rounding limits them and not curvature
TABLES = 3
RELATIVE = 1e-5
NEGLIGIBLE = 1e-7  # a change of the loss, as a part of it, for a change of a parameter as large as itself
TORCH_TOLERANCE = 1e-9
VANISHING = 1e-4  # a gradient this much smaller than the largest need not be as precise


@dataclass(frozen=True)
class GradientCheck:
    """What was found for one parameter.

    Errors are relative: ``finite_difference_error`` and ``expected_error``, its uncertainty, to the size of a
    derivative along a random direction, ``torch_error`` to the norm, at least `VANISHING` times the largest; it is None
    where that comparison was not made.
    ``redrawn`` counts the directions that met a kink.
    """

    name: str
    shape: tuple[int, ...]
    gradient_norm: float
    finite_difference_error: float
    expected_error: float
    verdict: Verdict
    redrawn: int = 0
    torch_error: float | None = None

    @property
    def passed(self) -> bool:
        """Whether both comparisons are within their tolerances; NaN is not."""
        return self.verdict is Verdict.EQUAL and (self.torch_error is None or self.torch_error <= TORCH_TOLERANCE)

    @property
    def badness(self) -> float:
        """The larger error as a multiple of what is allowed: what tables are sorted by."""
        errors = [self.finite_difference_error / (RELATIVE + self.expected_error)]
        if self.torch_error is not None:
            errors.append(self.torch_error / TORCH_TOLERANCE)
        return max(np.inf if np.isnan(error) else error for error in errors)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {"passed": self.passed, **plain(asdict(self))}


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
    theirs = torch_gradients(net, x, target) if against_torch else None
    return verify_parameters(
        net, lambda net: F.cross_entropy(net(x), target), seed, progress, expected=theirs, in_place=True
    )


def verify_parameters(
    model: Module,
    loss: Callable[[Module], Tensor],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    expected: Mapping[str, np.ndarray] | None = None,
    in_place: bool = False,
) -> list[GradientCheck]:
    """Check the gradient of a loss by every parameter of ``model``, in float64; worst first.

    Parameters
    ----------
    loss : from the model, which it is given in float64, to a Tensor of one element; deterministic
    progress : called with (parameters done, parameters in all)
    expected : gradients by name, computed elsewhere, to compare with as well
    in_place : check the model itself, which is in float64 and whose gradients may go, instead of a copy

    Raises
    ------
    ValueError
        If the model has no parameters, or the loss is no Tensor of one element, not finite, or not the same twice.
    """
    net = model if in_place else copy.deepcopy(model).double()
    parameters: list[tuple[str, Tensor]] = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("verify: the model has no parameters that require a gradient")
    net.zero_grad()
    value = loss(net)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {value.shape}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"verify: the loss must be a Tensor of one element, got {got}")
    value.backward()
    probe = _Probe(net, loss, parameters, np.random.default_rng(seed), expected or {})
    checks: list[GradientCheck] = []
    for group in probe.groups(parameters):
        found = probe.check(group)
        if len(group) > 1 and not all(check.verdict is Verdict.EQUAL for check in found):
            found = [check for each in group for check in probe.check([each])]
        checks += found
        if progress is not None:
            progress(len(checks), len(parameters))
    net.zero_grad()
    return sorted(checks, key=lambda check: -check.badness)


def verify_module(model: Module, inputs: Sequence[Any], seed: int = 0) -> list[GradientCheck]:
    """Check the gradients of ``model(*inputs)``, weighted at random and added up, by every parameter; worst first.

    Raises
    ------
    ValueError
        As `verify_parameters`.
    """
    given = [x.detach().double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]

    def loss(net: Module) -> Tensor:
        result = net(*given)
        rng = np.random.default_rng(seed)
        outputs = result if isinstance(result, (tuple, list)) else [result]
        if not outputs or not all(isinstance(y, Tensor) and y.is_floating_point() for y in outputs):
            raise ValueError("verify: the module must return Tensors of floating-point numbers")
        weighted = [(y * Tensor(to_device(rng.standard_normal(y.shape), y.device))).sum() for y in outputs]
        return sum(weighted[1:], weighted[0])

    return verify_parameters(model, loss, seed)


class _Probe:
    """Moves parameters and watches the loss."""

    def __init__(
        self,
        net: Module,
        loss: Callable[[Module], Tensor],
        parameters: list,
        rng: np.random.Generator,
        expected: Mapping[str, np.ndarray],
    ):
        self.net, self.loss, self.rng, self.expected = net, loss, rng, expected
        norms = [float(np.linalg.norm(gradient)) for gradient in expected.values()]
        # What vanishes, such as the gradient of a bias before a batch norm, is left as the rounding of larger terms.
        self.least_norm = max(VANISHING * max(norms, default=0.0), 1e-300)
        self.step = STEP  # what the last parameter could do with is where the next begins
        self.start = self._loss()
        if not np.isfinite(self.start[0]).all():
            raise ValueError(f"verify: the loss is {self.start[0][0]}: there is no derivative to check at such a point")
        if self._loss()[0] != self.start[0]:
            raise ValueError(
                "verify: the loss is another at the second call: fix what is random in it, such as dropout, with eval()"
            )
        self.natural = float(np.abs(self.start[0][0]))
        self.tolerance = Tolerance(RELATIVE, NEGLIGIBLE * self.natural, resolution=1e-3)
        directions = [(p, self._direction(p)) for _, p in parameters]
        resolution = np.array([np.finfo(np.float64).eps])
        self.noise = estimate_noise(partial(self._moved, directions), self.start[0], NOISE_STEP, resolution)

    def groups(self, parameters: list[tuple[str, Tensor]]) -> list[list[tuple[str, Tensor]]]:
        """Return parameters in groups of about equal derivatives along a random direction."""
        sizes = {name: float(np.linalg.norm(_gradient(p) * self._direction(p))) for name, p in parameters}
        ordered = sorted(parameters, key=lambda pair: sizes[pair[0]])
        length = -(-len(ordered) // GROUPS)
        return [ordered[k : k + length] for k in range(0, len(ordered), length)]

    def check(self, group: list[tuple[str, Tensor]]) -> list[GradientCheck]:
        """Compare along a random direction of all the parameters in ``group`` at once."""
        for redrawn in range(DRAWS):  # noqa: B007 (read after the loop)
            directions = [(p, self._direction(p)) for _, p in group]
            terms = [_gradient(p) * direction for p, direction in directions]
            analytical, scales = np.array([sum(t.sum() for t in terms)]), [float(np.linalg.norm(t)) for t in terms]
            path = partial(self._moved, directions)
            found = differentiate(path, self.start, self.noise, self.step, True, LEVELS, TABLES)
            self.step = min(STEP, max(LEAST_FIRST_STEP, found.step / SHRINK**0.5))
            sides = analytical, found.value, found.uncertainty, found.kink, found.crossed
            # The least of the derivatives decides what must be seen.
            code = judge(*sides, min(scales), self.natural, self.tolerance)[0]
            if code in (EQUAL, DIFFERENT) or not np.isfinite(analytical).all():
                break
        apart, doubt = float(np.abs(analytical - found.value)[0]), float(SAFETY * found.uncertainty[0])
        checks = []
        for (name, parameter), scale in zip(group, scales, strict=True):
            size = max(scale, NEGLIGIBLE * self.natural) or 1.0
            gradient, torch_error = _gradient(parameter), None
            if name in self.expected:
                theirs = self.expected[name]
                norm = max(float(np.linalg.norm(theirs)), self.least_norm)
                torch_error = float(np.linalg.norm(gradient - theirs)) / norm
            checks.append(
                GradientCheck(
                    name,
                    parameter.shape,
                    float(np.linalg.norm(gradient)),
                    apart / size,
                    doubt / size,
                    ORDER[code],
                    redrawn,
                    torch_error,
                )
            )
        return checks

    def _direction(self, parameter: Tensor) -> np.ndarray:
        """Random, and as long as the parameter."""
        values = parameter.detach().cpu().numpy()
        typical = float(np.sqrt(np.mean(values**2))) if values.size else 0.0
        return self.rng.standard_normal(parameter.shape) * (typical or 1.0)

    def _moved(self, directions: list[tuple[Tensor, np.ndarray]], t: float) -> tuple[np.ndarray, bytes]:
        """Return the loss with parameters moved by ``t`` times their directions, and put them back."""
        before = [parameter.array.copy() for parameter, _ in directions]
        with no_grad():
            for parameter, direction in directions:
                parameter.add_(Tensor(to_device(t * direction, parameter.device)))
            result = self._loss()
            for (parameter, _), array in zip(directions, before, strict=True):
                parameter.copy_(Tensor(array))
        return result

    def _loss(self) -> tuple[np.ndarray, bytes]:
        with no_grad(), watching() as branches:
            value = self.loss(self.net)
        return np.array([value.item()]), branches.digest


def _gradient(parameter: Tensor) -> np.ndarray:
    return np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.cpu().numpy()
