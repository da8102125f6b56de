"""The figures of the ellipse: energies, free energies, their relaxation, posteriors, manifolds and overfitting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, PowerNorm

from spen_jax import energies, exact

COLD = float("inf")
ELLIPSE = energies.Decoder(lambda radii, h, z: energies.scaled_circle(radii, z))
GRID, FINE = exact.periodic(48), exact.periodic(288)
BETAS = np.geomspace(50, 0.05, 16)
"""From cold to hot, between the limits infinity and 0."""
LINE = np.linspace(-2.5, 2.5, 201)
"""y2 of the cross-section along y1 = 0."""
SCALE = ScalarMappable(
    LogNorm(0.05, 50), ListedColormap(plt.get_cmap("plasma")(np.linspace(0.9, 0, 256)))
)
DATA, GUESS, TRUTH = "#1f77b4", "#d62728", "0.45"
DOTS = {"ls": "", "marker": "o", "ms": 6, "color": DATA, "mec": "k", "mew": 0.5}


def at_each_beta(function: Callable[..., jax.Array]) -> Callable[..., np.ndarray]:
    """function(radii, y, beta) compiled for several beta, the first axis of what it gives."""
    every = jax.jit(lambda r, y, betas: jax.lax.map(lambda beta: function(r, y, beta), betas))
    return lambda *of: np.asarray(every(*map(jnp.asarray, of)))


def manifold(radii: Any, z: Any) -> jax.Array:
    """The points of energy 0 at the angles z, (n, 2)."""
    return jax.vmap(energies.scaled_circle, (None, 0))(jnp.asarray(radii), jnp.asarray(z))


def free_energy(radii: Any, y: jax.Array, beta: Any, nodes: exact.Nodes = FINE) -> jax.Array:
    """F of the ellipse at points (n, 2), (n,)."""
    return exact.free_energy(ELLIPSE, {"g": radii}, None, y, nodes, beta)


def posterior(radii: Any, y: jax.Array, beta: Any, nodes: exact.Nodes = GRID) -> jax.Array:
    """P(z | y) of points (n, 2), (n, angles)."""
    return exact.posterior(ELLIPSE, {"g": radii}, None, y, nodes, beta)


def curvature(radii: Any, y: jax.Array, beta: Any) -> jax.Array:
    """Second derivatives of F along y1 and y2, 2 - 4 beta var(y(z)) under P(z | y), (n, 2)."""
    p, on = posterior(radii, y, beta, FINE), manifold(radii, FINE.z)
    return 2 - 4 * beta * (p @ on**2 - (p @ on) ** 2)


free_energies = at_each_beta(free_energy)
coarse_free_energies = at_each_beta(lambda *of: free_energy(*of, GRID))
slopes = at_each_beta(lambda r, y, beta: -jax.grad(lambda y: jnp.sum(free_energy(r, y, beta)))(y))
curvatures = at_each_beta(curvature)
posteriors = at_each_beta(posterior)


def distances(radii: Any, y: Any) -> np.ndarray:
    """E of each point with each angle of the grid, (n, 48)."""
    return np.sum(np.asarray(y[:, None] - manifold(radii, GRID.z)[None]) ** 2, axis=-1)


def sections(radii: Any, betas: Any) -> np.ndarray:
    """F along y1 = 0, (betas, 201)."""
    return free_energies(radii, np.stack([0 * LINE, LINE], axis=-1), betas)


def mesh(y1: np.ndarray, y2: np.ndarray) -> np.ndarray:
    """All points of a mesh, (len(y2) len(y1), 2)."""
    return np.stack(np.meshgrid(y1, y2), axis=-1).reshape(-1, 2)


MESH = mesh(np.linspace(-3, 3, 25), np.linspace(-2, 2, 17))


def grid_errors(radii: Any, betas: tuple[float, ...]) -> dict[str, float]:
    """The largest difference of F on 48 angles to that on 288 over a mesh, for each beta."""
    few, many = (of(radii, MESH, betas) for of in (coarse_free_energies, free_energies))
    return dict(zip(map(name_of, betas), np.abs(few - many).max(1).tolist(), strict=True))


def name_of(beta: float) -> str:
    """The inverse temperature as a key of the result."""
    return "cold" if beta == COLD else f"beta = {beta:g}"


def in_words(beta: float) -> str:
    """The inverse temperature as a title."""
    return {COLD: r"cold, $\beta=\infty$", 0.0: r"hot, $\beta=0$"}.get(beta, rf"$\beta={beta:g}$")


def colour(beta: float) -> Any:
    """Purple (cold) to yellow (hot); the limits are black and green."""
    return {COLD: "k", 0.0: "#2ca02c"}.get(beta, SCALE.to_rgba(beta))


def ring(radii: Any) -> np.ndarray:
    """The whole manifold, (2, n)."""
    return np.asarray(manifold(radii, np.linspace(0, 2 * np.pi, 200))).T


def draw_energies(stages: dict[str, Any], y: jax.Array) -> Any:
    """E(y_n, z) of all points as a heat map and as curves, before and after training."""
    figure, axes = plt.subplots(
        2, 2, figsize=(10, 7), sharey="row", layout="constrained", height_ratios=(1.15, 1)
    )
    norm = PowerNorm(0.4, vmin=0, vmax=distances(stages["trained"], y).max())
    z, points = np.append(GRID.z, 2 * np.pi), np.arange(len(y))
    for column, (stage, radii) in zip(axes.T, stages.items(), strict=True):
        e = distances(radii, y)
        best = e.argmin(axis=1)
        e = np.column_stack([e, e[:, 0]])
        image = column[0].pcolormesh(z, points, e, norm=norm, cmap="magma")
        column[0].plot(z[best], points, **DOTS | {"ms": 4, "color": "cyan"})
        column[0].set_title(f"{stage}, $r$ = ({radii[0]:.2f}, {radii[1]:.2f})")
        column[1].axhline(0, color="0.6", lw=0.8, zorder=0)
        for n, curve in enumerate(e):
            style = DOTS | {"ls": "-", "lw": 1, "ms": 4, "markevery": [best[n]]}
            tint = 0.82 * np.array(plt.get_cmap("hsv")(n / len(e))[:3])
            column[1].plot(z, curve, **style | {"color": tint})
    ticks = np.pi / 2 * np.arange(5), ["0", "π/2", "π", "3π/2", "2π"]
    plt.setp(axes, xlabel="$z$", xlim=(0, 2 * np.pi), xticks=ticks[0], xticklabels=ticks[1])
    axes[0, 0].set_ylabel("point $n$")
    axes[1, 0].set_ylabel(r"$E(y_n, z)$, a colour for each $n$")
    figure.colorbar(image, ax=axes[0], label="$E(y_n, z)$")
    figure.suptitle("Energies of the 24 points over the angle; dots: ž, the angle of the lowest")
    return figure


def draw_free_energy(radii: Any, y: jax.Array) -> Any:
    """F over the plane with its slope at each point of the mesh, from cold to hot."""
    betas = COLD, 20.0, 2.0, 0.5, 0.1, 0.0
    y1, y2 = np.linspace(-3, 3, 121), np.linspace(-2, 2, 81)
    surfaces = free_energies(radii, mesh(y1, y2), betas).reshape(-1, len(y2), len(y1))
    figure, axes = plt.subplots(
        2, 3, figsize=(13, 6.6), sharex=True, sharey=True, layout="constrained"
    )
    down, levels = slopes(radii, MESH, betas), np.linspace(0, 8, 33)
    for axis, beta, surface, slope in zip(axes.flat, betas, surfaces, down, strict=True):
        image = axis.contourf(y1, y2, surface, levels=levels, cmap="YlGnBu_r", extend="max")
        axis.plot(*ring(radii), color="w", lw=1, ls="--")
        axis.plot(*y.T, **DOTS | {"ms": 3, "color": "gold", "mew": 0.4})
        axis.quiver(*MESH.T, *slope.T, color="#b2182b", scale=60, width=0.0028, headwidth=4)
        axis.set_title(f"{in_words(beta)}; lowest {max(surface.min(), 0):.2f}")
        axis.set(aspect="equal", xlim=(-3.1, 3.1), ylim=(-2.15, 2.15))
    plt.setp(axes[1], xlabel="$y_1$")
    plt.setp(axes[:, 0], ylabel="$y_2$")
    figure.colorbar(image, ax=axes, label=r"$F_\beta(y)$", ticks=range(9))
    figure.suptitle(
        r"Free energy and its descent $-\nabla F_\beta$ (17 × 25 arrows); dots: the data"
    )
    return figure


def draw_relaxation(radii: Any) -> Any:
    """F along y1 = 0 for many beta, F at the centre over beta, and its curvature there."""
    figure = plt.figure(figsize=(12.5, 6.2), layout="constrained")
    places = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    left, top, bottom = map(figure.add_subplot, (places[:, 0], places[0, 1], places[1, 1]))
    limits = {COLD: "cold: lowest energy", 0.0: "hot: mean energy"}
    ends = {"x": 0.01, "ha": "left", "va": "bottom"}, {"x": 200, "ha": "right", "va": "top"}
    of_limits = sections(radii, list(limits))
    for beta, curve in zip(BETAS, sections(radii, BETAS), strict=True):
        left.plot(LINE, curve, color=colour(beta), lw=1.2)
    for (beta, name), curve, end in zip(limits.items(), of_limits, ends, strict=True):
        left.plot(LINE, curve, color=colour(beta), lw=2.2, label=in_words(beta))
        centre = curve[len(LINE) // 2]
        top.axhline(centre, color=colour(beta), ls="--", lw=1.2)
        top.text(y=centre, s=f"{name}, {centre:.2f}", fontsize=9.5, color=colour(beta), **end)
    left.set(xlabel="$y_2$", ylabel=r"$F_\beta(0, y_2)$", xlim=(-2.5, 2.5), ylim=(-0.15, 7))
    left.set_title("Along $y_1 = 0$: a spike between two wells turns into a parabola")
    left.legend(loc="upper center", frameon=False)
    of_colour = {"label": r"$\beta$, from hot to cold", "location": "bottom", "aspect": 40}
    figure.colorbar(SCALE, ax=left, **of_colour)
    fine, middle = np.geomspace(0.01, 200, 121), np.zeros((1, 2))
    at_centre = free_energies(radii, middle, fine)[:, 0]
    top.semilogx(fine, at_centre, color="0.6", lw=1)
    top.scatter(fine[::4], at_centre[::4], c=[colour(b) for b in fine[::4]], zorder=3)
    top.set(ylabel=r"$F_\beta(0, 0)$", title="At the centre")
    bottom.axhline(0, color="0.6", lw=0.8)
    for i, bend in enumerate(curvatures(radii, middle, fine)[:, 0].T):
        words = f"along $y_{i + 1}$, 0 at β = {fine[np.argmax(bend < 0)]:.2f}"
        bottom.semilogx(fine, bend, ("--", "-")[i], color="k", label=words)
    bottom.set(xlabel=r"$\beta$", ylabel="curvature of $F$", ylim=(-6, 2.4))
    bottom.set_title("Curvature there: a spike below 0, a bowl above")
    bottom.legend(loc="lower left", frameon=False)
    return figure


def draw_posteriors(radii: Any, y: jax.Array) -> Any:
    """P(z | y) on the manifold at three y, from cold to hot."""
    where = {"$y_{23}$": y[23], "$y_{10}$": y[10], "the centre": jnp.zeros(2)}
    betas = COLD, 20.0, 2.0, 0.5, 0.0
    on = np.asarray(manifold(radii, GRID.z))
    figure, axes = plt.subplots(
        3, 5, figsize=(14, 6.6), sharex=True, sharey=True, layout="constrained"
    )
    found = posteriors(radii, jnp.stack(list(where.values())), betas).swapaxes(0, 1)
    for row, (name, at), each in zip(axes, where.items(), found, strict=True):
        for axis, p in zip(row, each, strict=True):
            order = np.argsort(p)
            share, places = p[order] / p.max(), on[order]
            seen = share > 0.01
            lines = np.stack([np.broadcast_to(at, places.shape), places], axis=1)[seen]
            shades = [(0.84, 0.15, 0.16, 0.08 + 0.5 * s) for s in share[seen]]
            axis.add_collection(LineCollection(list(lines), colors=shades, linewidths=0.9))
            style = {"cmap": "YlOrRd", "edgecolors": "0.4", "linewidths": 0.4, "zorder": 3}
            size = 12 + 42 * share
            image = axis.scatter(*places.T, c=share, s=size, vmin=0, vmax=1, **style)
            axis.plot(*at, "X", ms=9, color="limegreen", mec="k", zorder=4)
            spread = np.exp(-np.sum(p[p > 0] * np.log(p[p > 0])))
            words = f"largest {p.max():.3f}\n{spread:.1f} angles"
            box = {"fc": "w", "ec": "none", "alpha": 0.8, "pad": 1}
            height = 0.55 if name == "the centre" else 0
            axis.text(0, height, words, ha="center", va="center", fontsize=8.5, bbox=box)
            axis.set(aspect="equal")
        row[0].set_ylabel(f"$y$ = {name}", fontsize=12)
    for axis, beta in zip(axes[0], betas, strict=True):
        axis.set_title(in_words(beta))
    figure.colorbar(image, ax=axes, label=r"$P(z \mid y)$ over its largest value")
    figure.suptitle(
        r"Which angles explain $y$ (cross): from the nearest alone to all alike; counted by exp(entropy)"
    )
    return figure


def draw_manifolds(stages: dict[str, Any], y: jax.Array) -> Any:
    """The manifold before and after training with a line from each point to its nearest point on it."""
    figure, axes = plt.subplots(
        1, 2, figsize=(12, 5), sharex=True, sharey=True, layout="constrained"
    )
    for axis, (stage, radii) in zip(axes, stages.items(), strict=True):
        on, e = np.asarray(manifold(radii, GRID.z)), distances(radii, y)
        nearest = on[e.argmin(axis=1)]
        closed, style = on[np.arange(len(on) + 1) % len(on)], {"ms": 5, "lw": 0.8, "alpha": 0.55}
        axis.plot(*closed.T, ".-", color=GUESS, label="manifold, 48 angles", **style)
        pulls = list(np.stack([y, nearest], axis=1))
        axis.add_collection(LineCollection(pulls, colors="k", linewidths=1))
        axis.plot(*nearest.T, "x", color=GUESS, ms=7, mew=1.8, label="at ž: the nearest point")
        axis.plot(*y.T, **DOTS, label="data")
        words = f"{stage}: half-axes ({radii[0]:.2f}, {radii[1]:.2f})"
        axis.set_title(f"{words}, mean $F_\\infty$ = {e.min(1).mean():.3g}")
        axis.set(aspect="equal", xlabel="$y_1$")
    axes[0].set_ylabel("$y_2$")
    axes[1].legend(loc="center", frameon=False)
    return figure


def draw_trainings(cold: Any, betas: np.ndarray, warm: np.ndarray, y: jax.Array) -> Any:
    """Half-axes trained at each beta, some of their manifolds, and the cross-sections of their free energies."""
    chosen = {COLD: cold} | {b: warm[list(betas).index(b)] for b in (200.0, 2.0, 0.6, 0.3)}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.7), layout="constrained")
    left.plot(*y.T, **DOTS | {"ms": 5})
    for beta, radii in chosen.items():
        style = {"lw": 2, "label": in_words(beta), "color": colour(beta)}
        style |= {"ls": "--", "zorder": 3} if beta == COLD else {"zorder": 2}
        left.plot(*ring(radii), **style)
        middle.plot(LINE, sections(radii, [beta])[0], **style)
    left.set(aspect="equal", xlabel="$y_1$", ylabel="$y_2$")
    left.set_title("Manifolds trained at each temperature")
    middle.set(xlabel="$y_2$", ylabel=r"$F_\beta(0, y_2)$", xlim=(-2.5, 2.5), ylim=(-0.2, 6.5))
    middle.set_title("Their free energies along $y_1 = 0$, at the same β")
    middle.legend(loc="upper center", frameon=False, fontsize=9)
    for i, tint in enumerate(("#7b3294", "#008837")):
        right.semilogx(betas, warm[:, i], "o-", ms=4, color=tint, label=f"$r_{i + 1}$")
        right.axhline(float(cold[i]), color=tint, ls="--", lw=1)
        right.axvline(1 / (2 * float(jnp.mean(y[:, i] ** 2))), color=tint, ls=":", lw=1.4)
    right.set(xlabel=r"$\beta$ of training", ylabel="half-axis", ylim=(-0.1, 2.3))
    right.set_title(r"Half-axes; dashed: cold, dotted: 1 / (2 mean $y_i^2$)")
    right.legend(loc="center right", frameon=False)
    return figure


def draw_overfitting(
    curves: dict[float, Any], courses: dict[float, Any], steps: Any, reference: float, points: Any
) -> Any:
    """The free decoder: manifolds of the first seed above, F of all seeds during training below."""
    figure, axes = plt.subplots(2, len(curves), figsize=(14, 8), sharey="row", layout="constrained")
    y, fresh = points
    for (above, below), (beta, curve) in zip(axes.T, curves.items(), strict=True):
        above.plot(*fresh.T, ".", color="0.7", ms=4, label="held-out")
        above.plot(*np.vstack([curve, curve[:1]]).T, color=GUESS, lw=1.2, label="manifold")
        above.plot(*y.T, **DOTS, label="trained on")
        above.set(aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.1, 2.1), xlabel="$y_1$")
        above.set_title(f"trained at {in_words(beta)}")
        for i, (name, tint) in enumerate({"trained on": DATA, "held-out": "#ff7f0e"}.items()):
            each = 1000 * courses[beta][:, 1:, i]
            mean, spread = each.mean(0), each.std(0)
            below.plot(steps[1:], mean, color=tint, lw=2, label=name)
            shade = {"color": tint, "alpha": 0.2, "lw": 0}
            below.fill_between(steps[1:], mean - spread, mean + spread, **shade)
        below.axhline(1000 * reference, color=TRUTH, ls="--", label="true ellipse, held-out")
        below.set(xlabel="step")
    axes[0, 0].set_ylabel("$y_2$")
    axes[1, 0].set_ylabel(r"$1000\, F_{200}$, mean and spread over seeds")
    axes[0, 2].legend(loc="center left", bbox_to_anchor=(0.25, 0.5), framealpha=1, edgecolor="w")
    axes[1, 2].legend(frameon=False)
    figure.suptitle("A decoder free enough to run through every point")
    return figure
