"""Methods on the host, and graphs of files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import exactly, loopy, tree

import spen_jax as sx
from spen_jax.exact import (
    Counts,
    Elimination,
    FactorGraph,
    IntegerProgramme,
    LinearProgramme,
    MinCut,
    Tables,
    at_most_one,
    padded,
    parity,
)

pytestmark = pytest.mark.core


def attractive(rng, n=10, batch=3):
    """Binary pairs that want to agree, a batch."""
    edges = [(i, j) for i in range(n) for j in range(i) if rng.random() < 0.4]
    energies = rng.normal(size=(batch, len(edges), 2, 2))
    wants = energies[..., 0, 0] + energies[..., 1, 1] - energies[..., 0, 1] - energies[..., 1, 0]
    energies[..., 0, 1] += np.maximum(wants, 0)
    return FactorGraph(2 * rng.normal(size=(batch, n, 2)), [Tables(edges, energies)])


@pytest.mark.slow
def test_a_minimum_cut_is_the_least_energy():
    graph = attractive(np.random.default_rng(0))
    found, exact = graph.by(MinCut()).best(), graph.best()
    assert (found.y == exact.y).all() and found.promise == "exact" and (found.gap == 0).all()
    jitted = jax.jit(lambda g: g.by(MinCut()).best())(graph)
    np.testing.assert_array_equal(jitted.y, found.y)
    mapped = jax.vmap(lambda u: graph.replaced(unary=u).by(MinCut()).best().energy)(
        jnp.stack([graph.unary, 2 * graph.unary])
    )
    np.testing.assert_allclose(mapped[0], found.energy, rtol=1e-6)


def test_the_energy_of_a_cut_has_the_derivative_of_its_answer():
    graph = attractive(np.random.default_rng(1)).by(MinCut())
    slope = jax.grad(lambda u: jnp.sum(graph.replaced(unary=u).best().energy))(graph.unary)
    np.testing.assert_array_equal(slope, graph.one_hot(graph.best().y))


def test_max_margin_learns_through_cuts():
    rng = np.random.default_rng(2)
    truth = np.repeat(rng.integers(0, 2, (40, 1)), 4, 1)
    x = (2 * truth - 1 + 2 * rng.normal(size=truth.shape)).astype(np.float32)
    batch = {"x": x, "y": np.eye(2, dtype=np.float32)[truth]}
    ring = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])

    def structure(params, h):
        coupling = jax.nn.softplus(params["c"]) * jnp.array([[0.0, 1], [1, 0]])
        return FactorGraph(
            h[:, None] * jnp.array([[0.3, -0.3]]), [Tables(ring, coupling)], method=MinCut()
        )

    predictor = sx.Predictor.of_structure(structure)
    objective = sx.objectives.max_margin(predictor, cost=sx.losses.hamming)
    slope = jax.jit(jax.grad(lambda p: objective(p, batch, jax.random.key(0))[0]))(
        {"c": jnp.array(-2.0)}
    )
    assert slope["c"] < 0  # neighbours should agree more
    assert (predictor({"c": jnp.array(2.0)}, x).y.argmax(-1) == truth).mean() > 0.85


@pytest.mark.long
@pytest.mark.slow
def test_programmes_bound_and_are_exact_with_whole_numbers():
    rng = np.random.default_rng(3)
    graphs = [loopy(rng, 8, 3, 2.0), tree(rng, 7, 3)]
    graphs.append(
        graphs[0].replaced(factors=(*graphs[0].factors, Counts([[0, 1, 2, 3]], rng.normal(size=5))))
    )
    for graph in graphs:
        least = exactly(graph)[2]
        linear, integer = (graph.by(m()).best() for m in (LinearProgramme, IntegerProgramme))
        assert linear.bound < least + 1e-5 and linear.energy > least - 1e-5
        np.testing.assert_allclose([integer.energy, integer.bound], least, atol=1e-4)
    np.testing.assert_allclose(graphs[1].by(LinearProgramme()).best().gap, 0, atol=1e-5)


@pytest.mark.slow
def test_programmes_keep_what_factors_forbid():
    rng = np.random.default_rng(4)
    graph = FactorGraph(
        rng.normal(size=(6, 2)) - [0, 1],
        [at_most_one([[0, 1, 2], [2, 3, -1]]), parity([[0, 3, 4, 5]])],
    )
    best = graph.by(IntegerProgramme()).best()
    np.testing.assert_allclose(best.energy, exactly(graph)[2], rtol=1e-5)
    impossible = FactorGraph(np.zeros((2, 2)), [parity([[0, 1]]), parity([[0, 1]], odd=True)])
    for method in (IntegerProgramme(), LinearProgramme(), Elimination()):
        found = impossible.by(method).best()
        assert found.energy == np.inf and (found.y == -1).all()


@pytest.mark.slow
def test_a_graph_goes_into_a_file_and_comes_back(tmp_path):
    rng = np.random.default_rng(5)
    graph = FactorGraph(
        rng.normal(size=(5, 3)),
        [
            Tables([[0, 1], [3, 2]], rng.normal(size=(2, 3, 3))),
            Tables([[4, 1, 0]], rng.normal(size=(3, 3, 3))),
        ],
    )
    path = tmp_path / "problem.uai"
    sx.exact.write_uai(graph.network(), path)
    again = FactorGraph.of_network(sx.exact.read_uai(path))
    np.testing.assert_allclose(again.free_energy(), graph.free_energy(), rtol=1e-5)
    assert (again.best().y == graph.best().y).all()
    sx.exact.write_evidence({1: 2}, tmp_path / "problem.uai.evid")
    seen = sx.exact.read_evidence(tmp_path / "problem.uai.evid")
    given = np.array([-1, 2, -1, -1, -1])
    np.testing.assert_allclose(
        again.given(seen).free_energy(), graph.given(given).free_energy(), rtol=1e-5
    )
    counting = FactorGraph(rng.normal(size=(3, 2)), [Counts([[0, 1, 2]], rng.normal(size=4))])
    sx.exact.write_uai(counting.network(), path)
    same = FactorGraph.of_network(sx.exact.read_uai(path))
    np.testing.assert_allclose(same.free_energy(), counting.free_energy(), rtol=1e-5)


def test_a_file_may_have_variables_of_different_sizes_and_constants(tmp_path):
    path = tmp_path / "small.uai"
    path.write_text("MARKOV\n3\n2 3 1\n3\n2 0 1\n1 2\n0\n6\n1 2 3 4 5 6\n1\n 2\n1\n 3\n")
    graph = FactorGraph.of_network(sx.exact.read_uai(path))
    np.testing.assert_allclose(jnp.exp(-graph.free_energy()), 21 * 2 * 3, rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(-graph.best().energy), 36, rtol=1e-5)


def frustrated():
    return FactorGraph(np.zeros((3, 2)), [Tables([[0, 1], [1, 2], [2, 0]], np.eye(2))])


WRONG = {
    "two labels, got 3": lambda: FactorGraph(np.zeros((2, 3))).by(MinCut()).best(),
    "single variables and of pairs": lambda: FactorGraph(
        np.zeros((3, 2)), [Tables([[0, 1, 2]], np.zeros((2, 2, 2)))], method=MinCut()
    ).best(),
    "none that count": lambda: FactorGraph(
        np.zeros((3, 2)), [parity([[0, 1, 2]])], method=MinCut()
    ).best(),
    "a minimum cut needs": lambda: frustrated().by(MinCut()).best(),
    "MinCut has no marginals": lambda: frustrated().by(MinCut()).marginals(),
    "plans ahead": lambda: padded([frustrated()]).by(LinearProgramme()).best(),
    "MinCut plans ahead.*BeliefPropagation": lambda: padded([frustrated()]).by(MinCut()).best(),
    "seconds must be above 0": lambda: IntegerProgramme(seconds=0),
    "of one graph": lambda: FactorGraph(np.zeros((2, 3, 2))).network(),
    "name variables 0 to 2": lambda: frustrated().given({3: 0}),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input_is_refused_in_words(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
