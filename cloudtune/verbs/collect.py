"""The verb ``collect``: brings a job's results home, exactly the files that its manifest names, each checked.

    manifest → names → free space → each file: fetch to a temporary name, check size and sha256, rename → ledger

Nothing outside the destination is touched, whatever the manifest or the files pretend to be. It can be interrupted and
run again: good files stay, parts go on. A job without a manifest gives its log, metrics and reason of failure.
"""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cloudtune.errors import StoreError, UsageError
from cloudtune.job import JobState, JobView, LaunchId
from cloudtune.manifest import FAILURE_NAME, MANIFEST_NAME, METRICS_NAME, Manifest
from cloudtune.stores.destination import Destination, Wanted, opened_destination
from cloudtune.stores.names import check_paths
from cloudtune.stores.registry import open_store
from cloudtune.units import gib
from cloudtune.verbs.jobs import status
from cloudtune.verbs.logs import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cloudtune.session import Session
    from cloudtune.stores.base import Entry, Store

MANIFEST_LIMIT = 16 << 20
"""Largest manifest that is read, in bytes."""
FILES_LIMIT = 100_000
FETCHERS = 10
"""Files that are fetched at once."""
_LEFTOVER_LIMIT = 64 << 20
_LEFTOVERS = (f"output/data/{METRICS_NAME}", f"output/{FAILURE_NAME}")


@dataclass(frozen=True, slots=True)
class Collected:
    """What came home. ``files`` are below ``folder``; ``fetched_bytes`` leaves out what was there already.

    ``partial``: the job did not complete. ``left_there``: checkpoints of such a job that were not fetched. ``goes_on``: it was
    interrupted, and launched with the same id it goes on from its checkpoint; a job that was stopped does not.
    """

    id: LaunchId
    folder: Path
    files: tuple[str, ...]
    fetched_bytes: int
    manifest: Manifest | None
    partial: bool
    left_there: tuple[Entry, ...] = ()
    goes_on: bool = False


def collect(
    job: str,
    *,
    session: Session,
    to: Path | str | None = None,
    checkpoints: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Collected:
    """Bring the results of a job that has ended to ``to``, or to ``<output.dir>/<job id>`` of its recipe.

    ``checkpoints``: also those of a job that left no manifest; nothing vouches for them, so only size and names are checked.
    Raises UsageError while the job runs or when nothing is there, StoreError when a file is not what the manifest says.
    """
    view = status(job, session)
    if not view.ended:
        raise UsageError(f"{view.id} is {view.state}", code="not-ended", hint=f"wait for it, or end it with: cloudtune stop {view.id}")
    if view.outputs is None:
        raise UsageError(f"{view.id} left nothing behind", code="nothing-to-collect", hint=view.message.partition("\n")[0])
    folder = Path(to) if to is not None else Path(view.output_dir or "runs") / view.id
    say = progress or (lambda _: None)
    store = open_store(view.outputs, session.settings)
    text = _manifest_text(store)
    collected = _leftovers(view, folder, session, say if checkpoints else None) if text is None else _named(view, store, folder, text, say)
    _remember(collected, session)
    return collected


def read_manifest(text: bytes, launch_id: LaunchId) -> Manifest:
    """The manifest, checked for everything that can be known without fetching. Raises StoreError."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise StoreError(f"the manifest is damaged: {place}: {first['msg']}", where=launch_id, code="bad-manifest") from error
    if manifest.launch_id != launch_id:
        raise StoreError(f"the manifest belongs to another job ({manifest.launch_id!r})", where=launch_id, code="bad-manifest")
    if len(manifest.artifacts) > FILES_LIMIT:
        raise StoreError(
            f"the manifest names {len(manifest.artifacts)} files, more than {FILES_LIMIT}", where=launch_id, code="bad-manifest"
        )
    check_paths(artifact.path for artifact in manifest.artifacts)
    return manifest


def _manifest_text(store: Store) -> bytes | None:
    """The manifest's bytes; None when there is none. Raises StoreError when it is no plain file or too large."""
    try:
        text = _at_most(store.fetch(MANIFEST_NAME), MANIFEST_LIMIT + 1)
    except StoreError as error:
        if error.code == "store-missing":
            return None
        raise
    if len(text) > MANIFEST_LIMIT:
        raise StoreError(f"the manifest is larger than {gib(MANIFEST_LIMIT)}", where=MANIFEST_NAME, code="bad-manifest")
    return text


def _at_most(chunks: Iterator[bytes], limit: int) -> bytes:
    text = b""
    for chunk in chunks:
        text += chunk[: limit - len(text)]
        if len(text) == limit:
            break
    return text


def _named(view: JobView, store: Store, folder: Path, text: bytes, say: Callable[[str], None]) -> Collected:
    """Everything that the manifest names, and the manifest last."""
    manifest = read_manifest(text, view.id)
    wanted = [Wanted(artifact.path, artifact.bytes, artifact.sha256) for artifact in manifest.artifacts]
    with opened_destination(folder) as destination:
        missing = [file for file in wanted if not destination.has(file)]
        _check_space(folder, sum(file.bytes for file in missing))
        _receive_all(destination, store, missing, say)
        destination.flush()  # the manifest says that all is there
        _put_manifest(destination, text)
    names = tuple(sorted([*(file.path for file in wanted), MANIFEST_NAME]))
    fetched, goes_on = sum(file.bytes for file in missing), view.state is JobState.INTERRUPTED
    return Collected(view.id, folder, names, fetched, manifest, manifest.outcome != "complete", goes_on=goes_on)


def _receive_all(destination: Destination, store: Store, files: Sequence[Wanted], say: Callable[[str], None]) -> None:
    """Several files at once. The first fault ends it; what is under way then keeps its parts for the next try."""

    def receive(alike: Sequence[Wanted]) -> None:
        for file in alike:
            say(f"fetching {file.path} ({gib(file.bytes)})")
            destination.receive(file, lambda start, path=file.path: store.fetch(path, start))  # type: ignore[misc]

    same: dict[str, list[Wanted]] = {}
    for file in files:  # equal content has one part below .incoming: one after the other
        same.setdefault(file.sha256, []).append(file)
    with ThreadPoolExecutor(FETCHERS, thread_name_prefix="collect") as pool:
        begun = [pool.submit(receive, alike) for alike in same.values()]
        try:
            for future in begun:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _put_manifest(destination: Destination, text: bytes) -> None:
    file = Wanted(MANIFEST_NAME, len(text), hashlib.sha256(text).hexdigest())
    if not destination.has(file):
        destination.receive(file, lambda start: iter([text[start:]]))


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"the results need {gib(needed)} and the disk has {gib(free)} free",
            where=str(folder),
            code="store-disk-full",
            hint="free some space or use --to",
        )


def _leftovers(view: JobView, folder: Path, session: Session, fetching: Callable[[str], None] | None) -> Collected:
    """Log, metrics and reason of failure of a job without a manifest; its checkpoints are listed, or fetched where that is told."""
    store = open_store(view.remains, session.settings) if view.remains else None
    files: dict[str, int] = {}
    with opened_destination(folder) as destination:
        for path in _LEFTOVERS:
            size = _leftover(destination, store, path) if store else None
            if size is not None:
                files[Path(path).name] = size
        files["log.txt"] = destination.receive_unchecked("log.txt", _log_bytes(view, session))
        there = tuple(entry for entry in store.list("checkpoints/") if entry.kind == "file") if store else ()
        if fetching is not None and store is not None:
            files.update(_checkpoints(destination, store, there, folder, fetching))
            there = ()
    return Collected(view.id, folder, tuple(sorted(files)), sum(files.values()), None, partial=True, left_there=there)


def _checkpoints(
    destination: Destination, store: Store, there: Sequence[Entry], folder: Path, say: Callable[[str], None]
) -> dict[str, int]:
    """Bring every checkpoint file; its size by name. Raises StoreError for a name that may not be written, and for a short file."""
    check_paths(entry.path for entry in there)
    _check_space(folder, sum(entry.bytes for entry in there))
    files: dict[str, int] = {}
    for entry in there:
        say(f"fetching {entry.path} ({gib(entry.bytes)})")
        files[entry.path] = destination.receive_unchecked(entry.path, store.fetch(entry.path), listed=entry.bytes)
    return files


def _leftover(destination: Destination, store: Store, path: str) -> int | None:
    """Bring one file if it is there; its size in bytes."""
    if not any(entry.path == path and entry.kind == "file" for entry in store.list(path)):
        return None
    return destination.receive_unchecked(Path(path).name, iter([_at_most(store.fetch(path), _LEFTOVER_LIMIT)]))


def _log_bytes(view: JobView, session: Session) -> Iterator[bytes]:
    for page in logs(view.id, session=session):
        yield "".join(f"{line.text}\n" for line in page.lines).encode()


def _remember(collected: Collected, session: Session) -> None:
    """What came home and, for the estimates' sake, the measured peak and speed; ``launch`` keeps the plan they compare with."""
    manifest = collected.manifest
    if manifest is not None:
        body = {
            "predicted_peak_bytes": manifest.predicted_peak_bytes,
            "peak_memory": manifest.peak_memory.model_dump(mode="json"),
            "train_seconds": manifest.train_seconds if manifest.resumed_from_step is None else None,
            "steps": manifest.steps,
        }
        session.ledger.append(collected.id, "measured", body, key=f"measured:{manifest.steps}")
    place = str(collected.folder.resolve())
    session.ledger.append(collected.id, "collected", {"to": place, "files": len(collected.files), "partial": collected.partial})
