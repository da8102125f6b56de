"""Fields at their edges: what forbids, what is empty, large energies, masks, other batches."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import exactly, loopy

from spen_jax.exact import (
    Annealing,
    BeliefPropagation,
    Counts,
    DualDecomposition,
    Elimination,
    Enumeration,
    FactorGraph,
    Gibbs,
    Grid,
    LinearProgramme,
    MeanField,
    MinCut,
    Tables,
    TreeReweighted,
    at_most_one,
    padded,
    potts,
)

pytestmark = pytest.mark.core
EQUAL = np.array([[0.0, np.inf], [np.inf, 0.0]])


def some_barred(rng, n=4, labels=3):
    """A graph of which some entries are forbidden."""
    pairs = [(i, j) for i in range(n) for j in range(i) if rng.random() < 0.7]
    energies = rng.normal(size=(len(pairs), labels, labels))
    energies[rng.random(energies.shape) < 0.2] = np.inf
    factors = [Tables(pairs, energies)] if pairs else []
    return FactorGraph(
        rng.normal(size=(n, labels)), [*factors, at_most_one([[0, 1, 2], [2, 3, -1]])]
    )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("method", [TreeReweighted(steps=60), DualDecomposition(steps=200)])
def test_bounds_hold_where_something_is_forbidden(method):
    rng = np.random.default_rng(0)
    for _ in range(3):
        graph = some_barred(rng).by(method)
        free, _, least = exactly(graph)
        raw = method.best(graph, graph.tables())[1]
        assert raw <= least + 1e-3
        if isinstance(method, TreeReweighted):
            assert graph.free_energy() <= free + 1e-3


@pytest.mark.long
@pytest.mark.parametrize("method", [TreeReweighted(steps=60), DualDecomposition(steps=200)])
def test_bounds_hold_on_many_graphs_with_what_is_forbidden(method):
    rng = np.random.default_rng(1)
    batch = [some_barred(rng) for _ in range(40)]
    if isinstance(method, DualDecomposition):
        many = padded(batch).by(method)
        raw = method.best(many, many.tables())[1]
    else:
        raw = np.concatenate([method.best(g.by(method), g.by(method).tables())[1] for g in batch])
    least = np.array([exactly(g)[2] for g in batch])
    assert (raw <= least + 2e-3).all()


def test_samples_have_no_bound_but_at_infinity_a_gap_each():
    energies = np.random.default_rng(2).normal(size=(2, 3, 2))
    energies[1, 0] = np.inf
    graph = FactorGraph(energies, [Tables([[0, 1], [1, 2]], np.eye(2))])
    drawn = graph.sample(jax.random.key(0), 4)
    assert drawn.energy.shape == drawn.gap.shape == (2, 4) and (drawn.gap == np.inf).all()
    coldest = graph.sample(jax.random.key(0), 4, np.inf)
    assert coldest.gap.shape == (2, 4) and (coldest.gap == 0).all()
    np.testing.assert_array_equal(graph.best().gap, [0, 0])


@pytest.mark.slow
def test_forests_share_out_what_is_forbidden():
    first = np.zeros((3, 2))
    first[0, 0] = np.inf
    graph = FactorGraph(first, [Tables([[0, 1], [1, 2], [2, 0]], EQUAL)]).by(TreeReweighted())
    best, found = graph.best(), graph.marginals()
    assert best.energy == 0 and (best.y == 1).all() and best.bound <= 1e-4
    np.testing.assert_allclose(found.nodes, [[0, 1]] * 3, atol=1e-4)


@pytest.mark.slow
def test_a_prohibition_goes_down_a_whole_chain():
    chain = [[i, i + 1] for i in range(49)]
    first = np.zeros((50, 2))
    first[0, 1] = np.inf
    found = FactorGraph(first, [Tables(chain, EQUAL)]).by(BeliefPropagation()).marginals()
    np.testing.assert_allclose(found.nodes, [[1, 0]] * 50)
    first[-1, 0] = np.inf
    none = FactorGraph(first, [Tables(chain, EQUAL)]).by(BeliefPropagation())
    assert none.free_energy() == np.inf and not none.marginals().nodes.any()


def test_a_cut_says_where_nothing_is_allowed():
    unary = [[np.inf, 0], [0, np.inf]]
    found = FactorGraph(unary, [Tables([[0, 1]], EQUAL)], method=MinCut()).best()
    assert found.energy == np.inf and (found.y == -1).all()


@pytest.mark.long
@pytest.mark.slow
def test_what_a_grid_forbids_stays_forbidden_at_any_temperature():
    unary = np.zeros((1, 3, 2))
    unary[..., 1], unary[..., 0] = np.inf, 20
    row = Grid(unary, None, potts(1.0, 2))
    for grid in (row, Grid(np.tile(unary, (3, 1, 1)), potts(1.0, 2), potts(1.0, 2))):
        for beta in (1.0, 1e5):
            found = grid.marginals(beta)
            np.testing.assert_allclose(found.nodes[..., 0], 1)
            np.testing.assert_allclose(found.free_energy, 20.0 * grid.unary[..., 0].size, rtol=1e-5)
    unary[0, 1] = np.inf
    for grid in (Grid(unary, None, potts(1.0, 2)), Grid(unary, np.zeros((2, 2)), potts(1.0, 2))):
        assert grid.free_energy() == np.inf and not grid.marginals().nodes.any()
        assert grid.best().energy == np.inf and (grid.best().y == -1).all()
        assert not np.isnan(grid.by(DualDecomposition()).best().bound)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, 3])
def test_bounds_of_grids_hold_where_something_is_forbidden(labels):
    rng = np.random.default_rng(2)
    shape = (20, 3, 3, labels)
    down, right = (
        np.where(rng.random(s) < 0.1, np.inf, rng.normal(size=s))
        for s in ((20, 2, 3, labels, labels), (20, 3, 2, labels, labels))
    )
    grid = Grid(rng.normal(size=shape), down, right)
    exact = grid.by(Elimination())
    for method in (TreeReweighted(), DualDecomposition(steps=200)):
        raw = method.best(grid.by(method), grid.tables())[1]
        assert (raw <= exact.best().energy + 2e-3).all()
    assert (grid.by(TreeReweighted()).free_energy() <= exact.free_energy() + 2e-3).all()


@pytest.mark.slow
def test_links_of_pixels_that_do_not_count_have_no_part_in_derivatives():
    mask = np.ones((4, 4), bool)
    mask[:, 2] = False

    def free(c, method):
        return Grid(
            np.zeros((4, 4, 2)), c * np.ones((2, 2)), c * np.ones((2, 2)), mask=mask, method=method
        ).free_energy()

    for method in (BeliefPropagation(), MeanField(), TreeReweighted(), Elimination()):
        np.testing.assert_allclose(jax.grad(free)(1.0, method), 9 + 4, rtol=1e-5)


def test_entropy_of_an_approximation_is_not_rounded_up():
    pairs = [(i, j) for i in range(4) for j in range(i)]
    graph = FactorGraph(np.zeros((4, 2)), [Tables(pairs, -4 * np.eye(2))])
    assert graph.by(BeliefPropagation()).entropy() < -0.1
    np.testing.assert_allclose(graph.entropy(), np.log(2), rtol=1e-2)


@pytest.mark.slow
def test_samples_leave_out_what_does_not_count():
    graph = loopy(np.random.default_rng(3), 4).masked(np.array([True, True, False, True]))
    for method in (Gibbs(sweeps=5), Elimination()):
        y = graph.by(method).sample(jax.random.key(0), 3).y
        assert (y[:, 2] == -1).all() and (np.delete(y, 2, 1) >= 0).all()


def test_a_mean_field_that_is_infinite_still_has_marginals():
    found = FactorGraph(np.zeros((2, 2)), [Tables([[0, 1]], EQUAL)]).by(MeanField()).marginals()
    assert found.promise_of_free_energy == "upper bound"
    np.testing.assert_allclose(found.nodes.sum(-1), 1)


@pytest.mark.slow
def test_annealing_cools_each_example_by_its_own_energies():
    small, large = loopy(np.random.default_rng(4), 6), loopy(np.random.default_rng(4), 6)
    large = jax.tree.map(lambda a: 1000 * a, large)
    both = jax.tree.map(lambda *a: jnp.stack(a), small, large).by(Annealing(sweeps=60))
    least = exactly(small)[2]
    np.testing.assert_allclose(both.best().energy, [least, 1000 * least], rtol=1e-4)


@pytest.mark.slow
def test_single_changes_go_on_as_long_as_they_help():
    chain = [[i, i + 1] for i in range(99)]
    falls = np.array([[0.0, 1.0], [1.0, -0.5]]) * np.linspace(2, 1, 99)[:, None, None]
    first = np.zeros((100, 2))
    first[0, 0] = 5
    found = FactorGraph(first, [Tables(chain, falls)]).by(MeanField(sweeps=1)).best()
    graph = FactorGraph(first, [Tables(chain, falls)])
    slope = jax.grad(lambda y: graph.energy(y))(graph.one_hot(found.y))
    assert (slope[np.arange(100), found.y] <= slope.min(-1) + 1e-4).all()


@pytest.mark.slow
def test_own_scopes_may_have_several_axes_of_a_batch():
    rng = np.random.default_rng(5)
    graphs = [loopy(rng, 5, degree=2.0) for _ in range(6)]
    scopes = np.stack([g.factors[0].where for g in graphs]).reshape(2, 3, -1, 2)
    energies = np.stack([g.factors[0].energies for g in graphs]).reshape(2, 3, -1, 2, 2)
    unary = np.stack([g.unary for g in graphs]).reshape(2, 3, 5, 2)
    many = FactorGraph(unary, [Tables(scopes, energies)], method=BeliefPropagation())
    for i, graph in enumerate(graphs):
        alone = graph.by(BeliefPropagation(damping=0.5)).free_energy()
        if graph.depth() is None:
            np.testing.assert_allclose(many.free_energy()[i // 3, i % 3], alone, rtol=1e-5)


@pytest.mark.slow
def test_graphs_without_factors_and_in_double_precision(x64):
    none = FactorGraph(np.zeros((4, 3), np.float32))
    for method in (TreeReweighted(), DualDecomposition(), MeanField(), Gibbs(sweeps=5)):
        assert none.by(method).by(method).method == method
    assert none.by(TreeReweighted()).best().gap == 0
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), loopy(np.random.default_rng(6), 5))
    found = single.by(DualDecomposition(steps=100)).best()
    assert found.bound.dtype == jnp.float32 and found.bound <= found.energy


def test_scopes_come_back_from_a_file():
    scopes = Tables([[0, 1]], np.zeros((2, 2))).known
    again = pickle.loads(pickle.dumps(scopes))
    assert again == scopes and hash(again) == hash(scopes)


def test_a_divergence_looks_at_masks_and_at_factors():
    graph = loopy(np.random.default_rng(7), 4)
    masked = graph.masked(np.array([True, True, True, False]))
    assert graph.kl(masked) == np.inf and graph.kl(graph) == 0
    with pytest.raises(ValueError, match="equal factors"):
        graph.kl(FactorGraph(graph.unary))


def test_the_bound_of_a_programme_is_a_constant():
    graph = loopy(np.random.default_rng(8), 5).by(LinearProgramme())
    slope = jax.grad(lambda u: graph.replaced(unary=u).best().bound)(graph.unary)
    best = graph.best()
    want = graph.one_hot(best.y) if best.gap == 0 else np.zeros_like(slope)
    np.testing.assert_array_equal(slope, want)


WRONG = {
    "size up to 1e\\+15": lambda: FactorGraph([[1e25, 0.0]]),
    "size up to 1e.15, or .infinity": lambda: Grid(np.zeros((2, 2, 2)), np.full((2, 2), -1e16)),
    "at least 4, one a stage": lambda: DualDecomposition(steps=2),
    "one such as BeliefPropagation": lambda: FactorGraph(np.zeros((2, 2)), method="bp"),
    "one such as": lambda: Grid(np.zeros((2, 2, 2))).by(MeanField),
    "one row of variables for each factor": lambda: at_most_one(3),
    "got one by itself": lambda: FactorGraph(np.zeros((2, 2)), at_most_one([[0, 1]])),
    "10\\^602.1 answers": lambda: FactorGraph(np.zeros((2000, 2)), method=Enumeration()).best(),
    "or of each example": lambda: FactorGraph(
        np.zeros((3, 4, 2)), [Tables(np.zeros((5, 1, 2), int), np.zeros((2, 2)))]
    ),
    "outside jit": lambda: jax.jit(lambda u: padded([FactorGraph(u)]).unary)(np.zeros((2, 2))),
    "Counts of 2 variables": lambda: FactorGraph(np.zeros((2, 2)), [Counts([[0, 1]], [0.0])]),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input_is_refused_in_words(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
