"""Residual blocks of ordinary networks are found by their graph and measured."""

import pytest
import torch
from torch import nn

import keelnet as kn


class BasicBlock(nn.Module):
    """Post-activation, as in ResNet-18."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class PreActivation(BasicBlock):
    def forward(self, x):
        return x + self.second(torch.relu(self.first(torch.relu(self.norm(x)))))


class Plain(BasicBlock):
    """No way around the weights."""

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))))


class Scaled(nn.Module):
    """x + step · x W, whose growth is known."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3, bias=False))
        self.step = step
        with torch.no_grad():
            self.inner[0].weight.copy_(torch.diag(torch.tensor([2.0, 1.0, -1.0])))

    def forward(self, x):
        return x + self.step * self.inner(x)


def stacked(kind, channels=4):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.Sequential(kind(channels), kind(channels)),
        nn.Conv2d(channels, 2 * channels, 1),
        nn.Sequential(kind(2 * channels)),
    )


@pytest.mark.parametrize("kind", [BasicBlock, PreActivation])
def test_convolutional_blocks_are_found_by_name(kind):
    report = kn.analysis.diagnose(stacked(kind), torch.randn(2, 3, 8, 8))
    assert [row.name for row in report.blocks] == ["1.0", "1.1", "3.0"]
    assert all(name in str(report) for name in ("1.0", "1.1", "3.0", kind.__name__))


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers_are_found(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    report = kn.analysis.diagnose(encoder, torch.randn(2, 5, 8))
    assert [row.name for row in report.blocks] == ["layers.0", "layers.1", "layers.2"]
    assert encoder.training


@pytest.mark.parametrize("step", [0.1, 0.5])
def test_the_growth_is_that_of_the_block(step):
    network = nn.Sequential(Scaled(step), Scaled(step))
    report = kn.analysis.diagnose(network, torch.randn(4, 3))
    assert [row.growth for row in report.blocks] == pytest.approx([1 + 2 * step] * 2, rel=1e-4)
    assert not report.stable


def test_a_contracting_block_does_not_grow():
    network = nn.Sequential(Scaled(-0.4))
    with torch.no_grad():
        network[0].inner[0].weight.copy_(torch.eye(3))
    assert kn.analysis.diagnose(network, torch.randn(4, 3)).stable


def test_a_plain_network_has_no_residual_blocks():
    with pytest.raises(ValueError, match="no residual block was found in Sequential; name them"):
        kn.analysis.diagnose(stacked(Plain), torch.randn(2, 3, 8, 8))


def test_blocks_can_be_named():
    report = kn.analysis.diagnose(stacked(Plain), torch.randn(2, 3, 8, 8), blocks=["1.1"])
    assert [row.name for row in report.blocks] == ["1.1"]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [(["9"], "no submodule is named 9"), (["2"], "does not keep the shape")],
)
def test_bad_names_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        kn.analysis.diagnose(stacked(Plain), torch.randn(2, 3, 8, 8), blocks=blocks)
