"""The account behind the stand-in: its region, quotas, what is sold out, and switches for what may go wrong in it.

Everything here may be changed while the stand-in runs; the next call or the next look of a running job sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cloudtune.providers.aws.instances import INSTANCE_TYPES

ACCOUNT_ID: Final = "123456789012"
KINDS: Final = ("training job usage", "spot training job usage", "training warm pool usage")
# Codes of real quotas that are known (reference of 2026-11-23); every other gets one made from its name.
_CODES: Final = {
    "ml.g5.2xlarge for training job usage": "L-2D6DEB3C",
    "ml.g5.2xlarge for spot training job usage": "L-CAEE7DB7",
    "ml.g6e.2xlarge for training job usage": "L-D1AFBF6F",
    "ml.g6e.2xlarge for spot training job usage": "L-29512C0F",
    "ml.p5.48xlarge for training job usage": "L-82E1C851",
    "ml.p6-b200.48xlarge for training job usage": "L-60EA3D74",
    "ml.p6-b200.48xlarge for spot training job usage": "L-08AE20C2",
}


@dataclass
class Durations:
    """How long each phase lasts, in seconds of the stand-in's clock, beside the real work that is done in it."""

    starting: float = 1.0
    downloading: float = 0.5
    uploading: float = 0.5
    interrupted: float = 2.0
    """From the loss of a spot machine to the next one's start."""
    capacity_retry: float = 5.0


@dataclass
class Quirks:
    """What the real service also does now and then. All off at first."""

    empty_pages: bool = False
    """Every list begins with an empty page that has a NextToken."""
    late_streams: float = 0.0
    """Seconds until the log streams of a machine appear."""
    log_gaps: int = 0
    """Every n-th line of a log is lost; 0 = none."""
    late_billable: bool = False
    """BillableTimeInSeconds and TrainingTimeInSeconds never appear."""
    unknown_secondary: str = ""
    """Shown as SecondaryStatus while a job trains."""
    list_lag: float = 0.0
    """Seconds until a new job is listed; Describe knows it at once."""
    spot_sigterm: bool = True
    """Whether a spot machine's program gets SIGTERM before the machine is gone."""
    spot_saving: float = 0.6
    """Share of spot training time that is not billed."""
    disk_full: bool = False
    """Uploads of results fail for want of disk space."""


@dataclass
class Account:
    """``quotas``: name such as ``ml.g5.2xlarge for training job usage`` → number of instances; others are ``quota``."""

    region: str = "us-east-1"
    quota: int = 8
    warm_pool_quota: int = 0
    quotas: dict[str, int] = field(default_factory=dict)
    pending_increases: dict[str, int] = field(default_factory=dict)
    sold_out: set[str] = field(default_factory=set)
    """Instance types (or their spot machines, as ``spot ml.g5.xlarge``) that cannot be had at the moment."""
    not_here: set[str] = field(default_factory=set)
    """Instance types that the region does not have."""
    may_pass_role: bool = True
    denied: set[str] = field(default_factory=set)
    """Actions such as ``logs:GetLogEvents`` that a simulation of rights finds allowed nowhere; calls themselves: ``faults``."""
    forbidden: set[str] = field(default_factory=set)
    """Actions that a simulation finds denied by a statement, which no other policy makes good."""
    durations: Durations = field(default_factory=Durations)
    quirks: Quirks = field(default_factory=Quirks)

    def quota_of(self, name: str) -> int:
        default = self.warm_pool_quota if name.endswith(KINDS[2]) else self.quota
        return self.quotas.get(name, default)

    def warm_quota(self, instance: str) -> int:
        return self.quota_of(f"{instance} for {KINDS[2]}")

    def quota_names(self) -> Iterator[str]:
        for kind in KINDS:
            for instance in sorted(INSTANCE_TYPES):
                yield f"{instance} for {kind}"

    def arn(self, resource: str) -> str:
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT_ID}:{resource}"


def quota_code(name: str) -> str:
    """The quota's code: a constant of the service."""
    return _CODES.get(name) or f"L-{hashlib.sha256(name.encode()).hexdigest()[:8].upper()}"
