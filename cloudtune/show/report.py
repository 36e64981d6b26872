"""What a finished job brought: losses before and after, where the adapter is, time, memory measured beside predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudtune.show.text import Page, near, pairs
from cloudtune.units import count, duration, gib, usd

if TYPE_CHECKING:
    from cloudtune.manifest import Manifest
    from cloudtune.verbs.collect import Collected


def collected_lines(collected: Collected, page: Page, here: str = "") -> list[str]:
    """What ``collect`` brought, and the job's own account where it left one. ``here``: the folder that paths are shown from."""
    folder = near(str(collected.folder), here)
    came = f"{len(collected.files)} files in {folder} ({gib(collected.fetched_bytes)} fetched now)"
    if collected.manifest is not None:
        return [came, *summary_lines(collected.manifest, folder, page, goes_on=collected.goes_on)]
    left = (
        f"; {len(collected.left_there)} checkpoint files stay at the provider (--checkpoints fetches them)" if collected.left_there else ""
    )
    return [came, f"the job left no manifest: this is its log and what else there was{left}"]


def summary_lines(manifest: Manifest, folder: str, page: Page, *, spent_usd: float | None = None, goes_on: bool = False) -> list[str]:
    """The summary of a collected job; ``folder`` is where its files are now. ``goes_on``: launched again it goes on."""
    head = page.paint(manifest.launch_id, "bold")
    outcome = page.paint("done", "green") if manifest.outcome == "complete" else page.paint(manifest.outcome, "yellow")
    entries = [
        ("eval loss", loss_words(manifest)),
        ("result", f"{folder}/{result_folder(manifest)}"),
        ("training", training_words(manifest)),
        ("peak memory", memory_words(manifest)),
        ("cost", usd(spent_usd) if spent_usd else ""),
        ("next", next_words(manifest, folder, goes_on=goes_on)),
    ]
    return [f"{head}  {outcome} in {duration(manifest.seconds)}", *pairs(page, entries)]


def loss_words(manifest: Manifest) -> str:
    """Evaluation loss before and after, and the change; the training loss where nothing was held out."""
    before, after = manifest.eval_loss_before, manifest.eval_loss_after
    if before is None or after is None:
        return f"not measured; training loss {manifest.train_loss:.4f}" if manifest.train_loss is not None else ""
    change = f" ({(after - before) / before:+.1%})" if before else ""
    return f"{before:.4f} before, {after:.4f} after{change}, on {manifest.eval_rows:,} rows held out"


def result_folder(manifest: Manifest) -> str:
    """The folder with the trained weights: merged, adapter or full, whichever the manifest names."""
    folders = {artifact.path.partition("/")[0] for artifact in manifest.artifacts}
    return next((name for name in ("adapter", "full", "merged") if name in folders), "")


def training_words(manifest: Manifest) -> str:
    """Steps, rows, tokens and speed; that early stopping ended a run, as nothing else completes before its last step."""
    speed = f", {manifest.tokens / manifest.train_seconds:,.0f} tokens/s" if manifest.train_seconds else ""
    early = manifest.outcome == "complete" and manifest.steps < manifest.total_steps
    steps = f"{manifest.steps:,} of {manifest.total_steps:,} steps (stopped early, without gain)" if early else f"{manifest.steps:,} steps"
    return f"{steps} over {manifest.train_rows:,} rows, {count(manifest.tokens)} tokens{speed}"


def memory_words(manifest: Manifest) -> str:
    """Measured peak beside the predicted one; on CUDA what the device showed, on the CPU the resident set."""
    peak = manifest.peak_memory
    measured = (peak.device_bytes or peak.reserved_bytes) if peak.device == "cuda" else peak.host_rss_bytes
    if measured is None:
        return ""
    if not manifest.predicted_peak_bytes:
        return f"{gib(measured)} measured"
    error = (manifest.predicted_peak_bytes - measured) / measured
    return f"{gib(measured)} measured, {gib(manifest.predicted_peak_bytes)} predicted ({error:+.0%})"


def next_words(manifest: Manifest, folder: str, *, goes_on: bool) -> str:
    """The next thing to do with the result; nothing where there is none."""
    if goes_on:
        return f"go on from the checkpoint: cloudtune launch RECIPE --id {manifest.launch_id}"
    if result_folder(manifest) == "adapter":
        return f'peft: PeftModel.from_pretrained(base, "{folder}/adapter")'
    if not result_folder(manifest):
        return ""
    return f'transformers: AutoModelForCausalLM.from_pretrained("{folder}/{result_folder(manifest)}")'
