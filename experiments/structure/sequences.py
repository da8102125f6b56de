"""What structured models share: parameters, exact chains, the loss of iterates, inference from a network."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

import spen_jax as sx
from spen_jax.exact import Chain
from spen_jax.objectives import read


def chain_of(params: Any, context: Any) -> Chain:
    """The chain of one sequence: labels' energies from the context, transitions from the parameters."""
    return Chain(-context["logits"], params["pairs"]["A"], mask=context["mask"])


def init_of(module: Any, with_y: bool = False) -> Callable[[jax.Array, Any], Any]:
    """(key, batch) -> parameters of a Flax module, compiled; energies are of x and y."""

    @jax.jit
    def init(key, batch):
        y = (batch["y"],) if with_y else ()
        return module.init(key, batch["x"], *y, mask=batch["mask"])["params"]

    return lambda key, batch: init(key, jax.tree.map(lambda a: a[:1], batch))


def scored(module: Any) -> Callable[..., jax.Array]:
    """(params, x, mask) -> logits of a module without an energy, compiled."""
    logits = sx.logits_of(module)
    return jax.jit(lambda params, x, mask: logits(params, x, mask=mask))


def answered(predictor: sx.Predictor) -> Callable[..., jax.Array]:
    """(params, x, mask) -> relaxed labels, compiled."""
    return jax.jit(lambda params, x, mask: predictor(params, x, mask=mask).y)


@lru_cache
def of_iterates(module: Any, weights: tuple[float, ...]) -> Any:
    """The objective of a module with a `path`: cross-entropies of its iterates, weighted as those of a SPEN are."""
    judge = jax.vmap(sx.Simplex().loss_of_scores)

    def objective(params, batch, key):
        x, y, mask, _ = read(batch)
        path = module.apply({"params": params}, x, True, mask, rngs={"dropout": key}, method="path")
        each = jax.vmap(lambda z: jnp.mean(judge(z, y, mask)))(path)
        value = jnp.asarray(weights) @ each
        return value, {"loss": value, "last": each[-1]}

    return objective


def from_network(
    module: Any, steps: int, trace: tuple[str, ...] = (), domain: sx.domains.Domain | None = None
) -> sx.Predictor:
    """z <- z / 2 - grad E / 2 from z = s: entropic mirror descent from the network's own answer, unrolled.

    On simplices, unless another domain is given.
    """
    features, energy = sx.functions_of(module)
    return sx.Predictor(
        energy,
        features,
        domain=domain or sx.Simplex(),
        solver=sx.MirrorDescent(0.5),
        temperature=1.0,
        steps=steps,
        start=sx.logits_of(module),
        differentiate="unrolled",
        trace=trace,
    )
