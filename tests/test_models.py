"""Whole nets against their PyTorch twins: logits, loss, every parameter gradient, the input gradient, the buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch_twins import IMAGENET, randomized, twin

import minires
from minires import conv_algorithm, models
from minires.autograd import Tensor
from minires.nn import functional as F

# name, options of ours, options of the twin, batch, image size
CASES = [
    ("resnet18", {}, {}, 4, 32),
    ("resnet34", {}, {}, 4, 32),
    ("resnet50", {}, {}, 4, 32),
    ("resnet50", {"version": "v1"}, {"version": "v1"}, 4, 32),
    ("resnext50_32x4d", {}, {}, 4, 32),
    ("resnet20", {}, {}, 4, 32),
    ("resnet20", {"shortcut": "B"}, {"option": "B"}, 4, 32),
    ("resnet20", {"shortcut": "C"}, {"option": "C"}, 4, 32),
    ("resnet32", {}, {}, 4, 16),
    ("resnet44", {}, {}, 4, 16),
    ("resnet56", {}, {}, 4, 16),
    ("resnet110", {}, {}, 4, 16),
    ("plain20", {}, {}, 4, 32),
    ("plain56", {}, {}, 4, 16),
    ("plain110", {}, {}, 4, 16),
]
SLOW_CASES = [
    ("wide_resnet50_2", {}, {}, 4, 32),
    ("resnet101", {}, {}, 4, 32),
    ("resnet152", {}, {}, 4, 32),
    ("resnext101_32x8d", {}, {}, 4, 32),
    ("wide_resnet101_2", {}, {}, 4, 32),
    ("resnet1202", {}, {}, 2, 16),
]


def parameters(cases, *marks):
    return [pytest.param(*case, id="-".join([case[0], *map(str, case[1].values())]), marks=marks) for case in cases]


ALL = [*parameters(CASES), *parameters(SLOW_CASES, pytest.mark.slow)]


def pair(name, ours_options, twin_options, dtype=np.float64):
    # A plain net with batch norm and ReLU multiplies any rounding error by about 1.2 a layer (Yang et al. 2019), 1e8 in
    # 110 layers whoever computes it. Biases that keep most units above zero hold that factor near 1.
    theirs = randomized(twin(name, **twin_options), batch_norm_bias=2.0 if name == "plain110" else 0.0)
    ours = models.get_model(name, **ours_options).double()
    ours.load_state_dict({key: Tensor(value.numpy()) for key, value in theirs.state_dict().items()})
    return ours.to(dtype), theirs


def batch(size, pixels, classes):
    rng = np.random.default_rng(1)
    return rng.standard_normal((size, 3, pixels, pixels)), rng.integers(0, classes, size)


def relative_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30)


def all_results(ours, theirs, images, labels, dtype=np.float64, device="cpu"):
    """Names and pairs of everything a training step computes."""
    x = Tensor(images.astype(dtype)).to(device).requires_grad_()
    logits = ours(x)
    loss = F.cross_entropy(logits, Tensor(labels).to(device))
    loss.backward()
    tx = torch.from_numpy(images).requires_grad_()
    theirs_logits = theirs(tx)
    theirs_loss = torch.nn.functional.cross_entropy(theirs_logits, torch.from_numpy(labels))
    theirs_loss.backward()
    yield "logits", logits.detach().cpu().numpy(), theirs_logits.detach().numpy()
    yield "loss", loss.item(), theirs_loss.item()
    yield "gradient of the input", x.grad.cpu().numpy(), tx.grad.numpy()
    theirs_parameters = dict(theirs.named_parameters())
    assert [name for name, _ in ours.named_parameters()] == list(theirs_parameters)
    for name, parameter in ours.named_parameters():
        yield f"gradient of {name}", parameter.grad.cpu().numpy(), theirs_parameters[name].grad.numpy()
    for (name, buffer), (theirs_name, theirs_buffer) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert name == theirs_name
        yield name, buffer.cpu().numpy(), theirs_buffer.numpy()


@pytest.mark.parametrize(("name", "ours_options", "twin_options", "size", "pixels"), ALL)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_every_gradient_equals_pytorch(name, ours_options, twin_options, size, pixels, mode):
    ours, theirs = pair(name, ours_options, twin_options)
    ours.train(mode == "train")
    theirs.train(mode == "train")
    images, labels = batch(size, pixels, ours.fc.out_features)
    for what, mine, torchs in all_results(ours, theirs, images, labels):
        error = relative_error(mine, torchs)
        assert error <= 1e-9, f"{what}: relative error {error:.1e}"


class SmallestReLUInput(TorchFunctionMode):
    """Notes how near to its kink any ReLU of a PyTorch net comes."""

    smallest = np.inf

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.relu:
            self.smallest = min(self.smallest, args[0].abs().min().item())
        return function(*args, **(kwargs or {}))


def image_far_from_kinks(theirs, pixels):
    """One image at which no ReLU input is so small that float32's rounding could turn its sign.

    A turned sign switches a whole path of the gradient on or off: it says nothing of how well the rest is computed.
    """
    for seed in range(100):
        image = (
            np.random.default_rng(seed).standard_normal((1, 3, pixels, pixels)).astype(np.float32).astype(np.float64)
        )
        with SmallestReLUInput() as watch, torch.no_grad():
            theirs(torch.from_numpy(image))
        if watch.smallest > 5e-5:
            return image
    raise AssertionError("no image found that keeps every ReLU away from its kink")


FLOAT32_NAMES = list(dict.fromkeys(case[0] for case in CASES))
SLOW_FLOAT32_NAMES = [case[0] for case in SLOW_CASES]


@pytest.mark.parametrize(
    "name", [*FLOAT32_NAMES, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW_FLOAT32_NAMES)]
)
def test_float32_gradients_equal_float64_to_its_precision(name):
    """In evaluation mode, for one image."""
    ours, theirs = pair(name, {}, {}, np.float32)
    ours.eval(), theirs.eval()
    image = image_far_from_kinks(theirs, 16 if name not in IMAGENET else 32)
    for what, mine, torchs in all_results(ours, theirs, image, np.array([3]), np.float32):
        error = relative_error(mine, torchs)
        assert error <= 1e-4, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize("algorithm", ["im2col", "winograd"])
@pytest.mark.parametrize(("name", "pixels"), [("resnet18", 64), ("resnet20", 32)])
def test_either_algorithm_gives_float32_gradients_near_those_of_float64(name, pixels, algorithm):
    ours, theirs = pair(name, {}, {}, np.float32)
    ours.eval(), theirs.eval()
    image = image_far_from_kinks(theirs, pixels)
    with conv_algorithm(algorithm):
        for what, mine, torchs in all_results(ours, theirs, image, np.array([3]), np.float32):
            error = relative_error(mine, torchs)
            assert error <= 1e-3, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet20", "plain20"])
def test_float32_training_gives_the_same_logits_loss_and_statistics(name):
    """Gradients are compared in evaluation mode only: through batch statistics, signs of ReLU inputs do turn."""
    ours, theirs = pair(name, {}, {}, np.float32)
    images, labels = batch(8, 32, ours.fc.out_features)
    for what, mine, torchs in all_results(
        ours, theirs, images.astype(np.float32).astype(np.float64), labels, np.float32
    ):
        if not what.startswith("gradient"):
            error = relative_error(mine, torchs)
            assert error <= 1e-4, f"{what}: relative error {error:.1e}"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "plain20"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_cuda_gradients_equal_pytorch(name, mode):
    ours, theirs = pair(name, {}, {})
    ours.to("cuda").train(mode == "train")
    theirs.train(mode == "train")
    images, labels = batch(4, 32, ours.fc.out_features)
    for what, mine, torchs in all_results(ours, theirs, images, labels, device="cuda"):
        error = relative_error(mine, torchs)
        assert error <= 1e-9, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_unfused_net_gives_the_same_gradients(name):
    ours, _ = pair(name, {}, {})
    images, labels = batch(4, 32, ours.fc.out_features)

    def gradients():
        ours.zero_grad()
        F.cross_entropy(ours(Tensor(images)), Tensor(labels)).backward()
        return [parameter.grad.numpy() for parameter in ours.parameters()]

    fused = gradients()
    with minires.unfused():
        separate = gradients()
    for a, b in zip(fused, separate, strict=True):
        assert relative_error(a, b) <= 1e-11


# Training a net of 50 layers and more on four images amplifies rounding a millionfold in five steps, whoever computes
# it (see `pair`): for those, the gradients above and the optimizer's own tests speak.
SGD_CASES = [case for case in CASES if case[0] in ("resnet18", "resnet20", "resnet32", "plain20")]


@pytest.mark.parametrize(("name", "ours_options", "twin_options", "size", "pixels"), parameters(SGD_CASES))
def test_five_sgd_steps_leave_equal_parameters(name, ours_options, twin_options, size, pixels):
    ours, theirs = pair(name, ours_options, twin_options)
    rate = 1e-4 if name in IMAGENET else 1e-2  # gradients of the random weights are large: the steps must not be wild
    options = {"lr": rate, "momentum": 0.9, "weight_decay": 1e-4}
    mine = minires.optim.SGD(ours.parameters(), **options)
    torchs = torch.optim.SGD(theirs.parameters(), **options)
    images, labels = batch(size, pixels, ours.fc.out_features)
    for _ in range(5):
        mine.zero_grad()
        F.cross_entropy(ours(Tensor(images)), Tensor(labels)).backward()
        mine.step()
        torchs.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.from_numpy(images)), torch.from_numpy(labels)).backward()
        torchs.step()
    for (name, value), (theirs_name, expected) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == theirs_name
        assert relative_error(value.numpy(), expected.numpy()) <= 1e-9, name


def test_zero_init_residual_makes_every_block_start_as_its_shortcut():
    net = models.resnet50(zero_init_residual=True)
    blocks = [module for module in net.modules() if isinstance(module, models.Bottleneck)]
    assert len(blocks) == 16
    for block in blocks:
        assert not block.bn3.weight.detach().numpy().any()
    x = Tensor(np.abs(np.random.default_rng(0).standard_normal((2, 256, 8, 8))).astype(np.float32))
    np.testing.assert_array_equal(net.layer1[1].train()(x).detach().numpy(), x.numpy())


def test_mismatched_residual_add_names_shapes_and_remedy():
    block = models.BasicBlock(64, 128, stride=2)
    with pytest.raises(ValueError, match=r"\(2, 128, 8, 8\).*\(2, 64, 16, 16\).*1x1 convolution.*stride 2"):
        block(minires.randn(2, 64, 16, 16))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.get_model("resnet19"), r"no model 'resnet19': did you mean .*\bresnet18\b"),
        (lambda: models.CifarResNet(21), "6n"),
        (lambda: models.CifarResNet(20, shortcut="D"), '"A", "B" or "C"'),
        (lambda: models.resnet50(version="v2"), "v1.5"),
        (
            lambda: models.resnext50_32x4d(weights="DEFAULT"),
            "got 'DEFAULT': minires downloads nothing.*load_state_dict",
        ),
        (lambda: models.resnet18(pretrained=True), "pretrained must be False, got True: minires downloads nothing"),
        (lambda: models.get_model("resnet20", pretrained=True), "pretrained must be False, got True: minires"),
        (lambda: models.plain20(weights="DEFAULT"), "got 'DEFAULT': minires downloads nothing.*load_state_dict"),
    ],
)
def test_bad_model_arguments_say_what_would_be_right(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_channel_count_names_both():
    with pytest.raises(RuntimeError, match=r"has 4 channels, but a weight .* takes 3:"):
        models.resnet20()(minires.randn(2, 4, 32, 32))


def test_weights_from_before_batches_were_counted_load_by_name():
    net = models.resnet20()
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(net.state_dict())
    assert models.resnet20().load_state_dict(state).missing_keys == []


def test_a_training_step_in_between_leaves_an_evaluated_graph_alone():
    """Evaluation uses the running statistics of its own time, although training changes them in place."""
    norm = minires.nn.BatchNorm2d(3).double()
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 5, 5)))
    norm.eval()
    (norm(x) ** 2).sum().backward()
    expected, norm.weight.grad = norm.weight.grad.numpy(), None
    loss = (norm(x) ** 2).sum()
    norm.train()
    norm(3 * x + 5)
    loss.backward()
    np.testing.assert_array_equal(norm.weight.grad.numpy(), expected)


def test_what_torchvision_takes_without_weights_is_taken():
    assert isinstance(models.resnet20(weights=None, pretrained=False, progress=True), models.CifarResNet)
