import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import losses
from spen_jax.energies import Regressor, linear
from spen_jax.inference import GradientDescent
from spen_jax.losses import (
    OutsideBall,
    all_but,
    different,
    hardest,
    most_offending,
    outside_ball,
    random,
    search,
    semi_hard,
)

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
offending = jax.jit(most_offending)


def test_the_allowed_are_all_but_the_truth_or_those_with_another_label():
    truth, labels = np.array([[0, 2], [3, 1]]), np.array([0, 1, 0])
    wrong, others, outside = jax.jit(
        lambda: (all_but(truth, 4), different(labels), different(labels, np.array([1, 2])))
    )()
    np.testing.assert_array_equal(wrong, np.arange(4) != truth[..., None])
    np.testing.assert_array_equal(others, [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(outside, [[1, 1], [0, 1], [1, 1]])


def test_the_truth_may_be_indices_of_numpy_in_64_bits():
    truth = np.array([2, 0])
    wrong, found = jax.jit(lambda: (all_but(truth, 3), most_offending(jnp.eye(2, 3), truth)))()
    np.testing.assert_array_equal(wrong, [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(found.index, [1, 2])


def test_outside_the_ball_are_candidates_at_least_the_radius_away():
    candidates = RNG.normal(size=(7, 2)).astype(np.float32)
    truths = [RNG.normal(size=(*shape, 2)).astype(np.float32) for shape in ((), (3,), (2, 3))]
    found, on_the_sphere = jax.jit(
        lambda: (
            [outside_ball(candidates, truth, 1.2) for truth in truths],
            outside_ball(jnp.eye(2), jnp.zeros(2), jnp.float32(1)),
        )
    )()
    for truth, got in zip(truths, found, strict=True):
        far = np.linalg.norm(truth[..., None, :] - candidates, axis=-1) >= 1.2
        assert far.any() and not far.all()
        np.testing.assert_array_equal(got, far)
    assert on_the_sphere.all()


@pytest.mark.parametrize("shape", [(6,), (2, 3, 6)])
def test_the_most_offending_answer_is_the_wrong_one_of_lowest_energy_and_the_first_of_equals(shape):
    energies = RNG.integers(0, 3, shape).astype(np.float32)  # full of ties
    truth = energies.argmin(-1)
    wrong = np.arange(6) != truth[..., None]
    index = np.where(wrong, energies, INF).argmin(-1)
    energy = np.take_along_axis(energies, index[..., None], -1)[..., 0]
    three = jax.jit(
        lambda e: (
            most_offending(e, truth),
            most_offending(e, allowed=wrong),
            hardest(e, wrong),
        )
    )
    for found in three(energies):
        np.testing.assert_array_equal(found.index, index)
        np.testing.assert_array_equal(found.energy, energy)


def test_the_same_candidates_may_be_allowed_for_all_rows():
    energies = np.float32([[0, 2, 1], [3, 1, 2]])
    found = offending(energies, allowed=np.array([False, True, True]))
    np.testing.assert_array_equal(found.index, [2, 1])
    np.testing.assert_array_equal(found.energy, [1, 1])


def test_candidates_of_infinite_energy_do_not_offend_and_none_allowed_gives_infinity():
    energies = np.float32([[2, 1, INF], [1, INF, INF], [3, 2, 1]])
    allowed = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    found = offending(energies, allowed=allowed)
    np.testing.assert_array_equal(found.index, [0, 3, 3])
    np.testing.assert_array_equal(found.energy, [2, INF, INF])
    pairs = losses.hinge, losses.log_loss, losses.square_square, losses.simple_pair

    @jax.jit
    @jax.vmap
    def of(correct, wrong):
        return [jax.value_and_grad(loss, (0, 1))(correct, wrong) for loss in pairs]

    for numbers in jax.tree.leaves(of(np.full(3, -1.0, np.float32), found.energy)):
        np.testing.assert_array_equal(numbers[1:], 0)


def test_an_energy_that_is_not_a_number_is_the_most_offending_where_it_is_allowed():
    energies = np.float32([[NAN, -5, 1], [NAN, -5, 1]])
    found = offending(energies, np.array([1, 0]))
    np.testing.assert_array_equal(found.index, [0, 1])
    np.testing.assert_array_equal(found.energy, [NAN, -5])


def test_the_gradient_flows_to_the_offending_energy_alone():
    energies, truth = np.float32([[3, 1, 2], [0, 5, 4]]), np.array([1, 0])
    padded = np.pad(energies, ((0, 0), (0, 2)), constant_values=INF)

    def total(e):
        return (most_offending(e, truth).energy * np.float32([1, 2])).sum()

    def of_none(e):
        return most_offending(e, allowed=np.zeros(e.shape, bool)).energy.sum()

    slopes, of_padded, nothing = jax.jit(
        lambda: (jax.grad(total)(energies), jax.grad(total)(padded), jax.grad(of_none)(energies))
    )()
    want = np.zeros((2, 5))
    want[[0, 1], [2, 2]] = 1, 2
    np.testing.assert_array_equal(slopes, want[:, :3])
    np.testing.assert_array_equal(of_padded, want)
    np.testing.assert_array_equal(nothing, 0)


def test_mapped_over_examples_the_offenders_are_the_same():
    energies = np.float32(RNG.normal(size=(5, 7)))
    truth = RNG.integers(0, 7, 5)
    both = jax.jit(lambda *a: (most_offending(*a), jax.vmap(most_offending)(*a)))(energies, truth)
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize(
    "wrong", [{}, {"truth": np.int32(0), "allowed": np.ones(3, bool)}], ids=["neither", "both"]
)
def test_either_the_truth_or_the_allowed_are_needed(wrong):
    with pytest.raises(ValueError, match="exactly one"):
        most_offending(jnp.zeros(3), **wrong)


SEMI_HARD = [
    ([0, 3, 2, 5], 1.0, [1, 1, 1, 1], 2),  # the lowest above
    ([0, 3, 2, 5], 1.0, [1, 1, 0, 1], 1),
    ([0, 3, 2, 5], 2.0, [1, 1, 1, 1], 1),  # above, not equal
    ([0, 3, 2, 5], 9.0, [1, 1, 1, 0], 1),  # none above: the highest
    ([0, 3, 3, 5], 3.5, [1, 1, 1, 0], 1),  # the first of equals
    ([0, 3, 2, 5], 1.0, [0, 0, 0, 0], 4),
    ([0, 3, 2, INF], 1.0, [1, 1, 1, 1], 2),  # padding is no negative
    ([0, 3, 2, INF], 9.0, [1, 1, 1, 1], 1),
]


def test_semi_hard_is_the_lowest_negative_above_the_correct_energy_else_the_highest():
    energies, correct, allowed, index = map(np.array, zip(*SEMI_HARD, strict=True))

    @jax.jit
    @jax.vmap
    def of(energies, correct, allowed):
        slopes = jax.grad(lambda e: semi_hard(e, correct, allowed).energy)(energies)
        return semi_hard(energies, correct, allowed), slopes

    found, slopes = of(np.float32(energies), np.float32(correct), allowed == 1)
    np.testing.assert_array_equal(found.index, index)
    want = np.pad(energies, ((0, 0), (0, 1)), constant_values=INF)[np.arange(8), index]
    np.testing.assert_array_equal(found.energy, want)
    np.testing.assert_array_equal(slopes, np.arange(4) == index[:, None])


def test_random_negatives_are_drawn_evenly_from_those_allowed_and_follow_the_key():
    rows, allowed = 6000, np.array([1, 0, 1, 1, 0, 1, 0], bool)
    energies = np.tile(np.arange(7, dtype=np.float32), (rows, 1))
    masks = np.tile(allowed, (rows, 1))
    masks[-1] = False
    draw = jax.jit(random)
    found = draw(jax.random.key(0), energies, masks)
    assert (found.index[-1], found.energy[-1]) == (7, INF)
    counts = np.bincount(found.index[:-1], minlength=7)
    np.testing.assert_array_equal(counts[~allowed], 0)
    # Four standard deviations of a binomial number of mean 1500.
    np.testing.assert_allclose(counts[allowed], rows / 4, atol=4 * np.sqrt(rows * 3 / 16))
    np.testing.assert_array_equal(found.energy[:-1], found.index[:-1])
    other = draw(jax.random.key(1), energies, masks)
    assert (np.asarray(other.index) != found.index).mean() > 0.5


def test_projection_moves_what_is_inside_the_ball_to_the_nearest_point_of_the_sphere():
    domain = OutsideBall(0.7)
    points = np.float32(np.random.default_rng(1).normal(0, 0.7, (50, 2)))

    @jax.jit
    def of(points):
        projected = domain.project(points)
        return (
            projected,
            domain.project(projected),
            domain.project(jnp.zeros((2, 3))),
            domain.initial((2,)),
            domain.random(jax.random.key(0), (200, 2)),
        )

    got, again, of_zero, initial, drawn = map(np.asarray, of(points))
    outside = np.linalg.norm(points, axis=1) >= 0.7
    assert 5 < outside.sum() < 45
    np.testing.assert_array_equal(got[outside], points[outside])
    norms = np.linalg.norm(got[~outside], axis=1)
    assert norms.min() >= np.float32(0.7) and norms.max() < 0.7 + 3e-6
    np.testing.assert_array_equal(again, got)
    angles = np.linspace(0, 2 * np.pi, 2001)
    sphere = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = np.linalg.norm(points[~outside][:, None] - sphere, axis=-1)
    nearest = sphere[distances.argmin(1)]
    np.testing.assert_allclose(got[~outside], nearest, atol=0.005)
    np.testing.assert_allclose(of_zero, [[0.7, 0, 0]] * 2, rtol=3e-6)
    np.testing.assert_allclose(initial, [0.7, 0], rtol=3e-6)
    norms = np.linalg.norm(drawn, axis=1)
    assert norms.min() >= np.float32(0.7) and norms.max() > 1


def test_a_radius_is_above_0_and_the_outside_of_a_ball_does_not_reflect():
    for radius in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="radius > 0"):
            OutsideBall(radius)
    with pytest.raises(ValueError, match="cannot reflect"):
        OutsideBall().reflect(jnp.ones(2))


PARAMS = {"w": np.float32([[1.0, 0.5], [-0.5, 2], [0, 1]]), "b": np.float32([0.2, -0.1])}
INPUTS = np.float32(np.random.default_rng(2).normal(size=(6, 3)))
BEST = INPUTS @ PARAMS["w"] + PARAMS["b"]
DIRECTIONS = np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]])


def test_search_finds_the_nearest_answer_to_the_regression_outside_the_ball_as_a_constant():
    """Where G(x) is within the ball that is truth + radius unit(G(x) - truth), else G(x) itself."""
    away = np.float32([[0.1, 0.2], [-0.3, 0.1], [0, -0.05], [1, 0], [0.4, -0.4], [-3, 2]])

    def total(params, truth):
        solution = search(
            Regressor(linear),
            params,
            INPUTS,
            truth,
            truth[:, None] + DIRECTIONS[None],
            radius=0.5,
            solver=GradientDescent(step_size=0.5, momentum=0.0),
            steps=100,
        )
        return solution.y.sum() + solution.energy.sum() + solution.residual.sum(), solution

    slopes, solution = jax.jit(jax.grad(total, (0, 1), has_aux=True))(PARAMS, BEST - away)
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    want = BEST - away + away / distance * np.maximum(distance, 0.5)
    np.testing.assert_allclose(solution.y, want, atol=1e-3)
    gap = np.maximum(0, 0.5 - distance[:, 0])
    np.testing.assert_allclose(solution.energy, gap**2 / 2, atol=1e-4)
    assert solution.converged.all()
    assert not any(np.any(s) for s in jax.tree.leaves(slopes))


@pytest.mark.parametrize("truth", [np.zeros(3), np.zeros(2, int), np.ones((3, 4), bool)])
def test_the_truth_is_an_index_for_each_example(truth):
    with pytest.raises(ValueError, match=r"indices of shape \(3,\).*allowed="):
        most_offending(jnp.ones((3, 4)), truth)
