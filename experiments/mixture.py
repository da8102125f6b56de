"""Is it scikit-learn's? K-means and a Gaussian mixture from one energy by changing beta, and sparse codes.

The question: E(y, k) = -log of component k's weighted density has a latent k. Two steps are repeated: the posterior of
k at some beta, then the means (and where they are free, scales and weights) that minimise the energy averaged over it.
With equal weights and scales held fixed, is that K-means at beta = infinity? With all free, is it EM on a Gaussian
mixture at beta = 1, to the last digits? And do proximal steps on 1/2 ||y - z'A||^2 + l1 |z|_1 find the Lasso's codes?

Expected: the same centres, inertia and assignments as sklearn.cluster.KMeans; the same means, weights, variances and
log-likelihood (the free energy, negative) as sklearn.mixture.GaussianMixture; the same codes as
sklearn.decomposition.sparse_encode; all within TOLERANCES, or the script fails. The free energy never rises, at any
beta. In between, means merge as beta falls: below 1 / the largest eigenvalue of the data's covariance (in units
of the fixed scale) all are the mean of the data (Rose, Gurewitz & Fox 1990).

Protocol: iris, wine (standardised), digits (10 principal components) and three clusters drawn in the plane; float64.
Both sides start at the same rows, chosen by k-means++, with the data's overall variance and equal weights; the mixtures
take the same number of steps, with nothing added to variances and no early stop; between the two betas ten times as
many, as means part slowly. Sparse codes: patches of 8 x 8
pixels of the photograph china.jpg, each less its mean; a dictionary of 128 atoms learned by scikit-learn.
Minutes: about half of one on two cores.
"""

import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import shared
import sklearn
import tyro
from matplotlib.colors import to_rgb
from rich.table import Table
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import load_digits, load_iris, load_sample_image, load_wine
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import scale

from spen_jax import latent

# The largest differences allowed; relative for inertia, in number for assignments, absolute for all others.
TOLERANCES = {
    "kmeans": {"centres": 1e-12, "inertia": 1e-12, "assignments": 0},
    "gaussian_mixture": {
        "means": 1e-8,
        "weights": 1e-8,
        "variances": 1e-8,
        "responsibilities": 1e-7,
        "log_likelihood": 1e-10,
    },
    "sparse_coding": {"codes": 1e-4, "objective": 1e-7},
    "rise": 1e-10,
}
BETAS = (0.2, 0.32, 0.4, 1.0, float("inf"))
STEPS_TO_COMPARE = (10, 30, 100, 300)
ALPHA: Any = 0.1  # scikit-learn's types say it is an integer


@dataclass(frozen=True)
class Config:
    """K-means, Gaussian mixtures and sparse codes against scikit-learn's."""

    seed: int = 0
    """Of the clusters drawn, the starts and the patches."""

    steps: int = 200
    """Of generalised EM."""

    patches: int = 200
    """Patches to code."""

    sparse_steps: int = 3000
    """Proximal steps to the codes that are compared."""

    out: Path | None = None
    """Folder to write, new or empty; runs/mixture-<date> by default."""


class Data(NamedTuple):
    """Rows (N, D), and how many components to fit."""

    y: np.ndarray
    components: int


class Fit(NamedTuple):
    """Parameters of `latent.mixture`, and the mean free energy before each step and after the last."""

    params: dict[str, jax.Array]
    free_energy: jax.Array


def load(seed: int) -> dict[str, Data]:
    """All data sets."""
    rng = np.random.default_rng(seed)
    centres = np.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]])
    drawn = [
        c + s * rng.normal(size=(n, 2))
        for c, s, n in zip(centres, (0.9, 0.5, 0.7), (200, 100, 100), strict=True)
    ]
    digits = PCA(10, random_state=0).fit_transform(np.asarray(load_digits(return_X_y=True)[0]) / 16)
    return {
        "iris": Data(np.asarray(load_iris(return_X_y=True)[0]), 3),
        "wine": Data(scale(load_wine(return_X_y=True)[0]), 3),
        "digits": Data(digits, 10),
        "drawn": Data(np.concatenate(drawn), 3),
    }


def nodes_of(params: dict[str, Any]) -> latent.Nodes:
    """All components."""
    return latent.Nodes(jnp.arange(len(params["means"])))


def minimise(params: Any, y: jax.Array, q: jax.Array, free: bool) -> Any:
    """The parameters of the lowest mean over q, (N, K), of the energy; only the means where the rest is not `free`.

    A component that no row belongs to stays as it is.
    """
    count = jnp.sum(q, axis=0)
    used = count > 0
    safe = jnp.where(used, count, 1)
    means = jnp.where(used[:, None], q.T @ y / safe[:, None], params["means"])
    if not free:
        return params | {"means": means}
    distance = jnp.sum((y[:, None] - means[None]) ** 2, axis=-1)
    variances = jnp.sum(q * distance, axis=0) / (y.shape[1] * safe)
    log_scales = jnp.where(used, jnp.log(variances) / 2, params["log_scales"])
    return {"means": means, "log_scales": log_scales, "logits": jnp.log(count)}


@partial(jax.jit, static_argnames=("free", "steps"))
def fit(params: Any, y: jax.Array, beta: jax.Array | float, free: bool, steps: int) -> Fit:
    """Generalised EM: the posterior at beta, then the parameters, so many times."""

    def step(params, _):
        value = jnp.mean(free_energies(params, y, beta))
        return minimise(params, y, posterior(params, y, beta), free), (params, value)

    _, (each, values) = jax.lax.scan(step, params, length=steps + 1)
    return Fit(jax.tree.map(lambda a: a[-1], each), values)


@jax.jit
def free_energies(params: Any, y: jax.Array, beta: jax.Array | float) -> jax.Array:
    """F_beta(y), (N,)."""
    nodes = nodes_of(params)
    return latent.free_energy(latent.mixture, params, None, y, nodes, beta, average=False)


@jax.jit
def posterior(params: Any, y: jax.Array, beta: jax.Array | float) -> jax.Array:
    """P(k | y), (N, K)."""
    return latent.posterior(latent.mixture, params, None, y, nodes_of(params), beta)


def start(data: Data, seed: int, scale: float) -> dict[str, jax.Array]:
    """Means at rows of the data, equal weights and scales."""
    means, _ = kmeans_plusplus(data.y, data.components, random_state=seed)
    k = data.components
    return {
        "means": jnp.asarray(means),
        "log_scales": jnp.full(k, jnp.log(scale)),
        "logits": jnp.zeros(k),
    }


def largest(ours: Any, theirs: Any) -> float:
    """The largest absolute difference."""
    return float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs))))


def against_kmeans(data: Data, seed: int, steps: int) -> tuple[dict[str, Any], Fit]:
    """beta = infinity, equal weights and scales of 1 held fixed."""
    first = start(data, seed, 1.0)
    ours = fit(first, data.y, jnp.inf, free=False, steps=steps)
    init: Any = np.asarray(first["means"])
    once: Any = 1  # both are also text, and their types say that alone
    theirs = KMeans(data.components, init=init, n_init=once, tol=0).fit(data.y)
    q = posterior(ours.params, data.y, jnp.inf)
    # E = |y - mean|^2 / 2 + a constant, and its minimum over k is the cold free energy.
    constant = data.y.shape[1] * np.log(2 * np.pi) / 2 + np.log(data.components)
    inertia = 2 * len(data.y) * (float(ours.free_energy[-1]) - constant)
    different = np.sum(np.argmax(np.asarray(q), axis=1) != theirs.labels_)
    difference = {
        "centres": largest(ours.params["means"], theirs.cluster_centers_),
        "inertia": abs(inertia / theirs.inertia_ - 1),
        "assignments": int(different),
    }
    figures = {"inertia": inertia, "their_steps": theirs.n_iter_, "rise": rise(ours)}
    return {"difference": difference} | figures, ours


def against_gaussian_mixture(data: Data, seed: int, steps: int) -> tuple[dict[str, Any], Fit]:
    """beta = 1, everything free."""
    variance = float(np.mean(np.var(data.y, axis=0)))
    first = start(data, seed, np.sqrt(variance))
    ours = fit(first, data.y, 1.0, free=True, steps=steps)
    theirs = GaussianMixture(
        data.components,
        covariance_type="spherical",
        means_init=np.asarray(first["means"]),
        weights_init=np.full(data.components, 1 / data.components),
        precisions_init=np.full(data.components, 1 / variance),
        reg_covar=0,
        tol=0,
        max_iter=steps,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is told to take every step
        theirs.fit(data.y)
    params = ours.params
    q = posterior(params, data.y, 1.0)
    likelihood = -float(ours.free_energy[-1])
    difference = {
        "means": largest(params["means"], theirs.means_),
        "weights": largest(jax.nn.softmax(params["logits"]), theirs.weights_),
        "variances": largest(jnp.exp(2 * params["log_scales"]), theirs.covariances_),
        "responsibilities": largest(q, theirs.predict_proba(data.y)),
        "log_likelihood": abs(likelihood - theirs.score(data.y)),
    }
    last = float(ours.free_energy[-2] - ours.free_energy[-1])
    figures = {"log_likelihood": likelihood, "last_step_gained": last, "rise": rise(ours)}
    return {"difference": difference} | figures, ours


def rise(fitted: Fit) -> float:
    """By how much the free energy ever rose in a step."""
    return max(0.0, float(np.max(np.diff(np.asarray(fitted.free_energy)))))


def patches_and_dictionary(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches (count, 64), the mean of each taken away, and atoms (128, 64) learned on others."""
    grey = np.mean(load_sample_image("china.jpg"), axis=-1) / 255
    many = extract_patches_2d(grey, (8, 8), max_patches=count + 1000, random_state=seed)
    many = many.reshape(len(many), -1)
    many = many - many.mean(axis=1, keepdims=True)
    learner = MiniBatchDictionaryLearning(
        128, alpha=ALPHA, batch_size=256, max_iter=1, random_state=seed
    )
    return many[:count], learner.fit(many[count:]).components_


def sparse_codes(config: Config) -> dict[str, Any]:
    """The codes of proximal steps against scikit-learn's, and ISTA against FISTA after equal steps."""
    y, atoms = patches_and_dictionary(config.patches, config.seed)
    theirs = sparse_encode(y, atoms, algorithm="lasso_cd", alpha=ALPHA, max_iter=10_000)
    nothing = jnp.zeros((len(y), len(atoms)))
    encode = partial(latent.fista, latent.reconstruction, jnp.asarray(atoms), None, y, nothing)
    encode = partial(encode, l1=ALPHA, step_size=1 / np.linalg.norm(atoms, 2) ** 2)
    ours = encode(steps=config.sparse_steps)
    objective = np.sum((y - theirs @ atoms) ** 2, axis=1) / 2 + ALPHA * np.abs(theirs).sum(axis=1)
    lowest = float(np.mean(ours.energy))
    excess = {
        name: [
            float(np.mean(encode(steps=steps, accelerated=name == "fista").energy)) - lowest
            for steps in STEPS_TO_COMPARE
        ]
        for name in ("ista", "fista")
    }
    return {
        "difference": {
            "codes": largest(ours.z, theirs),
            "objective": largest(ours.energy, objective),
        },
        "largest_code": float(np.max(np.abs(theirs))),
        "share_of_codes_not_0": float(np.mean(theirs != 0)),
        "residual": float(np.max(ours.residual)),
        "objective": lowest,
        "steps": STEPS_TO_COMPARE,
        "excess_after_steps": excess,
    }


def anneal(data: Data, seed: int, steps: int) -> tuple[dict[float, Fit], dict[str, Any]]:
    """Means alone, scales of 1, from cold to hot, each beta from the solution of the one before."""
    params, fits = start(data, seed, 1.0), {}
    for beta in sorted(BETAS, reverse=True):
        fits[beta] = fit(params, data.y, beta, free=False, steps=steps)
        params = fits[beta].params
    merged = 1 / float(np.linalg.eigvalsh(np.cov(data.y.T, bias=True))[-1])
    each = {
        "inf" if beta == np.inf else f"{beta:g}": {
            "distinct_means": distinct(np.asarray(fitted.params["means"])),
            "from_the_mean": largest(fitted.params["means"], data.y.mean(axis=0)[None]),
            "rise": rise(fitted),
        }
        for beta, fitted in fits.items()
    }
    return fits, {"one_mean_below_beta": merged, "betas": each}


def distinct(means: np.ndarray) -> int:
    """How many means are at least 0.1 apart from all before them."""
    far = [np.linalg.norm(m - means[:i], axis=1) > 0.1 for i, m in enumerate(means)]
    return sum(bool(np.all(f)) for f in far)


def draw_annealing(data: Data, fits: dict[float, Fit], path: Path) -> None:
    """The free energy of every place in the plane, and the rows in the colours of their posterior."""
    low, high = data.y.min(axis=0) - 0.5, data.y.max(axis=0) + 0.5
    across, up = (np.linspace(a, b, 80) for a, b in zip(low, high, strict=True))
    plane = np.stack(np.meshgrid(across, up), axis=-1)
    colours = np.array([to_rgb(c) for c in ("tab:red", "tab:green", "tab:blue")])
    figure, axes = plt.subplots(
        2, len(fits), figsize=(2.7 * len(fits), 5), layout="constrained", sharex=True, sharey=True
    )
    for column, (beta, fitted) in zip(axes.T, fits.items(), strict=True):
        params = fitted.params
        surface = free_energies(params, plane.reshape(-1, 2), beta)
        q = posterior(params, data.y, beta)
        surface = np.asarray(surface).reshape(plane.shape[:2])
        surface = surface - surface.min()
        drawn = column[0].contourf(across, up, surface, np.linspace(0, 12, 25), extend="max")
        if beta == BETAS[0]:
            bar = figure.colorbar(drawn, ax=axes, ticks=[0, 4, 8, 12], pad=0.01, aspect=40)
            bar.set_label("free energy above its minimum")
        column[1].scatter(*data.y.T, c=np.asarray(q) @ colours, s=5)
        for axis, colour in zip(column, ("w", "k"), strict=True):
            axis.plot(*np.asarray(params["means"]).T, "x", color=colour, ms=8, mew=2)
            axis.set(aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        column[0].set_title("β = ∞" if beta == np.inf else f"β = {beta:g}")
    axes[0, 0].set_ylabel("free energy")
    axes[1, 0].set_ylabel("posterior of the rows")
    figure.suptitle("Means (crosses) trained at each β, scales of 1 held fixed: cold to hot")
    shared.save_figure(figure, path, colours=128)


def draw_training(fits: dict[str, dict[str, Fit]], sparse: dict[str, Any], path: Path) -> None:
    """The free energy above its last value against steps, and the objective of sparse codes above its lowest."""
    titles = {"kmeans": "K-means: β = ∞", "gaussian_mixture": "Gaussian mixture: β = 1"}
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore
    for axis, (method, title) in zip(axes, titles.items(), strict=False):
        for name, fitted in fits[method].items():
            above = np.asarray(fitted.free_energy) - float(fitted.free_energy[-1])
            above = above[: np.argmax(above < 1e-12) or None]
            axis.plot(above, ".-", ms=3, lw=1, label=name)
        axis.set(yscale="log", title=title, xlabel="steps")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean free energy above the last")
    axes[1].legend()
    for name, values in sparse["excess_after_steps"].items():
        axes[2].plot(sparse["steps"], np.maximum(values, 1e-16), "o-", label=name.upper())
    axes[2].set(
        xscale="log",
        yscale="log",
        title="Sparse codes",
        xlabel="proximal steps",
        ylabel="mean objective above the lowest",
    )
    axes[2].set_xticks(sparse["steps"], sparse["steps"])
    axes[2].minorticks_off()
    axes[2].grid(alpha=0.3)
    axes[2].legend()
    shared.save_figure(figure, path, colours=128)


def beyond(result: dict[str, Any]) -> list[str]:
    """What is beyond its tolerance, in words."""
    found = []

    def check(where, measured, allowed):
        for quantity, difference in measured.items():
            if not difference <= allowed[quantity]:  # what is not a number is beyond, too
                found.append(f"{where} {quantity} {difference:.2g} > {allowed[quantity]:g}")

    for method in ("kmeans", "gaussian_mixture"):
        for name, figures in result[method].items():
            check(f"{method} {name}", figures["difference"], TOLERANCES[method])
            check(f"{method} {name}", {"rise": figures["rise"]}, TOLERANCES)
    check("sparse codes", result["sparse_coding"]["difference"], TOLERANCES["sparse_coding"])
    for beta, figures in result["annealing"]["betas"].items():
        check(f"beta {beta}", {"rise": figures["rise"]}, TOLERANCES)
    return found


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    began = time.perf_counter()
    for name, least in (("seed", 0), ("steps", 1), ("patches", 1), ("sparse_steps", 1)):
        if getattr(config, name) < least:
            option = name.replace("_", "-")
            shared.fail(f"--{option} must be at least {least}, got {getattr(config, name)}")
    folder = shared.new_folder(config.out, "mixture")
    shared.write_json(folder / "config.json", vars(config))
    methods = {"kmeans": against_kmeans, "gaussian_mixture": against_gaussian_mixture}
    result: dict[str, Any] = {method: {} for method in methods}
    fits: dict[str, dict[str, Fit]] = {method: {} for method in methods}
    with jax.enable_x64(True):
        sets = load(config.seed)
        for method, compare in methods.items():
            for name, data in sets.items():
                figures, fits[method][name] = compare(data, config.seed, config.steps)
                result[method][name] = figures
        annealed, result["annealing"] = anneal(sets["drawn"], config.seed, 10 * config.steps)
        result["sparse_coding"] = sparse_codes(config)
        draw_annealing(sets["drawn"], annealed, folder / "annealing.png")
    draw_training(fits, result["sparse_coding"], folder / "training.png")
    shapes = {n: {"rows": d.y.shape, "components": d.components} for n, d in sets.items()}
    result |= {
        "tolerances": TOLERANCES,
        "beyond": beyond(result),
        "data": shapes,
        "environment": shared.environment() | {"scikit-learn": sklearn.__version__},
        "seconds": time.perf_counter() - began,
    }
    shared.write_json(folder / "result.json", result)
    report(result, folder)
    if result["beyond"]:
        shared.fail(f"not as scikit-learn: {'; '.join(result['beyond'])}")
    return result


def report(result: dict, folder: Path) -> None:
    """Print a table of all differences."""
    table = Table("", "data", "largest differences from scikit-learn")

    def words(figures):
        return ", ".join(f"{quantity} {d:.1e}" for quantity, d in figures["difference"].items())

    for method, title in (("kmeans", "K-means"), ("gaussian_mixture", "Gaussian mixture")):
        for name, figures in result[method].items():
            table.add_row(title, name, words(figures))
    table.add_row("sparse codes", "china.jpg", words(result["sparse_coding"]))
    shared.console.print(table)
    betas = result["annealing"]["betas"].items()
    means = ", ".join(f"{beta}: {figures['distinct_means']}" for beta, figures in betas)
    below = result["annealing"]["one_mean_below_beta"]
    shared.console.print(f"distinct means at each beta: {means}; one below {below:.2f} expected")
    for steps, *excess in zip(
        result["sparse_coding"]["steps"],
        *result["sparse_coding"]["excess_after_steps"].values(),
        strict=True,
    ):
        words_of = "ISTA {:.2e}, FISTA {:.2e}".format(*excess)
        shared.console.print(f"objective above its lowest after {steps} steps: {words_of}")
    shared.console.print(f"{result['seconds']:.0f} s; wrote {folder}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
