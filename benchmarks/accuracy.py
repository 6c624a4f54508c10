"""How exact each way of convolving is: `python -m benchmarks.accuracy [--output PATH]`.

Every distinct convolution of ResNet-18 and ResNet-50 at 224 x 224, two images, normal inputs and He-scaled filters.
The error is that of float32 against PyTorch's float64, |result - exact| / |exact| by norm, for the output and both
gradients.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.cases import Conv, resnet18_convs, resnet50_convs
from minires.kernels import conv_algorithm, cpu
from minires.kernels.geometry import Conv2dGeometry

BATCH = 2
HEADER = (
    "| images | filters, stride | plain: y | dx | dw | Winograd: y | dx | dw | PyTorch: y | dx | dw |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def ours(
    algorithm: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray, geometry: Conv2dGeometry
) -> tuple[np.ndarray, ...]:
    """Return y, dx and dw by one of our algorithms."""
    with conv_algorithm(algorithm):
        return (
            cpu.conv2d(x, w, geometry),
            cpu.conv2d_input_grad(dy, w, geometry),
            cpu.conv2d_weight_grad(x, dy, geometry),
        )


def theirs(
    dtype: torch.dtype, x: np.ndarray, w: np.ndarray, dy: np.ndarray, geometry: Conv2dGeometry
) -> tuple[np.ndarray, ...]:
    """Return y, dx and dw by PyTorch."""
    images, filters, gradient = (torch.from_numpy(array).to(dtype) for array in (x, w, dy))
    padding = [before for before, _ in geometry.padding]
    y = torch.nn.functional.conv2d(images, filters, stride=geometry.stride, padding=padding)
    dx = torch.nn.grad.conv2d_input(images.shape, filters, gradient, geometry.stride, padding)
    dw = torch.nn.grad.conv2d_weight(images, filters.shape, gradient, geometry.stride, padding)
    return y.numpy(), dx.numpy(), dw.numpy()


def errors(conv: Conv) -> Iterator[str]:
    """Yield the nine errors of a convolution, "-" where Winograd's algorithm does not apply."""
    shape = BATCH, conv.in_channels, conv.size, conv.size
    weight_shape = conv.out_channels, conv.in_channels, conv.kernel, conv.kernel
    pad = conv.kernel // 2
    geometry = Conv2dGeometry(shape, weight_shape, (conv.stride, conv.stride), ((pad, pad), (pad, pad)))
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s, dtype=np.float32) for s in (shape, weight_shape, geometry.output_shape))
    w *= np.float32(np.sqrt(2 / (conv.in_channels * conv.kernel**2)))
    exact = theirs(torch.float64, x, w, dy, geometry)
    plain = ours("im2col", x, w, dy, geometry)
    winograd = ours("winograd", x, w, dy, geometry) if (conv.kernel, conv.stride) == (3, 1) else None
    for results in (plain, winograd, theirs(torch.float32, x, w, dy, geometry)):
        for index, true in enumerate(exact):
            yield "-" if results is None else f"{np.linalg.norm(results[index] - true) / np.linalg.norm(true):.0e}"


def table() -> str:
    """Return the table in Markdown."""
    lines = [HEADER]
    for conv in dict.fromkeys([*resnet18_convs(BATCH), *resnet50_convs(BATCH)]):
        images = f"{conv.in_channels} x {conv.size} x {conv.size}"
        filters = f"{conv.out_channels} of {conv.kernel} x {conv.kernel}, {conv.stride}"
        lines.append(" | ".join([f"| {images} | {filters}", *errors(conv)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="a Markdown file to write the table to")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
