"""Derivatives as functions: vjp, jvp, jacobian, hessian, vhp and hvp, as in ``torch.autograd.functional``.

With J the Jacobian of a function, m outputs by n inputs, and H the Hessian of a function with one output,

    vjp = J' v      one backward pass
    jvp = J v       two: J' u is linear in u, and the gradient of <J' u, v> by u is J v (Townsend 2017, "A new trick
                    for calculating Jacobian vector products")
    vhp = v' H      two: the gradient, and its vjp
    hvp = H v       the same, because H is symmetric where second derivatives are continuous

None of these forms a matrix; `jacobian` and `hessian` do, one backward pass a row.

Inputs are detached: what the caller's Tensors have come from plays no part, and their ``grad`` stays as it is. With
``create_graph`` they are not, and the results can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minires.autograd.engine import grad
from minires.autograd.function import Function
from minires.autograd.modes import enable_grad
from minires.autograd.tensor import Tensor
from minires.device import array_module

Tensors = Tensor | tuple[Tensor, ...]


def vjp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the vector-Jacobian product v' J, one Tensor for each input.

    Parameters
    ----------
    func : takes the inputs, returns a Tensor or a tuple of Tensors
    inputs : floating-point Tensor or tuple of them
    v : of the shapes of the outputs; may be left out for one output of one element
    create_graph : make results that can be differentiated again
    strict : raise if an output does not depend on an input, instead of giving zeros

    Raises
    ------
    TypeError
        If the function or the caller hands over something else than Tensors.
    RuntimeError
        If v does not fit the outputs, or on independence under ``strict``.
    """
    leaves, outputs, kind, out_kind = _call("vjp", func, inputs, create_graph)
    directions = _vectors("vjp", "output", outputs, v)
    products = _pull_back("vjp", outputs, leaves, directions, create_graph, strict)
    return _repacked(outputs, out_kind, create_graph), _repacked(products, kind, create_graph)


def jvp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the Jacobian-vector product J v, one Tensor for each output.

    Parameters and errors are those of `vjp`, but v has the shapes of the inputs.
    """
    leaves, outputs, _, out_kind = _call("jvp", func, inputs, create_graph)
    directions = _vectors("jvp", "input", leaves, v)
    dummies = tuple(
        Tensor(array_module(output.array).zeros_like(output.array), requires_grad=True) for output in outputs
    )
    with enable_grad():
        products = _pull_back("jvp", outputs, leaves, dummies, True, strict)
        result = _pull_back("jvp", products, dummies, directions, create_graph, False)
    return _repacked(outputs, out_kind, create_graph), _repacked(result, out_kind, create_graph)


def jacobian(func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False) -> Any:
    """Return the Jacobian: for an output of shape S and an input of shape T, a Tensor of shape S + T.

    For a tuple of inputs it is a tuple of these, and for a tuple of outputs a tuple of such for each output. Parameters
    and errors are those of `vjp`.
    """
    leaves, outputs, kind, out_kind = _call("jacobian", func, inputs, create_graph)
    blocks = [_jacobian_of(output, leaves, create_graph, strict) for output in outputs]
    packed = tuple(_repacked(block, kind, create_graph) for block in blocks)
    return packed if out_kind is tuple else packed[0]


def hessian(func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False) -> Any:
    """Return the Hessian of a function with one output of one element: for inputs of shapes S and T, of shape S + T.

    For a tuple of inputs it is a tuple, over the first derivative, of tuples, over the second. Parameters and errors
    are those of `vjp`; in addition, an output of several elements is refused.
    """
    is_tuple = isinstance(inputs, tuple)

    def gradient(*leaves: Tensor) -> tuple[Tensor, ...]:
        with enable_grad():
            output = _scalar("hessian", func(*leaves))
        return _pull_back("hessian", (output,), leaves, (_ones(output),), True, strict)

    rows = jacobian(gradient, inputs if isinstance(inputs, tuple) else (inputs,), create_graph, strict)
    return rows if is_tuple else rows[0][0]


def vhp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return ``func(*inputs)``, one element, and the vector-Hessian product v' H, one Tensor for each input.

    Parameters and errors are those of `vjp`, but v has the shapes of the inputs and func one output of one element.
    """
    leaves, outputs, kind, out_kind = _call("vhp", func, inputs, create_graph)
    output = _scalar("vhp", outputs if out_kind is tuple else outputs[0])
    directions = _vectors("vhp", "input", leaves, v)
    with enable_grad():
        gradients = _pull_back("vhp", (output,), leaves, (_ones(output),), True, strict)
        products = _pull_back("vhp", gradients, leaves, directions, create_graph, strict)
    return _repacked(outputs, out_kind, create_graph), _repacked(products, kind, create_graph)


def hvp(
    func: Callable[..., Any],
    inputs: Tensors,
    v: Tensors | None = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """Return ``func(*inputs)`` and the Hessian-vector product H v, by the symmetry of H the same as `vhp`."""
    return vhp(func, inputs, v, create_graph, strict)


class _Stack(Function):
    """rows -> one array with a new first axis."""

    def forward(self, *rows: Any) -> Any:
        return array_module(rows[0]).stack(rows)

    def backward(self, dy: Tensor) -> tuple[Tensor, ...]:
        return tuple(dy[index] for index in range(len(self.input_shapes)))


def _call(
    name: str, func: Callable[..., Any], inputs: Any, create_graph: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], type, type]:
    """Return the inputs as differentiated, the outputs, and whether each came as a tuple or as a Tensor."""
    given = _tensors(name, "inputs", inputs)
    for index, tensor in enumerate(given):
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: input {index} is {tensor.dtype}: only floating-point Tensors have derivatives")
    with enable_grad():
        leaves = tuple(_differentiable(tensor, create_graph) for tensor in given)
        result = func(*leaves)
    outputs = _tensors(name, "the outputs of the function", result)
    return (
        leaves,
        outputs,
        type(inputs) if isinstance(inputs, tuple) else Tensor,
        (tuple if isinstance(result, (tuple, list)) else Tensor),
    )


def _differentiable(tensor: Tensor, create_graph: bool) -> Tensor:
    if create_graph and tensor.requires_grad:
        # A view of its own for each input: the same Tensor given twice is two inputs.
        return tensor[...]
    return tensor.detach().requires_grad_()


def _tensors(name: str, what: str, value: Any) -> tuple[Tensor, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for each in values:
        if not isinstance(each, Tensor):
            raise TypeError(f"{name}: {what} must be a Tensor or a tuple of Tensors, got {type(each).__name__}")
    if not values:
        raise TypeError(f"{name}: {what} must not be empty")
    return values


def _vectors(name: str, of: str, like: tuple[Tensor, ...], v: Any) -> tuple[Tensor, ...]:
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(
                f"{name}: v can be left out only for one {of} of one element: pass a Tensor for each {of}"
            )
        return (_ones(like[0]),)
    vectors = _tensors(name, "v", v)
    shapes, expected = [each.shape for each in vectors], [each.shape for each in like]
    if shapes != expected:
        raise RuntimeError(f"{name}: v must have the shapes of the {of}s, {expected}, got {shapes}")
    return vectors


def _scalar(name: str, result: Any) -> Tensor:
    outputs = _tensors(name, "the outputs of the function", result)
    if len(outputs) != 1 or outputs[0].numel() != 1:
        shapes = [output.shape for output in outputs]
        raise RuntimeError(f"{name} needs a function with one output of one element, got shapes {shapes}: use .sum()")
    return outputs[0]


def _pull_back(
    name: str,
    outputs: tuple[Tensor, ...],
    leaves: tuple[Tensor, ...],
    directions: tuple[Tensor, ...],
    create_graph: bool,
    strict: bool,
) -> tuple[Tensor, ...]:
    """Return v' J; outputs that depend on nothing add nothing."""
    varying = [(y, d) for y, d in zip(outputs, directions, strict=True) if y.requires_grad]
    if strict and len(varying) < len(outputs):
        raise RuntimeError(f"{name}: an output does not depend on the inputs, and strict=True asks that all do")
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if varying:
        ends, weights = zip(*varying, strict=True)
        found = grad(ends, leaves, weights, retain_graph=True, create_graph=create_graph, allow_unused=True)
    if strict and None in found:
        raise RuntimeError(f"{name}: input {found.index(None)} has no influence, and strict=True asks that all have")
    return tuple(_zeros(leaf) if each is None else each for leaf, each in zip(leaves, found, strict=True))


def _jacobian_of(output: Tensor, leaves: tuple[Tensor, ...], create_graph: bool, strict: bool) -> tuple[Tensor, ...]:
    xp = array_module(output.array)
    rows = []
    for row in range(output.numel()):
        direction = xp.zeros(output.numel(), output.dtype)
        direction[row] = 1
        unit = Tensor(direction.reshape(output.shape))
        rows.append(_pull_back("jacobian", (output,), leaves, (unit,), create_graph, strict))
    if not rows:
        return tuple(Tensor(xp.zeros((*output.shape, *leaf.shape), leaf.dtype)) for leaf in leaves)
    columns = zip(*rows, strict=True)
    return tuple(
        _Stack()(*column).reshape((*output.shape, *leaf.shape)) for column, leaf in zip(columns, leaves, strict=True)
    )


def _repacked(tensors: tuple[Tensor, ...], kind: type, create_graph: bool) -> Any:
    results = tensors if create_graph else tuple(tensor.detach() for tensor in tensors)
    return tuple(results) if kind is tuple else results[0]


def _ones(tensor: Tensor) -> Tensor:
    return Tensor(array_module(tensor.array).ones_like(tensor.array))


def _zeros(tensor: Tensor) -> Tensor:
    return Tensor(array_module(tensor.array).zeros_like(tensor.array))
