import itertools
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import counting, coupled, parabola, positive_definite
from scipy.stats import chisquare, truncnorm

from spen_jax.batching import block_sizes, suits_last
from spen_jax.diagnostics import effective_sample_size, split_r_hat
from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex
from spen_jax.sampling import (
    GibbsWithGradients,
    HamiltonianMonteCarlo,
    Langevin,
    Point,
    Target,
    sample,
)

REALS = Reals()
A = {"a": np.array([1.0, 2.0])}
B = np.array([[0.0, 0.0], [0.5, -1.0]])
START = jnp.zeros((2, 300, 2))
"""600 chains of two numbers are three blocks."""


def normal(sampler, seed=0, beta=1.0, **settings):
    """Samples of the normal law with variances 1 / (beta a) and means b / a, for the two examples of B."""
    settings = {"domain": REALS, "steps": 400, "warm_up": 100, "thin": 4} | settings
    key = jax.random.key(seed)
    got = sample(parabola, A, B, START, key, sampler=sampler, beta=beta, **settings)
    return jax.tree.map(np.asarray, got)


def standard_errors(values, expected):
    """(mean - expected) / standard error of values (C, S), as a number of independent draws would have it."""
    error = np.std(values) / np.sqrt(effective_sample_size(values))
    return float((np.mean(values, dtype=float) - expected) / error)


def assert_mean(values, expected):
    assert abs(standard_errors(values, expected)) < 4.5


# The laws of the chains


def test_the_chains_are_many_blocks():
    assert block_sizes(600, 2)[0] > 1


@pytest.mark.parametrize("beta", [1.0, 4.0])
@pytest.mark.parametrize("noise, h", [("gaussian", 0.4), ("two-point", 0.4), ("two-point", 0.05)])
def test_unadjusted_langevin_has_the_moments_of_its_autoregression(noise, h, beta):
    got = normal(Langevin(h, noise), beta=beta)
    for example in range(2):
        for i, a in enumerate(A["a"]):
            values, mean = np.asarray(got.y[example, ..., i], float), B[example, i] / a
            rho = 1 - h * a
            variance = 2 * h / beta / (1 - rho**2)
            # The fourth cumulant of two-point noise is -2, of Gaussian noise 0.
            cumulant = (-2 if noise == "two-point" else 0) * (2 * h / beta) ** 2 / (1 - rho**4)
            assert_mean(values, mean)
            assert_mean((values - mean) ** 2, variance)
            assert_mean((values - mean) ** 4, 3 * variance**2 + cumulant)
    np.testing.assert_array_equal(got.info.acceptance, 1)
    assert not got.info.divergent.any()
    energies = np.sum(A["a"] * got.y**2 / 2 - B[:, None, None] * got.y, -1)
    np.testing.assert_allclose(got.energy, energies, rtol=1e-4, atol=1e-5)


def test_adjusted_langevin_has_the_right_variance_where_unadjusted_has_not():
    exact, biased = normal(Langevin(0.6, adjusted=True)), normal(Langevin(0.6))
    for i, a in enumerate(A["a"]):
        assert_mean(exact.y[1, ..., i], B[1, i] / a)
        squares = [(s.y[0, ..., i] - B[0, i] / a) ** 2 for s in (exact, biased)]
        assert_mean(squares[0], 1 / a)
        assert standard_errors(squares[1], 1 / a) > 10
    assert 0.3 < exact.info.acceptance.min() and exact.info.acceptance.max() < 0.98


@pytest.mark.parametrize("beta", [1.0, 5.0])
def test_adjusted_langevin_samples_a_truncated_normal(beta):
    got = normal(Langevin(0.15, adjusted=True), beta=beta, domain=Box())
    for i, a in enumerate(A["a"]):
        mean, deviation = B[1, i] / a, (beta * a) ** -0.5
        law = truncnorm((0 - mean) / deviation, (1 - mean) / deviation, mean, deviation)
        assert_mean(got.y[1, ..., i], law.mean())
        assert_mean((got.y[1, ..., i] - law.mean()) ** 2, law.var())
    assert got.y.min() >= 0 and got.y.max() <= 1


def test_reflection_keeps_a_density_on_the_box_and_projection_gathers_at_the_bound():
    h, slope = 1e-3, 3.0

    def energy(params, context, y):
        return slope * y

    def run(boundary):
        sampler = Langevin(h, boundary=boundary)
        start, key = jnp.full((1, 300), 0.3), jax.random.key(1)
        return sample(energy, None, None, start, key, sampler=sampler, steps=1000, thin=10).y[0]

    reflected, projected = run("reflect"), run("project")
    mean = 1 / slope - 1 / np.expm1(slope)
    values = reflected[:, 20:]
    # A step of drift h slope at the bounds is the size of the bias.
    error = np.std(values) / np.sqrt(effective_sample_size(values))
    assert abs(values.mean() - mean) < 4.5 * error + h * slope
    assert np.mean(values == 0) < 1e-3
    assert np.mean(projected[:, 20:] == 0) > 0.02
    assert 0 <= projected.min() and projected.max() <= 1


def test_hamiltonian_monte_carlo_samples_a_correlated_normal_law():
    pytest.importorskip("blackjax")
    a, b, beta = positive_definite(3), np.array([[0.3, -1.0, 2.0]]), 2.0
    got = sample(
        coupled,
        {"A": a},
        b,
        jnp.zeros((1, 100, 3)),
        jax.random.key(0),
        domain=REALS,
        sampler=HamiltonianMonteCarlo(0.3, 6),
        steps=200,
        warm_up=50,
        beta=beta,
    )
    y, mean, covariance = np.asarray(got.y[0]), np.linalg.solve(a, b[0]), np.linalg.inv(a) / beta
    for i in range(3):
        assert_mean(y[..., i], mean[i])
        for j in range(i + 1):
            products = (y[..., i] - mean[i]) * (y[..., j] - mean[j])
            assert_mean(products, covariance[i, j])
    assert got.info.acceptance.min() > 0.8 and not got.info.divergent.any()
    last = y[:, -1]
    energies = np.einsum("ci,ij,cj->c", last, a, last) / 2 - last @ b[0]
    np.testing.assert_allclose(got.energy[0, :, -1], energies, rtol=1e-4, atol=1e-4)


def test_hamiltonian_monte_carlo_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax.mcmc", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'spen_jax\[sampling\]'"):
        normal(HamiltonianMonteCarlo(0.1))


def test_growing_beta_ends_near_the_minimiser():
    schedule = np.geomspace(0.1, 1e4, 500)
    got = normal(Langevin(0.1), beta=schedule, steps=400, warm_up=100)
    # The last variance is below 2 h / beta / (1 - 0.9^2), about 1e-4.
    assert np.abs(got.state - (B / A["a"])[:, None]).max() < 6 * 0.012
    assert np.abs(got.y[:, :, 0] - got.state).max() > 0.1


def test_a_constant_schedule_equals_a_number():
    want, got = (normal(Langevin(0.05), beta=b) for b in (2.0, np.full(500, 2.0)))
    np.testing.assert_array_equal(got.y, want.y)


# The loop


def walled(params, wall, y):
    """y^2 / 2, and NaN with its gradient beyond the wall."""
    return y**2 / 2 + 1e-9 * jnp.sqrt(wall - y)


def walled_off(params, wall, y):
    """y^2 / 2, and +inf beyond the wall, where the gradient is NaN."""
    return jnp.where(y > wall, jnp.inf, walled(params, wall, y))


def run_walled(energy, walls, sampler, steps=60):
    start, key, walls = jnp.zeros((3, 5)), jax.random.key(2), np.array(walls)
    return sample(energy, None, walls, start, key, domain=REALS, sampler=sampler, steps=steps)


@pytest.mark.parametrize("adjusted", [False, True])
def test_a_chain_that_meets_nan_stands_still_and_its_neighbours_do_not_notice(adjusted):
    sampler = Langevin(0.3, adjusted=adjusted)
    good = run_walled(walled, [1e6, 1e6, 1e6], sampler)
    got = run_walled(walled, [1e6, 0.5, 1e6], sampler)
    assert got.info.divergent.tolist() == [[False] * 5, [True] * 5, [False] * 5]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(good), strict=True):
        np.testing.assert_array_equal(a[::2], b[::2])
    assert np.isfinite(got.y).all()
    for chain, free in zip(np.asarray(got.y[1]), np.asarray(good.y[1]), strict=True):
        assert chain.max() < 0.5 and np.all(chain[-5:] == chain[-1])
        if not adjusted:
            stop = np.argmax(free > 0.5)
            np.testing.assert_allclose(chain[:stop], free[:stop], rtol=1e-5, atol=1e-6)
            assert stop == 0 or np.all(chain[stop:] == chain[stop - 1])
    np.testing.assert_array_equal(got.state, got.y[:, :, -1])


def test_infinite_energy_is_a_density_of_zero():
    got = run_walled(walled_off, [1e6, 0.5, 1e6], Langevin(0.3, adjusted=True))
    assert not got.info.divergent.any()
    assert got.y[1].max() <= 0.5 < got.y[0].max()
    assert len(np.unique(got.y[1, 0])) > 10


def test_a_last_step_into_nan_is_flagged_and_not_taken():
    free = run_walled(walled, [1e6] * 3, Langevin(0.3), steps=1)
    got = run_walled(walled, [0.1] * 3, Langevin(0.3), steps=1)
    np.testing.assert_array_equal(got.info.divergent, free.state > 0.1)
    np.testing.assert_array_equal(got.state, np.where(free.state > 0.1, 0, free.state))
    assert got.info.divergent.any() and not got.info.divergent.all()


def test_a_start_that_is_not_finite_is_flagged():
    start = jnp.zeros((1, 2, 2)).at[0, 1, 0].set(jnp.nan)
    sampler = Langevin(adjusted=True)
    got = sample(parabola, A, B[:1], start, jax.random.key(0), sampler=sampler, steps=3)
    assert got.info.divergent.tolist() == [[False, True]]


def test_the_layouts_of_a_batch_agree():
    def awkward(params, context, y):
        return parabola(params, context, y) + 0 * jnp.cumsum(y)[-1]

    example = A, (B[0], jnp.zeros(2))
    assert suits_last(lambda p, e: parabola(p, *e), *example)
    assert not suits_last(lambda p, e: awkward(p, *e), *example)
    key, sampler = jax.random.key(0), Langevin(0.05)
    want, got = (
        sample(e, A, B, START, key, sampler=sampler, steps=20, thin=10) for e in (parabola, awkward)
    )
    np.testing.assert_allclose(got.y, want.y, atol=1e-5)
    np.testing.assert_allclose(got.energy, want.energy, atol=1e-5)


def test_chains_go_on_from_their_state():
    small = Langevin(1e-12, adjusted=True)
    first = normal(Langevin(0.6, adjusted=True))
    again = sample(
        parabola, A, B, first.state, jax.random.key(9), domain=REALS, sampler=small, steps=2
    )
    assert again.y.shape == (2, 300, 2, 2) and again.state.shape == START.shape
    np.testing.assert_array_equal(first.state, first.y[:, :, -1])
    np.testing.assert_allclose(again.state, first.state, atol=1e-4)


def test_keys_decide_and_warm_up_is_left_out():
    sampler = Langevin(0.05)
    one, same, other = (normal(sampler, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.y, same.y)
    assert not np.any(one.y == other.y)
    assert len(np.unique(one.y[0, :, 0, 0])) == 300  # of two blocks
    key, settings = jax.random.key(3), {"domain": REALS, "sampler": sampler, "thin": 100}
    whole = sample(parabola, A, B, START, key, steps=500, **settings)
    np.testing.assert_array_equal(whole.y[:, :, 1:], one.y[:, :, 24::25])
    old = sample(parabola, A, B, START, jax.random.key_data(key), steps=500, **settings)
    np.testing.assert_array_equal(old.y, whole.y)


def test_nothing_compiles_twice_and_samples_are_constants():
    energy, traces = counting(parabola)

    def total(params, beta, seed):
        key, sampler = jax.random.key(seed), Langevin(0.01)
        return sample(
            energy, params, B, START, key, sampler=sampler, steps=2, beta=beta
        ).energy.sum()

    total(A, 1.0, 0)
    count = len(traces)
    total({"a": 2 * A["a"]}, 3.0, 1)
    total(A, np.array([1.0, 2.0]), 2)
    assert len(traces) == count
    gradient = jax.grad(total)({"a": jnp.array([1.0, 2.0])}, 1.0, 0)
    np.testing.assert_array_equal(gradient["a"], 0)


def test_sample_works_under_jit_and_vmap():
    def run(key):
        return sample(
            parabola, A, B, START, key, steps=4, thin=2, sampler=Langevin(noise="two-point")
        )

    keys = jax.random.split(jax.random.key(0), 2)
    want, got = jax.jit(run)(keys[1]), jax.tree.map(lambda a: a[1], jax.vmap(run)(keys))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-6)


def test_float64_stays_float64(x64):
    start, sampler = np.zeros((2, 3, 2)), Langevin(adjusted=True)
    got = sample(parabola, A, B, start, jax.random.key(0), sampler=sampler, steps=2)
    assert got.y.dtype == got.energy.dtype == got.state.dtype == np.float64


def test_a_tree_of_domains_is_sampled_leaf_by_leaf():
    def energy(params, context, y):
        return y["score"] ** 2 / 2 - context * y["score"] + 2 * jnp.sum(y["tags"])

    got = sample(
        energy,
        None,
        np.array([0.0, 1.0]),
        {"score": jnp.zeros((2, 200)), "tags": jnp.full((2, 200, 3), 3.0)},
        jax.random.key(0),
        domain=Product({"score": REALS, "tags": Box()}),
        sampler=Langevin(0.15, adjusted=True),
        steps=400,
        warm_up=100,
        thin=10,
    )
    assert got.y["tags"].shape == (2, 200, 40, 3) and got.y["score"].shape == (2, 200, 40)
    assert got.y["tags"].min() >= 0 and got.y["tags"].max() <= 1
    assert_mean(got.y["score"][1], 1)
    assert_mean(got.y["tags"][0, ..., 1], 1 / 2 - 1 / np.expm1(2))


def test_projection_keeps_to_a_domain_that_cannot_reflect():
    domain = Simplex()
    start = jnp.tile(domain.initial((2,)), (2, 3, 1))
    sampler = Langevin(0.1, boundary="project")
    got = sample(parabola, A, B, start, jax.random.key(0), domain=domain, sampler=sampler, steps=20)
    np.testing.assert_allclose(domain.project(got.y), got.y, atol=1e-6)
    assert np.std(got.y) > 0.1


# Binary labels


def triplet(params, context, y):
    """An energy of three labels that no first-order estimate gets right, each corner with its own."""
    return context @ y + params * jnp.sin(np.array([1.0, 2.0, 4.0], y.dtype) @ y)


CORNERS = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
SLOPES = np.array([0.7, -0.4, 0.2])


def gibbs_law(beta):
    energies = np.array([float(triplet(0.8, SLOPES, y)) for y in CORNERS])
    return np.exp(-beta * energies) / np.exp(-beta * energies).sum()


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_flips_are_proposed_by_their_estimate_and_balanced_by_the_energy(beta, x64):
    sampler, law = GibbsWithGradients(), gibbs_law(beta)
    target = Target(partial(triplet, 0.8, SLOPES), Box(), jnp.asarray(beta))
    size, moves = len(CORNERS), 4  # the three flips, then none

    def forced(y, move):
        """The point that this move proposes, and its acceptance probability."""
        noise = jnp.where(jnp.arange(3) == move, 1e6, 0.0)
        random = noise, jnp.where(move == 3, 1e7, 0.0), jnp.zeros(())
        state, info = sampler.step(target, sampler.init(target, y), random)
        return state.y, info.acceptance

    ends, accepted = jax.jit(jax.vmap(jax.vmap(forced, (None, 0)), (0, None)))(
        CORNERS, jnp.arange(moves)
    )
    slopes = jax.vmap(jax.grad(target.energy))(CORNERS)
    weights = np.c_[np.exp(beta * (2 * CORNERS - 1) * slopes / 2), np.ones(size)]
    proposed = weights / weights.sum(1, keepdims=True)
    transition = np.zeros((size, size))
    for a, b in itertools.product(range(size), repeat=2):
        for m in np.flatnonzero((np.asarray(ends[a]) == CORNERS[b]).all(-1)):
            transition[a, b] += proposed[a, m] * accepted[a, m]
    transition += np.diag(1 - transition.sum(1))
    flow = law[:, None] * transition
    np.testing.assert_allclose(flow, flow.T, atol=1e-12)
    np.testing.assert_allclose(law @ transition, law, atol=1e-12)
    assert np.all(np.linalg.matrix_power(transition, 6) > 0)
    assert np.all(accepted[:, 3] == 1) and accepted.min() < 0.5


def test_flips_follow_the_probabilities_of_the_proposal():
    """One step of a linear energy, whose estimates are exact: the law of where it ends is known."""
    start, key = jnp.zeros((1, 40000, 3)), jax.random.key(4)
    got = sample(linear_in_y, None, SLOPES[None], start, key, sampler=GibbsWithGradients(), steps=1)
    forth = np.exp(-SLOPES / 2)
    total = 1 + forth.sum()
    back = total - forth + 1 / forth
    accepted = np.minimum(1, np.exp(-SLOPES) * (1 / forth / back) / (forth / total))
    share = np.asarray(got.state[0]).mean(0)
    want = forth / total * accepted
    assert np.all(np.abs(share - want) < 4.5 * np.sqrt(want / 40000))


def linear_in_y(params, context, y):
    return context @ y


def test_binary_chains_have_the_enumerated_law_at_their_ends():
    """Also after an even number of steps, and with the chains last as with the chains first."""
    for energy in (triplet, lambda p, c, y: triplet(p, c, y) + 0 * jnp.cumsum(y)[-1]):
        context = jnp.broadcast_to(SLOPES, (2, 3))
        got = sample(
            energy,
            0.8,
            context,
            jnp.zeros((2, 4000, 3)),
            jax.random.key(5),
            sampler=GibbsWithGradients(),
            steps=40,
            thin=40,
            beta=1.5,
        )
        assert not got.info.divergent.any() and 0.2 < got.info.acceptance.mean() < 1
        for ends in np.asarray(got.state):
            counts = (ends[:, None] == CORNERS).all(-1).sum(0)
            assert counts.sum() == 4000
            assert chisquare(counts, 4000 * gibbs_law(1.5)).pvalue > 1e-4


def test_a_flat_energy_does_not_make_the_number_of_labels_even():
    def flat(params, context, y):
        return 0 * jnp.sum(y)

    start, key = jnp.zeros((1, 4000, 3)), jax.random.key(6)
    got = sample(flat, None, None, start, key, sampler=GibbsWithGradients(), steps=20)
    counts = (np.asarray(got.state[0])[:, None] == CORNERS).all(-1).sum(0)
    assert chisquare(counts).pvalue > 1e-4


def test_binary_chains_run_with_the_chains_last():
    sampler, beta = GibbsWithGradients(), jnp.ones(())

    def step(shared, example):
        context, state, random = example
        return sampler.step(Target(partial(triplet, 0.8, context), Box(), beta), state, random)

    random = np.zeros(3, np.float32), np.float32(0), np.float32(0)
    state = Point(np.zeros(3, np.float32), np.float32(0), np.zeros(3, np.float32))
    assert suits_last(step, None, (SLOPES.astype(np.float32), state, random))


def test_binary_chains_round_their_start_and_flag_what_is_not_a_number():
    start = jnp.array([[[0.2, 0.8, 0.5], [jnp.nan, 0.0, 0.0]]])
    cold = GibbsWithGradients()
    got = sample(
        linear_in_y, None, np.zeros((1, 3)), start, jax.random.key(0), sampler=cold, steps=50
    )
    assert got.info.divergent.tolist() == [[False, True]]
    assert set(np.unique(got.y[0, 0])) == {0.0, 1.0}
    steep = np.array([[60.0, -60.0, -60.0]])  # no flip from the rounded start is ever accepted
    held = sample(linear_in_y, None, steep, start[:, :1], jax.random.key(0), sampler=cold, steps=50)
    assert np.all(np.asarray(held.y) == [0.0, 1.0, 1.0])


def test_infinite_energy_is_never_flipped_into():
    def walled_corner(params, context, y):
        return jnp.where(y[0] > 0.5, jnp.inf, jnp.sum(y))

    start, key = jnp.zeros((1, 50, 3)), jax.random.key(1)
    got = sample(walled_corner, None, None, start, key, sampler=GibbsWithGradients(), steps=60)
    assert not got.info.divergent.any()
    assert got.y[..., 0].max() == 0 and got.y[..., 1:].max() == 1


# Diagnostics


def autoregression(rho, shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape) * np.sqrt(1 - rho**2)
    noise[..., 0] /= np.sqrt(1 - rho**2)
    for t in range(1, shape[-1]):
        noise[..., t] += rho * noise[..., t - 1]
    return noise


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.8])
def test_effective_sample_size_of_an_autoregression_is_known(rho):
    sizes = np.asarray(effective_sample_size(autoregression(rho, (60, 4, 1000))))
    ratio = sizes / (4000 * (1 - rho) / (1 + rho))
    # Cutting the sequence off biases it by a few per cent.
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / np.sqrt(60) + 0.03


@pytest.mark.parametrize("chains, draws", [(3, 401), (1, 300)])
def test_diagnostics_agree_with_blackjax(chains, draws):
    blackjax = pytest.importorskip("blackjax.diagnostics")
    y = autoregression(0.7, (5, chains, draws)).astype(np.float32)
    y[0, 0] += 1.0  # a chain apart
    ess, r_hat = map(jax.jit, (blackjax.effective_sample_size, blackjax.potential_scale_reduction))
    np.testing.assert_allclose(effective_sample_size(y), ess(np.moveaxis(y, 0, -1)), rtol=2e-3)
    half = draws // 2
    halves = np.concatenate([y[..., :half], y[..., -half:]], axis=-2)
    np.testing.assert_allclose(split_r_hat(y), r_hat(np.moveaxis(halves, 0, -1)), rtol=1e-5)


def test_diagnostics_see_a_trend_a_constant_and_nan():
    y = autoregression(0.0, (4, 100))
    assert split_r_hat(y) < 1.02 < 1.3 < split_r_hat(y + np.linspace(0, 5, 100))
    assert np.isnan(effective_sample_size(np.ones((4, 100))))
    alternating = np.tile([1.0, -1.0], (4, 50))
    np.testing.assert_allclose(effective_sample_size(alternating), 400 * np.log10(400), rtol=1e-5)
    y[1, 3] = np.nan
    assert np.isnan(effective_sample_size(y))


# Errors


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"step_size": 0.0}, "finite step_size > 0, got 0.0"),
        ({"noise": "uniform"}, "noise must be one of .*'two-point'.*, got 'uniform'"),
        ({"boundary": "wrap"}, "boundary must be one of .*'project'.*, got 'wrap'"),
        ({"noise": "two-point", "adjusted": True}, "has no density"),
    ],
)
def test_langevin_refuses_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        Langevin(**settings)


def test_hamiltonian_monte_carlo_refuses_settings_that_mean_nothing():
    with pytest.raises(ValueError, match="step_size > 0, got -1"):
        HamiltonianMonteCarlo(-1)
    with pytest.raises(ValueError, match="leapfrog_steps must be a whole number, 1 or more, got 0"):
        HamiltonianMonteCarlo(0.1, 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps must be a whole number, 1 or more, got 0"),
        ({"thin": 0}, "thin must be a whole number, 1 or more"),
        ({"warm_up": -1}, "warm_up must be a whole number, 0 or more"),
        ({"steps": 5, "thin": 2}, "multiple of thin, got steps=5 and thin=2"),
        ({"beta": np.ones(3)}, r"one number or 4 of them.*got shape \(3,\)"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
        ({"key": jnp.zeros(3)}, r"make one with jax.random.key\(0\)"),
        ({"key": jax.random.split(jax.random.key(0))}, "one random key, got shape"),
        ({"start": jnp.zeros(2)}, r"start must hold float arrays of shape \(B, C, ...\)"),
        ({"start": jnp.zeros((2, 3, 2), int)}, "of int32"),
        ({"start": ()}, "at least one array"),
        ({"context": np.zeros((3, 2))}, r"axis of 2 examples.*context has shape \(3, 2\)"),
        ({"energy": lambda p, c, y: y}, "must return a float scalar for one example"),
        ({"domain": Simplex()}, r"boundary='reflect' samples from Reals and Box, got Simplex"),
        ({"domain": L2Ball(), "sampler": Langevin(adjusted=True)}, "adjusted=True samples from"),
        ({"domain": Product({"a": Box()})}, "needs y to be the tree"),
        ({"sampler": HamiltonianMonteCarlo(0.1)}, "samples from Reals, got Box"),
        ({"domain": REALS, "sampler": GibbsWithGradients()}, r"corners of Box\(0, 1\), got Reals"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes, message):
    arguments = {"energy": parabola, "params": A, "context": B, "start": jnp.zeros((2, 3, 2))}
    settings = {"key": jax.random.key(0), "steps": 4}
    with pytest.raises(ValueError, match=message):
        sample(**(arguments | settings | changes))


def test_diagnostics_refuse_too_few_draws():
    for diagnostic in (effective_sample_size, split_r_hat):
        with pytest.raises(ValueError, match=r"at least S = 4 draws, got \(2, 3\)"):
            diagnostic(np.zeros((2, 3)))
