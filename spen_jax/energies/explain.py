"""What an energy asks for at a point: implied logits, and which labels attract and repel."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.types import Energy


@partial(jax.jit, static_argnames="energy")
def implied_logits(energy: Energy, params: Any, context: Any, y: jax.Array) -> jax.Array:
    """z = -dE(x, y)/dy for each example, (B, L) -> (B, L): how strongly the energy asks for each label at y.

    For an energy linear in y_i given the other labels, z_i = E(y_i = 0) - E(y_i = 1) exactly, the logit of that label
    under the Gibbs distribution. An energy with entropy of weight 1 has zero gradient at its minimiser, where the logit
    of y itself plays this part. `energy` is `(params, context, y) -> scalar` of one example; y (B, ...) may have any
    shape, or be a tree; every array of the context has a leading axis of B.
    """
    return -jax.vmap(jax.grad(energy, argnums=2), (None, 0, 0))(params, context, y)


@partial(jax.jit, static_argnames="energy")
def interactions(energy: Energy, params: Any, context: Any, y: jax.Array) -> jax.Array:
    """Mean over examples of d^2 E / dy_i dy_j at y, (B, L) -> (L, L): which labels attract and repel.

    Off the diagonal a negative number means that label i lowers the energy of label j. For an energy quadratic
    in y it is E(1, 1) - E(1, 0) - E(0, 1) + E(0, 0) in the two labels, whatever the others. `energy` is
    `(params, context, y) -> scalar` of one example, and the context's arrays lead with B. ValueError where y is not
    (B, L).
    """
    if y.ndim != 2:
        raise ValueError(
            f"interactions needs y of shape (B, L), L labels of each of B examples, got {y.shape}; for other answers "
            "let the energy take them as one vector"
        )
    hessian = jax.hessian(energy, argnums=2)

    def add(total, example):
        return total + hessian(params, *example), None

    labels = y.shape[-1]
    total, _ = lax.scan(add, jnp.zeros((labels, labels), y.dtype), (context, y))
    return total / len(y)
