"""Secret values for the trainer's environment: from this environment, a mounted folder, or the platform's secret manager.

A value is never written to a file, printed, or put on a command line here.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudtune_entry.ground import Trouble

CALL_SECONDS = 20
FOLDER_VARIABLE = "CLOUDTUNE_SECRETS_DIR"
_METADATA_LOGIN = "http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
_METADATA_PROJECT = "http://{host}/computeMetadata/v1/project/project-id"


def fetch(wanted: Mapping[str, str], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Variable → value for every secret that was found, and a sentence for each that the environment lacks.

    Raises Trouble when a secret manager refuses: the job was told to use it, so going on would fail later and dearer.
    """
    values: dict[str, str] = {}
    notes: list[str] = []
    for name, source in sorted(wanted.items()):
        value = _value(name, source, environ)
        if value is None:
            notes.append(f"the secret {name} is not in the environment; going on without it")
        else:
            values[name] = value
    return values, notes


def _value(name: str, source: str, environ: Mapping[str, str]) -> str | None:
    if source == "env":
        return _mounted(name, environ) or environ.get(name) or None
    kind, _, rest = source.partition(":")
    manager, _, key = rest.partition(":")
    if (kind, manager) == ("aws", "secretsmanager"):
        return _from_aws(key)
    if (kind, manager) == ("gcp", "secretmanager"):
        return _from_google(key, environ)
    raise Trouble(f"the source of the secret {name} is not one that we know: {kind}")


def _mounted(name: str, environ: Mapping[str, str]) -> str | None:
    """A secret that was mounted as a file: unlike the environment, the engine does not show it to whoever asks."""
    folder = environ.get(FOLDER_VARIABLE)
    path = Path(folder) / name if folder else None
    return path.read_text().rstrip("\n") if path is not None and path.is_file() else None


def _from_aws(key: str) -> str:
    """AWS Secrets Manager with the execution role's own credentials; a JSON object with one value counts as that value."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise Trouble(f"the secret {key} is in AWS Secrets Manager, but this image has no boto3") from None
    limits = Config(connect_timeout=CALL_SECONDS, read_timeout=CALL_SECONDS, retries={"mode": "standard", "max_attempts": 3})
    try:
        answer = boto3.client("secretsmanager", config=limits).get_secret_value(SecretId=key)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        hint = "may the execution role call secretsmanager:GetSecretValue on it?" if "AccessDenied" in code else "is it in this region?"
        raise Trouble(f"AWS Secrets Manager refused the secret {key} ({code}); {hint}") from error
    except BotoCoreError as error:
        raise Trouble(f"AWS Secrets Manager could not be reached for the secret {key}: {type(error).__name__}") from error
    return _only_value(str(answer.get("SecretString", "")))


def _only_value(text: str) -> str:
    try:
        body = json.loads(text)
    except ValueError:
        return text
    return str(next(iter(body.values()))) if isinstance(body, dict) and len(body) == 1 else text


def _from_google(key: str, environ: Mapping[str, str]) -> str:
    """Google Secret Manager over REST with the job's service account: newest version, no library needed."""
    host = environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    service = environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER", "https://secretmanager.googleapis.com/").rstrip("/")
    project = environ.get("CLOUD_ML_PROJECT_ID") or _get(_METADATA_PROJECT.format(host=host), {"Metadata-Flavor": "Google"}, key).decode()
    token = json.loads(_get(_METADATA_LOGIN.format(host=host), {"Metadata-Flavor": "Google"}, key))["access_token"]
    name = key if key.startswith("projects/") else f"projects/{project}/secrets/{key}"
    body: dict[str, Any] = json.loads(
        _get(f"{service}/v1/{name}/versions/latest:access", {"Authorization": f"Bearer {token}"}, key),
    )
    return base64.b64decode(body["payload"]["data"]).decode()


def _get(url: str, headers: Mapping[str, str], key: str) -> bytes:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - built from our own constants
    try:
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:  # noqa: S310
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        hint = "has the job's service account roles/secretmanager.secretAccessor?" if error.code in (401, 403) else "is its name right?"
        raise Trouble(f"Google Secret Manager refused the secret {key} (HTTP {error.code}); {hint}") from error
    except (urllib.error.URLError, OSError) as error:
        raise Trouble(f"Google Secret Manager could not be reached for the secret {key}: {error}") from error
    return body


def redacted(data: bytes, values: Mapping[str, str]) -> bytes:
    """``data`` with every secret value replaced by the name of its variable."""
    for name, value in values.items():
        if len(value) >= 4:  # shorter ones would tear ordinary words apart
            data = data.replace(value.encode(), f"[{name}]".encode())
    return data


def without(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the supervisor's own variable that points at the secrets' folder."""
    return {name: value for name, value in environ.items() if name != FOLDER_VARIABLE}


def forget_mounted(environ: Mapping[str, str]) -> None:
    """Remove mounted secret files where that is allowed; a read-only mount is left to whoever made it."""
    folder = environ.get(FOLDER_VARIABLE)
    for path in sorted(Path(folder).glob("*")) if folder else []:
        if os.access(path.parent, os.W_OK):
            path.unlink(missing_ok=True)
