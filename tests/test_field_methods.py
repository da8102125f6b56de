"""Methods of fields: bounds on their side, fixed points, derivatives, samples, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graphs import every, exactly, loopy, tree
from structures import check_samples

import spen_jax as sx
from spen_jax.exact import (
    Annealing,
    BeliefPropagation,
    DualDecomposition,
    Elimination,
    FactorGraph,
    Gibbs,
    MeanField,
    Tables,
    TreeReweighted,
    padded,
    parity,
)

pytestmark = pytest.mark.core
GRAPHS = [loopy(np.random.default_rng(i), 8, degree=3.0) for i in range(5)]
EXACT = [exactly(g) for g in GRAPHS]
FREE, NODES, LEAST = (np.array(a) for a in zip(*EXACT, strict=True))
ALL = padded(GRAPHS)


def each(question, method, **given):
    """Answers of all graphs, one after the other, in arrays."""
    found = [getattr(g.by(method), question)(**given) for g in GRAPHS]
    return jax.tree.map(lambda *a: np.stack(a), *found)


@pytest.mark.slow
def test_mean_field_lies_above_the_free_energy_and_at_a_fixed_point():
    found = ALL.by(MeanField()).marginals()
    assert found.promise_of_free_energy == "upper bound" and (found.residual < 1e-5).all()
    assert (found.free_energy > FREE - 1e-4).all() and (found.free_energy < FREE + 1).all()
    energy = jax.grad(lambda y: jnp.sum(ALL.energy(y)))(found.nodes)
    np.testing.assert_allclose(jax.nn.softmax(-energy, -1), found.nodes, atol=1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_forests_give_a_lower_bound_at_any_number_of_steps():
    for steps in (1, 200):
        found = each("marginals", TreeReweighted(steps=steps))
        assert (found.free_energy < FREE + 1e-4).all()
    assert (found.residual < 1e-4).all() and (found.free_energy > FREE - 1.5).all()


@pytest.mark.slow
def test_a_bound_of_forests_that_have_settled_is_the_reweighted_free_energy():
    graph, method = GRAPHS[0], TreeReweighted()
    tables = graph.tables()
    ready, messages, _ = method.messages(graph, tables, False)
    np.testing.assert_allclose(
        graph.bethe(ready, messages), graph.cover_bound(tables, messages, False), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", [TreeReweighted(), DualDecomposition(), TreeReweighted(steps=1)])
def test_no_answer_is_below_the_bound(method):
    found = each("best", method)
    assert (found.bound < LEAST + 1e-4).all() and (found.energy > LEAST - 1e-4).all()
    assert (found.gap >= 0).all() and found.promise == "bound"
    certified = found.gap < 1e-3
    np.testing.assert_allclose(found.energy[certified], LEAST[certified], atol=1e-3)
    if method != TreeReweighted(steps=1):
        assert certified.sum() >= 2


@pytest.mark.slow
def test_a_bound_has_the_derivative_of_its_parts():
    graph = GRAPHS[0]
    for method in (TreeReweighted(), DualDecomposition()):

        def bound(scale, method=method):
            scaled = jax.tree.map(lambda a: a * scale, graph)
            return scaled.by(method).best().bound

        value, slope = jax.value_and_grad(bound)(1.0)
        np.testing.assert_allclose(slope, value, rtol=1e-3)  # it is homogeneous of degree 1


@pytest.mark.slow
def test_the_schedules_have_one_fixed_point():
    flooding = ALL.by(BeliefPropagation()).marginals()
    coloured = each("marginals", BeliefPropagation(schedule="colours", damping=0.0))
    assert (coloured.residual < 1e-4).all()
    np.testing.assert_allclose(flooding.nodes, coloured.nodes, atol=1e-4)
    np.testing.assert_allclose(flooding.free_energy, coloured.free_energy, atol=1e-3)
    np.testing.assert_allclose(flooding.nodes, NODES, atol=0.25)


def test_damping_settles_where_flooding_cycles():
    ring = [[0, 1], [1, 2], [2, 3], [3, 0], [0, 4], [4, 2], [1, 3]]
    frustrated = FactorGraph(np.array([[0.0, 0.1]] * 5), [Tables(ring, 2.0 * np.eye(2))])
    plain = frustrated.by(BeliefPropagation(damping=0.0)).marginals()
    damped = frustrated.by(BeliefPropagation()).marginals()
    assert plain.residual > 0.1 and damped.residual < 1e-3


def test_more_messages_change_nothing_once_they_have_settled():
    found = [ALL.by(BeliefPropagation(steps=n)).marginals() for n in (2000, 4000)]
    np.testing.assert_allclose(found[0].nodes, found[1].nodes, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [BeliefPropagation(), TreeReweighted(), MeanField()])
def test_the_derivative_of_a_free_energy_is_its_marginals(method):
    graph = GRAPHS[1].by(method)
    found = graph.marginals()

    def free(unary, factors):
        return graph.replaced(unary=unary, factors=factors).free_energy()

    nodes, factors = jax.grad(free, (0, 1))(graph.unary, graph.factors)
    np.testing.assert_allclose(nodes, found.nodes, atol=1e-5)
    np.testing.assert_allclose(factors[0].energies, found.links[0], atol=1e-5)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("method", [BeliefPropagation(), TreeReweighted(), MeanField()])
def test_marginals_have_derivatives(method, x64):
    graph = jax.tree.map(lambda a: jnp.asarray(a, float), GRAPHS[2]).by(method)
    rng = np.random.default_rng(0)
    direction, weights = (rng.normal(size=graph.unary.shape) for _ in range(2))

    @jax.jit
    def of(t):
        return jnp.sum(weights * graph.plus(t * direction).marginals(0.8).nodes)

    want = (of(1e-4) - of(-1e-4)) / 2e-4
    np.testing.assert_allclose(jax.grad(of)(0.0), want, rtol=1e-4)
    np.testing.assert_allclose(jax.jvp(of, (0.0,), (1.0,))[1], want, rtol=1e-4)
    free = jax.jit(lambda t: graph.plus(t * direction).free_energy(0.8))
    second = (jax.grad(free)(1e-4) - jax.grad(free)(-1e-4)) / 2e-4
    np.testing.assert_allclose(jax.grad(jax.grad(free))(0.0), second, rtol=1e-3)


@pytest.mark.slow
def test_gibbs_marginals_are_those_of_long_runs():
    method = Gibbs(sweeps=2000, chains=16)
    found = ALL.by(Gibbs(sweeps=1000, chains=16)).marginals()
    np.testing.assert_allclose(found.nodes, NODES, atol=0.06)
    assert (found.residual < 0.1).all() and found.promise_of_free_energy is None
    with pytest.raises(ValueError, match="have no derivative"):
        jax.grad(lambda u: jnp.sum(ALL.replaced(unary=u).by(method).marginals().nodes ** 2))(
            ALL.unary
        )


def test_gibbs_samples_have_their_distribution():
    graph = tree(np.random.default_rng(4), 4, 2).by(Gibbs(sweeps=50))
    check_samples(graph.replaced(unary=graph.unary[None]), [every(graph)], 0.8)


@pytest.mark.slow
def test_a_factor_that_single_changes_cannot_cross_shows_in_the_residual():
    stuck = FactorGraph(np.zeros((6, 2)), [parity([range(6)])]).by(Gibbs(chains=32))
    assert stuck.marginals().residual > 0.1


@pytest.mark.slow
def test_annealing_finds_the_best_of_small_graphs():
    found = ALL.by(Annealing()).best()
    np.testing.assert_allclose(found.energy, LEAST, rtol=1e-4)
    assert found.promise == "approximate" and (found.bound == -np.inf).all()
    np.testing.assert_allclose(ALL.energy(found.y), found.energy, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [BeliefPropagation(), MeanField(), DualDecomposition()])
def test_an_answer_is_none_that_one_change_improves(method):
    found = ALL.by(method).best()
    energy = jax.grad(lambda y: jnp.sum(ALL.energy(y)))(ALL.one_hot(found.y))
    own = jnp.take_along_axis(energy, jnp.asarray(found.y)[..., None], -1)[..., 0]
    assert (own < energy.min(-1) + 1e-4).all()
    np.testing.assert_allclose(ALL.energy(found.y), found.energy, rtol=1e-5)


def structured(method):
    pairs = np.array([[i, j] for i in range(5) for j in range(i)])

    def of_example(params, h):
        unary = h[:, None] * params["w"] * jnp.array([[1.0, -1.0]])
        return FactorGraph(unary, [Tables(pairs, params["pairs"])], method=method)

    return of_example


OBJECTIVES = {
    "likelihood": lambda p: sx.objectives.maximum_likelihood(p),
    "hinge": lambda p: sx.objectives.max_margin(p, cost=sx.losses.hamming),
    "perceptron": lambda p: sx.objectives.max_margin(p, variant="perceptron"),
    "pseudo-likelihood": lambda p: sx.objectives.pseudo_likelihood(p),
}


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "method", [Elimination(), BeliefPropagation(steps=30)], ids=["exact", "bp"]
)
def test_objectives_train_a_graph_by_its_method(objective, method):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (64, 1)) ^ (rng.random((64, 5)) < 0.1)  # tags that go together
    y = np.eye(2, dtype=np.float32)[truth]
    x = (2 * truth - 1 + 1.5 * rng.normal(size=truth.shape)).astype(np.float32)
    params = {"w": jnp.array(0.3), "pairs": jnp.zeros((10, 2, 2))}
    predictor = sx.Predictor.of_structure(structured(method))
    optimizer = optax.adam(0.1)
    state = sx.training.init(params, optimizer, jax.random.key(0))
    run = sx.fit(
        OBJECTIVES[objective](predictor),
        optimizer,
        state,
        {"x": x, "y": y},
        epochs=15,
        batch_size=32,
    )
    state, _ = run.last()
    found = predictor(state.params, x)
    alone = ((x > 0) == truth).mean()
    assert (found.y.argmax(-1) == truth).mean() > alone + (
        -0.03 if objective == "perceptron" else 0.05
    )


def test_a_solution_says_where_messages_have_not_settled():
    ring = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 4], [4, 2], [1, 3]])

    def frustrated(params, h):
        return FactorGraph(h, [Tables(ring, params)], method=BeliefPropagation(damping=0.0))

    x = np.tile(np.array([0.0, 0.1]), (1, 5, 1))
    predictor = sx.Predictor.of_structure(frustrated, beta=1.0)
    assert not predictor(2.0 * jnp.eye(2), x).converged.any()
    assert predictor(0.2 * jnp.eye(2), x).converged.all()


@pytest.mark.slow
def test_end_to_end_goes_through_beliefs():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 5)), np.eye(2)[rng.integers(0, 2, (8, 5))]
    params = {"w": jnp.array(0.7), "pairs": jnp.float32(rng.normal(size=(10, 2, 2)))}
    losses, batch = [], {"x": jnp.float32(x), "y": jnp.float32(y)}
    for method in (Elimination(), BeliefPropagation()):
        predictor = sx.Predictor.of_structure(structured(method), beta=1.0)
        objective = sx.objectives.end_to_end(predictor)
        one = jax.value_and_grad(lambda p, f=objective: f(p, batch, jax.random.key(0))[0])
        losses.append(one(params))
    (exact, slope), (loopy_, other) = losses
    assert abs(exact - loopy_) < 0.3 * exact
    cosine = sum(jnp.vdot(slope[k], other[k]) for k in slope) / (
        optax.tree.norm(slope) * optax.tree.norm(other)
    )
    assert cosine > 0.9
