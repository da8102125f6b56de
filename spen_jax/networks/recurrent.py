"""Recurrent networks over sequences (Flax Linen). B examples, T places, D inputs, H units of a direction."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


class GRU(nn.Module):
    """h_t from the left and from the right, side by side: gated recurrent units, (B, T, D) -> (B, T, 2 H).

    r, u = sigmoid(W x_t + V h + b), n = tanh(W_n x_t + b_n + r (V_n h + c_n)), h <- (1 - u) n + u h, from h = 0, once
    from each end with weights of its own. Places where the mask (B, T) is False leave h as it is and give 0, so that
    what stands beyond a sequence's end changes nothing. The products with x_t are made for all places at once, before
    the loop. Source: Cho et al. (2014), with the reset gate after the product.

    Attributes:
      units: H.
    """

    units: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """The states of both directions at every place, (B, T, D) -> (B, T, 2 H); mask (B, T), None for all."""
        H, (B, T, D) = self.units, x.shape
        counts = jnp.ones((B, T), bool) if mask is None else jnp.asarray(mask, bool)
        # Padding that is not a number has no part in gradients.
        x = jnp.where(counts[..., None], x, 0)
        # One draw for each gate: the blocks are as orthogonal, and as large, as matrices of their own.
        W = self.param("W", nn.initializers.lecun_normal(), (D, 6 * H))
        b = self.param("b", nn.initializers.zeros, (6 * H,))
        V = [self.param(f"V_{side}", _orthogonal_blocks, (H, 3 * H)) for side in ("left", "right")]
        c = self.param("c", nn.initializers.zeros, (2, H))
        inputs = jnp.moveaxis(x @ W + b[None, None], 1, 0)  # (T, B, 6 H)
        counts = counts.T[..., None]
        given = inputs[..., : 3 * H], inputs[::-1, :, 3 * H :], counts, counts[::-1]

        def step(states, at):
            x_left, x_right, counts_left, counts_right = at
            left = _next(states[0], x_left, V[0], c[0], counts_left)
            right = _next(states[1], x_right, V[1], c[1], counts_right)
            return (left, right), (left * counts_left, right * counts_right)

        start = jnp.zeros((B, H), inputs.dtype)
        _, (left, right) = lax.scan(step, (start, start), given)
        return jnp.moveaxis(jnp.concatenate([left, right[::-1]], axis=-1), 0, 1)


class CausalGRU(nn.Module):
    """h_t from the left alone: `GRU` without its way back, (B, T, D) -> (B, T, H); h_t sees x_1 to x_t and no more.

    Places where the mask (B, T) is False leave h as it is and give 0. Source: Cho et al. (2014), as in `GRU`.

    Attributes:
      units: H.
    """

    units: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """The state at every place, (B, T, D) -> (B, T, H); mask (B, T), None for all."""
        H, (B, T, D) = self.units, x.shape
        counts = jnp.ones((B, T), bool) if mask is None else jnp.asarray(mask, bool)
        x = jnp.where(counts[..., None], x, 0)
        W = self.param("W", nn.initializers.lecun_normal(), (D, 3 * H))
        b = self.param("b", nn.initializers.zeros, (3 * H,))
        V = self.param("V", _orthogonal_blocks, (H, 3 * H))
        c = self.param("c", nn.initializers.zeros, (H,))
        inputs = jnp.moveaxis(x @ W + b[None, None], 1, 0)  # (T, B, 3 H)

        def step(h, at):
            of_x, counts = at
            h = _next(h, of_x, V, c, counts)
            return h, h * counts

        _, states = lax.scan(step, jnp.zeros((B, H), inputs.dtype), (inputs, counts.T[..., None]))
        return jnp.moveaxis(states, 0, 1)


def _next(h, x, V, c, counts):
    """The next state of one direction, (B, H)."""
    H = h.shape[-1]
    of_h = h @ V
    reset, keep = jnp.split(jax.nn.sigmoid(x[:, : 2 * H] + of_h[:, : 2 * H]), 2, axis=-1)
    new = jnp.tanh(x[:, 2 * H :] + reset * (of_h[:, 2 * H :] + c[None]))
    return jnp.where(counts, new + keep * (h - new), h)


def _orthogonal_blocks(key, shape):
    keys = jax.random.split(key, 3)
    block = shape[0], shape[1] // 3
    return jnp.concatenate([nn.initializers.orthogonal()(k, block) for k in keys], axis=1)
