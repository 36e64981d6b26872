"""The ledger's SQLite file: opening, numbered migrations, transactions, and one clear sentence per kind of trouble.

It never overwrites, truncates or repairs a file it does not understand. It knows nothing about jobs.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cloudtune.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.clock import Clock

APPLICATION_ID = 0x63746C67  # "ctlg": some other program's database is not taken for ours
BUSY_SECONDS = 60.0
_SQLITE_WAIT_SECONDS = 2.0
T = TypeVar("T")


class Database:
    """One connection to the ledger's file, usable from several threads one at a time."""

    def __init__(self, path: Path, clock: Clock, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = path
        self._clock = clock
        self._busy_seconds = busy_seconds
        self._lock = threading.RLock()
        self._connection = self._patiently(lambda: _connect(path))
        try:
            self._patiently(self._migrate)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work``, which only reads. Raises LedgerError."""
        with self._lock:
            return self._patiently(lambda: work(self._connection))

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in one transaction that is on the disk when this returns. Raises LedgerError; then nothing was written."""
        with self._lock:
            return self._patiently(lambda: _transact(self._connection, work))

    def _migrate(self) -> None:
        """Bring the file to the newest schema; safe when many processes open a new file at once."""
        newest = migrations()[-1][0]
        found = _version(self._connection, self.path)
        if found < newest:
            _transact(self._connection, lambda connection: _apply(connection, self.path))  # may find it done by another
        elif found > newest:
            raise LedgerError(
                f"the job database was written by a newer cloudtune (its schema is {found}, this version knows {newest})",
                where=str(self.path),
                code="ledger-newer",
                hint="upgrade with: pip install -U cloudtune, or use another folder through CLOUDTUNE_HOME",
            )

    def _patiently(self, work: Callable[[], T]) -> T:
        """``work()``, tried again while another process has the file locked; other trouble becomes a LedgerError."""
        deadline = self._clock.monotonic() + self._busy_seconds
        while True:
            try:
                return work()
            except sqlite3.Error as error:
                busy = _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy or self._clock.monotonic() >= deadline:
                    raise explain(error, self.path) from error
                import random

                self._clock.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - spreads waiting processes, no secret


def migrations() -> list[tuple[int, str]]:
    """The numbered schema files, oldest first: (number, SQL)."""
    folder = Path(__file__).with_name("schema")
    found = [(int(entry.name.removesuffix(".sql")), entry.read_text()) for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted(found)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LedgerError(
            f"the folder of the job database cannot be made: {error.strerror}", where=str(path.parent), hint=_ELSEWHERE
        ) from error
    connection = sqlite3.connect(path, timeout=_SQLITE_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # an intention must survive a power cut before its effect starts
        connection.execute("PRAGMA journal_mode = WAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if version and application != APPLICATION_ID:
        raise LedgerError("the file is a database of some other program", where=str(path), code="ledger-foreign", hint=_ELSEWHERE)
    return version


def _apply(connection: sqlite3.Connection, path: Path) -> None:
    """Apply what is missing, inside the caller's transaction."""
    found = _version(connection, path)
    for number, script in migrations():
        if number <= found:
            continue
        for statement in _statements(script):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _statements(script: str) -> list[str]:
    """One script as single statements: ``executescript`` would commit the transaction around it."""
    found, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


_ELSEWHERE = "set CLOUDTUNE_HOME to a folder that you can write to"


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def explain(error: sqlite3.Error, path: Path) -> LedgerError:
    """SQLite's error as one sentence and the next thing to do."""
    code = _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what, name, hint = (
            "another process keeps the job database locked",
            "ledger-locked",
            "wait for it to end, or see who it is with: fuser",
        )
    elif code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        what, name, hint = (
            "the disk is full, nothing was written to the job database",
            "ledger-disk-full",
            "free some space, then run the command again",
        )
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        what, name, hint = "the job database cannot be opened for writing", "ledger-read-only", _ELSEWHERE
    elif code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        what, name, hint = "the job database is damaged", "ledger-damaged", _rescue(path)
    elif code == sqlite3.SQLITE_IOERR:
        what, name, hint = (
            f"the disk refused the job database ({error})",
            "ledger-io",
            "check the disk and its limits, then run the command again",
        )
    else:
        what, name, hint = f"the job database answered: {error}", "ledger", "run: cloudtune doctor"
    return LedgerError(what, where=str(path), code=name, hint=hint)


def _rescue(path: Path) -> str:
    # The write-ahead log belongs to the damaged file and must not be replayed into a new one.
    aside = f'for f in "{path}"*; do mv "$f" "$f.damaged"; done'
    then = "cloudtune reconcile --adopt, which starts a new one and finds the jobs of this machine again"
    return f"move it aside with: {aside}\n  → then run: {then}"


def _disk_is_full(path: Path) -> bool:
    try:
        space = os.statvfs(path.parent)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < 1 << 16
