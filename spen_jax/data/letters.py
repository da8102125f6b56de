"""Handwritten words, one image of 16 x 8 pixels a letter: the data set `ocr`.

`load_letters()` is all that most scripts need; `data_dir` is that of `spen_jax.data.files`. Every
fold has the same 55 words, so that a test on other folds is no test on other words. NumPy and the
standard library only; nothing is unpickled. Source: Taskar, Guestrin and Koller (2003), "Max-margin
Markov networks"; images by R. Kassel.
"""

import string
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spen_jax.data.archives import expect, expect_range, read_arrays
from spen_jax.data.batches import padded
from spen_jax.data.files import find, sha256, verify

AXES = {"pixels": 2, "labels": 1, "word_offsets": 1, "folds": 1}


class Letters(NamedTuple):
    """N words of up to T letters: `x` float32 (N, T, 128), pixels 0 or 1; `y` int32 (N, T), letters.

    `mask` bool (N, T) is True where a word has a letter; beyond, x is 0 and y -1. `folds` int32 (N,)
    are parts of about equal size, for cross-validation. Letter k is `alphabet[k]`; the first one of each word, a
    capital, is not in the data. `checksums` maps the file's name to its SHA-256 in hex.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray
    folds: np.ndarray
    alphabet: tuple[str, ...]
    checksums: dict[str, str]

    @property
    def words(self) -> tuple[str, ...]:
        """The N words as texts."""
        return tuple(
            "".join(self.alphabet[label] for label in y[mask])
            for y, mask in zip(self.y, self.mask, strict=True)
        )


def load_letters(data_dir: str | Path | None = None) -> Letters:
    """Find the 6877 words of `ocr`, of 3 to 14 letters in 10 folds, check the SHA-256 and read them.

    `data_dir` is the folder that holds ocr/, as for `find`.
    FileNotFoundError, which says how to come by the file, where it is missing: it has no download.
    `DataError` for a file that is not the published one.
    """
    folder = find("ocr", data_dir)
    verify("ocr", folder)
    return read_letters(folder / "ocr_letters.npz")


def read_letters(path: str | Path) -> Letters:
    """Read the `.npz` file at `path`, any of this format: whole numbers, of N words with L letters in all.

    `pixels` (L, 128), 0 or 1, an image's rows one after the other; `labels` (L,), 0 to 25 for a to z;
    `word_offsets` (N + 1,), ascending from 0 to L: word i is letters word_offsets[i] up to but
    without word_offsets[i + 1]; `folds` (N,), 0 to N. The published file has int32 offsets, and
    uint8 elsewhere. Raises FileNotFoundError, and `DataError` for anything else.
    """
    path = Path(path)
    pixels, labels, offsets, folds = read_arrays(path, AXES)
    n, shapes = len(labels), f"pixels {pixels.shape} and word_offsets {offsets.shape}"
    shaped = n > 0 and pixels.shape == (n, 128)
    expect(path, shaped, f"pixels of shape ({n}, 128), at least one", shapes)
    expect(path, offsets.shape == (len(folds) + 1,), f"{len(folds)} + 1 word_offsets", shapes)
    ends = f"{offsets[0]} to {offsets[-1]}"
    expect(path, (offsets[0], offsets[-1]) == (0, n), f"word_offsets from 0 to {n}", ends)
    expect(path, (offsets[1:] > offsets[:-1]).all(), "word_offsets that ascend", "others")
    ranges = ("pixels", pixels, 1), ("labels", labels, 25), ("folds", folds, len(folds))
    for name, array, last in ranges:
        expect_range(path, name, array, last)
    longest = int(np.diff(offsets.astype(np.int64)).max())
    padding = len(folds) * longest <= max(2**17, 100 * n)
    expect(
        path, padding, f"words that padded are at most 100 times {n} letters", f"one of {longest}"
    )
    inner = offsets[1:-1].astype(np.int64)
    x, mask = padded(np.split(pixels.astype(np.float32), inner))
    y, _ = padded(np.split(labels.astype(np.int32), inner), fill=-1)
    checksums = {path.name: sha256(path)}
    return Letters(x, y, mask, folds.astype(np.int32), tuple(string.ascii_lowercase), checksums)
