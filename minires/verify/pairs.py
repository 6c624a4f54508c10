"""A forward and a backward pass on plain NumPy arrays as the subject of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minires.verify.subject import SideEffectError, check_shapes, join, kind_of, split, variables


class PairSubject:
    """``fn(*inputs)`` and ``vjp(inputs, grad_outputs)``: see `gradcheck_numpy`."""

    def __init__(self, fn: Callable[..., Any], vjp: Callable[..., Any], inputs: np.ndarray | Sequence[np.ndarray]):
        self.fn, self.vjp = fn, vjp
        arrays: list[Any] = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
        _check_inputs(arrays)
        self.layouts = arrays
        self.inputs = variables([f"input {i}" for i in range(len(arrays))], [a.shape for a in arrays])
        self.point = join(arrays)
        result = self._call("fn", lambda given: self.fn(*given), self.point)
        self.is_tuple = isinstance(result, (tuple, list))
        outputs = _outputs(result)
        self.outputs = variables([f"output {i}" for i in range(len(outputs))], [np.shape(y) for y in outputs])
        self.resolution = join(np.full(np.shape(y), np.finfo(np.asarray(y).dtype).eps) for y in outputs)
        ones = self._call(
            "vjp", lambda given: self._gradients(given, np.ones(sum(v.size for v in self.outputs))), self.point
        )
        self.used = tuple(gradient is not None for gradient in ones)

    def value(self, x: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Call fn; which branches it took is unknown."""
        outputs = _outputs(self.fn(*self._arrays(x)))
        check_shapes([y.shape for y in outputs], self.outputs, "gradcheck_numpy")
        return join(outputs), b""

    def pull_back(self, x: np.ndarray, cotangents: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Call vjp for each cotangent."""
        return [self._pulled_back(self._arrays(x), cotangent) for cotangent in cotangents]

    def _pulled_back(self, arrays: list[np.ndarray], cotangent: np.ndarray) -> np.ndarray:
        gradients = self._gradients(arrays, cotangent)
        return join(np.zeros(v.shape) if g is None else g for v, g in zip(self.inputs, gradients, strict=True))

    def _gradients(self, arrays: list[np.ndarray], cotangent: np.ndarray) -> list[Any]:
        parts = split(cotangent.copy(), self.outputs)
        result = self.vjp(tuple(arrays), tuple(parts) if self.is_tuple else parts[0])
        if not np.array_equal(join(parts), cotangent):
            raise SideEffectError(
                "gradcheck_numpy: vjp changes the gradient of the output in place, which others may still need: work "
                "on a copy"
            )
        gradients = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(gradients) != len(self.inputs):
            raise ValueError(
                f"gradcheck_numpy: vjp returned {len(gradients)} gradients for {len(self.inputs)} inputs: return one "
                "an input, or None for one that has none"
            )
        for variable, gradient in zip(self.inputs, gradients, strict=True):
            if gradient is not None and np.shape(gradient) != variable.shape:
                raise ValueError(
                    f"gradcheck_numpy: vjp returned a gradient of shape {np.shape(gradient)} for {variable.name}, of "
                    f"shape {variable.shape}"
                )
            if gradient is not None and np.asarray(gradient).dtype.kind != "f":
                raise ValueError(
                    f"gradcheck_numpy: vjp returned a gradient of {np.asarray(gradient).dtype} for {variable.name}: it "
                    "must hold floating-point numbers"
                )
        return gradients

    def _arrays(self, x: np.ndarray) -> list[np.ndarray]:
        """The inputs with new values, each in the memory layout of the original."""
        arrays = [np.empty_like(layout, subok=False) for layout in self.layouts]
        for array, values in zip(arrays, split(x, self.inputs), strict=True):
            array[...] = values
        return arrays

    def _call(self, name: str, function: Callable[[list[np.ndarray]], Any], x: np.ndarray) -> Any:
        """Call once, and see that the inputs stay as they are."""
        arrays = self._arrays(x)
        result = function(arrays)
        for i, (array, untouched) in enumerate(zip(arrays, self._arrays(x), strict=True)):
            if array.tobytes() != untouched.tobytes():
                raise SideEffectError(f"gradcheck_numpy: {name} changes its input {i} in place: work on a copy")
        return result


def _check_inputs(arrays: list[Any]) -> None:
    if not arrays:
        raise ValueError("gradcheck_numpy: there are no inputs")
    for i, array in enumerate(arrays):
        if not isinstance(array, np.ndarray) or array.dtype != np.float64:
            kind = array.dtype if isinstance(array, np.ndarray) else kind_of(array)
            raise ValueError(
                f"gradcheck_numpy: input {i} is {kind}, but differences need float64 arrays: use .astype(np.float64), "
                "and let fn and vjp close over what has no gradient"
            )


def _outputs(result: Any) -> list[np.ndarray]:
    outputs = [np.asarray(y) for y in (result if isinstance(result, (tuple, list)) else [result])]
    if not outputs or any(y.dtype.kind != "f" for y in outputs):
        kinds = ", ".join(str(y.dtype) for y in outputs) or "nothing"
        raise ValueError(
            f"gradcheck_numpy: fn must return arrays of floating-point numbers, it returned {kinds}: return only what "
            "has a gradient"
        )
    return outputs
