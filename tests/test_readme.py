"""The code in README and docs runs as printed."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import spen_jax as sx
from spen_jax import data

ROOT = Path(__file__).parents[1]


def run(path, kind="python"):
    names = {}
    text = (ROOT / path).read_text()
    exec("\n".join(re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)), names)
    return names


def test_the_first_screen_runs_as_printed(capsys):
    run("README.md")
    f1, residual = capsys.readouterr().out.splitlines()[-1].split()
    assert float(f1) > 0.8 and float(residual) < 0.5  # all labels on: 0.4


def test_the_first_page_of_the_site_runs_as_printed(capsys):
    names = run("docs/index.md")
    assert capsys.readouterr().out.endswith("[ True  True]\n")
    np.testing.assert_allclose(names["found"].y, [[2], [3]], atol=1e-3)


@pytest.mark.slow
def test_the_page_on_an_own_energy_runs_as_printed(capsys):
    run("docs/do/own_energy.md")
    lines = capsys.readouterr().out.splitlines()
    share = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines[10:12]}
    assert share["x alone"] < 0.55 < 0.75 < share["with the energy"] < float(lines[12])
    assert float(lines[-1]) > 0.75


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_search_on_the_page_on_tuning_runs_as_printed(capsys):
    names = run("docs/do/tuning.md", "python grid")
    assert 0.55 < names["search"].best_score_ and 0.55 < names["search"].score(
        names["test_x"], names["test_y"]
    )


@pytest.mark.slow
def test_a_spen_on_scene_runs_as_printed_where_the_data_are(capsys):
    try:
        run("docs/do/own_energy.md", "python scene")
    except (FileNotFoundError, data.DataError, data.DownloadError) as error:
        pytest.skip(f"Scene is not there: {error}")
    assert float(capsys.readouterr().out.splitlines()[-1]) > 0.65


@pytest.mark.slow
def test_the_page_on_speed_prints_what_it_says(capsys):
    run("docs/do/speed.md")
    last, first, lower = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs/do/speed.md").read_text()
    assert f"    {last}\n    {first}\n" in page
    assert lower == "True"


@pytest.mark.slow
def test_the_page_on_inference_runs_as_printed(capsys):
    run("docs/theory/inference.md")
    converged, shape, *rest, points, r_hat, known = capsys.readouterr().out.splitlines()
    smooth, second = rest[:5], rest[5:]
    page = (ROOT / "docs/theory/inference.md").read_text()
    assert all(f"    {line}\n" in page for line in (*smooth[:2], *smooth[3:]))
    assert smooth[2].endswith("False") and float(smooth[2].split()[-2]) > 0.3
    np.testing.assert_allclose([float(number) for number in second], [-0.25, -0.5], rtol=1e-4)
    assert converged.startswith("True") and converged.endswith("(100, 201)")
    assert shape == "(5, 5, 5)"
    assert points.startswith("(100, 4, 2000, 5)")
    assert float(r_hat.split()[0]) < 1.02
    assert known == "[1.] True"


@pytest.mark.long
@pytest.mark.slow
def test_the_page_on_structures_prints_what_it_says(capsys):
    names = run("docs/theory/structure.md")
    printed = capsys.readouterr().out
    page = (ROOT / "docs/theory/structure.md").read_text()
    hidden, aligned, learned, _, *shares = re.findall(r"```\n\n((?:    .*\n)+)", page)
    for block in (hidden, aligned):
        assert re.sub("^    ", "", block, flags=re.M) in printed
    lines = printed.splitlines()
    for name, right in re.findall(r"    (.*) (0\.\d+)\n", learned):
        (found,) = [line for line in lines if line.startswith(name)]
        assert abs(float(found.split()[-1]) - float(right)) < 0.04
    for block, start in zip(shares, (-8, -4), strict=True):
        for said, line in zip(block.splitlines(), lines[start:][:4], strict=True):
            said, found = (np.array(text.split(), float) for text in (said, line))
            assert said[0] == found[0] and np.abs(said - found).max() <= 6
    decoded = names["decoded"]
    np.testing.assert_allclose(
        [*decoded["best"], *decoded["marginals"]], [0.88, 0.86, 0.88, 0.85], atol=0.02
    )
    assert decoded["best"][1] > decoded["marginals"][1]
    np.testing.assert_allclose([float(a) for a in lines[-11:-8]], [625, 14, 16], rtol=1e-5)
    np.testing.assert_allclose(names["check"], names["found_of_pairs"].energy, rtol=1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_the_page_on_factor_graphs_prints_what_it_says(capsys):
    names = run("docs/theory/factor_graphs.md")
    printed = capsys.readouterr().out
    (tags,) = re.findall(
        r"```\n\n((?:    .*\n)+)", (ROOT / "docs/theory/factor_graphs.md").read_text()
    )[:1]
    assert re.sub("^    ", "", tags, flags=re.M) in printed
    # Cut and bounds agree on the picture, and the latent variable is found.
    energies = re.findall(
        r"^(?:MinCut|BeliefPropagation|TreeReweighted) +(-\d+\.\d+)", printed, re.M
    )
    assert len(energies) == 3 and max(map(float, energies)) - min(map(float, energies)) < 1
    assert float(re.search(r"(0\.\d+|1\.0) of the kinds found", printed)[1]) > 0.95
    alone = float(re.search(r"pixels alone +(0\.\d+)", printed)[1])
    learned = re.findall(r"alike (-?\d+\.\d+) w -?\d+\.\d+ (0\.\d+)", printed)
    assert len(learned) == 4
    assert all(float(alike) > 0 and float(right) > alone + 0.1 for alike, right in learned)
    assert float(names["value"]) < 3.6  # nats; tags alone have 4.1


@pytest.mark.slow
def test_the_page_on_mean_field_prints_what_it_says(capsys):
    run("docs/theory/mean_field.md")
    printed = capsys.readouterr().out.splitlines()
    said = re.findall(r"```\n\n((?:    .*\n)+)", (ROOT / "docs/theory/mean_field.md").read_text())
    said = [line.strip() for block in said for line in block.splitlines()]
    assert len(said) == len(printed) == 6
    for expected, found in zip(said, printed, strict=True):
        words = [re.sub(r"\d+\.\d+", "", line) for line in (expected, found)]
        numbers = [re.findall(r"\d+\.\d+", line) for line in (expected, found)]
        assert words[0] == words[1]
        np.testing.assert_allclose(*(np.array(n, float) for n in numbers), atol=0.011)


@pytest.mark.slow
def test_the_page_on_sequences_prints_what_it_says(capsys):
    run("docs/theory/sequences.md")
    lines = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs/theory/sequences.md").read_text()
    said = re.findall(r"^    ([a-zF][\w' -]+):? (0\.\d+)(?:, residual .*)?$", page, flags=re.M)
    assert len(said) == len(lines) == 6
    for (name, right), line in zip(said, lines, strict=True):
        assert line.startswith(name)
        assert abs(float(re.search(r"0\.\d+", line)[0]) - float(right)) < 0.05


def test_the_page_on_data_prints_what_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("docs/do/data.md")
    page = (ROOT / "docs/do/data.md").read_text()
    assert (
        capsys.readouterr().out.strip() == re.search(r"```\n(4 rows.*?)\n```", page, re.DOTALL)[1]
    )
    assert (names["data"].x.shape, names["data"].y.shape, names["data"].mask) == (
        (4, 2),
        (4, 3),
        None,
    )
    assert names["more"].x.tolist() == [[70, 2.5]]
    kept, pictures = names["kept"], names["pictures"]
    assert [a.shape for a in kept.fields.values()] == [(3, 4), (3, 3)]
    assert [*kept.feature_names] == ["1", "2", "3", "4"] and kept.label_names == ("0", "1", "2")
    assert names["test"].fields["x"].toarray().tolist() == [[0, 0, 1, 0]]
    shapes = {name: a.shape for name, a in pictures.fields.items()}
    assert shapes == {"x": (500, 8, 8), "words": (500, 50_000), "y": (500, 3)}


def test_the_page_on_data_splits_bibtex_as_it_says(capsys):
    try:
        run("docs/do/data.md", "python bibtex")
    except (FileNotFoundError, data.DataError, data.DownloadError) as error:
        pytest.skip(f"BibTeX is not there: {error}")
    assert [f"{float(line):.3f}" for line in capsys.readouterr().out.split()] == ["0.040", "0.005"]


@pytest.mark.slow
def test_the_page_on_sparse_inputs_runs_as_printed(capsys):
    run("docs/do/sparse.md")
    assert capsys.readouterr().out.splitlines() == [
        "0.0 True",
        "(5, 20)",
        "(100, 20)",
        "10 (100, 1836)",
        "True True",
    ]


@pytest.mark.slow
def test_the_page_on_many_labels_runs_as_printed(capsys):
    run("docs/do/many_labels.md")
    precisions, shape, *sound, drawn = capsys.readouterr().out.splitlines()
    short, full = map(float, precisions.split())
    assert abs(short - full) < 0.02 and full > 0.2
    assert float(drawn) > full - 0.05
    assert (shape, sound) == ("(4, 3)", ["True", "True", "True"])


@pytest.mark.slow
def test_the_page_on_energies_runs_as_printed(capsys):
    names = run("docs/theory/energies.md")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["[-2.  2.]", "[-2.  2.]"]
    np.testing.assert_allclose(jnp.sum(names["density"]) * 0.01, 1, rtol=1e-5)
    np.testing.assert_allclose(names["found"].y, [[-2.0]], atol=1e-3)
    np.testing.assert_array_equal(names["best_y"], names["order_of_y"][:, 0])
    np.testing.assert_array_equal(names["best_x"], names["order_of_x"][0])
    np.testing.assert_allclose(names["p_of_x"].sum(0), 1, rtol=1e-5)
    assert [line.split(",")[0] for line in printed if line.startswith("Report")] == [
        "Report(minima=True",
        "Report(minima=True",
        "Report(minima=False",
    ]
    assert printed[-2:] == ["1.0", "True"]


@pytest.mark.slow
def test_the_page_on_embeddings_prints_what_it_says(capsys):
    run("docs/theory/embeddings.md")
    found, collapsed, nats, *shares = (
        line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()
    )
    found, collapsed = ([float(a) for a in line.split()] for line in (found, collapsed))
    assert found[0] > 0.5 > 0.3 > collapsed[0] and found[1] > 1 and collapsed[1] < 0.05
    one, two = (float(a) for a in nats.strip("[]").split())
    assert 1.6 < one < 1.95 and 1.6 < two < 1.95
    np.testing.assert_allclose([float(share) for share in shares], [0.5, 1, 1], atol=0.1)


@pytest.mark.slow
def test_the_page_on_latent_variables_runs_as_printed(capsys):
    names = run("docs/theory/latent.md")
    printed = capsys.readouterr().out.splitlines()
    np.testing.assert_allclose(names["found"].energy, [0, 2.25], atol=1e-4)
    np.testing.assert_allclose(names["joint"].energy, [0, 0], atol=1e-2)
    np.testing.assert_allclose(jnp.sum(names["p"]), 1, rtol=1e-5)
    np.testing.assert_allclose(
        names["several"].y[names["several"].distinct], [[-1], [1]], atol=1e-3
    )
    for line in printed[-4:-2]:  # the half-axes, cold and contrastive
        axes = [float(a) for a in line.split("]")[0].strip("[ ").split()]
        np.testing.assert_allclose(axes, [2, 1.5], atol=0.08)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md"],
    ids=lambda page: f"{page.parent.name}/{page.name}",
)
def test_what_a_page_links_to_and_the_commands_it_gives_are_there(page):
    text = page.read_text()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    links = [page.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", prose)]
    scripts = [
        ROOT / script for script in re.findall(r"python ((?:experiments|benchmarks)/\S+\.py)", text)
    ]
    assert [path for path in links + scripts if not path.exists()] == []


@pytest.mark.slow
def test_the_first_estimator_runs_as_printed(capsys):
    run("README.md", "python habits")
    assert float(capsys.readouterr().out.split()[0]) > 0.6


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_first_five_minutes_print_what_the_page_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("docs/do/estimators.md")
    page = (ROOT / "docs/do/estimators.md").read_text()
    *said, same = capsys.readouterr().out.splitlines()
    assert same == "True" and len(said) == 3
    assert all(f"It prints `{line}`" in page for line in said)


@pytest.mark.slow
def test_the_page_on_images_runs_as_printed(capsys):
    names = run("docs/results/images.md")
    first, _, joined = capsys.readouterr().out.splitlines()
    assert first.startswith("(2, 40, 52)") and joined == "(2, 40, 52)"
    np.testing.assert_array_equal(
        names["solution"].y[names["seen"]], names["images"][names["seen"]]
    )


@pytest.mark.slow
def test_the_page_on_masks_runs_as_printed(capsys):
    run("docs/results/masks.md")
    assert capsys.readouterr().out.splitlines() == ["(2, 20, 24)"]


@pytest.mark.slow
def test_the_energy_of_the_page_on_parsing_runs_as_printed():
    trees = run("docs/results/parsing.md")["trees"]
    np.testing.assert_allclose(trees.sum(-1), np.ones((2, 5)), rtol=1e-5)


@pytest.mark.slow
def test_the_page_on_data_of_experiments_groups_sentences_as_it_says():
    try:
        names = run("docs/results/experiments.md")
    except (FileNotFoundError, data.DataError, data.DownloadError) as error:
        pytest.skip(f"The treebank is not there: {error}")
    assert names["x"].shape == names["y"].shape == (12544, 159)


@pytest.mark.slow
def test_the_page_on_pytorch_runs_as_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("docs/do/pytorch.md")
    losses = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()[-4:]]
    assert losses[2] < losses[0] and not np.any(names["state"].params["b"])
    rng = np.random.default_rng(0)
    shapes = {"encoder.0.weight": (8, 12), "encoder.0.bias": (8,), "unary.weight": (5, 8)}
    shapes |= {"unary.bias": (5,), "pairwise.weight": (4, 5), "pairwise.bias": (4,)}
    a = {name: rng.normal(size=shape) for name, shape in (shapes | {"last.weight": (1, 4)}).items()}
    spen = sx.SPEN(sx.FeatureNetwork(5, (8,)), n_global=4)
    x, y = names["x"], names["y"]
    like = spen.init(names["jax"].random.key(0), x, y)["params"]
    params = names["interop"].to_params(a, names["mine"], like)
    f = np.maximum(x @ a["encoder.0.weight"].T + a["encoder.0.bias"], 0)
    there = (y * (f @ a["unary.weight"].T + a["unary.bias"])).sum(1)
    units = np.logaddexp(y @ a["pairwise.weight"].T + a["pairwise.bias"], 0)
    there += (units @ a["last.weight"].T)[:, 0]
    np.testing.assert_allclose(spen.apply({"params": params}, x, y), there, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_page_on_losses_calls_each_once():
    run("docs/theory/losses.md")


def test_every_block_of_python_is_run_by_some_test():
    """Executed pages aside, whose cells the site's build runs: a test names each page, and each kind of its blocks."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    forgotten = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for kind in set(re.findall(r"^```python *(.*)$", page.read_text(), re.M)):
            name = str(page.relative_to(ROOT))
            named = name in tests or f'page("{page.stem}")' in tests
            if not named or (kind and f"python {kind}" not in tests and f'"{kind}"' not in tests):
                forgotten.append((name, kind))
    assert forgotten == []


def headings(path):
    """The anchors of a page, as its viewer makes them."""
    titles = re.findall(r"^#+ (.*)$", (ROOT / "docs/theory" / path).resolve().read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_name_and_page_of_the_slides_is_there():
    rows = [
        r for r in (ROOT / "docs/theory/slides.md").read_text().splitlines() if r.startswith("| ")
    ]
    rows = [
        row.strip("| ").split(" | ")
        for row in rows
        if not row.startswith(("| slide", "| section", "| heading"))
    ]
    assert len(rows) > 70
    for row in rows:
        *_, here, pages = row
        for name in re.findall(r"`([\w./]+)`", here):
            if name.endswith(".py"):
                assert (ROOT / name).exists(), name
            elif not name.startswith("jax."):
                found = sx
                for part in name.split("."):
                    found = getattr(found, part)
        for page, anchor in re.findall(r"\]\(([\w/]+\.md)#?([^)]*)\)", pages):
            assert not anchor or anchor in headings(page), (page, anchor)
        assert "](" in pages, row


@pytest.mark.slow
def test_the_page_on_runs_that_survive_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("docs/do/reliability.md")
