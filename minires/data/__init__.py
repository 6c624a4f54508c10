"""Data sets, transforms and the loader, under the names of torchvision and ``torch.utils.data``."""

from minires.data import datasets, transforms
from minires.data.collate import default_collate
from minires.data.dataset import Dataset, Subset, TensorDataset, random_split
from minires.data.datasets import Shapes
from minires.data.errors import DataError
from minires.data.loader import DataLoader
from minires.data.randomness import current_generator

__all__ = [
    "DataError",
    "DataLoader",
    "Dataset",
    "Shapes",
    "Subset",
    "TensorDataset",
    "current_generator",
    "datasets",
    "default_collate",
    "random_split",
    "transforms",
]
