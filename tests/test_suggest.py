import json

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("sklearn")

from experiments.labels import masked, runs, suggest
from spen_jax import data


def test_what_is_given_is_on_stays_given_and_leaves_something_to_find():
    whole = data.exclusive_blocks(0, 10, 300)
    y = whole.test.y * (np.arange(300)[:, None] % 4 > 0) * (np.arange(16) < 12)  # 0 or 3 tags
    y[:50, 12:] = whole.test.y[:50, 12:]
    test = whole.test._replace(y=y)
    asked = suggest.asked_of(test, 5, 0)
    number = y.sum(axis=1)
    assert list(asked) == [0, 1, 2, 3]
    for k, one in asked.items():
        assert len(one.y) == np.sum(number >= max(3, k + 1))
        assert (one.given.sum(axis=1) == k).all() and (one.y[one.given] == 1).all()
        assert (np.sum(one.y * ~one.given, axis=1) > 0).all()
    assert (asked[1].given <= asked[2].given).all()
    other = suggest.asked_of(test, 1, 1)[1].given
    assert (other != asked[1].given).any()

    one = asked[2]
    assert suggest.average_precision(one.y, one) == 100
    # What is said of the tags that are given makes no difference.
    assert suggest.average_precision(np.where(one.given, -9, one.y), one) == 100


@pytest.mark.slow
def test_the_masked_network_is_its_formula_and_its_loss_counts_what_was_not_told():
    x, y = np.eye(4, 6, dtype=np.float32), np.ones((4, 3), np.float32)
    module = masked.Masked(3, 5, 0.0, 0.0, pairs=True)
    params = module.init(jax.random.key(0), x, y)["params"]
    params["A"]["kernel"] = np.float32([[0, 1, 2], [3, 0, 4], [5, 6, 0]])
    told = np.float32([[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]])
    p = jax.tree.map(np.asarray, params)
    sums = x @ p["W"]["kernel"] + p["W"]["bias"] + told @ p["T"]["kernel"]
    want = np.maximum(sums, 0) @ p["V"]["kernel"] + p["V"]["bias"] + told @ p["A"]["kernel"]
    np.testing.assert_allclose(masked.logits(module, params, x, told), want, rtol=1e-5)

    # A network of zeros: log 2 for each label that was not told, and all of them are on.
    zeros = jax.tree.map(np.zeros_like, p)
    many = {"x": np.zeros((5000, 6), np.float32), "y": np.ones((5000, 3), np.float32)}
    value, _ = masked.objective_of(module, 0.8)(zeros, many, jax.random.key(0))
    assert value == pytest.approx(3 * 0.6 * np.log(2), rel=0.02)
    drawn = masked.drawn(np.ones((5000, 3)), 0.8, 0)
    assert drawn.mean() == pytest.approx(0.4, abs=0.02) and not masked.drawn(0 * y, 0.8, 0).any()


@pytest.mark.long
@pytest.mark.slow
def test_a_run_ranks_the_other_tags_of_a_row_and_writes_its_folder(tmp_path, monkeypatch):
    whole = data.exclusive_blocks(0, 300, 60)
    monkeypatch.setattr(runs, "load", lambda *_: whole)
    models = ("network", "masked", "spen-known")
    config = suggest.Config(models=models, epochs=20, most=3, quick=True, out=tmp_path / "run")
    result = suggest.main(config)
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert saved["rows"] == dict.fromkeys("0123", 60) and list(saved["adds"]) == ["masked"]
    found = {name: model["average_precision"] for name, model in result["models"].items()}
    assert all(0 < value <= 100 for of in found.values() for (value,) in of.values())
    gain = found["spen-known"]["3"][0] - found["masked"]["3"][0]
    assert saved["adds"]["masked"]["3"] == [pytest.approx(gain)]
    # Of each block one label is on: a tag that is given rules out others, which a network alone is not told.
    lead = [found["spen-known"][k][0] - found["network"][k][0] for k in "03"]
    assert lead[1] > lead[0]
    assert (tmp_path / "run" / "suggest.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "wrong", [{"models": ("trees",)}, {"share": 0.0}, {"seeds": (1, 1)}, {"epochs": -1}]
)
def test_bad_settings_end_the_run_with_one_line(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        suggest.main(suggest.Config(out=tmp_path / "run", **wrong))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
