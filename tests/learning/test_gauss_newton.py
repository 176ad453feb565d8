"""Laws of the second-order solvers: they descend, keep the best iterate, go on exactly, and refuse what cannot work."""

import io
import itertools
import math
import random
import warnings
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from rings import accuracy, network, rings, state_of, trained
from torch.nn import functional

import keelnet as kn
from keelnet.data.samples import Share
from keelnet.learning import (
    Armijo,
    Budget,
    ClassifierNewton,
    CrossEntropy,
    Dice,
    Differences,
    EisenstatWalker,
    Fixed,
    Forward,
    GaussNewton,
    LeastSquares,
    LineSearchWarning,
    Objective,
    State,
    Stored,
    Transposed,
    block_descent,
    gauss_newton,
    varpro,
)
from keelnet.learning.breakdown import is_breakdown
from keelnet.learning.evaluations import Plain, Reduced
from keelnet.learning.processes import Alone
from keelnet.learning.validation import scored

OBJECTIVE = Objective(smoothness=1e-3, tikhonov=1e-4, classifier_tikhonov=1e-3)
SOLVERS = [gauss_newton, block_descent, varpro]
EVERY_SOLVER = pytest.mark.parametrize("solver", SOLVERS, ids=lambda each: each.__name__)
SIZE = len(rings().training[0])


def settings(epochs=4, **changes):
    """The tangent that is fastest on narrow networks; all are tried below."""
    changes.setdefault("tangent", Differences())
    return GaussNewton(Budget(epochs), changes.pop("batch_size", SIZE), "accuracy", **changes)


def totals(steps):
    return [sum(step.terms.values()) for step in steps]


def objective_now(net, objective=OBJECTIVE):
    x, labels = rings().training
    return float(sum(objective.terms(net, net(x), labels).values()).detach())


@pytest.mark.parametrize("loss", [OBJECTIVE.loss, LeastSquares()], ids=repr)
@EVERY_SOLVER
def test_every_whole_batch_step_lowers_the_objective_and_training_learns(solver, loss):
    net, objective = network(), replace(OBJECTIVE, loss=loss)
    begin = objective_now(net, objective)
    values = totals(trained(solver, net, objective, settings(12)))
    assert all(after <= before for before, after in itertools.pairwise([begin, *values]))
    assert values[-1] < 0.3 * begin


@EVERY_SOLVER
def test_progress_tells_terms_by_name_and_what_the_solver_did(solver):
    steps = list(trained(solver, network(), OBJECTIVE, settings(3)))
    assert [step.epoch for step in steps] == [1, 2, 3]
    assert [step.spent for step in steps] == pytest.approx([1 / 3, 2 / 3, 1])
    for step in steps:
        assert [*step.terms] == ["loss", "smoothness", "tikhonov", "classifier_tikhonov"]
        assert {"step", "damping", "products", "gradient", "residual"} <= step.details.keys()
        assert step.rate == step.details["step"] > 0
    steps = trained(solver, net := network(), OBJECTIVE, settings(1))
    assert totals([next(steps)])[0] == pytest.approx(objective_now(net), rel=1e-9)


@EVERY_SOLVER
def test_a_run_that_was_cut_goes_on_to_the_same_bits(solver):
    whole = network()
    list(trained(solver, whole, OBJECTIVE, settings(4, batch_size=9, share=0.5)))
    for step in trained(solver, network(), OBJECTIVE, settings(4, batch_size=9, share=0.5)):
        if step.epoch == 2:
            file = io.BytesIO()
            torch.save({each.name: getattr(step.state, each.name) for each in fields(State)}, file)
            break
    file.seek(0)
    cut = State(**torch.load(file, weights_only=True))
    again = network(seed=5)
    rest = trained(solver, again, OBJECTIVE, settings(4, batch_size=9, share=0.5), state=cut)
    assert [step.epoch for step in rest] == [3, 4]
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


@EVERY_SOLVER
def test_the_best_iterate_is_put_back(solver):
    net, kept, values = network(), [], iter([0.1, 0.9, 0.3])
    steps = trained(
        solver, net, OBJECTIVE, settings(3), validate=lambda _: {"accuracy": next(values)}
    )
    for step in steps:
        kept.append(state_of(net))
        assert step.best == (step.epoch <= 2)
    for name, value in net.state_dict().items():
        assert torch.equal(value, kept[1][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("tangent", [Forward(), Transposed(), Differences(), Stored()], ids=repr)
def test_every_tangent_trains_in_both_precisions(tangent, dtype):
    newton = ClassifierNewton(1e-6)
    steps = trained(
        varpro,
        network(dtype=dtype),
        OBJECTIVE,
        settings(6, tangent=tangent, classifier=newton),
        rings(dtype=dtype),
    )
    values = totals(steps)
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("forcing", [Fixed(0.3), EisenstatWalker(0.5)], ids=repr)
def test_the_system_is_solved_as_exactly_as_asked(forcing):
    """And no more exactly."""
    residuals = []
    for step in trained(gauss_newton, network(), OBJECTIVE, settings(5, forcing=forcing)):
        details = step.details
        assert details["residual"] <= details["tolerance"] or details["products"] == 30
        assert details["tolerance"] <= 0.5
        if isinstance(forcing, Fixed):
            assert details["tolerance"] == forcing.value
        residuals.append(details["residual"] / details["tolerance"])
    assert max(residuals) > 0.1


def test_a_quadratic_problem_is_solved_by_one_exact_step():
    """With the features frozen and a misfit, the objective is quadratic in W and v."""
    net = network()
    for part in (net.opening, net.stages):
        part.requires_grad_(False)
    objective = Objective(LeastSquares(), classifier_tikhonov=1e-2)
    exact = settings(1, damping=0.0, forcing=Fixed(1e-14), iterations=100)
    list(trained(gauss_newton, net, objective, exact))
    value = sum(objective.terms(net, net(rings().training[0]), rings().training[1]).values())
    gradients = torch.autograd.grad(value, [*net.classifier.parameters()])
    assert max(float(each.abs().max()) for each in gradients) < 1e-9


def test_a_search_without_success_is_said_and_keeps_the_best_iterate(monkeypatch):
    monkeypatch.setattr(Armijo, "length", lambda *_: 0.0)
    net = network()
    before = state_of(net)
    with pytest.warns(LineSearchWarning, match=r"no step of 11 lengths lowered .* keeps the best"):
        steps = list(trained(gauss_newton, net, OBJECTIVE, settings(50, patience=3)))
    assert len(steps) == 3 and [step.rate for step in steps] == [0.0] * 3
    damping = [step.details["damping"] for step in steps]
    assert damping[1] == pytest.approx(10 * damping[0])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.warns(LineSearchWarning):
        again = list(trained(gauss_newton, net, OBJECTIVE, settings(50), state=steps[1].state))
    assert [step.epoch for step in again] == [3]
    assert list(trained(gauss_newton, net, OBJECTIVE, settings(50), state=steps[2].state)) == []


def test_it_ends_without_a_warning_where_nothing_more_can_be_gained():
    net = network(depth=2)
    net.opening.requires_grad_(False)  # it has no regulariser, so no minimum
    objective = Objective(smoothness=0.1, tikhonov=0.3, classifier_tikhonov=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LineSearchWarning)
        steps = list(trained(gauss_newton, net, objective, settings(200, forcing=Fixed(1e-3))))
    assert len(steps) < 200 and steps[-1].details["gradient"] < 1e-6


def test_a_system_without_curvature_is_named(monkeypatch):
    monkeypatch.setattr(CrossEntropy, "curvature", lambda self, logits, move: 0 * move)
    with pytest.raises(ValueError, match="no curvature in the parameters"):
        next(trained(gauss_newton, network(), Objective(tikhonov=1e-300), settings(damping=0.0)))


@pytest.mark.parametrize(
    ("solver", "evaluation"), [(gauss_newton, Plain), (varpro, Reduced)], ids=["plain", "reduced"]
)
def test_a_trial_whose_features_overflow_is_no_step(solver, evaluation, monkeypatch):
    """As the first trial, which is the whole step; a shorter one is taken."""
    net = network("residual", activation="relu", depth=8)
    terms, tried = evaluation.terms, []

    def terms_far_out(self, x, labels):
        tried.append(x)
        if len(tried) > 1:
            return terms(self, x, labels)
        here = state_of(net)
        with torch.no_grad():
            net.stages[0].control.weight.fill_(1e60)
        found = terms(self, x, labels)
        net.load_state_dict(here)
        assert found == {}
        return found

    monkeypatch.setattr(evaluation, "terms", terms_far_out)
    (step,) = trained(solver, net, OBJECTIVE, settings(1))
    assert 0 < step.rate < 1
    assert 0 < sum(step.terms.values()) < math.inf


@dataclass(frozen=True)
class Unchecked:
    """Samples as some other source may give them."""

    x: torch.Tensor
    labels: torch.Tensor

    def batches(self, batch_size, generator, share=None):
        order = torch.randperm(len(self.x), generator=generator)
        return ((self.x[i], self.labels[i]) for i in torch.split(order, batch_size))

    @property
    def count(self):
        return len(self.x)


class InOrder(Unchecked):
    """They come as they lie."""

    def batches(self, batch_size, generator, share=None):
        return zip(self.x.split(batch_size), self.labels.split(batch_size), strict=True)


def relabelled(labels):
    return Unchecked(rings().training[0], labels)


def poisoned():
    x, labels = rings().training
    x = x.clone()
    x[3, 1] = math.nan
    return Unchecked(x, labels)


class Pair(Alone):
    share = Share(0, 2)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (relabelled(torch.ones(SIZE, dtype=torch.long)), "every label is 1"),
        (relabelled(torch.arange(SIZE) % 3), r"labels must lie in 0\.\.1, got 0\.\.2"),
        (poisoned(), "holds NaN or inf"),
    ],
)
@pytest.mark.parametrize("batch_size", [SIZE, 5])
@EVERY_SOLVER
def test_samples_that_cannot_be_learned_are_refused_and_nothing_is_lost(
    solver, batch_size, samples, message
):
    net = network()
    before = state_of(net)
    with pytest.raises(ValueError, match=message):
        validate = scored(rings(), accuracy, 64)
        chosen = settings(1, batch_size=batch_size)
        list(trained(solver, net, OBJECTIVE, chosen, samples, validate=validate))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: settings(damping=-1.0), "damping"),
        (lambda: settings(iterations=0), "iterations"),
        (lambda: settings(share=1.5), "share"),
        (lambda: settings(share=0.0), "share"),
        (lambda: settings(patience=0), "patience"),
        (lambda: settings(batch_size=0), "batch_size"),
        (lambda: Objective(smoothness=-1.0), "smoothness"),
        (lambda: next(trained(gauss_newton, network(), Objective(Dice()), settings())), "convex"),
        (
            lambda: next(trained(gauss_newton, network(), OBJECTIVE, settings(batch_size=10**4))),
            "batch_size must lie",
        ),
        (
            lambda: next(trained(varpro, network(), OBJECTIVE, settings(), team=Pair())),
            "one process, not 2",
        ),
        (
            lambda: next(
                trained(varpro, network(), OBJECTIVE, settings(), validate=lambda _: {"dice": 1})
            ),
            "goal 'accuracy' is none of dice",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("solver", [block_descent, varpro], ids=lambda each: each.__name__)
def test_only_a_linear_classifier_can_be_eliminated(solver):
    with pytest.raises(ValueError, match="a Network that ends in a linear classifier"):
        next(trained(solver, torch.nn.Linear(2, 2).double(), OBJECTIVE, settings()))
    net = network()
    net.classifier.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        next(trained(solver, net, OBJECTIVE, settings()))
    wide = kn.architectures.residual(2, 2, width=40, depth=2).double()
    with pytest.raises(ValueError, match="singular") as caught:  # 41 unknowns of each class
        next(trained(solver, wide, Objective(), settings()))
    assert not is_breakdown(caught.value)


@pytest.mark.parametrize("solver", [block_descent, varpro], ids=lambda each: each.__name__)
def test_a_batch_of_one_class_is_named(solver):
    x, labels = rings().training
    odd = Unchecked(x[:9], labels[:9])
    validate = scored(rings(), accuracy, 64)
    with pytest.raises(ValueError, match=r"on these 1 samples.*larger batch_size"):
        list(
            trained(solver, network(), OBJECTIVE, settings(1, batch_size=8), odd, validate=validate)
        )


def test_a_budget_that_ends_within_an_epoch_says_nothing_of_batches_it_did_not_see():
    x, labels = rings().training
    order = labels.argsort()
    clock = iter([0.0] + [100.0] * 50)
    chosen = replace(settings(batch_size=5), budget=Budget(seconds=1.0))
    validate = scored(rings(), accuracy, 64)
    steps = trained(
        gauss_newton,
        network(),
        OBJECTIVE,
        chosen,
        InOrder(x[order], labels[order]),
        validate=validate,
        clock=lambda: next(clock),
    )
    assert len(list(steps)) == 1


@EVERY_SOLVER
def test_a_goal_that_is_never_a_number_is_told(solver):
    net = network()
    with pytest.warns(RuntimeWarning, match="no epoch gave a number"):
        list(
            trained(solver, net, OBJECTIVE, settings(1), validate=lambda _: {"accuracy": math.nan})
        )


@EVERY_SOLVER
def test_the_state_of_the_last_epoch_outlives_the_best_iterate(solver):
    def validate():
        values = itertools.chain([0.9], itertools.repeat(0.1))
        return lambda _: {"accuracy": next(values)}

    whole = totals(trained(solver, network(), OBJECTIVE, settings(4), validate=validate()))
    for step in trained(solver, network(), OBJECTIVE, settings(4), validate=validate()):
        if step.epoch == 2:
            break
    later = trained(
        solver, network(), OBJECTIVE, settings(4), validate=validate(), state=step.state
    )
    assert totals(later) == whole[2:]


class Shaken(torch.nn.Module):
    """Adds a number, or draws it only."""

    def __init__(self, draw, size=1.0):
        super().__init__()
        self.draw, self.size = draw, size

    def forward(self, x):
        return x + self.size * self.draw()


def test_a_draw_that_changes_nothing_is_no_harm():
    net = network()
    net.opening = torch.nn.Sequential(Shaken(np.random.standard_normal, 0.0), net.opening)
    values = totals(trained(gauss_newton, net, OBJECTIVE, settings(2)))
    assert values == totals(trained(gauss_newton, network(), OBJECTIVE, settings(2)))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (torch.nn.Dropout(0.5), "draws random numbers"),
        (torch.nn.BatchNorm1d(2), "moves its statistics"),
        (Shaken(np.random.standard_normal), "draws random numbers"),
        (Shaken(random.random), "draws random numbers"),
        (Shaken(np.random.default_rng(0).standard_normal), "another value each time"),
        (Shaken(itertools.count().__next__), "another value each time"),
    ],
)
@EVERY_SOLVER
def test_parts_that_are_another_map_each_time_are_refused(solver, part, message):
    net = network()
    net.opening = torch.nn.Sequential(part.double(), net.opening)
    with pytest.raises(ValueError, match=message):
        list(trained(solver, net, OBJECTIVE, settings(1)))


def test_targets_of_a_loss_of_ones_own_are_no_classes():
    class Misfit(LeastSquares):
        def __call__(self, logits, labels):
            return (logits[:, 0] - labels).square().sum() / (2 * len(logits))

    x, _ = rings().training
    samples = Unchecked(x, 0.5 * x[:, 0].tanh())
    steps = trained(gauss_newton, network(), Objective(Misfit()), settings(3), samples, validate=scored(rings(), accuracy, 64))  # fmt: skip
    assert totals(steps)[-1] < 0.1
    for solver in (block_descent, varpro):
        with pytest.raises(
            ValueError, match=r"integer labels.* got torch\.float64; use gauss_newton"
        ):
            next(trained(solver, network(), Objective(Misfit()), settings(3), samples, validate=scored(rings(), accuracy, 64)))  # fmt: skip


def test_torchs_cross_entropy_takes_shares_but_no_labels_to_be_ignored():
    """Its curvature would count them; shares that sum to 1 have that of classes."""
    objective, validate = replace(OBJECTIVE, loss=functional.cross_entropy), scored(rings(), accuracy, 64)  # fmt: skip
    labels = rings().training[1]
    shares = relabelled(functional.one_hot(labels).double())
    found = totals(trained(gauss_newton, network(), objective, settings(3), shares, validate=validate))  # fmt: skip
    expected = totals(trained(gauss_newton, network(), OBJECTIVE, settings(3)))
    assert found == pytest.approx(expected, rel=1e-9)
    ignored = relabelled(labels.index_fill(0, torch.tensor([0, 3]), -100))
    with pytest.raises(ValueError, match=r"got -100\.\.1; .* to ignore some"):
        next(trained(gauss_newton, network(), objective, settings(1), ignored, validate=validate))


@EVERY_SOLVER
def test_a_source_without_a_batch_is_named(solver):
    class Dry(Unchecked):
        def batches(self, batch_size, generator, share=None):
            return iter(())

    validate = scored(rings(), accuracy, 64)
    with pytest.raises(ValueError, match="the source gave no batch"):
        list(trained(solver, network(), OBJECTIVE, settings(1), Dry(*rings().training), validate=validate))  # fmt: skip


def modes(net):
    return [part.training for part in net.modules()]


@pytest.mark.parametrize("whole", [False, True])
@EVERY_SOLVER
def test_what_is_switched_off_is_no_harm_and_stays_so(solver, whole):
    """Dropout and a norm in evaluation mode, alone or with the whole network."""
    plain = totals(trained(solver, network(), OBJECTIVE, settings(2)))
    off = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2, eps=0.0, affine=False))
    net = network()
    net.opening = torch.nn.Sequential(off.double().eval(), net.opening)
    net = net.eval() if whole else net
    before, values = modes(net), []
    for step in trained(solver, net, OBJECTIVE, settings(2)):
        values += totals([step])
        assert modes(net) == before
        net.train()  # what a consumer does meanwhile is of no account
    assert values == plain
    assert int(off[1].num_batches_tracked) == 0
