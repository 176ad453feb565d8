"""A residual block is found however its sum is written; norms, activations and positions are none."""

import pytest
import torch
from torch import nn

import keelnet as kn


class Written(nn.Module):
    """Around a linear branch, by a sum of the given form."""

    def __init__(self, form):
        super().__init__()
        self.inner, self.form = nn.Linear(6, 6), form

    def forward(self, x):
        return self.form(x, self.inner(x))


SUMS = {
    "x + f": lambda x, f: x + f,
    "f + x": lambda x, f: f + x,
    "x - f": lambda x, f: x - f,
    "alpha": lambda x, f: torch.add(x, f, alpha=0.5),
    "addcmul": lambda x, f: torch.addcmul(x, f, torch.ones(6)),
    "in place": lambda x, f: f.add_(x),
    "2 x + f": lambda x, f: 2 * x + f,
    "(x + f) / 2": lambda x, f: (x + f) / 2,
    "relu": lambda x, f: torch.relu(x + f),
    "norm": lambda x, f: nn.functional.layer_norm(x + f, (6,)),
    "0.5 norm(x) + f": lambda x, f: nn.functional.layer_norm(0.5 * x + f, (6,)),
    "one factor": lambda x, f: x * torch.ones(1) + f,
    **{
        f"{type(after).__name__}(x + f)": lambda x, f, after=after: after(x + f)
        for after in (
            *(nn.PReLU(), nn.Mish(), nn.Hardswish(), nn.Softplus(), nn.Sigmoid(), nn.CELU()),
            *(nn.BatchNorm1d(6).eval(), nn.GroupNorm(2, 6)),
        )
    },
    "InstanceNorm(x + f)": lambda x, f: nn.functional.instance_norm((x + f).view(-1, 2, 3)).view(
        -1, 6
    ),
}
OTHERS = {
    "f - x": lambda x, f: f - x,
    "rsub": lambda x, f: torch.rsub(x, f),
    "f": lambda x, f: f,
    "x + 1": lambda x, f: x + 1,
    "x f": lambda x, f: x * torch.sigmoid(f),
    "by channel": lambda x, f: x * torch.arange(6.0),
}


@pytest.mark.parametrize("form", SUMS.values(), ids=SUMS)
def test_a_sum_with_the_input_is_a_step(form):
    report = kn.analysis.diagnose(nn.Sequential(nn.Linear(6, 6), Written(form)), torch.randn(2, 6))
    assert [row.name for row in report.blocks] == ["1"]


@pytest.mark.parametrize("form", OTHERS.values(), ids=OTHERS)
def test_what_is_no_sum_is_no_step(form):
    with pytest.raises(ValueError, match=r"no residual block was found.*keep the shape.*: 0, 1"):
        kn.analysis.diagnose(nn.Sequential(Written(form), Written(form)), torch.randn(2, 6))


class Normalised(nn.Module):
    """A norm that is written out."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return self.scale * centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() + (
            self.shift
        )


class Rotated(nn.Module):
    """Places by turning pairs of channels."""

    def forward(self, x):
        a, b = x.chunk(2, -1)
        angle = torch.arange(6.0)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


class Bent(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.045 * x**3)))


@pytest.mark.parametrize("inside", [Normalised, Rotated, Bent])
def test_parts_that_add_without_stepping_do_not_hide_their_block(inside):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.inner = inside(), nn.Linear(6, 6)

        def forward(self, x):
            return x + self.inner(self.before(x))

    (row,) = kn.analysis.diagnose(nn.Sequential(Around()), torch.randn(2, 6)).blocks
    assert row.name == "0"


class Stumbling(nn.Module):
    """Fails when its gradient is asked for."""

    def forward(self, x):
        y = x + 1.5 * x
        if y.requires_grad:
            y.register_hook(self.refuse)
        return y

    def refuse(self, w):
        raise RuntimeError("no gradients, please")


@pytest.mark.parametrize("way", ["after", "before", "everywhere"])
@pytest.mark.parametrize("blocks", [None, ["0", "1"]])
def test_hooks_on_gradients_hide_no_block_and_hear_nothing(way, blocks):
    torch.manual_seed(0)
    network, x = nn.Sequential(*[Written(SUMS["x + f"]) for _ in range(2)]), torch.randn(2, 6)
    plain = kn.analysis.diagnose(network, x)
    heard = []

    def hear(*given):
        heard.append(given[0])

    if way == "everywhere":
        handles = [torch.nn.modules.module.register_module_full_backward_hook(hear)]
    else:
        name = "register_full_backward_hook" if way == "after" else "register_full_backward_pre_hook"  # fmt: skip
        handles = [getattr(part, name)(hear) for part in network.modules()]
    try:
        found = kn.analysis.diagnose(network, x, blocks=blocks)
        assert [row.growth for row in found.blocks] == [row.growth for row in plain.blocks]
        assert heard == []
        network(x.clone().requires_grad_()).sum().backward()
        assert len(heard) >= 2  # they are there again
    finally:
        for handle in handles:
            handle.remove()


def test_hooks_are_there_again_after_an_error():
    network, heard = nn.Sequential(Stumbling()), []
    network.register_full_backward_pre_hook(lambda part, w: heard.append(part))
    with pytest.raises(RuntimeError, match="no gradients, please"):
        kn.analysis.diagnose(network, torch.ones(1, 6))
    assert heard == []
    with pytest.raises(RuntimeError, match="no gradients, please"):
        network(torch.ones(1, 6, requires_grad=True)).sum().backward()
    assert heard == [network]
