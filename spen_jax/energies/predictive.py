"""Contrastive predictive coding (Flax Linen): what comes next is known by its code, not by its pixels.

B sequences of T observations (D...), codes of E numbers, contexts of C units, offsets 1 to K. `losses.info_nce_ahead`
trains it. Source: van den Oord, Li & Vinyals (2018).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.networks import CausalGRU


class PredictiveCoding(nn.Module):
    """E_k(x_1..x_t, z) = -z . W_k c_t: low where z is the code of x_(t+k); c_t sees x_1 to x_t, nothing later.

    x (B, T, D...) are sequences of T observations, z (E,) codes, c (C,) contexts, k = 1, ..., K. Codes z_t =
    encoder(x_t), contexts c_t = a `CausalGRU` of z_1 to z_t. Nothing is decoded: the energies rank candidates by their
    codes. With InfoNCE they estimate -log p(x_(t+k) | x_1..x_t) / p(x_(t+k)), up to a constant for each context. With
    the energy loss alone all codes turn one way and grow without end. Places where a mask (B, T) is False have no
    influence on the others, and codes and contexts 0. `losses.info_nce_ahead` trains it. ValueError for numbers below
    1, and for an x or a mask of other axes. Source: van den Oord, Li & Vinyals (2018).

    Attributes:
      encoder: a module of one observation, (..., D...) -> (..., E), such as `FeatureNetwork(E)`.
      units: C.
      ahead: K, at least 1.
    """

    encoder: nn.Module
    units: int
    ahead: int = 1

    def setup(self):
        """Names the parts encoder and recurrent; ValueError for numbers below 1."""
        if self.ahead < 1 or self.units < 1:
            raise ValueError(
                "PredictiveCoding needs units and ahead of 1 or more, "
                f"got units={self.units} and ahead={self.ahead}"
            )
        self.recurrent = CausalGRU(self.units)

    def codes(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """z, (B, T, D...) -> (B, T, E)."""
        counts = _counts(x, mask)
        x = jnp.where(counts.reshape(*counts.shape, *[1] * (x.ndim - 2)), x, 0)
        return jnp.where(counts[..., None], self.encoder(x), 0)

    def contexts(self, z: jax.Array, mask: Any = None) -> jax.Array:
        """c of codes, (B, T, E) -> (B, T, C)."""
        return self.recurrent(z, _counts(z, mask))

    @nn.compact
    def energies(self, c: jax.Array, z: jax.Array) -> jax.Array:
        """Of all pairs and offsets, (..., C) and (..., E) -> (K, ..., ...): contexts first, then candidates."""
        predict = nn.Dense(self.ahead * z.shape[-1], use_bias=False, name="predict")
        predicted = predict(c).reshape(*c.shape[:-1], self.ahead, z.shape[-1])
        return -jnp.tensordot(jnp.moveaxis(predicted, -2, 0), z, axes=(-1, -1))

    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Energies of all places of a batch of sequences with each other, (B, T, D...) -> (K, B, T, B, T)."""
        z = self.codes(x, mask)
        return self.energies(self.contexts(z, mask), z)


def _counts(x, mask):
    """The mask as booleans (B, T); ValueError where it or x are of another shape."""
    if x.ndim < 3:
        raise ValueError(f"PredictiveCoding needs sequences (B, T, D...), got shape {x.shape}")
    if mask is None:
        return jnp.ones(x.shape[:2], bool)
    if jnp.shape(mask) != x.shape[:2]:
        raise ValueError(
            f"mask must be (B, T), here {x.shape[:2]}, True where a sequence is, got {jnp.shape(mask)}"
        )
    return jnp.asarray(mask, bool)
