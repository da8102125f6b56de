"""The site as it was built last: docs/README.md has the command."""

import json
import re
import sys
from html import unescape
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BUILT = DOCS / "_build" / "html"

if not BUILT.exists():
    pytest.skip("the site is not built: docs/README.md says how", allow_module_level=True)
pytest.importorskip("sphinx")
sys.path.insert(0, str(DOCS))
extension = import_module("extension")
PAGES = [p for p in sorted(BUILT.rglob("*.html")) if "_modules" not in p.parts]
EXECUTED = [
    p for p in sorted(DOCS.rglob("*.md")) if p.read_text("utf-8").startswith("---\nfile_format")
]


@pytest.mark.parametrize("room", extension.ROOMS)
def test_every_public_name_stands_in_the_reference(room):
    page = (BUILT / f"reference/{room}.html").read_text("utf-8")
    names = extension.public(import_module(f"spen_jax.{room}"))
    assert names and [n for n in names if f'id="spen_jax.{room}.{n}"' not in page] == []


def test_what_stands_there_is_for_readers():
    for page in (BUILT / "reference").glob("*.html"):
        text = unescape(re.sub("<[^>]*>", "", page.read_text("utf-8")))
        assert not re.search(r" at 0x|PjitFunction|lru_cache_wrapper|<object", text), page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(BUILT)))
def test_links_lead_somewhere_and_pictures_have_a_text(page):
    text = page.read_text("utf-8")
    ids = {page: set(re.findall(r'id="([^"]+)"', text))}
    for link in re.findall(r'<a [^>]*href="([^"]+)"', text):
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"\w+:", link):
            continue
        assert target.exists(), link
        if place and target.suffix == ".html":
            if target not in ids:
                ids[target] = set(re.findall(r'id="([^"]+)"', target.read_text("utf-8")))
            assert unescape(place) in ids[target] | {"top"}, link
    for image in re.findall(r"<img [^>]*>", text):
        assert re.search(r'alt="[^"]+"', image), image


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.stem)
def test_an_executed_page_is_a_notebook_with_its_outputs(page):
    name = page.relative_to(DOCS).with_suffix("")
    notebook = json.loads((BUILT / "_notebooks" / f"{name}.ipynb").read_text("utf-8"))
    cells = notebook["cells"]
    words = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    text = "".join(words)
    assert "](" not in re.sub(r"\]\(http", "", text) and "{py:obj}" not in text
    assert any(cell.get("outputs") for cell in cells)
    assert f"_notebooks/{name}.ipynb" in (BUILT / f"{name}.html").read_text("utf-8")


@pytest.mark.parametrize(
    "line, shown",
    [
        ("E_y of `x`, |a| and x*", "E\\_y of ``x``, \\|a\\| and x\\*"),
        ("- *what* `f`s are", "- *what* ``f``\\ s are"),
        ("see docs/do/cli.md.", "see :doc:`/do/cli`."),
    ],
)
def test_a_docstring_keeps_its_letters(line, shown):
    assert extension.escaped(line) == shown


def test_sections_and_entries_are_lists():
    lines = [
        "The promise.",
        "",
        "    code(x)",
        "",
        "Args:",
        "  a, b: of it",
        "    and more",
        "  c: (B,)",
    ]
    extension.to_restructured(None, "function", "f", None, None, lines)
    text = "\n".join(lines)
    assert "::\n\n    code(x)" in text
    assert "**Args**\n\n- ``a``, ``b``: of it\n  and more\n- ``c``: (B,)" in text
