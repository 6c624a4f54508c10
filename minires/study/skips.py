"""Where a model's skip connections are: residual sums, found in the recorded graph of any model.

The rule. A *residual sum* is an addition or a subtraction of two Tensors of equal shape that both come from the model's
input, where one of the two ways uses a parameter. Its *fork* is the last Tensor through which everything passes that
reaches the sum (the sum's immediate dominator: Lengauer and Tarjan 1979). Of its two operands, the *shortcut* is the
one with fewer operations that use parameters between fork and sum, then the one whose parameters have fewer elements,
then the one with fewer operations at all, then the second; the other is the *branch*. Where the shortcut is the fork
itself, with a plus before it, it is an identity.

So y = x + F(x), x - F(x), a x + b F(x), batch norm with ``residual=``, projections and padded shortcuts, Highway gates
and blocks written by hand are found alike, whatever their classes are; a bias, or the sums inside an activation
function, are none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from minires.autograd import Tensor
from minires.ops.arithmetic import Add, Sub
from minires.study.errors import StudyError
from minires.study.trace import INPUT, Operation, Trace, Value


@dataclass(frozen=True)
class Skip:
    """One residual sum of a traced pass.

    Attributes
    ----------
    name : of the innermost module that holds both the branch and the sum; "sum 1", ... in a model without such modules
    operation : the addition or subtraction
    fork, shortcut, branch, sum : Tensors (all but the fork of one shape)
    shortcut_index : which input of the operation the shortcut is, 0 or 1
    shortcut_sign, branch_sign : 1 for what is added, -1 for what is subtracted
    is_identity : whether the shortcut is the fork itself, and added
    feeds_only_this : whether the fork is used by this block alone, so that all of its gradient comes through it
    """

    name: str
    operation: Operation
    fork: Tensor
    shortcut: Tensor
    branch: Tensor
    shortcut_index: int
    shortcut_sign: int
    branch_sign: int
    is_identity: bool
    feeds_only_this: bool

    @property
    def sum(self) -> Tensor:
        """What the addition gave."""
        return self.operation.outputs[0]

    @property
    def number(self) -> int:
        """The operation's place in the forward pass."""
        return self.operation.number


def find_skips(traced: Trace) -> list[Skip]:
    """Return the residual sums of a traced pass, in the order in which they ran. There may be none."""
    graph = _DataGraph(traced)
    skips = []
    for operation in traced.operations:
        skip = graph.skip_at(operation)
        if skip is not None:
            skips.append(skip)
    return _with_distinct_names(skips)


def require_skips(traced: Trace) -> list[Skip]:
    """Return the residual sums of a traced pass.

    Raises
    ------
    StudyError
        If there is none.
    """
    skips = find_skips(traced)
    if not skips:
        raise StudyError(
            "this model has no residual block: nowhere does it add or subtract two Tensors of one shape that both "
            "depend on its input, one of them by way of a parameter"
        )
    return skips


class _DataGraph:
    """The operations that depend on the input, with the immediate dominator of each value."""

    def __init__(self, traced: Trace):
        self.traced = traced
        self.dominator: dict[Value, Value] = {}
        self.depth: dict[Value, int] = {INPUT: 0}  # in the tree of dominators
        self.consumers: dict[Value, list[int]] = {}  # by number of operation
        for operation in traced.operations:
            values = {value for _, value in operation.sources}
            if not values:
                continue
            for value in values:
                self.consumers.setdefault(value, []).append(operation.number)
            nearest = values.pop()
            for value in values:
                nearest = self._meeting_point(nearest, value)
            for index in range(len(operation.outputs)):
                made = Value(id(operation.function), index)
                self.dominator[made], self.depth[made] = nearest, self.depth[nearest] + 1

    def _meeting_point(self, a: Value, b: Value) -> Value:
        while a != b:
            if self.depth[a] >= self.depth[b]:
                a = self.dominator[a]
            else:
                b = self.dominator[b]
        return a

    def skip_at(self, operation: Operation) -> Skip | None:
        """Return the residual sum at ``operation``, or None if it is none."""
        if not isinstance(operation.function, (Add, Sub)) or len(operation.sources) != 2:
            return None
        operands = [value for _, value in operation.sources]
        tensors = [self.traced.tensor(value) for value in operands]
        if tensors[0].shape != tensors[1].shape or not operation.outputs[0].is_floating_point():
            return None
        fork = self._meeting_point(*operands)
        between = [self._between(fork, value) for value in operands]
        costs = [(sum(op.weighs for op in ways), sum(op.weight for op in ways), len(ways)) for ways in between]
        shortcut = 0 if costs[0] < costs[1] else 1
        if costs[1 - shortcut][0] == 0:
            return None
        inside = {op.number for ways in between for op in ways} | {operation.number}
        signs = (1, -1 if isinstance(operation.function, Sub) else 1)
        return Skip(
            name=_common_module([operation, *between[1 - shortcut]]),
            operation=operation,
            fork=self.traced.tensor(fork),
            shortcut=tensors[shortcut],
            branch=tensors[1 - shortcut],
            shortcut_index=operation.sources[shortcut][0],
            shortcut_sign=signs[shortcut],
            branch_sign=signs[1 - shortcut],
            is_identity=operands[shortcut] == fork and signs[shortcut] == 1,
            feeds_only_this=inside.issuperset(self.consumers[fork]),
        )

    def _between(self, fork: Value, end: Value) -> list[Operation]:
        """Return the operations on the ways from ``fork`` to ``end``."""
        found: dict[int, Operation] = {}
        stack = [end]
        while stack:
            value = stack.pop()
            maker = self.traced.maker(value)
            if value == fork or maker is None or maker.number in found:
                continue
            found[maker.number] = maker
            stack += [source for _, source in maker.sources]
        return list(found.values())


def _common_module(operations: list[Operation]) -> str:
    """Return the name of the innermost module call that all of the operations ran in."""
    name = ""
    for calls in zip(*(operation.calls for operation in operations), strict=False):
        if len(set(calls)) > 1:
            break
        name = calls[0].name
    return name


def _with_distinct_names(skips: list[Skip]) -> list[Skip]:
    count = Counter(skip.name for skip in skips)
    seen: Counter[str] = Counter()
    named = []
    for skip in skips:
        seen[skip.name] += 1
        if not skip.name:
            skip = replace(skip, name=f"sum {seen['']}")
        elif count[skip.name] > 1:
            skip = replace(skip, name=f"{skip.name} ({seen[skip.name]})")
        named.append(skip)
    return named
