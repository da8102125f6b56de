"""What finds the other view: a joint embedding and its losses, canonical correlation, ridge regression.

Each method offers its trials one after another.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import Ridge

import spen_jax as sx
from spen_jax import exact, losses, training
from spen_jax.energies import JointEmbedding
from spen_jax.numbers import unit

Energies = Callable[[Any, Any], Any]
SNAPSHOTS = 0.25, 0.5, 1.0  # of the steps, after which a trial may stop


class Trial(NamedTuple):
    """What was tried, and the energies of all pairs, (x (Q, D), y (N, L)) -> (Q, N); parameters where there are."""

    tried: dict[str, Any]
    energies: Energies
    params: Any = None


Trials = Iterator[Trial]


class Views(NamedTuple):
    """Two views of N things, x (N, D) and y (N, L), and the rows of each part, (M,), by a seed."""

    x: jax.Array
    y: jax.Array
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seed: int


class Method(NamedTuple):
    """Encoders with a hidden layer or without, and what is tried."""

    deep: bool
    negatives: bool
    temperatures: tuple[float, ...] = (0.03, 0.1, 0.3)


class Sizes(NamedTuple):
    """Of the embeddings, of a hidden layer, of the reductions before CCA, and the training steps."""

    dimension: int
    width: int
    singular: tuple[int, ...]
    steps: int


METHODS = {
    "InfoNCE": Method(True, True),
    "InfoNCE, linear encoders": Method(False, True),
    "energy loss": Method(True, False, (1.0,)),
}
SIZES = {"digits": Sizes(64, 256, (16, 32), 800), "bibtex": Sizes(256, 128, (300, 1000), 400)}
BATCH, RATE = 128, 3e-3
COMPONENTS, RIDGES = (8, 16, 32, 64, 128), (1, 10, 100)


def joint(method: Method, sizes: Sizes) -> JointEmbedding:
    """1 - cos(G1(x), G2(y))."""
    encoder = sx.logits_of(network(method, sizes))
    return JointEmbedding(encoder, encoder)


def network(method: Method, sizes: Sizes) -> sx.FeatureNetwork:
    """An encoder."""
    return sx.FeatureNetwork(sizes.dimension, (sizes.width,) if method.deep else ())


def untrained(method: Method, views: Views, sizes: Sizes) -> dict[str, Any]:
    """The parameters before training."""
    encoder, keys = network(method, sizes), jax.random.split(jax.random.key(views.seed))
    start = {"x": (keys[0], views.x[:1]), "y": (keys[1], views.y[:1])}
    return {name: encoder.init(*of)["params"] for name, of in start.items()}


def batches(rows: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Rows of each step, (steps, B): passes over all, each in an order of its own."""
    rng, size = np.random.default_rng(seed), min(BATCH, len(rows))
    each = len(rows) // size
    orders = [rng.permutation(rows)[: each * size] for _ in range(-(-steps // each))]
    return np.concatenate(orders).reshape(-1, size)[:steps]


@partial(jax.jit, static_argnames=("energy", "negatives", "at"))
def train(
    energy: JointEmbedding, negatives: bool, at: tuple, start: Any, data: tuple, trial: tuple
) -> Any:
    """The parameters after so many steps, (len(at), ...); a trial is its temperature and its batches."""
    temperature, batches = trial
    x, y = data

    def objective(params, rows, key):
        E = exact.pairwise(energy, params, x[rows], y[rows])
        correct, others = jnp.diagonal(E), ~jnp.eye(len(rows), dtype=bool)
        if not negatives:
            return jnp.mean(losses.energy_loss(correct)), {}
        ways = [losses.info_nce(correct, e, 1 / temperature, where=others) for e in (E, E.T)]
        return jnp.mean(jnp.stack(ways)), {}

    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, len(batches)))
    state = training.init(start, optimizer, jax.random.key(0))
    return training.scan(objective, optimizer, state, batches, at=at)[2]


@partial(jax.jit, static_argnums=0)
def pairwise(energy: JointEmbedding, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """All energies, (Q, N)."""
    return exact.pairwise(energy, params, x, y)


def embeddings(method: Method, sizes: Sizes, views: Views) -> Trials:
    """The trials of a joint embedding."""
    energy, start = joint(method, sizes), untrained(method, views, sizes)
    at = [max(1, round(s * sizes.steps)) for s in (SNAPSHOTS if method.negatives else (1.0,))]
    rows = batches(views.train, sizes.steps, views.seed)
    for temperature in method.temperatures:
        given = energy, method.negatives, tuple(at), start, views[:2], (temperature, rows)
        kept = train(*given)
        for i, steps in enumerate(at):
            params = jax.tree.map(lambda p, i=i: p[i], kept)
            tried = {"temperature": temperature, "steps": steps}
            yield Trial(tried, partial(pairwise, energy, params), params)


def spread(method: Method, sizes: Sizes, views: Views, params: Any) -> float:
    """Of the test x's embeddings, over what it was before training."""
    encoder = sx.logits_of(network(method, sizes))
    both = params["x"], untrained(method, views, sizes)["x"]
    z = [np.asarray(unit(encoder(p, views.x[views.test]))) for p in both]
    return float(np.divide(*(a.std(0).mean() for a in z)))


def numbers(views: Views) -> tuple[np.ndarray, np.ndarray]:
    """The training rows of both views, in double precision."""
    x, y = (np.asarray(v, np.float64)[views.train] for v in views[:2])
    return x, y


def cosines(f: Callable[..., np.ndarray], g: Callable[..., np.ndarray]) -> Energies:
    """1 - cos(f(x), g(y)) of all pairs."""

    def energies_of(x, y):
        a, b = (np.asarray(v, np.float64) for v in (f(np.asarray(x)), g(np.asarray(y))))
        a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
        return 1 - a @ b.T

    return energies_of


class Canonical(NamedTuple):
    """Canonical correlation analysis: variates (x - mean) @ a and (y - mean) @ b, of falling `correlation`."""

    means: tuple[np.ndarray, np.ndarray]
    a: np.ndarray
    b: np.ndarray
    correlation: np.ndarray


def canonical(x: np.ndarray, y: np.ndarray, singular: tuple[int, ...]) -> Iterator[Canonical]:
    """In closed form, of so many of the largest singular vectors of x, by decompositions of x, y and their product."""
    means = x.mean(0), y.mean(0)
    (U, P), (A, Q) = (whitened(v - m[None]) for v, m in zip((x, y), means, strict=True))
    for most in singular:
        left, correlation, right = np.linalg.svd(U[:, :most].T @ A, full_matrices=False)
        yield Canonical(means, P[:, :most] @ left, Q @ right.T, correlation)


def whitened(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns u = x p, as many as x has rank, and p."""
    u, size, v = np.linalg.svd(x, full_matrices=False)
    there = size > 1e-6 * size[0]
    return u[:, there], v[there].T / size[there][None]


def correlations(sizes: Sizes, views: Views) -> Trials:
    """The trials of canonical correlation analysis."""
    each = canonical(*numbers(views), sizes.singular)
    for most, ((of_x, of_y), a, b, _) in zip(sizes.singular, each, strict=True):
        for n in (c for c in COMPONENTS if c <= a.shape[1]):
            f, g = (partial(variates, m, w[:, :n]) for m, w in ((of_x, a), (of_y, b)))
            yield Trial({"singular_vectors": most, "components": n}, cosines(f, g))


def variates(mean: np.ndarray, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(v - mean) @ weights."""
    return (v - mean[None]) @ weights


def regressions(views: Views) -> Trials:
    """The trials of ridge regression."""
    x, y = numbers(views)
    mean = y.mean(0)[None]
    for alpha in RIDGES:
        predict = Ridge(alpha=alpha).fit(x, y).predict
        f, g = (lambda v, p=predict: p(v) - mean), (lambda v: v - mean)
        yield Trial({"ridge": alpha}, cosines(f, g))


def contestants(sizes: Sizes, views: Views) -> dict[str, Trials]:
    """All of them."""
    first = METHODS["InfoNCE"]
    start = untrained(first, views, sizes)
    before = Trial({}, partial(pairwise, joint(first, sizes), start), start)
    found: dict[str, Trials] = {"untrained network": iter([before])}
    found |= {name: embeddings(method, sizes, views) for name, method in METHODS.items()}
    return found | {"CCA": correlations(sizes, views), "ridge regression": regressions(views)}
