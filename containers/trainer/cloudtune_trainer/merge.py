"""Base and adapter made into one model, from the saved adapter, and checked after it was read back. Trains nothing.

A quantised base is dequantised first and the adapter added to that: the merged model is the one that was trained.
Merging into 4-bit weights, or into the original 16-bit ones, gives another model than the adapter was fitted to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cloudtune.errors import JobFailed
from cloudtune.recipe.resolved import JobFile
from cloudtune.recipe.spec import LoraMethod, QloraMethod
from cloudtune_trainer.batches import Batch
from cloudtune_trainer.loss import decoder_of, inputs_of
from cloudtune_trainer.model import Base, autocast, load_base, weights_dtype

MOST_ERROR = 0.25
MOST_ERROR_EXACT = 0.01
"""Largest difference of a logit that rounding explains, in standard deviations of the logits: 16-bit weights, or
activations rounded to 8 bits by LLM.int8; and fp32."""


def probe(job: JobFile, model: Any, batch: Batch) -> torch.Tensor:
    """Logits of ``batch`` on the CPU, fp32 [lines, width, words]."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(job):
        logits = decoder_of(model)(**inputs_of(batch)).logits
    model.train(was_training)
    result: torch.Tensor = logits.float().cpu()
    return result


def save_merged(job: JobFile, base: Base, adapter: Path, home: Path) -> None:
    """Write the merged model to ``home``, in the dtype of the base.

    Works in main memory, as a GPU may be too small for the unquantised model; only the quantising itself is done on the
    GPU, where the training did it.
    """
    from peft import PeftModel

    cpu = torch.device("cpu")
    if isinstance(job.recipe.method, QloraMethod):
        small = job.device == "cpu" or job.layout.sharding == "fsdp"  # one GPU alone may not hold even the packed weights
        device = cpu if small else torch.device("cuda", torch.cuda.current_device())
        model = load_base(job, base, device).to(cpu).dequantize(dtype=weights_dtype(job))
    else:
        model = load_base(job, base, cpu)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    if job.recipe.task == "causal_lm":
        merged.generation_config = type(merged.generation_config).from_pretrained(adapter)
    merged.config.use_cache = True
    merged.save_pretrained(home)


def merge_error(job: JobFile, home: Path, batch: Batch, reference: torch.Tensor) -> float:
    """Largest difference between the merged model's logits, read back from ``home`` onto the CPU, and ``reference``.

    ``batch`` lies on the CPU. Raises JobFailed when the difference is more than rounding explains.
    """
    plain = LoraMethod(type="lora")
    unquantised = job.model_copy(update={"recipe": job.recipe.model_copy(update={"method": plain})})
    merged = load_base(unquantised, Base(str(home), None), torch.device("cpu"))
    error = float((probe(job, merged, batch) - reference).abs().max())
    method = job.recipe.method
    exact = weights_dtype(job) is torch.float32 and not (isinstance(method, QloraMethod) and method.quantization == "int8")
    most = (MOST_ERROR_EXACT if exact else MOST_ERROR) * float(reference.std())
    if not error <= most:
        raise JobFailed(f"the merged model differs from the adapter: a logit is off by {error:.3g}, rounding explains {most:.3g}")
    return error
