"""Joint embeddings and contrastive predictive coding: closed forms, no look ahead, no say for padding, collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from spen_jax import FeatureNetwork, exact, logits_of, losses, training
from spen_jax.energies import JointEmbedding, PredictiveCoding
from spen_jax.networks import CausalGRU

B, T, D, E, C, K = 3, 5, 4, 2, 6, 2
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
MASK = np.arange(T) < np.array([5, 3, 2])[:, None]
MODULE = PredictiveCoding(FeatureNetwork(E, (7,)), C, K)
PARAMS = MODULE.init(jax.random.key(1), X, MASK)["params"]


@jax.jit
def context_of(x, mask=MASK):
    def both(module):
        z = module.codes(x, mask)
        return z, module.contexts(z, mask)

    return nn.apply(both, MODULE)({"params": PARAMS})


@jax.jit
def energies_of(x, mask=MASK):
    return MODULE.apply({"params": PARAMS}, x, mask)


def test_a_causal_gru_is_the_cell_of_flax_from_left_to_right():
    network = CausalGRU(C)
    params = jax.tree.map(lambda p: p + 0.1, network.init(jax.random.key(1), X)["params"])
    parts = {k: np.split(np.asarray(params[k]), 3, axis=-1) for k in ("W", "b", "V")}
    cell = {f"i{g}": {"kernel": parts["W"][i], "bias": parts["b"][i]} for i, g in enumerate("rzn")}
    cell |= {f"h{g}": {"kernel": parts["V"][i]} for i, g in enumerate("rzn")}
    cell["hn"]["bias"] = params["c"]
    want = nn.RNN(nn.GRUCell(C)).apply({"params": {"cell": cell}}, X)
    np.testing.assert_allclose(network.apply({"params": params}, X), want, atol=1e-5)


def test_a_place_left_out_in_the_middle_is_skipped():
    network = CausalGRU(C)
    params = network.init(jax.random.key(1), X)["params"]
    mask = np.ones((B, T), bool)
    mask[:, 2] = False
    found = network.apply({"params": params}, X, mask)
    without = network.apply({"params": params}, np.delete(X, 2, axis=1))
    np.testing.assert_allclose(np.delete(found, 2, axis=1), without, atol=1e-6)
    assert not np.any(found[:, 2])


def test_energies_are_minus_the_code_times_what_the_context_predicts():
    z, c = (np.asarray(a) for a in context_of(X))
    W = np.asarray(PARAMS["predict"]["kernel"]).reshape(C, K, E)
    want = -np.einsum("bti,ike,sue->kbtsu", c, W, z)
    np.testing.assert_allclose(energies_of(X), want, rtol=1e-4, atol=1e-6)


def test_a_context_does_not_see_what_comes_later():
    slopes = jax.jit(jax.jacobian(lambda x: context_of(x, np.ones((B, T), bool))[1].sum((0, 2))))(X)
    size = np.abs(slopes).sum((1, 3))  # (t, t')
    assert not np.any(np.triu(size, 1))
    assert np.all(size[np.tril_indices(T)] > 0)


@pytest.mark.parametrize("there", [1e3, np.nan])
def test_what_stands_at_masked_places_changes_neither_energies_nor_loss_nor_gradient(there):
    other = np.where(MASK[..., None], X, there).astype("float32")
    np.testing.assert_array_equal(energies_of(X), energies_of(other))

    @jax.jit
    @jax.value_and_grad
    def loss(params, x):
        return losses.info_nce_ahead(MODULE.apply({"params": params}, x, MASK), MASK).sum()

    jax.tree.map(np.testing.assert_array_equal, loss(PARAMS, X), loss(PARAMS, other))
    assert not np.any(np.stack(context_of(X)[0])[~MASK]) and not np.any(context_of(X)[1][~MASK])


def enumerated(matrix, mask, beta):
    """The loss of each offset, pair by pair."""
    places, found = np.argwhere(mask), []
    for k, of_k in enumerate(matrix, 1):
        each = []
        for b, t in places:
            if t + k < mask.shape[1] and mask[b, t + k]:
                all_of = np.array([-beta * of_k[b, t, i, j] for i, j in places])
                each.append(np.log(np.exp(all_of).sum()) + beta * of_k[b, t, b, t + k])
        found.append(np.mean(each) if each else 0)
    return found


def test_the_loss_is_that_of_all_places_one_by_one_and_0_for_an_offset_that_none_has(x64):
    matrix = np.random.default_rng(1).normal(size=(T, B, T, B, T))
    of_all = jax.jit(losses.info_nce_ahead)
    for mask in (MASK, np.ones((B, T), bool), np.array([[1, 0, 1, 1, 0]] * B, bool)):
        found = of_all(jnp.asarray(matrix), mask, 2.0)
        np.testing.assert_allclose(found, enumerated(matrix, mask, 2.0), rtol=1e-9)
    assert found[-1] == 0
    pairs = losses.pairs_ahead(jnp.asarray(matrix), MASK)
    assert pairs.where.shape == (T, B, T, B * T) and int(pairs.counts[0].sum()) == 4 + 2 + 1


@pytest.mark.slow
def test_the_loss_has_the_gradient_of_differences():
    def loss(params):
        return losses.info_nce_ahead(MODULE.apply({"params": params}, X, MASK), MASK).sum()

    jax.test_util.check_grads(jax.jit(loss), (PARAMS,), 1, modes=["rev"], atol=0.01, rtol=0.02)


@pytest.mark.parametrize("same", [25, 19])
def test_log_n_less_the_loss_of_the_density_ratio_is_the_mutual_information(same):
    # Four symbols, 25 words of two that begin with each: the second is often the same as the first.
    counts = np.full((4, 4), (25 - same) // 3) + np.eye(4, dtype=int) * (same - (25 - same) // 3)
    words = np.repeat(np.stack(np.indices((4, 4)), -1).reshape(16, 2), counts.ravel(), axis=0)
    p = counts / 25
    known = np.log(4) + np.sum(p[0][p[0] > 0] * np.log(p[0][p[0] > 0]))
    ratio = np.log(np.maximum(4 * p, 1e-9))
    matrix = -ratio[words[:, :, None, None], words[None, None]].astype("float32")[None]
    loss = jax.jit(losses.info_nce_ahead)
    np.testing.assert_allclose(np.log(200) - loss(jnp.asarray(matrix)), [known], atol=1e-4)
    # Energies that know less show less of it.
    assert np.log(200) - loss(jnp.asarray(matrix) / 10)[0] < known - 0.1


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"energies must be \(K, B, T, B, T\)"):
        losses.pairs_ahead(jnp.zeros((2, 3, 4, 3, 5)))
    with pytest.raises(ValueError, match=r"mask must be \(B, T\), here \(3, 4\)"):
        losses.pairs_ahead(jnp.zeros((2, 3, 4, 3, 4)), np.ones((3, 5), bool))
    with pytest.raises(ValueError, match=r"mask must be \(B, T\), here \(3, 5\)"):
        MODULE.apply({"params": PARAMS}, X, MASK[:2])
    with pytest.raises(ValueError, match="needs sequences"):
        MODULE.apply({"params": PARAMS}, X[0])
    with pytest.raises(ValueError, match="1 or more, got units=3 and ahead=0"):
        PredictiveCoding(FeatureNetwork(E), 3, 0).init(jax.random.key(0), X)


@pytest.mark.slow
@pytest.mark.parametrize("negatives", [True, False])
def test_two_views_find_each_other_with_negatives_and_collapse_without(negatives):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(200, 3)).astype("float32")
    x, y = hidden @ rng.normal(size=(3, 6)), np.tanh(hidden @ rng.normal(size=(3, 5)))
    x, y = (jnp.asarray(a, jnp.float32) for a in (x, y))
    network = FeatureNetwork(4, (16,))
    joint = JointEmbedding(logits_of(network), logits_of(network))
    keys = jax.random.split(jax.random.key(0))
    start = {"x": network.init(keys[0], x)["params"], "y": network.init(keys[1], y)["params"]}
    others = ~np.eye(64, dtype=bool)

    def objective(params, rows, key):
        E = exact.pairwise(joint, params, x[rows], y[rows])
        correct = jnp.diagonal(E)
        value = losses.info_nce(correct, E, 10.0, where=others) if negatives else correct
        return value.mean(), {}

    @jax.jit
    def trained(start):
        batches = jax.random.randint(jax.random.key(1), (200, 64), 0, 160)
        optimizer = optax.adam(1e-2)
        state = training.init(start, optimizer, jax.random.key(2))
        return training.scan(objective, optimizer, state, batches)[0].params

    params = trained(start)
    E = np.asarray(exact.pairwise(joint, params, x[160:], y[160:]))
    at_1 = np.mean(E.argmin(1) == np.arange(40))
    spread = [directions(network, p["x"], x).std(0).mean() for p in (params, start)]
    if negatives:
        assert at_1 > 0.5 and spread[0] > 0.5 * spread[1]
    else:
        assert at_1 < 0.3 and spread[0] < 0.2 * spread[1] and E.mean() < 0.05


def directions(network, params, x):
    z = np.asarray(network.apply({"params": params}, x))
    return z / np.linalg.norm(z, axis=1, keepdims=True)
