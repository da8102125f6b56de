import contextlib
import io
import itertools
import json
import string

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("sklearn")

from sklearn.cross_decomposition import CCA  # noqa: E402

from experiments.lecture import predictive, views  # noqa: E402
from experiments.lecture import predictive_models as models  # noqa: E402
from experiments.lecture import views_methods as methods  # noqa: E402
from spen_jax import FeatureNetwork, data  # noqa: E402


def quiet(main, config):
    with contextlib.redirect_stdout(io.StringIO()):
        main(config)
    assert not list(config.out.glob("*.part"))
    return json.loads((config.out / "result.json").read_text())


def test_right_at_k_is_the_mean_over_all_orders_of_ties():
    E = np.array([[0, 1, 1, 1, 2], [1, 1, 1, 1, 1], [3, 2, 2, 1, 0]], float)
    belongs = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
    for k in range(1, 6):
        want = []
        for row, good in zip(E, belongs, strict=True):
            orders = [[*order] for order in itertools.permutations(range(5))]
            sorted_ones = [o for o in orders if np.all(np.diff(row[o]) >= 0)]
            want.append(np.mean([good[o[:k]].any() for o in sorted_ones]))
        assert views.right_at(E, belongs, k) == pytest.approx(100 * np.mean(want))
        flat = views.right_at(np.zeros_like(E), belongs, k)
        assert views.chance(belongs, k) == pytest.approx(flat)


def test_equal_y_stand_in_a_gallery_once_and_all_their_x_belong():
    x, y = np.arange(5.0)[:, None], np.array([[1, 0], [0, 1], [1, 0], [1, 1], [0, 1]])
    made = views.gallery(views.Views(x, y, *[np.arange(0)] * 3, 0), np.array([0, 2, 3, 4]))
    assert made.x.shape == (4, 1) and made.y.shape == (3, 2)
    np.testing.assert_array_equal(made.belongs.sum(0), [1, 2, 1])
    np.testing.assert_array_equal(made.y[made.belongs.argmax(1)], y[[0, 2, 3, 4]])


def test_canonical_correlations_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 3)) * [[3, 2, 1]]
    x = np.concatenate([shared, rng.normal(size=(300, 3))], axis=1) @ rng.normal(size=(6, 6))
    y = shared @ rng.normal(size=(3, 4)) + rng.normal(size=(300, 4))
    (ours,) = methods.canonical(x, y, (6,))
    theirs = CCA(3, max_iter=5000, tol=1e-12).fit(x, y).transform(x, y)
    for mean, weights, mine in zip(ours.means, (ours.a, ours.b), theirs, strict=True):
        found = methods.variates(mean, weights[:, :3], x if mean.size == 6 else y)
        agreement = np.abs(np.corrcoef(found.T, mine.T)[:3, 3:])
        np.testing.assert_allclose(np.diag(agreement), 1, atol=1e-5)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(t.T for t in theirs), strict=True)]
    np.testing.assert_allclose(ours.correlation[:3], correlations, atol=1e-6)


def test_test_rows_are_in_no_other_part():
    for seed in (0, 1):
        made = views.digits(seed)
        everything = np.concatenate([made.train, made.valid, made.test])
        np.testing.assert_array_equal(np.sort(everything), np.arange(1797))


@pytest.mark.slow
def test_a_small_run_finds_lower_halves_with_negatives_and_without_them_collapses(
    tmp_path, monkeypatch
):
    kept = {name: views.METHODS[name]._replace(temperatures=(0.1,)) for name in views.METHODS}
    kept.pop("InfoNCE, linear encoders")
    for module in (methods, views):
        monkeypatch.setattr(module, "METHODS", kept)
    sizes = views.SIZES["digits"]._replace(dimension=16, width=32, singular=(16,))
    monkeypatch.setitem(views.SIZES, "digits", sizes)
    config = views.Config(seeds=(0,), data=("digits",), steps=0.2, out=tmp_path / "run")
    found = quiet(views.main, config)["digits"]
    chance = found["chance"]["y of x, at 5"][0]
    assert found["InfoNCE"]["y of x, at 5"][0] > 20 * chance
    assert found["CCA"]["y of x, at 5"][0] > 20 * chance
    assert found["untrained network"]["y of x, at 5"][0] < 4 * chance
    assert found["energy loss"]["spread"][0] < 0.2 < found["InfoNCE"]["spread"][0]
    assert (tmp_path / "run/views.png").read_bytes().startswith(b"\x89PNG")


def test_data_sets_that_are_not_known_end_the_views_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        views.main(views.Config(data=("scene",), out=tmp_path / "run"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def alphabet_words(copies):
    """55 words of three letters that follow each other in a circle of 11; images are noisy patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.random((11, 128)) < 0.5
    kinds = [(i, (i + step) % 11, (i + 2 * step) % 11) for i in range(11) for step in range(1, 6)]
    y = np.repeat(np.array(kinds, np.int32), copies, axis=0)
    x = (patterns[y] ^ (rng.random((*y.shape, 128)) < 0.05)).astype(np.float32)
    folds = (np.arange(len(y)) % copies).astype(np.int32)
    return data.Letters(x, y, np.ones(y.shape, bool), folds, (*string.ascii_lowercase,), {})


def test_the_words_of_the_parts_are_others_and_known_images_are_held_out():
    letters = alphabet_words(3)
    parts = predictive.parts(letters, 0)
    texts = {name: {tuple(word) for word in part.y} for name, part in parts.items()}
    assert [len(texts[name]) for name in parts] == [32, 8, 32, 15]
    assert texts["train"] == texts["known"]
    assert not texts["unseen"] & (texts["train"] | texts["valid"])
    assert len(parts["train"].x) == 64 and len(parts["known"].x) == 32
    of = predictive.queries(parts["unseen"], 0, 2)
    assert len(of.row) == 45 and not of.column.any()
    np.testing.assert_array_equal(of.letters, parts["unseen"].y[of.row, 2])


@pytest.mark.long
def test_a_small_run_learns_which_letter_follows_in_words_that_it_knows(tmp_path, monkeypatch):
    letters = alphabet_words(8)
    english = [w[::-1] for w in {*letters.words}]
    monkeypatch.setattr(data, "load_letters", lambda folder: letters)
    monkeypatch.setattr(predictive.words_unseen, "english", lambda *_: english)
    monkeypatch.setattr(predictive, "STRINGS", 64)
    monkeypatch.setattr(models, "LETTERS", 200)
    small = models.PredictiveCoding(FeatureNetwork(16, (32,)), 16, 2)
    monkeypatch.setattr(models, "MODULE", small)
    config = predictive.Config(seeds=(0,), steps=60, out=tmp_path / "run")
    found = quiet(predictive.main, config)["methods"]
    known, chance = found["words"]["known: letter"][0], found["chance"]["known: letter"][0]
    assert known > 2 * chance
    assert found["words, energy loss"]["spread"][0] < 0.3 < found["words"]["spread"][0]
    assert found["words"]["probe"][0] > 80
    assert (tmp_path / "run/predictive.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_contexts_of_the_last_letter_alone_do_not_see_those_before():
    x = np.random.default_rng(0).random((2, 4, 128)).astype("float32")
    params, mask = models.parameters(0), np.ones((2, 4), bool)
    other = x.copy()
    other[:, 0] = 0
    changed = [
        np.abs(np.subtract(*(models.encoded(params, a, mask, recurrent)[1] for a in (x, other))))
        for recurrent in (False, True)
    ]
    assert not changed[0][:, 1:].any() and changed[1][:, 1:].any()


@pytest.mark.parametrize("module", [predictive, views])
def test_data_that_are_missing_end_either_script_with_one_line(
    module, tmp_path, capsys, monkeypatch
):
    def missing(*_):
        raise FileNotFoundError("put the file there")

    for name in ("load", "load_letters"):
        monkeypatch.setattr(data, name, missing)
    more = {"data": ("bibtex",)} if module is views else {}
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as stop:
        module.main(module.Config(out=tmp_path / "run", **more))
    assert stop.value.code == 2 and capsys.readouterr().err.endswith("put the file there\n")
