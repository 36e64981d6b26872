"""``cloudtune launch --provider aws`` and what follows it, as commands, against the stand-in as a program of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.command import QUICKSTART, ROOT, cloudtune, surroundings

JOB = "walk-abc"


@pytest.fixture
def environment(tmp_path):
    command = [sys.executable, "-m", "cloudtune.standins.aws", "--folder", str(tmp_path / "cloud"), "--mode", "scripted", "--bucket", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=surroundings()) as process:
        try:
            yield {**json.loads(process.stdout.readline()), "CLOUDTUNE_AWS_BUCKET": "auto"}
        finally:
            process.terminate()


def test_launch_see_stop_collect_and_pay(tmp_path, environment):
    def run(*arguments, code=0):
        ran = cloudtune(*arguments, folder=tmp_path, env=environment)
        assert ran.code == code, ran.err
        return ran

    refused = run("launch", QUICKSTART, "--provider", "aws", code=2)
    assert "--yes" in refused.err
    launched = run("launch", QUICKSTART, "--provider", "aws", "--yes", "--detach", "--id", JOB)
    assert f"aws://us-east-1/{JOB}" in launched.out
    assert "making the bucket sagemaker-cloudtune-123456789012-us-east-1" in launched.err
    again = run("launch", QUICKSTART, "--provider", "aws", "--yes", "--detach", "--id", JOB, "--json").json
    assert (again["job"]["id"], again["job"]["state"]) == (JOB, "queued")
    assert [job["state"] for job in run("ps", "--json").json["jobs"]] == ["running"]
    assert run("stop", JOB, "--json").json["state"] == "stopped"
    costs = run("cost", "--json").json
    assert costs["rows"][0]["final"] is True
    # A home that was lost: the account knows its jobs.
    other = {**environment, "CLOUDTUNE_HOME": str(tmp_path / "other-home")}
    adopted = cloudtune("reconcile", "--adopt", "--json", folder=tmp_path, env=other)
    assert adopted.json["adopted"] == [JOB], adopted.err


def test_without_a_login_the_command_says_what_to_do(tmp_path):
    environ = {
        "CLOUDTUNE_AWS_ROLE": "arn:aws:iam::123456789012:role/x",
        "CLOUDTUNE_AWS_BUCKET": "auto",
        "CLOUDTUNE_AWS_REGION": "us-east-1",
    }
    ran = cloudtune("launch", QUICKSTART, "--provider", "aws", "--yes", folder=tmp_path, env=environ)
    assert ran.code == 4
    assert "there is no AWS login" in ran.err
    assert "aws sso login" in ran.err
    assert "Traceback" not in ran.err
