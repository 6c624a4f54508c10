"""Recordings: never another output than the model's, and a reason where there can be none."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from kernel_cases import normal
from op_rows import ROWS
from test_compile import images, run, small_net

import minires
from minires import nn
from minires.nn import functional as F
from minires.ops.conv2d_add_relu import conv2d_add_relu


class Model(nn.Module):
    """A model that computes a given function, with given buffers."""

    def __init__(self, function, **buffers):
        super().__init__()
        self.function = function
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.eval()

    def forward(self, x):
        return self.function(self, x)


def never_wrong(model, inputs):
    """Run a model compiled on inputs, and hold each output against the model's; return the reasons it gave up for."""
    net = minires.compile(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in inputs:
            expected = run(model, x)
            output = run(net, x)
            assert output.dtype == expected.dtype
            np.testing.assert_array_equal(output, expected)
    return [str(warning.message) for warning in caught]


def cleared(x):
    y = x * 1
    y[y > 10] = 0
    return y


def clamped(x):
    y = x * 1
    y.clamp_(-10, 10)
    return y


def added(x):
    y = x + 1
    y += x
    return y * 2


NOT_RECORDED = {
    "argmax": (lambda _, x: x.argmax(1), "its output, of shape .*argmax"),
    "max": (lambda _, x: x.max(1).values, "GetItem looks at an array"),
    "sort": (lambda _, x: minires.sort(x, 1)[0] * 1, "its output|an operand of|an array beside"),
    "where": (lambda _, x: minires.where(x > 10, 0.0, x), "Where looks at an array beside its operands"),
    "isnan": (lambda _, x: minires.where(minires.isnan(x), 0.0, x), "Where looks at an array"),
    "logsumexp": (lambda _, x: minires.logsumexp(x, 1), "an operand of"),
    "index": (lambda _, x: x[:, x.argmax(1)], "an array beside"),
    "index of one": (lambda _, x: x[:, x[0].argmax()] * 2, "hands numbers"),
    "equal": (lambda _, x: x * (2 if x.equal(x.abs()) else 3), "hands numbers"),
    "allclose": (lambda _, x: x * (2 if x.allclose(x.abs()) else 3), "hands numbers"),
    "nonzero": (lambda _, x: x * (x > 0).nonzero().shape[0], "hands numbers"),
    "one_hot": (lambda _, x: x * F.one_hot(x.argmax(1)).shape[1], "hands numbers"),
    "repr": (lambda _, x: x * (2 if "-" in repr(x) else 1), "hands numbers"),
    "statistics": (
        lambda _, x: F.batch_norm(x, minires.clamp(x.mean(0), max=0.0).detach() * 1, minires.ones(3)),
        "a statistic of BatchNorm",
    ),
    "enable_grad": (lambda _, x: in_grad_mode(x), "applied for gradients"),
    "mask": (lambda _, x: cleared(x), "is changed in place|an array beside"),
    "clamp_": (lambda _, x: clamped(x), "is changed in place"),
    "+=": (lambda _, x: added(x), "is changed in place"),
    "if": (lambda _, x: x * 2 if x.sum() > 0 else x, "hands numbers of a Tensor to Python"),
    "item": (lambda _, x: x * x.sum().item(), "hands numbers"),
    "numpy": (lambda _, x: minires.Tensor(x.numpy() * 2) + 1, "hands numbers"),
    "new": (lambda _, x: x + minires.ones(3), "an operand of Add, of shape \\(3,\\)"),
    "dropout": (lambda _, x: F.dropout(x, 0.5, training=True), "an array beside|an operand"),
    "array": (lambda _, x: minires.Tensor(x.array * 2), "its output"),
    "tuple": (lambda _, x: (x, x)[:1][0].detach().numpy(), "hands numbers"),
    "gradient": (lambda _, x: with_gradient(x), "gradients"),
}


def in_grad_mode(x):
    with minires.enable_grad():
        return x * 2


def with_gradient(x):
    with minires.enable_grad():
        leaf = x.detach().clone()
        leaf.requires_grad = True
        (leaf * leaf).sum().backward()
    return leaf.grad * 1


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_depends_on_more_than_operations_is_not_recorded(name):
    function, reason = NOT_RECORDED[name]
    if name in ("dropout", "tuple"):  # random, or not a Tensor: only the reason can be looked at
        net = minires.compile(Model(function))
        with minires.no_grad():
            net(images(2, 3))
            with pytest.warns(RuntimeWarning, match=reason) as caught:
                net(images(2, 3))
        assert [warning.filename for warning in caught] == [__file__]
        return
    large = minires.Tensor(20 * normal(2, 3, dtype=np.float32, seed=3))
    rare = minires.Tensor(np.array([[20, np.nan, -20], [1, 200, 3]], np.float32))
    inputs = [images(2, 3), images(2, 3), *(images(2, 3, seed=seed) for seed in range(3)), large, rare]
    (message,) = never_wrong(Model(function), inputs)
    assert message.startswith("compile: Model runs as it is written, for ")
    assert re.search(reason, message)


def test_arrays_behind_the_back_of_operations_are_noticed_by_the_next_input():
    def scaled(model, x):
        return x * float(np.abs(x.array).max())

    (message,) = never_wrong(Model(scaled), [images(2, 3), *(images(2, 3, seed=seed) for seed in range(4))])
    assert "gives another output than the model" in message


def test_what_the_model_keeps_does_not_change_later():
    kept = []

    def keeping(model, x):
        y = F.relu(x * 2)
        kept.append(y.detach())
        return y + 1

    inputs = [images(1, 2, 4, 4, seed=seed) for seed in range(5)]
    (message,) = never_wrong(Model(keeping), inputs)
    assert "keeps its input or a result" in message
    for index, x in enumerate(inputs):  # each ran twice, once compiled
        np.testing.assert_array_equal(kept[2 * index + 1].numpy(), np.maximum(2 * x.numpy(), 0))


def test_an_output_that_the_model_keeps_does_not_change_later():
    def keeping(model, x):
        model.last = F.relu(x * 2)
        return model.last

    model = Model(keeping)
    net, x = minires.compile(model), images(1, 2, 4, 4)
    run(net, x)
    with pytest.warns(RuntimeWarning, match="keeps its input or a result"):
        run(net, x)
    last, before = model.last, model.last.numpy().copy()
    for seed in range(3):
        run(net, images(1, 2, 4, 4, seed=seed))
    np.testing.assert_array_equal(last.numpy(), before)


def test_an_input_given_other_data_has_them_for_the_caller():
    def replacing(model, x):
        x.data = x.data * 2
        return x + 1

    net, inputs = minires.compile(Model(replacing)), [minires.ones(2, 3) for _ in range(3)]
    outputs = [run(net, inputs[0])]
    with pytest.warns(RuntimeWarning, match="gives its input other data|neither by an operation"):
        outputs.append(run(net, inputs[1]))
    outputs.append(run(net, inputs[2]))
    np.testing.assert_array_equal(outputs, np.full((3, 2, 3), 3))
    np.testing.assert_array_equal([x.numpy() for x in inputs], np.full((3, 2, 3), 2))


def test_an_attribute_of_the_input_is_there_for_the_model():
    net = minires.compile(Model(lambda _, x: x * x.note))
    for note in range(5):
        x = minires.ones(2, 3)
        x.note = float(note)
        assert (run(net, x) == note).all()


@pytest.mark.parametrize("kind", ["buffers", "modules"])
def test_swapped_names_are_seen(kind):
    if kind == "buffers":
        model = Model(lambda model, x: x * model.a + model.b, a=images(3), b=images(3, seed=1))
    else:
        model = Model(lambda model, x: model.b(model.a(x)))
        model.a, model.b = nn.ReLU().eval(), nn.Tanh().eval()
    net = minires.compile(model)
    for seed in range(4):
        run(net, images(2, 3, seed=seed))
    first, second = model.a, model.b
    del model.a, model.b
    if kind == "buffers":
        model.register_buffer("b", first)
        model.register_buffer("a", second)
    else:
        model.b, model.a = first, second
    for seed in range(4):
        x = images(2, 3, seed=seed)
        np.testing.assert_array_equal(run(net, x), run(model, x))


RECORDED = {
    "upsampling": lambda _, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "a mask that is a buffer": lambda model, x: minires.where(model.m, x, 0.0),
    "an index that is a buffer": lambda model, x: x[:, model.i],
    "statistics of the batch": lambda _, x: F.batch_norm(x, None, None, training=True),
    "statistics that are buffers": lambda model, x: F.batch_norm(x, model.b, model.v, training=False),
    "an output that is a buffer": lambda model, x: model.b,
}


@pytest.mark.parametrize("name", RECORDED)
def test_what_depends_on_constants_and_shapes_is_recorded(name):
    buffers = {"m": images(4, 4) > 0, "i": minires.tensor([2, 0]), "b": images(3), "v": minires.ones(3)}
    reasons = never_wrong(Model(RECORDED[name], **buffers), [images(2, 3, 4, 4, seed=seed) for seed in range(5)])
    assert reasons == []


def test_an_input_changed_in_place_changes_for_the_caller():
    def changing(model, x):
        x.mul_(2)
        return x + 1

    net, inputs = minires.compile(Model(changing)), [minires.ones(2, 3) for _ in range(4)]
    outputs = [run(net, inputs[0])]
    with pytest.warns(RuntimeWarning, match="is changed in place"):
        outputs.append(run(net, inputs[1]))
    outputs += [run(net, x) for x in inputs[2:]]
    np.testing.assert_array_equal(outputs, np.full((4, 2, 3), 3))
    np.testing.assert_array_equal([x.numpy() for x in inputs], np.full((4, 2, 3), 2))


ORDERS = {
    "planes": lambda x: x,
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "transposed": lambda x: np.ascontiguousarray(x.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0),
    "reversed": lambda x: x[:, ::-1],
}


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_in_memory_gives_the_bits_of_the_model(order):
    def centred(model, x):
        return model.body(x - x.mean((2, 3), keepdim=True))

    model = Model(centred)
    model.body = small_net()
    arrays = [normal(2, 3, 9, 9, dtype=np.float32, seed=seed) for seed in range(5)]
    inputs = [minires.Tensor(ORDERS[order](array)) for array in arrays] + [minires.Tensor(array) for array in arrays]
    assert never_wrong(model, inputs) == []


VIEWS = {
    "expand": lambda _, x: x[:, :1].expand(2, 5) * 2,
    "expand to nothing": lambda _, x: x[:1].expand(0, 3) * 2,
    "repeat": lambda _, x: x.repeat(2, 1) + 1,
    "broadcast": lambda _, x: minires.broadcast_to(x, (4, 2, 3)),
    "flip": lambda _, x: x.flip(0).transpose(0, 1),
    "split": lambda _, x: x.split(1)[1] * x.split(1)[0],
    "input": lambda _, x: x,
    "view": lambda _, x: x[:, 1:],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    assert never_wrong(Model(VIEWS[name]), [images(2, 3, seed=seed) for seed in range(5)]) == []


def test_filters_computed_from_the_input():
    def dynamic(model, x):
        gate = minires.clamp(x.abs().mean((0, 1, 2, 3)), max=0.5)
        return conv2d_add_relu(x, model.w * gate, model.b, padding=1)

    model = Model(dynamic, w=images(4, 3, 3, 3), b=images(4))
    inputs = [images(1, 3, 6, 6, seed=seed) for seed in range(4)]
    assert never_wrong(model, [*inputs, *(x * 1e-3 for x in inputs)]) == []


def with_buffers(value, buffers):
    """Put names for arrays, in lists too, and the arrays as Tensors into ``buffers``."""
    if isinstance(value, (list, tuple)):
        return type(value)(with_buffers(each, buffers) for each in value)
    if not isinstance(value, np.ndarray):
        return value
    buffers[f"b{len(buffers)}"] = minires.Tensor(value)
    return f"b{len(buffers) - 1}"


def from_buffers(value, model):
    if isinstance(value, (list, tuple)):
        return type(value)(from_buffers(each, model) for each in value)
    return model._buffers[value] if isinstance(value, str) and value in model._buffers else value


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_operation_is_ever_wrong(row):
    for sample in row.samples:
        drawn = row.draw(sample)
        for index, value in enumerate(drawn):
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                continue
            buffers = {}
            named = [with_buffers(each, buffers) for each in drawn]
            options = {name: with_buffers(each, buffers) for name, each in row.draw_options(sample).items()}

            def operation(model, x, named=named, index=index, options=options):
                operands = from_buffers(named, model)
                operands[index] = x
                output = row.ours(*operands, **{name: from_buffers(each, model) for name, each in options.items()})
                return output[0] if isinstance(output, (tuple, list)) else output

            model = Model(operation, **buffers)
            inputs = [value, value * 0.9, value + 0.25, 4 * normal(*value.shape, dtype=value.dtype), value]
            try:
                for x in inputs:
                    run(model, minires.Tensor(x))
            except (RuntimeError, ValueError, IndexError):  # only some inputs make sense
                inputs = [value] * 5
            never_wrong(model, [minires.Tensor(x) for x in inputs])
