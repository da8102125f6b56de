"""Which commands there are, and how their arguments are read: tyro makes both of the commands' dataclasses.

tyro rather than click or typer: the experiments have it already, and a command is a frozen dataclass that tests make
without a command line.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from spen_jax.cli.answering import Evaluate, Predict
from spen_jax.cli.exporting import Export
from spen_jax.cli.informing import Info
from spen_jax.cli.published import Data
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
    """The command that the arguments name; SystemExit after the help, and where they say nothing that can be done."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        given = ["--help"]
    union: Any = None
    for name, command in COMMANDS.items():
        one: Any = Annotated[command, tyro.conf.subcommand(name)]
        union = one if union is None else union | one
    return tyro.cli(union, prog="spen-jax", description=ABOUT, args=given, config=CONFIG)
