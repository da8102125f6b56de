import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("sklearn")

from experiments.lecture import pose, pose_images
from experiments.lecture import pose_energies as energies
from spen_jax import exact
from spen_jax.energies import moved

SMALL = energies.Grid((-0.4, 0.0, 0.7), (-0.2, 0.3), 2, 1, 16)
to_20 = jax.jit(lambda u, z: moved(u, z, (20, 20)))
to_16 = jax.jit(lambda u, z: moved(u, z, (16, 16)))
grid_energies = jax.jit(energies.energies, static_argnames="grid")


def smooth(seed, shape=(12, 12)):
    """A map of a few broad bumps, zero near its border."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    middle, wide = (np.array(shape) - 1) / 2, 1.5
    bumps = [
        np.exp(-((places - middle - rng.uniform(-2.5, 2.5, 2)) ** 2).sum(-1) / (2 * wide**2))
        for _ in range(4)
    ]
    return np.einsum("k,kij->ij", rng.uniform(0.5, 1, 4), bumps).astype(np.float32)


def parameters(kind, seed=0, count=2):
    rng = np.random.default_rng(seed)
    references = rng.normal(size=(10, count, 12, 12, energies.CHANNELS[kind]))
    network = energies.first_network(kind, jax.random.key(seed))
    return {"network": network, "references": jnp.asarray(references, jnp.float32)}


@pytest.mark.slow
def test_the_energies_of_the_grid_are_those_of_references_that_are_moved_one_by_one():
    params = parameters("radial")
    x = jnp.asarray(np.random.default_rng(1).random((2, 20, 20)), jnp.float32)
    features = jax.jit(energies.features, static_argnames="kind")
    g = features(params["network"], kind="radial", x=x)
    each = grid_energies(params, g, grid=SMALL, maps=jnp.asarray(energies.turned(SMALL)))
    nodes = SMALL.poses()
    assert each.shape == (2, 10, 2, len(nodes)) == (2, 10, 2, 6 * 25)
    for node in (0, 77, 149):
        for digit, m in ((0, 1), (7, 0)):
            # What sticks out of the window of 16 pixels is cut off here too.
            u = params["references"][digit, m]
            turned = to_16(u, jnp.asarray([0, 0, *nodes[node, 2:]]))
            down, right = nodes[node, :2].astype(int)
            there = np.zeros((20, 20, 2), np.float32)
            there[2 + down : 18 + down, 2 + right : 18 + right] = turned
            expected = np.sum((np.asarray(g) - there) ** 2, axis=(1, 2, 3)) / 2
            np.testing.assert_allclose(each[:, digit, m, node], expected, rtol=1e-4)


@pytest.mark.slow
def test_a_reference_within_its_window_has_the_librarys_energy():
    params = parameters("pixels", count=1)
    params["references"] = jnp.asarray(
        [[smooth(digit)[..., None]] for digit in range(10)], jnp.float32
    )
    x = to_20(jnp.asarray(smooth(11)), jnp.array([1.0, -1, 0.3, 0.0]))[None]
    g = energies.features(params["network"], "pixels", x)
    each = grid_energies(params, g, grid=SMALL, maps=jnp.asarray(energies.turned(SMALL)))
    wide = jnp.pad(g, [(0, 0), (6, 6), (6, 6), (0, 0)])
    flat = {"g": None, "references": params["references"][:, 0]}
    nodes = jnp.asarray(SMALL.poses()[::20])
    for digit in (0, 7):
        found = exact.energies_at(energies.POSED, flat, wide, jnp.array([digit]), nodes)
        np.testing.assert_allclose(each[:, digit, 0, ::20], found, rtol=5e-3)


def turned_by(maps, radians):
    return jax.jit(jax.vmap(lambda u: moved(u, jnp.array([0.0, 0.0, radians, 0.0]))))(maps)


def gap(kind, radians):
    """How far G of a turned image is from the turned G, as a share of its norm."""
    network = energies.first_network(kind, jax.random.key(0))
    x = to_20(jnp.asarray(smooth(2)), jnp.zeros(4))[None]
    of = jax.jit(energies.features, static_argnames="kind")
    g = of(network, kind=kind, x=x)[..., 1:]
    other = of(network, kind=kind, x=turned_by(x, radians))[..., 1:]
    expected = turned_by(g, radians)
    return float(jnp.linalg.norm(other - expected) / jnp.linalg.norm(expected))


@pytest.mark.slow
def test_filters_that_are_the_same_in_all_directions_commute_with_turns():
    assert gap("radial", np.pi / 2) < 1e-4
    assert gap("radial", np.pi / 4) < 0.1
    assert gap("free", np.pi / 2) > 0.3 and gap("free", np.pi / 4) > 0.3


def test_features_commute_with_shifts_and_are_zero_where_nothing_is():
    network = energies.first_network("free", jax.random.key(0)) | {"bias": jnp.arange(8) / 8}
    x = jnp.zeros((1, 20, 20)).at[0, 8:11, 7:12].set(1.0)
    of = jax.jit(energies.features, static_argnames="kind")
    g, other = (of(network, kind="free", x=a) for a in (x, jnp.roll(x, (2, -1), (1, 2))))
    np.testing.assert_allclose(other, jnp.roll(g, (2, -1), (1, 2)), atol=1e-6)
    np.testing.assert_allclose(g[0, :3], 0, atol=1e-6)
    assert float(jnp.abs(g).max()) > 0.1


@pytest.mark.slow
def test_a_planted_pose_outside_what_is_learned_is_found_on_the_grid_and_refined():
    params = parameters("pixels", count=1)
    params["references"] = jnp.asarray(
        [[smooth(digit)[..., None]] for digit in range(10)], jnp.float32
    )
    planted = np.array([[3.2, -2.9, 0.8, -0.2], [-1.1, 4.2, -0.6, 0.25]], np.float32)
    digits = np.array([3, 8])
    place = jax.jit(jax.vmap(lambda u, z: moved(u, z, (24, 24))))
    x = place(params["references"][digits, 0, ..., 0], jnp.asarray(planted))
    looked = energies.look(params, "pixels", x)
    assert np.argmin(looked.free[1], axis=-1).tolist() == digits.tolist()
    start = looked.pose[np.arange(2), digits]
    assert np.all(pose_images.apart(start, planted) < [0.51, 0.51, 0.1, 0.08])
    end = energies.refined(params, "pixels", x, digits, start)
    assert np.all(pose_images.apart(end, planted) < [0.2, 0.2, 0.1, 0.03])


def test_poses_compose_as_what_they_do_to_a_map():
    u = jnp.asarray(smooth(5, (24, 24)))
    first, then = np.array([[1.0, -2.0, 0.4, 0.1]]), np.array([[-2.0, 1.0, -0.9, -0.2]])
    together = pose_images.composed(then, first)
    of = jax.jit(moved)
    one_by_one = of(of(u, jnp.asarray(first[0])), jnp.asarray(then[0]))
    np.testing.assert_allclose(of(u, jnp.asarray(together[0])), one_by_one, atol=0.1)


def test_poses_to_test_are_outside_what_is_learned_in_the_coordinates_named():
    rng = np.random.default_rng(0)
    low, high = pose_images.NARROW.T
    for outside in pose_images.CONDITIONS.values():
        poses = pose_images.draw_poses(200, outside, rng)
        inside = (poses >= low) & (poses <= high)
        wide = pose_images.WIDE.T
        assert np.all((poses >= wide[0]) & (poses <= wide[1]))
        assert inside[:, :2].all(axis=1).any() == (not set(outside or ()) & {0, 1})
        for c in (2, 3):
            assert inside[:, c].all() == (c not in (outside or ()))
            assert inside[:, c].any() == (c not in (outside or ()))


def test_telling_the_pose_leaves_one_node_of_each_template():
    pose = jnp.array([[1.2, -1.9, 0.6, 0.2], [0.0, 0.4, 0.1, -0.1]])
    mask = np.asarray(energies.near(pose, SMALL))
    found = SMALL.poses()[mask.argmax(axis=1)]
    np.testing.assert_allclose(found, [[1, -2, 0.7, 0.3], [0, 0, 0, -0.2]], atol=1e-6)
    assert mask.sum(axis=1).tolist() == [1, 1]
    each = jnp.asarray(np.random.default_rng(0).normal(size=(2, 10, 3, mask.shape[1])), jnp.float32)
    free = jax.jit(energies.free_energies)(each, 1.0, mask[:, None])
    at = np.asarray(each)[np.arange(2), :, :, mask.argmax(axis=1)]
    np.testing.assert_allclose(free, -np.log(np.exp(-at).sum(axis=-1)), rtol=1e-4)


@pytest.mark.long
@pytest.mark.slow
def test_the_experiment_runs_and_writes_what_it_found(tmp_path, monkeypatch):
    few = {name: pose.METHODS[name] for name in ("latent pose", "network, told")}
    monkeypatch.setattr(pose, "METHODS", few)
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        pose.main(pose.Config(quick=True, out=out))
    result = json.loads((out / "result.json").read_text())
    sizes = result["parameters"].values()
    assert max(sizes) < 1.02 * min(sizes)
    test = result["test"]
    assert test["latent pose"]["unmoved"]["relative_all"] == [100]
    assert "moved" in test["network, told"] and "class_free" not in test["network, told"]["moved"]
    for name in ("pose.png", "pose-energy.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 0}, {"judged": 1}])
def test_bad_settings_end_the_experiment_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        pose.main(pose.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
