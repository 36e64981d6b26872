"""docs/recipe.md, made from the schema so that it cannot lag behind. Pure: returns the text.

Write it with: ``python -m cloudtune.recipe.reference > docs/recipe.md``
"""

from __future__ import annotations

import json
import sys
from functools import reduce
from typing import Any

from pydantic import BaseModel

from cloudtune.recipe import rows
from cloudtune.recipe.document import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from cloudtune.recipe.keys import REQUIRED, Key, all_keys

_INTRO = """\
# The recipe

<!-- Generated from cloudtune/recipe/spec.py by `python -m cloudtune.recipe.reference`; a test compares. Do not edit. -->

A recipe is one YAML 1.2 document: `2e-4` is a number, `no` is a word, `true` and `false` are the only booleans.
Unknown keys are errors. Required are `version`, `name`, `model.base`, `method.type` and one entry of `data.train`;
everything else has the default shown here. `auto` means that the planner decides and says what it chose.

- Input paths (`data.*.path`, `model.base`, `model.config`, `data.chat_template`) are relative to the recipe's own
  file; `output.dir` is relative to the current folder.
- A path is a local file when it begins with `./`, `../`, `/` or `~`, or ends in .jsonl, .json, .csv, .parquet or .txt;
  it is in a bucket when it begins with `s3://` or `gs://`; else it is a hub data set id.
- Any value can be set for one run: `cloudtune plan recipe.yaml --set training.epochs=1 --set data.train[0].path=./small.jsonl`.
- A file may have @KIB@ KiB, @DEPTH@ levels and @VALUES@ values.

The smallest recipe:

```yaml
version: 1
name: support-bot
model: {base: Qwen/Qwen3-8B}
method: {type: qlora}
data: {train: [{path: ./data/train.jsonl}]}
```
"""

_ROWS = """\
## Rows of data

| format | fields a row must have | and may have |
|---|---|---|
{rows}

`messages`, and `chosen` and `rejected` where they are conversations, are lists of `{{role, content}}` with the roles
{roles}. Other column names are mapped with `columns`: `columns: {{messages: conversations}}`.

| ending | rows |
|---|---|
| .jsonl | one JSON object per line; blank lines are skipped |
| .json | one list of objects |
| .csv | first line names the columns, separated by commas; quoted fields may hold line breaks |
| .txt | every line that is not blank is one row of format text |
| .parquet | needs pyarrow: `pip install 'cloudtune[data]'` |

All text is UTF-8.
"""

_SECRETS = """\
## Secrets

`secrets` says where the job's environment variables come from, never what they hold. `env` copies the variable from
the shell that launches; `aws:secretsmanager:NAME` and `gcp:secretmanager:NAME` are read by the job itself. A value
written into the recipe is refused and never printed.
"""


def reference_text() -> str:
    """The whole page."""
    keys = list(all_keys().values())
    limits = {"@KIB@": f"{MAX_BYTES // 1024:,}", "@DEPTH@": str(MAX_DEPTH), "@VALUES@": f"{MAX_VALUES:,}"}
    parts = [reduce(lambda text, limit: text.replace(*limit), limits.items(), _INTRO)]
    for title, section in _sections(keys):
        table = [_line(key) for key in keys if key.section == section and not _is_section(key)]
        parts.append(f"## {title}\n\n{_meaning(section)}| key | value | default | meaning |\n|---|---|---|---|\n" + "\n".join(table) + "\n")
    formats = [f"| {name} | {', '.join(fields)} | {_optional(name)} |" for name, fields in rows.REQUIRED_FIELDS.items()]
    return "\n".join([*parts, _ROWS.format(rows="\n".join(formats), roles=", ".join(rows.ROLES)), _SECRETS])


def _optional(row_format: str) -> str:
    return ", ".join(rows.OPTIONAL_FIELDS.get(row_format, ())) or "-"


def _sections(keys: list[Key]) -> list[tuple[str, str]]:
    found = {key.section: None for key in keys}
    titles = {"": "Top level", "data.train[]": "data.train[] and data.eval[]"}
    return [(titles.get(section, section), section) for section in found]


def _is_section(key: Key) -> bool:
    return isinstance(key.default, BaseModel) or key.path in ("model", "method", "data")


def _meaning(section: str) -> str:
    key = all_keys().get(section)
    return f"{key.meaning}\n\n" if key else ""


def _line(key: Key) -> str:
    meaning = " ".join(key.meaning.split()).replace("|", "\\|")
    if key.methods and len(key.methods) == 1:
        meaning += f" ({key.methods[0]} only)"
    return f"| `{key.name}` | {key.expected.replace('|', chr(92) + '|')} | {_default(key.default)} | {meaning} |"


def _default(value: Any) -> str:
    if value is REQUIRED:
        return "required"
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    sys.stdout.write(reference_text())
