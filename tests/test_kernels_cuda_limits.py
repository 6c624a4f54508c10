"""The CUDA kernels at the borders of chunks, and on arrays of more than 2^31 numbers."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_shim import Host, build_kernels, run_kernel
from kernel_cases import needs_compiler, relative_error
from test_kernels_conv import arrays, three_maps, torch_maps

from minires.kernels import cuda
from minires.kernels.cuda import conv
from minires.kernels.cuda.launch import running_on
from minires.kernels.cuda.source import source_text
from minires.kernels.geometry import Conv2dGeometry

pytestmark = needs_compiler

# input (N, C, H, W), weight (O, C/G, R, S), stride, ((top, bottom), (left, right)), dilation, groups
CHUNKED = {
    "3x3": ((5, 4, 6, 7), (6, 4, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "grouped stride 2": ((5, 8, 6, 5), (4, 2, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4),
    "1x1 stride 2": ((5, 4, 5, 6), (3, 4, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
}


@pytest.mark.parametrize("row", CHUNKED.values(), ids=list(CHUNKED))
@pytest.mark.parametrize(
    ("images", "less", "chunks"),
    [(0, 0, 5), (2, 1, 5), (2, 0, 3), (3, 0, 2), (5, 1, 2), (5, 0, 1)],
    ids=str,
)
def test_patches_are_written_in_chunks_of_whole_images(monkeypatch, row, images, less, chunks):
    geometry = Conv2dGeometry(*row)
    given = arrays(geometry)
    _, _, p, q = geometry.output_shape
    bytes_each = p * q * geometry.input_shape[1] * geometry.weight_shape[2] * geometry.weight_shape[3] * 8
    monkeypatch.setattr(conv, "PATCH_BYTES", images * bytes_each - less)
    host = Host()
    with running_on(host):
        results = three_maps(cuda, *given, geometry)
    launched = [kernel.partition("<")[0] for kernel, _, _ in host.launches]
    assert launched.count("patches") == 2 * chunks  # of the convolution and of the weight gradient
    assert launched.count("from_patches") == chunks
    for actual, expected in zip(results, torch_maps(*given, geometry), strict=True):
        assert relative_error(actual, expected) < 1e-12


# More than 2^31 numbers, in files of zeros that take room only where they are written to. The launch that would do all
# of it is far too long for the host: one block of it runs, whose number is added to what the kernel reads as its own.


def large(path, shape, dtype):
    return np.memmap(path, dtype, "w+", shape=shape)


def one_block(source, kernel, number, block, arguments):
    text = source_text(source).replace("blockIdx.x", f"(blockIdx.x + {number}u)")
    run_kernel(build_kernels(text, (kernel,))[kernel], (1, 1, 1), block, arguments)


def test_sums_down_columns(tmp_path):
    outer, length, inner = 2**20 + 1, 32, 64
    x, y = large(tmp_path / "x", (outer, length, inner), np.float16), large(tmp_path / "y", (outer, inner), np.float16)
    x[-1] = np.arange(inner)
    sizes = np.int64(length), np.int32(inner), np.int32(1), np.int32(1), np.int64(32)
    one_block("reduce", "sum_columns<float16, 8>", outer - 1, (32, 8, 1), (x, None, y, *sizes))
    assert y[-1].tolist() == [32 * column for column in range(inner)]


def test_sums_along_rows(tmp_path):
    rows, length = 2**26 + 8, 32
    x, y = large(tmp_path / "x", (rows, length), np.float16), large(tmp_path / "y", (rows,), np.float16)
    x[-8:] = np.arange(8)[:, None]
    sizes = np.int64(length), np.int32(1), np.int64(32), np.int64(rows)
    one_block("reduce", "sum_rows<float16, 8>", 2**23, (32, 8, 1), (x, None, y, *sizes))
    assert y[-8:].tolist() == [32 * row for row in range(8)]


def test_images_of_bytes(tmp_path):
    n, side = 2**21 + 1, 32
    x, crops = large(tmp_path / "x", (n, side, side, 1), np.uint8), large(tmp_path / "crops", (n, 3), np.int32)
    x[-1, 30, 31], crops[-1] = 77, (30, 31, 0)
    values, y = np.arange(256, dtype=np.float32), np.zeros(n, np.float32)
    sizes = np.int32(side), np.int32(side), np.int32(1), np.int32(1), np.int32(1), np.int64(n)
    arguments = x, values, crops, np.int32(0), y, *sizes
    one_block("images", "crop_flip_normalize<float, 1>", 2**13, (256, 1, 1), arguments)
    assert y[-1] == 77
    assert not y[:-1].any()


@pytest.mark.slow
def test_depthwise_and_its_gradients(tmp_path):
    n, channels = 2**29 + 1, 4  # of one pixel each
    x, y = (large(tmp_path / name, (n, channels), np.float16) for name in "xy")
    x[-1], w = np.arange(4), np.array([1, 2, 3, 4], np.float16)
    sides = *(np.int32(1),) * 2, np.int32(channels), *(np.int32(1),) * 6, *(np.int32(0),) * 2, *(np.int32(1),) * 2
    for kernel in ("depthwise", "depthwise_input_grad"):
        y[-1] = -1
        one_block("depthwise", f"{kernel}<float16, 1>", 2**23, (256, 1, 1), (x, w, y, *sides, np.int64(x.size)))
        assert y[-1].tolist() == [0, 2, 6, 12]
    parts = np.zeros((2, 1, channels))
    share = 2**29
    arguments = x, x, parts, *sides, np.int32(1), np.int64(share), np.int64(n)
    one_block("depthwise", "depthwise_weight_grad<float16, 1>", 1, (32, 8, 1), arguments)
    assert parts.tolist() == [[[0, 0, 0, 0]], [[0, 1, 4, 9]]]
