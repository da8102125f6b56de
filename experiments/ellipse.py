"""An ellipse with a latent angle: free energies from cold to hot, training, and overfitting.

The question: 24 noisy points lie around an ellipse, and nobody observes the angle z of each. The energy is the squared
distance ||y - (r1 cos z, r2 sin z)||^2. Which half-axes does training find at zero temperature, where each point pulls
the nearest point of the manifold alone, and which by marginalisation, where it pulls all of them? And on a decoder with
enough freedom to run through every point, is marginalisation safe from overfitting, as a lecture on it says?

Expected: both find (2, 1.5), the truth, and the spike of the cold free energy at the centre relaxes into a parabola
once beta is below about 1 / (2 mean y2^2), where training, too, gives up and shrinks an axis to nothing. With E and
noise of standard deviation s, F at beta = 1 / (2 s^2) = 200 is up to factor and constant -log of a normalised density,
so that marginalised training is maximum likelihood: it should overfit less than zero temperature, but not never.

Protocol: y = (rho1 cos t + e, rho2 sin t + e'), rho = (2, 1.5), e and e' of standard deviation 1/20, t equally spaced
from a random offset. Mean F of the 24 points by Adam, its rate falling to 0 as a cosine, ten seeds of data and start.
The ellipse is trained cold on 48 angles, everything else on 288: 48 are too far apart for beta = 200. The network, a
decoder free to go through every point, is 8 sines and cosines of z - 64 - 64 - 2 with tanh. Held-out: 240 fresh points
of each seed at random angles, F on 1152 angles. Sizes, rates and steps were chosen on seeds 100 to 104, none on the
points reported.

Found: both find the truth, and two half-axes cannot overfit. The network overfits in every training: its F of the
held-out points is well above that of its own and above the ellipse's. Marginalised training has the lower held-out F,
more so warmer than the noise, but as far from that of training judged warm: it helps, it does not prevent.
Minutes: about 1 on two idle cores, 3 on busy ones.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ellipse_figures as figures
import jax
import jax.numpy as jnp
import numpy as np
import optax
import shared
import tyro
from ellipse_figures import COLD, ELLIPSE, FINE, GRID
from rich.table import Table

from spen_jax import latent

NOISE = 1 / 20
COUNT = 24
HELD_OUT = 240
SNAPSHOTS = 20
HARMONICS = 4
WIDTH = 64
DENSITY = round(1 / (2 * NOISE**2), 9)
TRAINED_AT = (COLD, DENSITY, 20.0)
MEASURED_AT = (COLD, DENSITY, 20.0, 1.0)
JUDGE = latent.periodic(4 * len(FINE.z))
SWEEP = np.array(
    [
        0.1,
        0.15,
        0.2,
        0.23,
        0.26,
        0.3,
        0.35,
        0.4,
        0.45,
        0.5,
        0.6,
        0.8,
        1,
        1.5,
        2,
        3,
        5,
        10,
        20,
        50,
        100,
    ]
)
SWEEP = np.append(SWEEP, [DENSITY, 500, 1000])


@dataclass(frozen=True)
class Config:
    """The ellipse: its free energy, its training cold and warm, and what a network makes of it."""

    seeds: tuple[int, ...] = tuple(range(10))
    """Of the points, the held-out points and the start."""

    steps: int = 400
    """Training steps of the ellipse."""

    decoder_steps: int = 4000
    """Training steps of the network."""

    out: Path | None = None
    """Folder to write, new or empty; runs/ellipse-<date> by default."""


def rho(x: jax.Array | float) -> jax.Array:
    """The half-axes at x; this experiment stays at x = 0."""
    a, b = 1.5, 2.0
    return jnp.stack([a * x + b * (1 - x), b * x + a * (1 - x)]) * jnp.exp(2 * x)


def angles(key: jax.Array) -> jax.Array:
    """As many as points, equally spaced, from a random offset below one step."""
    return 2 * jnp.pi / COUNT * (jnp.arange(COUNT) + jax.random.uniform(key))


def points(key: jax.Array, t: jax.Array) -> jax.Array:
    """Noisy points at the angles t, (n, 2)."""
    on_ellipse = jax.vmap(latent.scaled_circle, (None, 0))(rho(0.0), t)
    return on_ellipse + NOISE * jax.random.normal(key, on_ellipse.shape)


def draw(seed: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The training and the held-out points of a seed."""
    offset, noise, fresh, fresh_noise = jax.random.split(jax.random.key(seed), 4)
    t = jax.random.uniform(fresh, (HELD_OUT,), maxval=2 * jnp.pi)
    return points(noise, angles(offset)), points(fresh_noise, t)


def network(params: Any, h: None, z: jax.Array) -> jax.Array:
    """The network, from the angle z to a point."""
    k = jnp.arange(1, HARMONICS + 1)
    hidden = jnp.concatenate([jnp.cos(k * z), jnp.sin(k * z)])
    for w, b in params[:-1]:
        hidden = jnp.tanh(hidden @ w + b)
    w, b = params[-1]
    return hidden @ w + b


def network_start(key: jax.Array) -> Any:
    """Weights of variance 1 over the width they read."""
    sizes = (2 * HARMONICS, WIDTH, WIDTH, 2)
    pairs = zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True)
    return {"g": [(jax.random.normal(k, (i, o)) / jnp.sqrt(i), jnp.zeros(o)) for k, i, o in pairs]}


def ellipse_start(key: jax.Array) -> Any:
    """Two positive half-axes."""
    return {"g": jax.random.uniform(key, (2,), minval=0.3, maxval=3.0)}


NETWORK = latent.Decoder(network)
DECODERS = {"ellipse": (ELLIPSE, ellipse_start, 0.05), "network": (NETWORK, network_start, 3e-3)}
"""name -> energy, start, learning rate."""


@partial(jax.jit, static_argnames=("decoder", "nodes", "steps"))
def train(seeds: jax.Array, beta: jax.Array | float, decoder: str, nodes: int, steps: int) -> Any:
    """Minimise the mean F_beta of the points, all seeds at once: parameters (seeds, SNAPSHOTS + 1, ...)."""
    energy, init, rate = DECODERS[decoder]
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    grid = latent.periodic(nodes)

    def one(seed):
        y, _ = draw(seed)
        start = init(jax.random.fold_in(jax.random.key(seed), 1))

        def objective(params):
            # All nodes at once: few examples, small arrays.
            return jnp.mean(latent.free_energy(energy, params, None, y, grid, beta, block=nodes))

        def step(_, carry):
            params, state = carry
            change, state = optimizer.update(jax.grad(objective)(params), state)
            return optax.apply_updates(params, change), state

        def snapshot(carry, ends):
            begin, end = ends
            carry = jax.lax.fori_loop(begin, end, step, carry)
            return carry, carry[0]

        times = when(steps)
        first = start, optimizer.init(start)
        _, later = jax.lax.scan(snapshot, first, (times[:-1], times[1:]))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, later)

    return jax.vmap(one)(seeds)


@partial(jax.jit, static_argnames="decoder")
def measure(seeds: jax.Array, params: Any, decoder: str, betas: jax.Array) -> jax.Array:
    """Mean F of the training and of the held-out points, (seeds, betas, 2), of parameters (seeds, ...)."""
    energy = DECODERS[decoder][0]

    def one(given):
        seed, params = given
        y, fresh = draw(seed)
        every, block = jnp.concatenate([y, fresh]), len(JUDGE.z)

        def of_beta(beta):
            free = latent.free_energy(energy, params, None, every, JUDGE, beta, block=block)
            return jnp.stack([jnp.mean(free[:COUNT]), jnp.mean(free[COUNT:])])

        return jax.lax.map(of_beta, betas)

    return jax.lax.map(one, (seeds, params))


def when(steps: int) -> np.ndarray:
    """The steps at which the curves are measured."""
    return np.round(np.linspace(0, steps, SNAPSHOTS + 1)).astype(int)


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    begin = time.perf_counter()
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        shared.fail(f"--seeds needs different numbers, got {list(config.seeds)}")
    for name in ("steps", "decoder_steps"):
        if getattr(config, name) < SNAPSHOTS:
            option = name.replace("_", "-")
            shared.fail(f"--{option} must be at least {SNAPSHOTS}, got {getattr(config, name)}")
    folder = shared.new_folder(config.out, "ellipse")
    shared.write_json(folder / "config.json", vars(config))
    seeds = jnp.asarray(config.seeds)
    steps = {"ellipse": config.steps, "network": config.decoder_steps}
    plan = [("ellipse", COLD, GRID)] + [(name, b, FINE) for name in DECODERS for b in TRAINED_AT]
    runs: dict[tuple[str, float, int], Any] = {}
    with shared.progress_bars() as progress:
        bar = progress.add_task("", total=len(plan) + 1, note="")
        for name, beta, grid in plan:
            progress.update(bar, description=f"{name}, {figures.name_of(beta)}")
            run = train(seeds, beta, name, len(grid.z), steps[name])
            runs[name, beta, len(grid.z)] = jax.block_until_ready(run)
            progress.advance(bar)
        progress.update(bar, description="ellipse, many betas")
        sweep = jax.lax.map(
            lambda b: train(seeds[:1], b, "ellipse", len(FINE.z), config.steps)["g"][0, -1],
            jnp.asarray(SWEEP),
        )
        progress.advance(bar)
    last = {of: jax.tree.map(lambda a: a[:, -1], run) for of, run in runs.items()}
    free = {
        name: {
            beta: np.asarray(
                measure(seeds, last[name, beta, len(FINE.z)], name, jnp.asarray(MEASURED_AT))
            )
            for beta in TRAINED_AT
        }
        for name in DECODERS
    }
    true = {"g": jnp.tile(rho(0.0), (len(seeds), 1))}
    free["true ellipse"] = {
        0.0: np.asarray(measure(seeds, true, "ellipse", jnp.asarray(MEASURED_AT)))
    }
    axes = {beta: np.abs(last["ellipse", beta, len(FINE.z)]["g"]) for beta in TRAINED_AT}
    cold = np.asarray(runs["ellipse", COLD, len(GRID.z)]["g"])
    y, fresh = draw(config.seeds[0])
    result = {
        "axes": np.abs(cold[:, -1]),
        "axes_marginalised": axes[DENSITY],
        "axes_by_training": {
            "cold, 48 angles": np.abs(cold[:, -1]),
            **{f"{figures.name_of(beta)}, 288 angles": found for beta, found in axes.items()},
        },
        "axes_of_first_seed_by_beta": {
            "beta": SWEEP,
            "axes": np.abs(sweep),
            "collapse_expected_below": 1 / (2 * jnp.mean(y**2, axis=0)),
        },
        "free_energy": {
            name: {figures.name_of(b): table_of(f) for b, f in of.items()}
            for name, of in free.items()
        },
        "seeds_where_marginalised_is_lower_held_out": {
            name: {figures.name_of(b): lower(free[name], b) for b in TRAINED_AT[1:]}
            for name in DECODERS
        },
        "grid_error": figures.grid_errors(cold[0, -1], (*MEASURED_AT, 0.0)),
        "seeds": list(config.seeds),
        "data": {"name": "24 noisy points around an ellipse, drawn by seed"},
        "environment": shared.environment(),
    }
    result["verdict"] = verdict(free, len(seeds))
    courses, curves = {}, {}
    for beta in TRAINED_AT:
        run = runs["network", beta, len(FINE.z)]
        each = [
            measure(
                seeds, jax.tree.map(lambda a, i=i: a[:, i], run), "network", jnp.asarray([DENSITY])
            )
            for i in range(SNAPSHOTS + 1)
        ]
        courses[beta] = np.concatenate(each, axis=1)
        mine = jax.tree.map(lambda a: a[0, -1], run)
        curves[beta] = jax.vmap(NETWORK.decode, (None, None, 0))(mine, None, JUDGE.z)
    untrained, trained = cold[0, 0], cold[0, -1]
    figures.draw_energies(untrained, trained, y, folder / "energies.png")
    figures.draw_free_energy(trained, y, folder / "free-energy.png")
    figures.draw_relaxation(trained, folder / "relaxation.png")
    figures.draw_posteriors(trained, y, folder / "posteriors.png")
    figures.draw_manifolds(untrained, trained, y, folder / "manifolds.png")
    sweep = np.abs(sweep)
    figures.draw_trainings(axes[COLD][0], SWEEP, sweep, y, folder / "cold-and-marginalised.png")
    reference = float(np.mean(free["true ellipse"][0.0][:, MEASURED_AT.index(DENSITY), 1]))
    times = when(config.decoder_steps)
    path = folder / "overfitting.png"
    figures.draw_overfitting(curves, courses, times, reference, (y, fresh), path)
    result["seconds"] = time.perf_counter() - begin
    shared.write_json(folder / "result.json", result)
    report(result, folder)
    return result


def table_of(free: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """beta -> the mean F of the training and of the held-out points, a list over seeds each."""
    return {
        figures.name_of(b): {"train": free[:, i, 0].tolist(), "held_out": free[:, i, 1].tolist()}
        for i, b in enumerate(MEASURED_AT)
    }


def lower(free: dict[float, np.ndarray], beta: float) -> dict[str, int]:
    """In how many seeds training at beta gave a lower held-out F than cold training, for each beta of F."""
    fewer = np.sum(free[beta][..., 1] < free[COLD][..., 1], axis=0)
    return {figures.name_of(b): int(n) for b, n in zip(MEASURED_AT, fewer, strict=True)}


def verdict(free: dict[str, dict[float, np.ndarray]], seeds: int) -> list[str]:
    """A sentence for each decoder and marginalised training: what it gave against cold training."""
    at, sentences = MEASURED_AT.index(DENSITY), []
    for name in DECODERS:
        cold = 1000 * free[name][COLD][:, at]
        for beta in TRAINED_AT[1:]:
            warm = 1000 * free[name][beta][:, at]
            won = lower(free[name], beta)[figures.name_of(DENSITY)]
            sentences.append(
                f"{name}, trained at beta = {beta:g} against cold: held-out 1000 F_{DENSITY:.0f} "
                f"{warm[:, 1].mean():.1f} against {cold[:, 1].mean():.1f}, lower in {won} of {seeds} "
                f"seeds; above that of training by {np.mean(warm[:, 1] - warm[:, 0]):.1f} "
                f"against {np.mean(cold[:, 1] - cold[:, 0]):.1f}"
            )
    return sentences


def report(result: dict, folder: Path) -> None:
    """Print the half-axes, free energies of training and held-out points, and what follows."""
    axes = Table("trained", "r1", "r2", title="Half-axes, mean ± spread over seeds")
    for name, found in result["axes_by_training"].items():
        axes.add_row(name, *(f"{a.mean():.3f} ± {a.std():.3f}" for a in found.T))
    shared.console.print(axes)
    for kind, of in (("train", "training"), ("held_out", "held-out")):
        table = Table("decoder", "trained", title=f"1000 F of the {of} points, mean ± spread")
        for beta in map(figures.name_of, MEASURED_AT[:3]):
            name = "F, cold" if beta == "cold" else f"F, {beta}"
            table.add_column(name, justify="right", no_wrap=True)
        for name, of_beta in result["free_energy"].items():
            for trained, found in of_beta.items():
                values = [1000 * np.asarray(found[b][kind]) for b in found][:3]
                cells = [f"{v.mean():.1f} ± {v.std():.1f}" for v in values]
                table.add_row(name, "no" if name == "true ellipse" else trained, *cells)
        shared.console.print(table)
    for sentence in result["verdict"]:
        shared.console.print(sentence)
    shared.console.print(f"{result['seconds']:.0f} s; wrote {folder}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
