"""What has to be removed where a command ends before its time, also by a thread that ends the process."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_removals: list[Callable[[], None]] = []


@contextmanager
def removed_unless_over(remove: Callable[[], None]) -> Iterator[None]:
    """Calls `remove` where the block ends by an exception, or `clean_up` comes before its end."""
    _removals.append(remove)
    try:
        yield
    except BaseException:
        remove()
        raise
    finally:
        _removals.remove(remove)


def clean_up() -> None:
    """Removes what the blocks at work have written so far."""
    for remove in _removals[::-1]:
        with contextlib.suppress(OSError):
            remove()
