"""Faults of training data that a reader would call wrong: found row by row, gathered by kind, placed at file and line.

Works on text alone; what needs a tokenizer is in ``examine``. Keeps digests instead of rows, so memory stays small.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from cloudtune.recipe.examination import Defect

KEPT_LINES = 5
_LEAK_MARKER = re.compile(
    r"(?:^|\n)\s*(?:answer|label|output|solution|response|completion|target)\s*[:=]\s*(.+?)\s*$", re.IGNORECASE | re.DOTALL
)
# UTF-8 read as Latin-1 and saved again: the two-character remains of common accents, quotes and dashes.
_MOJIBAKE = re.compile(r"Ã[\x80-\xbf©¨¤¶¼ŸŠ¡³±]|â(?:\x80[\x93\x94\x98-\x9d]|€[™œ\x9d“”˜])|Â[\xa0-\xbf]")
_ALTERNATING = ("user", "assistant")

Severity = Literal["wrong", "doubtful"]


@dataclass(frozen=True)
class Finding:
    """One fault in one row."""

    kind: str
    what: str
    hint: str = ""
    severity: Severity = "wrong"


@dataclass
class _Kind:
    finding: Finding
    channel: str
    line: int
    count: int = 0
    lines: list[int] = field(default_factory=list)


@dataclass
class Gathered:
    """Findings by kind, in the order of their first appearance."""

    kinds: dict[str, _Kind] = field(default_factory=dict)

    def add(self, finding: Finding, channel: str, line: int) -> None:
        """Count one finding; the first of its kind gives the words."""
        kind = self.kinds.setdefault(finding.kind, _Kind(finding, channel, line))
        kind.count += 1
        if channel == kind.channel and len(kind.lines) < KEPT_LINES:
            kind.lines.append(line)

    def defects(self) -> tuple[Defect, ...]:
        """The defects, wrong ones first."""
        found = [
            Defect(
                kind=kind.finding.kind,
                what=kind.finding.what,
                hint=kind.finding.hint,
                channel=kind.channel,
                line=kind.line,
                count=kind.count,
                lines=tuple(kind.lines),
                severity=kind.finding.severity,
            )
            for kind in self.kinds.values()
        ]
        return tuple(sorted(found, key=lambda defect: defect.severity == "doubtful"))


@dataclass
class Memory:
    """What was seen before: digest of a row → where. One for the training rows, which evaluation rows are compared with too."""

    rows: dict[bytes, tuple[str, int]] = field(default_factory=dict)

    def meet(self, row: Mapping[str, Any], channel: str, line: int) -> tuple[str, int] | None:
        """Where an equal row stood before; None for a new one, which is remembered."""
        digest = hashlib.blake2b(json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"), digest_size=16)
        place = self.rows.setdefault(digest.digest(), (channel, line))
        return None if place == (channel, line) else place


def findings(row: Mapping[str, Any], row_format: str) -> Iterator[Finding]:
    """Faults of one row (already under our field names and of the right types)."""
    messages = row["messages"] if row_format == "chat" else None
    if messages is not None:
        yield from _order(messages)
    pairs = list(answers(row, row_format))
    if any(not answer.strip() for _, answer in pairs):
        yield Finding("empty-answer", "the answer is empty", "remove the row: it teaches the model to say nothing")
    if any(_leaks(prompt, answer) for prompt, answer in pairs):
        yield Finding("label-leak", "the prompt already holds the answer", "take it out of the prompt: the model would learn to copy")
    if any(_MOJIBAKE.search(text) or "\ufffd" in text for text in _texts(row, row_format)):
        yield Finding(
            "wrong-encoding",
            "the text was decoded with the wrong encoding (such as Ã© for é)",
            "write the file again as UTF-8 from its source",
        )


def duplicate(channel: str, before: tuple[str, int], *, evaluation: bool, learned: bool = True) -> Finding:
    """A row that stood somewhere before, ``learned``: among the training rows, where an evaluation row makes the evaluation worthless."""
    where = f"line {before[1]}" if before[0] == channel else f"{before[0]}:{before[1]}"
    if evaluation and not learned:
        return Finding("duplicate-eval-row", f"the same evaluation row as {where}", "remove it: its loss counts twice", "doubtful")
    if evaluation:
        return Finding("eval-leak", f"the evaluation row is also a training row ({where})", "hold out rows that are not trained on")
    return Finding(
        "duplicate-row", f"the same row as {where}", "remove it, or raise epochs instead: repeated rows are learned by heart", "doubtful"
    )


def answers(row: Mapping[str, Any], row_format: str) -> Iterator[tuple[str, str]]:
    """(prompt, answer) pairs of a row; nothing for plain text."""
    if row_format == "completion":
        yield str(row["prompt"]), str(row["completion"])
    elif row_format == "instruction":
        yield "\n".join([str(row["instruction"]), str(row.get("input") or "")]), str(row["output"])
    elif row_format == "chat":
        said: list[str] = []
        for message in row["messages"]:
            if message["role"] == "assistant":
                yield "\n".join(said), str(message["content"])
            said.append(str(message["content"]))


def _texts(row: Mapping[str, Any], row_format: str) -> Iterator[str]:
    if row_format == "chat":
        yield from (str(message["content"]) for message in row["messages"])
    else:
        yield from (value for value in row.values() if isinstance(value, str))


def _order(messages: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Systems first, then user and assistant in turn, the last word with the assistant."""
    roles = [str(message["role"]) for message in messages]
    turns = [role for role in roles if role in _ALTERNATING]
    after_system = roles[sum(1 for role in roles if role == "system") :] if roles and roles[0] == "system" else roles
    if "tool" in roles:
        return  # tool calls have an order of their own
    if any(first == second == "assistant" for first, second in pairwise(turns)):
        yield Finding("double-answer", "two assistant turns in a row", "join them, or put the user's turn between them back")
    elif turns and turns[0] == "assistant":
        yield Finding("mixed-roles", "the conversation begins with the assistant", "begin with the user's turn; are the roles swapped?")
    elif any(first == second for first, second in pairwise(turns)) or "system" in after_system:
        yield Finding(
            "mixed-roles", f"the roles are out of order: {', '.join(roles[:6])}", "user and assistant take turns, system stands first"
        )
    elif turns and turns[-1] == "user":
        yield Finding(
            "no-answer", "the conversation ends with the user", "its last turn is not learned; end with the assistant's", "doubtful"
        )


def _leaks(prompt: str, answer: str) -> bool:
    """Whether the prompt ends with the answer, or names it after a word like `answer:`."""
    wanted = " ".join(answer.lower().split())
    if len(wanted) < 2:
        return False
    marked = _LEAK_MARKER.search(prompt)
    if marked and " ".join(marked[1].lower().split()) == wanted:
        return True
    return len(wanted) >= 12 and " ".join(prompt.lower().split()).endswith(wanted)
