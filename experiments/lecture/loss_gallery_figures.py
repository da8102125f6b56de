"""The figures of the gallery of losses: their surfaces, and how negatives compete."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments import shared
from spen_jax import losses

Loss = Callable[..., jax.Array]
MARGINS = {"none": 0.1, "0": 0.1, "m": 1.0, "positive": 0.1}
"""Published margin -> the one, above 0, at which to test the conditions."""
IN_TITLES = {"none": "no margin", "0": "$m = 0$", "m": "$m = 1$", "positive": "$m > 0$"}
LEGEND = (
    "Pale: low loss; dark: high loss,\non a scale of each picture's own.\n\n"
    "Arrows: $-\\nabla L$, a step down the\nloss, relative to the longest.\n\n"
    "Red: the margin line $E_c = E_w - m$\n($m = 0.1$ where there is none or any).\n"
    "All minima should be above it, and\narrows cross it to the upper left.\n\n"
    "With one wrong answer the NLL is the\nlog loss, InfoNCE is that times $\\beta$, and\n"
    "minimum empirical error is MCE: these\nthree are drawn at higher $\\beta$."
)


class Entry(NamedTuple):
    """A loss (E_correct, E_wrong) -> loss, its equation and its published margin."""

    loss: Loss
    equation: str
    margin: str


def draw_surfaces(entries: dict[str, Entry], path: Path) -> None:
    """Each loss over (E_correct, E_wrong), with its margin line and the steps that lower it."""
    figure, axes = plt.subplots(3, 4, figsize=(11, 9), sharex=True, sharey=True)
    figure.subplots_adjust(hspace=0.32, wspace=0.1)
    fine = np.linspace(-1.5, 2.5, 81)
    for axis, (name, entry) in zip(axes.flat, entries.items(), strict=False):
        values = entry.loss(*map(jnp.asarray, np.meshgrid(fine, fine)))
        axis.contourf(fine, fine, values, 12, cmap="YlGnBu")
        draw_steps(axis, entry.loss)
        margin = 0 if entry.margin == "0" else MARGINS[entry.margin]
        axis.plot(fine, fine + margin, "--", color="crimson", lw=1.8)
        axis.set(xlim=(-1.5, 2.5), ylim=(-1.5, 2.5), aspect="equal")
        axis.set_title(f"{name}, {IN_TITLES[entry.margin]}\n{entry.equation}", fontsize=10)
    axes[1, 3].tick_params(labelbottom=True)  # nothing is below it
    figure.supxlabel("$E_c$, energy of the correct answer", y=0.05)
    figure.supylabel("$E_w$, energy of the wrong answer", x=0.07)
    axes[2, 3].axis("off")
    axes[2, 3].text(0, 0.9, LEGEND, va="top", fontsize=9.5, transform=axes[2, 3].transAxes)
    shared.save_figure(figure, path)


def draw_steps(axis: Any, loss: Loss) -> None:
    """Arrows of minus the gradient, none where it is 0; the longest is as long in each picture."""
    correct, wrong = map(jnp.asarray, np.meshgrid(*2 * [np.linspace(-1.27, 2.27, 8)]))
    slopes = jax.jit(jax.grad(lambda c, w: jnp.sum(loss(c, w)), (0, 1)))(correct, wrong)
    right, up = (-np.asarray(s) for s in slopes)
    length = np.hypot(right, up)
    seen = length > 0.01 * length.max()
    arrows = (np.asarray(a)[seen] for a in (correct, wrong, right, up))
    scale = length.max() / 0.55
    axis.quiver(*arrows, angles="xy", scale_units="xy", scale=scale, width=0.008)


FIXED = (0.4, 0.8, 1.2, 1.6)
ZERO: Any = np.zeros(())
COMPETITORS: dict[str, Loss] = {
    "sum of hinges, $m = 1$": partial(losses.additive_margin, ZERO),
    "sum of log losses": partial(losses.additive_margin, ZERO, margin=0.0, pair=losses.log_loss),
    r"InfoNCE, $\beta = 1$": partial(losses.info_nce, ZERO),
    r"InfoNCE, $\beta = 4$": partial(losses.info_nce, ZERO, beta=4.0),
    r"NLL, $\beta = 4$: InfoNCE's push over $\beta$": lambda w: losses.nll(
        ZERO, jnp.append(w, ZERO), 4.0
    ),
}
"""Losses of the energies of negatives, each with a correct energy of 0."""


def draw_competition(path: Path) -> dict[str, Any]:
    """How negatives share the push up, as one of them comes down and as the inverse temperature changes."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 7.2))
    figure.subplots_adjust(hspace=0.35, wspace=0.22, top=0.86)
    moving, betas = np.linspace(-1, 2.2, 321), np.geomspace(0.05, 20, 80)
    wrong = jnp.asarray([[e, *FIXED] for e in moving])
    shares = {}
    for axis, (name, loss) in zip(axes.flat, COMPETITORS.items(), strict=False):
        push = -np.asarray(jax.jit(jax.vmap(jax.grad(loss)))(wrong))
        draw_pushes(axis, moving, push)
        axis.axvline(0, color="grey", lw=0.8)
        axis.set(title=name, xlabel="energy of the one that moves", ylabel="push up, $-dL/dE$")
        axis.set_ylim(-0.03 * max(1, push.max()), 1.08 * max(1, push.max()))
        shares[name] = push[0] / push[0].sum()
    push_of = jax.jit(jax.vmap(jax.grad(partial(losses.info_nce, ZERO)), (None, 0)))
    push = np.asarray(push_of(jnp.asarray([0, *FIXED]), jnp.asarray(betas)))
    draw_pushes(axes[1, 2], betas, push / push.sum(1, keepdims=True))
    axes[1, 2].set(xscale="log", xlabel=r"inverse temperature $\beta$", ylim=(-0.03, 1.08))
    axes[1, 2].set(title="InfoNCE, the red one at energy 0", ylabel="share of the whole push")
    title = "Five negatives; the correct answer has energy 0 (grey line)"
    lines = axes[0, 0].get_lines()[:5]
    figure.legend(handles=lines, loc="upper center", ncols=5, frameon=False, title=title)
    shared.save_figure(figure, path)
    return {"moving_energy": moving[0], "shares": shares}


def draw_pushes(axis: Any, x: np.ndarray, push: np.ndarray) -> None:
    """One line for each negative; dashes let equal ones be seen, the one that moves lies on top."""
    colours = ["crimson", *plt.get_cmap("viridis")((0.0, 0.3, 0.6, 0.85))]
    for n, colour in enumerate(colours):
        label = f"fixed at {FIXED[n - 1]}" if n else "the one that moves"
        style = "--" if n in (2, 4) else "-"
        axis.plot(x, push[:, n], style, color=colour, lw=2, label=label, zorder=2 if n else 3)
