"""The tagging experiment on made-up sentences: words whose tags depend on the word before."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("rich")

from experiments.structure import tagging, tagging_analysis, tagging_data
from experiments.structure.tagging_files import with_tag, word_of
from spen_jax.data import Lexicon, Sentence, Vocabulary
from spen_jax.networks import Tagger, WordEncoder


def sentences(n, seed=0):
    """ "the run" is a noun, "they run" a verb: the word itself does not say."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        words, tags = [], []
        for _ in range(rng.integers(1, 4)):
            verb = rng.random() < 0.5
            words += ["they" if verb else "the", str(rng.choice(["run", "walk", "talk"]))]
            tags += ["PRON", "VERB"] if verb else ["DET", "NOUN"]
        blank = ("_",) * len(words)
        made.append(Sentence(tuple(words), blank, tuple(tags), blank, blank, (), ()))
    return made


def conllu(made):
    rows = [
        [
            f"{i}\t{word}\t_\t{tag}\t_\t_\t_\t_\t_\t_"
            for i, (word, tag) in enumerate(zip(s.words, s.tags, strict=True), 1)
        ]
        for s in made
    ]
    return "\n\n".join("\n".join(each) for each in rows) + "\n\n"


def test_a_lexicon_numbers_words_their_ends_and_their_characters():
    lexicon = Lexicon.of([["Cat", "cat", "mat"], ["Cat"]])
    x, mask = lexicon([["CAT", "dog"], ["mat"]])
    assert mask.tolist() == [[True, True], [True, False]]
    assert x["words"].tolist() == [[2, 1], [1, 0]]  # mat stands there once only
    assert (x["suffixes"][0, 0] > 1).all() and x["suffixes"][1, 0, 0] == x["suffixes"][0, 0, 0]
    assert x["characters"].shape == (2, 2, 14) and not x["characters"][1, 1].any()


def test_of_long_words_the_middle_is_left_out_and_digits_are_alike():
    a, b = "a" * 7 + "xxx" + "b" * 7, "a" * 7 + "y" + "b" * 7
    lexicon = Lexicon.of([[a, b, "1984", "2001"] * 2])
    x, _ = lexicon([[a, b, "1984", "2001"]])
    assert (x["characters"][0, 0] == x["characters"][0, 1]).all()
    assert x["words"][0, 2] == x["words"][0, 3]


@pytest.mark.slow
def test_what_stands_beyond_a_sentence_has_no_say_in_its_tags():
    lexicon = Lexicon.of([s.words for s in sentences(3)])
    x, mask = lexicon([["the", "run", "they", "walk"], ["the", "run"]])
    x = {name: np.stack([a[0], a[0]]) for name, a in x.items()}
    x = {name: a.at[1, 2:].set(3) for name, a in jax.tree.map(jnp.asarray, x).items()}
    mask = jnp.asarray(mask).at[0].set(mask[1])
    network, rng = Tagger(WordEncoder((64, 64, 64), units=4, layers=1), 4), np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    one, other = jax.jit(network.apply)(params, x, mask=mask)
    np.testing.assert_allclose(one[:2], other[:2], atol=1e-5)


def test_samples_have_as_many_of_each_length_and_long_sentences_are_cut():
    made = sentences(50)
    samples = [tagging_data.sample(made, 20, seed) for seed in (0, 1)]
    assert [len(s) for s in samples] == [20, 20] and samples[0] != samples[1]
    long = made[0]._replace(words=("a",) * 170, tags=("X",) * 170)
    assert [len(piece.words) for piece in tagging_data.cut(long)] == [80, 80, 10]


def test_measures_count_words_that_training_has_not():
    made = sentences(8)
    tags = Vocabulary(("DET", "NOUN", "PRON", "VERB"), closed=True)
    lexicon = Lexicon.of([s.words for s in made])
    one = made[0]._replace(words=("the", "dance"), tags=("DET", "NOUN"))
    test = tagging_data.tested([one, one], made, lexicon, tags)
    found = test.measures(np.array([[0, 1], [0, 3]]))
    assert found == {"tokens": 75, "unknown_words": 50, "sentences": 50}
    steps = np.stack([test.truth * 0 + 3, test.truth], -1)
    changed = tagging_analysis.changes(steps, test)
    assert changed["tokens"] == [0, 100] and changed["corrected"] == [0, 4]
    assert tagging_analysis.strange(test.truth, test.mask, {(-1, 0, 1)}) == 50


def test_lines_of_a_file():
    line = "1\tthe\t_\t_\t_\t_\t_\t_\t_\t_"
    lines = "", "# text = a", "#newdoc", line, line.replace("1", "1-2")
    assert [word_of(each, True) for each in lines] == [None, None, None, "the", None]
    assert [word_of(each, False) for each in ("", "# a", "#tag", "dog")] == [
        None,
        None,
        "#tag",
        "dog",
    ]
    assert with_tag(line, "DET").split("\t")[3] == "DET" and with_tag("dog", "X") == "dog\tX"


@pytest.mark.long
def test_a_run_learns_and_its_taggers_tag_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tagging, "epochs_of", lambda n: (12, 3))
    paths = tuple(tmp_path / f"{name}.conllu" for name in ("train", "dev", "test"))
    for seed, path in enumerate(paths):
        path.write_text(conllu(sentences(200 if seed == 0 else 40, seed)))
    out = tmp_path / "run"
    config = tagging.Config((200,), (0,), units=16, treebank=paths, out=out)
    tagging.main(config)
    result = json.loads((out / "result.json").read_text())
    for model in tagging.NAMES:
        assert result["percent"]["200"][model]["tokens"][0] > 98
        plain, tagged = tmp_path / "plain.txt", tmp_path / f"{model}.txt"
        plain.write_text("they\nwalk\nthe\nwalk\n")
        tagging.main(tagging.Config(run=out, tag=plain, out=tagged, model=model))
        assert tagged.read_text() == "they\tPRON\nwalk\tVERB\nthe\tDET\nwalk\tNOUN\n"
    monkeypatch.setattr(tagging, "NAMES", ("spen",))
    rates = dataclasses.replace(config, rates=(2e-3,), quick=True, out=tmp_path / "rates")
    found = tagging.main(rates)
    assert found and 0 < found["rates"]["200: spen"]["0.002"] <= 100
    for name in ("steps.png", "pairs.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
