"""A synthetic task of very many labels, and what inference over all or the best of them takes: a row of labels.py.

Popularity is Zipf's: the odds of the label of rank r fall as 1 / r, and an example has about LABELS_EACH. Planted
are s*(x) = W* F(x) + bias and labels on with probability sigmoid(s*); the model has W* with noise, as one
that was trained would, and a global term of random weights that moves logits by about a third.
"""

import resource
import sys
import time
from typing import Any

import numpy as np

UNITS, BATCH, STEPS, LABELS_EACH = 64, 32, 20, 8
JUDGED = 256
"""Examples of which precision is measured, in batches of BATCH."""


def task(labels: int) -> tuple[Any, Any, np.ndarray, list[np.ndarray]]:
    """(module, parameters, x (JUDGED, D), the labels that each example has)."""
    import jax
    import jax.numpy as jnp

    import spen_jax as sx

    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        drawn = rng.standard_normal(shape, dtype=np.float32)
        drawn *= np.float32(scale)  # in place: a copy would be the peak of memory
        return drawn

    module = sx.energies.LabelSPEN(sx.FeatureNetwork(labels, (UNITS,)), n_global=UNITS, entropy=1.0)
    kernel, x = normal(UNITS, UNITS, scale=UNITS**-0.5), normal(JUDGED, UNITS)
    h = np.maximum(x @ kernel, 0)
    W, bias = normal(labels, UNITS, scale=0.6), -np.log1p(np.arange(labels, dtype=np.float32))
    bias += offset(h[:4] @ W.T + bias[None])
    truth = [
        np.flatnonzero(rng.random(labels, dtype=np.float32) < sigmoid(W @ one + bias)) for one in h
    ]
    for rows in np.array_split(np.arange(labels), max(1, labels // 10_000)):
        W[rows[0] : rows[-1] + 1] += normal(len(rows), UNITS, scale=0.1)
    layer = {"kernel": kernel, "bias": np.zeros(UNITS, np.float32)}
    params: dict[str, Any] = {"network": {"hidden_0": layer}}
    params |= {"b": np.zeros(UNITS, np.float32), "c2": normal(UNITS, scale=0.3)}
    params |= {"bias": bias, "C": normal(labels, UNITS, scale=0.3)}
    for name in ("C", "bias"):
        params[name] = jax.block_until_ready(jnp.asarray(params[name]))
    params["W"] = jnp.asarray(W)
    del W
    return module, jax.tree.map(jnp.asarray, params), x, truth


def sigmoid(s: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-s))."""
    return (1 + np.tanh(s / 2)) / 2


def offset(s: np.ndarray) -> np.float32:
    """What to add to s (B, L) so that sum_l sigmoid(s_l) is LABELS_EACH in the mean, by bisection."""
    low, high = -40.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        more = np.mean([np.sum(sigmoid(one + middle)) for one in s]) < LABELS_EACH
        low, high = (middle, high) if more else (low, middle)
    return np.float32(low)


def seconds(function: Any, calls: int = 3) -> tuple[Any, float]:
    """What it returns, and the least processor seconds of some calls after the one that compiles.

    Of one thread: what other processes take of a shared processor does not count.
    """
    import jax

    found, each = jax.block_until_ready(function()), []
    for _ in range(calls):
        found = None  # so that two results are never held
        began = time.process_time()
        found = jax.block_until_ready(function())
        each.append(time.process_time() - began)
    return found, min(each)


def row(labels: int, shortlist: int | None) -> dict[str, Any]:
    """Seconds of inference and what comes before it for one batch, GiB at the peak, and precision@5."""
    from spen_jax import metrics

    module, params, x, truth = task(labels)
    found = []
    times: dict[str, float] = {}
    for first in range(0, JUDGED, BATCH):
        given = module, params, x[first : first + BATCH]
        if shortlist is None:
            best, one = over_all(*given, timed=first == 0)
        else:
            best, one = over_best(*given, shortlist, timed=first == 0)
        found.append(best)
        times |= one
    y = metrics.label_sets(truth, labels)
    precision = metrics.precision_at_k(metrics.ranked(np.concatenate(found), labels), y, 5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gib = peak / (2**30 if sys.platform == "darwin" else 2**20)
    return {
        "labels": labels,
        "shortlist": shortlist,
        **times,
        "gib": gib,
        "precision_at_5": precision,
    }


def over_all(module: Any, params: Any, x: Any, timed: bool) -> tuple[Any, dict]:
    """The five best labels of a batch by inference over all labels, and the seconds of it and of the potentials."""
    import jax

    import spen_jax as sx

    features, energy = sx.functions_of(module)
    predictor = sx.Predictor(energy, features, start=sx.logits_of(module), steps=STEPS)
    potentials = jax.jit(features)
    calls = 3 if timed else 0
    context, before = timing(lambda: potentials(params, x), calls)

    def infer():
        start = predictor.points(context)
        return sx.minimize(energy, params, context, start, **predictor.options(params)).y

    y, during = timing(infer, calls)
    best = np.asarray(sx.exact.largest(y, 5).labels)
    return best, {"seconds": during, "before": before} if timed else {}


def over_best(module: Any, params: Any, x: Any, k: int, timed: bool) -> tuple[Any, dict]:
    """The five best labels of a batch over shortlists, and the seconds of gathering and inference, and of choosing."""
    import jax

    import spen_jax as sx

    short = sx.Shortlist(module, k, steps=STEPS)

    @jax.jit
    def choose(params, x):
        found = short.context(params, x)
        return {name: found[name] for name in ("labels", "logits")}

    gather = jax.jit(lambda C, labels: C[labels])
    calls = 7 if timed else 0
    chosen, before = timing(lambda: choose(params, x), calls)

    def infer():
        rows = gather(params["C"], chosen["labels"])
        found = short.of_context(params, chosen | {"C": rows})
        return found.labels, found.y

    (labels, _), during = timing(infer, calls)
    return np.asarray(labels)[:, :5], {"seconds": during, "before": before} if timed else {}


def timing(function: Any, calls: int) -> tuple[Any, float]:
    """As `seconds`; one call alone, untimed, where there are none to make."""
    return seconds(function, calls) if calls else (function(), 0.0)
