from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from normal_chains import KEPT, START, A, B, assert_mean, normal
from problems import counting, parabola

from spen_jax.blocks import block_sizes
from spen_jax.domains import Box, Product, Reals
from spen_jax.inference import suits_last
from spen_jax.sampling import Langevin, sample

REALS = Reals()


@pytest.mark.slow
def test_growing_beta_ends_near_the_minimiser():
    got = normal(beta=np.geomspace(0.1, 1e4, 500))
    # The last variance is below 2 h / beta / (1 - 0.6^2), about 1.3e-4.
    assert np.abs(got.state - (B / A["a"])[:, None]).max() < 6 * 0.012
    assert np.abs(got.y[:, :, 0] - got.state).max() > 0.1


def test_a_constant_schedule_equals_a_number():
    want, got = (normal(beta=b) for b in (2.0, np.full(500, 2.0)))
    np.testing.assert_array_equal(got.y, want.y)


def test_the_layouts_of_a_batch_agree():
    def awkward(params, context, y):
        return parabola(params, context, y) + 0 * jnp.cumsum(y)[-1]

    example = A, (B[0], jnp.zeros(2))
    assert suits_last(lambda p, e: parabola(p, *e), *example)
    assert not suits_last(lambda p, e: awkward(p, *e), *example)
    want, got = (normal(energy=e) for e in (parabola, awkward))
    np.testing.assert_allclose(got.y, want.y, atol=1e-5)
    np.testing.assert_allclose(got.energy, want.energy, atol=1e-5)


def test_keys_decide_and_no_two_blocks_begin_alike():
    assert block_sizes(START.shape[0] * START.shape[1], 2)[0] > 1
    one, same, other = (normal(seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.y, same.y)
    assert not np.any(one.y == other.y)
    assert len(np.unique(one.y[0, :, 0, 0])) == 300  # of two blocks
    np.testing.assert_array_equal(one.state, one.y[:, :, -1])
    data = jax.random.key_data(jax.random.key(3))
    options = KEPT | {"domain": REALS, "sampler": Langevin(0.4)}
    old = sample(parabola, A, B, START, data, **options)
    np.testing.assert_array_equal(old.y, one.y)


@pytest.mark.slow
def test_warm_up_is_left_out_and_chains_run_under_jit_and_vmap():
    @jax.jit
    @jax.vmap
    def whole(key):
        options = {"domain": REALS, "sampler": Langevin(0.4), "steps": 500, "thin": 100}
        return sample(parabola, A, B, START, key, **options)

    got = whole(jax.vmap(jax.random.key)(jnp.array([3, 4])))
    for i, seed in enumerate((3, 4)):
        want = normal(seed=seed)
        np.testing.assert_allclose(got.y[i, :, :, 1:], want.y[:, :, 24::25], atol=1e-5)
        np.testing.assert_allclose(got.energy[i, :, :, 1:], want.energy[:, :, 24::25], atol=1e-5)
        np.testing.assert_allclose(got.state[i], want.state, atol=1e-5)


def test_nothing_compiles_twice_and_samples_are_constants():
    energy, traces = counting(parabola)

    @partial(jax.value_and_grad, argnums=0)
    def total(params, beta, seed):
        options = {"sampler": Langevin(0.01), "steps": 2, "beta": beta}
        return sample(energy, params, B, START, jax.random.key(seed), **options).energy.sum()

    a = jnp.array([1.0, 2.0])
    _, gradient = total({"a": a}, 1.0, 0)
    count = len(traces)
    total({"a": 2 * a}, 3.0, 1)
    total({"a": a}, np.array([1.0, 2.0]), 2)
    assert len(traces) == count
    np.testing.assert_array_equal(gradient["a"], 0)


@pytest.mark.slow
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
    y = jax.tree.map(np.asarray, got.y)
    assert y["tags"].shape == (2, 200, 40, 3) and y["score"].shape == (2, 200, 40)
    assert y["tags"].min() >= 0 and y["tags"].max() <= 1
    assert_mean(y["score"][1], 1)
    assert_mean(y["tags"][0, ..., 1], 1 / 2 - 1 / np.expm1(2))
