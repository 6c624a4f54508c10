"""Compiling ahead: every kernel, for the very types that training and inference meet; start-up times."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from minires.cli import app
from minires.kernels import cpu, reference
from minires.kernels.algorithm import chosen_algorithm
from minires.kernels.cpu import warmup

LINE = r"(\d+) kernels for (.*) ready in (.* s), (\d+) of them compiled now; kept in (.*)\n"

# Trains and runs nets that together need every kind of layer, and prints for which kernels that compiled a version.
NOTHING_NEW = """
import numpy as np
import minires
from minires import models, nn, optim
from minires.kernels.cpu import warmup

def signatures():
    return {(kernel.__module__, kernel.__name__): set(kernel.signatures) for kernel in warmup.kernels()}

minires.set_num_threads(2)
for step in warmup.warm_up(np.float32):
    pass
before = signatures()

def train(net, *shape):
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images, labels = minires.randn(*shape), minires.tensor(np.arange(shape[0]) % 10)
    nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()

for algorithm in ("auto", "im2col", "winograd"):
    with minires.conv_algorithm(algorithm):
        train(models.resnet20(), 16, 3, 32, 32)
train(models.resnext50_32x4d(num_classes=10), 2, 3, 32, 32)
depthwise = nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 10)
train(nn.Sequential(*depthwise), 16, 8, 16, 16)
net = models.resnet18().eval()
with minires.no_grad():
    for model in (net, minires.fold_batch_norm(net)):
        model(minires.randn(2, 3, 64, 64))

for name, found in signatures().items():
    if found != before[name]:
        print(*name, found - before[name])
"""


def run_python(program, **environment):
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_after_it_training_and_inference_compile_nothing_new():
    assert run_python(NOTHING_NEW) == ""


def test_every_kernel_is_called(monkeypatch):
    called = set()

    def spy(name, function):
        def call(*arguments):
            called.add(name)
            return function(*arguments)

        return call

    own = [name for name in cpu.__all__ if getattr(cpu, name) is not getattr(reference, name)]
    assert len(own) >= 17
    for name in own:
        monkeypatch.setattr(cpu, name, spy(name, getattr(cpu, name)))
    names = list(warmup.warm_up(np.float32))
    assert called == set(own)
    assert names == list(warmup.steps(np.float32))
    assert chosen_algorithm() == "auto"


@pytest.mark.parametrize("dtype", ["float32", "float64", "both"])
def test_command(dtype):
    arguments = [] if dtype == "float32" else ["--dtype", dtype]
    result = CliRunner().invoke(app, ["warmup", *arguments])
    assert result.exit_code == 0, result.output
    kernels, dtypes, _, _, folder = re.fullmatch(LINE, result.stdout).groups()
    assert int(kernels) == len(warmup.kernels()) >= 20
    assert dtypes == ("float32 and float64" if dtype == "both" else dtype)
    assert os.path.isdir(folder)


def test_unknown_dtype_is_refused():
    result = CliRunner().invoke(app, ["warmup", "--dtype", "float16"])
    assert result.exit_code == 2
    assert "float16" in result.stderr


def test_without_numba_there_is_nothing_to_compile(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["warmup"])
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert "Numba is not installed" in result.stdout


@pytest.mark.slow
def test_from_an_empty_cache(tmp_path):
    """All is compiled once, each launched kernel for one set of types, and never again."""
    environment = {**os.environ, "MINIRES_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "minires.cli", "warmup"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)
    )
    kernels, _, _, compiled, folder = re.fullmatch(LINE, first.stdout).groups()
    assert int(kernels) == int(compiled)
    assert folder.startswith(str(tmp_path))
    assert first.stderr == "compiling kernels (once; they are kept on disk) ...\n"
    assert re.fullmatch(LINE, second.stdout).group(4) == "0"
    assert second.stderr == ""
    launched = {
        f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"
        for kernel in warmup.kernels()
        if kernel.py_func.__code__.co_varnames[0] == "start"
    }
    found = [re.fullmatch(r"(\w+\.\w+)-[0-9a-f]{16}\.kernel", name) for name in os.listdir(folder)]
    versions = Counter(match[1] for match in found if match)
    assert len(launched & set(versions)) >= 20
    assert {versions[name] for name in launched & set(versions)} == {1}  # helpers have one for each literal
