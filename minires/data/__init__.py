"""Data sets, transforms and the loader, under the names of torchvision and ``torch.utils.data``."""

from minires.data import datasets, transforms
from minires.data.collate import default_collate
from minires.data.dataset import Dataset, Subset, TensorDataset, random_split
from minires.data.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST, ImageArrays, ImageFolder, Shapes
from minires.data.errors import DataError
from minires.data.loader import DataLoader
from minires.data.randomness import current_generator
from minires.data.registry import DatasetInfo, DatasetReport, available, dataset_info, describe, open_dataset

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "DataError",
    "DataLoader",
    "Dataset",
    "DatasetInfo",
    "DatasetReport",
    "FashionMNIST",
    "ImageArrays",
    "ImageFolder",
    "Shapes",
    "Subset",
    "TensorDataset",
    "available",
    "current_generator",
    "dataset_info",
    "datasets",
    "default_collate",
    "describe",
    "open_dataset",
    "random_split",
    "transforms",
]
