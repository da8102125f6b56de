"""Inference over the best labels of very many: a shortlist by the unary potentials, then an energy of its labels alone.

B examples, L labels, k of them in each shortlist.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spen_jax import sparse
from spen_jax.checks import check_whole
from spen_jax.energies import LabelSPEN
from spen_jax.inference import minimize
from spen_jax.networks import functions_of, logits_of
from spen_jax.predictor import Predictor


class Shortlisted(NamedTuple):
    """Answers over k labels of each of B examples, the best first; all other labels stand at 0.

    - `labels`: (B, k), by falling y, of equal ones, such as those that float32 rounds to 1, the larger s first.
    - `y`: (B, k), in [0, 1], how much each of these labels is on.
    - `energy`: (B,), the objective there; as in `inference.Solution`.
    - `residual`: (B,), how far from a minimum over these labels; as in `inference.Solution`.
    """

    labels: jax.Array
    y: jax.Array
    energy: jax.Array
    residual: jax.Array

    def matrix(self, n_labels: int) -> Any:
        """y as a SciPy CSR array (B, n_labels), which metrics take in place of an array."""
        from scipy.sparse import csr_array

        labels, y = np.asarray(self.labels), np.asarray(self.y)
        ends = np.arange(len(y) + 1) * y.shape[1]
        return csr_array((y.ravel(), labels.ravel(), ends), shape=(len(y), n_labels))


class Shortlist:
    """argmin of a LabelSPEN's energy over the k labels of the largest s of each example, all others at 0.

    `spen` is an `energies.LabelSPEN`; `options` are those of a `Predictor`, such as `steps`; inference starts at
    sigmoid(s). With k = L it is the answer over all labels. The potentials of all labels are computed once for an
    example, by exact maximum inner product; each step of inference then takes the time of k labels. What it leaves out
    is what the global term alone would switch on. ValueError for another module, and for a k outside 1..L.
    """

    def __init__(self, spen: LabelSPEN, k: int, **options: Any):
        """With `options` as for a `Predictor`, such as `steps`; inference starts at sigmoid(s).

        ValueError for another module, and for a k below 1; one above L is an error of the first call.
        """
        if not isinstance(spen, LabelSPEN):
            raise ValueError(
                f"a Shortlist needs an energies.LabelSPEN, whose labels are rows, got {spen!r}"
            )
        check_whole("k", k, 1)
        self.spen, self.k = spen, int(k)
        module: Any = spen
        options = {"start": logits_of(spen)} | options
        self.predictor = Predictor(functions_of(spen)[1], _chosen(module, self.k), **options)

    def __call__(self, params: Any, x: Any) -> Shortlisted:
        """The answers for x (B, D), an array or a SciPy matrix.

        As many examples as the option `batch_size` says run at once; what is left over is a program of its own.
        """
        x = sparse.matrices(x=x)
        size = self.predictor.batch_size
        traced = any(isinstance(a, Tracer) for a in jax.tree.leaves((params, x)))
        if traced or sparse.is_rows(x) or len(x) <= size:
            return self.of_context(params, self.context(params, sparse.whole(x)))
        parts = [x[first : first + size] for first in range(0, len(x), size)]
        each = [self.of_context(params, self.context(params, part)) for part in parts]
        return jax.tree.map(lambda *a: jnp.concatenate(a), *each)

    def context(self, params: Any, x: Any) -> dict[str, jax.Array]:
        """Each example's shortlist: "labels" (B, k), ascending, with their "logits" (B, k) and "C" (B, k, M)."""
        return _context(self.predictor.features, params, x)

    def of_context(self, params: Any, context: dict[str, jax.Array]) -> Shortlisted:
        """The answers over given shortlists, what `context` returns."""
        p = self.predictor
        found = minimize(p.energy, params, context, p.points(context), **p.options(params))
        labels, y = _best_first(context["labels"], context["logits"], found.y)
        return Shortlisted(labels, y, found.energy, found.residual)


@lru_cache(maxsize=64)
def _chosen(spen, k):
    """One function for equal arguments, so that nothing compiles twice."""

    def features(params, x):
        return spen.apply({"params": params}, x, k, method="shortlist")

    return features


@partial(jax.jit, static_argnums=0)
def _context(features, params, x):
    return features(params, x)


@jax.jit
def _best_first(labels, logits, y):
    place = jnp.lexsort((-logits, -y), axis=1)
    return tuple(jnp.take_along_axis(a, place, axis=1) for a in (labels, y))
