"""Pictures of what an estimator learned of labels; Matplotlib is imported only when one is drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spen_jax.estimators.explaining import Explanation
from spen_jax.estimators.interactions import Interactions


def plot_interactions(
    of: Any, labels: Sequence[Any] | None = None, top: int = 20, ax: Any = None
) -> Any:
    """A heat map of interactions: blue where two labels attract, red where they repel; returns the Axes.

    Args:
      of: a fitted `SPENClassifier`, or its `interactions_`.
      labels: names, in the order to be drawn; else those of the strongest pairs, like ones beside each other.
      top: how many labels, where none are named.
      ax: the Axes to draw in; else those of a new figure.

    ImportError without Matplotlib; ValueError for a name that is no label, and for fewer than two labels.
    """
    interactions = of if isinstance(of, Interactions) else of.interactions_
    at = _chosen(interactions, labels, top)
    names = [str(name) for name in interactions.names[at]]
    values = interactions.values[np.ix_(at, at)]
    words = 0.08 * max(map(len, names))
    side = words + 1 + 0.24 * len(at)
    ax = _axes(ax, (side + 1.2, side))
    largest = max(float(np.abs(values).max()), 1e-12)
    # No label has an interaction with itself: an empty diagonal reads better than one of zeros.
    image = ax.imshow(
        np.ma.masked_array(values, np.eye(len(at), dtype=bool)),
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
    )
    size = 9 if len(at) <= 25 else 7
    ax.set_xticks(range(len(at)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(at)), names)
    ax.tick_params(length=0, labelsize=size)
    ax.set_facecolor("0.85")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("attract  ←  d²E / dyᵢ dyⱼ, nats  →  repel")
    return ax


def plot_inference(
    explanation: Explanation, top: int = 10, ax: Any = None, truth: Any = None
) -> Any:
    """The labels' y from the network's own answer through the steps of inference; returns the Axes.

    Args:
      explanation: what `SPENClassifier.explain` returns.
      top: how many labels: those with the largest of before and after, known ones among them.
      ax: the Axes to draw in; else those of a new figure.
      truth: the labels that are right, a set of names or 0 and 1 of each (L,): their names are bold, with a tick.

    ImportError without Matplotlib; ValueError for a name in truth that is no label.
    """
    order = np.argsort(-np.maximum(explanation.before, explanation.after), kind="stable")[:top]
    right = _truth(explanation.labels, truth)
    # Step -1 is the network alone: at step 0 what is known is already held.
    path = explanation.path
    if explanation.known.any():
        path = np.concatenate([explanation.before[None], path])
    first = len(explanation.path) - len(path)
    steps = np.arange(first, first + len(path))
    ax = _axes(ax, (7.5, 4.5))
    colours = _colours(explanation.before[order])
    ends = _apart(path[-1, order], 1.04 / max(len(order), 22))
    width = max(len(path) - 1, 1)
    last = steps[-1]
    for i, colour, end in zip(order, colours, ends, strict=True):
        style = "--" if explanation.known[i] else "-"
        ax.plot(steps, path[:, i], style, marker="o", ms=3.5, lw=1.8, color=colour, clip_on=False)
        lead = [last + 0.02 * width, last + 0.08 * width]
        ax.plot(lead, [path[-1, i], end], lw=0.7, alpha=0.6, color=colour, clip_on=False)
        ax.text(
            last + 0.09 * width,
            end,
            _end(explanation, right, i),
            color=colour,
            va="center",
            fontsize=9,
            weight="bold" if right[i] else "normal",
        )
    ax.set(ylim=(-0.02, 1.02), xlim=(steps[0] - 0.02 * width, last), ylabel="y")
    words = {-1: "network\nalone", 0: "known\nheld" if first else "network\nalone"}
    ax.set_xticks(steps, [words.get(int(step), f"step {step}") for step in steps])
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _axes(ax, size):
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need Matplotlib: pip install matplotlib") from error
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _colours(before):
    """By the network's own order, so that a label keeps its colour in pictures of one row with more or less known."""
    import matplotlib

    cycle = matplotlib.color_sequences["tab10"]
    return [cycle[rank % len(cycle)] for rank in np.argsort(np.argsort(-before, kind="stable"))]


def _places(names, wanted):
    """The numbers of the labels with those names."""
    at = {str(name): i for i, name in enumerate(names)}
    missing = [name for name in wanted if str(name) not in at]
    if missing:
        raise ValueError(f"{str(missing[0])!r} is no label, such as {str(names[0])!r} is")
    return np.array([at[str(name)] for name in wanted], int)


def _chosen(interactions, labels, top):
    if labels is not None:
        at = _places(interactions.names, labels)
    else:
        at = _of_strongest(np.abs(interactions.values), top)
        at = at[_alike(interactions.values[np.ix_(at, at)])]
    if len(at) < 2:
        raise ValueError(
            f"interactions are between labels, of which there must be two, got {len(at)}"
        )
    return at


def _of_strongest(sizes, top):
    """The labels of the strongest pairs, at most `top`."""
    first, second = np.triu_indices(len(sizes), 1)
    chosen: dict[int, None] = {}
    for pair in np.argsort(-sizes[first, second], kind="stable"):
        chosen |= dict.fromkeys((int(first[pair]), int(second[pair])))
        if len(chosen) >= top:
            break
    return np.array(list(chosen)[:top], int)


def _alike(values):
    """An order in which labels that attract stand beside each other."""
    if len(values) < 3:
        return np.arange(len(values))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    far = values - values.min()
    np.fill_diagonal(far, 0)
    return leaves_list(linkage(squareform(far, checks=False), "average", optimal_ordering=True))


def _truth(names, truth):
    right = np.zeros(len(names), bool)
    if truth is None:
        return right
    values = list(truth)
    if len(values) == len(names) and not any(isinstance(value, str) for value in values):
        return np.asarray(truth, float) > 0.5
    right[_places(names, values)] = True
    return right


def _end(explanation, right, i):
    known = " (known)" if explanation.known[i] else ""
    tick = " ✓" if right[i] else ""
    return f"{explanation.labels[i]} {explanation.after[i]:.2f}{known}{tick}"


def _apart(heights, gap):
    """Heights at least `gap` apart, near the given ones and in their order: runs that touch spread about their mean."""
    order = np.argsort(heights, kind="stable")
    runs: list[list[float]] = []
    for height in heights[order]:
        runs.append([float(height)])
        while len(runs) > 1 and _spread(runs[-1], gap)[0] < _spread(runs[-2], gap)[-1] + gap:
            last = runs.pop()
            runs[-1] += last
    spread = np.empty(len(heights))
    spread[order] = np.concatenate([_spread(run, gap) for run in runs]) if runs else []
    low = spread[order[0]] if len(order) else 0
    return spread + max(0, -low)


def _spread(run, gap):
    return np.mean(run) + gap * (np.arange(len(run)) - (len(run) - 1) / 2)
