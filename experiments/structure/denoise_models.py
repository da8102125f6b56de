"""What denoises: the energy, and the same layers without one; their training at many levels of noise.

A model answers u, an image less 1/2 in units of its noise, by a cleaner one: what it does at one level it does at all.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import spen_jax as sx
from experiments.structure.denoise_data import patches
from spen_jax.energies import Denoising, Noisy, Restoration, from_measurement
from spen_jax.networks import NoiseNetwork
from spen_jax.training import average_of, fit, init

LEVELS = 5.0, 55.0  # of 255, in training
BATCH, EACH = 8, 250  # patches of a step, steps of an epoch
RATE, DECAY, AVERAGE = 2e-3, 1e-4, 0.998
STEPS = 3  # of the controls that iterate


class Residual(nn.Module):
    """u - R(u): the network that the energy is made of, by itself."""

    network: Any

    def __call__(self, u, train=False):
        """(B, H, W) -> (B, H, W)."""
        return u - self.network(u)


class Iterated(nn.Module):
    """z <- z - a_t ((z - u) + b_t R_t(z)) from z = u: the energy's steps without an energy.

    Attributes:
      networks: R_t of each step; one for all where there is one.
      steps: how many.
    """

    networks: tuple[Any, ...]
    steps: int = STEPS

    @nn.compact
    def __call__(self, u, train=False):
        """(B, H, W) -> (B, H, W)."""
        a = self.param("a", nn.initializers.constant(0.6), (self.steps,))
        b = self.param("b", nn.initializers.ones, (self.steps,))
        z = u
        for t in range(self.steps):
            R = self.networks[t % len(self.networks)]
            z = z - a[t] * ((z - u) + b[t] * R(z))
        return z


class Model(NamedTuple):
    """A title, initial parameters of a key, the objective of a batch of (x, y), and the answer to noisy images."""

    title: str
    init: Callable[[jax.Array], Any]
    objective: Any
    denoise: Callable[[Any, Any, Any], jax.Array]  # (params, images (B, H, W), level) -> (B, H, W)


def squared(y, truth):
    """The mean squared error of one image."""
    return jnp.mean((y - truth) ** 2)


def prior(widths: tuple[int, int]) -> Any:
    """The energy's prior."""
    return Denoising(NoiseNetwork(widths), width=1.0)


@lru_cache
def of_energy(title: str, widths: tuple[int, int], steps: int = 1) -> Model:
    """E = |y - x|^2 / 2 + s^2 prior, and `steps` of its gradient descent from x, of learned lengths beyond one."""
    module = Restoration(prior(widths))
    features, energy = sx.functions_of(module)
    settings = None if steps == 1 else lambda params: {"step_size": jnp.exp(params["log_steps"])}
    predictor = sx.Predictor(
        energy,
        features,
        start=from_measurement,
        domain=sx.Reals(),
        solver=sx.GradientDescent(1.0, momentum=0.0),
        steps=steps,
        settings=settings,
        batch_size=2,
    )

    def start(key):
        x = Noisy(jnp.zeros((1, 8, 8)), 1.0)
        params: Any = module.init(key, x, x.image)["params"]
        return params if steps == 1 else params | {"log_steps": jnp.full(steps, jnp.log(0.5))}

    def denoise(params, images, level):
        return predictor(params, Noisy(images, level)).y

    return Model(title, jax.jit(start), sx.objectives.end_to_end(predictor, loss=squared), denoise)


@lru_cache
def of_network(title: str, module: Any) -> Model:
    """A network of u."""
    logits = sx.logits_of(module)

    def answer(params, x):  # at unit noise, as in training
        return logits(params, x.image - 0.5) + 0.5

    @jax.jit
    def one(params, image, level):
        return 0.5 + level * logits(params, (image[None] - 0.5) / level)[0]

    def denoise(params, images, level):
        return jnp.stack([one(params, image, level) for image in images])

    objective = sx.objectives.feed_forward(answer, loss=squared, domain=sx.Reals())

    def start(key):
        return module.init(key, jnp.zeros((1, 8, 8)))["params"]

    return Model(title, jax.jit(start), objective, denoise)


def models(widths: tuple[int, int] = (32, 64)) -> dict[str, Model]:
    """All by name; `energy` and `residual` have as many parameters."""

    def R():
        return NoiseNetwork(widths)

    once: Any = Residual(R())
    tied: Any = Iterated((R(),))
    untied: Any = Iterated(tuple(R() for _ in range(STEPS)))
    return {
        "energy": of_energy("energy, one step", widths),
        "energy3": of_energy("energy, three steps", widths, STEPS),
        "residual": of_network("its network alone, once", once),
        "tied": of_network("iterated three times", tied),
        "untied": of_network("three networks in turn", untied),
    }


@lru_cache
def at_unit_noise(objective: Any) -> Any:
    """The objective of images {"y": (B, H, W)}, each with new noise of a level of its own, in units of that noise."""

    def noised(params, batch, key):
        level_key, noise_key, key = jax.random.split(key, 3)
        y = batch["y"]
        low, high = (level / 255 for level in LEVELS)
        level = jax.random.uniform(level_key, (len(y), 1, 1), minval=low, maxval=high)
        truth = 0.5 + (y - 0.5) / level
        x = Noisy(truth + jax.random.normal(noise_key, y.shape), 1.0)
        return objective(params, {"x": x, "y": truth}, key)

    return noised


def trained(
    model: Model, images: list[np.ndarray], steps: int, seed: int, side: int
) -> Iterator[tuple[Any, float]]:
    """Yields (averaged parameters, loss) after each EACH steps: AdamW, its rate falling to 0."""
    recipe = sx.training.Recipe(
        epochs=-(-steps // EACH),
        learning_rate=RATE,
        weight_decay=DECAY,
        batch_size=BATCH,
        clip=1.0,
        average=AVERAGE,
    )
    count = min(EACH, steps) * BATCH
    key, start = jax.random.split(jax.random.key(seed))
    optimizer = recipe.optimizer(count)
    state = init(model.init(start), optimizer, key)
    rng = np.random.default_rng(seed)
    objective = at_unit_noise(model.objective)
    for _ in range(recipe.epochs):
        data = {"y": patches(images, count, side, rng)}
        state, metrics = fit(objective, optimizer, state, data, epochs=1, batch_size=BATCH).last()
        yield average_of(state), metrics["loss"]
