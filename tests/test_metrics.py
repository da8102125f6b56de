import math

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
SCORE_METRICS = [
    lambda scores, truth, mask=None: metrics.precision_at_k(scores, truth, 2, mask),
    metrics.average_precision,
]
SCORE_FUNCTIONS = [*SCORE_METRICS, metrics.tune_threshold, metrics.tune_expected]


def random_problem(seed, n=40, n_labels=12, tied=False):
    """Scores, and a sparse truth with an empty and a full row that they know something about."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, n_labels)) < rng.uniform(0.02, 0.5, n_labels)
    truth[0], truth[1] = False, True
    scores = truth + rng.normal(size=truth.shape)
    return np.round(scores) if tied else scores, truth.astype(int)


def random_decisions(seed):
    scores, truth = random_problem(seed)
    predicted = scores > 0.5
    truth[:, 3], predicted[:, 3] = 0, False  # a label that is nowhere
    predicted[0], predicted[2] = False, False  # empty against empty, empty against something
    truth[2, 0] = 1
    return predicted, truth


def random_mask(seed, shape=(40, 12)):
    """A mask with a row and a column in which nothing counts."""
    mask = np.random.default_rng(seed).random(shape) < 0.6
    mask[4], mask[:, 5] = False, False
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_f1_and_hamming_agree_with_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    predicted, truth = random_decisions(seed)

    def f1(average, zero_division):
        return sklearn.f1_score(truth, predicted, average=average, zero_division=zero_division)

    assert metrics.example_f1(predicted, truth) == pytest.approx(f1("samples", 1))
    assert metrics.micro_f1(predicted, truth) == pytest.approx(f1("micro", 0))
    assert metrics.macro_f1(predicted, truth) == pytest.approx(f1("macro", 0))
    hamming = sklearn.hamming_loss(truth, predicted)
    assert metrics.hamming_error(predicted, truth) == pytest.approx(hamming)


def test_metrics_of_a_small_table_are_those_counted_by_hand():
    truth = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    predicted = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert metrics.example_f1(predicted, truth) == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert metrics.micro_f1(predicted, truth) == pytest.approx(4 / 7)
    assert metrics.macro_f1(predicted, truth) == pytest.approx(1 / 4)
    assert metrics.hamming_error(predicted, truth) == pytest.approx(3 / 12)


def test_masked_metrics_of_a_small_table_are_those_counted_by_hand():
    truth = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]
    predicted = [[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    mask = [[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert metrics.example_f1(predicted, truth, mask) == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert metrics.micro_f1(predicted, truth, mask) == pytest.approx(4 / 5)
    assert metrics.macro_f1(predicted, truth, mask) == pytest.approx((1 + 0 + 0) / 3)
    assert metrics.hamming_error(predicted, truth, mask) == pytest.approx(1 / 6)


def test_nothing_true_and_nothing_predicted_is_1_for_examples_and_0_for_cells_and_labels():
    nothing = np.zeros((2, 3))
    assert metrics.example_f1(nothing, nothing) == 1
    assert metrics.micro_f1(nothing, nothing) == 0
    assert metrics.macro_f1(nothing, nothing) == 0
    assert metrics.hamming_error(nothing, nothing) == 0


@pytest.mark.parametrize("metric", PREDICTION_METRICS)
def test_jax_arrays_and_booleans_give_the_same_python_float(metric):
    predicted, truth = random_decisions(0)
    value = metric(predicted, truth)
    assert type(value) is float
    assert metric(jnp.asarray(predicted, jnp.float32), jnp.asarray(truth, bool)) == value


@pytest.mark.parametrize("tied", [False, True])
def test_average_precision_agrees_with_scikit_learn_where_a_label_is_true(tied):
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, truth = random_problem(1, tied=tied)
    some = truth.any(axis=1)
    assert not some.all()
    expected = sklearn.average_precision_score(truth[some], scores[some], average="samples")
    assert metrics.average_precision(scores, truth) == pytest.approx(expected)
    if not tied:
        ranking = sklearn.label_ranking_average_precision_score(truth[some], scores[some])
        assert metrics.average_precision(scores, truth) == pytest.approx(ranking)


def test_average_precision_of_one_tie_is_the_base_rate_in_any_order():
    assert metrics.average_precision(np.zeros((1, 4)), [[1, 0, 0, 0]]) == pytest.approx(1 / 4)
    assert metrics.average_precision(np.zeros((1, 4)), [[0, 0, 0, 1]]) == pytest.approx(1 / 4)


def test_average_precision_without_any_true_label_is_an_error():
    for truth in ([[0, 0]], [[1, 0]]):
        with pytest.raises(ValueError, match="true label"):
            metrics.average_precision([[0.2, 0.1]], truth, [[False, True]])


def test_precision_at_k_counts_true_labels_among_the_k_best():
    truth = [[1, 0, 1, 0], [0, 0, 0, 1]]
    scores = [[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.5, 0.5]]
    values = [metrics.precision_at_k(scores, truth, k) for k in (1, 2, 3, 4)]
    assert values == pytest.approx([1 / 2, 1 / 4, 1 / 3, 3 / 8])
    for k in (0, 5):
        with pytest.raises(ValueError, match=r"1\.\.4"):
            metrics.precision_at_k(scores, truth, k)


def test_of_equal_scores_the_lower_label_index_goes_first():
    left = np.arange(500)[None] < 100
    equal = np.where(np.arange(500)[None] < 499, 0.5, 0.6)
    assert metrics.precision_at_k(equal, left, 101) == pytest.approx(100 / 101)


@pytest.mark.parametrize("tied", [False, True])
def test_only_the_labels_that_count_are_ranked(tied):
    scores, truth = random_problem(2, tied=tied)
    mask = random_mask(0)
    rows = [(s[m][None], t[m][None]) for s, t, m in zip(scores, truth, mask, strict=True)]
    rows = [(s, t) for s, t in rows if s.size]
    assert len(rows) == 39
    assert min(s.size for s, _ in rows) < 5
    precision = [metrics.precision_at_k(s, t, min(5, s.size)) for s, t in rows]
    average = [metrics.average_precision(s, t) for s, t in rows if t.any()]
    assert metrics.precision_at_k(scores, truth, 5, mask) == pytest.approx(np.mean(precision))
    assert metrics.average_precision(scores, truth, mask) == pytest.approx(np.mean(average))


@pytest.mark.parametrize("metric", PREDICTION_METRICS + SCORE_METRICS + [metrics.tune_threshold])
def test_what_is_masked_may_be_anything_and_a_full_mask_changes_nothing(metric):
    predicted, truth = random_decisions(1)
    mask = random_mask(1)
    values = predicted + 0.0
    hidden = np.where(mask, truth, np.nan)
    for rubbish in (np.nan, np.inf, 0.3, -5):
        assert metric(np.where(mask, values, rubbish), hidden, mask) == metric(values, truth, mask)
    assert metric(values, truth, jnp.ones(mask.shape)) == metric(values, truth)


@pytest.mark.parametrize("metric", PREDICTION_METRICS)
def test_a_mask_of_whole_rows_or_labels_is_as_good_as_leaving_them_out(metric):
    predicted, truth = random_decisions(2)
    rows, labels = np.arange(40) % 3 > 0, np.arange(12) % 4 > 0
    mask = rows[:, None] & labels
    assert metric(predicted, truth, mask) == metric(
        *(a[rows][:, labels] for a in (predicted, truth))
    )


@pytest.mark.parametrize("function", PREDICTION_METRICS + SCORE_FUNCTIONS)
def test_wrong_shapes_masks_and_soft_truth_are_errors(function):
    y = np.array([[1, 0], [0, 1]])
    for other in (y[:1], y[:, :1], y[0], y.T[:0]):
        with pytest.raises(ValueError, match=r"share one shape \(N, L\)"):
            function(other, y)
    for flat in (y[0], y[:0]):
        with pytest.raises(ValueError, match=r"share one shape \(N, L\)"):
            function(flat, flat)
    for soft in (0.3, 2, -1, np.nan):
        with pytest.raises(ValueError, match="truth must hold only 0 and 1.* second argument"):
            function(y, np.where(y == 1, soft, 0))
    wrong = (y[:1], r"shape \(2, 2\)"), (0.5 * y, "only 0 and 1"), (0 * y, "all False")
    for mask, said in wrong:
        with pytest.raises(ValueError, match=f"mask must .*{said}"):
            function(y, y, mask)


@pytest.mark.parametrize("function", SCORE_FUNCTIONS)
def test_scores_that_are_not_finite_are_an_error(function):
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="must be finite, but 1 of 4"):
            function([[0.1, bad], [0.2, 0.3]], [[1, 0], [0, 1]])


@pytest.mark.parametrize("function", SCORE_FUNCTIONS)
def test_swapped_scores_and_truth_are_an_error(function):
    with pytest.raises(ValueError, match=r"but holds 0\.1: .*truth is the second argument"):
        function([[1, 0], [0, 1]], [[0.1, 0.9], [0.2, 0.3]])


@pytest.mark.parametrize("function", PREDICTION_METRICS)
def test_scores_in_place_of_decisions_are_an_error(function):
    with pytest.raises(ValueError, match=r"predicted must hold only 0 and 1, but holds 0\.7"):
        function([[0.7, 0.0]], [[1, 0]])


# What is no array of real numbers: its parameter is named.

BINARY = np.array([[1, 0, 1], [0, 1, 0]])
READERS = {
    "predicted": lambda a: metrics.micro_f1(a, BINARY),
    "truth": lambda a: metrics.micro_f1(BINARY, a),
    "mask": lambda a: metrics.micro_f1(BINARY, BINARY, a),
    "scores": lambda a: metrics.average_precision(a, BINARY),
    "p": metrics.expected_f1_sets,
    "y": metrics.Expected(1.0, 0.0, False),
    "z": lambda a: metrics.tune_expected(a, BINARY),
}
UNREAL = {
    "a masked array": np.ma.array(BINARY, mask=[[0, 0, 0], [0, 0, 1]]),
    "masked arr": np.ma.array(BINARY),  # nothing is masked, but something may be next time
    "complex128": BINARY + 0j,
    "<U21": BINARY.astype(str),
    "S21": BINARY.astype(bytes),
    "object": BINARY.astype(object),
    "datetime64": BINARY.astype("M8[s]"),
    "timedelta64": BINARY.astype("m8[s]"),
    "inhomogeneous": [[1, 0], [1]],
}


@pytest.mark.parametrize("name", READERS)
def test_arrays_that_are_no_real_numbers_are_refused_by_the_name_of_the_argument(name):
    for message, array in UNREAL.items():
        with pytest.raises(ValueError, match=f"^{name} must .*{message}"):
            READERS[name](array)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, jnp.bfloat16, np.float32])
def test_real_arrays_of_any_type_and_order_in_memory_are_read_alike(name, dtype):
    wide = np.repeat(BINARY.astype(dtype), 2, axis=0)
    for array in wide[::2], np.asfortranarray(wide)[::2], jnp.asarray(wide[::2]), BINARY.tolist():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
        np.testing.assert_array_equal(READERS[name](array), READERS[name](BINARY.astype(float)))


def test_k_and_thresholds_are_single_numbers():
    for k in 1.5, "1", None, [1]:
        with pytest.raises(ValueError, match="k must be a whole number"):
            metrics.precision_at_k(BINARY, BINARY, k)
    for threshold in [0.1, 0.2], math.nan, np.zeros((2, 3)):
        with pytest.raises(ValueError, match="threshold must be one number"):
            metrics.decide(BINARY, threshold)
    for threshold in "0.5", None, 1j:
        with pytest.raises(ValueError, match="threshold must hold booleans or real numbers"):
            metrics.Fixed(threshold)(BINARY)
    with pytest.raises(ValueError, match="a and b must be finite"):
        metrics.Expected(math.inf, 0.0, False)


def test_a_threshold_is_rounded_to_the_type_of_the_scores():
    for dtype in np.float16, jnp.bfloat16, np.float32, np.float64:
        scores = np.array([[0.1, 0.7, np.inf]]).astype(dtype)
        assert metrics.decide(scores, 0.7).tolist() == [[False, True, True]]
        assert metrics.decide(jnp.asarray(scores), 1e300).tolist() == [[False, False, True]]
    assert metrics.decide(np.arange(3), 0.5).tolist() == [False, True, True]


@pytest.mark.parametrize("scale", [1e-310, 1e-30, 1.0, 1e30, 1e300])
def test_scores_of_any_size_are_fitted_alike(scale):
    z, truth = random_problem(5)
    a, b = metrics.tune_expected(z, truth)
    scaled_a, scaled_b = metrics.tune_expected(scale * z, truth)
    assert 0 < scaled_a < math.inf and math.isfinite(scaled_b)
    if scale > 1e-300:
        assert (scaled_a * scale, scaled_b) == pytest.approx((a, b), rel=1e-6)
