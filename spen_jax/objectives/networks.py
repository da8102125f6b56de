"""Inference networks: a network that answers at once, trained against an energy, or by it.

Two players share one tree of parameters, {"energy": theta, "answer": phi}. The energy is the predictor's, its
features too: `energy(theta, context, y)` and `features(theta, x)`. `answer(phi, x) -> scores` (B, ...) is a
feed-forward network, such as `logits_of` makes, handed `key` and `mask` where it has parameters of those names; its
answer is y_hat = link(scores), by the predictor's domain: sigmoid, softmax. After training the prediction is y_hat,
or what inference makes of it.

Each objective is the sum of a loss of the energy, for which y_hat is constant, and one of the answer, for which
theta is: its gradient gives each player its own. Its value means nothing; the metrics have both.
`params` of another form raise ValueError.
"""

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from spen_jax import losses
from spen_jax.arguments import handing, once
from spen_jax.checks import check_whole
from spen_jax.domains import Box, Domain, Simplex
from spen_jax.objectives.batch import (
    Given,
    check_least,
    check_predictor,
    checking,
    given,
    of_each,
    read,
)
from spen_jax.objectives.margin import Variant, check_variant, compared, offending
from spen_jax.objectives.noise import IndependentBernoulli, IndependentCategorical, levels, ranked
from spen_jax.predictor import Predictor
from spen_jax.types import Cost, Features, Objective

PLAYERS = {"energy": "energy", "answer": "answer"}
"""Labels of the two players' parameters: `optax.partition({"energy": ..., "answer": ...}, PLAYERS)`."""


@once
def inference_network(
    predictor: Predictor,
    *,
    answer: Features,
    cost: Cost = losses.squared_error,
    variant: Variant = "margin",
    augmented: bool = True,
    cross_entropy: float = 1.0,
) -> Objective:
    """min over theta, max over phi of [D(y_hat, y) - E(x, y_hat) + E(x, y)]_+, y_hat = link(answer(phi, x)).

    That is the margin-rescaled variant; `objectives.margin_loss` has the equations of all four. The energy minimises
    the mean of this loss. The answer minimises the mean of what the most offending one does, such as E - D (see
    `objectives.offending`; not cut off at 0, so that it learns on where the margin is kept), plus
    `cross_entropy` times the domain's loss of y_hat against the truth, which keeps it near the data while the
    energy knows nothing. Sources: Tu & Gimpel (2018); without the cut-off Tu, Pang & Gimpel (2020).

    Args:
      predictor: its energy, features and domain.
      answer: `(phi, x) -> scores` (B, ...) of the truth's shape, such as `logits_of` makes; handed `key` and `mask`
        where it has parameters of those names. y_hat is the domain's link of them: sigmoid, softmax.
      cost: D(y, truth) of one example.
      variant: which loss.
      augmented: whether the answer sees the cost; else it minimises E. After training with it, the answers
        are the offending ones; train the network on with the energy held fixed and variant "perceptron".
      cross_entropy: the weight of the domain's loss, 0 or more; summed over the parts, as costs are.

    `params` are {"energy": theta, "answer": phi}; the value, the sum of both players' losses, means nothing, and its
    gradient is to each player that of its own. A batch has x and y (B, ...), see `read`.

    Metrics: loss, the energy's; answer, the answer's; cost, the mean D(y_hat, y); gap, the mean of
    E(x, y_hat) - E(x, y); violated, the share of examples with a positive loss.

    Raises ValueError for another variant or a negative weight; in training for `params` or scores of another form.
    """
    check_predictor(predictor)
    check_variant(variant)
    check_least("cross_entropy", cross_entropy)
    judge, domain = losses.counted(cost), predictor.domain
    apart = losses.counted(domain.loss_of_scores)
    goal = variant if augmented else "perceptron"

    def objective(params, batch, key):
        seen, scores, _ = _both(predictor, answer, params, batch, key)
        y_hat = domain.link(scores)
        loss, metrics = _energy_player(variant, judge, seen, stop_gradient(y_hat))
        fixed = (seen if goal in ("margin", "slack") else _whole(predictor, seen)).held()
        searched = offending(goal, fixed.energy, judge)
        offence = of_each(searched, fixed.params, (fixed.inputs, seen.truth, seen.mask), y_hat)
        # From the scores: `domain.loss` has no slope where an answer is certain and wrong.
        data = jax.vmap(apart)(scores, seen.truth, seen.mask)
        answers = jnp.mean(offence + cross_entropy * data)
        return loss + answers, {"loss": loss, "answer": answers, **metrics}

    return checking(objective, domain)


@once
def energy_as_loss(
    predictor: Predictor,
    *,
    answer: Features,
    loss: Cost | None = None,
    weight: float = 1.0,
    learn: Literal["margin", "ranking_nce"] | None = None,
    cost: Cost = losses.squared_error,
    samples: int = 20,
) -> Objective:
    """Mean over the batch of loss(y_hat, truth) + weight E(x, y_hat), y_hat = link(answer(phi, x)): SEAL.

    The network is the model, the energy a part of its loss that knows how parts of y go together. `learn` says what
    the energy itself minimises meanwhile:

    - None: nothing, it is a trained one and its gradient is 0 (SEAL-static);
    - "margin": mean [D(y_hat, y) - E(x, y_hat) + E(x, y)]_+, as in `inference_network`;
    - "ranking_nce": mean -log softmax_0 of s_k = -E(x, y_k) - log q(y_k), y_0 the truth and y_1, ..., y_K drawn from
      the network's answer, independent labels q = Bernoulli(y_hat) on Box(0, 1), independent parts
      q = Categorical(y_hat) on a Simplex. It less log(K + 1) tends, as K grows, to -log P(truth | x) + log q(truth), P
      the Gibbs distribution: for the energy, maximum likelihood.

    The last two are SEAL-dynamic. Source: Lee et al. (2022).

    Args:
      predictor: its energy, features and domain.
      answer: `(phi, x) -> scores` (B, ...) of the truth's shape, as for `inference_network`.
      loss: the task loss (y_hat, truth) -> scalar of one example; None is the domain's, of the scores.
      weight: of the energy, 0 or more.
      learn: None, "margin" or "ranking_nce".
      cost: D(y, truth) of one example, for "margin" only.
      samples: K, for "ranking_nce" only.

    `params` are {"energy": theta, "answer": phi}. A batch has x and y (B, ...), see `read`.

    Metrics: loss, the answer's; task, the task loss alone; energy, the mean E(x, y_hat); with `learn` learned, the
    energy's own loss.

    Raises ValueError for another name, a domain without such a q, a negative weight or no samples; in training for
    `params` or scores of another form.
    """
    check_predictor(predictor)
    check_least("weight", weight)
    check_whole("samples", samples, 1)
    if learn not in (None, "margin", "ranking_nce"):
        raise ValueError(f"learn must be None, 'margin' or 'ranking_nce', got {learn!r}")
    domain, judge = predictor.domain, losses.counted(cost)
    independent = _independent(domain) if learn == "ranking_nce" else None
    task_of = losses.counted(loss or domain.loss_of_scores)

    def objective(params, batch, key):
        seen, scores, key = _both(predictor, answer, params, batch, key)
        y_hat = domain.link(scores)
        task = jax.vmap(task_of)(y_hat if loss else scores, seen.truth, seen.mask)
        task, energy = jnp.mean(task), jnp.mean(_whole(predictor, seen).held().each(y_hat))
        value = task + weight * energy
        metrics = {"loss": value, "task": task, "energy": energy}
        if learn is None:
            return value, metrics
        if independent:
            noise = independent(lambda _: stop_gradient(scores))
            learned = ranked(levels(noise, seen, key, samples))
        else:
            learned, _ = _energy_player("margin", judge, seen, stop_gradient(y_hat))
        return value + learned, metrics | {"learned": learned}

    return checking(objective, domain)


@lru_cache(maxsize=64)
def alternating(
    energy_optimizer: optax.GradientTransformation,
    answer_optimizer: optax.GradientTransformation,
    answer_steps: int = 1,
) -> optax.GradientTransformation:
    """One step of the energy, then `answer_steps` of the answer, and again.

    The parameters are {"energy": theta, "answer": phi}, each with an Optax optimiser of its own, `energy_optimizer` and
    `answer_optimizer`. While a player is idle neither its parameters nor the state of its optimiser change, so that a
    schedule counts its own steps; its gradient is still computed. Equal arguments give the same transformation, so that
    nothing compiles twice. Raises ValueError for fewer than one step.
    """
    check_whole("answer_steps", answer_steps, 1)

    def energys_turn(step: Any, **_: Any) -> Any:
        return step % (answer_steps + 1) == 0

    def answers_turn(step: Any, **_: Any) -> Any:
        return ~energys_turn(step)

    return optax.partition(
        {
            "energy": optax.conditionally_mask(energy_optimizer, energys_turn),
            "answer": optax.conditionally_mask(answer_optimizer, answers_turn),
        },
        PLAYERS,
    )


class _Both(NamedTuple):
    """What both players make of a batch, and a key not used yet."""

    seen: Given
    scores: Any
    key: jax.Array


def _both(predictor, answer, params, batch, key):
    if not isinstance(params, dict) or set(params) != set(PLAYERS):
        got = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f'params must be {{"energy": theta, "answer": phi}}, those of both players, got {got}'
        )
    feature_key, answer_key, key = jax.random.split(key, 3)
    x, _, mask, _ = read(batch)
    seen = given(predictor, params["energy"], batch, feature_key)
    scores = handing(answer, key=answer_key, mask=mask)(params["answer"], x)
    shapes, wanted = (jax.tree.map(jnp.shape, tree) for tree in (scores, seen.truth))
    if shapes != wanted:
        raise ValueError(f"answer must return scores of the truth's shape {wanted}, got {shapes}")
    return _Both(seen, scores, key)


def _whole(predictor: Predictor, seen: Given) -> Given:
    """The same with an energy that sees all of y, as in prediction: what does not count may be unknown labels."""
    return seen._replace(energy=predictor.energy, mask=None)


def _energy_player(variant: Variant, judge: Cost, seen: Given, y: Any):
    """The energy's loss against the fixed answers y, and what max-margin training shows of it."""
    costs = jax.vmap(judge)(y, seen.truth, seen.mask)
    return compared(variant, seen.each(seen.truth), seen.each(y), costs)


def _independent(domain: Domain):
    """The distribution over the corners of a domain whose parts are independent."""
    if domain == Box(0, 1):
        return IndependentBernoulli
    if isinstance(domain, Simplex):
        return IndependentCategorical
    raise ValueError(
        'learn="ranking_nce" draws answers of independent parts, on Box(0, 1) or a Simplex, which it cannot on '
        f'{domain}; learn="margin" takes any domain'
    )
