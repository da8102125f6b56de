import jax
import numpy as np
import pytest

from spen_jax.domains import Box

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
