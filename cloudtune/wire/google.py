"""A login at Google Cloud: application default credentials, one HTTP session, and the libraries' errors as plain facts.

Google's libraries are imported when the first call is made. Their own retries are switched off: several of them go on for
two minutes against an address that nobody listens at. ``patiently`` tries again instead, with a deadline for each try.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cloudtune import __version__
from cloudtune.errors import AuthError, CloudtuneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT: Final = (5.0, 30.0)
"""Seconds to connect and to the next byte."""
WAITS: Final = (0.3, 1.0, 3.0)
LOGIN: Final = "LOGIN"
CORRUPT: Final = "CORRUPT"
LOGIN_HINT: Final = "log in again (gcloud auth application-default login) and run the command again; a job that was started goes on"
_NAMES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED",
    409: "ABORTED", 412: "FAILED_PRECONDITION", 416: "OUT_OF_RANGE", 429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL",
    501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Facts:
    """What an error says: gRPC's name of it (or LOGIN, CORRUPT), its sentence, and the HTTP status (0: none)."""

    name: str
    message: str
    status: int = 0


def google_errors() -> tuple[type[Exception], ...]:
    """What an ``except`` around a call must name: everything that Google's libraries raise for a call that did not work."""
    import google.api_core.exceptions
    import google.auth.exceptions
    import google.cloud.storage.exceptions
    import requests

    return (
        google.api_core.exceptions.GoogleAPIError,
        google.auth.exceptions.GoogleAuthError,
        google.cloud.storage.exceptions.InvalidResponse,
        google.cloud.storage.exceptions.DataCorruption,
        requests.RequestException,
        OSError,
    )


def facts_of(error: BaseException) -> Facts:
    """The facts of an exception of Google's libraries. What has no code of its own counts as no answer."""
    import google.api_core.exceptions as api
    import google.auth.exceptions as auth
    import requests
    from google.cloud.storage.exceptions import DataCorruption

    said = str(getattr(error, "message", "") or error)
    if isinstance(error, api.RetryError) and error.cause is not None:
        return facts_of(error.cause)
    if isinstance(error, api.GoogleAPICallError):
        return Facts(_name_of(error), said, int(error.code or 0))
    if isinstance(error, auth.GoogleAuthError):
        return Facts("UNAVAILABLE" if isinstance(error, auth.TransportError) else LOGIN, said)
    if isinstance(error, DataCorruption):
        return Facts(CORRUPT, said)
    return Facts("DEADLINE_EXCEEDED" if isinstance(error, requests.Timeout | TimeoutError) else "UNAVAILABLE", said)


def _name_of(error: Any) -> str:
    """gRPC's own name; over HTTP the one in the body, which tells apart what one status stands for."""
    if error.grpc_status_code is not None and error.response is None:
        return str(error.grpc_status_code.name)
    try:
        status = error.response.json()["error"]["status"]
    except (AttributeError, ValueError, KeyError, TypeError):
        status = None
    return str(status or _NAMES.get(int(error.code or 0), "UNAVAILABLE"))


class Login:
    """Application default credentials, or none at all for a stand-in. May be used by several threads."""

    def __init__(self, *, standin: bool = False) -> None:
        self._standin = standin or bool(os.environ.get("STORAGE_EMULATOR_HOST"))
        self._lock = threading.RLock()
        self._credentials: Any = None
        self._session: Any = None

    @property
    def credentials(self) -> Any:
        """The credentials, looked for once. Raises AuthError when there are none, UsageError without Google's libraries."""
        with self._lock:
            if self._credentials is None:
                self._credentials = self._found()
            return self._credentials

    @property
    def session(self) -> Any:
        """A requests session that logs in by itself."""
        with self._lock:
            if self._session is None:
                self._session = self._opened()
            return self._session

    def token(self) -> str:
        """A fresh access token, as Artifact Registry takes it for a password. Raises AuthError."""
        credentials = self.credentials
        if self._standin:
            return "standin"
        import google.auth.exceptions
        from google.auth.transport.requests import Request

        try:
            credentials.refresh(Request())
        except google.auth.exceptions.GoogleAuthError as error:
            raise no_login(str(error)) from error
        return str(credentials.token)

    def renew(self) -> None:
        """Forget everything: the next call logs in with what is on the disk then."""
        with self._lock:
            self._credentials = self._session = None

    def _found(self) -> Any:
        try:
            import google.auth.exceptions
            from google.auth.credentials import AnonymousCredentials
        except ModuleNotFoundError as error:
            raise extra_missing(error) from error
        if self._standin:
            return AnonymousCredentials()
        try:
            return google.auth.default(scopes=[SCOPE])[0]
        except google.auth.exceptions.GoogleAuthError as error:
            raise no_login(str(error)) from error

    def _opened(self) -> Any:
        credentials = self.credentials
        import requests
        from google.auth.transport.requests import AuthorizedSession

        session = requests.Session() if self._standin else AuthorizedSession(credentials)
        session.headers["User-Agent"] = f"cloudtune/{__version__}"
        return session


def extra_missing(error: ModuleNotFoundError) -> UsageError:
    """The sentence for a machine without Google's libraries."""
    return UsageError(
        f"the provider gcp needs the Python package {error.name}", code="extra-missing", hint="run: pip install 'cloudtune[gcp]'"
    )


def no_login(said: str) -> AuthError:
    """The sentence for a login that is missing or dead."""
    what = " ".join(said.split())[:300]
    return AuthError(f"the login to Google Cloud has expired or is missing: {what}", code="login", hint=LOGIN_HINT)


def ask(login: Login, method: str, url: str, *, body: Any = None, query: Mapping[str, str] | None = None) -> dict[str, Any]:
    """One JSON call. Raises what ``google_errors`` names."""
    import google.api_core.exceptions

    answer = login.session.request(method, url, json=body, params=query, timeout=TIMEOUT)
    if not answer.ok:
        raise google.api_core.exceptions.from_http_response(answer)
    found: dict[str, Any] = answer.json() if answer.content else {}
    return found


def patiently(call: Callable[[], _Answer], sleep: Callable[[float], None], waits: tuple[float, ...] = WAITS) -> _Answer:
    """The answer of ``call``, asked again after ``waits`` while its error is worth another try."""
    for wait in waits:
        try:
            return call()
        except CloudtuneError as error:
            if not error.retryable:
                raise
            sleep(wait)
    return call()
