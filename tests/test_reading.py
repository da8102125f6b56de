"""One way in, tables, what is said of examples, and how they are split."""

import datetime
import io
import os
from pathlib import Path

import numpy as np
import pytest

from spen_jax import data

FIELD = Path(__file__).parents[1] / "../shared/field"


def table(folder, content, *arguments, encoding="utf-8", **settings):
    path = folder / "t.dat"
    path.write_bytes(content.encode(encoding))
    return data.read_table(path, *arguments, **settings)


# One way in


def test_small_files_as_people_have_them():
    if not FIELD.is_dir():
        pytest.skip("needs the folder of small files")
    meka = data.read(FIELD / "meka_first.arff")
    assert (meka.x.tolist(), meka.label_names) == (
        [[0.5, -1.25], [2, 3.5], [-0.25, 0]],
        ("calm", "loud"),
    )
    assert meka.y.tolist() == [[1, 0], [0, 1], [1, 1]]
    spelled = data.read(FIELD / "label_spellings.arff", FIELD / "label_spellings.xml")
    assert (spelled.x.tolist(), spelled.y.tolist()) == (
        [[0.25], [0.75]],
        [[1, 1, 0, 0], [0, 0, 1, 1]],
    )
    shops = data.read(FIELD / "nominal_features.arff")
    assert shops.feature_names == ("hour=morning", "hour=noon", "hour=night", "is open", "price")
    assert shops.x.tolist() == [[0, 1, 0, 1, 3.5], [0, 0, 1, 0, 1.25], [1, 0, 0, 1, 2]]
    assert shops.y.tolist() == [[1, 0], [0, 1], [0, 0]]
    sparse = data.read(FIELD / "multilabel.svm")
    assert sparse.x.toarray().tolist() == [[0.5, 0, 1], [0, 0.25, 0], [1, 0, 0]]
    assert sparse.y.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    missing = data.read(FIELD / "missing.arff")
    np.testing.assert_array_equal(missing.x, [[1, np.nan], [2, 3], [np.nan, 4]])
    assert missing.mask.tolist() == [[True], [True], [False]] and np.isnan(missing.y[2, 0])
    with pytest.raises(data.DataError, match=r"missing\.arff:6: expected a value for 'v'"):
        data.read(FIELD / "missing.arff", missing="error")
    tickets = data.read(FIELD / "tickets.csv", labels="tags", separator=";")
    assert tickets.label_names == ("billing", "login", "urgent")
    assert tickets.y.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert tickets.feature_names == ("text_length", "priority") and np.isnan(tickets.x[1, 1])
    assert any("'id' is another one in every row" in note for note in tickets.notes)
    with pytest.raises(data.DataError, match=r"tickets\.csv:3: expected a value for 'priority'"):
        data.read(FIELD / "tickets.csv", labels="tags", separator=";", missing="error")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the end of the file"),
        (b" \n\n", "the end of the file"),
        (b"PK\x03\x04rest", "a zip archive or a workbook"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x80\x04\x95abc", "a pickle, which is never read"),
        (b"<labels/>", "got XML: give it as labels="),
        (b"# text\n1\tA\t" + b"\t".join([b"_"] * 8) + b"\n", "CoNLL-U: read_conllu reads it"),
        (b"a,b\n1,\0\n", r"t\.dat:2: expected text, got a zero byte"),
        (b"PAR1 but no more", "expected Parquet"),
        (b'{"a": 1, "b": 2}\n', "got JSON"),
        (
            b"@relatoin x\n@attribute a numeric\n@data\n1\n",
            r"t\.dat:1: expected '@attribute name type' or @data",
        ),
        (b"2 5 2000000000\n-1 1:1\n2 1:1\n", r"t\.dat:2: expected a label among the 2000000000"),
    ],
)
def test_what_is_no_table_is_said_to_be_what_it_is(tmp_path, content, said):
    path = tmp_path / "t.dat"
    path.write_bytes(content)
    if content.startswith(b"PAR1"):
        pytest.importorskip("pyarrow")
    with pytest.raises(data.DataError, match=said):
        data.read(path)


@pytest.mark.parametrize(
    "text",
    [
        "1 1:1 2:\n-1 2:1\n",
        "1 1:1 23\n0 1:1\n",
        "a 1:1\n1 1:1\n",
        "-1 2O:1\n1 1:1\n",
        "2 3 1\n1 -1:5\n0 1:1\n",
        "0, 4 1:0.5\n1 1:1\n",
    ],
)
def test_one_row_that_is_none_does_not_make_a_table_of_sparse_text(tmp_path, text):
    (tmp_path / "t").write_text(text)
    with pytest.raises(data.DataError, match=r"t:\d: expected (labels|'index:value')"):
        data.read(tmp_path / "t")


def test_a_format_is_found_by_content(tmp_path):
    path = tmp_path / "anything.xls"
    for text, names in (
        ("% said\n\n@RELATION r\n@attribute a numeric\n@data\n1\n", ["a"]),
        ("1 3:1\n# a\n0,2 1:1\n", ["1", "2", "3"]),
        ("2 3 2\n0 1:1\n 2:1\n", ["0", "1", "2"]),
        ("a,when\n1,2020-01-01 12:30\n2,2020-01-02 12:30\n", ["a", "when"]),
        ("a|b\n1|2\n", ["a", "b"]),
    ):
        path.write_text(text)
        labels = None if ":1" in text else ()
        assert list(data.read(path, labels).feature_names) == names
    path.write_text("1 3:1\n")
    for settings in {"labels": "a"}, {"separator": ";"}:
        with pytest.raises(ValueError, match="libsvm"):
            data.read(path, **settings)


# Tables


def test_columns_become_numbers_one_hot_dates_and_text(tmp_path):
    text = (
        "n,code,day,open,colour,note,good\n"
        '-1.5e2,007,2024-02-29,yes,red,"so it is, with cats and dogs",1\n'
        '.5,12,1970-01-02T12:00:00Z,no,blue,"one\nmore line of words here",0\n'
        "NA,007,,yes,red,,1\n"
    )
    found = table(tmp_path, text, "good")
    assert found.feature_names == (
        "n",
        "code=007",
        "code=12",
        "day",
        "open",
        "colour=blue",
        "colour=red",
    )
    want = [
        [-150, 1, 0, 19782, 1, 0, 1],
        [0.5, 0, 1, 1.5, 0, 1, 0],
        [np.nan, 1, 0, np.nan, 1, 0, 1],
    ]
    np.testing.assert_array_equal(found.x, np.float32(want))
    assert found.text == {
        "note": ["so it is, with cats and dogs", "one\nmore line of words here", ""]
    }
    assert (found.y.tolist(), found.label_names) == ([[1], [0], [1]], ("good",))
    said = " ".join(found.notes)
    for part in (
        "('open: yes is 1')",
        "one column for each ('code', 'colour')",
        "days since",
        "('note')",
        "2 values of x",
    ):
        assert part in said


def test_labels_are_names_patterns_or_the_last_ones(tmp_path):
    text = "a,tag_x,tag_y\n5,yes,no\n6,no,no\n7,,yes\n"
    for labels in ["tag_x", "tag_y"], "tag_*", -2:
        found = table(tmp_path, text, labels)
        assert found.label_names == ("tag_x", "tag_y")
        np.testing.assert_array_equal(found.y, [[1, 0], [0, 0], [np.nan, 1]])
        assert found.mask.tolist() == [[True, True], [True, True], [False, True]]
    for labels, said in (
        ("tag_z", "no column is called 'tag_z'; there are 'a'"),
        (4, "at most the 3 columns"),
    ):
        with pytest.raises(data.DataError, match=said):
            table(tmp_path, text, labels)


def test_a_numeric_label_is_a_regression_and_classes_where_that_is_said(tmp_path):
    text = "a,k\n5,1\n6,3\n7,2\n"
    found = table(tmp_path, text, "k")
    assert found.y.tolist() == [[1], [3], [2]] and "a regression" in " ".join(found.notes)
    found = table(tmp_path, text, "k", columns={"k": "category"})
    assert found.label_names == ("k=1", "k=2", "k=3") and found.y.argmax(1).tolist() == [0, 2, 1]


def test_several_labels_in_a_cell(tmp_path):
    found = table(tmp_path, "a\ttags\n1\tx; y\n2\t\n3\ty;;x;y\n", "tags", separator=";")
    assert (found.y.tolist(), found.label_names) == ([[1, 1], [0, 0], [1, 1]], ("x", "y"))
    assert "1 row without tags: all labels are 0" in found.notes
    again = table(tmp_path, "tags\ta\ny;x\t4\n", like=found)
    assert (again.x.tolist(), again.y.tolist()) == ([[4]], [[1, 1]])
    with pytest.raises(
        data.DataError, match=r"t\.dat:2: expected for 'tags' some of 'x', 'y', got 'z'"
    ):
        table(tmp_path, "a,tags\n4,z\n", like=found, separator=";")


def test_a_cell_of_labels_that_says_not_known_is_not_a_label(tmp_path):
    for word in "?", "NA", "NaN", "None", "null":
        found = table(tmp_path, f"a,tags\n1,x;y\n2,{word}\n3,\n4,y\n", "tags", separator=";")
        assert found.label_names == ("x", "y")
        np.testing.assert_array_equal(found.y, [[1, 1], [np.nan, np.nan], [0, 0], [0, 1]])
        assert found.mask.tolist() == [[True, True], [False, False], [True, True], [True, True]]
        said = f"1 row where 'tags' is {word!r}: their labels are not known"
        assert any(note.startswith(said) for note in found.notes)
        assert "1 row without tags: all labels are 0" in found.notes
        again = table(tmp_path, f"a,tags\n1,{word}\n2,x\n", like=found)
        np.testing.assert_array_equal(again.y, [[np.nan, np.nan], [1, 0]])


def test_beside_others_the_word_is_a_label_and_so_it_is_everywhere(tmp_path):
    found = table(tmp_path, "a,tags\n1,NA;DE\n2,NA\n3,?\n", "tags", separator=";")
    assert found.label_names == ("DE", "NA")
    np.testing.assert_array_equal(found.y, [[1, 1], [0, 1], [np.nan, np.nan]])
    again = table(tmp_path, "a,tags\n1,NA\n2,DE\n", like=found)
    assert again.y.tolist() == [[0, 1], [1, 0]]


def test_labels_that_differ_in_case_only_are_told(tmp_path):
    text = "a,tags\n1,Billing;x\n2,billing\n3,x\n"
    said = "labels of 'tags' that differ in case only are different ones: 'Billing', 'billing'"
    found = table(tmp_path, text, "tags", separator=";")
    assert found.label_names == ("Billing", "billing", "x") and said in found.notes
    assert said in table(tmp_path, text.replace(";x", ""), "tags").notes
    assert not any("case" in note for note in table(tmp_path, "a,t\n1,x\n2,y\n", "t").notes)


def test_a_word_that_is_another_one_in_every_row_is_told_to_be_an_identifier(tmp_path):
    said = "'no' is another word in every row: an identifier, as it seems; drop='no' leaves it out"
    for n, kind in (9, "category"), (10, "category"), (150, "text"):
        rows = "".join(f"T-{i:05},{i % 2}\n" for i in range(n))
        found = table(tmp_path, f"no,l\n{rows}", "l")
        assert found.columns[0].kind == kind and (said in found.notes) == (n >= 10)
        assert not table(tmp_path, f"no,l\n{rows}", "l", drop="no").feature_names
    names = "".join(f"one ticket {i},{i % 2}\n" for i in range(20))
    assert said not in table(tmp_path, f"no,l\n{names}", "l").notes


def test_another_table_is_read_like_the_first(tmp_path):
    first = table(tmp_path, "zip,c,on,l\n01234,x,no,1\n99999,y,yes,0\n", "l")
    found = table(tmp_path, "new,on,c,zip\n1,no,y,99999\n2,,,01234\n", like=first)
    assert found.feature_names == first.feature_names
    np.testing.assert_array_equal(found.x, [[0, 1, 0, 1, 0], [1, 0, np.nan, np.nan, np.nan]])
    assert any("'new' was not there before" in note for note in found.notes)
    for text, said in (
        ("c,on\nx,no\n", "expected a column 'zip'"),
        ("zip,c,on\n01234,z,no\n", r"t\.dat:2: expected for 'c' one of 'x', 'y', got 'z'"),
    ):
        with pytest.raises(data.DataError, match=said):
            table(tmp_path, text, like=first)


def test_nothing_that_matters_is_guessed(tmp_path):
    for text, said in (
        (
            "a;b\n1,5;2\n2,25;3\n",
            r":2: expected numbers with '\.' in 'a', got '1,5'; text=Text\(decimal=','\) reads decimal marks",
        ),
        ("a,d\n1,31/12/2020\n", "whose day and month are guesswork"),
        ("1,2\n3,4\n", r"text=Text\(header=False\) reads them as a row"),
        ("a,a\n1,2\n", r":1: expected each column name once, got 'a' twice"),
        ("a,b\n1,2\n3\n", r":3: expected 2 cells, got 1 in '3'"),
        ('a,b\n1,"2\n', r":2: expected cells with both their quotes"),
        ("a,b\n", "rows below the names"),
        (
            "a,d\n1,2024-02-30\n2,2024-01-01\n",
            r":2: expected a date that there is, got '2024-02-30'",
        ),
    ):
        with pytest.raises(data.DataError, match=said):
            table(tmp_path, text, ())
    labels = "a;p\n1;1,5\n2;2,5\n"
    with pytest.raises(data.DataError, match="reads decimal marks"):
        table(tmp_path, labels, "p")
    with pytest.raises(data.DataError, match=":2: expected a number for 'p', got '1.234'"):
        table(tmp_path, "a;p\n1;1.234\n", (), text=data.Text(decimal=","), columns={"p": "number"})
    decimals = table(tmp_path, "a;b\n1,5;2\n2,25;3\n", (), text=data.Text(decimal=","))
    assert decimals.x.tolist() == [[1.5, 2], [2.25, 3]]
    assert table(tmp_path, "1,2\n3,4\n", -1, text=data.Text(header=False)).y.tolist() == [[2], [4]]
    big = table(tmp_path, "a,b\n16777217,1\n16777217,1\n", ())
    assert "whose last digits float32 rounds" in " ".join(big.notes)


def test_columns_of_nothing_of_one_value_and_of_sep(tmp_path):
    found = table(tmp_path, "sep=;\na;l;m\n1;;0\n2;;1\n", ["l", "m"])
    np.testing.assert_array_equal(found.y, [[np.nan, 0], [np.nan, 1]])
    assert found.label_names == ("l", "m") and found.mask.tolist() == [[False, True]] * 2
    first = table(tmp_path, "x,rare\n1,no\n2,no\n", "rare")
    assert table(tmp_path, "x,rare\n1,yes\n", like=first).y.tolist() == [[1]]


def test_names_of_identifiers(tmp_path):
    names = "Id,ID,customer_id,userId,PAID,heat_index,index,l"
    rows = "\n".join(",".join([str(i + 5)] * 7 + ["1"]) for i in range(5))
    found = table(tmp_path, f"{names}\n{rows}\n", "l")
    assert found.feature_names == ("PAID", "heat_index")


def test_kinds_may_be_said(tmp_path):
    text = "id,zip,w\n1,007,ab\n2,012,cd\n"
    found = table(tmp_path, text, (), columns={"id": "number", "zip": "number", "w": "text"})
    assert found.x.tolist() == [[1, 7], [2, 12]] and found.text == {"w": ["ab", "cd"]}
    assert table(tmp_path, text, (), drop="[iw]*").feature_names == ("zip=007", "zip=012")
    with pytest.raises(data.DataError, match=r":2: expected a number for 'w', got 'ab'"):
        table(tmp_path, text, (), columns={"w": "number"})
    with pytest.raises(ValueError, match="takes the kinds number"):
        table(tmp_path, text, (), columns={"w": "word"})
    with pytest.raises(data.DataError, match="no column is called 'x'"):
        table(tmp_path, text, (), columns={"x": "text"})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_text_in_other_encodings(tmp_path, encoding):
    found = table(tmp_path, "größe,b\r\n1,2\r\n", (), encoding=encoding)
    assert found.feature_names == ("größe", "b")
    assert ("read as Windows-1252" in " ".join(found.notes)) == (encoding == "cp1252")


def frames():
    """One table as a dict, and as whatever is installed here."""
    columns = {
        "n": [1.5, None, 3.0],
        "k": [1, 2, 3],
        "word": ["007", "b", "007"],
        "flag": [True, False, None],
        "day": [datetime.date(1970, 1, 2), None, datetime.date(1970, 1, 4)],
        "tags": [["a", "b"], [], ["b"]],
    }
    yield "dict", columns
    for name, make in (
        ("pandas", lambda m: m.DataFrame(columns)),
        ("polars", lambda m: m.DataFrame(columns)),
        ("pyarrow", lambda m: m.table(columns)),
    ):
        try:
            yield name, make(__import__(name))
        except ImportError:
            continue


@pytest.mark.parametrize(
    ("name", "frame"), [*frames()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_frames_are_taken_at_their_word(name, frame):
    found = data.read(frame, labels="tags")
    assert found.feature_names == ("n", "k", "word=007", "word=b", "flag", "day")
    want = [[1.5, 1, 1, 0, 1, 1], [np.nan, 2, 0, 1, 0, np.nan], [3, 3, 1, 0, np.nan, 3]]
    np.testing.assert_array_equal(found.x, np.float32(want))
    assert (found.y.tolist(), found.label_names) == ([[1, 1], [0, 0], [0, 1]], ("a", "b"))
    with pytest.raises(data.DataError, match="row 1: expected a value for 'n'"):
        data.read(frame, labels="tags", missing="error")


def test_labels_in_cells_of_frames():
    found = data.read({"x": [1, 2, 3], "t": [["a", None], None, []]}, labels="t")
    np.testing.assert_array_equal(found.y, [[1], [np.nan], [0]])
    assert found.mask.tolist() == [[True], [False], [True]]
    with pytest.raises(data.DataError, match="a column for each label"):
        data.read({"x": [1, 2], "t": [[0, 1], [1, 0]]}, labels="t")
    large = {"u": np.array([9007199254740993, 9007199254740992]), "l": [1, 0]}
    found = data.read(large, labels=np.int64(-1), columns={"u": "category"})
    assert found.feature_names == ("u=9007199254740992", "u=9007199254740993")
    days = {"d": [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]}
    assert data.read(days, (), columns={"d": "category"}).feature_names == (
        "d=2020-01-01",
        "d=2020-01-02",
    )
    times = data.read({"d": np.array(["2020-01-01T12:00"], "M8[ns]")}, ())
    assert times.x.tolist() == [[18262.5]] and "times of day" in " ".join(times.notes)


def test_frames_that_make_no_table_are_refused():
    for frame, said in (
        ([1, 2], "expected a path, a frame"),
        ({}, "no columns"),
        ({"a": [1], "b": [1, 2]}, r"columns of one length, at least 1, got \[1, 2\]"),
        (
            {"a": [1, "b"]},
            "row 0: expected numbers, words, dates or truth values, all alike, in 'a'",
        ),
    ):
        with pytest.raises(data.DataError, match=said):
            data.read(frame, labels=())


def test_parquet_is_a_frame_in_a_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.5, 2], "l": ["yes", "no"]}, index=[7, 3])
    parquet.write_table(pyarrow.Table.from_pandas(frame), tmp_path / "t")
    found = data.read(tmp_path / "t", labels="l")
    assert (found.x.tolist(), found.y.tolist()) == ([[1.5], [2]], [[1], [0]])
    assert "the index of the frame" in found.notes[0]


# What is said, and parts


def test_a_description_says_what_is_odd(tmp_path):
    text = "a,b,c,l,m,k\n1,5,0,1,0,1\n1,5,0,0,0,1\n2000,5,0,0,0,1\n,5,0,1,0,1\n"
    found = table(tmp_path, text, -3)
    out = io.StringIO()
    figures = data.describe(found, out)
    assert figures["cardinality"] == 1.5 and figures["density"] == 0.5
    for line in (
        "4 rows, 3 features, 3 labels",
        "features that are the same in every row: 2 ('b', 'c')",
        "labels that are never on: 1 ('m')",
        "labels that are always on: 1 ('k')",
        "2 different sets of labels",
        "the same x as an earlier row: 1 of the rows",
        "the same x as an earlier row, but another y: 1",
        "missing in x: 1 values, to be filled before training",
    ):
        assert line in out.getvalue().splitlines()
    sparse = data.describe(data.Split(scipy_of(found.x), found.y), io.StringIO())
    assert {k: sparse[k] for k in ("duplicates", "cardinality")} == {
        "duplicates": 1,
        "cardinality": 1.5,
    }


def scipy_of(x):
    import scipy.sparse

    return scipy.sparse.csr_array(np.nan_to_num(x))


def spread(y, held):
    on = y.sum(0)
    return np.mean(np.abs(y[held].sum(0)[on > 0] / on[on > 0] - len(held) / len(y)))


def labels_of(n):
    rng = np.random.default_rng(1)
    return (rng.random((n, 30)) < rng.random(30) ** 3 * 0.5).astype(np.float32)


def test_labels_are_shared_out_in_proportion_and_parts_keep_their_size():
    import scipy.sparse

    y = labels_of(500)
    random, stratified = (data.split(500, 0.2, 0, y=each) for each in (None, y))
    assert [len(part) for part in stratified] == [400, 100]
    assert sorted(np.concatenate(stratified)) == list(range(500))
    assert spread(y, stratified[1]) < 0.4 * spread(y, random[1])
    for same in scipy.sparse.csr_array(y), np.where(y, 1.0, np.nan):
        np.testing.assert_array_equal(data.split(500, 0.2, 0, y=same)[1], stratified[1])
    assert not np.array_equal(data.split(500, 0.2, 1, y=y)[1], stratified[1])


def test_parts_are_as_even_as_those_of_iterative_stratification():
    iterstrat = pytest.importorskip("iterstrat.ml_stratifiers")
    y = labels_of(1000)
    ours, theirs = [], []
    for seed in range(3):
        ours.append(spread(y, data.split(1000, 0.25, seed, y=y)[1]))
        other = iterstrat.MultilabelStratifiedShuffleSplit(1, test_size=0.25, random_state=seed)
        theirs.append(spread(y, next(other.split(y, y))[1]))
    assert np.mean(ours) < 1.3 * np.mean(theirs)


def test_groups_stay_together_and_later_rows_validate():
    groups = np.repeat(["a", "b", "c", "d", "e"], [5, 5, 5, 5, 30])
    train, held = data.split(50, 0.2, 0, groups=groups)
    assert not {*groups[train]} & {*groups[held]} and 5 <= len(held) <= 15
    times = np.array([3, 1, 2, 2, 5, 5])
    train, held = data.split(6, 0.2, 0, times=times)
    assert (train.tolist(), held.tolist()) == ([0, 1, 2, 3], [4, 5])
    assert data.split(
        4, 0.5, 7, times=np.array(["2020-01-02", "2020-01-01", "2021-01-01", "2022-01-01"], "M8[D]")
    )[1].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"y": np.ones((3, 1)), "times": [1, 2, 3, 4]},
            "one of y, groups and times, got y and times",
        ),
        ({"y": np.ones((3, 1))}, "expected y of n=4 rows, got 3"),
        ({"y": np.full((4, 1), 2.0)}, "y of 0 and 1 to stratify by"),
        ({"groups": [1, 1, 1, 1]}, "all 4 rows have one of groups"),
        ({"times": [1, 1, 1, 1]}, "all 4 rows have one of times"),
    ],
)
def test_parts_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        data.split(4, 0.25, 0, **settings)


def test_reading_loads_neither_pandas_nor_scikit_learn():
    import subprocess
    import sys

    code = (
        "import sys; from spen_jax import data; data.read({'a': [1]}, ());"
        "assert not {'pandas', 'sklearn', 'polars', 'pyarrow'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
