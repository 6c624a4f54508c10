"""Views: Tensors that lie in the memory of another, their base, and where a change of it leaves them in the graph.

A view knows its base, which is no view itself, and the steps from there: the Functions that make the view of the base.
After a recorded change in place (see `minires.ops.changes`) the base is the output of another Function. Its views find
out by the version of the memory when they are next asked for theirs, and take the steps once more from there.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

from minires.autograd.modes import enable_grad, state

if TYPE_CHECKING:
    from minires.autograd.function import Function
    from minires.autograd.tensor import Tensor


class Step(NamedTuple):
    """One Function on the way from a base to a view, and which of its outputs the way goes through."""

    function: Function
    output_index: int


class View:
    """What a Tensor is a view of.

    Attributes
    ----------
    steps : lead from the base to the view.
    number : the version of the memory that the view's place in the graph belongs to.
    obstacle : why a graph with changes in place cannot have this view in it; empty if it can.
    """

    __slots__ = ("_base", "_weak_base", "number", "obstacle", "steps")

    def __init__(self, base: Tensor, steps: tuple[Step, ...], number: int, obstacle: str, is_recorded: bool):
        # Made under no_grad it will never follow its base, and must not keep it: the walk asks whose memory is whose.
        self._base = base if is_recorded else None
        self._weak_base = weakref.ref(base)
        self.steps = steps
        self.number = number
        self.obstacle = obstacle

    @property
    def base(self) -> Tensor | None:
        """The Tensor that owns the memory; None if it is gone, and nobody can look at it any more."""
        return self._weak_base()

    def is_behind(self, view: Tensor) -> bool:
        """Tell whether the memory was changed in place since ``view`` got its place, and the base is in a graph."""
        base = self.base
        if view._version.number == self.number or base is None or not base._requires_grad:
            return False
        # A leaf was changed under no_grad, for it cannot be otherwise: nothing that a view made there must know.
        return self._base is not None or base._grad_fn is not None

    def follow(self, view: Tensor) -> None:
        """Give ``view``, if it is behind, its place in the graph anew.

        Raises
        ------
        RuntimeError
            If there is an obstacle.
        """
        if not self.is_behind(view):
            return
        if self.obstacle:
            raise RuntimeError(f"the base of a view was changed in place, and the view cannot follow: {self.obstacle}")
        renewed, steps = self.base, []
        with enable_grad():
            for function, _ in self.steps:
                steps.append(Step(function.anew(), 0))
                renewed = steps[-1].function(renewed)
        assert renewed is not None  # else it is not behind
        self.steps, self.number = tuple(steps), view._version.number
        view.set_grad_fn(renewed._grad_fn, renewed.output_index)


def view_of(source: Tensor, function: Function, output_index: int, output_count: int) -> View:
    """Return what output ``output_index`` of ``function`` is, in whose memory ``source`` lies too."""
    base, steps, obstacle = source, (), ""
    parent = source._view
    further = None if parent is None else parent.base
    if parent is not None and further is not None:
        base, steps, obstacle = further, parent.steps, parent.obstacle
    if not state.grad_enabled:
        obstacle = obstacle or "it was made under no_grad()"
    elif not function.makes_views:
        obstacle = obstacle or f"it was made by {function.name}, which returns its input: return a copy there"
    elif output_count > 1:
        obstacle = obstacle or f"it is one of {output_count} that {function.name} made: take it by an index or narrow()"
    steps = (*steps, Step(function, output_index))
    return View(base, steps, source._version.number, obstacle, state.grad_enabled)
