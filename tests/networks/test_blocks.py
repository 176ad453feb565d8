"""Blocks: refinement keeps θ(t), and what cannot work is refused in the constructor."""

import copy
import threading
import warnings
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

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
        (
            {"depth": 3, "final_time": Fraction(10**400)},
            "final_time must be a finite number above 0",
        ),
        ({"depth": 3, "integrator": kn.Leapfrog()}, "one part"),
        ({"depth": 3, "integrator": kn.Euler(), "strategy": kn.reversible}, "checkpointed"),
        ({"depth": 3, "integrator": kn.Verlet}, r"integrator must be a value like kn\.Verlet\(\)"),
        ({"depth": 3, "integrator": "verlet"}, "got 'verlet'"),
        ({"depth": 3, "field": nn.Linear(3, 3)}, r"got Linear.*by kn\.ModuleField\(module\)"),
        (
            {"depth": 3, "control": {"weight": torch.ones(3, 3, 3)}},
            r"got dict.*kn\.Control\(values\)",
        ),
        ({"depth": 3, "strategy": "reversible"}, "strategy must be .*, got 'reversible'"),
    ],
)
def test_what_cannot_work_is_refused_in_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        kn.Block(**{"integrator": kn.Verlet(), "field": FIELD} | arguments)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.longdouble, np.int64, Fraction, int])
def test_a_final_time_of_any_real_type_is_the_float_that_it_is(kind):
    block = kn.Block(kn.Verlet(), FIELD, 4, kind(2))
    assert type(block.final_time) is float and block.step_size == 0.5
    y0 = torch.randn(4, 3)
    assert torch.equal(block(y0), kn.Block(kn.Verlet(), FIELD, 4, 2.0, block.control)(y0))


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


def test_a_pruned_control_is_that_of_now():
    def block():
        made = kn.Block(kn.Verlet(), FIELD, 3)
        prune.l1_unstructured(made.control, "weight", 0.5)
        return made

    one, other, y = block(), block(), torch.randn(2, 3)
    one(y)
    with torch.no_grad():
        other.control.weight_orig.mul_(3)
    one.load_state_dict(other.state_dict())
    found = one(y)
    assert torch.equal(found, other(y))
    for _ in range(2):  # a weight that were made once could be differentiated once
        one(y).sum().backward()
    x = torch.randn(2, 3)
    stable = kn.analysis.stability(one, x).blocks[0].growth
    for each in (one, other):
        prune.remove(each.control, "weight")
    assert torch.equal(one(y), found)
    assert kn.analysis.stability(one, x).blocks[0].growth == pytest.approx(stable)


def test_the_old_weight_norm_of_a_control_is_that_of_now():
    block, y = kn.Block(kn.Verlet(), FIELD, 3), torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(block.control, "weight")
    before = block(y)
    with torch.no_grad():
        block.control.weight_g.zero_()
    assert not torch.equal(block(y), before)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("damping", ["auto", 0.1])
def test_a_block_passes_vmap_over_its_weights_and_unchecked_export_at_its_first_call(
    damping, checked
):
    def block(checked=checked):
        made = kn.Block(
            kn.Euler(), kn.AntisymmetricField(kn.DenseKernel(3), damping=damping), 3, 0.1
        )
        made.checked = checked
        return made

    blocks, y = [block() for _ in range(3)], torch.randn(5, 3)
    parameters, _ = torch.func.stack_module_state(blocks)
    found = torch.func.vmap(lambda given: torch.func.functional_call(blocks[0], given, (y,)))(
        parameters
    )
    torch.testing.assert_close(found, torch.stack([each(y) for each in blocks]))
    exported = torch.export.export(block(False).eval(), (y,)).module()
    exported.load_state_dict(blocks[1].state_dict())
    torch.testing.assert_close(exported(y), blocks[1](y))


def test_a_checked_block_passes_vmap_and_looks_at_every_place():
    block, y = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(3)), 3), torch.randn(2, 5, 3)
    found = torch.func.vmap(block)(y)
    torch.testing.assert_close(found, torch.stack([block(each) for each in y]))
    y[1, 4, 2] = torch.nan
    other = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(3)), 3)
    with pytest.raises(ValueError, match="y0 must be finite"):
        torch.func.vmap(other)(y)


def learned() -> kn.Block:
    diffusion = kn.DenseDiffusion(nn.Parameter(torch.eye(3)))
    return kn.Block(kn.IMEX(diffusion), kn.SingleField(kn.DenseKernel(3)), 4)


def test_a_learned_diffusion_is_a_parameter_of_the_block():
    block, other, y = learned(), learned(), torch.randn(2, 3)
    assert dict(block.named_parameters()).keys() == {"diffusion", "control.weight", "control.bias"}
    with torch.no_grad():
        block.diffusion.mul_(2)
    block(y).sum().backward()
    assert bool(block.diffusion.grad.any())
    other.load_state_dict(block.state_dict(), assign=True)
    assert torch.equal(other(y), block(y)) and not torch.equal(learned()(y), block(y))
    still = torch.func.functional_call(block, {"diffusion": torch.zeros(3, 3)}, (y,))
    expected = kn.Block(kn.Euler(), block.field, 4, control=block.control)(y)
    torch.testing.assert_close(still, expected)
    assert block.double()(y.double()).dtype == torch.float64
    assert torch.equal(copy.deepcopy(block)(y.double()), block(y.double()))


def test_a_learned_strength_of_diffusion_is_a_parameter_of_the_block():
    def block(strength):
        method = kn.IMEX(kn.LaplacianDiffusion(strength))
        return kn.Block(method, kn.SingleField(kn.ConvKernel(2, 1)), 4).double()

    one, y = block(nn.Parameter(torch.tensor(0.5))), torch.randn(2, 2, 5).double()
    other = block(0.5)
    other.control.load_state_dict(one.control.state_dict())
    torch.testing.assert_close(one(y), other(y))
    one(y).sum().backward()
    assert one.diffusion.dtype == torch.float64 and bool(one.diffusion.grad)
    still = torch.func.functional_call(one, {"diffusion": torch.zeros(()).double()}, (y,))
    torch.testing.assert_close(still, kn.Block(kn.Euler(), one.field, 4, control=one.control)(y))


def test_another_method_or_field_is_looked_at_too():
    block = kn.Block(kn.Verlet(), FIELD, 3)
    with pytest.raises(ValueError, match="integrator must be a value"):
        block.integrator = kn.Verlet
    with pytest.raises(ValueError, match="field must be a value"):
        block.field = nn.Linear(3, 3)


def test_a_refined_block_has_a_learned_diffusion_of_its_own_unless_it_is_tied():
    block = learned()
    assert block.refined().diffusion is not block.diffusion
    assert torch.equal(block.refined().diffusion, block.diffusion)
    assert block.refined(tied=True).diffusion is block.diffusion
    plain = kn.Block(kn.IMEX(kn.DenseDiffusion(torch.eye(3))), block.field, 4)
    assert plain.refined().integrator is plain.integrator
    assert plain.state_dict().keys() == {"control.weight", "control.bias"}


def test_a_block_that_was_pickled_before_it_held_a_diffusion_is_read():
    block, y = learned(), torch.randn(2, 3)
    state = block.__getstate__()
    state["_parameters"] = {}
    again = kn.Block.__new__(kn.Block)
    again.__setstate__(state)
    assert torch.equal(again(y), block(y))
    assert dict(again.named_parameters()).keys() == dict(block.named_parameters()).keys()


def test_another_method_takes_the_place_of_the_one_before_and_of_what_it_held():
    block, y = learned(), torch.randn(2, 3)
    block.integrator = kn.Euler()
    assert torch.equal(block(y), kn.Block(kn.Euler(), block.field, 4, control=block.control)(y))
    assert dict(block.named_parameters()).keys() == {"control.weight", "control.bias"}


class Stretched(kn.Euler, nn.Module):
    """A method that is a module itself."""

    def __init__(self):
        nn.Module.__init__(self)
        self.factor = nn.Parameter(torch.ones(()))

    def step(self, field, state, theta, h, layer):
        return tuple(self.factor * y for y in super().step(field, state, theta, h, layer))


def test_a_method_that_is_a_module_is_registered_by_its_name():
    block, y = kn.Block(Stretched(), kn.SingleField(kn.DenseKernel(3)), 4), torch.randn(2, 3)
    assert "integrator.factor" in block.state_dict()
    block(y).sum().backward()
    assert block.integrator.factor.grad is not None
    assert copy.deepcopy(block).integrator.factor is not block.integrator.factor
    other = kn.Block(kn.RK4(), block.field, 4, control=block.control)
    other.integrator = block.integrator
    assert (
        torch.equal(other(y), block(y)) and other.state_dict().keys() == block.state_dict().keys()
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda f: kn.Block(kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(3), f), 4),
        lambda f: kn.Block(kn.Euler(), kn.AntisymmetricField(kn.DenseKernel(3), f, 1.0), 4),
        lambda f: kn.Affine(3, 3, activation=f),
    ],
)
def test_an_activation_that_is_exchanged_is_the_new_one(make):
    first = nn.ReLU()
    network, y = make(first), torch.randn(2, 3)
    expected = copy.deepcopy(network)
    for part in [*network.modules()]:
        for name, child in part.named_children():
            if child is first:
                setattr(part, name, nn.Sigmoid())
    other = make(nn.Sigmoid())
    other.load_state_dict(expected.state_dict())
    assert torch.equal(network(y), other(y)) and not torch.equal(network(y), expected(y))
    if isinstance(network, kn.Block):
        assert network.field.activation.slope == 0.25
