"""What the first pages say that no cell of theirs runs."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_check_of_an_installation_prints_what_the_page_says():
    page = (ROOT / "docs/start/install.md").read_text()
    (command,) = re.findall(r"```sh check\n(.*?)\n```", page, re.DOTALL)
    python, *arguments = shlex.split(command)
    assert python == ".venv/bin/python"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    assert f"```text\n{done.stdout}```" in page
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = page.split("| extra | for |")[1].split("\n\n")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in row.split(", ")]
    assert {name.strip("`") for name in named} | {"bm3d"} == {*extras["optional-dependencies"]}


def test_every_figure_of_which_tool_for_what_stands_on_the_page_it_links_to():
    page = ROOT / "docs/start/which.md"
    rows = re.findall(r"^\| .*\d+\.\d.*$", page.read_text(), re.M)
    assert len(rows) > 15
    for row in rows:
        links = re.findall(r"\]\((\.\./results/[^)#]+)", row) or ["../results/comparison.md"]
        texts = [(page.parent / link).read_text() for link in links]
        words = re.sub(r"\]\([^)]*\)", "", row)
        for figure in re.findall(r"(?<![\d,])\d+\.\d+|\d,\d{3}", words):
            assert any(re.search(rf"(?<!\d){figure}(?!\d)", text) for text in texts), (figure, row)
