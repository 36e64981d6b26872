"""What S3 checks of an upload and moto does not: the digest that came with it. Reads the body and leaves it in place."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from cloudtune.standins.aws.answers import AwsError

CHECKED: Final = ("PutObject", "UploadPart")
_DIGESTS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "HTTP_X_AMZ_CHECKSUM_SHA256": lambda body: hashlib.sha256(body).digest(),
    "HTTP_X_AMZ_CHECKSUM_SHA1": lambda body: hashlib.sha1(body, usedforsecurity=False).digest(),
    "HTTP_X_AMZ_CHECKSUM_CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "HTTP_CONTENT_MD5": lambda body: hashlib.md5(body, usedforsecurity=False).digest(),
}


def named_digests(environ: Mapping[str, object]) -> list[str]:
    """The headers with a digest that can be checked here; a chunked upload bears its own in a trailer and is left alone."""
    if "aws-chunked" in str(environ.get("HTTP_CONTENT_ENCODING", "")):
        return []
    return [name for name in _DIGESTS if environ.get(name)]


def check(body: bytes, environ: Mapping[str, object]) -> None:
    """Raises AwsError BadDigest when the body is not what a header says."""
    for name in named_digests(environ):
        if base64.b64encode(_DIGESTS[name](body)).decode() != environ[name]:
            kind = name.rpartition("_")[2].lower()
            raise AwsError("BadDigest", f"The {kind} you specified did not match the calculated checksum.")
