"""Laws of the solvers: conjugate gradients, forcing terms, the line search."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import randn

from keelnet.learning.solvers import Armijo, EisenstatWalker, Fixed, conjugate_gradients


def positive(n, seed):
    root = randn(n, n, seed=seed)
    return root @ root.T + 0.1 * torch.eye(n, dtype=torch.float64)


@given(n=st.integers(1, 12), seed=st.integers(0, 100), conditioned=st.booleans())
def test_conjugate_gradients_solve_any_positive_system(n, seed, conditioned):
    matrix, b = positive(n, seed), randn(n, seed=seed + 1)
    scale = matrix.diagonal() if conditioned else torch.ones_like(b)
    solution = conjugate_gradients(lambda v: matrix @ v, b, lambda r: r / scale, 1e-12, 10 * n)
    torch.testing.assert_close(matrix @ solution.x, b, rtol=1e-6, atol=1e-8)
    assert not solution.singular


def test_an_exact_preconditioner_solves_in_one_product():
    matrix, b = positive(8, 0), randn(8, seed=1)
    inverse = torch.linalg.inv(matrix)
    solution = conjugate_gradients(lambda v: matrix @ v, b, lambda r: inverse @ r, 1e-8, 50)
    assert solution.iterations == 1


@given(tolerance=st.floats(1e-6, 0.9), seed=st.integers(0, 20))
def test_it_stops_at_the_tolerance_and_its_step_always_descends(tolerance, seed):
    matrix, b = positive(10, seed), randn(10, seed=seed + 1)
    for most in (1, 3, 40):
        solution = conjugate_gradients(lambda v: matrix @ v, b, lambda r: r, tolerance, most)
        assert solution.x @ b > 0
        left = float((b - matrix @ solution.x).norm() / b.norm())
        assert solution.residual == pytest.approx(left, rel=1e-4, abs=1e-9)
        assert solution.residual <= tolerance or solution.iterations == most
        fewer = solution.iterations - 1
        before = conjugate_gradients(lambda v: matrix @ v, b, lambda r: r, tolerance, fewer)
        assert before.residual > tolerance


def test_a_direction_without_curvature_is_said():
    matrix = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    b = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert conjugate_gradients(lambda v: matrix @ v, b, lambda r: r, 1e-8, 10).singular
    none = conjugate_gradients(lambda v: matrix @ v, 0 * b, lambda r: r, 1e-8, 10)
    assert (none.iterations, none.residual, none.singular) == (0, 0.0, False)


def test_forcing_follows_the_gradient_within_its_limits():
    forcing = EisenstatWalker(most=0.5, least=1e-3)
    assert forcing.tolerance(None, None) == 0.5
    assert forcing.tolerance(0.1, 0.1) == pytest.approx(0.9 * 0.1**2)
    assert forcing.tolerance(1e-9, 0.1) == 1e-3
    assert forcing.tolerance(5.0, 0.1) == 0.5
    assert forcing.tolerance(0.1, 0.5) == pytest.approx(0.9 * 0.5**2)  # no sudden fall
    assert Fixed(0.2).tolerance(None, None) == Fixed(0.2).tolerance(3.0, 0.1) == 0.2


@given(scale=st.floats(0.1, 100.0))
def test_the_line_search_finds_a_step_that_decreases_enough(scale):
    search = Armijo(slope=1e-4)
    value = lambda t: 1 - t + scale * t**2  # noqa: E731
    t = search.length(1.0, -1.0, value)
    assert 0 < t <= 1 and value(t) <= 1 - 1e-4 * t
    assert t == 1 or value(2 * t) > 1 - 1e-4 * 2 * t  # the first that does


def test_a_line_search_without_success_gives_0_and_nan_is_none():
    tried = []
    assert Armijo(halvings=4).length(0.0, -1.0, lambda t: tried.append(t) or 1.0) == 0.0
    assert tried == [1.0, 0.5, 0.25, 0.125, 0.0625]
    broken = lambda t: float("nan") if t > 0.3 else -1.0  # noqa: E731
    assert Armijo().length(0.0, -1.0, broken) == 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(1.0), "value"),
        (lambda: EisenstatWalker(most=-0.1), "most"),
        (lambda: EisenstatWalker(power=3.0), "power"),
        (lambda: Armijo(slope=0.0), "slope"),
        (lambda: Armijo(shrink=1.0), "shrink"),
        (lambda: Armijo(halvings=0), "halvings"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
