"""Free energies and marginals of chains from messages that run forward and backward.

Two ways, by the same names. *Scaled*: alpha_t = (alpha_t-1 W) * exp(-node_t), W = exp(-edge), divided by its sum at
each step: matrix products, ten and more times faster than a log-sum-exp of each pair, and more exact in float32. What
underflows there is lost, which is harmless where all transitions are allowed and differ by at most `SPREAD`: then no
state is far worse in the end than another. Elsewhere each state that can be reached must have kept a weight. Where
neither holds, *in logarithms*: nothing underflows, at the cost of an exponential for each pair of labels.

Time comes first here: nodes (T, B, K), edges (T - 1 or 1, B or 1, K, K), linked (T - 1, B) or None, which transitions
count: over one that does not, alpha_t = sum(alpha_t-1) exp(-node_t).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from spen_jax.exact.agreement import all_agree
from spen_jax.exact.algebras import summed

SPREAD = 30.0
"""Of allowed transitions: what is lost is then below K^2 exp(60) times the least number, 1e-12 K^2 in float32."""
KEPT = 1e-25
"""The least weight of a state that can be reached: thirteen digits above the least number."""


class Marginals(NamedTuple):
    """What both passes give: F (B,), P(y_t = i) (T, B, K), and the pairs P(y_t = i, y_t+1 = j).

    Pairs are (T - 1, B, K, K); where all steps share one matrix of edges they are summed over steps, (1, B, K, K).
    """

    free: jax.Array
    nodes: jax.Array
    pairs: jax.Array


class Filtered(NamedTuple):
    """Energies of the labels before each transition, (T - 1, B, K), and of the last, (B, K); F or the least E, (B,)."""

    before: jax.Array
    last: jax.Array
    value: jax.Array


@jax.custom_jvp
def free_energy_of(nodes: jax.Array, edges: jax.Array, linked: jax.Array | None) -> jax.Array:
    """F = -log sum_y exp(-E(y)), (B,); its derivative is the marginals, at the cost of one pass back."""
    given = _weights(nodes, edges, linked)
    forward = _scaled_forward(given)
    scaled = partial(_scaled_value, given, forward)
    return lax.cond(_is_exact(given, forward), scaled, lambda: _log_value(_log_forward(given)))


def _free_energy_jvp(primals, tangents):
    found = marginals_of(*primals)
    return found.free, _slope(found, *tangents[:2])


def _slope(found, of_nodes, of_edges):
    """The derivative of F along a change of the energies, (B,)."""
    slope = jnp.zeros_like(found.free)
    if not isinstance(of_nodes, SymbolicZero):
        slope += jnp.sum(found.nodes * of_nodes, (0, 2))
    # One in the nodes alone, as of the mean answer, has nothing to do with pairs.
    if not isinstance(of_edges, SymbolicZero):
        slope += jnp.sum(found.pairs * of_edges, (0, 2, 3))
    return slope


free_energy_of.defjvp(_free_energy_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def marginals_of(
    nodes: jax.Array, edges: jax.Array, linked: jax.Array | None, each: bool = False
) -> Marginals:
    """Both passes; with `each` the pairs of each step, whatever the edges."""
    return _both_passes(each, nodes, edges, linked)[0]


@marginals_of.defjvp
def _marginals_jvp(each, primals, tangents):
    nodes, edges, linked = primals
    found, exact = _both_passes(each, nodes, edges, linked)

    def scaled(nodes, edges):
        given = _weights(nodes, edges, linked)
        return _scaled_backward(given, _scaled_forward(given), each)

    def logarithms(nodes, edges):
        given = _weights(nodes, edges, linked)
        return _log_backward(given, _log_forward(given), each)

    def along(function):
        return lambda at, change: Marginals(*jax.jvp(function, at, change)[1])

    # Made again in a backward pass: a branch keeps room for what the other one would keep, here that of all pairs.
    branches = along(scaled), jax.checkpoint(along(logarithms), prevent_cse=False)
    change = lax.cond(exact, *branches, (nodes, edges), tangents[:2])
    # Messages take their sums for constants, which F does not: its own derivative is known.
    return found, change._replace(free=_slope(found, *tangents[:2]))


def _both_passes(each, nodes, edges, linked):
    """Marginals, and whether they are those of scaled messages."""
    given = _weights(nodes, edges, linked)
    forward = _scaled_forward(given)
    exact = _is_exact(given, forward)
    scaled = partial(_scaled_backward, given, forward, each)
    found = lax.cond(exact, scaled, lambda: _log_backward(given, _log_forward(given), each))
    return Marginals(*found), exact


def filtered(nodes: jax.Array, edges: jax.Array, linked: jax.Array | None) -> Filtered:
    """-log of the forward messages: energies of each label given what came before, up to a constant of each step."""
    given = _weights(nodes, edges, linked)
    forward = _scaled_forward(given)

    def scaled():
        before, last = -jnp.log(forward.before), -jnp.log(forward.last)
        return Filtered(before, last, _scaled_value(given, forward))

    def logarithms():
        found = _log_forward(given)
        return Filtered(found.before, found.last, _log_value(found))

    return lax.cond(_is_exact(given, forward), scaled, logarithms)


def least(nodes: jax.Array, edges: jax.Array, linked: jax.Array | None) -> Filtered:
    """The same at infinity: the least energy of what leads to each label."""
    found = _log_forward(_Weights(nodes, edges, linked, None, None), jnp.min)
    return Filtered(found.before, found.last, _total(found.sums) + jnp.min(found.last, 1))


class _Weights(NamedTuple):
    nodes: Any
    edges: Any
    linked: Any
    low: Any  # (T, B), what is taken off the energies of a place
    weights: Any  # exp(low - nodes)


class _Scaled(NamedTuple):
    before: Any  # alpha_t-1, (T - 1, B, K)
    last: Any
    sums: Any  # (T, B)


def finite_least(energies: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """The least along axes, a constant to differentiation; 0 where nothing is finite."""
    least = lax.stop_gradient(jnp.min(energies, axis))
    return jnp.where(least == jnp.inf, 0, least)


def _exponential(edges):
    """exp(shift - edges), and the shift of each matrix."""
    shift = finite_least(edges, (-2, -1))
    return jnp.exp(shift[..., None, None] - edges), shift


def _weights(nodes, edges, linked):
    low = finite_least(nodes, 2)
    return _Weights(nodes, edges, linked, low, jnp.exp(low[..., None] - nodes))


def _times(rows, matrices):
    """rows (..., B, K) times matrices (..., B or 1, K, K)."""
    if matrices.shape[-3] == 1:
        if matrices.ndim == 4 and len(matrices) == 1:
            return rows @ matrices[0, 0]
        return rows @ matrices[..., 0, :, :]
    return (rows[..., None, :] @ matrices)[..., 0, :]


def _steps(given, *others):
    """What a scan gets at each transition: its matrix, None where all share one, which link, and the others."""
    edges = given.edges if len(given.edges) > 1 else None
    return edges, given.linked, *others


def _matrix(edge, shared) -> Any:
    return shared if edge is None else _exponential(edge)[0]


def _shared(given) -> Any:
    return _exponential(given.edges[0])[0] if len(given.edges) == 1 else None


def _scaled_forward(given):
    shared = _shared(given)

    def normalised(a):
        # A constant to differentiation: marginals do not depend on it.
        total = lax.stop_gradient(jnp.sum(a, 1))
        total = jnp.where(total < jnp.finfo(a.dtype).tiny, 0, total)
        return a / jnp.where(total == 0, 1, total)[:, None], total

    def step(alpha, now):
        edge, link, weight = now
        moved = _times(alpha, _matrix(edge, shared))
        if link is not None:
            moved = jnp.where(link[:, None], moved, jnp.sum(alpha, 1, keepdims=True))
        new, total = normalised(moved * weight)
        return new, (alpha, total)

    first, total = normalised(given.weights[0])
    last, (before, sums) = lax.scan(step, first, _steps(given, given.weights[1:]))
    return _Scaled(before, last, jnp.concatenate([total[None], sums]))


def _scaled_value(given, forward):
    none = forward.sums == 0
    steps = given.low - jnp.log(jnp.where(none, 1, forward.sums))
    shift = _exponential(given.edges)[1]
    shift = jnp.broadcast_to(shift, (len(steps) - 1, steps.shape[1]))
    if given.linked is not None:
        shift = jnp.where(given.linked, shift, 0)
    steps = steps.at[1:].add(shift)
    return jnp.where(jnp.any(none, 0), jnp.inf, _total(steps))


def _total(steps):
    """The sum over time, of parts: one after the other, the rounding of 10,000 steps would be seen."""
    pad = -len(steps) % 64
    parts = jnp.pad(steps, [(0, pad), (0, 0)]).reshape(-1, 64, steps.shape[1])
    return jnp.sum(jnp.sum(parts, 1), 0)


def _is_exact(given, forward):
    """Whether the scaled messages have lost nothing; see the module."""
    edges = given.edges
    spread = jnp.max(edges, (-2, -1)) - jnp.min(edges, (-2, -1))
    small = all_agree(jnp.all(spread <= SPREAD))

    def all_kept():
        alphas = jnp.concatenate([forward.before, forward.last[None]])
        kept = alphas * forward.sums[..., None] >= KEPT
        finite = given.nodes < jnp.inf
        reached = _times(
            (forward.before > 0).astype(edges.dtype), (edges < jnp.inf).astype(edges.dtype)
        )
        if given.linked is not None:
            alive = jnp.max(forward.before, 2, keepdims=True)
            reached = jnp.where(given.linked[..., None], reached, alive)
        return jnp.all(kept == jnp.concatenate([finite[:1], finite[1:] & (reached > 0)]))

    return all_agree(lax.cond(small, lambda: jnp.array(True), all_kept))


def _scaled_backward(given, forward, each):
    each = each or len(given.edges) > 1
    shared = _shared(given)

    def step(beta, now):
        edge, link, weight, before, total = now
        after = beta * weight / jnp.where(total == 0, 1, total)[:, None]
        new = _times(after, jnp.swapaxes(_matrix(edge, shared), -1, -2))
        if link is not None:
            new = jnp.where(link[:, None], new, jnp.sum(after, 1, keepdims=True))
            after = jnp.where(link[:, None], after, 0)
        new = jnp.where(before > 0, new, 0)
        # 1 but for rounding, which would add up over thousands of steps.
        node = before * new
        one = jnp.sum(node, 1, keepdims=True)
        one = jnp.where(one == 0, 1, one)
        return new / one, (node / one, after)

    steps = _steps(given, given.weights[1:], forward.before, forward.sums[1:])
    one = jnp.sum(forward.last, 1, keepdims=True)
    last = jnp.ones_like(forward.last) / jnp.where(one == 0, 1, one)
    _, (nodes, after) = lax.scan(step, last, steps, reverse=True)
    nodes = jnp.concatenate([nodes, (forward.last * last)[None]])
    nodes = jnp.where(jnp.any(forward.sums == 0, 0)[:, None], 0, nodes)
    weights = _exponential(given.edges)[0]
    if each:
        found = forward.before[..., :, None] * weights * after[..., None, :]
    else:
        # A product for each example, with time as the axis that is summed over.
        rows, columns = jnp.transpose(forward.before, (1, 2, 0)), jnp.swapaxes(after, 0, 1)
        found = weights * (rows @ columns)[None]
    return _scaled_value(given, forward), nodes, found


def _log_forward(given, either=summed):
    """Like the scaled one, in energies: before (T - 1, B, K), the last, and what was taken off at each step, (T, B)."""

    def normalised(a):
        least = finite_least(a, 1)
        return a - least[:, None], least

    def step(alpha, now):
        edge, link, node = now
        edge = given.edges[0] if edge is None else edge
        moved = either(alpha[:, :, None] + edge, 1)
        if link is not None:
            moved = jnp.where(link[:, None], moved, either(alpha, 1)[:, None])
        new, least = normalised(moved + node)
        return new, (alpha, least)

    first, least = normalised(given.nodes[0])
    last, (before, taken) = lax.scan(step, first, _steps(given, given.nodes[1:]))
    return _Scaled(before, last, jnp.concatenate([least[None], taken]))


def _log_value(forward):
    return _total(forward.sums) + summed(forward.last, 1)


def _log_backward(given, forward, each):
    each = each or len(given.edges) > 1

    def step(beta, now):
        edge, link, node, before = now
        edge = given.edges[0] if edge is None else edge
        after = node + beta
        new = summed(edge + after[:, None, :], 2)
        if link is not None:
            new = jnp.where(link[:, None], new, summed(after, 1)[:, None])
            after = jnp.where(link[:, None], after, jnp.inf)
        total = summed(before + new, 1)[:, None]
        total = jnp.where(total == jnp.inf, 0, total)
        return new - total, (jnp.exp(total - before - new), after - total)

    # beta of the last place is such that its probabilities sum to 1.
    total = summed(forward.last, 1)[:, None]
    total = jnp.where(total == jnp.inf, 0, total)
    steps = _steps(given, given.nodes[1:], forward.before)
    start = jnp.broadcast_to(-total, forward.last.shape)
    _, (nodes, after) = lax.scan(step, start, steps, reverse=True)
    nodes = jnp.concatenate([nodes, jnp.exp(total - forward.last)[None]])
    if each:
        found = _log_pairs(forward.before, given.edges, after)
    else:

        def add(total, now):
            return total + _log_pairs(now[0], given.edges[0], now[1]), None

        none = jnp.zeros((*forward.last.shape, forward.last.shape[-1]), nodes.dtype)
        found = lax.scan(add, none, (forward.before, after))[0][None]
    return _log_value(forward), nodes, found


def _log_pairs(before, edges, after):
    return jnp.exp(-(before[..., :, None] + edges + after[..., None, :]))
