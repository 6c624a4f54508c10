"""The built-in set of shapes: repeatable, balanced, right in form, and out of a linear classifier's reach."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from minires.data import Shapes
from minires.data.datasets import shapes


def test_size_kind_and_balance():
    data = Shapes(size=300)
    assert data.images.shape == (300, 32, 32, 3)
    assert data.images.dtype == np.uint8
    assert data.targets.dtype == np.int64
    assert np.bincount(data.targets).tolist() == [30] * 10
    assert len(data.classes) == 10
    assert [data.class_to_idx[name] for name in data.classes] == list(range(10))
    image, label = data[-1]
    assert isinstance(image, Image.Image)
    assert type(label) is int
    assert repr(data) == "Shapes(300 images of 32x32x3, 10 classes)"


def test_default_sizes():
    assert len(Shapes(train=False)) == 2000


def test_a_seed_draws_the_same_images_whatever_the_size():
    np.testing.assert_array_equal(Shapes(size=130).images, Shapes(size=250).images[:130])


@pytest.mark.parametrize("other", [{"seed": 1}, {"train": False}], ids=str)
def test_seeds_and_splits_share_no_image(other):
    first = {image.tobytes() for image in Shapes(size=200).images}
    assert first.isdisjoint(image.tobytes() for image in Shapes(size=200, **other).images)


def regular(points, radius=1.0, start=0.0):
    angles = start + np.arange(points) * 2 * np.pi / points
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius


STAR = np.stack([regular(5), regular(5, 0.4, np.pi / 5)], axis=1).reshape(-1, 2)

POLYGONS = {
    "bar": [(-0.95, -0.22), (0.95, -0.22), (0.95, 0.22), (-0.95, 0.22)],
    "square": [(-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)],
    "triangle": regular(3),
    "star": STAR,
}


@pytest.mark.parametrize("name", POLYGONS)
def test_outlines_against_drawn_polygons(name):
    side = 400
    drawing = Image.new("1", (side, side))
    corners = [((u + 1.2) / 2.4 * side, (v + 1.2) / 2.4 * side) for u, v in POLYGONS[name]]
    ImageDraw.Draw(drawing).polygon(corners, fill=1)
    axis = ((np.arange(side) + 0.5) / side * 2.4 - 1.2).astype(np.float32)
    inside = shapes.OUTLINES[name](axis[None, :] + 0 * axis[:, None], axis[:, None] + 0 * axis[None, :]) < 0
    assert (inside != np.asarray(drawing)).mean() < 0.01  # the rim of the drawing is a pixel wide


def softmax_regression(x, y, x_test, y_test, epochs=15):
    x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    x_test = np.concatenate([x_test, np.ones((len(x_test), 1), np.float32)], axis=1)
    weight = np.zeros((x.shape[1], 10), np.float32)
    momentum = np.zeros_like(weight)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(x)), len(x) // 200):
            logits = x[rows] @ weight
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(rows)), y[rows]] -= 1
            momentum = 0.9 * momentum + x[rows].T @ p / len(rows)
            weight -= 1e-3 * momentum
    return ((x_test @ weight).argmax(axis=1) == y_test).mean()


def test_a_linear_model_stays_far_behind():
    train, test = Shapes(size=4000), Shapes(train=False, size=1000)
    x, x_test = ((data.images.reshape(len(data), -1).astype(np.float32) - 128) / 64 for data in (train, test))
    assert softmax_regression(x, train.targets, x_test, test.targets) < 0.3


@pytest.mark.parametrize("options", [{"size": 0}, {"seed": -1}], ids=str)
def test_refusals(options):
    with pytest.raises(ValueError, match="Shapes"):
        Shapes(**options)
