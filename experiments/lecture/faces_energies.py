"""Energies of "a face" and "no face" at every place, scale and pose of an image, by one network run over the image.

E(x, face, z) = k/2 ||G(x)_p - F(a)||^2 for z = (p, a): G a network of a window, run as convolutions over an image at
several sizes, p the place of the window and the size; F(a)_i = cos(a - a_i), a_i = -60, 0 and 60 degrees, a curve along
which a face moves as it turns; E(x, no face) = T. G, T and k are learned. Source: Osadchy, Miller & LeCun, Synergistic
face detection and pose estimation with energy-based models (2004, 2007), with a norm for its square.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from spen_jax import exact, losses

ANCHORS = (-60.0, 0.0, 60.0)  # degrees
ANYTHING, POSE, ALL = "nothing told", "pose told", "all told"


class Windows(nn.Module):
    """G: what a network says of every window of 25 x 25 pixels, in steps of 4; (B, h, w) -> (B, P, outputs)."""

    outputs: int = 3
    widths: tuple[int, int, int] = (12, 24, 32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w) -> (B, P, outputs)."""
        h = x[..., None]
        for width, size, stride in zip(self.widths, (5, 5, 4), (2, 2, 1), strict=True):
            h = nn.tanh(nn.Conv(width, (size, size), stride, padding="VALID")(h))
        return nn.Dense(self.outputs)(h).reshape(len(x), -1, self.outputs)


class Told(NamedTuple):
    """What of z is told in training, and the inverse temperature of the free energy over the rest.

    Where `beta` is infinity it is minimised over.
    """

    place: bool
    angle: bool
    beta: float


COLD = float("inf")
NOTHING, POSE, ALL = Told(False, False, 1.0), Told(False, True, 1.0), Told(True, True, 1.0)
MINIMISED, AVERAGED = NOTHING._replace(beta=COLD), NOTHING._replace(beta=0.0)


class Method(NamedTuple):
    """What z is, and what of it is told in the first and the second half of training.

    Heads: "curve" is the energy above; "point" has F at 0 degrees alone, so that z is place and scale; "linear" has
    E(x, face, p) = -G(x)_p with one output: at beta = infinity a network with max pooling, at 0 with mean pooling.
    """

    head: str
    halves: tuple[Told, Told]


METHODS = {
    "all told": Method("curve", (ALL, ALL)),
    "pose told": Method("curve", (POSE, POSE)),
    "nothing told, warm": Method("curve", (NOTHING, NOTHING)),
    "nothing told, cold": Method("curve", (MINIMISED, MINIMISED)),
    "told, then cold": Method("curve", (ALL, MINIMISED)),
    "no pose, all told": Method("point", (ALL, ALL)),
    "max pooling": Method("linear", (MINIMISED, MINIMISED)),
    "mean pooling": Method("linear", (AVERAGED, AVERAGED)),
}


def network_of(head: str) -> Windows:
    """The same layers for all, but for the number of outputs."""
    return Windows(1 if head == "linear" else 3)


def angles_of(head: str, angles: Sequence[float]) -> tuple[float, ...]:
    """Those of `angles` that z may be."""
    return tuple(angles) if head == "curve" else (0.0,)


def reference(angles: Any) -> jax.Array:
    """F(a) of angles in degrees (A,), (A, 3)."""
    return jnp.cos(jnp.deg2rad(jnp.asarray(angles)[:, None] - jnp.asarray(ANCHORS)[None]))


def first(head: str, key: jax.Array) -> dict[str, Any]:
    """Parameters before training."""
    network = network_of(head).init(key, jnp.zeros((1, 25, 25)))
    return {"network": network, "no_face": jnp.zeros(()), "log_k": jnp.log(4.0)}


def energies(
    params: Any, head: str, views: Sequence[jax.Array], angles: Sequence[float]
) -> jax.Array:
    """E(x, face, z) - E(x, no face) of all places and angles, (B, P, A), of images in all views, (B, h, h) each."""
    network = network_of(head)
    of_views = [jnp.asarray(network.apply(params["network"], v)) for v in views]
    g = jnp.concatenate(of_views, axis=1)
    if head == "linear":
        return -g - params["no_face"]
    f = reference(angles_of(head, angles))
    apart = jnp.sum((g[:, :, None] - f[None, None]) ** 2, axis=-1)
    return jnp.exp(params["log_k"]) / 2 * apart - params["no_face"]


def free_energy(each: jax.Array, beta: Any, allowed: jax.Array | None = None) -> jax.Array:
    """F_beta(x, face) - E(x, no face), (B,), of energies (B, P, A); over those `allowed`, a mask, alone."""
    weights = None if allowed is None else allowed.reshape(len(each), -1)
    return exact.softmin(each.reshape(len(each), -1), beta, weights=weights, average=True)


def allowed(told: Told, face: jax.Array, true: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What z may be, a mask (B, P, A): where there is a face what agrees with `true` (B, 2) in what is told of it."""
    place = jnp.arange(shape[1])[None, :, None] == true[:, :1, None]
    angle = jnp.arange(shape[2])[None, None] == true[:, 1:, None]
    place, angle = place | ~jnp.asarray(told.place), angle | ~jnp.asarray(told.angle)
    return (place & angle) | (face[:, None, None] == 0)


def loss(each: jax.Array, told: Told, face: jax.Array, true: jax.Array) -> jax.Array:
    """-log P(y, what is told of z | x), (B,), up to a constant: `losses.nll` of the free energies of y.

    What is not told has been marginalised, or at beta = infinity minimised over. The number of the true angle is 0
    where there is but one.
    """
    true = jnp.minimum(true, jnp.array([each.shape[1], each.shape[2]])[None] - 1)
    mask = allowed(told, face, true, each.shape)
    right = jnp.where(face == 1, free_energy(each, told.beta, mask), 0.0)
    both = jnp.stack([free_energy(each, told.beta), jnp.zeros(len(each))], axis=-1)
    return losses.nll(right, both)
