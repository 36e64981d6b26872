"""The stand-in's one door: a WSGI application that reads which operation is called, lets it fail as planned, and passes it on.

Operations of our own services are answered here; everything else goes to moto's application, which is real code of others.
The stand-in's own calls (to S3, logs) come through the same door and are neither counted nor made to fail.
"""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import parse_qs

from cloudtune.standins.aws import checksums, permissions
from cloudtune.standins.aws.answers import Answer, AwsError, error_answer, fault_error, json_answer
from cloudtune.standins.faults import Fault, FaultPlan

if TYPE_CHECKING:
    from cloudtune.clock import Clock
    from cloudtune.standins.aws.account import Account

OWN_AGENT: Final = "cloudtune-standin"
ROLE_PATH: Final = "/standin/role-credentials"
_SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]*)/([^/]+)/aws4_request")
_SILENCE_SECONDS: Final = 600.0
StartResponse = Callable[..., Any]


class Service(Protocol):
    """Answers the operations of one service, all of the protocol awsJson1.1. Raises AwsError."""

    def handle(self, operation: str, body: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One call: service as it is signed for, operation, and the JSON body where there is one."""

    service: str
    operation: str
    body: dict[str, Any]
    own: bool
    cbor: bool = False


class Front:
    """``rest``: moto's application. Services of ours are added with ``serve`` once they are made: they call this door themselves."""

    def __init__(self, rest: Callable[..., Iterable[bytes]], faults: FaultPlan) -> None:
        self._services: dict[str, Service] = {}
        self._account: Account | None = None
        self._rest = rest
        self._faults = faults
        self.closing = threading.Event()

    def serve(self, services: Mapping[str, Service], account: Account) -> None:
        """``services``: target prefix (``SageMaker``) → service."""
        self._services.update(services)
        self._account = account

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == ROLE_PATH:
            return _send(json_answer(_ROLE_CREDENTIALS, kind="application/json"), start_response)
        target = str(environ.get("HTTP_X_AMZ_TARGET", "")).partition(".")[0]
        call = read_call(environ, parse=target in self._services)
        fault = None if call.own else self._faults.take(call.operation)
        if fault is not None:
            return self._fail(fault, call, environ, start_response, target)
        return self._answer(call, environ, start_response, target)

    def _answer(self, call: Call, environ: dict[str, Any], start_response: StartResponse, target: str) -> Iterable[bytes]:
        service = self._services.get(target)
        if call.operation == permissions.OPERATION and self._account is not None:
            return _send(permissions.simulate(parse_qs(_body(environ).decode()), self._account), start_response)
        if service is None:
            return self._borrowed(call, environ, start_response)
        try:
            answer = json_answer(service.handle(call.operation, call.body))
        except AwsError as error:
            answer = error_answer(error, call.service)
        return _send(answer, start_response)

    def _borrowed(self, call: Call, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """moto's answer; what it has no code for is said in the service's protocol instead of by a page for browsers."""
        try:
            if call.service == "s3" and call.operation in checksums.CHECKED and checksums.named_digests(environ):
                checksums.check(_body(environ), environ)
            return self._rest(environ, start_response)
        except AwsError as refusal:
            error = refusal
        except NotImplementedError:
            error = AwsError("InvalidAction", f"{call.operation} of {call.service} is not part of this stand-in")
        return _send(error_answer(error, call.service, cbor=call.cbor), start_response)

    def _fail(self, fault: Fault, call: Call, environ: dict[str, Any], start_response: StartResponse, target: str) -> Iterable[bytes]:
        if fault.kind == "silent":
            self.closing.wait(_SILENCE_SECONDS)
            _drop(environ)
        if fault.kind == "lost_reply":
            for _ in self._answer(call, environ, lambda *_args, **_kw: None, target):
                pass
            _drop(environ)
        _drain(environ)
        if fault.kind == "dropped":
            _drop(environ)
        if fault.kind == "malformed":
            return _send(Answer(200, b"<html>It works!</html>", {"Content-Type": "text/html"}), start_response)
        return _send(error_answer(fault_error(fault, call.service, call.operation), call.service, cbor=call.cbor), start_response)


_ROLE_CREDENTIALS: Final = {
    "AccessKeyId": "ASIAREHEARSALROLE000",
    "SecretAccessKey": "of-the-stand-in",
    "Token": "of-the-stand-in",
    "Expiration": "2099-01-01T00:00:00Z",
}


def read_call(environ: dict[str, Any], *, parse: bool) -> Call:
    """Service and operation of a request; the body is read where ``parse`` asks for it and where it names the operation."""
    scope = _SCOPE.search(str(environ.get("HTTP_AUTHORIZATION", "")))
    service = scope[2] if scope else "unsigned"
    own = OWN_AGENT in str(environ.get("HTTP_USER_AGENT", ""))
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    if target:
        return Call(service, target.rpartition(".")[2], _json_body(environ) if parse else {}, own)
    path = str(environ.get("PATH_INFO", ""))
    if cbor := re.fullmatch(r"/service/[^/]+/operation/([^/]+)", path):
        return Call(service, cbor[1], {}, own, cbor=True)
    if service == "s3":
        return Call(service, s3_operation(str(environ["REQUEST_METHOD"]), path, environ), {}, own)
    return Call(service, parse_qs(_body(environ).decode(errors="replace")).get("Action", ["unknown"])[0], {}, own)


def s3_operation(method: str, path: str, environ: Mapping[str, Any]) -> str:
    """Name of the S3 operation behind method, path and query, as far as a launcher uses them."""
    query = parse_qs(str(environ.get("QUERY_STRING", "")), keep_blank_values=True)
    inside = len([part for part in path.split("/") if part]) > 1
    if inside and "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload", "GET": "ListParts"}[method]
    if inside and "uploads" in query:
        return "CreateMultipartUpload"
    if inside:
        return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, method)
    for word, name in _BUCKET_WORDS.items():
        if word in query:
            return name if word in ("uploads", "delete", "list-type") else f"{'Put' if method == 'PUT' else 'Get'}{name}"
    return {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket", "GET": "ListObjects"}.get(method, method)


_BUCKET_WORDS: Final = {
    "list-type": "ListObjectsV2",
    "uploads": "ListMultipartUploads",
    "delete": "DeleteObjects",
    "location": "BucketLocation",
    "lifecycle": "BucketLifecycleConfiguration",
    "encryption": "BucketEncryption",
    "publicAccessBlock": "PublicAccessBlock",
    "tagging": "BucketTagging",
    "policy": "BucketPolicy",
}


def _body(environ: dict[str, Any]) -> bytes:
    """The whole body, left in place for whoever comes next."""
    size = int(environ.get("CONTENT_LENGTH") or 0)
    body: bytes = environ["wsgi.input"].read(size) if size else b""
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _json_body(environ: dict[str, Any]) -> dict[str, Any]:
    try:
        body = json.loads(_body(environ) or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _drain(environ: dict[str, Any]) -> None:
    """Read what the caller sends, or it would see a broken pipe instead of our answer."""
    left = int(environ.get("CONTENT_LENGTH") or 0)
    while left > 0 and (chunk := environ["wsgi.input"].read(min(left, 1 << 20))):
        left -= len(chunk)


def _drop(environ: dict[str, Any]) -> None:
    """Cut the connection without a word."""
    connection: socket.socket = environ["werkzeug.socket"]
    with suppress(OSError):  # the caller was faster
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("the stand-in dropped this connection as planned")


def _send(answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
    headers = {"Content-Length": str(len(answer.body)), "x-amzn-RequestId": "00000000-0000-4000-8000-000000000000", **answer.headers}
    start_response(f"{answer.status} STANDIN", list(headers.items()))
    return [answer.body]


class Server:
    """A threaded HTTP server of one WSGI application on this machine's loopback; answers bear the date of ``clock``."""

    def __init__(self, application: Callable[..., Iterable[bytes]], clock: Clock, port: int = 0) -> None:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):  # type: ignore[misc]
            protocol_version = "HTTP/1.1"

            def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002 - http.server's signature
                return format_datetime(clock.now(), usegmt=True)

            def log(self, *_: Any, **__: Any) -> None:
                """One line per request would drown everything else."""

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        # Its threads may wait for ever on a connection that somebody keeps open: they end with the process, nobody waits for them.
        self._server = cast("Any", make_server("127.0.0.1", port, application, threaded=True, request_handler=Quiet))
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
