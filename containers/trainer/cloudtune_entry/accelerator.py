"""The GPU in the first minute: driver there, new enough for this image's CUDA, and as many GPUs as planned.

A job that will not find its GPU should say so after seconds, not after the model's download. Looks only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from cloudtune_entry.ground import Ground, Trouble
from cloudtune_entry.orders import Orders

LOOK_SECONDS = 50
NVIDIA_FOLDER = Path("/usr/local/nvidia")  # Vertex AI mounts the machine's driver here
COMPAT_FOLDER = Path("/usr/local/cuda/compat")
_QUESTION = """
import json, torch
there = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if there else []
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "available": there, "names": names}))
"""


@dataclass(frozen=True)
class Torch:
    """What torch says of itself and of the GPUs that it can use."""

    version: str
    cuda: str
    available: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says: driver version, newest CUDA that it runs, number of GPUs."""

    version: str
    cuda: str
    gpus: int


def prepare_paths(ground: Ground, environ: MutableMapping[str, str]) -> None:
    """Put the machine's driver on the search paths; on SageMaker also NVIDIA's compatibility libraries, where they are newer.

    Not on Vertex AI: there the driver rolls forward, and older compatibility libraries in front of it break CUDA.
    """
    if (NVIDIA_FOLDER / "lib64").is_dir():
        _prepend(environ, "LD_LIBRARY_PATH", NVIDIA_FOLDER / "lib64")
        _prepend(environ, "PATH", NVIDIA_FOLDER / "bin")
    if ground.kind == "sagemaker" and compat_is_newer(COMPAT_FOLDER, Path("/proc/driver/nvidia/version")):
        _prepend(environ, "LD_LIBRARY_PATH", COMPAT_FOLDER)


def _prepend(environ: MutableMapping[str, str], name: str, folder: Path) -> None:
    parts = [part for part in environ.get(name, "").split(os.pathsep) if part and part != str(folder)]
    environ[name] = os.pathsep.join([str(folder), *parts])


def compat_is_newer(folder: Path, driver: Path) -> bool:
    """Whether the compatibility libraries' driver version is above the machine's; False when either is not there."""
    try:
        running = re.search(r"\s(\d+(?:\.\d+)+)\s", driver.read_text())
    except OSError:
        return False
    shipped = [found for path in folder.glob("libcuda.so.*.*") if (found := re.search(r"\.so\.(\d+(?:\.\d+)+)$", path.name))]
    return bool(running and shipped) and _numbers(shipped[0][1]) > _numbers(running[1] if running else "0")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def check(orders: Orders, environ: MutableMapping[str, str]) -> str:
    """One sentence about the device. Raises Trouble that says plainly what is wrong with it."""
    if orders.device != "cuda":
        return "training on the CPU, as planned"
    driver = _driver(environ)
    if driver is None:
        raise Trouble("no NVIDIA driver in this container: the machine has no GPU, or the container was started without it")
    return judge(orders, driver, _torch(environ))


def judge(orders: Orders, driver: Driver, seen: Torch) -> str:
    """The sentence for what driver and torch say. Raises Trouble."""
    if not seen.cuda:
        raise Trouble(f"this image holds a CPU build of torch ({seen.version}), but the job needs a GPU: use the cuda image")
    if _numbers(seen.cuda) > _numbers(driver.cuda) and not seen.available:
        raise Trouble(
            f"driver {driver.version} runs CUDA up to {driver.cuda}, this image's torch {seen.version} needs {seen.cuda}: "
            "choose a machine with a newer driver, or the image for an older CUDA"
        )
    if not seen.available:
        raise Trouble(f"driver {driver.version} sees {driver.gpus} GPU(s), but torch {seen.version} cannot use CUDA here")
    if len(seen.names) < orders.gpus:
        raise Trouble(f"the plan is for {orders.gpus} GPUs on this machine, torch sees {len(seen.names)}")
    return f"{len(seen.names)} x {seen.names[0]}, driver {driver.version}, torch {seen.version} with CUDA {seen.cuda}"


def _driver(environ: MutableMapping[str, str]) -> Driver | None:
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return None
    try:
        answer = subprocess.run([program], capture_output=True, text=True, timeout=LOOK_SECONDS, env=dict(environ), check=False)
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=LOOK_SECONDS, env=dict(environ), check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"Driver Version:\s*([\d.]+)", answer.stdout)
    cuda = re.search(r"CUDA[\w ]* Version:\s*(\d+\.\d+)", answer.stdout)
    if answer.returncode or version is None:
        return None
    return Driver(version[1], cuda[1] if cuda else "0", len(re.findall(r"^GPU \d+:", listed.stdout, re.MULTILINE)))


def _torch(environ: MutableMapping[str, str]) -> Torch:
    """Ask torch in a process of its own, so that a broken CUDA set-up cannot take the supervisor with it."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _QUESTION], capture_output=True, text=True, timeout=LOOK_SECONDS, env=dict(environ), check=False
        )
    except subprocess.TimeoutExpired:
        raise Trouble(f"torch did not answer whether it sees the GPU within {LOOK_SECONDS} s") from None
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise Trouble(f"torch cannot be imported in this image: {last}")
    found = json.loads(answer.stdout.strip().splitlines()[-1])
    return Torch(found["torch"], found["cuda"] or "", found["available"], tuple(found["names"]))
