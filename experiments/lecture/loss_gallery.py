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
from jax.flatten_util import ravel_pytree
from sklearn import datasets, linear_model, svm

import spen_jax as sx
from experiments import shared
from experiments.lecture import loss_gallery_figures as figures
from experiments.lecture import runs
from experiments.lecture.loss_gallery_figures import Entry
from spen_jax import energies, exact, losses, training
from spen_jax.energies import linear


@dataclass(frozen=True)
class Config:
    """Loss surfaces, conditions, and classical machines against scikit-learn."""

    out: Path | None = None  # Folder to write, new or empty; runs/loss_gallery-<date> by default.


def gallery() -> dict[str, Entry]:
    """Every loss of the lectures, for two answers; m, K and beta are 1 where the equation does not say."""
    perceptron = losses.as_pair(losses.perceptron)
    nll = losses.as_pair(partial(losses.nll, beta=3.0))
    error = losses.as_pair(partial(losses.minimum_empirical_error, beta=3.0))
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
    wrong = losses.most_offending(costs, species).index
    # From three features to the fourth; answers less than half a standard deviation off count as correct.
    implicit = energies.ImplicitRegressor(network, network)
    nets = {name: {"hidden": layer(n, 8), "out": layer(8, 4)} for name, n in (("x", 3), ("y", 1))}
    grid = jnp.linspace(-2.5, 2.5, 101)[:, None]
    allowed = jax.vmap(losses.outside_ball, (None, 0, None))(grid, x[:, 3:], 0.5)
    costs = exact.pairwise(implicit, nets, x[:, :3], grid)
    far = grid[losses.most_offending(costs, allowed=allowed).index]
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
            report = losses.check(entry.loss, margin, lowest=lowest)
            row[sign] = {"minima": report.minima, "descends": report.descends}
        for model, (energy, *rest) in models.items():
            dots = partial(losses.in_weights, entry.loss, energy, margin=margin)
            row[f"in_weights_{model}"] = float(jnp.mean(jax.jit(dots)(*rest) > 0))
    return found


HALF = energies.Binary(lambda params, x: linear(params, x) / 2)
"""E = -1/2 y (w'x + b), the lecture's form of logistic regression."""
REGRESSOR = energies.Regressor(linear)
LOGITS = energies.Multiclass(lambda params, x: -linear(params, x))
SIGNS = np.array([-1.0, 1.0])
LBFGS = sx.Optax(optax.lbfgs(memory_size=30))


def standardised(data: Any) -> tuple[jax.Array, jax.Array]:
    """The features with mean 0 and standard deviation 1, and the targets."""
    x = np.asarray(data.data, float)
    return jnp.asarray((x - x.mean(0)) / x.std(0)), jnp.asarray(data.target)


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


def energy_loss(of: Callable, y: jax.Array, _: Any) -> jax.Array:
    """That of the answer."""
    return losses.energy_loss(of(y))


def likelihood(of: Callable, y: jax.Array, beta: Any) -> jax.Array:
    """The NLL over all answers."""
    everything = jnp.stack([of(jnp.full_like(y, answer)) for answer in np.unique(y)], axis=-1)
    return losses.nll(of(y), everything, beta)


def hinge(of: Callable, y: jax.Array, beta: Any) -> jax.Array:
    """The hinge loss of two answers, as beta grows."""
    return losses.log_loss(of(y), of(-y), 1.0, beta)


def fitted(
    energy: Any, loss: Any, peer: Any, x: Any, y: Any, *, outputs=(), penalised="w", betas=(1.0,)
) -> dict[str, float]:
    """The sum of loss(of, y, beta), of(y) the energies of y, and 1/2 ||penalised||^2, minimised by L-BFGS from 0.

    The objective is an energy, and the parameters are its answer; each beta starts where the last one ended.
    """
    y = y[:, None] if energy is REGRESSOR else SIGNS[y] if energy is HALF else y
    w, b = jnp.zeros((x.shape[1], *outputs)), jnp.zeros(outputs)
    flat, restored = ravel_pytree({"w": w, "b": b})

    def objective(_, beta, flat):
        params = restored(flat)
        value = jnp.sum(loss(lambda y: jax.vmap(energy, (None, 0, 0))(params, x, y), y, beta))
        return value + sum(jnp.sum(params[name] ** 2) / 2 for name in penalised)

    options = {"domain": sx.Reals(), "solver": LBFGS, "steps": 400}
    for beta in betas:
        flat = sx.minimize(objective, None, jnp.full(1, beta), flat[None], **options).y[0]
    return compared(energy, restored(flat), peer.fit(x, y), x)


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


def on_bumps(x: jax.Array, y: jax.Array) -> dict[str, float]:
    """The two irises that are hard to tell apart, by a Gaussian bump on each of their 100 rows."""
    bumps = jax.vmap(energies.gaussian_bumps, (0, None, None))(x[50:], x[50:], 1.0)
    return SUPPORT_VECTORS(bumps, y[50:] - 1)


DIABETES = partial(datasets.load_diabetes, scaled=False)
CANCER, IRIS = datasets.load_breast_cancer, datasets.load_iris
LEAST_SQUARES = linear_model.LinearRegression()
LOGISTIC = linear_model.LogisticRegression(tol=1e-10, max_iter=10_000)
LINEAR_SVM = svm.LinearSVC(loss="hinge", tol=1e-9, max_iter=10_000_000, random_state=0)
REGRESSION = partial(fitted, REGRESSOR, energy_loss, LEAST_SQUARES, outputs=(1,), penalised="")
MAXIMUM_ENTROPY = partial(fitted, LOGITS, likelihood, LOGISTIC, outputs=(3,))
LIMIT = (1.0, 1e2, 1e4, 1e6)
# As in liblinear the intercept is penalised too.
SUPPORT_VECTORS = partial(fitted, HALF, hinge, LINEAR_SVM, penalised="wb", betas=LIMIT)
MACHINES: dict[str, tuple[Callable[..., dict], Callable[[], Any], float]] = {
    "linear regression": (REGRESSION, DIABETES, 1e-6),
    "logistic regression": (partial(fitted, HALF, likelihood, LOGISTIC), CANCER, 1e-4),
    "multinomial logistic": (MAXIMUM_ENTROPY, IRIS, 1e-4),
    "linear SVM": (SUPPORT_VECTORS, CANCER, 1e-3),
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
    shown = "any_sign", "at_least_0", "in_weights_classifier", "in_weights_implicit"
    tables = runs.summary("Conditions", met, shown), runs.summary("Linear machines", agreement)
    run.finish(result, *tables)
    for name, found in agreement.items():
        if not (found["difference"] <= found["tolerance"] and found["predictions"] == 1):
            shared.fail(f"{name}: not scikit-learn's machine within the tolerance")
    return result


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)
