"""The hub client against a real HTTP server: every status, redirects, slow and broken answers, the cache, the token."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloudtune.errors import SourceError
from cloudtune.sources import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model_type": "llama", "hidden_size": 64}
SECRET = "hf_very_secret_token"
ABOUT, FILE = "/api/models/org/model/revision/main", f"/org/model/resolve/{COMMIT}/config.json"


@dataclass
class Answer:
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: bool = False
    cut: bool = False


@dataclass
class HubServer:
    url: str
    answers: dict[str, Answer]
    seen: list[tuple[str, str | None]]

    def give(self, path: str, *, json_body: object = None, **fields: object) -> None:
        body = json.dumps(json_body).encode() if json_body is not None else fields.pop("body", b"{}")
        self.answers[path] = Answer(body=body, **fields)  # type: ignore[arg-type]


@contextlib.contextmanager
def serving() -> Iterator[HubServer]:
    answers: dict[str, Answer] = {}
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            answer = answers.get(self.path, Answer(404, headers={"X-Error-Code": "RepoNotFound"}))
            time.sleep(answer.delay)
            with contextlib.suppress(OSError):
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) + (10 if answer.cut else 0)))
                self.end_headers()
                self.send_body(answer)

        def send_body(self, answer: Answer) -> None:
            if not answer.drip:
                self.wfile.write(answer.body)
                return
            for byte in answer.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield HubServer(f"http://127.0.0.1:{server.server_port}", answers, seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with serving() as running:
        running.give(ABOUT, json_body={"id": "org/model", "sha": COMMIT})
        running.give(FILE, json_body=CONFIG)
        yield running


def ask(
    server: HubServer, cache: Path | None = None, *, timeout: float = 3.0, token: str = "", revision: str = "main", **more: str
) -> hub.HubConfig:
    environ = {"HF_ENDPOINT": server.url, "HF_TOKEN": token, **more}
    return hub.fetch("org/model", revision, cache_dir=cache, environ=environ, timeout=timeout)


def refused(server: HubServer, **arguments: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        ask(server, **arguments)  # type: ignore[arg-type]
    error = caught.value
    assert error.what
    assert error.hint, "every refusal says what to do next"
    assert SECRET not in f"{error}{error.__cause__!r}"
    return error


def test_config_and_commit(server: HubServer) -> None:
    got = ask(server)
    assert (got.config, got.commit, got.revision, got.from_cache) == (CONFIG, COMMIT, "main", False)
    assert [path for path, _ in server.seen] == [ABOUT, FILE], "the file is read at the very commit that was resolved"
    assert {token for _, token in server.seen} == {None}


def test_the_token_goes_to_the_endpoint(server: HubServer) -> None:
    ask(server, token=SECRET)
    assert {token for _, token in server.seen} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    ("status", "code", "token", "expected", "says"),
    [
        (401, "GatedRepo", "", "hub-gated", "HF_TOKEN"),
        (403, "GatedRepo", SECRET, "hub-gated", "accept the terms"),
        (403, "", "", "hub-gated", "HF_TOKEN"),
        (401, "RepoNotFound", "", "hub-not-found", "HF_TOKEN"),
        (404, "RepoNotFound", SECRET, "hub-not-found", "HF_TOKEN"),
        (401, "", SECRET, "hub-token", "expired"),
        (404, "RevisionNotFound", "", "hub-not-found", "model.revision"),
        (404, "", "", "hub-not-found", "spelling"),
        (429, "", "", "hub-offline", "wait"),
        (500, "", "", "hub-offline", "again"),
        (503, "", "", "hub-offline", "again"),
    ],
)
def test_refusals(server: HubServer, status: int, code: str, token: str, expected: str, says: str) -> None:
    server.give(ABOUT, status=status, headers={"X-Error-Code": code} if code else {})
    error = refused(server, token=token)
    assert error.code == expected
    assert says in str(error)


def test_a_repository_without_config(server: HubServer) -> None:
    server.give(FILE, status=404, headers={"X-Error-Code": "EntryNotFound"})
    error = refused(server)
    assert "no config.json" in error.what
    assert "GGUF" in error.hint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b"[1, 2]",
        b"\xff\xfe{}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"a": "' + b"x" * 5_000_000 + b'"}',
    ],
    ids=["empty", "html", "list", "not utf-8", "long number", "deep", "large"],
)
@pytest.mark.parametrize("path", [ABOUT, FILE])
def test_garbage(server: HubServer, path: str, body: bytes) -> None:
    server.give(path, body=body)
    assert refused(server).code == "bad-model-config"


@pytest.mark.parametrize("sha", [None, 7, "main", "../../etc", COMMIT.upper()])
def test_an_answer_without_a_commit(server: HubServer, sha: object) -> None:
    server.give(ABOUT, json_body={"sha": sha})
    assert refused(server).code == "hub-answer"


def test_no_answer_in_time(server: HubServer) -> None:
    server.give(ABOUT, delay=4.0)
    started = time.monotonic()
    assert refused(server, timeout=0.2).code == "hub-offline"
    assert time.monotonic() - started < 3.5


def test_a_slow_sender_meets_the_deadline(server: HubServer) -> None:
    server.give(ABOUT, body=b" " * 200, drip=True)
    started = time.monotonic()
    assert refused(server, timeout=0.3).code == "hub-offline"
    assert time.monotonic() - started < 6.0


def test_a_broken_off_answer(server: HubServer) -> None:
    server.give(FILE, body=b'{"model_type": "llama"', cut=True)
    assert refused(server).code in ("hub-offline", "bad-model-config")


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = refused(HubServer(url, {}, []))
    assert error.code == "hub-offline"
    assert url in error.what


def test_switched_off_asks_nobody(server: HubServer) -> None:
    with pytest.raises(SourceError) as caught:
        ask(server, HF_HUB_OFFLINE="1")
    assert caught.value.code == "hub-offline"
    assert server.seen == []


def test_a_redirect_is_followed_and_the_token_stays_home(server: HubServer) -> None:
    with serving() as elsewhere:
        elsewhere.give("/file", json_body=CONFIG)
        server.give(FILE, status=302, headers={"Location": f"{elsewhere.url}/file"})
        assert ask(server, token=SECRET).config == CONFIG
        assert elsewhere.seen == [("/file", None)]


def test_a_redirect_within_the_endpoint_keeps_the_token(server: HubServer) -> None:
    server.give("/moved", json_body=CONFIG)
    server.give(FILE, status=307, headers={"Location": "/moved"})
    assert ask(server, token=SECRET).config == CONFIG
    assert server.seen[-1] == ("/moved", f"Bearer {SECRET}")


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd", FILE])
def test_redirects_that_lead_nowhere(server: HubServer, location: str) -> None:
    server.give(FILE, status=302, headers={"Location": location})
    assert refused(server).code == "hub-offline"


@pytest.mark.parametrize("base", ["", "a b", "../x", "a/b/c", "/abs", "a/..", "x" * 300, "a\nb", "a/b?c", "é/x"])
def test_ids_that_are_none(server: HubServer, base: str) -> None:
    with pytest.raises(SourceError, match="model id"):
        hub.fetch(base, environ={"HF_ENDPOINT": server.url})
    assert server.seen == []


def test_revisions_are_quoted(server: HubServer) -> None:
    server.give("/api/models/org/model/revision/refs%2Fpr%2F1", json_body={"sha": COMMIT})
    assert ask(server, revision="refs/pr/1").commit == COMMIT


def test_a_commit_is_asked_for_once(server: HubServer, tmp_path: Path) -> None:
    server.give(f"/api/models/org/model/revision/{COMMIT}", json_body={"sha": COMMIT})
    first = ask(server, tmp_path, revision=COMMIT)
    count = len(server.seen)
    second = ask(server, tmp_path, revision=COMMIT)
    assert len(server.seen) == count
    assert (second.from_cache, second.config, second.fetched) == (True, first.config, first.fetched)


def test_a_branch_is_asked_again_and_survives_an_outage(server: HubServer, tmp_path: Path) -> None:
    ask(server, tmp_path)
    newer = COMMIT[::-1]
    server.give(ABOUT, json_body={"sha": newer})
    server.give(FILE.replace(COMMIT, newer), json_body=CONFIG | {"hidden_size": 128})
    assert ask(server, tmp_path).config["hidden_size"] == 128
    server.give(ABOUT, status=503)
    kept = ask(server, tmp_path)
    assert (kept.from_cache, kept.commit, kept.config["hidden_size"]) == (True, newer, 128)
    assert ask(server, tmp_path, HF_HUB_OFFLINE="1").from_cache


def test_a_refusal_is_not_hidden_by_the_cache(server: HubServer, tmp_path: Path) -> None:
    ask(server, tmp_path)
    server.give(ABOUT, status=403, headers={"X-Error-Code": "GatedRepo"})
    assert refused(server, cache=tmp_path).code == "hub-gated"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"id": "org/other", "revision": "main", "commit": "x", "config": {}, "fetched": ""}']
)
def test_a_damaged_cache_is_read_past(server: HubServer, tmp_path: Path, damage: bytes) -> None:
    ask(server, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(damage)
    assert not ask(server, tmp_path).from_cache
    assert json.loads(file.read_bytes())["commit"] == COMMIT
    assert not list(tmp_path.rglob("*.part"))


def test_the_cache_never_holds_the_token(server: HubServer, tmp_path: Path) -> None:
    ask(server, tmp_path, token=SECRET)
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_cache_that_cannot_be_written_costs_nothing_else(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file is in the way")
    assert ask(server, tmp_path).config == CONFIG


def test_an_endpoint_that_is_no_address() -> None:
    with pytest.raises(SourceError, match="HF_ENDPOINT"):
        hub.fetch("org/model", environ={"HF_ENDPOINT": "file:///etc"})
