"""The command line: from files to answers, and the exit code of everything that goes wrong."""

import csv
import http.server
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jax.export
import numpy as np
import pytest
from safetensors import safe_open

import spen_jax as sx
from spen_jax import data, serving, training
from spen_jax.cli import folders, main, running, saying
from spen_jax.cli.sequences import has_sequences

ROOT = Path(__file__).parents[1]
SMALL = "--epochs", "100", "--set", "members=1", "hidden_units=32", "learning_rate=0.02"
TICKETS = [
    ("cannot log in to the shop today", 1.0, "login"),
    ("the password was lost once again", None, "login;urgent"),
    ("the invoice of may is wrong", 30.0, "billing"),
    ("we have paid the invoice twice", 25.5, "billing;urgent"),
    ("thanks for the good help here", 2.0, ""),
]


def written(path, rows, header):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def tickets(path, n=60):
    rows = [(i, *TICKETS[i % len(TICKETS)]) for i in range(n)]
    return written(path, rows, ["id", "text", "hours", "tags"])


def command(*arguments):
    return main([*map(str, arguments)])


def digest_of(model):
    with safe_open(model / "model.safetensors", "numpy") as file:
        return file.metadata()["sha256"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def trained(place):
    """The folder of a model of tickets, and the file."""
    source = tickets(place / "tickets.csv")
    options = ("--labels", "tags", "--quiet", *SMALL)
    assert command("train", source, "--out", place / "model", *options) == 0
    return place / "model", source


@pytest.fixture(scope="module")
def sentences(place):
    path = place / "tags.txt"
    path.write_text("the DET\ndog NOUN\nbarks VERB\n\na DET\ncat NOUN\n\n" * 12)
    return path


@pytest.fixture(scope="module")
def tagger(place, sentences):
    options = ("--quiet", "--epochs", 2, "--set", "hidden_units=8", "window_units=4", "steps=2")
    assert command("train", sentences, "--out", place / "tagger", *options) == 0
    return place / "tagger"


# From a file to answers


@pytest.mark.slow
def test_three_commands_lead_from_a_csv_to_predictions_in_a_file(tmp_path, capsys):
    source = tickets(tmp_path / "tickets.csv")
    model, answers = tmp_path / "model", tmp_path / "answers.csv"
    assert command("train", source, "--out", model, "--labels", "tags", *SMALL) == 0
    out, err = capsys.readouterr()
    assert "on 12 validation rows" in out and "F1, mean over rows" in out
    assert "labels stand between ';', as it seems" in err and "--task labels" in err
    assert command("evaluate", model, source) == 0
    assert command("predict", model, source, "--out", answers) == 0
    with open(answers, newline="") as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["tags"] and len(rows) == 61
    right = [row[0] == TICKETS[i % 5][2] for i, row in enumerate(rows[1:])]
    assert np.mean(right) > 0.8


@pytest.mark.slow
def test_the_folder_has_the_model_its_settings_and_a_line_for_each_epoch(trained):
    model, source = trained
    names = {path.name for path in model.iterdir()}
    assert names == {
        "model.safetensors",
        "config.json",
        "reading.json",
        "metrics.jsonl",
        "summary.json",
    }
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [*range(1, len(lines) + 1)]
    assert all(np.isfinite([line["loss"], line["training_loss"]]).all() for line in lines)
    config = json.loads((model / "config.json").read_text())
    assert config["arguments"]["members"] == 1 and config["task"] == "labels"
    assert json.loads((model / "summary.json").read_text())["epochs"] == len(lines)
    assert list(sx.load(model / "model.safetensors").classes_) == ["billing", "login", "urgent"]


def test_the_same_seed_gives_the_same_model(trained, tmp_path):
    model, source = trained
    options = ("--labels", "tags", "--quiet", *SMALL)
    assert command("train", source, "--out", tmp_path / "again", *options) == 0
    assert digest_of(tmp_path / "again") == digest_of(model)


def test_probabilities_have_a_column_for_each_label(trained, capsys):
    model, source = trained
    assert command("predict", model, source, "--proba") == 0
    rows = [*csv.reader(io.StringIO(capsys.readouterr().out))]
    assert rows[0] == ["billing", "login", "urgent"]
    assert all(0 <= float(cell) <= 1 for row in rows[1:] for cell in row)


def test_labels_of_a_file_to_be_answered_are_not_looked_at(trained, tmp_path, capsys):
    without = written(tmp_path / "a.csv", [("invoice paid twice", 3)], ["text", "hours"])
    others = written(
        tmp_path / "b.csv", [(3, "invoice paid twice", "new")], ["hours", "text", "tags"]
    )
    answers = []
    for path in (without, others):
        assert command("predict", trained[0], path) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_standard_input_is_read_and_errors_name_it(trained, capsys, monkeypatch):
    model, source = trained
    for text, code in ((Path(source).read_bytes(), 0), (b"other\n1\n", 1)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert command("predict", model, "-") == code
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == (61 if code == 0 else 0)
    assert "standard input: expected a column" in err


def test_evaluate_prints_one_object_of_json(trained, capsys):
    model, source = trained
    assert command("evaluate", model, source, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 60 and 0 <= found["exact"] <= found["f1"] <= 1


def test_quiet_prints_nothing(trained, tmp_path, capsys):
    model, source = trained
    assert command("evaluate", model, source, "--quiet") == 0
    assert command("predict", model, source, "--quiet", "--out", tmp_path / "a.csv") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_column_of_words_is_classes_and_numbers_are_numbers(tmp_path, capsys):
    rows = [(i % 7, i % 3, "abc"[i % 3], 2.5 * (i % 3)) for i in range(45)]
    source = written(tmp_path / "a.csv", rows, ["noise", "which", "letter", "number"])
    for label, task, drop in (("letter", "classes", "number"), ("number", "numbers", "letter")):
        out = tmp_path / label
        options = ("--labels", label, "--drop", drop, "--json", *SMALL)
        assert command("train", source, "--out", out, *options) == 0
        said, err = capsys.readouterr()
        assert json.loads(said)["task"] == task and f"--task {task}" in err
        assert command("predict", out, source) == 0
        found = [*csv.reader(io.StringIO(capsys.readouterr().out))]
        assert found[0] == [label] and len(found) == 46
        assert command("evaluate", out, source, "--json") == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 45


def test_numbers_become_classes_where_the_task_says_so(tmp_path, capsys):
    source = written(tmp_path / "a.csv", [(i % 3, 4 + i % 3) for i in range(30)], ["x", "k"])
    options = ("--labels", "k", "--task", "classes", "--quiet", *SMALL)
    assert command("train", source, "--out", tmp_path / "m", *options) == 0
    assert command("info", tmp_path / "m", "--json") == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["4", "5", "6"]


@pytest.mark.slow
def test_several_nominal_columns_are_answered_with_one_value_each(tmp_path, capsys):
    rows = [
        (i % 3, "red green blue".split()[i % 3], "yes no".split()[i % 2 == 0]) for i in range(30)
    ]
    rows = [(*row[:2], "big small tiny".split()[(i + 1) % 3], row[2]) for i, row in enumerate(rows)]
    source = written(tmp_path / "a.csv", rows, ["x", "colour", "size", "new"])
    labels = "--labels", "colour", "size", "new"
    assert command("train", source, "--out", tmp_path / "m", *labels, "--quiet", *SMALL) == 0
    assert command("predict", tmp_path / "m", source) == 0
    found = [*csv.reader(io.StringIO(capsys.readouterr().out))]
    assert found[0] == ["colour", "size", "new"] and len(found) == 31
    assert {row[0] for row in found[1:]} <= {"red", "green", "blue"}
    assert {row[1] for row in found[1:]} <= {"big", "small", "tiny"}
    assert {row[2] for row in found[1:]} <= {"0", "1"}
    assert command("evaluate", tmp_path / "m", source, "--json") == 0
    assert json.loads(capsys.readouterr().out)["task"] == "labels"
    assert command("predict", tmp_path / "m", source, "--proba") == 0
    header = capsys.readouterr().out.split("\n")[0]
    assert header == "colour=blue,colour=green,colour=red,size=big,size=small,size=tiny,new"


@pytest.mark.slow
def test_libsvm_text_and_arff_are_read_by_their_content(tmp_path, capsys):
    svm, arff = tmp_path / "a.svm", tmp_path / "a.arff"
    svm.write_text("0,2 1:1 3:0.5\n1 2:2\n 3:1\n" * 8)
    arff.write_text(
        "@relation 'a: -C 2'\n@attribute u {0,1}\n@attribute v {0,1}\n@attribute x numeric\n@data\n"
        + "1,0,0.5\n0,1,-2\n" * 8
    )
    for path, header in ((svm, "0,1,2"), (arff, "u,v")):
        out = tmp_path / path.name[2:]
        assert command("train", path, "--out", out, "--quiet", *SMALL) == 0
        assert command("predict", out, path) == 0
        assert capsys.readouterr().out.startswith(header + "\n")
        assert command("evaluate", out, path, "--quiet") == 0


def test_rows_without_a_known_label_are_left_out_and_gaps_are_filled(tmp_path, capsys):
    rows = [
        (None if i % 4 == 0 else i % 2, None if i == 3 else "no yes".split()[i % 2])
        for i in range(24)
    ]
    source = written(tmp_path / "a.csv", rows, ["x", "k"])
    assert command("train", source, "--out", tmp_path / "m", "--labels", "k", *SMALL) == 0
    assert "1 row without a known label: left out" in capsys.readouterr().err
    assert command("evaluate", tmp_path / "m", source, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 23


# Sequences


@pytest.mark.slow
def test_sentences_are_tagged_a_word_a_line(trained, tagger, sentences, tmp_path, capsys):
    assert command("predict", tagger, sentences) == 0
    out = capsys.readouterr().out
    words = [line.split("\t")[0] for line in out.split("\n")]
    assert words[:8] == ["the", "dog", "barks", "", "a", "cat", "", "the"]
    alone = tmp_path / "words.txt"
    alone.write_text("the\ndog\nbarks\n\na\ncat\n")
    assert command("predict", tagger, alone) == 0
    assert capsys.readouterr().out == "\n".join(out.split("\n")[:7]) + "\n"
    assert command("predict", tagger, alone, "--proba") == 0
    assert capsys.readouterr().out.split("\n")[0].split("\t") == "word label DET NOUN VERB".split()
    assert command("evaluate", tagger, sentences, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 24 and 0 <= found["labels_right"] <= 1
    assert command("evaluate", tagger, trained[1]) == 1
    assert "tickets.csv:1: expected 2 columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "are"),
    [
        ("the DET\n\na DET\n", True),
        ("1\tthe\tthe\tDET\tDT\t_\t0\troot\t_\t_\n", True),
        ("a,b\n1,2\n", False),
        ("1 2:3\n\n0 1:1\n", False),
        ("@relation a\n\n@attribute b numeric\n", False),
        ("", False),
    ],
)
def test_sequences_are_known_by_their_look(text, are, tmp_path):
    (tmp_path / "a").write_text(text)
    assert has_sequences(tmp_path / "a") is are


# What goes wrong


def nonsense(place, trained, sentences):
    """Arguments, exit code, words of the one line, by name."""
    model, source = trained
    empty, binary, other = place / "empty.csv", place / "binary", place / "other.csv"
    empty.write_bytes(b"")
    binary.write_bytes(bytes(range(256)) * 4)
    other.write_text("text,hours,tags\nsome words,many,login\n")
    more = written(place / "more.csv", [("some words", 3, "unheard")], ["text", "hours", "tags"])
    broken, alone = place / "broken", place / "alone"
    for folder in (broken, alone):
        folder.mkdir(exist_ok=True)
    (broken / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-9])
    (alone / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    odd, begun, pipe = place / "odd", place / "begun", place / "pipe"
    os.mkfifo(pipe)
    for folder in (odd, begun):
        folder.mkdir(exist_ok=True)
    (odd / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    said = json.loads((model / "reading.json").read_text())
    (odd / "reading.json").write_text(json.dumps(said | {"columns": [["text"]]}))
    (begun / "begun.json").write_text(json.dumps({"data": source, "seed": "x"}))
    out = "--out", place / "new"
    labels = "--labels", "tags"
    return {
        "missing": (("train", place / "no.csv", *out, *labels), 1, "no.csv: No such file"),
        "folder": (("train", place, *out, *labels), 1, "Is a directory"),
        "binary": (("train", binary, *out, *labels), 1, "binary:2: expected text"),
        "empty": (("train", empty, *out, *labels), 1, "got the end of the file"),
        "no column": (("train", source, *out, "--labels", "no"), 1, "no column is called 'no'"),
        "unsaid": (("train", source, *out), 2, "--labels names them, of 'id', 'text'"),
        "taken": (("train", source, "--out", model, *labels), 1, "is not an empty folder"),
        "share": (("train", source, *out, *labels, "--valid", 2), 2, "--valid is a share"),
        "epochs": (("train", source, *out, *labels, "--epochs", 0), 2, "--epochs must be 1"),
        "setting": (("train", source, *out, *labels, "--set", "a=1"), 2, "--set takes one of"),
        "value": (("train", source, *out, *labels, "--set", "members=no"), 1, "members must be"),
        "kind": (("train", source, *out, *labels, "--columns", "hours=no"), 2, "--columns takes"),
        "bare": (("train", source), 2, "train takes DATA and --out DIR"),
        "resume": (("train", "--resume", model), 1, "no training that was broken off"),
        "task": (("train", source, *out, *labels, "--task", "numbers"), 2, "are words"),
        "seed": (("train", source, *out, *labels, "--seed", -1), 2, "--seed must be"),
        "no model": (("predict", place / "no", source), 1, "no: No such file"),
        "no model in": (("predict", place, source), 1, "has no model.safetensors"),
        "not a model": (("predict", source, source), 1, "is damaged, or no"),
        "broken": (("predict", broken, source), 1, "damaged"),
        "alone": (("predict", alone, source), 1, "reading.json is missing"),
        "odd": (("predict", odd, source), 1, "odd/reading.json is damaged"),
        "begun": (("train", "--resume", begun), 1, "what was begun there is damaged"),
        "under a file": (("train", source, "--out", empty / "m", *labels), 1, "is no folder"),
        "a word": (("predict", model, other), 1, "other.csv:2: expected a number for 'hours'"),
        "label": (("evaluate", model, more), 1, "more.csv:2: expected for 'tags'"),
        "sentences": (("predict", model, sentences), 1, "tags.txt"),
        "into": (("predict", model, source, "--out", place), 1, "is a folder: name a file"),
        "nowhere": (("predict", model, source, "--out", place / "a/b"), 1, "is no folder"),
        "export": (("export", model), 2, "--out PATH names the file"),
        "export what": (("export", place / "no", "--out", place / "b"), 1, "no: No such file"),
        "export to": (("export", model, "--out", pipe), 1, "is a device or a pipe"),
        "data name": (("data", "fetch", "no"), 2, "takes one of bibtex"),
        "no data name": (("data", "verify"), 2, "got none"),
        "data list": (("data", "list", "bibtex"), 2, "takes no name"),
        "info": (("info", source), 1, "is damaged, or no"),
    }  # fmt: skip


def test_whatever_is_wrong_has_its_exit_code_and_one_line(place, trained, sentences, capsys):
    capsys.readouterr()
    for name, (arguments, code, words) in nonsense(place, trained, sentences).items():
        assert command(*arguments) == code, name
        out, err = capsys.readouterr()
        lines = err.splitlines()
        said = [line for line in lines if line.startswith("spen-jax: ")]
        assert out == "" and len(said) == 1 and lines[-1] == said[0], name
        assert words in said[0], (name, said[0])
        assert not (place / "new").exists(), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), "Unrecognized options: nonsense; Available subcommands: train, evaluate"),
        (("train",), "train takes DATA and --out DIR"),
        (("train", "a", "--out", "b", "--no"), "Unrecognized options: --no; --help says more"),
        (("train", "a", "--epochs", "many"), "--epochs takes N, got 'many'; --help says more"),
        (("train", "a", "--task", "go"), "invalid choice 'go' for argument '--task'"),
        (("data", "go"), "invalid choice 'go'"),
        (("predict",), "Missing from spen-jax predict: MODEL, DATA; --help says more"),
    ],
)
def test_arguments_that_cannot_be_parsed_are_usage_in_one_line(arguments, words, capsys):
    assert command(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith(f"spen-jax: {words}")


@pytest.mark.parametrize("name", ["", "train", "evaluate", "predict", "data", "info"])
def test_help_is_one_page(name, capsys):
    assert command(*name.split(), "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert 10 < len(lines) <= 50
    if not name:
        assert any("Exit codes" in line for line in lines)


@pytest.mark.parametrize(
    ("end", "code"),
    [(KeyboardInterrupt, 130), (running._Terminated, 143), (training.Stopped(143), 143)],
)
def test_what_ends_a_command_has_its_code(end, code, tmp_path, monkeypatch, capsys):
    def fit(*_):
        raise end

    monkeypatch.setattr("spen_jax.cli.training.SPENClassifier.fit", fit)
    source, model = tickets(tmp_path / "a.csv", 10), tmp_path / "m"
    assert command("train", source, "--out", model, "--labels", "tags", "--quiet") == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith(f"spen-jax train --resume {model} goes on")
    assert model.exists()


def lines_of(model):
    lines = (model / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


@pytest.mark.slow
def test_a_training_that_was_broken_off_goes_on_to_the_same_model(
    trained, tmp_path, monkeypatch, capsys
):
    model, source = trained
    broken, tell = tmp_path / "broken", folders.Log.__call__

    def end(log, done, total, figures):
        tell(log, done, total, figures)
        if done == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(folders.Log, "__call__", end)
    options = ("--labels", "tags", "--quiet", *SMALL)
    every = partial(training.resumable, every_steps=1)
    monkeypatch.setattr(folders, "resumable", every)
    assert command("train", source, "--out", broken, *options) == 130
    assert (broken / "checkpoints" / "1" / "8").is_dir()
    monkeypatch.setattr(folders.Log, "__call__", tell)
    assert command("train", source, "--out", broken, *options) == 1
    assert command("train", "--resume", broken, "--epochs", 3) == 2
    assert f"--resume {broken} goes on, or name a new folder" in capsys.readouterr().err
    assert command("train", "--resume", broken, "--quiet") == 0
    assert {path.name for path in broken.iterdir()} == {path.name for path in model.iterdir()}
    assert digest_of(broken) == digest_of(model) and lines_of(broken) == lines_of(model)
    assert command("train", "--resume", broken) == 1
    assert "no training that was broken off is there" in capsys.readouterr().err


def test_a_training_does_not_go_on_with_other_data(tmp_path, monkeypatch, capsys):
    def fit(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("spen_jax.cli.training.SPENClassifier.fit", fit)
    source, model = tickets(tmp_path / "a.csv", 10), tmp_path / "m"
    assert command("train", source, "--out", model, "--labels", "tags", "--quiet") == 130
    tickets(source, 11)
    assert command("train", "--resume", model) == 1
    assert "a.csv is not what it was" in capsys.readouterr().err


def test_what_is_not_installed_is_said_with_how_to_install_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("spen_jax.cli.commands")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("spen_jax.cli.commands", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert command("info") == 1
    assert "tyro is not installed: pip install 'spen_jax[cli]'" in capsys.readouterr().err


def test_words_of_the_library_about_arguments_become_options():
    assert saying.one_line("columns={'a b': 'number'} keeps it;\n labels= does") == (
        "--columns 'a b=number' keeps it; --labels does"
    )
    assert saying.one_line("drop='no' leaves it out") == "--drop 'no' leaves it out"
    assert saying.one_line("text=Text(decimal=',') reads") == "--decimal ',' reads"


# Data and information


def test_the_list_says_which_data_are_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPEN_JAX_DATA", str(tmp_path))
    folder = tmp_path / "yeast"
    folder.mkdir()
    for name in data.SOURCES["yeast"].files:
        (folder / name).write_text("not it")
    assert command("data", "list", "--json") == 0
    sets = {one["name"]: one for one in json.loads(capsys.readouterr().out)["sets"]}
    assert sets.keys() == data.SOURCES.keys()
    assert sets["yeast"]["there"] and not sets["scene"]["there"]
    assert command("data", "verify", "yeast") == 1
    assert "expected SHA-256" in capsys.readouterr().err
    assert command("data", "verify", "scene") == 1
    assert "spen-jax data fetch scene" in capsys.readouterr().err
    assert command("data", "list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(data.SOURCES)


@pytest.fixture
def address(tmp_path):
    """Where a server on this machine has the files of tmp_path/from."""
    (tmp_path / "from").mkdir()
    handler = partial(Silent, directory=str(tmp_path / "from"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_fetch_downloads_and_verifies(address, tmp_path, monkeypatch, capsys):
    published = tmp_path / "from/a.txt"
    published.write_text("what was published")
    source = data.Source({"a.txt": data.sha256(published)}, (address,))
    monkeypatch.setitem(data.SOURCES, "toy", source)
    monkeypatch.delenv("SPEN_JAX_DATA", raising=False)
    monkeypatch.setenv("SPEN_JAX_CACHE", str(tmp_path / "cache"))
    assert command("data", "fetch", "toy", "--json") == 0
    assert json.loads(capsys.readouterr().out)["where"] == str(tmp_path / "cache/toy")
    assert command("data", "verify", "toy") == 0


def test_info_says_what_a_model_is_and_what_is_installed(trained, capsys):
    assert command("info", trained[0], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class"] == "SPENClassifier" and found["by"] == f"spen_jax {sx.__version__}"
    assert found["labels"] == ["billing", "login", "urgent"]
    assert found["features"] == ["hours", "words of text"]
    assert command("info") == 0
    assert "devices" in capsys.readouterr().out


# Processes


def started(*arguments, **more):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "spen_jax", *map(str, arguments)]
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment, **more)


@pytest.mark.slow
def test_a_process_that_is_terminated_ends_soon_with_its_code(tmp_path):
    source = tickets(tmp_path / "a.csv", 400)
    model = tmp_path / "m"
    options = ("--labels", "tags", "--set", "early_stopping=False", "--epochs", 100_000)
    with started("train", source, "--out", model, *options) as process:
        while not (model / "metrics.jsonl").exists():
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and time.monotonic() - began < 10
    assert err.splitlines()[-1] == f"spen-jax: terminated; spen-jax train --resume {model} goes on"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is loaded is seen there")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_while_it_is_imported_ends_it_in_one_line(number, code, word):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the signal is ignored, as of jobs in the background")
    with started("info", stdout=subprocess.PIPE) as process:
        while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", f"spen-jax: {word}\n")


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(trained):
    source = Path(trained[1])
    with started("predict", trained[0], source, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, err) == (0, "")


# The page


PAGE = (ROOT / "docs/do/cli.md").read_text("utf-8")


def test_the_page_names_every_option_and_exit_code(capsys):
    for name in ("train", "evaluate", "predict", "data", "info"):
        assert command(name, "--help") == 0
        for option in set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}:
            assert option in PAGE, (name, option)
    for code in (0, 1, 2, 130, 143):
        assert f"| {code} |" in PAGE


def shown(block):
    """(arguments, what the page prints below) of each command of a block."""
    for part in re.split(r"^\$ spen-jax ", block, flags=re.MULTILINE)[1:]:
        line, _, out = part.partition("\n")
        yield shlex.split(line), out


@pytest.mark.slow
def test_the_page_prints_what_its_commands_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    text = re.search(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("tickets.csv").write_text(text[1])
    for arguments, out in (each for block in blocks for each in shown(block)):
        assert command(*arguments) == 0
        got, err = capsys.readouterr()
        seconds = r"in [\d.]+ s"
        for line in out.splitlines():
            line = re.sub(seconds, "in", line)
            assert line in re.sub(seconds, "in", got + err).splitlines(), (arguments, line)


@pytest.mark.slow
def test_a_model_is_exported_and_answers_alone(place, trained, capsys):
    pytest.importorskip("flatbuffers")
    model, _ = trained
    out = place / "one.bundle"
    assert command("export", model, "--out", out) == 0
    assert "for spen_jax.serving" in capsys.readouterr().err
    estimator = sx.load(model / "model.safetensors")
    x = np.zeros((3, estimator.n_features_in_))
    found = serving.load(out)(x)
    np.testing.assert_array_equal(found["p"], estimator.predict_proba(x))
    assert command("info", out) == 0


@pytest.mark.slow
def test_export_without_the_package_of_programs_is_one_line_that_names_the_extra(
    place, trained, monkeypatch, capsys
):
    def lacking(exported):
        raise ImportError("Please install 'flatbuffers'")

    monkeypatch.setattr(jax.export.Exported, "serialize", lacking)
    out = place / "none.bundle"
    assert command("export", trained[0], "--out", out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'spen_jax[serving]'" in line and not out.exists()
