"""Photographs with a face somewhere, and without: scikit-image's 25 x 25 faces and non-faces pasted into its pictures.

A pose is (row, column, log2 scale, angle in degrees) of the middle of what was pasted. With a face and without, patches
are pasted alike, so that a border tells nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import skimage
from scipy.ndimage import map_coordinates, uniform_filter
from skimage.transform import rescale

PATCH, STEP = 25, 4  # pixels of a patch's, and of a window's, side; between windows
BOX = 13  # pixels of a side of the square whose mean and spread a pixel is held against
SCALES, TURN = (0.0, 2 / 3), 60.0  # log2 of the size, 25 to 40 pixels; degrees, either way
PARTS = {"learn": slice(0, 60), "choose": slice(60, 80), "test": slice(80, 100)}
PHOTOGRAPHS = {
    "learn": ("brick", "coffee", "gravel", "hubble_deep_field", "rocket", "text"),
    "choose": ("page", "retina"),
    "test": ("camera", "chelsea", "grass", "immunohistochemistry", "moon"),
}


class Scenes(NamedTuple):
    """Images (N, side, side) in [0, 1], whether there is a face (N,), and poses (N, 4) of what was pasted."""

    images: np.ndarray
    face: np.ndarray
    pose: np.ndarray


class Views(NamedTuple):
    """Sizes at which a network looks at a square image of `side` pixels, log2 of the factor: a grid of places."""

    side: int
    log_scales: tuple[float, ...]

    def sizes(self) -> list[int]:
        """Pixels of a side at each of the scales."""
        return [round(self.side / 2**s) for s in self.log_scales]

    def places(self) -> np.ndarray:
        """Row, column (pixels of the image) and log2 scale of the windows of `of`, their middles, (P, 3)."""
        grids = []
        for size in self.sizes():
            scale = self.side / size
            steps = (STEP * np.arange(windows(size)) + PATCH / 2) * scale - 0.5
            rows, columns = np.meshgrid(steps, steps, indexing="ij")
            scales = np.full(rows.size, np.log2(scale))
            grids.append(np.column_stack([rows.ravel(), columns.ravel(), scales]))
        return np.concatenate(grids).astype(np.float32)

    def of(self, images: np.ndarray) -> list[np.ndarray]:
        """The images (N, side, side) at each size, (N, h, h) each: less the mean about, over the spread."""
        views = []
        for size in self.sizes():
            shape = (len(images), size, size)
            small = np.asarray(jax.image.resize(jnp.asarray(images), shape, "linear"))
            mean = uniform_filter(small, BOX, axes=(1, 2))
            spread = np.sqrt(np.maximum(uniform_filter(small**2, BOX, axes=(1, 2)) - mean**2, 0))
            views.append(((small - mean) / (spread + 0.05)).astype(np.float32))
        return views


def windows(size: int) -> int:
    """How many windows of the network lie in a row of `size` pixels; see `faces_energies.Windows`."""
    return ((size - 5) // 2 + 1 - 5) // 2 + 1 - 3


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's pictures, grey, at half its size; of `camera` what lies right of the man."""
    image = getattr(skimage.data, name)()
    grey = skimage.color.rgb2gray(image) if image.ndim == 3 else skimage.util.img_as_float(image)
    grey = grey[:, 300:] if name == "camera" else grey
    return rescale(grey, 0.5, anti_aliasing=True).astype(np.float32)


def paste(image: np.ndarray, patch: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The image with the disc inside the patch (25, 25) put over it at a pose; bilinear, with a soft border."""
    row, column, log_scale, angle = pose
    down, right = np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")
    down, right, turn = down - row, right - column, np.deg2rad(angle)
    back = np.stack(
        [np.cos(turn) * down + np.sin(turn) * right, np.cos(turn) * right - np.sin(turn) * down]
    )
    back /= 2**log_scale
    inside = np.clip(PATCH / 2 - np.hypot(*back), 0, 1)
    seen = map_coordinates(patch, back + (PATCH - 1) / 2, order=1, mode="nearest")
    return inside * seen + (1 - inside) * image


def draw(part: str, side: int, count: int, rng: np.random.Generator) -> Scenes:
    """`count` scenes of the faces, non-faces and photographs of a part, every second one with a face.

    Positions, log scales and angles are drawn evenly; each face as often as others, mirrored or not. Where there is
    none a non-face is pasted, or half the time a piece of a photograph.
    """
    patches = skimage.data.lfw_subset()
    of_kind = patches[100:][PARTS[part]], patches[:100][PARTS[part]]
    photographs = [photograph(name) for name in PHOTOGRAPHS[part]]
    face = np.arange(count) % 2
    images, poses = [], []

    def crop(side):
        whole = photographs[rng.integers(len(photographs))]
        row, column = (rng.integers(n - side + 1) for n in whole.shape)
        return whole[row:, column:][:side, :side]

    for i in range(count):
        patch = of_kind[face[i]][i // 2 % len(of_kind[face[i]])]
        if not face[i] and rng.random() < 0.5:
            patch = crop(PATCH)
        log_scale, angle = rng.uniform(*SCALES), rng.uniform(-TURN, TURN)
        edge = PATCH / 2 * 2**log_scale
        pose = np.array([*rng.uniform(edge - 0.5, side - edge - 0.5, 2), log_scale, angle])
        images.append(paste(crop(side), patch[:, :: rng.choice([-1, 1])], pose))
        poses.append(pose)
    return Scenes(*(np.asarray(a, np.float32) for a in (images, face, poses)))


def nearest(places: np.ndarray, angles: Sequence[float], pose: np.ndarray) -> np.ndarray:
    """Of every pose (N, 4) the number of the place and angle next to it, (N, 2)."""
    scale = PATCH * 2 ** pose[:, None, 2:3]
    far = (pose[:, None, :2] - places[None, :, :2]) / scale
    apart = np.sum(far**2, axis=-1) + (pose[:, None, 2] - places[None, :, 2]) ** 2
    turned = np.abs(pose[:, None, 3] - np.asarray(angles)[None])
    return np.column_stack([np.argmin(apart, axis=-1), np.argmin(turned, axis=-1)])
