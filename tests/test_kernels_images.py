"""Images of bytes to floats in every kernel module, against loops over pixels; and transforms that are left to them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from cuda_shim import Host, HostKernels
from fake_cupy import gpu_in_place_of_cupy
from kernel_cases import every_module, lies_channels_last, needs_compiler

from minires.data import DataLoader, ImageArrays, Shapes, Subset, dataset_info
from minires.data import transforms as T
from minires.data.on_device import batches_for, on_device
from minires.data.transforms.deferred import DeferredImages, deferred
from minires.kernels import cuda, reference
from minires.kernels.cuda import launch as launching
from minires.kernels.cuda.launch import running_on

# images (N, C, H, W), size of the crops, fill
CASES = {
    "CIFAR": ((3, 3, 8, 8), (8, 8), 0),
    "grey": ((4, 1, 7, 5), (7, 5), 9),
    "a part": ((2, 3, 9, 6), (4, 3), 255),
    "larger than the image": ((2, 4, 3, 4), (7, 9), 200),
    "one pixel": ((1, 1, 1, 1), (1, 1), 3),
    "no image": ((0, 3, 4, 4), (4, 4), 0),
}
over_cases = pytest.mark.parametrize(("shape", "size", "fill"), CASES.values(), ids=list(CASES))


def arrays(shape, size, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    n, c, h, w = shape
    images = rng.integers(0, 256, (n, h, w, c), np.uint8).transpose(0, 3, 1, 2)
    reach = np.array([[h, w]]) + 3  # also crops that miss the image on all sides
    places = rng.integers(-reach, reach + 1, (n, 2))
    crops = np.concatenate([places, rng.integers(0, 2, (n, 1))], axis=1).astype(np.int32)
    return images, rng.standard_normal((c, 256)).astype(dtype), crops


def by_loops(images, values, crops, size, fill):
    n, c, h, w = images.shape
    y = np.empty((n, c, *size), values.dtype)
    for image in range(n):
        top, left, mirrored = crops[image].tolist()
        for channel, row, column in np.ndindex(c, *size):
            i, j = top + row, left + (size[1] - 1 - column if mirrored else column)
            byte = images[image, channel, i, j] if 0 <= i < h and 0 <= j < w else fill
            y[image, channel, row, column] = values[channel, byte]
    return y


@every_module
@over_cases
def test_each_byte_becomes_its_value(kernels, shape, size, fill):
    given = arrays(shape, size)
    before = [array.copy() for array in given]
    y = kernels.crop_flip_normalize(*given, size, fill)
    assert y.dtype == np.float32
    assert lies_channels_last(y)
    assert np.array_equal(y, by_loops(*given, size, fill))
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))


@every_module
@pytest.mark.parametrize(
    "dtype", [np.float16, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (np.float64, ml_dtypes.bfloat16))]
)
def test_values_of_other_types(kernels, dtype):
    given = arrays((2, 3, 6, 8), (4, 8), dtype)
    y = kernels.crop_flip_normalize(*given, (4, 8), 7)
    assert y.dtype == dtype
    assert np.array_equal(y, by_loops(*given, (4, 8), 7))


@every_module
def test_images_in_another_order_in_memory(kernels):
    images, values, crops = arrays((2, 3, 6, 8), (6, 8))
    reordered = np.ascontiguousarray(images), np.asfortranarray(values), np.asfortranarray(crops)
    y = kernels.crop_flip_normalize(*reordered, (6, 8), 0)
    assert np.array_equal(y, by_loops(images, values, crops, (6, 8), 0))


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("- 1 - column", "- column", id="mirrored"),
        pytest.param("0 <= w && w < width", "0 <= w && w <= width", id="the edge", marks=pytest.mark.slow),
        pytest.param("image * 3", "image * 2", id="whose crop", marks=pytest.mark.slow),
    ],
)
def test_an_off_by_one_is_found_out(old, new):
    given = arrays((30, 3, 6, 8), (6, 8))

    def edit(text):
        assert text.count(old) == 1
        return text.replace(old, new)

    with running_on(Host(edit=edit)):
        assert not np.array_equal(cuda.crop_flip_normalize(*given, (6, 8), 0), by_loops(*given, (6, 8), 0))


# Transforms that are left to the kernel

STANDARD = [
    T.RandomCrop(8, padding=2),
    T.RandomHorizontalFlip(),
    T.ToTensor(),
    T.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.1)),
]
LEFT_TO_A_KERNEL = {
    "standard": STANDARD,
    "crop alone": [T.RandomCrop((6, 5), padding=(1, 2, 3, 4), fill=17), T.ToTensor()],
    "flip alone": [T.RandomHorizontalFlip(0.3), T.ToTensor()],
    "values alone": STANDARD[2:],
    "floats alone": [T.ToTensor()],
}


def image_set(transform, n=37, channels=3, target_transform=None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 8, 8, channels), np.uint8)
    images = images[..., 0] if channels == 1 else images
    return ImageArrays(images, rng.integers(0, 4, n), "abcd", transform, target_transform)


def loader_of(dataset, **options):
    return DataLoader(dataset, 8, shuffle=True, seed=3, **options)


@pytest.mark.parametrize("steps", LEFT_TO_A_KERNEL.values(), ids=list(LEFT_TO_A_KERNEL))
def test_images_that_were_deferred_are_those_of_the_transforms(steps):
    dataset = image_set(T.Compose(steps))
    for _ in range(2):  # epochs
        loaders = [loader_of(Subset(dataset, range(30))) for _ in range(2)]
        for (images, targets), (later, labels) in zip(loaders[0], loaders[1].deferring(), strict=True):
            assert isinstance(later, DeferredImages)
            assert later.images.dtype == np.uint8
            assert np.array_equal(later.floats().numpy(), images.numpy())
            assert later.floats().array.strides == images.array.strides
            assert np.array_equal(labels.numpy(), targets.numpy())


def test_grey_images_and_targets_with_a_transform():
    dataset = image_set(T.Compose([T.RandomCrop(8, 1), T.ToTensor()]), channels=1, target_transform=lambda t: t + 10)
    for (images, targets), (later, labels) in zip(loader_of(dataset), loader_of(dataset).deferring(), strict=True):
        assert images.shape[1:] == (1, 8, 8)
        assert np.array_equal(later.floats().numpy(), images.numpy())
        assert labels.tolist() == targets.tolist()
        assert min(labels.tolist()) >= 10


class Crop(T.RandomCrop):
    pass


@pytest.mark.parametrize(
    "transform",
    [
        None,
        T.ToTensor(),
        T.Compose([]),
        T.Compose([STANDARD[1], STANDARD[0], *STANDARD[2:]]),
        T.Compose([STANDARD[0], STANDARD[0], *STANDARD[2:]]),
        T.Compose([*STANDARD, T.Cutout(3)]),
        T.Compose([T.CenterCrop(4), *STANDARD[2:]]),
        T.Compose([Crop(8), T.ToTensor()]),
        T.Compose([T.RandomCrop(8, 2, padding_mode="reflect"), T.ToTensor()]),
        T.Compose([T.RandomCrop(9, pad_if_needed=True), T.ToTensor()]),
        T.Compose([T.RandomCrop(8, 2, fill=0.5), T.ToTensor()]),
        T.Compose([T.RandomCrop(8, 2, fill=-1), T.ToTensor()]),
    ],
    ids=repr,
)
def test_other_transforms_are_not_deferred(transform):
    assert deferred(transform) is None


def test_only_what_stays_the_same_is_deferred():
    class Own(ImageArrays):
        def load_batch(self, indices):
            return super().load_batch(indices[::-1])

    class Loader(DataLoader):
        def __iter__(self):
            return iter([])

    dataset = image_set(T.Compose(STANDARD))
    assert isinstance(next(batches_for(DataLoader(dataset), "cuda"))[0], DeferredImages)
    own = Own(dataset.images, dataset.targets, dataset.classes, dataset.transform)
    for loader in (
        DataLoader(own),
        DataLoader(Subset(own, [1, 2])),
        DataLoader(dataset, collate_fn=lambda items: items),
        DataLoader(image_set(T.ToTensor())),
    ):
        assert not isinstance(next(batches_for(loader, "cuda"))[0], DeferredImages)
    assert list(batches_for(Loader(dataset), "cuda")) == []
    assert not isinstance(next(batches_for(DataLoader(dataset), "cpu"))[0], DeferredImages)
    assert list(batches_for([1, 2], "cuda")) == [1, 2]


def test_errors_are_those_of_the_transforms():
    too_small = T.Compose([T.RandomCrop(12), T.ToTensor()])
    wrong_channels = T.Compose([T.ToTensor(), T.Normalize((0.5,), (0.5,))])
    for transform, message in ((too_small, "cannot cut 12x12 out of an image"), (wrong_channels, "have 3 channels")):
        for batches in (iter(loader_of(image_set(transform))), loader_of(image_set(transform)).deferring()):
            with pytest.raises(ValueError, match=message):
                next(batches)


@needs_compiler
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_gets_bytes_and_makes_the_floats_of_the_cpu(monkeypatch, workers):
    dataset = image_set(T.Compose(STANDARD))
    expected = list(loader_of(dataset))
    with gpu_in_place_of_cupy(monkeypatch) as host:
        loader = loader_of(dataset, num_workers=workers)
        found = list(on_device(batches_for(loader, "cuda"), "cuda"))
        assert [name for name, _, _ in host.launches] == ["crop_flip_normalize<float, 4>"] * len(expected)
        for (images, targets), (there, labels) in zip(expected, found, strict=True):
            assert there.is_cuda
            assert there.dtype == np.float32
            assert there.array.strides == images.array.strides
            assert np.array_equal(there.cpu().numpy(), images.numpy())
            assert np.array_equal(labels.cpu().numpy(), targets.numpy())


@needs_compiler
def test_the_launch_covers_odd_lines_and_many_blocks(monkeypatch):
    monkeypatch.setattr(launching, "MAX_BLOCKS", 2)
    given = arrays((5, 3, 9, 7), (9, 7))
    assert np.array_equal(
        HostKernels().crop_flip_normalize(*given, (9, 7), 1), reference.crop_flip_normalize(*given, (9, 7), 1)
    )


def test_the_data_sets_of_the_command_are_deferred():
    for name in ("cifar10", "cifar100", "mnist", "fashion-mnist", "shapes"):
        for train in (True, False):
            assert deferred(dataset_info(name).transform(train)) is not None
    assert Shapes(size=8, transform=dataset_info("shapes").transform(True)).defers_batches
