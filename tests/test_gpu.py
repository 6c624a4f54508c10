"""What only a real GPU can show. The tables of kernels, operations and models run there too: ``pytest -m gpu``."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import normal, relative_error

import minires
import minires.nn.functional as F
from minires import models, optim
from minires.device import cupy, to_device
from minires.kernels import cuda, kernels_for, reference, use_reference
from minires.kernels.cuda.gpu import current_gpu
from minires.kernels.cuda.source import TYPES, instances, source_names
from minires.kernels.geometry import Conv2dGeometry

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
