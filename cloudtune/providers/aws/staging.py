"""Staging for SageMaker: every channel becomes a folder in the bucket that is named by its content, and is uploaded once.

    s3://BUCKET/cloudtune/staged/<digest of the channel>/<path in the channel>

The same data, trainer or model a second time sends nothing. A folder is complete when every one of its files is there
with its size and sha256; what an interrupted upload left is gone on with. Without an image of our own, our code is the
channel ``code`` of Amazon's image; a job without a network gets its wheels as the channel ``wheels``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloudtune.errors import StagingError, StoreError
from cloudtune.providers.aws.bucket import make_bucket
from cloudtune.providers.aws.names import AUTO, account_of, bucket_of
from cloudtune.providers.aws.ownimages import OwnImages
from cloudtune.providers.aws.request import PREFIX
from cloudtune.providers.base import Staged
from cloudtune.wire.s3 import Bucket
from cloudtune.wire.upload import Upload, describe, describe_all, upload_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudtune.planning.plan import Plan
    from cloudtune.providers.aws.client import Regions
    from cloudtune.providers.aws.request import AwsSettings
    from cloudtune.rendering.bundle import Bundle

STAGED: Final = f"{PREFIX}/staged"
Content = bytes | Path


class AwsStager:
    """Puts code, data and orders of a job into the bucket of its region."""

    def __init__(self, regions: Regions, settings: AwsSettings, images: OwnImages | None = None) -> None:
        self._regions = regions
        self._settings = settings
        self._images = images

    def stage(self, bundle: Bundle, plan: Plan, progress: Callable[[str], None]) -> Staged:
        """Raises StagingError for a file that cannot be read or has changed, StoreError and AuthError for the bucket."""
        bucket = self._bucket(plan, progress)
        image = self._images.make(bundle, plan, progress) if self._images else None
        uris = {"image": image} if image else {}
        for name, files in channels(bundle, plan, own_image=image is not None).items():
            uris[name] = self._folder(bucket, name, files, plan, progress)
        return Staged(bundle.digest, uris)

    def _bucket(self, plan: Plan, progress: Callable[[str], None]) -> Bucket:
        setting, role = self._settings.aws_bucket or "", self._settings.aws_role or ""
        region = plan.chosen.region
        bucket = Bucket(self._regions.login(region), bucket_of(setting, role, region))
        if setting == AUTO:
            make_bucket(bucket, region, account_of(role), progress)
        return bucket

    def _folder(self, bucket: Bucket, name: str, files: Mapping[str, Content], plan: Plan, progress: Callable[[str], None]) -> str:
        """Upload one channel; its URI."""
        described = dict(zip(files, describe_all(list(files.values())), strict=True))
        digest = channel_digest({path: sha256 for path, (_, sha256) in described.items()})
        folder = f"{STAGED}/{digest}/"
        uploads = [Upload(f"{folder}{path}", files[path], size, sha256) for path, (size, sha256) in described.items()]
        try:
            upload_all(bucket, uploads, folder, lambda text: progress(f"{name}: {text}"), key_id=plan.recipe.compute.aws.kms_key)
        except StoreError as error:
            if error.code == "store-no-bucket":
                raise StagingError(
                    f"there is no bucket {bucket.name}",
                    where=bucket.where(),
                    code="no-bucket",
                    hint=f"make it, or export CLOUDTUNE_AWS_BUCKET={AUTO}: then cloudtune makes one of the region's own",
                ) from error
            raise
        return bucket.where(folder)


def channels(bundle: Bundle, plan: Plan, *, own_image: bool) -> dict[str, dict[str, Content]]:
    """Channel → path in it → content. Raises StagingError when data is not what the job's orders say."""
    from cloudtune.rendering.channel import CHANNEL, code_channel
    from cloudtune.rendering.jobfile import local_inputs

    expected = _digests(bundle.job["job.json"])
    found: dict[str, dict[str, Content]] = {"job": dict(bundle.job)}
    for item in local_inputs(plan):
        channel, _, path = item.channel.partition("/")
        inside = found.setdefault(channel, {})
        if item.source.is_dir():
            inside.update({f"{path}/{name}" if path else name: file for name, file in folder_files(item.source).items()})
        else:
            _check(item.source, expected.get(item.channel))
            inside[path or item.source.name] = item.source
    if not own_image:
        found[CHANNEL] = dict(code_channel(bundle.image, plan.cloudtune_version))
        if plan.recipe.compute.aws.network_isolation:
            found["wheels"] = wheel_files()
    return found


def folder_files(folder: Path) -> dict[str, Content]:
    """Every file of a folder by its path in it; links to files count as files (a hub's cache is full of them), hidden ones are left out.

    Raises StagingError when the folder is empty or cannot be read.
    """
    try:
        found: dict[str, Content] = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }
    except OSError as error:
        raise StagingError(f"the folder cannot be read: {error.strerror}", where=str(folder), hint="check its permissions") from error
    if not found:
        raise StagingError("the folder is empty", where=str(folder), hint="name a folder with the model's files")
    return found


def wheel_files() -> dict[str, Content]:
    """The wheels that a job without a network installs from: ``./wheels`` beside the recipe's user. Raises StagingError without any."""
    folder = Path.cwd() / "wheels"
    found: dict[str, Content] = {path.name: path for path in sorted(folder.glob("*.whl"))}
    if not found:
        raise StagingError(
            "a job without a network needs its Python packages as wheels, and there are none",
            where=str(folder),
            code="no-wheels",
            hint="run: cloudtune render RECIPE --provider aws && pip download -d wheels --only-binary=:all: --python-version 3.12 "
            "--platform manylinux_2_28_x86_64 -r build/NAME/image/requirements.txt",
        )
    return found


def channel_digest(digests: Mapping[str, str]) -> str:
    """sha256 over a channel's paths and the digests of its files."""
    total = hashlib.sha256()
    for path in sorted(digests):
        total.update(f"{path}\0{digests[path]}\n".encode())
    return total.hexdigest()


def _digests(job_json: bytes) -> Mapping[str, str]:
    orders = json.loads(job_json)
    return {channel["path"]: channel["sha256"] for channel in (*orders["train"], *orders["eval"]) if channel.get("sha256")}


def _check(source: Path, expected: str | None) -> None:
    if expected is not None and describe(source)[1] != expected:
        raise StagingError("the data changed while it was being staged", where=str(source), hint="run the command again")
