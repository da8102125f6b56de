import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from spen_jax import losses

RNG = np.random.default_rng(0)
Y, TRUTH = RNG.random((4, 5)), (RNG.random((4, 5)) < 0.4).astype(float)
COUNT = np.array([True, False, True, True])
COSTS = {
    losses.squared_error: lambda y, t: sum((a - b) ** 2 for a, b in zip(y, t, strict=True)),
    losses.hamming: lambda y, t: sum(1 - a if b == 1 else a for a, b in zip(y, t, strict=True)),
    losses.cross_entropy: lambda y, t: sum(
        -np.log(a if b == 1 else 1 - a) for a, b in zip(y, t, strict=True)
    ),
    losses.categorical_cross_entropy: lambda y, t: sum(
        -np.log(a) for a, b in zip(y, t, strict=True) if b == 1
    ),
    losses.soft_f1_error: lambda y, t: 1 - 2 * np.dot(y, t) / (sum(y) + sum(t)),
    losses.soft_iou_error: lambda y, t: 1 - sum(map(min, y, t)) / sum(map(max, y, t)),
}
every_cost = pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.__name__)


@every_cost
def test_a_cost_is_of_one_example_of_any_shape_a_tree_or_its_parts_that_count(cost):
    garbage = np.where(COUNT[:, None], Y, 9.0), np.where(COUNT[:, None], TRUTH, np.nan)

    @jax.jit
    def of(y, truth, garbage, mask):
        (y_parts, true_parts), count = ({"a": a[0], "b": a[1:]} for a in (y, truth)), mask
        return {
            "labels": jax.vmap(cost)(y, truth),
            "all": cost(y, truth),
            "tree": cost(y_parts, true_parts),
            "all count": losses.counted(cost)(y, truth),
            "counted": losses.counted(cost)(*garbage, count),
            "slopes": jax.grad(losses.counted(cost))(*garbage, count),
            "booleans": cost(truth > 0, truth.T.reshape(4, 5) > 0),
            "integers": cost(truth.astype(int), truth.T.reshape(4, 5).astype(int)),
            "floats": cost(truth, truth.T.reshape(4, 5)),
        }

    got = of(jnp.asarray(Y), jnp.asarray(TRUTH), garbage, COUNT)
    slow = COSTS[cost]
    np.testing.assert_allclose(got["labels"], list(map(slow, Y, TRUTH)), rtol=1e-5)
    for name in "all", "tree", "all count":
        np.testing.assert_allclose(got[name], slow(Y.ravel(), TRUTH.ravel()), rtol=1e-5)
    want = slow(Y[COUNT].ravel(), TRUTH[COUNT].ravel())
    np.testing.assert_allclose(got["counted"], want, rtol=1e-5)
    assert not got["slopes"][~COUNT].any() and np.abs(got["slopes"][COUNT]).max() > 0.01
    assert got["booleans"] == got["integers"] == got["floats"] > 0


def test_costs_of_binary_answers_are_counts_f1_errors_and_jaccard_distances():
    sets = np.array(list(itertools.product([0.0, 1.0], repeat=3)), np.float32)
    y, truth = np.repeat(sets, 8, axis=0), np.tile(sets, (8, 1))
    squared, hamming, f1, iou = (
        np.asarray(jax.jit(jax.vmap(cost))(y, truth))
        for cost in (
            losses.squared_error,
            losses.hamming,
            losses.soft_f1_error,
            losses.soft_iou_error,
        )
    )
    wrong = (y != truth).sum(1)
    np.testing.assert_array_equal(squared, wrong)
    np.testing.assert_array_equal(hamming, wrong)
    assert f1[0] == iou[0] == 0  # empty against empty
    both = list(zip(truth[1:], y[1:], strict=True))
    np.testing.assert_allclose(1 - f1[1:], [f1_score(*pair, zero_division=0) for pair in both])
    np.testing.assert_allclose(
        1 - iou[1:], [jaccard_score(*pair, zero_division=0) for pair in both], atol=1e-6
    )


@pytest.mark.parametrize("error", [losses.soft_f1_error, losses.soft_iou_error])
def test_soft_errors_of_empty_against_empty_have_a_finite_gradient(error):
    zeros = jnp.zeros(3)
    assert np.isfinite(jax.jit(jax.grad(error))(zeros, zeros)).all()


@every_cost
def test_a_cost_refuses_two_shapes_or_trees(cost):
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3\) and \(3,\).*jax.vmap"):
        cost(jnp.zeros((2, 3)), jnp.zeros(3))
    with pytest.raises(ValueError):
        cost({"a": jnp.zeros(3)}, {"b": jnp.zeros(3)})


def test_a_cost_with_a_mask_is_handed_it_and_equal_costs_are_counted_by_one_function():
    def mean_error(y, truth, mask):
        return losses.squared_error(y, truth) / mask.sum()

    of_parts = losses.counted(mean_error)
    y, truth, mask = np.float32([1, 5, 3]), np.float32([0, 0, 1]), np.array([True, False, True])
    assert of_parts(y, truth, mask) == (1 + 4) / 2
    assert of_parts is losses.counted(mean_error)
    got = losses.counted(losses.squared_error)(
        {"a": y, "b": y}, {"a": truth, "b": truth}, {"a": mask, "b": ~mask}
    )
    assert got == (1 + 4) + 25
    with pytest.raises(ValueError, match=r"leading axes of y, whose shape is \(3,\), got .*\(2,\)"):
        of_parts(y, truth, mask[:2])
