"""JAX: a jitted lax.scan over layers, or (narrow) every component an array of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, Pass
from jax import lax

from contenders.jax_task import JaxTask, Tree
from contenders.task import RefusedError


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> JaxTask:
    if case.dim:
        raise RefusedError("written for dense layers only")
    if method == "components":
        return _components(case, numbers, pass_)
    return JaxTask(lambda weight, y0: scanned(case, weight, y0), numbers, pass_)


def scanned(case: Case, weight: jax.Array, y0: jax.Array) -> jax.Array:
    """As one would write it."""
    h = case.step_size
    if case.scheme == "euler":
        return lax.scan(lambda y, k: (y + h * jnp.tanh(y @ k), None), y0, weight)[0]

    def layer(state: tuple[jax.Array, jax.Array], k: jax.Array) -> tuple[Tree, None]:
        y, z = state
        z = z - h * jnp.tanh(y @ k)
        return (y + h * jnp.tanh(z @ k.T), z), None

    if case.split:
        state = (y0[:, : case.inputs], y0[:, case.inputs :])
    else:
        state = (y0, jnp.zeros((case.batch, case.outputs), y0.dtype))
    y, z = lax.scan(layer, state, weight)[0]
    return jnp.concatenate([y, z], axis=1) if case.split else y


def _components(case: Case, numbers: dict[str, np.ndarray], pass_: Pass) -> JaxTask:
    """Every component of y and z its own array, every entry of K a scalar: XLA fuses a layer."""
    if case.inputs > 4 or case.scheme != "verlet" or case.split:
        raise RefusedError("laid out by hand for the narrow case only")
    h = case.step_size
    reads, writes = range(case.inputs), range(case.outputs)

    def layer(state: tuple[Tree, Tree], k: Tree) -> tuple[Tree, None]:
        y, z = state
        z = [z[j] - h * jnp.tanh(sum(y[i] * k[i][j] for i in reads)) for j in writes]
        y = [y[i] + h * jnp.tanh(sum(z[j] * k[i][j] for j in writes)) for i in reads]
        return (y, z), None

    def propagate(weight: Tree, y0: Tree) -> Tree:
        z0 = [jnp.zeros(case.batch, jnp.float32) for _ in writes]
        return lax.scan(layer, (y0, z0), weight)[0][0]

    return JaxTask(
        propagate,
        numbers,
        pass_,
        inward=lambda value: [jnp.asarray(np.ascontiguousarray(value[:, i])) for i in reads],
        outward=lambda parts: np.stack([np.asarray(part) for part in parts], axis=1),
        weight_in=lambda value: [[jnp.asarray(value[:, i, j]) for j in writes] for i in reads],
        weight_out=lambda rows: np.stack(
            [np.stack([np.asarray(one) for one in row], axis=1) for row in rows], axis=1
        ),
    )
