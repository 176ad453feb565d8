"""The segmenter: a class for every pixel, in memory that its depths do not change."""

import pytest
import torch

import keelnet as kn
from keelnet.analysis.memory import saved_bytes
from keelnet.networks.network import blocks_of
from keelnet.propagation.engines.conv import Conv


def small(inputs=1, **settings):
    given = {"dim": 2, "width": (4, 8), "depth": 2} | settings
    return kn.architectures.segmenter(inputs, 4, **given)


@pytest.mark.parametrize(("dim", "side"), [(2, 16), (3, 8)])
@pytest.mark.parametrize("width", [(4,), (4, 8), (4, 6, 8)])
def test_logits_have_the_space_of_the_image(dim, side, width):
    network = small(dim=dim, width=width)
    assert network(torch.randn(2, 1, *(side,) * dim)).shape == (2, 4, *(side,) * dim)


@pytest.mark.parametrize("folds", [1, 2])
def test_folds_work_at_a_coarser_resolution_and_lose_nothing(folds):
    network = small(dim=3, folds=folds, rise=1)
    x = torch.randn(2, 1, 16, 8, 8)
    assert network.features(x).shape[2:] == tuple(side // 2**folds for side in x.shape[2:])
    assert network(x).shape == (2, 4, 16, 8, 8)
    assert network.opening.kernel.inputs == 8**folds
    with pytest.raises(ValueError, match="even sides"):
        network(x[:, :, :15])


def test_the_way_up_has_layers_of_its_own():
    network = small(width=(4, 6, 8), depth=(1, 2, 3), rise=(2, 0))
    assert [block.depth for block in blocks_of(network)] == [1, 2, 3, 2]


SHAPES = (
    {},
    {"width": (4,)},
    {"depth": (0, 2)},
    {"depth": (0, 2), "rise": 1},
    {"depth": (2, 1), "rise": 2, "folds": 1},
    {"width": (4, 6, 8), "depth": (0, 1, 2), "rise": (2, 1), "dim": 3},
)


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr("keelnet.networks.segmentation.LARGE", 0)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
def test_strategies_give_the_same_gradients(strategy, shape):
    x = torch.randn(3, 1, *(8,) * shape.get("dim", 2), dtype=torch.float64, requires_grad=True)
    gradients = []
    for chosen in (kn.store_all, strategy):
        network = small(strategy=chosen, seed=3, **shape).double()
        network(x).square().mean().backward()
        gradients.append([x.grad, *(value.grad for value in network.parameters())])
        x.grad = None
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_those_of_the_features_in_training_and_in_use(shape):
    network = small(seed=3, **shape).double()
    x = torch.randn(3, 1, *(8,) * shape.get("dim", 2), dtype=torch.float64)
    training = network(x)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), training, rtol=1e-12, atol=1e-14)
        if not network.folds:
            features = network.classifier(network.features(x))
            torch.testing.assert_close(features, training, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("asked", [{"products": "bfloat16"}, {"name": "reference"}, {}], ids=str)
@pytest.mark.parametrize("shape", SHAPES[3:], ids=str)
def test_a_way_up_that_is_computed_again_goes_by_the_engine_it_went_by(monkeypatch, shape, asked):
    """The gradient is taken outside of its block. One sample: products in bfloat16 round once a call."""
    x = torch.randn(1, 1, *(8,) * shape.get("dim", 2))
    gradients, taken, forward = [], [], Conv.forward

    def counted(self, *given, **settings):
        taken.append(self.precision)
        return forward(self, *given, **settings)

    monkeypatch.setattr(Conv, "forward", counted)
    products = set() if asked.get("name") == "reference" else {asked.get("products", "state")}
    for large in (1 << 40, 0):
        monkeypatch.setattr("keelnet.networks.segmentation.LARGE", large)
        network = small(seed=3, **shape)
        with kn.engine(**asked):
            loss = network(x).square().mean()
        assert set(taken) == products
        taken.clear()
        with kn.engine("reference" if not asked else "auto"):
            loss.backward()
        assert set(taken) == (set() if large else products)
        taken.clear()
        gradients.append([value.grad for value in network.parameters()])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6 * float(expected.norm()))


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("shape", SHAPES[2:5], ids=str)
def test_a_way_up_is_computed_again_by_the_tensors_that_stood_in_for_its_parameters(shape):
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    gradients = []
    for strategy in (kn.store_all, kn.reversible):
        network = small(strategy=strategy, seed=3, **shape).double()
        given = {n: (2 * p).detach().requires_grad_() for n, p in network.named_parameters()}
        loss = torch.func.functional_call(network, given, (x,)).square().mean()
        gradients.append(torch.autograd.grad(loss, [*given.values()]))
        assert all(value.grad is None for value in network.parameters())
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_nothing_of_a_large_way_up_is_kept(monkeypatch):
    x = torch.randn(4, 1, 64, 64)
    monkeypatch.setattr("keelnet.networks.segmentation.LARGE", x.numel() * 8 * 4 - 1)
    kept = []
    for strategy in (kn.store_all, kn.reversible):
        network = small(width=(8, 4), depth=(0, 1), rise=1, strategy=strategy)
        kept.append(saved_bytes(lambda network=network: network(x), excluded=network.parameters()))
    one = 4 * 8 * 64 * 64 * 4  # bytes of the finest features
    assert kept[0] > 2 * one and kept[1] < one


@pytest.mark.parametrize("large", [1 << 40, 0])
@pytest.mark.parametrize("folds", [0, 1])
def test_saved_memory_does_not_depend_on_the_depths(monkeypatch, folds, large):
    monkeypatch.setattr("keelnet.networks.segmentation.LARGE", large)
    x = torch.randn(2, 1, *(8 << folds,) * 3)

    def kept(layers, strategy=kn.reversible):
        network = small(dim=3, depth=layers, rise=layers, folds=folds, strategy=strategy)
        return saved_bytes(lambda: network(x), excluded=network.parameters())

    found = [kept(layers) for layers in (2, 8, 32)]
    assert max(found) <= 1.03 * min(found)
    assert kept(8, kn.store_all) > 2 * max(found)


LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("shape", [{}, {"folds": 1}, {"width": (4,), "depth": 0}], ids=str)
@pytest.mark.parametrize("dim", LAYOUTS)
@pytest.mark.parametrize("inputs", [1, 3])
def test_states_lie_channels_last_at_every_level(inputs, dim, shape):
    """Also where no block turns them; in float32, which oneDNN convolves."""
    settings = {"width": (4, 8), "depth": (0, 1)} | shape
    network = small(inputs, dim=dim, **settings)
    states = []
    parts = [network.opening, *(down[0] for down in network.down)]
    for part in parts:
        part.register_forward_hook(lambda module, given, value: states.append(value))
    x = torch.randn(2, inputs, *(8,) * dim)
    states.append(network.features(x))
    assert len(states) == 1 + len(parts)
    assert all(state.is_contiguous(memory_format=LAYOUTS[dim]) for state in states)


def test_an_image_that_lies_channels_last_is_not_copied_and_none_is_kept_twice():
    network = small(inputs=3, depth=(0, 1))
    x = torch.randn(2, 3, 8, 8)
    last = x.contiguous(memory_format=torch.channels_last)
    kept = [
        saved_bytes(lambda image=image: network(image), excluded=network.parameters())
        for image in (x, last)
    ]
    assert kept[0] == kept[1]
    opened = []
    network.opening.register_forward_pre_hook(lambda module, given: opened.extend(given))
    network(last)
    assert opened[0] is last


def test_images_may_be_a_batch_of_torch_func():
    network = small(inputs=3, depth=0).double()
    x = torch.randn(4, 2, 3, 8, 8, dtype=torch.float64)
    found = torch.func.vmap(network)(x)
    torch.testing.assert_close(found, torch.stack([network(each) for each in x]))


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
def test_gradients_after_and_within_torch_func_are_those_without_it(strategy):
    """Nothing is computed again there, for which a transform has no way."""
    network = small(depth=0, seed=3, strategy=strategy).double()
    x, named = torch.randn(3, 1, 8, 8, dtype=torch.float64), dict(network.named_parameters())
    expected = torch.autograd.grad(network(x).square().sum(), [*named.values()])
    each = torch.func.vmap(network)(x[:, None])
    torch.testing.assert_close(
        torch.autograd.grad(each.square().sum(), [*named.values()]), expected
    )

    def loss(given):
        return torch.func.functional_call(network, given, (x,)).square().sum()

    within = torch.func.grad(loss)({name: value.detach() for name, value in named.items()})
    torch.testing.assert_close(tuple(within.values()), expected)


def test_depth_zero_leaves_a_level_without_layers():
    network = small(depth=(0, 3))
    assert [block.depth for block in blocks_of(network)] == [3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": (4, 7)}, "so even; got 7"),
        ({"depth": (2, 2, 2)}, r"depth needs one number a level \(2\)"),
        ({"depth": -1}, "depth"),
        ({"rise": (1, 1)}, r"rise needs one number a level \(1\)"),
        ({"folds": 4}, "folds must be 0, 1, 2 or 3"),
        ({"width": ()}, "width"),
        ({"dim": 0}, "dim"),
        ({"stencil": 2}, "odd"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="needs a divisible space"):
        small()(torch.randn(1, 1, 9, 8))


def test_a_wrong_channel_count_is_refused():
    with pytest.raises(ValueError, match="needs a state"):
        small()(torch.randn(1, 2, 8, 8))


def test_gradients_of_a_way_up_that_is_computed_again_can_be_taken_again(monkeypatch):
    monkeypatch.setattr("keelnet.networks.segmentation.LARGE", 0)
    network = small(strategy=kn.checkpointed).double()
    value = network(torch.randn(2, 1, 8, 8, dtype=torch.float64)).square().sum()
    first, second = (
        torch.autograd.grad(value, [*network.parameters()], retain_graph=True) for _ in range(2)
    )
    torch.testing.assert_close(first, second)
