"""Schedules against ``torch.optim.lr_scheduler``: 60 steps of each, chained, in sequence and resumed."""

from __future__ import annotations

import copy
import functools
import json
import math
import re

import numpy as np
import pytest
import torch

from minires import optim
from minires.autograd import Tensor
from minires.optim import lr_scheduler
from minires.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, SequentialLR, StepLR, warmup_cosine

STEPS = 60


class Ours:
    optim, schedules = optim, lr_scheduler

    @staticmethod
    def leaf():
        return Tensor(np.zeros(2), requires_grad=True)


class Theirs:
    optim, schedules = torch.optim, torch.optim.lr_scheduler

    @staticmethod
    def leaf():
        return torch.zeros(2, dtype=torch.float64, requires_grad=True)


def make_optimizer(library, name: str = "SGD", **options):
    groups = [{"params": [library.leaf()]}, {"params": [library.leaf()], "lr": 0.02}]
    return getattr(library.optim, name)(groups, **{"lr": 0.1, **options})


def single(name: str, *arguments, **options):
    """How to make one schedule with either library."""

    def make(library, optimizer):
        return getattr(library.schedules, name)(optimizer, *arguments, **options)

    # A function's repr holds its address, which differs between the processes that share the tests out.
    label = re.sub(r"<function <lambda> at \w+>", "lambda", f"{name}{arguments or ''}{options or ''}")
    return pytest.param(make, id=label)


def sequence(milestones, *parts):
    def make(library, optimizer):
        return library.schedules.SequentialLR(
            optimizer, [part.values[0](library, optimizer) for part in parts], milestones=milestones
        )

    return pytest.param(make, id="-".join(str(part.id) for part in parts))


def values_of(library, make_all, steps: int = STEPS, optimizer=None) -> list[list[float]]:
    """The learning rate of each group, and what OneCycleLR cycles, before each step and after the last."""
    optimizer = optimizer or make_optimizer(library)
    schedulers = [make(library, optimizer) for make in make_all]
    values = []
    for step in range(steps + 1):
        values.append([number for group in optimizer.param_groups for number in (group["lr"], momentum_of(group))])
        assert schedulers[-1].get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        if step < steps:
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
    return values


def momentum_of(group) -> float:
    return group["momentum"] if "momentum" in group else group["betas"][0]


def assert_equals_pytorch(make_all, steps: int = STEPS, **options):
    ours = values_of(Ours, make_all, steps, make_optimizer(Ours, **options))
    theirs = values_of(Theirs, make_all, steps, make_optimizer(Theirs, **options))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-16)


RELATIVE = [
    single("StepLR", 7),
    single("StepLR", step_size=1, gamma=0.9),
    single("StepLR", 100),
    single("MultiStepLR", [10, 20, 45], gamma=0.3),
    single("MultiStepLR", [30, 5, 30]),
    single("MultiStepLR", []),
    single("MultiStepLR", [0, 3]),
    single("ExponentialLR", 0.95),
    single("ExponentialLR", gamma=1.01),
    single("ConstantLR"),
    single("ConstantLR", factor=0.1, total_iters=20),
    single("ConstantLR", factor=0.5, total_iters=0),
    single("LinearLR"),
    single("LinearLR", start_factor=0.01, total_iters=25),
    single("LinearLR", start_factor=1.0, end_factor=0.1, total_iters=50),
    single("LinearLR", start_factor=0.5, end_factor=0.0, total_iters=10),
    single("LinearLR", total_iters=0),
    single("CosineAnnealingLR", 60),
    single("CosineAnnealingLR", 13, eta_min=0.005),
    single("CosineAnnealingLR", T_max=1),
    single("CosineAnnealingLR", T_max=7),
]
ABSOLUTE = [
    single("LambdaLR", lambda epoch: 0.9**epoch),
    single("LambdaLR", [lambda epoch: 1 / (1 + epoch), lambda epoch: math.cos(epoch)]),
    single("OneCycleLR", 0.5, total_steps=STEPS),
    single("OneCycleLR", [0.5, 0.1], epochs=6, steps_per_epoch=10),
    single("OneCycleLR", 0.5, total_steps=70, pct_start=0.5, anneal_strategy="linear"),
    single("OneCycleLR", 0.5, total_steps=STEPS, three_phase=True),
    single("OneCycleLR", 0.5, total_steps=STEPS, three_phase=True, anneal_strategy="linear", pct_start=0.25),
    single("OneCycleLR", 0.5, total_steps=STEPS, base_momentum=[0.7, 0.8], max_momentum=0.9),
    single("OneCycleLR", 0.5, total_steps=STEPS, cycle_momentum=False),
    single("OneCycleLR", 0.5, total_steps=STEPS, div_factor=10, final_div_factor=100, pct_start=0.1),
    single("OneCycleLR", 0.5, total_steps=STEPS, pct_start=0.0),
]
SEQUENCES = [
    sequence([20], single("ConstantLR", factor=0.1, total_iters=20), single("ExponentialLR", 0.9)),
    sequence([10], single("LinearLR", start_factor=0.01, total_iters=10), single("CosineAnnealingLR", 50)),
    sequence([5, 30], single("LinearLR"), single("StepLR", 4), single("CosineAnnealingLR", 11, eta_min=0.001)),
    sequence([8], single("ExponentialLR", 0.5), single("LinearLR", start_factor=0.2, total_iters=6)),
    sequence([8], single("StepLR", 3), single("ConstantLR", factor=0.3, total_iters=4)),
    sequence([8], single("StepLR", 3), single("LambdaLR", lambda epoch: 1 / (1 + epoch))),
    sequence([8], single("MultiStepLR", [2, 4]), single("MultiStepLR", [2, 4])),
    sequence([], single("StepLR", 3)),
]


@pytest.mark.parametrize("make", [*RELATIVE, *ABSOLUTE, *SEQUENCES])
def test_every_learning_rate_equals_pytorchs(make):
    assert_equals_pytorch([make])


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_one_cycle_moves_beta1_of_adam(name: str):
    assert_equals_pytorch([single("OneCycleLR", 0.5, total_steps=STEPS).values[0]], name=name)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_short_one_cycle_equals_pytorchs(steps: int):
    assert_equals_pytorch([single("OneCycleLR", 0.5, total_steps=steps).values[0]], steps=steps)


@pytest.mark.parametrize("first", [0, 3, 7, 11, 13, 17])
@pytest.mark.parametrize("second", [2, 5, 8, 14, 18])
def test_two_chained_schedules_multiply_as_in_pytorch(first: int, second: int):
    assert_equals_pytorch([RELATIVE[first].values[0], RELATIVE[second].values[0]])


def test_three_chained_schedules_multiply_as_in_pytorch():
    assert_equals_pytorch([RELATIVE[index].values[0] for index in (3, 8, 18)])


@pytest.mark.parametrize("make", [*RELATIVE, *ABSOLUTE, *SEQUENCES])
@pytest.mark.parametrize("at", [1, 8, 29])
def test_a_saved_state_goes_on_where_it_was(make, at: int):
    whole = values_of(Ours, [make])
    optimizer = make_optimizer(Ours)
    scheduler = make(Ours, optimizer)
    for _ in range(at):
        optimizer.step()
        scheduler.step()
    saved, saved_optimizer = scheduler.state_dict(), copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    scheduler.step()  # what was saved must not go on with it
    resumed_optimizer = make_optimizer(Ours)
    resumed = make(Ours, resumed_optimizer)
    resumed_optimizer.load_state_dict(saved_optimizer)
    resumed.load_state_dict(json.loads(json.dumps(saved)))  # nothing but numbers, lists and names
    for expected in whole[at:]:
        values = [n for group in resumed_optimizer.param_groups for n in (group["lr"], momentum_of(group))]
        assert values == expected
        assert resumed.get_last_lr() == expected[::2]
        if expected is not whole[-1]:
            resumed_optimizer.step()
            resumed.step()


class GoingOn:
    """A library whose schedules go on after epoch 9."""

    def __init__(self, library):
        self.modules = library.schedules
        self.schedules = self

    def __getattr__(self, name):
        return functools.partial(getattr(self.modules, name), last_epoch=9)


@pytest.mark.parametrize("make", [*RELATIVE, *ABSOLUTE])
def test_last_epoch_goes_on_as_in_pytorch(make):
    values = []
    for library in (Ours, Theirs):
        optimizer = make_optimizer(library, momentum=0.9)
        scheduler = make(library, optimizer)
        for _ in range(9):
            optimizer.step()
            scheduler.step()
        values.append(values_of(GoingOn(library), [make], 20, optimizer))
    np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-16)


# Warm-up and cosine


def test_warmup_cosine_by_its_formula():
    optimizer = optim.SGD([Ours.leaf()], lr=0.4)
    scheduler = warmup_cosine(optimizer, warmup_steps=10, total_steps=50, start_factor=0.1, eta_min=0.02)
    for step in range(51):
        if step < 10:
            expected = 0.4 * (0.1 + 0.9 * step / 10)
        else:
            expected = 0.02 + (0.4 - 0.02) * (1 + math.cos(math.pi * (step - 10) / 40)) / 2
        assert scheduler.get_last_lr()[0] == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_warmup_cosine_without_warmup_is_the_cosine():
    ours = values_of(Ours, [lambda library, optimizer: warmup_cosine(optimizer, 0, 30, eta_min=0.001)], 30)
    cosine = single("CosineAnnealingLR", 30, eta_min=0.001).values[0]
    assert ours == values_of(Ours, [cosine], 30)


@pytest.mark.parametrize(("warmup", "total"), [(-1, 10), (10, 10), (0, 0)])
def test_warmup_cosine_needs_steps_after_the_warmup(warmup: int, total: int):
    with pytest.raises(ValueError, match="steps"):
        warmup_cosine(make_optimizer(Ours), warmup, total)


# What a schedule is


def test_a_schedule_of_ones_own_needs_only_get_lr():
    class Halving(LRScheduler):
        def get_lr(self):
            return [base / 2**self.last_epoch for base in self.base_lrs]

    values = values_of(Ours, [lambda library, optimizer: Halving(optimizer)], 3)
    np.testing.assert_allclose([value[0] for value in values], [0.1, 0.05, 0.025, 0.0125])


def test_sequences_nest():
    def nested(library, optimizer):
        step, exponential = StepLR(optimizer, 2), StepLR(optimizer, 1, gamma=0.5)
        inner = SequentialLR(optimizer, [exponential, StepLR(optimizer, 100)], [3])
        return SequentialLR(optimizer, [step, inner], [5])

    lrs = [value[0] for value in values_of(Ours, [nested], 10)]
    expected = [0.1, 0.1, 0.01, 0.01, 0.001, 0.1, 0.05, 0.025, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(lrs, expected, rtol=1e-12)


def test_a_callable_object_is_saved_with_its_attributes():
    class Decay:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, epoch):
            return self.rate**epoch

    saved = LambdaLR(make_optimizer(Ours), Decay(0.5)).state_dict()
    resumed = LambdaLR(make_optimizer(Ours), Decay(0.9))
    resumed.load_state_dict(saved)
    assert [function.rate for function in resumed.lr_lambdas] == [0.5, 0.5]


def test_stepping_the_schedule_before_the_optimizer_warns_as_pytorch_does():
    for library, pattern in ((Ours, "step the optimizer first"), (Theirs, "before `optimizer.step")):
        scheduler = library.schedules.StepLR(make_optimizer(library), 3)
        with pytest.warns(UserWarning, match=pattern):
            scheduler.step()
        scheduler.step()


def test_a_group_added_afterwards_is_noticed():
    optimizer = make_optimizer(Ours)
    scheduler = StepLR(optimizer, 3)
    optimizer.add_param_group({"params": [Ours.leaf()]})
    optimizer.step()
    with pytest.raises(RuntimeError, match="2 parameter groups, the optimizer now has 3"):
        scheduler.step()


def test_a_one_cycle_ends():
    optimizer = make_optimizer(Ours)
    scheduler = OneCycleLR(optimizer, 0.5, total_steps=3)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match="made for 3 steps and cannot take step 4"):
        scheduler.step()


def test_a_one_cycle_without_a_rise_starts_at_the_top():
    """Where a phase has no length PyTorch divides by zero."""
    assert OneCycleLR(make_optimizer(Ours), 0.5, total_steps=10, pct_start=0.1).get_last_lr() == [0.5, 0.5]


def test_a_one_cycle_without_a_fall_ends_at_the_bottom():
    make = single("OneCycleLR", 0.5, total_steps=10, pct_start=1.0, cycle_momentum=False).values[0]
    lrs = [value[0] for value in values_of(Ours, [make], 10)]
    assert lrs[9] == 0.5
    assert lrs[10] == pytest.approx(0.5 / 25 / 1e4)


# What is refused


class NoMomentum(optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})


REFUSED = [
    ("StepLR", (0,), ValueError, "step_size .* 0"),
    ("StepLR", (2.5,), ValueError, r"step_size .* 2\.5"),
    ("MultiStepLR", ([10.5],), ValueError, r"\[10\.5\]"),
    ("CosineAnnealingLR", (-3,), ValueError, "T_max .* -3"),
    ("ConstantLR", (1.5,), ValueError, r"factor .* 1\.5"),
    ("ConstantLR", (0,), ValueError, "factor .* 0"),
    ("LinearLR", (0,), ValueError, "start_factor .* 0"),
    ("LinearLR", (0.5, 1.5), ValueError, r"end_factor .* 1\.5"),
    ("LambdaLR", ([abs],), ValueError, "1 functions for 2 parameter groups"),
    ("OneCycleLR", (0.1,), ValueError, "total_steps"),
    ("OneCycleLR", (0.1, 0), ValueError, "total_steps .* 0"),
    ("OneCycleLR", (0.1, None, 3), ValueError, "steps_per_epoch"),
    ("OneCycleLR", (0.1, None, 3, -1), ValueError, "steps_per_epoch .* -1"),
    ("OneCycleLR", ([0.1], 10), ValueError, "max_lr has 1 values for 2"),
    ("OneCycleLR", (0.1, 10, None, None, 1.5), ValueError, r"pct_start .* 1\.5"),
    ("OneCycleLR", (0.1, 10, None, None, 0.3, "sine"), ValueError, "'sine'"),
    ("SequentialLR", ([], []), ValueError, "no schedule"),
]


@pytest.mark.parametrize(("name", "arguments", "error", "message"), REFUSED)
def test_options_without_sense_are_refused(name: str, arguments: tuple, error, message: str):
    with pytest.raises(error, match=message):
        getattr(lr_scheduler, name)(make_optimizer(Ours), *arguments)


@pytest.mark.parametrize(
    ("milestones", "message"), [([], "2 schedules need 1 milestones"), ([1, 2], "got 2"), ([-1], r"rise .* \[-1\]")]
)
def test_milestones_must_fit_the_schedules(milestones: list, message: str):
    optimizer = make_optimizer(Ours)
    with pytest.raises(ValueError, match=message):
        SequentialLR(optimizer, [StepLR(optimizer, 1), StepLR(optimizer, 1)], milestones)


def test_a_sequence_takes_schedules_of_its_own_optimizer():
    optimizer = make_optimizer(Ours)
    with pytest.raises(ValueError, match="schedule 0 belongs to another optimizer"):
        SequentialLR(optimizer, [StepLR(make_optimizer(Ours), 1)], [])
    with pytest.raises(TypeError, match="schedule 0 is a str"):
        SequentialLR(optimizer, ["StepLR"], [])


@pytest.mark.parametrize("name", ["StepLR", "LambdaLR", "OneCycleLR"])
def test_a_schedule_needs_an_optimizer(name: str):
    with pytest.raises(TypeError, match="needs an Optimizer, got list"):
        getattr(lr_scheduler, name)([], 3)


def test_one_cycle_needs_a_momentum_to_cycle():
    with pytest.raises(ValueError, match=r"NoMomentum .*cycle_momentum=False"):
        OneCycleLR(NoMomentum([Ours.leaf()]), 0.1, total_steps=10)
    OneCycleLR(NoMomentum([Ours.leaf()]), 0.1, total_steps=10, cycle_momentum=False)


def test_last_epoch_needs_the_optimizers_state():
    with pytest.raises(KeyError, match=r"last_epoch=4 .* group 0"):
        StepLR(make_optimizer(Ours), 3, last_epoch=4)


@pytest.mark.parametrize(
    "make",
    [single("StepLR", 3), single("LambdaLR", abs), sequence([2], single("StepLR", 3), single("LinearLR"))],
)
def test_the_state_of_another_schedule_is_refused_and_nothing_changes(make):
    optimizer = make_optimizer(Ours)
    scheduler = make(Ours, optimizer)
    before = scheduler.state_dict()
    state = lr_scheduler.CosineAnnealingLR(make_optimizer(Ours), 5).state_dict()
    with pytest.raises(ValueError, match=r"not the state of a .* unknown"):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before


def test_a_sequence_refuses_the_states_of_other_schedules():
    optimizer = make_optimizer(Ours)
    scheduler = SequentialLR(optimizer, [StepLR(optimizer, 1), StepLR(optimizer, 2)], [5])
    other = SequentialLR(optimizer, [StepLR(optimizer, 1), lr_scheduler.ExponentialLR(optimizer, 0.5)], [7])
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match=r"StepLR: missing .*step_size"):
        scheduler.load_state_dict(other.state_dict())
    assert scheduler.state_dict() == before
