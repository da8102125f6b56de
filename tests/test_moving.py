"""The page on moving from another library gives the peers' own numbers, where they are installed."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/do/moving.md").read_text()
HEADINGS = {
    "crfsuite": "sklearn-crfsuite",
    "torchstruct": "Torch-Struct",
    "jaxopt": "jaxopt",
    "torchebm": "torchebm",
}


def section(peer):
    """All blocks of ours up to a peer's section and in it, with the peer's."""
    text = PAGE[: PAGE.index(f"```python {peer}\n")]
    ours = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (theirs,) = re.findall(rf"```python {peer}\n(.*?)```", PAGE, re.DOTALL)
    assert f"## {HEADINGS[peer]}" in text
    return "\n".join([*ours, theirs])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "peer, modules",
    [
        ("crfsuite", ["sklearn_crfsuite"]),
        ("torchstruct", ["torch", "torch_struct"]),
        ("jaxopt", ["jaxopt"]),
        ("torchebm", ["torch", "torchebm"]),
    ],
)
def test_a_peer_and_the_library_give_the_same_numbers(peer, modules):
    for module in modules:
        pytest.importorskip(module)
    exec(section(peer), {})


@pytest.mark.slow
def test_the_page_on_moving_runs_as_printed(capsys):
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), names)
    lines = capsys.readouterr().out.splitlines()
    before, after = (float(line.split()[1]) for line in lines[-2:])
    assert after > before + 0.05
    assert abs(float(lines[-3]) - 4 / 3) < 0.05
