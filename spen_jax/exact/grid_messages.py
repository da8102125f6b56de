"""Messages between neighbours of an image, by shifts of whole images: no gather, no scatter.

A message into a pixel stands at that pixel, 0 where there is no neighbour, so that what a pixel gathers is a plain sum
and a message moves by one shift. Of two labels it is one number, E(1) - E(0), (B, H, W); of more (B, K, H, W) with
minimum 0: images come last, whose rows fill vector units, whatever K. Two labels cost two exponentials and no logarithm
for each message in float32. More labels with a shared table are a product with exp(-theta), where the table has a
spread of at most `SPREAD`, so that nothing that counts can underflow; else a log-sum-exp. Infinite energies count as
a large number: nothing is infinite or not a number, and derivatives are finite. Source: Wainwright, Jaakkola & Willsky
(2005), with edge weights rho.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.exact.agreement import all_agree
from spen_jax.exact.algebras import summed
from spen_jax.exact.chain_messages import SPREAD
from spen_jax.exact.field_methods import Tables
from spen_jax.exact.grid_links import (
    Links,
    each_link,
    from_sender,
    is_shared,
    linked,
    over_labels,
    placed,
    product,
    window,
)

ATANH = 2.0000000079, 0.6666631594, 0.4002485372, 0.2796141883, 0.2817465726
"""2 atanh(sqrt(s)) / sqrt(s) as a polynomial, to 1e-8 for s from 0 to 1/9: fitted at Chebyshev's nodes."""


class Pair(NamedTuple):
    """What stands at the later pixel of each link, and at the earlier one: (B, H, W), or (B, K, H, W) of K > 2."""

    ahead: Any
    back: Any


def tamed(tables: Tables) -> tuple[Tables, jax.Array]:
    """Tables with a large number for infinity, and that number: beyond all that the finite ones of neighbours sum to.

    No larger than need be, since what stands beside it in float32 is rounded as it is. It has no derivative.
    """
    sizes = [
        jnp.max(jnp.where(jnp.isinf(a), 0, jnp.abs(a)), initial=0) for a in jax.tree.leaves(tables)
    ]
    large = lax.stop_gradient(1e3 + 64 * jnp.max(jnp.stack(sizes)))
    return jax.tree.map(lambda a: jnp.where(jnp.isinf(a), large, a), tables), large


def silent(nodes: jax.Array, links: Links) -> Links:
    """Messages that say nothing."""
    none = jnp.zeros_like(_as_messages(nodes))
    return each_link(lambda *_: Pair(none, none), links)


def _as_messages(nodes):
    """Nodes (B, H, W, K) laid out as messages are."""
    return nodes[..., 1] - nodes[..., 0] if nodes.shape[-1] == 2 else jnp.moveaxis(nodes, -1, 1)


def _as_labels(messages):
    """(B, H, W, K) of what is laid out as messages are."""
    if messages.ndim > 3:
        return jnp.moveaxis(messages, 1, -1)
    return jnp.stack([jnp.zeros_like(messages), messages], -1)


class Ready(NamedTuple):
    """What messages need of the tables, made once: nodes as messages are, links as each end sees them, in `Pair`."""

    nodes: jax.Array
    links: Links


def prepared(tables: Tables, counts: jax.Array | None, rho: Any) -> Ready:
    """`tamed` tables over rho, as each end sees them: of two labels four images, else (K, B or 1, K, H', W')."""
    nodes = _as_messages(tables.nodes)

    def link(offset, table):
        table = table if rho is None else table / rho
        if nodes.ndim > 3:
            return Pair(from_sender(table, True), from_sender(table, False))
        counted = linked(counts, offset)
        return Pair(*(_entries(table, ahead, counted, offset) for ahead in (True, False)))

    return Ready(nodes, each_link(link, tables.links))


def passed(ready: Ready, counts: jax.Array | None, messages: Links, rho: Any, cold: bool) -> Links:
    """All messages at once: m(b) = -log sum_a exp(-(theta(a, b) / rho + q(a))), cold min_a; normalised.

    counts (B, H, W) are the pixels that have links, None for all.
    """
    through = _through_narrow if ready.nodes.ndim == 3 else _through_wide

    def link(offset, table, q):
        given = linked(counts, offset), offset, cold
        # What leaves a pixel along a link is all but what came by it.
        return Pair(
            through(q.back, True, table.ahead, *given),
            through(q.ahead, False, table.back, *given),
        )

    return each_link(link, ready.links, cavities(ready.nodes, messages, rho))


def cavities(nodes: jax.Array, messages: Links, rho: Any) -> Links:
    """For each message m the sum of what the pixel has without it: nodes + sum_g rho g - m.

    As sums of the others, not as a difference, in which a large message would take the digits of the rest.
    """
    leaves, form = jax.tree.flatten(messages)
    weighed = leaves if rho is None else [rho * m for m in leaves]
    before = [nodes]
    for m in weighed[:-1]:
        before.append(before[-1] + m)
    found, after = [], None
    for m, mine, sums in zip(leaves[::-1], weighed[::-1], before[::-1], strict=False):
        q = sums if after is None else sums + after
        found.append(q if rho is None else q + (rho - 1) * m)
        after = mine if after is None else mine + after
    return jax.tree.unflatten(form, found[::-1])


def _entries(table, ahead, counted, offset):
    """theta(0, 0), (0, 1), (1, 0), (1, 1) as an end sees it: images, or numbers that all links share.

    Loops over rows of equal length are the faster ones: borders are links without energy.
    """
    shared = is_shared(table)
    if counted is not None and not shared:
        table = jnp.where(counted[..., None, None], table, 0)
    order = (0, 0), (0, 1), (1, 0), (1, 1)
    entries = [table[..., a, b] if ahead else table[..., b, a] for a, b in order]
    return tuple(entries if shared else [placed(entry, offset, ahead) for entry in entries])


def _through_narrow(q, ahead, entries, counted, offset, cold):
    q = window(q, offset, not ahead)
    message = _log_odds(entries, placed(q, offset, ahead), cold)
    if entries[0].shape[1] > 1 or entries[0].shape[2] > 1:
        return message
    counted = jnp.ones((1, *q.shape[1:]), bool) if counted is None else counted
    return jnp.where(placed(counted, offset, ahead), message, 0)


def _log_odds(entries, q, cold):
    """E(1) - E(0), E(b) = -log sum_a exp(-(theta(a, b) + q(a))), of q = q(1) - q(0); nothing overflows or is lost."""
    of_00, of_01, of_10, of_11 = entries
    zero, one = jnp.maximum(-q, 0), jnp.maximum(q, 0)
    x0, y0, x1, y1 = of_00 + zero, of_10 + one, of_01 + zero, of_11 + one
    least = jnp.minimum(x1, y1) - jnp.minimum(x0, y0)
    if cold:
        return least
    return least + _log_ratio(jnp.exp(-jnp.abs(x0 - y0)), jnp.exp(-jnp.abs(x1 - y1)))


def _log_ratio(x, y):
    """log((1 + x) / (1 + y)) of numbers from 0 to 1; by a polynomial in float32, which logarithms take most time in."""
    if x.dtype != jnp.float32:
        return jnp.log1p(x) - jnp.log1p(y)
    z = (x - y) / (2 + x + y)
    square, total = z * z, ATANH[-1]
    for c in ATANH[-2::-1]:
        total = total * square + c
    return z * total


def _through_wide(q, ahead, energies, counted, offset, cold):
    q = window(q, offset, not ahead, 2)
    q = q - jnp.min(q, 1, keepdims=True)
    if cold:
        message = _least(energies, q)
    elif energies.shape[3] == energies.shape[4] == 1:
        least = jnp.min(energies, (0, 2), keepdims=True)
        near = jnp.max(energies - least) <= SPREAD
        message = lax.cond(
            all_agree(near),
            lambda: -jnp.log(product(jnp.exp(least - energies), jnp.exp(-q))),
            lambda: _summed(energies, q),
        )
    else:
        message = _summed(energies, q)
    message = message - jnp.min(message, 1, keepdims=True)
    if counted is not None:
        message = jnp.where(counted[:, None], message, 0)
    return placed(message, offset, ahead, 2)


def _least(energies, q):
    """min_a (energies(a, b) + q(a))."""

    def step(least, given):
        energy, mine = given
        return jnp.minimum(least, energy + mine), None

    return over_labels(step, jnp.full_like(q, jnp.inf), energies, q)


def _summed(energies, q):
    """-log sum_a exp(-(energies(a, b) + q(a))), one label of the sender after another."""
    least = lax.stop_gradient(_least(energies, q))

    def step(total, given):
        energy, mine = given
        return total + jnp.exp(least - (energy + mine)), None

    return least - jnp.log(over_labels(step, jnp.zeros_like(q), energies, q))


def gathered(nodes: jax.Array, messages: Links, rho: Any) -> jax.Array:
    """theta_i + sum_g rho m_g, (B, H, W, K): the energies whose Gibbs distributions are the pixels' marginals."""
    total = (
        sum(jax.tree.leaves(messages)[1:], jax.tree.leaves(messages)[0]) if any(messages) else None
    )
    if total is None:
        return nodes
    return nodes + _as_labels(total if rho is None else rho * total)


def _ends(nodes, messages, rho):
    """For each direction q of both pixels and the messages into them, at the links: (B, H', W', K) four times."""
    q = cavities(_as_messages(nodes), messages, rho)

    def link(offset, q, m):
        at = [(q.back, False), (q.ahead, True), (m.back, False), (m.ahead, True)]
        return [window(_as_labels(a), offset, ahead) for a, ahead in at]

    return each_link(link, q, messages)


def _pair_energies(table, counted, first, second, rho):
    """theta / rho + q_i + q_j, (B, H', W', K, K)."""
    table = table if rho is None else table / rho
    if counted is not None:
        table = jnp.where(counted[..., None, None], table, 0)
    return table + first[..., None] + second[..., None, :]


def beliefs(tables: Tables, counts: jax.Array | None, messages: Links, rho: Any) -> Tables:
    """Marginals of pixels and pairs, a table for each link."""

    def link(offset, table, ends):
        first, second, *_ = ends
        energies = _pair_energies(table, linked(counts, offset), first, second, rho)
        return jax.nn.softmax(-energies, (-2, -1))

    nodes = jax.nn.softmax(-gathered(tables.nodes, messages, rho), -1)
    return Tables(nodes, each_link(link, tables.links, _ends(tables.nodes, messages, rho)))


def bethe(
    tables: Tables, counts: jax.Array | None, messages: Links, rho: Any, large: jax.Array
) -> jax.Array:
    """sum_i F_i + sum_e rho (F_e - F_ie - F_je), (B,): the free energy where messages do not change on a tree.

    Infinite where a pixel, or a pair with what it hears, has nothing but what is forbidden, which counts `large`.
    """

    def link(offset, table, ends):
        first, second, into_first, into_second = ends
        counted = linked(counts, offset)
        pairs = _pair_energies(table, counted, first, second, rho)
        both = summed(summed(pairs, 4), 3)
        lowest = _pair_energies(table, counted, _from_0(first), _from_0(second), rho)
        lost = jnp.any(jnp.min(lowest, (3, 4)) > large / 2, (1, 2))
        each = both - summed(first + into_first, 3) - summed(second + into_second, 3)
        if counted is not None:
            each = jnp.where(counted, each, 0)
        return jnp.where(lost, jnp.inf, jnp.sum(each, (1, 2)))

    total = jnp.sum(summed(gathered(tables.nodes, messages, rho), 3), (1, 2))
    of_links = each_link(link, tables.links, _ends(tables.nodes, messages, rho))
    for found in jax.tree.leaves(of_links):
        total = total + (found if rho is None else rho * found)
    return jnp.where(jnp.any(jnp.min(tables.nodes, 3) == large, (1, 2)), jnp.inf, total)


def _from_0(energies):
    return energies - jnp.min(energies, -1, keepdims=True)


def shares(nodes: jax.Array, messages: Links, rho: Any) -> jax.Array:
    """Energies of pixels for each family of chains, (families, B, H, W, K), whose sum is the nodes at rho = 1/families.

    u_t = (gathered - sum of the messages of family t) / families.
    """
    pairs = [pair for pair in messages if pair is not None]
    whole = gathered(nodes, messages, rho)
    each = [whole - _as_labels(p.ahead + p.back) for p in pairs] or [whole]
    return jnp.stack(each) / len(each)
