import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import (
    CORNERS,
    KEY,
    PREDICTOR,
    corners_of,
    energies,
    flat,
    gradient_of,
    logits,
    problem,
    slopes,
)
from problems import Batch

from spen_jax import Predictor, Reals, Simplex
from spen_jax.objectives import maximum_likelihood, pseudo_likelihood

# Everything enumerated


@pytest.mark.parametrize("masked", [False, True])
def test_the_likelihood_is_minus_the_log_of_the_enumerated_probability(masked, x64):
    """Where labels do not count the distribution is over the others, those standing at 0."""
    params, batch = problem(3)
    beta, mask = 2.5, np.ones((3, 4), bool)
    if masked:
        mask[0, :2] = mask[1, 3] = False
    data = {"x": batch.x, "y": np.where(mask, batch.y, 7), "mask": mask}
    if not masked:
        data = Batch(batch.x, batch.y.astype(int))
    objective = maximum_likelihood(PREDICTOR, answers=CORNERS.astype(int), beta=beta)
    gradient, metrics = gradient_of(objective, params, data)

    loss, gap, want = [], [], []
    for n in range(3):
        answers = np.unique(CORNERS * mask[n], axis=0)[None]
        e = energies(params, batch.x[n : n + 1], answers)[0]
        p = np.exp(-beta * e) / np.exp(-beta * e).sum()
        truth = (answers[0] == batch.y[n] * mask[n]).all(1).argmax()
        loss.append(-np.log(p[truth]) / beta)
        gap.append(p @ e - e[truth])
        slope = slopes(params, batch.x[n : n + 1], answers)[0]
        want.append(slope[truth] - p @ slope)
    np.testing.assert_allclose(metrics["loss"], np.mean(loss))
    np.testing.assert_allclose(metrics["gap"], np.mean(gap))
    np.testing.assert_allclose(flat(gradient), np.mean(want, axis=0), atol=1e-10)


# One part at a time


def conditionals(params, batch):
    """-log P(y_i | x, the other labels) by enumeration, (B, 4)."""
    p = np.exp(-energies(params, batch.x, corners_of(batch)))
    terms = np.zeros(batch.y.shape)
    for n, i in np.ndindex(terms.shape):
        others = (np.delete(CORNERS, i, axis=1) == np.delete(batch.y[n], i)).all(1)
        truth = (batch.y[n] == CORNERS).all(1)
        terms[n, i] = -np.log(p[n, truth].sum() / p[n, others].sum())
    return terms


def test_the_pseudo_likelihood_is_made_of_the_enumerated_conditionals(x64):
    params, batch = problem(3)
    terms = conditionals(params, batch)
    value, metrics = jax.jit(pseudo_likelihood(PREDICTOR))(params, batch, KEY)
    np.testing.assert_allclose(value, terms.sum(1).mean())
    np.testing.assert_allclose(metrics["accuracy"], np.mean(terms < np.log(2)))
    np.testing.assert_allclose(metrics["gap"], np.log(1 / np.expm1(terms)).mean())


def test_only_the_labels_that_count_are_judged_and_the_others_stand_at_0(x64):
    params, batch = problem(3)
    mask = np.array([[True, True, False, True], [True] * 4, [False, False, True, False]])
    seen = Batch(batch.x, batch.y * mask)
    terms = conditionals(params, seen)
    data = {"x": batch.x, "y": np.where(mask, batch.y, np.nan), "mask": mask}
    value, metrics = jax.jit(pseudo_likelihood(PREDICTOR))(params, data, KEY)
    np.testing.assert_allclose(value, (terms * mask).sum(1).mean())
    np.testing.assert_allclose(metrics["accuracy"], np.mean(terms[mask] < np.log(2)))
    np.testing.assert_allclose(metrics["gap"], np.log(1 / np.expm1(terms[mask])).mean())


def test_each_example_draws_its_own_labels_each_as_often(x64):
    """Of two examples alike and one label each, over all keys, there are sixteen equally likely pairs."""
    params, batch = problem(1)
    terms = conditionals(params, batch)[0]
    twice = Batch(*(np.repeat(a, 2, axis=0) for a in batch))
    objective = pseudo_likelihood(PREDICTOR, labels=1)
    each = jax.jit(jax.vmap(lambda key: objective(params, twice, key)[0]))
    drawn = np.asarray(each(jax.random.split(KEY, 2000)))
    pairs = list(itertools.combinations_with_replacement(range(4), 2))
    values = np.array([2 * (terms[i] + terms[j]) for i, j in pairs])  # times L / k, on average
    chance = np.array([(1 + (i != j)) / 16 for i, j in pairs])
    match = np.isclose(drawn[:, None], values)
    assert np.all(match.sum(1) == 1)
    assert np.all(np.abs(match.mean(0) - chance) < 4.5 * np.sqrt(chance / 2000))


def test_without_interactions_the_pseudo_likelihood_is_the_cross_entropy(x64):
    params, batch = problem(5)
    params["c"] = np.zeros(3)
    gradient, metrics = gradient_of(pseudo_likelihood(PREDICTOR), params, batch)
    z = logits(params, batch.x)
    want = np.logaddexp(0, z) - batch.y * z
    np.testing.assert_allclose(metrics["loss"], want.sum(1).mean())
    slope = (1 / (1 + np.exp(-z)) - batch.y) / 5
    np.testing.assert_allclose(gradient["W"], batch.x.T @ slope, atol=1e-12)
    np.testing.assert_allclose(gradient["b"], slope.sum(0), atol=1e-12)


def test_on_simplices_the_pseudo_likelihood_goes_through_the_values_of_each_part(x64):
    rng = np.random.default_rng(0)
    table, x = rng.normal(size=(3, 3)), rng.normal(size=(2, 2, 3))
    truth = rng.integers(3, size=(2, 2))

    def chain(params, x, y):  # of two parts with three values each
        return y[0] @ params @ y[1] + jnp.sum(x * y)

    terms = np.zeros((2, 2))
    for n in range(2):
        e = table + x[n, 0][:, None] + x[n, 1][None]
        i, j = truth[n]
        terms[n] = (
            e[i, j] + np.log(np.exp(-e[:, j]).sum()),
            e[i, j] + np.log(np.exp(-e[i]).sum()),
        )
    objective = pseudo_likelihood(Predictor(chain, domain=Simplex()))
    value, metrics = jax.jit(objective)(table, Batch(x, np.eye(3)[truth]), KEY)
    np.testing.assert_allclose(value, terms.sum(1).mean())
    assert 0 <= metrics["accuracy"] <= 1


# What is refused


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: maximum_likelihood(PREDICTOR, answers=CORNERS, beta=0.0), "beta > 0, got 0.0"),
        (lambda: maximum_likelihood(PREDICTOR, answers=[]), r"at least one y.*got shape \(0,\)"),
        (
            lambda: maximum_likelihood(PREDICTOR, answers=CORNERS[:, :3]),
            r"\(K, 4\).*got \(16, 3\)",
        ),
        (lambda: pseudo_likelihood(PREDICTOR, labels=0), "labels must be a whole number, 1 or"),
        (lambda: pseudo_likelihood(PREDICTOR, labels=5), "between 1 and L = 4, or None; got 5"),
        (
            lambda: pseudo_likelihood(Predictor(lambda *_: 0.0, domain=Reals())),
            "two finite bounds or on a Simplex, got Reals",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, message, x64):
    params, batch = problem()
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make(), params, batch, KEY)
