"""What a caller set, compiled or fused changes nothing of what is measured."""

import numpy as np
import pytest
import torch
from torch import nn

import keelnet as kn


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


def steps():
    torch.manual_seed(0)
    return nn.Sequential(Step(), Step())


def block(width=4):
    torch.manual_seed(0)
    return kn.Block(kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(width)), 5, 1.0)


def measured(network, x, **more):
    """(name, growth) of every block."""
    holds_blocks = any(isinstance(part, kn.Block) for part in network.modules())
    ask = kn.analysis.stability if holds_blocks else kn.analysis.diagnose
    return [(row.name, row.growth) for row in ask(network, x, **more).blocks]


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
LARGE = torch.randn(2, 140, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("made", "x"), [(steps, X), (block, X), (lambda: block(70), LARGE)], ids=["steps", "4", "140"]
)
def test_inference_mode_changes_nothing(made, x):
    subject = made()
    expected = measured(subject, x)
    assert all(growth > 0 for _, growth in expected)
    with torch.inference_mode():
        assert measured(subject, x.clone()) == expected


@pytest.mark.parametrize(
    ("made", "name"),
    [(steps, "0.inner.weight"), (block, "control.*weight"), (lambda: nn.BatchNorm1d(4), "weight")],
)
def test_a_network_that_was_made_in_inference_mode_is_refused(made, name):
    with torch.inference_mode():
        subject = made()
    with pytest.raises(ValueError, match=f"^{name} was made under torch.inference_mode"):
        measured(subject, X)


class Masked(nn.Module):
    """Torch's defaults, which hand on nested tensors in evaluation mode."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.words, self.encoder = nn.Embedding(9, 8), nn.TransformerEncoder(layer, 2)

    def forward(self, tokens):
        return self.encoder(self.words(tokens), src_key_padding_mask=tokens == 0)


@pytest.mark.parametrize("blocks", [None, ["encoder.layers.0", "encoder.layers.1"]])
def test_a_transformer_with_a_mask_of_padding_is_read(blocks):
    torch.manual_seed(0)
    network, tokens = Masked(), torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    found = measured(network, tokens, blocks=blocks)
    assert [name for name, _ in found] == ["encoder.layers.0", "encoder.layers.1"]
    assert torch.backends.mha.get_fastpath_enabled()
    apart = [measured(network, each[None])[0][1] for each in tokens]
    assert found[0][1] == pytest.approx(max(apart), rel=1e-4)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("made", [steps, block])
@pytest.mark.parametrize("way", ["compiled", "in place", "a part"])
def test_what_was_compiled_is_measured_as_it_was_written(made, way, backend):
    subject = made() if made is steps else nn.Sequential(block(), block())
    expected = measured(subject, X)
    if way == "compiled":
        subject = torch.compile(subject, backend=backend)
    elif way == "in place":
        subject.compile(backend=backend)
    else:
        subject[0] = torch.compile(subject[0], backend=backend)
    if made is steps:
        subject(X)  # compiled by now
    assert measured(subject, X) == expected


@pytest.mark.parametrize("name", ["0", "0._orig_mod"])
def test_a_compiled_part_is_named_with_and_without_what_torch_adds(name):
    subject = steps()
    expected = measured(subject, X, blocks=["0"])
    subject[0] = torch.compile(subject[0], backend="eager")
    assert measured(subject, X, blocks=[name]) == expected


class Bent(nn.Module):
    def forward(self, x):
        return x + torch.tanh(x)


def tenfold(part, args):
    return (10 * args[0],)


@pytest.mark.parametrize("blocks", [None, ["0"]])
def test_a_hook_on_the_input_is_part_of_the_step_and_applied_once(blocks):
    network = nn.Sequential(Bent())
    network[0].register_forward_pre_hook(tenfold)
    ((_, growth),) = measured(network, torch.full((1, 3), 0.1).double(), blocks=blocks)
    assert growth == pytest.approx(10 * (1 + 1 / np.cosh(1) ** 2))


def test_a_keelnet_block_is_measured_at_what_a_hook_leaves():
    subject = block()
    expected = measured(subject, 10 * X)
    subject.register_forward_pre_hook(tenfold)
    assert measured(subject, X) == expected


class Recurrent(nn.Module):
    """y + GRU(y), and whether cuDNN might have run it."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = nn.GRU(4, 4, batch_first=True), []

    def forward(self, y):
        self.seen.append(torch.backends.cudnn.enabled)
        return y + self.inner(y)[0]


def test_recurrent_layers_are_measured_without_cudnn():
    before, network = torch.backends.cudnn.enabled, nn.Sequential(Recurrent())
    assert measured(network, torch.randn(2, 3, 4))
    assert not any(network[0].seen) and torch.backends.cudnn.enabled == before


class Building(nn.Module):
    """Builds its parts when it knows the width of what it reads."""

    def __init__(self):
        super().__init__()
        self.inner = None

    def forward(self, x):
        if self.inner is None:
            self.inner = nn.Sequential(Step(), nn.Dropout(0.5))
        return self.inner(x)


@pytest.mark.parametrize("blocks", [None, ["0.inner.0"]])
def test_parts_that_the_first_forward_builds_are_measured_without_dropout(blocks):
    network = nn.Sequential(Building(), nn.Linear(4, 4)).eval()
    assert [name for name, _ in measured(network, X, blocks=blocks)] == ["0.inner.0"]
    assert network[0].inner.training and not network.training  # as they were built


@pytest.mark.parametrize("made", [steps, lambda: nn.Sequential(block(), block())])
@pytest.mark.parametrize("way", [nn.DataParallel, lambda each: nn.DataParallel(torch.compile(each, backend="eager"))])  # fmt: skip
def test_a_data_parallel_network_is_the_module_that_it_was_given(made, way, monkeypatch):
    """On several GPUs it reads with copies of the module, which nobody looks at."""
    expected, subject = measured(made(), X), way(made())
    monkeypatch.setattr(nn.DataParallel, "forward", None)
    assert measured(subject, X) == expected


@pytest.mark.parametrize("name", ["1", "module.1"])
def test_a_part_of_a_data_parallel_network_goes_by_either_name(name):
    assert measured(nn.DataParallel(steps()), X, blocks=[name]) == measured(
        steps(), X, blocks=["1"]
    )
    with pytest.raises(ValueError, match="no submodule is named module.1"):
        measured(steps(), X, blocks=["module.1"])


@pytest.mark.parametrize("name", ["0.0", "0.2", "1"])
def test_a_shared_part_goes_by_the_name_of_each_of_its_places(name):
    shared = Step()
    network = nn.Sequential(nn.Sequential(*[shared] * 3), shared)
    found = measured(network, X, blocks=[name])
    assert [each for each, _ in found] == ["0.0", *(f"0.0 (call {count})" for count in (2, 3, 4))]


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.LazyConv2d(3, 1), nn.LazyBatchNorm2d()
        self.unused = nn.LazyLinear(2)

    def forward(self, x):
        return x + self.norm(self.inner(x))


@pytest.mark.parametrize("blocks", [None, ["1"]])
def test_lazy_modules_are_built_by_what_is_read(blocks):
    network, x = nn.Sequential(nn.LazyConv2d(3, 1), Lazy()), torch.randn(2, 2, 4, 4)
    network[1].idle = nn.LazyBatchNorm2d()  # called nowhere
    (name, growth), *_ = measured(network, x, blocks=blocks)
    assert name == "1" and growth == measured(network, x, blocks=blocks)[0][1]
    assert network[1].norm.training and not bool(network[1].norm.running_mean.any())
    assert torch.nn.parameter.is_lazy(network[1].unused.weight)
