"""The horses' files: read, refused, and those that are published."""

import os
from pathlib import Path

import numpy as np
import pytest

from spen_jax import data

RNG = np.random.default_rng(0)
ARRAYS = {
    "images": RNG.integers(0, 256, (2, 4, 5, 3), np.uint8),
    "masks": RNG.integers(0, 2, (2, 4, 5), np.uint8),
}


def write(folder, **changed):
    arrays = {name: array for name, array in (ARRAYS | changed).items() if array is not None}
    np.savez_compressed(folder / "some.npz", **arrays)
    return folder / "some.npz"


def test_images_go_from_0_to_1_and_masks_are_as_they_are(tmp_path):
    split = data.read_horses(write(tmp_path))
    np.testing.assert_allclose(255 * split.x, ARRAYS["images"], rtol=1e-6)
    np.testing.assert_array_equal(split.y, ARRAYS["masks"])
    assert (split.x.dtype, split.y.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"masks": None}, "of the arrays images, masks.*masks is not a file"),
        ({"masks": ARRAYS["masks"].astype(object)}, "without pickles, got ValueError"),
        ({"images": ARRAYS["images"] / 255}, "images, whole numbers with 4 axes, got float64"),
        ({"masks": ARRAYS["masks"][..., None]}, "masks, whole numbers with 3 axes"),
        ({"masks": ARRAYS["masks"][:1]}, r"images \(N, H, W, 3\).*got images \(2, 4, 5, 3\)"),
        ({name: array[:0] for name, array in ARRAYS.items()}, "at least one"),
        ({"masks": 255 * ARRAYS["masks"]}, "masks from 0 to 1, got 0 to 255"),
        ({"images": ARRAYS["images"].astype(int) - 1}, "images from 0 to 255, got -1 to"),
    ],
)
def test_arrays_that_are_no_horses_are_refused(tmp_path, arrays, said):
    path = write(tmp_path, **arrays)
    with pytest.raises(data.DataError, match=said) as caught:
        data.read_horses(path)
    assert str(caught.value).startswith(f"{path}: expected ")


def test_files_that_are_no_archives_are_refused(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(data.DataError, match="expected a NumPy .npz file of the arrays"):
        data.read_horses(path)
    with pytest.raises(FileNotFoundError):
        data.read_horses(tmp_path / "none.npz")


def test_where_they_are_missing_it_says_what_to_put_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weizmann_horse has no download.*read_horses"):
        data.load_horses(tmp_path)
    folder = tmp_path / "weizmann_horse"
    folder.mkdir()
    for file in data.SOURCES["weizmann_horse"].files:
        (folder / file).write_bytes(write(tmp_path).read_bytes())
    with pytest.raises(data.DataError, match="expected SHA-256 c25db"):
        data.load_horses(tmp_path)


def test_the_published_horses_have_the_published_counts():
    root = os.environ.get("SPEN_JAX_DATA")
    if not root or not (Path(root) / "weizmann_horse").is_dir():
        pytest.skip("needs SPEN_JAX_DATA with weizmann_horse/")
    horses = data.load_horses()
    splits = horses.train, horses.validation, horses.test
    assert [len(s.x) for s in splits] == [160, 40, 128]
    assert all(s.x.shape[1:] == (32, 32, 3) and s.y.shape[1:] == (32, 32) for s in splits)
    shares = [round(100 * float(s.y.mean()), 1) for s in splits]
    assert shares == [27.7, 27.3, 27.7]
    assert 0 <= min(s.x.min() for s in splits) < max(s.x.max() for s in splits) <= 1
    assert horses.checksums == data.SOURCES["weizmann_horse"].files
    images = np.concatenate([s.x for s in splits]).reshape(328, -1)
    assert len(np.unique(images, axis=0)) == 328
