"""The CUDA kernels of cross entropy, run on the host, against the same loss in array code."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_shim import Host, HostKernels
from fake_cupy import DeviceHost, gpu_in_place_of_cupy
from kernel_cases import needs_compiler, normal

import minires.nn.functional as F
from minires import Tensor
from minires.autograd import grad
from minires.kernels import cuda
from minires.kernels.capture import Capture, capturing
from minires.kernels.cuda.launch import running_on

pytestmark = needs_compiler

SHAPES = [(5, 3), (1, 1), (33, 10), (3, 1000), (2, 4, 3, 5), (0, 4), (6,)]
OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.1},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.3},
    {"weight": True, "label_smoothing": 0.3, "reduction": "none"},
    {"ignore_index": 0},
    {"ignore_index": 0, "label_smoothing": 0.2, "weight": True, "reduction": "sum"},
]


@pytest.fixture(params=[False, True], ids=["rising", "falling"])
def gpu(request, monkeypatch):
    with gpu_in_place_of_cupy(monkeypatch), running_on(DeviceHost(request.param)) as _:
        yield


def problem(shape, options, dtype=np.float64):
    classes = shape[min(len(shape) - 1, 1)]
    z = Tensor((normal(*shape) * 4).astype(dtype))
    positions = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    target = Tensor(np.asarray(np.random.default_rng(1).integers(0, classes, positions)))
    weight = Tensor(np.abs(normal(classes, seed=2)).astype(dtype)) if options.get("weight") else None
    return z, target, {**options, "weight": weight}


def loss_and_gradient(z, target, options, device):
    z = z.detach().to(device).requires_grad_()
    weight = options["weight"]
    options = {**options, "weight": None if weight is None else weight.to(device)}
    loss = F.cross_entropy(z, target.to(device), **options)
    loss.backward(Tensor(np.asarray(normal(*loss.shape, seed=3), z.dtype)).to(device))
    return loss.detach().cpu().numpy(), z.grad.cpu().numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradient_are_those_of_array_code(gpu, shape, options, dtype, tolerance):
    case = problem(shape, options, dtype)
    for actual, expected in zip(loss_and_gradient(*case, "cuda"), loss_and_gradient(*case, "cpu"), strict=True):
        assert (actual.shape, actual.dtype) == (expected.shape, dtype)
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_where_all_is_ignored_the_mean_is_nan_and_the_gradient_0(gpu):
    z, _, options = problem((4, 3), {"ignore_index": 2})
    loss, gradient = loss_and_gradient(z, Tensor(np.full(4, 2)), options, "cuda")
    assert np.isnan(loss)
    assert not gradient.any()


@pytest.mark.parametrize("extreme", [1e4, -1e4, np.inf, -np.inf, np.nan])
def test_extreme_logits(gpu, extreme):
    z, target, options = problem((4, 40), {})
    z.array[1, 5] = z.array[2, int(target.array[2])] = extreme
    for actual, expected in zip(*(loss_and_gradient(z, target, options, d) for d in ("cuda", "cpu")), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_targets_of_8_bits(gpu):
    z, target, options = problem((5, 3), {})
    expected = loss_and_gradient(z, target, options, "cpu")
    actual = loss_and_gradient(z, Tensor(target.array.astype(np.uint8)), options, "cuda")
    np.testing.assert_allclose(actual[1], expected[1], atol=1e-14)


def test_second_derivatives(gpu):
    found = []
    for device in ("cuda", "cpu"):
        z, target, options = problem((5, 3), {"label_smoothing": 0.1, "weight": True})
        z = z.to(device).requires_grad_()
        loss = F.cross_entropy(z, target.to(device), weight=options["weight"].to(device), label_smoothing=0.1)
        (first,) = grad(loss, z, create_graph=True)
        (first**2).sum().backward()
        found.append(z.grad.cpu().numpy())
    np.testing.assert_allclose(*found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_class_that_does_not_exist_is_an_error_or_in_a_graph_nan_and_never_read(gpu, wrong):
    z, _, _ = problem((2, 3), {})
    z, target = z.to("cuda").requires_grad_(), Tensor(np.array([1, wrong])).to("cuda")
    with pytest.raises(IndexError, match=f"target {wrong} is out of range for 3 classes"):
        F.cross_entropy(z, target)
    with capturing(Capture(lambda table, content: None)):  # nothing can be checked then
        loss = F.cross_entropy(z, target, reduction="none")
    loss.sum().backward()
    assert np.isnan(loss.detach().cpu().numpy()).tolist() == [False, True]
    assert np.isnan(z.grad.cpu().numpy()).all(axis=1).tolist() == [False, True]


@pytest.mark.parametrize("dtype", [np.float16])
def test_16_bit_logits_are_computed_in_float32(dtype):
    z, target = (normal(9, 40) * 4).astype(dtype), np.arange(9)
    losses, factors, logsums = HostKernels().cross_entropy(z, target, None, -100, 0.1)
    assert {a.dtype for a in (losses, factors, logsums)} == {np.dtype(np.float32)}
    exact = F.cross_entropy(Tensor(z.astype(np.float64)), Tensor(target), reduction="none", label_smoothing=0.1)
    np.testing.assert_allclose(losses, exact.numpy(), rtol=1e-6)


def test_few_blocks_go_on_until_all_rows_are_done(monkeypatch):
    monkeypatch.setattr("minires.kernels.cuda.launch.MAX_BLOCKS", 2)
    z, target = normal(37, 5), np.arange(37) % 5
    host = Host()
    with running_on(host):
        losses, _, logsums = cuda.cross_entropy(z, target, None, -100, 0.0)
        dz = cuda.cross_entropy_grad(z, logsums, target, None, -100, 0.0, np.ones(1))
    assert {grid for _, grid, _ in host.launches} <= {(1, 1, 1), (2, 1, 1)}
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(losses, -np.log(p[np.arange(37), target]), rtol=1e-13)
    np.testing.assert_allclose(dz, p - np.eye(5)[target], atol=1e-14)
