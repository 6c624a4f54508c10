"""The optimizers' CUDA kernels, run on the host, against the same optimizers in array code."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_shim import Host
from kernel_cases import needs_compiler, normal

import minires.kernels
from minires import Tensor, optim
from minires.kernels.capture import skipping_where
from minires.kernels.cuda.launch import running_on
from minires.kernels.cuda.optim import CHUNK
from minires.kernels.layout import from_rsio
from minires.kernels.optim import are_alike, unscale

STEPS = 4
OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.5, "maximize": True}),
    ("Adam", {"weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "betas": (0.5, 0.9)}),
    ("Adam", {"maximize": True, "eps": 1e-3}),
    ("AdamW", {"weight_decay": 0.1}),
]


def leaves(dtype):
    """Parameters of many sizes: a scalar, an odd length, filters as they lie, more than a chunk, and none at all."""
    shapes = [(), (7,), (5, 3, 2, 2), (CHUNK + 3,), (0, 4)]
    arrays = [np.asarray(normal(*shape, seed=seed), dtype) for seed, shape in enumerate(shapes)]
    arrays[2] = from_rsio(np.ascontiguousarray(arrays[2].transpose(2, 3, 1, 0)))
    return [Tensor(array, requires_grad=True) for array in arrays]


def steps(optimizer, parameters, until=STEPS):
    for step in range(until):
        for number, parameter in enumerate(parameters):
            gradient = np.empty_like(parameter.array)
            gradient[...] = normal(*parameter.shape, seed=100 * step + number)
            parameter.grad = Tensor(gradient)
        if step == 1:  # one that has made a step less than the others
            parameters[1].grad = None
        optimizer.step()


@pytest.fixture(params=[False, True], ids=["rising", "falling"])
def host(request, monkeypatch):
    """CPU arrays are treated as if they lay on a GPU."""
    monkeypatch.setattr(minires.kernels, "is_cuda_array", lambda array: True)
    host = Host(request.param)
    with running_on(host):
        yield host


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 2e-6)])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_one_launch_equals_array_code(host, name, options, dtype, tolerance):
    ours, expected = leaves(dtype), leaves(dtype)
    optimizer = getattr(optim, name)(ours, lr=0.05, **options)
    steps(optimizer, ours)
    with minires.kernels.use_reference():
        other = getattr(optim, name)(expected, lr=0.05, **options)
        launches = len(host.launches)
        steps(other, expected)
    assert launches == len(host.launches) <= 2 * STEPS
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)
    for one, another in zip(ours, expected, strict=True):
        a, b = optimizer.state[one], other.state[another]
        assert a.keys() == b.keys()
        for key, value in a.items():
            np.testing.assert_allclose(np.asarray(value), np.asarray(b[key]), rtol=tolerance, atol=tolerance)


@needs_compiler
def test_what_lies_otherwise_or_has_another_dtype_is_updated_alone(host):
    parameters = [
        Tensor(np.ones(4, np.float32), requires_grad=True),
        Tensor(np.ones((3, 2), np.float32), requires_grad=True),
        Tensor(np.ones(4), requires_grad=True),
        Tensor(np.ones(4, np.float32), requires_grad=True),
    ]
    gradients = [np.full(4, 2, np.float32), np.asfortranarray(np.full((3, 2), 2, np.float32)), np.full(4, 2.0)]
    for parameter, gradient in zip(parameters, [*gradients, np.full(8, 2, np.float32)[::2]], strict=True):
        parameter.grad = Tensor(gradient)
    optim.SGD(parameters, lr=0.25, momentum=0.9).step()
    assert all((parameter.array == 0.5).all() for parameter in parameters)
    assert len(host.launches) == 1


@pytest.mark.parametrize(
    ("arrays", "alike"),
    [
        ([np.zeros((2, 3)), np.zeros((2, 3))], True),
        ([np.zeros((2, 3)), None], True),
        ([np.zeros((2, 3)), np.zeros((2, 3), np.float32)], False),
        ([np.zeros((2, 3)), np.zeros((2, 3), order="F")], False),
        ([np.zeros((2, 6))[:, ::2], np.zeros((2, 6))[:, ::2]], False),
        ([np.zeros(4)[::-1], np.zeros(4)[::-1]], False),
        ([np.zeros((2, 3), np.int32)], False),
        ([np.zeros((2, 1, 3)).transpose(2, 1, 0)], True),
        ([np.broadcast_to(np.zeros(3), (2, 3))], False),
        ([np.zeros(())], True),
    ],
)
def test_arrays_without_gaps_in_one_order_are_alike(arrays, alike):
    assert are_alike(*arrays) == alike


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradients_are_unscaled_in_one_launch(host, dtype):
    arrays = [leaf.array for leaf in leaves(dtype)]
    expected = [array * dtype(0.25) for array in arrays]
    assert not unscale(arrays, 0.25)
    assert len(host.launches) == 1
    for array, exact in zip(arrays, expected, strict=True):
        assert np.array_equal(array, exact)


@needs_compiler
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(("tensor", "element"), [(0, 0), (1, 6), (3, CHUNK + 2), (3, 0)])
def test_one_element_that_is_not_finite_is_found(host, tensor, element, wrong):
    arrays = [leaf.array for leaf in leaves(np.float32)]
    assert not unscale(arrays, 1.0)
    arrays[tensor].reshape(-1)[element] = wrong
    assert unscale(arrays, 1.0)
    assert len(host.launches) == 2


@needs_compiler
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_step_is_left_out_where_the_flag_is_set(host, name):
    ours = leaves(np.float32)
    optimizer = getattr(optim, name)(ours, lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    steps(optimizer, ours, 2)
    remembered = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    before = [tensor.array.copy() for tensor in (*ours, *remembered)]
    for flag, changes in ((1, False), (0, True)):
        with skipping_where(np.full(1, flag, np.int32)):
            optimizer.step()
        same = [np.array_equal(old, tensor.array) for old, tensor in zip(before, (*ours, *remembered), strict=True)]
        assert all(same) == (not changes)
