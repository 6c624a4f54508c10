"""Gradient checkpointing: forget what a function computed on its way, and compute it again when backward needs it.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost": with n equal layers in segments of sqrt(n), memory
holds sqrt(n) boundaries and the sqrt(n) layers of one segment instead of n layers, for one more forward pass.

The function runs once without a graph, and leaves one node. The node's backward runs it again, now with a graph, and
walks that graph. Whatever the function uses, arguments or Tensors that it closes over, must get its gradient through
the node: so the first run lists every Tensor from outside that requires one, wherever it comes from, and these are the
node's inputs. In the second run detached stand-ins take their places, where the inner walk ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from minires.autograd.engine import grad
from minires.autograd.function import Function, creation_numbers
from minires.autograd.modes import (
    autocasting,
    detect_anomaly,
    enable_grad,
    is_grad_enabled,
    no_grad,
    recomputing,
    state,
)
from minires.autograd.tensor import Tensor, Version
from minires.device import random_states, repeated_random


def checkpoint(
    function: Callable, *args: Any, preserve_rng_state: bool = True, use_reentrant: bool = False, **options: Any
) -> Any:
    """Return ``function(*args, **options)``; what it saves for its gradient is computed again in the backward pass.

    As ``torch.utils.checkpoint.checkpoint``. Gradients reach the arguments and everything else that the function uses,
    such as the parameters of a module, and are the same bits as without checkpointing. Second derivatives work as well.

    Unlike PyTorch, batch norm leaves its running statistics alone in the second run (`is_recomputing` tells it), so
    that buffers too are what they would be without checkpointing.

    Parameters
    ----------
    function : returns a Tensor, or a tuple or list whose Tensors come back with a gradient (all of floating-point
        numbers) and the rest as it is. It must do the same both times: read no global that changes, and change nothing
        but what `is_recomputing` guards. The first time it runs under `no_grad`.
    preserve_rng_state : repeat the random numbers in the second run, so that dropout drops the same elements.
    use_reentrant : PyTorch's choice of two ways; here there is one, and it does what both can do.

    Raises
    ------
    TypeError
        If the function returns something else.
    RuntimeError
        If the function changes a Tensor from outside that requires a gradient in place. In the backward pass, if the
        second run differs from the first, or an input was changed in place between them.

    Examples
    --------
    >>> y = checkpoint(net.layer1, x)
    """
    # Taken under no_grad too: taking them can change a GPU's generator, and so must happen in both runs of a function
    # that calls this one.
    states = random_states() if preserve_rng_state else None
    if not is_grad_enabled():
        return function(*args, **options)
    outside = _Outside()
    outside.guard([x for x in (*args, *options.values()) if isinstance(x, Tensor) and x.requires_grad])
    with no_grad(), _crossing(outside):
        result = function(*args, **options)
        outputs = outside.take(_tensors_of(result, function))
    outside.check_unchanged()
    seen = list(outside.found.values())
    if not seen:
        return result
    # Arguments without a gradient are inputs too, because inputs are guarded against changes in place.
    seen += [x for x in (*args, *options.values()) if isinstance(x, Tensor) and id(x) not in outside.found]
    node = Checkpointed(lambda: function(*args, **options), seen, [output.array for output in outputs], states)
    return _with_tensors(result, node(*seen))


def checkpoint_sequential(
    functions: Iterable[Callable], segments: int, input: Any, preserve_rng_state: bool = True, **options: Any
) -> Any:
    """Pass ``input`` through ``functions`` in turn, in ``segments`` parts of which all but the last are checkpointed.

    As ``torch.utils.checkpoint.checkpoint_sequential``: the walk begins with the last part, so forgetting it would not
    save memory. Parts have equal lengths; the last takes what is left over.

    Parameters
    ----------
    functions : a `minires.nn.Sequential`, or other functions of one argument.
    segments : how many parts, from 1 to the number of functions; its square root needs the least memory where all
        functions are alike.

    Raises
    ------
    ValueError
        If there cannot be so many parts.
    """
    functions = list(functions)
    if not 1 <= segments <= len(functions):
        raise ValueError(
            f"checkpoint_sequential: segments must lie between 1 and the {len(functions)} functions, got {segments}"
        )
    length = len(functions) // segments
    for begin in range(0, length * (segments - 1), length):
        segment = functions[begin : begin + length]
        input = checkpoint(in_turn(segment), input, preserve_rng_state=preserve_rng_state, **options)
    return in_turn(functions[length * (segments - 1) :])(input)


def in_turn(functions: Sequence[Callable]) -> Callable[[Any], Any]:
    """Return the function that passes its argument through ``functions`` one after another."""

    def run(input: Any) -> Any:
        for function in functions:
            input = function(input)
        return input

    return run


class Checkpointed(Function):
    """(every Tensor that the function used) -> its outputs, which were computed before.

    Parameters
    ----------
    function : what to run again, without arguments
    seen : the inputs, as the function knows them. Inside another checkpoint, the node is applied to their stand-ins.
    results : the arrays of the outputs
    states : where the random generators stood before the first run, or None
    """

    materialize_grads = False

    def __init__(self, function: Callable[[], Any], seen: list[Tensor], results: list, states: dict | None):
        self.function: Callable[[], Any] | None = function
        self.seen = seen
        self.results = results
        self.states = states
        self.autocast = state.autocast

    def forward(self, *inputs: Any) -> tuple:
        """Return what was computed before."""
        self.save(*inputs)
        results, self.results = tuple(self.results), []  # the node must not keep its outputs alive
        return results

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Run the function again with a graph, and walk it from its outputs to the stand-ins."""
        inputs = self.saved
        wanted = [index for index, needed in enumerate(self.needs_grad) if needed]
        create_graph = is_grad_enabled()
        outside = _Outside(
            {
                id(original): _stand_in(tensor, needed, create_graph)
                for original, tensor, needed in zip(self.seen, inputs, self.needs_grad, strict=True)
                if original.requires_grad
            }
        )
        with detect_anomaly(self.forward_stack is not None):  # the walk has switched it off for a node's backward
            outputs = self._run_again(outside)
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            result: list[Tensor | None] = [None] * len(inputs)
            if pairs:
                reached, arriving = zip(*pairs, strict=True)
                targets = [outside.stand_ins[id(self.seen[index])] for index in wanted]
                found = grad(reached, targets, arriving, create_graph=create_graph, allow_unused=True)
                for index, gradient in zip(wanted, found, strict=True):
                    result[index] = gradient
        return tuple(result)

    def _run_again(self, outside: _Outside) -> tuple[Tensor, ...]:
        assert self.function is not None  # else `saved` has raised
        repeated = nullcontext() if self.states is None else repeated_random(self.states)
        with enable_grad(), recomputing(), autocasting(self.autocast), repeated, _crossing(outside):
            outputs = outside.take(_tensors_of(self.function(), self.function))
        before = [output.shape for output in self.outputs]
        after = [output.shape for output in outputs]
        if before != after:
            raise RuntimeError(
                f"checkpoint: the function returned Tensors of shapes {before} in the forward pass and {after} when "
                "it was run again for the backward pass: it must do the same both times"
            )
        # A leaf that the function itself makes is another one in each run: it fills the place of its predecessor.
        if len(outside.found) > len(outside.stand_ins) - len(outside.used):
            shapes = [tensor.shape for tensor in outside.found.values()]
            raise RuntimeError(
                f"checkpoint: run again for the backward pass, the function used Tensors of shapes {shapes} that it "
                "had not used in the forward pass: it must do the same both times"
            )
        return outputs

    def release(self) -> None:
        """Free what was saved, and the function with all that it closes over."""
        super().release()
        self.function, self.seen = None, []


class _StandIn(Function):
    """The identity: for second derivatives a stand-in leads on to what it stands for."""

    makes_views = True

    def forward(self, x: Any) -> Any:
        """Return the array as it is."""
        return x

    def backward(self, dy: Tensor) -> Tensor:
        """Return the gradient as it is."""
        return dy


def _stand_in(tensor: Tensor, needed: bool, create_graph: bool) -> Tensor:
    if create_graph:  # a first derivative depends on every one, wanted or not
        return _StandIn()(tensor)
    return tensor.detach().requires_grad_(needed)


class _Outside:
    """The Tensors that require a gradient and come into a checkpointed function from outside.

    Attributes
    ----------
    stand_ins : by id of a Tensor from outside, what takes its place
    used : those ids that were met
    found : the Tensors from outside that have no stand-in, by id, in the order in which they were met
    """

    def __init__(self, stand_ins: dict[int, Tensor] | None = None):
        self.stand_ins = stand_ins or {}
        self.used: set[int] = set()
        self.found: dict[int, Tensor] = {}
        self._guarded: list[tuple[Version, int]] = []
        self._begin = next(creation_numbers)

    def take(self, inputs: tuple) -> tuple:
        """Return the inputs of an operation as they are to enter it."""
        return tuple([self._entered(x) if isinstance(x, Tensor) and x._requires_grad else x for x in inputs])

    def _entered(self, tensor: Tensor) -> Tensor:
        stand_in = self.stand_ins.get(id(tensor))
        if stand_in is not None:
            self.used.add(id(tensor))
            return stand_in
        if tensor.grad_fn is None or tensor.grad_fn.creation_number < self._begin:
            if id(tensor) not in self.found:
                self.guard([tensor])
            self.found[id(tensor)] = tensor
        return tensor

    def guard(self, tensors: Iterable[Tensor]) -> None:
        """Note the versions that Tensors from outside have now."""
        self._guarded += [(tensor._version, tensor._version.number) for tensor in tensors]

    def check_unchanged(self) -> None:
        """Raise RuntimeError if a Tensor that is guarded was changed in place: the second run would find it so."""
        if any(version.number != number for version, number in self._guarded):
            raise RuntimeError(
                "checkpoint: the function changes a Tensor from outside in place, an argument or another. Run again "
                "for the backward pass it would find what the first run left: let it change a clone()"
            )


@contextmanager
def _crossing(outside: _Outside) -> Iterator[None]:
    """Let ``outside`` see, and replace, what operations in this thread take in."""
    before, state.outside = state.outside, outside
    try:
        yield
    finally:
        state.outside = before


def _tensors_of(result: Any, function: Callable) -> tuple[Tensor, ...]:
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, (tuple, list)):
        return tuple(value for value in result if isinstance(value, Tensor))
    name = getattr(function, "__name__", type(function).__name__)
    raise TypeError(
        f"checkpoint: {name} must return a Tensor, or a tuple or list with Tensors, got {type(result).__name__}"
    )


def _with_tensors(result: Any, tensors: tuple[Tensor, ...]) -> Any:
    """Return ``result`` with other Tensors in the places of its own."""
    if isinstance(result, Tensor):
        return tensors[0]
    replacements = iter(tensors)
    values = [next(replacements) if isinstance(value, Tensor) else value for value in result]
    return type(result)._make(values) if hasattr(result, "_make") else type(result)(values)
