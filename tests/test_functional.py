"""autograd.functional against PyTorch's, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import functional as theirs

import minires
from minires.autograd import Tensor
from minires.autograd import functional as ours
from minires.verify import gradcheck


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def numbers(value):
    """Nested Tensors of either library as nested arrays."""
    if isinstance(value, (tuple, list)):
        return [numbers(each) for each in value]
    return value.detach().numpy()


def assert_same(mine, torchs):
    if isinstance(torchs, (tuple, list)):
        assert isinstance(mine, (tuple, list))
        assert len(mine) == len(torchs)
        for a, b in zip(mine, torchs, strict=True):
            assert_same(a, b)
    else:
        a, b = mine.detach().numpy(), torchs.detach().numpy()
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def both(name, fn, inputs, v=None, **options):
    """Call the function of both libraries; a single array is a single Tensor."""
    results = []
    for module, convert in ((ours, lambda a: Tensor(a.copy())), (theirs, lambda a: torch.from_numpy(a.copy()))):
        given = tuple(map(convert, inputs)) if isinstance(inputs, (tuple, list)) else convert(inputs)
        extra = () if v is None else ((tuple(map(convert, v)) if isinstance(v, (tuple, list)) else convert(v)),)
        results.append(getattr(module, name)(fn, given, *extra, **options))
    return results


ONE, TWO, THREE = arrays((2, 3), (3, 4), (2, 4))


@pytest.mark.parametrize("create_graph", [False, True])
def test_vjp_and_jvp(create_graph):
    def product(a, b):
        return (a @ b).tanh()

    assert_same(*both("vjp", product, [ONE, TWO], THREE, create_graph=create_graph))
    assert_same(*both("jvp", product, [ONE, TWO], [ONE, TWO], create_graph=create_graph))


def test_several_outputs_of_one_input():
    def two(x):
        return x.exp(), (x * x).sum()

    scalar = np.array(1.5)
    assert_same(*both("vjp", two, ONE, [ONE, scalar]))
    assert_same(*both("jvp", two, ONE, ONE))
    assert_same(*both("jacobian", two, ONE))


def test_a_scalar_needs_no_v():
    assert_same(*both("vjp", lambda x: (x**3).sum(), ONE))
    assert_same(*both("jvp", lambda x: x * ONE[0, 0], np.array(2.0)))


@pytest.mark.parametrize("create_graph", [False, True])
def test_jacobian_and_hessian(create_graph):
    def fn(a, b):
        return ((a @ b).tanh() ** 2).sum()

    options = {"create_graph": create_graph}
    assert_same(*both("jacobian", lambda a, b: (a @ b).sigmoid(), [ONE, TWO], **options))
    assert_same(*both("jacobian", lambda a: a.sum(0), ONE, **options))
    assert_same(*both("hessian", fn, [ONE, TWO], **options))
    assert_same(*both("hessian", lambda a: (a**3).sum(), ONE, **options))


@pytest.mark.parametrize("name", ["vhp", "hvp"])
def test_hessian_products(name):
    def fn(a, b):
        return ((a @ b).tanh() ** 2).sum()

    assert_same(*both(name, fn, [ONE, TWO], [ONE, TWO]))
    assert_same(*both(name, lambda a: (a**3).sum(), ONE, ONE))


def test_products_agree_with_the_matrices():
    x, v = Tensor(ONE.copy()), Tensor(np.flip(ONE).copy())

    def fn(x):
        return (x.sin() * x.sum()).exp().sum()

    matrix = ours.hessian(fn, x).numpy().reshape(6, 6)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
    np.testing.assert_allclose(ours.hvp(fn, x, v)[1].numpy().ravel(), matrix @ v.numpy().ravel(), rtol=1e-10)


@pytest.mark.parametrize("fn", [lambda x: x.detach() * 2, lambda x: minires.ones(2, dtype=minires.float64)])
def test_an_output_that_depends_on_nothing_gives_zeros_or_an_error(fn):
    x = Tensor(np.ones(2))
    assert not ours.vjp(fn, x, x)[1].numpy().any()
    assert not ours.jvp(fn, x, x)[1].numpy().any()
    assert not ours.jacobian(fn, x).numpy().any()
    for name in ("vjp", "jvp"):
        with pytest.raises(RuntimeError, match="strict"):
            getattr(ours, name)(fn, x, x, strict=True)


def test_an_unused_input_is_an_error_under_strict():
    x = Tensor(np.ones(2))
    with pytest.raises(RuntimeError, match="input 1 has no influence"):
        ours.jacobian(lambda a, b: a * 2, (x, x), strict=True)


def test_create_graph_gives_what_can_be_checked_again():
    x = Tensor(ONE.copy(), requires_grad=True)
    v = Tensor(np.flip(ONE).copy(), requires_grad=True)

    def fn(x):
        return (x.sin() * x.sum()).tanh().sum()

    assert gradcheck(lambda x, v: ours.hvp(fn, x, v, create_graph=True)[1], (x, v))
    assert gradcheck(lambda x: ours.jacobian(lambda x: x.sin() * x.sum(), x, create_graph=True), (x,))
    assert gradcheck(lambda x, v: ours.jvp(lambda x: x.sin() * x.sum(), x, v, create_graph=True)[1], (x, v))


def test_inputs_keep_their_gradients_and_results_have_no_graph():
    x = Tensor(ONE.copy(), requires_grad=True)
    y, product = ours.vjp(lambda x: (x * x).sum(), x)
    assert x.grad is None
    assert not y.requires_grad
    assert not product.requires_grad


def test_inside_no_grad():
    with minires.no_grad():
        _, product = ours.hvp(lambda x: (x**3).sum(), Tensor(ONE.copy()), Tensor(ONE.copy()))
    np.testing.assert_allclose(product.numpy(), 6 * ONE * ONE)


def test_an_empty_output():
    assert ours.jacobian(lambda x: x[:0], Tensor(np.ones(3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ours.vjp(lambda x: x * 2, x), RuntimeError, "v can be left out only"),
        (lambda x: ours.vjp(lambda x: x * 2, x, x[:1]), RuntimeError, "shapes of the outputs"),
        (lambda x: ours.jvp(lambda x: x * 2, x, (x, x)), RuntimeError, "shapes of the inputs"),
        (lambda x: ours.hessian(lambda x: x * 2, x), RuntimeError, "one output of one element"),
        (lambda x: ours.hvp(lambda x: (x.sum(), x.sum()), x, x), RuntimeError, "one output of one element"),
        (lambda x: ours.vjp(lambda x: None, x), TypeError, "got NoneType"),
        (lambda x: ours.vjp(lambda x: x, 3.0), TypeError, "inputs must be a Tensor"),
        (lambda x: ours.jacobian(lambda x: x, ()), TypeError, "must not be empty"),
        (lambda x: ours.jacobian(lambda x: x, Tensor(np.ones(2, int))), TypeError, "int64"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(Tensor(np.ones(2)))


def test_one_tensor_given_twice_is_two_inputs_in_a_graph_too():
    results = []
    for library in (minires, torch):
        x = library.tensor([1.0, 2.0], requires_grad=True)
        jacobian = library.autograd.functional.jacobian(lambda a, b: a * a * b, (x, x), create_graph=True)
        results.append([block.tolist() for block in jacobian])
    assert results[0] == results[1]
