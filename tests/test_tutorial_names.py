"""Names that PyTorch's tutorials use and that are no ops: devices, `minires.cuda`, modes, `Function.apply`."""

from __future__ import annotations

import pickle

import pytest
import torch
from twin import assert_twins

import minires
from minires.autograd import AnomalyError, Function, set_detect_anomaly
from minires.device import cuda_is_available, generator

without_gpu = pytest.mark.skipif(cuda_is_available(), reason="says what happens where there is no GPU")


@pytest.mark.parametrize(
    ("arguments", "options", "printed"),
    [
        (("cpu",), {}, "cpu"),
        (("cpu", 0), {}, "cpu"),
        ((), {"type": "cpu"}, "cpu"),
        (("cuda",), {}, "cuda:0"),
        (("cuda:1",), {}, "cuda:1"),
        (("cuda", 1), {}, "cuda:1"),
        (("cuda",), {"index": 2}, "cuda:2"),
    ],
)
def test_device_takes_a_name_or_type_and_index(arguments, options, printed):
    device = minires.device(*arguments, **options)
    assert isinstance(device, minires.device)
    assert str(device) == printed
    assert device.type == printed[: len(device.type)]
    assert minires.device(device) == device == pickle.loads(pickle.dumps(device))
    assert len({device, minires.device(printed)}) == 1


@pytest.mark.parametrize(
    "arguments", [("gpu",), ("",), ("cuda:x",), ("cuda:",), ("cpu:",), ("cuda:0", 1), ("cuda", -1)]
)
def test_bad_device_is_refused(arguments):
    with pytest.raises((RuntimeError, ValueError)):
        torch.device(*arguments)
    with pytest.raises(ValueError, match="unknown device"):
        minires.device(*arguments)


def test_device_that_is_no_name_is_refused():
    with pytest.raises(TypeError, match="named by a str"):
        minires.device(1.5)


def test_tensor_tells_its_device():
    assert isinstance(minires.zeros(2).device, minires.device)
    assert minires.zeros(2, device=minires.device("cpu")).device == minires.device("cpu")


@without_gpu
def test_cuda_without_a_gpu():
    assert minires.cuda.is_available() is False
    assert minires.cuda.device_count() == 0
    for function in (minires.cuda.current_device, minires.cuda.synchronize):
        with pytest.raises(RuntimeError, match='device "cuda"'):
            function()


@pytest.mark.gpu
def test_cuda_with_a_gpu():
    assert minires.cuda.is_available()
    assert 0 <= minires.cuda.current_device() < minires.cuda.device_count()
    for device in (None, 0, "cuda", minires.device("cuda:0")):
        minires.cuda.synchronize(device)
    with pytest.raises(ValueError, match="waits for a GPU"):
        minires.cuda.synchronize("cpu")
    minires.cuda.manual_seed_all(3)
    first = minires.rand(4, device="cuda").tolist()
    minires.cuda.manual_seed_all(3)
    assert minires.rand(4, device="cuda").tolist() == first


def test_seeding_gpus_leaves_the_generator_of_the_cpu_alone():
    minires.manual_seed(1)
    before = generator("cpu")
    minires.cuda.manual_seed_all(2)
    assert generator("cpu") is before
    with pytest.raises(ValueError, match="negative"):
        minires.cuda.manual_seed_all(-1)


def test_function_apply_tells_how_to_call_a_function():
    class Double(Function):
        def forward(self, x):
            return 2 * x

    with pytest.raises(TypeError, match=r"call Double\(\)\(x\)"):
        Double.apply(minires.ones(2))


DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_type_names_the_type_or_converts(dtype):
    theirs = torch.zeros(2, dtype=getattr(torch, dtype)).type()
    ours = minires.tensor([0.0, 1.0]).type(getattr(minires, dtype))
    assert ours.dtype == dtype
    assert ours.type() == theirs.replace("torch.", "minires.")


def test_is_tensor_and_numel():
    assert_twins(lambda lib: [lib.is_tensor(lib.ones(2)), lib.is_tensor([1.0]), lib.numel(lib.ones(2, 3))])


def test_a_repeated_tensor_has_memory_of_its_own():
    x = minires.zeros(1, 3)
    for sizes in [(1, 1), (2, 1)]:
        x.repeat(*sizes).add_(1.0)
    assert x.tolist() == [[0.0, 0.0, 0.0]]


def inference_as_a_block(lib):
    with lib.inference_mode():
        seen = [lib.is_grad_enabled()]
        with lib.inference_mode(mode=False):
            seen.append(lib.is_grad_enabled())
    return [*seen, lib.is_grad_enabled()]


def inference_as_a_decorator(lib):
    bare, called = lib.inference_mode(lib.is_grad_enabled), lib.inference_mode()(lib.is_grad_enabled)
    return [bare(), called(), lib.inference_mode(False)(lib.is_grad_enabled)(), lib.is_grad_enabled()]


@pytest.mark.parametrize("program", [inference_as_a_block, inference_as_a_decorator])
def test_inference_mode_records_nothing(program):
    assert_twins(program)


def test_set_detect_anomaly_as_a_call_and_as_a_block():
    def make_nan():
        return minires.tensor([-1.0]).log()

    try:
        set_detect_anomaly(True)
        with pytest.raises(AnomalyError):
            make_nan()
        with set_detect_anomaly(False):
            make_nan()
        with pytest.raises(AnomalyError):
            make_nan()
    finally:
        set_detect_anomaly(False)
    make_nan()
