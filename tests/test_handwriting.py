import contextlib
import io
import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from experiments.lecture import handwriting, handwriting_energies, handwriting_strips  # noqa: E402
from experiments.lecture.handwriting_strips import strips  # noqa: E402
from spen_jax import data  # noqa: E402

ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")


def made_up():
    """Forty words of random pictures, four in each fold."""
    rng = np.random.default_rng(0)
    pictures = np.float32(rng.random((4, 128)) < 0.4)
    y = np.tile([[0, 1, 2, -1], [2, 1, 0, -1], [1, 0, 2, 3], [3, 2, 1, -1]], (10, 1))
    mask = y >= 0
    x = np.where(mask[..., None], pictures[y], 0)
    return data.Letters(x, np.int32(y), mask, np.repeat(np.arange(10), 4), ALPHABET, {})


@pytest.mark.long
def test_easy_letters_are_read_without_being_told_their_borders(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load_letters", made_up)
    few = "likelihood", "perceptron", "true cuts"
    monkeypatch.setattr(handwriting, "METHODS", {n: handwriting.METHODS[n] for n in few})
    monkeypatch.setattr(handwriting, "RATES", (0.01,))
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        config = handwriting.Config(seeds=(7,), steps=90, longest=4, out=out)
        handwriting.main(config)
    result = json.loads((out / "result.json").read_text())
    test = {name: {what: v[0] for what, v in of.items()} for name, of in result["test"].items()}
    assert result["test_strips"] == 4
    assert test["likelihood"]["letters_wrong"] < 25 and test["likelihood"]["lexicon"] > 80
    assert test["perceptron"]["letters_wrong"] < 25  # where letters always look alike it learns too
    assert test["true cuts"]["letters_wrong"] < 10
    for name in ("graph.png", "cuts.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_answers_are_those_that_spell_the_word_and_all_others(monkeypatch):
    monkeypatch.setattr(handwriting_energies, "LETTERS", 2)
    energies = jnp.float32(np.random.default_rng(0).normal(size=(2, 4, 3, 2)))
    width, word = jnp.array([4, 3]), jnp.array([[0, 1, -1], [1, 0, 1]])
    for beta in (1.0, np.inf):
        own, others = (
            np.asarray(make(energies, width, word).free_energy(beta))
            for make in (handwriting_energies.of_word, handwriting_energies.of_others)
        )
        for i in range(2):
            spelled, not_spelled = [], []
            for y in itertools.product((-1, 0, 1), repeat=int(width[i])):
                begin = [t for t, k in enumerate(y) if k >= 0] + [int(width[i])]
                lengths = np.diff(begin)
                if begin[0] == 0 and lengths.max() <= 3:
                    places = zip(begin, lengths, strict=False)
                    energy = sum(float(energies[i, t, n - 1, y[t]]) for t, n in places)
                    same = [k for k in y if k >= 0] == [int(k) for k in word[i] if k >= 0]
                    (spelled if same else not_spelled).append(energy)
            for got, of in ((own[i], spelled), (others[i], not_spelled)):
                of = np.array(of)
                want = of.min() if beta == np.inf else -np.log(np.sum(np.exp(-of)))
                assert got == pytest.approx(want, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_the_first_layer_is_that_of_each_resampled_segment():
    params = handwriting_energies.first_params(jax.random.key(0))
    image = np.random.default_rng(1).random((1, 16, 12)).astype(np.float32)
    found = jax.jit(handwriting_energies.table)(params, image)
    wide = np.pad(image[0], [(0, 0), (1, 9)])
    for begin, length in ((0, 1), (3, 4), (7, 5)):
        window = wide[:, begin : begin + length + 2]
        window = window @ handwriting_strips.resampling(length + 2, handwriting_energies.COLUMNS)
        hidden = jax.nn.relu(jnp.einsum("rc,rch->h", window, params["window"]))
        want = handwriting_energies.REST.apply({"params": params["rest"]}, hidden)
        np.testing.assert_allclose(found[0, begin, length - 1], want, rtol=1e-3, atol=1e-3)


def test_strips_have_a_segment_of_allowed_length_for_each_letter():
    seen = strips(made_up(), 4, (0, 1))
    assert seen.image.shape == (40, 16, 36) and len(handwriting_strips.lexicon(made_up())) == 4
    lengths = np.diff(seen.cuts)
    there = seen.word >= 0
    assert lengths[there].min() >= 1 and lengths.max() <= 9 and not lengths[~there].any()
    assert (seen.cuts[:, -1] == seen.width).all()
    gaps = (seen.first[:, 1:] - seen.after[:, :-1])[there[:, 1:]]
    assert set(gaps) == {-1, 0, 1}
    for image, width in zip(seen.image, seen.width, strict=True):
        assert not image[:, width:].any() and image[:, width - 1].any()


def test_errors_and_cuts_are_counted():
    kitten, sitting = ([ord(c) for c in word] for word in ("kitten", "sitting"))
    assert handwriting_strips.distance(kitten, sitting) == 3
    assert handwriting_strips.distance([], kitten) == 6
    assert handwriting_strips.error_rate([kitten, []], [sitting, [0]]) == pytest.approx(4 / 8)
    seen = strips(made_up(), 4, (0, 1)).of(np.arange(4))
    true = [cuts[1:n] for cuts, n in zip(seen.cuts, seen.letters, strict=True)]
    assert handwriting_strips.near(true, seen) == 1
    twice = [np.repeat(cuts, 2) for cuts in true]
    assert handwriting_strips.near(twice, seen) == pytest.approx(2 / 3)
    assert handwriting_strips.near([cuts[:0] for cuts in true], seen) == 0


@pytest.mark.slow
def test_the_words_of_the_data_that_fit_are_put_in_strips():
    if not os.environ.get("SPEN_JAX_DATA"):
        pytest.skip("needs SPEN_JAX_DATA with ocr/")
    letters = data.load_letters()
    seen = strips(letters, 6, (0, 0))
    assert len(seen.width) == 2619 and len(handwriting_strips.lexicon(letters)) == 55


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 1}, {"longest": 2}])
def test_bad_settings_end_the_handwriting_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        handwriting.main(handwriting.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
