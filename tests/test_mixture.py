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

from sklearn.datasets import load_digits
from sklearn.decomposition import sparse_encode

from experiments.lecture import mixture
from spen_jax import energies, inference


def some(*names):
    load = mixture.load
    return lambda seed: {name: of for name, of in load(seed).items() if name in names}


@pytest.mark.long
def test_one_code_is_k_means_and_a_gaussian_mixture_by_changing_beta(tmp_path, monkeypatch):
    monkeypatch.setattr(mixture, "load", some("iris", "drawn"))
    monkeypatch.setattr(mixture, "PATCHES", 30)
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        mixture.main(mixture.Config(steps=100, out=out))
    result = json.loads((out / "result.json").read_text())
    assert result["beyond"] == []
    inertia = result["kmeans"]["iris"]["inertia"]
    assert inertia == pytest.approx(78.85, abs=0.01)  # the known optimum
    for name in ("iris", "drawn"):
        assert result["kmeans"][name]["difference"]["assignments"] == 0
        assert result["kmeans"][name]["difference"]["centres"] < 1e-12
        assert max(result["gaussian_mixture"][name]["difference"].values()) < 1e-7
    betas = result["annealing"]["betas"]
    assert betas["inf"]["distinct_means"] == 3 and betas["0.2"]["distinct_means"] == 1
    assert betas["0.2"]["from_the_mean"] < 1e-6
    assert 0.2 < result["annealing"]["one_mean_below_beta"] < 0.32
    assert betas["0.32"]["distinct_means"] > 1
    assert result["sparse_coding"]["difference"]["codes"] < 1e-4
    assert 0.02 < result["sparse_coding"]["share_of_codes_not_0"] < 0.5
    assert (out / "annealing.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.part"))


@pytest.mark.long
@pytest.mark.slow
def test_what_differs_from_scikit_learn_ends_the_script_with_one_line(
    tmp_path, monkeypatch, capsys
):
    minimise = mixture.minimise

    def wrong(params, y, q, free):
        found = minimise(params, y, q, free)
        return found | {"log_scales": found["log_scales"] - 1e-6} if free else found

    monkeypatch.setattr(mixture, "minimise", wrong)
    monkeypatch.setattr(mixture, "load", some("drawn"))
    monkeypatch.setattr(mixture, "sparse_codes", lambda seed: {"difference": {"codes": 0.0}})
    mixture.fit.clear_cache()
    with pytest.raises(SystemExit) as stop:
        mixture.main(mixture.Config(steps=30, out=tmp_path / "run"))
    mixture.fit.clear_cache()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "gaussian_mixture drawn variances" in error
    assert "kmeans" not in error and "sparse" not in error
    beyond = json.loads((tmp_path / "run" / "result.json").read_text())["beyond"]
    assert any("drawn variances" in words for words in beyond)


@pytest.mark.slow
def test_a_component_without_rows_stays_and_the_step_minimises_the_mean_energy(x64):
    rng = np.random.default_rng(0)
    y, q = jnp.asarray(rng.normal(size=(50, 2))), jnp.asarray(rng.dirichlet(np.ones(3), 50))
    means = jnp.asarray(rng.normal(size=(3, 2)))
    params = {"means": means, "log_scales": jnp.zeros(3), "logits": jnp.zeros(3)}

    @jax.jit
    @jax.value_and_grad
    def mean_energy(params):
        of_y = jax.vmap(energies.mixture, (None, None, None, 0))
        return jnp.sum(q * jax.vmap(of_y, (None, None, 0, None))(params, None, y, jnp.arange(3)))

    lowest, slopes = mean_energy(mixture.minimise(params, y, q, free=True))
    assert max(float(np.max(np.abs(a))) for a in jax.tree.leaves(slopes)) < 1e-10
    assert float(lowest) < float(mean_energy(params)[0])
    alone = mixture.minimise(params, y, q.at[:, 2].set(0), free=False)
    assert np.array_equal(alone["means"][2], params["means"][2])
    assert np.isfinite(np.asarray(alone["means"])).all()


def test_fista_finds_the_codes_of_scikit_learn_on_images_of_digits(x64):
    images = np.asarray(load_digits(return_X_y=True)[0]) / 16
    images = images - images.mean(axis=0)[None]
    rows = np.random.default_rng(0).permutation(len(images))
    atoms, y = images[rows[:64]], images[rows[64:164]]
    atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    of = energies.reconstruction, jnp.asarray(atoms), None, jnp.asarray(y), jnp.zeros((100, 64))
    step_size = 1 / np.linalg.norm(atoms, 2) ** 2
    found = inference.fista(*of, l1=0.2, step_size=step_size, steps=6000)
    assert float(jnp.max(found.residual)) < 1e-7
    for algorithm in ("lasso_cd", "lasso_lars"):
        theirs = sparse_encode(y, atoms, algorithm=algorithm, alpha=0.2, max_iter=20_000)
        assert 0.02 < np.mean(theirs != 0) < 0.5
        np.testing.assert_allclose(found.z, theirs, atol=1e-4)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"seed": -1}])
def test_bad_settings_end_the_mixture_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        mixture.main(mixture.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
