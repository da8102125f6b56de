import os
from pathlib import Path

import numpy as np
import pytest

from spen_jax import data

RNG = np.random.default_rng(0)
ARRAYS = {
    "pixels": RNG.integers(0, 2, (6, 128), np.uint8),
    "labels": np.array([2, 0, 19, 0, 13, 25], np.uint8),
    "word_offsets": np.array([0, 3, 5, 6], np.int32),
    "folds": np.array([0, 1, 1], np.uint8),
}


def write(folder, **changed):
    arrays = {name: array for name, array in (ARRAYS | changed).items() if array is not None}
    np.savez_compressed(folder / "letters.npz", **arrays)
    return folder / "letters.npz"


def test_words_stand_in_padded_arrays(tmp_path):
    letters = data.read_letters(write(tmp_path))
    assert letters.words == ("cat", "an", "z")
    assert letters.y.tolist() == [[2, 0, 19], [0, 13, -1], [25, -1, -1]]
    assert letters.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    np.testing.assert_array_equal(letters.x[letters.mask], ARRAYS["pixels"])
    assert not letters.x[~letters.mask].any()
    assert (letters.x.dtype, letters.y.dtype, letters.folds.dtype) == (
        np.float32,
        np.int32,
        np.int32,
    )
    assert letters.folds.tolist() == [0, 1, 1]
    assert len(letters.alphabet) == 26
    assert [*letters.checksums] == ["letters.npz"]


def test_whole_numbers_of_other_types_are_read_alike(tmp_path):
    wide = {name: array.astype(np.uint64) for name, array in ARRAYS.items()}
    first, second = data.read_letters(write(tmp_path)), data.read_letters(write(tmp_path, **wide))
    for a, b in zip(first[:4], second[:4], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def changed(name, place, value):
    array = ARRAYS[name].astype(np.int64)
    array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"folds": None}, "of the arrays pixels, labels, word_offsets, folds.*folds is not a file"),
        ({"labels": ARRAYS["labels"].astype(object)}, "without pickles, got ValueError"),
        ({"labels": ARRAYS["labels"] + 0.5}, "labels, whole numbers with 1 axes, got float64"),
        ({"pixels": ARRAYS["pixels"] > 0}, "pixels, whole numbers with 2 axes, got bool"),
        ({"folds": ARRAYS["folds"][:, None]}, r"folds, whole .* got uint8 of shape \(3, 1\)"),
        ({"pixels": ARRAYS["pixels"][:5]}, r"pixels of shape \(6, 128\).*got pixels \(5, 128\)"),
        ({"pixels": ARRAYS["pixels"][:, :64]}, r"pixels of shape \(6, 128\)"),
        ({name: array[:0] for name, array in ARRAYS.items()}, "at least one"),
        ({"folds": ARRAYS["folds"][:2]}, r"2 \+ 1 word_offsets, got .*\(4,\)"),
        (changed("word_offsets", 0, 1), "word_offsets from 0 to 6, got 1 to 6"),
        (changed("word_offsets", 3, 7), "word_offsets from 0 to 6, got 0 to 7"),
        (changed("word_offsets", 1, 5), "word_offsets that ascend"),
        (changed("word_offsets", 1, -1), "word_offsets that ascend"),
        (changed("pixels", 0, 255), "pixels from 0 to 1, got 0 to 255"),
        (changed("labels", 2, 26), "labels from 0 to 25, got 0 to 26"),
        (changed("labels", 2, -1), "labels from 0 to 25, got -1 to 25"),
        (changed("folds", 2, -1), "folds from 0 to 3, got -1"),
    ],
)
def test_arrays_that_are_no_words_are_refused(tmp_path, arrays, said):
    path = write(tmp_path, **arrays)
    with pytest.raises(data.DataError, match=said) as caught:
        data.read_letters(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "anew" in str(caught.value)


def test_files_that_are_no_archives_are_refused(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", ARRAYS["labels"])
    one = (tmp_path / "one.npy").read_bytes()
    middle = whole[:200] + bytes(50) + whole[250:]
    pickled = b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01."
    for content in (b"", b"text", one, whole[:-100], middle, pickled):
        path.write_bytes(content)
        with pytest.raises(data.DataError, match="expected a NumPy .npz file of the arrays"):
            data.read_letters(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.read_letters(tmp_path / "letters.npz")


def test_the_published_words_have_the_published_counts():
    root = os.environ.get("SPEN_JAX_DATA")
    if not root or not (Path(root) / "ocr").is_dir():
        pytest.skip("needs SPEN_JAX_DATA with ocr/")
    letters = data.load_letters()
    assert letters.x.shape == (6877, 14, 128)
    assert letters.mask.sum() == 52152
    lengths = letters.mask.sum(axis=1)
    assert (lengths.min(), lengths.max()) == (3, 14)
    counts = [626, 704, 684, 698, 693, 651, 739, 717, 690, 675]
    assert np.bincount(letters.folds).tolist() == counts
    words = np.array(letters.words)
    assert all(len({*words[letters.folds == fold]}) == 55 for fold in range(10))
    assert "ommanding" in words
    assert np.all((letters.y >= 0) == letters.mask)
    assert np.unique(letters.x).tolist() == [0, 1]
    assert letters.checksums == data.SOURCES["ocr"].files
