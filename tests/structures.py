"""All questions to a structure, against the list of all its answers; energies of random examples."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Answers(NamedTuple):
    """All answers of one example in whole numbers, (n, *shape), and their energies, (n,), some perhaps infinite."""

    y: np.ndarray
    energies: np.ndarray


def listed(answers, shape):
    """Answers of a list of pairs (y, energy), perhaps an empty one, y of a shape."""
    y = np.array([y for y, _ in answers], int).reshape(-1, *shape)
    return Answers(y, np.array([e for _, e in answers], float))


def check_every_answer(structure, answers, beta, tolerance):
    """A structure's answers to all questions at beta, infinity too, against `Answers` of each example, in a row."""
    most = max(len(a.y) for a in answers)
    y = np.stack([_filled(a.y, most, -1) for a in answers])
    energies = np.stack([_filled(a.energies, most, np.inf) for a in answers])
    p = np.stack([_probabilities(e, beta) for e in energies])
    first = structure.arrays[0]
    shape = getattr(structure, first).shape
    noise = np.random.default_rng(1).normal(size=shape)
    batch = structure.batch_shape

    def shaped(a):
        return a.reshape(*batch, *a.shape[1:])

    given = structure, shaped(y), shaped(p), noise
    tolerance *= 1 + (0 if beta == np.inf else beta)
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    if beta == np.inf:
        found = _cold(*given, min(most + 2, 12))
    else:
        found = _warm(*given, beta)
    found = jax.tree.map(np.asarray, found)
    held = np.isfinite(energies).any(1)
    close(found["free"].reshape(-1), _free_energies(energies, beta))
    hot = found["one_hot"].astype(float).reshape(len(y), most, *shape[len(batch) :])
    known = np.arange(most) < np.array([len(a.y) for a in answers])[:, None]
    for name in ("energy", "relaxed"):
        close(np.where(known, found[name].reshape(len(y), most), np.inf), energies)
    mean = np.einsum("en,en...->e...", p, hot)
    close(found["marginals"].reshape(mean.shape), mean)
    for name, got in found["gradient"].items():
        close(got, found["mean_gradient"][name], err_msg=name)
    if beta == np.inf:
        return _check_lists(found, y, energies, close, held)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.log(p)
    entropy = -np.sum(np.where(p > 0, p * np.where(p > 0, log_p, 0), 0), 1)
    close(found["entropy"].reshape(-1)[held], entropy[held])
    along = np.einsum("enx,ex->en", hot.reshape(*p.shape, -1), noise.reshape(len(p), -1))
    others = energies + along
    with np.errstate(invalid="ignore"):
        log_q = -beta * (others - _free_energies(others, beta)[:, None])
    kl = np.sum(np.where(p > 0, p * (np.where(p > 0, log_p, 0) - np.where(p > 0, log_q, 0)), 0), 1)
    close(found["kl"].reshape(-1)[held], kl[held])
    covariance = np.einsum("en,en,en...->e...", p, along, hot)
    covariance -= np.einsum("e,e...->e...", np.sum(p * along, 1), mean)
    for name in ("forward", "reverse"):
        close(found[name].reshape(mean.shape), -beta * covariance, err_msg=name)


def _filled(a, most, value):
    extra = np.full((most - len(a), *a.shape[1:]), value, a.dtype)
    return np.concatenate([a, extra])


def _probabilities(energies, beta):
    if not np.isfinite(energies).any():
        return np.zeros(len(energies))
    if beta == np.inf:
        return (np.arange(len(energies)) == np.argmin(energies)).astype(float)
    weights = np.exp(-beta * (energies - energies.min()))
    return weights / weights.sum()


def _free_energies(energies, beta):
    least = energies.min(1)
    if beta == np.inf:
        return least
    least = np.where(np.isinf(least), 0, least)
    with np.errstate(divide="ignore"):
        return least - np.log(np.sum(np.exp(-beta * (energies - least[:, None])), 1)) / beta


def _common(structure, y, p, beta):
    """What is asked at all temperatures."""
    arrays = {name: getattr(structure, name) for name in structure.arrays}
    arrays = {
        name: a
        for name, a in arrays.items()
        if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)
    }
    p = p.astype(arrays[structure.arrays[0]].dtype)
    one_hot = structure.one_hot(y)

    def total(arrays):
        free = structure.replaced(**arrays).free_energy(beta)
        return jnp.sum(free), free

    def mean(arrays):
        energy = structure.replaced(**arrays).energy(y)
        return jnp.sum(jnp.where(p > 0, p * energy, 0))

    (_, free), gradient = jax.value_and_grad(total, has_aux=True)(arrays)
    return {
        "free": free,
        "gradient": gradient,
        "mean_gradient": jax.grad(mean)(arrays),
        "marginals": jax.tree.leaves(structure.marginals(beta))[0],
        "one_hot": one_hot,
        "energy": structure.energy(y),
        "relaxed": structure.energy(one_hot),
    }


@jax.jit
def _warm(structure, y, p, noise, beta):
    first = structure.arrays[0]
    at = getattr(structure, first)
    noise = noise.astype(at.dtype)

    def slope(at):
        return jax.grad(lambda a: jnp.sum(structure.replaced(**{first: a}).free_energy(beta)))(at)

    return _common(structure, y, p, beta) | {
        "kl": structure.kl(structure.plus(noise), beta),
        "entropy": structure.entropy(beta),
        "forward": jax.jvp(slope, (at,), (noise,))[1],
        "reverse": jax.grad(lambda a: jnp.vdot(slope(a), noise))(at),
    }


@partial(jax.jit, static_argnums=4)
def _cold(structure, y, p, noise, k):
    found = _common(structure, y, p, np.inf)
    return found | {"best": structure.best(), "k_best": structure.k_best(k)}


def _check_lists(found, y, energies, close, held):
    """The best and the k best: no answer twice, each with its energy, and none where there are no more."""
    best = found["best"].y.reshape(len(y), *y.shape[2:])
    given = found["k_best"].energy.reshape(len(y), -1)
    k = given.shape[1]
    lists = found["k_best"].y.reshape(len(y), k, *y.shape[2:])
    want = np.concatenate([np.sort(energies, 1), np.full((len(y), k), np.inf)], 1)[:, :k]
    close(given, want)
    close(found["best"].energy.reshape(-1), energies.min(1))
    for e in range(len(y)):
        if held[e]:
            np.testing.assert_array_equal(best[e], y[e, np.argmin(energies[e])])
        else:
            assert (best[e] == -1).all()
        finite = np.isfinite(want[e]).sum()
        places = [_place(a, y[e]) for a in lists[e, :finite]]
        assert len(set(places)) == finite
        close(energies[e, places], given[e, :finite])
        assert (lists[e, finite:] == -1).all()


def _place(answer, answers):
    (place,) = np.flatnonzero((answers == answer).reshape(len(answers), -1).all(1))[:1]
    return place


def check_samples(structure, answers, beta, n=1000):
    """n samples of each example by a chi-square test, and their energies."""
    found = jax.jit(lambda s, b: s.sample(jax.random.key(3), n, b))(structure, beta)
    drawn = np.asarray(found.y).reshape(len(answers), n, *answers[0].y.shape[1:])
    energy = np.asarray(found.energy).reshape(len(answers), n)
    for e, (y, energies) in enumerate(answers):
        if not np.isfinite(energies).any():
            assert (drawn[e] == -1).all() and np.isinf(energy[e]).all()
            continue
        places = np.array([_place(a, y) for a in drawn[e]])
        np.testing.assert_allclose(energy[e], energies[places], rtol=1e-4, atol=1e-4)
        want = n * _probabilities(energies, beta)
        got = np.bincount(places, minlength=len(y))
        rare = want < 5
        want = np.append(want[~rare], want[rare].sum())
        got = np.append(got[~rare], got[rare].sum())
        assert (got[want == 0] == 0).all()
        statistic = np.sum((got - want)[want > 0] ** 2 / want[want > 0])
        freedom = max(1, (want > 0).sum() - 1)
        assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 5


def random_energies(rng, shape, barred=0.0):
    """Standard normal ones, a share of them infinite."""
    return np.where(rng.random(shape) < barred, np.inf, rng.normal(size=shape))
