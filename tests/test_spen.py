from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quick_key, random_like, small_spen, spen_energies, spen_features

from spen_jax import SPEN, Box, FeatureNetwork, MirrorDescent, functions_of, logits_of, minimize
from spen_jax.energies import Deep, Pairwise, softplus

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.random.default_rng(1).random((6, 4))


@partial(jax.jit, static_argnames=("features", "energy"))
def energies(features, energy, params, x, y, key=None):
    """The context of a batch and its energies."""
    context = features(params, x, key)
    return context, jax.vmap(energy, (None, 0, 0))(params, context, y)


def shapes(module):
    return jax.eval_shape(module.init, jax.random.key(0), X, Y)["params"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"entropy": 0.7},
        {"sees_features": True, "entropy": 1.0, "n_global": 1},
        {"sees_features": True, "n_global": 0},
    ],
)
def test_spen_energy_equals_the_formula_in_loops(settings, x64):
    features, energy, params = small_spen(**settings)
    got = energies(features, energy, params, X, Y)[1]
    settings = {name: v for name, v in settings.items() if name != "n_global"}
    np.testing.assert_allclose(got, spen_energies(params, X, Y, **settings))


def test_spen_called_on_a_batch_gives_the_energies_of_its_examples(x64):
    module = SPEN(FeatureNetwork(4, (5,)), n_global=3)
    _, _, params = small_spen()
    got = jax.jit(module.apply)({"params": params}, X, Y)
    np.testing.assert_allclose(got, spen_energies(params, X, Y))


def test_the_global_activation_may_be_exchanged(x64):
    _, energy, params = small_spen(activation=jnp.square)
    want = params["c2"] @ (params["C1"] @ Y[0] + params["b"]) ** 2
    np.testing.assert_allclose(jax.jit(energy)(params, {"logits": np.zeros(4)}, Y[0]), want)


def test_a_pretrained_network_without_global_term_is_answered_with_its_own_sigmoid():
    network = FeatureNetwork(4, (5,))
    module = SPEN(network, n_global=0, entropy=1.0)
    params = random_like(shapes(module), scale=0.5)
    features, energy = functions_of(module)
    context = jax.jit(features)(params, X)
    start = np.full(Y.shape, 0.5, np.float32)
    found = minimize(energy, params, context, start, solver=MirrorDescent(), steps=60)
    _, logits = spen_features(params, X)
    np.testing.assert_allclose(context["logits"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.y, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert found.converged.all()
    started = logits_of(module)(context, Box())
    np.testing.assert_allclose(started, found.y, rtol=1e-5)


def test_global_parameters_start_at_the_documented_scale():
    module = SPEN(FeatureNetwork(100, (5,)), n_global=400, global_scale=2.0, sees_features=True)
    params = jax.jit(module.init)(quick_key(0), X, np.full((6, 100), 0.5))["params"]
    got = {name: params[name].shape for name in ("C1", "b", "c2")}
    assert got == {"C1": (400, 100), "b": (400,), "c2": (400,)}
    assert params["Cx"]["kernel"].shape == (5, 400) and set(params["Cx"]) == {"kernel"}
    assert not np.any(params["b"])
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
    params = random_like(shapes(module))
    one, again, other, none = (
        np.asarray(energies(*functions_of(module), params, X, Y, key)[1])
        for key in (*map(quick_key, (1, 1, 2)), None)
    )
    np.testing.assert_array_equal(one, again)
    assert np.mean(one != other) > 0.5 and np.mean(one != none) > 0.5
    np.testing.assert_allclose(none, spen_energies(params, X, Y, sees_features=True), rtol=1e-5)


def test_global_dropout_keeps_units_at_a_scale_that_leaves_the_mean(x64):
    features, energy, params = small_spen(n_global=500, global_dropout=0.2)
    context, got = energies(features, energy, params, X, Y, quick_key(0))
    keep, logits = np.asarray(context["keep"]), np.asarray(context["logits"])
    assert keep.shape == (6, 500)
    np.testing.assert_allclose(np.unique(keep), [0, 1 / 0.8])
    assert np.mean(keep) == pytest.approx(1, abs=0.04)  # four standard errors of 3000 masks
    assert not np.array_equal(keep[0], keep[1])
    units = np.log(1 + np.exp(params["C1"] @ Y[0] + params["b"]))
    np.testing.assert_allclose(got[0], params["c2"] @ (keep[0] * units) - logits[0] @ Y[0])


# Equal energies are one


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
    with_term, plain = jax.jit(lambda key: [m.init(key, X, Y) for m in (make(Pairwise()), make())])(
        quick_key(0)
    )
    assert set(with_term["params"]) == {*plain["params"], "terms_0"}
    for name, params in plain["params"].items():
        jax.tree.map(np.testing.assert_array_equal, with_term["params"][name], params)
    assert "terms" not in jax.eval_shape(functions_of(make())[0], plain["params"], X)


# Scalar functions


def test_softplus_and_its_derivatives_agree_with_jax_at_any_size(x64):
    x = np.float32([-1e4, -100, -30, -1.5, 0, 0.3, 20, 100, 1e4])

    def derivatives(function, x):
        slope = jax.grad(function)
        return function(x), slope(x), jax.grad(slope)(x)

    value, slope, curvature = jax.jit(jax.vmap(partial(derivatives, softplus)))(x)
    want = jax.jit(jax.vmap(partial(derivatives, jax.nn.softplus)))(x)
    np.testing.assert_allclose(value, want[0], rtol=1e-6)
    np.testing.assert_allclose(slope, want[1], rtol=1e-6)
    assert slope[0] == 0 and slope[-1] == 1
    s = 1 / (1 + np.exp(-x.astype(float).clip(-700, 700)))
    np.testing.assert_allclose(curvature, s * (1 - s), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(softplus(jnp.float64(-30)), np.log1p(np.exp(-30.0)), rtol=1e-14)
