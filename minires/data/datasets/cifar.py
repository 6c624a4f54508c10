"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from the official binary or Python files.

A binary record is the label, or for CIFAR-100 the coarse and then the fine label, one byte each, and 3,072 bytes of
pixels: 32 rows of 32 for red, for green, for blue. A Python file is a pickled dict with an array of the same pixels
under "data" and a list under "labels" or "fine_labels". See https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minires.data.datasets.images import ImageArrays
from minires.data.datasets.inert_pickle import RefusedPickle, read_pickle
from minires.data.errors import DataError
from minires.data.files import file_size, read_bytes, read_exactly

PIXELS = 3 * 32 * 32
# The official pickles hold about 30 bytes for an image besides its pixels: a label, a file name.
LARGEST_PICKLED_RECORD = PIXELS + 128


class Layout(NamedTuple):
    """How one official archive unpacks."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]


class CIFAR10(ImageArrays):
    """CIFAR-10: 50,000 training and 10,000 test images, 32x32 RGB, in ten classes.

    Parameters
    ----------
    root : path
        The folder that holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or is one of them.
    train : bool
        The training images or the test images.
    transform, target_transform : callable, optional
        Applied to the image and to the label.
    download : bool
        As in torchvision, files that are there are used; but nothing is downloaded if they are not.

    Raises
    ------
    DataError
        If a file is missing, truncated, or not what its name says. The pickles are read without running code.
    """

    title: ClassVar[str] = "CIFAR-10"
    binary: ClassVar[Layout] = Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
    )
    python: ClassVar[Layout] = Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
    )
    label_key: ClassVar[str] = "labels"
    label_bytes: ClassVar[int] = 1
    train_images: ClassVar[int] = 50_000
    test_images: ClassVar[int] = 10_000
    class_names: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        download: bool = False,
    ) -> None:
        paths = self.locate(root, train, download)
        count = self.train_images if train else self.test_images
        images = np.empty((count, 32, 32, 3), np.uint8)
        targets = np.empty(count, np.int64)
        each = count // len(paths)
        for number, path in enumerate(paths):
            read = self._read_binary if path.suffix == ".bin" else self._read_python
            part = slice(number * each, (number + 1) * each)
            targets[part], pixels = read(path, each)
            images[part] = pixels.reshape(each, 3, 32, 32).transpose(0, 2, 3, 1)
        super().__init__(images, targets, self.class_names, transform, target_transform)

    @classmethod
    def locate(cls, root: str | os.PathLike[str], train: bool, download: bool = False) -> list[Path]:
        """Return the paths of the files of one split: the binary ones if both kinds are there.

        Raises
        ------
        DataError
            If a file is missing.
        """
        base = Path(root).expanduser()
        for layout in (cls.binary, cls.python):
            names = layout.train if train else layout.test
            for folder in (base / layout.folder, base):
                if (folder.name == layout.folder and folder.is_dir()) or any((folder / n).is_file() for n in names):
                    paths = [folder / name for name in names]
                    for path in paths:
                        file_size(path)
                    return paths
        for layout in (cls.binary, cls.python):
            if (base / layout.archive).is_file():
                raise DataError(f"{base / layout.archive}: unpack it first, with tar -xzf {layout.archive}")
        raise DataError(
            f"{base}: holds no {cls.title}: "
            + ("minires downloads nothing; " if download else "")
            + f"fetch {cls.binary.archive} from https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there, so "
            f"that {cls.binary.folder} lies in {base}"
        )

    @classmethod
    def _read_binary(cls, path: Path, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return labels (count,) and pixels (count, 3072)."""
        size = cls.label_bytes + PIXELS
        content = read_exactly(path, count * size, f"the {count:,} images of {cls.title}")
        records = np.frombuffer(content, np.uint8).reshape(count, size)
        labels = records[:, cls.label_bytes - 1]
        cls._check_labels(path, labels)
        return labels, records[:, cls.label_bytes :]

    @classmethod
    def _read_python(cls, path: Path, count: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return labels (count,) and pixels (count, 3072)."""
        size = file_size(path)
        if size > count * LARGEST_PICKLED_RECORD:
            raise DataError(
                f"{path}: too long for {count:,} images of {cls.title}: {size:,} bytes; "
                f"fetch {cls.python.archive} again"
            )
        try:
            content = read_pickle(read_bytes(path))
        except RefusedPickle as error:
            raise DataError(f"{path}: refused, {error}; fetch {cls.python.archive} again") from error
        fields = content if isinstance(content, dict) else {}
        pixels, labels = (fields.get(key.encode(), fields.get(key)) for key in ("data", cls.label_key))
        if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
            raise DataError(f'{path}: is no file of {cls.title}: it holds no array "data" and list "{cls.label_key}"')
        if pixels.shape != (count, PIXELS) or len(labels) != count:
            raise DataError(
                f"{path}: holds an array of shape {pixels.shape} and {len(labels):,} labels, but {cls.title} has "
                f"{(count, PIXELS)} and {count:,} here; fetch {cls.python.archive} again"
            )
        if not all(type(label) is int and 0 <= label < 256 for label in labels):
            raise DataError(f"{path}: some labels are no numbers of classes; fetch {cls.python.archive} again")
        cls._check_labels(path, np.array(labels))
        return np.array(labels), pixels

    @classmethod
    def _check_labels(cls, path: Path, labels: NDArray[Any]) -> None:
        if labels.max() >= len(cls.class_names):
            raise DataError(
                f"{path}: mislabelled: image {labels.argmax()} has label {labels.max()}, but the labels of "
                f"{cls.title} are 0 to {len(cls.class_names) - 1}; fetch it again"
            )


class CIFAR100(CIFAR10):
    """CIFAR-100: as CIFAR-10, in a hundred classes (the fine labels).

    ``root`` holds ``cifar-100-binary`` or ``cifar-100-python``, or is one of them; the rest is as for :class:`CIFAR10`.
    """

    title = "CIFAR-100"
    binary = Layout("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",))
    python = Layout("cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",))
    label_key = "fine_labels"
    label_bytes = 2
    class_names = tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """.split()  # noqa: SIM905 (a hundred quoted words would be harder to read)
    )
