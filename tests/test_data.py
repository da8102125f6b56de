import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spen_jax import data


@functools.cache
def real(name):
    root = os.environ.get("SPEN_JAX_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"needs SPEN_JAX_DATA with {name}/")
    return data.load(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "train_labels", "test_labels"),
    [
        ("bibtex", (4880, 2515, 1836, 159), 2.3803, 2.4437),
        ("delicious", (12920, 3185, 500, 983), 19.0471, 18.9102),
        ("scene", (1211, 1196, 294, 6), 1.0619, 1.0861),
        ("yeast", (1500, 917, 103, 14), 4.2280, 4.2519),
    ],
)
def test_the_published_sets_have_the_published_counts(name, shape, train_labels, test_labels):
    published = real(name)
    n_train, n_test, features, labels = shape
    assert published.train.x.shape == (n_train, features)
    assert published.train.y.shape == (n_train, labels)
    assert published.test.x.shape == (n_test, features)
    assert published.test.y.shape == (n_test, labels)
    assert len(published.feature_names) == features
    assert len(published.label_names) == labels
    np.testing.assert_allclose(published.train.y.sum(1).mean(), train_labels, atol=1e-4)
    np.testing.assert_allclose(published.test.y.sum(1).mean(), test_labels, atol=1e-4)
    assert published.checksums == data.SOURCES[name].files


def test_delicious_keeps_its_labels_with_a_backslash():
    labels = real("delicious").label_names
    assert {r"TAG_dise\~no", r"TAG_m\'usica", "TAG_musica"} <= set(labels)


def test_yeast_labels_are_in_column_order():
    assert real("yeast").label_names == tuple(f"Class{k}" for k in range(1, 15))


def test_bibtex_starts_with_the_row_in_the_file():
    bibtex = real("bibtex")
    assert np.flatnonzero(bibtex.train.x[0])[:5].tolist() == [0, 5, 6, 20, 33]
    assert bibtex.feature_names[:2] == ("0", "000")


def test_split_partitions_the_rows_by_seed():
    train, validation = data.split(100, 0.2, seed=0)
    assert (len(train), len(validation)) == (80, 20)
    assert sorted([*train, *validation]) == list(range(100))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(validation) > 0)
    np.testing.assert_array_equal(validation, data.split(100, 0.2, seed=0)[1])
    assert not np.array_equal(validation, data.split(100, 0.2, seed=1)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, 0.001])
def test_split_refuses_an_empty_part(fraction):
    with pytest.raises(ValueError, match="rows in both parts"):
        data.split(100, fraction, seed=0)


def test_data_needs_no_jax():
    # The room alone, without what importing the whole library imports.
    package = str(Path(data.__file__).parents[1])
    code = (
        "import sys, types; library = types.ModuleType('spen_jax');"
        f"library.__path__ = [{package!r}]; sys.modules['spen_jax'] = library;"
        "import spen_jax.data; assert 'jax' not in sys.modules; spen_jax.data.load"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
