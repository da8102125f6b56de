import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import losses
from spen_jax.architectures import Regressor, linear
from spen_jax.negatives import (
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
from spen_jax.solvers import GradientDescent

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)


def test_the_allowed_are_all_but_the_truth_or_those_with_another_label():
    truth = jnp.asarray([[0, 2], [3, 1]])
    np.testing.assert_array_equal(all_but(truth, 4), np.arange(4) != np.asarray(truth)[..., None])
    labels = jnp.asarray([0, 1, 0])
    np.testing.assert_array_equal(different(labels), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(different(labels, jnp.asarray([1, 2])), [[1, 1], [0, 1], [1, 1]])


def test_the_truth_may_be_indices_of_numpy_in_64_bits():
    truth = np.array([2, 0])
    np.testing.assert_array_equal(all_but(truth, 3), [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(most_offending(jnp.eye(2, 3), truth).index, [1, 2])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_outside_the_ball_are_candidates_at_least_the_radius_away(shape):
    candidates, truth = RNG.normal(size=(7, 2)), RNG.normal(size=(*shape, 2))
    far = np.linalg.norm(truth[..., None, :] - candidates, axis=-1) >= 1.2
    got = outside_ball(jnp.float32(candidates), jnp.float32(truth), 1.2)
    assert far.any() and not far.all()
    np.testing.assert_array_equal(got, far)
    on_the_sphere = outside_ball(jnp.eye(2), jnp.zeros(2), jnp.float32(1))
    assert on_the_sphere.all()


@pytest.mark.parametrize("shape", [(6,), (2, 3, 6)])
def test_the_most_offending_answer_is_the_wrong_one_of_lowest_energy_and_the_first_of_equals(shape):
    energies = RNG.integers(0, 3, shape).astype(np.float32)  # full of ties
    truth = energies.argmin(-1)
    wrong = np.arange(6) != truth[..., None]
    index = np.where(wrong, energies, INF).argmin(-1)
    for found in (
        most_offending(energies, jnp.asarray(truth)),
        most_offending(energies, allowed=wrong),
        hardest(energies, wrong),
    ):
        np.testing.assert_array_equal(found.index, index)
        np.testing.assert_array_equal(
            found.energy, np.take_along_axis(energies, index[..., None], -1)[..., 0]
        )


def test_the_same_candidates_may_be_allowed_for_all_rows():
    energies = jnp.float32([[0, 2, 1], [3, 1, 2]])
    found = most_offending(energies, allowed=np.array([False, True, True]))
    np.testing.assert_array_equal(found.index, [2, 1])
    np.testing.assert_array_equal(found.energy, [1, 1])


def test_candidates_of_infinite_energy_do_not_offend_and_none_allowed_gives_infinity():
    energies = jnp.float32([[2, 1, INF], [1, INF, INF], [3, 2, 1]])
    allowed = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    found = most_offending(energies, allowed=allowed)
    np.testing.assert_array_equal(found.index, [0, 3, 3])
    np.testing.assert_array_equal(found.energy, [2, INF, INF])
    correct = jnp.full(3, -1.0)
    for loss in (losses.hinge, losses.log_loss, losses.square_square, losses.simple_pair):
        value, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))(correct, found.energy)
        np.testing.assert_array_equal(value[1:], 0)
        assert not np.any([s[1:] for s in slopes])


def test_an_energy_that_is_not_a_number_is_the_most_offending_where_it_is_allowed():
    energies = jnp.float32([[NAN, -5, 1], [NAN, -5, 1]])
    found = most_offending(energies, jnp.asarray([1, 0]))
    np.testing.assert_array_equal(found.index, [0, 1])
    np.testing.assert_array_equal(found.energy, [NAN, -5])


@pytest.mark.parametrize("padded", [False, True])
def test_the_gradient_flows_to_the_offending_energy_alone(padded):
    energies = jnp.float32([[3, 1, 2], [0, 5, 4]])
    truth = jnp.asarray([1, 0])
    if padded:
        energies = jnp.pad(energies, ((0, 0), (0, 2)), constant_values=jnp.inf)
    of = jax.jit(jax.grad(lambda e: (most_offending(e, truth).energy * jnp.arange(1.0, 3)).sum()))
    want = np.zeros(energies.shape)
    want[[0, 1], [2, 2]] = 1, 2
    np.testing.assert_array_equal(of(energies), want)
    nothing = jax.grad(lambda e: most_offending(e, allowed=np.zeros(3, bool)).energy)
    np.testing.assert_array_equal(nothing(jnp.ones(3)), 0)


def test_compiled_and_mapped_over_examples_the_offenders_are_the_same():
    energies = np.float32(RNG.normal(size=(5, 7)))
    truth = jnp.asarray(RNG.integers(0, 7, 5))
    want = most_offending(energies, truth)
    for function in (jax.jit(most_offending), jax.jit(jax.vmap(most_offending))):
        jax.tree.map(np.testing.assert_array_equal, function(energies, truth), want)


@pytest.mark.parametrize(
    "wrong", [{}, {"truth": jnp.asarray(0), "allowed": jnp.ones(3, bool)}], ids=["neither", "both"]
)
def test_either_the_truth_or_the_allowed_are_needed(wrong):
    with pytest.raises(ValueError, match="exactly one"):
        most_offending(jnp.zeros(3), **wrong)


@pytest.mark.parametrize(
    "energies, correct, allowed, index",
    [
        ([0, 3, 2, 5], 1.0, [1, 1, 1, 1], 2),  # the lowest above
        ([0, 3, 2, 5], 1.0, [1, 1, 0, 1], 1),
        ([0, 3, 2, 5], 2.0, [1, 1, 1, 1], 1),  # above, not equal
        ([0, 3, 2, 5], 9.0, [1, 1, 1, 0], 1),  # none above: the highest
        ([0, 3, 3, 5], 3.5, [1, 1, 1, 0], 1),  # the first of equals
        ([0, 3, 2, 5], 1.0, [0, 0, 0, 0], 4),
        ([0, 3, 2, INF], 1.0, [1, 1, 1, 1], 2),  # padding is no negative
        ([0, 3, 2, INF], 9.0, [1, 1, 1, 1], 1),
    ],
)
def test_semi_hard_is_the_lowest_negative_above_the_correct_energy_else_the_highest(
    energies, correct, allowed, index
):
    energies = jnp.float32(energies)
    inputs = jnp.float32(correct), jnp.asarray(allowed, bool)
    found = semi_hard(energies, *inputs)
    assert found.index == index
    assert found.energy == (energies[index] if index < 4 else INF)
    slope = jax.grad(lambda e: semi_hard(e, *inputs).energy)(energies)
    np.testing.assert_array_equal(slope, np.arange(4) == index)


def test_random_negatives_are_drawn_evenly_from_those_allowed_and_follow_the_key():
    allowed = np.array([1, 0, 1, 1, 0, 1], bool)
    rows = 6000
    energies = jnp.float32(np.arange(6))[None].repeat(rows, 0)
    draw = jax.jit(random)
    found = draw(jax.random.key(0), energies, np.tile(allowed, (rows, 1)))
    counts = np.bincount(found.index, minlength=6)
    np.testing.assert_array_equal(counts[~allowed], 0)
    # Four standard deviations of a binomial number of mean 1500.
    np.testing.assert_allclose(counts[allowed], rows / 4, atol=4 * np.sqrt(rows * 3 / 16))
    np.testing.assert_array_equal(found.energy, found.index)
    other = draw(jax.random.key(1), energies, np.tile(allowed, (rows, 1)))
    assert (np.asarray(other.index) != found.index).mean() > 0.5
    none = random(jax.random.key(0), jnp.ones(6), jnp.zeros(6, bool))
    assert (none.index, none.energy) == (6, INF)


def test_projection_moves_what_is_inside_the_ball_to_the_nearest_point_of_the_sphere():
    domain = OutsideBall(0.7)
    rng = np.random.default_rng(1)
    points = np.float32(rng.normal(0, 0.7, (50, 2)))
    got = np.asarray(domain.project(jnp.asarray(points)))
    outside = np.linalg.norm(points, axis=1) >= 0.7
    assert 5 < outside.sum() < 45
    np.testing.assert_array_equal(got[outside], points[outside])
    norms = np.linalg.norm(got[~outside], axis=1)
    assert norms.min() >= np.float32(0.7) and norms.max() < 0.7 + 3e-6
    np.testing.assert_array_equal(domain.project(got), got)
    angles = np.linspace(0, 2 * np.pi, 2001)
    sphere = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = np.linalg.norm(points[~outside][:, None] - sphere, axis=-1)
    nearest = sphere[distances.argmin(1)]
    np.testing.assert_allclose(got[~outside], nearest, atol=0.005)
    np.testing.assert_allclose(domain.project(jnp.zeros((2, 3))), [[0.7, 0, 0]] * 2, rtol=3e-6)
    np.testing.assert_allclose(domain.initial((2,)), [0.7, 0], rtol=3e-6)
    drawn = domain.random(jax.random.key(0), (200, 2))
    norms = np.linalg.norm(drawn, axis=1)
    assert norms.min() >= np.float32(0.7) and norms.max() > 1


def test_a_radius_is_above_0_and_the_outside_of_a_ball_does_not_reflect():
    for radius in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="radius > 0"):
            OutsideBall(radius)
    with pytest.raises(ValueError, match="cannot reflect"):
        OutsideBall().reflect(jnp.ones(2))


PARAMS = {"w": jnp.float32([[1.0, 0.5], [-0.5, 2], [0, 1]]), "b": jnp.float32([0.2, -0.1])}
INPUTS = jnp.float32(np.random.default_rng(2).normal(size=(6, 3)))
BEST = np.asarray(INPUTS @ PARAMS["w"]) + np.asarray(PARAMS["b"])
DIRECTIONS = np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]])


def found(params, truth):
    return search(
        Regressor(linear),
        params,
        INPUTS,
        truth,
        truth[:, None] + DIRECTIONS[None],
        radius=0.5,
        solver=GradientDescent(step_size=0.5, momentum=0.0),
        steps=200,
    )


def test_search_finds_the_nearest_answer_to_the_regression_outside_the_ball():
    """Where G(x) is within the ball that is truth + radius unit(G(x) - truth), else G(x) itself."""
    away = np.float32([[0.1, 0.2], [-0.3, 0.1], [0, -0.05], [1, 0], [0.4, -0.4], [-3, 2]])
    solution = jax.jit(found)(PARAMS, BEST - away)
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    want = BEST - away + away / distance * np.maximum(distance, 0.5)
    np.testing.assert_allclose(solution.y, want, atol=1e-3)
    gap = np.maximum(0, 0.5 - distance[:, 0])
    np.testing.assert_allclose(solution.energy, gap**2 / 2, atol=1e-4)
    assert solution.converged.all()


def test_a_wrong_answer_that_was_searched_for_is_a_constant_to_differentiation():
    def total(params, truth):
        solution = found(params, truth)
        return solution.y.sum() + solution.energy.sum() + solution.residual.sum()

    slopes = jax.jit(jax.grad(total, (0, 1)))(PARAMS, BEST)
    assert not any(np.any(s) for s in jax.tree.leaves(slopes))


@pytest.mark.parametrize("truth", [np.zeros(3), np.zeros(2, int), np.ones((3, 4), bool)])
def test_the_truth_is_an_index_for_each_example(truth):
    with pytest.raises(ValueError, match=r"indices of shape \(3,\).*allowed="):
        most_offending(jnp.ones((3, 4)), truth)
