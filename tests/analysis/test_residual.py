"""Residual blocks of ordinary networks are found by their graph and measured."""

import pytest
import torch
from peaks import peak
from problems import Around
from torch import nn

import keelnet as kn
from keelnet.analysis import growths


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


class InPlace(BasicBlock):
    """An activation that overwrites the block's input comes first."""

    def forward(self, x):
        x = torch.relu_(x)
        return x + self.second(torch.relu(self.first(x)))


def stacked(kind, channels=4):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.Sequential(kind(channels), kind(channels)),
        nn.Conv2d(channels, 2 * channels, 1),
        nn.Sequential(kind(2 * channels)),
    )


@pytest.mark.parametrize("kind", [BasicBlock, PreActivation, InPlace])
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
    [
        (["9"], "no submodule is named 9; see named_modules"),
        (["1.1.frist"], "no submodule is named 1.1.frist; did you mean 1.1.first"),
        ("1.1", "blocks must be a list of dotted names"),
        ([], "or left out to search"),
    ],
)
def test_bad_names_are_refused(blocks, message):
    """A network's owner names blocks by hand."""
    with pytest.raises(ValueError, match=message):
        kn.analysis.diagnose(stacked(Plain), torch.randn(2, 3, 8, 8), blocks=blocks)


def test_a_named_block_may_change_the_shape_and_what_is_passed_by_is_named():
    torch.manual_seed(0)
    network = ResNet(Basic, (2, 2, 2, 2), 1)
    x = torch.randn(1, 3, 32, 32)
    (note,) = (each for each in kn.analysis.diagnose(network, x).notes if "not looked at" in each)
    assert "layer2.0, layer3.0, layer4.0," in note
    (row,) = kn.analysis.diagnose(network, x, blocks=["layer4.0"], spectra=True).blocks
    exact = torch.func.jacrev(network.eval().layer4[0])(_reaching(network, "layer4.0", x))
    largest = torch.linalg.matrix_norm(exact.detach().reshape(256, 512).double(), 2)
    assert row.growth == pytest.approx(float(largest), rel=0.01) and row.layers == ()
    assert "changes the shape" in row.advice


def _reaching(network, name, x):
    found = []
    block = network.get_submodule(name)
    handle = block.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    network(x)
    handle.remove()
    return found[0].detach()


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1, as in ResNet-50, with in-place activations; a projection where the shape changes."""

    def __init__(self, inputs, width, stride=1):
        super().__init__()
        outputs = 4 * width
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.downsample = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.branch(x)
        out += identity
        return self.relu(out)


class Basic(Bottleneck):
    """Two 3 × 3, as in ResNet-18."""

    def __init__(self, inputs, width, stride=1):
        nn.Module.__init__(self)
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = inputs == width and stride == 1
        self.downsample = None if same else nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.relu = nn.ReLU(inplace=True)


class ResNet(nn.Module):
    """torchvision's names, at an eighth of its widths."""

    def __init__(self, kind, counts, spread):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        channels = 8
        for level, count in enumerate(counts):
            width = 8 * 2**level
            blocks = []
            for number in range(count):
                blocks.append(kind(channels, width, 2 if number == 0 and level > 0 else 1))
                channels = width * spread
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        for level in (self.layer1, self.layer2, self.layer3, self.layer4):
            y = level(y)
        return self.fc(y.mean((2, 3)))


@pytest.mark.parametrize(("kind", "counts", "spread"), [(Basic, (2, 2, 2, 2), 1), (Bottleneck, (3, 4, 6, 3), 4)])  # fmt: skip
def test_the_planted_block_of_a_residual_network_is_pointed_at(kind, counts, spread):
    torch.manual_seed(0)
    network = ResNet(kind, counts, spread)
    for part in network.modules():
        if isinstance(part, (Basic, Bottleneck)):
            nn.init.zeros_(
                part.branch[-1].weight
            )  # every block is the identity on positive features
    planted = network.layer3[1]
    planted.branch = nn.Sequential(_Half(planted.branch[0].in_channels))
    report = kn.analysis.diagnose(network, torch.randn(2, 3, 32, 32))
    names = [row.name for row in report.blocks]
    expected = [
        f"layer{level + 1}.{number}"
        for level, count in enumerate(counts)
        for number in range(count)
        if number > 0 or (level == 0 and spread == 1)
    ]
    assert names == expected
    assert report.worst.name == "layer3.1" and report.worst.growth == pytest.approx(1.5, rel=1e-4)
    assert not report.stable
    others = [row for row in report.blocks if row.name != "layer3.1"]
    assert all(row.growth <= 1 + 1e-4 and not row.unstable for row in others)


class _Half(nn.Conv2d):
    """y ↦ y / 2."""

    def __init__(self, channels):
        super().__init__(channels, channels, 1, bias=False)
        with torch.no_grad():
            self.weight.copy_(0.5 * torch.eye(channels)[..., None, None])


def test_a_network_of_monai_is_read():
    from monai.networks.nets import SegResNet

    torch.manual_seed(0)
    network = SegResNet(2, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 2), blocks_up=(1,))  # fmt: skip
    report = kn.analysis.diagnose(network, torch.randn(1, 1, 8, 8), spectra=True)
    names = [row.name for row in report.blocks]
    assert names == ["down_layers.0.1", "down_layers.1.1", "down_layers.1.2", "up_layers.0.0"]
    assert all(type(network.get_submodule(name)).__name__ == "ResBlock" for name in names)
    assert all(row.growth > 0 and row.layers for row in report.blocks)


def test_a_planted_layer_of_a_transformer_is_pointed_at():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    with torch.no_grad():
        for part in encoder.layers:
            part.linear2.weight.zero_()
            part.self_attn.out_proj.weight.zero_()
        encoder.layers[2].linear2.weight.copy_(torch.randn(8, 16))
    report = kn.analysis.diagnose(encoder, torch.randn(2, 5, 8))
    assert report.worst.name == "layers.2" and report.worst.growth > 1.5
    assert [row.verdict for row in report.blocks if row.name != "layers.2"] == ["does not grow"] * 3


class Overwriting(nn.Module):
    """1.5 x as a step, in the tensor that it was given or not."""

    def __init__(self, inplace):
        super().__init__()
        self.inplace = inplace

    def forward(self, x):
        if not self.inplace:
            return x + 0.5 * x
        x += 0.5 * x
        return x


@pytest.mark.parametrize("size", [3, 500])
def test_a_block_that_overwrites_its_input_has_the_spectrum_of_one_that_does_not(size):
    x = torch.randn(2, size)
    rows = [
        kn.analysis.diagnose(nn.Sequential(Overwriting(inplace)), x, spectra=True).blocks[0]
        for inplace in (True, False)
    ]
    first, second = (row.layers[0] for row in rows)
    assert first.spectrum.eigenvalues == pytest.approx(second.spectrum.eigenvalues)
    assert first.amplification == pytest.approx(second.amplification)
    assert rows[0].advice == rows[1].advice and "real, 0.5" in rows[0].advice


def test_spectra_of_a_step_match_the_dense_ones():
    network = nn.Sequential(Scaled(0.5))
    (row,) = kn.analysis.diagnose(network, torch.randn(4, 3), spectra=True).blocks
    (layer,) = row.layers
    assert sorted(layer.spectrum.eigenvalues.real) == pytest.approx([-0.5, 0.5, 1.0])
    assert layer.amplification == pytest.approx(2.0) and layer.step_bound == 0
    assert layer.damping == pytest.approx(2.0)  # moves 1 to 0
    text = str(kn.analysis.diagnose(network, torch.randn(4, 3), spectra=True))
    assert "layer by layer" in text and "kn.stabilised" in text
    kn.analysis.spectra_figure(row)
    growth, _ = kn.analysis.growth_figure(row).axes
    assert [line.get_ydata()[0] for line in growth.lines[:2]] == [row.growth, row.smallest]


def test_a_module_with_dropout_is_measured_in_evaluation_mode_and_left_as_it_was():
    network = nn.Sequential(Scaled(0.5), nn.Dropout(0.5)).train()
    first, second = (kn.analysis.diagnose(network, torch.ones(2, 3)) for _ in range(2))
    assert first.blocks[0].growth == second.blocks[0].growth
    assert network.training and network[1].training


def test_randomness_that_stays_and_inputs_elsewhere_are_refused():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Scaled(0.5)

        def forward(self, x):
            return self.block(x) + torch.randn(3)

    with pytest.raises(ValueError, match="draws random numbers in evaluation mode"):
        kn.analysis.diagnose(Noisy(), torch.ones(2, 3))
    with pytest.raises(ValueError, match="x is on meta, but the network on cpu"):
        kn.analysis.diagnose(Scaled(0.5), torch.ones(2, 3, device="meta"))


@pytest.mark.parametrize("samples", [1, 4])
def test_the_diagnosis_takes_less_than_two_forward_passes(samples, monkeypatch):
    monkeypatch.setattr(growths, "KEPT", 1)  # as if these few numbers were many
    network = stacked(PreActivation, 8).eval()
    x = torch.randn(samples, 3, 32, 32)
    once = peak(lambda: network(x))
    assert peak(lambda: kn.analysis.diagnose(network, x, iterations=1)) < 2 * once


class Bare(nn.Module):
    """1.5 x as a step, without parameters or parts."""

    def forward(self, x):
        return x + 0.5 * x


class Half(nn.Module):
    def forward(self, x):
        return 0.5 * x


class Own(nn.Module):
    """A matrix of its own, no parts."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.eye(4))

    def forward(self, x):
        return x + torch.einsum("bihw,ij->bjhw", x, self.weight)


class Encoding(nn.Module):
    """x plus numbers that do not depend on it is no step."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.randn(4, 6, 6))
        self.rest = nn.Dropout(0.1)

    def forward(self, x):
        return self.rest(x + self.places)


@pytest.mark.parametrize(
    "planted", [Bare, lambda: Around(Half()), Own], ids=["bare", "half", "own"]
)
def test_a_planted_block_is_found_whatever_it_is_made_of(planted):
    torch.manual_seed(0)
    small = BasicBlock(4)
    nn.init.zeros_(small.second.weight)
    network = nn.Sequential(Encoding(), small, planted(), Around(nn.Identity()), nn.Conv2d(4, 4, 1))
    report = kn.analysis.diagnose(network, torch.randn(2, 4, 6, 6))
    growths_ = {block.name: block.growth for block in report.blocks}
    assert list(growths_) == ["1", "2", "3"]
    assert growths_["2"] == pytest.approx(1.5, rel=1e-5)
    assert growths_["3"] == pytest.approx(2.0, rel=1e-5)
