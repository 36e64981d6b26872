"""Jobs on Vertex AI: submit, find, poll and stop, with one job for one launch although a create has no token against doubles.

    mark in the bucket → list by label → create once → (answer lost? list again and again for 75 s) → name into the mark

Whoever meets two jobs of one launch agrees with everybody else on one object in the bucket (owner.py), keeps that job and
cancels the others; a job that is not the owner ends by itself within seconds of its start.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from cloudtune.errors import CloudtuneError, NotFoundError, RejectedError, StoreError, UnavailableError
from cloudtune.job import JobRef, LaunchId, Reading, parse_launch_id
from cloudtune.providers.gcp.client import CALL_SECONDS, Seen, Vertex
from cloudtune.providers.gcp.owner import Mark, Ownership
from cloudtune.providers.gcp.readings import FAILURE, METRICS, STATUS, Files, is_final, lost, reading_of, wanted_files
from cloudtune.providers.gcp.request import NONCE_LABEL, RUN_LABEL, account
from cloudtune.wire.gcs import Bucket, split
from cloudtune.wire.google import Login

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudtune.clock import Clock
    from cloudtune.providers.base import Request
    from cloudtune.providers.gcp.request import GcpSettings

PROVIDER: Final = "gcp"
LAG_SECONDS: Final = 75.0
"""How long a job that was created may stay out of lists. Google names no time; 30 s is what is tested against."""
SETTLE_SECONDS: Final = LAG_SECONDS + 15.0
LOOK_AGAIN: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0)
MOST_NAMED: Final = 40
"""More jobs than these are polled by one list of all that are ours."""
FRESH_SECONDS: Final = 5.0
MANY_FRESH_SECONDS: Final = 20.0
_METRICS_TAIL: Final = 1 << 16
_READERS: Final = 8


class GcpJobs:
    """A JobService, and its Fence and Inventory."""

    def __init__(self, settings: GcpSettings, clock: Clock, login: Login | None = None, *, call_seconds: float = CALL_SECONDS) -> None:
        self._settings = settings
        self._clock = clock
        self._endpoint: str | None = getattr(settings, "gcp_endpoint", None)
        self._login = login or Login(standin=bool(self._endpoint))
        self._seconds = call_seconds
        self._regions: dict[str, Vertex] = {}
        self._buckets: dict[str, Bucket] = {}
        self._kept: dict[str, tuple[float, Files]] = {}

    def submit(self, request: Request) -> JobRef:
        """Create the job unless the launch has one.

        Raises RejectedError for an id that names another job or was given up, UnavailableError when nobody can say yet
        whether the create arrived; ``find`` can, later.
        """
        project, bucket, region = account(self._settings)
        launch_id, owners = request.launch_id, self._owners(bucket)
        mark = owners.begin(launch_id, self._clock.now())
        there = self._existing(project, region, launch_id, mark)
        if not there and owners.owner(launch_id) == "":
            raise _given_up(launch_id)
        if not there:
            there = self._create(request, project, region, owners, mark)
        winner = self._winner(launch_id, there)
        if winner is None:
            raise _given_up(launch_id)
        if winner.labels.get(NONCE_LABEL) != request.body["customJob"]["labels"].get(NONCE_LABEL):
            raise RejectedError(f"{launch_id} already names another job", code="launch-id-taken", hint="launch without a job id")
        return _ref(project, region, launch_id)

    def find(self, launch_id: LaunchId) -> JobRef | None:
        """The job of a launch, or None. With several the others are cancelled."""
        project, _, region = account(self._settings)
        there = self._of_launch(project, region, launch_id)
        return _ref(project, region, launch_id) if there and self._winner(launch_id, there) else None

    def poll(self, refs: Sequence[JobRef]) -> Sequence[Reading]:
        """One reading for each ref, in order: one list per place, and the small files of those that run or have ended."""
        by_place: dict[str, list[JobRef]] = {}
        for ref in refs:
            by_place.setdefault(ref.place, []).append(ref)
        readings: dict[JobRef, Reading] = {}
        for place, asked in by_place.items():
            readings.update(self._poll_place(place, list(dict.fromkeys(asked))))
        return [readings[ref] for ref in refs]

    def stop(self, ref: JobRef) -> None:
        """Ask the service to end the job; nothing for one that has ended. Raises NotFoundError for an unknown one."""
        seen = self._one(ref)
        if seen is None:
            raise NotFoundError("Vertex AI has no such job", where=str(ref), hint="list the jobs with: cloudtune ps")
        if not is_final(seen):
            self._cancel(seen)

    def fence(self, launch_id: LaunchId) -> JobRef | None:
        """The job if there is one; otherwise None, and a job of this launch that still appears ends as soon as it starts."""
        found = self.find(launch_id)
        if found is not None:
            return found
        project, bucket, region = account(self._settings)
        owner = self._owners(bucket).claim(launch_id, "")
        if owner:
            return _ref(project, region, launch_id)
        for seen in self._of_launch(project, region, launch_id):
            if not is_final(seen):
                self._cancel(seen)
        return None

    def inventory(self) -> Sequence[JobRef]:
        """Every job of ours in the region of the settings, by name; none without settings."""
        if not (self._settings.gcp_project and self._settings.gcp_region):
            return []
        project, _, region = account(self._settings)
        jobs = self._vertex(region).jobs(_parent(project, region), f"labels.{RUN_LABEL}:*")
        return [_ref(project, region, LaunchId(name)) for name in sorted({seen.labels[RUN_LABEL] for seen in jobs})]

    def one(self, ref: JobRef) -> Seen | None:
        """The job as the service shows it now, None for an unknown one."""
        return self._one(ref)

    def _existing(self, project: str, region: str, launch_id: LaunchId, mark: Mark) -> list[Seen]:
        """Jobs of the launch before anything is created. An earlier try's job may still be out of the lists: then it is waited for."""
        there = self._of_launch(project, region, launch_id)
        if there or mark.fresh:
            return there
        if mark.job:
            return self._by_name(mark.job)
        return self._look_again(project, region, launch_id, until=mark.at + LAG_SECONDS)

    def _create(self, request: Request, project: str, region: str, owners: Ownership, mark: Mark) -> list[Seen]:
        try:
            made = self._vertex(region).create(request.body)
        except UnavailableError as lost_answer:
            until = self._clock.now().timestamp() + LAG_SECONDS
            try:
                there = self._look_again(project, region, request.launch_id, until=until)
            except CloudtuneError as blind:  # such as a login that died: it must not look like a clear no
                raise lost_answer from blind
            if not there:
                raise
            return there
        owners.note(request.launch_id, mark, made.name)
        return [made]

    def _look_again(self, project: str, region: str, launch_id: LaunchId, *, until: float) -> list[Seen]:
        """The jobs of a launch as soon as a list shows one; empty when none does ``until`` then (Unix seconds)."""
        for wait in LOOK_AGAIN:
            there = self._of_launch(project, region, launch_id)
            left = until - self._clock.now().timestamp()
            if there or left <= 0:
                return there
            self._clock.sleep(min(wait, left))
        return self._of_launch(project, region, launch_id)

    def _of_launch(self, project: str, region: str, launch_id: str) -> list[Seen]:
        return self._vertex(region).jobs(_parent(project, region), f'labels.{RUN_LABEL}="{launch_id}"')

    def _by_name(self, name: str) -> list[Seen]:
        try:
            return [self._vertex(_region_of(name)).get(name)]
        except NotFoundError:
            return []

    def _winner(self, launch_id: str, jobs: Sequence[Seen]) -> Seen | None:
        """The one of the launch's jobs that counts; the others are cancelled. None when the launch was given up."""
        bucket = split(jobs[0].base)[0] if jobs[0].base else str(self._settings.gcp_bucket)
        owners = self._owners(bucket)
        oldest = min(jobs, key=lambda seen: (seen.created, seen.name))
        owner = owners.owner(launch_id)
        if owner is None:
            if len(jobs) == 1:
                return oldest
            owner = owners.claim(launch_id, oldest.key)
        keys = {seen.key for seen in jobs}
        for seen in jobs:
            # Only beside the owner, or of a launch that was given up: an owner that is not among them may be one that lists do not show.
            if (owner in keys or owner == "") and seen.key != owner and not is_final(seen):
                self._cancel(seen)
        return next((seen for seen in jobs if seen.key == owner), None if owner == "" else oldest)

    def _cancel(self, seen: Seen) -> None:
        """Cancel; a job that came to its end meanwhile needs none."""
        vertex = self._vertex(_region_of(seen.name))
        try:
            vertex.cancel(seen.name)
        except NotFoundError:
            return
        except RejectedError:
            if not is_final(vertex.get(seen.name)):
                raise

    def _poll_place(self, place: str, refs: Sequence[JobRef]) -> dict[JobRef, Reading]:
        project, _, region = place.rpartition(".")
        if len(refs) > MOST_NAMED:
            wanted = f"labels.{RUN_LABEL}:*"
        else:
            wanted = " OR ".join(f'labels.{RUN_LABEL}="{parse_launch_id(ref.name)}"' for ref in refs)
        by_launch: dict[str, list[Seen]] = {}
        for seen in self._vertex(region).jobs(_parent(project, region), wanted):
            by_launch.setdefault(seen.labels.get(RUN_LABEL, ""), []).append(seen)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="gcp-poll") as pool:
            return dict(zip(refs, pool.map(lambda ref: self._reading(ref, by_launch.get(ref.name, [])), refs), strict=True))

    def _reading(self, ref: JobRef, jobs: Sequence[Seen]) -> Reading:
        seen = (jobs[0] if len(jobs) == 1 else self._winner(ref.name, jobs)) if jobs else self._unlisted(ref)
        if seen is None:
            mark = self._owners().mark(ref.name)
            young = mark is not None and abs(self._clock.now().timestamp() - mark.at) < LAG_SECONDS
            return lost(ref, young=young)
        return reading_of(ref, seen, self._files(seen), self._clock.now())

    def _one(self, ref: JobRef) -> Seen | None:
        project, _, region = ref.place.rpartition(".")
        jobs = self._of_launch(project, region, parse_launch_id(ref.name))
        if len(jobs) == 1:
            return jobs[0]
        return self._winner(ref.name, jobs) if jobs else self._unlisted(ref)

    def _unlisted(self, ref: JobRef) -> Seen | None:
        """A job that lists do not show, by the name that its submit wrote down."""
        mark = self._owners().mark(ref.name)
        found = self._by_name(mark.job) if mark is not None and mark.job else []
        return found[0] if found else None

    def _files(self, seen: Seen) -> Files:
        """The small files; a bucket that cannot be read must not hide what the service says.

        A running job copies them every 20 s, so they are not read again within ``FRESH_SECONDS``.
        """
        if not seen.base:
            return Files()
        now = self._clock.monotonic()
        kept = self._kept.get(seen.name)
        if (
            kept is not None
            and not is_final(seen)
            and 0 <= now - kept[0] < (FRESH_SECONDS if len(self._kept) <= MOST_NAMED else MANY_FRESH_SECONDS)
        ):
            return kept[1]
        bucket, folder = split(seen.base)
        found = {name: _tail(self._bucket(bucket), f"{folder}/{name}") for name in wanted_files(seen)}
        files = Files(found.get(METRICS, b""), found.get(FAILURE, b""), found.get(STATUS, b""))
        if is_final(seen):
            self._kept.pop(seen.name, None)
        else:
            self._kept[seen.name] = (now, files)
        return files

    def _owners(self, bucket: str | None = None) -> Ownership:
        return Ownership(self._bucket(bucket or account(self._settings)[1]))

    def _bucket(self, name: str) -> Bucket:
        return self._buckets.setdefault(name, Bucket(name, self._login, sleep=self._clock.sleep))

    def _vertex(self, region: str) -> Vertex:
        if region not in self._regions:
            self._regions[region] = Vertex(region, self._login, self._endpoint, self._clock.sleep, call_seconds=self._seconds)
        return self._regions[region]


def _tail(bucket: Bucket, name: str) -> bytes:
    try:
        return bucket.tail(name, _METRICS_TAIL)
    except CloudtuneError as error:
        if isinstance(error, StoreError) or error.retryable:
            return b""
        raise


def _ref(project: str, region: str, launch_id: LaunchId) -> JobRef:
    return JobRef(PROVIDER, _place(project, region), launch_id)


def _place(project: str, region: str) -> str:
    return f"{project}.{region}"


def _parent(project: str, region: str) -> str:
    return f"projects/{project}/locations/{region}"


def _region_of(name: str) -> str:
    """``projects/P/locations/REGION/customJobs/N`` → REGION."""
    return name.split("/")[3]


def _given_up(launch_id: str) -> RejectedError:
    return RejectedError(f"the launch {launch_id} was given up", code="fenced", hint="launch again; it gets a new id")
