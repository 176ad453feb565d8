"""Laws of classifiers: what they read decides the logits, and a weight that is the same everywhere is a mean."""

import pytest
import torch
from problems import randn

import keelnet as kn
from keelnet.networks import Classifier, Network, SpatialClassifier
from keelnet.networks.network import (
    blocks_of,
    classifier_of,
    every_block,
    named_blocks,
    propagating,
)


@pytest.mark.parametrize(
    ("classifier", "space"),
    [
        (Classifier(3, 4), ()),
        (Classifier(3, 4), (2, 5)),
        (Classifier(3, 4, "pixel"), (2, 5)),
        (SpatialClassifier(3, (2, 5), 4), (2, 5)),
        (SpatialClassifier(3, (4,), 4), (4,)),
    ],
)
def test_logits_are_linear_in_what_is_read(classifier, space):
    classifier, y = classifier.double(), randn(6, 3, *space)
    linear = classifier.linear
    logits = classifier.read(y) @ linear.weight + linear.bias
    per_pixel = isinstance(classifier, Classifier) and classifier.per == "pixel"
    torch.testing.assert_close(classifier(y), logits.movedim(-1, 1) if per_pixel else logits)


def test_a_spatial_weight_that_is_the_same_everywhere_is_the_classifier_of_means():
    mean, spatial = Classifier(3, 4).double(), SpatialClassifier(3, (2, 5), 4).double()
    with torch.no_grad():
        weight = mean.linear.weight[:, None, :].expand(3, 10, 4)
        spatial.linear.weight.copy_(weight.reshape(30, 4))
        spatial.linear.bias.copy_(mean.linear.bias)
    y = randn(6, 3, 2, 5)
    torch.testing.assert_close(spatial(y), mean(y))


def test_features_of_another_space_are_refused():
    with pytest.raises(
        ValueError, match=r"features \(batch, 3, 2, 5\) were wanted, got \(6, 3, 5, 2\)"
    ):
        SpatialClassifier(3, (2, 5), 4)(torch.zeros(6, 3, 5, 2))
    with pytest.raises(ValueError, match="every size in space"):
        SpatialClassifier(3, (2, 0), 4)
    with pytest.raises(ValueError, match="every size in space"):
        SpatialClassifier(3, (), 4)


def test_the_one_classifier_is_found():
    net = kn.architectures.residual(2, 3, width=4, depth=2)
    assert classifier_of(net) is net.classifier
    twice = Network(torch.nn.Identity(), [Classifier(2, 2)], Classifier(2, 3))
    with pytest.raises(ValueError, match="Network has 2"):
        classifier_of(twice)


@pytest.mark.parametrize("name", ["residual", "hamiltonian"])
def test_other_parameters_can_stand_in_by_functional_call(name):
    net = getattr(kn.architectures, name)(2, 3, width=4, depth=3).double()
    others = {name: value.detach() + 0.1 for name, value in net.named_parameters()}
    x = randn(5, 2)
    found = torch.func.functional_call(net, others, (x,))
    net.load_state_dict(others)
    torch.testing.assert_close(found, net(x))


def test_blocks_and_those_within_them_have_their_own_settings_back():
    branch = kn.Block(kn.Euler(), kn.ModuleField(torch.nn.Linear(3, 3)), 2)
    net = kn.Block(kn.Euler(), kn.ModuleField(branch), 2, strategy=kn.checkpointed)
    outer, inner = every_block(net)
    inner.checked = False
    with (
        pytest.raises(KeyError),
        propagating(torch.nn.Sequential(net, net), strategy=kn.reversible, checked=True),
    ):
        assert all(each.strategy is kn.reversible and each.checked for each in (inner, outer))
        raise KeyError
    assert (inner.strategy, inner.checked) == (kn.store_all, False)
    assert (outer.strategy, outer.checked) == (kn.checkpointed, True)


def test_blocks_within_a_block_are_its_field_and_shared_ones_have_every_place():
    inner = kn.Block(kn.Euler(), kn.ModuleField(torch.nn.Linear(3, 3)), 2)
    branch = torch.nn.Sequential(inner, torch.nn.Linear(3, 3))
    outer = kn.Block(kn.Euler(), kn.ModuleField(branch), 2)
    net = torch.nn.Sequential(outer, inner, torch.nn.Sequential(outer))
    assert [*named_blocks(net)] == [("0", outer), ("1", inner), ("2.0", outer)]
    assert blocks_of(net) == [outer, inner]
    assert blocks_of(outer) == [outer]
