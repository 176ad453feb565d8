"""Floor 1: integrators, strategies and the loop over layers."""

from keelnet.propagation.bounds import StepBound, step_bound
from keelnet.propagation.engines import engine
from keelnet.propagation.gradients import Strategy, checkpointed, reversible, store_all
from keelnet.propagation.implicit import IMEX, DenseDiffusion, Diffusion, LaplacianDiffusion
from keelnet.propagation.integrators import RK4, Euler, Integrator, StabilityWarning
from keelnet.propagation.propagate import engine_of, propagate, trajectory
from keelnet.propagation.shears import Leapfrog, Midpoint, Shear, ShearIntegrator, Verlet

__all__ = [
    "IMEX",
    "RK4",
    "DenseDiffusion",
    "Diffusion",
    "Euler",
    "Integrator",
    "LaplacianDiffusion",
    "Leapfrog",
    "Midpoint",
    "Shear",
    "ShearIntegrator",
    "StabilityWarning",
    "StepBound",
    "Strategy",
    "Verlet",
    "checkpointed",
    "engine",
    "engine_of",
    "propagate",
    "reversible",
    "step_bound",
    "store_all",
    "trajectory",
]
