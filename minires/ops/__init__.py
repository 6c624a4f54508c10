"""The operations: one file for each, its Function with forward and backward beside its public function.

Once all are defined, `takes_tensors` wraps those that take Tensors under their public names. Operations that call each
other have imported each other before that, without the wrapping.
"""

import pkgutil
from importlib import import_module
from inspect import isfunction

from minires.ops import tensor_methods
from minires.ops.argument_types import takes_tensors, tensor_parameters

_wrapped: dict[object, object] = {}  # a function may have two names
for _module in [import_module(f"{__name__}.{_found.name}") for _found in pkgutil.iter_modules(__path__)]:
    for _name, _value in list(vars(_module).items()):
        _is_own = isfunction(_value) and _value.__module__ == _module.__name__ and not _name.startswith("_")
        if _is_own and tensor_parameters(_value):
            setattr(_module, _name, _wrapped.setdefault(_value, takes_tensors(_value)))

tensor_methods.install()
