"""Conditional random fields, max-margin networks and perceptrons: exact answers in the place of a solver's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import spen_jax as sx
from spen_jax.exact import Chain, structured, structures

T, K, B = 3, 3, 5
RNG = np.random.default_rng(0)
ALL = np.eye(K, dtype=np.float32)[list(itertools.product(range(K), repeat=T))]
X = jnp.float32(RNG.normal(size=(B, T, K)))
Y = jnp.asarray(ALL[RNG.integers(len(ALL), size=B)])
MASK = jnp.arange(T)[None] < jnp.array([3, 2, 1, 3, 2])[:, None]
PARAMS = {
    "W": jnp.eye(K) + 0.3 * jnp.float32(RNG.normal(size=(K, K))),
    "A": jnp.float32(RNG.normal(size=(K, K))),
    "end": jnp.float32(RNG.normal(size=K)),
}


def features(params, x, mask=None):
    counts = jnp.ones(x.shape[:2], bool) if mask is None else mask
    return {"unary": x @ params["W"], "mask": counts}


def chain(params, context):
    return Chain(context["unary"], params["A"], end=params["end"], mask=context["mask"])


ENERGY = structured(chain)
EXACT = sx.Predictor.of_structure(chain, features)
MARGINALS = sx.Predictor.of_structure(chain, features, beta=1.0)


def of_all(params, mask=None):
    """E(x, y) of all answers, (B, K^T)."""
    context = features(params, X, mask)
    return jax.vmap(lambda c: jax.vmap(lambda y: ENERGY(params, c, y))(ALL))(context)


@pytest.mark.slow
def test_the_answer_is_the_best_of_all():
    found = EXACT(PARAMS, X)
    energies = of_all(PARAMS)
    np.testing.assert_array_equal(found.y, ALL[np.argmin(energies, 1)])
    np.testing.assert_allclose(found.energy, energies.min(1), rtol=1e-6)
    assert found.converged.all() and not found.steps.any()


@pytest.mark.slow
def test_at_a_finite_temperature_it_is_the_mean():
    found = MARGINALS(PARAMS, X)
    p = sx.exact.softargmin(of_all(PARAMS))
    np.testing.assert_allclose(found.y, jnp.einsum("bn,ntk->btk", p, ALL), atol=1e-6)
    np.testing.assert_allclose(found.energy, sx.exact.softmin(of_all(PARAMS)), rtol=1e-6)


@pytest.mark.slow
def test_what_is_known_stays():
    known = np.zeros((B, T), bool)
    known[:, 1] = True
    for predictor, best in ((EXACT, True), (MARGINALS, False)):
        found = predictor(PARAMS, X, known=(known, Y))
        np.testing.assert_allclose(found.y[:, 1], Y[:, 1], atol=1e-6)
        if best:
            fits = (ALL[None, :, 1] == Y[:, None, 1]).all(-1)
            energies = jnp.where(fits, of_all(PARAMS), jnp.inf)
            np.testing.assert_allclose(found.energy, energies.min(1), rtol=1e-6)


def test_transitions_of_all_examples_stay_shared():
    found = structures(chain, PARAMS, features(PARAMS, X))
    assert found.unary.shape == (B, T, K) and found.transitions.shape == (1, K, K)
    own = structures(
        lambda p, c: Chain(c["unary"], p["A"] * c["unary"].sum()), PARAMS, features(PARAMS, X)
    )
    assert own.transitions.shape == (B, 1, K, K)
    each = Chain(
        features(PARAMS, X)["unary"][2], PARAMS["A"] * features(PARAMS, X)["unary"][2].sum()
    )
    np.testing.assert_allclose(own.free_energy()[2], each.free_energy(), rtol=1e-6)


def losses_and_gradients(objective, batch):
    return jax.jit(jax.value_and_grad(lambda p: objective(p, batch, jax.random.key(0))[0]))(PARAMS)


def assert_alike(got, want, **tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-5} | tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_likelihood_is_that_by_enumeration(masked):
    batch = {"x": X, "y": Y} | ({"mask": MASK} if masked else {})
    for beta in (0.5, 2.0):
        got, want = (
            losses_and_gradients(sx.objectives.maximum_likelihood(EXACT, beta=beta, **by), batch)
            for by in ({}, {"answers": ALL})
        )
        assert_alike(got, want)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cost", [sx.losses.hamming, pytest.param(sx.losses.squared_error, marks=pytest.mark.slow)]
)
def test_the_hinge_loss_is_that_by_enumeration(cost):
    objective = sx.objectives.max_margin(EXACT, cost=cost)

    def by_hand(params, batch, _):
        counts = batch.get("mask", jnp.ones((B, T), bool))
        context = features(params, X, batch.get("mask"))
        truth = jnp.where(counts[..., None], Y, 0)
        costs = jax.vmap(lambda m, t: jax.vmap(lambda y: cost(jnp.where(m[:, None], y, 0), t))(ALL))
        worst = jnp.max(costs(counts, truth) - of_all(params, batch.get("mask")), 1)
        correct = jax.vmap(ENERGY, (None, 0, 0))(params, context, truth)
        return jnp.mean(jnp.maximum(0, worst + correct)), {}

    for batch in ({"x": X, "y": Y}, {"x": X, "y": Y, "mask": MASK}):
        assert_alike(losses_and_gradients(objective, batch), losses_and_gradients(by_hand, batch))


@pytest.mark.slow
def test_the_perceptron_moves_towards_the_truth_from_the_best():
    objective = sx.objectives.max_margin(EXACT, variant="perceptron")
    loss, slope = losses_and_gradients(objective, (X, Y))
    best = EXACT(PARAMS, X).y
    correct = jax.vmap(ENERGY, (None, 0, 0))(PARAMS, features(PARAMS, X), Y)
    np.testing.assert_allclose(loss, jnp.mean(correct - of_all(PARAMS).min(1)), rtol=1e-5)
    pairs = (jnp.einsum("bti,btj->ij", a[:, :-1], a[:, 1:]) for a in (Y, best))
    np.testing.assert_allclose(slope["A"] * B, np.subtract(*pairs), atol=1e-5)


@pytest.mark.slow
def test_marginals_are_trained_through(x64):
    params, x, y = jax.tree.map(lambda a: jnp.asarray(a, float), (PARAMS, X, Y))
    objective = sx.objectives.end_to_end(MARGINALS)

    def loss(t):
        moved = params | {"A": params["A"].at[0, 1].add(t)}
        return objective(moved, (x, y), jax.random.key(0))[0]

    by_difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.0), by_difference, rtol=1e-6)


@pytest.mark.slow
def test_gradient_inference_goes_down_the_same_energy():
    exact, near = (
        EXACT(PARAMS, X),
        sx.Predictor(ENERGY, features, domain=sx.Simplex(), shape=(T, K), steps=200)(PARAMS, X),
    )
    assert (near.energy >= exact.energy - 1e-4).all() and (near.energy < exact.energy + 3).all()


@pytest.mark.long
@pytest.mark.slow
def test_a_conditional_random_field_learns_what_follows_what():
    rng = np.random.default_rng(1)
    letters = (rng.integers(0, 5, (600, 1)) + np.arange(9)) % 5
    mask = np.arange(9) < rng.integers(4, 10, (600, 1))
    y = np.eye(5, dtype=np.float32)[letters]
    x = (y + rng.normal(size=y.shape)).astype(np.float32)
    data = {"x": x[:400], "y": y[:400], "mask": mask[:400]}
    params = {"W": -0.5 * jnp.eye(5), "A": jnp.zeros((5, 5)), "end": jnp.zeros(5)}
    right = {}
    for name, objective in {
        "likelihood": sx.objectives.maximum_likelihood(EXACT),
        "hinge": sx.objectives.max_margin(EXACT),
        "perceptron": sx.objectives.max_margin(EXACT, variant="perceptron"),
        "marginals": sx.objectives.end_to_end(MARGINALS),
    }.items():
        optimizer = optax.adam(0.05)
        state = sx.training.init(params, optimizer, jax.random.key(0))
        state, _ = sx.fit(objective, optimizer, state, data, epochs=10).last()
        found = EXACT(state.params, x[400:], mask=mask[400:]).y
        right[name] = np.mean((found.argmax(-1) == letters[400:])[mask[400:]])
    alone = np.mean((x[400:].argmax(-1) == letters[400:])[mask[400:]])
    assert alone < 0.55 and min(right.values()) > alone + 0.2, right


def test_no_allowed_structure_fails_alone():
    def forbidding(params, context):
        return Chain(context["unary"], params["A"])

    unary = X.at[2, 1].set(jnp.inf)
    found = sx.Predictor.of_structure(forbidding, lambda _, x: {"unary": x})(PARAMS, unary)
    np.testing.assert_array_equal(found.failed, [False, False, True, False, False])
    assert not found.y[2].any() and np.isinf(found.energy[2])


def test_what_cannot_be_exact_is_refused():
    plain = sx.Predictor(lambda p, c, y: (c["unary"] * y).sum(), features, domain=sx.Simplex())
    by_exact = {"solver": sx.Exact(), "domain": sx.Simplex()}
    for make, message in (
        (
            lambda: sx.Predictor(plain.energy, features, **by_exact)(PARAMS, X),
            "knows its structure",
        ),
        (lambda: sx.objectives.maximum_likelihood(plain), "needs answers"),
        (lambda: sx.objectives.max_margin(EXACT, variant="slack"), "no slack rescaling"),
        (lambda: sx.objectives.max_margin(MARGINALS), "beta = infinity"),
        (lambda: sx.objectives.max_margin(EXACT, cost=sx.losses.soft_f1_error), "a sum over"),
        (lambda: sx.Exact(0.0), "beta > 0"),
        (
            lambda: sx.Predictor.of_structure(chain, features, domain=sx.Box())(PARAMS, X),
            "live in Simplex",
        ),
        (
            lambda: sx.objectives.end_to_end(EXACT)(PARAMS, (X, Y), jax.random.key(0)),
            "has no derivative",
        ),
        (
            lambda: sx.Predictor.of_structure(chain, features, temperature=1.0)(PARAMS, X),
            "temperature is of solvers",
        ),
        (
            lambda: sx.Predictor.of_structure(chain, features, trace="y")(PARAMS, X),
            "trace is of solvers",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
