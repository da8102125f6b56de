"""The sufficient conditions on a loss, under which lowering it puts the correct answer below the wrong ones.

A loss here is a function of two energies, `(correct, wrong) -> loss`, of any shape; `as_pair` makes one of a loss of
all energies, and `functools.partial` fixes what else it takes. Source: LeCun et al. (2006), section 5;
LeCun's lecture, "conditions on the loss".
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.losses.pairs import PairLoss
from spen_jax.types import Energy

ASIDE = 1e-6
"""The margin line is looked at from its wrong side, at this distance: at the line a hinge has no slope."""


class Report(NamedTuple):
    """What `check` found for one loss and margin.

    The conditions are LeCun's: energies are low where good, and under them lowering the loss puts E_correct below
    E_wrong.

    Attributes:
      minima: condition 1, all minima (infima at infinity count) lie where E_correct <= E_wrong - m: `right` is
        below `wrong`.
      descends: condition 2, along the margin line a step down the loss widens the gap: `slope` > 0.
      right: the lowest loss found on the right side of the line.
      wrong: the lowest loss found on the wrong side.
      slope: the smallest -grad L . (-1, 1) along the line.
    """

    minima: bool
    descends: bool
    right: float
    wrong: float
    slope: float


def as_pair(loss: Callable[..., jax.Array]) -> PairLoss:
    """(correct, wrong) -> loss(correct, [correct, wrong]), of a loss of all energies where there are two answers.

    For `perceptron`, `nll` and `minimum_empirical_error`, so that `check` can look at them; energies (...) give (...).
    InfoNCE takes wrong ones only, `info_nce(c, w[..., None])`.
    """

    def pair(correct, wrong):
        return loss(correct, jnp.stack([correct, wrong], axis=-1))

    return pair


def check(
    loss: PairLoss, margin: float, *, lowest: float = -np.inf, reach: float = 3.0, points: int = 121
) -> Report:
    """Conditions 1 and 2 for a loss on a grid of (E_correct, E_wrong), in float64: a `Report`.

    The grid is fine up to `reach` and goes on in powers of ten to 10,000 times that. A loss that on the wrong side
    falls towards its lowest value with each power has its infimum at infinity there. Rounding limits what can be
    told: a loss that ends as exp(-beta m) needs beta m below about 35.

    Args:
      loss: (correct, wrong) -> loss, scalars; `as_pair` makes one of a loss of all energies.
      margin: m > 0 of the line E_correct = E_wrong - m. For a loss whose margin is "positive", any small one.
      lowest: what the architecture's energies are never below: 0 for a distance.
      reach: how far the fine grid goes on both sides.
      points: of the fine grid, on each axis.

    Raises:
      ValueError: for numbers out of range, a loss that does not make one number of two, or one that is not a number
        somewhere on the grid.

    Source: LeCun et al. (2006), section 5.
    """
    if not (margin > 0 and reach > 0 and points > 1):
        raise ValueError(
            f"check needs margin > 0, reach > 0 and at least 2 points, got {margin}, {reach}, {points}"
        )
    _check_pair(loss)
    correct, gap = _grid(margin, lowest, reach, points)
    on_line = np.unique(correct[correct + margin - ASIDE >= lowest])
    with jax.enable_x64(True):
        values, slopes = jax.tree.map(
            np.asarray,
            _compiled(loss)(correct, correct + gap, on_line, on_line + margin - ASIDE),
        )
    if np.any(np.isnan(values)):
        at = np.argmax(np.isnan(values))
        raise ValueError(
            f"the loss is not a number at E_correct = {correct[at]:g}, E_wrong = {correct[at] + gap[at]:g}; "
            "write it so that it is, or give the lowest energy"
        )
    beyond = gap < margin
    farthest = np.maximum(np.abs(correct), np.abs(gap))
    nearer = beyond & (farthest < 0.5 * _powers(reach)[-1])
    right, wrong = float(values[~beyond].min()), float(values[beyond].min())
    # Where the last power of ten still halves what is left, the infimum lies at infinity.
    falling = wrong - right < 0.5 * (float(values[nearer].min()) - right)
    slope = float(slopes.min())
    return Report(right < wrong and not falling, slope > 0, right, wrong, slope)


@lru_cache(maxsize=64)
def _compiled(loss):
    """The loss at one set of points, and -grad L . (-1, 1) at another."""

    def both(correct, wrong, correct_on_line, wrong_on_line):
        by_correct, by_wrong = jax.vmap(jax.grad(loss, (0, 1)))(correct_on_line, wrong_on_line)
        return jax.vmap(loss)(correct, wrong), by_correct - by_wrong

    return jax.jit(both)


def _check_pair(loss):
    """ValueError for a loss that does not make one number of two."""
    one = jax.ShapeDtypeStruct((), jnp.float32)
    needs = (
        "check needs a loss of two energies, (correct, wrong) -> scalar; `as_pair` makes one of a "
        "loss of all energies"
    )
    try:
        shape = jnp.shape(jax.eval_shape(loss, one, one))
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{needs}, {error}") from error
    if shape:
        raise ValueError(f"{needs}, got shape {shape}")


def _powers(reach):
    return reach * 10.0 ** np.arange(1, 5)


def _grid(margin, lowest, reach, points):
    """E_correct and E_wrong - E_correct of all points that the energies can have, two arrays (points,)."""
    far, fine = _powers(reach), np.linspace(-reach, reach, points)
    steps = np.concatenate([-far[::-1], fine, far])
    correct = np.concatenate([steps, [] if np.isinf(lowest) else [lowest]])[:, None]
    # Gaps are laid out from the line, so that no rounding puts a point on its other side.
    nearest = [0, fine[0] - fine[1], -ASIDE]
    gap = margin + np.concatenate([steps - steps[np.argmin(np.abs(steps))], nearest])
    correct, gap = np.broadcast_arrays(correct, gap)
    possible = (correct >= lowest) & (correct + gap >= lowest)
    return correct[possible], gap[possible]


def in_weights(
    loss: PairLoss, energy: Energy, params: Any, x: Any, y: Any, wrong: Any, margin: float
) -> jax.Array:
    """Condition 3 for a model: (dE_correct/dW - dE_wrong/dW) . dL/dW on the margin line, (B,), to be above 0.

    The gradients of the energies are those of the model; the loss's are taken at (E_wrong - m, E_wrong). Where it
    is positive, a small step down the loss makes the gap of that example wider.

    Args:
      loss: (correct, wrong) -> loss, scalars.
      energy: `(params, x, y) -> scalar` for one example.
      params: W.
      x: what the energy sees of B examples.
      y: their correct answers, leading axis B.
      wrong: their most offending wrong answers, leading axis B.
      margin: m > 0, of the line E_correct = E_wrong - m.

    The trees x, y and wrong hold arrays (B, ...). ValueError where leading axes differ. Source: LeCun et al. (2006),
    section 5.
    """

    def of_one(x, y, wrong):
        up = jax.grad(energy)(params, x, y)
        value, down = jax.value_and_grad(energy)(params, x, wrong)
        aside = 16 * jnp.finfo(value.dtype).eps * (jnp.abs(value) + margin)
        by_correct, by_wrong = jax.grad(loss, (0, 1))(value - margin + aside, value)

        def dot(u, d):
            return jnp.sum((u - d) * (by_correct * u + by_wrong * d))

        return jax.tree.reduce(jnp.add, jax.tree.map(dot, up, down))

    return jax.vmap(of_one)(x, y, wrong)
