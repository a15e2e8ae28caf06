"""The page as it is served: everybody gets the answer of their own image, and nothing else is to be had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import processes
from tests.app.test_fitting import as_url, stroke
from tests.refusals import refusal, refused
from wsram.app.answering import evidence, looked, side_by_side
from wsram.app.fitting import fit_drawing, fit_file, scene_of
from wsram.app.serving import BYTES, serving
from wsram.cli import main
from wsram.predictor import from_pretrained

gradio_client = pytest.importorskip("gradio_client", reason="the page needs the app extra")
pytest.importorskip("gradio", reason="the page needs the app extra")

FILE, DRAWING = "a file", "a drawing"


@pytest.fixture(scope="module")
def address(letters: str) -> Iterator[str]:
    """Of a page with a network of digits and one of letters."""
    with serving(["translated", letters], port=0) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 240})


def photograph(folder: Path, n: int) -> Path:
    """An image like no other."""
    path = folder / f"photo-{n}.png"
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (40 + n, 50), dtype=np.uint8)).save(path)
    return path


def sent(client: Any, path: Path, *, first: str = "letters", second: str = "none", count: int = 0) -> tuple[str, str]:
    """The line and the answers for a file."""
    file = gradio_client.handle_file(str(path))
    line, answers = client.predict(FILE, "", file, first, second, count, api_name="/look")
    return line, answers


def test_a_drawing_is_answered_by_two_networks_side_by_side(client: Any, letters: str) -> None:
    drawing = stroke(20, 220)
    _, answers = client.predict(DRAWING, as_url(drawing), None, "translated", "letters", 3, api_name="/look")
    both = [(name, from_pretrained(path)) for name, path in (("translated", "translated"), ("letters", letters))]
    expected = [(name, looked(each, fit_drawing(drawing, scene_of(each)), 3).html) for name, each in both]
    assert answers == side_by_side(expected)


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_many_at_once_get_each_the_answer_of_their_own_image(
    address: str, letters: str, tmp_path: Path, count: int
) -> None:
    paths = [photograph(tmp_path, n) for n in range(count)]
    predictor = from_pretrained(letters)
    expected = [side_by_side([("letters", looked(predictor, fit_file(path, None)).html)]) for path in paths]
    assert len(set(expected)) == count

    def ask(path: Path) -> list[str]:
        own = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 240})
        return [sent(own, path)[1] for _ in range(2)]

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(ask, paths))
    assert answers == [[each, each] for each in expected]


def test_evidence_can_be_asked_for(client: Any, letters: str, tmp_path: Path) -> None:
    path = photograph(tmp_path, 0)
    file = gradio_client.handle_file(str(path))
    line, answers = client.predict(FILE, "", file, "letters", "none", "b", api_name="/explain")
    expected = evidence(from_pretrained(letters), fit_file(path, None), "b")
    assert answers == side_by_side([("letters", expected.html)]) and "b: log-evidence" in line


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.png", b"no image", "expected a whole image in notes.png"),
        ("cut.png", b"\x89PNG\r\n\x1a\n", "expected a whole image in cut.png"),
        ("page.html", b"<script>alert(1)</script>", "expected a whole image in page.html"),
    ],
)
def test_a_wrong_file_is_one_line(client: Any, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    line, answers = sent(client, path)
    assert line.startswith('<p class="wrong">') and said in line and answers == ""
    assert "wsram-app" not in line and "Traceback" not in line


def test_an_unknown_label_and_nothing_to_look_at_are_one_line(client: Any, tmp_path: Path) -> None:
    file = gradio_client.handle_file(str(photograph(tmp_path, 0)))
    line, _ = client.predict(FILE, "", file, "letters", "none", "<z>", api_name="/explain")
    assert "expected a label among a, b, c, d, e" in line and "&lt;z&gt;" in line
    line, answers = client.predict(FILE, "", None, "letters", "none", 0, api_name="/look")
    assert line == '<p class="hint">no file is chosen yet: choose an image</p>' and answers == ""


@pytest.mark.parametrize("name", ["../letters", "/etc", "OWNER/NAME", ""])
def test_no_network_can_be_asked_for_but_those_that_are_served(client: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(Exception, match="not in the list of choices"):
        sent(client, photograph(tmp_path, 0), first=name)


def status(address: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """What a request ends with; nothing in its path is tidied up on the way."""
    host, port = address.removeprefix("http://").split(":")
    head = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
    if body is not None:
        head += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + (body or b""))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    first, _, rest = answer.partition(b"\r\n")
    return int(first.split()[1]), rest


SECRETS = (
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=//etc/passwd",
    "/gradio_api/file=%2Fetc%2Fpasswd",
    "/gradio_api/file=../../../../etc/passwd",
    "/gradio_api/file=..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=http://127.0.0.1:1/",
    "/gradio_api/file=https://example.org/",
    "/gradio_api/file=pyproject.toml",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/file/etc/passwd",
    "/static/../../../../../../../../etc/passwd",
    "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/assets/../../../../../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/svelte/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/gradio_api/proxy=https://example.org/",
    "/gradio_api/stream/a/b/1/playlist.m3u8",
    "/custom_component/1/client/component/../../../../etc/passwd",
    "/monitoring",
    "/monitoring/summary",
    "/gradio_api/vibe-code/",
    "/gradio_api/deep_link",
)


@pytest.mark.parametrize("path", SECRETS)
def test_no_other_file_and_no_other_service_is_to_be_had(address: str, path: str) -> None:
    code, said = status(address, path)
    assert code in (403, 404) and b"root:" not in said


def test_an_upload_is_its_owners_and_what_lies_beside_it_is_nobodys(address: str, client: Any, tmp_path: Path) -> None:
    path = photograph(tmp_path, 0)
    boundary, name = "x" * 20, path.name
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = part + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(f"{address}/gradio_api/upload", body)
    request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
    with urllib.request.urlopen(request) as answer:
        (kept,) = json.load(answer)
    with urllib.request.urlopen(f"{address}/gradio_api/file={kept}") as answer:
        assert answer.read() == path.read_bytes()
    for other in (f"{kept}/../../../etc/passwd", f"{Path(kept).parents[1]}/../passwd", str(Path(kept).parents[1])):
        assert status(address, f"/gradio_api/file={other}")[0] in (403, 404)


def joined(address: str, file: dict[str, Any]) -> tuple[int, bytes]:
    with urllib.request.urlopen(f"{address}/config") as answer:
        functions = json.load(answer)["dependencies"]
    look = next(each["id"] for each in functions if each["api_name"] == "look")
    data = [FILE, "", {"meta": {"_type": "gradio.FileData"}, **file}, "letters", "none", 0]
    body = {"data": data, "fn_index": look, "session_hash": "s", "event_data": None, "trigger_id": None}
    return status(address, "/gradio_api/queue/join", json.dumps(body).encode())


@pytest.mark.parametrize("path", ["http://127.0.0.1:1/a.png", "https://example.org/a.png", "file:///etc/passwd"])
def test_nothing_is_fetched_for_anybody(address: str, path: str) -> None:
    code, said = joined(address, {"path": path})
    assert code == 400 and b"only what was uploaded is looked at" in said


def test_a_file_of_this_machine_cannot_be_looked_at(address: str, tmp_path: Path) -> None:
    path = photograph(tmp_path, 0)  # an image, but nobody has uploaded it
    for way in (str(path), f"{tmp_path}/../{tmp_path.name}/{path.name}", path.name):
        assert joined(address, {"path": way})[0] == 400


def test_what_is_too_large_is_not_taken(address: str) -> None:
    for headers in ({"Content_Length": str(BYTES + 1)}, {"Transfer_Encoding": "chunked"}):
        host, port = address.removeprefix("http://").split(":")
        head = ["POST /gradio_api/upload HTTP/1.1", f"Host: {host}", "Connection: close"]
        head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
            if "Transfer_Encoding" in headers:
                part = b"%x\r\n" % 1_000_000 + b"a" * 1_000_000 + b"\r\n"
                try:
                    for _ in range(BYTES // 1_000_000 + 1):
                        connection.sendall(part)
                except OSError:
                    pass  # it does not listen to the end
            assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]


def test_the_page_loads_nothing_from_elsewhere(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        policy, page = answer.headers["content-security-policy"], answer.read().decode()
    assert "default-src 'self'" in policy and "http" not in policy
    for there in ("googleapis", "gstatic", "cdnjs", "jsdelivr"):
        assert there not in page
    with urllib.request.urlopen(f"{address}/theme.css") as answer:
        theme = answer.read()
    assert b"@import" not in theme and b"url(http" not in theme and b"url('http" not in theme
    with urllib.request.urlopen(f"{address}/config") as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "cannot listen at 127.0.0.1, port " + port in refused(capsys, "app", "--port", port)


def test_what_goes_wrong_beside_the_page_keeps_its_name() -> None:
    def beside() -> None:
        with serving(["translated"], port=0):
            raise FileNotFoundError("my own file")

    with pytest.raises(FileNotFoundError, match="my own file"):
        beside()


def test_mistakes_are_said_before_anything_is_served(
    capsys: pytest.CaptureFixture[str], letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "expected a network, found none at nothing" in refused(capsys, "app", "nothing", "--port", "0")
    assert f"got {letters} twice" in refused(capsys, "app", letters, letters, "--port", "0")
    assert "at once must be at least 1" in refused(capsys, "app", "--at-once", "0", "--port", "0")
    assert "cannot listen at no such host" in refused(capsys, "app", "--host", "no such host")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install "wsram[app]"' in refused(capsys, "app", "--port", "0")


def test_networks_of_one_name_are_told_apart_by_where_they_lie(letters: str, tmp_path: Path) -> None:
    from wsram.app.serving import _opened

    other = tmp_path / "letters"
    shutil.copytree(letters, other)
    assert list(_opened(["translated", letters])) == ["translated", "letters"]
    assert list(_opened([letters, str(other)])) == [letters, str(other)]
    refusal(lambda: _opened(["translated", "translated"]), "twice")


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    process = processes.start(main, ["app", "--port", "0"], said=said, TMPDIR=str(tmp_path))
    end = time.monotonic() + 240
    while "Ctrl-C" not in (said.read_text() if said.exists() else ""):
        assert process.is_alive() and time.monotonic() < end, said.read_text() if said.exists() else ""
        time.sleep(0.1)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 0
    assert said.read_text().count("\n") == 1 and "Traceback" not in said.read_text()
    assert not list(tmp_path.glob("wsram-app-*"))
