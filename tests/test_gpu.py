"""What only a real GPU can show. The tables of kernels, operations and models run there too: ``pytest -m gpu``."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import normal, relative_error

import minires
import minires.nn.functional as F
from minires import amp, models, optim
from minires.cuda import CaptureError, GraphedStep
from minires.data import DataLoader, Shapes, dataset_info
from minires.data import transforms as T
from minires.data.on_device import batches_for, on_device
from minires.device import cupy, to_device
from minires.kernels import cuda, kernels_for, reference, use_reference
from minires.kernels.cuda.gpu import current_gpu
from minires.kernels.cuda.source import TYPES, instances, source_names
from minires.kernels.geometry import Conv2dGeometry
from minires.training import Recipe, Trainer

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("number_type", TYPES.values())
@pytest.mark.parametrize("source", source_names())
def test_every_kernel_compiles_for_this_gpu(source, number_type):
    assert set(current_gpu().compile(source, number_type)) == set(instances(source, number_type))


def test_cuda_arrays_get_the_cuda_kernels():
    x = cupy().zeros(3)
    assert kernels_for(x) is cuda
    with use_reference():
        assert kernels_for(x) is reference


def trained(name, device, steps=3, seed=0):
    """Losses, gradients and weights of some float32 training steps."""
    minires.manual_seed(seed)
    net = models.get_model(name).to(device)
    optimizer = optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=1e-4)
    x = minires.Tensor(normal(8, 3, 32, 32, dtype=np.float32)).to(device)
    target = minires.Tensor(np.arange(8)).to(device)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tensors = [*(p.grad for p in net.parameters()), *net.state_dict().values()]
    return losses, [tensor.detach().cpu().numpy() for tensor in tensors]


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
def test_training_twice_gives_the_same_bits(name):
    (losses, tensors), (again, tensors_again) = (trained(name, "cuda") for _ in range(2))
    assert losses == again
    assert all(np.array_equal(a, b) for a, b in zip(tensors, tensors_again, strict=True))


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_float32_training_follows_the_cpu(name):
    losses, _ = trained(name, "cuda")
    expected, _ = trained(name, "cpu")
    assert losses == pytest.approx(expected, rel=1e-3)


def test_tf32_is_taken_where_it_was_asked_for():
    geometry = Conv2dGeometry((4, 64, 16, 16), (64, 64, 3, 3), padding=((1, 1), (1, 1)))
    x, w = normal(4, 64, 16, 16, dtype=np.float32), normal(64, 64, 3, 3, dtype=np.float32)
    exact = reference.conv2d(x.astype(np.float64), w.astype(np.float64), geometry)
    there = [to_device(a, "cuda") for a in (x, w)]
    errors = []
    for precision in ("highest", "high"):
        minires.set_float32_matmul_precision(precision)
        try:
            errors.append(relative_error(to_device(cuda.conv2d(*there, geometry), "cpu"), exact))
        finally:
            minires.set_float32_matmul_precision("highest")
    assert errors[0] < 2e-6 < errors[1] < 2e-3


def test_products_can_be_captured():
    xp = cupy()
    geometry = Conv2dGeometry((2, 8, 6, 6), (8, 8, 3, 3))
    x, w = (to_device(normal(*shape, dtype=np.float32), "cuda") for shape in ((2, 8, 6, 6), (8, 8, 3, 3)))
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        expected = cuda.conv2d(x, w, geometry)  # compiles, and makes the handle and its workspace
        stream.synchronize()
        stream.begin_capture()
        y = cuda.conv2d(x, w, geometry)
        graph = stream.end_capture()
        x *= 2
        graph.launch()
        stream.synchronize()
    assert np.array_equal(y.get(), 2 * expected.get())


def test_memory_is_counted():
    minires.cuda.empty_cache()
    minires.cuda.reset_peak_memory_stats()
    before = minires.cuda.memory_allocated()
    x = minires.zeros(1 << 20, device="cuda")
    assert minires.cuda.memory_allocated() == before + x.numel() * 4
    del x
    assert minires.cuda.memory_allocated() == before
    assert minires.cuda.max_memory_allocated() == before + (1 << 22)
    assert minires.cuda.memory_reserved() >= before + (1 << 22)
    assert "at the peak" in minires.cuda.memory_summary()


def test_too_large_an_array_is_refused_with_numbers():
    with pytest.raises(minires.cuda.OutOfMemoryError, match=r"4\.0 TiB were asked for.*smaller batch"):
        minires.zeros(1 << 40, device="cuda")


# Captured steps


def steps_of(name, graphed, half=None, steps=8, optimizer=None):
    """Losses and weights after steps with a falling learning rate, on other images each time."""
    minires.manual_seed(0)
    net = models.get_model(name).to("cuda")
    optimizer = (optimizer or (lambda p: optim.SGD(p, 0.05, 0.9, weight_decay=1e-4)))(net.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    step = GraphedStep(net, F.cross_entropy, optimizer)

    def eager(images, targets):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), targets)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for number in range(steps):
        images = minires.Tensor(normal(8, 3, 32, 32, seed=number, dtype=np.float32)).to("cuda")
        with amp.autocast("cuda", half, enabled=half is not None):
            losses.append((step if graphed else eager)(images, minires.Tensor(np.arange(8)).to("cuda")).item())
        schedule.step()
    assert step.is_captured == graphed
    return losses, [value.detach().cpu().numpy() for value in net.state_dict().values()]


@pytest.mark.parametrize("half", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
def test_a_captured_step_gives_the_bits_of_the_one_that_is_written(name, half):
    (losses, weights), (expected, others) = (steps_of(name, graphed, half) for graphed in (True, False))
    assert losses == expected
    assert all(np.array_equal(a, b) for a, b in zip(weights, others, strict=True))


def test_a_captured_loss_scale_follows_that_of_steps_as_written():
    found = []
    for graphed in (True, False):
        minires.manual_seed(0)
        net = models.resnet20().to("cuda")
        optimizer = optim.SGD(net.parameters(), 0.05, 0.9)
        scaler = amp.GradScaler(init_scale=2.0**24, growth_interval=3)
        step = GraphedStep(net, F.cross_entropy, optimizer, scaler)
        scales, losses = [], []
        for number in range(16):
            images = minires.Tensor(normal(8, 3, 32, 32, seed=number, dtype=np.float32)).to("cuda")
            targets = minires.Tensor(np.arange(8)).to("cuda")
            with amp.autocast("cuda", "float16"):
                if graphed:
                    loss = step(images, targets)
                else:
                    optimizer.zero_grad()
                    loss = F.cross_entropy(net(images), targets)
            if not graphed:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            scales.append(scaler.get_scale())
            losses.append(loss.item())
        assert step.is_captured == graphed
        found.append((scales, losses, [value.cpu().numpy() for value in net.state_dict().values()]))
    assert found[0][:2] == found[1][:2]
    assert all(np.array_equal(a, b) for a, b in zip(found[0][2], found[1][2], strict=True))


def test_adam_can_be_captured():
    (losses, weights), (expected, others) = (
        steps_of("resnet20", graphed, optimizer=lambda p: optim.AdamW(p, 1e-3)) for graphed in (True, False)
    )
    assert losses == expected
    assert all(np.array_equal(a, b) for a, b in zip(weights, others, strict=True))


def test_two_captured_steps_do_not_share_memory():
    first, second = steps_of("resnet20", True), steps_of("resnet18", True)
    assert first[0] == steps_of("resnet20", True)[0]
    assert second[0] == steps_of("resnet18", True)[0]


def test_a_step_that_reads_from_the_gpu_is_refused_and_can_be_run_as_written():
    net = models.resnet20().to("cuda")
    optimizer = optim.SGD(net.parameters(), 0.01)
    net.register_forward_hook(lambda module, inputs, output: output * (1 if output.sum().item() else 2))
    step = GraphedStep(net, F.cross_entropy, optimizer)
    batch = minires.rand(4, 3, 32, 32, device="cuda"), minires.tensor([0, 1, 2, 3]).to("cuda")
    for _ in range(2):
        step(*batch)
    with pytest.raises(CaptureError, match="cannot be captured"):
        step(*batch)
    F.cross_entropy(net(batch[0]), batch[1]).backward()
    assert all(np.isfinite(p.grad.cpu().numpy()).all() for p in net.parameters())


def test_a_step_that_is_not_finite_leaves_the_weights_alone():
    net = models.resnet20().to("cuda")
    step = GraphedStep(net, F.cross_entropy, optim.SGD(net.parameters(), 0.01, momentum=0.9))
    images, targets = minires.rand(4, 3, 32, 32, device="cuda"), minires.tensor([0, 1, 2, 3]).to("cuda")
    for _ in range(4):
        step(images, targets)
    before = [p.detach().cpu().numpy() for p in net.parameters()]
    assert np.isnan(step(images * float("inf"), targets).item())
    assert bool(step.found_inf)
    assert all(np.array_equal(a, p.detach().cpu().numpy()) for a, p in zip(before, net.parameters(), strict=True))


# Mixed precision


@pytest.mark.parametrize(("half", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1)])
@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_mixed_precision_is_near_float32(name, half, tolerance):
    found = []
    for enabled in (False, True):
        minires.manual_seed(0)
        net = models.get_model(name).to("cuda")
        x = minires.Tensor(normal(16, 3, 32, 32, dtype=np.float32)).to("cuda")
        with amp.autocast("cuda", half, enabled):
            loss = F.cross_entropy(net(x), minires.Tensor(np.arange(16) % 10).to("cuda"))
        (loss * 1024.0).backward()
        assert {p.grad.dtype for p in net.parameters()} == {np.dtype(np.float32)}
        found.append(np.concatenate([p.grad.cpu().numpy().ravel() for p in net.parameters()]))
    exact, mixed = found
    assert 0 < np.linalg.norm(mixed - exact) < tolerance * np.linalg.norm(exact)


# The loop


def test_batches_copied_ahead_are_whole():
    loader = DataLoader(Shapes(size=256, transform=T.ToTensor()), 32, num_workers=2)
    for (images, targets), (there, labels) in zip(loader, on_device(iter(loader), "cuda"), strict=True):
        busy = there * 2
        del there
        assert np.array_equal(busy.cpu().numpy(), 2 * images.numpy())
        assert np.array_equal(labels.cpu().numpy(), targets.numpy())


def test_images_sent_as_bytes_are_those_of_the_cpu():
    dataset = Shapes(size=512, transform=dataset_info("cifar10").transform(True))
    loaders = [DataLoader(dataset, 32, shuffle=True, seed=1, num_workers=2) for _ in range(2)]
    there = on_device(batches_for(loaders[1], "cuda"), "cuda")
    for (images, targets), (floats, labels) in zip(loaders[0], there, strict=True):
        assert np.array_equal(floats.cpu().numpy(), images.numpy())
        assert np.array_equal(labels.cpu().numpy(), targets.numpy())


@pytest.mark.parametrize("half", [None, "float16", "bfloat16"])
def test_the_trainer_trains_and_captures_where_it_can(half):
    minires.manual_seed(0)
    net = models.resnet20(num_classes=len(Shapes(size=8).classes)).to("cuda")
    recipe = Recipe("quick", steps=60, batch_size=32, learning_rate=0.1)
    optimizer = recipe.optimizer(net.parameters())
    loader = DataLoader(Shapes(size=512, transform=T.ToTensor()), 32, shuffle=True, seed=0, drop_last=True)
    notices, losses = [], []
    trainer = Trainer(
        net,
        optimizer,
        loader,
        60,
        device="cuda",
        amp=half,
        on_notice=notices.append,
        on_step=lambda report: losses.append(report.loss),
    )
    trainer.fit()
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert trainer._graphed.is_captured
    assert notices == []
