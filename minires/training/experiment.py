"""An experiment: which model learns which data by which recipe, as plain data, and everything built from that."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minires.data import DataError, DataLoader, Dataset, dataset_info, open_dataset
from minires.data import transforms as T
from minires.device import Device, manual_seed
from minires.io import shown
from minires.models import get_model, list_models
from minires.models.summary import usual_image_size
from minires.nn import CrossEntropyLoss, Module
from minires.nn.init import skipped
from minires.training.checkpoint import Checkpoint, CheckpointError
from minires.training.recipe import Recipe
from minires.training.trainer import Trainer

LARGEST_IMAGE = 1024


@dataclass(frozen=True)
class Experiment:
    """What has to be known to build a run, or a trained model, again.

    Attributes
    ----------
    data, model : names, as `minires.data.open_dataset` and `minires.models.get_model` know them
    recipe : Recipe
    classes : the names of the labels
    channels : 3, or 1 for grey images
    image_size : height and width where images are cut to size
    seed : of the weights, the order of the images and their transforms
    checkpoint : whether the model forgets what its blocks compute until the backward pass, to use less memory
    amp : "float16" or "bfloat16" where it is trained in mixed precision, else None
    """

    data: str
    model: str
    recipe: Recipe
    classes: tuple[str, ...]
    channels: int = 3
    image_size: int = 32
    seed: int = 0
    checkpoint: bool = False
    amp: str | None = None

    def __post_init__(self) -> None:
        dataset_info(self.data)
        if self.model not in list_models():
            raise ValueError(f"there is no model {shown(self.model)}")
        for name, fits in {
            "recipe": isinstance(self.recipe, Recipe),
            "classes": len(self.classes) > 0 and all(isinstance(each, str) for each in self.classes),
            "channels": self.channels in (1, 3),
            "image_size": type(self.image_size) is int and 1 <= self.image_size <= LARGEST_IMAGE,
            "seed": type(self.seed) is int and self.seed >= 0,
            "checkpoint": isinstance(self.checkpoint, bool),
            "amp": self.amp in (None, "float16", "bfloat16"),
        }.items():
            if not fits:
                raise ValueError(f"an experiment with {name}={shown(getattr(self, name))}")

    def build_model(self) -> Module:
        """Return the model with fresh weights, drawn from the seed.

        Raises
        ------
        ValueError
            If there is no such model, or it takes no images of this many channels.
        """
        manual_seed(self.seed)
        return _build(self.model, len(self.classes), self.channels, self.data, self.checkpoint)

    def restored_model(self, checkpoint: Checkpoint) -> Module:
        """Return the model with the weights of a checkpoint; fresh ones are not drawn first.

        Raises
        ------
        CheckpointError
            If they do not fit.
        """
        with skipped():
            model = self.build_model()
        checkpoint.restore(model)
        return model

    def train_transform(self) -> T.Compose:
        """Return the data set's usual augmentation, to a normalised Tensor."""
        return dataset_info(self.data).transform(True, self.image_size)

    def test_transform(self) -> T.Compose:
        """Return what brings an image of the data set to a normalised Tensor."""
        return dataset_info(self.data).transform(False, self.image_size)

    def image_transform(self) -> T.Compose:
        """Return what brings any image to a normalised Tensor of the size that the model knows."""
        info = dataset_info(self.data)
        steps = info.prepare(self.image_size) or [T.Resize((info.image_size, info.image_size))]
        return T.Compose([*steps, T.ToTensor(), T.Normalize(info.mean, info.std)])

    def trainer(
        self,
        model: Module,
        train_set: Dataset,
        test_set: Dataset,
        device: Device | str | None = None,
        workers: int = 0,
        checkpoint: Checkpoint | None = None,
    ) -> Trainer:
        """Return the trainer of this experiment, at its beginning or where ``checkpoint`` was saved.

        The sets have their transforms already, and the model is on ``device``.

        Raises
        ------
        CheckpointError
            If the checkpoint does not fit.
        """
        recipe = self.recipe
        full = len(train_set) >= recipe.batch_size
        loader = DataLoader(
            train_set, recipe.batch_size, shuffle=True, num_workers=workers, drop_last=full, seed=self.seed
        )
        steps = recipe.total_steps(len(loader))
        optimizer = recipe.optimizer(model.parameters())
        trainer = Trainer(
            model,
            optimizer,
            loader,
            steps,
            test_loader=DataLoader(test_set, recipe.batch_size, num_workers=workers),
            scheduler=recipe.scheduler(optimizer, steps),
            loss_fn=CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
            device=device,
            amp=self.amp,
        )
        if checkpoint is not None:
            checkpoint.restore(model, optimizer, trainer.scheduler, trainer.scaler)
            trainer.step, trainer.best_accuracy = checkpoint.step, checkpoint.best_accuracy
        return trainer

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Experiment:
        """Return the experiment that a checkpoint was saved by.

        Raises
        ------
        CheckpointError
            If its description is not that of an experiment, or its arrays cannot be those of such a model.
        """
        try:
            content = dict(checkpoint.description)
            recipe, classes = content.pop("recipe"), content.pop("classes")
            if not isinstance(recipe, dict) or not isinstance(classes, list):
                raise ValueError(f"the recipe {shown(recipe)} and the classes {shown(classes)}")
            recipe = {**recipe, "milestones": tuple(recipe["milestones"])}
            experiment = cls(recipe=Recipe(**recipe), classes=tuple(classes), **content)
            # Before a layer is made for so many: the last one has a row for each.
            if not any(value.ndim and value.shape[0] == len(classes) for value in checkpoint.model.values()):
                raise ValueError(f"its weights are not those of a model of {len(classes):,} classes")
            return experiment
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.source}: does not describe a model and its data ({error}); "
                "give a checkpoint that minires train has written"
            ) from error


def plan(
    data: str,
    root: str | Path | None,
    model: str,
    recipe: Recipe,
    seed: int = 0,
    checkpoint: bool = False,
    amp: str | None = None,
) -> tuple[Experiment, Module, Dataset, Dataset]:
    """Open a data set and build a model for it; return the experiment, the model, the training and the held-out set.

    Raises
    ------
    DataError
        If the data set is unknown, missing or damaged.
    ValueError
        If the model is unknown or takes no such images.
    """
    info = dataset_info(data)
    if model not in list_models():
        get_model(model)  # its error, before the data take their time
    train_set: Any = open_dataset(data, root, train=True)
    classes = tuple(train_set.classes)
    manual_seed(seed)
    net = _build(model, len(classes), info.channels, data, checkpoint)
    experiment = Experiment(data, model, recipe, classes, info.channels, usual_image_size(net), seed, checkpoint, amp)
    return experiment, net, *open_sets(experiment, root, train_set)


def open_sets(experiment: Experiment, root: str | Path | None, train_set: Any = None) -> tuple[Dataset, Dataset]:
    """Return the training and the held-out set of an experiment, with their transforms.

    Raises
    ------
    DataError
        If one is missing or damaged, or its classes are not those of the experiment.
    """
    train_set = open_dataset(experiment.data, root, train=True) if train_set is None else train_set
    train_set.transform = experiment.train_transform()
    _check_classes(experiment, train_set)
    return train_set, open_test_set(experiment, experiment.data, root)


def open_test_set(experiment: Experiment, data: str, root: str | Path | None) -> Dataset:
    """Return the held-out set of ``data``, brought to what the experiment's model knows.

    Raises
    ------
    DataError
        If it is missing or damaged, or its images or classes are not what the model knows.
    """
    info = dataset_info(data)
    if info.channels != experiment.channels:
        raise DataError(
            f"{info.title} has images of {info.channels} channel(s), this {experiment.model} was trained on "
            f"{experiment.data}, which has {experiment.channels}"
        )
    transform = experiment.test_transform() if data == experiment.data else experiment.image_transform()
    test_set: Any = open_dataset(data, root, train=False, transform=transform)
    _check_classes(experiment, test_set)
    return test_set


def _check_classes(experiment: Experiment, dataset: Any) -> None:
    if tuple(dataset.classes) == experiment.classes:
        return
    for found, known in zip(dataset.classes, experiment.classes, strict=False):
        if found != known:
            raise DataError(
                f"the data have a class {shown(found)} where the model knows {shown(known)}: these are other data"
            )
    raise DataError(f"the data have {len(dataset.classes)} classes, the model knows {len(experiment.classes)}")


def _build(name: str, num_classes: int, channels: int, data: str, checkpoint: bool) -> Module:
    options = {} if channels == 3 else {"in_channels": channels}
    try:
        return get_model(name, num_classes=num_classes, checkpoint=checkpoint, **options)
    except TypeError as error:
        if "in_channels" not in str(error):
            raise
        raise ValueError(
            f"{name} takes colour images, {data} has grey ones: use resnet20 or another net for CIFAR"
        ) from error
