"""The horses' experiment: what its models are, how images are changed, and that it runs."""

import itertools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.structure import horses
from experiments.structure.horses_figures import spoiled
from experiments.structure.horses_models import NEIGHBOURS, Iterated, Value, contrasts, grid_of
from experiments.structure.horses_training import SIDE, corners_of, hidden, loss, resampling

X = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))


def test_an_image_that_is_neither_zoomed_nor_moved_stays_as_it_is_or_turns():
    one, zero = jnp.ones(2), jnp.zeros(2)
    found = resampling(5, one, zero, jnp.array([False, True]))
    np.testing.assert_allclose(found[0], np.eye(5), atol=1e-6)
    np.testing.assert_allclose(found[1], np.eye(5)[::-1], atol=1e-6)


def test_a_larger_image_shows_its_middle_and_a_moved_one_its_edge_again():
    line = jnp.arange(8.0)
    large = resampling(8, jnp.array([2.0]), jnp.zeros(1), jnp.zeros(1, bool))[0] @ line
    np.testing.assert_allclose(large, 3.5 + (np.arange(8) - 3.5) / 2, rtol=1e-5)
    moved = resampling(8, jnp.ones(1), jnp.array([0.25]), jnp.zeros(1, bool))[0] @ line
    np.testing.assert_allclose(moved, [2, 3, 4, 5, 6, 7, 7, 7], rtol=1e-5)


def test_the_hidden_square_is_grey_and_all_else_as_before():
    x = np.ones((3, 32, 32, 3))
    corners = corners_of(0, 3)
    covered = np.asarray(hidden(jnp.asarray(x), corners))
    assert covered.sum() == 3 * 3 * (32**2 - SIDE**2)
    for image, (i, j) in zip(covered, corners, strict=True):
        assert not image[i : i + SIDE, j : j + SIDE].any()
    np.testing.assert_array_equal(corners, corners_of(0, 3))


def test_the_loss_of_the_truth_is_nothing():
    truth = (np.arange(12).reshape(3, 4) > 5).astype(np.float32)
    assert loss(truth, truth) < 1e-4
    # One half everywhere: log 2, and 3 of 9 in common.
    np.testing.assert_allclose(loss(np.full((3, 4), 0.5), truth), np.log(2) + 2 / 3, rtol=1e-5)


@pytest.mark.slow
def test_the_grids_energy_is_its_sum_over_pixels_and_neighbours():
    context = {"logits": X[..., 0], "contrasts": contrasts(X)}
    p = {"alike": 0.4, "contrast": 0.7}
    of_one = jax.tree.map(lambda a: a[1], context)
    y = np.random.default_rng(0).integers(0, 2, (8, 12))
    want = -np.sum(np.asarray(X[1, ..., 0]) * (y - 0.5))
    x, places = np.asarray(X[1]), [*itertools.product(range(8), range(12))]
    for down, right in NEIGHBOURS:
        pairs = [(a, (a[0] + down, a[1] + right)) for a in places]
        pairs = [(a, b) for a, b in pairs if b in places]
        d = np.array([np.sum((x[a] - x[b]) ** 2) for a, b in pairs])
        unlike = np.array([y[a] != y[b] for a, b in pairs])
        want += np.sum(unlike * (p["alike"] + p["contrast"] * np.exp(-d / d.mean())))
    got = grid_of({"grid": p}, of_one).energy(np.eye(2, dtype=np.float32)[y])
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_without_its_layers_the_iterated_network_stays_at_the_u_nets_answer(tied):
    module = Iterated(steps=3, tied=tied)
    params = jax.jit(module.init)(jax.random.key(1), X)["params"]
    layers = params["step"]["Layers_0"]
    assert layers["Conv_0"]["kernel"].shape == (() if tied else (3,)) + (5, 5, 1, 16)
    none = jax.tree.map(jnp.zeros_like, params["step"])
    path = jax.jit(lambda p: module.apply({"params": p}, X, method="path"))
    stays = path(dict(params) | {"step": none})
    np.testing.assert_allclose(stays, np.tile(stays[:1], (4, 1, 1, 1)), atol=1e-5)
    assert np.abs(path(params)[-1] - stays[0]).max() > 1e-3


@pytest.mark.slow
def test_the_value_network_sees_image_and_mask():
    y = jax.random.uniform(jax.random.key(2), (2, 8, 12))
    params = jax.jit(Value().init)(jax.random.key(1), X, y)
    energies = jax.jit(Value().apply)
    first = energies(params, X, y)
    assert first.shape == (2,)
    assert np.abs(energies(params, -X, y) - first).min() > 1e-6
    assert np.abs(energies(params, X, 1 - y) - first).min() > 1e-6


def test_spoiled_masks_have_a_hole_where_there_is_most_horse_and_a_patch_where_there_is_least():
    truth = np.zeros((1, 12, 12))
    truth[0, 5:12, 5:12] = 1
    assert truth.sum() - spoiled(truth, 1, 0).sum() == 36
    assert not spoiled(truth, 1, 0)[0, 5:11, 5:11].any()
    assert (
        spoiled(truth, 0, 1).sum() - truth.sum() == 35
    )  # one pixel of the square is horse already


def test_models_that_are_not_known_end_the_program(capsys):
    with pytest.raises(SystemExit):
        horses.main(horses.Config(models=("crd",)))
    assert "--models knows more, crf" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_a_quick_run_writes_what_it_found_and_pictures(tmp_path):
    root = os.environ.get("SPEN_JAX_DATA")
    if not root or not (Path(root) / "weizmann_horse").is_dir():
        pytest.skip("needs SPEN_JAX_DATA with weizmann_horse/")
    config = horses.Config(quick=True, models=("spen",), training=("hidden",), out=tmp_path / "run")
    result = horses.main(config)
    values = result["found"]["hidden"]["spen"]
    assert all(0 <= v <= 100 for of in values.values() for v in of)
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["found"] == result["found"]
    names = "steps-hidden.png", "objections-hidden.png", "spen-hidden-0.spen", "unet-plain-0.spen"
    assert all((tmp_path / "run" / name).exists() for name in names)
