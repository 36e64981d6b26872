"""Names in an account: its own bucket, and the parts of a role's ARN. Pure."""

from __future__ import annotations

import re
from typing import Final

from cloudtune.errors import UsageError

AUTO: Final = "auto"
_ROLE: Final = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/(?P<path>(?:[^/\s]+/)*)(?P<name>[^/\s]+)")


def account_of(role: str) -> str:
    """The account number in a role's ARN. Raises UsageError for text that is no such ARN."""
    return _parts(role)["account"]


def role_name(role: str) -> str:
    """The role's own name, without its path."""
    return _parts(role)["name"]


def partition_of(role: str) -> str:
    """``aws``, ``aws-cn`` or ``aws-us-gov``."""
    return _parts(role)["partition"]


def own_bucket(role: str, region: str) -> str:
    """The bucket that ``aws_bucket = "auto"`` means: one for each account and region.

    It has "sagemaker" in its name because Amazon's ready-made execution policy opens only such buckets.
    """
    return f"sagemaker-cloudtune-{account_of(role)}-{region}"


def bucket_of(setting: str, role: str, region: str) -> str:
    """The bucket that the setting means in ``region``."""
    return own_bucket(role, region) if setting == AUTO else setting


def _parts(role: str) -> dict[str, str]:
    match = _ROLE.fullmatch(role)
    if match is None:
        raise UsageError(
            f"aws_role is {role[:100]!r}, which is no role's ARN",
            code="bad-setting",
            hint="it looks like arn:aws:iam::123456789012:role/cloudtune-job",
        )
    return match.groupdict()
