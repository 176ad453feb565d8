"""Connections: shapes, means that are kept, and refusals."""

import pytest
import torch

import keelnet as kn


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_pooling_keeps_the_mean_and_undoes_repetition(dim):
    x = torch.randn(2, 3, *(4,) * dim, dtype=torch.float64)
    pooled = kn.Pool(dim)(x)
    torch.testing.assert_close(pooled.mean(), x.mean())
    torch.testing.assert_close(kn.Pool(dim)(kn.Upsample(dim, mode="nearest")(x)), x)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_upsampling_keeps_constants(dim, mode):
    x = torch.full((1, 2, *(3,) * dim), 7.0, dtype=torch.float64)
    stretched = kn.Upsample(dim, 2, mode)(x)
    assert stretched.shape == (1, 2, *(6,) * dim)
    torch.testing.assert_close(stretched, torch.full_like(stretched, 7.0))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_linear_upsampling_takes_values_for_those_at_the_middles_of_cells(dim):
    """Between two of them it is linear, beyond the outermost constant."""
    coarse = torch.arange(5, dtype=torch.float64)
    fine = ((torch.arange(10, dtype=torch.float64) + 0.5) / 2 - 0.5).clamp(0, 4)
    for axis in range(2, 2 + dim):
        x, expected = (
            line.view([-1 if each == axis else 1 for each in range(2 + dim)]).expand(
                1, 1, *(len(line),) * dim
            )
            for line in (coarse, fine)
        )
        torch.testing.assert_close(kn.Upsample(dim)(x), expected)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_augmenting_appends_zeros(dim):
    x = torch.randn(2, 3, *(4,) * dim)
    wide = kn.Augment(5)(x)
    assert torch.equal(wide[:, :3], x)
    assert wide.shape == (2, 5, *(4,) * dim) and not wide[:, 3:].any()


@pytest.mark.parametrize("norm", [None, kn.ChannelNorm(), kn.InstanceNorm()])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_an_affine_map_with_unit_weights_is_its_formula(norm, activation):
    layer = kn.Affine(2, 2, dim=1, activation=activation, norm=norm).double()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2)[:, :, None])
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    expected = x if norm is None else norm.apply(x, 1)
    expected = expected + torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected if activation is None else expected.relu())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kn.Augment(0), "width"),
        (lambda: kn.Augment(2)(torch.ones(1, 3)), "cannot augment 3 channels to 2"),
        (lambda: kn.Pool(4), "dim"),
        (lambda: kn.Pool(2, 0), "factor"),
        (lambda: kn.Upsample(0), "dim"),
        (lambda: kn.Affine(2, 3)(torch.ones(1, 4)), r"\(batch, 2\)"),
        (lambda: kn.Classifier(2, 3, "voxel"), "per must be"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_a_classifier_by_image_reads_the_mean_over_space(dim):
    classifier = kn.Classifier(3, 4)
    y = torch.randn(2, 3, *(5,) * dim)
    mean = y.flatten(2).mean(2) if dim else y
    torch.testing.assert_close(classifier(y), classifier.linear(mean))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_classifier_by_pixel_treats_every_pixel_alike(dim):
    classifier = kn.Classifier(3, 4, "pixel")
    y = torch.randn(2, 3, *(5,) * dim)
    first = (0,) * dim
    logits = classifier(y)
    assert logits.shape == (2, 4, *(5,) * dim)
    torch.testing.assert_close(
        logits[(slice(None), slice(None), *first)],
        classifier.linear(y[(slice(None), slice(None), *first)]),
    )


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_batch_of_none_passes(dim):
    networks = [
        kn.architectures.hamiltonian(2, 3, dim=dim, width=(4, 8), depth=2),
        kn.architectures.segmenter(2, 3, dim=dim, width=(4, 8), depth=1, rise=1, folds=1),
    ]
    for network in networks:
        x = torch.zeros(0, 2, *(8,) * dim, requires_grad=True)
        logits = network(x)
        assert logits.shape[:2] == (0, 3)
        logits.sum().backward()
        assert x.grad.shape == x.shape
