"""Arrays on disk: what was appended comes back mapped, damaged folders are named, killed writers leave nothing."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from benchmarks import large
from spen_jax import data

RNG = np.random.default_rng(0)
X = scipy.sparse.random_array((500, 40), density=0.2, rng=RNG, format="csr", dtype=np.float32)
Y = (RNG.random((500, 7)) < 0.3).astype(np.float32)


def write(folder, step=137, **names):
    with data.storing(folder) as part:
        for i in range(0, 500, step):
            part.append(x=X[i : i + step], y=Y[i : i + step], at=np.arange(500)[i : i + step])
        part.names.update(names)
        part.notes = ["of a test"]
    return data.stored(folder)


def same(found):
    assert (found.fields["x"] != X).nnz == 0 and found.fields["x"].shape == X.shape
    np.testing.assert_array_equal(found.fields["y"], Y)
    np.testing.assert_array_equal(found.fields["at"], np.arange(500))


def test_what_is_appended_comes_back_mapped(tmp_path):
    found = write(tmp_path / "new" / "t", x=[f"w{i}" for i in range(40)])
    same(found)
    x = found.fields["x"]
    assert [type(a) for a in (x.data, x.indices, x.indptr, found.fields["y"])] == [np.memmap] * 4
    assert (x.dtype, x.indices.dtype, x.indptr.dtype) == (np.float32, np.int32, np.int32)
    assert list(found.fields) == ["x", "y", "at"] and found.notes == ("of a test",)
    assert found.feature_names[3] == "w3" and found.label_names == ()
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    for name in ("y", "x.values"):
        np.testing.assert_array_equal(
            np.load(tmp_path / "new" / "t" / f"{name}.npy"), Y if name == "y" else X.data
        )
    for which in (slice(3, 9), slice(0, 400, 3), [5, 2, 2], np.arange(500) % 7 == 0):
        np.testing.assert_array_equal(x[which].toarray(), X[which].toarray())
    with pytest.raises(ValueError, match="read-only"):
        found.fields["y"][0] = 1


def test_rows_in_disorder_are_put_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("spen_jax.data.store_writer.BLOCK", 800)
    n = 300
    rows, columns = RNG.integers(0, n, 2000), RNG.integers(0, 20, 2000)
    given = scipy.sparse.coo_array((RNG.random(2000), (rows, columns)), (n, 20))
    csr = scipy.sparse.csr_array(
        (RNG.random(6), [3, 1, 1, 0, 2, 0], [0, 3, 3, 3, 6]), shape=(4, 20)
    )
    with data.storing(tmp_path / "t") as part:
        for each in (given, csr, given.tocsc(), scipy.sparse.csr_matrix(csr), given > 0.5):
            part.append(x=each)
    x = data.stored(tmp_path / "t").fields["x"]
    parts = [given, csr, given, csr, given > 0.5]
    want = np.vstack([p.toarray() for p in parts])
    np.testing.assert_allclose(x.toarray(), want, rtol=1e-6)
    marked = x.has_canonical_format
    x = scipy.sparse.csr_array((x.data, x.indices, x.indptr), x.shape)
    assert marked and x.has_canonical_format


def test_no_rows_and_no_columns_are_stored_too(tmp_path):
    with data.storing(tmp_path / "t") as part:
        part.append(x=scipy.sparse.csr_array((0, 3)), y=np.zeros((0, 2)), z=np.zeros((0, 0, 4)))
    fields = data.stored(tmp_path / "t").fields
    assert [a.shape for a in fields.values()] == [(0, 3), (0, 2), (0, 0, 4)]


def test_beyond_what_four_bytes_count_starts_and_indices_have_eight(tmp_path, monkeypatch):
    monkeypatch.setattr("spen_jax.data.store_writer.MOST_SHORT", 2000)
    found = write(tmp_path / "t")
    same(found)
    assert found.fields["x"].indices.dtype == found.fields["x"].indptr.dtype == np.int64
    assert not (tmp_path / "t" / "x.indices.npy.old").exists()


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"x": X}, "expected the fields x, y, got x"),
        ({"x": X, "y": Y[:3]}, "as many rows in every field, got {'x': 500, 'y': 3}"),
        ({"x": X[:, :3], "y": Y}, r"x: expected a sparse matrix of shape \(n, 40\)"),
        ({"x": X.toarray(), "y": Y}, r"x: expected a sparse matrix.*got an array \(500, 40\)"),
        ({"x": X, "y": Y[:, :2]}, r"y: expected float32 of shape \(n, 7\).*got float32 \(500, 2\)"),
        ({"x": X, "y": Y.astype(float)}, "y: expected float32.*got float64"),
        ({"x": X, "y": X}, "y: expected float32.*got a sparse matrix"),
        ({"x": X, "y": [["a"]] * 500}, r"y: expected an array \(n, ...\), got <U1"),
        ({"x": X.astype(complex), "y": Y}, "x: expected a sparse matrix .* of real numbers"),
        ({"x": X, "y": 3.0}, r"y: expected an array \(n, ...\), got float64 of shape \(\)"),
        ({}, "expected the fields x, y, got none"),
    ],
)
def test_rows_unlike_those_before_are_refused_and_not_written(tmp_path, second, said):
    with data.storing(tmp_path / "t") as part:
        part.append(x=X, y=Y)
        with pytest.raises(ValueError, match=said):
            part.append(**second)
    fields = data.stored(tmp_path / "t").fields
    assert (fields["x"] != X).nnz == 0 and (fields["y"] == Y).all()


def test_what_cannot_be_stored_leaves_nothing(tmp_path):
    for fields, names, said in (
        ({}, {}, "expected the fields at least one"),
        ({"a/b": Y}, {}, "names of fields such as x or y_soft"),
        ({"y": Y, "Y": Y}, {}, "differ not only in case"),
        ({"y": Y}, {"y": ["one"]}, r"1 names for the columns of y, which is \(500, 7\)"),
        ({"y": Y}, {"z": ["one"]}, "1 names for the columns of z"),
        ({"x": X.astype(float) * 1e300}, {}, "x: expected values that float32 can hold"),
    ):
        with pytest.raises(ValueError, match=said), data.storing(tmp_path / "t") as part:
            part.append(**fields)
            part.names.update(names)
    with pytest.raises(ValueError, match="nothing was appended"), data.storing(tmp_path / "t"):
        pass
    with pytest.raises(KeyboardInterrupt), data.storing(tmp_path / "t") as part:
        part.append(y=Y)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="expected a folder that storing"):
        data.stored(tmp_path / "t")


def test_an_existing_name_is_not_overwritten(tmp_path):
    write(tmp_path / "t")
    with pytest.raises(FileExistsError, match="give another name, or remove it first"):
        write(tmp_path / "t")
    with pytest.raises(FileExistsError), data.storing(tmp_path / "u") as part:
        part.append(y=Y)
        (tmp_path / "u").mkdir()
    same(data.stored(tmp_path / "t"))
    assert {p.name for p in tmp_path.iterdir()} == {"t", "u"}


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        for caught in (False, True):
            with pytest.raises(OSError), data.storing(tmp_path / "t") as part:  # noqa: PT011
                for _ in range(20):
                    try:
                        part.append(y=np.zeros((2**14, 4), np.float32), z=np.zeros(2**14))
                    except OSError:
                        if not caught:
                            raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_name_do_not_meet_and_the_first_to_end_wins(tmp_path):
    with pytest.raises(FileExistsError), data.storing(tmp_path / "t") as late:
        late.append(y=Y)
        write(tmp_path / "t")
    same(data.stored(tmp_path / "t"))
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


KILLED = """
import sys, time
import numpy as np
from spen_jax import data
with data.storing(sys.argv[1]) as part:
    while True:
        part.append(y=np.zeros((1000, 100)))
        print("on", flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_that_looks_whole_and_the_next_removes_it(tmp_path):
    def start():
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "t")], stdout=subprocess.PIPE
        )
        child.stdout.readline()
        return child

    child = start()
    assert not (tmp_path / "t").exists()
    child.send_signal(signal.SIGSTOP)
    with data.storing(tmp_path / "u") as part:  # of another name
        part.append(y=Y)
    write(tmp_path / "t")  # beside a living one
    assert len([*tmp_path.glob(".t.*.part")]) == 1
    child.kill()
    child.communicate()
    shutil.rmtree(tmp_path / "t")
    assert len([*tmp_path.glob(".t.*.part")]) == 1
    same(write(tmp_path / "t"))
    assert {p.name for p in tmp_path.iterdir()} == {"t", "u"}


def test_damaged_folders_are_named_or_give_the_right_arrays(tmp_path):
    write(tmp_path / "whole", x=[f"w{i}" for i in range(40)])
    files = sorted(p.name for p in (tmp_path / "whole").iterdir())
    rng = np.random.default_rng(1)
    refused = 0
    for turn in range(200):
        path = tmp_path / "t" / files[turn % len(files)]
        shutil.copytree(tmp_path / "whole", tmp_path / "t")
        raw = bytearray(path.read_bytes())
        place = int(rng.integers(0, min(len(raw), 200 if turn % 2 else len(raw))))
        kind = turn // len(files) % 6
        if kind == 0:
            raw[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            raw[place:] = b""
        elif kind == 2:
            raw[place:place] = bytes(rng.integers(0, 256, 3, np.uint8))
        elif kind == 3:
            raw[place : place + 8] = bytes(rng.integers(0, 256, 8, np.uint8))
        elif kind == 4:
            raw = bytearray((tmp_path / "t" / files[(turn + 1) % len(files)]).read_bytes())
        path.write_bytes(raw)
        if kind == 5:
            path.unlink()
        try:
            found = data.stored(tmp_path / "t")
        except data.DataError as error:
            assert "index.json" in str(error) or path.name in str(error), (turn, error)
            refused += 1
        else:
            same(found)
            assert found.feature_names == tuple(f"w{i}" for i in range(40))
        shutil.rmtree(tmp_path / "t")
    assert refused > 150


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    write(tmp_path / "t")
    index = json.loads((tmp_path / "t" / "index.json").read_text())
    for change, said in (
        ({"version": 9}, "index.json: expected version 1 of the format, got 9: store anew"),
        ({"format": "other"}, "the format 'other'"),
        ({"checksum": 1}, "another checksum"),
    ):
        (tmp_path / "t" / "index.json").write_text(json.dumps(index | change))
        with pytest.raises(data.DataError, match=said):
            data.stored(tmp_path / "t")
    (tmp_path / "t" / "index.json").write_text(json.dumps(index))
    np.save(tmp_path / "t" / "y.npy", Y * 2)
    with pytest.raises(data.DataError, match=r"y\.npy: expected CRC-32"):
        data.stored(tmp_path / "t")
    monkeypatch.setattr("spen_jax.data.store_reader.SMALL", 0)
    assert (data.stored(tmp_path / "t").fields["y"] == 2 * Y).all()  # only looked at when asked
    with pytest.raises(data.DataError, match=r"y\.npy: expected CRC-32"):
        data.stored(tmp_path / "t", check=True)
    starts = np.load(tmp_path / "t" / "x.starts.npy")
    starts[5] = 1_000_000
    np.save(tmp_path / "t" / "x.starts.npy", starts)
    with pytest.raises(data.DataError, match=r"x\.starts\.npy: expected starts of rows that"):
        data.stored(tmp_path / "t")
    np.save(tmp_path / "t" / "y.npy", Y[:9])
    with pytest.raises(data.DataError, match=r"y\.npy: expected 14128 bytes, got 380"):
        data.stored(tmp_path / "t")


TEXTS = [
    "0,2 1:0.5 3:1\n 2:0.25\n\n1 1:1 \t4:-1e-3\r\n5\n2,2\n\n\n",
    "1 0:1 2:2\n",
    "\ufeff1 01:1 2:2\n",
    "4 5 3\n0,2 1:1\n 4:2\n1 0:3\n\n",
    "2 5 3\n1,3 1:1\n 5:2\n",
    "9 5 3\n0 1:1\n\n\n\n\n\n\n\n\n",
    "# of 2 rows\n1 qid:7 1:2 # last 3:4\n# more\n0 qid:8 2:1\n",
    "1.5 1:1\n-2 1:2\n",
    "+1 1:1\n-1 1:2\n",
    "1 3:1 1:2\n1 2:5\n",
    "0\n1\n",
    "1 1:1 2:2\n1 0:1\n",
    "3 5 3\n0 1:1\n",
    "1 5 3\n0 1:1\n0 1:1\n",
    "1 5 3\n0 6:1\n",
    "2 5 3\n0 1:1\n4 1:1\n",
    "1,2 1:1\n0.5 1:2\n",
    "1 3:1\n1 3:1 1:2 3:4\n",
    "0.5 1:1\n1e39 1:1\n",
    "1 1:1\n99999999999 1:1\n",
    "# a\n0 1:1\n1 1:a\n0 1:1\n",
    "",
]
NEW = ["7 3:1\n", "7 10:1\n", "3 1:1\n", "2 1:1\n"]
"""Such as those that another file is read like."""


def outcome(how, *given, **settings):
    """x, y, names and notes, or the error."""
    try:
        found = how(*given, **settings)
    except data.DataError as error:
        return str(error)
    fields = found.fields if isinstance(found, data.Stored) else vars(found)
    x, y = fields["x"], fields["y"]
    assert isinstance(found, data.Examples) or scipy.sparse.issparse(y) or "regr" in str(found)
    y = y.toarray() if scipy.sparse.issparse(y) else y
    parts = [x.indptr.tolist(), x.indices.tolist(), x.data.tolist(), x.shape, y.tolist(), y.shape]
    return parts, found.feature_names, found.label_names, found.notes


@pytest.mark.parametrize("chunk", [2**18, 8])
def test_text_is_stored_as_it_is_read(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("spen_jax.data.svmlight_rows.CHUNK", chunk)
    likes = ["0,7 2:1 9:1\n", "1.5 1:1\n"]
    path, folder = tmp_path / "t.svm", tmp_path / "t"
    like = []
    for text in likes:
        path.write_text(text)
        like.append((data.read_svmlight(path), data.store_svmlight(path, folder)))
        shutil.rmtree(folder)
    for text in TEXTS + NEW:
        path.write_text(text)
        cases = [({},) * 2]
        if chunk == 8 and text in (*TEXTS[:2], *TEXTS[6:9], *NEW):
            cases += [({"first": first},) * 2 for first in (0, 1)]
            cases += [({"like": read}, {"like": kept}) for read, kept in like]
        for reading, storing in cases:
            read = outcome(data.read_svmlight, path, **reading)
            kept = outcome(data.store_svmlight, path, folder, **storing)
            assert read == kept, (text, reading)
            assert folder.exists() != isinstance(read, str)
            shutil.rmtree(folder, ignore_errors=True)
    assert [p.name for p in tmp_path.iterdir()] == ["t.svm"]
    folder.mkdir()
    with pytest.raises(FileExistsError, match="give another name"):
        data.store_svmlight(path, folder)


MEASURED = """
import sys
from pathlib import Path
import numpy as np
import scipy.sparse
from spen_jax import data

def status(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024

text, folder = sys.argv[1:]
small = Path(folder + ".small.svm")
small.write_text("1 1:1\\n")
data.store_svmlight(small, folder + ".small")
before = status("VmRSS")
found = data.store_svmlight(text, folder)
print(status("VmHWM") - before)
before, x = status("RssAnon"), found.fields["x"]
for seed in range(20):
    x[np.random.default_rng(seed).integers(0, x.shape[0], 32)]
x.tocsr().astype(np.float32, copy=False).has_canonical_format
print(status("RssAnon") - before, x.nnz)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="of Linux")
def test_a_hundred_megabytes_of_text_are_stored_and_cut_in_little_memory(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(2000):
        indices = np.sort(rng.choice(10**6, 60, replace=False))
        pairs = " ".join(f"{i}:{v:.4f}" for i, v in zip(indices, rng.random(60), strict=True))
        lines.append(",".join(map(str, rng.choice(10_000, 3))) + f" {pairs}\n")
    part = "".join(lines)
    with open(tmp_path / "t.svm", "w") as file:
        for _ in range(1 + 10**8 // len(part)):
            file.write(part)
    child = [sys.executable, "-c", MEASURED, str(tmp_path / "t.svm"), str(tmp_path / "t")]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    storing, cutting, entries = map(float, done.stdout.split())
    print(storing, cutting, entries)
    assert storing < 60 and cutting < 5 and entries > 6e6


@pytest.mark.parametrize("k", [1, 30, 50])
def test_made_up_rows_have_as_many_features_as_asked_for_the_first_most_often(tmp_path, k):
    found = large.write(tmp_path / "t", 3000, 50, k, labels=20)
    x, y = found.fields["x"], found.fields["y"]
    assert (np.diff(x.indptr) == k).all() and x.shape == (3000, 50) and y.shape == (3000, 20)
    assert 1 <= np.diff(y.indptr).min() and np.diff(y.indptr).max() <= 3 and (y.data == 1).all()
    for each in (x, y):
        again = scipy.sparse.csr_array((each.data, each.indices, each.indptr), each.shape)
        assert again.has_canonical_format and again.indices.max() < again.shape[1]
    if k == 1:
        counts = np.sort(np.bincount(x.indices, minlength=50))[::-1]
        want = np.log1p(1 / np.arange(1, 50)) / np.log(50)
        np.testing.assert_allclose(counts[:5] / 3000, want[:5], atol=0.03)
