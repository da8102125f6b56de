"""What expects the next letter image: predictive coding and its training, and canonical correlation.

A method offers its trials one after another.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.linear_model import LogisticRegression

import spen_jax as sx
from experiments.lecture.views_methods import canonical, cosines, variates
from spen_jax import losses, training
from spen_jax.energies import PredictiveCoding
from spen_jax.numbers import unit

BATCH, LETTERS = 32, 3000
SNAPSHOTS = 0.25, 0.5, 1.0  # of the steps, after which a trial may stop
COMPONENTS, SINGULAR = (8, 16, 32, 64), (32, 64, 128)


class Words(NamedTuple):
    """x (N, T, 128), y (N, T), mask (N, T)."""

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray


class Queries(NamedTuple):
    """Words, the places of Q queries in them, rows (Q,) and columns (Q,); the gallery is what comes so far ahead."""

    words: Words
    row: np.ndarray
    column: np.ndarray
    ahead: int = 1

    @property
    def images(self) -> np.ndarray:
        """The gallery, (Q, 128)."""
        return self.words.x[self.row, self.column + self.ahead]

    @property
    def letters(self) -> np.ndarray:
        """Those of the gallery, (Q,)."""
        return self.words.y[self.row, self.column + self.ahead]


class Method(NamedTuple):
    """How one is trained."""

    negatives: bool = True
    recurrent: bool = True
    english: bool = False


METHODS = {
    "words": Method(),
    "words, last letter only": Method(recurrent=False),
    "words and English": Method(english=True),
    "words and English, last letter only": Method(recurrent=False, english=True),
    "words, energy loss": Method(negatives=False),
}
RATE = 3e-3
MODULE = PredictiveCoding(sx.FeatureNetwork(64, (256,)), 128, 2)


def parameters(seed: int) -> Any:
    """Before training."""
    return MODULE.init(jax.random.key(seed), jnp.zeros((1, 2, 128)))["params"]


def contexts(module: PredictiveCoding, z: jax.Array, mask: jax.Array, recurrent: bool) -> jax.Array:
    """c (B, T, C), each of its own letter alone where not recurrent."""
    if recurrent:
        return module.contexts(z, mask)
    each = z.reshape(-1, 1, z.shape[-1]), mask.reshape(-1, 1)
    return module.contexts(*each).reshape(*mask.shape, -1)


@partial(jax.jit, static_argnames=("negatives", "recurrent", "at"))
def train(negatives: bool, recurrent: bool, at: tuple, start: Any, batches: tuple) -> Any:
    """The parameters after so many steps, (len(at), ...), of x (steps, B, T, 128) and mask."""

    def objective(params, batch, key):
        x, mask = batch

        def of_batch(module):
            z = module.codes(x.astype(jnp.float32), mask)
            return module.energies(contexts(module, z, mask, recurrent), z)

        E = nn.apply(of_batch, MODULE)({"params": params})
        if negatives:
            return jnp.mean(losses.info_nce_ahead(E, mask)), {}
        pairs = losses.pairs_ahead(E, mask)
        return jnp.mean(pairs.mean(losses.energy_loss(pairs.correct))), {}

    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, len(batches[0])))
    state = training.init(start, optimizer, jax.random.key(0))
    return training.scan(objective, optimizer, state, batches, at=at)[2]


@partial(jax.jit, static_argnames="recurrent")
def encoded(params: Any, x: jax.Array, mask: jax.Array, recurrent: bool) -> tuple:
    """Codes (N, T, E) and contexts (N, T, C)."""

    def both(module):
        z = module.codes(x, mask)
        return z, contexts(module, z, mask, recurrent)

    return nn.apply(both, MODULE)({"params": params})


def matrix(params: Any, of: Queries, recurrent: bool) -> np.ndarray:
    """Energies of the gallery, (Q, Q)."""
    each = np.arange(len(of.row))
    z, c = encoded(params, of.words.x[of.row], of.words.mask[of.row], recurrent)
    pairs = c[each, of.column], z[each, of.column + of.ahead]
    return np.asarray(MODULE.apply({"params": params}, *pairs, method="energies")[of.ahead - 1])


class Trial(NamedTuple):
    """What was tried, energies of queries, and parameters where there are."""

    tried: dict[str, Any]
    energies: Callable[[Queries], np.ndarray]
    params: Any = None


def codings(method: Method, words: Words, seed: int, steps: int) -> Iterator[Trial]:
    """The trials of predictive coding."""
    rng, n = np.random.default_rng(seed), len(words.x)
    orders = [rng.permutation(n)[: n // BATCH * BATCH] for _ in range(steps * BATCH // n + 2)]
    rows = np.concatenate(orders).reshape(-1, BATCH)[:steps]
    shares = SNAPSHOTS if method.negatives else (1.0,)
    at = tuple(max(1, round(s * steps)) for s in shares)
    # Pixels are 0 or 1: as bytes all batches together are light, and of one shape for all words.
    batches = words.x[rows].astype(np.uint8), words.mask[rows]
    kept = train(method.negatives, method.recurrent, at, parameters(seed), batches)
    for i, taken in enumerate(at):
        params = jax.tree.map(lambda p, i=i: p[i], kept)
        energies = partial(matrix, params, recurrent=method.recurrent)
        yield Trial({"steps": taken}, energies, params)


def correlations(words: Words) -> Iterator[Trial]:
    """The trials of canonical correlation analysis of consecutive images."""
    both = words.mask[:, 1:]
    x, y = (v[both].astype(np.float64) for v in (words.x[:, :-1], words.x[:, 1:]))
    for most, ((of_x, of_y), a, b, _) in zip(SINGULAR, canonical(x, y, SINGULAR), strict=True):
        for n in (c for c in COMPONENTS if c <= a.shape[1]):
            f, g = (partial(variates, m, w[:, :n]) for m, w in ((of_x, a), (of_y, b)))
            of_images = cosines(f, g)

            def energies(of, of_images=of_images):
                return of_images(of.words.x[of.row, of.column], of.images)

            yield Trial({"singular_vectors": most, "components": n}, energies)


def unit_codes(params: Any, words: Words, letters: np.ndarray) -> np.ndarray:
    """Codes of unit length of some of its letters, by their number, (L, E)."""
    row, column = (a[letters] for a in np.nonzero(words.mask))
    z = MODULE.apply({"params": params}, words.x[row, column][None], method="codes")
    return np.asarray(unit(z[0]))


def probes(params: dict[str, Any], train: Words, test: Words, seed: int) -> dict[str, float]:
    """Per cent of letters right by logistic regressions of codes and of pixels."""
    rng, found = np.random.default_rng(seed), {}
    some = [rng.permutation(int(w.mask.sum()))[:LETTERS] for w in (train, test)]
    y = [w.y[w.mask][i] for w, i in zip((train, test), some, strict=True)]
    for name in ("pixels", *params):
        x = [
            w.x[w.mask][i] if name == "pixels" else unit_codes(params[name], w, i)
            for w, i in zip((train, test), some, strict=True)
        ]
        fitted = LogisticRegression(max_iter=2000).fit(x[0] / x[0].std(), y[0])
        found[name] = 100 * float(fitted.score(x[1] / x[0].std(), y[1]))
    return found
