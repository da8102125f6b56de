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
from sklearn.datasets import load_digits

import spen_jax as sx
from experiments import shared
from experiments.lecture import parabola, runs
from spen_jax import exact, losses, training
from spen_jax.energies import Saturated

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "NLL": lambda correct, wrong, everything: losses.nll(correct, everything),
    "hinge": lambda correct, wrong, everything: losses.hinge(correct, wrong),
    "square-square": lambda correct, wrong, everything: losses.square_square(correct, wrong),
}
NETWORK = sx.FeatureNetwork(5, (32,))
EXPERT = sx.logits_of(NETWORK)
ADAM = optax.adam(1e-2)


@dataclass(frozen=True)
class Config:
    """Same answers, the ravine, and two models that compare energies."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # Splits, initial weights, data of the parabola.
    steps: int = 3000  # Training steps on the parabola.
    digit_steps: int = 500  # Training steps on digits, each on all training rows.
    out: Path | None = None  # Folder to write, new or empty; runs/probabilities-<date> by default.


def same_answers(path: Path) -> tuple[dict[str, dict[str, float]], bool]:
    """Energies that agree on every answer; their partition functions over wider and wider intervals of y."""
    widths = np.array([1.0, 3.0, 10.0, 30.0, 100.0])

    def quadratic(params, x, y):
        return 50 * jnp.sum((y - x**2) ** 2)

    energies = {
        "E = 50 (y - x²)²": quadratic,
        "4 E + 1": lambda p, x, y: 4 * quadratic(p, x, y) + 1,
        "1 - exp(-E)": Saturated(quadratic),
    }
    x, y = jnp.linspace(-1, 1, 81)[:, None], jnp.linspace(-0.5, 1.5, 201)[:, None]
    # Each Z is a sum over a grid of step 0.01, the points outside its interval of weight 0.
    wide = np.linspace(-100, 100, 20001, dtype=np.float32)
    cells = jnp.asarray(0.01 * (np.abs(wide)[None] < widths[:, None] + 0.005))
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2), layout="tight")
    answers, partition = [], {}
    for axis, (name, energy) in zip(axes, energies.items(), strict=False):
        surface = exact.pairwise(energy, None, x, y)
        answers.append(np.argmin(surface, axis=1))
        image = axis.pcolormesh(x[:, 0], y[:, 0], jnp.minimum(surface, 20).T, cmap="magma")
        axis.set(title=name, xlabel="x", ylabel="y")
        figure.colorbar(image, ax=axis)
        at_0 = exact.pairwise(energy, None, jnp.zeros((len(widths), 1)), wide[:, None])
        z = np.exp(-exact.softmin(at_0, weights=cells))
        partition[name] = {f"|y|<{w:g}": value for w, value in zip(widths, z, strict=True)}
        axes[-1].loglog(widths, z, "o-", label=name)
    axes[-1].set(title="partition function at x = 0", xlabel="y from -w to w: w", ylabel="Z")
    axes[-1].legend(fontsize=7)
    shared.save_figure(figure, path)
    return partition, all(np.array_equal(answers[0], other) for other in answers)


def ravine(config: Config, path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Cross-sections at x = 0.5 and the depth through training, of three losses on architecture B."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6), layout="tight")
    grid, x = np.asarray(parabola.PATTERNS["parabola"].grid), np.asarray(parabola.X[:, 0])
    column = np.argmin(np.abs(x - 0.5))
    near = np.abs(grid - x[column] ** 2) < 0.15
    steps = parabola.WHEN * config.steps
    result = {}
    for loss in LOSSES:
        run = parabola.train(jnp.asarray(config.seeds), "parabola", "B", loss, config.steps)
        cuts = np.asarray(run[0])[:, :, column]  # (seeds, snapshots, Y)
        units = parabola.BETA if loss == "NLL" else 1.0  # nats; units of the margin
        cuts = units * (cuts - cuts.min(-1, keepdims=True))
        depth = np.median(cuts, axis=-1)
        result[loss] = {
            "depth": depth[:, -1],
            "steepest_within_0.15": np.abs(np.gradient(cuts[:, -1], grid, axis=-1))[:, near].max(
                -1
            ),
            "growth_in_last_30_percent": depth[:, -1] / depth[:, -4],
        }
        left.plot(grid, cuts[0, -1], label=loss)
        middle.plot(grid, cuts[0, -1] / depth[0, -1])
        right.semilogy(steps, np.maximum(np.median(depth, axis=0), 1e-3))
    for axis in (left, middle):
        axis.axvline(x[column] ** 2, color="k", lw=0.6, ls=":")
        axis.set(xlabel="y, the truth dotted")
    left.set(title="E(0.5, y), nats or margins", ylim=(0, None), yscale="symlog")
    middle.set(title="the same over its median", ylim=(0, 3))
    right.set(title="median energy above the lowest", xlabel="training steps")
    left.legend()
    shared.save_figure(figure, path)
    return result


def energies_of(params: Any, x: jax.Array) -> jax.Array:
    """The energies of all ten classes by the two experts, (B, 64) -> (B, 10)."""
    return jnp.concatenate([EXPERT(p, x) for p in params], axis=-1)


def losses_of(loss: str, energies: jax.Array, y: jax.Array) -> jax.Array:
    """Of the correct classes (B,) among (B, 10)."""
    correct = jnp.take_along_axis(energies, y[:, None], axis=1)[:, 0]
    return LOSSES[loss](correct, losses.most_offending(energies, y).energy, energies)


def fit(objective: Callable[[Any], jax.Array], params: Any, steps: int) -> Any:
    """Adam on all rows."""
    state = training.init(params, ADAM, jax.random.key(0))
    given = jnp.arange(steps)
    return training.scan(lambda p, *_: (objective(p), {}), ADAM, state, given)[0].params


@partial(jax.jit, static_argnames=("loss", "steps"))
def compare(train: Any, held_out: Any, test: Any, key: jax.Array, loss: str, steps: int) -> dict:
    """Way to make two experts one model of ten classes -> test accuracy, in percent."""
    x, y = train

    def own(energies, y):
        """Those of the expert that knows y, and infinity in place of the other's."""
        return jnp.where(jnp.arange(10)[None] // 5 == y[:, None] // 5, energies, jnp.inf)

    def apart(params):
        """Each expert's loss on the rows of its own classes."""
        values = losses_of(loss, own(energies_of(params, x), y), y)
        return jnp.mean(values, where=y < 5) + jnp.mean(values, where=y >= 5)

    def calibrated(numbers, energies):
        scale, offset = (jnp.repeat(n, 5)[None] for n in (jnp.exp(numbers[0]), numbers[1]))
        return scale * energies + offset

    first = [NETWORK.init(k, jnp.ones(64))["params"] for k in jax.random.split(key)]
    separate = fit(apart, first, steps)
    joint = fit(lambda p: jnp.mean(losses_of(loss, energies_of(p, x), y)), first, steps)
    seen, found = (energies_of(separate, rows) for rows, _ in (held_out, test))
    numbers = fit(
        lambda n: jnp.mean(losses_of("NLL", calibrated(n, seen), held_out[1])),
        jnp.zeros((2, 2)),
        2000,
    )
    energies = {
        "told which": own(found, test[1]),
        "apart": found,
        "times 10": found * jnp.where(jnp.arange(10) < 5, 10, 1)[None],
        "calibrated": calibrated(numbers, found),
        "end to end": energies_of(joint, test[0]),
    }
    return {way: 100 * jnp.mean(jnp.argmin(e, axis=-1) == test[1]) for way, e in energies.items()}


def two_experts(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """loss -> way -> test accuracies over seeds."""
    data: Any = load_digits()
    x, y = jnp.asarray(data.data, jnp.float32) / 16, jnp.asarray(data.target, jnp.int32)

    def of_seed(loss, seed):
        rest, test = sx.data.split(len(x), 0.2, seed)
        parts = *(rest[i] for i in sx.data.split(len(rest), 0.25, seed)), test
        splits = ((x[rows], y[rows]) for rows in parts)
        return compare(*splits, jax.random.key(seed), loss=loss, steps=config.digit_steps)

    found = {loss: [of_seed(loss, seed) for seed in config.seeds] for loss in LOSSES}
    return {
        loss: jax.tree.map(lambda *a: np.stack(a), *of_seeds) for loss, of_seeds in found.items()
    }


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "probabilities", steps=parabola.SNAPSHOTS)
    partition, agree = same_answers(run.folder / "same_answers.png")
    dug = ravine(config, run.folder / "ravine.png")
    parts = {"partition": partition, "ravine": dug, "two_experts": two_experts(config)}
    tables = (runs.summary(name.replace("_", " "), rows) for name, rows in parts.items())
    return run.finish({"answers_agree": agree, **parts}, *tables)


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)
