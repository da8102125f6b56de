"""From arguments to an exit code: 0, 1 wrong data, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM; no traceback for these."""

import contextlib
import importlib
import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from spen_jax import starting
from spen_jax.cli import hosts
from spen_jax.cli.ending import advise, advised
from spen_jax.cli.saying import Usage, Wrong, one_line
from spen_jax.starting import CODES, SAID
from spen_jax.training import Stopped

PROGRAM = "spen-jax"
NEEDED = {"tyro", "rich", "sklearn", "safetensors", "scipy"}
"""What the extra `cli` brings, by the names of modules."""
WRONG, USAGE = 1, 2
GRACE = 5.0
"""Seconds that a signal leaves to what cannot be broken off, such as a compilation; a second signal leaves none."""


class _Terminated(BaseException):
    """SIGTERM has come."""

    code = CODES[signal.SIGTERM]


def run() -> NoReturn:
    """The program `spen-jax`: `main` with the arguments of the process, whose exit code becomes its own.

    It never returns; in a program of your own call `main`.
    """
    starting.end_at_once()
    sys.unraisablehook = _hushed
    for name in ("stdin", "stdout", "stderr"):  # closed ones leave their numbers to files
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
    logging.getLogger("spen_jax").setLevel(logging.ERROR)  # what is said of a signal is said once
    with contextlib.suppress(ImportError):  # which main speaks of
        importlib.import_module("spen_jax.cli.commands")
    try:
        with _terminable(), _watched():
            code = main()
            _let_go_of_output()
            hosts.leave(code)
            sys.stderr.flush()
    except (KeyboardInterrupt, _Terminated) as end:  # right before or after it
        code = _ended(end)
    # Threads may be compiling, and the interpreter would wait for them; while it ends, signals have no code.
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the arguments say, by default those of the process, and returns the exit code.

    `main(["predict", "tickets", "tickets.csv"])`. Results go to standard output, all else to standard error. What is
    wrong with data, files or usage is one line there, and no exception. 0 is done, 1 wrong data or files, 2 wrong
    usage, 130 Ctrl-C, 143 SIGTERM.
    """
    try:
        from spen_jax.cli import commands
    except ImportError as error:
        if (error.name or "").split(".")[0] not in NEEDED:
            raise
        _complain(f"{error.name} is not installed: pip install 'spen_jax[cli]'")
        return WRONG
    except (KeyboardInterrupt, _Terminated) as end:
        return _ended(end)
    advise(None)
    try:
        with _warnings_as_notes():
            commands.parsed(arguments)()
            sys.stdout.flush()
        return 0
    except (KeyboardInterrupt, _Terminated, Stopped) as end:
        return _ended(end)
    except SystemExit as end:  # of the parser, which has said what it could not parse
        return end.code if isinstance(end.code, int) else USAGE
    except Usage as error:
        _complain(f"{one_line(error)}; --help says more")
        return USAGE
    except BrokenPipeError:  # whoever read the output has enough
        return 0
    except (Wrong, OSError, ValueError, FloatingPointError, MemoryError) as error:
        _complain(one_line(error))
        return WRONG


def _hushed(unraisable: Any) -> None:
    """A signal that a callback of a library has swallowed is no traceback: the watch has heard it too."""
    if not issubclass(unraisable.exc_type, (KeyboardInterrupt, _Terminated)):
        sys.__unraisablehook__(unraisable)


def _complain(what: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it, or it is full
        print(f"{PROGRAM}: {what}", file=sys.stderr, flush=True)


def _ended(end: BaseException) -> int:
    code = getattr(end, "code", CODES[signal.SIGINT])
    _complain(advised(SAID[code]))
    return code


def _let_go_of_output() -> None:
    """Standard output or error that takes no more is left, so that the interpreter does not try again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does, so that files are closed; a signal that is ignored stays so."""

    def end(number, frame):
        raise _Terminated

    before = {number: signal.getsignal(number) for number in CODES}
    for number, how in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, end)):
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, how)
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)


@contextmanager
def _watched() -> Iterator[None]:
    """A signal ends the process within the grace, whatever the main thread is at and whoever swallows exceptions."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch():
        while number := os.read(heard, 1):
            if (code := CODES.get(signal.Signals(number[0]))) is not None:
                select.select([heard], [], [], GRACE)
                _complain(advised(SAID[code]))
                os._exit(code)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Warnings in one line, without the place in the code."""

    def show(message, category, filename, lineno, file=None, line=None):
        print(f"{PROGRAM}: {one_line(message)}", file=sys.stderr)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before
