"""The estimator of sequences."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

from spen_jax.data import load_letters
from spen_jax.estimators import SPENSequenceTagger
from spen_jax.estimators.tagger_inputs import Bags, reader_of
from spen_jax.estimators.tagger_learning import answer as compiled_answers
from spen_jax.estimators.tagger_learning import passes, widths_of
from spen_jax.estimators.tagger_model import Shape, fields_like, spen_of, started, unravel_of
from spen_jax.serving.tags import read_tags
from spen_jax.training.steps import compiled_step

SMALL = {"hidden_units": 8, "window_units": 4, "steps": 2, "epochs": 15, "batch_size": 8}
CALM = {**SMALL, "dropout": 0.0, "learning_rate": 0.02, "random_state": 0}


def sentences(n, seed=0):
    """ "the run" is a noun, "they run" a verb: the word itself does not say."""
    rng = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(n):
        verbs = rng.random(rng.integers(1, 4)) < 0.5
        X.append(
            [w for v in verbs for w in ("they" if v else "the", str(rng.choice(["run", "walk"])))]
        )
        y.append([t for v in verbs for t in (("PRON", "VERB") if v else ("DET", "NOUN"))])
    return X, y


def vectors(n, seed=0):
    """Two labels in turn, of which the vector of the first place alone says which begins."""
    rng = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(n):
        first, T = rng.integers(2), rng.integers(2, 7)
        x = rng.normal(size=(T, 3))
        x[:, 0] = np.where(np.arange(T) == 0, 4 * first - 2, 0)
        X.append(x)
        y.append(["ab"[(first + t) % 2] for t in range(T)])
    return X, y


def dicts(X):
    return [
        [
            {"word": w, "before": s[i - 1] if i else "", "first": i == 0, "length": len(w)}
            for i, w in enumerate(s)
        ]
        for s in X
    ]


@pytest.fixture(scope="module")
def of_words():
    return SPENSequenceTagger(**CALM).fit(*sentences(60))


@pytest.fixture(scope="module")
def of_vectors():
    return SPENSequenceTagger(**CALM).fit(*vectors(60))


@pytest.mark.slow
def test_labels_that_no_vector_tells_are_found_from_those_beside_them(of_vectors):
    X, y = vectors(40, 1)
    assert of_vectors.score(X, y) > 0.9
    alone = SPENSequenceTagger(**CALM).fit([x[:1] for x in X], [t[:1] for t in y])
    assert alone.score(X, y) < 0.8
    assert list(of_vectors.classes_) == ["a", "b"]


@pytest.mark.slow
def test_words_are_tagged_by_their_sentence(of_words):
    assert of_words.score(*sentences(20, 1)) > 0.95
    assert len(of_words.predict([["they", "jump"]])[0]) == 2  # a word never seen


@pytest.mark.slow
def test_dicts_of_features_are_read_as_crfsuite_reads_them():
    X, y = sentences(60)
    tagger = SPENSequenceTagger(**CALM).fit(dicts(X), y)
    X, y = sentences(20, 1)
    assert tagger.score(dicts(X), y) > 0.95
    places = [
        [
            {"w": "a", "on": True, "off": False, "x": 3.0, "none": None, "many": ["p", "q"]},
            ["plain"],
        ]
    ]
    reader = reader_of(places)
    assert isinstance(reader, Bags)
    assert reader.names == ("many=p", "many=q", "on", "plain", "w=a", "x")
    fields = reader([[{"x": 6.0, "unseen": "b"}]])
    assert fields["weights"][0].tolist() == [2, 0, 0, 0] and not fields["ids"][1].any()


@pytest.mark.slow
def test_marginals_are_distributions_of_any_length_and_empty_sequences_have_none(of_vectors):
    X = [np.ones((T, 3)) for T in (1, 0, 5, 40, 0)]
    found = of_vectors.predict_proba(X)
    assert [a.shape for a in found] == [(T, 2) for T in (1, 0, 5, 40, 0)]
    np.testing.assert_allclose(np.concatenate(found).sum(axis=1), 1, atol=1e-5)
    assert [len(t) for t in of_vectors.predict(X)] == [1, 0, 5, 40, 0]
    assert of_vectors.predict([]) == []


def test_what_stands_beside_a_sequence_in_its_batch_changes_nothing(of_vectors):
    X, _ = vectors(5, 2)
    one = [of_vectors.predict_proba([x])[0] for x in X]
    for a, b in zip(one, of_vectors.predict_proba(X), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_known_labels_stay_and_tell_of_the_others(of_vectors):
    X = [np.zeros((4, 3))]
    for first, all_of_it in (("a", list("abab")), ("b", list("baba"))):
        known = [[first, None, None, None]]
        assert of_vectors.predict(X, known=known) == [all_of_it]
        assert of_vectors.predict_marginals(X, known=known)[0][0].max() == 1
    with pytest.raises(ValueError, match=r"known\[0\]\[1\] is 'c', which is none of the 2 labels"):
        of_vectors.predict(X, known=[["a", "c", None, None]])


@pytest.mark.slow
def test_labels_that_are_not_known_do_not_count_in_training():
    X, y = vectors(60)
    rng = np.random.default_rng(0)
    some = [[t if rng.random() < 0.5 else None for t in row] for row in y]
    some[3] = None
    tagger = SPENSequenceTagger(**CALM).fit(X, some)
    assert list(tagger.classes_) == ["a", "b"]
    assert tagger.score(*vectors(40, 1)) > 0.85


@pytest.mark.slow
def test_a_seed_decides_everything_and_sequences_of_weight_0_say_nothing():
    X, y = vectors(12)
    settings = {**SMALL, "epochs": 2, "random_state": 3}
    one, other = (SPENSequenceTagger(**settings).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one.flat_, other.flat_)
    y[0] = ["b" if t == "a" else "a" for t in y[0]]
    weight = np.arange(12) > 0
    found = [
        SPENSequenceTagger(**settings).fit(X, labels, weight) for labels in (y, vectors(12)[1])
    ]
    np.testing.assert_array_equal(found[0].flat_, found[1].flat_)


@pytest.mark.slow
def test_it_is_cloned_pickled_and_searched(of_words):
    X, y = vectors(12)
    tagger = SPENSequenceTagger(**{**SMALL, "epochs": 2}, random_state=0)
    search = GridSearchCV(tagger, {"dropout": [0.0, 0.2], "weight_decay": [0, 1e-3]}, cv=2).fit(
        X, y
    )
    assert search.best_params_.keys() == {"dropout", "weight_decay"}
    assert cross_val_score(clone(tagger), X, y, cv=2).shape == (2,)
    back = pickle.loads(pickle.dumps(search.best_estimator_))
    assert back.predict(X) == search.predict(X)
    words, _ = sentences(6)
    assert pickle.loads(pickle.dumps(of_words)).predict(words) == of_words.predict(words)


@pytest.mark.slow
def test_training_goes_on_by_partial_fit_and_warm_start():
    X, y = vectors(60)
    tagger = SPENSequenceTagger(**CALM).partial_fit(X[:1], [["a"] * len(X[0])], classes=["a", "b"])
    assert list(tagger.classes_) == ["a", "b"]
    for _ in range(12):
        tagger.partial_fit(X, y)
    assert tagger.score(*vectors(40, 1)) > 0.9
    with pytest.raises(ValueError, match="'d', which is none of the 2 labels"):
        tagger.partial_fit(X[:1], [["d"] * len(X[0])])
    further = clone(tagger).set_params(warm_start=True, epochs=1)
    first = further.fit(X, y).score(X, y)
    for _ in range(10):
        further.fit(X, y)
    assert further.score(X, y) > first


def test_other_rates_epochs_and_numbers_of_sequences_compile_nothing(of_vectors):
    X, y = vectors(48, 5)
    of_vectors.predict(X), of_vectors.predict(X[:3])
    before = compiled_step._cache_size(), compiled_answers._cache_size()
    other = {"dropout": 0.3, "learning_rate": 0.01, "weight_decay": 0.1, "epochs": 2}
    clone(of_vectors).set_params(**other).fit(X, y).predict(X[:3])
    assert before == (compiled_step._cache_size(), compiled_answers._cache_size())


@pytest.mark.slow
def test_the_epoch_is_kept_that_has_most_held_out_labels_right():
    tagger = SPENSequenceTagger(**CALM).fit(*vectors(30))
    assert len(tagger.validation_errors_) == 15 and 1 <= tagger.n_epochs_ <= 15
    tagger = SPENSequenceTagger(**{**CALM, "epochs": 2}, early_stopping=False).fit(*vectors(30))
    assert tagger.validation_errors_ == [] and tagger.n_epochs_ == 2


@pytest.mark.slow
def test_progress_is_shown_on_request(capsys):
    SPENSequenceTagger(**{**SMALL, "epochs": 1}, verbose=True).fit(*vectors(6))
    assert capsys.readouterr().out == ""


def test_batches_have_few_widths_and_one_size():
    lengths = np.array([3] * 250 + [9] * 200 + [30] * 100 + [200])
    widths = widths_of(lengths)
    assert widths == [8, 16, 32]
    assert widths_of(lengths[-101:]) == [
        32
    ]  # of few sequences one width, whatever is left over cut
    assert widths_of(np.array([1000])) == [256]
    rng = np.random.default_rng(0)
    batches = list(passes(np.minimum(lengths, 32), widths, 8, rng))
    assert {(w, len(rows)) for w, rows in batches} == {(w, 8) for w in widths}
    assert set(np.concatenate([rows for _, rows in batches])) == set(range(551))


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "inputs"), [("vectors", (64,)), ("features", (64,)), ("words", (64, 64, 64))]
)
def test_parameters_begin_as_those_of_the_module_do(kind, inputs):
    shape = Shape(kind, inputs, 16, 32, 32, 2)
    y = jnp.full((1, 1, 16), 1 / 16)
    found = unravel_of(shape)(started(shape, 0))
    with jax.disable_jit():
        expected = spen_of(shape).init(jax.random.key(0), fields_like(shape, 1, 1), y)["params"]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert a.shape == b.shape, path
        np.testing.assert_allclose(np.std(a), np.std(b), rtol=0.3, err_msg=str(path))


def test_labels_become_numbers_and_unknown_ones_are_marked():
    classes, numbers = read_tags([["b", None, float("nan")], [], ["a"]], np.array([3, 0, 1]))
    assert list(classes) == ["a", "b"] and numbers.tolist() == [1, -1, -1, 0, -1]
    classes, numbers = read_tags([[2, np.int64(1)]], np.array([2]))
    assert classes.tolist() == [1, 2] and numbers.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([["a"], ["b"]], [["A"]], "inconsistent numbers of samples: X has 2 sequences and y 1"),
        ([["a", "b"]], [["A"]], r"X\[0\] has 2 places, but y\[0\] is 1 labels"),
        ([["a"]], ["A"], r"X\[0\] has 1 places, but y\[0\] is 'A'"),
        ([["a"]], None, "requires y to be passed"),
        ([["a"]], [[None]], "y has no label"),
        ([["a", "b"]], [["A", 1]], "all texts or all whole numbers"),
        ([["a"]], [[1.5]], r"y\[0\]\[0\] must be a text, a whole number or None, got 1.5"),
        ("a b", [["A"]], "X must be a list of sequences"),
        (["a", "b"], [["A"], ["B"]], r"X\[0\] is 'a': a single sequence is given as \[sequence\]"),
        ([[]], [[]], "y has no label"),
        ([[1.0, 2.0]], [["A", "B"]], r"X\[0\]\[0\] must be a vector.*given as \(T, 1\)"),
        (
            [["a"], np.ones((1, 2))],
            [["A"], ["B"]],
            r"texts throughout.*X\[1\] holds vectors of numbers",
        ),
        ([["a", 1]], [["A", "B"]], r"X\[0\]\[1\] is 1: give every place as a text"),
        ([np.ones((1, 2)), np.ones((1, 3))], [["A"], ["B"]], r"X\[1\] has vectors of 3 numbers"),
        ([np.ones((1, 2)), [[0.0, np.nan]]], [["A"], ["B"]], "NaN: sequence 1, place 0, column 1"),
        ([[[1.0], [1.0, 2.0]]], [["A", "B"]], r"X\[0\] must be an array \(T, D\)"),
        ([[{"a": 1.0}, "b"]], [["A", "B"]], r"X\[0\]\[1\] is 'b': give every place as a dict"),
        ([[{"a": np.inf}]], [["A"]], r"X\[0\]\[0\]\['a'\] is inf"),
        ([[{"a": {"b": 1}}]], [["A"]], r"X\[0\]\[0\]\['a'\] must be a text"),
        ([[{"a": 0}]], [["A"]], "X has no feature"),
    ],
)
def test_errors_say_which_sequence_is_wrong_and_what_to_do(X, y, message):
    with pytest.raises(ValueError, match=message):
        SPENSequenceTagger(**SMALL).fit(X, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be"),
        ({"dropout": 1.0}, "dropout must be a share"),
        ({"validation_fraction": -0.1}, "validation_fraction must be a share"),
    ],
)
def test_settings_that_cannot_be_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        SPENSequenceTagger(**settings).fit(*vectors(2))


@pytest.mark.slow
def test_it_asks_to_be_fitted_first_and_for_sequences_of_the_same_kind(of_vectors):
    with pytest.raises(NotFittedError):
        SPENSequenceTagger().predict([["a"]])
    with pytest.raises(ValueError, match="vectors of numbers throughout"):
        of_vectors.predict([["a", "b"]])
    with pytest.raises(ValueError, match="vectors of 2 numbers"):
        of_vectors.predict([np.ones((1, 2))])


@pytest.mark.long
def test_handwriting_is_read_better_than_letter_by_letter():
    try:
        letters = load_letters()
    except FileNotFoundError:
        pytest.skip("the data set ocr is not there")
    names = np.array(letters.alphabet)
    X = [x[m] for x, m in zip(letters.x, letters.mask, strict=True)]
    y = [names[t[m]].tolist() for t, m in zip(letters.y, letters.mask, strict=True)]
    train, test = np.flatnonzero(letters.folds == 1)[:300], np.flatnonzero(letters.folds == 2)[:300]

    def of(cut, **settings):
        tagger = SPENSequenceTagger(random_state=0, **settings)
        tagger.fit(*(cut([a[i] for i in train]) for a in (X, y)))
        return tagger.score(*(cut([a[i] for i in test]) for a in (X, y)))

    def in_letters(a):
        return [s[i : i + 1] for s in a for i in range(len(s))]

    words = of(list, epochs=12, steps=4, window_units=64)
    one_by_one = of(in_letters, epochs=5, steps=1, window_units=0)
    assert words > one_by_one + 0.05


@pytest.mark.long
def test_the_experiment_by_default_settings_runs(monkeypatch, tmp_path):
    for name in ("matplotlib", "tyro", "rich", "sklearn_crfsuite"):
        pytest.importorskip(name)
    from experiments.structure import estimators
    from spen_jax.data import Letters, Sentence, Treebank, padded

    rng = np.random.default_rng(0)
    drawn, mask = padded([rng.integers(0, 5, rng.integers(3, 7)) for _ in range(60)], 14, -1)
    images = (rng.random((5, 128)) < 0.3)[drawn] * mask[..., None]
    alphabet = tuple("abcdefghijklmnopqrstuvwxyz")
    letters = Letters(np.float32(images), drawn, mask, np.arange(60) % 3, alphabet, {})
    made = [
        Sentence(tuple(x), (), tuple(y), (), (), (), ())
        for x, y in zip(*sentences(40), strict=True)
    ]
    monkeypatch.setattr(estimators.sx.data, "load_letters", lambda _: letters)
    bank = Treebank("made up", made, made, made, {})
    monkeypatch.setattr(estimators.sx.data, "load_treebank", lambda data_dir: bank)
    result = estimators.main(estimators.Config(quick=True, features=True, out=tmp_path / "run"))
    assert [len(found) for found in (result["words"], result["tags"])] == [3, 3]
    assert (tmp_path / "run" / "result.json").exists()
