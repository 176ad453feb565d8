"""A network is left as it was found: buffers, and what its modules know of them, its hooks and its input."""

import pytest
import torch
from torch import nn

import keelnet as kn


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, y):
        return y + self.inner(y)


class Counting(Step):
    """In place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("lost", torch.tensor([torch.nan, 1.0]).expand(3, 2))

    def forward(self, y):
        self.calls += 1
        return super().forward(y)


class Peaking(Step):
    """Bound anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("peak", torch.zeros(()))

    def forward(self, y):
        self.peak = torch.maximum(self.peak, y.abs().max().detach())
        return super().forward(y)


class Growing(Step):
    """Resized, as observers are that see their first batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor([]))

    def forward(self, y):
        if self.low.numel() == 0:
            self.low.resize_(4).fill_(torch.inf)
        self.low.copy_(torch.minimum(self.low, y.detach().amin(0)))
        return super().forward(y)


class Reaching(Step):
    """A table that grows with what is asked of it, and how far it reaches."""

    def __init__(self):
        super().__init__()
        self.reach = 1
        self.register_buffer("table", torch.ones(1))

    def forward(self, y):
        if y.shape[-1] > self.reach:
            self.reach = y.shape[-1]
            self.register_buffer("table", torch.ones(self.reach))
        return y + self.inner(y * self.table[: y.shape[-1]])


class Filling(Step):
    """A table that is made when it is first needed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", None)

    def forward(self, y):
        if self.table is None:
            self.table = torch.ones(4)
        return y + self.inner(y * self.table)


KINDS = (Counting, Peaking, Growing, Reaching, Filling)
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def state_of(network):
    """Which tensors the buffers are, their numbers, and plain attributes."""
    return {
        name: (
            {key: (value, None if value is None else value.clone()) for key, value in part._buffers.items()},
            {key: value for key, value in vars(part).items() if isinstance(value, int) and key[0] != "_"},
        )
        for name, part in network.named_modules()
    }  # fmt: skip


def unchanged(before, after):
    for name, (buffers, plain) in before.items():
        assert after[name][1] == plain
        assert after[name][0].keys() == buffers.keys()
        for key, (tensor, numbers) in buffers.items():
            assert after[name][0][key][0] is tensor
            if tensor is not None:
                torch.testing.assert_close(after[name][0][key][1], numbers, equal_nan=True)


def asked(network, x):
    return kn.analysis.diagnose(network, x)


def failing(network, x):
    with pytest.raises(ValueError, match="no submodule is named 9|cannot read x"):
        kn.analysis.diagnose(network, x.double())


@pytest.mark.parametrize("ask", [asked, failing])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_buffers_are_what_they_were(kind, used, ask):
    network = nn.Sequential(kind(), Step())
    if used:
        network(X)
    before = state_of(network)
    ask(network, 2 * X)
    unchanged(before, state_of(network))
    network(X)


def test_buffers_of_a_block_are_what_they_were():
    block = kn.stabilised([Peaking()], kn.Euler())
    before = state_of(block)
    kn.analysis.stability(block, X, layers="all")
    unchanged(before, state_of(block))


@pytest.mark.parametrize("kind", [Step, *KINDS])
def test_what_is_measured_is_the_same_the_second_time(kind):
    torch.manual_seed(0)
    network = nn.Sequential(kind())
    first, second = (asked(network, X).worst.growth for _ in range(2))
    assert first == second


class Built(Step):
    """Makes a buffer of a new name in its first pass."""

    def __init__(self):
        super().__init__()
        self.ready = False
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, y):
        self.calls += 1
        if not self.ready:
            self.register_buffer("table", torch.ones(4))
            self.ready = True
        return y + self.inner(y * self.table)


def test_a_module_that_builds_itself_stays_built():
    network = nn.Sequential(Built())
    asked(network, X)
    assert network[0].ready and network[0].calls == 0
    network(X)


class Norming(Step):
    """Normalises what it reads in place."""

    def forward(self, x):
        return super().forward(x.sub_(x.mean(-1, keepdim=True)).div_(2))


@pytest.mark.parametrize("around", [False, True])
def test_an_input_that_is_changed_in_place_is_left_alone(around):
    torch.manual_seed(0)
    network = nn.Sequential(Norming(), Step()) if around else Norming()
    x = X.clone()
    report = kn.analysis.diagnose(network, x, blocks=["1"] if around else ["inner"])
    assert torch.equal(x, X) and report.worst.growth > 0
