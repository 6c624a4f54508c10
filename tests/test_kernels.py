"""The kernel modules as a whole: equal signatures, nothing compiled at import, threads that share work and errors."""

from __future__ import annotations

import inspect
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_cases import always_threaded, every_module, normal, relative_error  # noqa: F401 (a fixture)

from minires.kernels import cpu, get_num_threads, kernels_for, reference, set_num_threads, use_reference
from minires.kernels import threads as threads_module
from minires.kernels.cpu import launch, team
from minires.kernels.geometry import Conv2dGeometry


def test_reference_and_cpu_offer_the_same_functions():
    assert reference.__all__ == cpu.__all__


@pytest.mark.parametrize("name", reference.__all__)
def test_signatures_are_equal(name):
    assert inspect.signature(getattr(reference, name)) == inspect.signature(getattr(cpu, name))


def test_kernels_for_picks_the_compiled_module_unless_told_otherwise():
    x = np.zeros(3)
    assert kernels_for(x) is cpu
    with use_reference():
        assert kernels_for(x) is reference
    assert kernels_for(x) is cpu


@every_module
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4, 5), (0, 2)], ids=str)
def test_erf(kernels, dtype, shape):
    x = np.asarray(normal(*shape), dtype)
    expected = np.array([math.erf(value) for value in x.ravel()], dtype).reshape(shape)
    assert kernels.erf(x).dtype == dtype
    assert relative_error(kernels.erf(x), expected) < 4 * np.finfo(dtype).eps


def test_import_compiles_nothing():
    program = (
        "from minires.kernels import cpu; from numba.core.dispatcher import Dispatcher\n"
        "from minires.kernels.cpu import conv, elementwise, norm, pool\n"
        "kernels = [f for m in (conv, elementwise, norm, pool) for f in vars(m).values()"
        " if isinstance(f, Dispatcher)]\n"
        "assert len(kernels) >= 10 and not any(f.signatures for f in kernels)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_each_kernel_is_compiled_once_for_a_dtype():
    geometry = Conv2dGeometry((2, 4, 5, 5), (4, 4, 3, 3), padding=((1, 1), (1, 1)))
    x, w = normal(2, 4, 5, 5), normal(4, 4, 3, 3)
    for array in (x, x[::-1], x.transpose(0, 1, 3, 2), np.asfortranarray(x)):
        cpu.conv2d(array, w, geometry)
        cpu.relu(array)
    for function in (cpu.blocks._multiply_items, cpu.elementwise._relu):
        # That of the first array: tables are int32 whatever the numbers are.
        dtypes = [next(t.dtype for t in signature if hasattr(t, "dtype")) for signature in function.signatures]
        assert len(dtypes) == len(set(dtypes))


@launch.kernel
def mark(start, stop, done):
    for item in range(start, stop):
        done[item] += 1


@launch.kernel
def fail_at(start, stop, item):
    if start <= item < stop:
        raise MemoryError


@pytest.mark.parametrize(("items", "threads"), [(0, 3), (1, 3), (2, 3), (3, 3), (10, 3), (10, 1), (5, 8)])
def test_launch_covers_every_item_once(monkeypatch, items, threads):
    monkeypatch.setattr(launch, "SERIAL_WORK", 0)
    monkeypatch.setattr(launch, "get_num_threads", lambda: threads)
    done = np.zeros(items, int)
    for times in range(1, 101):
        launch.launch(mark, items, 1, done)
        assert np.all(done == times)


def test_little_work_stays_in_the_calling_thread(monkeypatch):
    monkeypatch.setattr(launch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(launch, "_team_of", lambda size: pytest.fail("a team was asked for"))
    done = np.zeros(100, int)
    launch.launch(mark, 100, launch.SERIAL_WORK - 1, done)
    assert np.all(done == 1)


@pytest.mark.parametrize("item", [0, 4, 8])
def test_an_error_in_any_thread_reaches_the_caller(always_threaded, item):  # noqa: F811
    with pytest.raises(MemoryError, match="fail_at: no memory"):
        launch.launch(fail_at, 9, 1, item)
    launch.launch(fail_at, 9, 1, 9)  # the next one is not held to have failed


def test_no_thread_keeps_the_arrays_of_its_last_job(always_threaded):  # noqa: F811
    x = np.zeros(9, int)
    launch.launch(mark, 9, 1, x)
    assert sys.getrefcount(x) == 2  # the name here and the argument of getrefcount


def test_a_launch_while_the_team_is_taken_does_all_its_spans(always_threaded, monkeypatch):  # noqa: F811
    monkeypatch.setattr(launch, "_team_of", lambda size: pytest.fail("the team is taken"))
    done = np.zeros(9, int)
    with launch._team_lock:
        launch.launch(mark, 9, 1, done)
    assert np.all(done == 1)


def test_the_team_is_taken_by_another_thread(always_threaded, monkeypatch):  # noqa: F811
    taken, done = threading.Event(), threading.Event()

    def take():
        with launch._team_lock:
            taken.set()
            done.wait()

    taker = threading.Thread(target=take)
    taker.start()
    taken.wait()
    with monkeypatch.context() as patch:
        patch.setattr(launch, "_team_of", lambda size: pytest.fail("the team is taken"))
        marks = np.zeros(9, int)
        launch.launch(mark, 9, 1, marks)
    done.set()
    taker.join()
    assert np.all(marks == 1)
    assert not launch._team_lock._is_owned()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that interrupt: Windows")
def test_an_interrupt_anywhere_in_a_launch_leaves_the_team_to_the_next(always_threaded):  # noqa: F811
    def interrupt(number, frame):
        raise KeyboardInterrupt

    done, interrupts = np.zeros(9, int), 0
    launch.launch(mark, 9, 1, done)  # compiles
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(600):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-3 + number % 100 * 1e-5)
                end = time.monotonic() + 0.1
                while time.monotonic() < end:  # an interrupt is lost where it comes while an object goes
                    launch.launch(mark, 9, 1, done)
            except KeyboardInterrupt:
                interrupts += 1
            assert not launch._team_lock._is_owned()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 300


def test_a_job_that_no_helper_begins_is_done_by_the_caller(always_threaded, monkeypatch):  # noqa: F811
    boards = np.zeros((2, team.PLACES), np.int64)
    nobody = SimpleNamespace(call=lambda: None)
    monkeypatch.setattr(launch, "_team_of", lambda size: SimpleNamespace(boards=boards, helpers=[nobody, nobody]))
    done = np.zeros(9, int)
    for times in range(1, 4):
        launch.launch(mark, 9, 1, done)
        assert np.all(done == times)
    assert np.all(boards[:, team.POSTED] == 3)


def test_helpers_do_the_jobs_posted_to_them(always_threaded):  # noqa: F811
    done = np.zeros(9, int)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        launch.launch(mark, 9, 1, done)
        boards = launch._team_of(2).boards[:2]
        if np.all(boards[:, team.DONE] > 0):
            return
    pytest.fail("in a minute no helper came to do a job")


def test_a_helper_that_fell_asleep_wakes_for_the_next_job(always_threaded):  # noqa: F811
    done = np.zeros(9, int)
    launch.launch(mark, 9, 1, done)
    helper, deadline = launch._team_of(2).helpers[0], time.monotonic() + 60
    while not helper.asleep and time.monotonic() < deadline:
        time.sleep(0.01)
    assert helper.asleep
    before = helper.board[team.DONE]
    while helper.board[team.DONE] == before and time.monotonic() < deadline:
        launch.launch(mark, 9, 1, done)
    assert helper.board[team.DONE] > before
    assert np.all(done == done[0])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"OMP_NUM_THREADS": " 3 "}, 3),
        ({"NUMBA_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "0", "NUMBA_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "-2", "NUMBA_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "many", "NUMBA_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "", "NUMBA_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "9" * 5000, "NUMBA_NUM_THREADS": "3"}, 3),
        ({}, None),
    ],
)
def test_the_environment_sets_the_number_of_threads(environment, expected):
    rest = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    program = "import minires; print(minires.get_num_threads())"
    run = subprocess.run(
        [sys.executable, "-c", program], env={**rest, **environment}, capture_output=True, text=True, check=True
    )
    quotas = threads_module._cpu_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    assert int(run.stdout) == (expected or min([len(os.sched_getaffinity(0)), *quotas]))


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {}, []),
        ("0::/", {"cpu.max": "max 100000"}, []),
        ("0::/", {"cpu.max": "250000 100000"}, [3]),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "50000 100000"}, [4, 1]),
        ("0::/docker/x", {"cpu.max": "200000 100000"}, [2]),  # the name outside of what is the root in the container
        ("3:cpu,cpuacct:/a", {"cpu,cpuacct/a/cpu.cfs_quota_us": 150, "cpu,cpuacct/a/cpu.cfs_period_us": 100}, [2]),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100}, []),
        ("4:cpuset:/", {"cpuset/cpu.max": "100000 100000"}, []),
    ],
)
def test_quotas_of_control_groups_limit_the_threads(group, files, expected, tmp_path, monkeypatch):
    (tmp_path / "groups").write_text(f"{group}\n2:memory:/\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    quotas = list(threads_module._cpu_quotas(tmp_path / "groups", tmp_path))
    assert quotas == expected
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads_module, "_cpu_quotas", lambda groups, mounted: quotas)
    monkeypatch.setattr(threads_module.os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert threads_module._available_cpus() == min([16, *expected])


@pytest.mark.parametrize("started", [0, 1, 2])
def test_where_no_more_threads_can_be_started_kernels_go_on_with_fewer(started, monkeypatch):
    monkeypatch.setattr(launch, "_team", None)
    monkeypatch.setattr(launch, "SERIAL_WORK", 0)
    begin = threading.Thread.start
    left = started

    def start(thread):
        nonlocal left
        if left == 0:
            raise RuntimeError("can't start new thread")
        left -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    before = get_num_threads()
    x, w = normal(2, 16, 8, 8), normal(16, 16, 3, 3)
    geometry = Conv2dGeometry(x.shape, w.shape, padding=((1, 1), (1, 1)))
    expected = reference.conv2d(x, w, geometry)
    done = np.zeros(100, int)
    try:
        for asked in (5, 9):
            left = started
            set_num_threads(asked)
            with pytest.warns(RuntimeWarning, match=f"kernels run on {started + 1} of the {asked} threads asked for"):
                launch.launch(mark, 100, 1, done)
            assert relative_error(cpu.conv2d(x, w, geometry), expected) < 1e-5  # and tries to start none again
            assert len(launch._team.helpers) == started
        set_num_threads(3)
        launch.launch(mark, 100, 1, done)
        assert np.all(done == 3)
    finally:
        set_num_threads(before)
        launch._team.end()


@pytest.mark.parametrize("threads", [2.0, "2", True, None])
def test_number_of_threads_must_be_an_integer(threads):
    with pytest.raises(TypeError, match="must be an int, got a"):
        set_num_threads(threads)


def test_number_of_threads_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        set_num_threads(0)


def test_several_python_threads_may_compute_at_once(always_threaded):  # noqa: F811
    geometry = Conv2dGeometry((4, 8, 12, 12), (8, 8, 3, 3), padding=((1, 1), (1, 1)))
    inputs = [normal(4, 8, 12, 12, seed=seed) for seed in range(8)]
    w = normal(8, 8, 3, 3)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: cpu.relu(cpu.conv2d(x, w, geometry)), inputs * 4))
    for x, y in zip(inputs * 4, results, strict=True):
        assert relative_error(y, np.maximum(reference.conv2d(x, w, geometry), 0)) < 1e-12


def test_a_program_ends_while_a_daemon_thread_computes():
    program = (
        "import threading, time, numpy as np\n"
        "from minires.kernels import set_num_threads\n"
        "from minires.kernels.cpu import relu\n"
        "set_num_threads(3)\n"
        "x = np.ones((1 << 18,), np.float32)\n"
        "def forever():\n"
        "    while True:\n"
        "        relu(x)\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
        "time.sleep(0.2)\n"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_kernels_run_in_a_forked_child():
    program = (
        "import os, numpy as np\n"
        "from minires.kernels import set_num_threads\n"
        "from minires.kernels.cpu import relu\n"
        "set_num_threads(2)\n"
        "x = np.ones((1 << 18,), np.float32)\n"
        "relu(x)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if relu(x).sum() == x.size else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
