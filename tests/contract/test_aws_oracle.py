"""Our request beside the one that the real ``sagemaker`` ModelTrainer sends for the same job, field by field.

Both go over HTTP to the stand-in; what it received is compared. ModelTrainer runs in a process of its own (its import takes
seconds and 200 MB). Every difference is listed below with its reason; a new one fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from cloudtune.standins.aws.account import Account
from cloudtune.standins.aws.cloud import AwsStandin
from tests.contract.aws_world import AwsWorld
from tests.e2e.command import surroundings
from tests.unit import aws_builders

MODEL_TRAINER = """
import json, sys
from sagemaker.core.shapes import CheckpointConfig, DataSource, InstancePreference, MetricDefinition, OutputDataConfig
from sagemaker.core.shapes import RetryStrategy, S3DataSource, StoppingCondition, Tag
from sagemaker.core.training.configs import Channel, Compute, Networking
from sagemaker.train.model_trainer import ModelTrainer

for case in json.loads(sys.stdin.read()):
    ours, spot = case["ours"], case["spot"]
    resources = ours["ResourceConfig"]
    compute = dict(instance_count=resources["InstanceCount"], enable_managed_spot_training=spot)
    if "InstancePreferences" in resources:
        names = [one["InstanceType"] for one in resources["InstancePreferences"]]
        compute["instance_preferences"] = [InstancePreference(instance_type=name) for name in names]
    else:
        compute["instance_type"] = resources["InstanceType"]
    stopping = {"max_runtime_in_seconds": ours["StoppingCondition"]["MaxRuntimeInSeconds"]}
    for name, theirs in (("MaxWaitTimeInSeconds", "max_wait_time_in_seconds"), ("MaxPendingTimeInSeconds", "max_pending_time_in_seconds")):
        if name in ours["StoppingCondition"]:
            stopping[theirs] = ours["StoppingCondition"][name]
    vpc = ours.get("VpcConfig", {})
    channels = [
        Channel(
            channel_name=one["ChannelName"],
            compression_type=one["CompressionType"],
            input_mode=one["InputMode"],
            data_source=DataSource(
                s3_data_source=S3DataSource(
                    s3_data_type=one["DataSource"]["S3DataSource"]["S3DataType"],
                    s3_uri=one["DataSource"]["S3DataSource"]["S3Uri"],
                    s3_data_distribution_type=one["DataSource"]["S3DataSource"]["S3DataDistributionType"],
                )
            ),
        )
        for one in ours["InputDataConfig"]
    ]
    trainer = ModelTrainer(
        base_job_name="theirs",
        role=ours["RoleArn"],
        training_image=ours["AlgorithmSpecification"]["TrainingImage"],
        compute=Compute(**compute),
        networking=Networking(
            subnets=vpc.get("Subnets"),
            security_group_ids=vpc.get("SecurityGroupIds"),
            enable_network_isolation=ours["EnableNetworkIsolation"],
            enable_inter_container_traffic_encryption=ours["EnableInterContainerTrafficEncryption"],
        ),
        stopping_condition=StoppingCondition(**stopping),
        output_data_config=OutputDataConfig(
            s3_output_path=ours["OutputDataConfig"]["S3OutputPath"], compression_type=ours["OutputDataConfig"]["CompressionType"],
            **({"kms_key_id": ours["OutputDataConfig"]["KmsKeyId"]} if "KmsKeyId" in ours["OutputDataConfig"] else {}),
        ),
        checkpoint_config=CheckpointConfig(s3_uri=ours["CheckpointConfig"]["S3Uri"], local_path=ours["CheckpointConfig"]["LocalPath"]),
        input_data_config=channels,
        environment=ours["Environment"],
        tags=[Tag(key=tag["Key"], value=tag["Value"]) for tag in ours["Tags"]],
    )
    trainer = trainer.with_retry_strategy(RetryStrategy(maximum_retry_attempts=ours["RetryStrategy"]["MaximumRetryAttempts"]))
    trainer = trainer.with_metric_definitions(
        [MetricDefinition(name=one["Name"], regex=one["Regex"]) for one in ours["AlgorithmSpecification"]["MetricDefinitions"]]
    )
    trainer.train(wait=False, logs=False)
"""

KMS = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
CASES: dict[str, dict[str, Any]] = {
    "spot": {"purchase": "spot"},
    "network": {"nodes": 2, "aws": {"subnets": ["subnet-1"], "security_groups": ["sg-1"], "kms_key": KMS}},
    "fallbacks": {},
}
# Member → why it differs.
DIFFERENCES = {
    "TrainingJobName": "the launch id, chosen by us before the call, is the only token against a second job; ModelTrainer makes a "
    "name from a time stamp",
    "AlgorithmSpecification.ContainerEntrypoint": "our supervisor in the channel `code`; ModelTrainer sets an entrypoint only "
    "together with its own driver script, which passes no SIGTERM on, so it was asked for none",
    "ResourceConfig.VolumeSizeInGB": "ModelTrainer always sends 30 GB; for types with a disk of their own the service ignores a "
    "size, and we send none",
    "HyperParameters": "ModelTrainer sends an empty map; ours are in job.json, because a recipe does not fit into 2,500 letters",
}


def test_the_request_is_the_one_that_the_real_sdk_sends(tmp_path, monkeypatch):
    with AwsStandin.start(tmp_path / "cloud", mode="scripted", account=Account(quota=100)) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        # The SDK asks the policy simulator, which moto has not; it takes this answer for "unknown" and goes on.
        cloud.faults.add("SimulatePrincipalPolicy", "access_denied", None)
        world = AwsWorld(tmp_path, cloud)
        ours = {name: submitted(world, name) for name in CASES}
        cases = [{"ours": body, "spot": name == "spot"} for name, body in ours.items()]
        run_model_trainer(cases, tmp_path)
        theirs = dict(zip(ours, [record.request for record in cloud.jobs() if record.name.startswith("theirs")], strict=True))
    found = {path for name in ours for path in differences(ours[name], theirs[name])}
    assert found == set(DIFFERENCES)


def submitted(world, name):
    """What the stand-in received from us."""
    changes = dict(CASES[name])
    if name == "fallbacks":
        plan = aws_builders.aws_plan(world.folder)
        changes["update"] = {"fallbacks": (aws_builders.candidate(plan, "ml.g6.2xlarge"), aws_builders.candidate(plan, "ml.g5.4xlarge"))}
    world.service.submit(world.request(f"ours-{name}", **changes))
    return world.cloud.jobs(f"ours-{name}")[0].request


def run_model_trainer(cases, folder):
    config = folder / "sagemaker.yaml"
    config.write_text("SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n")
    environ = surroundings(extra={"SAGEMAKER_USER_CONFIG_OVERRIDE": str(config), "HOME": str(folder)})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MODEL_TRAINER],
        input=json.dumps(cases), env=environ, cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def differences(ours, theirs, path=""):
    """Paths of members that are not equal; lists and values are compared whole."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs else [path]
    found = []
    for name in ours.keys() | theirs.keys():
        inner = f"{path}.{name}" if path else name
        if path == "Environment" or name not in ours or name not in theirs:
            found += [] if ours.get(name) == theirs.get(name) else [inner]
        else:
            found += differences(ours[name], theirs[name], inner)
    return found


def test_each_difference_has_a_reason():
    assert all(len(reason) > 40 for reason in DIFFERENCES.values())


@pytest.mark.parametrize(
    ("ours", "theirs", "paths"), [({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b"]), ({"a": 1}, {}, ["a"]), ({}, {"c": 1}, ["c"])]
)
def test_the_comparison_sees_what_differs(ours, theirs, paths):
    assert differences(ours, theirs) == paths
