"""One HTTP server for all of the stand-in's REST services: routes to functions, and the planned faults on the way.

A function gets a ``Call`` and returns an ``Answer`` or raises ``ApiError``. Knows no service and keeps no state of theirs.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cloudtune.standins.faults import Fault, FaultPlan
from cloudtune.standins.gcp.answers import FAULTS, ApiError

_PIECE = 1024 * 1024
_MOST_UNREAD = 8 * _PIECE  # a longer rest of a refused upload is not read; the connection is closed instead


@dataclass
class Call:
    """One request: ``parts`` are the named parts of the path, decoded; ``query`` the first value of each parameter."""

    method: str
    path: str
    parts: Mapping[str, str]
    query: Mapping[str, str]
    lists: Mapping[str, list[str]]
    headers: Mapping[str, str]
    pieces: Callable[[], Iterator[bytes]]
    base: str

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises ApiError when it is none."""
        raw = self.read()
        try:
            body = json.loads(raw) if raw else {}
        except ValueError as error:
            raise ApiError("INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name.") from error
        if not isinstance(body, dict):
            raise ApiError("INVALID_ARGUMENT", "Invalid value (Object), Invalid JSON payload received.")
        return body


@dataclass
class Answer:
    """``body`` is JSON, bytes, or pieces of bytes with their total ``length``."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


Action = Callable[[Call], Answer]


@dataclass(frozen=True)
class Route:
    """``operation`` is the name that the plan of faults knows it by; ``problem`` writes an error's body in the service's own shape."""

    method: str
    pattern: re.Pattern[str]
    operation: str
    action: Action
    problem: Callable[[ApiError], Answer]


def plain_problem(error: ApiError) -> Answer:
    """The usual shape of an error."""
    return Answer(error.body(), error.http)


def route(method: str, template: str, operation: str, action: Action, problem: Callable[[ApiError], Answer] = plain_problem) -> Route:
    """``{name}`` in the template is one part of the path, ``{name*}`` any number of them."""
    pattern = re.sub(r"\{(\w+)\*\}", r"(?P<\1>.+)", template)
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", pattern)
    return Route(method, re.compile(f"{pattern}/?"), operation, action, problem)


class WireServer:
    """Serves ``routes`` on 127.0.0.1 until ``close``. ``port`` 0 takes a free one."""

    def __init__(self, routes: Sequence[Route], faults: FaultPlan, port: int = 0) -> None:
        self.routes = list(routes)
        self.faults = faults
        self.closing = threading.Event()
        owner = self

        class Handler(_Handler):
            server_side = owner

        self._http = _Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        """Stop; calls that were given no answer end now."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(timeout=5)

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of a request and the decoded parts of its path."""
        for one in self.routes:
            found = one.pattern.fullmatch(path) if one.method == method else None
            if found:
                return one, {name: unquote(value) for name, value in found.groupdict().items()}
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False


class _Dropped(Exception):
    """The connection ends without an answer."""


class _Handler(BaseHTTPRequestHandler):
    server_side: WireServer
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet; apart, each call would wait 40 ms for the other side's acknowledgement.
    wbufsize = _PIECE
    disable_nagle_algorithm = True
    timeout = 300

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Silent: what was asked is counted by the plan of faults."""

    def _serve(self) -> None:
        self._unread = int(self.headers.get("Content-Length") or 0)
        self._chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        address = urlsplit(self.path)
        found = self.server_side.find(self.command, address.path)
        try:
            answer = self._answer(found, address.path, address.query)
        except _Dropped:
            self.close_connection = True
            return
        try:
            self._drain()
            self._send(answer)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815 - names of the base class

    def _answer(self, found: tuple[Route, Mapping[str, str]] | None, path: str, query: str) -> Answer:
        if found is None:
            return plain_problem(ApiError("NOT_FOUND", f"The stand-in has no {self.command} {path}."))
        one, parts = found
        fault = self.server_side.faults.take(one.operation)
        lists = parse_qs(query, keep_blank_values=True)
        first = {name: values[0] for name, values in lists.items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, path, parts, first, lists, headers, self._pieces, self.server_side.url)
        try:
            before = self._before(fault)
            answer = before or one.action(call)
        except ApiError as error:
            answer = one.problem(error)
        if fault is not None and fault.kind == "lost_reply":
            self._drain()
            raise _Dropped
        return answer

    def _before(self, fault: Fault | None) -> Answer | None:
        """Carry out a fault that comes before the call itself."""
        kind = fault.kind if fault else ""
        if kind == "dropped":
            raise _Dropped
        if kind == "silent":
            self.server_side.closing.wait()
            raise _Dropped
        if kind == "malformed":
            return Answer(b'{"name": "projects/', headers={"Content-Type": "application/json"})
        if kind == "access_denied":
            what = fault.detail if fault and fault.detail else "the.permission"
            raise ApiError("PERMISSION_DENIED", f"Permission '{what}' denied on resource (or it may not exist).", "IAM_PERMISSION_DENIED")
        if kind in FAULTS:
            raise FAULTS[kind]
        return None

    def _pieces(self) -> Iterator[bytes]:
        while self._unread > 0:
            piece = self.rfile.read(min(_PIECE, self._unread))
            if not piece:
                self.close_connection = True
                self._unread = 0
                raise ApiError("INVALID_ARGUMENT", "The request body ended early.")
            self._unread -= len(piece)
            yield piece
        while self._chunked:
            yield from self._chunk(self.rfile)

    def _chunk(self, stream: Any) -> Iterator[bytes]:
        size = int(stream.readline().split(b";")[0] or b"0", 16)
        if size == 0:
            self._chunked = False
        else:
            yield stream.read(size)
        stream.readline()

    def _drain(self) -> None:
        if self._unread > _MOST_UNREAD:
            self.close_connection = True
            return
        for _ in self._pieces():
            pass

    def _send(self, answer: Answer) -> None:
        headers = dict(answer.headers)
        body: Any = answer.body
        if body is None:
            body = b""
        elif not isinstance(body, bytes) and answer.length is None:
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json; charset=UTF-8")
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        length = len(body) if isinstance(body, bytes) else answer.length
        if answer.status != 304:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD" or answer.status == 304:
            return
        for piece in [body] if isinstance(body, bytes) else body:
            self.wfile.write(piece)
