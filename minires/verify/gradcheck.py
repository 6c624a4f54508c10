"""gradcheck, gradgradcheck and gradcheck_numpy: what users call, and what they refuse before any comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from minires.autograd import Tensor, grad
from minires.device import to_device
from minires.verify.directions import check_directions
from minires.verify.jacobian import FullCheck, element_scales
from minires.verify.pairs import PairSubject
from minires.verify.result import GradcheckError, Result
from minires.verify.subject import Subject, Variable, kind_of
from minires.verify.tensors import TensorSubject, check_own_dtype
from minires.verify.verdict import Tolerance, Verdict

Mode = Literal["full", "directions"]


def gradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    eps: float | None = None,
    atol: float | None = None,
    rtol: float = 1e-6,
    raise_exception: bool = True,
    *,
    mode: Mode = "full",
    directions: int = 3,
    allow_unused: bool = False,
    seed: int = 0,
) -> Result:
    """Compare the gradients of ``fn(*inputs)`` with derivatives computed from its values alone.

    The call is that of ``torch.autograd.gradcheck``. The numerical side runs in float64, with steps chosen for every
    element and an uncertainty for what comes out (see `differences`), which rests on the numbers of that element alone;
    at a kink the inputs are nudged and the result says how often. float32 inputs are checked twice: all of it in
    float64, and the float32 gradient against that. A function whose values move in steps, as one that computes in
    float32 inside, is ill-conditioned, and the result says how large the steps are.

    Parameters
    ----------
    fn : takes the inputs, returns a Tensor or a tuple of Tensors. Must do the same at every call.
    inputs : Tensors in float32 or float64, and anything else, passed on as it is
    eps : the largest step to try; by default about 1/40 of the size of each element
    atol, rtol : values apart by ``atol + rtol * |larger|`` count as equal, beside the uncertainty of the numerical one.
        By default atol is 1e-10, or less for an output whose value is small beside the element that moves.
    raise_exception : raise unless every derivative is equal; else the result is returned whatever it says
    mode : "full" compares every element of the Jacobian; "directions" compares ``directions`` random directions of
        every input for every output, in time that hardly depends on their sizes
    allow_unused : accept an input that has no influence on any output, and one or an output without elements
    seed : of directions and nudges

    Returns
    -------
    Result : true only if all is equal; see `minires.verify.Result`.

    Raises
    ------
    ValueError
        If there is nothing to check, or it cannot be checked: no input requires a gradient or one is of another dtype,
        the function returns no Tensor or none that depends on the inputs, changes an input, or is not finite there.
    GradcheckError
        If the verdict is not equal.

    Examples
    --------
    >>> x = minires.randn(4, 3, requires_grad=True)
    >>> bool(gradcheck(minires.softmax, (x, 1)))
    True
    """
    inputs = _arguments(inputs, "gradcheck")
    subject = TensorSubject("gradcheck", fn, inputs)
    if not subject.connected:
        raise ValueError("gradcheck: no output depends on the inputs through the graph")
    _refuse_empty(subject, "gradcheck", allow_unused)
    tolerance = _tolerance(rtol, atol)
    result = check(subject, "gradcheck", tolerance, mode, directions, eps, seed)
    if not result.failure and any(isinstance(x, Tensor) and x.dtype == np.float32 and x.requires_grad for x in inputs):
        result = check_own_dtype(result, fn, inputs, seed)
    return _concluded(result, subject, allow_unused, raise_exception)


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    eps: float | None = None,
    atol: float | None = None,
    rtol: float = 1e-6,
    raise_exception: bool = True,
    *,
    mode: Mode = "full",
    directions: int = 3,
    allow_unused: bool = False,
    seed: int = 0,
) -> Result:
    """Compare second derivatives: `gradcheck` of the gradients of ``fn``, as ``torch.autograd.gradgradcheck`` does.

    The function checked takes the inputs and the gradients of the outputs, and returns the gradients of the inputs. Of
    second derivatives that vanish nothing is said: an input that has no influence on a gradient is equal.

    Parameters
    ----------
    grad_outputs : the gradients of the outputs; random by default
    allow_unused : accept an input or an output without elements
    others : see `gradcheck`

    Raises
    ------
    ValueError, GradcheckError
        As `gradcheck`.
    """
    inputs = _arguments(inputs, "gradgradcheck")
    first = TensorSubject("gradgradcheck", fn, inputs)
    if not first.connected:
        raise ValueError("gradgradcheck: no output depends on the inputs through the graph")
    _refuse_empty(first, "gradgradcheck", allow_unused)
    if grad_outputs is None:
        rng = np.random.default_rng(seed)
        device = inputs[first.positions[0]].device
        arrays = [np.asarray(rng.standard_normal(y.shape)) for y in first.outputs]
        cotangents = tuple(Tensor(to_device(array, device), requires_grad=True) for array in arrays)
    else:
        cotangents = _arguments(grad_outputs, "gradgradcheck")
        shapes, expected = [getattr(g, "shape", None) for g in cotangents], [y.shape for y in first.outputs]
        if shapes != expected:
            raise ValueError(f"gradgradcheck: grad_outputs of shapes {shapes} for outputs of shapes {expected}")
    count = len(inputs)

    def gradients(*arguments: Any) -> tuple[Tensor, ...]:
        outputs = first.outputs_of(arguments[:count])
        varying = [pair for pair in zip(outputs, arguments[count:], strict=True) if pair[0].requires_grad]
        leaves = [arguments[i] for i in first.positions]
        ends, directions = zip(*varying, strict=True)
        found = grad(ends, leaves, directions, create_graph=True, allow_unused=True, materialize_grads=True)
        return tuple(g for g in found if g is not None)

    subject = TensorSubject("gradgradcheck", gradients, (*inputs, *cotangents))
    result = check(subject, "gradgradcheck", _tolerance(rtol, atol), mode, directions, eps, seed)
    return _concluded(result, subject, allow_unused=True, raise_exception=raise_exception)


def gradcheck_numpy(
    fn: Callable[..., Any],
    vjp: Callable[..., Any],
    inputs: np.ndarray | Sequence[np.ndarray],
    eps: float | None = None,
    atol: float | None = None,
    rtol: float = 1e-6,
    raise_exception: bool = True,
    *,
    mode: Mode = "full",
    directions: int = 3,
    allow_unused: bool = False,
    seed: int = 0,
) -> Result:
    """Compare a backward pass written by hand on NumPy arrays with derivatives computed from the forward pass alone.

    Parameters
    ----------
    fn : takes the arrays, returns an array (or number) or a tuple of arrays
    vjp : ``vjp(inputs, grad_outputs)`` takes the tuple of inputs and the gradient of the output (a tuple of them if fn
        returns a tuple), and returns the gradient of the input (a tuple of them if there are several); None for an
        input means that it has no gradient
    inputs : float64 arrays, one or several
    others : see `gradcheck`

    Returns
    -------
    Result : true only if all is equal.

    Raises
    ------
    ValueError
        If an input is not float64, a value is not finite, or something returned has another shape than it must.
    GradcheckError
        If the verdict is not equal.

    Examples
    --------
    >>> bool(gradcheck_numpy(np.tanh, lambda inputs, dy: dy * (1 - np.tanh(inputs[0]) ** 2), np.ones(3)))
    True
    """
    subject = PairSubject(fn, vjp, inputs)
    _refuse_empty(subject, "gradcheck_numpy", allow_unused)
    result = check(subject, "gradcheck_numpy", _tolerance(rtol, atol), mode, directions, eps, seed)
    return _concluded(result, subject, allow_unused, raise_exception)


def check(
    subject: Subject,
    caller: str,
    tolerance: Tolerance,
    mode: Mode,
    directions: int,
    eps: float | None,
    seed: int,
) -> Result:
    """Check a subject in the chosen mode.

    Raises
    ------
    ValueError
        If the function is not finite at the point, the mode is unknown or eps no step.
    """
    if mode not in ("full", "directions"):
        raise ValueError(f'{caller}: mode must be "full" or "directions", got {mode!r}')
    if eps is not None and not 0 < eps < np.inf:
        raise ValueError(f"{caller}: the step eps must be positive and finite, got {eps}")
    begin = time.perf_counter()
    with np.errstate(all="ignore"):  # steps may leave the domain of a function: NaN is seen and dealt with
        _refuse_infinite(subject, caller)
        rng = np.random.default_rng(seed)
        start = subject.value(subject.point)[0]
        unsteady = _unsteady(subject, start, rng)
        if unsteady is not None:
            return Result((), mode, failure=(Verdict.NOT_DETERMINISTIC, f"not deterministic: {unsteady}"))
        if mode == "full":
            full = FullCheck(subject, tolerance, rng, eps)
            blocks, odd = full.run(), full.nonlinearity()
            failure = None if odd is None else (Verdict.DIFFERENT, odd)
            result = Result(blocks, mode, nudged=full.nudged, evaluations=full.evaluations, failure=failure)
        else:
            result = check_directions(subject, tolerance, rng, directions, eps)
        if not np.array_equal(subject.value(subject.point)[0], start):
            late = f"not deterministic: after {result.evaluations} evaluations the function has another value"
            return Result((), mode, failure=(Verdict.NOT_DETERMINISTIC, late))
    return replace(result, seconds=time.perf_counter() - begin)


def _arguments(given: Any, caller: str) -> tuple[Any, ...]:
    if isinstance(given, Tensor):
        return (given,)
    arguments = given if isinstance(given, (tuple, list)) else [given]
    foreign = next((kind for kind in map(kind_of, arguments) if kind.endswith(".Tensor")), None)
    if foreign is not None:
        raise ValueError(
            f"{caller}: give Tensors of minires, not {foreign}: "
            "minires.tensor(x.detach().cpu().numpy()).requires_grad_() makes one"
        )
    if arguments is not given:
        raise ValueError(f"{caller}: give a Tensor or a tuple of them, not {type(given).__name__}")
    return tuple(given)


def _tolerance(rtol: float, atol: float | None) -> Tolerance:
    if not 0 <= rtol < 1 or (atol is not None and not atol >= 0):
        raise ValueError(f"gradcheck: tolerances must not be negative, and rtol less than 1: got {rtol=}, {atol=}")
    return Tolerance(rtol, atol, max(1e-5, rtol))


def _refuse_empty(subject: Subject, caller: str, allow_unused: bool) -> None:
    empty = next((v for v in (*subject.inputs, *subject.outputs) if not v.size), None)
    if empty is not None and not allow_unused:
        raise ValueError(
            f"{caller}: {empty.name} has the shape {empty.shape}, no elements, so there is nothing to compare "
            "(allow_unused=True accepts it)"
        )


def _refuse_infinite(subject: Subject, caller: str) -> None:
    for kind, parts, vector in (
        ("", subject.inputs, subject.point),
        ("the function's ", subject.outputs, subject.value(subject.point)[0]),
    ):
        for variable in parts:
            wrong = np.flatnonzero(~np.isfinite(vector[variable.part]))
            if wrong.size:
                value = vector[variable.part][wrong[0]]
                raise ValueError(
                    f"{caller}: {kind}{variable.name} is {value} at index {list(variable.at(wrong[0]))}: there is no "
                    "derivative to check at such a point"
                )


def _unsteady(subject: Subject, start: np.ndarray, rng: np.random.Generator) -> str | None:
    """Tell what changes from one call to the next at the same point, where the value was ``start``."""
    values = [subject.value(subject.point)[0] for _ in range(2)]
    apart = max(float(np.abs(v - start).max(initial=0.0)) for v in values)
    if apart or not all(np.array_equal(v, start) for v in values):
        return f"the function returned values that differ by {apart:.2g} at the same point"
    cotangent = rng.standard_normal(start.size)
    first, second = (subject.pull_back(subject.point, [cotangent])[0] for _ in range(2))
    if not np.array_equal(first, second, equal_nan=True):
        return f"two backward passes at the same point differ by {float(np.abs(first - second).max()):.2g}"
    return None


def _concluded(result: Result, subject: Subject, allow_unused: bool, raise_exception: bool) -> Result:
    if not allow_unused:
        idle = {
            x.name
            for x, used in zip(subject.inputs, subject.used, strict=True)
            if all(b.verdict is Verdict.EQUAL for b in result.blocks if b.input == x.name)
            and not (used and _has_influence(subject, x))
        }
        blocks = tuple(
            replace(block, counts={Verdict.IGNORED: sum(block.counts.values())}) if block.input in idle else block
            for block in result.blocks
        )
        result = replace(result, blocks=blocks)
    if raise_exception and not result:
        raise GradcheckError(str(result), result)
    return result


def _has_influence(subject: Subject, x: Variable) -> bool:
    """Whether an input has a gradient, or else any value far from the point is another."""
    point, rng = subject.point, np.random.default_rng(0)
    with np.errstate(all="ignore"):
        value, scales = subject.value(point)[0], element_scales(subject)
        if subject.pull_back(point, [rng.standard_normal(value.size)])[0][x.part].any():
            return True
        for far in (1, -1, 10, -10, 100, -100):
            moved = point.copy()
            moved[x.part] += far * scales[x.part] * rng.standard_normal(x.size)
            if not np.array_equal(subject.value(moved)[0], value):
                return True
    return False
