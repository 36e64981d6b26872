"""The services that moto stands in for (S3, IAM, STS, ECR, logs, Secrets Manager, CodeBuild): its application, and what is in it at first.

moto keeps one state in a process. It is emptied for the first stand-in of a process; others beside it share its buckets.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from cloudtune.errors import UsageError
from cloudtune.standins.aws.logs import GROUP

ROLE: Final = "cloudtune-job"
_TRUST: Final = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
_living = 0
_counting = threading.Lock()


def open_services() -> Callable[..., Iterable[bytes]]:
    """moto's WSGI application. Raises UsageError without the extra ``rehearse``."""
    global _living  # noqa: PLW0603 - as global as moto's own state, which it counts the users of
    try:
        from moto.core.base_backend import BackendDict
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the stand-in needs the Python package {error.name}", code="extra-missing", hint="run: pip install 'cloudtune[rehearse,aws]'"
        ) from error
    with _counting:
        if _living == 0:
            BackendDict.reset()
        _living += 1
    application: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)
    return application


def close_services() -> None:
    """One user less."""
    global _living  # noqa: PLW0603
    with _counting:
        _living -= 1


def furnish(s3: Any, logs: Any, iam: Any, *, bucket: str, region: str) -> None:
    """The execution role, the log group and, where it is named, the bucket."""
    from botocore.exceptions import ClientError

    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    steps: list[Callable[[], Any]] = [
        lambda: iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(_TRUST)),
        lambda: logs.create_log_group(logGroupName=GROUP),
        *([lambda: s3.create_bucket(Bucket=bucket, **place)] if bucket else []),
    ]
    for step in steps:
        try:
            step()
        except ClientError as error:
            if "Already" not in error.response["Error"]["Code"]:
                raise
