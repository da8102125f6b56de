import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


def test_soft_f1_error_of_empty_against_empty_has_a_finite_gradient():
    zeros = jnp.zeros(3)
    assert np.isfinite(jax.grad(losses.soft_f1_error)(zeros, zeros)).all()


def test_hinge_is_positive_where_the_wrong_answer_is_not_worse_by_the_margin():
    correct, wrong = np.float32([1, 1, 1, 1]), np.float32([0, 1.5, 2, 5])
    np.testing.assert_allclose(losses.hinge(correct, wrong), [2, 0.5, 0, 0])
    np.testing.assert_allclose(
        losses.hinge(correct, wrong, np.float32([0, 1, 3, 4])), [1, 0.5, 2, 0]
    )
    for argument, sign in [(0, 1), (1, -1)]:
        slopes = jax.vmap(jax.grad(losses.hinge, argument))(correct, wrong)
        np.testing.assert_array_equal(np.asarray(slopes)[[0, 1, 3]], [sign, sign, 0])
