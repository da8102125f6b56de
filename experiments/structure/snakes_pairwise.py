"""The pairwise energy: E(y) = sum_i u_i(y_i) + sum_ij A_ij(y_i, y_j), all linear in the windows of their pixels.

u_i = U w_i + c with w_i (45,) the colours of 3 x 3 pixels; A_ij = V w_i + V' w_j + D for each direction, so that an
edge sees the input, or A_ij = D, so that it does not. One energy: every method answers the same parameters.
"""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

import spen_jax as sx
from experiments.structure.snakes_data import COLOURS, LABELS, windows
from spen_jax.exact import Grid, Structured

SEEN = 9 * COLOURS
DIRECTIONS = ("down", "right")
PENALTY = 0.003


def init(seeing: bool = True) -> Any:
    """Parameters, all 0; without `seeing` edges have D alone."""
    ends = [f"{end}_{name}" for name in DIRECTIONS for end in ("from", "to")] if seeing else []
    shapes = {"U": (SEEN, LABELS), "c": (LABELS,)}
    shapes |= {name: (LABELS, LABELS) for name in DIRECTIONS}
    shapes |= {name: (SEEN, LABELS, LABELS) for name in ends}
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


def penalised(objective: Any, weight: float = PENALTY) -> Any:
    """The objective + weight / 2 ||params||^2: of weights that fit alike those on windows seen often are taken."""

    def whole(params, batch, key):
        value, metrics = objective(params, batch, key)
        squares = sum(jnp.sum(a**2) for a in jax.tree.leaves(params))
        return value + weight / 2 * squares, metrics

    return whole


def features(params: Any, x: Any) -> dict[str, jax.Array]:
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


def energy(params: Any, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
    """E(x, y) of one example, y (H, W, 11) relaxed: that of independent pixels, as `grid_by` has it, fast to unroll."""

    def links(table, first, second):
        return jnp.einsum("hwa,hwab,hwb->", first, table, second)

    down, right = (context[name] for name in DIRECTIONS)
    between = links(down, y[:-1], y[1:]) + links(right, y[:, :-1], y[:, 1:])
    return jnp.sum(context["unary"] * y) + between


@lru_cache
def grid_by(method: Any) -> Structured:
    """(params, context) -> the same energy as a grid, of one example, its questions answered by the method."""

    def grid(params, context):
        return Grid(context["unary"], context["down"], context["right"], method=method)

    return grid


def by_method(method: Any, beta: float = math.inf) -> sx.Predictor:
    """The best answer of a method, or at a finite beta the marginals."""
    return sx.Predictor.of_structure(grid_by(method), features, beta=beta)


def by_gradient(steps: int, trace: tuple[str, ...] = ()) -> sx.Predictor:
    """Mean field: l <- l / 2 - grad E / 2, y = softmax(l): mirror descent on E - H, from the pixels alone."""
    return sx.Predictor(
        energy,
        features,
        domain=sx.Simplex(),
        solver=sx.MirrorDescent(0.5),
        temperature=1.0,
        steps=steps,
        start=alone,
        differentiate="unrolled",
        trace=trace,
    )


def alone(context: Any) -> jax.Array:
    """The labels by unaries alone, (B, H, W, 11)."""
    return jax.nn.softmax(-context["unary"])
