"""Energies that are no numbers somewhere: what is proposed there is rejected, counted, and the chain goes on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax.domains import Reals
from spen_jax.sampling import (
    GibbsWithGradients,
    HamiltonianMonteCarlo,
    Langevin,
    effective_sample_size,
    sample,
)

pytestmark = pytest.mark.slow

MALA = Langevin(0.15, adjusted=True)


def gamma(params, context, y):
    """Of the law Gamma(2, 2), of mean 1 and variance 1/2, on y > 0; NaN below."""
    return 2 * y - jnp.log(y)


def exponential(params, context, y):
    """Of the law of mean 1/2 on y > 0; NaN below, with its gradient."""
    return 2 * y + 1e-9 * jnp.sqrt(y)


def run(energy, sampler, start, **options):
    start = jnp.broadcast_to(jnp.float32(start), (1, 200))
    key, domain = jax.random.key(0), Reals()
    got = sample(energy, None, None, start, key, domain=domain, sampler=sampler, **options)
    return jax.tree.map(lambda a: np.asarray(a)[0], got)


@pytest.mark.parametrize(
    "sampler, steps", [(MALA, 2000), (HamiltonianMonteCarlo(0.3, 5), 500)], ids=["MALA", "HMC"]
)
def test_adjusted_chains_sample_up_to_the_edge_of_a_density(sampler, steps):
    if isinstance(sampler, HamiltonianMonteCarlo):
        pytest.importorskip("blackjax")
    got = run(gamma, sampler, 1.0, steps=steps, warm_up=200)
    y = got.y.astype(float)
    for values, want in ((y, 1.0), ((y - 1) ** 2, 0.5)):
        error = values.std() / np.sqrt(effective_sample_size(values))
        assert abs(values.mean() - want) < 4.5 * error < 0.03
    assert y.min() > 0 and np.isfinite(got.energy).all()
    assert 0.01 < got.info.divergent.min() and got.info.divergent.max() < 0.3
    assert got.info.acceptance.min() > 0.5
    moves = np.diff(y[:, steps // 2 :]) != 0
    assert moves.mean(axis=1).min() > 0.5


def test_unadjusted_chains_go_back_to_the_last_point_that_was_kept():
    """With few steps between two of them; failures in the warm-up undo but a tenth of it."""
    got = run(exponential, Langevin(0.002), 1.0, steps=4000, warm_up=1000, thin=2)
    assert abs(got.y.mean() - 0.5) < 0.03
    assert got.y.min() > 0 and np.isfinite(got.energy).all()
    again = np.mean(np.diff(got.y) == 0, axis=1)
    np.testing.assert_allclose(got.info.divergent, again, atol=1 / 2000 + 1e-6)
    assert 0 < again.min() and again.max() < 0.2
    first = run(exponential, Langevin(0.002), 1.0, steps=2, warm_up=1000, thin=2)
    assert np.all(first.y != 1) and abs(first.y.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(200) + 0.03


def wall(params, context, y):
    """A normal law on y < 2, with a density of 0 above."""
    return jnp.where(y < 2, y**2 / 2, jnp.inf)


def root(params, context, y):
    """NaN between -context and 0; where those are one point its gradient there."""
    return jnp.sqrt(y * (y + context))


SAMPLERS = MALA, Langevin(0.15), HamiltonianMonteCarlo(0.3, 5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["MALA", "Langevin", "HMC"])
def test_a_start_that_is_bad_has_a_share_of_one_unless_there_is_a_way_out(sampler):
    if isinstance(sampler, HamiltonianMonteCarlo):
        pytest.importorskip("blackjax")

    def share(energy, starts, context):
        start, key = jnp.broadcast_to(jnp.float32(starts)[:, None], (2, 20)), jax.random.key(0)
        run = partial(sample, domain=Reals(), sampler=sampler, steps=40)
        got = run(energy, None, jnp.float32(context), start, key)
        assert np.all((got.info.divergent < 1) == (got.y[:, :, -1] != start))
        assert np.all((got.info.divergent < 1) <= np.isfinite(got.energy[:, :, -1]))
        return np.asarray(got.info.divergent)

    np.testing.assert_array_equal(share(root, [-5, 0], [6, 0]), 1)
    near, far = share(wall, [2.1, 1e6], [0, 0])
    assert near.max() < 1 and np.all(far == 1)


def test_flips_into_what_is_not_a_number_are_rejected_and_counted():
    """Of the four corners one is NaN: the law of the others is enumerated."""
    levels = np.array([0.0, 1.0, 0.5, np.nan])

    def energy(params, context, y):
        corners = jnp.stack([(1 - y[0]) * (1 - y[1]), (1 - y[0]) * y[1], y[0] * (1 - y[1])])
        return levels[:3] @ corners + jnp.where(y[0] * y[1] > 0.5, jnp.nan, 0)

    start = jnp.zeros((1, 4000, 2))
    got = sample(
        energy, None, None, start, jax.random.key(0), sampler=GibbsWithGradients(), steps=40
    )
    ends = np.asarray(got.state[0] @ jnp.array([2.0, 1.0])).astype(int)
    p = np.exp(-levels[:3]) / np.exp(-levels[:3]).sum()
    shares = np.bincount(ends, minlength=4) / 4000
    assert shares[3] == 0 and np.isfinite(got.energy).all()
    assert np.all(np.abs(shares[:3] - p) < 4.5 * np.sqrt(p * (1 - p) / 4000))
    assert 0 < got.info.divergent.mean() and got.info.divergent.max() < 1


def test_minus_infinity_is_no_energy():
    """Below y = -1 of a normal law; the chains keep to what is above."""

    def energy(params, context, y):
        return jnp.where(y > -1, y**2 / 2, -jnp.inf)

    got = run(energy, MALA, 0.0, steps=40)
    assert got.y.min() > -1 and 0 < got.info.divergent.mean() < 0.5


def test_the_box_is_no_edge():
    """What is proposed outside the domain is rejected without being counted: the density there is 0."""
    start = jnp.full((1, 200), 0.5)
    got = sample(wall, None, None, start, jax.random.key(0), sampler=MALA, steps=40)
    assert 0 < got.info.acceptance.max() < 1
    assert got.info.divergent.max() == 0
