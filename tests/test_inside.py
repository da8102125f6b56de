"""Which parts of answers lie outside a domain, and what is said of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax.domains import Box, Domain, L2Ball, Product, Reals, Simplex, check_inside
from spen_jax.losses import OutsideBall

WIDE, ORTHANT = Box(-1.0, 3.0), Box(0, math.inf)
BALL, OUTSIDE = L2Ball(0.7), OutsideBall(0.7)
DOMAINS = [Reals(), Box(), WIDE, ORTHANT, Simplex(), BALL, OUTSIDE]
every_domain = pytest.mark.parametrize("domain", DOMAINS, ids=str)
RNG = np.random.default_rng(0)
POINTS = 2 * RNG.normal(size=(30, 3, 4))


class ByProjection(Domain):
    """A domain of a user's own, which says no more than where the nearest point is."""

    def __init__(self, domain):
        self.parts, self.project = domain.parts, domain.project


@every_domain
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_projected_points_are_inside_in_every_type_and_others_where_they_move(domain, dtype, x64):
    projected = np.asarray(domain.project(jnp.asarray(POINTS))).astype(dtype)
    inside = domain.outside(projected)
    assert isinstance(inside, np.ndarray) and inside.dtype == bool
    assert inside.shape == domain.parts(POINTS) and not inside.any()
    assert not domain.outside(jnp.asarray(projected[0])).any()
    moved = np.abs(np.asarray(domain.project(jnp.asarray(POINTS))) - POINTS) > 0.05
    parts = moved if inside.ndim == 3 else moved.any(-1)
    np.testing.assert_array_equal(domain.outside(POINTS.astype(dtype)) | ~parts, True)
    np.testing.assert_array_equal(ByProjection(domain).outside(POINTS), domain.outside(POINTS))


@every_domain
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_outside_of_every_domain(domain, value):
    y = np.asarray(domain.project(jnp.float32(POINTS)))
    y = np.where(np.arange(4) == 2, np.float32(value), y)
    outside = domain.outside(y)
    np.testing.assert_array_equal(outside[..., 2] if outside.ndim == 3 else outside, True)


def test_rounding_is_forgiven_up_to_a_ten_thousandth_of_the_size():
    np.testing.assert_array_equal(WIDE.outside([-1.0003, -1.0005, 3.0003, 3.0005]), [0, 1, 0, 1])
    np.testing.assert_array_equal(
        Box(1000, 1001).outside(np.float32([1000, 1001, 999.9, 1001.1])), [0, 0, 1, 1]
    )
    np.testing.assert_array_equal(ORTHANT.outside([-5e-5, -2e-4, 1e300]), [0, 1, 0])
    rows = [[0.5, 0.50005], [0.5, 0.5002], [1.00005, -5e-5], [1.001, -1e-3]]
    np.testing.assert_array_equal(Simplex().outside(rows), [0, 1, 0, 1])
    lengths = [[0.70005, 0], [0, 0.7002], [1e30, 0], [1e-30, 0]]
    np.testing.assert_array_equal(BALL.outside(np.float32(lengths)), [0, 1, 1, 0])
    np.testing.assert_array_equal(OUTSIDE.outside(np.float32(lengths)), [0, 0, 0, 1])
    assert not L2Ball(1e-30).outside(np.float32([1e-30, 0]))
    assert L2Ball(1e-30).outside(np.float32([1.1e-30, 0]))
    assert not Box(0, 1e300).outside(np.float32([0, 3e38])).any()


def test_booleans_and_integers_are_read_as_numbers():
    np.testing.assert_array_equal(Box().outside([True, False]), [0, 0])
    np.testing.assert_array_equal(Box().outside(np.array([0, 1, 2, 255], np.uint8)), [0, 0, 1, 1])
    np.testing.assert_array_equal(Simplex().outside(np.eye(3, dtype=np.int8)), [0, 0, 0])
    np.testing.assert_array_equal(Simplex().outside(jnp.ones((2, 2), bool)), [1, 1])
    assert not Reals().outside(np.arange(3)).any() and BALL.outside(np.array([1, 0]))
    assert ByProjection(Box()).outside(np.arange(3)).tolist() == [False, False, True]


def test_empty_batches_are_inside_and_rows_of_no_values_are_refused():
    for domain in DOMAINS:
        assert domain.outside(np.zeros((0, 3, 4))).shape == domain.parts(np.zeros((0, 3, 4)))
        check_inside(domain, np.zeros((0, 3, 4)), "y")
    assert not BALL.outside(np.zeros((2, 0))).any()
    with pytest.raises(ValueError, match=r"data.y: Simplex needs y of shape .* got \(0,\)"):
        check_inside(Simplex(), np.zeros((2, 0)), "data.y")


PAIR = Product({"tags": Box(), "class": Product((Simplex(), Reals()))})
ANSWERS = {"tags": np.ones((3, 2)), "class": (np.eye(3), np.zeros(3))}


def test_a_product_asks_each_leaf_and_names_it():
    outside = PAIR.outside(ANSWERS)
    assert outside["tags"].shape == (3, 2) and outside["class"][0].shape == (3,)
    check_inside(PAIR, ANSWERS, "data.y")
    wrong = {"tags": ANSWERS["tags"], "class": (2 * np.eye(3), np.zeros(3))}
    with pytest.raises(
        ValueError, match=r"data.y\['class'\]\[0\] does not lie in Simplex\(\): 3 of 3"
    ):
        check_inside(PAIR, wrong, "data.y")
    keeps = {"tags": None, "class": (np.zeros(3, bool), None)}
    check_inside(PAIR, wrong, "data.y", keeps)
    check_inside(PAIR, wrong, "data.y", np.zeros(3, bool))
    with pytest.raises(ValueError, match=r"data.y: the domain needs y to be the tree"):
        check_inside(PAIR, {"tags": 1}, "data.y")
    with pytest.raises(
        ValueError, match=r"the mask of data.y\['class'\]\[0\] needs .*\(3,\), got bool \(2,\)"
    ):
        check_inside(PAIR, ANSWERS, "data.y", np.zeros(2, bool))


def test_parts_that_do_not_count_may_hold_anything():
    y = np.array([[0.5, np.nan], [7, 1]])
    check_inside(Box(), y, "y", np.array([[True, False], [False, True]]))
    check_inside(Box(), y, "y", np.array([[1, 0], [0, 1]]))
    check_inside(Simplex(), np.stack([np.eye(2), y], 1), "y", np.array([[1, 0], [1, 0]]))
    with pytest.raises(ValueError, match=r"1 of 2 parts are outside, such as 7. at y\[1, 0\]"):
        check_inside(Box(), y, "y", np.array([False, True]))


def test_what_is_traced_is_not_looked_at():
    @jax.jit
    def checked(y):
        check_inside(Box(), y, "y")
        return y

    assert checked(jnp.float32([7]))[0] == 7


SIGNS = np.array([[-1, 1], [1, -1]])
ERRORS = [
    (Box(), SIGNS, r"data.y .* Box\(.*2 of 4 parts .* such as -1 at data.y\[0, 0\]; .*\(y \+ 1\) / 2"),
    (Box(), np.array([[0, 255], [17, 3]], np.uint8), "0 to 255 give y / 255"),
    (Box(), [[0.5, 2.5]], "1 of 2 parts.*; give the predictor the domain that y lives in"),
    (WIDE, [[0.5, 5]], "give the predictor the domain that y lives in"),
    (Box(), [[math.nan]], "such as nan .* leave such examples out"),
    (Simplex(), [[3, 1], [0, 2]], r"2 of 2 parts .* such as \[3, 1\] at data.y\[0\]; .*jax.nn.one_hot"),
    (Simplex(), np.array([2, 0]), r"data.y: Simplex needs y of shape .*jax.nn.one_hot"),
    (Simplex(), [[0.2, 0.2]], r"give y / y.sum\(axis=-1, keepdims=True\)"),
    (Simplex(), [[1.5, -0.5]], "domain that y lives in"),
    (BALL, np.ones((2, 2)), "2 of 2 parts"),
    (Reals(), [math.inf], "such as inf"),
    (Box(), {"a": np.ones(3)}, "data.y must hold booleans or real numbers, got the type object"),
    (Box(), np.array(["a"]), "data.y must hold .* <U1"),
    (Box(), np.ones(2) * 1j, "data.y must hold .* complex128"),
    (Box(), np.array(["2020"], "M8[Y]"), "data.y must hold .* datetime64"),
    (Box(), np.ma.ones(3), "data.y must be an array of numbers, got a masked array"),
    (Box(), [[1], [1, 0]], "data.y must be one array of real numbers; NumPy says"),
    (Box(), jax.random.key(0), "data.y must"),
    (Box(), 0.5, "data.y needs a leading axis of examples"),
]  # fmt: skip


@pytest.mark.parametrize("domain, y, message", ERRORS)
def test_what_lies_outside_is_named_counted_and_shown_with_what_to_do(domain, y, message):
    with pytest.raises(ValueError, match=message):
        check_inside(domain, y, "data.y")
