"""SIGTERM and Ctrl-C while trainings run: noted, and heard once the step is over.

Between epochs, where the caller's code runs, Ctrl-C is what it always was, and SIGTERM waits for the training to go on
or to be left; a second one does not wait.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
_before: dict[int, Any] = {}
_listeners: list["Listener"] = []


class Listener:
    """One training that is asked to stop: `number` is the signal that came while it was `working`."""

    def __init__(self):
        self.number: int | None = None
        self.working = True


@contextmanager
def listening() -> Iterator[Listener]:
    """A `Listener` within the block, in the main thread; elsewhere, and where signals are ignored, it hears nothing.

    What came and was not asked for is sent again at the end: nothing is swallowed.
    """
    heard = Listener()
    if threading.current_thread() is threading.main_thread() and not _listeners:
        for number in CODES:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN and handler is not None:
                _before[number] = signal.signal(number, _note)
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners.remove(heard)
        if not _listeners:
            _restore()
        if heard.number is not None:
            os.kill(os.getpid(), heard.number)


def _note(number, frame):
    asked = [
        each
        for each in _listeners
        if each.number is None and (each.working or number == signal.SIGTERM)
    ]
    for each in asked:
        each.number = number
    if asked:
        return
    handler: Callable[..., Any] | int | None = _before.get(number, signal.SIG_DFL)
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _restore():
    """The handlers of before, where ours still stand; only the main thread may, and elsewhere ours pass all on."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in [n for n in _before if signal.getsignal(n) is _note]:
        signal.signal(number, _before.pop(number))
