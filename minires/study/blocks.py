"""Which modules of a model are its repeated blocks, where nothing else says so.

The rule. Containers (Sequential, ModuleList and their subclasses) are looked through. Of the modules then found, blocks
are those that have parameters and submodules and belong to a class that occurs at least twice. If there are none, and a
single module holds everything, the search goes on inside it; else layers whose weights have two axes or more (linear,
convolution) and whose class occurs twice are the blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from minires.autograd import Tensor, no_grad
from minires.nn import Module, ModuleList, Sequential
from minires.study.errors import StudyError


def find_blocks(model: Module) -> list[str]:
    """Return the dotted names of the repeated blocks of a model, in the order of registration. There may be none."""
    return _blocks_below("", model)


def block_shapes(model: Module, names: list[str], images: Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Run ``model`` and return the shapes, without the batch axis, of what goes into each named block and comes out.

    Blocks that are not called, or have other inputs or outputs than one Tensor, are left out.

    Raises
    ------
    StudyError
        If the model has no block of that name.
    """
    shapes = {}
    handles = []
    for name in names:

        def look(module: Module, inputs: tuple, output: object, name: str = name) -> None:
            if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                shapes[name] = (inputs[0].shape[1:], output.shape[1:])

        handles.append(_submodule(model, name).register_forward_hook(look))
    try:
        with no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _submodule(model: Module, name: str) -> Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise StudyError(f"there is no block {name!r}: {error}") from error


def _blocks_below(prefix: str, module: Module) -> list[str]:
    found = [(name, part) for name, part in _without_containers(prefix, module) if any(True for _ in part.parameters())]
    compound = [(name, part) for name, part in found if any(True for _ in part.children())]
    repeated = _of_repeated_class(compound)
    if repeated:
        return repeated
    if len(compound) == 1 and len(found) <= 2:  # a wrapper, with at most a layer beside it
        return _blocks_below(*compound[0])
    return _of_repeated_class([(name, part) for name, part in found if _has_matrix(part)])


def _without_containers(prefix: str, module: Module) -> Iterator[tuple[str, Module]]:
    for name, child in module.named_children():
        full = f"{prefix}.{name}" if prefix else name
        if isinstance(child, (Sequential, ModuleList)):
            yield from _without_containers(full, child)
        else:
            yield full, child


def _of_repeated_class(modules: list[tuple[str, Module]]) -> list[str]:
    classes = Counter(type(module) for _, module in modules)
    return [name for name, module in modules if classes[type(module)] > 1]


def _has_matrix(module: Module) -> bool:
    return not any(True for _ in module.children()) and any(p.ndim >= 2 for p in module.parameters())
