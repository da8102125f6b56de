"""How readers of words are trained and judged, all alike."""

from typing import Any, NamedTuple

import jax
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.structure.words_models import Contestant
from spen_jax.training import Recipe, train

WIDTHS = (6, 9, 14)


class Right(NamedTuple):
    """Per cent of letters and of whole words that were read right."""

    letters: float
    words: float


def grouped(letters: sx.data.Letters, rows: np.ndarray) -> sx.data.Groups:
    """Those words as {x, y, mask}, y one-hot, in groups of about equal length."""
    y = np.eye(len(letters.alphabet), dtype=np.float32)[letters.y] * letters.mask[..., None]
    data = {"x": letters.x[rows], "y": y[rows], "mask": letters.mask[rows]}
    return sx.data.by_length(data, data["mask"], WIDTHS)


def recipe(one: Contestant, epochs: int) -> Recipe:
    """How every model is trained; `rate` is its own."""
    return Recipe(epochs, one.rate, weight_decay=1e-4, batch_size=32)


def trained(one: Contestant, groups: sx.data.Groups, epochs: int, seed: int, progress: Any) -> Any:
    """The parameters after training."""
    first, training = jax.random.split(jax.random.key(seed))
    params = one.init(first, groups[0])
    steps = train(one.objective, params, groups, recipe(one, epochs), training)
    return shared.followed(steps, progress, one.title, epochs).params


def judged(one: Contestant, params: Any, groups: sx.data.Groups) -> Right:
    """What it reads right."""
    answers = [np.argmax(one.answer(params, g["x"], g["mask"]), -1) for g in groups]
    found, truth = (
        groups.back(each, WIDTHS[-1]) for each in (answers, [np.argmax(g["y"], -1) for g in groups])
    )
    mask = groups.back([g["mask"] for g in groups], WIDTHS[-1], False)
    accuracy, whole = sx.metrics.token_accuracy, sx.metrics.whole_accuracy
    return Right(100 * accuracy(found, truth, mask), 100 * whole(found, truth, mask))
