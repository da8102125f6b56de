"""The derivative of an answer as a minimiser, and that of its energy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from spen_jax.inference.plan import Implicit, Plan, Values
from spen_jax.inference.steps import objective

PROBES = 4
"""Random vectors that estimate the diagonal of the implicit solve's matrix."""


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def implicit(plan: Plan, mode: Implicit, values: Values, context: Any, y: Any) -> Any:
    """y, with the derivatives of a minimiser, of any order; see `Implicit`."""
    return y


@implicit.defjvp
def _implicit_jvp(plan, mode, primals, tangents):
    values, context, y = primals
    # With its own derivative, so that one of this derivative knows how y moves.
    y: Any = implicit(plan, mode, *primals)
    flat, unravel = ravel_pytree(y)

    def gradient(values, context, flat):
        return ravel_pytree(jax.grad(objective(plan, values, context))(unravel(flat)))[0]

    slope, hessian = jax.linearize(partial(gradient, values, context), flat)
    change = jax.jvp(lambda v, c: gradient(v, c, flat), (values, context), tangents[:2])[1]
    # The Hessian's diagonal by random signs, exact where it is diagonal, as with entropy nearly so: there its entries
    # 1 / (y (1 - y)) span many powers of ten. They scale the step that tells the active bounds, lest the
    # gradient's rounding makes one, and precondition the conjugate gradients.
    signs = jax.random.rademacher(jax.random.key(0), (PROBES, flat.size), flat.dtype)
    diagonal = jnp.abs(jnp.mean(jax.vmap(lambda z: z * hessian(z))(signs), axis=0))
    diagonal = lax.stop_gradient(jnp.where(jnp.isfinite(diagonal), diagonal, 0)) + mode.damping
    size = 1 / jnp.maximum(1, jnp.max(diagonal, initial=0))
    target, scaled = unravel(flat - size * slope), unravel(flat - slope / jnp.maximum(1, diagonal))
    scale = jnp.maximum(diagonal, 0.1 * jnp.median(diagonal))
    scale = jnp.where(scale > 0, scale, 1)

    # What is known does not move, as if its bounds were active.
    free = 1 - ravel_pytree(context.mask)[0].astype(flat.dtype) if plan.held else 1

    def onto(v):
        return free * ravel_pytree(plan.domain.onto_face(y, target, scaled, unravel(v)))[0]

    def matrix(w):
        p = onto(w)
        return (p - onto(p)) / size + onto(hessian(p) + mode.damping * p)

    def solve(matrix, b):
        options = {"tol": mode.tolerance, "maxiter": mode.steps}
        w, _ = cg(matrix, b, M=lambda r: onto(onto(r) / scale), **options)
        error = jnp.linalg.norm(matrix(w) - b)
        return jnp.where(error <= 10 * mode.tolerance * jnp.linalg.norm(b), w, jnp.nan)

    w = lax.custom_linear_solve(matrix, onto(change), solve, symmetric=True)
    return y, unravel(-onto(w))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def known_energy(plan: Plan, arguments: Any, value: jax.Array) -> jax.Array:
    """`value`, known to be the energies of `arguments`, with their derivative: nothing is computed twice."""
    return value


@known_energy.defjvp
def _known_energy_jvp(plan, primals, tangents):
    def energies(values, context, y):
        def of_one(context, y):
            return objective(plan, values, context)(y)

        return jax.vmap(of_one)(context, y)

    at = primals[0] if plan.mode else _once(primals[0])
    return known_energy(plan, *primals), jax.jvp(energies, at, tangents[0])[1]


@jax.custom_jvp
def _once(arguments):
    """The arguments, of a derivative that is not to be differentiated again."""
    return arguments


@_once.defjvp
def _once_jvp(primals, tangents):
    raise NotImplementedError(
        "a second derivative of the energy that inference stopped at: with differentiate='stopped' y is a constant, "
        "and this derivative would leave out that the minimiser moves. Use differentiate='implicit' or 'unrolled'; "
        "where y is meant to stand still, take the solution of jax.lax.stop_gradient(params) and the energy of its y"
    )
