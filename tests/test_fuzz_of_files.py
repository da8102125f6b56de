"""Thousands of mutations of small files: the right answer, or a documented exception that names the file.

What is right is said by slow readers that are written for these tests. SPEN_JAX_FUZZ=20 tries twenty times as many.
"""

import csv
import math
import os
import random
import re
import time
import tracemalloc
import zlib

import numpy as np
import pytest

from spen_jax import data

pytestmark = pytest.mark.slow

TIMES = float(os.environ.get("SPEN_JAX_FUZZ", "1"))
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
HEAD = (
    "@relation 'r: -C -1'\n@attribute a numeric\n@attribute 'b c' {0,1}\n@attribute c {red, 'dark green',blue}\n"
    "@attribute L1 {0,1}\n@data\n"
)
FILES = {
    "arff": [
        HEAD + "1.5,0,red,1\n-2e-1,1,'dark green',0\n?,0,blue,1\n",
        HEAD + "{0 1.5,3 1}\n{}\n{1 1, 2 'dark green'}\n{0 ?}\n",
    ],
    "svm": [
        "0,2 1:0.5 3:1\n 2:.25\n\n1 1:1e2 7:-3\n",
        "4 9 3\n0 1:1 4:2\n2,1 0:-.5\n\n 3:1\n",
        "# a\n-1 qid:2 1:0.5\n+1 2:3 # b\n",
    ],
    "csv": [
        'id,size,"a, b",day,note,tags\n1,2.5,x,2020-01-02,"so it is, with these and those",p;q\n'
        '2,,y,,"more of these\nwords and those",\n',
        "a\tb\tl\n01\tyes\t1\n1\tno\t0\n2\tyes\t1\n",
    ],
}
BITS = [
    "",
    *"{},'\":;.%#@?\\&-+\t\n\r \0é\ufeff0159eE",
    "@data",
    "nan",
    "inf",
    "1e99",
    "NA",
    "qid:",
    "1:1",
    "99999999999",
    '""',
    "\n\n",
]
XML = '<?xml version="1.0"?>\n<labels>\n<label name="L1"></label><label name="b c"/>\n</labels>\n'


def mutated(rng, text):
    for _ in range(rng.randint(1, 2)):
        at, length = rng.randint(0, len(text)), rng.randint(0, 3)
        if rng.random() < 0.05:
            length = rng.randint(0, len(text))
        text = text[:at] + rng.choice(BITS) + text[at + length :]
    return text


def outcome(path, **settings):
    """Examples that hang together, or None for a documented refusal that names the file."""
    began = time.perf_counter()
    try:
        found = data.read(path, **settings)
    except data.DataError as error:
        assert path.name in str(error) and "expected" in str(error) or "no column" in str(error), (
            error
        )
        return None
    finally:
        assert time.perf_counter() - began < 5
    n = found.x.shape[0]
    assert (
        n
        and found.x.shape == (n, len(found.feature_names))
        and found.y.shape == (n, len(found.label_names))
    )
    assert found.x.dtype == found.y.dtype == np.float32
    assert found.mask is None or (found.mask == ~np.isnan(found.y)).all()
    return found


def slow_svm(text):
    """(labels, {index: value}) of each row; None for what is no such text."""
    rows = []
    lines = re.sub(r"(?m)^[ \t]*#.*\n?", "", text if text.endswith("\n") else text + "\n").split(
        "\n"
    )
    while lines and not lines[-1].strip(" \t\r"):
        lines.pop()
    header = lines and re.fullmatch(r"[ \t]*\d+[ \t]+\d+[ \t]+\d+[ \t\r]*", lines[0])
    for line in lines[1:] if header else lines:
        line = re.sub(r"(?<=[ \t])qid:[^\s#]+", "", re.sub(r"[ \t]*#.*", "", line))
        tokens = re.split(r"[ \t\r]+", line.strip(" \t\r")) if line.strip(" \t\r") else []
        labels = tokens.pop(0) if tokens and ":" not in tokens[0] else ""
        pairs = [re.fullmatch(rf"({NUMBER}):({NUMBER})", token) for token in tokens]
        if not re.fullmatch(rf"(?:{NUMBER}(?:,{NUMBER})*)?", labels) or not all(pairs):
            return None
        cells = [(float(p[1]), np.float32(float(p[2]))) for p in pairs if p]
        if len({*dict(cells)}) < len(cells):
            return None
        rows.append(({float(v) for v in labels.split(",") if v}, dict(cells)))
    return rows


def test_mutations_of_sparse_text(tmp_path):
    rng, read, path = random.Random(1), 0, tmp_path / "t.svm"
    for _ in range(int(2000 * TIMES)):
        text = mutated(rng, rng.choice(FILES["svm"]))
        path.write_bytes(text.encode())
        try:
            found = data.read_svmlight(path)
        except data.DataError as error:
            assert "t.svm" in str(error)
            continue
        read += 1
        want = slow_svm(text)
        assert want is not None, text
        names = (
            [float(name) for name in found.feature_names[: found.x.shape[1]]]
            if found.x.shape[1] < 10**6
            else None
        )
        for i, (labels, cells) in enumerate(want):
            part = slice(found.x.indptr[i], found.x.indptr[i + 1])
            first = int(found.feature_names[0]) if found.x.shape[1] else 0
            got = dict(zip(found.x.indices[part] + float(first), found.x.data[part], strict=True))
            assert got == cells, text
            if found.label_names == ("target",):
                assert {float(found.y[i, 0])} == {np.float32(v) for v in labels}
            else:
                on = np.flatnonzero(
                    found.y[[i]].toarray() if hasattr(found.y, "toarray") else found.y[i]
                )
                assert {float(found.label_names[j]) for j in on} == labels, text
        assert names is None or len(names) == found.x.shape[1]
    assert read > 100 * TIMES


def slow_rows(text):
    """The cells of CSV as Python's own reader has them, by the sign between the first two names."""
    for sign in ",;\t|":
        rows = [
            [c.strip() for c in row]
            for row in csv.reader(text.splitlines(keepends=True), delimiter=sign)
        ]
        rows = [row for row in rows if row and (len(row) > 1 or row[0])]
        if rows and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            return rows
    return None


def test_mutations_of_tables(tmp_path):
    rng, read, path = random.Random(2), 0, tmp_path / "t.csv"
    for _ in range(int(2000 * TIMES)):
        text = mutated(rng, rng.choice(FILES["csv"]))
        path.write_bytes(text.encode())
        found = outcome(path, labels=-1)
        if found is None:
            continue
        read += 1
        rows = slow_rows(text.removeprefix("\ufeff"))
        if rows is None or "\r" in text:
            continue
        assert found.x.shape[0] == len(rows) - 1, text
        for name, column in zip(rows[0], zip(*rows[1:], strict=True), strict=True):
            if name in found.feature_names:  # a number, a date or one of two values
                got = found.x[:, found.feature_names.index(name)]
                if all(re.fullmatch(NUMBER, cell) for cell in column):
                    np.testing.assert_array_equal(got, np.float32([float(c) for c in column]), text)
            for value in {*column} - {""}:
                if f"{name}={value}" in found.feature_names and rows[0].count(name) == 1:
                    got = found.x[:, found.feature_names.index(f"{name}={value}")]
                    want = [math.nan if c == "" else float(c == value) for c in column]
                    np.testing.assert_array_equal(got, want, text)
    assert read > 100 * TIMES


def test_mutations_of_arff(tmp_path):
    rng, read, path = random.Random(3), 0, tmp_path / "t.arff"
    for round in range(int(2000 * TIMES)):
        text = mutated(rng, rng.choice(FILES["arff"]))
        path.write_bytes(
            text.encode("latin-1" if round % 5 == 0 and "\ufeff" not in text else "utf-8")
        )
        try:
            found = data.read_arff(path)
        except data.DataError as error:
            assert re.match(rf"{re.escape(str(path))}(:\d+)?: ", str(error)), error
            continue
        read += 1
        n = found.x.shape[0]
        assert found.x.shape == (n, len(found.feature_names)) and found.y.shape == (
            n,
            len(found.label_names),
        )
        body = text.split("@data\n", 1)[-1] if text.count("@data") == 1 else ""
        rows = [re.sub(r"\s+%.*", "", line).strip() for line in body.split("\n")]
        rows = [row for row in rows if row and row[0] != "%"]
        if (
            rows
            and found.feature_names[:1] == ("a",)
            and all(re.fullmatch(rf"{NUMBER}(?:,[^,'\"]+)+", r) for r in rows)
        ):
            np.testing.assert_array_equal(
                found.x[:, 0], np.float32([float(r.split(",")[0]) for r in rows]), text
            )
    assert read > 100 * TIMES


def test_mutations_of_lists_of_labels(tmp_path):
    rng, read = random.Random(4), 0
    (tmp_path / "t.arff").write_text(FILES["arff"][0])
    path = tmp_path / "t.xml"
    for _ in range(int(2000 * TIMES)):
        path.write_bytes(mutated(rng, XML).encode())
        try:
            found = data.read_arff(tmp_path / "t.arff", path)
        except data.DataError as error:
            assert "t.xml" in str(error) or "expected 0 or 1 for 'a'" in str(error)
            continue
        read += 1
        assert {*found.label_names} <= {
            "L1",
            "b c",
            "a",
            "c=red",
            "c=dark green",
            "c=blue",
        } and found.label_names
    assert read > 100 * TIMES


def test_mutations_of_packed_files(tmp_path):
    rng, path = random.Random(5), tmp_path / "t.gz"
    packed = zlib.compressobj(wbits=31)
    whole = packed.compress(FILES["svm"][0].encode()) + packed.flush()
    for _ in range(int(500 * TIMES)):
        at = rng.randint(2, len(whole) - 1)
        path.write_bytes(
            whole[:at]
            + bytes([rng.randint(0, 255)]) * rng.randint(0, 2)
            + whole[at + rng.randint(0, 2) :]
        )
        try:
            data.read(path, labels=None)
        except data.DataError as error:
            assert "t.gz" in str(error)


@pytest.mark.parametrize("kind", ["dense", "sparse", "short", "svm", "csv", "words"])
def test_memory_stays_within_ten_times_the_file(tmp_path, kind):
    rng = np.random.default_rng(0)
    n, path = 20000, tmp_path / "t"
    head = "".join(f"@attribute a{i} numeric\n" for i in range(20)) + "@attribute l {0,1}\n@data\n"
    with open(path, "w") as file:
        if kind in ("dense", "short"):
            made = [f"{v:.4f}" if kind == "dense" else f"{v:.0f}" for v in rng.random(20 * n)]
            file.write(
                head + "".join(",".join(made[20 * i : 20 * i + 20]) + ",1\n" for i in range(n))
            )
        elif kind == "sparse":
            file.write(
                head
                + "".join(
                    "{" + ",".join(f"{j} {rng.random():.3f}" for j in range(i % 9)) + "}\n"
                    for i in range(n)
                )
            )
        elif kind == "svm":
            file.write(
                "".join(
                    f"{i % 7} " + " ".join(f"{j + 1}:{rng.random():.3f}" for j in range(9)) + "\n"
                    for i in range(n)
                )
            )
        elif kind == "csv":
            file.write(
                "a,b,c,l\n"
                + "".join(f"{i % 7},{rng.random():.5f},x{i % 3},1\n" for i in range(3 * n))
            )
        else:
            file.write(
                "a,b,l\n" + "".join(f"0,{rng.random()} and more of words {i},1\n" for i in range(n))
            )
    tracemalloc.start()
    data.read(path, None if kind == "svm" else "l")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * path.stat().st_size + 2**23
