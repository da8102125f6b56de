"""Binary constituency trees over the words of a sentence: context-free grammars, of single labels or of rules."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.blocks import in_blocks
from spen_jax.domains import Box
from spen_jax.exact.algebras import Algebra, Sum
from spen_jax.exact.arguments import read_energies, read_mask, read_shared
from spen_jax.exact.structure import Structure
from spen_jax.exact.tables import by_width, weighted


class ConstituencyParts(NamedTuple):
    """Marginals of a `ConstituencyTree`: of constituents, and the expected number of uses of each rule.

    `spans` (..., n, n, K) in [0, 1], by first word, last word and label; `rules` (..., K, K, K), by parent, left and
    right child, or None without rules.
    """

    spans: jax.Array
    rules: jax.Array | None


class Tables(NamedTuple):
    """Energies of constituents, (B, n, n, K), of rules, (B or 1, K, K, K), and of lengths, (B, n + 1)."""

    spans: jax.Array
    rules: jax.Array | None
    ends: jax.Array


class ConstituencyTree(Structure):
    """E(y) = sum_ij spans[i, j, y_ij] + sum of rules[y_ij, y_im, y_m+1,j] over all constituents i..j, split after m.

    Each word is a constituent i..i, the whole sentence is one, and each of two words or more consists of two. An
    answer in whole numbers is (..., n, n), the label of each constituent from word i to word j, -1 where there is
    none; relaxed it is (..., n, n, K). With rules -log P(left right | parent), energies -log P(word | label) of the
    labels of single words, and those of the root's label at (0, n - 1), it is a probabilistic context-free grammar
    in Chomsky normal form, and F at beta = 1 is -log P(words). Without words there is one tree, the empty one, of
    energy 0. The recursion is known as inside, the best tree as CKY: Baker (1979). Cost: n^3, with rules
    n^3 K^2 + n^2 K^3.

    Args:
      spans: (..., n, n, K), of which those with i <= j count.
      rules: (K, K, K), by parent, left and right child, or (..., K, K, K); None where labels do not depend on each
        other. The derivative of F in them is the expected number of their uses.
      lengths: whole numbers (...), how many words count, 0 to n; None for all.

    Raises:
      ValueError: for shapes that do not fit, and lengths known to be out of range.
    """

    arrays = ("spans", "rules", "lengths")
    rank, y_rank, whole_rank = 3, 3, 2
    shared = ("rules",)
    domain = Box()

    def __init__(self, spans: Any, rules: Any = None, *, lengths: Any = None):
        self.spans = read_energies("spans", spans, (None, None, None))
        *batch, words, last, labels = self.spans.shape
        if words != last or not words * labels:
            raise ValueError(
                f"spans must be of shape (..., n, n, K), with a word and a label, got {self.spans.shape}"
            )
        self.rules = self.lengths = None
        if rules is not None:
            self.rules = read_shared("rules", rules, (*batch,), (labels, labels, labels))
        if lengths is not None:
            read_mask(None, lengths, (*batch, words))
            self.lengths = jnp.asarray(lengths)

    @property
    def _size(self):
        batch = self.batch_shape
        return math.prod(batch), *self.spans.shape[len(batch) :]

    def _lengths(self):
        """How many words count, (B,)."""
        size, words, *_ = self._size
        return jnp.full(size, words) if self.lengths is None else self.lengths.reshape(size)

    def _inside(self):
        """Which constituents may be, (B, n, n, 1)."""
        words = self._size[1]
        first, last = jnp.arange(words).reshape(1, -1, 1, 1), jnp.arange(words).reshape(1, 1, -1, 1)
        return (first <= last) & (last < self._lengths().reshape(-1, 1, 1, 1))

    def tables(self):
        """Constituents beyond the length, and lengths but the right one, are infinite."""
        size, words, _, labels = self._size
        spans = jnp.where(self._inside(), self.spans.reshape(self._size), jnp.inf)
        ends = jnp.arange(words + 1)[None] == self._lengths()[:, None]
        ends = jnp.where(ends, 0, jnp.inf).astype(spans.dtype)
        rules = self.rules
        if rules is not None:
            rules = rules.reshape(-1, labels, labels, labels).astype(spans.dtype)
        return Tables(spans, rules, ends)

    def free(self, tables):
        """In blocks of examples, with rules again for the derivative, for room."""
        _, words, _, labels = tables.spans.shape
        rules = tables.rules
        shared = rules is not None and len(rules) == 1
        batch = tables._replace(rules=None) if shared else tables

        def solve(rules, block):
            return self.recursion(block._replace(rules=rules) if shared else block, Sum())

        numbers = words**2 * (1 if rules is None else labels)
        return in_blocks(solve, rules if shared else None, batch, numbers, again=rules is not None)

    def recursion(self, tables: Tables, algebra: Algebra) -> jax.Array:
        """S(i, j, p) = span(i, j, p) + either of rule(p, l, r) + S(i, m, l) + S(m+1, j, r); by the width j - i.

        Charts are (width, word, label, B): `left` of the trees from a word on, `right` of those that complete them
        to the next width. Without rules labels are joined at once.
        """
        size, words, *_ = tables.spans.shape
        widths = by_width(jnp.transpose(tables.spans, (1, 2, 3, 0)), jnp.inf)
        widths = jnp.moveaxis(algebra.table(widths), 1, 0)
        if tables.rules is None:
            widths = algebra.at(words).either(widths[:, :, None], 3)
        rules = _flat_rules(tables.rules, algebra)
        ends = algebra.table(tables.ends.T)

        def shifted(right, new):
            right = jnp.concatenate([new[None], right[:-1]])
            return jnp.concatenate([right[:, 1:], none[:, :1]], 1)

        def step(charts, given):
            left, right = charts
            w, width = given
            new = _joined(left, right, rules, algebra.at(w))
            # Of several, `both` may give more than are kept.
            new = algebra.at(words + w).either(algebra.both(new, width)[None], 0)
            left = lax.dynamic_update_index_in_dim(left, new, w, 0)
            return (left, shifted(right, new)), None

        first = algebra.at(words).either(widths[0][None], 0)
        none = algebra.none((words, *widths.shape[1:4]), first.dtype)
        charts = jnp.concatenate([first[None], none[1:]]), shifted(none, first)
        (left, _), _ = lax.scan(step, charts, (jnp.arange(1, words), widths[1:]))
        last = algebra.at(0)
        roots = last.either(left[:, 0], 1)
        roots = last.either(algebra.both(roots, ends[1:])[None], 0)
        empty = last.either(ends[:1][None], 0)
        return last.either(jnp.concatenate([empty, roots]), 0)

    def support(self):
        """How many words count, (B,)."""
        return (self._lengths(),)

    def comparable(self, other):
        """With rules of no energy where the other one has some."""
        if self.rules is not None or other.rules is None:
            return self
        labels = self.spans.shape[-1]
        return self.replaced(rules=jnp.zeros((labels, labels, labels), self.spans.dtype))

    def spread(self, tables):
        """Rules of its own for each example."""
        if tables.rules is None:
            return tables
        shape = len(tables.spans), *tables.rules.shape[1:]
        return tables._replace(rules=jnp.broadcast_to(tables.rules, shape))

    def parts(self, of_tables):
        """`ConstituencyParts` of marginals arranged as the tables."""
        return ConstituencyParts(of_tables.spans, of_tables.rules)

    def written(self, of_tables):
        """The labels of constituents, (B, n, n), -1 where there is none."""
        spans = of_tables.spans
        return jnp.where(jnp.max(spans, -1) > 0.5, jnp.argmax(spans, -1), -1)

    def y_shape(self):
        """(n, n, K)."""
        return self.spans.shape[-3:]

    def one_hot(self, y):
        """(..., n, n) to (..., n, n, K), 0 for -1."""
        return jax.nn.one_hot(y, self.spans.shape[-1], dtype=self.spans.dtype)

    def energy_of(self, y):
        """The multilinear extension, (B, n, n, K) -> (B,)."""
        tables, inside = self.tables(), self._inside()
        y = jnp.where(inside, y, 0)
        energy = jnp.sum(weighted(y, jnp.where(inside, tables.spans, 0)), (1, 2, 3))
        if tables.rules is None:
            return energy
        children = jnp.einsum("bimx,bmjy->bijxy", y[:, :, :-1], y[:, 1:])
        uses = jnp.einsum("bijp,bijxy->bpxy", y, children)
        return energy + jnp.sum(weighted(uses, tables.rules), (1, 2, 3))

    def plus(self, energies):
        """With energies (..., n, n, K) added to those of constituents."""
        return self.replaced(spans=self.spans + energies)


def _flat_rules(rules, algebra):
    """(K K, K, B or 1), the pairs of children first."""
    if rules is None:
        return None
    size, labels, *_ = rules.shape
    rules = rules.reshape(size, labels, labels * labels)
    return algebra.table(jnp.transpose(rules, (2, 1, 0)))


def _joined(left, right, rules, algebra):
    """Two trees at all splits, (n, n, K, B) each, under all parents, (n, K, B); with rules word by word for room."""
    if rules is None:
        return algebra.either(algebra.both(left, right), 0)

    @jax.checkpoint
    def from_word(given):
        i, left, right = given
        here = algebra.at(i)
        pairs = here.either(algebra.both(left[:, :, None], right[:, None]), 0)
        pairs = pairs.reshape(len(rules), 1, *pairs.shape[2:])
        return here.either(algebra.both(pairs, rules), 0)

    words = jnp.arange(left.shape[1])
    return lax.map(from_word, (words, jnp.moveaxis(left, 1, 0), jnp.moveaxis(right, 1, 0)))
