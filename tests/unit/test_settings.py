"""Settings: four sources in a fixed order, each value with its origin, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtune.errors import UsageError
from cloudtune.settings import MEANINGS, Settings


def load(tmp_path: Path, *, project: str = "", user: str = "", environ: dict[str, str] | None = None, **flags: str | None) -> Settings:
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "user.toml").write_text(user, encoding="utf-8")
    (tmp_path / "cloudtune.toml").write_text(project, encoding="utf-8")
    variables = {"CLOUDTUNE_CONFIG": str(tmp_path / "config" / "user.toml"), **(environ or {})}
    return Settings.load(cwd=tmp_path, environ=variables, flags=flags)


def refusal(tmp_path: Path, project: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, project=project)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_nothing_set(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.home.is_absolute()
    assert settings.home.name == "cloudtune"
    assert settings.cache != settings.home
    assert settings.aws_role is None
    assert settings.origin("home") == "default"
    assert settings.origin("aws_role") == "not set"


def test_rising_order(tmp_path: Path) -> None:
    role = '[aws]\nrole = "{}"\n'
    user, project = role.format("user"), role.format("project")
    assert load(tmp_path, user=user).aws_role == "user"
    assert load(tmp_path, user=user, project=project).aws_role == "project"
    environ = {"CLOUDTUNE_AWS_ROLE": "environment"}
    assert load(tmp_path, user=user, project=project, environ=environ).aws_role == "environment"
    strongest = load(tmp_path, user=user, project=project, environ=environ, aws_role="flag")
    assert (strongest.aws_role, strongest.origin("aws_role")) == ("flag", "--aws-role")
    assert load(tmp_path, user=user, environ={"CLOUDTUNE_AWS_ROLE": " "}, aws_role=None).aws_role == "user"


def test_origins_name_file_and_line(tmp_path: Path) -> None:
    settings = load(
        tmp_path, project='# mine\n[gcp]\n\nproject = "p"\n[aws]\n"region" = "eu-west-1"\n', environ={"CLOUDTUNE_GCP_BUCKET": "b"}
    )
    assert settings.origin("gcp_project") == f"{tmp_path}/cloudtune.toml:4"
    assert settings.origin("aws_region") == f"{tmp_path}/cloudtune.toml:6"
    assert settings.origin("gcp_bucket") == "CLOUDTUNE_GCP_BUCKET"
    listed = {one.name: one for one in settings.listed()}
    assert list(listed) == [meaning.name for meaning in MEANINGS]
    assert (listed["gcp_project"].value, listed["aws_role"].value, listed["aws_role"].origin) == ("p", None, "not set")


def test_every_setting_can_come_from_every_source(tmp_path: Path) -> None:
    for meaning in MEANINGS:
        line = f'[{meaning.table}]\n{meaning.key} = "/v"\n' if meaning.table else f'{meaning.key} = "/v"\n'
        for settings in (
            load(tmp_path, project=line),
            load(tmp_path, environ={meaning.variable: "/v"}),
            load(tmp_path, **{meaning.name: "/v"}),
        ):
            assert str(getattr(settings, meaning.name)) == "/v"


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert load(tmp_path, user='home = "data"').home == tmp_path / "config" / "data"
    assert load(tmp_path, project='cache = "../c"').cache == tmp_path.parent / "c"
    assert load(tmp_path, environ={"CLOUDTUNE_HOME": "here"}).home == tmp_path / "here"
    assert load(tmp_path, environ={"CLOUDTUNE_HOME": "~/there"}).home == tmp_path / "me" / "there"
    with pytest.raises(UsageError, match="home folder"):
        load(tmp_path, environ={"CLOUDTUNE_HOME": "~nobody-has-this-name/x"})


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ('[aws]\nrole = "r"\nbuckt = "b"\n', ":3: ", "did you mean bucket?"),
        ('[aws]\nrole_arn = "r"\n', ":2: ", "did you mean role?"),
        ('[gcp]\nproject_id = "p"\n', ":2: ", "did you mean project?"),
        ('[vertex]\nproject = "p"\n', ":1: ", "did you mean gcp?"),
        ('aws_role = "r"\n', ":1: ", "table [aws] as role"),
        ('[aws]\nfoo = "r"\n', ":2: ", "known settings: role, bucket"),
        ("[aws]\nrole = 7\n", ":2: ", 'write role = "..."'),
        ('[aws]\nrole = ""\n', ":2: ", "not text"),
        ("[aws.role]\n", "", "not text"),
        ("aws = 3\n", ":1: ", "'aws' is no setting"),
        ("[[aws]]\n", ":1: ", "'aws' is no setting"),
        ("[aws\n", ":1:5: ", "this is not TOML"),
        ('[aws]\nrole = "a\\u0007b"\n', ":2: ", "cannot be printed"),
        ('aws.foo = "x"\n', "", "'foo' is no setting of [aws]"),
    ],
)
def test_refusals(tmp_path: Path, text: str, where: str, words: str) -> None:
    told = refusal(tmp_path, text)
    assert told.startswith(f"{tmp_path}/cloudtune.toml{where}")
    assert words in told


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cloudtune.toml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        Settings.load(cwd=tmp_path, environ={})
    (tmp_path / "cloudtune.toml").rmdir()
    (tmp_path / "cloudtune.toml").write_bytes(b"# \xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        Settings.load(cwd=tmp_path, environ={})
    (tmp_path / "cloudtune.toml").write_bytes(b"#" * 300_000)
    with pytest.raises(UsageError, match="larger than"):
        Settings.load(cwd=tmp_path, environ={})


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no setting aws_rol"):
        load(tmp_path, aws_rol="x")
    with pytest.raises(UsageError, match="no setting nonsense"):
        load(tmp_path).origin("nonsense")
