"""Deep value networks: an energy that says how good an answer is, rather than only which one is best.

The value of an answer is v(x, y) = sigmoid(-E(x, y)), in (0, 1). An oracle who knows the truth gives the answer
v*(y, truth) = 1 - oracle_error(y, truth), such as its soft F1; training makes v equal to v*. The energy is thus
the logit of the error, and the answer of the highest value is that of the lowest energy: `minimize` predicts.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from spen_jax import losses
from spen_jax.domains import Box, Domain
from spen_jax.inference import minimize
from spen_jax.inference.solvers import GradientDescent, Solver
from spen_jax.objectives.margin import Start, _start, _with_key
from spen_jax.types import Cost, Energy, Features, Objective

Source = Literal["truth", "inference", "adversarial"]


def value_loss(energy: jax.Array, oracle: jax.Array) -> jax.Array:
    """-v* log v - (1 - v*) log(1 - v) with v = sigmoid(-E), in nats, of E and v*, both (...) -> (...).

    As softplus(-E) + v* E it is exact for any finite E, and its slope in E is v* - v. The minimum, at v = v*, is not
    0 but the entropy of v*. Source: Gygli, Norouzi & Angelova (2017).
    """
    return jax.nn.softplus(-energy) + oracle * energy


@lru_cache(maxsize=256)
def adversarial(energy: Energy, oracle_error: Cost) -> Energy:
    """-value_loss(E(x, y), v*(y, truth)): its minimiser is the answer whose value is judged worst.

    An energy whose context is (context, truth). As the loss is no less than the entropy of v*, answers that are
    half right (v* = 1/2) attract it a little too. Equal arguments give the same function, so that nothing
    compiles twice.
    """

    def negative_loss(params, context, y):
        inner, truth = context
        return -value_loss(energy(params, inner, y), 1 - oracle_error(y, truth))

    return negative_loss


def deep_value(
    energy: Energy,
    features: Features | None = None,
    *,
    oracle_error: Cost = losses.soft_f1_error,
    sources: Sequence[Source] = ("truth", "inference", "adversarial"),
    start: Start = 0.5,
    domain: Domain = Box(),
    solver: Solver = GradientDescent(),
    steps: int = 30,
) -> Objective:
    """Mean over batch and sources of the cross-entropy of the value v(x, y) against the oracle's v*(y, truth).

    The points y, constants to the gradient, come from
    "truth": the truth, v* = 1;
    "inference": what E has as its minimiser, found by `minimize`;
    "adversarial": what maximises the cross-entropy itself, found likewise, see `adversarial`.
    Every step takes the points of all `sources`, with equal weight; Gygli, Norouzi & Angelova (2017), whose method
    this is, mix them at random. Inference goes down E, not up v, whose slope vanishes where v is near 0 or 1.

    Args:
      energy: `(params, context, y) -> scalar` for one example.
      features: `(params, x) -> context` for a batch, see `objectives.max_margin`; None where the energy sees x itself.
      oracle_error: (y, truth) -> an error in [0, 1] of one example, for "adversarial" differentiable in y:
        `losses.soft_f1_error`, `losses.soft_iou_error`, or Hamming's as `lambda y, t: losses.hamming(y, t) / len(t)`.
      sources: one or more of the three, each once.
      start: where both searches start: a constant, or a function `(context, key) -> points (B, L)`.
      domain: where y lives.
      solver: the algorithm of both searches.
      steps: its steps.

    Metrics: loss; error, the mean of |v - v*|; with the source "truth" value, the mean of v(x, truth); with the source
    "inference" oracle, the mean v* of the inferred points, which is how well inference does in training.

    Raises ValueError for sources that are not known, repeated or none.
    """
    sources = tuple(sources)
    if not sources or len({*sources}) < len(sources) or not {*sources} <= {*get_args(Source)}:
        names = ", ".join(map(repr, get_args(Source)))
        raise ValueError(f"sources must be one or more of {names}, each once, got {sources!r}")
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, start_key = jax.random.split(key)
        context = features(params, batch.x, feature_key)
        truth = jnp.asarray(batch.y)
        first = _start(start, context, truth, start_key)

        def points(source):
            if source == "truth":
                return truth.astype(first.dtype)
            other = source == "adversarial"
            searched = adversarial(energy, oracle_error) if other else energy
            known = (context, truth) if other else context
            options = {"domain": domain, "solver": solver, "steps": steps}
            return minimize(searched, params, known, first, **options).y

        y = jnp.stack([points(source) for source in sources])  # (S, B, L)
        energies = jax.vmap(jax.vmap(energy, (None, 0, 0)), (None, None, 0))(params, context, y)
        oracle = 1 - jax.vmap(jax.vmap(oracle_error), (0, None))(y, truth)  # (S, B)
        value = jax.nn.sigmoid(-energies)
        loss = jnp.mean(value_loss(energies, oracle))
        metrics = {"loss": loss, "error": jnp.mean(jnp.abs(value - oracle))}
        if "truth" in sources:
            metrics["value"] = jnp.mean(value[sources.index("truth")])
        if "inference" in sources:
            metrics["oracle"] = jnp.mean(oracle[sources.index("inference")])
        return loss, metrics

    return objective
