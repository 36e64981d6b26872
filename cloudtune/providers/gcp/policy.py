"""Who needs which role of Google Cloud for what, as tables and as text for ``doctor --print-policy``. Pure.

Roles as of Google's pages read 2026-11-23; nothing of it was tried on a real project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PERMISSIONS: Final = (
    "aiplatform.customJobs.create",
    "aiplatform.customJobs.get",
    "aiplatform.customJobs.list",
    "aiplatform.customJobs.cancel",
)
BUCKET_PERMISSIONS: Final = ("storage.objects.create", "storage.objects.get", "storage.objects.list", "storage.objects.delete")
ACT_AS: Final = "iam.serviceAccounts.actAs"
APIS: Final = ("aiplatform", "storage", "artifactregistry", "cloudbuild", "logging")


@dataclass(frozen=True, slots=True)
class Grant:
    """``role`` on ``on``, for what. ``optional``: cloudtune works without it, less well."""

    role: str
    on: str
    why: str
    optional: bool = False


YOURS: Final = (
    Grant("roles/aiplatform.user", "the project", "create, list, poll and cancel custom jobs"),
    Grant("roles/iam.serviceAccountUser", "the job's service account only", "let a job run as it"),
    Grant("roles/storage.objectUser", "the bucket only", "upload data, read results"),
    Grant("roles/artifactregistry.writer", "the repository only", "find and push the image (reader is enough with gcp_image = remote)"),
    Grant("roles/cloudbuild.builds.editor", "the project", "build the image in the cloud (gcp_image = remote)"),
    Grant("roles/logging.viewer", "the project", "cloudtune logs; progress is shown without it", optional=True),
    Grant("roles/cloudquotas.viewer", "the project", "see a shortage of quota before a launch", optional=True),
)
JOBS: Final = (
    Grant("roles/storage.objectUser", "the bucket only", "read data, write checkpoints and results"),
    Grant("roles/secretmanager.secretAccessor", "each secret that a recipe names", "read it inside the job", optional=True),
)
AGENTS: Final = (
    Grant("roles/artifactregistry.reader", "the repository, where it is in another project", "the Vertex AI service agent pulls the image"),
    Grant("roles/artifactregistry.writer", "the repository", "the Cloud Build service account pushes it (gcp_image = remote)"),
)


def policy_text(project: str = "PROJECT", bucket: str = "BUCKET", account: str = "SERVICE_ACCOUNT") -> str:
    """The roles as text, with the commands that give the two that people forget."""
    such_as = (
        "Such as:\n"
        f"  gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:{account} --role=roles/storage.objectUser\n"
        f"  gcloud iam service-accounts add-iam-policy-binding {account} --member=user:YOU --role=roles/iam.serviceAccountUser"
    )
    parts = [
        f"APIs to enable in {project}: " + " ".join(f"{name}.googleapis.com" for name in (*APIS, "secretmanager", "cloudquotas")),
        _section("You, who launch jobs", YOURS),
        _section(f"The account that jobs run as ({account})", JOBS),
        _section("Google's own accounts", AGENTS),
        such_as,
    ]
    return "\n\n".join(parts)


def _section(title: str, grants: tuple[Grant, ...]) -> str:
    lines = [f"  {one.role:<38} on {one.on}: {one.why}{' (optional)' if one.optional else ''}" for one in grants]
    return "\n".join([f"{title}:", *lines])
