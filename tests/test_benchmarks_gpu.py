"""The GPU benchmark, run on the CPU with a net of little work; nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).resolve().parent.parent))  # benchmarks/ is no installed package

from benchmarks import gpu


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(gpu, "steps_in", lambda step, device, seconds: 1)


def test_both_sides_train_alike_and_are_timed(tmp_path):
    case = gpu.Case("resnet20", 4, 8, "float32")
    path = gpu.run("cpu", [case], 2, tmp_path / "found.json", Console(quiet=True), compiled=False)
    found = json.loads(path.read_text())
    (result,) = found["cases"]
    assert result["name"] == "resnet20-batch4-8-float32"
    ours, theirs = result["losses"]["minires"], result["losses"]["torch eager"]
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[0] != ours[1]
    assert len(result["times_as_fast"]["torch eager"]["values"]) == 2
    assert result["images_per_second"]["minires"] > 0
    assert {"date", "device", "versions", "commit"} <= found["environment"].keys()


def test_a_side_that_computes_something_else_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LEARNING_RATE", 0.1)
    ours = gpu.our_step
    monkeypatch.setattr(gpu, "our_step", lambda case, net, device: lambda: 2 * ours(case, net, device)())
    case = gpu.Case("resnet20", 4, 8, "float32")
    path = gpu.run("cpu", [case], 1, tmp_path / "found.json", Console(quiet=True), compiled=False)
    (result,) = json.loads(path.read_text())["cases"]
    assert result["error"].startswith("ArithmeticError: the losses differ")
    assert "times_as_fast" not in result
