"""Where Amazon keeps its own training images, by region. Pure tables.

Accounts read 2026-11-23 from the table ``pytorch-amzn2023`` of sagemaker-core 2.27.0 (images 2.11 to 2.14).
"""

from __future__ import annotations

from typing import Final

from cloudtune.errors import UsageError

_MOST: Final = "763104351884"
_MOST_REGIONS: Final = (
    *("us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "sa-east-1"),
    *("eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3"),
    *("ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2"),
)
_OTHERS: Final = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-east-2": "975050140332",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ap-southeast-5": "550225433462",
    "ap-southeast-6": "633930458069",
    "ap-southeast-7": "590183813437",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "me-west-1": "124382933778",
    "mx-central-1": "637423239942",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}
ACCOUNTS: Final = {**dict.fromkeys(_MOST_REGIONS, _MOST), **_OTHERS}


def stock_image_uri(image: str, region: str) -> str:
    """``pytorch:TAG`` → the URI to pull it by in ``region``. Raises UsageError for a region that has no such registry known."""
    account = ACCOUNTS.get(region)
    if account is None:
        raise UsageError(
            f"no registry of Amazon's training images is known for the region {region!r}",
            code="no-stock-image",
            hint="choose another region, such as --set compute.regions=[us-east-1]",
        )
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{suffix}/{image}"
