"""The table of SageMaker's limits: every violation at once, and the table itself against botocore where that is installed."""

import copy

import pytest

from cloudtune.errors import RejectedError
from cloudtune.providers.aws.instances import INSTANCE_TYPES
from cloudtune.providers.aws.limits import REQUEST, require_valid, violations
from cloudtune.providers.aws.tables import SECONDARY, STATUSES
from cloudtune.providers.checks import Flag, Items, Members, Pairs, Word
from tests.unit.aws_builders import aws_plan, body_of

BREAKS = {
    "TrainingJobName": "x" * 64,
    "RoleArn": "arn:aws:iam::123456789012:user/me",
    "AlgorithmSpecification.TrainingImage": "i" * 256,
    "InputDataConfig": [],
    "OutputDataConfig.S3OutputPath": "bucket/without/scheme",
    "OutputDataConfig.CompressionType": "ZIP",
    "ResourceConfig.InstanceType": "ml.huge.96xlarge",
    "ResourceConfig.InstanceCount": True,
    "ResourceConfig.VolumeSizeInGB": 0,
    "ResourceConfig.KeepAlivePeriodInSeconds": 21_601,
    "StoppingCondition.MaxRuntimeInSeconds": 29 * 86_400,
    "StoppingCondition.MaxPendingTimeInSeconds": 1_799,
    "Environment": {f"K{n}": "v" for n in range(101)},
    "Environment.PYTHONUNBUFFERED": "v" * 513,
    "RetryStrategy.MaximumRetryAttempts": 31,
    "Tags": [{"Key": f"k{n}", "Value": ""} for n in range(51)],
    "EnableNetworkIsolation": "yes",
    "Unheard": 1,
}


def with_value(body, path, value):
    changed = copy.deepcopy(body)
    *parents, last = path.split(".")
    inner = changed
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return changed


@pytest.mark.parametrize("path", BREAKS)
def test_each_break_is_found_at_its_place(path, tmp_path):
    body = body_of(aws_plan(tmp_path))
    assert violations(body) == ()
    found = violations(with_value(body, path, BREAKS[path]))
    assert [one.path for one in found] == [path]
    assert all(one.fix for one in found)


def test_all_violations_come_in_one_error_without_values(tmp_path):
    body = body_of(aws_plan(tmp_path))
    for path in ("TrainingJobName", "RoleArn", "StoppingCondition.MaxRuntimeInSeconds"):
        body = with_value(body, path, BREAKS[path])
    del body["OutputDataConfig"]
    with pytest.raises(RejectedError) as caught:
        require_valid(body)
    assert "4 limits" in caught.value.what
    assert all(path in caught.value.what for path in ("TrainingJobName", "RoleArn", "MaxRuntimeInSeconds", "OutputDataConfig: is missing"))
    assert "user/me" not in str(caught.value)


def test_rules_between_members(tmp_path):
    body = body_of(aws_plan(tmp_path))
    wait = with_value(body, "StoppingCondition.MaxWaitTimeInSeconds", 9_000)
    assert [one.path for one in violations(wait)] == ["StoppingCondition.MaxWaitTimeInSeconds"]
    spot = with_value(body, "EnableManagedSpotTraining", True)
    del spot["CheckpointConfig"]
    assert {one.path for one in violations(spot)} == {"StoppingCondition.MaxWaitTimeInSeconds", "CheckpointConfig"}
    twice = copy.deepcopy(body)
    del twice["ResourceConfig"]["InstanceType"]
    twice["ResourceConfig"]["InstancePreferences"] = [{"InstanceType": "ml.g5.2xlarge"}] * 2
    assert [one.path for one in violations(twice)] == ["ResourceConfig.InstancePreferences"]


def differences(kind, shape, path):
    """Where our table allows more than the service's description says. Stricter is fine."""
    if isinstance(kind, Flag):
        yield from [path] if shape.type_name != "boolean" else []
    elif isinstance(kind, Word):
        yield from (f"{path}: {word}" for word in kind.words ^ set(shape.enum))
    elif not isinstance(kind, Members):
        yield from looser(kind, shape.metadata, path)
    for name, inner, below in parts(kind, shape):
        yield from differences(inner, below, f"{path}.{name}") if below is not None else [f"{path}.{name}: no such member"]
    if isinstance(kind, Members):
        yield from (f"{path}.{name}: required" for name in set(shape.required_members) - kind.required)


def looser(kind, size, path):
    least = getattr(kind, "least", 0)
    if least < size.get("min", 0) or ("max" in size and (kind.most is None or kind.most > size["max"])):
        yield f"{path}: {least}..{kind.most}, the service: {size}"


def parts(kind, shape):
    """(name, our kind, the service's shape) of everything inside; the shape is None for what the service does not have."""
    match kind:
        case Items(item):
            yield "[]", item, shape.member
        case Pairs(key, value):
            yield from (("key", key, shape.key), ("value", value, shape.value))
        case Members(members):
            yield from ((name, inner, shape.members.get(name)) for name, inner in members.items())


@pytest.mark.full
def test_the_tables_are_those_of_the_installed_botocore():
    """Read from botocore 1.44.5 on 2026-11-23; a newer one that says otherwise shows here."""
    session = pytest.importorskip("botocore.session")
    model = session.Session().get_service_model("sagemaker")
    assert list(differences(REQUEST, model.operation_model("CreateTrainingJob").input_shape, "")) == []
    assert set(model.shape_for("TrainingInstanceType").enum) == INSTANCE_TYPES
    assert set(model.shape_for("TrainingJobStatus").enum) == STATUSES.keys()
    assert set(model.shape_for("SecondaryStatus").enum) == SECONDARY.keys()
