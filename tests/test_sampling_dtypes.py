"""Every sampler takes points of 32 and 64 bits in both of JAX's modes, alone, in trees and in empty batches."""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax.domains import Box, Product, Reals
from spen_jax.sampling import GibbsWithGradients, HamiltonianMonteCarlo, Langevin, sample

pytestmark = pytest.mark.long

SAMPLERS = {
    "gaussian": Langevin(),
    "two-point": Langevin(noise="two-point"),
    "adjusted": Langevin(adjusted=True),
    "flips": GibbsWithGradients(),
    "hamiltonian": HamiltonianMonteCarlo(0.1, 2),
}
TYPES = (  # 64-bit mode, points, parameters and context, beta
    (False, "float32", "float32", "bfloat16"),
    (False, "float32", "float64", "float64"),
    (True, "float32", "float32", "float64"),
    (True, "float32", "float64", "float32"),
    (True, "float64", "float32", "int64"),
    (True, "float64", "float64", "float16"),
)
by_sampler = pytest.mark.parametrize("name", SAMPLERS)


class Pair(NamedTuple):
    score: Any
    tags: Any


def energy(params, context, y):
    """a |y|^2 / 2 - b sum(y), over all leaves."""
    return sum(jnp.sum(params["a"] * y**2 / 2 - context * y) for y in jax.tree.leaves(y))


def run(name, start, numbers="float32", beta="float32"):
    """S = 4 points of 8 steps; params and context of the type `numbers`."""
    if name == "hamiltonian":
        pytest.importorskip("blackjax")
    one = Reals() if name == "hamiltonian" else Box()
    tree, examples = isinstance(start, Pair), jax.tree.leaves(start)[0].shape[0]
    params, context = {"a": np.ones((), numbers)}, np.ones(examples, numbers)
    options = {"domain": Product(Pair(one, one)) if tree else one, "sampler": SAMPLERS[name]}
    options |= {"steps": 8, "warm_up": 2, "thin": 2, "beta": np.ones((), beta)}
    return sample(energy, params, context, start, jax.random.key(0), **options)


def check(got, start, energies=np.float32):
    shape = jax.tree.leaves(start)[0].shape[:2]
    for y, state, first in zip(*map(jax.tree.leaves, (got.y, got.state, start)), strict=True):
        assert y.dtype == state.dtype == first.dtype
        assert y.shape == (*shape, 4, *first.shape[2:]) and state.shape == first.shape
    assert got.energy.shape == (*shape, 4) and got.energy.dtype == energies
    assert got.info.acceptance.shape == got.info.divergent.shape == shape


@by_sampler
def test_points_keep_their_type_and_the_energy_has_its_own(name):
    for mode, kind, numbers, beta in TYPES:
        start = np.full((2, 3, 2), 0.5, kind)
        starts = [start, start[..., 0], start[:1, :1]]
        if name != "flips":
            starts.append(Pair(start[..., 0], start))
        if mode and name != "flips":
            starts.append(Pair(start[..., 0], start.astype(np.float32)))
        energies = np.result_type(kind, numbers) if mode else np.dtype(np.float32)
        for start in starts:
            with jax.enable_x64(mode):
                got = jax.eval_shape(partial(run, name, numbers=numbers, beta=beta), start)
                check(got, start, energies)


@by_sampler
def test_both_modes_sample_alike(name):
    start = np.full((2, 100, 40), 0.5, np.float32)
    want = run(name, start)
    with jax.enable_x64(True):
        got, fine = run(name, start), run(name, start.astype(float), "float64")
    for other in (got, fine):
        check(other, other.state, other.energy.dtype)
        assert np.isfinite(other.y).all() and not np.any(other.info.divergent)
    if name in ("gaussian", "two-point"):  # which draw nothing that is not of the type of y
        np.testing.assert_allclose(got.y, want.y, atol=1e-5)
    for a, b in itertools.combinations((np.asarray(s.y) for s in (want, got, fine)), 2):
        for statistic in (np.mean, np.std):
            np.testing.assert_allclose(statistic(a), statistic(b), rtol=0.03)


@by_sampler
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0), (0, 0, 2)], ids=str)
def test_no_examples_and_no_chains_have_no_samples(name, shape):
    start = np.zeros(shape, np.float32)
    check(run(name, start), start)


def test_a_tree_of_labels_is_refused():
    start = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"corners of Box\(0, 1\), got Product"):
        run("flips", Pair(start, start))


def test_an_energy_may_be_coarse_constant_or_a_number():
    start = np.full((2, 3, 2), 0.5, np.float32)

    def coarse(params, context, y):
        return jnp.sum(y.astype(jnp.bfloat16) ** 2)

    def constant(params, context, y):
        return jnp.zeros(())

    def number(params, context, y):
        return 0.0

    for function, sampler in itertools.product((coarse, constant, number), SAMPLERS.values()):
        one = Reals() if isinstance(sampler, HamiltonianMonteCarlo) else Box()
        options = {"domain": one, "sampler": sampler, "steps": 2}
        for mode in (False, True):
            with jax.enable_x64(mode):
                run_it = partial(sample, function, None, None, **options)
                got = jax.eval_shape(run_it, start, jax.random.key(0))
                assert got.y.dtype == np.float32 and jnp.issubdtype(got.energy.dtype, jnp.floating)
