"""What a sampler is: a Markov chain on a target density, written for one chain.

beta is the inverse temperature, h a sampler's `step_size`, xi its noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from spen_jax.domains import Domain, Product


class Target(NamedTuple):
    """The density exp(-beta E(y)) on a domain, of one example: what a `Sampler` samples.

    - `energy`: E, a function of y alone.
    - `domain`: where y lives.
    - `beta`: the inverse temperature of this step, a scalar > 0.
    """

    energy: Callable[[Any], jax.Array]
    domain: Domain
    beta: jax.Array


class Info(NamedTuple):
    """How a chain fared: one step of it, or of all chains (B, C) what `sample` ran.

    Fields:
      acceptance: the acceptance probability in [0, 1], 1 where nothing is ever rejected; of `sample` the mean after the
        warm-up.
      divergent: whether the energy, log density ratio or gradient of the step's proposal was not a number, or the
        energy -inf, and the proposal therefore rejected; of `sample` the share of such steps after the warm-up, 0 where
        all was well. An energy of +inf is a density of 0, which adjusted samplers reject without counting it.

    `sample` also looks at each point that it keeps. Where y or its energy is not finite, the chain goes back to the
    point kept before and on from there, and all `thin` steps in between count as divergent. Unadjusted Langevin, which
    knows no energy on the way, has this check alone: what goes wrong between two kept points shows if it lasts. In the
    warm-up it is made ten times, or every `thin` steps where that is less often. A chain whose start is bad (not
    finite, of no finite energy, or with a gradient that is NaN) stands there with a share of 1, unless it finds a way
    out.
    """

    acceptance: jax.Array
    divergent: jax.Array


class Sampler(Protocol):
    """A Markov chain, written for one chain; all it does must depend on its arguments only.

    One's own is a frozen dataclass with these five methods, which `sample` runs over all chains of all examples. y is
    an array or a pytree, of one chain.
    """

    def check(self, domain: Domain) -> None:
        """ValueError where it cannot sample from this domain."""
        ...

    def draw(self, key: jax.Array, y: Any, size: int) -> Any:
        """The random numbers of one step of `size` chains, which stand last; `y` has the shapes of one."""
        ...

    def init(self, target: Target, y: Any) -> Any:
        """What the chain needs for its next step, at y."""
        ...

    def step(self, target: Target, state: Any, random: Any) -> tuple[Any, Info]:
        """The next state; a sampler that rejects does so where `Info` calls a proposal divergent, and flags it."""
        ...

    def read(self, target: Target, state: Any) -> tuple[Any, jax.Array]:
        """The point where the chain stands, and its energy."""
        ...


def consists_of(domain: Domain, kinds: tuple[type[Domain], ...]) -> bool:
    """Whether a domain, or all those of a product, are of these kinds."""
    if isinstance(domain, Product):
        return all(consists_of(part, kinds) for part in domain.domains)
    return isinstance(domain, kinds)
