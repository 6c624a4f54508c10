"""Cross entropy between logits and classes or class probabilities, and the negative log likelihood of classes.

For logits z and a target distribution q over the C classes, both along axis 1,

    loss = -sum over c of  q[c] * log softmax(z)[c],       dz = softmax(z) * sum(q) - q

A class t with label smoothing e and class weights w is the target q[c] = w[c] * ((1 - e) * [c == t] + e / C). It is
never written out: q is a floor (e / C) that all classes share, and a peak at t. An ignored position has q = 0. The mean
divides by the sum of w[t] over the positions that are not ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.autograd import Function, Tensor, is_grad_enabled
from minires.device import Array, array_module
from minires.kernels import kernels_for
from minires.kernels.capture import is_capturing
from minires.ops.autocast import computes_in_float32
from minires.ops.indexing import gather
from minires.ops.loss_reduction import check_reduction
from minires.ops.softmax import log_softmax, softmax


class ClassTarget:
    """Target classes (N, d1, ...) with their weights, as the loss and its gradients need them.

    Attributes
    ----------
    index : the class at each position, 0 where the position is ignored.
    places : the index arrays that pick from (N, C, d1, ...) the element of each position's class.
    kept : boolean, false where the position is ignored.
    peak : what the target has at its class beyond the floor, (1 - label_smoothing) * weight[class]; 0 where ignored.
    floor : label_smoothing / C where kept, to be multiplied by `class_weights`; None without smoothing.
    mass : the sum of the target over the classes.
    class_weights : (1, C, 1, ...), or None if all are 1.
    total : what the mean divides by, the sum of weight[class] over the positions kept.
    """

    def __init__(
        self,
        input: Array,
        target: Array,
        weight: Array | None,
        ignore_index: int,
        reduction: str,
        smoothing: float = 0.0,
    ):
        xp = array_module(input)
        classes = input.shape[1]
        self.reduction = reduction
        self.kept = target != ignore_index
        self.index = xp.where(self.kept, target, 0).astype(np.int64, copy=False)
        grid = xp.ogrid[tuple(slice(length) for length in target.shape)]
        self.places = (grid[0], self.index, *grid[1:])
        self.class_weights = None if weight is None else weight.reshape(1, classes, *(1,) * (input.ndim - 2))
        kept = self.kept.astype(input.dtype)
        peak = kept if weight is None else weight[self.index] * kept
        self.total = peak.sum()
        self.peak, self.floor, self.mass = peak, None, peak
        if smoothing:
            self.peak = (1 - smoothing) * peak
            self.floor = (smoothing / classes) * kept
            self.mass = self.peak + self.floor * (classes if weight is None else weight.sum())

    def reduced(self, loss: Array) -> Array:
        """Return the loss of each position, their sum, or their weighted mean: NaN if every position is ignored."""
        if self.reduction == "none":
            return loss
        loss = loss.sum()
        if self.reduction == "mean":
            with np.errstate(divide="ignore", invalid="ignore"):
                loss = loss / self.total
        return loss

    def unreduced(self, dy: Array) -> Array:
        """Return the gradient of each position's loss from that of the reduced loss: 0 if all are ignored."""
        if self.reduction == "mean":
            return dy / array_module(dy).where(self.kept.any(), self.total, 1).astype(dy.dtype)
        return dy


class NLLLoss(Function):
    """y = -weight[t] * x[t], reduced; dx is -weight[t] * dy at t and 0 elsewhere."""

    def __init__(self, target: ClassTarget):
        self.target = target

    def forward(self, x):
        target = self.target
        picked = array_module(x).where(target.kept, x[target.places], 0)  # what is ignored may be infinite
        return target.reduced(-target.peak * picked)

    def backward(self, dy):
        return NLLLossGrad(self.target, self.input_shapes[0])(dy)


class NLLLossGrad(Function):
    """dy -> dx. The loss is linear in x, so this is its transpose, and the gradient of this is the loss again."""

    def __init__(self, target: ClassTarget, shape: tuple[int, ...]):
        self.target = target
        self.shape = shape

    def forward(self, dy):
        dx = array_module(dy).zeros(self.shape, dy.dtype)
        dx[self.target.places] = -self.target.peak * self.target.unreduced(dy)
        return dx

    def backward(self, ddx):
        return NLLLoss(self.target)(ddx)


class CrossEntropy(Function):
    """z (N, C, d1, ...) -> the loss at the classes t (N, d1, ...), reduced; dz = softmax(z) * sum(q) - q, times dy."""

    def __init__(self, target: ClassTarget):
        self.target = target

    def forward(self, z):
        xp = array_module(z)
        target = self.target
        z_shifted = z - z.max(axis=1, keepdims=True)
        p = xp.exp(z_shifted)
        sums = p.sum(axis=1, keepdims=True)
        log_sum = xp.log(sums[:, 0])
        loss = target.peak * (log_sum - z_shifted[target.places])
        if target.floor is not None:
            if target.class_weights is None:
                uniform = z.shape[1] * log_sum - z_shifted.sum(axis=1)
            else:
                uniform = target.class_weights.sum() * log_sum - (target.class_weights * z_shifted).sum(axis=1)
            loss += target.floor * uniform
        if self.needs_grad[0]:
            p /= sums
            self.save(z, p)
        return target.reduced(xp.where(target.kept, loss, 0))

    def backward(self, dy):
        z, p = self.saved
        if is_grad_enabled():  # a second derivative is wanted: p must depend on z in the graph
            p = softmax(z, 1)
        return CrossEntropyGrad(self.target)(p, dy)


class FusedCrossEntropy(Function):
    """`CrossEntropy` by kernels that do not write the probabilities out; its second derivative is that one's."""

    def __init__(self, target: Array, weight: Array | None, ignore_index: int, reduction: str, smoothing: float):
        self.options = target, weight, ignore_index
        self.reduction = reduction
        self.smoothing = smoothing

    def forward(self, z):
        target, weight, ignore_index = self.options
        xp = array_module(z)
        rows = xp.ascontiguousarray(xp.moveaxis(z, 1, -1)).reshape(-1, z.shape[1])
        self.targets = xp.ascontiguousarray(target).reshape(-1).astype(np.int64, copy=False)
        self.weight = None if weight is None else xp.ascontiguousarray(weight)
        kernel = kernels_for(z).cross_entropy
        losses, factors, logsums = kernel(rows, self.targets, self.weight, ignore_index, self.smoothing)
        total = factors.sum() if self.reduction == "mean" else None
        self.save(z, logsums, total)
        if self.reduction == "none":
            return losses.reshape(target.shape).astype(z.dtype)
        loss = losses.sum()
        return (loss if total is None else loss / total).astype(z.dtype)

    def backward(self, dy):
        z, logsums, total = self.saved
        target, weight, ignore_index = self.options
        if is_grad_enabled():
            described = ClassTarget(z.array, target, weight, ignore_index, self.reduction, self.smoothing)
            return CrossEntropyGrad(described)(softmax(z, 1), dy)
        xp = array_module(z.array)
        rows = xp.ascontiguousarray(xp.moveaxis(z.array, 1, -1)).reshape(-1, z.shape[1])
        scale = dy.array.astype(logsums.dtype).reshape(-1)
        if total is not None:
            scale = scale / total.array
        options = self.targets, self.weight, ignore_index, self.smoothing
        dz = kernels_for(rows).cross_entropy_grad(rows, logsums.array, *options, scale)
        return Tensor(xp.moveaxis(dz.reshape(z.shape[0], *z.shape[2:], z.shape[1]), -1, 1))


class CrossEntropyGrad(Function):
    """(p, dy) -> dz = (p * sum(q) - q) * dy for the probabilities p = softmax(z)."""

    def __init__(self, target: ClassTarget):
        self.target = target

    def forward(self, p, dy):
        self.save(p, dy)
        target = self.target
        dy = target.unreduced(dy)
        dz = p * (target.mass * dy)[:, None]
        if target.floor is not None:
            shared = (target.floor * dy)[:, None]
            dz -= shared if target.class_weights is None else shared * target.class_weights
        dz[target.places] -= target.peak * dy
        return dz

    def backward(self, ddz):
        p, dy = self.saved
        target = self.target
        dp = d_dy = None
        mass = Tensor(target.unreduced(target.mass))
        if self.needs_grad[0]:
            dp = ddz * (mass * dy).reshape(mass.shape[0], 1, *mass.shape[1:])
        if self.needs_grad[1]:
            picked = gather(ddz, 1, Tensor(target.index[:, None])).reshape(mass.shape)
            d_dy = mass * (p * ddz).sum(1) - Tensor(target.unreduced(target.peak)) * picked
            if target.floor is not None:
                weighted = ddz if target.class_weights is None else ddz * Tensor(target.class_weights)
                d_dy = d_dy - Tensor(target.unreduced(target.floor)) * weighted.sum(1)
            d_dy = d_dy.reshape(dy.shape) if target.reduction == "none" else d_dy.sum()
        return dp, d_dy


@computes_in_float32
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Return the negative log likelihood of classes under log probabilities, as ``torch.nn.functional.nll_loss``.

    Parameters
    ----------
    input : Tensor (N, C), (C,) or (N, C, d1, ...), log probabilities such as `log_softmax` gives.
    target : int64 or uint8 Tensor (N,), () or (N, d1, ...), classes from 0 to C - 1.
    weight : Tensor (C,), a factor for each class; takes no gradient.
    ignore_index : positions whose target has this value count for nothing.
    reduction : "none", "sum", or "mean": divided by the sum of the weights of the targets; NaN if all are ignored.

    PyTorch's deprecated ``size_average`` and ``reduce`` are left out, and what follows them is passed by name.

    Raises
    ------
    ValueError, RuntimeError, IndexError
        If shapes or dtypes do not fit, the reduction is unknown, or a target is out of range: its value is named.
    """
    check_reduction("nll_loss", reduction)
    return _class_loss("nll_loss", NLLLoss, input, target, weight, ignore_index, reduction)


@computes_in_float32
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy between logits and a target, as ``torch.nn.functional.cross_entropy``.

    Parameters
    ----------
    input : Tensor (N, C), (C,) or (N, C, d1, ...), logits.
    target : int64 or uint8 Tensor (N,), () or (N, d1, ...), classes from 0 to C - 1; or a floating-point Tensor of the
        shape of ``input``, class probabilities.
    weight : Tensor (C,), a factor for each class. With target classes it takes no gradient.
    ignore_index : positions whose target class has this value count for nothing.
    reduction : "none", "sum", or "mean": with classes divided by the sum of the weights of the targets, NaN if all are
        ignored; with probabilities by the number of positions.
    label_smoothing : the part, 0 to 1, of the target that is spread evenly over all classes (Szegedy et al. 2016,
        "Rethinking the Inception Architecture for Computer Vision", section 7).

    PyTorch's deprecated ``size_average`` and ``reduce`` are left out, and what follows them is passed by name.

    Raises
    ------
    ValueError, RuntimeError, IndexError
        If shapes or dtypes do not fit, the reduction is unknown, or a target is out of range: its value is named.
    """
    check_reduction("cross_entropy", reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"cross_entropy: label_smoothing must lie between 0 and 1, got {label_smoothing}")
    if input.ndim and input.shape == target.shape:
        return _probability_loss(input, target, weight, ignore_index, reduction, label_smoothing)
    return _class_loss("cross_entropy", CrossEntropy, input, target, weight, ignore_index, reduction, label_smoothing)


def _probability_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    if not target.is_floating_point():
        raise RuntimeError(
            f"cross_entropy: a target of the input's shape {input.shape} holds class probabilities and must be "
            f"floating-point, got {target.dtype}; target classes have the shape {input.shape[:1] + input.shape[2:]}"
        )
    if ignore_index >= 0:
        raise RuntimeError(f"cross_entropy: ignore_index={ignore_index} has no meaning for class probabilities")
    _check_devices("cross_entropy", input, target, weight)
    axis = min(input.ndim - 1, 1)
    classes = input.shape[axis]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / max(classes, 1)
    loss = -log_softmax(input, axis) * target
    if weight is not None:
        if weight.shape != (classes,):
            raise RuntimeError(_wrong_weight("cross_entropy", weight, classes))
        loss = loss * weight.reshape(classes, *(1,) * (input.ndim - 1 - axis))
    if reduction == "none":
        return loss.sum(axis)
    positions = input.numel() // max(classes, 1)
    return loss.sum() if reduction == "sum" else loss.sum() / (positions or float("nan"))


def _class_loss(
    name: str,
    function: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    *smoothing: float,
) -> Tensor:
    unbatched = input.ndim == 1
    _check_class_target(name, input, target, weight)
    if unbatched:
        input, target = input.reshape(1, *input.shape), target.reshape(1)
    if not is_capturing():  # nothing can be read then; GraphedStep checks what it runs as written
        _check_range(name, target.array, input.shape[1], ignore_index)
    if not input.shape[1]:  # no position has a class: each is ignored, or there is none
        loss = input.sum(1)
        if reduction == "none":
            return loss.reshape(()) if unbatched else loss
        return loss.sum() if reduction == "sum" else loss.sum() / 0.0
    weight_array = None if weight is None else weight.array
    if function is CrossEntropy and hasattr(kernels_for(input.array), "cross_entropy"):
        fused = FusedCrossEntropy(target.array, weight_array, ignore_index, reduction, *smoothing)
        loss = fused.watching(target, weight)(input)
        return loss.reshape(()) if unbatched else loss
    described = ClassTarget(input.array, target.array, weight_array, ignore_index, reduction, *smoothing)
    loss = function(described).watching(target, weight)(input)
    return loss.reshape(()) if unbatched else loss


def _check_class_target(name: str, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if input.ndim == 0:
        raise ValueError(f"{name}: the input needs an axis of classes: (N, C), (C,) or (N, C, d1, ...), got a scalar")
    if not input.is_floating_point():
        raise RuntimeError(f"{name} needs a floating-point input, got {input.dtype}: convert it with .float()")
    if target.dtype not in (np.dtype(np.int64), np.dtype(np.uint8)):
        raise RuntimeError(f"{name}: target classes must be int64 or uint8, got {target.dtype}: convert with .long()")
    wanted = (*input.shape[:1], *input.shape[2:]) if input.ndim > 1 else ()
    if target.shape != wanted and not (input.ndim == 1 and target.shape == (1,)):
        raise ValueError(
            f"{name}: an input of shape {input.shape} needs target classes of shape {wanted}, got {target.shape}"
        )
    _check_devices(name, input, target, weight)
    if weight is None:
        return
    classes = input.shape[1] if input.ndim > 1 else input.shape[0]
    if weight.shape != (classes,):
        raise RuntimeError(_wrong_weight(name, weight, classes))
    if weight.dtype != input.dtype:
        raise RuntimeError(f"{name}: the weight has dtype {weight.dtype}, the input {input.dtype}: convert one of them")
    if weight.requires_grad and is_grad_enabled():
        raise RuntimeError(f"{name} gives no gradient to class weights with target classes: detach() them")


def _wrong_weight(name: str, weight: Tensor, classes: int) -> str:
    return f"{name}: the weight must have one value for each of the {classes} classes, got shape {weight.shape}"


def _check_devices(name: str, input: Tensor, *others: Tensor | None) -> None:
    for other in others:
        if other is not None and other.device != input.device:
            raise RuntimeError(
                f"{name}: the input lies on {input.device}, but a target or weight on {other.device}: "
                f'move it with .to("{input.device}")'
            )


def _check_range(name: str, target: Array, classes: int, ignore_index: int) -> None:
    wrong = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if bool(wrong.any()):
        raise IndexError(
            f"{name}: target {int(target[wrong][0])} is out of range for {classes} classes: targets are 0 to "
            f"{classes - 1}, or ignore_index={ignore_index}"
        )
