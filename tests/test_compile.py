"""minires.compile: the same bits as the model it was made of, from its kernels alone once it has seen a shape."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from kernel_cases import always_threaded, normal, relative_error  # noqa: F401 (a fixture)
from test_models import pair

import minires
from minires import models, nn
from minires.autograd.modes import observe, state
from minires.kernels.cpu import launch, memory
from minires.nn import functional as F
from minires.ops.conv2d_add_relu import Conv2dAddRelu


def folded(name, **options):
    return minires.fold_batch_norm(models.get_model(name, **options).eval())


def small_net():
    layers = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8)
    return minires.fold_batch_norm(nn.Sequential(*layers).eval())


def images(*shape, dtype=np.float32, seed=0):
    return minires.Tensor(normal(*shape, dtype=dtype, seed=seed))


def run(model, x):
    with minires.no_grad():
        return model(x).numpy()


class Forwards:
    """Counts the calls of `forward` of one operation."""

    def __init__(self, monkeypatch, function=Conv2dAddRelu):
        self.count, forward = 0, function.forward

        def counting(*args):
            self.count += 1
            return forward(*args)

        monkeypatch.setattr(function, "forward", counting)


def is_replayed(monkeypatch, net, x):
    """Tell whether a call runs no convolution from Python, with the right result."""
    expected = run(net.model, x)
    with monkeypatch.context() as patch:
        convolutions = Forwards(patch)
        output = run(net, x)
    np.testing.assert_array_equal(output, expected)
    return convolutions.count == 0


def prepared(model, *shape, **options):
    """A compiled model that has recorded one shape, and tried the recording."""
    net = minires.compile(model)
    for seed in range(3):
        run(net, images(*shape, seed=seed, **options))
    return net


NETS = [
    ("resnet20", {"shortcut": "A"}, (2, 3, 32, 32)),
    ("resnet20", {"shortcut": "B"}, (1, 3, 31, 33)),
    ("plain20", {}, (3, 3, 32, 32)),
    ("resnet18", {}, (1, 3, 64, 64)),
    ("resnet18", {}, (7, 3, 33, 65)),
    ("resnet50", {"version": "v1"}, (1, 3, 65, 65)),
    ("resnext50_32x4d", {}, (2, 3, 64, 64)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options", "shape"), NETS)
def test_the_same_bits_as_the_model(name, options, shape, dtype, monkeypatch):
    model = folded(name, **options).to(dtype)
    net = prepared(model, *shape, dtype=dtype)
    for seed in range(3, 6):
        assert is_replayed(monkeypatch, net, images(*shape, dtype=dtype, seed=seed))


def test_what_pytorch_computes():
    net, twin = pair("resnet18", {}, {})
    twin.eval()
    x = images(2, 3, 64, 64, seed=5, dtype=np.float64)
    output = run(prepared(minires.fold_batch_norm(net.eval()), *x.shape, dtype=np.float64), x)
    with torch.no_grad():
        expected = twin(torch.from_numpy(x.numpy())).numpy()
    assert relative_error(output, expected) < 1e-12


def test_with_threads(always_threaded, monkeypatch):  # noqa: F811
    net = prepared(folded("resnet20"), 3, 3, 32, 32)
    assert is_replayed(monkeypatch, net, images(3, 3, 32, 32, seed=9))


def test_numbers_of_threads_and_algorithms_are_recorded_apart(monkeypatch):
    net, x = prepared(folded("resnet20"), 2, 3, 32, 32), images(2, 3, 32, 32, seed=9)
    threads = minires.get_num_threads()
    try:
        minires.set_num_threads(threads + 1)
        assert [is_replayed(monkeypatch, net, x) for _ in range(3)] == [False, False, True]
    finally:
        minires.set_num_threads(threads)
    with minires.conv_algorithm("im2col"):
        assert [is_replayed(monkeypatch, net, x) for _ in range(3)] == [False, False, True]
    assert is_replayed(monkeypatch, net, x)


def test_layers_that_no_kernel_does_alone_are_called(monkeypatch):
    net = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.GELU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
        nn.BatchNorm2d(32),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
        nn.Softmax(dim=1),
    )
    net = prepared(minires.fold_batch_norm(net.eval()), 3, 4, 8, 8)
    assert is_replayed(monkeypatch, net, images(3, 4, 8, 8, seed=9))


class Scrambled(nn.Module):
    """Hands a convolution, a pooling and a ReLU inputs that do not lie channels last."""

    def __init__(self):
        super().__init__()
        self.body = small_net()

    def forward(self, x):
        x = self.body(x.transpose(2, 3)[:, :, ::2])
        y = F.max_pool2d(F.relu(x.flatten(1).reshape(x.shape[0], 4, -1, 8)), 2)
        return minires.cat([part.transpose(1, 3) for part in y.split(1)]).mean((1, 2))


def test_inputs_in_another_order_in_memory(monkeypatch):
    net = prepared(Scrambled().eval(), 2, 3, 8, 8)
    assert not is_replayed(monkeypatch, net, images(2, 3, 8, 8, seed=9))  # its convolutions are called, on copies
    assert net._recordings._found


def test_a_model_that_only_looks_at_its_input():
    net = minires.compile(nn.Sequential(nn.Flatten()).eval())
    x = images(2, 3, 4)
    outputs = [run(net, x) for _ in range(4)]
    for output in outputs:
        np.testing.assert_array_equal(output, x.numpy().reshape(2, 12))
    outputs[-1][:] = 0
    np.testing.assert_array_equal(run(net, x), x.numpy().reshape(2, 12))


def test_outputs_are_arrays_of_their_own():
    net = prepared(small_net(), 1, 3, 8, 8)
    first = run(net, images(1, 3, 8, 8, seed=3))
    before = first.copy()
    run(net, images(1, 3, 8, 8, seed=4))
    np.testing.assert_array_equal(first, before)


def test_nan_and_infinity_pass_through(monkeypatch):
    net, x = prepared(small_net(), 1, 3, 8, 8), images(1, 3, 8, 8)
    x.array[0, 0, 3, 3], x.array[0, 1, 7, 0] = np.nan, np.inf
    assert is_replayed(monkeypatch, net, x)


# What changes


def test_changed_parameters_are_seen(monkeypatch):
    model = small_net()
    net, x = prepared(model, 1, 3, 8, 8), images(1, 3, 8, 8, seed=3)
    convolution = model[1]
    before = run(net, x)
    convolution.weight.mul_(2)
    assert not is_replayed(monkeypatch, net, x)
    assert np.abs(run(net, x) - before).max() > 0
    assert is_replayed(monkeypatch, net, x)
    convolution.bias = nn.Parameter(minires.ones(32), requires_grad=False)
    assert [is_replayed(monkeypatch, net, x) for _ in range(3)] == [False, False, True]
    model.load_state_dict(small_net().state_dict())
    assert [is_replayed(monkeypatch, net, x) for _ in range(3)] == [False, False, True]


def test_changed_modules_are_seen(monkeypatch):
    model = small_net()
    net, x = prepared(model, 1, 3, 8, 8), images(1, 3, 8, 8, seed=3)
    model[2] = nn.Identity().eval()
    assert [is_replayed(monkeypatch, net, x) for _ in range(3)] == [False, False, True]


class Chosen(nn.Module):
    """Adds ``first`` or subtracts ``second``, whichever there is, in each of two layers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", minires.full((3,), 2.0))
        self.register_buffer("second", None)
        self.a, self.b = small_net(), small_net()
        self.layers = nn.ModuleList([self.a, self.b])
        self.eval()

    def forward(self, x):
        x = x + self.first.reshape(3, 1, 1) if self.second is None else x - self.second.reshape(3, 1, 1)
        return self.layers[0](x) - 2 * self.layers[1](x)


def test_the_places_of_modules_and_buffers_are_seen(monkeypatch):
    model = Chosen()
    net, x = prepared(model, 1, 3, 8, 8), images(1, 3, 8, 8, seed=3)
    assert is_replayed(monkeypatch, net, x)
    model.first, model.second = None, model.first
    assert [is_replayed(monkeypatch, net, x) for _ in range(3)] == [False, False, True]
    model.layers[1] = model.a
    assert [is_replayed(monkeypatch, net, x) for _ in range(3)] == [False, False, True]


def test_shapes_are_recorded_apart_and_the_eldest_forgotten(monkeypatch):
    monkeypatch.setattr("minires.compiled_module.MOST_SHAPES", 2)
    net = minires.compile(small_net())
    sizes = [images(1, 3, 8, size) for size in (8, 9, 10)]
    for x in [sizes[0], sizes[0], sizes[1], sizes[1]]:
        assert not is_replayed(monkeypatch, net, x)
    assert is_replayed(monkeypatch, net, sizes[0])  # now sizes[1] is the one not used for longest
    assert [is_replayed(monkeypatch, net, sizes[2]) for _ in range(3)] == [False, False, True]
    assert is_replayed(monkeypatch, net, sizes[0])
    assert not is_replayed(monkeypatch, net, sizes[1])


def test_copies_and_pickles_record_for_themselves(monkeypatch):
    net, x = prepared(small_net(), 1, 3, 8, 8), images(1, 3, 8, 8, seed=3)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        twin.model[1].weight.zero_()
        assert [is_replayed(monkeypatch, twin, x) for _ in range(3)] == [False, False, True]
    assert is_replayed(monkeypatch, net, x)


# What runs as it is written


def test_training_mode(monkeypatch):
    net, x = prepared(small_net(), 1, 3, 8, 8), images(1, 3, 8, 8)
    assert not net.training
    net.model[2].train()
    assert not is_replayed(monkeypatch, net, x)
    net.eval()
    assert is_replayed(monkeypatch, net, x)


def test_gradients():
    model = nn.Sequential(nn.Linear(3, 2)).eval()
    net = minires.compile(model)
    x = images(4, 3)
    for _ in range(4):
        model.zero_grad()
        net(x).sum().backward()
        np.testing.assert_allclose(model[0].weight.grad.numpy(), np.tile(x.numpy().sum(0), (2, 1)), rtol=1e-5)


def test_hooks(monkeypatch):
    net, x = prepared(small_net(), 1, 3, 8, 8), images(1, 3, 8, 8)
    seen = []
    handle = net.model[2].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    run(net, x)
    assert seen == [(1, 32, 8, 8)]
    handle.remove()
    assert is_replayed(monkeypatch, net, x)


def test_modes_that_look_at_operations(monkeypatch):
    net, x = prepared(small_net(), 1, 3, 8, 8), images(1, 3, 8, 8)

    class Names(list):
        def forward(self, function, *_):
            self.append(function.name)

    with observe(Names()) as names:
        run(net, x)
    assert names.count("Conv2dAddRelu") == 2
    with minires.autograd.detect_anomaly():
        assert not is_replayed(monkeypatch, net, x)
    with minires.use_reference():
        assert not is_replayed(monkeypatch, net, x)
    with minires.unfused():
        run(net, x)
        run(net, x)
        assert is_replayed(monkeypatch, net, x)
    with minires.autocast("cpu", minires.float16):
        assert run(net, x).dtype == np.float16
    assert is_replayed(monkeypatch, net, x)


class Sums(nn.Module):
    def forward(self, x, y=None, *, scale=1.0):
        return x * scale if y is None else (x + y, x - y)


def test_other_signatures():
    net, x = minires.compile(Sums().eval()), images(2, 3)
    for _ in range(3):
        np.testing.assert_array_equal(net(x, scale=2.0).numpy(), 2 * x.numpy())
        assert [y.shape for y in net(x, x)] == [(2, 3), (2, 3)]
        np.testing.assert_array_equal(net(minires.tensor([1, 2])).numpy(), [1, 2])
        assert net(minires.zeros(0, 3)).shape == (0, 3)


def test_several_outputs():
    class Pair(nn.Module):
        def forward(self, x):
            return x + 1, x + 2

    net, x = minires.compile(Pair().eval()), images(2, 3)
    for _ in range(4):
        first, second = net(x)
        np.testing.assert_array_equal(second.numpy() - first.numpy(), x.numpy() + 2 - (x.numpy() + 1))


def test_a_compiled_model_within_a_compiled_model(monkeypatch):
    inner = prepared(small_net(), 1, 3, 8, 8)
    net = prepared(nn.Sequential(inner, nn.ReLU()).eval(), 1, 3, 8, 8)
    assert is_replayed(monkeypatch, net, images(1, 3, 8, 8, seed=5))


def test_threads_at_once_do_not_disturb_each_other():
    net = prepared(folded("resnet20"), 1, 3, 32, 32)
    inputs = [images(1, 3, 32, 32, seed=seed) for seed in range(4)]
    expected = [run(net.model, x) for x in inputs]
    wrong = []

    def work(index):
        for _ in range(25):
            if not np.array_equal(run(net, inputs[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_has_the_recordings(monkeypatch):
    net, x = prepared(small_net(), 1, 3, 8, 8), images(1, 3, 8, 8, seed=5)
    inside, done = threading.Event(), threading.Event()

    def hold():
        with net._recordings._lock:
            inside.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    assert not is_replayed(monkeypatch, net, x)  # another thread computes there
    child = os.fork()
    if child == 0:
        os._exit(0 if is_replayed(monkeypatch, net, x) else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join()
    assert status == 0
    assert is_replayed(monkeypatch, net, x)


def test_a_call_within_a_call_runs_as_written(monkeypatch):
    net, x = prepared(small_net(), 1, 3, 8, 8), images(1, 3, 8, 8, seed=5)
    with net._recordings._lock:
        assert not is_replayed(monkeypatch, net, x)
    assert is_replayed(monkeypatch, net, x)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_exception_leaves_everything_as_it_was(failing, monkeypatch):
    model = small_net()
    net, x, calls = minires.compile(model), images(1, 3, 8, 8), []
    forward = model[2].forward

    def failing_forward(input):
        calls.append(1)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return forward(input)

    model[2].forward = failing_forward
    for seed in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            run(net, images(1, 3, 8, 8, seed=seed))
    assert (state.observers, state.on_read) == ((), None)
    assert (memory._thread.pool, launch._thread.recorder) == (None, None)
    run(net, x)
    assert is_replayed(monkeypatch, net, x)


def test_wrong_input_gets_the_models_error():
    net = prepared(small_net(), 1, 3, 8, 8)
    with pytest.raises(RuntimeError, match="channels"):
        run(net, images(1, 4, 8, 8))
    with pytest.raises(TypeError, match="Tensor"):
        net(np.zeros((1, 3, 8, 8), np.float32))


def test_only_modules_are_compiled():
    with pytest.raises(TypeError, match="compile needs a Module, got function"):
        minires.compile(lambda x: x)


def test_parameters_are_the_models():
    model = small_net()
    net = minires.compile(model)
    assert [id(p) for p in net.parameters()] == [id(p) for p in model.parameters()]
    assert list(net.state_dict()) == [f"model.{key}" for key in model.state_dict()]
