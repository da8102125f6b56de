"""The exact answer of an energy that knows its structure, in place of a solver's steps."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax import checks, parallel
from spen_jax.domains import Domain, Simplex
from spen_jax.exact import Field, structure_of, structures
from spen_jax.inference.solution import Solution
from spen_jax.types import Energy


@dataclass(frozen=True)
class Exact:
    """The minimum of an energy that knows its structure (`exact.structured`), by its own algorithm; stands as a solver.

    At beta = infinity y is the best structure, relaxed: an indicator array. It jumps, so that it is a constant to
    differentiation; its energy is that at this y. At a finite beta y is the mean of P(y) = exp(-beta (E - F)), the
    marginals of the parts, and the energy F, the least of mean E - H / beta; both can be differentiated.

    Attributes:
      beta: inverse temperature, > 0; ValueError for others, and from the call for an energy without a structure.
    """

    beta: float = math.inf

    def __post_init__(self):
        if not self.beta > 0:
            raise ValueError(f"Exact needs beta > 0, got {self.beta}")

    @property
    def is_best(self) -> bool:
        """Whether the answer is the best structure."""
        return self.beta == math.inf


def exactly(
    energy: Energy, params: Any, context: Any, known: Any, options: dict[str, Any]
) -> Solution:
    """`minimize` where the solver is `Exact`.

    Residuals are 0, there are no steps; an example without an allowed structure has failed, with infinite energy. Of a
    field, whose method may be approximate, the best answer is the best it finds, and the residual of marginals its own.
    Options about steps play no part. ValueError for an energy that knows no structure, and for a temperature,
    settings or a trace.
    """
    solver = options["solver"]
    if structure_of(energy) is None:
        raise ValueError(
            "Exact needs an energy that knows its structure, of exact.structured(...), or such a one less a Hamming "
            "cost; this one has none: take another solver, or another objective"
        )
    for name in ("temperature", "settings", "trace"):
        value = options.get(name)
        if value is not None and not (isinstance(value, tuple | list | dict) and not value):
            raise ValueError(
                f"{name} is of solvers that take steps: Exact has beta, the inverse temperature"
            )
    if solver.is_best and options.get("differentiate", "stopped") != "stopped":
        raise ValueError(
            "the best structure jumps and has no derivative: give Exact a finite beta, whose answers are marginals, or "
            "differentiate='stopped'"
        )
    domain = options.get("domain")
    checks.check_arrays(params=params, context=context, known=known)
    y, found, residual = parallel.call(
        partial(_solve, energy, solver, domain), params, (context, known), 1
    )
    return Solution(y, found, residual, None, {}, 0, options.get("tolerance", 1e-3))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _solve(energy, solver, domain, params, batch):
    solve = partial(_solve_all, energy, solver, domain)
    return parallel.automatic(solve, params, batch, batched=True)


def _solve_all(energy, solver, domain, params, batch):
    context, known = batch
    found = structures(structure_of(energy), params, context)
    if domain not in (None, found.domain):
        raise ValueError(
            f"the answers of a {type(found).__name__} live in {found.domain}, not in {domain}: give that as the domain"
        )
    if known is not None:
        found = found.plus(_barred(found.domain, *known))
    residual: Any = 0.0
    if solver.is_best:
        best = found.best()
        y = found.one_hot(best.y)
        value = jax.vmap(energy, (None, 0, 0))(params, context, y)
        value = jnp.where(jnp.isfinite(best.energy), value, best.energy)
    elif isinstance(found, Field):
        beliefs = found.marginals(solver.beta)
        y, value, residual = beliefs.nodes, beliefs.free_energy, beliefs.residual
    else:
        value, y = found.mean(solver.beta)
    return y, value, jnp.where(jnp.isfinite(value), residual, jnp.nan)


def _barred(domain: Domain, mask, y):
    """Infinity at what contradicts a known y."""
    if not isinstance(domain, Simplex):
        raise ValueError(
            f"known parts of an exact answer need y on a Simplex, such as labels, got {domain}"
        )
    return jnp.where(mask[..., None] & (y < 0.5), jnp.inf, 0.0)
