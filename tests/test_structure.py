"""What all structures share: beta, empty batches, comparisons, halves, derivatives of what was found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax.exact import (
    Alignment,
    Chain,
    ConstituencyTree,
    DependencyTree,
    Segments,
    structures,
)

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.float32(RNG.normal(size=shape))


def some(batch):
    """One of each kind, with all that it takes but lengths."""
    return {
        "chain": Chain(normal(*batch, 4, 3), normal(3, 3), start=normal(3), end=normal(*batch, 3)),
        "segments": Segments(normal(*batch, 4, 2, 2), normal(2, 2)),
        "alignment": Alignment(normal(*batch, 3, 4), normal(3)),
        "trees": DependencyTree(normal(*batch, 3, 4)),
        "projective": DependencyTree(normal(*batch, 3, 4), projective=True, one_root=False),
        "constituents": ConstituencyTree(normal(*batch, 4, 4, 2)),
    }


each = pytest.mark.parametrize("kind", list(some(())))


@pytest.mark.long
@each
def test_a_learned_beta_has_a_derivative(kind, x64):
    structure = jax.tree.map(lambda a: a.astype(float), some(())[kind])

    def asked(beta):
        free, mean = structure.mean(beta)
        found = structure.free_energy(beta), structure.entropy(beta), free, jnp.sum(mean**2)
        return jnp.stack(found)

    forward, reverse = (jax.jit(f(asked))(1.3) for f in (jax.jacfwd, jax.jacrev))
    by_difference = (asked(1.3 + 1e-5) - asked(1.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(forward, by_difference, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(reverse, forward, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n"),
    list(zip(some(()), (3**4, 2**4 + 3 * 2**3 + 2**2, 25, 3**2, 12, 5 * 2**7), strict=True)),
)
def test_at_beta_0_all_structures_are_alike(kind, n):
    structure = some(())[kind]
    np.testing.assert_allclose(structure.entropy(0.0), np.log(n), rtol=1e-5)
    best = structure.best().y
    np.testing.assert_allclose(structure.log_probability(best, 0.0), -np.log(n), rtol=1e-5)
    assert structure.kl(structure, 0.0) == 0


@pytest.mark.long
@each
def test_a_batch_of_no_examples_has_answers_of_none(kind):
    structure, one = (some(batch)[kind] for batch in ((0,), (1,)))

    def asked(s):
        return (
            *(
                s.free_energy(),
                s.marginals(),
                s.best(),
                s.k_best(2),
                s.mean(),
                s.entropy(),
                s.kl(s),
            ),
            *(s.sample(jax.random.key(0), 2), s.log_probability(s.best().y)),
        )

    for none, some_one in zip(*map(jax.tree.leaves, (asked(structure), asked(one))), strict=True):
        assert none.shape == (0, *some_one.shape[1:]) and none.dtype == some_one.dtype


@pytest.mark.slow
@each
def test_energies_of_what_was_found_have_derivatives(kind):
    structure = some((2,))[kind]
    first = structure.arrays[0]

    def energies(values):
        new = structure.replaced(**{first: values})
        return jnp.sum(new.k_best(2).energy[:, 1]) + jnp.sum(new.best().energy)

    want = structure.one_hot(structure.k_best(2).y).sum(1)
    found = jax.grad(energies)(getattr(structure, first))
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_halves_are_computed_in_single_precision():
    """In half precision exp(-28) is 0, and so is what the messages ask a state to keep."""
    unary = np.zeros((1, 4, 3), np.float16)
    unary[0, 0, 1:], unary[0, 1:, 0] = 25, 100
    transitions = np.where(np.eye(3) > 0, 0, 28).astype(np.float16)
    single = Chain(unary.astype(np.float32), transitions.astype(np.float32)).free_energy()
    half = Chain(unary, transitions).free_energy()
    assert half.dtype == jnp.float32 and np.isfinite(half).all()
    np.testing.assert_allclose(half, single, rtol=1e-6)


@pytest.mark.long
@pytest.mark.slow
def test_divergences_between_chains_of_any_kinds_are_those_of_equal_ones():
    unary, other = normal(2, 4, 3), normal(2, 4, 3)
    tables = {
        "none": None,
        "shared": normal(3, 3),
        "steps": normal(3, 3, 3),
        "each": normal(2, 3, 3, 3),
    }

    def whole(table):
        return jnp.broadcast_to(jnp.zeros((3, 3)) if table is None else table, (2, 3, 3, 3))

    for p in tables.values():
        for q in tables.values():
            got = Chain(unary, p).kl(Chain(other, q))
            np.testing.assert_allclose(
                got, Chain(unary, whole(p)).kl(Chain(other, whole(q))), rtol=1e-4, atol=1e-5
            )


@pytest.mark.slow
def test_what_another_mask_or_length_does_not_allow_is_infinitely_far():
    unary, arcs, cells = normal(2, 4, 3), normal(2, 3, 4), normal(2, 4, 3)
    first, second = jnp.array([2, 3]), jnp.array([3, 3])
    for make in (
        lambda n: Chain(unary, lengths=n),
        lambda n: DependencyTree(arcs, lengths=n),
        lambda n: Segments(unary[:, :, None], lengths=n),
        lambda n: Alignment(cells, lengths=(n, jnp.array([3, 2]))),
        lambda n: ConstituencyTree(normal(2, 4, 4, 1), lengths=n),
    ):
        np.testing.assert_array_equal(make(first).kl(make(second))[0], jnp.inf)
        assert np.isfinite(make(first).kl(make(first))).all()


@pytest.mark.slow
def test_what_cannot_be_compared_or_is_no_answer_is_refused():
    chain, arcs = Chain(normal(2, 4, 3)), normal(2, 3, 4)
    for make, message in (
        (lambda: chain.kl(3), "another Chain"),
        (lambda: chain.kl(Chain(normal(2, 5, 3))), "equal shape"),
        (lambda: chain.kl(Chain(normal(4, 3))), "equal shape"),
        (
            lambda: DependencyTree(arcs).kl(DependencyTree(arcs, projective=True)),
            "equal settings",
        ),
        (lambda: chain.energy(np.zeros((2, 1), int)), "answers of shape"),
        (lambda: chain.energy(np.zeros((2, 4, 1))), "answers of shape"),
        (lambda: chain.log_probability(np.zeros((2, 4), int), np.inf), "finite beta"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    np.testing.assert_array_equal(
        chain.energy(np.ones((2, 4), bool)), chain.energy(np.ones((2, 4), int))
    )


@pytest.mark.slow
def test_what_does_not_depend_on_the_context_is_shared_where_it_can_be():
    table, x = normal(3, 3), normal(5, 4, 3)

    def nested(params, context):
        return jax.jit(lambda p, c: Chain(c, p, lengths=jnp.array(2)))(params, context)

    def turned(params, context):
        return Chain(jnp.ones((4, 3)), params * context.sum())

    def aligned(params, context):
        return Alignment(context, params)

    moves = normal(4, 3, 3)
    assert structures(nested, table, x).transitions.shape == (1, 3, 3)
    assert structures(aligned, moves, x).moves.shape == (4, 3, 3)
    for function, params in ((nested, table), (turned, table), (aligned, moves)):
        together = structures(function, params, x).free_energy()
        alone = [function(params, one).free_energy() for one in x]
        np.testing.assert_allclose(together, alone, rtol=1e-5)
