"""The pairwise energy: E(y) = sum_i u_i(y_i) + sum_ij A_ij(y_i, y_j), all linear in the windows of their pixels.

u_i = U w_i + c with w_i (45,) the colours of 3 x 3 pixels; A_ij = V w_i + V' w_j + D for each direction, so that an edge
sees the input, or A_ij = D, so that it does not. One energy: every method answers the same parameters.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

import spen_jax as sx
from experiments.structure.snakes_data import COLOURS, LABELS, windows
from spen_jax.exact import BeliefPropagation, Grid, Structured, structured

SEEN = 9 * COLOURS
DIRECTIONS = ("down", "right")


def init(key: jax.Array, seeing: bool = True) -> Any:
    """Parameters, near 0; without `seeing` edges have D alone."""
    shapes = {"U": (SEEN, LABELS)}
    if seeing:
        shapes |= {
            f"{end}_{name}": (SEEN, LABELS, LABELS) for name in DIRECTIONS for end in ("from", "to")
        }
    keys = jax.random.split(key, len(shapes))
    params = {
        name: 0.01 * jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    params["c"] = jnp.zeros(LABELS)
    return params | {name: jnp.zeros((LABELS, LABELS)) for name in DIRECTIONS}


def features(params: Any, x: jax.Array) -> dict[str, jax.Array]:
    """The energies of a batch: "unary" (B, H, W, 11), "down" and "right" (B, H', W', 11, 11), or (B, 1, 1, 11, 11)."""
    w = windows(x)
    found = {"unary": w @ params["U"] + params["c"][None, None, None]}
    ends = {"down": (w[:, :-1], w[:, 1:]), "right": (w[:, :, :-1], w[:, :, 1:])}
    for name, (first, second) in ends.items():
        table = jnp.broadcast_to(params[name][None, None, None], (len(x), 1, 1, LABELS, LABELS))
        if f"from_{name}" in params:
            table = table + jnp.tensordot(first, params[f"from_{name}"], 1)
            table += jnp.tensordot(second, params[f"to_{name}"], 1)
        found[name] = table
    return found


@lru_cache
def grid_by(method: Any) -> Structured:
    """(params, context) -> the grid of one example, its questions answered by the method."""

    def grid(params, context):
        return Grid(context["unary"], context["down"], context["right"], method=method)

    return grid


def by_method(method: Any, beta: float = jnp.inf) -> sx.Predictor:
    """The best answer of a method, or at a finite beta the marginals."""
    return sx.Predictor.of_structure(grid_by(method), features, beta=beta)


def by_gradient(steps: int, trace: tuple[str, ...] = ()) -> sx.Predictor:
    """Mean field: l <- l / 2 - grad E / 2, y = softmax(l), mirror descent on E - H from y = 1 / 11."""
    return sx.Predictor(
        structured(grid_by(BeliefPropagation())),
        features,
        domain=sx.Simplex(),
        solver=sx.MirrorDescent(0.5),
        temperature=1.0,
        steps=steps,
        start=starting,
        differentiate="unrolled",
        trace=trace,
    )


def starting(context: Any) -> jax.Array:
    """Where there is no answer yet: the labels by unaries alone."""
    return jax.nn.softmax(-context["unary"])
