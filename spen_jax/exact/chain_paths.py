"""Paths through a chain, found from the last label to the first: the best, and ones drawn at random.

Time comes first, as in `chain_messages`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.exact.chain_messages import Filtered, filtered, least


def best_path(
    nodes: jax.Array, edges: jax.Array, linked: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """argmin_y E(y), (T, B), the least energy, (B,)."""
    found = least(nodes, edges, linked)

    def choose(energies, _):
        return jnp.argmin(energies, -1)

    y = _backward(found, edges, linked, choose, jnp.arange(len(nodes)))
    return y, found.value


@jax.custom_jvp
def least_energy_of(nodes: jax.Array, edges: jax.Array, linked: jax.Array | None) -> jax.Array:
    """min_y E(y), (B,); its derivative is 1 at the parts of the best path."""
    return least(nodes, edges, linked).value


@least_energy_of.defjvp
def _least_energy_jvp(primals, tangents):
    nodes, edges, linked = primals
    y, energy = best_path(nodes, edges, linked)
    exists = energy < jnp.inf
    of_nodes = jnp.take_along_axis(tangents[0], y[..., None], 2)[..., 0]
    rows, columns = jnp.arange(len(y) - 1)[:, None], jnp.arange(y.shape[1])[None]
    steps = jnp.minimum(rows, len(edges) - 1), jnp.minimum(columns, edges.shape[1] - 1)
    of_edges = tangents[1][(*steps, y[:-1], y[1:])]
    if linked is not None:
        of_edges = jnp.where(linked, of_edges, 0)
    change = jnp.sum(of_nodes, 0) + jnp.sum(of_edges, 0)
    return energy, jnp.where(exists, change, 0)


def drawn_paths(
    nodes: jax.Array, edges: jax.Array, linked: jax.Array | None, key: jax.Array, n: int
) -> tuple[jax.Array, jax.Array]:
    """n paths for each example from P(y) = exp(F - E(y)), (T, B n), example by example, and F, (B,)."""
    found = filtered(nodes, edges, linked)
    before, last = jnp.repeat(found.before, n, 1), jnp.repeat(found.last, n, 0)
    if edges.shape[1] > 1:
        edges = jnp.repeat(edges, n, 1)
    linked = None if linked is None else jnp.repeat(linked, n, 1)

    def choose(energies, key):
        return jnp.argmin(energies - jax.random.gumbel(key, energies.shape, energies.dtype), -1)

    several = Filtered(before, last, found.value)
    y = _backward(several, edges, linked, choose, jax.random.split(key, len(nodes)))
    return y, found.value


def _backward(found, edges, linked, choose, keys):
    """Labels from the last to the first, each chosen from the energies that it has given the next one."""

    def step(y, now):
        before, edge, link, key = now
        edge = edges[0] if edge is None else edge
        if len(edge) == 1:
            onto = edge[0].T[y]
        else:
            onto = jnp.take_along_axis(edge, y[:, None, None], 2)[..., 0]
        if link is not None:
            onto = jnp.where(link[:, None], onto, 0)
        y = choose(before + onto, key)
        return y, y

    last = choose(found.last, keys[-1])
    of_steps = edges if len(edges) > 1 else None
    _, y = lax.scan(step, last, (found.before, of_steps, linked, keys[:-1]), reverse=True)
    return jnp.concatenate([y, last[None]])
