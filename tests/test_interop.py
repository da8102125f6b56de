"""Weights of PyTorch's classes, from a file that PyTorch made, and from PyTorch itself where it is installed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import spen_jax as sx
from experiments.lecture import from_pytorch
from spen_jax import interop
from spen_jax.interop import Name

RECORDED = Path(__file__).parent / "notes_by_pytorch.npz"
NAMES = interop.energy_network()
MOVED = {"B": ("network", "output", "kernel"), "C1": ("C1",), "c2": ("c2",)}


def now_in_pytorch():
    pytest.importorskip("torch")
    from experiments.lecture import notes_pytorch

    return notes_pytorch.reference()


@pytest.fixture(params=["recorded", "now"])
def known(request):
    if request.param == "now":
        return now_in_pytorch()
    return interop.read(RECORDED)


@pytest.fixture
def model():
    return from_pytorch.here(5, hidden=8, units=4, rate=0.01)


def of(known, prefix):
    return {n.removeprefix(prefix): a for n, a in known.items() if n.startswith(prefix)}


def params_of(model, known, prefix="before."):
    return interop.to_params(of(known, prefix), NAMES, from_pytorch.shapes(model.spen, 12))


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_energies_and_their_gradients_are_those_of_pytorch(known, model):
    params = params_of(model, known)

    def total(params, y):
        energies = model.spen.apply({"params": params}, known["x"], y)
        return jnp.sum(energies), energies

    (_, energies), (slopes, slope_y) = jax.value_and_grad(total, (0, 1), has_aux=True)(
        params, jnp.asarray(known["y"])
    )
    close(energies, known["energies"])
    close(slope_y, known["slope.y"])
    there = interop.to_arrays(_still(slopes), NAMES)
    for name in MOVED:
        close(there[f"model.{name}"], known[f"slope.{name}"])


def test_thirty_steps_end_where_they_do_in_pytorch(known, model):
    close(model.predictor(params_of(model, known), known["x"]).y, known["answers"])


def test_a_max_margin_step_is_that_of_pytorch(known, model):
    params = params_of(model, known)
    state = sx.training.init(params, model.optimizer, jax.random.key(0))
    data = sx.data.Split(jnp.asarray(known["x"]), jnp.asarray(known["targets"]))
    state, metrics = sx.training.step(
        model.objective, model.optimizer, state, data, jnp.arange(len(known["x"]))
    )
    close(metrics["loss"], known["loss"])
    after = interop.to_arrays(state.params, NAMES, of(known, "before."))
    for name, array in of(known, "after.").items():
        close(after[name], array)


@pytest.mark.parametrize("cleared", ["printed", "step", "loss"])
def test_the_example_of_the_notes_trains_to_the_same_curve(known, model, cleared):
    theirs = known[f"curve.{cleared}"]
    theirs = theirs[: np.argmax(~(theirs < 100))] if cleared != "loss" else theirs
    ours = from_pytorch.example(
        model,
        params_of(model, known),
        *(jnp.asarray(known[name][0]) for name in ("x", "targets")),
        jnp.asarray(known["starts"][: len(theirs)]),
        cleared,
    )
    assert len(theirs) >= 5
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_the_feature_network_alone_has_the_logits_of_pytorch(known):
    network = sx.FeatureNetwork(5, (8, 8))
    like = jax.eval_shape(network.init, jax.random.key(0), known["x"])["params"]
    arrays = of(of(known, "before."), "feature_extractor.")
    params = interop.to_params(arrays, interop.feature_mlp(), like)
    close(network.apply({"params": params}, known["x"]), known["logits"])
    back = interop.to_arrays(params, interop.feature_mlp())
    assert {*back} == {*arrays} and all((back[n] == arrays[n]).all() for n in arrays)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_files_of_either_kind_come_back_to_the_bit(model, tmp_path, ending):
    arrays = of(interop.read(RECORDED), "before.")
    params = interop.to_params(arrays, NAMES, from_pytorch.shapes(model.spen, 12))
    path = tmp_path / f"weights{ending}"
    interop.write(path, interop.to_arrays(params, NAMES, arrays))
    back = interop.read(path)
    assert {*back} == {*arrays}
    assert all((back[n] == arrays[n]).all() and back[n].shape == arrays[n].shape for n in arrays)
    again = interop.to_params(path, NAMES, params)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, again))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_array_that_does_not_lie_in_order_is_written_as_it_reads(tmp_path):
    a = np.arange(6.0).reshape(2, 3).T
    for name in ("a.npz", "a.safetensors"):
        interop.write(tmp_path / name, {"a": a})
        assert (interop.read(tmp_path / name, "of.")["of.a"] == a).all()


def test_names_of_ones_own_move_any_network():
    rng = np.random.default_rng(0)
    arrays = {"layers.0.weight": rng.normal(size=(3, 2)), "layers.0.bias": rng.normal(size=3)}
    like = {"hidden": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    params = interop.to_params(arrays, interop.linear("layers.0", "hidden"), like)
    x = rng.normal(size=2)
    ours = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    np.testing.assert_allclose(ours, arrays["layers.0.weight"] @ x + arrays["layers.0.bias"], 1e-6)
    assert params["hidden"]["bias"].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("model.B"), "missing model.B; left over none"),
        (lambda a: a.update(more=np.zeros(1)), "missing none; left over more"),
        (
            lambda a: a.update({"model.C1": a["model.C1"].T}),
            r"model.C1 has shape \(4, 5\).*\(5, 4\)",
        ),
        (lambda a: a.update({"model.c2": a["model.c2"] * np.nan}), "model.c2 .* not finite"),
        (lambda a: a.update({"model.c2": a["model.c2"].astype(int)}), "model.c2 must be floats"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(model, change, words):
    arrays = of(interop.read(RECORDED), "before.")
    change(arrays)
    with pytest.raises(ValueError, match=words):
        interop.to_params(arrays, NAMES, from_pytorch.shapes(model.spen, 12))


def test_another_model_or_weights_that_would_be_lost_are_refused(model):
    arrays = of(interop.read(RECORDED), "before.")
    shapes = from_pytorch.shapes(model.spen, 12)
    with pytest.raises(ValueError, match="hidden_1/bias.* stands in one of them only"):
        interop.to_params(arrays, interop.energy_network(hidden=1), shapes)
    params = interop.to_params(arrays, NAMES, shapes)
    params["b"] = params["b"] + 1
    with pytest.raises(ValueError, match="parameter b is not 0"):
        interop.to_arrays(params, NAMES)
    with pytest.raises(ValueError, match="twice"):
        interop.to_arrays({"a": np.zeros(1)}, [Name("x", "a"), Name("y", "a")])


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    for name, words in (("a.pt", "pickle"), ("a.h5", r"\.npz and \.safetensors")):
        with pytest.raises(ValueError, match=words):
            interop.read(tmp_path / name)
    with pytest.raises(ValueError, match=r"written as \.npz"):
        interop.write(tmp_path / "a.pt", {})
    for wrong in (np.ones(2, complex), np.array(["text"])):
        with pytest.raises(ValueError, match=r"no place for one of these: s is (complex128|<U4)"):
            interop.write(tmp_path / "a.safetensors", {"n": np.ones(2), "s": wrong})
    for name in ("a.npz", "a.safetensors"):
        with pytest.raises(FileNotFoundError):
            interop.read(tmp_path / name)
        (tmp_path / name).write_bytes(b"PK\x03\x04 of no use")
        with pytest.raises(ValueError, match=r"damaged|expected a NumPy \.npz"):
            interop.read(tmp_path / name)
    np.savez(tmp_path / "a.npz", a=np.array([{}]))
    with pytest.raises(ValueError, match="a holds Python objects"):
        interop.read(tmp_path / "a.npz")
    save_file({"a": np.zeros(9)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="damaged"):
        interop.read(tmp_path / "a.safetensors")


def test_numbers_of_no_axes_and_types_of_half_width_keep_their_shape_and_type(tmp_path):
    name = [Name("s", "s")]
    assert interop.to_params({"s": np.float64(3)}, name, {"s": jnp.zeros(())})["s"].shape == ()
    half = {"s": jnp.arange(3, dtype=jnp.bfloat16)}
    arrays = interop.to_arrays(half, name)
    interop.write(tmp_path / "a.safetensors", arrays)
    back = interop.to_params(tmp_path / "a.safetensors", name, half)
    assert back["s"].dtype == jnp.bfloat16 and back["s"].tolist() == [0, 1, 2]
    for wrong in (arrays, {"s": np.array([{}])}):
        with pytest.raises(ValueError, match="has no place for"):
            interop.write(tmp_path / "a.npz", wrong)
    interop.write(tmp_path / "a.npz", {"allow_pickle": np.ones(2), "file": np.zeros(1)})
    assert {*interop.read(tmp_path / "a.npz")} == {"allow_pickle", "file"}


def test_what_would_be_lost_on_the_way_is_refused():
    one = {"a": np.ones(2, np.float32)}
    for array, like in ((np.array([1e39, 0]), one), (np.ones(2), {"a": np.ones(2, np.int32)})):
        with pytest.raises(ValueError, match="too large for float32|must be floats"):
            interop.to_params({"a": array}, [Name("a", "a")], like)
    tied = [Name("w", "a"), Name("w", "b")]
    assert {*interop.to_arrays(one | {"b": one["a"]}, tied)} == {"w"}
    with pytest.raises(ValueError, match="stands for several parameters"):
        interop.to_arrays(one | {"b": np.zeros(2)}, tied)
    with pytest.raises(ValueError, match="no '/'"):
        interop.to_arrays({"a/b": one}, [Name("w", "a/b/a")])


def _still(slopes):
    """Gradients with those of what they lack there set to 0, so that they go back."""
    output = slopes["network"]["output"]
    network = slopes["network"] | {"output": output | {"bias": jnp.zeros(5)}}
    return slopes | {"network": network, "b": jnp.zeros(4)}
