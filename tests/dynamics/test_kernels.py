"""Laws of kernels: the adjoint is exact, and the norm bounds the operator from above, closely."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import KERNELS, SQUARE, KernelCase, randn

import keelnet as kn

SEEDS = st.integers(0, 2**31 - 1)
ODD = st.sampled_from((1, 3, 5))
EVERY_KERNEL = pytest.mark.parametrize("case", KERNELS.values(), ids=KERNELS)
EVERY_SQUARE = pytest.mark.parametrize(
    "case", [KERNELS[n] for n in sorted(SQUARE)], ids=sorted(SQUARE)
)


@st.composite
def convolutions(draw):
    """The arguments of a ConvKernel, and a grid for it."""
    dim, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    inputs, outputs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    stencil, space = draw(st.tuples(*[ODD] * dim)), draw(st.tuples(*[st.integers(1, 5)] * dim))
    return (inputs, dim, stencil, outputs, groups), space


def check_adjoint(case, seed):
    kernel = case.kernel
    weight = randn(*kernel.weight_shape, seed=seed)
    y, x = case.states(kernel.inputs, seed + 1), case.states(kernel.outputs, seed + 2)
    there, back = kernel.apply(weight, y), kernel.adjoint(weight, x)
    assert there.shape == x.shape and back.shape == y.shape
    size = float(there.norm() * x.norm() + y.norm() * back.norm()) + 1
    assert abs(float((there * x).sum() - (y * back).sum())) < 1e-13 * size


@given(st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_the_adjoint_identity_holds_for_any_dense_kernel(n, k, seed):
    check_adjoint(KernelCase(kn.DenseKernel(n, k)), seed)


@given(convolutions(), SEEDS)
def test_the_adjoint_identity_holds_for_any_convolution(drawn, seed):
    arguments, space = drawn
    check_adjoint(KernelCase(kn.ConvKernel(*arguments), space), seed)


@EVERY_KERNEL
def test_the_adjoint_is_the_transposed_matrix(case):
    kernel = case.kernel
    weight = randn(*kernel.weight_shape, seed=1)
    z = case.states(kernel.outputs, 2, batch=1)
    expected = case.matrix(weight).T @ z.flatten()
    torch.testing.assert_close(kernel.adjoint(weight, z).flatten(), expected)


@EVERY_KERNEL
def test_kernels_are_linear_and_know_no_neighbour_in_the_batch(case):
    kernel = case.kernel
    weight, other = randn(2, *kernel.weight_shape)
    y = case.states(kernel.inputs, batch=3)
    both = kernel.apply(2 * weight + other, y)
    torch.testing.assert_close(both, 2 * kernel.apply(weight, y) + kernel.apply(other, y))
    torch.testing.assert_close(both[1:2], kernel.apply(2 * weight + other, y[1:2]))


@EVERY_SQUARE
def test_the_transposed_weight_acts_as_the_adjoint(case):
    kernel = case.kernel
    weights = randn(2, 3, *kernel.weight_shape)
    x = case.states(kernel.outputs)
    turned = kernel.transposed(weights)
    assert turned.shape == weights.shape
    torch.testing.assert_close(kernel.apply(turned[1, 2], x), kernel.adjoint(weights[1, 2], x))
    assert torch.equal(kernel.transposed(turned), weights)


@EVERY_SQUARE
def test_the_antisymmetric_weight_only_rotates(case):
    weight = randn(*case.kernel.weight_shape)
    matrix = case.matrix(case.kernel.antisymmetric(weight))
    torch.testing.assert_close(matrix, -matrix.T)
    full = case.matrix(weight)
    torch.testing.assert_close(matrix, (full - full.T) / 2)


@EVERY_KERNEL
def test_norms_bound_the_operator_from_above(case):
    weights = randn(3, *case.kernel.weight_shape)
    true = torch.stack([torch.linalg.matrix_norm(case.matrix(each), 2) for each in weights])
    bounds = case.kernel.norms(weights)
    assert bool((true <= bounds * (1 + 1e-12)).all())
    if not case.space:
        torch.testing.assert_close(bounds, true)


@pytest.mark.parametrize(
    ("kernel", "space"),
    [
        (kn.ConvKernel(2, 1, 3), (60,)),
        (kn.ConvKernel(2, 1, 7, 3), (80,)),
        (kn.ConvKernel(4, 1, 5, groups=2), (60,)),
        (kn.ConvKernel(1, 2, 3), (26, 26)),
    ],
    ids=["1-D", "1-D 2x3", "1-D grouped", "2-D"],
)
def test_norms_are_within_7_percent_on_a_large_grid(kernel, space):
    weight = randn(1, *kernel.weight_shape)
    true = torch.linalg.matrix_norm(KernelCase(kernel, space).matrix(weight[0]), 2)
    assert 1 <= float(kernel.norms(weight)[0] / true) < 1.07


def test_norms_of_100_channels_are_at_most_4_percent_too_large():
    """At one frequency, of a matrix that is the worst: all its singular values are the largest."""
    weight = torch.linalg.qr(randn(100, 100)).Q[None, :, :, None]
    norm = float(kn.ConvKernel(100, 1, 1).norms(weight)[0])
    assert 1 - 1e-9 <= norm <= 1.04


@given(convolutions(), SEEDS)
def test_norms_lie_between_the_symbol_and_7_percent_more(drawn, seed):
    """The symbol on a fine grid of frequencies: its maximum is the norm on the whole lattice."""
    kernel = kn.ConvKernel(*drawn[0])
    weight = randn(1, *kernel.weight_shape, seed=seed)
    fine = 97 if kernel.dim == 1 else 41
    axes = tuple(range(3, 3 + kernel.dim))
    symbol = torch.fft.fftn(weight, s=(fine,) * kernel.dim, dim=axes).flatten(3)
    grouped = symbol[0].unflatten(0, (kernel.groups, -1)).movedim(-1, 0)
    seen = float(torch.linalg.matrix_norm(grouped, 2).max())
    bound = float(kernel.norms(weight)[0])
    assert seen <= bound * (1 + 1e-12)
    assert bound <= 1.07 * seen / math.cos(math.pi * 2 / fine) ** kernel.dim


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EVERY_KERNEL
def test_norms_of_half_precision_weights_are_those_of_single(case, dtype):
    weights = randn(2, *case.kernel.weight_shape, dtype=dtype)
    assert torch.equal(case.kernel.norms(weights), case.kernel.norms(weights.float()))


@EVERY_KERNEL
def test_a_random_weight_of_variance_one_over_fan_in_keeps_the_mean_square(case):
    """Away from the border: each output is a sum of fan-in products."""
    kernel = case.kernel
    weight = torch.ones(kernel.weight_shape, dtype=torch.float64)
    wide = [9] * len(case.space)
    reached = kernel.apply(weight, torch.ones(1, kernel.inputs, *wide, dtype=torch.float64))
    assert float(reached.max()) == kernel.fan_in


@EVERY_KERNEL
def test_per_channel_values_broadcast_against_the_state(case):
    kernel = case.kernel
    values = randn(kernel.outputs)
    state = case.states(kernel.outputs)
    moved = (state + kernel.per_channel(values)).movedim(kernel.channel_axis, 0)
    for channel, value in enumerate(values):
        before = state.select(kernel.channel_axis, channel)
        torch.testing.assert_close(moved[channel], before + value)
    scalar = torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(state + kernel.per_channel(scalar), state + 0.5)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kn.DenseKernel(0), "DenseKernel n must be an integer of at least 1, got 0"),
        (lambda: kn.DenseKernel(2.5), "got 2.5"),
        (lambda: kn.DenseKernel(True), "got True"),
        (lambda: kn.DenseKernel(3, -1), "DenseKernel k"),
        (lambda: kn.ConvKernel(0), "ConvKernel channels"),
        (lambda: kn.ConvKernel(2, dim=4), "dim must be 1, 2 or 3, got 4"),
        (lambda: kn.ConvKernel(2, dim=[2]), "dim must be 1, 2 or 3, got [2]"),
        (lambda: kn.ConvKernel(2, stencil=4), "stencil must be odd"),
        (lambda: kn.ConvKernel(2, 2, (3, 2)), "got (3, 2)"),
        (lambda: kn.ConvKernel(2, 2, (3, 3, 3)), "a tuple of 2, got (3, 3, 3)"),
        (lambda: kn.ConvKernel(2, 2, 3.0), "got 3.0"),
        (lambda: kn.ConvKernel(2, 2, 0), "stencil must be an integer of at least 1, got 0"),
        (lambda: kn.ConvKernel(2, out_channels=0), "out_channels"),
        (lambda: kn.ConvKernel(3, groups=2), "got 2 groups for 3 and 3 channels"),
        (lambda: kn.ConvKernel(4, out_channels=3, groups=2), "for 4 and 3 channels"),
    ],
)
def test_kernels_refuse_what_cannot_work(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (kn.DenseKernel(3), (2, 4)),
        (kn.DenseKernel(3), ()),
        (kn.ConvKernel(3, 2), (2, 4, 5, 5)),
        (kn.ConvKernel(3, 2), (3, 5, 5)),
        (kn.ConvKernel(3, 2), (2, 3, 5, 5, 5)),
        (kn.ConvKernel(3, 1), (2, 5, 3)),
    ],
)
def test_states_of_another_shape_are_refused_by_name(kernel, shape):
    with pytest.raises(ValueError, match=re.escape(f"got {shape}")):
        kernel.check_state(torch.zeros(shape), 3)


@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    exponent=st.integers(-150, 150),
    seed=SEEDS,
)
def test_dense_norms_are_the_same_with_and_without_a_graph(sizes, exponent, seed):
    kernel = kn.DenseKernel(*sizes)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, *sizes, generator=generator, dtype=torch.float64) * 10.0**exponent
    exact = torch.linalg.svdvals(weights)[:, 0]
    assert torch.allclose(kernel.norms(weights), exact, rtol=1e-12, atol=0)
    assert torch.allclose(kernel.norms(weights.requires_grad_()), exact, rtol=1e-12, atol=0)


def test_the_norm_of_a_zero_matrix_is_zero():
    assert kn.DenseKernel(3, 2).norms(torch.zeros(2, 3, 2)).tolist() == [0, 0]


class Cubed(kn.Kernel):
    """Not linear in its weight: K = w³, entry by entry."""

    channel_axis = -1
    inputs = outputs = 3
    weight_shape = (3, 3)

    def apply(self, weight, y):
        return y @ weight**3

    def adjoint(self, weight, z):
        return z @ weight.T**3

    def per_channel(self, values):
        return values

    def symbol(self, weights):
        return weights**3, 1.0

    def check_state(self, y, channels):
        assert y.shape[-1] == channels


def test_a_kernel_that_is_not_linear_needs_no_transposed_weight():
    field, controls = kn.AntisymmetricField(Cubed(), damping="auto"), {"weight": randn(4, 3, 3)}
    controls["weight"] *= 0.5
    same = {"weight": controls["weight"] ** 3}
    expected = kn.AntisymmetricField(kn.DenseKernel(3), damping="auto")
    torch.testing.assert_close(
        kn.propagate(kn.Euler(), field, randn(2, 3), controls, 0.1),
        kn.propagate(kn.Euler(), expected, randn(2, 3), same, 0.1),
    )


def test_a_kernel_that_is_linear_is_asked_for_its_transposed_weight_in_words():
    class Linear(Cubed):
        linear = True

    with pytest.raises(NotImplementedError, match="write transposed, or leave out linear"):
        Linear().antisymmetric(randn(3, 3))


KINDS = [kn.DenseKernel(5), kn.ConvKernel(4, 1), Cubed()]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kernel", KINDS, ids=["dense", "conv", "not linear"])
def test_norms_are_the_same_under_autocast(kernel, graph, half):
    weights = randn(2, *kernel.weight_shape, dtype=torch.float32).requires_grad_(graph)
    for norms in (kernel.norms, kernel.skew_norms):
        with torch.autocast("cpu", half):
            within = norms(weights)
        assert within.dtype == torch.float32
        torch.testing.assert_close(within, norms(weights), rtol=0, atol=0)
    assert kn.DenseKernel(5).norms(randn(2, 5, 5, dtype=half)).dtype == torch.float32
