"""Descent: yields progress, keeps the best iterate, obeys its budget, repeats by its seed."""

import io
import itertools
import math
from dataclasses import fields

import pytest
import torch
from rings import accuracy
from torch._subclasses import FakeTensorMode

import keelnet as kn
from keelnet.data.samples import InMemory
from keelnet.learning import (
    LBFGS,
    SGD,
    Adam,
    Budget,
    Constant,
    Cosine,
    Objective,
    State,
    Steps,
    Training,
    descend,
)
from keelnet.learning.validation import predicted, scored
from keelnet.networks.network import blocks_of


def blobs(seed=0):
    """Two classes around (±1, 0)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(64) % 2
    x = 0.3 * torch.randn(64, 2, generator=generator)
    x[:, 0] += 2.0 * labels - 1
    return InMemory((x[:48], labels[:48]), (x[48:], labels[48:]), ("left", "right"))


def training(epochs=5, method=None, **changes):
    return Training(method or Adam(1e-2), Budget(epochs), 16, "accuracy", **changes)


def network(seed=0):
    return kn.architectures.hamiltonian(2, 2, width=4, depth=4, seed=seed)


def run(model, settings, samples=None, seed=0, scoring=accuracy, **changes):
    generator = torch.Generator().manual_seed(seed)
    samples = samples or blobs()
    validate = scored(samples, scoring, settings.batch_size)
    return descend(model, Objective(), samples, settings, validate, generator, **changes)


@pytest.mark.parametrize("method", [Adam(3e-2), SGD(1e-1), SGD(1e-1, momentum=0.0)])
def test_training_learns(method):
    steps = list(run(network(), training(20, method)))
    assert steps[-1].terms["loss"] < 0.5 * steps[0].terms["loss"]
    assert max(step.scores["accuracy"] for step in steps) >= 0.95


def test_progress_counts_epochs_and_spends_the_budget():
    steps = list(run(network(), training(4)))
    assert [step.epoch for step in steps] == [1, 2, 3, 4]
    assert [step.spent for step in steps] == [0.25, 0.5, 0.75, 1.0]


def test_the_best_iterate_is_put_back():
    values = iter([0.1, 0.9, 0.3, 0.2])
    model, kept = network(), []
    for step in run(model, training(4), scoring=lambda *_: {"accuracy": next(values)}):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        assert step.best == (step.epoch <= 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[1][name])
    assert not torch.equal(kept[1]["classifier.linear.weight"], kept[3]["classifier.linear.weight"])


def test_a_consumer_that_stops_gets_the_best_so_far():
    model = network()
    steps = run(model, training(10))
    next(steps)
    trained = model.classifier.linear.weight.clone()
    steps.close()
    assert torch.equal(model.classifier.linear.weight, trained)


def test_the_generator_decides_everything():
    losses = [
        [step.terms["loss"] for step in run(network(), training(), seed=s)] for s in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_seconds_end_training_within_a_batch():
    ticks = itertools.count()
    clock = lambda: float(next(ticks))  # noqa: E731
    settings = Training(Adam(), Budget(seconds=10.0), 16, "accuracy")
    steps = list(run(network(), settings, clock=clock))
    assert 10 <= next(ticks) < 20
    assert len(steps) < 5


def test_the_rate_warms_up_and_then_falls_to_zero():
    settings = training(warmup=0.2)
    factors = [settings.rate_factor(spent / 100) for spent in range(101)]
    assert factors.index(max(factors)) == 20 and max(factors) == 1.0
    assert factors[:21] == sorted(factors[:21]) and factors[20:] == sorted(factors[20:])[::-1]
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_frozen_parameters_stay():
    model = network()
    model.opening.weight.requires_grad_(False)
    before = model.opening.weight.clone()
    list(run(model, training(2)))
    assert torch.equal(model.opening.weight, before)


def test_a_non_finite_objective_ends_with_the_best_iterate():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"objective became nan in epoch 1, batch 1; use a smaller"
    ):
        list(
            descend(
                model,
                Objective(loss=lambda logits, labels: logits.sum() * math.nan),
                blobs(),
                training(),
                scored(blobs(), accuracy, 16),
                torch.Generator(),
            )
        )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(), "epochs or seconds"),
        (lambda: Budget(epochs=0), "epochs"),
        (lambda: Budget(epochs=2.5), "epochs"),
        (lambda: Budget(seconds=0.0), "seconds"),
        (lambda: Adam(rate=0.0), "rate"),
        (lambda: SGD(rate=float("nan")), "rate"),
        (lambda: training(warmup=1.0), "warmup"),
        (lambda: Adam(decay=-1.0), "decay"),
        (lambda: SGD(momentum=1.0), "momentum"),
        (lambda: SGD(decay=float("nan")), "decay"),
        (lambda: training(clip=0.0), "clip"),
        (lambda: next(run(network(), training(), scoring=lambda *_: {"dice": 1.0})), "goal"),
        (lambda: next(run(torch.nn.Identity(), training())), "no parameters"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_batch_larger_than_the_set_is_refused():
    settings = Training(Adam(), Budget(1), 1000, "accuracy")
    with pytest.raises(ValueError, match="batch_size"):
        next(run(network(), settings))


def test_prediction_does_not_depend_on_the_batch_size():
    model, x = network(), torch.randn(10, 2)
    torch.testing.assert_close(predicted(model, x, 3), predicted(model, x, 10))


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_an_average_of_the_weights_is_what_is_validated_and_kept(decay):
    """Against the same average taken by hand, step by step, along a run that keeps none."""
    parts = (blobs().training, blobs().validation)
    samples = InMemory(*((x.double(), labels) for x, labels in parts), ("left", "right"))

    def run_of(model, average):
        """The weights that each step begins with, those after the last one, and those that were validated."""
        passed, seen = [], []

        def loss(logits, labels):
            passed.append(copied(model))
            return torch.nn.functional.cross_entropy(logits, labels)

        def validate(net):
            seen.append(copied(net))
            return {"accuracy": float(len(seen))}  # the last is the best

        settings = training(3, SGD(1e-1), average=average)
        generator = torch.Generator().manual_seed(0)
        list(descend(model, Objective(loss), samples, settings, validate, generator))
        return [*passed, copied(model)], seen

    model = network().double()
    (first, *later), _ = run_of(network().double(), None)
    _, seen = run_of(model, decay)
    assert (len(later), len(seen)) == (9, 3)
    mean, means = first, []
    for weights in later:
        mean = {name: decay * mean[name] + (1 - decay) * weights[name] for name in mean}
        means.append(mean)
    close = {"rtol": 1e-12, "atol": 1e-14}
    for found, wanted in zip(seen, means[2::3], strict=True):
        torch.testing.assert_close(found, wanted, **close)
    torch.testing.assert_close(copied(model), means[-1], **close)


def test_a_descent_with_an_average_goes_on_where_it_was():
    settings = training(4, average=0.9)
    whole = network()
    list(run(whole, settings))
    for step in run(network(), settings):
        if step.epoch == 2:
            file = io.BytesIO()
            torch.save({each.name: getattr(step.state, each.name) for each in fields(State)}, file)
            break
    file.seek(0)
    cut = State(**torch.load(file, weights_only=True))
    again = network(seed=5)
    assert [step.epoch for step in run(again, settings, state=cut)] == [3, 4]
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


def whole_batch(epochs=5, **changes):
    changes = {"warmup": 0.0, "clip": None, "schedule": Constant(), **changes}
    return Training(LBFGS(iterations=8), Budget(epochs), 48, "accuracy", **changes)


def test_lbfgs_learns_and_never_rises_on_the_whole_batch():
    losses = [step.terms["loss"] for step in run(network(), whole_batch(6))]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("wall", [math.inf, math.nan, None], ids=["inf", "nan", "refused"])
def test_a_trial_of_lbfgs_without_a_finite_objective_is_a_shorter_step(wall):
    met = []

    def loss(logits, labels):
        beyond = bool(logits.detach().abs().max() > 3)
        met.append(beyond)
        if beyond and wall is None:
            raise ValueError("the state is not finite")
        value = torch.nn.functional.cross_entropy(logits, labels)
        return value + wall if beyond else value

    training, validation = ((x.double(), labels) for x, labels in (blobs().training, blobs().validation))  # fmt: skip
    samples, model = InMemory(training, validation, ("left", "right")), network().double()
    validate = scored(samples, accuracy, 48)
    steps = descend(model, Objective(loss), samples, whole_batch(6), validate, torch.Generator())
    losses = [step.terms["loss"] for step in steps]
    assert any(met) and not met[0]
    # At the wall nothing is gained: there the samples' order rounds.
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.1 * losses[0]
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("settings", "remedy"), [(training(), "--set rate=…"), (whole_batch(), "--set gain=…")]
)
def test_what_to_change_is_what_the_method_reads(settings, remedy):
    samples = blobs()
    lost = Objective(lambda logits, labels: math.nan * logits.sum())
    validate = scored(samples, accuracy, 48)
    with pytest.raises(ValueError, match=f"became nan in epoch 1, batch 1; use .*{remedy}"):
        next(descend(network(), lost, samples, settings, validate, torch.Generator()))


def test_lbfgs_goes_on_to_the_same_bits():
    whole = network()
    list(run(whole, whole_batch(4)))
    for step in run(network(), whole_batch(4)):
        if step.epoch == 2:
            file = io.BytesIO()
            torch.save({each.name: getattr(step.state, each.name) for each in fields(State)}, file)
            break
    file.seek(0)
    cut = State(**torch.load(file, weights_only=True))
    again = network(seed=5)
    assert [step.epoch for step in run(again, whole_batch(4), state=cut)] == [3, 4]
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


@pytest.mark.parametrize("method", [Adam(1e-1), SGD(1.0)])
def test_a_bound_holds_the_controls_alone(method):
    model = network()
    for _ in run(model, training(4, method, bound=0.3)):
        (block,) = [stage for stage in model.stages if isinstance(stage, kn.Block)]
        largest = max(float(value.detach().abs().max()) for value in block.parameters())
        assert largest <= 0.3 * (1 + 1e-6)
    assert largest > 0.29  # the bound was met
    free = network()
    list(run(free, training(4, method)))
    assert max(float(value.detach().abs().max()) for value in free.stages.parameters()) > 0.3
    assert float(model.classifier.linear.weight.detach().abs().max()) > 0.3


@pytest.mark.parametrize("schedule", [Cosine(), Constant(), Steps((0.3, 0.6), 0.5)], ids=repr)
def test_schedules_begin_at_1_and_never_rise(schedule):
    factors = [schedule.factor(spent / 100) for spent in range(101)]
    assert factors[0] == 1 and factors == sorted(factors, reverse=True) and factors[-1] >= 0
    settings = training(schedule=schedule, warmup=0.2)
    assert settings.rate_factor(0.2) == 1 and settings.rate_factor(0.1) == 0.5


def test_steps_fall_where_they_are_told():
    schedule = Steps((0.3, 0.6), 0.5)
    assert [schedule.factor(spent) for spent in (0.29, 0.3, 0.6, 1.0)] == [1, 0.5, 0.25, 0.25]


def test_the_rate_follows_the_schedule():
    rates = [step.rate for step in run(network(), training(4, warmup=0.0, schedule=Steps((0.5,))))]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_rate_moves_within_an_epoch(epochs):
    settings = training(epochs, warmup=0.0)
    steps = list(run(network(), settings))
    last = [(number + 2 / 3) / epochs for number in range(epochs)]  # of three batches of an epoch
    assert [step.rate for step in steps] == pytest.approx(
        [1e-2 * settings.rate_factor(spent) for spent in last]
    )


def test_an_empty_validation_is_refused():
    empty = blobs()
    object.__setattr__(empty, "validation", (torch.zeros(0, 2), torch.zeros(0).long()))
    with pytest.raises(ValueError, match="validation set is empty"):
        scored(empty, accuracy, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LBFGS(rate=0.0), "rate"),
        (lambda: LBFGS(iterations=0), "iterations"),
        (lambda: LBFGS(history=0), "history"),
        (lambda: whole_batch(clip=1.0), "LBFGS searches along a line"),
        (lambda: whole_batch(bound=1.0), "bound=None, got clip=None, bound=1.0"),
        (lambda: training(bound=-1.0), "bound"),
        (lambda: Steps((0.5, 0.3)), "rising shares"),
        (lambda: Steps(()), "rising shares"),
        (lambda: Steps(drop=1.0), "drop"),
    ],
)
def test_bad_methods_and_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def falling():
    """Scores of which the first is the best."""
    values = itertools.chain([0.9], itertools.repeat(0.1))
    return lambda *_: {"accuracy": next(values)}


@pytest.mark.parametrize("ending", ["closed", "finished"])
def test_the_state_of_the_last_epoch_outlives_the_best_iterate(ending):
    whole = [
        step.terms
        for step in run(network(), training(4, warmup=0.0, schedule=Constant()), scoring=falling())
    ]
    model = network()
    steps = run(
        model,
        training(2 if ending == "finished" else 4, warmup=0.0, schedule=Constant()),
        scoring=falling(),
    )
    for step in steps:
        if ending == "closed" and step.epoch == 2:
            break
    del steps
    later = run(
        model, training(4, warmup=0.0, schedule=Constant()), scoring=falling(), state=step.state
    )
    assert [each.terms for each in later] == whole[2:]


@pytest.mark.parametrize("method", [Adam(1e-2), SGD(1e-1), LBFGS()], ids=repr)
def test_a_state_can_be_gone_on_from_twice(method):
    chosen = training(4, method, clip=None)
    steps = run(network(), chosen)
    next(steps)
    state = next(steps).state
    steps.close()
    once, again = ([step.terms for step in run(network(), chosen, state=state)] for _ in range(2))
    assert once == again and len(once) == 2


@pytest.mark.parametrize("stale", [100.0, math.nan])
def test_the_gradient_of_a_frozen_parameter_is_not_clipped_with_the_others(stale):
    results = []
    for gradient in (None, stale):
        model = network()
        frozen = next(model.parameters()).requires_grad_(False)
        frozen.grad = None if gradient is None else torch.full_like(frozen, gradient)
        list(run(model, training(1, clip=1.0)))
        results.append(torch.cat([value.detach().flatten() for value in model.parameters()]))
    assert torch.equal(*results)


def test_frozen_controls_are_left_where_they_are_beyond_a_bound():
    model = network()
    (block,) = blocks_of(model)
    with torch.no_grad():
        for value in block.control.parameters():
            value.mul_(10).requires_grad_(False)
    before = [value.clone() for value in block.control.parameters()]
    list(run(model, training(1, bound=0.5)))
    assert all(map(torch.equal, before, block.control.parameters()))
    assert max(float(value.abs().max()) for value in before) > 0.5


def test_a_goal_that_is_never_a_number_is_told():
    with pytest.warns(RuntimeWarning, match="no epoch gave a number for 'accuracy'"):
        list(run(network(), training(2), scoring=lambda *_: {"accuracy": math.nan}))


def test_an_average_counts_what_is_counted():
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )
    *_, last = run(model, training(2, average=0.9))
    assert int(last.state.averaged["1.num_batches_tracked"]) == 6


def test_labels_out_of_range_are_named_for_token_networks():
    tokens = torch.arange(8).repeat(2)[:, None]
    pair = (tokens, tokens[:, 0])
    samples = InMemory(pair, pair, tuple("abcdefgh"))
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1, got 0\.\.7"):
        list(run(model, training(1), samples))


def test_rates_of_a_methods_own_groups_keep_their_proportions():
    class Two(SGD):
        def optimiser(self, parameters):
            groups = [
                {"params": parameters[:1], "lr": 1e-2},
                {"params": parameters[1:], "lr": 1e-4},
            ]
            return torch.optim.SGD(groups, lr=1e-2)

    settings = training(2, Two(1e-2), warmup=0.0, schedule=Constant())
    *_, last = run(network(), settings)
    assert [group["lr"] for group in last.state.optimiser["param_groups"]] == [1e-2, 1e-4]


def test_a_bound_of_controls_that_are_made_of_others_is_refused():
    class Skew(torch.nn.Module):
        def forward(self, x):
            return x - x.mT

    model = network()
    (block,) = blocks_of(model)
    torch.nn.utils.parametrize.register_parametrization(block.control, "weight", Skew())
    with pytest.raises(ValueError, match="wanted as parameters.*bound=None"):
        list(run(model, training(1, bound=0.1)))


def test_a_bound_of_complex_controls_is_refused():
    model = network()
    (block,) = blocks_of(model)
    block.control.weight = torch.nn.Parameter(block.control.weight.to(torch.complex64))
    with pytest.raises(ValueError, match="one is complex; use bound=None"):
        next(run(model, training(1, bound=0.1)))


def normed():
    """A network with a norm that keeps statistics, and dropout."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 4),
        torch.nn.BatchNorm1d(4),
        torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.BatchNorm1d(4)),
        torch.nn.Linear(4, 2),
    )


def modes(model):
    return [part.training for part in model.modules()]


def counted(model):
    """How often each norm has moved its statistics."""
    return [int(model[1].num_batches_tracked), int(model[2][1].num_batches_tracked)]


def test_a_part_that_is_kept_in_evaluation_mode_stays_in_it():
    """Whatever validation and the consumer of progress make of the modes meanwhile."""
    model = normed()
    model[1].eval()
    model[2].training = False  # not what it holds
    before = modes(model)

    def validate(network):
        network.eval()
        return {"accuracy": 1.0}

    generator = torch.Generator().manual_seed(0)
    steps = descend(model, Objective(), blobs(), training(3), validate, generator)
    for step in steps:
        assert counted(model) == [0, 3 * step.epoch]
        model.train(step.epoch == 1)
    again = normed()
    for part, mode in zip(again.modules(), before, strict=True):
        part.training = mode
    list(run(again, training(2)))
    assert modes(again) == before


class Frozen(torch.nn.Sequential):
    """One that keeps its first norm in evaluation mode itself, as backbones are frozen."""

    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


@pytest.mark.parametrize("begun", [True, False])
def test_what_a_network_s_own_train_keeps_in_evaluation_mode_stays_in_it(begun):
    model = Frozen(*normed())
    if begun:  # else its train() has never run
        model.train()
    assert [counted(model) for _ in run(model, training(2))] == [[0, 3], [0, 6]]
    predicted(model, torch.zeros(2, 2), 2)
    assert not model[1].training and model[2].training


def test_a_network_that_is_given_in_evaluation_mode_trains_in_training_mode():
    model = normed().eval()
    assert [counted(model) for _ in run(model, training(2))] == [[3, 3], [6, 6]]
    assert all(modes(model))


@pytest.mark.parametrize("given", [*itertools.product([False, True], repeat=3)])
def test_a_prediction_leaves_every_part_in_its_mode(given):
    model = normed()
    for part, mode in zip((model, model[1], model[2][0]), given, strict=True):
        part.training = mode
    before = modes(model)
    x = torch.randn(6, 2)
    once, again = predicted(model, x, 4), predicted(model, x, 6)
    torch.testing.assert_close(once, again)
    assert modes(model) == before and counted(model) == [0, 0]


def test_withheld_samples_are_judged_on_the_cpu_wherever_they_lie():
    """Tensors that are of another device in name alone: theirs may not be here."""
    found = []

    def score(logits, labels):
        found.extend([logits.device.type, labels.device.type])
        return {}

    with FakeTensorMode():
        x, labels = torch.zeros(4, 2, device="cuda"), torch.zeros(4, dtype=int, device="cuda")
        samples = InMemory.__new__(InMemory)
        object.__setattr__(samples, "validation", (x, labels))
        scored(samples, score, 3, torch.device("cpu"))(torch.nn.Linear(2, 2))
    assert found == ["cpu", "cpu"]


def test_with_an_average_what_was_validated_is_kept_and_training_goes_on_from_other_weights():
    model, seen = network(), []

    def validate(net):
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return {"accuracy": float(len(seen))}

    generator = torch.Generator().manual_seed(0)
    for step in descend(model, Objective(), blobs(), training(2, average=0.5), validate, generator):
        assert step.best
        kept, now = step.state.kept, model.state_dict()
        assert all(torch.equal(value, kept[name]) for name, value in seen[-1].items())
        assert not all(torch.equal(value, now[name]) for name, value in kept.items())
