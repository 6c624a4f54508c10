"""Every layer against its PyTorch twin: output, gradients and buffers with the same weights; the layout of weights."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from twin import assert_twins, refusal

import minires
from minires import nn

IMAGE, ROWS = (2, 4, 6, 5), (3, 4)

LAYERS = [
    ("nn.Linear(5, 3)", IMAGE),
    ("nn.Linear(4, 3, bias=False)", ROWS),
    ("nn.Conv2d(4, 6, 3)", IMAGE),
    ("nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=2, groups=2)", IMAGE),
    ("nn.Conv2d(4, 6, (4, 3), padding='same', bias=False)", IMAGE),
    ("nn.Conv2d(4, 6, 3, padding='valid')", IMAGE),
    ("nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)", IMAGE),
    ("nn.ConvTranspose2d(4, 6, (3, 2), bias=False, dilation=2)", IMAGE),
    ("nn.BatchNorm2d(4)", IMAGE),
    ("nn.BatchNorm2d(4, eps=0.1, momentum=None)", IMAGE),
    ("nn.BatchNorm2d(4, momentum=0.3, affine=False)", IMAGE),
    ("nn.BatchNorm2d(4, track_running_stats=False)", IMAGE),
    ("nn.BatchNorm2d(4, bias=False)", IMAGE),
    ("nn.BatchNorm1d(4)", ROWS),
    ("nn.BatchNorm1d(4)", (3, 4, 5)),
    ("nn.MaxPool2d(2)", IMAGE),
    ("nn.MaxPool2d((3, 2), stride=2, padding=1, ceil_mode=True)", IMAGE),
    ("nn.MaxPool2d(2, dilation=2, stride=1, return_indices=True)", IMAGE),
    ("nn.AvgPool2d(2)", IMAGE),
    ("nn.AvgPool2d(3, 2, 1, True, False)", IMAGE),
    ("nn.AvgPool2d(2, divisor_override=3)", IMAGE),
    ("nn.AdaptiveAvgPool2d((1, 1))", IMAGE),
    ("nn.AdaptiveAvgPool2d((4, None))", IMAGE),
    ("nn.AdaptiveMaxPool2d(3, return_indices=True)", IMAGE),
    ("nn.Unfold((2, 3), dilation=1, padding=1, stride=2)", IMAGE),
    ("nn.Fold((5, 4), 2)", (2, 12, 12)),
    ("nn.Upsample(scale_factor=2)", IMAGE),
    ("nn.Upsample(size=(7, 9), mode='bilinear', align_corners=True)", IMAGE),
    ("nn.ReLU()", IMAGE),
    ("nn.ReLU6()", IMAGE),
    ("nn.LeakyReLU(0.2)", IMAGE),
    ("nn.SiLU()", IMAGE),
    ("nn.GELU()", IMAGE),
    ("nn.GELU(approximate='tanh')", IMAGE),
    ("nn.Sigmoid()", IMAGE),
    ("nn.Tanh()", IMAGE),
    ("nn.Softmax(dim=1)", IMAGE),
    ("nn.LogSoftmax(dim=-1)", IMAGE),
    ("nn.Flatten()", IMAGE),
    ("nn.Flatten(0, 1)", IMAGE),
    ("nn.Identity()", IMAGE),
    ("nn.Dropout(0.0)", IMAGE),
    ("nn.Dropout(1.0)", IMAGE),
    ("nn.Dropout2d(0.0)", IMAGE),
    ("nn.Dropout2d(1.0)", IMAGE),
    ("nn.Dropout2d(1.0)", (3, 4, 5)),
    ("nn.Conv2d(4, 6, 3, 1, 0, 1, 1, True, 'zeros')", IMAGE),
    ("nn.ConvTranspose2d(4, 6, 3, padding_mode='zeros')", IMAGE),
]


def fill(lib, module):
    with lib.no_grad():
        for index, parameter in enumerate(module.parameters()):
            numbers = np.random.default_rng(index).standard_normal(tuple(parameter.shape))
            parameter.copy_(lib.from_numpy(numbers))
    return module


@pytest.mark.parametrize(("text", "shape"), LAYERS)
def test_layer_equals_its_twin(text, shape):
    def program(lib):
        layer = fill(lib, eval(text, {"nn": lib.nn}).double())
        results = []
        for step, training in enumerate((True, True, False)):
            layer.train(training)
            numbers = np.random.default_rng(step).standard_normal(shape)
            x = lib.tensor(numbers).requires_grad_()
            output = layer(x)
            output, *others = output if isinstance(output, tuple) else (output,)
            cotangent = lib.tensor(np.random.default_rng(7).standard_normal(tuple(output.shape)))
            output.backward(cotangent)
            results += [output, others, x.grad]
        return [*results, [p.grad for p in layer.parameters()], [b.clone() for b in layer.buffers()]]

    assert_twins(program, 1e-10)


LOSSES = [
    ("nn.CrossEntropyLoss(label_smoothing=0.1)", "classes"),
    ("nn.CrossEntropyLoss(weight=weight, ignore_index=1, reduction='sum')", "classes"),
    ("nn.CrossEntropyLoss(reduction='none')", "classes"),
    ("nn.NLLLoss(weight=weight)", "classes"),
    ("nn.MSELoss()", "values"),
    ("nn.MSELoss(reduction='sum')", "values"),
    ("nn.L1Loss()", "values"),
    ("nn.SmoothL1Loss(beta=0.5)", "values"),
    ("nn.BCEWithLogitsLoss(pos_weight=weight)", "probabilities"),
    ("nn.BCEWithLogitsLoss(weight=weight, reduction='sum')", "probabilities"),
]


@pytest.mark.parametrize(("text", "kind"), LOSSES)
def test_loss_equals_its_twin(text, kind):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 4))
    targets = {
        "classes": rng.integers(0, 4, 5),
        "values": rng.standard_normal((5, 4)),
        "probabilities": rng.random((5, 4)),
    }

    def program(lib):
        weight = lib.tensor(np.array([1.0, 2.0, 0.5, 3.0]))
        loss = eval(text, {"nn": lib.nn, "weight": weight})
        x = lib.tensor(logits).requires_grad_()
        value = loss(x, lib.tensor(targets[kind]))
        value.sum().backward()
        return value, x.grad, list(loss.state_dict())

    assert_twins(program, 1e-10)


REFUSED = [
    ("nn.Conv2d(4, 6, 3, groups=3)", IMAGE, ValueError),
    ("nn.Conv2d(4, 6, 3, groups=0)", IMAGE, ValueError),
    ("nn.ConvTranspose2d(4, 6, 3, padding='same')", IMAGE, None),
    ("nn.Conv2d(3, 6, 3)", IMAGE, RuntimeError),
    ("nn.Conv2d(4, 6, 9)", IMAGE, RuntimeError),
    ("nn.Conv2d(4, 6, 3, padding='same', stride=2)", IMAGE, ValueError),
    ("nn.Conv2d(4, 6, 3, padding='circular')", IMAGE, ValueError),
    ("nn.Linear(7, 3)", IMAGE, RuntimeError),
    ("nn.BatchNorm2d(4)", ROWS, ValueError),
    ("nn.BatchNorm1d(4)", IMAGE, ValueError),
    ("nn.BatchNorm2d(3)", IMAGE, RuntimeError),
    ("nn.BatchNorm1d(4)", (1, 4), ValueError),
    ("nn.Dropout(1.5)", IMAGE, ValueError),
    ("nn.Dropout(-0.1)", IMAGE, ValueError),
    ("nn.Dropout2d(1.5)", IMAGE, ValueError),
    ("nn.MaxPool2d(2, padding=2)", IMAGE, RuntimeError),
]


@pytest.mark.parametrize(("text", "shape", "kind"), REFUSED)
def test_refused_as_pytorch_refuses(text, shape, kind):
    def program(lib):
        layer = eval(text, {"nn": lib.nn}).double()
        return layer(lib.tensor(np.ones(shape)))

    if kind is None:
        assert_twins(program)
    else:
        assert isinstance(refusal(program), kind)


BAD_SIZES = [
    ("nn.Conv2d(0, 6, 3)", RuntimeError, "Conv2d: in_channels must be positive, got 0"),
    ("nn.Conv2d(4, -6, 3)", RuntimeError, "Conv2d: out_channels must be positive, got -6"),
    ("nn.Conv2d(4.0, 6, 3)", TypeError, "Conv2d: in_channels must be an integer, got 4.0"),
    ("nn.Conv2d(4, 6, 0)", RuntimeError, "Conv2d: kernel_size must be positive, got 0"),
    ("nn.Conv2d(4, 6, (3, -1))", RuntimeError, "Conv2d: kernel_size must be positive, got -1"),
    ("nn.Conv2d(4, 6, 3.0)", TypeError, "Conv2d: kernel_size must be an integer, got 3.0"),
    ("nn.Conv2d(4, 6, (3, 3, 3))", RuntimeError, r"Conv2d: kernel_size .* got \(3, 3, 3\)"),
    ("nn.Conv2d(4, 6, (3,))", RuntimeError, r"Conv2d: kernel_size .* got \(3,\)"),
    ("nn.Conv2d(4, 6, 3, stride=0)", RuntimeError, "Conv2d: stride must be positive, got 0"),
    ("nn.Conv2d(4, 6, 3, padding=-1)", RuntimeError, "Conv2d: padding must be not negative, got -1"),
    ("nn.Conv2d(4, 6, 3, dilation=(1, 0))", RuntimeError, "Conv2d: dilation must be positive, got 0"),
    ("nn.Conv2d(4, 6, 3, groups=2.0)", TypeError, "Conv2d: groups must be an integer, got 2.0"),
    ("nn.Conv2d(4, 6, 3, padding_mode='reflect')", NotImplementedError, "padding_mode .* got 'reflect': .*F.pad"),
    ("nn.ConvTranspose2d(4, 6, 0)", RuntimeError, "ConvTranspose2d: kernel_size must be positive, got 0"),
    ("nn.ConvTranspose2d(4, 6, 3, output_padding=-1)", RuntimeError, "ConvTranspose2d: output_padding .* got -1"),
    ("nn.ConvTranspose2d(4, 6, 3, padding_mode='circular')", NotImplementedError, "padding_mode .* got 'circular'"),
    ("nn.Linear(-1, 3)", RuntimeError, "Linear: in_features must be not negative, got -1"),
    ("nn.Linear(3, 2.5)", TypeError, "Linear: out_features must be an integer, got 2.5"),
    ("nn.BatchNorm2d(0)", RuntimeError, "BatchNorm2d: num_features must be positive, got 0"),
    ("nn.BatchNorm1d('4')", TypeError, "BatchNorm1d: num_features must be an integer, got '4'"),
]


@pytest.mark.parametrize(("text", "kind", "message"), BAD_SIZES)
def test_bad_sizes_are_refused_when_the_layer_is_made(text, kind, message):
    with pytest.raises(kind, match=message):
        eval(text, {"nn": nn})


@pytest.mark.parametrize("shape", [(20, 30, 4, 5), (600, 4, 5)])
def test_dropout2d_drops_whole_channels(shape):
    minires.manual_seed(0)
    layer, x = nn.Dropout2d(0.25), minires.ones(*shape).requires_grad_()
    y = layer(x)
    y.sum().backward()
    channels = y.detach().numpy().reshape(600, 20)
    assert (channels == channels[:, :1]).all()
    np.testing.assert_allclose(np.unique(channels), [0.0, 1 / 0.75], rtol=1e-6)
    assert abs((channels[:, 0] == 0).mean() - 0.25) < 0.09  # five standard deviations
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())


def test_dropout2d_wants_images():
    with pytest.raises(RuntimeError, match=r"Dropout2d needs an input of shape .* got shape \(3, 4\)"):
        nn.Dropout2d()(minires.ones(3, 4))


def test_dropout_drops_and_scales_in_training_only():
    minires.manual_seed(0)
    layer, x = nn.Dropout(0.25), minires.ones(100, 100)
    values = layer(x).numpy()
    np.testing.assert_allclose(np.unique(values), [0.0, 1 / 0.75], rtol=1e-6)
    assert abs((values == 0).mean() - 0.25) < 0.02  # five standard deviations
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x.numpy())


def test_fused_batch_norm_layer_equals_separate_layers():
    def program(lib):
        norm = fill(lib, lib.nn.BatchNorm2d(4).double())
        x, residual = (lib.tensor(np.random.default_rng(s).standard_normal(IMAGE)).requires_grad_() for s in (0, 1))
        fused = {"residual": residual, "activation": "relu"}
        y = norm(x, **fused) if lib is minires else torch.relu(norm(x) + residual)
        (y * y).sum().backward()
        return y, x.grad, residual.grad, [p.grad for p in norm.parameters()], list(norm.buffers())

    assert_twins(program, 1e-10)


# What the kernels read: a conv weight (O, I, R, S) lies in memory as (R, S, I, O)


def same(layer):
    return layer


def loaded(layer):
    layer.load_state_dict({name: minires.ones(*value.shape) for name, value in layer.state_dict().items()})
    return layer


def through_pickle(layer):
    return pickle.loads(pickle.dumps(layer))


def converted(layer):
    return layer.double()


def drawn_again(layer):
    layer.reset_parameters()
    return layer


def stepped(layer):
    with minires.no_grad():
        layer.weight -= 0.1 * layer.weight
    return layer


@pytest.mark.parametrize("change", [same, loaded, copy.deepcopy, through_pickle, converted, drawn_again, stepped])
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(6, 4, (3, 2), groups=2), lambda: nn.ConvTranspose2d(6, 4, 3)])
def test_conv_weights_stay_as_the_kernels_read_them(make, change):
    layer = change(make())
    assert layer.weight.array.transpose(2, 3, 1, 0).flags.c_contiguous


@pytest.mark.parametrize(
    "copied", [lambda state: state, lambda state: pickle.loads(pickle.dumps(state)), copy.deepcopy]
)
def test_state_of_a_conv_layer_is_logical(copied):
    layer = nn.Conv2d(3, 4, (2, 5))
    state = copied(layer.state_dict())
    assert state["weight"].shape == (4, 3, 2, 5)
    np.testing.assert_array_equal(state["weight"].numpy(), layer.weight.detach().numpy())


@pytest.mark.parametrize("text", ["nn.Linear(2, 3, {})", "nn.Conv2d(2, 3, 1, {})", "nn.BatchNorm2d(3, {})"])
def test_layers_are_made_in_the_dtype_asked_for(text):
    def program(lib):
        layer = eval(text.format("device='cpu', dtype=lib.float64"), {"nn": lib.nn, "lib": lib})
        return [value.dtype == lib.float64 for value in layer.state_dict().values()]

    assert_twins(program)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 1), nn.ConvTranspose2d(2, 2, 1), nn.Linear(4, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.GELU(),
        nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Dropout2d(),
        nn.Softmax(1), nn.Upsample(scale_factor=2), nn.Sequential(nn.Conv2d(2, 2, 1)),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
@pytest.mark.parametrize("convert", [np.asarray, np.ndarray.tolist, torch.from_numpy], ids=["array", "list", "torch"])
def test_layers_refuse_what_is_no_tensor(layer, convert):
    with pytest.raises(TypeError, match="input must be a Tensor, got "):
        layer(convert(np.ones((2, 2, 4, 4), np.float32)))
