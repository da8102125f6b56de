"""Factor graphs: exact answers against all of them, factors that count, evidence, batches, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import energy_of, every, exactly, loopy, tree
from structures import check_every_answer, check_samples

from spen_jax.exact import (
    BeliefPropagation,
    Counts,
    Elimination,
    Enumeration,
    FactorGraph,
    Tables,
    at_most_one,
    padded,
    parity,
)

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.core
BOTH = pytest.mark.parametrize("method", [Elimination(), Enumeration()], ids=["elimination", "all"])


def mixed(rng, barred=0.0):
    """Factors of all kinds over five variables of three labels."""
    energies = np.where(rng.random((4, 3, 3)) < barred, np.inf, rng.normal(size=(4, 3, 3)))
    return FactorGraph(
        rng.normal(size=(5, 3)),
        [
            Tables([[0, 1], [1, 2], [2, 3], [3, 0]], energies),
            Tables([[0, 2, 4]], rng.normal(size=(3, 3, 3))),
            Counts([[0, 1, 2, 3], [1, 4, -1, -1]], rng.normal(size=(2, 5)), value=2),
            at_most_one([[1, 2, 4]]),
            parity([[0, 3, 4]], value=0),
        ],
    )


def stacked(graphs):
    """A batch of graphs of one shape."""
    return jax.tree.map(lambda *a: jnp.stack(a), *graphs)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("beta", [0.7, np.inf])
def test_exact_methods_answer_every_question(method, beta, x64):
    rng = np.random.default_rng(1)
    graphs = [mixed(rng, barred=0.2 * i).by(method) for i in range(2)]
    answers = [every(g) for g in graphs]
    check_every_answer(stacked(graphs), answers, beta, 1e-9)


@pytest.mark.long
@pytest.mark.slow
@BOTH
def test_energies_of_factors_have_derivatives(method, x64):
    graph = mixed(np.random.default_rng(2)).by(method)
    y, energies = every(graph)
    p = np.exp(-(energies - energies.min()))
    p /= p.sum()

    def energy(factors):
        return jnp.sum(jnp.where(p > 0, p * graph.replaced(factors=factors).energy(y), 0))

    found = jax.grad(lambda f: graph.replaced(factors=f).free_energy())(graph.factors)
    want = jax.grad(energy)(graph.factors)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.slow
def test_samples_of_elimination_are_exact():
    graph = tree(np.random.default_rng(3), 4, 2)
    check_samples(graph.replaced(unary=graph.unary[None]), [every(graph)], 0.8)


COUNTS = {
    "cardinality": lambda r: Counts([range(r)], RNG.normal(size=r + 1)),
    "three or more": lambda r: Counts([range(r)], [0.3, 0.0, -1.0, 0.5]),
    "at most one": lambda r: at_most_one([range(r)]),
    "even": lambda r: parity([range(r)]),
    "odd": lambda r: parity([range(r)], odd=True),
    "modulo three": lambda r: Counts([range(r)], [0.2, -0.4, 1.0], modulo=True),
    "another value": lambda r: Counts([range(r)], RNG.normal(size=r + 1), value=2),
    "shorter": lambda r: Counts([[0, 1, 2, -1, -1]], RNG.normal(size=4)),
}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
def test_a_count_is_the_table_that_it_stands_for(kind):
    counts = COUNTS[kind](5)
    labels = 1 + max(1, counts.value)
    empty = FactorGraph(RNG.normal(size=(5, labels)))
    graph = empty.replaced(factors=(counts,))
    table = np.array(
        [
            energy_of(graph, y) - energy_of(empty, y)
            for y in itertools.product(range(labels), repeat=5)
        ]
    ).reshape((labels,) * 5)
    tabled = empty.replaced(factors=(Tables([range(5)], table[None]),))
    y = RNG.dirichlet(np.ones(labels), (3, 5)).astype(np.float32)
    if np.isfinite(table).all():
        np.testing.assert_allclose(graph.energy(y), tabled.energy(y), rtol=1e-4, atol=1e-5)
    for method in (BeliefPropagation(), Elimination()):
        ours, theirs = (g.by(method).marginals() for g in (graph, tabled))
        np.testing.assert_allclose(ours.nodes, theirs.nodes, atol=1e-5)
        np.testing.assert_allclose(ours.free_energy, theirs.free_energy, rtol=1e-5)
        assert graph.by(method).best().energy == pytest.approx(
            float(tabled.best().energy), rel=1e-5
        )
    free, nodes, least = exactly(graph)
    np.testing.assert_allclose(ours.nodes, nodes, atol=1e-5)
    np.testing.assert_allclose([ours.free_energy, graph.best().energy], [free, least], rtol=1e-5)


def test_what_is_said_of_factors_is_broadcast():
    edges, table = [[0, 1], [1, 2]], RNG.normal(size=(2, 2))
    unary = RNG.normal(size=(4, 3, 2))
    alike = [table, np.stack([table] * 2), np.broadcast_to(table, (4, 2, 2, 2)), table[None]]
    found = [FactorGraph(unary, [Tables(edges, t)]).free_energy() for t in alike]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-6)


@pytest.mark.slow
def test_evidence_leaves_the_free_energy_of_what_is_latent():
    graph = mixed(np.random.default_rng(5))
    y, energies = every(graph)
    seen = np.array([1, -1, -1, 0, -1])
    agrees = ((y == seen) | (seen < 0)).all(1)
    left = energies[agrees]
    found = graph.given(seen)
    np.testing.assert_allclose(
        found.free_energy(), left.min() - np.log(np.exp(left.min() - left).sum()), rtol=1e-5
    )
    best = found.best()
    assert (np.asarray(best.y)[seen >= 0] == seen[seen >= 0]).all()
    np.testing.assert_allclose(best.energy, left.min(), rtol=1e-5)
    batch = stacked([graph, graph]).given(np.array([[1, -1, -1, 0, -1], [-1] * 5]))
    np.testing.assert_allclose(batch.free_energy()[1], graph.free_energy(), rtol=1e-5)


@pytest.mark.slow
def test_a_variable_that_does_not_count_takes_its_factors_along():
    graph = loopy(np.random.default_rng(6), 5)
    mask = np.arange(5) != 2
    without = [i for i, scope in enumerate(graph.factors[0].where) if 2 not in scope]
    places = np.cumsum(mask) - 1
    scopes = places[graph.factors[0].where[without]]
    small = FactorGraph(
        graph.unary[mask], [Tables(scopes, graph.factors[0].energies[np.array(without)])]
    )
    for method in (Elimination(), BeliefPropagation()):
        masked, alone = graph.masked(mask).by(method), small.by(method)
        np.testing.assert_allclose(masked.free_energy(), alone.free_energy(), rtol=1e-5)
        np.testing.assert_allclose(
            masked.marginals().nodes[mask], alone.marginals().nodes, atol=1e-5
        )
        assert not masked.marginals().nodes[2].any() and masked.best().y[2] == -1
        assert (masked.best().y[mask] == alone.best().y).all()


@pytest.mark.long
@pytest.mark.slow
def test_graphs_of_different_shapes_are_padded_to_one_batch():
    rng = np.random.default_rng(7)
    graphs = [tree(rng) for _ in range(6)] + [
        FactorGraph(rng.normal(size=(4, 2)), [Counts([[0, 1, 3]], rng.normal(size=4))])
    ]
    batch = padded(graphs).by(BeliefPropagation(steps=9, damping=0.0))
    found, best = batch.marginals(), batch.best()
    for i, graph in enumerate(graphs):
        n, labels = graph.unary.shape
        free, nodes, least = exactly(graph)
        np.testing.assert_allclose(found.nodes[i, :n, :labels], nodes, atol=1e-5)
        assert not found.nodes[i, n:].any() and (best.y[i, n:] == -1).all()
        np.testing.assert_allclose([found.free_energy[i], best.energy[i]], [free, least], rtol=1e-5)
    with pytest.raises(ValueError, match="plans ahead"):
        batch.by(Elimination()).best()


@pytest.mark.long
@pytest.mark.slow
def test_belief_propagation_is_exact_on_two_hundred_trees():
    rng = np.random.default_rng(8)
    graphs = [tree(rng, scale=2.0) for _ in range(200)]
    found = padded(graphs).by(BeliefPropagation(steps=9, damping=0.0)).marginals()
    for i, graph in enumerate(graphs):
        free, nodes, _ = exactly(graph)
        n, labels = nodes.shape
        np.testing.assert_allclose(found.nodes[i, :n, :labels], nodes, atol=1e-5)
        np.testing.assert_allclose(found.free_energy[i], free, rtol=1e-5)


def test_scopes_may_be_traced_and_then_nothing_compiles_anew():
    traces = []

    @jax.jit
    def free(unary, scopes, energies):
        traces.append(1)
        graph = FactorGraph(unary, [Tables(scopes, energies)], method=BeliefPropagation())
        return graph.free_energy()

    rng = np.random.default_rng(9)
    for _ in range(3):
        graph = tree(rng, 5, 2)
        found = free(graph.unary, jnp.array(graph.factors[0].where), graph.factors[0].energies)
        np.testing.assert_allclose(found, exactly(graph)[0], rtol=1e-5)
    assert len(traces) == 1


def test_the_width_is_said_before_a_table_is_made():
    n = 12
    graph = FactorGraph(
        np.zeros((n, 8)), [Tables(list(itertools.combinations(range(n), 2)), np.zeros((8, 8)))]
    )
    order = Elimination().order(graph)
    assert (order.width, order.cost) == (11, 36.0)
    with pytest.raises(
        ValueError, match=r"tree width is 11 .* 2\^36 entries .* more than the limit"
    ):
        graph.best()
    with pytest.raises(ValueError, match=r"10\^10.8 answers"):
        graph.by(Enumeration()).free_energy()
    chain = FactorGraph(
        np.zeros((30, 8)), [Tables([[i, i + 1] for i in range(29)], np.zeros((8, 8)))]
    )
    assert Elimination().order(chain).width == 1


@pytest.mark.parametrize("method", [Elimination(), Enumeration(), BeliefPropagation()])
def test_where_nothing_is_allowed_the_result_says_so(method):
    barred = FactorGraph(
        np.zeros((2, 3, 2)),
        [Tables([[0, 1], [1, 2]], np.stack([np.full((2, 2, 2), np.inf), np.zeros((2, 2, 2))]))],
    ).by(method)
    found, best = barred.marginals(), barred.best()
    np.testing.assert_allclose(found.free_energy, [np.inf, -np.log(8)], rtol=1e-6)
    assert (best.y[0] == -1).all() and best.energy[0] == np.inf and best.energy[1] == 0
    np.testing.assert_allclose(found.nodes, np.stack([np.zeros((3, 2)), np.full((3, 2), 0.5)]))
    gradient = jax.grad(lambda u: barred.replaced(unary=u).free_energy()[1])(barred.unary)
    np.testing.assert_allclose(gradient, found.nodes)


def test_no_examples_have_answers_of_none():
    graph = FactorGraph(np.zeros((0, 3, 2)), [Tables([[0, 1]], np.zeros((2, 2)))])
    for method in (Elimination(), BeliefPropagation()):
        own = graph.by(method)
        assert own.best().y.shape == (0, 3) and own.marginals().nodes.shape == (0, 3, 2)
        assert own.free_energy().shape == (0,)


def test_a_graph_passes_through_vmap_and_without_factors():
    graph = stacked([loopy(np.random.default_rng(i), 4, degree=2.0).replaced() for i in [3, 3]])
    alone = jax.vmap(lambda g: g.free_energy())(graph)
    np.testing.assert_allclose(alone, graph.free_energy(), rtol=1e-6)
    none = FactorGraph(np.zeros((4, 3)))
    for method in (Elimination(), BeliefPropagation()):
        np.testing.assert_allclose(none.by(method).free_energy(), -4 * np.log(3), rtol=1e-6)
        assert none.by(method).best().energy == 0


def pairs(**changed):
    given = {"scopes": [[0, 1]], "energies": np.zeros((2, 2)), "unary": np.zeros((3, 2))} | changed
    return FactorGraph(given["unary"], [Tables(given["scopes"], given["energies"])])


WRONG = {
    "needs a variable": lambda: FactorGraph(np.zeros((0, 2))),
    "last axes": lambda: FactorGraph(np.zeros(3)),
    "which forbids, got nan": lambda: FactorGraph([[0.0, np.nan]]),
    "name variables 0 to 2, got 0 to 3": lambda: pairs(scopes=[[0, 3]]),
    "got -1 to 0": lambda: pairs(scopes=[[0, -1]]),
    "names a variable twice": lambda: pairs(scopes=[[1, 1]]),
    "must be of shape \\(2, 2\\)": lambda: pairs(energies=np.zeros((3, 3))),
    "one row of variables": lambda: pairs(scopes=[0, 1]),
    "must hold a factor": lambda: pairs(scopes=np.zeros((0, 2), int)),
    "whole numbers": lambda: pairs(scopes=[[0.0, 1.0]]),
    "numbers of size up to 1e\\+15": lambda: pairs(energies=[[0, np.nan], [0, 0]]),
    "got -inf at \\(0, 1, 0\\)": lambda: pairs(energies=[[0, 0], [-np.inf, 0]]),
    "Tables\\(scopes, energies\\) or Counts, got tuple": lambda: FactorGraph(
        np.zeros((2, 2)), [([0], 1)]
    ),
    "2 to 3 energies": lambda: FactorGraph(np.zeros((2, 2)), [Counts([[0, 1]], np.zeros(4))]),
    "a value from 0 to 1": lambda: FactorGraph(
        np.zeros((2, 2)), [Counts([[0, 1]], [0, 1], value=2)]
    ),
    "names no variable": lambda: FactorGraph(np.zeros((2, 2)), [Counts([[-1, -1]], [0, 1])]),
    "mask must be booleans": lambda: FactorGraph(np.zeros((2, 2)), mask=[1, 0]),
    "evidence must be whole": lambda: pairs().given([0.0, 1.0, 0.0]),
    "labels from 0 to 1": lambda: pairs().given([0, 2, -1]),
    "needs a factor graph or more": lambda: padded([]),
    "axes of a batch": lambda: padded([FactorGraph(np.zeros((2, 3, 2)))]),
    "steps must be a whole number": lambda: BeliefPropagation(steps=0),
    "damping must be": lambda: BeliefPropagation(damping=1.0),
    "schedule must be": lambda: BeliefPropagation(schedule="round"),
    "has no samples: ask another": lambda: (
        pairs().by(BeliefPropagation()).sample(jax.random.key(0))
    ),
    "the k best are answered": lambda: pairs().by(BeliefPropagation()).k_best(2),
    "y must be answers of shape": lambda: pairs().energy(np.zeros(2, int)),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input_is_refused_in_words(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
