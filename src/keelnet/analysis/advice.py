"""Advice: which method would hold a residual block that grows, and what it would not guarantee."""

from __future__ import annotations

import numpy as np

from keelnet.analysis.layers import LayerStability
from keelnet.analysis.spectra import Complex, rounded_off
from keelnet.propagation import Leapfrog, Midpoint, Verlet

GROWS = 1e-3  # a residual block that grows by less is not said to grow
ROUNDING = 1e-4  # of the largest |μ|: parts below are taken for 0, since μ were computed in float32
WITHOUT_SPECTRUM = (
    "spectra=True says which method would hold the growth. kn.stabilised([block]) puts its branch F under Verlet, which keeps"
    " volume and can be stepped back, but bounds growth only where the eigenvalues μ of ∂F/∂y are real and h |μ| ≤ 2;"
    " complex μ still grow"
)


def advice_for(layer: LayerStability | None) -> str:
    """For a block y + F(y) that grows, by the eigenvalues μ of ∂F/∂y, where they were looked at.

    Under Verlet, z′ = −F(y), y′ = F(z), the eigenvalues are ±i μ; under Leapfrog, y″ = F(y), they are μ.
    """
    if layer is None:
        return WITHOUT_SPECTRUM
    values = layer.spectrum.eigenvalues
    if len(values) == 0:
        return "its eigenvalues did not converge, so no method can be advised"
    seen = "" if layer.spectrum.complete else " that were found"
    if layer.amplification <= 1 + GROWS and not layer.certain:
        return (
            f"no eigenvalue{seen} grows, |1 + μ| ≤ {max(1.0, layer.amplification):.4g}, but others may, so no method can be"
            " advised"
        )
    if layer.amplification <= 1 + GROWS:
        seen = ""  # those that were not lie further inside
        return (
            f"no eigenvalue{seen} grows, |1 + μ| ≤ {max(1.0, layer.amplification):.4g}: the growth is that of one pass"
            " (∂F/∂y is not normal), and equal blocks would not compound it"
        )
    values = rounded_off(values, ROUNDING * float(np.abs(values).max()))
    ways = _ways(layer, values)
    found = f"eigenvalues μ of ∂F/∂y{seen}: {_described(values)}"
    verlet = float(Verlet().amplification(1.0, 1j * values).max())
    caution = f"; Verlet does not (×{verlet:.4g} a layer)" if _verlet(values) == 0 else ""
    if not ways:
        return f"{found}; no step size of Euler, Verlet, Leapfrog or Midpoint bounds them, so constrain the branch (antisymmetric or Hamiltonian)"
    return f"{found}; {' or '.join(ways)} bounds them, as frozen at this sample{caution}. Ask kn.analysis.stability of the result"


def _ways(layer: LayerStability, values: Complex) -> list[str]:
    ways = []
    if layer.step_bound > 0:
        ways.append(f"y + h F(y) with h ≤ {_floored(layer.step_bound)}")
    steps = {
        "Verlet": _verlet(values),
        "Leapfrog": float(Leapfrog().largest_steps(values).min()),
        "Midpoint": float(Midpoint().largest_steps(values).min()),
    }
    ways += [f"kn.stabilised([block], kn.{name}(){_step(h)})" for name, h in steps.items() if h > 0]
    if layer.damping:
        ways.append(f"F(y) − ½ γ y with damping γ = {layer.damping:.4g}")
    return ways


def _verlet(values: Complex) -> float:
    return float(Verlet().largest_steps(1j * values).min())


def _step(h: float) -> str:
    """At the bound itself double roots grow, if slowly; so below it."""
    return "" if h > 1.001 else f", step_size={_floored(0.999 * h)}"


def _floored(h: float) -> str:
    """Three digits, none of them rounded up."""
    unit = 10.0 ** (int(np.floor(np.log10(h))) - 2)
    return f"{np.floor(h / unit) * unit:.3g}"


def _described(values: Complex) -> str:
    size = f"|μ| ≤ {np.abs(values).max():.3g}"
    if not values.imag.any():
        low, high = (f"{end:.3g}" for end in (values.real.min(), values.real.max()))
        return f"real, {low}" if low == high else f"real, from {low} to {high}"
    if not values.real.any():
        return f"imaginary, {size}, on which Euler grows at every step size"
    return f"complex, Re μ from {values.real.min():.3g} to {values.real.max():.3g}, {size}"
