"""The loop: it learns, resumes bit for bit, evaluates in eval mode, and stops where numbers end."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from minires import nn
from minires.autograd import Function, Tensor, is_grad_enabled
from minires.data import DataLoader, Shapes, TensorDataset
from minires.data import transforms as T
from minires.device import manual_seed
from minires.models import CifarResNet
from minires.training import Checkpoint, Recipe, RunLog, Trainer, TrainingError, evaluate, recipe_for

TRANSFORM = T.Compose([T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize((0.5,) * 3, (0.25,) * 3)])
RECIPE = Recipe("quick", epochs=3, batch_size=16, learning_rate=0.05, weight_decay=1e-3, nesterov=True)
SHAPES = Shapes(size=64, transform=TRANSFORM)
POINTS = TensorDataset(np.random.default_rng(0).random((20, 3), np.float32) + 0.1, np.arange(20) % 2)


def resnet_trainer(recipe=RECIPE, seed=0, **options):
    manual_seed(seed)
    return trainer_of(CifarResNet(8), SHAPES, recipe, seed, **options)


class WithDropout(nn.Module):
    """Draws random numbers in training, so that a resumed run needs the random state."""

    def __init__(self):
        super().__init__()
        self.fc1, self.dropout, self.fc2 = nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)

    def forward(self, x):
        return self.fc2(self.dropout(self.fc1(x)))


def dropout_trainer(recipe=RECIPE, seed=0, **options):
    manual_seed(seed)
    return trainer_of(WithDropout(), POINTS, recipe, seed, **options)


def trainer_of(net, dataset, recipe, seed=0, **options):
    loader = DataLoader(dataset, recipe.batch_size, shuffle=True, seed=seed)
    optimizer = recipe.optimizer(net.parameters())
    steps = recipe.total_steps(len(loader))
    return Trainer(net, optimizer, loader, steps, scheduler=recipe.scheduler(optimizer, steps), **options)


def state_of(trainer):
    return {name: value.numpy().copy() for name, value in trainer.model.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


MULTI_STEP = Recipe("paper", steps=11, batch_size=16, schedule="multi-step", milestones=(0.5, 0.75), warmup_steps=3)


@pytest.mark.parametrize("stop", [4, 6, 11], ids=["between epochs", "within an epoch", "last step"])
@pytest.mark.parametrize("recipe", [RECIPE, MULTI_STEP], ids=["one-cycle", "multi-step"])
@pytest.mark.parametrize("make", [resnet_trainer, dropout_trainer])
def test_a_resumed_run_is_bit_identical(tmp_path, make, recipe, stop):
    whole = make(recipe)
    whole.steps = min(whole.steps, 12)
    stop = min(stop, whole.steps - 1)
    whole.fit()

    first = make(recipe)
    first.steps = stop
    first.fit()
    Checkpoint.capture(first.model, first.optimizer, first.scheduler, first.step).save(tmp_path / "a.safetensors")

    second = make(recipe, seed=0)
    second.steps = whole.steps
    np.random.default_rng()  # nothing but the checkpoint may matter
    manual_seed(99)
    checkpoint = Checkpoint.load(tmp_path / "a.safetensors")
    checkpoint.restore(second.model, second.optimizer, second.scheduler)
    second.step = checkpoint.step
    second.fit()
    assert_same(state_of(second), state_of(whole))
    assert second.learning_rate == whole.learning_rate


def test_a_seed_repeats_a_run():
    runs = []
    for _ in range(2):
        trainer = resnet_trainer(RECIPE.changed(steps=3))
        trainer.fit()
        runs.append(state_of(trainer))
    assert_same(*runs)


def test_training_learns_by_heart():
    trainer = dropout_trainer(RECIPE.changed(epochs=60, learning_rate=0.5, weight_decay=0.0))
    trainer.model.dropout.p = 0.0
    data = np.random.default_rng(1).standard_normal((20, 3)).astype(np.float32)
    trainer.train_loader.dataset = TensorDataset(data, (data[:, 0] > 0).astype(np.int64))
    assert trainer.fit().train_accuracy == 1.0


def test_reports():
    steps, epochs = [], []
    trainer = resnet_trainer(
        RECIPE.changed(steps=6), on_step=steps.append, on_epoch=epochs.append, test_loader=DataLoader(SHAPES, 32)
    )
    last = trainer.fit()
    assert [(s.step, s.epoch, s.images) for s in steps] == [(n, 1 + (n > 4), 16) for n in range(1, 7)]
    assert [(e.epoch, e.step) for e in epochs] == [(1, 4), (2, 6)]
    assert last is epochs[-1]
    assert epochs[0].train_loss == pytest.approx(np.mean([s.loss for s in steps[:4]]))
    assert trainer.best_accuracy == max(e.test.accuracy for e in epochs)
    assert trainer.epochs == 2
    assert trainer.fit() is None


class Watcher(nn.Module):
    """Answers class 0 and remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(3, 2), []

    def forward(self, x):
        self.calls.append((self.training, self.layer.training, is_grad_enabled()))
        return Tensor(np.tile(np.float32([[1.0, 0.0]]), (len(x), 1)))


@pytest.mark.parametrize("training", [True, False])
def test_evaluate(training):
    net = Watcher().train(training)
    result = evaluate(net, DataLoader(POINTS, 8))
    assert set(net.calls) == {(False, False, False)}
    assert net.training is training
    assert (result.accuracy, result.images) == (0.5, 20)
    correct, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert result.loss == pytest.approx((correct + wrong) / 2, rel=1e-5)


def test_evaluate_nothing():
    with pytest.raises(ValueError, match="no images"):
        evaluate(Watcher(), [])


def test_train_on_nothing():
    net = WithDropout()
    with pytest.raises(ValueError, match="nothing to train on"):
        Trainer(net, RECIPE.optimizer(net.parameters()), [], 1)


class Log(nn.Module):
    """log(x) before a linear layer: NaN where x is negative."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x.log())


class Explosive(Function):
    """x -> x, with a gradient that is infinite where x is 0."""

    def forward(self, x):
        self.save(x)
        return x.copy()

    def backward(self, dy):
        (x,) = self.saved
        return Tensor(np.where(x.array == 0, np.float32(np.inf), dy.array))


class WithExplosive(nn.Module):
    """The loss stays finite, the gradient does not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(Tensor(np.ones((1, 2), np.float32)))

    def forward(self, x):
        return Explosive()(x[:, :1] * self.weight)


def points_with(value, at):
    points = np.random.default_rng(0).random((20, 3), np.float32) + 0.1
    points[at] = value
    return TensorDataset(points, np.arange(20) % 2)


@pytest.mark.parametrize(
    ("net", "value", "op", "message"),
    [
        (Log, -1.0, "Log", "the loss is nan; Log made NaN in its forward pass"),
        (Log, np.nan, "Log", "NaN entered Log"),
        (WithExplosive, 0.0, "Explosive", "a gradient is not finite; Explosive made Inf in its backward pass"),
    ],
)
def test_nan_names_the_op_and_the_step(net, value, op, message):
    model = net()
    loader = DataLoader(points_with(value, 13), 5)  # in the third batch
    trainer = Trainer(model, RECIPE.optimizer(model.parameters()), loader, 8)
    with pytest.raises(TrainingError, match=message) as caught:
        trainer.fit()
    assert (caught.value.step, caught.value.op, trainer.step) == (3, op, 2)
    assert "step 3 (epoch 1)" in str(caught.value)
    assert "learning rate" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.parameters())


def test_divergence_is_stopped():
    trainer = resnet_trainer(RECIPE.changed(learning_rate=1e30, epochs=10))
    with pytest.raises(TrainingError, match="training stopped at step"):
        trainer.fit()


def test_a_loss_that_is_nan_only_once():
    net = WithDropout()
    answers = iter([np.nan])

    def loss_fn(logits, targets):
        return nn.functional.cross_entropy(logits, targets) + next(answers, 0.0)

    loader = DataLoader(POINTS, 5)
    trainer = Trainer(net, RECIPE.optimizer(net.parameters()), loader, 8, loss_fn=loss_fn)
    with pytest.raises(TrainingError, match="did not show where"):
        trainer.fit()


# Recipes


def rates_of(recipe, steps):
    optimizer = recipe.optimizer([nn.Parameter(Tensor(np.zeros(1, np.float32)))])
    scheduler = recipe.scheduler(optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_paper_recipe():
    recipe = recipe_for("paper", "cifar10", "resnet20")
    optimizer = recipe.optimizer([nn.Parameter(Tensor(np.zeros(1, np.float32)))])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], recipe.batch_size) == (0.1, 0.9, 1e-4, 128)
    assert recipe.total_steps(390) == 64_000
    rates = rates_of(recipe, 64_000)
    boundaries = [rates[at] for at in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert boundaries == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("model", ["resnet110", "resnet1202", "plain110"])
def test_deep_nets_warm_up(model):
    rates = rates_of(recipe_for("paper", "cifar10", model), 64_000)
    boundaries = [rates[at] for at in (0, 399, 400, 31_999, 32_000, 48_000)]
    assert boundaries == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.001])


def test_a_shorter_paper_run_keeps_its_proportions():
    rates = rates_of(recipe_for("paper", "cifar10", "resnet20").changed(steps=100), 100)
    assert [rates[at] for at in (49, 50, 74, 75)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_quick_recipe_rises_and_falls():
    recipe = recipe_for("quick", "shapes", "resnet20")
    rates = rates_of(recipe, 200)
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=1e-3)
    assert 40 < int(np.argmax(rates)) < 80
    assert rates[-1] < recipe.learning_rate / 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2, "steps": 3}, "not both"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": -1.0}, "learning rate must be a positive number, got -1"),
        ({"learning_rate": math.nan}, "learning rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1e-4}, "weight decay"),
        ({"schedule": "cosine"}, "one-cycle, multi-step"),
    ],
)
def test_recipe_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.changed(**changes)


def test_unknown_recipe():
    with pytest.raises(ValueError, match="quick, paper"):
        recipe_for("papre", "cifar10", "resnet20")


def test_steps_replace_epochs_and_the_other_way_round():
    assert (RECIPE.changed(steps=5).total_steps(4), RECIPE.changed(steps=5).changed(epochs=2).total_steps(4)) == (5, 8)


# The log

RECORDS = [{"epoch": 1, "loss": 0.1 + 0.2, "test": None}, {"epoch": 2, "loss": math.nan, "test": 0.5}]


def test_csv_log(tmp_path):
    for record in RECORDS:  # a run taken up again opens the log anew
        RunLog(tmp_path / "log.csv").write(record)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert rows == [
        {"epoch": "1", "loss": "0.30000000000000004", "test": ""},
        {"epoch": "2", "loss": "nan", "test": "0.5"},
    ]


def test_jsonl_log(tmp_path):
    for record in RECORDS:
        RunLog(tmp_path / "log.jsonl").write(record)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [RECORDS[0], {"epoch": 2, "loss": None, "test": 0.5}]


def test_a_log_of_another_ending(tmp_path):
    with pytest.raises(ValueError, match=r"\.csv or \.jsonl"):
        RunLog(tmp_path / "log.txt")
