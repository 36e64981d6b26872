"""The verb ``doctor``: looks at this installation and says what is missing for what. Changes nothing.

A cloud is called only when it is named: ``doctor --provider aws`` looks at login, role, bucket and what else it needs.

A ``problem`` keeps cloudtune from working, a ``note`` only from working in one way (no training stack: no local
jobs). Packages are looked up without being imported.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cloudtune
from cloudtune.errors import CloudtuneError, UsageError
from cloudtune.resources import resource_dir
from cloudtune.units import gib

if TYPE_CHECKING:
    from cloudtune.session import Session
    from cloudtune.settings import Setting

LOW_DISK_BYTES = 5 * 2**30
TRAINING_STACK = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
NEEDED_SETTINGS = {"aws": ("aws_role", "aws_bucket", "aws_region"), "gcp": ("gcp_project", "gcp_bucket", "gcp_region")}
CLOUD_PACKAGES = {"aws": ("boto3",), "gcp": ("google-cloud-aiplatform", "google-cloud-storage")}

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and for a note or problem what to do."""

    name: str
    verdict: Verdict
    found: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, and every setting with its origin."""

    checks: tuple[Check, ...]
    settings: tuple[Setting, ...]

    @property
    def healthy(self) -> bool:
        """No check is a problem."""
        return all(check.verdict != "problem" for check in self.checks)


def doctor(session: Session, *, provider: str | None = None) -> Diagnosis:
    """Look at this machine and, with ``provider``, at what that provider needs besides."""
    checks = [*_program(), *_places(session), *_machine()]
    checks += [] if provider in (None, "local") else _cloud(str(provider), session)
    return Diagnosis(tuple(checks), session.settings.listed())


def needed_policies(session: Session, provider: str | None) -> dict[str, Any]:
    """The policies that a provider needs, by whom they are for. Calls nobody. Raises UsageError for a provider without policies."""
    settings = session.settings
    if provider == "gcp":
        from cloudtune.providers.gcp.policy import policies as roles

        return roles(settings.gcp_project or "PROJECT", settings.gcp_bucket or "BUCKET", settings.gcp_service_account or "SERVICE_ACCOUNT")
    if provider != "aws":
        raise UsageError("policies can be printed for aws and gcp", hint="cloudtune doctor --provider aws --print-policy")
    from cloudtune.providers.aws.policy import policies

    return policies(settings.aws_role, settings.aws_bucket, settings.aws_region)


def _program() -> Iterator[Check]:
    yield Check("cloudtune", "ok", f"{cloudtune.__version__} in {Path(cloudtune.__file__).parent}")
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable}), {platform.platform(terse=True)}")
    try:
        folders = [resource_dir("containers"), resource_dir("recipes")]
    except CloudtuneError as error:
        yield Check("own files", "problem", error.what, error.hint)
    else:
        yield Check("own files", "ok", f"containers and recipes in {folders[0].parent}")


def _places(session: Session) -> Iterator[Check]:
    home = session.settings.home
    above = _existing(home)
    if not _writable(above):
        yield Check("home", "problem", f"{above} cannot be written to", "set CLOUDTUNE_HOME to a folder that you can write to")
    else:
        yield Check("home", "ok", f"{home}{'' if home.exists() else ' (made when first needed)'}")
        yield _ledger(session)
    for name, folder in (("disk of home", home), ("disk here", Path.cwd())):
        free = shutil.disk_usage(_existing(folder)).free
        low = free < LOW_DISK_BYTES
        hint = "training and collecting need room; free some, or use another folder" if low else ""
        yield Check(name, "note" if low else "ok", f"{gib(free)} free", hint)


def _writable(folder: Path) -> bool:
    """Whether a file can be made in ``folder``; tried, because permissions do not tell of read-only or special file systems."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _ledger(session: Session) -> Check:
    if not session.settings.home.exists():
        return Check("ledger", "ok", "none yet")
    try:
        jobs = len(session.ledger.views())
    except CloudtuneError as error:
        return Check("ledger", "problem", error.what, error.hint)
    return Check("ledger", "ok", f"{jobs} job{'' if jobs == 1 else 's'} in {session.ledger.path}")


def _machine() -> Iterator[Check]:
    from cloudtune.providers.local.machine import this_machine

    machine = this_machine()
    gpus = ", ".join(f"{gpu.name} with {gib(gpu.memory_bytes)}" for gpu in machine.gpus) or "no GPU"
    yield Check("machine", "ok", f"{machine.cores} cores, {gib(machine.memory_bytes)} of memory, {gpus}")
    yield _packages("training stack", TRAINING_STACK, "jobs on this machine need it: pip install 'cloudtune[train]'")
    yield from _engines()


def _engines() -> Iterator[Check]:
    """Every engine that could be meant, each tried by building and running something (half a second where it works)."""
    from cloudtune.engine.probe import probe_all

    hint = "images and dry runs in containers need one; jobs on this machine also run as plain processes"
    verdicts = probe_all(os.environ)
    if not verdicts:
        yield Check("container engine", "note", "none runs here", hint)
    for verdict in verdicts:
        yield Check("container engine", "ok" if verdict.usable else "note", str(verdict), "" if verdict.usable else hint)


def _packages(name: str, packages: Sequence[str], hint: str) -> Check:
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return Check(name, "note", f"missing: {', '.join(missing)}", hint)
    return Check(name, "ok", ", ".join(found))


def _cloud(provider: str, session: Session) -> Iterator[Check]:
    try:
        place = session.place(provider)
    except CloudtuneError as error:
        yield Check(provider, "problem", error.what, error.hint)
    else:
        yield Check(provider, "ok", "can be used")
        for finding in place.examiner.examine() if place.examiner else ():
            yield Check(f"{provider} {finding.name}", finding.verdict, finding.found, finding.hint)
    yield _packages(f"{provider} packages", CLOUD_PACKAGES[provider], f"pip install 'cloudtune[{provider}]'")
    unset = [name for name in NEEDED_SETTINGS[provider] if getattr(session.settings, name) is None]
    hint = f"set them in cloudtune.toml or as {', '.join(f'CLOUDTUNE_{name.upper()}' for name in unset)}" if unset else ""
    yield Check(f"{provider} settings", "note" if unset else "ok", f"not set: {', '.join(unset)}" if unset else "all set", hint)


def _existing(folder: Path) -> Path:
    """``folder`` or the nearest folder above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())
