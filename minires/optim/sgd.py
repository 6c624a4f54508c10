"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

from minires.autograd import Tensor
from minires.device import Array, array_module
from minires.kernels.optim import sgd_step
from minires.optim.optimizer import Optimizer, Options, Params, check_at_least_zero
from minires.optim.together import divide, gradient_arrays


class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum (Sutskever et al. 2013), as ``torch.optim.SGD``.

        d = gradient + weight_decay * parameter
        v = momentum * v + (1 - dampening) * d          (v = d at the first step)
        parameter -= lr * (d + momentum * v if nesterov else v)

    Parameters
    ----------
    params : see `Optimizer`.
    lr : learning rate.
    momentum, dampening : see above.
    weight_decay : L2 penalty.
    nesterov : look one momentum step ahead; needs momentum, and no dampening.
    maximize : climb instead of descend.

    Raises
    ------
    ValueError
        If an option is negative or not a number, or ``nesterov`` lacks momentum or has dampening.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_options(self, options: Options) -> None:
        """Raise ValueError if an option of a group has no sensible value."""
        check_at_least_zero(options, "lr", "momentum", "weight_decay")
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(
                "nesterov needs a momentum above 0 and no dampening, got "
                f"momentum={options['momentum']} and dampening={options['dampening']}"
            )

    def check_state(self, state: dict[str, Any], options: Options) -> None:
        """Raise ValueError if the momentum is no Tensor; PyTorch saves None where there is none yet."""
        if state.get("momentum_buffer") is None:
            state.pop("momentum_buffer", None)
        elif not isinstance(state["momentum_buffer"], Tensor):
            raise ValueError(f"momentum_buffer must be a Tensor, got {type(state['momentum_buffer']).__name__}")

    def update_group(self, group: Options) -> None:
        """Update the parameters of a group that have gradients; in one launch those that lie alike."""
        together, others = divide(group["params"], self.state)
        super().update_group({**group, "params": others})
        momentum = float(group["momentum"])
        begun = [bool(momentum) and "momentum_buffer" in self.state[parameter] for parameter in together]
        for is_first in (True, False):
            chosen = [parameter for parameter, has_begun in zip(together, begun, strict=True) if has_begun != is_first]
            if not chosen:
                continue
            arrays = [parameter.writable_array() for parameter in chosen]
            if momentum and is_first:
                for parameter, array in zip(chosen, arrays, strict=True):
                    self.state[parameter]["momentum_buffer"] = Tensor(array_module(array).empty_like(array))
            sgd_step(
                arrays,
                gradient_arrays(chosen),
                [self.state[parameter]["momentum_buffer"].array for parameter in chosen] if momentum else None,
                lr=float(group["lr"]),
                momentum=momentum,
                dampening=float(group["dampening"]),
                weight_decay=float(group["weight_decay"]),
                nesterov=bool(group["nesterov"]),
                maximize=bool(group["maximize"]),
                is_first=is_first,
            )

    def update(self, parameter: Array, gradient: Array, state: dict[str, Any], options: Options) -> None:
        """Move ``parameter`` against its gradient."""
        xp = array_module(parameter)
        lr, momentum = float(options["lr"]), float(options["momentum"])
        weight_decay, dampening = float(options["weight_decay"]), float(options["dampening"])
        change = self.scratch(parameter)
        direction = gradient
        if options["maximize"]:
            direction = xp.negative(gradient, out=change)
        if weight_decay:
            decay = xp.multiply(parameter, weight_decay, out=self.scratch(parameter, 1))
            direction = xp.add(decay, direction, out=change)
        if momentum:
            velocity = state.get("momentum_buffer")
            if velocity is None:
                velocity = state["momentum_buffer"] = Tensor(xp.empty_like(parameter))
                velocity.array[...] = direction
            else:
                velocity.array *= momentum
                if dampening:
                    velocity.array += xp.multiply(direction, 1 - dampening, out=self.scratch(parameter, 1))
                else:
                    velocity.array += direction
            if options["nesterov"]:
                ahead = xp.multiply(velocity.array, momentum, out=self.scratch(parameter, 1))
                direction = xp.add(ahead, direction, out=change)
            else:
                direction = velocity.array
        parameter -= xp.multiply(direction, lr, out=change)
