"""Hooks on Tensors: order, replacement, removal, and what they may return."""

from __future__ import annotations

import gc
import weakref

import pytest
from twin import Programs, check, leaf

import minires

program = Programs()


@program
def hook_on_a_leaf_sees_the_whole_gradient_once(lib):
    x, seen = leaf(lib, 1.0, 2.0), []
    x.register_hook(seen.append)
    (x * x + x * 3).sum().backward()
    return seen, x.grad


@program
def hook_on_a_computed_tensor_sees_the_sum(lib):
    x, seen = leaf(lib, 1.0, 2.0), []
    y = x * 2
    y.register_hook(seen.append)
    (y * y + y).sum().backward()
    return seen, x.grad


@program
def hooks_run_in_order_and_replace(lib):
    x, order = leaf(lib, 1.0, 2.0), []
    y = x * 2

    def hook(name, result):
        def call(grad):
            order.append((name, grad))
            return result(grad)

        return call

    y.register_hook(hook("a", lambda grad: grad * 10))
    y.register_hook(hook("b", lambda grad: None))
    y.register_hook(hook("c", lambda grad: grad + 1))
    x.register_hook(hook("leaf", lambda grad: -grad))
    y.sum().backward()
    return order, x.grad


@program
def retained_grad_is_the_one_after_all_hooks(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.register_hook(lambda grad: grad * 10)
    y.retain_grad()
    y.register_hook(lambda grad: grad + 1)
    y.sum().backward()
    return y.grad, x.grad


@program
def hook_runs_under_autograd_grad(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    x.register_hook(lambda grad: grad * 3)
    y.register_hook(lambda grad: grad * 5)
    z = (y * y).sum()
    # One at a time: asked for both at once, PyTorch gives y's gradient as it was before the hook.
    return [lib.autograd.grad(z, t, retain_graph=True) for t in (x, y)]


@program
def hook_on_the_output_itself(lib):
    x = leaf(lib, 3.0)
    y = x * x
    y.register_hook(lambda grad: grad * 7)
    y.backward()
    return x.grad


@program
def removed_hook_is_silent(lib):
    x, seen = leaf(lib, 1.0), []
    handle = x.register_hook(seen.append)
    other = x.register_hook(lambda grad: grad * 2)
    x.sum().backward()
    handle.remove()
    handle.remove()
    x.sum().backward()
    other.remove()
    x.sum().backward()
    return len(seen), x.grad


@program
def handle_in_a_with_block(lib):
    x, seen = leaf(lib, 1.0), []
    with x.register_hook(seen.append):
        x.sum().backward()
    x.sum().backward()
    return len(seen)


@program
def hook_that_removes_itself_and_another(lib):
    x, order, handles = leaf(lib, 1.0), [], []

    def first(grad):
        order.append("first")
        for handle in handles:
            handle.remove()

    handles.append(x.register_hook(first))
    handles.append(x.register_hook(lambda grad: order.append("second")))
    x.sum().backward()
    x.sum().backward()
    return order


@program
def hook_outlives_its_tensor(lib):
    x, seen = leaf(lib, 1.0), []
    y = x * 2
    y.register_hook(seen.append)
    z = y * 3
    del y
    z.backward()
    return seen


@program
def hook_of_an_output_that_gets_no_gradient(lib):
    x, seen = leaf(lib, 1.0, 2.0), []
    y = x * 2
    y.register_hook(seen.append)
    (x * 3).sum().backward()
    return seen


@program
def hook_under_create_graph_records(lib):
    x = leaf(lib, 2.0)
    y = x * x
    y.register_hook(lambda grad: grad * x)
    (first,) = lib.autograd.grad(y, x, create_graph=True)
    return first, lib.autograd.grad(first, x)


@program
def hook_without_create_graph_records_nothing(lib):
    x, seen = leaf(lib, 2.0), []
    y = x * x
    y.register_hook(lambda grad: seen.append((grad * x).requires_grad))
    y.backward()
    return seen


@program
def post_accumulate_hooks_see_grad(lib):
    x, seen = leaf(lib, 1.0, 2.0), []
    x.register_post_accumulate_grad_hook(lambda t: seen.append((t is x, t.grad.clone())))
    (x * x).sum().backward()
    (x * 3).sum().backward()
    lib.autograd.grad((x * x).sum(), x)
    return seen


@program
def optimizer_inside_backward(lib):
    x = leaf(lib, 1.0, 2.0)

    def step(t):
        t -= 0.1 * t.grad
        t.grad = None

    handle = x.register_post_accumulate_grad_hook(step)
    (x * x).sum().backward()
    handle.remove()
    return x, x.grad


@program
def post_accumulate_hook_runs_as_soon_as_the_leaf_is_complete(lib):
    early, late, order = leaf(lib, 1.0), leaf(lib, 1.0), []
    early.register_post_accumulate_grad_hook(lambda t: order.append("early"))
    late.register_post_accumulate_grad_hook(lambda t: order.append("late"))
    hidden = early * 2
    hidden.register_hook(lambda grad: order.append("hidden"))
    (hidden * late).backward()
    return order


@program
def refuse_hook_on_a_constant(lib):
    leaf(lib, 1.0, requires_grad=False).register_hook(print)


@program
def refuse_post_accumulate_hook_on_a_computed_tensor(lib):
    (leaf(lib, 1.0) * 2).register_post_accumulate_grad_hook(print)


@program
def refuse_hook_that_returns_a_number(lib):
    x = leaf(lib, 1.0)
    x.register_hook(lambda grad: 1.0)
    x.backward()


@program
def refuse_hook_that_returns_another_shape(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    y.register_hook(lambda grad: grad.sum())
    y.sum().backward()


@program
def refuse_hook_that_returns_another_dtype(lib):
    x = leaf(lib, 1.0, 2.0)
    x.register_hook(lambda grad: grad.to(lib.float32))
    (x * 2).sum().backward()


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_same_program_same_result_as_pytorch(run):
    check(run)


def test_bad_hook_is_told_where_it_hangs():
    x = minires.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: grad.sum())
    with pytest.raises(RuntimeError, match=r"hook on Mul must return .* shape \(2,\) .* got shape \(\)"):
        y.sum().backward()


def test_handle_does_not_keep_the_graph_alive():
    x = minires.ones(2, requires_grad=True)
    y = x * 2
    node = weakref.ref(y.grad_fn)
    handle = y.register_hook(lambda grad: None)
    gc.disable()
    try:
        del y
        assert node() is None
    finally:
        gc.enable()
    handle.remove()
