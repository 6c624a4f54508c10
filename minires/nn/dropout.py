"""Dropout, of elements or of whole channels."""

from __future__ import annotations

from minires.autograd import Tensor
from minires.autograd.creation import ones
from minires.nn import functional as F
from minires.nn.module import Module
from minires.ops.argument_types import takes_tensors
from minires.ops.geometry import as_batch


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p) (Srivastava et al. 2014).

    Raises
    ------
    ValueError
        If p is not between 0 and 1.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability must be between 0 and 1, got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of ``input`` in training; return it as it is in evaluation."""
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """Return the layer's options."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """In training, zero each channel of each image with probability p and scale the rest by 1 / (1 - p).

    For an input (N, C, H, W) or (C, H, W) (Tompson et al. 2015, "Efficient Object Localization Using Convolutional
    Networks", section 3.2: neighbouring pixels are too much alike for dropping single ones to tell a net anything new).

    Raises
    ------
    ValueError
        If p is not between 0 and 1.
    """

    @takes_tensors
    def forward(self, input: Tensor) -> Tensor:
        """Drop channels of ``input`` in training; return it as it is in evaluation."""
        as_batch("Dropout2d", input)  # refuses other shapes
        if not self.training or self.p == 0:
            return input
        scale = F.dropout(ones(*input.shape[:-2], 1, 1, dtype=input.dtype, device=input.device), self.p)
        return input.mul_(scale) if self.inplace else input * scale
