"""What a folder has to hold to be a base model, as transformers saves one. Pure: it is given the names."""

from __future__ import annotations

from collections.abc import Collection

CONFIG = "config.json"
_WEIGHTS = (".safetensors", ".bin")


def missing_in(names: Collection[str]) -> str:
    """What of a model the files of a folder lack, in words; empty for a whole one. ``names`` are relative to the folder."""
    lacking = [] if CONFIG in names else [CONFIG]
    if not any("/" not in name and name.endswith(_WEIGHTS) for name in names):
        lacking.append("weights (*.safetensors or *.bin)")
    return " and no ".join(lacking)
