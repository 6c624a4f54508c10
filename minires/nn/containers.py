"""Modules made of modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from minires.nn.module import Module


class _Indexed(Module):
    """Submodules named "0", "1", ... in order."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._sliced(index)
        return self._modules[self._name_at(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), module)

    def _name_at(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} modules")
        return list(self._modules)[index]

    def _sliced(self, part: slice) -> _Indexed:
        """Return the modules of a slice in a container of the same kind."""
        raise NotImplementedError

    def append(self, module: Module) -> _Indexed:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self


class Sequential(_Indexed):
    """Run modules one after another. Takes modules, or one OrderedDict that names them."""

    def __init__(self, *modules: Module | Mapping[str, Module]):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named: Iterable[tuple[str, Any]] = modules[0].items()
        else:
            named = ((str(index), module) for index, module in enumerate(modules))
        for name, module in named:
            self.add_module(name, module)

    def _sliced(self, part: slice) -> Sequential:
        return Sequential(OrderedDict(list(self._modules.items())[part]))  # the names stay

    def forward(self, input: Any) -> Any:
        """Pass ``input`` through every module in turn."""
        for module in self:
            input = module(input)
        return input


class ModuleList(_Indexed):
    """A list of modules whose parameters count as its owner's."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        for module in modules:
            self.append(module)

    def _sliced(self, part: slice) -> ModuleList:
        return ModuleList(list(self)[part])  # numbered anew

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add several modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def __repr__(self) -> str:
        """Show equal neighbours once: a deep net has many."""
        runs = [(text, list(group)) for text, group in groupby(self._own_modules(), lambda item: repr(item[1]))]
        lines = [
            f"({group[0][0]}): {text}" if len(group) == 1 else f"({group[0][0]}-{group[-1][0]}): {len(group)} x {text}"
            for text, group in runs
        ]
        return self._repr_of(lines)


class ModuleDict(Module):
    """A dictionary of modules whose parameters count as its owner's."""

    def __init__(self, modules: Mapping[str, Module] | None = None):
        super().__init__()
        for name, module in (modules or OrderedDict()).items():
            self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Return the modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Return names and modules."""
        return self._modules.items()
