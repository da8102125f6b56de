"""The tables and figures of pose.py: poses found in test images, and the free energy over poses beside the minimum."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

from experiments import shared
from experiments.lecture import pose_energies as energies
from experiments.lecture import runs
from experiments.lecture.pose_images import CANVAS, CONDITIONS, SIZE, Images
from spen_jax import exact
from spen_jax.energies import moved

SHOWN, ONE = 8, 3  # test images drawn with their poses, and the one whose energies are
WARM, RISE = 0.2, 20.0  # inverse temperature of a map; energies above the least that are told apart
OVER = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)  # inverse temperatures


TABLES = {
    "class right by the least energy, and by the free energy; all of the pose found by the least energy, by the mean, "
    "and relative to that of the digit unmoved; %": {
        "class": "class_least",
        "free": "class_free",
        "all": "refined_all",
        "mean": "mean_all",
        "relative": "relative_all",
    },
    "what of the pose is found by the least energy, and all of it on the grid, %; median error of the angle": {
        "place": "refined_place",
        "angle": "refined_angle",
        "scale": "refined_scale",
        "grid": "grid_all",
        "degrees": "degrees",
    },
}


def tables(measures: dict[str, dict[str, dict[str, list[float]]]]) -> list[Table]:
    """What was found in each condition, of measures[method][condition]."""
    made = []
    for condition in CONDITIONS:
        for title, columns in TABLES.items():
            rows = {
                name: {c: each[condition][m] for c, m in columns.items() if m in each[condition]}
                for name, each in measures.items()
                if condition in each
            }
            made.append(runs.summary(f"{condition}: {title}", rows, tuple(columns)))
    return made


def box(pose: np.ndarray) -> np.ndarray:
    """Corners (columns, rows) of a digit's square in a pose, from its upper left and back, then a line to its top."""
    down, right, angle, log_scale = pose
    half, middle = SIZE / 2 * np.exp(log_scale), (CANVAS - 1) / 2
    of_down = half * np.array([-1, -1, 1, 1, -1, np.nan, 0, -1])
    of_right = half * np.array([-1, 1, 1, -1, -1, np.nan, 0, 0])
    rows = np.cos(angle) * of_down - np.sin(angle) * of_right
    columns = np.sin(angle) * of_down + np.cos(angle) * of_right
    return np.stack([middle + right + columns, middle + down + rows])


def draw_found(params: Any, images: Images, path: Path) -> None:
    """Test images with the pose found and the one applied, and below them T_z U of the answer, on the image's map."""
    looked, rows = energies.look(params, "radial", images.x), np.arange(len(images.label))
    answer = np.argmin(looked.free[-1], axis=-1)
    template, start = looked.template[rows, answer], looked.pose[rows, answer]
    count = params["references"].shape[1]
    found = energies.refined(params, "radial", images.x, answer * count + template, start)
    figure, axes = plt.subplots(2, SHOWN, figsize=(1.5 * SHOWN, 3.9), layout="constrained")
    for i, (top, under) in enumerate(axes.T):
        top.imshow(images.x[i], cmap="gray", vmin=0, vmax=1)
        top.plot(*box(images.pose[i]), c="tab:cyan", ls="--", lw=1.2)
        top.plot(*box(found[i]), c="tab:red", lw=1.8)
        reference = params["references"][answer[i], template[i], ..., 0]
        z = jnp.asarray(found[i])
        shown = moved(reference, z, (CANVAS, CANVAS)) / params["network"]["scale"]
        under.imshow(shown, cmap="RdGy", vmin=-1, vmax=1)
        right = answer[i] == images.label[i]
        top.set_title(f"a {images.label[i]}", fontsize=10)
        degrees, scale = np.rad2deg(found[i, 2]), np.exp(found[i, 3])
        under.set_title(
            f"answer {answer[i]}\n{degrees:+.0f}°, × {scale:.2f}",
            fontsize=9,
            color="black" if right else "red",
        )
        for axis in (top, under):
            axis.set(xticks=[], yticks=[], xlim=(-0.5, CANVAS - 0.5), ylim=(CANVAS - 0.5, -0.5))
    figure.suptitle("Pose found (red) and applied (dashed); below the moved reference", fontsize=11)
    shared.save_figure(figure, path)


def over_turns(each: np.ndarray, beta: float) -> np.ndarray:
    """F_beta over templates and places, (angles, scales), of energies (M, P S) of one class; inf: the least."""
    grid = energies.LOOK
    split = each.reshape(len(each), len(grid.angles), len(grid.log_scales), -1)
    together = np.moveaxis(split, 0, -2).reshape(*split.shape[1:3], -1)
    return np.asarray(exact.softmin(jnp.asarray(together), beta, average=True))


def draw_energy(params: Any, images: Images, which: int, path: Path) -> None:
    """One image: energies of its class over angle and scale, cold and warm; free energies of classes over beta."""
    grid, x = energies.LOOK, images.x[which : which + 1]
    g = energies.features(params["network"], "radial", x)
    of_all = jax.jit(energies.energies, static_argnames="grid")
    each = np.asarray(of_all(params, g, grid=grid, maps=jnp.asarray(energies.turned(grid))))[0]
    label, pose = int(images.label[which]), images.pose[which]
    least = each.reshape(10, -1).min(axis=-1)
    rival = int(np.argsort(np.where(np.arange(10) == label, np.inf, least))[0])
    figure, axes = plt.subplots(1, 5, figsize=(17, 3.7), layout="constrained")
    axes[0].imshow(x[0], cmap="gray")
    axes[0].plot(*box(pose), c="tab:cyan", ls="--")
    axes[0].set(xticks=[], yticks=[], title=f"a {label}, pose applied")
    degrees, scales = np.rad2deg(grid.angles), np.exp(grid.log_scales)
    panels = {
        f"E of {label}, least over place": (label, np.inf),
        f"F of {label}, β = {WARM}": (label, WARM),
        f"E of {rival}, least over place": (rival, np.inf),
    }
    cold = [over_turns(each[c], np.inf) for c in (label, rival)]
    low = np.min(cold)
    for axis, (title, (digit, beta)) in zip(axes[1:4], panels.items(), strict=True):
        values = over_turns(each[digit], beta)
        start = low if beta == np.inf else values.min()
        levels = start + np.linspace(0, RISE, 21)
        drawn = axis.contourf(degrees, scales, values.T, levels, cmap="magma", extend="max")
        at = np.unravel_index(np.argmin(values), values.shape)
        axis.plot(
            degrees[at[0]], scales[at[1]], "+", c="lime", ms=12, mew=2, clip_on=False, label="least"
        )
        axis.plot(np.rad2deg(pose[2]), np.exp(pose[3]), "o", mfc="none", c="cyan", label="applied")
        axis.set(title=title, xlabel="angle, °", ylabel="scale", yscale="log")
        axis.set_yticks([0.7, 1, 1.5], ["0.7", "1", "1.5"], minor=False)
        axis.minorticks_off()
        figure.colorbar(drawn, ax=axis, format="%.1f")
    axes[1].legend(fontsize=8)
    flat = jnp.asarray(each.reshape(10, -1))
    free = np.array([exact.softmin(flat, beta, average=True) for beta in (*OVER, np.inf)])
    for digit in range(10):
        bold = digit in (label, rival)
        axes[4].plot(free[:, digit], c=f"C{digit}", lw=2.2 if bold else 0.9, label=f"{digit}")
    axes[4].set_xticks(range(len(free)), [*(f"{b:g}" for b in OVER), "∞"])
    axes[4].set(xlabel="β", title="F of the ten digits", yscale="log")
    axes[4].legend(fontsize=7, ncols=2)
    shared.save_figure(figure, path)


def draw(params: Any, images: Images, folder: Path) -> None:
    """Both figures, of test images outside the range that was learned."""
    draw_found(params, images, folder / "pose.png")
    draw_energy(params, images, ONE, folder / "pose-energy.png")
