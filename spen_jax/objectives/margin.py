"""Objectives: what training minimises, `(params, batch, key) -> (scalar, metrics)`.

A batch has fields `x` (B, D) and `y` (B, L), the truth; the key draws dropout masks and random
starts.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from spen_jax import losses
from spen_jax.domains import Box, Domain
from spen_jax.inference import Differentiate, Unrolled, minimize
from spen_jax.inference.solvers import GradientDescent, MirrorDescent, Solver
from spen_jax.types import Cost, Energy, Features, Objective

Start = float | Callable[[Any, jax.Array], jax.Array]
Variant = Literal["margin", "slack", "perceptron", "contrastive"]


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


def margin_loss(
    variant: Variant, correct: jax.Array, wrong: jax.Array, costs: jax.Array
) -> jax.Array:
    """The loss of E(x, y) = `correct`, E(x, y_hat) = `wrong` and D(y_hat, y) = `costs`, all (...) -> (...).

    "margin": [D - E(y_hat) + E(y)]_+, margin rescaling (Taskar et al. 2003; Tsochantaridis et al. 2004).
    "slack": D [1 - E(y_hat) + E(y)]_+, slack rescaling (Tsochantaridis et al. 2004).
    "perceptron": [E(y) - E(y_hat)]_+ (LeCun et al. 1998; Collins 2002).
    "contrastive": [1 - E(y_hat) + E(y)]_+, a hinge of one margin for all answers.

    The same table stands in Tu & Gimpel (2018). `wrong` is the energy itself, not what `offending` minimises.
    ValueError for another name.
    """
    _check_variant(variant)
    margins: dict[Variant, Any] = {"margin": costs, "perceptron": 0.0}
    each = losses.hinge(correct, wrong, margins.get(variant, 1.0))
    return costs * each if variant == "slack" else each


@lru_cache(maxsize=256)
def loss_augmented(energy: Energy, cost: Callable[[jax.Array, jax.Array], jax.Array]) -> Energy:
    """E(x, y) - D(y, truth): what loss-augmented inference minimises, an energy whose context is (context, truth).

    Its minimiser is the most offending answer, low in energy and far from the truth. `cost(y, truth)` gives
    D for one example. Equal arguments give the same function, so that nothing compiles twice. Source:
    Tsochantaridis et al. (2004), margin rescaling; Belanger & McCallum (2016).
    """

    def augmented(params, context, y):
        inner, truth = context
        return energy(params, inner, y) - cost(y, truth)

    return augmented


@lru_cache(maxsize=256)
def offending(variant: Variant, energy: Energy, cost: Cost) -> Energy:
    """What the most offending answer minimises, an energy whose context is (context, truth); see `margin_loss`.

    "margin": E - D, `loss_augmented`.
    "slack": -D m where m = 1 + E(truth) - E > 0, and -m elsewhere. Its minimum is -max_y D [m]_+ exactly, since
    the truth has m = 1 and D = 0. Where m < 0, -D [m]_+ would be flat and -D m would reward a small D; there
    inference goes down the energy until the margin is violated. It is D times as steep as E: take shorter steps. Where
    D is flat at the truth, as `squared_error` is, inference that steps onto the truth stays there: take `hamming`.
    "perceptron", "contrastive": E; the cost plays no part.

    Equal arguments give the same function, so that nothing compiles twice. ValueError for another name.
    """
    _check_variant(variant)
    if variant == "margin":
        return loss_augmented(energy, cost)

    def slack(params, context, y):
        inner, truth = context
        violation = 1 + energy(params, inner, truth) - energy(params, inner, y)
        return -jnp.where(violation > 0, cost(y, truth), 1) * violation

    def plain(params, context, y):
        inner, _ = context
        return energy(params, inner, y)

    return slack if variant == "slack" else plain


def max_margin(
    energy: Energy,
    features: Features | None = None,
    *,
    cost: Cost = losses.squared_error,
    variant: Variant = "margin",
    augmented: bool = True,
    start: Start = 0.5,
    domain: Domain = Box(),
    solver: Solver = GradientDescent(),
    steps: int = 30,
    differentiate: Differentiate = "stopped",
) -> Objective:
    """mean over the batch of max(0, D(y_hat, y) - E(x, y_hat) + E(x, y)), the structured hinge loss.

    That is the margin-rescaled one; `margin_loss` has the equations of all four variants.
    y_hat minimises E - D (`augmented`, the literature's; its maximal violation makes the loss an upper bound
    on the cost) or E alone (as widely used code has it; its cost then counts as a constant where
    inference is stopped). Sources: Belanger & McCallum (2016); of the variants Tu & Gimpel (2018).

    Args:
      energy: `(params, context, y) -> scalar` for one example.
      features: `(params, x) -> context` for a whole batch, x (B, D), or for one with dropout
        `(params, x, key=None) -> context`, which is given a key, by that name, in training and none in
        prediction; None where the energy sees x itself.
      cost: D(y, truth) of one example.
      variant: which loss.
      augmented: whether y_hat maximises the variant's violation, see `offending`, or minimises E. For "perceptron" and
        "contrastive" that is the same, and the cost only a metric.
      start: where inference starts: a constant, or a function `(context, key) -> points (B, L)`.
      domain: where y lives.
      solver: the algorithm of inference.
      steps: its steps.
      differentiate: see `spen_jax.inference.minimize`.

    Metrics: loss; cost, the mean D(y_hat, y); gap, the mean of E(x, y_hat) - E(x, y); violated, the
    share of examples with a positive loss; residual, inference's mean.
    """
    _check_variant(variant)
    features = _with_key(features)
    searched = offending(variant, energy, cost) if augmented else energy

    def objective(params, batch, key):
        feature_key, start_key = jax.random.split(key)
        context = features(params, batch.x, feature_key)
        truth = jnp.asarray(batch.y)
        solution = minimize(
            searched,
            params,
            (context, truth) if augmented else context,
            _start(start, context, truth, start_key),
            domain=domain,
            solver=solver,
            steps=steps,
            differentiate=differentiate,
        )
        energies = jax.vmap(energy, (None, 0, 0))
        costs = jax.vmap(cost)(solution.y, truth)
        # The energy that inference reports is known already, but for what the variant has done to it.
        if augmented and variant == "margin":
            wrong = solution.energy + costs
        elif augmented and variant == "slack":
            wrong = energies(params, context, solution.y)
        else:
            wrong = solution.energy
        correct = energies(params, context, truth)
        each = margin_loss(variant, correct, wrong, costs)
        value = jnp.mean(each)
        return value, {
            "loss": value,
            "cost": jnp.mean(costs),
            "gap": jnp.mean(wrong - correct),
            "violated": jnp.mean(each > 0),
            "residual": jnp.mean(solution.residual),
        }

    return objective


def increasing(steps: int) -> list[float]:
    """w_t proportional to 1 / (T - t + 1) for t = 1, ..., T = `steps`, and w_0 = 0: T + 1 `weights` of sum 1.

    The start has no say in its own loss, and the later a point, the more it counts: inference learns to be right soon.
    Source: Belanger, Yang & McCallum (2017). ValueError for fewer than 1 step.
    """
    if steps < 1:
        raise ValueError(f"weights that increase need steps of 1 or more, got {steps}")
    each = [0.0] + [1 / (steps - t + 1) for t in range(1, steps + 1)]
    return [w / sum(each) for w in each]


def end_to_end(
    energy: Energy,
    features: Features | None = None,
    *,
    loss: Cost = losses.cross_entropy,
    weights: Sequence[float] | None = None,
    convergence: float = 0.0,
    start: Start = 0.5,
    domain: Domain = Box(),
    solver: Solver = MirrorDescent(),
    steps: int = 10,
    settings: Callable[[Any], dict[str, Any]] | None = None,
    differentiate: Differentiate = "unrolled",
    tolerance: float = 1e-3,
    stop_early: bool = False,
) -> Objective:
    """Mean over the batch of sum_t w_t loss(y_t, truth) + convergence ||y_T - y_(T-1)||^2, through inference's steps.

    y_0 is the start and y_T the last point. `weights` are the T + 1 numbers w_0, ..., w_T; by default only
    the last point counts. Source: Belanger, Yang & McCallum (2017), who also want inference to converge
    quickly; that a long last step costs something is our reading of it.

    With `differentiate="implicit"` it is loss(y, truth) at the minimiser y, however inference got there; give it the
    steps to get there, and `stop_early`. Where it has not, or its linear solve fails, the gradient is wrong or NaN:
    watch `converged`. Source: Blondel et al. (2022).

    Args:
      energy: `(params, context, y) -> scalar` for one example.
      features: `(params, x) -> context` for a whole batch, x (B, D), or for one with dropout
        `(params, x, key=None) -> context`, which is given a key, by that name, in training and none in
        prediction; None where the energy sees x itself.
      loss: the task loss (y, truth) -> scalar of one example.
      weights: w_0, ..., w_T, such as `increasing(steps)`, or None.
      convergence: weight of the last step's squared length, at least 0.
      start: where inference starts: a constant, or a function `(context, key) -> points (B, L)`.
      domain: where y lives.
      solver: the algorithm of inference. Projected gradient descent stands still, as does cross-entropy, where it
        has put a label at 0 or 1; mirror descent stays inside.
      steps: its steps.
      settings: learned numbers of the solver, from the parameters:
        `lambda params: {"step_size": jnp.exp(params["log_step"])}`, scalars or one for each step. Inference
        after training is to be given the same.
      differentiate: "unrolled" or "implicit", see `spen_jax.inference.minimize`; `weights` and `convergence` need
        unrolled steps.
      tolerance: the residual up to which an example counts as converged.
      stop_early: whether each example stops once it has converged; not where steps are unrolled.

    Metrics: loss; last, the loss of the last point alone; residual, inference's mean; converged, the share of
    examples within the tolerance.

    Raises ValueError for options that do not go together.
    """
    path = weights is not None or convergence != 0
    unrolled = differentiate == "unrolled" or isinstance(differentiate, Unrolled)
    if weights is not None and len(weights) != steps + 1:
        raise ValueError(
            f"weights needs steps + 1 = {steps + 1} numbers, one for the start and one after each step, "
            f"got {len(weights)}"
        )
    if convergence < 0 or convergence and steps < 1:
        raise ValueError(
            f"convergence must be 0 or more and needs a step, got {convergence} with steps={steps}"
        )
    if path and not unrolled:
        raise ValueError(
            f"weights and convergence need the points of unrolled steps, got {differentiate!r}"
        )
    if differentiate == "stopped":
        raise ValueError(
            'end_to_end needs "unrolled" or "implicit" steps: "stopped" has no gradient'
        )
    if stop_early and unrolled:
        raise ValueError('stop_early needs differentiate="implicit": unrolled steps run in full')
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
            tolerance=tolerance,
            stop_early=stop_early,
            trace="y" if path else (),
        )
        last = value = jnp.mean(jax.vmap(loss)(solution.y, batch.y))
        if weights is not None:
            each = jax.vmap(jax.vmap(loss, (0, None)))(solution.trace["y"], batch.y)  # (B, T + 1)
            value = jnp.asarray(weights) @ jnp.mean(each, axis=0)
        if convergence:
            moved = solution.y - solution.trace["y"][:, -2]
            value += convergence * jnp.sum(moved**2) / len(moved)
        return value, {
            "loss": value,
            "last": last,
            "residual": jnp.mean(solution.residual),
            "converged": jnp.mean(solution.converged),
        }

    return objective


def _check_variant(variant: str) -> None:
    if variant not in get_args(Variant):
        names = ", ".join(map(repr, get_args(Variant)))
        raise ValueError(f"variant must be one of {names}, got {variant!r}")


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
