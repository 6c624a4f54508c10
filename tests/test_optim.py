"""Optimizers against ``torch.optim``, their state, and what they refuse."""

from __future__ import annotations

import copy
import math

import ml_dtypes
import numpy as np
import pytest
import torch

from minires import optim
from minires.autograd import Tensor
from minires.device import array_module, to_device
from minires.kernels import use_reference
from minires.kernels.cpu.optim import CHUNK

SHAPES = [(3, 4), (5,), (), (2, 3, 4, 5)]
STEPS = 10

SGD_OPTIONS = [
    {},
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "weight_decay": 0.05, "maximize": True},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True, "maximize": True},
    {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "dampening": 0.5},
    {"lr": 0.0, "momentum": 0.9},
]
ADAM_OPTIONS = [
    {},
    {"lr": 0.1, "betas": (0.8, 0.95)},
    {"lr": 0.1, "eps": 1e-3},
    {"lr": 0.1, "weight_decay": 0.1},
    {"lr": 0.1, "amsgrad": True},
    {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.1, "maximize": True},
    {"lr": 0.1, "betas": (0.0, 0.0)},
]
CASES = [
    *(("SGD", options) for options in SGD_OPTIONS),
    *((name, options) for name in ("Adam", "AdamW") for options in ADAM_OPTIONS),
]
ONE_OF_EACH = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.1}),
]


def drawn_arrays(seed: int, shapes=SHAPES, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def leaves(seed: int = 0, dtype=np.float64, shapes=SHAPES) -> list[Tensor]:
    return [Tensor(array, requires_grad=True) for array in drawn_arrays(seed, shapes, dtype)]


def torch_leaves(seed: int = 0) -> list[torch.Tensor]:
    return [torch.from_numpy(array).requires_grad_() for array in drawn_arrays(seed)]


def set_gradients(parameters, step: int, dtype=np.float64, skip=()) -> None:
    """Give both libraries the same gradients, which change from step to step."""
    for index, (parameter, gradient) in enumerate(
        zip(parameters, drawn_arrays(100 + step, [tuple(p.shape) for p in parameters], dtype), strict=True)
    ):
        ours = isinstance(parameter, Tensor)
        parameter.grad = None if index in skip else Tensor(gradient) if ours else torch.from_numpy(gradient)


def train(optimizer, parameters, steps=range(STEPS), **options) -> None:
    for step in steps:
        set_gradients(parameters, step, **options)
        optimizer.step()


def assert_equal_parameters(ours, theirs, tolerance=1e-12):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


def in_groups(parameters, name):
    """Two groups, the second with options of its own."""
    own = {"lr": 0.02, "weight_decay": 0.2, **({"momentum": 0.5} if name == "SGD" else {"betas": (0.5, 0.6)})}
    return [{"params": parameters[:2]}, {"params": parameters[2:], **own}]


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("grouped", [False, True], ids=["one group", "two groups"])
def test_ten_steps_equal_pytorch(name: str, options: dict, grouped: bool):
    ours, theirs = leaves(), torch_leaves()
    optimizer = getattr(optim, name)(in_groups(ours, name) if grouped else ours, **options)
    torch_optimizer = getattr(torch.optim, name)(in_groups(theirs, name) if grouped else theirs, **options)
    train(optimizer, ours)
    train(torch_optimizer, theirs)
    assert_equal_parameters(ours, theirs)


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_parameters_without_a_gradient_are_left_alone(name: str, options: dict):
    ours, theirs = leaves(), torch_leaves()
    optimizer, torch_optimizer = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(6):
        skip = (1, 3) if step % 2 else (3,)
        train(optimizer, ours, [step], skip=skip)
        train(torch_optimizer, theirs, [step], skip=skip)
    assert_equal_parameters(ours, theirs)
    np.testing.assert_array_equal(ours[3].detach().numpy(), leaves()[3].detach().numpy())


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_changing_options_between_steps_takes_effect(name: str, options: dict):
    ours, theirs = leaves(), torch_leaves()
    optimizer, torch_optimizer = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for each, parameters in ((optimizer, ours), (torch_optimizer, theirs)):
        train(each, parameters, range(3))
        each.param_groups[0]["lr"] = 0.01
        each.param_groups[0]["weight_decay"] = 0.3
        train(each, parameters, range(3, 6))
    assert_equal_parameters(ours, theirs)


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_float32_stays_float32_and_close(name: str, options: dict):
    ours, exact = leaves(dtype=np.float32), leaves()
    optimizer = getattr(optim, name)(ours, **options)
    optimizer.param_groups[0]["lr"] = np.float64(0.1)  # as a schedule of NumPy numbers would set it
    train(optimizer, ours, dtype=np.float32)
    train(getattr(optim, name)(exact, **options), exact)
    assert all(parameter.dtype == np.float32 for parameter in ours)
    assert_equal_parameters(ours, exact, 1e-4)


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_steps_of_16_bits_are_those_of_float32_rounded(name: str, options: dict, half: type):
    """The squares of such gradients vanish in float16, as does Adam's eps."""
    start = np.linspace(-2, 2, 60).astype(half)
    ours = Tensor(start.copy(), requires_grad=True)
    theirs = torch.from_numpy(start.astype(np.float32)).requires_grad_()
    optimizer = getattr(optim, name)([ours], **options)
    reference = getattr(torch.optim, name)([theirs], **options)
    for step in range(STEPS):
        gradient = (np.arange(60) % 4 * 1e-4 * (step + 1)).astype(half)
        ours.grad, theirs.grad = Tensor(gradient), torch.from_numpy(gradient.astype(np.float32))
        optimizer.step()
        reference.step()
        rounded = theirs.detach().numpy().astype(half).astype(np.float32)
        theirs.data.copy_(torch.from_numpy(rounded))
        np.testing.assert_allclose(ours.detach().numpy().astype(np.float32), rounded, rtol=1e-6)
    again = getattr(optim, name)([ours], **options)
    again.load_state_dict(optimizer.state_dict())
    for kind, value in optimizer.state[ours].items():
        np.testing.assert_array_equal(again.state[ours][kind], value)


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_updates_in_place_and_leaves_gradients_alone(name: str, options: dict):
    parameters = leaves()
    optimizer = getattr(optim, name)(parameters, **options, weight_decay=0.1, maximize=True)
    arrays = [parameter.array for parameter in parameters]
    for step in range(3):
        set_gradients(parameters, step)
        before = [parameter.grad.numpy().copy() for parameter in parameters]
        optimizer.step()
        for parameter, gradient in zip(parameters, before, strict=True):
            np.testing.assert_array_equal(parameter.grad.numpy(), gradient)
    assert all(parameter.array is array for parameter, array in zip(parameters, arrays, strict=True))


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_memory_layout_changes_nothing_and_the_state_follows_it(name: str, options: dict):
    (plain,) = leaves(shapes=[(6, 3, 2, 2)])
    (laid_out,) = leaves(shapes=[(6, 3, 2, 2)])
    laid_out.data = Tensor(np.ascontiguousarray(plain.array.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1))
    for parameter in (plain, laid_out):
        optimizer = getattr(optim, name)([parameter], **options)
        train(optimizer, [parameter])
    np.testing.assert_array_equal(plain.detach().numpy(), laid_out.detach().numpy())
    remembered = [value for value in optimizer.state[laid_out].values() if isinstance(value, Tensor)]
    assert remembered
    assert all(value.array.strides == laid_out.array.strides for value in remembered)


def test_an_update_is_noticed_by_a_backward_pass_that_needs_the_old_value():
    (w,) = leaves(shapes=[(3,)])
    loss = (w * w).sum()
    set_gradients([w], 0)
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="in place"):
        loss.backward()


def test_descends_a_real_gradient():
    (w,) = leaves(shapes=[(4,)])
    optimizer = optim.SGD([w], lr=0.1, momentum=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        ((w - 3) * (w - 3)).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.detach().numpy(), np.full(4, 3.0), rtol=1e-6)


def test_step_calls_the_closure_with_gradients_on_and_returns_its_loss():
    (w,) = leaves(shapes=[(2,)])
    optimizer = optim.SGD([w], lr=0.5)
    start = w.detach().numpy().copy()

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.item() == pytest.approx((start**2).sum())
    np.testing.assert_allclose(w.detach().numpy(), start - 0.5 * 2 * start, atol=1e-15)


def test_zero_grad_forgets_or_fills():
    parameters = leaves()
    optimizer = optim.SGD(parameters)
    set_gradients(parameters, 0)
    kept = parameters[0].grad.array
    optimizer.zero_grad(set_to_none=False)
    assert parameters[0].grad.array is kept
    assert not any(parameter.grad.numpy().any() for parameter in parameters)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_ten_steps_on_a_gpu_equal_those_on_the_cpu(name: str, options: dict):
    here = leaves()
    there = [Tensor(to_device(parameter.array, "cuda"), requires_grad=True) for parameter in leaves()]
    optimizers = [getattr(optim, name)(parameters, **options, weight_decay=0.1) for parameters in (here, there)]
    for step in range(STEPS):
        set_gradients(here, step)
        for a, b in zip(here, there, strict=True):
            b.grad = Tensor(to_device(a.grad.array, "cuda"))
        for optimizer in optimizers:
            optimizer.step()
    assert_equal_parameters(here, [parameter.detach().cpu() for parameter in there])


# State


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_a_saved_state_goes_on_bit_for_bit(name: str, options: dict):
    parameters = leaves()
    optimizer = getattr(optim, name)(in_groups(parameters, name), **options)
    train(optimizer, parameters, range(4))
    saved = copy.deepcopy(optimizer.state_dict())
    again = [Tensor(parameter.detach().numpy().copy(), requires_grad=True) for parameter in parameters]
    resumed = getattr(optim, name)(in_groups(again, name), **{**options, "lr": 7.0})
    resumed.load_state_dict(saved)
    train(optimizer, parameters, range(4, 9))
    train(resumed, again, range(4, 9))
    for a, b in zip(parameters, again, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_a_state_has_the_structure_of_pytorchs(name: str, options: dict):
    ours, theirs = leaves(), torch_leaves()
    optimizer = getattr(optim, name)(in_groups(ours, name), **options)
    torch_optimizer = getattr(torch.optim, name)(in_groups(theirs, name), **options)
    train(optimizer, ours, range(2), skip=(1,))
    train(torch_optimizer, theirs, range(2), skip=(1,))
    state, torch_state = optimizer.state_dict(), torch_optimizer.state_dict()
    assert state.keys() == torch_state.keys()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3]]
    for group, torch_group in zip(state["param_groups"], torch_state["param_groups"], strict=True):
        assert group == {key: torch_group[key] for key in group}
    assert state["state"].keys() == torch_state["state"].keys() == {0, 2, 3}
    for index, remembered in state["state"].items():
        assert remembered.keys() == torch_state["state"][index].keys()
        for key, value in remembered.items():
            value = value.numpy() if isinstance(value, Tensor) else value
            np.testing.assert_allclose(value, torch_state["state"][index][key].numpy(), rtol=1e-12)


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_a_state_of_pytorch_can_be_taken_over(name: str, options: dict):
    theirs = torch_leaves()
    torch_optimizer = getattr(torch.optim, name)(theirs, **options)
    train(torch_optimizer, theirs, range(4))
    state = torch_optimizer.state_dict()
    state["state"] = {
        index: {key: Tensor(np.array(value.numpy())) for key, value in remembered.items()}
        for index, remembered in state["state"].items()
    }
    ours = [Tensor(parameter.detach().numpy().copy(), requires_grad=True) for parameter in theirs]
    optimizer = getattr(optim, name)(ours)
    optimizer.load_state_dict(state)
    train(torch_optimizer, theirs, range(4, 8))
    train(optimizer, ours, range(4, 8))
    assert_equal_parameters(ours, theirs)


def test_a_loaded_state_is_a_copy():
    parameters = leaves()
    optimizer = optim.SGD(parameters, momentum=0.9)
    train(optimizer, parameters, range(2))
    saved = optimizer.state_dict()
    resumed = optim.SGD(leaves(), momentum=0.9)
    resumed.load_state_dict(saved)
    before = saved["state"][0]["momentum_buffer"].numpy().copy()
    train(resumed, resumed.param_groups[0]["params"], range(2))
    np.testing.assert_array_equal(saved["state"][0]["momentum_buffer"].numpy(), before)


def state_of(make=optim.SGD, **changes):
    parameters = leaves()
    optimizer = make(parameters, lr=0.1, **({"momentum": 0.9} if make is optim.SGD else {}))
    train(optimizer, parameters, range(1))
    return {**optimizer.state_dict(), **changes}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, '"param_groups"'),
        (state_of(param_groups=[]), "0 parameter groups, the optimizer 1"),
        (state_of(param_groups=[{"params": [0, 1]}]), "2 parameters in the state, 4 in the optimizer"),
        (state_of(optim.Adam), "lacks momentum, dampening, nesterov"),
        (state_of(state={9: {}}), "parameter 9"),
        (state_of(state={0: {"momentum_buffer": Tensor(np.zeros((4, 3)))}}), r"momentum_buffer 0 .*\(4, 3\).*\(3, 4\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(state: dict, message: str):
    optimizer = optim.SGD(leaves(), lr=0.3, momentum=0.9)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert not optimizer.state


# Groups


def test_groups_take_the_defaults_they_do_not_set():
    a, b, c, _ = leaves()
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": iter([c]), "momentum": 0.0})
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [
        (0.1, 0.9),
        (0.5, 0.9),
        (0.1, 0.0),
    ]
    assert all(x is y for x, y in zip((a, b, c), (g["params"][0] for g in optimizer.param_groups), strict=True))


def test_pairs_give_parameters_names():
    a, b, *_ = leaves()
    optimizer = optim.SGD([("weight", a), ("bias", b)])
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["params"][1] is b
    with pytest.raises(ValueError, match="names"):
        optimizer.add_param_group({"params": [leaves()[2]]})


def test_repr_lists_the_options():
    text = repr(optim.SGD(leaves(), lr=0.25))
    assert text.startswith("SGD (\nParameter Group 0\n")
    assert "    lr: 0.25\n" in text


def test_an_optimizer_of_ones_own_needs_only_an_update():
    class SignSGD(optim.Optimizer):
        def __init__(self, params, lr=1e-3):
            super().__init__(params, {"lr": lr})

        def update(self, parameter, gradient, state, options):
            parameter -= options["lr"] * array_module(gradient).sign(gradient)

    (w,) = leaves(shapes=[(3,)])
    start = w.detach().numpy().copy()
    set_gradients([w], 0)
    SignSGD([w], lr=0.5).step()
    np.testing.assert_allclose(w.detach().numpy(), start - 0.5 * np.sign(w.grad.numpy()))


# What is refused


def a_result():
    (w,) = leaves(shapes=[(3,)])
    return w * 2


TWICE = leaves()[0]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ValueError, "empty parameter list"),
        (iter(()), ValueError, "empty parameter list"),
        (leaves()[0], TypeError, r"\[x\] for one Tensor"),
        (object(), TypeError, "model.parameters"),
        ([np.zeros(3)], TypeError, "parameter 0 of group 0 is a ndarray"),
        ([a_result()], ValueError, r"shape \(3,\)\) is not a leaf"),
        ([TWICE, TWICE], ValueError, r"parameter 1 of group 0 \(shape \(3, 4\)\) was given before"),
        ([{"params": [TWICE]}, {"params": [TWICE]}], ValueError, "parameter 0 of group 1"),
        ([{"parameters": [TWICE]}], ValueError, r'"params".*parameters'),
        ([{"params": {TWICE}}], TypeError, "set"),
        ([{"params": [TWICE]}, TWICE], TypeError, "must be a dict"),
        ([("weight", TWICE), leaves()[1]], ValueError, "1 of 2 parameters have names"),
        ([{"params": [TWICE], "lr": -2}], ValueError, "lr .* -2"),
    ],
)
def test_unusable_parameters_are_refused(params, error, message):
    with pytest.raises(error, match=message):
        optim.SGD(params)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"lr": -0.1}, r"lr .* -0\.1"),
        ("SGD", {"momentum": -1}, "momentum .* -1"),
        ("SGD", {"weight_decay": -1e-4}, r"weight_decay .* -0\.0001"),
        ("SGD", {"nesterov": True}, "momentum=0 "),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, r"dampening=0\.1"),
        ("Adam", {"lr": -0.1}, r"lr .* -0\.1"),
        ("Adam", {"eps": -1e-8}, "eps .* -1e-08"),
        ("Adam", {"betas": (1.0, 0.9)}, r"betas .*\(1\.0, 0\.9\)"),
        ("Adam", {"betas": (0.9, -0.1)}, r"betas .*\(0\.9, -0\.1\)"),
        ("AdamW", {"weight_decay": -1}, "weight_decay .* -1"),
    ],
)
def test_options_without_sense_are_refused_here_and_by_pytorch(name: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)(leaves(), **options)
    with pytest.raises(ValueError, match=r"Invalid|Nesterov"):
        getattr(torch.optim, name)(torch_leaves(), **options)


@pytest.mark.parametrize("lr", [math.nan, "fast", None])
def test_a_learning_rate_that_is_no_number_is_refused(lr):
    with pytest.raises(ValueError, match=f"lr .* {lr!r}"):
        optim.SGD(leaves(), lr=lr)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_compiled_steps_equal_array_code_bit_by_bit(name: str, options: dict, dtype: type):
    shapes = [(), (7,), (6, 3, 2, 2), (2, CHUNK), (0, 4)]
    compiled, plain = (leaves(shapes=shapes, dtype=dtype) for _ in range(2))
    train(getattr(optim, name)(compiled, **options), compiled, range(3), dtype=dtype)
    with use_reference():
        train(getattr(optim, name)(plain, **options), plain, range(3), dtype=dtype)
    for a, b in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize("betas", [0.9, (0.9,), "ab", (1, 0.9), None])
def test_betas_are_two_numbers(betas):
    with pytest.raises(ValueError, match="two numbers from 0 to below 1"):
        optim.Adam([Tensor(np.ones(1))], betas=betas)
