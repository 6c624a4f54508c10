"""Highway nets: shortcuts with gates, the residual block's forerunner.

    y = T(x) * H(x) + (1 - T(x)) * x        T(x) = sigmoid(W x + b), elementwise

(Srivastava, Greff and Schmidhuber 2015, "Training Very Deep Networks", equation 3). With T = 0 the block is the
identity, with T = 1 it is a plain layer; a residual block is what it becomes when both gates are open, y = H(x) + x,
which no value of T gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minires.autograd import Tensor
from minires.device import array_module
from minires.models.cifar import CifarResNet
from minires.models.resnet import initialize, make_stage
from minires.nn import BatchNorm2d, Conv2d, Module, Sequential, Sigmoid, init
from minires.study.errors import StudyError
from minires.study.figure import check_results, label_ticks, legend_above, line_style, new_figure
from minires.study.trace import trace, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GATE_BIAS = -1.0  # gates begin nearly closed, so that a deep net begins near the identity: section 2.2 of the paper


class HighwayBlock(Module):
    """A basic block whose branch and shortcut are weighed by a gate, a 1x1 convolution and a sigmoid."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: Module | None = None):
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.gate = Sequential(Conv2d(in_channels, channels, 1, stride), Sigmoid())
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride)."""
        out = self.bn1(self.conv1(x), activation="relu")
        out = self.bn2(self.conv2(out), activation="relu")
        carried = x if self.downsample is None else self.downsample(x)
        opening = self.gate(x)
        return opening * out + (1 - opening) * carried


class CifarHighway(CifarResNet):
    """`minires.models.CifarResNet` with Highway blocks in place of residual ones."""

    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__(depth, num_classes)
        blocks = len(self.layer1)
        self.layer1 = make_stage(HighwayBlock, 16, 16, blocks, 1, "A")  # type: ignore[arg-type]
        self.layer2 = make_stage(HighwayBlock, 16, 32, blocks, 2, "A")  # type: ignore[arg-type]
        self.layer3 = make_stage(HighwayBlock, 32, 64, blocks, 2, "A")  # type: ignore[arg-type]
        initialize(self, zero_init_residual=False)
        for module in self.modules():
            if isinstance(module, HighwayBlock):
                init.constant_(module.gate[0].bias, GATE_BIAS)


@dataclass(frozen=True)
class GateOpenings:
    """The mean of T over a batch, by block: 0 where everything is carried, 1 where everything is transformed."""

    blocks: tuple[str, ...]
    openings: tuple[float, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a block."""
        return [
            {"block": block, "mean opening": opening} for block, opening in zip(self.blocks, self.openings, strict=True)
        ]


def gate_openings(model: Module, images: Tensor) -> GateOpenings:
    """Return how far the gates of each `HighwayBlock` of a model open on a batch, in eval mode.

    Raises
    ------
    StudyError
        If there is no such block, or as `minires.study.trace.trace` does.
    """
    found: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, HighwayBlock):

            def look(gate: Module, inputs: tuple, output: Tensor, name: str = name) -> None:
                found[name] = float(output.array.mean(dtype=array_module(output.array).float64))

            handles.append(module.gate.register_forward_hook(look))
    if not handles:
        raise StudyError("this model has no Highway block, so there are no gates to look at")
    try:
        with untouched(model, training=False):
            trace(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return GateOpenings(tuple(found), tuple(found.values()))


def draw_gate_openings(results: Mapping[str, GateOpenings]) -> Figure:
    """Draw the mean opening by block."""
    check_results(results)
    figure, (axes,) = new_figure(height=3.2)
    for index, (label, result) in enumerate(results.items()):
        axes.plot(range(len(result.blocks)), result.openings, label=label, **line_style(index))
    axes.set(ylim=(0, 1), ylabel="mean opening of the gate")
    longest = max(results.values(), key=lambda result: len(result.blocks))
    label_ticks(axes, list(longest.blocks))
    legend_above(figure, axes)
    return figure
