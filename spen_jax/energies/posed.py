"""Features of an image against a reference of each class that is moved, turned and scaled by a latent pose."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from spen_jax.energies.classic import Distance, euclidean
from spen_jax.numbers import floats
from spen_jax.types import Network


def moved(maps: jax.Array, z: jax.Array, shape: tuple[int, int] | None = None) -> jax.Array:
    """T_z U: maps (h, w, ...) scaled by exp(z_3) and turned by z_2 about their middle, then shifted by (z_0, z_1).

    Bilinear, zero outside; middles lie on each other. Differentiable in both, where no point falls on one of the grid.

    Args:
      maps: U, (h, w) or (h, w, channels).
      z: (4,), pixels down and right, radians, which take what lies right of the middle upwards, log of the scale.
      shape: (H, W) of the result; None for that of `maps`.

    ValueError for maps with fewer than two axes and for a z of another shape.
    """
    if jnp.ndim(maps) < 2 or jnp.shape(z) != (4,):
        raise ValueError(
            "moved needs maps (h, w, ...) and a pose (4,), pixels down and right, radians, log scale; "
            f"got shapes {jnp.shape(maps)} and {jnp.shape(z)}"
        )
    maps = floats("maps", maps)
    size = maps.shape[:2]
    down, right = (
        jnp.arange(n) - (n - 1) / 2 - at for n, at in zip(shape or size, z[:2], strict=True)
    )
    down, right = jnp.meshgrid(down, right, indexing="ij")
    cos, sin, shrink = jnp.cos(z[2]), jnp.sin(z[2]), jnp.exp(-z[3])
    rows = shrink * (cos * down + sin * right) + (size[0] - 1) / 2
    columns = shrink * (cos * right - sin * down) + (size[1] - 1) / 2
    sample = partial(map_coordinates, coordinates=[rows, columns], order=1)
    flat = maps.reshape(*size, -1)
    return jax.vmap(sample, -1, -1)(flat).reshape(*rows.shape, *maps.shape[2:])


@dataclass(frozen=True)
class Posed:
    """E(x, y, z) = D(G(x), T_z U_y), with params {"g": those of G, "references": U, leading axis classes}.

    y is the index of a class, z a latent pose. The least over z recognises a class y in any pose, and finds the pose;
    so G is to commute with T, at least nearly. Source: LeCun's lectures, "EBM architecture for invariant object
    recognition". AssertionError where G(x) and T_z U_y differ in shape.

    Attributes:
      g: features, `(params, x) -> G(x)` of one example.
      transform: `(U_y, z) -> T_z U_y`, of the shape of G(x): `moved`, or any other.
      distance: of two vectors; maps are made one.
    """

    g: Network
    transform: Callable[[Any, Any], jax.Array] = moved
    distance: Distance = euclidean

    def __call__(self, params: Any, x: Any, y: jax.Array, z: Any) -> jax.Array:
        """The energy of one example; AssertionError where G(x) and T_z U_y differ in shape."""
        features = self.g(params["g"], x)
        reference = jax.tree.map(lambda u: u[y], params["references"])
        transformed = self.transform(reference, z)
        chex.assert_equal_shape([features, transformed])
        return self.distance(features.ravel(), transformed.ravel())
