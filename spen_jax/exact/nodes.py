"""What stands for the set Z of a latent variable: nodes and their weights.

A finite set or grid (`Nodes(z)`), a rule of quadrature, or samples of a prior. Rules of one coordinate each are put
together by `tensor_rule`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.checks import check_positive, check_whole


class Nodes(NamedTuple):
    """Values of z with a leading axis K, and their weights (K,), which sum to |Z|; None for weights of 1.

    The weights are constants to differentiation.
    """

    z: Any
    weights: jax.Array | None = None


def gauss_legendre(count: int, lower: float, upper: float) -> Nodes:
    """The rule on [lower, upper] that is exact for polynomials up to degree 2 count - 1."""
    check_whole("count", count, 1)
    if not -np.inf < lower < upper < np.inf:
        raise ValueError(f"gauss_legendre needs finite lower < upper, got {lower} and {upper}")
    z, weights = np.polynomial.legendre.leggauss(count)
    half = (upper - lower) / 2
    return Nodes(jnp.asarray(lower + half * (z + 1)), jnp.asarray(half * weights))


def periodic(count: int, period: float = 2 * np.pi, start: float = 0.0) -> Nodes:
    """The trapezoid on a circle, equal steps from `start`: it converges faster than any power for a smooth energy."""
    check_whole("count", count, 1)
    check_positive("period", period)
    step = period / count
    return Nodes(start + step * jnp.arange(count), jnp.full(count, step))


def gauss_hermite(count: int) -> Nodes:
    """The rule of a standard normal prior; weights sum to 1. At most 250 nodes, beyond which they overflow."""
    check_whole("count", count, 0)
    if not 1 <= count <= 250:
        raise ValueError(f"gauss_hermite needs 1 to 250 nodes, got {count}")
    z, weights = np.polynomial.hermite_e.hermegauss(count)
    return Nodes(jnp.asarray(z), jnp.asarray(weights / weights.sum()))


def tensor_rule(*rules: Nodes) -> Nodes:
    """The nodes (K1 K2 ..., d) of a z of d coordinates, one rule for each; weights are the products of theirs."""
    if not rules or any(jnp.ndim(rule.z) != 1 for rule in rules):
        shapes = [jnp.shape(rule.z) for rule in rules]
        raise ValueError(f"rules must be of one coordinate each, z of shape (K,), got {shapes}")
    z = jnp.stack([a.ravel() for a in jnp.meshgrid(*(r.z for r in rules), indexing="ij")], axis=-1)
    ones = [jnp.ones(len(r.z)) if r.weights is None else r.weights for r in rules]
    weights = jnp.stack([a.ravel() for a in jnp.meshgrid(*ones, indexing="ij")], axis=-1)
    return Nodes(z, jnp.prod(weights, axis=-1))
