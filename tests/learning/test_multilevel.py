"""Laws of multilevel training: the same θ(t) on more layers, one stream of progress, exact continuation."""

import io
from dataclasses import fields
from functools import partial

import pytest
import torch
from rings import network, rings, trained

import keelnet as kn
from keelnet.learning import (
    Adam,
    Budget,
    GaussNewton,
    Objective,
    State,
    Training,
    gauss_newton,
    multilevel,
)
from keelnet.learning.multilevel import refine
from keelnet.networks.network import blocks_of

OBJECTIVE = Objective(smoothness=1e-3, classifier_tikhonov=1e-3)
SIZE = len(rings().training[0])
LEVELS = [Training(Adam(1e-2), Budget(epochs), 9, "accuracy") for epochs in (3, 2, 2)]


def depth_of(net):
    return blocks_of(net)[0].depth


def test_refinement_keeps_the_controls_the_regulariser_and_nearly_the_features():
    x, _ = rings().training
    changes = []
    for depth in (8, 16, 32):
        net = network(depth=depth, knots=4)
        before = net(x).detach()
        smoothness = Objective(smoothness=1.0).regularisers(net)["smoothness"]
        refine(net)
        assert depth_of(net) == 2 * depth
        torch.testing.assert_close(
            Objective(smoothness=1.0).regularisers(net)["smoothness"], smoothness
        )
        changes.append(float((net(x).detach() - before).norm()))
    assert changes[1] < 0.7 * changes[0] and changes[2] < 0.7 * changes[1]


def test_levels_are_one_stream_on_growing_depth():
    net = network()
    steps = list(trained(multilevel, net, OBJECTIVE, LEVELS))
    assert [step.epoch for step in steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [step.details["level"] for step in steps] == [0, 0, 0, 1, 1, 2, 2]
    assert [step.details["depth"] for step in steps] == [4, 4, 4, 8, 8, 16, 16]
    assert [step.spent for step in steps] == sorted(step.spent for step in steps)
    assert steps[-1].spent == 1.0 and depth_of(net) == 16
    assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)
    assert all(steps[first].best for first in (0, 3, 5))


def test_a_level_begins_with_the_best_iterate_of_the_one_before():
    values = iter([0.1, 0.9, 0.3] + [0.5] * 9)
    net, kept = network(), {}
    steps = trained(
        multilevel, net, OBJECTIVE, LEVELS, validate=lambda _: {"accuracy": next(values)}
    )
    for step in steps:
        if step.epoch == 2:
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        if step.epoch == 3:
            break
    steps.close()
    for name, value in net.state_dict().items():
        assert torch.equal(value, kept[name])


def test_any_trainer_can_be_the_one_of_the_levels():
    settings = [GaussNewton(Budget(3), SIZE, "accuracy")] * 2
    by_curvature = partial(multilevel, trainer=gauss_newton)
    steps = list(trained(by_curvature, network(), OBJECTIVE, settings))
    totals = [sum(step.terms.values()) for step in steps]
    assert totals[-1] < 0.7 * totals[0] and "products" in steps[-1].details


def test_parts_in_evaluation_mode_stay_in_it_at_every_level():
    """Whatever is looked at in between."""
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2).double(), network())
    net[0].eval()
    for _ in trained(multilevel, net, OBJECTIVE, LEVELS):
        net.eval()
    assert depth_of(net) == 16 and int(net[0].num_batches_tracked) == 0


@pytest.mark.parametrize("cut", [2, 3, 4, 6])
def test_a_run_that_was_cut_at_any_level_goes_on_to_the_same_bits(cut):
    whole = network()
    list(trained(multilevel, whole, OBJECTIVE, LEVELS))
    for step in trained(multilevel, network(), OBJECTIVE, LEVELS):
        if step.epoch == cut:
            file = io.BytesIO()
            torch.save({each.name: getattr(step.state, each.name) for each in fields(State)}, file)
            break
    file.seek(0)
    state = State(**torch.load(file, weights_only=True))
    again = network(seed=5)
    rest = trained(multilevel, again, OBJECTIVE, LEVELS, state=state)
    assert [step.epoch for step in rest] == list(range(cut + 1, 8))
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


def shared_twice():
    """A block that stands in two places, and another one that shares its control."""
    field = kn.HamiltonianField(kn.DenseKernel(2), "tanh")
    block = kn.Block(kn.Verlet(), field, 3, 1.0)
    other = kn.Block(kn.Verlet(), field, 4, 2.0, block.control)
    return torch.nn.Sequential(block, block, torch.nn.Sequential(other)).double()


def test_refinement_keeps_shared_blocks_and_controls_shared():
    net = shared_twice()
    net[0].checked = False
    refine(net)
    assert net[0] is net[1] and net[0].control is net[2][0].control
    assert [block.depth for block in (net[0], net[1], net[2][0])] == [6, 6, 8]
    assert not net[0].checked


def test_parameters_that_stand_in_several_places_stay_shared():
    branch, empty = torch.nn.Linear(2, 2), kn.Control({}, knots=2)
    blocks = [kn.Block(kn.Euler(), kn.ModuleField(branch), 2, control=empty) for _ in range(2)]
    net = torch.nn.Sequential(branch, *blocks)
    refine(net)
    assert net[0].weight is net[1].module.weight is net[2].module.weight
    assert [net[1].depth, net[2].depth] == [4, 4]


def test_a_block_within_the_field_of_another_is_not_refined():
    inner = kn.Block(kn.Euler(), kn.ModuleField(torch.nn.Linear(2, 2)), 3)
    branch = torch.nn.Sequential(inner, torch.nn.Linear(2, 2))
    net = torch.nn.Sequential(kn.Block(kn.Euler(), kn.ModuleField(branch), 2))
    refine(net)
    assert depth_of(net) == 4 and net[0].module[0].depth == 3
    assert net(torch.randn(5, 2)).shape == (5, 2)


def test_a_branch_that_keeps_tensors_of_the_graph_is_refined():
    class Remembering(torch.nn.Linear):
        def forward(self, y):
            self.last = torch.tanh(super().forward(y))
            return self.last

    block = kn.Block(kn.Euler(), kn.ModuleField(Remembering(2, 2)), 4)
    net, x = torch.nn.Sequential(block), torch.randn(5, 2)
    net(x)
    refine(net)
    assert depth_of(net) == 8 and net(x).shape == x.shape


def test_a_block_by_itself_cannot_be_refined():
    block = shared_twice()[0]
    with pytest.raises(ValueError, match=r"use block\.refined"):
        refine(block)
    with pytest.raises(ValueError, match=r"use block\.refined"):
        next(trained(multilevel, block, OBJECTIVE, LEVELS))


@pytest.mark.parametrize("ran", [True, False])
def test_a_network_that_hooks_its_own_block_hears_the_finer_one(ran):
    class Recording(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = shared_twice()[0]
            self.block.register_forward_hook(self.keep)
            self.seen = None

        def keep(self, part, inputs, output):
            self.seen = output

        def forward(self, x):
            return self.block(x)

    net, x = Recording(), torch.randn(3, 2, dtype=torch.float64)
    if ran:
        net(x)
    refine(net)
    assert net.block.depth == 6
    y = net(x)
    assert net.seen is y


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one for each level"):
        next(trained(multilevel, network(), OBJECTIVE, []))
    with pytest.raises(ValueError, match="no block to refine"):
        next(trained(multilevel, torch.nn.Linear(2, 2).double(), Objective(), LEVELS))
    step = next(
        trained(gauss_newton, network(), OBJECTIVE, GaussNewton(Budget(1), SIZE, "accuracy"))
    )
    with pytest.raises(ValueError, match="not that of a multilevel training"):
        next(trained(multilevel, network(), OBJECTIVE, LEVELS, state=step.state))
