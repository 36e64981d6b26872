"""URI scheme → Store. Imports a store's library only when a URI asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cloudtune.errors import UsageError
from cloudtune.stores.folder import FolderStore

if TYPE_CHECKING:
    from cloudtune.stores.base import Store


def open_store(uri: str, settings: object = None) -> Store:
    """The store at ``uri``. ``settings``: where a store that needs a login finds its words; the environment holds without.

    Raises UsageError for a scheme that this version does not know and for one whose library is not installed.
    """
    address = urlsplit(uri)
    if address.scheme == "file":
        return FolderStore(Path(unquote(address.path)))
    if address.scheme == "s3":
        return _s3(uri, settings)
    if address.scheme == "gs":
        return _gcs(uri)
    raise UsageError(f"this version cannot read {uri!r}", code="store-scheme", hint="only file://, s3:// and gs:// are known")


def _s3(uri: str, settings: object) -> Store:
    from importlib.util import find_spec

    if find_spec("boto3") is None:
        raise UsageError("reading from S3 needs the Python package boto3", code="extra-missing", hint="run: pip install 'cloudtune[aws]'")
    from cloudtune.stores.s3 import S3Store
    from cloudtune.wire.aws import Login

    return S3Store.at(uri, Login(getattr(settings, "aws_profile", None), getattr(settings, "aws_region", None)))


def _gcs(uri: str) -> Store:
    from importlib.util import find_spec

    if find_spec("google") is None or find_spec("google.cloud.storage") is None:
        raise UsageError(
            "reading from Cloud Storage needs the Python package google-cloud-storage",
            code="extra-missing",
            hint="run: pip install 'cloudtune[gcp]'",
        )
    from cloudtune.stores.gcs import GcsStore

    return GcsStore.at(uri)
