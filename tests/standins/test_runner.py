"""The runner in process mode: mapped paths, lines, signals, nothing left behind, and the job's own wheel."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cloudtune.rendering.channel import wheel
from cloudtune.standins.runner import MARK, ProcessRunner, ProcessRunning, Program, mapped

SCRIPT = """
import os, signal, subprocess, sys, time
print("root", os.environ["CLOUDTUNE_ROOT"], os.path.exists(sys.argv[1]), flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), sys.exit(75)))
print("ready", flush=True)
time.sleep(600)
"""


def program(folder: Path, *command: str, **env: str) -> Program:
    root, workplace = folder / "ml", folder / "work"
    for place in (root, workplace):
        place.mkdir(exist_ok=True)
    return Program(command, env, {"/opt/ml": root, "/gcs": folder / "gcs"}, workplace, host="algo-7")


class Lines(list[tuple[str, str]]):
    def __call__(self, host: str, line: str) -> None:
        self.append((host, line))

    def until(self, word: str) -> None:
        deadline = time.monotonic() + 30
        while not any(word in line for _, line in self):
            assert time.monotonic() < deadline, self
            time.sleep(0.02)


def marked(running: ProcessRunning) -> list[str]:
    """The processes of one program; other tests on this machine may have theirs."""
    mark = f"{MARK}={running._mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [path.parent.name] if mark in path.read_bytes() else []
        except OSError:
            continue
    return found


@pytest.fixture
def started(tmp_path: Path):
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "run.py").write_text(SCRIPT)
    lines = Lines()
    running = ProcessRunner().start(program(tmp_path, "python3", "/opt/ml/run.py", "/opt/ml/run.py"), lines)
    lines.until("ready")
    yield running, lines, tmp_path
    running.kill()
    assert marked(running) == []


def test_paths_lines_and_sigterm(started):
    running, lines, folder = started
    assert lines[0] == ("algo-7", f"root {folder / 'ml'} True")
    assert running.wait(0.1) is None
    running.terminate()
    assert running.wait(30) == 75
    assert lines[-1] == ("algo-7", "asked")


def test_a_kill_takes_the_whole_family(started):
    running, _, _ = started
    assert len(marked(running)) >= 2
    running.kill()
    assert running.wait(30) == 137


def test_a_path_is_mapped_only_where_it_stands_alone(tmp_path: Path):
    folders = {"/opt/ml": tmp_path}
    assert mapped("/opt/ml/input:/opt/ml", folders) == f"{tmp_path}/input:{tmp_path}"
    assert mapped("--data=/opt/ml/input", folders) == f"--data={tmp_path}/input"
    assert mapped("/opt/mlx s3://bucket/opt/ml/x /srv/opt/ml", folders) == "/opt/mlx s3://bucket/opt/ml/x /srv/opt/ml"


def test_pip_of_a_stand_in_machine_stays_in_its_folder(tmp_path: Path):
    """The job's own wheel is what runs, before this installation's package; a missing requirement is said."""
    code = tmp_path / "ml" / "code"
    code.mkdir(parents=True)
    (code / "job-1-py3-none-any.whl").write_bytes(wheel({"cloudtune_entry/__init__.py": b"NAME = 'from the wheel'\n"}, "1"))
    (code / "requirements.txt").write_text("pydantic==0.0.1\nno-such-package-of-anybody==1.0 \\\n    --hash=sha256:aa\n")
    start = "set -e\npython3 -m pip install --quiet -r CODE/requirements.txt\npython3 -m pip install --no-index CODE/*.whl\n"
    start += "exec python3 -c 'import cloudtune_entry; print(cloudtune_entry.NAME)'\n"
    (code / "start.sh").write_text(start.replace("CODE", str(code)))  # inside a script nothing is rewritten
    lines = Lines()
    running = ProcessRunner().start(program(tmp_path, "sh", "/opt/ml/code/start.sh"), lines)
    assert running.wait(60) == 0, lines
    said = [line for _, line in lines]
    assert said[-1] == "from the wheel"
    assert "asked for and not here: no-such-package-of-anybody" in said
    assert any(line.startswith("pydantic 0.0.1 is asked for, ") for line in said)
    assert not list(Path(os.path.realpath(code)).glob("cloudtune_entry"))
