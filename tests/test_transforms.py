"""Transforms against Pillow and independent NumPy loops; a batch against its images one by one."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from minires.autograd import Tensor
from minires.data import transforms as T
from minires.data.randomness import use_generator


def images(n=5, h=12, w=10, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def seeded(transform, image, seed=0):
    with use_generator(np.random.default_rng(seed)):
        return transform(image)


ALL = [
    T.Resize(7),
    T.Resize((9, 5), "bicubic"),
    T.CenterCrop(8),
    T.CenterCrop((15, 6)),
    T.RandomCrop(10, padding=2),
    T.RandomCrop((4, 6)),
    T.RandomHorizontalFlip(),
    T.RandomResizedCrop(6),
    T.Cutout(4),
    T.ToTensor(),
]


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_kinds_of_input_agree(transform):
    # One image is one image, as an array, as a PIL image, or as a batch of one.
    image = images(1)
    array = seeded(transform, image[0])
    pil = seeded(transform, Image.fromarray(image[0]))
    batch = seeded(transform, image)
    if isinstance(transform, T.ToTensor):
        array, pil, batch = array.array, pil.array, batch.array
    else:
        assert isinstance(pil, Image.Image)
    np.testing.assert_array_equal(np.asarray(pil), array)
    np.testing.assert_array_equal(batch[0], array)


@pytest.mark.parametrize("transform", ALL, ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_are_not_changed(transform, channels):
    batch = images(c=channels)
    before = batch.copy()
    seeded(transform, batch)
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize("transform", [t for t in ALL if not isinstance(t, T.ToTensor)], ids=repr)
def test_grey_images_stay_grey(transform):
    grey = images(1)[0, :, :, 0]
    assert seeded(transform, Image.fromarray(grey)).mode == "L"
    assert seeded(transform, grey).ndim == 2


@pytest.mark.parametrize(
    ("size", "max_size", "hw", "expected"),
    [  # expected (width, height) by torchvision's rule: the shorter side is `size`, the other int(size * long / short)
        (7, None, (12, 10), (7, 8)),
        (7, None, (10, 12), (8, 7)),
        (20, None, (12, 10), (20, 24)),
        ((9, 5), None, (12, 10), (5, 9)),
        ([6], None, (12, 10), (6, 7)),
        (7, 8, (30, 10), (2, 8)),
    ],
)
def test_resize_size(size, max_size, hw, expected):
    image = Image.fromarray(images(1, *hw)[0])
    resized = T.Resize(size, max_size=max_size)(image)
    assert resized.size == expected
    np.testing.assert_array_equal(np.asarray(resized), np.asarray(image.resize(expected, Image.Resampling.BILINEAR)))


def test_center_crop_cuts_the_middle():
    # torchvision: top = round((12 - 7) / 2) = round(2.5) = 2, left = round((10 - 5) / 2) = round(2.5) = 2
    batch = images()
    np.testing.assert_array_equal(T.CenterCrop((7, 5))(batch), batch[:, 2:9, 2:7])


def test_center_crop_pads_small_images():
    batch = images(h=3, w=4)
    out = T.CenterCrop((6, 4))(batch)  # 3 missing rows: 1 above, 2 below
    assert out.shape == (5, 6, 4, 3)
    np.testing.assert_array_equal(out[:, 1:4], batch)
    assert out[:, [0, 4, 5]].max() == 0


def every_crop(image, padding, size):
    padded = np.asarray(ImageOps.expand(Image.fromarray(image), padding))
    h, w, _ = padded.shape
    return [padded[y : y + size, x : x + size] for y in range(h - size + 1) for x in range(w - size + 1)]


def test_random_crop_gives_every_window_and_nothing_else():
    image = images(1, 5, 5)[0]
    windows = {crop.tobytes() for crop in every_crop(image, 1, 5)}
    crops = seeded(T.RandomCrop(5, padding=1), np.repeat(image[None], 300, axis=0))
    assert {crop.tobytes() for crop in crops} == windows


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_random_crop_padding_modes(mode):
    image = images(1, 4, 4)[0]
    expected = np.stack([np.pad(image[..., c], 2, mode=mode) for c in range(3)], axis=-1)
    np.testing.assert_array_equal(T.RandomCrop(8, padding=2, padding_mode=mode)(image), expected)


def test_random_crop_sides_and_fill():
    out = T.RandomCrop((7, 8), padding=(1, 2, 3, 1), fill=9)(np.zeros((4, 4, 3), np.uint8))
    inside = np.full((7, 8), 9)
    inside[2:6, 1:5] = 0  # left 1, top 2, right 3, bottom 1
    np.testing.assert_array_equal(out[..., 0], inside)


def test_random_crop_pads_if_needed():
    assert T.RandomCrop(20, pad_if_needed=True)(images()).shape == (5, 20, 20, 3)


@pytest.mark.parametrize(("p", "share"), [(0, 0), (1, 1), (0.5, 0.5), (0.2, 0.2)])
def test_flip_probability_per_image(p, share):
    batch = np.repeat(images(1, 4, 4), 2000, axis=0)
    out = seeded(T.RandomHorizontalFlip(p), batch)
    mirrored = np.asarray(ImageOps.mirror(Image.fromarray(batch[0])))
    flipped = (out == mirrored).all(axis=(1, 2, 3))
    assert (flipped | (out == batch).all(axis=(1, 2, 3))).all()
    assert abs(flipped.mean() - share) < 0.04  # more than three standard deviations of 2000 draws


def test_random_resized_crop_is_crop_then_resize():
    image = images(1, 40, 30)[0]
    transform = T.RandomResizedCrop((8, 9))
    with use_generator(np.random.default_rng(3)):
        top, left, h, w = transform.draw_box(40, 30)
    expected = Image.fromarray(image).crop((left, top, left + w, top + h)).resize((9, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(seeded(transform, image, 3), np.asarray(expected))


def test_random_resized_crop_boxes():
    transform = T.RandomResizedCrop(8, scale=(0.2, 0.6), ratio=(0.5, 2))
    boxes = np.array([transform.draw_box(60, 80) for _ in range(500)])
    top, left, h, w = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= 60).all()
    assert (left + w <= 80).all()
    area, ratio = h * w / (60 * 80), w / h
    assert 0.18 < area.min() < 0.25  # bounds reached, to rounding
    assert 0.55 < area.max() < 0.62
    assert 0.47 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.1


def test_random_resized_crop_falls_back_to_the_centre():
    # A strip has no part of ratio 3/4 to 4/3 with nearly all its area: torchvision takes the widest allowed, centred.
    assert T.RandomResizedCrop(8, scale=(0.99, 1)).draw_box(10, 100) == (0, 43, 10, 13)


def test_cutout_fills_a_clipped_square():
    size, h, w = 4, 12, 10
    squares = set()
    for cy in range(h):
        for cx in range(w):
            mask = np.zeros((h, w), bool)
            mask[max(cy - 2, 0) : max(cy + 2, 0), max(cx - 2, 0) : max(cx + 2, 0)] = True
            squares.add(mask.tobytes())
    out = seeded(T.Cutout(size, fill=7), np.ones((500, h, w, 3), np.uint8))
    assert set(np.unique(out)) == {1, 7}
    cut = (out == 7).all(axis=-1)
    assert {mask.tobytes() for mask in cut} <= squares
    assert len({mask.tobytes() for mask in cut}) > 50


def test_cutout_on_tensors_fills_all_channels():
    out = seeded(T.Cutout(3), Tensor(np.ones((4, 2, 8, 8), np.float32))).array
    holes = (out == 0).sum(axis=(2, 3))
    assert out.shape == (4, 2, 8, 8)
    assert (holes[:, 0] == holes[:, 1]).all()
    assert holes.min() >= 1


def test_to_tensor_and_normalize_values():
    batch = images()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    out = T.Compose([T.ToTensor(), T.Normalize(mean, std)])(batch).array
    assert out.dtype == np.float32
    assert out.shape == (5, 3, 12, 10)
    for c in range(3):
        expected = (batch[..., c].astype(np.float64) / 255 - mean[c]) / std[c]
        np.testing.assert_allclose(out[:, c], expected, rtol=1e-5, atol=1e-6)


def test_to_tensor_keeps_batches_channels_last():
    assert T.ToTensor()(images()).array.transpose(0, 2, 3, 1).flags.c_contiguous


def test_to_tensor_scales_bytes_only():
    floats = np.full((2, 4, 4, 3), 3.5)
    assert T.ToTensor()(floats).array.max() == 3.5
    assert T.ToTensor()(np.array([[[0], [255]]], np.uint8)).array.tolist() == [[[0.0, 1.0]]]


def test_normalize_leaves_its_input():
    tensor = Tensor(np.ones((3, 4, 4), np.float32))
    assert T.Normalize((1, 1, 1), (2, 2, 2))(tensor).array.max() == 0
    assert tensor.array.min() == 1


def test_draws_of_a_batch_are_independent():
    batch = np.repeat(images(1, 16, 16), 64, axis=0)
    for transform in (T.RandomCrop(16, padding=4), T.RandomResizedCrop(8), T.Cutout(6)):
        assert len({out.tobytes() for out in seeded(transform, batch)}) > 30


def test_same_generator_same_images():
    transform = T.Compose([T.RandomCrop(8, padding=1), T.RandomHorizontalFlip(), T.Cutout(3)])
    np.testing.assert_array_equal(seeded(transform, images(), 5), seeded(transform, images(), 5))
    assert not np.array_equal(seeded(transform, images(), 5), seeded(transform, images(), 6))


def test_manual_seed_governs_transforms_outside_a_loader():
    from minires.device import manual_seed

    def draw():
        manual_seed(3)
        return T.RandomCrop(6)(images())

    np.testing.assert_array_equal(draw(), draw())


def test_compose_handles_batches_only_if_all_do():
    assert T.Compose([T.RandomCrop(4), T.Compose([T.ToTensor()])]).handles_batches
    assert not T.Compose([T.RandomCrop(4), lambda image: image]).handles_batches


def test_compose_runs_in_order_and_prints():
    compose = T.Compose([lambda x: x + 1, lambda x: x * 2])
    assert compose(3) == 8
    assert repr(T.Compose([T.ToTensor(), T.CenterCrop(4)])) == "Compose(\n    ToTensor()\n    CenterCrop((4, 4))\n)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: T.RandomCrop(20)(images()), ValueError, "cannot cut 20x20 out of an image that is 12x10"),
        (lambda: T.RandomCrop(0), ValueError, "positive int"),
        (lambda: T.RandomCrop(4, padding=(1, 2, 3)), ValueError, "1, 2 or 4 ints"),
        (lambda: T.RandomCrop(4, padding=-1), ValueError, "none negative"),
        (lambda: T.RandomCrop(4, padding_mode="wrap"), ValueError, "padding_mode must be one of"),
        (lambda: T.Resize((4, 5, 6)), ValueError, "pair"),
        (lambda: T.Resize(8, max_size=8), ValueError, "max_size"),
        (lambda: T.Resize(8, "cubic"), ValueError, "cubic"),
        (lambda: T.RandomHorizontalFlip(1.5), ValueError, "probability"),
        (lambda: T.RandomResizedCrop(8, scale=(0.5, 0.1)), ValueError, "scale must be a range"),
        (lambda: T.Cutout(0), ValueError, "positive number of pixels"),
        (lambda: T.Normalize((0.5,), (0.0,)), ValueError, "divide by zero"),
        (lambda: T.Normalize((0.5,), (0.5, 0.5)), ValueError, "1 means but 2"),
        (lambda: T.Normalize((0.5,), (0.5,))(T.ToTensor()(images())), ValueError, "3 channels"),
        (lambda: T.Normalize((0.5,), (0.5,))(images()), TypeError, "put ToTensor"),
        (lambda: T.ToTensor()(T.ToTensor()(images())), TypeError, "Tensor already"),
        (lambda: T.Resize(4)(T.ToTensor()(images())), TypeError, "put it before ToTensor"),
        (lambda: T.ToTensor()([[1, 2]]), TypeError, "got list"),
        (lambda: T.ToTensor()(np.zeros(3)), ValueError, "shape"),
        (lambda: T.CenterCrop(2)(Image.new("P", (4, 4))), ValueError, "convert"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
