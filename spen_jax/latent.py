"""Latent variables: energies E(x, y, z) with a z that nobody observes, minimised over, marginalised or averaged.

F_beta(x, y) = -1/beta log 1/|Z| integral over Z of exp(-beta E(x, y, z)) dz is the free energy: cold (beta =
infinity) the minimum over z, warm the marginal, hot (beta = 0) the mean. With `average=False` the 1/|Z| is left out,
which lowers it by log|Z| / beta. Z is given by nodes and their weights: a finite set or grid (`Nodes(z)`), a rule
of quadrature (`gauss_legendre`, `periodic`, `gauss_hermite`, `product`), or samples of a prior. Of a z without
finite volume the average is over a prior p(z), by nodes or samples of that prior. An energy is
`(params, x, y, z) -> scalar` of one example; x may be None. Sources: LeCun et al. (2006); LeCun & Canziani, NYU
Deep Learning 2020, week 15.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax import batching, gibbs, loop
from spen_jax.domains import Domain, Reals
from spen_jax.gibbs import softargmin, softmin
from spen_jax.inference import Solution, minimize, minimize_best

LatentEnergy = Callable[[Any, Any, Any, Any], jax.Array]


@dataclass(frozen=True)
class Decoder:
    """E = ||y - g(f(x), z)||^2, with params {"f": those of f, "g": those of g}.

    Attributes:
      g: the decoder, `(params, h, z) -> y`: h = f(x), None without f; params["g"], None where there is none.
      f: the predictor, `(params, x) -> h`; None for an unconditional energy.
    """

    g: Callable[[Any, Any, Any], jax.Array]
    f: Callable[[Any, Any], Any] | None = None

    def __call__(self, params: Any, x: Any, y: jax.Array, z: Any) -> jax.Array:
        """The energy of one example; AssertionError where y and what is decoded differ in shape."""
        decoded = self.decode(params, x, z)
        chex.assert_equal_shape([y, decoded])
        return jnp.sum((y - decoded) ** 2)

    def decode(self, params: Any, x: Any, z: Any) -> jax.Array:
        """g(f(x), z), the y of energy 0."""
        h = None if self.f is None else self.f(params["f"], x)
        return self.g(params.get("g"), h, z)


def scaled_circle(radii: jax.Array, z: jax.Array) -> jax.Array:
    """(r_1 cos z, r_2 sin z), the lecture's decoder of an angle z: an ellipse with these half-axes."""
    chex.assert_rank(z, 0)
    return radii * jnp.stack([jnp.cos(z), jnp.sin(z)])


def mixture(params: Any, x: None, y: jax.Array, k: jax.Array) -> jax.Array:
    """E(y, k) = ||y - mu_k||^2 / (2 s_k^2) + D log s_k + D/2 log 2 pi - log pi_k, of component k = 0, ..., K - 1.

    params {"means": (K, D), "log_scales": (K,), "logits": (K,)}, pi = softmax(logits). Summed over k (`average=False`)
    at beta = 1 the free energy is -log of a Gaussian mixture's density; cold, with equal weights and scales, it is
    K-means' squared distance to the nearest mean, up to scale and a constant.
    """
    mean, log_scale = params["means"][k], params["log_scales"][k]
    size = y.shape[-1]
    distance = jnp.sum((y - mean) ** 2) / (2 * jnp.exp(2 * log_scale))
    volume = size * (log_scale + jnp.log(2 * jnp.pi) / 2)
    return distance + volume - jax.nn.log_softmax(params["logits"])[k]


def reconstruction(atoms: jax.Array, x: None, y: jax.Array, z: jax.Array) -> jax.Array:
    """E = 1/2 ||y - z'A||^2, sparse coding's with a dictionary of K atoms A, (K, D); see `fista`."""
    return jnp.sum((y - z @ atoms) ** 2) / 2


@dataclass(frozen=True)
class Penalised:
    """E(x, y, z) + penalty(z): a regulariser limits what z can say about y."""

    energy: LatentEnergy
    penalty: Callable[[Any], jax.Array]

    def __call__(self, params: Any, x: Any, y: Any, z: Any) -> jax.Array:
        """The energy of one example."""
        return self.energy(params, x, y, z) + self.penalty(z)


class Nodes(NamedTuple):
    """Values of z with a leading axis K, and their weights (K,), which sum to |Z|; None for weights of 1.

    The weights are constants to differentiation.
    """

    z: Any
    weights: jax.Array | None = None


def gauss_legendre(count: int, lower: float, upper: float) -> Nodes:
    """The rule on [lower, upper] that is exact for polynomials up to degree 2 count - 1."""
    if not -np.inf < lower < upper < np.inf:
        raise ValueError(f"gauss_legendre needs finite lower < upper, got {lower} and {upper}")
    z, weights = np.polynomial.legendre.leggauss(count)
    half = (upper - lower) / 2
    return Nodes(jnp.asarray(lower + half * (z + 1)), jnp.asarray(half * weights))


def periodic(count: int, period: float = 2 * np.pi, start: float = 0.0) -> Nodes:
    """The trapezoid on a circle, equal steps from `start`: it converges faster than any power for a smooth energy."""
    step = period / count
    return Nodes(start + step * jnp.arange(count), jnp.full(count, step))


def gauss_hermite(count: int) -> Nodes:
    """The rule of a standard normal prior; weights sum to 1. At most 250 nodes, beyond which they overflow."""
    if not 1 <= count <= 250:
        raise ValueError(f"gauss_hermite needs 1 to 250 nodes, got {count}")
    z, weights = np.polynomial.hermite_e.hermegauss(count)
    return Nodes(jnp.asarray(z), jnp.asarray(weights / weights.sum()))


def product(*rules: Nodes) -> Nodes:
    """The nodes (K1 K2 ..., d) of a z of d coordinates, one rule for each."""
    z = jnp.stack([a.ravel() for a in jnp.meshgrid(*(r.z for r in rules), indexing="ij")], axis=-1)
    ones = [jnp.ones(len(r.z)) if r.weights is None else r.weights for r in rules]
    weights = jnp.stack([a.ravel() for a in jnp.meshgrid(*ones, indexing="ij")], axis=-1)
    return Nodes(z, jnp.prod(weights, axis=-1))


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
    """F_beta(x, y) of B examples, (B,); the gradient is the posterior's average of the energy's gradients.

    At beta = infinity that of the z of lowest energy. Nodes are worked on in blocks, in the gradient too, so that
    no array of examples x nodes x what the energy computes is ever made.

    Args:
      energy: `(params, x, y, z) -> scalar` for one example. Compiled once for each function: pass the same object
        again, not a new lambda.
      params: its parameters.
      x: what it sees, leading axis B; None where it sees nothing.
      y: answers, leading axis B.
      nodes: what stands for Z.
      beta: inverse temperature, 0 to infinity.
      average: whether the integral is divided by |Z|, the sum of the weights.
      block: nodes worked on at once.
    """
    gibbs.check_beta(beta)
    if not isinstance(nodes, Nodes):
        raise ValueError(f"nodes must be Nodes(z) or a rule of quadrature, got {type(nodes)}")
    return _free_energy(energy, params, x, y, nodes, beta, average, block)


@partial(jax.jit, static_argnames=("energy", "average", "block"))
def _free_energy(energy, params, x, y, nodes, beta, average, block):
    blocked, mass = _in_blocks(nodes, block)

    @jax.checkpoint
    def of_nodes(params, x, y, nodes):
        energies = _energies(energy, params, x, y, nodes.z)
        cold = softmin(energies, jnp.inf, weights=nodes.weights)
        tied = jnp.sum(nodes.weights[None] * ~(energies > cold[:, None]), axis=-1)
        return softmin(energies, beta, weights=nodes.weights, average=True), tied

    def of_examples(example):
        x, y = example
        each, tied = lax.map(lambda nodes: of_nodes(params, x, y, nodes), blocked)
        # The average of averages, each with its block's weight, is the average of all; of minima, with what is tied.
        weights = jnp.where(beta == jnp.inf, tied, mass[:, None])
        return softmin(each, beta, axis=0, weights=weights, average=average)

    return batching.in_blocks(of_examples, (x, y), 160)


def free_energy_of(
    energy: LatentEnergy, nodes: Nodes, beta: float = 1.0, *, average: bool = True
) -> Callable[[Any, Any, Any], jax.Array]:
    """F_beta as an energy `(params, x, y) -> scalar` of one example: to minimise over y, sample, or give to a loss.

    Call it once and keep the function: another one compiles again.
    """

    def free(params, x, y):
        loop.check_energy(_of_z(energy), params, (x, y), _one(nodes.z))
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
    """P(z | x, y) of each node, its weight included, (B, K), rows sum to 1; on the minimum alone at infinity."""
    return softargmin(_energies(energy, params, x, y, nodes.z), beta, weights=nodes.weights)


class Estimate(NamedTuple):
    """A free energy and its standard error, both (B,)."""

    value: jax.Array
    error: jax.Array


def monte_carlo(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    samples: Any,
    beta: jax.Array | float = 1.0,
) -> Estimate:
    """F_beta under the prior that n samples of z were drawn from, with the error by the delta method.

    Biased upwards by about beta error^2 / 2: trust it where beta times the error is well below 1. At beta = infinity,
    the lowest sample, and from one sample no error is known: it is infinite.
    """
    energies = _energies(energy, params, x, y, samples)
    value = softmin(energies, beta, average=True)
    above = energies - value[:, None]
    safe = jnp.where((beta == 0) | (beta == jnp.inf), 1, beta)
    ratio = jnp.where(beta == 0, -above, jnp.expm1(-safe * above) / safe)
    count = energies.shape[-1]
    error = jnp.std(ratio, axis=-1) / np.sqrt(count)
    return Estimate(value, jnp.where((beta == jnp.inf) | (count == 1), jnp.inf, error))


def infer(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    starts: Any,
    *,
    domain: Domain = Reals(),
    **options: Any,
) -> Solution:
    """argmin over z of E(x, y, z) for each example, the best of S starts (B, S, ...), by the solvers.

    `energy` of the solution is the cold free energy; its gradient in the parameters is that at the best z. Options are
    those of `minimize`: solver, steps, ...; the domain is where z lives (a norm ball limits it).
    """
    return minimize_best(_of_z(energy), params, (x, y), starts, domain=domain, **options)


class Minima(NamedTuple):
    """Minima of each example, from the lowest: y (B, S, D), energy (B, S), and which are distinct (B, S)."""

    y: jax.Array
    energy: jax.Array
    distinct: jax.Array


def minima(
    energy: Callable[[Any, Any, Any], jax.Array],
    params: Any,
    context: Any,
    starts: jax.Array,
    *,
    apart: float = 0.1,
    domain: Domain = Reals(),
    **options: Any,
) -> Minima:
    """Several minima kept: the points that `minimize` ends at from each of S starts, (B, S, D), the lowest first.

    `distinct` are those `apart` from all distinct ones before them that did not fail; whether a point is a minimum is
    for `steps` and the solver to see to.
    """
    if starts.ndim != 3:
        raise ValueError(f"minima needs starts of shape (B, S, D), got {starts.shape}")
    batch, many = starts.shape[:2]
    loop.check_context(context, batch)
    repeated = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), many, axis=0), context)
    flat = starts.reshape(batch * many, -1)
    found = minimize(energy, params, repeated, flat, domain=domain, **options)
    energies = jnp.where(found.failed, jnp.inf, found.energy).reshape(batch, many)
    order = jnp.argsort(energies, axis=1)
    y = jnp.take_along_axis(found.y.reshape(starts.shape), order[..., None], axis=1)
    energies = jnp.take_along_axis(energies, order, axis=1)
    near = jnp.linalg.norm(y[:, :, None] - y[:, None], axis=-1) < apart
    distinct = jnp.zeros((batch, many), bool)
    for i in range(many):
        new = ~jnp.any(near[:, i] & distinct, axis=1) & jnp.isfinite(energies[:, i])
        distinct = distinct.at[:, i].set(new)
    return Minima(y, energies, distinct)


class Sparse(NamedTuple):
    """A sparse z (B, ...), E + l1 |z|_1 there (B,), and the residual max |z - soft(z - grad E, l1)| (B,)."""

    z: jax.Array
    energy: jax.Array
    residual: jax.Array


@partial(jax.jit, static_argnames=("energy", "steps", "accelerated"))
def fista(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    start: jax.Array,
    *,
    l1: jax.Array | float,
    step_size: jax.Array | float,
    steps: int = 200,
    accelerated: bool = True,
) -> Sparse:
    """argmin over z of E(x, y, z) + l1 ||z||_1 by proximal steps, (B, ...); ISTA where not `accelerated`.

    z <- soft(v - step_size grad E(v), step_size l1), v ahead of z by Nesterov's momentum, soft(a, t) = sign(a)
    max(|a| - t, 0). Converges for step_size up to 1 / the largest curvature of E in z. Source: Beck & Teboulle (2009).
    """

    def soft(a, threshold):
        return jnp.sign(a) * jnp.maximum(jnp.abs(a) - threshold, 0)

    def of_one(x, y, z):
        slope = jax.grad(lambda z: energy(params, x, y, z))

        def step(carry, _):
            z, ahead, t = carry
            new = soft(ahead - step_size * slope(ahead), step_size * l1)
            after = (1 + jnp.sqrt(1 + 4 * t**2)) / 2 if accelerated else t
            return (new, new + (t - 1) / after * (new - z), after), None

        (z, _, _), _ = lax.scan(step, (z, z, jnp.ones((), z.dtype)), length=steps)
        total = energy(params, x, y, z) + l1 * jnp.sum(jnp.abs(z))
        return Sparse(z, total, jnp.max(jnp.abs(z - soft(z - slope(z), l1))))

    return jax.vmap(of_one)(x, y, start)


def variational(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    mean: jax.Array,
    log_std: jax.Array,
    noise: jax.Array,
    beta: jax.Array | float = 1.0,
) -> jax.Array:
    """E_q[E(x, y, z)] + KL(q || p) / beta, q = N(mean, diag exp(2 log_std)), p = N(0, I): on average at least F_beta.

    Noise added to z, with what it costs to tell more about z than the prior does. Equal to F_beta, averaged over the
    prior, where q is the posterior. `mean` and `log_std` (B, D); `noise` standard normal, (n, D), for all examples.
    """

    def of_one(x, y, mean, log_std):
        z = mean[None] + jnp.exp(log_std)[None] * noise
        expected = jnp.mean(jax.vmap(energy, (None, None, None, 0))(params, x, y, z))
        kl = jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std) / 2
        return expected + kl / beta

    return jax.vmap(of_one)(x, y, mean, log_std)


@lru_cache(maxsize=256)
def _of_z(energy):
    def of_z(params, context, z):
        return energy(params, *context, z)

    return of_z


@partial(jax.jit, static_argnames="energy")
def _energies(energy, params, x, y, z):
    """E of each example at each node, (B, K)."""
    loop.check_energy(_of_z(energy), params, (_one(x), _one(y)), _one(z))
    of_one = jax.vmap(energy, (None, None, None, 0))
    return jax.vmap(of_one, (None, 0, 0, None))(params, x, y, z)


def _one(batch):
    """The shapes and types of one of a batch."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a)[1:], jnp.result_type(a)), batch)


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
