"""Parameters and multiply-adds: DESIGN's figures for every model, and small nets counted by hand."""

from __future__ import annotations

import pytest

from minires import nn
from minires.models import get_model, list_models
from minires.models.summary import count_macs, count_parameters, summarize, usual_image_size

# torchvision's figures at 224x224, and the 6n + 2 nets of He et al. at 32x32 with shortcut option A.
FIGURES = {
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "resnext50_32x4d": (25_028_904, 4_230_479_872),
    "resnext101_32x8d": (88_791_336, 16_414_015_488),
    "wide_resnet50_2": (68_883_240, 11_398_021_120),
    "wide_resnet101_2": (126_886_696, 22_753_050_624),
    "resnet20": (269_722, 40_551_040),
    "resnet32": (464_154, 68_862_592),
    "resnet44": (658_586, 97_174_144),
    "resnet56": (853_018, 125_485_696),
    "resnet110": (1_727_962, 252_887_680),
    "resnet1202": (19_421_274, 2_829_238_912),
    # The same convolutions without the skips, which have no parameters under option A.
    "plain20": (269_722, 40_551_040),
    "plain56": (853_018, 125_485_696),
    "plain110": (1_727_962, 252_887_680),
}
LARGE = ("resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in LARGE])
def test_figures(name):
    net = get_model(name)
    size = usual_image_size(net)
    assert (count_parameters(net), count_macs(net, (3, size, size))) == FIGURES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_parameters_of_large_nets(name):
    assert count_parameters(get_model(name)) == FIGURES[name][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_macs_of_large_nets(name):
    assert count_macs(get_model(name), (3, 224, 224)) == FIGURES[name][1]


def test_every_model_has_figures():
    assert set(FIGURES) == set(list_models())


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet20", 272_474), ("resnet56", 855_770), ("resnet110", 1_730_714)]
)
def test_parameters_with_projections(name, parameters):
    assert count_parameters(get_model(name, shortcut="B")) == parameters


@pytest.mark.parametrize(
    ("layer", "input_shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 7), 6 * 5 * 7 * 4 * 9),
        (nn.Conv2d(4, 6, 3, stride=2), (4, 7, 7), 6 * 3 * 3 * 4 * 9),
        (nn.Conv2d(4, 6, (1, 3), groups=2), (4, 5, 7), 6 * 5 * 5 * 2 * 3),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 7), 4 * 5 * 7 * 6 * 9),
        (nn.Linear(8, 5), (8,), 40),
        (nn.BatchNorm2d(4), (4, 5, 7), 0),
    ],
    ids=["padded", "strided", "grouped", "transposed", "linear", "batch norm"],
)
def test_macs_by_hand(layer, input_shape, macs):
    assert count_macs(layer, input_shape) == macs


class Twice(nn.Module):
    """One layer called twice, a parameter of its own, and a linear layer without a child."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)
        self.again = self.layer
        self.weight = nn.Parameter(nn.Linear(4, 3).weight.detach())

    def forward(self, x):
        return nn.functional.linear(self.again(self.layer(x)), self.weight)


def test_shared_layers_count_their_parameters_once_and_their_work_twice():
    result = summarize(Twice(), (4,))
    assert (result.parameters, result.macs) == (16 + 12, 16 + 16 + 12)


def test_parts():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5))
    parts = [(p.name, p.type, p.output_shape, p.parameters, p.macs) for p in summarize(net, (3, 4, 4)).parts]
    assert parts == [
        ("0", "Conv2d", (1, 2, 2, 2), 56, 216),
        ("1", "ReLU", (1, 2, 2, 2), 0, 0),
        ("2", "Flatten", (1, 8), 0, 0),
        ("3", "Linear", (1, 5), 45, 40),
    ]


def test_the_model_is_left_as_it_was():
    net = get_model("resnet20")
    net.bn1.eval()
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    summarize(net, (3, 32, 32))
    assert (net.training, net.bn1.training, net.layer1.training) == (True, False, True)
    assert all((value.numpy() == before[name]).all() for name, value in net.state_dict().items())
    assert not net.fc._forward_hooks


def test_input_that_does_not_fit():
    with pytest.raises(RuntimeError, match="4"):
        count_macs(get_model("resnet20"), (4, 32, 32))
    with pytest.raises(ValueError, match="input shape"):
        count_macs(get_model("resnet20"), (3, 0, 32))
