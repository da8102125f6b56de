import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")

from experiments.lecture import faces, faces_energies, faces_figures, faces_scenes
from spen_jax import exact

COLD = float("inf")


@pytest.mark.long
def test_an_energy_told_where_faces_are_finds_others_and_their_angles(tmp_path, monkeypatch):
    few = {name: faces.METHODS[name] for name in ("all told", "mean pooling")}
    monkeypatch.setattr(faces, "METHODS", few)
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        faces.main(faces.Config(seeds=(7,), judged=100, out=out))
    test = json.loads((out / "result.json").read_text())["test"]
    assert test["all told"]["place"][0] > 40 > test["mean pooling"]["place"][0]
    assert test["all told"]["angle"][0] > 40
    assert test["all told"]["area"][0] > 70
    for name in ("faces.png", "faces-beta.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def some_energies(seed=0, shape=(4, 6, 3)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("beta", [0.0, 1.0, COLD])
def test_the_free_energy_of_all_places_and_angles_is_the_librarys_over_nodes(beta):
    nodes = exact.tensor_rule(exact.Nodes(jnp.arange(6)), exact.Nodes(jnp.arange(3)))
    found = jax.jit(faces_energies.free_energy)(some_energies(), beta)
    expected = exact.free_energy(
        lambda params, x, y, z: x[z[0], z[1]], None, some_energies(), jnp.zeros(4), nodes, beta
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_max_pooling_and_cross_entropy_are_the_least_energy_and_its_log_loss():
    face = jnp.array([0.0, 1.0, 0.0, 1.0])
    told = faces_energies.METHODS["max pooling"].halves[0]
    each = some_energies(shape=(4, 6, 1))
    found = jax.jit(faces_energies.loss)(each, told, face, jnp.zeros((4, 2), int))
    pooled = jnp.max(-each, axis=(1, 2))
    expected = optax.sigmoid_binary_cross_entropy(pooled, face)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_told_leaves_the_rest_of_z_open():
    true, face = jnp.array([[2, 1], [0, 0]]), jnp.array([1.0, 0.0])
    counts = {}
    for told in (faces_energies.ALL, faces_energies.POSE, faces_energies.NOTHING):
        mask = faces_energies.allowed(told, face, true, (2, 6, 3))
        assert bool(mask[0, 2, 1]) and bool(mask[1].all())
        counts[told] = int(mask[0].sum())
    assert list(counts.values()) == [1, 6, 18]


def test_telling_all_lowers_the_energy_of_the_true_place_and_angle_alone():
    each, face = some_energies(shape=(1, 6, 3)), jnp.ones(1)

    def of(each):
        told, true = faces_energies.ALL, jnp.array([[2, 1]])
        return faces_energies.loss(each, told, face, true).sum()

    gradient = np.asarray(jax.jit(jax.grad(of))(each))[0]
    assert gradient[2, 1] > 0 and np.sum(gradient > 0) == 1


def test_a_window_in_the_middle_of_a_pasted_disc_is_the_node_next_to_its_pose():
    views = faces_scenes.Views(44, (0.0, 2 / 3))
    places = views.places()
    counts = [faces_scenes.windows(n) ** 2 for n in views.sizes()]
    assert len(places) == sum(counts) == 25 + 1
    pose = np.array([[16.0, 20.0, 0.0, 31.0], [21.5, 21.5, 0.6, -60.0]])
    near = faces_scenes.nearest(places, (-60, -30, 0, 30, 60), pose)
    assert near[:, 1].tolist() == [3, 0]
    np.testing.assert_allclose(places[near[0, 0], :2], [16, 20])
    image = faces_scenes.paste(np.zeros((44, 44), np.float32), np.ones((25, 25)), pose[0])
    rows, columns = np.nonzero(image > 0.5)
    np.testing.assert_allclose([rows.mean(), columns.mean()], pose[0, :2], atol=1e-6)
    assert rows.max() - rows.min() + 1 == pytest.approx(24, abs=1)

    def of(key):
        x = [jnp.zeros((1, n, n)) for n in views.sizes()]
        return faces_energies.energies(faces_energies.first("point", key), "point", x, (0,))

    shape = jax.eval_shape(of, jax.random.key(0)).shape
    assert shape == (1, 26, 1)


def test_an_angle_turns_what_is_pasted_as_its_box_is_drawn():
    patch = np.zeros((25, 25))
    patch[2:6, 10:15] = 1  # above the middle
    pose = np.array([22.0, 22.0, 0.0, 60.0])
    image = faces_scenes.paste(np.zeros((45, 45), np.float32), patch, pose)
    rows, columns = np.nonzero(image > 0.5)
    to_edge = faces_figures.box(pose)[:, -2:].mean(axis=-1)
    away = np.array([columns.mean(), rows.mean()]) - pose[1::-1]
    edge = faces_figures.box(pose)[:, :2].mean(axis=-1) - pose[1::-1]
    assert away @ edge / np.linalg.norm(away) / np.linalg.norm(edge) > 0.99
    assert np.isfinite(to_edge).all()


def test_the_photographs_and_faces_of_the_parts_differ():
    names = [n for part in faces_scenes.PHOTOGRAPHS.values() for n in part]
    assert len(names) == len(set(names)) and "astronaut" not in names
    rows = np.concatenate([np.arange(100)[rows] for rows in faces_scenes.PARTS.values()])
    assert sorted(rows.tolist()) == list(range(100))
    scenes = faces_scenes.draw("choose", 72, 6, np.random.default_rng(0))
    assert scenes.images.shape == (6, 72, 72) and scenes.face.tolist() == [0, 1] * 3
    assert 0 <= scenes.images.min() and scenes.images.max() <= 1


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 1}])
def test_bad_settings_end_the_search_for_faces_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        faces.main(faces.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
