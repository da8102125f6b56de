import dataclasses

import numpy as np
import pytest

from spen_jax.data import Vocabulary

SENTENCES = [["the", "dog", "saw", "the", "cat"], ("a", "cat"), ["the"]]
WORDS = Vocabulary.of(SENTENCES)
TAGS = Vocabulary.of([["NOUN", "VERB"], ["NOUN"]], closed=True)


def test_items_stand_by_falling_count_then_alphabet():
    assert WORDS.items == ("the", "cat", "a", "dog", "saw")
    assert Vocabulary.of(SENTENCES, least=2).items == ("the", "cat")
    assert Vocabulary.of(reversed(SENTENCES)) == WORDS
    assert Vocabulary.of(iter(s) for s in SENTENCES) == WORDS


def test_padding_is_0_and_what_is_unknown_1():
    assert len(WORDS) == 7
    ids = WORDS.ids(["the", "bird", "saw"])
    assert (ids.tolist(), ids.dtype) == ([2, 1, 6], np.int32)
    assert WORDS.strings([0, *ids]) == ("<padding>", "the", "<unknown>", "saw")
    assert WORDS.ids([]).shape == (0,)
    assert WORDS.strings([]) == ()


def test_a_closed_vocabulary_counts_from_0_and_knows_nothing_else():
    assert (len(TAGS), TAGS.ids(["VERB", "NOUN"]).tolist()) == (2, [1, 0])
    assert TAGS.strings(np.array([1, 0], np.uint8)) == ("VERB", "NOUN")
    with pytest.raises(ValueError, match="'noun' is none of the 2 items NOUN, VERB"):
        TAGS.ids(["NOUN", "noun"])
    many = Vocabulary(tuple(f"{i:03}" for i in range(100)), closed=True)
    with pytest.raises(ValueError, match=r"'x' is none of the 100 items 000, .*019, \.\.\.$"):
        many.ids("x")


@pytest.mark.parametrize("vocabulary", [WORDS, TAGS])
def test_all_items_go_there_and_back(vocabulary):
    ids = vocabulary.ids(vocabulary.items)
    assert vocabulary.strings(ids) == vocabulary.items
    assert ids[-1] == len(vocabulary) - 1


@pytest.mark.parametrize("ids", [[-1], [7], [0, 100]])
def test_numbers_that_are_no_ids_are_refused(ids):
    with pytest.raises(ValueError, match=f"ids must be from 0 to 6, got {ids[-1]}"):
        WORDS.strings(ids)


@pytest.mark.parametrize("ids", [[0.5], [[1]], ["a"], 1, [True]])
def test_ids_are_a_row_of_whole_numbers(ids):
    with pytest.raises(ValueError, match="ids must be whole numbers"):
        WORDS.strings(ids)


def test_what_is_no_text_is_refused():
    for make in (
        lambda: Vocabulary.of([[1, "a"]]),
        lambda: Vocabulary(("a", None)),
        lambda: WORDS.ids([["the"]]),
    ):
        with pytest.raises(ValueError, match="a vocabulary holds texts, got"):
            make()
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        Vocabulary(("b", "a", "a"))
    with pytest.raises(ValueError, match="least must be a whole number of 1 or more, got 0"):
        Vocabulary.of(SENTENCES, least=0)


def test_it_is_frozen_and_compared_by_its_items():
    WORDS.ids(["the"])
    assert WORDS == Vocabulary(list(WORDS.items))
    assert hash(WORDS) == hash(Vocabulary(WORDS.items))
    assert Vocabulary(("a",)) != Vocabulary(("a",), closed=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        WORDS.closed = True
