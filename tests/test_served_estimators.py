"""Bundles of taggers, of what is known of labels, and of sparse rows answer as the estimators do, to the bit."""

import numpy as np
import pytest
from scipy.sparse import coo_array, csc_matrix, csr_array

import spen_jax as sx
from spen_jax import bundles, serving
from spen_jax.data import Lexicon
from spen_jax.estimators import SPENClassifier, SPENSequenceTagger
from spen_jax.serving.sequences import reader_in

pytest.importorskip("flatbuffers", reason="jax needs it to write and to read programs")
pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
SMALL = {"hidden_units": 4, "steps": 2, "epochs": 1, "random_state": 0}
LENGTHS = (3, 0, 1, 9, 40, 300, *RNG.integers(1, 8, 40).tolist())
"""Places of sequences: none, few, and more than the widest batch of 32 has."""


def words(T):
    return RNG.choice(
        ["the", "they", "run", "Zürich-Oerlikon2024", "x", "Ünïcode", "İ9"], T
    ).tolist()


def features(T):
    return [
        {"w": w, "n": 2.5 * i, "first": i == 0, "many": ["a", "b"][: i % 3]}
        for i, w in enumerate(words(T))
    ]


def vectors(T):
    return RNG.normal(size=(T, 3))


def labels(lengths, K, known=1.0):
    return [
        [int(RNG.integers(K)) if RNG.random() < known else None for _ in range(T)] for T in lengths
    ]


def same_sequences(got, want):
    return len(got) == len(want) and all(map(np.array_equal, got, want))


@pytest.mark.long
@pytest.mark.parametrize(("kind", "units"), [(vectors, 3), (vectors, 0), (words, 3), (features, 3)])
def test_a_tagger_is_served_as_it_predicts(kind, units, tmp_path):
    few = [kind(T) for T in (4, 6, 5)]
    tagger = SPENSequenceTagger(**SMALL, window_units=units)
    tagger.fit(few, [[0, 1, 2, 0], [2] * 6, [1] * 5])
    tagger.save(tmp_path / "a", programs=True)
    assert {*bundles.read(tmp_path / "a").programs} == {"any"}
    bundle, X = serving.load(tmp_path / "a"), [kind(T) for T in LENGTHS]
    assert bundle.names == tagger.classes_.tolist()
    for n in (0, 2, len(X)):
        found = bundle(X[:n])
        assert same_sequences(found["y"], tagger.predict_marginals(X[:n]))
        assert found["labels"] == tagger.predict(X[:n])
    known = labels(LENGTHS, 3, 0.3)
    found = bundle(X, known=known)
    assert same_sequences(found["y"], tagger.predict_marginals(X, known))
    assert found["labels"] == tagger.predict(X, known)
    assert sx.load(tmp_path / "a").predict(X) == tagger.predict(X)


def test_sequences_that_do_not_fit_are_said(tmp_path):
    tagger = SPENSequenceTagger(**SMALL).fit([["a", "b"]], [["x", "y"]])
    tagger.save(tmp_path / "plain")
    bundle = serving.load(tmp_path / "plain")  # its program is exported here
    assert bundle([["a", "c"]])["labels"] == tagger.predict([["a", "c"]])
    for given, message in (
        ({"x": ["a", "b"]}, r"a single sequence is given as \[sequence\]"),
        ({"x": [["a", 3]]}, r"X\[0\]\[1\] is 3: give every place as a text"),
        ({"x": [[[1.0]]]}, "must hold texts throughout"),
        ({"x": [["a"]], "known": [["z"]]}, "none of the 2 labels"),
        ({"x": [["a"]], "known": [["x", "x"]]}, "has 1 places"),
        ({"x": [["a"]], "mask": 1}, "takes x, perhaps known, got x, mask"),
    ):
        with pytest.raises(ValueError, match=message):
            bundle(**given)


def test_a_bundle_numbers_words_as_the_lexicon_does(tmp_path):
    texts = [words(5) for _ in range(20)] + [["", "a" * 14, "b" * 15, "ß", "ǅ1", "ΑΣ"]]
    tagger = SPENSequenceTagger(**SMALL).fit(texts[:15], labels([5] * 15, 2))
    tagger.save(tmp_path / "a")
    got, want = reader_in(bundles.read(tmp_path / "a"))(texts), tagger.reader_(texts)
    assert isinstance(tagger.reader_.lexicon, Lexicon) and {*got} == {*want}
    assert all(np.array_equal(got[k], want[k]) and got[k].dtype == want[k].dtype for k in got)


X = RNG.normal(size=(300, 4))
NAMES = np.array(["cold", "dry", "hot", "wet"])
ON = np.concatenate([X[:, :2] <= 0, X[:, :2] > 0], axis=1)
SETS = [NAMES[row].tolist() for row in ON]


def told(n, form):
    """What is known of n rows."""
    rng = np.random.default_rng(n)
    known = np.where(rng.random((n, 4)) < 0.4, ON[:n], np.nan)
    if form == "numbers":
        return known
    rows = [NAMES[row == 1].tolist() for row in known]
    return [None if i % 5 == 4 else {*row} if i % 2 else row for i, row in enumerate(rows)]


@pytest.mark.parametrize("decision", ["expected_f1", "threshold", 0.4, 2])
def test_known_labels_are_served_as_they_are_predicted(decision, tmp_path):
    model = SPENClassifier(
        decision=decision, hidden_units=8, epochs=2, members=2, known_share=0.5, random_state=0
    ).fit(X, SETS)
    model.save(tmp_path / "a", programs=True)
    bundle = serving.load(tmp_path / "a")
    for n in (1, 64, 150):
        for form in ("numbers", "names"):
            known = told(n, form)
            found = bundle(X[:n], known=known)
            assert found["labels"] == model.predict(X[:n], known)
            assert np.array_equal(found["p"], model.predict_proba(X[:n], known))
        assert bundle(X[:n], known=None)["labels"] == model.predict(X[:n])
    assert bundle(X[:2], known=csr_array(ON[:2]))["labels"] == SETS[:2]
    if decision == 2:
        for known, message in (
            ([["warm"]], "the label 'warm' in row 0"),
            (["hot"], "row 0 is 'hot'"),
            ([[0, 1, 2, 0]], "0, 1 or NaN where a label is not known, got 2"),
            ([[0, 1]], r"numbers \(N, 4\)"),
            ([["hot"], []], "same leading axis of rows"),
        ):
            with pytest.raises(ValueError, match=message):
                bundle(X[:1], known=known)


@pytest.mark.long
def test_sparse_rows_are_served_as_they_are_predicted(tmp_path):
    options = {"hidden_units": 8, "epochs": 1, "members": 1, "random_state": 0}
    counts = RNG.poisson(0.1, size=(300, 80)).astype(float)
    lengths = counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)
    kinds = ("words", counts), ("sparse", counts * X[:, :1]), ("lengths", lengths), ("dense", X)
    for kind, x in kinds:
        model = SPENClassifier(**options).fit(csr_array(x), ON.astype(int))
        if kind == "dense":
            model = SPENClassifier(**options).fit(x, ON.astype(int))
        assert model.scaling_.kind == kind
        model.save(tmp_path / "a", programs=True)
        bundle = serving.load(tmp_path / "a")
        for made in (csr_array, csc_matrix, coo_array):
            for n in (1, 65, 300):
                found = bundle(made(x[:n]))
                assert np.array_equal(found["p"], model.predict_proba(made(x[:n])))
        small = csr_array(x.astype(np.float32))
        assert np.array_equal(bundle(small)["p"], model.predict_proba(small))
        assert np.array_equal(bundle(x)["p"], model.predict_proba(csr_array(x)))
        assert bundle(csr_array(x)[:0])["p"].shape == (0, 4)
    known = told(70, "numbers")
    found = bundle(csr_array(X[:70]), known=known)
    assert np.array_equal(found["on"], model.predict(csr_array(X[:70]), known).astype(bool))
    twice = csr_array((np.full(3, 0.1), [0, 0, 0], [0, 3]), shape=(1, 4))
    assert np.array_equal(bundle(twice)["p"], model.predict_proba(twice))
    with pytest.raises(ValueError, match="inf in row 1, column 2"):
        bundle(csr_array(([1.0, np.inf], ([0, 1], [1, 2])), shape=(2, 4)))
    with pytest.raises(ValueError, match=r"numbers of shape \(N, 4\), got float64 of shape"):
        bundle(csr_array(np.ones((2, 3))))
