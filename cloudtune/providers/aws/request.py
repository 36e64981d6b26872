"""Plan + staged files + launch id → the exact body of CreateTrainingJob. Pure; imports no SDK and holds no secret.

Everything lies below one prefix of one bucket:

    s3://BUCKET/cloudtune/jobs/LAUNCH-ID/output/...        the service adds job name and ``output``
    s3://BUCKET/cloudtune/jobs/LAUNCH-ID/checkpoints/      synced both ways while the job runs
    s3://BUCKET/cloudtune/not-staged/DIGEST/CHANNEL/       what a channel is called before anything is uploaded

Data and a base model that are in S3 already are channels of their own, from where they are: ``train-0``, ``eval-0``, ``model``.

Secrets: job.json, in the channel ``job``, has their names and sources and the job fetches them with its role. Not even
the names are in the body, because whoever may describe the job reads its environment and tags.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from cloudtune.errors import RejectedError, UsageError
from cloudtune.providers.aws.images import stock_image_uri
from cloudtune.providers.aws.limits import require_valid
from cloudtune.providers.aws.machines import machines, resource_config, stopping_condition
from cloudtune.providers.aws.names import bucket_of
from cloudtune.providers.base import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.job import LaunchId
    from cloudtune.planning.plan import Plan
    from cloudtune.providers.base import Staged

PREFIX: Final = "cloudtune"
CHECKPOINTS: Final = "/opt/ml/checkpoints"
RETRIES: Final = 2  # of the service's own failures only; the time limit covers all attempts together
_START_STOCK: Final = ("sh", "/opt/ml/input/data/code/start.sh")
_START_OWN: Final = ("python3", "-m", "cloudtune_entry")

# The trainer's log lines (cloudtune_trainer/report.py): "train · step 5/20 · loss 1.2345 · rate 0.0002 · tokens/s 850".
# \S+ stands for the middle dot, however many bytes the service counts it as.
METRICS: Final[Mapping[str, str]] = {
    "train:loss": r"step [0-9]+/[0-9]+ \S+ loss ([0-9.]+)",
    "eval:loss": r"eval loss ([0-9.]+)",
    "train:learning_rate": r"rate ([0-9.e+-]+)",
    "train:tokens_per_second": r"tokens/s ([0-9.]+)",
}


class AwsSettings(Protocol):
    """The settings that a request is made from."""

    @property
    def aws_role(self) -> str | None: ...
    @property
    def aws_bucket(self) -> str | None: ...
    @property
    def aws_region(self) -> str | None: ...


def request_builder(settings: AwsSettings) -> Callable[[Plan, Staged, LaunchId], Request]:
    """The function that a Place has as ``build_request``, for one account's role and bucket."""

    def build(plan: Plan, staged: Staged, launch_id: LaunchId) -> Request:
        return build_request(plan, staged, launch_id, settings)

    return build


def build_request(plan: Plan, staged: Staged, launch_id: LaunchId, settings: AwsSettings) -> Request:
    """The request: equal arguments give an equal body. ``staged.uris`` has channel names, and ``image`` for an image of ours.

    Raises UsageError for settings that are missing, RejectedError for a plan that SageMaker would refuse.
    """
    role, bucket = _account(plan, settings)
    chosen = machines(plan)
    job = f"s3://{bucket}/{PREFIX}/jobs/{launch_id}"
    body: dict[str, Any] = {
        "TrainingJobName": launch_id,
        "AlgorithmSpecification": _algorithm(plan, staged),
        "RoleArn": role,
        "InputDataConfig": [_channel(name, uri) for name, uri in _inputs(plan, staged, bucket).items()],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/{PREFIX}/jobs", "CompressionType": "NONE", **_output_key(plan)},
        "ResourceConfig": resource_config(plan, chosen),
        "StoppingCondition": stopping_condition(plan, chosen),
        "CheckpointConfig": {"S3Uri": f"{job}/checkpoints/", "LocalPath": CHECKPOINTS},
        "EnableManagedSpotTraining": plan.chosen.purchase == "spot",
        "RetryStrategy": {"MaximumRetryAttempts": RETRIES},
        **_network(plan),
    }
    body["Environment"] = _environment(plan, launch_id)
    nonce = hashlib.sha256(json.dumps([body, staged.digest], sort_keys=True).encode()).hexdigest()[:32]
    # In the environment too: DescribeTrainingJob returns that, and tags only by a second call.
    body["Environment"]["CLOUDTUNE_NONCE"] = nonce
    body["Tags"] = _tags(plan, launch_id, nonce)
    require_valid(body)
    return Request("aws", launch_id, body)


_EXAMPLES: Final = {"aws_role": "arn:aws:iam::123456789012:role/cloudtune-job", "aws_bucket": "sagemaker-cloudtune-123456789012-us-east-1"}


def _account(plan: Plan, settings: AwsSettings) -> tuple[str, str]:
    """Role and bucket. Raises UsageError that names each missing setting, its variable and an example."""
    role, bucket, region = settings.aws_role, settings.aws_bucket, settings.aws_region
    if region and region != plan.chosen.region:
        raise UsageError(
            f"the setting aws_region is {region}, and the plan is for {plan.chosen.region}",
            code="region-mismatch",
            hint=f"plan with --set compute.regions=[{region}], or export CLOUDTUNE_AWS_REGION={plan.chosen.region}",
        )
    if role and bucket:
        return role, bucket_of(bucket, role, plan.chosen.region)
    missing = [name for name, value in (("aws_role", role), ("aws_bucket", bucket)) if not value]
    shown = " ".join(f"CLOUDTUNE_{name.upper()}={_EXAMPLES[name]}" for name in missing)
    keys = " and ".join(name.removeprefix("aws_") for name in missing)
    raise UsageError(
        f"a job on aws needs the setting{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
        code="setting-missing",
        hint=f"export {shown}, or write {keys} under [aws] in cloudtune.toml",
    )


def _algorithm(plan: Plan, staged: Staged) -> dict[str, Any]:
    """Image and start. Without an image of ours: Amazon's own, and our code from the channel ``code``."""
    own = staged.uris.get("image")
    specification: dict[str, Any] = {
        "TrainingImage": own or stock_image_uri(_stock_image(plan), plan.chosen.region),
        "TrainingInputMode": "File",
        "ContainerEntrypoint": list(_START_OWN if own else _START_STOCK),
        "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRICS.items()],
    }
    return {**specification, "ContainerArguments": ["train"]} if own else specification


def _stock_image(plan: Plan) -> str:
    # Here, because planning and rendering are needed for a request only, and whoever polls imports this package too.
    from cloudtune.rendering.image import STOCK_IMAGES, target_of

    target = target_of(plan)
    image = STOCK_IMAGES["aws"].get(target)
    if image is None:
        raise RejectedError(
            f"there is no stock image for a {target} job on aws", code="no-stock-image", hint="choose an instance with a GPU"
        )
    return image


def _inputs(plan: Plan, staged: Staged, bucket: str) -> dict[str, str]:
    """Channel name → URI. Channels are the folders of the contract below /opt/ml/input/data."""
    from cloudtune.rendering.contract import needs_network
    from cloudtune.rendering.jobfile import bucket_inputs, local_inputs

    isolated = plan.recipe.compute.aws.network_isolation
    _require_reachable(plan, isolated=isolated, network=needs_network(plan.recipe, "aws"))
    names = ["job", *dict.fromkeys(item.channel.partition("/")[0] for item in local_inputs(plan))]
    if "image" not in staged.uris:
        names += ["code", *(["wheels"] if isolated else [])]
    own = {name: _folder(staged.uris.get(name) or f"s3://{bucket}/{PREFIX}/not-staged/{staged.digest}/{name}/") for name in names}
    # A file's address as it is: with a slash at its end the service would look for a folder of that name.
    theirs = {item.name: _folder(item.uri) if item.is_model else item.uri for item in bucket_inputs(plan)}
    return {**own, **theirs}


def _require_reachable(plan: Plan, *, isolated: bool, network: bool) -> None:
    """Raises RejectedError for what a job could not reach from inside."""
    from cloudtune.planning.promises import refuse_out_of_reach

    secrets = plan.recipe.secrets
    refuse_out_of_reach(plan.recipe, "aws")
    if isolated and network:
        raise RejectedError(
            "compute.aws.network_isolation leaves the job no way to a hub or a tracker",
            code="isolated",
            hint="use a model and data of this machine or of s3://, which are brought in, and no tracker; or take network_isolation away",
        )
    if isolated and secrets:
        raise RejectedError(
            f"with compute.aws.network_isolation the job cannot fetch the secrets {', '.join(sorted(secrets))}",
            code="isolated",
            hint="take the secrets or network_isolation away",
        )
    foreign = sorted(name for name, source in secrets.items() if source.startswith("gcp:"))
    if foreign:
        raise RejectedError(
            f"the source of the secret {', '.join(foreign)} is Google's, which a job on aws cannot ask",
            code="secret-source",
            hint=f"write {foreign[0]}: aws:secretsmanager:NAME",
        )


def _folder(uri: str) -> str:
    """With a slash at its end: a prefix without it would also match a neighbour whose name begins alike."""
    return uri if uri.endswith("/") else f"{uri}/"


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "CompressionType": "None", "InputMode": "File"}


def _output_key(plan: Plan) -> dict[str, str]:
    key = plan.recipe.compute.aws.kms_key
    return {"KmsKeyId": key} if key else {}


def _network(plan: Plan) -> dict[str, Any]:
    """The account's own network, isolation, and encrypted talk between machines where the recipe asks for a key of its own."""
    aws = plan.recipe.compute.aws
    inside = {"SecurityGroupIds": list(aws.security_groups), "Subnets": list(aws.subnets)}
    return {
        **({"VpcConfig": inside} if aws.subnets or aws.security_groups else {}),
        "EnableNetworkIsolation": aws.network_isolation,
        "EnableInterContainerTrafficEncryption": bool(plan.layout.nodes > 1 and aws.kms_key),
    }


def _environment(plan: Plan, launch_id: LaunchId) -> dict[str, str]:
    """No secret, no name of one. The region is for the SDK that fetches secrets inside the job."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if plan.recipe.compute.aws.network_isolation else {}
    return {
        "AWS_DEFAULT_REGION": plan.chosen.region,
        "CLOUDTUNE_LAUNCH_ID": launch_id,
        "CLOUDTUNE_RECIPE_DIGEST": plan.recipe_digest,
        "PYTHONUNBUFFERED": "1",
        **offline,
    }


def _tags(plan: Plan, launch_id: LaunchId, nonce: str) -> list[dict[str, str]]:
    """What `find`, `reconcile` and a bill's readers need. The nonce tells our own earlier attempt from a namesake."""
    values = {
        "launch-id": launch_id,
        "nonce": nonce,
        "recipe": plan.recipe.name,
        "recipe-digest": plan.recipe_digest,
        "version": plan.cloudtune_version,
    }
    return [{"Key": f"{PREFIX}:{name}", "Value": value} for name, value in values.items()]
