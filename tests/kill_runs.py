"""Kill training runs at random moments, go on with them, and compare the ends with an undisturbed run, byte for byte.

    python tests/kill_runs.py [KILLS [SEED]]

The same `minires train` runs in a child process that is forked from this one, so that it starts in milliseconds. One
thread computes: a fork would not take others along.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np

from minires.cli import app

EPOCHS = 12
TIMES = ("images_per_second", "seconds")


def main(kills: int, seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = digits(Path(name))
        whole = root / "whole"
        train(root, whole)  # here, so that the children find the kernels loaded
        begin, again = time.perf_counter(), root / "again"
        train(root, again)
        an_epoch = (time.perf_counter() - begin) / EPOCHS
        assert end_of(again) == end_of(whole)
        killed, runs, torn = 0, 0, 0
        while killed < kills:
            out = root / f"run-{runs}"
            # The last run comes to its end, however slow the machine has become.
            while not train_killed(root, out, rng.uniform(0, 3 * an_epoch) if killed < kills else None):
                killed += 1
                torn += any(out.glob("*.partial"))
            assert end_of(out) == end_of(whole), f"run {runs} ended otherwise after {killed} kills"
            runs += 1
    print(f"{killed} kills, {torn} of them while a file was written; {runs} runs ended as the undisturbed one")


def train(root: Path, out: Path) -> None:
    """Begin a run in a folder, or go on with the one that it holds."""
    common = ["--root", str(root), "--out", str(out), "--workers", "0"]
    last = out / "last.safetensors"
    if last.exists():
        options = ["--resume", str(last)]
    else:
        options = ["--data", "mnist", "--batch-size", "4", "--epochs", str(EPOCHS), "--lr", "0.02"]
    with contextlib.redirect_stdout(None):
        app(["train", *options, *common], standalone_mode=False)


def train_killed(root: Path, out: Path, after: float | None) -> bool:
    """Train in a child process, killed after so many seconds; return True if it came to its end before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(root, out)
            status = 0
        finally:
            os._exit(status)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)  # to one that has ended it does nothing
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a run failed by itself"
    return not os.WIFSIGNALED(status)


def end_of(out: Path) -> list[object]:
    """Everything that a run leaves but how long it took."""
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    content = [(out / name).read_bytes() for name in ("last.safetensors", "best.safetensors")]
    return [sorted(os.listdir(out)), *content, *({k: v for k, v in row.items() if k not in TIMES} for row in rows)]


def digits(root: Path) -> Path:
    """A miniature MNIST."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("t10k", 6)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        (root / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes())
        (root / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
    return root


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
