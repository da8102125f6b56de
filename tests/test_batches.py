import copy
import pickle
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import data
from spen_jax.data import by_length, padded


class Pair(NamedTuple):
    tags: Any
    heads: Any


LENGTHS = np.array([3, 1, 6, 2, 4, 6, 3, 5])
MASK = np.arange(7) < LENGTHS[:, None]


def problem():
    """Eight examples of up to 7 places, whose numbers say where they stand."""
    place = 10 * np.arange(8)[:, None] + np.arange(7)
    return {
        "x": np.repeat(place[..., None], 2, axis=-1).astype(np.float32),
        "y": Pair(place, np.zeros((8, 7, 8))),
        "weight": np.arange(8.0),
        "other": [np.zeros((8, 3)), None],
        "mask": MASK,
    }


# Padding


def test_arrays_of_various_lengths_become_one_with_a_mask():
    stacked, mask = padded([[1, 2, 3], [4], []], width=4, fill=-1)
    assert stacked.tolist() == [[1, 2, 3, -1], [4, -1, -1, -1], [-1] * 4]
    assert mask.tolist() == [[True] * 3 + [False], [True] + [False] * 3, [False] * 4]
    assert mask.dtype == bool


def test_without_a_width_the_longest_array_gives_it():
    stacked, mask = padded([np.ones((2, 3), np.float32), jnp.ones((5, 3), jnp.float32)])
    assert (stacked.shape, stacked.dtype, mask.shape) == ((2, 5, 3), np.float32, (2, 5))
    assert stacked.sum(axis=2).tolist() == [[3, 3, 0, 0, 0], [3] * 5]


def test_nan_may_fill_floats():
    assert np.isnan(padded([[1.0], [1.0, 2.0]], fill=np.nan)[0][0, 1])
    assert padded(np.ones((1, 1), np.float32), 2, np.float64(0.1))[0][0, 1] == np.float32(0.1)


def test_empty_arrays_leave_the_type_to_the_others():
    assert padded([[1, 2], []])[0].dtype == int
    assert padded([[True], []])[0].dtype == bool


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([],), "at least one array"),
        (([[1], [[1]]],), r"arrays\[0\] has the shape \(1,\) and arrays\[1\] \(1, 1\)"),
        (([[1], [1, 2, 3]], 2), r"width=2 .* arrays\[1\] has 3 places: take a greater width"),
        (([[1], [1, 2]], 2, 0.5), "fill=0.5 must be .* int64"),
        (([[1], [1, 2]], 2, np.nan), "fill=nan must be .* int64"),
        (([[True], []], 2, np.nan), "fill=nan must be .* bool"),
        ((np.ones((1, 1), np.float32), 2, 1e300), r"fill=1e\+300 must be .* float32"),
        (([["a"]],), r"arrays\[0\] must be an array of numbers.*<U1"),
        (([1, 2],), r"arrays\[0\] must be an array of numbers with an axis"),
        (([[[1], [1, 2]]],), r"arrays\[0\] must be one array of numbers; NumPy says"),
        (([np.ma.array([1])],), r"arrays\[0\] is a masked array"),
    ],
)
def test_what_cannot_be_padded_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        padded(*arguments)


# Groups


def test_each_example_goes_to_the_first_width_that_holds_it():
    groups = by_length(problem(), MASK, (2, 4, 6))
    assert [rows.tolist() for rows in groups.rows] == [[1, 3], [0, 4, 6], [2, 5, 7]]
    assert [group["y"].tags.shape for group in groups] == [(2, 2), (3, 4), (3, 6)]
    for group, rows in zip(groups, groups.rows, strict=True):
        width = group["mask"].shape[1]
        whole = problem()
        np.testing.assert_array_equal(group["x"], whole["x"][rows, :width])
        np.testing.assert_array_equal(group["weight"], whole["weight"][rows])
        assert group["mask"].sum(axis=1).tolist() == LENGTHS[rows].tolist()
        assert isinstance(group["y"], Pair)


def test_only_the_second_axis_is_cut_and_only_where_it_has_the_places():
    for group in by_length(problem(), MASK, [6]):
        assert group["y"].heads.shape == (8, 6, 8)
        assert group["other"][0].shape == (8, 3)
        assert group["other"][1] is None


def test_groups_without_examples_are_left_out():
    groups = by_length(MASK, MASK, (1, 2, 6, 7))
    assert [group.shape for group in groups] == [(1, 1), (1, 2), (6, 6)]
    assert len(groups) == len(groups.rows) == 3


def test_an_example_is_as_long_as_its_last_true():
    mask = np.array([[False, True, False], [False] * 3])
    groups = by_length(mask, mask, (1, 2))
    assert [rows.tolist() for rows in groups.rows] == [[1], [0]]
    assert groups[1].tolist() == [[False, True]]


@pytest.mark.parametrize("widths", [(6,), (2, 4, 6), range(1, 8)])
def test_answers_go_back_to_the_rows_they_are_for(widths):
    whole = problem()
    groups = by_length(whole, MASK, widths)
    tags = groups.back([jnp.asarray(group["y"].tags) for group in groups], width=7, fill=-1)
    np.testing.assert_array_equal(tags[MASK], whole["y"].tags[MASK])
    assert np.all(tags[:, 6:] == -1)
    x = groups.back([group["x"] for group in groups], width=9)
    assert (x.shape, x.dtype) == ((8, 9, 2), np.float32)
    weights = groups.back([group["weight"] for group in groups])
    np.testing.assert_array_equal(weights, whole["weight"])


def test_groups_survive_copies():
    groups = by_length(problem(), MASK, (4, 6))
    for other in copy.deepcopy(groups), pickle.loads(pickle.dumps(groups)):
        assert isinstance(other, data.Groups)
        assert [a.tolist() for a in other.rows] == [a.tolist() for a in groups.rows]
    first = groups[:1]
    assert isinstance(first, data.Groups) and first[0] is groups[0] and len(first.rows) == 1


@pytest.mark.parametrize(
    ("mask", "widths", "said"),
    [
        (MASK + 0, (6,), "mask must be booleans .*got int64"),
        (MASK[0], (6,), r"mask must be booleans \(N, T\).* shape \(7,\)"),
        (MASK[:0], (6,), "N at least 1"),
        (MASK, (), r"widths must be .* ascend.* got \(\)"),
        (MASK, (4, 4, 6), "widths must be .* ascend"),
        (MASK, (6, 4), "widths must be .* ascend"),
        (MASK, (0, 6), "from 1"),
        (MASK, (4, 9), "at most the 7 places"),
        (MASK, (2, 5), "row 2 has 6 places and widths end at 5: end them at 6"),
    ],
)
def test_masks_and_widths_that_make_no_groups_are_refused(mask, widths, said):
    with pytest.raises(ValueError, match=said):
        by_length(problem(), mask, widths)


def test_arrays_of_other_rows_are_named():
    with pytest.raises(ValueError, match=r"data\['y'\]\.heads must have the 8 rows of the mask.*7"):
        by_length(problem() | {"y": Pair(MASK, MASK[:7])}, MASK, (6,))
    with pytest.raises(ValueError, match=r"data\['x'\]\[0\] must be an array of numbers"):
        by_length({"x": [3]}, MASK, (6,))


def test_answers_of_other_shapes_are_refused():
    groups = by_length(problem(), MASK, (4, 6))
    tags = [group["y"].tags for group in groups]
    for answers in tags[::-1], tags[:1], []:
        with pytest.raises(ValueError, match=r"answers must hold arrays of \[5, 3\] rows"):
            groups.back(answers, width=7)
    with pytest.raises(ValueError, match="width=5 must hold the longest"):
        groups.back(tags, width=5)
    with pytest.raises(ValueError, match=r"answers\[0\] has the shape \(1, 4\).*\(1, 6\)"):
        groups.back(tags)
    with pytest.raises(ValueError, match="one array to each of 2 groups, got 1"):
        data.Groups(tags, groups.rows[:1])
