"""The engine: Tensors, Functions, the backward walk and the modes of recording. It knows no particular operation."""

from minires.autograd import functional
from minires.autograd.anomaly import AnomalyError
from minires.autograd.checkpoint import checkpoint, checkpoint_sequential
from minires.autograd.engine import backward, grad
from minires.autograd.function import Edge, Function
from minires.autograd.hooks import Hooks, RemovableHandle
from minires.autograd.modes import (
    Observer,
    detect_anomaly,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_recomputing,
    no_grad,
    observe,
    set_detect_anomaly,
    set_grad_enabled,
)
from minires.autograd.tensor import Tensor

__all__ = [
    "AnomalyError",
    "Edge",
    "Function",
    "Hooks",
    "Observer",
    "RemovableHandle",
    "Tensor",
    "backward",
    "checkpoint",
    "checkpoint_sequential",
    "detect_anomaly",
    "enable_grad",
    "functional",
    "grad",
    "inference_mode",
    "is_grad_enabled",
    "is_recomputing",
    "no_grad",
    "observe",
    "set_detect_anomaly",
    "set_grad_enabled",
]
