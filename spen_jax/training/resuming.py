"""Checkpoints of a training: all that it needs to go on to the same numbers, written while it runs.

Orbax writes them: each a folder that takes its name once it is whole, in the background. Several processes write them
together, into a folder that all see, and another number of them goes on; each then calls what one would.
"""

import itertools
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax

from spen_jax import parallel
from spen_jax.checks import check_positive, check_whole
from spen_jax.training.agreeing import Agreed
from spen_jax.training.positions import (
    CheckpointError,
    Position,
    arrays_of_tree,
    plain,
    restored,
    rows_of,
)
from spen_jax.training.signals import CODES, Listener, listening
from spen_jax.training.storing import loaded, saved, verified

try:
    import fcntl
except ImportError:
    fcntl = None

log = logging.getLogger("spen_jax")
OLD = ".old-"


class Stopped(SystemExit):
    """A signal stopped a training once its step was over and written; the exit code is 143 or 130, as in shells.

    A SystemExit, which `fit` raises where it keeps `Checkpoints`: 143 after SIGTERM, 130 after Ctrl-C.
    """


class Checkpoints:
    """A folder in which a training keeps its checkpoints, and from which the same call goes on.

    `fit(..., checkpoints=Checkpoints("runs/a/checkpoints"))` begins where the newest checkpoint stands, if there is
    one, and ends at parameters that are those of a run without a break, to the bit. SIGTERM and Ctrl-C let the step
    end, write it, and raise `Stopped`.

    Attributes:
      folder: new, empty, or that of the same training. One training at a time may use it, and of several processes all
        must see it.
      every_minutes: how often to write, > 0; None for `every_steps` alone. Of several processes the first decides.
      every_steps: how often to write, besides.
      keep: how many of the newest stay.
      skip_damaged: whether one that is damaged is renamed and gives way to the one before it, which is logged; else it
        is refused.
      extra: a tree of arrays and numbers of the caller, such as the best parameters so far: set it before the training
        and after each epoch; where a training goes on it is what was written.
      over: whether a training with this extra has come to its end before its last epoch, as by early stopping.
      epochs: how many epochs are over, where `fit` yields.

    Raises `CheckpointError` when a training begins: for another process at work there, for what is damaged, and for a
    training that began otherwise (parameters, key, data, objective, optimizer, batch size), in all of its processes.
    ValueError for numbers that are not positive, and where neither minutes nor steps are given.
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
        if every_minutes is None and every_steps is None:
            raise ValueError("Checkpoints need every_minutes or every_steps, got None for both")
        if every_minutes is not None:
            check_positive("every_minutes", every_minutes)
        self.folder, self.keep, self.skip_damaged = Path(folder).absolute(), keep, skip_damaged
        self.every_minutes, self.every_steps, self.extra = every_minutes, every_steps, extra
        self.over: Callable[[Any], bool] = lambda extra: False
        self.epochs = 0
        self._written = self._pending = None
        self.heard = Listener()

    @contextmanager
    def training(self, start: Position, begun: str) -> Iterator[Position]:
        """Of a `with` block that trains: the position to begin at, that given or the newest one written.

        `begun` says what the training began with: checkpoints of another beginning are refused.
        """
        self._begun, self._structure = begun, jax.tree.structure(self.extra)
        self._written, self._clock, self._agreed = None, time.monotonic(), Agreed()
        if {*parallel.gathered(begun)} != {begun}:
            raise CheckpointError(
                "the processes of this training begin with other parameters, another key, other data or another "
                "objective than each other: give all of them the same"
            )
        with locked(self.folder), listening() as self.heard, _alone():
            with parallel.together(CheckpointError):
                self._tidy()
            try:
                yield self._newest(start)
            finally:
                self._settle()

    def after_step(self, steps: int, now: Callable[[], Position], ended: bool = False) -> None:
        """Writes the position after so many steps if it is time, or all is over; `Stopped` where a signal has come."""
        minutes = (time.monotonic() - self._clock) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        number, due = self._agreed(self.heard, due)
        due |= self.every_steps is not None and steps % self.every_steps == 0
        if due or ended or number:
            self._write(now())
        if number:
            self._settle()
            self.heard.number = None  # to stop is what it asked for, at whichever of the processes
            name = signal.Signals(number).name
            log.warning("%s: step %d is written to %s", name, steps, self.folder)
            raise Stopped(CODES[signal.Signals(number)])

    def _write(self, now):
        self._settle()
        if self._written == now.number:
            return
        if jax.tree.structure(self.extra) != self._structure:
            raise CheckpointError(
                f"extra was {self._structure} when the training began, and is {jax.tree.structure(self.extra)}: keep "
                "its structure, in which arrays may grow, and give a first value in place of None"
            )
        arrays = arrays_of_tree({"position": plain(now), "extra": self.extra})
        saving = saved(self.folder / str(now.number), self._begun, arrays)
        self._pending, self._clock = (saving, now.number), time.monotonic()

    def _settle(self):
        if self._pending is not None:
            (saving, number), self._pending = self._pending, None
            saving.result()
            self._written = number
            for old in self._there()[self.keep :] if parallel.leading() else ():
                # A removal that is broken off must not look like a checkpoint.
                gone = self.folder / f"{OLD}{old}"
                (self.folder / str(old)).rename(gone)
                shutil.rmtree(gone)

    def _there(self):
        """The numbers of the checkpoints, the newest first."""
        return sorted(
            (int(p.name) for p in self.folder.iterdir() if p.name.isdecimal()), reverse=True
        )

    def _newest(self, start):
        like = {"position": plain(start), "extra": self.extra}
        numbers = " ".join(map(str, self._there())) if parallel.leading() else ""
        for step in map(int, parallel.gathered(numbers)[0].split()):
            try:
                said, arrays = self.read(step, like)
            except Exception as error:  # bytes that are not what was written
                why = str(error).split("\n")[0]  # Orbax adds pages to it
                where = f"{self.folder / str(step)} is damaged: {why[:120]}"
                if not self.skip_damaged:
                    raise CheckpointError(
                        f"{where}; delete that folder, or give skip_damaged=True, to go on from the one before it"
                    ) from error
                log.warning("%s; it is renamed, and the one before it taken", where)
                with parallel.together(CheckpointError):
                    if parallel.leading():
                        gone = self.folder / f"damaged-{step}-{time.time_ns()}"
                        (self.folder / str(step)).rename(gone)
                continue
            if said["begun"] != self._begun:
                raise CheckpointError(
                    f"{self.folder} has checkpoints of a training that began otherwise: with other parameters, "
                    "another key, other data, another objective, optimizer or batch size, or another version of JAX; "
                    "give another folder, or what that one began with"
                )
            self._written = step
            tree = restored(like, arrays)
            self.extra = tree["extra"]
            at = Position(**tree["position"])
            return at._replace(history=rows_of(at.history))
        return start

    def read(self, number: int, like: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """What one checkpoint says of itself, and its arrays; an exception where it is not what was written.

        An array of which no process has the whole in the tree `like` is read in parts, as that one lies.
        """
        with parallel.together(CheckpointError):
            found = loaded(self.folder / str(number), arrays_of_tree(like))
        with parallel.together(CheckpointError):
            verified(*found)
        return found

    def _tidy(self):
        """Without what writers and removers that were killed left behind."""
        for path in self.folder.iterdir() if parallel.leading() else ():
            if path.name.startswith(OLD) or ".orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path)


class _Block:
    """A `resumable` block: what makes the next checkpoints, and how many trainings are open in it."""

    def __init__(self, folder, options):
        self.count, self.folder, self.options, self.open = itertools.count(1), folder, options, 0

    def next(self):
        return Checkpoints(self.folder / str(next(self.count)), **self.options)


_block: ContextVar[_Block | None] = ContextVar("resumable", default=None)


@contextmanager
def resumable(folder: str | Path, **options: Any) -> Iterator[None]:
    """Every training that begins within the block keeps checkpoints under `folder`, and goes on from them.

    The first one in `folder/1`, the next in `folder/2`, ...: a program that is run again as it was passes those that
    are over in a moment, and goes on in the middle of the one that was broken off. `options` are those of
    `Checkpoints`. What is no training (`scan`, a loop of one's own), and a training that begins while another one of
    the block is open, as within a validation score, runs again. Raises in the block what `Checkpoints` does.
    """
    token = _block.set(_Block(Path(folder), options))
    try:
        yield
    finally:
        _block.reset(token)


@contextmanager
def _alone():
    block = _block.get()
    if block is None:
        yield
        return
    block.open += 1
    try:
        yield
    finally:
        block.open -= 1


def checkpoints_of(given: Checkpoints | str | Path | None) -> Checkpoints | None:
    """Those given; of a folder; the next ones of the `resumable` block around, where there is one."""
    if isinstance(given, str | Path):
        return Checkpoints(given)
    block = _block.get()
    return block.next() if given is None and block is not None and not block.open else given


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made where it is not there, for this training alone; `CheckpointError` where another one has it.

    Of several processes the first has the lock, which the system lets go of when it ends, in whatever way. Without
    `fcntl` (Windows) nothing is locked.
    """
    with ExitStack() as held:
        with parallel.together(CheckpointError):
            if parallel.leading():
                held.enter_context(_locked(folder))
        yield


@contextmanager
def _locked(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(
                    f"another process trains in {folder}: wait for it, or give another folder"
                ) from None
        yield
