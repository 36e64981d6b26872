"""What can be known to fail before money is spent, each with its fix; ``doctor`` shows the same as rows. Changes nothing.

    identity → role and its trust → may we pass it → bucket → data in other buckets → image → quota and what is in use → secrets

A question that the login may not ask is a note and stops nothing: many users may launch jobs and not read policies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import AuthError, CapacityError, CloudtuneError, NotFoundError, QuotaError, RejectedError, UsageError
from cloudtune.providers.aws.bucket import look_at
from cloudtune.providers.aws.client import asking
from cloudtune.providers.aws.inputs import questions
from cloudtune.providers.aws.names import AUTO, account_of, bucket_of, role_name
from cloudtune.providers.aws.quotas import CONSOLE, Quotas, in_use, quota_name, warm_pool_name
from cloudtune.providers.base import Finding
from cloudtune.wire.aws import CURIOUS, Login, facts_of
from cloudtune.wire.s3 import Bucket

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.aws.client import Regions
    from cloudtune.providers.aws.request import AwsSettings

SERVICE: Final = "sagemaker.amazonaws.com"
_POLICY: Final = "cloudtune doctor --provider aws --print-policy shows what is needed"


class AwsPreflight:
    """A Preflight for plans, and an Examiner without one."""

    def __init__(self, regions: Regions, settings: AwsSettings) -> None:
        self._regions = regions
        self._settings = settings

    def check(self, plan: Plan) -> Sequence[CloudtuneError]:
        """Every problem found; without a login only that one."""
        return [finding.error for finding in self._findings(plan.chosen.region, plan) if finding.error is not None]

    def examine(self) -> Sequence[Finding]:
        """Every row that needs no plan, in the region of the settings or of the login."""
        try:
            region = self._regions.default()
        except CloudtuneError as error:
            return [_problem("login", error)]
        if region is None:
            missing = UsageError("no region is set", code="setting-missing", hint="export CLOUDTUNE_AWS_REGION=us-east-1, or another")
            return [_problem("region", missing)]
        return [Finding("region", "ok", region), *self._findings(region, None)]

    def _findings(self, region: str, plan: Plan | None) -> Iterator[Finding]:
        login = self._regions.login(region)
        try:
            who = identity(login)
        except CloudtuneError as error:
            yield _problem("login", error)
            return
        yield Finding("login", "ok", str(who["Arn"]))
        role, bucket = self._settings.aws_role, self._settings.aws_bucket
        if role:
            yield from self._role(login, role, who)
        if role and bucket:
            yield _looked("bucket", lambda: _bucket(login, bucket, role, region))
        if plan is not None:
            yield from self._plan(login, plan)

    def _role(self, login: Login, role: str, who: dict[str, Any]) -> Iterator[Finding]:
        try:
            account = account_of(role)
        except CloudtuneError as error:
            yield _problem("role", error)
            return
        if account != who["Account"]:
            wrong = AuthError(
                f"the role is of account {account}, and the login of account {who['Account']}",
                code="wrong-account",
                hint="log in to the role's account (CLOUDTUNE_AWS_PROFILE), or set CLOUDTUNE_AWS_ROLE",
            )
            yield _problem("role", wrong)
            return
        yield _looked("role", lambda: _trust(login, role))
        yield _looked("pass role", lambda: _may_pass(login, role, str(who["Arn"])))

    def _plan(self, login: Login, plan: Plan) -> Iterator[Finding]:
        for name, look in questions(login, plan, self._settings.aws_role):
            yield _looked(name, look)
        yield _looked("image", lambda: _image(login, plan))
        cache = getattr(self._settings, "cache")  # noqa: B009 - what every place's settings have, and a request's need not
        quotas = Quotas(login, plan.chosen.region, cache)
        yield _looked("quota", lambda: _quota(login, quotas, plan))
        if plan.recipe.compute.aws.keep_alive_minutes:
            yield _looked("warm pool", lambda: _warm_pool(quotas, plan))
        for name, source in sorted(plan.recipe.secrets.items()):
            if source.startswith("aws:secretsmanager:"):
                yield _looked(f"secret {name}", lambda source=source, name=name: _secret(login, name, source))  # type: ignore[misc]


def identity(login: Login) -> dict[str, Any]:
    """Whose login it is: ``Account`` and ``Arn``. Raises AuthError without one."""
    with asking(login, "the AWS login"):
        found: dict[str, Any] = login.client("sts", pace=CURIOUS).get_caller_identity()
    return found


def _problem(name: str, error: CloudtuneError) -> Finding:
    return Finding(name, "problem", error.what, error.hint, error)


def _looked(name: str, look: Callable[[], str | Finding]) -> Finding:
    """What ``look`` found; what it raises is a problem, except that it may not look or got no answer."""
    try:
        found = look()
    except CloudtuneError as error:
        if error.retryable or (isinstance(error, AuthError) and error.code == "auth" and error.__cause__ is not None):
            return Finding(name, "note", f"could not be looked at: {error.what}", error.hint)
        return _problem(name, error)
    return found if isinstance(found, Finding) else Finding(name, "ok", found)


def _trust(login: Login, role: str) -> str | Finding:
    name = role_name(role)
    try:
        with asking(login, role):
            found = login.client("iam", pace=CURIOUS).get_role(RoleName=name)["Role"]
    except CloudtuneError as error:
        if _code(error) != "NoSuchEntity":
            raise
        raise NotFoundError(f"there is no role {name}", where=role, code="no-role", hint=f"make it; {_POLICY}") from error
    if not trusts(found.get("AssumeRolePolicyDocument") or {}):
        raise AuthError(
            f"the role {name} does not let {SERVICE} take it on", where=role, code="role-trust", hint=f"change its trust policy; {_POLICY}"
        )
    return f"{name} trusts {SERVICE}"


def trusts(document: dict[str, Any] | str) -> bool:
    """Whether a trust policy lets SageMaker take the role on; conditions are not weighed."""
    policy = json.loads(document) if isinstance(document, str) else document
    statements = policy.get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        services = statement.get("Principal", {}).get("Service", []) if isinstance(statement.get("Principal"), dict) else []
        if statement.get("Effect") == "Allow" and SERVICE in ([services] if isinstance(services, str) else services):
            return True
    return False


def _may_pass(login: Login, role: str, arn: str) -> str | Finding:
    """Asked of the policy simulator, where the login may ask it; the root user may do everything."""
    if arn.endswith(":root"):
        return "the root user may; a user with less rights is wiser"
    entry = {"ContextKeyName": "iam:PassedToService", "ContextKeyValues": [SERVICE], "ContextKeyType": "string"}
    try:
        with asking(login, arn):
            answer = login.client("iam", pace=CURIOUS).simulate_principal_policy(
                PolicySourceArn=_principal(arn), ActionNames=["iam:PassRole"], ResourceArns=[role], ContextEntries=[entry]
            )
    except CloudtuneError as error:
        return Finding("pass role", "note", f"could not be looked at: {error.what}", "a launch that lacks it says so, and costs nothing")
    verdicts = [result["EvalDecision"] for result in answer["EvaluationResults"]]
    if any(verdict != "allowed" for verdict in verdicts):
        raise AuthError(f"the login may not pass the role {role_name(role)} to {SERVICE}", where=arn, code="pass-role", hint=_POLICY)
    return "the login may pass it"


def _principal(arn: str) -> str:
    """The role behind a session: ``...:assumed-role/NAME/SESSION`` → ``...:role/NAME``; a user stays."""
    head, _, path = arn.partition(":assumed-role/")
    return f"{head.replace(':sts:', ':iam:')}:role/{path.partition('/')[0]}" if path else arn


def _bucket(login: Login, setting: str, role: str, region: str) -> str:
    bucket = Bucket(login, bucket_of(setting, role, region))
    # A bucket that the user names may belong to another account on purpose; the one we name must not.
    there = look_at(bucket, account_of(role) if setting == AUTO else None)
    if there is None and setting == AUTO:
        return f"{bucket.name} (made when first needed)"
    if there is None:
        raise NotFoundError(
            f"there is no bucket {bucket.name}", where=bucket.where(), code="no-bucket",
            hint=f"make it, or export CLOUDTUNE_AWS_BUCKET={AUTO}: then cloudtune makes one of the region's own",
        )  # fmt: skip
    if there and there != region:
        raise RejectedError(
            f"the bucket {bucket.name} lies in {there}, and the job runs in {region}", where=bucket.where(), code="bucket-region",
            hint=f"export CLOUDTUNE_AWS_BUCKET={AUTO}, or a bucket of {region}",
        )  # fmt: skip
    return f"{bucket.name} in {there or region}"


def _image(login: Login, plan: Plan) -> str | Finding:
    from cloudtune.providers.aws.images import stock_image_uri
    from cloudtune.rendering.image import STOCK_IMAGES, target_of

    image = STOCK_IMAGES["aws"].get(target_of(plan))
    if image is None:
        return Finding("image", "note", "no image of Amazon's for this kind of job", "one of your own: export CLOUDTUNE_AWS_IMAGE=remote")
    uri = stock_image_uri(image, plan.chosen.region)
    repository, _, tag = image.partition(":")
    try:
        with asking(login, uri):
            login.client("ecr", pace=CURIOUS).describe_images(
                registryId=uri.partition(".")[0], repositoryName=repository, imageIds=[{"imageTag": tag}]
            )
    except CloudtuneError as error:
        if _code(error) == "ImageNotFoundException":
            raise NotFoundError(
                f"Amazon's registry of {plan.chosen.region} has no image {image}",
                where=uri,
                code="no-image",
                hint="choose another region, or an image of your own: export CLOUDTUNE_AWS_IMAGE=remote",
            ) from error
        return Finding("image", "note", f"{image} could not be looked at: {error.what}", "the job's role fetches it, not this login")
    return uri


def _quota(login: Login, quotas: Quotas, plan: Plan) -> str:
    instance, spot, nodes = plan.chosen.instance, plan.chosen.purchase == "spot", plan.layout.nodes
    quota = quotas.look(quota_name(instance, spot=spot))
    hint = f"ask for more at: {CONSOLE} > {quota.name}; or choose another type, region or purchase"
    if quota.allowed is None:
        raise CapacityError(
            f"{plan.chosen.region} has no quota called {quota.name!r}, so it has no such machines", code="not-in-region", hint=hint
        )
    if quota.allowed < nodes:
        raise QuotaError(f"the account may use {quota.allowed} of {quota.name}, and the job needs {nodes}", where=quota.code, hint=hint)
    used = in_use(login, instance, spot=spot)
    if quota.allowed - used < nodes:
        raise QuotaError(
            f"the account may use {quota.allowed} of {quota.name}, {used} are in use, and the job needs {nodes}",
            where=quota.code,
            code="quota-in-use",
            hint=f"wait until a job has ended (cloudtune ps); or {hint}",
        )
    return f"{quota.allowed} of {quota.name}, {used} in use"


def _warm_pool(quotas: Quotas, plan: Plan) -> str | Finding:
    quota = quotas.look(warm_pool_name(plan.chosen.instance))
    if not quota.allowed:
        return Finding("warm pool", "note", f"no quota for {quota.name}", "the job runs, and no machine is kept for the next one")
    return f"{quota.allowed} of {quota.name}"


def _secret(login: Login, name: str, source: str) -> str:
    stored = source.removeprefix("aws:secretsmanager:")
    try:
        with asking(login, stored):
            login.client("secretsmanager", pace=CURIOUS).describe_secret(SecretId=stored)
    except CloudtuneError as error:
        if _code(error) != "ResourceNotFoundException":
            raise
        raise RejectedError(
            f"there is no secret {stored!r} for {name} in the job's region", where=source, code="secret-missing",
            hint=f"make it: aws secretsmanager create-secret --name {stored} --secret-string file://secret.txt",
        ) from error  # fmt: skip
    return f"{stored} is there; the job's role reads it"


def _code(error: CloudtuneError) -> str:
    return facts_of(error.__cause__).code if error.__cause__ is not None else ""
