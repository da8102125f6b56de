"""Sampling: points y with density proportional to exp(-beta E(x, y)) on a domain, by many chains for each example.

An energy is a function `(params, context, y) -> scalar` of ONE example. Shapes: B examples, C chains of each, S
points kept of each chain, y of shape (B, C, S, ...) or a pytree of such arrays, context with a leading axis B.
beta is the inverse temperature; h below is a sampler's `step_size`, xi its noise.

Samplers are frozen dataclasses written for one chain (see `Sampler`), run by one loop over all chains of all
examples in blocks that stay in a CPU's cache, with the chains along the last axis where the energy allows it.
Random numbers are drawn for a block at once, so that the same key, shapes and kind of device give the same points.
Samples are constants to `jax.grad`: for a gradient in the parameters evaluate the energy at them once more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.batching import in_blocks, over_examples, suits_last
from spen_jax.domains import Box, Domain, Product, Reals
from spen_jax.loop import Energy, as_points, check_context, check_energy


class Info(NamedTuple):
    """How the chains fared, (B, C) each.

    Fields:
      acceptance: the mean acceptance probability after the warm-up; 1 where nothing is ever rejected.
      divergent: whether the chain met a number that is not finite; it then stands at the last point kept before. An
        energy of +inf is a density of 0, which adjusted samplers reject like any other point; NaN and -inf are errors.
    """

    acceptance: jax.Array
    divergent: jax.Array


class Samples(NamedTuple):
    """What `sample` returns.

    Fields:
      y: the kept points, (B, C, S, ...).
      energy: E there, (B, C, S).
      info: an `Info`.
      state: the last points, (B, C, ...): the `start` of a call that goes on, with another key.
    """

    y: Any
    energy: jax.Array
    info: Info
    state: Any


class Target(NamedTuple):
    """The density exp(-beta E(y)) on a domain, for one example."""

    energy: Callable[[Any], jax.Array]
    domain: Domain
    beta: jax.Array


class Sampler(Protocol):
    """A Markov chain, written for one chain; all it does must depend on its arguments only."""

    def check(self, domain: Domain) -> None:
        """ValueError where it cannot sample from this domain."""
        ...

    def draw(self, key: jax.Array, y: Any, size: int) -> Any:
        """The random numbers of one step of `size` chains, which stand last; `y` has the shapes of one."""
        ...

    def init(self, target: Target, y: Any) -> Any:
        """What the chain needs for its next step, at y."""
        ...

    def step(self, target: Target, state: Any, random: Any) -> tuple[Any, Info]:
        """The next state; a sampler that rejects does so where a number is not finite, and flags it."""
        ...

    def read(self, target: Target, state: Any) -> tuple[Any, jax.Array]:
        """The point where the chain stands, and its energy."""
        ...


class Point(NamedTuple):
    """A point with its energy and gradient: the state of the adjusted samplers."""

    y: Any
    energy: jax.Array
    gradient: Any


def _check_step_size(sampler):
    if not 0 < sampler.step_size < math.inf:
        raise ValueError(
            f"{type(sampler).__name__} needs a finite step_size > 0, got {sampler.step_size}"
        )


def _check_whole(name, value, least):
    if value != int(value) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value}")


def _point(target, y):
    return Point(y, *jax.value_and_grad(target.energy)(y))


@dataclass(frozen=True)
class Langevin:
    """y <- y - h grad E(y) + sqrt(2 h / beta) xi, the unadjusted Langevin algorithm, or MALA.

    Unadjusted, the samples' law differs from exp(-beta E) by O(h), and a point outside the domain is brought back
    by `boundary`: "reflect" keeps the density on Reals and boxes, "project" works on every domain but lets
    points pile up on the boundary.

    `noise`: "gaussian", or "two-point": xi_i = -1 or +1, 32 of them from one random word and so several times
    faster. A step has the same mean and covariance, so that away from bounds expectations err by O(h) as before (weak
    order 1: Kloeden & Platen 1992, section 14.1); the tails are lighter. Projected onto a bound both kinds err by
    more, of the order of a step's length, and not alike.

    `adjusted`: the Metropolis-adjusted Langevin algorithm (Besag 1994; Roberts & Tweedie 1996), exact at any h:
    the point above is a proposal y', accepted with probability
    min(1, exp(-beta [E(y') - E(y) + h/4 |s|^2 - sqrt(h / (2 beta)) xi.s])), s = grad E(y) + grad E(y'), which is
    the Metropolis-Hastings ratio of that proposal written without cancellation; outside the domain the density is 0,
    so that `boundary` plays no part. Reals and boxes only. In n dimensions h of order n^(-1/3) suits it, such
    that about 0.57 of the proposals are accepted (Roberts & Rosenthal 1998).
    """

    step_size: float = 0.01
    noise: Literal["gaussian", "two-point"] = "gaussian"
    adjusted: bool = False
    boundary: Literal["reflect", "project"] = "reflect"

    def __post_init__(self):
        _check_step_size(self)
        for name, choices in (
            ("noise", ("gaussian", "two-point")),
            ("boundary", ("reflect", "project")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.adjusted and self.noise == "two-point":
            raise ValueError(
                "adjusted=True needs noise='gaussian': a proposal with two-point noise has no density, which the "
                "acceptance probability is made of; use adjusted=False for two-point noise"
            )

    def check(self, domain):
        """ValueError for a domain that cannot reflect, or with `adjusted` is neither reals nor a box."""
        if not _consists_of(domain, (Reals, Box)) and (self.adjusted or self.boundary == "reflect"):
            what = "adjusted=True" if self.adjusted else "boundary='reflect'"
            raise ValueError(
                f"Langevin with {what} samples from Reals and Box, got {domain}; "
                "use Langevin(boundary='project'), unadjusted"
            )

    def draw(self, key, y, size):
        """The noise xi, and where adjusted the uniform number that decides."""
        leaves, structure = jax.tree.flatten(y)
        keys = jax.random.split(key, len(leaves) + 1)
        draw = jax.random.normal if self.noise == "gaussian" else _signs
        noise = [draw(k, (*a.shape, size), a.dtype) for k, a in zip(keys[1:], leaves, strict=True)]
        uniform = jax.random.uniform(keys[0], (size,)) if self.adjusted else None
        return structure.unflatten(noise), uniform

    def init(self, target, y):
        """The point, and where adjusted its energy and gradient."""
        return _point(target, y) if self.adjusted else y

    def step(self, target, state, random):
        """One step, which costs one gradient, and where adjusted one energy with it."""
        noise, uniform = random
        scale = jnp.sqrt(2 * self.step_size / target.beta)
        at = state.y if self.adjusted else state
        gradient = state.gradient if self.adjusted else jax.grad(target.energy)(at)

        def move(y, slope, xi):
            return y - self.step_size * slope + scale.astype(y.dtype) * xi

        y = jax.tree.map(move, at, gradient, noise)
        if not self.adjusted:
            bring_back = getattr(target.domain, self.boundary)
            return bring_back(y), Info(jnp.ones(()), jnp.array(False))

        proposal = _point(target, y)
        s = jax.tree.map(jnp.add, gradient, proposal.gradient)
        rest = self.step_size / 4 * _inner(s, s) - scale / 2 * _inner(noise, s)
        log_ratio = -target.beta * (proposal.energy - state.energy + rest)
        inside = _all(jax.tree.map(jnp.equal, y, target.domain.project(y)))
        log_ratio = jnp.where(inside & (proposal.energy != jnp.inf), log_ratio, -jnp.inf)
        wrong = ~(log_ratio < jnp.inf)  # NaN too
        probability = jnp.where(wrong, 0, jnp.exp(jnp.minimum(log_ratio, 0)))
        return _select(uniform < probability, proposal, state), Info(probability, wrong)

    def read(self, target, state):
        """The point and its energy, which unadjusted steps do not know."""
        return (state.y, state.energy) if self.adjusted else (state, target.energy(state))


@dataclass(frozen=True)
class HamiltonianMonteCarlo:
    """Hamiltonian Monte Carlo with leapfrog steps and unit masses, by BlackJAX (`blackjax.hmc`), on Reals.

    A trajectory costs `leapfrog_steps` gradients. Its potential is beta E. Source: Neal (2011), "MCMC using
    Hamiltonian dynamics". Needs `pip install 'spen_jax[sampling]'`.
    """

    step_size: float
    leapfrog_steps: int = 10

    def __post_init__(self):
        _check_step_size(self)
        _check_whole("leapfrog_steps", self.leapfrog_steps, 1)

    def check(self, domain):
        """ValueError for another domain than Reals, ModuleNotFoundError without BlackJAX."""
        if not _consists_of(domain, (Reals,)):
            raise ValueError(
                f"HamiltonianMonteCarlo samples from Reals, got {domain}; Langevin(adjusted=True) keeps to a Box"
            )
        _blackjax()

    def draw(self, key, y, size):
        """A key for each chain."""
        return jax.random.split(key, size)

    def init(self, target, y):
        """The point, its energy and gradient."""
        return _point(target, y)

    def step(self, target, state, random):
        """One trajectory."""
        hmc = _blackjax()

        def times(factor, state):  # BlackJAX's state holds -beta E, and beta may change
            y, *rest = state
            return y, *jax.tree.map(lambda a: (factor * a).astype(a.dtype), rest)

        masses = jnp.ones(sum(a.size for a in jax.tree.leaves(state.y)))
        after, info = hmc.build_kernel()(
            random,
            hmc.HMCState(*times(-target.beta, state)),
            lambda y: -target.beta * target.energy(y),
            self.step_size,
            masses,
            self.leapfrog_steps,
        )
        acceptance, energy = jnp.asarray(info.acceptance_rate), jnp.asarray(info.energy)
        wrong = ~(energy > -jnp.inf)  # NaN too
        after = Point(*times(-1 / target.beta, after))
        return _select(wrong, state, after), Info(acceptance, wrong)

    def read(self, target, state):
        """The point and its energy."""
        return state.y, state.energy


@dataclass(frozen=True)
class GibbsWithGradients:
    """P(y) = exp(-beta E(y)) / Z on y in {0, 1}^L, one label flipped at a time: exact for any differentiable energy.

    d_i = (2 y_i - 1) dE/dy_i is the first-order estimate of E(y) - E(y with label i flipped). Label i is proposed with
    probability exp(beta d_i / 2) / (1 + sum_j exp(beta d_j / 2)), no change with the rest, and the flip accepted with
    the Metropolis-Hastings probability of the true energies: the estimate, exact for an energy linear in each label,
    decides on speed alone. A step costs one gradient. The source always flips, and then under a flat
    energy is at an even number of labels after even steps only; proposing no change mends that, and where d is exact
    slows no flip by more than half. An energy with entropy, all but infinitely steep at a corner, hardly ever lets it
    propose that; the law is exact all the same. Starting points are rounded.

    Source: Grathwohl, Swersky, Hashemi, Duvenaud & Maddison (2021), "Oops I took a gradient"; the square root of the
    ratio: Zanella (2020).
    """

    def check(self, domain):
        """ValueError for another domain than Box(0, 1), whose corners these are."""
        if domain != Box(0, 1):
            raise ValueError(
                f"GibbsWithGradients samples the corners of Box(0, 1), got {domain}; for continuous y use Langevin"
            )

    def draw(self, key, y, size):
        """Gumbel noise of each label and of no change, and the uniform number that decides."""
        labels, none, decides = jax.random.split(key, 3)
        noise = jax.random.gumbel(labels, (*y.shape, size), y.dtype)
        stay = jax.random.gumbel(none, (size,), y.dtype)
        return noise, stay, jax.random.uniform(decides, (size,))

    def init(self, target, y):
        """The nearest corner, its energy and gradient."""
        # Rounding would make a number of NaN, which is to be flagged.
        return _point(target, jnp.where(jnp.isnan(y), y, target.domain.round(y)))

    def step(self, target, state, random):
        """One proposal, which costs one energy and its gradient."""
        noise, stay, uniform = random
        logits, log_total = self._proposal(target, state)
        # The first of equals; not argmax, so that the chains may stand last.
        order, noisy = np.arange(noise.size).reshape(noise.shape), logits + noise
        highest = jnp.max(noisy)
        first = jnp.min(jnp.where(noisy == highest, order, noise.size))
        flip = (order == first) & (highest > stay)

        proposal = _point(target, jnp.where(flip, 1 - state.y, state.y))
        back, log_total_back = self._proposal(target, proposal)
        log_ratio = target.beta * (state.energy - proposal.energy) + log_total - log_total_back
        log_ratio += jnp.sum(jnp.where(flip, back - logits, 0))
        log_ratio = jnp.where(proposal.energy == jnp.inf, -jnp.inf, log_ratio)
        wrong = ~(log_ratio < jnp.inf)  # NaN too
        probability = jnp.where(wrong, 0, jnp.exp(jnp.minimum(log_ratio, 0)))
        return _select(uniform < probability, proposal, state), Info(probability, wrong)

    def read(self, target, state):
        """The point and its energy."""
        return state.y, state.energy

    def _proposal(self, target, point):
        """beta d / 2, and log(1 + sum_j exp(beta d_j / 2))."""
        logits = target.beta.astype(point.y.dtype) / 2 * (2 * point.y - 1) * point.gradient
        return logits, jnp.logaddexp(jax.nn.logsumexp(logits), 0)


def sample(
    energy: Energy,
    params: Any,
    context: Any,
    start: Any,
    key: jax.Array,
    *,
    domain: Domain = Box(),
    sampler: Sampler = Langevin(),
    steps: int = 1000,
    warm_up: int = 0,
    thin: int = 1,
    beta: jax.Array | float = 1.0,
) -> Samples:
    """Points with density proportional to exp(-beta E(x, y)) on `domain`, by chains of `steps` steps from `start`.

    Args:
      energy: `(params, context, y) -> scalar` for one example. Compiled once for each function: pass the same
        object again, not a new lambda.
      params: what the energy is a function of, the same for all examples.
      context: what the energy knows of x; every leaf has a leading axis of B examples.
      start: the first points, (B, C, ...), C chains for each example; projected onto the domain.
      key: of `jax.random.key`. Equal keys give equal samples.
      domain: where y lives.
      sampler: the Markov chain.
      steps: how many steps after the warm-up, a multiple of `thin`.
      warm_up: how many steps come before, of which nothing is kept.
      thin: every how many steps a point is kept: S = steps / thin.
      beta: the inverse temperature, > 0: a number, or one for each step, warm-up first, (warm_up + steps,), for
        annealing. Compiled once for all values.

    Raises:
      ValueError: for shapes that do not fit, an energy that does not return a scalar, a sampler that cannot sample
        from the domain, or settings out of range.
    """
    if isinstance(sampler, type) or isinstance(domain, type):
        raise ValueError(f"give a sampler and a domain made with (), got {sampler} and {domain}")
    for name, value, least in (("steps", steps, 1), ("warm_up", warm_up, 0), ("thin", thin, 1)):
        _check_whole(name, value, least)
    if steps % thin:
        raise ValueError(
            f"steps must be a multiple of thin, got steps={steps} and thin={thin}; every {thin}th point is kept"
        )
    if not isinstance(beta, jax.Array) and not np.all(np.asarray(beta) > 0):
        raise ValueError(f"beta must be > 0, got {beta}; 1 / beta is a temperature")
    beta, total = jnp.asarray(beta, float), int(warm_up + steps)
    if beta.shape not in ((), (total,)):
        raise ValueError(
            f"beta must be one number or {total} of them, one for each step (warm_up={warm_up} and "
            f"steps={steps}), got shape {beta.shape}"
        )
    key = jnp.asarray(key)
    if key.dtype == jnp.uint32 and key.shape == (2,):
        key = jax.random.wrap_key_data(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
        raise ValueError(
            f"key must be one random key, got shape {key.shape} of {key.dtype}; make one with jax.random.key(0)"
        )
    beta = jnp.broadcast_to(beta, (total,))
    start, warm_up, thin = as_points(start), int(warm_up), int(thin)
    return _sample(energy, params, context, start, key, beta, domain, sampler, warm_up, thin)


@partial(jax.jit, static_argnames=("energy", "domain", "sampler", "warm_up", "thin"))
def _sample(energy, params, context, start, key, beta, domain, sampler, warm_up, thin):
    _check(energy, params, context, start, domain, sampler)
    params, context, start, beta = lax.stop_gradient((params, context, start, beta))
    examples, chains = jax.tree.leaves(start)[0].shape[:2]
    together = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), start)  # (B C, ...)

    def solve(part):
        numbers, y = part
        block_context = jax.tree.map(lambda a: jnp.asarray(a)[numbers // chains], context)
        block_key = jax.random.fold_in(key, jnp.sum(numbers[:1]))  # no two blocks begin alike
        return _sample_block(
            energy, params, block_context, y, block_key, beta, domain, sampler, warm_up, thin
        )

    size = sum(math.prod(a.shape[1:]) for a in jax.tree.leaves(together))
    found = in_blocks(solve, (jnp.arange(examples * chains), together), max(size, 1))
    return jax.tree.map(lambda a: a.reshape(examples, chains, *a.shape[1:]), found)


def _sample_block(energy, params, context, y, key, beta, domain, sampler, warm_up, thin):
    def target(shared, context):
        return Target(partial(energy, shared[0], context), domain, shared[1])

    def init(shared, example):
        context, y = example
        return sampler.init(target(shared, context), domain.project(y))

    def step(shared, example):
        context, state, random = example
        return sampler.step(target(shared, context), state, random)

    def look(shared, example):
        """(state, y, E, whether it is wrong): a wrong chain stands where it was last looked at."""
        context, state, before, wrong = example
        y, value = sampler.read(target(shared, context), state)
        wrong |= ~(jnp.isfinite(value) & _all(jax.tree.map(jnp.isfinite, y)))
        old = sampler.read(target(shared, context), before)
        return *_select(wrong, (before, old), (state, (y, value))), wrong

    shared: Any = (params, beta[0])
    one = partial(_one, axis=0)
    size, chain = jax.tree.leaves(y)[0].shape[0], one(y)

    def draw(key):
        return sampler.draw(key, chain, size)

    state = jax.eval_shape(init, shared, (one(context), chain))
    random = _one(jax.eval_shape(draw, key), axis=-1)
    flag = jax.ShapeDtypeStruct((), bool)
    last = (
        jax.default_backend() == "cpu"
        and suits_last(init, shared, (one(context), chain))
        and suits_last(step, shared, (one(context), state, random))
        and suits_last(look, shared, (one(context), state, state, flag))
    )
    axis, over = -1 if last else 0, partial(over_examples, last=last)

    def move(tree, source, destination):
        return jax.tree.map(lambda a: jnp.moveaxis(a, source, destination), tree)

    def body(i, carry):
        state, total, wrong = carry
        random = move(draw(jax.random.fold_in(key, i)), -1, axis)
        state, info = over(step, (params, beta[i]), (context, state, random))
        return state, total + info.acceptance, wrong | info.divergent

    def segment(carry, bounds):
        (before, wrong), (begin, end) = carry, bounds
        state, total, wrong = lax.fori_loop(begin, end, body, (before, jnp.zeros(size), wrong))
        state, (y, energies), wrong = over(look, shared, (context, state, before, wrong))
        return (state, wrong), (move(y, axis, 0), energies, total)

    context, y = move((context, y), 0, axis)
    ends = jnp.arange(warm_up, len(beta) + 1, thin)
    begins = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    first = over(init, shared, (context, y)), jnp.zeros(size, bool)
    (state, wrong), path = lax.scan(segment, first, (begins, ends))
    kept, energies, acceptance = jax.tree.map(lambda a: a[1:], path)  # without the warm-up
    kept = move(kept, 1, 0)  # (n, S, ...)
    info = Info(jnp.sum(acceptance, axis=0) / (len(beta) - warm_up), wrong)
    return Samples(kept, energies.T, info, jax.tree.map(lambda a: a[:, -1], kept))


def _signs(key, shape, dtype):
    """Numbers -1 or +1; 32 consecutive ones along the first axis come from one random word."""
    *lead, size = shape
    rows = math.prod(lead)
    words = jax.random.bits(key, (math.ceil(rows / 32), 1, size))
    # Each bit in turn becomes the sign bit of the number 1.
    signs = words << jnp.arange(32, dtype=jnp.uint32)[None, :, None] & jnp.uint32(1 << 31)
    ones = lax.bitcast_convert_type(signs | jnp.uint32(0x3F800000), jnp.float32)
    return ones.reshape(-1, size)[:rows].astype(dtype).reshape(shape)


def _blackjax():
    try:
        from blackjax.mcmc import hmc
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "HamiltonianMonteCarlo needs BlackJAX: pip install 'spen_jax[sampling]'"
        ) from error
    return hmc


def _select(condition, a, b):
    return jax.tree.map(partial(jnp.where, condition), a, b)


def _all(tree):
    return reduce(jnp.logical_and, map(jnp.all, jax.tree.leaves(tree)))


def _inner(a, b):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)))


def _one(tree, axis):
    def one(a):
        shape = list(jnp.shape(a))
        del shape[axis]
        return jax.ShapeDtypeStruct(tuple(shape), a.dtype)

    return jax.tree.map(one, tree)


def _consists_of(domain, kinds):
    if isinstance(domain, Product):
        return all(_consists_of(part, kinds) for part in domain.parts)
    return isinstance(domain, kinds)


def _check(energy, params, context, start, domain, sampler):
    lead = None
    for path, leaf in jax.tree.leaves_with_path(start):
        lead = lead or leaf.shape[:2]
        if len(lead) < 2 or leaf.shape[:2] != lead or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                "start must hold float arrays of shape (B, C, ...), C chains for each of B examples, but "
                f"start{jax.tree_util.keystr(path)} has shape {leaf.shape} of {leaf.dtype}; for one chain each "
                "give start[:, None]"
            )
    if lead is None:
        raise ValueError(f"start must hold at least one array, got {start}")
    check_context(context, lead[0])
    y = _one(_one(start, 0), 0)
    domain.check(y)
    sampler.check(domain)
    check_energy(energy, params, _one(context, 0), y)
