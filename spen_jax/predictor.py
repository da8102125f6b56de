"""How an answer is found, said once: for training, prediction and evaluation."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spen_jax import parallel, sparse
from spen_jax.arguments import handing
from spen_jax.blocks import in_batches
from spen_jax.checks import as_points, check_arrays, check_energy, check_function, check_whole
from spen_jax.domains import Box, Domain, Simplex, check_inside, counting
from spen_jax.exact import Structured, structured
from spen_jax.inference import (
    Differentiate,
    Exact,
    GradientDescent,
    MirrorDescent,
    Solution,
    Solver,
    check_numbers,
    minimize,
    points,
)
from spen_jax.numbers import is_plain
from spen_jax.trees import one_of
from spen_jax.types import Energy, Features


@dataclass(frozen=True)
class Predictor:
    """argmin over y of E(features(x), y), by so many steps of a solver: `predictor(params, x) -> Solution`.

    Objectives train it (`objectives.end_to_end(predictor)`), `Predictor.energies` evaluates given answers. Equal
    predictors share what was compiled.

    Attributes:
      energy: `(params, context, y) -> scalar` for one example.
      features: `(params, x) -> context` for a batch, what does not depend on y; it is handed `key` in training
        (dropout) and `mask`, which parts of y count, where it has parameters of those names. None where the energy sees
        x itself.
      start: where inference starts: a number for all coordinates; an array (B, ...), or (1, ...) for all examples
        alike; a function of the context, handed `key` and `domain` where it has such parameters, such as
        `logits_of(spen)`; None for the domain's middle.
      shape: of one example's y, where `start` is a number or None; in training the truth has it.
      domain: where y lives.
      solver: the algorithm; None is `MirrorDescent()` where the domain has logits, else `GradientDescent()`; `Exact()`
        for energies that know their structure, see `of_structure`.
      steps: how many steps; with `stop_early` at most.
      settings: numbers of the solver in place of its own: a dict, or, where they are learned, a function of params that
        returns it. From here to `progress` as in `inference.Options`.
      temperature: weight of the domain's entropy, E - temperature H(y); or a function of params.
      differentiate: what a derivative of the answer means; None is what an objective needs, "unrolled" for
        `objectives.end_to_end`, else "stopped".
      tolerance: the residual up to which an example counts as converged.
      precision: of the energy's products, None for JAX's own.
      stop_early: whether each example stops once it has converged.
      trace: which of "y", "energy", "residual" to keep for every step.
      progress: whether to report on stderr.
      batch_size: the most rows that are predicted at once.

    ValueError for an energy or features that are no functions, a domain that is none, a shape that is no tuple, and a
    `batch_size` that is no whole number from 1 on; options out of range are refused as it is called.
    """

    energy: Energy
    features: Features | None = None
    _: KW_ONLY
    start: Any = None
    shape: tuple[int, ...] | None = None
    domain: Domain = Box()
    solver: Solver | Exact | None = None
    steps: int = 10
    settings: dict[str, Any] | Callable[[Any], dict[str, Any]] | None = None
    temperature: Any = None
    differentiate: Differentiate | None = None
    tolerance: float = 1e-3
    precision: str | None = None
    stop_early: bool = False
    trace: str | tuple[str, ...] | list[str] = ()
    progress: bool = False
    batch_size: int = 1024

    def __post_init__(self):
        check_function("energy", self.energy, "(params, context, y) -> scalar, of one example")
        if self.features is not None:
            check_function("features", self.features, "(params, x) -> context, of a batch")
        if not isinstance(self.domain, Domain):
            raise ValueError(
                f"domain must be one of spen_jax.domains, such as Box(), Simplex() or Reals(), got {self.domain!r}"
            )
        check_whole("batch_size", self.batch_size, 1)
        if isinstance(self.shape, int):
            raise ValueError(
                f"shape must be a tuple, that of one example's y: shape=({self.shape},), got {self.shape}"
            )
        if isinstance(self.shape, dict):
            raise ValueError(
                "shape is that of one array; for a tree y give start as a tree of arrays (1, ...)"
            )
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(self.shape))
        for name in ("settings", "temperature", "start"):
            object.__setattr__(self, name, jax.tree.map(_own, getattr(self, name)))
        trace = (self.trace,) if isinstance(self.trace, str) else tuple(self.trace)
        object.__setattr__(self, "trace", trace)
        if isinstance(self.start, jax.Array) and not self.start.ndim:
            object.__setattr__(self, "start", float(self.start))
        if self.solver is None:
            solver = MirrorDescent() if self.domain.has_logits else GradientDescent()
            object.__setattr__(self, "solver", solver)

    @classmethod
    def of_structure(
        cls,
        structure: Structured,
        features: Features | None = None,
        *,
        domain: Domain | None = None,
        beta: float = math.inf,
        **options: Any,
    ) -> "Predictor":
        """One whose answer is exact: the best structure, or at a finite beta the marginals.

        Objectives make of it a conditional random field (`objectives.maximum_likelihood(predictor)`), a max-margin
        Markov network (`objectives.max_margin(predictor)`), a structured perceptron (with `variant="perceptron"`).

        Args:
          structure: `(params, context) -> Structure` of one example; see `exact.structured`.
          features: as in `Predictor`.
          domain: where relaxed answers live: that of the structure, a `Simplex()` for labels and heads, a `Box()` for
            spans; None is a Simplex.
          beta: inverse temperature, see `Exact`.
          **options: other attributes of the predictor.
        """
        options |= {"domain": domain or Simplex(), "solver": Exact(beta)}
        return cls(structured(structure), features, **options)

    def __call__(
        self,
        params: Any,
        x: Any,
        *,
        known: tuple[Any, Any] | None = None,
        mask: Any = None,
        key: jax.Array | None = None,
    ) -> Solution:
        """The answers for x, whose arrays, SciPy's sparse matrices too, have a leading axis of any number of examples.

        They run in batches of few sizes, powers of 8 up to `batch_size`, so that little is compiled; what fills a batch
        up is dropped. Where params or x are traced (`jit`, `grad`) all rows are one batch.

        Args:
          params: the parameters.
          x: what the features, or without them the energy, see.
          known: (mask, y), what is known of the answers; see `minimize`.
          mask: which parts of y count, for features that want to know.
          key: for a start that draws.

        ValueError for arrays that do not fit, what is known outside the domain, and numbers out of range, learned ones
        too where they are known now.
        """
        x = sparse.matrices(x=x)
        n = _examples(x)
        if isinstance(known, tuple) and len(known) == 2:
            check_inside(self.domain, known[1], "the y of known", known[0])
        fixed, params, numbers, start = self._split(params)
        batch = _Rows(x, known, mask, start, None if key is None else np.arange(n))
        shared, draws = (params, numbers, key), key is not None
        return self._run(partial(_solve, fixed), shared, batch, self.steps, always=draws)

    def program(self, params: Any) -> tuple[Callable[..., Solution], Any]:
        """(function, shared): function(shared, x, known, mask) is the program behind a call, of one batch; for exports.

        ValueError for a start with a point for each row.
        """
        fixed, params, numbers, start = self._split(params)
        if start is not None:
            raise ValueError(
                "a program answers any rows: a start must be one point for all, a function or None"
            )

        def function(shared, x, known=None, mask=None):
            return _solve(fixed, (*shared, None), _Rows(x, known, mask, None, None))

        return function, (params, numbers)

    def energies(self, params: Any, x: Any, y: Any, *, mask: Any = None) -> jax.Array:
        """E(x, y) of given answers y (B, ...), (B,): without entropy smoothing; what does not count stands at 0.

        ValueError where y does not lie in the domain, or arrays do not fit.
        """
        x = sparse.matrices(x=x)
        check_inside(self.domain, y, "y", mask)
        model = _model(self.energy, self.features)
        return self._run(partial(_energies, model), params, _Answers(x, y, mask), 1)

    def _run(self, function, shared, batch, steps, *, always=False):
        """function(shared, batch), in batches unless something of them is traced."""
        traced = any(isinstance(a, Tracer) for a in jax.tree.leaves((shared, batch)))
        if traced or any(map(sparse.is_rows, jax.tree.leaves(batch.x, is_leaf=sparse.is_rows))):
            batch = batch._replace(x=sparse.whole(batch.x))
            run = function if traced else partial(parallel.call, function, steps=steps)
            return run(shared, batch)
        return in_batches(function, shared, batch, self.batch_size, steps, always=always)

    def context(
        self, params: Any, x: Any, *, key: jax.Array | None = None, mask: Any = None
    ) -> Any:
        """What the energy sees of a batch x; ValueError where that would be sparse rows."""
        x = sparse.whole(x)
        if self.features is not None:
            x = handing(self.features, key=key, mask=mask)(params, x)
        if sparse.has_rows(x):
            raise ValueError(
                "the energy sees one example at a time, and none of sparse rows: give the Predictor features that make "
                "arrays of them, such as lambda params, x: x @ params['W']"
            )
        return x

    def points(self, context: Any, like: Any = None, *, key: jax.Array | None = None) -> Any:
        """Where inference of a batch starts, shaped like the truth (B, ...), or by `shape`; None for exact answers."""
        if isinstance(self.solver, Exact) or self.domain.needs_context and self.start is None:
            return None
        like = self.shape if like is None else like
        return points(self.start, self.domain, context, like, key)

    def options(self, params: Any, **changed: Any) -> dict[str, Any]:
        """How `minimize` is to find the answers, by keyword, with learned settings taken from the parameters."""
        chosen = {
            "domain": self.domain,
            "solver": self.solver,
            "steps": self.steps,
            "settings": _of(self.settings, params),
            "temperature": _of(self.temperature, params),
            "differentiate": self.differentiate or "stopped",
            "tolerance": self.tolerance,
            "precision": self.precision,
            "stop_early": self.stop_early,
            "trace": self.trace,
            "progress": self.progress,
        }
        return chosen | changed

    def _starts_at_arrays(self):
        if self.start is None or callable(self.start):
            return False
        return not jax.tree_util.all_leaves([self.start]) or np.ndim(self.start) > 0

    def _split(self, params):
        """A predictor that can be hashed, the parameters, its numbers that cannot be part of it, and rows of starts."""
        numbers = {}
        for name in ("settings", "temperature"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                numbers[name] = value
        # Known now, and so checked now: the compiled function sees arrays.
        solver: Any = self.solver
        settings, temperature = _of(self.settings, params), _of(self.temperature, params)
        if settings or temperature is not None:
            check_numbers(solver, settings or {}, temperature)
        kept: dict[str, Any] = dict.fromkeys(numbers)
        start = None
        if self._starts_at_arrays():
            kept["start"], start = None, as_points(self.start)
            if all(jnp.shape(a)[:1] == (1,) for a in jax.tree.leaves(start)):
                numbers["start"], start = start, None
        return replace(self, **kept) if kept else self, params, numbers, start


class _Rows(NamedTuple):
    """What a prediction has for each row."""

    x: Any
    known: Any
    mask: Any
    start: Any
    number: Any


class _Answers(NamedTuple):
    """What the energies of given answers have for each row."""

    x: Any
    y: Any
    mask: Any


@lru_cache(maxsize=256)
def _model(energy, features):
    """What the energies of given answers depend on."""
    return Predictor(energy, features)


@partial(jax.jit, static_argnums=0)
def _solve(predictor, shared, batch):
    return parallel.automatic(partial(_solve_all, predictor), shared, batch, batched=True)


def _solve_all(predictor, shared, batch):
    (params, numbers, key), (x, known, mask, start, number) = shared, batch
    context = predictor.context(params, x, mask=mask)
    if key is not None:
        key = jax.random.fold_in(key, number[0])  # no two batches draw alike
    if start is None:
        start = replace(predictor, start=numbers.pop("start", predictor.start)).points(
            context, key=key
        )
    options = predictor.options(params) | numbers
    return minimize(predictor.energy, params, context, start, known=known, **options)


@partial(jax.jit, static_argnums=0)
def _energies(predictor, params, batch):
    return parallel.automatic(partial(_energies_all, predictor), params, batch, batched=True)


def _energies_all(predictor, params, batch):
    x, y, mask = batch
    context = predictor.context(params, x, mask=mask)
    if mask is not None:
        y = counting(jax.tree.broadcast(mask, y), y)
    check_energy(predictor.energy, params, *one_of((context, y)))
    return jax.vmap(predictor.energy, (None, 0, 0))(params, context, y)


def _own(a):
    """A copy of a NumPy array, which its owner may change."""
    return a.copy() if isinstance(a, np.ndarray) else a


def _of(setting, params):
    """A setting, where it is a function that of the parameters."""
    return setting(params) if callable(setting) else setting


def _examples(x):
    leaves = jax.tree.leaves(x, is_leaf=sparse.is_rows)
    if not all(map(is_plain, leaves)):
        check_arrays(x=x)
    if not leaves or not np.ndim(leaves[0]):
        got = "a number" if leaves else "none"
        raise ValueError(f"x must hold an array with a leading axis of examples, got {got}")
    return np.shape(leaves[0])[0]
