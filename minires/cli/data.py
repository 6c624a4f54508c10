"""`minires data`: which data sets there are, and whether their files are whole."""

from __future__ import annotations

from typing import Annotated

import typer

from minires.cli.options import DATA_NAMES, DataName, Debug, Root
from minires.cli.wording import counted, say

INCOMPLETE = 1


def data(
    name: Annotated[
        DataName | None, typer.Argument(metavar="NAME", help=f"One of {DATA_NAMES}.", show_default="list all")
    ] = None,
    root: Root = None,
    debug: Debug = False,
) -> None:
    """List the data sets, or look at the files of one: how many images, and whether the checksums are right.

    The exit status is 1 if a file is missing or damaged.
    """
    from minires.data import available, dataset_info, describe

    if name is None:
        for each in available():
            info = dataset_info(each)
            classes = counted(info.num_classes, "class", "classes") if info.num_classes else "a class for each folder"
            size = f"{info.channels} x {info.image_size} x {info.image_size}"
            source = "files in --root" if info.needs_root else "built in, needs no files"
            typer.echo(f"{each:14} {size:14} {classes:24} {source}")
        return
    report = describe(str(name), root)
    for split in report.splits:
        count = "not usable"
        if split.images is not None:
            count = f"{counted(split.images, 'image')}, {counted(len(split.classes), 'class', 'classes')}"
        say(f"{name} {split.name}: {count}")
        for file in split.files:
            verdict = {True: "as published", False: "NOT as published", None: "no published checksum"}[file.official]
            say(f"  {file.path}  {file.size:,} bytes  {file.algorithm} {file.digest}  {verdict}")
        if split.problem is not None:
            say(split.problem, err=True)
    if not report.complete:
        raise typer.Exit(INCOMPLETE)
