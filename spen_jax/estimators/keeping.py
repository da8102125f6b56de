"""Trainings of estimators within a `training.resumable` block: after each epoch kept, and gone on with to the bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from spen_jax import parallel
from spen_jax.training import State
from spen_jax.training.positions import Position, fingerprint
from spen_jax.training.resuming import checkpoints_of

_WORD = 2**64 - 1


def over_processes(tree: Any) -> Any:
    """Arrays that a training of several processes works on, everywhere; of one process as they are."""
    return parallel.everywhere(tree) if parallel.several() else tree


def whole(a: Any) -> Any:
    """An array of theirs in this process alone."""
    return parallel.fetched(a) if parallel.several() else a


class SoFar(NamedTuple):
    """What a training stands at and has found after so many epochs."""

    state: State
    flat: Any
    """The best parameters (P,), of epoch `epoch` and held-out loss `loss`."""
    loss: float = np.inf
    epoch: int = 0
    figures: tuple[tuple[float, float], ...] = ()
    """Of each epoch the loss in training and of held-out rows, NaN where there is none."""

    @property
    def epochs(self) -> int:
        """That are over."""
        return len(self.figures)

    @property
    def losses(self) -> tuple[float, ...]:
        """Of held-out rows after each epoch; () where none are held out."""
        return tuple(held for _, held in self.figures if held == held)


@contextmanager
def kept(
    start: SoFar, rng: np.random.Generator, data: Any, *settings: Any
) -> Iterator[tuple[SoFar, Callable[[SoFar, bool], None]]]:
    """Where a training begins, and what to call after each epoch, with whether it was the last.

    Within a `resumable` block it begins at its newest checkpoint, and `rng` stands where it stood then. Data and
    settings are what else two trainings differ by, besides the parameters and the key that they begin with.
    """
    checkpoints = checkpoints_of(None)
    if checkpoints is None:
        yield start, lambda now, over: None
        return
    checkpoints.extra = _extra(start, rng)
    begun = fingerprint(_position(start), data, repr(settings))
    with checkpoints.training(_position(start), begun) as at:
        extra = checkpoints.extra
        _set_rng(rng, extra["rng"])
        figures = tuple((float(a), float(b)) for a, b in extra["figures"])
        found = SoFar(at.state, extra["flat"], extra["loss"], extra["epoch"], figures)

        def after(now: SoFar, over: bool) -> None:
            checkpoints.extra = _extra(now, rng)
            checkpoints.after_step(now.epochs, lambda: _position(now), ended=over)

        yield found, after


def _position(now: SoFar) -> Position:
    return Position(now.state, {}, [], np.zeros(0, np.uint32), {}, epoch=now.epochs)


def _extra(now: SoFar, rng: np.random.Generator) -> dict[str, Any]:
    figures = np.array(now.figures, np.float64).reshape(-1, 2)
    return {
        "flat": np.asarray(now.flat),
        "loss": float(now.loss),
        "epoch": now.epoch,
        "figures": figures,
        "rng": _words(rng),
    }


def _words(rng: np.random.Generator) -> np.ndarray:
    """The state of a PCG64 generator, uint64 (6,)."""
    said: Any = rng.bit_generator.state
    wide = [said["state"]["state"], said["state"]["inc"]]
    words = [part for n in wide for part in (n & _WORD, n >> 64)]
    return np.array([*words, said["has_uint32"], said["uinteger"]], np.uint64)


def _set_rng(rng: np.random.Generator, words: np.ndarray) -> None:
    a, b, c, d, has, left = map(int, words)
    said: Any = rng.bit_generator.state
    state = {"state": a | b << 64, "inc": c | d << 64}
    rng.bit_generator.state = said | {"state": state, "has_uint32": has, "uinteger": left}
