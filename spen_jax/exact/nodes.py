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
    """Values of a latent z with a leading axis K, and their weights (K,), which sum to |Z|; None for weights of 1.

    `z` is an array (K, ...) or a tree of them: a finite set or grid (`Nodes(z)`), the nodes of a rule of quadrature
    (`gauss_legendre`, `periodic`, `gauss_hermite`, `tensor_rule`), or samples of a prior. The weights are constants to
    differentiation.
    """

    z: Any
    weights: jax.Array | None = None


def gauss_legendre(count: int, lower: float, upper: float) -> Nodes:
    """The rule on [lower, upper] that is exact for polynomials up to degree 2 count - 1.

    `Nodes`: z (count,) rising, weights (count,), which sum to upper - lower. ValueError for a count that is no whole
    number from 1 on, and for ends that are not finite, lower below upper.
    """
    check_whole("count", count, 1)
    if not -np.inf < lower < upper < np.inf:
        raise ValueError(f"gauss_legendre needs finite lower < upper, got {lower} and {upper}")
    z, weights = np.polynomial.legendre.leggauss(count)
    half = (upper - lower) / 2
    return Nodes(jnp.asarray(lower + half * (z + 1)), jnp.asarray(half * weights))


def periodic(count: int, period: float = 2 * np.pi, start: float = 0.0) -> Nodes:
    """The trapezoid on a circle, equal steps from `start`: it converges faster than any power for a smooth energy.

    `Nodes`: z (count,) in [start, start + period), weights (count,), which sum to the period. ValueError for a count
    that is no whole number from 1 on, and a period that is not positive and finite.
    """
    check_whole("count", count, 1)
    check_positive("period", period)
    step = period / count
    return Nodes(start + step * jnp.arange(count), jnp.full(count, step))


def gauss_hermite(count: int) -> Nodes:
    """The rule of a standard normal prior, exact for polynomials up to degree 2 count - 1; weights sum to 1.

    `Nodes`: z (count,), weights (count,): sum_k w_k f(z_k) is the mean of f(z), z ~ N(0, 1). ValueError for a count
    outside 1 to 250, beyond which the weights overflow.
    """
    check_whole("count", count, 0)
    if not 1 <= count <= 250:
        raise ValueError(f"gauss_hermite needs 1 to 250 nodes, got {count}")
    z, weights = np.polynomial.hermite_e.hermegauss(count)
    return Nodes(jnp.asarray(z), jnp.asarray(weights / weights.sum()))


def tensor_rule(*rules: Nodes) -> Nodes:
    """The nodes (K1 K2 ..., d) of a z of d coordinates, one rule for each; weights are the products of theirs.

    Each of `rules` is `Nodes` with z (K_i,). ValueError for no rule, and for one of more coordinates.
    """
    if not rules or any(jnp.ndim(rule.z) != 1 for rule in rules):
        shapes = [jnp.shape(rule.z) for rule in rules]
        raise ValueError(f"rules must be of one coordinate each, z of shape (K,), got {shapes}")
    z = jnp.stack([a.ravel() for a in jnp.meshgrid(*(r.z for r in rules), indexing="ij")], axis=-1)
    ones = [jnp.ones(len(r.z)) if r.weights is None else r.weights for r in rules]
    weights = jnp.stack([a.ravel() for a in jnp.meshgrid(*ones, indexing="ij")], axis=-1)
    return Nodes(z, jnp.prod(weights, axis=-1))
