"""Laws of the classifier's convex problem: solved to its tolerance, the same as any other solver's minimum."""

import pytest
import torch
from problems import randn

from keelnet.learning import (
    ClassifierNewton,
    CrossEntropy,
    Dice,
    LeastSquares,
    Objective,
    fit_classifier,
)
from keelnet.learning.classifier import ClassifierProblem
from keelnet.networks import Classifier, SpatialClassifier

CASES = {
    "image": (lambda: Classifier(3, 4), ()),
    "image with space": (lambda: Classifier(3, 4), (5, 2)),
    "pixel": (lambda: Classifier(3, 4, "pixel"), (4, 3)),
    "spatial": (lambda: SpatialClassifier(3, (4, 3), 4), (4, 3)),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EVERY_LOSS = pytest.mark.parametrize("loss", [CrossEntropy(), LeastSquares()], ids=repr)


def drawn(case, count=30):
    make, space = case
    classifier = make().double()
    y = randn(count, 3, *space, seed=1)
    per_pixel = isinstance(classifier, Classifier) and classifier.per == "pixel"
    labels = torch.arange(count * (12 if per_pixel else 1)).mul(7) % 4
    return classifier, y, labels.reshape(count, *space) if per_pixel else labels


def objective_of(loss, classifier, tikhonov=1e-2):
    smoothness = 1e-3 if isinstance(classifier, SpatialClassifier) else 0.0
    return Objective(loss, classifier_tikhonov=tikhonov, classifier_smoothness=smoothness)


def total(objective, classifier, y, labels):
    terms = objective.terms(classifier, classifier(y), labels)
    return torch.stack([*terms.values()]).sum()


@EVERY_LOSS
@EVERY_CASE
def test_the_gradient_of_the_objective_is_0_where_it_is_solved(case, loss):
    classifier, y, labels = drawn(case)
    objective = objective_of(loss, classifier)
    begin = float(total(objective, classifier, y, labels).detach())
    fit = fit_classifier(classifier, objective, y, labels, ClassifierNewton(1e-9))
    value = total(objective, classifier, y, labels)
    gradients = torch.autograd.grad(value, [*classifier.parameters()])
    assert fit.solved and fit.gradient <= 1e-9
    assert torch.cat([each.flatten() for each in gradients]).norm() <= 1e-8
    assert float(value.detach()) < begin


@EVERY_LOSS
@EVERY_CASE
def test_hessian_products_are_the_derivative_of_the_gradient(case, loss):
    classifier, y, labels = drawn(case)
    problem = ClassifierProblem(classifier, objective_of(loss, classifier), y, labels)
    w, v = randn(problem.rows.shape[1], 4, seed=2), randn(problem.rows.shape[1], 4, seed=3)
    difference = (problem.gradient(w + 1e-6 * v) - problem.gradient(w - 1e-6 * v)) / 2e-6
    product = problem.product(problem.rows @ w, v)
    torch.testing.assert_close(product, difference, rtol=1e-6, atol=1e-8)
    solve = problem.preconditioner(problem.rows @ w)
    other = randn(*w.shape, seed=4)
    torch.testing.assert_close((other * solve(v)).sum(), (v * solve(other)).sum())
    assert (v * solve(v)).sum() > 0


def test_the_least_squares_classifier_is_that_of_the_normal_equations():
    classifier, y, labels = drawn(CASES["image"])
    objective = Objective(LeastSquares(), classifier_tikhonov=0.1)
    fit_classifier(classifier, objective, y, labels)
    rows = torch.cat([y, torch.ones(len(y), 1, dtype=y.dtype)], 1)
    ridge = 0.1 * torch.diag(torch.tensor([1.0, 1, 1, 0], dtype=y.dtype))
    targets = torch.nn.functional.one_hot(labels, 4).double()
    best = torch.linalg.solve(rows.T @ rows / len(y) + ridge, rows.T @ targets / len(y))
    torch.testing.assert_close(classifier.linear.weight.detach(), best[:-1])
    torch.testing.assert_close(classifier.linear.bias.detach(), best[-1])


def test_the_minimum_does_not_depend_on_the_start():
    found = []
    for seed in (1, 2):
        classifier = Classifier(3, 4, generator=torch.Generator().manual_seed(seed)).double()
        _, y, labels = drawn(CASES["image"])
        fit_classifier(classifier, Objective(classifier_tikhonov=1e-3), y, labels)
        found.append(classifier(y).detach().log_softmax(1))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_single_precision_parameters_get_the_solution_rounded():
    classifier, y, labels = drawn(CASES["image"])
    objective = Objective(classifier_tikhonov=1e-2)
    fit_classifier(classifier, objective, y, labels)
    single, _, _ = drawn(CASES["image"])
    fit_classifier(single.float(), objective, y.float(), labels)
    torch.testing.assert_close(
        single.linear.weight.double(), classifier.linear.weight, atol=1e-5, rtol=1e-4
    )


def test_without_tikhonov_only_systems_that_are_not_singular_are_solved():
    classifier, y, labels = drawn(CASES["image"], 60)
    assert fit_classifier(
        classifier, Objective(), y, labels
    ).solved  # labels that cannot be separated
    y[:, 2] = y[:, 0] - 2 * y[:, 1]
    with pytest.raises(
        ValueError, match=r"singular: .* 3 features and the shift span 3 directions"
    ):
        fit_classifier(classifier, Objective(), y, labels)
    assert fit_classifier(classifier, Objective(classifier_tikhonov=1e-6), y, labels).solved


def test_samples_that_can_be_separated_have_no_minimum():
    classifier, y, _ = drawn(CASES["image"])
    labels = (y[:, 0] > 0).long()
    fit = fit_classifier(classifier, Objective(), y, labels, ClassifierNewton(1e-12, 10))
    assert not fit.solved and fit.iterations <= 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, y, l: (c, y, l * 0 + 2), "every label is 2"),  # noqa: E741
        (lambda c, y, l: (c, y, l + 1), r"labels must lie in 0\.\.3, got 1\.\.4"),  # noqa: E741
        (lambda c, y, l: (c, y * float("nan"), l), "NaN or inf"),  # noqa: E741
        (lambda c, y, l: (c, y, l.double()), "integer labels.* use gauss_newton"),  # noqa: E741
    ],
)
def test_bad_input_is_refused_and_nothing_moves(change, message):
    classifier, y, labels = change(*drawn(CASES["image"]))
    before = classifier.linear.weight.clone()
    with pytest.raises(ValueError, match=message):
        fit_classifier(classifier, Objective(classifier_tikhonov=1e-2), y, labels)
    assert torch.equal(classifier.linear.weight, before)


def test_losses_and_terms_that_do_not_fit_are_refused():
    classifier, y, labels = drawn(CASES["image"])
    with pytest.raises(ValueError, match="convex"):
        fit_classifier(classifier, Objective(Dice()), y, labels)
    with pytest.raises(ValueError, match="classifier_smoothness needs a weight that is an image"):
        fit_classifier(classifier, Objective(classifier_smoothness=1.0), y, labels)
    for name, value in (("tolerance", 0.0), ("iterations", 0), ("products", 0)):
        with pytest.raises(ValueError, match=name):
            ClassifierNewton(**{name: value})
