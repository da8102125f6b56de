"""All spanning trees of a graph with a root: sums over them by elimination, and draws.

Kirchhoff's determinant by elimination without subtraction, after Grassmann, Taksar and Heyman (1985): a word k goes,
and what hung from it hangs from its heads instead, w[d, h] += w[d, k] w[k, h] / s[k], where s[k] is the sum of w[k, h]
over what is left, without k itself. The product of all s[k] is the sum over trees. As nothing is subtracted, nothing
cancels, whatever the energies.

With one root, an arc from the root weighs z -> 0, and of each number only the lowest power of z is kept: 0 or 1.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.blocks import in_blocks
from spen_jax.exact.agreement import all_agree
from spen_jax.exact.algebras import Algebra, Drawn, Least, Several, summed
from spen_jax.exact.arborescence import best_tree, several_trees


def spanning(arcs: jax.Array, counts: jax.Array, one_root: bool, algebra: Algebra) -> jax.Array:
    """What the algebra makes of all spanning trees, (B, n, n + 1) -> (B,), of `Several` (B, k).

    `counts` (B, n) are words that count; others have one arc, from the root, without energy.
    """
    if isinstance(algebra, Least):
        return best_tree(arcs, counts, one_root)
    if isinstance(algebra, Several):
        return several_trees(arcs, counts, one_root, algebra.k)
    if isinstance(algebra, Drawn):
        return _drawn(arcs, counts, algebra.key, one_root)
    return _free(arcs, counts, one_root)


def _free(arcs, counts, one_root):
    size = arcs.shape[1] * arcs.shape[2]
    return in_blocks(partial(_free_block, one_root), None, (arcs, counts), size, again=True)


def _free_block(one_root, _, batch):
    arcs, counts = batch
    mild = _mild(arcs, counts, one_root)
    # Where both branches run, the one that is not looked at has to have derivatives as well.
    tame = jnp.where(mild[:, None, None] | ~counts[..., None], arcs, 0)
    return lax.cond(
        all_agree(jnp.all(mild)),
        lambda _, tame: _by_weights(tame, counts, one_root),
        lambda arcs, _: _by_energies(arcs, counts, one_root)[0],
        arcs,
        tame,
    )


# In weights


def _mild(arcs, counts, one_root):
    """Whether all arcs between words that count are allowed and of like energies, so that no weight vanishes, (B,).

    Weights then only grow as words go, and never beyond n, but for arcs from the root where there is one root.
    """
    n = counts.shape[1]
    own = jnp.eye(n, n + 1, 1, dtype=bool)[None]
    both = counts[..., None] & jnp.pad(counts, [(0, 0), (1, 0)], constant_values=True)[:, None]
    inside = both & ~own
    if one_root:
        inside &= (jnp.arange(n + 1) > 0)[None, None]

    def spread(values, where, axis):
        least = jnp.min(values, axis, where=where, initial=jnp.inf)
        most = jnp.max(values, axis, where=where, initial=-jnp.inf)
        return jnp.where(jnp.any(where, axis), most - least, 0)

    mild = jnp.all(spread(arcs, inside, 2) < 40, 1)
    if one_root:
        root = arcs[..., 0] - _least_arcs(arcs, one_root)
        mild &= spread(root, counts, 1) < 40
    return mild


def _least_arcs(arcs, one_root):
    """The least energy of each word's arcs, with one root of those from words, (B, n), as a constant."""
    least = lax.stop_gradient(jnp.min(arcs[..., 1:] if one_root else arcs, 2))
    return jnp.where(jnp.isinf(least), 0, least)


def _by_weights(arcs, counts, one_root):
    """F of examples that are `mild`."""
    n = arcs.shape[1]
    scale = _least_arcs(arcs, one_root)
    least = jnp.sum(scale, 1)
    arcs = arcs - scale[..., None]
    if one_root:
        root = lax.stop_gradient(jnp.min(arcs[..., 0], 1, where=counts, initial=jnp.inf))
        root = jnp.where(jnp.isinf(root), 0, root)
        least = least + root
        root = jnp.where(counts, root[:, None], 0)
        arcs = jnp.concatenate([arcs[..., :1] - root[..., None], arcs[..., 1:]], 2)

    def step(weights, k):
        row = lax.dynamic_index_in_dim(weights, k, 1, keepdims=False)
        column = lax.dynamic_index_in_dim(weights, k + 1, 2, keepdims=False)
        row = jnp.where(_left(n, k), row, 0)
        total = jnp.sum(row, 1)
        if one_root:
            words = jnp.sum(row[:, 1:], 1)
            total = jnp.where(words == 0, total, words)
        share = row * _reciprocal(total)[:, None]
        return weights + column[:, :, None] * share[:, None], total

    totals = lax.scan(step, jnp.exp(-arcs), jnp.arange(n))[1]
    return least - jnp.sum(jnp.log(totals), 0)


def _left(n, k):
    """The root and the words after k, (1, n + 1)."""
    places = jnp.arange(n + 1)[None]
    return (places == 0) | (places > k + 1)


@jax.custom_jvp
def _reciprocal(x):
    return 1 / x


@_reciprocal.defjvp
def _reciprocal_jvp(primals, tangents):
    # Its square would overflow.
    inverse = _reciprocal(primals[0])
    return inverse, -(inverse * (inverse * tangents[0]))


# In energies, whatever they are


class Gone(NamedTuple):
    """A word k that goes.

    With one root, an arc from the root is `tied` where it stands for one that passes a word which has the root by now.
    """

    share: jax.Array  # energies of its heads less -log s[k], (B, n + 1)
    column: jax.Array  # of arcs from it to the words that hang from it, (B, n)
    total: jax.Array  # -log s[k], (B,)
    last: jax.Array  # whether it has to hang from the root, by an arc that is not tied, (B,)
    tied: jax.Array  # that arc, (B,)


def _by_energies(arcs, counts, one_root):
    """F, (B,), the words that go, of arrays (n, B, ...), and arcs and tied words before each does."""
    size, n, _ = arcs.shape
    scale = _least_arcs(arcs, False)
    root = (jnp.arange(n + 1) == 0)[None]

    def step(carry, k):
        # What goes last is in the carry, or compilers would compute it again for each arc.
        arcs, tied, gone = carry
        arcs, tied = _without(arcs, tied, gone, one_root)
        row = lax.dynamic_index_in_dim(arcs, k, 1, keepdims=False)
        column = lax.dynamic_index_in_dim(arcs, k + 1, 2, keepdims=False)
        own = lax.dynamic_index_in_dim(tied, k, 1, keepdims=False)
        row = jnp.where(_left(n, k), row, jnp.inf)
        total = summed(jnp.where(root & ~own[:, None], jnp.inf, row), 1)
        last = jnp.isinf(total)
        total = jnp.where(last, row[:, 0], total)
        share = row - jnp.where(jnp.isinf(total), 0, total)[:, None]
        gone = Gone(share, column, total, last, own)
        return (arcs, tied, gone), (gone, arcs, tied)

    arcs = arcs - scale[..., None]
    tied = ~counts if one_root else jnp.ones((size, n), bool)
    nothing = jnp.full_like(arcs[:, 0], jnp.inf), jnp.full_like(arcs[:, :, 0], jnp.inf)
    no = jnp.zeros(size, bool)
    first = arcs, tied, Gone(*nothing, jnp.zeros_like(scale[:, 0]), no, no)
    gone, *history = lax.scan(step, first, jnp.arange(n))[1]
    free = jnp.sum(scale, 1) + jnp.sum(gone.total, 0)
    none = jnp.isinf(free) | (jnp.sum(gone.last, 0) > one_root)
    return jnp.where(none, jnp.inf, free), gone, history


def _without(arcs, tied, gone, one_root):
    """Arcs once a word has gone, and tied words."""
    moved, now = gone.column[:, :, None] + gone.share[:, None], tied
    if one_root:
        root = (jnp.arange(arcs.shape[2]) == 0)[None, None]
        free = (gone.last | gone.tied)[:, None] & ~jnp.isinf(moved[..., 0])
        now = tied | free
        arcs = jnp.where(root & (now & ~tied)[..., None], jnp.inf, arcs)
        moved = jnp.where(root & (now & ~free)[..., None], jnp.inf, moved)
    return _of_two(arcs, moved), now


@jax.custom_jvp
def _of_two(a, b):
    """-log(exp(-a) + exp(-b))."""
    least = jnp.minimum(a, b)
    apart = jnp.where(jnp.isinf(a) | jnp.isinf(b), jnp.inf, jnp.abs(a - b))
    return least - jnp.log(1 + jnp.exp(-apart))


@_of_two.defjvp
def _of_two_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    # Infinite ones have no part, and NaN minus NaN none either.
    none = jnp.isinf(a) | jnp.isinf(b)
    share = jax.nn.sigmoid(jnp.where(none, 0, b - a))
    of_a = jnp.where(none, jnp.where(jnp.isinf(a), 0.0, 1.0), share)
    of_b = jnp.where(none, jnp.where(jnp.isinf(b), 0.0, 1.0), 1 - share)
    return _of_two(a, b), of_a * da + of_b * db


# Draws


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _drawn(arcs, counts, key, one_root):
    return _free(arcs, counts, one_root)


@_drawn.defjvp
def _drawn_jvp(one_root, primals, tangents):
    arcs, counts, key = primals
    change = tangents[0]
    size, n, _ = arcs.shape
    batch = arcs, counts, jax.random.split(key, size)
    heads = in_blocks(partial(_draw, one_root), None, batch, n * n * (n + 1) // 8)
    picked = heads[..., None] == jnp.arange(n + 1)[None, None]
    return _free(arcs, counts, one_root), jnp.sum(jnp.where(picked, change, 0), (1, 2))


def _draw(one_root: bool, _: Any, batch: Any) -> jax.Array:
    """Heads (B, n) of one tree for each example: words come back in turn.

    An arc of the tree without word k is kept, or stands for one that hangs from k, as their weights say. The words
    that hang from k then take what hangs from them along, and k hangs from one of the words that are left with the
    root. That this gives each tree its probability follows from det(I - 1 p') = 1 - sum(p), for the heads that the
    words hanging from k could have had.
    """
    arcs, counts, keys = batch
    size, n, _ = arcs.shape
    _, gone, history = lax.stop_gradient(_by_energies(arcs, counts, one_root))
    after = [jnp.roll(a, -1, 0) for a in history]
    words = jnp.arange(1, n + 1)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (n, 2 * n + 1), arcs.dtype))(keys)

    def step(heads, given):
        k, gone, (arcs, tied), noise = given
        there = (words > k + 1)[None]
        own = heads[..., None] == jnp.arange(n + 1)[None, None]
        after = jnp.sum(jnp.where(own, arcs, 0), 2)
        share = jnp.sum(jnp.where(own, gone.share[:, None], 0), 2)
        # P(passing k) is the weight of that over that of both.
        passing = jnp.minimum(after - gone.column - share, 0)
        less = (heads == 0) & tied & ~(gone.last | gone.tied)[:, None]
        through = there & ~less & (noise[:, :n] < -jnp.log(-passing))
        place = jnp.concatenate([jnp.zeros((size, 1), heads.dtype), heads], 1)
        place = jnp.where(jnp.pad(through, [(0, 0), (1, 0)]), jnp.arange(n + 1)[None], place)
        for _ in range(n.bit_length()):
            place = jnp.take_along_axis(place, place, 1)
        heads = jnp.where(through, k + 1, heads)
        rooted = (place == 0) & (jnp.arange(n + 1)[None] > k + 1)
        root = (jnp.arange(n + 1) == 0)[None]
        choice = jnp.where(rooted | root & gone.tied[:, None], gone.share, jnp.inf)
        choice = jnp.where(root & jnp.all(jnp.isinf(choice), 1, keepdims=True), 0, choice)
        new = jnp.argmin(choice - noise[:, n:], 1).astype(heads.dtype)
        return jnp.where(words[None] == k + 1, new[:, None], heads), None

    given = jnp.arange(n), gone, after, jnp.moveaxis(noise, 1, 0)
    return lax.scan(step, jnp.zeros((size, n), jnp.int32), given, reverse=True)[0]
