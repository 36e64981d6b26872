"""The least rights that cloudtune needs at AWS, as policies to paste: the user who launches, the role of jobs, its trust. Pure.

Every statement says in its Sid what it is for. Resources are those of the settings: one bucket, one role, one region's jobs.
"""

from __future__ import annotations

from typing import Any, Final

from cloudtune.providers.aws.names import AUTO, account_of, partition_of

JOBS: Final = "sagemaker.amazonaws.com"
BUILDS: Final = "codebuild.amazonaws.com"
DEFAULT_ROLE: Final = "arn:aws:iam::123456789012:role/cloudtune-job"
_LOG_GROUP: Final = "/aws/sagemaker/TrainingJobs"


def policies(role: str | None, bucket: str | None, region: str | None) -> dict[str, Any]:
    """``user``, ``role`` and ``trust``. What is not set stands as an example (account 123456789012) or for every region (``*``)."""
    arn = role or DEFAULT_ROLE
    place = _Place(partition_of(arn), account_of(arn), region or "*", arn, bucket or AUTO)
    return {"user": _policy(_user(place)), "role": _policy(_role(place)), "trust": _policy(_trust(place))}


class _Place:
    """ARNs of one account and region."""

    def __init__(self, partition: str, account: str, region: str, role: str, bucket: str) -> None:
        self.account, self.region, self.role = account, region, role
        name = f"sagemaker-cloudtune-{account}-{region}" if bucket == AUTO else bucket
        self.bucket = f"arn:{partition}:s3:::{name}"
        self._start = f"arn:{partition}"

    def arn(self, service: str, resource: str, *, account: bool = True) -> str:
        return f"{self._start}:{service}:{self.region}:{self.account if account else '*'}:{resource}"


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: list[str], resource: str | list[str], **condition: Any) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource, **({"Condition": condition} if condition else {})}


def _user(place: _Place) -> list[dict[str, Any]]:
    jobs = place.arn("sagemaker", "training-job/*")
    logs = place.arn("logs", f"log-group:{_LOG_GROUP}:*")
    repository = place.arn("ecr", "repository/*cloudtune-trainer")
    return [
        _allow(
            "Jobs",
            [f"sagemaker:{name}" for name in ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "AddTags", "ListTags")],
            jobs,
        ),
        _allow("FindJobs", ["sagemaker:ListTrainingJobs", "sagemaker:Search"], "*"),
        _allow("LendTheRole", ["iam:PassRole"], place.role, StringEquals={"iam:PassedToService": JOBS}),
        _allow("LookAtTheRole", ["iam:GetRole"], place.role),
        _allow(
            "Bucket",
            [f"s3:{name}" for name in (
                "ListBucket", "GetBucketLocation", "ListBucketMultipartUploads", "CreateBucket", "PutBucketPublicAccessBlock",
                "PutEncryptionConfiguration", "PutLifecycleConfiguration", "PutBucketOwnershipControls",
            )],
            place.bucket,
        ),
        _allow(
            "Files",
            ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
            f"{place.bucket}/cloudtune/*",
        ),
        _allow("Logs", ["logs:DescribeLogStreams", "logs:GetLogEvents"], logs),
        _allow("Quotas", [f"servicequotas:{name}" for name in ("ListServiceQuotas", "GetServiceQuota", "GetAWSDefaultServiceQuota")], "*"),
        _allow("SecretsExist", ["secretsmanager:DescribeSecret"], place.arn("secretsmanager", "secret:*")),
        _allow("RegistryPassword", ["ecr:GetAuthorizationToken"], "*"),
        _allow(
            "OwnImages",
            [f"ecr:{name}" for name in (
                "CreateRepository", "DescribeImages", "BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart",
                "CompleteLayerUpload", "PutImage", "BatchGetImage", "GetDownloadUrlForLayer",
            )],
            repository,
        ),
        _allow(
            "RemoteBuilds",
            [f"codebuild:{name}" for name in ("CreateProject", "StartBuild", "BatchGetBuilds")],
            place.arn("codebuild", "project/cloudtune-*"),
        ),
        _allow("LendTheRoleToBuilds", ["iam:PassRole"], place.role, StringEquals={"iam:PassedToService": BUILDS}),
    ]  # fmt: skip


def _role(place: _Place) -> list[dict[str, Any]]:
    group = place.arn("logs", f"log-group:{_LOG_GROUP}")
    return [
        _allow("Bucket", ["s3:ListBucket"], place.bucket),
        _allow("Inputs", ["s3:GetObject"], f"{place.bucket}/cloudtune/*"),
        # Deleting: a checkpoint that the trainer prunes on its disk is removed from the bucket too.
        _allow("Results", ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], f"{place.bucket}/cloudtune/jobs/*"),
        _allow(
            "Logs",
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
            [group, f"{group}:*"],
        ),
        _allow("Metrics", ["cloudwatch:PutMetricData"], "*", StringEquals={"cloudwatch:namespace": _LOG_GROUP}),
        _allow("RegistryPassword", ["ecr:GetAuthorizationToken"], "*"),
        _allow(
            "Images",
            ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"],
            place.arn("ecr", "repository/*", account=False),
        ),
        _allow("Secrets", ["secretsmanager:GetSecretValue"], place.arn("secretsmanager", "secret:cloudtune/*")),
    ]


def _trust(place: _Place) -> list[dict[str, Any]]:
    """SageMaker may take the role on, for jobs of this account only."""
    return [
        {
            "Sid": "JobsOfThisAccount",
            "Effect": "Allow",
            "Principal": {"Service": JOBS},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": place.account}},
        }
    ]
