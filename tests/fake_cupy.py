"""A stand-in for CuPy and a GPU, on NumPy and the host shim, that can capture a stream and replay it.

Arrays on the "device" are `DeviceArray`s. What CuPy refuses is refused: NumPy arrays among them, and during a capture
all that reads from the device, and products by CuPy's cuBLAS. While a thread captures a stream, launches and changes in
place are written down and not done, so that whoever looks at a result finds garbage, as on a GPU. A replay does them.
"""

from __future__ import annotations

import importlib.machinery
import sys
import threading
import types
from collections import deque
from contextlib import contextmanager, nullcontext
from functools import cached_property
from types import SimpleNamespace

import numpy as np
from cuda_shim import HERE, Host, build

from minires.device import cupy, watched_memory
from minires.kernels.cuda.blas import Blas
from minires.kernels.cuda.launch import running_on


class Forbidden(RuntimeError):
    """What raises on a GPU while a stream is captured."""


class Tape(threading.local):
    """What a captured stream is to do: a capture concerns the thread that began it."""

    operations = None  # a list during a capture

    def is_on(self):
        return self.operations is not None

    def forbid(self, what):
        if self.is_on():
            raise Forbidden(f"{what} while a stream is captured")

    def do(self, operation):
        """Do what changes an array in place, or write it down."""
        if self.is_on():
            self.operations.append(operation)
        else:
            work.stream.synchronize()  # what the stream was given before comes before
            operation()

    def result(self, compute, *operands):
        """The array that ``compute`` makes of arrays: computed now for its shape and dtype, and again in a replay."""
        if not self.is_on():
            work.stream.synchronize()
        with np.errstate(all="ignore"):
            made = np.asarray(compute())
        if self.is_on() and not any(np.may_share_memory(made, operand) for operand in operands):
            made[...] = np.nan if made.dtype.kind == "f" else 0  # nothing was computed yet
            self.operations.append(lambda: np.copyto(made, compute()))
        return made.view(DeviceArray)


tape = Tape()


def plain(value, on_host="NumPy array"):
    """A NumPy array of the same memory; also within lists and tuples. Arrays on the host are refused."""
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"unsupported type: a {on_host} among arrays of the GPU")
    if isinstance(value, list | tuple):
        return type(value)(plain(each) for each in value)
    return value


def arrays_in(value):
    if isinstance(value, np.ndarray):
        return [value]
    return [array for each in value for array in arrays_in(each)] if isinstance(value, list | tuple) else []


class DeviceArray(np.ndarray):
    """An array on the stand-in for a GPU."""

    device = SimpleNamespace(id=0)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if ufunc is np.matmul:
            tape.forbid("cuBLAS by CuPy")
        operands, targets = plain(inputs), None if out is None else plain(out)
        function = getattr(ufunc, method)
        if targets is None:
            return tape.result(lambda: function(*operands, **options), *arrays_in(operands))
        tape.do(lambda: function(*operands, out=targets, **options))
        return out[0]

    def __array_function__(self, function, kinds, arguments, options):
        if function in (np.dot, np.vdot, np.tensordot, np.einsum):
            tape.forbid("cuBLAS by CuPy")
        operands = plain(arguments)
        return tape.result(lambda: function(*operands, **options), *arrays_in(operands))

    def __getitem__(self, key):
        keys = plain(key if isinstance(key, tuple) else (key,))
        if any(isinstance(each, np.ndarray) and each.dtype == bool for each in keys):
            tape.forbid("an index of booleans, whose number is read,")
        source = plain(self)
        return tape.result(lambda: source[keys], source)

    def __setitem__(self, key, value):
        target, keys, values = plain(self), plain(key), plain(value)
        tape.do(lambda: target.__setitem__(keys, values))

    def _method(name):
        def method(self, *arguments, **options):
            source, operands = plain(self), plain(arguments)
            return tape.result(lambda: getattr(source, name)(*operands, **options), source)

        return method

    astype, copy, argmax, argmin, reshape, ravel, flatten, take, repeat = map(
        _method, ("astype", "copy", "argmax", "argmin", "reshape", "ravel", "flatten", "take", "repeat")
    )

    def _reader(name):
        def method(self, *arguments):
            tape.forbid(f"{name} reads from the GPU")
            return getattr(plain(self), name)(*arguments)

        return method

    item, tolist, tobytes, __bool__, __int__, __float__, __index__ = map(
        _reader, ("item", "tolist", "tobytes", "__bool__", "__int__", "__float__", "__index__")
    )

    def get(self, order="C"):
        tape.forbid("get reads from the GPU")
        return np.array(plain(self), order=order)

    def set(self, values, stream):
        tape.forbid("a copy from the host")
        stream.give(lambda: plain(self).__setitem__(..., values))


class Stream:
    """A stream. Copies from the host, and launches behind them, are done only when somebody waits for them."""

    ptr = 0

    def __init__(self, non_blocking=False):
        self.given, self.done, self.waiting, self.lock = 0, 0, deque(), threading.RLock()
        self.outside = []

    def __enter__(self):
        self.outside.append(work.stream)
        work.stream = self
        return self

    def __exit__(self, *exception):
        work.stream = self.outside.pop()

    def give(self, operation):
        with self.lock:
            self.waiting.append(operation)
            self.given += 1

    def launch(self, operation):
        """Do a kernel's work, behind what is waited for."""
        with self.lock:
            self.give(operation)
            if len(self.waiting) == 1:
                self.finish(self.given)

    def finish(self, until):
        with self.lock:
            while self.done < until:
                self.waiting.popleft()()
                self.done += 1

    def record(self):
        tape.forbid("an event of another stream")
        return Event(self)

    def wait_event(self, event):
        tape.forbid("waiting for another stream")
        event.synchronize()

    def synchronize(self):
        tape.forbid("synchronize")
        self.finish(self.given)

    def begin_capture(self):
        assert not tape.is_on()
        tape.operations = []

    def end_capture(self):
        operations, tape.operations = tape.operations, None
        return Graph(operations)


class Event:
    """Behind what a stream was given so far."""

    def __init__(self, stream):
        self.stream, self.until = stream, stream.given

    def synchronize(self):
        self.stream.finish(self.until)


class Work(threading.local):
    """The stream that a thread works on."""

    def __init__(self):
        self.stream = Stream()


work = Work()


class Graph:
    def __init__(self, operations):
        self.operations = operations

    def launch(self, stream):
        stream.synchronize()
        with np.errstate(all="ignore"):
            for operation in self.operations:
                operation()


class Pool:
    def malloc(self, size):
        raise AssertionError("the stand-in allocates by NumPy")

    def used_bytes(self):
        return 0

    def free_all_blocks(self):
        pass

    total_bytes = used_bytes


class DeviceHost(Host):
    """The host shim on `DeviceArray`s, captured with the stream."""

    def __init__(self, falling=False):
        super().__init__(falling)
        self.kept = []  # what captured launches write to

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype).view(DeviceArray)
        if tape.is_on():
            self.kept.append(array)
        return array

    def from_host(self, array):
        tape.forbid("a copy from the host")
        return array.copy().view(DeviceArray)

    def run(self, source, kernel, grid, block, arguments):
        launch = super().run
        if tape.is_on():
            tape.do(lambda: launch(source, kernel, grid, block, arguments))
        else:
            work.stream.launch(lambda: launch(source, kernel, grid, block, arguments))

    @cached_property
    def _blas(self):
        library = build((HERE / "host_cublas.cpp").read_text())
        captured = SimpleNamespace(
            **{
                name: getattr(library, name)
                for name in ("cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2")
            },
            cublasGemmStridedBatchedEx=lambda *arguments: self._multiply(library, arguments),
        )
        return Blas(captured, lambda size: np.empty(size, np.uint8), self.pointer)

    def _multiply(self, library, arguments):
        def multiply():
            assert library.cublasGemmStridedBatchedEx(*arguments) == 0

        tape.do(multiply)
        return 0


class OpenGrid:
    def __getitem__(self, key):
        grid = np.ogrid[key]
        return [part.view(DeviceArray) for part in grid] if isinstance(grid, tuple | list) else grid.view(DeviceArray)


class Generator:
    def __init__(self, seed=None):
        self.numbers = np.random.default_rng(seed)

    def random(self, shape, dtype):
        return self.numbers.random(shape, dtype).view(DeviceArray)


class FakeCupy(types.ModuleType):
    """The module: NumPy's functions, whose results lie on the device."""

    ndarray = DeviceArray
    ogrid = OpenGrid()
    random = SimpleNamespace(default_rng=Generator)

    def __init__(self):
        super().__init__("cupy")
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)

        @contextmanager
        def using_allocator(allocate):
            yield

        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=lambda: 1, getDevice=lambda: 0),
            Device=lambda index: nullcontext(),
            Stream=Stream,
            MemoryPool=Pool,
            get_current_stream=lambda: work.stream,
            set_allocator=lambda allocate: None,
            using_allocator=using_allocator,
        )

    def get_default_memory_pool(self):
        return Pool()

    def asarray(self, values, *arguments):
        if isinstance(values, np.ndarray) and not isinstance(values, DeviceArray):
            tape.forbid("a copy from the host")
            return values.copy().view(DeviceArray)
        return tape.result(lambda: np.asarray(plain(values), *arguments), *arrays_in(plain(values)))

    def __getattr__(self, name):
        function = getattr(np, name)
        if isinstance(function, type) or not callable(function):
            return function  # a dtype or a number

        def run(*arguments, **options):
            if name in ("matmul", "dot", "einsum", "tensordot"):
                tape.forbid("cuBLAS by CuPy")
            if "out" in options:
                return function(*arguments, **options)  # see DeviceArray.__array_ufunc__
            operands = plain(arguments)
            if name in ("empty", "empty_like"):  # memory alone, nothing to do
                return function(*operands, **options).view(DeviceArray)
            return tape.result(lambda: function(*operands, **options), *arrays_in(operands))

        return run


@contextmanager
def gpu_in_place_of_cupy(monkeypatch):
    """Make "cuda" this stand-in, with the kernels of `minires.kernels.cuda` on the host shim; gives the shim."""
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=np.empty))
    caches = cupy, watched_memory
    for cache in caches:
        cache.cache_clear()
    host = DeviceHost()
    try:
        with running_on(host):
            yield host
    finally:
        for cache in caches:
            cache.cache_clear()
