"""GraphedStep, captured and replayed on a stand-in for a GPU that refuses what CuPy and CUDA refuse."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_cupy import Forbidden, gpu_in_place_of_cupy, tape
from kernel_cases import needs_compiler, normal

import minires
import minires.nn.functional as F
from minires import Tensor, amp, models, nn, optim
from minires.cuda import CaptureError, GraphedStep
from minires.data import DataLoader, Shapes, dataset_info
from minires.data.on_device import batches_for, on_device
from minires.kernels.capture import is_capturing

pytestmark = needs_compiler


@pytest.fixture
def gpu(monkeypatch):
    with gpu_in_place_of_cupy(monkeypatch) as host:
        yield host
    assert not tape.is_on()
    assert not is_capturing()


def small_net():
    """A stem, pooling, a block with a shortcut of zeros and a classifier."""
    minires.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        models.BasicBlock(4, 8, 2, models.shortcuts.PadShortcut(4, 8, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def batch(step, size=4):
    images = Tensor(normal(size, 3, 8, 8, seed=step, dtype=np.float32))
    return images.to("cuda"), Tensor((np.arange(size) + step) % 5).to("cuda")


class Eager:
    """The same step as it is written."""

    def __init__(self, model, loss, optimizer):
        self.model, self.loss, self.optimizer = model, loss, optimizer

    def __call__(self, images, targets):
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, 0.1),
    "momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "Adam": lambda p: optim.Adam(p, 0.01, weight_decay=1e-2),
    "AdamW": lambda p: optim.AdamW(p, 0.01, amsgrad=True),
}


def run(make_step, make_optimizer, steps=6, loss=F.cross_entropy, batches=batch, half=None):
    """Losses, and all that the steps leave in model and optimizer. The learning rate falls in each step."""
    net = small_net().to("cuda")
    optimizer = make_optimizer(net.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    step = make_step(net, loss, optimizer)
    losses = []
    for number in range(steps):
        with amp.autocast("cuda", half, enabled=half is not None):
            losses.append(step(*batches(number)).item())
        schedule.step()
    remembered = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    values = [*net.state_dict().values(), *(p.grad for p in net.parameters()), *remembered]
    return step, losses, [v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in values]


def assert_same(one, another):
    assert one[1] == another[1]
    assert len(set(one[1])) == len(one[1])  # something was learned
    for a, b in zip(one[2], another[2], strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_replayed_step_equals_the_one_that_is_written(gpu, name):
    graphed, eager = run(GraphedStep, OPTIMIZERS[name]), run(Eager, OPTIMIZERS[name])
    assert graphed[0].is_captured
    assert_same(graphed, eager)


@pytest.mark.parametrize("half", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_mixed_precision_can_be_captured(gpu, half):
    graphed, eager = (run(kind, OPTIMIZERS["momentum"], half=half) for kind in (GraphedStep, Eager))
    assert graphed[0].is_captured
    assert_same(graphed, eager)


class EagerScaled:
    """A step with a loss scale as it is written."""

    def __init__(self, model, loss, optimizer, scaler):
        self.model, self.loss, self.optimizer, self.scaler = model, loss, optimizer, scaler

    def __call__(self, images, targets):
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), targets)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()


def scaled(kind, scales, **options):
    """A step of a kind with a loss scale, whose values are put down in ``scales``."""
    scaler = amp.GradScaler(**{"init_scale": 2.0**26, "growth_interval": 3, **options})

    def make(*parts):
        step = kind(*parts, scaler)

        def call(*batch):
            loss = step(*batch)
            scales.append(scaler.get_scale())
            return loss

        call.step = step
        return call

    return make


UNEVEN = {"init_scale": 3.7e7, "backoff_factor": 0.3, "growth_factor": 9.1}


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdamW", UNEVEN), *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("SGD", "momentum", "Adam"))],
)
def test_a_loss_scale_follows_that_of_steps_as_written(gpu, name, options):
    scales, expected = [], []
    graphed = run(scaled(GraphedStep, scales, **options), OPTIMIZERS[name], 16, half="float16")
    eager = run(scaled(EagerScaled, expected, **options), OPTIMIZERS[name], 16, half="float16")
    assert graphed[0].step.is_captured
    assert scales == expected
    captured = scales[8:]  # it shrinks and grows in replays too
    assert any(a > b for a, b in itertools.pairwise(captured))
    assert any(a < b for a, b in itertools.pairwise(captured))
    assert graphed[1] == eager[1]
    assert all(np.array_equal(a, b) for a, b in zip(graphed[2], eager[2], strict=True))
    assert graphed[0].step.optimizer.step_calls == 16


def test_a_scaler_that_is_not_enabled_scales_nothing(gpu):
    net = small_net().to("cuda")
    optimizer = optim.SGD(net.parameters(), 0.1)
    assert GraphedStep(net, F.cross_entropy, optimizer, amp.GradScaler(enabled=False)).scaler is None


def test_a_loss_in_16_bits_cannot_be_captured_with_a_scale(gpu):
    def loss(output, targets):
        return (output * output)[0, 0]  # under autocast a float16

    with pytest.raises(CaptureError, match=r"needs the loss and all gradients in float32.*got float16, float32"):
        run(scaled(GraphedStep, [], init_scale=2.0), OPTIMIZERS["SGD"], loss=loss, half="float16")


def test_a_step_of_resnet20_makes_no_call_that_a_capture_forbids(gpu):
    minires.manual_seed(0)
    net = models.resnet20().to("cuda")
    step = GraphedStep(net, nn.CrossEntropyLoss(label_smoothing=0.1), optim.SGD(net.parameters(), 0.1, momentum=0.9))
    for number in range(3):
        step(*batch(number, 2))
    assert step.is_captured


def test_nothing_is_done_while_a_step_is_captured(gpu):
    graphed, _, _ = run(GraphedStep, OPTIMIZERS["Adam"], steps=2)
    before = [p.detach().cpu().numpy() for p in graphed.model.parameters()]
    captured = graphed._capture(*batch(2))
    for old, parameter in zip(before, graphed.model.parameters(), strict=True):
        assert np.array_equal(old, parameter.detach().cpu().numpy())
    assert captured.graph.operations


def test_a_batch_of_another_shape_is_run_as_written(gpu):
    def batches(step):
        return batch(step, 3 if step == 4 else 4)

    graphed, eager = (run(kind, OPTIMIZERS["momentum"], 7, batches=batches) for kind in (GraphedStep, Eager))
    assert_same(graphed, eager)


def test_other_modes_are_run_as_written(gpu):
    step, _, _ = run(GraphedStep, OPTIMIZERS["SGD"], 4)
    launches = len(gpu.launches)
    step.model.eval()
    step(*batch(4))
    assert len(gpu.launches) > launches
    mean = step.model[1].running_mean.cpu().numpy().copy()
    step(*batch(5))
    assert np.array_equal(step.model[1].running_mean.cpu().numpy(), mean)


def test_a_step_that_is_not_finite_changes_no_parameter(gpu):
    def batches(step):
        images, targets = batch(step)
        return (images * float("inf") if step == 4 else images), targets

    step, _, _ = run(GraphedStep, OPTIMIZERS["momentum"], steps=4, batches=batches)
    before = [p.detach().cpu().numpy().copy() for p in step.model.parameters()]
    assert not bool(step.found_inf)
    assert np.isnan(step(*batches(4)).item())
    assert bool(step.found_inf)
    for old, parameter in zip(before, step.model.parameters(), strict=True):
        assert np.array_equal(old, parameter.detach().cpu().numpy())
        assert np.isfinite(step.optimizer.state[parameter]["momentum_buffer"].cpu().numpy()).all()


def test_the_output_is_that_of_the_step(gpu):
    step, _, _ = run(GraphedStep, lambda p: optim.SGD(p, 0.0), 5)
    images, _ = batch(4)
    with minires.no_grad():
        np.testing.assert_array_equal(step.output.cpu().numpy(), step.model(images).cpu().numpy())


def test_batches_may_arrive_in_another_thread_while_a_step_is_captured(gpu):
    dataset = Shapes(size=8, transform=dataset_info("shapes").transform(True))
    expected = [images.numpy() for images, _ in DataLoader(dataset, 4, seed=0)]
    arrived = []

    def fetch():
        moved = on_device(batches_for(DataLoader(dataset, 4, seed=0), "cuda"), "cuda")
        return [images.cpu().numpy() for images, _ in moved]

    def during_capture(module, inputs):
        if is_capturing():
            with ThreadPoolExecutor(1) as pool:
                arrived.extend(pool.submit(fetch).result())

    net = small_net().to("cuda")
    net.register_forward_pre_hook(during_capture)
    step = GraphedStep(net, F.cross_entropy, OPTIMIZERS["SGD"](net.parameters()))
    for number in range(4):
        step(*batch(number))
    assert step.is_captured
    assert len(arrived) == len(expected) == 2
    assert all(np.array_equal(a, b) for a, b in zip(arrived, expected, strict=True))


# What cannot be captured


class Reading(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        out = self.net(x)
        return out * 2 if out.sum().item() > 0 else out


def test_a_step_that_reads_from_the_gpu_is_refused_and_nothing_has_changed(gpu):
    net = Reading(small_net()).to("cuda")
    optimizer = optim.Adam(net.parameters())
    step = GraphedStep(net, F.cross_entropy, optimizer)
    for number in range(2):
        step(*batch(number))
    before = [v.detach().cpu().numpy().copy() for v in net.state_dict().values()]
    with pytest.raises(CaptureError, match="cannot be captured: item reads from the GPU while a stream is captured"):
        step(*batch(2))
    assert all(np.array_equal(a, b.cpu().numpy()) for a, b in zip(before, net.state_dict().values(), strict=True))
    assert {state["step"] for state in optimizer.state.values()} == {2}
    Eager(net, F.cross_entropy, optimizer)(*batch(2))
    assert {state["step"] for state in optimizer.state.values()} == {3}


def test_a_model_that_draws_random_numbers_is_refused(gpu):
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 5)).to("cuda")
    step = GraphedStep(net, F.cross_entropy, optim.SGD(net.parameters(), 0.1))
    for number in range(2):
        step(*batch(number))
    with pytest.raises(CaptureError, match="it draws random numbers, which a replay would repeat"):
        step(*batch(2))
    Eager(net, F.cross_entropy, step.optimizer)(*batch(2))


def test_an_optimizer_in_array_code_is_refused(gpu):
    class Plain(optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        def update(self, parameter, gradient, state, options):
            parameter -= options["lr"] * gradient

    with pytest.raises(CaptureError, match="Plain updates 12 of 12 parameters by array code"):
        run(GraphedStep, Plain)


def test_an_optimizer_that_has_changed_is_refused(gpu):
    step, _, _ = run(GraphedStep, OPTIMIZERS["momentum"], 4)
    step.optimizer.param_groups[0]["nesterov"] = False
    with pytest.raises(CaptureError, match=r"does not do what was captured.*make a new GraphedStep"):
        step(*batch(4))
    step.optimizer.param_groups[0]["nesterov"] = True
    step.optimizer.param_groups[0]["params"] = []
    with pytest.raises(CaptureError, match="does not do what was captured"):
        step(*batch(4))


def test_a_model_on_the_cpu_is_refused(gpu):
    net = small_net()
    with pytest.raises(ValueError, match=r'needs a model on one GPU, this one has cpu: use model.to\("cuda"\)'):
        GraphedStep(net, F.cross_entropy, optim.SGD(net.parameters()))
    with pytest.raises(ValueError, match="this one has no parameters"):
        GraphedStep(nn.ReLU(), F.cross_entropy, optim.SGD(net.parameters()))


# The stand-in itself: what it must refuse


def test_the_stand_in_refuses_what_a_capture_forbids(gpu):
    cupy = __import__("cupy")
    x, host = cupy.ones((3, 3)), np.ones((3, 3))
    stream = cupy.cuda.Stream()
    stream.begin_capture()
    try:
        for forbidden in (
            lambda: bool(x.any()),
            lambda: float(x.sum()),
            lambda: x[0, 0].item(),
            lambda: x.get(),
            lambda: x @ x,
            lambda: cupy.matmul(x, x),
            lambda: cupy.dot(x, x),
            lambda: x[x > 0],
            lambda: cupy.asarray(host),
            stream.synchronize,
        ):
            with pytest.raises(Forbidden):
                forbidden()
        with pytest.raises(TypeError, match="NumPy array among arrays of the GPU"):
            x + host
        y = x * 2
        x += 1
    finally:
        graph = stream.end_capture()
    assert x.get().tolist() == host.tolist()
    graph.launch(stream)
    assert y.get().tolist() == (2 * host).tolist()
    assert x.get().tolist() == (1 + host).tolist()
    graph.launch(stream)
    assert y.get().tolist() == (4 * host).tolist()
