"""Folders that are there whole or not at all. The standard library only."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays until it is removed by hand
    fcntl = None


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes that name only if the block ends without an error.

    Else it is removed; what a process that was killed left for the same name is removed first. FileExistsError where
    something has that name.
    """
    path = Path(os.path.abspath(path))
    _refuse_taken(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    part, lock = _claimed(path)
    try:
        yield part
        _refuse_taken(path)
        os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _refuse_taken(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(
            f"{path} is there already: give another name, or remove it first (shutil.rmtree)"
        )


def _claimed(path: Path) -> tuple[Path, int | None]:
    """A new folder and the lock that says that it is being filled, which ends with the process."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
        lock = _locked(part)
        # Another process may have swept it away before it was locked.
        if fcntl is None or (
            lock is not None and part.exists() and os.path.samestat(os.fstat(lock), os.stat(part))
        ):
            return part, lock
        if lock is None and part.exists():  # a file system without locks
            return part, None
        if lock is not None:
            os.close(lock)


def _sweep(path: Path) -> None:
    """Remove what no living process is filling."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    for part in [each for each in path.parent.iterdir() if name.fullmatch(each.name)]:
        lock = _locked(part)
        if lock is not None:
            shutil.rmtree(part, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A lock on a folder; None where another holds it or there are none."""
    if fcntl is None:
        return None
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
