"""A reader of the pickles that CIFAR comes in, which runs nothing.

Loading a pickle with the standard library calls whatever functions the file names. This reader has no functions to
call: it walks through the opcodes and builds numbers, strings, lists, tuples, dicts and uint8 arrays, which is all that
the official files hold, and refuses the rest. An array is recognised by the three names that NumPy's own pickles use.
Memory is bounded by the size of the file, as no opcode admitted here makes more than it brings along.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
NDARRAY = ("numpy", "ndarray")
DTYPE = ("numpy", "dtype")


class RefusedPickle(ValueError):
    """The file is no pickle, a damaged one, or one that holds more than data."""


class _Name(tuple):
    """A global name, (module, name): never looked up."""


class _DType:
    """Stands for ``numpy.dtype``, of which only unsigned bytes are known."""

    def __init__(self, code: Any = None) -> None:
        if code not in (b"u1", "u1"):
            raise RefusedPickle("it holds an array that is not made of unsigned bytes")


class _Array:
    """Stands for a NumPy array until its state arrives."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def fill(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise RefusedPickle("it holds an array that is not made of unsigned bytes")
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def read_pickle(content: bytes) -> Any:
    """Return the object in a pickle of plain data; byte strings of Python 2 come as bytes, arrays as ndarrays.

    Raises
    ------
    RefusedPickle
        If the file is damaged, or holds or calls anything else; the message says what.
    """
    try:
        return _plain(_Machine().run(content))
    except RefusedPickle:
        raise
    except Exception as error:  # a damaged pickle can trip any of the steps below; each means the same
        raise RefusedPickle(f"it is no intact pickle ({error or type(error).__name__})") from error


def _plain(value: Any) -> Any:
    """Put real arrays in place of their stand-ins, one level deep, where CIFAR has them."""
    if isinstance(value, dict):
        return {key: each.values if isinstance(each, _Array) else each for key, each in value.items()}
    return value


class _Machine:
    """The stack machine of the pickle format (PEP 307 and 3154), without the opcodes that reach outside."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in PUSHED:
                self.stack.append(PUSHED[opcode.name](argument))
            elif opcode.name in STEPS:
                STEPS[opcode.name](self, argument)
            elif opcode.name not in IGNORED:
                raise RefusedPickle(f"it uses the pickle operation {opcode.name}, which no CIFAR file does")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def tuple_from_mark(self, _: Any) -> None:
        self.stack.append(tuple(self.since_mark()))

    def tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        self._list().append(item)

    def appends(self, _: Any) -> None:
        items = self.since_mark()
        self._list().extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def set_items(self, _: Any) -> None:
        items = self.since_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _list(self) -> list[Any]:
        if not isinstance(self.stack[-1], list):
            raise RefusedPickle("it appends to something that is no list")
        return self.stack[-1]

    def _set(self, key: Any, value: Any) -> None:
        # Strings only: to hash a tuple of pairs of pairs of ... takes time exponential in its depth.
        if not isinstance(self.stack[-1], dict) or not isinstance(key, str | bytes):
            raise RefusedPickle("it sets an item of something that is no dict, or by a key that is no string")
        self.stack[-1][key] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def name(self, dotted: str) -> None:
        self._push_name(*dotted.split(" ", 1))

    def name_from_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedPickle("it refers to a name that is no string")
        if (module, name) not in {*RECONSTRUCT, NDARRAY, DTYPE}:
            raise RefusedPickle(f"it refers to {module[:40]}.{name[:40]}, which could run code and no CIFAR file does")
        self.stack.append(_Name((module, name)))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(function, _Name) and function == DTYPE:
            self.stack.append(_DType(arguments[0]))
        elif isinstance(function, _Name) and function in RECONSTRUCT and arguments[0] == NDARRAY:
            self.stack.append(_Array())
        else:
            raise RefusedPickle("it calls something that makes no array")

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Array):
            target.fill(state)
        elif not isinstance(target, _DType):
            raise RefusedPickle("it sets the state of something that is no array")


def _same(value: Any) -> Any:
    return value


def _to_bytes(value: str) -> bytes:
    """Undo the decoding that pickletools applies to the byte strings of Python 2."""
    return value.encode("latin-1")


PUSHED: dict[str, Callable[[Any], Any]] = {
    "BININT": _same,
    "BININT1": _same,
    "BININT2": _same,
    "LONG1": _same,
    "BINSTRING": _to_bytes,
    "SHORT_BINSTRING": _to_bytes,
    "BINBYTES": _same,
    "SHORT_BINBYTES": _same,
    "BINUNICODE": _same,
    "SHORT_BINUNICODE": _same,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
}

STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_from_mark,
    "TUPLE1": _Machine.tuple1,
    "TUPLE2": _Machine.tuple2,
    "TUPLE3": _Machine.tuple3,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}

IGNORED = {"PROTO", "FRAME", "STOP"}
