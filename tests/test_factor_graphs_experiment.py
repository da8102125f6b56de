import contextlib
import io
import itertools
import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from experiments.structure import (  # noqa: E402
    factor_graphs,
    factor_graphs_grids,
    factor_graphs_image,
    factor_graphs_learning,
    factor_graphs_random,
    factor_graphs_tables,
)
from spen_jax.exact import BeliefPropagation, LinearProgramme, MeanField, MinCut  # noqa: E402

SIZES = factor_graphs_random.Sizes(edges=1, draws=2, variables=5, starts=3)


def run(out, **settings):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        factor_graphs.main(factor_graphs.Config(quick=True, out=out, **settings))
    return json.loads((out / "result.json").read_text()), (out / "tables.md").read_text()


def test_all_answers_one_by_one_are_those_of_the_library():
    graphs = factor_graphs_random.drawn(0, 3, SIZES)
    truth = factor_graphs_random.enumerated(graphs)
    assert truth.energies.shape == (6, 32) and graphs.by_scale(truth.least).shape == (3, 2)
    every = np.array(list(itertools.product(range(2), repeat=5)))
    for rows in graphs.alike():
        field = graphs.field(rows)
        found = field.marginals()
        np.testing.assert_allclose(found.free_energy, truth.free[rows], rtol=1e-4)
        np.testing.assert_allclose(found.nodes[..., 1], truth.nodes[rows], atol=1e-4)
        best = field.best()
        np.testing.assert_allclose(best.energy, truth.least[rows], rtol=1e-4)
    np.testing.assert_array_equal(factor_graphs_random.places(every), np.arange(32))
    lowest = every[truth.energies.argmin(1)]
    np.testing.assert_array_equal(truth.energy(lowest), truth.least)
    changed = truth.changed(every[None].repeat(6, 0))
    assert (changed <= truth.energies).all()
    np.testing.assert_array_equal(changed.min(1), truth.least)


def test_a_bound_on_the_wrong_side_is_counted():
    graphs = factor_graphs_random.drawn(0, 3, SIZES)
    truth = factor_graphs_random.enumerated(graphs)
    exact = factor_graphs_random.of_best(graphs, truth, truth.least, truth.least)
    assert (exact["certified"] == 100).all() and (exact["optimal"] == 100).all()
    worse = factor_graphs_random.of_best(graphs, truth, truth.least + 1, truth.least + 1)
    assert (worse["violated"] == 2).all() and (worse["certified_wrongly"] == 2).all()
    result = {"random": {"3": {"best": {"a": worse, "b": exact}, "marginals": {}}}}
    assert factor_graphs.beyond(result) == 12


@pytest.mark.long
def test_random_graphs_end_in_tables_and_figures(tmp_path, monkeypatch):
    best = {"linear programme": (LinearProgramme(), True), "mean field": (MeanField(), False)}
    monkeypatch.setattr(factor_graphs_random, "BEST", best)
    monkeypatch.setattr(factor_graphs_random, "MARGINALS", {"mean field": (MeanField(), False)})
    monkeypatch.setattr(factor_graphs_random, "DEGREES", (3, 2))
    monkeypatch.setattr(factor_graphs_random, "STEPS", 20)
    monkeypatch.setattr("experiments.structure.factor_graphs_figures.BOUNDS", {})
    monkeypatch.setattr("experiments.structure.factor_graphs_figures.ENERGIES", {})
    result, tables = run(tmp_path / "run", parts=("random",))
    of = result["random"]["3"]
    assert of["best"]["linear programme"]["violated"] == [0, 0, 0]
    assert of["marginals"]["mean field"]["wrong_side"] == [0, 0, 0] and "mirror descent" in tables
    for name in ("graphs-marginals.png", "graphs-bounds.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_a_picture_is_restored_by_an_energy_learnt_on_others(tmp_path, monkeypatch):
    monkeypatch.setattr(factor_graphs_image, "BEST", {"minimum cut": MinCut()})
    monkeypatch.setattr(factor_graphs_image, "LIKELIEST", {"likeliest": BeliefPropagation()})
    monkeypatch.setattr(factor_graphs_learning, "PIXELS", 20)
    only = {"Bethe likelihood": factor_graphs_learning.by_messages}
    monkeypatch.setattr(factor_graphs_learning, "BY", only)
    result, _ = run(tmp_path / "run", parts=("image",), seeds=(0, 1))
    methods = result["image"]["methods"]
    assert np.allclose(methods["minimum cut"]["above"], 0, atol=1e-3)
    assert all(min(of["above"]) > -1e-3 for of in methods.values())
    assert min(methods["each pixel alone"]["above"]) > 1
    assert set(result["image"]["learnt"]) == {"Bethe likelihood", "pseudo-likelihood"}
    assert (tmp_path / "run" / "graphs-picture.png").exists()


@pytest.mark.long
def test_grids_end_in_tables_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(factor_graphs_grids, "KINDS", {"mixed": None})
    schedules = {"undamped": BeliefPropagation(damping=0.0), "damped": BeliefPropagation()}
    monkeypatch.setattr(factor_graphs_grids, "SCHEDULES", schedules)
    result, tables = run(tmp_path / "run", parts=("potts", "schedules"), seeds=(0, 1))
    mixed = result["potts"]["mixed"]
    assert mixed["certain"] == [True, True]
    assert min(mixed["methods"]["tree-reweighted"]["bound"]) > -1e-2
    weak = np.array(result["schedules"]["undamped"]["error"])[0]
    assert weak.max() < 0.01 and "settled" in tables
    assert (tmp_path / "run" / "graphs-schedules.png").exists()


def test_the_picture_and_those_to_learn_from_have_both_colours():
    assert 0.2 < factor_graphs_image.picture().mean() < 0.6
    assert 0.03 < factor_graphs_image.shapes(0, 3).mean() < 0.6
    noise = factor_graphs_image.seen(np.zeros((64, 64), int), 0).mean()
    assert abs(noise - factor_graphs_image.NOISE) < 0.03


def test_tables_say_numbers_that_are_alike_once():
    assert factor_graphs_tables.several([0.001, -0.001], "+.1f") == "0.0"
    assert factor_graphs_tables.several([1, 2], ".0f") == "1 / 2"
    assert factor_graphs_tables.spread([1.0, 3.0], ".1f") == "2.0 ± 1.4"
    table = factor_graphs_tables.markdown({"a": {"x": "1"}, "b": {"y": "2"}}, "of")
    assert table == "| of | x | y |\n|---|---|---|\n| a | 1 |  |\n| b |  | 2 |\n"


def test_labels_that_differ_cost_the_coupling():
    params = {"w": 1.0, "c": 0.5, "d": 0.25}
    x = np.zeros((3, 3), int)
    y = np.eye(2, dtype=np.float32)[np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])]
    energy = factor_graphs_image.grid(params, x).energy(y)
    np.testing.assert_allclose(energy, 1.0 + 4 * 0.5 + 4 * 0.25, rtol=1e-6)
