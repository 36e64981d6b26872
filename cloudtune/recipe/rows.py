"""What one row of training data must hold, per format. Pure; the launcher's check and the trainer's reader agree here.

| format | required fields | optional |
|---|---|---|
| chat | messages: list of {role, content} | |
| instruction | instruction, output | input |
| completion | prompt, completion | |
| text | text | |
| preference | chosen, rejected (text or messages) | prompt |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REQUIRED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "chat": ("messages",),
    "instruction": ("instruction", "output"),
    "completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
}
OPTIONAL_FIELDS: Mapping[str, tuple[str, ...]] = {"instruction": ("input",), "preference": ("prompt",)}
ROLES = ("system", "user", "assistant", "tool")

# Names of the same thing in published data sets; used for hints only.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "messages": ("conversations", "conversation", "message", "dialog", "dialogue", "chat"),
    "instruction": ("question", "query", "prompt", "task", "input_text"),
    "output": ("response", "answer", "completion", "target", "reply"),
    "input": ("context",),
    "prompt": ("question", "instruction", "query", "input", "source"),
    "completion": ("response", "answer", "output", "target", "reply"),
    "text": ("content", "document", "body", "sentence", "sentences", "passage"),
    "chosen": ("preferred", "accepted", "winner", "response_chosen"),
    "rejected": ("dispreferred", "loser", "response_rejected"),
}
_ROLE_ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"}


def required_fields(row_format: str) -> tuple[str, ...]:
    """Names every row of ``row_format`` must have (our names, before ``columns`` is applied)."""
    return REQUIRED_FIELDS[row_format]


def example_row(row_format: str) -> str:
    """The shortest row of ``row_format``, for hints."""
    if row_format == "chat":
        return '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    return "{" + ", ".join(f'"{field}": "..."' for field in REQUIRED_FIELDS[row_format]) + "}"


def known_fields(row_format: str) -> tuple[str, ...]:
    """Required and optional names of ``row_format``: the keys that ``columns`` may have."""
    return (*REQUIRED_FIELDS[row_format], *OPTIONAL_FIELDS.get(row_format, ()))


def rename_row(row: Mapping[str, Any], row_format: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names: each known field from the column that ``columns`` names for it. Absent ones are left out."""
    return {field: row[columns.get(field, field)] for field in known_fields(row_format) if columns.get(field, field) in row}


def check_row(row: Any, row_format: str, columns: Mapping[str, str]) -> str | None:
    """What is wrong with one row, as a sentence without position, or None. Says how to map a column where one resembles."""
    if not isinstance(row, Mapping):
        return f"the row is {_kind(row)}, not a mapping of fields"
    for field in known_fields(row_format):
        column = columns.get(field, field)
        value = row.get(column)
        if value is None and field not in REQUIRED_FIELDS[row_format]:
            continue
        if column not in row:
            return f"the row has no field {column!r}{_resembling(field, column, row)}"
        problem = _check_field(field, value)
        if problem:
            return f"the field {column!r} {problem}"
    return None


def teaches_nothing(row: Mapping[str, Any], row_format: str, columns: Mapping[str, str], *, loss_on: str = "completion") -> str | None:
    """Why the trainer would leave out a row that ``check_row`` passed, or learn no more from it than to stop; or None.

    As far as that can be told without a tokenizer.
    """
    found = rename_row(row, row_format, columns)
    if row_format == "chat":
        learned = [message for message in found["messages"] if loss_on == "all" or message["role"] == "assistant"]
        return None if any(message["content"] for message in learned) else "no message of the assistant has any text"
    field = {"instruction": "output", "completion": "completion", "text": "text"}.get(row_format)
    return f"the field {columns.get(field, field)!r} is empty" if field and not found[field] else None


def _check_field(field: str, value: Any) -> str | None:
    if field == "messages":
        return _check_messages(value)
    if field in ("chosen", "rejected", "prompt") and isinstance(value, list):
        return _check_messages(value)
    return _check_text(value)


def _check_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is {_kind(value)}, not text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half of a two-part character (a lone surrogate), which no tokenizer can read"
    return None


def _check_messages(messages: Any) -> str | None:
    if not isinstance(messages, list):
        return f"is {_kind(messages)}, not a list of messages"
    if not messages:
        return "is an empty list"
    for number, message in enumerate(messages, start=1):
        problem = _check_message(message)
        if problem:
            return f"has a wrong message {number}: {problem}"
    return None


def _check_message(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return f"it is {_kind(message)}, not a mapping with role and content"
    for name, foreign in (("role", "from"), ("content", "value")):
        if name not in message:
            hint = f"; rename {foreign!r} to {name!r} in the file" if foreign in message else ""
            return f"it has no {name!r}{hint}"
    role = message["role"]
    if role not in ROLES:
        ours = _ROLE_ALIASES.get(role) if isinstance(role, str) else None
        shown = repr(role[:20]) if isinstance(role, str) else _kind(role)
        return f"its role is {shown}, expected {', '.join(ROLES[:-1])} or {ROLES[-1]}" + (f"; rename it to {ours!r}" if ours else "")
    problem = _check_text(message["content"])
    return f"its content {problem}" if problem else None


def _resembling(field: str, column: str, row: Mapping[str, Any]) -> str:
    names = [name for name in row if isinstance(name, str)]
    taken = next((name for name in _ALIASES.get(field, ()) if name in names), None)
    import difflib  # 3 ms that only a fault costs

    close = taken or next(iter(difflib.get_close_matches(column, names, 1, 0.6)), None)
    if close:
        return f"; write columns: {{{field}: {_plain(close)}}} if {_plain(close)} is meant"
    shown = ", ".join(_plain(name) for name in names[:8])
    return f"; it has {shown}" if names else "; it is empty"


def _plain(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 40 else repr(name[:40])


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a mapping" if isinstance(value, Mapping) else "a list"
