"""What methods need of a grid: its multilinear energy, messages, bounds by chains and by multipliers, plans."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.exact import grid_chains, grid_energies, grid_messages
from spen_jax.exact.field import Field
from spen_jax.exact.field_methods import Tables
from spen_jax.exact.graph_layout import Layout
from spen_jax.exact.grid_links import OFFSETS, Links, each_link, linked, window


class GridMessages(Field):
    """The part of a `Grid` that methods use; messages are laid out as `grid_messages` says."""

    unary: jax.Array
    mask: jax.Array | None

    @property
    def size(self) -> tuple[int, int, int, int]:
        """B, H, W, K."""
        raise NotImplementedError

    def counting_pixels(self) -> jax.Array | None:
        """Which pixels count, (B, H, W); None for all."""
        raise NotImplementedError

    def directions(self) -> tuple[str, ...]:
        """Those that have links."""
        return tuple(name for name in Links._fields if getattr(self, name) is not None)

    def multilinear(self, tables, y):
        """sum of y . nodes and of y_i' links y_j."""
        return grid_energies.multilinear(tables, self.counting_pixels(), y)

    def counting(self, y):
        """A pixel that does not count has label 0."""
        counts = self.counting_pixels()
        if counts is None:
            return y
        first = jax.nn.one_hot(0, y.shape[-1], dtype=y.dtype)
        return jnp.where(counts[..., None], y, first[None, None, None])

    def prepared(self, tables, weights, cold):
        """Finite tables, the weight of links, whether messages are of least energies, what they need, and infinity."""
        tables, large = grid_messages.tamed(tables)
        ready = grid_messages.prepared(tables, self.counting_pixels(), weights)
        return tables, weights, cold, ready, large

    def silent(self, ready):
        """Zeros: of two labels one number a message, E(1) - E(0), (B, H, W); of more (B, K, H, W)."""
        return grid_messages.silent(ready[0].nodes, ready[0].links)

    def passed(self, ready, messages):
        """m(b) = -log sum_a exp(-(theta(a, b) / rho + q(a))), cold min_a, by shifts of the image."""
        _, rho, cold, prepared, _ = ready
        return grid_messages.passed(prepared, self.counting_pixels(), messages, rho, cold)

    def gathered(self, ready, messages):
        """theta_i + sum_g rho m_g, (B, H, W, K)."""
        return grid_messages.gathered(ready[0].nodes, messages, ready[1])

    def beliefs(self, ready, messages):
        """Marginals of pixels and of pairs."""
        tables, rho, *_ = ready
        return grid_messages.beliefs(self.spread(tables), self.counting_pixels(), messages, rho)

    def bethe(self, ready, messages):
        """sum_i F_i + sum_e rho (F_e - F_ie - F_je); of chains alone their free or least energy."""
        tables, rho, cold, _, large = ready
        if len(self.directions()) > 1:
            return grid_messages.bethe(tables, self.counting_pixels(), messages, rho, large)
        barred = jax.tree.map(lambda a: (a == large).astype(a.dtype), tables)
        least_barred = self.dual(barred, self.multipliers(tables), True)
        found = self.dual(tables, self.multipliers(tables), cold)
        return jnp.where(least_barred > 0.5, jnp.inf, found)

    def independent(self, tables, y):
        """Products of distributions."""

        def link(offset, table):
            first, second = window(y, offset, False), window(y, offset, True)
            return first[..., None] * second[..., None, :]

        return Tables(y, each_link(link, tables.links))

    def towards(self, colour, new, old):
        """By the colours of pixels."""
        there = (jnp.asarray(self.colours()) == colour)[None]

        def chosen(a, b):
            return jnp.where(there if a.ndim == 3 else there[:, None], a, b)

        return jax.tree.map(chosen, new, old)

    # Bounds: rows, columns and diagonals are chains

    def cover(self):
        """1 / T of T directions; None for one."""
        return 1 / len(self.directions()) if len(self.directions()) > 1 else None

    def cover_bound(self, tables, messages, cold):
        """Each direction's chains, with the energies of pixels that messages share out."""
        rho, (tables, large) = self.cover(), grid_messages.tamed(tables)
        # Larger ones only forbid, and a bound holds by any messages: smaller ones are rounded less.
        messages = jax.tree.map(lambda m: jnp.clip(m, -large / 8, large / 8), messages)
        shares = grid_messages.shares(tables.nodes, messages, rho)
        return grid_chains.dual(tables, self.counting_pixels(), shares, cold)

    def multipliers(self, tables):
        """Zeros (B, T, H, W, K): what each direction's chains have more of a pixel's energies than the others' mean."""
        size, *shape = tables.nodes.shape
        return jnp.zeros((size, max(1, len(self.directions())), *shape), tables.nodes.dtype)

    def rates(self):
        """Steps of multipliers, times the temperature."""
        return jnp.full((1, 1, 1, 1, 1), 0.5, self.unary.dtype)

    def _shares(self, tables, multipliers):
        tables, _ = grid_messages.tamed(tables)
        own = multipliers - jnp.mean(multipliers, 1, keepdims=True)
        return jnp.moveaxis(tables.nodes[:, None] / own.shape[1] + own, 1, 0)

    def dual(self, tables, multipliers, cold):
        """sum_t F_t of T directions' chains, cold sum_t min E_t, (B,)."""
        shares = self._shares(tables, multipliers)
        return grid_chains.dual(tables, self.counting_pixels(), shares, cold)

    def reparametrised(self, tables, multipliers):
        """Less for values that the best chains of more directions take, (B, H, W, K)."""

        def least(shares):
            return jnp.sum(grid_chains.dual(tables, self.counting_pixels(), shares, True))

        return -jnp.sum(jax.grad(least)(self._shares(tables, multipliers)), 0)

    # Plans

    def colours(self):
        """(H, W), as few as the directions allow."""
        return _colours(self.unary.shape[-3:-1], self.directions())

    def depth(self):
        """Of chains in one direction the length of the longest."""
        if len(self.directions()) > 1:
            return None
        return max(self.unary.shape[-3:-1]) - 1

    def pairs(self) -> tuple[np.ndarray, ...]:
        """For each direction the pairs of pixels, (m, 2) of row-major indices."""
        return _pairs(self.unary.shape[-3:-1], self.directions())

    def smalls(self, tables):
        """Pixels, and the links of each direction; one that does not count has no energy."""
        size, height, width, labels = self.size
        counts, found = self.counting_pixels(), []
        for offset, table in zip(OFFSETS, self.spread(tables).links, strict=True):
            if table is None:
                continue
            if counts is not None:
                table = jnp.where(linked(counts, offset)[..., None, None], table, 0)
            found.append(table.reshape(size, -1, labels, labels))
        scopes = [list(map(tuple, pairs.tolist())) for pairs in self.pairs()]
        nodes = tables.nodes.reshape(size, height * width, labels)
        return [
            ([(i,) for i in range(height * width)], nodes),
            *((s, t) for s, t in zip(scopes, found, strict=True) if s),
        ]

    def layout(self):
        """Pixels in row-major order."""
        _, height, width, labels = self.size
        return _layout((height, width), self.directions(), labels)

    def energies_at(self, tables, y):
        """Sums of what answers have in the tables."""
        size, height, width, labels = self.size
        flat = y.reshape(y.shape[0], -1)
        (_, nodes), *links = self.smalls(tables)
        total = jnp.sum(nodes[:, np.arange(height * width), flat], 2)
        for scopes, table in links:
            first, second = flat[:, np.array(scopes)].transpose(2, 0, 1)
            total = total + jnp.sum(table[:, np.arange(len(scopes)), first, second], 2)
        return total


@lru_cache(maxsize=256)
def _colours(shape, directions):
    i, j = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    offsets = [getattr(OFFSETS, name) for name in directions]
    # Each a colouring by a i + b j modulo n.
    for a, b, n in ((0, 0, 1), (1, 0, 2), (0, 1, 2), (1, 1, 2), (1, 1, 3), (1, -1, 3)):
        if all((a * down + b * right) % n for down, right in offsets):
            return (a * i + b * j) % n
    return i % 2 * 2 + j % 2


@lru_cache(maxsize=256)
def _pairs(shape, directions):
    places = np.arange(shape[0] * shape[1]).reshape(1, *shape)
    return tuple(
        np.stack(
            [
                np.asarray(window(places, getattr(OFFSETS, name), ahead)).reshape(-1)
                for ahead in (False, True)
            ],
            -1,
        )
        for name in directions
    )


@lru_cache(maxsize=256)
def _layout(shape, directions, labels):
    pixels = shape[0] * shape[1]
    scopes = [(i,) for i in range(pixels)]
    counts = [pixels]
    for pairs in _pairs(shape, directions):
        if len(pairs):
            scopes += map(tuple, pairs.tolist())
            counts.append(len(pairs))
    return Layout(tuple(range(pixels)), (labels,) * pixels, tuple(scopes), tuple(counts))
