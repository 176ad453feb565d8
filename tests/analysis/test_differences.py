"""What autograd does not see is said or refused, not taken for the identity."""

import pytest
import torch
from torch import nn

import keelnet as kn

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


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
