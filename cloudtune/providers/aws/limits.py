"""What SageMaker takes in a training job, as our own table, and a check that names every violation at once. Pure.

botocore checks types, required members and minima, and leaves maxima, patterns and word lists to the service, whose
answer names one fault at a time. Read 2026-11-23 from the service description of botocore 1.44.5; a member that we
never send is not in the table and counts as a violation. tests/unit/test_aws_limits.py compares it with botocore.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cloudtune.providers.aws.instances import INSTANCE_TYPES, has_local_disk
from cloudtune.providers.checks import Flag, Items, Pairs, Text, Violation, Whole, Word, check, members, refuse, with_fixes, words

DAY: Final = 86_400
MAX_RUNTIME: Final = 28 * DAY
MIN_PENDING: Final = 1_800


_S3 = Text(1024, pattern=r"(https|s3)://([^/]+)/?(.*)")
_KMS = Text(2048, pattern=r"[a-zA-Z0-9:/_-]*")
_INSTANCE = Word(INSTANCE_TYPES)
_COUNT = Whole(1)  # the service takes 0 only where each preference has its own count, which we never write
_NETWORK_ID = Text(32, pattern=r"[-0-9a-zA-Z]+")
# The service allows every Unicode letter, number and space; \w and these spaces are what a tag of ours can hold.
_TAG = r"[\w \u00a0.:/=+\-@]*"
_MODE = words("Pipe File FastFile")
_SOURCE = members(
    "S3DataType S3Uri", S3DataType=words("ManifestFile S3Prefix AugmentedManifestFile Converse"), S3Uri=_S3,
    S3DataDistributionType=words("FullyReplicated ShardedByS3Key"),
)  # fmt: skip
_CHANNEL = members(
    "ChannelName DataSource", ChannelName=Text(64, 1, r"[A-Za-z0-9\.\-_]+"), DataSource=members("S3DataSource", S3DataSource=_SOURCE),
    CompressionType=words("None Gzip"), RecordWrapperType=words("None RecordIO"), InputMode=_MODE,
)  # fmt: skip
_ALGORITHM = members(
    "TrainingInputMode TrainingImage", TrainingImage=Text(255, 1, r".*"), TrainingInputMode=_MODE,
    MetricDefinitions=Items(members("Name Regex", Name=Text(255, 1, r".+"), Regex=Text(500, 1, r".+")), 40),
    ContainerEntrypoint=Items(Text(256, pattern=r".*"), 100, 1), ContainerArguments=Items(Text(256, pattern=r".*"), 100, 1),
)  # fmt: skip
_PLAN = Text(2048, 50, r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:training-plan/.*")
_RESOURCES = members(
    "InstanceCount", InstanceType=_INSTANCE, InstanceCount=_COUNT, VolumeSizeInGB=Whole(1), VolumeKmsKeyId=_KMS,
    KeepAlivePeriodInSeconds=Whole(0, 21_600), TrainingPlanArn=_PLAN,
    InstancePreferences=Items(members("InstanceType", InstanceType=_INSTANCE), 5, 1),
)  # fmt: skip
_STOPPING = members(
    "MaxRuntimeInSeconds", MaxRuntimeInSeconds=Whole(1, MAX_RUNTIME), MaxWaitTimeInSeconds=Whole(1, MAX_RUNTIME),
    MaxPendingTimeInSeconds=Whole(MIN_PENDING, MAX_RUNTIME),
)  # fmt: skip

REQUEST: Final = members(
    # The last four are optional in the service's own description, because serverless jobs do without; ours never can.
    "TrainingJobName RoleArn OutputDataConfig AlgorithmSpecification ResourceConfig StoppingCondition InputDataConfig",
    TrainingJobName=Text(63, 1, r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"),
    RoleArn=Text(2048, 20, r"arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"),
    AlgorithmSpecification=_ALGORITHM,
    InputDataConfig=Items(_CHANNEL, 20, 1),
    OutputDataConfig=members("S3OutputPath", S3OutputPath=_S3, KmsKeyId=_KMS, CompressionType=words("GZIP NONE")),
    ResourceConfig=_RESOURCES,
    StoppingCondition=_STOPPING,
    VpcConfig=members("SecurityGroupIds Subnets", SecurityGroupIds=Items(_NETWORK_ID, 5, 1), Subnets=Items(_NETWORK_ID, 16, 1)),
    EnableNetworkIsolation=Flag(),
    EnableInterContainerTrafficEncryption=Flag(),
    EnableManagedSpotTraining=Flag(),
    CheckpointConfig=members("S3Uri", S3Uri=_S3, LocalPath=Text(4096, pattern=r".*")),
    Environment=Pairs(Text(512, pattern=r"[a-zA-Z_][a-zA-Z0-9_]*"), Text(512, pattern=r"[\S\s]*"), 100),
    RetryStrategy=members("MaximumRetryAttempts", MaximumRetryAttempts=Whole(1, 30)),
    Tags=Items(members("Key Value", Key=Text(128, 1, _TAG), Value=Text(256, 0, _TAG)), 50),
)  # fmt: skip

# Which line of a recipe or setting a member comes from; the longest beginning that matches is taken.
_FIXES: Final = {
    "": "this is a fault of cloudtune: please report it",
    "TrainingJobName": "choose a shorter recipe name, or a job id of letters, digits and hyphens",
    "RoleArn": "set aws_role (CLOUDTUNE_AWS_ROLE) to an ARN such as arn:aws:iam::123456789012:role/cloudtune-job",
    "OutputDataConfig.S3OutputPath": "set aws_bucket (CLOUDTUNE_AWS_BUCKET) to a bucket's name",
    "OutputDataConfig.KmsKeyId": "check compute.aws.kms_key: a key id or its ARN",
    "ResourceConfig.VolumeKmsKeyId": "check compute.aws.kms_key: a key id or its ARN",
    "ResourceConfig.VolumeSizeInGB": "check compute.disk_gib",
    "ResourceConfig.InstanceType": "check compute.instance: a training type such as ml.g5.2xlarge",
    "ResourceConfig.InstancePreferences": "check compute.aws.fallback_instances: at most four, each once",
    "ResourceConfig.InstanceCount": "check compute.nodes",
    "ResourceConfig.KeepAlivePeriodInSeconds": "check compute.aws.keep_alive_minutes: warm pools are for on-demand machines of one type",
    "ResourceConfig.TrainingPlanArn": "check compute.aws.training_plan: the ARN of a training plan, and purchase: on_demand",
    "StoppingCondition": "check compute.max_hours: at most 672 hours (28 days)",
    "VpcConfig": "check compute.aws.subnets (1 to 16) and compute.aws.security_groups (1 to 5)",
    "EnableManagedSpotTraining": "choose purchase: on_demand, or take keep_alive_minutes, training_plan and fallback_instances away",
    "CheckpointConfig": "spot needs checkpoints",
    "InputDataConfig": "set aws_bucket (CLOUDTUNE_AWS_BUCKET) to a bucket's name",
    "AlgorithmSpecification.TrainingImage": "use a shorter repository name",
}


def violations(body: Mapping[str, Any]) -> tuple[Violation, ...]:
    """Every way in which ``body`` is not a training job that SageMaker would take; empty = none known."""
    return with_fixes([*check(REQUEST, body), *_rules(body)], _FIXES)


def require_valid(body: Mapping[str, Any]) -> None:
    """Raises RejectedError, code ``request-limits``, that lists every violation with its path, the kind of value and the fix."""
    refuse("SageMaker", violations(body))


def _rules(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What holds between members, from the service's prose; looks only at members of the right kind."""
    resources, stopping = _part(body, "ResourceConfig"), _part(body, "StoppingCondition")
    spot = body.get("EnableManagedSpotTraining") is True
    preferred = _preferred(resources)
    if ("InstanceType" in resources) == ("InstancePreferences" in resources):
        yield "ResourceConfig.InstanceType", "must be there, or InstancePreferences instead of it, and not both"
    if len(set(preferred)) != len(preferred):
        yield "ResourceConfig.InstancePreferences", "names a type twice"
    types = preferred or [str(resources.get("InstanceType"))]
    if "VolumeKmsKeyId" in resources and any(has_local_disk(name) for name in types):
        yield "ResourceConfig.VolumeKmsKeyId", "is refused for types with a disk of their own, which is always encrypted"
    wait, run = stopping.get("MaxWaitTimeInSeconds"), stopping.get("MaxRuntimeInSeconds")
    if spot and (not isinstance(wait, int) or (isinstance(run, int) and wait < run)):
        yield "StoppingCondition.MaxWaitTimeInSeconds", "must be there for spot and no shorter than MaxRuntimeInSeconds"
    if not spot and wait is not None:
        yield "StoppingCondition.MaxWaitTimeInSeconds", "is for spot only"
    if spot and "CheckpointConfig" not in body:
        yield "CheckpointConfig", "is missing, and a spot job without it starts over after every interruption"
    yield from _exclusions(resources, spot=spot)


def _exclusions(resources: Mapping[str, Any], *, spot: bool) -> Iterator[tuple[str, str]]:
    """What spot shuts out."""
    for name, what in (
        ("InstancePreferences", "a list of types"),
        ("KeepAlivePeriodInSeconds", "a warm pool"),
        ("TrainingPlanArn", "a training plan"),
    ):
        if spot and resources.get(name):
            yield "EnableManagedSpotTraining", f"cannot be combined with {what}"


def _part(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _preferred(resources: Mapping[str, Any]) -> Sequence[str]:
    value = resources.get("InstancePreferences")
    return [str(one.get("InstanceType")) for one in value if isinstance(one, dict)] if isinstance(value, list) else []
