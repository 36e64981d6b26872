"""The code channel for a stock image: our packages as one wheel, the lock without torch, and a start script. Pure.

The platform's image brings Python and torch; the channel brings the rest as data, so nothing is built or published.
The wheel is written here, byte for byte the same on any machine: no build tool, no timestamp, no owner.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping

CHANNEL = "code"
START = "start.sh"
_PACKAGE = "cloudtune_job"
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
# The stock image's own torch and CUDA libraries stay: another build of them would not match its driver layers.
_FROM_IMAGE = re.compile(r"^(torch|triton|nvidia[-_][a-z0-9-]+|cuda[-_][a-z0-9-]+)\b", re.IGNORECASE)

_START = """\
#!/bin/sh
# Starts the job in a stock image. Wheels in the channel `wheels` make it work without a network.
set -e
here=$(dirname "$0")
wheels="$here/../wheels"
if [ -d "$wheels" ]; then offline="--no-index --find-links $wheels"; else offline=""; fi
python3 -m pip install --quiet --disable-pip-version-check $offline -r "$here/requirements.txt"
python3 -m pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "$here"/{package}-*.whl
exec python3 -m cloudtune_entry train
"""


def code_channel(context: Mapping[str, bytes], version: str) -> dict[str, bytes]:
    """The channel's files from an image's build context (``trainer/...`` and ``requirements.txt``)."""
    sources = {path.removeprefix("trainer/"): content for path, content in context.items() if path.startswith("trainer/")}
    release = _plain_version(version)
    return {
        f"{_PACKAGE}-{release}-py3-none-any.whl": wheel(sources, release),
        "requirements.txt": without_torch(context["requirements.txt"]),
        START: _START.format(package=_PACKAGE).encode(),
    }


def without_torch(requirements: bytes) -> bytes:
    """The lock without what the stock image brings; options and comments stay, hashes go with their requirement."""
    kept, skipping = [], False
    for line in requirements.decode().splitlines():
        continued = line.startswith((" ", "\t"))
        skipping = (skipping and continued) or (not continued and bool(_FROM_IMAGE.match(line)))
        if not skipping and "download.pytorch.org" not in line:
            kept.append(line)
    return ("\n".join(kept) + "\n").encode()


def wheel(sources: Mapping[str, bytes], version: str) -> bytes:
    """A pure-Python wheel of ``sources`` (path → content)."""
    info = f"{_PACKAGE}-{version}.dist-info"
    files = {
        **sources,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {_PACKAGE}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: cloudtune\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(files[path])},{len(files[path])}\n" for path in sorted(files))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            _add(archive, path, files[path])
        _add(archive, f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode())
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, path: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(path, _FIXED_TIME)
    entry.create_system = 3  # Unix, whatever this machine is
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)  # stored, not deflated: zlib's output differs between its versions


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _plain_version(version: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+!]", ".", version)
