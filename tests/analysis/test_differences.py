"""What autograd does not see is said or refused, not taken for the identity."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import keelnet as kn

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(1))


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + 5 * self.inner(x)


class Hidden(Step):
    def forward(self, x):
        with torch.no_grad():
            branch = self.inner(x)
        return x + 5 * branch


class Detached(Step):
    def forward(self, x):
        return x + 5 * self.inner(x.detach())


class Unrecorded(Step):
    @torch.no_grad()
    def forward(self, x):
        return x + 5 * self.inner(x)


class Unused(Step):
    def forward(self, x):
        return super().forward(x.detach())


@pytest.mark.parametrize("kind", [Hidden, Detached])
def test_a_branch_that_is_hidden_from_autograd_is_named(kind):
    (note,) = kn.analysis.diagnose(nn.Sequential(Step(), kind()), X, blocks=["0", "1"]).notes
    assert note.startswith("1: a small change of the input moves the output otherwise")


@pytest.mark.parametrize("kind", [Unrecorded, Unused])
def test_a_block_without_a_graph_is_refused(kind):
    with pytest.raises(ValueError, match="block 0 answers without a graph"):
        kn.analysis.diagnose(nn.Sequential(kind()), X, blocks=["0"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("x", [X, 0 * X, 1e6 * X, X.relu()], ids=["", "0", "large", "half 0"])
def test_kinks_at_the_features_and_their_size_are_no_reason(x, dtype):
    class Bent(Step):
        def forward(self, x):
            return torch.relu(x + 0 * self.inner(torch.relu(x)))

    network = nn.Sequential(Bent(), Step()).to(dtype)
    notes = kn.analysis.diagnose(network, x.to(dtype)).notes
    assert not any("moves the output otherwise" in note for note in notes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("blocks", [None, ["0"]])
def test_a_quantised_network_is_refused(blocks):
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(Step()), {nn.Linear})
    with pytest.raises(ValueError, match=r"0\.inner is a quantised Linear.*that it was made of"):
        kn.analysis.diagnose(quantised, X, blocks=blocks)


class Floating(Step):
    """Torch keeps a module of plain sums, for networks that are quantised later, beside the quantised ones."""

    def __init__(self):
        super().__init__()
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x):
        return self.add.add(x, 5 * self.inner(x))


class Ablated(Step):
    __module__ = "mylab.quantized_ablation.blocks"


def quantised_head():
    head = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 6)), {nn.Linear})
    return nn.Sequential(nn.Sequential(Step()), head)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("blocks", [None, ["0"]])
@pytest.mark.parametrize(
    ("network", "notes"),
    [
        (lambda: nn.Sequential(Floating()), []),
        (lambda: nn.Sequential(Ablated()), []),
        (
            quantised_head,
            ["not looked at: what holds 1.0, which is quantised and has no derivative"],
        ),
    ],
    ids=["float functional", "name of a package", "head"],
)
def test_blocks_of_a_network_that_is_not_quantised_are_measured(network, notes, blocks):
    found = kn.analysis.diagnose(network(), X, blocks=blocks)
    plain = kn.analysis.diagnose(nn.Sequential(Step()), X)
    assert found.worst.growth == pytest.approx(plain.worst.growth)
    assert list(found.notes) == ([] if blocks else notes)


def rounded(x):
    """To 10 bits of mantissa, as TF32 does before it multiplies; autograd sees the identity."""
    bits = (x.detach().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return x + (bits.view(torch.float32) - x).detach()


class Rounding(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(rounded(x), rounded(self.weight), self.bias, padding=1)


class Basic(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.one, self.two = (Rounding(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return torch.relu(x + 5 * self.two(torch.relu(5 * self.one(x))))


@pytest.mark.parametrize(
    ("kind", "x", "autocast"),
    [(Basic, IMAGES, False), (Step, X, True)],
    ids=["10 bits", "autocast"],
)
def test_rounding_is_not_taken_for_a_hidden_part(kind, x, autocast):
    torch.manual_seed(0)
    network = nn.Sequential(*[kind() for _ in range(4)])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert kn.analysis.diagnose(network, x, iterations=5).notes == ()


class Rooted(nn.Module):
    """A root of a positive matrix, which exists at the features alone: the least change is too large."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        return x + self.a * torch.linalg.cholesky(x)


def test_where_nothing_is_defined_beside_the_features_growth_is_measured():
    x = torch.diag_embed(torch.tensor([1e-3, 1.0, 1.0, 1.0]).expand(2, 4))
    report = kn.analysis.diagnose(nn.Sequential(Rooted()), x)
    assert report.worst.growth > 1 and report.notes == ()


@pytest.mark.parametrize("blocks", [None, ["0"]])
def test_a_block_that_is_checkpointed_in_the_old_way_is_told_the_new_one(blocks):
    class Checkpointed(Step):
        def forward(self, x):
            return x + torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=True)

    with pytest.raises(ValueError, match="block 0 is checkpointed with use_reentrant=True.*False"):
        kn.analysis.diagnose(nn.Sequential(Checkpointed()), X, blocks=blocks)
