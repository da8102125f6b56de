"""Terms over dependency trees (Flax Linen), for `TreeSPEN(network, terms=(Siblings(), Grandparents()))`.

y (n, n + 1) has for each word d a distribution over its heads, column 0 the root and h + 1 word h, as
`exact.DependencyTree` has it. Rows of words that do not count are 0, as `TreeSPEN` hands them on; such words as heads
have no part either, and a word is never its own head. What depends on x alone is computed in `features`, once for each
batch. Terms of three words have scores of low rank,

    t(i, j, k) = sum_r w_r a_ir b_jr c_kr,   a = g(W_a h + p), b and c likewise,

so that an energy and its gradient cost n^2 R operations and no table of n^3 numbers is made. All w start small, so
that inference first follows the arcs, and have a gradient. The scores see where words stand only as far as h does.

The factorised scores are those of Wang, Huang & Tu (2019), who refine marginals of arcs with them by mean field. B
examples, n words, H hidden units.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.energies.spen import softplus
from spen_jax.networks import Dense, with_root

_normal = nn.initializers.normal
_zeros = nn.initializers.zeros


class Siblings(nn.Module):
    """sum_h sum_{d < e} y_dh y_eh t(d, e, h): an energy of each two words with the same head, word or root.

    A term of `TreeSPEN`, y (n, n + 1): column 0 is the root as a head, h + 1 word h. a, b and c are g of layers of the
    network's hidden units, R numbers a word, so that an energy costs n^2 R operations; t(d, e, h) = sum_r w_r (a_dr
    b_er + a_er b_dr) / 2 c_hr does not depend on the order of d and e. ValueError for a rank below 1. The second-order
    factors of McDonald & Pereira (2006), between all siblings rather than adjacent ones, as in Wang, Huang & Tu (2019).

    Attributes:
      rank: R.
      activation: g of a, b and c.
      scale: standard deviation at which w starts, over the root of R.
      dropout: the share of the R products left out in a training step, the same for all words and y of an example.
    """

    rank: int = 64
    activation: Callable[[jax.Array], jax.Array] = nn.leaky_relu
    scale: float = 0.1
    dropout: float = 0.0

    def setup(self):
        """Declares w (R,), the root's c (R,), and the layers of a, b and c."""
        _declare(self)

    def features(self, h: jax.Array, train: bool, mask: Any = None) -> dict[str, jax.Array]:
        """The context, (B, n, H) -> "first", "second" (B, n, R) and "head" (B, n + 1, R), which holds w."""
        first, second, head = _factors(self, h, mask)
        return {
            "first": first,
            "second": second,
            "head": with_root(head, self.root) * _w(self, h, train),
        }

    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """The term of one example, y (n, n + 1)."""
        first, second, head = context["first"], context["second"], context["head"]
        y = without_loops(y).T
        # All ordered pairs less those of a word with itself; each two stand in both orders.
        both = (y @ first) * (y @ second) - y**2 @ (first * second)
        return jnp.sum(both * head) / 2


class Grandparents(nn.Module):
    """sum_dhg y_d(h+1) y_hg t(d, h, g), g neither d nor h: an energy of each word with its head and that one's head.

    A term of `TreeSPEN`, y (n, n + 1): column 0 is the root as a head, h + 1 word h. a, b and c are as in `Siblings`:
    t(d, h, g) = sum_r w_r a_dr b_hr c_gr; g may be the root. ValueError for a rank below 1. Sources: Carreras (2007);
    low rank as in Wang, Huang & Tu (2019).

    Attributes:
      rank: R.
      activation: g of a, b and c.
      scale: standard deviation at which w starts, over the root of R.
      dropout: the share of the R products left out in a training step, the same for all words and y of an example.
    """

    rank: int = 64
    activation: Callable[[jax.Array], jax.Array] = nn.leaky_relu
    scale: float = 0.1
    dropout: float = 0.0

    def setup(self):
        """Declares w (R,), the root's c (R,), and the layers of a, b and c."""
        _declare(self)

    def features(self, h: jax.Array, train: bool, mask: Any = None) -> dict[str, jax.Array]:
        """The context, (B, n, H) -> "word" and "head" (B, n, R), which holds w, and "above" (B, n + 1, R)."""
        word, head, above = _factors(self, h, mask)
        return {
            "word": word,
            "head": head * _w(self, h, train),
            "above": with_root(above, self.root),
        }

    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """The term of one example, y (n, n + 1)."""
        word, head, above = context["word"], context["head"], context["above"]
        y = without_loops(y)
        below = y[:, 1:]
        through = jnp.sum((below.T @ word) * head * (y @ above))
        # Two words that are each other's heads are no part of a tree: row d, column h.
        circles = below * below.T
        return through - jnp.sum(circles * ((word * above[1:]) @ head.T))


class Valency(nn.Module):
    """-sum_h v.g(w_l l_h + w_r r_h + b + Cx h_h), l_h and r_h the dependents of word h to its left and right.

    A term of `TreeSPEN`, y (n, n + 1): column 0 is the root as a head, h + 1 word h; h_h are the network's hidden
    units. l_h = sum_(d < h) y_d(h+1), r_h = sum_(d > h) y_d(h+1). Smooth, neither convex nor multilinear: whether a
    word has none, one or more of them may depend on x, which no sum over arcs or pairs can say. Of words, not of the
    root.

    Attributes:
      units: of v, w, b.
      scale: standard deviation at which v starts, over the root of `units`.
      activation: g, smooth.
    """

    units: int = 32
    scale: float = 0.1
    activation: Callable[[jax.Array], jax.Array] = softplus

    def setup(self):
        """Declares w (2, units), v (units,), and the layer Cx with b."""
        self.Cx: Any = Dense(self.units)
        self.w = self.param("w", _normal(1.0), (2, self.units))
        self.v = self.param("v", _normal(self.scale / self.units**0.5), (self.units,))

    def features(self, h: jax.Array, train: bool, mask: Any = None) -> dict[str, jax.Array]:
        """The context, (B, n, H) -> "shift" (B, n, units) and "counts" (B, n), which words are there."""
        counts = jnp.ones(h.shape[:2], bool) if mask is None else jnp.asarray(mask, bool)
        return {"shift": self.Cx(h), "counts": counts}

    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """The term of one example, y (n, n + 1)."""
        of_words = without_loops(y)[:, 1:].T  # row h, column d
        left = jnp.sum(jnp.tril(of_words), 1)
        right = jnp.sum(jnp.triu(of_words), 1)
        sums = left[:, None] * self.w[0][None] + right[:, None] * self.w[1][None]
        each = self.activation(sums + context["shift"]) @ self.v
        return -jnp.sum(jnp.where(context["counts"], each, 0))


def without_loops(y: jax.Array) -> jax.Array:
    """y (n, n + 1) with 0 where a word would be its own head."""
    return jnp.where(jnp.eye(len(y), y.shape[1], 1, dtype=bool), 0, y)


def _declare(term):
    if term.rank < 1:
        raise ValueError(f"{type(term).__name__} needs a rank of 1 or more, got {term.rank}")
    term.of_words = Dense(3 * term.rank)
    term.root = term.param("root", _normal(1.0), (term.rank,))
    term.w = term.param("w", _normal(term.scale / term.rank**0.5), (term.rank,))
    term.drop = nn.Dropout(term.dropout)


def _factors(term, h, mask):
    """a, b and c of words, (B, n, R) each, 0 for words that do not count."""
    all_three = term.activation(term.of_words(h))
    if mask is not None:
        all_three = jnp.where(jnp.asarray(mask, bool)[..., None], all_three, 0)
    return jnp.split(all_three, 3, axis=-1)


def _w(term, h, train):
    """w, of each example where some products are left out: (1, 1, R) or (B, 1, R)."""
    w = term.w[None, None]
    if not train or not term.dropout:
        return w
    return w * term.drop(jnp.ones((len(h), 1, term.rank), w.dtype), deterministic=False)
