import contextlib
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
ranking = pytest.importorskip("sklearn.metrics")
sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import contrastive  # noqa: E402


def test_retrieval_is_scikit_learns_average_precision_and_counts_the_first_ten():
    rng = np.random.default_rng(0)
    energies = np.float32(rng.permuted(np.arange(12 * 40)).reshape(12, 40))
    relevant = rng.random((12, 40)) < 0.3
    relevant[:, 0] = True
    found = jax.jit(contrastive.retrieval)(energies, relevant)
    want = ranking.average_precision_score(relevant, -energies, average="samples")
    np.testing.assert_allclose(found["map"], want, rtol=1e-5)
    order = np.argsort(energies, axis=1)
    first = [hits[best] for hits, best in zip(relevant, order, strict=True)]
    assert found["accuracy_at_1"] == pytest.approx(np.mean([hits[0] for hits in first]))
    assert found["precision_at_10"] == pytest.approx(np.mean([hits[:10] for hits in first]))


def test_splits_are_stratified_and_pairs_are_of_one_class_and_disjoint():
    images, rows, data = contrastive.load((3, 4))
    label = np.asarray(images.label)
    assert data["images"] == 1797 and (rows.test[0] != rows.test[1]).any()
    for parts in zip(*rows, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
        counts = np.stack([np.bincount(label[part]) for part in parts])
        np.testing.assert_allclose(
            counts / counts.sum(0)[None], [[0.6], [0.2], [0.2]] * np.ones(10), atol=0.01
        )
    batches = contrastive.draw_pairs(0, rows.train[0], label, steps=5, count=4)
    assert batches.shape == (5, 40, 2) and np.isin(batches, rows.train[0]).all()
    np.testing.assert_array_equal(label[batches[..., 0]], label[batches[..., 1]])
    assert all(len(np.unique(batch)) == 80 for batch in batches)


def test_test_images_and_unseen_digits_have_no_part_in_training_or_in_its_settings():
    config = contrastive.Config(seeds=(0,), steps=30, width=16, dimension=4)
    images, rows, _ = contrastive.load(config.seeds)
    method = contrastive.methods(contrastive.network_of(config))["VICReg"]
    case = contrastive.CASES["unseen"]
    hidden = np.asarray(images.label) >= 7
    hidden[rows.test[0]] = True
    assert 0.3 < hidden.mean() < 0.5
    without = images._replace(x=jnp.where(hidden[:, None], 0.5, images.x))
    fitted = [contrastive.fit(method, case, rows, seen, config) for seen in (images, without)]
    jax.tree.map(np.testing.assert_array_equal, *fitted)
    assert fitted[0][1].setting in contrastive.SETTINGS["covariance"]


def test_a_small_run_beats_raw_pixels_and_only_the_energy_loss_collapses(tmp_path, monkeypatch):
    all_methods = contrastive.methods
    kept = ("InfoNCE", contrastive.TRIPLET, "VICReg", "energy loss")
    monkeypatch.setattr(
        contrastive, "methods", lambda network: {k: all_methods(network)[k] for k in kept}
    )
    monkeypatch.setattr(contrastive, "CASES", {"seen": contrastive.CASES["seen"]})
    one_each = {"temperature": (0.1,), "margin": (0.3,), "covariance": (5,)}
    monkeypatch.setattr(contrastive, "SETTINGS", one_each)
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        contrastive.main(contrastive.Config(seeds=(1,), steps=150, width=64, out=out))
    saved = json.loads((out / "result.json").read_text())
    seen = saved["seen"]
    for name, figures in seen.items():
        for metric in contrastive.METRICS:
            assert len(figures[metric]) == 1 and 0 < figures[metric][0] <= 100
        if name in kept:
            assert figures["collapsed"] == [name == "energy loss"]
    for name in ("InfoNCE", contrastive.TRIPLET, "VICReg"):
        assert seen[name]["map"][0] > seen["raw pixels"]["map"][0] + 15
    assert seen["energy loss"]["map"][0] < seen["raw pixels"]["map"][0]
    assert seen["InfoNCE"]["setting"] == [0.1] == saved["tried"]["temperature"]
    assert len(saved["data"]["checksum"]) == 64 and saved["seconds"] > 0
    assert "mAP: 3 of 4 losses above raw pixels" in printed.getvalue()
    for figure in ("embedding", "retrieval", "energies"):
        png = (out / f"{figure}.png").read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) < 250_000


def test_seeds_must_differ(capsys):
    with pytest.raises(SystemExit):
        contrastive.main(contrastive.Config(seeds=(1, 1)))
    assert "--seeds" in capsys.readouterr().err
