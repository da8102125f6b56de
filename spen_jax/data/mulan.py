"""The labels that a Mulan .xml lists, flat or in a hierarchy."""

import re
from pathlib import Path
from xml.parsers import expat

from spen_jax.data.lines import content, decoded, fail


def labels_of(path: Path) -> tuple[dict[str, int], bool]:
    """{label name: line}, in the file's order, and whether labels stand inside others.

    The text may be in any encoding that it declares. Raises `DataError`, for a DOCTYPE too, whose entities could
    make much of little.
    """
    labels: dict[str, int] = {}
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)""", content(path)[:200])
    text, _ = decoded(
        path, declared[1].decode() if declared and declared[1].lower() != b"utf-8" else None
    )
    parser = expat.ParserCreate("utf-8")  # whatever it declares
    depth, nested = 0, False

    def start(tag: str, given: dict[str, str]) -> None:
        nonlocal depth, nested
        if tag.rpartition(":")[2] != "label":
            return
        depth, nested = depth + 1, nested or depth > 0
        line, label = parser.CurrentLineNumber, given.get("name")
        if label is None or label in labels:
            found = "no name" if label is None else f"{label!r} of line {labels[label]}"
            fail(path, line, "a label with a new name", found)
        labels[label] = line

    def end(tag: str) -> None:
        nonlocal depth
        depth -= tag.rpartition(":")[2] == "label"

    def doctype(*_: object) -> None:
        fail(path, parser.CurrentLineNumber, "plain elements", "a DOCTYPE, which is refused")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        fail(path, error.lineno, "well-formed XML", repr(expat.ErrorString(error.code)))
    if not labels:
        fail(path, parser.CurrentLineNumber, "at least one <label name=...>", "none")
    return labels, nested
