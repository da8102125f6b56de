"""Data sets: read, checked, made up."""

from spen_jax.data.batches import Groups, by_length, padded
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
from spen_jax.data.mulan import load, read_arff, read_mulan
from spen_jax.data.splits import Dataset, Split, split
from spen_jax.data.synthetic import exclusive_blocks, tagging_corpus

__all__ = [
    "DataError",
    "Dataset",
    "DownloadError",
    "Groups",
    "Progress",
    "SOURCES",
    "Source",
    "Split",
    "by_length",
    "exclusive_blocks",
    "find",
    "load",
    "padded",
    "print_progress",
    "read_arff",
    "read_mulan",
    "sha256",
    "split",
    "tagging_corpus",
    "verify",
]
