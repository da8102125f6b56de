"""Inference networks: a network that answers at once, trained against an energy, or by it.

Two players share one tree of parameters, {"energy": theta, "predictor": phi}. The energy is that of the other
objectives, its features too: `energy(theta, context, y)` and `features(theta, x)`. The predictor is a feed-forward
network, `predict(phi, x) -> logits` (B, L), such as `logits_of` makes; its answer is y_hat = sigmoid(logits). After
training the prediction is y_hat, or what `minimize` makes of it.

Each objective is the sum of a loss of the energy, for which y_hat is constant, and one of the predictor, for which
theta is: its gradient gives each player its own. Its value means nothing; the metrics have both.
`params` of another form raise ValueError.
"""

from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from spen_jax import losses
from spen_jax.objectives import likelihood
from spen_jax.objectives.margin import (
    Variant,
    _with_key,
    margin_loss,
    offending,
)
from spen_jax.types import Cost, Energy, Features, Objective

PLAYERS = {"energy": "energy", "predictor": "predictor"}
"""Labels of the two players' parameters: `optax.partition({"energy": ..., "predictor": ...}, PLAYERS)`."""


def inference_network(
    energy: Energy,
    features: Features | None = None,
    *,
    predict: Features,
    cost: Cost = losses.squared_error,
    variant: Variant = "margin",
    augmented: bool = True,
    cross_entropy: float = 1.0,
) -> Objective:
    """min over theta, max over phi of [D(y_hat, y) - E(x, y_hat) + E(x, y)]_+, y_hat = sigmoid(predict(phi, x)).

    That is the margin-rescaled variant; `objectives.margin_loss` has the equations of all four. The energy minimises
    the mean of this loss. The predictor minimises the mean of what the most offending answer does, such as E - D (see
    `objectives.offending`; not cut off at 0, so that it learns on where the margin is kept), plus
    `cross_entropy` times the cross-entropy of y_hat against the truth, which keeps it near the data while the
    energy knows nothing. Sources: Tu & Gimpel (2018); without the cut-off Tu, Pang & Gimpel (2020).

    Args:
      energy: `(theta, context, y) -> scalar` for one example.
      features: `(theta, x) -> context` for a batch, see `objectives.max_margin`; None where the energy sees x itself.
      predict: `(phi, x) -> logits` (B, L), or with a key for dropout, given as to features.
      cost: D(y, truth) of one example.
      variant: which loss.
      augmented: whether the predictor sees the cost; else it minimises E. After training with it, the predictor's
        answers are the offending ones; train it on with the energy held fixed and variant "perceptron".
      cross_entropy: its weight, 0 or more; summed over the labels, as costs are.

    Metrics: loss, the energy's; predictor, the predictor's; cost, the mean D(y_hat, y); gap, the mean of
    E(x, y_hat) - E(x, y); violated, the share of examples with a positive loss.

    Raises ValueError for another variant or a negative weight.
    """
    _check_weight("cross_entropy", cross_entropy)
    features, predict = _with_key(features), _with_key(predict)
    searched = jax.vmap(
        offending(variant if augmented else "perceptron", energy, cost), (None, 0, 0)
    )

    def objective(params, batch, key):
        theta, context, logits, truth, _ = _both(features, predict, params, batch, key)
        y_hat = jax.nn.sigmoid(logits)
        loss, metrics = _energy_player(
            variant, energy, cost, theta, context, truth, stop_gradient(y_hat)
        )
        offence = searched(*stop_gradient((theta, (context, truth))), y_hat)
        # From logits: `losses.cross_entropy` has no slope where an answer is certain and wrong.
        apart = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, truth), axis=-1)
        predictor = jnp.mean(offence + cross_entropy * apart)
        return loss + predictor, {"loss": loss, "predictor": predictor, **metrics}

    return objective


def energy_as_loss(
    energy: Energy,
    features: Features | None = None,
    *,
    predict: Features,
    loss: Cost = losses.cross_entropy,
    weight: float = 1.0,
    learn: Literal["margin", "ranking"] | None = None,
    cost: Cost = losses.squared_error,
    samples: int = 20,
) -> Objective:
    """Mean over the batch of loss(y_hat, truth) + weight E(x, y_hat), y_hat = sigmoid(predict(phi, x)): SEAL.

    The predictor is the model, the energy a part of its loss that knows how labels go together. `learn` says what
    the energy itself minimises meanwhile:
    None: nothing, it is a trained one and its gradient is 0 (SEAL-static);
    "margin": mean [D(y_hat, y) - E(x, y_hat) + E(x, y)]_+, as in `inference_network`;
    "ranking": mean -log softmax_0 of s_k = -E(x, y_k) - log q(y_k), y_0 the truth and y_1, ..., y_K drawn from the
    predictor, independent labels q = Bernoulli(y_hat) (noise-contrastive ranking). It less log(K + 1) tends, as K
    grows, to -log P(truth | x) + log q(truth), P the Gibbs distribution: for the energy, maximum likelihood.
    The last two are SEAL-dynamic.
    Source: Lee et al. (2022).

    Args:
      energy: `(theta, context, y) -> scalar` for one example.
      features: `(theta, x) -> context` for a batch, see `objectives.max_margin`; None where the energy sees x itself.
      predict: `(phi, x) -> logits` (B, L), or with a key for dropout, given as to features.
      loss: the task loss (y_hat, truth) -> scalar of one example.
      weight: of the energy, 0 or more.
      learn: None, "margin" or "ranking".
      cost: D(y, truth) of one example, for "margin" only.
      samples: K, for "ranking" only.

    Metrics: loss, the predictor's; task, the task loss alone; energy, the mean E(x, y_hat); with `learn` learned, the
    energy's own loss.

    Raises ValueError for another name, a negative weight or no samples.
    """
    _check_weight("weight", weight)
    if learn not in (None, "margin", "ranking"):
        raise ValueError(f"learn must be None, 'margin' or 'ranking', got {learn!r}")
    if samples != int(samples) or samples < 1:
        raise ValueError(f"samples must be a whole number, 1 or more, got {samples}")
    features, predict = _with_key(features), _with_key(predict)
    energies = jax.vmap(energy, (None, 0, 0))

    def objective(params, batch, key):
        theta, context, logits, truth, key = _both(features, predict, params, batch, key)
        y_hat = jax.nn.sigmoid(logits)
        task = jnp.mean(jax.vmap(loss)(y_hat, truth))
        mean_energy = jnp.mean(energies(*stop_gradient((theta, context)), y_hat))
        value = task + weight * mean_energy
        metrics = {"loss": value, "task": task, "energy": mean_energy}
        if learn is None:
            return value, metrics
        if learn == "margin":
            learned, _ = _energy_player(
                "margin", energy, cost, theta, context, truth, stop_gradient(y_hat)
            )
        else:
            learned = _ranking(energy, theta, context, truth, stop_gradient(logits), samples, key)
        return value + learned, metrics | {"learned": learned}

    return objective


@lru_cache(maxsize=64)
def alternating(
    energy_optimizer: optax.GradientTransformation,
    predictor_optimizer: optax.GradientTransformation,
    predictor_steps: int = 1,
) -> optax.GradientTransformation:
    """One step of the energy, then `predictor_steps` of the predictor, and again.

    While a player is idle neither its parameters nor the state of its optimiser change, so that a schedule counts
    its own steps; its gradient is still computed. Equal arguments give the same transformation, so that
    nothing compiles twice. Raises ValueError for fewer than one step.
    """
    if predictor_steps != int(predictor_steps) or predictor_steps < 1:
        raise ValueError(
            f"predictor_steps must be a whole number, 1 or more, got {predictor_steps}"
        )

    def energys_turn(step: Any, **_: Any) -> Any:
        return step % (predictor_steps + 1) == 0

    def predictors_turn(step: Any, **_: Any) -> Any:
        return ~energys_turn(step)

    return optax.partition(
        {
            "energy": optax.conditionally_mask(energy_optimizer, energys_turn),
            "predictor": optax.conditionally_mask(predictor_optimizer, predictors_turn),
        },
        PLAYERS,
    )


def _both(features, predict, params, batch, key):
    """(theta, context, logits, truth, a key not used yet)."""
    if not isinstance(params, dict) or set(params) != set(PLAYERS):
        got = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f'params must be {{"energy": theta, "predictor": phi}}, those of both players, got {got}'
        )
    feature_key, predict_key, key = jax.random.split(key, 3)
    context = features(params["energy"], batch.x, feature_key)
    logits = predict(params["predictor"], batch.x, predict_key)
    truth = jnp.asarray(batch.y, logits.dtype)
    if logits.shape != truth.shape:
        raise ValueError(
            f"predict must return logits of the truth's shape {truth.shape}, got {logits.shape}"
        )
    return params["energy"], context, logits, truth, key


def _energy_player(
    variant: Variant, energy: Energy, cost: Cost, theta: Any, context: Any, truth: Any, y: jax.Array
):
    """The energy's loss against the fixed answers y, and what max-margin training shows of it."""
    energies = jax.vmap(energy, (None, 0, 0))
    correct, wrong = energies(theta, context, truth), energies(theta, context, y)
    costs = jax.vmap(cost)(y, truth)
    each = margin_loss(variant, correct, wrong, costs)
    return jnp.mean(each), {
        "cost": jnp.mean(costs),
        "gap": jnp.mean(wrong - correct),
        "violated": jnp.mean(each > 0),
    }


def _ranking(energy, theta, context, truth, logits, samples, key):
    noise = likelihood.IndependentBernoulli(lambda _: logits)
    levels = likelihood.levels(noise, energy, theta, context, truth, key, samples)
    return jnp.mean(losses.info_nce(levels[:, 0], levels[:, 1:]))


def _check_weight(name, weight):
    if not weight >= 0:
        raise ValueError(f"{name} must be 0 or more, got {weight}")
