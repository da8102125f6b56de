import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from math import exp, log
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import jaccard_score

from spen_jax import losses, metrics

RNG = np.random.default_rng(0)
Y = RNG.random((2, 3, 5))
TRUTH = (RNG.random((2, 3, 5)) < 0.4).astype(float)


def f1_error(y, t):
    return 1 - 2 * sum(a * b for a, b in zip(y, t, strict=True)) / (sum(y) + sum(t))


LOOPS = {
    losses.squared_error: lambda y, t: sum((a - b) ** 2 for a, b in zip(y, t, strict=True)),
    losses.hamming: lambda y, t: sum(1 - a if b == 1 else a for a, b in zip(y, t, strict=True)),
    losses.cross_entropy: lambda y, t: sum(
        -np.log(a if b == 1 else 1 - a) for a, b in zip(y, t, strict=True)
    ),
    losses.soft_f1_error: f1_error,
    losses.soft_iou_error: lambda y, t: 1 - sum(map(min, y, t)) / sum(map(max, y, t)),
}


@pytest.mark.parametrize("cost", LOOPS, ids=lambda cost: cost.__name__)
def test_costs_sum_over_the_labels_and_nothing_else(cost):
    got = cost(jnp.asarray(Y), jnp.asarray(TRUTH))
    want = [[LOOPS[cost](Y[i, j], TRUTH[i, j]) for j in range(3)] for i in range(2)]
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    one = cost(jnp.asarray(Y[0, 1]), jnp.asarray(TRUTH[0, 1]))
    np.testing.assert_allclose(one, want[0][1], rtol=1e-5)


def test_costs_of_binary_answers_are_counts_and_f1_errors():
    sets = np.array(list(itertools.product([0.0, 1.0], repeat=3)), np.float32)
    y, truth = np.repeat(sets, 8, axis=0), np.tile(sets, (8, 1))
    wrong = (y != truth).sum(1)
    np.testing.assert_array_equal(losses.squared_error(y, truth), wrong)
    np.testing.assert_array_equal(losses.hamming(y, truth), wrong)
    f1 = [metrics.example_f1(t[None], p[None]) for p, t in zip(y, truth, strict=True)]
    np.testing.assert_allclose(losses.soft_f1_error(y, truth), 1 - np.array(f1), atol=1e-6)
    assert losses.soft_f1_error(sets[0], sets[0]) == 0


def test_soft_iou_error_of_binary_answers_is_the_jaccard_distance_of_sets():
    for y, truth in itertools.product(itertools.product([0.0, 1.0], repeat=3), repeat=2):
        got = losses.soft_iou_error(jnp.array(y), jnp.array(truth))
        if not any(y + truth):
            assert got == 0
            continue
        want = 1 - jaccard_score(truth, y)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_cross_entropy_of_a_sigmoid_is_that_of_optax():
    logits = np.float32(RNG.normal(0, 3, (4, 5)))
    truth = np.float32(RNG.random((4, 5)) < 0.5)

    def ours(logits):
        return losses.cross_entropy(jax.nn.sigmoid(logits), truth[0])

    def theirs(logits):
        return optax.sigmoid_binary_cross_entropy(logits, truth[0]).sum()

    got, want = (jax.jit(jax.vmap(jax.value_and_grad(f)))(logits) for f in (ours, theirs))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-6)


def test_cross_entropy_takes_a_probability_as_at_least_1e_7():
    y, truth = np.float32([0, 1, 0, 1]), np.float32([1, 0, 0, 1])
    assert losses.cross_entropy(y, truth) == pytest.approx(2 * np.log(1e7))
    assert np.isfinite(jax.grad(losses.cross_entropy)(y, truth)).all()


@pytest.mark.parametrize("error", [losses.soft_f1_error, losses.soft_iou_error])
def test_soft_errors_of_empty_against_empty_have_a_finite_gradient(error):
    zeros = jnp.zeros(3)
    assert np.isfinite(jax.grad(error)(zeros, zeros)).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
def test_costs_of_booleans_and_integers_are_those_of_floats(dtype):
    y, truth = np.array([[0, 1, 0, 1], [1, 1, 0, 0]]), np.array([[0, 1, 1, 0], [1, 1, 1, 0]])
    for cost in LOOPS:
        got = cost(jnp.asarray(y, dtype), jnp.asarray(truth, dtype))
        np.testing.assert_array_equal(got, cost(jnp.float32(y), jnp.float32(truth)))
        with pytest.raises(AssertionError):
            cost(jnp.zeros((2, 3)), jnp.zeros(3))


def test_hinge_is_positive_where_the_wrong_answer_is_not_worse_by_the_margin():
    correct, wrong = np.float32([1, 1, 1, 1]), np.float32([0, 1.5, 2, 5])
    np.testing.assert_allclose(losses.hinge(correct, wrong), [2, 0.5, 0, 0])
    np.testing.assert_allclose(
        losses.hinge(correct, wrong, np.float32([0, 1, 3, 4])), [1, 0.5, 2, 0]
    )
    for argument, sign in [(0, 1), (1, -1)]:
        slopes = jax.vmap(jax.grad(losses.hinge, argument))(correct, wrong)
        np.testing.assert_array_equal(np.asarray(slopes)[[0, 1, 3]], [sign, sign, 0])


# Losses of energies: `loss(correct, wrong)`, (...) and (..., 3). A pair loss takes the first wrong answer.

CORRECT, WRONG = 0.5, (0.25, 2.0, 1.0)
Z = sum(exp(-e) for e in (CORRECT, *WRONG))
MARGINS = np.float32([[1, 2, 0.25], [0, 0.75, 1]])
PAIRS = np.array([[True, False, True], [True, True, False]])


class Case(NamedTuple):
    name: str
    loss: Callable
    value: float
    lowest: float = -3.0  # from where on it is monotone
    overflows: bool = False


def first(loss, **options):
    return lambda correct, wrong: loss(correct, wrong[..., 0], **options)


def among(loss, **options):
    def of_all(correct, wrong):
        return loss(correct, jnp.concatenate([correct[..., None], wrong], axis=-1), **options)

    return of_all


def two_positives(margin, **options):
    def of_both(correct, wrong):
        positives = jnp.stack([correct, correct + 1], axis=-1)
        return losses.contrastive(positives, wrong, margin, **options)

    return of_both


def several(loss, *values, **options):
    return lambda correct, wrong: loss(correct, wrong, *values, **options)


SQUARES = dict(pair=losses.square_square)
LOGS = dict(pair=losses.violation, combine=losses.log_summed)
CASES = [
    Case("energy", lambda c, w: losses.energy_loss(c), 0.5),
    Case("hinge", first(losses.hinge), 1.25),
    Case("log", first(losses.log_loss), log(1 + exp(0.25))),
    Case("log, margin", first(losses.log_loss, margin=1.0, beta=2.0), log(1 + exp(2.5)) / 2),
    Case("mce", first(losses.mce, beta=4.0), 1 / (1 + exp(-1))),
    Case("square-square", first(losses.square_square), 0.25 + 0.75**2, 0.0),
    Case(
        "square-exponential",
        first(losses.square_exponential, scale=2.0, beta=3.0),
        0.25 + 2 * exp(-0.75),
        0.0,
        True,
    ),
    Case("simple pair", first(losses.simple_pair), 0.5 + 0.75, 0.0),
    Case("perceptron", among(losses.perceptron), 0.5 - 0.25),
    Case("nll", among(losses.nll), 0.5 + log(Z)),
    Case(
        "nll, cold",
        among(losses.nll, beta=2.0),
        0.5 + log(exp(-1) + exp(-0.5) + exp(-4) + exp(-2)) / 2,
    ),
    Case(
        "nll, weights",
        among(losses.nll, weights=np.float32([1, 0.5, 2, 0])),
        0.5 + log(exp(-0.5) + 0.5 * exp(-0.25) + 2 * exp(-2)),
    ),
    Case("nll by samples", losses.nll_by_samples, 0.5 - 3.25 / 3),
    Case("minimum error", among(losses.minimum_empirical_error), 1 - exp(-0.5) / Z),
    Case("contrastive hinge", two_positives(0.7), 1.15 + 3.35),
    Case("contrastive hinge, margins", two_positives(MARGINS), 1.75 + 3.0),
    Case("contrastive hinge, where", two_positives(0.7, where=PAIRS), 1.15 + 2.15),
    Case("contrastive squares", two_positives(1.0, **SQUARES), 0.75 + 6.75 + 2 * 0.75**2, 0.0),
    Case("contrastive simple", two_positives(1.0, pair=losses.simple_pair), 6 + 1.5, 0.0),
    Case(
        "contrastive log-summed",
        two_positives(0.5, **LOGS),
        log(1 + sum(exp(p - w + 0.5) for p in (0.5, 1.5) for w in WRONG)),
    ),
    Case("additive margin", several(losses.additive_margin, MARGINS[0]), 1.25 + 0.5),
    Case("InfoNCE", losses.info_nce, log(1 + exp(0.25) + exp(-1.5) + exp(-0.5))),
    Case("InfoNCE, sharp", several(losses.info_nce, 0.5), log(1 + exp(0.5) + exp(-3) + exp(-1))),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@lru_cache
def compiled(loss):
    return jax.jit(jax.vmap(jax.value_and_grad(lambda row: loss(row[0], row[1:]))))


def value_and_slopes(loss, rows):
    """Of rows (E_correct, E_wrong 1, 2, 3), always 216 of them so that each loss compiles once."""
    found = compiled(loss)(np.resize(rows, (216, 4)).astype(rows.dtype))
    return [np.asarray(a)[: len(rows)] for a in found]


def moved(case, by):
    """Values at 24 points and with each energy raised and lowered, (24, 4); the gradient at the points."""
    points = np.random.default_rng(1).uniform(case.lowest, 3, (24, 1, 4))
    rows = points + by * np.concatenate([np.zeros((1, 4)), np.eye(4), -np.eye(4)])
    values, slopes = value_and_slopes(case.loss, rows.reshape(-1, 4))
    values = values.reshape(24, 9)
    return values[:, :1], values[:, 1:5], values[:, 5:], slopes.reshape(24, 9, 4)[:, 0]


@every_case
def test_a_loss_has_the_value_computed_by_hand(case):
    value, _ = value_and_slopes(case.loss, np.float32([[CORRECT, *WRONG]]))
    np.testing.assert_allclose(value, [case.value], rtol=1e-6)


@every_case
def test_a_loss_has_the_gradient_of_finite_differences(case, x64):
    _, above, below, slopes = moved(case, 1e-6)
    assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose(slopes, (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


@every_case
def test_a_loss_never_falls_with_the_correct_energy_and_never_rises_with_a_wrong_one(case, x64):
    here, above, _, _ = moved(case, 0.7)
    change = above - here
    assert change[:, 0].min() >= -1e-12 and change[:, 0].max() > 0.1
    assert change[:, 1:].max() <= 1e-12


@every_case
def test_a_loss_is_a_number_at_extreme_energies_and_in_padded_sets(case):
    extreme = [-1e4, 0.0, 1e4]
    rows = np.float32(list(itertools.product(extreme, *[[*extreme, np.inf]] * 3)))
    found = value_and_slopes(case.loss, rows)
    assert not any(np.isnan(a).any() for a in found)
    if not case.overflows:
        finite = np.isfinite(rows).all(axis=1)
        assert all(np.isfinite(a[finite]).all() for a in found)


@every_case
def test_a_loss_of_a_batch_is_that_of_its_examples_compiled_or_not(case):
    rows = np.random.default_rng(2).uniform(0, 2, (2, 3, 4)).astype(np.float32)
    one_by_one, _ = value_and_slopes(case.loss, rows.reshape(6, 4))
    got = case.loss(jnp.asarray(rows[..., 0]), jnp.asarray(rows[..., 1:]))
    np.testing.assert_allclose(got, one_by_one.reshape(2, 3), rtol=2e-6, atol=1e-6)


@every_case
def test_a_loss_keeps_the_precision_of_its_energies(case, x64):
    for dtype in (jnp.float32, jnp.float64):
        correct, wrong = (jax.ShapeDtypeStruct(s, dtype) for s in ((2, 3), (2, 3, 3)))
        assert jax.eval_shape(case.loss, correct, wrong) == correct


def masked(loss):
    def of(correct, wrong, where=None):
        weights = None if where is None else jnp.concatenate([jnp.ones(1, bool), where])
        return loss(correct, jnp.concatenate([correct[None], wrong]), weights=weights)

    return of


def one_positive(**options):
    def of(correct, wrong, where=None):
        return losses.contrastive(correct[..., None], wrong, where=where, **options)

    return of


PADDED = {
    "perceptron": masked(losses.perceptron),
    "nll": masked(losses.nll),
    "minimum error": masked(losses.minimum_empirical_error),
    "contrastive hinge": one_positive(),
    "contrastive squares": one_positive(**SQUARES),
    "contrastive simple": one_positive(pair=losses.simple_pair),
    "contrastive log": one_positive(pair=losses.log_loss),
    "contrastive log-summed": one_positive(**LOGS),
    "additive margin": losses.additive_margin,
    "InfoNCE": losses.info_nce,
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_changes_neither_a_loss_nor_its_gradient(name):
    where = np.array([True] * 3 + [False] * 2)

    @jax.jit
    def all_three(correct, wrong):
        def of(correct, wrong, where=None):
            return PADDED[name](correct, wrong, where=where)

        slopes = jax.value_and_grad(of, (0, 1))
        infinite, garbage = (
            jnp.concatenate([wrong, jnp.float32(filling)])
            for filling in ((np.inf, np.inf), (-1e4, np.inf))
        )
        return slopes(correct, wrong), slopes(correct, infinite), slopes(correct, garbage, where)

    want, *padded = all_three(jnp.float32(CORRECT), jnp.float32(WRONG))
    for how, got in zip(("infinite", "masked"), padded, strict=True):
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6, err_msg=how)
        np.testing.assert_allclose(got[1][0], want[1][0], rtol=1e-6, err_msg=how)
        np.testing.assert_allclose(got[1][1], [*want[1][1], 0, 0], rtol=1e-5, err_msg=how)


PADDED_WRONG = np.array([*WRONG, np.inf])
LEARNED = {
    "hinge margin": lambda v: losses.hinge(CORRECT, WRONG[0], v),
    "log margin": lambda v: losses.log_loss(jnp.asarray(CORRECT), 0.25, v, 2.0),
    "log beta": lambda v: losses.log_loss(jnp.asarray(CORRECT), jnp.asarray(0.25), 0.5, v),
    "log beta, no wrong answer": lambda v: losses.log_loss(jnp.asarray(0.5), np.inf, 0.0, v),
    "mce beta": lambda v: losses.mce(CORRECT, jnp.asarray(0.25), beta=v),
    "mce beta, no wrong answer": lambda v: losses.mce(CORRECT, jnp.asarray(np.inf), beta=v),
    "square-exponential scale": lambda v: losses.square_exponential(0.5, 0.25, scale=v, beta=2.0),
    "square-exponential beta": lambda v: losses.square_exponential(0.5, 0.25, scale=1.5, beta=v),
    "square-exponential beta, no wrong answer": lambda v: losses.square_exponential(
        0.5, jnp.asarray(np.inf), beta=v
    ),
    "nll beta": lambda v: among(losses.nll, beta=v)(jnp.asarray(CORRECT), PADDED_WRONG),
    "minimum error beta": lambda v: among(losses.minimum_empirical_error, beta=v)(
        jnp.asarray(CORRECT), PADDED_WRONG
    ),
    "InfoNCE temperature": lambda v: losses.info_nce(jnp.asarray(CORRECT), PADDED_WRONG[:3], v),
    "InfoNCE temperature, padded": lambda v: losses.info_nce(jnp.asarray(CORRECT), PADDED_WRONG, v),
}


@pytest.mark.parametrize("name", LEARNED)
def test_margins_and_temperatures_can_be_learned(name, x64):
    loss = jax.jit(jax.value_and_grad(LEARNED[name]))
    slope = (loss(0.9 + 1e-6)[0] - loss(0.9 - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(loss(0.9)[1], slope, rtol=1e-6, atol=1e-9)


# What the losses are of one another.

SOME = np.random.default_rng(3).uniform(-2, 2, (6, 5))
LABELS = np.array([0, 1, 2, 3, 4, 0])
OF_LABELS = SOME[np.arange(6), LABELS]
OTHERS = np.stack([np.delete(e, k) for e, k in zip(SOME, LABELS, strict=True)])


def test_nll_falls_to_the_perceptron_loss_and_log_loss_to_the_hinge_as_beta_grows(x64):
    wrong = OTHERS[:, 0]

    @jax.jit
    def soft(beta):
        return losses.log_loss(OF_LABELS, wrong, 0.3, beta), losses.nll(OF_LABELS, SOME, beta)

    limits = np.maximum(0, 0.3 + OF_LABELS - wrong), OF_LABELS - SOME.min(axis=1)
    for beta in (1.0, 10.0, 1e3, np.inf):
        for value, limit, answers in zip(soft(beta), limits, (2, 5), strict=True):
            assert (value >= limit - 1e-12).all()
            assert (value <= limit + np.log(answers) / beta + 1e-12).all()
    np.testing.assert_allclose(losses.perceptron(OF_LABELS, SOME), limits[1])
    np.testing.assert_allclose(losses.hinge(OF_LABELS, wrong, 0.3), limits[0])


def test_nll_and_info_nce_are_optax_softmax_cross_entropy_of_negated_energies():
    energies, correct, others = map(jnp.float32, (SOME, OF_LABELS, OTHERS))
    pairs = energies[:5]  # a batch of pairs: the correct ones on the diagonal
    negatives = ~np.eye(5, dtype=bool)
    ours = jax.jit(
        lambda: (
            losses.nll(correct, energies),
            losses.info_nce(correct, others),
            losses.info_nce(jnp.diagonal(pairs), pairs, 0.5, where=negatives),
        )
    )()
    theirs = jax.jit(optax.softmax_cross_entropy_with_integer_labels)
    np.testing.assert_allclose(ours[0], theirs(-energies, LABELS), rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs(-energies, LABELS), rtol=1e-5)
    np.testing.assert_allclose(ours[2], theirs(-pairs / 0.5, np.arange(5)), rtol=1e-5)


def test_info_nce_pushes_each_negative_by_its_probability_over_the_temperature(x64):
    of_wrong = jax.jit(jax.vmap(jax.grad(losses.info_nce, 1), (0, 0, None)))
    slopes = of_wrong(OF_LABELS, OTHERS, 0.4)
    odds = np.exp(-np.concatenate([OF_LABELS[:, None], OTHERS], axis=1) / 0.4)
    np.testing.assert_allclose(slopes, -(odds / odds.sum(1, keepdims=True))[:, 1:] / 0.4)


def test_nll_over_a_grid_or_over_weighted_samples_is_that_of_the_normal_density(x64):
    """E = y^2 / 2 has F = -1/beta log sqrt(2 pi / beta)."""
    rng = np.random.default_rng(4)
    grid, samples = np.linspace(-9, 9, 361), rng.normal(0, 2, 40_000)
    density = np.exp(-(samples**2) / 8) / np.sqrt(8 * np.pi)
    shares = 1 / (len(samples) * density)
    nll = jax.jit(losses.nll)
    for beta in (0.5, 1.0, 4.0):
        want = 0.7**2 / 2 + np.log(2 * np.pi / beta) / 2 / beta
        cells = np.full(361, grid[1] - grid[0])
        np.testing.assert_allclose(nll(0.245, grid**2 / 2, beta, weights=cells), want)
        estimate = nll(0.245, samples**2 / 2, beta, weights=shares)
        terms = shares * np.exp(-beta * samples**2 / 2)
        error = terms.std() * np.sqrt(len(samples)) / terms.sum() / beta
        assert 1e-4 < error < 0.03 and abs(estimate - want) < 4 * error


def test_samples_of_the_model_give_the_gradient_of_the_nll_but_not_its_value(x64):
    counts = np.array([1, 2, 5, 8])  # of 16 samples, in the proportions of exp(-2 E)
    energies = -np.log(counts) / 2
    drawn = np.repeat(np.arange(4), counts)
    nll = jax.jit(jax.value_and_grad(lambda e: losses.nll(e[1], e, 2.0)))
    of_samples = jax.jit(jax.value_and_grad(lambda e: losses.nll_by_samples(e[1], e[drawn])))
    likelihood, sampled = nll(energies), of_samples(energies)
    np.testing.assert_allclose(sampled[1], likelihood[1], atol=1e-12)
    np.testing.assert_allclose(likelihood[1], np.array([0, 1, 0, 0]) - counts / 16, atol=1e-12)
    assert abs(sampled[0] - likelihood[0]) > 0.1


def test_minimum_empirical_error_is_one_minus_the_probability_and_mce_for_two_answers(x64):
    p = np.exp(-1.5 * SOME) / np.exp(-1.5 * SOME).sum(1, keepdims=True)
    of = jax.jit(losses.minimum_empirical_error)
    error = of(OF_LABELS, SOME, 1.5)
    np.testing.assert_allclose(error, 1 - p[np.arange(6), LABELS])
    two = of(SOME[:, 0], SOME[:, :2], 1.5)
    np.testing.assert_allclose(two, losses.mce(SOME[:, 0], SOME[:, 1], beta=1.5))


def test_the_perceptron_loss_of_a_linear_machine_is_that_of_the_lecture(x64):
    """E = -y r, r = w.x: the loss -(y - sign r) r has the gradient -(y - sign r) x."""
    rng = np.random.default_rng(5)
    w, x, y = rng.normal(size=3), rng.normal(size=(8, 3)), np.tile([-1.0, 1.0], 4)
    both = np.array([[-1.0, 1.0]])

    def loss(w):
        r = x @ w
        return losses.perceptron(-y * r, -both * r[:, None])

    r = x @ w
    assert len(set(zip(y, np.sign(r), strict=True))) == 4
    slopes, value = jax.jit(jax.jacrev(lambda w: (loss(w),) * 2, has_aux=True))(w)
    np.testing.assert_allclose(value, -(y - np.sign(r)) * r, atol=1e-12)
    want = -(y - np.sign(r))[:, None] * x
    np.testing.assert_allclose(slopes, want, atol=1e-12)


@pytest.mark.parametrize(
    "pair", [losses.hinge, losses.log_loss, losses.square_square, losses.simple_pair]
)
def test_contrastive_of_one_positive_and_one_negative_is_the_pair_loss(pair):
    correct, wrong = jnp.float32(OF_LABELS), jnp.float32(OTHERS[:, 0])
    got = jax.jit(partial(losses.contrastive, pair=pair))(correct[:, None], wrong[:, None], 0.6)
    np.testing.assert_allclose(got, jax.jit(pair)(correct, wrong, 0.6), rtol=1e-6)


def test_violations_summed_in_the_logarithm_are_the_log_loss_and_info_nce():
    correct, wrong = jnp.float32(OF_LABELS), jnp.float32(OTHERS)
    contrastive, log_loss, info_nce = map(
        jax.jit, (partial(losses.contrastive, **LOGS), losses.log_loss, losses.info_nce)
    )
    one = contrastive(correct[:, None], wrong[:, :1], 0.6)
    np.testing.assert_allclose(one, log_loss(correct, wrong[:, 0], 0.6), rtol=1e-6)
    every = contrastive(correct[:, None], wrong, 0.0)
    np.testing.assert_allclose(every, info_nce(correct, wrong), rtol=1e-6)


def test_additive_margin_sums_over_wrong_answers_each_with_its_margin(x64):
    margins = np.random.default_rng(6).uniform(0, 2, (6, 4))
    where = margins > 0.5
    for pair, of in [
        (losses.hinge, lambda c, w, m: max(0, m + c - w)),
        (losses.square_square, lambda c, w, m: max(0, c) ** 2 + max(0, m - w) ** 2),
    ]:
        want = [
            sum(of(OF_LABELS[i], OTHERS[i, n], margins[i, n]) for n in np.flatnonzero(where[i]))
            for i in range(6)
        ]
        got = losses.additive_margin(OF_LABELS, OTHERS, margins, pair=pair, where=where)
        np.testing.assert_allclose(got, want)


def test_the_printed_square_square_forms_push_a_wrong_answer_the_wrong_way():
    def clipped_below(correct, wrong):
        return correct**2 + jnp.minimum(0, 1 - wrong) ** 2

    def squared_energy(correct, wrong):
        return correct**2 - jnp.maximum(0, 1 - wrong**2)

    ours = jax.grad(losses.square_square, 1)
    assert jax.grad(clipped_below, 1)(0.0, 2.0) == 2 and ours(0.0, 2.0) == 0  # far enough away
    assert jax.grad(squared_energy, 1)(0.0, 0.5) == 1 and ours(0.0, 0.5) == -1  # too near


@pytest.mark.parametrize("weights", [{}, dict(invariance=2.0, variance=0.5, covariance=3.0)])
def test_vicreg_is_its_three_terms_and_a_batch_of_one_is_refused(weights, x64):
    rng = np.random.default_rng(7)
    a, b = rng.normal(0, [0.3, 1.0, 2.0], (5, 3)), rng.normal(0, 0.6, (5, 3))
    scales = {"invariance": 25, "variance": 25, "covariance": 1} | weights
    variance = covariance = 0
    for z in (a, b):
        for j in range(3):
            variance += max(0, 1 - np.sqrt(z[:, j].var(ddof=1) + 1e-4)) / 3
            for k in set(range(3)) - {j}:
                deviations = (z[:, j] - z[:, j].mean()) * (z[:, k] - z[:, k].mean())
                covariance += (deviations.sum() / 4) ** 2 / 3
    want = scales["variance"] * variance + scales["covariance"] * covariance
    want += scales["invariance"] * np.mean((a - b) ** 2)
    np.testing.assert_allclose(jax.jit(partial(losses.vicreg, **weights))(a, b), want)
    with pytest.raises(ValueError, match="at least 2"):
        losses.vicreg(a[:1], b[:1])


def test_vicreg_of_a_collapsed_batch_is_the_variance_it_lacks_with_a_finite_gradient():
    collapsed = jnp.ones((4, 3))
    loss, slope = jax.jit(jax.value_and_grad(losses.vicreg))(collapsed, collapsed)
    assert loss == pytest.approx(2 * 25 * 0.99) and np.isfinite(slope).all()
