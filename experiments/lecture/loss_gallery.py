"""Pictures of every loss of energies, what each one guarantees, and classical machines rebuilt from them.

The questions: what does each loss do to the energies of the correct and of a wrong answer, and which of the
sufficient conditions of LeCun et al. (2006) does it meet? Are linear regression, logistic regression, the linear SVM
and the perceptron really a linear energy with the loss that the lectures give them?

Expected (LeCun et al. 2006, table 1, where listed): all but the energy and the perceptron loss meet conditions 1 and 2
at a positive margin. The machines agree with scikit-learn within the tolerances in `MACHINES`.

Protocol: conditions on a grid of energies, of any sign and then at least 0; condition 3 on 150 irises, for two
untrained models. Machines in float64 on all rows of data that come with scikit-learn, standardised; the
hinge loss as the limit of the log loss with a margin, beta up to 10^6. A disagreement is an error.
Figures: surfaces.png, competition.png.
Minutes: about 1 on two cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.flatten_util import ravel_pytree
from sklearn import datasets, linear_model, svm

import spen_jax as sx
from experiments import shared
from experiments.lecture import loss_gallery_figures as figures
from experiments.lecture import runs
from experiments.lecture.loss_gallery_figures import Entry
from spen_jax import energies, exact, losses, training
from spen_jax.energies import linear
from spen_jax.losses import conditions, negatives


@dataclass(frozen=True)
class Config:
    """Loss surfaces, conditions, and classical machines against scikit-learn."""

    out: Path | None = None  # Folder to write, new or empty; runs/loss_gallery-<date> by default.


def gallery() -> dict[str, Entry]:
    """Every loss of the lectures, for two answers; m, K and beta are 1 where the equation does not say."""
    perceptron = conditions.as_pair(losses.perceptron)
    nll = conditions.as_pair(partial(losses.nll, beta=3.0))
    error = conditions.as_pair(partial(losses.minimum_empirical_error, beta=3.0))
    square, sum_y = losses.square_square, r"\Sigma_y\, e^{-\beta E_y}"
    of_error = rf"$1 - e^{{-\beta E_c}} /\, {sum_y},\ \beta = 3$"

    def info_nce(c, w):
        return losses.info_nce(c, w[..., None], 2.0)

    entries = {
        "energy": Entry(lambda c, w: losses.energy_loss(c) + 0 * w, "$E_c$", "none"),
        "perceptron": Entry(perceptron, r"$E_c - \mathrm{min}_y\, E_y$", "0"),
        "hinge": Entry(losses.hinge, r"$\max(0,\, m + E_c - E_w)$", "m"),
        "log": Entry(losses.log_loss, r"$\log(1 + e^{E_c - E_w})$", "positive"),
        "MCE": Entry(losses.mce, r"$1\,/\,(1 + e^{E_w - E_c})$", "positive"),
        "square-square": Entry(square, r"$\max(0, E_c)^2 + \max(0, m - E_w)^2$", "m"),
        "square-exponential": Entry(losses.square_exponential, "$E_c^2 + e^{-E_w}$", "positive"),
        "simple pair": Entry(losses.simple_pair, r"$\max(0, E_c) + \max(0, m - E_w)$", "m"),
        "NLL": Entry(nll, rf"$E_c + \log({sum_y})/\beta,\ \beta = 3$", "positive"),
        "minimum empirical error": Entry(error, of_error, "positive"),
        "InfoNCE": Entry(info_nce, r"$\log(1 + e^{\beta(E_c - E_w)}),\ \beta = 2$", "positive"),
    }
    return {name: e._replace(loss=jax.jit(e.loss)) for name, e in entries.items()}


def untrained_models() -> dict[str, tuple]:
    """Name -> (energy, params, x, correct y, most offending y), on the irises."""
    draw = np.random.default_rng(0).normal

    def layer(inputs, outputs):
        w = jnp.asarray(draw(size=(inputs, outputs)) / inputs**0.5)
        return {"w": w, "b": jnp.zeros(outputs)}

    def network(params, x):
        return linear(params["out"], jnp.tanh(linear(params["hidden"], x)))

    x, species = standardised(datasets.load_iris())
    classifier, params = energies.Multiclass(linear), layer(4, 3)
    costs = jax.vmap(classifier.energies, (None, 0))(params, x)
    wrong = negatives.most_offending(costs, species).index
    # From three features to the fourth; answers less than half a standard deviation off count as correct.
    implicit = energies.ImplicitRegressor(network, network)
    nets = {name: {"hidden": layer(n, 8), "out": layer(8, 4)} for name, n in (("x", 3), ("y", 1))}
    grid = jnp.linspace(-2.5, 2.5, 101)[:, None]
    allowed = jax.vmap(negatives.outside_ball, (None, 0, None))(grid, x[:, 3:], 0.5)
    costs = exact.pairwise(implicit, nets, x[:, :3], grid)
    far = grid[negatives.most_offending(costs, allowed=allowed).index]
    return {
        "classifier": (classifier, params, x, species, wrong),
        "implicit": (implicit, nets, x[:, :3], x[:, 3:], far),
    }


def check_conditions(entries: dict[str, Entry]) -> dict[str, dict[str, Any]]:
    """Name -> the published margin, the one tested, and what holds there."""
    models, found = untrained_models(), {}
    for name, entry in entries.items():
        margin = figures.MARGINS[entry.margin]
        found[name] = row = {"margin": entry.margin, "tested": margin}
        for sign, lowest in (("any_sign", -np.inf), ("at_least_0", 0.0)):
            report = conditions.check(entry.loss, margin, lowest=lowest)
            row[sign] = {"minima": report.minima, "descends": report.descends}
        for model, (energy, *rest) in models.items():
            dots = partial(conditions.in_weights, entry.loss, energy, margin=margin)
            row[f"in_weights_{model}"] = float(jnp.mean(jax.jit(dots)(*rest) > 0))
    return found


HALF = energies.Binary(lambda params, x: linear(params, x) / 2)
"""E = -1/2 y (w'x + b), the lecture's form of logistic regression."""
SIGNS = np.array([-1.0, 1.0])
LBFGS = sx.Optax(optax.lbfgs(memory_size=30))


def standardised(data: Any) -> tuple[jax.Array, jax.Array]:
    """The features with mean 0 and standard deviation 1, and the targets."""
    x = np.asarray(data.data, float)
    return jnp.asarray((x - x.mean(0)) / x.std(0)), jnp.asarray(data.target)


def trained(objective: Callable[..., Any], shape: tuple[int, ...], betas: Any = (1.0,)) -> Any:
    """The parameters of `linear` that minimise objective(params, beta), by L-BFGS from 0.

    The objective is an energy, and the parameters are its answer; each beta starts where the last one ended.
    """
    flat, restored = ravel_pytree({"w": jnp.zeros(shape), "b": jnp.zeros(shape[1:])})

    def energy(_, beta, flat):
        return objective(restored(flat), beta)

    options = {"domain": sx.Reals(), "solver": LBFGS, "tolerance": 1e-9, "stop_early": True}
    for beta in betas:
        flat = sx.minimize(energy, None, jnp.full(1, beta), flat[None], steps=2000, **options).y[0]
    return restored(flat)


def compared(energy: Any, params: Any, peer: Any, x: jax.Array) -> dict[str, float]:
    """The largest difference of two machines' coefficients, and the share of rows with the same answer."""
    b, of_peer = np.atleast_1d(params["b"]), peer.intercept_
    if len(b) > 1:  # a number added to all logits changes no answer
        b, of_peer = b - np.mean(b), of_peer - np.mean(of_peer)
    ours, theirs = np.append(params["w"].T, b), np.append(peer.coef_, of_peer)
    answers, expected = jax.vmap(energy.best, (None, 0))(params, x), peer.predict(x)
    return {
        "difference": np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)),
        "predictions": np.mean(np.isclose(answers, expected, rtol=1e-6, atol=0)),
    }


def linear_regression(x: jax.Array, y: jax.Array) -> dict[str, float]:
    """Quadratic energy and energy loss."""
    machine, y = energies.Regressor(linear), y[:, None]

    def objective(params, _):
        return jnp.mean(losses.energy_loss(jax.vmap(machine, (None, 0, 0))(params, x, y)))

    params = trained(objective, (x.shape[1], 1))
    return compared(machine, params, linear_model.LinearRegression().fit(x, y), x)


def maximum_entropy(x: jax.Array, y: jax.Array, energy: Any = HALF) -> dict[str, float]:
    """NLL over all answers, and 1/2 ||w||^2."""
    answers, outputs = (SIGNS, ()) if energy is HALF else (np.arange(3), (3,))
    y = answers[y]

    def objective(params, beta):
        correct = jax.vmap(energy, (None, 0, 0))(params, x, y)
        everything = exact.pairwise(energy, params, x, jnp.asarray(answers))
        return jnp.sum(losses.nll(correct, everything, beta)) + jnp.sum(params["w"] ** 2) / 2

    peer = linear_model.LogisticRegression(tol=1e-10, max_iter=10_000).fit(x, y)
    return compared(energy, trained(objective, (x.shape[1], *outputs)), peer, x)


def support_vectors(x: jax.Array, y: jax.Array) -> dict[str, float]:
    """The hinge loss as a limit, and 1/2 ||(w, b)||^2 as in liblinear."""
    y = SIGNS[y]

    def objective(params, beta):
        correct, wrong = (jax.vmap(HALF, (None, 0, 0))(params, x, s * y) for s in (1, -1))
        loss = losses.log_loss(correct, wrong, 1.0, beta)
        return jnp.sum(loss) + (jnp.sum(params["w"] ** 2) + params["b"] ** 2) / 2

    peer = svm.LinearSVC(loss="hinge", tol=1e-9, max_iter=10_000_000, random_state=0).fit(x, y)
    return compared(HALF, trained(objective, (x.shape[1],), (1.0, 1e2, 1e4, 1e6)), peer, x)


def on_bumps(x: jax.Array, y: jax.Array) -> dict[str, float]:
    """Support vectors for the two irises that are hard to tell apart, by a Gaussian bump on each of their 100 rows."""
    bumps = jax.vmap(energies.gaussian_bumps, (0, None, None))(x[50:], x[50:], 1.0)
    return support_vectors(bumps, y[50:] - 1)


def perceptron(x: jax.Array, y: jax.Array, epochs: int = 20) -> dict[str, float]:
    """The perceptron loss and a step of 1 after each row."""
    y, optimizer = SIGNS[y], optax.sgd(1.0)
    w = np.random.default_rng(0).normal(size=x.shape[1])

    def loss(params, row, _):
        both = jax.vmap(HALF, (None, None, 0))(params, row[0], jnp.asarray(SIGNS))
        return losses.perceptron(HALF(params, *row), both), {}

    state = training.init({"w": jnp.asarray(w), "b": jnp.ones(())}, optimizer, jax.random.key(0))
    rows = jnp.tile(x, (epochs, 1)), jnp.tile(y, epochs)
    params = jax.jit(partial(training.scan, loss, optimizer))(state, rows)[0].params
    given: dict[str, Any] = {"max_iter": epochs, "tol": None, "shuffle": False}
    peer = linear_model.Perceptron(**given)
    peer.fit(x, y, coef_init=w[None], intercept_init=np.ones(1))
    return compared(HALF, params, peer, x)


DIABETES = partial(datasets.load_diabetes, scaled=False)
CANCER, IRIS = datasets.load_breast_cancer, datasets.load_iris
LOGITS = energies.Multiclass(lambda params, x: -linear(params, x))
MACHINES: dict[str, tuple[Callable[..., dict], Callable[[], Any], float]] = {
    "linear regression": (linear_regression, DIABETES, 1e-6),
    "logistic regression": (maximum_entropy, CANCER, 1e-4),
    "multinomial logistic": (partial(maximum_entropy, energy=LOGITS), IRIS, 1e-4),
    "linear SVM": (support_vectors, CANCER, 1e-3),
    "SVM on Gaussian bumps": (on_bumps, IRIS, 1e-3),
    "perceptron": (perceptron, CANCER, 1e-6),
}
"""Name -> (both machines compared, data, the largest difference allowed, relative to the largest coefficient)."""


def main(config: Config) -> dict:
    """Draw, check and compare; write the folder and return the result."""
    run, entries = runs.begin(config, "loss_gallery"), gallery()
    figures.draw_surfaces(entries, run.folder / "surfaces.png")
    shares = figures.draw_competition(run.folder / "competition.png")
    with jax.enable_x64(True):
        met = check_conditions(entries)
        agreement = {
            name: {"tolerance": tolerance, **compare(*standardised(load()))}
            for name, (compare, load, tolerance) in MACHINES.items()
        }
    result = {"competition": shares, "conditions": met, "agreement": agreement}
    tables = {"Sufficient conditions": met, "Linear machines and scikit-learn's": agreement}
    run.finish(result, *(runs.summary(*both) for both in tables.items()))
    for name, found in agreement.items():
        if not (found["difference"] <= found["tolerance"] and found["predictions"] == 1):
            shared.fail(f"{name}: not scikit-learn's machine within the tolerance")
    return result


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
