"""The horn: does a latent angle learn the shape of data, and what becomes of the energy when z is free to be anything.

Data: y = (rho_1(x) cos t, rho_2(x) sin t) and noise of 1/20, rho(x) = (a x + b (1 - x), b x + a (1 - x)) exp(2x),
a = 1.5, b = 2: an ellipse for each x, growing and turning from flat to high. Nobody tells t.

Two questions:
 1. E = ||y - (f_1(x) cos z, f_2(x) sin z)||^2, f: x -> 8 -> 8 -> 2 with ReLU, z on a grid of step pi / 24. Do the
    half-axes |f(x)| follow rho(x) on x between those of training, with the cold free energy and with warm ones?
 2. E = ||y - g(f(x), z)||^2, g a network too, z of 1, 2 or 8 dimensions. Is the free energy low on the data only? Free
    z is compared with limits on it: a penalty, 0.1 ||z||^2; a ball, ||z|| <= 1; a soft circle, (||z||^2 - 1)^2; and
    noise with what it costs to tell more than the prior (variational, beta = 50 for y / 10).

Expected: the practicum says half-axes close to rho, and that a free z of many dimensions memorises all points, so that
the energy is zero everywhere, while a limit on z brings the difference back. A warm free energy should make
the small ellipses too small, since a z that is averaged over pulls inwards. Found: beta = 1 does, by a
tenth. Of the limits on 2 and 8 dimensions the penalty brings back next to nothing; ball and noise keep z from reaching
outwards and leave the centre of the horn about as low as the data; the circle, for 2 dimensions, shows the hole too.

Protocol: 51 x, 24 t for each at equal steps from a random offset; held-out x in the middle between two. Part 1: Adam,
batches of all points of six x; of several random starts for each seed (an axis may change its sign, ReLUs may die) the
one of lowest free energy on the training data is kept. Part 2: y / 10; the z of each training point are kept from
step to step, improved from there and from a random point, the better of the two taken. The *gap* is the mean free
energy off the horn less that on held-out data, each over the variance of y at its x; off are the centre,
twice the ellipse, and random points of a box of twice the ellipse. The squared distance to the true ellipse has
`gap_of_the_horn`. Of noisy z the free energy is the marginal one under the prior, by quadrature or 4096 samples; else
it is the best of 8 searches for z, an upper bound.
Minutes: about 4 on two cores.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import horn_figures
import jax
import jax.numpy as jnp
import numpy as np
import optax
import shared
import tyro
from jax import lax

import spen_jax as sx
from spen_jax import latent

BETAS = {"cold": float("inf"), "beta = 10": 10.0, "beta = 1": 1.0}
ANGLES = latent.periodic(48)
X = jnp.arange(51) / 50
BETWEEN = (X[1:] + X[:-1]) / 2

AXES = sx.FeatureNetwork(2, (8, 8))


def standardised(params: Any, x: jax.Array) -> jax.Array:
    """f of part 1, of x with mean 0 and variance 1."""
    return sx.logits_of(AXES)(params, (x - jnp.mean(X)) / jnp.std(X))


ELLIPSE = latent.Decoder(lambda _, h, z: latent.scaled_circle(h, z), standardised)


def _decode(params, h, z):
    return sx.logits_of(DECODER)(params, jnp.concatenate([h, z]))


PREDICTOR = sx.FeatureNetwork(8, (16,), activation=jax.nn.elu)
DECODER = sx.FeatureNetwork(2, (32, 32), activation=jax.nn.elu)
LEARNED = latent.Decoder(_decode, sx.logits_of(PREDICTOR))
SCALE = 10.0
BETA = 50.0
AT = 0.75


def noisy(params: Any, x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """The variational energy of z = (mean, log of the standard deviation); the noise stands with the parameters."""
    mean, log_std = jnp.split(z[None], 2, axis=-1)
    one = latent.variational(
        LEARNED, params, x[None], y[None], mean, log_std, params["noise"], BETA
    )
    return one[0]


class Limit(NamedTuple):
    """What keeps z from saying everything: an energy, a domain, how many numbers of z for each dimension."""

    energy: Callable[..., jax.Array]
    domain: Any = sx.Reals()
    numbers: int = 1


LIMITS = {
    "free": Limit(LEARNED),
    "penalty": Limit(latent.Penalised(LEARNED, lambda z: 0.1 * jnp.sum(z**2))),
    "circle": Limit(latent.Penalised(LEARNED, lambda z: (jnp.sum(z**2) - 1) ** 2)),
    "ball": Limit(LEARNED, sx.L2Ball(1.0)),
    "noise": Limit(noisy, numbers=2),
}


@dataclass(frozen=True)
class Config:
    """Learn the half-axes of the horn, then its whole decoder with a free or limited z."""

    seeds: tuple[int, ...] = (5, 6, 7, 8, 9)
    """Data, initial weights, order of the examples; 0 to 4 served to choose the settings."""

    steps: int = 4000
    """Training steps of part 1."""

    starts: int = 4
    """Random initial weights of part 1 for each seed; the lowest training free energy is kept."""

    free_seeds: int = 3
    """How many of the seeds part 2 takes, the first ones."""

    free_steps: int = 1500
    """Training steps of part 2."""

    dimensions: tuple[int, ...] = (1, 2, 8)
    """Of z in part 2."""

    limits: tuple[str, ...] = tuple(LIMITS)
    """On z in part 2."""

    learning_rate: float = 2e-2
    """Adam's highest in part 1: it warms up for a tenth of the steps and falls as a cosine."""

    grid: int = 33
    """Points along each side of the maps of part 2."""

    out: Path | None = None
    """Folder to write, new or empty; runs/horn-<date> by default."""


def half_axes(x: jax.Array) -> jax.Array:
    """rho(x), (N,) -> (N, 2)."""
    a, b = 1.5, 2.0
    rho = jnp.stack([a * x + b * (1 - x), b * x + a * (1 - x)], axis=-1)
    return rho * jnp.exp(2 * x)[:, None]


def on_horn(x: jax.Array, t: jax.Array) -> jax.Array:
    """Points of the ellipses without noise, (N,) and (N,) -> (N, 2)."""
    return half_axes(x) * jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)


def data(key: jax.Array, x: jax.Array, many: int = 24) -> tuple[jax.Array, jax.Array]:
    """x (N, 1) and y (N, 2), `many` of each of the given x."""
    offsets, noise = jax.random.split(key)
    turn = 2 * jnp.pi / many
    first = jax.random.uniform(offsets, (len(x), 1), maxval=turn)
    t = (first + turn * jnp.arange(many)[None]).ravel()
    x = jnp.repeat(x, many)
    y = on_horn(x, t)
    return x[:, None], y + jax.random.normal(noise, y.shape) / 20


def optimizer_of(steps: int, rate: float) -> optax.GradientTransformation:
    """Adam with a rate that warms up for a tenth and falls as a cosine."""
    return optax.adam(optax.warmup_cosine_decay_schedule(0, rate, steps // 10 + 1, steps + 1))


# Part 1: the half-axes.


class Axes(NamedTuple):
    """One training of part 1: parameters before and after, what was measured; leading axes of seeds and starts."""

    initial: Any
    params: Any
    training: jax.Array
    held_out: jax.Array
    error: jax.Array


def axes_of(params: Any, x: jax.Array) -> jax.Array:
    """The half-axes |f(x)| that were learned, (N,) -> (N, 2)."""
    f: Any = ELLIPSE.f
    return jnp.abs(jax.vmap(f, (None, 0))(params["f"], x[:, None]))


def uniform(key: jax.Array, params: Any) -> Any:
    """Weights and biases uniform up to 1 / root of the fan-in: biases of 0 would bend every ReLU at x = 0."""

    def layer(key, of):
        bound = len(of["kernel"]) ** -0.5
        keys = jax.random.split(key)
        shapes = {"kernel": of["kernel"].shape, "bias": of["bias"].shape}
        return {
            name: jax.random.uniform(k, shape, minval=-bound, maxval=bound)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    keys = jax.random.split(key, len(params))
    return {name: layer(k, of) for k, (name, of) in zip(keys, params.items(), strict=True)}


@partial(jax.jit, static_argnames=("starts", "steps", "rate"))
def learn_axes(seeds: jax.Array, beta: jax.Array, starts: int, steps: int, rate: float) -> Axes:
    """All seeds and starts at one temperature."""
    optimizer = optimizer_of(steps, rate)

    def free(params, x, y):
        return jnp.mean(latent.free_energy(ELLIPSE, params, x, y, ANGLES, beta))

    def one(seed, start):
        keys = jax.random.split(jax.random.key(seed), 3)
        x, y = data(keys[0], X)
        held = data(keys[1], BETWEEN)
        init, order = jax.random.split(jax.random.fold_in(keys[2], start))
        initial = {"f": uniform(init, AXES.init(init, x[0])["params"])}

        def step(carry, t):
            params, state = carry
            some = jax.random.choice(jax.random.fold_in(order, t), len(X), (6, 1))
            i = (24 * some + jnp.arange(24)[None]).ravel()
            updates, state = optimizer.update(jax.grad(free)(params, x[i], y[i]), state)
            return (optax.apply_updates(params, updates), state), None

        first = initial, optimizer.init(initial)
        (params, _), _ = lax.scan(step, first, jnp.arange(steps))
        rho = half_axes(BETWEEN)
        error = jnp.max(jnp.abs(axes_of(params, BETWEEN) - rho) / rho)
        return Axes(initial, params, free(params, x, y), free(params, *held), error)

    return jax.vmap(lambda s: jax.vmap(lambda k: one(s, k))(jnp.arange(starts)))(seeds)


def kept(runs: Axes) -> Axes:
    """Of each seed the start with the lowest free energy on the training data."""
    best = np.nanargmin(runs.training, axis=1)
    return jax.tree.map(lambda a: a[np.arange(len(best)), best], runs)


def summary_of_axes(runs: Axes) -> dict[str, Any]:
    """Lists over seeds."""
    best = kept(runs)
    return {
        "axes_error": best.error,
        "training_free_energy": best.training,
        "held_out_free_energy": best.held_out,
        "axes_error_of_each_start": runs.error,
        "starts_within_5_percent": np.mean(runs.error < 0.05),
    }


# Part 2: the decoder too.


class Free(NamedTuple):
    """One training of part 2, with a leading axis of seeds: free energies over the variance at x."""

    params: Any
    training: jax.Array
    held_out: jax.Array
    off: dict[str, jax.Array]


def points_off(key: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """x (N, 1) and y (N, 2) away from the horn, by kind; two at each held-out x, but one centre."""
    x = jnp.repeat(BETWEEN, 2)
    turn, place = jax.random.split(key)
    t = jax.random.uniform(turn, x.shape, maxval=2 * jnp.pi)
    box = 2 * half_axes(x) * jax.random.uniform(place, (len(x), 2), minval=-1)
    centre = BETWEEN[:, None], jnp.zeros((len(BETWEEN), 2))
    return {
        "centre": centre,
        "twice": (x[:, None], 2 * on_horn(x, t)),
        "box": (x[:, None], box),
    }


def variance(x: jax.Array) -> jax.Array:
    """Of y around the centre at x, both coordinates together, (N, 1) -> (N,)."""
    return jnp.sum(half_axes(x[:, 0]) ** 2, axis=-1) / 2


def adam(steps: int, rate: float) -> Any:
    """The solver that looks for z; its rate falls so that it settles."""
    return sx.Optax(optax.adam(optax.cosine_decay_schedule(rate, steps)))


def random_z(key: jax.Array, limit: Limit, shape: tuple[int, ...]) -> jax.Array:
    """z to start from: of noisy ones the mean, and a log standard deviation of -1."""
    z = limit.domain.project(jax.random.normal(key, shape))
    return z if limit.numbers == 1 else jnp.concatenate([z, jnp.full(shape, -1.0)], -1)


def prior(dimension: int, many: int = 4096) -> latent.Nodes:
    """Nodes of the standard normal prior: quadrature in one and two dimensions, samples in more."""
    if dimension > 2:
        return latent.Nodes(jax.random.normal(jax.random.key(0), (many, dimension)))
    return latent.product(*[latent.gauss_hermite(250 if dimension == 1 else 64)] * dimension)


def free_energy(
    limit: str, dimension: int, params: Any, x: jax.Array, y: jax.Array, key: jax.Array
) -> jax.Array:
    """F(x, y) of B points with y in the units of the data, (B,): the best z of 8 starts, or the marginal."""
    y, of = y / SCALE, LIMITS[limit]
    if limit == "noise":
        return SCALE**2 * latent.free_energy(LEARNED, params, x, y, prior(dimension), BETA)
    starts = random_z(key, of, (len(x), 8, dimension))
    found = latent.infer(
        of.energy, params, x, y, starts, domain=of.domain, solver=adam(120, 0.2), steps=120
    )
    return SCALE**2 * found.energy


@partial(jax.jit, static_argnames=("limit", "dimension", "steps"))
def learn_decoder(seeds: jax.Array, limit: str, dimension: int, steps: int) -> Free:
    """All seeds with one limit on z."""
    of, optimizer = LIMITS[limit], optimizer_of(steps, 1e-2)

    def one(seed):
        keys = jax.random.split(jax.random.key(seed), 6)
        x, y = data(keys[0], X)
        y = y / SCALE
        params = {
            "f": PREDICTOR.init(keys[1], x[0])["params"],
            "g": DECODER.init(keys[2], jnp.ones(8 + dimension))["params"],
        }

        def mean_energy(params, noise, x, y, z):
            return jnp.mean(
                jax.vmap(of.energy, (None, 0, 0, 0))(params | {"noise": noise}, x, y, z)
            )

        def step(carry, t):
            params, state, table = carry
            order, other, drawn = jax.random.split(jax.random.fold_in(keys[3], t), 3)
            i = jax.random.choice(order, len(x), (136,), replace=False)
            half = jax.random.normal(drawn, (4, dimension))
            noise = jnp.concatenate([half, -half])
            starts = jnp.stack([table[i], random_z(other, of, (len(i), dimension))], axis=1)
            found = latent.infer(
                of.energy,
                params | {"noise": noise},
                x[i],
                y[i],
                starts,
                domain=of.domain,
                solver=adam(6, 0.2),
                steps=6,
            )
            slope = jax.grad(mean_energy)(params, noise, x[i], y[i], found.y)
            updates, state = optimizer.update(slope, state)
            return (optax.apply_updates(params, updates), state, table.at[i].set(found.y)), None

        table = random_z(keys[4], of, (len(x), dimension))
        carry = params, optimizer.init(params), table
        (params, _, _), _ = lax.scan(step, carry, jnp.arange(steps))

        places = {"training": (x[::6], SCALE * y[::6])}
        places["held_out"] = data(jax.random.fold_in(keys[5], 0), BETWEEN, 4)
        places |= points_off(jax.random.fold_in(keys[5], 1))
        xs, ys = (jnp.concatenate(part) for part in zip(*places.values(), strict=True))
        found = free_energy(limit, dimension, params, xs, ys, jax.random.fold_in(keys[5], 2))
        ends = np.cumsum([len(x) for x, _ in places.values()])[:-1]
        parts = jnp.split(found / variance(xs), ends)
        mean = {name: jnp.mean(part) for name, part in zip(places, parts, strict=True)}
        return Free(
            params, mean["training"], mean["held_out"], {k: mean[k] for k in horn_figures.KINDS}
        )

    return jax.vmap(one)(seeds)


def gap_of_the_horn() -> dict[str, float]:
    """The same difference for the squared distance to the true ellipse: the energy that knows everything."""
    t = jnp.linspace(0, 2 * jnp.pi, 720, endpoint=False)

    def distance(x, y):
        ring = on_horn(jnp.full(t.shape, x[0]), t)
        return jnp.min(jnp.sum((ring - y[None]) ** 2, axis=-1))

    def relative(x, y):
        return jnp.mean(jax.vmap(distance)(x, y) / variance(x))

    held = relative(*data(jax.random.key(0), BETWEEN, 4))
    off = {k: float(relative(*p) - held) for k, p in points_off(jax.random.key(1)).items()}
    return off | {"gap": float(np.mean(list(off.values())))}


def summary_of_free(run: Free) -> dict[str, Any]:
    """Lists over seeds."""
    gaps = {kind: run.off[kind] - run.held_out for kind in horn_figures.KINDS}
    return {
        "training": run.training,
        "held_out": run.held_out,
        "off": run.off,
        "gap_of_kind": gaps,
        "gap": np.mean([gaps[kind] for kind in horn_figures.KINDS], axis=0),
    }


def plane(limit: str, dimension: int, params: Any, x: float, grid: jax.Array) -> jax.Array:
    """F over a square of the plane of y at one x, (len(grid), len(grid)), over the variance there."""
    first, second = jnp.meshgrid(grid, grid)
    y = jnp.stack([first.ravel(), second.ravel()], axis=-1)
    xs = jnp.full((len(y), 1), x)
    found = _free_energy(limit, dimension, params, xs, y, jax.random.key(0))
    return (found / variance(xs)).reshape(first.shape)


_free_energy = jax.jit(free_energy, static_argnames=("limit", "dimension"))


def draw(
    runs: dict[str, Axes],
    decoders: dict[str, dict[int, Free]],
    result: dict[str, Any],
    config: Config,
    folder: Path,
) -> None:
    """All figures, of the first seed where one is drawn."""
    best = {name: jax.tree.map(lambda a: a[0], kept(run)) for name, run in runs.items()}
    x, y = data(jax.random.split(jax.random.key(config.seeds[0]), 3)[0], X)
    cold = best["cold"]
    rings = X[::4]
    horn_figures.draw_horn(
        x,
        y,
        {
            "before training": axes_of(cold.initial, rings),
            "trained cold (points: the data)": axes_of(cold.params, rings),
        },
        rings,
        {name: axes_of(run.params, BETWEEN) for name, run in best.items()},
        BETWEEN,
        half_axes(BETWEEN),
        folder / "horn.png",
    )
    if not decoders:
        return
    rho = half_axes(jnp.array([AT]))
    grid = jnp.linspace(-2.2, 2.2, config.grid) * jnp.max(rho)
    first = {
        limit: {d: jax.tree.map(lambda a: a[0], run.params) for d, run in of.items()}
        for limit, of in decoders.items()
    }
    planes = {
        limit: {d: plane(limit, d, params, AT, grid) for d, params in of.items()}
        for limit, of in first.items()
    }
    ring = on_horn(jnp.full(97, AT), jnp.linspace(0, 2 * jnp.pi, 97))
    points = data(jax.random.key(0), jnp.array([AT]))[1]
    horn_figures.draw_planes(planes, grid, ring, points, folder / "planes.png")
    gaps = result["free_z"], result["gap_of_the_horn"]
    horn_figures.draw_gaps(*gaps, folder / "gaps.png")


def check(config: Config) -> None:
    """End with one line where the configuration makes no sense."""
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        shared.fail(f"--seeds needs different numbers, got {list(config.seeds)}")
    for name in ("steps", "starts", "free_seeds", "free_steps", "grid"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            shared.fail(f"--{flag} must be at least 1, got {getattr(config, name)}")
    if not config.learning_rate > 0:
        shared.fail(f"--learning-rate must be above 0, got {config.learning_rate}")
    if any(d < 1 for d in config.dimensions):
        shared.fail(f"--dimensions must be at least 1, got {list(config.dimensions)}")
    if unknown := [limit for limit in config.limits if limit not in LIMITS]:
        shared.fail(f"--limits knows {', '.join(LIMITS)}, got {', '.join(unknown)}")


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    start = time.perf_counter()
    check(config)
    folder = shared.new_folder(config.out, "horn")
    shared.write_json(folder / "config.json", vars(config))
    seeds = jnp.asarray(config.seeds)
    runs: dict[str, Axes] = {}
    decoders: dict[str, dict[int, Free]] = {limit: {} for limit in config.limits}
    with shared.progress_bars() as progress:
        total = len(BETAS) + len(config.limits) * len(config.dimensions)
        bar = progress.add_task("", total=total, note="")
        for name, beta in BETAS.items():
            progress.update(bar, description=f"half-axes, {name}")
            settings = config.starts, config.steps, config.learning_rate
            run = learn_axes(seeds, jnp.asarray(beta), *settings)
            runs[name] = jax.tree.map(np.asarray, run)
            progress.advance(bar)
        for limit, of_dimension in decoders.items():
            for dimension in config.dimensions:
                progress.update(bar, description=f"decoder, z of {dimension}, {limit}")
                few = seeds[: config.free_seeds]
                run = learn_decoder(few, limit, dimension, config.free_steps)
                of_dimension[dimension] = jax.tree.map(np.asarray, run)
                progress.advance(bar)
    axes = {name: summary_of_axes(run) for name, run in runs.items()}
    result = {
        "axes_error": axes["cold"]["axes_error"],
        "axes": axes,
        "free_z": {
            limit: {d: summary_of_free(run) for d, run in of.items()}
            for limit, of in decoders.items()
        },
        "gap_of_the_horn": gap_of_the_horn(),
        "seeds": list(config.seeds),
        "data": {"name": "the horn, drawn by seed; 51 x of 24 points"},
        "environment": shared.environment(),
        "seconds": time.perf_counter() - start,
    }
    shared.write_json(folder / "result.json", result)
    draw(runs, decoders if config.dimensions else {}, result, config, folder)
    horn_figures.report(result, folder)
    return result


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
