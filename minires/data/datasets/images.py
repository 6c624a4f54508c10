"""What all image sets held in memory share: indexing, transforms, and whole batches at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minires.autograd import Tensor
from minires.data.collate import default_collate
from minires.data.dataset import Dataset
from minires.data.transforms import handles_batches
from minires.data.transforms.deferred import deferred


class ImageArrays(Dataset):
    """Images and labels in memory; the base of CIFAR10, CIFAR100, MNIST, FashionMNIST and Shapes.

    Attributes
    ----------
    images : uint8 array (N, H, W, 3), or (N, H, W) if grey
    targets : int64 array (N,)
    classes : tuple of str
        The name of each label.
    transform, target_transform : callable or None

    Item ``i`` is the pair (image, label): a PIL image and an int, each put through its transform if there is one.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        targets: NDArray[np.int64],
        classes: Sequence[str],
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ) -> None:
        self.images = images
        self.targets = targets
        self.classes = tuple(classes)
        self.transform = transform
        self.target_transform = target_transform

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The label of each class name."""
        return {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.images[index])
        if self.transform is not None:
            image = self.transform(image)
        return image, self._target(self.targets[index])

    def _target(self, target: np.int64) -> Any:
        return int(target) if self.target_transform is None else self.target_transform(int(target))

    @property
    def loads_batches(self) -> bool:
        """Whether :meth:`load_batch` does what item by item would: a subclass may have its own ``__getitem__``."""
        return type(self).__getitem__ is ImageArrays.__getitem__ and handles_batches(self.transform)

    def load_batch(self, indices: NDArray[np.int64]) -> list[Any]:
        """Return [images, targets] of ``indices``, the transform called once for all of them.

        Random transforms still draw for each image by itself.
        """
        images = self._batch(indices)
        transformed = self.transform(images) if self.transform is not None else images
        if not isinstance(transformed, Tensor):
            raise TypeError(
                f"cannot make a batch of {type(self).__name__}: its transform gives images, end it with ToTensor()"
            )
        return [transformed, self._target_batch(indices)]

    @property
    def defers_batches(self) -> bool:
        """Whether :meth:`defer_batch` can be called in place of :meth:`load_batch`."""
        return (
            self.loads_batches
            and type(self).load_batch is ImageArrays.load_batch
            and self.images.dtype == np.uint8
            and deferred(self.transform) is not None
        )

    def defer_batch(self, indices: NDArray[np.int64]) -> list[Any]:
        """Return [images, targets] of ``indices``, images as `DeferredImages`; random numbers are drawn now."""
        transform = deferred(self.transform)
        assert transform is not None  # see defers_batches
        return [transform(self._batch(indices)), self._target_batch(indices)]

    def _batch(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(N,) -> (N, H, W, C)."""
        images = self.images[indices]
        return images[..., np.newaxis] if images.ndim == 3 else images

    def _target_batch(self, indices: NDArray[np.int64]) -> Any:
        targets = self.targets[indices]
        if self.target_transform is None:
            return Tensor(targets)
        return default_collate([self._target(target) for target in targets])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"{type(self).__name__}({len(self)} images of {shape}, {len(self.classes)} classes)"
