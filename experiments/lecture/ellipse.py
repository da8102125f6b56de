"""An ellipse with a latent angle: free energies from cold to hot, training, and overfitting.

The question: 24 noisy points lie around an ellipse, and nobody observes the angle z of each. The energy is the squared
distance ||y - (r1 cos z, r2 sin z)||^2. Which half-axes does training find at zero temperature, where each point pulls
the nearest point of the manifold alone, and which by marginalisation, where it pulls all of them? And on a decoder with
enough freedom to run through every point, is marginalisation safe from overfitting, as a lecture on it says?

Expected: both find (2, 1.5), the truth, and the spike of the cold free energy at the centre relaxes into a parabola
once beta is below about 1 / (2 mean y2^2), where training, too, gives up and shrinks an axis to nothing. With E and
noise of standard deviation s, F at beta = 1 / (2 s^2) = 200 is up to factor and constant -log of a normalised density,
so that marginalised training is maximum likelihood: it should overfit less than zero temperature, but not never.

Protocol: y = (2 cos t + e, 1.5 sin t + e'), e and e' of standard deviation 1/20, t equally spaced from a random
offset. Mean F of the 24 points by Adam, its rate falling to 0 as a cosine, ten seeds of data and start.
The ellipse is trained cold on 48 angles, everything else on 288: 48 are too far apart for beta = 200. The network, a
decoder free to go through every point, is 8 sines and cosines of z - 64 - 64 - 2 with tanh. Held-out: 240 fresh points
of each seed at random angles, F on 1152 angles. Sizes, rates and steps were chosen on seeds 100 to 104, none on the
points reported.

Found: both find the truth, and two half-axes cannot overfit. The network overfits in every training: its F of the
held-out points is well above that of its own and above the ellipse's. Marginalised training has the lower held-out F,
more so warmer than the noise, but as far from that of training judged warm: it helps, it does not prevent.
Minutes: about 1 on two idle cores, 3 on busy ones.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments import shared
from experiments.lecture import ellipse_figures as figures
from experiments.lecture import runs
from experiments.lecture.ellipse_figures import COLD, ELLIPSE, FINE, GRID, name_of
from spen_jax import energies, exact, training

AXES = jnp.array([2.0, 1.5])
NOISE = 1 / 20
COUNT, HELD_OUT = 24, 240
SNAPSHOTS = 20
HARMONICS, WIDTH = 4, 64
DENSITY = 200.0
"""1 / (2 NOISE^2): here F is that of a normalised density."""
TRAINED_AT = {name_of(beta): beta for beta in (COLD, DENSITY, 20.0)}
MARGINALISED = list(TRAINED_AT)[1:]
MEASURED_AT = TRAINED_AT | {name_of(1.0): 1.0}
JUDGE = exact.periodic(4 * len(FINE.z))
SWEEP = np.array([0.1, 0.15, 0.2, 0.23, 0.26, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8])
SWEEP = np.append(SWEEP, [1, 1.5, 2, 3, 5, 10, 20, 50, 100, DENSITY, 500, 1000])


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


def angles(key: jax.Array) -> jax.Array:
    """As many as points, equally spaced, from a random offset below one step."""
    return 2 * jnp.pi / COUNT * (jnp.arange(COUNT) + jax.random.uniform(key))


def points(key: jax.Array, t: jax.Array) -> jax.Array:
    """Noisy points at the angles t, (n, 2)."""
    on_ellipse = figures.manifold(AXES, t)
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


NETWORK = energies.Decoder(network)
DECODERS = {"ellipse": (ELLIPSE, ellipse_start, 0.05), "network": (NETWORK, network_start, 3e-3)}
"""name -> energy, start, learning rate."""


@partial(jax.jit, static_argnames=("decoder", "nodes", "steps"))
def train(seeds: jax.Array, beta: jax.Array | float, decoder: str, nodes: int, steps: int) -> Any:
    """Minimise the mean F_beta of the points, all seeds at once: parameters (seeds, SNAPSHOTS + 1, ...)."""
    energy, init, rate = DECODERS[decoder]
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    grid = exact.periodic(nodes)

    def one(seed):
        y, _ = draw(seed)
        key = jax.random.fold_in(jax.random.key(seed), 1)

        def objective(params, step, _):
            # All nodes at once: few examples, small arrays.
            free = exact.free_energy(energy, params, None, y, grid, beta, block=nodes)
            return jnp.mean(free), {}

        state = training.init(init(key), optimizer, key)
        return training.scan(objective, optimizer, state, jnp.arange(steps), at=when(steps))[2]

    return jax.vmap(one)(seeds)


def when(steps: int) -> tuple[int, ...]:
    """The steps at which the curves are measured."""
    return tuple(np.round(np.linspace(0, steps, SNAPSHOTS + 1)).astype(int).tolist())


@partial(jax.jit, static_argnames="decoder")
def measure(seeds: jax.Array, params: Any, decoder: str, betas: jax.Array) -> jax.Array:
    """Mean F of the training and of the held-out points, (seeds, betas, 2), of parameters (seeds, ...)."""
    energy = DECODERS[decoder][0]

    def one(given):
        seed, params = given
        every = jnp.concatenate(draw(seed))

        def of_beta(beta):
            free = exact.free_energy(energy, params, None, every, JUDGE, beta, block=len(JUDGE.z))
            return jnp.stack([jnp.mean(free[:COUNT]), jnp.mean(free[COUNT:])])

        return jax.lax.map(of_beta, betas)

    return jax.lax.map(one, (seeds, params))


def judged(seeds: jax.Array, params: Any, decoder: str) -> dict[str, dict[str, np.ndarray]]:
    """beta -> the mean F of the training and of the held-out points, each of all seeds."""
    free = np.asarray(measure(seeds, params, decoder, jnp.asarray(list(MEASURED_AT.values()))))
    return {
        b: dict(zip(("train", "held_out"), free[:, i].T, strict=True))
        for i, b in enumerate(MEASURED_AT)
    }


def at_snapshot(run: Any, snapshot: int) -> Any:
    """The parameters of all seeds at one snapshot."""
    return jax.tree.map(lambda a: a[:, snapshot], run)


def lower(of: dict[str, Any], name: str) -> dict[str, int]:
    """In how many seeds that training gave a lower held-out F than cold training, for each beta of F."""
    return {
        b: int(np.sum(of[name][b]["held_out"] < of["cold"][b]["held_out"])) for b in MEASURED_AT
    }


def verdict(free: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A sentence for each decoder and marginalised training: what it gave against cold training."""
    judge = name_of(DENSITY)
    for (decoder, of), name in itertools.product(free.items(), MARGINALISED):
        cold, warm = of["cold"][judge]["held_out"], of[name][judge]["held_out"]
        above = [
            np.mean(1000 * (of[n][judge]["held_out"] - of[n][judge]["train"]))
            for n in (name, "cold")
        ]
        yield (
            f"{decoder}, trained at {name} against cold: held-out 1000 F_{DENSITY:.0f} "
            f"{1000 * warm.mean():.1f} against {1000 * cold.mean():.1f}, lower in {np.sum(warm < cold)} of "
            f"{len(cold)} seeds; above that of training by {above[0]:.1f} against {above[1]:.1f}"
        )


def summary(coarse: np.ndarray, found: dict, sweep: np.ndarray, free: dict, y: jax.Array) -> dict:
    """What result.json says of the trainings."""
    axes = {"cold, 48 angles": np.abs(coarse[:, -1])}
    axes |= {f"{n}, 288 angles": np.abs(of["g"][:, -1]) for n, of in found["ellipse"].items()}
    of_decoders = {decoder: free[decoder] for decoder in DECODERS}
    return {
        "axes": axes["cold, 48 angles"],
        "axes_marginalised": axes[f"{name_of(DENSITY)}, 288 angles"],
        "axes_by_training": axes,
        "axes_of_first_seed_by_beta": {
            "beta": SWEEP,
            "axes": sweep,
            "collapse_expected_below": 1 / (2 * jnp.mean(y**2, axis=0)),
        },
        "free_energy": free,
        "seeds_where_marginalised_is_lower_held_out": {
            decoder: {name: lower(of, name) for name in MARGINALISED}
            for decoder, of in of_decoders.items()
        },
        "grid_error": figures.grid_errors(coarse[0, -1], (*MEASURED_AT.values(), 0.0)),
        "verdict": list(verdict(of_decoders)),
    }


def draw_overfitting(seeds: jax.Array, found: dict[str, Any], steps: int, reference: float) -> Any:
    """The network's manifolds of the first seed and F of all seeds during training."""
    betas, snapshots = jnp.asarray([DENSITY]), range(SNAPSHOTS + 1)
    decode = jax.vmap(NETWORK.decode, (None, None, 0))
    curves, courses = {}, {}
    for name, of in found.items():
        each = [measure(seeds, at_snapshot(of, i), "network", betas)[:, 0] for i in snapshots]
        courses[name] = np.stack(each, axis=1)
        curves[name] = decode(jax.tree.map(lambda a: a[0, -1], of), None, JUDGE.z)
    return figures.draw_overfitting(curves, courses, when(steps), reference, draw(seeds[0]))


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "ellipse", steps=SNAPSHOTS, decoder_steps=SNAPSHOTS)
    seeds, fine = jnp.asarray(config.seeds), len(FINE.z)
    steps = {"ellipse": config.steps, "network": config.decoder_steps}
    coarse = np.asarray(train(seeds, COLD, "ellipse", len(GRID.z), config.steps)["g"])
    found: dict[str, dict[str, Any]] = {decoder: {} for decoder in DECODERS}
    for decoder, name in runs.tracked(list(itertools.product(DECODERS, TRAINED_AT))):
        trained = train(seeds, TRAINED_AT[name], decoder, fine, steps[decoder])
        found[decoder][name] = jax.block_until_ready(trained)

    def axes_at(beta):
        return train(seeds[:1], beta, "ellipse", fine, config.steps)["g"][0, -1]

    sweep = np.abs(jax.lax.map(axes_at, jnp.asarray(SWEEP)))
    free = {
        decoder: {name: judged(seeds, at_snapshot(of, -1), decoder) for name, of in each.items()}
        for decoder, each in found.items()
    }
    true = {"g": jnp.tile(AXES, (len(seeds), 1))}
    free["true ellipse"] = {name_of(0.0): judged(seeds, true, "ellipse")}
    y, _ = draw(config.seeds[0])
    result = summary(coarse, found, sweep, free, y) | {
        "seeds": list(config.seeds),
        "data": {"name": "24 noisy points around an ellipse, drawn by seed"},
    }
    stages = {"untrained": coarse[0, 0], "trained": coarse[0, -1]}
    cold = result["axes_by_training"]["cold, 288 angles"][0]
    reference = free["true ellipse"][name_of(0.0)][name_of(DENSITY)]["held_out"].mean()
    drawn = {
        "energies": figures.draw_energies(stages, y),
        "free-energy": figures.draw_free_energy(stages["trained"], y),
        "relaxation": figures.draw_relaxation(stages["trained"]),
        "posteriors": figures.draw_posteriors(stages["trained"], y),
        "manifolds": figures.draw_manifolds(stages, y),
        "cold-and-marginalised": figures.draw_trainings(cold, SWEEP, sweep, y),
        "overfitting": draw_overfitting(seeds, found["network"], steps["network"], reference),
    }
    for name, figure in drawn.items():
        shared.save_figure(figure, run.folder / f"{name}.png", colours=128)
    return run.finish(result, *report(result))


def report(result: dict) -> Iterator[Any]:
    """The half-axes, free energies of training and held-out points, and what follows."""
    rows = [
        (name, *(f"{a.mean():.3f} ± {a.std():.3f}" for a in found.T))
        for name, found in result["axes_by_training"].items()
    ]
    yield runs.table("Half-axes, mean ± spread over seeds", ("trained", "r1", "r2"), rows)
    for kind, words in (("train", "training"), ("held_out", "held-out")):
        rows = [
            (
                decoder,
                name,
                *(
                    f"{v.mean():.1f} ± {v.std():.1f}"
                    for v in (1000 * of[b][kind] for b in TRAINED_AT)
                ),
            )
            for decoder, each in result["free_energy"].items()
            for name, of in each.items()
        ]
        columns = ("decoder", "trained", *(f"F, {name}" for name in TRAINED_AT))
        yield runs.table(f"1000 F of the {words} points, mean ± spread", columns, rows)
    yield from result["verdict"]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
