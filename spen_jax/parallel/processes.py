"""Several processes: what each says is heard by all. What one did alone would leave the others waiting for ever.

With one process all of this is that process, and costs nothing. Every process has to call these functions, as often as
the others and in the same order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

SIZE = 1024
"""Bytes of a text that are heard."""


def several() -> bool:
    """Whether there are several processes, after `jax.distributed.initialize`: `jax.process_count() > 1`."""
    return jax.process_count() > 1


def gathered(text: str) -> list[str]:
    """What each process says, by its number; of longer texts the first 1024 bytes.

    Every process has to call it, as often as the others and in the same order, with a `text` of its own.
    """
    if not several():
        return [text]
    from jax.experimental import multihost_utils

    row, said = np.zeros(SIZE, np.uint8), text.encode()[:SIZE]
    row[: len(said)] = np.frombuffer(said, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(row))
    return [bytes(one).rstrip(b"\0").decode(errors="ignore") for one in rows]


@contextmanager
def together(error: Callable[[str], Exception]) -> Iterator[None]:
    """Of a block that all run: once all are through, an `Exception` in one of them is one in each, `error(its words)`.

    `with parallel.together(OSError): ...`. What failed here is raised here as it is. The block itself may not wait for
    others.
    """
    own = None
    try:
        yield
    except Exception as failed:
        own = failed
    words = "" if own is None else f"{type(own).__name__}: {own}"
    first = next(filter(None, gathered(words)), "")
    if own is not None:
        raise own
    if first:
        raise error(f"another process says {first}")


def leading() -> bool:
    """Whether this is process 0, which alone writes what is written once."""
    return jax.process_index() == 0
