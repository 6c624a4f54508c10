"""The graph and the backward walk, as programs that PyTorch runs too: leaf rules, gradients, graphs of every shape.

A program whose name begins with "refuse" must be refused by both.
"""

from __future__ import annotations

import copy
import pickle

import pytest
from twin import Programs, check, leaf

program = Programs()


def flags(*tensors):
    return [(t.is_leaf, t.requires_grad, t.grad_fn is None) for t in tensors]


@program
def leaf_rules(lib):
    x, c = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0, requires_grad=False)
    with lib.no_grad():
        n = x * 2
    return flags(x, c, x * c, c * c, n, x.detach(), (x * 2).detach(), x.data, (x * c).requires_grad_())


@program
def requires_grad_switched_on(lib):
    x = leaf(lib, 1.0, requires_grad=False)
    y = x * 2
    x.requires_grad_()
    z = x * y
    z.backward()
    return flags(x, y, z), x.grad


@program
def requires_grad_switched_off_before_backward(lib):
    x, w = leaf(lib, 2.0), leaf(lib, 3.0)
    y = x * w
    w.requires_grad_(False)
    y.backward()
    return x.grad, w.grad


@program
def refuse_integers_that_require_grad(lib):
    lib.tensor([1, 2], requires_grad=True)


@program
def refuse_to_switch_off_a_computed_tensor(lib):
    (leaf(lib, 1.0) * 2).requires_grad_(False)


@program
def computed_tensor_stays_required(lib):
    return flags((leaf(lib, 1.0) * 2).requires_grad_(True))


@program
def detach_cuts(lib):
    x = leaf(lib, 1.0, 2.0)
    (x * x.detach()).sum().backward()
    return x.grad


@program
def data_can_be_replaced(lib):
    x = leaf(lib, 1.0, 2.0)
    x.data = leaf(lib, 5.0, 6.0, requires_grad=False)
    (x * x).sum().backward()
    return x, x.grad


@program
def refuse_data_of_integers(lib):
    leaf(lib, 1.0).data = lib.tensor([1])


@program
def refuse_data_of_a_number(lib):
    leaf(lib, 1.0).data = 3.0


@program
def grads_accumulate(lib):
    x = leaf(lib, 1.0, 2.0)
    (x * x).sum().backward()
    first = x.grad.clone()
    (x * 3).sum().backward()
    return first, x.grad


@program
def accumulation_is_seen_through_other_names(lib):
    x = leaf(lib, 1.0, 2.0)
    (x * x).sum().backward()
    grad = x.grad
    (x * x).sum().backward()
    return grad, x.grad


@program
def grad_can_be_assigned(lib):
    x = leaf(lib, 1.0, 2.0)
    x.grad = leaf(lib, 10.0, 20.0, requires_grad=False)
    (x * x).sum().backward()
    return x.grad


@program
def refuse_a_grad_of_another_shape(lib):
    leaf(lib, 1.0, 2.0).grad = leaf(lib, 1.0)


@program
def refuse_a_grad_of_another_dtype(lib):
    leaf(lib, 1.0).grad = lib.tensor([1.0], dtype=lib.float32)


@program
def refuse_a_grad_that_is_a_number(lib):
    leaf(lib, 1.0).grad = 1.0


@program
def gradient_given(lib):
    x = leaf(lib, 1.0, 2.0)
    (x * x).backward(leaf(lib, 10.0, 100.0, requires_grad=False))
    return x.grad


@program
def gradient_of_another_dtype_is_converted(lib):
    x = leaf(lib, 1.0, 2.0)
    (x * x).backward(lib.tensor([10.0, 100.0], dtype=lib.float32))
    return x.grad


@program
def refuse_backward_of_many_elements(lib):
    (leaf(lib, 1.0, 2.0) * 2).backward()


@program
def one_element_of_any_shape_needs_no_gradient(lib):
    x = leaf(lib, 3.0)
    (x * x).reshape(1, 1, 1).backward()
    return x.grad


@program
def refuse_gradient_of_another_shape(lib):
    (leaf(lib, 1.0, 2.0) * 2).backward(leaf(lib, 1.0, requires_grad=False))


@program
def refuse_gradient_that_is_a_number(lib):
    (leaf(lib, 1.0) * 2).backward(1.0)


@program
def refuse_backward_without_a_graph(lib):
    leaf(lib, 1.0, requires_grad=False).backward()


@program
def refuse_backward_under_no_grad_result(lib):
    with lib.no_grad():
        y = leaf(lib, 1.0) * 2
    y.backward()


@program
def backward_of_a_leaf(lib):
    x = leaf(lib, 1.0)
    x.backward()
    x.backward()
    return x.grad


@program
def refuse_second_backward(lib):
    x = leaf(lib, 1.0)
    y = (x * x).exp()
    y.backward()
    y.backward()


@program
def second_backward_with_retain_graph(lib):
    x = leaf(lib, 1.0)
    y = (x * x).exp()
    y.backward(retain_graph=True)
    y.backward()
    return x.grad


@program
def second_backward_where_nothing_was_saved(lib):
    x = leaf(lib, 1.0, 2.0)
    y = (x + 1).sum()
    y.backward()
    y.backward()
    return x.grad


@program
def shared_part_needs_retain_graph_only_where_it_saved(lib):
    x = leaf(lib, 1.0, 2.0)
    common = x + 1
    (common * 2).sum().backward()
    (common * 3).sum().backward()
    return x.grad


@program
def backward_of_several(lib):
    x, w = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    lib.autograd.backward([x * w, (x * x).sum(), x], [leaf(lib, 1.0, 10.0, requires_grad=False), None, x.detach()])
    return x.grad, w.grad


@program
def refuse_as_many_gradients_as_outputs_missing(lib):
    x = leaf(lib, 1.0)
    lib.autograd.backward([x * 2, x * 3], [leaf(lib, 1.0, requires_grad=False)])


@program
def backward_into_chosen_leaves(lib):
    x, w = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    (x * w).sum().backward(inputs=[w])
    return x.grad, w.grad


@program
def backward_into_a_computed_tensor(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    (y * y).sum().backward(inputs=[y])
    return x.grad, y.grad


@program
def backward_into_an_unused_leaf(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 3.0)
    (x * x).backward(inputs=[w])
    return x.grad, w.grad


@program
def refuse_backward_into_what_needs_none(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 3.0, requires_grad=False)
    (x * w).backward(inputs=[w])


@program
def refuse_backward_into_nothing(lib):
    leaf(lib, 1.0).backward(inputs=[])


@program
def retain_grad_keeps(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * x
    y.retain_grad()
    y.retain_grad()
    x.retain_grad()
    (y * 3).sum().backward(retain_graph=True)
    once = y.grad.clone()
    (y * 5).sum().backward()
    return once, y.grad, x.grad, y.retains_grad, x.retains_grad


@program
def refuse_retain_grad_where_none_is_computed(lib):
    leaf(lib, 1.0, requires_grad=False).retain_grad()


@program
def grad_leaves_grad_alone(lib):
    x, w = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    return lib.autograd.grad((x * x * w).sum(), (w, x)), x.grad, w.grad


@program
def grad_of_computed_tensors(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * x
    z = (y * x).sum()
    return lib.autograd.grad(z, (y, x, z, y))


@program
def grad_of_itself(lib):
    x = leaf(lib, 1.0)
    y = x * 2
    return lib.autograd.grad((x, y), (x, y))


@program
def grad_with_grad_outputs(lib):
    x = leaf(lib, 1.0, 2.0)
    return lib.autograd.grad(x * x, x, leaf(lib, 1.0, 10.0, requires_grad=False))


@program
def refuse_grad_of_an_unused_input(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 1.0)
    lib.autograd.grad(x * x, (x, w))


@program
def grad_allows_unused(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 1.0)
    return lib.autograd.grad(x * x, (x, w), allow_unused=True)


@program
def grad_materializes(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 1.0, 2.0)
    constant = lib.autograd.grad(x * x, (x, w), materialize_grads=True)
    return constant, lib.autograd.grad(x * x, (x, w), materialize_grads=True, create_graph=True)


@program
def refuse_to_materialize_and_not_allow(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 1.0)
    lib.autograd.grad(x * x, (x, w), allow_unused=False, materialize_grads=True)


@program
def refuse_grad_of_what_needs_none(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 1.0, requires_grad=False)
    lib.autograd.grad(x * w, w)


@program
def refuse_grad_twice(lib):
    x = leaf(lib, 1.0)
    y = x.exp()
    lib.autograd.grad(y, x)
    lib.autograd.grad(y, x)


@program
def third_derivative(lib):
    x = leaf(lib, 0.5, 1.5)
    y = (x**4 * x.exp()).sum()
    orders = [y]
    for _ in range(3):
        (derivative,) = lib.autograd.grad(orders[-1].sum(), x, create_graph=True)
        orders.append(derivative)
    return orders


@program
def second_order_by_two_backwards(lib):
    x, w = leaf(lib, 0.5, 1.5), leaf(lib, 2.0, 3.0)
    (grad,) = lib.autograd.grad((x * x * x * w).sum(), x, create_graph=True)
    (grad * grad).sum().backward()
    return x.grad, w.grad


@program
def create_graph_of_a_linear_map_has_no_second_derivative(lib):
    x = leaf(lib, 1.0, 2.0)
    (grad,) = lib.autograd.grad((x * 3).sum(), x, create_graph=True)
    return grad.requires_grad, lib.autograd.grad((grad * x).sum(), x)


@program
def gradient_of_a_gradient_given(lib):
    x, v = leaf(lib, 1.0, 2.0), leaf(lib, 1.0, 1.0)
    (product,) = lib.autograd.grad(x * x, x, v, create_graph=True)
    return lib.autograd.grad(product.sum(), (x, v))


@program
def backward_with_create_graph_accumulates_in_the_graph(lib):
    x = leaf(lib, 2.0)
    x.grad = leaf(lib, 1.0, requires_grad=False)
    lib.autograd.backward([(x * x * x).sum()], inputs=[x], create_graph=True)
    (second,) = lib.autograd.grad(x.grad.sum(), x)
    return x.grad.detach(), second


@program
def retain_graph_overrides_create_graph(lib):
    x = leaf(lib, 2.0)
    y = x.exp()
    lib.autograd.grad(y, x, create_graph=True, retain_graph=False)
    lib.autograd.grad(y, x)


@program
def diamond(lib):
    x = leaf(lib, 0.5, 1.0)
    a = x * 2
    left, right = a.exp(), a * a
    (left * right + a).sum().backward()
    return x.grad


@program
def ladder_of_diamonds(lib):
    x = leaf(lib, 0.5)
    y = x
    for _ in range(40):  # 2^40 paths: each node must be visited once
        y = y * 0.5 + y * 0.25
    y.backward()
    return x.grad


@program
def same_tensor_as_both_inputs(lib):
    x = leaf(lib, 2.0, 3.0)
    (x * x + x - x / x).sum().backward()
    return x.grad


@program
def late_branch_from_an_early_node(lib):
    x = leaf(lib, 2.0)
    a = x * 3
    b = a * a
    c = b * b
    d = a * c  # a's gradient must wait for everything made after it
    lib.autograd.backward([d, a])
    return x.grad


@program
def nodes_unrelated_to_the_output(lib):
    x = leaf(lib, 2.0)
    y = x * x
    z = x * 5  # noqa: F841 - a node that the walk must not wait for
    y.backward()
    return x.grad


@program
def views_carry_gradients(lib):
    x = leaf(lib, 1.0, 2.0, 3.0, 4.0)
    y = x.reshape(2, 2).permute(1, 0)
    (y[0] * y[1]).sum().backward()
    return x.grad


@program
def optimizer_step(lib):
    w = leaf(lib, 1.0, 2.0)
    for _ in range(3):
        (w * w).sum().backward()
        with lib.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
    return w


@program
def refuse_in_place_on_a_leaf(lib):
    w = leaf(lib, 1.0)
    w -= 0.1


@program
def refuse_in_place_method_on_a_leaf(lib):
    leaf(lib, 1.0).add_(1)


@program
def refuse_numpy_of_what_requires_grad(lib):
    leaf(lib, 1.0).numpy()


@program
def augmented_assignment_is_recorded(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 1
    y += x * x
    y *= x
    y.sum().backward()
    return y, x.grad


@program
def augmented_assignment_with_a_recorded_operand(lib):
    x, total = leaf(lib, 1.0, 2.0), leaf(lib, 0.0, 0.0, requires_grad=False)
    total += x * x
    total.sum().backward()
    return total, x.grad


@program
def backward_passes_in_hooks_of_backward_passes(lib):
    x = leaf(lib, 1.0)

    def nest(depth):
        with lib.enable_grad():
            y = x * 2
            if depth:
                y.register_hook(lambda gradient: nest(depth - 1))
            y.sum().backward()

    nest(1000)
    return x.grad


@program
def deepcopy_of_a_leaf(lib):
    x = leaf(lib, 1.0, 2.0)
    (x * x).sum().backward()
    y = copy.deepcopy({"a": x, "b": x})
    y["a"].grad.zero_()
    return y["a"], y["a"] is y["b"], x.grad


@program
def refuse_deepcopy_of_a_computed_tensor(lib):
    copy.deepcopy(leaf(lib, 1.0) * 2)


@program
def pickle_keeps_requires_grad(lib):
    x = leaf(lib, 1.0, 2.0)
    (x * x).sum().backward()
    return [(t, t.is_leaf, t.grad is None) for t in pickle.loads(pickle.dumps([x, x.detach(), x * 2, x.reshape(2, 1)]))]


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_same_program_same_result_as_pytorch(run):
    check(run)
