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

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import shared
import tyro
from PIL import Image
from rich.table import Table

import spen_jax as sx
from spen_jax import gibbs, losses, negatives
from spen_jax.architectures import ImplicitRegressor, Regressor
from spen_jax.checkpoints import replacing

RADII = (0.2, 0.1)
BETA = 100.0
SNAPSHOTS = 20


class Pattern(NamedTuple):
    """A curve in the plane: the correct answers of x, (..., 1) -> (..., answers), and the grid of y searched."""

    answers: Callable[[jax.Array], jax.Array]
    grid: jax.Array


class Seen(NamedTuple):
    """What a loss may see of a batch: energies of the truth (B,), of the grid (B, K), of the offender (B,)."""

    correct: jax.Array
    everything: jax.Array
    wrong: jax.Array
    margin: jax.Array | float
    cell: jax.Array


PATTERNS = {
    "parabola": Pattern(lambda x: x**2, jnp.linspace(-0.5, 1.5, 81)),
    "eye": Pattern(
        lambda x: jnp.concatenate([1 - x**2, x**2 - 1], -1) * 0.8, jnp.linspace(-1.2, 1.2, 97)
    ),
}

LOSSES: dict[str, Callable[[Seen], jax.Array]] = {
    "energy": lambda e: losses.energy_loss(e.correct),
    "perceptron": lambda e: losses.perceptron(e.correct, e.everything),
    "hinge": lambda e: losses.hinge(e.correct, e.wrong, e.margin),
    "log": lambda e: losses.log_loss(e.correct, e.wrong),
    "mce": lambda e: losses.mce(e.correct, e.wrong),
    "square_square": lambda e: losses.square_square(e.correct, e.wrong, e.margin),
    "square_exponential": lambda e: losses.square_exponential(e.correct, e.wrong),
    "nll": lambda e: losses.nll(e.correct, e.everything, BETA, weights=e.cell),
    "info_nce": lambda e: losses.info_nce(e.correct, e.everything[:, ::4], 1 / BETA),
}
ARCHITECTURES = "A", "B"


@dataclass(frozen=True)
class Config:
    """Nine losses on two architectures and two patterns."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Initial weights, data and order of the examples."""

    steps: int = 3000
    """Training steps."""

    learning_rate: float = 1e-2
    """Adam's."""

    out: Path | None = None
    """Folder to write, new or empty; runs/parabola-<date> by default."""


class Run(NamedTuple):
    """One training, with a leading axis of seeds: surfaces (snapshots, X, Y), what was measured at the end."""

    surfaces: jax.Array
    gap: jax.Array
    range: jax.Array
    error: jax.Array
    error_of_mean: jax.Array
    answers_found: jax.Array

    @property
    def collapsed(self) -> jax.Array:
        """By the module's two criteria."""
        return (self.gap <= 0.05 * self.range) | (self.error >= self.error_of_mean)


X = jnp.linspace(-1, 1, 81)


def when(snapshot: Any) -> Any:
    """The share of training before a snapshot; they are denser early on, when most of it happens."""
    return (snapshot / (SNAPSHOTS - 1)) ** 2


def networks(architecture: str) -> tuple[Any, Callable[[jax.Array], Any]]:
    """The energy and its random parameters."""
    network = sx.FeatureNetwork(1 if architecture == "A" else 10, (20,), activation=jnp.tanh)
    g = sx.logits_of(network)

    def init(key):
        one, other = (network.init(k, jnp.ones(1))["params"] for k in jax.random.split(key))
        return one if architecture == "A" else {"x": one, "y": other}

    return (Regressor(g) if architecture == "A" else ImplicitRegressor(g, g)), init


@partial(jax.jit, static_argnames=("architecture", "loss", "pattern", "steps", "learning_rate"))
def train(
    seeds: jax.Array,
    architecture: str,
    loss: str,
    pattern: str,
    steps: int,
    learning_rate: float,
) -> Run:
    """All seeds at once."""
    energy, init = networks(architecture)
    answers, grid = PATTERNS[pattern]
    cell = grid[1] - grid[0]
    optimizer = optax.adam(learning_rate)

    def objective(params, x, y, radius):
        everything = gibbs.pairwise(energy, params, x, grid[:, None])
        correct = jax.vmap(energy, (None, 0, 0))(params, x, y)
        # An answer near any correct one is not wrong.
        allowed = jnp.all(distances(grid, answers(x)) >= radius, axis=-1)
        wrong = negatives.most_offending(everything, allowed=allowed).energy
        # A has this energy at the forbidden sphere where it is right; B scales itself.
        margin = radius**2 / 2 if architecture == "A" else 1.0
        return jnp.mean(LOSSES[loss](Seen(correct, everything, wrong, margin, cell)))

    def one(seed):
        data_key, init_key, order_key = jax.random.split(jax.random.key(seed), 3)
        x = jax.random.uniform(data_key, (200, 1), minval=-1, maxval=1)
        which = jax.random.randint(
            jax.random.fold_in(data_key, 1), (200, 1), 0, answers(x).shape[1]
        )
        y = jnp.take_along_axis(answers(x), which, axis=1)

        def step(carry, t):
            params, state = carry
            i = jax.random.randint(jax.random.fold_in(order_key, t), (32,), 0, 200)
            radius = jnp.where(t < steps // 2, *RADII)
            gradient = jax.grad(objective)(params, x[i], y[i], radius)
            change, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, change), state

        def snapshot(carry, ends):
            begin, end = ends
            carry = jax.lax.fori_loop(begin, end, lambda t, c: step(c, t), carry)
            return carry, surface(carry[0])

        def surface(params):
            return gibbs.pairwise(energy, params, X[:, None], grid[:, None])

        params = init(init_key)
        times = jnp.round(steps * when(jnp.arange(SNAPSHOTS))).astype(int)
        first = params, optimizer.init(params)
        (params, _), later = jax.lax.scan(snapshot, first, (times[:-1], times[1:]))
        on_data = jax.vmap(lambda x, ys: jax.vmap(energy, (None, None, 0))(params, x, ys[:, None]))(
            X[:, None], answers(X[:, None])
        )
        untrained = surface(params=init(init_key))
        return measure(jnp.concatenate([untrained[None], later]), on_data, answers, grid)

    return jax.vmap(one)(seeds)


def distances(grid: jax.Array, correct: jax.Array) -> jax.Array:
    """|y - correct y|, grid (K,) and answers (X, A) -> (X, K, A)."""
    return jnp.abs(grid[None, :, None] - correct[:, None])


def measure(surfaces: jax.Array, on_data: jax.Array, answers: Any, grid: jax.Array) -> Run:
    """The figures of one training, `on_data` the final energies of the correct answers."""
    correct = answers(X[:, None])
    from_each = distances(grid, correct)
    distance = jnp.min(from_each, axis=-1)
    elsewhere = jnp.mean(surfaces[-1], where=distance > RADII[1])
    found = grid[jnp.argmin(surfaces[-1], axis=1)]

    def error(y):
        return jnp.sqrt(jnp.mean(jnp.min((y[:, None] - correct) ** 2, axis=-1)))

    mean = jnp.full_like(found, jnp.mean(correct))
    spread = jnp.max(surfaces[0]) - jnp.min(surfaces[0])
    minima = gibbs.local_minima(surfaces[-1])[..., None]
    share = jnp.mean(jnp.any((from_each < RADII[1]) & minima, axis=1))
    gap = elsewhere - jnp.mean(on_data)
    return Run(surfaces, gap, spread, error(found), error(mean), share)


def draw_surfaces(runs: dict[str, Run], pattern: str, title: str, stages: Any, path: Path) -> None:
    """One column for each loss, one row for each stage, of the first seed."""
    figure, axes = plt.subplots(len(stages), len(runs), figsize=(14, 1.25 + 1.5 * len(stages)))
    for column, (name, run) in zip(axes.T, runs.items(), strict=True):
        for axis, (stage, index) in zip(column, stages.items(), strict=True):
            draw_surface(axis, run, index, pattern)
            axis.set_ylabel(f"{stage}\ny" if axis in axes[:, 0] else "")
        column[0].set_title(label(name) + verdict(run), fontsize=9)
        column[-1].set_xlabel("x")
    figure.suptitle(title)
    figure.tight_layout()
    shared.save_figure(figure, path, colours=128)


def draw_surface(axis: Any, run: Run, index: int, pattern: str) -> None:
    """One surface from its lowest energy, black, to the highest of the untrained surface or above."""
    answers, grid = PATTERNS[pattern]
    z = np.asarray(run.surfaces[0, index])
    top = z.min() + max(float(run.range[0]), np.quantile(z, 0.9) - z.min())
    axis.contourf(X, grid, np.minimum(z, top).T, levels=np.linspace(z.min(), top, 24), cmap="magma")
    axis.plot(X, np.asarray(answers(X[:, None])), "c:", lw=1.2)
    axis.set(xticks=[-1, 0, 1], xlim=(-1, 1), ylim=(grid[0], grid[-1]))
    axis.tick_params(labelsize=7)


def label(name: str) -> str:
    """The loss in a figure or table."""
    return {"nll": "NLL", "info_nce": "InfoNCE", "mce": "MCE"}.get(name, name.replace("_", "-"))


def verdict(run: Run) -> str:
    """A second line of a title."""
    share = float(np.mean(run.collapsed))
    return "\ncollapsed" if share == 1 else "\n" if share == 0 else f"\n{share:.0%} collapsed"


def draw_animation(runs: dict[str, Run], pattern: str, path: Path) -> None:
    """The surfaces of B through training, a GIF."""
    frames = []
    for index in range(SNAPSHOTS):
        figure, axes = plt.subplots(2, 5, figsize=(8.2, 3.9), dpi=75)
        for axis, (name, run) in zip(axes.flat, runs.items(), strict=False):
            draw_surface(axis, run, index, pattern)
            axis.set_title(label(name), fontsize=9)
        axes.flat[-1].axis("off")
        axes.flat[-1].text(0.5, 0.5, f"{when(index):.0%}\nof training", ha="center", va="center")
        figure.tight_layout()
        figure.canvas.draw()
        image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])  # pyright: ignore
        frames.append(image.quantize(64))
        plt.close(figure)
    first, *others = frames
    durations = [250] * (SNAPSHOTS - 1) + [2000]
    with replacing(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    start = time.perf_counter()
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        shared.fail(f"--seeds needs different numbers, got {list(config.seeds)}")
    if config.steps < SNAPSHOTS:
        shared.fail(f"--steps must be at least {SNAPSHOTS}, got {config.steps}")
    folder = shared.new_folder(config.out, "parabola")
    shared.write_json(folder / "config.json", vars(config))
    seeds = jnp.asarray(config.seeds)
    runs: dict[str, dict[str, dict[str, Run]]] = {
        p: {a: {} for a in ARCHITECTURES} for p in PATTERNS
    }
    with shared.progress_bars() as progress:
        bar = progress.add_task("", total=len(PATTERNS) * len(ARCHITECTURES) * len(LOSSES), note="")
        for pattern, architectures in runs.items():
            for architecture, of_loss in architectures.items():
                for loss in LOSSES:
                    progress.update(bar, description=f"{pattern}, {architecture}, {label(loss)}")
                    run = train(
                        seeds, architecture, loss, pattern, config.steps, config.learning_rate
                    )
                    of_loss[loss] = jax.tree.map(np.asarray, jax.block_until_ready(run))
                    progress.advance(bar)
    result = {pattern: summary(of_pattern) for pattern, of_pattern in runs.items()}
    result |= {
        "collapsed": result["parabola"]["collapsed"],
        "seeds": list(config.seeds),
        "data": {"name": "y = x^2 and y = ±0.8 (1 - x^2), drawn by seed"},
        "environment": shared.environment(),
        "seconds": time.perf_counter() - start,
    }
    shared.write_json(folder / "result.json", result)
    during = SNAPSHOTS // 3
    passed = f"after {when(during):.0%}"
    stages = {"untrained": 0, passed: during, "trained": SNAPSHOTS - 1}
    for pattern, of_pattern in runs.items():
        for architecture, of_loss in of_pattern.items():
            formula = {"A": "½‖G(x) − y‖²", "B": "½‖G₁(x) − G₂(y)‖²"}[architecture]
            title = f"Energy {formula} (dark: low; dotted: the data)"
            draw_surfaces(of_loss, pattern, title, stages, folder / f"{pattern}-{architecture}.png")
    draw_animation(runs["parabola"]["B"], "parabola", folder / "parabola-B.gif")
    report(result, folder)
    return result


def summary(of_pattern: dict[str, dict[str, Run]]) -> dict[str, Any]:
    """measure -> loss -> architecture -> the share of collapsed seeds, or a list over seeds."""

    def table(value):
        return {loss: {a: value(of_pattern[a][loss]) for a in of_pattern} for loss in LOSSES}

    return {
        "collapsed": table(lambda run: float(np.mean(run.collapsed))),
        "gap_over_untrained_range": table(lambda run: run.gap / run.range),
        "error": table(lambda run: run.error),
        "error_of_the_mean": table(lambda run: run.error_of_mean),
        "answers_with_a_minimum": table(lambda run: run.answers_found),
    }


def report(result: dict, folder: Path) -> None:
    """Print a table for each pattern."""
    for pattern in PATTERNS:
        title = (
            f"{pattern}, mean over seeds: gap over the untrained range,\n"
            "correct y with a minimum near, seeds that collapsed"
        )
        table = Table("loss", title=title)
        for name in ("A: gap", "found", "collapsed", "B: gap", "found", "collapsed"):
            table.add_column(name, justify="right")
        for loss in LOSSES:
            cells = []
            for a in ARCHITECTURES:
                of = {m: np.mean(result[pattern][m][loss][a]) for m in result[pattern]}
                cells.append(f"{of['gap_over_untrained_range']:.3f}")
                cells += [f"{of['answers_with_a_minimum']:.0%}", f"{of['collapsed']:.0%}"]
            table.add_row(label(loss), *cells)
        shared.console.print(table)
    shared.console.print(f"{result['seconds']:.0f} s; wrote {folder}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
