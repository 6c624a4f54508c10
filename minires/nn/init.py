"""Filling parameters with their first values, in place, by PyTorch's formulas.

fan_in and fan_out are how many inputs feed one output, and how many outputs one input feeds: for a convolution weight
(O, I/groups, R, S) they are I/groups * R * S and O * R * S.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from minires.autograd import Tensor, no_grad

_LINEAR = ("linear", *(f"conv{transposed}{axes}d" for transposed in ("", "_transpose") for axes in (1, 2, 3)))
_skipped = ContextVar("skipped", default=False)
_GAINS = {
    **dict.fromkeys((*_LINEAR, "sigmoid"), 1.0),
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


@contextmanager
def skipped() -> Iterator[None]:
    """Draw no numbers inside: parameters keep what their memory holds, for a model whose weights are loaded next."""
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor by which an activation's input must be scaled up to keep the variance.

    ``param`` is the negative slope of "leaky_relu" (0.01 by default).

    Raises
    ------
    ValueError
        If the nonlinearity is unknown.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"no gain is known for nonlinearity {nonlinearity!r}: use one of {known}")
    return _GAINS[nonlinearity]


def fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight.

    Raises
    ------
    ValueError
        If it has fewer than two axes.
    """
    if tensor.ndim < 2:
        raise ValueError(f"fan_in and fan_out need a weight of at least 2 axes, got shape {tensor.shape}")
    receptive_field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive_field, tensor.shape[0] * receptive_field


def _fan(tensor: Tensor, mode: str) -> int:
    fans = dict(zip(("fan_in", "fan_out"), fan_in_and_fan_out(tensor), strict=True))
    if mode.lower() not in fans:
        raise ValueError(f'mode must be "fan_in" or "fan_out", got {mode!r}')
    return max(fans[mode.lower()], 1)  # 0 only for a weight without elements, where no number matters


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with samples of U(a, b)."""
    if _skipped.get():
        return tensor
    with no_grad():
        return tensor.uniform_(a, b)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with samples of N(mean, std^2)."""
    if _skipped.get():
        return tensor
    with no_grad():
        return tensor.normal_(mean, std)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    with no_grad():
        return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones."""
    return constant_(tensor, 1.0)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Fill with N(0, gain^2 / fan), which keeps the variance through ReLU layers (He et al. 2015, equation 14)."""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Fill with the uniform distribution of the same variance as `kaiming_normal_` (He et al. 2015)."""
    bound = math.sqrt(3.0) * calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill with N(0, 2 gain^2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(sum(fan_in_and_fan_out(tensor)), 1)))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill with the uniform distribution of the same variance as `xavier_normal_` (Glorot and Bengio 2010, eq. 16)."""
    bound = gain * math.sqrt(6.0 / max(sum(fan_in_and_fan_out(tensor)), 1))
    return uniform_(tensor, -bound, bound)
