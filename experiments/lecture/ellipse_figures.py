"""The figures of the ellipse: energies, free energies, their relaxation, posteriors, manifolds and overfitting."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, PowerNorm

from spen_jax import energies, exact

COLD = float("inf")
ELLIPSE = energies.Decoder(lambda radii, h, z: energies.scaled_circle(radii, z))
GRID, FINE = exact.periodic(48), exact.periodic(288)
BETAS = np.geomspace(50, 0.05, 16)  # from cold to hot, between the limits infinity and 0
LINE = np.linspace(-2.5, 2.5, 201)
SECTION = np.stack([0 * LINE, LINE], axis=-1)
CENTRE = np.zeros((1, 2))
SCALE = plt.cm.ScalarMappable(
    LogNorm(0.05, 50), ListedColormap(plt.get_cmap("plasma")(np.linspace(0.9, 0, 256)))
)
DATA, GUESS = "#1f77b4", "#d62728"
MESH = np.stack(np.meshgrid(np.linspace(-3, 3, 25), np.linspace(-2, 2, 17)), -1).reshape(-1, 2)
DOTS = {"ls": "", "marker": "o", "ms": 6, "color": DATA, "mec": "k", "mew": 0.5}


@jax.jit
def manifold(radii: Any, z: Any) -> jax.Array:
    """The points of energy 0 at the angles z, (n, 2)."""
    return jax.vmap(energies.scaled_circle, (None, 0))(radii, z)


def distances(radii: Any, y: Any) -> np.ndarray:
    """E of each point with each angle of the grid, (n, 48)."""
    return np.sum(np.asarray(y[:, None] - manifold(radii, GRID.z)[None]) ** 2, axis=-1)


def at_each(function: Any, radii: Any, y: Any, betas: Any, nodes: exact.Nodes = FINE) -> np.ndarray:
    """F or P(z | y) (`function` of `exact`) at points (n, 2) for several beta, (betas, n) or (betas, n, angles)."""
    of = ELLIPSE, {"g": jnp.asarray(radii)}, None, jnp.asarray(y), nodes
    return np.stack([function(*of, beta) for beta in betas])


free_energies = partial(at_each, exact.free_energy)
posteriors = partial(at_each, jax.jit(exact.posterior, static_argnames="energy"))


def curvatures(radii: Any, betas: np.ndarray) -> np.ndarray:
    """Second derivatives of F at the centre along y1 and y2, 2 - 4 beta var(y(z)) under P(z | centre), (betas, 2)."""
    p, on = posteriors(radii, CENTRE, betas)[:, 0], np.asarray(manifold(radii, FINE.z))
    return 2 - 4 * betas[:, None] * (p @ on**2 - (p @ on) ** 2)


def grid_errors(radii: Any, betas: tuple[float, ...]) -> dict[str, float]:
    """The largest difference of F on 48 angles to that on 288 over a mesh, for each beta."""
    few, many = (free_energies(radii, MESH, betas, nodes) for nodes in (GRID, FINE))
    return dict(zip(map(name_of, betas), np.abs(few - many).max(1).tolist(), strict=True))


def name_of(beta: float) -> str:
    """The inverse temperature as a key of the result."""
    return "cold" if beta == COLD else f"beta = {beta:g}"


def in_words(beta: float) -> str:
    """The inverse temperature as a title."""
    return {COLD: r"cold, $\beta=\infty$", 0.0: r"hot, $\beta=0$"}.get(beta, rf"$\beta={beta:g}$")


def colour(beta: Any) -> Any:
    """Purple (cold) to yellow (hot); the limits are black and green."""
    return {COLD: "k", 0.0: "#2ca02c"}.get(beta, SCALE.to_rgba(beta))


def draw_stages(stages: dict[str, Any], y: jax.Array) -> Any:
    """Before and after training: the manifold, each point pulling its nearest on it, and E(y_n, z) of all points."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), sharey="row", layout="constrained")
    norm = PowerNorm(0.4, vmin=0, vmax=distances(stages["trained"], y).max())
    angles, points = np.append(GRID.z, 2 * np.pi), np.arange(len(y))
    for (top, bottom), (stage, radii) in zip(axes.T, stages.items(), strict=True):
        on, e = np.asarray(manifold(radii, angles)), distances(radii, y)
        best, mean = e.argmin(axis=1), e.min(axis=1).mean()
        top.plot(*on.T, ".-", color=GUESS, lw=0.8, alpha=0.55, label="manifold, 48 angles")
        pulls = list(np.stack([y, on[best]], axis=1))
        top.add_collection(LineCollection(pulls, colors="k", linewidths=1))
        top.plot(*on[best].T, "x", color=GUESS, ms=7, mew=1.8, label="at ž: the nearest point")
        top.plot(*y.T, **DOTS, label="data")
        words = f"{stage}: $r$ = ({radii[0]:.2f}, {radii[1]:.2f}), mean $F_\\infty$ = {mean:.3g}"
        top.set(aspect="equal", xlabel="$y_1$", title=words)
        e = np.column_stack([e, e[:, 0]])
        image = bottom.pcolormesh(angles, points, e, norm=norm, cmap="magma")
        bottom.plot(angles[best], points, **DOTS | {"ms": 4, "color": "cyan"})
    ticks = {"xticks": np.pi / 2 * np.arange(5), "xticklabels": ["0", "π/2", "π", "3π/2", "2π"]}
    plt.setp(axes[1], xlabel="$z$", xlim=(0, 2 * np.pi), **ticks)
    axes[0, 0].set_ylabel("$y_2$")
    axes[1, 0].set_ylabel("point $n$")
    axes[0, 1].legend(loc="center", frameon=False)
    figure.colorbar(image, ax=axes[1], label="$E(y_n, z)$; dots: at ž, its lowest")
    return figure


def draw_free_energy(radii: Any, y: jax.Array) -> Any:
    """F over the plane with its slope at each point of the mesh, from cold to hot."""
    betas = COLD, 20.0, 2.0, 0.5, 0.1, 0.0
    y1, y2 = np.linspace(-3, 3, 121), np.linspace(-2, 2, 81)
    plane = np.stack(np.meshgrid(y1, y2), axis=-1).reshape(-1, 2)
    surfaces = free_energies(radii, plane, betas).reshape(-1, len(y2), len(y1))
    look: Any = {"figsize": (13, 6.6), "sharex": True, "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(2, 3, **look)
    # grad F = 2 (y - mean of y(z)) under P(z | y).
    down = 2 * (posteriors(radii, MESH, betas) @ np.asarray(manifold(radii, FINE.z)) - MESH)
    for axis, beta, surface, slope in zip(axes.flat, betas, surfaces, down, strict=True):
        image = axis.contourf(y1, y2, surface, np.linspace(0, 8, 33), cmap="YlGnBu_r", extend="max")
        axis.plot(*manifold(radii, np.append(FINE.z, 0)).T, color="w", lw=1, ls="--")
        axis.plot(*y.T, **DOTS | {"ms": 3, "color": "gold", "mew": 0.4})
        axis.quiver(*MESH.T, *slope.T, color="#b2182b", scale=60, width=0.0028, headwidth=4)
        axis.set_title(f"{in_words(beta)}; lowest {max(surface.min(), 0):.2f}")
        axis.set(aspect="equal", xlim=(-3.1, 3.1), ylim=(-2.15, 2.15))
    plt.setp(axes[1], xlabel="$y_1$")
    plt.setp(axes[:, 0], ylabel="$y_2$")
    figure.colorbar(image, ax=axes, label=r"$F_\beta(y)$", ticks=range(9))
    words = r"Free energy and its descent $-\nabla F_\beta$ (17 × 25 arrows); dots: the data"
    figure.suptitle(words)
    return figure


def draw_relaxation(radii: Any) -> Any:
    """F along y1 = 0 for many beta, F at the centre over beta, and its curvature there."""
    figure = plt.figure(figsize=(12.5, 6.2), layout="constrained")
    places = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    left, top, bottom = map(figure.add_subplot, (places[:, 0], places[0, 1], places[1, 1]))
    words = {
        COLD: (0.01, "left", "bottom", "cold: lowest"),
        0.0: (200, "right", "top", "hot: mean"),
    }
    betas = COLD, *BETAS, 0.0
    for beta, curve in zip(betas, free_energies(radii, SECTION, betas), strict=True):
        of = {"color": colour(beta)}
        left.plot(LINE, curve, lw=2.2 if beta in words else 1.2, **of)
        if beta in words:
            left.lines[-1].set_label(in_words(beta))
            (x, ha, va, name), centre = words[beta], curve[len(LINE) // 2]
            top.axhline(centre, ls="--", lw=1.2, **of)
            apart = {"xytext": (0, {"top": -4, "bottom": 4}[va]), "textcoords": "offset points"}
            text = f"{name} energy, {centre:.2f}"
            top.annotate(text, (x, centre), ha=ha, va=va, fontsize=9.5, **apart, **of)
    left.set(xlabel="$y_2$", ylabel=r"$F_\beta(0, y_2)$", xlim=(-2.5, 2.5), ylim=(-0.15, 7))
    left.set_title("Along $y_1 = 0$: a spike between two wells turns into a parabola")
    left.legend(loc="upper center", frameon=False)
    of_colour = {"label": r"$\beta$, from hot to cold", "location": "bottom", "aspect": 40}
    figure.colorbar(SCALE, ax=left, **of_colour)
    fine = np.geomspace(0.01, 200, 121)
    at_centre = free_energies(radii, SECTION, fine)[:, len(LINE) // 2]
    top.semilogx(fine, at_centre, color="0.6", lw=1)
    top.scatter(fine[::4], at_centre[::4], c=[colour(b) for b in fine[::4]], zorder=3)
    top.set(ylabel=r"$F_\beta(0, 0)$", title="At the centre")
    bottom.axhline(0, color="0.6", lw=0.8)
    for i, bend in enumerate(curvatures(radii, fine).T):
        words = f"along $y_{i + 1}$, 0 at β = {fine[np.argmax(bend < 0)]:.2f}"
        bottom.semilogx(fine, bend, ("--", "-")[i], color="k", label=words)
    bottom.set(xlabel=r"$\beta$", ylabel="curvature of $F$", ylim=(-6, 2.4))
    bottom.set_title("Curvature there: a spike below 0, a bowl above")
    bottom.legend(loc="lower right", frameon=False)
    return figure


def draw_posteriors(radii: Any, y: jax.Array) -> Any:
    """P(z | y) on the manifold at three y, from cold to hot."""
    where = {"$y_{23}$": y[23], "$y_{10}$": y[10], "the centre": CENTRE[0]}
    betas, on = (COLD, 20.0, 2.0, 0.5, 0.0), np.asarray(manifold(radii, GRID.z))
    look: Any = {"figsize": (11.5, 5.4), "sharex": True, "sharey": True, "layout": "compressed"}
    figure, axes = plt.subplots(3, 5, **look)
    found = posteriors(radii, np.stack(list(where.values())), betas, GRID)
    style = {"cmap": "YlOrRd", "edgecolors": "0.4", "linewidths": 0.3, "zorder": 3, "vmin": 0}
    for (row, column), axis in np.ndenumerate(axes):
        at, p = list(where.values())[row], found[column, row]
        order = np.argsort(p)
        share, places = p[order] / p.max(), on[order]
        lines = np.stack([np.broadcast_to(at, on.shape), places], axis=1)[share > 0.01]
        shades = [(0.84, 0.15, 0.16, 0.08 + 0.5 * s) for s in share[share > 0.01]]
        axis.add_collection(LineCollection(list(lines), colors=shades, linewidths=0.9))
        image = axis.scatter(*places.T, c=share, s=8 + 26 * share, vmax=1, **style)
        axis.plot(*at, "X", ms=8, color="limegreen", mec="k", zorder=4)
        spread = np.exp(-np.sum(p[p > 0] * np.log(p[p > 0])))
        words = f"largest {p.max():.3f}\n{spread:.1f} angles"
        box = {"fc": "w", "ec": "none", "alpha": 0.8, "pad": 1}
        axis.text(0, 0.55 * (row == 2), words, ha="center", va="center", fontsize=8, bbox=box)
        axis.set(aspect="equal", title="" if row else in_words(betas[column]))
    for axis, name in zip(axes[:, 0], where, strict=True):
        axis.set_ylabel(f"$y$ = {name}", fontsize=12)
    figure.colorbar(image, ax=axes, label=r"$P(z \mid y)$ over its largest value")
    words = "from the nearest alone to all alike; counted by exp(entropy)"
    figure.suptitle(f"Which angles explain $y$ (cross): {words}")
    return figure


def draw_half_axes(cold: Any, betas: np.ndarray, warm: np.ndarray, y: jax.Array) -> Any:
    """Half-axes trained at each beta."""
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for i, tint in enumerate(("#7b3294", "#008837")):
        axis.semilogx(betas, warm[:, i], "o-", ms=4, color=tint, label=f"$r_{i + 1}$")
        axis.axhline(float(cold[i]), color=tint, ls="--", lw=1)
        axis.axvline(1 / (2 * float(jnp.mean(y[:, i] ** 2))), color=tint, ls=":", lw=1.4)
    axis.set(xlabel=r"$\beta$ of training", ylabel="half-axis", ylim=(-0.1, 2.3))
    axis.set_title(
        r"Half-axes; dashed: cold; dotted: lost below about 1 / (2 mean $y_i^2$)", fontsize=10
    )
    axis.legend(loc="center right", frameon=False)
    return figure


def draw_overfitting(found: dict[float, Any], steps: Any, reference: float, points: Any) -> Any:
    """The network at each beta of training: its manifold of the first seed, and F of all seeds during training."""
    figure, axes = plt.subplots(2, len(found), figsize=(14, 8), sharey="row", layout="constrained")
    y, fresh = points
    for (above, below), (beta, (curve, course)) in zip(axes.T, found.items(), strict=True):
        above.plot(*fresh.T, ".", color="0.7", ms=4, label="held-out")
        above.plot(*np.vstack([curve, curve[:1]]).T, color=GUESS, lw=1.2, label="manifold")
        above.plot(*y.T, **DOTS, label="trained on")
        above.set(aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.1, 2.1), xlabel="$y_1$")
        above.set_title(f"trained at {in_words(beta)}")
        kinds = {"train": ("trained on", DATA), "held_out": ("held-out", "#ff7f0e")}
        for kind, (name, tint) in kinds.items():
            each = 1000 * course[kind][1:]
            mean = each.mean(axis=1)
            spread = each.std(axis=1, ddof=min(1, each.shape[1] - 1))
            below.plot(steps[1:], mean, color=tint, lw=2, label=name)
            below.fill_between(steps[1:], mean - spread, mean + spread, color=tint, alpha=0.2, lw=0)
        below.axhline(1000 * reference, color="0.45", ls="--", label="true ellipse, held-out")
        below.set(xlabel="step")
    axes[0, 0].set_ylabel("$y_2$")
    axes[1, 0].set_ylabel(r"$1000\, F_{200}$, mean and spread over seeds")
    for above_or_below in axes[:, 2]:
        above_or_below.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle("A decoder free enough to run through every point")
    return figure
