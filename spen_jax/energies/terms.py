"""Further terms of an energy (Flax Linen), for `SPEN(..., terms=(Deep(), Pairwise()))`.

A term is a Flax module with two methods: `features(h, train) -> context`, of the last hidden layer h
(B, H) of a batch, a pytree whose arrays have a leading axis of B examples ({} where there is nothing
to keep), and `energy(context, y) -> scalar`, of one example, y (L,). A module of one's own with these two
methods does as well as those here; `Deep` and others measure y by `W @ y`, which runs fastest in inference.

B examples, H hidden units, L labels. In all terms `sees_features` adds Cx h to what the first units
see, one matrix with no bias, so that what the term asks of y may depend on x.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.energies.spen import softplus
from spen_jax.networks import Dense

_normal = nn.initializers.normal
_zeros = nn.initializers.zeros


class Deep(nn.Module):
    """c.g(W_n ... g(W_2 g(W_1 y + b_1 [+ Cx h]) + b_2) ... + b_n): a global term of several layers.

    A term of `SPEN`, y (L,), h its network's last hidden layer (H,). With one width it is the global term of `SPEN`.
    Not convex: its minima may be many. ValueError for no width.

    Attributes:
      widths: the units of each layer, W_1's first.
      sees_features: whether the first layer has Cx h.
      activation: g, smooth.
      scale: standard deviation at which every W and c start, each over the root of its fan-in.
      dropout: the share of units left out of each layer in a training step, the same units for all y of an example.
    """

    widths: tuple[int, ...] = (64, 32)
    sees_features: bool = False
    activation: Callable[[jax.Array], jax.Array] = softplus
    scale: float = 1.0
    dropout: float = 0.0

    def setup(self):
        """Declares Cx (H, widths[0]) where the term sees the features."""
        _check_widths(self)
        self.Cx = Dense(self.widths[0], use_bias=False) if self.sees_features else None
        self.drop = nn.Dropout(self.dropout)

    def features(self, h: jax.Array, train: bool = False) -> dict[str, Any]:
        """The context, (B, H) -> "shift" (B, widths[0]) and "keep", one (B, width) a layer, where they play a part."""
        context = _shift(self, h)
        if train and self.dropout:
            masks = [jnp.ones((len(h), width)) for width in self.widths]
            context["keep"] = [self.drop(mask, deterministic=False) for mask in masks]
        return context

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term for one example, y of shape (L,); declares W_1 (widths[0], L), b_1, ... and c."""
        units, shift = y, context.get("shift", 0)
        keep = context.get("keep", [1] * len(self.widths))
        for i, width in enumerate(self.widths):
            start = _normal(self.scale / len(units) ** 0.5)
            weights = self.param(f"W_{i + 1}", start, (width, len(units)))
            bias = self.param(f"b_{i + 1}", _zeros, (width,))
            units = keep[i] * self.activation(weights @ units + (bias + (shift if i == 0 else 0)))
        return self.param("c", _normal(self.scale / len(units) ** 0.5), (len(units),)) @ units


class Convex(nn.Module):
    """a.z_n, z_1 = g(W_1 y + b_1 [+ Cx h]), z_k = g(A_k z_(k-1) + W_k y + b_k): convex in y for all parameters.

    A term of `SPEN`, y (L,), h its network's last hidden layer (H,). g is softplus, convex and increasing, and the
    weights A_k and a are softplus of the parameters of those names, over their fan-in, so never below 0. A SPEN with
    `n_global=0`, a positive entropy and convex terms only is strictly convex: it has one minimiser, from wherever
    inference starts. The output's own sight of y is the SPEN's -s.y. ValueError for no width. Source: Amos, Xu & Kolter
    (2017).

    Attributes:
      widths: the units of z_1, ..., z_n.
      sees_features: whether z_1 has Cx h; the term stays convex in y.
    """

    widths: tuple[int, ...] = (64, 32)
    sees_features: bool = False

    def setup(self):
        """Declares Cx (H, widths[0]) where the term sees the features."""
        _check_widths(self)
        self.Cx = Dense(self.widths[0], use_bias=False) if self.sees_features else None

    def features(self, h: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The context, (B, H) -> "shift" (B, widths[0]) where the term sees the features."""
        return _shift(self, h)

    @nn.compact
    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """The term for one example, y of shape (L,); declares W_k (widths[k-1], L), b_k, A_k from k = 2, and a."""
        units = softplus(self._of_y(1, y) + context.get("shift", 0))
        for k, width in enumerate(self.widths[1:], 2):
            units = softplus(
                self._positive(f"A_{k}", (width, len(units))) @ units + self._of_y(k, y)
            )
        return self._positive("a", units.shape) @ units

    def _of_y(self, k: int, y: jax.Array) -> jax.Array:
        width = self.widths[k - 1]
        weights = self.param(f"W_{k}", _normal(len(y) ** -0.5), (width, len(y)))
        return weights @ y + self.param(f"b_{k}", _zeros, (width,))

    def _positive(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        # Positive weights do not cancel: over the fan-in, a sum of units stays of the size of one.
        return softplus(self.param(name, _normal(1.0), shape)) / shape[-1]


class Pairwise(nn.Module):
    """sum over i != j of A_ij y_i y_j / 2, A symmetric: positive A_ij where labels i and j repel each other.

    A term of `SPEN`, y (L,), which does not see x. Linear in each y_i given the others, since A has a zero diagonal: on
    {0, 1} a change of one label changes the term by exactly its derivative. Its second derivatives are A. In full A =
    (R + R')/2 off the diagonal, with R (L, L); of low rank A = (U'V + V'U)/2 off the diagonal, with U and V (rank, L):
    2 rank L parameters and as many operations. It starts at 0 (R = 0; V = 0 and U random, so that V has a gradient).
    ValueError for a rank below 1.

    Attributes:
      rank: the rows of U and V, or None for a full A.
    """

    rank: int | None = None

    def setup(self):
        """ValueError for a rank below 1."""
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be 1 or more, or None for a full matrix, got {self.rank}")

    def features(self, h: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """{}: the term does not depend on x."""
        return {}

    @nn.compact
    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """The term for one example, y of shape (L,); declares R (L, L), or U and V (rank, L)."""
        if self.rank is None:
            matrix = self.param("R", _zeros, (len(y), len(y)))
            all_pairs, diagonal = y @ (matrix @ y), jnp.diagonal(matrix)
        else:
            # Entries of U so that a step in V moves A_ij by as much as a step in R would.
            left = self.param("U", _normal(self.rank**-0.5), (self.rank, len(y)))
            right = self.param("V", _zeros, (self.rank, len(y)))
            all_pairs, diagonal = (left @ y) @ (right @ y), jnp.sum(left * right, axis=0)
        return (all_pairs - diagonal @ y**2) / 2


class Cardinality(nn.Module):
    """c.softplus(w n + b [+ Cx h]), n = sum_i y_i: an energy of how many labels are on.

    A term of `SPEN`, y (L,), h its network's last hidden layer (H,), c, w and b (units,). It starts with w = 1 and b =
    0, -1, -2, ...: unit k bends at n = k, so that the term can give each number of labels below `units` an energy of
    its own and is a straight line beyond. Label sets are small, however many labels there are; where they are not,
    `units` should be about the largest number of labels that an example has. c starts small, at a standard deviation of
    0.1 over the root of `units`: the term acts on all labels at once, and a large one would switch all on, or off,
    before the rest has learned which.

    Attributes:
      units: the softplus units.
      sees_features: whether they have Cx h: the number of labels then depends on x.
    """

    units: int = 16
    sees_features: bool = False

    def setup(self):
        """Declares w, b and c, all (units,), and Cx (H, units) where the term sees the features."""
        self.w = self.param("w", nn.initializers.ones, (self.units,))
        self.b = self.param("b", lambda key, shape: -jnp.arange(*shape, dtype=float), (self.units,))
        self.c = self.param("c", _normal(0.1 / self.units**0.5), (self.units,))
        self.Cx = Dense(self.units, use_bias=False) if self.sees_features else None

    def features(self, h: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The context, (B, H) -> "shift" (B, units) where the term sees the features."""
        return _shift(self, h)

    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """The term for one example, y of shape (L,)."""
        return self.c @ softplus(self.w * jnp.sum(y) + (self.b + context.get("shift", 0)))


def _shift(term: Any, h: jax.Array) -> dict[str, Any]:
    return {"shift": term.Cx(h)} if term.sees_features else {}


def _check_widths(term: Any) -> None:
    if not term.widths:
        raise ValueError(f"{type(term).__name__} needs at least one width, such as (32,), got ()")
