"""What a recursion does with the energies of alternatives: sum, least, k least, one drawn at random.

A recursion over structures adds the energies of parts that go together (`both`) and joins those of alternatives
(`either`). Each algebra gives the same recursion another answer, at inverse temperature 1; derivatives of that answer
in the energies of the parts are their marginals, or say which of them the answer is made of. Infinite energies stand
for what is not allowed. Source: Goodman (1999); as derivatives Eisner (2016).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


class Algebra:
    """What all algebras offer; the arrays of a recursion are (B, ...), of `Several` (B, ..., k)."""

    def table(self, energies: jax.Array) -> jax.Array:
        """Energies of single parts, (B, ...), as the recursion takes them."""
        return energies

    def none(self, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """(B, ...) sets without an alternative."""
        return jnp.full(shape, jnp.inf, dtype)

    def either(self, energies: jax.Array, axis: int) -> jax.Array:
        """That of the alternatives along an axis >= 0, which goes."""
        raise NotImplementedError

    def both(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """That of all combinations of one of a and one of b; the two broadcast."""
        return a + b

    def at(self, step: jax.Array | int) -> "Algebra":
        """The algebra for a step of a loop: what is drawn in two steps is independent."""
        return self


@dataclass(frozen=True)
class Sum(Algebra):
    """F = -log sum_k exp(-E_k); its derivative is the Gibbs distribution, 0 where no energy is finite."""

    def either(self, energies, axis):
        """The free energy of the alternatives."""
        return summed(energies, axis)


@dataclass(frozen=True)
class Least(Algebra):
    """min_k E_k; its derivative is 1 at the first of the least, 0 elsewhere and where no energy is finite."""

    def either(self, energies, axis):
        """The least energy of the alternatives."""
        return _least(energies, axis)


@dataclass(frozen=True)
class Several(Algebra):
    """The k least energies in rising order, along a last axis; infinite where there are fewer."""

    k: int

    def table(self, energies):
        """Lists of one."""
        return energies[..., None]

    def none(self, shape, dtype):
        """Empty lists."""
        return jnp.full((*shape, self.k), jnp.inf, dtype)

    def either(self, energies, axis):
        """The k least of all lists along the axis."""
        lists = jnp.moveaxis(energies, axis, -2)
        return self._kept(lists.reshape(*lists.shape[:-2], -1))

    def both(self, a, b):
        """Sums of one of each list, among them the k least; in no order."""
        if 1 in (a.shape[-1], b.shape[-1]):
            return a + b
        a, b = self._sorted(a), self._sorted(b)
        # Below the i-th of one and the j-th of the other are (i + 1) (j + 1) - 1 sums.
        pairs = [(i, j) for i in range(self.k) for j in range(self.k // (i + 1))]
        return jnp.stack([a[..., i] + b[..., j] for i, j in pairs], -1)

    def _sorted(self, lists):
        return lists if lists.shape[-1] == self.k else self._kept(lists)

    def _kept(self, energies):
        missing = max(0, self.k - energies.shape[-1])
        none = jnp.full((*energies.shape[:-1], missing), jnp.inf, energies.dtype)
        return -lax.top_k(-jnp.concatenate([energies, none], -1), self.k)[0]


class Drawn(Algebra):
    """F as in `Sum`; its derivative is 1 at an alternative drawn with probability exp(F - E_k), 0 elsewhere."""

    def __init__(self, key: jax.Array):
        self.key = key

    def either(self, energies, axis):
        """The free energy of the alternatives, one of which is drawn."""
        self.key, key = jax.random.split(self.key)
        return _drawn(energies, key, axis)

    def at(self, step):
        """One with a key of its own."""
        return Drawn(jax.random.fold_in(self.key, step))


def summed(energies: jax.Array, axis: int) -> jax.Array:
    """-log sum exp(-E) along an axis; infinite, with derivative 0, where no energy is finite."""
    least = lax.stop_gradient(jnp.min(energies, axis, keepdims=True))
    least = jnp.where(least == jnp.inf, 0, least)
    total = jnp.sum(jnp.exp(least - energies), axis)
    none = total == 0
    free = jnp.squeeze(least, axis) - jnp.log(jnp.where(none, 1, total))
    return jnp.where(none, jnp.inf, free)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _least(energies, axis):
    return jnp.min(energies, axis)


@_least.defjvp
def _least_jvp(axis, primals, tangents):
    (energies,), (change,) = primals, tangents
    least = jnp.min(energies, axis)
    slope = _picked(change, energies, axis)
    return least, jnp.where(least < jnp.inf, slope, 0)


def _picked(values, energies, axis):
    """values at the first of the least energies, without `argmin`, which is slow, and a gather, which would scatter."""
    places = lax.broadcasted_iota(jnp.int32, energies.shape, axis)
    least = energies == jnp.min(energies, axis, keepdims=True)
    first = jnp.min(jnp.where(least, places, energies.shape[axis]), axis, keepdims=True)
    return jnp.sum(jnp.where(places == first, values, 0), axis)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _drawn(energies, key, axis):
    return summed(energies, axis)


@_drawn.defjvp
def _drawn_jvp(axis, primals, tangents):
    (energies, key), (change, _) = primals, tangents
    noise = jax.random.gumbel(key, energies.shape, energies.dtype)
    return summed(energies, axis), _picked(change, energies - noise, axis)
