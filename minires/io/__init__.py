"""Weights on disk, and writing files so that none is ever seen half written."""

from minires.io.files import write_whole
from minires.io.weights import load, save

__all__ = ["load", "save", "write_whole"]
