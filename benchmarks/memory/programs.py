"""What other people's training programs do, as ``Behaviour`` values, each field with the source line it comes from.

A field is never chosen by its score: where a program's source is silent, the library's default of the stated version
holds, and the citation says so. ``published.py --programs`` prints all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rows import Row

from cloudtune.memory.behaviour import Behaviour

FITCHECK = "fitcheck-llm 0.3.1 sdist, scripts/measure.py"
CANIFINETUNE = "DaoyuanLi2816/can-i-finetune-this, src/canifinetune/bench/runner.py at f841e52"
HF_BERT = "huggingface/transformers docs/source/en/perf_train_gpu_one.mdx at 0016acf7"


@dataclass(frozen=True, slots=True)
class Program:
    """One training program. ``unscored`` gives the reason why a row of it cannot be reckoned, or None."""

    name: str
    match: tuple[str, ...]
    """Words of a row's source, in lower case."""
    behaviour: Callable[[Row], Behaviour]
    unscored: Callable[[Row], str | None]
    cited: dict[str, str] = field(default_factory=dict)
    steps: int = 2
    rank: int = 8
    """The program's default where the row says none."""
    targets: tuple[str, ...] | None = None
    """What "all linear (script default)" means in this program."""
    dropout: float = 0.0
    double: bool = False
    """Whether the program quantises twice where the row does not say."""
    sharded: bool = False
    """Rows on several GPUs can be reckoned."""


SIX = ("k_proj", "q_proj", "v_proj", "up_proj", "down_proj", "gate_proj")


def _always(_row: Row) -> str | None:
    return None


def _adapters_only(row: Row) -> str | None:
    return "this program's fp32 master copies of trained 16-bit weights are not modelled" if row.method == "full" else None


def _fitcheck(row: Row) -> Behaviour:
    quantised = row.quant not in {"", "none"}
    return Behaviour(
        name="fitcheck-llm measure.py",
        attention="eager" if row.attention.startswith("eager") else "sdpa",
        sdpa_kernel="efficient",
        expand_kv=True,
        compute_word=2,
        half="fp16" in row.dtype,
        autocast=False,
        full_word=2,
        kbit_upcast=quantised,
        adapter_word=4,
        loss="full",
        loss_inside=True,
        outputs_held=True,
        outputs_overlap=False,
        checkpointing=not row.checkpointing.startswith("no"),
        reentrant=False,
        input_gradients=True,
        optimizer="adamw_8bit" if "8" in row.optimizer else "adamw",
        optimizer_kernel="foreach",
        paged=False,
        embeddings_32bit=False,
        clip_gradients=False,
        allocator="native",
        loading="device" if quantised else "host",
        empty_cache_after_load=quantised and version_of("peft", row, (0, 21)) >= (0, 20),
        peak_from="second step",
        torch_version=torch_of(row),
        rotary_product=True,
    )


def version_of(library: str, row: Row, otherwise: tuple[int, int]) -> tuple[int, int]:
    """The version of a library that the row's notes name."""
    found = re.search(rf"\b{library} (\d+)\.(\d+)", row.notes)
    return (int(found.group(1)), int(found.group(2))) if found else otherwise


def torch_of(row: Row) -> tuple[int, int]:
    """The row's torch; the one that is current here when it names none."""
    return version_of("torch", row, (2, 13))


FITCHECK_CITED = {
    "attention": f"{FITCHECK}:221-232: --attn-impl, else eager; the row says which",
    "sdpa_kernel": f"{FITCHECK}:605-628: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION)",
    "expand_kv": f"{FITCHECK}:574-602: _install_gqa_sdpa_shim repeats K and V",
    "compute_word": f"{FITCHECK}:240: dtype = --precision (fp16)",
    "autocast": f"{FITCHECK}:769-773: one_step has no autocast",
    "kbit_upcast": f"{FITCHECK}:268-273: prepare_model_for_kbit_training when quantised",
    "adapter_word": f"{FITCHECK}:366-370: adapters kept in fp32",
    "loss": f"{FITCHECK}:771: model(input_ids, labels): transformers' own loss",
    "loss_inside": f"{FITCHECK}:771: labels are passed to the model",
    "outputs_held": f"{FITCHECK}:771-772: `out` is alive while out.loss.backward() runs",
    "outputs_overlap": f"{FITCHECK}:769-773: `out` is local to one_step",
    "checkpointing": f"{FITCHECK}:286-291",
    "reentrant": f"{FITCHECK}:287-289: use_reentrant False",
    "input_gradients": f"{FITCHECK}:290-291: enable_input_require_grads",
    "optimizer": f"{FITCHECK}:351-356",
    "optimizer_kernel": "torch.optim.AdamW default on CUDA: foreach",
    "clip_gradients": f"{FITCHECK}:769-773: no clipping",
    "allocator": "no PYTORCH_CUDA_ALLOC_CONF in the script: torch's default",
    "loading": f"{FITCHECK}:257 device_map when quantised, :261 model.cuda() otherwise",
    "empty_cache_after_load": "peft >= 0.20 prepare_model_for_kbit_training empties the cache; the row names its peft",
    "peak_from": f"{FITCHECK}:819: reset_peak_memory_stats after the warm-up steps",
    "torch_version": "the row's notes",
    "rotary_product": "transformers 5.0 to 5.17 models/llama/modeling_llama.py LlamaRotaryEmbedding: inv_freq @ positions",
}


def _canifinetune(row: Row) -> Behaviour:
    quantised = row.quant not in {"", "none"}
    checkpointing = not row.checkpointing.startswith("no")
    return Behaviour(
        name="canifinetune runner.py",
        attention="eager" if row.attention.startswith("eager") else "sdpa",
        compute_word=2,
        autocast=False,
        full_word=2,
        flash_built="windows" not in row.gpu.lower(),
        kbit_upcast=quantised,
        adapter_word=4,
        loss="full",
        loss_inside=True,
        outputs_held=True,
        outputs_overlap=True,
        checkpointing=checkpointing,
        reentrant=quantised,
        input_gradients=True,
        optimizer="adamw_8bit" if "8bit" in row.optimizer else "adamw",
        optimizer_kernel="foreach",
        paged="paged" in row.optimizer,
        embeddings_32bit=False,
        clip_gradients=False,
        allocator="native",
        loading="device" if quantised else "host",
        empty_cache_after_load=False,
        peak_from="load",
        torch_version=torch_of(row),
        rotary_product=True,
    )


CANIFINETUNE_CITED = {
    "attention": f"{CANIFINETUNE} _build_model: attn_implementation as configured",
    "autocast": f"{CANIFINETUNE} run_bench: model(...) without autocast",
    "flash_built": "the row says Windows; torch's wheels for Windows are built without flash attention (USE_FLASH_ATTENTION is off there)",
    "kbit_upcast": f"{CANIFINETUNE} _build_model: prepare_model_for_kbit_training for qlora",
    "loss_inside": f"{CANIFINETUNE} run_bench: labels are passed to the model",
    "outputs_held": f"{CANIFINETUNE} run_bench: `outputs` and `loss` live through the loop",
    "outputs_overlap": f"{CANIFINETUNE} run_bench: `outputs` is rebound only after the next forward pass",
    "reentrant": "qlora: prepare_model_for_kbit_training passes {} and torch 2.6 then takes reentrant; "
    "lora: transformers 5 gradient_checkpointing_enable() takes use_reentrant False",
    "input_gradients": "peft: enabled with checkpointing by PeftModel and by prepare_model_for_kbit_training",
    "optimizer": f"{CANIFINETUNE} _build_optimizer: both 8-bit names are PagedAdamW8bit",
    "clip_gradients": f"{CANIFINETUNE} run_bench: no clipping",
    "allocator": "no allocator settings in the repository: torch's default",
    "loading": f"{CANIFINETUNE} _build_model: device_map for qlora, model.to(device) otherwise",
    "empty_cache_after_load": "peft 0.19.1 does not empty the cache",
    "peak_from": f"{CANIFINETUNE} run_bench: reset_peak before load, maximum over all snapshots",
    "torch_version": "the row's notes",
    "rotary_product": "transformers 5.0 to 5.17 models/llama/modeling_llama.py LlamaRotaryEmbedding: inv_freq @ positions",
}


def _bert(row: Row) -> Behaviour:
    mixed = "fp16" in row.dtype
    return Behaviour(
        name="transformers Trainer of January 2022",
        attention="eager",
        compute_word=2 if mixed else 4,
        half=mixed,
        autocast=mixed,
        full_word=4,
        loss="full",
        loss_inside=True,
        outputs_held=False,
        checkpointing=not row.checkpointing.startswith("no"),
        reentrant=True,
        input_gradients=False,
        accumulation=_accumulation(row) > 1,
        gradients_kept=True,
        optimizer=_old_optimizer(row.optimizer),
        optimizer_kernel="loop",
        embeddings_32bit=False,
        clip_gradients=True,
        allocator="native",
        loading="host",
        empty_cache_after_load=False,
        peak_from="load",
        torch_version=(1, 10),
        weights_returned=False,
    )


def _old_optimizer(name: str) -> str:  # type: ignore[return]
    if "adafactor" in name:
        return "adafactor"
    return "adamw_8bit" if "8" in name else "adamw"


def _accumulation(row: Row) -> int:
    found = re.search(r"accumulation (\d+)", row.notes)
    return int(found.group(1)) if found else 1


BERT_CITED = {
    "autocast": f"{HF_BERT}: fp16=True in the rows that say AMP (torch.cuda.amp around the forward pass)",
    "full_word": f"{HF_BERT}: from_pretrained without dtype: fp32 weights",
    "reentrant": "torch 1.10 has only the reentrant checkpoint",
    "outputs_held": "Trainer.training_step drops the outputs before backward",
    "gradients_kept": "transformers 4.16 Trainer calls model.zero_grad(), whose default in torch 1.10 keeps the tensors",
    "accumulation": f"{HF_BERT}: gradient_accumulation_steps=4 in the rows that say so",
    "optimizer_kernel": "transformers 4.16 optimization.AdamW: one tensor after the other",
    "allocator": "torch 1.10's default",
    "weights_returned": "transformers 4.16 models/bert: attention_probs leave the layer only with output_attentions",
    "torch_version": "January 2022, CUDA 11.2: torch 1.10; before 1.11 softmax keeps its input for the backward pass "
    "(transformers pytorch_utils.softmax_backward_data tells the two apart)",
}


def _fsdp_qlora(row: Row) -> Behaviour:
    return Behaviour(
        name="fsdp_qlora train.py",
        attention="sdpa",
        compute_word=2,
        autocast=False,
        full_word=2,
        kbit_upcast=False,
        adapter_word=2,
        loss="full",
        shifted_logits=True,
        loss_inside=True,
        outputs_held=True,
        checkpointing=True,
        reentrant="reentrant" in row.checkpointing and "non" not in row.checkpointing,
        input_gradients=True,
        optimizer="adamw",
        optimizer_kernel="foreach",
        embeddings_32bit=False,
        clip_gradients=True,
        copy_out=False,
        reduce_word=2,
        allocator="native",
        loading="host",
        empty_cache_after_load=False,
        peak_from="load",
        torch_version=(2, 2),
    )


FSDP_QLORA = "AnswerDotAI/fsdp_qlora train.py at 02586ac"
FSDP_QLORA_CITED = {
    "compute_word": f"{FSDP_QLORA} main: precision bf16; fsdp_main: torch_dtype bf16 for weights, adapters and quant_storage",
    "autocast": f"{FSDP_QLORA} fsdp_main: nullcontext for precision bf16",
    "kbit_upcast": f"{FSDP_QLORA} fsdp_main: get_peft_model without prepare_model_for_kbit_training",
    "shifted_logits": "transformers of March 2024 (4.38) models/llama: logits.float(), then shift_logits.contiguous()",
    "outputs_held": f"{FSDP_QLORA} train loop: `output` lives until after the optimizer step",
    "checkpointing": f"{FSDP_QLORA} main: use_gradient_checkpointing True; the row says reentrant",
    "optimizer_kernel": "torch.optim.AdamW default on CUDA: foreach",
    "copy_out": f"{FSDP_QLORA} fsdp_main: FullyShardedDataParallel (torch 2.2 _flat_param.py: the gathered flat parameter is computed in)",
    "reduce_word": f"{FSDP_QLORA} fsdp_main: mp_policy is None for precision bf16, so gradients are reduced in the parameters' type",
    "allocator": "no allocator settings in the repository: torch's default",
    "(method)": f"{FSDP_QLORA} main: lora_rank 64, dropout 0.1, six modules; Linear4bit's compress_statistics defaults to True",
}


def _compiled(row: Row) -> str | None:
    if "compile" in row.notes:
        return "torch.compile decides anew what is kept: not modelled"
    if row.checkpointing.startswith("selective"):
        return "selective activation checkpointing is not modelled"
    return None


PROGRAMS = (
    Program("fitcheck-llm", ("fitcheck",), _fitcheck, _adapters_only, FITCHECK_CITED),
    Program("canifinetune", ("can-i-finetune", "canifinetune"), _canifinetune, _always, CANIFINETUNE_CITED, steps=3),
    Program(
        "fsdp_qlora", ("fsdp_qlora",), _fsdp_qlora, _always, FSDP_QLORA_CITED, rank=64, targets=SIX, dropout=0.1, double=True, sharded=True
    ),
    Program("transformers Trainer 2022", ("huggingface/transformers docs",), _bert, _always, BERT_CITED),
)


def generic(row: Row) -> Behaviour:
    """A program that nobody described: what the row itself says, and transformers' and torch's defaults for the rest."""
    quantised = row.quant not in {"", "none"}
    autocast = "amp" in row.dtype or ("autocast" in row.dtype and "no autocast" not in row.dtype)
    held = "logits held" in row.notes
    base = Behaviour(
        name="as the row says",
        attention="eager" if row.attention.startswith("eager") else "flash_attention_2" if row.attention.startswith("flash") else "sdpa",
        compute_word=4 if row.dtype in {"fp32", "float32"} else 2,
        half="fp16" in row.dtype or "float16" in row.dtype.replace("bfloat16", ""),
        autocast=autocast,
        full_word=4 if autocast or row.dtype in {"fp32", "float32"} else 2,
        kbit_upcast=quantised,
        loss_inside=True,
        outputs_held=held,
        checkpointing=row.checkpointing.startswith("yes"),
        reentrant="reentrant" in row.checkpointing and "use_reentrant=false" not in row.checkpointing,
        optimizer=_named_optimizer(row.optimizer),  # type: ignore[arg-type]
        optimizer_kernel="foreach" if "foreach" in row.optimizer else "fused",
        paged="paged" in row.optimizer,
        allocator="native",
        loading="device" if quantised else "host",
        empty_cache_after_load=False,
        torch_version=torch_of(row),
    )
    return replace(base, expand_kv="expanded" in row.attention, sdpa_kernel="efficient" if "mem-efficient" in row.attention else "auto")


def _named_optimizer(name: str) -> str:
    if "adafactor" in name:
        return "adafactor"
    if "8bit" in name or "8-bit" in name:
        return "lion_8bit" if "lion" in name else "adamw_8bit"
    return "sgd" if name.startswith("sgd") else "adamw"


def program_of(row: Row) -> Program:
    """The program that made the row."""
    source = row.source.lower()
    for program in PROGRAMS:
        if any(word in source for word in program.match):
            return program
    return Program("as the row says", (), generic, _compiled)
