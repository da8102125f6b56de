"""The figures of the ellipse: energies, free energies, their relaxation, posteriors, manifolds and overfitting."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import shared
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, PowerNorm

from spen_jax import latent

COLD = float("inf")
ELLIPSE = latent.Decoder(lambda radii, h, z: latent.scaled_circle(radii, z))
GRID = latent.periodic(48)
FINE = latent.periodic(288)
BETAS = tuple(np.geomspace(0.05, 50, 16))
"""From hot to cold, between the limits 0 and infinity."""
FEW = (COLD, 20.0, 2.0, 0.5, 0.1, 0.0)
MESH = np.linspace(-3, 3, 25), np.linspace(-2, 2, 17)
TICKS = dict(
    zip(
        (0, np.pi / 2, np.pi, 3 * np.pi / 2, 2 * np.pi),
        ("0", "π/2", "π", "3π/2", "2π"),
        strict=True,
    )
)
DATA, GUESS, TRUTH = "#1f77b4", "#d62728", "0.45"


@jax.jit
def free_energies(
    radii: jax.Array, y: jax.Array, betas: jax.Array, nodes: latent.Nodes = FINE
) -> jax.Array:
    """F of the ellipse at points (n, 2) for several beta, (betas, n)."""
    return jax.lax.map(
        lambda beta: latent.free_energy(ELLIPSE, {"g": radii}, None, y, nodes, beta), betas
    )


@jax.jit
def slopes(radii: jax.Array, y: jax.Array, betas: jax.Array) -> jax.Array:
    """-grad F in y, (betas, n, 2)."""

    def total(y, beta):
        return jnp.sum(latent.free_energy(ELLIPSE, {"g": radii}, None, y, FINE, beta))

    return jax.lax.map(lambda beta: -jax.grad(total)(y, beta), betas)


@jax.jit
def curvatures(radii: jax.Array, betas: jax.Array) -> jax.Array:
    """Second derivatives of F at the centre along y1 and y2, 2 - 4 beta var(y(z)) under P(z | centre), (betas, 2)."""
    on = jax.vmap(latent.scaled_circle, (None, 0))(radii, FINE.z)

    def of_beta(beta):
        p = latent.posterior(ELLIPSE, {"g": radii}, None, jnp.zeros((1, 2)), FINE, beta)[0]
        return 2 - 4 * beta * (p @ on**2 - (p @ on) ** 2)

    return jax.lax.map(of_beta, betas)


@jax.jit
def posteriors(radii: jax.Array, y: jax.Array, betas: jax.Array) -> jax.Array:
    """P(z | y) on the grid for points (n, 2) and several beta, (n, betas, 48)."""
    of_beta = partial(latent.posterior, ELLIPSE, {"g": radii}, None, y, GRID)
    return jnp.swapaxes(jax.lax.map(of_beta, betas), 0, 1)


def energies(radii: Any, y: jax.Array) -> np.ndarray:
    """E of each point with each angle of the grid, (n, 48)."""
    of_z = jax.vmap(ELLIPSE, (None, None, None, 0))
    return np.asarray(jax.vmap(of_z, (None, None, 0, None))({"g": radii}, None, y, GRID.z))


def manifold(radii: Any, z: Any) -> np.ndarray:
    """The points of energy 0 at the angles z, (n, 2)."""
    return np.asarray(jax.vmap(latent.scaled_circle, (None, 0))(jnp.asarray(radii), z))


def name_of(beta: float) -> str:
    """The inverse temperature as a key of the result."""
    return "cold" if beta == COLD else f"beta = {beta:g}"


def grid_errors(radii: Any, betas: tuple[float, ...]) -> dict[str, float]:
    """The largest difference of F on 48 angles to that on 288 over a mesh, for each beta."""
    y = jnp.asarray(mesh_points(*MESH))
    few, many = (free_energies(radii, y, jnp.asarray(betas), nodes) for nodes in (GRID, FINE))
    return {name_of(b): float(jnp.max(jnp.abs(few[i] - many[i]))) for i, b in enumerate(betas)}


def mesh_points(y1: np.ndarray, y2: np.ndarray) -> np.ndarray:
    """All points of a mesh, (len(y2) len(y1), 2)."""
    return np.stack([a.ravel() for a in np.meshgrid(y1, y2)], axis=-1)


def in_words(beta: float) -> str:
    """The inverse temperature as a title."""
    return {COLD: r"cold, $\beta=\infty$", 0.0: r"hot, $\beta=0$"}.get(beta, rf"$\beta={beta:g}$")


def along_angles(axis: Any) -> None:
    """Name an axis of z."""
    axis.set_xticks(list(TICKS), TICKS.values())
    axis.set(xlabel="$z$", xlim=(0, 2 * np.pi))


def draw_energies(untrained: Any, trained: Any, y: jax.Array, path: Path) -> None:
    """E(y_n, z) of all points as a heat map and as curves, before and after training."""
    figure, axes = plt.subplots(
        2, 2, figsize=(10, 7), sharey="row", layout="constrained", height_ratios=(1.15, 1)
    )
    norm = PowerNorm(0.4, vmin=0, vmax=float(energies(trained, y).max()))
    z = np.append(GRID.z, 2 * np.pi)
    for column, stage, radii in zip(
        axes.T, ("untrained", "trained"), (untrained, trained), strict=True
    ):
        e = energies(radii, y)
        best = e.argmin(axis=1)
        e = np.column_stack([e, e[:, 0]])
        image = column[0].pcolormesh(z, np.arange(len(e)), e, norm=norm, cmap="magma")
        column[0].plot(z[best], np.arange(len(e)), "o", ms=4, mfc="cyan", mec="k", mew=0.5)
        column[0].set_title(f"{stage}, $r$ = ({radii[0]:.2f}, {radii[1]:.2f})")
        for n, curve in enumerate(e):
            colour = 0.82 * np.array(plt.get_cmap("hsv")(n / len(e))[:3])
            column[1].plot(z, curve, color=colour, lw=1)
            column[1].plot(z[best[n]], curve[best[n]], "o", ms=4, color=colour, mec="k", mew=0.5)
        for axis in column:
            along_angles(axis)
        column[1].axhline(0, color="0.6", lw=0.8, zorder=0)
    axes[0, 0].set_ylabel("point $n$")
    axes[1, 0].set_ylabel(r"$E(y_n, z)$, a colour for each $n$")
    figure.colorbar(image, ax=axes[0], label="$E(y_n, z)$")
    figure.suptitle("Energies of the 24 points over the angle; dots: ž, the angle of the lowest")
    shared.save_figure(figure, path, colours=128)


def draw_free_energy(radii: Any, y: jax.Array, path: Path) -> None:
    """F over the plane with its slope at each point of the mesh, from cold to hot."""
    betas = jnp.asarray(FEW)
    y1, y2 = np.linspace(-3, 3, 121), np.linspace(-2, 2, 81)
    free = np.asarray(free_energies(radii, jnp.asarray(mesh_points(y1, y2)), betas))
    at = mesh_points(*MESH)
    arrows = np.asarray(slopes(radii, jnp.asarray(at), betas))
    ring = manifold(radii, np.linspace(0, 2 * np.pi, 200))
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.6), sharex=True, sharey=True)
    figure.set_layout_engine("constrained")
    levels = np.linspace(0, 8, 33)
    for axis, beta, surface, slope in zip(axes.flat, FEW, free, arrows, strict=True):
        surface = surface.reshape(len(y2), len(y1))
        image = axis.contourf(y1, y2, surface, levels=levels, cmap="YlGnBu_r", extend="max")
        lowest = surface.min()
        axis.plot(*ring.T, color="w", lw=1, ls="--")
        axis.plot(*np.asarray(y).T, "o", ms=3, color="gold", mec="k", mew=0.4)
        axis.quiver(*at.T, *slope.T, color="#b2182b", scale=60, width=0.0028, headwidth=4)
        axis.set_title(f"{in_words(beta)}; lowest {max(lowest, 0):.2f}")
        axis.set(aspect="equal", xlim=(-3.1, 3.1), ylim=(-2.15, 2.15))
    for axis in axes[1]:
        axis.set_xlabel("$y_1$")
    for axis in axes[:, 0]:
        axis.set_ylabel("$y_2$")
    figure.colorbar(image, ax=axes, label=r"$F_\beta(y)$", ticks=range(9))
    figure.suptitle(
        r"Free energy and its descent $-\nabla F_\beta$ (17 × 25 arrows); dots: the data"
    )
    shared.save_figure(figure, path, colours=128)


def temperatures() -> tuple[list[float], Callable[[float], Any], Any]:
    """The betas of the cross-sections from cold to hot, the colour of each, and the scale of the colours."""
    norm = LogNorm(BETAS[0], BETAS[-1])
    cmap = plt.get_cmap("plasma")

    def colour(beta):
        if beta in (COLD, 0.0):
            return "k" if beta else "#2ca02c"
        return cmap(0.9 * (1 - float(norm(beta))))

    colours = ListedColormap([cmap(0.9 * (1 - s)) for s in np.linspace(0, 1, 256)])
    scale = ScalarMappable(norm, colours)
    return [COLD, *BETAS[::-1], 0.0], colour, scale


def draw_relaxation(radii: Any, path: Path) -> None:
    """F along y1 = 0 for many beta, F at the centre over beta, and its curvature there."""
    betas, colour, scale = temperatures()
    y2 = np.linspace(-2.5, 2.5, 201)
    line = jnp.asarray(np.stack([0 * y2, y2], axis=-1))
    sections = np.asarray(free_energies(radii, line, jnp.asarray(betas)))
    figure = plt.figure(figsize=(12.5, 6.2), layout="constrained")
    places = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    left, top, bottom = map(figure.add_subplot, (places[:, 0], places[0, 1], places[1, 1]))
    for beta, section in zip(betas, sections, strict=True):
        limit = beta in (COLD, 0.0)
        name = in_words(beta) if limit else None
        left.plot(y2, section, color=colour(beta), lw=2.2 if limit else 1.2, label=name)
    left.set(xlabel="$y_2$", ylabel=r"$F_\beta(0, y_2)$", xlim=(-2.5, 2.5), ylim=(-0.15, 7))
    left.set_title("Along $y_1 = 0$: a spike between two wells turns into a parabola")
    left.legend(loc="upper center", frameon=False)
    figure.colorbar(
        scale, ax=left, label=r"$\beta$, from hot to cold", location="bottom", aspect=40
    )
    fine = np.geomspace(0.01, 200, 121)
    centre = np.asarray(free_energies(radii, jnp.zeros((1, 2)), jnp.asarray(fine)))[:, 0]
    for beta, name in ((COLD, "cold: lowest energy"), (0.0, "hot: mean energy")):
        value = sections[betas.index(beta), 100]
        top.axhline(value, color=colour(beta), ls="--", lw=1.2)
        ends = (
            {"x": 200, "ha": "right", "va": "top"}
            if beta == 0
            else {"x": 0.01, "ha": "left", "va": "bottom"}
        )
        top.text(y=value, s=f"{name}, {value:.2f}", fontsize=9.5, color=colour(beta), **ends)
    top.semilogx(fine, centre, color="0.6", lw=1)
    top.scatter(
        fine[::4],
        centre[::4],
        c=[colour(np.clip(b, BETAS[0], BETAS[-1])) for b in fine[::4]],
        zorder=3,
    )
    top.set(ylabel=r"$F_\beta(0, 0)$", title="At the centre")
    curvature = np.asarray(curvatures(radii, jnp.asarray(fine)))
    bottom.axhline(0, color="0.6", lw=0.8)
    for i, style in ((0, "--"), (1, "-")):
        bend = fine[np.argmax(curvature[:, i] < 0)]
        bottom.semilogx(
            fine, curvature[:, i], style, color="k", label=f"along $y_{i + 1}$, 0 at β = {bend:.2f}"
        )
    bottom.set(xlabel=r"$\beta$", ylabel="curvature of $F$", ylim=(-6, 2.4))
    bottom.set_title("Curvature there: a spike below 0, a bowl above")
    bottom.legend(loc="lower left", frameon=False)
    shared.save_figure(figure, path, colours=128)


def draw_posteriors(radii: Any, y: jax.Array, path: Path) -> None:
    """P(z | y) on the manifold at three y, from cold to hot."""
    where = {"$y_{23}$": y[23], "$y_{10}$": y[10], "the centre": jnp.zeros(2)}
    betas = (COLD, 20.0, 2.0, 0.5, 0.0)
    on = manifold(radii, GRID.z)
    figure, axes = plt.subplots(3, 5, figsize=(14, 6.6), sharex=True, sharey=True)
    figure.set_layout_engine("constrained")
    points = jnp.stack(list(where.values()))
    found = np.asarray(posteriors(radii, points, jnp.asarray(betas)))
    for row, (name, at), each in zip(axes, where.items(), found, strict=True):
        for axis, p in zip(row, each, strict=True):
            share = p / p.max()
            lines = [
                [np.asarray(at), point] for point, s in zip(on, share, strict=True) if s > 0.01
            ]
            shades = [(0.84, 0.15, 0.16, 0.08 + 0.5 * s) for s in share[share > 0.01]]
            axis.add_collection(LineCollection(lines, colors=shades, linewidths=0.9))  # pyright: ignore
            order = np.argsort(p)
            image = axis.scatter(
                *on[order].T,
                c=share[order],
                s=12 + 42 * share[order],
                cmap="YlOrRd",
                vmin=0,
                vmax=1,
                edgecolors="0.4",
                linewidths=0.4,
                zorder=3,
            )
            axis.plot(*np.asarray(at), "X", ms=9, color="limegreen", mec="k", zorder=4)
            spread = np.exp(-np.sum(p[p > 0] * np.log(p[p > 0])))
            axis.text(
                0,
                0.55 if name == "the centre" else 0,
                f"largest {p.max():.3f}\n{spread:.1f} angles",
                ha="center",
                va="center",
                fontsize=8.5,
                bbox={"fc": "w", "ec": "none", "alpha": 0.8, "pad": 1},
            )
            axis.set(aspect="equal")
        row[0].set_ylabel(f"$y$ = {name}", fontsize=12)
    for axis, beta in zip(axes[0], betas, strict=True):
        axis.set_title(in_words(beta))
    figure.colorbar(image, ax=axes, label=r"$P(z \mid y)$ over its largest value")
    figure.suptitle(
        r"Which angles explain $y$ (cross): from the nearest alone to all alike; counted by exp(entropy)"
    )
    shared.save_figure(figure, path, colours=128)


def draw_manifolds(untrained: Any, trained: Any, y: jax.Array, path: Path) -> None:
    """The manifold before and after training with a line from each point to its nearest point on it."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharex=True, sharey=True)
    figure.set_layout_engine("constrained")
    points = np.asarray(y)
    for axis, stage, radii in zip(
        axes, ("untrained", "trained"), (untrained, trained), strict=True
    ):
        on, e = manifold(radii, GRID.z), energies(radii, y)
        nearest = on[e.argmin(axis=1)]
        axis.plot(
            *np.vstack([on, on[:1]]).T,
            ".-",
            color=GUESS,
            ms=5,
            lw=0.8,
            alpha=0.55,
            label="manifold, 48 angles",
        )
        axis.add_collection(
            LineCollection(list(np.stack([points, nearest], 1)), colors="k", linewidths=1)
        )
        axis.plot(*nearest.T, "x", color=GUESS, ms=7, mew=1.8, label="at ž: the nearest point")
        axis.plot(*points.T, "o", color=DATA, ms=6, mec="k", mew=0.5, label="data")
        axis.set(aspect="equal", xlabel="$y_1$")
        axis.set_title(
            f"{stage}: half-axes ({radii[0]:.2f}, {radii[1]:.2f}), mean $F_\\infty$ = {e.min(1).mean():.3g}"
        )
    axes[0].set_ylabel("$y_2$")
    axes[1].legend(loc="center", frameon=False)
    shared.save_figure(figure, path, colours=128)


def draw_trainings(cold: Any, betas: np.ndarray, warm: Any, y: jax.Array, path: Path) -> None:
    """Half-axes trained at each beta, some of their manifolds, and the cross-sections of their free energies."""
    _, colour, _ = temperatures()
    chosen = {COLD: cold} | {b: warm[list(betas).index(b)] for b in (200.0, 2.0, 0.6, 0.3)}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.7), layout="constrained")
    left.plot(*np.asarray(y).T, "o", color=DATA, ms=5, mec="k", mew=0.5)
    y2 = np.linspace(-2.5, 2.5, 201)
    line = jnp.asarray(np.stack([0 * y2, y2], axis=-1))
    for beta, radii in chosen.items():
        shade = colour(beta if beta == COLD else min(beta, BETAS[-1]))
        name, style = in_words(beta), {"color": shade, "lw": 2, "ls": "--" if beta == COLD else "-"}
        style |= {"zorder": 3 if beta == COLD else 2}
        left.plot(*manifold(radii, np.linspace(0, 2 * np.pi, 200)).T, label=name, **style)
        middle.plot(
            y2, free_energies(jnp.asarray(radii), line, jnp.asarray([beta]))[0], label=name, **style
        )
    left.set(
        aspect="equal",
        xlabel="$y_1$",
        ylabel="$y_2$",
        title="Manifolds trained at each temperature",
    )
    middle.set(xlabel="$y_2$", ylabel=r"$F_\beta(0, y_2)$", xlim=(-2.5, 2.5), ylim=(-0.2, 6.5))
    middle.set_title("Their free energies along $y_1 = 0$, at the same β")
    middle.legend(loc="upper center", frameon=False, fontsize=9)
    for i, tint in enumerate(("#7b3294", "#008837")):
        right.semilogx(betas, np.asarray(warm)[:, i], "o-", ms=4, color=tint, label=f"$r_{i + 1}$")
        right.axhline(float(cold[i]), color=tint, ls="--", lw=1)
        critical = 1 / (2 * float(jnp.mean(y[:, i] ** 2)))
        right.axvline(critical, color=tint, ls=":", lw=1.4)
    right.set(xlabel=r"$\beta$ of training", ylabel="half-axis", ylim=(-0.1, 2.3))
    right.set_title(r"Half-axes; dashed: cold, dotted: 1 / (2 mean $y_i^2$)")
    right.legend(loc="center right", frameon=False)
    shared.save_figure(figure, path, colours=128)


def draw_overfitting(
    curves: dict[float, jax.Array],
    courses: dict[float, np.ndarray],
    steps: np.ndarray,
    reference: float,
    points: tuple[jax.Array, jax.Array],
    path: Path,
) -> None:
    """The free decoder: manifolds of the first seed above, F of all seeds during training below."""
    figure, axes = plt.subplots(2, len(curves), figsize=(14, 8), sharey="row", layout="constrained")
    y, fresh = map(np.asarray, points)
    for (above, below), (beta, curve) in zip(axes.T, curves.items(), strict=True):
        above.plot(*fresh.T, ".", color="0.7", ms=4, label="held-out")
        above.plot(*np.vstack([curve, curve[:1]]).T, color=GUESS, lw=1.2, label="manifold")
        above.plot(*y.T, "o", color=DATA, ms=6, mec="k", mew=0.5, label="trained on")
        above.set(aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.1, 2.1), xlabel="$y_1$")
        above.set_title(f"trained at {in_words(beta)}")
        for i, (name, colour) in enumerate((("trained on", DATA), ("held-out", "#ff7f0e"))):
            each = 1000 * courses[beta][:, 1:, i]
            mean, spread = each.mean(0), each.std(0)
            below.plot(steps[1:], mean, color=colour, lw=2, label=name)
            below.fill_between(
                steps[1:], mean - spread, mean + spread, color=colour, alpha=0.2, lw=0
            )
        below.axhline(1000 * reference, color=TRUTH, ls="--", label="true ellipse, held-out")
        below.set(xlabel="step")
    axes[1, 0].set(ylabel=r"$1000\, F_{200}$, mean and spread over seeds")
    axes[0, 0].set_ylabel("$y_2$")
    axes[0, 2].legend(loc="center left", bbox_to_anchor=(0.25, 0.5), framealpha=1, edgecolor="w")
    axes[1, 2].legend(frameon=False)
    figure.suptitle("A decoder free enough to run through every point")
    shared.save_figure(figure, path, colours=128)
