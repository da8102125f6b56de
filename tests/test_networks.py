import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from problems import quick_key, random_like, small_spen

from spen_jax import SPEN, Box, FeatureNetwork, Simplex, functions_of, logits_of
from spen_jax.arguments import handing

X = np.random.default_rng(0).normal(size=(6, 3))


def with_params(network):
    shapes = jax.eval_shape(network.init, jax.random.key(0), X)["params"]
    return random_like(shapes)


def numpy_network(params, x, depth, activation=np.tanh):
    """F(x) and the logits of layers that are normalised where params has their norms."""
    h = x
    for i in range(depth):
        sums = h @ params[f"hidden_{i}"]["kernel"] + params[f"hidden_{i}"]["bias"]
        if f"norm_{i}" in params:
            sums = (sums - sums.mean(1, keepdims=True)) / np.sqrt(sums.var(1, keepdims=True) + 1e-6)
            sums = params[f"norm_{i}"]["scale"] * sums + params[f"norm_{i}"]["bias"]
        h = activation(sums)
    return h, h @ params["output"]["kernel"] + params["output"]["bias"]


@pytest.mark.parametrize("normalise", [False, True])
def test_feature_networks_of_any_depth_are_stacks_of_layers_normalised_or_not(normalise, x64):
    networks = [
        FeatureNetwork(3, widths, jnp.tanh, normalise=normalise) for widths in [(), (4,), (4, 2)]
    ]
    params = [with_params(network) for network in networks]

    @jax.jit
    def outputs(params):
        return [
            (n.apply({"params": p}, X, method="hidden"), n.apply({"params": p}, X))
            for n, p in zip(networks, params, strict=True)
        ]

    for depth, (p, got) in enumerate(zip(params, outputs(params), strict=True)):
        assert ("norm_0" in p) == (normalise and depth > 0)
        for g, want in zip(got, numpy_network(p, X, depth), strict=True):
            np.testing.assert_allclose(g, want)


def test_logits_of_a_network_are_its_output_with_dropout_if_there_is_a_key():
    network = FeatureNetwork(4, (20,), nn.tanh, dropout=0.5)
    params, logits = with_params(network), logits_of(network)
    drop, keep = jax.jit(logits), jax.jit(lambda p, x: logits(p, x))
    want = keep(params, X)
    np.testing.assert_allclose(want, numpy_network(params, X, 1)[1], rtol=1e-4, atol=1e-6)
    one, again, other = (np.asarray(drop(params, X, quick_key(i))) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.mean(one != other) > 0.5 and np.mean(one != want) > 0.5
    assert logits_of(FeatureNetwork(4, (20,), nn.tanh, dropout=0.5)) is logits


class Counted(nn.Module):
    """A module of a user's own, whose features know which parts of y count."""

    def features(self, x, train=False, mask=None):
        return {"x": x, "train": train, "mask": mask}

    def energy(self, context, y):
        return jnp.sum(context["x"] * y)


def test_features_are_handed_a_mask_where_the_module_has_such_a_parameter():
    features, _ = functions_of(Counted())
    mask, key = np.array([True, False]), jax.random.key(0)
    assert features({}, 1.0) == {"x": 1.0, "train": False, "mask": None}
    assert features({}, 1.0, key)["train"]
    assert handing(features, mask=mask, key=key)({}, 1.0)["mask"] is mask
    plain, _, params = small_spen()
    unmasked = handing(plain, mask=mask)
    assert jax.eval_shape(unmasked, params, X)["logits"].shape == (6, 4)
    with pytest.raises(TypeError, match="mask"):
        plain(params, X, mask=mask)


def test_a_start_at_the_logits_is_the_domains_point_and_one_function_for_all_modules():
    start = logits_of(SPEN(FeatureNetwork(4, (5,))))
    assert start is logits_of(SPEN(FeatureNetwork(3, ()), n_global=2)) is logits_of(Counted())
    context = {"logits": np.float32([[0.0, 2.0, -1.0]])}
    odds = np.exp(context["logits"])
    np.testing.assert_allclose(start(context, Box()), odds / (1 + odds), rtol=1e-6)
    np.testing.assert_allclose(start(context, Simplex()), odds / odds.sum(), rtol=1e-6)
    handed = handing(start, domain=Box(-1.0, 1.0), key=jax.random.key(0))
    np.testing.assert_allclose(handed(context), 2 * odds / (1 + odds) - 1, rtol=1e-5, atol=1e-7)


def test_a_context_without_logits_and_a_domain_without_any_make_no_start():
    start = logits_of(Counted())
    for context in ({"shift": X}, X):
        with pytest.raises(ValueError, match='an entry "logits"'):
            start(context, Box())
    with pytest.raises(ValueError, match="finite bounds"):
        start({"logits": X}, Box(0, float("inf")))
