"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017), from idx files, plain or gzipped.

An idx file is big-endian: the magic number 0x00000800 + d for unsigned bytes in d dimensions, the d lengths as uint32,
then the values. The header says how many bytes are to follow, and no more than that is ever unpacked.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minires.data.datasets.images import ImageArrays
from minires.data.errors import DataError
from minires.data.files import file_size
from minires.io import open_plain

SIDE = 28
SLACK = 4 * 2**20  # bytes that an idx file may have more than twice its values: headers, and a bad compression


def read_idx(path: Path, dimensions: int, largest: int) -> NDArray[np.uint8]:
    """Return the array of an idx file of unsigned bytes, gzipped if its name ends in ``.gz``.

    Raises
    ------
    DataError
        If it is missing, damaged, truncated, too long, has another number of dimensions, or promises more than
        ``largest`` values.
    """
    size = file_size(path)
    if size > 2 * largest + SLACK:
        raise DataError(f"{path}: too long: {size:,} bytes, where {largest:,} values are the most expected")
    try:
        with ExitStack() as files:
            file: Any = files.enter_context(open_plain(path))
            if path.suffix == ".gz":
                file = files.enter_context(gzip.GzipFile(fileobj=file))
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions:
                raise DataError(f"{path}: truncated: {size:,} bytes hold no whole idx header; fetch it again")
            magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
            if magic != 0x800 + dimensions:
                holds = {1: "labels", 3: "images"}
                found = f", but one of {holds[magic - 0x800]}" if magic - 0x800 in holds else ""
                raise DataError(
                    f"{path}: is no idx file of {holds[dimensions]}{found}: it begins with {magic:#010x}, not "
                    f"{0x800 + dimensions:#010x}; check that the files keep their names"
                )
            # Python integers: the product of hostile lengths cannot wrap around.
            count = int(np.prod([int(length) for length in shape], dtype=object))
            if count > largest:
                raise DataError(
                    f"{path}: its header promises {count:,} values, where {largest:,} are the most expected"
                )
            values = file.read(count)
            if len(values) < count:
                raise DataError(f"{path}: truncated: its header promises {count:,} values; fetch it again")
            if file.read(1):
                raise DataError(f"{path}: goes on after the {count:,} values that its header promises; fetch it again")
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, EOFError):
            raise DataError(f"{path}: truncated: the compressed data end too early; fetch it again") from error
        raise DataError(f"{path}: damaged or unreadable ({error}); fetch it again") from error
    return np.frombuffer(values, np.uint8).reshape(shape)


class MNIST(ImageArrays):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28 grey.

    Parameters
    ----------
    root : path
        The folder that holds the four idx files, plain or ``.gz``, or a subfolder with them: ``MNIST/raw``, where
        torchvision puts them, ``MNIST`` or ``mnist``.
    train : bool
        The training images or the test images.
    transform, target_transform : callable, optional
        Applied to the image and to the label.
    download : bool
        As in torchvision, files that are there are used; but nothing is downloaded if they are not.

    Raises
    ------
    DataError
        If a file is missing, truncated, or not what its name says.
    """

    title: ClassVar[str] = "MNIST"
    folders: ClassVar[tuple[str, ...]] = ("MNIST/raw", "MNIST", "mnist")
    source: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    class_names: ClassVar[tuple[str, ...]] = (
        "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven", "8 - eight",
        "9 - nine",
    )  # fmt: skip

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        download: bool = False,
    ) -> None:
        images_path, labels_path = self.locate(root, train, download)
        most = 60_000 if train else 10_000
        images = read_idx(images_path, 3, most * SIDE * SIDE)
        labels = read_idx(labels_path, 1, most)
        if images.shape[1:] != (SIDE, SIDE):
            raise DataError(f"{images_path}: holds images of shape {images.shape[1:]}, {self.title} has {(SIDE, SIDE)}")
        if len(images) != len(labels) or len(images) == 0:
            raise DataError(
                f"{labels_path}: {len(labels):,} labels do not go with the {len(images):,} images of "
                f"{images_path.name}; fetch both again"
            )
        if labels.max() >= len(self.class_names):
            raise DataError(
                f"{labels_path}: mislabelled: image {labels.argmax()} has label {labels.max()}, but the labels of "
                f"{self.title} are 0 to {len(self.class_names) - 1}; fetch it again"
            )
        super().__init__(images, labels.astype(np.int64), self.class_names, transform, target_transform)

    @classmethod
    def locate(cls, root: str | os.PathLike[str], train: bool, download: bool = False) -> list[Path]:
        """Return the paths of the images and of the labels of one split.

        Raises
        ------
        DataError
            If one is missing.
        """
        base = Path(root).expanduser()
        split = "train" if train else "t10k"
        names = [f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"]
        for folder in (*(base / name for name in cls.folders), base):
            found = [
                next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
                for name in names
            ]
            if any(found):
                for name, path in zip(names, found, strict=True):
                    if path is None:
                        raise DataError(f"{folder / name}.gz: no such file; fetch it from {cls.source}")
                return [path for path in found if path is not None]
        raise DataError(
            f"{base}: holds no {cls.title}: "
            + ("minires downloads nothing; " if download else "")
            + f"put {names[0]}.gz and {names[1]}.gz from {cls.source} there"
        )


class FashionMNIST(MNIST):
    """Fashion-MNIST: in MNIST's format, articles of clothing.

    ``root`` holds the four idx files itself or in ``FashionMNIST/raw``, ``FashionMNIST`` or ``fashion-mnist``; the rest
    is as for :class:`MNIST`.
    """

    title = "Fashion-MNIST"
    folders = ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist")
    source = "https://github.com/zalandoresearch/fashion-mnist"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
