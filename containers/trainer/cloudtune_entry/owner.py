"""One launch, one job: Vertex AI has no token against doubles, so the job that may train is named by one object in the bucket.

The first to write it owns the launch: this job's entry, or a launcher that found two jobs and chose. A job that finds
another owner ends at once, before it touches the results. Trouble with the object itself never ends a job.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

from cloudtune_entry.ground import Ground, bucket_path
from cloudtune_entry.outcome import say

VARIABLE = "CLOUDTUNE_OWNER"
CALL_SECONDS = 20
_LOGIN = "http://{host}/computeMetadata/v1/instance/service-accounts/default/token"


def other_owner(ground: Ground, environ: Mapping[str, str]) -> str | None:
    """A sentence about who owns the launch instead of this job; None when it is this job, or nobody can tell.

    Only the first machine asks: the others end when it does.
    """
    address = environ.get(VARIABLE, "")
    key = environ.get("CLOUD_ML_JOB_ID", "").rpartition("/")[2]  # the number, also where it comes as the job's full name
    if ground.kind != "vertex" or not key or not address.startswith("gs://") or not _is_first(environ):
        return None
    owner: str | None
    try:
        owner = _claim(address, key, environ)
    except (OSError, ValueError, KeyError) as error:
        say(f"whether this launch has another job could not be asked ({error}); going on")
        owner = _mounted(address)
    if owner is None or owner == key:
        return None
    if owner and owner.isdecimal() != key.isdecimal():  # launchers know numbers: another kind of word cannot be compared
        say(f"the launch belongs to job {owner}, and whether {key} is the same cannot be told; going on")
        return None
    return f"the launch belongs to job {owner}; this job {key} is a double" if owner else "the launch was given up before this job started"


def _is_first(environ: Mapping[str, str]) -> bool:
    try:
        return str(json.loads(environ["CLUSTER_SPEC"])["task"]["type"]) == "workerpool0"
    except (KeyError, ValueError, TypeError):
        return True


def _claim(address: str, key: str, environ: Mapping[str, str]) -> str:
    """Write our number where there is none; whose number is there now."""
    bucket, _, name = address.removeprefix("gs://").partition("/")
    base = (environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com").rstrip("/")
    token = json.loads(
        _get(_LOGIN.format(host=environ.get("GCE_METADATA_HOST", "metadata.google.internal")), {"Metadata-Flavor": "Google"})
    )
    login = {"Authorization": f"Bearer {token['access_token']}"}
    query = urllib.parse.urlencode({"uploadType": "media", "name": name, "ifGenerationMatch": "0"})
    try:
        _get(
            f"{base}/upload/storage/v1/b/{bucket}/o?{query}",
            {**login, "Content-Type": "application/json"},
            json.dumps({"job": key}).encode(),
        )
    except urllib.error.HTTPError as error:
        if error.code != 412:
            raise
        return _number(_get(f"{base}/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media", login))
    return key


def _mounted(address: str) -> str | None:
    """The owner as the mounted bucket shows it; None when there is none or it cannot be read."""
    try:
        return _number(bucket_path(address).read_bytes())
    except (OSError, ValueError):
        return None


def _number(data: bytes) -> str:
    return str(json.loads(data).get("job") or "")


def _get(url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, headers=dict(headers))  # noqa: S310 - built from our own constants
    with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:  # noqa: S310
        found: bytes = answer.read()
    return found
