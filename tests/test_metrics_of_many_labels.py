"""Metrics of sparse matrices: those of arrays, without one of (N, L)."""

import math

import numpy as np
import pytest
from scipy import sparse

from spen_jax import metrics

FORMS = sparse.csr_array, sparse.csr_matrix, sparse.coo_array, sparse.csc_array


def problem(seed, n=30, n_labels=12, negative=False):
    """Scores most of which are 0, some tied, and a truth with an empty and a full row."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, n_labels)) < 0.3).astype(int)
    truth[0], truth[1] = 0, 1
    scores = np.round(2 * rng.normal(size=truth.shape) + truth) / 2
    scores = np.where(rng.random(truth.shape) < 0.3, scores, 0)
    scores[2], scores[3] = 0, 1
    return scores if negative else np.abs(scores), truth


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_sparse_matrices_are_those_of_arrays(form, seed):
    scores, truth = problem(seed, negative=seed == 2)
    predicted = scores > 0.5
    for metric in metrics.example_f1, metrics.micro_f1, metrics.macro_f1, metrics.hamming_error:
        want = metric(predicted, truth)
        assert metric(form(predicted), form(truth)) == pytest.approx(want, rel=1e-12)
        assert metric(predicted, form(truth)) == pytest.approx(want, rel=1e-12)
    for k in (1, 3, 12):
        want = metrics.precision_at_k(scores, truth, k)
        assert metrics.precision_at_k(form(scores), form(truth), k) == pytest.approx(want)
        assert metrics.precision_at_k(scores, form(truth), k) == pytest.approx(want)


def test_sets_at_a_threshold_are_those_of_arrays_and_stay_sparse():
    scores, _ = problem(0)
    found = metrics.decide(sparse.csr_array(scores), 0.5)
    assert sparse.issparse(found) and found.dtype == bool
    np.testing.assert_array_equal(found.toarray(), metrics.decide(scores, 0.5))
    halves = sparse.csr_array(([0.3, 0.3], [1, 1], [0, 2]), shape=(1, 3))
    assert metrics.decide(halves, 0.5).toarray().tolist() == [[False, True, False]]
    assert halves.nnz == 2
    with pytest.raises(ValueError, match="a threshold above 0"):
        metrics.decide(found, 0.0)


def test_label_numbers_make_scores_and_sets():
    ranks = metrics.ranked([[3, 0], [1, 2]], 4)
    np.testing.assert_array_equal(ranks.toarray(), [[1, 0, 0, 2], [0, 2, 1, 0]])
    sets = metrics.label_sets([[3, 0], [], [1]], 4)
    np.testing.assert_array_equal(sets.toarray(), [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert metrics.example_f1(sets, metrics.label_sets([[3], [], [2]], 4)) == pytest.approx(5 / 9)
    assert metrics.precision_at_k(ranks, metrics.label_sets([[3], [2, 1]], 4), 1) == 1
    for make in metrics.ranked, metrics.label_sets:
        for labels, words in (([[4]], "in 0..3"), ([[-1]], "in 0..3"), ([[1, 1]], "twice")):
            with pytest.raises(ValueError, match=words):
                make(labels, 4)
        for labels in ([[0.5]], [[True]]):
            with pytest.raises(ValueError, match="whole numbers"):
                make(labels, 4)


def test_propensities_are_those_of_the_formula():
    truth = np.zeros((100, 3), int)
    truth[:10, 1], truth[:, 2] = 1, 1
    C = (math.log(100) - 1) * 2.5**0.55
    want = [1 / (1 + C * math.exp(-0.55 * math.log(n + 1.5))) for n in (0, 10, 100)]
    np.testing.assert_allclose(metrics.propensities(truth), want)
    np.testing.assert_allclose(metrics.propensities(sparse.csr_array(truth)), want)
    assert metrics.propensities(truth, A=0.6, B=2.6)[0] == pytest.approx(
        1 / (1 + (math.log(100) - 1) * 3.6**0.6 * 2.6**-0.6)
    )
    with pytest.raises(ValueError, match="3 rows"):
        metrics.propensities(truth[:2])


def by_hand(scores, truth, k, p):
    gained = best = 0
    for row, y in zip(scores, truth, strict=True):
        first = np.argsort(-row, kind="stable")[:k]
        gained += sum(y[first] / p[first]) / k
        best += sum(sorted(y / p)[::-1][:k]) / k
    return gained / len(truth), gained / best


@pytest.mark.parametrize("k", [1, 5])
def test_propensity_scored_precision_is_that_counted_by_hand(k):
    scores, truth = problem(4)
    p = metrics.propensities(truth)
    plain, normalised = by_hand(scores, truth, k, p)
    for form in (np.asarray, sparse.csr_array):
        given = form(scores), form(truth), k, p
        assert metrics.propensity_scored_precision_at_k(*given) == pytest.approx(normalised)
        got = metrics.propensity_scored_precision_at_k(*given, normalised=False)
        assert got == pytest.approx(plain)
        perfect = metrics.propensity_scored_precision_at_k(form(truth / p), form(truth), k, p)
        assert perfect == pytest.approx(1)
        ones = metrics.propensity_scored_precision_at_k(*given[:3], np.ones(12), normalised=False)
        assert ones == pytest.approx(metrics.precision_at_k(scores, truth, k))


def test_a_million_labels_are_measured_in_little_memory():
    rng = np.random.default_rng(0)
    labels = np.argsort(rng.random((500, 40)), axis=1)[:, :5] + 1000 * np.arange(500)[:, None]
    truth = metrics.label_sets(labels[:, ::2], 10**6)
    ranks = metrics.ranked(labels, 10**6)
    assert metrics.precision_at_k(ranks, truth, 5) == pytest.approx(3 / 5)
    assert metrics.example_f1(ranks > 0, truth) == pytest.approx(6 / 8)
    p = metrics.propensities(truth)
    assert metrics.propensity_scored_precision_at_k(ranks, truth, 5, p) == pytest.approx(1)


def test_bad_sparse_arguments_are_refused_by_name():
    scores, truth = (sparse.csr_array(a) for a in problem(0))
    with pytest.raises(ValueError, match="a mask needs arrays"):
        metrics.example_f1(truth, truth, np.ones((30, 12), bool))
    with pytest.raises(ValueError, match="must share one shape"):
        metrics.example_f1(truth, truth[:5])
    with pytest.raises(ValueError, match="predicted must hold only 0 and 1"):
        metrics.example_f1(2 * truth, truth)
    with pytest.raises(ValueError, match="truth must hold only 0 and 1"):
        metrics.precision_at_k(scores, 2 * truth, 1)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.12"):
        metrics.precision_at_k(scores, truth, 13)
    with pytest.raises(ValueError, match="scores must be finite"):
        metrics.precision_at_k(scores * np.nan, truth, 1)
    with pytest.raises(ValueError, match="truth must hold booleans or real numbers"):
        metrics.example_f1(truth, truth.astype(complex))
    with pytest.raises(ValueError, match=r"scores is a sparse matrix.*toarray"):
        metrics.average_precision(scores, truth)
    for p in (np.ones(3), np.zeros(12)):
        with pytest.raises(ValueError, match="propensity must be"):
            metrics.propensity_scored_precision_at_k(scores, truth, 1, p)
    with pytest.raises(ValueError, match="must hold a true label"):
        metrics.propensity_scored_precision_at_k(scores, 0 * truth, 1, np.ones(12))
