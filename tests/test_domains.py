import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from spen_jax.domains import Box, L2Ball, Reals, Simplex, counting
from spen_jax.domains.simplex import FEW
from spen_jax.losses import OutsideBall, counted, cross_entropy

WIDE, ORTHANT, BELOW = Box(-1.0, 3.0), Box(0, math.inf), Box(-math.inf, 1)
BOXES = [Box(), WIDE]
RNG = np.random.default_rng(0)
POINTS = 2 * RNG.normal(size=(20, 2, 4))
POINTS[0, 0], POINTS[0, 1] = 0, [0.1, 0.2, 0.3, 0.4]  # the origin, and a point of the simplex
SCORES = RNG.normal(size=(3, 4))
MASK = np.array([True, False, True])


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


PROJECTIONS = {
    Reals(): lambda y: y,
    Box(): lambda y: np.minimum(np.maximum(y, 0), 1),
    WIDE: lambda y: np.minimum(np.maximum(y, -1), 3),
    ORTHANT: lambda y: np.maximum(y, 0),
    BELOW: lambda y: np.minimum(y, 1),
    Simplex(): slow_simplex_projection,
    L2Ball(0.7): slow_ball_projection,
}
every_domain = pytest.mark.parametrize("domain", PROJECTIONS, ids=str)
with_a_middle = pytest.mark.parametrize("domain", PROJECTIONS.keys() - {ORTHANT, BELOW}, ids=str)
with_logits = pytest.mark.parametrize("domain", [*BOXES, Simplex()], ids=str)


@lru_cache
def facts(domain):
    """What a domain makes of the same points, compiled once, in float64."""

    def of(points, scores, mask, keys):
        found = {"projected": domain.project(points), "link": domain.link(scores)}
        found["projected again"] = domain.project(found["projected"])
        found |= losses(domain, scores, mask)
        if domain not in (ORTHANT, BELOW):
            shape = (500, 3, 4)
            drawn = jax.vmap(lambda key: domain.random(key, shape))(keys)
            found |= {"random": drawn, "initial": domain.initial(shape)}
            found |= {"random, projected": domain.project(drawn[0])}
        if domain.has_logits:
            inside = found["random"][0, :20]
            corners = domain.corner(points)
            found |= {
                "corners": corners,
                "back": domain.from_logits(domain.to_logits(inside)),
                "logits": domain.to_logits(domain.from_logits(points)),
                "logits of corners": domain.to_logits(corners),
                "near corners": domain.from_logits(domain.to_logits(corners)),
                "entropies": jax.vmap(domain.entropy)(inside),
            }
        return found

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 2)[np.array([0, 1, 0])]
        return jax.tree.map(np.asarray, jax.jit(of)(POINTS, SCORES, MASK, keys))


def losses(domain, scores, mask):
    """Losses of y (3, 4) from scores, and those of the rows that count, with garbage in the others."""
    truth = domain.project(scores[:, ::-1])
    y = domain.link(scores)
    garbage = jnp.where(mask[:, None], 0, 7.0)
    return {
        "truth": truth,
        "loss": domain.loss(y, truth),
        "masked loss": domain.loss(y + garbage, truth - garbage, mask),
        "counted loss": counted(domain.loss)(y + garbage, truth - garbage, mask),
        "of scores": jax.value_and_grad(domain.loss_of_scores)(scores, truth),
        "masked of scores": jax.value_and_grad(domain.loss_of_scores)(
            scores + garbage, truth - garbage, mask
        ),
    }


@pytest.mark.slow
@every_domain
def test_projections_are_the_nearest_points_on_each_row_and_never_part_two_points(domain):
    projected = facts(domain)["projected"]
    np.testing.assert_allclose(projected, PROJECTIONS[domain](POINTS), atol=1e-12)
    np.testing.assert_allclose(facts(domain)["projected again"], projected, atol=1e-15)

    def apart(points):
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    before, after = apart(POINTS.reshape(-1, 4)), apart(projected.reshape(-1, 4))
    assert np.all(after <= before + 1e-12)


@with_a_middle
def test_middles_and_random_points_are_inside_and_follow_the_key(domain):
    points, other, again = facts(domain)["random"]
    middle = facts(domain)["initial"]
    np.testing.assert_allclose(facts(domain)["random, projected"], points, atol=1e-12)
    np.testing.assert_allclose(PROJECTIONS[domain](middle), middle, atol=1e-12)
    np.testing.assert_array_equal(points, again)
    assert points.shape == middle.shape == (500, 3, 4) and not np.array_equal(points, other)
    # 1500 points of a deviation up to 1.2: three standard errors of their mean are 0.09.
    np.testing.assert_allclose(points.mean((0, 1)), middle[0, 0], atol=0.09)
    # Uniform over 4 values E y^2 = 2 / (4 * 5); in a ball of 4 dimensions P(|y| < r / 2) = 2^-4.
    if isinstance(domain, Simplex):
        np.testing.assert_allclose((points**2).mean(), 0.1, atol=0.008)
    if isinstance(domain, L2Ball):
        assert abs(np.mean(np.linalg.norm(points, axis=-1) < 0.35) - 1 / 16) < 0.025
    if isinstance(domain, Box):
        quartiles = domain.lower + (domain.upper - domain.lower) * np.array([0.25, 0.5, 0.75])
        # Four standard errors of a quartile of 6000 uniform numbers are 0.026 of the width.
        np.testing.assert_allclose(
            np.quantile(points, [0.25, 0.5, 0.75]), quartiles, atol=0.026 * 4
        )
        assert domain.lower <= points.min() and points.max() <= domain.upper


@pytest.mark.parametrize(
    "domain, middle", [(Box(), 0.5), (WIDE, 1), (Simplex(), 0.25), (L2Ball(0.7), 0), (Reals(), 0)]
)
def test_the_middle_is_the_centre_or_the_uniform_distribution(domain, middle):
    np.testing.assert_array_equal(facts(domain)["initial"], np.full((500, 3, 4), middle))


def test_rounding_gives_the_nearest_corner_keeps_the_type_and_leaves_the_rest(x64):
    for box in BOXES:
        width = box.upper - box.lower
        y = np.float32(box.lower + width * np.array([-1, 0, 0.49, 0.5, 0.51, 1, 2]))
        expected = np.where([0, 0, 0, 1, 1, 1, 1], box.upper, box.lower)
        np.testing.assert_array_equal(box.round(y), expected, strict=False)
        assert box.round(y).dtype == np.float32
    y = np.float32([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    np.testing.assert_array_equal(Simplex().round(y), [[0, 1, 0], [1, 0, 0]])
    assert Simplex().round(y).dtype == np.float32
    for domain in Reals(), L2Ball():
        assert domain.round(y) is y


@every_domain
def test_projecting_keeps_the_type(domain, x64):
    y = jax.ShapeDtypeStruct((2, 4), np.float32)
    assert jax.eval_shape(domain.project, y) == y


@pytest.mark.parametrize("lower, upper", [(1.0, 0.0), (0.5, 0.5), (0.0, float("nan"))])
def test_a_box_without_an_inside_is_refused(lower, upper):
    with pytest.raises(ValueError, match=f"lower < upper, got lower={lower} and upper={upper}"):
        Box(lower, upper)


def test_equal_boxes_are_equal_settings():
    assert Box() == Box(0.0, 1.0) and hash(Box()) == hash(Box(0.0, 1.0))


# Logits, entropies, corners, reflections.


@with_logits
def test_logits_and_points_are_each_others_inverse(domain):
    found = facts(domain)
    np.testing.assert_allclose(found["back"], found["random"][0, :20], atol=1e-12)

    def comparable(logits):  # those of a simplex may be shifted
        return logits - (logits.mean(-1, keepdims=True) if domain == Simplex() else 0)

    np.testing.assert_allclose(comparable(found["logits"]), comparable(POINTS), atol=1e-5)


@with_logits
def test_logits_of_corners_are_finite_and_a_millionth_inside(domain):
    found = facts(domain)
    assert np.isfinite(found["logits of corners"]).all()
    width = 4 if domain == WIDE else 1
    moved = np.abs(found["near corners"] - found["corners"])
    assert 0 < moved.max() < 4.1e-6 * width


@with_logits
def test_the_entropy_is_that_of_the_parts_summed_times_the_width_of_a_box(domain):
    y = facts(domain)["random"][0, :20]
    if domain == Simplex():
        want = scipy.special.entr(y).sum((1, 2))
    else:
        width = domain.upper - domain.lower
        u = (y - domain.lower) / width
        want = width * scipy.special.entr([u, 1 - u]).sum((0, 2, 3))
    np.testing.assert_allclose(facts(domain)["entropies"], want)


def test_the_gradient_of_the_entropy_is_minus_the_logit_up_to_the_corners(x64):
    u = np.random.default_rng(0).dirichlet(np.ones(4))
    for box in BOXES:
        slopes = jax.jit(jax.grad(box.entropy))
        width = box.upper - box.lower
        np.testing.assert_allclose(slopes(box.lower + width * u), -np.log(u / (1 - u)))
        ends = slopes(box.lower + width * np.array([0.0, 1, 0, 1]))
        np.testing.assert_allclose(ends, np.log(1e7) * np.array([1, -1, 1, -1]), rtol=1e-6)
    value_and_slopes = jax.jit(jax.value_and_grad(Simplex().entropy))
    np.testing.assert_allclose(value_and_slopes(u)[1], -np.log(u) - 1)
    value, slopes = value_and_slopes(np.array([1.0, 0, 0, 0]))
    assert value == 0
    np.testing.assert_allclose(slopes, [-1, *[np.log(1e7) - 1] * 3])


def test_corners_minimise_by_enumeration(x64):
    gradients = np.random.default_rng(0).normal(size=(6, 3))
    for box in BOXES:
        ends = np.stack(np.meshgrid(*[[box.lower, box.upper]] * 3), -1).reshape(-1, 3)
        best = ends[np.argmin(gradients @ ends.T, axis=1)]
        np.testing.assert_array_equal(box.corner(gradients), best)
    best = np.eye(3)[np.argmin(gradients, axis=1)]
    np.testing.assert_array_equal(Simplex().corner(gradients), best)
    best = -0.7 * gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    corners = L2Ball(0.7).corner(np.concatenate([gradients, np.zeros((1, 3))]))
    np.testing.assert_allclose(corners, np.concatenate([best, np.zeros((1, 3))]))


def slow_reflection(domain, y):
    while not domain.lower <= y <= domain.upper:
        y = 2 * (domain.lower if y < domain.lower else domain.upper) - y
    return y


def test_reflections_equal_a_slow_loop(x64):
    y = np.random.default_rng(0).uniform(-9, 9, 100)
    boxes = [*BOXES, ORTHANT, BELOW, Box(-math.inf, math.inf)]
    found = jax.jit(lambda y: [box.reflect(y) for box in boxes])(y)
    for box, reflected in zip(boxes, found, strict=True):
        np.testing.assert_allclose(reflected, [slow_reflection(box, v) for v in y], atol=1e-12)
    assert Reals().reflect(y) is y


# What is natural in a domain: links, losses, parts.


def binary_cross_entropies(y, truth):
    return -scipy.special.xlogy(truth, y) - scipy.special.xlog1py(1 - truth, -y)


def natural(domain, y, truth):
    """The losses of each row of y (T, K)."""
    if domain == Simplex():
        return -scipy.special.xlogy(truth, y).sum(-1)
    if domain.has_logits:
        width = domain.upper - domain.lower
        inside = ((a - domain.lower) / width for a in (y, truth))
        return binary_cross_entropies(*inside).sum(-1)
    return ((y - truth) ** 2).sum(-1)


def slow_link(domain, scores):
    if domain == Simplex():
        return scipy.special.softmax(scores, axis=-1)
    if domain.has_logits:
        return domain.lower + (domain.upper - domain.lower) * scipy.special.expit(scores)
    return PROJECTIONS[domain](scores)


@every_domain
def test_a_link_is_the_sigmoid_the_softmax_or_the_projection(domain):
    np.testing.assert_allclose(facts(domain)["link"], slow_link(domain, SCORES))


@every_domain
def test_a_loss_sums_cross_entropies_or_squares_over_the_parts_that_count(domain):
    found = facts(domain)
    each = natural(domain, slow_link(domain, SCORES), found["truth"])
    np.testing.assert_allclose(found["loss"], each.sum())
    for name in "masked loss", "counted loss":
        np.testing.assert_allclose(found[name], each[MASK].sum(), err_msg=name)
    assert found["loss"].shape == () and each[~MASK].min() > 0.1


@every_domain
def test_a_loss_of_scores_is_that_of_their_link_with_its_gradient(domain):
    found = facts(domain)
    value, slopes = found["of scores"]
    np.testing.assert_allclose(value, found["loss"])
    moves = 1e-6 * np.eye(12).reshape(12, 3, 4)
    up, down = (
        natural(domain, slow_link(domain, SCORES + m), found["truth"]).sum(-1)
        for m in (moves, -moves)
    )
    np.testing.assert_allclose(slopes.ravel(), (up - down) / 2e-6, atol=1e-8)
    masked, masked_slopes = found["masked of scores"]
    np.testing.assert_allclose(masked, found["masked loss"])
    np.testing.assert_allclose(masked_slopes, np.where(MASK[:, None], slopes, 0), atol=1e-12)


def test_certain_and_wrong_scores_keep_their_slope():
    scores = jnp.float32([200.0, -200.0, 0.0])
    of_box = jax.jit(jax.value_and_grad(Box().loss_of_scores))(scores, np.float32([0, 1, 1]))
    np.testing.assert_allclose(of_box[0], 400 + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(of_box[1], [1, -1, -0.5])
    simplex = jax.jit(jax.value_and_grad(Simplex().loss_of_scores))
    value, slopes = simplex(scores, np.float32([0, 1, 0]))
    np.testing.assert_allclose(value, 400)
    np.testing.assert_allclose(slopes, [1, -1, 0])


def test_the_loss_of_the_unit_box_is_the_cross_entropy_bit_for_bit():
    rng = np.random.default_rng(3)
    y = np.float32(rng.random((40, 7)))
    y[:3] = np.round(y[:3])
    truth = np.float32(rng.random((40, 7)) < 0.4)
    both = [jax.jit(jax.vmap(jax.value_and_grad(f)))(y, truth) for f in (Box().loss, cross_entropy)]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_parts_are_numbers_or_vectors():
    y = jax.ShapeDtypeStruct((5, 4), np.float32)
    for domain in Reals(), Box(), ORTHANT:
        assert domain.parts(y) == (5, 4)
    for domain in Simplex(), L2Ball(), OutsideBall():
        assert domain.parts(y) == domain.parts(np.ones((5, 4))) == (5,)
        assert domain.parts(np.ones(4)) == ()


def test_what_counts_is_kept_and_the_rest_is_zero_whatever_it_is():
    y = np.float32([[1, 2], [np.nan, 4], [5, np.inf]])
    kept = counting(MASK, jnp.where(np.isinf(y), 6, y))
    np.testing.assert_array_equal(kept, [[1, 2], [0, 0], [5, 6]])
    tree = counting({"a": MASK, "b": np.array(False)}, {"a": np.arange(3), "b": y})
    np.testing.assert_array_equal(tree["a"], [0, 0, 2])
    np.testing.assert_array_equal(tree["b"], np.zeros((3, 2)))
    assert counting(None, y) is y


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
        (lambda: Simplex().check(np.ones(())), r"Simplex needs y of shape .* got a scalar"),
        (lambda: L2Ball().check(np.ones(())), r"L2Ball needs y of shape .* got a scalar"),
        (lambda: L2Ball(0.0), "finite radius > 0, got 0.0; else use Reals"),
        (lambda: L2Ball(math.inf), "finite radius > 0, got inf"),
        (lambda: Box().loss(np.ones((2, 3)), np.ones(3)), r"same shape, got \(2, 3\) and \(3,\)"),
        (lambda: Box().loss(np.ones(3), np.ones(3), np.ones(2, bool)), r"\(3,\), got shape \(2,\)"),
    ],
)
def test_what_a_domain_cannot_do_it_says(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_few_values_are_projected_onto_a_simplex_as_many_are(x64):
    """By comparing all with all, and by Optax's sort, with their derivatives; what is no number stays none."""
    y = jax.random.normal(jax.random.key(0), (40, 6)) * jnp.array([0.1, 1, 10, 1])[:, None].repeat(
        10, 0
    )
    y = y.at[0].set(0.3).at[1, :2].set(y[1].max())  # equal entries

    def by_sorting(y):
        wide = jnp.pad(y, [(0, 0), (0, FEW)], constant_values=-1e6)
        return Simplex().project(wide)[:, :6]

    project = Simplex().project
    np.testing.assert_allclose(project(y), by_sorting(y), atol=1e-12)
    along = jax.random.normal(jax.random.key(1), y.shape)
    for a, b in zip(*(jax.jvp(f, (y,), (along,)) for f in (project, by_sorting)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert np.isnan(project(y.at[2, 3].set(jnp.nan))[2]).any()
    assert np.isnan(project(y.at[2, 3].set(jnp.inf))[2]).any()
