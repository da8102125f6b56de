"""Problems that the prior was not trained for: pixels missing, holes, a blur; and who solves them.

The energy's weights are used as they are. Level and weight of the prior, and the constants of all other methods, are
those of the best mean on the photographs to choose on.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import spen_jax as sx
from experiments.structure.denoise_models import Model, prior
from spen_jax.convolutions import fast
from spen_jax.energies import (
    Blurred,
    Incomplete,
    Measured,
    Restoration,
    TotalVariation,
    from_measurement,
)
from spen_jax.inference import ProximalGradient
from spen_jax.metrics import psnr

PROBLEMS = {
    "half_missing": "half the pixels missing",
    "holes": "holes of 25 x 25",
    "blur": "Gaussian blur of 1.6, noise 2",
}
HOLES, HOLE = 5, 25  # so many squares down and across, of so many pixels
BLUR, NOISE = 1.6, 2 / 255
STEPS, STEP = 100, 0.7
VARIATION_STEPS = 800
LEVELS = (5, 10, 20)  # of 255, that the prior is told
WEIGHTS = (0.25, 0.5)  # of the prior, beside a blur's noise
TV_WEIGHTS = (0.1, 0.2, 0.4)


class Found(NamedTuple):
    """Answers (n, H, W), the residual of each in grey levels of 255, and the constants they were found with."""

    y: np.ndarray
    residual: np.ndarray | None
    constants: dict[str, float]


def measured(problem: str, images: np.ndarray, seed: int = 1) -> Any:
    """The measurement of images (n, H, W): the same for the same seed."""
    rng = np.random.default_rng((seed, len(images)))
    if problem == "half_missing":
        return Incomplete(images, rng.random(images.shape) < 0.5)
    if problem == "holes":
        return Incomplete(images, np.stack([_with_holes(a.shape, rng) for a in images]))
    x = Blurred(images, kernel(), NOISE)
    blurred = jax.vmap(Blurred.blur)(x, jnp.asarray(images))
    noise = NOISE * rng.standard_normal(images.shape).astype(np.float32)
    return x.replaced(image=blurred + noise)


def _with_holes(shape, rng):
    """One square at random in each cell of a grid."""
    seen = np.ones(shape, bool)
    cells = [n // HOLES for n in shape]
    side = min(HOLE, *(n // 2 for n in cells))
    for row in range(HOLES):
        for column in range(HOLES):
            top = row * cells[0] + rng.integers(cells[0] - side + 1)
            left = column * cells[1] + rng.integers(cells[1] - side + 1)
            seen[top : top + side, left : left + side] = False
    return seen


def kernel() -> np.ndarray:
    """The blur, 13 x 13, of sum 1."""
    line = np.exp(-0.5 * ((np.arange(13) - 6) / BLUR) ** 2)
    return np.outer(line, line) / line.sum() ** 2


@lru_cache
def restorer(prior_term: Any, solver: Any, steps: int, trace: tuple[str, ...] = ()) -> sx.Predictor:
    """The predictor of a prior's problems; level and weight stand among the parameters, the solver's step too."""
    of_module, energy = sx.functions_of(Restoration(prior_term, 1.0))

    def features(params, x):
        context = of_module(params, x)
        return context | {name: params[name] * context[name] for name in ("level", "weight")}

    return sx.Predictor(
        energy,
        features,
        start=from_measurement,
        domain=Measured(),
        solver=solver,
        settings=lambda params: {"step_size": params["step_size"]},
        steps=steps,
        trace=trace,
        batch_size=2,
    )


def by_energy(
    params: Any,
    widths: tuple[int, int],
    x: Any,
    *,
    level: float,
    weight: float,
    trace: tuple[str, ...] = (),
) -> sx.inference.Solution:
    """The learned prior's minimiser, by steps that are exact in the measurement."""
    told = {"level": level / 255, "weight": weight, "step_size": STEP}
    return restorer(prior(widths), ProximalGradient(), STEPS, trace)(params | told, x)


def by_variation(x: Any, *, level: float, weight: float) -> sx.inference.Solution:
    """The minimiser for total variation, convex: enough steps with momentum to settle."""
    variation: Any = TotalVariation(width=0.1)
    told = {"level": level / 255, "weight": weight, "step_size": 0.0125 / weight}
    params = {"prior": {"log_weight": jnp.zeros(())}} | told
    return restorer(variation, ProximalGradient(momentum=0.95), VARIATION_STEPS)(params, x)


def by_network(model: Model, params: Any, x: Any, *, level: float, weight: float) -> Any:
    """Plug and play: the same steps with the noise that a network finds in place of the prior's derivative."""
    return _plugged(model.denoise, params, x, level / 255, weight)


class Settled(NamedTuple):
    """What plug and play ends at: images, and how far the next step of length 1 would move a pixel."""

    y: jax.Array
    residual: jax.Array


@partial(jax.jit, static_argnums=0)
def _plugged(denoise, params, x, level, weight):
    def of_one(x):
        def slope(y):
            found = weight * (y - denoise(params, y[None], level)[0])
            return found + level**2 * jax.grad(x.energy)(y)

        def step(y, _):
            return y - x.newton(slope(y), STEP, level**2), None

        start = jax.tree.map(lambda a: a[None], x).start()[0]
        y, _ = lax.scan(fast(step), start, None, STEPS)
        return y, jnp.max(jnp.abs(x.newton(slope(y), 1.0, level**2)))

    return Settled(*lax.map(of_one, x))


def chosen(
    solve: Callable[..., Any], candidates: Iterable[dict[str, float]], x: Any, truth: np.ndarray
) -> dict[str, float]:
    """The constants whose answers to x are nearest to the truth, by mean PSNR."""

    def of(constants):
        y = np.asarray(solve(x, **constants).y)
        return psnr(np.clip(y, 0, 1), truth) if np.isfinite(y).all() else -np.inf

    return max(candidates, key=of)


def candidates(problem: str, variation: bool = False) -> list[dict[str, float]]:
    """What is tried; where nothing is known beside the pixels a weight changes nothing."""
    if variation:
        weights = TV_WEIGHTS if problem == "blur" else (1.0,)
        return [{"level": 10, "weight": w} for w in weights]
    weights = WEIGHTS if problem == "blur" else (1.0,)
    return [{"level": level, "weight": w} for level in LEVELS for w in weights]


def found(
    solve: Callable[..., Any], tried: Iterable[dict[str, float]], problem: str, images: Any
) -> Found:
    """The answers to the problem of test images, with constants chosen on others."""
    x, x_chosen = measured(problem, images.tested), measured(problem, images.chosen, 2)
    constants = chosen(solve, tried, x_chosen, images.chosen)
    solution = solve(x, **constants)
    y = np.clip(np.asarray(solution.y), 0, 1)
    residual = getattr(solution, "residual", None)
    return Found(y, None if residual is None else 255 * np.asarray(residual), constants)
