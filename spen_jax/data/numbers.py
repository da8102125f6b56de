"""Many numbers out of text at once. NumPy only."""

import re
import warnings
from collections.abc import Sequence

import numpy as np

NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
"""What counts as a number: no underscores, no infinities, no hexadecimal digits."""
LARGEST = float(np.finfo(np.float32).max)
_SIGNS = frozenset("0123456789+-.eE ")


def numbers(cells: Sequence[str]) -> np.ndarray | None:
    """float64 of stripped cells that all are a `NUMBER` which float32 can hold; None where one is not."""
    text = " ".join(cells)
    if not _SIGNS.issuperset(text) or text.count(" ") != max(len(cells) - 1, 0):
        return None
    found = parsed(text)
    if len(found) != len(cells) or (len(found) and np.abs(found).max() > LARGEST):
        return None
    return found


def parsed(text: str | bytes) -> np.ndarray:
    """float64 of numbers between blanks, up to the first that is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what cannot be read to its end
        try:
            return np.fromstring(text, sep=" ") if text.strip() else np.empty(0)
        except ValueError:
            return np.empty(0)


_POWERS = 10.0 ** np.arange(23)
_EXACT = 15
"""Digits that a float64 holds whatever they are; it is rounded once then, by the division, as `float` does."""


def numbers_at(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """float64 (n,) of the pieces text[begins:ends] of ASCII bytes, uint8; None where one is not a `NUMBER`.

    Digit by digit of all pieces at once, some times as fast as `np.fromstring`; what has more than a sign, a point
    and 15 digits goes to `float`.
    """
    first = text[begins]
    negative = first == ord("-")
    starts = begins + (negative | (first == ord("+")))
    point = np.zeros(len(begins), np.int64)  # how many characters stand from it to the end
    dots = np.flatnonzero(text == ord("."))
    owners = np.searchsorted(begins, dots, side="right") - 1
    inside = (owners >= 0) & (dots < ends[owners]) if len(begins) else np.zeros(len(dots), bool)
    owners = owners[inside]
    point[owners] = ends[owners] - dots[inside]
    digits = ends - starts - (point > 0)
    hard = (digits > _EXACT) | (digits < 1)
    hard[owners[1:][np.diff(owners) == 0]] = True
    total, last = np.zeros(len(begins)), ends - 1
    for k in range(int(min(digits.max(initial=0), _EXACT))):  # from the last digit on
        place = last - k
        place -= (k >= point - 1) & (point > 0)
        digit = text[place] - np.uint8(ord("0"))
        digit *= digits > k
        hard |= digit > 9
        total += digit * _POWERS[k]
    found = total / _POWERS[np.maximum(point - 1, 0) * ~hard]
    found = np.where(negative, -found, found)
    for i in np.flatnonzero(hard):
        piece = text[begins[i] : ends[i]].tobytes().decode("latin-1")
        if not NUMBER.fullmatch(piece):
            return None
        found[i] = float(piece)
    return found
