"""Spectra: eigenvalues of a matrix that may be known by its products alone, with bounds where they stay unknown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keelnet.propagation.integrators import euler_steps

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
Matrix = Any  # an array, or a LinearOperator with matvec and rmatvec; SciPy has no types

WANTED = 4  # eigenvalues that Arnoldi is asked for at each end
BASIS = 18  # vectors that it keeps at most
LEAST = 10  # at least: with 6 the ends of a random matrix are not found
KEPT = 2**24  # bytes of vectors that are kept in any case
ENDS = ("LR", "LM")  # largest real part, largest modulus
STEPS = 25  # restarts that it may take: an end of a spectrum that is dense there takes thousands
TOLERANCE = 1e-7
EDGE = 1e-6  # by how much a converged eigenvalue may seem to lie outside of the circle through it
ROUNDS = 4  # circles that are tried for the bound of a step
ROUNDING = 1e-10  # of the norm: parts of a dense eigenvalue below it are taken for 0
UNITS = 8  # of eps: up to 1 was seen in eigenvalues at 0 of branches of all kinds


@dataclass(frozen=True)
class Rounding:
    """What is not known of a matrix A that was worked out in numbers of ``eps``; ``beside`` 1 where it was read off 1 + A."""

    eps: float = 0.0
    beside: float = 0.0

    def of(self, size: float) -> float:
        """Of the eigenvalues of an A of this norm."""
        return UNITS * self.eps * (size + self.beside)

    def of_product(self, b: float, c: float) -> float:
        """Of those of B C, by the norms of B and C."""
        return self.of(b) * c + b * self.of(c)


EXACT = Rounding()


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of A (all of a small matrix, else the extreme ones) and of its symmetric part.

    abscissa: the largest Re λ, what grows in the long run. numerical: the largest eigenvalue of ½ (A + Aᵀ), what can
    grow at once; at least the abscissa, and more for a non-normal A. converged False: Arnoldi stopped
    early, ``eigenvalues`` are those that it was sure of, and the abscissa lies within ``bounds``.
    """

    eigenvalues: Complex
    abscissa: float
    numerical: float
    complete: bool
    converged: bool

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which the rightmost real part lies: what is known of it, and the numerical abscissa."""
        return self.abscissa, (self.abscissa if self.converged else self.numerical)


def spectrum_of(matrix: Matrix, steps: int = STEPS, rounding: Rounding = EXACT) -> Spectrum:
    """The spectrum of a square real matrix: dense of an array, by Arnoldi of a LinearOperator.

    ``steps``: restarts that ARPACK may take. Real and imaginary parts that ``rounding`` explains are 0.
    """
    values, converged = _eigenvalues(matrix, steps, rounding.of)
    if isinstance(matrix, np.ndarray):
        numerical, sure = float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]), True
    else:
        numerical, sure = _largest((matrix + matrix.T) * 0.5, steps)
    return _spectrum(values, numerical, isinstance(matrix, np.ndarray), converged and sure)


def oscillation_of(
    b: Matrix,
    c: Matrix,
    imaginary: bool = False,
    steps: int = STEPS,
    rounding: Rounding = EXACT,
) -> Spectrum:
    """The spectrum of A = [[0, B], [C, 0]]: ±√μ with μ the eigenvalues of the product B C.

    μ of a Hamiltonian field is real and not positive; √ of it keeps λ on the imaginary axis to rounding, which a
    solver for A itself does not; with ``imaginary`` it is known to be so, and only the largest are looked for. The numerical
    abscissa is ½ ‖B + Cᵀ‖. ``rounding``, of B and of C, leaves its root in λ.
    """
    wide = b.shape[0] <= b.shape[1]
    ends = ("LM",) if imaginary else ENDS
    both = b + c.T

    def unknown(size: float) -> float:
        # The norms themselves where they are to be had: that of B C may be far below their product.
        norms = (
            [float(np.linalg.norm(each, 2)) for each in (b, c)]
            if isinstance(both, np.ndarray)
            else [math.sqrt(size)] * 2
        )
        return rounding.of_product(*norms)

    squares, converged = _eigenvalues(b @ c if wide else c @ b, steps, unknown, ends)
    roots = np.sqrt(squares)
    if isinstance(both, np.ndarray):
        numerical, sure = float(np.linalg.norm(both, 2)) / 2, True
    else:
        top, sure = _largest(both @ both.T if wide else both.T @ both, steps)
        numerical = float(np.sqrt(max(top, 0.0))) / 2
    complete = isinstance(both, np.ndarray)
    return _spectrum(np.concatenate([roots, -roots]), numerical, complete, converged and sure)


def radius_of(matrix: Matrix, steps: int = STEPS) -> tuple[float, bool]:
    """The largest modulus of an eigenvalue (nan where none converged), and whether it is certain."""
    values, sure = _eigenvalues(matrix, steps, EXACT.of, ("LM",))
    return float(np.abs(values).max()) if len(values) else math.nan, sure


def edge_of(matrix: Matrix, known: Complex, h: float, steps: int = STEPS) -> tuple[Complex, bool]:
    """The eigenvalues λ that say what Euler does with A, beside those that are known, and whether it is certain.

    The farthest from −1/h has the largest |1 + h λ|. The largest step b is that of all λ within |1 + b λ| ≤ 1, so those
    farthest from −1/b are looked for, b being that of what is known, until none lies outside.
    """
    beyond, sure = _beyond(matrix, -1 / h, float(np.abs(known + 1 / h).max(initial=0)), steps)
    known = np.concatenate([known, beyond])
    for _ in range(ROUNDS):
        bound = float(euler_steps(known).min(initial=np.inf))
        if not sure or not 0 < bound < np.inf:
            return known, sure
        beyond, sure = _beyond(matrix, -1 / bound, 1 / bound, steps)
        if sure and len(beyond) == 0:
            return known, True
        known = np.concatenate([known, beyond])
    return known, False


def _beyond(matrix: Matrix, centre: float, radius: float, steps: int) -> tuple[Complex, bool]:
    """Eigenvalues outside of a circle around a point of the real axis, and whether there are no others farther out."""
    size = matrix.shape[0]
    around = as_matrix(
        size, size, lambda v: matrix @ v - centre * v, lambda w: matrix.T @ w - centre * w
    )
    found, sure = _arnoldi(around, "LM", steps)  # fewer than `WANTED` converge to inner ones
    found = found[np.abs(found) > (1 + EDGE) * radius]
    # They are as exact as they are far from the centre; nearer to the imaginary axis their side of it is not known.
    limits = TOLERANCE * np.abs(found)
    clear = np.abs(found.real + centre) > 10 * limits
    values = (found + centre)[clear]
    return rounded_off(values, float(limits.max(initial=0))), sure and bool(clear.all())


def _spectrum(values: Complex, numerical: float, complete: bool, converged: bool) -> Spectrum:
    abscissa = float(values.real.max()) if len(values) else -np.inf
    return Spectrum(values, abscissa, numerical, complete, converged)


def _eigenvalues(
    matrix: Matrix, steps: int, unknown: Callable[[float], float], ends: tuple[str, ...] = ENDS
) -> tuple[Complex, bool]:
    """All of an array, else those of largest real part and of largest modulus; whether all converged.

    ``unknown``: what rounding left in them before, by the size of the matrix.
    """
    matrix = _dense_if_few(matrix)
    if isinstance(matrix, np.ndarray):
        size, share, sure = float(np.linalg.norm(matrix, 2)), ROUNDING, True
        values = np.linalg.eigvals(matrix).astype(complex)
    else:
        parts = [_arnoldi(matrix, which, steps) for which in ends]
        values = np.concatenate([found for found, _ in parts])
        size = float(np.abs(values).max()) if len(values) else 0.0
        share, sure = TOLERANCE, all(each for _, each in parts)
    return rounded_off(values, max(share * size, unknown(size))), sure


def _dense_if_few(matrix: Matrix) -> Matrix:
    """An array where ARPACK would want more vectors than there are rows: a product of wide matrices is small."""
    if isinstance(matrix, np.ndarray) or matrix.shape[0] > BASIS:
        return matrix
    return matrix @ np.eye(matrix.shape[0])


def rounded_off(values: Complex, limit: float) -> Complex:
    """Without real and imaginary parts up to ``limit``: rounding, which would take λ off the imaginary axis."""
    real = np.where(np.abs(values.real) <= limit, 0.0, values.real)
    imaginary = np.where(np.abs(values.imag) <= limit, 0.0, values.imag)
    return real + 1j * imaginary


@cache
def _scipy() -> Any:
    """SciPy's sparse part, 20 MB of code, when a matrix is large enough to need it."""
    return import_module("scipy.sparse.linalg")


def _arnoldi(matrix: Matrix, which: str, steps: int) -> tuple[Complex, bool]:
    wanted = min(WANTED, basis_of(matrix.shape[0]) - 3)  # ARPACK restarts with at least two spare
    try:
        found = _scipy().eigs(matrix, wanted, which=which, **_settings(matrix, steps))
        return np.asarray(found), True
    except _scipy().ArpackNoConvergence as stopped:
        return np.asarray(stopped.eigenvalues, complex), False
    except _scipy().ArpackError as error:
        return np.zeros(int(_vanishes(error)), complex), _vanishes(error)


def _largest(symmetric: Matrix, steps: int) -> tuple[float, bool]:
    """Its largest eigenvalue, and whether it converged; where it did not its norm, or inf, which bound it."""
    symmetric = _dense_if_few(symmetric)
    if isinstance(symmetric, np.ndarray):
        return float(np.linalg.eigvalsh(symmetric)[-1]), True
    try:
        return _symmetric_end(symmetric, "LA", steps), True
    except _scipy().ArpackNoConvergence:
        return _norm(symmetric, steps), False
    except _scipy().ArpackError as error:
        return (0.0, True) if _vanishes(error) else (np.inf, False)


def _norm(symmetric: Matrix, steps: int) -> float:
    try:
        return abs(_symmetric_end(symmetric, "LM", steps))
    except _scipy().ArpackError:
        return np.inf


def _symmetric_end(symmetric: Matrix, which: str, steps: int) -> float:
    return float(_scipy().eigsh(symmetric, 1, which=which, **_settings(symmetric, steps))[0])


def basis_of(size: int) -> int:
    """How many vectors of ``size`` numbers Arnoldi keeps: fewer where they are large, which takes more restarts."""
    return min(BASIS, max(LEAST, KEPT // (8 * size)))


def _settings(matrix: Matrix, steps: int) -> dict[str, Any]:
    return {
        "ncv": basis_of(matrix.shape[0]),
        "v0": np.random.default_rng(0).standard_normal(matrix.shape[0]),
        "maxiter": steps,
        "tol": TOLERANCE,
        "return_eigenvectors": False,
    }


def _vanishes(error: Exception) -> bool:
    """Whether A took its first vector to 0, as A = 0 does."""
    return "Starting vector is zero" in str(error)


def as_matrix(rows: int, columns: int, product: Any, transposed: Any) -> Matrix:
    """A matrix of rows × columns by A v and Aᵀ w of NumPy vectors."""
    return _scipy().LinearOperator(
        (rows, columns), matvec=product, rmatvec=transposed, dtype=np.float64
    )
