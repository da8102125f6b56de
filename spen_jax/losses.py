"""Losses: what a wrong answer costs, losses of energies, and one of embeddings.

Costs D(y, truth) compare a relaxed answer y in [0, 1]^L with a truth in {0, 1}^L, both (..., L), and
SUM over the labels: result (...); AssertionError where the shapes differ.

Losses of energies never see a model. Pair losses take E(x, y) of the correct answer and E(x, y_bar) of a wrong one,
such as the most offending (`negatives`), both (...), and return (...). Set losses take the energies of all answers
(..., K), the correct one included, or of N wrong ones (..., N). Padding has infinite energy or weight 0.
The mean over a batch is the caller's. *Margin* is by how much E_wrong - E_correct has to exceed 0 before the loss is
content; *collapses* says whether an energy that is equal everywhere minimises it. Names, margins and
conditions follow LeCun et al. (2006), section 2.2 and table 1, `conditions` checks them.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from spen_jax.domains import PROBABILITY_FLOOR
from spen_jax.gibbs import Weights, softmin

PairLoss = Callable[..., jax.Array]
"""(correct, wrong, margin) -> loss, all (...)."""
Number = jax.Array | float


def _floats(y, truth):
    """Both as floats: booleans would be added as such."""
    chex.assert_equal_shape([y, truth])
    dtype = jnp.result_type(y, truth, 0.0)
    return jnp.asarray(y, dtype), jnp.asarray(truth, dtype)


def squared_error(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = sum_i (y_i - t_i)^2; on binary y the number of wrong labels."""
    y, truth = _floats(y, truth)
    return jnp.sum((y - truth) ** 2, axis=-1)


def hamming(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = sum_i t_i (1 - y_i) + (1 - t_i) y_i, linear in y; on binary y the number of wrong labels."""
    y, truth = _floats(y, truth)
    return jnp.sum(truth + y - 2 * truth * y, axis=-1)


def cross_entropy(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = -sum_i t_i log y_i + (1 - t_i) log(1 - y_i), in nats, each probability taken as at least 1e-7.

    Beyond a logit of about 16 on the wrong side the gradient is therefore 0.
    """
    y, truth = _floats(y, truth)
    log_on = jnp.log(jnp.maximum(y, PROBABILITY_FLOOR))
    log_off = jnp.log(jnp.maximum(1 - y, PROBABILITY_FLOOR))
    return -jnp.sum(truth * log_on + (1 - truth) * log_off, axis=-1)


def soft_f1_error(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = 1 - 2 sum_i y_i t_i / sum_i (y_i + t_i), in [0, 1]; on binary y one minus F1 (0 for empty against empty)."""
    y, truth = _floats(y, truth)
    total = jnp.sum(y + truth, axis=-1)
    positive = total > 0
    f1 = 2 * jnp.sum(y * truth, axis=-1) / jnp.where(positive, total, 1)
    return jnp.where(positive, 1 - f1, 0)


def soft_iou_error(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = 1 - sum_i min(y_i, t_i) / sum_i max(y_i, t_i), in [0, 1]; on binary y one minus intersection over union.

    Empty against empty is 0. As a relaxation of Jaccard's distance of sets: Gygli, Norouzi & Angelova (2017).
    """
    y, truth = _floats(y, truth)
    union = jnp.sum(jnp.maximum(y, truth), axis=-1)
    positive = union > 0
    iou = jnp.sum(jnp.minimum(y, truth), axis=-1) / jnp.where(positive, union, 1)
    return jnp.where(positive, 1 - iou, 0)


# Losses of the correct energy and of one wrong one.


def energy_loss(correct: jax.Array) -> jax.Array:
    """E_correct. Margin: none. Collapses, unless the architecture holds the other energies up (regression does)."""
    return correct


def hinge(correct: jax.Array, wrong: jax.Array, margin: Number = 1.0) -> jax.Array:
    """max(0, margin + E_correct - E_wrong): hinge, hinge pair, triplet or ranking loss.

    Margin: m. Does not collapse. With margin D(y_hat, truth) and E_wrong = E(x, y_hat) this is the structured hinge
    loss of Taskar et al. (2003), Altun et al. (2003) and Tsochantaridis et al. (2004); for SPENs Belanger & McCallum
    (2016). On distances of an anchor it is the triplet loss of Schroff et al. (2015), on each negative the
    ranking loss of Weston et al. (2010).
    """
    return jnp.maximum(0, margin + correct - wrong)


def log_loss(
    correct: jax.Array, wrong: jax.Array, margin: Number = 0.0, beta: Number = 1.0
) -> jax.Array:
    """softplus(beta (E_correct - E_wrong + margin)) / beta, the hinge loss made smooth.

    Margin: any; its slope never ends, so that it wants the gap to be infinite. Does not collapse. The lecture's
    form is the default; as beta grows it tends to `hinge`, which it is at beta = infinity.
    """
    absent, wrong = _absent(wrong)
    excess = violation(correct, wrong, margin)
    finite = jnp.where(beta == jnp.inf, 1, beta)
    smooth = jax.nn.softplus(finite * excess) / finite
    return jnp.where(absent, 0, jnp.where(beta == jnp.inf, jnp.maximum(0, excess), smooth))


def mce(correct: jax.Array, wrong: jax.Array, *, beta: Number = 1.0) -> jax.Array:
    """sigmoid(beta (E_correct - E_wrong)), minimum classification error: a smooth count of errors.

    Margin: positive. Does not collapse, but where the violation is large its gradient vanishes: it gives badly wrong
    examples up. As beta grows it is 1 on errors and 0 elsewhere. Source: Juang, Chou & Lee (1997).
    """
    absent, wrong = _absent(wrong)
    return jnp.where(absent, 0, jax.nn.sigmoid(beta * (correct - wrong)))


def square_square(correct: jax.Array, wrong: jax.Array, margin: Number = 1.0) -> jax.Array:
    """max(0, E_correct)^2 + max(0, margin - E_wrong)^2.

    Margin: m, where energies are at least 0. Does not collapse: one level for all cannot be 0 and m. Lecture slides
    print the second term as min(0, m - E_wrong)^2, and elsewhere the loss as E_correct^2 - max(0, m - E_wrong^2):
    both push wrong answers the other way in places. Sources: LeCun & Huang (2005); Hadsell, Chopra & LeCun
    (2006). Chopra, Hadsell & LeCun (2005), whom lecture notes name, have an exponential as second term.
    """
    return jnp.maximum(0, correct) ** 2 + jnp.maximum(0, margin - wrong) ** 2


def square_exponential(
    correct: jax.Array, wrong: jax.Array, *, scale: Number = 1.0, beta: Number = 1.0
) -> jax.Array:
    """E_correct^2 + scale exp(-beta E_wrong).

    Margin: positive, where energies are at least 0. Does not collapse. For energies bounded below: at
    E_wrong = -100 the exponential overflows float32. Source: Osadchy, Miller & LeCun (2004).
    """
    absent, wrong = _absent(wrong)
    return correct**2 + jnp.where(absent, 0, scale * jnp.exp(-beta * wrong))


def simple_pair(correct: jax.Array, wrong: jax.Array, margin: Number = 1.0) -> jax.Array:
    """max(0, E_correct) + max(0, margin - E_wrong).

    Margin: m, where energies are at least 0. It pulls the correct energy to 0 and the wrong one to the margin with
    equal force, so that a level for all between them is a minimum too where the two cannot move apart.
    Source: Bromley et al. (1993).
    """
    return jnp.maximum(0, correct) + jnp.maximum(0, margin - wrong)


def _absent(wrong):
    """Where there is no wrong answer, and energies with a finite number there: infinity times 0 has no derivative."""
    absent = wrong == jnp.inf
    return absent, jnp.where(absent, 0, wrong)


# Losses of the energies of all answers.


def perceptron(correct: jax.Array, everything: jax.Array, *, weights: Weights = None) -> jax.Array:
    """E_correct - min_y E(x, y), the generalised perceptron loss; the minimum is over all answers.

    Margin: 0. Collapses: it is at its lowest, 0, where all energies are equal. With E = -y w.x, y in {-1, +1}, it is
    2 max(0, -y w.x), twice the perceptron's. Sources: LeCun et al. (1998); Collins (2002).

    Args:
      correct: (...).
      everything: energies of all answers, the correct one included, (..., K).
      weights: see `nll`.
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

    Margin: positive. Does not collapse; it pushes all wrong answers, each by its probability. In nats it is
    beta times this. In this scale it tends to `perceptron` as beta grows, which it is at beta = infinity. Lecture
    slides print the free energy without its minus sign. At beta = 1 over K classes it is softmax cross-entropy.

    Args:
      correct: (...).
      everything: energies of all answers, the correct one included, (..., K); or on a grid, or of samples.
      beta: inverse temperature > 0, to infinity.
      weights: what each of `everything` stands for, of a shape that broadcasts to it: None is 1 (a finite set); a mask
        leaves out padding; the volume of a cell makes a sum over a grid the integral; 1 / (n q(y)) makes n samples
        from a density q an estimate of it (importance sampling, biased upwards in F). A constant to differentiation.

    Sources: LeCun et al. (1998); Lafferty, McCallum & Pereira (2001).
    """
    return correct - softmin(everything, beta, weights=weights)


def nll_by_samples(correct: jax.Array, sampled: jax.Array) -> jax.Array:
    """E_correct - mean_n E(x, y_n), y_n samples of the model itself: NOT the likelihood, but its gradient's estimate.

    The gradient of `nll` is dE(x, y) less the mean of dE over the Gibbs distribution; with samples of that
    distribution at the same beta (`sample`), held constant, this has that gradient on average: (...) and (..., n).
    """
    return correct - jnp.mean(sampled, axis=-1)


def minimum_empirical_error(
    correct: jax.Array,
    everything: jax.Array,
    beta: Number = 1.0,
    *,
    weights: Weights = None,
) -> jax.Array:
    """1 - P(y | x): the expected number of errors of an answer drawn from the Gibbs distribution.

    Margin: positive. Does not collapse, but gives badly wrong examples up, as `mce` does, which it is for two answers.
    Arguments as in `nll`, beta finite, the weights a mask. Source: LeCun et al. (2006), section 2.2.4.
    """
    log_probability = -beta * nll(correct, everything, beta, weights=weights)
    return -jnp.expm1(log_probability)


# Losses of several positives and negatives.


def violation(correct: jax.Array, wrong: jax.Array, margin: Number = 0.0) -> jax.Array:
    """E_correct - E_wrong + margin: positive where the pair violates its margin."""
    return correct - wrong + margin


def summed(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """sum over all pairs, (..., P, N) -> (...)."""
    return jnp.sum(values, axis=(-2, -1), where=where)


def log_summed(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """log(1 + sum over all pairs of exp(value)), (..., P, N) -> (...): the pairs compete for its gradient."""
    if where is not None:
        values = jnp.where(where, values, -jnp.inf)
    flat = values.reshape(*values.shape[:-2], -1)
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
    InfoNCE for one positive, `log_loss` for one pair. The margin and the collapse are those of the pair loss.

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
    shape = (
        *jnp.broadcast_shapes(correct.shape[:-1], wrong.shape[:-1]),
        correct.shape[-1],
        wrong.shape[-1],
    )
    positives = jnp.broadcast_to(correct[..., :, None], shape)
    negatives = jnp.broadcast_to(wrong[..., None, :], shape)
    counts = (negatives != jnp.inf) & jnp.broadcast_to(True if where is None else where, shape)
    positives, negatives = (jnp.where(counts, e, 0) for e in (positives, negatives))
    return combine(pair(positives, negatives, jnp.broadcast_to(margin, shape)), counts)


def additive_margin(
    correct: jax.Array,
    wrong: jax.Array,
    margin: Number = 1.0,
    *,
    pair: PairLoss = hinge,
    where: jax.Array | None = None,
) -> jax.Array:
    """sum over wrong y of H(E_correct, E(x, y), m(y_correct, y)): the generalised additive margin loss.

    `contrastive` with one positive: correct (...), wrong (..., N), margin a number or (..., N), where (..., N).
    """
    margin = jnp.asarray(margin)
    margin = margin[..., None, :] if margin.ndim else margin
    where = None if where is None else where[..., None, :]
    return contrastive(correct[..., None], wrong, margin, pair=pair, where=where)


def info_nce(
    correct: jax.Array,
    wrong: jax.Array,
    temperature: Number = 1.0,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """-log exp(-E_correct / t) / (exp(-E_correct / t) + sum_n exp(-E_n / t)), in nats.

    Margin: implicit and infinite. Does not collapse. The negatives compete for the gradient: each is pushed by its
    probability, -1/t softargmin, so that the lowest gets nearly all. On the energy `architectures.cosine` it is the
    loss of SimCLR and CLIP; the temperature may be learned.

    Args:
      correct: (...).
      wrong: energies of N negatives, (..., N); for a batch of pairs its matrix of energies (B, B).
      temperature: t > 0.
      where: which are negatives, (..., N): `negatives.different`, or all but the diagonal of the matrix.

    Source: van den Oord, Li & Vinyals (2018).
    """
    absent, wrong = _absent(wrong if where is None else jnp.where(where, wrong, jnp.inf))
    values = jnp.where(absent, -jnp.inf, (correct[..., None] - wrong) / temperature)
    return log_summed(values[..., None, :])


# A loss of embeddings, without negatives.


def vicreg(
    a: jax.Array,
    b: jax.Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> jax.Array:
    """invariance mean (a - b)^2 + variance [v(a) + v(b)] + covariance [c(a) + c(b)], non-contrastive, a scalar.

    v(z) = 1/D sum_j max(0, 1 - sqrt(var(z_j) + 1e-4)) keeps each coordinate spread out over the batch, c(z) = 1/D times
    the sum of the squared covariances of different coordinates keeps them from repeating each other.
    With `variance = covariance = 0` it is the energy loss of a matcher, and collapses. The weights are the paper's;
    implementations differ in whether they sum or average over coordinates and over a and b.

    Args:
      a: embeddings of a batch, (B, D), B at least 2.
      b: embeddings of what matches them, (B, D).
      invariance: weight of the distance of the two.
      variance: weight of v.
      covariance: weight of c.

    Source: Bardes, Ponce & LeCun (2022).
    """
    chex.assert_equal_shape([a, b])
    chex.assert_rank(a, 2)
    if len(a) < 2:
        raise ValueError(f"vicreg needs a batch of at least 2, got shape {a.shape}")

    def regularised(z):
        centred = z - jnp.mean(z, axis=0, keepdims=True)
        cov = centred.T @ centred / (len(z) - 1)
        spread = jnp.sqrt(jnp.diagonal(cov) + 1e-4)
        off_diagonal = jnp.where(jnp.eye(len(cov), dtype=bool), 0, cov)
        v = jnp.mean(jnp.maximum(0, 1 - spread))
        return variance * v + covariance * jnp.sum(off_diagonal**2) / len(cov)

    return invariance * jnp.mean((a - b) ** 2) + regularised(a) + regularised(b)
