"""Adam and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

import math
from typing import Any

from minires.autograd import Tensor
from minires.device import Array, array_module
from minires.kernels.optim import adam_step
from minires.optim.optimizer import Optimizer, Options, Params, check_at_least_zero
from minires.optim.together import divide, gradient_arrays


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), as ``torch.optim.Adam``. In step t,

        d = gradient + weight_decay * parameter
        m = beta1 * m + (1 - beta1) * d
        v = beta2 * v + (1 - beta2) * d^2
        parameter -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Parameters
    ----------
    params : see `Optimizer`.
    lr : learning rate.
    betas : (beta1, beta2), how much of the running means is kept in each step.
    eps : keeps the quotient finite.
    weight_decay : L2 penalty.
    amsgrad : divide by the largest v so far (Reddi et al. 2018).
    maximize : climb instead of descend.

    Raises
    ------
    ValueError
        If an option is negative or not a number, or a beta is not in [0, 1).
    """

    decoupled_weight_decay = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_options(self, options: Options) -> None:
        """Raise ValueError if an option of a group has no sensible value."""
        check_at_least_zero(options, "lr", "eps", "weight_decay")
        betas = options["betas"]
        if (
            not isinstance(betas, tuple | list)
            or len(betas) != 2
            or not all(isinstance(beta, float | int) and 0 <= beta < 1 for beta in betas)
        ):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {betas}")

    def check_state(self, state: dict[str, Any], options: Options) -> None:
        """Raise ValueError if the count of steps is no number, or a mean no Tensor."""
        if not state:
            return
        step = state.get("step")
        if isinstance(step, Tensor) and step.shape == ():  # as PyTorch keeps it
            step = step.item()
        if not isinstance(step, int | float) or not 0 <= step < math.inf:
            raise ValueError(f"step must be a number and at least 0, got {step!r}")
        for name in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if options["amsgrad"] else [])):
            if not isinstance(state.get(name), Tensor):
                raise ValueError(f"{name} must be a Tensor, got {type(state.get(name)).__name__}")

    def update_group(self, group: Options) -> None:
        """Update the parameters of a group that have gradients; in one launch those that lie alike."""
        together, others = divide(group["params"], self.state)
        super().update_group({**group, "params": others})
        by_step: dict[int, list[Tensor]] = {}  # a parameter that was frozen for a while has made fewer steps
        for parameter in together:
            step = _next_step(parameter.writable_array(), self.state[parameter], group)
            by_step.setdefault(step, []).append(parameter)
        for step, chosen in by_step.items():
            states = [self.state[parameter] for parameter in chosen]
            adam_step(
                [parameter.array for parameter in chosen],
                gradient_arrays(chosen),
                [state["exp_avg"].array for state in states],
                [state["exp_avg_sq"].array for state in states],
                [state["max_exp_avg_sq"].array for state in states] if group["amsgrad"] else None,
                step=step,
                lr=float(group["lr"]),
                betas=(float(group["betas"][0]), float(group["betas"][1])),
                eps=float(group["eps"]),
                weight_decay=float(group["weight_decay"]),
                decoupled=self.decoupled_weight_decay,
                maximize=bool(group["maximize"]),
            )

    def update(self, parameter: Array, gradient: Array, state: dict[str, Any], options: Options) -> None:
        """Move ``parameter`` against its gradient."""
        xp = array_module(parameter)
        t = _next_step(parameter, state, options)
        lr, weight_decay = float(options["lr"]), float(options["weight_decay"])
        beta1, beta2 = (float(beta) for beta in options["betas"])
        product = self.scratch(parameter)

        direction = gradient
        if options["maximize"]:
            direction = xp.negative(gradient, out=self.scratch(parameter, 1))
        if weight_decay and self.decoupled_weight_decay:
            parameter *= 1 - lr * weight_decay
        elif weight_decay:
            xp.multiply(parameter, weight_decay, out=product)
            direction = xp.add(direction, product, out=self.scratch(parameter, 1))

        mean, square = state["exp_avg"].array, state["exp_avg_sq"].array
        mean *= beta1
        mean += xp.multiply(direction, 1 - beta1, out=product)
        square *= beta2
        xp.multiply(direction, direction, out=product)
        product *= 1 - beta2
        square += product
        if options["amsgrad"]:
            largest = state["max_exp_avg_sq"].array
            square = xp.maximum(largest, square, out=largest)

        xp.sqrt(square, out=product)
        product /= math.sqrt(1 - beta2**t)
        product += float(options["eps"])
        xp.divide(mean, product, out=product)
        product *= lr / (1 - beta1**t)
        parameter -= product


class AdamW(Adam):
    """Adam with the weight decay taken out of the gradient (Loshchilov and Hutter 2019), as ``torch.optim.AdamW``.

    parameter *= 1 - lr * weight_decay, then a step of `Adam` without weight decay. Parameters and errors are Adam's.
    """

    decoupled_weight_decay = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


def _next_step(parameter: Array, state: dict[str, Any], options: Options) -> int:
    """Return the number of a parameter's next step, counted from 1; before the first, make its means, all zero."""
    if not state:
        state["step"] = 0
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if options["amsgrad"] else ("exp_avg", "exp_avg_sq")
        state.update({name: Tensor(array_module(parameter).zeros_like(parameter)) for name in names})
    state["step"] = int(state["step"]) + 1
    return state["step"]
