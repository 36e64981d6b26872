"""The user's data as the trainer will see it: every row looked at, many tokenised, samples kept. Loads no model."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from cloudtune.errors import JobFailed
from cloudtune.recipe.examination import Bin, Defect, Dropped, Examination, RehearsalOrders, Sample, Stretch
from cloudtune.recipe.resolved import Channel
from cloudtune.recipe.rowfiles import ENDINGS, NumberedRow, read_rows
from cloudtune.recipe.rows import check_row, rename_row
from cloudtune_rehearsal.defects import Finding, Gathered, Memory, duplicate, findings
from cloudtune_trainer.chat import ChatRenderer
from cloudtune_trainer.packing import pack
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.tokens import IGNORED, Sequence, Tokens

TEMPLATE_CHANNEL = "job/chat_template.jinja"
LONGEST_LOOK_SECONDS = 25.0
TEMPLATE_ROWS = 50
MOST_BAD_ROWS = 1000
SHOWN_TOKENS = 400
STAND_IN_ROWS = 64


@dataclass(frozen=True)
class Kept:
    """A row that gives training sequences, under our field names. ``early``: it does so within the small model's few tokens too."""

    row: dict[str, Any]
    row_format: str
    early: bool = True


@dataclass
class Look:
    """What has been seen so far."""

    orders: RehearsalOrders
    tokens: Tokens
    tokenizer: Any
    chat: ChatRenderer | None
    gathered: Gathered = field(default_factory=Gathered)
    memory: Memory = field(default_factory=Memory)
    rows: int = 0
    tokenized: int = 0
    kept: int = 0
    cut: int = 0
    total: int = 0
    trained: int = 0
    lengths: list[int] = field(default_factory=list)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    too_long: tuple[str, int] | None = None
    samples: list[Sample] = field(default_factory=list)
    longest: Sample | None = None
    templates_seen: int = 0
    out_of_reach: list[str] = field(default_factory=list)
    deadline: float = field(default_factory=lambda: time.monotonic() + LONGEST_LOOK_SECONDS)
    chosen: dict[str, list[Kept]] = field(default_factory=lambda: {"train": [], "eval": []})
    offered: dict[str, int] = field(default_factory=lambda: {"train": 0, "eval": 0})
    dice: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - which rows are shown is no secret


def examine(look: Look, paths: Paths) -> None:
    """Read every channel of the job into ``look``."""
    job = look.orders.job
    for part, channels in (("train", job.train), ("eval", job.eval)):
        for given in channels:
            here = readable(given, paths)
            channel = given if here else given.model_copy(update={"source": given.source.model_copy(update={"columns": {}})})
            if not here:
                look.out_of_reach.append(given.path)
            for item in numbered(channel, paths):
                look.rows += 1
                _one_row(look, part, channel, item)
                if sum(kind.count for kind in look.gathered.kinds.values() if kind.finding.kind == "unreadable-row") > MOST_BAD_ROWS:
                    return


def readable(channel: Channel, paths: Paths) -> bool:
    """Whether the channel's rows are a file that lies here and can be read with what every image has."""
    return (paths.inputs / channel.path).is_file() and PurePosixPath(channel.path).suffix.lower() in ENDINGS


def numbered(channel: Channel, paths: Paths) -> Iterator[NumberedRow]:
    """Rows of a channel's file, or stand-in rows of its format for data that is out of reach (hub, bucket, parquet)."""
    if not readable(channel, paths):
        yield from (NumberedRow(number, stand_in_row(channel.source.format, number)) for number in range(1, STAND_IN_ROWS + 1))
        return
    path = paths.inputs / channel.path
    with path.open("rb") as stream:
        yield from read_rows(stream, PurePosixPath(channel.path).suffix.lower())


def stand_in_row(row_format: str, number: int) -> dict[str, Any]:
    """A made-up row. Raises JobFailed for a format that the trainer does not learn from."""
    question, answer = f"What is {number} plus one?", f"It is {number + 1}."
    match row_format:
        case "chat":
            return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        case "instruction":
            return {"instruction": question, "output": answer}
        case "completion":
            return {"prompt": question, "completion": answer}
        case "text":
            return {"text": f"{question} {answer}"}
    raise JobFailed(f"a dry run has no rows of format {row_format}", hint="give a sample of the data as a local .jsonl file")


def _one_row(look: Look, part: str, channel: Channel, item: NumberedRow) -> None:
    source = channel.source
    problem = item.problem or check_row(item.row, source.format, source.columns)
    if problem:
        look.gathered.add(_named(problem, bool(item.problem)), channel.path, item.line)
        return
    row = rename_row(item.row, source.format, source.columns)
    found = list(findings(row, source.format))
    # Made-up rows are the same in every channel.
    before = None if channel.path in look.out_of_reach else look.memory.meet(row, channel.path, item.line)
    if before is not None:
        learned = before[0] in {given.path for given in look.orders.job.train}
        found.append(duplicate(channel.path, before, evaluation=part == "eval", learned=learned))
    for finding in found:
        look.gathered.add(finding, channel.path, item.line)
    if look.tokenized < look.orders.most_rows and time.monotonic() < look.deadline:
        _tokenize(look, part, channel, item.line, row)


def _named(problem: str, unreadable: bool) -> Finding:
    """The kind of a row that the trainer would refuse."""
    what, _, hint = problem.partition("; ")
    if "UTF-8" in problem:
        return Finding("wrong-encoding", what, hint or "save the file as UTF-8")
    if unreadable:
        return Finding("unreadable-row", what, hint or "repair the line, or remove it")
    kind = "wrong-column" if "has no field" in what else "mixed-roles" if "role" in what else "bad-row"
    return Finding(kind, what, hint)


def _tokenize(look: Look, part: str, channel: Channel, line: int, row: dict[str, Any]) -> None:
    """Tokenise one row as the trainer does, and note its length, what is learned, and why it would be dropped."""
    limit = look.orders.job.recipe.data.max_length
    try:
        sequences = list(look.tokens.sequences(row, channel.source.format, look.rows))
    except JobFailed as error:
        look.gathered.add(Finding("template-refuses", error.what, error.hint), channel.path, line)
        return
    look.tokenized += 1
    if channel.source.format == "chat":
        _check_template(look, row, channel.path, line)
    longest = max(len(sequence.ids) for sequence in sequences)
    learned = sum(int((sequence.labels[:limit] != IGNORED).sum()) for sequence in sequences)
    look.lengths.append(longest)
    if longest > limit:
        look.cut += 1
        look.too_long = look.too_long or (channel.path, line)
    if not learned:
        _drop(look, sequences, limit, channel.path, line)
        return
    look.kept += 1
    look.total += sum(min(len(sequence.ids), limit) for sequence in sequences)
    look.trained += learned
    _keep_samples(look, sequences, channel.path, line)
    early = any((sequence.labels[: look.orders.most_tokens] != IGNORED).any() for sequence in sequences)
    _choose(look, part, Kept(row, channel.source.format, early))


def _drop(look: Look, sequences: list[Sequence], limit: int, channel: str, line: int) -> None:
    whole = any(sequence.learned for sequence in sequences)
    reason = f"the answer begins after data.max_length ({limit} tokens)" if whole else "no token of it is learned"
    seen = look.dropped.get(reason)
    look.dropped[reason] = (
        seen.model_copy(update={"count": seen.count + 1}) if seen else Dropped(reason=reason, count=1, channel=channel, line=line)
    )


def _check_template(look: Look, row: dict[str, Any], channel: str, line: int) -> None:
    """Whether an answer ends with a token that generation stops on; looked at for the first rows."""
    if look.chat is None or look.templates_seen >= TEMPLATE_ROWS:
        return
    look.templates_seen += 1
    for stretches in look.chat.conversations(row["messages"]):
        learned = [ids for ids, is_learned in stretches if is_learned and ids]
        if learned and not all(look.chat.ends_turn(ids[-1:]) for ids in learned):
            place, at = (TEMPLATE_CHANNEL, _answer_line(look)) if _own_template(look) else (channel, line)
            look.gathered.add(
                Finding(
                    "no-end-of-turn",
                    f"the chat template ends an answer with {look.tokenizer.decode(learned[0][-1:])!r}, not with a token to stop on",
                    "end each assistant turn with the tokenizer's end-of-turn token, or name it in data.special_tokens: {end_of_turn: ...}",
                ),
                place,
                at,
            )
            return


def _own_template(look: Look) -> bool:
    return look.orders.job.recipe.data.chat_template.endswith(".jinja")


def _answer_line(look: Look) -> int:
    """Line of the template that writes the messages' content last."""
    lines = str(look.tokenizer.chat_template).split("\n")
    return max((number for number, text in enumerate(lines, start=1) if "content" in text), default=1)


def _keep_samples(look: Look, sequences: list[Sequence], channel: str, line: int) -> None:
    """The first two rows and the longest one."""
    first = sequences[0]
    if len(look.samples) < 2:
        look.samples.append(_sample(look, first, channel, line))
    elif look.longest is None or len(first.ids) > look.longest.tokens:
        look.longest = _sample(look, first, channel, line)


def _sample(look: Look, sequence: Sequence, channel: str, line: int) -> Sample:
    limit = look.orders.job.recipe.data.max_length
    ids, marks = sequence.ids[:limit].tolist(), (sequence.labels[:limit] != IGNORED).tolist()
    bounds = [0, *(at for at in range(1, len(ids)) if marks[at] != marks[at - 1]), len(ids)]
    stretches, shown = [], 0
    for start, end in pairwise(bounds):
        part = ids[start : min(end, start + SHOWN_TOKENS - shown)]
        shown += len(part)
        text = look.tokenizer.decode(part) + (" …" if len(part) < end - start else "")
        stretches.append(Stretch(text=text, trained=marks[start]))
        if shown >= SHOWN_TOKENS:
            break
    return Sample(channel=channel, line=line, tokens=len(ids), trained_tokens=sum(marks), stretches=tuple(stretches))


def _choose(look: Look, part: str, kept: Kept) -> None:
    """A fair sample of the rows for the shrunk training (reservoir)."""
    size = look.orders.sample_rows
    chosen = look.chosen[part]
    look.offered[part] += 1
    if len(chosen) < size:
        chosen.append(kept)
    elif (at := look.dice.randrange(look.offered[part])) < size:
        chosen[at] = kept


def conclude(look: Look, stand_in: bool, model_class: str, parameters: int) -> Examination:
    """Everything that was seen, as the launcher reads it."""
    job = look.orders.job
    limit = job.recipe.data.max_length
    if look.tokenized and look.cut == look.tokenized and look.too_long:
        what = f"every row is longer than data.max_length ({limit} tokens); the shortest has {min(look.lengths)}"
        hint = f"raise data.max_length to {max(look.lengths)}, or split the rows"
        look.gathered.add(Finding("all-too-long", what, hint), *look.too_long)
    elif look.tokenized and look.too_long and look.cut * 2 > look.tokenized:
        what = f"{look.cut} of {look.tokenized} rows are longer than data.max_length ({limit} tokens) and will be cut"
        look.gathered.add(Finding("mostly-too-long", what, "raise data.max_length, or split the rows", "doubtful"), *look.too_long)
    fitting = [min(length, limit) for length in look.lengths]
    return Examination(
        rows=look.rows,
        tokenized_rows=look.tokenized,
        kept_rows=look.kept,
        cut_rows=look.cut,
        tokens=look.total,
        trained_tokens=look.trained,
        longest_tokens=max(look.lengths, default=0),
        packed_sequences=len(pack(fitting, limit)) if job.recipe.data.packing and fitting else None,
        lengths=histogram(look.lengths),
        dropped=tuple(look.dropped.values()),
        defects=_defects(look),
        samples=(*look.samples, *([look.longest] if look.longest else [])),
        tokenizer="stand-in" if stand_in else "own",
        model_class=model_class,
        parameters=parameters,
        out_of_reach=tuple(look.out_of_reach),
    )


def _defects(look: Look) -> tuple[Defect, ...]:
    if not look.rows:
        look.gathered.add(Finding("no-rows", "the training data has no rows", "check data.train"), look.orders.job.train[0].path, 0)
    elif look.tokenized and not look.kept and not look.gathered.kinds:
        first = next(iter(look.dropped.values()))
        look.gathered.add(Finding("nothing-learned", f"no row can be learned from: {first.reason}", ""), first.channel, first.line)
    return look.gathered.defects()


def histogram(lengths: list[int]) -> tuple[Bin, ...]:
    """Rows by length, in steps of powers of two from the shortest to the longest."""
    if not lengths:
        return ()
    bins: list[Bin] = []
    low = 1
    while low <= max(lengths):
        high = max(2 * low - 1, 15)
        rows = sum(1 for length in lengths if low <= length <= high)
        if rows or bins:
            bins.append(Bin(low=low, high=high, rows=rows))
        low = high + 1
    return tuple(bins)
