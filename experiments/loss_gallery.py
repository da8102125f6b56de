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

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import shared
import tyro
from loss_gallery_figures import MARGINS, Entry, draw_competition, draw_surfaces
from rich.table import Table
from sklearn import datasets, linear_model, svm

from spen_jax import architectures, conditions, gibbs, losses, negatives
from spen_jax.architectures import linear

Loss = Callable[..., jax.Array]


@dataclass(frozen=True)
class Config:
    """Loss surfaces, conditions, and classical machines against scikit-learn."""

    strength: float = 1.0
    """C of logistic regression and of the SVMs: the weight of the loss against 1/2 ||w||^2."""

    width: float = 1.0
    """Of the Gaussian bumps; each feature has standard deviation 1."""

    epochs: int = 20
    """Of the perceptron."""

    out: Path | None = None
    """Folder to write, new or empty; runs/loss_gallery-<date> by default."""


def gallery() -> dict[str, Entry]:
    """Every loss of the lectures, for two answers; m, K and beta are 1 where the equation does not say."""

    def energy(c, w):
        return losses.energy_loss(c) + 0 * w

    def info_nce(c, w):
        return losses.info_nce(c, w[..., None], 0.5)

    perceptron = conditions.as_pair(losses.perceptron)
    nll = conditions.as_pair(partial(losses.nll, beta=3.0))
    error = conditions.as_pair(partial(losses.minimum_empirical_error, beta=3.0))
    square, sum_y = losses.square_square, r"\Sigma_y\, e^{-\beta E_y}"
    entries = {
        "energy": Entry(energy, "$E_c$", "none"),
        "perceptron": Entry(perceptron, r"$E_c - \mathrm{min}_y\, E_y$", "0"),
        "hinge": Entry(losses.hinge, r"$\max(0,\, m + E_c - E_w)$", "m"),
        "log": Entry(losses.log_loss, r"$\log(1 + e^{E_c - E_w})$", "positive"),
        "MCE": Entry(losses.mce, r"$1\,/\,(1 + e^{E_w - E_c})$", "positive"),
        "square-square": Entry(square, r"$\max(0, E_c)^2 + \max(0, m - E_w)^2$", "m"),
        "square-exponential": Entry(losses.square_exponential, "$E_c^2 + e^{-E_w}$", "positive"),
        "simple pair": Entry(losses.simple_pair, r"$\max(0, E_c) + \max(0, m - E_w)$", "m"),
        "NLL": Entry(nll, rf"$E_c + \log({sum_y})/\beta,\ \beta = 3$", "positive"),
        "minimum empirical error": Entry(
            error, rf"$1 - e^{{-\beta E_c}} /\, {sum_y},\ \beta = 3$", "positive"
        ),
        "InfoNCE": Entry(info_nce, r"$\log(1 + e^{(E_c - E_w)/t}),\ t = 1/2$", "positive"),
    }
    return {name: e._replace(loss=jax.jit(e.loss)) for name, e in entries.items()}


# The conditions.


def network(params: Any, x: jax.Array) -> jax.Array:
    """One hidden layer of tanh units."""
    return linear(params["out"], jnp.tanh(linear(params["hidden"], x)))


def untrained_models() -> dict[str, tuple]:
    """Name -> (energy, params, x, correct y, most offending y), on the irises."""
    draw = np.random.default_rng(0).normal

    def layer(inputs, outputs):
        return {
            "w": jnp.asarray(draw(size=(inputs, outputs)) / inputs**0.5),
            "b": jnp.zeros(outputs),
        }

    x, species = standardised(datasets.load_iris())
    classifier, params = architectures.Multiclass(linear), layer(4, 3)
    energies = jax.vmap(classifier.energies, (None, 0))(params, x)
    wrong = negatives.most_offending(energies, species).index
    # From three features to the fourth; answers less than half a standard deviation off count as correct.
    implicit = architectures.ImplicitRegressor(network, network)
    nets = {name: {"hidden": layer(n, 8), "out": layer(8, 4)} for name, n in (("x", 3), ("y", 1))}
    grid = jnp.linspace(-2.5, 2.5, 101)[:, None]
    allowed = jax.vmap(negatives.outside_ball, (None, 0, None))(grid, x[:, 3:], 0.5)
    energies = gibbs.pairwise(implicit, nets, x[:, :3], grid)
    far = grid[negatives.most_offending(energies, allowed=allowed).index]
    return {
        "classifier": (classifier, params, x, species, wrong),
        "implicit": (implicit, nets, x[:, :3], x[:, 3:], far),
    }


def check_conditions(entries: dict[str, Entry]) -> dict[str, Any]:
    """Name -> the published margin, the one tested, and what holds there."""
    models, found = untrained_models(), {}
    for name, entry in entries.items():
        margin = MARGINS[entry.margin]
        found[name] = row = {"margin": entry.margin, "tested": margin}
        for sign, lowest in (("any_sign", -np.inf), ("at_least_0", 0.0)):
            report = conditions.check(entry.loss, margin, lowest=lowest)
            row[sign] = {"minima": report.minima, "descends": report.descends}
        for model, (energy, *rest) in models.items():
            dots = partial(conditions.in_weights, entry.loss, energy, margin=margin)
            row[f"in_weights_{model}"] = float(jnp.mean(jax.jit(dots)(*rest) > 0))
    return found


# The machines: each is trained with its loss, and compared with scikit-learn's.

HALF = architectures.Binary(lambda params, x: linear(params, x) / 2)
"""E = -1/2 y (w'x + b), the lecture's form of logistic regression."""
SIGNS = np.array([-1.0, 1.0])


class Machines(NamedTuple):
    """What two machines that should be one have learned, and what they answer on the training rows."""

    ours: Any
    theirs: Any
    predicted: Any
    expected: Any
    more: dict[str, Any] = {}


def standardised(data: Any) -> tuple[jax.Array, jax.Array]:
    """The features with mean 0 and standard deviation 1, and the targets."""
    x = np.asarray(data.data, float)
    return jnp.asarray((x - x.mean(0)) / x.std(0)), jnp.asarray(data.target)


def cancer() -> tuple[jax.Array, jax.Array]:
    """The breast cancer data, y in {-1, +1}."""
    x, y = standardised(datasets.load_breast_cancer())
    return x, 2.0 * y - 1


def trained(objective: Loss, params: Any, betas: tuple[float, ...] = (1.0,)) -> Any:
    """The minimiser of objective(params, beta) by L-BFGS, at each beta from where the last one ended."""
    solver = optax.lbfgs(memory_size=30)

    @jax.jit
    def solve(params, beta):
        at_beta = partial(objective, beta=beta)
        value_and_grad = optax.value_and_grad_from_state(at_beta)

        def step(carry):
            params, state, _ = carry
            value, grad = value_and_grad(params, state=state)
            given = {"value": value, "grad": grad, "value_fn": at_beta}
            updates, state = solver.update(grad, state, params, **given)
            return optax.apply_updates(params, updates), state, optax.tree.norm(grad)

        def unfinished(carry):
            return (carry[2] > 1e-9) & (optax.tree.get(carry[1], "count") < 2000)

        start = (params, solver.init(params), jnp.asarray(jnp.inf))
        return jax.lax.while_loop(unfinished, step, start)[0]

    for beta in betas:
        params = solve(params, beta)
    return params


def zeros(*shape: int) -> dict[str, jax.Array]:
    """Parameters of `linear` from which to start."""
    return {"w": jnp.zeros(shape), "b": jnp.zeros(shape[1:])}


def coefficients(params: Any, peer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of our and of scikit-learn's machine, the intercept last."""
    return np.append(params["w"], params["b"]), np.append(peer.coef_, peer.intercept_)


def linear_regression(_: Config) -> Machines:
    """Quadratic energy and energy loss, on the diabetes data."""
    x, y = standardised(datasets.load_diabetes(scaled=False))
    machine, y = architectures.Regressor(linear), y[:, None]

    def objective(params, beta):
        return jnp.mean(losses.energy_loss(jax.vmap(machine, (None, 0, 0))(params, x, y)))

    params = trained(objective, zeros(x.shape[1], 1))
    peer = linear_model.LinearRegression().fit(x, y)
    return Machines(
        *coefficients(params, peer), jax.vmap(machine.best, (None, 0))(params, x), peer.predict(x)
    )


def likelihood(machine: Any, x: Any, y: Any, answers: Any, params: Any, c: float) -> tuple:
    """What a machine learns from the NLL over all answers and 1/2 ||w||^2; and scikit-learn's machine."""

    def objective(params, beta):
        correct = jax.vmap(machine, (None, 0, 0))(params, x, y)
        everything = gibbs.pairwise(machine, params, x, jnp.asarray(answers))
        return c * jnp.sum(losses.nll(correct, everything, beta)) + jnp.sum(params["w"] ** 2) / 2

    peer = linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, y)
    return trained(objective, params), peer


def logistic_regression(config: Config) -> Machines:
    """E = -1/2 y (w'x + b), on the breast cancer data."""
    x, y = cancer()
    params, peer = likelihood(HALF, x, y, SIGNS, zeros(x.shape[1]), config.strength)
    return Machines(*coefficients(params, peer), HALF.best(params, x), peer.predict(x))


def multinomial(config: Config) -> Machines:
    """One linear cost for each kind of iris; costs are minus logits, and a number added to all changes no answer."""
    x, y = standardised(datasets.load_iris())
    machine = architectures.Multiclass(linear)
    params, peer = likelihood(machine, x, y, np.arange(3), zeros(x.shape[1], 3), config.strength)
    peer.intercept_ -= np.mean(peer.intercept_)
    logits = {"w": -params["w"].T, "b": np.mean(params["b"]) - params["b"]}
    return Machines(
        *coefficients(logits, peer), jax.vmap(machine.best, (None, 0))(params, x), peer.predict(x)
    )


def support_vectors(config: Config, x: jax.Array, y: jax.Array) -> Machines:
    """E = -1/2 y w'(x, 1), 1/2 ||w||^2 and the hinge loss, as a limit; liblinear penalises the intercept too."""
    x = jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)

    def objective(w, beta):
        energies = jax.vmap(partial(HALF, {"w": w, "b": 0.0}))
        loss = losses.log_loss(energies(x, y), energies(x, -y), 1.0, beta)
        return config.strength * jnp.sum(loss) + jnp.sum(w**2) / 2

    w = trained(objective, jnp.zeros(x.shape[1]), (1.0, 1e2, 1e4, 1e6))
    given = {"C": config.strength, "tol": 1e-9, "max_iter": 10_000_000, "random_state": 0}
    peer = svm.LinearSVC(loss="hinge", fit_intercept=False, **given).fit(x, y)
    both = {"spen_jax": w, "scikit_learn": jnp.asarray(peer.coef_[0])}
    hinge = {name: objective(w, jnp.inf) for name, w in both.items()}
    predicted, more = HALF.best({"w": w, "b": 0.0}, x), {"hinge_objective": hinge}
    return Machines(w, peer.coef_[0], predicted, peer.predict(x), more)


def bumps(config: Config) -> tuple[jax.Array, jax.Array]:
    """The two kinds of irises that are hard to tell apart, by a Gaussian bump on each of their 100 rows."""
    x, y = (a[50:] for a in standardised(datasets.load_iris()))
    of_row = jax.vmap(architectures.gaussian_bumps, (0, None, None))
    return of_row(x, x, config.width), jnp.where(y == 2, 1.0, -1.0)


def perceptron(config: Config) -> Machines:
    """E = -1/2 y (w'x + b), the perceptron loss and a step of 1 after each row, on the breast cancer data."""
    x, y = cancer()
    start = np.random.default_rng(0).normal(size=x.shape[1])
    optimizer = optax.sgd(1.0)

    def loss(params, x, y):
        energies = jax.vmap(HALF, (None, None, 0))(params, x, jnp.asarray(SIGNS))
        return losses.perceptron(HALF(params, x, y), energies)

    def step(carry, row):
        updates, state = optimizer.update(jax.grad(loss)(carry[0], *row), carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    epoch = jax.jit(lambda carry: jax.lax.scan(step, carry, (x, y))[0])
    carry = {"w": jnp.asarray(start), "b": jnp.ones(())}
    carry = carry, optimizer.init(carry)
    for _ in range(config.epochs):
        carry = epoch(carry)
    given: dict[str, Any] = {"max_iter": config.epochs, "tol": None, "shuffle": False}
    peer = linear_model.Perceptron(**given)
    peer.fit(x, y, coef_init=start[None], intercept_init=np.ones(1))
    return Machines(*coefficients(carry[0], peer), HALF.best(carry[0], x), peer.predict(x))


MACHINES = {
    "linear regression": (linear_regression, 1e-6),
    "logistic regression": (logistic_regression, 1e-4),
    "multinomial logistic": (multinomial, 1e-4),
    "linear SVM": (lambda config: support_vectors(config, *cancer()), 1e-3),
    "SVM on Gaussian bumps": (lambda config: support_vectors(config, *bumps(config)), 1e-3),
    "perceptron": (perceptron, 1e-6),
}
"""Name -> (both machines, the largest difference allowed, relative to the largest coefficient)."""


def compared(pair: Machines, tolerance: float) -> dict[str, Any]:
    """The difference of the coefficients, its tolerance, and the share of rows with the same answer."""
    ours, theirs, predicted, expected = map(np.asarray, pair[:4])
    return {
        "difference": np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)),
        "tolerance": tolerance,
        "predictions": np.mean(np.isclose(predicted, expected, rtol=tolerance, atol=0)),
        **pair.more,
    }


def disagreements(agreement: dict[str, Any]) -> list[str]:
    """The machines whose coefficients differ by more than the tolerance, or any of whose answers do."""

    def agrees(found):
        return found["difference"] <= found["tolerance"] and found["predictions"] == 1

    return [name for name, found in agreement.items() if not agrees(found)]


def main(config: Config) -> dict:
    """Draw, check and compare; write the folder and return the result."""
    start = time.perf_counter()
    if not min(config.strength, config.width, config.epochs) > 0:
        shared.fail("--strength, --width and --epochs must be above 0")
    folder = shared.new_folder(config.out, "loss_gallery")
    shared.write_json(folder / "config.json", vars(config))
    entries = gallery()
    draw_surfaces(entries, folder / "surfaces.png")
    result: dict[str, Any] = {"competition": draw_competition(folder / "competition.png")}
    with jax.enable_x64(True):
        result["conditions"] = check_conditions(entries)
        result["agreement"] = {name: compared(f(config), t) for name, (f, t) in MACHINES.items()}
    result |= {"environment": shared.environment(), "seconds": time.perf_counter() - start}
    shared.write_json(folder / "result.json", result)
    report(result, folder)
    if wrong := disagreements(result["agreement"]):
        shared.fail(f"not scikit-learn's machine within the tolerance: {', '.join(wrong)}")
    return result


def report(result: dict, folder: Path) -> None:
    """Print both tables."""
    caption = (
        "1 and 2 for energies of any sign, and of at least 0; "
        "3 in % of 150 irises, by a classifier and by an implicit regressor"
    )
    table = Table(title="Sufficient conditions on the loss", caption=caption)
    for column in ("loss", "margin", "tested", "1", "2", "3"):
        table.add_column(column, no_wrap=True)
    for name, row in result["conditions"].items():
        signs = row["any_sign"], row["at_least_0"]
        holds = (", ".join("yes" if s[c] else "no" for s in signs) for c in ("minima", "descends"))
        shares = (f"{100 * row[f'in_weights_{m}']:.0f}" for m in ("classifier", "implicit"))
        table.add_row(name, row["margin"], f"{row['tested']:g}", *holds, ", ".join(shares))
    shared.console.print(table)
    columns = ("machine", "largest difference", "allowed", "same answers")
    table = Table(*columns, title="Coefficients of linear machines, against scikit-learn's")
    for name, found in result["agreement"].items():
        numbers = (f"{found['difference']:.0e}", f"{found['tolerance']:.0e}")
        table.add_row(name, *numbers, f"{found['predictions']:.1%}")
    shared.console.print(table)
    for name, found in result["agreement"].items():
        if hinge := found.get("hinge_objective"):
            ours, theirs = hinge["spen_jax"], hinge["scikit_learn"]
            shared.console.print(f"{name}: hinge objective {ours:.6f}, scikit-learn {theirs:.6f}")
    shared.console.print(f"{result['seconds']:.0f} s; wrote {folder}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
