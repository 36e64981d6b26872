"""Where a model's tokenizer files can be had: a local folder, the hub's local cache, the hub. Copies them, reads none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cloudtune.recipe.locations import is_builtin, is_local_model, is_remote

_NAMES = ("tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "chat_template", "spiece", "sentencepiece")
_ENDINGS = (".json", ".model", ".txt", ".jinja", ".tiktoken")
HUB_SECONDS = 20


def bring_tokenizer(base: str, revision: str, base_dir: Path, target: Path) -> str | None:
    """Copy the tokenizer of ``base`` into ``target`` and say where it came from; None when it is out of reach."""
    if is_builtin(base) or is_remote(base):
        return None
    if is_local_model(base):
        folder = base_dir / Path(base).expanduser()
        return f"the folder {folder}" if _copy(folder, target) else None
    cached = _cached(base, revision)
    if cached is not None and _copy(cached, target):
        return "the hub's cache on this machine"
    fetched = _from_hub(base, revision)
    return "the hub" if fetched is not None and _copy(fetched, target) else None


def _copy(folder: Path, target: Path) -> bool:
    """Copy every tokenizer file; True when there was one that defines a vocabulary."""
    files = [path for path in folder.iterdir() if path.name.startswith(_NAMES) and path.suffix in _ENDINGS] if folder.is_dir() else []
    if not any(path.name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model") for path in files):
        return False
    target.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
    config = folder / "config.json"
    if config.is_file():  # transformers finds the tokenizer's class there
        shutil.copyfile(config, target / "config.json")
    return True


def _cached(base: str, revision: str) -> Path | None:
    home = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub")
    repository = home / f"models--{base.replace('/', '--')}"
    reference = repository / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _from_hub(base: str, revision: str) -> Path | None:
    """Download the files through huggingface_hub where that is installed; None without it or without the hub."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        return None
    wanted = [f"{name}*" for name in _NAMES]
    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=[*wanted, "config.json"], etag_timeout=HUB_SECONDS))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError):
        return None
