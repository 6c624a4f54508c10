"""A reader of the pickles that CIFAR comes in, which runs nothing.

Loading a pickle with the standard library calls whatever functions the file names. This reader has no functions to
call: it walks through the opcodes and builds numbers, strings, lists, tuples, dicts and uint8 arrays, which is all that
the official files hold, and refuses the rest. An array is recognised by the three names that NumPy's own pickles use.

The official files are mostly pixels, and so a file may have one operation for each 64 of its bytes, and a thousand
more. No operation makes more than some hundred bytes besides those it brings along: in all memory stays below eight
times the size of the file, and time at about a second for 32 MiB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.io import FileError, shown

RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
NDARRAY = ("numpy", "ndarray")
DTYPE = ("numpy", "dtype")


class RefusedPickle(FileError):
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
        if not isinstance(shape, tuple) or len(shape) > 4 or not all(type(length) is int for length in shape):
            raise RefusedPickle("it holds an array whose shape is not a few lengths")
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


class _Reader:
    """Takes the arguments of operations from a pickle, one after the other; EOFError where it ends too early."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        end = self.position + size
        if not self.position <= end <= len(self.content):
            raise EOFError("it ends too early")
        taken, self.position = self.content[self.position : end], end
        return taken

    def number(self, form: str) -> int:
        """Return the next number, in a form of the struct module."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def sized(self, form: str) -> bytes:
        """Return as many bytes as the next number says."""
        return self.take(self.number(form))

    def line(self) -> str:
        """Return text up to the end of a line, of at most 256 bytes."""
        end = self.content.find(b"\n", self.position, self.position + 256)
        if end < 0:
            raise EOFError("a name does not end")
        text = self.take(end - self.position).decode()
        self.take(1)
        return text


class _Machine:
    """The stack machine of the pickle format (PEP 307 and 3154), without the opcodes that reach outside."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        reader = _Reader(content)
        for _ in range(1000 + len(content) // 64):
            code = reader.take(1)
            if code == STOP:
                return self.stack.pop()
            if code in PUSHED:
                self.stack.append(PUSHED[code](reader))
            elif code in STEPS:
                STEPS[code](self, reader)
            else:
                raise RefusedPickle(f"it uses the pickle operation {_name_of(code)}, which no CIFAR file does")
        raise RefusedPickle("it has more operations than a file of images of its size")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def mark(self, _: _Reader) -> None:
        self.marks.append(len(self.stack))

    def tuple_from_mark(self, _: _Reader) -> None:
        self.stack.append(tuple(self.since_mark()))

    def tuple1(self, _: _Reader) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def tuple2(self, _: _Reader) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def tuple3(self, _: _Reader) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def append(self, _: _Reader) -> None:
        item = self.stack.pop()
        self._list().append(item)

    def appends(self, _: _Reader) -> None:
        items = self.since_mark()
        self._list().extend(items)

    def set_item(self, _: _Reader) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def set_items(self, _: _Reader) -> None:
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

    def put(self, reader: _Reader) -> None:
        self.memo[reader.number("<B")] = self.stack[-1]

    def long_put(self, reader: _Reader) -> None:
        self.memo[reader.number("<I")] = self.stack[-1]

    def memoize(self, _: _Reader) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, reader: _Reader) -> None:
        self.stack.append(self.memo[reader.number("<B")])

    def long_get(self, reader: _Reader) -> None:
        self.stack.append(self.memo[reader.number("<I")])

    def name(self, reader: _Reader) -> None:
        self._push_name(reader.line(), reader.line())

    def protocol(self, reader: _Reader) -> None:
        reader.take(1)

    def frame(self, reader: _Reader) -> None:
        reader.take(8)

    def name_from_stack(self, _: _Reader) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedPickle("it refers to a name that is no string")
        if (module, name) not in {*RECONSTRUCT, NDARRAY, DTYPE}:
            asked = shown(f"{module}.{name}")
            raise RefusedPickle(f"it refers to {asked}, which could run code and no CIFAR file does")
        self.stack.append(_Name((module, name)))

    def reduce(self, _: _Reader) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(function, _Name) and function == DTYPE:
            self.stack.append(_DType(arguments[0]))
        elif isinstance(function, _Name) and function in RECONSTRUCT and arguments[0] == NDARRAY:
            self.stack.append(_Array())
        else:
            raise RefusedPickle("it calls something that makes no array")

    def build(self, _: _Reader) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Array):
            target.fill(state)
        elif not isinstance(target, _DType):
            raise RefusedPickle("it sets the state of something that is no array")


def _name_of(code: bytes) -> str:
    import pickletools

    return next((opcode.name for opcode in pickletools.opcodes if opcode.code == code.decode("latin-1")), repr(code))


STOP = b"."

PUSHED: dict[bytes, Callable[[_Reader], Any]] = {
    b"J": lambda reader: reader.number("<i"),  # BININT
    b"K": lambda reader: reader.number("<B"),  # BININT1
    b"M": lambda reader: reader.number("<H"),  # BININT2
    b"\x8a": lambda reader: int.from_bytes(reader.sized("<B"), "little", signed=True),  # LONG1
    b"T": lambda reader: reader.sized("<i"),  # BINSTRING, a byte string of Python 2
    b"U": lambda reader: reader.sized("<B"),  # SHORT_BINSTRING
    b"B": lambda reader: reader.sized("<I"),  # BINBYTES
    b"C": lambda reader: reader.sized("<B"),  # SHORT_BINBYTES
    b"X": lambda reader: reader.sized("<I").decode("utf-8", "surrogatepass"),  # BINUNICODE
    b"\x8c": lambda reader: reader.sized("<B").decode("utf-8", "surrogatepass"),  # SHORT_BINUNICODE
    b"N": lambda reader: None,  # NONE
    b"\x88": lambda reader: True,  # NEWTRUE
    b"\x89": lambda reader: False,  # NEWFALSE
    b"]": lambda reader: [],  # EMPTY_LIST
    b"}": lambda reader: {},  # EMPTY_DICT
    b")": lambda reader: (),  # EMPTY_TUPLE
}

STEPS: dict[bytes, Callable[[_Machine, _Reader], None]] = {
    b"(": _Machine.mark,  # MARK
    b"t": _Machine.tuple_from_mark,  # TUPLE
    b"\x85": _Machine.tuple1,  # TUPLE1
    b"\x86": _Machine.tuple2,  # TUPLE2
    b"\x87": _Machine.tuple3,  # TUPLE3
    b"a": _Machine.append,  # APPEND
    b"e": _Machine.appends,  # APPENDS
    b"s": _Machine.set_item,  # SETITEM
    b"u": _Machine.set_items,  # SETITEMS
    b"q": _Machine.put,  # BINPUT
    b"r": _Machine.long_put,  # LONG_BINPUT
    b"\x94": _Machine.memoize,  # MEMOIZE
    b"h": _Machine.get,  # BINGET
    b"j": _Machine.long_get,  # LONG_BINGET
    b"c": _Machine.name,  # GLOBAL
    b"\x93": _Machine.name_from_stack,  # STACK_GLOBAL
    b"R": _Machine.reduce,  # REDUCE
    b"b": _Machine.build,  # BUILD
    b"\x80": _Machine.protocol,  # PROTO
    b"\x95": _Machine.frame,  # FRAME
}
