"""The command through a job's life, as processes: launch, watch, leave, come back, stop, collect. The trainer is the stand-in."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.e2e.command import Installation, command_line, surroundings

Installed = Callable[[Sequence[str]], Installation]
ESCAPE = re.compile(r"\x1b|\r")


def test_launch_follows_collects_and_sums_up(installed: Installed) -> None:
    here = installed(["--steps", "5", "--pause", "0.3"])
    ran = here.run("launch", "plan.json")
    assert ran.code == 0, ran.err
    assert "Memory at the peak" in ran.out
    assert re.search(r"little-\w{10} running: train, step \d/5", ran.out)
    assert re.search(r"little-\w{10}  done in", ran.out)
    assert not ESCAPE.search(ran.out + ran.err)
    (folder,) = (here.work / "runs").iterdir()
    assert (folder / "adapter" / "adapter.safetensors").read_bytes() == b"weights" * 1000
    assert (folder / "manifest.json").is_file()
    (job,) = here.run("ps", "--json").json["jobs"]
    assert (job["state"], job["provider"], job["recipe"]) == ("collected", "local", "little")
    assert job["id"] == folder.name
    assert job["collected_to"] == str(folder)


def test_json_is_one_object_and_the_rest_goes_to_stderr(installed: Installed) -> None:
    here = installed(["--steps", "3"])
    ran = here.run("launch", "plan.json", "--json", "--id", "mine")
    assert ran.code == 0, ran.err
    assert ran.json["job"]["id"] == "mine"
    assert ran.json["job"]["state"] == "collected"
    assert ran.json["collected"]["manifest"]["outcome"] == "complete"
    assert "Memory at the peak" in ran.err
    for arguments in (
        ["status", "mine"],
        ["logs", "mine"],
        ["ps"],
        ["cost"],
        ["reconcile"],
        ["collect", "mine"],
        ["stop", "mine"],
        ["doctor"],
    ):
        answer = here.run(*arguments, "--json")
        assert answer.code == 0, answer.err
        assert isinstance(answer.json, dict), arguments
    assert here.run("logs", "mine", "--json").json["lines"][0]["text"] == "step 1 of 3"


def test_the_same_id_twice_is_one_job(installed: Installed) -> None:
    here = installed(["--steps", "3"])
    assert here.run("launch", "plan.json", "--id", "mine", "--detach").code == 0
    assert here.run("launch", "plan.json", "--id", "mine").code == 0
    assert len(here.run("ps", "--json").json["jobs"]) == 1


def test_detach_returns_the_address_at_once(installed: Installed) -> None:
    here = installed(["--steps", "3", "--prepare", "1"])
    ran = here.run("launch", "plan.json", "--detach")
    assert ran.code == 0, ran.err
    assert re.search(r"local://[^/\s]+/little-\w{10}", ran.out)
    address = here.run("ps", "--json").json["jobs"][0]["ref"]
    followed = here.run("logs", "-f", address)
    assert followed.code == 0, followed.err
    assert followed.out.splitlines() == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    collected = here.run("collect", "last", "--to", "out")
    assert collected.code == 0, collected.err
    assert (here.work / "out" / "adapter" / "adapter_config.json").is_file()


def test_a_failed_job_is_exit_1_with_its_last_lines(installed: Installed) -> None:
    here = installed(["--steps", "5", "--fail-at", "2"])
    ran = here.run("launch", "plan.json")
    assert ran.code == 1
    assert "the data ran dry" in ran.err
    assert "step 2 of 5" in ran.err
    assert "cloudtune logs little-" in ran.err
    assert "Traceback" not in ran.err
    error = here.run("launch", "plan.json", "--json").json["error"]
    assert error["code"] == "job-failed"
    assert error["exit_code"] == 1
    assert any("step 2 of 5" in line for line in error["log_tail"])
    assert [job["state"] for job in here.run("ps", "--json").json["jobs"]] == ["failed", "failed"]


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read the process's stdout until a line holds ``text``."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came; stderr: {process.stderr.read() if process.stderr else ''}")


def test_ctrl_c_detaches_and_the_job_goes_on(installed: Installed) -> None:
    here = installed(["--steps", "30", "--pause", "0.1"])
    process = here.start("launch", "plan.json")
    job = wait_for(process, "running: train").split()[0]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"cloudtune logs -f {job}" in err
    assert f"cloudtune stop {job}" in err
    assert "Traceback" not in err
    assert here.run("status", job, "--json").json["state"] == "running"
    assert here.run("logs", "-f", job).out.splitlines()[-1] == "step 30 of 30"
    assert here.run("status", job, "--json").json["state"] == "succeeded"


def test_ctrl_c_with_json_is_one_object_too(installed: Installed) -> None:
    here = installed(["--steps", "30", "--pause", "0.1"])
    process = here.start("launch", "plan.json", "--json", "--id", "mine")
    assert process.stderr is not None
    assert any("running: train" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    error = json.loads(out)["error"]
    assert (error["code"], error["exit_code"]) == ("interrupted", 130)
    assert "cloudtune logs -f mine" in error["hint"]
    assert here.run("stop", "mine").code == 0


def test_leaving_the_log_says_where_to_go_on(installed: Installed) -> None:
    here = installed(["--steps", "40", "--pause", "0.1"])
    job = here.run("launch", "plan.json", "--detach", "--json").json["job"]["id"]
    process = here.start("logs", "-f", job)
    seen = wait_for(process, "step 9 ")
    time.sleep(0.5)  # the page with step 9 is behind it now, whatever comes next
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=20)
    assert process.returncode == 130
    last = int(re.findall(r"step (\d+) of", seen + rest)[-1])
    command = re.search(r"come back: cloudtune (.*)", err)
    assert command is not None
    again = here.run(*command[1].split())
    first = int(re.findall(r"step (\d+) of", again.out)[0])
    # Interrupted right after a page was written, that page may be shown again; nothing is ever left out.
    assert 1 < first <= last + 1, "the log goes on after the last line that was shown"


def test_stop_keeps_what_there_is(installed: Installed) -> None:
    here = installed(["--steps", "500", "--pause", "0.05"])
    job = here.run("launch", "plan.json", "--detach", "--json").json["job"]["id"]
    time.sleep(0.5)
    stopped = here.run("stop", job)
    assert stopped.code == 0, stopped.err
    assert "stopped" in stopped.out
    assert f"cloudtune collect {job}" in stopped.out
    assert here.run("stop", job).code == 0
    collected = here.run("collect", job, "--json")
    assert collected.code == 0, collected.err
    assert collected.json["partial"]


def test_a_closed_pipe_ends_quietly(installed: Installed) -> None:
    here = installed(["--steps", "2000", "--pause", "0"])
    assert here.run("launch", "plan.json", "--id", "long").code == 0
    line = " ".join(command_line("logs", "long")) + " | head -1"
    ran = subprocess.run(line, shell=True, cwd=here.work, env=surroundings(here.source), capture_output=True, text=True)  # noqa: S602
    assert ran.stdout == "step 1 of 2000\n"
    assert ran.stderr == ""


def on_terminal(arguments: list[str], here: Installation, *, answer: str = "", columns: int = 80) -> tuple[int, str]:
    """Run a command on a pseudo-terminal of 80 columns; ``answer`` is typed at the first question mark."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(here.work)
        os.execve(arguments[0], arguments, {**surroundings(here.source), "TERM": "xterm", "COLUMNS": str(columns), "LINES": "24"})  # noqa: S606
    screen = b""
    while select.select([master], [], [], 30)[0]:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        screen += chunk
        if answer and b"?" in screen:
            os.write(master, answer.encode())
            answer = ""
    _, status = os.waitpid(pid, 0)
    os.close(master)
    return os.waitstatus_to_exitcode(status), screen.decode()


def test_a_terminal_gets_a_live_picture(installed: Installed) -> None:
    here = installed(["--steps", "10", "--pause", "0.1"])
    code, screen = on_terminal(command_line("launch", "plan.json"), here)
    assert code == 0, screen
    assert "\x1b[" in screen
    assert re.search(r"step \d+/10, \d+%", screen)
    assert "so far" in screen


def priced(here: Installation) -> None:
    plan = json.loads((here.work / "plan.json").read_text())
    plan["chosen"]["usd_per_hour"], plan["chosen"]["purchase"] = 1.5, "on_demand"
    plan["usd"], plan["usd_low"], plan["usd_high"], plan["chosen"]["price_date"] = 0.02, 0.01, 0.03, "2026-11-01"
    (here.work / "plan.json").write_text(json.dumps(plan))


def test_spending_is_asked_for_and_no_is_the_default(installed: Installed) -> None:
    here = installed(["--steps", "2"])
    priced(here)
    code, screen = on_terminal(command_line("launch", "plan.json"), here, answer="\n")
    assert code == 2
    assert "at most $0.03" in screen
    assert "nothing was spent" in screen
    assert here.run("ps", "--json").json["jobs"] == []
    code, screen = on_terminal(command_line("launch", "plan.json"), here, answer="y\n")
    assert code == 0, screen


def test_without_a_terminal_spending_needs_yes(installed: Installed) -> None:
    here = installed(["--steps", "2"])
    priced(here)
    refused = here.run("launch", "plan.json", "--json")
    assert refused.code == 2
    assert refused.json["error"]["code"] == "needs-yes"
    assert "--yes" in refused.json["error"]["hint"]
    assert here.run("ps", "--json").json["jobs"] == []
    assert here.run("launch", "plan.json", "--yes").code == 0
    (row,) = here.run("cost", "--json").json["rows"]
    assert row["usd"] is not None


def test_a_job_that_does_not_exist(installed: Installed) -> None:
    here = installed([])
    for arguments in (["status", "nope"], ["logs", "nope"], ["stop", "nope"], ["collect", "nope"]):
        ran = here.run(*arguments)
        assert ran.code == 2, ran.err
        assert "no job is called 'nope'" in ran.err
        assert "cloudtune ps" in ran.err


@pytest.mark.parametrize("arguments", [["ps"], ["launch", "plan.json", "--detach"]])
def test_a_home_that_cannot_be_written_is_one_sentence(installed: Installed, arguments: list[str]) -> None:
    here = installed([])
    ran = here.run(*arguments, env={"CLOUDTUNE_HOME": "/proc/nowhere"})
    assert ran.code == 4, ran.err
    assert "Traceback" not in ran.err
    assert "CLOUDTUNE_HOME" in ran.err


def test_a_plan_that_is_none(installed: Installed) -> None:
    here = installed([])
    for name, text in {"broken.json": "{", "other.json": '{"version": 1}', "list.json": "[]"}.items():
        (here.work / name).write_text(text)
        ran = here.run("launch", name)
        assert ran.code == 2, ran.err
        assert "no plan" in ran.err
    assert here.run("launch", "missing.json").code == 2
    assert here.run("launch", "plan.json", "--set", "training.epochs=1").code == 2


def test_folders_are_found_from_anywhere(installed: Installed, tmp_path: Path) -> None:
    """Results go below the folder that launch ran in, also when collect runs somewhere else."""
    here = installed(["--steps", "2"])
    job = here.run("launch", "plan.json", "--detach", "--json").json["job"]["id"]
    here.run("logs", "-f", job)
    elsewhere = Installation(here.source, tmp_path / "installation")
    assert elsewhere.run("collect", job, "--json").json["folder"] == str(here.work / "runs" / job)
