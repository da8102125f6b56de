"""Grids: labels of an image whose energy is a sum over pixels and over neighbours."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.domains import Simplex
from spen_jax.exact.arguments import read_energies, read_mask
from spen_jax.exact.belief_propagation import BeliefPropagation
from spen_jax.exact.factors import check_energies
from spen_jax.exact.field_methods import Method, Tables, read_method
from spen_jax.exact.grid_links import OFFSETS, Links, each_link, linked
from spen_jax.exact.grid_methods import GridMessages
from spen_jax.numbers import floats, known, wide


class Grid(GridMessages):
    """E(y) = sum_ij unary[i, j, y_ij] + the energies of neighbours' pairs of labels, y_ij of K labels.

    An answer in whole numbers is labels (..., H, W), -1 where there is none; relaxed it is (..., H, W, K), a
    distribution for each pixel. Tables of links are (K, K), from the label of the first pixel to that of the second,
    shared by all pairs, or of each pair (H', W', K, K), or of each pair of each example (..., H', W', K, K), where each
    of the axes H' and W' may be 1. None for no links of this direction; infinity forbids. Results say what they promise
    (`Answer`, `Marginals`), `by` changes the method.

    Args:
      unary: (..., H, W, K).
      down: of (i, j) and (i + 1, j), H' = H - 1, W' = W.
      right: of (i, j) and (i, j + 1), H' = H, W' = W - 1.
      down_right: of (i, j) and (i + 1, j + 1), H' = H - 1, W' = W - 1.
      down_left: of (i, j + 1) and (i + 1, j), likewise; the index is that of the left column.
      mask: booleans (..., H, W), which pixels count. One that does not has no label, no energy and no links.
      method: how questions are answered, `BeliefPropagation()` unless said: few grids are small enough for exact ones.

    Raises:
      ValueError: for shapes that do not fit, and for energies known to be not a number or -infinity.
    """

    arrays = ("unary", "down", "right", "down_right", "down_left", "mask")
    shared = Links._fields
    settings = ("method",)
    rank, y_rank, whole_rank = 3, 3, 2
    domain = Simplex()

    def __init__(
        self,
        unary: Any,
        down: Any = None,
        right: Any = None,
        down_right: Any = None,
        down_left: Any = None,
        *,
        mask: Any = None,
        method: Method | None = None,
    ):
        self.unary = read_energies("unary", unary, (None, None, None))
        if not math.prod(self.unary.shape[-3:]):
            raise ValueError(f"unary must have a pixel and a label, got shape {self.unary.shape}")
        self.down, self.right, self.down_right, self.down_left = (
            self._read(name, table, offset)
            for name, table, offset in zip(
                Links._fields, (down, right, down_right, down_left), OFFSETS, strict=True
            )
        )
        self.mask = read_mask(mask, None, self.unary.shape[:-1])
        counts, unary = None if self.mask is None else known(self.mask), known(self.unary)
        if self.mask is None:
            check_energies("unary", self.unary)
        elif counts is not None and unary is not None:
            check_energies("unary", np.where(counts[..., None], unary, 0))
        self.method = read_method(method, BeliefPropagation())

    def _read(self, name, table, offset):
        if table is None:
            return None
        *batch, height, width, labels = self.unary.shape
        table = read_energies(name, table, (labels, labels))
        check_energies(name, table)
        full = *batch, max(height - offset[0], 0), max(width - abs(offset[1]), 0)
        if table.ndim == 2:
            # With axes of pixels also where all share one: what comes before them is the batch.
            return table[None, None]
        shape = table.shape[:-2]
        if len(shape) not in (2, len(full)) or any(
            n not in (1, m) for n, m in zip(shape[::-1], full[::-1], strict=False)
        ):
            raise ValueError(
                f"{name} must be (K, K), ({full[-2]}, {full[-1]}, K, K) for each link, or of each example's links "
                f"{(*full, 'K', 'K')}, got the leading axes {shape}"
            )
        return table

    @property
    def size(self):
        """B, H, W, K."""
        batch = self.batch_shape
        return math.prod(batch), *self.unary.shape[len(batch) :]

    def counts(self) -> jax.Array:
        """Which pixels count, (B, H, W)."""
        size, height, width, _ = self.size
        if self.mask is None:
            return jnp.ones((size, height, width), bool)
        return self.mask.reshape(size, height, width)

    def counting_pixels(self):
        """Which pixels count, (B, H, W); None for all."""
        return None if self.mask is None else self.counts()

    def tables(self):
        """A pixel that does not count has label 0, without energy; its links stay, and are left out where read."""
        size, height, width, labels = self.size
        nodes = self.unary.reshape(size, height, width, labels)
        if self.mask is not None:
            absent = jnp.where(jnp.arange(labels) == 0, 0, jnp.inf).astype(nodes.dtype)
            nodes = jnp.where(self.counts()[..., None], nodes, absent[None, None, None])
        given = Links(self.down, self.right, self.down_right, self.down_left)
        return Tables(nodes, each_link(lambda o, t: self._link(o, t, nodes.dtype), given))

    def _link(self, offset: Any, table: Any, dtype: Any):
        *_, height, width, _, _ = table.shape
        if table.ndim > 4:
            table = jnp.broadcast_to(table, (*self.batch_shape, *table.shape[-4:]))
        table = table.reshape(math.prod(table.shape[:-4]), *table.shape[-4:]).astype(dtype)
        return table if height == width == 1 else self._each(offset, table)

    def _each(self, offset, table):
        """A table for each link."""
        _, height, width, labels = self.size
        shape = max(height - offset[0], 0), max(width - abs(offset[1]), 0)
        return jnp.broadcast_to(table, (table.shape[0], *shape, labels, labels))

    def support(self):
        """Which pixels count, (B, H, W)."""
        return (self.counts(),)

    def comparable(self, other):
        """With links of no energy where the other one has some."""
        labels = self.unary.shape[-1]
        missing = {
            name: jnp.zeros((1, 1, labels, labels), self.unary.dtype)
            for name in Links._fields
            if getattr(self, name) is None and getattr(other, name) is not None
        }
        return self.replaced(**missing)

    def masked(self, mask):
        """With a mask (..., H, W), booleans, of pixels that count beside its own; ValueError for other shapes."""
        also: Any = read_mask(mask, None, self.unary.shape[:-1])
        return self.replaced(mask=also if self.mask is None else self.mask & also)

    def spread(self, tables):
        """A table for each link of each example."""
        size = self.size[0]

        def link(offset, table):
            table = self._each(offset, table)
            return jnp.broadcast_to(table, (size, *table.shape[1:]))

        return Tables(tables.nodes, each_link(link, tables.links))

    def parts(self, of_tables):
        """Those of what counts."""
        counts = self.counts()

        def link(offset, pairs):
            return jnp.where(linked(counts, offset)[..., None, None], pairs, 0)

        nodes = jnp.where(counts[..., None], of_tables.nodes, 0)
        return Tables(nodes, each_link(link, of_tables.links))

    def written(self, of_tables):
        """Labels (B, H, W)."""
        return self.said_whole(jnp.argmax(of_tables.nodes, -1))

    def said_whole(self, y):
        """-1 for what does not count."""
        return jnp.where(self.counts(), y, -1)

    def y_shape(self):
        """(H, W, K)."""
        return self.unary.shape[-3:]

    def one_hot(self, y):
        """(..., H, W) to (..., H, W, K), 0 for -1."""
        return jax.nn.one_hot(y, self.unary.shape[-1], dtype=self.unary.dtype)

    def plus(self, energies):
        """With energies (..., H, W, K) added to the unary ones."""
        return self.replaced(unary=self.unary + energies)


def potts(coupling: Any, labels: int) -> jax.Array:
    """coupling * [a != b]: energies of links (K, K) of a number, (..., H', W', K, K) of an array (..., H', W').

    K is `labels`. A coupling above 0 wants neighbours alike. For the links of a `Grid`. ValueError for what is no real
    number. Source: Potts (1952).
    """
    coupling = wide(floats("coupling", coupling))
    unlike = ~np.eye(labels, dtype=bool).reshape(*[1] * coupling.ndim, labels, labels)
    return jnp.where(unlike, coupling[..., None, None], 0)
