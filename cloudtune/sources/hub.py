"""A model's config.json and commit from the hub, over plain HTTPS with a deadline. Knows nothing of models.

Standard library only: the launcher must start fast and must plan without huggingface_hub. ``HF_ENDPOINT``,
``HF_HUB_OFFLINE`` and ``HF_TOKEN`` mean what they mean there. The token goes to the endpoint alone: never to a host
that a redirect names, never into a message. What was read is kept by (id, revision); a full commit hash is never
asked for twice, a branch is asked again and falls back to the copy when the hub is out of reach.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any

from cloudtune.clock import Clock, SystemClock
from cloudtune.errors import SourceError
from cloudtune.models.registry import LARGEST_CONFIG_BYTES, parse_config

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 10.0
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9._-]{1,96})?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True)
class HubConfig:
    """A config.json as the hub gave it."""

    id: str
    revision: str
    """As asked for: a branch, tag or commit."""
    commit: str
    """The commit that it stood for, 40 hexadecimal digits."""
    config: Mapping[str, Any]
    fetched: str
    """ISO date and time, UTC."""
    from_cache: bool = False


def fetch_config(base: str, revision: str = "main", *, cache_dir: Path | None = None) -> dict[str, Any]:
    """The config.json of ``base`` at ``revision``. Raises SourceError."""
    return dict(fetch(base, revision, cache_dir=cache_dir).config)


def resolve_commit(base: str, revision: str = "main", *, cache_dir: Path | None = None) -> str:
    """The commit that ``revision`` stands for; the last known one when the hub is out of reach. Raises SourceError."""
    return revision if _COMMIT.match(revision) else fetch(base, revision, cache_dir=cache_dir).commit


def fetch(
    base: str,
    revision: str = "main",
    *,
    cache_dir: Path | None = None,
    environ: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_SECONDS,
    clock: Clock | None = None,
) -> HubConfig:
    """Config and commit of ``base`` at ``revision``; ``timeout`` in seconds for each of the two requests.

    Raises SourceError: ``hub-offline`` (no answer, switched off), ``hub-gated`` and ``hub-not-found`` are the codes a
    caller may want to tell apart.
    """
    _check_names(base, revision)
    kept = _read_cache(base, revision, cache_dir)
    if kept is not None and kept.commit == revision:
        return kept
    hub = _Hub(environ if environ is not None else os.environ, timeout, clock or SystemClock())
    try:
        fresh = hub.fetch(base, revision)
    except SourceError as error:
        if kept is not None and error.code == "hub-offline":
            return kept
        raise
    _write_cache(fresh, cache_dir)
    return fresh


class _KeepTokenHome(urllib.request.HTTPRedirectHandler):
    """Follows redirects over http(s), but the token does not travel to another host or to a plain connection."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        there = urllib.parse.urlsplit(newurl)
        if there.scheme not in ("http", "https"):
            fp.close()
            raise urllib.error.URLError(f"redirected to {there.scheme}://")
        follow = super().redirect_request(req, fp, code, msg, headers, newurl)
        if follow is not None and there[:2] != urllib.parse.urlsplit(req.full_url)[:2]:
            follow.remove_header("Authorization")
        return follow


class _Hub:
    """One endpoint with its token and deadline."""

    def __init__(self, environ: Mapping[str, str], timeout: float, clock: Clock) -> None:
        self.endpoint = (environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        self.token = (environ.get("HF_TOKEN") or "").strip()
        self.switched_off = environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
        self.timeout, self.clock = timeout, clock
        if urllib.parse.urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise SourceError(
                f"HF_ENDPOINT is not an http(s) address: {self.endpoint}", hint=f"such as {DEFAULT_ENDPOINT}", code="hub-endpoint"
            )

    def fetch(self, base: str, revision: str) -> HubConfig:
        """Two requests: the commit, then the file at exactly that commit."""
        if self.switched_off:
            raise SourceError(f"HF_HUB_OFFLINE is set, {base} was not asked for", hint="unset it to look the model up", code="hub-offline")
        named = urllib.parse.quote(revision, safe="")
        about = parse_config(self._get(f"/api/models/{base}/revision/{named}", base, revision), where=self.endpoint)
        commit = about.get("sha")
        if not isinstance(commit, str) or not _COMMIT.match(commit):
            raise SourceError(f"the answer names no commit for {base}", where=self.endpoint, hint=_NOT_A_HUB, code="hub-answer")
        url = f"/{base}/resolve/{commit}/config.json"
        config = parse_config(self._get(url, base, revision), where=f"{self.endpoint}{url}")
        return HubConfig(base, revision, commit, config, self.clock.now().isoformat(timespec="seconds"))

    def _get(self, path: str, base: str, revision: str) -> bytes:
        headers = {"User-Agent": "cloudtune", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # The scheme is http(s): __init__ checked the endpoint and _KeepTokenHome checks redirects.
        request = urllib.request.Request(self.endpoint + path, headers=headers)  # noqa: S310
        try:
            with urllib.request.build_opener(_KeepTokenHome).open(request, timeout=self.timeout) as reply:
                return self._read(reply)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, base, revision) from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            text = f"{self.endpoint} cannot be reached"
            raise SourceError(text, where=base, hint=f"{type(error).__name__}: {reason}"[:200], code="hub-offline") from error

    def _read(self, reply: IO[bytes]) -> bytes:
        """The body, bounded in size and in time (a socket's timeout alone lets a slow sender go on for ever)."""
        end, body = self.clock.monotonic() + self.timeout, b""
        while chunk := reply.read1(65536):  # type: ignore[attr-defined]
            body += chunk
            if len(body) > LARGEST_CONFIG_BYTES:
                break  # parse_config says that it is too large
            if self.clock.monotonic() > end:
                raise TimeoutError(f"the answer took longer than {self.timeout:g} s")
        return body

    def _refusal(self, error: urllib.error.HTTPError, base: str, revision: str) -> SourceError:
        """What an HTTP status means here. Only the status and the hub's own error code are used, never the body."""
        reason, status = error.headers.get("X-Error-Code", ""), error.code
        if reason == "GatedRepo" or (status == 403 and reason != "RepoNotFound"):
            hint = f"accept its terms at {self.endpoint}/{base}, then set HF_TOKEN to a token of that account"
            if self.token:
                hint = f"the account behind HF_TOKEN has no access: accept the terms at {self.endpoint}/{base}"
            return SourceError(f"{base} is gated", where=self.endpoint, hint=hint, code="hub-gated")
        if reason == "EntryNotFound":
            return SourceError(f"{base} has no config.json at {revision}", where=self.endpoint, hint=_NO_CONFIG, code="hub-not-found")
        if reason == "RevisionNotFound":
            return SourceError(f"{base} has no revision {revision}", where=self.endpoint, hint="see model.revision", code="hub-not-found")
        if status == 401 and self.token and not reason:
            return SourceError("HF_TOKEN is not accepted", where=self.endpoint, hint="is it expired or revoked?", code="hub-token")
        if status in (401, 404):
            private = "the account behind HF_TOKEN cannot see it" if self.token else "if it is private, set HF_TOKEN"
            hint = f"check the spelling; {private}"
            return SourceError(f"{base} is not on the hub", where=self.endpoint, hint=hint, code="hub-not-found")
        if status == 429:
            hint = "wait a few minutes; with HF_TOKEN set the limit is higher"
            return SourceError("the hub asks for patience", where=self.endpoint, hint=hint, code="hub-offline")
        return SourceError(f"the hub answered with status {status} for {base}", where=self.endpoint, hint="try again", code="hub-offline")


_NOT_A_HUB = "is HF_ENDPOINT the address of a model hub?"
_NO_CONFIG = "a repository of GGUF files or of adapters has none; name the original model"


def _check_names(base: str, revision: str) -> None:
    if not _ID.match(base) or ".." in base or "--" in base:
        hint = "an id looks like Qwen/Qwen3-8B; a local folder starts with ./"
        raise SourceError(f"{base[:120]!r} is not a model id", hint=hint, code="bad-model-id")
    if not revision or len(revision) > 200 or not revision.isprintable():
        raise SourceError("the revision is not a branch, tag or commit", where=base, code="bad-model-id")


def _cache_file(base: str, revision: str, cache_dir: Path) -> Path:
    return cache_dir / "hub" / base.replace("/", "--") / f"{urllib.parse.quote(revision, safe='')}.json"


def _read_cache(base: str, revision: str, cache_dir: Path | None) -> HubConfig | None:
    """The kept copy; None when there is none or it is damaged (then it is fetched again)."""
    if cache_dir is None:
        return None
    try:
        value = json.loads(_cache_file(base, revision, cache_dir).read_bytes())
        same = value["id"] == base and value["revision"] == revision and isinstance(value["config"], dict)
        kept = HubConfig(base, revision, str(value["commit"]), value["config"], str(value["fetched"]), from_cache=True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return kept if same and _COMMIT.match(kept.commit) else None


def _write_cache(fresh: HubConfig, cache_dir: Path | None) -> None:
    """Keep a copy, whole or not at all. A cache that cannot be written costs time later, nothing else."""
    if cache_dir is None:
        return
    file = _cache_file(fresh.id, fresh.revision, cache_dir)
    value = {"id": fresh.id, "revision": fresh.revision, "commit": fresh.commit, "fetched": fresh.fetched, "config": fresh.config}
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value), "utf-8")
        part.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
