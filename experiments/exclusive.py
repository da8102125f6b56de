"""Where structure must win: 16 labels in 4 blocks, of each of which exactly one is on.

The question: x (n, 64) ~ N(0, 1), z = x A, and of each block of 4 labels the one with the largest z is on. A linear
model of each label alone cannot say "exactly one of these". Does a SPEN with linear unary potentials learn the
blocks from examples?

Expected (Belanger & McCallum 2016; test F1 in percent, 1,500 and 15,000 training examples): linear 80.0
and 81.8, three-layer perceptron 81.6 and 96.3, SPEN 91.5 and 96.7.

Protocol: three draws of A that played no part in the choice of settings; a fifth of the training rows,
drawn by seed, chooses the weight decay, the epoch and the one threshold; the model is then trained
again on all training rows; 10,000 test rows.
Minutes: about 4 on two cores.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import shared
import tyro
from rich.table import Table

import spen_jax as sx
from spen_jax import metrics

PUBLISHED = {"linear": (80.0, 81.8), "mlp": (81.6, 96.3), "spen": (91.5, 96.7)}
WEIGHT_DECAYS = (0.03, 0.3, 3.0)


@dataclass(frozen=True)
class Config:
    """Linear model, perceptron and SPEN on labels in exclusive blocks."""

    sizes: tuple[int, ...] = (1500, 15000)
    """Numbers of training examples."""

    draws: tuple[int, ...] = (10, 11, 12)
    """Seeds of A and x; 0 to 2 served to develop the settings."""

    n_test: int = 10_000
    """Number of test examples."""

    updates: int = 2400
    """Training steps, of 300 examples each."""

    out: Path | None = None
    """Folder to write, new or empty; runs/exclusive-<date> by default."""


def models() -> dict[str, tuple[Any, Any, Any, float]]:
    """Name -> (module, objective, predict(params, x) -> (y,), learning rate)."""
    linear = sx.FeatureNetwork(16, widths=())
    mlp = sx.FeatureNetwork(16, widths=(300, 300), dropout=0.5)
    spen = sx.SPEN(linear, n_global=64, entropy=0.3, global_scale=3.0)
    features, energy = sx.functions_of(spen)
    inference = {"solver": sx.MirrorDescent(0.5), "steps": 5}

    @jax.jit
    def predict_spen(params, x):
        context = features(params, x)
        return (sx.minimize(energy, params, context, shared.start(context), **inference).y,)

    def alone(module, rate):
        net = sx.logits_of(module)
        return (
            module,
            sx.feed_forward(net),
            jax.jit(lambda p, x: (jax.nn.sigmoid(net(p, x)),)),
            rate,
        )

    end_to_end = sx.end_to_end(energy, features, start=shared.start, **inference)
    return {
        "linear": alone(linear, 1e-2),
        "mlp": alone(mlp, 3e-3),
        "spen": (spen, end_to_end, predict_spen, 3e-2),
    }


def evaluate(
    model: Any, dataset: sx.data.Dataset, draw: int, updates: int, progress: Any, name: str
):
    """Choose by validation, train on all rows, and return (test F1, parameters)."""
    module, objective, predict, rate = model
    data = dataset.train
    rows, held_out = sx.data.split(len(data.x), 0.2, draw)
    part = jax.tree.map(lambda a: a[rows], data)
    valid = jax.tree.map(lambda a: a[held_out], data)

    key = jax.random.key(draw)
    params = shared.initial_params(module, data, key)
    epochs = max(1, updates // sx.training.steps_per_epoch(len(part.x), 300))
    score = partial(shared.validation_f1, predict, valid)
    train = partial(
        shared.train,
        objective,
        params,
        key=jax.random.fold_in(key, 1),
        progress=progress,
        name=name,
    )
    recipes = [shared.Recipe(epochs, rate, decay, 300) for decay in WEIGHT_DECAYS]
    trials = [train(part, recipe, score=score) for recipe in recipes]
    best = max(range(len(trials)), key=lambda i: score(trials[i].params))
    threshold = metrics.tune_threshold(valid.y, predict(trials[best].params, valid.x)[0])
    final = train(data, recipes[best], stop_after=trials[best].epoch)
    predicted = metrics.decide(predict(final.params, dataset.test.x)[0], threshold)
    return 100 * metrics.example_f1(dataset.test.y, predicted), final.params


def learned_interactions(params: Any, x: Any) -> np.ndarray:
    """The SPEN's mean second derivatives d^2 E / dy_i dy_j at its own answers, (16, 16), diagonal left out."""
    module, _, predict, _ = models()["spen"]
    features, energy = sx.functions_of(module)
    x = jnp.asarray(x)
    pairs = sx.interactions(energy, params, features(params, x), predict(params, x)[0])
    return np.where(np.eye(16, dtype=bool), np.nan, np.asarray(pairs))


def draw_figure(result: dict, pairs: np.ndarray, path: Path) -> None:
    """F1 against training size, and the learned interactions."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1, 1.15))
    sizes = [int(n) for n in result["spen"]]
    for name, label in (("linear", "linear"), ("mlp", "three-layer MLP"), ("spen", "SPEN")):
        mean = [np.mean(result[name][str(n)]) for n in sizes]
        low = [min(result[name][str(n)]) for n in sizes]
        high = [max(result[name][str(n)]) for n in sizes]
        (line,) = left.plot(sizes, mean, "o-", label=label)
        left.fill_between(sizes, low, high, color=line.get_color(), alpha=0.2)
    left.set(
        xscale="log",
        xlabel="training examples",
        ylabel="test F1, %",
        title="Mean and range over draws",
    )
    left.set_xticks(sizes, [f"{n:,}" for n in sizes])
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend()
    limit = np.nanmax(np.abs(pairs))
    image = right.imshow(pairs, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for edge in (3.5, 7.5, 11.5):
        right.axhline(edge, color="k", lw=0.8)
        right.axvline(edge, color="k", lw=0.8)
    right.set(title="Learned interactions of labels (red: repel)", xlabel="label", ylabel="label")
    right.set_xticks(range(0, 16, 4))
    right.set_yticks(range(0, 16, 4))
    figure.colorbar(
        image, ax=right, label=r"$\partial^2 E / \partial y_i \partial y_j$, mean over test rows"
    )
    shared.save_figure(figure, path)


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    start = time.perf_counter()
    for name, values in (("draws", config.draws), ("sizes", config.sizes)):
        if not values or len(set(values)) < len(values):
            shared.fail(f"--{name} needs different numbers, got {list(values)}")
    folder = shared.new_folder(config.out, "exclusive")
    shared.write_json(folder / "config.json", vars(config))
    built = models()
    result: dict[str, Any] = {name: {str(n): [] for n in config.sizes} for name in built}
    checksums, spen_params, test_x = {}, None, None
    with shared.progress_bars() as progress:
        for size in config.sizes:
            for draw in config.draws:
                dataset = sx.synthetic.exclusive_blocks(draw, size, config.n_test)
                checksums[f"draw {draw}, {size} rows"] = dataset.checksums
                for name, model in built.items():
                    label = f"{name}, {size} examples, draw {draw}"
                    f1, params = evaluate(model, dataset, draw, config.updates, progress, label)
                    result[name][str(size)].append(f1)
                    file = folder / f"{name}-{size}-draw{draw}.npz"
                    sx.checkpoints.save(file, params, {"model": name, "size": size, "draw": draw})
                    if name == "spen":
                        spen_params, test_x = params, dataset.test.x[:500]
    pairs = learned_interactions(spen_params, test_x)
    same = np.arange(16)[:, None] // 4 == np.arange(16) // 4
    result |= {
        "interactions": {
            "within_blocks": float(np.nanmean(pairs[same])),
            "between_blocks": float(np.nanmean(pairs[~same])),
        },
        "data": {"name": "exclusive blocks", "checksums": checksums},
        "environment": shared.environment(),
        "seconds": time.perf_counter() - start,
    }
    shared.write_json(folder / "result.json", result)
    draw_figure(result, pairs, folder / "exclusive.png")
    report(result, config, folder)
    return result


def report(result: dict, config: Config, folder: Path) -> None:
    """Print the table."""
    table = Table("training examples", *PUBLISHED, title="Test F1, %: mean ± spread over draws")
    for n in config.sizes:
        table.add_row(
            f"{n:,}", *(shared.mean_and_spread(result[name][str(n)]) for name in PUBLISHED)
        )
    if tuple(config.sizes) == (1500, 15000):
        for i, n in enumerate(config.sizes):
            published = (f"{PUBLISHED[name][i]:.1f}" for name in PUBLISHED)
            table.add_row(f"{n:,} (published)", *published, style="dim")
    shared.console.print(table)
    pair = result["interactions"]
    shared.console.print(
        f"mean interaction of two labels: {pair['within_blocks']:+.2f} in one block, "
        f"{pair['between_blocks']:+.2f} in two (positive: they repel)\n"
        f"{result['seconds']:.0f} s; wrote {folder}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
