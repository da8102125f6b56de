"""The figure of the hidden Markov models: accuracy over states, and digits with the states of their rows."""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from spen_jax.exact import HiddenMarkov

STYLES = {"Baum-Welch": "C0o-", "NLL of warm energies": "C3s-"}
LEVELS = {
    "symbols at their places, logistic": "--",
    "bag of symbols, logistic": ":",
    "pixels, logistic": "-.",
}


def paths(models: HiddenMarkov, x: Any) -> np.ndarray:
    """Viterbi's states of all classes, (B, T) -> (B, classes, T), numbered by when they come on average."""
    x = jnp.asarray(x)
    states = models.start.shape[-1]

    @jax.jit
    def of(models):
        return jax.vmap(lambda model: model.chain(x).best().y, out_axes=1)(models)

    found = np.array(of(models))
    time = np.broadcast_to(np.arange(x.shape[-1]), found.shape)
    for c in range(found.shape[1]):
        own = found[:, c]
        means = [time[:, c][own == k].mean() if np.any(own == k) else np.inf for k in range(states)]
        found[:, c] = np.argsort(np.argsort(means))[own]
    return found


def draw(models: dict[str, HiddenMarkov], digits: Any, result: dict[str, Any], first: int) -> Any:
    """Accuracies over states, of shifted digits too; of each class a test digit with the path of its own model."""
    figure = plt.figure(figsize=(11, 6.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    above, below = parts
    counts = [int(states) for states in result["states"]]
    titles = {"right, warm": "test digits", "shifted, warm": "the same a row up or down"}
    panels: Any = above.subplots(1, 2)
    for axis, (judged, title) in zip(panels, titles.items(), strict=True):
        for name, style in STYLES.items():
            each = np.array([of[name][judged] for of in result["states"].values()])
            spread = each.std(1, ddof=1) if each.shape[1] > 1 else None
            axis.errorbar(counts, each.mean(1), spread, fmt=style, ms=4, capsize=2, label=name)
        for name, style in LEVELS.items():
            level = result["rows"][name][judged].mean()
            axis.axhline(level, color="k", ls=style, lw=0.9, label=name)
        axis.set(xlabel="states of each class", ylabel="% right", title=title, ylim=(30, 100))
    panels[0].legend(fontsize=8, loc="lower right")
    axes: Any = below.subplots(len(models), 10)
    stop = first + (len(digits.y) - first) // 2
    for row, (name, model) in zip(axes, models.items(), strict=True):
        found = paths(model, digits.x[first:stop])
        for digit, axis in enumerate(row):
            which = int(np.argmax(digits.y[first:stop] == digit))
            _draw_digit(axis, digits.images[first + which], found[which, digit])
        row[0].set_title(name, fontsize=9, loc="left")
    below.suptitle(
        "Rows and the states of the least energy, numbered by when they come", fontsize=10
    )
    return figure


def _draw_digit(axis, image, states):
    axis.imshow(image, cmap="gray_r", extent=(0, 8, 8, 0))
    colours = plt.get_cmap("viridis")(np.asarray(states) / 5)
    axis.barh(np.arange(8) + 0.5, 2, left=8.4, height=1, color=colours)
    for place, state in enumerate(states):
        ink = "w" if state < 3 else "k"
        axis.text(9.4, place + 0.5, state + 1, ha="center", va="center", fontsize=6, color=ink)
    axis.set(xlim=(0, 10.5), ylim=(8, 0), xticks=[], yticks=[])
    axis.set_frame_on(False)
