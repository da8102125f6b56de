"""`spen-jax data`: the published data sets."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from tyro.conf import Positional

from spen_jax import data
from spen_jax.cli.options import Flag, option
from spen_jax.cli.saying import Usage, Voice, Wrong, table
from spen_jax.data.files import missing_of, place

SIZES = {
    "bibtex": "4,880 + 2,515 rows, 159 labels",
    "delicious": "12,920 + 3,185 rows, 983 labels",
    "scene": "1,211 + 1,196 rows, 6 labels",
    "yeast": "1,500 + 917 rows, 14 labels",
    "ocr": "6,877 words of letters, 26 classes",
    "weizmann_horse": "160 + 40 + 128 images",
    "ud_english_ewt": "12,544 + 2,001 + 2,077 sentences",
}
"""What each holds: to train on + to test on, with a part for validation between where there is one."""


@dataclass(frozen=True)
class Data:
    """List the published data sets, fetch one, or verify its files by their SHA-256.

    They lie in SPEN_JAX_DATA, or in the cache, which a fetch fills: SPEN_JAX_CACHE or ~/.cache/spen_jax.
    """

    action: Annotated[Positional[Literal["list", "fetch", "verify"]], option("{list,fetch,verify}")]
    """what to do"""
    name: Annotated[Positional[str | None], option("NAME")] = None
    """which one, of fetch and verify"""
    json: Flag = False
    """print one JSON object"""
    quiet: Flag = False
    """print nothing but errors, and what --json asks for"""

    def __call__(self) -> None:
        """Lists, fetches or verifies."""
        voice, name = Voice(self.quiet, self.json), cast(str | None, self.name)
        if self.action == "list":
            if name is not None:
                raise Usage(f"data list takes no name, got {name!r}")
            return _list(voice)
        if name is None or name not in data.SOURCES:
            got = "none" if name is None else repr(name)
            raise Usage(f"data {self.action} takes one of {', '.join(data.SOURCES)}, got {got}")
        folder = place() / name
        if self.action == "fetch":
            data.find(name, progress=(lambda *_: None) if self.quiet else data.print_progress)
        elif missing := missing_of(name):
            names = ", ".join(missing)
            raise Wrong(f"{names} missing from {folder}: spen-jax data fetch {name}")
        data.verify(name, folder)
        files = dict(data.SOURCES[name].files)
        said = f"{folder}: {len(files)} files, each with the published SHA-256"
        voice.result({"name": name, "where": folder, "sha256": files}, [said])


def _list(voice: Voice) -> None:
    sets: list[dict[str, Any]] = []
    for name, source in data.SOURCES.items():
        there = not missing_of(name)
        how = "there" if there else "to be fetched" if source.addresses else "missing, no download"
        where = str(place() / name)
        sets.append(
            {
                "name": name,
                "rows": SIZES.get(name, "-"),
                "where": where,
                "state": how,
                "there": there,
            }
        )
    header = ["name", "rows", "state", "where"]
    lines = table([header, *([each[key] for key in header] for each in sets)])
    voice.result({"sets": sets}, lines)
