"""Image sets, under torchvision's names."""

from minires.data.datasets.images import ImageArrays
from minires.data.datasets.shapes import Shapes

__all__ = ["ImageArrays", "Shapes"]
