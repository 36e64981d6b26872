"""The project that the stand-in plays, and how it behaves: rights, quotas, stock, times. Change it while it runs. Does nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

QuotaShape = Literal["reject", "fail", "queue"]
USER = "tester@example.com"
# Permissions that the project gives its user; take one away with ``Scene.denied``.
GRANTED = (
    "aiplatform.customJobs.create",
    "aiplatform.customJobs.get",
    "aiplatform.customJobs.list",
    "aiplatform.customJobs.cancel",
    "aiplatform.customJobs.delete",
    "artifactregistry.repositories.create",
    "artifactregistry.repositories.get",
    "artifactregistry.repositories.downloadArtifacts",
    "artifactregistry.repositories.uploadArtifacts",
    "artifactregistry.dockerimages.get",
    "cloudbuild.builds.create",
    "cloudbuild.builds.get",
    "cloudquotas.quotas.get",
    "iam.serviceAccounts.actAs",
    "iam.serviceAccounts.get",
    "logging.logEntries.list",
    "resourcemanager.projects.get",
    "secretmanager.versions.access",
    "secretmanager.secrets.get",
    "serviceusage.services.use",
    "storage.buckets.create",
    "storage.buckets.get",
    "storage.buckets.update",
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.list",
    "storage.objects.update",
)


@dataclass
class Pace:
    """How long things take, in the cloud's seconds; ``grace`` alone is in real ones, because real programs save in it."""

    queued: float = 2.0
    provisioning: float = 20.0
    all_up: float = 3.0  # from the first container's start to RUNNING: code begins before the state says so
    error_late: float = 60.0  # from the end to the error on the job; "about one minute" in Google's words
    preempted: float = 30.0
    retry: float = 10.0
    reject_stock: float = 15.0  # each of the four tries when the region has no such machine
    grace: float = 30.0
    build: float = 90.0  # of an image in the cloud
    timed_run: float = 120.0  # how long a job "runs" in the mode in which nothing runs


@dataclass
class Scene:
    """Who is there and what there is. Metrics and machines that are not named are plentiful."""

    project: str = "cloudtune-standin"
    number: int = 123456789012
    region: str = "us-central1"
    user: str = USER
    bucket: str = "cloudtune-standin-bucket"
    repository: str = "cloudtune"
    service_account: str = "trainer@cloudtune-standin.iam.gserviceaccount.com"
    pace: Pace = field(default_factory=Pace)
    denied: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)  # service accounts that the user may not act as, or that are not there
    quotas: dict[str, int] = field(default_factory=dict)  # short metric name → limit in this region
    quota_shape: QuotaShape = "reject"
    sold_out: set[str] = field(default_factory=set)  # machine types without stock
    missing_images: set[str] = field(default_factory=set)
    secrets: dict[str, str] = field(default_factory=dict)
    list_lag: float = 0.0  # the cloud's seconds until a new job shows in lists
    jobs_page: int = 100
    storage_page: int = 1000
    log_page: int = 1000
    log_late: float = 0.0  # every fifth line of a log shows so many of the cloud's seconds late
    builds_fail: bool = False
    timed_exit: int = 0  # exit code of jobs in the mode in which nothing runs
