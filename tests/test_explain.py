import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import implied_logits, interactions

W = np.array([[0, 1, -2], [1, 0, 0.5], [-2, 0.5, 0]])
B = np.array([[0.3, 5.0, -1.0], [-0.1, 0.5, 4.4], [0.9, 0.2, 2.0]])
Y = np.array([[0.2, 0.9, 0.4], [1.0, 0.0, 1.0], [0.5, 0.5, 0.5]])


def scaled(params, context, y):
    """A quadratic in y whose diagonal is 0, so that it is linear in each label given the others."""
    return context["scale"] * (y @ params @ y / 2 - context["b"] @ y)


CONTEXT = {"scale": np.array([1.0, 2.0, 4.0]), "b": B}


def energy_with(n, labels, values):
    y = Y[n].copy()
    y[list(labels)] = values
    return scaled(W, {"scale": CONTEXT["scale"][n], "b": B[n]}, y)


def test_implied_logits_are_the_energy_differences_of_the_gibbs_distribution():
    want = [[energy_with(n, [i], 0) - energy_with(n, [i], 1) for i in range(3)] for n in range(3)]
    got = implied_logits(scaled, W, CONTEXT, Y)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_implied_logits_have_the_shape_of_y():
    y = np.ones((2, 3, 4), np.float32)
    context = np.array([1.0, 3.0], np.float32)
    got = implied_logits(lambda p, x, y: x * jnp.sum(y**2), None, context, y)
    np.testing.assert_allclose(got, -2 * context[:, None, None] * y)


def test_interactions_are_the_energies_of_both_minus_those_of_each_in_the_mean():
    def both(n, i, j):
        on_off = [energy_with(n, (i, j), values) for values in ([1, 1], [0, 0], [1, 0], [0, 1])]
        return on_off @ np.array([1, 1, -1, -1])

    got = interactions(scaled, W, CONTEXT, Y)
    assert got.shape == (3, 3)
    for i, j in itertools.combinations(range(3), 2):
        want = np.mean([both(n, i, j) for n in range(3)])
        np.testing.assert_allclose([got[i, j], got[j, i]], want, rtol=1e-5)


def test_interactions_are_between_the_labels_of_one_vector():
    with pytest.raises(ValueError, match=r"shape \(B, L\).*\(2, 3, 4\)"):
        interactions(scaled, W, CONTEXT, np.ones((2, 3, 4)))
