"""How models of horses are trained and judged, all alike."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.structure.horses_models import Contestant
from experiments.structure.horses_training import augmented, corners_of, hidden, recipe
from spen_jax.training import train

MEASURES = ("iou", "pixels", "iou_flips", "iou_hidden", "pixels_hidden", "iou_validation")


def trained(
    one: Contestant, data: dict[str, Any], epochs: int, seed: int, hides: bool, ready: Any = None
) -> Any:
    """The parameters after training; the network starts as `ready`, where it is given."""
    first, training = jax.random.split(jax.random.fold_in(jax.random.key(seed), hides))
    params = one.init(first, data["x"], data["y"])
    if ready is not None:
        params = dict(params) | {"network": ready}
    objective = augmented(one.objective, hides)
    steps = train(objective, params, data, recipe(epochs, one.rate, one.rates), training)
    with shared.progress_bars() as progress:
        return shared.followed(steps, progress, one.title, epochs).params


def judged(
    one: Contestant, params: Any, test: dict[str, Any], validation: dict[str, Any], seed: int
) -> dict[str, float]:
    """In per cent: intersection over union and pixels right, also in the mean over flips, and with a square hidden."""
    x, y = test["x"], test["y"]
    plain = np.asarray(one.answer(params, x))
    turned = np.asarray(one.answer(params, x[:, :, ::-1]))[:, :, ::-1]
    covered = hidden(jnp.asarray(x), corners_of(seed, len(x)))
    masked = np.asarray(one.answer(params, covered))
    of_validation = np.asarray(one.answer(params, validation["x"]))
    # The mean of two masks of 0 and 1, cut at one half, would be their union.
    of_flips = np.nan if one.choose else iou((plain + turned) / 2, y)
    values = (
        iou(plain, y),
        pixels(plain, y),
        of_flips,
        iou(masked, y),
        pixels(masked, y),
        iou(of_validation, validation["y"]),
    )
    return dict(zip(MEASURES, values, strict=True))


def iou(y: Any, truth: Any) -> float:
    """Mean over images, in per cent, of masks cut at one half."""
    return 100 * sx.metrics.mean_iou(y >= 0.5, truth)


def pixels(y: Any, truth: Any) -> float:
    """Right, in per cent."""
    return 100 * sx.metrics.pixel_accuracy(y >= 0.5, truth.astype(bool))
