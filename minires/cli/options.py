"""Options that several subcommands share, and the names they offer.

The names are written out so that help need not import the data sets and models; a test compares them.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DataName(StrEnum):
    """The data sets that the command knows."""

    SHAPES = "shapes"
    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    MNIST = "mnist"
    FASHION_MNIST = "fashion-mnist"
    IMAGEFOLDER = "imagefolder"


DATA_NAMES = ", ".join(DataName)


class RecipeName(StrEnum):
    """The recipes that the command knows."""

    QUICK = "quick"
    PAPER = "paper"


class HalfDtype(StrEnum):
    """The 16-bit numbers of mixed precision."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class LogFormat(StrEnum):
    """The formats of a log."""

    CSV = "csv"
    JSONL = "jsonl"


CIFAR_MODELS = (
    "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202", "plain20", "plain56", "plain110",
)  # fmt: skip
IMAGENET_MODELS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
MODEL_HELP = f"For small images: {', '.join(CIFAR_MODELS)}. For 224x224: {', '.join(IMAGENET_MODELS)}."

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, or cuda:1 for the second GPU.")]
Root = Annotated[
    Path | None,
    typer.Option(
        help="The folder with the data set's files (none for shapes; for imagefolder, the one with train/ and val/).",
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Threads that prepare batches ahead.")]
