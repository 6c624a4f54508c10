"""What the losses say when used wrongly, and how they warn; their values are in the table of ops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from minires.autograd import Tensor
from minires.ops.cross_entropy import cross_entropy
from minires.ops.regression_losses import l1_loss, mse_loss, smooth_l1_loss


def test_names_the_target_that_is_out_of_range():
    with pytest.raises(IndexError, match=r"target 7 is out of range for 3 classes"):
        cross_entropy(Tensor(np.zeros((4, 3))), Tensor(np.array([0, 1, 7, 2])))


def test_says_which_shape_the_target_should_have():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\) needs target classes of shape \(2, 4, 5\), got \(2, 4\)"):
        cross_entropy(Tensor(np.zeros((2, 3, 4, 5))), Tensor(np.zeros((2, 4), np.int64)))


def test_all_targets_ignored_make_nan_but_no_gradient():
    logits = Tensor(np.ones((2, 3)), requires_grad=True)
    loss = cross_entropy(logits, Tensor(np.array([-100, -100])))
    loss.backward()
    assert np.isnan(loss.item())
    np.testing.assert_array_equal(logits.grad.numpy(), np.zeros((2, 3)))


def test_label_smoothing_is_a_part():
    with pytest.raises(RuntimeError, match=r"-0\.1"):
        cross_entropy(Tensor(np.zeros((2, 3))), Tensor(np.array([0, 1])), label_smoothing=-0.1)


def test_one_class_in_an_array_will_do_for_an_input_without_batch():
    logits = np.array([0.5, -1.0, 2.0])
    ours = cross_entropy(Tensor(logits), Tensor(np.array([1])))
    theirs = TF.cross_entropy(torch.from_numpy(logits), torch.tensor([1]))
    assert ours.shape == theirs.shape == ()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_smooth_l1_without_a_smooth_part_is_l1():
    a, b = Tensor(np.array([1.0, 2.0, 3.0])), Tensor(np.array([0.5, 2.0, 7.0]))
    assert smooth_l1_loss(a, b, beta=0).item() == l1_loss(a, b).item() == 1.5


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_large_logits_do_not_overflow(scale: float):
    array = np.array([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.9]]) * scale
    logits = Tensor(array.astype(np.float32), requires_grad=True)
    theirs = torch.tensor(array, dtype=torch.float32, requires_grad=True)
    loss = cross_entropy(logits, Tensor(np.array([1, 1])))
    their_loss = TF.cross_entropy(theirs, torch.tensor([1, 1]))
    loss.backward()
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)


def test_a_logit_of_minus_infinity_excludes_its_class():
    logits = Tensor(np.array([[0.0, 0.0, -np.inf]]), requires_grad=True)
    loss = cross_entropy(logits, Tensor(np.array([0])))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    np.testing.assert_allclose(logits.grad.numpy(), [[-0.5, 0.5, 0.0]])


@pytest.mark.parametrize(("ours", "theirs"), [(mse_loss, TF.mse_loss), (l1_loss, TF.l1_loss)])
def test_shapes_that_differ_are_broadcast_with_a_warning(ours, theirs):
    a, b = np.arange(3.0), np.arange(6.0).reshape(2, 3) ** 2
    with pytest.warns(UserWarning, match="different"):
        expected = theirs(torch.from_numpy(a), torch.from_numpy(b))
    with pytest.warns(UserWarning, match=r"\(2, 3\)"):
        assert ours(Tensor(a), Tensor(b)).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("loss", [mse_loss, l1_loss, smooth_l1_loss])
@pytest.mark.filterwarnings("ignore")
def test_shapes_that_do_not_broadcast_are_refused(loss):
    with pytest.raises(RuntimeError, match=r"\(3,\).*\(2,\)"):
        loss(Tensor(np.zeros(3)), Tensor(np.zeros(2)))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.array([0, 1]), r"target must be a Tensor, got ndarray: pass minires.from_numpy\(array\)"),
        ([0, 1], r"target must be a Tensor, got list: pass minires.tensor\(...\) of it"),
        (1, r"target must be a Tensor, got int: pass minires.tensor\(...\) of it"),
        (torch.tensor([0, 1]), r"target must be a Tensor, got torch.Tensor: pass minires.from_numpy"),
        (None, "target must be a Tensor, got NoneType"),
        ("ab", "target must be a Tensor, got str"),
    ],
)
def test_a_target_that_is_no_tensor_is_refused_as_pytorch_refuses(target, message):
    logits = Tensor(np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match=f"^cross_entropy: {message}"):
        cross_entropy(logits, target)
    with pytest.raises(TypeError, match=f"^cross_entropy: {message}"):
        cross_entropy(logits, target=target)
    if not isinstance(target, torch.Tensor):
        with pytest.raises(TypeError):
            TF.cross_entropy(torch.zeros(2, 3), target)


def test_weights_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match=r"^cross_entropy: weight must be a Tensor, got list"):
        cross_entropy(Tensor(np.zeros((2, 3), np.float32)), Tensor(np.array([0, 1])), weight=[1.0, 2.0, 3.0])


def test_the_warning_about_shapes_points_to_the_call():
    with pytest.warns(UserWarning, match="is broadcast") as caught:
        mse_loss(Tensor(np.zeros((2, 3))), Tensor(np.zeros(3)))
    assert caught[0].filename == __file__
