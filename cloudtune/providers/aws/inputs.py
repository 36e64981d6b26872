"""Data and base models that a job reads from the user's own buckets: looked at before money is spent. Changes nothing.

    bucket: there, in the job's region → file or folder: there → the job's role: may list and read it

The job reads with its role, so a login that may not look is a note, and a role that may not read is a problem.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from cloudtune.errors import AuthError, CloudtuneError, NotFoundError, RejectedError
from cloudtune.models.folder import CONFIG, missing_in
from cloudtune.providers.aws.bucket import look_at
from cloudtune.providers.aws.client import asking
from cloudtune.providers.aws.names import partition_of, role_name
from cloudtune.providers.base import Finding
from cloudtune.units import gib
from cloudtune.wire.aws import CURIOUS, Login, facts_of
from cloudtune.wire.s3 import Bucket, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cloudtune.planning.plan import Plan
    from cloudtune.rendering.jobfile import BucketInput

_MOST_FILES: Final = 1000
_LATER: Final = "the job reads it with its role"


def questions(login: Login, plan: Plan, role: str | None) -> Iterator[tuple[str, Callable[[], str | Finding]]]:
    """(name, what looks) of every input that the plan reads from a bucket; what looks raises CloudtuneError for a problem."""
    from cloudtune.rendering.jobfile import bucket_inputs

    for item in bucket_inputs(plan):
        yield item.name, lambda item=item: look(login, item, plan.chosen.region, role)  # type: ignore[misc]


def look(login: Login, item: BucketInput, region: str, role: str | None) -> str | Finding:
    """How large the input is. Raises NotFoundError, RejectedError for another region, AuthError for a role that may not read it."""
    name, key = split(item.uri)
    bucket = Bucket(login, name)
    doubt = _doubt(bucket, item, role) if role else None
    try:
        _require_bucket(bucket, region)
        found = _model(bucket, item.uri, key) if item.is_model else _file(bucket, item.uri, key)
    except AuthError as error:
        if error.code not in ("store-denied", "bucket-denied"):
            raise
        return Finding(item.name, "note", f"{item.uri} could not be looked at: the login may not", _LATER)
    return doubt or found


def _require_bucket(bucket: Bucket, region: str) -> None:
    there = look_at(bucket, None)
    if there is None:
        raise NotFoundError(
            f"there is no bucket {bucket.name}", where=bucket.where(), code="no-bucket", hint="check the address in the recipe"
        )
    if there and there != region:
        raise RejectedError(
            f"the bucket {bucket.name} lies in {there}, and the job runs in {region}",
            where=bucket.where(),
            code="bucket-region",
            hint=f"plan with --set compute.regions=[{there}], or copy the files to a bucket in {region}: aws s3 cp --recursive",
        )


def _file(bucket: Bucket, uri: str, key: str) -> str:
    head = bucket.head(key)
    if head is None:
        raise NotFoundError("there is no such file in the bucket", where=uri, code="data-missing", hint="check data in the recipe")
    return f"{uri}, {gib(head.bytes)}"


def _model(bucket: Bucket, uri: str, prefix: str) -> str:
    """A model folder has its config.json in it, and weights."""
    folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    files = {head.key.removeprefix(folder): head.bytes for head in islice(bucket.list(folder), _MOST_FILES)}
    missing = missing_in(files)
    if missing:
        raise NotFoundError(
            f"the base model's folder has no {missing}",
            where=uri,
            code="model-missing",
            hint="model.base names the folder with config.json",
        )
    return f"{uri}, {len(files)} files, {gib(sum(files.values()))}"


def _doubt(bucket: Bucket, item: BucketInput, role: str) -> Finding | None:
    """A note where the role's own policies do not let it read the input, and the bucket's policy may.

    The policy simulator is asked, where the login may ask it. Raises AuthError where no policy can help.
    """
    refused = _refused(bucket, item, role)
    if refused is None:
        return None
    decision, action, resource = refused
    what = f"the role {role_name(role)} may not read {item.uri}"
    hint = f"allow it {action} on {resource} (the role's policy needs s3:ListBucket and s3:GetObject on your data)"
    if decision == "explicitDeny" or not _may_have_policy(bucket):
        raise AuthError(what, where=role, code="role-denied", hint=hint)
    return Finding(item.name, "note", f"{what} by its own policies; the bucket's policy has to allow it", hint)


def _refused(bucket: Bucket, item: BucketInput, role: str) -> tuple[str, str, str] | None:
    """(decision, action, resource) of the first right that the role's own policies do not give; None when all are there or nobody knows."""
    _, key = split(item.uri)
    whole = f"arn:{partition_of(role)}:s3:::{bucket.name}"
    path = f"{key.rstrip('/')}/{CONFIG}".lstrip("/") if item.is_model else key
    for action, resource in (("s3:ListBucket", whole), ("s3:GetObject", f"{whole}/{path}")):
        try:
            with asking(bucket.login, role):
                answer = bucket.login.client("iam", pace=CURIOUS).simulate_principal_policy(
                    PolicySourceArn=role, ActionNames=[action], ResourceArns=[resource]
                )
        except CloudtuneError:
            return None  # who may not ask the simulator learns it from the job
        decision = next((result["EvalDecision"] for result in answer["EvaluationResults"] if result["EvalDecision"] != "allowed"), None)
        if decision:
            return decision, action, resource
    return None


def _may_have_policy(bucket: Bucket) -> bool:
    """Whether the bucket has a policy of its own, or that may not be asked."""
    try:
        with asking(bucket.login, bucket.where()):
            bucket.client.get_bucket_policy(Bucket=bucket.name)
    except CloudtuneError as error:
        return error.__cause__ is None or facts_of(error.__cause__).code not in ("NoSuchBucketPolicy", "NoSuchBucket")
    return True
