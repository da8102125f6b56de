from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import random_like, small_spen

from spen_jax import SPEN, FeatureNetwork, MirrorDescent, functions_of, logits_of, minimize
from spen_jax.energies import binary_entropy, softplus
from spen_jax.terms import Deep, Pairwise

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.random.default_rng(1).random((6, 4))


@partial(jax.jit, static_argnames="energy")
def energies(energy, params, context, y):
    return jax.vmap(energy, (None, 0, 0))(params, context, y)


def shapes(module, *arguments):
    return jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]


def numpy_features(params, x):
    """F(x) = relu(W_0 x + b_0) and the logits W F(x) + b."""
    h = np.maximum(x @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"], 0)
    return h, h @ params["output"]["kernel"] + params["output"]["bias"]


def numpy_spen(params, x, y, sees_features, entropy):
    """The energies by loops over examples, labels and global units."""
    features, logits = numpy_features(params["network"], x)
    result = np.zeros(len(x))
    for n in range(len(x)):
        for i in range(y.shape[1]):
            h = -y[n, i] * np.log(y[n, i]) - (1 - y[n, i]) * np.log(1 - y[n, i])
            result[n] -= logits[n, i] * y[n, i] + entropy * h
        for m in range(len(params["c2"])):
            u = params["C1"][m] @ y[n] + params["b"][m]
            if sees_features:
                u += features[n] @ params["Cx"]["kernel"][:, m]
            result[n] += params["c2"][m] * np.log(1 + np.exp(u))
    return result


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sees_features": True},
        {"entropy": 0.7},
        {"sees_features": True, "entropy": 1.0, "n_global": 1},
        {"sees_features": True, "n_global": 0},
    ],
)
def test_spen_energy_equals_the_formula_in_loops(settings, x64):
    features, energy, params = small_spen(**settings)
    got = energies(energy, params, features(params, X), Y)
    want = numpy_spen(
        params, X, Y, settings.get("sees_features", False), settings.get("entropy", 0.0)
    )
    np.testing.assert_allclose(got, want)


def test_spen_called_on_a_batch_gives_the_energies_of_its_examples(x64):
    module = SPEN(FeatureNetwork(4, (5,)), n_global=3)
    features, energy, params = small_spen()
    got = module.apply({"params": params}, X, Y)
    np.testing.assert_allclose(got, energies(energy, params, features(params, X), Y))


def test_the_global_activation_may_be_exchanged(x64):
    _, energy, params = small_spen(activation=jnp.square)
    context = {"logits": jnp.zeros(4)}
    want = params["c2"] @ (params["C1"] @ Y[0] + params["b"]) ** 2
    np.testing.assert_allclose(energy(params, context, Y[0]), want)


def test_feature_networks_of_any_depth_are_stacks_of_layers(x64):
    for widths in [(), (4,), (4, 2)]:
        network = FeatureNetwork(3, widths, activation=jnp.tanh)
        params = random_like(shapes(network, X))
        h = X
        for i in range(len(widths)):
            layer = params[f"hidden_{i}"]
            h = np.tanh(h @ layer["kernel"] + layer["bias"])
        hidden = network.apply({"params": params}, X, method="hidden")
        np.testing.assert_allclose(hidden, h)
        want = h @ params["output"]["kernel"] + params["output"]["bias"]
        np.testing.assert_allclose(network.apply({"params": params}, X), want)


def test_a_normalised_network_gives_each_example_sums_of_mean_0_and_variance_1(x64):
    network = FeatureNetwork(3, (4, 2), activation=jnp.tanh, normalise=True)
    params = random_like(shapes(network, X))
    h = X
    for i in range(2):
        sums = h @ params[f"hidden_{i}"]["kernel"] + params[f"hidden_{i}"]["bias"]
        sums = (sums - sums.mean(1, keepdims=True)) / np.sqrt(sums.var(1, keepdims=True) + 1e-6)
        h = np.tanh(params[f"norm_{i}"]["scale"] * sums + params[f"norm_{i}"]["bias"])
    hidden = network.apply({"params": params}, X, method="hidden")
    np.testing.assert_allclose(hidden, h)


def test_a_pretrained_network_without_global_term_is_answered_with_its_own_sigmoid():
    network = FeatureNetwork(4, (5,))
    trained = random_like(shapes(network, X), scale=0.5)
    module = SPEN(network, n_global=0, entropy=1.0)
    params = random_like(shapes(module, X, Y)) | {"network": trained}
    features, energy = functions_of(module)
    context = features(params, X)
    found = minimize(
        energy, params, context, jnp.full(Y.shape, 0.5), solver=MirrorDescent(), steps=60
    )
    logits = network.apply({"params": trained}, X)
    np.testing.assert_array_equal(context["logits"], logits)
    np.testing.assert_allclose(found.y, jax.nn.sigmoid(logits), rtol=1e-5)
    assert found.converged.all()


def test_global_parameters_start_at_the_documented_scale():
    module = SPEN(FeatureNetwork(100, (5,)), n_global=400, global_scale=2.0, sees_features=True)
    params = jax.jit(module.init)(jax.random.key(0), X, np.full((6, 100), 0.5))["params"]
    got = {name: params[name].shape for name in ("C1", "b", "c2")}
    assert got == {"C1": (400, 100), "b": (400,), "c2": (400,)}
    assert params["Cx"]["kernel"].shape == (5, 400) and set(params["Cx"]) == {"kernel"}
    assert not params["b"].any()
    # Standard errors are 0.4 % of 40,000 values and 3.5 % of 400.
    assert np.std(params["C1"]) == pytest.approx(2 / 100**0.5, rel=0.015)
    assert np.std(params["c2"]) == pytest.approx(2 / 400**0.5, rel=0.12)


# Dropout


@pytest.mark.parametrize(
    "where",
    [
        {"network": {"input_dropout": 0.5}},
        {"network": {"dropout": 0.5}},
        {"global_dropout": 0.5},
    ],
)
def test_features_drop_with_a_key_and_only_with_a_key(where):
    network = FeatureNetwork(4, (20,), **where.get("network", {}))
    rest = {k: v for k, v in where.items() if k != "network"}
    module = SPEN(network, n_global=30, sees_features=True, **rest)
    params = random_like(shapes(module, X, Y))
    features, energy = functions_of(module)

    @jax.jit
    def energy_with(*key):
        return energies(energy, params, features(params, X, *key), Y)

    one, again, other, none = (
        np.asarray(energy_with(*key))
        for key in [(jax.random.key(1),), (jax.random.key(1),), (jax.random.key(2),), ()]
    )
    np.testing.assert_array_equal(one, again)
    assert np.mean(one != other) > 0.5 and np.mean(one != none) > 0.5
    plain, _ = functions_of(SPEN(FeatureNetwork(4, (20,)), n_global=30, sees_features=True))
    np.testing.assert_allclose(none, energies(energy, params, plain(params, X), Y), rtol=1e-5)


def test_global_dropout_keeps_units_at_a_scale_that_leaves_the_mean(x64):
    features, energy, params = small_spen(n_global=500, global_dropout=0.2)
    context = features(params, X, jax.random.key(0))
    keep = np.asarray(context["keep"])
    assert keep.shape == (6, 500)
    np.testing.assert_allclose(np.unique(keep), [0, 1 / 0.8])
    assert np.mean(keep) == pytest.approx(1, abs=0.04)  # four standard errors of 3000 masks
    assert not np.array_equal(keep[0], keep[1])
    units = np.log(1 + np.exp(params["C1"] @ Y[0] + params["b"]))
    want = params["c2"] @ (keep[0] * units) - np.asarray(context["logits"][0]) @ Y[0]
    first = jax.tree.map(lambda a: a[0], context)
    np.testing.assert_allclose(energy(params, first, Y[0]), want)


# Pure functions of a module


def test_equal_modules_give_the_same_functions():
    def make(n_global):
        return functions_of(SPEN(FeatureNetwork(4, (5,)), n_global=n_global))

    assert make(3)[0] is make(3)[0] and make(3)[1] is make(3)[1]
    assert make(3)[1] is not make(2)[1]


def test_equal_terms_give_the_same_functions_and_leave_the_rest_as_it_was():
    def make(*terms):
        return SPEN(FeatureNetwork(4, (5,)), n_global=3, terms=terms)

    with_terms = functions_of(make(Deep((3,)), Pairwise()))
    assert with_terms == functions_of(make(Deep((3,)), Pairwise()))
    assert with_terms[1] is not functions_of(make(Deep((4,)), Pairwise()))[1]
    start, plain = (m.init(jax.random.key(0), X, Y)["params"] for m in (make(Pairwise()), make()))
    assert set(start) == {*plain, "terms_0"}
    jax.tree.map(np.testing.assert_array_equal, {k: start[k] for k in plain}, plain)
    assert "terms" not in functions_of(make())[0](plain, X)


def test_logits_of_a_network_are_its_output_with_dropout_if_there_is_a_key():
    network = FeatureNetwork(4, (20,), dropout=0.5)
    params = random_like(shapes(network, X))
    logits = logits_of(network)
    np.testing.assert_allclose(logits(params, X), numpy_features(params, X)[1], rtol=1e-4)
    one, again, other = (logits(params, X, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.mean(one != other) > 0.5 and np.mean(one != logits(params, X)) > 0.5
    assert logits_of(FeatureNetwork(4, (20,), dropout=0.5)) is logits


# Scalar functions


def test_softplus_and_its_derivatives_agree_with_jax_at_any_size():
    x = np.float32([-1e4, -100, -30, -1.5, 0, 0.3, 20, 100, 1e4])
    np.testing.assert_allclose(softplus(x), jax.nn.softplus(x), rtol=1e-6)

    def slope_of(function):
        return jax.jit(jax.vmap(jax.grad(function)))(x)

    slope = slope_of(softplus)
    np.testing.assert_allclose(slope, slope_of(jax.nn.softplus), rtol=1e-6)
    assert slope[0] == 0 and slope[-1] == 1
    curvature = slope_of(jax.grad(softplus))
    s = 1 / (1 + np.exp(-x.astype(float).clip(-700, 700)))
    np.testing.assert_allclose(curvature, s * (1 - s), rtol=1e-5, atol=1e-8)


def test_softplus_in_float64_is_that_of_float64(x64):
    np.testing.assert_allclose(softplus(jnp.float64(-30)), np.log1p(np.exp(-30.0)), rtol=1e-14)


def test_binary_entropy_sums_the_labels_in_nats():
    y = np.float32([[0.5, 0.25], [0.9, 0.5]])
    quarter = 0.25 * np.log(4) + 0.75 * np.log(4 / 3)
    tenth = 0.1 * np.log(10) - 0.9 * np.log(0.9)
    np.testing.assert_allclose(binary_entropy(y), np.log(2) + np.array([quarter, tenth]), rtol=1e-6)


def test_binary_entropy_has_the_gradient_minus_logit_and_a_finite_one_at_the_bounds():
    y = np.float32([0.01, 0.3, 0.5, 0.8, 0.999])
    slope = jax.jit(jax.grad(binary_entropy))
    np.testing.assert_allclose(slope(y), -np.log(y / (1 - y)), rtol=1e-4, atol=1e-6)
    bounds = np.float32([0, 1])
    assert binary_entropy(bounds) == 0
    gradient = slope(bounds)
    assert 16 < gradient[0] == -gradient[1] < 18  # the logarithm of 1e-7 is -16.1
