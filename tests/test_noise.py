from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import (
    CORNERS,
    KEY,
    PREDICTOR,
    coupled_labels,
    energies,
    flat,
    gradient_of,
    logits,
    problem,
    sigmoid,
    slopes,
)
from problems import Batch, assert_trees_close

from spen_jax import Predictor
from spen_jax.objectives import IndependentBernoulli, IndependentCategorical, nce, ranking_nce


class Enumerated(NamedTuple):
    """Every answer equally often: n draws, a multiple of them, are the exact expectation under uniform noise."""

    answers: np.ndarray = CORNERS

    def sample(self, context, key, n):
        size = len(jax.tree.leaves(context)[0])
        drawn = jnp.tile(jnp.asarray(self.answers), (n // len(self.answers), 1))
        return jnp.broadcast_to(drawn, (size, *drawn.shape))

    def log_prob(self, context, y):
        return jnp.full(y.shape[:2], -np.log(len(self.answers)))


def log_partition(params, context):
    """log Z of `coupled_labels` by enumeration, differentiable."""
    of_all = jax.vmap(jax.vmap(coupled_labels, (None, None, 0)), (None, 0, None))
    return jax.nn.logsumexp(-of_all(params, context, CORNERS), axis=1)


@pytest.mark.parametrize("ranked", [False, True])
def test_against_much_noise_the_gradient_is_that_of_the_likelihood(ranked, x64):
    params, batch = problem()
    if ranked:
        objective = ranking_nce(PREDICTOR, noise=Enumerated(), samples=16 * 256)
    else:
        objective = nce(
            PREDICTOR, noise=Enumerated(), samples=16 * 256, log_partition=log_partition
        )
    points = np.broadcast_to(CORNERS, (2, 16, 4))
    p = np.exp(-energies(params, batch.x, points))
    p /= p.sum(1, keepdims=True)
    truth = slopes(params, batch.x, batch.y[:, None])[:, 0]
    want = (truth - np.einsum("bk,bkp->bp", p, slopes(params, batch.x, points))).mean(0)
    error = np.linalg.norm(flat(gradient_of(objective, params, batch)[0]) - want)
    assert error < 0.005 * np.linalg.norm(want)


PAIRS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
SLOPES = np.stack([-PAIRS[:, 0], -PAIRS[:, 1], PAIRS[:, 0] * PAIRS[:, 1]])
"""Of `pair` in a, b and c at each of PAIRS."""


def pair(params, context, y):
    return params["c"] * y[0] * y[1] - params["a"] * y[0] - params["b"] * y[1]


@pytest.mark.parametrize("normalised", [True, False])
def test_against_much_noise_an_answer_is_pushed_up_by_its_density_normalised_or_not(
    normalised, x64
):
    """Two labels, Z = 3.94, the truth (1, 0): at c = 0 the slope in a has the other sign than the likelihood's."""
    params = {"a": 0.3, "b": -0.2, "c": 0.36}
    density = np.exp(-np.array([params["a"], params["b"], params["c"]]) @ SLOPES)
    z = density.sum()
    assert abs(z - 3.94) < 0.01
    likelihood = SLOPES[:, 2] - SLOPES @ (density / z)
    want = likelihood if normalised else SLOPES[:, 2] - SLOPES @ density
    batch = Batch(np.zeros((1, 1)), PAIRS[2:3])
    errors = []
    for samples in (2**12, 2**14):
        objective = nce(
            Predictor(pair),
            noise=Enumerated(PAIRS),
            samples=samples,
            log_partition=lambda *_: jnp.full(1, np.log(z) if normalised else 0.0),
        )
        errors.append(flat(gradient_of(objective, params, batch)[0]) - want)
    np.testing.assert_allclose(errors[1], 0, atol=2e-3)
    np.testing.assert_allclose(errors[0], 4 * errors[1], rtol=0.01)  # of order 1 / samples
    assert likelihood[0] < -0.4 and (normalised or want[0] > 1)


def tabular(params, context, y):
    """A free energy for each of the 16 answers."""
    return params["table"] @ jnp.all(y[None] == CORNERS, axis=1)


COUNTS = 1 + np.arange(16) % 3
"""How often each answer stands in the data: the law is COUNTS / 31, and these are exact frequencies."""
TABLE_DATA = Batch(np.zeros((COUNTS.sum(), 1)), np.repeat(CORNERS, COUNTS, axis=0))


@pytest.mark.slow
def test_at_the_best_energy_and_normaliser_which_are_the_law_of_the_data_all_slopes_are_0(x64):
    """However few the samples: table + c = -log P is where all slopes are 0, and c alone is log Z."""
    objective = nce(
        Predictor(tabular),
        noise=Enumerated(),
        samples=16,
        log_partition=lambda params, context: jnp.full(len(context), params["c"]),
    )
    slope = jax.jit(jax.grad(objective, has_aux=True))
    table, log_z = -np.log(COUNTS), np.log(COUNTS.sum())  # Z is the number of examples
    at_best = slope({"table": table, "c": log_z}, TABLE_DATA, KEY)[0]
    np.testing.assert_allclose(flat(at_best), 0, atol=1e-12)
    for off in (-0.3, 0.3):
        away = slope({"table": table, "c": log_z + off}, TABLE_DATA, KEY)[0]
        assert np.sign(away["c"]) == np.sign(off) and abs(away["c"]) > 0.05
    # Without a normaliser the energy normalises itself.
    itself = slope({"table": table + log_z, "c": 0.0}, TABLE_DATA, KEY)[0]
    np.testing.assert_allclose(itself["table"], 0, atol=1e-12)
    off = slope({"table": table + log_z + 0.5, "c": 0.0}, TABLE_DATA, KEY)[0]
    assert np.abs(off["table"]).min() > 1e-3


class Everything(IndependentBernoulli):
    """The probabilities of independent labels, on all answers."""

    def sample(self, context, key, n):
        return Enumerated().sample(context, key, n)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ranked", [False, True])
def test_the_losses_against_noise_are_their_formulas(ranked, masked, x64):
    """Noise of the network's own unaries, whose slopes do not count; nor do labels that are hidden."""
    params, batch = problem(6)
    batch.y[0] = CORNERS[energies(params, batch.x[:1], CORNERS[None])[0].argmin()]
    mask = np.ones((6, 4), bool)
    if masked:
        mask[1, 0] = mask[2, 2:] = mask[3] = False
    noise = Everything(beta=0.5)
    if ranked:
        objective = ranking_nce(PREDICTOR, noise=noise, samples=16)
    else:
        objective = nce(PREDICTOR, noise=noise, samples=16)
    data = {"x": batch.x, "y": np.where(mask, batch.y, 3), "mask": mask}
    gradient, metrics = gradient_of(objective, params, data if masked else batch)

    points = np.concatenate([batch.y[:, None], np.broadcast_to(CORNERS, (6, 16, 4))], 1)
    points = points * mask[:, None]
    e = energies(params, batch.x, points)
    on = sigmoid(logits(params, batch.x) / 2)[:, None]
    q = np.prod(np.where(mask[:, None], np.where(points == 1, on, 1 - on), 1), axis=-1)
    ratio = np.exp(-e) / q
    if ranked:
        value = -np.log(ratio[:, 0] / ratio.sum(1))
        by_energy = -ratio / ratio.sum(1, keepdims=True)
    else:
        p_true = ratio / (ratio + 16)
        value = -np.log(p_true[:, 0]) - np.log(1 - p_true[:, 1:]).sum(1)
        by_energy = -p_true
    by_energy[:, 0] += 1  # of the truth, which is to fall
    want = {
        "loss": value.mean(),
        "gap": e[:, 1:].mean() - e[:, 0].mean(),
        "accuracy": (e[:, 0] <= e[:, 1:].min(1)).mean(),  # the truth itself is among the draws
    }
    assert 0 < want["accuracy"] < 1
    if not ranked:
        want["log_prob"] = -e[:, 0].mean()
    assert_trees_close(metrics, want, rtol=1e-7)
    slope = np.einsum("bn,bnp->p", by_energy, slopes(params, batch.x, points)) / 6
    np.testing.assert_allclose(flat(gradient), slope, rtol=1e-7, atol=1e-10)


def rows_of(values, parts):
    """All one-hot answers of so many parts, (values^parts, parts, values)."""
    index = np.stack(np.meshgrid(*[np.arange(values)] * parts, indexing="ij"), -1)
    return np.eye(values)[index.reshape(-1, parts)]


@pytest.mark.parametrize("beta", [1.0, 0.4, 0.0])
def test_independent_noise_has_the_probabilities_it_says(beta, x64):
    z = np.array([[2.0, -1.0, 0.3, 0.0], [-60.0, 60.0, 1.0, -1.0]])
    on = sigmoid(beta * z)
    labels = np.where(CORNERS[None] == 1, on[:, None], 1 - on[:, None]).prod(-1)
    rows = np.array([[[2.0, -1.0, 0.3], [0.0, 1.0, 1.0]], [[-90.0, 90.0, 0.0], [0.0, 0.0, 0.0]]])
    softmax = np.exp(beta * rows - np.logaddexp.reduce(beta * rows, -1)[..., None])
    hot = rows_of(3, 2)
    parts = (hot[None] * softmax[:, None]).sum(-1).prod(-1)
    for noise, scores, answers, want in (
        (IndependentBernoulli(beta=beta), z, CORNERS, labels),
        (IndependentCategorical(beta=beta), rows, hot, parts),
    ):
        context = {"logits": jnp.asarray(scores)}
        everything = np.broadcast_to(answers, (2, *answers.shape))
        got = np.asarray(noise.log_prob(context, everything))
        assert np.isfinite(got).all()
        np.testing.assert_allclose(np.exp(got), want, atol=1e-12)
        draws = np.asarray(noise.sample(context, KEY, 4000))
        assert draws.shape == (2, 4000, *answers.shape[1:])
        assert set(np.unique(draws)) == {0.0, 1.0}
        same = (draws[:, :, None] == answers).reshape(2, 4000, len(answers), -1).all(-1).mean(1)
        assert np.all(np.abs(same - want) < 4.5 * np.sqrt(want / 4000) + 1e-9)


def test_parts_that_do_not_count_have_no_part_in_the_probability():
    context = {"logits": np.float32([[0.5, -1.0, 2.0]])}
    y, mask = np.float32([[[1, 0, 1]]]), np.array([[[True, False, True]]])
    want = np.log(sigmoid(0.5)) + np.log(sigmoid(2.0))
    got = IndependentBernoulli().log_prob(context, y, mask=mask)
    np.testing.assert_allclose(got, [[want]], rtol=1e-6)
    rows = {"logits": np.float32([[[0.5, -1.0], [2.0, 0.0]]])}
    y, mask = np.float32([[[[1, 0], [0, 1]]]]), np.array([[[True, False]]])
    got = IndependentCategorical().log_prob(rows, y, mask=mask)
    np.testing.assert_allclose(got, [[np.log(sigmoid(1.5))]], rtol=1e-6)


NOISE = IndependentBernoulli()


class Misshapen(IndependentBernoulli):
    def log_prob(self, context, y):
        return jnp.zeros(len(y))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: IndependentBernoulli(beta=-1.0), "finite beta >= 0.*got -1.0"),
        (lambda: IndependentCategorical(beta=np.inf), "finite beta >= 0.*got inf"),
        (lambda: nce(PREDICTOR, noise=NOISE, samples=0), "samples must be a whole"),
        (lambda: ranking_nce(PREDICTOR, noise=NOISE, samples=0), "samples must be a whole"),
        (
            lambda: ranking_nce(PREDICTOR, noise=Misshapen()),
            r"noise.log_prob must have shape \(2, 11\), got \(2,\)",
        ),
        (
            lambda: nce(PREDICTOR, noise=NOISE, log_partition=lambda p, c: jnp.zeros(())),
            r"log_partition must have shape \(2,\), got \(\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, message, x64):
    params, batch = problem()
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make(), params, batch, KEY)


def test_noise_that_cannot_leave_parts_out_is_refused_where_there_is_a_mask(x64):
    params, batch = problem()
    data = {"x": batch.x, "y": batch.y, "mask": np.ones((2, 4), bool)}
    with pytest.raises(ValueError, match="log_prob needs a parameter mask"):
        jax.eval_shape(ranking_nce(PREDICTOR, noise=Enumerated(), samples=16), params, data, KEY)
