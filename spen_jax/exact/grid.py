"""Grids: labels of an image whose energy is a sum over pixels and over neighbours."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.domains import Simplex
from spen_jax.exact import grid_chains, grid_energies, grid_messages
from spen_jax.exact.answers import or_infinite
from spen_jax.exact.arguments import read_energies, read_mask
from spen_jax.exact.grid_links import OFFSETS, Links, Tables, each_link, linked, window
from spen_jax.exact.structure import Structure
from spen_jax.numbers import floats, known, wide


class GridParts(NamedTuple):
    """Marginals of a grid: of labels (..., H, W, K) and of the pairs of each direction (..., H', W', K, K)."""

    nodes: jax.Array
    links: Links


class Grid(Structure):
    """E(y) = sum_ij unary[i, j, y_ij] + the energies of neighbours' pairs of labels, y_ij of K labels.

    An answer in whole numbers is labels (..., H, W), -1 where there is none; relaxed it is (..., H, W, K), a
    distribution for each pixel. Tables of links are (K, K), from the label of the first pixel to that of the second,
    shared by all pairs, or of each pair (H', W', K, K), or of each pair of each example (..., H', W', K, K), where
    each of the axes H' and W' may be 1. None for no links of this direction.

    Args:
      unary: (..., H, W, K).
      down: of (i, j) and (i + 1, j), H' = H - 1, W' = W.
      right: of (i, j) and (i, j + 1), H' = H, W' = W - 1.
      down_right: of (i, j) and (i + 1, j + 1), H' = H - 1, W' = W - 1.
      down_left: of (i, j + 1) and (i + 1, j), likewise; the index is that of the left column.
      mask: booleans (..., H, W), which pixels count. One that does not has no label, no energy and no links.

    Raises:
      ValueError: for shapes that do not fit, and for energies known to be not a number or -infinity.
    """

    arrays = ("unary", "down", "right", "down_right", "down_left", "mask")
    shared = Links._fields
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
        _check_energies("unary", self.unary, self.mask)

    def _read(self, name, table, offset):
        if table is None:
            return None
        *batch, height, width, labels = self.unary.shape
        table = read_energies(name, table, (labels, labels))
        _check_energies(name, table)
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
    def _size(self):
        batch = self.batch_shape
        return math.prod(batch), *self.unary.shape[len(batch) :]

    def counts(self) -> jax.Array:
        """Which pixels count, (B, H, W)."""
        size, height, width, _ = self._size
        if self.mask is None:
            return jnp.ones((size, height, width), bool)
        return self.mask.reshape(size, height, width)

    def _counts(self):
        """Which pixels count, None for all."""
        return None if self.mask is None else self.counts()

    def tables(self):
        """A pixel that does not count has label 0, without energy; its links stay, and are left out where read."""
        size, height, width, labels = self._size
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
        _, height, width, labels = self._size
        shape = max(height - offset[0], 0), max(width - abs(offset[1]), 0)
        return jnp.broadcast_to(table, (len(table), *shape, labels, labels))

    def support(self):
        """Which pixels count."""
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
        """A mask (..., H, W)."""
        also: Any = read_mask(mask, None, self.unary.shape[:-1])
        return self.replaced(mask=also if self.mask is None else self.mask & also)

    def spread(self, tables):
        """A table for each link of each example."""
        size = self._size[0]

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
        return GridParts(nodes, each_link(link, of_tables.links))

    def written(self, of_tables):
        """Labels."""
        return jnp.where(self.counts(), jnp.argmax(of_tables.nodes, -1), -1)

    def y_shape(self):
        """(H, W, K)."""
        return self.unary.shape[-3:]

    def one_hot(self, y):
        """(..., H, W) to (..., H, W, K), 0 for -1."""
        return jax.nn.one_hot(y, self.unary.shape[-1], dtype=self.unary.dtype)

    def energy_of(self, y):
        """sum of y . nodes and of y_i' links y_j over neighbours."""
        return or_infinite(self.multilinear(self.tables(), y))

    def plus(self, energies):
        """Added to the unary energies."""
        return self.replaced(unary=self.unary + energies)

    # What approximations are made of: all take tables as they are, at beta = 1

    def multilinear(self, tables: Tables, y: jax.Array) -> jax.Array:
        """The energy of relaxed answers (B, H, W, K), (B,); a forbidden part counts `BARRED` times its share.

        What y says about pixels that do not count does not matter.
        """
        if self.mask is not None:
            y = jnp.where(self.counts()[..., None], y, 0)
        return grid_energies.multilinear(tables, y)

    def silent(self, tables: Tables) -> Links:
        """Messages that say nothing; of each direction those into the later and the earlier pixels, zero at borders.

        Of two labels one number a message, E(1) - E(0), (B, H, W); of more (B, K, H, W) with minimum 0.
        """
        return grid_messages.silent(tables.nodes, tables.links)

    def passed(self, tables: Tables, messages: Links, rho: Any = None, cold: bool = False) -> Links:
        """All messages at once: m(b) = -log sum_a exp(-(theta(a, b) / rho + q(a))); cold: min_a in its place.

        q = theta_i + sum_g rho m_g - m, without the message m that came by the same link. rho is the weight of links,
        None for 1. Infinite energies count as `LARGE`.
        """
        return grid_messages.passed(tables, self._counts(), messages, rho, cold)

    def gathered(self, tables: Tables, messages: Links, rho: Any = None) -> jax.Array:
        """theta_i + sum_g rho m_g, (B, H, W, K): pixels' marginals are softmax(-gathered)."""
        return grid_messages.gathered(tables.nodes, messages, rho)

    def beliefs(self, tables: Tables, messages: Links, rho: Any = None) -> Tables:
        """Marginals as `spread` has tables, those of pairs in proportion to exp(-(theta_e / rho + q_i + q_j))."""
        return grid_messages.beliefs(self.spread(tables), self._counts(), messages, rho)

    def bethe(self, tables: Tables, messages: Links, rho: Any = None) -> jax.Array:
        """sum_i F_i + sum_e rho (F_e - F_ie - F_je), (B,): exact on trees at messages that do not change."""
        return grid_messages.bethe(tables, self._counts(), messages, rho)

    def families(self) -> int:
        """How many directions there are, at least 1: an image is so many sets of chains."""
        return max(1, sum(getattr(self, name) is not None for name in Links._fields))

    def shares(self, tables: Tables, messages: Links, rho: Any = None) -> jax.Array:
        """Energies of pixels for each family, (families, B, H, W, K), that sum to the nodes at rho = 1 / families.

        u_t = (gathered - the messages of family t) / families.
        """
        return grid_messages.shares(tables.nodes, messages, rho)

    def dual(self, tables: Tables, shares: jax.Array, cold: bool = False) -> jax.Array:
        """sum_t 1/T F_t(T (u_t, links of t)), (B,), of the T families; cold: sum_t min E_t.

        A lower bound of F, or of the least energy, for all shares that sum to the nodes.
        """
        return grid_chains.dual(tables, self._counts(), shares, cold)

    def colours(self) -> np.ndarray:
        """Whole numbers (H, W), as few as the directions allow, of which no two neighbours have the same."""
        height, width = self.unary.shape[-3:-1]
        i, j = np.arange(height)[:, None], np.arange(width)[None]
        offsets = [
            o
            for name, o in zip(Links._fields, OFFSETS, strict=True)
            if getattr(self, name) is not None
        ]
        # Each a colouring by a i + b j modulo n.
        for a, b, n in ((0, 0, 1), (1, 0, 2), (0, 1, 2), (1, 1, 2), (1, 1, 3), (1, -1, 3)):
            if all((a * down + b * right) % n for down, right in offsets):
                return (a * i + b * j) % n
        return i % 2 * 2 + j % 2

    def scopes_and_tables(self) -> list[tuple[np.ndarray, jax.Array]]:
        """For each direction the pairs of pixels, (m, 2) of row-major indices, and their energies, (B, m, K, K).

        A link that does not count has no energy.
        """
        _, height, width, labels = self._size
        places = np.arange(height * width).reshape(1, height, width)
        tables, counts = self.spread(self.tables()), self._counts()
        found = []
        for offset, table in zip(OFFSETS, tables.links, strict=True):
            if table is None:
                continue
            if counts is not None:
                table = jnp.where(linked(counts, offset)[..., None, None], table, 0)
            ends = [
                np.asarray(window(places, offset, ahead)).reshape(-1) for ahead in (False, True)
            ]
            found.append((np.stack(ends, -1), table.reshape(len(table), -1, labels, labels)))
        return found


def potts(coupling: Any, labels: int) -> jax.Array:
    """coupling * [a != b]: energies of links (K, K) of a number, (..., H', W', K, K) of an array (..., H', W')."""
    coupling = wide(floats("coupling", coupling))
    unlike = ~np.eye(labels, dtype=bool).reshape(*[1] * coupling.ndim, labels, labels)
    return jnp.where(unlike, coupling[..., None, None], 0)


def _check_energies(name, energies, mask=None):
    numbers, counts = known(energies), None if mask is None else known(mask)
    if numbers is None or (mask is not None and counts is None):
        return
    wrong = ~(numbers > -np.inf)
    if counts is not None:
        wrong = wrong & counts[..., None]
    if wrong.any():
        raise ValueError(
            f"{name} must be energies, numbers or infinity where forbidden, got {numbers[wrong][0]}; "
            "take pixels without a value out by the mask"
        )
