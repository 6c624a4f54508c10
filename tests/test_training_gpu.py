"""Training in mixed precision, and on a stand-in for a GPU, where each update is a captured step."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cupy import gpu_in_place_of_cupy
from kernel_cases import needs_compiler

from minires import nn, optim
from minires.autograd import Function
from minires.data import DataLoader, TensorDataset
from minires.device import manual_seed
from minires.training import Checkpoint, Trainer, TrainingError

POINTS = TensorDataset(np.random.default_rng(0).random((24, 3), np.float32) + 0.1, np.arange(24) % 2)


class Overflow(Function):
    """The identity, whose gradient is infinite while ``broken`` is set."""

    broken = False

    def forward(self, x):
        return x.copy()

    def backward(self, dy):
        return dy * float("inf") if self.broken else dy


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.fc2(Overflow()(self.norm(self.fc1(x)).relu()))


def trainer_of(steps=12, momentum=0.9, **options):
    manual_seed(0)
    net = Net().to(options.get("device") or "cpu")
    loader = DataLoader(POINTS, 8, shuffle=True, seed=0)
    losses = []
    optimizer = optim.SGD(net.parameters(), 0.1, momentum)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    trainer = Trainer(
        net, optimizer, loader, steps, scheduler=schedule, on_step=lambda r: losses.append(r.loss), **options
    )
    trainer.losses, trainer.notices = losses, []
    trainer.on_notice = trainer.notices.append
    return trainer


def weights(trainer):
    return [value.cpu().numpy().copy() for value in trainer.model.state_dict().values()]


def same(one, another):
    return all(np.array_equal(a, b) for a, b in zip(one, another, strict=True))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_mixed_precision_follows_float32(half):
    mixed, exact = trainer_of(amp=half), trainer_of()
    for trainer in (mixed, exact):
        trainer.fit()
    assert mixed.losses == pytest.approx(exact.losses, rel=0.05)
    assert mixed.losses != exact.losses
    assert (mixed.scaler is not None) == (half == "float16")
    assert {p.dtype for p in mixed.model.parameters()} == {np.dtype(np.float32)}


def test_a_resumed_run_has_the_loss_scale_it_had(tmp_path):
    whole = trainer_of(amp="float16")
    whole.scaler.growth_interval = 5
    whole.fit()
    first = trainer_of(6, amp="float16")
    first.scaler.growth_interval = 5
    first.fit()
    parts = first.model, first.optimizer, first.scheduler
    Checkpoint.capture(*parts, first.step, scaler=first.scaler).save(tmp_path / "half.safetensors")
    second = trainer_of(amp="float16")
    saved = Checkpoint.load(tmp_path / "half.safetensors")
    saved.restore(second.model, second.optimizer, second.scheduler, second.scaler)
    second.step = saved.step
    second.fit()
    assert second.losses == whole.losses[6:]
    assert same(weights(second), weights(whole))
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    assert second.scaler.get_scale() == 2.0**18


def test_a_step_that_overflows_is_left_out(monkeypatch):
    trainer = trainer_of(1, amp="float16")
    before = [p.detach().numpy().copy() for p in trainer.model.parameters()]
    monkeypatch.setattr(Overflow, "broken", True)
    trainer.fit()
    assert same(before, [p.detach().numpy() for p in trainer.model.parameters()])
    assert trainer.scaler.get_scale() == 2.0**15
    assert trainer.step == 1


def test_gradients_that_always_overflow_end_the_run_and_name_the_operation(monkeypatch):
    monkeypatch.setattr(Overflow, "broken", True)
    trainer = trainer_of(40, amp="float16")
    with pytest.raises(
        TrainingError, match=r"step 17 .*overflow float16 even at a loss scale of 0\.5; .*Overflow"
    ) as caught:
        trainer.fit()
    assert caught.value.op == "Overflow"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="in float16 or bfloat16, got float8"):
        trainer_of(amp="float8")


# On a GPU


@pytest.fixture
def gpu(monkeypatch):
    with gpu_in_place_of_cupy(monkeypatch) as host:
        yield host


@needs_compiler
@pytest.mark.parametrize("half", [None, "bfloat16", "float16"])
def test_updates_are_captured_and_are_those_of_steps_as_written(gpu, half):
    graphed, plain = (trainer_of(device="cuda", amp=half) for _ in range(2))
    plain._may_be_graphed = False
    for trainer in (graphed, plain):
        trainer.fit()
    assert graphed._graphed.is_captured
    assert graphed.losses == plain.losses
    assert same(weights(graphed), weights(plain))
    assert graphed.notices == []


@needs_compiler
def test_gradients_that_always_overflow_end_a_captured_run_too(gpu, monkeypatch):
    trainer = trainer_of(6, device="cuda", amp="float16")
    trainer.fit()
    assert trainer._graphed.is_captured
    trainer.steps = 40
    monkeypatch.setattr(Overflow, "broken", True)
    trainer._graphed = None  # to be captured anew, with the broken one
    with pytest.raises(TrainingError, match=r"overflow float16 even at a loss scale of 0\.5; .*Overflow"):
        trainer.fit()


@needs_compiler
def test_a_model_that_reads_is_not_captured_and_the_run_goes_on(gpu):
    trainers = [trainer_of(device="cuda") for _ in range(2)]
    for trainer in trainers:
        trainer.model.register_forward_hook(lambda module, inputs, output: output * (1 if output.sum().item() else 2))
    trainers[1]._may_be_graphed = False
    for trainer in trainers:
        trainer.fit()
    (notice,) = trainers[0].notices
    assert "cannot be captured: item reads from the GPU" in notice
    assert trainers[0].losses == trainers[1].losses
    assert same(*map(weights, trainers))


@needs_compiler
def test_a_gradient_that_is_not_finite_in_a_replay_ends_the_run_before_it_does_harm(gpu):
    trainer = trainer_of(9, device="cuda", momentum=0.0)
    trainer.fit()
    before = [p.detach().cpu().numpy().copy() for p in trainer.model.parameters()]
    trainer.steps = 10
    trainer.train_loader = DataLoader(TensorDataset(np.full((8, 3), np.nan, np.float32), np.arange(8) % 2), 8)
    trainer.step = 0
    with pytest.raises(TrainingError, match=r"the loss is nan|a gradient is not finite") as caught:
        trainer.fit()
    assert caught.value.op is not None
    assert same(before, [p.detach().cpu().numpy() for p in trainer.model.parameters()])
