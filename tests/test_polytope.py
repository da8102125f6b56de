"""Gradient inference over the polytopes of chains and trees, with their exact answers as mirror map and oracle."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import spen_jax as sx
from spen_jax.exact import Chain, ChainParts, DependencyTree, Polytope

T, K = 3, 3


def chain(key=0):
    a, b = jax.random.split(jax.random.key(key))
    transitions = jax.random.normal(b, (1, K, K)).at[0, 0, 1].set(jnp.inf)
    return Chain(jax.random.normal(a, (2, T, K)), jnp.stack([transitions] * 2))


def tree():
    return DependencyTree(jax.random.normal(jax.random.key(1), (2, 3, 4)))


def linear(structure, y):
    """sum of energies of one example's parts, those that are allowed."""
    if isinstance(structure, Chain):
        edges = jnp.where(jnp.isinf(structure.transitions), 0, structure.transitions)
        return jnp.sum(structure.unary * y.nodes) + jnp.sum(edges * y.edges)
    return jnp.sum(jnp.where(jnp.isinf(structure.arcs), 0, structure.arcs) * y)


def parts(y):
    return jnp.concatenate([a.ravel() for a in jax.tree.leaves(y)])


def first_order(params, context, y):
    return linear(context["structure"], y)


def bowl(params, context, y):
    """Convex: the structure's energy and a square."""
    return linear(context["structure"], y) + jnp.sum((parts(y) - 0.3) ** 2)


def vertices(structure):
    """The indicator parts of every allowed answer of one example."""
    n = structure.y_shape()[0]
    choices = range(K) if isinstance(structure, Chain) else range(n + 1)
    for y in itertools.product(choices, repeat=n):
        if np.isfinite(structure.energy(jnp.array(y))) and _is_tree(structure, y):
            rows = structure.one_hot(jnp.array(y))
            if isinstance(structure, Chain):
                yield parts(ChainParts(rows, rows[:-1, :, None] * rows[1:, None, :]))
            else:
                yield rows.ravel()


def _is_tree(structure, y):
    if isinstance(structure, Chain):
        return True
    if sum(h == 0 for h in y) != 1:
        return False
    for d in range(len(y)):
        seen = set()
        while d >= 0 and d not in seen:
            seen.add(d)
            d = y[d] - 1
        if d >= 0:
            return False
    return True


def one_of(structure, i):
    return jax.tree.map(lambda a: a[i], structure)


def least_by_weights(structure, entropy=0.0):
    """min over mixtures of the vertices of `bowl` - entropy H(mixture), by long exponentiated gradient."""
    corners = jnp.stack([*vertices(structure)])
    own = ChainParts if isinstance(structure, Chain) else None

    def objective(w):
        y = w @ corners
        if own:
            cut = T * K
            y = ChainParts(y[:cut].reshape(T, K), y[cut:].reshape(T - 1, K, K))
        else:
            y = y.reshape(structure.y_shape())
        h = -jnp.sum(w * jnp.log(jnp.maximum(w, 1e-30)))
        return bowl(None, {"structure": structure}, y) - entropy * h, y

    def step(logits, _):
        g = jax.grad(lambda w: objective(w)[0])(jax.nn.softmax(logits))
        return logits - 0.2 * (g - g.min()), None

    logits, _ = jax.lax.scan(step, jnp.zeros(len(corners)), None, 4000)
    return objective(jax.nn.softmax(logits))


@pytest.mark.long
@pytest.mark.parametrize("make", [chain, tree])
def test_an_energy_of_the_structure_alone_is_answered_by_its_marginals_and_its_best(make):
    structure = make()
    context = {"structure": structure}
    options = {"domain": Polytope(), "steps": 3}
    solver = sx.MirrorDescent(0.5, entropy=1.0)
    found = sx.minimize(first_order, None, context, solver=solver, **options)
    for a, b in zip(jax.tree.leaves(found.y), jax.tree.leaves(structure.marginals()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    best = sx.minimize(first_order, None, context, solver=sx.FrankWolfe(), **options)
    np.testing.assert_allclose(best.energy, structure.best().energy, rtol=1e-5)
    np.testing.assert_allclose(best.residual, 0, atol=1e-5)
    shown = found.y.nodes if isinstance(found.y, ChainParts) else found.y
    assert np.all(structure.energy(structure.nearest(shown)) < jnp.inf)


@pytest.mark.long
@pytest.mark.parametrize("make", [chain, tree])
def test_a_convex_energy_is_minimised_over_all_mixtures_of_structures(make):
    """Frank-Wolfe and mirror descent against a search over the weights of every structure."""
    structure = make()
    context = {"structure": structure}
    fw = sx.minimize(bowl, None, context, domain=Polytope(), solver=sx.FrankWolfe(), steps=2000)
    md = sx.minimize(
        bowl, None, context, domain=Polytope(), solver=sx.MirrorDescent(0.3), steps=2000
    )
    warm = sx.MirrorDescent(0.3, entropy=1.0)
    smooth = sx.minimize(bowl, None, context, domain=Polytope(), solver=warm, steps=300)
    for i in range(2):
        want, y = least_by_weights(one_of(structure, i))
        np.testing.assert_allclose(fw.energy[i], want, atol=5e-3)
        assert fw.energy[i] - want <= fw.residual[i] + 1e-4
        np.testing.assert_allclose(md.energy[i], want, atol=2e-3)
        _, y = least_by_weights(one_of(structure, i), entropy=1.0)
        np.testing.assert_allclose(parts(one_of(smooth.y, i)), parts(y), atol=1e-3)


def test_mirror_descent_with_entropy_takes_the_steps_of_a_temperature():
    logits = jax.random.normal(jax.random.key(0), (2, T, K))

    def energy(params, s, y):
        return -jnp.sum(s * y) + jnp.sum(y[0] * y[1])

    def steps(solver, temperature):
        found = sx.minimize(
            energy,
            None,
            logits,
            shape=(T, K),
            domain=sx.Simplex(),
            solver=solver,
            temperature=temperature,
            steps=5,
        )
        return found.y

    warm = steps(sx.MirrorDescent(0.4), 0.7)
    np.testing.assert_allclose(steps(sx.MirrorDescent(0.4, entropy=0.7), None), warm, atol=1e-5)


@pytest.mark.slow
def test_a_polytope_says_what_it_needs():
    start = jnp.full((2, T, K), 1 / K)
    with pytest.raises(ValueError, match='an entry "structure"'):
        sx.minimize(lambda p, c, y: jnp.sum(y), None, {"logits": start}, domain=Polytope())
    context = {"structure": chain()}
    with pytest.raises(ValueError, match="nothing is projected"):
        sx.minimize(first_order, None, context, domain=Polytope(), solver=sx.GradientDescent())
    with pytest.raises(ValueError, match="give no start"):
        sx.Predictor(first_order, domain=Polytope(), start=0.5).points(context)
    with pytest.raises(ValueError, match="known of an answer"):
        mask = np.ones((2, T), bool)
        sx.minimize(first_order, None, context, known=(mask, start), domain=Polytope())
    with pytest.raises(ValueError, match="no entropy"):
        sx.minimize(first_order, None, context, domain=Polytope(), temperature=1.0)
    predictor = sx.Predictor(first_order, domain=Polytope())
    for objective in sx.objectives.max_margin, sx.objectives.maximum_likelihood:
        with pytest.raises(ValueError, match="Polytope is trained by objectives.end_to_end alone"):
            objective(predictor)


@pytest.mark.long
def test_a_chain_is_trained_on_its_polytope_with_sequences_of_several_lengths():
    rng = np.random.default_rng(0)
    letters = (rng.integers(0, K, (60, 1)) + np.arange(6)) % K
    mask = np.arange(6) < rng.integers(2, 7, (60, 1))
    y = np.eye(K, dtype=np.float32)[letters]
    data = {"x": y + np.float32(rng.normal(size=y.shape)), "y": y, "mask": mask}

    def features(params, x, mask):
        chains = Chain(-x, jnp.broadcast_to(params["A"], (len(x), 1, K, K)), mask=mask)
        return {"structure": chains}

    def energy(params, context, y):
        return linear(context["structure"], y)

    predictor = sx.Predictor(
        energy,
        features,
        domain=Polytope(),
        solver=sx.MirrorDescent(0.5, entropy=1.0),
        steps=2,
        differentiate="unrolled",
    )
    objective, optimizer = (
        sx.objectives.end_to_end(predictor, weights=[0, 0.5, 0.5]),
        optax.adam(0.1),
    )
    state = sx.training.init({"A": jnp.zeros((K, K))}, optimizer, jax.random.key(0))
    state, metrics = sx.fit(objective, optimizer, state, data, epochs=30, batch_size=30).last()
    found = predictor(state.params, data["x"], mask=mask).y
    right, alone = ((a.argmax(-1) == letters)[mask].mean() for a in (found.nodes, data["x"]))
    assert right > alone + 0.05
    np.testing.assert_allclose(found.edges.sum((2, 3)), mask[:, 1:], atol=1e-4)


@pytest.mark.slow
def test_what_allows_no_structure_fails_and_chains_without_transitions_have_pairs():
    barred = Chain(jnp.zeros((1, T, K)).at[0, 1].set(jnp.inf), jnp.zeros((1, 1, K, K)))
    solver = sx.MirrorDescent(0.5, entropy=1.0)
    found = sx.minimize(
        first_order, None, {"structure": barred}, domain=Polytope(), solver=solver, steps=1
    )
    assert found.failed.all()
    alone = Chain(jax.random.normal(jax.random.key(0), (2, T, K)))
    pairs = Chain(alone.unary, jnp.zeros((K, K)))
    for beta in (1.0, jnp.inf):
        a, b = alone.marginals(beta), pairs.marginals(beta)
        np.testing.assert_allclose(a.edges, b.edges, atol=1e-6)


def test_an_entropy_of_the_solver_and_early_stops_do_not_go_together():
    with pytest.raises(ValueError, match="as a temperature"):
        solver = sx.MirrorDescent(0.5, entropy=1.0)
        sx.minimize(first_order, None, {}, 0.5, shape=(3,), solver=solver, stop_early=True)
    with pytest.raises(ValueError, match="no part of a Product"):
        sx.Product({"y": Polytope()})
    with pytest.raises(ValueError, match="product below 2"):
        sx.MirrorDescent(1.0, entropy=2.0)
