"""Schedules of the learning rate, under the names and with the values of ``torch.optim.lr_scheduler``.

    scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(epochs):
        train(...)
        scheduler.step()

Most of them change the current learning rate by what lies between two steps of their curve. So two schedules that step
the same optimizer multiply. `LambdaLR` and `OneCycleLR` set it outright.
"""

from minires.optim.lr_scheduler.base import LRScheduler
from minires.optim.lr_scheduler.cosine import CosineAnnealingLR
from minires.optim.lr_scheduler.factors import ConstantLR, ExponentialLR, LambdaLR, LinearLR, MultiStepLR, StepLR
from minires.optim.lr_scheduler.one_cycle import OneCycleLR
from minires.optim.lr_scheduler.sequential import SequentialLR, warmup_cosine

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "SequentialLR",
    "StepLR",
    "warmup_cosine",
]
