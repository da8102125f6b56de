"""Estimators of rows: scikit-learn's habits, forms of labels, what is known, and files."""

import hashlib
import pickle
import warnings

import numpy as np
import optax
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import spen_jax as sx
from spen_jax.estimators import SPENClassifier, SPENRegressor
from spen_jax.estimators.inputs import Scaling
from spen_jax.estimators.learning import OPTIMIZER, Numbers

NAMES = np.array(["cold", "dry", "hot", "wet"])


def quick(**more):
    return SPENClassifier(
        **{
            "hidden_units": 32,
            "global_units": 4,
            "epochs": 60,
            "learning_rate": 0.01,
            "members": 2,
            "random_state": 0,
            **more,
        }
    )


@pytest.fixture(scope="module")
def weather():
    """Rows (120, 5), labels (120, 4): one of cold and hot, one of dry and wet."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5))
    cold, dry = x[:, 0] + 0.2 * x[:, 2] > 0, x[:, 1] > 0
    return x, np.stack([cold, dry, ~cold, ~dry], axis=1).astype(int)


@pytest.fixture(scope="module")
def fitted(weather):
    return quick().fit(*weather)


def sets_of(y):
    return [NAMES[row > 0].tolist() for row in y]


@pytest.mark.slow
def test_it_learns_and_answers_in_the_form_that_it_was_given(weather, fitted):
    x, y = weather
    assert fitted.score(x, y) > 0.9
    assert fitted.predict(x).shape == y.shape and fitted.predict(x).dtype.kind == "i"
    by_sets = quick().fit(x, sets_of(y))
    assert by_sets.classes_.tolist() == NAMES.tolist()
    assert by_sets.predict(x[:3]) == sets_of(fitted.predict(x[:3]))
    frame = quick().fit(x, pd.DataFrame(y, columns=NAMES))
    assert frame.classes_.tolist() == NAMES.tolist()
    np.testing.assert_array_equal(frame.predict_proba(x), fitted.predict_proba(x))
    assert quick().fit(x, pl.DataFrame(y, schema=NAMES.tolist())).score(x, csr_array(y)) > 0.9


@pytest.mark.slow
def test_answers_come_as_frames_where_they_are_asked_for(weather):
    x, y = weather
    model = quick().fit(x, pd.DataFrame(y, columns=NAMES)).set_output(transform="pandas")
    rows = pd.DataFrame(x[:3], index=["a", "b", "c"])
    model = clone(model).fit(rows.to_numpy(), pd.DataFrame(y[:3], columns=NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = model.predict_proba(pd.DataFrame(x[:3], index=["a", "b", "c"]))
    assert list(p.columns) == NAMES.tolist() and list(p.index) == ["a", "b", "c"]
    assert model.set_output(transform="polars").predict(x[:3]).columns == NAMES.tolist()
    assert isinstance(model.set_output(transform="default").predict(x[:3]), np.ndarray)
    with pytest.raises(ValueError, match="must be 'default', 'pandas' or 'polars'"):
        model.set_output(transform="excel")


@pytest.mark.slow
def test_sparse_rows_stay_sparse_and_words_are_weighed(weather):
    rng = np.random.default_rng(1)
    x = (rng.random((150, 80)) < 0.06).astype(float)
    x[:, 0] = x[:, 1] == 0
    y = np.stack([x[:, 1] > 0, x[:, 2] > 0], axis=1).astype(int)
    sparse = quick(dropout=0.2, epochs=40).fit(csr_array(x), y)
    assert sparse.scaling_.kind == "words"
    dense = quick(dropout=0.2, epochs=40).fit(x, y)
    np.testing.assert_allclose(
        sparse.predict_proba(csr_array(x)), dense.predict_proba(x), atol=1e-4
    )
    assert sparse.score(x, y) > 0.8


@pytest.mark.slow
def test_one_column_of_classes_keeps_its_names(weather):
    x, y = weather
    column = np.where(y[:, 0] > 0, "cold", "hot")
    model = quick().fit(x, column)
    assert model.score(x, column) > 0.9
    assert set(model.predict(x)) <= {"cold", "hot"}
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)
    assert ((model.decision_function(x) > 0) == (model.predict(x) == "hot")).all()
    with pytest.raises(ValueError, match="one column of classes"):
        model.rank(x)


@pytest.mark.slow
def test_known_labels_are_held_and_pull_the_others(weather):
    x, y = weather
    told = quick(known_share=0.8, epochs=60, global_units=16).fit(x, y)
    unclear = np.zeros((1, 5))
    known = np.array([[1, np.nan, np.nan, np.nan]])
    p = told.predict_proba(unclear, known=known)[0]
    against = told.predict_proba(unclear, known=[[0, np.nan, np.nan, np.nan]])[0]
    assert p[0] == 1 and against[0] == 0
    assert against[2] > p[2] + 0.2  # hot, where it is not cold
    assert told.predict(unclear, known=known)[0, 0] == 1
    by_sets = quick(known_share=0.8).fit(x, sets_of(y))
    assert "cold" in by_sets.predict(unclear, known=[["cold"]])[0]
    assert "cold" not in by_sets.rank(unclear, known=[["cold"]])[0]
    assert len(by_sets.rank(unclear, known=[None], k=2)[0]) == 2
    with pytest.raises(ValueError, match="'mild', which fit did not see"):
        by_sets.predict(unclear, known=[["mild"]])


@pytest.mark.slow
def test_labels_that_are_not_known_do_not_count(weather):
    x, y = weather
    partly = y.astype(float)
    partly[::2, 3] = np.nan
    wrong = np.where(np.isnan(partly), 1 - y, partly)
    model, misled = quick().fit(x, partly), quick().fit(x, wrong)
    assert model.score(x, y) > misled.score(x, y)
    sets = sets_of(y)
    sets[0], sets[1] = None, [*sets[1], None]
    assert quick().fit(x, sets).score(x, sets) > 0.8
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        quick().fit(x, y * 2)


@pytest.mark.parametrize("decision", ["threshold", 0.5, 2])
def test_decisions_by_rule(weather, fitted, decision):
    x, y = weather
    model = quick(decision=decision).fit(x, y)
    assert model.score(x, y) > 0.85
    if decision == 2:
        assert (model.predict(x).sum(axis=1) == 2).all()
    if decision == 0.5:
        np.testing.assert_array_equal(model.predict(x), model.predict_proba(x) >= 0.5)
        np.testing.assert_array_equal(model.predict(x), model.decision_function(x) >= 0)


@pytest.mark.slow
def test_numbers_are_predicted_in_their_own_units():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = x @ rng.normal(size=(4, 3)) * [1, 10, 1000] + [0, 5, -300]
    model = SPENRegressor(hidden_units=64, epochs=80, random_state=0).fit(x, y)
    assert model.score(x, y) > 0.9 and model.predict(x).shape == (200, 3)
    one = SPENRegressor(hidden_units=64, epochs=80, random_state=0).fit(x, y[:, 0])
    assert one.predict(x).shape == (200,) and one.score(x, y[:, 0]) > 0.9


def test_a_search_over_settings_and_folds(weather):
    x, y = weather
    pipe = make_pipeline(StandardScaler(), quick(epochs=3))
    grid = {"spenclassifier__weight_decay": [0.0, 0.1], "spenclassifier__dropout": [0.2, 0.5]}
    search = GridSearchCV(pipe, grid, cv=2).fit(x, y)
    assert set(search.best_params_) == set(grid)


def test_a_seed_decides_all_and_nothing_else_does(weather, fitted):
    x, y = weather
    np.testing.assert_array_equal(quick().fit(x, y).predict_proba(x), fitted.predict_proba(x))
    assert not np.array_equal(quick(random_state=1).fit(x, y).flats_, fitted.flats_)


def test_weights_of_rows_and_rows_of_weight_0(weather):
    x, y = weather
    weight = np.ones(120)
    weight[60:] = 0
    wrong = np.where(np.arange(120)[:, None] < 60, y, 1 - y)
    model = quick().fit(x, wrong, sample_weight=weight)
    assert model.score(x, y) > 0.85
    same = quick().fit(x[:60], y[:60])
    np.testing.assert_array_equal(model.predict_proba(x), same.predict_proba(x))
    with pytest.raises(ValueError, match="Negative"):
        quick().fit(x, y, sample_weight=-weight)


def test_it_goes_on_from_before(weather):
    x, y = weather
    model = quick(members=1)
    for _ in range(30):
        model.partial_fit(x, sets_of(y), classes=NAMES)
    assert model.score(x, sets_of(y)) > 0.9 and model.n_epochs_ == [30]
    with pytest.raises(ValueError, match="first call"):
        quick().partial_fit(x, sets_of(y))
    warm = quick(warm_start=True, epochs=1).fit(x, y)
    before = warm.flats_
    assert np.abs(warm.fit(x, y).flats_ - before).max() < 0.5
    assert np.abs(quick(epochs=1, random_state=1).fit(x, y).flats_ - before).max() > 1


@pytest.mark.slow
def test_copies_and_files_answer_alike(weather, fitted, tmp_path):
    x, y = weather
    p = fitted.predict_proba(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(x), p)
    fitted.save(tmp_path / "model.spen")
    loaded = sx.load(tmp_path / "model.spen")
    np.testing.assert_array_equal(loaded.predict_proba(x), p)
    np.testing.assert_array_equal(loaded.predict(x), fitted.predict(x))
    assert loaded.get_params() == fitted.get_params()
    assert list(tmp_path.iterdir()) == [tmp_path / "model.spen"]
    column = quick().fit(x, np.where(y[:, 0] > 0, "cold", "hot").astype(object))
    column.save(tmp_path / "column.spen")
    assert (sx.load(tmp_path / "column.spen").predict(x) == column.predict(x)).all()
    numbers = SPENRegressor(hidden_units=8, epochs=2, random_state=0).fit(x, y)
    numbers.save(tmp_path / "numbers.spen")
    np.testing.assert_array_equal(sx.load(tmp_path / "numbers.spen").predict(x), numbers.predict(x))


def test_files_that_are_none_are_refused(weather, fitted, tmp_path):
    path = tmp_path / "model.spen"
    fitted.save(path)
    whole = path.read_bytes()

    def refused(content, message, error=ValueError):
        path.write_bytes(content)
        with pytest.raises(error, match=message):
            sx.load(path)

    refused(b"", "damaged")
    refused(b"x,y\n1,2\n", "damaged")
    refused(whole[: len(whole) // 2], "damaged")
    flipped = bytearray(whole)
    flipped[-3] ^= 255
    refused(bytes(flipped), "checksum")
    refused(whole.replace(b'"version":"1"', b'"version":"9"'), "later spen_jax")
    from safetensors.numpy import save

    refused(save({"a": np.zeros(3)}), "no estimator")
    for state in ("[]", '{"class": "load", "params": {}, "fitted": {}}', "[" * 10_000):
        header = {"format": "spen_jax estimator", "version": "1", "state": state}
        digest = hashlib.sha256(state.encode()).hexdigest()
        refused(save({}, header | {"sha256": digest}), "no estimator that can be made")
    refused(save({}, {"format": "spen_jax estimator"}), "damaged")
    with pytest.raises(FileNotFoundError):
        sx.load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        sx.load(tmp_path)


@pytest.mark.slow
def test_decisions_are_tuned_on_rows_of_every_kind():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8000, 3)), np.zeros((8000, 2), int)
    y[:4000] = 1  # sorted, and x says nothing of it
    model = SPENClassifier(
        decision=0.5, hidden_units=4, global_units=2, epochs=3, members=1, random_state=0
    )
    np.testing.assert_allclose(model.fit(x, y).predict_proba(x).mean(axis=0), 0.5, atol=0.05)


@pytest.mark.slow
def test_weights_count_in_the_decision_too():
    x = np.random.default_rng(0).normal(size=(300, 2))
    y = np.repeat([[1, 0], [0, 1]], 150, axis=0)
    weight = np.repeat([1000.0, 1.0], 150)
    p = quick(decision=0.5).fit(x, y, sample_weight=weight).predict_proba(x).mean(axis=0)
    assert p[0] > 0.9 and p[1] < 0.1


@pytest.mark.slow
def test_going_on_keeps_what_was_tuned_and_refuses_another_shape(weather):
    x, y = weather
    model = quick().fit(x, sets_of(y))
    tuned = model.decision_
    model.partial_fit(x[:5], sets_of(y[:5]))
    assert model.decision_ == tuned
    model.partial_fit(x[:5], [[]] * 5)
    assert model.decision_.rule.allow_empty and model.decision_.a == tuned.a
    with pytest.raises(ValueError, match="cannot go on with other units"):
        model.set_params(hidden_units=17).partial_fit(x[:5], sets_of(y[:5]))
    warm = quick(warm_start=True, epochs=1).fit(x, sets_of(y))
    renamed = [[name.upper() for name in row] for row in sets_of(y)]
    np.testing.assert_array_equal(warm.flats_, warm.fit(x, renamed).flats_)  # begun anew


def test_a_fit_that_fails_leaves_the_one_before(weather):
    x, y = weather
    model = quick(epochs=5).fit(x, sets_of(y))
    before = model.predict_proba(x)
    with pytest.raises(ValueError, match="decision"):
        model.set_params(decision="best").fit(100 * x, sets_of(y[:, ::-1]))
    np.testing.assert_array_equal(model.predict_proba(x), before)


def test_scales_of_all_sizes_are_read():
    x = np.random.default_rng(0).normal(size=(100, 3)) * [1e-200, 1, 1e200] + [0, 1.7e9, 0]
    scaled = Scaling.of(x)(x)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-3)
    assert (Scaling.of(np.ones((9, 2)))(np.ones((1, 2)) * 5) == 0).all()


def test_numbers_beside_words_keep_their_differences():
    rng = np.random.default_rng(0)
    words = (rng.random((200, 300)) < 0.03) * rng.random((200, 300))
    prices = rng.normal(500, 100, size=(200, 1))
    x = csr_array(np.hstack([words, prices]))
    scaling = Scaling.of(x)
    scaled = scaling(x).toarray()
    assert scaling.kind == "sparse"
    np.testing.assert_allclose(scaled[:, -1].std(), 1, rtol=1e-3)
    lengths = np.linalg.norm(scaled[:, :-1], axis=1)
    np.testing.assert_allclose(np.sqrt(np.mean(lengths**2)), 8, rtol=1e-3)


def test_missing_label_sets_are_announced_and_empty_names_refused(weather):
    x, y = weather
    sets = pd.Series([";".join(row) for row in sets_of(y)])
    sets[0] = None
    with pytest.warns(UserWarning, match="1 of 120 label sets are missing"):
        quick(epochs=2).fit(x, sets.str.split(";"))
    with pytest.raises(ValueError, match="a label without a name"):
        quick(epochs=2).fit(x, sets.fillna("").str.split(";"))


@pytest.mark.slow
def test_classes_that_are_linear_are_learned_nearly_as_by_a_linear_model():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 10))
    z = x @ rng.normal(size=10) + 0.3 * rng.normal(size=500)
    y = np.digitize(z, np.quantile(z, [0.33, 0.66]))
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:200], y[:200])
    model = SPENClassifier(random_state=0).fit(x[:200], y[:200])
    assert model.score(x[200:], y[200:]) > linear.score(x[200:], y[200:]) - 0.06


def test_labels_that_fit_did_not_see_are_missed_in_a_score(weather, fitted):
    x, y = weather
    model = quick(epochs=5).fit(x, sets_of(y))
    right = model.score(x[:1], model.predict(x[:1]))
    assert right == 1 and 0 < model.score(x[:1], [[*model.predict(x[:1])[0], "new"]]) < 1
    with pytest.raises(ValueError, match="inconsistent"):
        model.score(x, sets_of(y)[:1])


def test_bad_rows_are_named():
    x = pd.DataFrame({"age": [20.0, np.nan, 40.0], "town": ["Ulm", "Jena", "Bonn"]})
    y = [["a"], ["b"], ["a", "b"]]
    with pytest.raises(ValueError, match="'town'.*holds words, such as 'Ulm'.*OneHotEncoder"):
        quick().fit(x, y)
    with pytest.raises(ValueError, match="NaN: column 'age', row 1.*SimpleImputer"):
        quick().fit(x[["age"]], y)
    with pytest.raises(ValueError, match="as many rows"):
        quick().fit(np.zeros((4, 2)), y)
    with pytest.raises(ValueError, match="decision must be"):
        quick(decision="best").fit(np.zeros((3, 2)), y)
    with pytest.raises(ValueError, match="hidden_units must be a whole number"):
        quick(hidden_units=0).fit(np.zeros((3, 2)), y)


def state_of_numbers(flat, decay, steps):
    ones = np.ones_like(flat)
    numbers = Numbers(np.float32(0.01), np.float32(decay) * ones, np.int32(steps), ones)
    return OPTIMIZER.init(flat)._replace(numbers=numbers)


@pytest.mark.slow
def test_at_a_steady_rate_the_optimizer_is_adamw_with_clipped_gradients():
    theirs = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(0.01, weight_decay=0.1))
    rng = np.random.default_rng(0)
    flat = other = np.asarray(rng.normal(size=30), np.float32)
    state, their_state = state_of_numbers(flat, 0.1, 0), theirs.init(other)
    for scale in np.linspace(0.1, 3, 20):  # the last ones are clipped
        gradient = np.asarray(scale * rng.normal(size=30), np.float32)
        updates, state = OPTIMIZER.update(gradient, state, flat)
        flat = flat + updates
        updates, their_state = theirs.update(gradient, their_state, other)
        other = other + updates
    np.testing.assert_allclose(flat, other, rtol=1e-4, atol=1e-6)


def test_the_rate_warms_up_for_a_tenth_of_the_steps_and_falls_as_a_cosine():
    flat = np.ones(4, np.float32)
    state, rates = state_of_numbers(flat, 0.0, 20), []
    for _ in range(20):  # of a gradient that stays, Adam's step is as long as the rate
        updates, state = OPTIMIZER.update(flat, state, flat)
        rates.append(-float(updates[0]))
    t = np.arange(1, 21)
    want = 0.01 * np.where(t < 3, t / 3, (1 + np.cos(np.pi * (t - 3) / 18)) / 2)
    np.testing.assert_allclose(rates, want, rtol=1e-4)
