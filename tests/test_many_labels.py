"""Many labels: the largest of them, energies over a shortlist, sparse targets, labels split over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from test_parallel import run

import spen_jax as sx
from spen_jax import energies, exact


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


@pytest.mark.slow
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
    zeros = jax.grad(lambda s: jnp.sum(exact.largest(s, 2).values))(jnp.array([[-1.0, 0, -0.0, 0]]))
    np.testing.assert_array_equal(zeros, [[0, 1, 1, 0]])


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


# An energy whose labels are rows, and its answers over a shortlist

N_LABELS, NETWORK = 12, sx.FeatureNetwork(12, (8,))
SPEN = energies.LabelSPEN(NETWORK, n_global=4, entropy=1.0, global_scale=3.0)
X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = (np.random.default_rng(1).random((6, 12)) < 0.3).astype(np.float32)


def parameters(seed=0):
    """All of them drawn, biases too."""
    start = SPEN.init(jax.random.key(seed), X, Y)["params"]
    leaves, tree = jax.tree.flatten(start)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noise = [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return tree.unflatten(noise)


PARAMS = parameters()
FEATURES, ENERGY = sx.functions_of(SPEN)


def full(**options):
    options = {"start": sx.logits_of(SPEN), "steps": 8} | options
    return sx.Predictor(ENERGY, FEATURES, **options)


@pytest.mark.slow
def test_the_energy_and_its_gradient_are_those_of_a_spen():
    like = sx.SPEN(NETWORK, n_global=4, entropy=1.0)
    output = {"kernel": PARAMS["W"].T, "bias": PARAMS["bias"]}
    params = {"network": PARAMS["network"] | {"output": output}, "C1": PARAMS["C"].T}
    params |= {name: PARAMS[name] for name in ("b", "c2")}
    inside = 0.1 + 0.8 * Y

    def both(y):
        return (
            SPEN.apply({"params": PARAMS}, X, y),
            like.apply({"params": params}, X, y),
        )

    np.testing.assert_allclose(*both(inside), rtol=1e-5)
    np.testing.assert_allclose(
        *(jax.grad(lambda y, i=i: jnp.sum(both(y)[i]))(inside) for i in range(2)), rtol=1e-4
    )
    start = SPEN.init(jax.random.key(0), X, Y)["params"]
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, PARAMS)
    assert "output" not in start["network"]


def test_any_rows_do_in_place_of_all_labels():
    some = np.array([7, 2, 2, 11])
    rows = PARAMS | {name: PARAMS[name][some] for name in ("W", "bias", "C")}
    context = FEATURES(rows, X)
    np.testing.assert_allclose(context["logits"], FEATURES(PARAMS, X)["logits"][:, some], rtol=1e-5)
    y = np.linspace(0, 1, 4, dtype=np.float32)
    units = np.logaddexp(y @ np.asarray(rows["C"]) + np.asarray(rows["b"]), 0)
    want = units @ np.asarray(rows["c2"]) - np.asarray(context["logits"]) @ y
    want -= sx.domains.binary_entropy(y)
    got = jax.vmap(ENERGY, (None, 0, None))(rows, context, y)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert full()(rows, X).y.shape == (6, 4)


def test_a_shortlist_of_all_labels_has_the_answers_of_all_labels():
    want = full()(PARAMS, X)
    found = sx.Shortlist(SPEN, N_LABELS, steps=8)(PARAMS, X)
    np.testing.assert_allclose(found.matrix(N_LABELS).toarray(), want.y, atol=1e-6)
    np.testing.assert_allclose(found.energy, want.energy, rtol=1e-5)
    np.testing.assert_allclose(found.residual, want.residual, atol=1e-5)
    assert np.all(np.diff(found.y, axis=1) <= 0)


def test_a_shortlist_holds_the_best_labels_and_its_energy_has_the_others_at_0():
    found = sx.Shortlist(SPEN, 5, steps=300)(PARAMS, X)
    logits = np.asarray(FEATURES(PARAMS, X)["logits"])
    np.testing.assert_array_equal(
        np.sort(found.labels, axis=1), np.sort(by_sorting(logits, 5)[1], axis=1)
    )
    dense = found.matrix(N_LABELS).toarray()
    np.testing.assert_allclose(full().energies(PARAMS, X, dense), found.energy, rtol=1e-4)
    assert np.max(found.residual) < 1e-4
    # Coordinate by coordinate along the shortlist nothing is lower.
    for step in (-1e-2, 1e-2):
        for place in range(5):
            moved = dense.copy()
            at = np.arange(6), found.labels[:, place]
            moved[at] = np.clip(moved[at] + step, 0, 1)
            assert np.all(full().energies(PARAMS, X, moved) >= found.energy - 1e-4)


def test_of_labels_that_are_all_on_the_larger_potential_comes_first():
    bias = 40.0 + np.arange(N_LABELS)
    params = PARAMS | {"W": 0 * PARAMS["W"], "bias": bias.astype(np.float32)}
    found = sx.Shortlist(SPEN, 4, steps=1)(params, X)
    assert np.all(np.asarray(found.y) == 1)
    np.testing.assert_array_equal(found.labels, np.tile([11, 10, 9, 8], (6, 1)))


@pytest.mark.slow
def test_a_shortlist_is_the_same_in_batches_of_sparse_rows_and_within_a_program():
    short = sx.Shortlist(SPEN, 3, steps=4)
    want = short(PARAMS, X)
    for found in (
        sx.Shortlist(SPEN, 3, steps=4, batch_size=4)(PARAMS, X),
        sx.Shortlist(SPEN, 3, steps=4, batch_size=4)(PARAMS, sparse.csr_array(X)),
        jax.jit(short)(PARAMS, X),
    ):
        np.testing.assert_array_equal(found.labels, want.labels)
        np.testing.assert_allclose(found.y, want.y, rtol=1e-5)
        np.testing.assert_allclose(found.energy, want.energy, rtol=1e-5)


def test_bad_arguments_of_energies_of_many_labels_are_refused():
    with pytest.raises(ValueError, match="needs an energies.LabelSPEN"):
        sx.Shortlist(sx.SPEN(NETWORK), 3)
    with pytest.raises(ValueError, match="k must be"):
        sx.Shortlist(SPEN, 0)
    with pytest.raises(ValueError, match="k must be at most 12"):
        sx.Shortlist(SPEN, 13)(PARAMS, X)
    with pytest.raises(ValueError, match="needs a hidden layer"):
        energies.LabelSPEN(sx.FeatureNetwork(12, ())).init(jax.random.key(0), X, Y)
    with pytest.raises(ValueError, match="each of the context's 12 labels"):
        ENERGY(PARAMS, jax.tree.map(lambda a: a[0], FEATURES(PARAMS, X)), jnp.zeros(5))


# Labels spread over devices


@pytest.mark.long
@pytest.mark.slow
def test_a_step_over_devices_of_labels_says_one_sum_and_finds_the_answers_of_one_device():
    found = run("labels_on_eight_devices.py")
    for name, sums, rows in (("1 x 8", "f32[8,16]", 64), ("2 x 4", "f32[4,16]", 128)):
        one = found[name]
        assert one["collectives"] == {"all-reduce": 1}  # in the whole program, and it is the loop's
        assert one["in loops"] == [sums]  # (B, M) of the examples of a row of devices
        assert one["gap"] < 1e-5 and one["energy"] < 1e-5
        assert set(one["rows of W"]) == {rows} and "labels" in one["y lies"]
    assert found["training"]["gap"] < 1e-4 and found["training"]["C lies"] == "P('labels',)"


def test_labels_are_spread_over_a_mesh_that_names_them_and_divides_them():
    mesh = sx.parallel.label_mesh()
    put = sx.parallel.by_label(PARAMS, N_LABELS, mesh)
    jax.tree.map(np.testing.assert_array_equal, put, PARAMS)
    with pytest.raises(ValueError, match="batch must divide the number of devices"):
        sx.parallel.label_mesh(1000)
    batch_alone = jax.make_mesh((1,), ("batch",))
    with pytest.raises(ValueError, match="the axis 'labels' of a mesh that also has 'batch'"):
        sx.parallel.by_label(PARAMS, N_LABELS, batch_alone)
