import jax
import jax.numpy as jnp
import numpy as np
import pytest
from normal_chains import START, A, B, assert_mean, normal, standard_errors
from scipy.stats import truncnorm

from spen_jax.domains import Box, Reals, Simplex
from spen_jax.sampling import Langevin, sample

ON_BOX = {"sampler": Langevin(0.15, adjusted=True), "domain": Box()}

# The law of unadjusted chains


@pytest.mark.parametrize("noise, h", [("gaussian", 0.4), ("two-point", 0.2)])
def test_unadjusted_langevin_has_the_moments_of_its_autoregression(noise, h):
    for beta in (1.0, 4.0):
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


def test_reflection_keeps_a_density_on_the_box():
    h, slope = 1e-3, 3.0

    def energy(params, context, y):
        return slope * y

    start, sampler = jnp.full((1, 300), 0.3), Langevin(h)
    got = sample(energy, None, None, start, jax.random.key(1), sampler=sampler, thin=10)
    values, mean = np.asarray(got.y[0, :, 20:]), 1 / slope - 1 / np.expm1(slope)
    means = values.mean(axis=1)
    # A step of drift h slope at the bounds is the size of the bias.
    assert abs(means.mean() - mean) < 4.5 * means.std() / np.sqrt(300) + h * slope
    assert np.mean(values == 0) < 1e-3
    assert 0 <= values.min() and values.max() <= 1


def test_projection_keeps_to_a_domain_that_cannot_reflect_and_gathers_at_its_boundary():
    def energy(params, context, y):
        return -context @ y

    sampler, start = Langevin(0.1, boundary="project"), jnp.full((2, 3, 2), 0.5)
    key, domain = jax.random.key(0), Simplex()
    y = np.asarray(sample(energy, A, B, start, key, domain=domain, sampler=sampler, steps=50).y)
    np.testing.assert_allclose(y.sum(-1), 1, atol=1e-6)
    assert y.min() == 0 and np.std(y) > 0.1
    assert 0.02 < np.mean(y == 0) < 0.5


# The law of adjusted chains, and energies that are no numbers


def walled(infinite, wall, y):
    """y^2 / 2, and beyond the wall, where the gradient is NaN, NaN or where asked for +inf."""
    energy = y**2 / 2 + 1e-9 * jnp.sqrt(wall - y)
    return jnp.where((y > wall) & infinite, jnp.inf, energy)


def run_walled(walls, adjusted, infinite=False, start=0.0, seed=2):
    """60 steps of 100 chains for each of three walls, h = 0.6."""
    start, key = jnp.broadcast_to(np.float32(start), (3, 100)), jax.random.key(seed)
    sampler, walls = Langevin(0.6, adjusted=adjusted), np.array(walls)
    got = sample(walled, infinite, walls, start, key, domain=Reals(), sampler=sampler, steps=60)
    return jax.tree.map(np.asarray, got)


FREE = [1e6, 1e6, 1e6]


@pytest.mark.slow
def test_adjusted_langevin_has_the_right_variance_where_unadjusted_has_not():
    exact, biased = (run_walled(FREE, adjusted) for adjusted in (True, False))
    squares = [s.y[..., 20:].reshape(300, -1) ** 2 for s in (exact, biased)]
    assert_mean(squares[0], 1)
    assert standard_errors(squares[1], 1) > 10
    assert_mean(squares[1], 2 * 0.6 / (1 - 0.4**2))
    assert 0.3 < exact.info.acceptance.min() and exact.info.acceptance.max() < 0.98


@pytest.mark.slow
def test_adjusted_langevin_samples_a_truncated_normal():
    for beta in (1.0, 5.0):
        got = normal(**ON_BOX, beta=beta)
        for i, a in enumerate(A["a"]):
            mean, deviation = B[1, i] / a, (beta * a) ** -0.5
            law = truncnorm((0 - mean) / deviation, (1 - mean) / deviation, mean, deviation)
            assert_mean(got.y[1, ..., i], law.mean())
            assert_mean((got.y[1, ..., i] - law.mean()) ** 2, law.var())
        assert got.y.min() >= 0 and got.y.max() <= 1


@pytest.mark.parametrize("adjusted", [False, True])
def test_what_is_not_a_number_is_not_taken_and_the_neighbours_do_not_notice(adjusted):
    good = run_walled(FREE, adjusted)
    got = run_walled([1e6, 0.5, 1e6], adjusted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(good), strict=True):
        np.testing.assert_array_equal(a[::2], b[::2])
    assert not good.info.divergent.any()
    share = got.info.divergent[1]
    assert 0 < share.min() and share.max() < 0.8
    assert np.isfinite(got.y).all() and np.isfinite(got.energy).all()
    moves = np.diff(got.y[1], axis=-1) != 0
    assert got.y[1].max() < 0.5 and moves[:, -20:].any(axis=1).all()
    if not adjusted:
        stayed = ~np.concatenate([got.y[1][:, :1] != 0, moves], axis=1)
        np.testing.assert_allclose(share, stayed.mean(axis=1), rtol=1e-6)
        for chain, free in zip(got.y[1], good.y[1], strict=True):
            stop = np.argmax(free > 0.5)
            np.testing.assert_allclose(chain[:stop], free[:stop], rtol=1e-5, atol=1e-6)
            assert chain[stop] == (chain[stop - 1] if stop else 0)
    np.testing.assert_array_equal(got.state, got.y[:, :, -1])


def test_infinite_energy_is_a_density_of_zero():
    got = run_walled([1e6, 0.5, 1e6], True, infinite=True)
    assert not got.info.divergent.any()
    assert got.y[1].max() <= 0.5 < got.y[0].max()
    assert len(np.unique(got.y[1, 0])) > 10


def test_a_last_step_into_nan_is_flagged_and_not_taken():
    free = run_walled(FREE, False).y
    *before, last = np.moveaxis(free, -1, 0)
    rise = last - np.max(before, axis=0)
    chain = np.unravel_index(rise.argmax(), rise.shape)  # one that was never as high as it ends
    assert rise[chain] > 0.1
    got = run_walled(np.full(3, last[chain] - 0.05), False)
    assert 0 < got.info.divergent[chain] < 1
    np.testing.assert_allclose(got.y[chain], [*free[chain][:-1], free[chain][-2]], atol=1e-5)


def test_a_start_that_is_not_finite_is_flagged():
    got = normal(**ON_BOX, start=START.at[0, 1, 0].set(jnp.nan))
    assert np.argwhere(got.info.divergent).tolist() == [[0, 1]]
    assert got.info.divergent[0, 1] == 1 and np.isnan(got.energy[0, 1]).all()


def test_chains_go_on_from_where_they_start():
    """The same noise from two starts, whose distance a step makes 1 - h times as long."""
    first = run_walled(FREE, False)
    fresh, again = (run_walled(FREE, False, start=s, seed=5) for s in (0.0, first.state))
    distance = again.y[..., 0] - fresh.y[..., 0]
    np.testing.assert_allclose(distance, 0.4 * first.state, atol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"step_size": 0.0}, "step_size of Langevin must be .*positive and finite, got 0.0"),
        ({"noise": "uniform"}, "noise must be one of .*'two-point'.*, got 'uniform'"),
        ({"boundary": "wrap"}, "boundary must be one of .*'project'.*, got 'wrap'"),
        ({"noise": "two-point", "adjusted": True}, "has no density"),
    ],
)
def test_langevin_refuses_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        Langevin(**settings)
