"""The data sets of `SOURCES` that are Mulan files: `<name>-train.arff`, `<name>-test.arff`, `<name>.xml`."""

from itertools import zip_longest
from pathlib import Path

import numpy as np

from spen_jax.data.arff import attributes_of, read_arff
from spen_jax.data.examples import Examples
from spen_jax.data.files import (
    DataError,
    Progress,
    check_reader,
    find,
    print_progress,
    sha256,
    verify,
)
from spen_jax.data.lines import ROOM, TIMES, fail
from spen_jax.data.splits import Dataset, Split


def load(
    name: str, data_dir: str | Path | None = None, progress: Progress = print_progress
) -> Dataset:
    """Find or download a data set, check every file's SHA-256, and read both splits.

    `name` is "bibtex", "delicious", "scene" or "yeast"; `data_dir` and `progress` are those of `find`. x (N, D) and
    y (N, L) of each `Split` are float32.

    Raises what `find` raises, `DataError` for a file that is not the published one, and ValueError
    for a data set that another function reads.
    """
    check_reader("load", name)
    folder = find(name, data_dir, progress)
    verify(name, folder)
    return read_mulan(folder, name)


def read_mulan(folder: str | Path, name: str) -> Dataset:
    """Read `<name>-train.arff`, `<name>-test.arff` and `<name>.xml` of any Mulan data set, in `folder`.

    Each `Split` has x (N, D) and y (N, L), float32; `checksums` of the `Dataset` are those of the three files.
    Raises `DataError` as `read_arff` does, and if the two splits declare different attributes.
    """
    train, test, xml = paths = [
        Path(folder) / f"{name}{end}" for end in ("-train.arff", "-test.arff", ".xml")
    ]
    splits = [read_arff(path, xml) for path in (train, test)]
    (here, _), (there, rows) = attributes_of(train), attributes_of(test)
    for a, b in zip_longest(here, there):
        if a is None or b is None or a[:-1] != b[:-1]:
            what = " in place of ".join(
                "none" if each is None else repr(each.name) for each in (b, a)
            )
            fail(test, b.line if b else rows, f"the attributes of {train.name}", what)
    checksums = {path.name: sha256(path) for path in paths}
    features, labels = splits[0].feature_names, splits[0].label_names
    return Dataset(
        name,
        _dense(splits[0], train),
        _dense(splits[1], test),
        tuple(features),
        tuple(labels),
        checksums,
        synthetic=False,
    )


def _dense(examples: Examples, path: Path) -> Split:
    x, most = examples.x, max(ROOM, TIMES * path.stat().st_size)
    if not isinstance(x, np.ndarray):
        if 4 * x.shape[0] * x.shape[1] > most:
            raise DataError(
                f"{path}: expected at most {most:,} bytes of features, {TIMES} times the file's, got {x.shape}; "
                "read_arff keeps them sparse"
            )
        x = x.toarray()
    return Split(x, examples.y, examples.mask)
