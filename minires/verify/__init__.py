"""Verifying gradients: of a function, of plain NumPy code, of a whole net by its parameters, and against PyTorch."""

from minires.verify.gradcheck import gradcheck, gradcheck_numpy, gradgradcheck
from minires.verify.model import GradientCheck, verify_model, verify_module, verify_parameters
from minires.verify.result import Block, Diagnosis, Entry, GradcheckError, Result
from minires.verify.subject import SideEffectError
from minires.verify.verdict import Verdict

__all__ = [
    "Block",
    "Diagnosis",
    "Entry",
    "GradcheckError",
    "GradientCheck",
    "Result",
    "SideEffectError",
    "Verdict",
    "gradcheck",
    "gradcheck_numpy",
    "gradgradcheck",
    "verify_model",
    "verify_module",
    "verify_parameters",
]
