"""Sets of structured answers whose energies are sums over parts: all questions that one recursion answers exactly.

A `Structure` holds the energies of parts (labels and transitions, arcs, spans) for a batch of examples, and stands
for all structures that can be made of these parts. One recursion joins them, at inverse temperature beta the sum
F = -1/beta log sum_y exp(-beta E(y)), at infinity the minimum. The answers follow from it and its derivative, by the
same names for every structure: `free_energy`, `marginals`, `best`, `k_best`, `sample`, `entropy`, `energy`, `kl`.

Leading axes (...) of the arrays are those of the batch. Energies are floats, low where good; infinite ones forbid
a part. Everything is in nats: log probabilities are -beta (E - F). An example without any allowed structure has
F = infinity, no marginals (all 0), answers of -1, and an entropy that is not a number. Structures are pytrees: they
pass through `jit`, `vmap` and `grad`, and what is computed of them can be differentiated any number of times, in
both modes.
"""

import math
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.checks import check_whole
from spen_jax.domains import Domain
from spen_jax.exact import answers
from spen_jax.exact.algebras import Algebra, Drawn, Least, Sum
from spen_jax.exact.answers import Found, with_parts
from spen_jax.exact.arguments import check_beta
from spen_jax.exact.arrays import Arrays
from spen_jax.numbers import known, real

Beta = jax.Array | float


class Structure(Arrays):
    """What all structures offer; a new one has arrays, a recursion over the energies of its parts, two ways to write y.

    An answer y is written in whole numbers (labels, heads), or as the indicator array that a domain relaxes, in which
    the energy is (multi)linear: `one_hot` makes the second of the first. Leading axes (...) of its arrays are those of
    the batch, *shape those of an answer.

    Energies are floats, low where good; infinite ones forbid a part. Everything is in nats. An example without any
    allowed structure has F = infinity, marginals of 0, answers of -1, and an entropy that is not a number. Structures
    are pytrees: they pass through `jit`, `vmap` and `grad`. Questions take one beta, infinite too unless said, and
    raise ValueError for one known to be below 0. What a new kind has to say raises NotImplementedError here. Sources:
    one recursion, Goodman (1999); its derivatives, Eisner (2016).
    """

    arrays: ClassVar[tuple[str, ...]]
    """Names of its arrays, the first of which has the batch's axes before `rank` others."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Names of what is no array."""
    rank: ClassVar[int]
    """The axes of its first array without the batch's."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Names of arrays that all examples may share, without the batch's axes."""
    y_rank: ClassVar[int]
    """The axes of one relaxed answer."""
    whole_rank: ClassVar[int]
    """The axes of one answer in whole numbers."""
    domain: ClassVar[Domain]
    """Where relaxed answers live."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        shape = jnp.shape(getattr(self, self.arrays[0]))
        return shape[: len(shape) - self.rank]

    # What a structure has to say

    def tables(self) -> Any:
        """The energies of the parts, a tree of arrays (B, ...), B all of the batch; masks are infinities in them."""
        raise NotImplementedError

    def recursion(self, tables: Any, algebra: Algebra) -> jax.Array:
        """What the algebra makes of all structures, (B,), of `Several` (B, k)."""
        raise NotImplementedError

    def spread(self, tables: Any) -> Any:
        """The tables with entries of their own for all parts, where parts share some."""
        return tables

    def support(self) -> tuple[jax.Array, ...]:
        """What says which answers there are and stands in no table, (B, ...) each: masks, lengths."""
        return ()

    def comparable(self, other: Self) -> Self:
        """The same with tables of the kinds that another one has."""
        return self

    def parts(self, of_tables: Any) -> Any:
        """Marginals or indicators, arranged as the tables are, as a user sees them, (B, ...)."""
        return of_tables

    def written(self, of_tables: Any) -> jax.Array:
        """The answer in whole numbers that indicators arranged as the tables stand for, (B, ...)."""
        raise NotImplementedError

    def y_shape(self) -> tuple[int, ...]:
        """The shape of one relaxed answer."""
        raise NotImplementedError

    def one_hot(self, y: jax.Array) -> jax.Array:
        """An answer in whole numbers, (..., *shape), as the array that the domain relaxes."""
        raise NotImplementedError

    def energy_of(self, y: jax.Array) -> jax.Array:
        """E of relaxed answers, one for each example, (B, *shape) -> (B,): linear in each part of y."""
        raise NotImplementedError

    def plus(self, energies: Any) -> Self:
        """With energies added that y shows: E(y) + sum(energies * y), of the shape of relaxed answers."""
        raise NotImplementedError

    @property
    def is_exact(self) -> bool:
        """Whether what it answers is exact."""
        return True

    def masked(self, mask: jax.Array) -> Self:
        """With only those parts that count: a mask, booleans of the batch's axes and then leading axes of an answer.

        Beside the structure's own mask, where it has one. ValueError for a mask that does not fit, and from structures
        that take lengths only.
        """
        raise ValueError(
            f"which parts of a {type(self).__name__} count is said as it is made, by lengths: take the mask out of the "
            "data, or hand it to the features"
        )

    def free(self, tables: Any) -> jax.Array:
        """F at beta = 1 of the tables, (B,)."""
        return self.recursion(tables, Sum())

    def least(self, tables: Any) -> jax.Array:
        """min_y E(y) of the tables, (B,)."""
        return self.recursion(tables, Least())

    def found_marginals(self, tables: Any) -> Any:
        """P at beta = 1 of each part, arranged as `spread` has the tables."""
        return with_parts(self.free, self.spread(tables))[1]

    def found_best(self, tables: Any) -> tuple[jax.Array, jax.Array]:
        """The best answers in whole numbers, and their energies, (B,)."""
        energy, found = with_parts(lambda t: self.recursion(t, Least()), tables)
        return self.whole(found, energy), energy

    def found_samples(self, tables: Any, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        """n answers in whole numbers drawn at beta = 1 for each example, (B, n, ...), and F, (B,)."""

        def one(key):
            free, found = with_parts(lambda t: self.recursion(t, Drawn(key)), tables)
            return self.whole(found, free), free

        # Not all at once: each draws a number for every alternative.
        y, free = lax.map(one, jax.random.split(key, n), batch_size=8)
        return jnp.moveaxis(y, 0, 1), free[0]

    def whole(self, of_tables: Any, energy: jax.Array) -> jax.Array:
        """Indicators as answers in whole numbers, -1 where the energy is not finite."""
        y = self.written(of_tables)
        return jnp.where(energy.reshape(-1, *[1] * (y.ndim - 1)) < jnp.inf, y, -1)

    # What follows

    def energy(self, y: Any) -> jax.Array:
        """E(y) of answers (..., *shape), or of several for each example (..., n, *shape): of shape (...) or (..., n).

        Whole numbers and booleans are read as such; floats as relaxed answers, whose energy is the multilinear
        extension. Of what is no structure it is a sum as well, which means nothing. ValueError where the shape does not
        fit, or y holds no real numbers.
        """
        y = real("y", y)
        if not jnp.issubdtype(y.dtype, jnp.floating):
            self._check_y(y, self.whole_rank)
            y = self.one_hot(jnp.asarray(y, jnp.int32))
        batch = self.batch_shape
        self._check_y(y, self.y_rank)
        several = y.shape[len(batch) : y.ndim - self.y_rank]
        flat = jnp.reshape(
            y, (math.prod(batch), math.prod(several), *y.shape[y.ndim - self.y_rank :])
        )
        found = jax.vmap(self.energy_of, 1, 1)(flat.astype(self._dtype()))
        return found.reshape(*batch, *several)

    def free_energy(self, beta: Beta = 1.0) -> jax.Array:
        """F = -1/beta log sum_y exp(-beta E(y)), (...); at beta = infinity the least energy.

        Its derivative in the energies is the marginals, at infinity the parts of the best structure. beta >= 0 may be
        learned; a traced one is finite, and beta times an energy within the numbers. At 0 it is -infinity, or not a
        number where there is one structure only. ValueError for a beta that is no scalar, or known to be below 0.
        """
        return answers.free_energy(self, *read_beta(beta))

    def marginals(self, beta: Beta = 1.0) -> Any:
        """P(part) under P(y) = exp(-beta (E(y) - F)), for each part, in [0, 1]; at infinity those of `best`, 0 or 1.

        Arrays (..., parts) in a tuple with names, as the structure's kind says (`ChainParts` of a `Chain`), of arcs one
        array. ValueError for a beta that is no scalar, or known to be below 0.
        """
        return answers.marginals(self, *read_beta(beta))

    def mean(self, beta: Beta = 1.0) -> tuple[jax.Array, jax.Array]:
        """F, (...), and the mean of relaxed answers under P, (..., *shape): the marginals of what an answer shows."""
        return answers.mean(self, *read_beta(beta))

    def best(self) -> Found:
        """argmin_y E(y), of equals one: `Found`, its y (..., *shape) in whole numbers, its energy (...)."""
        return answers.best(self)

    def k_best(self, k: int) -> Found:
        """The k structures of lowest energy in rising order; -1 and infinity where there are fewer.

        `Found`, its y (..., k, *shape), its energy (..., k). ValueError for a k that is no whole number from 1 on.
        """
        check_whole("k", k, 1)
        return answers.k_best(self, int(k))

    def sample(self, key: jax.Array, n: int = 1, beta: Beta = 1.0) -> Found:
        """n independent structures for each example, drawn from P(y) = exp(-beta (E(y) - F)).

        `Found`, its y (..., n, *shape), its energy (..., n); at infinity n times the best. Equal keys of
        `jax.random.key` draw equal ones. ValueError for an n that is no whole number from 1 on, and a beta that is no
        scalar or known to be below 0.
        """
        check_whole("n", n, 1)
        beta, cold = read_beta(beta)
        if cold:
            return jax.tree.map(partial(self._repeated, n), self.best())
        return answers.sample(self, key, int(n), beta)

    def entropy(self, beta: Beta = 1.0) -> jax.Array:
        """H = -sum_y P(y) log P(y) = beta (mean E - F) in nats, (...), up to the rounding of beta F.

        ValueError for a beta known to be infinite or below 0.
        """
        return answers.entropy(self, _finite(beta))

    def kl(self, other: Self, beta: Beta = 1.0) -> jax.Array:
        """KL(P || Q) = sum_y P log(P / Q) in nats, (...), Q of `other`: infinite where it forbids what P does not.

        Also where masks or lengths differ. ValueError for structures of another kind, shape or setting, and a beta
        known to be infinite or below 0.
        """
        if type(self) is not type(other):
            raise ValueError(f"kl needs another {type(self).__name__}, got {type(other).__name__}")
        for what, own, its in (
            ("shape", (self.batch_shape, self.y_shape()), (other.batch_shape, other.y_shape())),
            ("settings", self.said(), other.said()),
        ):
            if own != its:
                raise ValueError(f"kl needs two structures of equal {what}, got {own} and {its}")
        return answers.kl(self.comparable(other), other.comparable(self), _finite(beta))

    def log_probability(self, y: Any, beta: Beta = 1.0) -> jax.Array:
        """log P(y) = -beta (E(y) - F) in nats, of the shape that `energy` has: (...), or (..., n) of several answers.

        -infinity for what is forbidden, not a number where nothing is allowed. ValueError where y does not fit, and for
        a beta known to be infinite or below 0.
        """
        return answers.log_probability(self, self.energy(y), _finite(beta))

    def nearest(self, y: Any) -> jax.Array:
        """The allowed structure that has most of relaxed answers y (..., *shape), argmax_s <y, s>, whole numbers.

        It rounds what gradient inference found; y of marginals has the most expected parts right. ValueError for y of
        another shape.
        """
        y = jnp.asarray(real("y", y), self._dtype())
        want = (*self.batch_shape, *self.y_shape())
        if y.shape != want:
            raise ValueError(
                f"nearest needs one relaxed answer for each example, {want}, got {y.shape}"
            )

        def flat(a):
            if not jnp.issubdtype(jnp.result_type(a), jnp.floating):
                return a
            return jnp.where(jnp.isinf(a), jnp.inf, 0).astype(a.dtype)

        return jax.tree.map(flat, self).plus(-y).best().y

    def _check_y(self, y, rank):
        batch, shape = self.batch_shape, self.y_shape()[:rank]
        several = y.shape[len(batch) : max(y.ndim - rank, len(batch))]
        if y.shape != (*batch, *several, *shape):
            raise ValueError(
                f"y must be answers of shape {shape} after the axes {batch} of the batch, and perhaps one of several "
                f"answers between; got {y.dtype} of shape {y.shape}"
            )

    def _dtype(self):
        return jnp.result_type(getattr(self, self.arrays[0]))

    def _repeated(self, n, a):
        axis = len(self.batch_shape)
        return jnp.repeat(jnp.expand_dims(a, axis), n, axis)


def read_beta(beta: Any) -> tuple[Any, bool]:
    """beta, and whether it is known to be infinite."""
    check_beta(beta)
    if np.ndim(beta):
        raise ValueError(
            f"beta must be one number, got shape {np.shape(beta)}; use vmap for several"
        )
    number = known(beta)
    cold = number is not None and bool(np.isinf(number))
    return (1.0 if cold else beta), cold


def _finite(beta):
    """beta; ValueError where it is known to be infinite."""
    beta, cold = read_beta(beta)
    if cold:
        raise ValueError(
            "entropy, kl and log_probability need a finite beta: at infinity one structure has all"
        )
    return beta
