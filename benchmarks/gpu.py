"""Training steps on a GPU against PyTorch, in one process, in turns: ``python -m benchmarks --device cuda``.

Both sides start from the same weights, see the same batch, already on the GPU, and are timed between synchronisations.
PyTorch runs channels-last, eager and compiled; minires captured, as `minires train` runs it, and as written. Before
anything is timed their losses are compared.
"""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as torch_F
from rich.console import Console

import minires
import minires.nn.functional as F
from benchmarks import results
from benchmarks.environment import commit
from benchmarks.inputs import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, classes_of, image_batch
from benchmarks.measure import spread
from benchmarks.workers.torch_models import get_model
from minires.kernels.layout import from_nhwc, to_nhwc

CHECKED_STEPS = 2
TOLERANCE = 2e-2  # of the losses, relative: TF32 keeps three digits
PRECISIONS = {"float32": "highest", "tf32": "high", "bf16": "high"}  # bf16 is mixed precision, by autocast
COPY_BYTES, PRODUCT_SIZE = 1 << 30, 8192
SMALL = 64  # pixels: for larger images launches hardly matter, and memory does
Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Training ``model`` on batches of ``batch`` images of ``size`` x ``size`` pixels in a precision."""

    model: str
    batch: int
    size: int
    precision: str

    @property
    def name(self) -> str:
        return f"{self.model}-batch{self.batch}-{self.size}-{self.precision}"


CASES = (
    Case("resnet20", 128, 32, "float32"),
    Case("resnet20", 128, 32, "tf32"),
    Case("resnet20", 128, 32, "bf16"),
    Case("resnet18", 128, 224, "tf32"),
    Case("resnet50", 64, 224, "tf32"),
    Case("resnet50", 64, 224, "bf16"),
    Case("resnet50", 256, 224, "tf32"),
    Case("resnet50", 256, 224, "bf16"),
)


def run(device: str, cases: list[Case], pairs: int, output: Path | None, console: Console, compiled: bool) -> Path:
    """Measure the cases on ``device`` and write what was found; return the file.

    A case that fails, for want of memory perhaps, is written down with its error, and the next one begins.
    """
    found: dict[str, Any] = {
        "format": 1,
        "environment": describe(device),
        "machine_reaches": reach(device),
        "cases": [],
    }
    path = output or results.default_path({**found["environment"], "cpu": found["environment"]["device"]}, "gpu")
    for case in cases:
        console.print(case.name, highlight=False)
        try:
            result = measure(case, device, pairs, compiled)
        except Exception as error:  # either library's, of any kind
            result = {"name": case.name, "error": f"{type(error).__name__}: {error}"}
        found["cases"].append(result)
        results.write(found, path)  # what is measured is kept if the rest is interrupted
        console.print(f"  {outcome(result)}", highlight=False, soft_wrap=True, markup=False)
    return path


def measure(case: Case, device: str, pairs: int, compiled: bool, turn_seconds: float = 1.0) -> dict[str, Any]:
    """Time a case on both sides, in turns.

    Raises
    ------
    ArithmeticError
        If the losses of the two sides differ by more than TOLERANCE.
    """
    minires.set_float32_matmul_precision(PRECISIONS[case.precision])
    torch.set_float32_matmul_precision(PRECISIONS[case.precision])
    torch.backends.cudnn.allow_tf32 = case.precision != "float32"
    torch.backends.cudnn.benchmark = True
    minires.manual_seed(0)
    net = minires.models.get_model(case.model)
    weights = {name: torch.from_numpy(value.numpy().copy()) for name, value in net.state_dict().items()}
    copy = minires.models.get_model(case.model)
    copy.load_state_dict(net.state_dict())
    sides = {"minires": (our_step if device == "cpu" else captured_step)(case, net, device)}
    if device != "cpu" and case.size <= SMALL:
        sides["minires as written"] = our_step(case, copy, device)
    for variant in ("eager", "compile") if compiled else ("eager",):
        sides[f"torch {variant}"] = their_step(case, weights, device, variant == "compile")
    losses = {name: [float(step()) for _ in range(CHECKED_STEPS)] for name, step in sides.items()}
    for name, values in losses.items():
        if not np.allclose(values, losses["minires"], rtol=TOLERANCE, atol=0):
            raise ArithmeticError(f"the losses differ: {losses['minires']} of minires, {values} of {name}")
    counts = {name: steps_in(step, device, turn_seconds) for name, step in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, step in sides.items():
            seconds[name].append(turn(step, counts[name], device))
    return {
        "name": case.name,
        "losses": losses,
        "seconds_per_step": {name: spread(values) for name, values in seconds.items()},
        "images_per_second": {name: case.batch / float(np.median(values)) for name, values in seconds.items()},
        "times_as_fast": {
            name: spread(np.divide(values, seconds["minires"]).tolist())
            for name, values in seconds.items()
            if name != "minires"
        },
        "milliseconds_by_kernel": {name: by_kernel(step, device) for name, step in sides.items()},
    }


def our_step(case: Case, net: minires.nn.Module, device: str) -> Step:
    """Return a training step of ``net`` as it is written."""
    optimizer, x, target = our_parts(case, net, device)

    def step() -> Any:
        optimizer.zero_grad()
        with our_precision(case):
            loss = F.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def captured_step(case: Case, net: minires.nn.Module, device: str) -> Step:
    """Return the same step, captured after its first two calls."""
    optimizer, x, target = our_parts(case, net, device)
    graphed = minires.cuda.GraphedStep(net, F.cross_entropy, optimizer)

    def step() -> Any:
        with our_precision(case):
            return graphed(x, target)

    return step


def our_parts(case: Case, net: minires.nn.Module, device: str) -> tuple[Any, minires.Tensor, minires.Tensor]:
    """Move ``net`` to the device; return its optimizer and a batch there."""
    net.to(device)
    optimizer = minires.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    images, labels = image_batch(case.batch, case.size, classes_of(case.model))
    return optimizer, minires.Tensor(from_nhwc(to_nhwc(images))).to(device), minires.Tensor(labels).to(device)


def our_precision(case: Case) -> Any:
    """Return the context that a case's forward pass runs in."""
    return minires.amp.autocast("cuda", "bfloat16") if case.precision == "bf16" else nullcontext()


def their_step(case: Case, weights: dict[str, torch.Tensor], device: str, compiled: bool) -> Step:
    """Return the same step of PyTorch."""
    net = get_model(case.model)
    net.load_state_dict(weights)
    net = net.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True)
    images, labels = image_batch(case.batch, case.size, classes_of(case.model))
    x = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
    target = torch.from_numpy(labels).to(device)
    forward = torch.compile(net) if compiled else net

    def step() -> Any:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if case.precision == "bf16" else nullcontext():
            loss = torch_F.cross_entropy(forward(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def turn(step: Step, steps: int, device: str) -> float:
    """Return the seconds of one step among ``steps``."""
    wait(device)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - begin) / steps


def steps_in(step: Step, device: str, seconds: float) -> int:
    """Return how many steps take ``seconds``; what compiles or is chosen at first does so here."""
    turn(step, 3, device)
    return max(1, round(seconds / turn(step, 3, device)))


def wait(device: str) -> None:
    """Wait until the GPU has done all it was given; both libraries launch on one device."""
    if device != "cpu":
        torch.cuda.synchronize()
        minires.cuda.synchronize()


def reach(device: str) -> dict[str, float]:
    """Return what PyTorch reaches on the device: GB/s in a copy, read and written, and TFLOP/s in matrix products."""
    if device == "cpu":
        return {}
    source = torch.randn(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    reached = {"copy_GB_per_s": 2 * COPY_BYTES / best(lambda: target.copy_(source), device) / 1e9}
    for precision, choice in PRECISIONS.items():
        torch.set_float32_matmul_precision(choice)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device, dtype=dtype) for _ in range(2))
        seconds = best(lambda a=a, b=b: a @ b, device)
        reached[f"{precision}_product_TFLOP_per_s"] = 2 * PRODUCT_SIZE**3 / seconds / 1e12
    return reached


def best(step: Step, device: str) -> float:
    """Return the least seconds of some turns."""
    steps = steps_in(step, device, 0.2)
    return min(turn(step, steps, device) for _ in range(3))


def by_kernel(step: Step, device: str) -> dict[str, float]:
    """Return the milliseconds of a step that each kernel of the GPU takes, most first, whoever launched it."""
    if device == "cpu":
        return {}
    steps = 3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        wait(device)
    times = {event.key: event.self_device_time_total / steps / 1e3 for event in profile.key_averages()}
    return dict(sorted(times.items(), key=lambda item: -item[1])[:30])


def describe(device: str) -> dict[str, Any]:
    """Return date, device, driver and versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    where: dict[str, Any] = {"device": platform.processor() or platform.machine()}
    if device != "cpu":
        import cupy

        versions["cupy"] = cupy.__version__
        runtime = cupy.cuda.runtime
        where = {
            "device": torch.cuda.get_device_name(device),
            "driver": runtime.driverGetVersion(),
            "cuda_of_cupy": runtime.runtimeGetVersion(),
            "cuda_of_torch": torch.version.cuda,
        }
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"date": now, **where, "versions": versions, "commit": commit()}


def outcome(result: dict[str, Any]) -> str:
    """Return a result in a line."""
    if "error" in result:
        return f"failed: {result['error']}"
    speeds = ", ".join(f"{name} {value:,.0f} images/s" for name, value in result["images_per_second"].items())
    ratios = ", ".join(f"{value['median']:.2f} times {name}" for name, value in result["times_as_fast"].items())
    return f"{speeds}; {ratios}"
