"""Lower bounds by forests: exact answers of graphs without cycles whose energies sum to those of one with cycles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.exact.field_methods import Tables
from spen_jax.exact.graph_layout import forests, summed_at


def cover_bound(graph: Any, tables: Tables, messages: Any, cold: bool) -> jax.Array:
    """(1/T) sum_t F(nodes of t + factors of t over their weights), at most F of the factor graph, (B,).

    The nodes of forest t hear all messages but those of its own factors: so shared out, energies of single values sum
    to the graph's, whatever the messages. Cold: least energies in place of F. Source: Wainwright, Jaakkola & Willsky
    (2005), section 3.
    """
    every, depth = forests(graph.size[1], graph.kinds())
    weights = graph.cover()
    ready = graph.prepared(tables, weights, cold)
    messages = tuple(
        jnp.minimum(own, _most(table, w))
        for own, table, w in zip(messages, tables.links, weights, strict=True)
    )
    ends = [0, *np.cumsum([f.shape[0] for f in graph.factors])]
    gathered = graph.gathered(ready, messages)

    def of_forest(there):
        there = tuple(there[a:b] for a, b in zip(ends, ends[1:], strict=False))
        nodes, links = gathered, []
        for f, table, own, held in zip(graph.factors, ready[0].links, messages, there, strict=True):
            nodes = summed_at(nodes, jnp.where(held[None, :, None, None], -own, 0), f)
            links.append(jnp.where(held.reshape(1, -1, *[1] * (table.ndim - 2)), table, 0))
        inside = graph.prepared(Tables(nodes, tuple(links)), None, cold)
        passed, _ = lax.scan(
            lambda m, _: (graph.passed(inside, m), None), graph.silent(inside), length=depth
        )
        return graph.bethe(inside, passed)

    return jnp.mean(lax.map(jax.checkpoint(of_forest), jnp.asarray(every)), 0)


def _most(table, weights):
    """More than any message that forbids nothing can be: what forbids says no more beside it, and rounds away less."""
    finite = jnp.where(jnp.isinf(table), 0, table)
    spread = jnp.max(jnp.abs(finite)) / np.min(weights, initial=1)
    return 100 + 20 * spread
