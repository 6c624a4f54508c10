"""What comes in: arrays, lists and numbers of every kind get the dtype and value that PyTorch gives, or an error."""

from __future__ import annotations

import array
import math
import operator
import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import minires
import minires.nn.functional as F
from minires.data import default_collate
from minires.device import CPU

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
ERRORS = (RuntimeError, TypeError, ValueError, OverflowError, NotImplementedError, IndexError)
FUNCTIONAL = {minires: F, torch: torch.nn.functional}
Outcome = tuple[str, np.ndarray] | str


def outcome(make: Callable, lib: Any) -> Outcome:
    """The dtype and values of what ``make`` makes with a library, or how it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = make(lib)
    except ERRORS as error:
        return "refused" if len(str(error)) > 15 or lib is torch else f"refused without a message: {error!r}"
    return str(made.dtype).removeprefix("torch."), made.detach().numpy()


def assert_same(ours: Outcome, theirs: Outcome, tolerance: float = 0) -> None:
    """Equal dtypes, shapes and values, signs of zeros among them; or both refused."""
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
        return
    assert (ours[0], ours[1].shape) == (theirs[0], theirs[1].shape)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=tolerance)
    if ours[1].dtype.kind == "f":
        signs = [np.signbit(values[1])[~np.isnan(values[1])] for values in (ours, theirs)]
        np.testing.assert_array_equal(*signs)


# Arrays, lists and other containers

SCALARS = {name: getattr(np, name)(1) for name in ("bool_", *DTYPES[1:])}
ARRAYS = {
    **{f"array {name}": np.arange(3).astype(name) for name in (*DTYPES, "uint16", "uint32", "uint64")},
    **{f"0-dim {name}": np.array(1, name) for name in DTYPES},
    **{
        f"no numbers {name}": np.zeros(3, name)
        for name in ("O", "S3", "U3", "datetime64[s]", "timedelta64[s]", [("a", "f4")])
    },
    **{f"other bytes {name}": np.arange(3).astype(name) for name in (">f2", ">f4", ">f8", ">i2", ">i4", ">i8")},
    "extended": np.arange(3).astype(np.longdouble),
    "0-dim extended": np.array(1, np.longdouble),
    "one byte, marked": np.arange(3).astype(">u1"),
    "matrix": np.array([[1.0, 2.0]]).view(np.matrix),
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
    "records": np.rec.array([(1, 2.0)]),
    "read-only": np.frombuffer(np.arange(3, dtype=np.float32).tobytes(), np.float32),
    "misaligned": np.frombuffer(b"-" + np.arange(3, dtype=np.float32).tobytes(), np.uint8)[1:].view(np.float32),
    "repeated": np.broadcast_to(np.float32(2), (2, 2)),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "every second": np.arange(6)[::2],
    "empty": np.zeros((0, 3)),
}
LISTS = {
    **{f"[{a}]": [SCALARS[a]] for a in SCALARS},
    **{f"[{a}, 2]": [SCALARS[a], 2] for a in SCALARS if a != "bool_"},
    **{f"[2.5, {a}]": [2.5, SCALARS[a]] for a in SCALARS},
    **{f"[{a}, {b}]": [SCALARS[a], SCALARS[b]] for a in SCALARS for b in SCALARS if "bool_" not in (a, b) or a == b},
    **{f"[array {a}, array {b}]": [np.ones(2, a), np.zeros(2, b)] for a in DTYPES[1:] for b in DTYPES[1:]},
    **{f"[[array {a}]]": [[np.ones(2, a)], [np.zeros(2, a)]] for a in DTYPES},
    "[array >f4]": [np.arange(3).astype(">f4")],
    "[extended]": [np.longdouble(1)],
    "[extended array]": [np.ones(2, np.longdouble)],
    "bool and int": [True, 2],
    "bool and float": [True, 2.5],
    "int and float": [[1, 2], [3, 4.5]],
    "large int": [1, 2**63 - 1],
    "small int": [-(2**63)],
    "too large": [2**63],
    "much too large": [2**70],
    "not finite": [math.nan, math.inf],
    "too large a float": [1e39],
    "none": [],
    "nested none": [[], []],
    "tuples": ((1, 2), (3, 4)),
    "ragged": [[1], [1, 2]],
    "number and list": [1, [2]],
    "arrays of two lengths": [np.ones(2), np.ones(3)],
    "strings": ["a"],
    "a None": [1, None],
    "set": {1},
    "dict": {1: 2},
    "range": range(3),
    "[range]": [range(3), range(3)],
    "deque": deque([1.5, 2]),
    "bytearray": bytearray(b"ab"),
    "memoryview": memoryview(np.arange(3.0)),
    "array.array": array.array("f", [1, 2]),
    "string": "3",
    "nothing": None,
    "generator": (i for i in range(3)),
    "object": object(),
}
NUMBERS = {
    **{str(number): number for number in (True, 7, -1, 300, 2**63 - 1, 2**63, 2.5, -0.0, math.nan, math.inf, 1e300)},
    **{f"np.{name}": number for name, number in SCALARS.items()},
    "np.longdouble": np.longdouble(1),
}


@pytest.mark.parametrize("function", ["tensor", "as_tensor", "from_numpy"])
@pytest.mark.parametrize(
    "data", [*ARRAYS.values(), *LISTS.values(), *NUMBERS.values()], ids=[*ARRAYS, *LISTS, *NUMBERS]
)
def test_what_comes_in_has_pytorchs_dtype_and_values(function, data):
    assert_same(*(outcome(lambda lib: getattr(lib, function)(data), lib) for lib in (minires, torch)))


def _conversions() -> dict[str, tuple]:
    """All pairs but those of NumPy's numbers that PyTorch takes or refuses by the way in which NumPy wrote them."""
    pairs = {f"{name} to {dtype}": (data, dtype) for name, data in (ARRAYS | NUMBERS).items() for dtype in DTYPES}
    refused_there = (np.bool_, np.float16, np.float32, np.longdouble)
    return {name: (data, dtype) for name, (data, dtype) in pairs.items() if not isinstance(data, refused_there)}


@pytest.mark.parametrize(("data", "dtype"), _conversions().values(), ids=_conversions().keys())
def test_what_comes_in_is_converted_as_pytorch_does(data, dtype):
    def make(lib):
        return lib.tensor(data, dtype=getattr(lib, dtype))

    assert_same(*(outcome(make, lib) for lib in (minires, torch)))


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", [*DTYPES, 2, 2.5, np.float64(2), np.int8(2)], ids=str)
def test_tensors_in_a_list_count_with_their_dtype(first, second):
    def make(lib):
        other = lib.ones(1, dtype=getattr(lib, second)) if isinstance(second, str) else second
        return lib.tensor([[lib.ones((), dtype=getattr(lib, first))], [other]])

    assert_same(*(outcome(make, lib) for lib in (minires, torch)))


def test_what_pytorch_takes_and_minires_cannot_is_refused_at_the_door():
    for data in (1j, [1j], np.complex64(1), np.ones(2, complex), [np.ones(2, np.complex64)]):
        with pytest.raises(TypeError, match="complex"):
            minires.tensor(data)
    with pytest.raises(TypeError, match="complex"):
        minires.from_numpy(np.ones(2, complex))


def test_pictures_and_tensors_of_pytorch_come_in_as_arrays():
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert minires.tensor(picture).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert minires.tensor(picture).dtype == np.uint8
    assert minires.tensor(torch.ones(2, dtype=torch.float16)).dtype == np.float16


def test_a_byte_order_is_refused_with_the_remedy():
    foreign = np.arange(3).astype(">f4")
    for make in (minires.tensor, minires.as_tensor, minires.from_numpy, minires.Tensor):
        with pytest.raises(TypeError, match="newbyteorder"):
            make(foreign)
    assert minires.tensor(foreign.astype(foreign.dtype.newbyteorder("="))).tolist() == [0, 1, 2]


def test_a_tensor_never_wraps_a_subclass_or_what_is_no_number():
    for data in (np.array([[1.0]]).view(np.matrix), np.ma.array([1.0], mask=[True])):
        assert type(minires.Tensor(data).array) is np.ndarray
    shared = minires.from_numpy(matrix := np.array([[1.0, 2.0]]).view(np.matrix))
    matrix[0, 0] = 5
    assert shared.tolist() == [[5, 2]]
    for data in (np.ones(2, complex), np.ones(2, np.longdouble), np.array(["a"]), np.array([None])):
        with pytest.raises(TypeError, match="a Tensor holds"):
            minires.Tensor(data)


@pytest.mark.parametrize("dtype", [complex, object, str, ">f4", np.longdouble, "datetime64[s]", "V4"], ids=str)
def test_a_dtype_that_no_tensor_has_is_refused_by_all_that_take_one(dtype):
    x = minires.ones(2)
    makers = {
        "tensor": lambda: minires.tensor([1.0], dtype=dtype),
        "as_tensor": lambda: minires.as_tensor([1.0], dtype=dtype),
        "full": lambda: minires.full((2,), 1, dtype=dtype),
        "arange": lambda: minires.arange(3, dtype=dtype),
        "linspace": lambda: minires.linspace(0, 1, 3, dtype=dtype),
        "randint": lambda: minires.randint(0, 3, (2,), dtype=dtype),
        "randperm": lambda: minires.randperm(3, dtype=dtype),
        "to": lambda: x.to(dtype),
        "type": lambda: x.type(dtype),
        "sum": lambda: x.sum(dtype=dtype),
        **{
            name: lambda name=name: getattr(minires, name)(2, dtype=dtype)
            for name in ("zeros", "ones", "empty", "eye", "rand", "randn")
        },
        **{
            name: lambda name=name: getattr(minires, name)(x, dtype=dtype)
            for name in ("zeros_like", "ones_like", "empty_like", "rand_like", "randn_like")
        },
        "full_like": lambda: minires.full_like(x, 1, dtype=dtype),
    }
    for name, make in makers.items():
        with pytest.raises((TypeError, RuntimeError), match=r".{15,}"):
            pytest.fail(f"{name} made {make().dtype}")


# Numbers that meet a Tensor

VALUES: dict[str, list] = {
    "bool": [True, False],
    "uint8": [200, 0, 3],
    "int8": [-128, 0, 127, 3],
    "int16": [-300, 5],
    "int32": [-3, 0, 2, 7],
    "int64": [-3, 0, 2, 7],
}
FLOATS = [-2.5, -0.0, 0.0, 3.0, math.inf, -math.inf, math.nan]
MET = {
    **{str(number): number for number in (0, 1, -1, 255, 256, 300, -300, 2**40, True, 2.5, -0.0, math.nan, math.inf)},
    **{f"np.{name}({v})": getattr(np, name)(v) for name in ("int8", "int64", "float32", "float64") for v in (0, 1, -1)},
    "np.int64(300)": np.int64(300),
    "np.uint8(200)": np.uint8(200),
    "np.float64(2.5)": np.float64(2.5),
}
OPERATORS = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(operator.and_, operator.or_, operator.xor),
)
MEETINGS: dict[str, Callable] = {
    **{f.__name__: lambda lib, x, n, f=f: f(x, n) for f in OPERATORS},
    **{f"r{f.__name__}": lambda lib, x, n, f=f: f(n, x) for f in OPERATORS},
    "div floor": lambda lib, x, n: lib.div(x, n, rounding_mode="floor"),
    "div trunc": lambda lib, x, n: lib.div(x, n, rounding_mode="trunc"),
    "masked_fill": lambda lib, x, n: x.masked_fill(x == x, n),
    "where": lambda lib, x, n: lib.where(x == x, x, n),
    "where, first": lambda lib, x, n: lib.where(x == x, n, x),
    "clamp min": lambda lib, x, n: x.clamp(n),
    "clamp max": lambda lib, x, n: x.clamp(max=n),
    "add_": lambda lib, x, n: x.add_(n),
    "mul_": lambda lib, x, n: x.mul_(n),
    "fill_": lambda lib, x, n: x.fill_(n),
    "add alpha": lambda lib, x, n: lib.add(x, x, alpha=n),
    "sub alpha": lambda lib, x, n: lib.sub(x, x, alpha=n),
    "full_like": lambda lib, x, n: lib.full_like(x, n),
    "new_full": lambda lib, x, n: x.new_full((2,), n),
    "full": lambda lib, x, n: lib.full((2,), n),
    "full typed": lambda lib, x, n: lib.full((2,), n, dtype=x.dtype),
    "pad": lambda lib, x, n: FUNCTIONAL[lib].pad(x, (1, 1), value=n),
    "with a 0-dim Tensor": lambda lib, x, n: x * lib.tensor(n),
}


def _quirk(name: str, dtype: str, number: Any) -> bool:
    """Where PyTorch's own rules contradict one another, or a sign of zero is not said by anyone's."""
    return (
        (dtype == "bool" and "pow" in name and number is True)  # refused here: booleans are no numbers
        or (dtype == "bool" and name.startswith("clamp") and number is True)
        or (name.startswith(("clamp", "sub alpha")) and number == 0)  # which of 0 and -0 is larger
        or (dtype == "float16" and number == 2**40)  # infinite in 16 bits
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MEETINGS)
def test_numbers_that_meet_a_tensor_are_taken_as_in_pytorch(name, dtype):
    for number in MET.values():
        if _quirk(name, dtype, number):
            continue

        def make(lib, number=number):
            x = lib.tensor(VALUES.get(dtype, FLOATS), dtype=getattr(lib, dtype))
            return MEETINGS[name](lib, x, number)

        try:
            assert_same(
                *(outcome(make, lib) for lib in (minires, torch)), tolerance=1e-3 if dtype == "float16" else 1e-6
            )
        except AssertionError as error:
            raise AssertionError(f"{dtype} {name} {number!r}: {error}") from error


@pytest.mark.parametrize("name", [name for name in MEETINGS if not name.startswith(("pow", "rpow", "full"))])
def test_numbers_that_meet_bfloat16_are_taken_as_in_pytorch(name):
    for number in (2, -1, 2.5, np.float64(2.5), np.int64(3)):

        def make(lib, number=number):
            return MEETINGS[name](lib, lib.tensor([-2.5, 1.0, 3.0], dtype=lib.bfloat16), number).to(lib.float32)

        assert_same(*(outcome(make, lib) for lib in (minires, torch)), tolerance=1e-2)


@pytest.mark.parametrize("number", [1e10, 2**40, np.float32(1e6), -70000, math.inf, 65504, True])
def test_16_bits_are_filled_as_in_pytorch(number):
    assert_same(*(outcome(lambda lib: lib.zeros(2, dtype=lib.float16).fill_(number), lib) for lib in (minires, torch)))


ASSIGNED = [1e10, 1e39, -1e300, 2**40, 2**62, -1, True, 2.5, math.inf, math.nan, np.int64(3), np.float64(1e10)]
PLACES = {"slice": slice(None), "index": 0, "list": [0, 1]}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.filterwarnings("error")
def test_numbers_are_assigned_as_in_pytorch(dtype, place, recorded):
    for number in ASSIGNED:

        def make(lib, number=number):
            x = lib.zeros(3, dtype=getattr(lib, dtype), requires_grad=recorded) * 1
            x[PLACES[place]] = number
            return x.detach().to(lib.float64)

        assert_same(*(outcome(make, lib) for lib in (minires, torch)))


@pytest.mark.parametrize("data", [2**63, [2**63], [2**64 - 1, -(2**63)], [2**63, 1.5], [True, 2**63]])
def test_bfloat16_takes_ints_of_64_bits(data):
    assert_same(
        *(outcome(lambda lib: lib.tensor(data, dtype=lib.bfloat16).to(lib.float64), lib) for lib in (minires, torch))
    )


def test_an_unknown_dtype_is_named_with_what_to_use():
    for make in (minires.zeros, minires.ones, minires.tensor):
        with pytest.raises(TypeError, match=r"'float33'.*minires\.float32"):
            make([2], dtype="float33")


def test_an_operand_beyond_64_bits_is_refused():
    for number in (2**64, -(2**70)):
        with pytest.raises(OverflowError, match="64 bits"):
            minires.tensor([1]) + number


PAIRS = {
    "float": [-math.inf, -5.0, -2.5, -1.0, -0.3, -0.0, 0.0, 0.1, 0.9, 1.0, 2.0, 5.5, math.inf, math.nan],
    "int": [-128, -127, -7, -2, -1, 1, 2, 7, 126, 127],
}
DIVISIONS: dict[str, Callable] = {
    "div": lambda lib, a, b: lib.div(a, b),
    "floor": lambda lib, a, b: lib.div(a, b, rounding_mode="floor"),
    "trunc": lambda lib, a, b: lib.div(a, b, rounding_mode="trunc"),
    "floor_divide": lambda lib, a, b: lib.floor_divide(a, b),
    "remainder": lambda lib, a, b: lib.remainder(a, b),
    "%": lambda lib, a, b: a % b,
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int16", "int64", "uint8"])
@pytest.mark.parametrize("name", DIVISIONS)
def test_every_pair_divides_as_in_pytorch(name, dtype):
    numbers = [n % 256 for n in PAIRS["int"]] if dtype == "uint8" else PAIRS[dtype.strip("0123468")]

    def make(lib):
        x = lib.tensor(numbers, dtype=getattr(lib, dtype))
        return DIVISIONS[name](lib, x.reshape(-1, 1), x)

    assert_same(*(outcome(make, lib) for lib in (minires, torch)), tolerance=1e-6)


@pytest.mark.parametrize("name", DIVISIONS)
@pytest.mark.parametrize("divisor", [[3, 0], 0, False], ids=str)
def test_integers_divided_by_0_are_refused_as_in_pytorch(name, divisor):
    def make(lib):
        return DIVISIONS[name](lib, lib.tensor([5, 7]), lib.tensor(divisor) if divisor == [3, 0] else divisor)

    assert_same(*(outcome(make, lib) for lib in (minires, torch)))


@pytest.mark.parametrize("base", [-2, -1, 0, 1, 3])
def test_integers_to_negative_elements_are_powers_without_their_fraction(base):
    exponents = [-3, -2, -1, 0, 1, 2]
    for make in (
        lambda lib: base ** lib.tensor(exponents),
        lambda lib: lib.tensor(base) ** lib.tensor(exponents),
        lambda lib: lib.tensor([base] * 6) ** lib.tensor(exponents),
    ):
        assert_same(*(outcome(make, lib) for lib in (minires, torch)))


# Batches

BATCHES: dict[str, list] = {
    "int first": [0, 0.7, 1],
    "float first": [1.5, 2],
    "bool first": [True, 2],
    "bool and float": [1.5, True],
    "int and NumPy's float": [0, np.float64(2.5)],
    "NumPy's floats": [np.float32(1), np.float64(2)],
    "NumPy's and Python's": [np.float32(1), 2.5],
    "int8 and int": [np.int8(1), 300],
    "int8": [np.int8(1), np.int8(2)],
    "NumPy's bools": [np.bool_(True), np.bool_(False)],
    "float16": [np.float16(1), np.float16(2)],
    "uint8": [np.uint8(1), np.uint8(200)],
    "arrays of two floats": [np.zeros(2, np.float32), np.ones(2)],
    "arrays of int and float": [np.zeros(2, np.int32), np.ones(2, np.float32)],
    "0-dim arrays": [np.array(1), np.array(2.5)],
    "empty arrays": [np.zeros((0, 3)), np.zeros((0, 3))],
    "masked": [np.ma.array([1.0, 2.0], mask=[False, True])],
    "matrix": [np.array([[1.0, 2.0]]).view(np.matrix)],
    "read-only": [np.broadcast_to(1.0, (2,))],
    "too large": [2**63],
    "nan": [math.nan, 1],
    "extended": [np.longdouble(1)],
    "other bytes": [np.zeros(2, ">f4")],
    "strings in an array": [np.array(["a"])],
    "objects in an array": [np.array([None])],
    "a None later": [1, None],
    "a string later": [1, "a"],
    "Nones": [None, None],
    "date": [np.datetime64("2020-01-01")],
    "set": [{1, 2}],
}
TENSOR_BATCHES: dict[str, Callable] = {
    "two floats": lambda lib: [lib.zeros(2), lib.ones(2, dtype=lib.float64)],
    "int and float": lambda lib: [lib.tensor(1), lib.tensor(2.5)],
    "unsigned and signed": lambda lib: [lib.zeros(2, dtype=lib.uint8), lib.ones(2, dtype=lib.int8)],
    "number and Tensor": lambda lib: [1, lib.tensor(2.5)],
    "array and Tensor": lambda lib: [np.zeros(2), lib.ones(2)],
    "Tensor and number": lambda lib: [lib.ones(1), 2],
}


@pytest.mark.parametrize("items", BATCHES.values(), ids=BATCHES.keys())
def test_batches_have_pytorchs_dtype_and_values(items):
    collate = {minires: default_collate, torch: torch.utils.data.default_collate}
    assert_same(*(outcome(lambda lib: collate[lib](items), lib) for lib in (minires, torch)))


@pytest.mark.parametrize("make", TENSOR_BATCHES.values(), ids=TENSOR_BATCHES.keys())
def test_batches_of_tensors_have_pytorchs_dtype_and_values(make):
    collate = {minires: default_collate, torch: torch.utils.data.default_collate}
    assert_same(*(outcome(lambda lib: collate[lib](make(lib)), lib) for lib in (minires, torch)))


def test_a_batch_of_recorded_tensors_is_recorded():
    x = minires.ones(2, requires_grad=True)
    default_collate([x, x * 2]).sum().backward()
    assert x.grad.tolist() == [3, 3]


# Sequences, indices and draws

SEQUENCES: dict[str, Callable] = {
    "linspace of ints": lambda lib: lib.linspace(0, 10, 4, dtype=lib.int64),
    "linspace down": lambda lib: lib.linspace(3, -3, 6, dtype=lib.int32),
    "linspace of Tensors": lambda lib: lib.linspace(lib.tensor(1), lib.tensor(2), 5),
    "linspace of Tensors, typed": lambda lib: lib.linspace(lib.tensor(1), lib.tensor(2), 5, dtype=lib.int32),
    "linspace of float64": lambda lib: lib.linspace(lib.tensor(0.5, dtype=lib.float64), 2, 5),
    "linspace of fractions": lambda lib: lib.linspace(0.9, 9.7, 5, dtype=lib.int64),
    "linspace of NumPy's": lambda lib: lib.linspace(np.int64(0), np.float32(1), 7, dtype=lib.float64),
    "linspace of one": lambda lib: lib.linspace(2, 5, 1),
    "linspace of two": lambda lib: lib.linspace(2, 5, 2, dtype=lib.uint8),
    "linspace, infinite": lambda lib: lib.linspace(0, math.inf, 3),
    "linspace, nan": lambda lib: lib.linspace(0, math.nan, 3),
    "linspace, negative": lambda lib: lib.linspace(0, 1, -1),
    "linspace, fractional": lambda lib: lib.linspace(0, 1, 2.5),
    "linspace, too large": lambda lib: lib.linspace(0, 300, 3, dtype=lib.uint8),
    "linspace, bool": lambda lib: lib.linspace(0, 1, 3, dtype=lib.bool),
    "linspace of vectors": lambda lib: lib.linspace(lib.tensor([0.0, 1.0]), 1, 2),
    "arange of a Tensor": lambda lib: lib.arange(lib.tensor(3)),
    "arange of a float Tensor": lambda lib: lib.arange(lib.tensor(3.0)),
    "arange of a bool": lambda lib: lib.arange(True),
    "arange of NumPy's int": lambda lib: lib.arange(np.int64(3)),
    "arange of NumPy's float": lambda lib: lib.arange(np.float64(3)),
    "arange of fractions, int64": lambda lib: lib.arange(0, 5, 1.5, dtype=lib.int64),
    "arange of fractions, int32": lambda lib: lib.arange(0.5, 5, 1.5, dtype=lib.int32),
    "arange of halves, int64": lambda lib: lib.arange(0, 5, 0.5, dtype=lib.int64),
    "arange of large ints": lambda lib: lib.arange(2**40, 2**40 + 3),
    "arange to infinity": lambda lib: lib.arange(math.inf),
    "arange to nan": lambda lib: lib.arange(math.nan),
    "arange of bools": lambda lib: lib.arange(0, 2, dtype=lib.bool),
    "full of a Tensor": lambda lib: lib.full((2,), lib.tensor(3)),
    "full of a float64 Tensor": lambda lib: lib.full((2,), lib.tensor(3.0, dtype=lib.float64)),
    "full of int for size": lambda lib: lib.full(2, 3) if lib is torch else lib.full("2", 3),
    "zeros of a Tensor": lambda lib: lib.zeros(lib.tensor(2)),
    "zeros of a float": lambda lib: lib.zeros(2.0),
    "zeros of a bool": lambda lib: lib.zeros(True),
    "zeros of Python's int": lambda lib: lib.zeros(2, dtype=int),
    "eye of a negative": lambda lib: lib.eye(-1),
}


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_sequences_are_pytorchs(make):
    assert_same(*(outcome(make, lib) for lib in (minires, torch)), tolerance=1e-6)


INDICES = {
    **{f"array of {dtype}": np.array([0, 1], dtype) for dtype in ("int8", "int16", "int32", "int64", "uint64")},
    **{f"0-dim {dtype}": np.array(1, dtype) for dtype in ("int16", "int64")},
    **{f"[{dtype}]": [getattr(np, dtype)(1), 0] for dtype in ("int8", "int64", "uint8")},
    **{f"{dtype}": getattr(np, dtype)(1) for dtype in ("int8", "uint8", "int64")},
    "bools": np.array([True, False, True]),
    "range": range(2),
    "none": [],
    "float": 1.0,
    "string": "a",
    "other bytes": np.array([0, 1], ">i8"),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_indices_of_numpy_are_taken_as_in_pytorch(index):
    assert_same(
        *(outcome(lambda lib: lib.tensor(np.arange(12.0).reshape(3, 4))[index], lib) for lib in (minires, torch))
    )


@pytest.mark.parametrize("dtype", DTYPES[2:6])
def test_a_0_dim_tensor_of_any_integers_is_an_index(dtype):
    def make(lib):
        return lib.tensor(np.arange(12.0).reshape(3, 4))[lib.tensor(1, dtype=getattr(lib, dtype))]

    assert_same(*(outcome(make, lib) for lib in (minires, torch)))


class LargestDraws:
    """A generator whose draws are all the largest there are."""

    def random(self, size: Any = (), dtype: Any = np.float64) -> np.ndarray:
        return np.full(size, np.nextafter(dtype(1), dtype(0)))

    def integers(self, low: int, high: int, size: Any = ()) -> np.ndarray:
        return np.full(size, high - 1)


@pytest.fixture
def _largest_draws(monkeypatch):
    monkeypatch.setitem(sys.modules["minires.device"]._generators, CPU, LargestDraws())


@pytest.mark.usefixtures("_largest_draws")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_draws_never_reach_their_upper_bound(dtype):
    dtype = getattr(minires, dtype)
    x = minires.empty(3, dtype=dtype)
    precision = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype.name]
    for draws, bound in (
        (minires.rand(3, dtype=dtype), 1),
        (minires.rand_like(x), 1),
        (x.clone().uniform_(), 1),
        (x.clone().uniform_(-3, 7), 7),
        (x.clone().uniform_(-7, -3), -3),
        (x.clone().uniform_(-1, 0), 0),
        (minires.nn.init.uniform_(x.clone(), 2, 4), 4),
        (minires.randint(0, 2 ** (min(precision, 15) + 1), (3,), dtype=dtype), 2 ** (min(precision, 15) + 1)),
    ):
        values = draws.array.astype(np.float64)
        assert (values < bound).all(), f"{draws} reaches {bound}"
        assert (values > bound - max(abs(bound), 1) * 2.0 ** (1 - min(precision, 15))).all()
    assert (x.clone().uniform_(2, 2).array == 2).all()


@pytest.mark.usefixtures("_largest_draws")
def test_weights_and_masks_never_reach_the_bound():
    bound = np.float32(math.sqrt(3) / math.sqrt(5))  # of a fan of 5, with the gain of ReLU's linear relatives
    weight = minires.nn.init.xavier_uniform_(minires.empty(5, 5), gain=1.0)
    assert (weight.array < np.float32(bound)).all()
    assert not (F.dropout(minires.ones(3), p=1.0).array != 0).any()


DRAWS_REFUSED: dict[str, Callable] = {
    "uint8 beyond": lambda lib: lib.randint(0, 300, (2,), dtype=lib.uint8),
    "uint8 below": lambda lib: lib.randint(-1, 3, (2,), dtype=lib.uint8),
    "bool beyond": lambda lib: lib.randint(0, 3, (2,), dtype=lib.bool),
    "float16 beyond": lambda lib: lib.randint(0, 2**17, (2,), dtype=lib.float16),
    "rand of ints": lambda lib: lib.rand(2, dtype=lib.int64),
    "randn of ints": lambda lib: lib.randn(2, dtype=lib.int64),
    "uniform_ beyond": lambda lib: lib.zeros(3, dtype=lib.float16).uniform_(0, 1e6),
    "permutation of -1": lambda lib: lib.randperm(-1),
}


@pytest.mark.parametrize("draw", DRAWS_REFUSED.values(), ids=DRAWS_REFUSED.keys())
def test_draws_that_a_dtype_cannot_hold_are_refused_as_in_pytorch(draw):
    assert [outcome(draw, lib) for lib in (minires, torch)] == ["refused", "refused"]
