"""Bugs of convolutions, with stride, padding, dilation, groups and bias."""

from __future__ import annotations

import numpy as np

from gradient_bugs.base import Bug, Op, at, first, normal, put, scaled


def taps(w, p, q, stride, dilation):
    """Each filter tap and the slice of the padded image that it meets."""
    for r in range(w.shape[2]):
        for s in range(w.shape[3]):
            top, left = r * dilation, s * dilation
            yield r, s, (..., slice(top, top + stride * p, stride), slice(left, left + stride * q, stride))


def padded(x, padding, mode="constant"):
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode)


def conv(x, w, b, stride=1, padding=1, dilation=1, groups=1):
    image = padded(x, padding)
    p, q = (
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True)
    )
    y = np.zeros((len(x), len(w), p, q))
    channels, filters = np.split(np.arange(x.shape[1]), groups), np.split(np.arange(len(w)), groups)
    for inside, outside in zip(channels, filters, strict=True):
        for r, s, where in taps(w, p, q, stride, dilation):
            y[:, outside] += np.einsum("ncpq,oc->nopq", image[:, inside][where], w[outside][:, :, r, s])
    return y + b[:, None, None]


def conv_vjp(x, w, b, dy, stride=1, padding=1, dilation=1, groups=1, overwrite=False, swap=False, mode="constant"):
    image = padded(x, padding, mode)
    dimage, dw = np.zeros_like(image), np.zeros_like(w)
    channels, filters = np.split(np.arange(x.shape[1]), groups), np.split(np.arange(len(w)), groups)
    for inside, outside in zip(channels, filters[::-1] if swap else filters, strict=True):
        for r, s, where in taps(w, *dy.shape[2:], stride, dilation):
            part = np.einsum("nopq,oc->ncpq", dy[:, outside], w[outside][:, :, r, s])
            view = dimage[where]
            for k, c in enumerate(inside):
                view[:, c] = part[:, k] if overwrite else view[:, c] + part[:, k]
            dw[outside, :, r, s] += np.einsum("nopq,ncpq->oc", dy[:, outside], image[:, inside][where])
    end = [n - padding for n in image.shape[2:]]
    return [dimage[:, :, padding : end[0], padding : end[1]], dw, dy.sum((0, 2, 3))]


def again(index, **options):
    """The backward pass with other options or a changed filter, for the gradient of one input."""

    def wrong(inputs, dy, right):
        x, w, b = inputs
        changed = options.get("filter", lambda w: w)(w)
        others = {name: value for name, value in options.items() if name != "filter"}
        found = conv_vjp(x, np.ascontiguousarray(changed), b, dy, **others)
        return [found[i] if i == index else g for i, g in enumerate(right)]

    return wrong


def half(array):
    return array.astype(np.float16).astype(np.float64)


def shifted(array, axis):
    return np.roll(array, 1, axis)


X, W, B = normal(2, 2, 4, 4), normal(3, 2, 3, 3, seed=1), normal(3, seed=2)
STRIDED = {"stride": 2, "padding": 1}
DILATED = {"dilation": 2, "padding": 2}
GROUPED = {"groups": 2}


def with_options(**options):
    return (lambda x, w, b: conv(x, w, b, **options)), (lambda x, w, b, dy: conv_vjp(x, w, b, dy, **options))


def pointwise(x, w):
    return np.einsum("nchw,oc->nohw", x, w)


def pointwise_vjp(x, w, dy):
    return [np.einsum("nohw,oc->nchw", dy, w), np.einsum("nohw,nchw->oc", dy, x)]


OPS = [
    Op(
        "conv",
        conv,
        conv_vjp,
        (X, W, B),
        [
            Bug("input gradient with the filter rotated", again(0, filter=lambda w: w[:, :, ::-1, ::-1])),
            Bug("input gradient with the filter mirrored along one axis", again(0, filter=lambda w: w[..., ::-1])),
            Bug(
                "input gradient with the filter's height and width swapped", again(0, filter=lambda w: w.swapaxes(2, 3))
            ),
            Bug("input gradient without the last tap", again(0, filter=lambda w: put(w.copy(), (..., -1, -1), 0))),
            Bug("input gradient with the channels in reverse", again(0, filter=lambda w: w[:, ::-1])),
            Bug("input gradient overwritten where windows overlap", again(0, overwrite=True)),
            Bug("input gradient one pixel too high", first(lambda g: shifted(g, 2))),
            Bug(
                "input gradient stops on the border",
                first(lambda g: put(put(g, (..., 0, slice(None)), 0), (..., 0), 0)),
            ),
            Bug("input gradient 0 at one corner pixel", first(lambda g: put(g, (..., 0, 0), 0))),
            Bug("input gradient off by 1e-4 at one corner pixel", first(lambda g: scaled(g, (0, 0, 0, 0), 1 + 1e-4))),
            Bug("input gradient off by 1e-4 everywhere", first(lambda g: g * (1 + 1e-4))),
            Bug("input gradient rounded to half precision", first(half)),
            Bug("input gradient of the first image only", first(lambda g: put(g, slice(1, None), 0))),
            Bug("weight gradient rotated", at(1, lambda g: g[:, :, ::-1, ::-1])),
            Bug("weight gradient with height and width swapped", at(1, lambda g: g.swapaxes(2, 3))),
            Bug("weight gradient divided by the batch size", at(1, lambda g: g / 2)),
            Bug("weight gradient multiplied by the batch size", at(1, lambda g: g * 2)),
            Bug(
                "weight gradient without the last image",
                lambda i, dy, right: [right[0], conv_vjp(i[0][:1], i[1], i[2], dy[:1])[1], right[2]],
            ),
            Bug("weight gradient with one tap 0", at(1, lambda g: put(g, (..., 0, 2), 0))),
            Bug("weight gradient off by 1e-4 in one tap", at(1, lambda g: scaled(g, (..., 1, 1), 1 + 1e-4))),
            Bug("weight gradient of an image padded by its edge", again(1, mode="edge")),
            Bug(
                "weight gradient of the rectified image",
                lambda i, dy, right: [right[0], conv_vjp(np.maximum(i[0], 0), i[1], i[2], dy)[1], right[2]],
            ),
            Bug("weight gradient with filters in reverse", at(1, lambda g: g[::-1])),
            Bug("bias gradient averaged over the pixels", lambda i, dy, right: [*right[:2], dy.sum(0).mean((1, 2))]),
            Bug("bias gradient without the sum over the batch", lambda i, dy, right: [*right[:2], dy[0].sum((1, 2))]),
            Bug(
                "bias gradient without the sum over the width",
                lambda i, dy, right: [*right[:2], dy[..., 0].sum((0, 2))],
            ),
            Bug("bias gradient is 0", at(2, np.zeros_like)),
        ],
    ),
    Op(
        "conv stride 2",
        *with_options(**STRIDED),
        (normal(2, 2, 5, 5), W, B),
        [
            Bug("input gradient with the phase off by one", first(lambda g: shifted(g, 3))),
            Bug("input gradient 0 in the last row", first(lambda g: put(g, (..., -1, slice(None)), 0))),
            Bug(
                "weight gradient of windows one pixel on",
                lambda i, dy, right: [right[0], conv_vjp(shifted(i[0], 2), i[1], i[2], dy, **STRIDED)[1], right[2]],
            ),
            Bug("input gradient scaled by the stride", first(lambda g: g * 2)),
            Bug("input gradient scaled by the stride squared", first(lambda g: g / 4)),
        ],
    ),
    Op(
        "conv dilation 2",
        *with_options(**DILATED),
        (X, W, B),
        [
            Bug("input gradient without dilation", again(0, dilation=1, padding=1)),
            Bug("weight gradient without dilation", again(1, dilation=1, padding=1)),
        ],
    ),
    Op(
        "conv groups 2",
        *with_options(**GROUPED),
        (normal(2, 4, 3, 3), normal(4, 2, 3, 3, seed=1), normal(4, seed=2)),
        [
            Bug("input gradient from the other group", again(0, groups=2, swap=True)),
            Bug("input gradient of the first group only", first(lambda g: put(g, (slice(None), slice(2, None)), 0))),
            Bug("weight gradient of the second group is 0", at(1, lambda g: put(g, slice(2, None), 0))),
            Bug("weight gradient divided by the groups", at(1, lambda g: g / 2)),
        ],
    ),
    Op(
        "conv 1x1",
        pointwise,
        pointwise_vjp,
        (normal(2, 3, 3, 3), normal(3, 3, seed=1)),
        [
            Bug("weight gradient transposed", at(1, lambda g: g.T)),
            Bug(
                "input gradient with the weight transposed",
                lambda i, dy, right: [np.einsum("nohw,co->nchw", dy, i[1]), right[1]],
            ),
        ],
    ),
]
