"""Blocks are measured as they were called: tokens before them, masks beside them, tuples behind them."""

import math

import pytest
import torch
from torch import nn

import keelnet as kn

TOKENS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.read, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads
        self.register_buffer("mask", torch.full((16, 16), -math.inf).triu(1))

    def forward(self, x):
        samples, places, width = x.shape
        heads = (samples, places, self.heads, width // self.heads)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.read(x).chunk(3, -1))
        scores = q @ k.mT / math.sqrt(heads[-1]) + self.mask[:places, :places]
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class Causal(nn.Module):
    """A block of GPT."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width)
        self.rest = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x):
        x = x + self.attention(self.first(x))
        return x + self.rest(self.second(x))


class Language(nn.Module):
    """Tokens in, a dictionary out; blocks get names, and answer with tuples."""

    def __init__(self, blocks, width=8):
        super().__init__()
        self.words, self.places = nn.Embedding(20, width), nn.Embedding(16, width)
        self.h = nn.ModuleList(blocks)

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        keep = (tokens > 3).float()[..., None]
        for block in self.h:
            x = block(x, keep) if isinstance(block, Kept) else block(hidden_states=x)
            x = x[0] if isinstance(x, tuple) else x["x"] if isinstance(x, dict) else x
        return {"logits": x @ self.words.weight.T, "cache": None}


class Named(Causal):
    def forward(self, hidden_states):
        return (super().forward(hidden_states), None)


class Keyed(Causal):
    def forward(self, hidden_states):
        return {"seen": hidden_states.mean(), "x": super().forward(hidden_states)}


class Kept(nn.Module):
    """x + ½ · keep · x: the mask belongs to the sample."""

    def forward(self, x, keep):
        return x + 0.5 * keep * x


class Planted(nn.Module):
    def forward(self, hidden_states):
        return hidden_states + 0.5 * hidden_states


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS.int()], ids=["int64", "int32"])
@pytest.mark.parametrize("kind", [Named, Keyed])
def test_a_language_model_is_read_and_its_planted_block_found(kind, tokens):
    torch.manual_seed(0)
    network = Language([kind(), Planted(), kind()])
    with torch.no_grad():
        for block in (network.h[0], network.h[2]):
            block.attention.out.weight.mul_(0.01)
            block.rest[2].weight.mul_(0.01)
    report = kn.analysis.diagnose(network, tokens)
    assert [row.name for row in report.blocks] == ["h.0", "h.1", "h.2"]
    assert report.worst.name == "h.1" and report.worst.growth == pytest.approx(1.5, rel=1e-5)
    assert "largest: block h.1 multiplies a perturbation by 1.500" in str(report)
    assert '"largest": "h.1"' in report.to_json()


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_embedding_before_an_encoder_is_read(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    report = kn.analysis.diagnose(nn.Sequential(nn.Embedding(20, 8), encoder), TOKENS)
    assert [row.name for row in report.blocks] == ["1.layers.0", "1.layers.1"]


def test_the_growth_of_a_causal_block_is_that_of_its_jacobian():
    torch.manual_seed(0)
    network = Language([Named()]).double()
    (row,) = kn.analysis.diagnose(network, TOKENS[:1], iterations=200).blocks
    y = network.words(TOKENS[:1]) + network.places(torch.arange(7))
    exact = torch.func.jacrev(lambda y: network.h[0](y)[0])(y.detach()).detach().reshape(56, 56)
    assert row.growth == pytest.approx(float(torch.linalg.matrix_norm(exact, 2)), rel=1e-9)


def test_what_a_block_is_given_beside_its_features_stays_with_its_sample():
    tokens = torch.tensor([[1, 2, 3], [1, 5, 2], [0, 0, 0]])  # only the second keeps a place
    (row,) = kn.analysis.diagnose(Language([Kept()]), tokens).blocks
    assert (row.sample, row.name) == (1, "h.0")
    assert row.growth == pytest.approx(1.5, rel=1e-5) and row.smallest == pytest.approx(1.0)


@pytest.mark.parametrize("places", [2, 3])  # as many as samples: no mask is taken for a sample's
def test_masks_of_torch_are_passed_on(places):
    torch.manual_seed(0)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, x):
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            return self.encoder(x, mask=mask, is_causal=True)

    network = Masked()
    x = torch.randn(3, places, 8)
    together = kn.analysis.diagnose(network, x).blocks[0]
    apart = [kn.analysis.diagnose(network, each[None]).blocks[0].growth for each in x]
    assert together.growth == pytest.approx(max(apart), rel=1e-4)
    assert together.sample == apart.index(max(apart))


def test_a_block_that_is_called_again_is_measured_again():
    class Cubic(nn.Module):
        def forward(self, x):
            return x + x**3 / 3

    shared = Cubic()
    network = nn.Sequential(shared, nn.Identity(), shared)
    report = kn.analysis.diagnose(network, torch.full((1, 2), 0.5))
    assert [row.name for row in report.blocks] == ["0", "0 (call 2)"]
    assert report.blocks[0].growth == pytest.approx(1.25, rel=1e-6)
    assert report.blocks[1].growth == pytest.approx(1 + (0.5 + 0.125 / 3) ** 2, rel=1e-6)


def test_a_block_that_keeps_a_state_is_named():
    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.seen = nn.Linear(4, 4), []

        def forward(self, x):
            if self.seen and self.seen[-1].shape == x.shape and len(self.seen) > 2:
                raise RuntimeError("the cache is full")
            self.seen.append(x)
            return x + self.inner(x)

    with pytest.raises(ValueError, match=r"0 could be called once.*the cache is full.*use_cache"):
        kn.analysis.diagnose(nn.Sequential(Cache()), torch.ones(1, 4))


def test_a_block_that_remembers_what_it_read_is_refused():
    class Keys:
        """A cache as decoders pass it along."""

        def __init__(self):
            self.seen = []

    class Remembering(nn.Module):
        def forward(self, hidden_states, cache):
            cache.seen.append(hidden_states)
            return hidden_states + 0.1 * torch.stack(cache.seen).sum(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Remembering()

        def forward(self, x):
            return self.block(
                x, cache=Keys()
            )  # anew in each pass, so that the network itself is repeatable

    with pytest.raises(ValueError, match=r"block gives another value .*use_cache"):
        kn.analysis.diagnose(Network(), torch.ones(1, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
    torch.manual_seed(0)

    class Step(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner = nn.Linear(width, width)

        def forward(self, x):
            return x + 0.1 * torch.tanh(self.inner(x))

    narrow = nn.Sequential(Step(200)).to(dtype)
    x = torch.randn(2, 200).to(dtype)
    found = kn.analysis.diagnose(narrow, x, iterations=100, spectra=True)
    assert next(narrow.parameters()).dtype == dtype and "float32" in str(found.notes)
    (row,) = kn.analysis.diagnose(narrow.float(), x.float(), iterations=100).blocks
    assert found.blocks[0].growth == pytest.approx(row.growth, rel=1e-6)


def test_a_compiled_network_is_that_which_was_compiled():
    network = nn.Sequential(Planted())
    (row,) = kn.analysis.diagnose(torch.compile(network), torch.ones(1, 3)).blocks
    assert row.name == "0" and row.growth == pytest.approx(1.5)


class Timed(nn.Module):
    """y + t · y W, called as solvers of differential equations call: the time first."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.diag(torch.tensor([1.0, -0.5, 0.25])))

    def forward(self, t, y):
        return y + t * y @ self.weight


class Marched(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = Timed()

    def forward(self, y):
        for t in torch.linspace(0.5, 1.0, 2):
            y = self.step(t, y)
        return y


@pytest.mark.parametrize("blocks", [None, ["step"]])
def test_a_time_is_not_taken_for_the_features(blocks):
    report = kn.analysis.diagnose(Marched(), torch.ones(3, 3), blocks=blocks)
    assert [row.name for row in report.blocks] == ["step", "step (call 2)"]
    assert [row.growth for row in report.blocks] == pytest.approx([1.5, 2.0])


def test_a_loss_is_not_taken_for_the_answer():
    class Scored(nn.Module):
        def forward(self, y):
            return y.square().mean(), torch.cat([y, 0.5 * y], 1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Scored()

        def forward(self, x):
            return self.block(x)[1]

    (row,) = kn.analysis.diagnose(Network(), torch.ones(2, 3), blocks=["block"]).blocks
    assert row.growth == pytest.approx(1.25**0.5)


class Skipping(nn.Module):
    """Adds to a sum beside the features in place (WaveNet, van den Oord et al. 2016)."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, y, skip):
        z = torch.tanh(self.inner(y))
        skip += z
        return y + z, skip


class Wave(nn.Module):
    def __init__(self, expanded):
        super().__init__()
        self.blocks = nn.ModuleList([Skipping(), Skipping()])
        self.last, self.expanded = Bent(), expanded

    def forward(self, x):
        skip = torch.zeros(1, 1, 1) if self.expanded else torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x, skip.expand_as(x).clone() if self.expanded else skip)
        return self.last(skip)


class Bent(nn.Module):
    def forward(self, y):
        return y + y**3


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("size", [4, 50])
def test_what_a_block_changes_beside_its_features_goes_on_as_it_was(size, samples, expanded):
    torch.manual_seed(0)
    network, x = Wave(expanded).double(), torch.randn(samples, 2, size).double()
    reached = []
    handle = network.last.register_forward_pre_hook(lambda _, given: reached.append(given[0]))
    with torch.no_grad():
        network(x)
    handle.remove()
    row = kn.analysis.diagnose(network, x, iterations=200).blocks[-1]
    slopes = 1 + 3 * reached[0].square().max()
    assert row.name == "last" and row.growth == pytest.approx(float(slopes), rel=1e-3)


def test_a_row_beside_the_features_may_be_changed_though_it_is_repeated():
    """Of one sample it stands for many directions at once."""

    class Masked(nn.Module):
        def forward(self, y, mask):
            mask.add_(1)
            return y + 0.5 * mask * y

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Masked()

        def forward(self, x):
            return self.block(x, torch.zeros_like(x))

    (row,) = kn.analysis.diagnose(Network(), torch.ones(2, 3)).blocks
    assert row.growth == pytest.approx(1.5)


@pytest.mark.parametrize("within", [False, True])
def test_features_of_inference_mode_are_measured(within):
    """A frozen front hands them on, or blocks run within it."""

    class Frozen(nn.Module):
        def __init__(self, *parts):
            super().__init__()
            self.parts = nn.Sequential(*parts)

        def forward(self, x):
            with torch.inference_mode():
                return self.parts(x)

    block = Planted()
    network = Frozen(nn.Linear(4, 4), block) if within else nn.Sequential(Frozen(nn.Linear(4, 4)), block)  # fmt: skip
    (row,) = kn.analysis.diagnose(network, torch.randn(2, 4)).blocks
    assert row.growth == pytest.approx(1.5) and row.name == ("parts.1" if within else "1")


class Clocked(nn.Module):
    """y + t y, t of one number in all or one a sample."""

    def forward(self, t, y):
        return y + t.reshape(-1, 1) * y


class Timekeeper(nn.Module):
    def __init__(self, each):
        super().__init__()
        self.step, self.each = Clocked(), each

    def forward(self, y):
        return self.step(torch.full((len(y) if self.each else 1,), 0.5), y)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("blocks", [None, ["step"]])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_time_with_an_axis_is_not_taken_for_the_features(samples, blocks, each):
    (row,) = kn.analysis.diagnose(Timekeeper(each), torch.ones(samples, 4), blocks=blocks).blocks
    assert (row.growth, row.smallest) == pytest.approx((1.5, 1.5)) and row.name == "step"


def test_features_of_one_axis_are_features_where_there_are_no_others():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Planted()

        def forward(self, x):
            return self.block(hidden_states=x[:, 0])

    (row,) = kn.analysis.diagnose(Single(), torch.ones(3, 2), blocks=["block"]).blocks
    assert row.growth == pytest.approx(1.5)


class Framed(nn.Module):
    """h (frames, C, places) and an embedding (frames, E) of each frame, as blocks of video networks take them."""

    def __init__(self, seen):
        super().__init__()
        self.inner, self.embedded, self.seen = nn.Conv1d(2, 2, 3, padding=1), nn.Linear(3, 2), seen

    def forward(self, h, emb):
        self.seen.append(len(h))
        return h + torch.tanh(self.inner(h) + self.embedded(emb)[:, :, None])


class Video(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.block = Framed(self.seen)

    def forward(self, x):
        emb = torch.arange(12.0, dtype=x.dtype).sin().reshape(4, 3).repeat(len(x), 1)
        return self.block(x.flatten(0, 1), emb).reshape(x.shape)


@pytest.mark.parametrize("blocks", [None, ["block"]])
def test_rows_beside_the_features_are_not_spread_over_the_first_of_them(blocks):
    torch.manual_seed(0)
    network, x = Video().double(), torch.randn(2, 4, 2, 5).double()
    (row,) = kn.analysis.diagnose(network, x, blocks=blocks).blocks
    wanted = [
        torch.linalg.svdvals(torch.autograd.functional.jacobian(network, each[None]).reshape(40, 40))[[0, -1]]
        for each in x
    ]  # fmt: skip
    most, least = max(float(each[0]) for each in wanted), min(float(each[1]) for each in wanted)
    assert (row.growth, row.smallest) == pytest.approx((most, least), rel=1e-6)
