"""Latent variables: energies E(x, y, z) with a z that nobody observes, minimised over, marginalised or averaged.

F_beta(x, y) = -1/beta log 1/|Z| integral over Z of exp(-beta E(x, y, z)) dz is the free energy: cold (beta =
infinity) the minimum over z, warm the marginal, hot (beta = 0) the mean. With `average=False` the 1/|Z| is left out,
which lowers it by log|Z| / beta. Z is given by nodes and their weights: a finite set or grid (`Nodes(z)`), a rule
of quadrature (`gauss_legendre`, `periodic`, `gauss_hermite`, `tensor_rule`), or samples of a prior. Of a z without
finite volume the average is over a prior p(z), by nodes or samples of that prior. An energy is
`(params, x, y, z) -> scalar` of one example; x may be None. Sources: LeCun et al. (2006); LeCun & Canziani, NYU
Deep Learning 2020, week 15.
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax import blocks, checks, trees
from spen_jax.exact.arguments import check_batch, check_beta
from spen_jax.exact.gibbs import softargmin, softmin
from spen_jax.exact.nodes import Nodes
from spen_jax.types import Energy, LatentEnergy


def free_energy(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    nodes: Nodes,
    beta: jax.Array | float = 1.0,
    *,
    average: bool = True,
    block: int = 64,
) -> jax.Array:
    """F = -1/beta log 1/|Z| sum_k w_k exp(-beta E(x, y, z_k)) of B examples, (B,), |Z| = sum_k w_k: z marginalised.

    The integral over a latent z by nodes: at beta = infinity the minimum over them, at 0 the mean. The gradient is the
    posterior's average of the energy's gradients, at beta = infinity that of the z of lowest energy. Nodes are worked
    on in blocks, in the gradient too, so that no array of examples x nodes x what the energy computes is ever made.

    Args:
      energy: `(params, x, y, z) -> scalar` for one example. Compiled once for each function: pass the same object
        again, not a new lambda.
      params: its parameters.
      x: what it sees, leading axis B; None where it sees nothing.
      y: answers, leading axis B.
      nodes: what stands for Z, `Nodes` of K values.
      beta: inverse temperature, 0 to infinity.
      average: whether the integral is divided by |Z|; without, F is lower by log|Z| / beta.
      block: nodes worked on at once.

    Raises:
      ValueError: for what are no `Nodes`, or none at all, leading axes that differ, an energy that is no scalar of one
        example, a block below 1, and a beta that is no scalar or known to be below 0.

    Sources: LeCun et al. (2006); LeCun & Canziani, NYU Deep Learning 2020, week 15.
    """
    check_beta(beta)
    if not isinstance(nodes, Nodes):
        raise ValueError(f"nodes must be Nodes(z) or a rule of quadrature, got {type(nodes)}")
    check_batch(x=x, y=y)
    check_batch(**{"nodes.z": nodes.z})
    return _free_energy(energy, params, x, y, nodes, beta, average, block)


@partial(jax.jit, static_argnames=("energy", "average", "block"))
def _free_energy(energy, params, x, y, nodes, beta, average, block):
    blocked, mass = _in_blocks(nodes, block)

    @jax.checkpoint
    def of_nodes(params, x, y, nodes, beta):
        energies = energies_at(energy, params, x, y, nodes.z)
        weights = nodes.weights[None]
        cold = jnp.min(jnp.where(weights > 0, energies, jnp.inf), axis=-1, keepdims=True)
        tied = jnp.sum(weights * ~(energies > cold), axis=-1)
        return softmin(energies, beta, weights=nodes.weights, average=True), tied

    def of_examples(shared, example):
        (params, blocked, mass, beta), (x, y) = shared, example
        each, tied = lax.map(lambda nodes: of_nodes(params, x, y, nodes, beta), blocked)
        # The average of averages, each with its block's weight, is the average of all; of minima, with what is tied.
        weights = jnp.where(beta == jnp.inf, tied, mass[:, None])
        return softmin(each, beta, axis=0, weights=weights, average=average)

    return blocks.in_blocks(of_examples, (params, blocked, mass, beta), (x, y), 160)


def free_energy_of(
    energy: LatentEnergy, nodes: Nodes, beta: float = 1.0, *, average: bool = True
) -> Energy:
    """F_beta as an energy `(params, x, y) -> scalar` of one example: to minimise over y, sample, or give to a loss.

    `energy` is `(params, x, y, z) -> scalar`; F, `nodes`, beta and `average` as in `free_energy`, all nodes at once.
    Call it once and keep the function: another one compiles again. The function raises ValueError for an energy that is
    no scalar, and a beta known to be below 0.
    """

    def free(params, x, y):
        checks.check_energy(energy_of_z(energy), params, (x, y), trees.one_of(nodes.z))
        energies = jax.vmap(energy, (None, None, None, 0))(params, x, y, nodes.z)
        return softmin(energies, beta, weights=nodes.weights, average=average)

    return free


def posterior(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    nodes: Nodes,
    beta: jax.Array | float = 1.0,
) -> jax.Array:
    """P(z_k | x, y) = w_k exp(-beta E(x, y, z_k)) / sum_j w_j exp(-beta E(x, y, z_j)) of each node, (B, K).

    `nodes` are `Nodes`, K of them. Rows sum to 1; at beta = infinity it is on the minimum alone. `energy` is
    `(params, x, y, z) -> scalar` of one example, x and y have the leading axis B, and x may be None. ValueError where
    leading axes differ, the energy is no scalar, or beta is no scalar or known to be below 0.
    """
    return softargmin(energies_at(energy, params, x, y, nodes.z), beta, weights=nodes.weights)


def energies_at(energy: LatentEnergy, params: Any, x: Any, y: Any, z: Any) -> jax.Array:
    """E(x_i, y_i, z_k) of each of B examples at each of K values of z, (B, K).

    `energy` is `(params, x, y, z) -> scalar` of one example; x and y, trees of arrays or None, have the leading axis B,
    and z has K. ValueError for what is no array of numbers, where leading axes differ, and for an energy that is no
    scalar.
    """
    check_batch(x=x, y=y)
    check_batch(z=z)
    return _energies_at(energy, params, x, y, z)


@partial(jax.jit, static_argnames="energy")
def _energies_at(energy, params, x, y, z):
    one_x, one_y, one_z = (trees.one_of(batch) for batch in (x, y, z))
    checks.check_energy(energy_of_z(energy), params, (one_x, one_y), one_z)
    of_one = jax.vmap(energy, (None, None, None, 0))
    return jax.vmap(of_one, (None, 0, 0, None))(params, x, y, z)


@lru_cache(maxsize=256)
def energy_of_z(energy: LatentEnergy) -> Energy:
    """E as an energy of z with the context (x, y), `(params, (x, y), z) -> scalar`; one function for each energy.

    `energy` is `(params, x, y, z) -> scalar` of one example: with it the solvers of `inference` minimise over z.
    """

    def of_z(params, context, z):
        x, y = context
        return energy(params, x, y, z)

    return of_z


def _in_blocks(nodes, block):
    """Nodes with a leading axis of blocks, the last one filled with copies of weight 0; each block's weight."""
    count = len(jax.tree.leaves(nodes.z)[0])
    if block < 1 or not count:
        raise ValueError(f"blocks need at least one node, got {count} nodes, blocks of {block}")
    blocks = -(-count // block)
    block = -(-count // blocks)
    missing = blocks * block - count

    def split(a, mode):
        a = jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), mode=mode)
        return a.reshape(blocks, block, *a.shape[1:])

    weights = jnp.broadcast_to(1.0 if nodes.weights is None else nodes.weights, count)
    z = jax.tree.map(lambda a: split(jnp.asarray(a), "edge"), nodes.z)
    weights = split(weights, "constant")
    return Nodes(z, weights), jnp.sum(weights, axis=-1)
