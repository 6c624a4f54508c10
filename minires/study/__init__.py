"""Instruments that show, in any net made of minires modules, what a skip connection does to the gradient.

One instrument, one file: a function that takes a model and a batch and returns plain data with ``rows()``, and a
``draw_...`` function that makes a Matplotlib figure of one or several such results by name.
"""

from minires.study.blocks import find_blocks
from minires.study.decomposition import SkipDecomposition, draw_skip_decomposition, skip_decomposition
from minires.study.degradation import TrainingCurve, contestant, draw_training_curves, train_alike
from minires.study.errors import StudyError
from minires.study.gradient_flow import (
    GradientFlow,
    GradientFlowRecorder,
    draw_gradient_flow,
    gradient_flow,
    write_tensorboard,
)
from minires.study.graph import ComputationGraph, computation_graph
from minires.study.hessian import HessianSpectrum, draw_hessian_spectrum, hessian_spectrum
from minires.study.highway import draw_gate_openings, gate_openings
from minires.study.jacobian import BlockJacobians, block_jacobians, draw_block_jacobians
from minires.study.landscape import Landscape, draw_landscape, loss_landscape
from minires.study.lesions import Lesions, draw_lesions, lesions
from minires.study.paths import PathGradients, draw_path_gradients, path_gradients
from minires.study.shattering import (
    Autocorrelation,
    RectifierNet,
    draw_autocorrelation,
    draw_shattering_by_depth,
    gradient_autocorrelation,
    shattering_by_depth,
)
from minires.study.skips import Skip, find_skips
from minires.study.trace import Trace, trace

__all__ = [
    "Autocorrelation",
    "BlockJacobians",
    "ComputationGraph",
    "GradientFlow",
    "GradientFlowRecorder",
    "HessianSpectrum",
    "Landscape",
    "Lesions",
    "PathGradients",
    "RectifierNet",
    "Skip",
    "SkipDecomposition",
    "StudyError",
    "Trace",
    "TrainingCurve",
    "block_jacobians",
    "computation_graph",
    "contestant",
    "draw_autocorrelation",
    "draw_block_jacobians",
    "draw_gate_openings",
    "draw_gradient_flow",
    "draw_hessian_spectrum",
    "draw_landscape",
    "draw_lesions",
    "draw_path_gradients",
    "draw_shattering_by_depth",
    "draw_skip_decomposition",
    "draw_training_curves",
    "find_blocks",
    "find_skips",
    "gate_openings",
    "gradient_autocorrelation",
    "gradient_flow",
    "hessian_spectrum",
    "lesions",
    "loss_landscape",
    "path_gradients",
    "shattering_by_depth",
    "skip_decomposition",
    "trace",
    "train_alike",
    "write_tensorboard",
]
