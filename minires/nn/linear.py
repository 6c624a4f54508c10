"""The fully connected layer, and the layers that only rearrange."""

from __future__ import annotations

import math
from typing import Any

from minires.autograd import Tensor
from minires.autograd.creation import DeviceLike, empty
from minires.nn import functional as F
from minires.nn import init
from minires.nn.module import Module, Parameter
from minires.ops.geometry import checked_int
from minires.ops.shape import flatten


class Linear(Module):
    """y = x weight^T + bias; x (..., in_features), y (..., out_features).

    Weight and bias start from U(-1/sqrt(in_features), 1/sqrt(in_features)), as in PyTorch.

    Raises
    ------
    TypeError, RuntimeError
        If a size is no integer, or negative.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: DeviceLike = None, dtype: Any = None
    ):
        super().__init__()
        self.in_features = checked_int("Linear", "in_features", in_features, least=0)
        self.out_features = checked_int("Linear", "out_features", out_features, least=0)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = Parameter(empty(self.out_features, self.in_features, **where))
        self.register_parameter("bias", Parameter(empty(self.out_features, **where)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights again."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Identity(Module):
    """Return the input; takes and ignores any arguments."""

    def __init__(self, *args: object, **options: object):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input``."""
        return input


class Flatten(Module):
    """Join the axes from ``start_dim`` to ``end_dim`` into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Flatten ``input``."""
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
