"""A container engine of our own for tests and benchmarks: a dockerd with its own socket, data folder and no network change.

    python tests/engine/private.py up        start it (installs Debian's docker.io when root and absent), make the base image
    python tests/engine/private.py down      stop it and remove everything it left

It runs beside any other engine of the machine: its bridge, iptables and forwarding are switched off, so builds use the
host's network and dry runs none. ``CLOUDTUNE_ENGINE_DIR`` moves it (keep it short: socket paths end at 104 bytes).
``CLOUDTUNE_ENGINE_KIND=podman`` makes it podman's docker socket, as root, on folders of its own.
The tests start one by themselves and take it down again; one that was started by hand is used and left running.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE, TAG = "python", "3.11-slim-bookworm"  # the tag in the rendered Dockerfile: its FROM line is built as it is
UP_SECONDS = 60
DOWN_SECONDS = 60
DAEMONS = {"docker": ("dockerd", "docker.io"), "podman": ("podman", "podman", "runc")}
"""The program, and Debian's packages that bring it."""
NEEDED = ("python3", "python3-pip", "python3-venv", "ca-certificates", "libgomp1")


_STARTED: dict[int, subprocess.Popen[bytes]] = {}
"""Programs that outlive the call that started them, by their number; kept so that they can be waited for."""


class Unusable(Exception):
    """No private engine on this machine; the text says why."""


@dataclass(frozen=True)
class PrivateEngine:
    """Where the engine lives. ``url`` is its DOCKER_HOST, ``kind`` docker or podman."""

    folder: Path
    kind: str = "docker"

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"


def default_engine() -> PrivateEngine:
    """The engine of this machine's tests."""
    kind = os.environ.get("CLOUDTUNE_ENGINE_KIND", "docker")
    return PrivateEngine(Path(os.environ.get("CLOUDTUNE_ENGINE_DIR", f"/tmp/ct-{kind}" if kind != "docker" else "/tmp/ct-engine")), kind)


def up(engine: PrivateEngine, *, may_install: bool = True) -> bool:
    """Start the engine and make its base image. Returns False when it already ran. Raises Unusable."""
    if answers(engine):
        make_base(engine)
        return False
    ensure_installed(engine, may_install=may_install)
    engine.folder.mkdir(parents=True, exist_ok=True)
    serve_wheels(engine)
    daemon = start_daemon(engine)
    deadline = time.monotonic() + UP_SECONDS
    while not answers(engine):
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise Unusable(f"{DAEMONS[engine.kind][0]} does not come up; its last lines:\n{tail(engine.log)}")
        time.sleep(0.1)
    make_base(engine)
    return True


def ensure_installed(engine: PrivateEngine, *, may_install: bool) -> None:
    """Debian's engine and what the base image is made of. Raises Unusable where that cannot be had, or not without asking."""
    if os.geteuid() != 0:
        raise Unusable("a private engine needs root")
    program, *packages = DAEMONS[engine.kind]
    needed = [*packages, *NEEDED]
    missing = [name for name in needed if subprocess.run(["dpkg", "-s", name], capture_output=True, check=False).returncode]
    if not missing and shutil.which(program):
        return
    if not may_install:
        raise Unusable(f"{', '.join(missing or [program])} is not installed; to have it: python tests/engine/private.py up")
    if shutil.which("apt-get") is None:
        raise Unusable(f"there is no {program}, and no apt-get to install it with")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *needed]):
        answer = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise Unusable(f"{' '.join(command[:2])} failed: {answer.stderr.strip()[-500:]}")


def start_daemon(engine: PrivateEngine) -> subprocess.Popen[bytes]:
    """The daemon in a session of its own, so that a Ctrl-C in the tests does not reach it."""
    command, environ = (podman_command if engine.kind == "podman" else dockerd_command)(engine)
    with engine.log.open("ab") as log:
        daemon = subprocess.Popen(
            command, env=environ, cwd=engine.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    _STARTED[daemon.pid] = daemon
    if engine.kind == "podman":
        (engine.folder / "docker.pid").write_text(str(daemon.pid))
    return daemon


def dockerd_command(engine: PrivateEngine) -> tuple[list[str], dict[str, str]]:
    """dockerd with everything of its own and nothing of the host's network; it writes its number itself."""
    folders = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "docker.pid"}
    places = [part for flag, name in folders.items() for part in (flag, str(engine.folder / name))]
    command = ["dockerd", "--host", engine.url, *places, "--iptables=false", "--ip-forward=false", "--bridge=none"]
    return command, dict(os.environ)


def podman_command(engine: PrivateEngine) -> tuple[list[str], dict[str, str]]:
    """podman's docker socket. Its own defaults ask for higher limits than root may have in some machines, and crun for cgroup v2."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    settings = engine.folder / "containers.conf"
    # podman lowers its own limit of processes to 32768, and sets neither limit as asked when one of them is above what it may.
    settings.write_text(f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=32768:32768"]\n[engine]\nruntime = "runc"\n')
    return ["podman", *podman_places(engine), "system", "service", "--time=0", engine.url], {**os.environ, "CONTAINERS_CONF": str(settings)}


def podman_places(engine: PrivateEngine) -> list[str]:
    """Everything of its own, for the service and for podman's own command beside it."""
    return ["--root", str(engine.folder / "data"), "--runroot", str(engine.folder / "exec")]


def serve_wheels(engine: PrivateEngine) -> None:
    """This machine's wheel folder over loopback HTTP: no wheel ends in an image layer."""
    folder = os.environ.get("PIP_FIND_LINKS", "")
    if not Path(folder or "/nonexistent").is_dir():
        return
    port = wheels_port(engine)
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, str(port)]
    with (engine.folder / "wheels.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    _STARTED[server.pid] = server
    (engine.folder / "wheels.pid").write_text(str(server.pid))


def wheels_port(engine: PrivateEngine) -> int:
    """A free port, and the same one when the engine is started again: the base image knows it. Two engines have two."""
    record = engine.folder / "wheels.port"
    if not record.exists():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            record.write_text(str(free.getsockname()[1]))
    return int(record.read_text())


def client(engine: PrivateEngine, seconds: float = 60) -> object:
    """The docker package's low-level client of this engine."""
    import docker

    return docker.APIClient(base_url=engine.url, version="auto", timeout=seconds)


def answers(engine: PrivateEngine) -> bool:
    """Whether a daemon answers on the socket."""
    import docker.errors

    if not listens(engine.folder / "docker.sock"):
        return False
    try:
        client(engine, 5).close()  # type: ignore[attr-defined]
    except docker.errors.DockerException:
        return False
    return True


def listens(path: Path) -> bool:
    """Whether a Unix socket takes connections. Asked with a socket of ours, because docker's package leaves a refused one open."""
    with socket.socket(socket.AF_UNIX) as ours:
        ours.settimeout(5)
        return ours.connect_ex(str(path)) == 0


def make_base(engine: PrivateEngine) -> None:
    """The test-only base image under the public name; made once, because a second import would lose every cached layer."""
    import docker.errors

    api = client(engine, 300)
    try:
        api.inspect_image(f"{BASE}:{TAG}")  # type: ignore[attr-defined]
    except docker.errors.ImageNotFound:
        archive = engine.folder / "base.tar"
        with archive.open("wb") as stream:
            subprocess.run(["/usr/bin/python3", str(HERE / "base_image.py")], stdout=stream, check=True)
        changes = [f"ENV {name}={value}" for name, value in base_environment(engine).items()]
        if engine.kind == "podman":  # its docker socket imports without a name
            options = [part for change in changes for part in ("-c", change)]
            place = [*podman_places(engine), "import", "--quiet", *options, str(archive), f"docker.io/library/{BASE}:{TAG}"]
            subprocess.run(["podman", *place], check=True, capture_output=True)
        else:
            api.import_image_from_file(str(archive), repository=BASE, tag=TAG, changes=changes)  # type: ignore[attr-defined]
        archive.unlink()
    finally:
        api.close()  # type: ignore[attr-defined]


def base_environment(engine: PrivateEngine) -> dict[str, str]:
    """What pip needs on this machine; Debian's Python besides wants to be told that the image is its own."""
    values = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
    }
    if (engine.folder / "wheels.pid").exists():
        values["PIP_RETRIES"] = "0"  # the wheel is here: an index that cannot be reached need not be asked five times
        values["PIP_FIND_LINKS"] = f"http://127.0.0.1:{wheels_port(engine)}/"
    return values


def down(engine: PrivateEngine) -> None:
    """Stop containers, daemon and wheel server; unmount and remove everything."""
    if answers(engine):
        api = client(engine)
        for container in api.containers(all=True):  # type: ignore[attr-defined]
            api.remove_container(container["Id"], force=True, v=True)  # type: ignore[attr-defined]
        api.close()  # type: ignore[attr-defined]
    for name in ("wheels.pid", "docker.pid"):
        end_process(engine.folder / name)
    with Path("/proc/mounts").open() as mounts:
        ours = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{engine.folder}/")]
    for place in reversed(ours):
        subprocess.run(["umount", place], check=False, capture_output=True)
    shutil.rmtree(engine.folder, ignore_errors=True)


def end_process(record: Path) -> None:
    """SIGTERM to the process whose number ``record`` holds, and wait for its end."""
    if not record.exists() or not record.read_text().strip():
        return
    number = int(record.read_text())
    ours = _STARTED.pop(number, None)
    try:
        os.kill(number, signal.SIGTERM)
        if ours is not None:
            ours.wait(DOWN_SECONDS)
            return
        deadline = time.monotonic() + DOWN_SECONDS
        while time.monotonic() < deadline and Path(f"/proc/{number}").exists():
            time.sleep(0.1)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        return


def tail(path: Path, lines: int = 8) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


if __name__ == "__main__":
    if sys.argv[1:] == ["up"]:
        up(default_engine())
        sys.stdout.write(f"export DOCKER_HOST={default_engine().url}\n")
    elif sys.argv[1:] == ["down"]:
        down(default_engine())
    else:
        sys.exit(__doc__)
