"""Mixed precision under the names of ``torch.amp``: `autocast`, and `GradScaler` for float16.

    scaler = amp.GradScaler()
    with amp.autocast("cuda", minires.float16):
        loss = F.cross_entropy(model(images), targets)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

bfloat16 reaches as far as float32 and needs no scaler.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minires.autograd import Tensor, no_grad
from minires.dtypes import wide_dtype
from minires.kernels.optim import unscale
from minires.ops.autocast import autocast, get_autocast_dtype, is_autocast_enabled
from minires.ops.cast import cast

__all__ = ["GradScaler", "autocast", "get_autocast_dtype", "is_autocast_enabled"]


class GradScaler:
    """Multiplies the loss, so that small gradients are not lost in float16, and divides the gradients again.

    The factor is as large as goes: it grows after some steps without an infinite gradient, and shrinks after each
    with one, which is left out (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2; NVIDIA's
    "Training with Mixed Precision"). As ``torch.amp.GradScaler``; the factor itself is a number on the host.

    Parameters
    ----------
    device : accepted for PyTorch's sake; gradients are scaled where they lie.
    init_scale : the factor at first.
    growth_factor, backoff_factor : what it is multiplied with after ``growth_interval`` finite steps in a row, and
        after a step with Inf or NaN in a gradient.
    enabled : False makes all methods do without scaling.

    Raises
    ------
    ValueError
        If a factor is out of its range.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ValueError(
                "GradScaler needs init_scale above 0, growth_factor above 1, backoff_factor between 0 and 1 and "
                f"growth_interval of at least 1, got {init_scale}, {growth_factor}, {backoff_factor}, {growth_interval}"
            )
        self.device = device
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.enabled = enabled
        self._scale = float(init_scale)
        self._finite_steps = 0
        self._found_inf: dict[int, bool] = {}  # by optimizer, since the last update
        self._stepped: set[int] = set()

    def scale(self, outputs: Any) -> Any:
        """Return a loss, or a list or tuple of them, times the factor."""
        if not self.enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return cast(outputs, wide_dtype(outputs.dtype)) * self._scale  # 16 bits do not reach as far
        if isinstance(outputs, Iterable):
            return type(outputs)(self.scale(output) for output in outputs)  # type: ignore[call-arg]
        raise TypeError(f"GradScaler.scale takes Tensors, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer's parameters by the factor, in place: before clipping them, say.

        `step` does so itself where it was not called before.

        Raises
        ------
        RuntimeError
            If it was called before, or `step` was, since the last `update`.
        ValueError
            If a gradient is in float16: the parameters are to stay float32.
        """
        if not self.enabled:
            return
        if id(optimizer) in self._found_inf:
            done = "step() has been called" if id(optimizer) in self._stepped else "unscale_() has been called"
            raise RuntimeError(f"GradScaler: {done} on this optimizer since the last update()")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(gradient.dtype == np.float16 for gradient in gradients):
            raise ValueError(
                "GradScaler: a gradient is in float16, whose range is what scaling is to avoid: keep the parameters "
                "in float32 and compute under autocast"
            )
        with no_grad():
            arrays = [gradient.writable_array() for gradient in gradients]
        self._found_inf[id(optimizer)] = bool(unscale(arrays, 1 / self._scale)) if arrays else False

    def step(self, optimizer: Any, *args: Any, **options: Any) -> Any:
        """Call ``optimizer.step`` with finite gradients, unscaled; without, leave the step out and return None.

        Raises
        ------
        RuntimeError
            If it was called before since the last `update`, or with a closure.
        """
        if not self.enabled:
            return optimizer.step(*args, **options)
        if args or "closure" in options:
            raise RuntimeError("GradScaler.step takes no closure: the loss is scaled outside the optimizer")
        if id(optimizer) in self._stepped:
            raise RuntimeError("GradScaler: step() has been called on this optimizer since the last update()")
        if id(optimizer) not in self._found_inf:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        if not self._found_inf[id(optimizer)]:
            return optimizer.step(**options)
        optimizer.step_calls += 1  # for schedules, which count steps whether they change anything or not
        return None

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the factor to what the gradients since the last call were like, or set it.

        Raises
        ------
        RuntimeError
            If neither `step` nor `unscale_` was called since.
        """
        if not self.enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._found_inf:
            raise RuntimeError("GradScaler: update() needs a step() or unscale_() before it")
        elif any(self._found_inf.values()):
            self._scale *= self.backoff_factor
            self._finite_steps = 0
        else:
            self._finite_steps += 1
            if self._finite_steps == self.growth_interval:
                self._finite_steps = 0
                if self._scale * self.growth_factor < float(np.finfo(np.float32).max):
                    self._scale *= self.growth_factor
        self._found_inf, self._stepped = {}, set()

    def after_step(self, optimizer: Any, found_inf: bool) -> None:
        """Adapt the factor to a step that was made elsewhere, by a captured graph, as `step` and `update` would."""
        self._found_inf[id(optimizer)] = found_inf
        self.update()

    def get_scale(self) -> float:
        """Return the factor: 1 where scaling is not enabled."""
        return self._scale if self.enabled else 1.0

    def is_enabled(self) -> bool:
        """Tell whether anything is scaled."""
        return self.enabled

    def state_dict(self) -> dict[str, Any]:
        """Return the state under PyTorch's names: nothing where scaling is not enabled."""
        if not self.enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self._finite_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises
        ------
        RuntimeError
            If it is empty, that of a scaler that was not enabled.
        KeyError
            If something is missing in it.
        """
        if not self.enabled:
            return
        if not state_dict:
            raise RuntimeError("GradScaler: the state is empty, that of a scaler that was not enabled")
        self._scale = float(state_dict["scale"])
        self.growth_factor = float(state_dict["growth_factor"])
        self.backoff_factor = float(state_dict["backoff_factor"])
        self.growth_interval = int(state_dict["growth_interval"])
        self._finite_steps = int(state_dict["_growth_tracker"])
