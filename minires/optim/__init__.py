"""Optimizers, under the names and with the rules of ``torch.optim``, and the schedules of their learning rates."""

from minires.optim import lr_scheduler
from minires.optim.adam import Adam, AdamW
from minires.optim.optimizer import Optimizer
from minires.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
