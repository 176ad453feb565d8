"""Laws of effects: what would not come out the same a second time is refused by strategies that evaluate layers twice."""

import random
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from problems import branch, randn
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import keelnet as kn
from keelnet.propagation import effects

TWICE = pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
METHODS = pytest.mark.parametrize("method", [kn.Verlet(), kn.Leapfrog()], ids=["pair", "one part"])


def old_spectral_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.spectral_norm(nn.Linear(3, 3))


class Scaled(nn.Module):
    """tanh of a linear map, over a mean square that every evaluation in training mode moves."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.linear, self.inplace = nn.Linear(3, 3), inplace
        self.register_buffer("mean", torch.ones(()))

    def forward(self, y):
        if self.training:
            moved = (0.9 * self.mean + 0.1 * y.square().mean()).detach()
            self.mean = self.mean.copy_(moved) if self.inplace else moved
        return torch.tanh(self.linear(y / self.mean.sqrt()))


class Silent(nn.Module):
    """The same, written in a way that no version counts."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("mean", torch.ones(size))

    def forward(self, y):
        if self.training:
            self.mean.data.mul_(0.9).add_(0.1 * y.detach().square().mean())
        return torch.tanh(self.linear(y / self.mean.mean().sqrt()))


class Masked(nn.Module):
    """Rows that are left out as a generator of its own has it, which some reset before."""

    def __init__(self, resets: bool) -> None:
        super().__init__()
        self.linear, self.resets = nn.Linear(3, 3), resets
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, y):
        if self.resets:
            self.generator.manual_seed(0)
        if self.training:
            y = y * (torch.rand(len(y), 1, generator=self.generator) > 0.1)
        return torch.tanh(self.linear(y))


class Dropped(nn.Module):
    """A layer that is left out by chance, as numbers of another generator than torch's have it."""

    def __init__(self, draw) -> None:
        super().__init__()
        self.linear, self.draw = nn.Linear(3, 3), draw

    def forward(self, y):
        share = self.draw() if self.training else 1.0
        return share * torch.tanh(self.linear(y))


class Owning(Dropped):
    """The same, by a generator of its own, or several."""

    def __init__(self, kept, draw) -> None:
        super().__init__(lambda: draw(self.kept))
        self.kept = kept


REMEMBERING = {
    "spectral norm": lambda: nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Tanh()),
    "old spectral norm": lambda: nn.Sequential(old_spectral_norm(), nn.Tanh()),
    "buffer written": lambda: Scaled(True),
    "buffer replaced": lambda: Scaled(False),
    "buffer written through .data": lambda: Silent(1),
    "large buffer written through .data": lambda: Silent(30_001),
}


class Drawer:
    """No module, and what it draws from is its own."""

    def __init__(self) -> None:
        self.source = {"numbers": random.Random(0)}

    def draw(self) -> float:
        return self.source["numbers"].random()


def drawing_from(numbers):
    return lambda: numbers.random()


DRAWING = {
    "random": lambda: Dropped(random.random),
    "numpy.random": lambda: Dropped(np.random.random),
    "a generator of its own": lambda: Masked(resets=False),
    "NumPy's": lambda: Owning(np.random.default_rng(0), lambda kept: kept.random()),
    "NumPy's older one": lambda: Owning(np.random.RandomState(0), lambda kept: kept.rand()),
    "Python's": lambda: Owning(random.Random(0), lambda kept: kept.random()),
    "in a list": lambda: Owning([None, random.Random(0)], lambda kept: kept[1].random()),
    "in a dict of lists": lambda: Owning(
        {"a": [np.random.Generator(np.random.MT19937(0))]}, lambda kept: kept["a"][0].random()
    ),
    "in a tuple": lambda: Owning(
        (torch.Generator(),), lambda kept: float(torch.rand(1, generator=kept[0]))
    ),
    "a method of NumPy's": lambda: Dropped(np.random.default_rng(0).random),
    "a method of Python's": lambda: Dropped(random.Random(0).random),
    "a method of an object's": lambda: Dropped(Drawer().draw),
    "an object": lambda: Owning(Drawer(), lambda kept: kept.draw()),
    "a closure": lambda: Dropped(drawing_from(np.random.default_rng(0))),
    "a partial": lambda: Dropped(partial(np.random.default_rng(0).normal, 0, 0.1)),
}
EVERY = REMEMBERING | DRAWING


def block(make, strategy, method=None) -> kn.Block:
    torch.manual_seed(0)
    return kn.Block(
        method or kn.Verlet(), kn.ModuleField(make()), 4, 2.0, strategy=strategy
    ).double()


def pulled(net: kn.Block, y: torch.Tensor) -> list[torch.Tensor]:
    y = y.requires_grad_()
    return torch.autograd.grad(net(y).square().sum(), [y, *net.parameters()])


@TWICE
@METHODS
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_branch_with_effects_is_refused_in_training_and_right_in_evaluation(
    make, method, strategy
):
    net = block(make, strategy, method)
    with pytest.raises(ValueError, match=r"call \.eval\(\) or use strategy=kn\.store_all"):
        net(randn(5, 3))
    found = pulled(net.eval(), randn(5, 3))
    net.strategy = kn.store_all
    for one, other in zip(found, pulled(net, randn(5, 3)), strict=True):
        torch.testing.assert_close(one, other)


class Filled(nn.Module):
    """A scale that is taken from the first features and kept from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("scale", None)

    def forward(self, y):
        if self.scale is None:
            self.scale = y.detach().square().mean().sqrt()
        return torch.tanh(self.linear(y / self.scale))


class Remade(nn.Module):
    """A table that is made anew by every call, and a count of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("places", torch.zeros(1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, y):
        self.places, self.calls = torch.arange(len(y), dtype=y.dtype), self.calls + 1
        return torch.tanh(self.linear(y) + 0.1 * self.places[:, None])


class Odd(nn.Module):
    """Buffers that are no use, with numbers that equal nothing or cannot be compared as others are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("unknown", torch.tensor([torch.nan, torch.inf]))
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("turned", torch.tensor([1j]).conj())
        self.register_buffer("sparse", torch.eye(2).to_sparse())

    def forward(self, y):
        return torch.tanh(self.linear(y))


@TWICE
@METHODS
@pytest.mark.parametrize("make", [Filled, Remade, Odd, lambda: Masked(resets=True)])
def test_what_changes_no_value_is_no_effect(make, method, strategy):
    expected = pulled(block(make, kn.store_all, method), randn(5, 3))
    found = pulled(block(make, strategy, method), randn(5, 3))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@TWICE
def test_what_is_refused_is_named(strategy):
    with pytest.raises(ValueError, match="but ModuleField changes its buffer mean every time"):
        block(REMEMBERING["buffer written"], strategy)(randn(5, 3))
    with pytest.raises(ValueError, match="ModuleField gives another value each time"):
        block(DRAWING["random"], strategy)(randn(5, 3))


@TWICE
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_without_a_gradient_nothing_is_evaluated_twice_and_nothing_refused(make, strategy):
    with torch.no_grad():
        assert block(make, strategy)(randn(5, 3)).shape == (5, 3)


@TWICE
@pytest.mark.parametrize("draw", [random.random, np.random.random])
def test_a_draw_that_changes_nothing_is_none_of_the_layers(draw, strategy):
    """Another thread's, or that of what checks types at every call."""

    def make():
        return Dropped(lambda: draw() * 0 + 0.5)

    expected = pulled(block(make, kn.store_all), randn(5, 3))
    for one, other in zip(pulled(block(make, strategy), randn(5, 3)), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_drawn_again_beside_other_draws():
    """torch's generators are set back for a second look, as for the gradient."""

    def make():
        return nn.Sequential(Dropped(lambda: random.random() * 0 + 0.5), nn.Dropout(0.5))

    found = []
    for strategy in (kn.store_all, kn.checkpointed):
        net = block(make, strategy)
        torch.manual_seed(1)
        found.append(pulled(net, randn(5, 3)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


class Beside(nn.Module):
    """A branch beside which another thread draws numbers of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, y):
        other = threading.Thread(target=torch.rand, args=(1,))
        other.start()
        other.join()
        return torch.tanh(self.linear(y))


@TWICE
def test_what_another_thread_draws_is_none_of_the_layers(strategy):
    expected = pulled(block(Beside, kn.store_all), randn(5, 3))
    for one, other in zip(pulled(block(Beside, strategy), randn(5, 3)), expected, strict=True):
        torch.testing.assert_close(one, other)


class Rare(nn.Module):
    """Dropout that drops hardly ever, before a layer that may be 0."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.linear, self.p = nn.Linear(3, 3), p

    def forward(self, y):
        return self.linear(nn.functional.dropout(y, self.p))


@pytest.mark.parametrize(("p", "scale"), [(1e-12, 1.0), (0.5, 0.0)])
def test_dropout_is_refused_where_both_values_are_the_same_and_drawn_once(p, scale):
    with_gradient, without = (block(lambda: Rare(p), way) for way in (kn.reversible, kn.store_all))
    without.depth = 1  # the first layer
    with torch.no_grad():
        with_gradient.control.values()["linear.weight"].mul_(scale)
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="draws random numbers"):
        with_gradient(randn(5, 3))
    found = torch.rand(1)
    torch.manual_seed(1)
    without(randn(5, 3))
    assert torch.equal(torch.rand(1), found)


def test_a_common_generator_that_a_branch_holds_is_set_back():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.generator = nn.Linear(3, 3).double(), torch.default_generator

        def forward(self, y):
            return self.linear(y * torch.rand(len(y), 1, generator=self.generator))

    field, found = kn.ModuleField(Held()), []
    for strategy in (kn.store_all, kn.checkpointed):
        torch.manual_seed(1)
        y = randn(5, 3).requires_grad_()
        value = kn.propagate(kn.Verlet(), field, y, {}, 0.5, strategy, depth=4)
        found.append(torch.autograd.grad(value.square().sum(), y)[0])
    torch.testing.assert_close(*found)


@TWICE
def test_the_systems_generator_is_refused(strategy):
    field = kn.ModuleField(Dropped(random.SystemRandom().random).double())
    with pytest.raises(ValueError, match="draws from a generator of its own every time"):
        kn.propagate(kn.Verlet(), field, randn(5, 3), {}, 0.5, strategy, depth=4)


@TWICE
def test_generators_that_are_held_and_not_drawn_from_are_no_effect(strategy):
    kept = [np.random.default_rng(0), random.Random(0)]
    kept.append(kept)  # a list may lie in itself
    field, found = kn.ModuleField(Owning(kept, lambda kept: 0.5).double()), []
    for way in (kn.store_all, strategy):
        y = randn(5, 3).requires_grad_()
        value = kn.propagate(kn.Verlet(), field, y, {}, 0.5, way, depth=4)
        found.append(torch.autograd.grad(value.square().sum(), y)[0])
    torch.testing.assert_close(*found)


class Noisy(kn.Leapfrog):
    """A method that draws numbers itself."""

    def shears(self, field, h, layer):
        kick, drift = super().shears(field, h, layer)
        return kick._replace(scale=kick.scale * random.random()), drift


@TWICE
def test_a_method_with_effects_is_refused_too(strategy):
    field = kn.SymmetricField(kn.DenseKernel(3))
    with pytest.raises(ValueError, match="another value each time"):
        kn.propagate(Noisy(), field, randn(2, 3), {"weight": randn(4, 3, 3)}, 0.1, strategy)


@TWICE
def test_a_field_that_holds_a_module_of_its_own_is_looked_at(strategy):
    class Held(kn.SingleField):
        def __init__(self):
            super().__init__(kn.DenseKernel(3))
            object.__setattr__(self, "own", Scaled(True).double())

        def held(self):
            return {"own": self.own}

        def rate(self, y, theta):
            return self.own(super().rate(y, theta)).detach()

    with pytest.raises(ValueError, match=r"Held changes its buffer own\.mean"):
        kn.propagate(kn.Leapfrog(), Held(), randn(2, 3), {"weight": randn(4, 3, 3)}, 0.1, strategy)


@pytest.mark.usefixtures("as_a_user")  # checks of types draw numbers
@TWICE
def test_the_plain_branch_is_evaluated_no_more_than_before(strategy):
    calls = []
    plain = branch(3)
    plain.register_forward_hook(lambda *given: calls.append(1))
    net = kn.Block(kn.Leapfrog(), kn.ModuleField(plain), 9, strategy=strategy)
    net(randn(2, 3))
    assert len(calls) == 9


@pytest.fixture
def unread(monkeypatch):
    """As on a device whose generator is not looked at: what is read of them stays as it is."""
    states = effects._torch_states(torch.device("cpu"))
    monkeypatch.setattr(effects, "READ", ())
    monkeypatch.setattr(effects, "_torch_states", lambda device: states)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("method", [kn.Verlet(), kn.Leapfrog()], ids=["pair", "one part"])
def test_where_no_generator_is_read_the_operations_tell_of_dropout(method):
    net = block(lambda: Rare(0.5), kn.reversible, method)
    with pytest.raises(ValueError, match="draws random numbers"):
        net(randn(5, 3))
    plain = [
        pulled(block(lambda: Rare(0.0), way, method), randn(5, 3))
        for way in (kn.reversible, kn.store_all)
    ]
    torch.testing.assert_close(*plain)
