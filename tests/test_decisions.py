import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import metrics
from spen_jax.metrics import decisions

SHAPE = N, LABELS = 120, 12  # of everything that is tuned, so that it compiles once


def random_problem(seed, tied=False):
    """Scores, and a sparse truth with an empty and a full row that they know something about."""
    rng = np.random.default_rng(seed)
    truth = rng.random(SHAPE) < rng.uniform(0.02, 0.5, LABELS)
    truth[0], truth[1] = False, True
    scores = truth + rng.normal(size=SHAPE)
    return np.round(scores) if tied else scores, truth


def calibrated_problem(n=N):
    """Truth drawn from sigmoid(logits): the scores (logits + 3) / 2 are calibrated by a=2, b=-3."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 2, (n, LABELS))
    return (logits + 3) / 2, rng.random(logits.shape) < sigmoid(logits)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def subsets(n_labels):
    return np.array(list(itertools.product([0, 1], repeat=n_labels)))


def exact_expected_f1(p):
    """E[F1] of all 2^L sets (rows as in `subsets`), by a sum over all 2^L outcomes."""
    sets = subsets(len(p))
    probability = np.prod(np.where(sets == 1, p, 1 - p), axis=1)
    hits, total = sets @ sets.T, sets.sum(1)[:, None] + sets.sum(1)
    return np.where(total == 0, 1, 2 * hits / np.maximum(total, 1)) @ probability


# Thresholds


def test_a_score_at_the_threshold_is_predicted_and_nan_is_not():
    scores = np.array([[0.4, 0.5, 0.6, np.nan]])
    assert metrics.decide(scores).tolist() == [[False, True, True, False]]
    mask = [[True, True, False, True]]
    assert metrics.decide(scores, mask=mask).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_tuned_threshold_is_as_good_as_the_best_of_all_thresholds(dtype, tied):
    for seed, masked in itertools.product(range(3), [False, True]):
        scores, truth = (a[:12] for a in random_problem(seed, tied=tied))
        scores = scores.astype(dtype)
        mask = np.random.default_rng(seed).random(scores.shape) < 0.3 if masked else None

        def f1(threshold, scores=scores, truth=truth, mask=mask):
            return metrics.example_f1(metrics.decide(scores, threshold), truth, mask)

        best = max(f1(t) for t in [*np.unique(scores).tolist(), np.inf])
        threshold = metrics.tune_threshold(scores, truth, mask)
        assert f1(threshold) == pytest.approx(best, abs=1e-12)


def test_tuned_threshold_lies_half_way_between_the_scores_that_it_separates():
    assert metrics.tune_threshold([[3.0, 2.0, -5.0]], [[1, 0, 0]]) == 2.5
    assert metrics.tune_threshold([[8.0, 1.0], [4.0, 2.0]], [[1, 0], [1, 0]]) == 3.0
    assert metrics.tune_threshold([[3.0, 2.0, -5.0]], [[1, 0, 0]], [[1, 0, 1]]) == -1.0


def test_tuned_threshold_can_predict_nothing_and_everything():
    scores = [[0.3, -0.2], [0.1, 0.7]]
    assert metrics.tune_threshold(scores, np.zeros((2, 2))) == np.inf
    assert metrics.tune_threshold(scores, np.ones((2, 2))) == -0.2
    assert metrics.tune_threshold(scores, np.ones((2, 2)), [[1, 0], [1, 1]]) == 0.1


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_tuned_threshold_separates_neighbouring_floats(dtype):
    for low in (1.0, 1.0 + float(jnp.finfo(dtype).eps)):  # the middle rounds down, then up
        low = np.asarray(low, dtype)
        scores = np.array([[low, low + jnp.finfo(dtype).eps]])
        threshold = metrics.tune_threshold(scores, [[0, 1]])
        assert metrics.decide(scores, threshold).tolist() == [[False, True]]


# Expected F1


def test_expected_f1_sets_are_the_best_of_all_subsets_of_the_labels_that_count():
    rng = np.random.default_rng(0)
    p = np.stack([rng.beta(*rng.uniform(0.1, 3, 2), size=6) for _ in range(16)])
    mask = rng.random(p.shape) < np.where(np.arange(16) < 8, 1, 0.6)[:, None]
    sets = metrics.expected_f1_sets(np.where(mask, p, np.nan), mask)
    assert not (sets & ~mask).any()
    for row, counted, chosen in zip(p, mask, sets, strict=True):
        by_set = exact_expected_f1(row[counted])
        value = by_set[(subsets(counted.sum()) == chosen[counted]).all(axis=1)].item()
        assert value == pytest.approx(by_set.max(), abs=1e-6)


def test_expected_f1_of_every_size_equals_a_sum_over_all_outcomes():
    rng = np.random.default_rng(0)
    p = -np.sort(-rng.random((5, 6)), axis=1)
    p[0], p[1, :2], p[1, -2:] = 0.0, 1.0, 0.0
    values = jax.jit(decisions.expected_f1_by_size)(jnp.asarray(p, float))
    first_k = (subsets(6)[:, :-1] >= subsets(6)[:, 1:]).all(axis=1)  # 000000, 100000, 110000, ..
    expected = np.stack([exact_expected_f1(row)[first_k] for row in p])
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_expected_f1_stays_accurate_for_many_labels():
    n_labels = 983
    k = np.arange(n_labels + 1)
    p = np.stack([np.ones(n_labels), np.full(n_labels, 0.5)]).astype(np.float32)
    values = jax.jit(decisions.expected_f1_by_size)(p)
    # n others with probability 1/2 each: their number has a binomial distribution.
    log_choose = np.concatenate([[0], np.cumsum(np.log(np.arange(1, n_labels)))])
    log_choose = log_choose[-1] - log_choose - log_choose[::-1] - (n_labels - 1) * np.log(2)
    binomial = np.exp(log_choose)
    of_half = k * ((1 / (k[:, None] + 1 + np.arange(n_labels))) @ binomial)
    np.testing.assert_allclose(values[0], 2 * k / (k + n_labels), atol=1e-4)
    np.testing.assert_allclose(values[1, 1:], of_half[1:], atol=1e-4)


def test_expected_f1_sets_follow_certain_labels_and_leave_out_rare_ones():
    p = np.zeros((16, 6))
    p[:3, :2] = [[0, 1], [1, 1], [0, 0]]
    p[3], p[4, 0], p[5, 0] = 0.03, 0.6, 0.4
    p[6] = 0.35  # below one half, but some of them will be true
    sets = metrics.expected_f1_sets(jnp.asarray(p, float))
    assert sets.dtype == bool
    expected = np.zeros((16, 6), bool)
    expected[:2, :2] = [[0, 1], [1, 1]]
    expected[4, 0], expected[6] = True, True
    np.testing.assert_array_equal(sets, expected)


def test_without_empty_sets_the_likeliest_label_that_counts_is_predicted():
    p, mask = np.zeros(SHAPE), np.zeros(SHAPE)
    p[:3, :3] = [[0.01, 0.02, 0.9], [0, 0, 0], [0.9, 0.9, 0.9]]
    mask[:3, :3] = [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    sets = metrics.expected_f1_sets(p, mask, allow_empty=False)
    assert sets[:2, :3].astype(int).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert sets.sum() == 2


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_probabilities_outside_0_and_1_are_an_error(bad):
    with pytest.raises(ValueError, match="sigmoid"):
        metrics.expected_f1_sets([[0.5, bad]])


# Calibration


def test_logistic_fit_finds_the_sigmoid_that_made_the_labels():
    z, truth = (a.ravel() for a in calibrated_problem(n=500))
    assert decisions.fit_logistic(z, truth) == pytest.approx((2, -3), rel=0.1)


def test_logistic_fit_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    z, truth = (a.ravel() for a in calibrated_problem())
    model = linear_model.LogisticRegression(C=1e6, tol=1e-10).fit(z[:, None], truth)
    expected = (model.coef_.item(), model.intercept_.item())
    assert decisions.fit_logistic(z, truth) == pytest.approx(expected, rel=1e-3)


def test_logistic_fit_survives_outliers_on_which_plain_newton_steps_diverge():
    z = np.random.default_rng(13).standard_cauchy((2, 10)).ravel() ** 3
    truth = z >= np.sort(z)[-2]
    a, b = decisions.fit_logistic(z, truth)
    assert np.mean(np.logaddexp(0, np.where(truth, -1, 1) * (a * z + b))) < 0.02


@pytest.fixture(scope="module")
def tuned():
    """z, truth, and the (a, b) tuned on them, empty sets being allowed."""
    z, truth = calibrated_problem()
    return z, truth, metrics.tune_expected(z, truth)


def test_tuned_expected_beats_the_fit_and_the_tuned_threshold_on_its_rows(tuned):
    z, truth, found = tuned

    def f1(a, b):
        return metrics.example_f1(metrics.expected_f1_sets(sigmoid(a * z + b)), truth)

    threshold = metrics.tune_threshold(z, truth)
    assert f1(*found) > f1(*decisions.fit_logistic(z.ravel(), truth.ravel()))
    assert f1(*found) > metrics.example_f1(metrics.decide(z, threshold), truth)


def test_tuned_expected_does_not_care_about_the_units_of_its_scores(tuned):
    z, truth, found = tuned
    a, b = metrics.tune_expected(100 * z + 7, truth)
    assert (100 * a, b + 7 * a) == pytest.approx(found, rel=1e-3)


@pytest.fixture(scope="module")
def narrow():
    """z and truth of fewer labels, shuffled, (a, b) tuned on them and on z + 1, and the shapes traced."""
    order = np.argsort(np.random.default_rng(1).random(SHAPE), axis=1)[:, : LABELS - 2]
    z, truth = (np.take_along_axis(a, order, axis=1) for a in calibrated_problem())
    traces, original = [], decisions.expected_f1_by_size

    def counted(p):
        traces.append(p.shape)
        return original(p)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "expected_f1_by_size", counted)
        found = [metrics.tune_expected(z + shift, truth) for shift in (0, 1)]
    return z, truth, found, traces


def test_tuning_compiles_once_for_all_grid_points(narrow):
    *_, traces = narrow
    assert traces == [(N, LABELS - 2)]


def test_tuned_expected_sees_only_the_labels_that_count(tuned, narrow):
    z, truth, (alone, _), _ = narrow
    first = np.random.default_rng(2).normal(size=(N, 1))
    z = np.concatenate([first, z, np.full((N, 1), np.nan)], axis=1)
    truth = np.concatenate([np.ones((N, 1)), truth, np.full((N, 1), np.nan)], axis=1)
    mask = np.pad(np.ones((N, LABELS - 2)), ((0, 0), (1, 1)))
    assert metrics.tune_expected(z, truth, mask) == pytest.approx(alone, rel=1e-5)
    assert alone != pytest.approx(tuned[2], rel=1e-3)


@pytest.mark.parametrize("kind", ["separable", "constant", "reversed", "all true", "all false"])
def test_tuned_expected_stays_finite_on_degenerate_rows(kind):
    z, truth = random_problem(0)
    if kind == "separable":
        z = 2.0 * truth - 1
    elif kind == "constant":
        z = np.ones(SHAPE)
    elif kind == "reversed":
        z = -1000.0 * truth
    else:
        truth[:] = kind == "all true"
    a, b = metrics.tune_expected(z, truth)
    assert 0 < a < 1e3 and abs(b) < 1e3
    if kind not in ("constant", "reversed"):
        assert metrics.example_f1(metrics.expected_f1_sets(sigmoid(a * z + b)), truth) == 1


# Rules


@pytest.fixture(scope="module")
def relaxed():
    """y, float32 as inference gives it, some of it saturated, truth, and a mask."""
    z, truth = calibrated_problem()
    y = sigmoid(3 * z - 1).astype(np.float32)
    y[0] = np.where(truth[0], 1, 0)
    return y, truth, np.random.default_rng(0).random(SHAPE) < 0.7


@pytest.fixture(scope="module")
def rules(relaxed):
    return [rule.tune(*relaxed) for rule in (metrics.Fixed, metrics.Tuned, metrics.Expected)]


def test_rules_decide_as_the_functions_that_they_stand_for(relaxed):
    y, truth, _ = relaxed
    p = np.clip(y.astype(float), 1e-7, 1 - 1e-7)
    z = np.log(p / (1 - p))
    a, b = metrics.tune_expected(z, truth, allow_empty=False)
    threshold = metrics.tune_threshold(y, truth)
    expected = metrics.Expected.tune(y, truth)
    assert dataclasses.astuple(expected) == pytest.approx((a, b, False))
    assert metrics.Tuned.tune(y, truth) == metrics.Tuned(threshold)
    assert metrics.Fixed.tune(y, truth) == metrics.Fixed(0.5)
    sets = metrics.expected_f1_sets(jax.nn.sigmoid(jnp.asarray(a * z + b)), allow_empty=False)
    np.testing.assert_array_equal(expected(y), sets)
    np.testing.assert_array_equal(metrics.Tuned(threshold)(y), y >= threshold)
    np.testing.assert_array_equal(metrics.Fixed(0.3)(y), y >= 0.3)
    assert sets.any(axis=1).all()
    assert not metrics.Expected(a, b, allow_empty=True)(y).any(axis=1).all()


def test_a_rule_is_blind_to_labels_that_do_not_count(relaxed, rules):
    y, truth, mask = relaxed
    hidden = np.where(mask, y, np.nan), np.where(mask, truth, np.nan)
    for rule in rules:
        assert type(rule).tune(*hidden, mask) == rule
        sets = rule(hidden[0], mask)
        np.testing.assert_array_equal(sets, rule(np.where(mask, y, 1), mask))
        assert not (sets & ~mask).any()
    rules = [*rules[:2], metrics.Expected.tune(*relaxed, allow_empty=True)]
    fixed, tuned, expected = (metrics.example_f1(r(y, mask), truth, mask) for r in rules)
    assert fixed < tuned < expected


def test_rules_survive_json(rules):
    for rule in rules:
        saved = json.loads(json.dumps(dataclasses.asdict(rule)))
        assert type(rule)(**saved) == rule


def test_scores_in_place_of_relaxed_labels_are_an_error():
    scores = [[0.5, 3.2]]
    for call in (metrics.Expected(1.0, 0.0, False), lambda y: metrics.Expected.tune(y, [[0, 1]])):
        with pytest.raises(ValueError, match=r"in \[0, 1\], but holds 3\.2: give sigmoid"):
            call(scores)
