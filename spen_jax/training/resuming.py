"""Checkpoints of a training: all that it needs to go on to the same numbers, written while it runs.

Orbax writes them: each a folder that takes its name once it is whole, in the background, on any number of processes.
"""

import hashlib
import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.checks import check_positive, check_whole

log = logging.getLogger("spen_jax")
VERSION = 1
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another training, or in use; the message names it and says what to do."""


class Stopped(SystemExit):
    """A signal stopped a training once its step was over and written; the exit code is 143 or 130, as in shells."""


class Position(NamedTuple):
    """Where a training stands between two steps."""

    state: Any
    """The `training.State`."""
    fields: dict[str, Any]
    """What the objective wrote into the data, such as chains."""
    history: list[dict[str, Any]]
    """The metrics of this epoch's steps so far; none between two epochs."""
    order_key: Any
    """Of this epoch's order."""
    means: dict[str, Any]
    """The metrics of the last whole epoch."""
    epoch: int = 0
    """Whole epochs."""
    steps: int = 0
    """Taken in all."""

    @property
    def number(self) -> int:
        """Of its checkpoint: one more with each step and each end of an epoch."""
        return self.steps + self.epoch


class Checkpoints:
    """A folder in which a training keeps its checkpoints, and from which the same call goes on.

    `fit(..., checkpoints=Checkpoints("runs/a/checkpoints"))` begins where the newest checkpoint stands, if there is
    one, and ends at parameters that are those of a run without a break, to the bit. SIGTERM and Ctrl-C let the step
    end, write it, and raise `Stopped`.

    Attributes:
      folder: new, empty, or that of the same training. One process at a time may use it.
      every_minutes: how often to write; None for `every_steps` alone.
      every_steps: how often to write, besides.
      keep: how many of the newest stay.
      skip_damaged: whether one that is damaged gives way to the one before it, which is logged; else it is refused.
      extra: a tree of arrays and numbers of the caller, such as the best parameters so far: set it before the training
        and after each epoch; where a training goes on it is what was written.
      over: whether a training with this extra has come to its end before its last epoch, as by early stopping.
      epochs: how many epochs are over, where `fit` yields.

    Raises `CheckpointError` when a training begins: for another process at work there, for what is damaged, and for a
    training that began otherwise (parameters, key, shapes of the data, batch size).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_minutes: float | None = 1.0,
        every_steps: int | None = None,
        keep: int = 2,
        skip_damaged: bool = False,
        extra: Any = None,
    ):
        check_whole("keep", keep, 1)
        if every_steps is not None:
            check_whole("every_steps", every_steps, 1)
        if every_minutes is not None:
            check_positive("every_minutes", every_minutes)
        self.folder, self.keep, self.skip_damaged = Path(folder).absolute(), keep, skip_damaged
        self.every_minutes, self.every_steps, self.extra = every_minutes, every_steps, extra
        self.over: Callable[[Any], bool] = lambda extra: False
        self.epochs = 0
        self._written = self._pending = self._signal = None
        self._clock = time.monotonic()

    @contextmanager
    def training(self, start: Position, sizes: Any) -> Iterator[Position]:
        """Of a `with` block that trains: the position to begin at, that given or the newest one written."""
        self._begun = _fingerprint(start, sizes)
        with _locked(self.folder), self._orbax(), self._listening():
            self._clock = time.monotonic()
            yield self._newest(start)

    def after_step(self, now: Position, ended: bool = False) -> None:
        """Writes the position if it is time, or the training has ended; `Stopped` where a signal has come."""
        minutes = (time.monotonic() - self._clock) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        due |= self.every_steps is not None and now.steps % self.every_steps == 0
        if due or ended or self._signal:
            self._write(now)
        if self._signal:
            self._settle()
            name = signal.Signals(self._signal).name
            log.warning("%s: step %d is written to %s", name, now.steps, self.folder)
            raise Stopped(CODES[signal.Signals(self._signal)])

    def _write(self, now):
        if self._written == now.number:
            return
        self._settle()
        arrays = _arrays({"position": _plain(now), "extra": self.extra})
        said = {"version": VERSION, "begun": self._begun, "sha256": _digest(arrays)}
        # Orbax takes no array without numbers.
        said["empty"] = {n: [a.shape, a.dtype.str] for n, a in arrays.items() if not a.size}
        full = {name: a for name, a in arrays.items() if a.size}
        # One of this number that is there already is damaged.
        self._pending = self._checkpointer.save_async(
            now.number, full, custom_metadata=said, overwrite=True
        )
        self._written, self._clock = now.number, time.monotonic()

    def _settle(self):
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _newest(self, start):
        for step in sorted((c.step for c in self._checkpointer.checkpoints), reverse=True):
            try:
                said, arrays = self.read(step)
            except Exception as error:  # bytes that are not what was written
                why = str(error).split("\n")[0]  # Orbax adds pages to it
                where = f"{self.folder / str(step)} is damaged: {why[:120]}"
                if not self.skip_damaged:
                    raise CheckpointError(
                        f"{where}; delete that folder, or give skip_damaged=True, to go on from the one before it"
                    ) from error
                log.warning("%s; the one before it is taken", where)
                continue
            if said["begun"] != self._begun:
                raise CheckpointError(
                    f"{self.folder} has checkpoints of a training that began with other parameters, another key, data "
                    "of other shapes or another batch size: give another folder, or what that one began with"
                )
            self._written = step
            tree = _restored({"position": _plain(start), "extra": self.extra}, arrays)
            self.extra = tree["extra"]
            at = Position(**tree["position"])
            return at._replace(history=_rows(at.history))
        return start

    def read(self, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What one checkpoint says of itself, and its arrays; an exception where it is not what was written."""
        import orbax.checkpoint.experimental.v1 as ocp

        where = str(self.folder / str(number))
        said: Any = ocp.metadata(where).custom_metadata
        if said["version"] != VERSION:
            raise ValueError(f"version {said['version']} of the format, and this reads {VERSION}")
        arrays = {name: np.asarray(a) for name, a in ocp.load(where).items()}
        arrays |= {name: np.zeros(*of) for name, of in said["empty"].items()}
        if _digest(arrays) != said["sha256"]:
            raise ValueError("its checksum is not that of what was written")
        return said, arrays

    @contextmanager
    def _orbax(self):
        import orbax.checkpoint.experimental.v1 as ocp

        policy: Any = ocp.training.preservation_policies.LatestN(self.keep)
        self._checkpointer: Any = ocp.training.Checkpointer(
            str(self.folder), preservation_policy=policy, cleanup_tmp_directories=True
        )
        try:
            yield
            self._settle()
        finally:
            self._checkpointer.close()
            self._pending = None

    @contextmanager
    def _listening(self):
        """Signals are noted while a training runs; a second one does what it always did."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in CODES}

        def note(number, _):
            self._signal = number
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in CODES:
            signal.signal(number, note)
        try:
            yield
        finally:
            self._signal = None
            for number, handler in before.items():
                signal.signal(number, handler)


_ambient: ContextVar[Callable[[], Checkpoints] | None] = ContextVar("resumable", default=None)


@contextmanager
def resumable(folder: str | Path, **options: Any) -> Iterator[None]:
    """Every training that begins within the block keeps checkpoints under `folder`, and goes on from them.

    The first one in `folder/1`, the next in `folder/2`, ...: a program that is run again as it was passes those that
    are over in a moment, and goes on in the middle of the one that was broken off. `options` are those of
    `Checkpoints`. What is no training (`scan`, a loop of one's own) runs again.
    """
    count = itertools.count(1)
    token = _ambient.set(lambda: Checkpoints(Path(folder) / str(next(count)), **options))
    try:
        yield
    finally:
        _ambient.reset(token)


def checkpoints_of(given: Checkpoints | str | Path | None) -> Checkpoints | None:
    """Those given; of a folder; the next ones of the `resumable` block around, where there is one."""
    if isinstance(given, str | Path):
        return Checkpoints(given)
    around = _ambient.get()
    return around() if given is None and around is not None else given


@contextmanager
def _locked(folder):
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"another process trains in {folder}: wait for it, or give another folder"
            ) from None
        yield  # the system lets go of it when the process ends, in whatever way


def _plain(now):
    """A position as a tree of arrays: the history by metric, in one row for each step."""
    history = jax.device_get(now.history)
    names = history[0] if history else {}
    rows = {name: np.stack([step[name] for step in history]) for name in names}
    return now._replace(history=rows)._asdict()


def _rows(history):
    count = len(next(iter(history.values()), ()))
    return [{name: rows[i] for name, rows in history.items()} for i in range(count)]


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(tree):
    """Copies of a tree's leaves by path: nothing that is written can change meanwhile."""

    def plain(leaf):
        return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)

    return {jax.tree_util.keystr(path): plain(a) for path, a in jax.tree.leaves_with_path(tree)}


def _restored(like, arrays):
    """A tree like this one, with the arrays of their paths; history, fields and means are all that were written."""
    free = (f"['position']['{name}']" for name in ("history", "fields", "means"))

    def leaf(path, old):
        array = arrays[jax.tree_util.keystr(path)]
        if _is_key(old):
            return jax.random.wrap_key_data(array, impl=jax.random.key_impl(old))
        if isinstance(old, jax.Array):
            return jax.device_put(array, old.sharding)
        return array if isinstance(old, np.ndarray) else type(old)(array.item())

    tree = jax.tree.map_with_path(leaf, like)
    for part in free:
        name = part.split("'")[3]
        tree["position"][name] = {
            path.removeprefix(part)[2:-2]: a for path, a in arrays.items() if path.startswith(part)
        }
    return tree


def _fingerprint(start, sizes):
    """Of what a training begins with: parameters and key in full, the data by their sizes."""
    return _digest(_arrays(start.state)) + f" {sizes}"


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {a.dtype} {a.shape}".encode())
        digest.update(a.tobytes())
    return digest.hexdigest()
