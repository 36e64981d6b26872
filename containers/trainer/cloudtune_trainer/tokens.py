"""Rows → token ids with labels. A label is the id itself where the model shall learn the token, and IGNORED elsewhere.

Prompt and answer are tokenised apart, so the prompt's ids are the ones that a server will see when it asks the model;
an end-of-sequence token follows every answer and is learned. Reads no files and loads no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudtune.errors import JobFailed
from cloudtune.recipe.spec import DataSpec
from cloudtune_trainer.chat import ChatRenderer

IGNORED = -100
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One training sequence: ``ids`` and ``labels`` [n], int32. ``row`` numbers the data row that it was made of."""

    ids: Ids
    labels: Ids
    row: int

    @property
    def learned(self) -> int:
        """Number of tokens that enter the loss."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of token ids that is learned as a whole or not at all."""

    ids: list[int]
    learned: bool


@dataclass(frozen=True, slots=True)
class Marks:
    """What the tokenizer puts around a text by itself (a begin token, [CLS], [SEP]), and its end-of-sequence id."""

    before: list[int]
    after: list[int]
    end: int | None


def find_marks(tokenizer: Any) -> Marks:
    """The tokenizer's own frame, found by comparing a text with and without it."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    framed = tokenizer("a", add_special_tokens=True).input_ids
    start = next(at for at in range(len(framed) - len(plain) + 1) if framed[at : at + len(plain)] == plain)
    return Marks(before=framed[:start], after=framed[start + len(plain) :], end=tokenizer.eos_token_id)


def instruction_prompt(instruction: str, context: str | None) -> str:
    """Our own prompt for instruction rows, ending where the answer begins; docs/trainer.md shows it."""
    middle = f"\n\nInput:\n{context}" if context else ""
    return f"Instruction:\n{instruction}{middle}\n\nAnswer:\n"


class Tokens:
    """Turns rows into sequences. One object per job: it knows the tokenizer, the template and what is learned."""

    def __init__(self, tokenizer: Any, data: DataSpec, task: str, chat: Callable[[], ChatRenderer]) -> None:
        self._tokenizer = tokenizer
        self._data = data
        self._masked = task == "masked_lm"
        self._marks = find_marks(tokenizer)
        self._make_chat = chat
        self._chat: ChatRenderer | None = None
        if self._marks.end is None and not self._masked:
            raise JobFailed("the tokenizer has no end-of-sequence token", hint="name one of its tokens in data.special_tokens: {eos: ...}")

    def sequences(self, row: dict[str, Any], row_format: str, number: int) -> Iterator[Sequence]:
        """The sequences of one row, uncut. Several only for chats whose template rewrites earlier turns."""
        for pieces in self._pieces(row, row_format):
            ids = [token for piece in pieces for token in piece.ids]
            whole = self._data.loss_on == "all" or row_format == "text"
            labels = [token if piece.learned or whole else IGNORED for piece in pieces for token in piece.ids]
            if labels and not self._masked:
                labels[0] = IGNORED  # nothing stands before the first token that could predict it
            yield Sequence(np.asarray(ids, np.int32), np.asarray(labels, np.int32), number)

    def _pieces(self, row: dict[str, Any], row_format: str) -> Iterable[list[Piece]]:
        match row_format:
            case "text":
                return [self._text(row["text"])]
            case "completion":
                return [self._answered(row["prompt"], row["completion"])]
            case "instruction":
                return [self._answered(instruction_prompt(row["instruction"], row.get("input")), row["output"])]
            case "chat":
                return self._conversation(row["messages"])
        raise JobFailed(f"this trainer does not read {row_format} rows yet", hint="use chat, instruction, completion or text")

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return found

    def _text(self, text: str) -> list[Piece]:
        ids = self._ids(text)
        if not ids:
            return [Piece([], learned=True)]
        after = self._marks.after if self._masked else self._end_after(self._marks.after)
        return [Piece([*self._marks.before, *ids, *after], learned=True)]

    def _answered(self, prompt: str, answer: str) -> list[Piece]:
        ids = self._ids(answer)
        if not ids:
            return [Piece([], learned=True)]
        return [Piece([*self._marks.before, *self._ids(prompt)], learned=False), Piece([*ids, *self._end_after([])], learned=True)]

    def _end_after(self, after: list[int]) -> list[int]:
        end = self._marks.end
        return after if end is None or (after and after[-1] == end) else [end]

    def _conversation(self, messages: list[dict[str, Any]]) -> Iterable[list[Piece]]:
        if self._chat is None:
            self._chat = self._make_chat()
        for spans in self._chat.conversations(messages):
            pieces = [Piece(ids, learned) for ids, learned in spans]
            if pieces and pieces[-1].learned and not self._chat.ends_turn(pieces[-1].ids[-1:]):
                # The template closes a turn with plain text; without a token to stop on the model would never end.
                pieces[-1] = Piece([*pieces[-1].ids, *self._end_after([])], learned=True)
            yield pieces
