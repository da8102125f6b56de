"""Telling the truth from noise, samples of a distribution that can be evaluated: no Z is computed.

Metrics: loss; gap, the mean of E- less that of E+, E+ the truth's energy and E- a draw's; accuracy, the share of
examples with no draw lower in energy than the truth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax import losses
from spen_jax.arguments import handing, once, parameters_of
from spen_jax.checks import check_whole, checked_shape
from spen_jax.domains import Box, Domain, Simplex, counting
from spen_jax.objectives.batch import Given, check_predictor, checking, given
from spen_jax.predictor import Predictor
from spen_jax.types import Objective


class Noise(Protocol):
    """A distribution q(y | x) that can be drawn from and evaluated; the context is that of a whole batch.

    Where parts of y do not count, `log_prob` needs a parameter `mask` (B, n, ...), and returns the log of what q
    gives to the parts that do.
    """

    def sample(self, context: Any, key: jax.Array, n: int) -> jax.Array:
        """n independent draws for each example, (B, n, ...)."""
        ...

    def log_prob(self, context: Any, y: jax.Array) -> jax.Array:
        """log q(y | x), (B, n, ...) -> (B, n), in nats."""
        ...


def unary_logits(context: Any) -> jax.Array:
    """context["logits"], (B, L): the feature network's own answer, in the context of a `SPEN`.

    KeyError for a context without it: give a `Noise` another `logits`.
    """
    return context["logits"]


@dataclass(frozen=True)
class IndependentBernoulli:
    """q(y | x) = prod_i sigmoid((2 y_i - 1) beta z_i) on y in {0, 1}^L, z = logits(context).

    Noise that resembles the model teaches most. By default it is the feature network's answer, which the noise
    takes as a constant while the energy learns it; a beta below 1 flattens it so that it covers
    what the network has ruled out, and beta = 0 makes it uniform. `logits(context)` gives z (B, L), or of any other
    shape (B, ...), which is that of y. Its `domain` is Box(0, 1). ValueError for a beta below 0 or infinite.
    """

    logits: Callable[[Any], jax.Array] = unary_logits
    beta: float = 1.0
    domain: ClassVar[Domain] = Box()

    def __post_init__(self):
        _check_beta(self)

    def sample(self, context, key, n):
        """n independent draws for each example, (B, n, ...)."""
        z = self.beta * self.logits(context)[:, None]
        shape = (len(z), n, *z.shape[2:])
        return jax.random.bernoulli(key, jax.nn.sigmoid(z), shape).astype(z.dtype)

    def log_prob(self, context, y, mask=None):
        """log q(y | x), (B, n, ...) -> (B, n), in nats; with a mask (B, n, ...) of the parts that count alone."""
        z = self.beta * self.logits(context)[:, None]
        return _total(jax.nn.log_sigmoid((2 * y - 1) * z), mask)


@dataclass(frozen=True)
class IndependentCategorical:
    """q(y | x) = prod_t softmax(beta z_t) at the one that y_t has, on one-hot y (T, K), z = logits(context).

    As `IndependentBernoulli`, for y on a `Simplex`: z and y are (B, ..., K), one of K values for each part, such as
    (B, T, K). ValueError for a beta below 0 or infinite.
    """

    logits: Callable[[Any], jax.Array] = unary_logits
    beta: float = 1.0
    domain: ClassVar[Domain] = Simplex()

    def __post_init__(self):
        _check_beta(self)

    def sample(self, context, key, n):
        """n independent draws for each example, (B, n, ..., K)."""
        z = self.beta * self.logits(context)[:, None]
        drawn = jax.random.categorical(key, z, shape=(len(z), n, *z.shape[2:-1]))
        return jax.nn.one_hot(drawn, z.shape[-1], dtype=z.dtype)

    def log_prob(self, context, y, mask=None):
        """log q(y | x), (B, n, ..., K) -> (B, n), in nats; with a mask (B, n, ...) of the parts that count alone."""
        z = self.beta * self.logits(context)[:, None]
        return _total(y * jax.nn.log_softmax(z, axis=-1), mask)


def _check_beta(noise):
    if not 0 <= noise.beta < math.inf:
        raise ValueError(
            f"{type(noise).__name__} needs a finite beta >= 0, an inverse temperature, got {noise.beta}"
        )


def _total(terms, mask):
    """The sum over all parts that count, (B, n, ...) -> (B, n)."""
    if mask is not None:
        terms = counting(mask, terms)
    return jnp.sum(terms, axis=tuple(range(2, terms.ndim)))


@once
def nce(
    predictor: Predictor,
    *,
    noise: Noise,
    samples: int = 10,
    log_partition: Callable[[Any, Any], jax.Array] | None = None,
) -> Objective:
    """-log sigmoid(h(y)) - sum_k log(1 - sigmoid(h(y_k))), h(y) = -E(x, y) - c(x) - log q(y | x) - log nu.

    Noise-contrastive estimation: tells the truth from nu = `samples` draws y_k of the noise q, which are constants.
    At its best exp(-E - c) is the distribution of the data, normalised: c is learned to be log Z. As nu grows the
    gradient tends to that of E(x, y) + c(x) + sum over all y' of exp(-E(x, y') - c(x)): answers are pushed up by
    exp(-E - c), which is P, and the gradient that of the likelihood, where c is log Z and not elsewhere. Without c the
    energy normalises itself: its level then has a meaning, and it has to be flexible enough for that at every x.

    Args:
      predictor: its energy and features.
      noise: a `Noise`, positive wherever the data can be: `IndependentBernoulli()`, `IndependentCategorical()`, or
        your own.
      samples: nu, draws for each example.
      log_partition: `(params, context) -> c (B,)`, such as a parameter spread over the batch or a network's output;
        None is 0.

    A batch has x and y (B, ...), see `read`. Metrics: loss; gap, the mean of E- less that of E+, E+ the truth's energy
    and E- a draw's; accuracy, the share of examples with no draw lower in energy than the truth; log_prob, the mean of
    -E+ - c, in nats: log P(y | x) as far as c is the log Z it is learned to be.

    Raises ValueError for fewer than 1 draw; in training for draws, log q or c of other shapes, and where parts of y do
    not count for a `log_prob` that takes no mask; in `training.fit` for y that is no corner of the noise's domain.

    Sources: Gutmann & Hyvarinen (2010); conditional: Ma & Collins (2018), whose "binary objective" it is.
    """
    check_predictor(predictor)
    check_whole("samples", samples, 1)

    def objective(params, batch, key):
        feature_key, noise_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key)
        points = _with_noise(noise, seen, noise_key, samples)
        c = jnp.zeros(len(seen.truth))
        if log_partition is not None:
            c = checked_shape("log_partition", log_partition(params, seen.context), c.shape)
        h = -points.energy - points.log_q - c[:, None] - math.log(samples)  # the truth first
        signed = jnp.concatenate([h[:, :1], -h[:, 1:]], axis=1)
        value = jnp.mean(jnp.sum(jax.nn.softplus(-signed), axis=1))
        log_prob = -jnp.mean(points.energy[:, 0] + c)
        return value, {"loss": value, "log_prob": log_prob, **_metrics(points.energy)}

    return checking(objective, getattr(noise, "domain", None), corners=True)


@once
def ranking_nce(predictor: Predictor, *, noise: Noise, samples: int = 10) -> Objective:
    """-log of softmax(-E - log q) at the truth, over {y, y_1, ..., y_K}, the y_k drawn from the noise q(y | x).

    Which of K + 1 = `samples` + 1 points is the truth? Z cancels, so that no level of the energy has to be learned,
    nor is. As K grows the gradient tends to that of the likelihood. `losses.info_nce` leaves q out, and so has
    -log(P / q) as its best energy.

    `predictor`, `noise`, `samples`, the batches and what raises ValueError are those of `nce`. Metrics: loss; gap, the
    mean of E- less that of E+, E+ the truth's energy and E- a draw's; accuracy, the share of examples with no draw
    lower in energy than the truth.

    Sources: Jozefowicz et al. (2016); Ma & Collins (2018), the "ranking objective".
    """
    check_predictor(predictor)
    check_whole("samples", samples, 1)

    def objective(params, batch, key):
        feature_key, noise_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key)
        points = _with_noise(noise, seen, noise_key, samples)
        value = ranked(points.energy + points.log_q)
        return value, {"loss": value, **_metrics(points.energy)}

    return checking(objective, getattr(noise, "domain", None), corners=True)


def levels(noise: Noise, seen: Given, key: jax.Array, samples: int) -> jax.Array:
    """E + log q of the truth and of so many draws after it, (B, 1 + samples): what `ranking_nce` compares.

    In nats; `seen` is what `given` knows of the batch, `key` draws from the noise, and log q and the points are
    constants: the draws of y (B, ...) are (B, n, ...), n = `samples`. ValueError, as in `nce`, for a noise whose draws
    or log q have other shapes.
    """
    points = _with_noise(noise, seen, key, samples)
    return points.energy + points.log_q


def ranked(levels: jax.Array) -> jax.Array:
    """The mean of -log softmax(-levels) at the first of each row."""
    return jnp.mean(losses.info_nce(levels[:, 0], levels[:, 1:]))


class _Points(NamedTuple):
    """The truth and the noise after it, (B, 1 + n): energies, and log q as constants."""

    energy: jax.Array
    log_q: jax.Array


def _with_noise(noise, seen, key, n):
    truth, held = seen.truth, lax.stop_gradient(seen.context)
    shape = (len(truth), n, *truth.shape[1:])
    drawn = checked_shape("noise.sample", noise.sample(held, key, n), shape)
    points = jnp.concatenate([truth[:, None], drawn.astype(truth.dtype)], axis=1)
    log_prob = noise.log_prob
    if seen.mask is not None:
        if "mask" not in parameters_of(log_prob):
            raise ValueError(
                "where parts of y do not count, the noise's log_prob needs a parameter mask (B, n, ...), to leave "
                "them out"
            )
        mask = jnp.broadcast_to(seen.mask[:, None], (*points.shape[:2], *seen.mask.shape[1:]))
        points, log_prob = counting(mask, points), handing(log_prob, mask=mask)
    log_q = checked_shape("noise.log_prob", log_prob(held, points), points.shape[:2])
    points, log_q = lax.stop_gradient((points, log_q))
    return _Points(seen.several(points), log_q)


def _metrics(energies):
    correct, wrong = energies[:, 0], energies[:, 1:]
    best = correct <= jnp.min(wrong, axis=1)
    return {"gap": jnp.mean(wrong) - jnp.mean(correct), "accuracy": jnp.mean(best)}
