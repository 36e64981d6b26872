"""A tar of a small Debian with Python, made from the files of this machine's own packages; for tests only.

It stands in for the public base image of the rendered Dockerfile where no registry can be reached. What this
machine needs specially lives here and nowhere in what users get: its CA bundle and the address of its wheels.

Run with the system's Python on Debian (``/usr/bin/python3 base_image.py > base.tar``); needs python3, python3-pip,
ca-certificates and libgomp1 installed by apt. Takes about three seconds, no network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

ROOTS = ("python3", "python3-pip", "python3-venv", "ca-certificates", "libgomp1", "libstdc++6", "openssl", "passwd", "coreutils")
LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/lintian/", "/usr/lib/gcc/")
DATABASE = Path("/var/lib/dpkg/info")
EXTRA_FILES = ("/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/ssl/certs/ca-certificates.crt", "/usr/bin/awk")
# The pristine account files of the base-passwd package: none of this machine's own users travels.
ACCOUNTS = {"etc/passwd": "/usr/share/base-passwd/passwd.master", "etc/group": "/usr/share/base-passwd/group.master"}
EMPTY_FOLDERS = ("root", "home", "opt", "mnt", "srv", "proc", "sys", "dev", "run", "usr/local", "usr/local/bin", "usr/local/lib")


def said(*command: str) -> list[str]:
    """A program's output lines."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def packages() -> set[str]:
    """The essential packages, ``ROOTS``, and everything installed that these depend on."""
    essential = [line.split()[1] for line in said("dpkg-query", "-W", "-f", "${Essential} ${Package}\n") if line.startswith("yes ")]
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    tree = said("apt-cache", "depends", "--recurse", "--installed", *(f"--no-{kind}" for kind in kinds), *essential, *ROOTS)
    return {line.strip() for line in tree if line and not line.startswith((" ", "<", "|"))}


def merged(path: str) -> str:
    """The path with /bin, /lib and their like resolved to where Debian really keeps them."""
    top, _, rest = path.lstrip("/").partition("/")
    real = f"/{top}"
    return f"/{Path(real).readlink()}/{rest}" if rest and Path(real).is_symlink() else path


def paths() -> list[str]:
    """Every file, link and folder of the image, relative to the root, sorted so that folders come before their content."""
    listed: set[str] = set(EXTRA_FILES) | {str(path) for path in Path("/etc/alternatives").iterdir()}
    for package in packages():
        for record in (DATABASE / f"{package}.list", DATABASE / f"{package}:amd64.list"):
            if record.exists():
                listed.update(record.read_text().splitlines())
    kept = {merged(path) for path in listed if len(path) > 2 and not path.startswith(LEFT_OUT)}
    links = {name for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32") if Path(f"/{name}").is_symlink()}
    here = {path.lstrip("/") for path in kept if os.path.lexists(path)}
    return [*sorted(links), *sorted(here - links - {"tmp", "root", "usr/bin/python"} | set(ACCOUNTS))]


def write_tar(stream: object) -> None:
    """The tar on ``stream``, links never hard."""
    names = paths()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for name in names:
            archive.inodes.clear()  # a second name of one file becomes a second file
            archive.add(ACCOUNTS.get(name, f"/{name}"), name, recursive=False)
        for name in EMPTY_FOLDERS:
            if name not in names:
                archive.addfile(entry(name, tarfile.DIRTYPE, 0o755))
        archive.addfile(entry("tmp", tarfile.DIRTYPE, 0o1777))
        archive.addfile(entry("usr/bin/python", tarfile.SYMTYPE, 0o777, "python3"))


def entry(name: str, kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    """A folder or link that no package brings."""
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.linkname = kind, mode, target
    return made


if __name__ == "__main__":
    write_tar(sys.stdout.buffer)
