"""ImageFolder: a folder for each class, image files in it.

An image has at most as many pixels as Pillow holds to be safe (89,478,485 unless changed there), and reading it takes
up to eight bytes for each, whatever the size of its file. A JPEG, of which each scan goes over all pixels, has at most
`MOST_SCANS` of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from minires.data.dataset import Dataset
from minires.data.errors import DataError
from minires.data.loader import DataLoader
from minires.io import open_plain, reason

# The formats behind torchvision's extensions. Pillow knows others, some of which start programs of their own.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
MOST_SCANS = 100  # progressive ones commonly have ten
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as RGB; of 16 bits a channel the upper eight are taken.

    Raises
    ------
    DataError
        If it is missing, damaged, no plain file, no image of a known format, or has more pixels than Pillow holds to be
        safe.
    """
    return _read(path, lambda image, _: _eight_bits(image).convert("RGB"))


def check_image(path: str | os.PathLike[str]) -> None:
    """Raise the DataError of `load_image` if a file is no image or was cut short; damage within goes unnoticed."""
    if not _read(path, _ends_as_it_should):
        load_image(path)


def _read(path: str | os.PathLike[str], use: Callable[[Image.Image, BinaryIO], Any]) -> Any:
    """Return ``use(image, file)`` of an image that is open, but not yet decoded."""
    try:
        with open_plain(path) as file, Image.open(file, formats=FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise DataError(
                    f"{path}: {image.width}x{image.height} pixels are too many for one image; make it smaller"
                )
            if image.format == "JPEG" and _scans(file) > MOST_SCANS:
                raise DataError(f"{path}: a JPEG of {_scans(file):,} scans, which would take very long; save it anew")
            return use(image, file)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # a decoder can fail in many ways; each of them means that the file is unusable
        if isinstance(error, UnidentifiedImageError):
            verdict = f"it is none of {', '.join(FORMATS)}, or damaged"
        else:
            verdict = reason(error) if isinstance(error, OSError) else str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read as an image ({verdict}); replace or remove it") from error


def _scans(file: BinaryIO) -> int:
    file.seek(0)
    return file.read().count(b"\xff\xda")  # which compressed data never contain


def _eight_bits(image: Image.Image) -> Image.Image:
    """Take the upper bytes of 16-bit grey, as Pillow itself does of 16-bit colours; it would clip these to white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _ends_as_it_should(image: Image.Image, file: BinaryIO) -> bool:
    """Tell whether a file has the end mark of its format; some have none."""
    marks = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
    mark = marks.get(image.format or "")
    if mark is None:
        return False
    file.seek(-len(mark), os.SEEK_END)
    return file.read() == mark


class ImageFolder(Dataset):
    """Images in one folder for each class: ``root/ant/1.jpg``, ``root/bee/2.png``, ..., as torchvision reads them.

    Symbolic links to folders are followed, but within a class into each folder once, and never into one that the class
    or the root lies in itself.

    Parameters
    ----------
    root : path
    transform, target_transform : callable, optional
        Applied to the image and to the label.
    loader : callable
        Reads the image at a path; the built-in one gives RGB.
    is_valid_file : callable, optional
        Tells of a path whether it counts, instead of its extension.
    allow_empty : bool
        Let a class have no image.

    Attributes
    ----------
    classes : list of str
        The names of the folders, sorted; a class's label is its place here, also found in ``class_to_idx``.
    samples : list of (str, int)
        Path and label of every image, sorted within a class; also called ``imgs``.
    targets : list of int

    Raises
    ------
    DataError
        If there is no class folder, one without images, or one that cannot be read; when an item is asked for, if its
        file is no image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        loader: Callable[[str], Any] = load_image,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.transform, self.target_transform, self.loader = transform, target_transform, loader
        try:
            above = _folders_above(self.root)
            self.classes = sorted(
                entry.name for entry in os.scandir(self.root) if _identity_of_folder(entry) not in (None, *above)
            )
        except OSError as error:
            raise DataError(f"{self.root}: {reason(error)}; give a folder of images") from error
        if not self.classes:
            raise DataError(f"{self.root}: holds no folders; put the images of each class in a folder of its own there")
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.samples = [
            (path, label)
            for name, label in self.class_to_idx.items()
            for path in _files_below(self.root / name, above)
            if (is_valid_file or _has_image_extension)(path)
        ]
        self.imgs = self.samples
        self.targets = [label for _, label in self.samples]
        empty = [name for name, label in self.class_to_idx.items() if label not in set(self.targets)]
        if empty and not allow_empty:
            raise DataError(
                f"{self.root / empty[0]}: holds no images ({', '.join(EXTENSIONS)}); "
                "remove the folder if it is no class"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        image = self.loader(path)
        if self.transform is not None:
            image = self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)

    def unreadable(self, decode: bool = False, workers: int = 0) -> list[DataError]:
        """Return an error for each file that is no image, or was cut short; with ``decode`` read each of them whole.

        Only files for the built-in loader are looked at, by ``workers`` threads.
        """
        if self.loader is not load_image:
            return []
        checks = _Checks([path for path, _ in self.samples], load_image if decode else check_image)
        # The seed is not used, but without one the loader would draw it, and training others than before.
        found = DataLoader(checks, batch_size=64, num_workers=workers, collate_fn=lambda errors: errors, seed=0)
        return [error for errors in found for error in errors if error is not None]

    def __repr__(self) -> str:
        return f"ImageFolder({len(self)} images in {len(self.classes)} classes under {self.root})"


def check_images(*folders: ImageFolder, workers: int = 0) -> None:
    """Raise a DataError that names files in them that are no images, or were cut short."""
    errors = [error for folder in folders for error in folder.unreadable(workers=workers)]
    if errors:
        raise DataError(said_of_unreadable(errors, sum(map(len, folders))))


def said_of_unreadable(errors: list[DataError], images: int) -> str:
    """Return how many of so many images cannot be read, and what is wrong with the first ones."""
    some = "; ".join(str(error) for error in errors[:3])
    return f"{len(errors):,} of {images:,} images cannot be read: {some}{'; and others' if len(errors) > 3 else ''}"


class _Checks(Dataset):
    """The fault of each file, or None."""

    def __init__(self, paths: list[str], check: Callable[[str], object]) -> None:
        self.paths, self.check = paths, check

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> DataError | None:
        try:
            self.check(self.paths[index])
        except DataError as error:
            return error.with_traceback(None)  # a traceback would keep the pixels
        return None


Identity = tuple[int, int]


def _folders_above(folder: Path) -> set[Identity]:
    """Return which folder this is, and in which it lies."""
    resolved = folder.resolve()
    return {_identity(os.stat(each)) for each in (resolved, *resolved.parents)}


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _identity_of_folder(entry: os.DirEntry[str]) -> Identity | None:
    """Return which folder an entry is or leads to; None for a file, and for a link that leads nowhere."""
    try:
        return _identity(entry.stat()) if entry.is_dir() else None
    except OSError:
        return None


def _files_below(folder: Path, above: set[Identity]) -> Iterator[str]:
    """Yield the paths of the files in a class folder, in torchvision's order."""
    found, waiting = [], [os.fspath(folder)]
    try:
        seen = above | _folders_above(folder)
        while waiting:
            parent, names = waiting.pop(), []
            for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
                identity = _identity_of_folder(entry)
                if identity is None:
                    names.append(entry.name)
                elif identity not in seen:
                    seen.add(identity)
                    waiting.append(entry.path)
            found.append((parent, names))
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {reason(error)}; give a folder of images") from error
    for parent, names in sorted(found):
        for name in names:
            yield os.path.join(parent, name)


def _has_image_extension(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)
