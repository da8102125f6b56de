"""What the picture's energy weighs, learnt by likelihoods that methods approximate, and by pseudo-likelihood."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import spen_jax as sx
from experiments.structure.factor_graphs_image import NOISE, grid
from experiments.structure.factor_graphs_tables import Rows, markdown, spread
from spen_jax.exact import BeliefPropagation, Grid, MeanField, MinCut, TreeReweighted

START = {"w": 1.5, "c": 0.5, "d": 0.5}
RATE = 0.1
PIXELS = 64
"""That pseudo-likelihood looks at in each picture and step."""


def by_messages(params: Any, x: Any) -> Grid:
    """Its likelihood is Bethe's."""
    return grid(params, x, BeliefPropagation(steps=30))


def by_forests(params: Any, x: Any) -> Grid:
    """Its likelihood is not above the true one."""
    return grid(params, x, TreeReweighted(steps=30))


def by_mean_field(params: Any, x: Any) -> Grid:
    """Its likelihood is not below the true one."""
    return grid(params, x, MeanField(sweeps=20))


BY = {
    "Bethe likelihood": by_messages,
    "tree-reweighted likelihood": by_forests,
    "mean-field likelihood": by_mean_field,
}


def objectives() -> dict[str, Any]:
    """By name."""
    predictors = {name: sx.Predictor.of_structure(of) for name, of in BY.items()}
    found = {name: sx.objectives.maximum_likelihood(p) for name, p in predictors.items()}
    any_of_them = next(iter(predictors.values()))
    found["pseudo-likelihood"] = sx.objectives.pseudo_likelihood(any_of_them, labels=PIXELS)
    return found


@partial(jax.jit, static_argnums=(0, 2))
def learnt(objective: Callable[..., Any], batch: Any, steps: int) -> Any:
    """The parameters after so many steps of Adam; couplings stay at 0 or above, so that there is a minimum cut."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    params = jax.tree.map(jnp.float32, START)

    def step(state, key):
        params, memory = state
        slope = jax.grad(lambda p: objective(p, batch, key)[0])(params)
        change, memory = optimizer.update(slope, memory, params)
        moved = optax.apply_updates(params, change)
        return (jax.tree.map(lambda a: jnp.maximum(a, 0), moved), memory), None

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def learn(truths: np.ndarray, xs: np.ndarray, steps: int) -> dict[str, dict[str, float]]:
    """{objective: {parameter: value}} of pictures (N, H, W) and what is seen of them."""
    y = np.eye(2, dtype=np.float32)[truths]
    batch = {"x": jnp.asarray(xs, jnp.float32), "y": jnp.asarray(y)}
    return {
        name: {k: float(v) for k, v in learnt(objective, batch, steps).items()}
        for name, objective in objectives().items()
    }


def judged(params: Any, truth: np.ndarray, xs: list[np.ndarray]) -> dict[str, list[float]]:
    """Pixels right in percent, of the best answer and of each pixel's likeliest."""
    right: dict[str, list[float]] = {"best": [], "likeliest": []}
    for x in xs:
        field = grid(params, x)
        found = np.argmax(field.marginals().nodes, -1), field.by(MinCut()).best().y
        for name, y in zip(("likeliest", "best"), found, strict=True):
            right[name].append(100 * float(np.mean(np.asarray(y) == truth)))
    return right


def table(params: dict[str, Any], right: dict[str, Any]) -> str:
    """In Markdown; the noise says what w is."""
    rows: Rows = {
        name: {
            "w": f"{of['w']:.2f}",
            "c": f"{of['c']:.2f}",
            "d": f"{of['d']:.2f}",
            "best answer: pixels right, %": spread(right[name]["best"], ".1f"),
            "likeliest of each pixel": spread(right[name]["likeliest"], ".1f"),
        }
        for name, of in params.items()
    }
    return markdown(rows, f"log odds of the noise: {np.log(1 / NOISE - 1):.2f}")
