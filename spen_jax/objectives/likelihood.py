"""Objectives that fit the Gibbs distribution P(y | x) = exp(-E(x, y)) / Z(x), in full or by what is cheaper than Z.

All return an objective `(params, batch, key) -> (scalar, metrics)`, the mean over a batch with fields x (B, D) and y
(B, L), the truth. Shared arguments:

`energy`
    `(params, context, y) -> scalar` for one example. E+ is the truth's energy, E- that of a sample.
`features`
    `(params, x) -> context` for a whole batch, x (B, D), or for one with dropout `(params, x, key=None) -> context`,
    which is given a key, by that name; None where the energy sees x itself.

Shared metrics: loss; gap, the mean of E- less that of E+. Unless an objective says otherwise it sees only differences
of energies at one x: levels mean nothing, and energies of different x cannot be compared.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax import exact, losses
from spen_jax.domains import Box, Domain
from spen_jax.objectives.margin import _with_key
from spen_jax.sampling import Sampler, sample
from spen_jax.types import Energy, Features, Objective

# Everything enumerated


def maximum_likelihood(
    energy: Energy,
    features: Features | None = None,
    *,
    answers: Any,
    beta: float = 1.0,
) -> Objective:
    """E(x, y) + 1/beta log sum_k exp(-beta E(x, y_k)), the negative log-likelihood by enumeration.

    In nats over beta, as `losses.nll`: -log P(y | x) itself at beta = 1, the perceptron loss at beta = infinity.
    Costs K energies an example.

    Args:
      energy: see the module.
      features: see the module.
      answers: all possible y, each once, (K, L) or of whatever shape an example's y has after the K.
      beta: the inverse temperature, > 0.

    Metrics: see the module; the gap takes the mean of E over P(y | x).
    """
    if not beta > 0:
        raise ValueError(f"likelihood needs beta > 0, got {beta}; 1 / beta is a temperature")
    answers = _floats(jnp.asarray(answers))
    if not answers.ndim or not len(answers):
        raise ValueError(f"answers must hold at least one y, (K, ...), got shape {answers.shape}")
    features = _with_key(features)

    def objective(params, batch, key):
        context, truth = features(params, batch.x, key), _floats(batch.y)
        if answers.shape[1:] != truth.shape[1:]:
            raise ValueError(
                f"answers must have the shape (K, {_numbers(truth.shape[1:])}), since y has {truth.shape}; got "
                f"{answers.shape}"
            )
        correct = _of_each(energy, params, context, truth)
        of_all = jax.vmap(jax.vmap(energy, (None, None, 0)), (None, 0, None))
        energies = of_all(params, context, answers)  # (B, K)
        value = jnp.mean(losses.nll(correct, energies, beta))
        likely = exact.softargmin(energies, beta)
        # An infinite energy has probability 0, and no part in the mean.
        mean = jnp.sum(jnp.where(likely > 0, likely * energies, 0), axis=-1)
        return value, {"loss": value, "gap": jnp.mean(mean - correct)}

    return objective


# Samples of the model itself


class Replay(NamedTuple):
    """N examples and where their Markov chains stand: x (N, D), y (N, L), chains (N, C, L)."""

    x: Any
    y: Any
    chains: Any


def replay(data: Any, key: jax.Array, *, chains: int = 1, domain: Domain = Box()) -> Replay:
    """The data of persistent contrastive divergence: C chains for each example, at random corners of the domain.

    On a domain without corners at random points. `data` has fields x (N, D) and y (N, L), such as
    `spen_jax.data.Split`.
    """
    _check_count("chains", chains)
    n, *shape = jnp.shape(data.y)
    return Replay(data.x, data.y, domain.round(domain.random(key, (n, chains, *shape))))


def contrastive_divergence(
    energy: Energy,
    features: Features | None = None,
    *,
    sampler: Sampler,
    domain: Domain = Box(),
    steps: int = 10,
    chains: int = 1,
    start: Callable[[Any, jax.Array], jax.Array] | None = None,
    persistent: bool = False,
    restart: float = 0.05,
    magnitude: float = 0.0,
) -> Objective:
    """E+ - mean of E- over y~ of chains that ran `steps` steps; the y~ are constants: d(loss) = dE+ - mean dE-.

    The value is not the likelihood: watch the gap, or samples. The gradient is that of the likelihood once the
    chains have reached exp(-E) on the domain, and before that pushes up what lies downhill from their start (CD-k,
    k = `steps`: Hinton 2002). Levels of E are free to drift; `magnitude` times the mean of E+^2 + E-^2 holds
    them near 0 (Du & Mordatch 2019).

    With `persistent` the chains go on where they stood when their example was last seen (Tieleman 2008), of which
    the data keeps a record: a batch has a third field `chains` (B, chains, L), made by `replay`, and the metrics
    return its new values, which `training.fit` writes back into the data.

    Args:
      energy: see the module.
      features: see the module.
      sampler: the Markov chain: `sampling.GibbsWithGradients()` for binary y, `sampling.Langevin(...)` for continuous.
      domain: where y lives.
      steps: of each chain, in each step of training.
      chains: how many for each example.
      start: where chains begin, `(context, key) -> (B, chains, L)`; None is at the truth.
      persistent: whether the chains go on from `batch.chains`.
      restart: the probability with which a persistent chain begins anew instead.
      magnitude: the weight of the squared energies.

    Metrics: see the module; acceptance, the samplers' mean; divergent, the share of chains that met a number that is
    not finite; with `persistent`, chains (B, chains, L), the points that the chains have reached.
    """
    _check_count("steps", steps)
    _check_count("chains", chains)
    if not 0 <= restart <= 1:
        raise ValueError(f"restart is a probability, between 0 and 1, got {restart}")
    if not magnitude >= 0:
        raise ValueError(f"magnitude must be at least 0, got {magnitude}")
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, start_key, restart_key, chain_key = jax.random.split(key, 4)
        context, truth = features(params, batch.x, feature_key), _floats(batch.y)
        shape = (len(truth), chains, *truth.shape[1:])
        if start is None:
            begin = jnp.broadcast_to(truth[:, None], shape)
        else:
            begin = _checked("start", start(context, start_key), shape)
        if persistent:
            if not hasattr(batch, "chains"):
                raise ValueError(
                    "persistent=True needs a batch with a field chains, where the chains stand; make the data with "
                    "likelihood.replay"
                )
            going = _checked("the batch's chains", _floats(batch.chains), shape)
            anew = jax.random.bernoulli(restart_key, restart, (len(truth), chains))
            begin = jnp.where(jnp.expand_dims(anew, tuple(range(2, len(shape)))), begin, going)

        samples = sample(
            energy,
            params,
            context,
            begin,
            chain_key,
            domain=domain,
            sampler=sampler,
            steps=steps,
            thin=steps,
        )
        correct = _of_each(energy, params, context, truth)
        sampled = _of_several(energy, params, context, samples.state)
        value = jnp.mean(losses.nll_by_samples(correct, sampled))
        metrics = {
            "gap": -value,
            "acceptance": jnp.mean(samples.info.acceptance),
            "divergent": jnp.mean(samples.info.divergent),
        }
        if magnitude:
            value += magnitude * (jnp.mean(correct**2) + jnp.mean(sampled**2))
        if persistent:
            metrics["chains"] = samples.state.astype(jnp.result_type(batch.chains))
        return value, {"loss": value, **metrics}

    return objective


# Samples of something simpler


class Noise(Protocol):
    """A distribution q(y | x) that can be drawn from and evaluated; the context is that of a whole batch."""

    def sample(self, context: Any, key: jax.Array, n: int) -> jax.Array:
        """n independent draws for each example, (B, n, L)."""
        ...

    def log_prob(self, context: Any, y: jax.Array) -> jax.Array:
        """log q(y | x), (B, n, L) -> (B, n), in nats."""
        ...


def unary_logits(context: Any) -> jax.Array:
    """context["logits"], (B, L): the feature network's own answer, in the context of a `SPEN`."""
    return context["logits"]


@dataclass(frozen=True)
class IndependentBernoulli:
    """q(y | x) = prod_i sigmoid((2 y_i - 1) z_i / temperature) on y in {0, 1}^L, z = logits(context).

    Noise that resembles the model teaches most. By default it is the feature network's answer, which the noise
    takes as a constant while the energy learns it; a temperature above 1 flattens it so that it covers
    what the network has ruled out, and an infinite one makes it uniform.
    """

    logits: Callable[[Any], jax.Array] = unary_logits
    temperature: float = 1.0

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"IndependentBernoulli needs temperature > 0, got {self.temperature}")

    def sample(self, context, key, n):
        """n independent draws for each example, (B, n, L)."""
        z = self.logits(context)[:, None] / self.temperature
        shape = (len(z), n, z.shape[-1])
        return jax.random.bernoulli(key, jax.nn.sigmoid(z), shape).astype(z.dtype)

    def log_prob(self, context, y):
        """log q(y | x), (B, n, L) -> (B, n), in nats."""
        z = self.logits(context)[:, None] / self.temperature
        return jnp.sum(jax.nn.log_sigmoid((2 * y - 1) * z), axis=-1)


def noise_contrastive(
    energy: Energy,
    features: Features | None = None,
    *,
    noise: Noise,
    samples: int = 10,
    log_partition: Callable[[Any, Any], jax.Array] | None = None,
) -> Objective:
    """-log sigmoid(h(y)) - sum_k log(1 - sigmoid(h(y_k))), h(y) = -E(x, y) - c(x) - log q(y | x) - log nu.

    Noise-contrastive estimation: tells the truth from nu = `samples` draws y_k of the noise q, which are constants.
    At its best exp(-E - c) is the distribution of the data, normalised: c is learned to be log Z. As nu grows the
    gradient tends to that of the likelihood of exp(-E - c). Without c the energy normalises itself: its level then
    has a meaning, and it has to be flexible enough for that at every x.

    Args:
      energy: see the module.
      features: see the module.
      noise: a `Noise`, positive wherever the data can be: `IndependentBernoulli()`, or your own.
      samples: nu, draws for each example.
      log_partition: `(params, context) -> c (B,)`, such as a parameter spread over the batch or a network's output;
        None is 0.

    Metrics: see the module; accuracy, the share of examples with no draw lower in energy than the truth; log_prob, the
    mean of -E+ - c, in nats: log P(y | x) as far as c is the log Z it is learned to be.

    Sources: Gutmann & Hyvarinen (2010); conditional: Ma & Collins (2018), whose "binary objective" it is.
    """
    _check_count("samples", samples)
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, noise_key = jax.random.split(key)
        context, truth = features(params, batch.x, feature_key), _floats(batch.y)
        points = _with_noise(noise, energy, params, context, truth, noise_key, samples)
        c = jnp.zeros(len(truth))
        if log_partition is not None:
            c = _checked("log_partition", log_partition(params, context), (len(truth),))
        h = -points.energy - points.log_q - c[:, None] - math.log(samples)  # the truth first
        signed = jnp.concatenate([h[:, :1], -h[:, 1:]], axis=1)
        value = jnp.mean(jnp.sum(jax.nn.softplus(-signed), axis=1))
        log_prob = -jnp.mean(points.energy[:, 0] + c)
        return value, {"loss": value, "log_prob": log_prob, **_metrics(points.energy)}

    return objective


def ranking(
    energy: Energy,
    features: Features | None = None,
    *,
    noise: Noise,
    samples: int = 10,
) -> Objective:
    """-log of softmax(-E - log q) at the truth, over {y, y_1, ..., y_K}, the y_k drawn from the noise q(y | x).

    Which of K + 1 = `samples` + 1 points is the truth? Z cancels, so that no level of the energy has to be learned,
    nor is. As K grows the gradient tends to that of the likelihood. `losses.info_nce` leaves q out, and so has
    -log(P / q) as its best energy.

    Arguments as in `noise_contrastive`. Metrics: see the module; accuracy, the share of examples with no draw
    lower in energy than the truth.

    Sources: Jozefowicz et al. (2016); Ma & Collins (2018), the "ranking objective".
    """
    _check_count("samples", samples)
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, noise_key = jax.random.split(key)
        context, truth = features(params, batch.x, feature_key), _floats(batch.y)
        points = _with_noise(noise, energy, params, context, truth, noise_key, samples)
        above_noise = points.energy + points.log_q
        value = jnp.mean(losses.info_nce(above_noise[:, 0], above_noise[:, 1:]))
        return value, {"loss": value, **_metrics(points.energy)}

    return objective


def levels(
    noise: Noise,
    energy: Energy,
    params: Any,
    context: Any,
    truth: jax.Array,
    key: Any,
    samples: int,
) -> jax.Array:
    """E + log q of the truth and of so many draws after it, (B, 1 + samples): what `ranking` compares."""
    points = _with_noise(noise, energy, params, context, truth, key, samples)
    return points.energy + points.log_q


class _Points(NamedTuple):
    """The truth and the noise after it, (B, 1 + n): energies, and log q as constants."""

    energy: jax.Array
    log_q: jax.Array


def _with_noise(noise, energy, params, context, truth, key, n):
    held = lax.stop_gradient(context)
    shape = (len(truth), n, *truth.shape[1:])
    drawn = _checked("noise.sample", noise.sample(held, key, n), shape)
    points = jnp.concatenate([truth[:, None], drawn.astype(truth.dtype)], axis=1)
    log_q = _checked("noise.log_prob", noise.log_prob(held, points), shape[:1] + (n + 1,))
    points, log_q = lax.stop_gradient((points, log_q))
    return _Points(_of_several(energy, params, context, points), log_q)


def _metrics(energies):
    correct, wrong = energies[:, 0], energies[:, 1:]
    best = correct <= jnp.min(wrong, axis=1)
    return {"gap": jnp.mean(wrong) - jnp.mean(correct), "accuracy": jnp.mean(best)}


# Continuous y: the score -dE/dy, which knows no Z


def denoising_score_matching(
    energy: Energy, features: Features | None = None, *, sigma: float
) -> Objective:
    """1/2 ||sigma dE/dy(x, y + sigma e) - e||^2, e standard normal: the score at a noisy y points back to the truth.

    The score -dE/dy is fitted to -e / sigma, in the scale of sigma^2. At its best exp(-E) is the density of the data
    blurred by noise of standard deviation `sigma` in each coordinate: smaller is closer to the data, and of higher
    variance. y on `Reals`, of any shape. Costs a gradient of a gradient.

    Arguments: see the module; `sigma` > 0, in the units of y.

    Metrics: loss; explained, 1 - loss / (1/2 ||e||^2): 0 for a score of 0 everywhere, 1 at
    most, and only where y is a function of x.

    Source: Vincent (2011).
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"denoising_score_matching needs a finite sigma > 0, got {sigma}")
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, noise_key = jax.random.split(key)
        context, truth = features(params, batch.x, feature_key), _floats(batch.y)
        noise = jax.random.normal(noise_key, truth.shape, truth.dtype)
        slopes = _of_each(jax.grad(energy, argnums=2), params, context, truth + sigma * noise)
        value = jnp.sum((sigma * slopes - noise) ** 2) / (2 * len(truth))
        nothing = jnp.sum(noise**2) / (2 * len(truth))
        return value, {"loss": value, "explained": 1 - value / nothing}

    return objective


def sliced_score_matching(
    energy: Energy, features: Features | None = None, *, projections: int = 1
) -> Objective:
    """1/2 ||dE/dy||^2 - mean of v' (d^2 E / dy dy) v over random directions v, v_i = -1 or +1, at the truth.

    On average over v it is 1/2 ||s||^2 + the divergence of s, s = -dE/dy the score: up to a constant half the mean
    squared distance to the data's own score (Hyvarinen 2005), for a smooth density on `Reals`, without noise. y of any
    shape. Costs a Hessian times a vector for each of the `projections`.

    Arguments: see the module; `projections`, how many v for each example.

    Metrics: loss; slope, the mean of ||dE/dy||^2; trace, the mean of v' (d^2 E / dy dy) v. At the best energy of a
    family that can be scaled, the two are equal.

    Source: Song, Garg, Shi & Ermon (2019), with reduced variance.
    """
    _check_count("projections", projections)
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, direction_key = jax.random.split(key)
        context, truth = features(params, batch.x, feature_key), _floats(batch.y)
        shape = (len(truth), projections, *truth.shape[1:])
        directions = jax.random.rademacher(direction_key, shape, truth.dtype)

        def one(context, y, directions):
            def slope_of(y):
                return jax.grad(energy, argnums=2)(params, context, y)

            slope, push = jax.linearize(slope_of, y)
            curvature = jnp.mean(jax.vmap(lambda v: jnp.sum(v * push(v)))(directions))
            return jnp.sum(slope**2), curvature

        slope, trace = jax.tree.map(jnp.mean, jax.vmap(one)(context, truth, directions))
        value = slope / 2 - trace
        return value, {"loss": value, "slope": slope, "trace": trace}

    return objective


# Binary y, one label at a time


def pseudo_likelihood(
    energy: Energy, features: Features | None = None, *, labels: int | None = None
) -> Objective:
    """-sum_i log P(y_i | x, the other labels) = sum_i softplus(E(x, y) - E(x, y with label i flipped)), y in {0, 1}^L.

    Exact for an energy without interactions, where it is the cross-entropy of its logits. Costs L + 1 energies an
    example; with `labels` = k only k + 1, of k labels drawn anew for each example, times L / k: unbiased. Since
    every label is judged given the true others, strong interactions are overrated.

    Arguments: see the module; `labels` k, 1 to L, or None for all.

    Metrics: see the module, E- with one label flipped; accuracy, the share of labels (of those drawn) that are right
    given the others.

    Source: Besag (1975).
    """
    if labels is not None:
        _check_count("labels", labels)
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, label_key = jax.random.split(key)
        context, truth = features(params, batch.x, feature_key), _floats(batch.y)
        if truth.ndim != 2:
            raise ValueError(f"pseudo_likelihood needs y of shape (B, L), got {truth.shape}")
        size, count = truth.shape
        if labels is not None and labels > count:
            raise ValueError(f"labels must be between 1 and L = {count}, or None; got {labels}")
        flips = jnp.broadcast_to(jnp.eye(count, dtype=bool), (size, count, count))
        if labels is not None:
            drawn = lax.top_k(jax.random.uniform(label_key, truth.shape), labels)[1]
            flips = drawn[:, :, None] == jnp.arange(count)[None, None]
        flipped = jnp.where(flips, 1 - truth[:, None], truth[:, None])  # (B, k, L)
        correct = _of_each(energy, params, context, truth)[:, None]
        wrong = _of_several(energy, params, context, flipped)
        value = count * jnp.mean(losses.log_loss(correct, wrong))
        gap = wrong - correct
        return value, {"loss": value, "gap": jnp.mean(gap), "accuracy": jnp.mean(gap > 0)}

    return objective


def _of_each(function, params, context, y):
    """function(params, context, y) of each example, y (B, ...)."""
    return jax.vmap(function, (None, 0, 0))(params, context, y)


def _of_several(energy, params, context, y):
    """The energies of n points for each example, (B, n, ...) -> (B, n)."""
    return jax.vmap(jax.vmap(energy, (None, None, 0)), (None, 0, 0))(params, context, y)


def _floats(y):
    return jnp.asarray(y, jnp.result_type(y, 0.0))


def _numbers(shape):
    return ", ".join(map(str, shape))


def _check_count(name, value):
    if value != int(value) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value}")


def _checked(what, value, shape):
    if jnp.shape(value) != shape:
        raise ValueError(f"{what} must have shape {shape}, got {jnp.shape(value)}")
    return jnp.asarray(value)
