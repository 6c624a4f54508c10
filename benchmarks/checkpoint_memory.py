"""Peak memory and time of a training step with gradient checkpointing and without it, each in its own process.

    python -m benchmarks.checkpoint_memory --model resnet110 --batch 128
    python -m benchmarks.checkpoint_memory --model resnet1202 --batch 128 --only checkpointed

A step is forward, cross entropy, backward and SGD with momentum and weight decay on random images. Peak memory is what
the operating system reports for the process (``ru_maxrss``): Python, compiled kernels and weights are part of it. With
``--steps 1`` the time includes reading compiled kernels from the disk cache, or compiling them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

KINDS = ("plain", "checkpointed")


def main() -> None:
    """Run the kinds that are asked for, one process after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet110")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=KINDS, help="one of the two, in a process of its own")
    parser.add_argument("--here", choices=KINDS, help=argparse.SUPPRESS)  # what the processes are started with
    options = parser.parse_args()
    if options.here:
        measure(options, options.here)
        return
    for kind in [options.only] if options.only else KINDS:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.checkpoint_memory", *sys.argv[1:], "--here", kind], check=True
        )


def measure(options: argparse.Namespace, kind: str) -> None:
    """Train, and print the peak memory of this process, the time of each step and the losses."""
    import minires
    from minires.models import get_model
    from minires.nn import functional as F
    from minires.optim import SGD

    minires.set_num_threads(options.threads)
    minires.manual_seed(0)
    model = get_model(options.model, num_classes=10, checkpoint=kind == "checkpointed")
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = minires.randn(options.batch, 3, options.size, options.size)
    labels = minires.randint(0, 10, (options.batch,))
    before = _peak()
    seconds, losses = [], []
    for _ in range(options.steps):
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        losses.append(loss.item())
    print(
        f"{options.model}, batch {options.batch}, {options.size}x{options.size}, {options.threads} thread(s), {kind}: "
        f"peak {_peak():.3f} GiB ({before:.3f} before the first step), "
        f"{', '.join(f'{s:.1f}' for s in seconds)} s a step, losses {', '.join(map(repr, losses))}",
        flush=True,
    )


def _peak() -> float:
    """Return the highest resident memory of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


if __name__ == "__main__":
    main()
