"""Pictures of horses: masks before, during and after inference, and what the energy objects to."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.structure.horses_models import SPEN, STEPS
from experiments.structure.horses_training import SIDE, corners_of, hidden
from experiments.structure.sequences import from_network

SHOWN = 4
AT = (0, 1, 3, STEPS)


def draw(
    params: Any, test: dict[str, Any], images: np.ndarray, seed: int, training: str, folder: Path
) -> None:
    """Both pictures, of the first test horses, evenly through the set, with and without a square hidden."""
    rows = np.linspace(0, len(images) - 1, SHOWN).astype(int)
    x, truth = jnp.asarray(test["x"][rows]), test["y"][rows]
    corners = corners_of(seed, len(images))[rows]
    whole, covered = inferred(params, x), inferred(params, hidden(x, corners))
    steps = folder / f"steps-{training}.png"
    draw_steps(images[rows], truth, (whole, covered), corners, steps)
    draw_objections(params, x, images[rows], truth, whole, folder / f"objections-{training}.png")


def inferred(params: Any, x: jax.Array) -> np.ndarray:
    """Relaxed masks from the start to the last step, (B, STEPS + 1, H, W)."""
    predictor = from_network(SPEN, STEPS, domain=sx.Box())
    context = predictor.context(params, x)
    options = predictor.options(params, trace="y")
    start = predictor.points(context)
    found = sx.minimize(predictor.energy, params, context, start, **options)
    return np.asarray(found.trace["y"])


def draw_steps(images: Any, truth: Any, paths: Any, corners: Any, path: Path) -> None:
    """Left whole images, right those with a square hidden: truth, and the mask at some steps."""
    titles = ["image", "U-Net", *(f"step {t}" for t in AT[1:])]
    columns = [*titles, "truth", *titles]
    figure, axes = plt.subplots(
        SHOWN, len(columns), figsize=(1.15 * len(columns), 5.1), layout="constrained"
    )
    for i, (row, image, y, whole, covered, corner) in enumerate(
        zip(axes, images, truth, *paths, corners, strict=True)
    ):
        grey = image.copy()
        grey[corner[0] : corner[0] + SIDE, corner[1] : corner[1] + SIDE] = 0.5
        shown = [image, *whole[list(AT)], y, grey, *covered[list(AT)]]
        for axis, a, title in zip(row, shown, columns, strict=True):
            axis.imshow(a, cmap="Greys", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(title, fontsize=9)
    shared.save_figure(figure, path)


def draw_objections(params: Any, x: Any, images: Any, truth: Any, whole: Any, path: Path) -> None:
    """Of four masks of each horse what the energy's terms want otherwise: the slopes of the terms alone."""
    masks = {
        "U-Net": np.round(whole[:, 0]),
        "answer": np.round(whole[:, -1]),
        "truth": truth,
        "a hole": spoiled(truth, 1, 0),
        "a patch": spoiled(truth, 0, 1),
    }
    slopes = {name: slopes_of(params, x, y) for name, y in masks.items()}
    largest = np.quantile(np.abs(np.stack([*slopes.values()])), 0.995)
    figure, axes = plt.subplots(SHOWN, 11, figsize=(12.6, 4.9), layout="constrained")
    shown: Any = None
    for i, row in enumerate(axes):
        row[0].imshow(images[i])
        for name, left, right in zip(masks, row[1::2], row[2::2], strict=True):
            left.imshow(masks[name][i], cmap="Greys", vmin=0, vmax=1)
            shown = right.imshow(slopes[name][i], cmap="RdBu_r", vmin=-largest, vmax=largest)
            right.contour(masks[name][i], [0.5], colors="black", linewidths=0.6)
            if i == 0:
                left.set_title(name, fontsize=9)
                right.set_title("slope", fontsize=9)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    label = "dT/dy: red wants less horse, blue more"
    figure.colorbar(shown, ax=axes, shrink=0.7, label=label)
    shared.save_figure(figure, path)


def spoiled(truth: np.ndarray, old: int, new: int, side: int = 6) -> np.ndarray:
    """Masks with the square of `side` turned that holds most of the label `old`, of several the upper left one."""
    masks = truth.copy()
    for y in masks:
        windows = np.lib.stride_tricks.sliding_window_view(y == old, (side, side)).sum((2, 3))
        i, j = np.unravel_index(np.argmax(windows), windows.shape)
        y[i : i + side, j : j + side] = new
    return masks


def slopes_of(params: Any, x: jax.Array, y: Any) -> np.ndarray:
    """The derivatives of the terms, without the unaries, in each pixel, (B, H, W)."""
    features, energy = sx.functions_of(SPEN)
    context = features(params, x)
    context = context | {"logits": jnp.zeros_like(context["logits"])}
    slope = jax.jit(jax.vmap(jax.grad(energy, 2), (None, 0, 0)))
    return np.asarray(slope(params, context, jnp.asarray(y)))
