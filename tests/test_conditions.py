from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import losses
from spen_jax.energies import Binary, Multiclass, Regressor, linear
from spen_jax.losses import as_pair, check, in_weights

INF = np.inf


def energy_alone(correct, wrong):
    return losses.energy_loss(correct) + 0 * wrong


def with_one_negative(loss, **options):
    return lambda correct, wrong: loss(correct, wrong[..., None], **options)


def printed_with_minimum(correct, wrong):
    return correct**2 + jnp.minimum(0, 1 - wrong) ** 2


def printed_with_square(correct, wrong):
    return correct**2 - jnp.maximum(0, 1 - wrong**2)


def falling(correct, wrong):
    return 1 / (1 + correct**2 + wrong**2)


PERCEPTRON = as_pair(losses.perceptron)
CONDITIONS = [  # loss, margin, lowest energy, condition 1, condition 2
    ("energy", energy_alone, 0.5, -INF, False, True),
    ("energy of distances", energy_alone, 0.5, 0.0, False, True),
    ("falls to infinity on both sides", falling, 0.5, -INF, False, True),
    ("perceptron, margin", PERCEPTRON, 0.1, -INF, False, False),
    ("perceptron, wide margin", PERCEPTRON, 1.0, -INF, False, False),
    ("hinge", losses.hinge, 1.0, -INF, True, True),
    ("hinge, half its margin", losses.hinge, 0.5, -INF, True, True),
    ("hinge, beyond its margin", losses.hinge, 1.2, -INF, False, False),
    ("squared violation", lambda c, w: (c - w + 1) ** 2, 1.0, -INF, True, True),
    ("wide hinge", partial(losses.hinge, margin=2.0), 2.0, -INF, True, True),
    ("log", losses.log_loss, 0.1, -INF, True, True),
    ("nll", as_pair(losses.nll), 0.1, -INF, True, True),
    ("mce", losses.mce, 0.1, -INF, True, True),
    ("minimum error", as_pair(losses.minimum_empirical_error), 0.1, -INF, True, True),
    ("InfoNCE", with_one_negative(losses.info_nce), 0.1, -INF, True, True),
    ("contrastive hinge", with_one_negative(losses.additive_margin), 1.0, -INF, True, True),
    ("square-square", losses.square_square, 1.0, 0.0, True, True),
    ("square-square, beyond its margin", losses.square_square, 1.2, 0.0, False, False),
    ("simple pair", losses.simple_pair, 1.0, 0.0, True, True),
    ("square-exponential of distances", losses.square_exponential, 1.0, 0.0, True, True),
    ("square-exponential", losses.square_exponential, 1.0, -INF, True, False),
    ("printed with a minimum", printed_with_minimum, 0.5, 0.0, False, False),
    ("printed with a square", printed_with_square, 0.5, 0.0, False, False),
]


@pytest.mark.parametrize(
    "loss, margin, lowest, minima, descends",
    [c[1:] for c in CONDITIONS],
    ids=[c[0] for c in CONDITIONS],
)
def test_a_loss_meets_the_conditions_as_its_table_says(loss, margin, lowest, minima, descends):
    report = check(loss, margin, lowest=lowest)
    assert (report.minima, report.descends) == (minima, descends), report


def test_a_report_has_the_lowest_losses_and_the_smallest_slope():
    report = check(losses.hinge, 0.5)
    assert report.right == 0 and report.slope == 2
    assert report.wrong == pytest.approx(0.5, abs=1e-5)  # just beyond the line
    report = check(losses.mce, 0.3, reach=2.0, points=41)
    sigmoid = 1 / (1 + np.exp(0.3))
    assert report.right == pytest.approx(0, abs=1e-12)
    assert report.slope == pytest.approx(2 * sigmoid * (1 - sigmoid), rel=1e-5)


@pytest.mark.parametrize("wrong", [dict(margin=0.0), dict(reach=0.0), dict(points=1)])
def test_a_check_needs_a_margin_and_a_grid(wrong):
    with pytest.raises(ValueError, match="margin > 0, reach > 0 and at least 2 points"):
        check(losses.hinge, **{"margin": 1.0, **wrong})


def test_a_loss_that_is_not_a_number_somewhere_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        check(lambda correct, wrong: jnp.log(wrong) + correct, 0.5)


X = np.random.default_rng(0).normal(size=(5, 3))
ONE = {"w": np.array([0.5, -1.0, 2.0]), "b": np.array(0.3)}
TWO = {"w": np.array([[1.0, 0.5], [0, 1], [2, -2]]), "b": np.array([0.5, -1.0])}


@lru_cache
def compiled(loss, energy):
    return jax.jit(partial(in_weights, loss, energy))


def of_binary(loss):
    return compiled(loss, Binary(linear))


def test_in_the_weights_the_hinge_widens_the_gap_by_the_distance_of_the_gradients(x64):
    """Its slopes are 1 and -1, so that condition 3 is ||dE_correct/dW - dE_wrong/dW||^2."""
    squares = (X**2).sum(1) + 1
    y, wrong = np.array([0, 1, 0, 1, 1]), np.array([1, 0, 1, 0, 0])
    got = compiled(losses.hinge, Multiclass(linear))(TWO, X, y, wrong, 0.5)
    np.testing.assert_allclose(got, 2 * squares)
    sign = np.array([1.0, -1, 1, 1, -1])
    got = of_binary(losses.hinge)(ONE, X, sign, -sign, 0.5)
    np.testing.assert_allclose(got, 4 * squares)
    np.testing.assert_array_equal(of_binary(losses.hinge)(ONE, X, sign, -sign, 1.5), 0)


def test_in_the_weights_the_slope_of_a_pair_loss_scales_the_distance(x64):
    """A pair loss of the gap alone: log_loss and mce have its slope times that of the hinge."""
    sign = np.array([1.0, -1, 1, 1, -1])
    squares = 4 * ((X**2).sum(1) + 1)
    sigmoid = 1 / (1 + np.exp(0.5))
    for loss, slope in [(losses.log_loss, sigmoid), (losses.mce, sigmoid * (1 - sigmoid))]:
        got = of_binary(loss)(ONE, X, sign, -sign, 0.5)
        np.testing.assert_allclose(got, slope * squares, rtol=1e-5)


def test_in_the_weights_the_energy_loss_may_close_the_gap_of_a_regressor(x64):
    """E = 1/2 ||y - r||^2, dE/dW = (r - y) [x, 1]: condition 3 is (wrong - y) . (r - y) (||x||^2 + 1)."""
    r = X @ TWO["w"] + TWO["b"]
    y = r + np.array([[1.0, 0]])
    wrong = y + np.array([[1.0, 1], [-1, 0], [-3, 1], [2, 0], [0, 1]])
    got = compiled(energy_alone, Regressor(linear))(TWO, X, y, wrong, 0.5)
    np.testing.assert_allclose(got, ((wrong - y) * (r - y)).sum(1) * ((X**2).sum(1) + 1), atol=1e-9)
    np.testing.assert_array_equal(np.sign(got), [-1, 1, 1, -1, 0])


@pytest.mark.parametrize("loss", [losses.square_square, losses.square_exponential])
def test_one_step_down_a_loss_widens_the_gap_as_condition_3_says(loss, x64):
    """On the margin line, here each example's own, the gap grows by the step times condition 3."""
    energy = Multiclass(linear)

    def gap(params, x):
        return energy(params, x, 1) - energy(params, x, 0)

    @jax.jit
    @jax.vmap
    def both(x):
        of_one = [a[None] for a in (x, jnp.asarray(0), jnp.asarray(1))]
        condition = in_weights(loss, energy, TWO, *of_one, gap(TWO, x))
        slopes = jax.grad(lambda p: loss(energy(p, x, 0), energy(p, x, 1)))(TWO)
        moved = jax.tree.map(lambda w, s: w - 1e-6 * s, TWO, slopes)
        return (gap(moved, x) - gap(TWO, x)) / 1e-6, condition[0]

    widened, condition = both(X)
    assert np.abs(condition).max() > 1
    np.testing.assert_allclose(widened, condition, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [losses.nll, losses.energy_loss])
def test_a_check_refuses_what_is_no_loss_of_two_energies(loss):
    with pytest.raises(ValueError, match="loss of two energies"):
        check(loss, 0.1)
