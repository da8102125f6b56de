from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax

from spen_jax import exact
from spen_jax.energies import ImplicitRegressor, Regressor, Saturated
from spen_jax.exact import (
    energy_of,
    local_minima,
    log_probabilities,
    order,
    pairwise,
    rank,
    softargmin,
    softmin,
)
from spen_jax.losses import most_offending, nll

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
ENERGIES = RNG.normal(1, 2, (4, 6))
TIES = np.array([[3.0, 1, 1, 2, 1, 9], [0, 0, 0, 0, 0, 0], [5, -2, INF, -2, INF, INF], [1] * 6])
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


class Found(NamedTuple):
    total: np.ndarray
    average: np.ndarray
    p: np.ndarray
    slope: np.ndarray


@jax.jit
def compiled(energies, beta, weights):
    total = softmin(energies, beta, weights=weights)
    average, back = jax.vjp(lambda e: softmin(e, beta, weights=weights, average=True), energies)
    p = softargmin(energies, beta, weights=weights)
    return Found(total, average, p, back(jnp.ones_like(average))[0])


def found(energies, beta, weights=None):
    """Of any rows of at most (4, 6): all sets share one compilation for each shape of weights."""
    return Found(*map(np.asarray, compiled(np.float32(energies), beta, weights)))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_softmin_is_the_free_energy_at_any_beta_in_float32(weights):
    w, energies = WEIGHTS[weights], np.float64(np.float32(ENERGIES))
    for beta in (0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6, INF):
        got = found(energies, beta, w)
        np.testing.assert_allclose(got.average, free_energy(energies, beta, w, True), rtol=1e-5)
        if beta > 0:
            np.testing.assert_allclose(got.total, free_energy(energies, beta, w), rtol=1e-5)


def test_softmin_is_the_mean_at_0_and_the_minimum_at_infinity_which_the_sum_shares():
    energies = np.float32(ENERGIES)
    hot, cold = found(energies, 0.0), found(energies, INF)
    np.testing.assert_allclose(hot.average, energies.mean(1), rtol=1e-6)
    np.testing.assert_array_equal(cold.average, energies.min(1))
    np.testing.assert_array_equal(cold.total, energies.min(1))
    np.testing.assert_array_equal(hot.total, np.full(4, -INF))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_gradient_is_the_gibbs_distribution_at_every_beta(weights):
    for energies in (ENERGIES, TIES):
        for beta in (0.0, 1e-3, 1.0, 1e3, INF):
            got = found(energies, beta, WEIGHTS[weights])
            want = gibbs(energies, beta, WEIGHTS[weights])
            np.testing.assert_allclose(got.p, want, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(got.p.sum(1), 1, rtol=1e-6)
            np.testing.assert_allclose(got.slope, got.p, rtol=1e-5, atol=1e-7)


ONE = np.array([[2.0, *[INF] * 5]])
SETS = np.vstack([ENERGIES, [[0, 0, 0, 0, 0, 10], [1, INF, 1, INF, 1, 1.5]], ONE])


@jax.jit
def in_beta(energies, beta):
    """Values and slopes in beta of the sum and of the average, (2, rows) each."""
    functions = softmin, partial(softmin, average=True)
    each = [jax.vmap(jax.value_and_grad(f, 1), (0, None))(energies, beta) for f in functions]
    return jax.tree.map(lambda *a: jnp.stack(a), *each)


def test_softmin_falls_from_the_mean_to_the_minimum_as_beta_grows(x64):
    betas = np.concatenate([[0], np.logspace(-8, 8, 60), [INF]])
    values = np.stack([in_beta(SETS[:5], b)[0] for b in betas])
    assert np.diff(values[:, 1], axis=0).max() <= 1e-12
    gaps = (values[1:-1, 1] - values[1:-1, 0]) * betas[1:-1, None]
    np.testing.assert_allclose(gaps, np.log(6), rtol=1e-6)


@pytest.mark.parametrize("beta", [1e-4, 1e-3, 0.03, 0.5, 3.0, 30.0])
def test_the_derivative_in_beta_is_that_of_finite_differences(beta, x64):
    values, slopes = in_beta(SETS, beta)
    for value, slope, average in zip(values, slopes, (False, True), strict=True):
        below, here, above = (
            free_energy(SETS, beta * by, average=average) for by in (0.999, 1, 1.001)
        )
        np.testing.assert_allclose(value, here, rtol=1e-9, atol=1e-9)
        differences = (above - below) / (2e-3 * beta)
        np.testing.assert_allclose(slope, differences, rtol=1e-4, atol=1e-10 + 1e-14 / beta**2)


def test_at_beta_0_and_infinity_the_derivative_in_beta_is_its_limit(x64):
    np.testing.assert_allclose(in_beta(SETS, 0.0)[1][1, :4], -ENERGIES.var(1) / 2)
    np.testing.assert_array_equal(in_beta(SETS, INF)[1][1, :4], np.zeros(4))
    of_one = jax.jit(jax.value_and_grad(softmin, 1))(np.array([2.0]), 0.0)
    np.testing.assert_array_equal(of_one, [2, 0])


curvature = jax.jit(
    jax.vmap(
        jax.jacfwd(jax.grad(lambda e, b: softmin(e, b, average=True), (0, 1)), (0, 1)), (0, None)
    )
)


LARGE = np.array([[0, 1e30, INF], [1e30, 1e30, INF], [1e30, 2e30, 3e30], [-1e30, 1e30, INF]])
"""Energies whose squares float32 does not hold."""


@pytest.mark.parametrize("beta", [1e-3, 1.0, 30.0, 1e15])
def test_the_derivative_in_beta_of_large_energies_is_right_in_float32(beta):
    energies = np.float32(LARGE)
    total, average = in_beta(energies, np.float32(beta))[1]
    tied = np.array([1, 2, 1, 1])  # lowest ones, beside which the others count for nothing
    np.testing.assert_allclose(average, -np.log(3 / tied) / beta**2, rtol=1e-5)
    np.testing.assert_allclose(total, np.log(tied) / beta**2, rtol=1e-5, atol=2e-7 / beta**2)
    of_loss = jax.jit(jax.vmap(jax.value_and_grad(nll, 2), (0, 0, None)))
    _, slope = of_loss(energies[:, 0], energies, np.float32(beta))
    np.testing.assert_allclose(slope, -np.log(tied) / beta**2, rtol=1e-5, atol=2e-7 / beta**2)


def test_beside_a_large_level_the_differences_of_energies_still_count():
    # The last digit of the level is one step.
    level, step = np.float32(2.0**83), np.float32(2.0**60)
    energies = np.stack([of + step * np.float32([0, 1, 2]) for of in (level, -level, 0)])
    beta = 2.0**-60
    slopes = in_beta(energies, np.float32(beta))[1]
    above = np.tile([[0, 1, 2]], (3, 1)) / beta
    for slope, average in zip(slopes, (False, True), strict=True):
        below, over = (free_energy(above, beta * by, average=average) for by in (0.9999, 1.0001))
        np.testing.assert_allclose(slope, (over - below) / (2e-4 * beta), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1e-30, 1e-3, 1.0, 1e20, INF])
def test_all_derivatives_of_large_energies_are_finite_in_float32(beta):
    energies, beta = np.float32([[0, 1e30], [1e30, 1e30], [-1e15, 1e15]]), np.float32(beta)
    slopes = np.asarray(in_beta(energies, beta)[1][1])
    assert np.isfinite(slopes).all() and (slopes <= 0).all()
    np.testing.assert_allclose(slopes[1], 0, atol=1e-38)
    if beta >= 1e-3:
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(curvature(energies, beta)))


def test_second_derivatives_are_those_of_finite_differences_and_finite_at_the_limits(x64):
    def slopes(beta):
        p = gibbs(ENERGIES, beta)
        free = free_energy(ENERGIES, beta, average=True)
        return p, ((p * ENERGIES).sum(1) - free) / beta

    for beta in (1e-3, 0.5, 3.0):
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
    for beta in (0.0, INF):
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(curvature(ENERGIES, beta)))


def test_the_axis_of_the_answers_may_be_any():
    energies = np.float32(RNG.normal(0, 1, (3, 4, 5)))
    weights = np.float32(RNG.random(energies.shape))
    of_axis = {0: weights[:, 0, 0], 1: weights[0, :, 0]}

    @jax.jit
    def along(energies, weights):
        return [
            (
                softargmin(energies, 0.7, axis=axis, weights=w),
                softmin(energies, 0.7, axis=axis, weights=w),
            )
            for axis in (0, 1)
            for w in (weights, of_axis[axis])
        ]

    got = iter(along(energies, weights))
    for axis in (0, 1):
        last = np.moveaxis(energies, axis, -1)
        for w in (np.moveaxis(weights, axis, -1), of_axis[axis]):
            p, free = next(got)
            np.testing.assert_allclose(np.moveaxis(p, axis, -1), gibbs(last, 0.7, w), rtol=1e-5)
            np.testing.assert_allclose(free, free_energy(last, 0.7, w), rtol=1e-4, atol=1e-6)


# Infinite, undefined, none at all


@pytest.mark.parametrize("beta", [0.0, 1.0, INF])
def test_a_set_without_an_answer_has_infinite_energy_and_gradient_zero(beta):
    none = np.full((4, 6), INF)
    nowhere = np.full((4, 6), NAN), np.zeros((4, 6))
    for got in (found(none, beta), found(*nowhere[:1], beta, nowhere[1])):
        np.testing.assert_array_equal([got.total, got.average], INF)
        np.testing.assert_array_equal([got.p, got.slope], 0)


@pytest.mark.parametrize("beta", [0.0, 1.0, INF])
def test_an_energy_that_is_not_a_number_stays_visible(beta):
    energies = ENERGIES.copy()
    energies[[0, 2], [3, 0]] = NAN
    got = found(energies, beta)
    assert np.isnan(got.average).tolist() == [True, False, True, False]
    assert np.isnan(got.p).any(axis=1).tolist() == [True, False, True, False]


@pytest.mark.parametrize("beta", [0.0, 1.0, INF])
def test_all_is_on_an_answer_of_energy_minus_infinity(beta):
    got = found([[0, -INF, 1, 1, 1, 1], *[[2] * 6] * 3], beta)
    assert got.average.tolist() == [-INF, 2, 2, 2]
    np.testing.assert_allclose(got.p, [[0, 1, 0, 0, 0, 0], *[[1 / 6] * 6] * 3], rtol=1e-6)


def test_beta_is_one_number_of_at_least_0():
    for beta in (-1.0, NAN):
        with pytest.raises(ValueError, match="at least 0"):
            softmin(jnp.zeros(3), beta)
    with pytest.raises(ValueError, match="one number"):
        softargmin(jnp.zeros((2, 3)), jnp.ones(2))


def test_integer_energies_become_floats_and_float_ones_keep_their_precision(x64):
    assert jax.eval_shape(softmin, np.arange(3)).dtype == jnp.float64
    for dtype in (jnp.float16, jnp.float32, jnp.float64):
        energies = jax.ShapeDtypeStruct((2, 3), dtype)
        for average in (False, True):
            out = jax.eval_shape(lambda e, a=average: softmin(e, 2.0, average=a), energies)
            assert (out.shape, out.dtype) == ((2,), dtype)


# Large sets


def test_a_large_matrix_gives_what_its_rows_give():
    energies = np.float32(RNG.normal(0, 1, (300, 2000)))  # above 2^18 numbers, so in blocks of rows
    shares = RNG.random(energies.shape).astype(np.float32)
    truth, allowed, common = np.argsort(energies, axis=1)[:, 7], energies > 0.3, shares[0]

    @jax.jit
    def everything(energies, shares, truth, allowed):
        return (
            softmin(energies, 2.0),
            softmin(energies, 0.1, weights=shares, average=True),
            softmin(energies, 2.0, weights=common),
            rank(energies, truth),
            most_offending(energies, truth)[0],
            most_offending(energies, allowed=allowed)[0],
        )

    plain, shared, weighted, place, *worst = everything(energies, shares, truth, allowed)
    exactly = energies.astype(float)
    np.testing.assert_allclose(plain, free_energy(exactly, 2.0), rtol=1e-5)
    np.testing.assert_allclose(shared, free_energy(exactly, 0.1, shares, True), 1e-5, 3e-6)
    np.testing.assert_allclose(weighted, free_energy(exactly, 2.0, common), rtol=1e-5)
    np.testing.assert_array_equal(place, 8)
    np.testing.assert_array_equal(worst[0], energies.argmin(1))
    np.testing.assert_array_equal(worst[1], np.where(allowed, energies, INF).argmin(1))


@pytest.mark.parametrize("what", ["values", "gradient of the likelihood"])
def test_energies_of_a_large_matrix_are_never_copied(what):
    """Beside the matrix the compiled program needs a fraction of its memory."""
    energies = jax.ShapeDtypeStruct((1024, 10_000), jnp.float32)
    truth = jax.ShapeDtypeStruct((1024,), jnp.int32)

    def values(e, t):
        return softmin(e, 2.0), most_offending(e, t), rank(e, t)

    def likelihood(e, t):
        return nll(jnp.take_along_axis(e, t[:, None], axis=1)[:, 0], e).mean()

    function = values if what == "values" else jax.value_and_grad(likelihood)
    memory = jax.jit(function).lower(energies, truth).compile().memory_analysis()
    assert memory.argument_size_in_bytes >= 1024 * 10_000 * 4
    assert memory.temp_size_in_bytes <= 0.25 * 1024 * 10_000 * 4


def test_softmin_of_a_batch_is_that_of_its_rows():
    by_beta = jax.jit(jax.vmap(jax.vmap(softmin, (0, None)), (None, 0)))
    got = by_beta(np.float32(ENERGIES), np.float32([0.5, 2]))
    want = [found(ENERGIES, beta).total for beta in (0.5, 2.0)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


# Probabilities


def test_energies_of_log_probabilities_are_the_energies_up_to_a_constant(x64):
    log_p_of = jax.jit(log_probabilities)
    for beta in (0.3, 4.0):
        log_p = log_p_of(ENERGIES, beta)
        np.testing.assert_allclose(np.exp(log_p), gibbs(ENERGIES, beta))
        again = np.asarray(energy_of(log_p, beta, constant=7.0))
        free = np.tile(free_energy(ENERGIES, beta)[:, None], 6)
        np.testing.assert_allclose(again - ENERGIES, 7 - free)
        np.testing.assert_allclose(gibbs(again, beta), gibbs(ENERGIES, beta))


def test_on_a_grid_log_probabilities_are_those_of_the_density(x64):
    grid = np.linspace(-9, 9, 601)
    log_p_of = jax.jit(partial(log_probabilities, weights=np.float64(grid[1] - grid[0])))
    np.testing.assert_allclose(log_p_of(grid**2 / 2, 2.0), -(grid**2) - np.log(np.pi) / 2, 1e-9)


def test_other_energies_have_the_same_answers_but_another_distribution():
    energies = np.float32(np.abs(ENERGIES))
    saturated = Saturated(lambda _, e, y: e[y], ceiling=4.0)
    capped = jax.jit(jax.vmap(lambda e: pairwise(saturated, None, e[None], jnp.arange(6))[0]))(
        energies
    )
    ordered = jax.jit(order)
    for other in (2 * energies + 3, energies**3, capped):
        np.testing.assert_array_equal(ordered(other), np.argsort(energies, axis=1))
        assert np.abs(found(other, 1.0).p - found(energies, 1.0).p).max() > 0.05
    assert capped.max() < 4


def test_the_integral_of_a_saturated_energy_has_no_limit_as_the_grid_widens():
    energy = Regressor(lambda params, x: x)

    @jax.jit
    def integrals(width):
        y = width * jnp.linspace(-1, 1, 2001)[:, None]
        both = [pairwise(e, None, jnp.zeros((1, 1)), y)[0] for e in (energy, Saturated(energy, 2))]
        return jnp.exp(-softmin(jnp.stack(both), weights=width / 1000))

    quadratic, saturated = np.transpose([integrals(w) for w in (10.0, 20.0, 40.0)])
    np.testing.assert_allclose(quadratic, np.sqrt(2 * np.pi), rtol=1e-4)
    assert saturated[1] - saturated[0] > 0.95 * 20 * np.exp(-2)
    assert saturated[2] - saturated[1] > 0.95 * 40 * np.exp(-2)


# All pairs, and what is found in them


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
    def network(params, x, xp=jnp):
        return xp.tanh(x @ params[0]) @ params[1]

    rng = np.random.default_rng(2)
    energy = ImplicitRegressor(network, network)
    params = {k: [np.float32(rng.normal(size=s)) for s in ((2, 7), (7, 3))] for k in "xy"}
    x, y = np.float32(rng.normal(size=(4, 2))), np.float32(rng.normal(size=(5, 2)))
    apart = network(params["x"], x, np)[:, None] - network(params["y"], y, np)
    got = jax.jit(partial(pairwise, energy))(params, x, y)
    np.testing.assert_allclose(got, (apart**2).sum(-1) / 2, rtol=1e-5)
    jaxpr = jax.make_jaxpr(lambda p, x, y: pairwise(energy, p, x, y))(params, x, y).jaxpr
    assert sorted(intermediate_shapes(jaxpr, "tanh")) == [(4, 7), (5, 7)]


places = jax.jit(rank)


def test_the_order_puts_the_first_of_equals_first_and_rank_counts_ties_against_the_truth():
    ties = np.float32(TIES[:3])
    np.testing.assert_array_equal(
        order(jnp.asarray(ties)), [[1, 2, 4, 3, 0, 5], [0, 1, 2, 3, 4, 5], [1, 3, 0, 2, 4, 5]]
    )
    for truth, want in [(1, [3, 6, 2]), (0, [5, 6, 3]), (5, [6, 6, 6])]:
        np.testing.assert_array_equal(places(ties, np.full(3, truth)), want)
    rng = np.random.default_rng(3)
    energies, truth = rng.integers(0, 4, (2, 3, 8)), rng.integers(0, 8, (2, 3))
    found_places = places(np.float32(energies), truth)
    for i, j in np.ndindex(2, 3):
        others = np.delete(energies[i, j], truth[i, j])
        assert found_places[i, j] == 1 + (others <= energies[i, j, truth[i, j]]).sum()


def test_an_energy_that_is_not_a_number_never_helps_the_rank():
    got = places(np.float32([[NAN, 1, 2], [0, NAN, 2]]), np.array([0, 0]))
    np.testing.assert_array_equal(got, [3, 2])


def test_local_minima_are_the_bottoms_of_wells_the_left_end_of_flat_ones_and_of_the_grid():
    bottoms = jax.jit(local_minima)
    grid = np.linspace(-2, 2, 401)
    np.testing.assert_allclose(grid[np.asarray(bottoms((grid**2 - 1) ** 2))], [-1, 1])
    rows = np.float32(
        [[0, 1, 2, 1], [3, 1, 1, 2], [5, 5, 5, 5], [INF, 2, INF, 1], [3, 2, 2, 1], [3, 0, 0, NAN]]
    )
    np.testing.assert_array_equal(
        bottoms(rows),
        [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
    )


# The soft maximum

numbers = st.floats(-20, 20, width=32)
sevens = st.lists(numbers, min_size=7, max_size=7).map(np.array)
shares = st.lists(st.floats(0.1, 5), min_size=7, max_size=7).map(np.array)
betas = st.sampled_from([0.0, 1e-6, 1e-2, 0.3, 1.0, 7.0, 1e3, INF])


@jax.jit
def soft(v, beta, w):
    return exact.softmax(v, beta, weights=w), exact.softargmax(v, beta, weights=w)


@pytest.mark.slow
@settings(deadline=None, max_examples=50, derandomize=True)
@given(sevens, shares, betas)
def test_softmax_is_the_log_sum_of_exponentials_and_softargmax_its_distribution(v, w, beta):
    with jax.enable_x64(True):
        high, p = map(np.asarray, soft(v, beta, w))
    top = v == v.max()
    want = top * w / (top @ w) if beta == INF else scipy_softmax(beta * v + np.log(w))
    np.testing.assert_allclose(p, want, rtol=1e-9, atol=1e-12)
    if 0 < beta < INF:
        np.testing.assert_allclose(high, logsumexp(beta * v, b=w) / beta, rtol=1e-9, atol=1e-9)
    if beta == INF:
        assert high == v.max()


def test_softmax_of_integers_is_that_of_the_same_floats():
    values = np.array([0, 1, 2], np.uint8)  # whose negative is not minus the values
    high, p = soft(values, 1.0, None)
    want = logsumexp([0, 1, 2])
    np.testing.assert_allclose(high, want, rtol=1e-6)
    np.testing.assert_allclose(p, np.exp([0, 1, 2] - want), rtol=1e-6)
