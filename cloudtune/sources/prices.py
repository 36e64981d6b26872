"""Prices over HTTP: a stream with a deadline per read and patience for 429, shared by the clouds' price lists. Standard library only."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import IO

from cloudtune.clock import Clock
from cloudtune.errors import SourceError

TIMEOUT_SECONDS = 30.0
TRIES = 4
LONGEST_WAIT_SECONDS = 60.0
_BUSY = (429, 500, 502, 503, 504)


@contextmanager
def opened(url: str, clock: Clock, headers: Mapping[str, str] | None = None) -> Iterator[IO[bytes]]:
    """The body behind ``url``, to be read in pieces. Waits and asks again when the server is busy. Raises SourceError."""
    reply = _ask(url, clock, headers or {})
    try:
        with reply:
            yield reply
    except (OSError, HTTPException) as error:
        raise SourceError("the price list broke off", where=shown(url), hint="try again; the old prices stay in place") from error


def _ask(url: str, clock: Clock, headers: Mapping[str, str]) -> IO[bytes]:
    if not url.startswith(("http://", "https://")):
        raise SourceError("a price list is read over http(s)", where=shown(url))
    request = urllib.request.Request(url, headers={"User-Agent": "cloudtune", **headers})  # noqa: S310 - checked above
    for attempt in range(1, TRIES + 1):
        try:
            reply: IO[bytes] = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310 - checked above
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _BUSY or attempt == TRIES:
                raise _refused(url, error.code) from error
            clock.sleep(_wait(error, attempt))
        except (OSError, HTTPException) as error:
            raise SourceError("the price list is out of reach", where=shown(url), hint="the old prices stay in place") from error
        else:
            return reply
    raise AssertionError("the loop returns or raises")


def _wait(error: urllib.error.HTTPError, attempt: int) -> float:
    asked = error.headers.get("Retry-After", "")
    return min(LONGEST_WAIT_SECONDS, float(asked) if asked.isdigit() else 2.0**attempt)


def _refused(url: str, status: int) -> SourceError:
    if status in (401, 403):
        return SourceError(
            f"the price list wants a login (HTTP {status})",
            where=shown(url),
            hint="set GOOGLE_API_KEY to an API key that may read the Cloud Billing catalog",
            code="prices-login",
        )
    if status == 429:
        return SourceError("too many questions (HTTP 429)", where=shown(url), hint="try again later; the old prices stay in place")
    return SourceError(f"the price list answers with HTTP {status}", where=shown(url), hint="the old prices stay in place")


def shown(url: str) -> str:
    """A URL without its query, which may hold a key."""
    return url.partition("?")[0]
