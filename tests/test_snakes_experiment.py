"""The experiment on snakes: its grids, one energy read in two ways, and a run on few grids."""

import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from experiments.structure import (  # noqa: E402
    snakes,
    snakes_data,
    snakes_figures,
    snakes_inference,
    snakes_models,
    snakes_pairwise,
)
from spen_jax.exact import BeliefPropagation, Elimination, Grid  # noqa: E402

GRIDS = snakes_data.generate(np.random.default_rng(0), 30)


def random_params(seed, seeing=True):
    leaves, form = jax.tree.flatten(snakes_pairwise.init(seeing))
    rng = np.random.default_rng(seed)
    return form.unflatten([jnp.float32(0.3 * rng.normal(size=a.shape)) for a in leaves])


def test_a_snake_can_be_followed_by_its_colours():
    colours = GRIDS.x.argmax(-1)
    for labels, colour in zip(GRIDS.labels, colours, strict=True):
        assert sorted(labels[labels > 0]) == list(range(1, 11))
        np.testing.assert_array_equal(labels > 0, colour != snakes_data.BACKGROUND)
        at = np.argwhere(labels == 1)[0]
        for place in range(1, 11):
            assert labels[tuple(at)] == place
            at = at + snakes_data.MOVES[colour[tuple(at)]]
        assert labels[tuple(at)] == 0


def test_the_box_is_the_smallest_rectangle_with_a_pixel_around():
    for labels, box in zip(GRIDS.labels, GRIDS.box, strict=True):
        rows, columns = np.nonzero(labels)
        around = np.zeros_like(box)
        around[rows.min() - 1 : rows.max() + 2, columns.min() - 1 : columns.max() + 2] = True
        np.testing.assert_array_equal(box, around)


def test_equal_seeds_draw_equal_grids_and_others_do_not():
    again = snakes_data.generate(np.random.default_rng(0), 30)
    np.testing.assert_array_equal(again.x, GRIDS.x)
    config = snakes.Config(quick=True)
    learnt, tested = snakes.drawn(config, 0)
    assert len(learnt.x) == 20 and len(tested.x) == 10
    held = snakes.drawn(snakes.Config(quick=True, grids="validation"), 0)[1]
    assert not np.array_equal(tested.x, held.x)


def test_windows_are_three_by_three_pixels_with_background_beyond_the_edge():
    w = np.asarray(snakes_data.windows(jnp.asarray(GRIDS.x[:2]))).reshape(2, 10, 12, 3, 3, 5)
    np.testing.assert_array_equal(w.sum(-1), 1)
    assert w[:, 0, :, 0, :, snakes_data.BACKGROUND].all()
    np.testing.assert_array_equal(w[:, :, :, 1, 1], GRIDS.x[:2])
    np.testing.assert_array_equal(w[:, 1:, 1:, 0, 0], GRIDS.x[:2, :-1, :-1])


def test_what_is_right_is_counted_in_boxes_on_snakes_and_by_grids():
    assert snakes_data.judged(GRIDS.labels, GRIDS) == (100, 100, 100)
    nothing = snakes_data.judged(np.zeros_like(GRIDS.labels), GRIDS)
    share = 1 - (GRIDS.labels > 0).sum() / GRIDS.box.sum()
    np.testing.assert_allclose(nothing, (100 * share, 0, 0))
    assert snakes.by_place(np.zeros_like(GRIDS.labels), GRIDS) == [0] * 10


@pytest.mark.slow
def test_the_energy_of_gradients_is_that_of_the_grid():
    params = random_params(1)
    context = jax.tree.map(lambda a: a[0], snakes_pairwise.features(params, GRIDS.x[:1]))
    grid = snakes_pairwise.grid_by(BeliefPropagation())(params, context)
    y = jax.nn.softmax(jax.random.normal(jax.random.key(0), (10, 12, 11)))
    np.testing.assert_allclose(
        snakes_pairwise.energy(params, context, y), grid.energy(y), rtol=1e-4
    )


@pytest.mark.slow
def test_objections_are_parts_of_the_difference_of_energies():
    truth = GRIDS.labels[0]
    answer = np.where(truth == 4, 5, truth)
    for seeing in (True, False):
        params = random_params(2, seeing)
        parts = snakes_figures.objections(params, GRIDS.x[0], answer, truth)
        context = jax.tree.map(lambda a: a[0], snakes_pairwise.features(params, GRIDS.x[:1]))
        grid = snakes_pairwise.grid_by(BeliefPropagation())(params, context)
        whole = grid.energy(jnp.asarray(answer)) - grid.energy(jnp.asarray(truth))
        np.testing.assert_allclose(sum(a.sum() for a in parts.values()), whole, atol=1e-3)


@pytest.mark.slow
def test_messages_that_begin_at_mean_field_are_exact_on_a_row():
    rng = np.random.default_rng(3)
    row = Grid(rng.normal(size=(1, 5, 3)), right=rng.normal(size=(1, 4, 3, 3)))
    found = row.by(snakes_inference.FromMeanField()).marginals().nodes
    np.testing.assert_allclose(found, row.by(Elimination()).marginals().nodes, atol=1e-4)


@pytest.mark.slow
def test_iterates_without_ties_have_weights_for_each_step():
    x = GRIDS.x[:1]
    tied, untied = (snakes_models.Iterated(3, tied=tied) for tied in (True, False))
    params = [module.init(jax.random.key(0), x)["params"] for module in (tied, untied)]
    assert params[0]["W_1"].shape[0] == 1 and params[1]["W_1"].shape[0] == 3
    shared = jax.tree.map(lambda a: jnp.repeat(a, 3, 0), params[0]) | {"alone": params[0]["alone"]}
    paths = [tied.apply({"params": params[0]}, x, method="path")]
    paths.append(untied.apply({"params": shared}, x, method="path"))
    assert paths[0].shape == (4, 1, 10, 12, 11)
    np.testing.assert_allclose(*paths, rtol=1e-4, atol=1e-5)


def run(out, **settings):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        snakes.main(snakes.Config(quick=True, seeds=(0,), out=out, **settings))
    return json.loads((out / "result.json").read_text()), said.getvalue()


@pytest.mark.long
@pytest.mark.slow
def test_what_is_asked_for_is_trained_judged_and_drawn(tmp_path):
    result, said = run(
        tmp_path / "run", models=("unaries", "likelihood", "blind"), inferences=False
    )
    assert {*result["right"]} == {"unaries", "likelihood", "blind"} and "Bethe" in said
    for right in result["right"].values():
        assert len(right["pixels"]) == 1 and len(right["places"][0]) == 10
    for name in ("snakes-places.png", "snakes-objections.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_all_models_and_inferences_run(tmp_path):
    result, _ = run(tmp_path / "run")
    assert {*result["inferences"]} == set(snakes.WEIGHTS)
    for found in result["inferences"].values():
        assert {*snakes_inference.ANSWERS} < {*found}
        assert min(of["above"][0] for of in found.values()) < 1e-3
    assert (tmp_path / "run" / "snakes-steps.png").read_bytes().startswith(b"\x89PNG")
