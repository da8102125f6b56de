"""Where y lives: a domain projects any point onto itself, starts an inference, and rounds an answer.

It also says what is natural there: the point that a network's scores stand for (`link`), what an answer costs
(`loss`), and what counts as one part of y (`parts`), which a mask has one boolean for. `minimize` gives a domain one
example at a time; on a batch the methods act on each example alike, but for `entropy` and the losses, which sum.
What a domain cannot do (reals have no corners, a ball no logits) raises ValueError and says what can.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spen_jax import trees
from spen_jax.domains.entropies import total
from spen_jax.numbers import real, real_array, rounding

NEAR = 1e-4
"""How far outside a domain, as a share of its size, still counts as inside: data are often roughly normalised."""


def counting(mask: Any, y: Any) -> Any:
    """y, an array or a tree, with 0 in the parts where the mask is False; y itself where `mask` is None.

    A mask has leading axes of y, (T,) for rows (T, K) that count or do not; for a tree it is a tree of masks.
    ValueError where it has others, or where it or y holds no real numbers.
    """
    if mask is None:
        return y

    def of_leaf(mask, y):
        mask, y = real("mask", mask), real("y", y)
        shape, rank = jnp.shape(y), jnp.ndim(mask)
        if jnp.shape(mask) != shape[:rank]:
            raise ValueError(
                f"a mask needs the leading axes of y, whose shape is {shape}, got shape {jnp.shape(mask)}"
            )
        mask = jnp.reshape(mask, (*shape[:rank], *[1] * (len(shape) - rank)))
        return jnp.where(mask, y, jnp.zeros((), jnp.result_type(y)))

    return jax.tree.map(lambda m, part: jax.tree.map(partial(of_leaf, m), part), mask, y)


def check_inside(domain: "Domain", y: Any, what: str, mask: Any = None) -> None:
    """ValueError, which says `what` and what to do, where part of a batch of answers y lies outside the domain.

    Args:
      domain: where each example's y should live.
      y: a batch, an array (B, ...) or a tree of them; what is being traced by JAX is not looked at.
      what: its name, such as "data.y".
      mask: the parts that count, booleans of leading axes of y, (B,) or (B, T), or a tree of such; others may hold
        anything.

    Up to rounding and `NEAR`. ValueError also for a y or a mask whose shape does not fit, and for what is no array of
    real numbers.
    """
    try:
        pieces = domain.pieces(y, mask)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    for path, part, values, counts in pieces:
        if not isinstance(values, Tracer) and not isinstance(counts, Tracer):
            _check_piece(part, real_array(what + path, values), what + path, counts)


def _check_piece(domain, y, what, mask):
    if y.ndim == 0:
        raise ValueError(f"{what} needs a leading axis of examples, got one number, {y}")
    try:
        domain.check(trees.one_of(y))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    outside = domain.outside(y)
    if mask is None and not outside.any():
        return
    counts = _read_mask(mask, outside.shape, what)
    outside = outside & counts
    if not outside.any():
        return
    at = np.unravel_index(np.argmax(outside), outside.shape)
    shown = np.array2string(y[at], threshold=8, edgeitems=3, precision=4, separator=", ")
    advice = domain.advice(y[counts]) or "give the predictor the domain that y lives in"
    if not np.isfinite(y[at]).all():
        advice = (
            "leave such examples out, or parts by a mask; of answers Solution.failed says which"
        )
    raise ValueError(
        f"{what} does not lie in {domain}: {outside.sum()} of {counts.sum()} parts are outside, such as {shown} "
        f"at {what}[{', '.join(map(str, at))}]; {advice}"
    )


def _read_mask(mask, shape, what):
    """A mask of leading axes as booleans of the whole shape."""
    if mask is None:
        return np.broadcast_to(True, shape)
    mask = real_array(f"the mask of {what}", mask)
    binary = mask.dtype == bool or np.isin(mask, (0, 1)).all()
    if mask.shape != shape[: mask.ndim] or not binary:
        raise ValueError(
            f"the mask of {what} needs booleans of leading axes of its parts, {shape}, got {mask.dtype} {mask.shape}"
        )
    return np.broadcast_to(mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)) == 1, shape)


class Domain:
    """What all domains offer; a new one is a frozen dataclass with these methods.

    y is an array, for a `Product` a tree. Methods take one example; on a batch they act on each example alike, but for
    `gap`, `entropy` and the losses, which are one number for all that they are given. Every domain has `project`,
    `initial` and `random` of its own, which here raise NotImplementedError (`exact.Polytope`, which starts at its
    context, has no `initial` and `random`). What a domain cannot do (reals have no corners, a ball no logits) raises
    ValueError and says what can.
    """

    @property
    def needs_context(self) -> bool:
        """Whether it is another set for each example: such a one is the domain of all of y, or of none."""
        return False

    @property
    def has_logits(self) -> bool:
        """Whether it has `to_logits`, `from_logits` and `entropy`, which mirror descent needs."""
        return False

    @property
    def flat(self) -> bool:
        """Whether its faces are flat, so that `onto_face` applied twice is `onto_face`, but for rounding."""
        return False

    def start(self, context: Any) -> Any:
        """Where inference of a batch starts, of a domain that needs its context; NotImplementedError for others."""
        raise NotImplementedError

    def within(self, context: Any) -> "Domain":
        """The domain of one example, where that depends on its context."""
        return self

    def gap(self, y: Any, gradient: Any) -> jax.Array:
        """How far y is from a minimum, the largest |y - project(y - gradient)|; 0 where it is one to first order."""
        moved = self.project(jax.tree.map(jnp.subtract, y, gradient))
        gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b), initial=0), y, moved)
        return reduce(jnp.maximum, jax.tree.leaves(gaps))

    def check(self, y: Any) -> None:
        """ValueError where the shape of y, one example, does not fit."""
        if not hasattr(y, "shape"):
            raise ValueError(
                f"{self} needs y to be one array for each example, got the tree "
                f"{jax.tree.structure(y)}; Product makes a domain of a tree"
            )

    def parts(self, y: Any) -> Any:
        """The shape of a mask of one example's y: what can be known, or count, by itself; of arrays or shapes.

        All of y.shape where each number is a part of its own; without the last axis where a vector is.
        """
        return y.shape

    def pieces(self, y: Any, mask: Any = None) -> list[tuple[str, "Domain", Any, Any]]:
        """The arrays of a tree y, each with its path, its own domain and its mask."""
        return [("", self, y, mask)]

    def outside(self, y: Any) -> Any:
        """Which parts of y, one example or a batch, do not lie in the domain: NumPy booleans, one for each of `parts`.

        Up to rounding and a ten-thousandth of the domain's size. What is not finite is outside of every domain.
        """
        y, near = real_array("y", y), NEAR + 4 * rounding(y)
        y = y if y.dtype.kind == "f" else y.astype(float)
        nearest = np.asarray(self.project(jnp.asarray(y)))
        with np.errstate(all="ignore"):
            far = ~(np.abs(nearest - y) <= near * (1 + np.abs(nearest)))
        return far.any(axis=tuple(range(len(self.parts(y)), y.ndim)))

    def advice(self, y: np.ndarray) -> str:
        """What to do with parts (n, ...) of y of which some lie outside; nothing where there is no better guess."""
        return ""

    def project(self, y: Any) -> Any:
        """argmin over u in the domain of ||u - y||."""
        raise NotImplementedError

    def shown(self, y: Any) -> Any:
        """What of a point is compared with a truth: y itself, or the part of it that a truth has."""
        return y

    def enter(self, y: Any) -> Any:
        """Where inference that is to start at y does start."""
        return self.project(y)

    def initial(self, shape: Any) -> Any:
        """The point in the middle, of this shape, such as (B, L)."""
        raise NotImplementedError

    def random(self, key: jax.Array, shape: Any) -> Any:
        """A random point of this shape, such as (B, L), drawn by the key."""
        raise NotImplementedError

    def onto_face(self, y: Any, target: Any, scaled: Any, v: Any) -> Any:
        """The Jacobian of `project` at `target` times v, where y = project(target): it takes out active bounds.

        target is y less the gradient times one number, scaled is y less the gradient over each coordinate's curvature.
        """
        return jax.jvp(self.project, (target,), (v,))[1]

    def round(self, y: Any) -> Any:
        """The discrete answer nearest to y; y itself where the domain has none."""
        return y

    def to_logits(self, y: Any) -> Any:
        """Logits l with from_logits(l) = y, for a point moved off the boundary by `LOGIT_FLOOR`; ValueError without."""
        raise ValueError(f"{self} has no logits; a Box with two finite bounds and a Simplex have")

    def from_logits(self, logits: Any) -> Any:
        """The point with these logits: the mirror map of the domain's entropy; ValueError for a domain without."""
        raise ValueError(f"{self} has no logits; a Box with two finite bounds and a Simplex have")

    def entropy(self, y: Any) -> jax.Array:
        """The entropy of one example's y in nats, a scalar; 0 at the domain's corners; ValueError where none is."""
        raise ValueError(f"{self} has no entropy; a Box with two finite bounds and a Simplex have")

    def link(self, scores: Any) -> Any:
        """The point that a network's scores, of the shape of y, stand for: that of these logits, else the nearest."""
        scores = real("scores", scores)
        return self.from_logits(scores) if self.has_logits else self.project(scores)

    def loss(self, y: Any, truth: Any, mask: Any = None) -> jax.Array:
        """What y costs where `truth` is right, a scalar for one example, summed over everything.

        The cross-entropy in nats where the domain has logits, else the squared error. Parts where `mask`, of shape
        `parts(y)`, is False cost nothing.
        """
        return total(lambda y, t: (y - t) ** 2, counting(mask, y), counting(mask, truth))

    def loss_of_scores(self, scores: Any, truth: Any, mask: Any = None) -> jax.Array:
        """loss(link(scores), truth, mask), from the scores: its slope does not end where an answer is certain."""
        return self.loss(self.link(scores), truth, mask)

    def corner(self, gradient: Any) -> Any:
        """argmin over s in the domain of <gradient, s>: the linear oracle of Frank-Wolfe; ValueError without bounds."""
        raise ValueError(f"{self} has no bounds on all sides, which a linear oracle needs")

    def reflect(self, y: Any) -> Any:
        """The point that a path to y arrives at if the boundary reflects it; ValueError for a domain that cannot."""
        raise ValueError(f"{self} cannot reflect; Reals and a Box can, other domains project")
