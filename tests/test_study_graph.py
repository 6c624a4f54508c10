"""Computation graphs: nodes, shapes and gradient norms of nets known on paper, as Mermaid and as SVG."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from study_nets import Scaling, labels, matrix_layer, rows, total

import minires
from minires import nn
from minires.models import CifarResNet
from minires.study import StudyError, computation_graph
from minires.study.highway import CifarHighway


def test_the_graph_of_a_linear_residual_block():
    """y = x + w x summed: 1 comes back along the shortcut, w along the branch."""
    graph = computation_graph(Scaling(-0.5), rows([1.0]), labels(0), total)
    assert [(node.label, node.kind) for node in graph.nodes] == [
        ("images", "input"),
        ("Mul", "operation"),
        ("Add", "operation"),
        ("output", "output"),
    ]
    arrows = {(graph.nodes[a.source].label, graph.nodes[a.target].label): a for a in graph.arrows}
    assert {names: arrow.gradient_norm for names, arrow in arrows.items()} == {
        ("images", "Mul"): 0.5,
        ("images", "Add"): 1,
        ("Mul", "Add"): 1,
        ("Add", "output"): 1,
    }
    assert {arrow.shape for arrow in graph.arrows} == {(1, 1)}


def test_inside_one_block_of_a_net():
    net = nn.Sequential(Scaling(1.0), Scaling(2.0))
    graph = computation_graph(net, rows([1.0]), labels(0), total, within="0")
    norms = {(graph.nodes[a.source].label, graph.nodes[a.target].label): a.gradient_norm for a in graph.arrows}
    assert norms == {("images", "Mul"): 3, ("images", "Add"): 3, ("Mul", "Add"): 3, ("Add", "output"): 3}
    graph = computation_graph(net, rows([1.0]), labels(0), total, within="1")
    assert graph.nodes[0].label == "input"


def test_modules_as_nodes():
    graph = computation_graph(CifarResNet(8), minires.randn(2, 3, 8, 8), labels(0, 1), level=2)
    names = [node.label for node in graph.nodes]
    assert [name for name in names if name.startswith("layer")] == [
        "layer1.0: BasicBlock",
        "layer2.0: BasicBlock",
        "layer3.0: BasicBlock",
    ]
    into = [arrow for arrow in graph.arrows if graph.nodes[arrow.target].label == "layer2.0: BasicBlock"]
    (arrow,) = into  # both ways into the block are one arrow, and its gradient is their sum
    assert arrow.shape == (2, 16, 8, 8)
    x = minires.randn(2, 3, 8, 8)
    net = CifarResNet(8)
    graph = computation_graph(net, x, labels(0, 1), level=2)
    (arrow,) = [arrow for arrow in graph.arrows if graph.nodes[arrow.target].label == "layer2.0: BasicBlock"]
    seen = []
    net.layer2.register_forward_pre_hook(
        lambda module, inputs: inputs[0].register_hook(lambda g: seen.append(g.norm().item())) and None
    )
    nn.functional.cross_entropy(net(x), labels(0, 1)).backward()
    assert arrow.gradient_norm == pytest.approx(seen[0], rel=1e-5)


def test_without_labels_there_are_shapes_only():
    graph = computation_graph(nn.Sequential(matrix_layer([[1.0, 2.0]])), rows([1.0, 2.0]))
    assert [arrow.gradient_norm for arrow in graph.arrows] == [None, None]
    assert graph.nodes[1].label == "Linear 1 x 2"
    assert graph.rows()[1]["shape"] == "1x1"


def test_mermaid():
    graph = computation_graph(Scaling(-0.5), rows([1.0]), labels(0), total)
    assert graph.mermaid().splitlines() == [
        "flowchart TD",
        '    n0(["images"])',
        '    n1["Mul"]',
        '    n2["Add"]',
        '    n3(["output"])',
        '    n0 -->|"1 x 1, grad 0.5"| n1',
        '    n0 -->|"1 x 1, grad 1"| n2',
        '    n1 -->|"1 x 1, grad 1"| n2',
        '    n2 -->|"1 x 1, grad 1"| n3',
    ]


def test_svg_is_well_formed_and_nothing_overlaps():
    graph = computation_graph(CifarResNet(14), minires.randn(2, 3, 8, 8), labels(0, 1))
    root = ET.fromstring(graph.svg())
    left, top, width, height = map(float, root.get("viewBox").split())
    boxes = [
        tuple(float(rect.get(name)) for name in ("x", "y", "width", "height"))
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert len(boxes) == len(graph.nodes)
    for i, (x, y, w, h) in enumerate(boxes):
        assert left <= x
        assert x + w <= left + width
        assert top <= y
        assert y + h <= top + height
        for other in boxes[i + 1 :]:
            apart = x + w <= other[0] or other[0] + other[2] <= x or y + h <= other[1] or other[1] + other[3] <= y
            assert apart


class Parallel(nn.Module):
    """Two ways of equal length, which fork at the input and meet in a sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return (self.a(x) + self.b(x)).mean((2, 3))


@pytest.mark.parametrize("net", [CifarResNet(8, shortcut="B"), Parallel()], ids=["projection", "parallel"])
def test_captions_of_arrows_into_one_row_do_not_overlap(net):
    graph = computation_graph(net, minires.randn(2, 3, 8, 8), labels(0, 1))
    lines = {}
    for text in ET.fromstring(graph.svg()).iter("{http://www.w3.org/2000/svg}text"):
        if text.get("font-size") == "11":
            lines.setdefault(text.get("y"), []).append((float(text.get("x")), len(text.text)))
    assert max(map(len, lines.values())) == 2
    for captions in lines.values():
        for (x, characters), (following, _) in pairwise(sorted(captions)):
            assert x + 6 * characters < following  # 11 pixels high, so about 6 wide


def points_of(path):
    """Points on an SVG path of M, C, V, H and q, every few pixels."""
    position, points = np.zeros(2), []
    for letter, text in re.findall(r"([MCVHq])([^MCVHq]*)", path):
        numbers = [float(number) for number in re.findall(r"-?[0-9.]+", text)]
        if letter == "M":
            position = np.array(numbers)
            continue
        if letter == "V":
            control = [position, (position[0], numbers[0])]
        elif letter == "H":
            control = [position, (numbers[0], position[1])]
        else:
            control = [position, *(np.reshape(numbers, (-1, 2)) + (position if letter == "q" else 0))]
        degree = len(control) - 1
        for t in np.linspace(0, 1, 200):
            weights = [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
            points.append(np.tensordot(weights, np.array(control, float), 1))
        position = points[-1]
    return np.array(points)


def unet():
    """Two nested skips and one beside them, all of other lengths."""

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(4))

        def forward(self, x):
            a, b, c, d = self.layers
            inner = x + b(a(x)).relu()
            return (x - d(c(inner) + inner)).mean((2, 3))

    return Nested()


@pytest.mark.parametrize(
    ("net", "within"),
    [
        (CifarResNet(8), "layer1.0"),
        (CifarResNet(8), ""),
        (CifarResNet(8, shortcut="B"), "layer2.0"),
        (Parallel(), ""),
        (CifarHighway(8), "layer2.0"),
        (unet(), ""),
    ],
    ids=["identity", "net", "projection", "parallel", "highway", "nested"],
)
def test_no_arrow_crosses_a_caption_or_an_operation(net, within):
    graph = computation_graph(net, minires.randn(2, 3, 16, 16), labels(0, 1), within=within)
    root, space = ET.fromstring(graph.svg()), "{http://www.w3.org/2000/svg}"
    boxes = []
    for text in root.iter(f"{space}text"):
        if text.get("font-size") == "11":  # about 6 pixels a character, and 8 above the line
            x, y = float(text.get("x")), float(text.get("y"))
            boxes.append((x, y - 8, x + 6 * len(text.text), y + 1))
    assert len(boxes) == len(graph.arrows)
    for rect in root.iter(f"{space}rect"):
        x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        boxes.append((x + 1, y + 1, x + width - 1, y + height - 1))
    for path in root.iterfind(f"{space}path"):
        x, y = points_of(path.get("d")).T
        for left, top, right, bottom in boxes:
            assert not ((left < x) & (x < right) & (top < y) & (y < bottom)).any()


def test_a_module_that_did_not_run():
    with pytest.raises(StudyError, match="nothing ran in a module 'head'"):
        computation_graph(nn.Sequential(nn.ReLU()), rows([1.0]), within="head")
    with pytest.raises(StudyError, match="level must be at least 1"):
        computation_graph(nn.Sequential(nn.ReLU()), rows([1.0]), level=0)


def test_a_model_that_ignores_its_input_has_no_graph():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(minires.zeros(2))

        def forward(self, x):
            return self.bias.expand(len(x), 2)

    with pytest.raises(StudyError, match="nothing in this model depends on the images"):
        computation_graph(Constant(), rows([1.0]))
