"""What every test shares: the --slow switch, and GPU tests only where there is a GPU."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch

from minires.device import cuda_is_available

# The fixture that users get through the installed entry point, also where minires is not installed; and pytest's own,
# which runs pytest inside a test.
pytest_plugins = ["minires.verify.pytest_plugin", "pytester"]

# pytest-xdist runs a test process for each core, so PyTorch keeps to one thread in each: its threads spin while they
# wait, and would take the cores from one another.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    """Before all tests are run by several processes, compile the kernels: each process would compile them all."""
    config = session.config
    is_worker = hasattr(config, "workerinput")
    runs_all_in_several_processes = config.getoption("numprocesses") and config.args == config.getini("testpaths")
    if is_worker or config.option.collectonly or not runs_all_in_several_processes:
        return
    command = [sys.executable, "-m", "minires.cli", "warmup", "--dtype"]
    compiling = [subprocess.Popen([*command, dtype]) for dtype in ("float32", "float64")]
    assert [process.wait() for process in compiling] == [0, 0]


def pytest_collection_modifyitems(config, items):
    skips = []
    if not config.getoption("--slow"):
        skips.append(("slow", pytest.mark.skip(reason="slow: run with --slow")))
    if not cuda_is_available():
        skips.append(("gpu", pytest.mark.skip(reason="no CUDA device: run on a machine with a GPU and CuPy")))
    for item in items:
        for marker, skip in skips:
            if marker in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def interruptible():
    """Let SIGINT arrive here and in processes started from here: a shell starts background jobs with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
