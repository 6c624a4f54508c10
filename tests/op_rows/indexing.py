import numpy as np
import torch
from op_table import Row, Sample, booleans, integers, normal, values

import minires
from minires.ops.indexing import one_hot

ALL = slice(None)


def by_array(x, before, index, after=()):
    return x[(*before, index, *after)]


def by_two(x, first, between, second):
    return x[(first, *between, second)]


ROWS = [
    Row(
        "getitem",
        lambda x, index: x[index],
        None,
        [
            Sample(normal(3, 4), 1),
            Sample(normal(3, 4), -1),
            Sample(normal(3, 4), (1, 2)),
            Sample(normal(3, 4), slice(1, 3)),
            Sample(normal(3, 4), slice(None, None, 2)),
            Sample(normal(3, 4), slice(-2, None)),
            Sample(normal(3, 4), slice(2, 1)),
            Sample(normal(3, 4), slice(0, 100, 3)),
            Sample(normal(3, 4), (ALL, 1)),
            Sample(normal(3, 4), (ALL, slice(1, 4, 2))),
            Sample(normal(2, 3, 4), (Ellipsis, 1)),
            Sample(normal(2, 3, 4), (0, Ellipsis, slice(1, 2))),
            Sample(normal(3, 4), (None, 1)),
            Sample(normal(3, 4), (ALL, None, 2, None)),
            Sample(normal(3, 4), Ellipsis),
            Sample(normal(3), None),
            Sample(normal(), ()),
            Sample(normal(), None),
            Sample(normal(), Ellipsis),
            Sample(normal(3, 4), True),
            Sample(normal(3, 4), False),
            Sample(normal(3, 4), [0, 2, 0]),
            Sample(normal(3, 4), ([0, 2, 0],)),
            Sample(normal(3, 4), ([0, 2], [1, 1])),
            Sample(normal(3, 4), []),
            Sample(normal(3, 4), [True, False, True]),
            Sample(normal(3, 4, layout="strided"), (slice(0, 2), [3, 0])),
            Sample(normal(2, 3, 2, 2, layout="channels_last"), (ALL, slice(1, 3))),
            Sample(integers(3, 4), (1, slice(1, 3))),
            Sample(normal(3), np.int64(2)),
        ],
        [
            Sample(normal(3, 4), 3),
            Sample(normal(3, 4), (0, -5)),
            Sample(normal(3, 4), (0, 0, 0)),
            Sample(normal(), 0),
            Sample(normal(3, 4), slice(None, None, -1)),
            Sample(normal(3, 4), slice(None, None, 0)),
            Sample(normal(3, 4), 1.5),
            Sample(normal(3, 4), "a"),
            Sample(normal(3, 4), [0, 3]),
            Sample(normal(3, 4), ([0, 1], [0, 1, 2])),
            Sample(normal(3, 4), [True, False]),
        ],
    ),
    Row(
        "getitem_by_array",
        by_array,
        None,
        [
            Sample(normal(3, 4), (), values([0, 2, 0])),
            Sample(normal(3, 4), (), values([-1, 0])),
            Sample(normal(3, 4), (), values([[0, 1], [2, 2]])),
            Sample(normal(3, 4), (), values(1)),
            Sample(normal(3, 4), (), values([], "int64")),
            Sample(normal(3, 4), (ALL,), values([1, 1, 3])),
            Sample(normal(3, 4), (slice(1, None),), values([1, 1, 3])),
            Sample(normal(2, 3, 4), (0, ALL), values([1, 2])),
            Sample(normal(2, 3, 4), (0, None), values([1, 2])),
            Sample(normal(2, 3, 4), (Ellipsis,), values([1, 2])),
            Sample(normal(2, 3, 4), (), values([1, 0]), (ALL, 2)),
            Sample(normal(2, 3, 4), (), values([1, 0]), (2,)),
            Sample(normal(3, 4), (), booleans(3)),
            Sample(normal(3, 4), (), booleans(3, 4)),
            Sample(normal(2, 3, 4), (ALL,), booleans(3, 4)),
            Sample(normal(2, 3, 4), (1,), booleans(3), (slice(0, 2),)),
            Sample(normal(3, 4), (), values([False] * 3)),
            Sample(normal(3), (), values(True)),
            Sample(normal(3, 4), (), values([0, 2], "int32")),
        ],
        [
            Sample(normal(3, 4), (), values([0, 3])),
            Sample(normal(3, 4), (), values([-4])),
            Sample(normal(3, 4), (), values([0.0, 1.0])),
            Sample(normal(3, 4), (), booleans(4)),
            Sample(normal(3, 4), (), booleans(4, 3)),
            Sample(normal(3, 4), (), values([0, 1], "int16")),
            Sample(normal(3), (0,), booleans(3)),
        ],
    ),
    Row(
        "getitem_by_two_arrays",
        by_two,
        None,
        [
            Sample(normal(3, 4), values([0, 2]), (), values([1, 1])),
            Sample(normal(3, 4), values([[0], [2]]), (), values([1, 3, 1])),
            Sample(normal(3, 2, 4), values([0, 2]), (ALL,), values([1, 3])),
            Sample(normal(3, 2, 4), values([0, 2]), (1,), values([1, 3])),
            Sample(normal(3, 4), values([0, 2]), (None,), values([1, 3])),
            Sample(normal(3, 4), booleans(3), (), values([2])),
            Sample(normal(3, 4), values(1), (), values([2, 0])),
        ],
        [Sample(normal(3, 4), values([0, 2]), (), values([1, 1, 1]))],
    ),
    Row(
        "gather",
        minires.gather,
        torch.gather,
        [
            Sample(normal(3, 4), 1, integers(3, 2, high=4)),
            Sample(normal(3, 4), 1, values([[0, 3], [1, 1]], np.int32)),
            Sample(normal(3, 4), 0, integers(5, 4, high=3)),
            Sample(normal(3, 4), -1, integers(2, 6, high=4)),
            Sample(normal(2, 3, 4), 1, integers(2, 1, 3, high=3)),
            Sample(normal(), 0, values(0)),
            Sample(normal(3, 4), 1, integers(0, 2)),
            Sample(integers(3, 4), 1, integers(3, 2, high=4)),
        ],
        [
            Sample(normal(3, 4), 1, values([[4]])),
            Sample(normal(3, 4), 1, values([[-1]])),
            Sample(normal(3, 4), 1, values([0])),
            Sample(normal(3, 4), 1, integers(4, 1, high=3)),
            Sample(normal(3, 4), 2, integers(3, 1, high=3)),
            Sample(normal(3, 4), 1, values([[0.0]])),
        ],
    ),
    Row(
        "scatter_add",
        minires.scatter_add,
        torch.scatter_add,
        [
            Sample(normal(3, 4), 1, integers(3, 2, high=4), normal(3, 2)),
            Sample(normal(3, 4), 1, values([[0, 3], [1, 1]], np.int32), normal(2, 2)),
            Sample(normal(3, 4), 0, integers(5, 4, high=3), normal(5, 4)),
            Sample(normal(3, 4), -1, integers(2, 6, high=4), normal(2, 6)),
            Sample(integers(3, 4), 1, integers(2, 6, high=4), integers(4, 7)),
            Sample(normal(3, 4), 1, integers(3, 1, high=4), normal(3, 1)),
            Sample(normal(), 0, values(0), normal()),
        ],
        [
            Sample(normal(3, 4), 1, values([[4]]), normal(1, 1)),
            Sample(normal(3, 4), 1, integers(3, 2, high=4), normal(3, 1)),
            Sample(normal(3, 4), 1, integers(4, 2, high=4), normal(4, 2)),
            Sample(normal(3, 4), 1, integers(3, 2, high=4), integers(3, 2)),
        ],
    ),
    Row(
        "one_hot",
        one_hot,
        torch.nn.functional.one_hot,
        [
            Sample(integers(4, high=3), 3),
            Sample(values([0, 2])),
            Sample(integers(2, 3, high=4), num_classes=5),
            Sample(values(2)),
            Sample(values([], "int64"), 3),
        ],
        [
            Sample(values([-1])),
            Sample(values([3]), 3),
            Sample(values([0.0])),
            Sample(values([], "int64")),
            Sample(values([1]), 0),
        ],
    ),
    Row(
        "nonzero",
        minires.nonzero,
        torch.nonzero,
        [
            Sample(booleans(3, 4)),
            Sample(integers(4, high=2)),
            Sample(values(1)),
            Sample(values([[0.0, 2.0], [1.0, 0.0]]), as_tuple=True),
        ],
    ),
]
