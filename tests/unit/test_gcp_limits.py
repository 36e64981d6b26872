"""The table of Vertex AI's limits: every violation at once, and the names of its members against the library's own types."""

import copy

import pytest

from cloudtune.errors import RejectedError
from cloudtune.providers.checks import Items, Members, Word
from cloudtune.providers.gcp.limits import ACCELERATORS, REQUEST, require_valid, violations
from cloudtune.providers.gcp.machines import GONE, MACHINES
from tests.unit.gcp_builders import body_of, gcp_plan

POOL = "customJob.jobSpec.workerPoolSpecs.0"
SCHEDULING = "customJob.jobSpec.scheduling"
BREAKS = {
    "parent": "projects/p",
    "customJob.displayName": "x" * 129,
    "customJob.labels": {"Upper": "x"},
    "customJob.labels.cloudtune_run": "Not-Legal",
    "customJob.encryptionSpec": {"kmsKeyName": "k"},
    "customJob.jobSpec.serviceAccount": "not an e-mail",
    "customJob.jobSpec.network": "default",
    "customJob.jobSpec.baseOutputDirectory.outputUriPrefix": "s3://b/x",
    f"{SCHEDULING}.timeout": "1 hour",
    f"{SCHEDULING}.strategy": "LOW_COST",
    f"{POOL}.machineSpec.acceleratorType": "NVIDIA_B300",
    f"{POOL}.machineSpec.acceleratorCount": True,
    f"{POOL}.replicaCount": 0,
    f"{POOL}.diskSpec.bootDiskSizeGb": 99,
    f"{POOL}.containerSpec.imageUri": "UPPER CASE",
    f"{POOL}.containerSpec.env": [{"name": "A-B", "value": ""}],
    "customJob.unheard": 1,
}


def with_value(body, path, value):
    changed = copy.deepcopy(body)
    *parents, last = path.split(".")
    inner = changed
    for name in parents:
        inner = inner[int(name)] if name.isdigit() else inner[name]
    inner[last] = value
    return changed


def shown(path):
    return path.replace(".0.", "[0].")


@pytest.mark.parametrize("path", BREAKS)
def test_each_break_is_found_at_its_place(path, tmp_path):
    body = body_of(gcp_plan(tmp_path))
    assert violations(body) == ()
    found = violations(with_value(body, path, BREAKS[path]))
    assert len(found) == 1
    assert found[0].path.startswith(shown(path))
    assert found[0].fix


def test_all_violations_come_in_one_error_without_values(tmp_path):
    body = body_of(gcp_plan(tmp_path))
    for path in ("parent", "customJob.displayName", f"{SCHEDULING}.timeout"):
        body = with_value(body, path, BREAKS[path])
    del body["customJob"]["jobSpec"]["baseOutputDirectory"]
    with pytest.raises(RejectedError) as caught:
        require_valid(body)
    assert caught.value.code == "request-limits"
    assert "4 limits" in caught.value.what
    assert "1 hour" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        (f"{SCHEDULING}.maxWaitDuration", "60s", "maxWaitDuration"),
        (f"{SCHEDULING}.strategy", "FLEX_START", "maxWaitDuration"),
        (f"{SCHEDULING}.timeout", "2419201s", "timeout"),
        (f"{SCHEDULING}.timeout", "0s", "timeout"),
        (f"{POOL}.machineSpec.acceleratorCount", 2, "machineType"),
        (f"{POOL}.replicaCount", 2, "replicaCount"),
        ("customJob.encryptionSpec", {"kmsKeyName": "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"}, "kmsKeyName"),
    ],
)
def test_rules_between_members(path, value, at, tmp_path):
    found = violations(with_value(body_of(gcp_plan(tmp_path)), path, value))
    assert [one.path.rpartition(".")[2] for one in found] == [at]


def names(kind, message, path):
    """Members of our table that the library's message does not have, by path."""
    if isinstance(kind, Items):
        yield from names(kind.item, message, f"{path}[]")
    elif isinstance(kind, Members):
        fields = {field.json_name: field for field in message.fields}
        for name, inner in kind.members.items():
            if name not in fields:
                yield f"{path}.{name}"
            elif isinstance(inner, Word) and fields[name].enum_type is not None:
                yield from (f"{path}.{name}: {word}" for word in inner.words - set(fields[name].enum_type.values_by_name))
            elif fields[name].message_type is not None:
                yield from names(inner, fields[name].message_type, f"{path}.{name}")


@pytest.mark.full
def test_the_tables_are_those_of_the_installed_library():
    """Read from google-cloud-aiplatform 2.7.0; a newer one that says otherwise shows here. Takes 3 s to import."""
    types = pytest.importorskip("google.cloud.aiplatform_v1.types")
    request = types.CreateCustomJobRequest.pb()
    assert list(names(REQUEST, request.DESCRIPTOR, "")) == []
    enum = {member.name for member in types.AcceleratorType}
    assert enum >= ACCELERATORS.words
    assert {word for word in enum if word.startswith("NVIDIA")} - ACCELERATORS.words == {"NVIDIA_TESLA_K80"}
    assert {card for cards in MACHINES.values() for card in cards} | GONE.keys() <= enum
