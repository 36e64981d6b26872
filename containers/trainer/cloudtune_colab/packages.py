"""The locked packages: what is installed is looked at first, and only what differs is installed, into a folder of our own.

The notebook's own packages stay as they are, so nothing has to be restarted: the trainer's process looks into our folder
first. torch counts as installed when its release is the locked one, whatever CUDA it was built for.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cloudtune_colab.ground import Place, Stop, say

PIP_SECONDS = 3600
_INDEX = {"cuda": "https://download.pytorch.org/whl/cu126", "cpu": "https://download.pytorch.org/whl/cpu"}


def read_lock(text: str) -> dict[str, str]:
    """Name → version of every ``name==version`` line."""
    pins = (line.split("==", 1) for line in text.splitlines() if "==" in line and not line.startswith("#"))
    return {_plain(name): version.strip() for name, version in pins}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def installed(path: Sequence[str]) -> dict[str, str]:
    """Name → version of what a process with this search path would import; the first that is found counts."""
    found: dict[str, str] = {}
    for item in importlib.metadata.distributions(path=list(path)):
        name = item.metadata["Name"]
        if name and _plain(name) not in found:
            found[_plain(name)] = item.version
    return found


def differing(lock: Mapping[str, str], here: Mapping[str, str], device: str) -> list[str]:
    """The pins, as pip writes them, that the installed packages do not meet."""
    return [f"{name}=={version}" for name, version in lock.items() if not _meets(name, version, here.get(name), device)]


def _meets(name: str, wanted: str, there: str | None, device: str) -> bool:
    if there is None or name != "torch":
        return there == wanted
    release, _, build = there.partition("+")
    return release == wanted.partition("+")[0] and not (device == "cuda" and build == "cpu")


def install(place: Place, lock_text: str, device: str) -> list[str]:
    """Install what differs; returns those pins. Raises Stop with pip's last words, or when something still differs afterwards."""
    lock = read_lock(lock_text)
    place.packages.mkdir(parents=True, exist_ok=True)
    missing = differing(lock, installed(_search_path(place)), device)
    say(f"{len(lock) - len(missing)} of {len(lock)} packages are here in the locked version")
    torch = [pin for pin in missing if pin.startswith("torch==")]
    rest = [pin for pin in missing if pin not in torch]
    if torch:
        say(f"installing {torch[0]}: about 3 GB for a GPU, some minutes")
        locked = place.home / "lock.txt"
        locked.write_text(lock_text)
        _pip(place, "--extra-index-url", _INDEX[device], "--constraint", str(locked), *torch)
    if rest:
        say(f"installing {len(rest)}: {', '.join(rest[:8])}{' ...' if len(rest) > 8 else ''}")
        _pip(place, "--no-deps", *rest)
    left = differing(lock, installed(_search_path(place)), device)
    if left:
        raise Stop(f"after installing, these still differ from the lock: {', '.join(left)}; start with a fresh runtime")
    return missing


def _search_path(place: Place) -> list[str]:
    """What the trainer's process will see: our folder, then the interpreter's own, without what this notebook added to its path."""
    own = [path for path in sys.path if path and Path(path) not in (place.code, place.packages)]
    return [str(place.packages), *own]


def _pip(place: Place, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"]
    answer = subprocess.run([*command, str(place.packages), *arguments], capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    if answer.returncode:
        last = answer.stderr.strip().splitlines()[-3:]
        raise Stop("pip failed: " + " ".join(last))
