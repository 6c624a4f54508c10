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
    fresh = memory.Pool()
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
    assert pool.held_bytes == 0


def test_arrays_begin_where_cache_lines_do(pool):
    for shape in ((1,), (3,), (17, 5), LARGE, (*LARGE, 3)):
        arrays = [memory.empty(shape, FLOAT32) for _ in range(3)]
        assert [array.ctypes.data % 64 for array in arrays] == [0, 0, 0]


def test_what_is_given_up_serves_arrays_of_any_size(pool):
    small = [memory.empty(LARGE, FLOAT32) for _ in range(3)]
    places = [address(array) for array in small]
    del small
    assert pool.used_bytes == 0
    large = memory.empty((3, *LARGE), FLOAT32)  # over all three
    assert address(large) == places[0]
    del large
    again = [memory.empty(LARGE, FLOAT32) for _ in range(3)]
    assert [address(array) for array in again] == places
    assert pool.held_bytes == pool.used_bytes == 3 * memory.LEAST_BYTES


def test_the_smallest_gap_that_is_large_enough_is_taken(pool):
    arrays = [memory.empty((count, *LARGE), FLOAT32) for count in (3, 1, 2, 1, 4, 1)]
    places = [address(array) for array in arrays]
    for index in (0, 2, 4):  # gaps of 3, 2 and 4, apart
        arrays[index] = None
    assert address(memory.empty((2, *LARGE), FLOAT32)) == places[2]
    first = memory.empty((3, *LARGE), FLOAT32)
    assert address(first) == places[0]
    rest = memory.empty(LARGE, FLOAT32)  # the gap of 2 is the smallest that is left
    assert address(rest) == places[2]
    beyond = memory.empty((5, *LARGE), FLOAT32)
    assert address(beyond) > places[5]


@pytest.mark.parametrize("segment_bytes", [1 << 30, 8 * memory.LEAST_BYTES])
def test_arrays_never_overlap_and_little_is_held(pool, monkeypatch, segment_bytes):
    """Random arrays come and go; each keeps its own number, in one segment or in many."""
    monkeypatch.setattr(memory, "SEGMENT_BYTES", segment_bytes)
    random = np.random.default_rng(0)
    alive, most = {}, 0
    for number in range(400):
        if alive and random.random() < 0.5:
            chosen = random.choice(list(alive))
            array = alive.pop(chosen)
            assert (array == chosen).all()
            del array
        elif len(alive) < 12:
            count = LARGE[0] + int(random.integers(0, 2 * LARGE[0]))
            alive[number] = memory.empty((count,), FLOAT32)
            alive[number].fill(number)
        used = sum(-(-array.nbytes // 64) * 64 for array in alive.values())
        most = max(most, used)
        assert pool.used_bytes == used
    assert pool.held_bytes < 2 * most
    alive.clear()
    assert pool.used_bytes == 0
    assert pool.idle == []  # all joined again and below no top


def test_an_array_larger_than_a_segment_gets_its_own(pool, monkeypatch):
    monkeypatch.setattr(memory, "SEGMENT_BYTES", 2 * memory.LEAST_BYTES)
    array = memory.zeros((5, *LARGE), FLOAT32)
    assert not array.any()
    assert pool.held_bytes == 5 * memory.LEAST_BYTES


def test_no_more_than_needed_is_asked_for_where_memory_is_scarce(pool, monkeypatch):
    plenty = memory._map

    def scarce(size):
        if size >= memory.SEGMENT_BYTES:
            raise MemoryError
        return plenty(size)

    monkeypatch.setattr(memory, "_map", scarce)
    arrays = [memory.zeros(LARGE, FLOAT32) for _ in range(2)]
    assert [segment.end - segment.top for segment in pool.segments] == [0, 0]
    assert not np.shares_memory(*arrays)


def test_too_large_an_array_is_a_memory_error(pool):
    for elements in (1 << 50, 1 << 62):  # of addresses; of what an integer holds
        with pytest.raises(MemoryError, match="bytes of memory"):
            memory.empty((elements,), FLOAT32)
    assert memory.zeros(LARGE, FLOAT32).shape == LARGE
    assert pool.used_bytes == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read from /proc: Linux only")
def test_idle_memory_is_given_back_and_taken_again(pool):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def ones():
        array = memory.empty((64, *LARGE), FLOAT32)
        array.fill(1)
        return array

    first, gap, last = ones(), ones(), ones()
    full = resident()
    del gap
    memory.give_back()
    assert full - resident() == pytest.approx(64 * memory.LEAST_BYTES, rel=0.1)
    assert first.min() == last.min() == 1
    again = ones()
    assert address(first) < address(again) < address(last)
    del last, again
    memory.give_back()
    assert full - resident() == pytest.approx(128 * memory.LEAST_BYTES, rel=0.1)
    assert first.min() == 1
    assert pool.held_bytes == first.nbytes


def test_a_forked_child_changes_only_its_own_copy(pool):
    array = memory.zeros(LARGE, FLOAT32)
    child = os.fork()
    if child == 0:
        array.fill(1)
        os._exit(0)
    os.waitpid(child, 0)
    assert not array.any()


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


def test_an_interrupt_is_never_lost(interruptible):
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
