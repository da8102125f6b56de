"""Deep value networks: an energy that says how good an answer is, rather than only which one is best.

The value of an answer is v(x, y) = sigmoid(-E(x, y)), in (0, 1). An oracle who knows the truth gives the answer
v*(y, truth) = 1 - oracle_error(y, truth), such as its soft F1; training makes v equal to v*. The energy is thus
the logit of the error, and the answer of the highest value is that of the lowest energy: the predictor's.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from spen_jax import losses
from spen_jax.arguments import once
from spen_jax.inference import minimize
from spen_jax.objectives.batch import check_predictor, checking, given
from spen_jax.predictor import Predictor
from spen_jax.types import Cost, Energy, Objective

Source = Literal["truth", "inference", "adversarial"]
"""Where `deep_value` takes the points from that it judges."""


def value_loss(energy: jax.Array, oracle: jax.Array) -> jax.Array:
    """-v* log v - (1 - v*) log(1 - v) with v = sigmoid(-E), in nats, of E and v*, both (...) -> (...).

    `energy` is E, `oracle` v*, what the oracle says, in [0, 1]. As softplus(-E) + v* E it is exact for any finite E,
    and its slope in E is v* - v. The minimum, at v = v*, is not 0 but the entropy of v*. Source: Gygli, Norouzi &
    Angelova (2017).
    """
    return jax.nn.softplus(-energy) + oracle * energy


@lru_cache(maxsize=256)
def adversarial(energy: Energy, oracle_error: Cost) -> Energy:
    """-value_loss(E(x, y), v*(y, truth)): its minimiser is the answer whose value is judged worst.

    v* = 1 - `oracle_error(y, truth)`, an error in [0, 1] of one example. An energy, like `energy` of one example and a
    scalar, whose context is (context, truth); what else stands in it after the truth, such as a mask, is handed to
    the oracle too. As the loss is no less than the entropy of v*, answers that are half right (v* = 1/2)
    attract it a little too. Equal arguments give the same function, so that nothing compiles twice.
    Source: Gygli, Norouzi & Angelova (2017).
    """

    def negative_loss(params, context, y):
        inner, *truth = context
        return -value_loss(energy(params, inner, y), 1 - oracle_error(y, *truth))

    return negative_loss


@once
def deep_value(
    predictor: Predictor,
    *,
    oracle_error: Cost = losses.soft_f1_error,
    sources: Sequence[Source] = ("truth", "inference", "adversarial"),
) -> Objective:
    """Mean over batch and sources of the cross-entropy of the value v(x, y) against the oracle's v*(y, truth).

    The points y, constants to the gradient, come from

    - "truth": the truth, v* = 1;
    - "inference": what E has as its minimiser, found as the predictor finds it;
    - "adversarial": what maximises the cross-entropy itself, found likewise, see `adversarial`.

    Every step takes the points of all `sources`, with equal weight; Gygli, Norouzi & Angelova (2017), whose method
    this is, mix them at random. Inference goes down E, not up v, whose slope vanishes where v is near 0 or 1.

    Args:
      predictor: how both searches go.
      oracle_error: (y, truth) -> an error in [0, 1] of one example, for "adversarial" differentiable in y:
        `losses.soft_f1_error`, `losses.soft_iou_error`, or Hamming's as `lambda y, t: losses.hamming(y, t) / len(t)`.
      sources: one or more of the three, each once.

    A batch has x and y (B, ...), see `read`. Metrics: loss; error, the mean of |v - v*|; with the source "truth" value,
    the mean of v(x, truth); with the source "inference" oracle, the mean v* of the inferred points, which is how well
    inference does in training.

    Raises ValueError for sources that are not known, repeated or none; in `training.fit` for y outside the domain.
    """
    check_predictor(predictor)
    sources = tuple(sources)
    if not sources or len({*sources}) < len(sources) or not {*sources} <= {*get_args(Source)}:
        names = ", ".join(map(repr, get_args(Source)))
        raise ValueError(f"sources must be one or more of {names}, each once, got {sources!r}")
    judge = losses.counted(oracle_error)

    def objective(params, batch, key):
        feature_key, start_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key)
        fixed = seen.held()
        start = predictor.points(fixed.context, seen.truth, key=start_key)
        options = predictor.options(fixed.params, differentiate="stopped", trace=())

        def points(source):
            if source == "truth":
                return jax.tree.map(lambda t, s: t.astype(s.dtype), seen.truth, start)
            searched, inputs = seen.energy, fixed.inputs
            if source == "adversarial":
                searched = adversarial(searched, judge)
                inputs = inputs, seen.truth, seen.mask
            return minimize(searched, fixed.params, inputs, start, **options).y

        y = jax.tree.map(lambda *a: jnp.stack(a), *map(points, sources))  # (S, B, ...)
        energies = jax.vmap(seen.each)(y)
        oracle = 1 - jax.vmap(jax.vmap(judge), (0, None, None))(y, seen.truth, seen.mask)  # (S, B)
        value = jax.nn.sigmoid(-energies)
        loss = jnp.mean(value_loss(energies, oracle))
        metrics = {"loss": loss, "error": jnp.mean(jnp.abs(value - oracle))}
        if "truth" in sources:
            metrics["value"] = jnp.mean(value[sources.index("truth")])
        if "inference" in sources:
            metrics["oracle"] = jnp.mean(oracle[sources.index("inference")])
        return loss, metrics

    return checking(objective, predictor.domain)
