"""The error tree. Every failure a user can meet is one of these classes; nothing here does any work.

    CloudtuneError(code, what, where, hint)              exit
    ├── RecipeError      all faults of one file             2
    ├── UsageError       a wrong argument or setting        2
    ├── NothingFits      no machine passes                  3
    │   └── QuotaError   the account may not have it        3
    ├── ProviderError    a cloud or this machine said no    4
    │   ├── AuthError
    │   ├── NotFoundError
    │   ├── RejectedError
    │   ├── ThrottledError *
    │   ├── UnavailableError *
    │   └── CapacityError
    ├── StoreError       reading or writing artifacts       4
    ├── LedgerError      the local database                 4
    ├── StagingError     preparing code, data or images     4
    ├── SourceError      a model or data set out of reach   4
    └── JobFailed        the training job itself failed     1

``*`` = worth another try (the class attribute ``retryable``). Only ``cli/main.py`` catches these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CloudtuneError(Exception):
    """Base of all errors that are meant for the user.

    ``code`` is a stable kebab-case word for scripts, ``what`` one sentence that says what happened,
    ``where`` a file position, URL or job id (may be empty), ``hint`` the next thing to do or run.
    """

    exit_code = 4
    retryable = False
    default_code = "error"

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: str = "") -> None:
        self.code = code or self.default_code
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n  → {self.hint}" if self.hint else ""
        return f"{place}{self.what}{hint}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One problem of a recipe: ``path`` is the dotted key, line and column count from 1 (0 = unknown)."""

    path: str
    what: str
    expected: str = ""
    hint: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else (f"{self.file}: " if self.file else "")
        expected = f", expected {self.expected}" if self.expected else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}{self.what}{expected}{hint}"


class RecipeError(CloudtuneError):
    """All faults of one recipe at once, in the order of their lines."""

    exit_code = 2
    default_code = "bad-recipe"

    def __init__(self, faults: Sequence[Fault], *, hint: str = "") -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.file, fault.line, fault.column)))
        count = len(self.faults)
        what = f"{count} problem{'s' if count != 1 else ''} in the recipe"
        super().__init__(what, where=self.faults[0].file if self.faults else "", hint=hint)

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults]
        return "\n".join([*lines, f"  → {self.hint}"] if self.hint else lines)


class UsageError(CloudtuneError):
    """A wrong argument, flag or setting."""

    exit_code = 2
    default_code = "usage"


class NothingFits(CloudtuneError):
    """No machine passes memory, budget or availability."""

    exit_code = 3
    default_code = "nothing-fits"


class QuotaError(NothingFits):
    """The account's quota is smaller than the job needs."""

    default_code = "quota"


class ProviderError(CloudtuneError):
    """A cloud, or this machine as a provider, refused or broke."""

    default_code = "provider"


class AuthError(ProviderError):
    """No login, an expired login, or a missing permission. Never retried."""

    default_code = "auth"


class NotFoundError(ProviderError):
    """The named job, bucket or image does not exist there."""

    default_code = "not-found"


class RejectedError(ProviderError):
    """The provider understood the request and will not do it."""

    default_code = "rejected"


class ThrottledError(ProviderError):
    """Too many calls; another try later can succeed."""

    retryable = True
    default_code = "throttled"


class UnavailableError(ProviderError):
    """The service did not answer or failed on its side; another try can succeed."""

    retryable = True
    default_code = "unavailable"


class CapacityError(ProviderError):
    """The machine type is sold out at the moment."""

    default_code = "capacity"


class StoreError(CloudtuneError):
    """Reading or writing artifacts failed, or an artifact is not what the manifest says."""

    default_code = "store"


class LedgerError(CloudtuneError):
    """The local job database cannot be read or written."""

    default_code = "ledger"


class StagingError(CloudtuneError):
    """Preparing code, data or an image for the job failed."""

    default_code = "staging"


class SourceError(CloudtuneError):
    """A model's config or a data set is out of reach."""

    default_code = "source"


class JobFailed(CloudtuneError):
    """The training job ended without success. ``log_tail`` holds its last lines."""

    exit_code = 1
    default_code = "job-failed"

    def __init__(self, what: str, *, where: str = "", hint: str = "", log_tail: Sequence[str] = ()) -> None:
        self.log_tail = tuple(log_tail)
        super().__init__(what, where=where, hint=hint)
