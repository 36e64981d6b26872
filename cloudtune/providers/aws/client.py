"""Logins at AWS by region, and SageMaker's errors as ours. Every call of this provider goes through ``asking``.

Which regions this home ever started a job in is kept as empty files in ``<home>/aws/regions``, written before the call
that starts it: after a crash, and without a setting, that is where a launch is looked for.
"""

from __future__ import annotations

import re
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from cloudtune.errors import AuthError, CloudtuneError, ProviderError, RejectedError, ThrottledError, UnavailableError, UsageError
from cloudtune.providers.aws.tables import ERRORS, error_from
from cloudtune.wire.aws import (
    BAD_CALL,
    LOGIN_EXPIRED,
    NO_ANSWER,
    NO_LOGIN,
    NO_REGION,
    Facts,
    Login,
    translating,
)

if TYPE_CHECKING:
    from pathlib import Path

REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+){1,3}-\d{1,2}")
_WAIT = "it is tried again by itself; the job does not need this machine"
_SPECIAL: Final = frozenset({"ResourceLimitExceeded"})


def asking(login: Login, where: str) -> AbstractContextManager[None]:
    """Translates what a call of a service raises."""
    return translating(login, where, error_of)


def error_of(facts: Facts, where: str) -> CloudtuneError:
    """Our error for the facts of one of botocore's."""
    said = facts.message[:300]
    if facts.code in (LOGIN_EXPIRED, NO_LOGIN):
        what = "the AWS login has expired" if facts.code == LOGIN_EXPIRED else "there is no AWS login"
        return AuthError(
            f"{what}: {said}", where=where, code="login", hint="log in (aws sso login, aws configure, or keys) and run it again"
        )
    if facts.code == NO_REGION:
        return UsageError("no AWS region is set", code="setting-missing", hint="export CLOUDTUNE_AWS_REGION=us-east-1, or another")
    if facts.code == BAD_CALL:
        return RejectedError(said, where=where, code="bad-call", hint="this is a fault of cloudtune: please report it")
    if facts.code == NO_ANSWER:
        return UnavailableError(f"AWS gave no answer: {said}", where=where, hint=f"check the network; {_WAIT}")
    if facts.code in ERRORS or facts.code in _SPECIAL or facts.status < 429:
        return error_from(facts.code, facts.message, where=where)
    make = ThrottledError if facts.status == 429 else UnavailableError
    return make(f"AWS answers {facts.status} {facts.code}: {said}", where=where, hint=_WAIT)


class Regions:
    """The logins of one profile, a region each, and the regions where jobs of this home can be."""

    def __init__(self, home: Path, profile: str | None = None, preferred: str | None = None) -> None:
        self._folder = home / "aws" / "regions"
        self._profile = profile
        self._preferred = preferred
        self._logins: dict[str, Login] = {}
        self._lock = threading.Lock()

    def login(self, region: str) -> Login:
        """The login for ``region``, made once."""
        with self._lock:
            return self._logins.setdefault(region, Login(self._profile, region))

    def default(self) -> str | None:
        """The region of the settings, else of the profile or the environment."""
        if self._preferred:
            return self._preferred
        anywhere = Login(self._profile)
        with asking(anywhere, "the AWS login"):
            return anywhere.region

    def record(self, region: str) -> None:
        """Remember that a job may be in ``region``. Raises ProviderError when it cannot be written down."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / region).touch()
        except OSError as error:
            raise ProviderError(
                f"cloudtune's home cannot be written: {error.strerror}",
                where=str(self._folder),
                hint="set CLOUDTUNE_HOME to another folder",
            ) from error

    def known(self) -> tuple[str, ...]:
        """Every region to look in: the default one and those recorded, each once."""
        recorded = sorted(path.name for path in self._folder.glob("*") if REGION.fullmatch(path.name))
        default = self.default()
        return tuple(dict.fromkeys([*([default] if default else []), *recorded]))
