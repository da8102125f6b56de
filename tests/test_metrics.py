import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import metrics

PREDICTION_METRICS = [
    metrics.example_f1,
    metrics.micro_f1,
    metrics.macro_f1,
    metrics.hamming_error,
]
SCORE_FUNCTIONS = [
    lambda y, scores: metrics.precision_at_k(y, scores, 1),
    metrics.average_precision,
    metrics.tune_threshold,
    metrics.tune_expected,
]


def random_problem(seed, n=40, n_labels=12, tied=False):
    """Sparse truth with an empty and a full row, and scores that know something about it."""
    rng = np.random.default_rng(seed)
    y = rng.random((n, n_labels)) < rng.uniform(0.02, 0.5, n_labels)
    y[0], y[1] = False, True
    scores = y + rng.normal(size=y.shape)
    return y.astype(int), np.round(scores) if tied else scores


def random_decisions(seed):
    y, scores = random_problem(seed)
    predicted = scores > 0.5
    y[:, 3], predicted[:, 3] = 0, False  # a label that is nowhere
    predicted[0], predicted[2] = False, False  # empty against empty, empty against something
    y[2, 0] = 1
    return y, predicted


def subsets(n_labels):
    return np.array(list(itertools.product([0, 1], repeat=n_labels)))


def exact_expected_f1(p):
    """E[F1] of all 2^L sets (rows as in `subsets`), by a sum over all 2^L outcomes."""
    sets = subsets(len(p))
    probability = np.prod(np.where(sets == 1, p, 1 - p), axis=1)
    hits, total = sets @ sets.T, sets.sum(1)[:, None] + sets.sum(1)
    return np.where(total == 0, 1, 2 * hits / np.maximum(total, 1)) @ probability


@pytest.mark.parametrize("seed", range(3))
def test_f1_and_hamming_agree_with_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    y, predicted = random_decisions(seed)

    def f1(average, zero_division):
        return sklearn.f1_score(y, predicted, average=average, zero_division=zero_division)

    assert metrics.example_f1(y, predicted) == pytest.approx(f1("samples", 1))
    assert metrics.micro_f1(y, predicted) == pytest.approx(f1("micro", 0))
    assert metrics.macro_f1(y, predicted) == pytest.approx(f1("macro", 0))
    assert metrics.hamming_error(y, predicted) == pytest.approx(sklearn.hamming_loss(y, predicted))


def test_metrics_of_a_small_table_are_those_counted_by_hand():
    y = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    predicted = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert metrics.example_f1(y, predicted) == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert metrics.micro_f1(y, predicted) == pytest.approx(4 / 7)
    assert metrics.macro_f1(y, predicted) == pytest.approx(1 / 4)
    assert metrics.hamming_error(y, predicted) == pytest.approx(3 / 12)


def test_nothing_true_and_nothing_predicted_is_1_for_examples_and_0_for_cells_and_labels():
    nothing = np.zeros((2, 3))
    assert metrics.example_f1(nothing, nothing) == 1
    assert metrics.micro_f1(nothing, nothing) == 0
    assert metrics.macro_f1(nothing, nothing) == 0
    assert metrics.hamming_error(nothing, nothing) == 0


@pytest.mark.parametrize("metric", PREDICTION_METRICS)
def test_jax_arrays_and_booleans_give_the_same_python_float(metric):
    y, predicted = random_decisions(0)
    value = metric(y, predicted)
    assert type(value) is float
    assert metric(jnp.asarray(y, bool), jnp.asarray(predicted, jnp.float32)) == value


@pytest.mark.parametrize("tied", [False, True])
def test_average_precision_agrees_with_scikit_learn_where_a_label_is_true(tied):
    sklearn = pytest.importorskip("sklearn.metrics")
    y, scores = random_problem(1, tied=tied)
    some = y.any(axis=1)
    assert not some.all()
    expected = sklearn.average_precision_score(y[some], scores[some], average="samples")
    assert metrics.average_precision(y, scores) == pytest.approx(expected)
    if not tied:
        ranking = sklearn.label_ranking_average_precision_score(y[some], scores[some])
        assert metrics.average_precision(y, scores) == pytest.approx(ranking)


def test_average_precision_of_one_tie_is_the_base_rate_in_any_order():
    assert metrics.average_precision([[1, 0, 0, 0]], np.zeros((1, 4))) == pytest.approx(1 / 4)
    assert metrics.average_precision([[0, 0, 0, 1]], np.zeros((1, 4))) == pytest.approx(1 / 4)


def test_average_precision_without_any_true_label_is_an_error():
    with pytest.raises(ValueError, match="true label"):
        metrics.average_precision(np.zeros((2, 3)), np.zeros((2, 3)))


def test_precision_at_k_counts_true_labels_among_the_k_best():
    y = [[1, 0, 1, 0], [0, 0, 0, 1]]
    scores = [[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.5, 0.5]]
    values = [metrics.precision_at_k(y, scores, k) for k in (1, 2, 3, 4)]
    assert values == pytest.approx([1 / 2, 1 / 4, 1 / 3, 3 / 8])
    for k in (0, 5):
        with pytest.raises(ValueError, match=r"1\.\.4"):
            metrics.precision_at_k(y, scores, k)


def test_of_equal_scores_the_lower_label_index_goes_first():
    left = np.arange(500)[None] < 100
    equal = np.where(np.arange(500)[None] < 499, 0.5, 0.6)
    assert metrics.precision_at_k(left, equal, 101) == pytest.approx(100 / 101)


def test_a_score_at_the_threshold_is_predicted_and_nan_is_not():
    decided = metrics.decide(jnp.asarray([[0.4, 0.5, 0.6, jnp.nan]]))
    assert decided.tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("seed", range(3))
def test_tuned_threshold_is_as_good_as_the_best_of_all_thresholds(seed, dtype, tied):
    y, scores = random_problem(seed, tied=tied)
    scores = scores.astype(dtype)

    def f1(threshold):
        return metrics.example_f1(y, metrics.decide(scores, threshold))

    best = max(f1(t) for t in [*np.unique(scores).tolist(), np.inf])
    assert f1(metrics.tune_threshold(y, scores)) == pytest.approx(best, abs=1e-12)


def test_tuned_threshold_lies_half_way_between_the_scores_that_it_separates():
    assert metrics.tune_threshold([[1, 0, 0]], [[3.0, 2.0, -5.0]]) == 2.5
    assert metrics.tune_threshold([[1, 0], [1, 0]], [[8.0, 1.0], [4.0, 2.0]]) == 3.0


def test_tuned_threshold_can_predict_nothing_and_everything():
    scores = [[0.3, -0.2], [0.1, 0.7]]
    assert metrics.tune_threshold(np.zeros((2, 2)), scores) == np.inf
    assert metrics.tune_threshold(np.ones((2, 2)), scores) == -0.2


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_tuned_threshold_separates_neighbouring_floats(dtype):
    for low in (1.0, 1.0 + float(jnp.finfo(dtype).eps)):  # the middle rounds down, then up
        low = np.asarray(low, dtype)
        scores = np.array([[low, low + jnp.finfo(dtype).eps]])
        threshold = metrics.tune_threshold([[0, 1]], scores)
        assert metrics.decide(scores, threshold).tolist() == [[False, True]]


@pytest.mark.parametrize("seed", range(8))
def test_expected_f1_set_is_the_best_of_all_subsets(seed):
    rng = np.random.default_rng(seed)
    p = rng.beta(*rng.uniform(0.1, 3, 2), size=6)
    by_set = exact_expected_f1(p)
    chosen = metrics.expected_f1_sets(p[None])[0]
    value = by_set[(subsets(6) == chosen).all(axis=1)].item()
    assert value == pytest.approx(by_set.max(), abs=1e-6)


def test_expected_f1_of_every_size_equals_a_sum_over_all_outcomes():
    rng = np.random.default_rng(0)
    p = -np.sort(-rng.random((5, 6)), axis=1)
    p[0], p[1, :2], p[1, -2:] = 0.0, 1.0, 0.0
    values = jax.jit(metrics._expected_f1_by_size)(jnp.asarray(p, float))
    first_k = (subsets(6)[:, :-1] >= subsets(6)[:, 1:]).all(axis=1)  # 000000, 100000, 110000, ..
    expected = np.stack([exact_expected_f1(row)[first_k] for row in p])
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("n_labels", [10, 159, 983])
def test_expected_f1_stays_accurate_for_many_labels(n_labels):
    k = np.arange(n_labels + 1)
    certain, half = np.ones(n_labels), np.full(n_labels, 0.5)
    p = jnp.asarray(np.stack([certain, half]), float)
    values = jax.jit(metrics._expected_f1_by_size)(p)
    # n others with probability 1/2 each: their number has a binomial distribution.
    log_choose = np.concatenate([[0], np.cumsum(np.log(np.arange(1, n_labels)))])
    log_choose = log_choose[-1] - log_choose - log_choose[::-1] - (n_labels - 1) * np.log(2)
    binomial = np.exp(log_choose)
    of_half = k * ((1 / (k[:, None] + 1 + np.arange(n_labels))) @ binomial)
    np.testing.assert_allclose(values[0], 2 * k / (k + n_labels), atol=1e-4)
    np.testing.assert_allclose(values[1, 1:], of_half[1:], atol=1e-4)


def test_expected_f1_sets_follow_certain_labels_and_leave_out_rare_ones():
    p = [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0.05, 0.05, 0.05, 0.05]]
    sets = metrics.expected_f1_sets(jnp.asarray(p, float))
    assert sets.dtype == bool
    assert sets.astype(int).tolist() == [[0, 1, 0, 1], [0] * 4, [1] * 4, [0] * 4]
    # A single possible label is predicted when it is likelier than not.
    assert metrics.expected_f1_sets([[0.6, 0], [0.4, 0]]).tolist() == [[True, False], [False] * 2]


def test_expected_f1_sets_go_below_one_half_when_many_labels_are_possible():
    assert metrics.expected_f1_sets(np.full((1, 20), 0.3)).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_probabilities_outside_0_and_1_are_an_error(bad):
    with pytest.raises(ValueError, match="sigmoid"):
        metrics.expected_f1_sets([[0.5, bad]])


def calibrated_problem(n=300, n_labels=20):
    """Truth drawn from sigmoid(logits): the scores (logits + 3) / 2 are calibrated by a=2, b=-3."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 2, (n, n_labels))
    y = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return y, (logits + 3) / 2


def test_logistic_fit_finds_the_sigmoid_that_made_the_labels():
    y, z = calibrated_problem()
    assert metrics._fit_logistic(y, z) == pytest.approx((2, -3), rel=0.1)


def test_logistic_fit_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    y, z = calibrated_problem()
    model = linear_model.LogisticRegression(C=1e6, tol=1e-10).fit(z.reshape(-1, 1), y.ravel())
    expected = (model.coef_.item(), model.intercept_.item())
    assert metrics._fit_logistic(y, z) == pytest.approx(expected, rel=1e-3)


def test_logistic_fit_survives_outliers_on_which_plain_newton_steps_diverge():
    z = np.random.default_rng(13).standard_cauchy((2, 10)) ** 3
    y = z >= np.sort(z.ravel())[-2]
    a, b = metrics._fit_logistic(y, z)
    assert np.mean(np.logaddexp(0, np.where(y, -1, 1) * (a * z + b))) < 0.02


def test_tuned_expected_beats_the_fit_and_the_tuned_threshold_on_its_rows():
    y, z = calibrated_problem()

    def f1(a, b):
        p = jax.nn.sigmoid(jnp.asarray(a * z + b, float))
        return metrics.example_f1(y, metrics.expected_f1_sets(p))

    a, b = metrics.tune_expected(y, z)
    threshold = metrics.tune_threshold(y, z)
    assert f1(a, b) > f1(*metrics._fit_logistic(y, z))
    assert f1(a, b) > metrics.example_f1(y, metrics.decide(z, threshold))
    assert metrics.tune_expected(y, z) == (a, b)


def test_tuned_expected_does_not_care_about_the_units_of_its_scores():
    y, z = calibrated_problem(n=50)
    a, b = metrics.tune_expected(y, z)
    a_scaled, b_scaled = metrics.tune_expected(y, 100 * z + 7)
    assert (100 * a_scaled, b_scaled + 7 * a_scaled) == pytest.approx((a, b), rel=1e-3)


@pytest.mark.parametrize("kind", ["separable", "constant", "reversed", "all true", "all false"])
def test_tuned_expected_stays_finite_on_degenerate_rows(kind):
    y, z = random_problem(0, n=10, n_labels=5)
    if kind == "separable":
        z = 2.0 * y - 1
    elif kind == "constant":
        z = np.ones(y.shape)
    elif kind == "reversed":
        z = -1000.0 * y
    else:
        y[:] = kind == "all true"
    a, b = metrics.tune_expected(y, z)
    assert 0 < a < 1e3 and abs(b) < 1e3
    if kind not in ("constant", "reversed"):
        p = jax.nn.sigmoid(jnp.asarray(a * z + b, float))
        assert metrics.example_f1(y, metrics.expected_f1_sets(p)) == 1


def test_tuning_compiles_once_for_all_grid_points(monkeypatch):
    traces = []
    original = metrics._expected_f1_by_size

    def counted(p):
        traces.append(p.shape)
        return original(p)

    monkeypatch.setattr(metrics, "_expected_f1_by_size", counted)
    y, z = random_problem(0, n=13, n_labels=7)
    metrics.tune_expected(y, z)
    metrics.tune_expected(y, z + 1)
    assert traces == [(13, 7)]


@pytest.mark.parametrize("function", PREDICTION_METRICS + SCORE_FUNCTIONS)
def test_wrong_shapes_and_soft_truth_are_errors(function):
    y = np.array([[1, 0], [0, 1]])
    for other in (y[:1], y[:, :1], y[0], y.T[:0]):
        with pytest.raises(ValueError, match=r"share one shape \(N, L\)"):
            function(y, other)
    for flat in (y[0], y[:0]):
        with pytest.raises(ValueError, match=r"share one shape \(N, L\)"):
            function(flat, flat)
    for soft in (0.3, 2, -1, np.nan):
        with pytest.raises(ValueError, match="y must hold only 0 and 1"):
            function(np.where(y == 1, soft, 0), y)


@pytest.mark.parametrize("function", SCORE_FUNCTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error(function, bad):
    with pytest.raises(ValueError, match="must be finite, but 1 of 4"):
        function([[1, 0], [0, 1]], [[0.1, bad], [0.2, 0.3]])


@pytest.mark.parametrize("function", PREDICTION_METRICS)
def test_scores_in_place_of_decisions_are_an_error(function):
    with pytest.raises(ValueError, match="predicted must hold only 0 and 1, but holds 0.7"):
        function([[1, 0]], [[0.7, 0.0]])
