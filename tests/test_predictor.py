"""A Predictor: how an answer is found, said once; starts, what is known, batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import best_on_faces, counting, coupled, positive_definite, quadratic

from spen_jax import Predictor
from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex
from spen_jax.inference import (
    FrankWolfe,
    GradientDescent,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
    minimize,
)

RNG = np.random.default_rng(0)
A = positive_definite(4).astype(np.float32)
B = RNG.normal(size=(6, 4)).astype(np.float32)
MASK = RNG.random((6, 4)) < 0.5
KNOWN = (RNG.random((6, 4)) < 0.5).astype(np.float32)


def best_given(mask, known, b, lower=0.0, upper=1.0):
    """argmin of the coupled quadratic with the masked coordinates fixed, by enumerating faces."""
    free = ~mask
    y = known.astype(float)
    if free.any():
        linear = (b - A @ np.where(mask, known, 0))[free]
        y[free] = best_on_faces(A[np.ix_(free, free)].astype(float), linear, lower, upper)
    return y


@pytest.mark.slow
@pytest.mark.parametrize(
    "domain, solver, stop_early, atol",
    [
        (Box(), MirrorDescent(), True, 2e-3),
        (Box(), GradientDescent(0.2, 0.5), False, 1e-5),
        (Box(), LineSearch(), False, 1e-5),
        (Box(), FrankWolfe(), True, 2e-2),
        (Box(), OnLogits(GradientDescent(0.5, 0.5)), False, 2e-2),
        (Box(), Optax(optax.adam(0.05)), False, 1e-3),
        (Reals(), GradientDescent(0.2, 0.5), True, 1e-5),
    ],
    ids=["mirror", "heavy ball", "line search", "frank-wolfe", "logits", "adam", "reals"],
)
def test_what_is_known_stands_still_and_the_rest_is_the_best_given_it(
    domain, solver, stop_early, atol
):
    bounds = (domain.lower, domain.upper) if isinstance(domain, Box) else (-np.inf, np.inf)
    predictor = Predictor(
        coupled,
        shape=(4,),
        domain=domain,
        solver=solver,
        steps=800,
        stop_early=stop_early,
        tolerance=1e-6,
        trace="y",
    )
    found = predictor({"A": A}, B, known=(MASK, KNOWN))
    want = [best_given(m, k, b, *bounds) for m, k, b in zip(MASK, KNOWN, B, strict=True)]
    held = np.broadcast_to(MASK[:, None], found.trace["y"].shape)
    path = np.where(held, found.trace["y"], KNOWN[:, None])
    np.testing.assert_array_equal(path, np.broadcast_to(KNOWN[:, None], path.shape))
    np.testing.assert_allclose(found.y, want, atol=atol)


def test_known_rows_of_simplices_stand_still_and_may_be_anything_where_they_are_not_known():
    def energy(params, context, y):  # (2, 3): rows that agree are low
        return -context @ y.ravel() - 2 * y[0] @ y[1]

    b = RNG.normal(size=(5, 6)).astype(np.float32)
    mask = np.tile([True, False], (5, 1))
    rows = np.full((5, 2, 3), np.nan, np.float32)
    rows[:, 0] = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, 5)]
    predictor = Predictor(energy, shape=(2, 3), domain=Simplex(), steps=60)
    found = predictor(None, b, known=(mask, rows))
    np.testing.assert_array_equal(found.y[:, 0], rows[:, 0])
    # Linear in the other row: all of it on its largest score.
    want = np.eye(3)[np.argmax(b[:, 3:] + 2 * rows[:, 0], axis=1)]
    np.testing.assert_allclose(found.y[:, 1], want, atol=1e-2)
    assert np.isfinite(found.energy).all()
    with pytest.raises(
        ValueError, match=r"leading axes of its parts, \(5, 2\), got bool \(5, 2, 3\)"
    ):
        predictor(None, b, known=(mask[..., None] & (rows > 0), rows))


def test_parts_of_a_tree_are_known_each_by_itself():
    def energy(params, context, y):
        return jnp.sum((y["a"] - 0.3) ** 2) - y["b"] @ context

    domain = Product({"a": Box(), "b": Simplex()})
    mask = {"a": np.array([[True, False]] * 3), "b": np.array([False, True, True])}
    known = {"a": np.full((3, 2), 0.9), "b": np.tile([1.0, 0, 0], (3, 1))}
    predictor = Predictor(
        energy,
        domain=domain,
        solver=GradientDescent(0.2, 0.0),
        steps=60,
        start={"a": jnp.full((1, 2), 0.5), "b": jnp.full((1, 3), 1 / 3)},
    )
    found = predictor(None, np.tile(np.float32([0, 0, 3]), (3, 1)), known=(mask, known))
    np.testing.assert_allclose(found.y["a"], [[0.9, 0.3]] * 3, atol=1e-4)
    np.testing.assert_allclose(found.y["b"], [[0, 0, 1], [1, 0, 0], [1, 0, 0]], atol=1e-6)


def test_given_what_is_known_the_implicit_derivative_is_that_of_the_rest(x64):
    predictor = Predictor(
        coupled,
        shape=(4,),
        solver=GradientDescent(0.2, 0.5),
        steps=300,
        differentiate="implicit",
        domain=Reals(),
    )

    def total(b):
        return predictor({"A": A}, b, known=(MASK, KNOWN)).y.sum()

    got = jax.grad(total)(B.astype(float))
    for i, mask in enumerate(MASK):
        free = ~mask
        want = np.zeros(4)
        want[free] = np.linalg.solve(A[np.ix_(free, free)], np.ones(free.sum()))
        np.testing.assert_allclose(got[i], want, atol=1e-4)


# Where inference starts


def lands(start, shape=None, domain=Box(), x=B, **call):
    """The first points, read after no step at all."""
    predictor = Predictor(quadratic, start=start, shape=shape, domain=domain, steps=0, trace="y")
    return np.asarray(predictor({"A": A}, x, **call).y)


@pytest.mark.slow
def test_a_start_is_a_number_an_array_or_a_function_of_the_context_here_and_in_minimize():
    own = RNG.random((6, 4)).astype(np.float32)
    starts = {
        "a number": (0.25, np.full((6, 4), 0.25)),
        "the middle": (None, np.full((6, 4), 0.5)),
        "one for all": (jnp.asarray(own[:1]), np.tile(own[:1], (6, 1))),
        "one for each": (jnp.asarray(own), own),
        "a function": (jax.nn.sigmoid, 1 / (1 + np.exp(-B))),
        "with the domain": (lambda h, domain: domain.link(h), 1 / (1 + np.exp(-B))),
    }
    options = {"solver": MirrorDescent(), "steps": 0, "shape": (4,)}
    for name, (start, want) in starts.items():
        np.testing.assert_allclose(lands(start, (4,)), want, rtol=1e-5, err_msg=name)
        found = minimize(quadratic, {"A": A}, B, start, **options)
        np.testing.assert_allclose(found.y, want, rtol=1e-5, err_msg=name)


def test_a_start_that_draws_is_handed_the_key():
    def drawn(context, key):
        return jax.random.uniform(key, context.shape)

    key = jax.random.key(3)
    want = jax.random.uniform(jax.random.fold_in(key, 0), (4, 4))
    np.testing.assert_allclose(lands(drawn, x=B[:4], key=key), want, rtol=1e-5)
    assert np.any(lands(drawn, key=key) != lands(drawn, key=jax.random.key(4)))


def test_a_number_needs_a_shape():
    with pytest.raises(ValueError, match=r"shape=\(L,\)"):
        lands(0.5)


# Settings


def test_the_default_solver_is_mirror_descent_where_there_are_logits():
    for domain in (Box(), Simplex(), Product({"a": Box(), "b": Simplex()})):
        assert isinstance(Predictor(coupled, domain=domain).solver, MirrorDescent)
    for domain in (Reals(), L2Ball(), Box(0, float("inf")), Product([Box(), Reals()])):
        assert isinstance(Predictor(coupled, domain=domain).solver, GradientDescent)


def test_settings_learned_or_given_are_those_of_minimize():
    sizes = np.linspace(0.05, 0.4, 12).astype(np.float32)
    want = minimize(
        coupled,
        {"A": A},
        B,
        0.5,
        shape=(4,),
        solver=MirrorDescent(),
        steps=12,
        settings={"step_size": sizes},
        temperature=0.3,
    )
    params = {"A": A, "sizes": sizes, "t": np.float32(0.3)}
    given = Predictor(coupled, shape=(4,), steps=12, settings={"step_size": sizes}, temperature=0.3)
    learned = dataclasses.replace(
        given, settings=lambda p: {"step_size": p["sizes"]}, temperature=lambda p: p["t"]
    )
    for predictor in (given, learned):
        found = predictor(params, B)
        np.testing.assert_allclose(found.y, want.y, rtol=1e-6)
        np.testing.assert_allclose(found.energy, want.energy, rtol=1e-5)


def test_features_see_the_batch_and_the_mask_where_they_ask():
    def features(params, x, key=None, mask=None):
        assert key is None
        return {"h": x @ params["W"], "on": mask}

    def energy(params, context, y):
        return jnp.sum(context["on"] * (y - context["h"]) ** 2)

    params = {"W": np.eye(4, dtype=np.float32) * 0.1 + 0.5}
    x = np.abs(B) / 10
    options = {"start": 0.25, "shape": (4,), "solver": GradientDescent(0.3, 0.0), "steps": 60}
    predictor = Predictor(energy, features, **options)
    found = predictor(params, x, mask=MASK)
    want = np.where(MASK, np.clip(x @ params["W"], 0, 1), 0.25)
    np.testing.assert_allclose(found.y, want, atol=1e-5)
    predictor = Predictor(energy, features, domain=Box(0, 2), **options)
    energies = predictor.energies(params, x, found.y + 1, mask=MASK)
    np.testing.assert_allclose(energies, MASK.sum(1), rtol=1e-3)


# Batches


@pytest.mark.slow
def test_any_number_of_rows_gives_each_row_its_own_answer_through_few_compiled_sizes():
    energy, traces = counting(coupled)
    predictor = Predictor(energy, shape=(4,), batch_size=16, steps=5, trace="energy")
    x = RNG.normal(size=(53, 4)).astype(np.float32)
    whole = minimize(
        coupled, {"A": A}, x, 0.5, shape=(4,), solver=MirrorDescent(), steps=5, trace="energy"
    )
    for n in (53, 37, 16, 3, 1):
        found = predictor({"A": A}, x[:n])
        np.testing.assert_allclose(found.y, whole.y[:n], rtol=1e-5)
        np.testing.assert_allclose(found.trace["energy"], whole.trace["energy"][:n], rtol=1e-4)
        assert found.residual.shape == found.steps.shape == (n,)
    once = len(traces)
    again = Predictor(energy, shape=(4,), batch_size=16, steps=5, trace=["energy"])
    for n in (50, 40, 4):  # whole batches of 16, and rests of 8, 4 and 2
        again({"A": 2 * A}, x[:n])
    per_size = once / 5  # 16, 8, 4 (rest 5 -> 8), 4 (3), 1
    assert len(traces) - once <= 2 * per_size


@pytest.mark.slow
def test_a_predictor_works_within_jit_and_vmap_and_has_derivatives():
    predictor = Predictor(coupled, shape=(4,), steps=5, batch_size=4, differentiate="unrolled")
    eager = predictor({"A": A}, B)
    inside = jax.jit(lambda a, x: predictor({"A": a}, x).y)(A, B)
    np.testing.assert_allclose(inside, eager.y, rtol=1e-5)
    outside, traced = (
        jax.grad(lambda a, f=f: f(lambda x: predictor({"A": a}, x).y)(B).sum())(A)
        for f in (lambda g: g, jax.jit)
    )
    np.testing.assert_allclose(outside, traced, rtol=1e-4)


@pytest.mark.slow
def test_within_a_program_a_constant_x_of_any_length_is_one_batch():
    predictor = Predictor(coupled, start=0.5, shape=(4,), steps=3)
    x = np.tile(B, (2, 1))[:9]
    want = predictor({"A": A}, x).y
    np.testing.assert_allclose(jax.jit(lambda: predictor({"A": A}, x).y)(), want, rtol=1e-5)
    masks = np.zeros((2, 9, 4), bool)
    values = np.zeros((9, 4), np.float32)

    def with_mask(mask):
        return predictor({"A": A}, x, known=(mask, values)).y

    np.testing.assert_allclose(jax.vmap(with_mask)(masks)[1], want, rtol=1e-5)
    inside = jax.jit(lambda mask: predictor.energies({"A": A}, x, np.asarray(want), mask=mask))
    assert inside(~masks[0]).shape == (9,)
    drawn = Predictor(coupled, start=lambda x, key: jax.random.uniform(key, (len(x), 4)), steps=3)
    keys = jax.random.split(jax.random.key(0), 2)
    assert jax.vmap(lambda key: drawn({"A": A}, x, key=key).y)(keys).shape == (2, 9, 4)
    learned = Predictor(coupled, shape=(4,), steps=3, settings=lambda p: {"step_size": p["s"]})
    slope = jax.grad(lambda s: jnp.sum(learned({"A": A, "s": s}, x).energy))(0.3)
    assert np.isfinite(slope)


def test_a_predictor_keeps_its_own_settings_and_start():
    settings, start = {"step_size": 0.1}, np.zeros((1, 4), np.float32)
    predictor = Predictor(coupled, settings=settings, start=start)
    settings["step_size"], start[:] = 0.9, 1
    assert predictor.settings == {"step_size": 0.1} and not predictor.start.any()


def test_energies_are_those_of_the_answers():
    predictor = Predictor(coupled, shape=(4,), steps=5, batch_size=4, temperature=0.5)
    found = predictor({"A": A}, B)
    want = [y @ A @ y / 2 - b @ y for b, y in zip(B, np.asarray(found.y), strict=True)]
    np.testing.assert_allclose(predictor.energies({"A": A}, B, found.y), want, rtol=1e-5)


def test_what_is_no_predictor_says_so():
    with pytest.raises(ValueError, match="Predictor needs an energy, a function"):
        Predictor("energy")
    with pytest.raises(ValueError, match="batch_size must be a whole number, 1 or more, got 0"):
        Predictor(coupled, batch_size=0)
    with pytest.raises(ValueError, match="x must hold an array"):
        Predictor(coupled, shape=(4,))({"A": A}, None)


def test_arrays_of_another_length_are_refused_and_not_repeated():
    predictor = Predictor(coupled, shape=(4,))
    for call in (
        lambda: predictor.energies({"A": A}, B[:5], KNOWN[:2]),
        lambda: predictor({"A": A}, B[:5], known=(MASK[:2], KNOWN[:2])),
        lambda: dataclasses.replace(predictor, start=jnp.ones((3, 4)))({"A": A}, B[:5]),
    ):
        with pytest.raises(ValueError, match="leading axis of 5 examples"):
            call()


def test_numbers_out_of_range_are_refused_where_they_are_known():
    for option, message in (
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"settings": {"step_size": -1.0}}, "needs step_size > 0"),
        ({"domain": "box"}, "domain must be one of"),
        ({"shape": {"a": (3,)}}, "give start as a tree"),
    ):
        with pytest.raises(ValueError, match=message):
            Predictor(coupled, **({"shape": (4,)} | option))({"A": A}, B)
    with pytest.raises(ValueError, match="the mask of known must be booleans"):
        Predictor(coupled, shape=(4,))({"A": A}, B, known=(KNOWN, MASK.astype(float)))
    assert lands(jnp.asarray(0.25), (4,)).max() == 0.25


def test_what_a_function_has_bound_is_not_overridden_by_nothing():
    def scaled(context, key=None, scale=1.0):
        assert key == "mine"
        return scale * jax.nn.sigmoid(context)

    start = functools.partial(scaled, key="mine", scale=0.5)
    np.testing.assert_allclose(lands(start), 0.5 / (1 + np.exp(-B)), rtol=1e-5)


def test_a_start_that_draws_asks_for_a_key():
    draws = Predictor(
        lambda params, x, y: jnp.sum((y - x) ** 2),
        start=lambda context, key: jax.random.uniform(key, context.shape),
    )
    with pytest.raises(ValueError, match="give one, such as predictor"):
        draws(None, jnp.zeros((3, 2)))
    assert draws(None, jnp.zeros((3, 2)), key=jax.random.key(0)).y.shape == (3, 2)
