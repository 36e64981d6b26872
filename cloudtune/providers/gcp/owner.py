"""Two small objects per launch, by which one launch stays one job although the service has no token against doubles.

    gs://BUCKET/cloudtune/jobs/LAUNCH-ID/submitted   written before the create: a later try knows that one may be on its way
    gs://BUCKET/cloudtune/jobs/LAUNCH-ID/owner       the one job that may train, by its number; empty: none may any more

Both are written under the precondition that nobody else has. A job whose entry finds another owner ends within seconds.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtune.errors import CloudtuneError, StoreError
from cloudtune.providers.gcp.request import PREFIX

if TYPE_CHECKING:
    from datetime import datetime

    from cloudtune.wire.gcs import Bucket


@dataclass(frozen=True, slots=True)
class Mark:
    """A submit that was begun ``at`` (Unix seconds). ``job``: the full name that it got, empty while nobody wrote it down."""

    at: float
    job: str = ""
    generation: int = 0
    fresh: bool = False


@dataclass(frozen=True)
class Ownership:
    """The two objects of every launch in one bucket. Raises what Bucket raises."""

    bucket: Bucket

    def begin(self, launch_id: str, now: datetime) -> Mark:
        """Leave the mark of a submit; the older one, with ``fresh`` false, when there was one."""
        at = now.timestamp()
        try:
            generation = self.bucket.write(_name(launch_id, "submitted"), json.dumps({"at": at}).encode(), generation=0)
        except StoreError as error:
            if error.code != "store-precondition":
                raise
            return self.mark(launch_id) or Mark(at)
        return Mark(at, generation=generation, fresh=True)

    def mark(self, launch_id: str) -> Mark | None:
        """The mark of a submit, None without one."""
        found = self._read(launch_id, "submitted")
        if found is None:
            return None
        body, generation = found
        at = body.get("at")
        return Mark(float(at) if isinstance(at, int | float) else 0.0, str(body.get("job") or ""), generation)

    def note(self, launch_id: str, mark: Mark, job: str) -> None:
        """Write down the name that the job got, for those who look before lists show it. A failure to write costs nothing else."""
        with suppress(CloudtuneError):
            self.bucket.write(_name(launch_id, "submitted"), json.dumps({"at": mark.at, "job": job}).encode())

    def owner(self, launch_id: str) -> str | None:
        """The number of the job that may train; empty when none may; None while nobody has decided."""
        found = self._read(launch_id, "owner")
        return None if found is None else str(found[0].get("job") or "")

    def claim(self, launch_id: str, key: str) -> str:
        """Make the job ``key`` (empty: none) the owner unless there is one; who the owner is now."""
        try:
            self.bucket.write(_name(launch_id, "owner"), json.dumps({"job": key}).encode(), generation=0)
        except StoreError as error:
            if error.code != "store-precondition":
                raise
            return self.owner(launch_id) or ""
        return key

    def _read(self, launch_id: str, what: str) -> tuple[dict[str, object], int] | None:
        try:
            data, generation = self.bucket.read(_name(launch_id, what))
        except StoreError as error:
            if error.code in ("store-missing", "store-no-bucket"):
                return None
            raise
        try:
            body = json.loads(data)
        except ValueError:
            body = {}
        return (body if isinstance(body, dict) else {}), generation


def _name(launch_id: str, what: str) -> str:
    return f"{PREFIX}/jobs/{launch_id}/{what}"
