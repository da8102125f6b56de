"""Grids answer as factor graphs of the same energy do, by every method."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spen_jax as sx
from spen_jax.exact import (
    Annealing,
    BeliefPropagation,
    DualDecomposition,
    Elimination,
    Enumeration,
    FactorGraph,
    Gibbs,
    Grid,
    IntegerProgramme,
    LinearProgramme,
    MeanField,
    MinCut,
    Tables,
    TreeReweighted,
    potts,
)

pytestmark = pytest.mark.core


def both(labels=2, shape=(3, 3), batch=2, diagonals=False, seed=0, scale=1.0):
    """A grid, and the factor graph of its pixels."""
    rng = np.random.default_rng(seed)
    unary = rng.normal(size=(batch, *shape, labels))
    down, right, across = (
        scale * rng.normal(size=(batch, shape[0] - a, shape[1] - b, labels, labels))
        for a, b in ((1, 0), (0, 1), (1, 1))
    )
    grid = Grid(unary, down, right, across if diagonals else None)
    tables = [a.reshape(batch, -1, labels, labels) for a in (down, right, across)]
    pairs = grid.pairs()
    factors = [Tables(p, t) for p, t in zip(pairs, tables, strict=False)]
    return grid, FactorGraph(unary.reshape(batch, -1, labels), factors)


GRID, GRAPH = both(diagonals=True)


@cache
def exact():
    """Marginals by enumeration, and the least energies."""
    return GRAPH.by(Enumeration()).marginals(), GRAPH.by(Enumeration()).best().energy


@pytest.mark.slow
@pytest.mark.parametrize("method", [Elimination(), Enumeration()])
def test_exact_answers_are_those_of_the_factor_graph(method):
    marginals, least = exact()
    grid = GRID.by(method)
    found = grid.marginals()
    np.testing.assert_allclose(found.free_energy, marginals.free_energy, rtol=1e-5)
    np.testing.assert_allclose(
        found.nodes.reshape(marginals.nodes.shape), marginals.nodes, atol=1e-5
    )
    np.testing.assert_allclose(grid.best().energy, least, rtol=1e-5)
    several = grid.k_best(3)
    np.testing.assert_allclose(several.energy, GRAPH.k_best(3).energy, rtol=1e-5)
    assert several.y.shape == (2, 3, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [BeliefPropagation(), BeliefPropagation(schedule="colours", damping=0.0), MeanField()],
)
@pytest.mark.parametrize("labels", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_messages_and_mean_fields_are_those_of_the_factor_graph(method, labels):
    grid, graph = both(labels, seed=1)
    ours, theirs = grid.by(method).marginals(), graph.by(method).marginals()
    np.testing.assert_allclose(ours.free_energy, theirs.free_energy, rtol=1e-4)
    np.testing.assert_allclose(ours.nodes.reshape(theirs.nodes.shape), theirs.nodes, atol=1e-4)
    right = ours.links.right.reshape(theirs.links[1].shape)
    np.testing.assert_allclose(right, theirs.links[1], atol=1e-4)
    assert ours.promise_of_free_energy == theirs.promise_of_free_energy


@pytest.mark.slow
@pytest.mark.parametrize("method", [TreeReweighted(), DualDecomposition(), LinearProgramme()])
def test_no_answer_is_below_the_bound(method):
    marginals, least = exact()
    found = GRID.by(method).best()
    assert (found.bound < least + 1e-4).all() and (found.energy > least - 1e-4).all()
    np.testing.assert_allclose(GRID.energy(found.y), found.energy, rtol=1e-5)
    if not isinstance(method, LinearProgramme):
        linear = GRID.by(LinearProgramme()).best().bound
        # Chains know more than single factors: their bound is not below the linear programme's by much.
        assert (found.bound > linear - 0.02 * np.abs(linear)).all()


@pytest.mark.slow
def test_chains_give_a_lower_bound_of_the_free_energy():
    marginals, least = exact()
    found = GRID.by(TreeReweighted()).marginals()
    assert (found.free_energy < marginals.free_energy + 1e-4).all()
    assert (found.free_energy > marginals.free_energy - 1.5).all()
    np.testing.assert_allclose(
        found.nodes.reshape(marginals.nodes.shape), marginals.nodes, atol=0.25
    )


@pytest.mark.slow
def test_one_direction_alone_is_exact():
    grid, _ = both(3, (4, 5))
    rows = Grid(grid.unary, right=grid.right)
    found, exact = rows.marginals(), rows.by(Elimination()).marginals()
    assert found.promise == "exact" and found.residual.max() < 1e-4
    np.testing.assert_allclose(found.nodes, exact.nodes, atol=1e-5)
    np.testing.assert_allclose(found.free_energy, exact.free_energy, rtol=1e-5)
    np.testing.assert_allclose(rows.best().energy, rows.by(Elimination()).best().energy, rtol=1e-5)
    np.testing.assert_allclose(rows.best().gap, 0, atol=1e-4)


@pytest.mark.slow
def test_the_rest_of_the_methods_take_a_grid():
    marginals, least = exact()
    gibbs = GRID.by(Gibbs(sweeps=500)).marginals()
    np.testing.assert_allclose(
        gibbs.nodes.reshape(marginals.nodes.shape), marginals.nodes, atol=0.1
    )
    drawn = GRID.by(Gibbs(sweeps=20)).sample(jax.random.key(0), 3)
    assert drawn.y.shape == (2, 3, 3, 3) and drawn.promise == "approximate"
    for method in (Annealing(sweeps=50), IntegerProgramme()):
        np.testing.assert_allclose(GRID.by(method).best().energy, least, rtol=1e-4)
    smooth = Grid(GRID.unary, potts(0.4, 2), potts(0.4, 2))
    np.testing.assert_allclose(
        smooth.by(MinCut()).best().energy, smooth.by(Elimination()).best().energy, rtol=1e-5
    )


@pytest.mark.long
@pytest.mark.slow
def test_pixels_that_do_not_count_are_left_out_by_every_method():
    mask = jnp.asarray(np.random.default_rng(2).random((2, 3, 3)) < 0.8)
    grid, graph = both(seed=3)
    for method in (BeliefPropagation(), MeanField(), Elimination()):
        ours = grid.masked(mask).by(method)
        theirs = graph.masked(mask.reshape(2, 9)).by(method)
        np.testing.assert_allclose(ours.free_energy(), theirs.free_energy(), rtol=1e-4)
        np.testing.assert_array_equal(ours.best().y.reshape(2, 9), theirs.best().y)
        assert not ours.marginals().nodes[~mask].any()


@pytest.mark.slow
def test_the_derivative_of_a_free_energy_is_its_marginals():
    grid, _ = both(seed=4)
    shared = Grid(grid.unary, potts(0.7, 2), np.array([[0.0, 1.0], [0.5, -0.3]]))
    for method in (BeliefPropagation(), TreeReweighted(), MeanField()):
        own = shared.by(method)
        found = own.marginals()
        slope = jax.grad(lambda g: jnp.sum(g.free_energy()))(own)
        np.testing.assert_allclose(slope.unary, found.nodes, atol=1e-5)
        np.testing.assert_allclose(slope.right[0, 0], found.links.right.sum((0, 1, 2)), rtol=1e-4)


@pytest.mark.slow
def test_marginals_have_derivatives(x64):
    grid, _ = both(seed=5)
    grid = jax.tree.map(lambda a: jnp.asarray(a, float), grid)
    rng = np.random.default_rng(0)
    direction, weights = (rng.normal(size=grid.unary.shape) for _ in range(2))

    @jax.jit
    def of(t):
        return jnp.sum(weights * grid.plus(t * direction).marginals().nodes)

    want = (of(1e-4) - of(-1e-4)) / 2e-4
    np.testing.assert_allclose(jax.grad(of)(0.0), want, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(of, (0.0,), (1.0,))[1], want, rtol=1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_a_predictor_is_trained_through_beliefs():
    rng = np.random.default_rng(6)
    truth = np.kron(rng.integers(0, 2, (8, 2, 2)), np.ones((3, 3), int))
    x = (2 * truth - 1 + 1.5 * rng.normal(size=truth.shape)).astype(np.float32)
    batch = {"x": x, "y": np.eye(2, dtype=np.float32)[truth]}

    def images(params, h):
        smooth = jax.nn.softplus(params["smooth"]) * jnp.array([[0.0, 1], [1, 0]])
        unary = h[..., None] * params["w"] * jnp.array([[[1.0, -1.0]]])
        return Grid(unary, smooth, smooth, method=BeliefPropagation(steps=25))

    params = {"w": jnp.array(0.7), "smooth": jnp.array(-2.0)}
    for objective in (
        sx.objectives.maximum_likelihood(sx.Predictor.of_structure(images)),
        sx.objectives.end_to_end(sx.Predictor.of_structure(images, beta=1.0)),
        sx.objectives.max_margin(sx.Predictor.of_structure(images), cost=sx.losses.hamming),
    ):
        value, slope = jax.value_and_grad(lambda p, f=objective: f(p, batch, jax.random.key(0))[0])(
            params
        )
        assert np.isfinite(value) and slope["smooth"] < 0  # neighbours are alike
