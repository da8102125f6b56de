"""Sparse text: numbers against `float`, files against scikit-learn's reader and by hand."""

import gzip

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from spen_jax import data
from spen_jax.data.numbers import NUMBER, numbers_at

datasets = pytest.importorskip("sklearn.datasets")


def read(folder, text, **settings):
    path = folder / "t.svm"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return data.read_svmlight(path, **settings)


DIGITS = st.text("0123456789", max_size=18)
DECIMALS = st.tuples(
    st.sampled_from(["", "-", "+"]), DIGITS, st.sampled_from(["", "."]), DIGITS
).map("".join)
PIECES = st.lists(
    (DECIMALS | st.text("0123456789+-.eE", max_size=8)).filter(bool), min_size=1, max_size=6
)


@pytest.mark.slow
@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(PIECES)
def test_numbers_are_those_of_float_to_the_bit(pieces):
    text = np.frombuffer(" ".join(pieces).encode(), np.uint8)
    ends = np.cumsum([len(p) + 1 for p in pieces]) - 1
    found = numbers_at(text, ends - [len(p) for p in pieces], ends)
    if all(NUMBER.fullmatch(p) for p in pieces):
        assert found.tolist() == [float(p) for p in pieces]
    else:
        assert found is None


def test_rows_have_several_labels_or_none_and_features_or_none(tmp_path):
    found = read(tmp_path, "0,2 1:0.5 3:1\n 2:0.25\n\n1 1:1 \t4:-1e-3\r\n5\n2,2\n\n\n")
    want = [[0.5, 0, 1, 0], [0, 0.25, 0, 0], [0] * 4, [1, 0, 0, -1e-3], [0] * 4, [0] * 4]
    np.testing.assert_array_equal(found.x.toarray(), np.float32(want))
    assert found.y.tolist() == [
        [1, 0, 1, 0],
        [0] * 4,
        [0] * 4,
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
    ]
    assert list(found.feature_names) == ["1", "2", "3", "4"]
    assert found.label_names == ("0", "1", "2", "5")
    assert "3 rows without features" in found.notes and "2 rows without labels" in found.notes


def test_a_zero_says_that_indices_are_from_zero(tmp_path):
    found = read(tmp_path, "1 0:1 2:2\n")
    assert found.x.toarray().tolist() == [[1, 0, 2]] and found.feature_names[0] == "0"
    assert read(tmp_path, "\ufeff1 01:1 2:2\n").x.toarray().tolist() == [[1, 2]]
    assert read(tmp_path, "1 1:1 2:2\n", first=0).x.toarray().tolist() == [[0, 1, 2]]
    with pytest.raises(data.DataError, match=r"t\.svm:2: expected an index from 1 to 2, got 0"):
        read(tmp_path, "1 1:1 2:2\n1 0:1\n", first=1)


def test_a_first_line_of_three_numbers_counts_rows_features_and_labels(tmp_path):
    found = read(tmp_path, "4 5 3\n0,2 1:1\n 4:2\n1 0:3\n\n")
    assert (found.x.shape, found.y.shape) == ((4, 5), (4, 3))
    assert found.x.toarray()[:, [0, 1, 4]].tolist() == [[0, 1, 0], [0, 0, 2], [3, 0, 0], [0, 0, 0]]
    assert found.y.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    for text, said in (
        ("3 5 3\n0 1:1\n", r":1: expected 3 rows, as the first line says, got 1"),
        ("1 5 3\n0 1:1\n0 1:1\n", r":1: expected 1 rows.*got 2"),
        ("1 5 3\n0 6:1\n", r":2: expected an index from 0 to 4, got 6"),
        ("2 5 3\n0 1:1\n4 1:1\n", r":3: expected a label among the 3: '0', '1', '2', got 4"),
    ):
        with pytest.raises(data.DataError, match=said):
            read(tmp_path, text)


def test_comments_and_queries_are_skipped_which_notes_say(tmp_path):
    found = read(tmp_path, "# of 2 rows\n1 qid:7 1:2 # last 3:4\n# more\n0 qid:8 2:1\n")
    assert found.x.toarray().tolist() == [[2, 0], [0, 1]]
    assert {"3 comments skipped", "qid: of 2 rows skipped"} <= {*found.notes}


def test_targets_that_are_not_whole_are_a_regression(tmp_path):
    found = read(tmp_path, "1.5 1:1\n-2 1:2\n")
    assert (found.y.tolist(), found.label_names) == ([[1.5], [-2]], ("target",))
    assert "a regression" in " ".join(found.notes)
    classes = read(tmp_path, "+1 1:1\n-1 1:2\n")
    assert (classes.y.tolist(), classes.label_names) == ([[0, 1], [1, 0]], ("-1", "1"))
    with pytest.raises(
        data.DataError, match=r"t\.svm:2: expected whole numbers as labels, got 0.5"
    ):
        read(tmp_path, "1,2 1:1\n0.5 1:2\n")


def test_indices_may_stand_in_any_order_but_once(tmp_path):
    assert read(tmp_path, "1 3:1 1:2\n1 2:5\n").x.toarray().tolist() == [[2, 0, 1], [0, 5, 0]]
    with pytest.raises(data.DataError, match=r"t\.svm:2: expected each index once in a row, got 3"):
        read(tmp_path, "1 3:1\n1 3:1 1:2 3:4\n")


def test_another_file_is_read_like_the_first(tmp_path):
    first = read(tmp_path, "0,7 2:1 9:1\n")
    second = read(tmp_path, "7 3:1\n", like=first)
    assert second.x.shape == (1, 9) and second.y.tolist() == [[0, 1]]
    for text, said in (
        ("7 10:1\n", "an index from 1 to 9, got 10"),
        ("3 1:1\n", "among the 2: '0', '7', got 3"),
    ):
        with pytest.raises(data.DataError, match=said):
            read(tmp_path, text, like=first)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1 1:a", "'index:value', got '1:a'"),
        ("1 1:1:2", "'index:value', got '1:1:2'"),
        ("1 1:", "'index:value', got '1:'"),
        ("1 :1", "'index:value', got ':1'"),
        ("1 1: 2", "'index:value', got '1:'"),
        ("1 2", "'index:value', got '2'"),
        ("1 -1:2", "'index:value', got '-1:2'"),
        ("1 1.5:2", "'index:value', got '1.5:2'"),
        ("1 +16:2", "'index:value', got '+16:2'"),
        ("1 1.:2", "'index:value', got '1.:2'"),
        ("1 1E0:2", "'index:value', got '1E0:2'"),
        ("1 1:1\x0b2:3", "'index:value', got '1:1"),
        ("1 1:nan", "'index:value', got '1:nan'"),
        ("1 1:1e39", "a value that float32 can hold, got '1:1e39'"),
        ("1 2147483647:1", "an index of at most 2147483646"),
        ("1 99999999999999999999:1", "an index of at most 2147483646"),
        ("1,,2 1:1", "labels, numbers between commas, got '1,,2'"),
        ("1, 1:1", "labels, numbers between commas, got '1,'"),
        ("x 1:1", "labels, numbers between commas, got 'x'"),
        ("1:1 3", "'index:value', got '3'"),
        ("1 1:1,2:2", "'index:value', got '1:1,2:2'"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(tmp_path, row, said):
    with pytest.raises(data.DataError) as caught:
        read(tmp_path, f"# a\n0 1:1\n{row}\n0 1:1\n")
    assert f"t.svm:3: expected {said}" in str(caught.value)


def test_a_file_of_several_chunks_is_read_as_scikit_learn_does(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = scipy.sparse.random_array((400, 60), density=0.2, rng=rng, format="csr", dtype=np.float64)
    y = rng.random((400, 9)) < 0.2
    path = tmp_path / "t.svm"
    datasets.dump_svmlight_file(x, y.astype(int), str(path), multilabel=True, zero_based=False)
    theirs, tags = datasets.load_svmlight_file(
        str(path), n_features=60, multilabel=True, dtype=np.float32
    )
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if not line.startswith(b"#")))
    packed = tmp_path / "t.svm.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for chunk in (2**20, 700):
        monkeypatch.setattr("spen_jax.data.svmlight_rows.CHUNK", chunk)
        for each in path, packed:
            found = data.read_svmlight(each)
            np.testing.assert_array_equal(found.x.toarray(), theirs.toarray())
            assert (
                [tuple(np.flatnonzero(row)) for row in found.y]
                == tags
                == [tuple(np.flatnonzero(r)) for r in y]
            )


def test_progress_is_told_to_the_end(tmp_path):
    told = []
    read(tmp_path, "0 1:1\n" * 9, progress=lambda *a: told.append(a))
    assert told[-1] == ("t.svm", 54, 54)


def test_labels_beyond_counting_are_sparse(tmp_path):
    rows = "".join(f"{i} 1:1\n" for i in range(9000))
    found = read(tmp_path, rows)
    assert (
        scipy.sparse.issparse(found.y) and found.y.shape == (9000, 9000) and found.y.sum() == 9000
    )
