"""Large arrays get the memory of those that went before them, and nobody else's."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest

from minires.kernels.cpu import memory

FLOAT32 = np.dtype(np.float32)
LARGE = (memory.LEAST_BYTES // 4,)


@pytest.fixture
def pool(monkeypatch):
    fresh = memory._Pool()
    monkeypatch.setattr(memory, "_pool", fresh)
    return fresh


def address(array):
    return array.__array_interface__["data"][0]


def test_the_next_array_of_that_size_gets_the_memory(pool):
    first = memory.empty(LARGE, FLOAT32)
    place = address(first)
    del first
    assert address(memory.empty((LARGE[0] // 2,), np.dtype(np.float64))) == place


def test_a_view_keeps_the_memory(pool):
    array = memory.empty((4, *LARGE), FLOAT32)
    view = array[1:, ::2].T
    place = address(array)
    del array
    gc.collect()
    assert address(memory.empty((4, *LARGE), FLOAT32)) != place
    assert pool.used_bytes == 4 * memory.LEAST_BYTES
    del view
    assert pool.used_bytes == 0


def test_arrays_are_writable_contiguous_and_of_their_dtype(pool):
    array = memory.zeros((2, 3, *LARGE), np.dtype(np.float64))
    assert array.dtype == np.float64
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.flags.aligned
    array += 1
    del array
    assert not memory.zeros((2, 3, *LARGE), np.dtype(np.float64)).any()


def test_small_and_empty_arrays_do_not_come_from_the_pool(pool):
    assert memory.empty((3,), FLOAT32).shape == (3,)
    assert memory.zeros((0, 5), FLOAT32).shape == (0, 5)
    assert pool.most_used_bytes == 0


def test_arrays_begin_where_cache_lines_do(pool):
    for shape in ((1,), (3,), (17, 5), LARGE, (*LARGE, 3)):
        arrays = [memory.empty(shape, FLOAT32) for _ in range(3)]
        assert [array.ctypes.data % 64 for array in arrays] == [0, 0, 0]


def test_idle_memory_never_adds_to_more_than_was_in_use(pool):
    arrays = [memory.empty(LARGE, FLOAT32) for _ in range(3)]
    del arrays
    assert pool.idle_bytes == 3 * memory.LEAST_BYTES
    kept = memory.empty((2, *LARGE), FLOAT32)  # no idle memory of that size
    assert pool.used_bytes + pool.idle_bytes <= 3 * memory.LEAST_BYTES
    del kept
    assert pool.idle_bytes == 3 * memory.LEAST_BYTES


def test_threads_never_share_memory(pool):
    errors = []

    def fill(number):
        for _ in range(50):
            array = memory.empty(LARGE, FLOAT32)
            array.fill(number)
            if not (array == number).all():
                errors.append(number)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pool.used_bytes == 0


def test_an_interrupt_is_never_lost():
    """Python swallows what is raised while an object goes: Ctrl-C must not come then."""
    sent, arrived = 30, 0

    def interrupt(delay):
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)

    for number in range(sent):
        sender = threading.Thread(target=interrupt, args=(0.002 + number * 1e-4,))
        try:
            sender.start()
            end = time.monotonic() + 10
            while time.monotonic() < end:
                for _ in range(100):
                    memory.empty(LARGE, FLOAT32)
        except KeyboardInterrupt:
            arrived += 1
        sender.join()
    assert arrived == sent
