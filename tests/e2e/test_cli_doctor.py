"""``cloudtune doctor``: every setting with its origin, what is missing for what, and an exit code that scripts can use."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.command import cloudtune


def test_settings_are_shown_with_where_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "cloudtune.toml").write_text('[aws]\nregion = "eu-west-1"\nbucket = "from-file"\n')
    ran = cloudtune("doctor", "--json", folder=tmp_path, env={"CLOUDTUNE_AWS_BUCKET": "from-environment"})
    assert ran.code == 0, ran.err
    settings = {item["name"]: (item["value"], item["origin"]) for item in ran.json["settings"]}
    assert settings["aws_region"] == ("eu-west-1", f"{tmp_path / 'cloudtune.toml'}:2")
    assert settings["aws_bucket"] == ("from-environment", "CLOUDTUNE_AWS_BUCKET")
    assert settings["aws_role"] == (None, "not set")
    assert settings["home"][1] == "CLOUDTUNE_HOME"


def test_a_healthy_machine(tmp_path: Path) -> None:
    ran = cloudtune("doctor", folder=tmp_path)
    assert ran.code == 0, ran.out
    for word in ("cloudtune", "python", "own files", "home", "ledger", "disk", "machine", "training stack", "container engine", "Settings"):
        assert word in ran.out
    assert "\x1b" not in ran.out
    assert not (tmp_path / "cloudtune-home").exists(), "looking must not make folders"


def test_a_home_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    ran = cloudtune("doctor", "--json", folder=tmp_path, env={"CLOUDTUNE_HOME": "/proc/nowhere"})
    assert ran.code == 4
    assert not ran.json["healthy"]
    (problem,) = [check for check in ran.json["checks"] if check["verdict"] == "problem"]
    assert problem["name"] == "home"
    assert "CLOUDTUNE_HOME" in problem["hint"]


def test_a_damaged_ledger_is_a_problem_and_stays_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "cloudtune-home"
    home.mkdir()
    (home / "ledger.db").write_bytes(b"not a database, but something of yours" * 100)
    ran = cloudtune("doctor", "--json", folder=tmp_path)
    assert ran.code == 4
    assert [check["name"] for check in ran.json["checks"] if check["verdict"] == "problem"] == ["ledger"]
    assert (home / "ledger.db").read_bytes().startswith(b"not a database")


def test_what_a_cloud_needs(tmp_path: Path) -> None:
    ran = cloudtune("doctor", "--provider", "aws", folder=tmp_path)
    assert "CLOUDTUNE_AWS_ROLE" in ran.out
    assert ran.code in (0, 4)


def test_bad_settings_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "cloudtune.toml").write_text("[aws]\nregoin = 'x'\n")
    ran = cloudtune("doctor", folder=tmp_path)
    assert ran.code == 2
    assert "cloudtune.toml:2" in ran.err
    assert "did you mean region?" in ran.err
