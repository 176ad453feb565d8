"""What cannot be measured is said, with the parameter or the block that is to blame, and the way out."""

import math

import pytest
import torch
from torch import nn

import keelnet as kn


class Step(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + 0.1 * torch.tanh(self.inner(x))


class Convolved(nn.Module):
    def __init__(self, **norm):
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3, **norm)

    def forward(self, x):
        return torch.relu(x + self.norm(self.inner(x)))


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def lost(value, name):
    network = nn.Sequential(nn.Linear(4, 4), Step(), Step(), Step())
    with torch.no_grad():
        network.get_parameter(name).flatten()[1] = value
    return network


@pytest.mark.parametrize(("value", "word"), [(math.nan, "nan"), (math.inf, "inf")])
def test_the_block_and_the_parameter_that_hold_no_numbers_are_named(value, word):
    report = kn.analysis.diagnose(lost(value, "2.inner.weight"), X)
    first, bad, _ = report.blocks
    assert math.isfinite(first.growth)
    assert bad.verdict == f"unstable: 2.inner.weight holds {word} (1 of 16 numbers)"
    assert report.worst is bad and not report.stable and bad.advice is None
    assert f"largest: block 2: 2.inner.weight holds {word}" in str(report)
    report.to_json()


def test_blocks_behind_what_is_not_finite_are_not_measured():
    *_, last = kn.analysis.diagnose(lost(math.nan, "2.inner.weight"), X).blocks
    assert last.verdict == "not measured: what reaches it is not finite"
    assert math.isnan(last.growth) and not last.unstable


def test_a_bias_that_a_bounded_activation_hides_is_found():
    report = kn.analysis.diagnose(lost(math.inf, "2.inner.bias"), X)
    assert [math.isfinite(row.growth) for row in report.blocks] == [True, False, True]


def test_weights_outside_of_blocks_are_named_too():
    with pytest.raises(ValueError, match=r"0\.weight holds nan \(1 of 16 numbers\), outside of"):
        kn.analysis.diagnose(lost(math.nan, "0.weight"), X)


def test_statistics_are_looked_at_and_masks_are_not():
    network = nn.Sequential(Convolved(), Convolved())
    network[1].norm.running_var[0] = math.inf
    network[0].register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
    report = kn.analysis.diagnose(network, IMAGES)
    assert "1.norm.running_var holds inf" in report.worst.verdict
    assert math.isfinite(report.blocks[0].growth)


class Exploding(nn.Module):
    def forward(self, x):
        return x + 1e30 * torch.exp(50 + x)


class Steep(nn.Module):
    """A finite value with an infinite slope."""

    def forward(self, x):
        return x + (0 * x).abs().sqrt()


@pytest.mark.parametrize(
    ("bad", "words"),
    [(Exploding, "its output is not finite, what reaches it is"), (Steep, "its derivative is not")],
)
def test_a_block_that_makes_what_is_not_finite_is_named(bad, words):
    report = kn.analysis.diagnose(nn.Sequential(Step(), bad(), Step()), X)
    assert report.worst.name == "1" and report.worst.verdict.startswith(f"unstable: {words}")


def test_the_mode_of_training_changes_nothing():
    """Dropout is off and statistics are the running ones, whatever mode the network is in, and it stays in it."""
    network = nn.Sequential(Convolved(), nn.Dropout(0.5), Convolved())
    network.train()(IMAGES)
    seen = network[0].norm.running_mean.clone()
    first = kn.analysis.diagnose(network, IMAGES)
    assert network.training and torch.equal(network[0].norm.running_mean, seen)
    second = kn.analysis.diagnose(network.eval(), IMAGES)
    assert [row.growth for row in first.blocks] == [row.growth for row in second.blocks]
    assert first.notes == ()


def test_norms_that_have_seen_nothing_are_named():
    (note,) = kn.analysis.diagnose(nn.Sequential(Convolved(), Convolved()), IMAGES).notes
    assert note.startswith("batch norms that have seen no batch yet: 2")


def test_statistics_without_a_count_are_statistics():
    network = nn.Sequential(Convolved(), Convolved()).train()
    network(IMAGES)
    for part in network:
        part.norm.num_batches_tracked.zero_()  # as where weights are older than the counter
    assert kn.analysis.diagnose(network, IMAGES).notes == ()


class Mixing(nn.Module):
    def forward(self, x):
        return x + x.mean(0)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Linear(4, 4), 0

    def forward(self, x):
        self.calls += 1
        return x + self.calls * self.inner(x)


class Transposed(nn.Module):
    """One sample in, its places along axis 0 of the layer: another sample fewer is no way out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Batched(nn.Module):
    """Reads no tensor, but what holds one."""

    def __init__(self, way):
        super().__init__()
        self.inner, self.way = Step(), way

    def forward(self, batch):
        return self.inner(self.way(batch))


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (nn.Sequential(Step()), X.double(), r"torch.float64: .*use x.to\(torch.float32\)"),
        (nn.Sequential(Step()).half(), X, r"use x.to\(torch.float16\)"),
        (nn.Sequential(Step()), X[:, :3], r"cannot read x of shape \(1, 3\)"),
        (nn.Sequential(Step()), X.tolist(), "got list. For a network that reads several"),
        (nn.Sequential(Step()), X[0], "at least one sample"),
        (nn.Sequential(Step()), X + 1j, "must be a tensor of finite"),
        (nn.Embedding(9, 4), torch.full((1, 3), 9), "cannot read x of shape .*out of range"),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1),
            X[:, None],
            r"TransformerEncoder cannot read x of shape \(1, 1, 4\), torch.float32: ",
        ),
        (Batched(lambda x: x.image), X, "Batched cannot read x .*: 'Tensor' object has no attr"),
        (
            Batched(lambda x: {"image": x}["label"]),
            X,
            r"Batched cannot read x .*: KeyError\('label'\)",
        ),
        (lambda x: x, X, "an nn.Module was wanted, got function"),
        (
            nn.Sequential(Convolved(track_running_stats=False)),
            IMAGES,
            "BatchNorm2d at 0.norm takes",
        ),
        (nn.Sequential(Mixing()), X, "block 0 does not treat the samples of x apart"),
        (nn.Sequential(Counting()), X, "gives another value the second time"),
        (
            Transposed(),
            X[:1, None].expand(1, 3, 4) * torch.arange(1, 4)[:, None],
            r"batch_first=True\)$",
        ),
        (
            nn.TransformerEncoderLayer(4, 2),
            torch.arange(24.0).sin().view(3, 2, 4),
            "batch_first=True",
        ),
    ],
    ids=(
        "double",
        "half",
        "narrow",
        "list",
        "one sample",
        "complex",
        "out of range",
        "width",
        "attribute",
        "key",
        "function",
        "batch norm",
        "mixing",
        "counting",
        "transposed",
        "sequence first",
    ),
)
def test_what_has_no_derivative_of_its_own_is_refused(network, x, message):
    with pytest.raises(ValueError, match=message):
        kn.analysis.diagnose(network, x)


def test_a_scripted_network_is_refused():
    class Traced(nn.Module):
        def forward(self, x):
            return x + 0.5 * x

    traced = torch.jit.trace(Traced(), torch.ones(1, 2))
    with pytest.raises(ValueError, match="a scripted module cannot be looked into"):
        kn.analysis.diagnose(traced, torch.ones(1, 2))


def test_an_input_with_a_gradient_is_left_alone():
    x = X.clone().requires_grad_()
    kn.analysis.diagnose(nn.Sequential(Step()), x)
    assert x.grad is None and x.requires_grad


class Flow(nn.Module):
    """y + 0.1 J ∇H(y), H a network: a step of Hamilton's equations (Greydanus et al. 2019)."""

    def __init__(self, by_itself):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.by_itself = by_itself

    def forward(self, y):
        with torch.set_grad_enabled(self.by_itself or torch.is_grad_enabled()):
            y = y.requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)
            q, p = slope.chunk(2, 1)
            return y + 0.1 * torch.cat([p, -q], 1)


@pytest.mark.parametrize("blocks", [None, ["0", "1"]])
@pytest.mark.parametrize("by_itself", [False, True])
def test_a_network_that_differentiates_in_its_forward_is_measured(by_itself, blocks):
    torch.manual_seed(0)
    network, x = nn.Sequential(Flow(by_itself), Flow(by_itself)), X.double()
    report = kn.analysis.diagnose(network, x, blocks=blocks, spectra=True)
    whole = torch.autograd.functional.jacobian(lambda y: network[0](y).sum(0), x.clone())
    exact = torch.linalg.svdvals(whole.transpose(0, 1))
    first, _ = report.blocks
    assert (first.growth, first.smallest) == pytest.approx((float(exact.max()), float(exact.min())))
    assert not x.requires_grad and report.notes == ()


def test_derivatives_within_a_keelnet_block_want_a_mode_of_their_own():
    asked = [kn.stabilised([Flow(by_itself)], kn.Euler()) for by_itself in (True, False)]
    assert kn.analysis.stability(asked[0], X.double()).worst.growth > 1
    with pytest.raises(ValueError, match=r"block 0 cannot run .*torch\.enable_grad"):
        kn.analysis.stability(asked[1], X.double())
