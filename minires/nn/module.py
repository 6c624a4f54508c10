"""Module: a tree of layers that owns parameters and buffers, with PyTorch's names and rules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minires.autograd import Hooks, RemovableHandle, Tensor, no_grad
from minires.device import as_device, is_cuda_array, to_device
from minires.dtypes import is_floating
from minires.nn.backward_hooks import BackwardWatch
from minires.ops.cast import destination

MOST, LONGEST = 6, 600  # lines of a list in an error, and characters of a line


class Parameter(Tensor):
    """A leaf Tensor that a Module registers as its own and an optimizer updates. It shares the memory of ``data``.

    Raises
    ------
    TypeError
        If ``data`` is no Tensor.
    RuntimeError
        If it is to require a gradient and its elements are not floating-point numbers.
    """

    def __init__(self, data: Tensor, requires_grad: bool = True):
        if not isinstance(data, Tensor):
            raise TypeError(f"Parameter needs a Tensor, got {type(data).__name__}: use minires.tensor(...) first")
        super().__init__(data.array, requires_grad)
        self._version = data._version

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` with ``strict=False`` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """The base class of all layers and nets. A subclass defines ``forward``; calling the module runs it with its hooks.

    Parameters, buffers and submodules are registered by assigning them as attributes.
    """

    inference_only = False  # a layer that cannot be trained says so in its class
    training: bool
    _parameters: OrderedDict[str, Any]
    _buffers: OrderedDict[str, Any]
    _modules: OrderedDict[str, Any]
    _non_persistent: set[str]

    def __init__(self) -> None:
        set_directly = super().__setattr__
        set_directly("training", True)
        set_directly("_parameters", OrderedDict())
        set_directly("_buffers", OrderedDict())
        set_directly("_non_persistent", set())
        set_directly("_modules", OrderedDict())
        set_directly("_forward_pre_hooks", Hooks())
        set_directly("_forward_hooks", Hooks())
        set_directly("_backward_hooks", Hooks())

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute the module's output."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the hooks and `forward`."""
        for hook in self._forward_pre_hooks.calls():
            replaced = hook(self, inputs)
            if replaced is not None:
                inputs = replaced if isinstance(replaced, tuple) else (replaced,)
        watch = BackwardWatch(self) if self._backward_hooks else None
        if watch is not None:
            inputs = watch.enter(inputs)
        output = self.forward(*inputs, **options)
        for hook in self._forward_hooks.calls():
            replaced = hook(self, inputs, output)
            if replaced is not None:
                output = replaced
        return output if watch is None else watch.leave(output)

    # Registration

    def __setattr__(self, name: str, value: Any) -> None:
        if "_modules" not in self.__dict__:
            if isinstance(value, (Parameter, Module)):
                raise AttributeError(f"call super().__init__() before assigning {name!r}")
            super().__setattr__(name, value)
        elif isinstance(value, Parameter):
            self._assign(self._parameters, name, value)
        elif name in self._parameters:
            self._assign_none(self._parameters, "parameter", name, value)
        elif isinstance(value, Module):
            self._assign(self._modules, name, value)
        elif name in self._modules:
            self._assign_none(self._modules, "submodule", name, value)
        elif name in self._buffers:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"cannot assign {type(value).__name__} as buffer {name!r}: use a Tensor or None")
            self._buffers[name] = value
        else:
            super().__setattr__(name, value)

    def _assign(self, registry: OrderedDict, name: str, value: Any) -> None:
        if name not in registry:  # else it keeps its place in the order
            self._forget(name)
        registry[name] = value

    def _assign_none(self, registry: OrderedDict, kind: str, name: str, value: Any) -> None:
        if value is not None:
            raise TypeError(f"cannot assign {type(value).__name__} as {kind} {name!r}: use a {kind} or None")
        registry[name] = None

    def __getattr__(self, name: str) -> Any:  # reached only where ordinary look-up found nothing
        for registry in ("_parameters", "_buffers", "_modules"):
            values = self.__dict__.get(registry, {})
            if name in values:
                return values[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        if any(name in registry for registry in self._registries()):
            self._forget(name)
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def _forget(self, name: str) -> None:
        self.__dict__.pop(name, None)
        self._non_persistent.discard(name)
        for registry in self._registries():
            registry.pop(name, None)

    def _registries(self) -> tuple[OrderedDict, OrderedDict, OrderedDict]:
        return self._parameters, self._buffers, self._modules

    def _register(self, registry: OrderedDict, kind: type, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name!r} must be a {kind.__name__} or None, got {type(value).__name__}")
        if not isinstance(name, str):
            raise TypeError(f"a name must be a string, got {type(name).__name__}")
        if not name or "." in name:
            raise KeyError(f"a name must not be empty or contain a dot, got {name!r}")
        if hasattr(self, name) and name not in registry:
            raise KeyError(f"{type(self).__name__} has an attribute {name!r} already")
        registry[name] = value

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register a parameter; None keeps the name and has no value, as a layer without bias does."""
        self._register(self._parameters, Parameter, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a Tensor that is part of the state but not trained; a persistent one is in the state dict."""
        self._register(self._buffers, Tensor, name, tensor)
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Register a submodule under a name that need not be an identifier, such as "0"."""
        self._register(self._modules, Module, name, module)

    register_module = add_module

    # Walking the tree

    def children(self) -> Iterator[Module]:
        """Iterate over the direct submodules."""
        return (module for _, module in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Iterate over the direct submodules with their names, each once."""
        seen = set()
        for name, module in self._own_modules():
            if module not in seen:
                seen.add(module)
                yield name, module

    def _own_modules(self) -> Iterator[tuple[str, Module]]:
        """As named_children, but a module with two names comes twice."""
        return ((name, module) for name, module in self._modules.items() if module is not None)

    def modules(self) -> Iterator[Module]:
        """Iterate over this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(self, memo: set | None = None, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Iterate over this module and all below it with their dotted names, each once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, module in self.named_children():
            yield from module.named_modules(memo, _join(prefix, name))

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Iterate over the parameters, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Iterate over the parameters with their dotted names; a shared one appears once unless told otherwise."""
        return self._named_members(lambda module: module._parameters, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Iterate over the buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Iterate over the buffers with their dotted names."""
        return self._named_members(lambda module: module._buffers, prefix, recurse, remove_duplicate)

    def _named_members(
        self, members: Callable[[Module], Mapping], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        if not recurse:
            modules: Iterable[tuple[str, Module]] = [(prefix, self)]
        else:
            modules = self.named_modules(prefix=prefix) if remove_duplicate else self._named_with_duplicates(prefix)
        seen = set()
        for module_name, module in modules:
            for name, value in members(module).items():
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield _join(module_name, name), value

    def get_submodule(self, target: str) -> Module:
        """Return the submodule with a dotted name.

        Raises
        ------
        AttributeError
            If there is none.
        """
        module = self
        for name in target.split(".") if target else ():
            if module._modules.get(name) is None:
                raise AttributeError(f"{type(module).__name__} has no submodule {name!r} (looking for {target!r})")
            module = module._modules[name]
        return module

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter with a dotted name.

        Raises
        ------
        AttributeError
            If there is none.
        """
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if module._parameters.get(name) is None:
            raise AttributeError(f"{type(module).__name__} has no parameter {name!r} (looking for {target!r})")
        return module._parameters[name]

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer with a dotted name.

        Raises
        ------
        AttributeError
            If there is none.
        """
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if module._buffers.get(name) is None:
            raise AttributeError(f"{type(module).__name__} has no buffer {name!r} (looking for {target!r})")
        return module._buffers[name]

    def apply(self, fn: Callable[[Module], None]) -> Module:
        """Call ``fn`` on every submodule, then on this module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # State

    def state_dict(self, prefix: str = "") -> OrderedDict[str, Tensor]:
        """Return every parameter and persistent buffer by dotted name, sharing memory with the module."""
        state: OrderedDict[str, Tensor] = OrderedDict()
        for module_name, module in self._named_with_duplicates(prefix.rstrip(".")):
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                if value is not None and name not in module._non_persistent:
                    state[_join(module_name, name)] = value.detach()
        return state

    def _named_with_duplicates(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """As named_modules, but a module used in two places is named twice: a state dict holds both."""
        yield prefix, self
        for name, module in self._own_modules():
            yield from module._named_with_duplicates(_join(prefix, name))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values by name into the parameters and buffers. On any error, nothing is changed.

        A value is a Tensor, a NumPy or CuPy array, or anything that NumPy makes an array of by its ``__array__``: so
        the state dict of a PyTorch model loads as it is. A checkpoint of ``minires train`` holds more than a model; it
        is loaded by `minires.training.load_model`.

        Raises
        ------
        RuntimeError
            If shapes differ or a value is none of these, or, unless ``strict`` is false, if names are missing or
            unexpected; the first of them are named.
        TypeError
            If ``state_dict`` is no mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"a state dict maps names to Tensors, got {type(state_dict).__name__}")
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        # Weights older than PyTorch 0.4.1 have no batch counts; nothing but momentum=None reads them.
        missing = [name for name in missing if name.rpartition(".")[2] != "num_batches_tracked"]
        unexpected = [name for name in state_dict if name not in own]
        shared: dict[str, Tensor] = {}
        problems = []
        prefix = _prefix(missing, unexpected)
        if strict and prefix is not None:
            remedy = "load a checkpoint of minires train with minires.training.load_model(path)"
            problems.append(
                f"its names begin with {prefix!r}: {remedy if prefix == 'model.' else 'take that off them'}"
            )
        elif strict:
            lists = {"missing": missing, "unexpected": unexpected}
            problems += [f"{kind}: {_few(names, ', ')}" for kind, names in lists.items() if names]
            problems += [
                f"{name} is a dict itself: load that one"
                for name in unexpected
                if isinstance(state_dict[name], Mapping)
            ]
        for name in own:
            if name not in state_dict:
                continue
            try:
                value = _state_value(state_dict[name])
            except TypeError as error:
                problems.append(f"{name} {error}")
                continue
            if value.shape != own[name].shape:
                problems.append(f"{name} has shape {value.shape}, this model needs {own[name].shape}")
            shared[name] = value
        if problems:
            listed = _few(problems, "\n  ")
            raise RuntimeError(f"the state does not fit {type(self).__name__}:\n  {listed}")
        with no_grad():
            for name, value in shared.items():
                own[name].copy_(value)
        return IncompatibleKeys(missing, unexpected)

    # Modes and placement

    def train(self, mode: bool = True) -> Module:
        """Set training mode here and below: batch norm uses batch statistics, dropout drops.

        Raises
        ------
        ValueError
            If ``mode`` is no bool.
        RuntimeError
            If there is a layer here or below that cannot be trained. No mode is changed then.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"mode must be True (train) or False (evaluate), got {mode!r}")
        for name, module in self.named_modules():
            if mode and module.inference_only:
                where = f"its {name}, a {type(module).__name__}," if name else "which"
                raise RuntimeError(
                    f"cannot train this {type(self).__name__}, {where} is for inference only: "
                    "train the model that it was made from"
                )
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Let every parameter require a gradient, or none: how to freeze a net."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of every parameter, or fill them with zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = parameter.grad.detach().zero_()  # a gradient may have a graph, after create_graph

    def to(self, *target: Any, device: Any = None, dtype: Any = None) -> Module:
        """Move every parameter and buffer to a device, floating-point ones also to a dtype, in place.

        Both are given by position or name; a Tensor as target lends both of its own.

        Raises
        ------
        TypeError, ValueError
            If a target is neither a device, a dtype nor a Tensor, or the dtype is not a floating-point one.
        RuntimeError
            If the device is not there.
        """
        device, dtype = destination(target, device, dtype)
        if dtype is not None and not is_floating(np.dtype(dtype)):
            raise TypeError(f"a module's parameters are floating-point numbers, they cannot become {np.dtype(dtype)}")
        new_device = None if device is None else as_device(device)

        def moved(tensor: Tensor) -> Tensor:
            array = tensor.array
            if dtype is not None and tensor.is_floating_point():
                array = array.astype(dtype, order="K", copy=False)
            if new_device is not None:
                array = to_device(array, new_device)
            return tensor if array is tensor.array else Tensor(array)

        for module in self.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                replacement = None if tensor is None else moved(tensor)
                if replacement is tensor:
                    continue
                gradient, tensor.grad = tensor.grad, None  # which would not fit in between
                tensor.data = replacement
                tensor.grad = None if gradient is None else moved(gradient)
        return self

    def cpu(self) -> Module:
        """Move the module to the CPU."""
        return self.to("cpu")

    def cuda(self, device: int = 0) -> Module:
        """Move the module to a GPU."""
        return self.to(f"cuda:{device}")

    def float(self) -> Module:
        """Convert the module to float32."""
        return self.to(np.float32)

    def double(self) -> Module:
        """Convert the module to float64."""
        return self.to(np.float64)

    # Hooks

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple], Any]) -> RemovableHandle:
        """Call ``hook(module, inputs)`` before `forward`; it may return other inputs."""
        return self._forward_pre_hooks.add(hook)

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> RemovableHandle:
        """Call ``hook(module, inputs, output)`` after `forward`; it may return another output."""
        return self._forward_hooks.add(hook)

    def register_full_backward_hook(self, hook: Callable[[Module, tuple, tuple], Any]) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the module's inputs are computed.

        Both are tuples: one gradient for each positional argument and for each output, None for what needs none or,
        among the outputs, was not used. The hook may return other gradients of the inputs. If no input requires a
        gradient, it is called when the gradients of the outputs are known, with None for each input.
        """
        return self._backward_hooks.add(hook)

    # For people

    def extra_repr(self) -> str:
        """Return what a layer wants shown between its parentheses."""
        return ""

    def __repr__(self) -> str:
        return self._repr_of([f"({name}): {module!r}" for name, module in self._own_modules()])

    def _repr_of(self, children: list[str]) -> str:
        extra = self.extra_repr()
        if not children:
            return f"{type(self).__name__}({extra})"
        lines = [text.replace("\n", "\n  ") for text in ([extra, *children] if extra else children)]
        return "\n  ".join([f"{type(self).__name__}(", *lines]) + "\n)"


def _state_value(value: Any) -> Tensor:
    """Return a value of a state dict as a Tensor; a TypeError goes on from the value's name."""
    if isinstance(value, Tensor):
        return value
    if is_cuda_array(value):
        return Tensor(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if not hasattr(value, "__array__"):
        raise TypeError(f"is a {kind}, which is no array: give it as a minires.Tensor or a NumPy array")
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    except Exception as error:  # whatever a foreign library raises
        raise TypeError(f"is a {kind} that NumPy cannot read ({error}): convert it to a NumPy array first") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"is a {kind} of {array.dtype}: convert it to an array of numbers first")
    return Tensor(array)


def _prefix(missing: list[str], unexpected: list[str]) -> str | None:
    """Return the prefix under which most of the missing names are there; None if there is none."""
    names = set(unexpected)
    for name in map(str, unexpected if missing else ()):
        prefix = name.removesuffix(missing[0])
        if prefix != name and 2 * sum(prefix + each in names for each in missing) > len(missing):
            return prefix
    return None


def _few(lines: list[str], separator: str) -> str:
    """Join the first lines, shortened, and say how many more there are."""
    shown = [line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in map(str, lines[:MOST])]
    return separator.join(shown if len(lines) <= MOST else [*shown, f"and {len(lines) - MOST} more"])


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
