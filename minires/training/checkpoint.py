"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safetensors file.

The arrays lie under ``model.NAME`` and ``optimizer.NAME``, in PyTorch's layout, so that other programs can read the
weights. All else is JSON under ``minires`` in the header's metadata, and beside it ``sha256``: the digest of that text
and of every array, since the format itself would not notice a flipped bit. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minires.autograd import Tensor
from minires.device import generator, to_device
from minires.io import write_whole
from minires.nn import Module
from minires.training.packing import pack, unpack

VERSION = 1


class CheckpointError(ValueError):
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
                part.load_state_dict(state)
            except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
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
            If the description or a state holds what JSON cannot.
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
        metadata = {"minires": content, "sha256": _digest(content, arrays)}
        write_whole(Path(path), safetensors.numpy.save(arrays, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read a checkpoint.

        Raises
        ------
        CheckpointError
            If there is no such file, it is damaged, truncated, or no checkpoint of minires.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
        metadata, arrays = _parse(path, data)
        if not isinstance(metadata.get("minires"), str):
            raise CheckpointError(
                f"{path}: a safetensors file, but no checkpoint of minires; give one that minires train has written"
            )
        if metadata.get("sha256") != _digest(metadata["minires"], arrays):
            raise CheckpointError(f"{path}: damaged: its content does not match its checksum; use another checkpoint")
        try:
            content = json.loads(metadata["minires"])
            if content["version"] != VERSION:
                raise CheckpointError(
                    f"{path}: has format version {content['version']}, this minires reads {VERSION}: update minires"
                )
            return cls(
                model={
                    name.removeprefix("model."): Tensor(array)
                    for name, array in sorted(arrays.items())
                    if name.startswith("model.")
                },
                optimizer=unpack(content["optimizer"], arrays),
                scheduler=unpack(content["scheduler"], arrays),
                step=int(content["step"]),
                best_accuracy=content["best_accuracy"],
                random_state=content["random_state"],
                description=content["description"],
                source=path,
                scaler=content.get("scaler"),  # older files have none
            )
        except CheckpointError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(f"{path}: not what minires writes into a checkpoint ({error!r})") from error


def _parse(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metadata and the arrays of a safetensors file, as views of ``data``."""
    try:
        arrays = safetensors.numpy.load(data)  # checks every offset and length against the file
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except safetensors.SafetensorError as error:
        verdict = "it is empty" if not data else f"{len(data):,} bytes, {error}"
        raise CheckpointError(
            f"{path}: no safetensors file, or a damaged or truncated one ({verdict}); use another checkpoint"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: holds what minires cannot read ({error!r})") from error
    metadata = header.get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}, arrays


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
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} has shape {state[name].shape} instead of {own[name].shape}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    groups = [("lacks ", missing), ("has an unknown ", unexpected), ("", shapes)]
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
