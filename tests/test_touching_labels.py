"""A LabelSPEN trained on the words and labels that a batch touches, and what drawn labels do to its potentials."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

import spen_jax as sx
from spen_jax import objectives, sparse, training
from spen_jax.training import fit, init, log_shares, touching

RNG = np.random.default_rng(0)
N, D, L, M = 50, 40, 14, 3
X = scipy.sparse.random_array((N, D), density=0.1, rng=RNG, dtype=np.float32).tocsr()
P = 0.6 / np.arange(1, L + 1)
Y = (RNG.random((N, L)) < P).astype(np.float32)
SPARSE = {"x": X, "y": scipy.sparse.csr_array(Y)}
TABLES = {"network/hidden_0/kernel": "x", "W": "y", "bias": "y", "C": "y"}


def spen_of(units):
    return sx.energies.LabelSPEN(
        sx.FeatureNetwork(L, (5,)), n_global=units, entropy=1.0, global_scale=2.0
    )


SPEN = spen_of(M)
FEATURES, ENERGY = sx.functions_of(SPEN)
OBJECTIVE = objectives.end_to_end(sx.Predictor(ENERGY, FEATURES, start=sx.logits_of(SPEN), steps=3))
PARAMS = SPEN.init(jax.random.key(0), X[:1], Y[:1])["params"]


def trained(optimizer, data=SPARSE, epochs=2, **options):
    state = init(PARAMS, optimizer, jax.random.key(1))
    steps = fit(OBJECTIVE, optimizer, state, data, epochs=epochs, batch_size=8, **options)
    return steps.last()[0]


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_with_room_for_all_labels_it_is_the_whole_training_of_a_label_spen():
    got = trained(touching(optax.sgd(0.1), TABLES, least={"y": L})).params
    want = trained(optax.sgd(0.1), {"x": X.toarray(), "y": Y}).params
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), want, PARAMS)
    assert min(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)
    # ... and so are the answers over a shortlist of all labels.
    found = sx.Shortlist(SPEN, L, steps=3)(got, X)
    predictor = sx.Predictor(ENERGY, FEATURES, start=sx.logits_of(SPEN), steps=3)
    whole = predictor(want, X.toarray()).y
    np.testing.assert_allclose(found.matrix(L).toarray(), whole, atol=1e-4)


@pytest.mark.long
@pytest.mark.slow
def test_a_broken_training_on_drawn_labels_of_a_folder_goes_on_to_the_bit(tmp_path):
    with sx.data.storing(tmp_path / "rows") as part:
        part.append(**SPARSE)
    optimizer = touching(optax.adagrad(0.1), TABLES, least={"y": 6})
    straight = trained(optimizer, epochs=3)
    whole = training.Checkpoints.after_step

    def after_step(self, steps, *rest):
        whole(self, steps, *rest)
        if steps == 11:
            raise KeyboardInterrupt

    kept = training.Checkpoints(tmp_path / "kept", every_steps=2, every_minutes=None)
    data = sx.data.stored(tmp_path / "rows").fields
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Checkpoints, "after_step", after_step)
        trained(optimizer, data, 3, checkpoints=kept)
    again = trained(optimizer, data, 3, checkpoints=tmp_path / "kept")
    same(again.params, straight.params)
    same(again.opt_state, straight.opt_state)


def test_without_a_global_term_the_rows_of_labels_are_touched_too():
    spen = spen_of(0)
    features, energy = sx.functions_of(spen)
    predictor = sx.Predictor(energy, features, start=sx.logits_of(spen), steps=0)
    optimizer = touching(optax.adagrad(0.1), TABLES, least={"y": 6})
    params = spen.init(jax.random.key(0), X[:1], Y[:1])["params"]
    state = init(params, optimizer, jax.random.key(1))
    objective = objectives.end_to_end(predictor)
    state, metrics = fit(objective, optimizer, state, SPARSE, epochs=1, batch_size=8).last()
    assert metrics["left_out"] == 0 and state.params["C"].shape == (L, 0)
    found = sx.Shortlist(spen, L, steps=0)(state.params, X)
    want = jax.nn.sigmoid(features(state.params, X)["logits"])
    np.testing.assert_allclose(found.matrix(L).toarray(), want, atol=1e-6)


# What a step sees of labels that a row does not have


@pytest.mark.parametrize("least", [1, 9, L])
def test_log_shares_are_how_often_a_step_sees_a_label_that_the_row_has_not(least):
    matrix, seen = sparse.Matrix("y", SPARSE["y"]), np.zeros(L)
    rng, batches = np.random.default_rng(1), 2000
    for _ in range(batches):
        rows = rng.permutation(N)[:4]
        _, labels = matrix.touched(rows, least)
        seen[labels] += np.sum(1 - Y[rows][:, labels], axis=0)
    shares = np.exp(log_shares(SPARSE["y"], 4, least))
    there = batches * 4 * np.mean(1 - Y, axis=0)
    np.testing.assert_allclose(seen / there, shares, atol=0.03)
    assert shares[0] > shares[-1] or least == L
    if least == L:
        np.testing.assert_array_equal(shares, 1)


def test_labels_of_every_batch_and_batches_of_one_have_the_shares_that_they_must():
    y = scipy.sparse.csr_array(np.eye(20, 50) + np.eye(1, 50)[[0] * 20] > 0, dtype=np.float32)
    shares = np.exp(log_shares(y, 5, 10))
    assert shares[0] == 1  # every row has it
    one = np.exp(log_shares(y, 1, 10))  # a row's own one or two, and 8 others or so of 48
    np.testing.assert_allclose(one[1:], (10 - 1.95) / (50 - 1.95), rtol=0.01)


@pytest.mark.slow
def test_potentials_of_drawn_labels_are_the_true_log_odds_less_the_log_shares():
    rows, labels, least = 400, 30, 10
    p = 0.3 / np.arange(1, labels + 1)
    y = np.zeros((rows, labels), np.float32)
    for label, count in enumerate(np.maximum(np.round(p * rows), 1).astype(int)):
        y[RNG.permutation(rows)[:count], label] = 1
    data = {"x": np.ones((rows, 1), np.float32), "y": scipy.sparse.csr_array(y)}
    rate = optax.exponential_decay(0.6, 2500, 0.02)
    optimizer = touching(optax.sgd(rate), {"bias": "y"}, least={"y": least})
    objective = objectives.feed_forward(lambda params, x: x @ params["bias"][None])
    truth = np.log(y.mean(0)) - np.log1p(-y.mean(0))
    shares = log_shares(data["y"], 4, least)
    assert shares[0] > -0.7 and shares[-1] < -1
    state = init({"bias": jnp.asarray(truth, jnp.float32)}, optimizer, jax.random.key(0))
    state, _ = fit(objective, optimizer, state, data, epochs=40, batch_size=4).last()
    learnt = np.asarray(state.params["bias"])
    assert np.mean(np.abs(learnt - truth)) > 0.9
    assert np.max(np.abs(learnt + shares - truth)) < 0.2


def test_log_shares_refuses_what_is_no_matrix_and_no_number():
    with pytest.raises(ValueError, match="needs y as a SciPy matrix, got a ndarray"):
        log_shares(Y, 4, 9)
    with pytest.raises(ValueError, match="batch_size"):
        log_shares(SPARSE["y"], 0, 9)
    with pytest.raises(ValueError, match="least"):
        log_shares(SPARSE["y"], 4, 0)
