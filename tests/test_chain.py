import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import check_every_answer, check_samples, listed, random_energies

from spen_jax.exact import Chain, ChainParts
from spen_jax.exact.algebras import Sum

BETAS = 0.1, 1.0, 10.0, np.inf
MASK = np.array(
    [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 0]], bool
)
KINDS = {"shared": (3, 3), "of_steps": (3, 3, 3), "each": (6, 3, 3, 3), "each_shares": (6, 1, 3, 3)}


def energy(unary, transitions, start, end, counts, y):
    """E of one example's labels at the places that count, by the sum as the docstring has it."""
    places = np.flatnonzero(counts)
    total = sum(unary[t, y[t]] for t in places)
    total += sum(transitions[t, y[t], y[t + 1]] for t in places if t + 1 in places)
    return total + (start[y[places[0]]] + end[y[places[-1]]] if len(places) else 0)


def problem(kind, dtype, scale=1.0, mask=MASK, **options):
    """Six examples of four places and three labels; the last one allows nothing, where it counts."""
    rng = np.random.default_rng(0)
    unary = random_energies(rng, (6, 4, 3), 0.1) * scale
    unary[5, 2] = np.inf
    transitions = random_energies(rng, KINDS[kind], 0.15) * scale
    start, end = rng.normal(size=3), rng.normal(size=(6, 3))
    full = np.broadcast_to(transitions, (6, 3, 3, 3))
    answers = []
    for e, counts in enumerate(np.ones((6, 4), bool) if mask is None else mask):
        found = []
        for labels in itertools.product(*(range(3) if c else [-1] for c in counts)):
            found.append((labels, energy(unary[e], full[e], start, end[e], counts, labels)))
        answers.append(listed(found, (4,)))
    arrays = [jnp.asarray(a, dtype) for a in (unary, transitions)]
    ends = {"start": jnp.asarray(start, dtype), "end": jnp.asarray(end, dtype)}
    return Chain(*arrays, **ends, mask=mask, **options), answers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "each"])
def test_every_answer_is_that_of_the_list_of_all(kind, x64):
    structure, answers = problem(kind, jnp.float64)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-10)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mask"), [("shared", MASK), ("each", None)])
def test_in_single_precision(kind, mask):
    structure, answers = problem(kind, jnp.float32, mask=mask)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-5)


@pytest.mark.slow
def test_where_products_of_exponentials_underflow(x64):
    for scale in (60, 3000):
        structure, answers = problem("shared", jnp.float64, scale)
        for beta in BETAS:
            check_every_answer(structure, answers, beta, 1e-9 * scale)


@pytest.mark.slow
def test_joined_in_pairs(x64):
    for scale in (1, 3000):
        structure, answers = problem("of_steps", jnp.float64, scale, in_pairs=True)
        for beta in BETAS[:3]:
            check_every_answer(structure, answers, beta, 1e-9 * scale)


@pytest.mark.slow
def test_samples_are_drawn_as_often_as_they_should():
    check_samples(*problem("each", jnp.float32), 0.7)


@pytest.mark.slow
def test_samples_where_energies_are_far_apart():
    structure, answers = problem("shared", jnp.float32, 300)
    check_samples(structure, answers, 0.01)


@jax.jit
def both_ways(chain):
    """F and its derivatives by messages and by the plain recursion in logarithms."""

    def total(parts, free):
        new = chain.replaced(**parts)
        value = free(new)
        return jnp.sum(value), value

    parts = {"unary": chain.unary, "transitions": chain.transitions}
    return [
        jax.value_and_grad(lambda p, f=f: total(p, f), has_aux=True)(parts)
        for f in (lambda c: c.free_energy(), lambda c: c.recursion(c.tables(), Sum()))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["near", "far", "forbidden", "path"])
def test_messages_have_the_precision_of_the_numbers(what, x64):
    """float32 against the plain recursion in float64; `path` has energies that a first label makes up for far later."""
    rng = np.random.default_rng(2)
    unary, transitions = rng.normal(size=(3, 50, 4)), rng.normal(size=(4, 4))
    if what == "far":
        transitions = transitions * 2000
    if what == "forbidden":
        unary, transitions = unary * 5, np.where(np.eye(4)[::-1] > 0, np.inf, transitions)
    if what == "path":
        # Nobody leaves a label; the worst one at first is the best one in the end.
        transitions = np.where(np.eye(4) > 0, 0, np.inf)
        unary[:, 0, 3], unary[:, 1:, :3] = 200, 5
        unary[:, 1:, 3] = 0
    unary, transitions = (np.float32(a).astype(float) for a in (unary, transitions))
    single = both_ways(Chain(np.float32(unary), np.float32(transitions)))[0]
    exact = both_ways(Chain(unary, transitions))[1]
    for got, want in zip(jax.tree.leaves(single), jax.tree.leaves(exact), strict=True):
        # A number of size 4,000 has a last place of 2e-4.
        tolerance = 3e-4 if what == "far" else 2e-5
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_ten_thousand_steps_of_large_energies(x64):
    rng = np.random.default_rng(3)
    unary, transitions = (
        (100 * rng.normal(size=s)).astype(np.float32) for s in ((1, 10_000, 5), (5, 5))
    )
    single, double = (Chain(unary.astype(d), transitions.astype(d)) for d in (np.float32, float))
    np.testing.assert_allclose(single.free_energy(), double.free_energy(), rtol=1e-6)
    got, want = (
        jax.grad(lambda u, c=c: c.replaced(unary=u).free_energy()[0])(c.unary)
        for c in (single, double)
    )
    np.testing.assert_allclose(got, want, atol=2e-4)
    np.testing.assert_allclose(single.best().energy, double.best().energy, rtol=1e-6)


def test_a_batch_of_maps_is_a_batch():
    rng = np.random.default_rng(4)
    unary, transitions = (
        jnp.float32(rng.normal(size=(2, 3, 5, 4))),
        jnp.float32(rng.normal(size=(4, 4))),
    )
    together = jax.jit(lambda u: Chain(u, transitions).free_energy())(unary)
    each = jax.jit(jax.vmap(jax.vmap(lambda u: Chain(u, transitions).free_energy())))(unary)
    np.testing.assert_allclose(together, each, rtol=1e-6)
    assert (
        "select_n"
        not in str(
            jax.make_jaxpr(jax.vmap(lambda u: Chain(u, transitions).free_energy()))(unary[0])
        )
        .split("cond")[-1]
        .split("branches")[0]
    )


def test_lengths_are_masks():
    rng = np.random.default_rng(5)
    unary, lengths = jnp.float32(rng.normal(size=(3, 4, 2))), jnp.array([4, 0, 2])
    a, b = Chain(unary, lengths=lengths), Chain(unary, mask=jnp.arange(4)[None] < lengths[:, None])
    np.testing.assert_array_equal(a.best().y, b.best().y)
    assert a.free_energy()[1] == 0 and (a.best().y[1] == -1).all()


@pytest.mark.slow
def test_without_transitions_labels_are_independent():
    rng = np.random.default_rng(6)
    unary = jnp.float32(rng.normal(size=(2, 5, 3)))
    chain, zeros = Chain(unary), Chain(unary, jnp.zeros((3, 3)))
    np.testing.assert_allclose(chain.marginals().nodes, jax.nn.softmax(-unary), rtol=1e-5)
    np.testing.assert_allclose(chain.free_energy(), zeros.free_energy(), rtol=1e-6)
    np.testing.assert_array_equal(chain.best().y, jnp.argmin(unary, -1))


def test_one_nan_spoils_one_example():
    rng = np.random.default_rng(7)
    unary = jnp.float32(rng.normal(size=(3, 4, 3)))
    transitions = jnp.float32(rng.normal(size=(3, 3)))
    free = Chain(unary, transitions).free_energy()
    spoilt = Chain(unary.at[1, 2, 0].set(jnp.nan), transitions)
    found = spoilt.free_energy()
    assert jnp.isnan(found[1]) and jnp.isnan(spoilt.best().energy[1])
    np.testing.assert_allclose(found[jnp.array([0, 2])], free[jnp.array([0, 2])], rtol=1e-6)


@pytest.mark.slow
def test_marginals_are_distributions_and_pairs_fit_them():
    structure, _ = problem("of_steps", jnp.float32, mask=None)
    found = structure.marginals(0.5)
    assert isinstance(found, ChainParts)
    np.testing.assert_allclose(found.edges[:5].sum(-1), found.nodes[:5, :-1], atol=1e-6)
    np.testing.assert_allclose(found.edges[:5].sum(-2), found.nodes[:5, 1:], atol=1e-6)
    assert not jax.tree.reduce(
        lambda a, b: a or b.any(), jax.tree.map(lambda a: a[5], found), False
    )


@pytest.mark.slow
def test_the_mean_answer_is_the_marginals():
    structure, _ = problem("shared", jnp.float32)
    free, mean = structure.mean(2.0)
    np.testing.assert_allclose(mean, structure.marginals(2.0).nodes, atol=1e-6)
    np.testing.assert_allclose(free, structure.free_energy(2.0), rtol=1e-6)


def test_what_does_not_fit_is_refused():
    unary = np.zeros((2, 4, 3))
    for make, message in (
        (lambda: Chain(np.zeros(3)), "unary must have the last axes"),
        (lambda: Chain(unary, np.zeros((2, 2))), r"transitions must have the last axes \(3, 3\)"),
        (lambda: Chain(unary, np.zeros((2, 3, 3))), "transitions must be"),
        (lambda: Chain(unary, np.zeros((5, 3, 3, 3))), "transitions must be"),
        (lambda: Chain(unary, start=np.zeros(2)), "start must be of shape"),
        (lambda: Chain(unary, mask=np.ones((2, 3), bool)), "mask must be booleans"),
        (lambda: Chain(unary, mask=np.ones((2, 4))), "mask must be booleans"),
        (lambda: Chain(unary, lengths=[5, 0]), "from 0 to 4"),
        (lambda: Chain(unary, lengths=[-1, 0]), "from 0 to 4"),
        (lambda: Chain(unary, lengths=[1, 1], mask=np.ones((2, 4), bool)), "not both"),
        (lambda: Chain(unary).energy(np.zeros((3, 4), int)), "y must be answers"),
        (lambda: Chain(np.zeros((0, 3))), "a place and a label"),
        (lambda: Chain(unary, start=np.zeros((7, 3))), "start must be of shape"),
        (lambda: Chain(unary).free_energy(-1), "beta"),
        (lambda: Chain(unary).free_energy([1, 2]), "one number"),
        (lambda: Chain(unary).entropy(np.inf), "finite beta"),
        (lambda: Chain(unary).k_best(0), "k must be"),
        (lambda: Chain(unary + 1j), "unary"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
