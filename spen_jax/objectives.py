"""Objectives: what training minimises, `(params, batch, key) -> (scalar, metrics)`.

A batch has fields `x` (B, D) and `y` (B, L), the truth; the key draws dropout masks and random
starts.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax import losses
from spen_jax.domains import Box, Domain
from spen_jax.inference import Differentiate, Energy, loss_augmented, minimize
from spen_jax.loop import Unrolled
from spen_jax.solvers import GradientDescent, MirrorDescent, Solver

Objective = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Features = Callable[..., Any]
Cost = Callable[[jax.Array, jax.Array], jax.Array]
Start = float | Callable[[Any, jax.Array], jax.Array]


def feed_forward(logits: Features, loss: Cost = losses.cross_entropy) -> Objective:
    """Mean over the batch of loss(sigmoid(logits(x)), truth): a feature network alone, with no energy.

    `logits(params, x)` or `logits(params, x, key=None)` returns (B, L) for x (B, D), such as `logits_of`.
    """
    logits = _with_key(logits)

    def objective(params, batch, key):
        y = jax.nn.sigmoid(logits(params, batch.x, key))
        value = jnp.mean(jax.vmap(loss)(y, batch.y))
        return value, {"loss": value}

    return objective


def max_margin(
    energy: Energy,
    features: Features | None = None,
    *,
    cost: Cost = losses.squared_error,
    augmented: bool = True,
    start: Start = 0.5,
    domain: Domain = Box(),
    solver: Solver = GradientDescent(),
    steps: int = 30,
    differentiate: Differentiate = "stopped",
) -> Objective:
    """mean over the batch of max(0, D(y_hat, y) - E(x, y_hat) + E(x, y)), the structured hinge loss.

    y_hat minimises E - D (`augmented`, the literature's; its maximal violation makes the loss an upper bound
    on the cost) or E alone (as widely used code has it; its cost then counts as a constant where
    inference is stopped). Source: Belanger & McCallum (2016).

    Args:
      energy: `(params, context, y) -> scalar` for one example.
      features: `(params, x) -> context` for a whole batch, x (B, D), or for one with dropout
        `(params, x, key=None) -> context`, which is given a key, by that name, in training and none in
        prediction; None where the energy sees x itself.
      cost: D(y, truth) of one example.
      augmented: whether y_hat minimises E - D.
      start: where inference starts: a constant, or a function `(context, key) -> points (B, L)`.
      domain: where y lives.
      solver: the algorithm of inference.
      steps: its steps.
      differentiate: see `spen_jax.inference.minimize`.

    Metrics: loss; cost, the mean D(y_hat, y); gap, the mean of E(x, y_hat) - E(x, y); violated, the
    share of examples with a positive loss; residual, inference's mean.
    """
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, start_key = jax.random.split(key)
        context = features(params, batch.x, feature_key)
        truth = jnp.asarray(batch.y)
        solution = minimize(
            loss_augmented(energy, cost) if augmented else energy,
            params,
            (context, truth) if augmented else context,
            _start(start, context, truth, start_key),
            domain=domain,
            solver=solver,
            steps=steps,
            differentiate=differentiate,
        )
        costs = jax.vmap(cost)(solution.y, truth)
        wrong = solution.energy + costs if augmented else solution.energy
        correct = jax.vmap(energy, (None, 0, 0))(params, context, truth)
        each = losses.hinge(correct, wrong, costs)
        value = jnp.mean(each)
        return value, {
            "loss": value,
            "cost": jnp.mean(costs),
            "gap": jnp.mean(wrong - correct),
            "violated": jnp.mean(each > 0),
            "residual": jnp.mean(solution.residual),
        }

    return objective


def end_to_end(
    energy: Energy,
    features: Features | None = None,
    *,
    loss: Cost = losses.cross_entropy,
    weights: Sequence[float] | None = None,
    start: Start = 0.5,
    domain: Domain = Box(),
    solver: Solver = MirrorDescent(),
    steps: int = 10,
    settings: Callable[[Any], dict[str, Any]] | None = None,
    differentiate: Differentiate = "unrolled",
) -> Objective:
    """Mean over the batch of sum_t w_t loss(y_t, truth), through the steps of inference.

    y_0 is the start and y_T the last point. `weights` are the T + 1 numbers w_0, ..., w_T; by default only
    the last point counts. Source: Belanger, Yang & McCallum (2017).

    Args:
      energy: `(params, context, y) -> scalar` for one example.
      features: `(params, x) -> context` for a whole batch, x (B, D), or for one with dropout
        `(params, x, key=None) -> context`, which is given a key, by that name, in training and none in
        prediction; None where the energy sees x itself.
      loss: the task loss (y, truth) -> scalar of one example.
      weights: w_0, ..., w_T, or None.
      start: where inference starts: a constant, or a function `(context, key) -> points (B, L)`.
      domain: where y lives.
      solver: the algorithm of inference. Projected gradient descent stands still, as does cross-entropy, where it
        has put a label at 0 or 1; mirror descent stays inside.
      steps: its steps.
      settings: learned numbers of the solver, from the parameters:
        `lambda params: {"step_size": jnp.exp(params["log_step"])}`, scalars or one for each step. Inference
        after training is to be given the same.
      differentiate: "unrolled" or "implicit", see `spen_jax.inference.minimize`; `weights` need unrolled steps.

    Metrics: loss; last, the loss of the last point alone; residual, inference's mean.
    """
    if weights is not None and len(weights) != steps + 1:
        raise ValueError(
            f"weights needs steps + 1 = {steps + 1} numbers, one for the start and one after each step, "
            f"got {len(weights)}"
        )
    if weights is not None and not (
        differentiate == "unrolled" or isinstance(differentiate, Unrolled)
    ):
        raise ValueError(f"weights need the points of unrolled steps, got {differentiate!r}")
    features = _with_key(features)

    def objective(params, batch, key):
        feature_key, start_key = jax.random.split(key)
        context = features(params, batch.x, feature_key)
        solution = minimize(
            energy,
            params,
            context,
            _start(start, context, batch.y, start_key),
            domain=domain,
            solver=solver,
            steps=steps,
            settings=settings(params) if settings else None,
            differentiate=differentiate,
            trace="y" if weights is not None else (),
        )
        last = value = jnp.mean(jax.vmap(loss)(solution.y, batch.y))
        if weights is not None:
            each = jax.vmap(jax.vmap(loss, (0, None)))(solution.trace["y"], batch.y)  # (B, T + 1)
            value = jnp.asarray(weights) @ jnp.mean(each, axis=0)
        return value, {"loss": value, "last": last, "residual": jnp.mean(solution.residual)}

    return objective


def _with_key(features: Features | None) -> Features:
    """`features` as a function of (params, x, key), whether or not it has dropout."""
    if features is None:
        return lambda params, x, key: x
    if "key" in inspect.signature(features).parameters:
        return lambda params, x, key: features(params, x, key=key)
    return lambda params, x, key: features(params, x)


def _start(start: Start, context: Any, truth: jax.Array, key: jax.Array) -> jax.Array:
    if callable(start):
        return start(context, key)
    return jnp.full(truth.shape, start, jnp.result_type(float))
