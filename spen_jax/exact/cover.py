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
    sizes = np.cumsum([f.shape[0] for f in graph.factors])[:-1]
    gathered = graph.gathered(ready, messages)

    def of_forest(there):
        there = tuple(jnp.asarray(a) for a in jnp.split(there, sizes))
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
