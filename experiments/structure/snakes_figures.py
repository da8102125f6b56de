"""Pictures of snakes: answers before, during and after each inference, and where an energy objects to a wrong one."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from experiments import shared
from experiments.structure import snakes_models as models
from experiments.structure import snakes_pairwise as pairwise
from experiments.structure.snakes_contestants import CONTESTANTS
from experiments.structure.snakes_data import BACKGROUND, LABELS, LENGTH, MOVES, Snakes
from spen_jax.exact import BeliefPropagation

STEPS = (0, 1, 4, 12)
"""Points of inference that are shown; the first is that of the pixels alone."""


def draw(found: dict[str, Any], params: dict[str, Any], data: Snakes, folder: Path) -> None:
    """All that the models at hand allow."""
    draw_places(found, folder / "snakes-places.png")
    if {"spen", "field", "likelihood"} <= {*params}:
        draw_steps(params, data, folder / "snakes-steps.png")
    if {"blind", "likelihood"} <= {*params}:
        draw_objections(params, data, folder / "snakes-objections.png")


def draw_places(found: dict[str, Any], path: Path) -> None:
    """What is right of each place along the snake: both ends can be seen, the middle has to be followed."""
    figure, axis = plt.subplots(figsize=(8.5, 4), layout="constrained")
    for i, (name, of) in enumerate(found.items()):
        values = np.mean(of["places"], 0)
        line = "-" if i < 10 else "--"
        axis.plot(range(1, LABELS), values, line, marker="o", ms=4, label=CONTESTANTS[name].title)
    axis.set(xlabel="place along the snake", ylabel="right, %", xticks=range(1, LABELS))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    shared.save_figure(figure, path)


def iterates(params: dict[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    """Of each inference the distributions at STEPS, (len(STEPS), N, H, W, 11)."""
    result = {}
    gradient = {
        "window energy": ("spen", models.by_window_energy(("y",))),
        "pairs, mean field": ("field", pairwise.by_gradient(STEPS[-1], ("y",))),
    }
    for title, (name, predictor) in gradient.items():
        path = np.asarray(predictor(params[name], x).trace["y"])  # (N, steps + 1, H, W, 11)
        result[title] = path[:, list(STEPS)].swapaxes(0, 1)
    of = params["likelihood"]
    each = [np.asarray(pairwise.alone(pairwise.features(of, x)))]
    for steps in STEPS[1:]:
        predictor = pairwise.by_method(BeliefPropagation(steps=steps), 1.0)
        each.append(np.asarray(predictor(of, x).y))
    return result | {"pairs, belief propagation": np.stack(each)}


def draw_steps(params: dict[str, Any], data: Snakes, path: Path) -> None:
    """A grid that belief propagation numbers and the window energy does not, as each inference goes on."""
    paths = iterates(params, data.x)
    right = {
        name: (y[-1].argmax(-1) == data.labels).all((1, 2)).astype(int) for name, y in paths.items()
    }
    good, *others = (right[name] for name in list(paths)[::-1])
    at = int(np.argmax(3 * good - sum(others)))
    figure, axes = plt.subplots(
        len(paths), 2 + len(STEPS), figsize=(15, 2.3 * len(paths)), layout="constrained"
    )
    for row, (name, y) in zip(axes, paths.items(), strict=True):
        arrows(row[0], data, at)
        numbers(row[1], data.labels[at], data.labels[at])
        row[0].set_ylabel(name)
        for axis, step, of_step in zip(row[2:], STEPS, y[:, at], strict=True):
            numbers(axis, of_step.argmax(-1), data.labels[at], of_step.max(-1))
            axis.set_title(f"step {step}", fontsize=10)
        closer(row, data.box[at])
    axes[0, 0].set_title("colours")
    axes[0, 1].set_title("truth")
    shared.save_figure(figure, path)


def arrows(axis: Any, data: Snakes, at: int) -> None:
    """The colours of a grid, as arrows."""
    colours = data.x[at].argmax(-1)
    blank(axis, colours.shape)
    for i, j in np.argwhere(colours != BACKGROUND):
        down, right = 0.35 * MOVES[colours[i, j]]
        colour = f"C{colours[i, j]}"
        axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=colour, alpha=0.35, lw=0))
        axis.annotate(
            "",
            (j + right, i + down),
            (j - right, i - down),
            arrowprops={"arrowstyle": "->", "color": "black", "lw": 1},
        )


def numbers(axis: Any, labels: np.ndarray, truth: np.ndarray, sure: Any = None) -> None:
    """Labels by number and hue, paler where they are less sure, red where they are wrong."""
    blank(axis, labels.shape)
    for i, j in np.argwhere((labels > 0) | (truth > 0)):
        label, wrong = labels[i, j], labels[i, j] != truth[i, j]
        strength = 1.0 if sure is None else float(sure[i, j])
        if label:
            colour = colormaps["viridis"](0.25 + 0.75 * label / LENGTH)
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=colour, alpha=0.6 * strength))
        look = {"color": "red", "weight": "bold"} if wrong else {"color": "black"}
        axis.text(j, i, str(label), ha="center", va="center", fontsize=8, **look)


def closer(axes: Any, box: np.ndarray) -> None:
    """The part of a grid that holds its snake."""
    rows, columns = (np.flatnonzero(box.any(axis)) for axis in (1, 0))
    for axis in axes:
        axis.set(xlim=(columns[0] - 0.5, columns[-1] + 0.5), ylim=(rows[-1] + 0.5, rows[0] - 0.5))


def outline(axis: Any, truth: np.ndarray) -> None:
    """Where the snake is, with its true labels."""
    for i, j in np.argwhere(truth > 0):
        corner = j - 0.5, i - 0.5
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="0.75", lw=0.6))
        axis.text(j, i, str(truth[i, j]), ha="center", va="center", fontsize=7, color="0.3")


def blank(axis: Any, shape: tuple[int, ...]) -> None:
    """An empty grid."""
    axis.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5), aspect="equal")
    axis.set(xticks=[], yticks=[], facecolor="0.97")


def objections(params: Any, x: np.ndarray, answer: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """E(answer) - E(truth) of one grid, by pixels (H, W) and by links "down" (H - 1, W) and "right" (H, W - 1)."""
    context = {k: np.asarray(a[0]) for k, a in pairwise.features(params, x[None]).items()}

    def terms(y):
        ends = {"down": (y[:-1], y[1:]), "right": (y[:, :-1], y[:, 1:])}
        result = {"pixels": np.take_along_axis(context["unary"], y[..., None], -1)[..., 0]}
        for name, (first, second) in ends.items():
            shape = (*first.shape, LABELS, LABELS)
            rows, columns = np.indices(first.shape)
            result[name] = np.broadcast_to(context[name], shape)[rows, columns, first, second]
        return result

    of_truth = terms(truth)
    return {name: value - of_truth[name] for name, value in terms(answer).items()}


def draw_objections(params: dict[str, Any], data: Snakes, path: Path) -> None:
    """Wrong answers, and where energies of pairs that see the input, or not, put them above or below the truth."""
    lowest = pairwise.by_method(BeliefPropagation())
    answered = {
        "edges see no input, min-sum": (lowest, "blind"),
        "edges see it, mean field": (pairwise.by_gradient(20), "likelihood"),
    }
    answers = {
        title: np.argmax(predictor(params[name], data.x).y, -1)
        for title, (predictor, name) in answered.items()
    }
    figure, axes = plt.subplots(2, 4, figsize=(14, 6), layout="constrained")
    shown: Any = None
    for row, (title, answer) in zip(axes, answers.items(), strict=True):
        wrong = ((answer != data.labels) & data.box).sum((1, 2))
        at = int(np.argmin(np.where(wrong > 0, np.abs(wrong - 5), 99)))
        arrows(row[0], data, at)
        row[0].set_ylabel(title)
        numbers(row[1], answer[at], data.labels[at])
        for axis, name in zip(row[2:], ("blind", "likelihood"), strict=True):
            of = objections(params[name], data.x[at], answer[at], data.labels[at])
            shown = energy_map(axis, of)
            outline(axis, data.labels[at])
            total = sum(value.sum() for value in of.values())
            seeing = "no input" if name == "blind" else "the input"
            axis.set_title(f"edges that see {seeing}: {total:+.1f}", fontsize=10)
        closer(row, data.box[at])
    axes[0, 0].set_title("colours")
    axes[0, 1].set_title("answer, red where it is wrong")
    label = "energy of the answer less that of the truth, nats"
    figure.colorbar(shown, ax=axes, shrink=0.7, label=label)
    shared.save_figure(figure, path)


def energy_map(axis: Any, of: dict[str, Any], limit: float = 5.0) -> Any:
    """Pixels as squares and links as bars between them, red where the answer costs more than the truth."""
    blank(axis, of["pixels"].shape)
    hue, scale = colormaps["RdBu_r"], Normalize(-limit, limit)

    def box(centre, width, height, value):
        if abs(value) > 0.05:
            corner = centre[0] - width / 2, centre[1] - height / 2
            axis.add_patch(Rectangle(corner, width, height, color=hue(scale(value)), lw=0))

    for (i, j), value in np.ndenumerate(of["pixels"]):
        box((j, i), 0.45, 0.45, value)
    for (i, j), value in np.ndenumerate(of["down"]):
        box((j, i + 0.5), 0.2, 0.5, value)
    for (i, j), value in np.ndenumerate(of["right"]):
        box((j + 0.5, i), 0.5, 0.2, value)
    return ScalarMappable(scale, hue)
