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

from experiments.lecture import contrastive  # noqa: E402


def only(name, setting, rate):
    """A method that tries one setting at one rate."""
    return contrastive.METHODS[name]._replace(settings=(setting,), rates=(rate,))


def test_splits_are_stratified_and_pairs_are_of_one_class_and_disjoint():
    images, data = contrastive.load((3, 4))
    label = images.label
    assert data["images"] == 1797 and len(data["checksum"]) == 64
    assert (images.test[0] != images.test[1]).any()
    for parts in zip(*images[2:], strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
        counts = np.stack([np.bincount(label[part]) for part in parts])
        np.testing.assert_allclose(
            counts / counts.sum(0)[None], [[0.6], [0.2], [0.2]] * np.ones(10), atol=0.01
        )
    batches = contrastive.draw_pairs(0, images.train[0], label, steps=5)
    assert batches.shape == (5, 80, 2) and np.isin(batches, images.train[0]).all()
    np.testing.assert_array_equal(label[batches[..., 0]], label[batches[..., 1]])
    assert all(len(np.unique(batch)) == 160 for batch in batches)


@pytest.mark.slow
def test_test_images_and_unseen_digits_have_no_part_in_training_or_in_its_settings():
    config = contrastive.Config(seeds=(0,), steps=20)
    images, _ = contrastive.load(config.seeds)
    method = contrastive.METHODS["VICReg"]._replace(rates=(3e-3,))
    hidden = images.label >= 7
    hidden[images.test[0]] = True
    assert 0.3 < hidden.mean() < 0.5
    without = images._replace(x=jnp.where(hidden[:, None], 0.5, images.x))
    case = contrastive.CASES["unseen"]
    fitted = [contrastive.fit(method, case, seen, config) for seen in (images, without)]
    jax.tree.map(np.testing.assert_array_equal, *fitted)
    assert fitted[0][1]["setting"] in method.settings


@pytest.mark.long
def test_a_small_run_beats_raw_pixels_and_only_the_energy_loss_collapses(tmp_path, monkeypatch):
    kept = {
        "InfoNCE": only("InfoNCE", 0.1, 1e-2),
        "triplet, hardest": only("triplet, hardest", 0.3, 1e-2),
        "VICReg": only("VICReg", 5, 1e-2),
        "energy loss": contrastive.METHODS["energy loss"],
    }
    monkeypatch.setattr(contrastive, "METHODS", kept)
    monkeypatch.setattr(contrastive, "CASES", {"seen": contrastive.CASES["seen"]})
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        contrastive.main(contrastive.Config(seeds=(1,), steps=150, out=out))
    saved = json.loads((out / "result.json").read_text())
    seen = saved["seen"]
    for name, figures in seen.items():
        for measure in contrastive.MEASURES:
            assert len(figures[measure]) == 1 and 0 < figures[measure][0] <= 100
        if name in kept:
            assert figures["collapsed"] == [name == "energy loss"]
    best = seen["raw pixels"]["map"][0]
    for name in kept:
        got = seen[name]["map"][0]
        assert got < best if name == "energy loss" else got > best + 15
    assert seen["InfoNCE"]["setting"] == [0.1] == saved["tried"]["InfoNCE"]["setting"]
    assert len(saved["data"]["checksum"]) == 64 and saved["seconds"] > 0
    assert "InfoNCE" in printed.getvalue()
    png = (out / "embedding.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) < 250_000


def test_seeds_must_differ(capsys):
    with pytest.raises(SystemExit):
        contrastive.main(contrastive.Config(seeds=(1, 1)))
    assert "--seeds" in capsys.readouterr().err
