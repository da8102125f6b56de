import hashlib

import numpy as np
import pytest
import scipy.sparse

from spen_jax import data

HEADER = "@relation r\n\n@attribute a numeric\n@attribute b {0,1}\n@attribute L1 {0,1}\n@data\n"
XML = '<?xml version="1.0"?>\n<labels xmlns="http://mulan.sourceforge.net/labels">\n{}</labels>\n'


def write_xml(folder, *names, file="t.xml"):
    path = folder / file
    path.write_text(XML.format("".join(f'<label name="{name}"></label>\n' for name in names)))
    return path


def read(folder, text, *labels, encoding="utf-8"):
    arff = folder / "t.arff"
    arff.write_bytes(text.encode(encoding))
    return data.read_arff(arff, write_xml(folder, *(labels or ("L1",))))


def dense(x):
    return x if isinstance(x, np.ndarray) else x.toarray()


# Reading


def test_sparse_and_dense_files_of_the_same_rows_read_alike(tmp_path):
    whole = read(tmp_path, HEADER + "1.5,0,1\n0,0,0\n -2e-1 , 1,0\n")
    sparse = read(tmp_path, HEADER + "{0 1.5,2 1}\n{ }\n{ 1 1 , 0\t-.2 }\n")
    np.testing.assert_array_equal(whole.x, np.float32([[1.5, 0], [0, 0], [-0.2, 1]]))
    np.testing.assert_array_equal(whole.y, np.float32([[1], [0], [0]]))
    assert whole.mask is sparse.mask is None
    assert scipy.sparse.issparse(sparse.x) and sparse.x.has_sorted_indices
    for a, b in (whole.x, sparse.x), (whole.y, sparse.y):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a, dense(b))
    for found in whole, sparse:
        assert (found.feature_names, found.label_names) == (("a", "b"), ("L1",))


def test_labels_follow_the_arff_order_not_the_xml(tmp_path):
    header = "".join(f"@attribute {name} {{0,1}}\n" for name in ("L2", "a", "L3", "b", "L1"))
    found = read(tmp_path, header + "@data\n1,0,0,1,0\n", "L1", "L2", "L3")
    assert (found.feature_names, found.label_names) == (("a", "b"), ("L2", "L3", "L1"))
    assert found.x.tolist() == [[0, 1]]
    assert found.y.tolist() == [[1, 0, 0]]


def test_keywords_ignore_case_and_comments_and_blank_lines_are_skipped(tmp_path):
    text = (
        "\ufeff% made by hand\r\n@RELATION 'a b'\r\n\r\n@Attribute a REAL\r\n  % indented\r\n"
        "@ATTRIBUTE\tL1\t{ 0, 1 } % of labels\r\n@DATA\r\n% a comment\r\n\r\n3,1 % a row\r\n"
    )
    found = read(tmp_path, text)
    assert (found.x.tolist(), found.y.tolist()) == ([[3]], [[1]])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("'two words'", "two words"),
        ('"two words"', "two words"),
        (r"'it\'s'", "it's"),
        (r'"say \"hi\""', 'say "hi"'),
        ("'say \"hi\"'", 'say "hi"'),
        (r"'dise\~no'", r"dise\~no"),
        ("'% no comment'", "% no comment"),
        (r"m\'usica", r"m\'usica"),
        (r"dise\~no", r"dise\~no"),
        ("2005", "2005"),
        ("c#", "c#"),
        ("a/b", "a/b"),
        ("???", "???"),
        ("o'reilly", "o'reilly"),
        ("{x}", "{x}"),
        ("größe", "größe"),
        ("two\u00a0words", "two\u00a0words"),
    ],
)
def test_names_survive_quotes_and_odd_characters(tmp_path, written, name):
    text = f"@attribute {written} numeric\n@attribute L1 {{0,1}}\n@data\n1,0\n"
    assert read(tmp_path, text).feature_names == (name,)


def test_a_backslash_keeps_two_labels_apart(tmp_path):
    text = "@attribute TAG_m\\'usica {0,1}\n@attribute TAG_musica {0,1}\n@data\n{0 1}\n"
    found = read(tmp_path, text, "TAG_musica", "TAG_m\\'usica")
    assert found.label_names == ("TAG_m\\'usica", "TAG_musica")
    assert found.y.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (HEADER + "{0 1,2 1}\n{0 1,2", 8, "'{0 1,2'"),
        (HEADER + "{0 1}\n1,1,1\n", 8, "'{index value,...}'"),
        (HEADER + "1,1,1\n1,1\n", 8, "expected 3 values, got 2"),
        (HEADER + "1,1,1,1\n", 7, "expected 3 values, got 4"),
        (HEADER, 7, "rows after @data"),
        (HEADER[: HEADER.index("@data")], 6, "@data"),
        (HEADER[: HEADER.index("{0,1}\n@data")], 5, "'@attribute L1'"),
        ("@data\n1\n", 1, "'@attribute name type'"),
        ("", 1, "@data"),
        (HEADER + "{0 1}\n\n% x\n{3 1}\n", 10, "an index from 0 to 2, got '3 1'"),
        (HEADER + "{99999999999999999999 1}\n", 7, "an index from 0 to 2"),
        (HEADER + "{-1 1}\n", 7, "'-1 1'"),
        (HEADER + "{0.5 1}\n", 7, "'0.5 1'"),
        (HEADER + "{0 1}\n{1 1,0 1,1 1}\n", 8, "each index once in a row, got '1 1'"),
        (HEADER + "{0 1,}\n", 7, "got ''"),
        (HEADER + "{0 x}\n", 7, "a number for 'a', got 'x'"),
        (HEADER + "{0 1 1 1,2}\n", 7, "'index value', got '2'"),
        (HEADER + "{0 1},{5}\n", 7, "a row with a weight"),
        (HEADER + "1,1,1,{5}\n", 7, "a row with a weight"),
        (
            HEADER.replace("b {0,1}", "b {red, green}") + "1,blue,1\n",
            7,
            "'red', 'green' for 'b', got 'blue'",
        ),
        (HEADER.replace("b {0,1}", "b {red, red}") + "1,red,1\n", 4, "each value of 'b' once"),
        (HEADER.replace("b {0,1}", "b {}") + "1,red,1\n", 4, "'{}'"),
        (HEADER.replace("b {0,1}", "b {red,green") + "1,red,1\n", 4, "'{red,green'"),
        (HEADER.replace("numeric", "date 'yyyy'") + "1,1,1\n", 3, "date; drop= leaves it out"),
        (HEADER + "1,1,1\nx,1,1\n", 8, "a number for 'a', got 'x'"),
        (HEADER + "1_000,1,1\n", 7, "'1_000'"),
        (HEADER + "-inf,1,1\n", 7, "'-inf'"),
        (HEADER + "1e39,1,1\n", 7, "float32 can hold, got '1e39'"),
        (HEADER + "1,2,1\n", 7, "'0', '1' for 'b', got '2'"),
        (HEADER + "{0 1}\n{2 0.5}\n", 8, "'0', '1' for 'L1', got '0.5'"),
        (HEADER.replace("b {0,1}", "a {0,1}") + "1,1,1\n", 4, "'a' of line 3"),
        (HEADER.replace("numeric", "string") + "1,1,1\n", 3, "string; drop= leaves it out"),
        (HEADER.replace(" a ", " 'a ") + "1,1,1\n", 3, "'@attribute name type'"),
    ],
)
def test_a_malformed_arff_is_named_with_its_line(tmp_path, text, line, said):
    with pytest.raises(data.DataError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 't.arff'}:{line}: expected ")
    assert said in message
    assert "\n" not in message


def test_a_numeric_label_must_still_be_0_or_1(tmp_path):
    header = HEADER.replace("L1 {0,1}", "L1 numeric")
    assert read(tmp_path, header + "7,1,1\n").y.tolist() == [[1]]
    with pytest.raises(data.DataError, match=r"t\.arff:8: expected 0 or 1 for 'L1', got '2'"):
        read(tmp_path, header + "7,1,1\n7,1,2\n")


def test_text_that_is_not_utf8_is_said_aloud(tmp_path):
    found = read(tmp_path, HEADER.replace(" a ", " ü ") + "1,1,1\n", encoding="latin-1")
    assert found.feature_names == ("ü", "b")
    assert "line 3 is not UTF-8 (byte 0xfc): read as Windows-1252" in found.notes[0]
    with pytest.raises(data.DataError, match=r"t\.arff:3: expected text in utf-8"):
        data.read_arff(tmp_path / "t.arff", encoding="utf-8")
    with pytest.raises(data.DataError, match="text in klingon"):
        data.read_arff(tmp_path / "t.arff", encoding="klingon")


def test_a_label_unknown_to_the_arff_is_named_with_its_line(tmp_path):
    with pytest.raises(data.DataError, match=r"t\.xml:4: .*t\.arff.* unknown attribute 'L2'"):
        read(tmp_path, HEADER + "1,1,1\n", "L1", "L2")


@pytest.mark.parametrize(
    ("xml", "line", "said"),
    [
        ('<labels>\n<label name="L1">\n</labels>', 3, "well-formed XML"),
        ("", 1, "well-formed XML"),
        ("<labels>\n</labels>", 2, "at least one <label"),
        ("<labels>\n<label/></labels>", 2, "no name"),
        ('<labels>\n<label name="L1"/>\n<label name="L1"/></labels>', 3, "'L1' of line 2"),
        ('<!DOCTYPE x [<!ENTITY e "L1">]>\n<labels><label name="&e;"/></labels>', 1, "DOCTYPE"),
    ],
)
def test_a_malformed_xml_is_named_with_its_line(tmp_path, xml, line, said):
    (tmp_path / "t.arff").write_text(HEADER + "1,1,1\n")
    (tmp_path / "t.xml").write_text(xml)
    with pytest.raises(data.DataError) as caught:
        data.read_arff(tmp_path / "t.arff", tmp_path / "t.xml")
    assert str(caught.value).startswith(f"{tmp_path / 't.xml'}:{line}: expected ")
    assert said in str(caught.value)


@pytest.mark.parametrize("encoding", ["iso-8859-1", "windows-1252", "utf-16", "gbk"])
def test_an_xml_may_be_in_any_encoding_that_it_declares(tmp_path, encoding):
    name = "größe" if encoding != "gbk" else "大小"
    xml = f'<?xml version="1.0" encoding="{encoding}"?>\n<labels><label name="{name}"/></labels>'
    (tmp_path / "t.xml").write_bytes(xml.encode(encoding))
    (tmp_path / "t.arff").write_text(HEADER.replace("L1", name) + "1,1,1\n", encoding="utf-8")
    assert data.read_arff(tmp_path / "t.arff").label_names == (name,)


def test_names_that_some_writers_escape_are_those_of_the_xml(tmp_path):
    (tmp_path / "t.xml").write_text('<labels><label name="R&amp;B"/><label name="50%"/></labels>')
    text = HEADER.replace("L1", r"'R\&B'").replace(" b ", r" '50\%' ")
    (tmp_path / "t.arff").write_text(text + "7,1,0\n")
    assert data.read_arff(tmp_path / "t.arff").y.tolist() == [[1, 0]]


def test_another_xml_beside_the_file_is_not_its_labels(tmp_path):
    (tmp_path / "t.xml").write_text("<settings/>")
    (tmp_path / "t.arff").write_text(HEADER.replace("\n", "\r") + "7,1,0\r")
    assert data.read_arff(tmp_path / "t.arff").y.shape == (1, 0)


def test_a_hierarchy_of_labels_is_flattened_with_a_word(tmp_path):
    xml = '<labels><label name="L1"><label name="b"/></label></labels>'
    (tmp_path / "t.xml").write_text(xml)
    (tmp_path / "t.arff").write_text(HEADER + "7,1,0\n")
    found = data.read_arff(tmp_path / "t.arff", tmp_path / "t.xml")
    assert (found.label_names, found.y.tolist()) == (("b", "L1"), [[1, 0]])
    assert any("hierarchy of t.xml is flattened" in note for note in found.notes)


# Data sets


def toy_files():
    return {
        "toy-train.arff": (HEADER + "1.5,0,1\n2,1,0\n").encode(),
        "toy-test.arff": (HEADER + "{0 3}\n").encode(),
        "toy.xml": XML.format('<label name="L1"/>').encode(),
    }


def write_toy(root, **changed):
    folder = root / "toy"
    folder.mkdir(parents=True)
    for name, content in (toy_files() | changed).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def toy(monkeypatch):
    """Register a data set of three small files, published nowhere."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in toy_files().items()}
    monkeypatch.setitem(data.SOURCES, "toy", data.Source(files, ()))


def test_load_reads_both_splits_and_reports_the_checksums(tmp_path, toy):
    write_toy(tmp_path / "given")
    toy_set = data.load("toy", tmp_path / "given")
    assert toy_set.train.x.tolist() == [[1.5, 0], [2, 1]]
    assert toy_set.train.y.tolist() == [[1], [0]]
    assert (toy_set.test.x.tolist(), toy_set.test.y.tolist()) == ([[3, 0]], [[0]])
    assert (toy_set.name, toy_set.synthetic) == ("toy", False)
    assert toy_set.checksums == data.SOURCES["toy"].files


def test_load_refuses_a_changed_file(tmp_path, toy):
    write_toy(tmp_path, **{"toy-test.arff": (HEADER + "{0 4}\n").encode()})
    with pytest.raises(data.DataError, match=r"toy-test\.arff: expected SHA-256"):
        data.load("toy", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("@attribute b ", "@attribute c ", 4, "'c' in place of 'b'"),
        ("@attribute b {0,1}\n", "", 4, "'L1' in place of 'b'"),
        ("@data", "@attribute z numeric\n@data", 6, "'z' in place of none"),
    ],
)
def test_train_and_test_must_declare_the_same_attributes(tmp_path, old, new, line, said):
    test = (HEADER.replace(old, new) + "{0 1}\n").encode()
    folder = write_toy(tmp_path, **{"toy-test.arff": test})
    with pytest.raises(data.DataError) as caught:
        data.read_mulan(folder, "toy")
    message = str(caught.value)
    assert message.startswith(f"{folder / 'toy-test.arff'}:{line}: ")
    assert said in message
    assert "toy-train.arff" in message
