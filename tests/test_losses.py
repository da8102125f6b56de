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
from problems import assert_trees_close

from spen_jax import losses


def test_hinge_is_positive_where_the_wrong_answer_is_not_worse_by_the_margin():
    correct, wrong = np.float32([1, 1, 1, 1]), np.float32([0, 1.5, 2, 5])
    np.testing.assert_allclose(losses.hinge(correct, wrong), [2, 0.5, 0, 0])
    np.testing.assert_allclose(
        losses.hinge(correct, wrong, np.float32([0, 1, 3, 4])), [1, 0.5, 2, 0]
    )
    slopes = jax.jit(jax.vmap(jax.grad(losses.hinge, (0, 1))))(correct, wrong)
    for of_energy, sign in zip(np.asarray(slopes), (1, -1), strict=True):
        np.testing.assert_array_equal(of_energy[[0, 1, 3]], [sign, sign, 0])


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
    Case("InfoNCE, sharp", several(losses.info_nce, 2.0), log(1 + exp(0.5) + exp(-3) + exp(-1))),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def around(lowest, by):
    """24 points from there to 3, and each with an energy raised and lowered, (24 * 9, 4)."""
    points = np.random.default_rng(1).uniform(lowest, 3, (24, 1, 4))
    return (points + by * np.concatenate([np.zeros((1, 4)), np.eye(4), -np.eye(4)])).reshape(-1, 4)


EXTREME = list(itertools.product([-1e4, 0.0, 1e4], *[[-1e4, 0.0, 1e4, np.inf]] * 3))
ROWS = {
    "by hand": [[CORRECT, *WRONG]],
    "extreme": EXTREME,
    "batch": np.random.default_rng(2).uniform(0, 2, (6, 4)),
} | {(lowest, by): around(lowest, by) for lowest in (-3.0, 0.0) for by in (1e-6, 0.7)}


@lru_cache
def found(dtype):
    """Values and gradients of all losses at all rows (E_correct, E_wrong 1, 2, 3), compiled once."""

    def of_row(row):
        of = [
            jax.value_and_grad(lambda row, case=case: case.loss(row[0], row[1:])) for case in CASES
        ]
        return {case.name: f(row) for case, f in zip(CASES, of, strict=True)}

    with jax.enable_x64(dtype == np.float64):
        rows = {name: np.asarray(rows, dtype) for name, rows in ROWS.items()}
        results = jax.jit(jax.vmap(of_row))(np.concatenate(list(rows.values())))
        ends = np.cumsum([len(r) for r in rows.values()])[:-1]
        return {
            name: [dict(zip(ROWS, np.split(np.asarray(a), ends), strict=True)) for a in result]
            for name, result in results.items()
        }


def moved(case, by):
    """Values at the points, with each energy raised and lowered; the gradient at the points."""
    values, slopes = (a[case.lowest, by] for a in found(np.float64)[case.name])
    values = values.reshape(24, 9)
    return values[:, :1], values[:, 1:5], values[:, 5:], slopes.reshape(24, 9, 4)[:, 0]


@every_case
def test_a_loss_has_the_value_computed_by_hand(case):
    for dtype in (np.float32, np.float64):
        value = found(dtype)[case.name][0]["by hand"]
        assert value.dtype == dtype
        np.testing.assert_allclose(value, [case.value], rtol=1e-6)


@every_case
def test_a_loss_has_the_gradient_of_finite_differences(case):
    _, above, below, slopes = moved(case, 1e-6)
    assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose(slopes, (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


@every_case
def test_a_loss_never_falls_with_the_correct_energy_and_never_rises_with_a_wrong_one(case):
    here, above, _, _ = moved(case, 0.7)
    change = above - here
    assert change[:, 0].min() >= -1e-12 and change[:, 0].max() > 0.1
    assert change[:, 1:].max() <= 1e-12


@every_case
def test_a_loss_is_a_number_at_extreme_energies_and_in_padded_sets(case):
    results = [a["extreme"] for a in found(np.float32)[case.name]]
    assert not any(np.isnan(a).any() for a in results)
    if not case.overflows:
        finite = np.isfinite(EXTREME).all(axis=1)
        assert all(np.isfinite(a[finite]).all() for a in results)


@lru_cache
def found_in_a_batch():
    rows = np.float32(ROWS["batch"]).reshape(2, 3, 4)
    of = jax.jit(lambda c, w: {case.name: case.loss(c, w) for case in CASES})
    return of(rows[..., 0], rows[..., 1:])


@every_case
def test_a_loss_of_a_batch_is_that_of_its_examples(case):
    one_by_one = found(np.float32)[case.name][0]["batch"].reshape(2, 3)
    got = found_in_a_batch()[case.name]
    np.testing.assert_allclose(got, one_by_one, rtol=2e-6, atol=1e-6)


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


@lru_cache
def found_padded():
    """Of each loss the value and gradients without padding, with infinite energies, and masked."""
    where = np.array([True] * 3 + [False] * 2)

    @jax.jit
    def all_three(correct, wrong):
        infinite, garbage = (
            jnp.concatenate([wrong, jnp.float32(filling)])
            for filling in ((np.inf, np.inf), (-1e4, np.inf))
        )

        def of(loss):
            slopes = jax.value_and_grad(loss, (0, 1))
            hidden = jax.value_and_grad(partial(loss, where=where), (0, 1))
            return slopes(correct, wrong), slopes(correct, infinite), hidden(correct, garbage)

        return {name: of(loss) for name, loss in PADDED.items()}

    return all_three(jnp.float32(CORRECT), jnp.float32(WRONG))


@pytest.mark.slow
@pytest.mark.parametrize("name", PADDED)
def test_padding_changes_neither_a_loss_nor_its_gradient(name):
    want, *padded = found_padded()[name]
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
    "InfoNCE beta": lambda v: losses.info_nce(jnp.asarray(CORRECT), PADDED_WRONG[:3], v),
    "InfoNCE beta, padded": lambda v: losses.info_nce(jnp.asarray(CORRECT), PADDED_WRONG, v),
}


@lru_cache
def found_learned():
    def at(v):
        return {name: jax.value_and_grad(loss)(v) for name, loss in LEARNED.items()}

    with jax.enable_x64(True):
        return jax.jit(jax.vmap(at))(np.array([0.9 - 1e-6, 0.9, 0.9 + 1e-6]))


@pytest.mark.parametrize("name", LEARNED)
def test_margins_and_betas_can_be_learned(name):
    values, slopes = map(np.asarray, found_learned()[name])
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / 2e-6, rtol=1e-6, atol=1e-9)


# What the losses are of one another.

SOME = np.random.default_rng(3).uniform(-2, 2, (6, 5))
LABELS = np.array([0, 1, 2, 3, 4, 0])
OF_LABELS = SOME[np.arange(6), LABELS]
OTHERS = np.stack([np.delete(e, k) for e, k in zip(SOME, LABELS, strict=True)])


def test_nll_falls_to_the_perceptron_loss_and_log_loss_to_the_hinge_as_beta_grows(x64):
    wrong = OTHERS[:, 0]

    @jax.jit
    def of(betas):
        def soft(beta):
            return losses.log_loss(OF_LABELS, wrong, 0.3, beta), losses.nll(OF_LABELS, SOME, beta)

        hard = losses.hinge(OF_LABELS, wrong, 0.3), losses.perceptron(OF_LABELS, SOME)
        return jax.vmap(soft)(betas), hard

    betas = np.array([1.0, 10.0, 1e3, np.inf])
    found = jax.tree.map(np.asarray, of(betas))
    limits = np.maximum(0, 0.3 + OF_LABELS - wrong), OF_LABELS - SOME.min(axis=1)
    for soft, hard, limit, answers in zip(*found, limits, (2, 5), strict=True):
        assert (soft >= limit - 1e-12).all()
        assert (soft <= limit + np.log(answers) / betas[:, None] + 1e-12).all()
        np.testing.assert_allclose(hard, limit)


def test_nll_and_info_nce_are_optax_softmax_cross_entropy_of_negated_energies():
    energies, correct, others = map(np.float32, (SOME, OF_LABELS, OTHERS))
    pairs = energies[:5]  # a batch of pairs: the correct ones on the diagonal
    negatives = ~np.eye(5, dtype=bool)
    softmax = optax.softmax_cross_entropy_with_integer_labels
    nll, one, of_pairs, *theirs = jax.jit(
        lambda: (
            losses.nll(correct, energies),
            losses.info_nce(correct, others),
            losses.info_nce(jnp.diagonal(pairs), pairs, 2.0, where=negatives),
            softmax(-energies, LABELS),
            softmax(-2 * pairs, np.arange(5)),
        )
    )()
    np.testing.assert_allclose(nll, theirs[0], rtol=1e-5)
    np.testing.assert_allclose(one, theirs[0], rtol=1e-5)
    np.testing.assert_allclose(of_pairs, theirs[1], rtol=1e-5)


def test_info_nce_pushes_each_negative_by_its_probability_times_beta(x64):
    of_wrong = jax.jit(jax.vmap(jax.grad(losses.info_nce, 1), (0, 0, None)))
    slopes = of_wrong(OF_LABELS, OTHERS, 2.5)
    odds = np.exp(-2.5 * np.concatenate([OF_LABELS[:, None], OTHERS], axis=1))
    np.testing.assert_allclose(slopes, -2.5 * (odds / odds.sum(1, keepdims=True))[:, 1:])


def test_nll_over_a_grid_or_over_weighted_samples_is_that_of_the_normal_density(x64):
    """E = y^2 / 2 has F = -1/beta log sqrt(2 pi / beta)."""
    rng = np.random.default_rng(4)
    grid, samples = np.linspace(-9, 9, 361), rng.normal(0, 2, 20_000)
    density = np.exp(-(samples**2) / 8) / np.sqrt(8 * np.pi)
    shares = 1 / (len(samples) * density)
    cells = np.full(361, grid[1] - grid[0])

    @jax.jit
    @jax.vmap
    def both(beta):
        return [
            losses.nll(0.245, y**2 / 2, beta, weights=w)
            for y, w in [(grid, cells), (samples, shares)]
        ]

    betas = np.array([0.5, 1.0, 4.0])
    for beta, on_grid, estimate in zip(betas, *both(betas), strict=True):
        want = 0.7**2 / 2 + np.log(2 * np.pi / beta) / 2 / beta
        np.testing.assert_allclose(on_grid, want)
        terms = shares * np.exp(-beta * samples**2 / 2)
        error = terms.std() * np.sqrt(len(samples)) / terms.sum() / beta
        assert 1e-4 < error < 0.04 and abs(estimate - want) < 4 * error


@pytest.mark.slow
def test_samples_of_the_model_give_the_gradient_of_the_nll_but_not_its_value(x64):
    counts = np.array([1, 2, 5, 8])  # of 16 samples, in the proportions of exp(-2 E)
    energies = -np.log(counts) / 2
    drawn = np.repeat(np.arange(4), counts)
    functions = (
        lambda e: losses.nll(e[1], e, 2.0),
        lambda e: losses.nll_by_samples(e[1], e[drawn]),
    )
    likelihood, sampled = jax.jit(lambda e: [jax.value_and_grad(f)(e) for f in functions])(energies)
    np.testing.assert_allclose(sampled[1], likelihood[1], atol=1e-12)
    np.testing.assert_allclose(likelihood[1], np.array([0, 1, 0, 0]) - counts / 16, atol=1e-12)
    assert abs(sampled[0] - likelihood[0]) > 0.1


def test_minimum_empirical_error_is_one_minus_the_probability_and_mce_for_two_answers(x64):
    p = np.exp(-1.5 * SOME) / np.exp(-1.5 * SOME).sum(1, keepdims=True)
    error, two, mce = jax.jit(
        lambda: (
            losses.minimum_empirical_error(OF_LABELS, SOME, 1.5),
            losses.minimum_empirical_error(SOME[:, 0], SOME[:, :2], 1.5),
            losses.mce(SOME[:, 0], SOME[:, 1], beta=1.5),
        )
    )()
    np.testing.assert_allclose(error, 1 - p[np.arange(6), LABELS])
    np.testing.assert_allclose(two, mce)


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


def test_contrastive_of_one_positive_is_the_pair_loss_the_log_loss_or_info_nce():
    correct, wrong = np.float32(OF_LABELS), np.float32(OTHERS)
    pairs = losses.hinge, losses.log_loss, losses.square_square, losses.simple_pair

    @jax.jit
    def both():
        of = losses.contrastive
        one = correct[:, None], wrong[:, :1], 0.6
        got = {pair.__name__: of(*one, pair=pair) for pair in pairs}
        want = {pair.__name__: pair(correct, wrong[:, 0], 0.6) for pair in pairs}
        got |= {"logs": of(*one, **LOGS), "of all": of(correct[:, None], wrong, 0.0, **LOGS)}
        return got, want | {"logs": want["log_loss"], "of all": losses.info_nce(correct, wrong)}

    assert_trees_close(*both(), rtol=1e-6)


def test_additive_margin_sums_over_wrong_answers_each_with_its_margin(x64):
    margins = np.random.default_rng(6).uniform(0, 2, (6, 4))
    where = margins > 0.5
    by_hand = {
        losses.hinge: lambda c, w, m: max(0, m + c - w),
        losses.square_square: lambda c, w, m: max(0, c) ** 2 + max(0, m - w) ** 2,
    }
    found = jax.jit(
        lambda: [
            losses.additive_margin(OF_LABELS, OTHERS, margins, pair=pair, where=where)
            for pair in by_hand
        ]
    )()
    for got, of in zip(found, by_hand.values(), strict=True):
        want = [
            sum(of(OF_LABELS[i], OTHERS[i, n], margins[i, n]) for n in np.flatnonzero(where[i]))
            for i in range(6)
        ]
        np.testing.assert_allclose(got, want)


def test_the_printed_square_square_forms_push_a_wrong_answer_the_wrong_way():
    def clipped_below(correct, wrong):
        return correct**2 + jnp.minimum(0, 1 - wrong) ** 2

    def squared_energy(correct, wrong):
        return correct**2 - jnp.maximum(0, 1 - wrong**2)

    both = clipped_below, losses.square_square, squared_energy, losses.square_square
    at = 2.0, 2.0, 0.5, 0.5  # far enough away, and too near
    slopes = jax.jit(
        lambda: [jax.grad(f, 1)(0.0, wrong) for f, wrong in zip(both, at, strict=True)]
    )
    assert slopes() == [2, 0, 1, -1]


def test_vicreg_is_its_three_terms_and_a_batch_of_one_is_refused(x64):
    rng = np.random.default_rng(7)
    a, b = rng.normal(0, [0.3, 1.0, 2.0], (5, 3)), rng.normal(0, 0.6, (5, 3))
    other = dict(invariance=2.0, variance=0.5, covariance=3.0)
    found = jax.jit(lambda: (losses.vicreg(a, b), losses.vicreg(a, b, **other)))()
    variance = covariance = 0
    for z in (a, b):
        for j in range(3):
            variance += max(0, 1 - np.sqrt(z[:, j].var(ddof=1) + 1e-4)) / 3
            for k in set(range(3)) - {j}:
                deviations = (z[:, j] - z[:, j].mean()) * (z[:, k] - z[:, k].mean())
                covariance += (deviations.sum() / 4) ** 2 / 3
    for got, weights in zip(found, ((25, 25, 1), other.values()), strict=True):
        want = np.dot(list(weights), [np.mean((a - b) ** 2), variance, covariance])
        np.testing.assert_allclose(got, want)
    with pytest.raises(ValueError, match="at least 2"):
        losses.vicreg(a[:1], b[:1])


def test_vicreg_of_a_collapsed_batch_is_the_variance_it_lacks_with_a_finite_gradient():
    collapsed = jnp.ones((4, 3))
    loss, slope = jax.jit(jax.value_and_grad(losses.vicreg))(collapsed, collapsed)
    assert loss == pytest.approx(2 * 25 * 0.99) and np.isfinite(slope).all()
