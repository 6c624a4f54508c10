"""ImageFolder: a folder for each class, image files in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from minires.data.dataset import Dataset
from minires.data.errors import DataError

# The formats behind torchvision's extensions. Pillow knows others, some of which start programs of their own.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as RGB.

    Raises
    ------
    DataError
        If it is missing, damaged, no image of a known format, or has more pixels than Pillow holds to be safe.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise DataError(
                    f"{path}: {image.width}x{image.height} pixels are too many for one image; make it smaller"
                )
            return image.convert("RGB")
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # a decoder can fail in many ways; each of them means that the file is unusable
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from error


class ImageFolder(Dataset):
    """Images in one folder for each class: ``root/ant/1.jpg``, ``root/bee/2.png``, ..., as torchvision reads them.

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
        If there is no class folder, or one without images; when an item is asked for, if its file is no image.
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
            self.classes = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except OSError as error:
            raise DataError(
                f"{self.root}: {(error.strerror or str(error)).lower()}; give a folder of images"
            ) from error
        if not self.classes:
            raise DataError(f"{self.root}: holds no folders; put the images of each class in a folder of its own there")
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.samples = [
            (path, label)
            for name, label in self.class_to_idx.items()
            for path in _files_below(self.root / name)
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

    def __repr__(self) -> str:
        return f"ImageFolder({len(self)} images in {len(self.classes)} classes under {self.root})"


def _files_below(folder: Path) -> Iterator[str]:
    for parent, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            yield os.path.join(parent, name)


def _has_image_extension(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)
