"""Sentences word by word: CoNLL-U files of treebanks, and plain columns of tags.

`load_treebank()` is all that most scripts need; `name`, `data_dir` and `progress` are those of
`spen_jax.data.files`. The standard library only. Files that are not what they should be raise
`DataError`, which names the file and the line. Format: https://universaldependencies.org/format.html.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from spen_jax.data.files import (
    SOURCES,
    Progress,
    check_reader,
    find,
    print_progress,
    sha256,
    verify,
)
from spen_jax.data.lines import fail, read_lines, short

Columns = dict[str, tuple[str, ...]]


class Sentence(NamedTuple):
    """A sentence of n words: seven tuples of length n, "_" where the file says nothing.

    `tags` are universal ones (UPOS), `fine_tags` those of the language (XPOS), `features` texts such
    as "Case=Nom|Number=Sing", `lemmas` the words' base forms. `heads` are numbers: 0 the root, i + 1 word i. Heads and
    relations are empty where the file has no tree.
    """

    words: tuple[str, ...]
    lemmas: tuple[str, ...]
    tags: tuple[str, ...]
    fine_tags: tuple[str, ...]
    features: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]


class Treebank(NamedTuple):
    """Three splits, `train`, `valid` and `test`, each a list of `Sentence`, of the treebank called `name`.

    `valid` is for what is chosen. `checksums` maps file names to SHA-256 in hex; `load_treebank` makes it.
    """

    name: str
    train: list[Sentence]
    valid: list[Sentence]
    test: list[Sentence]
    checksums: dict[str, str]


def load_treebank(
    name: str = "ud_english_ewt",
    data_dir: str | Path | None = None,
    progress: Progress = print_progress,
) -> Treebank:
    """Find or download a treebank, check every file's SHA-256, and read its three splits.

    `name` is one of `SOURCES`; `data_dir` and `progress` are those of `find`. The default is English (UD EWT).

    Raises what `find` raises, `DataError` for a file that is not the published one, and ValueError
    for a data set that another function reads.
    """
    check_reader("load_treebank", name)
    folder = find(name, data_dir, progress)
    verify(name, folder)
    paths = [folder / file for file in SOURCES[name].files]
    train, valid, test = (read_conllu(path) for path in paths)
    return Treebank(name, train, valid, test, {path.name: sha256(path) for path in paths})


def read_conllu(path: str | Path) -> list[Sentence]:
    """Read the sentences of the CoNLL-U file `path`, each a `Sentence`.

    Comments, multiword tokens (3-4) and empty nodes (8.1) are skipped: what counts is words. The
    heads of a sentence must make a tree, of one root or several, or all be "_". Raises `DataError`
    for anything else, a file without sentences included.
    """
    path = Path(path)
    lines = read_lines(path)
    sentences = []
    for block in _blocks(lines, " "):
        rows = [(number, line) for number, line in block if line[0] != "#"]
        if rows:
            sentences.append(_sentence(path, rows))
    if not sentences:
        fail(path, len(lines), "at least one sentence", "the end of the file")
    return sentences


def read_columns(
    path: str | Path, names: Sequence[str], separator: str | None = None
) -> list[Columns]:
    """Read the file at `path`, of one word a line and blank lines between sentences, as of CoNLL-2000, 2002, 2003.

    `names` are those of its columns; a sentence maps each to the entries of its words. Columns stand
    apart by `separator`, a tab for example, or without it by any number of spaces and tabs. Lines
    that begin with -DOCSTART- are skipped. ValueError for names that are not distinct; `DataError`
    for another number of columns, an empty one, text that is not UTF-8, no sentences.
    """
    path = Path(path)
    if not names or isinstance(names, str) or len({*names}) < len(names):
        raise ValueError(f"names must be distinct, one to each column, got {names!r}")
    lines = read_lines(path)
    words = ["" if line.startswith("-DOCSTART-") else line for line in lines]
    sentences = []
    for block in _blocks(words, " \t" if separator is None else " ".replace(separator, "")):
        rows = [_entries(path, number, line, len(names), separator) for number, line in block]
        sentences.append(dict(zip(names, zip(*rows, strict=True), strict=True)))
    if not sentences:
        fail(path, len(lines), "at least one sentence", "the end of the file")
    return sentences


def _blocks(lines: list[str], blanks: str) -> Iterator[list[tuple[int, str]]]:
    """The lines between those of nothing but `blanks`, with their numbers."""
    block = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip(blanks) if blanks else line:
            block.append((number, line))
        elif block:
            yield block
            block = []


def _entries(path: Path, number: int, line: str, n: int, separator: str | None) -> list[str]:
    # Not split(), which also splits at spaces that do not break a word.
    entries = re.split("[ \t]+", line.strip(" \t")) if separator is None else line.split(separator)
    if len(entries) != n:
        fail(path, number, f"{n} columns", f"{len(entries)} in {short(line)!r}")
    if "" in entries:
        fail(path, number, f"{n} columns, none of them empty", repr(short(line)))
    return entries


_TOKEN = re.compile(r"\d+-\d+|\d+\.\d+", re.ASCII)


def _sentence(path: Path, rows: list[tuple[int, str]]) -> Sentence:
    words, numbers = [], []
    for number, line in rows:
        entries = _entries(path, number, line, 10, "\t")
        if _TOKEN.fullmatch(entries[0]):
            continue
        if entries[0] != str(len(words) + 1):
            advice = f"the id {len(words) + 1}, or a blank line before a new sentence"
            fail(path, number, advice, repr(short(entries[0])))
        words.append(entries)
        numbers.append(number)
    if not words:
        fail(path, rows[0][0], "a word with the id 1", repr(short(rows[0][1])))
    _, forms, lemmas, tags, fine_tags, features, heads, relations, _, _ = zip(*words, strict=True)
    if {*heads} == {"_"}:
        return Sentence(forms, lemmas, tags, fine_tags, features, (), ())
    tree = _tree(path, numbers, heads)
    return Sentence(forms, lemmas, tags, fine_tags, features, tree, relations)


def _tree(path: Path, numbers: list[int], heads: tuple[str, ...]) -> tuple[int, ...]:
    """The heads as numbers, which lead every word to the root."""
    known = {str(i): i for i in range(len(heads) + 1)}
    for number, head in zip(numbers, heads, strict=True):
        if head not in known:
            fail(path, number, f"a head from 0 to {len(heads)}", repr(short(head)))
    tree = tuple(known[head] for head in heads)
    rooted = {0}
    for word in range(1, len(tree) + 1):
        passed = set()
        while word not in rooted:
            if word in passed:
                fail(path, numbers[word - 1], "heads that make a tree", f"word {word} on a circle")
            passed.add(word)
            word = tree[word - 1]
        rooted |= passed
    return tree
