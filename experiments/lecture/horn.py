"""The horn: does a latent angle learn the shape of data, and what becomes of the energy when z is free to be anything.

Data: y = (rho_1(x) cos t, rho_2(x) sin t) and noise of 1/20, rho(x) = (a x + b (1 - x), b x + a (1 - x)) exp(2x),
a = 1.5, b = 2: an ellipse for each x, growing and turning from flat to high. Nobody tells t. Two questions:
 1. E = ||y - (f_1(x) cos z, f_2(x) sin z)||^2, f: x -> 8 -> 8 -> 2 with ReLU, z on a grid of step pi / 24. Do the
    half-axes |f(x)| follow rho(x) on x between those of training, with the cold free energy and with warm ones?
 2. E = ||y - g(f(x), z)||^2, g a network too, z of 1, 2 or 8 dimensions. Is the free energy low on the data only? Free
    z is compared with limits on it: a penalty, 0.1 ||z||^2; a ball, ||z|| <= 1; a soft circle, (||z||^2 - 1)^2; and
    noise with what it costs to tell more than the prior (variational, beta = 50 for y / 10).

Expected: the practicum says half-axes close to rho, and that a free z of many dimensions memorises all points, so that
the energy is zero everywhere, while a limit on z brings the difference back. A warm free energy should make the small
ellipses too small, since a z that is averaged over pulls inwards. Found: beta = 1 does, by a tenth. Of the limits on 2
and 8 dimensions the penalty brings back next to nothing; ball and noise keep z from reaching outwards and leave the
centre of the horn about as low as the data; the circle, for 2 dimensions, shows the hole too.

Protocol: 51 x, 24 t for each at equal steps from a random offset; held-out x in the middle between two. Part 1: Adam,
batches of all points of six x; of four random starts for each seed (an axis may change its sign, ReLUs may die) the one
of lowest free energy on the training data is kept. Part 2, on three seeds: y / 10; the z of each training point are
kept from step to step, improved from there and from a random point, the better of the two taken. The *gap* is the mean
free energy off the horn less that on held-out data, each over the variance of y at its x; off are the centre, twice the
ellipse, and random points of a box of twice the ellipse. The squared distance to the true ellipse has
`gap_of_the_horn`. Of noisy z the free energy is the marginal one under the prior, by quadrature or 4096 samples; else
it is the best of 8 searches for z, an upper bound.
Minutes: about 4 on two cores.
"""

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import spen_jax as sx
from experiments import shared
from experiments.lecture import horn_figures as figures
from experiments.lecture import runs
from experiments.lecture.horn_figures import KINDS
from spen_jax import energies, exact, inference, training

BETAS = {"cold": float("inf"), "beta = 10": 10.0, "beta = 1": 1.0}
ANGLES = exact.periodic(48)
X = jnp.arange(51) / 50
BETWEEN = (X[1:] + X[:-1]) / 2
SCALE, BETA = 10.0, 50.0
STARTS, FREE_SEEDS, DIMENSIONS = 4, 3, (1, 2, 8)  # of part 1; of part 2, with the dimensions of z
AT, SIDE = 0.75, 33  # the x of the maps of part 2, and their points along each side

AXES = sx.FeatureNetwork(2, (8, 8))
PREDICTOR = sx.FeatureNetwork(8, (16,), activation=jax.nn.elu)
DECODER = sx.FeatureNetwork(2, (32, 32), activation=jax.nn.elu)


def standardised(params: Any, x: jax.Array) -> jax.Array:
    """f of part 1, of x with mean 0 and variance 1."""
    return sx.logits_of(AXES)(params, (x - jnp.mean(X)) / jnp.std(X))


def decode(params: Any, h: jax.Array, z: jax.Array) -> jax.Array:
    """g of part 2."""
    return sx.logits_of(DECODER)(params, jnp.concatenate([h, z]))


ELLIPSE = energies.Decoder(lambda _, h, z: energies.scaled_circle(h, z), standardised)
LEARNED = energies.Decoder(decode, sx.logits_of(PREDICTOR))


def noisy(params: Any, x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """The variational energy of z = (mean, log of the standard deviation); the noise stands with the parameters."""
    x, y, mean, log_std = x[None], y[None], *jnp.split(z[None], 2, axis=-1)
    return exact.variational(LEARNED, params, x, y, mean, log_std, params["noise"], BETA)[0]


LIMITS = {
    "free": (LEARNED, sx.Reals()),
    "penalty": (energies.Penalised(LEARNED, lambda z: 0.1 * jnp.sum(z**2)), sx.Reals()),
    "circle": (energies.Penalised(LEARNED, lambda z: (jnp.sum(z**2) - 1) ** 2), sx.Reals()),
    "ball": (LEARNED, sx.L2Ball(1.0)),
    "noise": (noisy, sx.Reals()),
}
"""What keeps z from saying everything: name -> the energy, and where z lives."""


@dataclass(frozen=True)
class Config:
    """Learn the half-axes of the horn, then its whole decoder with a free or limited z."""

    seeds: tuple[int, ...] = (5, 6, 7, 8, 9)
    """Data, initial weights, order of the examples; 0 to 4 served to choose the settings."""

    steps: int = 4000
    """Training steps of part 1."""

    free_steps: int = 1500
    """Training steps of part 2."""

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


def axes_of(params: Any, x: jax.Array) -> jax.Array:
    """The half-axes |f(x)| that were learned, (N,) -> (N, 2)."""
    return jnp.abs(jax.vmap(standardised, (None, 0))(params["f"], x[:, None]))


def uniform(key: jax.Array, params: Any) -> Any:
    """Weights and biases uniform up to 1 / root of the fan-in: biases of 0 would bend every ReLU at x = 0."""

    def layer(key, of):
        bound, keys = len(of["kernel"]) ** -0.5, jax.random.split(key)
        drawn = partial(jax.random.uniform, minval=-bound, maxval=bound)
        return {n: drawn(k, of[n].shape) for k, n in zip(keys, ("kernel", "bias"), strict=True)}

    keys = jax.random.split(key, len(params))
    return {name: layer(k, of) for k, (name, of) in zip(keys, params.items(), strict=True)}


@partial(jax.jit, static_argnames=("steps", "starts"))
def learn_axes(seeds: jax.Array, beta: Any, steps: int, starts: int) -> dict[str, Any]:
    """All seeds at one temperature, of several starts the best: parameters before and after, what was measured."""
    optimizer, rho = optimizer_of(steps, 2e-2), half_axes(BETWEEN)

    def free(params, x, y):
        return jnp.mean(exact.free_energy(ELLIPSE, params, x, y, ANGLES, beta))

    def one(keys, start):
        x, y = data(keys[0], X)
        init, order = jax.random.split(jax.random.fold_in(keys[2], start))
        initial = {"f": uniform(init, AXES.init(init, x[0])["params"])}

        def objective(params, t, _):
            some = jax.random.choice(jax.random.fold_in(order, t), len(X), (6, 1))
            i = (24 * some + jnp.arange(24)[None]).ravel()
            return free(params, x[i], y[i]), {}

        state = training.init(initial, optimizer, order)
        params = training.scan(objective, optimizer, state, jnp.arange(steps))[0].params
        return {
            "params": {"initial": initial, "trained": params},
            "axes_error": jnp.max(jnp.abs(axes_of(params, BETWEEN) - rho) / rho),
            "training_free_energy": free(params, x, y),
            "held_out_free_energy": free(params, *data(keys[1], BETWEEN)),
        }

    def of_seed(seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        runs = jax.vmap(one, (None, 0))(keys, jnp.arange(starts))
        best = lowest(runs, runs["training_free_energy"])
        return best | {"axes_error_of_each_start": runs["axes_error"]}

    return jax.vmap(of_seed)(seeds)


def lowest(runs: Any, value: jax.Array) -> Any:
    """Of several runs, the leading axis, that of the lowest value that is a number."""
    best = jnp.nanargmin(value)
    return jax.tree.map(lambda a: a[best], runs)


def places(held_out: jax.Array, off: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """x (N, 1) and y (N, 2) held out, and away from the horn by kind: two at each held-out x, but one centre."""
    x = jnp.repeat(BETWEEN, 2)
    turn, place = jax.random.split(off)
    t = jax.random.uniform(turn, x.shape, maxval=2 * jnp.pi)
    box = 2 * half_axes(x) * jax.random.uniform(place, (len(x), 2), minval=-1)
    return {
        "held_out": data(held_out, BETWEEN, 4),
        "centre": (BETWEEN[:, None], jnp.zeros((len(BETWEEN), 2))),
        "twice": (x[:, None], 2 * on_horn(x, t)),
        "box": (x[:, None], box),
    }


def variance(x: jax.Array) -> jax.Array:
    """Of y around the centre at x, both coordinates together, (N, 1) -> (N,)."""
    return jnp.sum(half_axes(x[:, 0]) ** 2, axis=-1) / 2


def gaps(mean: dict[str, Any]) -> dict[str, Any]:
    """Of the mean free energies of all places, each kind's less that of held-out points, and the mean of these."""
    each = {kind: mean[kind] - mean["held_out"] for kind in KINDS}
    return each | {"gap": sum(each.values()) / len(each)}


def random_z(key: jax.Array, limit: str, shape: tuple[int, ...]) -> jax.Array:
    """z to start from: of noisy ones the mean, and a log standard deviation of -1."""
    z = LIMITS[limit][1].project(jax.random.normal(key, shape))
    return jnp.concatenate([z, jnp.full(shape, -1.0)], -1) if limit == "noise" else z


def search(limit: str, params: Any, x: Any, y: Any, starts: jax.Array, steps: int) -> sx.Solution:
    """The z of lowest energy, by Adam with a rate that falls so that it settles."""
    (energy, domain), rate = LIMITS[limit], optax.cosine_decay_schedule(0.2, steps)
    options: Any = {"domain": domain, "solver": sx.Optax(optax.adam(rate)), "steps": steps}
    return inference.infer(energy, params, x, y, starts, **options)


def prior(dimension: int) -> exact.Nodes:
    """Nodes of the standard normal prior: quadrature in one and two dimensions, 4096 samples in more."""
    if dimension > 2:
        return exact.Nodes(jax.random.normal(jax.random.key(0), (4096, dimension)))
    rule = exact.gauss_hermite(250 if dimension == 1 else 64)
    return exact.tensor_rule(*[rule] * dimension)


@partial(jax.jit, static_argnames=("limit", "dimension"))
def free_energy(limit: str, dimension: int, params: Any, x: Any, y: Any, key: Any) -> jax.Array:
    """F(x, y) of B points over the variance at x, (B,): the best z of 8 starts, or the marginal."""
    y = y / SCALE
    if limit == "noise":
        free = exact.free_energy(LEARNED, params, x, y, prior(dimension), BETA)
    else:
        starts = random_z(key, limit, (len(x), 8, dimension))
        free = search(limit, params, x, y, starts, 120).energy
    return SCALE**2 * free / variance(x)


@partial(jax.jit, static_argnames=("limit", "dimension", "steps"))
def learn_decoder(seeds: jax.Array, limit: str, dimension: int, steps: int) -> tuple[Any, Any]:
    """All seeds with one limit on z: parameters, and the mean free energy of each kind of place."""
    energy, optimizer = LIMITS[limit][0], optimizer_of(steps, 1e-2)

    def one(seed):
        keys = jax.random.split(jax.random.key(seed), 6)
        x, y = data(keys[0], X)
        every, y = {"training": (x[::6], y[::6])}, y / SCALE

        def objective(params, batch, _):
            t, table = batch[0], batch[1]["z"]
            order, other, drawn = jax.random.split(jax.random.fold_in(keys[3], t), 3)
            i = jax.random.choice(order, len(x), (136,), replace=False)
            half = jax.random.normal(drawn, (4, dimension))
            params = params | {"noise": jnp.concatenate([half, -half])}
            starts = jnp.stack([table[i], random_z(other, limit, (len(i), dimension))], axis=1)
            z = search(limit, jax.lax.stop_gradient(params), x[i], y[i], starts, 6).y
            found = jax.vmap(energy, (None, 0, 0, 0))(params, x[i], y[i], z)
            return jnp.mean(found), {"z": table.at[i].set(z)}

        f = PREDICTOR.init(keys[1], x[0])["params"]
        g = DECODER.init(keys[2], jnp.ones(8 + dimension))["params"]
        state = training.init({"f": f, "g": g}, optimizer, keys[3])
        table = {"z": random_z(keys[4], limit, (len(x), dimension))}
        state, _ = training.scan(objective, optimizer, state, jnp.arange(steps), buffers=table)
        every |= places(*(jax.random.fold_in(keys[5], i) for i in (0, 1)))
        xs, ys = (jnp.concatenate(part) for part in zip(*every.values(), strict=True))
        found = free_energy(limit, dimension, state.params, xs, ys, jax.random.fold_in(keys[5], 2))
        parts = jnp.split(found, np.cumsum([len(x) for x, _ in every.values()])[:-1])
        return state.params, dict(zip(every, map(jnp.mean, parts), strict=True))

    return jax.vmap(one)(seeds)


@jax.jit
def mean_of_the_horn() -> dict[str, jax.Array]:
    """The same for the squared distance to the true ellipse: the energy that knows everything."""
    every, ring = places(jax.random.key(0), jax.random.key(1)), exact.periodic(720)
    horn = energies.Decoder(ELLIPSE.g, lambda _, x: half_axes(x)[0])
    cold = partial(exact.free_energy, horn, {"f": None}, nodes=ring, beta=jnp.inf)
    return {name: jnp.mean(cold(x, y) / variance(x)) for name, (x, y) in every.items()}


def draw(seed: int, axes: dict[str, Any], params: dict[str, Any], folder: Path) -> None:
    """The horn and the planes, of the first seed: half-axes by temperature, decoders by limit and dimension."""
    points, rings = data(jax.random.split(jax.random.key(seed), 3)[0], X), X[::4]
    titles = {"initial": "before training", "trained": "trained cold (points: the data)"}
    learned = {title: axes_of(axes["cold"][name], rings) for name, title in titles.items()}
    ratios = {n: axes_of(of["trained"], BETWEEN) / half_axes(BETWEEN) for n, of in axes.items()}
    figures.draw_horn(points, rings, learned, BETWEEN, ratios, folder / "horn.png")
    at, key = jnp.array([AT]), jax.random.key(0)
    grid = jnp.linspace(-2.2, 2.2, SIDE) * jnp.max(half_axes(at))
    y = jnp.stack(jnp.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    xs, ring = jnp.full((len(y), 1), AT), on_horn(jnp.full(97, AT), jnp.linspace(0, 2 * jnp.pi, 97))
    planes = {
        limit: {d: free_energy(limit, d, p, xs, y, key).reshape(SIDE, SIDE) for d, p in of.items()}
        for limit, of in params.items()
    }
    figures.draw_planes(planes, grid, ring, data(key, at)[1], folder / "planes.png")


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "horn", steps=1, free_steps=1)
    seeds, measured, axes = jnp.asarray(config.seeds), {}, {}
    for (name,) in runs.tracked([(name,) for name in BETAS]):
        found = learn_axes(seeds, BETAS[name], config.steps, STARTS)
        measured[name] = jax.device_get(found)
        axes[name] = jax.tree.map(lambda a: a[0], measured[name].pop("params"))
    free: dict[str, dict[int, Any]] = {limit: {} for limit in LIMITS}
    params: dict[str, dict[int, Any]] = {limit: {} for limit in LIMITS}
    for limit, d in runs.tracked(list(itertools.product(LIMITS, map(str, DIMENSIONS)))):
        found = learn_decoder(seeds[:FREE_SEEDS], limit, int(d), config.free_steps)
        every, mean = jax.device_get(found)
        params[limit][int(d)] = jax.tree.map(lambda a: a[0], every)
        free[limit][int(d)] = mean | {"gap_of": gaps(mean)}
    result = {
        "axes": measured,
        "free_z": free,
        "gap_of_the_horn": gaps(mean_of_the_horn()),
        "seeds": list(config.seeds),
        "data": {"name": "the horn, drawn by seed; 51 x of 24 points"},
    }
    draw(config.seeds[0], axes, params, run.folder)
    return run.finish(result, *figures.report(result))


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)
