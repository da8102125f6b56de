"""From arguments to an exit code: 0, 1 wrong data, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM; no traceback for these."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from spen_jax.cli.saying import Usage, Wrong, one_line

PROGRAM = "spen-jax"
NEEDED = {"tyro", "rich", "sklearn", "safetensors", "scipy"}
"""What the extra `cli` brings, by the names of modules."""
WRONG, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class _Terminated(BaseException):
    """SIGTERM has come."""


def run() -> NoReturn:
    """The program: `main` with the arguments of the process, whose exit code becomes its own."""
    code = main()
    if code in (INTERRUPTED, TERMINATED):
        sys.stderr.flush()
        os._exit(code)  # threads may be compiling, and the interpreter would wait for them
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the arguments say, by default those of the process, and returns the exit code.

    Results go to standard output, all else to standard error. What is wrong with data, files or usage is one line
    there.
    """
    try:
        from spen_jax.cli import commands
    except ImportError as error:
        if (error.name or "").split(".")[0] not in NEEDED:
            raise
        _complain(f"{error.name} is not installed: pip install 'spen_jax[cli]'")
        return WRONG
    try:
        with _terminable(), _warnings_as_notes():
            commands.parsed(arguments)()
            sys.stdout.flush()
        return 0
    except (
        SystemExit
    ) as end:  # of the parser: after the help 0, and what it could not parse it has said
        return end.code if isinstance(end.code, int) else USAGE
    except Usage as error:
        _complain(f"{one_line(error)}; --help says more")
        return USAGE
    except BrokenPipeError:
        return _quiet_end()
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except _Terminated:
        _complain("terminated")
        return TERMINATED
    except (Wrong, OSError, ValueError, FloatingPointError, MemoryError) as error:
        _complain(one_line(error))
        return WRONG


def _complain(what: str) -> None:
    print(f"{PROGRAM}: {what}", file=sys.stderr, flush=True)


def _quiet_end() -> int:
    """Whoever read standard output has enough: nothing is left for the interpreter to flush."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stand-in without a number
        pass
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does, so that files are closed and what is half written is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
