"""The structured hinge loss: the truth's energy is to lie below that of the most offending answer, by a margin."""

from functools import lru_cache
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from spen_jax import losses
from spen_jax.arguments import once
from spen_jax.domains import counting
from spen_jax.exact import with_structure
from spen_jax.inference import Exact, minimize
from spen_jax.objectives.batch import check_predictor, check_share, checking, given, hint
from spen_jax.predictor import Predictor
from spen_jax.types import Cost, Energy, Objective

Variant = Literal["margin", "slack", "perceptron", "contrastive"]
"""The name of a structured hinge loss; `margin_loss` has the equation of each."""


def margin_loss(
    variant: Variant, correct: jax.Array, wrong: jax.Array, costs: jax.Array
) -> jax.Array:
    """The loss of E(x, y) = `correct`, E(x, y_hat) = `wrong` and D(y_hat, y) = `costs`, all (...) -> (...).

    - "margin": [D - E(y_hat) + E(y)]_+, margin rescaling (Taskar et al. 2003; Tsochantaridis et al. 2004).
    - "slack": D [1 - E(y_hat) + E(y)]_+, slack rescaling (Tsochantaridis et al. 2004).
    - "perceptron": [E(y) - E(y_hat)]_+ (LeCun et al. 1998; Collins 2002).
    - "contrastive": [1 - E(y_hat) + E(y)]_+, a hinge of one margin for all answers.

    `variant` is one of these names, ValueError for another. The same table stands in Tu & Gimpel (2018). `wrong` is the
    energy itself, not what `offending` minimises; [a]_+ is max(0, a), and every loss is 0 or more where D is.
    """
    check_variant(variant)
    margins: dict[Variant, Any] = {"margin": costs, "perceptron": 0.0}
    each = losses.hinge(correct, wrong, margins.get(variant, 1.0))
    return costs * each if variant == "slack" else each


def compared(
    variant: Variant, correct: jax.Array, wrong: jax.Array, costs: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean of `margin_loss` over a batch (B,), and metrics: cost and gap, means, and violated, a share."""
    each = margin_loss(variant, correct, wrong, costs)
    return jnp.mean(each), {
        "cost": jnp.mean(costs),
        "gap": jnp.mean(wrong - correct),
        "violated": jnp.mean(each > 0),
    }


@lru_cache(maxsize=256)
def loss_augmented(energy: Energy, cost: Cost) -> Energy:
    """E(x, y) - D(y, truth): what loss-augmented inference minimises, an energy whose context is (context, truth).

    `energy` is `(params, context, y) -> scalar` of one example, as is what is returned. Its minimiser is the most
    offending answer, low in energy and far from the truth. `cost(y, truth)` gives D for one example; what else stands
    in the context after the truth, such as a mask, is handed to it too. Equal arguments give the same function, so that
    nothing compiles twice. Source: Tsochantaridis et al. (2004), margin rescaling; Belanger & McCallum (2016).
    """

    def augmented(params, context, y):
        inner, *truth = context
        return energy(params, inner, y) - cost(y, *truth)

    def structure(inside, params, context):
        inner, truth, *counts = context
        # D of the corners is sum_i t_i + (1 - 2 t_i) y_i; the first term is the same for all answers.
        slope = 2 * truth - 1
        return inside(params, inner).plus(counting(counts[0], slope) if counts else slope)

    return with_structure(augmented, energy, structure)


@lru_cache(maxsize=256)
def offending(variant: Variant, energy: Energy, cost: Cost) -> Energy:
    """What the most offending answer minimises, an energy whose context is (context, truth); see `margin_loss`.

    - "margin": E - D, `loss_augmented`.
    - "slack": -D m where m = 1 + E(truth) - E > 0, and -m elsewhere. Its minimum is -max_y D [m]_+ exactly, since the
      truth has m = 1 and D = 0. Where m < 0, -D [m]_+ would be flat and -D m would reward a small D; there inference
      goes down the energy until the margin is violated. It is D times as steep as E: take shorter steps. Where D is
      flat at the truth, as `squared_error` is, inference that steps onto the truth stays there: take `hamming`.
    - "perceptron", "contrastive": E; the cost plays no part.

    `energy` and the cost D(y, truth) are of one example, as is what is returned. Equal arguments give the same
    function, so that nothing compiles twice. ValueError for another variant. Sources: those of `margin_loss`.
    """
    check_variant(variant)
    if variant == "margin":
        return loss_augmented(energy, cost)

    def slack(params, context, y):
        inner, truth, *counts = context
        violation = 1 + energy(params, inner, truth) - energy(params, inner, y)
        return -jnp.where(violation > 0, cost(y, truth, *counts), 1) * violation

    def plain(params, context, y):
        return energy(params, context[0], y)

    def structure(inside, params, context):
        return inside(params, context[0])

    return slack if variant == "slack" else with_structure(plain, energy, structure)


@once
def max_margin(
    predictor: Predictor,
    *,
    cost: Cost = losses.squared_error,
    variant: Variant = "margin",
    augmented: bool = True,
    known: float = 0.0,
) -> Objective:
    """mean over the batch of max(0, D(y_hat, y) - E(x, y_hat) + E(x, y)), the structured hinge loss.

    That is the margin-rescaled one; `margin_loss` has the equations of all four variants.
    y_hat minimises E - D (`augmented`, the literature's; its maximal violation makes the loss an upper bound
    on the cost) or E alone (as widely used code has it; its cost then counts as a constant where
    inference is stopped). Sources: Belanger & McCallum (2016); of the variants Tu & Gimpel (2018).

    Args:
      predictor: how y_hat is found, with "stopped" inference unless it says otherwise. Where it has a temperature the
        energy of y_hat is E - temperature H, and the entropy H of the truth counts as 0.
      cost: D(y, truth) of one example.
      variant: which loss.
      augmented: whether y_hat maximises the variant's violation, see `offending`, or minimises E. For "perceptron" and
        "contrastive" that is the same, and the cost only a metric.
      known: the largest share of the truth that inference is told, in [0, 1]; the cost counts the rest.

    A batch has x and y (B, ...), see `read`. Metrics: loss; cost, the mean D(y_hat, y); gap, the mean of
    E(x, y_hat) - E(x, y); violated, the share of examples with a positive loss; residual, inference's mean.

    Raises ValueError for another variant, a share outside [0, 1], slack rescaling with a temperature, and with `Exact`
    for a finite beta, slack, or a cost that is no sum over the parts of y; in `training.fit` for y outside the domain.
    """
    check_predictor(predictor)
    check_variant(variant)
    check_share(known)
    if variant == "slack" and predictor.temperature is not None:
        raise ValueError(
            "slack rescaling multiplies the energy, and an entropy beside it would lose its weight: leave the "
            "temperature out and put the entropy into the energy"
        )
    _check_exact(predictor, cost, variant)
    judge = losses.counted(cost)
    mode = predictor.differentiate or "stopped"

    def objective(params, batch, key):
        feature_key, start_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key)
        held, counts = hint(predictor.domain, seen, known, key)
        searched, inputs = seen.energy, seen.inputs
        if augmented:
            searched = offending(variant, seen.energy, judge)
            inputs = inputs, seen.truth, counts
        solution = minimize(
            searched,
            params,
            inputs,
            predictor.points(seen.context, seen.truth, key=start_key),
            known=held,
            **predictor.options(params, differentiate=mode, trace=()),
        )
        costs = jax.vmap(judge)(solution.y, seen.truth, counts)
        # The energy that inference reports is known already, but for what the variant has done to it.
        wrong = solution.energy
        if augmented and variant == "margin":
            wrong = wrong + costs
        elif augmented and variant == "slack":
            wrong = seen.each(solution.y)
        value, metrics = compared(variant, seen.each(seen.truth), wrong, costs)
        return value, {"loss": value, **metrics, "residual": jnp.mean(solution.residual)}

    return checking(objective, predictor.domain)


def _check_exact(predictor, cost, variant):
    if not isinstance(predictor.solver, Exact):
        return
    if not predictor.solver.is_best or variant == "slack":
        raise ValueError(
            "max_margin takes exact answers at beta = infinity, Exact(), and no slack rescaling, whose most offending "
            f"answer is no structure's best; got {predictor.solver} and the variant {variant!r}"
        )
    if variant == "margin" and cost not in (losses.hamming, losses.squared_error):
        raise ValueError(
            "exact cost-augmented inference needs a cost that is a sum over the parts of y: losses.hamming, or "
            f"losses.squared_error, which is the same at corners; got {cost}"
        )


def check_variant(variant: str) -> None:
    """ValueError for a name that is not in the table of `margin_loss`."""
    if variant not in get_args(Variant):
        names = ", ".join(map(repr, get_args(Variant)))
        raise ValueError(f"variant must be one of {names}, got {variant!r}")
