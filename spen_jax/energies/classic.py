"""The classic energies: frozen dataclasses called as `energy(params, x, y) -> scalar` on one example.

Each is built on networks, pure functions `(params, x) -> G(x)`: `linear`, `logits_of` of a Flax module, or any other.
`best(params, x)` is the best answer in closed form, where there is one; else the answer is found by enumeration
(`exact.pairwise`) or by `minimize`, from several starts where there are several minimisers. Equal energies are equal
objects, so that nothing compiles twice. Source: LeCun et al. (2006), section 1 and 3; LeCun's lectures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from spen_jax.numbers import unit
from spen_jax.types import Energy, Network

Distance = Callable[[jax.Array, jax.Array], jax.Array]
"""(a, b) -> their distance along the last axis, (..., D) and (..., D) -> (...); or of two scalars, a scalar."""


def linear(params: Any, x: jax.Array) -> jax.Array:
    """w'x + b of one example, with params {"w": (D, K) or (D,), "b": (K,) or scalar}: (D,) -> (K,) or scalar."""
    return x @ params["w"] + params["b"]


def gaussian_bumps(x: jax.Array, centers: jax.Array, width: float) -> jax.Array:
    """exp(-||x - c_n||^2 / (2 width^2)) for each of N `centers`, (D,) and (N, D) -> (N,); radial basis functions.

    With the training points as centers, a regularised `linear` on top and the hinge loss, this is a support vector
    machine, whose kernel is the inner product of the bumps. `width` > 0 is in the units of x. Source: LeCun's lectures.
    """
    squared = jnp.sum((x[None] - centers) ** 2, axis=-1)
    return jnp.exp(-squared / (2 * width**2))


def euclidean(a: jax.Array, b: jax.Array) -> jax.Array:
    """1/2 ||a - b||^2 along the last axis, (..., D) and (..., D) -> (...); AssertionError where D differs."""
    chex.assert_equal_shape_suffix([a, b], 1)
    return jnp.sum((a - b) ** 2, axis=-1) / 2


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """1 - a.b / (||a|| ||b||) along the last axis, (..., D) and (..., D) -> (...), in [0, 2] up to rounding.

    Where one of the two is 0 it is 1, and has gradient 0 there.
    """
    return 1 - jnp.sum(unit(a) * unit(b), axis=-1)


def absolute(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum |a - b| along the last axis, (..., D) and (..., D) -> (...); AssertionError where D differs."""
    chex.assert_equal_shape_suffix([a, b], 1)
    return jnp.sum(jnp.abs(a - b), axis=-1)


@dataclass(frozen=True)
class Huber:
    """sum h(a - b) along the last axis, h(d) = d^2 / 2 up to |d| = delta, delta (|d| - delta / 2) beyond.

    A squared distance of a and b (..., D) on which no coordinate pulls with more than `delta`. ValueError for a delta
    that is not finite and above 0. Source: Huber (1964).
    """

    delta: float = 1.0

    def __post_init__(self):
        if not 0 < self.delta < jnp.inf:
            raise ValueError(f"Huber needs a finite delta > 0, got {self.delta}")

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The distance, (..., D) and (..., D) -> (...); AssertionError where their last axes differ in length."""
        chex.assert_equal_shape_suffix([a, b], 1)
        return jnp.sum(optax.losses.huber_loss(a, b, delta=self.delta), axis=-1)


def squared(y: jax.Array, r: jax.Array) -> jax.Array:
    """1/2 (y - r)^2 of two scalars, the answer and what a machine says of x; a distance of `LinearMachine`."""
    return (y - r) ** 2 / 2


def minus_product(y: jax.Array, r: jax.Array) -> jax.Array:
    """-y r of two scalars: the distance of a classifier with y in {-1, +1}, r what a machine says of x."""
    return -y * r


@dataclass(frozen=True)
class Regressor:
    """E = D(y, G(x)), D any distance that is least where y = G(x); with `linear` and `euclidean` linear regression.

    D alone shapes the energy around its minimum, so that the energy loss trains it: pushing down one energy pulls up
    others. What G(x) becomes is D's to say: the mean of y given x with `euclidean`, the median with `absolute`; with
    `Huber` it tends to the mean as delta grows and to the median as it falls. Sources: LeCun et al. (2006), section 3;
    LeCun's lecture, "Regressor".

    - `g`: `(params, x) -> G(x)`, of the shape of y, such as (D,).
    - `distance`: D, of y and G(x), a scalar.
    """

    g: Network
    distance: Distance = euclidean

    def __call__(self, params: Any, x: Any, y: jax.Array) -> jax.Array:
        """The energy of y, a scalar."""
        return self.distance(y, self.g(params, x))

    def best(self, params: Any, x: Any) -> jax.Array:
        """G(x), the y of least energy."""
        return self.g(params, x)


@dataclass(frozen=True)
class JointEmbedding:
    """E = D(G1(x), G2(y)), an encoder for each of two views, with params {"x": those of G1, "y": those of G2}.

    x and y may be of different kinds and shapes; the embeddings have one. A y is found among candidates by
    `exact.pairwise`. Collapses with the energy loss: G1 and G2 become one constant. Sources: Bromley et al. (1993), of
    one network (`Matcher`); with two and InfoNCE, Radford et al. (2021).

    - `gx`, `gy`: G1 and G2, `(params, x) -> (D,)` and `(params, y) -> (D,)`.
    - `distance`: D, of two embeddings (D,), a scalar.
    """

    gx: Network
    gy: Network
    distance: Distance = cosine

    def __call__(self, params: Any, x: Any, y: Any) -> jax.Array:
        """The energy of the pair, a scalar."""
        return self.distance(self.gx(params["x"], x), self.gy(params["y"], y))


@dataclass(frozen=True)
class ImplicitRegressor(JointEmbedding):
    """E = 1/2 ||G1(x) - G2(y)||^2: the joint embedding in which y is a value to be searched for.

    An x may have several best answers; `minimize` finds them from several starts. `gx` and `gy`, G1 and G2, and params
    are those of `JointEmbedding`, with `euclidean` for its distance. Source: LeCun et al. (2006), section 3.
    """

    distance: Distance = euclidean


@dataclass(frozen=True)
class Binary:
    """E = -y G(x), y in {-1, +1}, G a scalar; with `linear` the perceptron or, by its loss, the linear SVM.

    The two energies are 2 G(x) apart: the SVM's max(0, 1 - y G) is `hinge` at margin 2, over 2. The Gibbs distribution
    at beta = 1/2 is logistic regression, P(y) = sigmoid(y G(x)). `g` is `(params, x) -> G(x)`. Sources: LeCun et al.
    (2006), section 3; LeCun's lecture, "Perceptron".
    """

    g: Network

    def __call__(self, params: Any, x: Any, y: jax.Array) -> jax.Array:
        """The energy of y, a scalar."""
        return minus_product(y, self.g(params, x))

    def best(self, params: Any, x: Any) -> jax.Array:
        """sign G(x); -1 at G(x) = 0, as in the lecture."""
        return _sign(self.g(params, x))


@dataclass(frozen=True)
class LinearMachine:
    """E = D(y, f(w'x + b)), y in {-1, +1}, f increasing, with the parameters of `linear`, x (D,) and w (D,).

    `distance`, D, takes two scalars, y and f(...): `minus_product` makes it a `Binary`, `squared` a regression on the
    labels. `f` is the identity unless another is given. Source: LeCun's lectures, "Linear machines".
    """

    distance: Distance = minus_product
    f: Callable[[jax.Array], jax.Array] = jnp.asarray

    def __call__(self, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        """The energy of y, a scalar."""
        return self.distance(y, self.f(linear(params, x)))

    def best(self, params: Any, x: jax.Array) -> jax.Array:
        """The y of lower energy, -1 where both are equal."""
        r = self.f(linear(params, x))
        one = jnp.ones_like(r)
        return _sign(self.distance(-one, r) - self.distance(one, r))


@dataclass(frozen=True)
class Multiclass:
    """E = sum_k delta(y - k) G_k(x) = G_y(x), y an index of K classes: G_k is the cost of class k.

    With `linear` and the NLL this is multinomial logistic regression (maximum entropy) with logits -G. `g` is
    `(params, x) -> G(x)`, (K,), low where good. Source: LeCun et al. (2006), section 3.
    """

    g: Network

    def __call__(self, params: Any, x: Any, y: jax.Array) -> jax.Array:
        """The energy of class y, a scalar."""
        return self.energies(params, x)[y]

    def energies(self, params: Any, x: Any) -> jax.Array:
        """Of all classes, (K,)."""
        return self.g(params, x)

    def best(self, params: Any, x: Any) -> jax.Array:
        """argmin_k G_k(x), an index."""
        return jnp.argmin(self.energies(params, x), axis=-1)


@dataclass(frozen=True)
class RadialBasis:
    """E = 1/2 ||G(x) - U_y||^2: a module, radial basis functions, and a switch that y, an index of K classes, sets.

    params {"g": those of G, "centers": U, (K, D)}, both trained; `g` is `(params, x) -> G(x)`, (D,). Collapses with the
    energy loss and the perceptron loss: G and all centers become one constant. Source: LeCun's lectures, "Other
    architectures that may collapse".
    """

    g: Network

    def __call__(self, params: Any, x: Any, y: jax.Array) -> jax.Array:
        """The energy of class y, a scalar."""
        return self.energies(params, x)[y]

    def energies(self, params: Any, x: Any) -> jax.Array:
        """Of all classes, (K,)."""
        return euclidean(self.g(params["g"], x)[None], params["centers"])

    def best(self, params: Any, x: Any) -> jax.Array:
        """The class of the nearest center, an index."""
        return jnp.argmin(self.energies(params, x), axis=-1)


@dataclass(frozen=True)
class Matcher:
    """E = D(G(x), G(y)), one network for both: a Siamese network.

    Where x and y come from one set, y = x has the lowest energy; among other candidates it is the nearest embedding.
    Collapses with the energy loss and `euclidean`. Sources: Bromley et al. (1993); LeCun's lectures, "Matcher".

    - `g`: `(params, x) -> G(x)`, an embedding (D,).
    - `distance`: D, of two embeddings, a scalar.
    """

    g: Network
    distance: Distance = euclidean

    def __call__(self, params: Any, x: Any, y: Any) -> jax.Array:
        """The energy of the pair, a scalar."""
        return self.distance(self.g(params, x), self.g(params, y))


@dataclass(frozen=True)
class Saturated:
    """E = ceiling (1 - exp(-E0 / ceiling)): the same answers and ranking as E0 >= 0, never above the ceiling.

    `energy` is E0, `(params, x, y) -> scalar`. On unbounded y E has no Gibbs distribution: the integral of exp(-beta E)
    diverges. ValueError for a `ceiling` that is not above 0. Source: LeCun's lectures, "EBM energy surfaces".
    """

    energy: Energy
    ceiling: float = 1.0

    def __post_init__(self):
        if not self.ceiling > 0:
            raise ValueError(f"Saturated needs a ceiling > 0, got {self.ceiling}")

    def __call__(self, params: Any, x: Any, y: Any) -> jax.Array:
        """The energy of y, a scalar."""
        return -self.ceiling * jnp.expm1(-self.energy(params, x, y) / self.ceiling)


def _sign(r):
    return jnp.where(r > 0, 1.0, -1.0).astype(r.dtype)
