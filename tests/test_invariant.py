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

from experiments.lecture import invariant
from spen_jax import exact


@pytest.mark.long
def test_a_latent_transformation_answers_on_moved_and_turned_images(tmp_path, monkeypatch):
    monkeypatch.setattr(invariant, "TRIALS", [(float("inf"), 0.03)])
    few = "no latent", "no latent, augmented", "latent"
    monkeypatch.setattr(invariant, "METHODS", {name: invariant.METHODS[name] for name in few})
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        invariant.main(invariant.Config(seeds=(7,), steps=150, out=out))
    result = json.loads((out / "result.json").read_text())
    accuracy = {m: {c: v[0] for c, v in f.items()} for m, f in result["accuracy"].items()}
    assert len(set(result["parameters"].values())) == 1
    assert accuracy["latent"]["as they are"] > 94 and accuracy["no latent"]["as they are"] > 94
    assert accuracy["latent"]["both"] > 87 and accuracy["no latent"]["both"] < 55
    assert 55 < accuracy["no latent, augmented"]["both"] < accuracy["latent"]["both"] - 5
    assert result["chosen"]["latent"] == [{"beta": "inf", "rate": 0.03}]
    assert (out / "matches.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.part"))


def test_all_versions_of_an_image_are_its_transformations():
    images = jnp.asarray(invariant.load()[0][:5])
    versions = np.asarray(invariant.all_transformed(images)).reshape(5, 27, 12, 12)
    square = images.reshape(5, 12, 12)
    every = jax.jit(jax.vmap(jax.vmap(invariant.transform, (None, 0, 0)), (0, None, None)))
    expected = every(square, invariant.GROUP[:, 2], invariant.GROUP[:, :2])
    # What a rotation turns off the canvas does not come back by a shift.
    inside = (..., slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(versions[inside], expected[inside], atol=1e-5)
    np.testing.assert_allclose(versions[:, invariant.NOTHING], square, atol=1e-6)
    moved = np.flatnonzero(np.all(np.asarray(invariant.GROUP) == [[1, 0, 0]], axis=1))[0]
    np.testing.assert_allclose(versions[:, moved, 1:], square[:, :-1], atol=1e-6)


def test_turning_and_back_moves_a_dot_and_returns_it():
    image = jnp.zeros((12, 12)).at[5:7, 8].set(1.0)
    transform = jax.jit(invariant.transform)
    turned = transform(image, jnp.asarray(90.0), jnp.zeros(2))
    assert float(turned.sum()) == pytest.approx(2, abs=1e-4)
    assert not np.allclose(turned, image)
    back = transform(turned, jnp.asarray(-90.0), jnp.zeros(2))
    np.testing.assert_allclose(back, image, atol=1e-4)


@pytest.mark.slow
def test_the_matrix_product_is_the_energy():
    def energy(templates, x, y, z):
        return jnp.sum((x[z[0]] - templates[y, z[1]]) ** 2) / 2

    rng = np.random.default_rng(0)
    templates = jnp.asarray(rng.normal(size=(10, 3, 144)), jnp.float32)
    x = invariant.all_transformed(jnp.asarray(rng.random((4, 144)), jnp.float32))
    nodes = exact.tensor_rule(exact.Nodes(jnp.arange(27)), exact.Nodes(jnp.arange(3)))
    quick = jax.jit(invariant.free_energies)
    for beta in (0.0, 1.0, float("inf")):
        found = quick(templates, x, beta)
        for digit in (0, 7):
            slow = exact.free_energy(energy, templates, x, jnp.full(4, digit), nodes, beta)
            np.testing.assert_allclose(found[:, digit], slow, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 0}])
def test_bad_settings_end_the_invariant_matcher_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        invariant.main(invariant.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
