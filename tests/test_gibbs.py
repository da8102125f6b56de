import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import negatives
from spen_jax.architectures import ImplicitRegressor, Regressor, Saturated
from spen_jax.gibbs import (
    energy_of,
    local_minima,
    log_probabilities,
    pairwise,
    rank,
    ranking,
    softargmin,
    softmin,
)
from spen_jax.losses import nll

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
ENERGIES = RNG.normal(1, 2, (4, 6))
TIES = np.array([[3.0, 1, 1, 2, 1, 9], [0, 0, 0, 0, 0, 0], [5, -2, INF, -2, INF, INF]])
WEIGHTS = {
    "none": None,
    "a mask": np.array([1, 0, 1, 1, 0, 1.0]),
    "the volume of all cells": 0.1,
    "importance": RNG.uniform(0.1, 3, 6),
    "of each row": RNG.uniform(0, 3, (4, 6)) * (RNG.random((4, 6)) < 0.7),
}


def free_energy(energies, beta, weights=None, average=False):
    """-1/beta log sum w exp(-beta E) in float64."""
    weights = np.broadcast_to(1 if weights is None else weights, energies.shape)
    if average:
        weights = weights / weights.sum(-1, keepdims=True)
    lowest = np.where(weights > 0, energies, INF).min(-1, keepdims=True)
    above = np.where(weights > 0, energies - lowest, INF)
    if beta == 0:
        return lowest[..., 0] + (weights * np.where(weights > 0, above, 0)).sum(-1)
    if beta == INF:
        return lowest[..., 0]
    return lowest[..., 0] - np.log((weights * np.exp(-beta * above)).sum(-1)) / beta


def gibbs(energies, beta, weights=None):
    weights = np.broadcast_to(1 if weights is None else weights, energies.shape)
    allowed = np.isfinite(energies) & (weights > 0)
    above = energies - np.where(allowed, energies, INF).min(-1, keepdims=True)
    above = np.where(allowed, above, INF)
    exponents = (
        np.where(above == 0, 0, -INF) if beta == INF else -beta * np.where(allowed, above, 0)
    )
    terms = weights * allowed * np.exp(exponents)
    return terms / terms.sum(-1, keepdims=True)


soft = jax.jit(softmin, static_argnames=("axis", "average"))
of_energies = jax.jit(jax.grad(lambda *a, **k: softmin(*a, **k).sum()))
of_beta = jax.jit(jax.vmap(jax.value_and_grad(softmin, 1), (0, None)))
of_beta_average = jax.jit(
    jax.vmap(jax.value_and_grad(lambda e, b: softmin(e, b, average=True), 1), (0, None))
)
curvature = jax.jit(
    jax.vmap(
        jax.jacfwd(jax.grad(lambda e, b: softmin(e, b, average=True), (0, 1)), (0, 1)), (0, None)
    )
)
probabilities, log_p_of = jax.jit(softargmin), jax.jit(log_probabilities)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_softmin_is_the_free_energy_at_any_beta_in_float32(weights):
    w = WEIGHTS[weights]
    energies = np.float32(ENERGIES)
    for beta in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        for average in (False, True):
            want = free_energy(energies.astype(float), beta, w, average)
            got = soft(energies, beta, weights=w, average=average)
            np.testing.assert_allclose(got, want, rtol=1e-5)
    for beta in (0.0, INF):
        want = free_energy(energies.astype(float), beta, w, True)
        np.testing.assert_allclose(soft(energies, beta, weights=w, average=True), want, rtol=1e-6)


def test_softmin_is_the_mean_at_0_and_the_minimum_at_infinity_which_the_sum_shares():
    energies = np.float32(ENERGIES)
    mean, minimum = energies.mean(1), energies.min(1)
    np.testing.assert_allclose(soft(energies, 0.0, average=True), mean, rtol=1e-6)
    np.testing.assert_array_equal(soft(energies, INF, average=True), minimum)
    np.testing.assert_array_equal(soft(energies, INF), minimum)
    np.testing.assert_array_equal(soft(energies, 0.0), np.full(4, -INF))


def test_softmin_falls_from_the_mean_to_the_minimum_as_beta_grows(x64):
    betas = np.concatenate([[0], np.logspace(-8, 8, 60), [INF]])
    values = np.stack([soft(ENERGIES, b, average=True) for b in betas])
    assert np.diff(values, axis=0).max() <= 1e-12
    for beta in (1e-3, 2.0):
        gap = soft(ENERGIES, beta, average=True) - soft(ENERGIES, beta)
        np.testing.assert_allclose(gap, np.log(6) / beta)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_gradient_is_the_gibbs_distribution_at_every_beta(weights):
    for energies in (ENERGIES, np.vstack([TIES, TIES[:1]])):
        for beta in (0.0, 1e-3, 1.0, 1e3, INF):
            want = gibbs(energies, beta, WEIGHTS[weights])
            inputs = np.float32(energies), beta
            got = probabilities(*inputs, weights=WEIGHTS[weights])
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(np.sum(got, axis=1), 1, rtol=1e-6)
            slope = of_energies(*inputs, weights=WEIGHTS[weights])
            np.testing.assert_allclose(slope, got, rtol=1e-5, atol=1e-7)


SETS = {
    "spread out": ENERGIES,
    "skewed": np.array([[0.0, 0, 0, 0, 0, 10]]),
    "with infinite ones": np.array([[1.0, INF, 1, INF, 1, 1.5], [0, INF, INF, INF, INF, INF]]),
    "one": np.array([[2.0]]),
}


@pytest.mark.parametrize("beta", [1e-4, 1e-3, 0.03, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("energies", SETS.values(), ids=SETS)
def test_the_derivative_in_beta_is_that_of_finite_differences(energies, beta, x64):
    for function, average in [(of_beta, False), (of_beta_average, True)]:
        value, slope = function(energies, beta)
        below, here, above = (
            free_energy(energies, beta * by, average=average) for by in (0.999, 1, 1.001)
        )
        np.testing.assert_allclose(value, here, rtol=1e-9, atol=1e-9)
        differences = (above - below) / (2e-3 * beta)
        np.testing.assert_allclose(slope, differences, rtol=1e-4, atol=1e-10 + 1e-14 / beta**2)


def test_at_beta_0_and_infinity_the_derivative_in_beta_is_its_limit(x64):
    np.testing.assert_allclose(of_beta_average(ENERGIES, 0.0)[1], -ENERGIES.var(1) / 2)
    np.testing.assert_array_equal(of_beta_average(ENERGIES, INF)[1], np.zeros(4))
    np.testing.assert_array_equal(of_beta(SETS["one"], 0.0), [[2], [0]])


@pytest.mark.parametrize("beta", [1e-3, 0.5, 3.0])
def test_second_derivatives_are_those_of_finite_differences(beta, x64):
    def slopes(beta):
        p = gibbs(ENERGIES, beta)
        free = free_energy(ENERGIES, beta, average=True)
        return p, ((p * ENERGIES).sum(1) - free) / beta

    (of_ee, of_eb), (of_be, of_bb) = curvature(ENERGIES, beta)
    p, _ = slopes(beta)
    want = -beta * (p[:, :, None] * np.eye(6) - p[:, :, None] * p[:, None, :])
    np.testing.assert_allclose(of_ee, want, rtol=1e-6, atol=1e-12)
    of_p, of_slope = (
        (above - below) / 2e-5
        for above, below in zip(slopes(beta + 1e-5), slopes(beta - 1e-5), strict=True)
    )
    np.testing.assert_allclose(of_eb, of_p, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_be, of_p, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_bb, of_slope, rtol=5e-3, atol=5e-3)


def test_second_derivatives_at_beta_0_and_infinity_are_finite(x64):
    for beta in (0.0, INF):
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(curvature(ENERGIES, beta)))


def test_the_axis_of_the_answers_may_be_any():
    energies = np.float32(RNG.normal(0, 1, (3, 4, 5)))
    weights = np.float32(RNG.random(energies.shape))

    @jax.jit
    def along(energies, weights):
        found = []
        for axis in (0, 1):
            last, last_weights = jnp.moveaxis(energies, axis, -1), jnp.moveaxis(weights, axis, -1)
            for w, last_w in [(weights, last_weights), (last_weights[0, 0],) * 2]:
                p = softargmin(energies, 0.7, axis=axis, weights=w)
                found.append((jnp.moveaxis(p, axis, -1), softargmin(last, 0.7, weights=last_w)))
                free = softmin(energies, 0.7, axis=axis, weights=w)
                found.append((free, softmin(last, 0.7, weights=last_w)))
        return found

    for got, want in along(energies, weights):
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, INF])
@pytest.mark.parametrize("energies, weights", [([INF, INF], None), ([1.0, NAN], [0.0, 0.0])])
def test_a_set_without_an_answer_has_infinite_energy_and_gradient_zero(energies, weights, beta):
    inputs = dict(energies=jnp.float32([energies]), weights=weights and np.float32(weights))
    for average in (False, True):
        assert soft(beta=beta, average=average, **inputs) == INF
    slope = of_energies(inputs["energies"], beta, weights=inputs["weights"])
    np.testing.assert_array_equal(slope, [[0, 0]])
    np.testing.assert_array_equal(probabilities(beta=beta, **inputs), [[0, 0]])


@pytest.mark.parametrize("beta", [0.0, 1.0, INF])
def test_an_energy_that_is_not_a_number_stays_visible(beta):
    energies = jnp.float32([[NAN, 1.0], [0.0, 1.0]])
    value = soft(energies, beta, average=True)
    assert np.isnan(value).tolist() == [True, False]
    assert np.isnan(probabilities(energies, beta)).any(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("beta", [0.0, 1.0, INF])
def test_all_is_on_an_answer_of_energy_minus_infinity(beta):
    energies = jnp.float32([[0, -INF, 1], [2, 2, 2]])
    assert soft(energies, beta, average=True).tolist() == [-INF, 2]
    want = [[0, 1, 0], [1 / 3] * 3]
    np.testing.assert_allclose(probabilities(energies, beta), want, rtol=1e-6)


def test_beta_is_one_number_of_at_least_0():
    for beta in (-1.0, NAN):
        with pytest.raises(ValueError, match="at least 0"):
            softmin(jnp.zeros(3), beta)
    with pytest.raises(ValueError, match="one number"):
        softargmin(jnp.zeros((2, 3)), jnp.ones(2))


def test_integer_energies_become_floats_and_float_ones_keep_their_precision(x64):
    assert softmin(np.arange(3)).dtype == jnp.float64
    for dtype in (jnp.float16, jnp.float32, jnp.float64):
        energies = jax.ShapeDtypeStruct((2, 3), dtype)
        for average in (False, True):
            found = jax.eval_shape(lambda e, a=average: softmin(e, 2.0, average=a), energies)
            assert (found.shape, found.dtype) == ((2,), dtype)


BIG = np.float32(RNG.normal(0, 1, (300, 2000)))  # above 2^18 numbers, so in blocks of rows


def test_a_large_matrix_gives_what_its_rows_give_one_by_one():
    shares = np.random.default_rng(1).random(BIG.shape).astype(np.float32)
    truth, allowed, common = np.argsort(BIG, axis=1)[:, 7], BIG > 0.3, shares[0]

    def everything(energies, shares, truth, allowed):
        return (
            softmin(energies, 2.0),
            softmin(energies, 0.1, weights=shares, average=True),
            softmin(energies, 2.0, weights=common),
            rank(energies, truth),
            *negatives.most_offending(energies, truth),
            *negatives.most_offending(energies, allowed=allowed),
        )

    blocked = jax.jit(everything)(BIG, shares, truth, allowed)
    rows = jax.jit(lambda *a: jax.lax.map(lambda row: everything(*row), a))
    for got, want in zip(blocked, rows(BIG, shares, truth, allowed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(blocked[0], free_energy(BIG.astype(float), 2.0), rtol=1e-5)
    np.testing.assert_array_equal(blocked[3], 8)
    np.testing.assert_array_equal(blocked[4], BIG.argmin(1))
    np.testing.assert_array_equal(blocked[6], np.where(allowed, BIG, INF).argmin(1))


@pytest.mark.parametrize("what", ["values", "gradient of the likelihood"])
def test_energies_of_a_large_matrix_are_never_copied(what):
    """Beside the matrix the compiled program needs a fraction of its memory."""
    energies = jax.ShapeDtypeStruct((1024, 10_000), jnp.float32)
    truth = jax.ShapeDtypeStruct((1024,), jnp.int32)

    def values(e, t):
        return softmin(e, 2.0), negatives.most_offending(e, t), rank(e, t)

    def likelihood(e, t):
        return nll(jnp.take_along_axis(e, t[:, None], axis=1)[:, 0], e).mean()

    function = values if what == "values" else jax.value_and_grad(likelihood)
    memory = jax.jit(function).lower(energies, truth).compile().memory_analysis()
    assert memory.argument_size_in_bytes >= 1024 * 10_000 * 4
    assert memory.temp_size_in_bytes <= 0.25 * 1024 * 10_000 * 4


def test_softmin_of_a_batch_is_that_of_its_rows_compiled_or_not():
    energies = jnp.float32(ENERGIES)
    rows = [soft(row, 0.5) for row in energies]
    np.testing.assert_allclose(softmin(energies, 0.5), rows, rtol=1e-6)
    by_beta = jax.jit(jax.vmap(jax.vmap(softmin, (0, None)), (None, 0)))
    got = by_beta(energies, jnp.float32([0.5, 2]))
    np.testing.assert_allclose(got, [rows, soft(energies, 2.0)], rtol=1e-6)


def test_energies_of_log_probabilities_are_the_energies_up_to_a_constant(x64):
    for beta in (0.3, 4.0):
        log_p = log_p_of(ENERGIES, beta)
        np.testing.assert_allclose(np.exp(log_p), gibbs(ENERGIES, beta))
        again = energy_of(log_p, beta, constant=7.0)
        np.testing.assert_allclose(
            again - ENERGIES, 7 - np.repeat(free_energy(ENERGIES, beta), 6).reshape(4, 6)
        )
        np.testing.assert_allclose(probabilities(again, beta), gibbs(ENERGIES, beta))


def test_on_a_grid_log_probabilities_are_those_of_the_density(x64):
    grid = np.linspace(-9, 9, 601)
    log_density = log_p_of(grid**2 / 2, 2.0, weights=np.float64(grid[1] - grid[0]))
    np.testing.assert_allclose(log_density, -(grid**2) - np.log(np.pi) / 2, atol=1e-9)


def test_other_energies_have_the_same_answers_but_another_distribution():
    energies = np.float32(np.abs(ENERGIES))
    saturated = Saturated(lambda _, e, y: e[y], ceiling=4.0)
    capped = jax.vmap(lambda e: jax.vmap(lambda y: saturated(None, e, y))(jnp.arange(6)))(energies)
    for other in (2 * energies + 3, energies**3, capped):
        np.testing.assert_array_equal(ranking(other), np.argsort(energies, axis=1))
        assert np.abs(probabilities(other) - probabilities(energies)).max() > 0.05
    assert capped.max() < 4


def test_the_integral_of_a_saturated_energy_has_no_limit_as_the_grid_widens():
    energy = Regressor(lambda params, x: x)

    def integral(energy, width):
        y = jnp.linspace(-width, width, 2001)[:, None]
        energies = pairwise(energy, None, jnp.zeros((1, 1)), y)
        return np.exp(-soft(energies, weights=np.float32(width / 1000)))[0]

    quadratic = [integral(energy, w) for w in (10, 20, 40)]
    np.testing.assert_allclose(quadratic, np.sqrt(2 * np.pi), rtol=1e-4)
    saturated = [integral(Saturated(energy, 2.0), w) for w in (10, 20, 40)]
    assert saturated[1] - saturated[0] > 0.95 * 20 * np.exp(-2)
    assert saturated[2] - saturated[1] > 0.95 * 40 * np.exp(-2)


def intermediate_shapes(jaxpr, primitive):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            yield eqn.outvars[0].aval.shape
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                yield from intermediate_shapes(inner.jaxpr, primitive)


def test_pairwise_has_every_pair_and_computes_each_network_once_for_each_input():
    def network(params, x):
        return jnp.tanh(x @ params[0]) @ params[1]

    rng = np.random.default_rng(2)
    energy = ImplicitRegressor(network, network)
    params = {k: [np.float32(rng.normal(size=s)) for s in ((2, 7), (7, 3))] for k in "xy"}
    x, y = np.float32(rng.normal(size=(4, 2))), np.float32(rng.normal(size=(5, 2)))
    want = [[energy(params, a, b) for b in y] for a in x]
    np.testing.assert_allclose(pairwise(energy, params, x, y), want, rtol=1e-5)
    jaxpr = jax.make_jaxpr(lambda p, x, y: pairwise(energy, p, x, y))(params, x, y).jaxpr
    assert sorted(intermediate_shapes(jaxpr, "tanh")) == [(4, 7), (5, 7)]


def test_ranking_puts_the_first_of_equals_first_and_rank_counts_ties_against_the_truth():
    np.testing.assert_array_equal(
        ranking(jnp.float32(TIES)), [[1, 2, 4, 3, 0, 5], [0, 1, 2, 3, 4, 5], [1, 3, 0, 2, 4, 5]]
    )
    for truth, want in [(1, [3, 6, 2]), (0, [5, 6, 3]), (5, [6, 6, 6])]:
        np.testing.assert_array_equal(rank(jnp.float32(TIES), jnp.full(3, truth)), want)
    rng = np.random.default_rng(3)
    energies, truth = rng.integers(0, 4, (2, 3, 8)), rng.integers(0, 8, (2, 3))
    places = rank(jnp.float32(energies), truth)
    for i, j in np.ndindex(2, 3):
        others = np.delete(energies[i, j], truth[i, j])
        assert places[i, j] == 1 + (others <= energies[i, j, truth[i, j]]).sum()


def test_an_energy_that_is_not_a_number_never_helps_the_rank():
    assert rank(jnp.float32([NAN, 1, 2]), jnp.asarray(0)) == 3
    assert rank(jnp.float32([0, NAN, 2]), jnp.asarray(0)) == 2


def test_local_minima_are_the_bottoms_of_wells_the_left_end_of_flat_ones_and_of_the_grid():
    grid = np.linspace(-2, 2, 401)
    wells = (grid**2 - 1) ** 2
    np.testing.assert_allclose(grid[np.asarray(local_minima(jnp.asarray(wells)))], [-1, 1])
    rows = jnp.float32(
        [[0, 1, 2, 1], [3, 1, 1, 2], [5, 5, 5, 5], [INF, 2, INF, 1], [3, 2, 2, 1], [3, 0, 0, NAN]]
    )
    np.testing.assert_array_equal(
        local_minima(rows),
        [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
    )
