"""Spectra agree with SciPy's dense solvers, and say where they stopped."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as some

import keelnet as kn
from keelnet.analysis import spectra
from keelnet.analysis.derivatives import Jacobian
from keelnet.analysis.layers import euler_damping, jacobian_at
from keelnet.analysis.singular import direction, extremes
from keelnet.analysis.spectra import as_matrix, basis_of, edge_of, oscillation_of, spectrum_of


def random(rows, columns=None, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns or rows)) / rows**0.5


def by_products(matrix):
    return as_matrix(*matrix.shape, lambda v: matrix @ v, lambda w: matrix.T @ w)


def sorted_by(values):
    return sorted(values, key=lambda each: (round(each.real, 6), round(each.imag, 6)))


@given(some.integers(1, 12), some.integers(0, 2**31))
def test_a_small_spectrum_is_scipy_s(rows, seed):
    matrix = random(rows, seed=seed)
    found = spectrum_of(matrix)
    exact = scipy.linalg.eigvals(matrix)
    assert np.allclose(sorted_by(found.eigenvalues), sorted_by(exact), atol=1e-6)
    assert found.abscissa == pytest.approx(exact.real.max(), abs=1e-6)
    symmetric = scipy.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert found.numerical == pytest.approx(symmetric.max(), abs=1e-6)
    assert found.complete and found.converged and found.abscissa <= found.numerical + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_arnoldi_finds_the_ends_that_scipy_finds(seed):
    matrix = random(120, seed=seed) - np.eye(120)
    found = spectrum_of(by_products(matrix), steps=500)
    exact = scipy.linalg.eigvals(matrix)
    assert found.converged and not found.complete
    assert found.abscissa == pytest.approx(exact.real.max(), abs=1e-6)
    assert np.abs(found.eigenvalues).max() == pytest.approx(np.abs(exact).max(), abs=1e-6)
    symmetric = scipy.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert found.numerical == pytest.approx(symmetric.max(), abs=1e-6)


def test_what_does_not_converge_is_said_and_bounded():
    matrix = random(200)
    found = spectrum_of(by_products(matrix), steps=1)
    low, high = found.bounds
    exact = scipy.linalg.eigvals(matrix).real.max()
    assert not found.converged
    assert low <= exact + 1e-9 <= high + 1e-6


def test_a_matrix_of_zeros_has_a_spectrum_of_zeros():
    found = spectrum_of(by_products(np.zeros((30, 30))))
    assert found.converged and found.abscissa == found.numerical == 0


@given(some.integers(1, 6), some.integers(1, 6), some.integers(0, 2**31))
def test_two_parts_that_drive_each_other(rows, columns, seed):
    b, c = random(rows, columns, seed), random(columns, rows, seed + 1)
    found = oscillation_of(b, c)
    whole = np.block([[np.zeros((rows, rows)), b], [c, np.zeros((columns, columns))]])
    exact = scipy.linalg.eigvals(whole)
    # √ of the product halves the digits of eigenvalues at 0.
    assert found.abscissa == pytest.approx(max(exact.real.max(), 0), abs=1e-4)
    assert np.abs(found.eigenvalues).max() == pytest.approx(np.abs(exact).max(), abs=1e-6)
    numerical = scipy.linalg.eigvalsh((whole + whole.T) / 2).max()
    assert found.numerical == pytest.approx(numerical, abs=1e-6)


def test_a_large_oscillation_is_scipy_s():
    k = random(150)
    found = oscillation_of(by_products(k.T.copy()), by_products(-k), imaginary=True, steps=500)
    omega = scipy.linalg.svdvals(k).max()
    assert found.converged and found.abscissa == 0
    assert found.eigenvalues.imag.max() == pytest.approx(omega, abs=1e-6)
    assert found.numerical == pytest.approx(0, abs=1e-6)


@given(some.floats(0.01, 1), some.floats(0, 0.999))
def test_the_damping_of_a_rotation_is_that_of_the_bound(h, product):
    omega = product / h
    gamma = euler_damping(h, np.array([1j * omega, -1j * omega]))
    assert gamma * (1 - h * gamma / 4) == pytest.approx(h * omega**2, rel=1e-9, abs=1e-12)


def test_damping_beyond_its_reach_and_where_none_is_needed():
    assert euler_damping(0.1, np.array([10.1j])) is None
    assert euler_damping(0.1, np.array([-1.0 + 0j])) == 0
    assert euler_damping(0.1, np.array([2.0 + 0j])) == pytest.approx(4)
    # One eigenvalue must be moved so far that another leaves the disc on the other side.
    assert euler_damping(0.1, np.array([15.0 + 0j, -15.0 + 0j])) is None


@pytest.mark.parametrize("size", [6, 500])
def test_a_jacobian_is_an_array_where_small_and_products_where_large(size):
    matrix = torch.from_numpy(random(size))
    function = lambda x: torch.tanh(x @ matrix)  # noqa: E731
    x = torch.zeros(1, size, dtype=torch.float64)
    found = jacobian_at(function, x)
    assert isinstance(found, np.ndarray) == (size < 400)
    v = np.linspace(-1, 1, size)
    assert np.allclose(found @ v, v @ matrix.numpy())
    assert np.allclose(found.T @ v, matrix.numpy() @ v)


@given(some.integers(2, 20), some.integers(0, 5), some.integers(0, 2**31))
def test_lanczos_finds_the_ends_of_the_singular_values(rows, more, seed):
    matrix = torch.from_numpy(random(rows, rows + more, seed))
    y = torch.zeros(2, rows, dtype=torch.float64)
    found = extremes(Jacobian(lambda x: x @ matrix, y), iterations=200, small=0)
    exact = scipy.linalg.svdvals(matrix.numpy())
    assert found.largest == pytest.approx(exact[0], rel=1e-6)
    assert found.smallest.min() >= exact[-1] - 1e-9
    assert found.largest_converged.all()


@pytest.mark.parametrize("zeros", [1, 30])
def test_a_square_map_that_loses_directions_has_a_least_value_of_0(zeros):
    diagonal = torch.ones(65, dtype=torch.float64)
    diagonal[:zeros] = 0
    found = extremes(Jacobian(lambda x: x * diagonal, torch.zeros(1, 65).double()))
    assert found.largest == pytest.approx(1) and found.smallest == 0
    assert not found.smallest_converged.any()  # as of small ones: 0 up to rounding


@pytest.mark.parametrize(("rows", "known"), [(2, True), (40, False)])
def test_a_wide_map_keeps_its_least_value(rows, known):
    """Of values that repeat it cannot be told whether a 0 is among them."""
    scales = torch.linspace(1, 2, 2, dtype=torch.float64).repeat(rows // 2)
    found = extremes(Jacobian(lambda x: x[:, :rows] * scales, torch.zeros(1, 70).double()))
    assert found.largest == pytest.approx(2) and found.smallest == pytest.approx(1)
    assert found.smallest_converged.all() == known


def test_the_first_direction_lies_on_the_cpu_whatever_the_default_device():
    derivative = Jacobian(lambda x: 2 * x, torch.zeros(1, 5))
    with torch.device("meta"):
        found = extremes(derivative, small=0)
    assert found.largest == pytest.approx(2)


@pytest.mark.parametrize("shape", [(3,), (1, 70), (2, 3, 4)])
def test_a_drawn_direction_has_size_1_at_each_sample(shape):
    y = torch.zeros(shape).double()
    v = direction(y, 1)
    torch.testing.assert_close(v.reshape(len(v), -1).norm(dim=1), torch.ones(len(v)).double())
    assert torch.equal(v, direction(y, 1)) and not torch.equal(v.abs(), direction(y, 2))
    assert v.shape == y.shape and v.dtype == y.dtype


@pytest.mark.parametrize("rows", [1, 4, 18])
def test_a_small_product_of_wide_matrices_is_dense(rows):
    k = random(rows, 500)
    found = oscillation_of(by_products(k), by_products(-k.T), imaginary=True)
    assert found.converged and found.abscissa == 0
    assert found.eigenvalues.imag.max() == pytest.approx(scipy.linalg.svdvals(k).max())


@pytest.mark.parametrize("small", [0, 64])
def test_a_rotation_ends_the_process_at_once_with_the_exact_value(small):
    q = torch.linalg.qr(torch.from_numpy(random(8)))[0]
    found = extremes(Jacobian(lambda x: 3 * x @ q, torch.zeros(1, 8).double()), small=small)
    assert found.largest == pytest.approx(3) and found.smallest == pytest.approx(3)
    assert found.largest_converged.all() and found.smallest_converged.all()


@pytest.mark.parametrize("scale", [1e25, 1e37, 1e-25])
def test_values_whose_squares_are_no_float32_are_found(scale):
    matrix = scale * torch.diag(torch.linspace(0.5, 1, 100))
    found = extremes(Jacobian(lambda y: y @ matrix, torch.zeros(2, 100)), iterations=100)
    assert found.largest == pytest.approx([scale] * 2, rel=1e-4) and found.largest_converged.all()
    assert found.smallest == pytest.approx([0.5 * scale] * 2, rel=1e-2)


def test_a_derivative_of_zero_has_no_growth():
    y = torch.ones(2, 5, dtype=torch.float64)
    found = extremes(Jacobian(lambda x: x * 0, y), small=0)
    assert (found.largest == 0).all()


def test_a_least_value_below_rounding_is_not_called_exact():
    scales = torch.tensor([1.0, 1e-30], dtype=torch.float64)
    q = torch.linalg.qr(torch.from_numpy(random(2)))[0]
    found = extremes(Jacobian(lambda x: (x @ q * scales) @ q.T, torch.zeros(1, 2).double()))
    assert found.largest == pytest.approx(1) and not found.smallest_converged.any()


@pytest.mark.parametrize(
    ("size", "vectors"), [(500, 18), (116_000, 18), (200_000, 10), (10**7, 10)]
)
def test_fewer_vectors_are_kept_where_they_are_large(size, vectors):
    assert basis_of(size) == vectors


def test_the_smallest_basis_still_finds_the_ends(monkeypatch):
    monkeypatch.setattr(spectra, "KEPT", 1)
    matrix = random(120) - np.eye(120)
    found = spectrum_of(by_products(matrix), steps=2000)
    exact = scipy.linalg.eigvals(matrix)
    assert found.converged
    assert found.abscissa == pytest.approx(exact.real.max(), abs=1e-6)


class _Counted(Jacobian):
    def __init__(self, function, y):
        super().__init__(function, y)
        self.products = 0

    def pushed(self, v):
        self.products += 1
        return super().pushed(v)


def test_a_value_that_has_settled_is_left_and_not_called_converged():
    matrix = torch.from_numpy(random(400))
    exact = scipy.linalg.svdvals(matrix.numpy())[0]
    found, counts = [], []
    for settled in (0.0, 5e-2):
        derivative = _Counted(lambda x: x @ matrix, torch.zeros(1, 400, dtype=torch.float64))
        found.append(extremes(derivative, settled=settled))
        counts.append(derivative.products)
    assert counts[1] < counts[0]
    assert not found[1].largest_converged.any()
    assert exact * 0.95 < found[1].largest[0] <= found[0].largest[0] <= exact * (1 + 1e-9)


def normal(values, size=420):
    """A normal matrix with these eigenvalues, one of each pair, and others near −1."""
    matrix = np.diag(np.linspace(-1.1, -0.9, size))
    place = 0
    for each in values:
        if each.imag:
            matrix[place : place + 2, place : place + 2] = [
                [each.real, each.imag],
                [-each.imag, each.real],
            ]
        else:
            matrix[place, place] = each.real
        place += 2 if each.imag else 1
    turned, _ = np.linalg.qr(random(size))
    return turned @ matrix @ turned.T


@pytest.mark.parametrize("h", [1.0, 0.1, 1e-4])
@pytest.mark.parametrize(
    "values",
    [
        # Neither the rightmost nor the largest ones decide.
        [-1.9, -1.85, -1.8, -1.75, -0.02, -0.06, -0.1, -0.15, -0.5 + 1.2j],
        [-1.9, -1.85, -1.8, -1.75, -0.02, -0.06, -0.1, -0.15, -0.05 + 0.6j, -0.3 + 1.1j],
        [-1e-4 + 1j, -1.9, 2.5j - 1],
        [0.2, -1.9],
        [-3.0],
    ],
)
def test_what_decides_of_a_step_of_euler_is_found(values, h):
    matrix = by_products(normal(np.array(values, complex)))
    ends = spectrum_of(matrix, steps=100)
    found, certain = edge_of(matrix, ends.eigenvalues, h, steps=100)
    exact = scipy.linalg.eigvals(normal(np.array(values, complex)))
    euler = kn.Euler()
    assert certain
    assert euler.amplification(h, found).max() == pytest.approx(
        euler.amplification(h, exact).max(), abs=1e-6
    )
    assert euler.largest_steps(found).min() == pytest.approx(
        euler.largest_steps(exact).min(), rel=1e-4, abs=1e-9
    )


@pytest.mark.parametrize("kind", ["round", "flat", "turning"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_called_certain_is(seed, kind):
    s = random(420, seed=seed)
    matrix = {"round": s, "flat": (s + s.T) / 2, "turning": s - s.T}[kind] - np.eye(420)
    operator, euler = by_products(matrix), kn.Euler()
    found, certain = edge_of(operator, spectrum_of(operator).eigenvalues, 0.7)
    exact = scipy.linalg.eigvals(matrix)
    rate, bound = euler.amplification(0.7, found).max(), euler.largest_steps(found).min()
    assert rate <= euler.amplification(0.7, exact).max() + 1e-6
    assert bound >= euler.largest_steps(exact).min() * (1 - 1e-6)
    if certain:
        assert rate >= euler.amplification(0.7, exact).max() - 1e-5
        assert bound <= euler.largest_steps(exact).min() * (1 + 1e-4)
