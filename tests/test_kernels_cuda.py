"""The CUDA kernels without a GPU: what the compiler makes of them, and what only they can get wrong.

That they compute what `reference` computes is tested with the other kernel modules, in test_kernels_*.py.
"""

from __future__ import annotations

import inspect
import re

import ml_dtypes
import numpy as np
import pytest
from cuda_shim import Host, HostKernels, build_kernels, run_kernel
from kernel_cases import needs_compiler, normal, relative_error

import minires
import minires.nn.functional as F
from minires import models, nn
from minires.kernels import cuda, reference
from minires.kernels.cuda import launch as launching
from minires.kernels.cuda.launch import launch, running_on
from minires.kernels.cuda.source import TYPES, instances, source_names, source_text, type_of
from minires.kernels.geometry import Conv2dGeometry, Pool2dGeometry
from minires.models.shortcuts import projection

REGISTERS = 128  # to a thread at most: two blocks of 256 threads then run on a multiprocessor at once


def compile_for(architecture, source, names):
    """The report of NVRTC and its assembler on kernels of a source."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and nvidia-cuda-nvrtc")
    status, program = nvrtc.nvrtcCreateProgram(source_text(source).encode(), f"{source}.cu".encode(), 0, [], [])
    assert status == 0
    for name in names:
        assert nvrtc.nvrtcAddNameExpression(program, name.encode())[0] == 0
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--ptxas-options=-v"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.decode()
    return log.decode()


@pytest.mark.parametrize("source", source_names())
@pytest.mark.parametrize(
    ("architecture", "types"),
    [
        ("sm_90", ["float"]),
        pytest.param("sm_80", list(TYPES.values()), marks=pytest.mark.slow),
        pytest.param("sm_90", list(TYPES.values()), marks=pytest.mark.slow),
    ],
    ids=["sm_90 float", "sm_80 all", "sm_90 all"],
)
def test_every_kernel_compiles_without_spills_and_within_its_registers(architecture, types, source):
    names = [name for name in instances(source) if type_of(name) in ("", *types)]
    log = compile_for(architecture, source, names)
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    assert len(registers) == len(spills) == len(names)
    assert set(spills) == {("0", "0", "0")}
    assert max(registers) <= REGISTERS
    assert "warning" not in log


def test_the_module_offers_what_reference_offers():
    assert cuda.__all__ == reference.__all__


@pytest.mark.parametrize("name", reference.__all__)
def test_signatures_are_equal(name):
    assert inspect.signature(getattr(reference, name)) == inspect.signature(getattr(cuda, name))


def stem_and_block():
    """A net with what an ImageNet ResNet has beyond CIFAR's: a large stem, max pooling, a projection."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        models.Bottleneck(8, 4, 2, projection(8, 16, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def training_step(make):
    """Loss, gradients and buffers of a step in double precision."""
    minires.manual_seed(0)
    net = make().to(minires.float64)
    loss = F.cross_entropy(net(minires.Tensor(normal(4, 3, 18, 16))), minires.Tensor(np.arange(4)))
    loss.backward()
    return [loss.detach(), *(p.grad for p in net.parameters()), *(b for b in net.buffers() if b.is_floating_point())]


@needs_compiler
@pytest.mark.parametrize("make", [stem_and_block, models.resnet20], ids=["stem and block", "resnet20"])
def test_whole_nets_have_the_gradients_of_the_readable_kernels(monkeypatch, make):
    monkeypatch.setattr(minires.kernels, "is_cuda_array", lambda array: True)  # as if they lay on a GPU
    host = Host()
    with running_on(host):
        results = training_step(make)
    assert host.launches
    with minires.kernels.use_reference():
        expected = training_step(make)
    for a, b in zip(results, expected, strict=True):
        assert relative_error(a.numpy(), b.numpy()) < 1e-9


# Kernels that are wrong on purpose


def statistics_error(edit):
    """The greatest error of a batch's variance in rising and in falling order of threads, from edited kernels."""
    x = normal(4, 40, 9, 9)
    expected = x.var(axis=(0, 2, 3))
    errors = []
    for falling in (False, True):
        with running_on(Host(falling, edit)):
            errors.append(relative_error(cuda.batch_norm_statistics(x)[1], expected))
    return max(errors)


def replaced(old, new):
    def edit(text):
        assert text.count(old) == 1
        return text.replace(old, new)

    return edit


@needs_compiler
def test_a_kernel_without_its_barrier_is_found_out():
    barrier = "shared_count[team] = count;\n    __syncthreads();"
    assert statistics_error(lambda text: text) < 1e-12
    assert not statistics_error(replaced(barrier, barrier.replace("__syncthreads();", ""))) < 1e-3


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("other < TEAMS", "other < TEAMS - 1"),
        ("min(rows, (blockIdx.x + Index(1)) * height)", "min(rows - 1, (blockIdx.x + Index(1)) * height)"),
        ("for (int step = LANES / 2; step > 0; step /= 2)", "for (int step = LANES / 2; step > 1; step /= 2)"),
    ],
    ids=["a team", "a row", "a lane"],
)
def test_an_off_by_one_is_found_out(old, new):
    def edit(text):
        assert old in text
        return text.replace(old, new, 1)

    assert not statistics_error(edit) < 1e-3


@needs_compiler
@pytest.mark.parametrize(
    ("name", "operands", "old", "new"),
    [
        pytest.param("conv2d_weight_grad", "xg", "__syncthreads();", "", id="a barrier"),
        pytest.param("conv2d", "xw", "down >= height", "down >= height - 1", id="a row", marks=pytest.mark.slow),
        pytest.param(
            "conv2d_input_grad", "gw", "stride_w >= q", "stride_w >= q - 1", id="a column", marks=pytest.mark.slow
        ),
        pytest.param("conv2d_weight_grad", "xg", "other < TEAMS", "other < 7", id="a team", marks=pytest.mark.slow),
    ],
)
def test_a_depthwise_convolution_that_is_wrong_is_found_out(name, operands, old, new):
    geometry = Conv2dGeometry((2, 8, 7, 6), (8, 1, 3, 3), (2, 1), ((1, 1), (1, 1)), groups=8)
    shapes = {"x": geometry.input_shape, "w": geometry.weight_shape, "g": geometry.output_shape}
    given = [normal(*shapes[operand], seed=ord(operand)) for operand in operands]
    expected = getattr(reference, name)(*given, geometry)
    worst = []
    for edit in (lambda text: text, lambda text: text.replace(old, new)):
        errors = []
        for falling in (False, True):
            with running_on(Host(falling, edit)):
                errors.append(relative_error(getattr(cuda, name)(*given, geometry), expected))
        worst.append(max(errors))
    assert worst[0] < 1e-14
    assert not worst[1] < 1e-3


@needs_compiler
def test_the_barriers_of_max_poolings_gradient_matter():
    x, indices = normal(2, 3, 5, 6), np.random.default_rng(0).integers(0, 30, (2, 3, 2, 4))
    dy = normal(2, 3, 2, 4, seed=1)
    expected = reference.max_pool2d_input_grad(dy, indices, x.shape)
    without = replaced("half /= 2) {\n        __syncthreads();", "half /= 2) {")
    results = []
    for edit in (lambda text: text, without):
        worst = 0.0
        for falling in (False, True):
            with running_on(Host(falling, edit)):
                worst = max(worst, relative_error(cuda.max_pool2d_input_grad(dy, indices, x.shape), expected))
        results.append(worst)
    assert results[0] < 1e-14
    assert results[1] > 1e-3


@needs_compiler
def test_threads_that_part_at_a_barrier_and_arguments_of_wrong_size_are_found_out():
    text = """
    __global__ void part(int* x) { if (threadIdx.x > 0) __syncthreads(); x[threadIdx.x] = 1; }
    __global__ void whole(int* x, long long i) { x[i] = 1; }
    """
    functions = build_kernels(text, ("part", "whole"))
    x = np.zeros(4, np.int32)
    with pytest.raises(AssertionError, match="waited at a barrier"):
        run_kernel(functions["part"], (1, 1, 1), (4, 1, 1), (x,))
    with pytest.raises(AssertionError, match="do not fit the kernel"):
        run_kernel(functions["whole"], (1, 1, 1), (1, 1, 1), (x, np.int32(2)))
    x[...] = 0
    run_kernel(functions["whole"], (1, 1, 1), (1, 1, 1), (x, np.int64(2)))
    assert x.tolist() == [0, 0, 1, 0]


# Launches


@needs_compiler
@pytest.mark.parametrize("size", [1, 3, 4, 5, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_arrays_of_any_length_and_alignment(size, dtype):
    kernels = HostKernels()
    x = normal(size + 1).astype(dtype)
    for array in (x[:size], x[1:]):
        assert np.array_equal(kernels.relu(array), np.maximum(array, 0))


@needs_compiler
def test_more_than_65535_blocks(monkeypatch):
    monkeypatch.setattr(launching, "THREADS", 1)
    monkeypatch.setattr(launching, "MAX_BLOCKS", 1 << 20)
    host = Host()
    x = normal(4 * 70_000 + 1, dtype=np.float32)
    with running_on(host):
        y = cuda.relu(x)
    assert host.launches[-1][1:] == ((70_001, 1, 1), (1, 1, 1))
    assert np.array_equal(y, np.maximum(x, 0))


@needs_compiler
def test_few_blocks_go_on_until_all_is_done(monkeypatch):
    monkeypatch.setattr(launching, "MAX_BLOCKS", 2)
    host = Host()
    x = normal(9, 7, 20, 3)
    with running_on(host):
        assert np.array_equal(cuda.relu(x), np.maximum(x, 0))
    assert host.launches[-1][1] == (2, 1, 1)


@needs_compiler
@pytest.mark.parametrize("channels", [1, 3, 16, 64, 300, 2048])
@pytest.mark.parametrize("pixels", [2, 7, 64, 5000])
def test_batch_norm_stays_within_the_limits_of_a_grid(channels, pixels):
    host = Host()
    x = normal(pixels, channels, dtype=np.float32)
    with running_on(host):
        mean, _ = cuda.batch_norm_statistics(x)
    assert np.allclose(mean, x.mean(axis=0, dtype=np.float64), atol=1e-6)
    for _, grid, block in host.launches:
        assert 0 < grid[0] <= 2 * 1024
        assert grid[1] < 65_536
        assert np.prod(block) <= 256


def test_a_side_beyond_32_bits_is_refused():
    refused = pytest.raises(OverflowError, match="count sides and channels in 32 bits, got 2147483648")
    with running_on(Host()), refused:
        launch("conv", "patches<float, 1>", (1,), (1,), 1 << 31)


@needs_compiler
def test_an_index_beyond_32_bits_is_split_right():
    text = (
        source_text("elementwise")
        + """
    template <typename T> __global__ void split(Index first, const int* sides, Index* parts, int count) {
        Index i = first + first_index();
        for (int side = 0; side < count; side++) parts[side] = pop(i, sides[side]);
        parts[count] = i;
    }
    """
    )
    run = build_kernels(text, ("split<float>",))["split<float>"]
    sides = np.array([64, 7, 1, 513], np.int32)
    for first in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 10**13 + 12345):
        parts = np.empty(5, np.int64)
        run_kernel(run, (1, 1, 1), (1, 1, 1), (np.int64(first), sides, parts, np.int32(4)))
        whole = np.unravel_index(first, (1 << 40, 513, 1, 7, 64))
        assert parts.tolist() == [int(part) for part in whole[::-1]]


@needs_compiler
def test_the_position_of_a_thread_is_counted_in_64_bits():
    text = source_text("elementwise") + "__global__ void where(Index* at) { at[threadIdx.x] = first_index(); }"
    run = build_kernels(text.replace("blockIdx.x)", "(blockIdx.x + (1u << 30)))"), ("where",))["where"]
    at = np.empty(8, np.int64)
    run_kernel(run, (1, 1, 1), (8, 1, 1), (at,))
    assert at.tolist() == [2**33 + lane for lane in range(8)]


@needs_compiler
def test_images_of_more_than_2_to_the_31_numbers(tmp_path):
    shape = (1, 1, 65_537, 1 << 15)  # a file of zeros that takes no room but where it is written
    x = np.memmap(tmp_path / "large", np.float16, "w+", shape=shape)
    x[0, 0, -1, -1] = 3
    x[0, 0, 32_768, 0] = 2
    kernels = HostKernels(Host())
    indices = np.array([[[[x.size - 1, 0]]]])
    assert kernels.gather_planes(np.asarray(x), indices).ravel().tolist() == [3, 0]
    y, found = kernels.max_pool2d(
        np.asarray(x), Pool2dGeometry(shape, (1, 1), (32_768, (1 << 15) - 1), (0, 0), (1, 1), (3, 2))
    )
    assert y[0, 0].tolist() == [[0, 0], [2, 0], [0, 3]]
    assert found[0, 0, 2, 1] == x.size - 1
    geometry = Conv2dGeometry(shape, (1, 1, 1, 1), (32_768, (1 << 15) - 1))
    w = np.full((1, 1, 1, 1), 2, np.float16)
    assert kernels.conv2d(np.asarray(x), w, geometry)[0, 0].tolist() == [[0, 0], [4, 0], [0, 6]]
    two_filters = Conv2dGeometry(shape, (2, 1, 1, 1), (32_768, (1 << 15) - 1))  # through patches
    w = np.array([2, 3], np.float16).reshape(2, 1, 1, 1)
    assert kernels.conv2d(np.asarray(x), w, two_filters)[0].tolist() == [
        [[0, 0], [4, 0], [0, 6]],
        [[0, 0], [6, 0], [0, 9]],
    ]


# Numbers of 16 bits

half_dtypes = pytest.mark.parametrize(
    "dtype", [np.float16, pytest.param(ml_dtypes.bfloat16, marks=pytest.mark.slow)], ids=["float16", "bfloat16"]
)


def close_to(actual, exact, dtype):
    """Whether numbers are those in double precision, up to a rounding to ``dtype`` or two."""
    assert actual.dtype == dtype
    step = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(actual.astype(np.float64), exact, rtol=2 * step, atol=2 * step)


@needs_compiler
@half_dtypes
def test_every_16_bit_number_is_rounded_to_the_nearest(dtype):
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    kernels = HostKernels(Host())
    expected = np.where(every.astype(np.float32) <= 0, dtype(0), every)
    actual = kernels.relu(every)
    nan = np.isnan(expected.astype(np.float32))
    assert np.array_equal(actual[~nan].view(np.uint16), expected[~nan].view(np.uint16))
    assert np.isnan(actual[nan].astype(np.float32)).all()
    with np.errstate(over="ignore", invalid="ignore"):
        half = (every.astype(np.float32) + every[::-1].astype(np.float32)).astype(dtype)
    total = kernels.add(every, every[::-1].copy())
    nan = np.isnan(half.astype(np.float32))
    assert np.array_equal(total[~nan], half[~nan])
    assert np.isnan(total[nan].astype(np.float32)).all()


@needs_compiler
@half_dtypes
@pytest.mark.parametrize("shape", [(4, 16, 6, 6), (3, 5, 7, 3)], ids=str)
def test_batch_norm_of_16_bit_numbers_is_that_in_double_precision(dtype, shape):
    kernels = HostKernels()
    c = shape[1]
    x, residual, dy = (normal(*shape, seed=seed).astype(dtype) for seed in range(3))
    weight, bias = (normal(c, seed=seed, dtype=np.float32) for seed in (3, 4))
    wide = [a.astype(np.float64) for a in (x, residual, dy, weight, bias)]
    mean, var = kernels.batch_norm_statistics(x)
    for actual, exact in zip((mean, var), reference.batch_norm_statistics(wide[0]), strict=True):
        close_to(actual, exact, np.float32)
    invstd = 1 / np.sqrt(var + np.float32(1e-5))
    wide_mean, wide_invstd = mean.astype(np.float64), invstd.astype(np.float64)
    y = kernels.batch_norm(x, mean, invstd, weight, bias, residual, True)
    close_to(y, reference.batch_norm(wide[0], wide_mean, wide_invstd, wide[3], wide[4], wide[1], True), dtype)
    output = y.astype(np.float64)
    gradients = kernels.batch_norm_grad(dy, x, y, mean, invstd, weight, bias, True, False, True)
    vectors = wide_mean, wide_invstd, *wide[3:]
    exact = reference.batch_norm_grad(wide[2], wide[0], output, *vectors, True, False, True)
    for a, b, stored in zip(gradients, exact, (dtype, np.float32, np.float32, dtype), strict=True):
        assert a.dtype == stored
        assert relative_error(a.astype(np.float64), b) < 4 * float(ml_dtypes.finfo(stored).eps)


@needs_compiler
@half_dtypes
@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (3, 1), (8, 8)], ids=["8", "3", "depthwise"])
def test_convolution_and_pooling_of_16_bit_numbers_are_those_in_double_precision(dtype, channels, groups):
    kernels = HostKernels()
    filters = (8, channels // groups, 3, 3)
    geometry = Conv2dGeometry((2, channels, 6, 5), filters, (2, 1), ((1, 1), (1, 1)), groups=groups)
    x, w, dy = (
        normal(*shape, seed=seed).astype(dtype)
        for seed, shape in enumerate((geometry.input_shape, geometry.weight_shape, geometry.output_shape))
    )
    wide = [a.astype(np.float64) for a in (x, w, dy)]
    step = float(ml_dtypes.finfo(dtype).eps)
    for actual, exact in (
        (kernels.conv2d(x, w, geometry), reference.conv2d(*wide[:2], geometry)),
        (kernels.conv2d_input_grad(dy, w, geometry), reference.conv2d_input_grad(wide[2], wide[1], geometry)),
        (kernels.conv2d_weight_grad(x, dy, geometry), reference.conv2d_weight_grad(wide[0], wide[2], geometry)),
    ):
        assert actual.dtype == dtype
        assert relative_error(actual.astype(np.float64), exact) < 4 * step
    window = Pool2dGeometry(geometry.input_shape, (3, 2), (2, 1), (1, 1), (1, 1), (3, 6))
    y, indices = kernels.max_pool2d(x, window)
    exact_y, exact_indices = reference.max_pool2d(wide[0], window)
    assert np.array_equal(y.astype(np.float64), exact_y)
    assert np.array_equal(indices, exact_indices)
    ones = np.ones(y.shape, dtype)
    scattered = kernels.max_pool2d_input_grad(ones, indices, x.shape)
    assert np.array_equal(
        scattered.astype(np.float64), reference.max_pool2d_input_grad(np.ones(y.shape), indices, x.shape)
    )
    close_to(kernels.sum_pool2d(x, window), reference.sum_pool2d(wide[0], window), dtype)
    close_to(kernels.adaptive_avg_pool2d(x, (2, 3)), reference.adaptive_avg_pool2d(wide[0], (2, 3)), dtype)
    pooled = normal(2, channels, 2, 3).astype(dtype)
    exact = reference.adaptive_avg_pool2d_input_grad(pooled.astype(np.float64), x.shape)
    close_to(kernels.adaptive_avg_pool2d_input_grad(pooled, x.shape), exact, dtype)
