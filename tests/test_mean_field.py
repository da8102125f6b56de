"""Mean field as inference at a temperature, against all answers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spen_jax as sx
from spen_jax import exact

L = 10
CORNERS = np.array(list(itertools.product([0.0, 1.0], repeat=L)))
SOLVER = sx.MirrorDescent(step_size=0.2)
MEAN_FIELD = {"domain": sx.Box(), "solver": SOLVER, "steps": 1500, "shape": (L,)}


def pairs(params, x, y):
    """u.y + sum_(i < j) w_ij y_i y_j, which is multilinear."""
    return x["u"] @ y + y @ x["w"] @ y


def units(params, x, y):
    """c.softplus(C y) - s.y, which is not."""
    return x["c"] @ jax.nn.softplus(x["C"] @ y) - x["s"] @ y


def drawn(seed, count, coupling):
    rng = np.random.default_rng(seed)
    w = np.triu(coupling * rng.normal(size=(count, L, L)), 1)
    return {"u": rng.normal(size=(count, L)), "w": w}


def drawn_units(seed, count):
    rng = np.random.default_rng(seed)
    shapes = {"c": (count, 6), "C": (count, 6, L), "s": (count, L)}
    return {name: 2 * rng.normal(size=shape) for name, shape in shapes.items()}


@jax.jit
def at_corners(x):
    return jax.vmap(lambda x: jax.vmap(lambda y: pairs(None, x, y))(jnp.asarray(CORNERS)))(x)


def truth(energies, temperature):
    """-T log sum exp(-E / T) and the marginals, in NumPy."""
    lowest = energies.min(1, keepdims=True)
    weights = np.exp(-(energies - lowest) / temperature)
    free = lowest[:, 0] - temperature * np.log(weights.sum(1))
    return free, weights @ CORNERS / weights.sum(1, keepdims=True)


def entropy(mu):
    return -np.sum(mu * np.log(mu) + (1 - mu) * np.log1p(-mu), -1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_mean_field_is_never_below_the_free_energy_on_200_energies(x64, temperature):
    x = jax.tree.map(lambda *a: np.concatenate(a), *(drawn(i, 50, 2.0**i / 4) for i in range(4)))
    found = sx.minimize(pairs, None, x, temperature=temperature, **MEAN_FIELD)
    free, _ = truth(np.asarray(at_corners(x)), temperature)
    gap = np.asarray(found.energy) - free
    assert gap.min() > -1e-9
    assert gap.max() > 0.1  # and it is not the free energy either
    mu = np.clip(np.asarray(found.y), 1e-300, 1 - 1e-16)
    at_mu = np.einsum("bl,bl->b", x["u"], mu) + np.einsum("bi,bij,bj->b", mu, x["w"], mu)
    np.testing.assert_allclose(found.energy, at_mu - temperature * entropy(mu), atol=1e-6)


def test_without_couplings_it_is_exact(x64):
    x = drawn(0, 20, 0.0)
    found = sx.minimize(pairs, None, x, temperature=0.7, **MEAN_FIELD)
    free, marginals = truth(np.asarray(at_corners(x)), 0.7)
    np.testing.assert_allclose(found.energy, free, rtol=1e-8)
    np.testing.assert_allclose(found.y, marginals, atol=1e-8)


def by_coordinates(u, w, temperature, mu, sweeps=3000):
    """mu_i = sigmoid(-dE/dy_i / T), one label after the other."""
    both = w + w.T
    for _ in range(sweeps):
        for i in range(L):
            mu[i] = 1 / (1 + np.exp((u[i] + both[i] @ mu) / temperature))
    return mu


def test_the_answer_is_a_fixed_point_of_mean_field_and_that_of_coordinate_ascent(x64):
    """Where couplings are weak there is one, whoever looks for it."""
    x, temperature = drawn(1, 6, 0.3), 0.8
    found = np.asarray(sx.minimize(pairs, None, x, temperature=temperature, **MEAN_FIELD).y)
    for u, w, mu in zip(x["u"], x["w"], found, strict=True):
        np.testing.assert_allclose(
            by_coordinates(u, w, temperature, np.full(L, 0.5), 100), mu, atol=1e-8
        )
    strong = drawn(2, 40, 2.0)
    found = sx.minimize(pairs, None, strong, temperature=1.0, **MEAN_FIELD)
    slopes = strong["u"] + np.einsum(
        "bij,bj->bi", strong["w"] + strong["w"].swapaxes(1, 2), found.y
    )
    settled = np.asarray(found.residual) < 1e-8
    assert settled.mean() > 0.8
    want = 1 / (1 + np.exp(np.clip(slopes, -500, 500)))
    np.testing.assert_allclose(np.asarray(found.y)[settled], want[settled], atol=1e-6)


@pytest.mark.slow
def test_the_method_of_factor_graphs_finds_the_same_mean_field(x64):
    x = drawn(3, 30, 0.4)
    i, j = np.triu_indices(L, 1)
    tables = np.zeros((30, len(i), 2, 2))
    tables[..., 1, 1] = x["w"][:, i, j]
    unary = np.stack([np.zeros_like(x["u"]), x["u"]], -1)
    graph = exact.FactorGraph(unary, [exact.Tables(np.stack([i, j], 1), tables)])
    theirs = graph.by(exact.MeanField(sweeps=2000, tolerance=1e-12)).marginals()
    ours = sx.minimize(pairs, None, x, temperature=1.0, **MEAN_FIELD)
    np.testing.assert_allclose(theirs.nodes[..., 1], ours.y, atol=1e-6)
    np.testing.assert_allclose(theirs.free_energy, ours.energy, rtol=1e-8)


@pytest.mark.slow
def test_a_low_temperature_ends_at_a_corner_that_no_single_change_improves(x64):
    x = drawn(4, 30, 1.0)
    found = sx.minimize(pairs, None, x, temperature=0.01, **MEAN_FIELD | {"steps": 20_000})
    y = np.asarray(found.y)
    settled = np.abs(y - y.round()).max(1) < 1e-3
    assert settled.mean() > 0.8
    y = y.round()
    slopes = x["u"] + np.einsum("bij,bj->bi", x["w"] + x["w"].swapaxes(1, 2), y)
    flips = np.where(y == 1, -slopes, slopes)  # what changing a label costs
    assert flips[settled].min() > -0.1


# The mean of any energy


def test_the_mean_energy_is_that_of_all_answers(x64):
    x = jax.tree.map(lambda a: a[0], drawn_units(0, 1))
    mu = np.random.default_rng(1).random(L)
    q = np.prod(np.where(CORNERS == 1, mu, 1 - mu), 1)
    hidden = np.logaddexp(0, CORNERS @ x["C"].T) @ x["c"] - CORNERS @ x["s"]
    mean = exact.expected(units)
    value, slope = jax.jit(jax.value_and_grad(mean, argnums=2))(None, x, mu)
    np.testing.assert_allclose(value, q @ hidden, rtol=1e-12)
    # It is linear in each probability: its slope is the difference of the two ends.
    ends = np.stack([np.where(np.eye(L, dtype=bool), end, mu) for end in (1.0, 0.0)])
    on, off = jax.jit(jax.vmap(jax.vmap(lambda mu: mean(None, x, mu))))(ends)
    np.testing.assert_allclose(slope, on - off, atol=1e-9)
    np.testing.assert_allclose(jax.jit(mean)(None, x, CORNERS[77]), hidden[77], rtol=1e-12)


def test_the_mean_of_a_multilinear_energy_is_its_value_at_the_probabilities(x64):
    x = jax.tree.map(lambda a: a[0], drawn(5, 1, 1.0))
    mu = np.random.default_rng(2).random(L)
    np.testing.assert_allclose(
        jax.jit(exact.expected(pairs))(None, x, mu), pairs(None, x, mu), rtol=1e-12
    )


@pytest.mark.slow
def test_variational_inference_of_any_energy_keeps_its_bound_where_the_energy_itself_has_none(x64):
    x = drawn_units(3, 60)
    x["c"] = np.abs(x["c"])
    of_corners = jax.vmap(lambda x: jax.vmap(lambda y: units(None, x, y))(jnp.asarray(CORNERS)))
    free, _ = truth(np.asarray(jax.jit(of_corners)(x)), 1.0)
    mean = exact.expected(units)
    bound = sx.minimize(mean, None, x, temperature=1.0, **MEAN_FIELD | {"steps": 300})
    naive = sx.minimize(units, None, x, temperature=1.0, **MEAN_FIELD | {"steps": 300})
    assert np.min(bound.energy - free) > -1e-9
    assert np.mean(naive.energy < free) > 0.2  # convex units: E(mu) <= E_q[E]
    at_naive = jax.jit(jax.vmap(lambda x, y: mean(None, x, y)))(x, naive.y)
    plain = jax.jit(jax.vmap(lambda x, y: units(None, x, y)))(x, naive.y)
    assert np.min(at_naive - plain) > -1e-9


def test_the_same_energy_has_the_same_mean_and_compiles_once():
    assert exact.expected(pairs) is exact.expected(pairs)
    assert exact.expected(pairs) is not exact.expected(units)


def test_an_impossible_answer_has_no_part_in_the_mean():
    def forbids_both(params, x, y):
        return jnp.where(y[0] * y[1] > 0, jnp.inf, y[0] + 2 * y[1])

    mean = jax.jit(jax.value_and_grad(lambda mu: exact.expected(forbids_both)(None, None, mu)))
    value, slope = mean(jnp.array([0.25, 0.0]))
    np.testing.assert_allclose(value, 0.25)
    np.testing.assert_allclose(slope[0], 1)
    assert mean(jnp.array([0.25, 0.5]))[0] == jnp.inf


def test_too_many_labels_and_other_shapes_are_refused_with_advice():
    mean = exact.expected(lambda params, x, y: jnp.sum(y))
    for mu, message in (
        (jnp.zeros(13), "FactorGraph by MeanField"),
        (jnp.zeros((2, 3)), r"\(L,\), got shape \(2, 3\)"),
        ("often", "mu must"),
    ):
        with pytest.raises(ValueError, match=message):
            mean(None, None, mu)
