import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from problems import assert_trees_close

from spen_jax.domains import Simplex
from spen_jax.energies import softplus
from spen_jax.inference import (
    GradientDescent,
    MirrorDescent,
    OnLogits,
    minimize,
    over_examples,
    suits_last,
)

RNG = np.random.default_rng(0)
SHARED = {
    "W": RNG.normal(size=(3, 3)),
    "M": RNG.normal(size=(2, 4)),
    "T": RNG.normal(size=(2, 3, 4)),
    "b": RNG.normal(size=3),
    "s": np.float64(0.7),
    "on": np.array([True, False, True]),
    "yes": np.array(True),
}
# One example each: a vector, another, a matrix, a scalar, a flag, flags, a whole number
EXAMPLES = {
    "v": RNG.normal(size=(5, 3)),
    "u": RNG.normal(size=(5, 3)),
    "m": RNG.normal(size=(5, 4, 2)),
    "n": RNG.normal(size=(5, 4, 2)),
    "a": RNG.normal(size=5),
    "flag": RNG.random(5) < 0.5,
    "flags": RNG.random((5, 3)) < 0.5,
    "k": RNG.integers(0, 9, 5),
}


PLACES = np.array([[2, 0], [1, 2]])
DEAR = {"m.T @ n"}  # it can run so, but moving both sides costs more than all else gains


@jax.jit
def nested(x):
    return jnp.tanh(x) * 2


# name -> (shared p, example e) -> anything; the operations that suit the examples' standing last
SUITED = {
    "an outer product": lambda p, e: jnp.einsum("i,j->ij", e["v"], e["u"]),
    "the sum of an outer product": lambda p, e: jnp.sum(
        p["W"] * jnp.einsum("i,j->ij", e["v"], e["v"])
    ),
    "a constant derivative added to that of a scalar": lambda p, e: jax.grad(
        lambda a: a + jnp.sin(a)
    )(e["a"]),
    "W @ v": lambda p, e: p["W"] @ e["v"],
    "v @ W": lambda p, e: e["v"] @ p["W"],
    "v @ W @ v": lambda p, e: e["v"] @ p["W"] @ e["v"],
    "v @ u": lambda p, e: e["v"] @ e["u"],
    "b @ v": lambda p, e: p["b"] @ e["v"],
    "M @ m": lambda p, e: p["M"] @ e["m"],
    "m @ M": lambda p, e: e["m"] @ p["M"],
    "m.T @ n": lambda p, e: e["m"].T @ e["n"],
    "tensor": lambda p, e: jnp.einsum("ijk,kl->lji", p["T"], e["m"]),
    "tensor right": lambda p, e: jnp.einsum("kl,ijk->ijl", e["m"], p["T"]),
    "two contractions": lambda p, e: jnp.einsum("ijk,ki->j", p["T"], e["m"]),
    "bias": lambda p, e: p["W"] @ e["v"] + p["b"],
    "shared outer": lambda p, e: jnp.einsum("i,j->ij", p["b"], e["v"]),
    "sum": lambda p, e: (e["m"].sum(), e["m"].sum(0), e["m"].sum(1), e["m"].sum((0, 1))),
    "max, min, prod": lambda p, e: (e["m"].max(1), e["m"].min(0), e["m"].prod(0)),
    "all, any": lambda p, e: (e["flags"].all(), e["flags"].any()),
    "reshape": lambda p, e: (e["m"].reshape(8), e["m"].reshape(2, 2, 2), e["m"].ravel()),
    "transpose": lambda p, e: (e["m"].T, jnp.transpose(e["m"].reshape(2, 2, 2), (2, 0, 1))),
    "squeeze": lambda p, e: jnp.squeeze(e["m"].reshape(4, 1, 2, 1), (1, 3)),
    "broadcast": lambda p, e: e["v"][None, :] + p["b"][:, None] + jnp.broadcast_to(e["a"], (3, 3)),
    "where, flags of the example": lambda p, e: jnp.where(e["flags"], e["v"], p["b"]),
    "where, a flag of the example": lambda p, e: jnp.where(e["flag"], e["v"], p["b"]),
    "where, shared flags": lambda p, e: jnp.where(p["on"], e["v"], 0.0),
    "where, a shared flag": lambda p, e: jnp.where(p["yes"], p["b"], e["v"]),
    "select, a flag": lambda p, e: lax.select(e["flag"], p["b"], p["b"] + 1),
    "clip": lambda p, e: (jnp.clip(e["v"], -0.5, 0.5), lax.clamp(e["a"], p["b"], p["s"])),
    "clamp by a scalar": lambda p, e: lax.clamp(-1.0, e["m"], e["a"] + 2),
    "powers": lambda p, e: (e["v"] ** 2, e["v"] ** 3, jnp.abs(e["v"]) ** p["s"]),
    "nested jit": lambda p, e: nested(e["v"]) + nested(p["b"]),
    "relu": lambda p, e: jax.nn.relu(e["v"]),
    "softplus": lambda p, e: softplus(p["W"] @ e["v"]).sum(),
    "softmax": lambda p, e: jax.nn.softmax(e["m"], axis=0),
    "logsumexp": lambda p, e: jax.nn.logsumexp(e["m"]),
    "scalars times vectors": lambda p, e: e["a"] * e["v"] * p["s"],
    "shared only": lambda p, e: (p["W"] @ p["b"], p["s"], p["on"], jnp.ones(2)),
    "whole and boolean": lambda p, e: (e["k"] + 1, e["v"] > p["b"], ~e["flag"], e["k"] % 3 == 0),
    "slices": lambda p, e: (e["m"][1:, 0], e["m"][::2], e["v"][::-1], e["m"][-1]),
    "pad": lambda p, e: lax.pad(e["m"], 0.5, ((1, 0, 2), (-1, 3, 0))),
    "concatenate": lambda p, e: jnp.concatenate([e["m"], p["M"].T, e["n"]], axis=1),
    "tile": lambda p, e: (jnp.tile(e["m"], (2, 3)), jnp.tile(e["v"], 2)),
    "log2, tanh's derivative": lambda p, e: (jnp.log2(e["v"] ** 2), jax.grad(jnp.tanh)(e["a"])),
    "reduced precision": lambda p, e: lax.reduce_precision(e["v"], 5, 10),
    "stack": lambda p, e: (jnp.stack([e["v"], p["b"]], axis=1), jnp.stack([e["a"], e["a"]])),
    "parts": lambda p, e: (jnp.split(e["m"], (1, 3)), [*e["m"]]),
    "largest": lambda p, e: (jnp.argmax(e["m"], axis=1), jnp.argmin(e["m"], axis=0)),
    "gather": lambda p, e: (e["v"][PLACES], e["m"][PLACES, 1], e["m"][:, PLACES % 2]),
    "scatter": lambda p, e: jax.grad(lambda m: jnp.sum(jnp.sin(m[PLACES, PLACES % 2])))(e["m"]),
    "scatter into shared": lambda p, e: jnp.asarray(p["b"]).at[PLACES].add(e["v"][0]),
    "as it is": lambda p, e: e,
    "gradient": lambda p, e: jax.grad(lambda v: jnp.sum(softplus(p["W"] @ v)) + v @ e["u"])(e["v"]),
    "closed over": lambda p, e: jnp.asarray(SHARED["b"]) * e["v"],
}


@pytest.fixture(scope="module")
def both_ways():
    """Name -> (with the examples last, with them first, by vmap), of one compilation."""

    def all_of_them(shared, inward, examples):
        ways = {}
        for name, function in SUITED.items():
            last = over_examples(function, shared, inward, last=True)
            first = over_examples(function, shared, examples, last=False)
            ways[name] = last, first, jax.vmap(function, (None, 0))(shared, examples)
        return ways

    with jax.enable_x64(True):
        inward = jax.tree.map(lambda a: np.moveaxis(a, 0, -1), EXAMPLES)
        return jax.tree.map(np.asarray, jax.jit(all_of_them)(SHARED, inward, EXAMPLES))


@pytest.mark.parametrize("name", SUITED, ids=lambda n: n.replace(" ", "_"))
def test_with_the_examples_last_a_function_gives_what_vmap_gives(name, both_ways, x64):
    one = jax.tree.map(lambda a: a[0], EXAMPLES)
    assert suits_last(SUITED[name], SHARED, one) == (name not in DEAR)
    last, first, want = both_ways[name]
    assert_trees_close(first, want, rtol=1e-12, atol=1e-12)
    moved = jax.tree.map(lambda a: np.moveaxis(a, -1, 0), last)
    assert_trees_close(moved, want, rtol=1e-12, atol=1e-12)
    assert jax.tree.map(lambda a: a.dtype, last) == jax.tree.map(lambda a: a.dtype, want)


@jax.custom_vjp
def own_rule(x):
    return jnp.sin(x)


own_rule.defvjp(lambda x: (own_rule(x), x), lambda x, g: (2 * g,))


@pytest.mark.parametrize(
    "of_shared",
    [
        jnp.sort,
        own_rule,
        jax.jit(own_rule),
        jax.checkpoint(jnp.cos),
        lambda p: lax.scan(lambda c, v: (c + v, c), 0.0, p)[1],
        lambda p: lax.cond(p[0] > 0, jnp.sin, jnp.cos, p),
        lambda p: lax.while_loop(lambda c: c[0] < 9, lambda c: c + 1, p),
        lambda p: jnp.linalg.solve(2 * jnp.eye(3), p),
        lambda p: p * jax.random.normal(jax.random.key(0), (3,)),
    ],
)
def test_what_no_example_has_a_part_in_may_be_anything(of_shared):
    def function(p, e):
        return jnp.tanh(e * of_shared(p))

    p, e = jnp.array([0.3, 0.1, 0.7]), jnp.asarray(EXAMPLES["v"], jnp.float32)
    assert suits_last(function, p, e[0])
    last = over_examples(function, p, e.T, last=True)
    np.testing.assert_allclose(last.T, jax.vmap(function, (None, 0))(p, e), rtol=1e-5)


UNSUITED = {
    "sort": lambda p, y: jnp.sort(y),
    "cumsum": lambda p, y: jnp.cumsum(y),
    "gather": lambda p, y: y[jnp.argmax(y)],
    "scan": lambda p, y: lax.scan(lambda c, v: (c + v, v), 0.0, y),
    "while": lambda p, y: lax.while_loop(lambda c: c[0] < 3, lambda c: c + 1, y),
    "conv": lambda p, y: jnp.convolve(y, p),
    "cond": lambda p, y: lax.cond(y[0] > 0, jnp.sin, jnp.cos, y),
    "batched product": lambda p, y: jnp.einsum("i,i->i", p, y),
    "indices of the example": lambda p, y: p[jnp.argsort(y)],
    "a padding of the example": lambda p, y: lax.pad(p, y[0], ((1, 1, 0),)),
    "sort within jit": lambda p, y: jax.jit(jnp.sort)(y),
}


@pytest.mark.parametrize("name", UNSUITED, ids=lambda n: n.replace(" ", "_"))
def test_operations_without_a_form_with_the_examples_last_do_not_suit(name):
    y = jnp.linspace(-1, 1, 3)
    suits = suits_last(UNSUITED[name], y + 1, y)
    products = "dot_general" in str(jax.make_jaxpr(UNSUITED[name])(y + 1, y))
    assert not suits or (name == "batched product" and not products)


# Both ways through an inference


def network(params, context, y):
    """Smooth and convex enough: a quadratic, a matrix on either side, softplus and a scalar used twice."""
    hidden = softplus(params["W"] @ y + params["b"])
    return jnp.sum((y - context["c"]) ** 2) + 0.3 * hidden @ params["W"] @ y * context["scale"]


def with_sort(params, context, y):
    return network(params, context, y) + 0 * jnp.sort(y).sum()


def examples(batch, labels=3):
    rng = np.random.default_rng(batch)
    context = {"c": rng.random((batch, labels)), "scale": rng.random(batch)}
    return context, jnp.asarray(rng.dirichlet(np.ones(labels), batch))


PARAMS = {"W": SHARED["W"], "b": SHARED["b"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver, stop_early",
    [
        (GradientDescent(0.1, momentum=0.5), False),
        (MirrorDescent(), True),
        (OnLogits(GradientDescent(0.5, nesterov=True)), False),
    ],
    ids=["descent", "mirror", "logits"],
)
def test_a_large_batch_gives_what_single_examples_give(solver, stop_early, x64):
    context, start = examples(70)
    options = {"solver": solver, "steps": 20, "tolerance": 0.1, "stop_early": stop_early}

    def solve(energy, context, start):
        return minimize(energy, PARAMS, context, start, trace=["y", "energy"], **options)

    together = solve(network, context, start)
    sorted_too = solve(with_sort, context, start)
    one = jax.tree.map(lambda a: jnp.asarray(a)[:, None], (context, start))
    alone = lax.map(lambda example: solve(network, *example), one)
    alone = jax.tree.map(lambda a: a[:, 0], alone)
    assert_trees_close(together, alone, rtol=1e-9, atol=1e-12)
    assert_trees_close(sorted_too, alone, rtol=1e-9, atol=1e-12)
    if stop_early:
        assert len(set(together.steps.tolist())) > 1


def test_products_that_each_example_brings_both_sides_of_decide_by_their_size():
    def quadratic(params, A, y):
        return y @ A @ y + params @ y

    def attention(params, x, y):
        return jnp.sum(jax.nn.softmax(y @ y.T) @ y * x)

    def small(params, A, y):  # the same beside much that gains
        return quadratic(params, A, y) + jnp.sum(softplus(jnp.sin(y[:, None] * jnp.ones((1, 99)))))

    for energy, context, y, suits in (
        (quadratic, np.ones((50, 50)), np.ones(50), False),
        (quadratic, np.ones((200, 200)), np.ones(200), False),
        (small, np.ones((3, 3)), np.ones(3), True),
        (attention, np.ones((16, 8)), np.ones((16, 8)), True),
    ):
        step = jax.grad(lambda y, c, p, e=energy: e(p, c, y))
        example = y.astype("float32"), context.astype("float32")
        assert suits_last(lambda p, e, s=step: s(*e, p), np.ones(len(y)), example) == suits


def test_the_two_ways_are_really_taken():
    context, start = jax.tree.map(lambda a: jnp.asarray(a[0], jnp.float32), examples(2))
    for energy, suits in [(network, True), (with_sort, False)]:
        step = jax.grad(lambda y, e=energy: e(PARAMS, context, y))
        assert suits_last(lambda _, y, s=step: s(y), None, start) == suits


def test_a_simplex_which_sorts_gives_the_same_in_a_large_batch(x64):
    context, start = examples(70)
    options = {"domain": Simplex(), "solver": GradientDescent(0.1), "steps": 10}
    together = minimize(network, PARAMS, context, start, **options)
    few = jax.tree.map(lambda a: a[:7], (context, start))
    alone = minimize(network, PARAMS, *few, **options)
    np.testing.assert_allclose(together.y[:7], alone.y, atol=1e-12)


@jax.custom_jvp
def crooked(x):
    """x^2, with 3 as its derivative."""
    return x**2


@crooked.defjvp
def _(primals, tangents):
    return crooked(*primals), 3 * tangents[0]


def crooked_energy(params, context, y):
    return jnp.sum((y - context) ** 2) + crooked(params) * jnp.sum(y)


def crooked_and_sorted(params, context, y):
    return crooked_energy(params, context, y) + 0 * jnp.sort(y).sum()


@pytest.mark.parametrize("energy", [crooked_energy, crooked_and_sorted])
@pytest.mark.parametrize("batch, stop_early", [(3, False), (70, False), (70, True)])
def test_a_derivative_rule_of_its_own_is_honoured(energy, stop_early, batch, x64):
    def total(params):
        found = minimize(
            energy,
            params,
            np.full((batch, 2), 0.9),
            jnp.full((batch, 2), 0.5),
            solver=GradientDescent(0.2, momentum=0.0),
            steps=100,
            tolerance=1e-9,
            stop_early=stop_early,
        )
        return found.energy.sum()

    # y = 0.9 - 0.5^2 / 2, twice in each example
    np.testing.assert_allclose(jax.grad(total)(0.5), 3 * 2 * 0.775 * batch)


def test_a_derivative_rule_in_y_is_honoured_with_the_examples_last(x64):
    """Descent with the gradient 3 of `crooked` in y: from 0.9 by 0.1 * 3 a step."""

    def energy(params, context, y):
        return jnp.sum(crooked(y))

    for batch in 3, 70:
        start = jnp.full((batch, 2), 0.9)
        found = minimize(
            energy, None, None, start, solver=GradientDescent(0.1, momentum=0.0), steps=2
        )
        np.testing.assert_allclose(found.y, 0.3)
        np.testing.assert_allclose(found.energy, 2 * 0.09)
        np.testing.assert_allclose(found.residual, 0.3)


def test_a_reshape_in_another_order_and_a_wider_product_are_not_confused():
    def reordered(params, context, y):
        return jnp.sum((y.reshape(2, 3).reshape(-1, order="F") - context) ** 2)

    def wider(params, context, y):
        half = y.astype(jnp.bfloat16)
        numbers = ((0,), (0,)), ((), ())
        total = lax.dot_general(half, half, numbers, preferred_element_type=jnp.float32)
        return total - jnp.sum(context * y)

    want = np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    context, start = np.tile(want, (70, 1)), jnp.full((70, 6), 0.5)
    found = minimize(reordered, None, context, start, solver=GradientDescent(0.3, 0.0))
    np.testing.assert_allclose(found.y, np.tile(want[[0, 2, 4, 1, 3, 5]], (70, 1)), atol=1e-5)
    found = minimize(wider, None, context, start, solver=GradientDescent(0.3, 0.0))
    np.testing.assert_allclose(found.y, context / 2, atol=0.01)
