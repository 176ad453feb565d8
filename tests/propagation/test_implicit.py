"""Laws of the implicit half: the solve inverts I + h L, and stiffness puts no bound on the step."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import randn

import keelnet as kn
from keelnet.propagation.implicit import Diffusion

GRIDS = [(1,), (2,), (5,), (8,), (4, 5), (3, 2), (1, 4), (2, 3, 4), (3, 3, 3)]
ROOT = randn(4, 4, seed=3)
STIFF = ROOT @ torch.diag(torch.tensor([1.0, 1e2, 1e4, 1e6]).double()) @ ROOT.T
STIFF = (STIFF + STIFF.T) / 2


def dense_laplacian(space: tuple[int, ...], strength: float) -> torch.Tensor:
    """−Δ with periodic ends, one row a grid point: 2 dim on the diagonal, −1 a neighbour."""
    size = math.prod(space)
    points = torch.arange(size).reshape(space)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for axis in range(len(space)):
        for shift in (1, -1):
            neighbours = points.roll(shift, axis).flatten()
            matrix[points.flatten(), points.flatten()] += 1
            matrix.index_put_(
                (points.flatten(), neighbours), torch.tensor(-1.0).double(), accumulate=True
            )
    return strength * matrix


@pytest.mark.parametrize("space", GRIDS, ids=str)
def test_the_fourier_laplacian_is_the_periodic_matrix(space):
    y = randn(2, 3, *space)
    matrix = dense_laplacian(space, 0.7)
    diffusion = kn.LaplacianDiffusion(0.7)
    expected = (y.flatten(2) @ matrix).reshape(y.shape)
    torch.testing.assert_close(diffusion.apply(y), expected)
    identity = torch.eye(len(matrix), dtype=torch.float64)
    solved = torch.linalg.solve(identity + 0.3 * matrix, y.flatten(2), left=False)
    torch.testing.assert_close(diffusion.solve(y, 0.3), solved.reshape(y.shape))


@given(st.floats(1e-6, 1e6), st.floats(0, 1e3))
def test_solving_undoes_the_implicit_step(h, strength):
    y = randn(2, 2, 4, 3)
    diffusion = kn.LaplacianDiffusion(strength)
    solved = diffusion.solve(y, h)
    torch.testing.assert_close(solved + h * diffusion.apply(solved), y, rtol=1e-9, atol=1e-6)
    assert float(solved.norm()) <= float(y.norm()) * (1 + 1e-12)
    torch.testing.assert_close(solved.mean((2, 3)), y.mean((2, 3)))


@given(st.floats(1e-6, 1e2))
def test_cholesky_undoes_the_implicit_step_on_any_leading_axes(h):
    matrix = ROOT @ ROOT.T
    diffusion = kn.DenseDiffusion(matrix)
    y = randn(2, 3, 4)
    solved = diffusion.solve(y, h)
    torch.testing.assert_close(solved + h * diffusion.apply(solved), y)
    torch.testing.assert_close(diffusion.apply(y), y @ matrix)


def test_a_strength_of_one_number_may_have_axes():
    y, found = randn(2, 3, 6), []
    for shape in ((), (1,), (1, 1, 1, 1)):
        strength = torch.nn.Parameter(torch.full(shape, 0.7, dtype=torch.float64))
        kn.LaplacianDiffusion(strength).solve(y, 0.5).square().sum().backward()
        found.append(strength.grad.flatten())
    torch.testing.assert_close(found[1:], [found[0]] * 2)


def test_a_step_solves_for_the_new_state():
    """(I + h L) y₊ = y + h f(y, θ)."""
    field, weight, y = kn.SingleField(kn.DenseKernel(4)), randn(1, 4, 4), randn(2, 4)
    matrix = ROOT @ ROOT.T
    after = kn.propagate(kn.IMEX(kn.DenseDiffusion(matrix)), field, y, {"weight": weight}, 0.2)
    torch.testing.assert_close(after + 0.2 * after @ matrix, y + 0.2 * torch.tanh(y @ weight[0]))


def test_stiff_rows_stay_bounded_at_steps_far_above_the_explicit_limit():
    h, depth = 1.0, 300
    slowest, fastest = torch.linalg.eigvalsh(STIFF)[[0, -1]].tolist()
    assert h * fastest > 1e4 and slowest > 0
    weight = randn(4, 4).expand(depth, 4, 4)
    field = kn.SingleField(kn.DenseKernel(4))
    states = kn.trajectory(
        kn.IMEX(kn.DenseDiffusion(STIFF)), field, randn(3, 4), {"weight": weight}, h
    )
    # |f| ≤ 1 a channel: the norm contracts towards √n / λ_min.
    limit = max(float(states[0][0].norm(dim=1).max()), math.sqrt(4) / slowest)
    assert all(float(y.norm(dim=1).max()) <= limit * (1 + 1e-9) for (y,) in states)


def test_stiff_grids_stay_bounded_at_steps_far_above_the_explicit_limit():
    h, depth = 1.0, 300
    kernel = kn.ConvKernel(2, 2)
    weight = -0.3 * torch.eye(2).double()[:, :, None, None].expand(depth, 2, 2, 3, 3)
    y0 = randn(2, 2, 6, 5)
    method = kn.IMEX(kn.LaplacianDiffusion(1e5))
    states = kn.trajectory(method, kn.SingleField(kernel), y0, {"weight": weight}, h)
    assert all(float(y.abs().max()) < 2 * float(y0.abs().max()) for (y,) in states)
    roughness = float((states[1][0] - states[1][0].mean((2, 3), keepdim=True)).abs().max())
    assert roughness < 1e-4


def test_diffusion_may_be_learned():
    root = randn(3, 3, seed=5)
    field, weight, y0 = kn.SingleField(kn.DenseKernel(3)), randn(2, 3, 3), randn(2, 3)

    def final(root: torch.Tensor) -> torch.Tensor:
        method = kn.IMEX(kn.DenseDiffusion(root @ root.T))
        return kn.propagate(method, field, y0, {"weight": weight}, 0.2)

    assert torch.autograd.gradcheck(final, (root.requires_grad_(),))


@pytest.mark.parametrize("state", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("matrix", [torch.float32, torch.float64])
def test_the_solve_keeps_the_type_of_the_state_and_the_wider_precision(state, matrix):
    exact = torch.eye(4, dtype=matrix) / 4  # one quarter is exact in every type
    y = randn(2, 4, dtype=state)
    solved = kn.DenseDiffusion(exact).solve(y, 1.0)
    assert solved.dtype == state
    expected = (y.double() / 1.25).to(state)
    precision = torch.finfo(state).eps
    torch.testing.assert_close(solved, expected, rtol=4 * precision, atol=precision)
    grid = kn.LaplacianDiffusion().solve(randn(1, 1, 4, dtype=state), 1.0)
    assert grid.dtype == state


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kn.DenseDiffusion(randn(3, 4)), "a square matrix, got (3, 4)"),
        (lambda: kn.DenseDiffusion(randn(3)), "a square matrix, got (3,)"),
        (lambda: kn.DenseDiffusion(ROOT), "a symmetric matrix; use ½ (L + Lᵀ)"),
        (lambda: kn.DenseDiffusion(-torch.eye(2)), "its lowest eigenvalue is -1; pass A @ A.T"),
        (
            lambda: kn.LaplacianDiffusion(-1.0),
            "a finite number of at least 0, or a tensor of one; got -1.0",
        ),
        (lambda: kn.LaplacianDiffusion(math.nan), "got nan"),
        (lambda: kn.LaplacianDiffusion("1"), "got '1'"),
        (lambda: kn.LaplacianDiffusion(torch.ones(2)), "or a tensor of one; got tensor"),
        (lambda: kn.LaplacianDiffusion(torch.tensor(1j)), "or a tensor of one; got tensor"),
        (lambda: kn.IMEX(3), "a LaplacianDiffusion (FFT) or a DenseDiffusion (Cholesky), got 3"),
        (
            lambda: kn.DenseDiffusion(torch.eye(4)).solve(randn(2, 3), 0.1),
            "DenseDiffusion of 4 channels acts on the last axis of the state, got (2, 3)",
        ),
        (
            lambda: kn.LaplacianDiffusion().solve(randn(2, 3), 0.1),
            "needs space axes (batch, channels, *space), got (2, 3); use DenseDiffusion",
        ),
    ],
)
def test_other_diffusions_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("kernel", "diffusion", "message"),
    [
        (kn.ConvKernel(8, dim=2), kn.DenseDiffusion(torch.eye(8)), "use LaplacianDiffusion"),
        (kn.DenseKernel(8), kn.LaplacianDiffusion(), "use DenseDiffusion"),
    ],
)
def test_a_diffusion_along_another_axis_than_the_fields_is_refused(kernel, diffusion, message):
    """Sizes that happen to fit: a width of 8 beside 8 channels, a sequence beside features."""
    field = kn.SymmetricField(kernel)
    controls = kn.Control.random(field, 2).at_layers(2)
    y0 = torch.zeros(1, 8, 5, 8) if kernel.channel_axis == 1 else torch.zeros(1, 5, 8)
    with pytest.raises(ValueError, match=message):
        kn.propagate(kn.IMEX(diffusion), field, y0, controls, 0.1)


def test_a_matrix_for_points_and_an_axis_from_the_end_are_taken():
    field = kn.SymmetricField(kn.ConvKernel(3, dim=1))
    controls = kn.Control.random(field, 2).at_layers(2)
    y = kn.propagate(kn.IMEX(kn.DenseDiffusion(torch.eye(16))), field, torch.zeros(2, 3, 16), controls, 0.1)  # fmt: skip
    assert y.shape == (2, 3, 16)
    module = torch.nn.Conv2d(3, 3, 3, padding=1).double()
    ends = [
        kn.propagate(
            kn.IMEX(kn.LaplacianDiffusion()),
            kn.ModuleField(module, axis=axis),
            randn(1, 3, 8, 8),
            {},
            0.1,
            depth=2,
        )
        for axis in (1, -3)
    ]
    assert torch.equal(*ends)


def test_a_diffusion_of_a_users_own_needs_a_solve_and_a_product_only():
    class Uniform(Diffusion):
        def solve(self, y, h):
            return y / (1 + h)

        def apply(self, y):
            return y

    field = kn.SymmetricField(kn.DenseKernel(2), "identity")
    controls = {"weight": torch.zeros(3, 2, 2).double()}
    y = kn.propagate(kn.IMEX(Uniform()), field, torch.ones(1, 2).double(), controls, 0.5)
    torch.testing.assert_close(y, torch.full((1, 2), 1.5**-3).double())


def test_a_matrix_that_learned_to_be_indefinite_is_named():
    diffusion = kn.DenseDiffusion(torch.nn.Parameter(torch.eye(2)))
    with torch.no_grad():
        diffusion.matrix.mul_(-20)
    with pytest.raises(ValueError, match="no longer positive semidefinite"):
        diffusion.solve(torch.ones(1, 2), 0.1)


def test_a_matrix_on_another_device_than_the_state_is_named():
    with pytest.raises(ValueError, match="DenseDiffusion is on cpu, the state on meta; move one"):
        kn.DenseDiffusion(torch.eye(2)).solve(torch.ones(1, 2, device="meta"), 0.1)


@pytest.mark.parametrize("strength", [0.0, 1e-3, 1.0, 1e3])
def test_automatic_damping_is_the_least_that_holds_the_explicit_half(strength):
    """Whatever the implicit one takes away; at L = 0 the layer grows by 1 exactly."""
    field = kn.AntisymmetricField(kn.DenseKernel(4), "identity", damping="auto")
    method = kn.IMEX(kn.DenseDiffusion(strength * ROOT @ ROOT.T))

    def layer(y):
        return kn.propagate(method, field, y, {"weight": randn(1, 4, 4)}, 0.1)

    growth = float(torch.linalg.matrix_norm(torch.func.jacrev(layer)(randn(4)), 2))
    assert growth <= 1 + 1e-12
    if strength == 0:
        assert growth == pytest.approx(1)


def test_a_damping_that_an_explicit_half_cannot_have_says_by_how_much():
    field = kn.AntisymmetricField(kn.DenseKernel(2), "identity", damping="auto")
    weight = torch.tensor([[[0.0, 20.0], [-20.0, 0.0]]]).double()
    with pytest.warns(kn.StabilityWarning, match=r"it needs h ≤ 1 / ω = 0\.05; raise depth"):
        kn.propagate(kn.IMEX(kn.DenseDiffusion(torch.eye(2))), field, randn(1, 2), {"weight": weight}, 0.1)  # fmt: skip
