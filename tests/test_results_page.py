"""The overview of results: every script has a row, and every figure stands on the page that its line links to."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/results/index.md"
SCRIPT = re.compile(r"(?:experiments|benchmarks)/\S+?\.py")
FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)? ± \d+(?:\.\d+)?|\d[\d,]*\.\d+|\d+e-\d+")


def scripts():
    found = []
    for path in [*(ROOT / "experiments").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        if '__name__ == "__main__"' in path.read_text():
            found.append(path.relative_to(ROOT).as_posix())
    return found


def lines_with_figures():
    """Rows of tables and items of the first lists, each item joined to one line."""
    text = re.sub(r"\n  (?=\S)", " ", PAGE.read_text())
    return [line for line in text.splitlines() if line[:2] in ("| ", "- ") and "](" in line]


def links(line):
    return re.findall(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)", line)


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_script_has_a_row_with_its_command():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    named = {script for row in rows for script in SCRIPT.findall(row)}
    assert sorted(set(scripts()) - named) == []
    assert [script for script in named if not (ROOT / script).exists()] == []


def test_every_row_links_to_a_page_and_a_heading_that_are_there():
    rows = [line for line in PAGE.read_text().splitlines() if SCRIPT.search(line)]
    assert [row for row in rows if row.startswith("| ") and not links(row)] == []
    for target, heading in links(PAGE.read_text()):
        page = (PAGE.parent / target).resolve()
        assert page.exists(), target
        assert not heading or heading in anchors(page), f"{target}#{heading}"


@pytest.mark.parametrize("line", lines_with_figures(), ids=lambda line: line[2:42])
def test_every_figure_stands_on_the_page_of_its_line_or_in_the_script(line):
    told = [(PAGE.parent / target).resolve().read_text() for target, _ in links(line)]
    if told and line.startswith("| "):
        sources = [(ROOT / script).read_text() for script in SCRIPT.findall(line)]
        told += [ast.get_docstring(ast.parse(source)) or "" for source in sources]
    text = " ".join(told)
    for figure in FIGURE.findall(line):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\.?\d)", text), figure
