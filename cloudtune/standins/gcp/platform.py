"""The small services around a job, as REST: rights, project, quotas, secrets, service accounts, the metadata server, enabled APIs.

Each answers from the scene; none keeps anything. Repositories and builds are in registry.py.
"""

from __future__ import annotations

import base64
from typing import Any

from cloudtune.standins.gcp import machines
from cloudtune.standins.gcp.answers import ApiError, denied, not_found
from cloudtune.standins.gcp.scene import GRANTED, Scene
from cloudtune.standins.gcp.wire import Answer, Call, Route, route

PLENTY = 10_000
SERVICES = ("aiplatform", "storage", "artifactregistry", "cloudbuild", "logging", "secretmanager", "cloudquotas")


class Platform:
    """The routes of the small services."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def routes(self) -> list[Route]:
        project = "/v{version}/projects/{project}"
        account = "/v1/projects/{project}/serviceAccounts/{account}"
        secret = "/v1/projects/{project}/secrets/{secret}"  # noqa: S105 - a path
        return [
            route("POST", f"{project}:testIamPermissions", "projects.testIamPermissions", self.project_permissions),
            route("POST", f"{account}:testIamPermissions", "serviceAccounts.testIamPermissions", self.account_permissions),
            route("GET", account, "serviceAccounts.get", self.account),
            route("GET", "/v1/projects/{project}/services/{service}", "services.get", self.service),
            route("GET", "/v1/projects/{project}/locations/global/services/{service}/quotaInfos", "quotaInfos.list", self.quotas),
            route("GET", f"{secret}/versions/{{name}}:access", "secrets.access", self.secret),
            route("GET", secret, "secrets.get", self.secret_facts),
            route("GET", project, "projects.get", self.project),
            route("GET", "/computeMetadata/v1/{path*}", "metadata.get", self.metadata),
            route("GET", "/computeMetadata/v1", "metadata.get", self.metadata),
            route("GET", "/", "metadata.get", self.metadata),
        ]

    def project_permissions(self, call: Call) -> Answer:
        self._own(call)
        wanted = [str(one) for one in call.json().get("permissions", [])]
        granted = [one for one in wanted if one in GRANTED and one not in self._scene.denied]
        return Answer({"permissions": granted} if granted else {})

    def account_permissions(self, call: Call) -> Answer:
        self.account(call)
        wanted = [str(one) for one in call.json().get("permissions", [])]
        mine = call.parts["account"] not in self._scene.strangers
        granted = [one for one in wanted if mine and one in GRANTED and one not in self._scene.denied]
        return Answer({"permissions": granted} if granted else {})

    def account(self, call: Call) -> Answer:
        name = call.parts["account"]
        if name != self._scene.service_account and name not in self._scene.strangers:
            raise ApiError("NOT_FOUND", f"Unknown service account: {name}")
        return Answer({"name": f"projects/{self._scene.project}/serviceAccounts/{name}", "email": name, "projectId": self._scene.project})

    def project(self, call: Call) -> Answer:
        self._own(call)
        if "resourcemanager.projects.get" in self._scene.denied:
            raise denied("resourcemanager.projects.get", f"projects/{call.parts['project']}", "cloudresourcemanager.googleapis.com")
        scene = self._scene
        if call.parts["version"] == "1":
            return Answer({"projectId": scene.project, "projectNumber": str(scene.number), "lifecycleState": "ACTIVE"})
        return Answer({"name": f"projects/{scene.number}", "projectId": scene.project, "state": "ACTIVE"})

    def service(self, call: Call) -> Answer:
        self._own(call)
        name = call.parts["service"]
        enabled = name.removesuffix(".googleapis.com") in SERVICES
        return Answer({"name": f"projects/{self._scene.number}/services/{name}", "state": "ENABLED" if enabled else "DISABLED"})

    def quotas(self, call: Call) -> Answer:
        """Cloud Quotas: each metric with its limit in this region, as ``QuotaInfo``; the pages have 50 metrics."""
        self._own(call)
        if "cloudquotas.quotas.get" in self._scene.denied:
            raise denied("cloudquotas.quotas.get", f"projects/{call.parts['project']}", "cloudquotas.googleapis.com")
        if call.parts["service"] != "aiplatform.googleapis.com":
            return Answer({})
        start = int(call.query.get("pageToken") or 0)
        size = min(int(call.query.get("pageSize") or 50), 50)
        infos = [self._quota(metric) for metric in self._metrics()]
        page = infos[start : start + size]
        more = {"nextPageToken": str(start + size)} if start + size < len(infos) else {}
        return Answer({"quotaInfos": page, **more})

    def _metrics(self) -> list[str]:
        names = {
            f"custom_model_training_{kind}nvidia_{word}_gpus" for word in machines.METRIC_WORDS.values() for kind in ("", "preemptible_")
        }
        names |= {f"custom_model_training_{kind}cpus" for kind in ("", "preemptible_", "c2_", "preemptible_c2_")}
        return sorted(names | set(self._scene.quotas))

    def _quota(self, metric: str) -> dict[str, Any]:
        words = "".join(part.capitalize() for part in metric.split("_"))
        limit = self._scene.quotas.get(metric, PLENTY)
        parent = f"projects/{self._scene.number}/locations/global/services/aiplatform.googleapis.com"
        return {
            "name": f"{parent}/quotaInfos/{words}PerProjectPerRegion",
            "quotaId": f"{words}PerProjectPerRegion",
            "metric": f"aiplatform.googleapis.com/{metric}",
            "service": "aiplatform.googleapis.com",
            "containerType": "PROJECT",
            "dimensions": ["region"],
            "metricDisplayName": metric.replace("_", " ").capitalize(),
            "dimensionsInfos": [
                {
                    "dimensions": {"region": self._scene.region},
                    "details": {"value": str(limit)},
                    "applicableLocations": [self._scene.region],
                },
            ],
        }

    def secret(self, call: Call) -> Answer:
        if "secretmanager.versions.access" in self._scene.denied:
            raise denied("secretmanager.versions.access", call.path.removeprefix("/v1/"), "secretmanager.googleapis.com")
        value = self._secret(call)
        name = f"projects/{self._scene.number}/secrets/{call.parts['secret']}/versions/1"
        return Answer({"name": name, "payload": {"data": base64.b64encode(value.encode()).decode()}})

    def secret_facts(self, call: Call) -> Answer:
        self._secret(call)
        return Answer({"name": f"projects/{self._scene.number}/secrets/{call.parts['secret']}", "replication": {"automatic": {}}})

    def _secret(self, call: Call) -> str:
        self._own(call)
        value = self._scene.secrets.get(call.parts["secret"])
        if value is None:
            raise not_found("Secret", f"projects/{self._scene.number}/secrets/{call.parts['secret']}")
        return value

    def metadata(self, call: Call) -> Answer:
        """What a machine in the cloud asks about itself: project, service account, access token."""
        headers = {"Metadata-Flavor": "Google", "Content-Type": "text/plain"}
        path = call.parts.get("path", "").rstrip("/")
        if path and call.headers.get("metadata-flavor") != "Google":
            return Answer(b"Missing Metadata-Flavor:Google header.", 403, headers)
        account = "instance/service-accounts/"
        texts = {
            "": "computeMetadata/",
            "project/project-id": self._scene.project,
            "project/numeric-project-id": str(self._scene.number),
            "universe/universe-domain": "googleapis.com",
            f"{account}default/email": self._scene.service_account,
        }
        if path == f"{account}default/token":
            return Answer(
                {"access_token": "ya29.standin", "expires_in": 3599, "token_type": "Bearer"}, headers={"Metadata-Flavor": "Google"}
            )
        if path in (f"{account}default", account + self._scene.service_account):
            facts = {
                "aliases": ["default"],
                "email": self._scene.service_account,
                "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            }
            return Answer(facts, headers={"Metadata-Flavor": "Google"})
        if path not in texts:
            return Answer(b"Not found", 404, headers)
        return Answer(texts[path].encode(), headers=headers)

    def _own(self, call: Call) -> None:
        if call.parts["project"] not in (self._scene.project, str(self._scene.number)):
            raise ApiError("PERMISSION_DENIED", f"Permission denied on resource project {call.parts['project']}.", "CONSUMER_INVALID")
