"""The memory report and the out-of-memory error, on an array library that stands in for CuPy."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

import minires
from minires.gpu_memory import OutOfMemoryError, Watched, in_units

GIB = 1 << 30


class Refused(Exception):
    """What CuPy raises when a device has no more memory."""


class Pool:
    """A pool of 4 GiB that keeps what it was given back."""

    def __init__(self):
        self.used = self.held = 0

    def malloc(self, size):
        if self.used + size > 4 * GIB:
            raise Refused
        self.used += size
        self.held = max(self.held, self.used)

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.held

    def free_all_blocks(self):
        self.held = self.used


@pytest.fixture
def pool(monkeypatch):
    pool = Pool()
    runtime = SimpleNamespace(getDevice=lambda: 0, memGetInfo=lambda: (4 * GIB - pool.held, 4 * GIB))
    library = SimpleNamespace(
        get_default_memory_pool=lambda: pool,
        cuda=SimpleNamespace(
            runtime=runtime,
            memory=SimpleNamespace(OutOfMemoryError=Refused),
            Device=lambda number: nullcontext(),
            MemoryPool=Pool,
        ),
    )
    watched = Watched(library)
    monkeypatch.setattr(minires.cuda, "cupy", lambda: library)
    monkeypatch.setattr(minires.cuda, "watched_memory", lambda xp: watched)
    pool.allocate, pool.watched = watched.malloc, watched
    return pool


def test_the_report_tells_used_held_and_peak(pool):
    for size in (GIB, 2 * GIB):
        pool.allocate(size)
    pool.used -= 2 * GIB
    assert minires.cuda.memory_allocated() == GIB
    assert minires.cuda.memory_reserved("cuda:0") == 3 * GIB
    assert minires.cuda.max_memory_allocated(0) == 3 * GIB
    expected = "GPU 0: 1.0 GiB used, 3.0 GiB held, 3.0 GiB at the peak; 1.0 GiB of 4.0 GiB free"
    assert minires.cuda.memory_summary() == expected
    minires.cuda.empty_cache()
    minires.cuda.reset_peak_memory_stats()
    assert minires.cuda.memory_reserved() == minires.cuda.max_memory_allocated() == GIB
    pool.allocate(512)
    assert minires.cuda.max_memory_allocated() == GIB + 512


def test_the_pool_of_a_captured_step_counts_while_it_is_kept(pool):
    pool.allocate(GIB)
    allocate = pool.watched.private_pool()
    allocate(2 * GIB)
    assert pool.used == GIB
    assert minires.cuda.memory_allocated() == minires.cuda.max_memory_allocated() == 3 * GIB
    assert minires.cuda.memory_reserved() == 3 * GIB
    with pytest.raises(OutOfMemoryError, match=r"3\.0 GiB were asked for.*This process uses 3\.0 GiB"):
        allocate(3 * GIB)
    del allocate
    assert minires.cuda.memory_allocated() == GIB


def test_the_error_says_how_much_there_was_and_what_to_try(pool):
    pool.allocate(3 * GIB)
    pool.used -= GIB
    with pytest.raises(OutOfMemoryError) as caught:
        pool.allocate(5 * GIB // 2)
    message = str(caught.value)
    assert "2.5 GiB were asked for" in message
    assert "of its 4.0 GiB only 1.0 GiB are free" in message
    assert "uses 2.0 GiB and holds 1.0 GiB more" in message
    assert "smaller batch" in message
    assert "--recompute" in message
    assert isinstance(caught.value, RuntimeError)
    assert minires.cuda.max_memory_allocated() == 3 * GIB


def test_memory_of_the_cpu_is_not_reported(pool):
    for function in (minires.cuda.memory_allocated, minires.cuda.max_memory_allocated, minires.cuda.memory_summary):
        with pytest.raises(ValueError, match="memory is asked of a GPU, got device cpu"):
            function("cpu")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"), (3 << 50, "3072.0 TiB")],
)
def test_bytes_for_people(size, text):
    assert in_units(size) == text
