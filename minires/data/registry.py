"""The data sets that the command knows by name: how to open each, prepare its images, and check its files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minires.data import transforms as T
from minires.data.checksums import OFFICIAL
from minires.data.dataset import Dataset
from minires.data.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST, ImageFolder, Shapes
from minires.data.datasets.folder import said_of_unreadable
from minires.data.errors import DataError
from minires.data.files import checksum, file_size
from minires.io import shown
from minires.kernels import get_num_threads

LARGEST_FILE = 256 * 2**20  # the largest official one has 155 MB

Root = str | os.PathLike[str] | None


@dataclass(frozen=True)
class DatasetInfo:
    """What there is to know of a data set before it is opened.

    Attributes
    ----------
    name, title : str
        As the command spells it, and as people do.
    num_classes : int or None
        None where the folder says it.
    channels, image_size : int
        Of the images that a net is given.
    mean, std : tuple of float
        By channel, of pixels in [0, 1], over the training images.
    needs_root : bool
        Whether there are files to be found somewhere.
    """

    name: str
    title: str
    num_classes: int | None
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    open: Callable[..., Any]
    locate: Callable[[Path, bool], list[Path]] | None
    augment: Callable[[int], list[Callable[[Any], Any]]]
    prepare: Callable[[int], list[Callable[[Any], Any]]] = lambda size: []
    needs_root: bool = True

    def transform(self, train: bool, image_size: int | None = None) -> T.Compose:
        """Return the usual transforms: augmentation for training, then to a normalised Tensor.

        ``image_size`` replaces the set's own where images are cut to size.
        """
        steps = (self.augment if train else self.prepare)(image_size or self.image_size)
        return T.Compose([*steps, T.ToTensor(), T.Normalize(self.mean, self.std)])


def _open_shapes(root: Root, train: bool, transform: Any) -> Shapes:
    return Shapes(train, transform)


def _split_folder(root: Path, train: bool) -> Path:
    names = ("train",) if train else ("val", "test")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(
        f"{root}: holds no folder {' or '.join(names)}; put the training images in train/CLASS/ and the held-out ones "
        "in val/CLASS/ there"
    )


def _open_folder(root: Path, train: bool, transform: Any) -> ImageFolder:
    return ImageFolder(_split_folder(root, train), transform)


def _cifar(dataset: type[CIFAR10], name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        title=dataset.title,
        num_classes=len(dataset.class_names),
        channels=3,
        image_size=32,
        mean=mean,
        std=std,
        open=dataset,
        locate=dataset.locate,
        augment=lambda size: [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()],
    )


def _mnist(
    dataset: type[MNIST], name: str, mean: float, std: float, augment: list[Callable[[Any], Any]]
) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        title=dataset.title,
        num_classes=len(dataset.class_names),
        channels=1,
        image_size=28,
        mean=(mean,),
        std=(std,),
        open=dataset,
        locate=dataset.locate,
        augment=lambda size: augment,
    )


_INFOS = (
    DatasetInfo(
        name="shapes",
        title="Shapes",
        num_classes=10,
        channels=3,
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.247, 0.247, 0.247),
        open=_open_shapes,
        locate=None,
        augment=lambda size: [T.RandomHorizontalFlip()],
        needs_root=False,
    ),
    _cifar(CIFAR10, "cifar10", (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    _cifar(CIFAR100, "cifar100", (0.50707, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
    # A mirrored digit is no digit: only moved.
    _mnist(MNIST, "mnist", 0.1307, 0.3081, [T.RandomCrop(28, padding=2)]),
    _mnist(FashionMNIST, "fashion-mnist", 0.2860, 0.3530, [T.RandomCrop(28, padding=2), T.RandomHorizontalFlip()]),
    DatasetInfo(
        name="imagefolder",
        title="ImageFolder",
        num_classes=None,
        channels=3,
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        open=_open_folder,
        locate=None,
        augment=lambda size: [T.RandomResizedCrop(size), T.RandomHorizontalFlip()],
        prepare=lambda size: [T.Resize(round(size / 0.875)), T.CenterCrop(size)],
    ),
)
_BY_NAME = {info.name: info for info in _INFOS}


def available() -> tuple[str, ...]:
    """Return the names that :func:`open_dataset` knows."""
    return tuple(_BY_NAME)


def dataset_info(name: str) -> DatasetInfo:
    """Return what is known of the data set ``name``.

    Raises
    ------
    DataError
        If there is none of that name.
    """
    if name not in _BY_NAME:
        raise DataError(f"unknown data set {shown(name)}: choose one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def open_dataset(
    name: str, root: Root = None, train: bool = True, transform: Callable[[Any], Any] | None = None
) -> Dataset:
    """Open one split of a data set by name.

    Parameters
    ----------
    name : one of :func:`available`
    root : path
        Where its files are; for "imagefolder" the folder with ``train`` and ``val`` (or ``test``); none for "shapes".
    train : bool
    transform : callable, optional
        Applied to the image; see :meth:`DatasetInfo.transform` for the usual one.

    Raises
    ------
    DataError
        If the name is unknown, no root is given, or a file is missing or damaged.
    """
    info = dataset_info(name)
    return info.open(_root_of(info, root), train, transform)


def _root_of(info: DatasetInfo, root: Root) -> Path | None:
    if not info.needs_root:
        return None
    if root is None:
        raise DataError(f"{info.title}: say where its files are, with root (--root on the command line)")
    return Path(root).expanduser()


@dataclass(frozen=True)
class FileReport:
    """A file of a data set; ``official`` tells whether its checksum is the published one, None if none is known."""

    path: Path
    size: int
    algorithm: str
    digest: str
    official: bool | None


@dataclass(frozen=True)
class SplitReport:
    """One split of a data set: the number of images that can be read, and what is wrong with the others or with all."""

    name: str
    images: int | None
    classes: tuple[str, ...]
    files: tuple[FileReport, ...]
    problem: str | None


@dataclass(frozen=True)
class DatasetReport:
    """What was found of a data set."""

    info: DatasetInfo
    root: Path | None
    splits: tuple[SplitReport, ...]

    @property
    def complete(self) -> bool:
        """Whether both splits can be opened and no file differs from the published one."""
        files = [file for split in self.splits for file in split.files]
        return all(split.problem is None for split in self.splits) and all(file.official is not False for file in files)


def describe(name: str, root: Root = None) -> DatasetReport:
    """Open both splits of a data set and compare its files with the published checksums; read the images of a folder.

    Damaged and missing files do not raise; the report says what is wrong with them.

    Raises
    ------
    DataError
        If the name is unknown or no root is given.
    """
    info = dataset_info(name)
    base = _root_of(info, root)
    return DatasetReport(info, base, tuple(_describe_split(info, base, train) for train in (True, False)))


def _describe_split(info: DatasetInfo, root: Path | None, train: bool) -> SplitReport:
    files: tuple[FileReport, ...] = ()
    images, classes, problem = None, (), None
    try:
        if info.locate is not None and root is not None:
            files = tuple(_describe_file(info.name, path) for path in info.locate(root, train))
        dataset = info.open(root, train, None)
        images, classes = len(dataset), tuple(dataset.classes)
        if isinstance(dataset, ImageFolder) and (errors := dataset.unreadable(decode=True, workers=get_num_threads())):
            images, problem = images - len(errors), said_of_unreadable(errors, images)
    except DataError as error:
        problem = str(error)
    return SplitReport("train" if train else "test", images, classes, files, problem)


def _describe_file(name: str, path: Path) -> FileReport:
    algorithm, published = OFFICIAL[name].get(path.name, ("sha256", None))
    size = file_size(path)
    if size > LARGEST_FILE:
        raise DataError(f"{path}: too long: {size:,} bytes, and no file of {dataset_info(name).title} has as many")
    digest = checksum(path, algorithm)
    return FileReport(path, size, algorithm, digest, None if published is None else digest == published)
