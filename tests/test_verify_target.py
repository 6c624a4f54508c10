"""minires verify MODULE:CALLABLE, --json and exit statuses."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from minires.cli import app

TARGETS = """
import numpy as np
import minires
from minires import nn
from minires.autograd import Function

def right():
    return (lambda x: x.tanh()), minires.randn(3, dtype=minires.float64, requires_grad=True)

class Half(Function):
    def forward(self, x):
        return x * 1.0
    def backward(self, dy):
        return dy * 0.5

def wrong():
    return (lambda x: Half()(x)), minires.randn(3, dtype=minires.float64, requires_grad=True)

class Net(nn.Module):
    def __init__(self, broken=False):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.broken = broken
    def forward(self, x):
        x = self.first(x).relu()
        return self.second(Half()(x) if self.broken else x)

def net():
    return Net(), minires.randn(5, 3)

def broken_net():
    return Net(broken=True), (minires.randn(5, 3),)

def images():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 10))

def pair():
    return np.tanh, (lambda inputs, dy: dy * (1 - np.tanh(inputs[0]) ** 2)), np.linspace(-1, 1, 5)

def wrong_pair():
    return (lambda a, b: -1e-12 * a * b), (lambda inputs, dy: (-1e-12 * dy, dy)), (np.full(3, 1e-3), np.full(3, 7e-5))

def without_vjp():
    return np.tanh, np.ones(3)

class Cube(Function):
    def forward(self, x):
        self.save(x)
        return x**3
    def backward(self, dy):
        return dy * minires.tensor(3 * self.saved[0].array ** 2)

def second():
    return (lambda x: Cube()(x)), minires.randn(3, dtype=minires.float64, requires_grad=True)

nothing = 3

def with_arguments(a):
    return right()

def empty():
    return (lambda x: x * 2), minires.zeros(0, dtype=minires.float64, requires_grad=True)

def half():
    return (lambda x: x * 2), minires.ones(3, dtype=minires.float16, requires_grad=True)

class Times(nn.Linear):
    def forward(self, x, factor):
        return super().forward(x) * factor

def times():
    return Times(3, 2), (minires.randn(2, 3), 3.0)

def failing():
    return {}["no such key"]
"""


@pytest.fixture
def verify(tmp_path, monkeypatch):
    (tmp_path / "my_targets.py").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_targets", raising=False)
    return lambda *arguments: CliRunner().invoke(app, ["verify", *arguments])


USERS_OWN = [("right", 0), ("wrong", 1), ("net", 0), ("broken_net", 1), ("times", 0), ("pair", 0), ("wrong_pair", 1)]


@pytest.mark.parametrize(("name", "status"), USERS_OWN)
def test_functions_and_modules_of_the_users_own(verify, name, status):
    result = verify(f"my_targets:{name}", "--json")
    assert result.exit_code == status, result.output
    assert json.loads(result.stdout)["passed"] is (status == 0)


def test_a_wrong_net_names_the_parameters_before_the_bug(verify):
    data = json.loads(verify("my_targets:broken_net", "--json").stdout)
    wrong = {parameter["name"] for parameter in data["parameters"] if not parameter["passed"]}
    assert wrong == {"first.weight", "first.bias"}


def test_the_report_of_a_wrong_function(verify):
    output = verify("my_targets:wrong").stdout
    assert "different" in output
    assert "0.5" in output


@pytest.mark.parametrize(("name", "status"), [("right", 0), ("wrong", 1), ("pair", 0), ("wrong_pair", 1)])
def test_a_function_along_directions(verify, name, status):
    result = verify(f"my_targets:{name}", "--mode", "directions", "--json")
    assert result.exit_code == status, result.output
    assert json.loads(result.stdout)["mode"] == "directions"


def test_second_derivatives_of_a_function(verify):
    assert verify("my_targets:second").exit_code == 0
    assert verify("my_targets:second", "--second-order").exit_code == 1
    assert verify("my_targets:right", "--second-order").exit_code == 0


def test_eighty_columns_show_whole_numbers(verify, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output = verify("my_targets:wrong_pair").stdout
    assert "-7e-17" in output.replace("-7.0", "-7")
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= 80
    assert "…" not in verify("my_targets:broken_net").stdout


def test_a_module_of_images(verify):
    result = verify("my_targets:images", "--image-size", "6", "--against", "nothing")
    assert result.exit_code == 0, result.output
    assert "0 wrong" in result.stdout


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_such_module:f", "no module 'no_such_module'"),
        ("my_targets:missing", "has no 'missing'"),
        ("my_targets:nothing", "must be or return"),
        ("my_targets:with_arguments", "cannot be called without arguments"),
        ("my_targets:empty", "no elements"),
        ("my_targets:without_vjp", "return its vjp too"),
        ("my_targets:half", "float16"),
        ("my_targets:", "write module:callable"),
        (":right", "write module:callable"),
    ],
)
def test_bad_targets_get_one_line(verify, target, words):
    result = verify(target)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_error_of_the_users_own_keeps_its_traceback_and_is_no_wrong_gradient(verify):
    result = verify("my_targets:failing")
    assert result.exit_code == 2
    assert "KeyError: 'no such key'" in result.stderr
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("option", ["--mode=full", "--second-order"])
def test_a_model_takes_no_option_of_functions(verify, option):
    result = verify("my_targets:net", option)
    assert result.exit_code == 2
    assert "for functions" in result.stderr


def test_pytorch_cannot_judge_a_function(verify):
    result = verify("my_targets:right", "--against", "torch")
    assert result.exit_code == 2
    assert "compares models" in result.stderr
