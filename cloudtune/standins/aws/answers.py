"""Answers in the words of AWS: errors and faults in the protocol of each service. Knows no operation's meaning."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from cloudtune.standins.faults import Fault

REQUEST_ID: Final = "00000000-0000-4000-8000-000000000000"


class AwsError(Exception):
    """A service's refusal: its code, its sentence, the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code = code
        self.message = message
        self.status = status
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back over the wire."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(body: object, status: int = 200, kind: str = "application/x-amz-json-1.1") -> Answer:
    """A JSON body."""
    return Answer(status, json.dumps(body).encode(), {"Content-Type": kind})


_DENIED: Final = "User: {user} is not authorized to perform: {action} because no identity-based policy allows it"
# Fault → (code, sentence, status) of services that speak JSON or CBOR; below what S3 and the query services say instead.
_FAULTS: Final = {
    "throttle": ("ThrottlingException", "Rate exceeded", 400),
    "error500": ("InternalFailure", "The request processing has failed because of an unknown error, exception or failure.", 500),
    "error503": ("ServiceUnavailable", "The request has failed due to a temporary failure of the server.", 503),
    "expired": ("ExpiredTokenException", "The security token included in the request is expired", 400),
    "access_denied": ("AccessDeniedException", _DENIED, 400),
}  # fmt: skip
_S3 = {
    "throttle": ("SlowDown", "Please reduce your request rate.", 503),
    "error500": ("InternalError", "We encountered an internal error. Please try again.", 500),
    "expired": ("ExpiredToken", "The provided token has expired.", 400),
    "access_denied": ("AccessDenied", "Access Denied", 403),
}
_QUERY = {
    "throttle": ("Throttling", "Rate exceeded", 400),
    "expired": ("ExpiredToken", "The security token included in the request is expired", 403),
    "access_denied": ("AccessDenied", "User: {user} is not authorized to perform: {action}", 403),
}
_OWN: Final = {"s3": _S3, "iam": _QUERY, "sts": _QUERY}
USER: Final = "arn:aws:iam::123456789012:user/rehearsal"


def fault_error(fault: Fault, service: str, operation: str) -> AwsError:
    """The refusal that ``fault`` looks like in ``service``."""
    code, message, status = _OWN.get(service, {}).get(fault.kind, _FAULTS[fault.kind])
    action = fault.detail or f"{service}:{operation}"
    return AwsError(code, message.format(user=USER, action=action), status)


def error_answer(error: AwsError, service: str, *, cbor: bool = False) -> Answer:
    """``error`` in the protocol of ``service``."""
    if cbor:
        return Answer(error.status, _cbor({"__type": error.code, "message": error.message}), _CBOR_HEADERS)
    if service == "s3":
        text = f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message><RequestId>{REQUEST_ID}</RequestId></Error>"
        return Answer(error.status, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode(), {"Content-Type": "application/xml"})
    if service in ("iam", "sts"):
        inner = f"<Error><Type>Sender</Type><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
        text = f"<ErrorResponse>{inner}<RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
        return Answer(error.status, text.encode(), {"Content-Type": "text/xml"})
    return json_answer({"__type": error.code, "message": error.message}, error.status)


_CBOR_HEADERS: Final = {"Content-Type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}


def _cbor(pairs: dict[str, str]) -> bytes:
    """A small map of texts (RFC 8949): all that an error needs."""
    return bytes([0xA0 | len(pairs)]) + b"".join(_text(key) + _text(value) for key, value in pairs.items())


def _text(value: str) -> bytes:
    data = value.encode()
    return bytes([0x79]) + len(data).to_bytes(2, "big") + data
