"""Vertex AI's JobService through Google's own client: each call with a deadline, a create never repeated, answers as plain values.

Over gRPC to Google; over plain gRPC or HTTP where ``endpoint`` names a stand-in. Google's library is imported with the first
call (about 2 s), never when a place is connected.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import CloudtuneError, ThrottledError
from cloudtune.providers.gcp.tables import error_from
from cloudtune.wire.google import LOGIN, WAITS, Login, extra_missing, facts_of, google_errors, no_login, patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

CALL_SECONDS: Final = 20.0
CREATE_SECONDS: Final = 60.0
PAGE: Final = 100
_DEAD: Final = ("login", "auth")


@dataclass(frozen=True, slots=True)
class Seen:
    """One custom job as the service shows it. ``state`` is a number, because a newer service has newer ones; times are UTC."""

    name: str
    state: int
    labels: Mapping[str, str]
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    updated: datetime | None = None
    code: int = 0
    text: str = ""
    base: str = ""
    """The job's base output folder, gs://..."""
    timeout_seconds: float = 0.0
    spot: bool = field(default=False)

    @property
    def key(self) -> str:
        """The number at the end of the name, which the job knows as CLOUD_ML_JOB_ID."""
        return self.name.rpartition("/")[2]


class Vertex:
    """The JobService of one region. May be used by several threads."""

    def __init__(
        self, region: str, login: Login, endpoint: str | None, sleep: Callable[[float], None], *, call_seconds: float = CALL_SECONDS
    ) -> None:
        self._region = region
        self._login = login
        self._endpoint = endpoint
        self._sleep = sleep
        self._seconds = call_seconds
        self._lock = threading.Lock()
        self._client: Any = None

    def create(self, body: Mapping[str, Any]) -> Seen:
        """CreateCustomJob, sent once. Only a refusal for too many calls, which made nothing, is followed by another try.

        Raises UnavailableError when nobody can say whether it arrived.
        """
        for wait in (*WAITS, None):
            try:
                return self._create(body)
            except ThrottledError:
                if wait is None:
                    raise
                self._sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _create(self, body: Mapping[str, Any]) -> Seen:
        client = self._opened()
        from google.cloud.aiplatform_v1.types import CustomJob

        job = CustomJob.from_json(json.dumps(body["customJob"]))
        with self._asking("creating the job"):
            made = client.create_custom_job(
                parent=body["parent"], custom_job=job, retry=None, timeout=min(CREATE_SECONDS, 3 * self._seconds)
            )
            return _seen(made)

    def jobs(self, parent: str, wanted: str) -> list[Seen]:
        """Every job that the filter ``wanted`` lets through, newest first, over all pages."""

        def page(token: str) -> tuple[list[Seen], str]:
            client = self._opened()
            from google.cloud.aiplatform_v1.types import ListCustomJobsRequest

            request = ListCustomJobsRequest(parent=parent, filter=wanted, page_size=PAGE, page_token=token)
            with self._asking(f"listing jobs of {parent}"):
                answer = next(iter(client.list_custom_jobs(request=request, retry=None, timeout=self._seconds).pages))
                return [_seen(job) for job in answer.custom_jobs], str(answer.next_page_token)

        found: list[Seen] = []
        token = ""
        while True:
            some, token = self._patiently(page, token)
            found += some
            if not token:
                return found

    def get(self, name: str) -> Seen:
        """GetCustomJob. Raises NotFoundError."""

        def once(name: str) -> Seen:
            client = self._opened()
            with self._asking(name):
                return _seen(client.get_custom_job(name=name, retry=None, timeout=self._seconds))

        found: Seen = self._patiently(once, name)
        return found

    def cancel(self, name: str) -> None:
        """CancelCustomJob; it may be repeated. Raises RejectedError for a job that is over."""

        def once(name: str) -> None:
            client = self._opened()
            with self._asking(name):
                client.cancel_custom_job(name=name, retry=None, timeout=self._seconds)

        self._patiently(once, name)

    def _patiently(self, call: Callable[[str], Any], argument: str) -> Any:
        return patiently(lambda: call(argument), self._sleep)

    @contextmanager
    def _asking(self, where: str) -> Iterator[None]:
        """Translates what a call raises, and forgets a client whose login has died."""
        try:
            yield
        except CloudtuneError:
            raise
        except google_errors() as error:
            facts = facts_of(error)
            ours = no_login(facts.message) if facts.name == LOGIN else error_from(facts.name, facts.message, where=where)
            if ours.code in _DEAD:
                self._login.renew()
                self._client = None
            raise ours from error

    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._made()
            return self._client

    def _made(self) -> Any:
        credentials = self._login.credentials
        try:
            from google.cloud.aiplatform_v1.services.job_service import JobServiceClient, transports
        except ModuleNotFoundError as error:
            raise extra_missing(error) from error
        scheme, _, address = (self._endpoint or "").partition("://")
        if scheme == "grpc":
            import grpc

            return JobServiceClient(transport=transports.JobServiceGrpcTransport(channel=grpc.insecure_channel(address)))
        if scheme in ("http", "https"):
            rest = transports.JobServiceRestTransport(host=address.rstrip("/"), credentials=credentials, url_scheme=scheme)
            return JobServiceClient(transport=rest)
        return JobServiceClient(credentials=credentials, client_options={"api_endpoint": f"{self._region}-aiplatform.googleapis.com"})


def _seen(job: Any) -> Seen:
    """The library's message as ours; read from the plain proto, which takes numbers that the library has no name for."""
    raw = type(job).pb(job)
    spec = raw.job_spec
    return Seen(
        name=raw.name,
        state=int(raw.state),
        labels=dict(raw.labels),
        created=_time(raw, "create_time") or _epoch(),
        started=_time(raw, "start_time"),
        ended=_time(raw, "end_time"),
        updated=_time(raw, "update_time"),
        code=int(raw.error.code),
        text=str(raw.error.message),
        base=str(spec.base_output_directory.output_uri_prefix),
        timeout_seconds=float(spec.scheduling.timeout.seconds),
        spot=int(spec.scheduling.strategy) == 4,
    )


def _time(raw: Any, name: str) -> datetime | None:
    from datetime import UTC, datetime

    if not raw.HasField(name):
        return None
    stamp = getattr(raw, name)
    return datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1e9, UTC)


def _epoch() -> datetime:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(0, UTC)
