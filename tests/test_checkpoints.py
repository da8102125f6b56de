import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_trees_close, small_spen

from spen_jax.training import checkpoints

TREE = {"network": {"output": {"kernel": np.arange(6.0).reshape(2, 3)}}, "c2": np.ones(3)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


@pytest.fixture
def saved(path):
    checkpoints.save(path, TREE, {"epoch": 1})
    return path


def test_what_is_saved_comes_back_bit_by_bit(path):
    _, _, params = small_spen(sees_features=True)
    params |= {
        "float32": jnp.float32([1, np.nan, -0.0]),
        "int": jnp.arange(3),
        "bool": np.array([True, False]),
        "scalar": np.float32(0.1),
        "empty": np.zeros((0, 4)),
    }
    metadata = {"widths": [150, 150], "entropy": 0.5, "name": "é", "none": None}
    checkpoints.save(str(path), params, metadata)
    got, got_metadata = checkpoints.load(path)
    assert got_metadata == metadata
    assert jax.tree.structure(got) == jax.tree.structure(params)
    for g, p in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        assert g.dtype == p.dtype and g.shape == p.shape
        np.testing.assert_array_equal(g, p)


def test_without_metadata_a_file_has_none(path):
    checkpoints.save(path, TREE)
    params, metadata = checkpoints.load(path)
    assert metadata == {}
    assert_trees_close(params, TREE)


def test_the_file_is_a_plain_archive_of_named_arrays(saved):
    with np.load(saved, allow_pickle=False) as file:
        assert set(file.files) == {"network/output/kernel", "c2", "__metadata__"}
        assert json.loads(str(file["__metadata__"])) == {"epoch": 1}


def test_saving_again_replaces_the_file_and_leaves_no_other(saved):
    checkpoints.save(saved, {"w": np.zeros(2)})
    assert checkpoints.load(saved)[0].keys() == {"w"}
    assert names(saved.parent) == ["model.npz"]


@pytest.mark.parametrize(
    "params, where",
    [
        ({"layers": [np.ones(2)]}, r"params\['layers'\]\[0\]"),
        ({"a": (np.ones(2),)}, r"params\['a'\]\[0\]"),
        ({1: np.ones(2)}, r"params\[1\]"),
        ({"a/b": np.ones(2)}, r"params\['a/b'\]"),
        (np.ones(2), "params;"),
    ],
)
def test_a_tree_that_is_not_nested_dicts_is_refused_by_name(path, params, where):
    with pytest.raises(TypeError, match=f"string keys without '/', got a leaf at {where}"):
        checkpoints.save(path, params)
    assert names(path.parent) == []


def test_a_save_that_fails_midway_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    def half(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(saved, {"w": np.zeros(2)})
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(saved.with_name("new.npz"), {"w": np.zeros(2)})
    assert names(saved.parent) == ["model.npz"]
    params, metadata = checkpoints.load(saved)
    assert_trees_close(params, TREE)
    assert metadata == {"epoch": 1}


def cut(n):
    return lambda path: path.write_bytes(path.read_bytes()[:n])


def flip(path):
    content = bytearray(path.read_bytes())
    content[150] ^= 255
    path.write_bytes(content)


def single_array(path):
    with open(path, "wb") as file:
        np.save(file, np.ones(3))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("hello"),
        cut(0),
        lambda path: np.savez(path, w=np.ones(2)),
        lambda path: np.savez(path, w=np.ones(2), __metadata__=np.array("{")),
        cut(10),
        cut(400),
        cut(-5),
        flip,
        single_array,
    ],
    ids=["text", "empty", "foreign", "no json", "cut 10", "cut 400", "cut -5", "flip", "npy"],
)
def test_a_file_that_save_did_not_write_or_that_is_damaged_is_refused_by_name(saved, damage):
    damage(saved)
    with pytest.raises(
        ValueError, match="model.npz is damaged, or not a parameter file written by"
    ):
        checkpoints.load(saved)


class Trap:
    """Sprung where it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_pickled_arrays_are_refused_and_not_unpickled(path):
    np.savez(path, w=np.array([Trap()], object), __metadata__=np.array("{}"))
    with pytest.raises(ValueError, match="not a parameter file"):
        checkpoints.load(path)


def test_a_missing_file_is_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match="model.npz"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"c2": np.ones(4)}, r"\['c2'\] should have shape \(3,\), got \(4,\)"),
        ({"b": np.ones(1)}, r"\['b'\] should have shape \(absent\), got \(1,\)"),
        ({"network": {}}, r"\['network'\]\['output'\]\['kernel'\] .* \(2, 3\), got \(absent\)"),
        ({"c2": np.ones(4), "network": {}}, r"\['c2'\]"),
    ],
)
def test_check_like_names_the_first_parameter_that_differs(change, message):
    checkpoints.check_like(TREE, jax.tree.map(np.zeros_like, TREE), "model.npz")
    with pytest.raises(ValueError, match=f"^model.npz: parameter {message}"):
        checkpoints.check_like(TREE | change, TREE, "model.npz")


@pytest.mark.parametrize("name", ["file", "allow_pickle", "__metadata__"])
def test_the_names_that_the_file_needs_for_itself_are_refused(path, name):
    with pytest.raises(TypeError, match=f"cannot store '{name}'"):
        checkpoints.save(path, {name: np.ones(2)})


@pytest.mark.parametrize("leaf", [jnp.ones(2, jnp.bfloat16), np.array([{}], object)])
def test_arrays_that_would_not_come_back_are_refused(path, leaf):
    with pytest.raises(TypeError, match=f"cannot store 'a/w' of {leaf.dtype}"):
        checkpoints.save(path, {"a": {"w": leaf}})
    assert names(path.parent) == []
