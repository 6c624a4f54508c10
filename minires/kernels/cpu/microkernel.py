"""The innermost loop of every convolution: a block of sums that stays in registers.

    C[ROWS, columns] (+)= A[ROWS, depth] @ B[depth, columns]

Each step of depth loads one row of B as vectors, and broadcasts ROWS numbers of A against it: ROWS * vectors fused
multiply-adds for ROWS + vectors loads. Arithmetic then outweighs loading, if the ROWS * vectors sums stay in registers
for the whole loop (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008). Numba's arrays
live in memory, so the block is written in LLVM's own language, through `numba.extending.intrinsic`.

A is never copied into a matrix. The block finds its numbers through a table of offsets into the input, as in Dukhan,
"The indirect convolution algorithm", 2019: im2col without the columns. A negative offset is padding and reads zeros.

    multiply_rows    the table gives where each row begins, for each tap; depth runs over the channels there:
                     a convolution, and its input gradient
    multiply_depth   the table gives where each step of depth lies; rows are neighbouring channels there:
                     the weight gradient, whose depth is output pixels

Both take arrays and offsets counted in numbers, and trust them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic


def _target() -> tuple[int, int]:
    """Return (bytes in a vector register, rows of a block): rows * 2 sums, 2 vectors of B and a broadcast fit."""
    if "aarch64" in llvm.get_default_triple() or "arm64" in llvm.get_default_triple():
        return 16, 12  # NEON: 32 registers
    if config.CPU_FEATURES is None:
        has = {name for name, is_there in llvm.get_host_cpu_features().items() if is_there}
    else:
        has = {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    if "avx512f" in has:
        return 64, 14  # 32 registers
    return (32, 6) if "avx2" in has else (16, 6)  # 16 registers


VECTOR_BYTES, ROWS = _target()
INT32, INT64 = ir.IntType(32), ir.IntType(64)


class _Block:
    """The sums of one block, and the code that starts, feeds and stores them.

    Each sum is a variable on the stack until LLVM moves it to a register.
    """

    def __init__(self, builder: Any, dtype: Any, scalar: ir.Type, vectors: int) -> None:
        self.builder = builder
        self.itemsize = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.itemsize
        self.width = vectors * self.lanes
        self.vector = ir.VectorType(scalar, self.lanes)
        self.sums = [[cgutils.alloca_once(builder, self.vector) for _ in range(vectors)] for _ in range(ROWS)]
        for row in self.sums:
            for variable in row:
                builder.store(ir.Constant(self.vector, None), variable)  # zero

    def multiply_add(self, a_pointers: Sequence[Any], b_row: Any) -> None:
        """sums[i, :] += a[i] * b_row[:]"""
        builder = self.builder
        b_vectors = [builder.load(self._vector_at(b_row, j), align=self.itemsize) for j in range(len(self.sums[0]))]
        for pointer, row in zip(a_pointers, self.sums, strict=True):
            a = _broadcast(builder, builder.load(pointer), self.vector)
            for b, variable in zip(b_vectors, row, strict=True):
                # "contract" makes one fused instruction of the two where the processor has it.
                product = builder.fmul(a, b, flags=("contract",))
                builder.store(builder.fadd(builder.load(variable), product, flags=("contract",)), variable)

    def add(self, rows: Sequence[Any]) -> None:
        """sums[i, :] += rows[i][:]"""
        for row, variables in zip(rows, self.sums, strict=True):
            for j, variable in enumerate(variables):
                value = self.builder.load(self._vector_at(row, j), align=self.itemsize)
                self.builder.store(self.builder.fadd(self.builder.load(variable), value), variable)

    def clip(self, floor: Any) -> None:
        """sums[i, :] = floor where they are less"""
        floor = _broadcast(self.builder, floor, self.vector)
        for variables in self.sums:
            for variable in variables:
                self.builder.store(_clipped(self.builder, self.builder.load(variable), floor), variable)

    def store(self, rows: Sequence[Any]) -> None:
        """rows[i][:] = sums[i, :]"""
        for row, variables in zip(rows, self.sums, strict=True):
            for j, variable in enumerate(variables):
                self.builder.store(self.builder.load(variable), self._vector_at(row, j), align=self.itemsize)

    def _vector_at(self, pointer: Any, j: int) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [INT64(j * self.lanes)]), self.vector.as_pointer())


def _broadcast(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(INT32, vector.count), None))


def _clipped(builder: Any, value: Any, floor: Any) -> Any:
    """Return the larger of two vectors by element; NaN stays."""
    return builder.select(builder.fcmp_ordered("<", value, floor), floor, value)


def _prefetch(builder: Any, pointer: Any, write: bool) -> None:
    """Have memory on its way to the cache: to L1 and to be written, or to L2 and to be read."""
    byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [byte.type, INT32, INT32, INT32])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte.type], kind)
    nearness, data = 3 if write else 2, 1
    builder.call(prefetch, [byte, INT32(int(write)), INT32(nearness), INT32(data)])


def _source(builder: Any, a: Any, zeros: Any, table: Any, index: Any) -> Any:
    """Return the address of a[table[index]], or of ``zeros`` where the table has a negative number."""
    offset = builder.sext(builder.load(builder.gep(table, [index])), INT64)
    return builder.select(builder.icmp_signed("<", offset, INT64(0)), zeros, builder.gep(a, [offset]))


def _addresses(
    context: Any, builder: Any, signature: Any, arguments: Any, *places: tuple[int, int | None]
) -> list[Any]:
    """Return the address of one number in each of some array arguments.

    ``places`` are pairs: which argument the array is, and which argument counts the numbers before it (None: no such).
    """
    return [
        _address(
            *(context, builder, signature.args[array], arguments[array]),
            INT64(0) if before is None else arguments[before],
        )
        for array, before in places
    ]


def _address(context: Any, builder: Any, array_type: Any, array: Any, before: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [before])


def _epilogue(context: Any, builder: Any, signature: Any, arguments: Any, before: Any) -> tuple[Any, Any, Any, Any]:
    """Return steps, the addresses of bias and, ``before`` numbers on, of residual, and floor: the last argument."""
    _, bias_type, _, residual_type, _ = signature.args[-1]
    steps, bias, bias0, residual, floor = cgutils.unpack_tuple(builder, arguments[-1])
    bias = _address(context, builder, bias_type, bias, bias0)
    return steps, bias, _address(context, builder, residual_type, residual, before), floor


def _multiply_rows(vectors: int) -> Any:
    @intrinsic
    def multiply_rows(typing, a, a0, zeros, sources, sources0, b, b0, c, c0, targets, targets0, taps, depth, add, end):
        """c[c0 + targets[targets0 + i] :][:width] = sum over t, k of a[a0 + sources[t, i] + k] * b[t, k, :]

        Or += where ``add`` is not 0.
        ``sources`` is read from sources0 as (taps, ROWS), ``b`` from b0 as (taps, depth, width), ``targets`` from
        targets0 as (ROWS,). ``zeros`` holds at least ``depth`` zeros.

        ``end`` is () or the `epilogue` (steps, bias, bias0, residual, floor): with steps of 1, bias[bias0:][:width] is
        added to the sums, with 2 also what ``residual`` has in the place of c, and what is less than ``floor`` becomes
        ``floor``.
        """

        def generate(context, builder, signature, arguments):
            places = (0, 1), (2, None), (3, 4), (5, 6), (7, 8), (9, 10)
            a, zeros, sources, b, c, targets = _addresses(context, builder, signature, arguments, *places)
            taps, depth, add, _ = arguments[11:]
            dtype = signature.args[0].dtype
            offsets = [builder.sext(builder.load(builder.gep(targets, [INT64(i)])), INT64) for i in range(ROWS)]
            c_rows = [builder.gep(c, [offset]) for offset in offsets]
            for row in c_rows:
                _prefetch(builder, row, write=True)  # stores that miss L1 soon hold up everything
            block = _Block(builder, dtype, context.get_data_type(dtype), vectors)
            with cgutils.for_range(builder, taps, intp=INT64) as tap:
                first = builder.mul(tap.index, INT64(ROWS))
                rows = [_source(builder, a, zeros, sources, builder.add(first, INT64(i))) for i in range(ROWS)]
                b_tap = builder.gep(b, [builder.mul(builder.mul(tap.index, depth), INT64(block.width))])
                with cgutils.for_range(builder, depth, intp=INT64) as k:
                    b_row = builder.gep(b_tap, [builder.mul(k.index, INT64(block.width))])
                    block.multiply_add([builder.gep(row, [k.index]) for row in rows], b_row)
            with builder.if_then(builder.icmp_signed("!=", add, INT64(0))):
                block.add(c_rows)
            if len(end):
                steps, bias, residual, floor = _epilogue(context, builder, signature, arguments, arguments[8])
                with builder.if_then(builder.icmp_signed("!=", steps, INT64(0))):
                    block.add([bias] * ROWS)
                    with builder.if_then(builder.icmp_signed("==", steps, INT64(2))):
                        block.add([builder.gep(residual, [offset]) for offset in offsets])
                    block.clip(floor)
            block.store(c_rows)
            return context.get_dummy_value()

        i = types.int64
        return types.void(a, i, zeros, sources, i, b, i, c, i, targets, i, i, i, i, end), generate

    return multiply_rows


def _multiply_depth(vectors: int) -> Any:
    @intrinsic
    def multiply_depth(typing, a, a0, zeros, sources, sources0, b, b0, c, c0, c_stride, depth, add):
        """c[c0 + i * c_stride :][:width] = sum over k of a[a0 + sources[sources0 + k] + i] * b[k, :]

        Or += where ``add`` is not 0. ``b`` is read from b0 as (depth, width). ``zeros`` holds at least ROWS zeros.
        """

        def generate(context, builder, signature, arguments):
            places = (0, 1), (2, None), (3, 4), (5, 6), (7, 8)
            a, zeros, sources, b, c = _addresses(context, builder, signature, arguments, *places)
            c_stride, depth, add = arguments[9:]
            dtype = signature.args[0].dtype
            block = _Block(builder, dtype, context.get_data_type(dtype), vectors)
            with cgutils.for_range(builder, depth, intp=INT64) as k:
                pixel = _source(builder, a, zeros, sources, k.index)
                b_row = builder.gep(b, [builder.mul(k.index, INT64(block.width))])
                block.multiply_add([builder.gep(pixel, [INT64(i)]) for i in range(ROWS)], b_row)
            c_rows = [builder.gep(c, [builder.mul(c_stride, INT64(i))]) for i in range(ROWS)]
            with builder.if_then(builder.icmp_signed("!=", add, INT64(0))):
                block.add(c_rows)
            block.store(c_rows)
            return context.get_dummy_value()

        i = types.int64
        return types.void(a, i, zeros, sources, i, b, i, c, i, i, i, i), generate

    return multiply_depth


# Module-level names: an intrinsic inside a closure would get another cache key in every process.
multiply_rows_1, multiply_rows_2 = _multiply_rows(1), _multiply_rows(2)
multiply_depth_1, multiply_depth_2 = _multiply_depth(1), _multiply_depth(2)


def _copy(count: int | None) -> Any:
    @intrinsic
    def copy(typing, source, source0, target, target0):
        """target[target0:][:count] = source[source0:][:count], by vectors: loops might be of arrays that overlap."""

        def generate(context, builder, signature, arguments):
            dtype = signature.args[0].dtype
            numbers = VECTOR_BYTES * 8 // dtype.bitwidth if count is None else count
            vector = ir.VectorType(context.get_data_type(dtype), numbers)
            source, target = _addresses(context, builder, signature, arguments, (0, 1), (2, 3))
            source, target = (builder.bitcast(pointer, vector.as_pointer()) for pointer in (source, target))
            builder.store(builder.load(source, align=dtype.bitwidth // 8), target, align=dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(source, types.int64, target, types.int64), generate

    return copy


copy_rows, copy_vector = _copy(ROWS), _copy(None)


@intrinsic
def prefetch(typing, array, index):
    """Have array[index] on its way to L2, to be read a little later."""

    def generate(context, builder, signature, arguments):
        (pointer,) = _addresses(context, builder, signature, arguments, (0, 1))
        _prefetch(builder, pointer, write=False)
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def tile_transform(matrix: np.ndarray, cell: int = 1) -> Any:
    """Return the intrinsic that computes y = matrix @ x @ matrix^T for tiles of pixels, many channels at a time.

    ``cell`` is how many pixels high and wide the cells are whose energies it can tell. Assign it to a module-level
    name, for the sake of the disk cache.
    """
    outputs, inputs = matrix.shape
    cells = inputs // cell

    @intrinsic
    def transform(typing, x, x0, zeros, sources, sources0, y, y0, scrap, targets, targets0, channels, energies, end):
        """y[y0 + targets[i, j] :][:channels] = sum over a, b of matrix[i, a] * matrix[j, b] * x[x0 + sources[a, b] :]

        A negative source reads ``zeros``, a negative target writes to ``scrap``; both have ``channels`` numbers, a
        multiple of the vector's. The tables are read from sources0 and targets0 on.

        ``energies`` is () or (array,), for the sums of squares of each cell of the tile; it has room for 16 numbers.
        ``end`` is as in `multiply_rows`, with steps of 1 or 2.
        """

        def generate(context, builder, signature, arguments):
            places = (0, 1), (2, None), (3, 4), (5, 6), (7, None), (8, 9)
            x, zeros, sources, y, scrap, targets = _addresses(context, builder, signature, arguments, *places)
            dtype = signature.args[0].dtype
            itemsize = dtype.bitwidth // 8
            vector = ir.VectorType(context.get_data_type(dtype), VECTOR_BYTES // itemsize)
            read = [_source(builder, x, zeros, sources, INT64(i)) for i in range(inputs**2)]
            write = [_source(builder, y, scrap, targets, INT64(i)) for i in range(outputs**2)]
            if len(energies):
                squares = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(cells**2)]
            if len(end):
                steps, bias, residual, floor = _epilogue(context, builder, signature, arguments, arguments[6])
                floor = _broadcast(builder, floor, vector)
                has_residual = builder.icmp_signed("==", steps, INT64(2))
                residuals = [_source(builder, residual, zeros, targets, INT64(i)) for i in range(outputs**2)]
                for pointer in write:
                    _prefetch(builder, pointer, write=True)

            step = INT64(vector.count)
            with cgutils.for_range(builder, builder.sdiv(arguments[10], step), intp=INT64) as index:
                channel = builder.mul(index.index, step)

                def at(pointer):
                    return builder.bitcast(builder.gep(pointer, [channel]), vector.as_pointer())

                def load(pointer):
                    return builder.load(at(pointer), align=itemsize)

                def store(values):
                    for pointer, value in zip(write, values, strict=True):
                        builder.store(value, at(pointer), align=itemsize)

                tile = np.array([load(p) for p in read], object).reshape(inputs, inputs)
                if len(energies):
                    in_cells = tile.reshape(cells, cell, cells, cell).swapaxes(1, 2).reshape(cells**2, cell**2)
                    for variable, pixels in zip(squares, in_cells, strict=True):
                        total = builder.load(variable)
                        for value in pixels:
                            total = _multiply_add(builder, value, value, total)
                        builder.store(total, variable)
                for _ in range(2):  # matrix @ tile, transposed: twice makes matrix @ tile @ matrix^T
                    tile = np.array([_matrix_product(builder, matrix, column) for column in tile.T], object)
                values = list(tile.reshape(-1))
                if len(end):
                    values = [builder.fadd(value, load(bias)) for value in values]
                    with builder.if_else(has_residual) as (then, otherwise):
                        with then:
                            sums = [builder.fadd(v, load(r)) for v, r in zip(values, residuals, strict=True)]
                            store([_clipped(builder, value, floor) for value in sums])
                        with otherwise:
                            store([_clipped(builder, value, floor) for value in values])
                else:
                    store(values)
            if len(energies):
                (kind,), (array,) = signature.args[11], cgutils.unpack_tuple(builder, arguments[11])
                pointer = _address(context, builder, kind, array, INT64(0))
                for i, sums in enumerate(_sums_of(builder, [builder.load(variable) for variable in squares])):
                    place = builder.bitcast(builder.gep(pointer, [INT64(i * vector.count)]), vector.as_pointer())
                    builder.store(sums, place, align=itemsize)
            return context.get_dummy_value()

        i = types.int64
        return types.void(x, i, zeros, sources, i, y, i, scrap, targets, i, i, energies, end), generate

    return transform


def _matrix_product(builder: Any, matrix: np.ndarray, inputs: Iterable[Any]) -> list[Any]:
    """Return matrix @ inputs, for vectors.

    Of two columns that differ in signs only, the sum and the difference of their inputs are made once; of two such
    rows, what both add and what one adds and the other takes off.
    """
    matrix, inputs = matrix.copy(), list(inputs)
    for p, q in _twins(matrix.T):
        matrix[:, [p, q]] = (matrix[:, [p, p]] + matrix[:, [q, q]] * [1, -1]) / 2
        inputs[p], inputs[q] = builder.fadd(inputs[p], inputs[q]), builder.fsub(inputs[p], inputs[q])
    outputs = [None] * len(matrix)
    for p, q in _twins(matrix):
        even, odd = (matrix[p] + matrix[q]) / 2, (matrix[p] - matrix[q]) / 2
        factor = odd[np.flatnonzero(odd)[-1]]
        even, odd = _combination(builder, even, inputs), _combination(builder, odd / factor, inputs)
        for row, sign in ((p, 1), (q, -1)):
            outputs[row] = _multiply_add(builder, odd, _constant(sign * factor, even.type), even)
    return [
        _combination(builder, row, inputs) if output is None else output
        for row, output in zip(matrix, outputs, strict=True)
    ]


def _twins(rows: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of rows that are equal but for some signs, not all."""
    pairs = combinations(range(len(rows)), 2)
    return [
        (p, q) for p, q in pairs if (abs(rows[p]) == abs(rows[q])).all() and abs(rows[p] @ rows[q]) < rows[p] @ rows[p]
    ]


def _combination(builder: Any, coefficients: np.ndarray, vectors: Sequence[Any]) -> Any:
    """Return the sum of coefficients times vectors; a vector that needs no product comes first."""
    total = None
    for number, each in sorted(zip(coefficients, vectors, strict=True), key=lambda term: term[0] != 1):
        if number == 0:
            continue
        factor = _constant(number, each.type)
        if total is None:
            total = each if number == 1 else builder.fmul(each, factor)
        else:
            total = builder.fadd(total, each) if number == 1 else _multiply_add(builder, each, factor, total)
    return total


def _constant(number: float, vector: ir.VectorType) -> Any:
    return ir.Constant(vector, [float(number)] * vector.count)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, fused where the processor has an instruction for it."""
    name = f"llvm.fmuladd.v{a.type.count}{a.type.element.intrinsic_name}"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])


def _sums_of(builder: Any, vectors: Sequence[Any]) -> list[Any]:
    """Return the sum of each vector's numbers, one after another in vectors: neighbours are added, over and over."""
    vector = vectors[0].type
    lanes = vector.count
    missing = (1 << (len(vectors) - 1).bit_length()) - len(vectors)
    vectors = [*vectors, *[ir.Constant(vector, None)] * missing]
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(vectors[::2], vectors[1::2] or vectors, strict=True)
        masks = [ir.Constant(ir.VectorType(INT32, lanes), list(range(first, 2 * lanes, 2))) for first in (0, 1)]
        vectors = [builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks)) for a, b in pairs]
    return list(vectors)
