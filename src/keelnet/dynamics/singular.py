"""Singular values: the largest of each of many matrices, or a bound of it from above."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def largest_singular(matrices: Tensor) -> Tensor:
    """σ_max of matrices (..., n, k).

    By the eigenvalues of AᴴA where no derivative is asked for: half the time, and as exact for the largest.
    """
    if torch.is_grad_enabled() and matrices.requires_grad:
        return torch.linalg.matrix_norm(matrices, 2)
    scale = matrices.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=1e-30)  # squares overflow
    scaled = matrices / scale
    gram = scaled.mH @ scaled if scaled.shape[-1] <= scaled.shape[-2] else scaled @ scaled.mH
    largest = torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).sqrt()
    return scale[..., 0, 0] * largest


def singular_bound(matrices: Tensor) -> Tensor:
    """(tr (AᴴA)^p)^(1/2p) with p = 64, by squaring: at most 4 % above σ_max for 100 columns."""
    gram = matrices.mH @ matrices
    trace = _trace(gram)
    logarithm = trace.log()
    for squaring in range(1, 7):
        gram = gram / trace[..., None, None]
        gram = gram @ gram
        trace = _trace(gram)
        logarithm = logarithm + trace.log() / 2**squaring
    return (0.5 * logarithm).exp()


def _trace(gram: Tensor) -> Tensor:
    """Of a Hermitian matrix; kept above 0, so that a zero kernel has a logarithm."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1).real
    return trace.clamp(min=torch.finfo(trace.dtype).tiny)


def exactly(device: torch.device) -> AbstractContextManager[object]:
    """Outside of autocast, which would take products in a type that linear algebra does not know."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
