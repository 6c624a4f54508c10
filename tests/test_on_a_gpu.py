"""The command that finds out all on a GPU, with stages that need none."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).resolve().parent.parent))  # benchmarks/ is no installed package

from benchmarks import on_a_gpu
from benchmarks.on_a_gpu import Stage, last_epoch, run_stages, stages

ROOT = Path(__file__).resolve().parent.parent


def python(name, program, seconds=30.0):
    return Stage(name, (sys.executable, "-c", program), seconds)


def test_each_stage_is_written_down_as_it_ends(tmp_path):
    summary = tmp_path / "found" / "summary.json"
    seen = []
    chosen = [
        python("good", "print('all is well')"),
        python("bad", "import sys; print('not so'); sys.exit(3)"),
        Stage("missing", ("no-such-program",), 30.0),
        python("last", "print('to the end')"),
    ]
    outcomes = run_stages(chosen, summary.parent, 60, lambda line: seen.append(json.loads(summary.read_text())))
    assert [(o.name, o.outcome, o.status) for o in outcomes] == [
        ("good", "passed", 0),
        ("bad", "failed", 3),
        ("missing", "failed", None),
        ("last", "passed", 0),
    ]
    assert [len(found["stages"]) for found in seen] == [1, 2, 3, 4]
    assert outcomes[1].last_line == "not so"
    assert outcomes[2].last_line == "no-such-program: No such file or directory"
    assert (summary.parent / "last.log").read_text() == "to the end\n"


def shell(name, program, seconds):
    return Stage(name, ("sh", "-c", program), seconds)


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_stage_is_stopped_at_its_limit_with_all_it_has_started(tmp_path):
    number = tmp_path / "number"
    program = f"sleep 600 & echo $! > {number}; echo begun; wait"
    (outcome,) = run_stages([shell("slow", program, 2.0)], tmp_path, 600)
    assert (outcome.outcome, outcome.last_line) == ("stopped", "begun")
    child, deadline = int(number.read_text()), time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)


def test_what_has_no_time_left_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(on_a_gpu, "LEAST_SECONDS", 0.5)
    outcomes = run_stages([shell("first", "sleep 600", 600.0), shell("second", "echo 1", 30.0)], tmp_path, 1.0)
    assert [o.outcome for o in outcomes] == ["stopped", "left out"]
    assert not (tmp_path / "second.log").exists()


def test_the_stages_name_what_is_there(tmp_path):
    chosen = {stage.name: stage for stage in stages(tmp_path)}
    assert list(chosen)[:2] == ["device", "test-gpu"]
    words = {word for stage in chosen.values() for word in stage.command}
    for path in (word for word in words if word.startswith("tests/")):
        assert (ROOT / path).exists()
    known = [case.name for case in on_a_gpu.gpu.CASES]
    for name, count in (("benchmark-resnet20", 3), ("benchmark-resnet50", 2)):
        pattern = chosen[name].command[-1]
        assert sum(Path(case).match(pattern) for case in known) == count
    assert sum(stage.seconds for stage in list(chosen.values())[:5]) <= 60 * on_a_gpu.MINUTES < 9 * 60


def test_without_a_gpu_the_command_ends_with_an_error_and_a_summary(tmp_path, monkeypatch):
    monkeypatch.setattr(on_a_gpu, "stages", lambda folder: [python("bad", "raise SystemExit(1)")])
    result = CliRunner().invoke(on_a_gpu.app, ["check", str(tmp_path / "found")])
    assert result.exit_code == 1
    assert "bad                  failed" in result.output
    assert json.loads((tmp_path / "found" / "summary.json").read_text())["stages"][0]["outcome"] == "failed"


def test_the_end_of_a_run_is_read_from_its_log(tmp_path):
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "test_accuracy"], [390, 0.5], [780, 0.91], [1170, 0.9]])
    assert last_epoch(tmp_path / "log.csv") == {"step": 1170, "test_accuracy": 0.9, "best_test_accuracy": 0.91}


@pytest.mark.slow
def test_a_run_leaves_its_log_among_the_results(tmp_path):
    command = [sys.executable, "-m", "benchmarks.on_a_gpu", "cifar", "--data", "shapes", "--device", "cpu"]
    options = ["--steps", "2", "--work", str(tmp_path / "run"), "--output", str(tmp_path / "results")]
    subprocess.run([*command, *options], cwd=ROOT, check=True, timeout=600)
    (log,) = (tmp_path / "results").glob("*-resnet20-shapes.csv")
    found = json.loads(log.with_suffix(".json").read_text())
    assert found["step"] == 2
    assert found["environment"]["device"]
    assert 0 <= found["test_accuracy"] <= 1
