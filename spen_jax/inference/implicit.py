"""The derivative of an answer as a minimiser, and that of its energy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from spen_jax import blocks
from spen_jax.inference.attached import along, attached
from spen_jax.inference.plan import Implicit, Plan, Values
from spen_jax.inference.steps import domain_of, objective, with_known

PROBES = 4
"""Random vectors that estimate the diagonal of the implicit solve's matrix."""
ROUNDED = 1e-2
"""The largest relative error of the implicit solve that is let pass where rounding explains it."""


def implicit(plan: Plan, mode: Implicit, numbers: int, values: Values, context: Any, y: Any) -> Any:
    """y (B, ...), with the derivatives of minimisers, of any order; see `Implicit`. `numbers` are those of one y."""
    count = len(jax.tree.leaves(values))

    def rule(arguments, y, tangents):
        values, context = arguments
        own = tangents[count:]

        def of_block(shared, block):
            values, along_values = shared

            def of_one(context, y, own):
                return _tangent(plan, mode, (values, context), y, [*along_values, *own])

            return jax.vmap(of_one)(*block)

        return blocks.in_blocks(of_block, (values, tangents[:count]), (context, y, own), numbers)

    y = attached(rule, (values, context), y)
    # What is known moves as it is given.
    return with_known(plan, context, y)[1]


def _tangent(plan, mode, arguments, y, tangents):
    """That of one example's minimiser."""
    flat, unravel = ravel_pytree(y)

    def gradient(arguments, flat):
        return ravel_pytree(jax.grad(objective(plan, *arguments))(unravel(flat)))[0]

    slope, hessian = jax.linearize(partial(gradient, arguments), flat)
    change = along(lambda live: gradient(live, flat), arguments, tangents)
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
    domain = domain_of(plan, arguments[1])
    free = 1 - ravel_pytree(arguments[1].mask)[0].astype(flat.dtype) if plan.held else 1

    def onto(v):
        return free * ravel_pytree(domain.onto_face(y, target, scaled, unravel(v)))[0]

    def matrix(w):
        p = onto(w)
        # On flat faces P P = P, and what rounding leaves of p - onto(p) would be magnified by the largest curvature.
        bent = 0 if domain.flat else (p - onto(p)) / size
        return bent + onto(hessian(p) + mode.damping * p)

    def solve(matrix, b):
        options = {"tol": mode.tolerance, "maxiter": mode.steps}
        w, _ = cg(matrix, b, M=lambda r: onto(onto(r) / scale), **options)
        error, length = jnp.linalg.norm(matrix(w) - b), jnp.linalg.norm(b)
        rounding = (
            4 * jnp.finfo(b.dtype).eps * jnp.linalg.norm(w) / size
        )  # of the product with the matrix
        most = jnp.maximum(10 * mode.tolerance * length, jnp.minimum(rounding, ROUNDED * length))
        return jnp.where(error <= most, w, jnp.nan)

    w = lax.custom_linear_solve(matrix, onto(change), solve, symmetric=True)
    return unravel(-onto(w))


def known_energy(plan: Plan, arguments: Any, value: jax.Array) -> jax.Array:
    """`value`, known to be the energies of `arguments`, with their derivative: nothing is computed twice.

    At a minimiser the slope along its own move is 0 (the envelope theorem), and is left out; a second derivative sees
    how the slope in the parameters changes with that move.
    """
    fixed = len(jax.tree.leaves(arguments[2])) if isinstance(plan.mode, Implicit) else 0

    def energies(arguments):
        values, context, y = arguments

        def of_one(context, y):
            return objective(plan, values, context)(y)

        return jax.vmap(of_one)(context, y)

    def rule(arguments, value, tangents):
        at = arguments if plan.mode else attached(_refuse, arguments, arguments)
        moving = tangents[: len(tangents) - fixed] + [None] * fixed
        if all(t is None for t in moving):
            return jnp.zeros_like(value)
        return along(energies, at, moving)

    return attached(rule, arguments, value)


def _refuse(arguments, value, tangents):
    raise NotImplementedError(
        "a second derivative of the energy that inference stopped at: with differentiate='stopped' y is a constant, "
        "and this derivative would leave out that the minimiser moves. Use differentiate='implicit' or 'unrolled'; "
        "where y is meant to stand still, take the solution of jax.lax.stop_gradient(params) and the energy of its y"
    )
