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
many, as means part slowly. Sparse codes: 200 patches of 8 x 8 pixels of the photograph china.jpg, each less its mean,
by 3000 steps; a dictionary of 128 atoms learned by scikit-learn.
Minutes: about half of one on two cores.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import sklearn
import tyro
from matplotlib.colors import to_rgb
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import load_digits, load_iris, load_sample_image, load_wine
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import scale

from experiments import shared
from experiments.lecture import runs
from spen_jax import energies, exact, inference

# The largest differences allowed; relative for inertia, in number for assignments, absolute for all others.
EM = {"means": 1e-8, "weights": 1e-8, "variances": 1e-8, "responsibilities": 1e-7}
TOLERANCES = {
    "kmeans": {"centres": 1e-12, "inertia": 1e-12, "assignments": 0},
    "gaussian_mixture": EM | {"log_likelihood": 1e-10},
    "sparse_coding": {"codes": 1e-4, "objective": 1e-7},
    "rise": 1e-10,
}
METHODS = {"kmeans": "K-means: β = ∞", "gaussian_mixture": "Gaussian mixture: β = 1"}
BETAS = (float("inf"), 1.0, 0.4, 0.32, 0.2)
PATCHES, SPARSE_STEPS = 200, 3000
STEPS_TO_COMPARE = (10, 30, 100, 300)
ALPHA: Any = 0.1  # scikit-learn's types say it is an integer


@dataclass(frozen=True)
class Config:
    """K-means, Gaussian mixtures and sparse codes against scikit-learn's."""

    seed: int = 0
    """Of the clusters drawn, the starts and the patches."""

    steps: int = 200
    """Of generalised EM."""

    out: Path | None = None
    """Folder to write, new or empty; runs/mixture-<date> by default."""


class Data(NamedTuple):
    """Rows (N, D), and how many components to fit."""

    y: np.ndarray
    components: int


class Fit(NamedTuple):
    """Parameters of `energies.mixture`, and the mean free energy before each step and after the last."""

    params: dict[str, jax.Array]
    free_energy: jax.Array

    @property
    def rise(self) -> float:
        """By how much the free energy ever rose in a step."""
        return max(0.0, float(np.max(np.diff(np.asarray(self.free_energy)))))


def load(seed: int) -> dict[str, Data]:
    """All data sets."""
    rng = np.random.default_rng(seed)
    clusters = ((-2.0, 0.0), 0.9, 200), ((2.0, 0.0), 0.5, 100), ((0.0, 2.5), 0.7, 100)
    drawn = [np.array([c]) + s * rng.normal(size=(n, 2)) for c, s, n in clusters]
    iris, wine, digits = (
        np.asarray(of(return_X_y=True)[0]) for of in (load_iris, load_wine, load_digits)
    )
    return {
        "iris": Data(iris, 3),
        "wine": Data(scale(wine), 3),
        "digits": Data(PCA(10, random_state=0).fit_transform(digits / 16), 10),
        "drawn": Data(np.concatenate(drawn), 3),
    }


@jax.jit
def expect(params: Any, y: jax.Array, beta: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """F_beta(y), (N,), and P(k | y), (N, K)."""
    nodes = exact.Nodes(jnp.arange(len(params["means"])))
    of = energies.mixture, params, None, y, nodes, beta
    return exact.free_energy(*of, average=False), exact.posterior(*of)


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
        value, q = expect(params, y, beta)
        return minimise(params, y, q, free), (params, jnp.mean(value))

    _, (each, values) = jax.lax.scan(step, params, length=steps + 1)
    return Fit(jax.tree.map(lambda a: a[-1], each), values)


def start(data: Data, seed: int, scale: float) -> dict[str, jax.Array]:
    """Means at rows of the data, equal weights and scales."""
    means, _ = kmeans_plusplus(data.y, data.components, random_state=seed)
    equal = jnp.zeros(data.components)
    return {"means": jnp.asarray(means), "log_scales": equal + jnp.log(scale), "logits": equal}


def largest(ours: Any, theirs: Any) -> float:
    """The largest absolute difference."""
    return float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs))))


def against_kmeans(data: Data, seed: int, steps: int) -> tuple[dict[str, Any], Fit]:
    """beta = infinity, equal weights and scales of 1 held fixed."""
    first = start(data, seed, 1.0)
    ours = fit(first, data.y, jnp.inf, free=False, steps=steps)
    settings: Any = {"init": np.asarray(first["means"]), "n_init": 1, "tol": 0}
    theirs = KMeans(data.components, **settings).fit(data.y)
    _, q = expect(ours.params, data.y, jnp.inf)
    # E = |y - mean|^2 / 2 + a constant, and its minimum over k is the cold free energy.
    constant = data.y.shape[1] * np.log(2 * np.pi) / 2 + np.log(data.components)
    inertia = 2 * len(data.y) * (float(ours.free_energy[-1]) - constant)
    difference = {
        "centres": largest(ours.params["means"], theirs.cluster_centers_),
        "inertia": abs(inertia / theirs.inertia_ - 1),
        "assignments": int(np.sum(np.argmax(np.asarray(q), axis=1) != theirs.labels_)),
    }
    return {"difference": difference, "inertia": inertia, "their_steps": theirs.n_iter_}, ours


def against_gaussian_mixture(data: Data, seed: int, steps: int) -> tuple[dict[str, Any], Fit]:
    """beta = 1, everything free."""
    variance, k = float(np.mean(np.var(data.y, axis=0))), data.components
    first = start(data, seed, np.sqrt(variance))
    ours = fit(first, data.y, 1.0, free=True, steps=steps)
    settings: Any = {"covariance_type": "spherical", "reg_covar": 0, "tol": 0, "max_iter": steps}
    settings |= {"means_init": np.asarray(first["means"]), "weights_init": np.full(k, 1 / k)}
    theirs = GaussianMixture(k, precisions_init=np.full(k, 1 / variance), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is told to take every step
        theirs.fit(data.y)
    params, (*_, before, last) = ours.params, map(float, ours.free_energy)
    _, q = expect(params, data.y, 1.0)
    difference = {
        "means": largest(params["means"], theirs.means_),
        "weights": largest(jax.nn.softmax(params["logits"]), theirs.weights_),
        "variances": largest(jnp.exp(2 * params["log_scales"]), theirs.covariances_),
        "responsibilities": largest(q, theirs.predict_proba(data.y)),
        "log_likelihood": abs(-last - theirs.score(data.y)),
    }
    return {
        "difference": difference,
        "log_likelihood": -last,
        "last_step_gained": before - last,
    }, ours


def patches_and_dictionary(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches (PATCHES, 64), the mean of each taken away, and atoms (128, 64) learned on others."""
    grey = np.mean(load_sample_image("china.jpg"), axis=-1) / 255
    many = extract_patches_2d(grey, (8, 8), max_patches=PATCHES + 1000, random_state=seed)
    many = many.reshape(len(many), -1)
    many = many - many.mean(axis=1, keepdims=True)
    settings: Any = {"alpha": ALPHA, "batch_size": 256, "max_iter": 1, "random_state": seed}
    learner = MiniBatchDictionaryLearning(128, **settings)
    return many[:PATCHES], learner.fit(many[PATCHES:]).components_


def sparse_codes(seed: int) -> dict[str, Any]:
    """The codes of proximal steps against scikit-learn's, and ISTA against FISTA after equal steps."""
    y, atoms = patches_and_dictionary(seed)
    theirs = sparse_encode(y, atoms, algorithm="lasso_cd", alpha=ALPHA, max_iter=10_000)
    of = energies.reconstruction, jnp.asarray(atoms), None, y, jnp.zeros((len(y), len(atoms)))
    options = {"l1": ALPHA, "step_size": 1 / np.linalg.norm(atoms, 2) ** 2}
    encode = partial(inference.fista, *of, **options)
    ours = encode(steps=SPARSE_STEPS)
    objective = np.sum((y - theirs @ atoms) ** 2, axis=1) / 2 + ALPHA * np.abs(theirs).sum(axis=1)
    lowest = float(np.mean(ours.energy))

    def excess(accelerated):
        found = (encode(steps=steps, accelerated=accelerated) for steps in STEPS_TO_COMPARE)
        return [float(np.mean(of.energy)) - lowest for of in found]

    codes, objective = largest(ours.z, theirs), largest(ours.energy, objective)
    return {
        "difference": {"codes": codes, "objective": objective},
        "largest_code": float(np.max(np.abs(theirs))),
        "share_of_codes_not_0": float(np.mean(theirs != 0)),
        "residual": float(np.max(ours.residual)),
        "objective": lowest,
        "steps": STEPS_TO_COMPARE,
        "excess_after_steps": {"ista": excess(False), "fista": excess(True)},
    }


def anneal(data: Data, seed: int, steps: int) -> tuple[dict[str, Any], dict[float, Fit]]:
    """Means alone, scales of 1, from cold to hot, each beta from the solution of the one before."""
    params, fits, each = start(data, seed, 1.0), {}, {}
    for beta in BETAS:
        fits[beta] = fit(params, data.y, beta, free=False, steps=steps)
        params = fits[beta].params
        each[f"{beta:g}"] = {
            "distinct_means": distinct(np.asarray(params["means"])),
            "from_the_mean": largest(params["means"], data.y.mean(axis=0)[None]),
            "rise": fits[beta].rise,
        }
    merged = 1 / float(np.linalg.eigvalsh(np.cov(data.y.T, bias=True))[-1])
    return {"one_mean_below_beta": merged, "betas": each}, fits


def distinct(means: np.ndarray) -> int:
    """How many means are at least 0.1 apart from all before them."""
    far = [np.linalg.norm(m - means[:i], axis=1) > 0.1 for i, m in enumerate(means)]
    return sum(bool(np.all(f)) for f in far)


def draw_annealing(data: Data, fits: dict[float, Fit], path: Path) -> None:
    """The free energy of every place in the plane, and the rows in the colours of their posterior."""
    low, high = data.y.min(axis=0) - 0.5, data.y.max(axis=0) + 0.5
    across, up = np.linspace(low, high, 80).T
    plane = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    colours = np.array([to_rgb(f"tab:{c}") for c in ("red", "green", "blue")])
    look: Any = {"layout": "constrained", "sharex": True, "sharey": True}
    figure, axes = plt.subplots(2, len(fits), figsize=(2.7 * len(fits), 5), **look)
    drawn: Any = None
    for column, beta in zip(axes.T, sorted(fits, reverse=True), strict=True):
        params = fits[beta].params
        surface = np.asarray(expect(params, plane, beta)[0]).reshape(80, 80)
        levels = np.linspace(0, 12, 25)
        drawn = column[0].contourf(across, up, surface - surface.min(), levels, extend="max")
        q = np.asarray(expect(params, data.y, beta)[1])
        column[1].scatter(*data.y.T, c=q @ colours, s=5)
        for axis, colour in zip(column, ("w", "k"), strict=True):
            axis.plot(*np.asarray(params["means"]).T, "x", color=colour, ms=8, mew=2)
            axis.set(aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        column[0].set_title("β = ∞" if beta == np.inf else f"β = {beta:g}")
    bar = figure.colorbar(drawn, ax=axes, ticks=[0, 4, 8, 12], pad=0.01, aspect=40)
    bar.set_label("free energy above its minimum")
    axes[0, 0].set_ylabel("free energy")
    axes[1, 0].set_ylabel("posterior of the rows")
    figure.suptitle("Means (crosses) trained at each β, scales of 1 held fixed: cold to hot")
    shared.save_figure(figure, path, colours=128)


def draw_training(fits: dict[str, dict[str, Fit]], sparse: dict[str, Any], path: Path) -> None:
    """The free energy above its last value against steps, and the objective of sparse codes above its lowest."""
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore
    for axis, (method, title) in zip(axes, METHODS.items(), strict=False):
        for name, fitted in fits[method].items():
            above = np.asarray(fitted.free_energy - fitted.free_energy[-1])
            above = above[: np.argmax(above < 1e-12) or None]
            axis.plot(above, ".-", ms=3, lw=1, label=name)
        axis.set(yscale="log", title=title, xlabel="steps")
    for name, values in sparse["excess_after_steps"].items():
        axes[2].plot(sparse["steps"], np.maximum(values, 1e-16), "o-", label=name.upper())
    axes[2].set(xscale="log", yscale="log", title="Sparse codes", xlabel="proximal steps")
    axes[2].set_xticks(sparse["steps"], sparse["steps"])
    axes[2].minorticks_off()
    axes[0].set_ylabel("mean free energy above the last")
    axes[2].set_ylabel("mean objective above the lowest")
    for axis in axes:
        axis.grid(alpha=0.3)
    for axis in axes[1:]:
        axis.legend()
    shared.save_figure(figure, path, colours=128)


def beyond(result: dict[str, Any]) -> list[str]:
    """What is beyond its tolerance, in words."""
    of_methods = [(method, name) for method in METHODS for name in result[method]]
    cases = {" ".join(of): result[of[0]][of[1]] | {"of": of[0]} for of in of_methods}
    cases["sparse codes"] = result["sparse_coding"] | {"of": "sparse_coding", "rise": 0}
    for beta, of in result["annealing"]["betas"].items():
        cases[f"beta {beta}"] = of | {"difference": {}, "of": "kmeans"}
    found = []
    for where, of in cases.items():
        allowed = TOLERANCES[of["of"]] | {"rise": TOLERANCES["rise"]}
        for quantity, difference in (of["difference"] | {"rise": of["rise"]}).items():
            if not difference <= allowed[quantity]:  # what is not a number is beyond, too
                found.append(f"{where} {quantity} {difference:.2g} > {allowed[quantity]:g}")
    return found


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "mixture", seed=0, steps=1)
    result: dict[str, Any] = {method: {} for method in METHODS}
    fits: dict[str, dict[str, Fit]] = {method: {} for method in METHODS}
    compared = dict(zip(METHODS, (against_kmeans, against_gaussian_mixture), strict=True))
    with jax.enable_x64(True):
        sets = load(config.seed)
        for method, compare in compared.items():
            for name, data in sets.items():
                found, fitted = compare(data, config.seed, config.steps)
                result[method][name] = found | {"rise": fitted.rise}
                fits[method][name] = fitted
        result["annealing"], annealed = anneal(sets["drawn"], config.seed, 10 * config.steps)
        result["sparse_coding"] = sparse_codes(config.seed)
        draw_annealing(sets["drawn"], annealed, run.folder / "annealing.png")
    draw_training(fits, result["sparse_coding"], run.folder / "training.png")
    shapes = {n: {"rows": d.y.shape, "components": d.components} for n, d in sets.items()}
    result |= {"tolerances": TOLERANCES, "beyond": beyond(result), "data": shapes}
    result = run.finish(result, *report(result), **{"scikit-learn": sklearn.__version__})
    if result["beyond"]:
        shared.fail(f"not as scikit-learn: {'; '.join(result['beyond'])}")
    return result


def report(result: dict) -> list[Any]:
    """A table of all differences, and what follows."""
    sparse = result["sparse_coding"]
    found = {(m, name): of for m in METHODS for name, of in result[m].items()}
    rows = [
        (*where, ", ".join(f"{quantity} {d:.1e}" for quantity, d in of["difference"].items()))
        for where, of in (found | {("sparse codes", "china.jpg"): sparse}).items()
    ]
    betas = result["annealing"]["betas"].items()
    means = ", ".join(f"{beta}: {of['distinct_means']}" for beta, of in betas)
    below = result["annealing"]["one_mean_below_beta"]
    columns = ("", "data", "largest differences from scikit-learn")
    after = zip(sparse["steps"], *sparse["excess_after_steps"].values(), strict=True)
    return [
        runs.table("", columns, rows),
        f"distinct means at each beta: {means}; one below {below:.2f} expected",
        *(
            f"objective above its lowest after {steps} steps: ISTA {ista:.2e}, FISTA {fista:.2e}"
            for steps, ista, fista in after
        ),
    ]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
