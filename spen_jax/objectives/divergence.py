"""Contrastive divergence: the truth against samples of the model itself, by Markov chains."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax import losses
from spen_jax.arguments import handing, once
from spen_jax.checks import as_floats, check_whole, checked_shape
from spen_jax.domains import Box, Domain
from spen_jax.objectives.batch import check_least, check_predictor, checking, field, given, read
from spen_jax.predictor import Predictor
from spen_jax.sampling import Sampler, sample
from spen_jax.types import Objective


class Replay(NamedTuple):
    """N examples and where their Markov chains stand: x (N, D), y (N, ...), chains (N, C, ...), and what counts.

    The data of `contrastive_divergence(..., persistent=True)`, made by `replay`; mask is booleans with leading axes of
    y, or None where all counts. `training.fit` writes new `chains` into it.
    """

    x: Any
    y: Any
    chains: Any
    mask: Any = None


def replay(data: Any, key: jax.Array, *, chains: int = 1, domain: Domain = Box()) -> Replay:
    """The data of persistent contrastive divergence: C chains for each example, at random corners of the domain.

    On a domain without corners at random points. `data` has fields x (N, D) and y (N, ...), and maybe a mask or
    length, such as `data.Split`; `key` draws the points, C = `chains`. Returns a `Replay`, whose chains are
    (N, C, ...). ValueError for fewer than 1 chain, and as `read` raises.
    """
    check_whole("chains", chains, 1)
    mask = read(data).mask
    y = field(data, "y")
    n, *shape = np.shape(y)
    points = domain.round(domain.random(key, (n, chains, *shape)))
    return Replay(field(data, "x"), y, points, mask)


@once
def contrastive_divergence(
    predictor: Predictor,
    *,
    sampler: Sampler,
    steps: int = 10,
    chains: int = 1,
    start: Callable[..., jax.Array] | None = None,
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
    the data keeps a record: a batch has another field `chains` (B, chains, ...), made by `replay`, and the metrics
    return its new values, which `training.fit` writes back into the data. y is one array (B, ...); see `read`.

    Args:
      predictor: its energy, features and domain.
      sampler: the Markov chain: `GibbsWithGradients()` for binary y, `Langevin(...)` for continuous.
      steps: of each chain, in each step of training.
      chains: how many for each example.
      start: where chains begin, a function of the context that returns (B, chains, ...), handed `key` where it has such
        a parameter; None is at the truth.
      persistent: whether the chains go on from `batch.chains`.
      restart: the probability with which a persistent chain begins anew instead.
      magnitude: the weight of the squared energies.

    Metrics: loss; gap, the mean of E- less that of E+; acceptance, the samplers' mean; divergent, the share of their
    steps at which something was not a number (`sampling.Info`); with `persistent`, chains, the points that they have
    reached.

    Raises ValueError for fewer than 1 step or chain, a restart outside [0, 1] and a negative magnitude; in training
    for a start or `chains` of another shape, and for a persistent batch without `chains`.
    """
    check_predictor(predictor)
    check_whole("steps", steps, 1)
    check_whole("chains", chains, 1)
    if not 0 <= restart <= 1:
        raise ValueError(f"restart is a probability, between 0 and 1, got {restart}")
    check_least("magnitude", magnitude)

    def objective(params, batch, key):
        feature_key, start_key, restart_key, chain_key = jax.random.split(key, 4)
        seen = given(predictor, params, batch, feature_key)
        shape = (len(seen.truth), chains, *seen.truth.shape[1:])
        if start is None:
            begin = jnp.broadcast_to(seen.truth[:, None], shape)
        else:
            begin = checked_shape("start", handing(start, key=start_key)(seen.context), shape)
        record = field(batch, "chains")
        if persistent:
            begin = _some_anew(begin, record, restart, restart_key)
        samples = sample(
            seen.energy,
            params,
            seen.inputs,
            begin,
            chain_key,
            domain=predictor.domain,
            sampler=sampler,
            steps=steps,
            thin=steps,
        )
        correct, sampled = seen.each(seen.truth), seen.several(samples.state)
        value = jnp.mean(losses.nll_by_samples(correct, sampled))
        metrics = {
            "gap": -value,
            "acceptance": jnp.mean(samples.info.acceptance),
            "divergent": jnp.mean(samples.info.divergent),
        }
        if magnitude:
            value += magnitude * (jnp.mean(correct**2) + jnp.mean(sampled**2))
        if persistent:
            metrics["chains"] = samples.state.astype(jnp.result_type(record))
        return value, {"loss": value, **metrics}

    return checking(objective, predictor.domain)


def _some_anew(begin, record, restart, key):
    """The chains where they stand on record, but for a share that begins anew."""
    if record is None:
        raise ValueError(
            "persistent=True needs a batch with a field chains, where the chains stand; make the data with "
            "objectives.replay"
        )
    going = checked_shape("the batch's chains", as_floats(record), begin.shape)
    anew = jax.random.bernoulli(key, restart, begin.shape[:2])
    return jnp.where(jnp.expand_dims(anew, tuple(range(2, begin.ndim))), begin, going)
