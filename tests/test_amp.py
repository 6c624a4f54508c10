"""Mixed precision against PyTorch's on the CPU: which operations compute in what, whole steps, and the scaler."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_F
from kernel_cases import normal
from torch_twins import Basic
from twin import assert_twins

import minires
import minires.nn.functional as F
from minires import amp, nn, optim
from minires.autograd import checkpoint, grad
from minires.models import BasicBlock
from minires.models.shortcuts import make_shortcut


def tensors(lib, *shapes, **options):
    make = minires.Tensor if lib is minires else torch.from_numpy
    arrays = [normal(*shape, seed=seed, dtype=np.float32) for seed, shape in enumerate(shapes)]
    return [make(array).requires_grad_(**options) for array in arrays]


# What computes in 16 bits, and what in float32

IN_HALF = {
    "conv2d": lambda lib, f: f.conv2d(*tensors(lib, (2, 3, 5, 5), (4, 3, 3, 3), (4,)), padding=1),
    "conv_transpose2d": lambda lib, f: f.conv_transpose2d(*tensors(lib, (2, 3, 5, 5), (3, 4, 3, 3), (4,))),
    "linear": lambda lib, f: f.linear(*tensors(lib, (5, 3), (4, 3), (4,))),
    "linear without bias": lambda lib, f: f.linear(*tensors(lib, (5, 3), (4, 3))),
    "matmul": lambda lib, f: lib.matmul(*tensors(lib, (2, 5, 3), (3, 4))),
    "@": lambda lib, f: tensors(lib, (5, 3))[0] @ tensors(lib, (3, 4))[0],
    "mm": lambda lib, f: lib.mm(*tensors(lib, (5, 3), (3, 4))),
    "bmm": lambda lib, f: lib.bmm(*tensors(lib, (2, 5, 3), (2, 3, 4))),
}
UNCHANGED = {
    "relu": lambda lib, f: f.relu(tensors(lib, (3, 4))[0]),
    "relu of half": lambda lib, f: f.relu(tensors(lib, (3, 4))[0].half()),
    "add": lambda lib, f: tensors(lib, (3, 4))[0].half() + tensors(lib, (3, 4))[0].half(),
    "add of two dtypes": lambda lib, f: tensors(lib, (3, 4))[0].half() + tensors(lib, (3, 4))[0],
    "multiply by a number": lambda lib, f: tensors(lib, (3, 4))[0].half() * 0.5,
    "max_pool2d": lambda lib, f: f.max_pool2d(tensors(lib, (2, 3, 4, 4))[0].half(), 2),
    "float64 stays": lambda lib, f: f.linear(*[t.double() for t in tensors(lib, (5, 3), (4, 3))]),
    "integers stay": lambda lib, f: lib.arange(4) + lib.arange(4),
}
IN_FLOAT32 = {
    "mse_loss": lambda lib, f: f.mse_loss(*[t.half() for t in tensors(lib, (3, 4), (3, 4))]),
}


@pytest.mark.parametrize("name", [*IN_HALF, *UNCHANGED, *IN_FLOAT32])
def test_operations_compute_in_the_dtypes_that_pytorch_computes_in(name):
    operation = {**IN_HALF, **UNCHANGED, **IN_FLOAT32}[name]

    def program(lib):
        with lib.autocast("cpu", lib.float16):
            return operation(lib, F if lib is minires else torch_F)

    assert_twins(program, 2e-3)


@pytest.mark.parametrize("name", IN_HALF)
def test_the_result_has_16_bits(name):
    with minires.autocast("cpu", minires.float16):
        assert IN_HALF[name](minires, F).dtype == minires.float16


CLASSES = minires.tensor([0, 3, 1])
SENSITIVE = {  # in PyTorch's list for CUDA
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "logsumexp": lambda x: minires.logsumexp(x, 1),
    "cross_entropy": lambda x: F.cross_entropy(x, CLASSES),
    "nll_loss": lambda x: F.nll_loss(x, CLASSES),
    "mse_loss": lambda x: F.mse_loss(x, x),
    "l1_loss": lambda x: F.l1_loss(x, x),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, x),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, x),
    "exp": minires.exp,
    "expm1": minires.expm1,
    "log": minires.log,
    "log1p": minires.log1p,
    "pow": lambda x: x**2,
    "reciprocal": minires.reciprocal,
    "1 / x": lambda x: 1 / x,
    "rsqrt": minires.rsqrt,
    "sum": lambda x: x.sum(0),
    "prod": lambda x: x.prod(0),
    "norm": minires.norm,
}


@pytest.mark.parametrize("name", SENSITIVE)
def test_sensitive_operations_compute_in_float32(name):
    half = minires.Tensor(np.abs(normal(3, 4)).astype(np.float16)).requires_grad_()
    wide = half.detach().float()
    with amp.autocast("cpu", minires.float16):
        y = SENSITIVE[name](half)
    assert y.dtype == minires.float32
    np.testing.assert_array_equal(y.detach().numpy(), SENSITIVE[name](wide).numpy())
    y.sum().backward()
    assert half.grad.dtype == minires.float16


# The mode


def product():
    return minires.ones(2, 2) @ minires.ones(2, 2)


def test_modes_nest_and_end():
    assert not amp.is_autocast_enabled("cpu")
    with amp.autocast("cpu", minires.float16):
        assert amp.is_autocast_enabled("cpu")
        assert not amp.is_autocast_enabled("cuda")
        with amp.autocast("cpu", enabled=False):
            assert product().dtype == minires.float32
        with amp.autocast("cuda"):
            assert product().dtype == minires.float16
        with amp.autocast("cpu"):
            assert product().dtype == amp.get_autocast_dtype("cpu") == minires.bfloat16
        assert product().dtype == minires.float16
    assert product().dtype == minires.float32
    with amp.autocast("cuda"):
        assert product().dtype == minires.float32
    with pytest.raises(ZeroDivisionError), amp.autocast("cpu"):
        raise ZeroDivisionError
    assert not amp.is_autocast_enabled("cpu")


def test_the_mode_is_a_decorator_and_belongs_to_its_thread():
    assert amp.autocast("cpu", "float16")(product)().dtype == minires.float16
    seen = []
    with amp.autocast("cpu"):
        thread = threading.Thread(target=lambda: seen.append(product().dtype))
        thread.start()
        thread.join()
    assert seen == [minires.float32]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='device_type must be "cuda" or "cpu", got \'mps\''):
        amp.autocast("mps")
    with pytest.raises(ValueError, match="in float16 or bfloat16, got float32"):
        amp.autocast("cpu", minires.float32)
    with pytest.raises(ValueError, match="in float16 or bfloat16, got int"):
        amp.autocast("cpu", int)


def test_bfloat16_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"needs ml_dtypes: install it with pip install 'minires\[bfloat16\]'"):
        amp.autocast("cpu")


def test_a_backward_pass_inside_computes_as_one_outside():
    gradients = []
    for inside in (False, True):
        x, w = tensors(minires, (5, 8), (8, 4), requires_grad=True)
        with amp.autocast("cpu", minires.float16):
            loss = (x @ w).exp().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append((x.grad.numpy(), w.grad.numpy()))
    for a, b in zip(*gradients, strict=True):
        assert a.dtype == np.float32
        assert np.array_equal(a, b)


# Whole steps


def small_net(lib):
    """A stem, a block with a shortcut of zeros, pooling and a classifier."""
    if lib is torch:
        layers, stem = (
            torch.nn,
            torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()),
        )
        block = Basic(8, 16, 2, torch_shortcut(), True, 1, 64, "v1.5")
    else:
        layers, stem = nn, nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        block = BasicBlock(8, 16, 2, make_shortcut("B", 8, 16, 2))
    return layers.Sequential(
        stem, layers.MaxPool2d(2), block, layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(16, 5)
    )


def torch_shortcut():
    return torch.nn.Sequential(torch.nn.Conv2d(8, 16, 1, 2, bias=False), torch.nn.BatchNorm2d(16))


def step_results(lib, dtype, double=False, scale=1.0):
    """Loss, gradients and running statistics after a step, by the one library or the other, and the dtypes met."""
    minires.manual_seed(0)
    ours = small_net(minires)
    net, functional = ours, F
    images, classes = normal(16, 3, 12, 12, dtype=np.float32), np.arange(16) % 5
    make = minires.Tensor
    if lib is torch:
        net, functional, make = small_net(torch), torch_F, torch.from_numpy
        for a, b in zip(net.state_dict().values(), ours.state_dict().values(), strict=True):
            a.copy_(torch.from_numpy(b.numpy().copy()))
    x = make(images)
    if double:
        net, x = net.double(), x.double()
    with lib.autocast("cpu", dtype, enabled=dtype is not None):
        logits = net(x)
        loss = functional.cross_entropy(logits, make(classes))
    (loss * scale).backward()
    arrays = [loss, *[p.grad / scale for p in net.parameters()], *[b for b in net.buffers() if b.ndim]]
    return (
        logits.dtype,
        [a.detach().numpy().astype(np.float64) for a in arrays],
        {p.grad.dtype for p in net.parameters()},
    )


def error(results, exact):
    """Of all arrays together, each relative to its size."""
    return np.sqrt(np.mean([np.sum((a - b) ** 2) / np.sum(b**2) for a, b in zip(results, exact, strict=True)]))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_step_is_as_exact_as_pytorchs(name):
    _, exact, _ = step_results(torch, None, double=True)
    logits, ours, gradients = step_results(minires, getattr(minires, name), scale=1024.0)
    _, theirs, _ = step_results(torch, getattr(torch, name), scale=1024.0)
    assert logits == getattr(minires, name)
    assert gradients == {np.dtype(np.float32)}
    assert 1e-4 < error(ours, exact) < 2 * error(theirs, exact)  # 16 bits were really used
    assert error(step_results(minires, None)[1], exact) < 1e-5


def test_batch_norm_of_16_bits_keeps_its_statistics_in_float32():
    x = (normal(64, 3, 8, 8) + 50).astype(np.float16)  # squares would overflow

    def program(lib):
        layer = (nn if lib is minires else torch.nn).BatchNorm2d(3)
        y = layer((minires.Tensor if lib is minires else torch.from_numpy)(x))
        return y.detach(), layer.running_mean, layer.running_var

    assert_twins(program, 2e-3)
    layer = nn.BatchNorm2d(3)
    layer(minires.Tensor(x))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * exact.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * exact.var(axis=(0, 2, 3), ddof=1), rtol=1e-6)


def test_a_model_wholly_in_float16_trains_and_evaluates():
    def program(lib):
        minires.manual_seed(0)
        net = (nn if lib is minires else torch.nn).BatchNorm2d(3).to(lib.float16)
        x = tensors(lib, (4, 3, 5, 5))[0].half()
        y = net(x)
        return y, net.running_mean, net.eval()(x)

    assert_twins(program, 2e-3)


def test_fused_and_separate_operations_agree():
    minires.manual_seed(0)
    block = BasicBlock(8, 8)
    x = minires.Tensor(normal(4, 8, 6, 6, dtype=np.float32))
    with amp.autocast("cpu", minires.float16):
        fused = block(x.half())
        with minires.unfused():
            separate = block(x.half())
    np.testing.assert_allclose(fused.detach().numpy(), separate.detach().numpy(), rtol=5e-3, atol=5e-3)


def test_a_checkpointed_block_is_run_again_in_the_same_precision():
    gradients = []
    for keep in (True, False):
        minires.manual_seed(0)
        block = BasicBlock(4, 4)
        x = minires.Tensor(normal(4, 4, 6, 6, dtype=np.float32)).requires_grad_()
        with amp.autocast("cpu", minires.float16):
            y = block(x.half()) if keep else checkpoint(block, x.half())
        y.sum().backward()
        gradients.append([x.grad.numpy(), *(p.grad.numpy() for p in block.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert np.array_equal(a, b)


def test_second_derivatives_are_those_of_float32():
    found = []
    for enabled in (False, True):
        minires.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        x = minires.Tensor(normal(8, 2, 6, 6, dtype=np.float32)).requires_grad_()
        with amp.autocast("cpu", minires.float16, enabled):
            loss = F.cross_entropy(net(x), minires.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
        (first,) = grad(loss, x, create_graph=True)
        (first.float() ** 2).sum().backward()
        found.append([p.grad.numpy().ravel() for p in net.parameters() if p.grad is not None])
    largest = max(np.linalg.norm(exact) for exact in found[0])
    for exact, mixed in zip(*found, strict=True):
        # That of the bias before batch norm is 0: its rounding errors are measured by the others.
        assert np.linalg.norm(mixed - exact) <= 0.02 * np.linalg.norm(exact) + 1e-4 * largest


# The scaler


def scaled_run(lib, spoiled, enabled=True, interval=3):
    """Scales and weights over steps, of which those in ``spoiled`` have an infinite gradient."""
    w = lib.tensor([1.0, -2.0], requires_grad=True)
    optimizer = (optim if lib is minires else torch.optim).SGD([w], lr=0.1, momentum=0.9)
    scaler = lib.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=interval, enabled=enabled)
    seen = []
    for step in range(12):
        optimizer.zero_grad()
        factor = float("inf") if step in spoiled else 3.0
        scaler.scale((w * factor).sum()).backward()
        if step % 2:
            scaler.unscale_(optimizer)
            seen.append(w.grad.detach() + 0)
        scaler.step(optimizer)
        scaler.update()
        seen += [scaler.get_scale(), w.detach() + 0]
    return [*seen, sorted(scaler.state_dict().items())]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("spoiled", [(), (0,), (2, 3), (5, 11)], ids=str)
def test_the_scale_and_the_weights_go_as_in_pytorch(spoiled, enabled):
    if spoiled and not enabled:
        return
    assert_twins(lambda lib: scaled_run(lib, spoiled, enabled), 1e-6)


def test_a_scaler_goes_on_from_its_state():
    def program(lib):
        scaler = lib.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        scaler.load_state_dict(
            {"scale": 4.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 1, "_growth_tracker": 0}
        )
        w = lib.ones(2, requires_grad=True)
        optimizer = (optim if lib is minires else torch.optim).SGD([w], lr=1.0)
        scaler.scale(w.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        return scaler.get_scale(), w.detach(), scaler.state_dict()["_growth_tracker"]

    assert_twins(program)


def misuse(lib, *calls):
    w = lib.ones(2, requires_grad=True)
    optimizer = (optim if lib is minires else torch.optim).SGD([w], lr=1.0)
    scaler = lib.amp.GradScaler("cpu")
    scaler.scale(w.sum()).backward()
    for call in calls:
        getattr(scaler, call)(*([] if call == "update" else [optimizer]))
    return w.detach()


@pytest.mark.parametrize(
    "calls",
    [
        ["unscale_", "unscale_"],
        ["step", "unscale_"],
        ["step", "step"],
        ["unscale_", "step", "update"],
    ],
    ids=" ".join,
)
def test_calls_out_of_order_are_refused_as_in_pytorch(calls):
    assert_twins(lambda lib: misuse(lib, *calls))


def test_what_a_scaler_cannot_do_it_says():
    scaler = amp.GradScaler()
    half = minires.ones(2, dtype=minires.float16).requires_grad_()
    half.grad = minires.ones(2, dtype=minires.float16)
    with pytest.raises(ValueError, match=r"a gradient is in float16.*keep the parameters in float32"):
        scaler.unscale_(optim.SGD([half], lr=1.0))
    with pytest.raises(ValueError, match="growth_factor above 1"):
        amp.GradScaler(growth_factor=1.0)
    with pytest.raises(TypeError, match="takes Tensors, got float"):
        scaler.scale(1.0)
    with pytest.raises(RuntimeError, match="the state is empty"):
        scaler.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"update\(\) needs a step\(\)"):
        scaler.update()
    with pytest.raises(RuntimeError, match="no closure"):
        scaler.step(optim.SGD([half], lr=1.0), lambda: None)
    losses = scaler.scale([minires.ones(()), minires.ones(())])
    assert [loss.item() for loss in losses] == [65536.0, 65536.0]
    scaler.update(8.0)
    assert scaler.get_scale() == 8.0
