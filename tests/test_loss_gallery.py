import contextlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("rich")
linear_model = pytest.importorskip("sklearn.linear_model")

from experiments.lecture import loss_gallery  # noqa: E402
from experiments.lecture import loss_gallery_figures as figures  # noqa: E402

pytestmark = pytest.mark.slow

SOME = ("energy", "perceptron", "hinge", "MCE")
OTHER_DATA = ("multinomial logistic", "linear SVM")
"""Machines whose code others share; each compiles for seconds."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run, but for some of the losses and machines."""
    folder = tmp_path_factory.mktemp("gallery") / "run"
    entries, printed = loss_gallery.gallery(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(loss_gallery, "gallery", lambda: {name: entries[name] for name in SOME})
        machines = {k: v for k, v in loss_gallery.MACHINES.items() if k not in OTHER_DATA}
        patch.setattr(loss_gallery, "MACHINES", machines)
        loss_gallery.main(loss_gallery.Config(out=folder))
    return folder, json.loads((folder / "result.json").read_text()), printed.getvalue()


@pytest.mark.long
def test_the_linear_machines_are_those_of_scikit_learn(run):
    _, result, printed = run
    assert {*result["agreement"], *OTHER_DATA} == set(loss_gallery.MACHINES)
    for name, found in result["agreement"].items():
        assert 0 <= found["difference"] <= found["tolerance"] <= 1e-3, name
        assert found["predictions"] == 1, name
        assert name in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_DATA)
def test_so_are_those_on_other_data(name, x64):
    compare, load, tolerance = loss_gallery.MACHINES[name]
    found = compare(*loss_gallery.standardised(load()))
    assert found["difference"] <= tolerance and found["predictions"] == 1


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


def test_every_loss_of_the_lectures_has_its_margin_and_is_lower_where_the_correct_energy_is():
    entries = loss_gallery.gallery()
    assert len(entries) == 11 and set(SOME) < set(entries)
    for name, entry in entries.items():
        assert entry.margin in figures.MARGINS
        below, above = entry.loss(*np.float32([[0.1, 2.0], [1.5, 0.2]]))
        assert below < above, name


def test_the_lowest_negative_gets_the_push_of_info_nce_and_not_of_a_sum(run):
    shares = run[1]["competition"]["shares"]
    cold, warm = shares[r"InfoNCE, $\beta = 4$"], shares[r"InfoNCE, $\beta = 1$"]
    assert cold[0] > 0.98 > 0.7 > warm[0] > 0.6
    assert shares["sum of hinges, $m = 1$"] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_the_figures_are_small_pictures(run):
    for name in ("surfaces.png", "competition.png"):
        content = (run[0] / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 300_000


@pytest.mark.parametrize(
    "found",
    [
        {"difference": 1e-5, "predictions": 1.0},
        {"difference": float("nan"), "predictions": 1.0},
        {"difference": 1e-7, "predictions": 0.99},
    ],
    ids=["far", "diverged", "other answers"],
)
def test_a_disagreement_is_written_and_ends_the_program(tmp_path, monkeypatch, capsys, found):
    good = {"difference": 1e-7, "predictions": 1.0}
    machines = {
        name: (lambda x, y, result=result: result, loss_gallery.IRIS, 1e-6)
        for name, result in {"good": good, "broken": found}.items()
    }
    monkeypatch.setattr(loss_gallery, "MACHINES", machines)
    monkeypatch.setattr(loss_gallery, "check_conditions", lambda _: {})
    for slow in ("draw_surfaces", "draw_competition"):
        monkeypatch.setattr(figures, slow, lambda *_: {})
    with pytest.raises(SystemExit) as stop:
        loss_gallery.main(loss_gallery.Config(out=tmp_path / "run"))
    assert stop.value.code == 2
    assert "broken" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["agreement"]["broken"]
