import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax.exact import HiddenMarkov, expectation_maximisation

step = jax.jit(expectation_maximisation)


def model_of(start, transitions, emissions):
    with np.errstate(divide="ignore"):
        return HiddenMarkov(*(jnp.asarray(-np.log(a)) for a in (start, transitions, emissions)))


def probabilities(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def random_model(rng, states, symbols):
    return (
        probabilities(rng, states),
        probabilities(rng, states, states),
        probabilities(rng, states, symbols),
    )


def forward(start, transitions, emissions, x):
    """p(x) in probabilities."""
    if not len(x):
        return 1.0
    alpha = start * emissions[:, x[0]]
    for symbol in x[1:]:
        alpha = alpha @ transitions * emissions[:, symbol]
    return alpha.sum()


@pytest.mark.slow
def test_the_free_energy_is_the_likelihood_and_marginals_the_posterior(x64):
    rng = np.random.default_rng(0)
    p = random_model(rng, 3, 4)
    p[2][1] = [0.5, 0, 0.5, 0]
    x, lengths = rng.integers(0, 4, (4, 5)), np.array([5, 0, 1, 3])
    model = model_of(*p)
    chain = model.chain(np.where(np.arange(5) < lengths[:, None], x, -1), lengths)
    got = chain.free_energy()
    want = [-np.log(forward(*p, a[:n])) for a, n in zip(x, lengths, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.chain(x[0]).free_energy(), want[0], rtol=1e-12)
    posterior = np.zeros((5, 3))
    likely = []
    for z in itertools.product(range(3), repeat=5):
        z = np.array(z)
        joint = p[0][z[0]] * np.prod(p[1][z[:-1], z[1:]]) * np.prod(p[2][z, x[0]])
        posterior[np.arange(5), z] += joint
        likely.append((joint, tuple(z)))
    np.testing.assert_allclose(np.sum([j for j, _ in likely]), np.exp(-want[0]), rtol=1e-12)
    np.testing.assert_allclose(chain.marginals().nodes[0], posterior / posterior.sum(1)[:, None])
    np.testing.assert_array_equal(chain.best().y[0], max(likely)[1])


@pytest.mark.slow
def test_a_step_counts_as_it_says_and_never_loses(x64):
    rng = np.random.default_rng(1)
    x, lengths = rng.integers(0, 3, (6, 8)), np.array([8, 0, 1, 5, 8, 2])
    model = model_of(*random_model(rng, 2, 3))
    marginals = model.chain(x, lengths).marginals()
    nodes, edges = map(np.asarray, marginals)
    emitted = np.einsum("btk,btv->kv", nodes, np.eye(3)[x])
    new, _ = step(model, x, lengths)
    for got, counts in zip(new, (nodes[:, 0].sum(0), edges.sum((0, 1)), emitted), strict=True):
        np.testing.assert_allclose(np.exp(-got), counts / counts.sum(-1, keepdims=True), rtol=1e-10)
    values = []
    for _ in range(30):
        model, free = step(model, x, lengths)
        values.append(float(free))
        np.testing.assert_allclose(jnp.sum(jnp.exp(-model.transitions), 1), 1, rtol=1e-12)
    assert np.all(np.diff(values) <= 1e-12 * values[0]) and values[-1] < values[0] - 0.1


@pytest.mark.slow
def test_a_model_is_found_again_from_what_it_made():
    rng = np.random.default_rng(2)
    true = (
        np.array([0.3, 0.7]),
        np.array([[0.9, 0.1], [0.2, 0.8]]),
        np.array([[0.8, 0.15, 0.05], [0.1, 0.2, 0.7]]),
    )
    count, steps = 400, 25
    z = (rng.random(count) < true[0][1]).astype(int)
    x = []
    for _ in range(steps):
        x.append([rng.choice(3, p=true[2][a]) for a in z])
        z = np.where(rng.random(count) < true[1][z, 1], 1, 0)
    x = np.array(x).T

    @jax.jit
    def fit(model):
        return jax.lax.scan(
            lambda m, _: expectation_maximisation(m, x), jax.tree.map(jnp.float32, model), length=60
        )

    guess = [[0.6, 0.4], [0.4, 0.6]], [[0.3, 0.3, 0.4], [0.4, 0.3, 0.3]]
    model, values = fit(model_of(np.array([0.4, 0.6]), *map(np.array, guess)))
    values = np.asarray(values)
    of_true = jax.tree.map(jnp.float32, model_of(*true)).chain(x).free_energy()
    assert values[-1] < jnp.sum(of_true)
    assert np.all(np.diff(values) <= 1e-5 * values[0])
    order = np.argsort(np.asarray(model.emissions[:, 0]))
    start, transitions, emissions = (np.exp(-np.asarray(a)) for a in model)
    np.testing.assert_allclose(start[order], true[0], atol=0.06)
    np.testing.assert_allclose(transitions[order][:, order], true[1], atol=0.04)
    np.testing.assert_allclose(emissions[order], true[2], atol=0.03)


@pytest.mark.slow
def test_states_and_symbols_never_seen_keep_valid_numbers():
    p = np.array([1.0, 0]), np.array([[1.0, 0], [0.5, 0.5]]), np.array([[0.5, 0.25, 0.25]] * 2)
    model = jax.tree.map(jnp.float32, model_of(*p))
    new, free = step(model, np.array([[0, 0], [0, 1]]))
    np.testing.assert_allclose(free, -np.log(0.5**3 * 0.25), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(-new.start), [1, 0])
    np.testing.assert_allclose(jnp.exp(-new.transitions), [[1, 0], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(
        jnp.exp(-new.emissions), [[0.75, 0.25, 0], [0.5, 0.25, 0.25]], rtol=1e-6
    )
    again, free = step(new, np.array([[0, 2], [0, 0]]))
    assert np.isinf(free)
    np.testing.assert_allclose(jnp.exp(-again.emissions[0]), [1, 0, 0])


def test_shapes_that_do_not_fit_are_refused():
    model = jax.tree.map(jnp.float32, model_of(*random_model(np.random.default_rng(0), 2, 3)))
    for make, message in (
        (lambda: model.chain(np.array([0, 3])), "from 0 to 2"),
        (lambda: model.chain(np.array([0.0, 1])), "whole numbers"),
        (lambda: model.chain(2), "axis of time"),
        (lambda: model.chain(np.array([0, 1]), 3), "0 to 2"),
        (lambda: model._replace(start=jnp.zeros(3)).chain([0]), "start and transitions"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
