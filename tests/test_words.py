"""The experiment on words, on words made up."""

import contextlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

import spen_jax as sx  # noqa: E402
from experiments.structure import words, words_models, words_protocol, words_unseen  # noqa: E402
from spen_jax.energies import ChainSPEN, Windows  # noqa: E402

SENTENCE = sx.data.Sentence(("Abcde", "edcab", "1999", "Xyz"), (), (), (), (), (), ())


def made_up():
    """55 words of 3 to 6 letters among five, each in every fold; a letter's image is its own, 5 % of pixels flipped."""
    rng = np.random.default_rng(0)
    kinds = [rng.integers(0, 5, rng.integers(3, 7)) for _ in range(55)]
    y, mask = sx.data.padded([kinds[i % 55] for i in range(440)], 6, -1)
    images = rng.random((5, 128)) < 0.3
    x = (images[y] ^ (rng.random((*y.shape, 128)) < 0.05)) * mask[..., None]
    folds = np.arange(440) // 55
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    return sx.data.Letters(np.float32(x), y, mask, folds, letters, {})


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sx.data, "load_letters", lambda data_dir: made_up())
    treebank = sx.data.Treebank("made up", [SENTENCE] * 3, [], [], {})
    monkeypatch.setattr(sx.data, "load_treebank", lambda data_dir: treebank)
    for module in (words, words_protocol):
        if hasattr(module, "WIDTHS"):
            monkeypatch.setattr(module, "WIDTHS", (6,))
    spen = ChainSPEN(words_models.Linear(), (Windows((8,), (3,)),))
    few = {
        "cnn": words_models.feed_forward("letters", words_models.Linear(), 0.03),
        "crf": words_models.chain("chain", words_models.Linear(), 0.03),
        "tied": words_models.iterated("tied", words_models.Iterated(2, 0.5, (8,), (3, 1)), 0.01),
        "spen": words_models.spen("SPEN", spen, 0.03),
    }
    monkeypatch.setattr(words_models, "SPEN", spen)
    monkeypatch.setattr(words.words_figures, "SPEN", spen)
    for module in (words, words_models, words_unseen, words.words_figures):
        monkeypatch.setattr(module, "CONTESTANTS", few)
    monkeypatch.setattr(words_unseen, "EXAMPLES", 96)
    monkeypatch.setattr(words_unseen, "STRINGS", {"words": ("", 0.0), "most": ("random", 0.9)})


@pytest.mark.long
def test_words_are_learnt_measured_and_drawn(small, tmp_path):
    out = tmp_path / "run"
    config = words.Config(
        models=("cnn", "tied", "spen", "crf"), protocols=("fold1", "unseen"), epochs=15, out=out
    )
    with contextlib.redirect_stdout(io.StringIO()) as said:
        words.main(config)
    result = json.loads((out / "result.json").read_text())
    assert {*result["fold1"]} == {"cnn", "crf", "tied", "spen"}
    for right in result["fold1"].values():
        assert len(right["letters"]) == len(right["words"]) == 1
        assert 60 < right["letters"][0] <= 100 >= right["words"][0]
    assert {*result["unseen"]} == {"settings", "chosen", "strings"}
    assert result["unseen"]["strings"]["spen"][0] in ("words", "most")
    assert len(result["unseen"]["settings"]["most"]["crf"]["unseen"]["letters"]) == 1
    assert "unseen words" in said.getvalue()
    for name in ("steps.png", "unseen.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_strings_are_of_letters_at_hand_and_english_words_are_none_of_the_data(small):
    letters = made_up()
    rng = np.random.default_rng(0)
    words_of = words_unseen.english(letters, None)
    assert {*words_of} <= {"bcde", "dcab"} - {*letters.words}
    y = words_unseen.strings("random", 50, letters, words_of, rng)
    assert y.max() == 4 and np.all((y >= 0).sum(1) >= 3)
    read = words_unseen.written(y, letters, rng)
    np.testing.assert_array_equal(read.mask, y >= 0)
    source = {
        (k, row.tobytes())
        for k, row in zip(letters.y[letters.mask], letters.x[letters.mask], strict=True)
    }
    assert all(
        (k, row.tobytes()) in source for k, row in zip(y[y >= 0], read.x[y >= 0], strict=True)
    )
    split = words_unseen.drawn(letters.words, 3)
    assert sorted(split.learnt + split.held + split.unseen) == sorted({*letters.words})
