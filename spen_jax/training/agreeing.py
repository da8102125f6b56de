"""What several processes do after the same step: write because it is time, stop because one of them heard a signal.

Each counts its steps; after the same number of them all say what they know and hear the others. That waits for the
devices and takes about a millisecond, so that it is done after each step of SECONDS or more, and about as often as that
where steps are shorter.
"""

import time

from spen_jax import parallel
from spen_jax.training.signals import Listener

SECONDS = 1.0


class Agreed:
    """Called after each step with the `Listener` and whether it is time; see the module."""

    def __init__(self):
        self._left, self._every, self._took, self._clock = 1, 1, SECONDS, time.monotonic()

    def __call__(self, heard: Listener, due: bool) -> tuple[int | None, bool]:
        """(signal or None, whether to write), the same in all processes."""
        if parallel.several():
            self._left -= 1
            if self._left:
                return None, False
        number, heard.number = heard.number, None
        if not parallel.several():
            return number, due
        rows = [
            text.split() for text in parallel.gathered(f"{number or 0} {int(due)} {self._took}")
        ]
        took = max(float(seconds) for _, _, seconds in rows)
        self._every = max(1, min(2 * self._every, int(SECONDS * self._every / took)))
        self._left, now = self._every, time.monotonic()
        self._took, self._clock = max(now - self._clock, 1e-6), now
        return max(int(n) for n, _, _ in rows) or None, rows[0][1] == "1"
