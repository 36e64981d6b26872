"""A small object server for the transfer benchmark: S3's protocol as far as uploads and downloads need it, objects as files.

Run as a program of its own: ``python server.py FOLDER`` prints its port. It checks no signature. Bodies go from the socket
to the disk and back (sendfile) without being held, so that what is measured is the client.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_CHUNK = 1 << 18
_HTTP_TIME = "%a, %d %b %Y %H:%M:%S GMT"


class Objects:
    """Objects and unfinished uploads below one folder. A key's file name is its digest, so any key will do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, tuple[Path, str, str]] = {}
        """Key → file, ETag, sha256 of the metadata."""
        self.uploads: dict[str, tuple[str, str, dict[int, tuple[Path, str]]]] = {}
        self.lock = threading.Lock()

    def new_file(self) -> Path:
        return self.folder / uuid.uuid4().hex


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: Objects
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        key, query = self._address()
        file, etag = self._save()
        if file is None:
            return
        if "uploadId" in query:
            with self.objects.lock:
                upload = self.objects.uploads.get(query["uploadId"][0])
                if upload is not None:
                    upload[2][int(query["partNumber"][0])] = (file, etag)
            if upload is None:
                self._error(404, "NoSuchUpload")
                return
        elif key.partition("/")[2]:
            with self.objects.lock:
                self.objects.keys[key] = (file, etag, self.headers.get("x-amz-meta-sha256", ""))
        self._send(200, b"", {"ETag": f'"{etag}"'})

    def do_POST(self) -> None:
        key, query = self._address()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "uploads" in query:
            name = uuid.uuid4().hex
            with self.objects.lock:
                self.objects.uploads[name] = (key, self.headers.get("x-amz-meta-sha256", ""), {})
            self._xml(f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>")
        else:
            self._complete(key, query["uploadId"][0], [int(number) for number in re.findall(rb"<PartNumber>(\d+)<", body)])

    def _complete(self, key: str, name: str, numbers: list[int]) -> None:
        with self.objects.lock:
            upload = self.objects.uploads.pop(name, None)
        if upload is None:
            self._error(404, "NoSuchUpload")
            return
        place = self.objects.new_file()
        with place.open("wb") as whole:
            for number in numbers:
                with upload[2][number][0].open("rb") as part:
                    size = os.fstat(part.fileno()).st_size
                    offset = 0
                    while offset < size:  # inside the kernel
                        offset += os.sendfile(whole.fileno(), part.fileno(), offset, size - offset)
                upload[2][number][0].unlink()
        etag = f"{hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()}-{len(numbers)}"
        with self.objects.lock:
            self.objects.keys[key] = (place, etag, upload[1])
        self._xml(f'<CompleteMultipartUploadResult><ETag>"{etag}"</ETag></CompleteMultipartUploadResult>')

    def do_HEAD(self) -> None:
        found = self._found()
        if found is not None:
            self._send(200, None, {**_facts(found), "Content-Length": str(found[0].stat().st_size)})

    def do_GET(self) -> None:
        key, query = self._address()
        if "uploads" in query:
            self._xml(_uploads(self.objects, query.get("prefix", [""])[0]))
        elif "uploadId" in query:
            self._xml(_parts(self.objects, query["uploadId"][0]))
        elif not key.partition("/")[2]:
            self._xml(_listing(self.objects, key.rstrip("/"), query))
        else:
            self._get()

    def _get(self) -> None:
        found = self._found()
        if found is None:
            return
        size = found[0].stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(match[1]) if match else 0
        last = min(int(match[2]), size - 1) if match and match[2] else size - 1
        if match and first >= size:
            self._error(416, "InvalidRange")
            return
        extra = {"Content-Range": f"bytes {first}-{last}/{size}"} if match else {}
        self._send(206 if match else 200, None, {**_facts(found), **extra, "Content-Length": str(last - first + 1)})
        self.wfile.flush()
        with found[0].open("rb") as file:
            offset = first
            while offset <= last:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), offset, last + 1 - offset)
                if not sent:
                    break
                offset += sent

    def _found(self) -> tuple[Path, str, str] | None:
        key, _ = self._address()
        found = self.objects.keys.get(key)
        if found is None:
            self._error(404, "NoSuchKey")
        return found

    def _address(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).lstrip("/"), parse_qs(parts.query, keep_blank_values=True)

    def _save(self) -> tuple[Path | None, str]:
        """The body as a file, and its MD5. A body that breaks off leaves nothing."""
        place, digest = self.objects.new_file(), hashlib.md5(usedforsecurity=False)
        left = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.flush()
        chunked = self.headers.get("x-amz-decoded-content-length") is not None or self.headers.get("Transfer-Encoding") == "chunked"
        with place.open("wb") as file:
            for chunk in self._chunked() if chunked else self._plain(left):
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
        if not chunked and left:
            place.unlink()
            self.close_connection = True
            return None, ""
        return place, digest.hexdigest()

    def _plain(self, left: int) -> Iterator[bytes]:
        while left > 0 and (chunk := self.rfile.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk

    def _chunked(self) -> Iterator[bytes]:
        """The SDK's own framing (aws-chunked): sizes in hexadecimal, checksum trailers at the end."""
        while size := int(self.rfile.readline().split(b";")[0].strip() or b"0", 16):
            left = size
            while left and (chunk := self.rfile.read(min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _send(self, status: int, body: bytes | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def _xml(self, text: str) -> None:
        self._send(200, f'<?xml version="1.0"?>{text}'.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self._send(status, body, {"Content-Type": "application/xml"})

    def log_message(self, *_: object) -> None:
        """One line per request would be the slowest part."""


def _facts(found: tuple[Path, str, str]) -> dict[str, str]:
    modified = datetime.fromtimestamp(found[0].stat().st_mtime, UTC)
    extra = {"x-amz-meta-sha256": found[2]} if found[2] else {}
    return {"ETag": f'"{found[1]}"', "Last-Modified": modified.strftime(_HTTP_TIME), "Accept-Ranges": "bytes", **extra}


def _listing(objects: Objects, bucket: str, query: dict[str, list[str]]) -> str:
    start = f"{bucket}/{query.get('prefix', [''])[0]}"
    after = query.get("continuation-token", [""])[0]
    keys = sorted(key for key in objects.keys if key.startswith(start) and key > after)
    page, more = keys[:1000], len(keys) > 1000
    items = "".join(
        f"<Contents><Key>{escape(key.partition('/')[2])}</Key><Size>{objects.keys[key][0].stat().st_size}</Size>"
        f"<ETag>&quot;{objects.keys[key][1]}&quot;</ETag><LastModified>{_stamp(objects.keys[key][0])}</LastModified></Contents>"
        for key in page
    )
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    return (
        f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}<KeyCount>{len(page)}</KeyCount>{items}</ListBucketResult>"
    )


def _stamp(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _uploads(objects: Objects, prefix: str) -> str:
    found = "".join(
        f"<Upload><Key>{escape(key.partition('/')[2])}</Key><UploadId>{name}</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
        for name, (key, _, _) in objects.uploads.items()
        if key.partition("/")[2].startswith(prefix)
    )
    return f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{found}</ListMultipartUploadsResult>"


def _parts(objects: Objects, name: str) -> str:
    upload = objects.uploads.get(name)
    found = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag><Size>{file.stat().st_size}</Size></Part>"
        for number, (file, etag) in sorted(upload[2].items() if upload else ())
    )
    return f"<ListPartsResult><IsTruncated>false</IsTruncated>{found}</ListPartsResult>"


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def serve(folder: Path, port: int = 0, handler: type[Handler] = Handler) -> Server:
    """A server ready to ``serve_forever``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    objects = Objects(folder)
    return Server(("127.0.0.1", port), type("Bound", (handler,), {"objects": objects}))


if __name__ == "__main__":
    running = serve(Path(sys.argv[1]))
    sys.stdout.write(f"{running.server_port}\n")
    sys.stdout.flush()
    running.serve_forever()
