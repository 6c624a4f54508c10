"""Using a trained model: loading it from a checkpoint, and classifying image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minires.autograd import no_grad
from minires.data import DataError, default_collate
from minires.data.datasets.folder import load_image
from minires.device import Device, as_device, module_for
from minires.models.folding import fold_batch_norm
from minires.nn import Module
from minires.nn import functional as F
from minires.training.checkpoint import Checkpoint
from minires.training.experiment import Experiment

BATCH_SIZE = 64


def load_model(
    path: str | os.PathLike[str], device: Device | str | None = None, *, fold: bool = False
) -> tuple[Module, Experiment]:
    """Return the model of a checkpoint, in eval mode on ``device``, and the experiment that trained it.

    With ``fold``, batch norm is folded into the convolutions (see `minires.fold_batch_norm`): the model is faster,
    gives the same outputs up to rounding, and cannot be trained.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, or is damaged.
    RuntimeError
        If the device is not there.
    """
    target = as_device(device)
    module_for(target)  # before any work is done
    checkpoint = Checkpoint.load(path)
    experiment = Experiment.from_checkpoint(checkpoint)
    model = experiment.restored_model(checkpoint)
    model.to(target).eval()
    return fold_batch_norm(model) if fold else model, experiment


def classify(
    model: Module,
    experiment: Experiment,
    paths: Sequence[str | os.PathLike[str]],
    top: int = 5,
    device: Device | str | None = None,
    on_error: Callable[[int, DataError], None] | None = None,
) -> list[list[tuple[str, float]]]:
    """Return for each image file its ``top`` likeliest classes with their probabilities, the likeliest first.

    Raises
    ------
    DataError
        If a file is missing or no image, or the model has no finite answer to it. If ``on_error`` is given, it is
        called with the place in ``paths`` and that error instead, and no class is returned for the image.
    """
    transform = experiment.image_transform()
    mode = "L" if experiment.channels == 1 else "RGB"
    ranked: list[list[tuple[str, float]]] = [[] for _ in paths]

    def fail(index: int, error: DataError) -> None:
        if on_error is None:
            raise error
        on_error(index, error)

    with no_grad():
        for begin in range(0, len(paths), BATCH_SIZE):
            images = {}
            for index, path in enumerate(paths[begin : begin + BATCH_SIZE], begin):
                try:
                    images[index] = transform(load_image(Path(path)).convert(mode))
                except DataError as error:
                    fail(index, error)
            if not images:
                continue
            logits = model(default_collate(list(images.values())).to(as_device(device)))
            for index, probabilities in zip(images, F.softmax(logits, dim=1).to("cpu").numpy(), strict=True):
                if not np.isfinite(probabilities).all():
                    fail(index, DataError(f"{paths[index]}: the model's answer is not finite; its weights are spoilt"))
                    continue
                order = (-probabilities).argsort(kind="stable")[:top]
                ranked[index] = [(experiment.classes[label], float(probabilities[label])) for label in order]
    return ranked
