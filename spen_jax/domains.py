"""Where y lives: a domain projects any point onto itself, starts an inference, and rounds an answer.

`minimize` gives a domain one example at a time; on a batch the methods act on each example alike.
What a domain cannot do (reals have no corners, a ball no logits) raises ValueError and says what can.
"""

import math
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from optax import projections

PROBABILITY_FLOOR = 1e-7  # float32 numbers just below 1 are 6e-8 apart
LOGIT_FLOOR = 1e-6
"""Where logits are asked for, points nearer to the boundary (as a share of the width) are moved in."""


def binary_entropy(y: jax.Array) -> jax.Array:
    """H(y) = -sum_i y_i log y_i + (1 - y_i) log(1 - y_i), (..., L) -> (...), in nats.

    Its gradient, -logit(y_i), is infinite at 0 and 1: minimise on logits (`MirrorDescent`) or on
    [eps, 1 - eps]. Where float32 rounds a logit's sigmoid to 0 or 1 the logarithms are those of 1e-7, so that
    the gradient stays finite.
    """
    on, off = jnp.maximum(y, PROBABILITY_FLOOR), jnp.maximum(1 - y, PROBABILITY_FLOOR)
    entropy = -y * jnp.log(on) - (1 - y) * jnp.log(off)
    # on + off is 1 above the floor; at the floor its derivative makes that of the whole a logit.
    total = on + off
    return jnp.sum(entropy + total - jax.lax.stop_gradient(total), axis=-1)


def entropy(y: jax.Array) -> jax.Array:
    """H(y) = -sum_k y_k log y_k of distributions over K values, (..., K) -> (...), in nats.

    Below 1e-7 the logarithm is that of 1e-7, so that the gradient, -log y_k - 1, stays finite.
    """
    floored = jnp.maximum(y, PROBABILITY_FLOOR)
    # Below the floor y log(floor) would lose the -1 of the derivative.
    lost = jnp.where(y < PROBABILITY_FLOOR, y, 0)
    return jnp.sum(-y * jnp.log(floored) - lost + jax.lax.stop_gradient(lost), axis=-1)


class Domain:
    """What all domains offer; a new one is a frozen dataclass with these methods."""

    def check(self, y: Any) -> None:
        """ValueError where the shape of y, one example, does not fit."""
        if not hasattr(y, "shape"):
            raise ValueError(
                f"{self} needs y to be one array for each example, got the tree "
                f"{jax.tree.structure(y)}; Product makes a domain of a tree"
            )

    def project(self, y: Any) -> Any:
        """argmin over u in the domain of ||u - y||."""
        raise NotImplementedError

    def initial(self, shape: Any) -> Any:
        """The point in the middle, of this shape."""
        raise NotImplementedError

    def random(self, key: jax.Array, shape: Any) -> Any:
        """A random point of this shape."""
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
        """Logits l with from_logits(l) = y, for a point moved off the boundary by LOGIT_FLOOR."""
        raise ValueError(f"{self} has no logits; a Box with two finite bounds and a Simplex have")

    def from_logits(self, logits: Any) -> Any:
        """The point with these logits: the mirror map of the domain's entropy."""
        raise ValueError(f"{self} has no logits; a Box with two finite bounds and a Simplex have")

    def entropy(self, y: Any) -> jax.Array:
        """The entropy of one example's y in nats, a scalar; 0 at the domain's corners."""
        raise ValueError(f"{self} has no entropy; a Box with two finite bounds and a Simplex have")

    def corner(self, gradient: Any) -> Any:
        """argmin over s in the domain of <gradient, s>: the linear oracle of Frank-Wolfe."""
        raise ValueError(f"{self} has no bounds on all sides, which a linear oracle needs")

    def reflect(self, y: Any) -> Any:
        """The point that a path to y arrives at if the boundary reflects it."""
        raise ValueError(f"{self} cannot reflect; Reals and a Box can, other domains project")


@dataclass(frozen=True)
class Reals(Domain):
    """All real arrays: nothing is projected or rounded."""

    def project(self, y):
        """The point itself."""
        return y

    def initial(self, shape):
        """Zeros."""
        return jnp.zeros(shape)

    def random(self, key, shape):
        """Independent standard normal numbers."""
        return jax.random.normal(key, shape)

    def reflect(self, y):
        """The point itself."""
        return y


@dataclass(frozen=True)
class Box(Domain):
    """The box {y : lower <= y_i <= upper}; [0, 1] is the convex hull of the binary labellings.

    A bound may be infinite: `Box(0, math.inf)` is the non-negative orthant, without a middle, logits or corners.
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self):
        numbers = isinstance(self.lower, Real) and isinstance(self.upper, Real)
        if not (numbers and self.lower < self.upper):
            raise ValueError(
                f"Box needs two numbers lower < upper, got lower={self.lower} and upper={self.upper}"
            )

    def onto_face(self, y, target, scaled, v):
        """v where y and the scaled target are strictly inside, else 0."""
        inside = (self.lower < y) & (y < self.upper)
        return jnp.where(inside & (self.lower < scaled) & (scaled < self.upper), v, 0)

    def _finite(self, what: str) -> float:
        if not math.isfinite(self.upper - self.lower):
            raise ValueError(f"{what} needs a Box with two finite bounds, got {self}")
        return self.upper - self.lower

    def project(self, y):
        """argmin over u in the box of ||u - y||: y clipped to [lower, upper]."""
        return jnp.clip(y, self.lower, self.upper)

    def initial(self, shape):
        """The centre of the box, in every coordinate."""
        return jnp.full(shape, self.lower + self._finite("the centre") / 2)

    def random(self, key, shape):
        """A point drawn uniformly from the box."""
        self._finite("a uniform point")
        return jax.random.uniform(key, shape, minval=self.lower, maxval=self.upper)

    def round(self, y):
        """The nearest corner of the box (the upper bound at the centre)."""
        middle = self.lower + self._finite("rounding") / 2
        return jnp.where(y >= middle, self.upper, self.lower).astype(jnp.result_type(y))

    def _inside(self, y):
        return (y - self.lower) / self._finite("a logit")

    def to_logits(self, y):
        """log(u / (1 - u)) with u = (y - lower) / (upper - lower)."""
        inside = jnp.clip(self._inside(y), LOGIT_FLOOR, 1 - LOGIT_FLOOR)
        return jnp.log(inside) - jnp.log1p(-inside)

    def from_logits(self, logits):
        """lower + (upper - lower) sigmoid(logits)."""
        return self.lower + self._finite("a logit") * jax.nn.sigmoid(logits)

    def entropy(self, y):
        """The binary entropy of u = (y - lower) / (upper - lower), summed, times the width.

        The width makes its gradient -logit(u) in every box.
        """
        return self._finite("the entropy") * jnp.sum(binary_entropy(self._inside(y)))

    def corner(self, gradient):
        """The lower bound where the gradient is positive, else the upper."""
        self._finite("the linear oracle of Frank-Wolfe")
        return jnp.where(gradient > 0, self.lower, self.upper).astype(gradient.dtype)

    def reflect(self, y):
        """Mirrors y at the bounds until it is inside."""
        if math.isfinite(self.upper - self.lower):
            width = self.upper - self.lower
            mirrored = self.lower + width - jnp.abs(jnp.mod(y - self.lower, 2 * width) - width)
            return jnp.where((self.lower <= y) & (y <= self.upper), y, mirrored)
        if math.isfinite(self.lower):
            return self.lower + jnp.abs(y - self.lower)
        return self.upper - jnp.abs(self.upper - y) if math.isfinite(self.upper) else y


@dataclass(frozen=True)
class Simplex(Domain):
    """{y : y_k >= 0, sum_k y_k = 1} along the last axis; of shape (nodes, values), one for each node."""

    def check(self, y):
        """ValueError for a scalar."""
        super().check(y)
        if len(y.shape) < 1:
            raise ValueError(
                "Simplex needs y of shape (..., K) for each example, got a scalar; start needs shape "
                "(B, K) or (B, nodes, K)"
            )

    def project(self, y):
        """argmin over u in the simplex of ||u - y||, by Optax."""
        project = jnp.vectorize(projections.projection_simplex, signature="(k)->(k)")
        # A shift changes nothing but the rounding of large numbers.
        return project(y - jnp.max(y, axis=-1, keepdims=True)).astype(y.dtype)

    def initial(self, shape):
        """The uniform distribution, 1 / K."""
        return jnp.full(shape, 1 / shape[-1])

    def random(self, key, shape):
        """A distribution drawn uniformly from the simplex."""
        return jax.random.dirichlet(key, jnp.ones(shape[-1]), shape[:-1])

    def round(self, y):
        """1 at the largest entry (the first of equals), 0 elsewhere."""
        return jax.nn.one_hot(jnp.argmax(y, -1), y.shape[-1], dtype=y.dtype)

    def to_logits(self, y):
        """log y."""
        return jnp.log(jnp.maximum(y, LOGIT_FLOOR))

    def from_logits(self, logits):
        """softmax(logits)."""
        return jax.nn.softmax(logits, axis=-1)

    def entropy(self, y):
        """-sum y log y over all nodes and values."""
        return jnp.sum(entropy(y))

    def corner(self, gradient):
        """1 at the smallest entry of the gradient."""
        return self.round(-gradient)


@dataclass(frozen=True)
class L2Ball(Domain):
    """{y : ||y||_2 <= radius} along the last axis; of shape (nodes, D), one for each node."""

    radius: float = 1.0

    def __post_init__(self):
        if not 0 < self.radius < math.inf:
            raise ValueError(f"L2Ball needs a finite radius > 0, got {self.radius}; else use Reals")

    def check(self, y):
        """ValueError for a scalar."""
        super().check(y)
        if len(y.shape) < 1:
            raise ValueError(
                "L2Ball needs y of shape (..., D) for each example, got a scalar; start needs shape (B, D)"
            )

    def project(self, y):
        """y scaled down to the radius where it is longer, by Optax."""
        project = partial(projections.projection_l2_ball, scale=self.radius)
        return jnp.vectorize(project, signature="(d)->(d)")(y)

    def initial(self, shape):
        """The centre, 0."""
        return jnp.zeros(shape)

    def random(self, key, shape):
        """A point drawn uniformly from the ball."""
        return self.radius * jax.random.ball(key, shape[-1], shape=shape[:-1])

    def corner(self, gradient):
        """The point of the sphere against the gradient; the centre where the gradient is 0."""
        norm = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
        return -self.radius * gradient / jnp.where(norm > 0, norm, 1)


@dataclass(frozen=True, init=False)
class Product(Domain):
    """A tree of domains for a tree y: `Product({"tags": Box(), "class": Simplex()})`.

    The shapes given to `initial` and `random` are a tree of tuples.
    """

    parts: tuple[Domain, ...]
    structure: Any

    def __init__(self, domains: Any):
        parts, structure = jax.tree.flatten(domains)
        for part in parts:
            if not isinstance(part, Domain):
                raise ValueError(f"Product needs a tree of domains, got the leaf {part!r}")
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "structure", structure)

    def __repr__(self):
        return f"Product({self.structure.unflatten(self.parts)})"

    def _each(self, method: str, *trees: Any) -> list[Any]:
        leaves = [self.structure.flatten_up_to(tree) for tree in trees]
        return [
            getattr(part, method)(*args) for part, *args in zip(self.parts, *leaves, strict=True)
        ]

    def _tree(self, method: str, *trees: Any) -> Any:
        return self.structure.unflatten(self._each(method, *trees))

    def check(self, y):
        """ValueError where y is another tree, or a leaf does not fit its domain."""
        try:
            self.structure.flatten_up_to(y)
        except ValueError as error:
            raise ValueError(
                f"the domain needs y to be the tree {self.structure}, got {jax.tree.structure(y)}"
            ) from error
        self._each("check", y)

    def project(self, y):
        """Each leaf projected."""
        return self._tree("project", y)

    def initial(self, shape):
        """The middle of each part."""
        return self._tree("initial", shape)

    def random(self, key, shape):
        """A random point of each part."""
        keys = self.structure.unflatten(
            list(jax.random.split(key, max(1, len(self.parts))))[: len(self.parts)]
        )
        return self._tree("random", keys, shape)

    def onto_face(self, y, target, scaled, v):
        """Each part's own."""
        return self._tree("onto_face", y, target, scaled, v)

    def round(self, y):
        """Each leaf rounded."""
        return self._tree("round", y)

    def to_logits(self, y):
        """The logits of each leaf."""
        return self._tree("to_logits", y)

    def from_logits(self, logits):
        """The point of each leaf's logits."""
        return self._tree("from_logits", logits)

    def entropy(self, y):
        """The sum of the parts' entropies."""
        return sum(self._each("entropy", y), jnp.zeros(()))

    def corner(self, gradient):
        """The corner of each part."""
        return self._tree("corner", gradient)

    def reflect(self, y):
        """Each leaf reflected."""
        return self._tree("reflect", y)
