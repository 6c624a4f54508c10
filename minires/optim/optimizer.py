"""Optimizer: groups of parameters with their options, what is remembered of each parameter, and the update loop.

An optimizer of one's own says how one parameter moves:

    class SignSGD(Optimizer):
        def __init__(self, params, lr=1e-3):
            super().__init__(params, {"lr": lr})

        def update(self, parameter, gradient, state, options):
            parameter -= options["lr"] * array_module(gradient).sign(gradient)
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from minires.autograd import Tensor, enable_grad, no_grad
from minires.device import Array, array_module, device_of, to_device
from minires.dtypes import wide_dtype

Options = dict[str, Any]
Params = Iterable[Tensor] | Iterable[Options] | Iterable[tuple[str, Tensor]]


class Optimizer:
    """The base of all optimizers.

    Parameters
    ----------
    params : the Tensors to update; or (name, Tensor) pairs; or dicts, one for each group, with these under "params" and
        the options in which the group differs from the defaults.
    defaults : the options of groups that do not say otherwise.

    Attributes
    ----------
    param_groups : list of dicts: the Tensors under "params" and every option by name. Options may be changed between
        steps; schedules change "lr" here.
    state : what is remembered of each parameter, a dict by Tensor.
    defaults : the default options.

    Raises
    ------
    ValueError
        If there are no parameters, one is given twice or is not a leaf, or an option has no sensible value.
    TypeError
        If ``params`` is not an iterable of Tensors, pairs or dicts.
    """

    def __init__(self, params: Params, defaults: Options):
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(
                f"an optimizer takes an iterable of Tensors or dicts, got {type(params).__name__}: "
                "use model.parameters() for a model, [x] for one Tensor"
            )
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Options] = []
        self.step_calls = 0  # lets a schedule notice that it is stepped before the optimizer
        self._scratch: dict[tuple, Array] = {}
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError("the optimizer got an empty parameter list: does the model have parameters?")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def update(self, parameter: Array, gradient: Array, state: dict[str, Any], options: Options) -> None:
        """Change the array ``parameter`` in place; ``gradient`` is not to be changed.

        Of 16-bit numbers both come in float32. The parameter is rounded afterwards; what is remembered is not.
        ``state`` is this parameter's own dict, empty at the first step: Tensors and numbers in it are saved.
        ``options`` are those of the parameter's group.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def update_group(self, group: Options) -> None:
        """Update the parameters of a group that have gradients: each by `update`, unless overridden."""
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            array, gradient = parameter.writable_array(), parameter.grad.array
            wide = array.astype(wide_dtype(array.dtype), copy=False)
            self.update(wide, gradient.astype(wide.dtype, copy=False), self.state[parameter], group)
            if wide is not array:
                array[...] = wide

    def check_options(self, options: Options) -> None:
        """Raise ValueError if an option of a group has no sensible value."""

    def check_state(self, state: dict[str, Any], options: Options) -> None:
        """Raise ValueError if `update` could not go on with what is remembered of a parameter; options are its group's.

        Tensors of floating-point numbers in it have the parameter's shape.
        """

    def add_param_group(self, param_group: Options) -> None:
        """Add a group, such as layers that are unfrozen later. Options left out take the defaults.

        Raises
        ------
        ValueError, TypeError
            As for `Optimizer`.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group must be a dict, got {type(param_group).__name__}")
        if "params" not in param_group:
            raise ValueError(f'a parameter group needs its Tensors under "params", got the keys {list(param_group)}')
        group = {**self.defaults, **param_group, **_listed(param_group["params"])}
        known = {id(tensor) for other in self.param_groups for tensor in other["params"]}
        for index, tensor in enumerate(group["params"]):
            where = f"parameter {index} of group {len(self.param_groups)}"
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{where} is a {type(tensor).__name__}: an optimizer updates Tensors")
            if not tensor.is_leaf:
                raise ValueError(
                    f"{where} (shape {tensor.shape}) is not a leaf: it was computed from other Tensors, optimize those"
                )
            if id(tensor) in known:
                raise ValueError(f"{where} (shape {tensor.shape}) was given before: each parameter may appear once")
            known.add(id(tensor))
        if self.param_groups and ("param_names" in group) != ("param_names" in self.param_groups[0]):
            raise ValueError("either all parameter groups must have names for their parameters or none")
        self.check_options(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros where they lie."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none or parameter.grad is None:
                    parameter.grad = None
                else:
                    parameter.grad = parameter.grad.detach()
                    parameter.grad.writable_array()[...] = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        ``closure``, if given, is called first: it computes the loss and its gradients, and its result is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                self.update_group(group)
        self.step_calls += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state as ``{"state": {index: {...}}, "param_groups": [...]}``, parameters numbered in their order.

        As in PyTorch, the Tensors in it are those in use: later steps change them, so copy what is to be kept.
        """
        indices = {id(tensor): i for i, tensor in enumerate(self._parameters())}
        return {
            "state": {indices[id(tensor)]: state for tensor, state in self.state.items()},
            "param_groups": [
                {**group, "params": [indices[id(tensor)] for tensor in group["params"]]} for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave: options, and a copy of what was remembered of each parameter.

        The parameters themselves belong to the model and stay. Nothing is changed if the state does not fit.

        Raises
        ------
        ValueError
            If the groups differ in number or size, an option is missing or has no sensible value, or what is remembered
            of a parameter does not fit it.
        """
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            raise ValueError('an optimizer state is a dict with "state" and "param_groups"')
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError(f"the state has {len(groups)} parameter groups, the optimizer {len(self.param_groups)}")
        owners: dict[Any, tuple[Tensor, Options]] = {}
        for index, (saved, group) in enumerate(zip(groups, self.param_groups, strict=True)):
            if len(saved["params"]) != len(group["params"]):
                raise ValueError(
                    f"parameter group {index} has {len(saved['params'])} parameters in the state, "
                    f"{len(group['params'])} in the optimizer"
                )
            missing = [name for name in self.defaults if name not in saved]
            if missing:
                raise ValueError(
                    f"parameter group {index} of the state lacks {', '.join(missing)}: "
                    f"was it saved by {type(self).__name__}?"
                )
            self.check_options({**group, **saved, "lr": group["lr"]})  # a schedule may have made it negative
            owners.update(zip(saved["params"], ((tensor, saved) for tensor in group["params"]), strict=True))
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for index, remembered in state_dict["state"].items():
            if index not in owners:
                raise ValueError(f"the state speaks of parameter {index}, which is in none of its groups")
            owner, options = owners[index]
            state[owner] = {name: _copied(value, owner, f"{name} {index}") for name, value in remembered.items()}
            self.check_state(state[owner], options)
        self.state = state
        for saved, group in zip(groups, self.param_groups, strict=True):
            group.update(copy.deepcopy({name: value for name, value in saved.items() if name != "params"}))

    def scratch(self, like: Array, number: int = 0) -> Array:
        """Return an array with the shape, dtype and memory order of ``like`` for passing values within one `update`.

        The memory is used again at the next call with the same ``number``. Arrays of a fresh large allocation would be
        paged in anew at every step, which costs more than the arithmetic.
        """
        key = (device_of(like), like.dtype, number)
        memory = self._scratch.get(key)
        if memory is None or memory.size < like.size:
            largest = max(p.array.size for p in self._parameters() if wide_dtype(p.dtype) == like.dtype)
            memory = self._scratch[key] = array_module(like).empty(max(largest, like.size), like.dtype)
        order = sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))
        lying = memory[: like.size].reshape(tuple(like.shape[axis] for axis in order))
        return lying.transpose([order.index(axis) for axis in range(like.ndim)])

    def _parameters(self) -> list[Tensor]:
        return [tensor for group in self.param_groups for tensor in group["params"]]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines += [f"Parameter Group {index}", f"    {len(group['params'])} parameters"]
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name not in ("params", "param_names")]
        return "\n".join([*lines, ")"])


def check_at_least_zero(options: Options, *names: str) -> None:
    """Raise ValueError if one of these options is not a number of at least 0."""
    for name in names:
        value = options[name]
        if not isinstance(value, Real) or math.isnan(value) or value < 0:
            raise ValueError(f"{name} must be a number and at least 0, got {value!r}")


def _listed(params: Any) -> Options:
    """Return the Tensors of a group as a list, and their names if they came as pairs."""
    if isinstance(params, Tensor):
        return {"params": [params]}
    if isinstance(params, (set, frozenset)):
        raise TypeError("parameters in a set have no fixed order, and a saved state could not find them: use a list")
    if not isinstance(params, Iterable):
        raise TypeError(f'"params" of a group must be Tensors, got {type(params).__name__}')
    params = list(params)
    pairs = [item for item in params if isinstance(item, tuple)]
    if not pairs:
        return {"params": params}
    if len(pairs) < len(params):
        raise ValueError(f"{len(pairs)} of {len(params)} parameters have names: name all of them or none")
    return {"params": [tensor for _, tensor in pairs], "param_names": [name for name, _ in pairs]}


def _copied(value: Any, owner: Tensor, what: str) -> Any:
    """Copy one remembered value; an array of the parameter's shape takes its device, order and dtype or float32."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.shape == () and owner.shape != ():  # a count that PyTorch keeps as a Tensor
        return value.item()
    if not value.is_floating_point():
        raise ValueError(f"{what} is of {value.dtype} in the state, its parameter of {owner.dtype}")
    if value.shape != owner.shape:
        raise ValueError(f"{what} has shape {value.shape} in the state, its parameter has {owner.shape}")
    result = array_module(owner.array).empty_like(owner.array, wide_dtype(owner.dtype))
    result[...] = to_device(value.array, owner.device)
    return Tensor(result)
