"""Losses of the energies of many answers: of all of them, or of several positives and negatives.

They never see a model. Energies of all answers are (..., K), the correct one included, those of N wrong ones (..., N);
the result is (...). Padding has infinite energy or weight 0. The mean over a batch is the caller's. Types and shapes
are read as in `pairs`: leading axes are the same, or one of the two has none.

*Margin* is by how much E_wrong - E_correct has to exceed 0 before a loss is content; *collapses* says
whether an energy that is equal everywhere minimises it. Names, margins and conditions follow LeCun et al. (2006),
section 2.2 and table 1; `conditions` checks them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from spen_jax.exact import Weights, softmin
from spen_jax.losses.pairs import Number, PairLoss, alike, fits, hinge, read_pair
from spen_jax.numbers import floats, real


def perceptron(correct: jax.Array, everything: jax.Array, *, weights: Weights = None) -> jax.Array:
    """E_correct - min_y E(x, y), the generalised perceptron loss; the minimum is over all answers.

    Margin, the gap E_wrong - E_correct that contents it: 0. Collapses: it is at its lowest, 0, where all energies are
    equal. With E = -y w.x, y in {-1, +1}, it is 2 max(0, -y w.x), twice the perceptron's. The loss is (...). Sources:
    LeCun et al. (1998); Collins (2002).

    Args:
      correct: energies, (...), or one number.
      everything: energies of all answers, the correct one included, (..., K).
      weights: a mask of what counts, of a shape that broadcasts to `everything`; None for all.

    Raises:
      ValueError: for what is no real number, shapes that do not fit, and weights known to be below 0.
    """
    return nll(correct, everything, jnp.inf, weights=weights)


def nll(
    correct: jax.Array,
    everything: jax.Array,
    beta: Number = 1.0,
    *,
    weights: Weights = None,
) -> jax.Array:
    """E_correct + 1/beta log sum_y exp(-beta E(x, y)): the negative log-likelihood -log P(y | x), over beta.

    The loss is (...). Margin, the gap E_wrong - E_correct that contents it: positive. Does not collapse (an energy
    equal everywhere is no minimum); it pushes all wrong answers, each by its probability. In nats it is beta times
    this. In this scale it tends to `perceptron` as beta grows, which it is at beta = infinity. Lecture slides print the
    free energy without its minus sign. At beta = 1 over K classes it is softmax cross-entropy.

    ValueError for what is no real number, shapes that do not fit, a beta that is no scalar, and beta or weights known
    to be below 0.

    Args:
      correct: energies, (...), or one number.
      everything: energies of all answers, the correct one included, (..., K); or on a grid, or of samples.
      beta: inverse temperature > 0, to infinity, one for all.
      weights: what each of `everything` stands for, of a shape that broadcasts to it: None is 1 (a finite set); a mask
        leaves out padding; the volume of a cell makes a sum over a grid the integral; 1 / (n q(y)) makes n samples
        from a density q an estimate of it (importance sampling, biased upwards in F). A constant to differentiation.

    Sources: LeCun et al. (1998); Lafferty, McCallum & Pereira (2001).
    """
    free = softmin(floats("everything", everything), beta, weights=weights)
    correct = floats("correct", correct)
    return alike("correct", correct, free.shape) - free


def nll_by_samples(correct: jax.Array, sampled: jax.Array) -> jax.Array:
    """E_correct - mean_n E(x, y_n), y_n samples of the model itself: NOT the likelihood, but its gradient's estimate.

    `correct` (...), or one number, and `sampled` (..., n) give (...), of any sign. The gradient of `nll` is dE(x, y)
    less the mean of dE over the Gibbs distribution; with samples of that distribution at the same beta (`sample`), held
    constant, this has that gradient on average. ValueError, by name, for what is no real number and shapes that do not
    fit.
    """
    return violation(correct, jnp.mean(_of_many("sampled", sampled), axis=-1))


def minimum_empirical_error(
    correct: jax.Array,
    everything: jax.Array,
    beta: Number = 1.0,
    *,
    weights: Weights = None,
) -> jax.Array:
    """1 - P(y | x): the expected number of errors of an answer drawn from the Gibbs distribution.

    Margin, the gap E_wrong - E_correct that contents it: positive. Does not collapse (an energy equal everywhere is no
    minimum), but gives badly wrong examples up, as `mce` does, which it is for two answers. The loss is (...), in [0,
    1]. `correct` (...), `everything` (..., K) and what raises ValueError are as in `nll`, beta finite, the weights a
    mask. Source: LeCun et al. (2006), section 2.2.4.
    """
    log_probability = -beta * nll(correct, everything, beta, weights=weights)
    return -jnp.expm1(log_probability)


# Several positives and negatives.


def violation(correct: jax.Array, wrong: jax.Array, margin: Number = 0.0) -> jax.Array:
    """E_correct - E_wrong + margin: positive where the pair violates its margin.

    `correct` and `wrong` (...), or one of them a number, give (...); the margin is one number or of the energies'
    (last) axes. A pair loss for `contrastive`. ValueError, by name, for what is no real number and shapes that do not
    fit.
    """
    correct, wrong, margin = read_pair(correct, wrong, margin=margin)
    return correct - wrong + margin


def summed(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """sum over all pairs, (..., P, N) -> (...): what `contrastive` combines losses by.

    `where`, booleans that broadcast to `values`, says which pairs count; None for all. ValueError for values of fewer
    than two axes.
    """
    return jnp.sum(_of_many("values", values, axes=2), axis=(-2, -1), where=where)


def log_summed(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """log(1 + sum over all pairs of exp(value)), (..., P, N) -> (...): the pairs compete for its gradient.

    `contrastive` combines losses by it. At least 0; `where`, booleans that broadcast to `values`, says which pairs
    count, None for all. ValueError for values of fewer than two axes.
    """
    values = _of_many("values", values, axes=2)
    if where is not None:
        values = jnp.where(where, values, -jnp.inf)
    flat = values.reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])
    return -softmin(jnp.pad(-flat, [(0, 0)] * (flat.ndim - 1) + [(1, 0)]))


def contrastive(
    correct: jax.Array,
    wrong: jax.Array,
    margin: Number = 1.0,
    *,
    pair: PairLoss = hinge,
    combine: Callable[..., jax.Array] = summed,
    where: jax.Array | None = None,
) -> jax.Array:
    """H(E+_1, ..., E+_P, E-_1, ..., E-_N, M) = combine over p, n of pair(E+_p, E-_n, m_pn).

    One positive and one negative give the pair loss itself; `pair=violation, combine=log_summed, margin=0` gives
    InfoNCE for one positive, `log_loss` for one pair. The margin, and whether it collapses, are those of the pair loss.
    The result is (...); leading axes of `correct` and `wrong` are the same, or one of the two has none: ValueError for
    others, and for what is no real number.

    Args:
      correct: energies of P positives, (..., P).
      wrong: energies of N negatives, (..., N); pairs with an infinite one do not count.
      margin: m, one number or one for each pair, (..., P, N).
      pair: (correct, wrong, margin) -> loss: `hinge`, `square_square`, `simple_pair`, `log_loss`, or of a loss that
        takes no margin `lambda c, w, m: mce(c, w)`.
      combine: `summed` or `log_summed`, or (values (..., P, N), where) -> (...).
      where: which pairs count, (..., P, N) or a shape that broadcasts to it.

    Source: LeCun's NYU lectures of 2021, lecture 5, "general contrastive loss".
    """
    correct, wrong = _of_many("correct", correct), _of_many("wrong", wrong)
    rows = _rows(correct.shape[:-1], wrong.shape[:-1])
    shape = (*rows, correct.shape[-1], wrong.shape[-1])
    positives = jnp.broadcast_to(correct[..., :, None], shape)
    negatives = jnp.broadcast_to(wrong[..., None, :], shape)
    counts = (negatives != jnp.inf) & _mask(where, shape)
    positives, negatives = (jnp.where(counts, e, 0) for e in (positives, negatives))
    margins = _broadcast("margin", margin, shape).astype(positives.dtype)
    return combine(pair(positives, negatives, margins), counts)


def additive_margin(
    correct: jax.Array,
    wrong: jax.Array,
    margin: Number = 1.0,
    *,
    pair: PairLoss = hinge,
    where: jax.Array | None = None,
) -> jax.Array:
    """sum over wrong y of H(E_correct, E(x, y), m(y_correct, y)), (...): the generalised additive margin loss.

    `contrastive` with one positive: correct (...), wrong (..., N), margin a number or (..., N), where (..., N) says
    which wrong ones count, H the loss `pair` of (correct, wrong, margin). ValueError, by name, for what is no real
    number and shapes that do not fit.
    """
    correct, margin = floats("correct", correct), floats("margin", margin)
    margin = margin[..., None, :] if margin.ndim else margin
    where = None if where is None else jnp.asarray(real("where", where))[..., None, :]
    return contrastive(correct[..., None], wrong, margin, pair=pair, where=where)


def info_nce(
    correct: jax.Array,
    wrong: jax.Array,
    beta: Number = 1.0,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """-log exp(-beta E_correct) / (exp(-beta E_correct) + sum_n exp(-beta E_n)), in nats.

    The loss is (...), at least 0. Margin, the gap E_wrong - E_correct that contents it: implicit and infinite. Does not
    collapse: an energy equal everywhere is no minimum. The negatives compete for the gradient: each is pushed by its
    probability times beta, so that the lowest gets nearly all. On the energy `energies.cosine` it is the loss of SimCLR
    and CLIP, who call 1 / beta the temperature; it may be learned.

    Args:
      correct: energies, (...).
      wrong: energies of N negatives, (..., N); for a batch of pairs its matrix of energies (B, B).
      beta: inverse temperature, finite and > 0.
      where: which are negatives, (..., N): `different`, or all but the diagonal of the matrix.

    Source: van den Oord, Li & Vinyals (2018).

    ValueError, by name, for what is no real number and shapes that do not fit.
    """
    correct, wrong = floats("correct", correct), _of_many("wrong", wrong)
    rows = _rows(correct.shape, wrong.shape[:-1])
    correct = jnp.broadcast_to(correct, rows)
    wrong = jnp.broadcast_to(wrong, (*rows, wrong.shape[-1]))
    beta = floats("beta", beta).astype(jnp.result_type(correct, wrong))
    wrong = jnp.where(_mask(where, wrong.shape), wrong, jnp.inf)
    absent = wrong == jnp.inf
    # Infinity times 0 has no derivative: absent energies are replaced before and after.
    gaps = correct[..., None] - jnp.where(absent, 0, wrong)
    values = jnp.where(absent, -jnp.inf, beta * gaps)
    return log_summed(values[..., None, :])


def _of_many(name, values, axes=1):
    """Floats with so many axes at least."""
    values = floats(name, values)
    if values.ndim < axes:
        raise ValueError(f"{name} must have {axes} axes or more, got shape {values.shape}")
    return values


def _rows(correct, wrong):
    """The leading axes of both."""
    if not fits(correct, wrong):
        raise ValueError(
            f"correct and wrong must have the same leading axes, or one of them none, got {correct} and {wrong}"
        )
    return jnp.broadcast_shapes(correct, wrong)


def _mask(where, shape):
    """The mask as booleans of this shape."""
    return _broadcast("where", True if where is None else where, shape) != 0


def _broadcast(name, values, shape):
    values = real(name, values)
    try:
        return jnp.broadcast_to(values, shape)
    except ValueError as error:
        raise ValueError(f"{name} must broadcast to {shape}, got shape {values.shape}") from error
