"""Laws of the losses: gradients of gradients, convexity, labels that do not fit."""

import pytest
import torch
from problems import randn
from torch.nn import functional

from keelnet.learning.losses import CrossEntropy, Dice, LeastSquares, require_convex

CONVEX = [CrossEntropy(), LeastSquares()]
EVERY_CONVEX = pytest.mark.parametrize("loss", CONVEX, ids=repr)
EVERY_SPACE = pytest.mark.parametrize("space", [(), (3,), (2, 3)], ids=str)


def case(space=(), classes=4):
    logits = randn(5, classes, *space, seed=1)
    labels = randn(5, *space, seed=2).mul(10).long() % classes
    return logits, labels


@EVERY_SPACE
@EVERY_CONVEX
def test_curvature_is_the_hessian_symmetric_and_positive(loss, space):
    logits, labels = case(space)
    hessian = torch.func.hessian(lambda z: loss(z.reshape(logits.shape), labels))(logits.flatten())
    v = randn(*logits.shape, seed=3)
    product = loss.curvature(logits, v)
    torch.testing.assert_close(product.flatten(), hessian @ v.flatten(), rtol=1e-10, atol=1e-14)
    assert torch.linalg.eigvalsh(hessian).min() > -1e-14
    steepness = float(hessian.diagonal().mean()) * (logits.numel() // logits.shape[1])
    assert loss.steepness(logits) == pytest.approx(steepness)


@EVERY_SPACE
def test_values_are_those_of_torch_and_of_the_definition(space):
    logits, labels = case(space)
    targets = functional.one_hot(labels, 4).movedim(-1, 1).double()
    assert CrossEntropy()(logits, labels) == functional.cross_entropy(logits, labels)
    misfit = 0.5 * (logits - targets).square().sum(1).mean()
    torch.testing.assert_close(LeastSquares()(logits, labels), misfit)
    p = logits.softmax(1)
    axes = [0, *range(2, p.ndim)]
    shares = (2 * (p * targets).sum(axes) + 1e-5) / ((p + targets).sum(axes) + 1e-5)
    torch.testing.assert_close(Dice()(logits, labels), 1 - shares.mean())


def test_dice_of_the_truth_is_0_and_its_gradient_is_that_of_differences():
    logits, labels = case((3,))
    sure = 100 * functional.one_hot(labels, 4).movedim(-1, 1).double()
    assert float(Dice()(sure, labels)) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda z: Dice()(z, labels), logits.requires_grad_())


@pytest.mark.parametrize("loss", [*CONVEX, Dice()], ids=repr)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 4]), r"labels must lie in 0\.\.3, got 0\.\.4"),
        (torch.tensor([0, -1, 1]), r"labels must lie in 0\.\.3, got -1\.\.1"),
        (torch.tensor([0, 1]), "need integer labels"),
        (torch.tensor([0.0, 1.0, 2.0]), "need integer labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(loss, labels, message):
    with pytest.raises(ValueError, match=message):
        loss(randn(3, 4), labels)


def test_gauss_newton_takes_convex_losses_alone():
    assert require_convex(functional.cross_entropy) == CrossEntropy()
    assert require_convex(LeastSquares()) == LeastSquares()
    for loss in (Dice(), functional.mse_loss):
        with pytest.raises(ValueError, match="convex in the logits"):
            require_convex(loss)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
@pytest.mark.parametrize("loss", [*CONVEX, Dice()], ids=repr)
def test_labels_may_be_integers_of_any_width(loss, dtype):
    logits, labels = case((2, 3))
    assert loss(logits, labels.to(dtype)) == loss(logits, labels)
