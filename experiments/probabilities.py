"""Energies and probabilities: what is lost and what is gained by not normalising.

Three questions, each with its figure:
 1. Energies with the same answers: the quadratic Y = X^2, scaled, and saturated. Which have a Gibbs distribution?
 2. The ravine: how deep and how steep do the negative log-likelihood, the hinge and the square-square loss dig?
 3. Two models that must compare their energies: one knows the digits 0 to 4, the other 5 to 9; the lower energy wins.
    Trained apart, their levels and scales mean nothing to each other. Does calibration mend it, or training together?

Expected (LeCun's lecture): the saturated energy answers alike and cannot be normalised; the likelihood makes a
ravine; scores are comparable only within one model, or after training the whole.

Protocol of 3: scikit-learn's digits, by seed 60 % of the rows for training, 20 % for calibration (a
scale and an offset for each model, by the likelihood of all ten classes), 20 % for testing; five seeds.
Minutes: about 1 on two cores.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import parabola
import shared
import tyro
from rich.table import Table
from sklearn.datasets import load_digits

import spen_jax as sx
from spen_jax import gibbs, losses, negatives
from spen_jax.architectures import Regressor, Saturated

HALVES = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
EXPERT = sx.logits_of(sx.FeatureNetwork(5, (32,)))
DIGITS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "nll": lambda e, y: losses.nll(correct(e, y), e),
    "hinge": lambda e, y: losses.hinge(correct(e, y), negatives.most_offending(e, y).energy),
    "square_square": lambda e, y: losses.square_square(
        correct(e, y), negatives.most_offending(e, y).energy
    ),
}


WAYS = "told which", "apart", "times 10", "calibrated", "end to end"


@dataclass(frozen=True)
class Config:
    """Same answers, the ravine, and two models that compare energies."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Splits, initial weights, data of the parabola."""

    steps: int = 3000
    """Training steps on the parabola."""

    digit_steps: int = 500
    """Training steps on digits, each on all training rows."""

    out: Path | None = None
    """Folder to write, new or empty; runs/probabilities-<date> by default."""


def correct(energies: jax.Array, y: jax.Array) -> jax.Array:
    """The energies of the correct classes, (B, K) and (B,) -> (B,)."""
    return jnp.take_along_axis(energies, y[:, None], axis=1)[:, 0]


def same_answers(path: Path) -> dict[str, Any]:
    """Energies that agree on every answer; their partition functions over wider and wider intervals of y."""
    quadratic = Regressor(lambda params, x: x**2)

    def narrow(params, x, y):
        return 100 * quadratic(params, x, y)

    energies = {
        "E = 50 (y - x²)²": narrow,
        "4 E + 1": lambda p, x, y: 4 * narrow(p, x, y) + 1,
        "1 - exp(-E)": Saturated(narrow),
    }
    x, y = jnp.linspace(-1, 1, 81)[:, None], jnp.linspace(-0.5, 1.5, 201)[:, None]
    widths = (1.0, 3.0, 10.0, 30.0, 100.0)
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2))
    answers, partition = [], {}
    for axis, (name, energy) in zip(axes, energies.items(), strict=False):
        surface = gibbs.pairwise(energy, None, x, y)
        answers.append(np.asarray(gibbs.ranking(surface)[:, 0]))
        image = axis.pcolormesh(x[:, 0], y[:, 0], jnp.minimum(surface, 20).T, cmap="magma")
        axis.set(title=name, xlabel="x", ylabel="y")
        figure.colorbar(image, ax=axis)
        partition[name] = [partition_function(energy, width) for width in widths]
        axes[-1].loglog(widths, partition[name], "o-", label=name)
    axes[-1].set(title="partition function at x = 0", xlabel="y from -w to w: w", ylabel="Z")
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    shared.save_figure(figure, path, colours=128)
    agree = all(np.array_equal(answers[0], other) for other in answers)
    return {"answers_agree": agree, "widths": widths, "partition": partition}


def partition_function(energy: Any, width: float) -> float:
    """Integral of exp(-E(0, y)) over y in [-width, width], on a grid of step 0.01."""
    y = jnp.linspace(-width, width, int(200 * width) + 1)[:, None]
    free = gibbs.softmin(gibbs.pairwise(energy, None, jnp.zeros((1, 1)), y), weights=y[1] - y[0])
    return float(jnp.exp(-free)[0])


def ravine(config: Config, path: Path) -> dict[str, Any]:
    """Cross-sections at x = 0.5 and the depth through training, of three losses on architecture B."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
    grid = np.asarray(parabola.PATTERNS["parabola"].grid)
    column = int(np.argmin(np.abs(np.asarray(parabola.X) - 0.5)))
    truth = float(parabola.X[column]) ** 2
    steps = parabola.when(np.arange(parabola.SNAPSHOTS)) * config.steps
    result: dict[str, Any] = {}
    for loss in ("nll", "hinge", "square_square"):
        rate = parabola.Config.learning_rate
        run = parabola.train(jnp.asarray(config.seeds), "B", loss, "parabola", config.steps, rate)
        cuts = np.asarray(run.surfaces)[:, :, column]  # (seeds, snapshots, Y)
        units = parabola.BETA if loss == "nll" else 1.0  # nats; units of the margin
        cuts = units * (cuts - cuts.min(-1, keepdims=True))
        depth = np.median(cuts, axis=-1)
        wall = np.abs(np.gradient(cuts[:, -1], grid, axis=-1))
        near = np.abs(grid - truth) < 0.15
        result[loss] = {
            "depth": depth[:, -1],
            "steepest_within_0.15": wall[:, near].max(-1),
            "growth_in_last_30_percent": depth[:, -1] / depth[:, -4],
        }
        name = parabola.label(loss)
        left.plot(grid, cuts[0, -1], label=name)
        middle.plot(grid, cuts[0, -1] / depth[0, -1], label=name)
        right.semilogy(steps, np.maximum(np.median(depth, axis=0), 1e-3), label=name)
    for axis in (left, middle):
        axis.axvline(truth, color="k", lw=0.6, ls=":")
        axis.set(xlabel="y, the truth dotted")
    left.set(title="E(0.5, y), nats or margins", ylim=(0, None), yscale="symlog")
    middle.set(title="the same over its median", ylim=(0, 3))
    right.set(title="median energy above the lowest", xlabel="training steps")
    left.legend()
    figure.tight_layout()
    shared.save_figure(figure, path, colours=128)
    return result


def halves(x: jax.Array, params: Any) -> jax.Array:
    """The energies of all ten classes by the two experts, (B, 64) -> (B, 10)."""
    return jnp.concatenate([EXPERT(p, x) for p in params], axis=-1)


def fit(objective: Callable[[Any], jax.Array], params: Any, steps: int, rate: float) -> Any:
    """Adam on all rows."""
    optimizer = optax.adam(rate)

    def step(carry, _):
        params, state = carry
        change, state = optimizer.update(jax.grad(objective)(params), state)
        return (optax.apply_updates(params, change), state), None

    first = params, optimizer.init(params)
    return jax.lax.scan(step, first, length=steps)[0][0]


@partial(jax.jit, static_argnames=("loss", "steps"))
def compare(train: Any, calibrate: Any, test: Any, key: jax.Array, loss: str, steps: int) -> Any:
    """Test accuracies, in percent, of the WAYS to make two experts one model of ten classes."""
    of = DIGITS[loss]

    def inside(y, half):
        return jnp.isin(y, jnp.asarray(HALVES[half]))

    def apart(params, x, y):
        """Each expert's loss on the rows of its own classes."""
        total = 0.0
        for half in (0, 1):
            each = of(EXPERT(params[half], x), jnp.where(inside(y, half), y - 5 * half, 0))
            total += jnp.mean(each, where=inside(y, half))
        return total

    def accuracy(energies):
        return 100 * jnp.mean(jnp.argmin(energies, axis=-1) == test[1])

    def calibrated(numbers, energies):
        scale, offset = (jnp.repeat(n, 5)[None] for n in (jnp.exp(numbers[0]), numbers[1]))
        return scale * energies + offset

    network = sx.FeatureNetwork(5, (32,))
    first = [network.init(k, jnp.ones(64))["params"] for k in jax.random.split(key)]
    separate = fit(lambda p: apart(p, *train), first, steps, 1e-2)
    together = fit(lambda p: of(halves(train[0], p), train[1]).mean(), first, steps, 1e-2)
    energies = halves(calibrate[0], separate)
    numbers = fit(
        lambda n: DIGITS["nll"](calibrated(n, energies), calibrate[1]).mean(),
        (jnp.zeros(2), jnp.zeros(2)),
        2000,
        1e-2,
    )
    found = halves(test[0], separate)
    own = jnp.stack([inside(test[1], half) for half in (0, 1)], axis=-1)
    told = jnp.where(jnp.repeat(own, 5, axis=-1), found, jnp.inf)
    scaled = found * jnp.where(jnp.arange(10) < 5, 10, 1)[None]
    end_to_end = halves(test[0], together)
    return [accuracy(e) for e in (told, found, scaled, calibrated(numbers, found), end_to_end)]


def two_experts(config: Config) -> dict[str, dict[str, list[float]]]:
    """loss -> way -> test accuracies over seeds."""
    data: Any = load_digits()
    x, y = data.data.astype(np.float32) / 16, data.target.astype(np.int32)
    result: dict[str, dict[str, list[float]]] = {loss: {way: [] for way in WAYS} for loss in DIGITS}
    for seed in config.seeds:
        rest, test = sx.data.split(len(x), 0.2, seed)
        part, calibrate = (rest[i] for i in sx.data.split(len(rest), 0.25, seed))
        rows = ((x[i], y[i]) for i in (part, calibrate, test))
        splits = [jax.tree.map(jnp.asarray, r) for r in rows]
        for loss, ways in result.items():
            got = compare(*splits, jax.random.key(seed), loss=loss, steps=config.digit_steps)
            for way, value in zip(WAYS, got, strict=True):
                ways[way].append(float(value))
    return result


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    start = time.perf_counter()
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        shared.fail(f"--seeds needs different numbers, got {list(config.seeds)}")
    folder = shared.new_folder(config.out, "probabilities")
    shared.write_json(folder / "config.json", vars(config))
    result = {
        "same_answers": same_answers(folder / "same_answers.png"),
        "ravine": ravine(config, folder / "ravine.png"),
        "two_experts": two_experts(config),
        "data": {"name": "scikit-learn digits; y = x^2 drawn by seed"},
        "environment": shared.environment(),
    }
    result["seconds"] = time.perf_counter() - start
    shared.write_json(folder / "result.json", result)
    report(result, folder)
    return result


def report(result: dict, folder: Path) -> None:
    """Print what the three parts found."""
    same = result["same_answers"]
    table = Table(
        "energy",
        *(f"|y|<{w:g}" for w in same["widths"]),
        title="1. Partition functions of the same answers",
    )
    for name, values in same["partition"].items():
        table.add_row(name, *(f"{v:.3g}" for v in values))
    shared.console.print(table)
    table = Table("loss", "depth", "steepest", "growth", title="2. The ravine at x = 0.5, means")
    for loss, values in result["ravine"].items():
        table.add_row(parabola.label(loss), *(f"{np.mean(v):.3g}" for v in values.values()))
    shared.console.print(table)
    table = Table("loss", *WAYS, title="3. Two experts on ten digits: test accuracy, %")
    for loss, values in result["two_experts"].items():
        table.add_row(parabola.label(loss), *(shared.mean_and_spread(v) for v in values.values()))
    shared.console.print(table)
    shared.console.print(f"{result['seconds']:.0f} s; wrote {folder}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
