"""What can be known to fail on Vertex AI before money is spent, each with its fix; ``doctor`` shows the same as rows. Changes nothing.

    login and project → rights → APIs → job account → bucket and its region → repository → accelerator → quota → inputs → secrets

A question that the login may not ask is a note and stops nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cloudtune.errors import AuthError, CapacityError, CloudtuneError, NotFoundError, QuotaError, RejectedError, StagingError, StoreError
from cloudtune.providers.base import Finding
from cloudtune.providers.gcp.machines import availability
from cloudtune.providers.gcp.policy import ACT_AS, APIS, BUCKET_PERMISSIONS, PERMISSIONS
from cloudtune.providers.gcp.quotas import limits, metrics
from cloudtune.providers.gcp.request import account, repository
from cloudtune.wire.gcs import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cloudtune.clock import Clock
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.gcp.copying import InputSettings
    from cloudtune.providers.gcp.services import Services

_POLICY: Final = "cloudtune doctor --provider gcp --print-policy"
_QUOTAS: Final = "console > IAM & Admin > Quotas, service aiplatform.googleapis.com"


class GcpPreflight:
    """A Preflight for plans, and an Examiner without one."""

    def __init__(self, settings: InputSettings, services: Services, clock: Clock) -> None:
        self._settings = settings
        self._services = services
        self._clock = clock

    def check(self, plan: Plan) -> Sequence[CloudtuneError]:
        """Every problem found; without a login only that one."""
        return [finding.error for finding in self._findings(plan) if finding.error is not None]

    def examine(self) -> Sequence[Finding]:
        """Every row that needs no plan; none without the settings, which doctor lists by itself."""
        try:
            account(self._settings)
        except CloudtuneError:
            return []
        return list(self._findings(None))

    def _findings(self, plan: Plan | None) -> Iterator[Finding]:
        try:
            project, bucket, region = account(self._settings, plan.chosen.region if plan else None)
        except CloudtuneError as error:
            yield _problem("settings", error)
            return
        login = _looked("project", lambda: self._project(project))
        yield login
        if login.error is not None:
            return
        yield _looked("rights", lambda: self._rights(project))
        if plan is None:
            yield from (_looked(f"API {name}", lambda name=name: self._api(project, name)) for name in APIS)  # type: ignore[misc]
        job_account = (plan.recipe.compute.gcp.service_account if plan else None) or self._settings.gcp_service_account
        yield _looked("job account", lambda: self._job_account(project, job_account))
        yield _looked("bucket", lambda: self._bucket(bucket, region))
        yield _looked("repository", lambda: self._repository(repository(self._settings, project, region)))
        if plan is not None:
            yield from self._plan(plan, project, region)

    def _plan(self, plan: Plan, project: str, region: str) -> Iterator[Finding]:
        yield _looked("accelerator", lambda: _accelerator(plan, region))
        yield _looked("quota", lambda: self._quota(plan, project, region))
        yield from self._inputs(plan, region)
        for name, source in sorted(plan.recipe.secrets.items()):
            if source.startswith("gcp:secretmanager:"):
                yield _looked(f"secret {name}", lambda source=source, name=name: self._secret(project, name, source))  # type: ignore[misc]

    def _inputs(self, plan: Plan, region: str) -> Iterator[Finding]:
        """What the plan reads from buckets, one by one."""
        from cloudtune.providers.gcp.inputs import look_at_input
        from cloudtune.rendering.jobfile import bucket_inputs

        for item in bucket_inputs(plan):
            yield _looked(
                f"input {item.uri}",
                lambda item=item: look_at_input(item, region, self._services.login, self._clock.sleep, self._settings),  # type: ignore[misc]
                yours=item.uri.startswith("s3://"),
            )

    def _project(self, project: str) -> str:
        found = self._services.get("cloudresourcemanager", f"/v1/projects/{project}")
        if found.get("lifecycleState", "ACTIVE") != "ACTIVE":
            raise RejectedError(f"the project {project} is {found['lifecycleState']}", hint="set CLOUDTUNE_GCP_PROJECT to another")
        return f"{project} ({found.get('projectNumber', 'number unknown')})"

    def _rights(self, project: str) -> str:
        path = f"/v1/projects/{project}:testIamPermissions"
        granted = self._services.post("cloudresourcemanager", path, {"permissions": list(PERMISSIONS)}).get("permissions", ())
        missing = [name for name in PERMISSIONS if name not in granted]
        if missing:
            raise AuthError(
                f"you lack {', '.join(missing)}", where=project, code="rights", hint=f"ask for roles/aiplatform.user; all roles: {_POLICY}"
            )
        return "custom jobs may be created, listed and cancelled"

    def _api(self, project: str, name: str) -> str:
        state = self._services.get("serviceusage", f"/v1/projects/{project}/services/{name}.googleapis.com").get("state")
        if state != "ENABLED":
            raise RejectedError(
                f"the API {name}.googleapis.com is not enabled", code="api", hint=f"run: gcloud services enable {name}.googleapis.com"
            )
        return "enabled"

    def _job_account(self, project: str, email: str | None) -> str | Finding:
        if not email:
            return Finding(
                "job account",
                "note",
                "not set: jobs run as the project's own Vertex AI account, which may read no secret",
                "set CLOUDTUNE_GCP_SERVICE_ACCOUNT",
            )
        path = f"/v1/projects/{project}/serviceAccounts/{email}:testIamPermissions"
        try:
            granted = self._services.post("iam", path, {"permissions": [ACT_AS]}).get("permissions", ())
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no service account {email}", code="no-account", hint=f"make it: gcloud iam service-accounts create; {_POLICY}"
            ) from error
        if ACT_AS not in granted:
            raise AuthError(
                f"you may not let jobs run as {email}", code="act-as", hint=f"ask for roles/iam.serviceAccountUser on it; {_POLICY}"
            )
        return email

    def _bucket(self, name: str, region: str) -> str | Finding:
        bucket = Bucket(name, self._services.login, sleep=self._clock.sleep)
        try:
            place = str(bucket.facts().get("location", "")).lower()
        except StoreError as error:
            raise StagingError(
                f"there is no bucket {name}", code="no-bucket", hint=f"run: gcloud storage buckets create gs://{name} --location={region}"
            ) from error
        missing = [permission for permission in BUCKET_PERMISSIONS if permission not in bucket.allowed(BUCKET_PERMISSIONS)]
        if missing:
            raise AuthError(
                f"you lack {', '.join(missing)} on the bucket {name}", code="rights", hint=f"ask for roles/storage.objectUser; {_POLICY}"
            )
        if place != region:
            return Finding(
                "bucket",
                "note",
                f"{name} is in {place}, jobs run in {region}: reading it is slower and billed",
                "take a bucket of the region",
            )
        return f"{name} in {place}"

    def _repository(self, name: str) -> str | Finding:
        """A missing repository would otherwise show when an image that took ten minutes is pushed."""
        host, _, rest = name.partition("/")
        region = host.removesuffix("-docker.pkg.dev")
        project, _, folder = rest.partition("/")
        if region == host or not folder:
            return Finding("repository", "note", f"{name} is not in Artifact Registry, so it is not looked at")
        try:
            self._services.get("artifactregistry", f"/v1/projects/{project}/locations/{region}/repositories/{folder.partition('/')[0]}")
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no repository {name}",
                code="no-repository",
                hint=f"run: gcloud artifacts repositories create {folder} --repository-format=docker --location={region}",
            ) from error
        return name

    def _quota(self, plan: Plan, project: str, region: str) -> str | Finding:
        have, needed = limits(self._services, project, region), metrics(plan)
        short = {name: amount for name, amount in needed.items() if 0 <= have.get(name, amount) < amount}
        if short:
            told = ", ".join(f"{name} is {have[name]} and the job needs {amount}" for name, amount in short.items())
            raise QuotaError(
                f"the project's quota in {region} is too small: {told}",
                hint=f"ask for more at {_QUOTAS}; or choose another machine, region or purchase",
            )
        unknown = [name for name in needed if name not in have]
        if unknown:
            return Finding("quota", "note", f"the quota {', '.join(unknown)} is not listed", f"look at {_QUOTAS}")
        return ", ".join(f"{name} {have[name]}, needed {amount}" for name, amount in needed.items())

    def _secret(self, project: str, name: str, source: str) -> str:
        key = source.removeprefix("gcp:secretmanager:")
        path = key if key.startswith("projects/") else f"projects/{project}/secrets/{key}"
        try:
            self._services.get("secretmanager", f"/v1/{path}")
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no secret {key} for {name}", code="no-secret", hint=f"run: gcloud secrets create {key}"
            ) from error
        return f"{key} is there; the job reads it with its own account"


def _accelerator(plan: Plan, region: str) -> str | Finding:
    card = plan.chosen.accelerator
    known = availability(region, card)
    if known == "no":
        raise CapacityError(f"{region} has no {card} for training", code="not-in-region", hint="choose another machine or region")
    if known == "unknown":
        return Finding(
            "accelerator", "note", f"whether {region} has {card} for training is not in our tables", "Google's page: Vertex AI locations"
        )
    return f"{card or 'none'} in {region}"


def _problem(name: str, error: CloudtuneError) -> Finding:
    return Finding(name, "problem", error.what, error.hint, error)


def _looked(name: str, look: Callable[[], str | Finding], *, yours: bool = False) -> Finding:
    """What ``look`` found; what it raises is a problem, except that it may not look or got no answer.

    ``yours``: your own login has to read it, so that it may not is a problem too.
    """
    try:
        found = look()
    except CloudtuneError as error:
        if error.retryable or (isinstance(error, AuthError) and error.code == "auth" and not yours):
            return Finding(name, "note", f"could not be looked at: {error.what}", error.hint)
        return _problem(name, error)
    return found if isinstance(found, Finding) else Finding(name, "ok", found)
