"""The commented recipe that ``cloudtune init`` writes. Pure: returns text that is itself a valid recipe."""

from __future__ import annotations

import json
import re

from cloudtune.errors import RecipeError, UsageError
from cloudtune.recipe.load import load_text

_PLAIN = re.compile(r"[A-Za-z./~][\w./~@-]*")

_HEAD = """\
# A cloudtune recipe. Check it with: cloudtune validate FILE
# Every key with its type and default: docs/recipe.md (or: cloudtune schema, for your editor).
version: 1
name: {name}                     # lower-case letters, digits and hyphens

model:
  base: {model}                  # hub id, local folder (./ first), s3://, gs:// or builtin:quickstart
  # revision: main               # branch, tag or commit on the hub
  # dtype: bfloat16              # bfloat16 | float16 | float32

method:
{method}
data:
  train:
    - path: {data}               # .jsonl, .json, .csv, .parquet, .txt, s3://, gs:// or a hub data set id
      format: {row_format}       # chat | instruction | completion | text
      # columns: {{messages: conversations}}   # our field -> the file's column
  eval: 0.05                     # fraction held out, a list like train, or null for none
  max_length: 2048               # tokens; longer rows are cut
  packing: false                 # several short rows in one sequence: faster on short rows
  loss_on: completion            # completion | all

training:
  epochs: 3                      # or max_steps
  batch_size: 16                 # sequences per optimizer step, over all GPUs
  learning_rate: auto            # auto: 2e-4 for adapters, 2e-5 for full training
  # micro_batch_size: auto       # sequences on one GPU at a time; the planner knows what fits

compute:
  provider: auto                 # auto | aws | gcp | local
  purchase: any                  # any | on_demand | spot | flex_start
  # instance: auto               # ml.g5.2xlarge, g2-standard-8, ...
  # max_hours: 12

budget:
  # max_usd: 25                  # hard limit, enforced by the provider
  objective: cheapest            # cheapest | fastest

# secrets: {{HF_TOKEN: env}}     # only where a value comes from, never the value

output:
  dir: ./runs
"""

_ADAPTER = """\
  r: 16                          # rank of the adapters
  alpha: 32                      # scale: updates are multiplied by alpha / r
  dropout: 0.0
  target_modules: all-linear     # all-linear | attention | [q_proj, v_proj]
"""

_METHODS = {
    "full": "  type: full                     # every weight is trained: needs the most memory\n",
    "lora": "  type: lora                     # small adapters on the frozen 16-bit model\n" + _ADAPTER,
    "qlora": "  type: qlora                    # small adapters on the frozen 4-bit model: needs the least memory\n"
    + _ADAPTER
    + "  quantization: nf4              # nf4 | fp4 | int8\n",
}


def recipe_text(
    name: str = "my-model",
    *,
    method: str = "qlora",
    model: str = "Qwen/Qwen3-8B",
    data: str = "./data/train.jsonl",
    row_format: str = "chat",
) -> str:
    """A recipe with comments. Raises UsageError when an argument is not what its key may be."""
    if method not in _METHODS:
        raise UsageError(f"there is no method {method!r}", hint=f"choose one of: {', '.join(_METHODS)}")
    text = _HEAD.format(
        name=_written(name), model=_written(model), data=_written(data), row_format=_written(row_format), method=_METHODS[method]
    )
    aligned = "\n".join(_align(line) for line in text.splitlines()) + "\n"
    try:
        load_text(aligned)
    except RecipeError as error:
        fault = error.faults[0]
        expected = f", expected {fault.expected}" if fault.expected else ""
        raise UsageError(f"{fault.what}{expected}", hint=fault.hint) from None
    return aligned


def _written(value: str) -> str:
    """A text value as YAML: bare when it is safe, else in double quotes."""
    return value if _PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null") else json.dumps(value)


def _align(line: str) -> str:
    """Comments behind values begin in one column, whatever the length of the value."""
    match = re.match(r"(\s*(?:- |# )?[a-z_]+: .*?\S) +(# .*)$", line)
    return f"{match[1]:<32} {match[2]}" if match else line.rstrip()
