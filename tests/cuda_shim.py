"""A backend for the CUDA kernels on the host: their own text, built by g++ and run thread by thread (cuda_host.h)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from minires.kernels import cuda
from minires.kernels.cuda.blas import Blas
from minires.kernels.cuda.launch import running_on
from minires.kernels.cuda.source import instances, source_text, type_of

HERE = Path(__file__).parent
CACHE = HERE.parent / ".pytest_cache" / "cuda_host"
OPTIONS = ("-std=c++17", "-O1", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-shared", "-fPIC")
ERRORS = {1: "some threads of a block ended while others waited at a barrier", 2: "the arguments do not fit the kernel"}
ENTRY = """
extern "C" int launch_{0}(const unsigned* sizes, void** arguments, const size_t* bytes, size_t count, int order) {{
    return cuda_host::launch({1}, sizes, arguments, bytes, count, order);
}}"""


def compiler():
    """The path of g++, or None where there is none."""
    return shutil.which("g++")


class Host:
    """See `minires.kernels.cuda.launch.Backend`.

    Parameters
    ----------
    falling : run the threads of a block from the last to the first.
    edit : changes the text of the kernels before they are compiled, text -> text.
    """

    def __init__(self, falling=False, edit=lambda text: text):
        self.falling, self.edit = falling, edit
        self.launches = []  # (kernel, grid, block)
        self._functions = {}

    def empty(self, shape, dtype):
        """An array full of bytes that show where it was never written: NaN, or numbers out of all range."""
        return np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype).reshape(shape)

    def from_host(self, array):
        return array.copy()

    def pointer(self, array):
        return array.ctypes.data

    def run(self, source, kernel, grid, block, arguments):
        self.launches.append((kernel, grid, block))
        if (source, kernel) not in self._functions:
            names = instances(source, type_of(kernel))
            functions = build_kernels(self.edit(source_text(source)), names)
            self._functions.update({(source, name): function for name, function in functions.items()})
        run_kernel(self._functions[source, kernel], grid, block, arguments, self.falling)

    def blas(self):
        return self._blas

    @cached_property
    def _blas(self):
        library = build((HERE / "host_cublas.cpp").read_text())
        return Blas(library, lambda size: np.empty(size, np.uint8), self.pointer)


class HostKernels:
    """The functions of `minires.kernels.cuda` on the host, in both orders of threads, which must give the same bits."""

    def __init__(self, *hosts):
        self.hosts = hosts or (Host(), Host(falling=True))

    def __getattr__(self, name):
        def run(*arguments):
            results = []
            for host in self.hosts:
                with running_on(host):
                    results.append(getattr(cuda, name)(*arguments))
            for other in results[1:]:
                for a, b in zip(_listed(results[0]), _listed(other), strict=True):
                    assert a is b is None or np.array_equal(a, b, equal_nan=True), (
                        f"{name} depends on the order of threads"
                    )
            return results[0]

        return run


def build(text):
    """Compile C++ to a library, once for each text."""
    header = (HERE / "cuda_host.h").read_text()
    name = hashlib.sha256("|".join((text, header, *OPTIONS)).encode()).hexdigest()[:24]
    library = CACHE / f"{name}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            source, result = Path(folder) / "host.cpp", Path(folder) / "host.so"
            source.write_text(text)
            command = [compiler(), *OPTIONS, f"-I{HERE}", str(source), "-o", str(result)]
            run = subprocess.run(command, capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            os.replace(result, library)  # in one go: another test process may look for it now
    return ctypes.CDLL(str(library))


@cache
def build_kernels(text, names):
    """Compile kernels to functions for `run_kernel`, by name."""
    entries = "".join(ENTRY.format(number, name) for number, name in enumerate(names))
    library = build(f'#include "cuda_host.h"\n{text}\n{entries}\n')
    return {name: getattr(library, f"launch_{number}") for number, name in enumerate(names)}


def run_kernel(function, grid, block, arguments, falling=False):
    values = [_c_value(argument) for argument in arguments]
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
    sizes = (ctypes.c_size_t * len(values))(*[ctypes.sizeof(value) for value in values])
    status = function((ctypes.c_uint * 6)(*grid, *block), pointers, sizes, ctypes.c_size_t(len(values)), int(falling))
    assert status == 0, ERRORS[status]


def _c_value(argument):
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous, "a kernel was given an array that is not contiguous"
        return ctypes.c_void_p(argument.ctypes.data)
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


def _listed(result):
    return result if isinstance(result, tuple) else (result,)
