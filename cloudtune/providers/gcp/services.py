"""Google's other services over plain REST: Cloud Logging, Artifact Registry, Cloud Build, rights, quotas. Each call has a deadline.

A stand-in serves them all at one address: that of ``gcp_endpoint``, or beside it where that speaks gRPC.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cloudtune.errors import CloudtuneError
from cloudtune.providers.gcp.tables import error_from
from cloudtune.wire.google import LOGIN, Login, ask, facts_of, google_errors, no_login, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Services:
    """One login's way to Google's REST services. Raises CloudtuneError in our words."""

    def __init__(self, login: Login, endpoint: str | None, sleep: Callable[[float], None]) -> None:
        self.login = login
        self._endpoint = endpoint
        self._sleep = sleep

    def url(self, host: str) -> str:
        """``logging`` → https://logging.googleapis.com, or the stand-in's address."""
        if not self._endpoint:
            return f"https://{host}.googleapis.com"
        beside = os.environ.get("STORAGE_EMULATOR_HOST", "")
        return (self._endpoint if self._endpoint.startswith("http") else beside).rstrip("/")

    def get(self, host: str, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One GET, tried again while that is worth it."""
        return patiently(lambda: self._once("GET", host, path, None, query), self._sleep)

    def post(self, host: str, path: str, body: Any, *, again: bool = True, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One POST; ``again``: it changes nothing, or the same twice is the same once."""

        def call() -> dict[str, Any]:
            return self._once("POST", host, path, body, query)

        return patiently(call, self._sleep) if again else call()

    def _once(self, method: str, host: str, path: str, body: Any, query: Mapping[str, str] | None) -> dict[str, Any]:
        self.login.credentials  # noqa: B018 - raises our errors for a missing library or login before google_errors() needs them
        try:
            return ask(self.login, method, f"{self.url(host)}{path}", body=body, query=query)
        except CloudtuneError:
            raise
        except google_errors() as error:
            facts = facts_of(error)
            ours = no_login(facts.message) if facts.name == LOGIN else error_from(facts.name, facts.message, where=f"{host}{path}")
            if ours.code in ("login", "auth"):
                self.login.renew()
            raise ours from error
