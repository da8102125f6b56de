"""Dependency trees: every word hangs from another or from the root, with an energy for each such arc."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax.domains import Simplex
from spen_jax.exact.algebras import Algebra
from spen_jax.exact.arguments import read_energies, read_mask
from spen_jax.exact.projective import projective
from spen_jax.exact.spanning import spanning
from spen_jax.exact.structure import Structure
from spen_jax.exact.tables import weighted


class DependencyTree(Structure):
    """E(y) = sum_d arcs[d, y_d] over trees y of n words: y_d is the head of word d, 0 the root, i + 1 word i.

    An answer in whole numbers is heads (..., n), -1 for a word that does not count; relaxed it is (..., n, n + 1), a
    distribution of heads for each word. `marginals` are those of arcs, (..., n, n + 1). Cost: n^3, of the best spanning
    tree n^2. Sources: Eisner (1996), Koo et al. (2007), Chu and Liu (1965), Edmonds (1967).

    Args:
      arcs: (..., n, n + 1), of word d with head h. Those of a word with itself are not looked at.
      projective: whether arcs may not cross; otherwise all spanning trees count.
      one_root: whether exactly one word hangs from the root; otherwise one or more.
      mask: booleans (..., n), which words count. The trees are those of the words that do.
      lengths: whole numbers (...) in place of a mask, how many words count, 0 to n. Without any there is one tree,
        without arcs.

    Raises:
      ValueError: for shapes that do not fit, a mask beside lengths, and lengths known to be out of range.
    """

    arrays = ("arcs", "mask")
    settings = ("projective", "one_root")
    rank, y_rank, whole_rank = 2, 2, 1
    domain = Simplex()

    def __init__(
        self,
        arcs: Any,
        *,
        projective: bool = False,
        one_root: bool = True,
        mask: Any = None,
        lengths: Any = None,
    ):
        self.arcs = read_energies("arcs", arcs, (None, None))
        *batch, n, heads = self.arcs.shape
        if n < 1 or heads != n + 1:
            raise ValueError(
                f"arcs must have the last axes (n, n + 1), words and heads, got shape {self.arcs.shape}"
            )
        self.mask = read_mask(mask, lengths, (*batch, n))
        self.projective, self.one_root = bool(projective), bool(one_root)

    @property
    def _size(self):
        batch = self.batch_shape
        return math.prod(batch), self.arcs.shape[-2]

    def counts(self) -> jax.Array:
        """Which words count, (B, n)."""
        return jnp.ones(self._size, bool) if self.mask is None else self.mask.reshape(self._size)

    def tables(self):
        """Arcs (B, n, n + 1); a word that does not count has one arc, without energy, that no tree minds."""
        size, n = self._size
        arcs = jnp.where(_loops(n)[None], jnp.inf, self.arcs.reshape(size, n, n + 1))
        if self.mask is None:
            return arcs
        counts = self.counts()
        barred = jnp.pad(~counts, [(0, 0), (1, 0)])
        absent = jnp.where(self._held()[..., None] == jnp.arange(n + 1)[None, None], 0, jnp.inf)
        arcs = jnp.where(barred[:, None], jnp.inf, arcs)
        return jnp.where(counts[..., None], arcs, absent.astype(arcs.dtype))

    def _held(self):
        """The heads of words that do not count, (B, n): the root, or a neighbour where arcs may not cross."""
        size, n = self._size
        if not self.projective:
            return jnp.zeros((size, n), int)
        counts, words = self.counts(), jnp.arange(n)[None]
        after = jnp.cumsum(counts, 1) > 0
        # Before the first that counts from the next word, the last of all from the root.
        before = jnp.where(words == n - 1, 0, words + 2)
        return jnp.where(after, words, before)

    def recursion(self, tables: jax.Array, algebra: Algebra) -> jax.Array:
        """Eisner's spans of projective trees; of all trees elimination (Kirchhoff), or Chu and Liu's contraction."""
        if self.projective:
            return projective(tables, self.one_root, algebra)
        return spanning(tables, self.counts(), self.one_root, algebra)

    def parts(self, of_tables):
        """Marginals of arcs, (B, n, n + 1), 0 for words that do not count."""
        return jnp.where(self.counts()[..., None], of_tables, 0)

    def written(self, of_tables):
        """Heads (B, n)."""
        return jnp.where(self.counts(), jnp.argmax(of_tables, -1), -1)

    def support(self):
        """Which words count, (B, n)."""
        return (self.counts(),)

    def masked(self, mask):
        """With a mask (..., n), booleans, of words that count beside its own; ValueError for other shapes."""
        also: Any = read_mask(mask, None, self.arcs.shape[:-1])
        return self.replaced(mask=also if self.mask is None else self.mask & also)

    def y_shape(self):
        """(n, n + 1)."""
        return self.arcs.shape[-2:]

    def one_hot(self, y):
        """(..., n) to (..., n, n + 1), 0 for -1."""
        return jax.nn.one_hot(y, self.arcs.shape[-1], dtype=self.arcs.dtype)

    def energy_of(self, y):
        """sum(arcs * y) of words that count, (B, n, n + 1) -> (B,)."""
        y = jnp.where(self.counts()[..., None] & ~_loops(y.shape[1])[None], y, 0)
        return jnp.sum(weighted(y, self.tables()), (1, 2))

    def plus(self, energies):
        """With energies (..., n, n + 1) added to those of arcs."""
        return self.replaced(arcs=self.arcs + energies)


def _loops(n):
    """Arcs of a word with itself, (n, n + 1)."""
    return jnp.eye(n, n + 1, 1, dtype=bool)
