"""Any file of the formats of the published rows is accounted for: scored or listed with a reason, never a traceback, none dropped."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "memory"
sys.path.insert(0, str(FOLDER))

from names import shape_named, words  # noqa: E402
from published import Scored, judge, score  # noqa: E402
from rows import read_cases, read_verdicts  # noqa: E402

from cloudtune.errors import SourceError  # noqa: E402
from cloudtune.models.registry import entries  # noqa: E402

PLAIN = {
    "id": "M1",
    "source": "fitcheck-llm 0.3.1",
    "model": "HuggingFaceTB/SmolLM2-135M",
    "method": "lora",
    "quant": "none",
    "lora_rank": "16",
    "lora_targets": "q,k,v,o",
    "seq_len": "256",
    "micro_batch": "1",
    "grad_checkpointing": "yes",
    "attention_impl": "sdpa",
    "optimizer": "adamw",
    "dtype": "fp16",
    "gpu": "Tesla T4 16GB",
    "n_gpus": "1",
    "parallelism": "none",
    "measured_gb": "1.5",
    "unit": "GiB",
    "metric": "max_allocated",
    "notes": "",
}
ODD = {
    "source": [
        "",
        "somebody else",
        "AnswerDotAI/fsdp_qlora",
        "can-i-finetune",
        "fitcheck",
        "huggingface/transformers docs",
        "pytorch/torchtune",
    ],
    "model": [
        "",
        "no/such-model",
        "SmolLM2-135M-Instruct",
        "SmolLM2 135M",
        "bert-base-uncased (sequence classification head)",
        "../../etc",
        "/",
    ],
    "method": ["", "full", "qlora", "dora", "adalora", "QLoRA"],
    "quant": ["", "nf4", "nf4 double quant", "fp4", "int8", "8bit", "nf4 (torchao)", "float8 compute"],
    "lora_rank": ["", "0", "8", "script default", "99999999999"],
    "lora_targets": ["", "all linear", "q,k,v,o,mlp,head", "c_attn", "q_proj, v_proj", "[", "all linear (script default)"],
    "seq_len": ["", "0", "256", "<= 512", "1000000000", "-5", "512.0"],
    "micro_batch": ["", "0", "2", "unclear"],
    "grad_checkpointing": ["", "no", "selective", "yes (reentrant)", "yes (use_reentrant=False)"],
    "attention_impl": ["", "eager", "flash_attention_2", "flash", "sdpa (mem-efficient, expanded K and V)"],
    "optimizer": ["", "adafactor", "paged_adamw_8bit", "sgd", "lion_8bit", "AdamW (foreach)"],
    "dtype": ["", "bf16", "fp32", "fp16 AMP", "bf16 autocast"],
    "gpu": ["", "H100 80GB", "Radeon 7900", "RTX 4090", "V100-SXM2-16GB", "Tesla T4 16GB"],
    "n_gpus": ["", "0", "2", "8", "unclear"],
    "parallelism": ["", "FSDP", "FSDP NO_SHARD (ddp)", "FSDP + CPU offload", "DeepSpeed ZeRO-2"],
    "measured_gb": ["", "0", "OOM", "nan", "1e400", "~5", "4"],
    "unit": ["", "GB", "mib", "bytes", "unclear"],
    "metric": ["", "max_reserved", "nvidia-smi", "unclear", "MAX_ALLOCATED"],
    "notes": ["", "torch 2.6.0, peft 0.19.1", "torch.compile", "torch x.y", "1343 MiB of CUDA context"],
}


def rows_of(tmp_path: Path, cells: list[dict[str, str]]) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(cells[0]))
        writer.writeheader()
        writer.writerows(cells)
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in ODD.items()}))
def test_whatever_a_row_says_it_is_scored_or_has_a_reason(tmp_path: Path, changes: dict[str, str]) -> None:
    (row,) = read_cases(rows_of(tmp_path, [{**PLAIN, **changes}]))
    found = score(row)
    assert isinstance(found, Scored)
    assert found.scored == (found.reason == "")
    assert (found.predicted_bytes is not None) == found.scored
    assert "\n" not in found.reason
    (verdict,) = read_verdicts(rows_of(tmp_path, [{**PLAIN, **changes, "card_mib": "14912", "context_mib": "140.875", "outcome": "OOM"}]))
    answer = judge(verdict)
    assert answer.predicted in {"completed", "oom", "none"}
    assert answer.predicted != "none" or answer.reason


def test_a_plain_row_is_scored_whatever_the_file_looks_like(tmp_path: Path) -> None:
    expected = score(read_cases(rows_of(tmp_path, [PLAIN]))[0])
    assert expected.scored
    head, line = ",".join(PLAIN), ",".join(f'"{value}"' for value in PLAIN.values())
    texts = {
        "a byte order mark and other line ends": f"\ufeff{head}\r\n{line}\r\n",
        "more cells than columns": f"{head}\n{line},more,and more\n",
        "an empty line": f"{head}\n\n{line}\n",
    }
    for what, text in texts.items():
        path = tmp_path / "odd.csv"
        path.write_text(text, encoding="utf-8")
        assert [score(row) for row in read_cases(path)] == [expected], what


def test_missing_columns_and_short_rows_are_listed_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("id,source\nM1\n,x\nM3,y\n", encoding="utf-8")
    found = [score(row) for row in read_cases(path)]
    assert [item.id for item in found] == ["M1", "line 3", "M3"]
    assert all(item.reason == "no figure in a stated unit" for item in found)


def test_the_command_answers_with_the_keys_of_the_format(tmp_path: Path) -> None:
    cases = rows_of(tmp_path, [PLAIN, {**PLAIN, "model": "no/such"}])
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_text(
        "id,source,model,method,quant,lora_rank,lora_targets,seq_len,micro_batch,grad_checkpointing,attention_impl,optimizer,dtype,gpu,"
        "card_mib,context_mib,outcome\n"
        "V1,another program,HuggingFaceTB/SmolLM2-135M,lora,none,8,all linear,128,1,no,sdpa,adamw,bf16,NVIDIA L4,23034,430,completed\n"
        "V2,another program,HuggingFaceTB/SmolLM2-135M,lora,none,8,all linear,128,1,no,sdpa,adamw,bf16,NVIDIA L4,600,430,oom\n"
        "V3,,no/such,lora,none,8,all linear,128,1,no,sdpa,adamw,bf16,,,,oom\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(FOLDER / "published.py"), str(cases), "--verdicts", str(verdicts), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert answer.keys() == {"rows", "verdicts", "summary"}
    assert all(list(row) == ["id", "metric", "measured_bytes", "predicted_bytes", "error", "scored", "reason"] for row in answer["rows"])
    assert [row["scored"] for row in answer["rows"]] == [True, False]
    assert all(list(item) == ["id", "outcome", "predicted", "right"] for item in answer["verdicts"])
    assert [(item["predicted"], item["right"]) for item in answer["verdicts"]] == [("completed", True), ("oom", True), ("none", False)]


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "published.py"), str(tmp_path / "none.csv")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_model_of_the_registry_is_found_by_the_words_of_its_names() -> None:
    for entry in entries():
        for name in (entry.id, *entry.aliases):
            if entry.id.startswith("deepseek-ai/DeepSeek-V4"):
                continue  # has no template: refused
            shape, _ = shape_named(name)
            assert shape.num_layers == shape_named(entry.id)[0].num_layers


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("Llama 2 13 B", "meta-llama/Llama-2-13b-hf"),
        ("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B"),
        ("unsloth/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B"),
        ("Qwen3 8B", "Qwen/Qwen3-8B"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-v0.1"),
        ("falcon-7b", "tiiuae/falcon-7b"),
    ],
)
def test_names_of_tables_are_known_by_their_words(name: str, known_as: str) -> None:
    found, expected = shape_named(name)[0], shape_named(known_as)[0]
    assert found.blocks == expected.blocks


def test_sizes_are_words_so_that_nothing_is_taken_for_its_neighbour() -> None:
    assert words("Llama-3.1-8B") != words("Llama-3-18B")
    assert words("gemma-2b") != words("gemma-2-2b")
    for name in ("", "x", "gemma-2b", "Qwen-7B", "bert-base-uncased-finetuned"):
        with pytest.raises(SourceError):
            shape_named(name)
