"""Where structure must win: 16 labels in 4 blocks, of each of which exactly one is on.

The question: x (n, 64) ~ N(0, 1), z = x A, and of each block of 4 labels the one with the largest z is on. A linear
model of each label alone cannot say "exactly one of these". Does a SPEN with linear unary potentials learn the
blocks from examples, from how few, and where labels are noisy?

Expected (Belanger & McCallum 2016; test F1 in percent, 1,500 and 15,000 training examples): linear 80.0
and 81.8, three-layer perceptron 81.6 and 96.3, SPEN 91.5 and 96.7.

Protocol: three draws of A that played no part in the choice of settings; a fifth of the training rows,
drawn by seed, chooses the weight decay, the epoch and the one threshold; the model is then trained
again on all training rows; 10,000 test rows. Noise flips training labels, validation rows included, never test labels.
Minutes: about 15 on two cores.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.labels import figures, protocol, runs
from experiments.labels.models import alone, init_of, predictor_of
from spen_jax.training import Phase, Recipe, checkpoints, steps_per_epoch

WEIGHT_DECAYS = (0.03, 0.3, 3.0)


@dataclass(frozen=True)
class Config:
    """Linear model, perceptron and SPEN on labels in exclusive blocks."""

    sizes: tuple[int, ...] = (250, 500, 1500, 5000, 15000)  # numbers of training examples
    noises: tuple[float, ...] = (
        0.05,
        0.1,
        0.2,
    )  # shares of labels flipped, at `noisy_size` examples
    noisy_size: int = 1500
    draws: tuple[int, ...] = (10, 11, 12)  # seeds of A and x; 0 to 2 served to develop the settings
    n_test: int = 10_000
    updates: int = 2400  # of 300 examples each
    out: runs.Out = None


class Contestant(NamedTuple):
    """A model before its epochs are known."""

    title: str
    module: Any
    objective: Any
    predictor: sx.Predictor
    learning_rate: float
    published: tuple[float, float]


LINEAR: Any = sx.FeatureNetwork(16, widths=())
MLP: Any = sx.FeatureNetwork(16, widths=(300, 300), dropout=0.5)
SPEN = sx.SPEN(LINEAR, n_global=64, entropy=0.3, global_scale=3.0)
INFERENCE = predictor_of(SPEN, 5)
OBJECTIVES = [
    *(sx.objectives.feed_forward(sx.logits_of(network)) for network in (LINEAR, MLP)),
    sx.objectives.end_to_end(INFERENCE),
]
CONTESTANTS = {
    "linear": Contestant("linear", LINEAR, OBJECTIVES[0], alone(LINEAR), 1e-2, (80.0, 81.8)),
    "mlp": Contestant("three-layer MLP", MLP, OBJECTIVES[1], alone(MLP), 3e-3, (81.6, 96.3)),
    "spen": Contestant("SPEN", SPEN, OBJECTIVES[2], INFERENCE, 3e-2, (91.5, 96.7)),
}


def evaluate(
    one: Contestant, dataset: sx.data.Dataset, draw: int, updates: int, progress: Any
) -> tuple[float, Any]:
    """Choose by validation, train on all rows: (test F1, parameters)."""
    rows = protocol.parted(dataset.train, dataset.test, draw)
    epochs = max(1, updates // steps_per_epoch(len(rows.part.x), 300))
    title, init = f"{one.title}, {len(rows.data.x)} examples", init_of(one.module)
    phases = (
        Phase("", one.objective, Recipe(epochs, one.learning_rate, decay, 300))
        for decay in WEIGHT_DECAYS
    )
    candidates = [protocol.Model(title, init, (phase,), one.predictor) for phase in phases]
    every = len(rows.valid.x)
    _, _, outcome = protocol.search(candidates, rows, draw, progress, scored=every)
    return outcome.measures["test_f1_tuned"], outcome.params


def learned_interactions(params: Any, x: Any) -> np.ndarray:
    """The SPEN's mean second derivatives d^2 E / dy_i dy_j at its own answers, (16, 16), diagonal left out."""
    context, y = INFERENCE.context(params, x), INFERENCE(params, x).y
    pairs = np.asarray(sx.interactions(INFERENCE.energy, params, context, y))
    return np.where(np.eye(16, dtype=bool), np.nan, pairs)


def draw_figure(result: dict, pairs: np.ndarray, path: Path) -> None:
    """F1 against training size and against label noise, and the learned interactions."""
    figure, axes = plt.subplots(
        1, 3, figsize=(14, 4.2), width_ratios=(1, 1, 1.15), layout="constrained"
    )
    clean = [t for t in result["tasks"] if not t["noise"]]
    noisy = [t for t in result["tasks"] if t["size"] == result["noisy_size"]]
    for axis, key, tasks in zip(axes, ("size", "noise"), (clean, noisy), strict=False):
        tasks = sorted(tasks, key=lambda t: t[key])
        for name, one in CONTESTANTS.items():
            values = [t[name] for t in tasks]
            figures.plot_range(axis, [t[key] for t in tasks], values, one.title)
    sizes = sorted({t["size"] for t in clean})
    title = "Mean and range over draws"
    figures.finish(axes[0], title, "training examples", "test F1, %", counts=sizes)
    title = f"{result['noisy_size']:,} examples with label noise"
    figures.finish(axes[1], title, "share of training labels flipped", "test F1, %")
    right, limit = axes[2], np.nanmax(np.abs(pairs))
    image = right.imshow(pairs, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for edge in (3.5, 7.5, 11.5):
        right.axhline(edge, color="k", lw=0.8)
        right.axvline(edge, color="k", lw=0.8)
    right.set(title="Learned interactions (red: repel)", xlabel="label", ylabel="label")
    right.set(xticks=range(0, 16, 4), yticks=range(0, 16, 4))
    meaning = r"$\partial^2 E / \partial y_i \partial y_j$, mean over test rows"
    figure.colorbar(image, ax=right, label=meaning)
    shared.save_figure(figure, path)


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    began = time.perf_counter()
    for name, values in (("draws", config.draws), ("sizes", config.sizes)):
        if not values or len(set(values)) < len(values):
            shared.fail(f"--{name} needs different numbers, got {list(values)}")
    if not all(0 < noise < 0.5 for noise in config.noises):
        shared.fail(f"--noises needs shares between 0 and 1/2, got {list(config.noises)}")
    folder = shared.new_folder(config.out, "exclusive")
    shared.write_json(folder / "config.json", vars(config))
    tasks, checksums, clean = [], {}, None
    wanted = [(n, 0.0) for n in config.sizes] + [(config.noisy_size, p) for p in config.noises]
    with shared.progress_bars() as progress:
        for size, noise in wanted:
            task: dict[str, Any] = {"size": size, "noise": noise}
            task |= {name: [] for name in CONTESTANTS}
            for draw in config.draws:
                dataset = sx.data.exclusive_blocks(draw, size, config.n_test, noise)
                checksums[f"draw {draw}, {size} rows, noise {noise}"] = dataset.checksums
                for name, one in CONTESTANTS.items():
                    f1, params = evaluate(one, dataset, draw, config.updates, progress)
                    task[name].append(f1)
                    meta = {"model": name, "size": size, "noise": noise, "draw": draw}
                    file = folder / f"{name}-{size}-noise{noise}-draw{draw}.spen"
                    checkpoints.save(file, params, meta)
                if not noise:
                    clean = params, dataset.test.x[:500]
            tasks.append(task)
    assert clean is not None
    pairs = learned_interactions(*clean)
    same = np.arange(16)[:, None] // 4 == np.arange(16) // 4
    result = {
        "tasks": tasks,
        "noisy_size": config.noisy_size,
        "interactions": {
            "within_blocks": float(np.nanmean(pairs[same])),
            "between_blocks": float(np.nanmean(pairs[~same])),
        },
        "data": {"name": "exclusive blocks", "checksums": checksums},
        "environment": shared.environment(),
        "seconds": time.perf_counter() - began,
    }
    shared.write_json(folder / "result.json", result)
    draw_figure(result, pairs, folder / "exclusive.png")
    report(result, folder)
    return result


def report(result: dict, folder: Path) -> None:
    """Print the table."""
    columns = "training examples", "labels flipped", *CONTESTANTS, "SPEN less perceptron"
    table = Table(*columns, title="Test F1, %: mean ± spread over draws")
    for task in result["tasks"]:
        each = [shared.mean_and_spread(task[name]) for name in CONTESTANTS]
        gain = shared.mean_and_spread(np.subtract(task["spen"], task["mlp"]).tolist())
        table.add_row(f"{task['size']:,}", f"{100 * task['noise']:g} %", *each, gain)
    for i, n in enumerate((1500, 15000)):
        published = (f"{one.published[i]:.1f}" for one in CONTESTANTS.values())
        table.add_row(f"{n:,} (published)", "0 %", *published, "", style="dim")
    shared.console.print(table)
    pair = result["interactions"]
    shared.console.print(
        f"mean interaction of two labels: {pair['within_blocks']:+.2f} in one block, "
        f"{pair['between_blocks']:+.2f} in two (positive: they repel)\n"
        f"{result['seconds']:.0f} s; wrote {folder}"
    )


if __name__ == "__main__":
    shared.run(main, Config, __doc__)
