import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from spen_jax.domains import Box
from spen_jax.inference import suits_last
from spen_jax.sampling import GibbsWithGradients, Point, Target, sample
from spen_jax.trees import one_of

CORNERS = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
SLOPES = np.array([0.7, -0.4, 0.2])
SAMPLER = GibbsWithGradients()


def family(params, slopes, y):
    """Linear, a wave that no first-order estimate gets right, and a step to the first label: (wave, wall)."""
    wave, wall = params
    bits, first = np.array([[1.0, 2.0, 4.0], [1.0, 0.0, 0.0]], y.dtype)
    return slopes @ y + wave * jnp.sin(bits @ y) + jnp.where(first @ y > 0.5, wall, 0)


def law(beta):
    """Of the corners, with a wave of 0.8."""
    energies = CORNERS @ SLOPES + 0.8 * np.sin(CORNERS @ [1.0, 2.0, 4.0])
    return np.exp(-beta * energies) / np.exp(-beta * energies).sum()


def run(slopes, wave=0.0, wall=0.0, start=0.0, seed=5, beta=1.0):
    """40 steps of 4000 chains for each of two examples, which all tests share."""
    start = jnp.broadcast_to(np.float32(start), (2, 4000, 3))
    key, slopes = jax.random.key(seed), np.broadcast_to(slopes, (2, 3))
    got = sample(family, (wave, wall), slopes, start, key, sampler=SAMPLER, steps=40, beta=beta)
    return jax.tree.map(np.asarray, got)


def counts(ends):
    """How many of the points (N, 3) are at each corner."""
    return np.bincount((ends @ [4, 2, 1]).astype(int), minlength=8)


def test_flips_are_proposed_by_their_estimate_and_balanced_by_the_energy(x64):
    moves = 4  # the three flips, then none

    def forced(beta, y, move):
        """The point that this move proposes, its acceptance probability, and the gradient at y."""
        target = Target(partial(family, (0.8, 0.0), SLOPES), Box(), beta)
        noise = jnp.where(jnp.arange(3) == move, 1e6, 0.0)
        random: Any = jax.eval_shape(partial(SAMPLER.draw, size=1), jax.random.key(0), y)
        random = random._replace(
            flips=noise, stay=jnp.where(move == 3, 1e7, 0.0), uniform=jnp.zeros(())
        )
        state = SAMPLER.init(target, y)
        end, info = SAMPLER.step(target, state, random)
        return end.y, info.acceptance, state.gradient

    each = jax.vmap(jax.vmap(jax.vmap(forced, (None, None, 0)), (None, 0, None)), (0, None, None))
    betas = np.array([1.0, 2.5])
    for beta, ends, accepted, slopes in zip(
        betas, *map(np.asarray, jax.jit(each)(betas, CORNERS, np.arange(moves))), strict=True
    ):
        exponents = beta * (2 * CORNERS - 1) * slopes[:, 0] / 2
        weights = np.c_[np.exp(exponents), np.ones(len(CORNERS))]
        proposed = weights / weights.sum(1, keepdims=True)
        transition = np.zeros((len(CORNERS), len(CORNERS)))
        for a, b in itertools.product(range(len(CORNERS)), repeat=2):
            for m in np.flatnonzero((ends[a] == CORNERS[b]).all(-1)):
                transition[a, b] += proposed[a, m] * accepted[a, m]
        transition += np.diag(1 - transition.sum(1))
        flow = law(beta)[:, None] * transition
        np.testing.assert_allclose(flow, flow.T, atol=1e-12)
        np.testing.assert_allclose(law(beta) @ transition, law(beta), atol=1e-12)
        assert np.all(np.linalg.matrix_power(transition, 6) > 0)
        assert np.all(accepted[:, 3] == 1) and accepted.min() < 0.5


@pytest.mark.slow
def test_flips_follow_the_probabilities_of_the_proposal():
    """The first step of a linear energy, whose estimates are exact: the law of where it ends is known."""
    ends = run(SLOPES).y[:, :, 0].reshape(-1, 3)
    forth = np.exp(-SLOPES / 2)
    total = 1 + forth.sum()
    back = total - forth + 1 / forth
    accepted = np.minimum(1, np.exp(-SLOPES) * (1 / forth / back) / (forth / total))
    flipped = forth / total * accepted
    assert np.all(ends.sum(1) <= 1)
    got = [np.sum(ends.sum(1) == 0), *ends.sum(0)]
    assert chisquare(got, 8000 * np.array([1 - flipped.sum(), *flipped])).pvalue > 1e-4


def test_binary_chains_have_the_enumerated_law_at_their_ends():
    """Also after an even number of steps."""
    got = run(SLOPES, wave=0.8, beta=1.5)
    assert not got.info.divergent.any() and 0.2 < got.info.acceptance.mean() < 1
    assert set(np.unique(got.y)) == {0.0, 1.0}
    for ends in got.state:
        assert chisquare(counts(ends), 4000 * law(1.5)).pvalue > 1e-4


def test_a_flat_energy_does_not_make_the_number_of_labels_even():
    assert chisquare(counts(run(0.0).state[0])).pvalue > 1e-4


def test_binary_chains_round_their_start_and_flag_what_is_not_a_number():
    steep = [60.0, -60.0, -60.0]  # no flip from the rounded start is ever accepted
    start = jnp.broadcast_to(jnp.array([0.2, 0.8, 0.5]), (2, 4000, 3)).at[0, 7, 0].set(jnp.nan)
    got = run([steep, np.zeros(3)], start=start)
    assert np.argwhere(got.info.divergent).tolist() == [[0, 7]]
    assert np.all(np.delete(got.y[0], 7, axis=0) == [0.0, 1.0, 1.0])
    assert set(np.unique(got.y[1])) == {0.0, 1.0}


@pytest.mark.slow
def test_infinite_energy_is_never_flipped_into():
    got = run(1.0, wall=np.inf)
    assert not got.info.divergent.any()
    assert got.y[..., 0].max() == 0 and got.y[..., 1:].max() == 1


def test_binary_chains_run_with_the_chains_last():
    y = np.zeros(3, np.float32)

    def step(beta, example):
        context, state, random = example
        target = Target(partial(family, (0.8, 0.0), context), Box(), beta)
        return SAMPLER.step(target, state, random)

    random = jax.eval_shape(partial(SAMPLER.draw, size=1), jax.random.key(0), y)
    example = SLOPES.astype(np.float32), Point(y, y[0], y), one_of(random, axis=-1)
    assert suits_last(step, np.float32(1), example)


def test_other_domains_than_the_unit_box_are_refused():
    with pytest.raises(ValueError, match=r"corners of Box\(0, 1\), got Box.*use Langevin"):
        SAMPLER.check(Box(0, 2))
