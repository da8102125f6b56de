"""Lines of text files, and the one error for those that are not what they should be."""

from pathlib import Path
from typing import NoReturn

from spen_jax.data.files import DataError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without a byte order mark; `DataError` for other bytes."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        fail(path, line, "UTF-8 text", f"the byte {error.object[error.start]:#04x}")
    # Not splitlines(), which also breaks lines at characters that editors do not count.
    return text.split("\n")


def fail(path: Path, line: int, expected: str, found: str) -> NoReturn:
    """Raise `DataError`, which says where, what was expected and what came."""
    raise DataError(f"{path}:{line}: expected {expected}, got {found}")


def short(text: str) -> str:
    """At most 60 characters of a text: its beginning and its end."""
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"
