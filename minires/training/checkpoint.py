"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safetensors file.

The arrays lie under ``model.NAME`` and ``optimizer.NAME``, in PyTorch's layout, so that other programs can read the
weights. All else is JSON under ``minires`` in the header's metadata, and beside it ``sha256``: the digest of that text
and of every array, since the format itself would not notice a flipped bit. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minires.autograd import Tensor
from minires.device import generator, to_device
from minires.io import FileError, read_tensors, reason, shown, write_tensors
from minires.nn import Module
from minires.training.packing import pack, unlike, unpack

VERSION = 1
LONGEST_CONTENT = 4 * 2**20  # characters of JSON; a ResNet-1202 and its optimizer take a tenth of that


class CheckpointError(FileError):
    """A file is no checkpoint, is damaged, or does not fit; the message is one line and names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after ``step`` updates.

    Attributes
    ----------
    model : the state dict of the model
    optimizer, scheduler, scaler : theirs, or None
    step : updates done
    best_accuracy : the highest one so far on the held-out images, between 0 and 1, or None
    random_state : that of the CPU's default generator, or None. A GPU's cannot be read, so dropout there draws anew.
    description : plain data that tell how to build the model again: see `minires.training.Experiment`
    source : the file it was read from
    """

    model: Mapping[str, Tensor]
    optimizer: dict | None = None
    scheduler: dict | None = None
    step: int = 0
    best_accuracy: float | None = None
    random_state: dict | None = None
    description: dict = field(default_factory=dict)
    source: Path | None = None
    scaler: dict | None = None

    @classmethod
    def capture(
        cls,
        model: Module,
        optimizer: Any = None,
        scheduler: Any = None,
        step: int = 0,
        best_accuracy: float | None = None,
        description: dict | None = None,
        scaler: Any = None,
    ) -> Checkpoint:
        """Return the present state of a run. It shares memory with the model: save it before training goes on."""
        return cls(
            model=model.state_dict(),
            optimizer=None if optimizer is None else optimizer.state_dict(),
            scheduler=None if scheduler is None else scheduler.state_dict(),
            step=step,
            best_accuracy=best_accuracy,
            random_state=generator().bit_generator.state,
            description=description or {},
            scaler=None if scaler is None else scaler.state_dict(),
        )

    def restore(self, model: Module, optimizer: Any = None, scheduler: Any = None, scaler: Any = None) -> None:
        """Put the state into a model, and into what else is given; with an optimizer the random state too.

        Raises
        ------
        CheckpointError
            If it does not fit. The model is changed only if its own part fits.
        """
        where = self.source or "this checkpoint"
        misfit = _misfit(model.state_dict(), self.model)
        if misfit:
            raise CheckpointError(f"{where}: does not fit this {type(model).__name__}: {misfit}")
        model.load_state_dict(self.model)
        for part, state in ((optimizer, self.optimizer), (scheduler, self.scheduler), (scaler, self.scaler)):
            if part is None:
                continue
            if state is None:
                raise CheckpointError(f"{where}: holds weights only, training cannot go on from it")
            try:
                own = part.state_dict()
                own.pop("state", None)  # of each parameter: the optimizer checks it
                misfit = unlike(own, state)
                if misfit:
                    raise ValueError(misfit)
                part.load_state_dict(state)
            except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
                raise CheckpointError(f"{where}: its {type(part).__name__} state does not fit: {error}") from error
        if optimizer is not None:
            _restore_random_state(self.random_state, where)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint; a file that was there before is replaced only by a whole new one.

        Raises
        ------
        OSError
            If it cannot be written.
        TypeError
            If the description or a state holds what JSON cannot, or a model dtypes that safetensors lacks.
        ValueError
            If the description is longer than a checkpoint holds.
        """
        optimizer, optimizer_arrays = pack(self.optimizer, "optimizer")
        scheduler, scheduler_arrays = pack(self.scheduler, "scheduler")
        named = {f"model.{name}": tensor.array for name, tensor in self.model.items()}
        arrays = {
            name: np.asarray(to_device(array, "cpu"), order="C")
            for name, array in {**named, **optimizer_arrays, **scheduler_arrays}.items()
        }
        content = json.dumps(
            {
                "version": VERSION,
                "step": self.step,
                "best_accuracy": self.best_accuracy,
                "random_state": self.random_state,
                "optimizer": optimizer,
                "scheduler": scheduler,
                "description": self.description,
                "scaler": self.scaler,
            }
        )
        if len(content) > LONGEST_CONTENT:
            raise ValueError(f"the description and the states take {len(content):,} characters, more than a file holds")
        write_tensors(Path(path), arrays, {"minires": content, "sha256": _digest(content, arrays)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read a checkpoint.

        Raises
        ------
        CheckpointError
            If there is no such file, it is damaged, truncated, no checkpoint of minires, or holds what none does.
        """
        path = Path(path)
        try:
            arrays, metadata = read_tensors(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {reason(error)}") from error
        except FileError as error:
            raise CheckpointError(f"{error}; use another checkpoint") from error
        text = metadata.get("minires")
        if text is None:
            raise CheckpointError(
                f"{path}: a safetensors file, but no checkpoint of minires; give one that minires train has written"
            )
        if metadata.get("sha256") != _digest(text, arrays):
            raise CheckpointError(f"{path}: damaged: its content does not match its checksum; use another checkpoint")
        try:
            if len(text) > LONGEST_CONTENT:
                raise ValueError(f"{len(text):,} characters")
            content = json.loads(text)
            if not isinstance(content, dict):
                raise ValueError("no JSON object")
            if content["version"] != VERSION:
                raise CheckpointError(
                    f"{path}: has format version {shown(content['version'])}, this minires reads {VERSION}: "
                    "update minires"
                )
            return cls(
                model={
                    name.removeprefix("model."): Tensor(array)
                    for name, array in sorted(arrays.items())
                    if name.startswith("model.")
                },
                optimizer=_mapping("optimizer", unpack(content["optimizer"], arrays)),
                scheduler=_mapping("scheduler", unpack(content["scheduler"], arrays)),
                step=_step(content["step"]),
                best_accuracy=_best_accuracy(content["best_accuracy"]),
                random_state=_random_state(content["random_state"]),
                description=_mapping("description", content["description"]) or {},
                source=path,
                scaler=_mapping("scaler", content.get("scaler")),  # older files have none
            )
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(f"{path}: not what minires writes into a checkpoint: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{shown(error.args[0])} is missing" if isinstance(error, KeyError) else str(error)


def _mapping(name: str, value: Any) -> dict | None:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"its {name} is {shown(value)}")
    return value


def _step(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"its step is {shown(value)}")
    return value


def _best_accuracy(value: Any) -> float | None:
    if value is not None and not (type(value) in (int, float) and 0 <= value < math.inf):
        raise ValueError(f"its best accuracy is {shown(value)}")
    return value


def _random_state(value: Any) -> dict | None:
    """Return a state that the default generator takes, and takes as it is."""
    if value is None:
        return None
    trial = type(generator().bit_generator)(0)
    try:
        trial.state = value
        fits = trial.state == value
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
        fits = False
    if not fits:
        raise ValueError(f"its random state is none of this NumPy: {shown(value)}")
    return value


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the text and of each array's name, dtype, shape and bytes."""
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say in a few words what keeps ``state`` from fitting, or nothing."""
    missing = [name for name in own if name not in state]
    unexpected = [shown(name)[1:-1] for name in state if name not in own]
    common = [(name, own[name], state[name]) for name in own if name in state]
    shapes = [
        f"{name} has shape {theirs.shape} instead of {ours.shape}"
        for name, ours, theirs in common
        if theirs.shape != ours.shape
    ]
    dtypes = [
        f"{name} is of {theirs.dtype} instead of {ours.dtype}"
        for name, ours, theirs in common
        if theirs.is_floating_point() != ours.is_floating_point()
        or not (theirs.is_floating_point() or theirs.dtype == ours.dtype)
    ]
    groups = [("lacks ", missing), ("has an unknown ", unexpected), ("", shapes), ("", dtypes)]
    return "; ".join(
        f"{verb}{found[0]}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        for verb, found in groups
        if found
    )


def _restore_random_state(state: dict | None, where: Any) -> None:
    if state is None:
        return
    try:
        generator().bit_generator.state = state
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{where}: its random state is not one of this NumPy: {error}") from error
