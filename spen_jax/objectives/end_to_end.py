"""The loss of the task itself, through the steps of inference or at its minimiser, or of a network alone."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax import losses
from spen_jax.arguments import handing, once
from spen_jax.domains import Box, Domain
from spen_jax.inference import Solution, Unrolled, minimize
from spen_jax.objectives.batch import (
    check_predictor,
    check_share,
    checking,
    given,
    hint,
    read,
    size_of,
    weighted_mean,
)
from spen_jax.predictor import Predictor
from spen_jax.types import Cost, Features, Objective


@once
def feed_forward(
    logits: Features, *, loss: Cost | None = None, domain: Domain = Box()
) -> Objective:
    """Mean over the batch of loss(link(logits(x)), truth): a feature network alone, with no energy.

    By the field `weight` (B,) of a batch, where it has one, examples count more or less in the mean.

    Args:
      logits: `(params, x) -> scores` (B, ...) of the truth's shape, such as `logits_of` makes; handed `key` and `mask`
        where it has parameters of those names.
      loss: (y, truth) -> scalar of one example; None is the domain's: the cross-entropy on a Box or Simplex.
      domain: where y lives, whose link makes a point of the scores.

    Metrics: loss. Raises ValueError for a batch that `read` refuses; in `training.fit` for y outside the domain.
    """
    judge = losses.counted(loss or domain.loss)

    def objective(params, batch, key):
        x, truth, mask, weight = read(batch, weighted=True)
        y = domain.link(handing(logits, key=key, mask=mask)(params, x))
        counts = None if mask is None else jax.tree.broadcast(mask, truth)
        value = weighted_mean(jax.vmap(judge)(y, truth, counts), weight)
        return value, {"loss": value}

    return checking(objective, domain)


def increasing(steps: int) -> list[float]:
    """w_t proportional to 1 / (T - t + 1) for t = 1, ..., T = `steps`, and w_0 = 0: T + 1 `weights` of sum 1.

    The start has no say in its own loss, and the later a point, the more it counts: inference learns to be right soon.
    Source: Belanger, Yang & McCallum (2017). ValueError for fewer than 1 step.
    """
    if steps < 1:
        raise ValueError(f"weights that increase need steps of 1 or more, got {steps}")
    each = [0.0] + [1 / (steps - t + 1) for t in range(1, steps + 1)]
    return [w / sum(each) for w in each]


@once
def end_to_end(
    predictor: Predictor,
    *,
    loss: Cost | None = None,
    weights: Sequence[float] | None = None,
    convergence: float = 0.0,
    known: float = 0.0,
    known_on: bool = False,
) -> Objective:
    """Mean over the batch of sum_t w_t loss(y_t, truth) + convergence ||y_T - y_(T-1)||^2, through inference's steps.

    y_0 is the start and y_T the last point. `weights` are the T + 1 numbers w_0, ..., w_T; by default only
    the last point counts. Source: Belanger, Yang & McCallum (2017), who also want inference to converge
    quickly; that a long last step costs something is our reading of it.

    With a predictor of `differentiate="implicit"` it is loss(y, truth) at the minimiser y, however inference got there;
    give it the steps to get there, and `stop_early`. Where it has not, or its linear solve fails, the gradient is wrong
    or NaN: watch `converged`. Source: Blondel et al. (2022).

    A batch has x and y (B, ...), see `read`; by its field `weight` (B,), where it has one, examples count more or less
    in the mean.

    Args:
      predictor: how y is found, "unrolled" unless it says otherwise; `weights` and `convergence` need unrolled
        steps. Projected gradient descent stands still, as does cross-entropy, where it has put a label at 0 or 1;
        mirror descent stays inside. Settings that are functions of the parameters are learned.
      loss: the task loss (y, truth) -> scalar of one example; None is the domain's, such as cross-entropy.
      weights: w_0, ..., w_T, such as `increasing(steps)`, or None.
      convergence: weight of the last step's squared length, at least 0.
      known: the largest share of the truth that inference is told, in [0, 1]; the loss counts the rest.
      known_on: whether it is told only what is not 0, such as labels that are on: for prediction that is told no more.

    Metrics: loss; last, the loss of the last point alone. Of implicit derivatives, which are wrong where there
    is no minimum, also residual, inference's mean, and converged, the share of examples within the tolerance.

    Raises ValueError for options that do not go together, such as "stopped" inference or other than T + 1 weights; in
    training for a batch that `read` refuses, in `training.fit` for y outside the domain.
    """
    check_predictor(predictor, unrolled=True)
    check_share(known)
    mode = predictor.differentiate or "unrolled"
    weights = None if weights is None else tuple(weights)  # a list may change under our hands
    unrolled = mode == "unrolled" or isinstance(mode, Unrolled)
    _check_steps(predictor, mode, unrolled, weights, convergence)
    judge = losses.counted(loss or predictor.domain.loss)
    trace = "y" if weights is not None or convergence else ()

    def objective(params, batch, key):
        feature_key, start_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key, weighted=True)
        held, counts = hint(predictor.domain, seen, known, key, on_only=known_on)
        # The energy as prediction has it: parts that do not count may be unknown labels, which it has to find too.
        solution = minimize(
            predictor.energy,
            params,
            seen.context,
            predictor.points(seen.context, seen.truth, key=start_key),
            known=held,
            **predictor.options(params, differentiate=mode, trace=trace),
        )
        shown = predictor.domain.shown
        of_last = jax.vmap(judge)(shown(solution.y), seen.truth, counts)
        last = value = weighted_mean(of_last, seen.weight)
        if weights is not None:
            of_path = jax.vmap(judge, (0, None, None))
            each = jax.vmap(of_path)(shown(solution.trace["y"]), seen.truth, counts)  # (B, T + 1)
            value = weighted_mean(each @ jnp.asarray(weights), seen.weight)
        if convergence:
            value += convergence * _last_step(solution)
        metrics = {"loss": value, "last": last}
        if not unrolled:
            metrics["residual"] = jnp.mean(solution.residual)
            metrics["converged"] = jnp.mean(solution.converged)
        return value, metrics

    return checking(objective, predictor.domain)


def _last_step(solution: Solution) -> jax.Array:
    """The mean of ||y_T - y_(T-1)||^2."""
    squares = jax.tree.map(
        lambda y, path: jnp.sum((y - path[:, -2]) ** 2), solution.y, solution.trace["y"]
    )
    return jax.tree.reduce(jnp.add, squares) / size_of(solution.y)


def _check_steps(
    predictor: Predictor,
    mode: Any,
    unrolled: bool,
    weights: Sequence[float] | None,
    convergence: float,
) -> None:
    if weights is not None and len(weights) != predictor.steps + 1:
        raise ValueError(
            f"weights needs steps + 1 = {predictor.steps + 1} numbers, one for the start and one after each step, "
            f"got {len(weights)}"
        )
    if convergence < 0 or convergence and predictor.steps < 1:
        raise ValueError(
            f"convergence must be 0 or more and needs a step, got {convergence} with steps={predictor.steps}"
        )
    if (weights is not None or convergence) and not unrolled:
        raise ValueError(f"weights and convergence need the points of unrolled steps, got {mode!r}")
    if mode == "stopped":
        raise ValueError(
            'end_to_end needs "unrolled" or "implicit" steps: "stopped" has no gradient'
        )
    if predictor.stop_early and unrolled:
        raise ValueError('stop_early needs differentiate="implicit": unrolled steps run in full')
