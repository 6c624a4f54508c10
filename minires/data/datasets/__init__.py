"""Image sets, under torchvision's names."""

from minires.data.datasets.cifar import CIFAR10, CIFAR100
from minires.data.datasets.folder import ImageFolder
from minires.data.datasets.images import ImageArrays
from minires.data.datasets.mnist import MNIST, FashionMNIST
from minires.data.datasets.shapes import Shapes

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "ImageArrays", "ImageFolder", "Shapes"]
