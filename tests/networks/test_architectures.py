"""Named architectures: counts of parameters from the literature, and what each product promises."""

import inspect
import warnings

import numpy as np
import pytest
import torch

import keelnet as kn
from keelnet.networks import architectures
from keelnet.networks.network import blocks_of

PYRAMIDS = (
    "residual",
    "antisymmetric",
    "hamiltonian",
    "double_hamiltonian",
    "parabolic",
    "second_order",
)

# Ruthotto & Haber 2020, table 1: 3 steps a block, a norm with scale and bias after every kernel.
PUBLISHED = [
    ("double_hamiltonian", 10, (16, 32, 64, 128), 128, 324_794),
    ("double_hamiltonian", 10, (32, 64, 112), 112, 264_106),
    ("double_hamiltonian", 100, (32, 64, 128), 256, 362_180),
    ("parabolic", 10, (16, 32, 64, 128), 128, 618_554),
    ("parabolic", 10, (32, 64, 112), 112, 502_570),
    ("parabolic", 100, (32, 64, 128), 256, 652_484),
]


@pytest.mark.parametrize(("name", "classes", "width", "closing", "count"), PUBLISHED)
def test_parameters_are_as_many_as_published(name, classes, width, closing, count):
    network = getattr(architectures, name)(
        3, classes, width=width, closing=closing, dim=2, depth=3, norm=kn.ChannelNorm()
    )
    assert sum(value.numel() for value in network.parameters()) == count


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_every_parameter_gets_a_gradient(name, dim):
    network = getattr(architectures, name)(2, 3, dim=dim, width=8, depth=3)
    x = torch.randn(5, 2, *(6,) * dim)
    logits = network(x)
    assert logits.shape == (5, 3)
    logits.square().sum().backward()
    assert all(value.grad is not None for value in network.parameters())


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_pixel_classifier_decides_at_every_pixel_with_the_same_parameters(name, dim):
    make = getattr(architectures, name)
    networks = [make(2, 3, dim=dim, width=8, depth=2, classifier=per) for per in ("image", "pixel")]
    states = [network.state_dict() for network in networks]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    x = torch.randn(2, 2, *range(5, 5 + dim))
    image, pixel = (network(x) for network in networks)
    assert pixel.shape == (2, 3, *x.shape[2:])
    torch.testing.assert_close(pixel.flatten(2).mean(2), image)


@pytest.mark.parametrize("settings", [{"dim": 0}, {"dim": 2, "width": (4, 8)}])
def test_a_pixel_classifier_needs_the_resolution_of_the_input(settings):
    with pytest.raises(ValueError, match="pixel.*needs dim 1 … 3 and one width"):
        architectures.residual(2, 3, classifier="pixel", **settings)
    with pytest.raises(ValueError, match="per must be"):
        architectures.residual(2, 3, dim=2, classifier="voxel")


@pytest.mark.parametrize("name", PYRAMIDS)
def test_features_then_classifier_is_the_network(name):
    network = getattr(architectures, name)(2, 3, width=8, depth=3)
    x = torch.randn(5, 2)
    torch.testing.assert_close(network.classifier(network.features(x)), network(x))


@pytest.mark.parametrize("name", PYRAMIDS)
def test_the_seed_decides_the_parameters(name):
    make = getattr(architectures, name)
    one, again, other = (make(2, 3, width=8, depth=2, seed=seed) for seed in (0, 0, 1))
    x = torch.randn(4, 2)
    assert torch.equal(one(x), again(x))
    assert not torch.equal(one(x), other(x))


@pytest.mark.parametrize("name", ["hamiltonian", "double_hamiltonian", "second_order"])
def test_reversible_is_the_default_where_the_method_allows_it(name):
    network = getattr(architectures, name)(2, 3, width=8)
    assert [block.strategy for block in blocks_of(network)] == [kn.reversible]


@pytest.mark.parametrize("name", ["residual", "antisymmetric", "parabolic"])
def test_reversible_is_refused_where_the_method_does_not_allow_it(name):
    make = getattr(architectures, name)
    assert [block.strategy for block in blocks_of(make(2, 3, width=8))] == [kn.checkpointed]
    with pytest.raises(ValueError, match="use strategy=kn.checkpointed"):
        make(2, 3, width=8, strategy=kn.reversible)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": (8, 16)}, "several widths need a resolution"),
        ({"width": 0}, "width must be an integer of at least 1"),
        ({"width": ()}, "width"),
        ({"depth": 0}, "depth"),
        ({"dim": 4}, "dim must be 1, 2 or 3"),
        ({"dim": 2, "stencil": 4}, "odd"),
        ({"activation": "tnh"}, "unknown activation"),
        ({"final_time": -1}, "final_time"),
        ({"knots": 0}, "knots"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        architectures.residual(2, 3, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain": 0.3}, "unknown settings gain; known are dim, width"),
        ({"depth": 1.5}, "depth must be an integer, or one a level in a list; got 1.5"),
        ({"width": 8.0}, "width must be an integer"),
        ({"rise": 0.5}, "rise must be an integer"),
    ],
)
def test_bad_settings_of_the_segmenter_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        architectures.segmenter(4, 3, **settings)


@pytest.mark.parametrize("name", ["hamiltonian", "double_hamiltonian"])
def test_a_width_that_cannot_be_halved_is_refused(name):
    with pytest.raises(ValueError, match="so even; got 7"):
        getattr(architectures, name)(2, 3, width=7)


@pytest.mark.parametrize("name", [*PYRAMIDS, "segmenter"])
def test_every_public_architecture_is_documented(name):
    assert inspect.getdoc(getattr(kn.architectures, name))


@pytest.mark.parametrize("name", ["hamiltonian", "antisymmetric"])
def test_a_network_with_norms_is_judged_by_its_growth(name):
    network = getattr(architectures, name)(
        2, 3, width=4, depth=2, norm=kn.ChannelNorm(), damping=0.1
    )
    network(torch.randn(3, 2))
    (row,) = kn.analysis.stability(network, torch.randn(3, 2)).blocks
    assert row.step_bound is None and row.amplification is None
    assert row.verdict in ("grows", "does not grow")


def test_automatic_damping_under_a_norm_is_warned_of_once():
    network = architectures.antisymmetric(2, 3, width=4, depth=2, norm=kn.ChannelNorm())
    with pytest.warns(kn.StabilityWarning, match="chosen for the map without its norm"):
        network(torch.randn(3, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(torch.randn(3, 2))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ["residual", "hamiltonian", "segmenter"])
def test_numbers_of_numpy_are_taken_as_numbers(name):
    make, of = getattr(architectures, name), np.int64
    one = make(2, 3, dim=2, width=4, depth=2)
    other = make(of(2), of(3), dim=2, width=of(4), depth=of(2))
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(one(x), other(x))
    wide = make(2, 3, dim=2, width=[of(4), of(8)], depth=of(2))
    assert torch.equal(wide(x), make(2, 3, dim=2, width=(4, 8), depth=2)(x))


@pytest.mark.parametrize("width", [4.5, None, True, "wide"])
def test_a_width_that_is_no_number_is_refused(width):
    with pytest.raises(ValueError, match="width must be an integer"):
        architectures.residual(2, 3, width=width)


@pytest.mark.parametrize("name", ["hamiltonian", "segmenter"])
def test_a_network_of_images_may_lie_channels_last(name):
    network = getattr(architectures, name)(1, 3, dim=2, width=4, depth=2)
    x = torch.randn(2, 1, 8, 8)
    expected, weights = network(x), [*network.parameters()]
    network.to(memory_format=torch.channels_last)
    assert all(a is b for a, b in zip(weights, network.parameters(), strict=True))
    assert network.opening.weight.is_contiguous(memory_format=torch.channels_last)
    found = network(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
