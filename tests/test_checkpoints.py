"""Parameters in a file: trees of all kinds come back to the bit, and what is no such file is refused by name."""

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, small_spen

import spen_jax as sx
from spen_jax import bundles
from spen_jax.bundles import BundleError, Contents
from spen_jax.training import checkpoints

TREE = {"network": {"output": {"kernel": np.arange(6.0).reshape(2, 3)}}, "c2": np.ones(3)}


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    w: Any
    b: Any


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.spen"


@pytest.fixture
def saved(path):
    checkpoints.save(path, TREE, {"epoch": 1})
    return path


def back(path, tree, like=None):
    checkpoints.save(path, tree)
    return checkpoints.load(path, like)[0]


def assert_same(got, want):
    """The same containers, and leaves that are equal to the bit and of one type."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if hasattr(w, "dtype"):
            assert g.dtype == w.dtype and g.shape == w.shape
            if jnp.issubdtype(w.dtype, jax.dtypes.prng_key):
                g, w = jax.random.key_data(g), jax.random.key_data(w)
            assert np.asarray(g).tobytes() == np.asarray(w).tobytes()
        else:
            assert type(g) is type(w) and (g == w or g != g)


def test_what_is_saved_comes_back_bit_by_bit(path):
    _, _, params = small_spen(sees_features=True)
    params |= {
        "float32": jnp.float32([1, np.nan, -0.0]),
        "half": jnp.bfloat16([1.5, -0.0, jnp.inf]),
        "int": jnp.arange(3),
        "bool": np.array([True, False]),
        "scalar": np.float32(0.1),
        "empty": np.zeros((0, 4)),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    metadata = {"widths": [150, 150], "entropy": 0.5, "name": "é", "none": None}
    checkpoints.save(str(path), params, metadata)
    got, got_metadata = checkpoints.load(path)
    assert got_metadata == metadata
    assert_same(got, params)


def test_dicts_lists_tuples_keys_numbers_text_and_nothing_come_back_as_they_were(path):
    tree = {
        "layers": [np.ones(2), (np.zeros(1), [])],
        "keys": {"one": jax.random.key(3), "many": jax.random.split(jax.random.key(1, impl="rbg"))},
        "plain": [1, 2.5, True, "text", float("nan"), float("inf"), 10**30],
        "nothing": (None, {}, [], ()),
        "by number": {1: np.ones(1), 2.5: {"a": np.zeros(2)}},
    }
    assert_same(back(path, tree), tree)
    got = back(path, tree)["keys"]["many"]
    assert str(jax.random.key_impl(got)) == "rbg"
    np.testing.assert_array_equal(
        jax.random.normal(got[0], (2,)), jax.random.normal(tree["keys"]["many"][0], (2,))
    )


@pytest.mark.parametrize("leaf", [np.ones(2), 3, None, jax.random.key(0)], ids=str)
def test_a_leaf_alone_comes_back(path, leaf):
    assert_same(back(path, leaf), leaf)


def test_named_fields_come_back_as_dicts_and_as_themselves_with_a_tree_of_their_kind(path):
    tree = Pair([np.ones(2), Layer(np.zeros(3), 0.5)], (jax.random.key(0), None))
    assert_same(
        back(path, tree),
        {"first": [np.ones(2), {"w": np.zeros(3), "b": 0.5}], "second": (jax.random.key(0), None)},
    )
    assert_same(back(path, tree, like=tree), tree)


def test_shapes_alone_say_what_a_tree_is_like(path):
    params = {"w": jnp.ones((2, 3)), "v": [jnp.zeros(2)]}
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(1, 0, 9)))

    def start():
        return {"params": params, "state": optimizer.init(params), "key": jax.random.key(4)}

    tree = start()
    assert_same(back(path, tree, like=jax.eval_shape(start)), tree)


def test_names_that_would_meet_or_that_a_bundle_keeps_for_itself_still_come_back(path):
    tree = {
        "a/b": np.ones(1),
        "a": {"b": np.zeros(2)},
        "__metadata__": np.ones(3),
        "programs": {"any": np.ones(4)},
        "": np.ones(5),
        "params": np.ones(6),
        "file": np.ones(7),
        "é": np.ones(8),
    }
    assert_same(back(path, tree), tree)


def test_without_metadata_a_file_has_none(path):
    checkpoints.save(path, TREE)
    params, metadata = checkpoints.load(path)
    assert metadata == {}
    assert_trees_close(params, TREE)


def test_any_reader_of_safetensors_opens_the_named_arrays(path):
    safetensors = pytest.importorskip("safetensors.numpy")
    checkpoints.save(path, TREE | {"layers": [np.ones(2)], "key": jax.random.key(7)})
    found = safetensors.load_file(path)
    assert {*found} == {"network/output/kernel", "c2", "layers/0", "key"}
    np.testing.assert_array_equal(found["network/output/kernel"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(found["key"], jax.random.key_data(jax.random.key(7)))


def test_saving_again_replaces_the_file_and_leaves_no_other(saved):
    checkpoints.save(saved, {"w": np.zeros(2)})
    assert checkpoints.load(saved)[0].keys() == {"w"}
    assert names(saved.parent) == ["model.spen"]


@pytest.mark.parametrize(
    "leaf, words",
    [
        (np.ones(2, complex), "got complex128 at a/0/w"),
        (np.array([{}], object), "got object at a/0/w"),
        (np.array(["text"]), "got <U4 at a/0/w"),
        (jnp.ones(2, jnp.float8_e4m3fn), "got float8_e4m3fn at a/0/w"),
        (np.ones(2, ">f4"), "got >f4 at a/0/w"),
        ({1, 2}, "got a set at a/0/w"),
        (1j, "got a complex at a/0/w"),
        (jax.ShapeDtypeStruct((), jax.random.key(0).dtype), "got a ShapeDtypeStruct at a/0/w"),
        ({b"x": 1.0}, "keys of dicts, got b'x' at a/0/w"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_not_come_back_is_refused_by_name(path, leaf, words):
    with pytest.raises(TypeError, match=words):
        checkpoints.save(path, {"a": [{"w": leaf}]})
    assert names(path.parent) == []


def test_a_save_that_fails_midway_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(np, "ascontiguousarray", full)
    for name in ("model.spen", "new.spen"):
        with pytest.raises(OSError, match="disk full"):
            checkpoints.save(saved.with_name(name), {"w": np.zeros(2)})
    monkeypatch.undo()
    assert names(saved.parent) == ["model.spen"]
    params, metadata = checkpoints.load(saved)
    assert_trees_close(params, TREE)
    assert metadata == {"epoch": 1}


def cut(n):
    return lambda path: path.write_bytes(path.read_bytes()[:n])


def flip(at):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[at] ^= 255
        path.write_bytes(content)

    return damage


def archive(path):
    with open(path, "wb") as file:
        np.savez(file, w=np.ones(2))


def holding(state):
    return lambda path: bundles.write(path, Contents(state, {}, {}))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda path: path.write_text("hello"), "is damaged, or no bundle"),
        (cut(0), "is damaged, or no bundle"),
        (cut(10), "is damaged, or no bundle"),
        (cut(-5), "is damaged, or no bundle"),
        (flip(-3), "is damaged: its checksum"),
        (archive, "an earlier version .*: train again$"),
        (holding([]), "holds no parameters but a model of another kind"),
        (holding({"class": "SPENClassifier"}), "but a SPENClassifier: spen_jax.load reads it"),
        (holding({"class": "Predictor"}), "but a Predictor: spen_jax.serving.load reads it"),
        (holding({"class": "parameters"}), "holds no parameters that can be made"),
        *(
            (
                holding({"class": "parameters", "tree": tree, "metadata": {}}),
                "holds no parameters that can be made",
            )
            for tree in ({"array": "w"}, {}, [], {"set": []}, {"dict": [[[], {"value": 1}]]})
        ),
    ],
)
def test_another_file_or_a_damaged_one_is_refused_by_name(saved, damage, words):
    damage(saved)
    with pytest.raises(BundleError, match=f"model.spen .*{words}"):
        checkpoints.load(saved)


def test_who_takes_parameters_for_an_estimator_is_told_what_reads_them(saved):
    pytest.importorskip("sklearn")
    with pytest.raises(BundleError, match="model.spen holds .*: spen_jax.training.load reads it"):
        sx.load(saved)


def test_two_hundred_mutations_are_read_right_or_refused_by_one_exception(path):
    checkpoints.save(path, {"a": [np.arange(3.0), jax.random.key(0)], "b": (None, 2)}, {"n": 1})
    whole, chance, read = path.read_bytes(), random.Random(0), 0
    want = checkpoints.load(path)
    for _ in range(200):
        at, length = chance.randrange(len(whole)), chance.choice([0, 1, 1, 4, 200])
        new = chance.randbytes(chance.choice([0, length, length, 3]))
        path.write_bytes(whole[:at] + new + whole[at + length :])
        try:
            got = checkpoints.load(path)
        except BundleError as error:
            assert "model.spen" in str(error)
        else:
            assert_same(got, want)
            read += 1
    assert 0 < read < 100


def test_a_missing_file_is_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match="model.spen"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"c2": np.ones(4)}, r"c2 should be an array of shape \(3,\), got an array .* \(4,\)"),
        ({"b": np.ones(1)}, r"b should be absent, got an array of shape \(1,\)"),
        ({"network": {}}, r"network/output/kernel should be .* \(2, 3\), got absent"),
        ({"c2": np.ones(4), "network": {}}, "c2 should"),
        ({"c2": jax.random.split(jax.random.key(0), 3)}, "c2 .*, got random keys"),
    ],
)
def test_the_first_parameter_that_is_not_like_those_expected_is_named(path, change, words):
    checkpoints.save(path, TREE | change)
    with pytest.raises(ValueError, match=f"model.spen: parameter {words}"):
        checkpoints.load(path, like=jax.tree.map(np.zeros_like, TREE))
