"""The sets that one array y can live in, but for simplices: all reals, a box, balls.

What a method makes of y has the type of y, the default float for whole numbers and booleans; of halves it is computed
in float32. What is no real number raises ValueError by name.
"""

import math
from dataclasses import dataclass
from numbers import Real

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from spen_jax.domains.base import NEAR, Domain, counting
from spen_jax.domains.entropies import (
    LOGIT_FLOOR,
    binary_entropy,
    binary_log_likelihood,
    floor_of,
    total,
)
from spen_jax.numbers import floats, real, real_array, rounding, unit, wide


@dataclass(frozen=True)
class Reals(Domain):
    """All real arrays y, of any shape: nothing is projected or rounded.

    `initial` is 0, `random` standard normal, the loss the squared error. Logits, entropy and corners raise ValueError.
    """

    @property
    def flat(self):
        """Always."""
        return True

    def outside(self, y):
        """Where y is not finite."""
        return ~np.isfinite(real_array("y", y))

    def project(self, y):
        """The point itself, of whatever type."""
        real("y", y)
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
    """The box {y : lower <= y_i <= upper}, y of any shape; [0, 1] is the convex hull of the binary labellings.

    With u = (y - lower) / (upper - lower) its logits are log(u / (1 - u)), its loss is the binary cross-entropy of u in
    nats, and `round` goes to the nearer bound. A bound may be infinite: `Box(0, math.inf)` is the non-negative orthant,
    without a middle, logits or corners (ValueError), whose loss is the squared error. What methods make of y has its
    type, the default float for whole numbers. ValueError unless `lower` < `upper` are numbers, and for y that are none.
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self):
        numbers = isinstance(self.lower, Real) and isinstance(self.upper, Real)
        if not (numbers and self.lower < self.upper):
            raise ValueError(
                f"Box needs two numbers lower < upper, got lower={self.lower} and upper={self.upper}"
            )

    @property
    def has_logits(self):
        """Whether both bounds are finite."""
        return math.isfinite(self.upper - self.lower)

    @property
    def flat(self):
        """Always."""
        return True

    def onto_face(self, y, target, scaled, v):
        """v where y and the scaled target are strictly inside, else 0."""
        inside = (self.lower < y) & (y < self.upper)
        return jnp.where(inside & (self.lower < scaled) & (scaled < self.upper), v, 0)

    def _finite(self, what: str) -> float:
        if not self.has_logits:
            raise ValueError(f"{what} needs a Box with two finite bounds, got {self}")
        return self.upper - self.lower

    def outside(self, y):
        """Where y is not finite, or beyond a bound by more than a ten-thousandth of the width."""
        y, eps = real_array("y", y), rounding(y)
        bounds = [abs(b) for b in (self.lower, self.upper) if math.isfinite(b)]
        width = self.upper - self.lower if self.has_logits else max([1.0, *bounds])
        near = NEAR * width + eps * max([0.0, *bounds])
        with np.errstate(over="ignore"):  # a bound that the type of y cannot hold is none
            inside = (y >= self.lower - near) & (y <= self.upper + near)
        return ~(inside & np.isfinite(y))

    def advice(self, y):
        """For two or 256 levels in the unit box, how to scale them."""
        if self != Box():
            return ""
        if np.isin(y, (-1, 1)).all():
            return "for labels of -1 and 1 give (y + 1) / 2"
        if y.min() >= 0 and 100 < y.max() <= 255 and (y == np.round(y)).all():
            return "for numbers from 0 to 255 give y / 255"
        return ""

    def project(self, y):
        """argmin over u in the box of ||u - y||: y clipped to [lower, upper]."""
        return jnp.clip(floats("y", y), self.lower, self.upper)

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
        y = floats("y", y)
        return jnp.where(y >= middle, self.upper, self.lower).astype(y.dtype)

    def _inside(self, y):
        return (wide(y) - self.lower) / self._finite("a logit")

    def to_logits(self, y):
        """log(u / (1 - u)) with u = (y - lower) / (upper - lower)."""
        y = floats("y", y)
        floor = floor_of(LOGIT_FLOOR, y)
        inside = jnp.clip(self._inside(y), floor, 1 - floor)
        return (jnp.log(inside) - jnp.log1p(-inside)).astype(y.dtype)

    def from_logits(self, logits):
        """lower + (upper - lower) sigmoid(logits)."""
        logits = floats("logits", logits)
        y = self.lower + self._finite("a logit") * jax.nn.sigmoid(wide(logits))
        return y.astype(logits.dtype)

    def entropy(self, y):
        """The binary entropy of u = (y - lower) / (upper - lower), summed, times the width.

        The width makes its gradient -logit(u) in every box.
        """
        y = floats("y", y)
        each = binary_entropy(self._inside(y if y.ndim else y[None]))
        return (self._finite("the entropy") * jnp.sum(each)).astype(y.dtype)

    def loss(self, y, truth, mask=None):
        """The binary cross-entropy of (y - lower) / (upper - lower), in nats; squared error without finite bounds."""
        if not self.has_logits:
            return super().loss(y, truth, mask)
        log_likelihood = binary_log_likelihood(y)

        def each(y, truth):
            return log_likelihood(*(counting(mask, self._inside(a)) for a in (y, truth)))

        return -total(each, y, truth)

    def loss_of_scores(self, scores, truth, mask=None):
        """That of lower + (upper - lower) sigmoid(scores)."""
        if not self.has_logits:
            return super().loss_of_scores(scores, truth, mask)

        def each(scores, truth):
            return counting(mask, optax.sigmoid_binary_cross_entropy(scores, self._inside(truth)))

        return total(each, real("scores", scores), truth)

    def corner(self, gradient):
        """The lower bound where the gradient is positive, else the upper."""
        self._finite("the linear oracle of Frank-Wolfe")
        gradient = floats("gradient", gradient)
        return jnp.where(gradient > 0, self.lower, self.upper).astype(gradient.dtype)

    def reflect(self, y):
        """Mirrors y at the bounds until it is inside."""
        y = floats("y", y)
        return self._reflected(wide(y)).astype(y.dtype)

    def _reflected(self, y):
        if self.has_logits:
            width = self.upper - self.lower
            mirrored = self.lower + width - jnp.abs(jnp.mod(y - self.lower, 2 * width) - width)
            return jnp.where((self.lower <= y) & (y <= self.upper), y, mirrored)
        if math.isfinite(self.lower):
            return self.lower + jnp.abs(y - self.lower)
        return self.upper - jnp.abs(self.upper - y) if math.isfinite(self.upper) else y


@dataclass(frozen=True)
class L2Ball(Domain):
    """{y : ||y||_2 <= radius} along the last axis; of shape (nodes, D), one for each node.

    `round` leaves y (..., D) as it is, the loss is the squared error; logits, entropy and reflection raise ValueError.
    So do a `radius` that is not finite and above 0, a y that is one number, and what is no real number.
    """

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

    def parts(self, y):
        """Each vector is one part: the shape without its last axis."""
        return y.shape[:-1]

    def outside(self, y):
        """Which vectors are longer than the radius, by more than a ten-thousandth, or not finite."""
        y, near = real_array("y", y), NEAR + 4 * rounding(y)
        self.check(y)
        with np.errstate(all="ignore"):
            return ~(np.linalg.norm(y / float(self.radius), axis=-1) <= 1 + near)

    def project(self, y):
        """y scaled down to the radius where it is longer, of whatever size."""
        y = floats("y", y)
        self.check(y)
        exact = wide(y)
        largest = jnp.max(jnp.abs(exact), axis=-1, keepdims=True, initial=self.radius)
        scale = lax.stop_gradient(1 / jnp.sqrt(largest))  # as in `unit`
        share = exact * scale * scale
        squared = jnp.sum(share**2, axis=-1, keepdims=True)
        inside = squared <= (self.radius * scale * scale) ** 2
        # The length of what is inside has no use, and that of 0 no derivative.
        outer = share * (self.radius / jnp.sqrt(jnp.where(inside, 1, squared)))
        return jnp.where(inside, exact, outer).astype(y.dtype)

    def initial(self, shape):
        """The centre, 0."""
        return jnp.zeros(shape)

    def random(self, key, shape):
        """A point drawn uniformly from the ball."""
        return self.radius * jax.random.ball(key, shape[-1], shape=shape[:-1])

    def corner(self, gradient):
        """The point of the sphere against the gradient; the centre where the gradient is 0."""
        gradient = floats("gradient", gradient)
        self.check(gradient)
        return (-self.radius * unit(wide(gradient))).astype(gradient.dtype)
