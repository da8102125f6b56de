"""Many labels: the largest of them, energies over a shortlist, sparse targets, labels split over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import exact


def by_sorting(scores, k):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize(
    "size, k", [(1, 1), (50, 50), (983, 7), (1000, 1), (5000, 3), (40_000, 5), (70_000, 1)]
)
@pytest.mark.parametrize("levels", [None, 5])
def test_the_largest_are_those_of_a_sort_with_the_lower_label_first_among_equals(size, k, levels):
    scores = np.random.default_rng(size).normal(size=(3, size)).astype(np.float32)
    if levels:
        scores = np.round(levels * scores) / levels
    found = exact.largest(scores, k)
    values, labels = by_sorting(scores, k)
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.labels, labels)


def test_the_largest_products_are_those_of_all_products_however_many_wait(monkeypatch):
    rng = np.random.default_rng(0)
    h, W = rng.integers(-4, 5, (7, 3)).astype(np.float32), rng.integers(-4, 5, (900, 3))
    bias = rng.normal(size=900).astype(np.float32)
    values, labels = by_sorting(h @ W.T.astype(np.float32) + bias, 4)
    plain = by_sorting(h @ W.T.astype(np.float32), 4)
    for at_once in (2**26, 2000):
        monkeypatch.setattr("spen_jax.exact.candidates.AT_ONCE", at_once)
        jax.clear_caches()
        found = exact.largest_products(h, W, 4, bias)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_allclose(found.values, values, rtol=1e-6)
        np.testing.assert_array_equal(exact.largest_products(h, W, 4).labels, plain[1])


def test_forbidden_labels_come_last_and_what_is_no_number_is_an_error():
    scores = np.full((1, 3000), -np.inf, np.float32)
    scores[0, 2999] = 1
    np.testing.assert_array_equal(exact.largest(scores, 3).labels, [[2999, 0, 1]])
    scores[0, 1234] = np.nan
    with pytest.raises(ValueError, match="row 0 holds NaN"):
        exact.largest(scores, 3)


def test_the_largest_have_the_derivative_of_their_scores():
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(2, 500)), jnp.float32)
    slope = jax.grad(lambda s: jnp.sum(exact.largest(s, 2).values))(scores)
    want = np.zeros((2, 500))
    np.put_along_axis(want, by_sorting(np.asarray(scores), 2)[1], 1, axis=1)
    np.testing.assert_array_equal(slope, want)


def test_bad_arguments_of_the_largest_are_refused():
    scores = np.zeros((2, 5))
    for k, words in ((0, "k must be"), (6, "k must be at most 5"), (1.5, "k must be")):
        with pytest.raises(ValueError, match=words):
            exact.largest(scores, k)
    with pytest.raises(ValueError, match=r"\(B, L\)"):
        exact.largest(scores[0], 1)
    with pytest.raises(ValueError, match="a row for each example and each label"):
        exact.largest_products(scores, np.zeros((7, 4)), 1)
    with pytest.raises(ValueError, match="one for each row of W"):
        exact.largest_products(scores, np.zeros((7, 5)), 1, np.zeros(6))
