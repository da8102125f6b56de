"""Losses of the energies of the correct answer and of a wrong one, such as the most offending (`negatives`).

They never see a model: E(x, y) of the correct answer and E(x, y_bar) of a wrong one, both (...) or one a single number,
give (...). Where there is no wrong answer its energy is infinite. The mean over a batch is the caller's. The result has
the type of the energies; whole numbers are read as floats. ValueError, by name, for what is no real number and for
shapes of other numbers of axes: (B,) and (B, 1) would make a matrix, where (B, 1) and (B, K) are meant.

*Margin* is by how much E_wrong - E_correct has to exceed 0 before a loss is content; *collapses* says
whether an energy that is equal everywhere minimises it. Names, margins and conditions follow LeCun et al. (2006),
section 2.2 and table 1; `conditions` checks them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.numbers import floats

PairLoss = Callable[..., jax.Array]
"""(correct, wrong, margin) -> loss, all (...)."""
Number = jax.Array | float
"""One number, or one for each energy, or for those along their last axes."""


def energy_loss(correct: jax.Array) -> jax.Array:
    """E_correct = `correct`, (...) -> (...), as floats.

    Margin, the gap E_wrong - E_correct that contents it: none. Collapses, that is, an energy equal everywhere minimises
    it, unless the architecture holds the other energies up (regression does). ValueError for what is no real number.
    Source: LeCun et al. (2006), section 2.2.
    """
    return floats("correct", correct)


def fits(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes have as many axes, each of one length or of 1, or one of them none."""
    pairs = zip(shape, other, strict=False)
    ranks = not shape or not other or len(shape) == len(other)
    return ranks and all(n == m or 1 in (n, m) for n, m in pairs)


def alike(name: str, values: Any, shape: tuple[int, ...]) -> jax.Array:
    """`values` as floats of a shape that `fits`; ValueError, which says `name`, for others."""
    values = floats(name, values)
    if not fits(values.shape, shape):
        raise ValueError(
            f"{name} must have the axes of the other energies, {shape}, or be one number, got shape {values.shape}"
        )
    return values


def _number(name, values, shape):
    """A number for each pair of energies, or for those along their last axes."""
    values = floats(name, values)
    alike(name, values.reshape((1,) * (len(shape) - values.ndim) + values.shape), shape)
    return values


def read_pair(correct: Any, wrong: Any, **numbers: Any) -> list[jax.Array]:
    """Energies and numbers as floats, all of the energies' type; ValueError where a shape does not fit."""
    correct = floats("correct", correct)
    wrong = alike("wrong", wrong, correct.shape)
    dtype, shape = jnp.result_type(correct, wrong), np.broadcast_shapes(correct.shape, wrong.shape)
    read = [_number(name, value, shape) for name, value in numbers.items()]
    return [a.astype(dtype) for a in (correct, wrong, *read)]


def hinge(correct: jax.Array, wrong: jax.Array, margin: Number = 1.0) -> jax.Array:
    """max(0, margin + E_correct - E_wrong): hinge, hinge pair, triplet or ranking loss.

    Margin, the gap E_wrong - E_correct that contents it: m, one number or of the energies' (last) axes. Does not
    collapse: an energy equal everywhere is no minimum. With margin D(y_hat, truth) and E_wrong = E(x, y_hat) this is
    the structured hinge loss of Taskar et al. (2003), Altun et al. (2003) and Tsochantaridis et al. (2004); for SPENs
    Belanger & McCallum (2016). On distances of an anchor it is the triplet loss of Schroff et al. (2015), on each
    negative the ranking loss of Weston et al. (2010).

    `correct` and `wrong` (...), or one of them a number, give (...); `wrong` is infinite where no answer is wrong.
    At least 0. ValueError, by name, for what is no real number and shapes that do not fit.
    """
    correct, wrong, margin = read_pair(correct, wrong, margin=margin)
    return jnp.maximum(0, margin + correct - wrong)


def log_loss(
    correct: jax.Array, wrong: jax.Array, margin: Number = 0.0, beta: Number = 1.0
) -> jax.Array:
    """softplus(beta (E_correct - E_wrong + margin)) / beta, the hinge loss made smooth.

    Margin, the gap E_wrong - E_correct that contents it: any; its slope never ends, so that it wants the gap to be
    infinite. Does not collapse: an energy equal everywhere is no minimum. The lecture's form is the default; as beta
    grows it tends to `hinge`, which it is at beta = infinity. Source: LeCun et al. (2006), section 2.2.

    `correct` and `wrong` (...), or one of them a number, give (...); `wrong` is infinite where no answer is wrong.
    At least 0; beta above 0, and like the margin one number or of the energies' (last) axes. ValueError, by name, for
    what is no real number and shapes that do not fit.
    """
    correct, wrong, margin, beta = read_pair(correct, wrong, margin=margin, beta=beta)
    absent, wrong = _absent(wrong)
    excess = correct - wrong + margin
    finite = jnp.where(beta == jnp.inf, 1, beta)
    smooth = jax.nn.softplus(finite * excess) / finite
    return jnp.where(absent, 0, jnp.where(beta == jnp.inf, jnp.maximum(0, excess), smooth))


def mce(correct: jax.Array, wrong: jax.Array, *, beta: Number = 1.0) -> jax.Array:
    """sigmoid(beta (E_correct - E_wrong)), minimum classification error: a smooth count of errors.

    Margin, the gap E_wrong - E_correct that contents it: positive. Does not collapse (an energy equal everywhere is no
    minimum), but where the violation is large its gradient vanishes: it gives badly wrong examples up. As beta grows it
    is 1 on errors and 0 elsewhere. Source: Juang, Chou & Lee (1997).

    `correct` and `wrong` (...), or one of them a number, give (...); `wrong` is infinite where no answer is wrong.
    From 0 to 1; beta, the inverse temperature, is finite and above 0. ValueError, by name, for what is no real number
    and shapes that do not fit.
    """
    correct, wrong, beta = read_pair(correct, wrong, beta=beta)
    absent, wrong = _absent(wrong)
    return jnp.where(absent, 0, jax.nn.sigmoid(beta * (correct - wrong)))


def square_square(correct: jax.Array, wrong: jax.Array, margin: Number = 1.0) -> jax.Array:
    """max(0, E_correct)^2 + max(0, margin - E_wrong)^2.

    Margin, the gap E_wrong - E_correct that contents it: m, where energies are at least 0. Does not collapse: one level
    for all cannot be 0 and m. Lecture slides print the second term as min(0, m - E_wrong)^2, and elsewhere the loss as
    E_correct^2 - max(0, m - E_wrong^2): both push wrong answers the other way in places. Sources: LeCun & Huang (2005);
    Hadsell, Chopra & LeCun (2006). Chopra, Hadsell & LeCun (2005), whom lecture notes name, have an exponential as
    second term.

    `correct` and `wrong` (...), or one of them a number, give (...); `wrong` is infinite where no answer is wrong.
    At least 0; the margin is one number or of the energies' (last) axes. ValueError, by name, for what is no real
    number and shapes that do not fit.
    """
    correct, wrong, margin = read_pair(correct, wrong, margin=margin)
    return jnp.maximum(0, correct) ** 2 + jnp.maximum(0, margin - wrong) ** 2


def square_exponential(
    correct: jax.Array, wrong: jax.Array, *, scale: Number = 1.0, beta: Number = 1.0
) -> jax.Array:
    """E_correct^2 + scale exp(-beta E_wrong).

    Margin, the gap E_wrong - E_correct that contents it: positive, where energies are at least 0. Does not collapse: an
    energy equal everywhere is no minimum. For energies bounded below: at E_wrong = -100 the exponential overflows
    float32. Source: Osadchy, Miller & LeCun (2004).

    `correct` and `wrong` (...), or one of them a number, give (...); `wrong` is infinite where no answer is wrong.
    `scale` and beta, above 0, are one number or of the energies' (last) axes. ValueError, by name, for what is no real
    number and shapes that do not fit.
    """
    correct, wrong, scale, beta = read_pair(correct, wrong, scale=scale, beta=beta)
    absent, wrong = _absent(wrong)
    return correct**2 + jnp.where(absent, 0, scale * jnp.exp(-beta * wrong))


def simple_pair(correct: jax.Array, wrong: jax.Array, margin: Number = 1.0) -> jax.Array:
    """max(0, E_correct) + max(0, margin - E_wrong).

    Margin, the gap E_wrong - E_correct that contents it: m, where energies are at least 0. It pulls the correct energy
    to 0 and the wrong one to the margin with equal force, so that a level for all between them is a minimum too where
    the two cannot move apart. Source: Bromley et al. (1993).

    `correct` and `wrong` (...), or one of them a number, give (...); `wrong` is infinite where no answer is wrong.
    At least 0; the margin is one number or of the energies' (last) axes. ValueError, by name, for what is no real
    number and shapes that do not fit.
    """
    correct, wrong, margin = read_pair(correct, wrong, margin=margin)
    return jnp.maximum(0, correct) + jnp.maximum(0, margin - wrong)


def _absent(wrong):
    """Where there is no wrong answer, and energies with a finite number there: infinity times 0 has no derivative."""
    absent = wrong == jnp.inf
    return absent, jnp.where(absent, 0, wrong)
