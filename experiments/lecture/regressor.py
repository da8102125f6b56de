"""What does a regressor answer? One G and several distances D: its mean, its median, something between, its mode.

The question: E(x, y) = D(y, G(x)) has its least energy at y = G(x) whatever D is, and the energy loss trains it. What
G(x) then is, D decides. On y = x^2 with gross outliers on one side, where do G's curves lie? On a real table, are
the linear ones the regressions that others call by name? And what if D's own scale could be learned, too?

Expected: the squared distance finds the mean of y given x, the absolute one the median, Huber's something between, a
bounded one (`Saturated`) the mode, a tilted absolute one (pinball, a user's own function) a quantile. Bounded energies
are no -log of a density. A scale that is free lets the energy loss make all energies alike: it collapses. On the table
all agree with an independent library, Poisson's deviance, the user's own too, with its generalised linear model.

Protocol: x uniform on [-1, 1], y = x^2 + e, e of N(0, 0.1^2) for 80 % of the rows and N(1.5, 0.5^2) for the others;
2000 rows; networks 1-32-1 with tanh, Adam on all rows, its rate falling to 0 as a cosine; five seeds of rows and
weights. The bounded distance starts from scratch, and once more from where pinball's ended, among the outliers. The
heights above x^2 that are expected minimise the mean of D over the density of e. Table: scikit-learn's 442 diabetes
patients, inputs standardised, y over its mean, in float64 from w = b = 0 (bounded: from least squares, as the peer).
Least squares also by the LMS rule w <- w + rate (y - w'x) x, a row at a time, its rate falling as 1 / t. A difference
above `TOLERANCE` is an error.
Found: docs/theory/energies.md, "Any distance".
Minutes: less than 1 on one core.
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
from scipy.optimize import least_squares
from scipy.stats import norm
from sklearn import datasets, linear_model

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs
from spen_jax import exact, losses, training
from spen_jax.energies import Huber, Regressor, Saturated, absolute, linear

ROWS, NOISE, SHARE, FAR, SPREAD = 2000, 0.1, 0.2, 1.5, 0.5
CEILING, OF_TABLE, QUANTILE, TOLERANCE = 0.02, 0.2, 0.9, 1e-3
NETWORK = sx.FeatureNetwork(1, (32,), activation=jnp.tanh)
G = sx.logits_of(NETWORK)
X, Y = jnp.linspace(-1, 1, 81)[:, None], jnp.linspace(-0.6, 3, 145)[:, None]


def pinball(y: jax.Array, r: jax.Array) -> jax.Array:
    """sum max(q (y - r), (q - 1) (y - r)): least on average at the quantile q = 0.9. A user's own distance."""
    return jnp.sum(jnp.maximum(QUANTILE * (y - r), (QUANTILE - 1) * (y - r)), axis=-1)


def poisson(y: jax.Array, r: jax.Array) -> jax.Array:
    """sum y log(y / r) - y + r, half of Poisson's deviance, for y >= 0 and r > 0. Another."""
    return jnp.sum(jax.scipy.special.xlogy(y, y / r) - y + r, axis=-1)


BOUNDED = Saturated(Regressor(G), CEILING)
ENERGIES = {
    "euclidean": Regressor(G),
    "absolute": Regressor(G, absolute),
    "Huber, delta 0.3": Regressor(G, Huber(0.3)),
    "pinball, 0.9": Regressor(G, pinball),
    "bounded": BOUNDED,
    "bounded, from above": BOUNDED,
}


def scaled(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """exp(s) 1/2 ||y - G(x)||^2: the shape in y is not fixed, a scale is learned."""
    return jnp.exp(params["s"]) * Regressor(G)(params["g"], x, y)


@dataclass(frozen=True)
class Config:
    """One regressor with several distances."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the rows and the initial weights."""

    steps: int = 3000
    """Training steps, each on all rows."""

    out: Path | None = None
    """Folder to write, new or empty; runs/regressor-<date> by default."""


def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x and y, (ROWS, 1) each."""
    of_x, of_noise, of_outliers = jax.random.split(key, 3)
    x = jax.random.uniform(of_x, (ROWS, 1), minval=-1, maxval=1)
    noise = jax.random.normal(of_noise, (ROWS, 1))
    far = jax.random.uniform(of_outliers, (ROWS, 1)) < SHARE
    return x, x**2 + jnp.where(far, FAR + SPREAD * noise, NOISE * noise)


def expected_heights() -> dict[str, float]:
    """Of each D the c that minimises the mean of D(e, c); mean and median, and the density's maximum, the mode."""
    e, c = np.linspace(-1.5, 4.5, 60_001), np.linspace(-0.5, 2, 251)
    clean: Any = norm(0, NOISE)
    far: Any = norm(FAR, SPREAD)
    density = (1 - SHARE) * clean.pdf(e) + SHARE * far.pdf(e)
    cumulative = (1 - SHARE) * clean.cdf(e) + SHARE * far.cdf(e)
    found = {
        "mean": SHARE * FAR,
        "median": float(np.interp(0.5, cumulative, e)),
        "mode": float(e[np.argmax(density)]),
    }
    mass = density / density.sum()

    def least(energy, c):
        def mean_of(e, mass, c):
            return jax.lax.map(lambda c: mass @ energy(e, c), c)

        return float(c[np.argmin(jax.jit(mean_of)(e, mass, c))])

    for name, energy in ENERGIES.items():
        of_e = energy_of_noise(energy)
        near = least(of_e, c)
        found[name] = least(of_e, np.linspace(near - 0.02, near + 0.02, 401))
    return found


def energy_of_noise(energy: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """D(e, c) of each e, a vector, as the energy has it: its G is replaced by c."""
    inner = energy.energy if isinstance(energy, Saturated) else energy
    known = Regressor(lambda c, _: c[None], inner.distance)
    known = Saturated(known, energy.ceiling) if isinstance(energy, Saturated) else known
    return lambda e, c: jax.vmap(lambda y: known(c, None, y[None]))(e)


@partial(jax.jit, static_argnames=("energy", "steps"))
def train(starts: Any, x: jax.Array, y: jax.Array, energy: Any, steps: int) -> Any:
    """The parameters (S, ...) that minimise the mean energy of the rows, the energy loss, for all seeds at once."""
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def of_seed(params, x, y):
        def objective(params, step, _):
            of_rows = jax.vmap(energy, (None, 0, 0))(params, x, y)
            return jnp.mean(losses.energy_loss(of_rows)), {}

        state = training.init(params, optimizer, jax.random.key(0))
        return training.scan(objective, optimizer, state, jnp.arange(steps))[0].params

    return jax.vmap(of_seed)(starts, x, y)


def heights(params: Any) -> dict[str, np.ndarray]:
    """G(x) - x^2 of each seed: its mean over x and its root mean square deviation from that."""
    answers = jax.vmap(lambda p: jax.vmap(G, (None, 0))(p, X))(params)
    above = np.asarray(answers - X[None] ** 2)[..., 0]
    return {"height": above.mean(1), "varies_by": above.std(1)}


def learn(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trained parameters by distance, and the figures; the last one is of a free scale."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds))
    x, y = jax.vmap(draw)(keys)
    starts = jax.vmap(lambda key: NETWORK.init(jax.random.fold_in(key, 1), X[0])["params"])(keys)
    found, result = {}, {}
    with jax.enable_x64(True):
        expected = expected_heights()
    for (name,) in runs.tracked([(name,) for name in ENERGIES]):
        start = found["pinball, 0.9"] if name == "bounded, from above" else starts
        found[name] = train(start, x, y, ENERGIES[name], config.steps)
        of = heights(found[name])
        result[name] = {"expected": expected[name], **of}
        for where in ("mean", "median", "mode"):
            of_curve = np.sqrt((of["height"] - expected[where]) ** 2 + of["varies_by"] ** 2)
            result[name][f"to_the_{where}"] = of_curve
    free = {"g": starts, "s": jnp.zeros(len(keys))}
    found["free scale"] = train(free, x, y, scaled, config.steps)
    spans = [
        np.ptp(surface(scaled, p, slice(None)), axis=(1, 2)) for p in (free, found["free scale"])
    ]
    return found, {
        "heights": result,
        "curves": {name: expected[name] for name in ("mean", "median", "mode")},
        "free_scale": {
            "range_left": spans[1] / spans[0],
            "scale": np.exp(found["free scale"]["s"]),
        },
    }


def surface(energy: Any, params: Any, which: Any) -> np.ndarray:
    """The energies of the grid of x and y, (..., X, Y), of one seed or of several."""
    params = jax.tree.map(lambda a: a[which], params)
    of = partial(exact.pairwise, energy)
    of = of if isinstance(which, int) else jax.vmap(of, (0, None, None))
    return np.asarray(of(params, X, Y))


# The table

LINEAR = {
    "euclidean": Regressor(linear),
    "absolute": Regressor(linear, absolute),
    "Huber": Regressor(linear, Huber(1.0)),  # its delta is the peer's
    "pinball, 0.9": Regressor(linear, pinball),
    "Poisson's deviance": Regressor(lambda p, x: jnp.exp(linear(p, x)), poisson),
    "bounded": Saturated(Regressor(linear), OF_TABLE),
}


def peers(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Independent regressions: coefficients with the intercept last, by distance; and of Huber's its delta."""
    exactly: Any = {"tol": 1e-12, "max_iter": 10_000, "alpha": 0}
    huber = linear_model.HuberRegressor(epsilon=1.35, **exactly).fit(x, y)
    machines = {
        "euclidean": linear_model.LinearRegression(),
        "absolute": linear_model.QuantileRegressor(quantile=0.5, alpha=0),
        "Huber": huber,
        "pinball, 0.9": linear_model.QuantileRegressor(quantile=QUANTILE, alpha=0),
        "Poisson's deviance": linear_model.PoissonRegressor(**exactly),
    }
    found = {name: machine.fit(x, y) for name, machine in machines.items()}
    of = {name: np.append(machine.coef_, machine.intercept_) for name, machine in found.items()}
    first, ones = of["euclidean"], np.ones((len(x), 1))

    def rho(z):  # of squared residuals over the ceiling, its value and two derivatives
        left = np.exp(-z / 2)
        return np.stack([2 * (1 - left), left, -left / 2])

    settings: Any = {"loss": rho, "f_scale": OF_TABLE**0.5, "xtol": 1e-14, "ftol": 1e-14}
    settings |= {"gtol": 1e-14, "max_nfev": 10_000}
    of["bounded"] = least_squares(lambda w: np.hstack([x, ones]) @ w - y, first, **settings).x
    return of | {"delta": huber.epsilon * huber.scale_}


def compare(steps: int) -> dict[str, dict[str, float]]:
    """The largest difference of coefficients from the peer's, over its largest; and that of the LMS rule."""
    data: Any = datasets.load_diabetes(scaled=False)
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    y = data.target / data.target.mean()
    of_peers, found = peers(x, y), {}
    for name, energy in LINEAR.items():
        if name == "Huber":
            energy = Regressor(linear, Huber(float(of_peers["delta"])))
        theirs = of_peers[name]
        start = of_peers["euclidean"] if name == "bounded" else np.zeros(x.shape[1] + 1)
        params = {"w": jnp.asarray(start[None, :-1, None]), "b": jnp.asarray(start[None, -1:])}
        ours = train(params, jnp.asarray(x)[None], jnp.asarray(y)[None, :, None], energy, steps)
        found[name] = {"difference": difference(ours, theirs), "coefficients": theirs}
    found["euclidean, LMS"] = {"difference": difference(lms(x, y), of_peers["euclidean"])}
    return found


def difference(params: Any, theirs: np.ndarray) -> float:
    """The largest difference of coefficients over the largest one."""
    ours = np.append(params["w"], params["b"])
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def lms(x: np.ndarray, y: np.ndarray, epochs: int = 1000) -> Any:
    """The lecture's rule, the gradient of one row's energy after another; rate 0.01 / (1 + epoch / 50)."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
    rates = 0.01 / (1 + np.arange(len(order)) / (50 * len(x)))
    slope = jax.grad(Regressor(linear))

    def step(params, given):
        rate, row = given
        moved = slope(params, jnp.asarray(x)[row], jnp.asarray(y)[row, None])
        return jax.tree.map(lambda p, g: p - rate * g, params, moved), None

    start = {"w": jnp.zeros((x.shape[1], 1)), "b": jnp.zeros(1)}
    return jax.jit(lambda p: jax.lax.scan(step, p, (rates, order))[0])(start)


def draw_energies(found: dict[str, Any], curves: dict[str, float], seed: int) -> Any:
    """Surfaces of the first seed with its rows, cross-sections at x = 0.5, and all G."""
    named = {name: ENERGIES[name] for name in ENERGIES if name != "bounded, from above"}
    named |= {"free scale": scaled}
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.4), layout="constrained")
    x, grid = np.asarray(X[:, 0]), np.asarray(Y[:, 0])
    rows_x, rows_y = (np.asarray(a)[:300, 0] for a in draw(jax.random.key(seed)))
    cuts, curves_of_g = axes.flat[6:]
    middle = int(np.argmin(np.abs(x - 0.5)))
    drawn: Any = None
    for axis, (name, energy) in zip(axes.flat, named.items(), strict=False):
        height = surface(energy, found[name], 0)
        weights = jax.tree.map(lambda a: a[0], found[name])
        answers = jax.vmap(G, (None, 0))(weights["g"] if energy is scaled else weights, X)[:, 0]
        top = 2.0 if energy is scaled else np.quantile(height, 0.97)
        drawn = axis.contourf(
            x, grid, np.minimum(height, top).T, np.linspace(0, top, 25), cmap="magma"
        )
        axis.plot(rows_x, rows_y, ".", color="limegreen", ms=1.5)
        axis.plot(x, answers, "c", lw=1.5)
        axis.set(title=name, xlim=(-1, 1), ylim=(grid[0], grid[-1]))
        figure.colorbar(drawn, ax=axis, ticks=np.linspace(0, top, 3), format="%.2g")
        if energy is not scaled:
            cuts.plot(grid, height[middle], label=name)
            curves_of_g.plot(x, answers - x**2, label=name)
    for name, height in curves.items():
        curves_of_g.axhline(height, color="k", lw=0.7, ls=":")
        where: Any = {"va": "top" if name == "mode" else "bottom", "fontsize": 7}
        curves_of_g.text(1.08, height, name, ha="right", **where)
    cuts.set(title="energies at x = 0.5", xlabel="y", ylim=(0, 1.5))
    cuts.legend(fontsize=7)
    curves_of_g.set(title="G(x) − x² (dotted: closed forms)", xlabel="x", ylim=(-0.2, 1.8))
    for axis in axes[:, 0]:
        axis.set_ylabel("y")
    figure.suptitle(
        "Energies D(y, G(x)) after training by the energy loss (dark: low; cyan: G; green: rows)"
    )
    return figure


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "regressor", steps=1)
    found, result = learn(config)
    figure = draw_energies(found, result["curves"], config.seeds[0])
    shared.save_figure(figure, run.folder / "distances.png")
    with jax.enable_x64(True):
        result["table"] = compare(10 * config.steps)
    curves = ", ".join(f"{name} {height:.3f}" for name, height in result["curves"].items())
    shown = {name: {"difference": of["difference"]} for name, of in result["table"].items()}
    left = shared.mean_and_spread(100 * result["free_scale"]["range_left"])
    run.finish(
        result,
        runs.summary(f"Heights above x²; closed forms: {curves}", result["heights"]),
        runs.summary("Diabetes: differences from independent libraries", shown),
        f"with a free scale {left} % of the surface's range are left",
    )
    far = [n for n, of in shown.items() if "LMS" not in n and not of["difference"] <= TOLERANCE]
    if far:
        shared.fail(f"not as the independent library: {', '.join(far)}")
    return result


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)
