"""TensorBoard's events hold what was written; who has not the package is told; the library prints nothing by itself."""

import ast
import io
import itertools
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import spen_jax as sx
from spen_jax.training import TensorBoard

LINE = {"training": "a", "epoch": 2, "seconds": 1.5, "loss": np.float32(0.25), "score": None}


def scalars(folder):
    """(tag, step, value) in order, with what the checksums of each record say."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for path in sorted(Path(folder).glob("events.out.tfevents.*")):
        content, first = path.read_bytes(), True
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            body, end = content[12 : 12 + length], 16 + length
            assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
            assert struct.unpack("<I", content[end - 4 : end])[0] == masked_crc32c(body)
            event, content = Event.FromString(body), content[end:]
            assert not first or event.file_version == "brain.Event:2"
            first = False
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def test_the_numbers_of_a_record_are_read_back_before_the_writer_is_closed(tmp_path):
    pytest.importorskip("tensorboardX")
    with TensorBoard(tmp_path / "a" / "b") as board:
        board(2, LINE)
        want = [("epoch", 2, 2.0), ("seconds", 2, 1.5), ("loss", 2, 0.25)]
        assert scalars(tmp_path / "a" / "b") == want
    with TensorBoard(tmp_path / "a" / "b") as board:
        board(3, {"loss": np.nan, "flag": True, "rows": np.ones(2), "count": np.int64(4)})
    *before, (tag, step, value), count = scalars(tmp_path / "a" / "b")
    assert before == want and (tag, step) == ("loss", 3) and np.isnan(value)
    assert count == ("count", 3, 4.0)


def problem(tmp_path):
    def objective(params, batch, key):
        loss = ((batch["x"] @ params["w"] - 1) ** 2).mean()
        return loss, {"loss": loss}

    optimizer = optax.sgd(0.1)
    state = sx.training.init({"w": np.zeros(2, np.float32)}, optimizer, jax.random.key(0))
    data = {"x": np.eye(4, 2, dtype=np.float32)}
    return sx.fit(objective, optimizer, state, data, epochs=2, checkpoints=tmp_path / "kept")


def test_the_metrics_of_fit_are_scalars_of_their_epochs(tmp_path):
    pytest.importorskip("tensorboardX")
    losses = []
    with TensorBoard(tmp_path / "events") as board:
        for epoch, (_, metrics) in enumerate(problem(tmp_path), 1):
            board(epoch, metrics)
            losses.append(np.float32(metrics["loss"]))
    found = scalars(tmp_path / "events")
    assert [(s, v) for tag, s, v in found if tag == "loss"] == [(1, losses[0]), (2, losses[1])]


def test_without_the_package_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"^TensorBoard needs .*'spen_jax\[tensorboard\]'$"):
        TensorBoard(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_an_experiment_shows_each_training_as_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboardX")
    shared = pytest.importorskip("experiments.shared")
    from test_resume_option import run

    with pytest.raises(SystemExit):
        run(monkeypatch, "--tensorboard", "--out", tmp_path / "a", stop=KeyboardInterrupt)
    run(monkeypatch, "--resume", tmp_path / "a")
    assert shared._run.shown
    lines = [json.loads(s) for s in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    names = sorted(path.name for path in (tmp_path / "a" / "tensorboard").iterdir())
    assert names == ["1-same-1", "2-same-1"]
    found = [s for name in names for s in scalars(tmp_path / "a" / "tensorboard" / name)]
    assert [(line["epoch"], np.float32(line["loss"])) for line in lines] == [
        (step, value) for tag, step, value in found if tag == "loss"
    ]
    assert {tag for tag, *_ in found} == {"loss", "left_out", "seconds", "score"}


def test_an_experiment_without_the_package_ends_with_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tyro")
    pytest.importorskip("matplotlib")
    from test_resume_option import run

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--tensorboard", "--out", tmp_path / "a")
    assert end.value.code == 2 and not (tmp_path / "a").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("pip install 'spen_jax[tensorboard]'")


def test_the_log_of_the_command_line_writes_both_and_begins_anew(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    pytest.importorskip("tyro")
    from spen_jax.cli import folders, saying

    for _ in range(2):  # a training that goes on tells of all epochs
        log = folders.Log(tmp_path, shown=True)
        log(1, 5, {"loss": 0.5})
        log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == 0.5
    assert [(s, v) for tag, s, v in scalars(tmp_path / "tensorboard") if tag == "loss"] == [
        (1, 0.5)
    ]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(saying.Wrong, match=r"--tensorboard: .*'spen_jax\[tensorboard\]'"):
        folders.Log(tmp_path, shown=True)


def test_training_and_inference_print_nothing(tmp_path, capfd):
    assert len(list(problem(tmp_path))) == 2
    y = sx.minimize(
        lambda params, x, y: ((y - x) ** 2).sum(), None, np.ones((3, 2)), shape=(2,), steps=3
    ).y
    assert np.asarray(y).shape == (3, 2)
    assert capfd.readouterr() == ("", "")


def test_an_estimator_shows_a_bar_on_a_terminal_and_plain_lines_elsewhere(monkeypatch, capsys):
    pytest.importorskip("rich")
    from spen_jax.estimators import progress

    estimator, now = SimpleNamespace(verbose=True), itertools.count(step=2)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))

    def told():
        with progress.reporting(estimator, 3) as report:
            report("loss 0.5", loss=0.5)
        return capsys.readouterr()

    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert told() == ("", "SimpleNamespace: epoch 1 of at most 3, loss 0.5\n")
    monkeypatch.setenv("FORCE_COLOR", "1")
    found = told()
    assert found.out == "" and "1/3" in found.err and "\x1b[" in found.err
    estimator.verbose = False
    assert told() == ("", "")


def test_an_experiment_shows_a_bar_on_a_terminal_and_plain_lines_elsewhere(monkeypatch, capsys):
    shared = pytest.importorskip("experiments.shared")
    from rich.console import Console

    from spen_jax.training import Trained

    now = itertools.count(step=31)
    steps = [Trained({}, 1, metrics={"loss": 0.5})]
    for terminal in (False, True):
        drawn = io.StringIO()
        monkeypatch.setattr(shared, "console", Console(file=drawn, force_terminal=terminal))
        with shared.progress_bars() as bars:
            with monkeypatch.context() as patch:
                patch.setattr(shared.time, "monotonic", lambda: float(next(now)))
                shared.followed(iter(steps), bars, "some", 3)
        lines = capsys.readouterr().err
        assert lines == ("" if terminal else "some: 1/3 loss 0.5\n")
        assert ("\x1b[" in drawn.getvalue()) == terminal


WRITERS = {
    "inference/loop.py",
    "data/describing.py",
    "data/files.py",
    "data/svmlight.py",
    "estimators/progress.py",
}
"""What prints where it is asked: `progress=True`, `describe`, a download, a file of many megabytes, `verbose=True`."""


def test_only_what_is_asked_to_say_something_can_print():
    package, found = Path(sx.__file__).parent, set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            prints = isinstance(node, ast.Name) and node.id == "print"
            writes = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
            if (prints or writes) and not name.startswith("cli/"):
                found.add(name)
    assert found == WRITERS
