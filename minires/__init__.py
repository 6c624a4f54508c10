"""minires: ResNets on a from-scratch autograd engine, with hand-written backward passes on NumPy and CuPy."""

from minires import autograd, ops
from minires.autograd import Tensor
from minires.ops.arithmetic import add, div, mul, neg, pow, sub
from minires.version import __version__

__all__ = ["Tensor", "__version__", "add", "autograd", "div", "mul", "neg", "ops", "pow", "sub"]
