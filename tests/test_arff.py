"""ARFF as people have it; what Mulan's files need besides stands in test_mulan."""

import gzip

import numpy as np
import pytest
import scipy.io.arff
import scipy.sparse

from spen_jax import data


def read(folder, text, *arguments, **settings):
    path = folder / "t.arff"
    path.write_text(text, encoding="utf-8")
    return data.read_arff(path, *arguments, **settings)


def dense(x):
    return x if isinstance(x, np.ndarray) else x.toarray()


def test_nominal_attributes_are_one_hot_and_those_of_no_and_yes_are_one_feature(tmp_path):
    text = (
        "@attribute hour {morning, noon,'at night'}\n@attribute sex{m,f}\n@attribute 'is open' {yes,no}\n"
        "@attribute d {FALSE,TRUE}\n@attribute e {'0',\"1\"} % quoted\n@attribute p real [0, 1]\n@data\n"
        "noon,m,yes,TRUE,'1',.5\n'at night' , f,\"no\",FALSE,0,1\nmorning,f,no,TRUE,1.0,0 % the last\n"
    )
    found = read(tmp_path, text, ())
    names = (
        "hour=morning",
        "hour=noon",
        "hour=at night",
        "sex=m",
        "sex=f",
        "is open",
        "d",
        "e",
        "p",
    )
    assert found.feature_names == names
    assert found.x.tolist() == [
        [0, 1, 0, 1, 0, 1, 1, 1, 0.5],
        [0, 0, 1, 0, 1, 0, 0, 0, 1],
        [1, 0, 0, 0, 1, 0, 1, 1, 0],
    ]
    assert found.columns[0] == ("hour", "category", ("morning", "noon", "at night"), False, None)
    assert found.y.shape == (3, 0)


@pytest.mark.parametrize(
    "values", ["{1,0}", "{TRUE,FALSE}", "{'0','1'}", "{y,n}", "{No,Yes}", "{-1,1}", "{on,off}"]
)
def test_labels_of_two_values_may_be_spelled_in_many_ways(tmp_path, values):
    off, on = sorted(
        values.strip("{}").split(","),
        key=lambda v: v.strip("'").lower() in ("1", "true", "y", "yes", "on"),
    )
    text = f"@attribute x numeric\n@attribute l {values}\n@data\n5,{on}\n6,{off}\n"
    found = read(tmp_path, text, "l")
    assert (found.y.tolist(), found.label_names, found.mask) == ([[1], [0]], ("l",), None)


def test_other_labels_are_classes_or_numbers(tmp_path):
    text = "@attribute x numeric\n@attribute kind {a,b,c}\n@attribute size numeric\n@data\n1,b,2.5\n2,?,3\n"
    found = read(tmp_path, text, ["kind", "size"])
    assert found.label_names == ("kind=a", "kind=b", "kind=c", "size")
    np.testing.assert_array_equal(found.y, [[0, 1, 0, 2.5], [np.nan] * 3 + [3]])
    assert found.mask.tolist() == [[True] * 4, [False] * 3 + [True]]


def test_what_a_sparse_row_does_not_say_is_zero_or_the_first_value(tmp_path):
    text = (
        "@attribute x numeric\n@attribute c {red,green,blue}\n@attribute l {1,0}\n@attribute k {0,1}\n@data\n"
        "{0 2,1 green,2 0}\n{}\n{1 'blue', 3 1}\n{0 ?,1 ?}\n"
    )
    found = read(tmp_path, text, ["l", "k"])
    assert scipy.sparse.issparse(found.x)  # half of its columns are 0 where nothing is said
    want = [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [np.nan] * 4]
    np.testing.assert_array_equal(dense(found.x), want)
    assert found.y.tolist() == [[0, 0], [1, 0], [1, 1], [1, 0]]


def test_a_sparse_file_that_mostly_says_something_in_silence_is_dense(tmp_path):
    text = "@attribute a {yes,no}\n@attribute b {r,g}\n@data\n{}\n{0 no,1 g}\n{1 ?}\n"
    found = read(tmp_path, text, ())
    want = [[1, 1, 0], [0, 0, 1], [1, np.nan, np.nan]]
    np.testing.assert_array_equal(found.x, want)


@pytest.mark.parametrize(("said", "labels"), [("2", ("a", "b")), ("-1", ("d",))])
def test_a_meka_header_says_how_many_labels_stand_where(tmp_path, said, labels):
    head = f"@relation 'music: -C {said} -split-number 3'\n"
    text = head + "".join(f"@attribute {n} {{0,1}}\n" for n in "abcd") + "@data\n1,0,1,1\n"
    found = read(tmp_path, text)
    assert found.label_names == labels and f"-C {said}" in found.notes[0]
    assert read(tmp_path, text, "c").label_names == ("c",)
    with pytest.raises(data.DataError, match="at most the 4 columns"):
        read(tmp_path, text.replace(f"-C {said}", "-C 9"))


def test_headers_of_keel_say_what_goes_out(tmp_path):
    text = (
        "@relation r\n@attribute a real [0,1]\n@attribute w numeric {0.5}\n@attribute c {p,q,}\n"
        "@inputs a, w\n@outputs c\n@data\n.5,1,q\n"
    )
    found = read(tmp_path, text)
    assert (found.feature_names, found.label_names) == (("a", "w"), ("c=p", "c=q"))
    assert (found.x.tolist(), found.y.tolist()) == ([[0.5, 1]], [[0, 1]])


@pytest.mark.parametrize(
    "relation",
    ["'d-weka.SMO -F 5 -- -C 1.0 -L 0.001'", "'d: -C 0.25'", "t % -C 1", "'d -C 1'", "'a: b -C 0'"],
)
def test_other_headers_say_nothing_of_labels(tmp_path, relation):
    text = f"@relation {relation}\n@attribute a numeric\n@attribute '' numeric\n@data\n1,2,\n"
    found = read(tmp_path, text)
    assert (
        found.label_names == ()
        and found.feature_names == ("a", "")
        and found.x.tolist() == [[1, 2]]
    )


@pytest.mark.parametrize(
    "row", ["'" + "\\'" * 20000, "1" + " " * 100_000 + "%", "x 'a" + " " * 100_000]
)
def test_odd_rows_take_no_time(tmp_path, row):
    with pytest.raises(data.DataError):
        read(tmp_path, f"@attribute a numeric\n@attribute b {{0,1}}\n@data\n{row}\n")
    with pytest.raises(data.DataError):
        read(tmp_path, "@attribute a numeric" + " " * 100_000 + "x\n@data\n1\n")


def test_without_a_word_about_labels_there_are_none_which_notes_say(tmp_path):
    found = read(tmp_path, "@attribute x numeric\n@data\n1\n")
    assert found.y.shape == (1, 0) and "labels= does" in found.notes[0]
    assert found.notes[0] in repr(found)
    with pytest.raises(data.DataError, match="no column is called 'l'; there are 'x'"):
        read(tmp_path, "@attribute x numeric\n@data\n1\n", "l")


def test_missing_features_are_nan_or_refused_and_missing_labels_masked(tmp_path):
    text = "@attribute x numeric\n@attribute c {red,green,blue}\n@attribute l {0,1}\n@data\n1,?,0\n?,red,?\nNaN,'?',1\n"
    with pytest.raises(data.DataError, match=r"t\.arff:7: .*for 'c', got \"'\?'\""):
        read(tmp_path, text, "l")  # in quotes it is a value, and not a declared one
    text = text.replace("'?'", "blue")
    found = read(tmp_path, text, "l")
    want = [[1, np.nan, np.nan, np.nan], [np.nan, 1, 0, 0], [np.nan, 0, 0, 1]]
    np.testing.assert_array_equal(found.x, want)
    np.testing.assert_array_equal(found.y, [[0], [np.nan], [1]])
    assert found.mask.tolist() == [[True], [False], [True]]
    assert any("5 values of x missing" in note for note in found.notes)
    with pytest.raises(data.DataError, match=r"t\.arff:5: expected a value for 'c'"):
        read(tmp_path, text, "l", missing="error")


def test_strings_and_dates_are_left_out_where_that_is_said(tmp_path):
    text = "@attribute s string\n@attribute w date 'HH:mm'\n@attribute x numeric\n@data\n'a, b',\"1:30\",4\n?,?,5\n"
    found = read(tmp_path, text, (), drop=("s", "w"), missing="error")
    assert (found.x.tolist(), found.feature_names) == ([[4], [5]], ("x",))
    assert "2 columns left out ('s', 'w')" in found.notes
    sparse = read(
        tmp_path, text.split("@data")[0] + "@data\n{0 'a, b',2 4}\n{2 5}\n", (), drop="[sw]"
    )
    assert dense(sparse.x).tolist() == [[4], [5]]


def test_cells_may_stand_between_blanks_and_hold_signs_in_quotes(tmp_path):
    text = "@attribute a {'x, y','50%','it\\'s'}\n@attribute b numeric\n@data\n'x, y'\t1\n'50%' 2\n'it\\'s',3\n"
    found = read(tmp_path, text, ())
    assert found.feature_names[:3] == ("a=x, y", "a=50%", "a=it's")
    assert found.x.tolist() == [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]]


def test_a_packed_file_is_unpacked_and_a_damaged_one_refused(tmp_path):
    text = b"@attribute x numeric\n@data\n1\n"
    path = tmp_path / "t.arff.gz"
    path.write_bytes(gzip.compress(text))
    assert data.read(path, ()).x.tolist() == [[1]]
    path.write_bytes(gzip.compress(text)[:-9])
    with pytest.raises(data.DataError, match="a whole packed file"):
        data.read(path, ())


def test_scipy_reads_the_same_where_it_reads_at_all(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{a:.6g},{rng.choice(['x', 'y', 'z'])},{b:.3e}" for a, b in rng.normal(size=(300, 2))]
    text = (
        "@relation r\n@attribute a numeric\n@attribute c {x,y,z}\n@attribute b real\n@data\n"
        + "\n".join(rows)
    )
    found = read(tmp_path, text, ())
    theirs, _ = scipy.io.arff.loadarff(str(tmp_path / "t.arff"))
    np.testing.assert_array_equal(found.x[:, 0], theirs["a"].astype(np.float32))
    np.testing.assert_array_equal(found.x[:, 4], theirs["b"].astype(np.float32))
    letters = np.array(["x", "y", "z"])[found.x[:, 1:4].argmax(1)]
    assert letters.tolist() == [c.decode() for c in theirs["c"]]


@pytest.mark.parametrize(
    "text",
    [
        "@attribute c {x,y}\n@attribute n numeric\n@data\n{0 y, 1 2}\n",  # sparse rows
        "@attribute s string\n@data\n'a'\n",  # texts, which are dropped here
    ],
)
def test_scipy_does_not_read_what_people_have(tmp_path, text):
    assert read(tmp_path, text, (), drop="s" if "string" in text else ()).x.shape[0] == 1
    with pytest.raises((ValueError, NotImplementedError, scipy.io.arff.ArffError)):
        scipy.io.arff.loadarff(str(tmp_path / "t.arff"))
