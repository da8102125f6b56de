"""Terms over dependency trees, and the scores of arcs and labels, against their definitions word by word."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import spen_jax as sx
from spen_jax.energies import Grandparents, Siblings, TreeSPEN, Valency
from spen_jax.exact import DependencyTree, Polytope
from spen_jax.networks import Biaffine, BiaffineLabels

N, H = 5, 3
RNG = np.random.default_rng(0)
MASK = np.array([[True] * N, [True, False, True, True, False]])
HIDDEN = RNG.normal(size=(2, N, H))
TERMS = Siblings(4), Grandparents(4), Valency(4)


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def factors(p, h):
    """a, b of words, and c of root and words."""
    a, b, c = np.split(leaky(h @ p["of_words"]["kernel"] + p["of_words"]["bias"]), 3, axis=-1)
    return a, b, np.concatenate([p["root"][None], c])


def siblings(p, h, y, words):
    a, b, c = factors(p, h)
    total = 0
    for d, e in itertools.combinations(words, 2):
        for head in [0, *(w + 1 for w in words if w not in (d, e))]:
            t = p["w"] * (a[d] * b[e] + a[e] * b[d]) / 2 @ c[head]
            total += y[d, head] * y[e, head] * t
    return total


def grandparents(p, h, y, words):
    a, b, c = factors(p, h)
    total = 0
    for d, head in itertools.permutations(words, 2):
        for above in [0, *(w + 1 for w in words if w not in (d, head))]:
            total += y[d, head + 1] * y[head, above] * (p["w"] * a[d] * b[head] @ c[above])
    return total


def valency(p, h, y, words):
    total = 0
    for head in words:
        left = sum(y[d, head + 1] for d in words if d < head)
        right = sum(y[d, head + 1] for d in words if d > head)
        sums = left * p["w"][0] + right * p["w"][1] + h[head] @ p["Cx"]["kernel"] + p["Cx"]["bias"]
        total -= p["v"] @ np.log1p(np.exp(sums))
    return total


FORMULAS = siblings, grandparents, valency


def all_trees(words):
    """Heads of every tree of these words with any number of roots, -1 for the others."""
    found = []
    for heads in itertools.product([0, *(w + 1 for w in words)], repeat=len(words)):
        above = dict(zip(words, heads, strict=True))
        if all(_reaches_root(above, w) for w in words):
            found.append([above.get(w, -1) for w in range(N)])
    return np.array(found)


def _reaches_root(above, word):
    for _ in above:
        if above[word] == 0:
            return True
        word = above[word] - 1
    return False


@jax.jit
def made(key, h, mask):
    """Parameters of all terms, none 0, and their contexts."""
    params = [
        jax.tree.map(lambda p: p + 0.3, t.init(key, h, False, mask, method="features")["params"])
        for t in TERMS
    ]
    contexts = [
        t.apply({"params": p}, h, False, mask, method="features")
        for t, p in zip(TERMS, params, strict=True)
    ]
    return params, contexts


@partial(jax.jit, static_argnums=0)
def energies(term, params, context, y):
    """Of many y (K, n, n + 1) at one context, and their gradients."""
    of_one = partial(term.apply, {"params": params}, method="energy")
    return jax.vmap(jax.value_and_grad(lambda y: of_one(context, y)))(y)


def of_example(context, example):
    return jax.tree.map(lambda a: a[example], context)


@pytest.mark.slow
def test_terms_are_their_sums_over_words_on_trees_and_relaxed(x64):
    params, contexts = made(jax.random.key(0), HIDDEN, MASK)
    for example in range(2):
        words = np.flatnonzero(MASK[example])
        trees = all_trees(words)[:: 40 if example == 0 else 1]
        relaxed = RNG.dirichlet(np.ones(N + 1), (3, N)) * MASK[example][None, :, None]
        y = np.concatenate([np.eye(N + 2)[trees][..., :-1], relaxed])
        assert len(trees) == (33 if example == 0 else 16)  # (n + 1)^(n - 1), every 40th of 1296
        for term, formula, p, context in zip(TERMS, FORMULAS, params, contexts, strict=True):
            own = of_example(context, example)
            got, slopes = energies(term, p, own, y)
            p, h = jax.tree.map(np.asarray, p), HIDDEN[example]
            want = [formula(p, h, one, words) for one in y]
            np.testing.assert_allclose(got, want, atol=1e-12, err_msg=str(term))
            # Finite differences, along one direction each.
            for one, slope in zip(y[-4:], slopes[-4:], strict=True):
                move = RNG.normal(size=one.shape) * MASK[example][:, None]
                ahead, behind = (formula(p, h, one + s * move, words) for s in (1e-5, -1e-5))
                np.testing.assert_allclose(np.sum(slope * move), (ahead - behind) / 2e-5, atol=1e-7)


@pytest.mark.slow
def test_words_that_do_not_count_change_nothing(x64):
    params, contexts = made(jax.random.key(0), HIDDEN, MASK)
    _, others = made(jax.random.key(0), np.where(MASK[..., None], HIDDEN, 9.0), MASK)
    y = RNG.dirichlet(np.ones(N + 1), (1, N)) * MASK[1][None, :, None]
    for term, p, context, other in zip(TERMS, params, contexts, others, strict=True):
        (first, _), (second, _) = (energies(term, p, of_example(c, 1), y) for c in (context, other))
        np.testing.assert_allclose(first, second, rtol=1e-12)


class Network(nn.Module):
    def setup(self):
        self.arcs = Biaffine(4)

    def hidden(self, x, train=False, mask=None):
        return x

    def output(self, h):
        return self.arcs(h)


@pytest.mark.slow
def test_new_terms_are_near_zero_and_every_parameter_has_a_gradient():
    spen, h = TreeSPEN(Network(), terms=TERMS), jnp.float32(HIDDEN)
    y = jnp.float32(RNG.dirichlet(np.ones(N + 1), (2, N)))

    @jax.jit
    def slopes(key):
        params = spen.init(key, h, y, MASK)["params"]
        bare = TreeSPEN(spen.network).apply({"params": {"network": params["network"]}}, h, y, MASK)
        energy, gradient = jax.value_and_grad(
            lambda p: jnp.sum(spen.apply({"params": p}, h, y, MASK))
        )(params)
        return energy - jnp.sum(bare), gradient

    added, gradient = slopes(jax.random.key(1))
    assert abs(added) < 0.5
    for path, slope in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(slope) and np.all(np.isfinite(slope)), jax.tree_util.keystr(path)


@pytest.mark.long
def test_steps_among_marginals_follow_the_terms_and_can_be_unrolled():
    spen, h = TreeSPEN(Network(), terms=TERMS), jnp.float32(HIDDEN)
    features, energy = sx.functions_of(spen)
    solver = sx.MirrorDescent(1.0, entropy=1.0)
    options = {"domain": Polytope(), "solver": solver, "steps": 2}
    y = np.eye(N + 1, dtype=np.float32)[np.where(MASK, [0, 1, 1, 1, 1], 0)]
    params = jax.jit(spen.init)(jax.random.key(1), h, y, MASK)["params"]
    params = jax.tree.map(lambda p: p + 0.1, params)
    context = jax.jit(features)(params, h, mask=MASK)
    found = sx.minimize(energy, params, context, None, trace="y", **options).trace["y"]
    slopes_of = jax.jit(jax.vmap(jax.grad(energy, 2), (None, 0, 0)))
    mean_of = jax.jit(lambda arcs: DependencyTree(arcs, mask=MASK).mean()[1])
    want = mean_of(-context["logits"])
    for t in range(3):  # of step length 1 the next arcs are the slopes
        np.testing.assert_allclose(found[:, t], want, atol=1e-5)
        want = mean_of(slopes_of(params, context, want))
    objective = sx.objectives.end_to_end(sx.Predictor(energy, features, **options))
    batch = {"x": h, "y": y, "mask": MASK}
    (loss, _), slope = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        params, batch, jax.random.key(0)
    )
    assert loss > 0
    for path, a in jax.tree_util.tree_leaves_with_path(slope):
        assert np.any(a) and np.all(np.isfinite(a)), jax.tree_util.keystr(path)


def test_a_term_without_rank_is_refused():
    with pytest.raises(ValueError, match="Siblings needs a rank of 1 or more, got 0"):
        Siblings(0).init(jax.random.key(0), HIDDEN, False, MASK, method="features")


def test_arcs_and_labels_have_biaffine_scores(x64):
    arcs, labels, h = Biaffine(4), BiaffineLabels(2, 4), HIDDEN
    heads = np.array([[2, 0, 5, 1, 3], [3, -1, 0, 3, -1]])

    @jax.jit
    def scores(key):
        made = (arcs.init(key, h)["params"], labels.init(key, h, heads)["params"])
        made = jax.tree.map(lambda p: p + 0.1, made)
        of_arcs = arcs.apply({"params": made[0]}, h)
        return made, of_arcs, labels.apply({"params": made[1]}, h, heads)

    (p, q), of_arcs, of_labels = jax.tree.map(np.asarray, scores(jax.random.key(2)))
    for b, d in itertools.product(range(2), range(N)):
        a = leaky(h[b, d] @ p["dependent"]["kernel"] + p["dependent"]["bias"])
        for head in range(N + 1):
            above = leaky(h[b, head - 1] @ p["head"]["kernel"] + p["head"]["bias"])
            above = above if head else p["root"]
            np.testing.assert_allclose(of_arcs[b, d, head], (a @ p["U"] + p["u"]) @ above)
        a = leaky(h[b, d] @ q["dependent"]["kernel"] + q["dependent"]["bias"])
        head = max(heads[b, d], 0)
        above = leaky(h[b, head - 1] @ q["head"]["kernel"] + q["head"]["bias"])
        above = above if head else q["root"]
        for r in range(2):
            of_each = (
                a @ q["of_dependent"]["kernel"][:, r]
                + q["of_dependent"]["bias"][r]
                + above @ q["of_head"]["kernel"][:, r]
            )
            np.testing.assert_allclose(of_labels[b, d, r], a @ q["U"][:, r] @ above + of_each)


@pytest.mark.slow
def test_scores_make_trees():
    h = jnp.float32(HIDDEN)
    scores = jax.jit(lambda key: Biaffine(4).init_with_output(key, h)[0])(jax.random.key(0))
    heads = np.asarray(DependencyTree(-scores, mask=MASK).best().y)
    assert np.all((heads >= 0) == MASK) and np.all(np.sum(heads == 0, 1) == 1)
