"""Conversations → token ids, with the assistant's words marked exactly. Knows templates, not training.

Where an answer begins is asked of the template itself: the text that it renders for the messages before, with the
generation prompt, is what a server will send; everything behind it, up to and including the token that closes the turn,
is learned. Text is tokenised in stretches that end at these places, so no token can straddle them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError

from cloudtune.errors import JobFailed

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
LLAMA3 = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)
BUILT_IN = {"chatml": CHATML, "llama3": LLAMA3}

Message = dict[str, Any]
Stretch = tuple[list[int], bool]
"""Token ids and whether they are learned."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Characters ``start`` to ``end`` of a rendered conversation are learned."""

    start: int
    end: int


class ChatRenderer:
    """Renders and tokenises conversations with the tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            hint = "set data.chat_template to chatml, llama3 or a .jinja file"
            raise JobFailed("the tokenizer has no chat template, and the recipe names none", hint=hint)
        self._tokenizer = tokenizer
        added = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._closing = {*tokenizer.all_special_tokens, *(token.content for token in added)}
        self._closing_ids = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(sorted(self._closing))}
        # SentencePiece tokenizers put a space before whatever they are given: stretches would gain one that is not there.
        self._cuts_cleanly = self._ids("a\nb") == [*self._ids("a\n"), *self._ids("b")]

    def ends_turn(self, ids: Sequence[int]) -> bool:
        """Whether the last of ``ids`` is a token that generation stops on."""
        return bool(ids) and ids[-1] in self._closing_ids

    def conversations(self, messages: list[Message]) -> Iterator[list[Stretch]]:
        """The conversation as one list of stretches; or one per answer, when the template rewrites earlier turns.

        Raises JobFailed when the template refuses the conversation.
        """
        text = self._render(messages, prompt=False)
        answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        spans = [self._span(messages, at) for at in answers]
        if all(rendered[: span.end] == text[: span.end] for span, rendered in spans):
            yield self._stretches(text, [span for span, _ in spans])
            return
        for span, rendered in spans:
            yield self._stretches(rendered[: span.end], [span])

    def _render(self, messages: list[Message], *, prompt: bool) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except (TemplateError, TypeError, KeyError, IndexError) as error:
            raise JobFailed(f"the chat template refuses a conversation: {error}", hint="check the order of its roles") from error
        return text

    def _span(self, messages: list[Message], at: int) -> tuple[_Span, str]:
        """Where answer ``at`` lies in the conversation that ends with it, and that conversation's text."""
        text = self._render(messages[: at + 1], prompt=False)
        end = len(text.rstrip())
        if not text[:end].endswith(tuple(self._closing)):
            end = len(text)
        if at == 0:  # templates index the first message, so there is no prompt to render
            return _Span(max(0, text.find(messages[0]["content"])), end), text
        # Some generation prompts open a thought that the finished turn does not have: what both share is the prompt.
        shared = _shared_length(self._render(messages[:at], prompt=True), text)
        return _Span(min(shared, end), end), text

    def _stretches(self, text: str, spans: list[_Span]) -> list[Stretch]:
        cuts = [0, *(place for span in spans for place in (span.start, span.end)), len(text)]
        bounds = [(a, b, turn % 2 == 1) for turn, (a, b) in enumerate(pairwise(cuts))]
        if not self._cuts_cleanly:
            joint = self._joint(text, bounds)
            if joint is not None:
                return joint
        return [(self._ids(text[a:b]), learned) for a, b, learned in bounds if b > a]

    def _joint(self, text: str, bounds: list[tuple[int, int, bool]]) -> list[Stretch] | None:
        """The whole text tokenised at once and divided by character offsets; None when a token lies across a bound."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = encoded.offset_mapping
        if any(start < cut < end for _, cut, _ in bounds for start, end in places):
            return None
        return [
            ([token for token, (start, _) in zip(encoded.input_ids, places, strict=True) if a <= start < b], learned)
            for a, b, learned in bounds
            if b > a
        ]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return found


def _shared_length(one: str, other: str) -> int:
    """Number of leading characters that both texts share."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
