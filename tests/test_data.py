import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

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


def real(name):
    root = os.environ.get("SPEN_JAX_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"needs SPEN_JAX_DATA with {name}/")
    return data.load(name)


# Reading


def test_sparse_and_dense_files_of_the_same_rows_read_alike(tmp_path):
    dense = read(tmp_path, HEADER + "1.5,0,1\n0,0,0\n -2e-1 , 1,0\n")
    sparse = read(tmp_path, HEADER + "{0 1.5,2 1}\n{ }\n{ 1 1 , 0\t-.2 }\n")
    np.testing.assert_array_equal(dense[0].x, np.float32([[1.5, 0], [0, 0], [-0.2, 1]]))
    np.testing.assert_array_equal(dense[0].y, np.float32([[1], [0], [0]]))
    for a, b in zip(dense[0], sparse[0], strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a, b)
    assert dense[1:] == sparse[1:] == (("a", "b"), ("L1",))


def test_labels_follow_the_arff_order_not_the_xml(tmp_path):
    header = "".join(f"@attribute {name} {{0,1}}\n" for name in ("L2", "a", "L3", "b", "L1"))
    split, features, labels = read(tmp_path, header + "@data\n1,0,0,1,0\n", "L1", "L2", "L3")
    assert (features, labels) == (("a", "b"), ("L2", "L3", "L1"))
    assert split.x.tolist() == [[0, 1]]
    assert split.y.tolist() == [[1, 0, 0]]


def test_keywords_ignore_case_and_comments_and_blank_lines_are_skipped(tmp_path):
    text = (
        "\ufeff% made by hand\r\n@RELATION 'a b'\r\n\r\n@Attribute a REAL\r\n  % indented\r\n"
        "@ATTRIBUTE\tL1\t{ 0, 1 }\r\n@DATA\r\n% a comment\r\n\r\n3,1\r\n"
    )
    split, *names = read(tmp_path, text)
    assert (split.x.tolist(), split.y.tolist(), names) == ([[3]], [[1]], [("a",), ("L1",)])


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
    assert read(tmp_path, text)[1] == (name,)


def test_a_backslash_keeps_two_labels_apart(tmp_path):
    text = "@attribute TAG_m\\'usica {0,1}\n@attribute TAG_musica {0,1}\n@data\n{0 1}\n"
    split, _, labels = read(tmp_path, text, "TAG_musica", "TAG_m\\'usica")
    assert labels == ("TAG_m\\'usica", "TAG_musica")
    assert split.y.tolist() == [[1, 0]]


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
        (HEADER + "{0 1 1 1,2}\n", 7, "'0 1 1 1'"),
        (HEADER + "{0 x}\n", 7, "'0 x'"),
        (HEADER + "1,1,1\nx,1,1\n", 8, "a number for 'a', got 'x'"),
        (HEADER + "1_000,1,1\n", 7, "'1_000'"),
        (HEADER + "?,1,1\n", 7, "a number for 'a', got '?'"),
        (HEADER + "{0 ?}\n", 7, "'0 ?'"),
        (HEADER + "nan,1,1\n", 7, "'nan'"),
        (HEADER + "-inf,1,1\n", 7, "'-inf'"),
        (HEADER + "1e39,1,1\n", 7, "float32 can hold, got '1e39'"),
        (HEADER + "1,2,1\n", 7, "0 or 1 for 'b', got '2'"),
        (HEADER + "{0 1}\n{2 0.5}\n", 8, "0 or 1 for 'L1', got '2 0.5'"),
        (HEADER.replace("b {0,1}", "a {0,1}") + "1,1,1\n", 4, "'a' of line 3"),
        (HEADER.replace("numeric", "string") + "1,1,1\n", 3, "'string'"),
        (HEADER.replace("b {0,1}", "b {1,0}") + "{0 1}\n", 4, "'{1,0}'"),
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
    assert read(tmp_path, header + "7,1,1\n")[0].y.tolist() == [[1]]
    with pytest.raises(data.DataError, match=r"t\.arff:8: expected 0 or 1 for 'L1', got '2'"):
        read(tmp_path, header + "7,1,1\n7,1,2\n")


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    with pytest.raises(data.DataError, match=r"t\.arff:3: expected UTF-8 text, got the byte 0xfc"):
        read(tmp_path, HEADER.replace(" a ", " ü ") + "1,1,1\n", encoding="latin-1")


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
def toy(tmp_path, monkeypatch):
    """Register a data set of three small files, published nowhere; return its cache folder."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in toy_files().items()}
    monkeypatch.setattr(data, "SOURCES", {"toy": data.Source(files, ())})
    monkeypatch.delenv("SPEN_JAX_DATA", raising=False)
    monkeypatch.setenv("SPEN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "toy"


def test_load_reads_both_splits_and_reports_the_checksums(tmp_path, toy):
    write_toy(tmp_path / "given")
    toy_set = data.load("toy", tmp_path / "given")
    assert toy_set.train.x.tolist() == [[1.5, 0], [2, 1]]
    assert toy_set.train.y.tolist() == [[1], [0]]
    assert (toy_set.test.x.tolist(), toy_set.test.y.tolist()) == ([[3, 0]], [[0]])
    assert (toy_set.name, toy_set.synthetic) == ("toy", False)
    assert toy_set.checksums == data.SOURCES["toy"].files


def test_a_changed_file_is_refused_with_both_checksums(tmp_path, toy):
    folder = write_toy(tmp_path / "given", **{"toy-test.arff": (HEADER + "{0 4}\n").encode()})
    with pytest.raises(data.DataError) as caught:
        data.load("toy", tmp_path / "given")
    got = hashlib.sha256((folder / "toy-test.arff").read_bytes()).hexdigest()
    expected = data.SOURCES["toy"].files["toy-test.arff"]
    for part in (str(folder / "toy-test.arff"), got, expected, "delete the file"):
        assert part in str(caught.value)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match="bibtex, delicious, scene, yeast, got 'bibtext'"):
        data.load("bibtext")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("@attribute b ", "@attribute c ", 4, "'c' in place of 'b'"),
        ("@attribute b {0,1}\n", "", 4, "'L1' in place of 'b'"),
        ("@data", "@attribute z numeric\n@data", 6, "'z' in place of 'L1'"),
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


# Finding


def test_the_argument_comes_before_the_environment_before_the_cache(tmp_path, toy, monkeypatch):
    for place in ("argument", "environment", "cache"):
        write_toy(tmp_path / place)
    monkeypatch.setenv("SPEN_JAX_DATA", str(tmp_path / "environment"))
    assert data.find("toy", tmp_path / "argument") == tmp_path / "argument" / "toy"
    assert data.find("toy") == tmp_path / "environment" / "toy"
    monkeypatch.setenv("SPEN_JAX_DATA", "")
    assert data.find("toy") == toy
    monkeypatch.delenv("SPEN_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_toy(tmp_path / "xdg" / "spen_jax")
    assert data.find("toy") == tmp_path / "xdg" / "spen_jax" / "toy"


@pytest.mark.parametrize("by_argument", [True, False])
def test_a_named_folder_without_the_files_is_an_error_even_if_the_cache_has_them(
    tmp_path, toy, monkeypatch, by_argument
):
    write_toy(tmp_path / "cache")
    named = write_toy(tmp_path / "named")
    (named / "toy.xml").unlink()
    if not by_argument:
        monkeypatch.setenv("SPEN_JAX_DATA", str(tmp_path / "named"))
    with pytest.raises(FileNotFoundError) as caught:
        data.load("toy", tmp_path / "named" if by_argument else None)
    who = "the argument data_dir" if by_argument else "SPEN_JAX_DATA"
    assert f"toy.xml missing from {named}, which {who} points to" in str(caught.value)
    assert "toy-train.arff" not in str(caught.value)


# Downloading


@pytest.fixture
def serve():
    """Return a function that serves {path: content, or (content, length claimed)} on a thread."""
    servers = []

    def start(contents):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path not in contents:
                    return self.send_error(404)
                content = contents[self.path]
                content, length = content if isinstance(content, tuple) else (content, len(content))
                self.send_response(200)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def publish(monkeypatch, *addresses):
    source = data.SOURCES["toy"]._replace(addresses=addresses)
    monkeypatch.setattr(data, "SOURCES", {"toy": source})


def test_missing_files_are_downloaded_checked_and_kept(toy, serve, monkeypatch):
    contents = {f"/base/{name}": content for name, content in toy_files().items()}
    publish(monkeypatch, serve(contents) + "base/")
    seen = []
    toy_set = data.load("toy", progress=lambda *report: seen.append(report))
    assert toy_set.train.y.tolist() == [[1], [0]]
    assert seen == [(name, len(content), len(content)) for name, content in toy_files().items()]
    assert {path.name: path.read_bytes() for path in toy.iterdir()} == toy_files()
    contents.clear()
    assert data.load("toy").checksums == toy_set.checksums


def test_progress_is_printed_by_default_even_without_a_length(toy, serve, monkeypatch, capsys):
    publish(monkeypatch, serve({f"/{name}": (body, None) for name, body in toy_files().items()}))
    data.load("toy")
    shown = capsys.readouterr().err
    assert shown == "".join(f"\r{name}: 0.0 MB\r{name}: 0.0 of 0.0 MB\n" for name in toy_files())


def test_the_next_address_is_tried_when_one_fails(toy, serve, monkeypatch):
    bad = serve({"/toy.xml": b"something else"})
    good = serve({f"/{name}": content for name, content in toy_files().items()})
    publish(monkeypatch, bad, good)
    assert data.load("toy").checksums == data.SOURCES["toy"].files


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "HTTP Error 404"),
        (b"something else", "expected SHA-256"),
        ((b"@relation r\n@attri", 1000), "the connection closed after 18 of 1000 bytes"),
        ((b"@relation r\n@attri", None), "expected SHA-256"),
        ((b"", 1000), "the connection closed after 0 of 1000 bytes"),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(toy, serve, monkeypatch, answer, reason):
    address = serve({} if answer is None else {"/toy-train.arff": answer})
    publish(monkeypatch, address)
    with pytest.raises(data.DownloadError) as caught:
        data.load("toy", progress=lambda *_: None)
    for part in (f"{address}toy-train.arff: {reason}", str(toy), "toy.xml", "SPEN_JAX_DATA"):
        assert part in str(caught.value)
    assert list(toy.iterdir()) == []


def test_an_unreachable_address_is_a_download_error(toy, serve, monkeypatch):
    publish(monkeypatch, "http://127.0.0.1:1/", serve({}))
    with pytest.raises(data.DownloadError, match=r"127\.0\.0\.1:1/toy-train\.arff: .*; .*404"):
        data.load("toy")


def test_an_interrupted_download_leaves_nothing(toy, serve, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    publish(monkeypatch, serve({f"/{name}": content for name, content in toy_files().items()}))
    with pytest.raises(KeyboardInterrupt):
        data.load("toy", progress=interrupt)
    assert list(toy.iterdir()) == []


# The published data


@pytest.mark.parametrize(
    ("name", "shape", "train_labels", "test_labels"),
    [
        ("bibtex", (4880, 2515, 1836, 159), 2.3803, 2.4437),
        ("delicious", (12920, 3185, 500, 983), 19.0471, 18.9102),
        ("scene", (1211, 1196, 294, 6), 1.0619, 1.0861),
        ("yeast", (1500, 917, 103, 14), 4.2280, 4.2519),
    ],
)
def test_the_published_sets_have_the_published_counts(name, shape, train_labels, test_labels):
    published = real(name)
    n_train, n_test, features, labels = shape
    assert published.train.x.shape == (n_train, features)
    assert published.train.y.shape == (n_train, labels)
    assert published.test.x.shape == (n_test, features)
    assert published.test.y.shape == (n_test, labels)
    assert len(published.feature_names) == features
    assert len(published.label_names) == labels
    np.testing.assert_allclose(published.train.y.sum(1).mean(), train_labels, atol=1e-4)
    np.testing.assert_allclose(published.test.y.sum(1).mean(), test_labels, atol=1e-4)
    assert published.checksums == data.SOURCES[name].files


def test_delicious_keeps_its_labels_with_a_backslash():
    labels = real("delicious").label_names
    assert {r"TAG_dise\~no", r"TAG_m\'usica", "TAG_musica"} <= set(labels)


def test_yeast_labels_are_in_column_order():
    assert real("yeast").label_names == tuple(f"Class{k}" for k in range(1, 15))


def test_bibtex_starts_with_the_row_in_the_file():
    bibtex = real("bibtex")
    assert np.flatnonzero(bibtex.train.x[0])[:5].tolist() == [0, 5, 6, 20, 33]
    assert bibtex.feature_names[:2] == ("0", "000")


# The stand-in


def test_split_partitions_the_rows_by_seed():
    train, validation = data.split(100, 0.2, seed=0)
    assert (len(train), len(validation)) == (80, 20)
    assert sorted([*train, *validation]) == list(range(100))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(validation) > 0)
    np.testing.assert_array_equal(validation, data.split(100, 0.2, seed=0)[1])
    assert not np.array_equal(validation, data.split(100, 0.2, seed=1)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, 0.001])
def test_split_refuses_an_empty_part(fraction):
    with pytest.raises(ValueError, match="rows in both parts"):
        data.split(100, fraction, seed=0)


def test_data_needs_no_jax():
    code = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('data', {data.__file__!r});"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec));"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
