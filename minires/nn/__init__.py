"""Modules and layers with the names of ``torch.nn``."""

from minires.nn import functional, init, utils
from minires.nn.activation import GELU, LeakyReLU, LogSoftmax, ReLU, ReLU6, Sigmoid, SiLU, Softmax, Tanh
from minires.nn.containers import ModuleDict, ModuleList, Sequential
from minires.nn.conv import Conv2d, ConvTranspose2d
from minires.nn.dropout import Dropout, Dropout2d
from minires.nn.linear import Flatten, Identity, Linear
from minires.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss, SmoothL1Loss
from minires.nn.module import IncompatibleKeys, Module, Parameter
from minires.nn.norm import BatchNorm1d, BatchNorm2d
from minires.nn.pooling import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    Fold,
    MaxPool2d,
    Unfold,
    Upsample,
)

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "Fold",
    "Identity",
    "IncompatibleKeys",
    "L1Loss",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Tanh",
    "Unfold",
    "Upsample",
    "functional",
    "init",
    "utils",
]
