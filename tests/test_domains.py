import math

import jax
import numpy as np
import pytest
import scipy.stats
from problems import assert_trees_close

from spen_jax.domains import (
    Box,
    Domain,
    L2Ball,
    Product,
    Reals,
    Simplex,
    binary_entropy,
    entropy,
)

BOXES = [Box(), Box(-1.0, 3.0)]


@pytest.mark.parametrize("box", BOXES)
def test_project_gives_the_nearest_point_of_the_box_and_itself_inside(box):
    grid = np.linspace(box.lower, box.upper, 401)
    points = np.linspace(box.lower - 2, box.upper + 2, 37)
    nearest = grid[np.argmin(np.abs(grid - points[:, None]), axis=1)]
    projected = box.project(np.float32(points))
    np.testing.assert_allclose(projected, nearest, atol=(box.upper - box.lower) / 800)
    np.testing.assert_array_equal(box.project(projected), projected)
    assert projected.min() == box.lower and projected.max() == box.upper


@pytest.mark.parametrize("box, centre", [(BOXES[0], 0.5), (BOXES[1], 1.0)])
def test_initial_is_the_centre(box, centre):
    np.testing.assert_array_equal(box.initial((2, 3)), np.full((2, 3), centre, np.float32))


@pytest.mark.parametrize("box", BOXES)
def test_random_points_fill_the_box_evenly_and_follow_the_key(box):
    points = box.random(jax.random.key(0), (4000,))
    assert box.lower <= points.min() and points.max() <= box.upper
    quartiles = box.lower + (box.upper - box.lower) * np.array([0.25, 0.5, 0.75])
    # Four standard errors of a quartile of 4000 uniform numbers are 0.03 of the width.
    np.testing.assert_allclose(
        np.quantile(points, [0.25, 0.5, 0.75]), quartiles, atol=0.03 * (box.upper - box.lower)
    )
    np.testing.assert_array_equal(points, box.random(jax.random.key(0), (4000,)))
    assert not np.array_equal(points, box.random(jax.random.key(1), (4000,)))


@pytest.mark.parametrize("box", BOXES)
def test_round_gives_the_nearest_corner_and_the_upper_bound_at_the_centre(box):
    width = box.upper - box.lower
    y = np.float32(box.lower + width * np.array([-1, 0, 0.49, 0.5, 0.51, 1, 2]))
    expected = np.where([0, 0, 0, 1, 1, 1, 1], box.upper, box.lower)
    np.testing.assert_array_equal(box.round(y), expected.astype(np.float32))


@pytest.mark.parametrize("lower, upper", [(1.0, 0.0), (0.5, 0.5), (0.0, float("nan"))])
def test_a_box_without_an_inside_is_refused(lower, upper):
    with pytest.raises(ValueError, match=f"lower < upper, got lower={lower} and upper={upper}"):
        Box(lower, upper)


def test_equal_boxes_are_equal_settings():
    assert Box() == Box(0.0, 1.0) and hash(Box()) == hash(Box(0.0, 1.0))


# The domains beside the box


def slow_simplex_projection(y):
    """max(y - t, 0) with the t at which it sums to 1, by bisection."""
    low, high = y.min(-1, keepdims=True) - 1, y.max(-1, keepdims=True)
    for _ in range(80):
        middle = (low + high) / 2
        above = np.maximum(y - middle, 0).sum(-1, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.maximum(y - low, 0)


def slow_ball_projection(y):
    norm = np.linalg.norm(y, axis=-1, keepdims=True)
    return np.where(norm > 0.7, 0.7 * y / np.maximum(norm, 1e-300), y)


PAIR = Product({"a": Box(-1, 3), "b": (Simplex(), L2Ball(0.7))})
ORTHANT, BELOW = Box(0, math.inf), Box(-math.inf, 1)
SLOW = [
    (Reals(), lambda y: y),
    (Box(-1, 3), lambda y: np.minimum(np.maximum(y, -1), 3)),
    (ORTHANT, lambda y: np.maximum(y, 0)),
    (BELOW, lambda y: np.minimum(y, 1)),
    (Simplex(), slow_simplex_projection),
    (L2Ball(0.7), slow_ball_projection),
]
POINTS = 2 * np.random.default_rng(0).normal(size=(20, 2, 4))
POINTS[0, 0], POINTS[0, 1] = 0, [0.1, 0.2, 0.3, 0.4]  # the origin, and a point of the simplex


@pytest.mark.parametrize(
    "domain, slow", SLOW, ids=lambda v: str(v) if isinstance(v, Domain) else ""
)
def test_projections_are_the_nearest_points_on_each_row_and_never_part_two_points(
    domain, slow, x64
):
    projected = np.asarray(domain.project(POINTS))
    np.testing.assert_allclose(projected, slow(POINTS), atol=1e-12)
    np.testing.assert_allclose(domain.project(projected), projected, atol=1e-15)

    def apart(points):
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    before, after = apart(POINTS.reshape(-1, 4)), apart(projected.reshape(-1, 4))
    assert np.all(after <= before + 1e-12)


@pytest.mark.parametrize("domain", [Simplex(), L2Ball(0.7), Box(-1, 3), Reals()], ids=str)
def test_middles_and_random_points_are_inside_and_follow_the_key(domain, x64):
    shape = (500, 3, 4)
    points = domain.random(jax.random.key(0), shape)
    for inside in points, domain.initial(shape):
        assert inside.shape == shape
        np.testing.assert_allclose(domain.project(inside), inside, atol=1e-12)
    np.testing.assert_array_equal(points, domain.random(jax.random.key(0), shape))
    assert not np.array_equal(points, domain.random(jax.random.key(1), shape))
    # 1500 points of a deviation up to 1.2: three standard errors of their mean are 0.09.
    np.testing.assert_allclose(points.mean((0, 1)), domain.initial((4,)), atol=0.09)
    # Uniform over 4 values E y^2 = 2 / (4 * 5); in a ball of 4 dimensions P(|y| < r / 2) = 2^-4.
    if isinstance(domain, Simplex):
        np.testing.assert_allclose((points**2).mean(), 0.1, atol=0.008)
    if isinstance(domain, L2Ball):
        assert abs(np.mean(np.linalg.norm(points, axis=-1) < 0.35) - 1 / 16) < 0.025


def test_rounding_gives_the_nearest_corner_of_the_simplex_and_leaves_the_rest():
    y = np.float32([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    np.testing.assert_array_equal(Simplex().round(y), [[0, 1, 0], [1, 0, 0]])
    assert Simplex().round(y).dtype == np.float32
    for domain in Reals(), L2Ball():
        np.testing.assert_array_equal(domain.round(y), y)


@pytest.mark.parametrize("domain", [Box(), Box(-1, 3), Simplex()], ids=str)
def test_logits_and_points_are_each_others_inverse(domain, x64):
    y = domain.random(jax.random.key(0), (50, 4))
    np.testing.assert_allclose(domain.from_logits(domain.to_logits(y)), y, atol=1e-12)
    logits = np.random.default_rng(0).normal(size=(50, 4))
    back = np.asarray(domain.to_logits(domain.from_logits(logits)))
    free = logits.mean(-1, keepdims=True) if isinstance(domain, Simplex) else 0
    np.testing.assert_allclose(
        back - (back.mean(-1, keepdims=True) if isinstance(domain, Simplex) else 0), logits - free
    )


@pytest.mark.parametrize("domain", [Box(), Box(-1, 3), Simplex()], ids=str)
def test_logits_of_corners_are_finite_and_a_millionth_inside(domain, x64):
    corners = domain.corner(np.random.default_rng(0).normal(size=(9, 4)))
    logits = domain.to_logits(corners)
    assert np.isfinite(logits).all()
    width = 4 if domain == Box(-1, 3) else 1
    moved = np.abs(domain.from_logits(logits) - corners)
    assert 0 < moved.max() < 4.1e-6 * width


def test_entropies_are_those_of_scipy(x64):
    y = np.random.default_rng(0).dirichlet(np.ones(4), (5, 2))
    each = [scipy.stats.entropy(rows, axis=-1).sum() for rows in y]
    np.testing.assert_allclose([Simplex().entropy(rows) for rows in y], each)
    np.testing.assert_allclose(entropy(y), scipy.stats.entropy(y, axis=-1))
    binary = scipy.stats.entropy(np.stack([y, 1 - y]), axis=0)
    np.testing.assert_allclose(binary_entropy(y), binary.sum(-1))
    np.testing.assert_allclose([Box().entropy(rows) for rows in y], binary.sum((1, 2)))
    np.testing.assert_allclose([Box(-1, 3).entropy(4 * r - 1) for r in y], 4 * binary.sum((1, 2)))


def test_the_gradient_of_the_entropy_is_minus_the_logit_up_to_the_corners(x64):
    u = np.random.default_rng(0).dirichlet(np.ones(4))
    for box in Box(), Box(-1, 3):
        gradient = jax.grad(box.entropy)(box.lower + (box.upper - box.lower) * u)
        np.testing.assert_allclose(gradient, -np.log(u / (1 - u)))
        ends = jax.grad(box.entropy)(np.array([box.lower, box.upper], float))
        np.testing.assert_allclose(ends, [np.log(1e7), -np.log(1e7)], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(Simplex().entropy)(u), -np.log(u) - 1)
    corner = np.array([1.0, 0, 0])
    assert Simplex().entropy(corner) == Box().entropy(corner) == 0
    floor = np.log(1e7) - 1
    np.testing.assert_allclose(jax.grad(Simplex().entropy)(corner), [-1, floor, floor])


def test_corners_minimise_by_enumeration(x64):
    gradients = np.random.default_rng(0).normal(size=(6, 3))
    for box in BOXES:
        ends = np.stack(np.meshgrid(*[[box.lower, box.upper]] * 3), -1).reshape(-1, 3)
        best = ends[np.argmin(gradients @ ends.T, axis=1)]
        np.testing.assert_array_equal(box.corner(gradients), best)
    best = np.eye(3)[np.argmin(gradients, axis=1)]
    np.testing.assert_array_equal(Simplex().corner(gradients), best)
    best = -0.7 * gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    np.testing.assert_allclose(L2Ball(0.7).corner(gradients), best)
    np.testing.assert_array_equal(L2Ball().corner(np.zeros(3)), np.zeros(3))


def slow_reflection(domain, y):
    while not domain.lower <= y <= domain.upper:
        y = 2 * (domain.lower if y < domain.lower else domain.upper) - y
    return y


@pytest.mark.parametrize("box", [*BOXES, ORTHANT, BELOW, Box(-math.inf, math.inf)], ids=str)
def test_reflections_equal_a_slow_loop(box, x64):
    y = np.random.default_rng(0).uniform(-9, 9, 100)
    np.testing.assert_allclose(box.reflect(y), [slow_reflection(box, v) for v in y], atol=1e-12)
    np.testing.assert_array_equal(Reals().reflect(y), y)


def test_a_product_asks_each_part(x64):
    rng = np.random.default_rng(0)
    y = {"a": rng.normal(size=(2,)), "b": (rng.normal(size=3), rng.normal(size=4))}
    shape = {"a": (2,), "b": ((3,), (4,))}
    box, (simplex, ball) = Box(-1, 3), (Simplex(), L2Ball(0.7))

    def parts(method, tree):
        each = [getattr(d, method) for d in (box, simplex, ball)]
        return {
            "a": each[0](tree["a"]),
            "b": (each[1](tree["b"][0]), each[2](tree["b"][1])),
        }

    PAIR.check(y)
    for method, tree in [("project", y), ("round", y), ("corner", y), ("initial", shape)]:
        assert_trees_close(getattr(PAIR, method)(tree), parts(method, tree))
    random = PAIR.random(jax.random.key(0), shape)
    assert_trees_close(PAIR.project(random), random, atol=1e-12)

    smooth = Product((Box(-1, 3), Simplex()))
    inside = smooth.random(jax.random.key(0), ((2,), (3,)))
    total = Box(-1, 3).entropy(inside[0]) + Simplex().entropy(inside[1])
    np.testing.assert_allclose(smooth.entropy(inside), total)
    assert_trees_close(smooth.from_logits(smooth.to_logits(inside)), inside, atol=1e-12)
    folded = Product([Box(), Reals()]).reflect([np.array([1.25]), np.array([7.0])])
    assert_trees_close(folded, [np.array([0.75]), np.array([7.0])])
    assert PAIR == Product({"a": Box(-1, 3), "b": (Simplex(), L2Ball(0.7))})
    assert hash(PAIR) == hash(Product({"a": Box(-1, 3), "b": (Simplex(), L2Ball(0.7))}))
    assert "Simplex()" in repr(PAIR)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Reals().to_logits(1.0), r"Reals\(\) has no logits; a Box with two finite bounds"),
        (lambda: L2Ball().from_logits(1.0), "has no logits"),
        (lambda: Reals().entropy(1.0), "has no entropy"),
        (lambda: Reals().corner(1.0), "no bounds on all sides"),
        (lambda: Simplex().reflect(1.0), "cannot reflect; Reals and a Box can"),
        (lambda: ORTHANT.initial((2,)), "the centre needs a Box with two finite bounds, got Box"),
        (lambda: ORTHANT.random(jax.random.key(0), (2,)), "two finite bounds"),
        (lambda: ORTHANT.round(np.ones(2)), "two finite bounds"),
        (lambda: BELOW.to_logits(np.ones(2)), "two finite bounds"),
        (lambda: BELOW.entropy(np.ones(2)), "two finite bounds"),
        (lambda: BELOW.corner(np.ones(2)), "two finite bounds"),
        (lambda: Box().check({"a": np.ones(2)}), "one array for each example.* Product makes"),
        (lambda: PAIR.check({"a": np.ones(2)}), "needs y to be the tree"),
        (lambda: PAIR.check({"a": np.ones(2), "b": (np.ones(()), np.ones(2))}), "got a scalar"),
        (lambda: Simplex().check(np.ones(())), r"Simplex needs y of shape .* got a scalar"),
        (lambda: L2Ball().check(np.ones(())), r"L2Ball needs y of shape .* got a scalar"),
        (lambda: L2Ball(0.0), "finite radius > 0, got 0.0; else use Reals"),
        (lambda: L2Ball(math.inf), "finite radius > 0, got inf"),
        (lambda: Product({"a": Box}), "tree of domains, got the leaf <class"),
    ],
)
def test_what_a_domain_cannot_do_it_says(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_products_may_be_nested():
    Product({"a": Product({"b": Box()})}).check({"a": {"b": np.ones(2)}})


def test_rounding_in_a_box_keeps_the_type(x64):
    assert Box().round(np.float32([0.2, 0.7])).dtype == np.float32


@pytest.mark.parametrize(
    "domain",
    [
        Box(),
        L2Ball(),
        Simplex(),
    ],
    ids=str,
)
def test_projecting_keeps_the_type(domain, x64):
    assert domain.project(np.float32([0.2, 0.7])).dtype == np.float32
