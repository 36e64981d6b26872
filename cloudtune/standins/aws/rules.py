"""What CreateTrainingJob refuses beyond sizes and patterns: rules between members, the role, the data, the quota. Runs nothing.

Sentences are AWS's own where they are known from reports (reference of 2026-11-23, sections 2.3 and 2.9); others say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from cloudtune.providers.aws.instances import has_local_disk
from cloudtune.standins.aws.answers import USER, AwsError
from cloudtune.standins.aws.files import split_uri

if TYPE_CHECKING:
    from cloudtune.standins.aws.account import Account
    from cloudtune.standins.aws.record import Record


_LONGEST = 28 * 86_400


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def check_members(body: Mapping[str, Any]) -> None:
    """Rules between members. Raises AwsError."""
    for name in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if name not in body:
            raise _invalid(f"1 validation error detected: Value null at '{name[0].lower() + name[1:]}' failed to satisfy constraint: "
                           "Member must not be null")  # fmt: skip
    resources, stopping = body["ResourceConfig"], body["StoppingCondition"]
    _check_machines(resources)
    _check_times(stopping, spot=bool(body.get("EnableManagedSpotTraining")))
    if body.get("EnableManagedSpotTraining"):
        _check_spot(resources)
    names = [channel["ChannelName"] for channel in body.get("InputDataConfig") or ()]
    if len(set(names)) != len(names):
        raise _invalid("Channel names must be unique")


def _check_machines(resources: Mapping[str, Any]) -> None:
    preferred = resources.get("InstancePreferences")
    if preferred and (resources.get("InstanceType") or resources.get("InstanceGroups")):
        raise _invalid("InstancePreferences cannot be specified together with InstanceType or InstanceGroups")
    if not (preferred or resources.get("InstanceType") or resources.get("InstanceGroups")):
        raise _invalid("One of InstanceType, InstanceGroups or InstancePreferences must be specified")
    types = [one["InstanceType"] for one in preferred] if preferred else [str(resources.get("InstanceType"))]
    own_disk = [name for name in types if has_local_disk(name)]
    if own_disk and resources.get("VolumeKmsKeyId"):
        raise _invalid(f"VolumeKmsKeyId is not supported for the instance type {own_disk[0]}")
    if not own_disk and not resources.get("VolumeSizeInGB"):
        raise _invalid("VolumeSizeInGB is required for the requested instance type")


def _check_times(stopping: Mapping[str, Any], *, spot: bool) -> None:
    wait, run = stopping.get("MaxWaitTimeInSeconds"), int(stopping.get("MaxRuntimeInSeconds") or 86_400)
    if run > _LONGEST:  # in the service's prose, not in its description
        raise _invalid(
            f"1 validation error detected: Value '{run}' at 'stoppingCondition.maxRuntimeInSeconds' failed to satisfy constraint: "
            f"Member must have value less than or equal to {_LONGEST}"
        )
    if not spot and wait is not None:
        raise _invalid("Invalid MaxWaitTimeInSeconds. It is only supported when EnableManagedSpotTraining is set to true")
    if spot and (wait is None or wait < run):
        raise _invalid("Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds")


def _check_spot(resources: Mapping[str, Any]) -> None:
    for name in ("KeepAlivePeriodInSeconds", "InstancePreferences", "TrainingPlanArn"):
        if resources.get(name):
            raise _invalid(f"{name} is not supported with EnableManagedSpotTraining")


def check_role(role: str, account: Account, iam: Any) -> None:
    """The caller may pass the role, and the role trusts the service. Raises AwsError."""
    if not account.may_pass_role:
        raise AwsError(
            "AccessDeniedException",
            f"User: {USER} is not authorized to perform: iam:PassRole on resource: {role} "
            "because no identity-based policy allows the iam:PassRole action",
        )
    from botocore.exceptions import ClientError

    try:
        found = iam.get_role(RoleName=role.rpartition("/")[2])["Role"]
    except ClientError:
        found = {}
    if found.get("Arn") != role or not _trusts(found.get("AssumeRolePolicyDocument", {})):
        raise _invalid(
            f"Could not assume role {role}. Please ensure that the role exists and allows principal 'sagemaker.amazonaws.com' "
            "to assume the role."
        )


def _trusts(policy: Any) -> bool:
    document = json.loads(unquote(policy)) if isinstance(policy, str) else policy
    statements = document.get("Statement", []) if isinstance(document, dict) else []
    services: list[str] = []
    for statement in [statements] if isinstance(statements, dict) else statements:
        named = statement.get("Principal", {}).get("Service", [])
        if statement.get("Effect") == "Allow":
            services += [named] if isinstance(named, str) else named
    return "sagemaker.amazonaws.com" in services


def check_data(body: Mapping[str, Any], account: Account, s3: Any) -> None:
    """Every channel has at least one object. Raises AwsError."""
    from botocore.exceptions import ClientError

    for channel in body.get("InputDataConfig") or ():
        uri = str(channel["DataSource"].get("S3DataSource", {}).get("S3Uri", ""))
        bucket, prefix = split_uri(uri)
        try:
            there = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("KeyCount", 0)
        except ClientError:
            there = 0
        if not there:
            raise _invalid(
                f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket exists in the '
                f"selected region ({account.region}), that objects exist under that S3 prefix, and that the role "
                f'"{body["RoleArn"]}" has "s3:ListBucket" permissions on bucket "{bucket}".'
            )


def check_quota(body: Mapping[str, Any], account: Account, running: Iterable[Record]) -> None:
    """The region has the type and the account may have so many at once. Raises AwsError ResourceLimitExceeded."""
    resources = body["ResourceConfig"]
    spot = bool(body.get("EnableManagedSpotTraining"))
    count = int(resources.get("InstanceCount") or 1)
    types = [one["InstanceType"] for one in resources.get("InstancePreferences") or ()] or [resources.get("InstanceType")]
    here = [name for name in types if name not in account.not_here]
    if not here:
        raise AwsError("ResourceLimitExceeded", f"The requested resource training-job/{types[0]} is not available in this region")
    live = [record for record in running if not record.ended and record.spot == spot]
    for name in here:
        quota = f"{name} for {'spot ' if spot else ''}training job usage"
        limit, used = account.quota_of(quota), sum(record.hosts for record in live if name in record.types())
        if used + count > limit:
            raise AwsError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{quota}' is {limit} Instances, with current utilization of {used} Instances and a "
                f"request delta of {count} Instances. Please use AWS Service Quotas to request an increase for this quota. "
                "If AWS Service Quotas is not available, contact AWS support to request an increase for this quota.",
            )
