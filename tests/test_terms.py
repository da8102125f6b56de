import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from problems import numpy_descent, quick_key, small_spen, spen_energies, spen_features

from spen_jax import SPEN, FeatureNetwork, GradientDescent, MirrorDescent, functions_of, minimize
from spen_jax.energies import Cardinality, Convex, Deep, Pairwise

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.random.default_rng(1).random((6, 4))


class Tanh(nn.Module):
    """A term of a user's own: tanh(v.y), without a context."""

    def features(self, h, train=False):
        return ()

    @nn.compact
    def energy(self, context, y):
        return jnp.tanh(self.param("v", nn.initializers.ones, y.shape) @ y)


@partial(jax.jit, static_argnames=("energy", "derivatives"))
def of_batch(energy, params, context, y, derivatives=0):
    """Energies (B,), or their derivatives in y: slopes (B, L) or Hessians (B, L, L)."""
    function = (energy, jax.grad(energy, 2), jax.hessian(energy, 2))[derivatives]
    return jax.vmap(function, (None, 0, 0))(params, context, y)


@partial(jax.jit, static_argnames=("features", "energy", "derivatives"))
def of_features(features, energy, params, x, y, key=None, derivatives=0):
    """The context of a batch, and `of_batch` there."""
    context = features(params, x, key)
    return context, of_batch(energy, params, context, y, derivatives)


def with_term(*terms, **settings):
    """(features, energy, params) of -s.y + the terms, with random parameters."""
    return small_spen(**({"n_global": 0, "terms": terms} | settings))


def unseen(count):
    """The context of an energy without unary potentials."""
    return {"logits": np.zeros((count, 4)), "terms": [{}]}


# Each term of one example by its formula.


def softplus(x):
    return np.log1p(np.exp(x))


def shift(p, h):
    return h @ p["Cx"]["kernel"] if "Cx" in p else 0


def deep(p, h, y, keep=(1, 1, 1)):
    units = keep[0] * softplus(p["W_1"] @ y + p["b_1"] + shift(p, h))
    for k in range(2, 4):
        if f"W_{k}" in p:
            units = keep[k - 1] * softplus(p[f"W_{k}"] @ units + p[f"b_{k}"])
    return p["c"] @ units


def convex(p, h, y):
    z = softplus(p["W_1"] @ y + p["b_1"] + shift(p, h))
    for k in range(2, 4):
        if f"W_{k}" in p:
            z = softplus(softplus(p[f"A_{k}"]) / len(z) @ z + p[f"W_{k}"] @ y + p[f"b_{k}"])
    return softplus(p["a"]) @ z / len(z)


def matrix(p):
    """A, from its definition for each pair."""
    a = np.zeros((4, 4))
    for i, j in itertools.permutations(range(4), 2):
        if "R" in p:
            a[i, j] = (p["R"][i, j] + p["R"][j, i]) / 2
        else:
            a[i, j] = (p["U"][:, i] @ p["V"][:, j] + p["U"][:, j] @ p["V"][:, i]) / 2
    return a


def pairwise(p, h, y):
    a = matrix(p)
    return sum(a[i, j] * y[i] * y[j] for i, j in itertools.combinations(range(4), 2))


def cardinality(p, h, y):
    return p["c"] @ softplus(p["w"] * sum(y) + p["b"] + shift(p, h))


TERMS = [
    (Deep((3,)), deep),
    (Deep((5, 3, 2)), deep),
    (Deep((5, 3), sees_features=True, dropout=0.4), deep),
    (Convex((3,)), convex),
    (Convex((3, 5, 2)), convex),
    (Convex((3, 2), sees_features=True), convex),
    (Pairwise(), pairwise),
    (Pairwise(rank=1), pairwise),
    (Pairwise(rank=3), pairwise),
    (Cardinality(3), cardinality),
    (Cardinality(5, sees_features=True), cardinality),
]
FORMULAS = [formula for _, formula in TERMS]
TERMS = tuple(term for term, _ in TERMS)
NO_GLOBAL = {"C1": np.zeros((0, 4)), "b": np.zeros(0), "c2": np.zeros(0)}


@jax.jit
def each_alone(params, x, y):
    """The energies (B,) of each of TERMS by itself."""
    contexts = with_term(*TERMS)[0]({**params, **NO_GLOBAL}, x)
    return [
        jax.vmap(partial(term.apply, {"params": params[f"terms_{i}"]}, method="energy"))(context, y)
        for i, (term, context) in enumerate(zip(TERMS, contexts["terms"], strict=True))
    ]


def test_each_term_equals_its_formula(x64):
    _, _, params = with_term(*TERMS)
    h, _ = spen_features(params, X)
    for i, got in enumerate(each_alone(params, X, Y)):
        want = [FORMULAS[i](params[f"terms_{i}"], *example) for example in zip(h, Y, strict=True)]
        np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=str(TERMS[i]))


@pytest.mark.slow
def test_each_term_sees_the_features_only_where_it_is_to(x64):
    _, _, params = with_term(*TERMS)
    for term, got in zip(TERMS, each_alone(params, X, np.tile(Y[:1], (6, 1))), strict=True):
        values = len(np.unique(np.round(got, 9)))
        assert values == (6 if getattr(term, "sees_features", False) else 1), term


@pytest.mark.slow
def test_every_parameter_of_new_terms_has_a_gradient_and_it_is_finite_anywhere():
    terms = Deep((5, 3), True), Convex((3, 2), True), Pairwise(), Pairwise(2), Cardinality(5, True)
    module = SPEN(FeatureNetwork(4, (5,), nn.tanh), n_global=0, terms=terms)
    params = jax.jit(module.init)(quick_key(0), X, Y)["params"]
    features, energy = functions_of(module)

    @jax.jit
    @jax.grad
    def slope(params, x, y):
        return jnp.mean(jax.vmap(energy, (None, 0, 0))(params, features(params, x), y))

    def gradient(params, x, y):
        return jax.tree.map(np.asarray, slope(params, x, y))

    for path, g in jax.tree.leaves_with_path(gradient(params, X, Y)):
        names = [key.key for key in path]
        # R has none on its diagonal; that of U is 0 while V is.
        least = {"R": 0.75, "U": 0}.get(names[-1], 0.95)
        assert not names[0].startswith("terms") or np.mean(g != 0) >= least, names
    for x, y in [(1e4 * X, np.round(Y)), (X, np.zeros_like(Y)), (-1e4 * X, np.ones_like(Y))]:
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(params, x, y)))


@pytest.mark.slow
def test_a_spen_with_terms_is_the_sum_of_its_parts(x64):
    terms = (*TERMS, Tanh())
    features, energy, params = small_spen(terms=terms, entropy=0.7, sees_features=True)
    _, total = of_features(features, energy, params, X, Y)
    want = spen_energies(params, X, Y, sees_features=True, entropy=0.7)
    want += sum(map(np.asarray, each_alone(params, X, Y)))
    want += np.tanh(Y @ params[f"terms_{len(TERMS)}"]["v"])
    np.testing.assert_allclose(total, want, rtol=1e-12)


@pytest.mark.slow
def test_inference_descends_all_terms_at_once(x64):
    terms = Deep((3, 2), sees_features=True), Pairwise(2), Cardinality(3), Convex((3, 2))
    features, energy, params = with_term(*terms)
    context, _ = of_features(features, energy, params, X, Y, derivatives=1)
    found = minimize(energy, params, context, Y, solver=GradientDescent(0.05, 0.5), steps=9)

    def slopes(y):
        return np.asarray(of_features(features, energy, params, X, y, derivatives=1)[1])

    want = numpy_descent(slopes, Y, 9, 0.05, 0.5)
    np.testing.assert_allclose(found.y, want[-1], rtol=1e-9)
    assert np.max(np.abs(want[-1] - Y)) > 0.1


# Deep


def test_a_deep_term_of_one_width_is_the_global_term(x64):
    _, _, params = small_spen(sees_features=True)
    moved = {"W_1": params["C1"], "b_1": params["b"], "c": params["c2"], "Cx": params["Cx"]}
    features, energy, other = with_term(Deep((3,), sees_features=True))
    _, got = of_features(features, energy, {**params, **NO_GLOBAL, "terms_0": moved}, X, Y)
    np.testing.assert_allclose(got, spen_energies(params, X, Y, sees_features=True))
    assert jax.tree.map(np.shape, other["terms_0"]) == jax.tree.map(np.shape, moved)


@partial(jax.jit, static_argnames=("term", "labels"))
def new(term, labels):
    """The parameters that a term starts with."""
    return term.init(quick_key(0), {}, jnp.zeros(labels), method="energy")["params"]


def test_a_deep_term_starts_at_the_documented_scale():
    params = jax.tree.map(np.asarray, new(Deep((150, 100), scale=2.0), 100))
    assert not params["b_1"].any() and not params["b_2"].any()
    # Standard errors are 0.6 % of 15,000 values and 7 % of 100.
    assert np.std(params["W_1"]) == pytest.approx(2 / 100**0.5, rel=0.025)
    assert np.std(params["W_2"]) == pytest.approx(2 / 150**0.5, rel=0.025)
    assert np.std(params["c"]) == pytest.approx(2 / 100**0.5, rel=0.25)


def test_dropout_leaves_out_units_in_training_only_the_same_for_all_y_of_an_example(x64):
    features, energy, params = with_term(Deep((200, 100), dropout=0.2))
    assert jax.eval_shape(features, params, X)["terms"] == [{}]
    h, logits = spen_features(params, X)
    seen = []
    for y in (Y, Y[::-1]):
        context, got = of_features(features, energy, params, X, y, quick_key(0))
        keep = [np.asarray(k) for k in context["terms"][0]["keep"]]
        masks = zip(*keep, strict=True)
        want = [
            deep(params["terms_0"], *example) for example in zip(h, y, masks, strict=True)
        ] - np.sum(logits * y, axis=1)
        np.testing.assert_allclose(got, want)
        seen.append(keep)
    jax.tree.map(np.testing.assert_array_equal, *seen)
    assert [k.shape for k in keep] == [(6, 200), (6, 100)]
    for mask in keep:
        np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.8])
        assert np.mean(mask) == pytest.approx(1, abs=0.09)  # four standard errors of 600 units
        assert len(np.unique(mask, axis=0)) == 6


# Convex


def eigenvalues(term, seed):
    features, energy, params = with_term(term, seed=seed, scale=3.0)
    points = np.random.default_rng(seed).uniform(-2, 2, Y.shape)
    return np.linalg.eigvalsh(of_features(features, energy, params, X, points, derivatives=2)[1])


@pytest.mark.slow
def test_the_convex_term_curves_upwards_everywhere_and_a_deep_one_need_not(x64):
    for seed in range(5):
        found = eigenvalues(Convex((5, 4, 3), sees_features=True), seed)
        assert np.all(found.min(axis=1) > -1e-10)
        assert seed > 0 or found.max() > 0.1
    assert np.min(eigenvalues(Deep((5, 4, 3), sees_features=True), 0)) < -0.1


def test_with_an_entropy_the_convex_energy_has_one_minimiser_from_all_starts(x64):
    term = Convex((8, 4), sees_features=True)
    features, energy, params = with_term(term, entropy=1.0, scale=2.0)
    starts = np.random.default_rng(0).uniform(0.001, 0.999, (30, 4))
    context = jax.jit(features)(params, np.repeat(X[:2], 15, axis=0))
    found = minimize(energy, params, context, starts, solver=MirrorDescent(0.3), steps=400)
    assert np.max(found.residual) < 1e-6
    for answers in np.split(np.asarray(found.y), 2):
        np.testing.assert_allclose(answers, np.tile(answers[:1], (15, 1)), atol=1e-5)
    assert np.max(np.abs(found.y[0] - found.y[15])) > 0.01  # it is not the entropy's own


# Pairwise


@pytest.mark.parametrize("rank", [None, 2])
def test_the_second_derivatives_of_the_pairwise_term_are_its_matrix_with_zero_diagonal(rank, x64):
    _, energy, params = with_term(Pairwise(rank))
    got = of_batch(energy, params, unseen(6), Y, derivatives=2)
    want = matrix(params["terms_0"])
    np.testing.assert_allclose(got, np.tile(want, (6, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.diagonal(got, axis1=1, axis2=2), 0, atol=1e-12)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_change_of_one_label_changes_the_pairwise_term_by_its_derivative(rank, x64):
    _, energy, params = with_term(Pairwise(rank))
    y = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    slopes = np.asarray(of_batch(energy, params, unseen(16), y, derivatives=1))
    values = np.asarray(of_batch(energy, params, unseen(16), y)).reshape([2] * 4)
    for i in range(4):
        change = np.repeat(np.diff(values, axis=i), 2, axis=i).ravel()
        np.testing.assert_allclose(change, slopes[:, i], atol=1e-12)
        assert np.max(np.abs(change)) > 0.1


@pytest.mark.parametrize("rank", [None, 2])
def test_a_new_pairwise_term_is_zero(rank):
    _, _, params = with_term(Pairwise(rank))
    start = jax.tree.map(np.asarray, new(Pairwise(rank), 4))
    assert jax.tree.map(np.shape, start) == jax.tree.map(np.shape, params["terms_0"])
    assert np.all(matrix(start) == 0) and (rank is None or start["U"].all())


# Cardinality


def test_the_cardinality_term_depends_on_the_number_of_labels_only(x64):
    _, energy, params = with_term(Cardinality(6))
    y = np.array([[1.0, 0, 0, 1], [0.5, 0.5, 0.3, 0.7], [0, 0.9, 0.9, 0.2], [1, 1, 1, 0]])
    got = np.asarray(of_batch(energy, params, unseen(4), y))
    np.testing.assert_allclose(got[:3], got[0])
    assert abs(got[3] - got[0]) > 0.01


def test_new_cardinality_units_bend_at_the_numbers_below_their_count():
    start = jax.tree.map(np.asarray, new(Cardinality(7), 12))
    np.testing.assert_array_equal(-start["b"] / start["w"], np.arange(7))
    np.testing.assert_array_equal(start["w"], 1)
    assert 0.03 < np.linalg.norm(start["c"]) < 0.3  # 0.1 but for chance


# Errors


@pytest.mark.parametrize(
    "term, message",
    [
        (Deep(()), "Deep needs at least one width"),
        (Convex(()), "Convex needs at least one width"),
        (Pairwise(0), "rank must be 1 or more.*got 0"),
    ],
)
def test_terms_without_units_are_refused(term, message):
    with pytest.raises(ValueError, match=message):
        with_term(term)
