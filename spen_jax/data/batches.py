"""Sequences of many lengths as arrays of one length, or of a few. NumPy only.

N examples of up to T places stand in arrays (N, T, ...), beside a `mask` bool (N, T) that is True
where an example has a place. Steps that read all T places of short examples waste most of their
time; `by_length` makes a few groups of them, each as wide as its longest examples need.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


class Groups(tuple):
    """Groups of examples of about equal length, one tree of arrays each.

    `rows`, one int array (n,) to each group, says which rows of all the data its examples were. `by_length`
    makes them, `training.fit` takes them, and `groups.back(answers)` puts answers in the data's order.
    """

    rows: tuple[np.ndarray, ...]

    def __new__(cls, groups: Iterable[Any], rows: Iterable[Any]) -> "Groups":
        """ValueError unless there are as many groups as arrays of rows."""
        made = super().__new__(cls, groups)
        made.rows = tuple(np.asarray(row) for row in rows)
        if len(made) != len(made.rows):
            raise ValueError(
                f"rows must hold one array to each of {len(made)} groups, got {len(made.rows)}"
            )
        return made

    def __getnewargs__(self) -> tuple:
        return tuple(self), self.rows

    def __getitem__(self, place: Any) -> Any:
        """One group, or of a slice `Groups`."""
        found = super().__getitem__(place)
        return Groups(found, self.rows[place]) if isinstance(place, slice) else found

    def back(self, answers: Sequence[Any], width: int | None = None, fill: float = 0) -> np.ndarray:
        """What was found for each group, in the order of the data's rows.

        `answers`: one array (n, ...) to each group, or, with a `width`, (n, t, ...) of any t up to
        it; the result is (N, ...), or (N, width, ...) with `fill` beyond t. ValueError for other
        shapes, and for a fill that the type of the answers does not hold.
        """
        found = [_numbers(f"answers[{i}]", a) for i, a in enumerate(answers)]
        if [len(a) for a in found] != [len(row) for row in self.rows] or not found:
            raise ValueError(
                f"answers must hold arrays of {[len(row) for row in self.rows]} rows, one to each "
                f"group, got {[len(a) for a in found]}: give them in the order of the groups"
            )
        examples = [example for a in found for example in a]
        if width is not None:
            stacked, _ = padded(examples, width, fill)
        else:
            _check_alike("answers", [a[:1] for a in found])
            stacked = np.concatenate(found)
        together = np.empty_like(stacked)
        together[np.argsort(np.argsort(np.concatenate(self.rows)))] = stacked
        return together


def padded(
    arrays: Sequence[Any], width: int | None = None, fill: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """N arrays (t, ...) of various lengths t as one array (N, T, ...), and its mask bool (N, T).

    T is `width`, or the greatest length; beyond an array's own places stands `fill`. The type is
    the one that holds all that are not empty. ValueError for no arrays, for shapes that differ in more than
    their lengths, for an array longer than `width`, and for a fill that the type does not hold.
    """
    found = [_numbers(f"arrays[{i}]", a) for i, a in enumerate(arrays)]
    if not found:
        raise ValueError("arrays must hold at least one array, got none")
    _check_alike("arrays", found)
    lengths = np.array([len(a) for a in found])
    width = int(lengths.max()) if width is None else operator.index(width)
    if lengths.max() > width:
        raise ValueError(
            f"width={width} must hold the longest array, but arrays[{lengths.argmax()}] has "
            f"{lengths.max()} places: take a greater width, or cut it"
        )
    dtype = np.result_type(*({a.dtype for a in found if a.size} or {a.dtype for a in found}))
    with np.errstate(over="ignore", invalid="ignore"):
        filler = np.asarray(float(fill)).astype(dtype)
    held = dtype.kind in "fc" and np.isfinite(filler) == np.isfinite(fill)
    if not held and not (np.isfinite(fill) and float(filler) == fill):
        raise ValueError(f"fill={fill} must be a number that the arrays' type {dtype} holds")
    stacked = np.full((len(found), width, *found[0].shape[1:]), filler)
    for row, array in zip(stacked, found, strict=True):
        row[: len(array)] = array
    return stacked, np.arange(width) < lengths[:, None]


def by_length(data: Any, mask: Any, widths: Sequence[int]) -> Groups:
    """Group N examples by their lengths: each goes to the first of `widths` that holds it.

    `data` is a dict, tuple, list or NamedTuple, nested as you like, of arrays (N, ...); None stays.
    `mask` (N, T), bool: an example is as long as its last True. A group of width w is a tree like
    the data, of its examples alone, in which every array (n, T, ...) is cut to (n, w, ...): axis 1
    where its size is T, and no other axis. So of scores (N, T, T + 1) the last axis stays, and
    features (N, D) are cut where D happens to be T, and edges (N, m, 2) where m is: give them as
    (N, 1, D) and (N, 1, m, 2), or T one place more than either. Groups without examples
    are left out.

    ValueError for a mask or arrays of other shapes, for widths that do not ascend from 1 to at most
    T, and if an example is longer than the last of them.
    """
    found = _numbers("mask", mask)
    if found.ndim != 2 or found.dtype != bool or not len(found):
        raise ValueError(
            f"mask must be booleans (N, T), N at least 1, got {found.dtype} of shape {found.shape}"
        )
    n, places = found.shape
    lengths = np.max(found * np.arange(1, places + 1), axis=1, initial=0)
    bounds = [operator.index(width) for width in widths]
    if not bounds or bounds != sorted({*bounds}) or not 1 <= bounds[0] <= bounds[-1] <= places:
        raise ValueError(
            f"widths must be whole numbers that ascend, from 1 to at most the {places} places of "
            f"the mask, got {widths}: pad to more places, or leave out what is wider"
        )
    if lengths.max() > bounds[-1]:
        raise ValueError(
            f"the last of widths must hold the longest example, but row {lengths.argmax()} has "
            f"{lengths.max()} places and widths end at {bounds[-1]}: end them at {lengths.max()}"
        )
    leaves = _map(lambda name, leaf: _checked(name, leaf, n), "data", data)
    place = np.searchsorted(bounds, lengths)
    groups, rows = [], []
    for i, width in enumerate(bounds):
        if len(chosen := np.flatnonzero(place == i)):
            groups.append(_cut(leaves, chosen, places, width))
            rows.append(chosen)
    return Groups(groups, rows)


def _cut(tree: Any, rows: np.ndarray, places: int, width: int) -> Any:
    """Some rows of each array, and of its axis 1 the first `width` places where it has them all."""

    def cut(_: str, array: np.ndarray) -> np.ndarray:
        has_places = array.ndim > 1 and array.shape[1] == places
        return array[rows, :width] if has_places else array[rows]

    return _map(cut, "data", tree)


def _checked(name: str, leaf: Any, n: int) -> np.ndarray:
    array = _numbers(name, leaf)
    if len(array) != n:
        raise ValueError(
            f"{name} must have the {n} rows of the mask, one to each example, got {len(array)}"
        )
    return array


def _map(function: Callable[[str, Any], Any], name: str, tree: Any) -> Any:
    """The tree with each leaf but None replaced by function(name, leaf)."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: _map(function, f"{name}[{key!r}]", value) for key, value in tree.items()}
    if isinstance(tree, tuple) and (fields := getattr(tree, "_fields", None)):
        named = zip(fields, tree, strict=True)
        return type(tree)(*(_map(function, f"{name}.{field}", value) for field, value in named))
    if isinstance(tree, tuple | list):
        return type(tree)(_map(function, f"{name}[{i}]", value) for i, value in enumerate(tree))
    return function(name, tree)


def _check_alike(name: str, arrays: Sequence[np.ndarray]) -> None:
    """ValueError unless all shapes are alike but for their first axis."""
    for i, array in enumerate(arrays):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"{name} must differ in their lengths only, but {name}[0] has the shape "
                f"{arrays[0].shape} and {name}[{i}] {array.shape}"
            )


def _numbers(name: str, values: Any) -> np.ndarray:
    """`values` as an array of numbers with at least one axis; ValueError, by name, for others."""
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array, whose mask would be lost: give its data")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be one array of numbers; NumPy says: {error}") from error
    if array.dtype.kind in "OSUMm" or not array.ndim:
        raise ValueError(
            f"{name} must be an array of numbers with an axis, got {array.dtype} of shape {array.shape}"
        )
    return array
