"""The k largest of very many scores, without a sort of all: of arrays, and of products W h + b (maximum inner product).

B examples, L labels, H features.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.checks import check_whole
from spen_jax.numbers import floats, known

WIDTH = 32
"""Scores that share a maximum. Fewer make more maxima to choose among, more make more candidates."""
AT_ONCE = 2**26
"""Scores that are held at once, 256 MB: examples beyond them wait."""


class Largest(NamedTuple):
    """The k largest scores of each row, `values` (B, k), and their `labels` (B, k): the largest first.

    Of equal ones the lower label first.
    """

    values: jax.Array
    """(B, k)."""
    labels: jax.Array
    """(B, k), whole numbers from 0 to L - 1."""


def largest(scores: Any, k: int) -> Largest:
    """The k largest of each row of scores (B, L), exactly: those of a sort, in the time of a few passes.

    `Largest(values, labels)`, (B, k) each, labels from 0 to L - 1. The k largest lie in the k blocks whose maxima are
    the largest: only these are looked at. -inf forbids a label, which then comes last. Differentiable in the scores.

    ValueError for other shapes, a k outside 1..L, and where a score is known to be no number.
    """
    scores = floats("scores", scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must be (B, L), a row for each example, got {scores.shape}")
    _check_k(k, scores.shape[1])
    return _sound(_compiled(scores, int(k)))


def largest_products(h: Any, W: Any, k: int, bias: Any = None) -> Largest:
    """The k largest of W h_i + bias for each row h_i of h (B, H), W (L, H), bias (L,): exact maximum inner product.

    Labels are rows, so that those of a shortlist are gathered in whole pieces of memory. As many examples as have 2**26
    products are held at once. `Largest(values, labels)`, (B, k) each; differentiable.

    ValueError for shapes that do not fit, a k outside 1..L, and where a product is known to be no number.
    """
    h, W = floats("h", h), floats("W", W)
    if h.ndim != 2 or W.ndim != 2 or h.shape[1] != W.shape[1]:
        raise ValueError(
            f"h must be (B, H) and W (L, H), a row for each example and each label, got {h.shape} and {W.shape}"
        )
    _check_k(k, len(W))
    if bias is not None:
        bias = floats("bias", bias)
        if bias.shape != W.shape[:1]:
            raise ValueError(f"bias must be {W.shape[:1]}, one for each row of W, got {bias.shape}")
    return _sound(_products(h, W, bias, int(k)))


def _check_k(k, size):
    check_whole("k", k, 1)
    if k > size:
        raise ValueError(f"k must be at most {size}, the number of labels, got {k}")


def _sound(found):
    """A score that is no number is larger than all others, and so among what was found."""
    values = known(found.values)
    if values is not None and np.isnan(values).any():
        row = np.flatnonzero(np.isnan(values).any(axis=1))[0]
        raise ValueError(f"scores must be numbers, but row {row} holds NaN: look for it in h and W")
    return found


@partial(jax.jit, static_argnums=3)
def _products(h, W, bias, k):
    def of_some(h):
        scores = h @ W.T
        return _largest(_signless(scores if bias is None else scores + bias[None]), k)

    rows = max(1, AT_ONCE // max(len(W), 1))
    if len(h) <= rows:
        return of_some(h)
    found = lax.map(lambda one: of_some(one[None]), h, batch_size=rows)
    return jax.tree.map(lambda a: a[:, 0], found)


@partial(jax.jit, static_argnums=1)
def _compiled(scores, k):
    return _largest(_signless(scores), k)


def _signless(scores):
    """Without -0, which JAX's own top_k takes for less than 0."""
    return scores + lax.stop_gradient(jnp.where(scores == 0, -scores, 0))


def _largest(scores, k):
    """By the maxima of blocks of WIDTH neighbours, themselves found in blocks where they are many."""
    batch, size = scores.shape
    if size <= 2 * WIDTH * k:  # most blocks would be among the k
        return Largest(*lax.top_k(scores, k))
    blocks = -(-size // WIDTH)
    if short := blocks * WIDTH - size:
        scores = jnp.pad(scores, ((0, 0), (0, short)), constant_values=-jnp.inf)
    scores = scores.reshape(batch, blocks, WIDTH)
    best = lax.stop_gradient(jnp.max(scores, axis=2))
    # In the order of their labels, so that of equal scores the first is the lower.
    at = jnp.sort(_largest(best, k).labels, axis=1)
    candidates = jnp.take_along_axis(scores, at[:, :, None], axis=1).reshape(batch, -1)
    values, place = lax.top_k(candidates, k)
    block = jnp.take_along_axis(at, place // WIDTH, axis=1)
    return Largest(values, block * WIDTH + place % WIDTH)
