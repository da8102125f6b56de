"""What a training yields after each epoch."""

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Epochs(Iterator[T], Generic[T]):
    """An iterator over a training, one result for each epoch: nothing runs before it is looped over.

    What `fit`, `train` and their like return; you do not make one. `last()` runs it to its end. One that goes away
    without either warns (RuntimeWarning) that nothing was trained. What the training raises is raised by the loop.
    """

    def __init__(self, results: Iterator[T], name: str):
        """The results of the epochs, one after the other, and the name of what gave them, for errors and warnings."""
        self._results, self._name, self._begun = results, name, False

    def __iter__(self) -> "Epochs[T]":
        return self

    def __next__(self) -> T:
        self._begun = True
        return next(self._results)

    def last(self) -> T:
        """The result of the last epoch; no other one is kept. ValueError where there is none."""
        last = deque(self, maxlen=1)
        if not last:
            raise ValueError(f"{self._name} has no last epoch: it was given none, or they are over")
        return last[0]

    def __del__(self) -> None:
        if not self._begun:
            warnings.warn(
                f"{self._name} was never looped over, so nothing was trained: write `for result in {self._name}(...)`, "
                f"or `{self._name}(...).last()`",
                RuntimeWarning,
                stacklevel=2,
            )


def epochs(generate: Callable[P, Iterator[T]]) -> Callable[P, Epochs[T]]:
    """The generator function as one that returns its `Epochs`."""

    @wraps(generate)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Epochs[T]:
        return Epochs(generate(*args, **kwargs), generate.__name__)

    return begin
