"""Eigenvalues: those of many matrices, without what rounding alone leaves of a real or an imaginary part."""

from __future__ import annotations

import torch
from torch import Tensor


def eigenvalues_of(matrices: Tensor) -> Tensor:
    """The eigenvalues (layers, any), complex128, of square matrices (layers, …, n, n) of any type.

    Real and imaginary parts below 1e-10 of the layer's largest Frobenius norm are 0, as are eigenvalues below eight
    roundings of the type in it, and parts below eight roundings of their eigenvalue: a rotation that is off by its
    rounding would otherwise grow at every step size.
    """
    layers = len(matrices)
    wide = matrices.to(torch.complex128 if matrices.is_complex() else torch.float64)
    values = torch.linalg.eigvals(wide).reshape(layers, -1)
    # Of the layer, not of each matrix: a Fourier transform is off by its rounding at every frequency alike.
    largest = torch.linalg.matrix_norm(wide).reshape(layers, -1).amax(dim=1, keepdim=True)
    rounding = 8 * torch.finfo(matrices.dtype).eps
    # A Fourier transform rounds by the largest, at frequencies of small eigenvalues as well.
    of_each = largest if matrices.is_complex() else values.abs()
    floor = torch.maximum(1e-10 * largest, rounding * of_each)
    noise = values.abs() <= rounding * largest
    real, imaginary = (
        torch.where(noise | (part.abs() <= floor), torch.zeros_like(part), part)
        for part in (values.real, values.imag)
    )
    return torch.complex(real, imaginary)
