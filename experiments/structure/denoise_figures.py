"""Pictures of denoising and of the problems, and maps of what the energy objects to."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage

from experiments import shared
from experiments.structure import denoise_problems as problems
from experiments.structure.denoise_data import Photographs, noisy
from spen_jax.networks import NoiseNetwork

SHOWN = 2  # which test image
NAMES = {
    "noisy": "noisy",
    "median": "median",
    "total_variation": "total variation",
    "non_local_means": "non-local means",
    "bm3d": "BM3D",
    "residual": "network alone",
    "energy": "energy",
}


def draw(
    folder: Path, images: Photographs, cleaned: Any, solved: Any, params: Any, widths: Any
) -> None:
    """All figures of a run."""
    draw_noise(images.tested, cleaned["25"], folder / "noise.png")
    draw_problems(images.tested, solved, folder / "problems.png")
    draw_objections(images.tested, params, widths, folder / "objections.png")
    draw_steps(images.tested, solved, params, widths, folder / "steps.png")


def draw_noise(truth: np.ndarray, of: Any, path: Path) -> None:
    """A part of one image, noisy and cleaned by each method, beside the truth."""
    shown = [(NAMES[name], of[name][0][SHOWN]) for name in NAMES if name in of]
    shown.append(("truth", truth[SHOWN]))
    columns = 4
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.8 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, shown, strict=False):
        _show(axis, _part(image), title, _part(truth[SHOWN]))
    shared.save_figure(figure, path)


def draw_problems(truth: np.ndarray, solved: Any, path: Path) -> None:
    """Each problem: what was seen, where inference starts, a peer, the energy's minimum, the truth."""
    look: Any = {"layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(len(solved), 5, figsize=(12.5, 2.7 * len(solved)), **look)
    for row, (problem, of) in zip(axes, solved.items(), strict=True):
        x = problems.measured(problem, truth)
        peer = "wiener" if problem == "blur" else "biharmonic"
        image = truth[SHOWN]
        seen = np.asarray(x.image[SHOWN])
        row[0].set_ylabel(problems.PROBLEMS[problem])
        pictures = {
            "what was seen": seen,
            "start": of["start"][0].y[SHOWN],
            peer: of[peer][0].y[SHOWN],
            "energy": of["energy"][0].y[SHOWN],
            "truth": image,
        }
        for axis, (title, y) in zip(row, pictures.items(), strict=True):
            _show(axis, _part(y), title, _part(image))
    shared.save_figure(figure, path)


def objections(params: Any, widths: Any, images: Any, level: float) -> jax.Array:
    """sqrt(1 + R^2) - 1 of each pixel, what the prior objects to, in nats, (n, H, W)."""
    network = NoiseNetwork(widths)
    variables = {"params": params["prior"]["network"]}
    found: Any = network.apply(variables, (jnp.asarray(images) - 0.5) / level)
    return jnp.sqrt(1 + found**2) - 1


def draw_objections(truth: np.ndarray, params: Any, widths: Any, path: Path) -> None:
    """By how much the prior at noise of 25 likes three spoiled images less than the truth, means over 8 x 8 pixels."""
    image, level = truth[SHOWN], 25 / 255
    middle, quarter = image.shape[1] // 2, image.shape[1] // 4
    noised, blurred, wrong = image.copy(), image.copy(), image.copy()
    noised[:, middle:] = np.asarray(noisy(truth, 25))[SHOWN][:, middle:]
    blurred[:, middle:] = ndimage.gaussian_filter(image, 2)[:, middle:]
    wrong[quarter:middle, quarter:middle] = image[-quarter:, -quarter:]
    shown = {
        "noise on the right": noised,
        "the right half blurred": blurred,
        "a square from elsewhere": wrong,
    }
    maps = np.asarray(objections(params, widths, np.stack([image, *shown.values()]), level))
    above = maps[1:] - maps[:1]
    blocks = above.reshape(3, image.shape[0] // 8, 8, image.shape[1] // 8, 8).mean((2, 4))
    figure, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
    drawn: Any = None
    for column, (title, y), of, total in zip(axes.T, shown.items(), blocks, above, strict=True):
        column[0].imshow(y, cmap="gray", vmin=0, vmax=1)
        column[0].set_title(title)
        drawn = column[1].imshow(of, cmap="RdBu_r", vmin=-0.4, vmax=0.4)
        column[1].set_title(f"{total.sum():+,.0f} nats", fontsize=9)
        for axis in column:
            axis.axis("off")
    figure.colorbar(drawn, ax=axes[1], label="nats of a pixel above the truth", shrink=0.8)
    shared.save_figure(figure, path)


def draw_steps(truth: np.ndarray, solved: Any, params: Any, widths: Any, path: Path) -> None:
    """Half the pixels missing: the image before, during and after inference, and the energy on the way."""
    found = solved["half_missing"]["energy"][0]
    x = problems.measured("half_missing", truth)
    solution = problems.by_energy(params, widths, x, **found.constants, trace=("y", "energy"))
    path_of_y = np.asarray(solution.trace["y"][SHOWN])
    steps = [0, 3, 10, len(path_of_y) - 1]
    figure, axes = plt.subplots(1, 6, figsize=(15, 3), layout="constrained")
    for axis, t in zip(axes, steps, strict=False):
        _show(axis, _part(path_of_y[t]), f"step {t}", _part(truth[SHOWN]))
    _show(axes[4], _part(truth[SHOWN]), "truth", _part(truth[SHOWN]))
    axes[5].plot(np.asarray(solution.trace["energy"]).T, lw=1)
    axes[5].set(xlabel="step", ylabel="E", yscale="log", title="energy of the four")
    shared.save_figure(figure, path)


def _part(image: np.ndarray) -> np.ndarray:
    """The middle half, in which pixels can be seen."""
    top, left = (n // 4 for n in image.shape)
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def _show(axis: Any, y: np.ndarray, title: str, truth: np.ndarray) -> None:
    axis.imshow(y, cmap="gray", vmin=0, vmax=1)
    error = np.mean((np.clip(y, 0, 1) - truth) ** 2)
    said = f"\n{-10 * np.log10(error):.1f} dB here" if error > 0 else "\n"
    axis.set_title(f"{title}{said}", fontsize=9)
    axis.set(xticks=[], yticks=[], frame_on=False)
