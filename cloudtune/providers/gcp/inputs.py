"""Data and base models that are in buckets already, looked at before a launch. Reads names and sizes, changes nothing.

What is looked at is what *you* may see: the job reads with its own account, whose rights nobody else can ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cloudtune.errors import StagingError, StoreError
from cloudtune.models.folder import missing_in
from cloudtune.providers.base import Finding
from cloudtune.providers.gcp.copying import S3Settings, look_at
from cloudtune.units import gib
from cloudtune.wire.gcs import Bucket, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtune.rendering.jobfile import BucketInput
    from cloudtune.wire.google import Login

_PARTS: Final = {"us": "us-", "eu": "europe-", "asia": "asia-"}
"""Multi-regions, and what the names of their regions begin with."""


def look_at_input(item: BucketInput, region: str, login: Login, sleep: Callable[[float], None], settings: S3Settings) -> str | Finding:
    """What is there, in words. Raises StagingError for what is missing, AuthError and StoreError of the stores."""
    if item.uri.startswith("s3://"):
        return f"{gib(look_at(item.uri, settings).head.bytes)} in S3, copied while launching"
    name, path = split(item.uri)
    bucket = Bucket(name, login, sleep=sleep)
    try:
        place = str(bucket.facts().get("location", "")).lower()
        found = _model(bucket, path, item.uri) if item.is_model else _file(bucket, path, item.uri)
    except StoreError as error:
        if error.code == "store-no-bucket":
            raise StagingError(f"there is no bucket {name}", where=item.uri, code="no-bucket", hint="check the recipe's path") from error
        raise
    if place == region or region.startswith(_PARTS.get(place, "-")):
        return f"{found} in {place}"
    return Finding(
        f"input {item.uri}", "note", f"{found} in {place}, jobs run in {region}: reading it is slower and billed", f"copy it to {region}"
    )


def _file(bucket: Bucket, path: str, uri: str) -> str:
    head = bucket.head(path) if path else None
    if head is None:
        raise StagingError("there is no such file in Cloud Storage", where=uri, code="no-data", hint=f"look with: gcloud storage ls {uri}")
    return gib(head.bytes)


def _model(bucket: Bucket, path: str, uri: str) -> str:
    """A folder as transformers saves it: a config and weights, side by side."""
    folder = f"{path.rstrip('/')}/" if path else ""
    sizes = {head.name.removeprefix(folder): head.bytes for head in bucket.each(folder)}
    missing = missing_in(sizes)
    if missing:
        raise StagingError(
            f"the base model's folder has no {missing}",
            where=uri,
            code="no-model",
            hint=f"look with: gcloud storage ls {uri.rstrip('/')}/",
        )
    return gib(sum(sizes.values()))
