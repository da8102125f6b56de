"""Who numbers snakes, and how each is trained."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.structure import snakes_models as models
from experiments.structure import snakes_pairwise as pairwise
from experiments.structure.snakes_data import Snakes
from spen_jax.exact import BeliefPropagation, TreeReweighted
from spen_jax.training import Recipe, train

MESSAGES = BeliefPropagation(steps=20)
BOUND = TreeReweighted(steps=50)


class Contestant(NamedTuple):
    """A model, what trains it, and the labels that it answers."""

    title: str
    init: Callable[[jax.Array, Any], Any]  # (key, batch) -> parameters
    objective: Any
    answer: Callable[..., Any]  # (params, x) -> (B, H, W, 11), largest at the answer
    rate: float
    epochs: int


def init_of(module: Any, with_y: bool = False) -> Callable[[jax.Array, Any], Any]:
    """(key, batch) -> parameters of a Flax module; energies are of x and y."""

    @jax.jit
    def init(key, batch):
        given = (batch["x"], batch["y"]) if with_y else (batch["x"],)
        return module.init(key, *given)["params"]

    return lambda key, batch: init(key, jax.tree.map(lambda a: a[:1], batch))


def feed_forward(title: str, module: Any, **how: Any) -> Contestant:
    """A network alone, by cross-entropy."""
    logits = sx.logits_of(module)
    objective = sx.objectives.feed_forward(logits, domain=sx.Simplex())
    return Contestant(title, init_of(module), objective, jax.jit(logits), **how)


def iterated(title: str, module: Any, **how: Any) -> Contestant:
    """A network whose iterates of the last half are all judged, as the energy's are."""
    weights = models.LAST_HALF if module.steps == models.STEPS else (0.0, 1.0)
    logits = jax.jit(sx.logits_of(module))
    return Contestant(title, init_of(module), models.of_iterates(module, weights), logits, **how)


def window_energy(title: str, **how: Any) -> Contestant:
    """Through the unrolled steps of inference."""
    predictor = models.by_window_energy()
    objective = sx.objectives.end_to_end(predictor, weights=models.LAST_HALF)
    return Contestant(title, init_of(models.SPEN, True), objective, answered(predictor), **how)


def pairs(title: str, predictor: sx.Predictor, objective: Any, **how: Any) -> Contestant:
    """The pairwise energy."""
    whole, answer = pairwise.penalised(objective), answered(predictor)
    return Contestant(title, lambda *_: pairwise.init(), whole, answer, **how)


def answered(predictor: sx.Predictor) -> Callable[..., jax.Array]:
    """(params, x) -> relaxed labels."""
    return lambda params, x: predictor(params, x).y


FIELD = pairwise.by_gradient(20)
MARGINALS = pairwise.by_method(MESSAGES, 1.0)
BEST = pairwise.by_method(BOUND)
likelihood = sx.objectives.maximum_likelihood(MARGINALS)
margin = sx.objectives.max_margin(BEST, cost=sx.losses.hamming)
CONTESTANTS = {
    "unaries": feed_forward("windows of 3 x 3 alone", models.Alone(), rate=0.02, epochs=40),
    "cnn": feed_forward("CNN", models.Convolutional(), rate=0.003, epochs=40),
    "once": iterated(
        "the window energy's layers once", models.Iterated(1, 1.0), rate=0.01, epochs=60
    ),
    "tied": iterated("the same, iterated, no energy", models.Iterated(), rate=0.01, epochs=60),
    "untied": iterated(
        "iterated, weights of each step its own",
        models.Iterated(tied=False),
        rate=0.01,
        epochs=60,
    ),
    "spen": window_energy("window energy, gradient unrolled", rate=0.01, epochs=60),
    "field": pairs(
        "pairs, mean field unrolled", FIELD, sx.objectives.end_to_end(FIELD), rate=0.01, epochs=40
    ),
    "likelihood": pairs("pairs, Bethe likelihood", MARGINALS, likelihood, rate=0.01, epochs=30),
    "marginals": pairs(
        "pairs, marginals through messages",
        MARGINALS,
        sx.objectives.end_to_end(MARGINALS),
        rate=0.01,
        epochs=15,
    ),
    "margin": pairs("pairs, max-margin", BEST, margin, rate=0.01, epochs=30),
    "blind": pairs(
        "pairs, edges see no input", MARGINALS, likelihood, rate=0.01, epochs=30
    )._replace(init=lambda *_: pairwise.init(seeing=False)),
}


def trained(
    one: Contestant, data: Snakes, seed: int, progress: Any = None, epochs: int | None = None
) -> Any:
    """What training has come to, `Trained`."""
    first, training = jax.random.split(jax.random.key(seed))
    given = {"x": data.x, "y": data.y}
    epochs = epochs or one.epochs
    recipe = Recipe(epochs, one.rate, weight_decay=0.0, batch_size=20)
    steps = train(one.objective, one.init(first, given), given, recipe, training)
    return shared.followed(steps, progress, one.title, epochs)


def labelled(one: Contestant, params: Any, x: np.ndarray) -> np.ndarray:
    """The labels that it answers, (N, H, W)."""
    return np.argmax(one.answer(params, x), -1)
