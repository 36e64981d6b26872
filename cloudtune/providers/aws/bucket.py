"""The bucket of ``aws_bucket = "auto"``: made in the job's region when it is missing, closed to the public, and kept tidy.

Rules: parts of uploads that nobody completed go after a day (they are billed and nobody sees them), staged code and data
after 30 days. Results and checkpoints stay until somebody removes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import AuthError, CloudtuneError, StoreError
from cloudtune.providers.aws.client import asking
from cloudtune.providers.aws.request import PREFIX
from cloudtune.wire.aws import facts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.wire.s3 import Bucket

STAGED_DAYS: Final = 30
LIFECYCLE: Final[dict[str, Any]] = {
    "Rules": [
        {
            "ID": "cloudtune-unfinished-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{PREFIX}/"},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
        {
            "ID": "cloudtune-staged",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{PREFIX}/staged/"},
            "Expiration": {"Days": STAGED_DAYS},
        },
    ]
}
_CLOSED: Final = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
_ENCRYPTED: Final[dict[str, Any]] = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}


def look_at(bucket: Bucket, account: str | None) -> str | None:
    """The region of the bucket; None when there is none of that name.

    ``account``: who must own it. Raises AuthError when somebody else does, or when the login may not look.
    """
    owner = {"ExpectedBucketOwner": account} if account else {}
    try:
        with asking(bucket.login, bucket.where()):
            answer = bucket.client.head_bucket(Bucket=bucket.name, **owner)
    except CloudtuneError as error:
        facts = facts_of(error.__cause__) if error.__cause__ else None
        if facts is not None and facts.status == 404:
            return None
        if facts is not None and facts.status == 403:
            raise AuthError(
                f"the bucket {bucket.name} belongs to another account, or the login may not look at it",
                where=bucket.where(),
                code="bucket-denied",
                hint="choose another with CLOUDTUNE_AWS_BUCKET, or grant s3:ListBucket: cloudtune doctor --provider aws --print-policy",
            ) from error
        raise
    return str(answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region") or "")


def make_bucket(bucket: Bucket, region: str, account: str, say: Callable[[str], None]) -> None:
    """Make the bucket unless it is there. Raises StoreError when it lies in another region, AuthError when it is not ours."""
    there = look_at(bucket, account)
    if there:
        if there != region:
            raise StoreError(f"the bucket {bucket.name} lies in {there}, and the job runs in {region}", code="bucket-region", hint=_OTHER)
        return
    if there is None:
        say(f"making the bucket {bucket.name} in {region}")
        _create(bucket, region)
    tidy_up(bucket)


_OTHER = "a job reads and writes its own region's bucket: export CLOUDTUNE_AWS_BUCKET=auto"


def _create(bucket: Bucket, region: str) -> None:
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        with asking(bucket.login, bucket.where()):
            bucket.client.create_bucket(Bucket=bucket.name, ObjectOwnership="BucketOwnerEnforced", **place)
    except CloudtuneError as error:
        if error.__cause__ is None or facts_of(error.__cause__).code != "BucketAlreadyOwnedByYou":  # another launch was faster
            raise


def tidy_up(bucket: Bucket) -> None:
    """Close, encrypt and set the rules; doing it twice changes nothing."""
    with asking(bucket.login, bucket.where()):
        client = bucket.client
        client.put_public_access_block(Bucket=bucket.name, PublicAccessBlockConfiguration=_CLOSED)
        client.put_bucket_encryption(Bucket=bucket.name, ServerSideEncryptionConfiguration=_ENCRYPTED)
        client.put_bucket_lifecycle_configuration(Bucket=bucket.name, LifecycleConfiguration=LIFECYCLE)
