"""The precision of operations on 16-bit numbers, and automatic mixed precision.

What is stored in 16 bits is computed in float32, forward and backward, and the result is rounded once. One kernel does
so by itself. An operation made of several steps has a decorator (`rounds_once`, `computes_in_float32`) that casts its
operands to float32 and its result back. The casts are operations with a gradient, so the backward pass computes
in float32 between them as well.

Inside `autocast`, convolutions, `linear` and matrix products take their operands in 16 bits: that halves what they read
and lets tensor cores multiply. Losses, softmax, powers, exponentials and sums leave their result in float32, for 16
bits overflow or lose small terms there. All others return the dtype they are given, and promote where two meet. Weights
stay float32; the cast to 16 bits is an operation with a gradient, so gradients come back in float32 (Micikevicius et
al. 2018, "Mixed Precision Training", section 3.1). The lists are PyTorch's for CUDA, here for the CPU too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np

from minires import dtypes
from minires.autograd import Tensor
from minires.autograd.modes import state
from minires.ops.cast import Widen, cast
from minires.ops.promotion import result_type

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_DTYPES = {"cuda": "float16", "cpu": "bfloat16"}  # PyTorch's


class autocast:
    """Compute in mixed precision inside, as ``torch.autocast``: a context manager, or a decorator.

    Only Tensors on the named kind of device are concerned, and no float64. A backward pass computes in the dtypes of
    its forward pass and belongs outside.

    Parameters
    ----------
    device_type : "cuda" or "cpu".
    dtype : float16 or bfloat16, a dtype or its name; unless given float16 on a GPU and bfloat16 on the CPU.
    enabled : False computes as usual inside, also within another `autocast`.
    cache_enabled : accepted for PyTorch's sake; casts are not kept.

    Raises
    ------
    ValueError
        If there is no such kind of device, or the dtype is neither float16 nor bfloat16.
    ImportError
        If bfloat16 is asked for without ml_dtypes; the message says what to install.

    Examples
    --------
    >>> x, w = minires.ones(2, 3), minires.ones(4, 3, requires_grad=True)
    >>> with minires.amp.autocast("cpu", minires.float16):
    ...     y = minires.nn.functional.linear(x, w)
    ...     total = y.sum()
    >>> y.dtype, total.dtype
    (dtype('float16'), dtype('float32'))
    """

    def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None):
        if device_type not in DEFAULT_DTYPES:
            raise ValueError(f'autocast: device_type must be "cuda" or "cpu", got {device_type!r}')
        self.device_type = device_type
        self.enabled = enabled
        self.dtype = _half_dtype(DEFAULT_DTYPES[device_type] if dtype is None else dtype) if enabled else None
        self._before: list[Mapping[str, np.dtype]] = []  # a stack: the same object may be entered again inside itself

    def __enter__(self) -> None:
        self._before.append(state.autocast)
        others = {device: dtype for device, dtype in state.autocast.items() if device != self.device_type}
        state.autocast = others if self.dtype is None else {**others, self.device_type: self.dtype}

    def __exit__(self, *exception: object) -> None:
        state.autocast = self._before.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function`` running in this mode."""

        @functools.wraps(function)
        def decorated(*args: P.args, **options: P.kwargs) -> R:
            with self:
                return function(*args, **options)

        return decorated


def is_autocast_enabled(device_type: str) -> bool:
    """Tell whether `autocast` is in force for a kind of device, in this thread."""
    return device_type in state.autocast


def get_autocast_dtype(device_type: str) -> Any:
    """Return the 16-bit dtype of `autocast` on a kind of device: the one in force, else the default."""
    return state.autocast.get(device_type) or _half_dtype(DEFAULT_DTYPES[device_type])


def computes_in_half(function: Callable[P, R]) -> Callable[P, R]:
    """Make an operation cast its Tensors of floats to 16 bits, where `autocast` is in force for them."""

    def chosen(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == np.float64:
            return value
        half = state.autocast.get(value.device.type)
        return value if half is None else cast(value, half)

    @functools.wraps(function)
    def operation(*args: P.args, **options: P.kwargs) -> R:
        if not state.autocast:
            return function(*args, **options)
        return function(
            *[chosen(value) for value in args],
            **{name: chosen(value) for name, value in options.items()},
        )

    return operation


def computes_in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Make an operation compute its Tensors of 16 bits in float32; its result stays so where `autocast` is in force.

    Elsewhere the result is rounded, as by `rounds_once`.
    """
    return _widening(function, lambda device: device in state.autocast)


def rounds_once(function: Callable[P, R]) -> Callable[P, R]:
    """Make an operation compute its Tensors of 16 bits in float32, and cast its result to their `result_type`.

    A call with the option ``dtype`` is left as it is: that says what to compute in.
    """
    return _widening(function, lambda device: False)


def _widening(function: Callable[P, R], stays_wide: Callable[[str], bool]) -> Callable[P, R]:
    @functools.wraps(function)
    def operation(*args: P.args, **options: P.kwargs) -> R:
        values: tuple[Any, ...] = (*args, *options.values()) if options else args
        for half in values:  # written out, for most operations have none
            if _is_half(half):
                break
        else:
            return function(*args, **options)
        if options.get("dtype") is not None:
            return function(*args, **options)
        result: Any = function(*map(_widened, args), **{name: _widened(value) for name, value in options.items()})
        if not stays_wide(half.device.type):
            result = cast(result, result_type(*(value for value in values if isinstance(value, Tensor))))
        return result

    return operation


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.array.dtype.itemsize == 2 and dtypes.is_half(value.array.dtype)


def _widened(value: Any) -> Any:
    return Widen()(value) if _is_half(value) else value


def _half_dtype(dtype: Any) -> np.dtype:
    name = str(dtype) if isinstance(dtype, str | np.dtype) else getattr(dtype, "__name__", str(dtype))
    if name not in ("float16", "bfloat16"):
        raise ValueError(f"autocast computes in float16 or bfloat16, got {name}")
    return dtypes.float16 if name == "float16" else dtypes.bfloat16
