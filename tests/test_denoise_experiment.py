"""The experiment with denoising: its data, its problems, and a run of all of it on few small images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.structure import denoise, denoise_data, denoise_models, denoise_problems
from spen_jax.metrics import psnr
from spen_jax.training import checkpoints


def test_photographs_to_learn_choose_and_test_on_are_different_ones(tmp_path):
    grey = np.linspace(0, 255, 80 * 1000).reshape(80, 1000).astype(np.uint8)
    grey = np.vstack([grey, grey[::-1]])
    Image.fromarray(grey).save(tmp_path / "wide.png")
    Image.fromarray(grey[:10, :10]).save(tmp_path / "small.png")
    found = denoise_data.photographs()
    (tmp_path / "more").mkdir()
    Image.fromarray(grey.T).save(tmp_path / "more" / "tall.png")
    more = denoise_data.of_folder(tmp_path)
    assert [image.shape for image in more] == [(720, 115), (115, 720)]
    assert found.chosen.shape == (2, 256, 256) and found.tested.shape == (4, 256, 256)
    for image in found.learned:
        assert image.min() >= 0 and image.max() <= 1 and min(image.shape) >= 64
    held = [*found.chosen, *found.tested]
    assert not any(
        np.array_equal(denoise_data.middle(a), b) for a in found.learned[:3] for b in held
    )


def test_a_folder_without_photographs_is_said(tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        denoise_data.of_folder(tmp_path)
    assert "broken.png" in capsys.readouterr().err
    (tmp_path / "broken.png").unlink()
    with pytest.raises(SystemExit):
        denoise_data.of_folder(tmp_path)
    assert "holds no photograph" in capsys.readouterr().err


def test_problems_hide_and_blur_what_they_say():
    images = denoise_data.digits(4).tested
    half = denoise_problems.measured("half_missing", images)
    assert 0.45 < np.mean(half.seen) < 0.55
    holes = np.asarray(denoise_problems.measured("holes", images).seen)
    assert (holes.sum((1, 2)) == 32 * 32 - 25 * 3 * 3).all()
    again = denoise_problems.measured("blur", images)
    np.testing.assert_array_equal(again.image, denoise_problems.measured("blur", images).image)
    assert abs(denoise_problems.kernel().sum() - 1) < 1e-9


def test_all_models_start_with_the_parameters_that_they_say():
    import jax

    key = jax.random.key(0)
    sizes = {
        name: sum(a.size for a in jax.tree.leaves(jax.eval_shape(model.init, key)))
        for name, model in denoise_models.models().items()
    }
    assert sizes["energy"] == sizes["residual"] == 115_268
    assert sizes["tied"] == sizes["energy"] + 6 and sizes["energy3"] == sizes["energy"] + 3
    assert sizes["untied"] == 3 * sizes["energy"] + 6


@pytest.mark.long
@pytest.mark.slow
def test_the_whole_experiment_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(denoise_problems, "STEPS", 10)
    monkeypatch.setattr(denoise_problems, "VARIATION_STEPS", 10)
    config = denoise.Config(quick=True, models=("energy", "residual"), out=tmp_path / "run")
    result = denoise.main(config)
    said = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {"energy", "residual", "total_variation", "non_local_means"} <= {*said["psnr"]["75"]}
    assert said["psnr"]["15"]["noisy"] == pytest.approx(result["psnr"]["15"]["noisy"])
    assert {"energy", "residual", "biharmonic"} <= {*said["half_missing"]}
    assert len(said["how"]["holes"]["energy"]["residual_of_255"][0]) == 4
    for name in ("noise", "problems", "objections", "steps"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 5000
    config = denoise.Config(
        quick=True, weights=(tmp_path / "run" / "energy-0.spen",), out=tmp_path / "again"
    )
    again = denoise.main(config)
    assert again["psnr"]["25"]["energy"] == pytest.approx(result["psnr"]["25"]["energy"])


def test_weights_of_another_kind_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        denoise.main(
            denoise.Config(quick=True, weights=(tmp_path / "none.spen",), out=tmp_path / "a")
        )
    assert "none.spen" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        denoise.main(denoise.Config(models=("deep",), out=tmp_path / "b"))
    assert "--models knows" in capsys.readouterr().err


@pytest.mark.slow
def test_the_weights_that_come_along_clean_as_the_page_says():
    params, meta = checkpoints.load(Path(denoise.__file__).parent / "denoise_energy.spen")
    model = denoise_models.models()[meta["model"]]
    image = denoise_data.photographs().tested[:1]
    for level, at_least in ((25, 29.4), (75, 23.9)):
        seen = denoise_data.noisy(image, level)
        assert psnr(np.clip(model.denoise(params, seen, level / 255), 0, 1), image) > at_least
