"""The parsing experiment: its arrays and scores by hand, and a run on a language of a few rules."""

import contextlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from experiments.structure import parsing, parsing_data, parsing_model  # noqa: E402
from spen_jax.data import Sentence, Treebank  # noqa: E402

HEADS = {"the": 1, "dog": 1, "saw": None, "a": 1, "cat": -2, ".": -3}
RELATIONS = {"the": "det", "a": "det", "dog": "nsubj", "saw": "root", "cat": "obj", ".": "punct"}


def sentence(words, heads=None):
    own = [0 if HEADS[w] is None else i + 1 + HEADS[w] for i, w in enumerate(words)]
    blanks = [("_",) * len(words)] * 4
    relations = tuple(RELATIONS[w] for w in words)
    return Sentence(tuple(words), *blanks, tuple(heads or own), relations)


LONG = "the dog saw a cat .".split()
SHORT = LONG[:3]


def test_groups_and_scores_are_those_of_sentences_in_their_order():
    sentences = [sentence(LONG), sentence(SHORT), sentence(LONG, (2, 3, 0, 5, 2, 3))]
    numbers = parsing_data.Numbers.of(sentences)
    groups = numbers.groups(sentences, (4, 6), 8)
    assert [g["mask"].shape for g in groups] == [(1, 4), (2, 6)]
    heads, relations, mask = parsing_data.truth_of(groups)
    assert heads[0].tolist() == [2, 3, 0, 5, 3, 3] and heads[1].tolist() == [2, 3, 0, -1, -1, -1]
    assert numbers.relations.strings(relations[1][mask[1]]) == ("det", "nsubj", "root")

    def answer(wrong):  # of two words in the last sentence, of which inference mends one
        found = [g["heads"].copy() for g in groups]
        found[1][1, [0, 4][:wrong]] = 3
        return [(h, g["relations"]) for h, g in zip(found, groups, strict=True)]

    found = [
        {"step 0": before, "any": after} for before, after in zip(answer(2), answer(1), strict=True)
    ]
    scores = parsing_data.scored(groups, found)
    assert scores["step 0"]["unlabelled"] == pytest.approx(100 * 13 / 15)
    assert scores["any"] == pytest.approx(
        {"unlabelled": 100 * 14 / 15, "labelled": 100 * 14 / 15, "whole": 200 / 3, "no_tree": 0}
    )
    assert parsing_data.changes(groups, found) == {
        "heads_mended": 1,
        "heads_broken": 0,
        "sentences_better": 1,
        "sentences_worse": 0,
    }
    row, before, after = parsing_data.example_of(groups, found, least=6)
    assert row == 2
    assert before[0].tolist() == [3, 3, 0, 5, 3, 3] and after[0].tolist() == [3, 3, 0, 5, 2, 3]


def test_trees_and_crossing_arcs():
    heads = np.array([[2, 0, 2, 3], [2, 1, 0, 3], [0, 0, 1, 2], [3, 4, 0, 3], [2, 0, 1, -1]])
    mask = heads >= 0
    assert parsing_data.are_trees(heads, mask).tolist() == [True, False, False, True, True]
    crossing = np.array([[3, 4, 0, 3], [2, 3, 0, 3], [2, 0, 1, -1]])
    assert parsing_data.no_arcs_cross(crossing, crossing >= 0).tolist() == [False, True, False]


@pytest.mark.long
def test_a_run_learns_a_small_language_and_writes_its_figures(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    made = [sentence(LONG if rng.random() < 0.7 else SHORT) for _ in range(230)]
    bank = Treebank("toy", made[:200], made[200:215], made[215:], {})
    monkeypatch.setattr(parsing, "load_treebank", lambda data_dir: bank)
    for size in ("UNITS", "OF_ARCS"):
        monkeypatch.setattr(parsing_model, size, 24)
    methods = "head softmax", "second order, 3 steps"
    config = parsing.Config(epochs=20, more_epochs=1, methods=methods, out=tmp_path / "run")
    with contextlib.redirect_stdout(io.StringIO()):
        parsing.main(config)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["rows"]) == [parsing.FIRST, *methods]
    for rows in result["rows"].values():
        assert rows[0]["test"]["any"]["unlabelled"] > 90
    assert (tmp_path / "run" / "parsing-steps.png").read_bytes().startswith(b"\x89PNG")
    again = parsing.Config(
        first=tmp_path / "run", epochs=20, methods=methods[:1], out=tmp_path / "again"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        second = parsing.main(again)
    row = second["rows"][parsing.FIRST][0]
    assert row["test"] == result["rows"][parsing.FIRST][0]["test"]
