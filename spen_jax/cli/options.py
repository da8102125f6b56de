"""How options look in the help: `Annotated[int, option("N")]`."""

from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional


def option(metavar: str, name: str | None = None) -> Any:
    """An option whose value is called `metavar`, and itself `name` where the field has another."""
    return tyro.conf.arg(metavar=metavar, name=name, help_behavior_hint="")


ModelPath = Annotated[Positional[Path], option("MODEL")]
DataPath = Annotated[Positional[Path], option("DATA")]
OutPath = Annotated[Path, option("PATH")]
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
