"""What SageMaker takes in a training job, as our own table, and a check that names every violation at once. Pure.

botocore checks types, required members and minima, and leaves maxima, patterns and word lists to the service, whose
answer names one fault at a time. Read 2026-11-23 from the service description of botocore 1.44.5; a member that we
never send is not in the table and counts as a violation. tests/unit/test_aws_limits.py compares it with botocore.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloudtune.errors import RejectedError
from cloudtune.providers.aws.instances import INSTANCE_TYPES, has_local_disk

DAY: Final = 86_400
MAX_RUNTIME: Final = 28 * DAY
MIN_PENDING: Final = 1_800


@dataclass(frozen=True, slots=True)
class Violation:
    """``path`` is the member's place such as ``Tags[0].Key``; ``what`` never quotes a value, only its kind or size."""

    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Text:
    """Text of ``least`` to ``most`` characters that matches ``pattern`` as a whole."""

    most: int
    least: int = 0
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number; ``most`` None = the service names no maximum."""

    least: int
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """One of a list of words."""

    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    item: Kind
    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Pairs:
    """A mapping of free keys."""

    key: Text
    value: Text
    most: int


@dataclass(frozen=True, slots=True)
class Members:
    """A structure with named members."""

    members: Mapping[str, Kind]
    required: frozenset[str] = field(default_factory=frozenset)


Kind = Text | Whole | Word | Flag | Items | Pairs | Members


def _members(required: str, **members: Kind) -> Members:
    return Members(members, frozenset(required.split()))


def _words(text: str) -> Word:
    return Word(frozenset(text.split()))


_S3 = Text(1024, pattern=r"(https|s3)://([^/]+)/?(.*)")
_KMS = Text(2048, pattern=r"[a-zA-Z0-9:/_-]*")
_INSTANCE = Word(INSTANCE_TYPES)
_COUNT = Whole(1)  # the service takes 0 only where each preference has its own count, which we never write
_NETWORK_ID = Text(32, pattern=r"[-0-9a-zA-Z]+")
# The service allows every Unicode letter, number and space; \w and these spaces are what a tag of ours can hold.
_TAG = r"[\w \u00a0.:/=+\-@]*"
_MODE = _words("Pipe File FastFile")
_SOURCE = _members(
    "S3DataType S3Uri", S3DataType=_words("ManifestFile S3Prefix AugmentedManifestFile Converse"), S3Uri=_S3,
    S3DataDistributionType=_words("FullyReplicated ShardedByS3Key"),
)  # fmt: skip
_CHANNEL = _members(
    "ChannelName DataSource", ChannelName=Text(64, 1, r"[A-Za-z0-9\.\-_]+"), DataSource=_members("S3DataSource", S3DataSource=_SOURCE),
    CompressionType=_words("None Gzip"), RecordWrapperType=_words("None RecordIO"), InputMode=_MODE,
)  # fmt: skip
_ALGORITHM = _members(
    "TrainingInputMode TrainingImage", TrainingImage=Text(255, 1, r".*"), TrainingInputMode=_MODE,
    MetricDefinitions=Items(_members("Name Regex", Name=Text(255, 1, r".+"), Regex=Text(500, 1, r".+")), 40),
    ContainerEntrypoint=Items(Text(256, pattern=r".*"), 100, 1), ContainerArguments=Items(Text(256, pattern=r".*"), 100, 1),
)  # fmt: skip
_PLAN = Text(2048, 50, r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:training-plan/.*")
_RESOURCES = _members(
    "InstanceCount", InstanceType=_INSTANCE, InstanceCount=_COUNT, VolumeSizeInGB=Whole(1), VolumeKmsKeyId=_KMS,
    KeepAlivePeriodInSeconds=Whole(0, 21_600), TrainingPlanArn=_PLAN,
    InstancePreferences=Items(_members("InstanceType", InstanceType=_INSTANCE), 5, 1),
)  # fmt: skip
_STOPPING = _members(
    "MaxRuntimeInSeconds", MaxRuntimeInSeconds=Whole(1, MAX_RUNTIME), MaxWaitTimeInSeconds=Whole(1, MAX_RUNTIME),
    MaxPendingTimeInSeconds=Whole(MIN_PENDING, MAX_RUNTIME),
)  # fmt: skip

REQUEST: Final = _members(
    # The last four are optional in the service's own description, because serverless jobs do without; ours never can.
    "TrainingJobName RoleArn OutputDataConfig AlgorithmSpecification ResourceConfig StoppingCondition InputDataConfig",
    TrainingJobName=Text(63, 1, r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"),
    RoleArn=Text(2048, 20, r"arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"),
    AlgorithmSpecification=_ALGORITHM,
    InputDataConfig=Items(_CHANNEL, 20, 1),
    OutputDataConfig=_members("S3OutputPath", S3OutputPath=_S3, KmsKeyId=_KMS, CompressionType=_words("GZIP NONE")),
    ResourceConfig=_RESOURCES,
    StoppingCondition=_STOPPING,
    VpcConfig=_members("SecurityGroupIds Subnets", SecurityGroupIds=Items(_NETWORK_ID, 5, 1), Subnets=Items(_NETWORK_ID, 16, 1)),
    EnableNetworkIsolation=Flag(),
    EnableInterContainerTrafficEncryption=Flag(),
    EnableManagedSpotTraining=Flag(),
    CheckpointConfig=_members("S3Uri", S3Uri=_S3, LocalPath=Text(4096, pattern=r".*")),
    Environment=Pairs(Text(512, pattern=r"[a-zA-Z_][a-zA-Z0-9_]*"), Text(512, pattern=r"[\S\s]*"), 100),
    RetryStrategy=_members("MaximumRetryAttempts", MaximumRetryAttempts=Whole(1, 30)),
    Tags=Items(_members("Key Value", Key=Text(128, 1, _TAG), Value=Text(256, 0, _TAG)), 50),
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
    found = [*_check(REQUEST, body, ""), *_rules(body)]
    return tuple(Violation(path, what, _fix(path)) for path, what in found)


def require_valid(body: Mapping[str, Any]) -> None:
    """Raises RejectedError, code ``request-limits``, that lists every violation with its path, the kind of value and the fix."""
    found = violations(body)
    if not found:
        return
    count = f"{len(found)} limit{'s' if len(found) != 1 else ''}"
    raise RejectedError(
        f"SageMaker would refuse the request: it breaks {count}: " + " | ".join(f"{one.path}: {one.what}" for one in found),
        code="request-limits",
        hint="; ".join(dict.fromkeys(one.fix for one in found)),
    )


def _fix(path: str) -> str:
    plain = re.sub(r"\[\d+\]", "", path)
    return _FIXES[max((start for start in _FIXES if plain.startswith(start)), key=len)]


def _kind(value: object) -> str:
    return {str: "text", bool: "true or false", int: "a whole number", float: "a fraction", dict: "a mapping", list: "a list"}.get(
        type(value), "nothing" if value is None else type(value).__name__
    )


_WANTED: Final[dict[type, tuple[type, str]]] = {
    Text: (str, "text"), Word: (str, "text"), Whole: (int, "a whole number"), Flag: (bool, "true or false"),
    Items: (list, "a list"), Pairs: (dict, "a mapping"), Members: (dict, "a mapping"),
}  # fmt: skip


def _check(kind: Kind, value: Any, path: str) -> Iterator[tuple[str, str]]:
    wanted, name = _WANTED[type(kind)]
    if not _is(value, wanted):
        yield path, f"is {_kind(value)}, must be {name}"
        return
    match kind:
        case Text():
            yield from ((path, what) for what in _text(kind, value))
        case Word() if value not in kind.words:
            yield (
                path,
                "is a word that the service does not know"
                + (f", must be one of {', '.join(sorted(kind.words))}" if len(kind.words) < 10 else ""),
            )
        case Whole():
            yield from ((path, what) for what in _range("is", value, kind.least, kind.most))
        case Items():
            yield from ((path, what) for what in _range("has", len(value), kind.least, kind.most, "entries"))
            for index, item in enumerate(value):
                yield from _check(kind.item, item, f"{path}[{index}]")
        case Pairs():
            yield from ((path, what) for what in _range("has", len(value), 0, kind.most, "entries"))
            for index, (key, item) in enumerate(value.items()):
                yield from _check(kind.key, key, f"{path}.key[{index}]")
                yield from _check(kind.value, item, f"{path}.{str(key)[:60]}")
        case Members():
            yield from _structure(kind, value, path)


def _is(value: Any, wanted: type) -> bool:
    """Of this very type: isinstance would take true for a number."""
    return type(value) is wanted


def _structure(kind: Members, value: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    start = f"{path}." if path else ""
    for name in sorted(kind.required - value.keys()):
        yield f"{start}{name}", "is missing"
    for name, inner in value.items():
        if name in kind.members:
            yield from _check(kind.members[name], inner, f"{start}{name}")
        else:
            yield f"{start}{str(name)[:60]}", "is no member that we know"


def _text(kind: Text, value: str) -> Iterator[str]:
    wrong_size = list(_range("has", len(value), kind.least, kind.most, "characters"))
    yield from wrong_size
    # One fault is enough for one text, and some of these patterns are slow on what is far too long.
    if not wrong_size and kind.pattern and not re.fullmatch(kind.pattern, value):
        yield "is text of another form than the service takes"


def _range(verb: str, size: int, least: int, most: int | None, of: str = "") -> Iterator[str]:
    counted = f"{verb} {size} {of}".rstrip()
    if size < least:
        yield f"{counted}, must be at least {least}"
    if most is not None and size > most:
        yield f"{counted}, must be at most {most}"


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
    for name, words in (
        ("InstancePreferences", "a list of types"),
        ("KeepAlivePeriodInSeconds", "a warm pool"),
        ("TrainingPlanArn", "a training plan"),
    ):
        if spot and resources.get(name):
            yield "EnableManagedSpotTraining", f"cannot be combined with {words}"


def _part(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _preferred(resources: Mapping[str, Any]) -> Sequence[str]:
    value = resources.get("InstancePreferences")
    return [str(one.get("InstanceType")) for one in value if isinstance(one, dict)] if isinstance(value, list) else []
