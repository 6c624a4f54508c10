"""Saving and loading a state dict as safetensors, a format that holds arrays and runs no code.

``minires.save(model.state_dict(), path)`` and ``model.load_state_dict(minires.load(path))`` read as in PyTorch; other
programs read the files too. `minires.training.Checkpoint` saves a whole training run, and
`minires.training.load_model` makes the trained model of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from minires.autograd import Tensor
from minires.io.messages import FileError, shown
from minires.io.tensor_file import read_tensors, write_tensors


def save(state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write named Tensors to ``path``, whole or not at all; Tensors on a GPU are copied to the CPU first.

    Raises
    ------
    TypeError
        If it is no flat mapping of names to Tensors, or the format has no such dtype (bfloat16 and the usual
        float8 types it has).
    ValueError
        If a name is ``__metadata__``, which the format keeps for itself, or no Unicode text.
    OSError
        If the file cannot be written, or no plain file stands there.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"save takes a state dict, got {type(state_dict).__name__}: use model.state_dict()")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(f"save takes names and Tensors, got {type(value).__name__} under {shown(name)}")
    write_tensors(Path(path), {name: value.detach().cpu().numpy() for name, value in state_dict.items()})


def load(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read named Tensors from a safetensors file.

    Raises
    ------
    ValueError
        If the file is no safetensors file, or damaged; a pickle of PyTorch's is refused, for it could run code.
    OSError
        If the file cannot be read, or is no plain file.
    ImportError
        If it holds bfloat16 or float8, and ml_dtypes is not installed.
    """
    try:
        arrays, _ = read_tensors(path)
    except FileError as error:
        raise FileError(
            f"{error}. Weights in PyTorch's own format are converted with safetensors.torch.save_file"
        ) from error
    return {name: Tensor(array) for name, array in arrays.items()}
