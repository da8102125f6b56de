"""What a sampler is: a Markov chain on a target density, written for one chain.

beta is the inverse temperature, h a sampler's `step_size`, xi its noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from spen_jax.domains import Domain, Product


class Target(NamedTuple):
    """The density exp(-beta E(y)) on a domain, for one example."""

    energy: Callable[[Any], jax.Array]
    domain: Domain
    beta: jax.Array


class Info(NamedTuple):
    """How a chain fared: one step of it, or of all chains (B, C) what `sample` ran.

    Fields:
      acceptance: the acceptance probability, of `sample` the mean after the warm-up; 1 where nothing is ever rejected.
      divergent: whether the chain met a number that is not finite; it then stands at the last point kept before. An
        energy of +inf is a density of 0, which adjusted samplers reject like any other point; NaN and -inf are errors.
    """

    acceptance: jax.Array
    divergent: jax.Array


class Sampler(Protocol):
    """A Markov chain, written for one chain; all it does must depend on its arguments only."""

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
        """The next state; a sampler that rejects does so where a number is not finite, and flags it."""
        ...

    def read(self, target: Target, state: Any) -> tuple[Any, jax.Array]:
        """The point where the chain stands, and its energy."""
        ...


def consists_of(domain: Domain, kinds: tuple[type[Domain], ...]) -> bool:
    """Whether a domain, or all those of a product, are of these kinds."""
    if isinstance(domain, Product):
        return all(consists_of(part, kinds) for part in domain.domains)
    return isinstance(domain, kinds)
