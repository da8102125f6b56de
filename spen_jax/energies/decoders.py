"""Energies with a latent variable: decoders, mixtures, sparse coding, and a penalty on z."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp

from spen_jax.types import LatentEnergy


@dataclass(frozen=True)
class Decoder:
    """E = ||y - g(f(x), z)||^2, z latent, with params {"f": those of f, "g": those of g}.

    AssertionError where y and what is decoded differ in shape.

    Attributes:
      g: the decoder, `(params, h, z) -> y`: h = f(x), None without f; params["g"], None where there is none.
      f: the predictor, `(params, x) -> h`; None for an unconditional energy.
    """

    g: Callable[[Any, Any, Any], jax.Array]
    f: Callable[[Any, Any], Any] | None = None

    def __call__(self, params: Any, x: Any, y: jax.Array, z: Any) -> jax.Array:
        """The energy of one example, a scalar; AssertionError where y and what is decoded differ in shape."""
        decoded = self.decode(params, x, z)
        chex.assert_equal_shape([y, decoded])
        return jnp.sum((y - decoded) ** 2)

    def decode(self, params: Any, x: Any, z: Any) -> jax.Array:
        """g(f(x), z), the y of energy 0."""
        h = None if self.f is None else self.f(params["f"], x)
        return self.g(params.get("g"), h, z)


def scaled_circle(radii: jax.Array, z: jax.Array) -> jax.Array:
    """(r_1 cos z, r_2 sin z), the lecture's decoder of an angle z: an ellipse with these half-axes, `radii` (2,).

    z is a scalar, in radians, AssertionError for any other; the point is (2,). Source: LeCun's lectures.
    """
    chex.assert_rank(z, 0)
    return radii * jnp.stack([jnp.cos(z), jnp.sin(z)])


def mixture(params: Any, x: None, y: jax.Array, k: jax.Array) -> jax.Array:
    """E(y, k) = ||y - mu_k||^2 / (2 s_k^2) + D log s_k + D/2 log 2 pi - log pi_k, of component k = 0, ..., K - 1.

    y (D,), k an index, latent; x plays no part. params {"means": (K, D), "log_scales": (K,), "logits": (K,)}, pi =
    softmax(logits). Summed over k (`exact.free_energy` with `average=False`) at beta = 1 the free energy is -log of a
    Gaussian mixture's density; cold, with equal weights and scales, it is K-means' squared distance to the nearest
    mean, up to scale and a constant.
    """
    mean, log_scale = params["means"][k], params["log_scales"][k]
    size = y.shape[-1]
    distance = jnp.sum((y - mean) ** 2) / (2 * jnp.exp(2 * log_scale))
    volume = size * (log_scale + jnp.log(2 * jnp.pi) / 2)
    return distance + volume - jax.nn.log_softmax(params["logits"])[k]


def reconstruction(atoms: jax.Array, x: None, y: jax.Array, z: jax.Array) -> jax.Array:
    """E = 1/2 ||y - z'A||^2, sparse coding's with a dictionary of K `atoms` A, (K, D); see `fista`.

    y (D,), z (K,) latent; the atoms are the params, x plays no part. Source: Olshausen & Field (1996).
    """
    return jnp.sum((y - z @ atoms) ** 2) / 2


@dataclass(frozen=True)
class Penalised:
    """E(x, y, z) + penalty(z): a regulariser limits what z can say about y.

    `energy` is E, `(params, x, y, z) -> scalar`, `penalty` a function z -> scalar.
    """

    energy: LatentEnergy
    penalty: Callable[[Any], jax.Array]

    def __call__(self, params: Any, x: Any, y: Any, z: Any) -> jax.Array:
        """The energy of one example, a scalar."""
        return self.energy(params, x, y, z) + self.penalty(z)
