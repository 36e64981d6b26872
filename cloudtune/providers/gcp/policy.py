"""Who needs which role of Google Cloud for what, as tables, for ``doctor --print-policy``. Pure.

Roles as of Google's pages read 2026-11-23; nothing of it was tried on a real project.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

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


def policies(project: str, bucket: str, account: str) -> dict[str, Any]:
    """The roles by whom they are for, the APIs, and the commands that give the two that people forget."""
    member = f"--member=serviceAccount:{account}"
    return {
        "apis": [f"{name}.googleapis.com" for name in (*APIS, "secretmanager", "cloudquotas")],
        "you": [asdict(one) for one in YOURS],
        f"the account of the jobs ({account})": [asdict(one) for one in JOBS],
        "google's own accounts": [asdict(one) for one in AGENTS],
        "commands": [
            "gcloud services enable " + " ".join(f"{name}.googleapis.com" for name in APIS) + f" --project={project}",
            f"gcloud storage buckets add-iam-policy-binding gs://{bucket} {member} --role=roles/storage.objectUser",
            f"gcloud iam service-accounts add-iam-policy-binding {account} --member=user:YOU --role=roles/iam.serviceAccountUser",
        ],
    }
