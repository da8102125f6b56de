"""Costs D(y, truth): what an answer y costs where another is right.

Both are ONE example's, arrays of any one shape or trees of such arrays, and the cost is a scalar: it sums over all
axes and leaves. `jax.vmap(cost)` makes it that of a batch. Where y are relaxed labels in [0, 1] and the truth is
binary, the first two count wrong labels. ValueError where the shapes differ. `counted` leaves parts out.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax.arguments import handing
from spen_jax.domains import binary_cross_entropy as cross_entropy
from spen_jax.domains import categorical_cross_entropy, counting, total
from spen_jax.types import Cost

__all__ = [
    "categorical_cross_entropy",
    "counted",
    "cross_entropy",
    "hamming",
    "soft_f1_error",
    "soft_iou_error",
    "squared_error",
]


def squared_error(y: Any, truth: Any) -> jax.Array:
    """D = sum_i (y_i - t_i)^2; on binary y the number of wrong labels.

    At least 0. y and the truth are one example's, of any one shape or trees of such arrays; the cost is a scalar, and
    `jax.vmap` makes it that of a batch (B,). ValueError where the shapes differ, and for what is no real number.
    """
    return total(lambda y, t: (y - t) ** 2, y, truth)


def hamming(y: Any, truth: Any) -> jax.Array:
    """D = sum_i t_i (1 - y_i) + (1 - t_i) y_i, linear in y; on binary y the number of wrong labels.

    For y and truth in [0, 1]. y and the truth are one example's, of any one shape or trees of such arrays; the cost is
    a scalar, and `jax.vmap` makes it that of a batch (B,). ValueError where the shapes differ, and for what is no real
    number.
    """
    return total(lambda y, t: t + y - 2 * t * y, y, truth)


def soft_f1_error(y: Any, truth: Any) -> jax.Array:
    """D = 1 - 2 sum_i y_i t_i / sum_i (y_i + t_i), in [0, 1]; on binary y one minus F1 (0 for empty against empty).

    y and the truth are one example's, of any one shape or trees of such arrays; the cost is a scalar, and `jax.vmap`
    makes it that of a batch (B,). ValueError where the shapes differ, and for what is no real number.
    """
    both, either = total(jnp.multiply, y, truth), total(jnp.add, y, truth)
    positive = either > 0
    f1 = 2 * both / jnp.where(positive, either, 1)
    return jnp.where(positive, 1 - f1, 0)


def soft_iou_error(y: Any, truth: Any) -> jax.Array:
    """D = 1 - sum_i min(y_i, t_i) / sum_i max(y_i, t_i), in [0, 1]; on binary y one minus intersection over union.

    Empty against empty is 0. As a relaxation of Jaccard's distance of sets: Gygli, Norouzi & Angelova (2017).

    y and the truth are one example's, of any one shape or trees of such arrays; the cost is a scalar, and `jax.vmap`
    makes it that of a batch (B,). ValueError where the shapes differ, and for what is no real number.
    """
    both, either = total(jnp.minimum, y, truth), total(jnp.maximum, y, truth)
    positive = either > 0
    iou = both / jnp.where(positive, either, 1)
    return jnp.where(positive, 1 - iou, 0)


@lru_cache(maxsize=256)
def counted(cost: Cost) -> Callable[..., jax.Array]:
    """(y, truth, mask) -> cost of the parts of one example that count, those where the mask is True.

    The others are 0 in both y and truth when the cost sees them, which all costs here and the domains' losses
    ignore; a cost with a parameter `mask` is handed the mask as well. Equal costs give the same function.

    The mask has the leading axes of y, (T,) for rows (T, K); for a tree it is a tree of masks. With
    None, its default, everything counts and the cost is called as it is.

    `cost` is (y, truth) -> scalar of one example. The function that is returned raises ValueError for a mask of other
    axes.
    """

    def of_parts(y, truth, mask=None):
        if mask is None:
            return cost(y, truth)
        return handing(cost, mask=mask)(counting(mask, y), counting(mask, truth))

    return of_parts
