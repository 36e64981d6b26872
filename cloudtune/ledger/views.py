"""JobView ↔ JSON for the ledger's cache of folded views. Pure. Loss curves are left out: they live in metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from cloudtune.job import JobRef, JobState, JobView, progress_from

_DEFAULTS = {field.name: field.default for field in fields(JobView)}


def dump_view(view: JobView) -> str:
    """``view`` as JSON without the values that are a view's defaults anyway."""
    body = asdict(replace(view, progress=replace(view.progress, losses=()) if view.progress else None, ref=None))
    body["ref"] = str(view.ref) if view.ref else None
    for name in ("created", "updated"):
        body[name] = body[name].isoformat() if body[name] else None
    return json.dumps({key: value for key, value in body.items() if value != _DEFAULTS.get(key)}, separators=(",", ":"))


def load_view(text: str) -> JobView:
    """The inverse of ``dump_view``."""
    body: dict[str, Any] = json.loads(text)
    body["state"] = JobState(body["state"])
    for name in ("created", "updated"):
        if name in body:
            body[name] = datetime.fromisoformat(body[name])
    if "ref" in body:
        body["ref"] = JobRef.parse(body["ref"])
    if "progress" in body:
        body["progress"] = progress_from(body["progress"])
    return JobView(**body)
