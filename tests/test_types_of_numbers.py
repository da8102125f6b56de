"""Domains and costs in every type of floats: right to its last places, of its type, with finite gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import domains, losses
from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex
from spen_jax.losses import OutsideBall

pytestmark = pytest.mark.long

WIDE, ORTHANT, BALL, OUTSIDE = Box(-1.0, 3.0), Box(0, np.inf), L2Ball(0.7), OutsideBall(0.7)
DOMAINS = [Reals(), Box(), WIDE, ORTHANT, Simplex(), BALL, OUTSIDE]
COSTS = [
    losses.squared_error,
    losses.hamming,
    losses.soft_f1_error,
    losses.soft_iou_error,
    losses.cross_entropy,
    losses.categorical_cross_entropy,
]
RNG = np.random.default_rng(0)
POINTS = np.concatenate([1.5 * RNG.normal(size=(6, 4)), np.eye(4)])
INSIDE, CORNERS = RNG.dirichlet(np.ones(4), 10), np.eye(4)[RNG.integers(0, 4, 10)]
TRUTH = np.roll(CORNERS, 1, axis=1)


def of_points(domain):
    found = {"project": domain.project}
    if domain.has_logits:
        found |= {"round": domain.round, "from_logits": domain.from_logits}
    if domain.has_logits or domain == BALL:
        found["corner"] = domain.corner
    if isinstance(domain, Box):
        found["reflect"] = domain.reflect
    return found


def of_pairs(domain):
    """Functions of (u, t), a point inside the unit box and a truth, of one example."""
    found = {"loss of scores": lambda u, t: domain.loss_of_scores(4 * u, t)}
    if domain.has_logits:
        low, width = (domain.lower, domain.upper - domain.lower) if domain == WIDE else (0, 1)
        found |= {
            "loss": lambda u, t: domain.loss(low + width * u, t),
            "to_logits": lambda u, t: domain.to_logits(low + width * u),
            "entropy": lambda u, t: domain.entropy(low + width * u),
        }
    return found


@jax.jit
def answers(points, u, truth):
    """What all functions make of rows of one type, with the gradient in u."""
    each = {f.__name__: f for f in COSTS}
    each |= {f.__name__: lambda u, t, f=f: f(u) for f in (domains.entropy, domains.binary_entropy)}
    each |= {f"{d} {name}": f for d in DOMAINS for name, f in of_pairs(d).items()}

    def with_slope(f, u, t):
        value, back = jax.vjp(lambda u: f(u, t), u)
        return value, back(jnp.ones_like(value))[0]

    found = {
        name: jax.vmap(lambda u, t, f=f: with_slope(f, u, t))(u, truth) for name, f in each.items()
    }
    of_points_too = {f"{d} {name}": f(points) for d in DOMAINS for name, f in of_points(d).items()}
    return found | of_points_too


TYPES = [
    (np.float32, False),
    (np.float64, False),
    (np.float32, True),
    (np.float16, False),
    (jnp.bfloat16, False),
]


@pytest.mark.parametrize("dtype, x64", TYPES)
def test_all_functions_are_right_to_the_last_places_of_their_type_and_keep_it(dtype, x64):
    rows = [a.astype(dtype) for a in (POINTS, INSIDE, TRUTH)]
    with jax.enable_x64(True):
        want = answers(*map(np.float64, rows))
    with jax.enable_x64(x64):
        got = answers(*rows)
        result = jnp.result_type(rows[0])  # JAX rounds NumPy's float64 where its 64-bit mode is off
    eps = float(jnp.finfo(result).eps)
    for name in want:
        for found, exact in zip(*map(jax.tree.leaves, (got[name], want[name])), strict=True):
            assert found.dtype == result, name
            near = {"rtol": 8 * eps, "atol": 8 * eps, "err_msg": name}
            np.testing.assert_allclose(np.float64(found), exact, **near)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32])
def test_corners_and_the_smallest_numbers_have_finite_values_and_gradients(dtype):
    smallest = np.float64(jnp.finfo(dtype).smallest_subnormal)
    for u in CORNERS, np.maximum(CORNERS, smallest), np.maximum(CORNERS, 2e-6), 0 * CORNERS:
        for name, found in answers(*(a.astype(dtype) for a in (POINTS, u, TRUTH))).items():
            for leaf in jax.tree.leaves(found):
                assert np.isfinite(np.float64(leaf)).all(), name


def test_logits_of_halves_are_those_of_points_moved_inside_by_what_their_type_can_hold():
    for dtype, floor in (np.float16, 2.0**-14), (jnp.bfloat16, 1e-6):
        ends = np.array([0, 1]).astype(dtype)
        most = np.log(floor) - np.log1p(-floor)
        np.testing.assert_allclose(np.float64(Box().to_logits(ends)), [most, -most], rtol=4e-3)
        logits = np.float64(Simplex().to_logits(ends))
        np.testing.assert_allclose(logits, [np.log(floor), 0], rtol=4e-3)
        loss = losses.cross_entropy(ends, ends[::-1])
        np.testing.assert_allclose(
            float(loss), -2 * np.log(max(1e-7, floor * (floor > 1e-6))), rtol=4e-3
        )


def test_whole_numbers_and_booleans_are_read_as_floats():
    functions = Simplex().project, Simplex().round, BALL.project, WIDE.round, WIDE.reflect
    of_y = jax.jit(lambda y: [f(y) for f in functions])
    y = np.array([[2, 0], [-1, 1]])
    jax.tree.map(np.testing.assert_array_equal, of_y(y), of_y(np.float32(y)))
    costs = jax.jit(lambda y, truth: [cost(y, truth) for cost in COSTS])
    y, truth = np.array([[1, 0], [1, 1]])
    want = costs(np.float32(y), np.float32(truth))
    for dtype in bool, np.uint8:
        got = costs(y.astype(dtype), truth.astype(dtype))
        jax.tree.map(np.testing.assert_array_equal, got, want)
        assert {a.dtype for a in got} == {np.dtype(np.float32)}
    # A truth of whole numbers leaves the type to y.
    for dtype in np.float16, jnp.bfloat16:
        for truth in np.array([True, False]), np.array([1, 0]):
            cost = jax.eval_shape(losses.hamming, np.array([1, 0], dtype), truth)
            assert cost.dtype == dtype


def test_sums_over_nothing_are_zero_and_batches_of_nothing_stay_empty():
    nothing = np.zeros((3, 0), np.float32)
    costs = jax.jit(lambda y: [cost(y, y) for cost in COSTS])
    assert not np.any(costs(nothing))
    empty = jnp.zeros((0, 4))
    assert {a.shape for a in jax.eval_shape(jax.vmap(costs), empty)} == {(0,)}
    for domain in DOMAINS:
        for name, f in of_points(domain).items():
            assert jax.eval_shape(f, empty).shape == (0, 4), (domain, name)
            if domain not in (Simplex(), OUTSIDE):
                assert jax.eval_shape(f, nothing).shape == (3, 0), (domain, name)
    with pytest.raises(ValueError, match=r"Simplex needs y of shape \(..., K\), K at least 1"):
        Simplex().project(nothing)


def test_a_product_keeps_the_type_of_each_leaf():
    product = Product({"a": Box(), "b": Simplex()})
    y = {"a": np.array([2.0], np.float16), "b": np.array([0.5, 1.5], np.float32)}
    for method in "project", "round", "from_logits", "to_logits", "corner", "link":
        found = jax.eval_shape(getattr(product, method), y)
        assert (found["a"].dtype, found["b"].dtype) == (np.float16, np.float32), method


# Huge and tiny points.


@jax.jit
def of_sizes(y):
    functions = BALL.project, OUTSIDE.project, BALL.corner
    return [f(y) for f in functions] + [jax.vmap(jax.jacobian(f))(y) for f in functions[:2]]


def test_vectors_of_any_size_are_projected_with_the_derivative_of_a_sphere():
    direction = np.float32([0.6, -0.8, 0.0])
    sizes = np.float32([1e-30, 1e-3, 1.0, 1e18, 1e30, 3e38])
    inner, outer, corner, slopes, outer_slopes = of_sizes(sizes[:, None] * direction)
    lengths = np.float64(sizes)[:, None]
    np.testing.assert_allclose(inner, np.minimum(lengths, 0.7) * direction, rtol=1e-6)
    np.testing.assert_allclose(outer, np.maximum(lengths, 0.7) * direction, rtol=3e-6)
    np.testing.assert_allclose(corner, np.tile(-0.7 * direction, (6, 1)), rtol=1e-6)
    along = np.eye(3) - np.outer(direction, direction)
    for size, slope, outer_slope in zip(sizes, slopes, outer_slopes, strict=True):
        moved, kept = 0.7 / np.float64(size) * along, np.eye(3)
        near = {"rtol": 1e-5, "atol": 1e-6 * max(1e-32, np.abs(moved).max())}
        np.testing.assert_allclose(slope, kept if size < 0.7 else moved, **near)
        np.testing.assert_allclose(outer_slope, moved if size < 0.7 else kept, **near)


def test_projections_of_what_is_no_number_are_none():
    y = np.float32([[np.nan, 1, 0], [1, 0, 0]])
    for domain in Simplex(), BALL, OUTSIDE, Box(), Reals():
        found = np.asarray(jax.jit(domain.project)(y))
        assert np.isnan(found[0, 0]) and np.isfinite(found[1]).all()


UNREAL = [np.array(["a"]), np.ones(1) * 1j, np.ones(1, object), np.ones(1, "M8[s]"), np.ma.ones(1)]
CALLS = {
    "y": [f for d in DOMAINS for f in (d.project, d.outside)]
    + [domains.entropy, domains.binary_entropy, Box().to_logits, Simplex().to_logits, WIDE.entropy]
    + [lambda a, f=f: f(a, np.ones(1)) for f in (*COSTS, Box().loss, Simplex().loss, BALL.loss)],
    "truth": [lambda a, f=f: f(np.ones(1), a) for f in (*COSTS, Box().loss, Simplex().loss)],
    "scores": [d.link for d in DOMAINS]
    + [lambda a, d=d: d.loss_of_scores(a, np.ones(1)) for d in DOMAINS],
    "logits": [Box().from_logits, Simplex().from_logits],
    "gradient": [d.corner for d in (Box(), Simplex(), BALL)],
    "mask": [lambda a: domains.counting(a, np.ones(1))],
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_real_number_is_refused_by_the_name_of_the_argument(name):
    for call in CALLS[name]:
        for array in UNREAL:
            with pytest.raises(ValueError, match=f"^{name} must "):
                call(array)
