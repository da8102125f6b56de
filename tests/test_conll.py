import hashlib
import os
from pathlib import Path

import pytest

from spen_jax import data


def word(number, form, head, relation="dep", *, tag="X"):
    return f"{number}\t{form}\t{form.lower()}\t{tag}\t_\t_\t{head}\t{relation}\t_\t_\n"


TWO = word(1, "Dogs", 2, "nsubj", tag="NOUN") + word(2, "bark", 0, "root", tag="VERB") + "\n"
CLITIC = (
    "# newdoc\n# text = Don't\n1-2\tDon't" + "\t_" * 8 + "\n"
    "1\tDo\tdo\tAUX\tVB\tMood=Imp|VerbForm=Fin\t0\troot\t_\tSpaceAfter=No\n"
    "1.1\tgo" + "\t_" * 8 + "\n" + word(2, "n't", 1, "advmod") + "\n"
)


def read(folder, text, encoding="utf-8"):
    path = folder / "t.conllu"
    path.write_bytes(text.encode(encoding))
    return data.read_conllu(path)


# CoNLL-U


def test_words_are_read_and_what_is_no_word_is_skipped(tmp_path):
    dogs, clitic = read(tmp_path, TWO + CLITIC)
    assert dogs == data.Sentence(
        ("Dogs", "bark"),
        ("dogs", "bark"),
        ("NOUN", "VERB"),
        ("_", "_"),
        ("_", "_"),
        (2, 0),
        ("nsubj", "root"),
    )
    assert (clitic.words, clitic.heads) == (("Do", "n't"), (0, 1))
    assert clitic.features == ("Mood=Imp|VerbForm=Fin", "_")
    assert clitic.fine_tags == ("VB", "_")


def test_marks_line_ends_and_blank_lines_change_nothing(tmp_path):
    expected = read(tmp_path, TWO + CLITIC)
    text = TWO + CLITIC
    for other in (
        "\ufeff" + text,
        text.replace("\n", "\r\n"),
        text.removesuffix("\n\n"),
        text.removesuffix("\n"),
        "\n\n# a comment alone\n\n" + text.replace("\n\n", "\n\n\n") + "\n# end\n",
    ):
        assert read(tmp_path, other) == expected


def test_words_may_hold_spaces_and_other_signs(tmp_path):
    forms = ["two words", "a\u00a0b", "\u2028", "#", "1-2", '"']
    text = "".join(word(i + 1, form, 0) for i, form in enumerate(forms))
    assert read(tmp_path, text)[0].words == tuple(forms)


def test_without_any_heads_there_is_no_tree(tmp_path):
    text = word(1, "a", "_", "_") + word(2, "b", "_", "_")
    sentence = read(tmp_path, text)[0]
    assert (sentence.words, sentence.heads, sentence.relations) == (("a", "b"), (), ())


def test_several_roots_are_a_tree(tmp_path):
    assert read(tmp_path, word(1, "a", 0) + word(2, "b", 0))[0].heads == (0, 0)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "at least one sentence"),
        ("# nothing\n\n", 3, "at least one sentence"),
        (TWO + "1\ta\tb\n", 4, "10 columns, got 3 in"),
        (TWO + "1 a b\n", 4, "10 columns, got 1"),
        ("1-2\tx\n" + TWO, 1, "10 columns, got 2"),
        (word(1, "a", 0).rstrip("\n") + "\tz\n", 1, "10 columns, got 11"),
        (word(1, "", 0), 1, "none of them empty"),
        (word(1, "a", 0).replace("_\n", "\n"), 1, "none of them empty"),
        (word(2, "a", 0), 1, "the id 1, or a blank line before a new sentence, got '2'"),
        (word(1, "a", 0) + word(3, "b", 1), 2, "the id 2"),
        (word(1, "a", 0) + word(1, "b", 0), 2, "the id 2"),
        (word("01", "a", 0), 1, "the id 1"),
        (word("x", "a", 0), 1, "got 'x'"),
        (word("1-", "a", 0), 1, "got '1-'"),
        ("1-2\tx" + "\t_" * 8 + "\n", 1, "a word with the id 1"),
        (word(1, "a", 2), 1, "a head from 0 to 1, got '2'"),
        (word(1, "a", -1), 1, "got '-1'"),
        (word(1, "a", 0) + word(2, "b", "_"), 2, "a head from 0 to 2, got '_'"),
        (word(1, "a", "1_0"), 1, "got '1_0'"),
        (word(1, "a", "9" * 5000), 1, "a head from 0 to 1"),
        (word(1, "a", 1), 1, "heads that make a tree, got word 1 on a circle"),
        (TWO + word(1, "a", 0) + word(2, "b", 3) + word(3, "c", 2), 5, "word 2 on a circle"),
    ],
)
def test_what_is_no_treebank_is_named_with_its_line(tmp_path, text, line, said):
    with pytest.raises(data.DataError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 't.conllu'}:{line}: expected ")
    assert said in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(tmp_path))


def test_a_circle_is_named_by_a_word_on_it(tmp_path):
    text = word(1, "a", 2) + word(2, "b", 3) + word(3, "c", 2)
    with pytest.raises(data.DataError, match=r":2: .* word 2 on a circle"):
        read(tmp_path, text)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    with pytest.raises(
        data.DataError, match=r"t\.conllu:2: expected UTF-8 text, got the byte 0xfc"
    ):
        read(tmp_path, "# x\n" + word(1, "ü", 0), encoding="latin-1")


def test_a_treebank_has_three_splits_and_checksums(tmp_path, monkeypatch):
    folder = tmp_path / "ud_english_ewt"
    folder.mkdir()
    contents = {"train": TWO + CLITIC, "dev": TWO, "test": CLITIC}
    files = {}
    for part, text in contents.items():
        path = folder / f"en_ewt-ud-{part}.conllu"
        path.write_text(text)
        files[path.name] = hashlib.sha256(text.encode()).hexdigest()
    source = data.SOURCES["ud_english_ewt"]._replace(files=files)
    monkeypatch.setitem(data.SOURCES, "ud_english_ewt", source)
    bank = data.load_treebank(data_dir=tmp_path)
    assert [len(part) for part in (bank.train, bank.valid, bank.test)] == [2, 1, 1]
    assert bank.test[0].words == ("Do", "n't")
    assert (bank.name, bank.checksums) == ("ud_english_ewt", files)
    path.write_text(CLITIC + "\n")
    with pytest.raises(data.DataError, match="expected SHA-256"):
        data.load_treebank(data_dir=tmp_path)


@pytest.mark.slow
def test_the_published_treebank_has_the_published_counts():
    root = os.environ.get("SPEN_JAX_DATA")
    if not root or not (Path(root) / "ud_english_ewt").is_dir():
        pytest.skip("needs SPEN_JAX_DATA with ud_english_ewt/")
    bank = data.load_treebank()
    for part, counts in [
        (bank.train, (12544, 204577, 17, 49, 51)),
        (bank.valid, (2001, 25147, 17, 49, 49)),
        (bank.test, (2077, 25094, 17, 48, 49)),
    ]:
        assert counts == (
            len(part),
            sum(len(s.words) for s in part),
            len({tag for s in part for tag in s.tags}),
            len({tag for s in part for tag in s.fine_tags}),
            len({relation for s in part for relation in s.relations}),
        )
        assert all(len(s.heads) == len(s.words) and s.heads.count(0) == 1 for s in part)
    assert bank.checksums == data.SOURCES["ud_english_ewt"].files


# Columns


def columns(folder, text, *arguments):
    path = folder / "t.txt"
    path.write_bytes(text.encode())
    return data.read_columns(path, *arguments)


def test_columns_of_words_are_read_by_name(tmp_path):
    text = (
        "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects  VBZ\tO \n\n\n"
        "-DOCSTART- -X- -X- O O\r\nPeter NNP B-PER\r\n \t\r\na\u00a0b NN O"
    )
    assert columns(tmp_path, text, ("word", "pos", "entity")) == [
        {"word": ("EU", "rejects"), "pos": ("NNP", "VBZ"), "entity": ("B-ORG", "O")},
        {"word": ("Peter",), "pos": ("NNP",), "entity": ("B-PER",)},
        {"word": ("a\u00a0b",), "pos": ("NN",), "entity": ("O",)},
    ]


def test_only_blanks_make_a_line_blank(tmp_path):
    text = "a\n\u3000\nb\n \t\nc\n"
    assert [s["word"] for s in columns(tmp_path, text, ["word"])] == [("a", "\u3000", "b"), ("c",)]
    with pytest.raises(data.DataError, match="none of them empty"):
        columns(tmp_path, "a\tO\n\t\n", ["word", "tag"], "\t")


def test_a_tab_keeps_spaces_in_columns(tmp_path):
    assert columns(tmp_path, "two words\tO\n", ["word", "tag"], "\t") == [
        {"word": ("two words",), "tag": ("O",)}
    ]


@pytest.mark.parametrize(
    ("text", "separator", "line", "said"),
    [
        ("a b\n\na b c\n", None, 3, "2 columns, got 3 in 'a b c'"),
        ("a b\na\n", None, 2, "2 columns, got 1"),
        ("a b\n", "\t", 1, "2 columns, got 1"),
        ("\tO\n", "\t", 1, "none of them empty"),
        ("-DOCSTART- O\n\n", None, 3, "at least one sentence"),
    ],
)
def test_other_columns_are_named_with_their_line(tmp_path, text, separator, line, said):
    with pytest.raises(data.DataError) as caught:
        columns(tmp_path, text, ("word", "tag"), separator)
    assert str(caught.value).startswith(f"{tmp_path / 't.txt'}:{line}: expected ")
    assert said in str(caught.value)


@pytest.mark.parametrize("names", [(), "word", ("word", "word")])
def test_names_of_columns_are_distinct(tmp_path, names):
    with pytest.raises(ValueError, match="names must be distinct"):
        columns(tmp_path, "a b\n", names)
