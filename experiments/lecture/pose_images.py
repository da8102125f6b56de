"""Digits on a larger canvas, moved, turned and scaled by amounts from a narrow range, and by others from outside it.

A pose is (down, right, angle, log scale), as that of `energies.moved`: pixels, radians, natural logarithm.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from spen_jax.energies import moved

CANVAS, SIZE = 24, 9  # pixels of a side of an image, and of a digit at scale 1
NARROW = np.array([[-2, 2], [-2, 2], [-np.pi / 12, np.pi / 12], np.log([0.9, 1.1])])
WIDE = np.array([[-6, 6], [-6, 6], [-np.pi / 3, np.pi / 3], np.log([0.7, 1.5])])
TOLERANCE = (WIDE[:, 1] - WIDE[:, 0]) / 10
PLACE, ANGLE, SCALE = (0, 1), (2,), (3,)
CONDITIONS = {
    "unmoved": None,
    "inside": (),
    "moved": PLACE,
    "turned": ANGLE,
    "scaled": SCALE,
    "outside": (*PLACE, *ANGLE, *SCALE),
}


class Images(NamedTuple):
    """Images (N, CANVAS, CANVAS) in [0, 1], digits (N,) and the poses applied (N, 4)."""

    x: jax.Array
    label: np.ndarray
    pose: np.ndarray


def load() -> tuple[np.ndarray, np.ndarray]:
    """Pixels in [0, 1], (N, 8, 8), and digits, (N,)."""
    x, label = (np.asarray(a) for a in load_digits(return_X_y=True))
    return (x.reshape(-1, 8, 8) / 16).astype(np.float32), label.astype(np.int32)


@jax.jit
def rendered(x: jax.Array, pose: jax.Array) -> jax.Array:
    """Images (N, CANVAS, CANVAS) of digits (N, 8, 8) in poses (N, 4)."""
    larger = pose + jnp.array([[0, 0, 0, np.log(SIZE / 8)]])
    return jax.vmap(lambda image, z: moved(image, z, (CANVAS, CANVAS)))(x, larger)


def evenly(limits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Poses (N, C) drawn evenly between limits (C, 2)."""
    low, high = limits.T
    return rng.uniform(low, high, (count, len(limits)))


def draw_poses(count: int, outside: tuple[int, ...] | None, rng: np.random.Generator) -> np.ndarray:
    """Poses (N, 4), even within NARROW, but for coordinates `outside`: within WIDE and without NARROW.

    Of the place one of the two coordinates is outside at least. None: nothing is done to an image.
    """
    if outside is None:
        return np.zeros((count, 4))
    poses = evenly(NARROW, count, rng)
    for group in (PLACE, ANGLE, SCALE):
        if not set(group) <= set(outside):
            continue
        low, high = NARROW[list(group)].T
        many = evenly(WIDE[list(group)], 50 * count + 50, rng)
        far = many[((many < low) | (many > high)).any(axis=1)]
        poses[:, list(group)] = far[:count]
    return poses


def posed(x: np.ndarray, label: np.ndarray, pose: np.ndarray) -> Images:
    """The digits in these poses."""
    return Images(rendered(jnp.asarray(x), jnp.asarray(pose, jnp.float32)), label, pose)


def apart(found: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """|found - applied| in each coordinate, (N, 4), angles the short way round."""
    difference = np.asarray(found, float) - pose
    difference[:, 2] = (difference[:, 2] + np.pi) % (2 * np.pi) - np.pi
    return np.abs(difference)


def composed(pose: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The pose of what stood in pose `first` (N, 4) before `pose` (N, 4) was applied to it."""
    down, right, angle, log_scale = pose.T
    size, cos, sin = np.exp(log_scale), np.cos(angle), np.sin(angle)
    of_down = size * (cos * first[:, 0] - sin * first[:, 1])
    of_right = size * (sin * first[:, 0] + cos * first[:, 1])
    return np.column_stack([down + of_down, right + of_right, pose[:, 2:] + first[:, 2:]])
