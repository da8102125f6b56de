"""Archives of arrays from anywhere: the right arrays or one error, and no more memory than they hold."""

import zipfile

import numpy as np
import pytest

from spen_jax.data import DataError
from spen_jax.data.archives import arrays_of

ARRAYS = {
    "a": np.arange(12.0).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "none": np.zeros((0, 3), np.float32),
    "scalar": np.float64(2.5),
    "text": np.array("words"),
}


@pytest.fixture(params=[np.savez, np.savez_compressed])
def path(request, tmp_path):
    request.param(tmp_path / "some.npz", **ARRAYS)
    return tmp_path / "some.npz"


def test_arrays_come_as_numpy_reads_them_and_can_be_written_to(path):
    found = arrays_of(path)
    with np.load(path) as file:
        assert {*found} == {*file.files}
        for name, array in found.items():
            assert array.dtype == file[name].dtype and array.shape == file[name].shape
            np.testing.assert_array_equal(array, file[name])
    found["a"][0, 0] = 7
    assert {*arrays_of(path, ["a"])} == {"a"}


def test_mutated_archives_give_the_same_arrays_or_one_error(path):
    rng, whole = np.random.default_rng(0), path.read_bytes()
    refused = 0
    for _ in range(300):
        changed = bytearray(
            whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else whole
        )
        for place in rng.integers(0, len(changed), rng.integers(1, 4)):
            changed[place] = rng.integers(0, 256)
        path.write_bytes(changed)
        try:
            found = arrays_of(path)
        except DataError as error:
            assert str(error).startswith(str(path))
            refused += 1
            continue
        for name in {*found} & {*ARRAYS}:
            np.testing.assert_array_equal(found[name], ARRAYS[name])
    assert 100 < refused


@pytest.mark.parametrize("shape", [(400_000_000_000_000,), (-12,), (10**9, 10**9, 0, -1)])
def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("a.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(12))
    with pytest.raises(DataError, match="a claims .* bytes and holds 12"):
        arrays_of(tmp_path / "a.npz")


def test_an_array_that_ends_early_is_refused(tmp_path):
    whole = tmp_path / "a.npz"
    with zipfile.ZipFile(whole, "w") as archive, archive.open("a.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (12,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(12))
    short = bytearray(whole.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        entry = archive.getinfo("a.npy")
    directory = short.rindex(b"PK\x01\x02")  # whose sizes zipfile believes
    for place, size in ((directory + 20, entry.compress_size - 5), (directory + 16, 0)):
        short[place : place + 4] = size.to_bytes(4, "little")
    whole.write_bytes(short)
    with pytest.raises(DataError, match="ends before its 12 bytes|BadZipFile"):
        arrays_of(whole)


def test_folders_are_passed_over_and_a_name_that_comes_twice_is_refused(path):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/", b"")
    assert {*arrays_of(path)} == {*ARRAYS}
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", b"")
    with pytest.raises(DataError, match="twice"):
        arrays_of(path)
