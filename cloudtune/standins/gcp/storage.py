"""Cloud Storage's JSON API over ``ObjectStore``: what google-cloud-storage calls, in Google's words. No state but open uploads."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudtune.standins.gcp.answers import ApiError
from cloudtune.standins.gcp.objects import Bucket, Conditions, ObjectStore, Stored
from cloudtune.standins.gcp.scene import GRANTED, Scene
from cloudtune.standins.gcp.wire import Answer, Call, Route, route

_REASONS = {
    400: "invalid",
    401: "required",
    403: "forbidden",
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
    429: "rateLimitExceeded",
}
_QUANTUM = 256 * 1024  # every chunk of a resumable upload but the last has a multiple of this
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass
class _Upload:
    """A resumable upload under way: the bytes so far lie in ``place``."""

    bucket: str
    name: str
    fields: dict[str, Any]
    conditions: Conditions
    place: Path
    size: int = 0
    done: Stored | None = None


@dataclass
class StorageApi:
    """The routes, and the uploads that are not finished."""

    store: ObjectStore
    scene: Scene
    uploads: dict[str, _Upload] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        """Paths as the client builds them below STORAGE_EMULATOR_HOST."""
        api, up, down = "/storage/v1/b", "/upload/storage/v1/b/{bucket}/o", "/download/storage/v1/b/{bucket}/o/{name*}"
        one, every = f"{api}/{{bucket}}/o/{{name*}}", f"{api}/{{bucket}}/o"
        return [
            _route("GET", api, "storage.buckets.list", self.list_buckets),
            _route("POST", api, "storage.buckets.insert", self.make_bucket),
            _route("GET", f"{api}/{{bucket}}/iam/testPermissions", "storage.buckets.testIamPermissions", self.test_permissions),
            _route("GET", f"{api}/{{bucket}}", "storage.buckets.get", self.get_bucket),
            _route("PATCH", f"{api}/{{bucket}}", "storage.buckets.patch", self.change_bucket),
            _route("DELETE", f"{api}/{{bucket}}", "storage.buckets.delete", self.drop_bucket),
            _route("GET", every, "storage.objects.list", self.list_objects),
            _route("POST", f"{one}/rewriteTo/b/{{to_bucket}}/o/{{to_name*}}", "storage.objects.rewrite", self.rewrite),
            _route("POST", f"{one}/copyTo/b/{{to_bucket}}/o/{{to_name*}}", "storage.objects.copy", self.rewrite),
            _route("GET", one, "storage.objects.get", self.get_object),
            _route("GET", down, "storage.objects.get", self.get_object),
            _route("PATCH", one, "storage.objects.patch", self.change_object),
            _route("DELETE", one, "storage.objects.delete", self.delete_object),
            _route("POST", up, "storage.objects.insert", self.upload),
            _route("PUT", up, "storage.objects.insert", self.resume),
            _route("DELETE", up, "storage.objects.insert", self.abandon),
        ]

    def list_buckets(self, call: Call) -> Answer:
        self._may("storage.buckets.list")
        prefix = call.query.get("prefix", "")
        items = [bucket_body(one, self.scene) for name, one in sorted(self.store.buckets.items()) if name.startswith(prefix)]
        return Answer({"kind": "storage#buckets", "items": items})

    def make_bucket(self, call: Call) -> Answer:
        self._may("storage.buckets.create")
        body = call.json()
        name = str(body.pop("name", ""))
        bucket = self.store.make_bucket(name, str(body.pop("location", "US")), body)
        return Answer(bucket_body(bucket, self.scene))

    def get_bucket(self, call: Call) -> Answer:
        self._may("storage.buckets.get")
        return Answer(bucket_body(self.store.bucket(call.parts["bucket"]), self.scene))

    def change_bucket(self, call: Call) -> Answer:
        self._may("storage.buckets.update")
        bucket = self.store.bucket(call.parts["bucket"])
        bucket.fields.update(call.json())
        bucket.metageneration += 1
        return Answer(bucket_body(bucket, self.scene))

    def drop_bucket(self, call: Call) -> Answer:
        self._may("storage.buckets.delete")
        self.store.drop_bucket(call.parts["bucket"])
        return Answer(status=204)

    def test_permissions(self, call: Call) -> Answer:
        self.store.bucket(call.parts["bucket"])
        granted = [one for one in call.lists.get("permissions", []) if one in GRANTED and one not in self.scene.denied]
        return Answer({"kind": "storage#testIamPermissionsResponse", "permissions": granted})

    def list_objects(self, call: Call) -> Answer:
        self._may("storage.objects.list")
        limit = min(int(call.query.get("maxResults") or 1000), 1000, self.scene.storage_page)
        start = _unmark(call.query.get("pageToken", ""))
        page = self.store.page(call.parts["bucket"], call.query.get("prefix", ""), call.query.get("delimiter", ""), start, limit)
        body: dict[str, Any] = {"kind": "storage#objects", "items": [object_body(one, call.base) for one in page.objects]}
        if page.prefixes:
            body["prefixes"] = list(page.prefixes)
        if page.next_start:
            body["nextPageToken"] = page.next_start.encode().hex()
        return Answer(body)

    def get_object(self, call: Call) -> Answer:
        """Metadata, or with ``alt=media`` the bytes, whole or a range of them."""
        self._may("storage.objects.get")
        generation = int(call.query["generation"]) if call.query.get("generation") else None
        wanted = conditions_of(call.query)
        if wanted.not_match is not None:
            found = self.store.get(call.parts["bucket"], call.parts["name"], generation=generation)
            if found.generation == wanted.not_match:
                return Answer(status=304)
        found = self.store.get(call.parts["bucket"], call.parts["name"], generation=generation, conditions=wanted)
        return media(found, call.headers.get("range", "")) if call.query.get("alt") == "media" else Answer(object_body(found, call.base))

    def change_object(self, call: Call) -> Answer:
        self._may("storage.objects.update")
        stored = self.store.change(call.parts["bucket"], call.parts["name"], call.json(), conditions_of(call.query))
        return Answer(object_body(stored, call.base))

    def delete_object(self, call: Call) -> Answer:
        self._may("storage.objects.delete")
        generation = int(call.query["generation"]) if call.query.get("generation") else None
        self.store.delete(call.parts["bucket"], call.parts["name"], generation=generation, conditions=conditions_of(call.query))
        return Answer(status=204)

    def rewrite(self, call: Call) -> Answer:
        """A copy on the server's side, in one go whatever the size."""
        self._may("storage.objects.create")
        source = self.store.get(call.parts["bucket"], call.parts["name"])
        place = self.store.spool()
        with place.open("wb") as stream:
            stream.writelines(source.pieces())
        fields = {**source.fields, **call.json()}
        stored = self.store.put(call.parts["to_bucket"], call.parts["to_name"], place, fields, conditions=conditions_of(call.query))
        body = object_body(stored, call.base)
        if "/copyTo/" in call.path:
            return Answer(body)
        size = str(stored.size)
        return Answer({"kind": "storage#rewriteResponse", "done": True, "objectSize": size, "totalBytesRewritten": size, "resource": body})

    def upload(self, call: Call) -> Answer:
        """Simple, multipart, or the beginning of a resumable upload."""
        self._may("storage.objects.create")
        bucket, kind = call.parts["bucket"], call.query.get("uploadType", "media")
        self.store.bucket(bucket)
        wanted = conditions_of(call.query)
        if kind == "resumable" and "upload_id" not in call.query:
            return self._begin(call, bucket, wanted)
        if kind == "resumable":
            return self.resume(call)
        place = self.store.spool()
        if kind == "multipart":
            fields, data = _multipart(call)
            place.write_bytes(data)
        else:
            fields = {"contentType": call.headers.get("content-type")}
            with place.open("wb") as stream:
                stream.writelines(call.pieces())
        name = call.query.get("name") or str(fields.get("name") or "")
        stored = self.store.put(bucket, name, place, fields, conditions=wanted, digests=_told(call))
        return Answer(object_body(stored, call.base))

    def _begin(self, call: Call, bucket: str, wanted: Conditions) -> Answer:
        fields = call.json()
        name = call.query.get("name") or str(fields.get("name") or "")
        fields.setdefault("contentType", call.headers.get("x-upload-content-type"))
        key = secrets.token_hex(16)
        place = self.store.spool()
        place.touch()
        self.uploads[key] = _Upload(bucket, name, fields, wanted, place)
        location = f"{call.base}{call.path}?uploadType=resumable&upload_id={key}"
        return Answer({}, headers={"Location": location, "X-GUploader-UploadID": key})

    def resume(self, call: Call) -> Answer:
        """The next chunk, or the question how far it came. Answers 308 until the last byte is here."""
        upload = self.uploads.get(call.query.get("upload_id", ""))
        if upload is None:
            raise ApiError("NOT_FOUND", "The upload session was not found.", "notFound")
        if upload.done is not None:
            return Answer(object_body(upload.done, call.base))
        told = call.headers.get("content-range", "")
        spans = _CONTENT_RANGE.fullmatch(told)
        if told and spans is None:
            raise ApiError("INVALID_ARGUMENT", f"Failed to parse Content-Range header: {told}", "invalid")
        first = int(spans[1]) if spans and spans[1] else None if told else 0
        if first is not None:
            self._append(upload, call, first, last=spans is None or spans[3] != "*")
        total = upload.size if not told else int(spans[3]) if spans and spans[3] != "*" else None
        if total is None or upload.size < total:
            return Answer(status=308, headers={"Range": f"bytes=0-{upload.size - 1}"} if upload.size else {})
        upload.done = self.store.put(
            upload.bucket, upload.name, upload.place, upload.fields, conditions=upload.conditions, digests=_told(call)
        )
        return Answer(object_body(upload.done, call.base))

    def _append(self, upload: _Upload, call: Call, first: int, *, last: bool) -> None:
        if first > upload.size:
            raise ApiError("UNAVAILABLE", f"Expected the upload to go on at byte {upload.size}, it went on at {first}.")
        before = upload.size
        with upload.place.open("r+b") as stream:
            stream.seek(first)
            try:
                for piece in call.pieces():
                    stream.write(piece)
            finally:
                upload.size = max(before, stream.tell() // _QUANTUM * _QUANTUM if not last else stream.tell())

    def abandon(self, call: Call) -> Answer:
        upload = self.uploads.pop(call.query.get("upload_id", ""), None)
        if upload is not None:
            upload.place.unlink(missing_ok=True)
        return Answer(status=499)

    def _may(self, permission: str) -> None:
        if permission in self.scene.denied:
            what = permission.rsplit(".", 1)[0].rpartition(".")[2].removesuffix("s")
            text = f"{self.scene.user} does not have {permission} access to the Google Cloud Storage {what}. "
            raise ApiError("PERMISSION_DENIED", f"{text}Permission '{permission}' denied on resource (or it may not exist).", "forbidden")


def _route(method: str, template: str, operation: str, action: Any) -> Route:
    return route(method, template, operation, action, problem)


def problem(error: ApiError) -> Answer:
    """Cloud Storage's own shape of an error: a list of reasons, and no status word."""
    reason = error.reason if error.reason and error.reason[0].islower() else _REASONS.get(error.http, "backendError")
    one = {"message": error.message, "domain": "global", "reason": reason}
    return Answer({"error": {"code": error.http, "message": error.message, "errors": [one]}}, error.http)


def conditions_of(query: Mapping[str, str]) -> Conditions:
    """The preconditions among a request's parameters."""

    def number(name: str) -> int | None:
        return int(query[name]) if query.get(name) else None

    return Conditions(number("ifGenerationMatch"), number("ifGenerationNotMatch"), number("ifMetagenerationMatch"))


def _told(call: Call) -> dict[str, str]:
    """Checksums that came in the header ``X-Goog-Hash``."""
    pairs = [part.strip().partition("=") for part in call.headers.get("x-goog-hash", "").split(",") if "=" in part]
    names = {"crc32c": "crc32c", "md5": "md5Hash"}
    return {names[name]: value for name, _, value in pairs if name in names}


def _multipart(call: Call) -> tuple[dict[str, Any], bytes]:
    """A multipart/related body: JSON first, then the bytes."""
    found = re.search(r'boundary="?([^";]+)"?', call.headers.get("content-type", ""))
    if found is None:
        raise ApiError("INVALID_ARGUMENT", "Multipart body has no boundary.", "invalid")
    mark = b"--" + found[1].encode()
    body = call.read()
    _, first, rest = body.split(mark, 2)
    data = rest[: rest.rindex(b"\r\n" + mark)]
    head, _, payload = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    fields: dict[str, Any] = json.loads(first.partition(b"\r\n\r\n")[2])
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", head)
    if kind:
        fields.setdefault("contentType", kind[1].decode())
    return fields, payload


def _unmark(token: str) -> str:
    try:
        return bytes.fromhex(token).decode()
    except ValueError:
        raise ApiError("INVALID_ARGUMENT", "Invalid value for pageToken.", "invalid") from None


def media(found: Stored, wanted: str) -> Answer:
    """The bytes of an object, or the range of them that the header asks for."""
    headers = {
        "Content-Type": str(found.fields.get("contentType") or "application/octet-stream"),
        "X-Goog-Hash": f"crc32c={found.crc32c},md5={found.md5}",
        "X-Goog-Generation": str(found.generation),
        "X-Goog-Stored-Content-Length": str(found.size),
        "ETag": f'"{found.md5}"',
    }
    spans = _RANGE.fullmatch(wanted)
    if spans is None or (not spans[1] and not spans[2]):
        return Answer(found.pieces(), 200, headers, found.size)
    start = int(spans[1]) if spans[1] else max(0, found.size - int(spans[2]))
    end = min(found.size, int(spans[2]) + 1) if spans[1] and spans[2] else found.size
    if start >= found.size:
        return Answer({}, 416, {"Content-Range": f"bytes */{found.size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    pieces: Iterator[bytes] = found.pieces(start, end)
    return Answer(pieces, 206, headers, end - start)


def bucket_body(bucket: Bucket, scene: Scene) -> dict[str, Any]:
    """A bucket as JSON; one location with a digit is a region."""
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "projectNumber": str(scene.number),
        "location": bucket.location,
        "locationType": "region" if any(letter.isdigit() for letter in bucket.location) else "multi-region",
        "storageClass": "STANDARD",
        "timeCreated": _time(bucket.created),
        "updated": _time(bucket.created),
        "metageneration": str(bucket.metageneration),
        "etag": "CAE=",
        **bucket.fields,
    }


def object_body(stored: Stored, base: str) -> dict[str, Any]:
    """An object's metadata as JSON."""
    from urllib.parse import quote

    place = f"b/{stored.bucket}/o/{quote(stored.name, safe='')}"
    return {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": f"{base}/storage/v1/{place}",
        "mediaLink": f"{base}/download/storage/v1/{place}?generation={stored.generation}&alt=media",
        "name": stored.name,
        "bucket": stored.bucket,
        "generation": str(stored.generation),
        "metageneration": str(stored.metageneration),
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "size": str(stored.size),
        "md5Hash": stored.md5,
        "crc32c": stored.crc32c,
        "etag": stored.md5,
        "timeCreated": _time(stored.created),
        "updated": _time(stored.updated),
        **stored.fields,
    }


def _time(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
