"""The switches of recording: blocks, decorators, calls, generators, recursion and threads."""

from __future__ import annotations

import threading

import pytest
from twin import Programs, check

import minires
from minires.autograd import observe

program = Programs()


@program
def blocks_nest(lib):
    seen = [lib.is_grad_enabled()]
    with lib.no_grad():
        seen.append(lib.is_grad_enabled())
        with lib.enable_grad():
            seen.append(lib.is_grad_enabled())
            with lib.set_grad_enabled(False):
                seen.append(lib.is_grad_enabled())
            seen.append(lib.is_grad_enabled())
        seen.append(lib.is_grad_enabled())
    return [*seen, lib.is_grad_enabled()]


@program
def block_ends_with_an_exception(lib):
    try:
        with lib.no_grad():
            raise ZeroDivisionError
    except ZeroDivisionError:
        return lib.is_grad_enabled()


@program
def decorators(lib):
    @lib.no_grad()
    def off():
        return lib.is_grad_enabled()

    @lib.no_grad
    def off_too():
        return lib.is_grad_enabled()

    @lib.enable_grad()
    def on():
        return lib.is_grad_enabled()

    @lib.set_grad_enabled(False)
    def off_as_well():
        return lib.is_grad_enabled()

    after = lib.is_grad_enabled()
    with lib.no_grad():
        return off(), off_too(), on(), off_as_well(), after, off.__name__


@program
def decorated_recursion(lib):
    @lib.no_grad()
    def down(depth):
        if depth == 0:
            return [lib.is_grad_enabled()]
        with lib.enable_grad():
            return [*down(depth - 1), lib.is_grad_enabled()]

    return down(3), lib.is_grad_enabled()


@program
def decorated_method(lib):
    class Net:
        @lib.no_grad()
        def step(self, value, *, scale):
            return value * scale, lib.is_grad_enabled()

    return Net().step(3, scale=2)


@program
def decorated_generator(lib):
    seen = []

    @lib.no_grad()
    def steps():
        try:
            seen.append(lib.is_grad_enabled())
            got = yield 1
            seen.append((got, lib.is_grad_enabled()))
            try:
                yield 2
            except ZeroDivisionError:
                seen.append(lib.is_grad_enabled())
            yield 3
        finally:
            seen.append(lib.is_grad_enabled())

    generator = steps()
    seen.append(next(generator))
    seen.append(lib.is_grad_enabled())
    seen.append(generator.send("sent"))
    seen.append(lib.is_grad_enabled())
    seen.append(generator.throw(ZeroDivisionError))
    generator.close()
    seen.append(lib.is_grad_enabled())
    return seen


@program
def decorated_generator_returns_its_value(lib):
    @lib.no_grad()
    def inner():
        yield 1
        return 2

    def outer():
        result = yield from inner()
        yield result

    return list(outer())


@program
def switched_by_a_call(lib):
    before = lib.is_grad_enabled()
    lib.set_grad_enabled(False)
    during = lib.is_grad_enabled()
    lib.set_grad_enabled(True)
    return before, during, lib.is_grad_enabled()


@program
def same_object_entered_one_after_another(lib):
    mode = lib.no_grad()
    seen = []
    for _ in range(2):
        with mode:
            seen.append(lib.is_grad_enabled())
        seen.append(lib.is_grad_enabled())
    return seen


@program
def each_thread_has_its_own_mode(lib):
    seen = []
    with lib.no_grad():
        thread = threading.Thread(target=lambda: seen.append(lib.is_grad_enabled()))
        thread.start()
        thread.join()
        return seen, lib.is_grad_enabled()


@program
def results_record_by_mode(lib):
    x = lib.ones(2, requires_grad=True)
    with lib.no_grad():
        a = x * 2
        with lib.enable_grad():
            b = x * 2
        fresh = lib.ones(2, requires_grad=True)
    return a, b, fresh, (a * 2), (b * 2)


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_same_program_same_result_as_pytorch(run):
    check(run)


def test_same_object_entered_inside_itself():
    mode = minires.no_grad()
    with mode, mode:
        assert not minires.is_grad_enabled()
    assert minires.is_grad_enabled()


def test_decorated_function_in_two_threads_at_once():
    inside, leave = threading.Barrier(2, timeout=10), threading.Barrier(2, timeout=10)
    seen = []

    @minires.no_grad()
    def work():
        inside.wait()
        seen.append(minires.is_grad_enabled())
        leave.wait()

    def run():
        work()
        seen.append(minires.is_grad_enabled())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [False, False, True, True]


class Log:
    def __init__(self):
        self.entries = []

    def forward(self, function, inputs, outputs, seconds):
        assert seconds >= 0
        self.entries.append(("forward", function.name, len(inputs), outputs[0].shape))

    def backward(self, function, grad_outputs, grad_inputs, seconds):
        assert seconds >= 0
        self.entries.append(("backward", function.name, len(grad_outputs), [g is not None for g in grad_inputs]))


def test_observer_sees_each_operation_forward_and_backward():
    x, w = minires.ones(2, requires_grad=True), minires.ones(2)
    with observe(Log()) as log:
        (x * w).sum().backward()
    own = [entry for entry in log.entries if entry[1] in ("Mul", "Sum")]
    assert own[0] == ("forward", "Mul", 2, (2,))
    assert own[1] == ("forward", "Sum", 1, ())
    assert [entry[1] for entry in own if entry[0] == "backward"] == ["Sum", "Mul"]
    assert own[-1] == ("backward", "Mul", 1, [True, False])


def test_observers_stack_and_end_with_their_block():
    outer, inner = Log(), Log()
    with observe(outer):
        with observe(inner):
            minires.ones(2) * 2
        minires.ones(2) * 2
    minires.ones(2) * 2
    assert (len(outer.entries), len(inner.entries)) == (2, 1)


def test_observer_belongs_to_its_thread():
    with observe(Log()) as log:
        thread = threading.Thread(target=lambda: minires.ones(2) * 2)
        thread.start()
        thread.join()
    assert log.entries == []
