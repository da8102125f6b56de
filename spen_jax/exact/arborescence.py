"""Best spanning trees of a graph with a root, and the best few."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.blocks import in_blocks


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def best_tree(arcs: jax.Array, counts: jax.Array, one_root: bool) -> jax.Array:
    """The least energy of a spanning tree, (B, n, n + 1) -> (B,); its derivative is 1 at the tree's arcs, 0 elsewhere.

    `counts` (B, n) are words that count: where there is `one_root`, exactly one of them hangs from it. Infinite where
    there is no such tree, NaN where an energy is.
    """
    return best_heads(arcs, counts, one_root)[1]


@best_tree.defjvp
def _best_tree_jvp(one_root, primals, tangents):
    arcs, counts = primals
    heads, energy = best_heads(arcs, counts, one_root)
    return energy, _of_arcs(heads, tangents[0])


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def several_trees(arcs: jax.Array, counts: jax.Array, one_root: bool, k: int) -> jax.Array:
    """The k least energies in rising order, (B, k), infinite where there are fewer; the derivative as above."""
    return several_heads(arcs, counts, one_root, k)[1]


@several_trees.defjvp
def _several_trees_jvp(one_root, k, primals, tangents):
    arcs, counts = primals
    heads, energies = several_heads(arcs, counts, one_root, k)
    return energies, jax.vmap(_of_arcs, (1, None), 1)(heads, tangents[0])


def _of_arcs(heads, values):
    """The sum of values (B, n, n + 1) at heads (B, n), 0 at -1, without a gather, whose transpose would scatter."""
    picked = heads[..., None] == jnp.arange(values.shape[2])[None, None]
    return jnp.sum(jnp.where(picked, values, 0), (1, 2))


def several_heads(
    arcs: jax.Array, counts: jax.Array, one_root: bool, k: int
) -> tuple[jax.Array, jax.Array]:
    """Heads (B, k, n) and energies (B, k) of the k best trees in rising order, -1 and infinity where there are fewer.

    Lawler (1972): all trees but the best are parted by the first word whose head is another; each part has a best one,
    and the next best is parted likewise. That is n best trees for each of k.
    """
    size, n, _ = arcs.shape
    # Before the best stands what it is the only part of: all trees.
    energies = jnp.full((size, k + 1), jnp.inf, arcs.dtype).at[:, 0].set(-jnp.inf)
    found = Candidates(
        energies,
        energies,
        jnp.full((size, k + 1, n), -1, jnp.int32),
        jnp.zeros((size, k + 1), jnp.int32),
        jnp.zeros((size, k + 1, n + 1), bool),
    )

    def step(i, found):
        parent = jax.tree.map(lambda a: a[:, i], found)
        every = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), found, parts(parent))
        kept = jnp.argsort(every.order, 1)[:, : k + 1]
        return jax.tree.map(
            lambda a: jnp.take_along_axis(a, kept.reshape(size, k + 1, *[1] * (a.ndim - 2)), 1),
            every,
        )

    def parts(parent):
        words = jnp.arange(n)
        own = parent.heads[..., None] == jnp.arange(n + 1)[None, None]  # (B, word, head)
        first = words[None] == parent.first[:, None]
        bars = own | first[..., None] & parent.barred[:, None]
        part, word = words[None, :, None, None], words[None, None, :, None]
        barred = (word < part) & ~own[:, None] | (word == part) & bars[:, None]
        tables = jnp.where(barred, jnp.inf, arcs[:, None]).reshape(size * n, n, n + 1)
        found, energy = best_heads(tables, jnp.repeat(counts, n, 0), one_root)
        useful = (words[None] >= parent.first[:, None]) & (parent.energy < jnp.inf)[:, None]
        energy = jnp.where(useful, energy.reshape(size, n), jnp.inf)
        # Rounded, a part may seem to have a better one than the whole.
        order = jnp.maximum(energy, parent.order[:, None])
        first = jnp.broadcast_to(words.astype(jnp.int32), (size, n))
        return Candidates(order, energy, found.reshape(size, n, n), first, bars)

    found = lax.fori_loop(0, k, step, found)
    kept = jnp.argsort(found.energy, 1)[:, 1:]
    heads = jnp.take_along_axis(found.heads, kept[..., None], 1)
    energies = jnp.take_along_axis(found.energy, kept, 1)
    unknown = jnp.any(jnp.isnan(arcs), (1, 2))[:, None]
    return heads, jnp.where(unknown, jnp.nan, energies)


class Candidates(NamedTuple):
    """The best trees of parts of all trees, (B, k, ...): words before `first` have the same heads in all of a part."""

    order: jax.Array
    energy: jax.Array
    heads: jax.Array
    first: jax.Array
    barred: jax.Array  # heads that the first word may not have


def best_heads(arcs: jax.Array, counts: jax.Array, one_root: bool) -> tuple[jax.Array, jax.Array]:
    """Heads (B, n), and the energy (B,), of the best tree: -1 and infinity where there is none.

    Chu and Liu (1965) and Edmonds (1967), along one path as Gabow et al. (1986): each word takes its best head, that
    head its own, until the path meets the root or itself; a cycle becomes one word. The cost is n^2. With one root,
    arcs from it are taken last, which makes them as few as can be without changing an energy.
    """
    size = arcs.shape[1] * 8
    return in_blocks(partial(_best_block, one_root), None, (arcs, counts), size)


class Path(NamedTuple):
    """Words on the way, from the first to the one on top; of those in a cycle the arcs are merged."""

    step: jax.Array
    top: (
        jax.Array
    )  # energies of arcs into the word on top, (B, n + 1), less what was paid to enter it
    enters: jax.Array  # the word that each of them ends at, (B, n + 1)
    level: (
        jax.Array
    )  # of each place (B, n + 1): its level on the path, -1 with the root by now, n not seen yet
    depth: jax.Array  # how many are on the path, (B,)
    to: jax.Array  # the level that a cycle closes at, depth - 1 where there is none
    stack: jax.Array  # the step at which a level was last on top, (B, n)
    none: jax.Array  # whether there is no tree, (B,)


class Steps(NamedTuple):
    """What the steps did, (T, B, ...): the arcs on top, and the arc that was taken into a set of words."""

    top: jax.Array
    enters: jax.Array
    members: jax.Array
    head: jax.Array
    word: jax.Array


def _best_block(one_root: bool, _: Any, batch: Any):
    energies, counts = batch
    size, n, _ = energies.shape
    unknown = jnp.any(jnp.isnan(energies), (1, 2))
    arcs = jnp.where(unknown[:, None, None], 0, energies)
    steps, none = _steps(arcs, one_root)

    def given(i, heads):
        step = jax.tree.map(lambda a: a[2 * n - 1 - i], steps)
        clear = ~jnp.any(step.members & (heads >= 0), 1)
        here = clear[:, None] & (jnp.arange(n)[None] == step.word[:, None])
        return jnp.where(here, step.head[:, None], heads)

    heads = lax.fori_loop(0, 2 * n, given, jnp.full((size, n), -1, jnp.int32))
    if one_root:
        none |= jnp.sum(counts & (heads == 0), 1) > 1
    energy = jnp.where(none, jnp.inf, _of_arcs(heads, energies))
    energy = jnp.where(unknown, jnp.nan, energy)
    return jnp.where((energy < jnp.inf)[:, None], heads, -1), energy


def _steps(arcs, one_root):
    """All that is taken, in order, and whether no tree was found."""
    size, n, _ = arcs.shape
    zero = jnp.zeros(size, jnp.int32)
    level = jnp.array([-1, 0, *[n] * (n - 1)], jnp.int32)
    path = Path(
        jnp.zeros((), jnp.int32),
        arcs[:, 0],
        jnp.zeros((size, n + 1), jnp.int32),
        jnp.broadcast_to(level, (size, n + 1)),
        zero + 1,
        zero,
        jnp.zeros((size, n), jnp.int32),
        zero > 0,
    )
    steps = Steps(
        jnp.zeros((2 * n, size, n + 1), arcs.dtype),
        jnp.zeros((2 * n, size, n + 1), jnp.int32),
        jnp.zeros((2 * n, size, n), bool),
        jnp.zeros((2 * n, size), jnp.int32),
        jnp.full((2 * n, size), -1, jnp.int32),
    )

    def unfinished(carry):
        path, _ = carry
        return (path.step < 2 * n) & jnp.any(path.level >= 0)

    path, steps = lax.while_loop(unfinished, partial(_step, arcs, one_root), (path, steps))
    return steps, path.none


def _step(arcs, one_root, carry):
    """Take the best arc into the word on top, go on to its head, or merge the top two of a cycle."""
    path, steps = carry
    size, n, _ = arcs.shape
    everyone, places = jnp.arange(size), jnp.arange(n + 1)
    last = path.depth - 1
    takes = (path.to >= last) & jnp.any(path.level >= 0, 1)

    members = path.level[:, 1:] == last[:, None]
    choice = jnp.where((places == 0)[None], jnp.inf, path.top) if one_root else path.top
    head = lax.argmin(choice, 1, jnp.int32)  # the root where all are infinite
    paid = path.top[everyone, head]
    word = path.enters[everyone, head]
    top = jnp.where(takes[:, None] & jnp.isfinite(path.top), path.top - paid[:, None], path.top)
    done = Steps(top, path.enters, members, head, jnp.where(takes, word, -1))
    put = partial(lax.dynamic_update_index_in_dim, index=path.step, axis=0)
    steps = jax.tree.map(lambda a, b: put(a, b), steps, done)
    none = path.none | takes & jnp.isinf(paid)

    met = path.level[everyone, head]
    ends, grows = takes & (met < 0), takes & (met == n)
    to = jnp.where(takes & ~ends & ~grows, met, path.to)
    here = jnp.arange(n)[None] == last[:, None]
    stack = jnp.where(takes[:, None] & here, path.step, path.stack)

    # A cycle that was just met merges at once.
    merges = ~ends & ~grows & (to < last)
    below = stack[everyone, last - 1]
    other, entered = steps.top[below, everyone], steps.enters[below, everyone]
    enters = jnp.where(merges[:, None] & (other < top), entered, path.enters)
    level = jnp.where(
        merges[:, None] & (path.level == last[:, None]), last[:, None] - 1, path.level
    )
    merged = jnp.where(level == last[:, None] - 1, jnp.inf, jnp.minimum(top, other))

    # Where the path ends, the next begins at a word not seen yet.
    level = jnp.where(ends[:, None] & (level < n), -1, level)
    head = jnp.where(ends, lax.argmax(level == n, 1, jnp.int32), head)
    new = ends | grows
    depth = jnp.where(ends, 1, path.depth + grows - merges)
    level = jnp.where(new[:, None] & (places[None] == head[:, None]), depth[:, None] - 1, level)
    level = jnp.where(places[None] == 0, -1, level)
    fresh = arcs[everyone, jnp.maximum(head - 1, 0)]
    top = jnp.where(new[:, None], fresh, jnp.where(merges[:, None], merged, top))
    enters = jnp.where(new[:, None], jnp.maximum(head - 1, 0)[:, None], enters)
    to = jnp.where(new, depth - 1, jnp.minimum(to, depth - 1))
    return Path(path.step + 1, top, enters, level, depth, to, stack, none), steps
