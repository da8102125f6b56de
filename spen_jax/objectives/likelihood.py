"""The likelihood of the Gibbs distribution P(y | x) = exp(-E(x, y)) / Z(x), where all answers can be gone through.

That is all y of a small set, or all values of one part of y at a time. Metrics: loss; gap, the mean of E- less that of
E+, E+ the truth's energy. These losses see only differences of energies at one x: levels mean nothing, and energies
of different x cannot be compared.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax import exact, losses, trees
from spen_jax.arguments import once
from spen_jax.checks import as_floats, check_whole
from spen_jax.domains import Box, Simplex, counting
from spen_jax.exact import structure_of
from spen_jax.objectives.batch import (
    Given,
    as_truth,
    by_parts,
    check_predictor,
    checking,
    field,
    given,
)
from spen_jax.predictor import Predictor
from spen_jax.types import Objective


@once
def maximum_likelihood(
    predictor: Predictor, *, answers: Any = None, beta: float = 1.0
) -> Objective:
    """E(x, y) + 1/beta log sum_k exp(-beta E(x, y_k)), the negative log-likelihood, by a structure or by enumeration.

    In nats over beta, as `losses.nll`: -log P(y | x) itself at beta = 1, the perceptron loss at beta = infinity.
    An energy that knows its structure (`exact.structured`) is summed over all structures by its recursion: a
    conditional random field (Lafferty, McCallum & Pereira 2001). Else `answers` are gone through, which costs K
    energies an example. Where parts of y do not count it is the likelihood of those that do: answers that
    are alike there count together, which makes E(x, y) less the log of their number over beta of the first term.

    Args:
      predictor: its energy and features.
      answers: all possible y, each once, (K, ...) with an example's shape after the K; None for a structure's.
      beta: the inverse temperature, > 0.

    A batch has x and y (B, ...), see `read`. Metrics: loss. With answers also gap, the mean of E over P(y | x) less
    that of the truth's; with a structure and a finite beta probability, the mean of P(y | x).

    Raises ValueError for beta of 0 or less and where there are neither answers nor a structure; in training for answers
    of another shape than y, in `training.fit` for y that is none of the answers, or with a structure no corner.
    """
    check_predictor(predictor)
    if not beta > 0:
        raise ValueError(f"likelihood needs beta > 0, got {beta}; 1 / beta is a temperature")
    if answers is None:
        if structure_of(predictor.energy) is None:
            raise ValueError(
                "the likelihood needs answers, all possible y, or an energy that knows its structure: "
                "exact.structured(...)"
            )
        return checking(_by_structure(predictor, beta), predictor.domain, corners=True)
    answers = as_floats(jnp.array(answers))  # a copy: the caller's may change
    if not answers.ndim or not len(answers):
        raise ValueError(f"answers must hold at least one y, (K, ...), got shape {answers.shape}")
    objective = _by_answers(predictor, answers, beta)
    objective.check_data = partial(_check_among, np.asarray(answers))  # pyright: ignore[reportFunctionMemberAccess]
    return objective


def _by_structure(predictor, beta):
    def objective(params, batch, key):
        seen = given(predictor, params, batch, key)
        every = exact.structures(structure_of(seen.energy), params, seen.inputs)
        each = seen.each(seen.truth) - every.free_energy(beta)
        value = jnp.mean(each)
        if beta == math.inf:
            return value, {"loss": value}
        return value, {"loss": value, "probability": jnp.mean(jnp.exp(-beta * each))}

    return objective


def _by_answers(predictor, answers, beta):
    def objective(params, batch, key):
        seen = given(predictor, params, batch, key)
        shape = seen.truth.shape
        if answers.shape[1:] != shape[1:]:
            numbers = ", ".join(map(str, shape[1:]))
            raise ValueError(
                f"answers must have the shape (K, {numbers}), since y has {shape}; got {answers.shape}"
            )
        correct, energies = seen.each(seen.truth), seen.of_all(answers)  # (B,) and (B, K)
        value = jnp.mean(losses.nll(correct - _log_alike(seen, answers) / beta, energies, beta))
        likely = exact.softargmin(energies, beta)
        # An infinite energy has probability 0, and no part in the mean.
        mean = jnp.sum(jnp.where(likely > 0, likely * energies, 0), axis=-1)
        return value, {"loss": value, "gap": jnp.mean(mean - correct)}

    return objective


def _check_among(answers, data):
    """ValueError where y of the data is none of the answers, whose likelihood would mean nothing."""
    if field(data, "mask") is not None or field(data, "length") is not None:
        return
    y = np.asarray(as_truth(field(data, "y")), answers.dtype) + 0  # -0 is 0
    if y.shape[1:] != answers.shape[1:]:
        return  # said with the shapes by the objective
    known = {answer.tobytes() for answer in answers + 0}
    for i, row in enumerate(y):
        if row.tobytes() not in known:
            raise ValueError(
                f"data.y[{i}] is none of the {len(answers)} answers of the likelihood: {row}; give answers "
                "that hold every y"
            )


def _log_alike(seen: Given, answers: jax.Array) -> jax.Array | float:
    """The log of how many answers are the truth in what counts, (B,)."""
    if seen.mask is None:
        return 0.0

    def alike(truth, mask):
        there = jax.vmap(counting, (None, 0))(mask, answers) == truth[None]
        return jnp.sum(jnp.all(there.reshape(len(answers), -1), axis=1))

    return jnp.log(jnp.maximum(jax.vmap(alike)(seen.truth, seen.mask), 1))


@once
def pseudo_likelihood(predictor: Predictor, *, labels: int | None = None) -> Objective:
    """-sum_i log P(y_i | x, the other parts), y a labelling: at the corners of a Box, or one-hot on a Simplex.

    On Box(0, 1) it is sum_i softplus(E(x, y) - E(x, y with label i flipped)). Exact for an energy without
    interactions, where it is the cross-entropy of its logits. Costs L + 1 energies an example for L labels,
    T (K - 1) + 1 for T parts of K values; with `labels` = k only k parts, drawn anew for each example, times L / k:
    unbiased. Since every part is judged given the true others, strong interactions are overrated.

    Args:
      predictor: its energy, features and domain, a Box with two finite bounds or a Simplex.
      labels: k, 1 to the number of parts, or None for all.

    A batch has x and y (B, L) or (B, T, K), see `read`. Metrics: loss; gap, the mean of E- less that of E+, E+ the
    truth's energy and E- that with one part changed; accuracy, the share of the parts (of those drawn) that are right
    given the others.

    Raises ValueError for another domain and for `labels` below 1; in training for more than there are parts, in
    `training.fit` for y that is no corner. Source: Besag (1975).
    """
    check_predictor(predictor)
    domain = predictor.domain
    if not isinstance(domain, Box | Simplex) or not domain.has_logits:
        raise ValueError(
            f"pseudo_likelihood needs y on a Box with two finite bounds or on a Simplex, got {domain}"
        )
    if labels is not None:
        check_whole("labels", labels, 1)

    def objective(params, batch, key):
        feature_key, part_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key)
        parts = domain.parts(trees.one_of(seen.truth))
        size, count = len(seen.truth), math.prod(parts)
        if labels is not None and labels > count:
            raise ValueError(f"labels must be between 1 and L = {count}, or None; got {labels}")
        drawn = jnp.broadcast_to(jnp.arange(count)[None], (size, count))
        if labels is not None:
            drawn = lax.top_k(jax.random.uniform(part_key, (size, count)), labels)[1]
        correct = jnp.broadcast_to(seen.each(seen.truth)[:, None], drawn.shape)
        wrong = seen.several(_changed(domain, seen.truth, drawn, parts))
        wrong = wrong.reshape(*drawn.shape, -1)  # (B, k, values less one)
        if wrong.shape[-1] == 1:
            each = losses.log_loss(correct, wrong[..., 0])
        else:
            each = losses.info_nce(correct, wrong)
        gap = wrong - correct[..., None]
        right = jnp.all(gap > 0, axis=-1)
        gap = jnp.mean(gap, axis=-1)
        if seen.mask is None:
            value, gap, right = count * jnp.mean(each), jnp.mean(gap), jnp.mean(right)
        else:
            counts = by_parts(seen.mask, parts).reshape(size, count)
            counts = jnp.take_along_axis(counts, drawn, axis=1)
            n = jnp.maximum(jnp.sum(counts), 1)
            value = count * jnp.mean(jnp.where(counts, each, 0))
            gap, right = (jnp.sum(jnp.where(counts, a, 0)) / n for a in (gap, right))
        return value, {"loss": value, "gap": gap, "accuracy": right}

    return checking(objective, domain, corners=True)


def _changed(domain, truth, drawn, parts):
    """The truth with one of the drawn parts (B, k) changed to each of its other values, (B, k V, ...)."""
    if isinstance(domain, Box):
        others = (domain.lower + domain.upper - truth)[:, None]
    else:
        others = jnp.stack([jnp.roll(truth, v, axis=-1) for v in range(1, truth.shape[-1])], 1)
    here = drawn[..., None] == jnp.arange(math.prod(parts))[None, None]
    rank = truth.ndim - 1 - len(parts)
    here = here.reshape(*drawn.shape, 1, *parts, *[1] * rank)
    points = jnp.where(here, others[:, None], truth[:, None, None])
    return points.reshape(len(truth), -1, *truth.shape[1:])
