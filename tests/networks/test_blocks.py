"""Blocks: refinement keeps θ(t), and what cannot work is refused in the constructor."""

import threading
from itertools import pairwise

import pytest
import torch
from torch import nn

import keelnet as kn

FIELD = kn.HamiltonianField(kn.DenseKernel(3))


def test_a_block_is_propagation_under_its_control():
    block = kn.Block(kn.Verlet(), FIELD, depth=5, final_time=2.0)
    y0 = torch.randn(4, 3)
    expected = kn.propagate(kn.Verlet(), FIELD, y0, block.control.at_layers(5), step_size=0.4)
    torch.testing.assert_close(block(y0), expected)


def test_refining_converges_to_the_same_flow():
    block = kn.Block(kn.Verlet("half"), FIELD, depth=8, final_time=2.0).double()
    with torch.no_grad():  # smooth in time, so that the order shows
        times = torch.linspace(0, 1, 9, dtype=torch.float64)[:-1, None, None]
        block.control.get_parameter("weight").mul_(torch.cos(times))
    y0 = torch.randn(4, 3, dtype=torch.float64)
    outputs = []
    for _ in range(6):
        outputs.append(block(y0))
        block = block.refined()
    gaps = [float((a - b).detach().norm()) for a, b in pairwise(outputs)]
    assert all(later < 0.6 * before for before, later in pairwise(gaps))


def test_a_refined_block_keeps_dtype_method_and_time():
    block = kn.Block(kn.Verlet(), FIELD, 3, 2.0, strategy=kn.reversible).double()
    finer = block.refined(3)
    assert (finer.depth, finer.final_time, finer.strategy) == (9, 2.0, kn.reversible)
    assert finer.control.get_parameter("weight").dtype == torch.float64


def test_fewer_knots_than_layers_share_parameters():
    control = kn.Control.random(FIELD, knots=3)
    block = kn.Block(kn.Verlet(), FIELD, depth=30, control=control, strategy=kn.reversible)
    block(torch.randn(4, 3)).sum().backward()
    assert control.get_parameter("weight").grad.shape == (3, 3, 3)


def test_advice_on_damping_comes_once():
    field = kn.AntisymmetricField(kn.DenseKernel(3), damping=0.0)
    block = kn.Block(kn.Euler(), field, depth=10)
    with pytest.warns(kn.StabilityWarning, match="would do"):
        block(torch.randn(4, 3))
    block(torch.randn(4, 3))  # a second warning would be an error here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be an integer of at least 1, got 0"),
        ({"depth": 2.5}, "depth"),
        ({"depth": 3, "final_time": 0.0}, "final_time"),
        ({"depth": 3, "final_time": float("nan")}, "final_time"),
        ({"depth": 3, "integrator": kn.Leapfrog()}, "one part"),
        ({"depth": 3, "integrator": kn.Euler(), "strategy": kn.reversible}, "checkpointed"),
    ],
)
def test_what_cannot_work_is_refused_in_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        kn.Block(**{"integrator": kn.Verlet(), "field": FIELD} | arguments)


def test_a_control_of_another_field_is_refused():
    other = kn.Control.random(kn.HamiltonianField(kn.DenseKernel(4)), knots=3)
    block = kn.Block(kn.Verlet(), FIELD, depth=3, control=other)
    with pytest.raises(ValueError, match="weight must have shape"):
        block(torch.randn(4, 3))


def shared_weight():
    """A block whose control holds the bias alone."""
    branch = nn.Linear(3, 3)
    control = kn.Control({"bias": torch.randn(4, 3)})
    return branch, kn.Block(kn.Euler(), kn.ModuleField(branch), 4, control=control)


def test_what_the_control_does_not_hold_is_shared_trained_and_saved():
    branch, block = shared_weight()
    _, other = shared_weight()
    assert dict(block.named_parameters()).keys() == {"control.bias", "module.weight"}
    assert block.module.weight is branch.weight  # the module's own, tied to it
    y = torch.randn(2, 3)
    block(y).sum().backward()
    assert bool(branch.weight.grad.any())
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(y), block(y))
    assert block.refined()(y).shape == y.shape
    assert block.refined().module.weight is not branch.weight


def tied(whole):
    branch = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    if whole:
        branch[2] = branch[0]
    else:
        branch[2].weight = branch[0].weight
    return branch


@pytest.mark.parametrize("whole", [True, False], ids=["layer", "weight"])
def test_what_is_tied_inside_a_branch_stays_tied(whole):
    branch = tied(whole)
    block = kn.Block(kn.Euler(), kn.ModuleField(branch), 1)
    with torch.no_grad():
        for value in (*block.parameters(), *branch.parameters()):
            value.add_(0.5)
    y = torch.randn(2, 3)
    torch.testing.assert_close(block(y), y + branch(y))
    torch.testing.assert_close(block.double()(y.double()), (y + branch(y)).double())


def test_a_block_of_a_module_saves_nothing_twice():
    block = kn.Block(kn.Euler(), kn.ModuleField(nn.Linear(3, 3)), 4)
    assert block.state_dict().keys() == {"control.weight", "control.bias"}
    assert dict(block.named_parameters()).keys() == {"control.weight", "control.bias"}


def test_learned_damping_is_a_parameter_of_the_block():
    def block():
        damping = nn.Parameter(3 + torch.rand(()))
        return kn.Block(kn.Euler(), kn.AntisymmetricField(kn.DenseKernel(3), damping=damping), 4)

    one, other, y = block(), block(), torch.randn(2, 3)
    one(y).sum().backward()
    assert dict(one.named_parameters())["damping"].grad is not None
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(y), one(y))
    replaced = torch.func.functional_call(one, {"damping": torch.tensor(0.0)}, (y,))
    assert not torch.allclose(replaced, one(y))
    one.refined().double()(y.double())


def test_a_refined_block_has_the_damping_that_was_loaded():
    damping = nn.Parameter(torch.tensor(0.5))
    block = kn.Block(kn.Euler(), kn.AntisymmetricField(kn.DenseKernel(3), damping=damping), 4)
    loaded = {**block.state_dict(), "damping": torch.tensor(7.0)}
    block.load_state_dict(loaded, assign=True)
    finer = block.refined()
    assert finer.damping.item() == finer.field.damping.item() == 7
    assert finer.damping is not block.damping
    assert block.refined(tied=True).damping is block.damping


def test_every_part_of_a_refined_block_keeps_its_mode():
    branch = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5).eval())
    finer = kn.Block(kn.Euler(), kn.ModuleField(branch), 2).refined()
    y = torch.randn(2, 3)
    assert finer.training and finer.module[0].training
    assert torch.equal(finer(y), finer(y))


def test_another_field_takes_the_place_of_the_one_before_and_of_what_it_held():
    block = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(3), nn.RReLU()), 4)
    y = torch.randn(2, 3)
    block.field = kn.SingleField(kn.DenseKernel(3), "tanh")
    expected = kn.Block(kn.Euler(), block.field, 4, control=block.control)
    assert torch.equal(block(y), expected(y)) and [*block._modules] == ["control"]
    with pytest.raises(ValueError, match="one part"):
        kn.Block(kn.Verlet(), FIELD, 3).field = block.field


def test_a_field_that_cannot_be_taken_leaves_the_block_as_it_was():
    block = kn.Block(kn.Euler(), kn.ModuleField(nn.Linear(3, 3)), 2)
    y, branch = torch.randn(2, 3), nn.Linear(3, 3)
    expected = block(y)
    branch.lock = threading.Lock()
    with pytest.raises(ValueError, match="a copy of Linear"):
        block.field = kn.ModuleField(branch)
    assert torch.equal(block(y), expected)


def test_a_block_that_was_pickled_before_it_held_its_module_is_read():
    branch, y = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), torch.randn(2, 3)
    block = kn.Block(kn.Euler(), kn.ModuleField(branch), 2)
    state, field = block.__getstate__(), kn.ModuleField.__new__(kn.ModuleField)
    field.__setstate__({"module": branch, "channels": None, "axis": 1})
    del state["_field"]
    state["_modules"] = {"control": block.control}
    again = kn.Block.__new__(kn.Block)
    again.__setstate__({**state, "field": field})
    assert torch.equal(again.eval()(y), block.eval()(y))
    assert dict(again.named_parameters()).keys() == dict(block.named_parameters()).keys()


@pytest.mark.parametrize(
    "make",
    [
        lambda f: kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(3), f), 4),
        lambda f: kn.Block(kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(3), f), 4),
        lambda f: kn.Affine(3, 3, activation=f),
    ],
)
def test_activations_that_draw_random_numbers_heed_the_mode(make):
    network, y = make(nn.RReLU()), torch.randn(2, 3)
    assert not torch.equal(network(y), network(y))
    network.eval()
    assert torch.equal(network(y), network(y))


class Gained(kn.SingleField):
    """A field that holds a parameter of its own, in an attribute of its own name."""

    def __init__(self, name="gain"):
        super().__init__(kn.DenseKernel(2), "tanh")
        object.__setattr__(self, "_own", torch.nn.Parameter(torch.tensor(2.0)))
        object.__setattr__(self, "_name", name)

    def held(self):
        return {self._name: self._own}

    def rate(self, y, theta):
        return self._own * super().rate(y, theta)


def test_what_a_field_of_a_users_own_holds_is_that_of_now():
    block, y = kn.Block(kn.Euler(), Gained(), 3), torch.randn(4, 2)
    before = block(y)
    other = block.state_dict() | {"gain": torch.tensor(0.0)}
    torch.testing.assert_close(torch.func.functional_call(block, other, (y,)), y)
    block.load_state_dict(other, assign=True)
    assert torch.equal(block(y), y) and not torch.equal(before, y)


def test_a_field_that_holds_something_by_a_name_of_the_blocks_is_refused():
    with pytest.raises(ValueError, match="holds 'control', which a Block calls something else"):
        kn.Block(kn.Euler(), Gained("control"), 3)
