"""Lesions: how a trained net does after blocks were taken out or changed places, without training it again.

Veit, Wilber and Belongie 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", section 4: a
residual net hardly notices the loss of a block (figure 3), its error rises smoothly with the number of blocks lost
(figure 5a) and with the disorder of blocks that changed places (figure 5b); a plain net fails at once.

To drop a residual block is to leave the branch out of its sum: what remains is the shortcut. In a model without
residual blocks a block is dropped by handing its input on as its output, which needs equal shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.autograd import Function, Tensor, no_grad, observe
from minires.nn import Module
from minires.nn import functional as F
from minires.ops.arithmetic import Add, Sub
from minires.ops.fusion import unfused
from minires.study.blocks import block_shapes, find_blocks
from minires.study.errors import StudyError
from minires.study.figure import check_results, label_ticks, legend_above, line_style, new_figure, whole_ticks
from minires.study.skips import Skip, find_skips
from minires.study.trace import LossFunction, check_batch, check_output, trace, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("drop one", "drop several", "reorder")


@dataclass(frozen=True)
class Lesion:
    """One change to the net and what became of it.

    Attributes
    ----------
    kind : "drop one", "drop several" or "reorder"
    blocks : the blocks dropped; of a reordering, the two that changed places in each exchange, one after the other
    amount : blocks dropped; of a reordering, 1 - Kendall's tau of the new order against the old one, 0 to 2
    error : share of wrong answers, 0 to 1
    loss : mean loss
    """

    kind: str
    blocks: tuple[str, ...]
    amount: float
    error: float
    loss: float


@dataclass(frozen=True)
class Lesions:
    """All lesions of a net; ``error`` and ``loss`` are those of the net as it was.

    ``residual`` tells whether blocks lost their branches (True) or were bridged as a whole (False); ``kept`` names the
    blocks that cannot be bridged because they do not return one Tensor of the shape of the one that they take.
    """

    error: float
    loss: float
    residual: bool
    lesions: tuple[Lesion, ...]
    kept: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return one record a lesion, the intact net first."""
        intact = {"kind": "none", "blocks": "", "amount": 0, "error": self.error, "loss": self.loss}
        return [intact] + [
            {
                "kind": lesion.kind,
                "blocks": " ".join(lesion.blocks),
                "amount": lesion.amount,
                "error": lesion.error,
                "loss": lesion.loss,
            }
            for lesion in self.lesions
        ]

    def of_kind(self, kind: str) -> list[Lesion]:
        """Return the lesions of one kind."""
        return [lesion for lesion in self.lesions if lesion.kind == kind]


def lesions(
    model: Module,
    images: Tensor,
    labels: Tensor,
    loss_fn: LossFunction = F.cross_entropy,
    kinds: Sequence[str] = KINDS,
    samples: int = 3,
    batch_size: int = 128,
    seed: int = 0,
) -> Lesions:
    """Drop each block in turn, then several at random, then exchange blocks, and return the error after each.

    The model runs in eval mode, and is left as it was. Blocks are found by the rules of `minires.study.skips`, or of
    `minires.study.blocks` where there is no residual block.

    Parameters
    ----------
    images, labels : Tensors (N, ...) and (N,); ``model(images)`` are logits (N, classes)
    kinds : which lesions to make, of "drop one", "drop several" and "reorder"
    samples : how many random choices for each number of blocks or exchanges
    batch_size : images at a time

    Raises
    ------
    StudyError
        If there is nothing to drop, or a kind is unknown.
    """
    check_batch(images, labels)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise StudyError(f"there is no lesion {unknown[0]!r}: choose from {', '.join(KINDS)}")
    if samples < 1 or batch_size < 1:
        raise StudyError(f"samples and batch_size must be at least 1, got {samples} and {batch_size}")
    rng = np.random.default_rng(seed)
    with untouched(model, training=False):
        surgery = _Surgery(model, images[:1])

        def result(kind: str, blocks: Sequence[str], amount: float, operation: Any) -> Lesion:
            with operation:
                return Lesion(kind, tuple(blocks), amount, *_errors(model, images, labels, loss_fn, batch_size))

        intact = _errors(model, images, labels, loss_fn, batch_size)
        found = []
        if "drop one" in kinds:
            found += [result("drop one", [name], 1, surgery.without([name])) for name in surgery.names]
        if "drop several" in kinds:
            for count in range(2, len(surgery.names) + 1):
                for _ in range(samples if count < len(surgery.names) else 1):
                    chosen = sorted(rng.choice(len(surgery.names), count, replace=False))
                    names = [surgery.names[index] for index in chosen]
                    found.append(result("drop several", names, count, surgery.without(names)))
        if "reorder" in kinds:
            for exchanges in surgery.random_exchanges(samples, rng):
                names = [name for pair in exchanges for name in pair]
                amount = 1 - surgery.kendall_tau(exchanges)
                found.append(result("reorder", names, amount, surgery.exchanged(exchanges)))
    return Lesions(*intact, surgery.residual, tuple(found), tuple(surgery.kept))


def _errors(
    model: Module, images: Tensor, labels: Tensor, loss_fn: LossFunction, batch_size: int
) -> tuple[float, float]:
    """Return the share of wrong answers and the mean loss."""
    wrong, loss = 0.0, 0.0
    with no_grad(), unfused():
        for begin in range(0, len(images), batch_size):
            some, targets = images[begin : begin + batch_size], labels[begin : begin + batch_size]
            logits = model(some)
            check_output(logits)
            if logits.ndim != 2:
                raise StudyError(f"lesions count wrong answers: logits (N, classes) are needed, got {logits.shape}")
            wrong += float((logits.array.argmax(1) != targets.array).sum())
            loss += loss_fn(logits, targets).item() * len(some)
    return wrong / len(images), loss / len(images)


class _Surgery:
    """What can be dropped from a model and what can change places, and how that is done."""

    def __init__(self, model: Module, image: Tensor):
        self.model = model
        skips = find_skips(trace(model, image))
        self.residual = bool(skips)
        self.skips = {skip.name: skip for skip in skips}
        blocks = find_blocks(model)
        shapes = block_shapes(model, blocks, image)
        self.movable = [name for name in blocks if name in shapes]
        self.shapes = shapes
        if self.residual:
            self.names, self.kept = list(self.skips), []
        else:
            self.names = [name for name in self.movable if shapes[name][0] == shapes[name][1]]
            self.kept = [name for name in blocks if name not in self.names]
        if not self.names:
            raise StudyError(
                "this model has no block that could be dropped: no residual sum, and no repeated module that takes one "
                "Tensor and returns one of the same shape"
            )

    @contextmanager
    def without(self, names: Sequence[str]) -> Iterator[None]:
        """Run the model without these blocks inside."""
        with ExitStack() as stack:
            if self.residual:
                cutter = _BranchCutter([self.skips[name] for name in names])
                stack.enter_context(self.model.register_forward_pre_hook(cutter.begin))
                stack.enter_context(self.model.register_forward_hook(cutter.end))
                stack.enter_context(observe(cutter))
            else:
                for name in names:
                    module = self.model.get_submodule(name)
                    stack.enter_context(module.register_forward_hook(lambda module, inputs, output: inputs[0]))
            yield

    @contextmanager
    def exchanged(self, exchanges: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Let blocks change places inside, one exchange after the other."""
        for a, b in exchanges:
            _exchange(self.model, a, b)
        try:
            yield
        finally:
            for a, b in reversed(exchanges):
                _exchange(self.model, a, b)

    def random_exchanges(self, samples: int, rng: np.random.Generator) -> Iterator[list[tuple[str, str]]]:
        """Yield random series of exchanges between blocks of equal input and output shapes, short ones first."""
        groups: dict[Any, list[str]] = {}
        for name in self.movable:
            if self.shapes[name][0] == self.shapes[name][1]:
                groups.setdefault(self.shapes[name], []).append(name)
        pairs = [(a, b) for group in groups.values() for i, a in enumerate(group) for b in group[i + 1 :]]
        for count in range(1, len(self.movable)) if pairs else ():
            for _ in range(samples):
                yield [pairs[index] for index in rng.integers(0, len(pairs), count)]

    def kendall_tau(self, exchanges: Sequence[tuple[str, str]]) -> float:
        """Return the rank correlation between the order of the blocks before and after (Kendall 1938)."""
        order = list(range(len(self.movable)))
        for a, b in exchanges:
            i, j = self.movable.index(a), self.movable.index(b)
            order[i], order[j] = order[j], order[i]
        return kendall_tau(order)


class _BranchCutter:
    """Replaces what residual sums give by what their shortcuts brought.

    An observer sees a result before the model does. Writing into it is safe without a graph, which nobody could walk.
    """

    def __init__(self, skips: Sequence[Skip]):
        self.cut = {skip.number: (skip.shortcut_index, skip.shortcut_sign) for skip in skips}
        self.number: int | None = None  # of the next operation; None outside the model

    def begin(self, module: Module, inputs: tuple) -> None:
        """Count operations from the beginning of each pass, as a trace does."""
        self.number = 0

    def end(self, module: Module, inputs: tuple, output: object) -> None:
        """Count no more: the loss is no part of the model."""
        self.number = None

    def forward(self, function: Function, inputs: tuple, outputs: tuple, seconds: float) -> None:
        if self.number is None:
            return
        cut = self.cut.get(self.number)
        self.number += 1
        if cut is None:
            return
        if not isinstance(function, (Add, Sub)):
            raise StudyError("this model does not take the same way in every pass: its blocks cannot be dropped")
        index, sign = cut
        outputs[0].array[...] = sign * inputs[index].array

    def backward(self, function: Function, grad_outputs: tuple, grad_inputs: tuple, seconds: float) -> None:
        """There is no graph to walk."""


def _exchange(model: Module, a: str, b: str) -> None:
    """Let two submodules change places."""
    (parent_a, name_a), (parent_b, name_b) = (_parent(model, name) for name in (a, b))
    first, second = parent_a._modules[name_a], parent_b._modules[name_b]
    parent_a._modules[name_a], parent_b._modules[name_b] = second, first


def _parent(model: Module, name: str) -> tuple[Module, str]:
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last


def kendall_tau(order: Sequence[int]) -> float:
    """Return Kendall's tau of a permutation against the sorted order: 1 for equal, -1 for reversed orders."""
    count = len(order)
    pairs = count * (count - 1) // 2
    if not pairs:
        return 1.0
    agreeing = sum(order[i] < order[j] for i in range(count) for j in range(i + 1, count))
    return 2 * agreeing / pairs - 1


def draw_lesions(results: Mapping[str, Lesions]) -> Figure:
    """Draw the error after each single loss, and by the number of blocks lost and by disorder."""
    check_results(results)
    shown = [kind for kind in KINDS if any(result.of_kind(kind) for result in results.values())]
    places = {name: place for place, name in enumerate(_dropped_blocks(results))}
    if not shown:
        raise StudyError("there is nothing to draw: no lesion was made")
    figure, panels = new_figure(len(shown), height=2.6)
    for axes, kind in zip(panels, shown, strict=True):
        for index, (label, result) in enumerate(results.items()):
            style = line_style(index)
            found = result.of_kind(kind)
            if kind == "drop one":
                at = [places[lesion.blocks[0]] for lesion in found]
                axes.plot(at, [lesion.error for lesion in found], linestyle="none", label=label, **style)
            else:
                axes.plot(*_means_by_amount(found), label=label, **style)
            axes.axhline(result.error, color=style["color"], linewidth=1, linestyle=":")
        axes.set(ylim=(0, 1), ylabel="error")
    titles = {"drop one": "block dropped", "drop several": "blocks dropped", "reorder": "disorder, 1 - Kendall's tau"}
    for axes, kind in zip(panels, shown, strict=True):
        axes.set_xlabel(titles[kind])
        if kind == "drop several":
            whole_ticks(axes)
    if shown[0] == "drop one":
        label_ticks(panels[0], _dropped_blocks(results))
    legend_above(figure, panels[0])
    return figure


def _dropped_blocks(results: Mapping[str, Lesions]) -> list[str]:
    """Return the blocks that were dropped alone in any of the nets; those of the net with most of them come first."""
    by_net = [[lesion.blocks[0] for lesion in result.of_kind("drop one")] for result in results.values()]
    return list(dict.fromkeys(name for names in sorted(by_net, key=len, reverse=True) for name in names))


def _means_by_amount(found: list[Lesion]) -> tuple[list[float], list[float]]:
    """Return the amounts and the mean error at each."""
    errors: dict[float, list[float]] = {}
    for lesion in found:
        errors.setdefault(round(lesion.amount, 3), []).append(lesion.error)
    amounts = sorted(errors)
    return amounts, [float(np.mean(errors[amount])) for amount in amounts]
