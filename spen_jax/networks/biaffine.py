"""Scores of arcs between words, and of the arcs' labels (Flax Linen). B examples, n words, H inputs, R labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.networks.feature_network import Dense


class Biaffine(nn.Module):
    """s[d, h] = a_d' U b_h + u.b_h, a score for each word d and each head h, (B, n, H) -> (B, n, n + 1).

    a = g(W_a h + c_a) sees the word as a dependent, b = g(W_b h + c_b) as a head; b_0, the root's, is a vector of its
    own, and b_(i + 1) that of word i, as `exact.DependencyTree` counts heads. U starts as small random numbers, u at 0.
    Scores are high where good: energies of arcs are -s. Those of a word with itself are as they come. Source: Dozat &
    Manning (2017), whose further term in a_d alone no head can tell from another.

    Attributes:
      units: of a and b.
      activation: g.
    """

    units: int = 400
    activation: Callable[[jax.Array], jax.Array] = nn.leaky_relu

    def setup(self):
        """Declares U (units, units), u and root (units,), and the layers "dependent" and "head"."""
        self.dependent = Dense(self.units)
        self.head = Dense(self.units)
        normal = nn.initializers.normal
        self.U = self.param("U", normal(1 / self.units), (self.units, self.units))
        self.u = self.param("u", nn.initializers.zeros, (self.units,))
        self.root = self.param("root", normal(1.0), (self.units,))

    def __call__(self, h: jax.Array) -> jax.Array:
        """The scores, (B, n, H) -> (B, n, n + 1)."""
        dependents = self.activation(self.dependent(h)) @ self.U + self.u[None, None]
        heads = with_root(self.activation(self.head(h)), self.root)
        return dependents @ jnp.swapaxes(heads, 1, 2)


class BiaffineLabels(nn.Module):
    """s_r[d, h] = a_d' U_r b_h + v_r.a_d + w_r.b_h + c_r, a score for each label r of an arc from head h to word d.

    a, b and the root as in `Biaffine`, of words h (B, n, H). All arcs have n (n + 1) R scores; `of_heads` makes those
    of one arc for each word, n R numbers, which is what training with the true heads and labels for a tree that was
    found need:

        parts = labels.parts(h)                   # once: a (B, n, units), b (B, n + 1, units)
        scores = labels.of_heads(parts, heads)    # heads (B, n), whole numbers -> (B, n, R)

    A call, (h, heads), is both. Scores are high where good. Source: Dozat & Manning (2017).

    Attributes:
      n_labels: R.
      units: of a and b.
      activation: of a and b.
    """

    n_labels: int
    units: int = 100
    activation: Callable[[jax.Array], jax.Array] = nn.leaky_relu

    def setup(self):
        """Declares U (units, R, units), root (units,), the layers of a and b, and v with c and w as layers."""
        self.dependent = Dense(self.units)
        self.head = Dense(self.units)
        self.of_dependent = Dense(self.n_labels)
        self.of_head = Dense(self.n_labels, use_bias=False)
        normal = nn.initializers.normal
        self.U = self.param("U", normal(1 / self.units), (self.units, self.n_labels, self.units))
        self.root = self.param("root", normal(1.0), (self.units,))

    def parts(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        """a (B, n, units) and b (B, n + 1, units), the root's first."""
        dependents = self.activation(self.dependent(h))
        return dependents, with_root(self.activation(self.head(h)), self.root)

    def of_heads(self, parts: tuple[jax.Array, jax.Array], heads: jax.Array) -> jax.Array:
        """The scores of each word's arc from the head given, (B, n, R); a head below 0, of no word, counts as 0."""
        dependents, all_heads = parts
        places = jnp.maximum(heads, 0)[..., None]
        chosen = jnp.take_along_axis(all_heads, places, axis=1)
        bilinear = jnp.tensordot(dependents, self.U, 1)  # (B, n, R, units)
        both = jnp.einsum("bdru,bdu->bdr", bilinear, chosen)
        return both + self.of_dependent(dependents) + self.of_head(chosen)

    def __call__(self, h: jax.Array, heads: jax.Array) -> jax.Array:
        """The scores of the arcs from the heads given, (B, n, H) and (B, n) -> (B, n, R)."""
        return self.of_heads(self.parts(h), heads)


def with_root(words: jax.Array, root: jax.Array) -> jax.Array:
    """The root's vector (u,) before the words', (B, n, u) -> (B, n + 1, u), as `exact.DependencyTree` counts heads."""
    first = jnp.broadcast_to(root[None, None], (words.shape[0], 1, words.shape[2]))
    return jnp.concatenate([first.astype(words.dtype), words], axis=1)
