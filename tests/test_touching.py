"""Tables of which a batch touches few rows, against trainings on everything at once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

from spen_jax import sparse, training
from spen_jax.objectives import feed_forward
from spen_jax.training import Recipe, fit, init, step, touching

RNG = np.random.default_rng(0)
N, D, L, H = 70, 60, 9, 4
X = scipy.sparse.random_array((N, D), density=0.06, rng=RNG, dtype=np.float32).tocsr()
Y = (RNG.random((N, L)) < 0.3).astype(np.float32)
DATA = {"x": X, "y": Y}
TABLE = {"in/W": "x"}
LABELS = {"out/W": "y", "out/b": "y"}


def logits(params, x):
    return jnp.tanh(x @ params["in"]["W"]) @ params["out"]["W"].T + params["out"]["b"][None]


OBJECTIVE = feed_forward(logits)
PARAMS = {
    "in": {"W": RNG.normal(size=(D, H)).astype(np.float32)},
    "out": {"W": RNG.normal(size=(L, H)).astype(np.float32), "b": np.zeros(L, np.float32)},
}


def trained(optimizer, data=DATA, epochs=2, **options):
    state = init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1))
    return list(fit(OBJECTIVE, optimizer, state, data, epochs=epochs, batch_size=16, **options))


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def near(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, want)


@pytest.mark.slow
def test_gradient_descent_is_the_training_on_whole_tables():
    got, want = trained(touching(optax.sgd(0.5), TABLE)), trained(optax.sgd(0.5))
    for (state, metrics), (whole, others) in zip(got, want, strict=True):
        near(state.params, whole.params)
        np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-6)


def test_a_step_is_that_of_the_optimizer_in_the_touched_rows_and_leaves_all_others():
    rows = np.arange(5)
    on = np.unique(X[rows].indices)
    off = np.setdiff1d(np.arange(D), on)
    assert 0 < len(on) < D - 10
    adam = optax.adam(0.1)
    state = init(jax.tree.map(jnp.asarray, PARAMS), adam, jax.random.key(1))
    state, _ = step(OBJECTIVE, adam, state, DATA, np.arange(N))  # moments that are not 0
    whole, _ = step(OBJECTIVE, adam, state, DATA, rows)
    part, _ = step(OBJECTIVE, touching(adam, TABLE), state, DATA, rows)
    for pick in (lambda s: s.params, lambda s: s.opt_state[0].mu, lambda s: s.opt_state[0].nu):
        old, got, want = (np.asarray(pick(s)["in"]["W"]) for s in (state, part, whole))
        np.testing.assert_allclose(got[on], want[on], atol=1e-6)
        np.testing.assert_array_equal(got[off], old[off])
        near(pick(part)["out"], pick(whole)["out"])
    assert np.abs(whole.params["in"]["W"][off] - state.params["in"]["W"][off]).max() > 1e-3


@pytest.mark.slow
def test_recipes_averages_and_parts_of_optimizers_keep_what_they_know_of_a_row_with_it():
    recipe = Recipe(2, 0.05, 1e-3, batch_size=16, average=0.9, rates=(("out", 0.5),))
    optimizer = touching(recipe.optimizer(N), TABLE)
    (first, _), (second, _) = trained(optimizer)
    average = training.average_of(second)
    assert jax.tree.map(jnp.shape, average) == jax.tree.map(jnp.shape, PARAMS)
    assert np.isfinite(average["in"]["W"]).all()
    assert not np.array_equal(first.params["in"]["W"], second.params["in"]["W"])


def test_labels_of_a_batch_and_others_are_all_that_the_objective_sees():
    seen = []

    def watched(params, batch, key):
        seen.append((batch["y"].shape, params["out"]["W"].shape, params["out"]["b"].shape))
        return OBJECTIVE(params, batch, key)

    sparse_y = scipy.sparse.csr_array(Y)
    optimizer = touching(optax.sgd(0.5), TABLE | LABELS, least={"y": 3})
    state = init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1))
    data = {"x": X, "y": sparse_y}
    on = np.unique(sparse_y[[4, 7]].indices)
    new, _ = step(watched, optimizer, state, data, np.array([4, 7]))
    ((shape, *tables),) = {*seen}
    assert tables == [(shape[1], H), (shape[1],)] and len(on) <= shape[1] <= L
    assert set(on) <= set(np.flatnonzero(np.any(new.params["out"]["W"] != PARAMS["out"]["W"], 1)))


def test_with_room_for_all_labels_it_is_the_whole_training():
    data = {"x": X, "y": scipy.sparse.csr_array(Y)}
    optimizer = touching(optax.sgd(0.5), TABLE | LABELS, least={"y": L})
    near(trained(optimizer, data)[-1][0].params, trained(optax.sgd(0.5))[-1][0].params)


def test_a_batch_learns_from_its_own_labels_and_from_no_copies_of_another_one():
    many = 40
    labels = {"W": RNG.normal(size=(many, H)).astype(np.float32), "b": np.zeros(many, np.float32)}
    y = np.zeros((N, many), np.float32)
    y[:, many - 1] = 1
    on = np.unique(sparse.Matrix("y", scipy.sparse.csr_array(y)).touched([0, 5], 1)[1])
    ends = []
    for optimizer, rows, truth in (
        (touching(optax.sgd(0.5), TABLE | LABELS), np.arange(many), scipy.sparse.csr_array(y)),
        (optax.sgd(0.5), on, y[:, on]),
    ):
        some = jax.tree.map(lambda a, rows=rows: jnp.asarray(a[rows]), labels)
        state = init(PARAMS | {"out": some}, optimizer, jax.random.key(1))
        ends.append(step(OBJECTIVE, optimizer, state, {"x": X, "y": truth}, np.array([0, 5])))
    (got, metrics), (want, others) = ends
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-6)
    near(got.params["in"], want.params["in"])
    near(jax.tree.map(lambda a: a[on], got.params["out"]), want.params["out"])


def test_all_of_many_columns_are_drawn_at_once():
    wide = scipy.sparse.random_array((4, 100_000), density=1e-5, rng=RNG, format="csr")
    matrix = sparse.Matrix("y", wide)
    for least in (100_000, 99_999):  # to draw what is left one by one would take an hour
        columns = matrix.touched(np.arange(-2, 2), least)[1]
        assert len(np.unique(columns)) == least and columns.max() < 100_000
        assert np.isin(wide[[2, 3, 0, 1]].indices, columns).all()


def test_parameters_of_numpy_in_64_bits_train_as_those_of_32():
    ends = []
    for dtype in (np.float64, np.float32):
        optimizer = touching(optax.adam(0.1), TABLE)
        params = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), PARAMS)
        state = init(params, optimizer, jax.random.key(1))
        ends.append(fit(OBJECTIVE, optimizer, state, DATA, epochs=1, batch_size=16).last()[0])
    same(ends[0].params, ends[1].params)


def test_touched_columns_are_those_of_the_rows_and_others_are_drawn_evenly():
    matrix, rows = sparse.Matrix("x", X), np.arange(4, 9)
    part, columns = matrix.touched(rows)
    found = columns[columns < D]
    np.testing.assert_array_equal(found, np.unique(X[rows].indices))
    np.testing.assert_array_equal(part.todense()[:, : len(found)], X[rows].toarray()[:, found])
    assert (columns[len(found) :] == D).all()
    counts = np.zeros(D)
    for row in range(N):
        part, columns = matrix.touched(np.array([row]), 30)
        assert len(columns) == len(np.unique(columns)) == 30 and columns.max() < D
        np.testing.assert_array_equal(part.todense(), X[[row]].toarray()[:, columns])
        counts[columns] += 1
    assert counts.min() > 15 and counts.max() < 60


def test_what_the_caller_holds_is_not_changed_and_the_same_call_gives_the_same():
    optimizer = touching(optax.adam(0.1), TABLE)
    state = init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1))
    epochs = iter(fit(OBJECTIVE, optimizer, state, DATA, epochs=2, batch_size=16))
    first, _ = next(epochs)
    kept = jax.tree.map(np.array, first.params)
    last, _ = next(epochs)
    same(first.params, kept)
    near(state.params, PARAMS)
    same(trained(optimizer)[-1][0].params, last.params)


@pytest.mark.slow
def test_a_broken_training_goes_on_to_the_bit(tmp_path):
    optimizer = touching(optax.adam(0.1), TABLE)
    straight = trained(optimizer, epochs=3)[-1]
    checkpoints = training.Checkpoints(tmp_path, every_steps=2, every_minutes=None)
    whole = training.Checkpoints.after_step

    def after_step(self, steps, *rest):
        whole(self, steps, *rest)
        if steps == 7:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Checkpoints, "after_step", after_step)
        trained(optimizer, epochs=3, checkpoints=checkpoints)
    state, metrics = trained(optimizer, epochs=3, checkpoints=tmp_path)[-1]
    same(state.params, straight[0].params)
    same(state.opt_state, straight[0].opt_state)
    assert metrics == straight[1]


@pytest.mark.slow
def test_another_optimizer_or_objective_does_not_go_on_where_one_of_sparse_rows_stopped(tmp_path):
    def other(params, batch, key):
        loss, metrics = OBJECTIVE(params, batch, key)
        return 2 * loss, metrics

    def begin(optimizer, objective=OBJECTIVE, folder=tmp_path):
        state = init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1))
        options = {"epochs": 1, "batch_size": 35, "checkpoints": folder}
        return fit(objective, optimizer, state, DATA, **options).last()

    begin(touching(optax.sgd(0.1), TABLE))
    begin(touching(optax.sgd(0.1), TABLE))
    for optimizer, objective in (
        (touching(optax.sgd(0.2), TABLE), OBJECTIVE),
        (optax.sgd(0.1), OBJECTIVE),
        (touching(optax.sgd(0.1), TABLE), other),
    ):
        with pytest.raises(training.CheckpointError, match="began otherwise"):
            begin(optimizer, objective)


@pytest.mark.slow
def test_an_example_without_a_finite_loss_is_left_out_and_its_batch_is_tried_again():
    def fussy(params, batch, key):
        loss, metrics = OBJECTIVE(params, batch, key)
        return loss + jnp.where(jnp.any(batch["bad"]), jnp.nan, 0), metrics

    optimizer = touching(optax.sgd(0.5), TABLE)
    state = init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1))
    data = DATA | {"bad": np.arange(N) == 3}
    new, metrics = fit(fussy, optimizer, state, data, epochs=1, batch_size=16).last()
    assert metrics["left_out"] == 1
    assert np.isfinite(new.params["in"]["W"]).all()


def test_a_training_compiles_one_step():
    def counted(params, batch, key):
        compiled.append(1)
        return OBJECTIVE(params, batch, key)

    compiled = []
    optimizer = touching(optax.adam(0.1), TABLE)
    state = init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1))
    fit(counted, optimizer, state, DATA, epochs=4, batch_size=16).last()
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("tables", "data", "match"),
    [
        ({"in/V": "x"}, DATA, r"the table 'in/V' is none of the parameters' arrays: in/W, out/W"),
        (TABLE, DATA | {"x": X.toarray()}, r"'in/W' of shape \(60, 4\) needs a field 'x' .* SciPy"),
        ({"out/W": "x"}, DATA, r"'out/W' of shape \(9, 4\) .* of shape \(70, 60\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_name(tables, data, match):
    with pytest.raises(ValueError, match=match):
        trained(touching(optax.sgd(0.1), tables), data)


def test_touching_needs_tables_and_whole_numbers():
    with pytest.raises(ValueError, match="touching needs tables, such as"):
        touching(optax.sgd(0.1), {})
    with pytest.raises(ValueError, match="in least fields among theirs"):
        touching(optax.sgd(0.1), TABLE, least={"y": 3})
    with pytest.raises(ValueError, match=r"least\['x'\]"):
        touching(optax.sgd(0.1), TABLE, least={"x": 0})


WIDE = """
import resource, sys
import jax, numpy as np, optax, scipy.sparse
import spen_jax as sx
rows, columns, on, hidden, labels = 100_000, 10**6, 20, 16, 20
rng = np.random.default_rng(0)
indices = np.sort(rng.integers(0, columns, (rows, on), dtype=np.int32))
starts = np.arange(0, rows * on + 1, on, dtype=np.int32)
x = scipy.sparse.csr_array((np.ones(rows * on, np.float32), indices.ravel(), starts), (rows, columns))
y = (rng.random((rows, labels)) < 0.1).astype(np.float32)
network = sx.FeatureNetwork(labels, (hidden,))
objective = sx.objectives.feed_forward(lambda params, x: network.apply({"params": params}, x))
optimizer = sx.training.touching(optax.adam(1e-3), {"hidden_0/kernel": "x"})
params = network.init(jax.random.key(0), x[:1])["params"]
state = sx.training.init(params, optimizer, jax.random.key(1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = {"x": x, "y": y}
for state, metrics in sx.fit(objective, optimizer, state, data, epochs=2, batch_size=1000):
    pass
held = sum(a.nbytes for a in jax.tree.leaves((state.params, state.opt_state)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, held / 1024)
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kibibytes of getrusage")
def test_a_training_on_a_million_features_holds_three_copies_of_its_state_and_no_gradient_of_it():
    done = subprocess.run(
        [sys.executable, "-c", WIDE], capture_output=True, text=True, check=True, env={**os.environ}
    )
    grown, state = map(float, done.stdout.split())
    # Beside the caller's own: the rows in work, what is yielded, and what the caller has not let go of.
    assert state > 180_000 and grown < 3 * state + 200_000
