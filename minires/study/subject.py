"""What a survey looks at: a net and the same net without its skips, trained alike, and images to look at them with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minires.autograd import Tensor, no_grad
from minires.autograd.creation import zeros
from minires.data import DataLoader, Shapes, Subset, TensorDataset, dataset_info, open_dataset
from minires.device import manual_seed
from minires.models import get_model
from minires.nn import Module
from minires.nn import functional as F
from minires.study.degradation import TrainingCurve, contestant, train_alike
from minires.study.errors import StudyError
from minires.training import Recipe, StepReport, load_model


@dataclass(frozen=True)
class SurveyOptions:
    """What to study and how much of it.

    Attributes
    ----------
    model : a name of `minires.models.get_model`, or KIND-DEPTH as `minires.study.contestant` knows it
    checkpoint : a model that ``minires train`` has saved, instead of ``model``
    data, root : a data set by name, and where its files are
    image_size : pixels; larger images are averaged down to it, by a whole factor. By default 16, or for a checkpoint
        the size of the data set's images.
    images, test_images : how many to train on and to test with
    steps, batch_size, learning_rate : of each training (one cycle of SGD with momentum)
    depths : of the nets for "degradation"; the first is that of the nets for "variants"
    gradient_batch : images in the batch whose gradients are looked at
    seed : of weights, images and directions
    """

    model: str = "resnet20"
    checkpoint: Path | None = None
    data: str = "shapes"
    root: Path | None = None
    image_size: int | None = None
    images: int = 4000
    test_images: int = 500
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 0.1
    depths: tuple[int, ...] = (20, 56)
    gradient_batch: int = 16
    seed: int = 0
    device: str = "cpu"


class Subject:
    """The nets and images of a survey; each training happens when its net is first asked for, and once.

    Parameters
    ----------
    progress : called with a line of text whenever something begins or moves on
    """

    def __init__(self, options: SurveyOptions, progress: Callable[[str], None] = lambda text: None):
        for name in ("image_size", "images", "test_images", "steps", "batch_size", "gradient_batch"):
            if getattr(options, name) is not None and getattr(options, name) < 1:
                raise StudyError(f"{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
        self.options = options
        self.progress = progress
        self._trained: dict[str, tuple[Module, TrainingCurve]] = {}

    @cached_property
    def data(self) -> tuple[TensorDataset, TensorDataset, int]:
        """The training images, the held-out ones, and the number of classes."""
        options = self.options
        self.progress(f"reading {options.data}")
        train, classes = _images(options, True, options.images, self.image_size)
        test, _ = _images(options, False, options.test_images, self.image_size)
        return train, test, classes

    @property
    def image_size(self) -> int:
        """The height and width of the images."""
        usual = 16 if self.options.checkpoint is None else dataset_info(self.options.data).image_size
        return self.options.image_size or usual

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels whose gradients are looked at: the first of the training images."""
        images, labels = self.data[0].tensors
        count = self.options.gradient_batch
        return images[:count].to(self.options.device), labels[:count].to(self.options.device)

    @cached_property
    def test_batch(self) -> tuple[Tensor, Tensor]:
        """All held-out images and labels."""
        images, labels = self.data[1].tensors
        return images.to(self.options.device), labels.to(self.options.device)

    @property
    def name(self) -> str:
        """What the net is called."""
        return self.options.model if self.options.checkpoint is None else self.options.checkpoint.name

    @property
    def names(self) -> list[str]:
        """The net, and the net without its skips if there is such a one."""
        return list(self._builders)

    def fresh(self) -> dict[str, Module]:
        """Return the nets with fresh weights, in training mode; the same weights in both."""
        nets = {}
        for name, build in self._builders.items():
            manual_seed(self.options.seed)
            nets[name] = build().to(self.options.device).train()
        return nets

    def trained(self) -> dict[str, Module]:
        """Return the nets after training, in eval mode."""
        return {name: self.contest(name)[0] for name in self.names}

    def contest(self, name: str) -> tuple[Module, TrainingCurve]:
        """Return a net by name, trained as all the others are, and its curve.

        ``name`` is one of ``names``, or KIND-DEPTH as `contestant` knows it.
        """
        build = self._builders.get(name, lambda: contestant(name, self.data[2]))
        if name not in self._trained:
            self._trained[name] = self._train(name, build)
        return self._trained[name]

    @property
    def recipe(self) -> Recipe:
        """How nets are trained."""
        options = self.options
        return Recipe(
            "study",
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            nesterov=True,
        )

    @property
    def trained_here(self) -> dict[str, TrainingCurve]:
        """The curves of the nets that have been trained, not read from a checkpoint, by name."""
        return {name: curve for name, (_, curve) in self._trained.items() if curve.step_losses or curve.failure}

    def _train(self, name: str, build: Callable[[], Module]) -> tuple[Module, TrainingCurve]:
        options = self.options

        def on_step(report: StepReport) -> None:
            self.progress(f"training {name}: step {report.step} of {options.steps}, loss {report.loss:.3f}")

        self.progress(f"training {name}")
        train, test, _ = self.data
        return train_alike(build, train, test, self.recipe, options.seed, options.device, on_step)

    @cached_property
    def _builders(self) -> dict[str, Callable[[], Module]]:
        """What makes each net with fresh weights."""
        options, classes = self.options, self.data[2]
        if options.checkpoint is not None:
            net, experiment = load_model(options.checkpoint, options.device)
            if len(experiment.classes) != classes or experiment.channels != 3:
                raise StudyError(
                    f"{options.checkpoint}: knows {len(experiment.classes)} classes of images with "
                    f"{experiment.channels} channel(s), {options.data} has {classes}: name the data it was trained on"
                )
            self._trained[self.name] = net, TrainingCurve((), ())
            return {self.name: experiment.build_model}

        def build() -> Module:
            if "-" in options.model:
                return contestant(options.model, classes)
            return get_model(options.model, num_classes=classes)

        def build_twin() -> Module:
            twin = plain_twin(build())
            assert twin is not None  # looked at below
            return twin

        builders = {self.name: build}
        if plain_twin(build()) is not None:
            builders[f"{self.name} without skips"] = build_twin
        return builders


def plain_twin(model: Module) -> Module | None:
    """Return a copy of a model without its skips, with the same weights; None if its blocks cannot do without.

    They can if they have an attribute ``residual`` that is True, as `minires.models.BasicBlock` has.
    """
    if not any(getattr(module, "residual", None) is True for module in model.modules()):
        return None
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if getattr(module, "residual", None) is True:
            module.residual = False
    return twin


def _images(options: SurveyOptions, train: bool, count: int, size: int) -> tuple[TensorDataset, int]:
    """Return ``count`` images of a data set, drawn at random, of three channels and the size asked for."""
    info = dataset_info(options.data)
    transform = info.transform(False, size if options.data == "imagefolder" else None)
    dataset: Any = (
        Shapes(train, transform, size=count)  # drawing all of them takes longer than some instruments
        if options.data == "shapes"
        else open_dataset(options.data, options.root, train, transform)
    )
    chosen = np.random.default_rng(options.seed).permutation(len(dataset))[:count]
    loader = DataLoader(Subset(dataset, chosen.tolist()), batch_size=len(chosen))
    images, labels = next(iter(loader))
    with no_grad():
        if images.shape[1] == 1:
            images = images + zeros(1, 3, 1, 1)
        pixels = images.shape[-1]
        if pixels % size:
            raise StudyError(f"images of {pixels} pixels cannot be averaged to {size}: choose a divisor of {pixels}")
        images = F.avg_pool2d(images, pixels // size)
    return TensorDataset(images, labels), len(dataset.classes)
