"""A login at AWS: one boto3 session for a profile and region, its clients, and botocore's errors as plain facts.

Every client has timeouts and a number of attempts, so every call has a deadline. A session whose login has expired is
thrown away (``renew``): a cached client would keep the old credentials after the user has logged in again. boto3 is
imported when the first client is made. Nothing here is retried beyond what botocore does by itself.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from cloudtune import __version__
from cloudtune.errors import CloudtuneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a call may take: ``attempts`` in all (botocore waits between them), seconds to connect and to the answer."""

    attempts: int
    connect_seconds: float
    read_seconds: float
    connections: int = 10


POLL: Final = Pace(8, 5, 20)
CREATE: Final = Pace(4, 5, 20)
"""Few attempts, all over within two minutes: an answer that was lost is looked up by name, which is surer than trying on."""
TRANSFER: Final = Pace(8, 10, 60, connections=16)
CURIOUS: Final = Pace(2, 5, 10)
"""For questions whose answer is only nice to have."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an error of botocore says: the service's code (or one of ours, below), its sentence and the HTTP status (0: no answer)."""

    code: str
    message: str
    status: int = 0


NO_LOGIN: Final = "NoLogin"
LOGIN_EXPIRED: Final = "LoginExpired"
NO_ANSWER: Final = "NoAnswer"
NO_REGION: Final = "NoRegion"
BAD_CALL: Final = "BadCall"

EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", LOGIN_EXPIRED})
"""Codes that mean: the same call works again after a new login."""

# botocore's own exceptions, by the name of their class: importing them at the top would load botocore with every command.
_OWN: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError", "LoginRefreshRequired", "LoginTokenLoadError",
            "CredentialRetrievalError", "RefreshWithMFAUnsupportedError", "SSOError", "LoginError",
        ),
        LOGIN_EXPIRED,
    ),
    **dict.fromkeys(
        ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoAuthTokenError", "InvalidConfigError"),
        NO_LOGIN,
    ),
    **dict.fromkeys(("NoRegionError", "InvalidRegionError"), NO_REGION),
    **dict.fromkeys(("ParamValidationError", "UnknownParameterError"), BAD_CALL),
}  # fmt: skip


def facts_of(error: BaseException) -> Facts:
    """The facts of a botocore (or boto3, or urllib3) exception. What has no code of its own counts as no answer."""
    response = getattr(error, "response", None)
    said = " ".join(str(error).split())
    if isinstance(response, dict) and isinstance(response.get("Error"), dict):
        inner = response["Error"]
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
        return Facts(str(inner.get("Code") or status or NO_ANSWER), str(inner.get("Message") or said), status)
    code = next((_OWN[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _OWN), NO_ANSWER)
    return Facts(code, said)


def aws_errors() -> tuple[type[Exception], ...]:
    """What an ``except`` around a call must name: everything that botocore and boto3 raise for a call that did not work."""
    import boto3.exceptions
    import botocore.exceptions
    import botocore.parsers
    import urllib3.exceptions

    return (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        botocore.parsers.ResponseParserError,
        boto3.exceptions.Boto3Error,
        urllib3.exceptions.HTTPError,
        OSError,
    )


class Login:
    """One profile (None: whatever the environment gives) and its clients. May be used by several threads."""

    def __init__(self, profile: str | None = None, region: str | None = None) -> None:
        self.profile = profile
        self._region = region
        self._lock = threading.RLock()
        self._session: Any = None
        self._clients: dict[tuple[str, str | None, Pace], Any] = {}

    def client(self, service: str, *, pace: Pace = POLL, region: str | None = None) -> Any:
        """A client of ``service``, made once for each pace and region. Raises what ``aws_errors`` names."""
        key = (service, region or self._region, pace)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._opened().client(service, region_name=key[1], config=_config(pace))
            return self._clients[key]

    @property
    def region(self) -> str | None:
        """The region asked for, else the profile's or the environment's; None when there is none."""
        with self._lock:
            return self._region or self._opened().region_name

    def at(self, region: str) -> Login:
        """The same profile at another region, with a session of its own."""
        return Login(self.profile, region)

    def renew(self) -> None:
        """Forget session and clients: the next call logs in with what is on the disk then."""
        with self._lock:
            self._session = None
            self._clients.clear()

    def _opened(self) -> Any:
        if self._session is None:
            import boto3

            self._session = boto3.session.Session(profile_name=self.profile, region_name=self._region)
        return self._session


def _config(pace: Pace) -> Any:
    from botocore.config import Config

    return Config(
        retries={"mode": "standard", "total_max_attempts": pace.attempts},
        connect_timeout=pace.connect_seconds,
        read_timeout=pace.read_seconds,
        max_pool_connections=pace.connections,
        tcp_keepalive=True,
        user_agent_extra=f"cloudtune/{__version__}",
    )


def patient(pace: Pace, connections: int) -> Pace:
    """The pace with room for so many calls at once."""
    return replace(pace, connections=max(pace.connections, connections))


def server_time(answer: Mapping[str, Any]) -> datetime | None:
    """The service's own clock, from an answer's Date header: ours may be wrong. None when it says nothing."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(text) if text else None
    except (TypeError, ValueError):
        return None


@contextmanager
def translating(login: Login, where: str, make: Callable[[Facts, str], CloudtuneError]) -> Iterator[None]:
    """Raises what ``make`` says of the facts of a failed call, and forgets a login that has expired: the next call takes the new one."""
    try:
        yield
    except CloudtuneError:
        raise
    except aws_errors() as error:
        facts = facts_of(error)
        if facts.code in EXPIRED:
            login.renew()
        raise make(facts, where) from error
