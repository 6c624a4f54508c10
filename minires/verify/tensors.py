"""Functions of Tensors as subjects of a check: evaluated in float64 whatever the dtype of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minires.autograd import Tensor, enable_grad, grad
from minires.device import to_device
from minires.verify.branches import watching
from minires.verify.result import Result
from minires.verify.subject import SideEffectError, check_shapes, join, kind_of, split, variables
from minires.verify.verdict import Verdict

AROUND = 8  # points where gradients in two dtypes are compared
COMMON = 0.7  # of random differences at so many points, the mean is about 1/sqrt(8) of one
OWN_DTYPE_TOLERANCE = 3e-5  # of a float32 gradient, as a part of the largest derivative along with it


class TensorSubject:
    """``fn(*inputs)``, with respect to the inputs that require a gradient.

    Parameters
    ----------
    fn : takes the inputs, returns a Tensor or a tuple of Tensors
    inputs : Tensors, and anything else, which is passed on as it is
    double : compute in float64; else in the dtypes of the inputs
    """

    def __init__(self, caller: str, fn: Callable[..., Any], inputs: Sequence[Any], double: bool = True):
        self.caller, self.fn, self.double = caller, fn, double
        self.arguments = tuple(inputs)
        self.positions = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
        self._check_inputs()
        leaves = self._differentiated()
        self.inputs = variables([f"input {i}" for i in self.positions], [x.shape for x in leaves])
        self.point = join(to_device(x.array, None) for x in leaves)
        results = self._run_unchanging()
        self.kept = [index for index, result in enumerate(results) if result.is_floating_point()]
        outputs = [results[index] for index in self.kept]
        self.outputs = variables([f"output {i}" for i in self.kept], [y.shape for y in outputs])
        self.resolution = join(np.full(y.shape, np.finfo(y.dtype).eps) for y in outputs)
        self.connected = any(y.requires_grad for y in outputs)
        self.used = self._used(self._arguments_at(self.point))

    def value(self, x: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Run the function forward, and watch its branches."""
        arguments = self._arguments_at(x)
        with watching() as branches:
            outputs = self.outputs_of(arguments)
        return join(to_device(output.array, None) for output in outputs), branches.digest

    def pull_back(self, x: np.ndarray, cotangents: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Run it forward once and backward for each cotangent."""
        arguments = self._arguments_at(x)
        outputs = self.outputs_of(arguments)
        leaves = [arguments[i] for i in self.positions]
        varying = [number for number, output in enumerate(outputs) if output.requires_grad]
        products = []
        for cotangent in cotangents:
            if not varying:
                products.append(np.zeros(x.size))
                continue
            parts = split(cotangent, self.outputs)
            directions = [self._tensor(parts[number], outputs[number]) for number in varying]
            ends = [outputs[number] for number in varying]
            gradients = grad(ends, leaves, directions, retain_graph=True, allow_unused=True)
            products.append(
                join(
                    np.zeros(v.shape) if g is None else to_device(g.array, None)
                    for v, g in zip(self.inputs, gradients, strict=True)
                )
            )
        return products

    def outputs_of(self, arguments: Sequence[Any]) -> list[Tensor]:
        """Return the outputs that can have a gradient."""
        results = self._run(list(arguments))
        outputs = [results[index] for index in self.kept if index < len(results)]
        check_shapes([y.shape for y in outputs], self.outputs, self.caller)
        return outputs

    def _tensor(self, array: np.ndarray, like: Tensor) -> Tensor:
        return Tensor(to_device(array.astype(like.dtype), like.device))

    def _arguments_at(self, x: np.ndarray) -> list[Any]:
        """The inputs with new values, each in the memory layout of the original."""
        moved = dict(zip(self.positions, split(x, self.inputs), strict=True))
        return [self._argument(a, moved.get(i)) if isinstance(a, Tensor) else a for i, a in enumerate(self.arguments)]

    def _argument(self, original: Tensor, values: np.ndarray | None) -> Tensor:
        dtype = np.float64 if self.double and original.is_floating_point() else original.dtype
        array = original.array.astype(dtype, order="K", copy=True)
        if values is not None:
            array[...] = to_device(values, original.device)
        return Tensor(array, requires_grad=original.requires_grad)

    def _run(self, arguments: list[Any]) -> tuple[Tensor, ...]:
        try:
            with enable_grad():
                result = self.fn(*arguments)
        except RuntimeError as error:
            if not self.double or all(a.dtype == np.float64 for a in self._differentiated()):
                raise
            raise ValueError(
                f"{self.caller}: the function takes float32 inputs, but failed when they were converted to float64: "
                f"convert what it holds as well, as with module.double() ({error})"
            ) from error
        results = (
            (result,) if isinstance(result, Tensor) else tuple(result) if isinstance(result, (tuple, list)) else ()
        )
        if not results or not all(isinstance(output, Tensor) for output in results):
            kinds = f" of {', '.join(map(kind_of, results))}" if results else ""
            raise ValueError(
                f"{self.caller}: the function must return a Tensor or a tuple of Tensors, it returned "
                f"{kind_of(result)}{kinds}"
            )
        if not any(output.is_floating_point() for output in results):
            raise ValueError(f"{self.caller}: the function returned {results[0].dtype} only, which has no gradient")
        return results

    def _differentiated(self) -> list[Tensor]:
        return [self.arguments[i] for i in self.positions]

    def _check_inputs(self) -> None:
        if not self.positions:
            raise ValueError(
                f"{self.caller}: no input requires a gradient: make one, of floating-point numbers, with "
                "requires_grad=True"
            )
        for i in self.positions:
            if self.arguments[i].dtype not in (np.float32, np.float64):
                raise ValueError(
                    f"{self.caller}: input {i} is {self.arguments[i].dtype}, whose rounding would drown the "
                    "differences: use .double()"
                )

    def _run_unchanging(self) -> tuple[Tensor, ...]:
        arguments, before = self._arguments_at(self.point), self._arguments_at(self.point)
        results = self._run(arguments)
        for i, (argument, untouched) in enumerate(zip(arguments, before, strict=True)):
            if isinstance(argument, Tensor) and argument.array.tobytes() != untouched.array.tobytes():
                raise SideEffectError(f"{self.caller}: the function changes its input {i} in place: work on a copy")
        return results

    def _used(self, arguments: list[Any]) -> tuple[bool, ...]:
        outputs = [output for output in self.outputs_of(arguments) if output.requires_grad]
        if not outputs:
            return (False,) * len(self.positions)
        rng = np.random.default_rng(0)
        seeds = [self._tensor(np.asarray(rng.standard_normal(o.shape)), o) for o in outputs]
        tensors = [x for x in arguments if isinstance(x, Tensor)]
        before = [[x.array.copy() for x in group] for group in (seeds, tensors, outputs)]

        def backward() -> Sequence[Tensor | None]:
            return grad(outputs, [arguments[i] for i in self.positions], seeds, retain_graph=True, allow_unused=True)

        gradients = backward()
        kinds = "the gradient of an output", "an input of the function", "an output of the function"
        for kind, group, arrays in zip(kinds, (seeds, tensors, outputs), before, strict=True):
            if any(not _same(x.array, array) for x, array in zip(group, arrays, strict=True)):
                raise SideEffectError(
                    f"{self.caller}: the backward pass changes {kind} in place, which others may still need: work on a "
                    "copy"
                )
        first = [None if g is None else g.array.copy() for g in gradients]
        if not _all_same(backward(), first) and _all_same(self._backward_anew(seeds), first):
            raise SideEffectError(
                f"{self.caller}: the backward pass changes a saved value in place, so that a second one through the "
                "same graph gives other gradients: work on a copy"
            )
        return tuple(gradient is not None for gradient in gradients)

    def _backward_anew(self, seeds: list[Tensor]) -> Sequence[Tensor | None]:
        arguments = self._arguments_at(self.point)
        outputs = [output for output in self.outputs_of(arguments) if output.requires_grad]
        return grad(outputs, [arguments[i] for i in self.positions], seeds, allow_unused=True)


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(to_device(a, None), to_device(b, None), equal_nan=a.dtype.kind in "fc")


def _all_same(gradients: Sequence[Tensor | None], arrays: Sequence[Any]) -> bool:
    return all(
        b is None if g is None else b is not None and _same(g.array, b) for g, b in zip(gradients, arrays, strict=True)
    )


def check_own_dtype(result: Result, fn: Callable[..., Any], inputs: Sequence[Any], seed: int) -> Result:
    """Compare vector-Jacobian products in the dtypes of the inputs with those in float64, which ``result`` is about.

    They may differ by rounding: by `OWN_DTYPE_TOLERANCE` times the norm of the product. Where they differ by more, the
    difference at points around tells: that of a wrong gradient stays, that of cancellation changes its sign.
    """
    own, double = (TensorSubject("gradcheck", fn, inputs, double=choice) for choice in (False, True))
    rng = np.random.default_rng(seed)
    cotangents = [rng.standard_normal(sum(y.size for y in own.outputs)) for _ in range(3)]
    pairs = zip(own.pull_back(own.point, cotangents), double.pull_back(own.point, cotangents), strict=True)
    for cotangent, (ours, exact) in zip(cotangents, pairs, strict=True):
        for x in own.inputs:
            apart = float(np.linalg.norm(ours[x.part] - exact[x.part]))
            size = float(np.linalg.norm(exact[x.part]))
            if not apart <= OWN_DTYPE_TOLERANCE * max(size, 1e-3 * float(np.linalg.norm(exact))):
                is_wrong = not np.isfinite(apart) or _stays(own, double, cotangent, x.part, rng)
                verdict = Verdict.DIFFERENT if is_wrong else Verdict.ILL_CONDITIONED
                message = (
                    f"{verdict}: the gradient of {x.name} computed in float32 is off by {apart:.2g}, of a norm of "
                    f"{size:.2g}, from the same gradient computed in float64"
                )
                if not is_wrong:
                    message += ", by amounts that change from point to point: does it cancel large numbers?"
                return replace(result, failure=(verdict, message))
    return result


def _stays(
    own: TensorSubject, double: TensorSubject, cotangent: np.ndarray, part: slice, rng: np.random.Generator
) -> bool:
    """Whether gradients in the two dtypes differ in about the same way at points around."""
    differences = []
    for _ in range(AROUND):
        beside = own.point * (1 + 0.1 * rng.uniform(-1, 1, own.point.size))
        beside = beside.astype(np.float32).astype(np.float64)
        ours, exact = (subject.pull_back(beside, [cotangent])[0] for subject in (own, double))
        differences.append((ours - exact)[part])
    common = float(np.linalg.norm(np.mean(differences, axis=0)))
    return not common <= COMMON * float(np.sqrt(np.mean(np.sum(np.square(differences), axis=1))))
