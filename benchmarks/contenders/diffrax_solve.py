"""diffrax: Euler or its semi-implicit Euler (our Verlet), constant steps.

``checkpointed`` is its default, RecursiveCheckpointAdjoint; ``direct`` differentiates through the
loop and keeps it whole.
"""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, Pass

from contenders.jax_task import JaxTask
from contenders.task import RefusedError


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> JaxTask:
    if case.dim:
        raise RefusedError("written for dense layers only")
    if case.scheme == "verlet" and case.inputs != case.outputs:
        raise RefusedError("its semi-implicit Euler wants two parts of one shape")
    adjoint = (
        diffrax.RecursiveCheckpointAdjoint()
        if method == "checkpointed"
        else diffrax.DirectAdjoint()
    )
    return JaxTask(lambda weight, y0: _solved(case, weight, y0, adjoint), numbers, pass_)


def _solved(
    case: Case, weight: jax.Array, y0: jax.Array, adjoint: diffrax.AbstractAdjoint
) -> jax.Array:
    h = case.step_size

    def layer(t: jax.Array, weight: jax.Array) -> jax.Array:
        return weight[jnp.clip(jnp.round(t / h).astype(int), 0, case.depth - 1)]

    def of_y(t: jax.Array, y: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.tanh(y @ layer(t, weight))

    def of_z(t: jax.Array, z: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.tanh(z @ layer(t, weight).T)

    settings = {
        "t0": 0.0,
        "t1": case.depth * h,
        "dt0": h,
        "args": weight,
        "saveat": diffrax.SaveAt(t1=True),
        "stepsize_controller": diffrax.ConstantStepSize(),
        "adjoint": adjoint,
        "max_steps": case.depth + 1,
    }
    if case.scheme == "euler":
        return diffrax.diffeqsolve(diffrax.ODETerm(of_y), diffrax.Euler(), y0=y0, **settings).ys[0]
    # Its first part moves by the second, then the second by the new first: z, then y.
    kick = diffrax.ODETerm(lambda t, y, weight: -of_y(t, y, weight))
    if case.split:
        begun = (y0[:, case.inputs :], y0[:, : case.inputs])
    else:
        begun = (jnp.zeros((case.batch, case.outputs), y0.dtype), y0)
    terms = (kick, diffrax.ODETerm(of_z))
    z, y = diffrax.diffeqsolve(terms, diffrax.SemiImplicitEuler(), y0=begun, **settings).ys
    return jnp.concatenate([y[0], z[0]], axis=1) if case.split else y[0]
