"""Known patterns of wrong gradients: what the two Jacobians, side by side, tell of the mistake behind them.

Each pattern is a hypothesis of the form "the backward pass computed this instead": it counts only if it explains every
wrong derivative, to a relative error of `FIT`, and the first that fits is told, the more particular before the more
general. A pattern is a hint; the numbers are the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from minires.verify.result import Diagnosis

FIT = 1e-5
AXIS = "the length of axis"  # attention divides by the square root of one
Shape = tuple[int, ...]


def diagnose(
    analytical: np.ndarray, numerical: np.ndarray, wrong: np.ndarray, output_shape: Shape, input_shape: Shape
) -> tuple[Diagnosis, ...]:
    """Return what patterns explain the wrong derivatives, at most one of each kind.

    Parameters
    ----------
    analytical, numerical : (m, n), Jacobians of an output of ``output_shape`` by an input of ``input_shape``
    wrong : (m, n) booleans, where they differ
    """
    if not wrong.any():
        return ()
    if not np.isfinite(analytical).all():
        count = int((~np.isfinite(analytical)).sum())
        return (Diagnosis("not finite", f"the gradient holds {count} NaN or infinite values"),)
    views = analytical, numerical, wrong, output_shape, input_shape
    causes = (found for pattern in _CAUSES if (found := pattern(*views)) is not None)
    places = (found for pattern in _PLACES if (found := pattern(*views)) is not None)
    cause = next(causes, None)
    # Where a whole Jacobian is explained, the places that happen to be right tell nothing.
    place = next(places, None) if cause is None or cause.pattern in _PARTIAL else None
    return tuple(found for found in (cause, place) if found is not None)


def name_factor(factor: float, sizes: dict[str, int]) -> str:
    """Return what a constant factor may come from, or nothing.

    ``sizes`` names the counts that might have been multiplied or divided by.
    """

    def near(value: float) -> bool:
        return abs(factor - value) <= 10 * FIT * abs(value)

    if near(-1):
        return "the sign is wrong"
    for verb, value, cause in (
        ("scaled", factor, "a sum where a mean is meant, or a missing division"),
        ("divided", 1 / factor if factor else 0.0, "a mean where a sum is meant, or a division too many"),
    ):
        if value <= 1 or abs(value - 1) < FIT:
            continue
        counts = [f"{name}, {size}" for name, size in sizes.items() if size > 1 and abs(value / size - 1) <= 10 * FIT]
        counts += [
            f"the square root of {name}, {size}"
            for name, size in sizes.items()
            if size > 1 and name.startswith(AXIS) and abs(value / size**0.5 - 1) <= 10 * FIT
        ]
        if counts:
            square = ", or a factor 2 as from the derivative of a square" if near(2.0) or near(0.5) else ""
            return f"{verb} by {' or '.join(counts)}: {cause}{square}"
    for name, size in sizes.items():
        if size > 2 and (near(size / (size - 1)) or near((size - 1) / size)):
            return f"biased against unbiased variance: {size} and {size - 1} are mixed up, {size} being {name}"
    if near(0.5) or near(2.0):
        return "a factor 2 is missing or too many, as from the derivative of a square"
    if near(0.1) or near(0.9) or near(0.99) or near(0.01):
        return "like momentum or 1 - momentum: a running average may have got into the gradient"
    return ""


def _digits(factor: float) -> str:
    """Six digits, and of a factor near 1 those that differ."""
    return f"{factor:.6g}" if abs(factor - 1) > 1e-4 else f"{factor:.10g}"


def _stops(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    if a.any():
        return None
    return Diagnosis("stops", "the gradient stops: it is 0 everywhere (detached, or never propagated)")


def _constant_factor(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    factor = float((a * n).sum() / (n * n).sum()) if n.any() else 0.0
    if factor == 0:
        return None
    # A factor near 1 must fit much better than 1 does.
    residual = np.abs(factor * n - a).max()
    if not _explains(factor * n, a, n) and residual > 0.1 * abs(factor - 1) * np.abs(n).max():
        return None
    sizes = _sizes(output, input)
    meaning = name_factor(factor, sizes)
    return Diagnosis(
        "constant factor", f"off by the constant factor {_digits(factor)}" + (f" ({meaning})" if meaning else "")
    )


def _transposed(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    for axes in _pairs_of_axes(input):
        swapped = np.swapaxes(n.reshape(-1, *input), 1 + axes[0], 1 + axes[1]).reshape(n.shape)
        if _explains(swapped, a, n):
            return Diagnosis("transposed", f"transposed: axes {axes[0]} and {axes[1]} of the gradient are swapped")
    if n.shape[0] == n.shape[1] and _explains(n.T, a, n):
        return Diagnosis("transposed", "transposed: the gradient is J dy where it should be its transpose times dy")
    return None


def _flipped(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    candidates: list[Shape] = [(axis,) for axis in range(len(input)) if input[axis] > 1]
    candidates += [tuple(range(len(input) - 2, len(input)))] if len(input) > 1 else []
    for axes in candidates:
        flipped = np.flip(n.reshape(-1, *input), tuple(1 + axis for axis in axes)).reshape(n.shape)
        if _explains(flipped, a, n):
            where = " and ".join(map(str, axes))
            return Diagnosis("flipped", f"reversed along axis {where}: as where a filter is rotated, or is not")
    for flipped in _rotated_windows(n, output, input):
        if _explains(flipped, a, n):
            return Diagnosis("flipped", "every window of the input is reversed: the filter is rotated, or is not")
    return None


def _rotated_windows(n: np.ndarray, output: Shape, input: Shape) -> Iterator[np.ndarray]:
    """The Jacobian of a convolution whose filter is rotated by 180 degrees, if it is one.

    Where windows stay whole, each is reversed in itself. Where as many pixels go out as come in, pixels change places.
    """
    if min(len(output), len(input)) < 2:
        return
    grid = n.reshape(-1, *output[-2:], int(np.prod(input[:-2])), *input[-2:])
    if output[-2:] == input[-2:]:
        yield np.moveaxis(grid, (1, 2, 4, 5), (4, 5, 1, 2)).reshape(n.shape)
    rotated = np.zeros_like(grid)
    for p in range(output[-2]):
        for q in range(output[-1]):
            seen = np.asarray(grid[:, p, q].any(axis=(0, 1)))
            if not seen.any():
                return
            rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            window = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            rotated[:, p, q][window] = grid[:, p, q][window][..., ::-1, ::-1]
    yield rotated.reshape(n.shape)


def _one_triangle(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    """A matrix of which both triangles are read, and whose gradient was derived as if it were symmetric."""
    if len(input) < 2 or input[-1] != input[-2] or input[-1] < 2:
        return None
    right = n.reshape(-1, *input)
    mirrored = right.swapaxes(-1, -2)
    diagonal = right * np.eye(input[-1])
    both = right + mirrored - diagonal
    for hypothesis, what in (
        (np.tril(both), "the lower triangle has the gradient of both, the upper one none"),
        (np.triu(both), "the upper triangle has the gradient of both, the lower one none"),
        (np.tril(right), "the upper triangle has no gradient"),
        (np.triu(right), "the lower triangle has no gradient"),
        ((right + mirrored) / 2, "it is made symmetric"),
        (both, "elements off the diagonal have the gradient of their mirror image too"),
        (right + mirrored, "it has its transpose added"),
    ):
        if _explains(hypothesis.reshape(n.shape), a, n):
            return Diagnosis(
                "triangles", f"the function reads both triangles of the matrix, but in the gradient {what}"
            )
    return None


def _diagonal_only(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    if n.shape[0] != n.shape[1] or len(n) < 3 or not a.any() or (a - np.diag(np.diag(a))).any():
        return None
    if np.abs(n - np.diag(np.diag(n))).max() <= FIT * np.abs(n).max():
        return None
    return Diagnosis(
        "diagonal only",
        "each element gets a gradient from its own output only: that through the others is missing, as the sum in the "
        "gradient of a softmax",
    )


def _shifted(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    for what, shape, full in (("input", input, (-1, *input)), ("output", output, (*output, n.shape[1]))):
        first = 1 if what == "input" else 0
        for axis, length in enumerate(shape):
            for by in (-1, 1) if length > 2 else (1,) if length == 2 else ():
                rolled = np.roll(n.reshape(full), by, first + axis)
                cut = rolled.copy()
                edge = [slice(None)] * cut.ndim
                edge[first + axis] = slice(0, 1) if by == 1 else slice(-1, None)
                cut[tuple(edge)] = 0
                if _explains(rolled.reshape(n.shape), a, n) or _explains(cut.reshape(n.shape), a, n):
                    text = f"shifted by {by} along axis {axis} of the {what}: an index or a padding is off by one"
                    return Diagnosis("shifted", text)
    return None


def _missing_sum(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    """A broadcast input: along an axis that it was repeated on, only one output element sends its gradient."""
    aligned = (1,) * (len(output) - len(input)) + input
    if len(aligned) != len(output):
        return None
    grid, right = a.reshape(*output, -1), n.reshape(*output, -1)
    for axis in _broadcast_axes(output, input):
        for place, which in ((0, "first"), (-1, "last")):
            kept = np.zeros_like(right)
            one = [slice(None)] * right.ndim
            one[axis] = slice(0, 1) if place == 0 else slice(-1, None)
            kept[tuple(one)] = right[tuple(one)]
            if _explains(kept, grid, right):
                return Diagnosis(
                    "missing sum",
                    f"a missing sum over the broadcast axis {axis} of the output: only the {which} of its "
                    f"{output[axis]} elements counts",
                )
    return None


def _missing_mean_term(
    a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape
) -> Diagnosis | None:
    """Normalisation: within each group, J = s (I - 1 1'/k - x x'/k) up to scale; a term is missing or mis-scaled."""
    if output != input or n.shape[0] != n.shape[1]:
        return None
    excess = a - n
    group = np.flatnonzero(wrong.any(axis=1))[:1]
    members = np.flatnonzero(n[group[0]]) if group.size else group
    if members.size < 3 or members.size > 400:
        return None
    block = excess[np.ix_(members, members)]
    outer, values, inner = np.linalg.svd(block)  # the weight scales rows: no symmetry is left
    size, vector = float(values[0]), inner[0]
    if np.linalg.norm(block - size * np.outer(outer[:, 0], vector)) > 1e-3 * np.linalg.norm(block):
        return None
    k = members.size
    if np.ptp(vector) <= 1e-3 * np.abs(vector).max():
        return Diagnosis("missing mean", f"the gradient through the mean of {k} values is missing or wrong")
    scale = float(np.median(np.abs(np.diag(n[np.ix_(members, members)])))) / (1 - 2 / k)
    ratio = abs(size / scale)
    if abs(ratio * (k - 1) - 1) < 0.2 or abs(ratio * k - 1) < 0.2:
        return Diagnosis(
            "biased variance",
            f"biased against unbiased variance: the term from the variance is scaled by {k} where it should be "
            f"{k - 1}, or the reverse",
        )
    return Diagnosis("missing variance", f"the gradient through the variance of {k} values is missing or wrong")


def _offset(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    excess = (a - n)[wrong]
    if excess.size < 2 or np.ptp(excess) > FIT * np.abs(excess).max():
        return None
    return Diagnosis("constant offset", f"every wrong derivative is off by the same amount, {excess[0]:.6g}")


def _factor_where_wrong(
    a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape
) -> Diagnosis | None:
    bad, good = a[wrong], n[wrong]
    if not good.any() or wrong.sum() < 2:
        return None
    factor = float((bad * good).sum() / (good * good).sum())
    if np.abs(bad - factor * good).max() > FIT * np.abs(good).max():
        return None
    if factor == 0:
        return Diagnosis("partly stops", "the wrong derivatives are 0: part of the gradient stops")
    meaning = name_factor(factor, _sizes(output, input))
    text = f"the wrong derivatives are off by the constant factor {_digits(factor)}" + (
        f" ({meaning})" if meaning else ""
    )
    return Diagnosis("constant factor in places", text)


def _border(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    for what, shape, marks in (("input", input, wrong.any(axis=0)), ("output", output, wrong.any(axis=1))):
        if len(shape) < 3 or min(shape[-2:]) < 3:
            continue
        inside = np.asarray(marks).reshape(shape)[..., 1:-1, 1:-1]
        if not inside.any():
            return Diagnosis("border", f"wrong only on the border of the {what}: look at the padding")
    return None


def _one_element(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    for what, shape, marks in (("input", input, wrong.any(axis=0)), ("output", output, wrong.any(axis=1))):
        if marks.sum() == 1 and marks.size > 1:
            index = [int(i) for i in np.unravel_index(int(marks.argmax()), shape)]
            return Diagnosis("one element", f"wrong for one element of the {what} only, at {index}")
    return None


def _one_slice(a: np.ndarray, n: np.ndarray, wrong: np.ndarray, output: Shape, input: Shape) -> Diagnosis | None:
    """Wrong for one index along an axis: the last channel, the first image."""
    for what, shape, marks in (("input", input, wrong.any(axis=0)), ("output", output, wrong.any(axis=1))):
        for axis, length in enumerate(shape):
            others = tuple(k for k in range(len(shape)) if k != axis)
            where = np.flatnonzero(np.asarray(marks).reshape(shape).any(axis=others))
            if length > 1 and where.size == 1:
                return Diagnosis("one slice", f"wrong only at index {int(where[0])} of axis {axis} of the {what}")
    return None


def _explains(hypothesis: np.ndarray, a: np.ndarray, n: np.ndarray) -> bool:
    """Whether the hypothesis is what was computed, and not what should have been."""
    scale = np.abs(n).max() or 1.0
    return bool(np.abs(hypothesis - a).max() <= FIT * scale * 10 and np.abs(hypothesis - n).max() > FIT * scale)


def _sizes(output: Shape, input: Shape) -> dict[str, int]:
    """The counts that a wrong backward pass divides or multiplies by, and what they are."""
    sizes = {"the batch size": (input or output or (1,))[0]}
    if len(input) >= 3:
        sizes["the number of values of a channel"] = int(np.prod([input[0], *input[2:]]))
        sizes["the size of a plane"] = int(np.prod(input[-2:]))
    sizes |= {f"{AXIS} {axis} of the input": length for axis, length in enumerate(input) if axis > 0}
    sizes["the number of inputs"] = int(np.prod(input))
    sizes["the number of outputs"] = int(np.prod(output))
    for axis in _broadcast_axes(output, input):
        sizes[f"the length of the broadcast axis {axis}"] = output[axis]
    return sizes


def _broadcast_axes(output: Shape, input: Shape) -> list[int]:
    aligned = (1,) * (len(output) - len(input)) + input
    if len(aligned) != len(output) or any(i not in (1, o) for i, o in zip(aligned, output, strict=True)):
        return []
    return [axis for axis, (i, o) in enumerate(zip(aligned, output, strict=True)) if i == 1 and o > 1]


def _pairs_of_axes(shape: Shape) -> list[tuple[int, int]]:
    count = len(shape)
    return [(i, j) for i in range(count) for j in range(i + 1, count) if shape[i] == shape[j] > 1]


Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray, Shape, Shape], Diagnosis | None]
_CAUSES: tuple[Pattern, ...] = (
    _stops,
    _constant_factor,
    _transposed,
    _flipped,
    _shifted,
    _one_triangle,
    _missing_sum,
    _diagonal_only,
    _missing_mean_term,
    _offset,
    _factor_where_wrong,
)
_PARTIAL = ("constant offset", "partly stops", "constant factor in places")  # said of the wrong derivatives alone
_PLACES: tuple[Pattern, ...] = (_one_element, _border, _one_slice)
