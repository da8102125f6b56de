"""Lines of text files, packed or not, and the one error for those that are not what they should be."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any, NoReturn

from spen_jax.data.files import DataError

PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
NEWLINE = b"\n"
OTHERS = {
    b"PK\x03\x04": "a zip archive or a workbook: unpack it, or save its sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old office file: save its sheet as CSV",
    b"\x89HDF": "an HDF5 file: give its arrays to the functions that train",
    b"\x93NUMPY": "a NumPy array: give it to the functions that train",
    b"\x80\x04\x95": "a pickle, which is never read",
    b"\x80\x05\x95": "a pickle, which is never read",
    b"%PDF": "a PDF document",
}
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


ROOM, TIMES = 2**26, 250


def most_unpacked(size: int) -> int:
    """Bytes that a packed file of so many may hold: 64 MiB, or 250 times as many as it has itself where that is more.

    Text and arrays of numbers stay far below; what is beyond was made to fill a memory, or holds next to nothing.
    """
    return max(ROOM, TIMES * size)


class _Unpacked(io.RawIOBase):
    """What a packed file holds; `DataError` where it is damaged, or holds more than `most_unpacked`."""

    def __init__(self, path: Path, file: Any):
        self._path, self._file, self._at = path, file, 0
        self._most = most_unpacked(path.stat().st_size)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._file.read(len(buffer))
        except OSError as error:
            if error.errno is not None:  # of the file system
                raise
            self._fail("a whole packed file", str(error))
        except (EOFError, zlib.error, lzma.LZMAError, ValueError, MemoryError) as error:
            self._fail("a whole packed file", str(error) or type(error).__name__)
        self._at += len(piece)
        if self._at > self._most:
            what = f"more; unpack it first (gunzip, bunzip2, unxz): {TIMES} times the packed size is the limit"
            self._fail(f"at most {self._most:,} bytes once unpacked", what)
        buffer[: len(piece)] = piece
        return len(piece)

    def _fail(self, expected: str, found: str) -> NoReturn:
        raise DataError(f"{self._path}: expected {expected}, got {found}") from None


def opened(path: Path) -> Any:
    """A file of bytes, unpacked where it begins as gzip, bzip2 or xz do.

    Reading raises `DataError` where what is packed is damaged, or more than `most_unpacked` says.
    """
    with open(path, "rb") as file:
        start = file.read(8)
    for mark, how in PACKED.items():
        if start.startswith(mark):
            return io.BufferedReader(_Unpacked(path, how(path, "rb")), 2**17)
    return open(path, "rb")


def content(path: Path) -> bytes:
    """All bytes of a file, unpacked; `DataError` for archives that are damaged or files of other kinds."""
    with opened(path) as file:
        found = file.read()
    for mark, what in OTHERS.items():
        if found.startswith(mark):
            raise DataError(f"{path}: expected text, got {what}")
    return found


def decoded(path: Path, encoding: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The text of a file, and what had to be guessed of it, in words.

    UTF-8, or UTF-16 with a byte order mark; other bytes are taken for Windows-1252, the old encoding of western
    languages, and the words say so. `encoding` says which it is.
    """
    raw, said = content(path), encoding
    encoding = encoding or next((e for mark, e in MARKS.items() if raw.startswith(mark)), "utf-8")
    notes: tuple[str, ...] = ()
    try:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            if said or encoding != "utf-8":
                raise
            line, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
            try:
                text = raw.decode("cp1252")
            except UnicodeDecodeError:
                fail(
                    path,
                    line,
                    "text",
                    f"the byte {byte:#04x}: it is not text, or encoding= says which",
                )
            notes = (
                f"line {line} is not UTF-8 (byte {byte:#04x}): read as Windows-1252; encoding= says otherwise",
            )
        text.encode()  # half a pair of UTF-16, which UTF-7 lets pass
    except DataError:
        raise
    except (ValueError, LookupError, ArithmeticError) as error:  # codecs raise what they like
        at = getattr(error, "start", None)
        line = "" if at is None else f":{1 + raw[:at].count(NEWLINE)}"
        raise DataError(f"{path}{line}: expected text in {encoding}, got {error}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        fail(
            path,
            line,
            "text",
            "a zero byte: the file is not text, or in UTF-16, which encoding= says",
        )
    if "\r" in text:  # of Windows, and of old Macs alone
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, notes


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, packed or not, without a byte order mark; `DataError` for other bytes."""
    try:
        text = content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        fail(path, line, "UTF-8 text", f"the byte {error.object[error.start]:#04x}")
    # Not splitlines(), which also breaks lines at characters that editors do not count.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def fail(path: Path, line: int, expected: str, found: str) -> NoReturn:
    """Raise `DataError`, which says where, what was expected and what came."""
    error = DataError(f"{path}:{line}: expected {expected}, got {found}")
    error.line = line
    raise error


def short(text: str) -> str:
    """At most 60 characters of a text: its beginning and its end."""
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"
