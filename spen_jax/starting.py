"""While the command `spen-jax` is imported a signal ends it in one line, in place of a traceback.

The package imports this module first, and nothing else happens where it is imported as a library.
"""

import os
import signal
import sys

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""The exit code of each signal that ends the command."""
SAID = {130: "interrupted", 143: "terminated"}


def is_command() -> bool:
    """Whether this process is `spen-jax`, or `python -m spen_jax`."""
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if program == "-m":  # what follows is being looked for
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == ["spen_jax"]
    return program in ("spen-jax", "spen-jax.exe")


def end_at_once() -> None:
    """From now on SIGINT and SIGTERM end the process with their line and exit code, unless they are ignored."""
    for number in CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number, frame):
    try:
        os.write(2, f"spen-jax: {SAID[CODES[number]]}\n".encode())
    finally:
        os._exit(CODES[number])


if is_command():
    end_at_once()
