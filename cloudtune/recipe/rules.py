"""Combinations that no job can have. Pure: looks at the values as written, returns faults.

``conflicts`` holds what contradicts itself in any recipe, also in one whose defaults are all written out (a
plan, a job file). ``conflicts_as_written`` adds what only the author's own words can be blamed for: keys
without effect, and machines that the named provider does not have. Values of wrong types are passed over
here; the schema speaks about those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cloudtune.errors import Fault
from cloudtune.recipe.locations import is_builtin, is_file_in_bucket, is_local_file, is_local_model, is_remote
from cloudtune.recipe.paths import show_key
from cloudtune.recipe.quickstart import QUICKSTART_BASE
from cloudtune.recipe.rows import REQUIRED_FIELDS, known_fields

ERROR_TYPE = "impossible_combination"
BUILTIN_MODELS = (QUICKSTART_BASE,)
CHAT_TEMPLATES = ("tokenizer", "chatml", "llama3")
TEMPLATE_ENDINGS = (".jinja", ".jinja2", ".j2")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_GCP_MACHINE = re.compile(r"[a-z]\d+[a-z]?-[a-z]+-[\w-]+")
_WINDOWS = re.compile(r"[A-Za-z]:\\|.*\\")


def conflicts(given: Mapping[str, Any]) -> list[Fault]:
    """Contradictions among the given values; an absent key and null are the same."""
    return [fault for rule in (_length, _warmup, _batch, _method, _task, _formats, _eval, _attention, _outcome) for fault in rule(given)]


def conflicts_as_written(given: Mapping[str, Any]) -> list[Fault]:
    """``conflicts``, keys that would have no effect, and places and names that cannot exist."""
    more = (_idle, _provider, _instance, _tracking, _model_name, _sources, _columns, _template)
    return [*conflicts(given), *(fault for rule in more for fault in rule(given))]


def _at(given: Any, *path: str) -> Any:
    """The value at a path, None when something on the way is no mapping."""
    for key in path:
        given = given.get(key) if isinstance(given, Mapping) else None
    return given


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fault(path: str, what: str, hint: str = "", expected: str = "") -> Fault:
    return Fault(path, what, expected, hint)


def _length(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "training", "epochs") is not None and _at(given, "training", "max_steps") is not None:
        yield _fault("training.max_steps", "epochs and max_steps both say how long to train", "keep one of them; null takes one back")


def _warmup(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "training", "warmup_ratio") is not None and _at(given, "training", "warmup_steps") is not None:
        what = "warmup_ratio and warmup_steps both say how long to warm up"
        yield _fault("training.warmup_steps", what, "keep one of them; null takes one back")
    warmup, steps = _at(given, "training", "warmup_steps"), _at(given, "training", "max_steps")
    if _whole(warmup) and _whole(steps) and warmup > steps:
        what = f"{warmup} warm-up steps are more than the {steps} steps of the run"
        yield _fault("training.warmup_steps", what, f"write at most {steps}")


def _batch(given: Mapping[str, Any]) -> Iterator[Fault]:
    batch, micro = _at(given, "training", "batch_size"), _at(given, "training", "micro_batch_size")
    batch = 16 if batch is None else batch
    if not (_whole(batch) and _whole(micro)) or batch % micro == 0:
        return
    what = f"batch_size {batch} is not a multiple of micro_batch_size {micro}"
    if micro > batch:
        yield _fault("training.micro_batch_size", what, f"write micro_batch_size: {batch} or less, or batch_size: {micro}")
        return
    below, above = batch - batch % micro, batch + micro - batch % micro
    nearest = below if batch - below <= above - batch else above
    yield _fault("training.micro_batch_size", what, f"the nearest that is: batch_size: {nearest}")


def _method(given: Mapping[str, Any]) -> Iterator[Fault]:
    method = _at(given, "method")
    kind = _at(method, "type")
    init = _at(method, "init")
    if kind == "qlora" and init in ("pissa", "olora"):
        hint = "write init: default, or type: lora"
        yield _fault("method.init", f"{init} starts from the base's own weights, which qlora has quantised", hint)
    dropout = _at(method, "dropout")
    if _at(method, "target_parameters") and isinstance(dropout, (int, float)) and dropout > 0:
        yield _fault("method.dropout", "target_parameters cannot be trained with dropout", "write dropout: 0")
    if init in ("pissa", "olora") and _at(method, "target_parameters"):
        yield _fault("method.init", f"{init} does not reach target_parameters", "write init: default")


def _task(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "task") != "masked_lm":
        return
    if _at(given, "data", "packing") is True:
        yield _fault("data.packing", "masked_lm cannot pack rows", "remove packing, or write task: causal_lm")
    if _at(given, "training", "fused_loss") is True:
        yield _fault("training.fused_loss", "masked_lm has no fused loss", "write fused_loss: auto")


def _formats(given: Mapping[str, Any]) -> Iterator[Fault]:
    task = _at(given, "task")
    task = "causal_lm" if task is None else task
    for path, source in _each_source(given):
        form = source.get("format", "chat")
        at = f"{path}.format" if "format" in source else path
        if task == "masked_lm" and form in ("chat", "instruction", "completion", "preference"):
            yield _fault(at, f"masked_lm learns from plain text, not from {form} rows", "write format: text, or task: causal_lm")
        elif task == "preference" and form in ("chat", "instruction", "completion", "text"):
            yield _fault(at, f"task preference needs pairs, not {form} rows", "write format: preference, or task: causal_lm")
        elif task == "causal_lm" and form == "preference":
            yield _fault(at, "preference rows need task: preference", "write task: preference")


def _eval(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "training", "early_stopping_patience") is not None and not _at(given, "data", "eval"):
        path = "training.early_stopping_patience"
        yield _fault(path, "early_stopping_patience needs evaluations, and there are none", "add data.eval: 0.05")


def _attention(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "model", "attention") == "flash_attention_2" and _at(given, "model", "dtype") == "float32":
        hint = "write dtype: bfloat16, or attention: sdpa"
        yield _fault("model.attention", "flash_attention_2 does not compute in float32", hint)


def _outcome(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "output", "merge") is True and _at(given, "method", "type") == "full":
        yield _fault("output.merge", "full training leaves no adapter to merge", "remove merge")


def _idle(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "method", "quantization") == "int8" and _at(given, "method", "double_quant") is True:
        yield _fault("method.double_quant", "double_quant has no effect on int8", "remove it, or write quantization: nf4")
    if _at(given, "training", "eval_steps") not in (None, "auto") and not _at(given, "data", "eval"):
        yield _fault("training.eval_steps", "eval_steps without evaluation", "add data.eval: 0.05, or remove eval_steps")
    if _at(given, "task") == "masked_lm" and _at(given, "data", "loss_on") == "completion":
        yield _fault("data.loss_on", "masked_lm learns hidden tokens of the whole text", "remove loss_on")


def _provider(given: Mapping[str, Any]) -> Iterator[Fault]:
    compute = _at(given, "compute")
    provider, purchase, nodes = _at(compute, "provider"), _at(compute, "purchase"), _at(compute, "nodes")
    if provider == "local" and purchase in ("spot", "flex_start"):
        yield _fault("compute.purchase", f"this machine is not bought, so {purchase} cannot be had", "remove purchase")
    if provider == "local" and _whole(nodes) and nodes > 1:
        yield _fault("compute.nodes", f"provider local is this one machine, not {nodes}", "write nodes: 1")
    if provider == "aws" and purchase == "flex_start":
        yield _fault("compute.purchase", "flex_start exists on Google Cloud only", "write purchase: spot or on_demand, or provider: gcp")


def _instance(given: Mapping[str, Any]) -> Iterator[Fault]:
    provider, instance = _at(given, "compute", "provider"), _at(given, "compute", "instance")
    if not isinstance(instance, str) or instance == "auto" or provider not in ("aws", "gcp", "local"):
        return
    home = "aws" if instance.startswith("ml.") else "gcp" if _GCP_MACHINE.fullmatch(instance) else None
    if home and home != provider:
        hint = f"write provider: {home}, or instance: auto"
        yield _fault("compute.instance", f"{instance} is a machine of {home}, and the provider is {provider}", hint)
    elif provider == "aws" and home is None and re.fullmatch(r"[a-z]+\d+[a-z]*\.\w+", instance):
        yield _fault("compute.instance", f"SageMaker's machine types begin with ml., {instance} does not", f"write ml.{instance}")


def _tracking(given: Mapping[str, Any]) -> Iterator[Fault]:
    if _at(given, "tracking", "project") is not None and not _at(given, "tracking", "report_to"):
        hint = "add report_to: [wandb], or remove project"
        yield _fault("tracking.project", "a project without a tracker to report to", hint)


def _model_name(given: Mapping[str, Any]) -> Iterator[Fault]:
    base = _at(given, "model", "base")
    if not isinstance(base, str) or not base or not base.isprintable() or is_remote(base) or is_local_model(base) or base in BUILTIN_MODELS:
        return
    if is_builtin(base):
        yield _fault("model.base", f"there is no {base}", f"write {BUILTIN_MODELS[0]}")
    elif "huggingface.co/" in base:
        name = "/".join(base.split("huggingface.co/", 1)[1].split("/")[:2])
        yield _fault("model.base", "a hub model is named by its id, not by its address", f"write {name}")
    elif not _HUB_ID.fullmatch(base):
        yield _fault("model.base", "this names neither a hub model nor a folder", "write a hub id OWNER/NAME, or put ./ before a folder")


def _sources(given: Mapping[str, Any]) -> Iterator[Fault]:
    for at, source in _each_source(given):
        path = source.get("path")
        if not isinstance(path, str) or not path or not path.isprintable() or is_file_in_bucket(path):
            continue
        scheme = _SCHEME.match(path)
        if is_remote(path):
            hint = "name each file, ending in .jsonl, .json, .csv, .parquet or .txt"
            yield _fault(
                f"{at}.path", "data in a bucket is one file, and this is none", hint, "an address like s3://bucket/folder/rows.jsonl"
            )
        elif scheme:
            hint = "download it and give the file, or copy it to a bucket"
            yield _fault(f"{at}.path", f"{scheme.group(1)}:// is not read", hint, "a local file, s3://, gs:// or a hub data set id")
        elif _WINDOWS.match(path):
            yield _fault(f"{at}.path", "backslashes are not read as folders", "write the path with / between folders")
        elif not is_local_file(path) and not _HUB_ID.fullmatch(path):
            yield _fault(f"{at}.path", "this names neither a file nor a hub data set", "put ./ before a local path")


def _template(given: Mapping[str, Any]) -> Iterator[Fault]:
    template = _at(given, "data", "chat_template")
    if template in (None, "tokenizer") and _at(given, "model", "base") == QUICKSTART_BASE:
        chats = [at for at, source in _each_source(given) if source.get("format", "chat") == "chat"]
        if chats:
            yield _fault(chats[0], f"{QUICKSTART_BASE} has no chat template for chat rows", "write chat_template: chatml under data")
    if not isinstance(template, str) or not template.isprintable() or template in CHAT_TEMPLATES or template.endswith(TEMPLATE_ENDINGS):
        return
    close = template.lower().replace("-", "").replace("_", "")
    hint = f"write {close}" if close in CHAT_TEMPLATES else "write tokenizer for the model's own template"
    what = f"there is no chat template {show_key(template)}"
    yield _fault("data.chat_template", what, hint, "tokenizer, chatml, llama3 or the path of a .jinja file")


def _columns(given: Mapping[str, Any]) -> Iterator[Fault]:
    for at, source in _each_source(given):
        form, columns, path = source.get("format", "chat"), source.get("columns"), source.get("path")
        if not isinstance(form, str) or form not in REQUIRED_FIELDS:
            continue
        known = known_fields(form)
        for name in columns if isinstance(columns, Mapping) else ():
            if isinstance(name, str) and name not in known:
                hint = "columns maps our field name to the file's column"
                yield _fault(f"{at}.columns.{name}", f"{form} rows have no field {show_key(name)}", hint, " or ".join(known))
        ending = path.lower().rpartition(".")[2] if isinstance(path, str) else ""
        place = f"{at}.format" if "format" in source else f"{at}.path"
        if ending == "txt" and form != "text":
            yield _fault(place, f"a .txt file holds plain text, not {form} rows", "write format: text")
        elif ending == "csv" and form == "chat":
            yield _fault(
                place, "a .csv file cannot hold lists of messages", "write format: completion or instruction, or use a .jsonl file"
            )


def _each_source(given: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in ("train", "eval"):
        sources = _at(given, "data", name)
        if isinstance(sources, (list, tuple)):
            for index, source in enumerate(sources):
                if isinstance(source, Mapping):
                    yield f"data.{name}[{index}]", source
