"""Hamiltonian Monte Carlo, by BlackJAX."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from spen_jax.checks import check_positive, check_whole
from spen_jax.domains import Reals
from spen_jax.sampling.metropolis import Point, is_wrong, point_at
from spen_jax.sampling.sampler import Info, consists_of
from spen_jax.trees import select


@dataclass(frozen=True)
class HamiltonianMonteCarlo:
    """Hamiltonian Monte Carlo with leapfrog steps and unit masses, by BlackJAX (`blackjax.hmc`), on `Reals`.

    A trajectory costs `leapfrog_steps` gradients, each step of it `step_size` long. Its potential is beta E. Source:
    Neal (2011), "MCMC using Hamiltonian dynamics". ValueError for a step size that is not above 0, fewer than one
    leapfrog step, and another domain. Needs `pip install 'spen_jax[sampling]'`, ModuleNotFoundError without.
    """

    step_size: float
    leapfrog_steps: int = 10

    def __post_init__(self):
        check_positive("step_size of HamiltonianMonteCarlo", self.step_size)
        check_whole("leapfrog_steps", self.leapfrog_steps, 1)

    def check(self, domain):
        """ValueError for another domain than Reals, or products of them, ModuleNotFoundError without BlackJAX."""
        if not consists_of(domain, (Reals,)):
            raise ValueError(
                f"HamiltonianMonteCarlo samples from Reals, got {domain}; Langevin(adjusted=True) keeps to a Box"
            )
        _blackjax()

    def draw(self, key, y, size):
        """A key for each chain."""
        return jax.random.split(key, size)

    def init(self, target, y):
        """The point, its energy and gradient."""
        return point_at(target, y)

    def step(self, target, state, random):
        """One trajectory; BlackJAX accepts or rejects where it ends."""
        hmc, leaves = _blackjax(), jax.tree.leaves(state.y)
        after, info = hmc.build_kernel()(
            random,
            # BlackJAX's state holds -beta E and its gradient, and beta may change.
            hmc.HMCState(*_scaled(state, -target.beta)),
            lambda y: _times(-target.beta, target.energy(y)),
            self.step_size,
            jnp.ones(sum(a.size for a in leaves), jnp.result_type(*leaves)),  # unit masses
            self.leapfrog_steps,
        )
        # The Hamiltonian at the end, beta E and the kinetic energy, which the gradient there is part of.
        wrong = is_wrong(jnp.asarray(info.energy), -jnp.asarray(info.proposal.logdensity))
        acceptance = jnp.where(wrong, 0, info.acceptance_rate)
        moves = ~wrong & jnp.asarray(info.is_accepted)
        return select(moves, _scaled(Point(*after), -1 / target.beta), state), Info(
            acceptance, wrong
        )

    def read(self, target, state):
        """The point and its energy."""
        return state.y, state.energy


def _times(factor, a):
    """Their product, of the type of `a`."""
    return (factor * jnp.asarray(a)).astype(jnp.result_type(a))


def _scaled(point, factor):
    """The same point of an energy that is so many times as high."""
    energy, gradient = jax.tree.map(partial(_times, factor), (point.energy, point.gradient))
    return Point(point.y, energy, gradient)


def _blackjax():
    try:
        from blackjax.mcmc import hmc
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "HamiltonianMonteCarlo needs BlackJAX: pip install 'spen_jax[sampling]'"
        ) from error
    return hmc
