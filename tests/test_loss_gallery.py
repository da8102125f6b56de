import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("rich")
pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import loss_gallery  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run, but for the conditions of some losses."""
    folder = tmp_path_factory.mktemp("gallery") / "run"
    check, printed = loss_gallery.check_conditions, io.StringIO()

    def check_some(entries):
        return check({name: entries[name] for name in ("energy", "perceptron", "hinge", "MCE")})

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(loss_gallery, "check_conditions", check_some)
        loss_gallery.main(loss_gallery.Config(epochs=5, out=folder))
    return folder, json.loads((folder / "result.json").read_text()), printed.getvalue()


def test_the_linear_machines_are_those_of_scikit_learn(run):
    _, result, printed = run
    assert set(result["agreement"]) == set(loss_gallery.MACHINES)
    for name, found in result["agreement"].items():
        assert 0 <= found["difference"] <= found["tolerance"] <= 1e-3, name
        assert found["predictions"] == 1, name
        assert name in printed
    for name in ("linear SVM", "SVM on Gaussian bumps"):
        hinge = result["agreement"][name]["hinge_objective"]
        assert hinge["spen_jax"] == pytest.approx(hinge["scikit_learn"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "margin", "tested", "minima", "descends"),
    [
        ("energy", "none", 0.1, False, True),
        ("perceptron", "0", 0.1, False, False),
        ("hinge", "m", 1, True, True),
        ("MCE", "positive", 0.1, True, True),
    ],
)
def test_the_conditions_are_those_of_the_lecture(run, name, margin, tested, minima, descends):
    row = run[1]["conditions"][name]
    assert (row["margin"], row["tested"]) == (margin, tested)
    assert row["any_sign"] == row["at_least_0"] == {"minima": minima, "descends": descends}
    # A classifier's costs share no weight, so that condition 3 is condition 2.
    assert row["in_weights_classifier"] == descends
    assert 0 <= row["in_weights_implicit"] <= 1


def test_the_lowest_negative_gets_the_push_of_info_nce_and_not_of_a_sum(run):
    shares = run[1]["competition"]["shares"]
    cold, warm = shares["InfoNCE, $t = 1/4$"], shares["InfoNCE, $t = 1$"]
    assert cold[0] > 0.98 > 0.7 > warm[0] > 0.6
    assert shares["sum of hinges, $m = 1$"] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_the_figures_are_small_pictures(run):
    for name in ("surfaces.png", "competition.png"):
        content = (run[0] / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 300_000


def test_a_machine_that_differs_is_named():
    good = {"difference": 1e-7, "tolerance": 1e-6, "predictions": 1.0}
    found = {
        "good": good,
        "far": good | {"difference": 1e-5},
        "diverged": good | {"difference": float("nan")},
        "other answers": good | {"predictions": 0.99},
    }
    assert loss_gallery.disagreements(found) == ["far", "diverged", "other answers"]


def test_a_disagreement_ends_the_program(tmp_path, monkeypatch, capsys):
    def wrong(_):
        return loss_gallery.Machines([1.0, 2.0], [1.0, 2.1], [1, 1], [1, 1])

    monkeypatch.setattr(loss_gallery, "MACHINES", {"broken": (wrong, 1e-3)})
    for slow in ("draw_surfaces", "draw_competition", "check_conditions"):
        monkeypatch.setattr(loss_gallery, slow, lambda *_: {})
    with pytest.raises(SystemExit) as stop:
        loss_gallery.main(loss_gallery.Config(out=tmp_path / "run"))
    assert stop.value.code == 2
    assert "broken" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["agreement"]["broken"]


def test_a_strength_of_0_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        loss_gallery.main(loss_gallery.Config(strength=0.0, out=tmp_path / "run"))
    assert "--strength" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
