import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_inference_section_runs_as_printed(capsys):
    section = README.read_text().split("\n## Inference\n")[1].split("\n## ")[0]
    exec("\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)), {})
    converged, shape, points, r_hat = capsys.readouterr().out.splitlines()
    assert converged.startswith("True") and converged.endswith("(100, 201)")
    assert shape == "(5, 5, 5)"
    assert points.startswith("(100, 4, 2000, 5)")
    assert float(r_hat.split()[0]) < 1.02
