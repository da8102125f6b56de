import itertools
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import Batch, assert_trees_close, counting, parabola, random_batch

from spen_jax import Langevin, Reals, losses, training
from spen_jax.data import Split
from spen_jax.likelihood import (
    IndependentBernoulli,
    Replay,
    contrastive_divergence,
    denoising_score_matching,
    maximum_likelihood,
    noise_contrastive,
    pseudo_likelihood,
    ranking,
    replay,
    sliced_score_matching,
)
from spen_jax.sampling import GibbsWithGradients

KEY = jax.random.key(0)
REALS = Reals()
CORNERS = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
FLIPS = GibbsWithGradients()
PAGE = Path(__file__).parents[1] / "docs" / "objectives" / "likelihood.md"


def features_of(params, x):
    return {"logits": x @ params["W"] + params["b"][None]}


def coupled_labels(params, context, y):
    """A small structured prediction energy network, written out."""
    return params["c"] @ jax.nn.softplus(params["C"] @ y) - context["logits"] @ y


def spen(n=2):
    """(features, energy, params, batch) of four labels, all of whose answers are CORNERS."""
    rng = np.random.default_rng(0)
    shapes = {"W": (3, 4), "b": (4,), "C": (3, 4), "c": (3,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return features_of, coupled_labels, params, random_batch(n)


def enumerated(features, energy, params, batch):
    """E (B, 16), P (B, 16) and the index of each truth, by a loop."""
    logits = features(params, batch.x)["logits"]
    one = jax.jit(energy)
    energies = np.array([[one(params, {"logits": z}, y) for y in CORNERS] for z in logits])
    p = np.exp(-energies)
    truth = (batch.y[:, None] == CORNERS).all(-1).argmax(1)
    return energies, p / p.sum(1, keepdims=True), truth


def gradient_of(objective, params, batch, key=KEY):
    """(gradient, metrics)"""
    return jax.jit(jax.grad(objective, has_aux=True))(params, batch, key)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def slopes_of_all_answers(features, energy, params, batch):
    """dE(x, y)/d params of every corner, (B, 16, P)."""

    @jax.jit
    def slopes(params):
        def energies(params):
            context = features(params, batch.x)
            over_y = jax.vmap(energy, (None, None, 0))
            return jax.vmap(over_y, (None, 0, None))(params, context, CORNERS)

        return jax.vmap(jax.vmap(lambda tree: ravel_pytree(tree)[0]))(jax.jacrev(energies)(params))

    return np.asarray(slopes(params))


def scores_of(objective, params, batch, keys):
    """How many standard errors the mean gradient over examples and keys is from 0, for each parameter."""

    @jax.jit
    def gradients(x, y, keys):
        def one(x, y, key):
            gradient = jax.grad(objective, has_aux=True)(params, Batch(x[None], y[None]), key)[0]
            return ravel_pytree(gradient)[0]

        return jax.vmap(one)(x, y, keys)

    each = np.asarray(gradients(batch.x, batch.y, jax.random.split(KEY, keys)))
    return each.mean(0) / (each.std(0) / np.sqrt(len(each)))


# Everything enumerated


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_likelihood_is_minus_the_log_of_the_enumerated_probability(beta, x64):
    features, energy, params, batch = spen(3)
    energies, _, truth = enumerated(features, energy, params, batch)
    p = np.exp(-beta * energies)
    p /= p.sum(1, keepdims=True)
    rows = np.arange(3)
    objective = maximum_likelihood(energy, features, answers=CORNERS.astype(int), beta=beta)
    gradient, metrics = gradient_of(objective, params, batch)
    np.testing.assert_allclose(metrics["loss"], -np.log(p[rows, truth]).mean() / beta)
    gap = (p * energies).sum(1) - energies[rows, truth]
    np.testing.assert_allclose(metrics["gap"], gap.mean())
    slopes = slopes_of_all_answers(features, energy, params, batch)
    want = slopes[rows, truth] - (p[..., None] * slopes).sum(1)
    np.testing.assert_allclose(flat(gradient), want.mean(0), atol=1e-10)


# Samples of the model


def test_contrastive_divergence_has_the_gradient_of_the_likelihood_once_its_chains_have_mixed(x64):
    features, energy, params, batch = spen()
    _, p, truth = enumerated(features, energy, params, batch)
    slopes = slopes_of_all_answers(features, energy, params, batch)
    mean = (p[..., None] * slopes).sum(1)
    want = (slopes[np.arange(2), truth] - mean).mean(0)
    variance = (p[..., None] * (slopes - mean[:, None]) ** 2).sum(1)
    chains = 2000
    error = np.sqrt(variance.sum(0) / chains) / 2 + 1e-12

    def scores(steps):
        objective = contrastive_divergence(
            energy, features, sampler=FLIPS, steps=steps, chains=chains
        )
        gradient, metrics = gradient_of(objective, params, batch)
        assert metrics["divergent"] == 0 < metrics["acceptance"] < 1
        assert metrics["loss"] == -metrics["gap"] and "chains" not in metrics
        return np.abs(flat(gradient) - want) / error

    assert scores(60).max() < 4.5
    assert scores(1).max() > 10  # the chains are still near the truth


def test_on_the_reals_contrastive_divergence_has_the_closed_form_of_a_gaussian(x64):
    a, b, y, chains = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.array([1.5, 0.7]), 4000

    def energy(params, context, y):
        return parabola(params, params["b"], y)

    objective = contrastive_divergence(
        energy,
        sampler=Langevin(0.3, adjusted=True),
        domain=REALS,
        steps=60,
        chains=chains,
    )
    batch = Batch(np.zeros((1, 1)), y[None])
    gradient, _ = gradient_of(objective, {"a": a, "b": b}, batch)
    mean, variance = b / a, 1 / a
    # E = a y^2 / 2 - b y, and the variance of y^2 is 2 s^4 + 4 m^2 s^2.
    want = {"a": (y**2 - mean**2 - variance) / 2, "b": mean - y}
    errors = {
        "a": np.sqrt((2 * variance**2 + 4 * mean**2 * variance) / chains) / 2,
        "b": np.sqrt(variance / chains),
    }
    for name in want:
        assert np.all(np.abs(gradient[name] - want[name]) < 4.5 * errors[name])


def test_the_penalty_adds_the_squares_of_the_energies_and_their_slopes(x64):
    features, energy, params, batch = spen()

    def end_at(answer):
        """A sampler's start, where so small a step leaves its chain."""
        return lambda context, key: jnp.broadcast_to(jnp.asarray(answer), (2, 3, 4))

    answer, still = np.full(4, 0.3), Langevin(1e-30, adjusted=True)
    settings = {"sampler": still, "steps": 1, "chains": 3, "start": end_at(answer)}
    objective = contrastive_divergence(energy, features, magnitude=0.2, **settings)
    gradient, metrics = gradient_of(objective, params, batch)

    def by_hand(params):
        context = features(params, batch.x)
        of_each = jax.vmap(energy, (None, 0, 0))
        correct = of_each(params, context, batch.y)
        wrong = of_each(params, context, jnp.broadcast_to(answer, (2, 4)))
        return jnp.mean(correct - wrong + 0.2 * (correct**2 + wrong**2)), jnp.mean(wrong - correct)

    (value, gap), want = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(params)
    assert_trees_close(gradient, want, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(metrics["gap"], gap)
    np.testing.assert_allclose(metrics["loss"], value)


def test_persistent_chains_go_on_where_they_stood_and_some_begin_anew(x64):
    features, energy, params, batch = spen(2)
    standing = jax.random.uniform(jax.random.key(3), (2, 400, 4), minval=0.2, maxval=0.8)
    data = Replay(batch.x, batch.y, standing)
    settings = {
        "sampler": Langevin(1e-30, adjusted=True),
        "steps": 2,
        "chains": 400,
        "persistent": True,
    }
    share = 0.3
    objective = contrastive_divergence(energy, features, restart=share, **settings)
    chains = np.asarray(gradient_of(objective, params, data)[1]["chains"])
    stayed = np.abs(chains - standing).max(-1) < 1e-9
    anew = np.abs(chains - batch.y[:, None]).max(-1) < 1e-9
    assert np.all(stayed ^ anew)
    assert np.all(np.abs(anew.mean(1) - share) < 4.5 * np.sqrt(share * (1 - share) / 400))

    elsewhere = contrastive_divergence(
        energy, features, restart=1.0, start=lambda c, k: jnp.full((2, 400, 4), 0.1), **settings
    )
    chains = gradient_of(elsewhere, params, data)[1]["chains"]
    np.testing.assert_allclose(chains, 0.1, atol=1e-9)


def test_chains_that_always_begin_anew_are_those_of_contrastive_divergence(x64):
    features, energy, params, batch = spen(2)
    data = replay(batch, jax.random.key(7), chains=5)
    settings = {"sampler": FLIPS, "steps": 3, "chains": 5}
    plain = contrastive_divergence(energy, features, **settings)
    persistent = contrastive_divergence(energy, features, persistent=True, restart=1.0, **settings)
    want, other = gradient_of(plain, params, data)
    got, metrics = gradient_of(persistent, params, data)
    assert_trees_close(got, want)
    assert metrics["chains"].shape == (2, 5, 4)
    assert set(np.unique(metrics["chains"])) == {0.0, 1.0}
    np.testing.assert_array_equal(metrics["loss"], other["loss"])


def test_a_replay_starts_at_random_corners():
    data = Split(np.zeros((300, 2), np.float32), np.zeros((300, 4), np.float32))
    made = replay(data, KEY, chains=3)
    assert made.x is data.x and made.y is data.y and made.chains.shape == (300, 3, 4)
    assert set(np.unique(made.chains)) == {0.0, 1.0}
    assert abs(made.chains.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(3600)
    points = replay(data, KEY, domain=REALS).chains
    assert points.shape == (300, 1, 4) and abs(points.std() - 1) < 0.1


def boltzmann(params, context, y):
    return -params["b"] @ y - y @ params["W"] @ y


def test_persistent_chains_learn_the_moments_of_a_boltzmann_machine():
    rng = np.random.default_rng(0)
    corners = CORNERS.astype(np.float32)
    weights = {"b": rng.normal(size=4), "W": np.triu(1.5 * rng.normal(size=(4, 4)), 1)}

    def law(params):
        p = np.exp(-np.array([float(boltzmann(params, None, y)) for y in CORNERS]))
        return p / p.sum()

    y = corners[rng.choice(16, 400, p=law(weights))]
    data = replay(Split(np.zeros((400, 1), np.float32), y), KEY)
    objective = contrastive_divergence(
        boltzmann, sampler=FLIPS, steps=2, persistent=True, restart=0.0
    )
    rates, size = 0.5 * np.geomspace(1, 0.02, 400), 400

    @jax.jit
    def learn(params, data):
        def step(carry, now):
            params, chains = carry
            rate, key = now
            gradient, metrics = jax.grad(objective, has_aux=True)(
                params, data._replace(chains=chains), key
            )
            params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
            return (params, metrics["chains"]), None

        keys = jax.random.split(KEY, len(rates))
        return jax.lax.scan(step, (params, data.chains), (jnp.asarray(rates), keys))[0][0]

    params = learn({"b": jnp.zeros(4), "W": jnp.zeros((4, 4))}, data)
    p = law(params)
    # The enumerated maximum of the likelihood has the moments of the data.
    got = np.einsum("k,ki,kj->ij", p, CORNERS, CORNERS)
    want = y.T @ y / size
    assert np.abs(got - want).max() < 0.02
    untrained = np.full((4, 4), 0.25) + 0.25 * np.eye(4)
    assert np.abs(untrained - want).max() > 0.2


# Samples of something simpler


class Enumerated(NamedTuple):
    """Every answer equally often: with n draws a multiple of 16, the exact expectation under uniform noise."""

    def sample(self, context, key, n):
        size = len(jax.tree.leaves(context)[0])
        return jnp.broadcast_to(jnp.tile(jnp.asarray(CORNERS), (n // 16, 1)), (size, n, 4))

    def log_prob(self, context, y):
        return jnp.full(y.shape[:2], -4 * np.log(2))


def log_partition(params, context):
    """log Z of `coupled_labels` by enumeration, differentiable."""
    of_all = jax.vmap(jax.vmap(coupled_labels, (None, None, 0)), (None, 0, None))
    return jax.nn.logsumexp(-of_all(params, context, CORNERS), axis=1)


@pytest.mark.parametrize("ranked", [False, True])
def test_against_ever_more_noise_the_gradient_tends_to_that_of_the_likelihood(ranked, x64):
    features, energy, params, batch = spen()
    want = flat(
        gradient_of(maximum_likelihood(energy, features, answers=CORNERS), params, batch)[0]
    )

    def error(samples):
        if ranked:
            objective = ranking(energy, features, noise=Enumerated(), samples=samples)
        else:
            objective = noise_contrastive(
                energy,
                features,
                noise=Enumerated(),
                samples=samples,
                log_partition=log_partition,
            )
        return np.linalg.norm(flat(gradient_of(objective, params, batch)[0]) - want)

    errors = np.array([error(16 * m) for m in (64, 256)])
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.1)
    assert errors[1] < 0.02 * np.linalg.norm(want)


def tabular(params, context, y):
    """A free energy for each of the 16 answers."""
    return params["table"] @ jnp.all(y[None] == CORNERS, axis=1)


COUNTS = 1 + np.arange(16) % 3
"""How often each answer stands in the data: the law is COUNTS / 31, and these are exact frequencies."""
TABLE_DATA = Batch(np.zeros((COUNTS.sum(), 1)), np.repeat(CORNERS, COUNTS, axis=0))


def test_with_its_normaliser_learned_the_best_energy_is_the_law_of_the_data(x64):
    """However few the samples: table + c = -log P is where all slopes are 0, and c alone is log Z."""
    table = -np.log(COUNTS)  # Z is the number of examples
    objective = noise_contrastive(
        tabular,
        noise=Enumerated(),
        samples=16,
        log_partition=lambda params, context: jnp.full(len(context), params["c"]),
    )
    slope = jax.jit(jax.grad(objective, has_aux=True))
    at_best = slope({"table": table, "c": np.log(COUNTS.sum())}, TABLE_DATA, KEY)[0]
    np.testing.assert_allclose(flat(at_best), 0, atol=1e-12)
    for off in (-0.3, 0.3):
        away = slope({"table": table, "c": np.log(COUNTS.sum()) + off}, TABLE_DATA, KEY)[0]
        assert np.sign(away["c"]) == np.sign(off) and abs(away["c"]) > 0.05


def test_without_a_normaliser_the_energy_normalises_itself(x64):
    slope = jax.jit(
        jax.grad(noise_contrastive(tabular, noise=Enumerated(), samples=16), has_aux=True)
    )
    best = -np.log(COUNTS / COUNTS.sum())
    gradient = slope({"table": best}, TABLE_DATA, KEY)[0]["table"]
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert np.abs(slope({"table": best + 0.5}, TABLE_DATA, KEY)[0]["table"]).min() > 1e-3


def test_the_losses_against_noise_are_their_formulas(x64):
    """Noise of the network's own unaries, whose slopes do not count."""
    features, energy, params, batch = spen(6)
    batch.y[0] = CORNERS[enumerated(features, energy, params, batch)[0][0].argmin()]

    class Everything(IndependentBernoulli):
        def sample(self, context, key, n):
            return Enumerated().sample(context, key, n)

    noise = Everything(temperature=2.0)
    held = features(params, batch.x)["logits"] / 2
    binary = noise_contrastive(
        energy, features, noise=noise, samples=16, log_partition=lambda p, c: jnp.full(6, -0.3)
    )
    ranked = ranking(energy, features, noise=noise, samples=16)

    @jax.jit
    def by_hand(params):
        context = features(params, batch.x)
        points = jnp.concatenate([batch.y[:, None], np.broadcast_to(CORNERS, (6, 16, 4))], 1)
        e = jax.vmap(jax.vmap(energy, (None, None, 0)), (None, 0, 0))(params, context, points)
        on = jax.nn.sigmoid(held)[:, None]
        q = jnp.prod(jnp.where(points == 1, on, 1 - on), axis=-1)
        ratio = jnp.exp(-e + 0.3) / q
        p_true = ratio / (ratio + 16)
        nce = -jnp.log(p_true[:, 0]) - jnp.log(1 - p_true[:, 1:]).sum(1)
        first = -jnp.log(ratio[:, 0] / ratio.sum(1))
        shared = {
            "gap": e[:, 1:].mean() - e[:, 0].mean(),
            # The truth itself is among the draws.
            "accuracy": (e[:, 0] <= e[:, 1:].min(1)).mean(),
        }
        log_prob = {"log_prob": (-e[:, 0] + 0.3).mean()}
        return (nce.mean(), first.mean()), (shared | log_prob, shared)

    values, others = by_hand(params)
    slopes = jax.jit(jax.jacrev(lambda params: by_hand(params)[0]))(params)
    for objective, value, slope, metrics in zip(
        (binary, ranked), values, slopes, others, strict=True
    ):
        gradient, got = gradient_of(objective, params, batch)
        assert_trees_close(got, {"loss": value} | metrics, rtol=1e-9)
        assert_trees_close(gradient, slope, rtol=1e-7, atol=1e-10)
    assert 0 < others[1]["accuracy"] < 1


@pytest.mark.parametrize("temperature", [1.0, 3.0, np.inf])
def test_independent_noise_has_the_probabilities_it_says(temperature, x64):
    logits = np.array([[2.0, -1.0, 0.3, 0.0], [-60.0, 60.0, 1.0, -1.0]])
    noise = IndependentBernoulli(temperature=temperature)
    context = {"logits": jnp.asarray(logits)}
    p = np.exp(noise.log_prob(context, np.broadcast_to(CORNERS, (2, 16, 4))))
    np.testing.assert_allclose(p.sum(1), 1)
    on = 1 / (1 + np.exp(-logits / temperature))
    np.testing.assert_allclose(p @ CORNERS, on)
    draws = np.asarray(noise.sample(context, KEY, 4000))
    assert draws.shape == (2, 4000, 4) and set(np.unique(draws)) == {0.0, 1.0}
    counts = (draws[:, :, None] == CORNERS).all(-1).mean(1)
    assert np.all(np.abs(counts - p) < 4.5 * np.sqrt(p / 4000) + 1e-9)
    assert np.isfinite(
        noise.log_prob(context, np.array([[[0.0, 1, 0, 0]], [[1.0, 0, 0, 0]]]))
    ).all()


# Scores


def quadratic_energy(params, context, y):
    return y @ params["A"] @ y / 2 - params["b"] @ y


COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])
MEAN = np.array([0.5, -1.0])


def gaussian_energy(covariance):
    precision = np.linalg.inv(covariance)
    return {"A": precision, "b": precision @ MEAN}


def gaussian_batch(n):
    y = np.random.default_rng(1).multivariate_normal(MEAN, COVARIANCE, n)
    return Batch(np.zeros((n, 1)), y)


def test_denoising_finds_the_density_blurred_by_its_noise(x64):
    n, sigma = 20000, 0.7
    objective = denoising_score_matching(quadratic_energy, sigma=sigma)
    batch = gaussian_batch(n)
    blurred = gaussian_energy(COVARIANCE + sigma**2 * np.eye(2))
    assert np.abs(scores_of(objective, blurred, batch, n)).max() < 4.5
    assert np.abs(scores_of(objective, gaussian_energy(COVARIANCE), batch, n)).max() > 10


def test_the_denoising_loss_is_its_formula(x64):
    sigma, b = 0.4, np.array([0.3, -2.0])
    batch = gaussian_batch(20000)
    objective = jax.jit(denoising_score_matching(quadratic_energy, sigma=sigma))
    slope = {"A": np.zeros((2, 2)), "b": b}  # dE/dy = -b: 1/2 (sigma^2 ||b||^2 + 2), on average
    value, metrics = objective(slope, batch, KEY)
    want = (sigma**2 * b @ b + 2) / 2
    # The variance of 1/2 ||sigma b + e||^2 is 1 + sigma^2 ||b||^2.
    assert abs(value - want) < 4.5 * np.sqrt((1 + sigma**2 * b @ b) / 20000)
    np.testing.assert_allclose(metrics["explained"], 1 - want, atol=0.05)
    nothing = objective({"A": np.zeros((2, 2)), "b": np.zeros(2)}, batch, KEY)[1]
    np.testing.assert_allclose(nothing["explained"], 0, atol=1e-12)


def test_sliced_score_matching_has_no_slope_at_the_density_of_the_data(x64):
    n, batch = 20000, gaussian_batch(20000)
    objective = sliced_score_matching(quadratic_energy)
    assert np.abs(scores_of(objective, gaussian_energy(COVARIANCE), batch, n)).max() < 4.5
    assert np.abs(scores_of(objective, gaussian_energy(1.2 * COVARIANCE), batch, n)).max() > 10


def test_sliced_score_matching_of_a_diagonal_gaussian_is_exact(x64):
    batch = gaussian_batch(50)
    a = 1 / np.mean(batch.y**2, axis=0)

    def energy(params, context, y):
        return parabola(params, jnp.zeros(2), y)

    gradient, metrics = gradient_of(sliced_score_matching(energy), {"a": a}, batch)
    np.testing.assert_allclose(gradient["a"], 0, atol=1e-12)
    np.testing.assert_allclose(metrics["loss"], -a.sum() / 2)
    np.testing.assert_allclose([metrics["slope"], metrics["trace"]], a.sum())


def test_sliced_score_matching_is_on_average_the_trace_of_the_hessian(x64):
    def energy(params, context, y):
        return jnp.sum(params * jnp.sin(y[:, None] + 2 * y[None])) + context @ y

    rng, n = np.random.default_rng(2), 4000
    params, x, y = rng.normal(size=(3, 3)), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    slopes, hessians = jax.jit(
        lambda: tuple(
            jax.vmap(derivative(energy, 2), (None, 0, 0))(params, x, y)
            for derivative in (jax.grad, jax.hessian)
        )
    )()
    want = (np.sum(slopes**2, axis=1) / 2 - np.trace(hessians, axis1=1, axis2=2)).mean()

    def values(projections):
        objective = sliced_score_matching(energy, projections=projections)
        each = jax.jit(jax.vmap(lambda key: objective(params, Batch(x, y), key)[0]))
        return np.asarray(each(jax.random.split(KEY, n)))

    one, eight = values(1), values(8)
    for each in (one, eight):
        assert abs(each.mean() - want) < 4.5 * each.std() / np.sqrt(n)
    np.testing.assert_allclose(one.var() / eight.var(), 8, rtol=0.15)


# One label at a time


def test_the_pseudo_likelihood_is_made_of_the_enumerated_conditionals(x64):
    features, energy, params, batch = spen(3)
    energies, p, truth = enumerated(features, energy, params, batch)
    terms, right = np.zeros((3, 4)), np.zeros((3, 4))
    for n, i in itertools.product(range(3), range(4)):
        others = np.delete(CORNERS, i, axis=1) == np.delete(batch.y[n], i)
        given = p[n, truth[n]] / p[n, others.all(1)].sum()
        terms[n, i], right[n, i] = -np.log(given), given > 0.5
    value, metrics = jax.jit(pseudo_likelihood(energy, features))(params, batch, KEY)
    np.testing.assert_allclose(value, terms.sum(1).mean())
    np.testing.assert_allclose(metrics["accuracy"], right.mean())
    np.testing.assert_allclose(metrics["gap"], np.log(1 / np.expm1(terms)).mean())

    # Of two labels, over all keys, there are six values for one example, each as likely.
    one = Batch(batch.x[:1], batch.y[:1])
    objective = pseudo_likelihood(energy, features, labels=2)
    each = jax.jit(jax.vmap(lambda key: objective(params, one, key)[0]))
    drawn = np.asarray(each(jax.random.split(KEY, 3000)))
    pairs = np.array(
        [2 * (terms[0, i] + terms[0, j]) for i, j in itertools.combinations(range(4), 2)]
    )
    match = np.isclose(drawn[:, None], pairs)
    assert np.all(match.sum(1) == 1)
    assert np.all(np.abs(match.mean(0) - 1 / 6) < 4.5 * np.sqrt(5 / 36 / 3000))


def test_examples_draw_their_own_labels(x64):
    features, energy, params, batch = spen(1)
    twice = Batch(*(np.repeat(a, 2, axis=0) for a in batch))
    objective = pseudo_likelihood(energy, features, labels=1)
    run = jax.jit(jax.vmap(lambda key, batch: objective(params, batch, key)[0], (0, None)))
    keys = jax.random.split(KEY, 500)
    assert len(np.unique(np.round(run(keys, batch), 9))) == 4
    assert len(np.unique(np.round(run(keys, twice), 9))) == 10  # pairs of four, in any order


def test_without_interactions_the_pseudo_likelihood_is_the_cross_entropy(x64):
    features, energy, params, batch = spen(5)
    params["c"] = np.zeros(3)
    gradient, metrics = gradient_of(pseudo_likelihood(energy, features), params, batch)

    def cross_entropy(params):
        y = jax.nn.sigmoid(features(params, batch.x)["logits"])
        return jnp.mean(losses.cross_entropy(y, batch.y))

    value, want = jax.jit(jax.value_and_grad(cross_entropy))(params)
    np.testing.assert_allclose(metrics["loss"], value)
    for name in ("W", "b"):
        np.testing.assert_allclose(gradient[name], want[name], atol=1e-12)


# All of them


def all_objectives(energy, features):
    against = {"noise": IndependentBernoulli(), "samples": 3}
    return {
        "likelihood": maximum_likelihood(energy, features, answers=CORNERS),
        "contrastive_divergence": contrastive_divergence(energy, features, sampler=FLIPS, steps=2),
        "noise_contrastive": noise_contrastive(energy, features, **against),
        "ranking": ranking(energy, features, **against),
        "denoising": denoising_score_matching(energy, features, sigma=0.5),
        "sliced": sliced_score_matching(energy, features),
        "pseudo_likelihood": pseudo_likelihood(energy, features, labels=2),
    }


@pytest.mark.parametrize("name", all_objectives(None, None))
def test_training_takes_whole_numbers_and_compiles_once(name):
    features, energy, params, batch = spen(6)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    energy, traces = counting(energy)
    objective, optimizer = all_objectives(energy, features)[name], optax.sgd(0.1)
    data = Batch(jnp.asarray(batch.x), jnp.asarray(batch.y.astype(int)))
    state = training.init(params, optimizer, KEY)
    rows = jnp.arange(4)
    state, metrics = training.step(objective, optimizer, state, data, rows)
    count = len(traces)
    state, _ = training.step(objective, optimizer, state, data, rows + 2)
    assert len(traces) == count
    assert all(np.isfinite(value) for value in metrics.values()) and "loss" in metrics
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(state.params))


def test_features_with_dropout_get_a_key(x64):
    _, energy, params, batch = spen()
    keys = []

    def features(params, x, key=None):
        keys.append(key)
        return {"logits": x @ jnp.ones((3, 4))}

    for name, objective in all_objectives(energy, features).items():
        jax.eval_shape(objective, params, batch, KEY)
        assert len(keys) == 1 and keys.pop() is not None, name


NOISE = IndependentBernoulli()


class Misshapen(IndependentBernoulli):
    def log_prob(self, context, y):
        return jnp.zeros(len(y))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda e, f: maximum_likelihood(e, f, answers=CORNERS, beta=0.0), "beta > 0, got 0.0"),
        (lambda e, f: maximum_likelihood(e, f, answers=[]), r"at least one y.*got shape \(0,\)"),
        (lambda e, f: maximum_likelihood(e, f, answers=CORNERS[:, :3]), r"\(K, 4\).*got \(16, 3\)"),
        (
            lambda e, f: contrastive_divergence(e, f, sampler=FLIPS, steps=0),
            "steps must be a whole",
        ),
        (lambda e, f: contrastive_divergence(e, f, sampler=FLIPS, chains=0), "chains must be a"),
        (
            lambda e, f: contrastive_divergence(e, f, sampler=FLIPS, restart=2.0),
            "restart is a prob",
        ),
        (
            lambda e, f: contrastive_divergence(e, f, sampler=FLIPS, magnitude=-1.0),
            "magnitude must",
        ),
        (
            lambda e, f: contrastive_divergence(e, f, sampler=FLIPS, persistent=True),
            "needs a batch with a field chains",
        ),
        (
            lambda e, f: contrastive_divergence(
                e, f, sampler=FLIPS, chains=2, start=lambda c, k: jnp.zeros((2, 4))
            ),
            r"start must have shape \(2, 2, 4\), got \(2, 4\)",
        ),
        (lambda e, f: IndependentBernoulli(temperature=0.0), "temperature > 0, got 0.0"),
        (lambda e, f: noise_contrastive(e, f, noise=NOISE, samples=0), "samples must be a whole"),
        (lambda e, f: ranking(e, f, noise=NOISE, samples=0), "samples must be a whole"),
        (
            lambda e, f: ranking(e, f, noise=Misshapen()),
            r"noise.log_prob must have shape \(2, 11\), got \(2,\)",
        ),
        (
            lambda e, f: noise_contrastive(
                e, f, noise=NOISE, log_partition=lambda p, c: jnp.zeros(())
            ),
            r"log_partition must have shape \(2,\), got \(\)",
        ),
        (lambda e, f: denoising_score_matching(e, f, sigma=0.0), "sigma > 0, got 0.0"),
        (lambda e, f: sliced_score_matching(e, f, projections=0), "projections must be a whole"),
        (
            lambda e, f: pseudo_likelihood(e, f, labels=0),
            "labels must be a whole number, 1 or more",
        ),
        (lambda e, f: pseudo_likelihood(e, f, labels=5), "between 1 and L = 4, or None; got 5"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, message, x64):
    features, energy, params, batch = spen()
    with pytest.raises(ValueError, match=message):
        make(energy, features)(params, batch, KEY)


def test_chains_of_another_number_are_refused(x64):
    features, energy, params, batch = spen()
    objective = contrastive_divergence(energy, features, sampler=FLIPS, chains=2, persistent=True)
    with pytest.raises(ValueError, match=r"chains must have shape \(2, 2, 4\), got \(2, 3, 4\)"):
        objective(params, replay(batch, KEY, chains=3), KEY)
    with pytest.raises(ValueError, match="chains must be a whole number"):
        replay(batch, KEY, chains=0)


# The page


def test_the_page_runs_as_printed(capsys):
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)), names)
    assert {"by_enumeration", "persistent", "against_noise", "one_at_a_time"} <= names.keys()
