"""Which losses collapse? Y = X^2, and an eye with two Y for an X, learned by nine losses on two architectures.

The question: architecture A, 1/2 ||G(x) - y||^2, has a fixed shape in y; architecture B, 1/2 ||G1(x) - G2(y)||^2, can
become flat. Which losses dig the data's valley into both, and which make all energies equal?

Expected (LeCun's lecture, demos 1 to 5): the energy loss works on A and collapses on B; square-square and the negative
log-likelihood do not collapse.

Protocol: 200 points, networks 1-20-1 (A) and 1-20-10 (B) with tanh, Adam, batches of 32, five seeds. The
most offending wrong answer is searched on a grid of y outside the forbidden sphere around the truth, of radius 0.2, in
the second half of training 0.1. A run has *collapsed* where the mean energy elsewhere (farther than 0.1 from every
correct y) is not above that on the data by more than 5 % of the range of the untrained surface, or where the y of
lowest energy is no nearer to a correct one than the mean of all y.
Minutes: about 2 on two cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs
from spen_jax import exact, losses, training
from spen_jax.energies import ImplicitRegressor, Regressor

RADII, BETA, SNAPSHOTS = (0.2, 0.1), 100.0, 20
# The share of training before each; they are denser early on, when most of it happens.
WHEN = (np.arange(SNAPSHOTS) / (SNAPSHOTS - 1)) ** 2
X = jnp.linspace(-1, 1, 81)[:, None]


class Pattern(NamedTuple):
    """A curve in the plane: the correct answers of x, (..., 1) -> (..., answers), and the grid of y searched."""

    answers: Callable[[jax.Array], jax.Array]
    grid: jax.Array

    def distances(self, x: jax.Array) -> jax.Array:
        """|y - correct y| of the grid's y and each correct one, (X, 1) -> (X, K, answers)."""
        return jnp.abs(self.grid[None, :, None] - self.answers(x)[:, None])


PATTERNS = {
    "parabola": Pattern(lambda x: x**2, jnp.linspace(-0.5, 1.5, 81)),
    "eye": Pattern(
        lambda x: jnp.concatenate([1 - x**2, x**2 - 1], -1) * 0.8, jnp.linspace(-1.2, 1.2, 97)
    ),
}
ARCHITECTURES = {"A": "½‖G(x) − y‖²", "B": "½‖G₁(x) − G₂(y)‖²"}
# Of energies: of the truth c (B,), of the most offending answer w (B,) with margin m, of the grid e (B, K) of cells d.
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "energy": lambda c, w, m, e, d: losses.energy_loss(c),
    "perceptron": lambda c, w, m, e, d: losses.perceptron(c, e),
    "hinge": lambda c, w, m, e, d: losses.hinge(c, w, m),
    "log": lambda c, w, m, e, d: losses.log_loss(c, w),
    "MCE": lambda c, w, m, e, d: losses.mce(c, w),
    "square-square": lambda c, w, m, e, d: losses.square_square(c, w, m),
    "square-exponential": lambda c, w, m, e, d: losses.square_exponential(c, w),
    "NLL": lambda c, w, m, e, d: losses.nll(c, e, BETA, weights=d),
    "InfoNCE": lambda c, w, m, e, d: losses.info_nce(c, e[:, ::4], BETA),
}


@dataclass(frozen=True)
class Config:
    """Nine losses on two architectures and two patterns."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # Initial weights, data and order of the examples.
    steps: int = 3000  # Training steps.
    out: Path | None = None  # Folder to write, new or empty; runs/parabola-<date> by default.


@partial(jax.jit, static_argnames=("pattern", "architecture", "loss", "steps"))
def train(
    seeds: jax.Array, pattern: str, architecture: str, loss: str, steps: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """All seeds at once: surfaces (S, snapshots, X, Y), and what `measure` finds of the last."""
    network = sx.FeatureNetwork(1 if architecture == "A" else 10, (20,), activation=jnp.tanh)
    g = sx.logits_of(network)
    energy = Regressor(g) if architecture == "A" else ImplicitRegressor(g, g)
    curve, optimizer = PATTERNS[pattern], optax.adam(1e-2)
    cell = curve.grid[1] - curve.grid[0]
    at = np.round(steps * WHEN).astype(int)

    def objective(params, batch, _):
        x, y, radius = batch
        everything = exact.pairwise(energy, params, x, curve.grid[:, None])
        correct = jax.vmap(energy, (None, 0, 0))(params, x, y)
        # An answer near any correct one is not wrong.
        allowed = jnp.all(curve.distances(x) >= radius, axis=-1)
        wrong = losses.most_offending(everything, allowed=allowed).energy
        # A has this energy at the forbidden sphere where it is right; B scales itself.
        margin = radius**2 / 2 if architecture == "A" else 1.0
        return jnp.mean(LOSSES[loss](correct, wrong, margin, everything, cell)), {}

    def of_seed(seed):
        data_key, init_key, order_key = jax.random.split(jax.random.key(seed), 3)
        x = jax.random.uniform(data_key, (200, 1), minval=-1, maxval=1)
        correct = curve.answers(x)
        which = jax.random.fold_in(data_key, 1)
        which = jax.random.randint(which, (200, 1), 0, correct.shape[1])
        y = jnp.take_along_axis(correct, which, axis=1)
        step_keys = jax.vmap(jax.random.fold_in, (None, 0))(order_key, jnp.arange(steps))
        rows = jax.vmap(lambda key: jax.random.randint(key, (32,), 0, 200))(step_keys)
        radius = jnp.where(jnp.arange(steps) < steps // 2, *RADII)
        one, other = (network.init(k, X[0])["params"] for k in jax.random.split(init_key))
        params = one if architecture == "A" else {"x": one, "y": other}
        state = training.init(params, optimizer, order_key)
        state, _, snapshots = training.scan(
            objective, optimizer, state, (x[rows], y[rows], radius), at=tuple(at.tolist())
        )
        surfaces = jax.vmap(lambda p: exact.pairwise(energy, p, X, curve.grid[:, None]))(snapshots)
        of_x = jax.vmap(energy, (None, None, 0))
        on_data = jax.vmap(of_x, (None, 0, 0))(state.params, X, curve.answers(X)[..., None])
        return surfaces, measure(surfaces, on_data, curve)

    return jax.vmap(of_seed)(seeds)


def measure(surfaces: jax.Array, on_data: jax.Array, curve: Pattern) -> dict[str, jax.Array]:
    """The figures of one training, `on_data` the final energies of the correct answers.

    "gap": the energy elsewhere less that on the data, over the range of the untrained surface; "found": the share of
    correct answers with a minimum near; "flattest": the least range of a surface during training over that of the
    untrained one, at the share "flattest_at" of the training; "after_a_tenth": that ratio after a tenth of it.
    """
    correct, from_each, last = curve.answers(X), curve.distances(X), surfaces[-1]
    elsewhere = jnp.mean(last, where=jnp.min(from_each, axis=-1) > RADII[1])
    ranges = jnp.max(surfaces, axis=(1, 2)) - jnp.min(surfaces, axis=(1, 2))
    gap = (elsewhere - jnp.mean(on_data)) / ranges[0]
    near = (from_each < RADII[1]) & exact.local_minima(last)[..., None]
    best = curve.grid[jnp.argmin(last, axis=1)][:, None]
    squared = (jnp.min((y - correct) ** 2, axis=-1) for y in (best, jnp.mean(correct)))
    error, of_mean = (jnp.sqrt(jnp.mean(s)) for s in squared)
    return {
        "gap": gap,
        "found": jnp.mean(jnp.any(near, axis=1)),
        "collapsed": (gap <= 0.05) | (error >= of_mean),
        "error": error,
        "error_of_the_mean": of_mean,
        "flattest": jnp.min(ranges) / ranges[0],
        "flattest_at": jnp.asarray(WHEN)[jnp.argmin(ranges)],
        "after_a_tenth": ranges[len(ranges) // 3] / ranges[0],  # (6 / 19)^2 of the training
    }


def draw_surface(axis: Any, surfaces: np.ndarray, index: int, curve: Pattern) -> None:
    """One of the surfaces from its lowest energy, black, to the highest of the untrained one or above."""
    x, grid, z = X[:, 0], curve.grid, surfaces[index]
    top = z.min() + max(np.ptp(surfaces[0]), np.quantile(z, 0.9) - z.min())
    axis.contourf(x, grid, np.minimum(z, top).T, levels=np.linspace(z.min(), top, 24), cmap="magma")
    axis.plot(x, curve.answers(X), "c:", lw=1.2)
    axis.set(xticks=[-1, 0, 1], xlim=(-1, 1), ylim=(grid[0], grid[-1]))
    axis.tick_params(labelsize=7)


def draw_stages(of_loss: dict[str, tuple], curve: Pattern, title: str, path: Path) -> None:
    """One column for each loss, one row for each stage of training, of the first seed."""
    figure, axes = plt.subplots(3, len(of_loss), figsize=(14, 5.75))
    stages = {"untrained": 0, f"after {WHEN[SNAPSHOTS // 3]:.0%}": SNAPSHOTS // 3, "trained": -1}
    for row, (stage, index) in zip(axes, stages.items(), strict=True):
        for axis, (surfaces, _) in zip(row, of_loss.values(), strict=True):
            draw_surface(axis, surfaces[0], index, curve)
        row[0].set_ylabel(f"{stage}\ny")
    for column, (name, (_, measured)) in zip(axes.T, of_loss.items(), strict=True):
        share = np.mean(measured["collapsed"])
        verdict = {0: "", 1: "collapsed"}.get(share, f"{share:.0%} collapsed")
        column[0].set_title(f"{name}\n{verdict}", fontsize=9)
        column[-1].set_xlabel("x")
    figure.suptitle(title)
    figure.tight_layout()
    shared.save_figure(figure, path)


def draw_animation(of_loss: dict[str, tuple], curve: Pattern, path: Path) -> None:
    """The surfaces through training, a GIF."""
    frames = []
    for index in range(SNAPSHOTS):
        figure, axes = plt.subplots(2, 5, figsize=(8.2, 3.9), dpi=75)
        for axis, (name, (surfaces, _)) in zip(axes.flat, of_loss.items(), strict=False):
            draw_surface(axis, surfaces[0], index, curve)
            axis.set_title(name, fontsize=9)
        axes[1, 4].axis("off")
        axes[1, 4].text(0.5, 0.5, f"{WHEN[index]:.0%}\nof training", ha="center", va="center")
        figure.tight_layout()
        figure.canvas.draw()
        image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])  # pyright: ignore
        frames.append(image.quantize(64))
        plt.close(figure)
    times = [250] * (SNAPSHOTS - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "parabola", steps=SNAPSHOTS)
    cases = list(product(PATTERNS, ARCHITECTURES, LOSSES))
    seeds, result, tables = jnp.asarray(config.seeds), {}, []
    found = {c: jax.device_get(train(seeds, *c, config.steps)) for c in runs.tracked(cases)}
    for (pattern, curve), (a, formula) in product(PATTERNS.items(), ARCHITECTURES.items()):
        of_loss = {loss: found[pattern, a, loss] for loss in LOSSES}
        title, name = f"Energy {formula} (dark: low; dotted: the data)", f"{pattern}-{a}"
        draw_stages(of_loss, curve, title, run.folder / f"{name}.png")
        if name == "parabola-B":
            draw_animation(of_loss, curve, run.folder / f"{name}.gif")
        result[name] = {loss: measured for loss, (_, measured) in of_loss.items()}
        shown = "gap", "found", "collapsed", "flattest"
        tables.append(runs.summary(f"{name}, mean ± spread over seeds", result[name], shown))
    return run.finish(result, *tables)


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)
