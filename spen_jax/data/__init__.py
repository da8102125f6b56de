"""Data sets: read, checked, made up."""

from spen_jax.data.arff import read_arff
from spen_jax.data.batches import Groups, by_length, padded
from spen_jax.data.cells import Text
from spen_jax.data.conll import (
    Sentence,
    Treebank,
    load_treebank,
    read_columns,
    read_conllu,
)
from spen_jax.data.describing import describe
from spen_jax.data.examples import Column, Examples
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
from spen_jax.data.horses import Horses, load_horses, read_horses
from spen_jax.data.letters import Letters, load_letters, read_letters
from spen_jax.data.lexicon import Lexicon
from spen_jax.data.published import load, read_mulan
from spen_jax.data.reading import read
from spen_jax.data.splits import Dataset, Split, split
from spen_jax.data.store_reader import Stored, stored
from spen_jax.data.store_writer import Writer, storing
from spen_jax.data.svmlight import read_svmlight
from spen_jax.data.svmlight_store import store_svmlight
from spen_jax.data.synthetic import exclusive_blocks, tagging_corpus
from spen_jax.data.tables import read_table
from spen_jax.data.vocabulary import Vocabulary

__all__ = [
    "Column",
    "DataError",
    "Dataset",
    "DownloadError",
    "Examples",
    "Groups",
    "Horses",
    "Letters",
    "Lexicon",
    "Progress",
    "SOURCES",
    "Sentence",
    "Source",
    "Split",
    "Stored",
    "Text",
    "Treebank",
    "Vocabulary",
    "Writer",
    "by_length",
    "describe",
    "exclusive_blocks",
    "find",
    "load",
    "load_horses",
    "load_letters",
    "load_treebank",
    "padded",
    "print_progress",
    "read",
    "read_arff",
    "read_columns",
    "read_conllu",
    "read_horses",
    "read_letters",
    "read_mulan",
    "read_svmlight",
    "read_table",
    "sha256",
    "split",
    "store_svmlight",
    "stored",
    "storing",
    "tagging_corpus",
    "verify",
]
