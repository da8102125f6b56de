"""How all models of horses are trained: the loss, images changed by chance, and squares that hide a part.

B images of H x W; x (B, H, W, 3), 0 a grey of one half, y (B, H, W).
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx
from spen_jax.training import Recipe

SIDE = 12
"""Of the square that is hidden."""
HIDDEN = 0.5
"""Of the images in a training step, where some are hidden at all."""
BATCH = 16


def loss(y: Any, truth: Any) -> jax.Array:
    """Mean cross-entropy of the pixels + 1 - soft intersection over union, of one mask."""
    return sx.Box().loss(y, truth) / truth.size + sx.losses.soft_iou_error(y, truth)


def recipe(epochs: int, rate: float = 2e-3, rates: Any = ()) -> Recipe:
    """AdamW, with the average of the weights over about the last 100 steps."""
    return Recipe(epochs, rate, weight_decay=1e-3, batch_size=BATCH, average=0.99, rates=rates)


def prepared(split: sx.data.Split) -> dict[str, np.ndarray]:
    """x and y, with colours about 0, of about unit spread."""
    return {"x": 4 * (split.x - 0.5), "y": split.y}


def hidden(x: Any, corners: Any) -> jax.Array:
    """Images with a square of SIDE x SIDE at grey, its upper left pixel at `corners` (B, 2)."""
    return jnp.where(square(corners, x.shape[1:3])[..., None], 0, x)


def square(corners: Any, shape: tuple[int, ...]) -> jax.Array:
    """Where it is, (B, H, W)."""
    inside = [
        (jnp.arange(n)[None] >= c[:, None]) & (jnp.arange(n)[None] < c[:, None] + SIDE)
        for n, c in zip(shape, jnp.asarray(corners).T, strict=True)
    ]
    return inside[0][:, :, None] & inside[1][:, None]


def corners_of(seed: int, count: int, size: int = 32) -> np.ndarray:
    """Where the squares of a test lie."""
    return np.random.default_rng((seed, 12)).integers(0, size - SIDE + 1, (count, 2))


@lru_cache
def augmented(objective: Any, hides: bool) -> Any:
    """The objective of images that are turned, zoomed, shifted and coloured by chance, some with a square hidden."""

    def of_changed(params, batch, key):
        image_key, key = jax.random.split(key)
        return objective(params, changed(image_key, batch, hides), key)

    return of_changed


def changed(key: jax.Array, batch: dict[str, Any], hides: bool) -> dict[str, Any]:
    """Flipped or not, at .8 to 1.25 of its size, moved by up to an eighth, in other colours; masks stay 0 and 1."""
    x, y = batch["x"], batch["y"]
    count, height, width, _ = x.shape
    keys = jax.random.split(key, 7)
    flipped = jax.random.bernoulli(keys[0], 0.5, (count,))
    zoom = jnp.exp(jax.random.uniform(keys[1], (2, count), minval=-0.22, maxval=0.22))
    shift = jax.random.uniform(keys[2], (2, count), minval=-0.125, maxval=0.125)
    rows = resampling(height, zoom[0], shift[0], jnp.zeros(count, bool))
    columns = resampling(width, zoom[1], shift[1], flipped)
    x = jnp.einsum("brh,bhwc,bsw->brsc", rows, x, columns)
    y = jnp.round(jnp.einsum("brh,bhw,bsw->brs", rows, y, columns))
    gain = 1 + 0.2 * jax.random.normal(keys[3], (count, 1, 1, 1))
    tint = 0.2 * jax.random.normal(keys[4], (count, 1, 1, 3))
    x = x * gain + tint
    if hides:
        corners = jax.random.randint(keys[5], (count, 2), 0, height - SIDE + 1)
        some = jax.random.bernoulli(keys[6], HIDDEN, (count, 1, 1, 1))
        x = jnp.where(some, hidden(x, corners), x)
    return {"x": x, "y": y}


def resampling(size: int, zoom: jax.Array, shift: jax.Array, flipped: jax.Array) -> jax.Array:
    """Matrices (B, size, size) that take a line of pixels to that of a changed image, the edge's pixel beyond it."""
    places = jnp.arange(size) - (size - 1) / 2
    sign = jnp.where(flipped, -1, 1)[:, None]
    wanted = sign * places[None] / zoom[:, None] + size * shift[:, None] + (size - 1) / 2
    wanted = jnp.clip(wanted, 0, size - 1)
    return jnp.maximum(1 - jnp.abs(wanted[..., None] - jnp.arange(size)[None, None]), 0)
