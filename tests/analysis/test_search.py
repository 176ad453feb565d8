"""A block is found though parts of it are residual themselves, and what only looks like a step is passed by."""

import pytest
import torch
from problems import Around
from torch import nn
from torch.nn.utils import parametrize

import keelnet as kn
from keelnet.analysis.search import residual_blocks


class Response(nn.Module):
    """Global response normalisation, which adds its own input (Woo et al. 2023)."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.ones(width)) for _ in range(2))

    def forward(self, x):
        size = x.norm(dim=(1, 2), keepdim=True)
        return self.scale * (x * size / (size.mean(-1, keepdim=True) + 1e-6)) + self.shift + x


class ConvNeXt(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.widen = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.grn, self.narrow = Response(2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        y = self.norm(self.spread(x).permute(0, 2, 3, 1))
        y = self.narrow(self.grn(nn.functional.gelu(self.widen(y))))
        return x + 5 * y.permute(0, 3, 1, 2)


class Pooling(nn.Module):
    """The mean of the neighbours minus the point itself."""

    def __init__(self):
        super().__init__()
        self.mean = nn.AvgPool2d(3, 1, 1)

    def forward(self, x):
        return self.mean(x) - x


class PoolFormer(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.norm, self.mix = nn.GroupNorm(1, width), Pooling()
        self.scale = nn.Parameter(torch.ones(width, 1, 1))
        self.mlp = nn.Conv2d(width, width, 1)

    def forward(self, x):
        x = x + self.scale * self.mix(self.norm(x))
        return x + self.mlp(torch.relu(x))


class InSeries(nn.Module):
    """Two steps one after the other are no step of their own, whatever follows them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (Around(nn.Conv2d(4, 4, 1)) for _ in range(2))

    def forward(self, x):
        return torch.relu(self.second(self.first(x)))


class Group(nn.Module):
    """A long way around steps."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Around(nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        return x + self.body(x)


class Pair(nn.Module):
    """A step that also answers what it was given."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x + self.inner(x), x


class AroundPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair, self.branch = Pair(), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y, _ = self.pair(x)
        return x + self.branch(y)


class Placed(nn.Module):
    """Adds what a step makes of positions, in which nothing of the input is."""

    def __init__(self):
        super().__init__()
        self.step, self.places = Around(nn.Conv2d(4, 4, 1)), nn.Parameter(torch.ones(1, 4, 5, 5))

    def forward(self, x):
        return x + self.step(self.places)


class InPlace(nn.Module):
    """Changes views of a step's answer in place, which autograd refuses."""

    def __init__(self):
        super().__init__()
        self.step = Around(nn.Conv2d(4, 4, 1))

    def forward(self, x):
        x = self.step(x)
        for part in x.chunk(2, 1):
            part.relu_()
        return x


class Attending(nn.Module):
    """A step that also answers what it saw."""

    def __init__(self):
        super().__init__()
        self.inner, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        seen = self.inner(x)
        return torch.relu(x + seen), self.other(seen)


class Encoder(nn.Module):
    """A step, and a second one around its answer (Devlin et al. 2019)."""

    def __init__(self):
        super().__init__()
        self.attention, self.branch = Attending(), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y, _ = self.attention(x=x)
        return y + self.branch(y)


class Stemmed(nn.Module):
    """Around a step's answer, but with weights before the step."""

    def __init__(self):
        super().__init__()
        self.stem, self.step = nn.Conv2d(4, 4, 1), Around(nn.Conv2d(4, 4, 1))
        self.branch = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.step(self.stem(x))
        return y + self.branch(y)


class Skips(nn.Module):
    """The sum of what steps answer besides (Oord et al. 2016)."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Attending(), Attending()

    def forward(self, x):
        y, first = self.first(x)
        _, second = self.second(y)
        return first + second


class Ladder(nn.Module):
    """Steps on two levels with a bridge between them (Ronneberger et al. 2015)."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = Around(nn.Conv2d(4, 4, 1)), Around(nn.Conv2d(4, 4, 1))
        self.join = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.fine(x)
        return self.join(torch.cat([y, self.coarse(y)], 1))


NESTED = {
    "response": (ConvNeXt, ["0", "0.grn", "1", "1.grn"]),
    "pooling": (PoolFormer, ["0", "1"]),
    "series": (InSeries, ["0.first", "0.second", "1.first", "1.second"]),
    "group": (Group, ["0", "0.body.0", "1", "1.body.0"]),
    "pair": (AroundPair, ["0", "0.pair", "1", "1.pair"]),
    "positions": (Placed, ["0.step", "1.step"]),
    "in place": (InPlace, ["0.step", "1.step"]),
    "encoder": (Encoder, ["0", "0.attention", "1", "1.attention"]),
    "stem": (Stemmed, ["0.step", "1.step"]),
    "skips": (Skips, ["0.first", "0.second", "1.first", "1.second"]),
    "ladder": (Ladder, ["0.fine", "0.coarse", "1.fine", "1.coarse"]),
}


@pytest.mark.parametrize(("kind", "names"), NESTED.values(), ids=NESTED)
def test_blocks_around_residual_parts_are_found(kind, names):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    found = kn.analysis.diagnose(nn.Sequential(kind(), kind()), x)
    assert [row.name for row in found.blocks] == names


def test_a_sum_around_the_answer_of_a_step_is_measured():
    torch.manual_seed(0)
    network = nn.Sequential(Encoder(), Encoder()).double()
    with torch.no_grad():
        network[1].branch.weight.mul_(1000)
    report = kn.analysis.diagnose(network, torch.randn(1, 4, 3, 3).double())
    assert report.worst.name == "1" and report.worst.growth > 100
    assert all(row.growth < 10 for row in report.blocks if row.name != "1")


class Shifted(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.inner = nn.Conv2d(before, after, 1)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x):
        return self.shortcut(x) + self.inner(x)


class Widened(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Shifted(4, 8), Shifted(8, 8), Shifted(8, 4))

    def forward(self, x):
        return x + self.body(x)


def test_a_block_around_others_does_not_hide_which_were_not_looked_at():
    report = kn.analysis.diagnose(Widened(), torch.randn(2, 4, 5, 5))
    assert [row.name for row in report.blocks] == ["0", "body.1"]
    assert report.notes[0].startswith("not looked at: body.0, body.2, of the same class")


def test_a_block_around_one_that_is_not_finite_is_not_to_blame():
    network = nn.Sequential(nn.Conv2d(4, 4, 1), Widened())
    with torch.no_grad():
        network[1].body[1].inner.weight[0] = torch.nan
    report = kn.analysis.diagnose(network, torch.randn(2, 4, 5, 5))
    outer, inner = report.blocks
    assert report.worst is inner and inner.verdict.startswith("unstable: 1.body.1.inner.weight")
    assert outer.verdict.startswith("not measured: 1.body.1.inner.weight") and not report.stable
    report.to_json()


class Encoded(nn.Module):
    def __init__(self, depth):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x)


def most_kept(depth):
    """Bytes that graphs hold at a time while blocks are searched for."""
    held = most = 0

    class Kept:
        def __init__(self, value):
            nonlocal held, most
            self.value = value.detach()  # else it would hold its own graph
            held += value.nbytes
            most = max(most, held)

        def __del__(self):
            nonlocal held
            held -= self.value.nbytes

    network, x = Encoded(depth).eval(), torch.randn(1, 16, 8)
    names = {part: name for name, part in network.named_modules()}
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
        found, _ = residual_blocks(network, x, names)
    assert len(found) == depth
    return most


def test_containers_of_blocks_keep_no_more_than_one():
    assert 0 < most_kept(12) <= 1.1 * most_kept(2)


def test_a_network_that_is_a_step_itself_has_a_name_apart():
    class Whole(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    torch.manual_seed(0)
    network = Whole(Around(nn.Linear(4, 4)), nn.Linear(4, 4))
    first, second = kn.analysis.diagnose(network, torch.randn(2, 4)).blocks
    assert (first.name, second.name) == ("Whole", "0")
    assert first.growth != pytest.approx(second.growth)


def test_norms_of_nested_blocks_are_counted_once():
    network = nn.Sequential(Around(Around(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))))
    (note,) = kn.analysis.diagnose(network, torch.randn(2, 4, 5, 5)).notes
    assert "seen no batch yet: 1." in note


def test_what_lies_within_a_keelnet_block_is_its_field():
    blocks = [Around(nn.Sequential(nn.Linear(6, 6), nn.Tanh())) for _ in range(3)]
    net = nn.Sequential(kn.stabilised(blocks[:2], kn.Euler()), blocks[2])
    report = kn.analysis.diagnose(net, torch.randn(4, 6))
    assert [block.name for block in report.blocks] == ["0", "1"]


def exact_growth(function, y):
    """σ_max of the whole Jacobian."""
    whole = torch.autograd.functional.jacobian(function, y)
    return float(torch.linalg.matrix_norm(whole.reshape(-1, y.numel()), 2))


class Windowed(nn.Module):
    """y plus what each window of 4 places makes of itself, the windows of a sample along axis 0 (Liu et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.inner = Weighed()

    def forward(self, y):
        samples, places, width = y.shape
        windows = y.view(-1, 4, width)
        return y + self.inner(windows).view(samples, places, width)


class Weighed(nn.Module):
    """Weighs the four windows of a sample; fewer it does not take."""

    def __init__(self):
        super().__init__()
        self.scales = nn.Parameter(torch.rand(4, 1, 1, dtype=torch.float64))
        self.inner = nn.Linear(3, 3).double()

    def forward(self, windows):
        assert len(windows) % 4 == 0, "all windows of a sample are needed"
        scaled = windows.view(-1, 4, *windows.shape[1:]) * self.scales
        return self.inner(scaled.flatten(0, 1))


class Shifted4(nn.Module):
    """y plus what is made of the frame before, four frames of a sample along axis 0 (Lin et al. 2019)."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3).double()

    def forward(self, y):
        frames = y.view(-1, 4, *y.shape[1:])
        return y + self.inner(frames.roll(1, 1).flatten(0, 1))


class Video(nn.Module):
    def __init__(self):
        super().__init__()
        self.shifted, self.plain = Shifted4(), Around(nn.Linear(3, 3).double())

    def forward(self, x):
        return self.plain(self.shifted(x.flatten(0, 1)))


@pytest.mark.parametrize("samples", [1, 2])
def test_a_part_whose_first_axis_holds_windows_is_passed_by(samples):
    torch.manual_seed(0)
    block, x = Windowed(), torch.randn(samples, 16, 3).double()
    (row,) = kn.analysis.diagnose(nn.Sequential(block), x).blocks
    assert row.name == "0"
    assert row.growth == pytest.approx(exact_growth(block, x[:1]))  # linear: of every sample


@pytest.mark.parametrize("blocks", [None, ["shifted", "plain"]])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_block_that_needs_all_frames_of_a_sample_is_measured_with_all_of_them(samples, blocks):
    torch.manual_seed(0)
    network, x = Video(), torch.randn(samples, 4, 2, 3).double()
    shifted, plain = kn.analysis.diagnose(network, x, blocks=blocks).blocks
    assert (shifted.name, plain.name) == ("shifted", "plain")
    assert shifted.growth == pytest.approx(exact_growth(network.shifted, x[0]))
    assert plain.growth == pytest.approx(exact_growth(network.plain, x[0, :1]))


class Skew(nn.Module):
    def forward(self, weight):
        return weight.triu(1) - weight.triu(1).mT


class Centred(nn.Module):
    """A weight plus something of it: no block of the network."""

    def forward(self, weight):
        return weight - weight.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", [Skew, Centred])
def test_parametrizations_are_no_parts_of_the_path(kind):
    torch.manual_seed(0)
    linear = nn.Linear(5, 5).double()
    parametrize.register_parametrization(linear, "weight", kind())
    (row,) = kn.analysis.diagnose(nn.Sequential(Around(linear)), torch.randn(3, 5).double()).blocks
    assert row.name == "0"
    assert row.growth == pytest.approx(exact_growth(Around(linear), torch.ones(1, 5).double()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_parts_are_named_and_the_others_measured():
    torch.manual_seed(0)
    front, branch = (torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh())) for _ in range(2))
    network, x = nn.Sequential(front, Around(nn.Linear(4, 4)), Around(branch)), torch.randn(2, 4)
    report = kn.analysis.diagnose(network, x)
    assert [row.name for row in report.blocks] == ["1", "2"] and front.training
    (note,) = report.notes
    assert note.startswith("not looked at: 0, which is scripted and cannot be looked into")
    with pytest.raises(ValueError, match="block 0 is scripted, and cannot be looked into; give"):
        kn.analysis.diagnose(network, x, blocks=["0"])
    with pytest.raises(ValueError, match="no residual block.*Not looked at: 0, which is scripted"):
        kn.analysis.diagnose(nn.Sequential(front), x)


def test_a_part_that_leaves_torch_is_named_and_the_others_measured():
    class Counted(nn.Module):
        def forward(self, x):
            return torch.from_numpy(2 * x.numpy())

    network = nn.Sequential(Counted(), Around(nn.Linear(4, 4)))
    report = kn.analysis.diagnose(network, torch.randn(2, 4))
    assert [row.name for row in report.blocks] == ["1"]
    assert "not looked at: 0, which does not run where autograd records (Can't" in report.notes[0]
