"""Which commands there are, and how their arguments are read: tyro makes both of the commands' dataclasses.

tyro rather than click or typer: the experiments have it already, and a command is a frozen dataclass that tests make
without a command line.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import tyro

from spen_jax.cli.answering import Evaluate, Predict
from spen_jax.cli.exporting import Export
from spen_jax.cli.informing import Info
from spen_jax.cli.published import Data
from spen_jax.cli.saying import Usage
from spen_jax.cli.training import Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "data": Data,
    "info": Info,
}
ABOUT = """Energy-based models of labels, classes, numbers and sequences, from files to answers.

Exit codes: 0; 1 data or a file is wrong, in one line on standard error; 2 usage; 130 Ctrl-C; 143 SIGTERM."""
CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def parsed(arguments: Sequence[str] | None = None) -> Callable[[], None]:
    """The command that the arguments name; SystemExit after the help, `Usage` where they cannot be understood."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        given = ["--help"]
    union: Any = None
    for name, command in COMMANDS.items():
        one: Any = Annotated[command, tyro.conf.subcommand(name)]
        union = one if union is None else union | one
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _wide({"-h", "--help"}.isdisjoint(given)):
            return tyro.cli(union, prog="spen-jax", description=ABOUT, args=given, config=CONFIG)
    except SystemExit as end:
        if not end.code:
            raise
        raise Usage(plain_words(said.getvalue(), given)) from None


@contextlib.contextmanager
def _wide(wanted: bool) -> Iterator[None]:
    """Boxes so wide that no word in them is broken."""
    before = os.environ.get("COLUMNS")
    if wanted:
        os.environ["COLUMNS"] = "4000"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ["COLUMNS"]
        elif before is not None:
            os.environ["COLUMNS"] = before


def plain_words(box: str, given: Sequence[str]) -> str:
    """What the parser says in a box of several parts, in one line."""
    plain = re.sub(r"\x1b\[[\d;]*m|^[\u256d\u2570].*|\u2502", "", box, flags=re.MULTILINE)
    drawn = "\u2502" in box
    pieces = re.split(r"^\s*[-\u2500]{3,}\s*$", plain, flags=re.MULTILINE)[0 if drawn else 1 :]
    parts = [
        [line for line in textwrap.dedent(piece).splitlines() if line.strip()] for piece in pieces
    ]
    if not (what := parts[0] if parts else []):
        return " ".join(box.split()) or f"{shlex.join(given)} is not understood"
    if what[0].startswith("Missing from"):
        names = [line.strip() for line in what[1:] if re.match(r" {4}\S", line)]
        return f"{what[0].strip().removesuffix(':')}: {', '.join(names)}"
    if value := re.search(r"^Error parsing .* from \['(.*)'\]\.$", what[0].strip()):
        option, _, wanted = "".join(parts[1][1:2]).strip().partition(" ")
        return f"{option} takes {wanted}, got {value[1]!r}"
    words = (
        " ".join(" ".join(what).split())
        .replace("'None', ", "")
        .replace(", 'None'", "")
        .removesuffix(".")
    )
    return (
        "; ".join([words, *map(str.strip, parts[1])]) if "Available" in str(parts[1:2]) else words
    )
