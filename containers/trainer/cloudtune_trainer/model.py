"""Base model and tokenizer loaded, quantised, and given adapters. Decides precision; trains nothing.

Precision, mirrored by the memory estimate (docs/trainer.md has the reasons):
    CPU    everything in fp32; 4-bit weights compute in fp32
    CUDA   full: fp32 weights, autocast to model.dtype · lora, qlora: base as stored in model.dtype and never upcast,
           adapters fp32, autocast to model.dtype
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cloudtune.errors import JobFailed
from cloudtune.recipe.locations import is_builtin, is_remote
from cloudtune.recipe.quickstart import QUICKSTART_BASE
from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import FullMethod, LoraMethod, QloraMethod
from cloudtune_trainer.chat import BUILT_IN
from cloudtune_trainer.fourbit import keep_trainable
from cloudtune_trainer.paths import Paths
from cloudtune_trainer.quickstart import ensure_quickstart
from cloudtune_trainer.report import Report
from cloudtune_trainer.surroundings import StopSign

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_ATTENTION_WORDS = frozenset({"self_attn", "attention", "attn", "self", "self_attention"})
_INITS: dict[str, Any] = {"default": True, "gaussian": "gaussian", "olora": "olora", "pissa": "pissa_niter_16"}


@dataclass(frozen=True, slots=True)
class Base:
    """Where the base model is loaded from: a folder or hub id, and the revision for a hub id."""

    location: str
    revision: str | None


def find_base(job: JobFile, paths: Paths, report: Report, stop: StopSign) -> Base:
    """The base model's place; builds ``builtin:quickstart`` when it is not in the cache."""
    model = job.recipe.model
    if model.base == QUICKSTART_BASE:
        return Base(str(ensure_quickstart(paths.cache, report, stop)), None)
    if is_builtin(model.base):
        raise JobFailed(f"there is no {model.base}", hint=f"the only built-in base is {QUICKSTART_BASE}")
    if job.model_path is not None:
        folder = (paths.inputs / job.model_path).resolve()
        if not (folder / "config.json").is_file():
            raise JobFailed("the base model's folder has no config.json", where=str(folder), hint="it was not staged; launch again")
        return Base(str(folder), None)
    if is_remote(model.base):
        raise JobFailed(f"{model.base} was not brought into the job", hint="the launcher stages object stores; the trainer reads files")
    return Base(model.base, model.revision)


def load_tokenizer(job: JobFile, base: Base, paths: Paths) -> Any:
    """The base's tokenizer with the recipe's special tokens and chat template. Raises JobFailed."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base.location, revision=base.revision, trust_remote_code=job.recipe.model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise JobFailed(f"the tokenizer cannot be loaded: {_first_line(error)}", where=base.location) from error
    words = tokenizer.get_vocab()
    for role, token in job.recipe.data.special_tokens.items():
        if token not in words:
            raise JobFailed(f"data.special_tokens names {token!r}, which the tokenizer does not have", hint="use one of its own tokens")
        if role == "end_of_turn":
            tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
        else:
            setattr(tokenizer, f"{role}_token", token)
    template = job.recipe.data.chat_template
    if template in BUILT_IN:
        tokenizer.chat_template = BUILT_IN[template]
    elif template != "tokenizer":
        tokenizer.chat_template = _template_file(paths.job_folder / Path(template).name)
    return tokenizer


def _template_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobFailed(f"the chat template cannot be read: {error}", where=str(path)) from error


def pad_id(tokenizer: Any) -> int:
    """An id to fill lines with. Any will do: padding is never learned, and never seen by the text before it."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found or 0)


def load_base(job: JobFile, base: Base, device: torch.device) -> Any:
    """The base model on ``device``, quantised if the method says so, its key-value cache off. Raises JobFailed."""
    arguments = {"dtype": weights_dtype(job), "quantization_config": quantisation(job), "device_map": {"": device}}
    with _loading(base):
        model = _kind(job).from_pretrained(base.location, revision=base.revision, **_looks(job), **arguments)
    keep_trainable(model)
    model.config.use_cache = False
    return model


def read_unquantised(job: JobFile, base: Base) -> Any:
    """The base model in host memory, to be dealt out: full training's in the type it is stored in, half of fp32."""
    dtype: Any = "auto" if isinstance(job.recipe.method, FullMethod) else weights_dtype(job)
    with _loading(base):
        return _kind(job).from_pretrained(base.location, revision=base.revision, dtype=dtype, device_map={"": "cpu"}, **_looks(job))


def load_skeleton(job: JobFile, base: Base) -> Any:
    """The same model as ``load_base`` on the meta device: all its modules, no weights, no memory. Raises JobFailed."""
    from transformers import AutoConfig

    trust = job.recipe.model.trust_remote_code
    with _loading(base):
        config = AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=trust)
        with torch.device("meta"):
            model = _kind(job).from_config(config, dtype=weights_dtype(job), **_looks(job))
    if (settings := quantisation(job)) is not None:
        from transformers.quantizers.auto import AutoHfQuantizer

        quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
        quantizer.preprocess_model(model, dtype=weights_dtype(job), device_map=None)
        quantizer.postprocess_model(model)
    keep_trainable(model)
    model.config.use_cache = False
    return model


def _kind(job: JobFile) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if job.recipe.task == "masked_lm" else AutoModelForCausalLM


def _looks(job: JobFile) -> dict[str, Any]:
    spec = job.recipe.model
    return {
        "attn_implementation": "sdpa" if spec.attention == "auto" else spec.attention,
        "trust_remote_code": spec.trust_remote_code,
    }


@contextmanager
def _loading(base: Base) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise JobFailed(f"the base model cannot be loaded: {_first_line(error)}", where=base.location) from error


def weights_dtype(job: JobFile) -> torch.dtype:
    """The dtype that 16- and 32-bit weights are loaded in. Full training keeps fp32: 16-bit weights lose small updates."""
    if job.device == "cpu" or isinstance(job.recipe.method, FullMethod):
        return torch.float32
    return _DTYPES[job.recipe.model.dtype]


def result_dtype(job: JobFile) -> torch.dtype:
    """The dtype that a fully trained model is saved in."""
    return torch.float32 if job.device == "cpu" else _DTYPES[job.recipe.model.dtype]


def quantisation(job: JobFile) -> Any:
    """bitsandbytes settings of a qlora job; None for the other methods."""
    method = job.recipe.method
    if not isinstance(method, QloraMethod):
        return None
    from transformers import BitsAndBytesConfig

    if method.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=method.quantization,
        bnb_4bit_use_double_quant=method.double_quant,
        bnb_4bit_compute_dtype=weights_dtype(job),
    )


def autocast(job: JobFile) -> AbstractContextManager[Any]:
    """The precision of forward passes: autocast on CUDA unless the recipe wants float32; nothing on the CPU."""
    dtype = _DTYPES[job.recipe.model.dtype]
    if job.device == "cpu" or dtype is torch.float32:
        return nullcontext()
    cast: AbstractContextManager[Any] = torch.autocast("cuda", dtype=dtype)
    return cast


def make_trainable(job: JobFile, model: Any, base: Base) -> Any:
    """The model as the method trains it: all weights, or frozen with fp32 adapters. Uses torch's random state."""
    method = job.recipe.method
    trained = model.requires_grad_(True) if isinstance(method, FullMethod) else _with_adapters(job, model, method, base)
    if job.layout.gradient_checkpointing:
        # bitsandbytes' 8-bit product keeps its input where only the reentrant kind lets go of it.
        reentrant = isinstance(method, QloraMethod) and method.quantization == "int8"
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
    return trained


def _with_adapters(job: JobFile, model: Any, method: LoraMethod, base: Base) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    if method.init in ("pissa", "olora") and isinstance(method, QloraMethod):
        raise JobFailed(f"init: {method.init} needs weights that are not quantised", hint="use method.type: lora, or init: default")
    for weight in model.parameters():
        weight.requires_grad = False
    settings = LoraConfig(
        task_type=None if job.recipe.task == "masked_lm" else TaskType.CAUSAL_LM,
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=_targets(model, method.target_modules),
        target_parameters=list(method.target_parameters) or None,
        init_lora_weights=_INITS[method.init],
        trainable_token_indices=list(method.trainable_tokens) or None,
        modules_to_save=list(method.modules_to_save) or None,
        use_dora=method.use_dora,
        use_rslora=method.use_rslora,
    )
    try:
        adapted = get_peft_model(model, settings, autocast_adapter_dtype=True)
    except ValueError as error:
        raise JobFailed(f"the adapters cannot be added: {_first_line(error)}", hint="check method.target_modules") from error
    own = adapted.peft_config["default"]
    own.base_model_name_or_path = base.location
    own.revision = base.revision
    return adapted


def _targets(model: Any, targets: str | tuple[str, ...]) -> str | list[str]:
    if targets == "all-linear":
        return "all-linear"
    if targets != "attention":
        return sorted(targets)
    names = [name for name, module in model.named_modules() if _is_linear(module)]
    inside = {name for name in names if _ATTENTION_WORDS & set(name.split("."))}
    outside = {name.rsplit(".", 1)[-1] for name in names if name not in inside}
    # Short names where they are unambiguous; BERT calls linears inside and outside attention "dense".
    found = {name.rsplit(".", 1)[-1] if name.rsplit(".", 1)[-1] not in outside else name for name in inside}
    if not found:
        raise JobFailed("no attention module was found for target_modules: attention", hint="name the modules")
    return sorted(found)


def _is_linear(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
