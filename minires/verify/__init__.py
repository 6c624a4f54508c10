"""Verifying gradients: of a function element by element, of a whole net by its parameters, and against PyTorch."""

from minires.verify.gradcheck import GradcheckError, gradcheck
from minires.verify.model import GradientCheck, verify_model

__all__ = ["GradcheckError", "GradientCheck", "gradcheck", "verify_model"]
