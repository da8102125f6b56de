import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from spen_jax.domains import (
    binary_cross_entropy,
    binary_entropy,
    categorical_cross_entropy,
    entropy,
    total,
)


def binary_cross_entropies(y, truth):
    """Of each number, by SciPy."""
    return -scipy.special.xlogy(truth, y) - scipy.special.xlog1py(1 - truth, -y)


def test_entropies_are_those_of_scipy_along_the_last_axis(x64):
    y = np.random.default_rng(0).dirichlet(np.ones(4), (5, 2))
    got, binary = jax.jit(lambda y: (entropy(y), binary_entropy(y)))(y)
    np.testing.assert_allclose(got, scipy.stats.entropy(y, axis=-1))
    np.testing.assert_allclose(binary, scipy.stats.entropy(np.stack([y, 1 - y])).sum(-1))


def test_entropies_of_certain_answers_are_zero_with_the_slope_of_a_probability_of_1e_7(x64):
    corner = np.array([1.0, 0, 0])
    both = [jax.value_and_grad(f) for f in (entropy, binary_entropy)]
    of_classes, of_labels = jax.jit(lambda y: [f(y) for f in both])(corner)
    most = np.log(1e7)
    assert of_classes[0] == of_labels[0] == 0
    np.testing.assert_allclose(of_classes[1], [-1, most - 1, most - 1])
    np.testing.assert_allclose(of_labels[1], [-most, most, most], rtol=1e-6)


def test_cross_entropies_sum_over_all_axes_and_leaves(x64):
    rng = np.random.default_rng(1)
    y, truth = rng.dirichlet(np.ones(4), (2, 3)), rng.dirichlet(np.ones(4), (2, 3))
    tree, true_tree = ({"a": a[0], "b": a[1, 0]} for a in (y, truth))
    binary = binary_cross_entropies(y, truth)
    classes = -scipy.special.xlogy(truth, y)
    functions = binary_cross_entropy, categorical_cross_entropy

    @jax.jit
    def both(*pairs):
        return [[f(*pair) for pair in pairs] for f in functions]

    got = both((y, truth), (y[0, 0], truth[0, 0]), (tree, true_tree))
    for found, each in zip(got, (binary, classes), strict=True):
        np.testing.assert_allclose(
            found, [each.sum(), each[0, 0].sum(), each[0].sum() + each[1, 0].sum()]
        )


def test_cross_entropies_of_links_are_those_of_optax_with_their_gradients():
    rng = np.random.default_rng(2)
    scores = np.float32(rng.normal(0, 3, (4, 5)))
    truth = np.float32(rng.random(5) < 0.5)
    classes = np.float32(rng.dirichlet(np.ones(5)))

    @jax.jit
    @jax.vmap
    def pairs(scores):
        functions = (
            (
                lambda s: binary_cross_entropy(jax.nn.sigmoid(s), truth),
                lambda s: optax.sigmoid_binary_cross_entropy(s, truth).sum(),
            ),
            (
                lambda s: categorical_cross_entropy(jax.nn.softmax(s), classes),
                lambda s: optax.softmax_cross_entropy(s, classes),
            ),
        )
        return [[jax.value_and_grad(f)(scores) for f in pair] for pair in functions]

    for ours, theirs in pairs(scores):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-6)


def test_cross_entropies_take_a_probability_as_at_least_1e_7():
    y, truth = np.float32([0, 1, 0, 1]), np.float32([1, 0, 0, 1])
    binary, classes = jax.jit(
        lambda: [
            jax.value_and_grad(f)(jnp.asarray(y), truth)
            for f in (binary_cross_entropy, categorical_cross_entropy)
        ]
    )()
    assert binary[0] == pytest.approx(2 * np.log(1e7))
    assert classes[0] == pytest.approx(np.log(1e7))
    assert np.isfinite([binary[1], classes[1]]).all()


def test_a_total_is_of_floats_of_the_precision_of_its_arguments(x64):
    y = jax.ShapeDtypeStruct((3,), np.float32)
    for other in (np.float32, bool, np.int32, np.int64):
        truth = jax.ShapeDtypeStruct((3,), other)
        assert jax.eval_shape(lambda a, b: total(jnp.add, a, b), y, truth).dtype == np.float32
    assert total(jnp.add, np.array([True, True]), np.array([True, False])) == 3
