"""Segmentations: a sequence cut into labelled segments of bounded length, as in semi-Markov models."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.domains import Box
from spen_jax.exact.algebras import Algebra
from spen_jax.exact.arguments import read_energies, read_mask, read_shared
from spen_jax.exact.structure import Structure
from spen_jax.exact.tables import skewed, weighted


class SegmentParts(NamedTuple):
    """Marginals of `Segments`, probabilities in [0, 1]: of segments, and of the labels on both sides of a cut.

    `segments` (..., T, L, K), by start, length - 1 and label; `transitions` (..., T - 1, K, K), of a cut after each
    place.
    """

    segments: jax.Array
    transitions: jax.Array


class Tables(NamedTuple):
    """Energies of segments, (B, T, L, K), and of transitions, (B or 1, T - 1 or 1, K, K), or None for none."""

    segments: jax.Array
    transitions: jax.Array | None


class Segments(Structure):
    """E = sum_s energies[t_s, l_s, y_s] + sum_s transitions[y_s, y_s+1] + start[y_1] + end[y_last], s the segments.

    Segment s begins at t_s, where the last one ends, and is l_s + 1 places long; together they cover all places, once.
    An answer in whole numbers is (..., T): the label where a segment begins, -1 elsewhere. Relaxed it is
    (..., T, L, K), the indicators of segments. A segment of more than L places is none: in `energy` it counts
    nothing. Segments of one place, L = 1, make a `Chain`. Source: Sarawagi & Cohen (2004). Cost: T L K, and
    T K^2 with transitions.

    Args:
      energies: (..., T, L, K), of a segment by its start, its length - 1 and its label.
      transitions: between the labels of segments that meet, (K, K), from row to column, or (..., K, K); None for none.
      start: of the first segment's label, (K,) or (..., K).
      end: of the last segment's label, likewise.
      lengths: whole numbers (...), how many places there are to cover, 0 to T; None for all.

    Raises:
      ValueError: for shapes that do not fit, and lengths known to be out of range.
    """

    arrays = ("energies", "transitions", "start", "end", "lengths")
    rank, y_rank, whole_rank = 3, 3, 1
    shared = ("transitions", "start", "end")
    domain = Box()

    def __init__(
        self,
        energies: Any,
        transitions: Any = None,
        *,
        start: Any = None,
        end: Any = None,
        lengths: Any = None,
    ):
        self.energies = read_energies("energies", energies, (None, None, None))
        *batch, steps, longest, labels = self.energies.shape
        if not steps * longest * labels:
            raise ValueError(
                f"energies must have a place, a length and a label, got {self.energies.shape}"
            )
        self.transitions = self.start = self.end = self.lengths = None
        if transitions is not None:
            self.transitions = read_shared("transitions", transitions, (*batch,), (labels, labels))
        if start is not None:
            self.start = read_shared("start", start, (*batch,), (labels,))
        if end is not None:
            self.end = read_shared("end", end, (*batch,), (labels,))
        if lengths is not None:
            read_mask(None, lengths, (*batch, steps))
            self.lengths = jnp.asarray(lengths)

    @property
    def _size(self):
        batch = self.batch_shape
        return math.prod(batch), *self.energies.shape[len(batch) :]

    def _lengths(self):
        """How many places count, (B,)."""
        size, steps, *_ = self._size
        return jnp.full(size, steps) if self.lengths is None else self.lengths.reshape(size)

    def _linked(self):
        """Whether the cut after a place is within the sequence, (B, T - 1)."""
        return jnp.arange(1, self._size[1])[None] < self._lengths()[:, None]

    def tables(self):
        """Places beyond the length are segments of label 0, without energy."""
        size, steps, longest, labels = self._size
        energies = self.energies.reshape(self._size)
        lengths = self._lengths().reshape(size, 1, 1, 1)
        begin = jnp.arange(steps).reshape(1, steps, 1, 1)
        after = begin + jnp.arange(1, longest + 1).reshape(1, 1, longest, 1)
        for bound, at in ((self.start, begin == 0), (self.end, after == lengths)):
            if bound is not None:
                bound = bound.reshape(-1, 1, 1, labels).astype(energies.dtype)
                energies = jnp.where(at, energies + bound, energies)
        energies = jnp.where(after <= lengths, energies, jnp.inf)
        if self.lengths is not None:
            first = jnp.arange(longest * labels).reshape(1, 1, longest, labels) == 0
            energies = jnp.where((begin >= lengths) & first, 0, energies)
        if self.transitions is None:
            return Tables(energies, None)
        transitions = self.transitions.reshape(-1, 1, labels, labels)
        return Tables(energies, transitions.astype(energies.dtype))

    def recursion(self, tables: Tables, algebra: Algebra) -> jax.Array:
        """alpha_t(k) = either over l of begun_t-l(k) + segment(t - l, l, k), begun_t+1(k) of alpha_t(j) + (j, k)."""
        size, steps, longest, labels = tables.segments.shape
        ends = skewed(jnp.transpose(tables.segments, (2, 1, 0, 3)), steps, jnp.inf)
        ends = algebra.table(jnp.moveaxis(ends, 1, 0))
        linked, edges = jnp.moveaxis(self._linked(), 1, 0)[:, :, None, None], None
        if tables.transitions is not None:
            edges = jnp.moveaxis(tables.transitions, 1, 0)
            edges = jnp.broadcast_to(edges, (steps - 1, *edges.shape[1:]))

        def step(begun, given):
            t, end, edge, link = given
            here = algebra.at(t)
            alpha = here.either(algebra.both(begun, end), 0)
            if edge is None:  # whatever follows, the labels before it join alike
                new = jnp.broadcast_to(here.either(alpha, 1)[:, None], alpha.shape)
            else:
                edge = algebra.table(jnp.where(link, edge, 0))
                new = here.either(algebra.both(alpha[:, :, None], edge), 1)
            return jnp.concatenate([new[None], begun[:-1]]), None

        last = algebra.at(steps - 1)
        first = jnp.arange(longest).reshape(longest, 1, 1) == 0
        first = jnp.where(first, jnp.zeros((1, size, labels), ends.dtype), jnp.inf)
        begun = last.either(algebra.table(first)[None], 0)
        given = jnp.arange(steps - 1), ends[:-1], edges, linked
        begun, _ = lax.scan(step, begun, given)
        alpha = last.either(algebra.both(begun, ends[-1]), 0)
        return last.either(alpha, 1)

    def support(self):
        """How many places count, (B,)."""
        return (self._lengths(),)

    def spread(self, tables):
        """Transitions of their own for each cut of each example, (B, T - 1, K, K)."""
        size, steps, _, labels = tables.segments.shape
        shape, shared = (size, steps - 1, labels, labels), tables.transitions
        shared = jnp.zeros((), tables.segments.dtype) if shared is None else shared
        return tables._replace(transitions=jnp.broadcast_to(shared, shape))

    def parts(self, of_tables):
        """`SegmentParts` of what lies within the sequence."""
        linked = self._linked()[..., None, None]
        return SegmentParts(
            self._within(of_tables.segments), jnp.where(linked, of_tables.transitions, 0)
        )

    def _within(self, of_segments):
        """0 for segments that begin beyond the length."""
        places = jnp.arange(self._size[1])[None] < self._lengths()[:, None]
        return jnp.where(places[..., None, None], of_segments, 0)

    def written(self, of_tables):
        """(B, T), the label where a segment begins, -1 elsewhere."""
        begun = jnp.sum(self._within(of_tables.segments), 2)
        return jnp.where(jnp.max(begun, -1) > 0.5, jnp.argmax(begun, -1), -1)

    def y_shape(self):
        """(T, L, K)."""
        return self.energies.shape[-3:]

    def one_hot(self, y):
        """(..., T) to (..., T, L, K): a segment ends where the next one begins."""
        _, steps, longest, labels = self._size
        batch = self.batch_shape
        lengths = steps if self.lengths is None else self.lengths
        lengths = jnp.broadcast_to(lengths, batch).reshape(*batch, *[1] * (y.ndim - len(batch)))
        places = jnp.arange(steps).reshape(*[1] * (y.ndim - 1), steps)
        begins = jnp.where((y >= 0) & (places < lengths), places, lengths)
        after = lax.cummin(begins, y.ndim - 1, reverse=True)
        after = jnp.concatenate([after[..., 1:], jnp.broadcast_to(lengths, y[..., :1].shape)], -1)
        length = jax.nn.one_hot(after - places - 1, longest, dtype=self.energies.dtype)
        return length[..., None] * jax.nn.one_hot(y, labels, dtype=length.dtype)[..., None, :]

    def energy_of(self, y):
        """The multilinear extension, (B, T, L, K) -> (B,)."""
        tables, y = self.tables(), self._within(y)
        energy = jnp.sum(weighted(y, self._within(tables.segments)), (1, 2, 3))
        if tables.transitions is None:
            return energy
        ends = skewed(jnp.transpose(y, (2, 1, 0, 3)), y.shape[1], 0)
        ends, begins = jnp.moveaxis(jnp.sum(ends, 0), 0, 1), jnp.sum(y, 2)
        pairs = ends[:, :-1, :, None] * begins[:, 1:, None, :]
        pairs = jnp.where(self._linked()[..., None, None], pairs, 0)
        return energy + jnp.sum(weighted(pairs, tables.transitions), (1, 2, 3))

    def plus(self, energies):
        """With energies (..., T, L, K) added to those of segments."""
        return self.replaced(energies=self.energies + energies)
