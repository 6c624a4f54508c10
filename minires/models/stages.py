"""A stage: residual blocks one after another, with gradient checkpointing if it is asked for."""

from __future__ import annotations

import math

from minires.autograd import Tensor, checkpoint
from minires.autograd.checkpoint import in_turn
from minires.nn import Sequential


class Stage(Sequential):
    """Blocks of one size. Where ``checkpoint`` is True, training keeps only what lies between segments of them.

    A segment of a stage of n blocks has about sqrt(n) of them: see `minires.autograd.checkpoint`. The attribute may be
    changed at any time; gradients and buffers are the same bits either way.
    """

    checkpoint = False

    def forward(self, input: Tensor) -> Tensor:
        """Pass ``input`` through every block in turn."""
        if not self.checkpoint:
            return super().forward(input)
        blocks = list(self)
        length = round(math.sqrt(len(blocks)))
        for begin in range(0, len(blocks), length):
            input = checkpoint(in_turn(blocks[begin : begin + length]), input)
        return input
