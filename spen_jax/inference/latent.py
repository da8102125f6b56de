"""Inference of a latent variable: argmin over z of E(x, y, z), several minima, sparse codes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.domains import Domain, Reals
from spen_jax.exact import energy_of_z
from spen_jax.inference.minimize import Solution, from_each_start, minimize_best
from spen_jax.types import Energy, LatentEnergy


def infer(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    starts: Any,
    *,
    domain: Domain = Reals(),
    **options: Any,
) -> Solution:
    """argmin over z of E(x, y, z) for each example, the best of S `starts` (B, S, ...), by the solvers.

    `energy` is `(params, x, y, z) -> scalar` of one example; x and y have a leading axis of B. `energy` of the solution
    (B,) is the cold free energy; its gradient in the parameters is that at the best z, the solution's `y` (B, ...). The
    `options` are those of `minimize`: solver, steps, ...; the domain is where z lives (a norm ball limits it).
    ValueError and TypeError as there.
    """
    return minimize_best(energy_of_z(energy), params, (x, y), starts, domain=domain, **options)


class Minima(NamedTuple):
    """Minima of each example, from the lowest, as `minima` finds them.

    - `y`: the points, (B, S, D).
    - `energy`: E there, (B, S), infinite where the start failed.
    - `distinct`: booleans (B, S), which are none of those before them.
    """

    y: jax.Array
    energy: jax.Array
    distinct: jax.Array


def minima(
    energy: Energy,
    params: Any,
    context: Any,
    starts: jax.Array,
    *,
    apart: float = 0.1,
    domain: Domain = Reals(),
    **options: Any,
) -> Minima:
    """Several minima kept: the points that `minimize` ends at from each of S `starts`, (B, S, D), the lowest first.

    `distinct` are those that did not fail and are at least `apart` (Euclidean) from all distinct ones before them;
    whether a point is a minimum is for `steps` and the solver to see to. `energy`, `params`, `context`, `domain` and
    the other options are those of `minimize`. ValueError for starts of another shape, and as there.
    """
    if starts.ndim != 3:
        raise ValueError(f"minima needs starts of shape (B, S, D), got {starts.shape}")
    found, energies = from_each_start(energy, params, context, starts, domain=domain, **options)
    batch, many = energies.shape
    order = jnp.argsort(energies, axis=1)
    y = jnp.take_along_axis(found.y.reshape(starts.shape), order[..., None], axis=1)
    energies = jnp.take_along_axis(energies, order, axis=1)
    near = jnp.linalg.norm(y[:, :, None] - y[:, None], axis=-1) < apart
    distinct = jnp.zeros((batch, many), bool)
    for i in range(many):
        new = ~jnp.any(near[:, i] & distinct, axis=1) & jnp.isfinite(energies[:, i])
        distinct = distinct.at[:, i].set(new)
    return Minima(y, energies, distinct)


class Sparse(NamedTuple):
    """A sparse code of each example, as `fista` and `ista` find it.

    - `z`: (B, ...).
    - `energy`: E + l1 |z|_1 there, (B,).
    - `residual`: max |z - soft(z - grad E, l1)|, (B,), 0 at a minimum.
    """

    z: jax.Array
    energy: jax.Array
    residual: jax.Array


@partial(jax.jit, static_argnames=("energy", "steps"))
def fista(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    start: jax.Array,
    *,
    l1: jax.Array | float,
    step_size: jax.Array | float,
    steps: int = 200,
) -> Sparse:
    """argmin over z of E(x, y, z) + l1 ||z||_1 from the start (B, ...), by proximal steps with momentum.

    z <- soft(v - step_size grad E(v), step_size l1), v ahead of z by Nesterov's momentum, soft(a, t) = sign(a)
    max(|a| - t, 0). `energy` is `(params, x, y, z) -> scalar` of one example, such as `reconstruction`, convex in z; x
    and y have a leading axis of B. Converges for step_size up to 1 / the largest curvature of E in z; its gap falls as
    1 / steps^2. `l1` >= 0 is its weight. Source: Beck & Teboulle (2009).
    """

    def after(t):
        return (1 + jnp.sqrt(1 + 4 * t**2)) / 2

    return _proximal(partial(energy, params), (x, y), start, l1, step_size, steps, after)


@partial(jax.jit, static_argnames=("energy", "steps"))
def ista(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    start: jax.Array,
    *,
    l1: jax.Array | float,
    step_size: jax.Array | float,
    steps: int = 200,
) -> Sparse:
    """`fista` without its momentum, v = z: it never rises, and its gap falls as 1 / steps.

    `energy` `(params, x, y, z) -> scalar` of one example, `params`, x, y, the start (B, ...), `l1` >= 0, `step_size`
    and `steps` are those of `fista`, as is the answer, `Sparse`. Source: Daubechies, Defrise & De Mol (2004).
    """
    return _proximal(partial(energy, params), (x, y), start, l1, step_size, steps, lambda t: t)


class _Ahead(NamedTuple):
    """z, the point v ahead of it, and the t that the next momentum (t - 1) / after(t) is made of."""

    z: jax.Array
    v: jax.Array
    t: jax.Array


def _proximal(energy, context, start, l1, step_size, steps, after):
    """Proximal steps on energy(x, y, z) + l1 |z|_1; `after` gives the sequence of t."""

    def soft(a, threshold):
        return jnp.sign(a) * jnp.maximum(jnp.abs(a) - threshold, 0)

    def of_one(context, z):
        slope = jax.grad(partial(energy, *context))

        def step(now, _):
            z = soft(now.v - step_size * slope(now.v), step_size * l1)
            t = after(now.t)
            return _Ahead(z, z + (now.t - 1) / t * (z - now.z), t), None

        first = _Ahead(z, z, jnp.ones((), z.dtype))
        z = lax.scan(step, first, length=steps)[0].z
        total = energy(*context, z) + l1 * jnp.sum(jnp.abs(z))
        return Sparse(z, total, jnp.max(jnp.abs(z - soft(z - slope(z), l1))))

    return jax.vmap(of_one)(context, start)
