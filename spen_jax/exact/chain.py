"""Chains: labels of a sequence whose energy is a sum over single labels and over neighbours."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.blocks import in_blocks
from spen_jax.domains import Simplex
from spen_jax.exact.algebras import Algebra, summed
from spen_jax.exact.arguments import read_energies, read_mask
from spen_jax.exact.messages import free_energy_of
from spen_jax.exact.structure import Structure

NUMBERS = 640


class ChainParts(NamedTuple):
    """Marginals of a chain: of labels (..., T, K) and of pairs of neighbours (..., T - 1, K, K)."""

    nodes: jax.Array
    edges: jax.Array


class Tables(NamedTuple):
    """Energies of labels, (B, T, K), and of pairs, (B or 1, T - 1 or 1, K, K)."""

    nodes: jax.Array
    edges: jax.Array


class Chain(Structure):
    """E(y) = sum_t unary[t, y_t] + sum_t transitions[t, y_t, y_t+1] + start[y_1] + end[y_last], y_t of K labels.

    An answer in whole numbers is labels (..., T), -1 where there is none; relaxed it is (..., T, K), a
    distribution for each place. Cost: T K^2.

    Args:
      unary: (..., T, K).
      transitions: (K, K), from row to column, shared by all steps; of each step (T - 1, K, K), or of each
        step of each example (..., T - 1, K, K), where the axis of steps may be 1; None for none.
      start: of the first label, (K,) or (..., K).
      end: of the last label, likewise.
      mask: booleans (..., T), which places count. One that does not has no label, and no transition to or from it
        counts.
      lengths: whole numbers (...) in place of a mask, how many places count, 0 to T.

    Raises:
      ValueError: for shapes that do not fit, a mask beside lengths, and lengths known to be out of range.
    """

    arrays = ("unary", "transitions", "start", "end", "mask")
    rank, y_rank, whole_rank = 2, 2, 1
    domain = Simplex()

    def __init__(
        self,
        unary: Any,
        transitions: Any = None,
        *,
        start: Any = None,
        end: Any = None,
        mask: Any = None,
        lengths: Any = None,
    ):
        self.unary = read_energies("unary", unary, (None, None))
        *batch, steps, labels = self.unary.shape
        self.transitions = self.start = self.end = None
        if transitions is not None:
            self.transitions = read_energies("transitions", transitions, (labels, labels))
        if start is not None:
            self.start = read_energies("start", start, (labels,))
        if end is not None:
            self.end = read_energies("end", end, (labels,))
        self.mask = read_mask(mask, lengths, (*batch, steps))

    @property
    def _size(self):
        batch = self.batch_shape
        return math.prod(batch), *self.unary.shape[len(batch) :]

    def counts(self) -> jax.Array:
        """Which places count, (B, T)."""
        size, steps, _ = self._size
        return (
            jnp.ones((size, steps), bool) if self.mask is None else self.mask.reshape(size, steps)
        )

    def linked(self) -> jax.Array:
        """Which transitions count, (B, T - 1)."""
        counts = self.counts()
        return counts[:, 1:] & counts[:, :-1]

    def tables(self):
        """A place that does not count has label 0, without energy."""
        size, steps, labels = self._size
        nodes, counts = self.unary.reshape(size, steps, labels), self.counts()
        before = jnp.cumsum(counts, 1)
        for end, at in (
            (self.start, counts & (before == 1)),
            (self.end, counts & (before == before[:, -1:])),
        ):
            if end is not None:
                end = jnp.broadcast_to(end, (*self.batch_shape, labels)).reshape(size, 1, labels)
                nodes = jnp.where(at[..., None], nodes + end, nodes)
        if self.mask is not None:
            absent = jnp.where(jnp.arange(labels) == 0, 0, jnp.inf).astype(nodes.dtype)
            nodes = jnp.where(counts[..., None], nodes, absent[None, None])
        return Tables(nodes, self._edges(nodes.dtype))

    def _edges(self, dtype):
        *_, labels = self._size
        edges = self.transitions
        if edges is None:
            return jnp.zeros((1, 1, labels, labels), dtype)
        if edges.ndim <= 3:
            return edges.reshape(1, -1, labels, labels)
        return edges.reshape(self._size[0], -1, labels, labels)

    def recursion(self, tables: Tables, algebra: Algebra) -> jax.Array:
        """alpha_t(j) = either over i of (alpha_t-1(i) + edge_t(i, j)) + node_t(j)."""
        nodes = jnp.moveaxis(algebra.table(tables.nodes), 1, 0)
        linked = jnp.moveaxis(self.linked(), 1, 0)[:, :, None, None]
        edges = jnp.moveaxis(tables.edges, 1, 0)
        edges = jnp.broadcast_to(edges, (len(linked), *edges.shape[1:]))

        def step(alpha, given):
            t, node, edge, link = given
            edge = algebra.table(jnp.where(link, edge, 0))
            moved = algebra.at(t).either(algebra.both(alpha[:, :, None], edge), 1)
            return algebra.both(moved, node), None

        first = algebra.either(nodes[0][:, :, None], 2)
        alpha, _ = lax.scan(step, first, (jnp.arange(1, len(nodes)), nodes[1:], edges, linked))
        return algebra.at(0).either(alpha, 1)

    def free(self, tables):
        """F at beta = 1, by messages."""
        if self._alone():
            return jnp.sum(summed(tables.nodes, 2), 1)
        return self._in_blocks(free_energy_of, tables)

    def _alone(self):
        return self.transitions is None or self._size[1] == 1

    def _in_blocks(self, function, tables):
        """function(nodes, edges, linked), time first, of blocks of examples; results have the examples first."""
        linked = None if self.mask is None else self.linked()
        shared = tables.edges if len(tables.edges) == 1 else None

        def of_block(shared, block):
            nodes, linked, edges = block
            nodes, edges = jnp.moveaxis(nodes, 1, 0), shared if edges is None else edges
            linked = linked if linked is None else linked.T
            return function(nodes, jnp.moveaxis(edges, 1, 0), linked)

        own = tables.edges if shared is None else None
        return in_blocks(of_block, shared, (tables.nodes, linked, own), NUMBERS)

    def spread(self, tables):
        """A table for each transition."""
        size, steps, labels = self._size
        return tables._replace(
            edges=jnp.broadcast_to(tables.edges, (size, steps - 1, labels, labels))
        )

    def parts(self, of_tables):
        """Those of what counts."""
        counts, linked = self.counts()[..., None], self.linked()[..., None, None]
        return ChainParts(
            jnp.where(counts, of_tables.nodes, 0), jnp.where(linked, of_tables.edges, 0)
        )

    def written(self, of_tables):
        """Labels."""
        return jnp.where(self.counts(), jnp.argmax(of_tables.nodes, -1), -1)

    def one_hot(self, y):
        """(..., T) to (..., T, K), 0 for -1."""
        return jax.nn.one_hot(y, self.unary.shape[-1], dtype=self.unary.dtype)

    def energy_of(self, y):
        """The multilinear extension."""
        tables, counts, linked = self.tables(), self.counts(), self.linked()
        y = jnp.where(counts[..., None], y, 0)
        nodes = jnp.sum(jnp.where(y != 0, y * tables.nodes, 0), (1, 2))
        pairs = y[:, :-1, :, None] * y[:, 1:, None, :]
        edges = jnp.where(linked[..., None, None], pairs * tables.edges, 0)
        return nodes + jnp.sum(jnp.where(pairs != 0, edges, 0), (1, 2, 3))

    def plus(self, energies):
        """Added to the unary energies."""
        return self.replaced(unary=self.unary + energies)
