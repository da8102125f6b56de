"""The page on serving runs as printed, and its server keeps its limits."""

import json
import re
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flatbuffers", reason="jax needs it to write and to read programs")

TestClient = pytest.importorskip("starlette.testclient").TestClient

PAGE = Path(__file__).parents[1] / "docs/do/serving.md"


pytestmark = pytest.mark.slow  # of the model on the page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """(what the page defines, what it printed); its server runs."""
    printed, names = [], {"print": lambda *what: printed.append(" ".join(map(str, what)))}
    folder = tmp_path_factory.mktemp("page")
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, names)
    names["Handler"].log_message = lambda *_: None
    server = names["server"]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield names, printed
    server.shutdown()
    thread.join()
    server.server_close()


def asked(page, body, **headers):
    """(status, what it says)."""
    url = f"http://127.0.0.1:{page[0]['server'].server_port}"
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, headers), timeout=60
        ) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_page_prints_what_it_says(page):
    assert len(page[1]) == 4
    assert all(f"It prints `{line}`" in PAGE.read_text() for line in page[1])


def test_the_server_answers_requests_together_as_the_model_does(page):
    names = page[0]
    x, model, together = names["x"], names["model"], names["server"].together
    bundle, calls = names["bundle"], []

    def counted(rows):
        calls.append(len(rows))
        return bundle(rows)

    together.bundle = counted
    parts = [x[i : i + 1 + i % 3] for i in range(60)]
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda part: asked(page, part.tolist()), parts))
    assert replies == [(200, model.predict(part)) for part in parts]
    assert sum(calls) == sum(map(len, parts)) and len(calls) < len(parts)
    assert asked(page, [[1, 2, 0, 0]]) == (200, [["hot", "wet"]])


def test_a_framework_answers_and_refuses_alike(page):
    names = page[0]
    x, model = names["x"], names["model"]
    with TestClient(names["app"]) as client, ThreadPoolExecutor(8) as pool:
        parts = [x[i : i + 2] for i in range(20)]
        replies = list(pool.map(lambda part: client.post("/", json=part.tolist()), parts))
        assert [r.json() for r in replies] == [model.predict(part) for part in parts]
        assert client.post("/", json=[[1, 2]]).status_code == 400
        assert client.post("/", content=b"{").status_code == 400
        assert client.post("/", content=b" " * (names["BYTES"] + 1)).status_code == 413


def test_the_server_refuses_what_is_too_much_or_none(page):
    names = page[0]
    for body in (b"{", b"[" * 100_000, [[1, 2, 3]], [], [["a"] * 4], b"[[NaN, 1, 2, 3]]", {}):
        assert asked(page, body)[0] == 400
    assert asked(page, np.zeros((257, 4)).tolist()) == (
        400,
        "give 1 to 256 rows of 4 finite numbers",
    )
    assert asked(page, b"[]", **{"Content-Length": str(2**20 + 1)})[0] == 413
    together = names["server"].together

    class Full:
        def put_nowait(self, _):
            raise names["queue"].Full

    queue, together.queue = together.queue, Full()
    assert asked(page, [[1, 2, 0, 0]]) == (503, "too many requests wait")
    together.queue = queue
    assert asked(page, [[1, 2, 0, 0]]) == (200, [["hot", "wet"]])


def test_a_batch_that_fails_is_not_the_end(page, monkeypatch):
    together = page[0]["server"].together

    def failing(rows):
        raise ValueError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(together, "bundle", failing)
        assert asked(page, [[1, 2, 0, 0]]) == (400, "no memory")
    assert asked(page, [[1, 2, 0, 0]]) == (200, [["hot", "wet"]])


def test_an_answer_does_not_depend_on_the_rows_beside_it(page):
    bundle, x = page[0]["bundle"], page[0]["x"]
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(bundle(x)["y"][order], bundle(x[order])["y"])
    np.testing.assert_array_equal(bundle(x)["y"][7:8], bundle(x[7:8])["y"])
