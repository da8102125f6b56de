"""Free energies of chains in logarithmic depth: neighbouring steps are joined in pairs, and the pairs again.

A step is the matrix M_t(i, j) = edge_t(i, j) + node_t+1(j); two join to -log sum_k exp(-(M(i, k) + M'(k, j))). That is
K times the work of messages, in log2 T rounds in place of T steps. Time comes first, as in `chain_messages`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.exact.algebras import summed
from spen_jax.exact.chain_messages import SPREAD, all_agree, finite_least


def free_energy_in_pairs(nodes: jax.Array, edges: jax.Array, linked: jax.Array | None) -> jax.Array:
    """F = -log sum_y exp(-E(y)), (B,), and by differentiation its marginals.

    Where transitions are allowed and differ by at most `SPREAD`, joins are products of exponentials: what the first
    label of a part adds to its energy differs by no more, and what underflows is far below that.
    """
    edges = jnp.broadcast_to(edges, (len(nodes) - 1, nodes.shape[1], *edges.shape[2:]))
    if linked is not None:
        edges = jnp.where(linked[..., None, None], edges, 0)
    steps = edges + nodes[1:, :, None, :]
    small = jnp.all(jnp.max(edges, (2, 3)) - jnp.min(edges, (2, 3)) <= SPREAD)
    return lax.cond(
        all_agree(small),
        lambda: _whole(_scaled, nodes[0], steps),
        lambda: _whole(_in_logarithms, nodes[0], steps),
    )


def _whole(join, first, steps):
    taken = jnp.zeros(steps.shape[1], steps.dtype)

    def near_0(steps):
        """Matrices less their least numbers: of large ones, float32 has few digits."""
        least = finite_least(steps, (2, 3))
        return steps - least[..., None, None], jnp.sum(least, 0)

    while len(steps) > 1:
        steps, off = near_0(steps)
        taken, pairs = taken + off, len(steps) // 2
        joined = join(steps[0 : 2 * pairs : 2], steps[1 : 2 * pairs : 2])
        steps = jnp.concatenate([joined, steps[2 * pairs :]])
    return taken + summed(summed(first[:, :, None] + steps[0], 2), 1)


def _scaled(a, b):
    rows, columns = finite_least(a, -1)[..., :, None], finite_least(b, -2)[..., None, :]
    total = jnp.exp(rows - a) @ jnp.exp(columns - b)
    none = total == 0
    joined = rows + columns - jnp.log(jnp.where(none, 1, total))
    return jnp.where(none, jnp.inf, joined)


def _in_logarithms(a, b):
    return summed(a[..., :, :, None] + b[..., None, :, :], a.ndim - 1)
