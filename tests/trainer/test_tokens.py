"""What is learned, read back: the labels of every format are decoded and compared with the text that should be learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import make_tokenizer
from trainer_jobs import CHATS

from cloudtune.errors import JobFailed
from cloudtune.recipe.spec import DataSource, DataSpec
from cloudtune_trainer.chat import CHATML, LLAMA3, ChatRenderer
from cloudtune_trainer.tokens import IGNORED, Sequence, Tokens, instruction_prompt

pytestmark = pytest.mark.stack

# Rewrites history as Qwen 3 does: only the last answer keeps its (empty) thought.
FORGETFUL = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' and loop.last -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
    "{{ message['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
# Its generation prompt opens a thought that finished turns do not have, as DeepSeek R1 does.
OPENING = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n<think>{%- endif -%}"
)
PLAIN = (
    "{%- for message in messages -%}{{ message['role'] + ': ' + message['content'] + '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def spaced() -> Any:
    """A tokenizer of the SentencePiece kind: a space is put before whatever is tokenised."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"], show_progress=False
    )
    backend.train_from_iterator(["say hello user assistant Here: Still 0 1 2 3 4 5 6 7 8 9, as before Again \n"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", bos_token="<s>", unk_token="<unk>", extra_special_tokens=["<|im_start|>", "<|im_end|>"]
    )


def sequences(
    tokenizer: Any, row: dict[str, Any], rows_format: str, *, template: str | None = None, loss_on: str = "completion"
) -> list[Sequence]:
    tokenizer.chat_template = template
    data = DataSpec(train=(DataSource(path="a.jsonl", format=rows_format),), loss_on=loss_on)
    return list(Tokens(tokenizer, data, "causal_lm", lambda: ChatRenderer(tokenizer)).sequences(row, rows_format, 0))


def learned(tokenizer: Any, sequence: Sequence) -> list[str]:
    """The learned stretches as text."""
    wanted = sequence.labels != IGNORED
    assert (sequence.labels[wanted] == sequence.ids[wanted]).all()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted.astype(int), [0]])))
    return [tokenizer.decode(sequence.ids[a:b], clean_up_tokenization_spaces=False) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def text(tokenizer: Any, sequence: Sequence) -> str:
    return tokenizer.decode(sequence.ids, clean_up_tokenization_spaces=False)


def test_instruction(tokenizer: Any) -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    (one,) = sequences(tokenizer, row, "instruction")
    assert text(tokenizer, one) == "Instruction:\nAdd.\n\nInput:\n1 and 2\n\nAnswer:\n3</s>"
    assert learned(tokenizer, one) == ["3</s>"]
    (bare,) = sequences(tokenizer, {**row, "input": None}, "instruction")
    assert text(tokenizer, bare) == "Instruction:\nAdd.\n\nAnswer:\n3</s>"


def test_the_prompt_s_ids_are_those_that_a_server_sees(tokenizer: Any) -> None:
    row = {"instruction": "Add.", "output": "\n3"}  # "\n\n" would be one token if prompt and answer were tokenised together
    (one,) = sequences(tokenizer, row, "instruction")
    prompt = tokenizer(instruction_prompt("Add.", None)).input_ids
    assert one.ids[: len(prompt)].tolist() == prompt
    assert (one.labels[: len(prompt)] == IGNORED).all()
    assert learned(tokenizer, one) == ["\n3</s>"]


def test_completion_and_text(tokenizer: Any) -> None:
    (one,) = sequences(tokenizer, {"prompt": "def f(): ", "completion": "return 1"}, "completion")
    assert learned(tokenizer, one) == ["return 1</s>"]
    (all_of_it,) = sequences(tokenizer, {"prompt": "def f(): ", "completion": "return 1"}, "completion", loss_on="all")
    assert (all_of_it.labels[1:] == all_of_it.ids[1:]).all()
    (plain,) = sequences(tokenizer, {"text": "hello world"}, "text")
    assert text(tokenizer, plain) == "hello world</s>"
    assert plain.labels[0] == IGNORED  # nothing stands before it
    assert (plain.labels[1:] == plain.ids[1:]).all()


def test_nothing_to_learn_in_empty_answers(tokenizer: Any) -> None:
    for row, rows_format in (
        ({"prompt": "a", "completion": ""}, "completion"),
        ({"text": ""}, "text"),
        ({"instruction": "a", "output": ""}, "instruction"),
    ):
        (one,) = sequences(tokenizer, row, rows_format)
        assert one.learned == 0


def test_begin_token_of_the_tokenizer_is_kept(spaced: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    spaced.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", spaced.bos_token_id)])
    (one,) = sequences(spaced, {"prompt": "say ", "completion": "hello"}, "completion")
    spaced.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert one.ids[0] == spaced.bos_token_id
    assert list(one.ids).count(spaced.bos_token_id) == 1
    assert one.ids[-1] == spaced.eos_token_id == one.labels[-1]


def test_chat_learns_the_answers_and_their_closing_tokens(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *CHATS[3]["messages"]]
    (one,) = sequences(tokenizer, {"messages": messages}, "chat", template=CHATML)
    assert learned(tokenizer, one) == ["Here: 3<|im_end|>", "Still 3, as before<|im_end|>"]
    assert text(tokenizer, one).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay 3<|im_end|>\n<|im_start|>assistant\nHere"
    )
    (llama,) = sequences(tokenizer, {"messages": messages}, "chat", template=LLAMA3)
    assert learned(tokenizer, llama) == ["Here: 3<|eot_id|>", "Still 3, as before<|eot_id|>"]


@pytest.mark.parametrize("content", ["\nindented", " led by a space", "<|im_start|>", "ends in spaces  ", "é中🙂", "a"])
def test_chat_prompt_s_ids_are_those_that_a_server_sees(tokenizer: Any, content: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    (one,) = sequences(tokenizer, {"messages": messages}, "chat", template=CHATML)
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    assert one.ids[: len(prompt)].tolist() == prompt
    assert learned(tokenizer, one) == [f"{content}<|im_end|>"]


def test_chat_of_a_spacing_tokenizer_gains_no_space(spaced: Any) -> None:
    (one,) = sequences(spaced, CHATS[3], "chat", template=CHATML)
    whole = spaced.apply_chat_template(CHATS[3]["messages"], tokenize=False)
    assert one.ids.tolist() == spaced(whole, add_special_tokens=False).input_ids
    assert [stretch.strip() for stretch in learned(spaced, one)] == ["Here: 3<|im_end|>", "Still 3, as before<|im_end|>"]


def test_a_token_that_would_straddle_the_bound_is_cut(spaced: Any) -> None:
    bare = "{%- for message in messages -%}{{ message['content'] }}{%- endfor -%}</s>"
    messages = [{"role": "user", "content": "hel"}, {"role": "assistant", "content": "lo"}]
    assert len(spaced("hello", add_special_tokens=False).input_ids) == 1
    (one,) = sequences(
        spaced, {"messages": messages}, "chat", template=bare.replace("</s>", "{{ '' if add_generation_prompt else '</s>' }}")
    )
    prompt = spaced("hel", add_special_tokens=False).input_ids
    assert one.ids[: len(prompt)].tolist() == prompt
    assert [stretch.strip() for stretch in learned(spaced, one)] == ["lo</s>"]


def test_a_template_that_rewrites_history_gives_one_sequence_per_answer(tokenizer: Any) -> None:
    first, second = sequences(tokenizer, CHATS[3], "chat", template=FORGETFUL)
    assert learned(tokenizer, first) == ["<think>\n\n</think>\n\nHere: 3<|im_end|>"]
    assert learned(tokenizer, second) == ["<think>\n\n</think>\n\nStill 3, as before<|im_end|>"]
    assert "<think>\n\n</think>\n\nHere" not in text(tokenizer, second)
    assert first.row == second.row


def test_a_generation_prompt_that_opens_a_thought(tokenizer: Any) -> None:
    (one,) = sequences(tokenizer, CHATS[3], "chat", template=OPENING)
    assert learned(tokenizer, one) == ["Here: 3<|im_end|>", "Still 3, as before<|im_end|>"]


def test_a_template_without_closing_tokens_gets_an_end(tokenizer: Any) -> None:
    (one,) = sequences(tokenizer, CHATS[3], "chat", template=PLAIN)
    assert learned(tokenizer, one) == ["Here: 3\n", "Still 3, as before\n</s>"]


def test_chat_without_answers_and_with_the_answer_first(tokenizer: Any) -> None:
    (none,) = sequences(tokenizer, {"messages": [{"role": "user", "content": "Hi"}]}, "chat", template=CHATML)
    assert none.learned == 0
    (first,) = sequences(tokenizer, {"messages": [{"role": "assistant", "content": "Hi"}]}, "chat", template=CHATML)
    assert learned(tokenizer, first) == ["Hi<|im_end|>"]


def test_a_template_that_refuses_and_a_tokenizer_without_one(tokenizer: Any) -> None:
    with pytest.raises(JobFailed, match="chat template refuses"):
        sequences(tokenizer, CHATS[0], "chat", template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(JobFailed, match="no chat template"):
        sequences(tokenizer, CHATS[0], "chat")
