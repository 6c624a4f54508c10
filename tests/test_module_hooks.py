"""Hooks on modules: order, replacement, removal, and what lives as long as they do."""

from __future__ import annotations

import gc
import weakref
from collections import namedtuple

import pytest
from twin import Programs, check, data, fill, small_net

import minires
from minires import nn

program = Programs()


@program
def forward_hooks_replace_in_order(lib):
    linear, order = fill(lib, lib.nn.Linear(2, 2)), []
    linear.register_forward_pre_hook(lambda m, inputs: order.append((m is linear, len(inputs))))
    linear.register_forward_pre_hook(lambda m, inputs: inputs[0] * 2)
    linear.register_forward_pre_hook(lambda m, inputs: (inputs[0] + 1,))
    linear.register_forward_hook(lambda m, inputs, output: output * 10)
    linear.register_forward_hook(lambda m, inputs, output: order.append((inputs, output)))
    return linear(data(lib, 3, 2)), order


@program
def forward_hooks_do_not_see_keyword_arguments(lib):
    class Net(lib.nn.Module):
        def forward(self, x, *, scale):
            return x * scale

    net, seen = Net(), []
    net.register_forward_pre_hook(lambda m, inputs: seen.append(len(inputs)))
    net.register_forward_hook(lambda m, inputs, output: seen.append(len(inputs)))
    net.register_full_backward_hook(lambda m, grad_input, grad_output: seen.append((grad_input, grad_output)))
    x = data(lib, 2, requires_grad=True)
    net(x, scale=data(lib, 2, seed=3, requires_grad=True)).sum().backward()
    return seen, x.grad


@program
def module_hooks_are_removed(lib):
    linear, seen = fill(lib, lib.nn.Linear(2, 2)), []
    handles = [
        linear.register_forward_pre_hook(lambda m, i: seen.append("pre")),
        linear.register_forward_hook(lambda m, i, o: seen.append("forward")),
        linear.register_full_backward_hook(lambda m, i, o: seen.append("backward")),
    ]
    x = data(lib, 1, 2, requires_grad=True)
    linear(x).sum().backward()
    for handle in handles:
        handle.remove()
    linear(x).sum().backward()
    return seen


@program
def backward_hooks_see_both_ends(lib):
    net, seen = small_net(lib), []
    for name, module in net.named_modules():
        module.register_full_backward_hook(lambda m, i, o, name=name: seen.append((name, i, o)))
    x = data(lib, 5, 3, requires_grad=True)
    (net(x) ** 2).sum().backward()
    return seen, x.grad, [p.grad for p in net.parameters()]


@program
def backward_hooks_without_inputs_that_need_gradients(lib):
    net, seen = small_net(lib), []
    net.register_full_backward_hook(lambda m, i, o: seen.append((i, o)))
    net.last.register_full_backward_hook(lambda m, i, o: seen.append((i, o)))
    (net(data(lib, 5, 3)) ** 2).sum().backward()
    return seen, [p.grad for p in net.parameters()]


@program
def backward_hooks_replace_gradients_of_inputs(lib):
    linear = fill(lib, lib.nn.Linear(2, 2))
    linear.register_full_backward_hook(lambda m, i, o: (i[0] * 10,))
    linear.register_full_backward_hook(lambda m, i, o: (i[0] + 1,))
    x = data(lib, 3, 2, requires_grad=True)
    linear(x).sum().backward()
    return x.grad, linear.weight.grad


@program
def backward_hooks_of_many_inputs_and_outputs(lib):
    class Net(lib.nn.Module):
        def forward(self, x, number, y):
            return x * number, y * x, number, y * 2

    net, seen = Net(), []
    net.register_full_backward_hook(lambda m, i, o: seen.append((i, o)))
    x, y = data(lib, 2, requires_grad=True), data(lib, 2, seed=4, requires_grad=True)
    a, b, *_ = net(x, 3, y)
    (a * 2 + b).sum().backward()
    return seen, x.grad, y.grad


@program
def backward_hooks_on_a_module_in_a_hooked_module(lib):
    net, seen = small_net(lib), []
    net.register_full_backward_hook(lambda m, i, o: (i[0] * 2,))
    net.first.register_full_backward_hook(lambda m, i, o: (i[0] + 1,))
    x = data(lib, 5, 3, requires_grad=True)
    net(x).sum().backward()
    return seen, x.grad


@program
def backward_hooks_under_no_grad(lib):
    linear, seen = fill(lib, lib.nn.Linear(2, 2)), []
    linear.register_full_backward_hook(lambda m, i, o: seen.append((i, o)))
    with lib.no_grad():
        y = linear(data(lib, 3, 2, requires_grad=True))
    return seen, y


@program
def backward_hooks_keep_second_derivatives(lib):
    linear, seen = fill(lib, lib.nn.Linear(2, 2)), []
    linear.register_full_backward_hook(lambda m, i, o: seen.append((i[0].detach(), o[0].detach())))
    x = data(lib, 3, 2, requires_grad=True)
    (grad,) = lib.autograd.grad((linear(x) ** 3).sum(), x, create_graph=True)
    (grad**2).sum().backward()
    return x.grad, linear.weight.grad


@program
def backward_hooks_run_in_each_backward(lib):
    linear, seen = fill(lib, lib.nn.Linear(2, 2)), []
    linear.register_full_backward_hook(lambda m, i, o: seen.append((i, o)))
    loss = linear(data(lib, 3, 2, requires_grad=True)).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return seen


@program
def backward_hooks_of_a_module_used_twice(lib):
    linear, seen = fill(lib, lib.nn.Linear(2, 2)), []
    linear.register_full_backward_hook(lambda m, i, o: seen.append((i, o)))
    x = data(lib, 3, 2, requires_grad=True)
    linear(linear(x)).sum().backward()
    return seen


@program
def refuse_backward_hook_with_too_many_gradients(lib):
    linear = fill(lib, lib.nn.Linear(2, 2))
    linear.register_full_backward_hook(lambda m, i, o: (i[0], i[0]))
    linear(data(lib, 3, 2, requires_grad=True)).sum().backward()


@program
def refuse_backward_hook_that_invents_gradients(lib):
    linear = fill(lib, lib.nn.Linear(2, 2))
    linear.register_full_backward_hook(lambda m, i, o: (lib.ones(3, 2),))
    linear(data(lib, 3, 2)).sum().backward()


def test_backward_hook_keeps_the_kind_of_a_named_tuple():
    Pair = namedtuple("Pair", "left right")

    class Net(nn.Module):
        def forward(self, x):
            return Pair(x * 2, x * 3)

    net, seen = Net(), []
    net.register_full_backward_hook(lambda m, i, o: seen.append(len(o)))
    output = net(minires.ones(2, requires_grad=True))
    assert isinstance(output, Pair)
    output.right.sum().backward()
    assert seen == [2]


def test_input_that_needs_no_gradient_still_needs_none_inside_a_hooked_module():
    needs = []

    class Net(nn.Module):
        def forward(self, x, y):
            needs.append((x.requires_grad, y.requires_grad))
            return x * y

    net, seen = Net(), []
    net.register_full_backward_hook(lambda m, i, o: seen.append([g is None for g in i]))
    net(minires.ones(2, requires_grad=True), minires.ones(2)).sum().backward()
    assert needs == [(True, False)]
    assert seen == [[False, True]]  # PyTorch gives zeros in place of None here


@pytest.mark.parametrize("create_graph", [False, True])
def test_hooked_module_leaves_no_cycle(create_graph):
    gc.collect()
    gc.disable()
    try:
        linear = nn.Linear(2, 2)
        linear.register_full_backward_hook(lambda m, i, o: None)
        x = minires.ones(1, 2, requires_grad=True)
        y = linear(x)
        node, activation = weakref.ref(y.grad_fn), weakref.ref(y.array)
        gradient = minires.autograd.grad((y * y).sum(), x, create_graph=create_graph)
        del y, gradient
        assert node() is None
        assert activation() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_same_program_same_result_as_pytorch(run):
    check(run)
