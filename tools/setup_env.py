"""Makes ``.venv`` and installs cloudtune into it, once. Standard library only; changes nothing outside the folder.

    python3 tools/setup_env.py train     what ``make demo`` needs
    python3 tools/setup_env.py dev       what ``make test`` needs

torch is the heavy part: its CPU build is taken where pip offers one, and the size is said before a download
starts. Your own pip settings (index, proxy, find-links) are used as they are. A second call with the same
pyproject.toml returns at once. ``CLOUDTUNE_TORCH=cpu`` or ``cuda`` overrides which build is looked for.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FLOOR = (3, 11)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of CPU builds
LOOK_SECONDS = 60  # for one question to pip about what an index offers
SHORT_LOOK_SECONDS = 20  # for an index that may be out of reach
LARGE_BYTES = 500 * 10**6
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
MEGABYTES = {"train": 150, "dev": 450}  # downloads beside torch
INCLUDES = {"train": ("train", "dev"), "dev": ("dev",)}  # an extra -> the installed extras that cover it


@dataclass(frozen=True)
class TorchBuild:
    """One way to install torch: the requirement, extra pip arguments, and what pip would fetch."""

    requirement: str
    arguments: tuple[str, ...]
    urls: tuple[str, ...]


def main() -> int:
    """Install the extra named on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make .venv and install cloudtune into it.")
    parser.add_argument("extra", choices=sorted(INCLUDES))
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    options = parser.parse_args()
    if sys.version_info[:2] < PYTHON_FLOOR:
        return fail(f"Python {sys.version.split()[0]} is too old; cloudtune needs 3.11 or newer. Try: make PYTHON=python3.11 demo")
    venv: Path = options.venv.absolute()
    digest = wanted_digest()
    if any(stamp(venv, extra).is_file() and stamp(venv, extra).read_text() == digest for extra in INCLUDES[options.extra]):
        return 0
    started = time.monotonic()
    if not (venv / "bin" / "python").exists() and not make_venv(venv):
        return 1
    if not install(venv, options.extra):
        return 1
    stamp(venv, options.extra).write_text(digest)
    say(f"installed into {venv} in {time.monotonic() - started:.0f} s")
    return 0


def say(text: str) -> None:
    """One line for the person who waits, on stderr."""
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


def fail(text: str) -> int:
    """Say why and give the exit code of a failure."""
    say(text)
    return 1


def stamp(venv: Path, extra: str) -> Path:
    """The file that says with which digest ``extra`` was installed."""
    return venv / f".cloudtune-{extra}"


def wanted_digest() -> str:
    """What an installation depends on: the project file, this file, the Python and the folder (it is an editable install)."""
    digest = hashlib.sha256(f"{sys.version}\n{ROOT}\n".encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv(venv: Path) -> bool:
    """Make the environment; Debian ships Python without ensurepip, so a system pip is the second way."""
    say(f"making {venv} with Python {sys.version.split()[0]}")
    if importlib.util.find_spec("ensurepip") is not None:
        if subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False).returncode == 0:
            return True
    elif importlib.util.find_spec("pip") is not None:
        bare = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
        seed = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet", "pip"]
        if all(subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0 for command in (bare, seed)):
            return True
    shutil.rmtree(venv, ignore_errors=True)
    say("this Python cannot make virtual environments. On Debian and Ubuntu install the missing part and try again:")
    say(f"    sudo apt-get install python{sys.version_info.major}.{sys.version_info.minor}-venv")
    return False


def install(venv: Path, extra: str) -> bool:
    """Install torch (when absent) and then the project with ``extra``."""
    pinned = torch_pin()
    if installed_version(venv, "torch").split("+")[0] != pinned:
        build = choose_torch(venv, pinned)
        if build is None:
            say(f"pip finds no torch {pinned} for Python {sys.version.split()[0]} on this machine; its last words are above")
            return False
        size = announce(build)
        if not pip(venv, *build.arguments, build.requirement, quiet=size < LARGE_BYTES):
            return False
    say(f"installing cloudtune[{extra}] and what it needs (about {MEGABYTES[extra]} MB beside torch)")
    project = ("--editable", f"{ROOT}[{extra}]")
    if not pip(venv, "--constraint", str(CONSTRAINTS), *project, quiet=True, last=False):
        say("the tested versions cannot all be had here; letting pip choose, which can take ten minutes")
        if not pip(venv, *project, quiet=True):
            return False
    drop_namespace_hooks(venv)
    return byte_compile(venv)


def drop_namespace_hooks(venv: Path) -> None:
    """Remove files that put a namespace (``google``) into every process of this environment, asked for or not.

    They are for Pythons older than 3.3; ours finds namespaces without them (PEP 420).
    """
    for hook in venv.glob("lib/python*/site-packages/*-nspkg.pth"):
        hook.unlink()


def byte_compile(venv: Path) -> bool:
    """Bytecode for the checkout, which an editable install makes none of: else the first calls, or all where Python may not
    write any, would compile every file again."""
    folders = [str(ROOT / name) for name in ("cloudtune", "containers/trainer")]
    subprocess.run([str(venv / "bin" / "python"), "-m", "compileall", "-q", *folders], check=False)
    return True


def torch_pin() -> str:
    """The one torch version of pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [match[1] for line in project["optional-dependencies"]["train"] if (match := re.fullmatch(r"torch==([\d.]+)", line))]
    return str(pins[0])


def installed_version(venv: Path, name: str) -> str:
    """The version of ``name`` in the environment, or an empty string."""
    code = "import sys, importlib.metadata as m\ntry: print(m.version(sys.argv[1]))\nexcept m.PackageNotFoundError: pass"
    answer = subprocess.run([str(venv / "bin" / "python"), "-c", code, name], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def choose_torch(venv: Path, pinned: str) -> TorchBuild | None:
    """The CPU build where an index offers it, else the plain one (on Linux that brings the CUDA libraries)."""
    wish = os.environ.get("CLOUDTUNE_TORCH") or ("cuda" if shutil.which("nvidia-smi") else "cpu")
    if wish == "cpu":
        say(f"looking for the CPU build of torch {pinned}")
        for arguments, seconds in ((), LOOK_SECONDS), (("--extra-index-url", TORCH_CPU_INDEX), SHORT_LOOK_SECONDS):
            found = offered(venv, f"torch=={pinned}+cpu", ("--no-deps", *arguments), seconds)
            if found:
                return TorchBuild(f"torch=={pinned}+cpu", arguments, found)
    plain = offered(venv, f"torch=={pinned}", (), 3 * LOOK_SECONDS, loud=True)
    return TorchBuild(f"torch=={pinned}", (), plain) if plain else None


def offered(venv: Path, requirement: str, arguments: tuple[str, ...], seconds: float, *, loud: bool = False) -> tuple[str, ...]:
    """The addresses of what pip would fetch for ``requirement``; empty when no index offers it in time."""
    question = ["install", "--dry-run", "--quiet", "--report", "-", "--timeout", "10", "--retries", "1", *arguments, requirement]
    try:
        answer = subprocess.run(
            [str(venv / "bin" / "python"), "-m", "pip", *question],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ()
    if answer.returncode != 0:
        sys.stderr.write(answer.stderr if loud else "")
        return ()
    return tuple(item["download_info"]["url"] for item in json.loads(answer.stdout)["install"])


def announce(build: TorchBuild) -> int:
    """Say what will be fetched and how big it is; returns the bytes (0 when no server would say)."""
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size_of, build.urls))
    total = sum(sizes)
    source = "a file on this machine" if all(urlparse(url).scheme == "file" for url in build.urls) else urlparse(build.urls[0]).netloc
    size = f"{total / 10**6:,.0f} MB" if all(sizes) else f"at least {total / 10**6:,.0f} MB (not every server says)"
    parts = f"{len(build.urls)} packages" if len(build.urls) > 1 else "1 package"
    say(f"{build.requirement}: {size} in {parts}, from {source}")
    if total > LARGE_BYTES:
        say("no index offers the CPU build, so this is the one with CUDA libraries; it unpacks to about twice that size")
    return total


def size_of(url: str) -> int:
    """Bytes behind a file or web address; 0 when it cannot be told."""
    parsed = urlparse(url)
    try:
        if parsed.scheme == "file":
            return Path(urllib.request.url2pathname(parsed.path)).stat().st_size
        question = urllib.request.Request(url, method="HEAD")  # noqa: S310 - pip gave the address
        with urllib.request.urlopen(question, timeout=10) as answer:  # noqa: S310
            return int(answer.headers.get("Content-Length") or 0)
    except (OSError, ValueError, urllib.error.URLError):
        return 0


def pip(venv: Path, *arguments: str, quiet: bool, last: bool = True) -> bool:
    """Run pip's install. Quiet keeps its words for the case that it fails; a long download gets its progress bar.

    ``last``: there is no other way when this one fails.
    """
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", *(["--quiet"] if quiet else []), *arguments]
    ran = subprocess.run(command, check=False, stderr=subprocess.PIPE if quiet else None, text=True)
    if ran.returncode == 0:
        return True
    sys.stderr.write(ran.stderr or "")
    if last:
        say("pip failed; its words are above. Behind a proxy or without a network: set PIP_INDEX_URL or PIP_FIND_LINKS and try again")
    return False


if __name__ == "__main__":
    sys.exit(main())
