"""Chains: labels of a sequence whose energy is a sum over single labels and over neighbours."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.blocks import in_blocks
from spen_jax.domains import Simplex
from spen_jax.exact.algebras import Algebra, summed
from spen_jax.exact.answers import finite, or_infinite
from spen_jax.exact.arguments import read_energies, read_mask, read_shared
from spen_jax.exact.chain_messages import free_energy_of, marginals_of
from spen_jax.exact.chain_pairs import free_energy_in_pairs
from spen_jax.exact.chain_paths import best_path, drawn_paths, least_energy_of
from spen_jax.exact.structure import Structure

NUMBERS = 640
"""What `in_blocks` is told of an example: blocks of 64 have products of matrices that are large enough."""
PAYS = 2**25
"""Up to so many multiplications a step, B K^3, joining in pairs is the faster way on a GPU of recent years."""


class ChainParts(NamedTuple):
    """Marginals of a `Chain`, probabilities in [0, 1]: `nodes` (..., T, K) of labels, `edges` of pairs of neighbours.

    `edges` are (..., T - 1, K, K), from row to column, 0 where a place does not count.
    """

    nodes: jax.Array
    edges: jax.Array


class Tables(NamedTuple):
    """Energies of labels, (B, T, K), and of pairs, (B or 1, T - 1 or 1, K, K)."""

    nodes: jax.Array
    edges: jax.Array


class Chain(Structure):
    """E(y) = sum_t unary[t, y_t] + sum_t transitions[t, y_t, y_t+1] + start[y_1] + end[y_last], y_t of K labels.

    An answer in whole numbers is labels (..., T), -1 where there is none; relaxed it is (..., T, K), a distribution for
    each place. Cost: T K^2. Sources: as hidden Markov models Rabiner (1989), as conditional random fields Lafferty,
    McCallum & Pereira (2001).

    Args:
      unary: (..., T, K).
      transitions: (K, K), from row to column, shared by all steps; of each step (T - 1, K, K), or of each
        step of each example (..., T - 1, K, K), where the axis of steps may be 1; None for none.
      start: of the first label, (K,) or (..., K).
      end: of the last label, likewise.
      mask: booleans (..., T), which places count. One that does not has no label, and no transition to or from it
        counts.
      lengths: whole numbers (...) in place of a mask, how many places count, 0 to T.
      in_pairs: whether the free energy and what follows from its derivative is computed in logarithmic depth, with
        K times the work; None for where that pays, on accelerators.

    Raises:
      ValueError: for shapes that do not fit, a mask beside lengths, and lengths known to be out of range.
    """

    arrays = ("unary", "transitions", "start", "end", "mask")
    settings = ("in_pairs",)
    shared = ("transitions", "start", "end")
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
        in_pairs: bool | None = None,
    ):
        self.unary = read_energies("unary", unary, (None, None))
        *batch, steps, labels = self.unary.shape
        if not steps * labels:
            raise ValueError(f"unary must have a place and a label, got shape {self.unary.shape}")
        self.transitions = self.start = self.end = None
        if transitions is not None:
            transitions = read_energies("transitions", transitions, (labels, labels))
            # With an axis of steps also where all share one: what comes before it is the batch.
            self.transitions = transitions[None] if transitions.ndim == 2 else transitions
            self._check_transitions(self.transitions.shape[:-2], (*batch, steps - 1))
        if start is not None:
            self.start = read_shared("start", start, (*batch,), (labels,))
        if end is not None:
            self.end = read_shared("end", end, (*batch,), (labels,))
        self.in_pairs = in_pairs
        self.mask = read_mask(mask, lengths, (*batch, steps))

    @staticmethod
    def _check_transitions(shape, full):
        if len(shape) not in (1, len(full)) or any(
            n not in (1, m) for n, m in zip(shape[::-1], full[::-1], strict=False)
        ):
            raise ValueError(
                f"transitions must be (K, K), ({full[-1]}, K, K) for each step, or of each example's steps "
                f"{(*full, 'K', 'K')}, got the leading axes {shape}"
            )

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
        """`nodes` (B, T, K), `edges` (B or 1, T - 1 or 1, K, K); what does not count has label 0, without energy."""
        size, steps, labels = self._size
        nodes, counts = self.unary.reshape(size, steps, labels), self.counts()
        before = jnp.cumsum(counts, 1)
        for end, at in (
            (self.start, counts & (before == 1)),
            (self.end, counts & (before == before[:, -1:])),
        ):
            if end is not None:
                end = end.reshape(-1, 1, labels)
                nodes = jnp.where(at[..., None], nodes + end, nodes)
        if self.mask is not None:
            absent = jnp.where(jnp.arange(labels) == 0, 0, jnp.inf).astype(nodes.dtype)
            nodes = jnp.where(counts[..., None], nodes, absent[None, None])
        return Tables(nodes, self._edges(nodes.dtype))

    def support(self):
        """Which places count, (B, T)."""
        return (self.counts(),)

    def comparable(self, other):
        """With transitions of no energy where the other one has some."""
        if self.transitions is not None or other.transitions is None:
            return self
        labels = self._size[2]
        return self.replaced(transitions=jnp.zeros((1, labels, labels), self.unary.dtype))

    def masked(self, mask):
        """With a mask (..., T), booleans, of places that count beside its own; ValueError for other shapes."""
        also: Any = read_mask(mask, None, self.unary.shape[:-1])
        return self.replaced(mask=also if self.mask is None else self.mask & also)

    def _edges(self, dtype):
        size, steps, labels = self._size
        edges = self.transitions
        if edges is None:
            return jnp.zeros((1, 1, labels, labels), dtype)
        if edges.ndim > 3:
            edges = jnp.broadcast_to(edges, (*self.batch_shape, *edges.shape[-3:]))
        return edges.reshape(-1, *edges.shape[-3:]).astype(dtype)

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
            each = summed(tables.nodes, 2)
            none = jnp.any(each == jnp.inf, 1)
            return jnp.where(none, jnp.inf, jnp.sum(jnp.where(none[:, None], 0, each), 1))
        size, _, labels = self._size
        in_pairs = self.in_pairs
        if in_pairs is None:
            in_pairs = jax.default_backend() != "cpu" and size * labels**3 <= PAYS
        if in_pairs:
            linked = None if self.mask is None else self.linked()
            return free_energy_in_pairs(*self._time_first(tables.nodes, tables.edges, linked))
        return self._in_blocks(free_energy_of, tables)

    def least(self, tables):
        """The energy of the best path."""
        if self._alone():
            return super().least(tables)
        return self._in_blocks(least_energy_of, tables)

    def found_marginals(self, tables):
        """By messages forward and back."""
        if self._alone():
            return super().found_marginals(tables)

        def found(*given):
            _, nodes, pairs = marginals_of(*given, True)
            return Tables(jnp.moveaxis(nodes, 0, 1), jnp.moveaxis(pairs, 0, 1))

        return self._in_blocks(found, tables)

    def found_best(self, tables):
        """The best path, from its end."""
        if self._alone():
            return super().found_best(tables)

        def found(*given):
            y, energy = best_path(*given)
            return y.T, energy

        y, energy = self._in_blocks(found, tables)
        return jnp.where(self.counts() & (energy < jnp.inf)[:, None], y, -1), energy

    def found_samples(self, tables, key, n):
        """Paths drawn from their end."""
        if self._alone():
            return super().found_samples(tables, key, n)
        given = self._time_first(tables.nodes, tables.edges, self.linked())
        y, free = drawn_paths(*given, key, n)
        y = jnp.moveaxis(y.reshape(len(y), -1, n), 0, 2)
        return jnp.where((self.counts() & (free < jnp.inf)[:, None])[:, None], y, -1), free

    def _alone(self):
        """Whether no transition has an energy."""
        return self.transitions is None or self._size[1] == 1

    @staticmethod
    def _time_first(nodes, edges, linked):
        return (
            jnp.moveaxis(nodes, 1, 0),
            jnp.moveaxis(edges, 1, 0),
            None if linked is None else linked.T,
        )

    def _in_blocks(self, function, tables):
        """function(nodes, edges, linked), time first, of blocks of examples; what it returns has the examples first."""
        shared = tables.edges if len(tables.edges) == 1 else None
        own = tables.edges if shared is None else None

        def of_block(shared, block):
            nodes, edges, linked = block
            return function(*self._time_first(nodes, shared if edges is None else edges, linked))

        linked = None if self.mask is None else self.linked()
        return in_blocks(of_block, shared, (tables.nodes, own, linked), NUMBERS)

    def spread(self, tables):
        """Transitions of their own for each step of each example, (B, T - 1, K, K)."""
        size, steps, labels = self._size
        return tables._replace(
            edges=jnp.broadcast_to(tables.edges, (size, steps - 1, labels, labels))
        )

    def parts(self, of_tables):
        """`ChainParts` of what counts."""
        counts, linked = self.counts()[..., None], self.linked()[..., None, None]
        nodes, edges = of_tables
        if self._alone():  # the recursion had no need of pairs
            edges = nodes[:, :-1, :, None] * nodes[:, 1:, None]
        return ChainParts(jnp.where(counts, nodes, 0), jnp.where(linked, edges, 0))

    def written(self, of_tables):
        """Labels (B, T)."""
        return jnp.where(self.counts(), jnp.argmax(of_tables.nodes, -1), -1)

    def y_shape(self):
        """(T, K)."""
        return self.unary.shape[-2:]

    def one_hot(self, y):
        """(..., T) to (..., T, K), 0 for -1."""
        return jax.nn.one_hot(y, self.unary.shape[-1], dtype=self.unary.dtype)

    def energy_of(self, y):
        """sum_t y_t . nodes_t + y_t' edges_t y_t+1, (B, T, K) -> (B,)."""
        tables, counts = self.tables(), self.counts()
        y = jnp.where(counts[..., None], y, 0)
        edges = finite(tables.edges)
        if len(edges) == edges.shape[1] == 1:
            pairs = jnp.sum((y[:, :-1] @ edges[0, 0]) * y[:, 1:], (1, 2))
        else:
            pairs = jnp.sum((y[:, :-1, None] @ edges)[:, :, 0] * y[:, 1:], (1, 2))
        return or_infinite(jnp.sum(y * finite(tables.nodes), (1, 2)) + pairs)

    def plus(self, energies):
        """With energies (..., T, K) added to the unary ones."""
        return self.replaced(unary=self.unary + energies)
