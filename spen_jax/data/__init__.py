"""Data sets: read, checked, made up."""

from spen_jax.data.batches import Groups, by_length, padded
from spen_jax.data.conll import (
    Sentence,
    Treebank,
    load_treebank,
    read_columns,
    read_conllu,
)
from spen_jax.data.files import (
    SOURCES,
    DataError,
    DownloadError,
    Progress,
    Source,
    find,
    print_progress,
    sha256,
    verify,
)
from spen_jax.data.letters import Letters, load_letters, read_letters
from spen_jax.data.mulan import load, read_arff, read_mulan
from spen_jax.data.splits import Dataset, Split, split
from spen_jax.data.synthetic import exclusive_blocks, tagging_corpus
from spen_jax.data.vocabulary import Vocabulary

__all__ = [
    "DataError",
    "Dataset",
    "DownloadError",
    "Groups",
    "Letters",
    "Progress",
    "SOURCES",
    "Sentence",
    "Source",
    "Split",
    "Treebank",
    "Vocabulary",
    "by_length",
    "exclusive_blocks",
    "find",
    "load",
    "load_letters",
    "load_treebank",
    "padded",
    "print_progress",
    "read_arff",
    "read_columns",
    "read_conllu",
    "read_letters",
    "read_mulan",
    "sha256",
    "split",
    "tagging_corpus",
    "verify",
]
