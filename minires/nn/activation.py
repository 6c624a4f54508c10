"""Activation layers. With ``inplace`` the input becomes the result, for every name and view of it."""

from __future__ import annotations

from minires.autograd import Tensor
from minires.nn import functional as F
from minires.nn.module import Module


class _MaybeInPlace(Module):
    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Return the layer's options, those at their defaults left out."""
        return "inplace=True" if self.inplace else ""


class ReLU(_MaybeInPlace):
    """max(x, 0); the gradient at 0 is 0."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function to each element."""
        return F.relu(input, self.inplace)


class ReLU6(_MaybeInPlace):
    """min(max(x, 0), 6)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function to each element."""
        return F.relu6(input, self.inplace)


class LeakyReLU(_MaybeInPlace):
    """x where x > 0, negative_slope * x elsewhere."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function to each element."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return ", ".join([f"negative_slope={self.negative_slope}"] + ["inplace=True"] * self.inplace)


class SiLU(_MaybeInPlace):
    """x * sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function to each element."""
        return F.silu(input, self.inplace)


class GELU(Module):
    """x times the standard normal distribution function of x; ``approximate="tanh"`` for the usual approximation."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function to each element."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function to each element."""
        return F.sigmoid(input)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function to each element."""
        return F.tanh(input)


class Softmax(Module):
    """exp(x) over its sum along ``dim``."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Normalise along the axis."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """The logarithm of `Softmax`, computed stably."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise along the axis."""
        return F.log_softmax(input, self.dim)
