"""What an objective knows of a batch: the context, the truth, which parts of it count, and energies of points.

Data says once which parts of y count. A batch has fields x and y, and optionally `mask` (B, ...), booleans with
leading axes of y ((B, T) for y (B, T, K)), or `length` (B,), how many entries of y's first axis count. Where y
is a tree, a mask is one array for all leaves or a tree of such arrays. Objectives that say so also take `weight`
(B,), how much each example counts in their mean.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax import sparse, trees
from spen_jax.checks import as_floats, check_energy
from spen_jax.convolutions import fast
from spen_jax.domains import Box, Domain, check_inside, counting
from spen_jax.exact import structure_of, structured
from spen_jax.predictor import Predictor
from spen_jax.types import Energy, Objective


class Batch(NamedTuple):
    """B examples as `read` found them: x, y as floats with 0 where it does not count, and what counts, or None.

    x is whatever the features take, B leading in each array; y (B, ...), an array or a tree of arrays; mask, booleans
    with leading axes of y, such as (B, T) for y (B, T, K); weight (B,), how much each example counts in a mean.
    """

    x: Any
    y: Any
    mask: Any = None
    weight: Any = None


def field(batch: Any, name: str) -> Any:
    """The field of this name of a NamedTuple, dataclass or dict, or of a pair (x, y); None where there is none."""
    if type(batch) in (tuple, list) and len(batch) == 2:
        batch = Batch(*batch)
    return batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)


def read(batch: Any, *, weighted: bool = False) -> Batch:
    """(x, y, mask or None, weight or None) of a NamedTuple, dataclass or dict with such fields, or of a pair (x, y).

    y (B, ...) is an array or a tree of arrays, `mask` booleans with leading axes of y ((B, T) for y (B, T, K)), or in
    its place `length` (B,) says how many entries of y's first axis after B count; `weight` (B,) how much each example
    does, where `weighted`. What does not count may be anything in the data, NaN too; y has 0 there. ValueError for a
    batch without y, for a mask, lengths or weights of shapes that do not fit it, and for weights where they are not
    asked for; a length beyond the axis is all of it.
    """
    y, mask, length, weight = (field(batch, name) for name in ("y", "mask", "length", "weight"))
    if y is None:
        raise ValueError(
            "a batch needs fields x and y, and mask or length where not all of y counts, or is a pair (x, y); got a "
            f"{type(batch).__name__}"
        )
    check_dense(batch)
    y = as_truth(y)
    if length is not None:
        if mask is not None:
            raise ValueError("a batch has a mask or a length, not both")
        mask = jax.tree.map(partial(_up_to, jnp.asarray(length)), y)
    if mask is not None:
        mask = jax.tree.map(jnp.asarray, mask)
        jax.tree.map(_check_mask, jax.tree.broadcast(mask, y), y)
        y = counting(mask, y)
    weight = None if weight is None else _weight(weight, size_of(y), weighted)
    return Batch(field(batch, "x"), y, mask, weight)


def as_truth(y: Any) -> Any:
    """The tree y as arrays of floats; sparse rows of any kind become arrays, here and nowhere else."""
    return jax.tree.map(
        lambda a: as_floats(a.todense() if sparse.is_rows(a) else a),
        sparse.whole(y),
        is_leaf=sparse.is_rows,
    )


def _weight(weight, n, weighted):
    if not weighted:
        raise ValueError(
            "this objective does not weigh examples: leave the field weight out, or take end_to_end or feed_forward"
        )
    weight = jnp.asarray(weight)
    if weight.shape != (n,):
        raise ValueError(f"weight must be one number for each of {n} examples, got {weight.shape}")
    return weight


def weighted_mean(values: jax.Array, weight: Any) -> jax.Array:
    """sum_i w_i v_i / sum_i w_i over examples, the plain mean without weights; 0 where all weights are 0."""
    if weight is None:
        return jnp.mean(values)
    total = jnp.sum(weight)
    return jnp.where(total > 0, weight @ values / jnp.where(total > 0, total, 1), 0)


def check_dense(batch: Any) -> None:
    """ValueError for a mask or length that is sparse."""
    for name in ("mask", "length"):
        if sparse.has_rows(field(batch, name)):
            raise ValueError(f"x and y may be sparse: give {name} as an array, {name}.toarray()")


def _up_to(length, y):
    if y.ndim < 2 or length.shape != y.shape[:1]:
        raise ValueError(
            f"length needs one number for each example and y an axis after that of the examples, got shapes "
            f"{length.shape} and {y.shape}"
        )
    return jnp.arange(y.shape[1])[None] < length[:, None]


def _check_mask(mask, y):
    if mask.dtype != bool or not mask.ndim or mask.shape != y.shape[: mask.ndim]:
        raise ValueError(
            f"a mask must be booleans with leading axes of y, whose shape is {y.shape}; got {mask.dtype} of "
            f"shape {mask.shape}"
        )


@lru_cache(maxsize=256)
def of_what_counts(energy: Energy) -> Energy:
    """The energy that sees y with 0 in the parts that do not count; its context is (context, mask).

    Equal arguments give the same function, so that nothing compiles twice.
    """

    def of_parts(params, context, y):
        inner, mask = context
        return energy(params, inner, counting(mask, y))

    inside = structure_of(energy)
    if inside is None:
        return of_parts

    def structure(params, context):
        inner, mask = context
        return inside(params, inner).masked(mask)

    # Where a chain ends depends on what counts, so that 0 in its place is not enough.
    return structured(structure)


class Given(NamedTuple):
    """What an objective knows of a batch of B examples, as `given` makes it.

    Attributes:
      energy: `(params, inputs, y) -> scalar` for one example; where there is a mask it is that of what counts.
      params: the parameters of the energy.
      context: what the features made of x, or x itself; arrays (B, ...).
      truth: y (B, ...), as floats, with 0 where it does not count.
      mask: what counts, booleans with leading axes of the truth, a tree like it; or None.
      weight: how much each example counts, (B,), or None.
    """

    energy: Energy
    params: Any
    context: Any
    truth: Any
    mask: Any
    weight: Any = None

    @property
    def inputs(self) -> Any:
        """The energy's context, B leading: that of the features, or where there is a mask (context, mask)."""
        return self.context if self.mask is None else (self.context, self.mask)

    def held(self) -> "Given":
        """The same with parameters and context as constants."""
        params, context = jax.lax.stop_gradient((self.params, self.context))
        return self._replace(params=params, context=context)

    def each(self, y: Any) -> jax.Array:
        """The energies of one point for each example, (B, ...) -> (B,)."""
        return of_each(self.energy, self.params, self.inputs, y)

    def several(self, y: Any) -> jax.Array:
        """The energies of n points for each example, (B, n, ...) -> (B, n)."""
        return of_each(jax.vmap(self.energy, (None, None, 0)), self.params, self.inputs, y)

    def of_all(self, y: Any) -> jax.Array:
        """The energies of K points that are the same for all examples, (K, ...) -> (B, K)."""
        over = jax.vmap(self.energy, (None, None, 0))
        return jax.vmap(over, (None, 0, None))(self.params, self.inputs, y)


def of_each(function: Any, params: Any, inputs: Any, y: Any) -> Any:
    """function(params, inputs, y) of each example."""
    return jax.vmap(function, (None, 0, 0))(params, inputs, y)


def given(
    predictor: Predictor, params: Any, batch: Any, key: Any, *, weighted: bool = False
) -> Given:
    """The batch as the predictor's features and energy see it, a `Given`; the key is for dropout.

    `params` are the predictor's; the batch is one of `read`, whose field `weight` (B,) is refused unless `weighted`.
    For objectives of your own: `seen.each(seen.truth)` are the energies (B,) of the truth. ValueError as `read`
    raises, and where the energy fails on one example over its shapes, or is no float scalar.
    """
    x, truth, mask, weight = read(batch, weighted=weighted)
    context = predictor.context(params, x, key=key, mask=mask)
    if not predictor.domain.needs_context:  # there a point may have more parts than a truth
        check_energy(predictor.energy, params, *trees.one_of((context, truth)))
    if mask is None:
        return Given(predictor.energy, params, context, truth, None, weight)
    counts = jax.tree.broadcast(mask, truth)
    return Given(of_what_counts(predictor.energy), params, context, truth, counts, weight)


def size_of(tree: Any) -> int:
    """B, the number of examples."""
    return len(jax.tree.leaves(tree)[0])


# Parts of the truth that inference is told


class Hint(NamedTuple):
    """`known` as `minimize` takes it, and what is left for the cost to judge, both None where there is nothing."""

    known: tuple[Any, Any] | None
    counts: Any


def hint(
    domain: Domain, seen: Given, share: float, key: jax.Array, *, on_only: bool = False
) -> Hint:
    """Tells inference each part of the truth with a probability that each example draws from [0, share].

    The parts are those of the domain; parts that do not count are not told, and with `on_only` none whose truth is 0.
    Share 0 tells nothing and draws nothing.
    """
    if not share:
        return Hint(None, seen.mask)
    leaves, structure = jax.tree.flatten(seen.truth)
    parts = structure.flatten_up_to(domain.parts(trees.one_of(seen.truth)))
    # The third key: an objective splits the same one in two for its features and its start.
    share_key, *keys = jax.random.split(jax.random.fold_in(key, 2), 1 + len(leaves))
    shares = jax.random.uniform(share_key, (size_of(leaves),), maxval=share)

    def drawn(key, shape):
        numbers = jax.random.uniform(key, (len(shares), *shape))
        return numbers < shares.reshape(-1, *[1] * len(shape))

    told = list(map(drawn, keys, parts))
    counts = [jnp.ones(a.shape, bool) for a in told]
    if seen.mask is not None:
        counts = [by_parts(m, p) for m, p in zip(jax.tree.leaves(seen.mask), parts, strict=True)]
        told = [a & b for a, b in zip(told, counts, strict=True)]
    if on_only:
        on = [by_parts(a != 0, p, jnp.any) for a, p in zip(leaves, parts, strict=True)]
        told = [a & b for a, b in zip(told, on, strict=True)]
    judged = [a & ~b for a, b in zip(counts, told, strict=True)]
    return Hint((structure.unflatten(told), seen.truth), structure.unflatten(judged))


def by_parts(
    mask: jax.Array, parts: tuple[int, ...], holds: Callable[..., jax.Array] = jnp.all
) -> jax.Array:
    """A mask with leading axes of y for its parts, (B, *parts): a part counts where all of it does, or any of it."""
    mask = holds(mask, axis=tuple(range(1 + len(parts), mask.ndim)))
    mask = mask.reshape(*mask.shape, *[1] * (1 + len(parts) - mask.ndim))
    return jnp.broadcast_to(mask, (len(mask), *parts))


# What is said before anything is traced


def checking(objective: Objective, domain: Domain | None, *, corners: bool = False) -> Objective:
    """The objective with fast convolutions; it knows how `fit` is to check that y is in the domain, or at a corner."""
    objective = fast(objective)
    if domain is not None:
        objective.check_data = partial(_check_truth, domain, corners)  # pyright: ignore[reportFunctionMemberAccess]
    return objective


def _check_truth(domain, corners, data):
    says = field(data, "mask") is not None or field(data, "length") is not None
    y = sparse.matrices(y=field(data, "y"))
    if isinstance(y, sparse.Matrix):
        if says or not isinstance(domain, Box):
            raise ValueError(
                f"a sparse y holds label sets in a Box that count in full, got {domain}"
                f"{' and a mask or length' if says else ''}: give y as an array, y.toarray()"
            )
        y = np.append(y.values, 0)[None]  # what is not stored is 0
    mask = read(data, weighted=True).mask if says else None
    check_inside(domain, y, "data.y", mask)
    if corners:
        y = as_floats(y)
        wrong = np.flatnonzero(np.asarray(jnp.abs(counting(mask, y - domain.round(y))) > 1e-4))
        if wrong.size:
            at = np.unravel_index(wrong[0], y.shape)
            raise ValueError(
                f"data.y must stand at the corners of {domain}, which this objective goes through, but {wrong.size} of "
                f"{y.size} numbers do not, such as {y[at]:.4g} at data.y[{', '.join(map(str, at))}]; round them, or "
                "take an objective for relaxed y, such as end_to_end"
            )


def check_predictor(predictor: Any, unrolled: bool = False) -> None:
    """ValueError for anything that is not a `Predictor`, and for a polytope's where its inference is not unrolled."""
    if not isinstance(predictor, Predictor):
        raise ValueError(
            "an objective needs a predictor first, which says how answers are found: sx.Predictor(energy, features); "
            f"got {predictor!r}"
        )
    if predictor.domain.needs_context and not unrolled:
        raise ValueError(
            f"{type(predictor.domain).__name__} is trained by objectives.end_to_end alone, through its inference: "
            "the other objectives compare energies of points that only a structure's context makes"
        )


def check_share(known: float) -> None:
    """ValueError for a share of the truth outside [0, 1]."""
    if not 0 <= known <= 1:
        raise ValueError(f"known is a share of the truth, between 0 and 1, got {known}")


def check_least(name: str, value: float) -> None:
    """ValueError for a weight below 0, or one that is not a number."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")
