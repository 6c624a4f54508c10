"""Saving and loading a state dict as safetensors, a format that holds arrays and runs no code.

``minires.save(model.state_dict(), path)`` and ``model.load_state_dict(minires.load(path))`` read as in PyTorch; other
programs read the files too. `minires.training.Checkpoint` saves a whole training run, and
`minires.training.load_model` makes the trained model of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minires.autograd import Tensor
from minires.io.files import write_whole


def save(state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write named Tensors to ``path``, whole or not at all; Tensors on a GPU are copied to the CPU first.

    Raises
    ------
    TypeError
        If it is no flat mapping of names to Tensors.
    OSError
        If the file cannot be written.
    """
    import safetensors.numpy

    if not isinstance(state_dict, Mapping):
        raise TypeError(f"save takes a state dict, got {type(state_dict).__name__}: use model.state_dict()")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(f"save takes names and Tensors, got {type(value).__name__} under {name!r}")
    arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in state_dict.items()}
    shaped = {name: array.reshape(state_dict[name].shape) for name, array in arrays.items()}  # 0-dimensional stay so
    write_whole(Path(path), safetensors.numpy.save(shaped))


def load(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read named Tensors from a safetensors file.

    Raises
    ------
    ValueError
        If the file is no safetensors file, or damaged; a pickle of PyTorch's is refused, for it could run code.
    OSError
        If the file cannot be read.
    """
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(Path(path).read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: no safetensors file, or a damaged one ({error}). Weights in PyTorch's own format are converted "
            "with safetensors.torch.save_file"
        ) from error
    return {name: Tensor(array) for name, array in arrays.items()}
