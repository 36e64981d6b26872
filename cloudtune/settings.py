"""Who you are in a cloud and where files are kept on this machine; never part of a recipe. Reads files and the environment.

From the strongest to the weakest: flags, environment (``CLOUDTUNE_AWS_ROLE`` ...), ``cloudtune.toml`` in the
current folder, ``cloudtune.toml`` in the user's config folder, defaults. Every value knows where it came from.
No secret is a setting: logins belong to the clouds' own tools.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudtune.errors import UsageError

FILE_NAME = "cloudtune.toml"
_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Meaning:
    """One setting: its name here (``aws_role``), its table and key in the file, and what it is for."""

    name: str
    purpose: str

    @property
    def table(self) -> str:
        head = self.name.partition("_")[0]
        return head if head in ("aws", "gcp") else ""

    @property
    def key(self) -> str:
        return self.name.removeprefix(f"{self.table}_") if self.table else self.name

    @property
    def variable(self) -> str:
        return f"CLOUDTUNE_{self.name.upper()}"


MEANINGS = (
    Meaning("home", "folder of the ledger and of local jobs"),
    Meaning("cache", "folder for downloads and built models that can be made again"),
    Meaning("local_mode", "how jobs of this machine run: process (the default) or container"),
    Meaning("image_repository", "container repository for built images, where neither cloud has its own"),
    Meaning("aws_role", "ARN of the role that SageMaker jobs run as"),
    Meaning("aws_bucket", "S3 bucket for code, data and results; auto makes one of the account's own in each region"),
    Meaning("aws_region", "region of your AWS account to work in"),
    Meaning("aws_profile", "profile of ~/.aws to log in with"),
    Meaning("aws_image", "how a job's image comes about: stock (the default), engine or remote"),
    Meaning("aws_repository", "ECR repository for built images"),
    Meaning("aws_build_role", "ARN of the role that CodeBuild builds images as"),
    Meaning("gcp_project", "Google Cloud project id"),
    Meaning("gcp_bucket", "Cloud Storage bucket for code, data and results"),
    Meaning("gcp_region", "region of your project to work in"),
    Meaning("gcp_service_account", "e-mail of the account that Vertex AI jobs run as"),
    Meaning("gcp_image", "how a job's image comes about: remote (the default) or engine"),
    Meaning("gcp_repository", "Artifact Registry repository for built images"),
    Meaning("gcp_endpoint", "address of a stand-in for Vertex AI (http:// or grpc://); not set: Google's own"),
)
_BY_NAME = {meaning.name: meaning for meaning in MEANINGS}
_FOLDERS = ("home", "cache")
_FOREIGN = {
    "role_arn": "role",
    "execution_role": "role",
    "staging_bucket": "bucket",
    "s3_bucket": "bucket",
    "location": "region",
    "project_id": "project",
    "image_uri": "repository",
    "sagemaker": "aws",
    "amazon": "aws",
    "vertex": "gcp",
    "vertexai": "gcp",
    "google": "gcp",
    "ledger": "home",
    "ledger_home": "home",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as ``doctor`` shows it."""

    name: str
    value: str | None
    origin: str
    purpose: str


@dataclass(frozen=True)
class Settings:
    """All settings. None means not set; ``home`` and ``cache`` are absolute folders that may not exist yet."""

    home: Path
    cache: Path
    local_mode: str | None = None
    image_repository: str | None = None
    aws_role: str | None = None
    aws_bucket: str | None = None
    aws_region: str | None = None
    aws_profile: str | None = None
    aws_image: str | None = None
    aws_repository: str | None = None
    aws_build_role: str | None = None
    gcp_project: str | None = None
    gcp_bucket: str | None = None
    gcp_region: str | None = None
    gcp_service_account: str | None = None
    gcp_image: str | None = None
    gcp_repository: str | None = None
    gcp_endpoint: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(
        cls, cwd: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, str | None] | None = None
    ) -> Settings:
        """Read every source. ``cwd``: project folder, ``environ``: variables, ``flags``: name → value, None = not given.

        Raises UsageError, with file and line, for a file that cannot be read and for keys that do not exist.
        """
        folder = cwd or _current_folder()
        variables = os.environ if environ is None else environ
        found: dict[str, tuple[str, str]] = {}
        for file in (_user_file(variables), folder / FILE_NAME):
            found.update(_from_file(file))
        found.update(_from_environment(variables))
        found.update(_from_flags(flags or {}))
        values = {name: value for name, (value, _) in found.items()}
        home, cache = (_folder(name, values.pop(name, None), folder) for name in _FOLDERS)
        return cls(home, cache, origins={name: origin for name, (_, origin) in found.items()}, **values)

    def origin(self, name: str) -> str:
        """Where the value of ``name`` came from: a file with its line, a variable, a flag, ``default``, or ``not set``."""
        if name not in _BY_NAME:
            raise UsageError(f"there is no setting {name}", hint=f"known settings: {', '.join(_BY_NAME)}")
        return self.origins.get(name) or ("not set" if getattr(self, name) is None else "default")

    def listed(self) -> tuple[Setting, ...]:
        """Every setting with value and origin, in a fixed order."""
        return tuple(Setting(one.name, _shown(getattr(self, one.name)), self.origin(one.name), one.purpose) for one in MEANINGS)


def _shown(value: Path | str | None) -> str | None:
    return None if value is None else str(value)


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError("the current folder is gone", hint="change into a folder that exists") from error


def _user_file(variables: Mapping[str, str]) -> Path:
    override = variables.get("CLOUDTUNE_CONFIG")
    if override:
        return Path(override).absolute()
    from platformdirs import user_config_path

    return user_config_path("cloudtune", appauthor=False) / FILE_NAME


def _folder(name: str, value: str | None, cwd: Path) -> Path:
    if value is not None:
        return Path(os.path.normpath(cwd.absolute() / _expanded(value, name)))
    from platformdirs import user_cache_path, user_data_path

    default = user_data_path if name == "home" else user_cache_path
    return default("cloudtune", appauthor=False).absolute()


def _expanded(value: str, name: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(f"the setting {name} names a home folder that does not exist: {value}") from error


def _from_environment(variables: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    for meaning in MEANINGS:
        value = variables.get(meaning.variable, "").strip()
        if value:
            yield meaning.name, (_plain(value, meaning.variable), meaning.variable)


def _from_flags(flags: Mapping[str, str | None]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, value in flags.items():
        if name not in _BY_NAME:
            raise UsageError(f"there is no setting {name}", hint=_hint(name, list(_BY_NAME)))
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            yield name, (_plain(value, flag), flag)


def _from_file(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    text = _text_of(path)
    if text is None:
        return
    import tomllib

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        position = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"{path}:{position[1]}:{position[2]}" if position else str(path)
        raise UsageError("this is not TOML", where=where, hint='write key = "value", tables as [aws] and [gcp]') from None
    for table, inner in values.items():
        if table in ("aws", "gcp") and isinstance(inner, dict):
            for key, value in inner.items():
                yield _one(path, text, table, key, value)
        else:
            yield _one(path, text, "", table, inner)


def _one(path: Path, text: str, table: str, key: str, value: Any) -> tuple[str, tuple[str, str]]:
    line = _line_of(text, table, key)
    where = f"{path}:{line}" if line else str(path)
    name = f"{table}_{key}" if table else key
    meaning = _BY_NAME.get(name)
    if meaning is None or meaning.table != table:
        known = [one.key for one in MEANINGS if one.table == table] + ([] if table else ["aws", "gcp"])
        what = f"{key[:40]!r} is no setting" + (f" of [{table}]" if table else "")
        hint = f"it belongs into the table [{meaning.table}] as {meaning.key}" if meaning else _hint(key, known)
        raise UsageError(what, where=where, hint=hint)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"the setting {key} is not text", where=where, hint=f'write {key} = "..."')
    plain = _plain(value.strip(), where)
    # A relative folder in a file starts at that file, as the paths of a recipe do.
    return name, (str(path.parent / _expanded(plain, name)) if name in _FOLDERS else plain, where)


def _text_of(path: Path) -> str | None:
    """Content of a settings file, None when there is none."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"the settings cannot be read ({(error.strerror or 'unknown').lower()})", where=str(path)) from error
    if len(raw) > _MAX_BYTES:
        raise UsageError("the settings file is larger than 256 KiB", where=str(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError("the settings file is not UTF-8 text", where=f"{path}:{line}", hint="save it again as UTF-8") from None


def _line_of(text: str, table: str, key: str) -> int:
    """Line of ``key`` in ``[table]`` (or of the table ``key`` itself), 0 when it is written in another way."""
    inside = ""
    for number, line in enumerate(text.splitlines(), start=1):
        heading = re.match(r"\s*\[+\s*([\w.-]+)\s*\]+", line)
        if heading:
            inside = heading[1]
            if not table and inside.partition(".")[0] == key:
                return number
        elif inside == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return 0


def _hint(key: str, known: list[str]) -> str:
    import difflib

    plain = key.lower().replace("-", "_")
    ours = _FOREIGN.get(plain)
    close = [ours] if ours in known else difflib.get_close_matches(plain, known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else f"known settings: {', '.join(known)}"


def _plain(value: str, where: str) -> str:
    if not value.isprintable():
        raise UsageError("a setting holds a character that cannot be printed", where=where)
    return value
