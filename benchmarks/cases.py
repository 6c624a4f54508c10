"""What can be measured: training steps, inference and single operations, each with a name and a group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

TRAINING, INFERENCE, ODD_SHAPES, OPS = GROUPS = ("training", "inference", "odd-shapes", "ops")
DEFAULT_GROUPS = (TRAINING, INFERENCE)


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Parameters
    ----------
    name : unique among the cases.
    group : one of GROUPS.
    kind : what the workers build; ``options`` are the arguments of its builder.
    amount, unit : how much one step does, in images, floating-point operations ("FLOP") or bytes moved ("B").
    turn_seconds : how long one timed turn lasts at least.
    """

    name: str
    group: str
    kind: str
    options: dict[str, Any]
    amount: float
    unit: str
    turn_seconds: float = 0.5


@dataclass(frozen=True)
class Conv:
    """One convolution of a net: images of size x size pixels, square filters, padded by half the filter."""

    batch: int
    in_channels: int
    size: int
    out_channels: int
    kernel: int
    stride: int

    @property
    def output_size(self) -> int:
        """Height and width of the output."""
        return (self.size - 1) // self.stride + 1

    @property
    def flop(self) -> int:
        """Multiplications and additions of any of the three directions."""
        pixels = self.batch * self.output_size**2
        return 2 * pixels * self.out_channels * self.in_channels * self.kernel**2


def all_cases() -> list[Case]:
    """Return every case there is, group by group."""
    return [*_training(), *_inference(), *_odd_shapes(), *_ops()]


def select(groups: Iterable[str] = (), patterns: Iterable[str] = ()) -> list[Case]:
    """Return the cases of some groups and those whose names match a pattern with shell wildcards, in a fixed order.

    With neither, return those of DEFAULT_GROUPS.

    Raises
    ------
    ValueError
        If there is no such group, or no case matches a pattern.
    """
    groups, patterns = list(groups), list(patterns)
    cases = all_cases()
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"there is no group {group!r}: choose from {', '.join(GROUPS)}")
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in cases):
            raise ValueError(f"no case is called {pattern!r}: --list shows all names")
    if not groups and not patterns:
        groups = list(DEFAULT_GROUPS)
    return [
        case for case in cases if case.group in groups or any(fnmatchcase(case.name, pattern) for pattern in patterns)
    ]


def machine_cases() -> list[Case]:
    """Return what the machine is measured by: a float32 matrix product and a copy of memory, both with NumPy."""
    n, size = 3072, 1 << 28
    return [
        Case("matrix-product", "machine", "matrix_product", {"n": n}, 2 * n**3, "FLOP"),
        Case("copy", "machine", "copy", {"size": size}, 2 * size, "B"),  # each byte is read and written
    ]


def _model(group: str, kind: str, model: str, batch: int, size: int) -> Case:
    name = f"{model}-{kind}-b{batch}-{size}"
    return Case(name, group, kind, {"model": model, "batch": batch, "size": size}, batch, "images")


def _training() -> Iterator[Case]:
    for model, batch, size in (
        ("resnet18", 16, 224),
        ("resnet34", 8, 224),
        ("resnet50", 8, 224),
        ("resnet20", 128, 32),
        ("resnet56", 128, 32),
        ("resnext50_32x4d", 4, 224),
    ):
        yield _model(TRAINING, "training", model, batch, size)


def _inference() -> Iterator[Case]:
    for model in ("resnet18", "resnet50"):
        for batch in (1, 16):
            yield _model(INFERENCE, "inference", model, batch, 224)


def _odd_shapes() -> Iterator[Case]:
    for batch, size in ((1, 224), (4, 160), (2, 288), (3, 101)):
        yield _model(ODD_SHAPES, "training", "resnet18", batch, size)


def _ops() -> Iterator[Case]:
    for convs in (resnet18_convs(16), resnet50_convs(8), resnet20_convs(128)):
        for conv in convs:
            yield from _conv2d(conv)
    for shape in ((16, 64, 56, 56), (16, 512, 7, 7), (8, 256, 56, 56), (8, 1024, 14, 14), (128, 16, 32, 32)):
        yield from _batch_norm(shape)
    yield from _max_pool2d((16, 64, 112, 112))
    for shape in ((16, 1000), (128, 10)):
        # Read the logits, write their gradient.
        yield _op("cross-entropy", "cross_entropy", {"shape": shape}, shape, 2 * 4 * prod(shape), "B")
    parameters = 11_689_512
    # Parameter and velocity are read and written, the gradient is read.
    yield Case("sgd-resnet18", OPS, "optimizer_step", {"model": "resnet18"}, 5 * 4 * parameters, "B", turn_seconds=0.1)


def _op(name: str, kind: str, options: dict[str, Any], shape: Iterable[int], amount: float, unit: str) -> Case:
    return Case(f"{name}-{'x'.join(map(str, shape))}", OPS, kind, options, amount, unit, turn_seconds=0.1)


def _conv2d(conv: Conv) -> Iterator[Case]:
    for direction in ("forward", "input-grad", "weight-grad"):
        if direction == "input-grad" and conv.in_channels == 3:
            continue  # nobody asks for the gradient of the images
        name = (
            f"conv2d-{direction}-{conv.batch}x{conv.in_channels}x{conv.size}x{conv.size}"
            f"-{conv.out_channels}x{conv.kernel}x{conv.kernel}-s{conv.stride}"
        )
        options = {
            "direction": direction,
            "input_shape": (conv.batch, conv.in_channels, conv.size, conv.size),
            "weight_shape": (conv.out_channels, conv.in_channels, conv.kernel, conv.kernel),
            "stride": conv.stride,
            "padding": conv.kernel // 2,
        }
        yield Case(name, OPS, "conv2d", options, conv.flop, "FLOP", turn_seconds=0.1)


def _batch_norm(shape: tuple[int, ...]) -> Iterator[Case]:
    """Batch norm in training, then the residual add and the ReLU.

    Bytes are those of whole arrays that must move where nothing stays in a cache: forward, x for the statistics, x and
    the residual to normalise, and y; backward, dy, x and y for the sums and the gradient of the residual, which the
    last pass reads with x to write dx.
    """
    for direction, arrays in (("forward", 4), ("backward", 7)):
        options = {"direction": direction, "shape": shape}
        name = f"batch-norm-add-relu-{direction}"
        yield _op(name, "batch_norm_add_relu", options, shape, arrays * 4 * prod(shape), "B")


def _max_pool2d(shape: tuple[int, ...]) -> Iterator[Case]:
    """Windows of 3x3 at stride 2; bytes are those of the larger and the smaller array, without the indices."""
    moved = 4 * (prod(shape) + prod(shape) // 4)
    for direction in ("forward", "backward"):
        options = {"direction": direction, "shape": shape}
        yield _op(f"max-pool2d-{direction}", "max_pool2d", options, shape, moved, "B")


def resnet18_convs(batch: int) -> list[Conv]:
    """Return each distinct convolution of ResNet-18 at 224 x 224 once."""
    convs = [Conv(batch, 3, 224, 64, 7, 2)]
    channels, size = 64, 56
    for width in (64, 128, 256, 512):
        stride = width // channels
        convs.append(Conv(batch, channels, size, width, 3, stride))
        if stride == 2:
            convs.append(Conv(batch, channels, size, width, 1, 2))
        channels, size = width, size // stride
        convs.append(Conv(batch, channels, size, width, 3, 1))
    return _distinct(convs)


def resnet50_convs(batch: int) -> list[Conv]:
    """Return each distinct convolution of ResNet-50 (v1.5) at 224 x 224 once."""
    convs = [Conv(batch, 3, 224, 64, 7, 2)]
    channels, size = 64, 56
    for width in (64, 128, 256, 512):
        stride = 1 if width == 64 else 2
        convs.append(Conv(batch, channels, size, width, 1, 1))
        convs.append(Conv(batch, width, size, width, 3, stride))
        convs.append(Conv(batch, channels, size, 4 * width, 1, stride))
        channels, size = 4 * width, size // stride
        convs.append(Conv(batch, width, size, channels, 1, 1))
        convs.append(Conv(batch, channels, size, width, 1, 1))
        convs.append(Conv(batch, width, size, width, 3, 1))
    return _distinct(convs)


def resnet20_convs(batch: int) -> list[Conv]:
    """Return each distinct convolution of ResNet-20 (any 6n + 2 layers, option A) at 32 x 32 once."""
    convs = [Conv(batch, 3, 32, 16, 3, 1)]
    channels, size = 16, 32
    for width in (16, 32, 64):
        stride = width // channels
        convs.append(Conv(batch, channels, size, width, 3, stride))
        channels, size = width, size // stride
        convs.append(Conv(batch, channels, size, width, 3, 1))
    return _distinct(convs)


def _distinct(convs: list[Conv]) -> list[Conv]:
    return list(dict.fromkeys(convs))
