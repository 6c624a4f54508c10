"""How exact each way of convolving is: `python -m benchmarks.accuracy [--output PATH]`.

The first table has the gradients of a whole training step of fresh nets, the second every distinct convolution of
ResNet-18 and ResNet-50 at 224 x 224: two images, normal inputs and He-scaled filters, the output and both gradients.
The error is that of float32 against PyTorch's float64, |result - exact| / |exact| by norm.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import minires
from benchmarks.cases import Conv, resnet18_convs, resnet50_convs
from benchmarks.inputs import classes_of, image_batch
from benchmarks.workers import torch_models
from minires import models
from minires.kernels import conv_algorithm, cpu
from minires.kernels.geometry import Conv2dGeometry
from minires.nn import functional as F

STEPS = (("resnet18", 16, 224), ("resnet50", 8, 224), ("resnet20", 128, 32))  # net, images, pixels
SEEDS = range(3)  # in most steps a ReLU or two are open in one library and shut in the other, which tells on all layers
STEP_HEADER = "| net | images | `auto` | `im2col` | `winograd` |\n|---|---|---:|---:|---:|"
BATCH = 2
HEADER = (
    "| images | filters, stride | plain: y | dx | dw | Winograd: y | dx | dw | PyTorch: y | dx | dw |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def step_errors(model: str, images: int, size: int) -> Iterator[str]:
    """Yield our error over PyTorch's, in the median over parameters and seeds, by each algorithm."""
    ratios: dict[str, list[np.ndarray]] = {"auto": [], "im2col": [], "winograd": []}
    for seed in SEEDS:
        torch.manual_seed(seed)
        net = torch_models.get_model(model)
        batch = image_batch(images, size, classes_of(model))
        exact = torch_gradients(net.double(), *batch)
        theirs = relative_errors(torch_gradients(net.float(), *batch), exact)
        twin = models.get_model(model)
        twin.load_state_dict({name: minires.from_numpy(value.numpy()) for name, value in net.state_dict().items()})
        pixels, labels = map(minires.from_numpy, batch)
        for algorithm, found in ratios.items():
            twin.zero_grad()
            with conv_algorithm(algorithm):
                F.cross_entropy(twin(pixels), labels).backward()
            found.append(relative_errors([p.grad.numpy() for p in twin.parameters()], exact) / theirs)
    for found in ratios.values():
        yield f"{np.median(found):.2g}"


def torch_gradients(net: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Return the gradient of each parameter in the dtype of the net."""
    net.zero_grad()
    pixels = torch.from_numpy(images).to(next(net.parameters()).dtype)
    torch.nn.functional.cross_entropy(net(pixels), torch.from_numpy(labels)).backward()
    return [p.grad.numpy().copy() for p in net.parameters()]


def relative_errors(gradients: list[np.ndarray], exact: list[np.ndarray]) -> np.ndarray:
    """Return |gradient - exact| / |exact| of each."""
    return np.array([np.linalg.norm(g - e) / np.linalg.norm(e) for g, e in zip(gradients, exact, strict=True)])


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
    """Return both tables in Markdown."""
    lines = [STEP_HEADER]
    for model, count, size in STEPS:
        lines.append(" | ".join([f"| {model} | {count} x {size} px", *step_errors(model, count, size)]) + " |")
    lines += ["", HEADER]
    for conv in dict.fromkeys([*resnet18_convs(BATCH), *resnet50_convs(BATCH)]):
        images = f"{conv.in_channels} x {conv.size} x {conv.size}"
        filters = f"{conv.out_channels} of {conv.kernel} x {conv.kernel}, {conv.stride}"
        lines.append(" | ".join([f"| {images} | {filters}", *errors(conv)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables, and write them to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="a Markdown file to write the tables to")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
