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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import sklearn
from matplotlib.colors import to_rgb
from sklearn import cluster, datasets, decomposition, mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.preprocessing import scale

from experiments import shared
from experiments.lecture import runs
from spen_jax import energies, exact, inference

TOLERANCES = {"centres": 1e-12, "inertia": 1e-12, "assignments": 0}
TOLERANCES |= {"means": 1e-8, "weights": 1e-8, "variances": 1e-8, "responsibilities": 1e-7}
TOLERANCES |= {"log_likelihood": 1e-10, "codes": 1e-4, "objective": 1e-7, "rise": 1e-10}
"""The largest differences allowed; relative for inertia, in number for assignments, absolute for all others."""
BETAS = (float("inf"), 1.0, 0.4, 0.32, 0.2)
PATCHES, SPARSE_STEPS = 200, 3000


@dataclass(frozen=True)
class Config:
    """K-means, Gaussian mixtures and sparse codes against scikit-learn's."""

    seed: int = 0
    """Of the clusters drawn, the starts and the patches."""

    steps: int = 200
    """Of generalised EM."""

    out: Path | None = None
    """Folder to write, new or empty; runs/mixture-<date> by default."""


class Fit(NamedTuple):
    """Parameters of `energies.mixture`, and the mean free energy before each step and after the last."""

    params: dict[str, jax.Array]
    free_energy: jax.Array

    @property
    def rise(self) -> float:
        """By how much the free energy ever rose in a step."""
        return max(0.0, float(np.max(np.diff(np.asarray(self.free_energy)))))


def load(seed: int) -> dict[str, tuple[np.ndarray, int]]:
    """All data sets: rows (N, D), and how many components to fit."""
    rng = np.random.default_rng(seed)
    clusters = ((-2.0, 0.0), 0.9, 200), ((2.0, 0.0), 0.5, 100), ((0.0, 2.5), 0.7, 100)
    drawn = [np.array([c]) + s * rng.normal(size=(n, 2)) for c, s, n in clusters]
    loaders = datasets.load_iris, datasets.load_wine, datasets.load_digits
    iris, wine, digits = (np.asarray(of(return_X_y=True)[0]) for of in loaders)
    digits = decomposition.PCA(10, random_state=0).fit_transform(digits / 16)
    sets = {"iris": (iris, 3), "wine": (scale(wine), 3), "digits": (digits, 10)}
    return sets | {"drawn": (np.concatenate(drawn), 3)}


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


def start(y: np.ndarray, k: int, seed: int, scale: float) -> dict[str, jax.Array]:
    """Means at rows of the data, equal weights and scales."""
    means, _ = cluster.kmeans_plusplus(y, k, random_state=seed)
    equal = jnp.zeros(k)
    return {"means": jnp.asarray(means), "log_scales": equal + jnp.log(scale), "logits": equal}


def largest(ours: Any, theirs: Any) -> float:
    """The largest absolute difference."""
    return float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs))))


def against_kmeans(y: np.ndarray, k: int, seed: int, steps: int) -> dict[str, Any]:
    """beta = infinity, equal weights and scales of 1 held fixed."""
    first = start(y, k, seed, 1.0)
    ours = fit(first, y, jnp.inf, free=False, steps=steps)
    settings: Any = {"init": np.asarray(first["means"]), "n_init": 1, "tol": 0}
    theirs = cluster.KMeans(k, **settings).fit(y)
    _, q = expect(ours.params, y, jnp.inf)
    # E = |y - mean|^2 / 2 + a constant, and its minimum over k is the cold free energy.
    constant = y.shape[1] * np.log(2 * np.pi) / 2 + np.log(k)
    inertia = 2 * len(y) * (float(ours.free_energy[-1]) - constant)
    difference = {
        "centres": largest(ours.params["means"], theirs.cluster_centers_),
        "inertia": abs(inertia / theirs.inertia_ - 1),
        "assignments": int(np.sum(np.argmax(np.asarray(q), axis=1) != theirs.labels_)),
        "rise": ours.rise,
    }
    return {"difference": difference, "inertia": inertia}


def against_mixture(y: np.ndarray, k: int, seed: int, steps: int) -> dict[str, Any]:
    """beta = 1, everything free."""
    variance = float(np.mean(np.var(y, axis=0)))
    first = start(y, k, seed, np.sqrt(variance))
    ours = fit(first, y, 1.0, free=True, steps=steps)
    settings: Any = {"covariance_type": "spherical", "reg_covar": 0, "tol": 0, "max_iter": steps}
    settings |= {"means_init": np.asarray(first["means"]), "weights_init": np.full(k, 1 / k)}
    theirs = mixture.GaussianMixture(k, precisions_init=np.full(k, 1 / variance), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is told to take every step
        theirs.fit(y)
    _, q = expect(ours.params, y, 1.0)
    likelihood = -float(ours.free_energy[-1])
    difference = {
        "means": largest(ours.params["means"], theirs.means_),
        "weights": largest(jax.nn.softmax(ours.params["logits"]), theirs.weights_),
        "variances": largest(jnp.exp(2 * ours.params["log_scales"]), theirs.covariances_),
        "responsibilities": largest(q, theirs.predict_proba(y)),
        "log_likelihood": abs(likelihood - theirs.score(y)),
        "rise": ours.rise,
    }
    return {"difference": difference, "log_likelihood": likelihood}


METHODS = {"kmeans": against_kmeans, "gaussian_mixture": against_mixture}


def sparse_codes(seed: int) -> dict[str, Any]:
    """The codes of proximal steps against scikit-learn's: patches (PATCHES, 64), atoms (128, 64) learned on others."""
    grey = np.mean(datasets.load_sample_image("china.jpg"), axis=-1) / 255
    many = extract_patches_2d(grey, (8, 8), max_patches=PATCHES + 1000, random_state=seed)
    many = many.reshape(len(many), -1)
    many = many - many.mean(axis=1, keepdims=True)
    settings: Any = {"alpha": 0.1, "batch_size": 256, "max_iter": 1, "random_state": seed}
    learner = decomposition.MiniBatchDictionaryLearning(128, **settings)
    y, atoms = many[:PATCHES], learner.fit(many[PATCHES:]).components_
    settings = {"algorithm": "lasso_cd", "alpha": 0.1, "max_iter": 10_000}
    theirs = decomposition.sparse_encode(y, atoms, **settings)
    settings = {"l1": 0.1, "step_size": 1 / np.linalg.norm(atoms, 2) ** 2, "steps": SPARSE_STEPS}
    of = energies.reconstruction, jnp.asarray(atoms), None, y, jnp.zeros(theirs.shape)
    ours = inference.fista(*of, **settings)
    objective = np.sum((y - theirs @ atoms) ** 2, axis=1) / 2 + 0.1 * np.abs(theirs).sum(axis=1)
    codes, lowest = largest(ours.z, theirs), largest(ours.energy, objective)
    return {
        "difference": {"codes": codes, "objective": lowest},
        "share_of_codes_not_0": float(np.mean(theirs != 0)),
        "residual": float(np.max(ours.residual)),
        "objective": float(np.mean(ours.energy)),
    }


def anneal(y: np.ndarray, k: int, seed: int, steps: int) -> tuple[dict[float, Fit], dict[str, Any]]:
    """Means alone, scales of 1, from cold to hot, each beta from the solution of the one before."""
    params, fits, each = start(y, k, seed, 1.0), {}, {}
    for beta in BETAS:
        fits[beta] = fit(params, y, beta, free=False, steps=steps)
        params = fits[beta].params
        means = np.asarray(params["means"])
        # Distinct ones are at least 0.1 apart from all before them.
        near = [np.linalg.norm(m - means[:i], axis=1) < 0.1 for i, m in enumerate(means)]
        each[f"{beta:g}"] = {
            "distinct_means": sum(not np.any(before) for before in near),
            "from_the_mean": largest(means, y.mean(axis=0)[None]),
            "difference": {"rise": fits[beta].rise},
        }
    largest_variance = np.linalg.eigvalsh(np.cov(y.T, bias=True))[-1]
    return fits, {"one_mean_below_beta": 1 / largest_variance, "betas": each}


def draw_annealing(y: np.ndarray, fits: dict[float, Fit]) -> Any:
    """The free energy of every place in the plane, and the rows in the colours of their posterior."""
    low, high = y.min(axis=0) - 0.5, y.max(axis=0) + 0.5
    across, up = np.linspace(low, high, 80).T
    plane = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    colours = np.array([to_rgb(f"tab:{c}") for c in ("red", "green", "blue")])
    look: Any = {"layout": "constrained", "sharex": True, "sharey": True}
    figure, axes = plt.subplots(2, len(fits), figsize=(2.7 * len(fits), 5), **look)
    drawn: Any = None
    for (top, bottom), (beta, fitted) in zip(axes.T, fits.items(), strict=True):
        surface = np.asarray(expect(fitted.params, plane, beta)[0]).reshape(80, 80)
        levels, above = np.linspace(0, 12, 25), surface - surface.min()
        drawn = top.contourf(across, up, above, levels, extend="max")
        _, q = expect(fitted.params, y, beta)
        bottom.scatter(*y.T, c=np.asarray(q) @ colours, s=5)
        for axis, colour in ((top, "w"), (bottom, "k")):
            axis.plot(*np.asarray(fitted.params["means"]).T, "x", color=colour, ms=8, mew=2)
            axis.set(aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        top.set_title("β = ∞" if beta == np.inf else f"β = {beta:g}")
    of_bar = {"label": "free energy above its minimum", "pad": 0.01, "aspect": 40}
    figure.colorbar(drawn, ax=axes, ticks=[0, 4, 8, 12], **of_bar)
    axes[0, 0].set_ylabel("free energy")
    axes[1, 0].set_ylabel("posterior of the rows")
    figure.suptitle("Means (crosses) trained at each β, scales of 1 held fixed: cold to hot")
    return figure


def beyond(result: dict[str, Any]) -> list[str]:
    """What is beyond its tolerance, in words."""
    cases = {f"{method} {name}": of for method in METHODS for name, of in result[method].items()}
    cases |= {f"beta {beta}": of for beta, of in result["annealing"]["betas"].items()}
    found = []
    for where, of in (cases | {"sparse codes": result["sparse_coding"]}).items():
        for name, difference in of["difference"].items():
            if not difference <= TOLERANCES[name]:  # what is not a number is beyond, too
                found.append(f"{where} {name} {difference:.2g} > {TOLERANCES[name]:g}")
    return found


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run, seed, result = runs.begin(config, "mixture", seed=0, steps=1), config.seed, {}
    with jax.enable_x64(True):
        sets = load(seed)
        for method, compare in METHODS.items():
            result[method] = {name: compare(*of, seed, config.steps) for name, of in sets.items()}
        result["sparse_coding"] = sparse_codes(seed)
        fits, result["annealing"] = anneal(*sets["drawn"], seed, 10 * config.steps)
        figure = draw_annealing(sets["drawn"][0], fits)
    shared.save_figure(figure, run.folder / "annealing.png")
    shapes = {name: {"rows": y.shape, "components": k} for name, (y, k) in sets.items()}
    result |= {"tolerances": TOLERANCES, "beyond": beyond(result), "data": shapes}
    result = run.finish(result, *report(result), **{"scikit-learn": sklearn.__version__})
    if result["beyond"]:
        shared.fail(f"not as scikit-learn: {'; '.join(result['beyond'])}")
    return result


def report(result: dict) -> Iterator[str]:
    """Sentences: all differences, and where means merge."""
    annealing, sparse = result["annealing"], result["sparse_coding"]
    found = {(method, name): of for method in METHODS for name, of in result[method].items()}
    for where, of in (found | {("sparse codes", "china.jpg"): sparse}).items():
        words = ", ".join(f"{name} {d:.1e}" for name, d in of["difference"].items())
        yield f"{', '.join(where)}: largest differences from scikit-learn, and rise: {words}"
    means = ", ".join(f"{beta}: {of['distinct_means']}" for beta, of in annealing["betas"].items())
    below = annealing["one_mean_below_beta"]
    yield f"distinct means at each beta: {means}; one below {below:.2f} expected"


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)
