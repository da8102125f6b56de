"""A noisy picture of two colours: every method's answer to one energy, whose parameters are learnt on other pictures.

E(y | x) = w (pixels unlike what is seen) + c (neighbours above, below and beside that differ) + d (diagonal ones).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx
from experiments.structure.factor_graphs_tables import Rows, markdown, spread
from spen_jax.exact import (
    Annealing,
    BeliefPropagation,
    DualDecomposition,
    Gibbs,
    Grid,
    MeanField,
    MinCut,
    TreeReweighted,
    potts,
)

NOISE = 0.2
"""How often a pixel is seen wrong."""
STEPS, STEP_SIZE = 200, 0.1
COOLED = tuple(np.geomspace(5, 0.1, STEPS).tolist())

BEST = {
    "minimum cut": MinCut(),
    "belief propagation": BeliefPropagation(),
    "tree-reweighted": TreeReweighted(),
    "dual decomposition": DualDecomposition(),
    "mean field": MeanField(),
    "annealing": Annealing(),
}
LIKELIEST = {
    "belief propagation, marginals": BeliefPropagation(),
    "tree-reweighted, marginals": TreeReweighted(),
    "mean field, marginals": MeanField(),
    "Gibbs sampling, marginals": Gibbs(),
}
EXACTLY = "minimum cut"


class Found(NamedTuple):
    """Of each noise an answer (H, W), its energy above the optimum, the pixels right in percent, and seconds."""

    y: list[np.ndarray]
    above: list[float]
    right: list[float]
    seconds: list[float]


def picture(size: int = 64) -> np.ndarray:
    """A ring, a square with a hole, an E, a slanted bar, and a line of one pixel, (size, size) of 0 and 1."""
    down, right = (np.indices((size, size)) + 0.5) / size
    ring = np.abs(np.hypot(down - 0.27, right - 0.27) - 0.15) < 0.05
    square = (np.abs(down - 0.27) < 0.19) & (np.abs(right - 0.74) < 0.19)
    square &= np.hypot(down - 0.27, right - 0.74) > 0.09
    inside = (np.abs(down - 0.74) < 0.19) & (np.abs(right - 0.24) < 0.14)
    stroke = (right < 0.18) | (np.abs(np.abs(down - 0.74) - 0.155) < 0.035)
    letter = inside & (stroke | (np.abs(down - 0.74) < 0.035))
    bar = (np.abs(down - 0.74) < 0.19) & (np.abs(right - 0.7 + 0.5 * (down - 0.74)) < 0.05)
    line = (np.abs(down - 0.74) < 0.19) & (np.floor(right * size) == int(0.93 * size))
    return (ring | square | letter | bar | line).astype(int)


def shapes(seed: int, count: int, size: int = 64) -> np.ndarray:
    """Pictures to learn from, six discs, boxes or bars each, (count, size, size)."""
    rng = np.random.default_rng((seed, 1))
    down, right = (np.indices((size, size)) + 0.5) / size
    pictures = np.zeros((count, size, size), bool)
    for one in pictures:
        for kind in rng.permutation(np.arange(6) % 3):
            (i, j), radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.2)
            angle = rng.uniform(0, np.pi)
            along = (down - i) * np.cos(angle) + (right - j) * np.sin(angle)
            across = (right - j) * np.cos(angle) - (down - i) * np.sin(angle)
            if kind == 0:
                one ^= np.hypot(along, across) < radius
            elif kind == 1:
                one ^= np.maximum(np.abs(along), np.abs(across)) < radius
            else:
                one ^= (np.abs(along) < 0.3) & (np.abs(across) < radius / 3)
    return pictures.astype(int)


def seen(y: np.ndarray, seed: int) -> np.ndarray:
    """With pixels turned by chance."""
    turned = np.random.default_rng((seed, 2)).random(y.shape) < NOISE
    return y ^ turned


def grid(params: Any, x: Any, method: Any = None) -> Grid:
    """The energy of one picture x (H, W) of 0 and 1."""
    x = jnp.asarray(x, jnp.float32)[..., None]
    unary = params["w"] * jnp.concatenate([x, 1 - x], -1)
    straight, diagonal = potts(params["c"], 2), potts(params["d"], 2)
    return Grid(unary, straight, straight, diagonal, diagonal, method=method)


def timed(ask: Callable[[Any], Any], xs: list[np.ndarray]) -> tuple[list[Any], list[float]]:
    """Answers for each picture, and the seconds of calls other than the first."""
    jax.block_until_ready(ask(xs[0]))
    answers, seconds = [], []
    for x in xs:
        began = time.perf_counter()
        answers.append(jax.block_until_ready(ask(x)))
        seconds.append(time.perf_counter() - began)
    return answers, seconds


def asks(params: Any) -> dict[str, Callable[[Any], Any]]:
    """What each method answers to a picture, distributions or labels."""

    def best(method, x):
        return grid(params, x, method).best().y

    def likeliest(method, x):
        return jnp.argmax(grid(params, x, method).marginals().nodes, -1)

    def descended(temperature, x):
        found = sx.minimize(
            sx.exact.structured(grid),
            params,
            jnp.asarray(x, jnp.float32)[None],
            domain=sx.Simplex(),
            solver=sx.MirrorDescent(STEP_SIZE),
            steps=STEPS,
            temperature=temperature,
            shape=(*x.shape, 2),
        )
        return jnp.argmax(found.y[0], -1)

    return (
        {"each pixel alone": jnp.asarray}
        | {name: partial(best, method) for name, method in BEST.items()}
        | {
            "mirror descent": partial(descended, None),
            "mirror descent, annealed": partial(descended, jnp.asarray(COOLED)),
        }
        | {name: partial(likeliest, method) for name, method in LIKELIEST.items()}
    )


def compare(params: Any, truth: np.ndarray, xs: list[np.ndarray]) -> dict[str, Found]:
    """Every method on each noisy picture."""
    found, least = {}, [float(grid(params, x, MinCut()).best().energy) for x in xs]
    for name, ask in asks(params).items():
        answers, seconds = timed(ask, xs)
        answers = [np.asarray(y) for y in answers]
        above = [
            float(grid(params, x).energy(np.eye(2, dtype=np.float32)[y])) - low
            for x, y, low in zip(xs, answers, least, strict=True)
        ]
        right = [100 * float(np.mean(y == truth)) for y in answers]
        found[name] = Found(answers, above, right, seconds)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """In Markdown."""
    rows: Rows = {
        name: {
            "energy above the optimum": spread(of["above"], ".1f"),
            "pixels right, %": spread(of["right"], ".1f"),
            "seconds": f"{np.median(of['seconds']):.3f}",
        }
        for name, of in found.items()
    }
    return markdown(rows)
